/* What every command gets, and how results and messages leave the program: results on standard output, messages on
 * standard error. */
#ifndef TXB_BROKER_CLI_CLI_H
#define TXB_BROKER_CLI_CLI_H

#include <jansson.h>

#include "broker/cli/command.h"
#include "common/buffer.h"
#include "common/kafka.h"
#include "common/pg.h"
#include "common/settings.h"

enum txb_output { TXB_OUTPUT_TEXT, TXB_OUTPUT_JSON, TXB_OUTPUT_JSONL };

struct txb_cli {
  struct txb_args args;
  struct txb_settings settings;
  enum txb_output output;
  bool color;    /* standard output is a terminal and NO_COLOR is not set */
  bool progress; /* standard error is a terminal and the output is text */
};

/* Exit codes of DESIGN 11. */
enum {
  TXB_EXIT_DONE = 0,
  TXB_EXIT_FAILED = 1,
  TXB_EXIT_USAGE = 2,
  TXB_EXIT_POSTGRES = 3,
  TXB_EXIT_KAFKA = 4,
  TXB_EXIT_SAFETY = 5
};

/* ---- results --------------------------------------------------------------------------------------------- */
void txb_print(const char *fmt, ...) TXB_PRINTF(1, 2);
/* Bytes to standard output. */
void txb_print_bytes(const void *data, size_t size);
void txb_print_buffer(struct txb_buffer *b);
/* A document: indented for json, on one line for jsonl. */
void txb_print_json(const struct txb_cli *cli, const json_t *value);
/* Writes out what is buffered; false (with a message, once) when standard output did not take it all. Called at the end
 * by main, and earlier where what follows depends on it. */
bool txb_print_flush(void);

/* ---- messages -------------------------------------------------------------------------------------------- */
/* "txbroker: text" on standard error. */
void txb_say(const char *fmt, ...) TXB_PRINTF(1, 2);
/* What to do about an error of this origin, for messages that don't say it themselves. Static storage. */
const char *txb_next_step(const struct txb_error *err);
/* The message of an error, with the next step; gives the exit code that belongs to it. */
int txb_fail(const struct txb_error *err);
/* Whether a person sits at the terminal who can be asked. */
bool txb_can_ask(void);
/* Asks that person; true for y. */
bool txb_ask_yes(const char *fmt, ...) TXB_PRINTF(1, 2);
/* One line that overwrites itself, only where cli->progress; NULL clears it. */
void txb_progress(const struct txb_cli *cli, const char *text);

/* ---- tables ---------------------------------------------------------------------------------------------- */
enum txb_align { TXB_LEFT, TXB_RIGHT };
struct txb_column {
  const char *title;
  enum txb_align align;
};
/* Rows of texts, aligned when printed. Cells are copied. */
struct txb_table {
  const struct txb_column *columns;
  size_t column_count, cell_count, capacity;
  char **cells;
  bool failed; /* no memory: rows are missing */
};
void txb_table_init(struct txb_table *t, const struct txb_column *columns, size_t count);
void txb_table_fini(struct txb_table *t);
void txb_table_cell(struct txb_table *t, const char *text); /* NULL: "-" */
void txb_table_cellf(struct txb_table *t, const char *fmt, ...) TXB_PRINTF(2, 3);
/* indent: spaces before each line. Titles are bold where color is on. */
void txb_table_print(const struct txb_table *t, const struct txb_cli *cli, int indent);
/* "12.3 s", "4 min", "3 h", "2 d" */
void txb_format_age(int64_t ms, char out[24]);
/* Colours a word if cli->color: "\033[31m" and so on, "" without. */
const char *txb_color(const struct txb_cli *cli, const char *code);

/* ---- settings -------------------------------------------------------------------------------------------- */
/* The cluster of the settings; client_id must live as long as the result. */
struct txb_kafka_cluster txb_cli_cluster(const struct txb_cli *cli, const char *client_id);
/* TXB_REFUSED (usage) when no brokers are set. */
enum txb_rc txb_cli_need_brokers(const struct txb_cli *cli, struct txb_error *err) TXB_MUST_CHECK;
/* The one database a command works on: --database, else the only source, else the only worker's database. Borrowed
 * from the settings. */
enum txb_rc txb_cli_database(const struct txb_cli *cli, const char **uri_out, struct txb_error *err) TXB_MUST_CHECK;
/* --database stands for the only source (made when there is none), for `worker` for the only group's database; with
 * several it stands for itself. Groups without a database get it with every command. */
enum txb_rc txb_cli_apply_database(struct txb_cli *cli, struct txb_error *err) TXB_MUST_CHECK;
/* Connects to it for a command: application name "txbroker COMMAND". */
enum txb_rc txb_cli_connect(const struct txb_cli *cli, const char *uri, struct txb_pg **out,
                            struct txb_error *err) TXB_MUST_CHECK;
/* The same for publish, which a pooler may stand before: with nothing but what every pooler lets through. */
enum txb_rc txb_cli_connect_to_publish(const struct txb_cli *cli, const char *uri, struct txb_pg **out,
                                       struct txb_error *err) TXB_MUST_CHECK;
/* The same with a name of its own, for commands that catch signals: stop_fd (of txb_signals_open) ends every wait. */
enum txb_rc txb_cli_connect_as(const char *uri, const char *name, int stop_fd, struct txb_pg **out,
                               struct txb_error *err) TXB_MUST_CHECK;

/* The commands. */
int txb_cmd_init(struct txb_cli *cli);
int txb_cmd_doctor(struct txb_cli *cli);
int txb_cmd_status(struct txb_cli *cli);
int txb_cmd_config(struct txb_cli *cli);
int txb_cmd_dev(struct txb_cli *cli);
int txb_cmd_demo(struct txb_cli *cli);
int txb_cmd_relay(struct txb_cli *cli);
int txb_cmd_worker(struct txb_cli *cli);
int txb_cmd_run(struct txb_cli *cli);
int txb_cmd_publish(struct txb_cli *cli);
int txb_cmd_tail(struct txb_cli *cli);
int txb_cmd_failed_list(struct txb_cli *cli);
int txb_cmd_failed_show(struct txb_cli *cli);
int txb_cmd_failed_retry(struct txb_cli *cli);
int txb_cmd_failed_edit(struct txb_cli *cli);
int txb_cmd_failed_discard(struct txb_cli *cli);
int txb_cmd_failed_copy(struct txb_cli *cli);
int txb_cmd_failed_jobs(struct txb_cli *cli);
int txb_cmd_failed_resume(struct txb_cli *cli);
int txb_cmd_failed_cancel(struct txb_cli *cli);
int txb_cmd_failed_states(struct txb_cli *cli);
int txb_cmd_replay_plan(struct txb_cli *cli);
int txb_cmd_replay_start(struct txb_cli *cli);
int txb_cmd_replay_list(struct txb_cli *cli);
int txb_cmd_replay_show(struct txb_cli *cli);
int txb_cmd_replay_pause(struct txb_cli *cli);
int txb_cmd_replay_resume(struct txb_cli *cli);
int txb_cmd_replay_cancel(struct txb_cli *cli);
int txb_cmd_replay_rate(struct txb_cli *cli);
int txb_cmd_replay_states(struct txb_cli *cli);
int txb_cmd_audit_list(struct txb_cli *cli);
int txb_cmd_completion(struct txb_cli *cli);
int txb_cmd_man(struct txb_cli *cli);
int txb_cmd_help(struct txb_cli *cli);
int txb_cmd_version(struct txb_cli *cli);

#endif
