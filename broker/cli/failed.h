/* What the commands about failed messages share: which database, which messages, what the server answers. */
#ifndef TXB_BROKER_CLI_FAILED_H
#define TXB_BROKER_CLI_FAILED_H

#include "broker/cli/targets.h"

/* Options of the commands, for the table. */
extern const struct txb_option txb_failed_list_options[], txb_failed_show_options[], txb_failed_retry_options[],
    txb_failed_discard_options[], txb_failed_edit_options[], txb_failed_copy_options[], txb_failed_jobs_options[],
    txb_failed_resume_options[], txb_failed_cancel_options[], txb_audit_list_options[];

#define TXB_FAILED_CHUNK 500 /* messages of a filter that are decided on in one transaction; more are a job */

/* ---- which (failed_filter.c) ------------------------------------------------------------------------------ */
/* The flags as the filter of txb.failed_find; operands as its numbers. *flags_out tells how many there are besides
 * --group and --source, which choose a database too. TXB_REFUSED (usage). */
enum txb_rc txb_failed_filter(const struct txb_args *args, json_t **out, size_t *flags_out,
                              struct txb_error *err) TXB_MUST_CHECK;
/* The number of a `what` ("job") in a text; the message names the command that lists them. */
enum txb_rc txb_number_parse(const char *text, const char *what, const char *list, int64_t *out,
                             struct txb_error *err) TXB_MUST_CHECK;
/* Operands as numbers. */
enum txb_rc txb_failed_numbers(const struct txb_args *args, int64_t **out, struct txb_error *err) TXB_MUST_CHECK;
/* The databases to look at: --database, else those of --group or --source, else all of the configuration. */
enum txb_rc txb_failed_targets(const struct txb_cli *cli, struct txb_targets *out,
                               struct txb_error *err) TXB_MUST_CHECK;
/* Of these, the one that a number or a decision is about; TXB_REFUSED (usage) when there are several. */
enum txb_rc txb_failed_one_target(const struct txb_cli *cli, const struct txb_targets *targets, const char **uri_out,
                                  struct txb_error *err) TXB_MUST_CHECK;

/* ---- the server (failed_store.c) -------------------------------------------------------------------------- */
/* Connects, and checks the schema. */
enum txb_rc txb_failed_connect(const struct txb_cli *cli, const char *uri, struct txb_pg **out,
                               struct txb_error *err) TXB_MUST_CHECK;
/* The same for a command that catches signals: stop_fd (of txb_signals_open) ends every wait. */
enum txb_rc txb_failed_connect_until(const struct txb_cli *cli, const char *uri, int stop_fd, struct txb_pg **out,
                                     struct txb_error *err) TXB_MUST_CHECK;
/* One question to the server: a missing right names the role that has it, what it refuses is the user's to correct.
 * Also the commands about jobs ask so. Ends the parameters in every case. */
enum txb_rc txb_failed_ask(struct txb_pg *pg, const struct txb_pg_statement *statement, struct txb_pg_params *params,
                           const char *role, struct txb_pg_result **out, struct txb_error *err) TXB_MUST_CHECK;
/* Null for 0: from the start. */
void txb_failed_add_after(struct txb_pg_params *params, int64_t after);
/* A jsonb cell (null: JSON's null); the first column of all rows as an array. Owned by the caller. */
json_t *txb_failed_json(const struct txb_pg_result *rows, int row, int column);
json_t *txb_failed_json_rows(const struct txb_pg_result *rows);
#define TXB_FAILED_PAGE_MAX 10000 /* rows that the server gives at once */
/* What a list says of a page that is empty, after a number; of jobs and decisions too. */
#define TXB_FAILED_PAST_END "no more follow: nothing is left after %lld\n"
/* Pages of messages as a JSON array; after 0: from the start. With *more_out, whether more follow. */
enum txb_rc txb_failed_find(struct txb_pg *pg, const json_t *filter, int64_t after, int page, json_t **out,
                            struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_failed_find_page(struct txb_pg *pg, const json_t *filter, int64_t after, int page, json_t **out,
                                 bool *more_out, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_failed_count(struct txb_pg *pg, const json_t *filter, const char *by, int top, json_t **out,
                             struct txb_error *err) TXB_MUST_CHECK;
/* {"dead": 3, ...} and their sum. */
enum txb_rc txb_failed_states(struct txb_pg *pg, const json_t *filter, json_t **out, int64_t *total_out,
                              struct txb_error *err) TXB_MUST_CHECK;
/* All numbers that match, in order; the caller frees them. */
enum txb_rc txb_failed_all_numbers(struct txb_pg *pg, const json_t *filter, int64_t **out, size_t *count_out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* Everything about one; the bytes lie in *row_out, which the caller frees. */
struct txb_failed_message {
  json_t *message, *history, *editions, *behind_first; /* owned */
  struct txb_slice key, payload;
  int64_t head, behind; /* head 0: it waits behind none */
  bool waits_in_outbox;
  struct txb_pg_result *row;
};
enum txb_rc txb_failed_show(struct txb_pg *pg, int64_t number, struct txb_failed_message *out,
                            struct txb_error *err) TXB_MUST_CHECK;
void txb_failed_message_fini(struct txb_failed_message *m);

enum txb_failed_verb { TXB_FAILED_RETRY, TXB_FAILED_DISCARD, TXB_FAILED_EDIT, TXB_FAILED_COPY };
struct txb_failed_decision {
  enum txb_failed_verb verb;
  const char *person, *reason;
  const json_t *filter;
  const json_t *changes; /* of an edit, as of txb.failed_edit_many; else NULL */
  const char *to_topic;  /* of a copy; else NULL */
};
/* One transaction; adds {"number", "done", "state", "why"} per message to `results`, of an edit with "new_number" and
 * "new_id". */
enum txb_rc txb_failed_decide(struct txb_pg *pg, const struct txb_failed_decision *d, const int64_t *numbers,
                              size_t count, json_t *results, struct txb_error *err) TXB_MUST_CHECK;
/* TXB_REFUSED: the changes of an edit can be made to no message. Changes nothing. */
enum txb_rc txb_failed_check_changes(struct txb_pg *pg, const json_t *changes, struct txb_error *err) TXB_MUST_CHECK;
struct txb_failed_edition {
  struct txb_slice payload;
  const char *content_type;
  const json_t *headers; /* NULL: none */
  const char *person, *reason;
  const json_t *filter;
};
/* The same for one new edition, with "new_number" and "new_id". */
enum txb_rc txb_failed_edit(struct txb_pg *pg, int64_t number, const struct txb_failed_edition *edition,
                            json_t *results, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_audit_list(struct txb_pg *pg, int64_t after, int page, json_t **out, bool *more_out,
                           struct txb_error *err) TXB_MUST_CHECK;
/* Jobs that decide about many (failed_job.c runs them). */
struct txb_failed_begun {
  int64_t number, messages;
  bool served; /* a worker is there that goes on with it */
};
enum txb_rc txb_failed_job_start(struct txb_pg *pg, const struct txb_failed_decision *d, struct txb_failed_begun *out,
                                 struct txb_error *err) TXB_MUST_CHECK;
/* One transaction, and the job as it is after it. TXB_REFUSED: there is none of that number. */
enum txb_rc txb_failed_job_step(struct txb_pg *pg, int64_t number, json_t **job_out,
                                struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_failed_job_cancel(struct txb_pg *pg, int64_t number, const char *reason,
                                  struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_failed_job_list(struct txb_pg *pg, int64_t after, int page, json_t **out,
                                struct txb_error *err) TXB_MUST_CHECK;
/* Who runs this program, for history and audit. Static storage. */
const char *txb_person(void);

/* ---- printing (failed_print.c) ---------------------------------------------------------------------------- */
/* Compact or indented as asked for, everything but ASCII escaped. */
void txb_failed_print_json(const struct txb_cli *cli, const json_t *value);
/* A cell of foreign text, made safe and at most so wide. */
void txb_failed_cell(struct txb_table *table, const json_t *object, const char *name, size_t width_max);
void txb_failed_print_table(const struct txb_cli *cli, const json_t *messages, int indent);
/* "3 dead, 1 held" */
void txb_failed_states_text(const json_t *states, struct txb_buffer *out);
const char *txb_failed_text(const json_t *object, const char *name);   /* NULL: none */
json_int_t txb_failed_integer(const json_t *object, const char *name); /* 0: none */
/* "txbroker --config FILE failed show 17": another command ("failed show") about a message or a job, called as this one
 * was, without what might hold a secret. */
void txb_failed_called(const struct txb_cli *cli, const char *command, json_int_t number, struct txb_buffer *out);
/* The same as a line of its own, with `more` behind it. */
void txb_failed_print_called(const struct txb_cli *cli, const char *command, json_int_t number, const char *more);

/* ---- deciding (failed_decide.c) --------------------------------------------------------------------------- */
/* What a command that changes something was told to work on. */
struct txb_failed_choice {
  struct txb_pg *pg;
  json_t *filter;
  bool may_be_job; /* set by the command: more than one transaction takes are not listed here, see is_job */
  bool is_job;
  int64_t *numbers;
  size_t count;
  int code;              /* when there is nothing to do */
  const char *to_topic;  /* of a copy; else NULL */
  const json_t *changes; /* of an edit without an editor: what the server checks on a dry run; else NULL */
};
/* Finds the messages of the command line; with --dry-run shows what would be done with them, and asks before it goes on
 * with more than one. `states`: what a filter without --state means. *go_out false: it is done, with choice->code. */
enum txb_rc txb_failed_choose(struct txb_cli *cli, enum txb_failed_verb verb, const json_t *states,
                              struct txb_failed_choice *choice, bool *go_out, struct txb_error *err) TXB_MUST_CHECK;
void txb_failed_choice_fini(struct txb_failed_choice *choice);
/* What a verb is called, what it did to one message, and to many: "retry", "is due now", "retried". */
struct txb_failed_words {
  const char *verb, *one, *many;
};
const struct txb_failed_words *txb_failed_words_of(enum txb_failed_verb verb);
/* Decides about the choice's messages: in one transaction, or by a job if they are too many; prints what became of them. */
enum txb_rc txb_failed_carry_out(const struct txb_cli *cli, const struct txb_failed_choice *choice,
                                 const struct txb_failed_decision *d, int *code_out,
                                 struct txb_error *err) TXB_MUST_CHECK;
/* Prints what became of each; gives the exit code. */
int txb_failed_report(const struct txb_cli *cli, const struct txb_failed_words *words, const json_t *results);

/* The first ten of `refused` ({"number", "why"}) on standard error, and how many of `total` are not shown. */
void txb_failed_say_refused(const json_t *refused, size_t total);

/* ---- jobs (failed_job.c) ---------------------------------------------------------------------------------- */
/* Starts a job with the messages of the choice's filter and runs it to its end, or leaves it to workers (--detach). */
enum txb_rc txb_failed_job_begin(const struct txb_cli *cli, const struct txb_failed_choice *choice,
                                 const struct txb_failed_decision *d, int *code_out,
                                 struct txb_error *err) TXB_MUST_CHECK;
/* Runs steps of a job until it has ended, by whomever, and prints what became of its messages. */
enum txb_rc txb_failed_job_run(const struct txb_cli *cli, struct txb_pg *pg, int64_t number, int *code_out,
                               struct txb_error *err) TXB_MUST_CHECK;
/* What a job does, in a cell: "copy to letters". */
void txb_failed_job_verb_cell(struct txb_table *table, const json_t *job);
void txb_failed_job_print_table(const struct txb_cli *cli, const json_t *jobs, int indent);

/* ---- the editor (editor.c) -------------------------------------------------------------------------------- */
/* Lets a person edit bytes in a private temporary file with $VISUAL or $EDITOR; *path_out is the file, which the caller
 * removes or keeps, and frees. TXB_REFUSED when there is no editor, or it failed; then the file is gone. */
enum txb_rc txb_editor_run(struct txb_slice before, bool json, struct txb_buffer *after, char **path_out,
                           struct txb_error *err) TXB_MUST_CHECK;

#endif
