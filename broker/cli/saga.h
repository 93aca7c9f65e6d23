/* What the commands about sagas share.
 *
 *   saga_options.c     the options, for the table, and JSON that comes with them
 *   saga_store.c       what the coordinator's database is asked
 *   saga_check.c       what a definition needs of servers
 *   saga_nested.c      steps that are sagas
 *   saga_replay.c      its states and times, which follow from its events
 *   saga_view.c        one saga for people: its timeline, its drawing with states
 *   cmd_saga_deploy.c, cmd_saga_start.c (and wait), cmd_saga_list.c, cmd_saga_show.c, cmd_saga_decide.c, cmd_saga_locks.c,
 *   cmd_saga_states.c
 */
#ifndef TXB_BROKER_CLI_SAGA_H
#define TXB_BROKER_CLI_SAGA_H

#include "broker/cli/failed.h"
#include "broker/saga/instance.h"
#include "common/json_place.h"

extern const struct txb_option txb_saga_deploy_options[], txb_saga_start_options[], txb_saga_wait_options[],
    txb_saga_list_options[], txb_saga_show_options[], txb_saga_retry_options[], txb_saga_mark_options[],
    txb_saga_cancel_options[], txb_saga_skip_options[], txb_saga_edit_options[], txb_saga_locks_options[],
    txb_saga_states_options[];

/* ---- what options bring (saga_options.c) ---- */
/* TXB_REFUSED (usage): the text is no JSON. what: it is called so. */
enum txb_rc txb_saga_json_check(const struct txb_buffer *text, const char *what, struct txb_error *err) TXB_MUST_CHECK;

/* ---- the server (saga_store.c) ---- */
/* The coordinator's database: --database, else that of the only group with a coordinator. TXB_REFUSED (usage): there are none,
 * or several. */
enum txb_rc txb_saga_database(const struct txb_cli *cli, const char **uri_out, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_saga_connect(const struct txb_cli *cli, int stop_fd, struct txb_pg **out,
                             struct txb_error *err) TXB_MUST_CHECK;
/* The saga's id in a text. TXB_REFUSED (usage). */
enum txb_rc txb_saga_id_parse(const char *text, struct txb_uuid *out, struct txb_error *err) TXB_MUST_CHECK;
/* {"saga", "state", ...}. */
enum txb_rc txb_saga_result(struct txb_pg *pg, const struct txb_uuid *id, json_t **out,
                            struct txb_error *err) TXB_MUST_CHECK;
bool txb_saga_result_is_final(const json_t *result);
/* Looks until the saga has ended or the time is over; the last look is *out. until_us: steady; INT64_MAX: no end. */
enum txb_rc txb_saga_await(struct txb_pg *pg, const struct txb_uuid *id, int64_t until_us, int stop_fd, json_t **out,
                           struct txb_error *err) TXB_MUST_CHECK;
/* Prints a result; gives the exit code: 0 completed, 1 anything else. */
int txb_saga_print_result(const struct txb_cli *cli, const json_t *result);

struct txb_saga_shown {
  json_t *saga, *events;                  /* owned */
  struct txb_saga_definition *definition; /* NULL: it was refused, or this program can't read it */
};
enum txb_rc txb_saga_show(struct txb_pg *pg, const struct txb_uuid *id, struct txb_saga_shown *out,
                          struct txb_error *err) TXB_MUST_CHECK;
void txb_saga_shown_fini(struct txb_saga_shown *shown);

/* ---- what a definition needs of servers (saga_check.c) ---- */
/* TXB_REFUSED (usage): file, line and place, then what is wrong with it. */
enum txb_rc txb_saga_refuse_at(const struct txb_json_document *document, const struct txb_json_step *path, size_t depth,
                               struct txb_error *err, const char *fmt, ...) TXB_PRINTF(5, 6);
/* Whether its topics are there; there must be brokers. TXB_REFUSED (usage): one is not. */
enum txb_rc txb_saga_check_topics(const struct txb_cli *cli, const struct txb_json_document *document,
                                  const struct txb_saga_definition *definition, struct txb_error *err) TXB_MUST_CHECK;
/* Whether the coordinator's database can check its schemas, and no topic is the coordinator's own. coordinator_topic: as the
 * configuration has it; NULL: it has none. TXB_REFUSED (usage). */
enum txb_rc txb_saga_check_database(struct txb_pg *pg, const struct txb_json_document *document,
                                    const struct txb_saga_definition *definition, const char *coordinator_topic,
                                    struct txb_error *err) TXB_MUST_CHECK;

/* ---- steps that are sagas (saga_nested.c) ---- */
/* Whether they are deployed and fit, and fills in their versions. TXB_REFUSED (usage): by file and line, with what to do. */
enum txb_rc txb_saga_check_nested(struct txb_pg *pg, const char *file_name, struct txb_slice text,
                                  struct txb_saga_definition *definition, struct txb_error *err) TXB_MUST_CHECK;
/* Fills in the versions that are kept with a deployed one: JSON text. */
enum txb_rc txb_saga_pin(struct txb_saga_definition *definition, struct txb_slice pins,
                         struct txb_error *err) TXB_MUST_CHECK;

/* ---- what follows from its events (saga_replay.c) ---- */
/* Adds "state" where it has not ended, "steps" with how often something was sent for them and how long that took, and
 * "next_timer"; to events "took_ms" where they are a step's outcome, "timer_ms" where they set the timer (since the start),
 * "late_ms" where it came. By replaying them. */
enum txb_rc txb_saga_view_states(struct txb_saga_shown *shown, struct txb_error *err) TXB_MUST_CHECK;

/* ---- one saga for people (saga_view.c) ---- */
enum txb_rc txb_saga_view_print(const struct txb_cli *cli, const struct txb_saga_shown *shown,
                                struct txb_error *err) TXB_MUST_CHECK;
/* An event in one line, or two: the message's id has its own where it does not fit. before: the event told before it, NULL: none;
 * the id of a message that has been told is not repeated. */
void txb_saga_view_event(const json_t *event, const json_t *before, struct txb_buffer *out);

int txb_cmd_saga_deploy(struct txb_cli *cli);
int txb_cmd_saga_start(struct txb_cli *cli);
int txb_cmd_saga_wait(struct txb_cli *cli);
int txb_cmd_saga_list(struct txb_cli *cli);
int txb_cmd_saga_show(struct txb_cli *cli);
int txb_cmd_saga_retry(struct txb_cli *cli);
int txb_cmd_saga_edit(struct txb_cli *cli);
int txb_cmd_saga_skip(struct txb_cli *cli);
int txb_cmd_saga_mark(struct txb_cli *cli);
int txb_cmd_saga_cancel(struct txb_cli *cli);
int txb_cmd_saga_locks(struct txb_cli *cli);
int txb_cmd_saga_states(struct txb_cli *cli);

#endif
