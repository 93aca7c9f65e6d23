/* The databases of a configuration, each once, with what it is used for: for `status` and `doctor`. */
#ifndef TXB_BROKER_CLI_TARGETS_H
#define TXB_BROKER_CLI_TARGETS_H

#include "broker/cli/cli.h"
#include "broker/cli/status.h"

struct txb_targets {
  struct txb_status_target *items;
  size_t count;
};

/* TXB_REFUSED (usage) when the configuration names no database. */
enum txb_rc txb_targets_init(struct txb_targets *targets, const struct txb_cli *cli,
                             struct txb_error *err) TXB_MUST_CHECK;
void txb_targets_fini(struct txb_targets *targets);
/* Only this one. */
enum txb_rc txb_targets_one(struct txb_targets *targets, const char *uri, struct txb_error *err) TXB_MUST_CHECK;
/* A database that is reached as different users is one: the first of them. */
void txb_targets_merge(struct txb_targets *targets);
/* The group of that name in the configuration; NULL: it has none. */
const struct txb_group_settings *txb_targets_group(const struct txb_settings *settings, const char *name);
/* The source of that name; NULL: none. */
const struct txb_source_settings *txb_targets_source(const struct txb_settings *settings, const char *name);
/* Connects with a bounded time for connecting and for each statement. */
enum txb_rc txb_target_connect(const struct txb_cli *cli, const char *uri, int timeout_ms, struct txb_pg **out,
                               struct txb_error *err) TXB_MUST_CHECK;
/* The same with the user's own search_path, which says what an unqualified handler name means. For that question only:
 * with it others' objects may stand in for the server's. */
enum txb_rc txb_target_connect_as_worker(const struct txb_cli *cli, const char *uri, int timeout_ms,
                                         struct txb_pg **out, struct txb_error *err) TXB_MUST_CHECK;
/* The server gave up a question after --timeout: a lock is held, or it has too much to do. */
bool txb_target_timed_out(const struct txb_error *err);
/* An error of a question to that database: names the database, and tells a question that ran into the timeout from one
 * that was refused. Returns err->rc. */
enum txb_rc txb_target_explain(const char *database, int timeout_ms, struct txb_error *err);
/* Whether the topic of --to-topic is there: what is written for one that is not waits in the outbox until somebody makes it.
 * Without brokers nobody can be asked. TXB_REFUSED (usage): it is not; TXB_RETRY: Kafka gives no answer. */
enum txb_rc txb_target_topic(const struct txb_cli *cli, const char *client, const char *topic,
                             struct txb_error *err) TXB_MUST_CHECK;
/* --timeout SECONDS, 5 by default. */
enum txb_rc txb_targets_timeout(const struct txb_cli *cli, int *timeout_ms_out, struct txb_error *err) TXB_MUST_CHECK;

#endif
