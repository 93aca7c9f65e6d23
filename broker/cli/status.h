/* What `status` shows, as one document; and that document as text. */
#ifndef TXB_BROKER_CLI_STATUS_H
#define TXB_BROKER_CLI_STATUS_H

#include "broker/cli/cli.h"

/* {"sources": [...], "groups": [...], "jobs": [...], "failed_jobs": [...], "sagas": [...], "problems": [...]}; a job as `replay show` has
 * it, one about failed messages as `failed jobs` has it. */
struct txb_status {
  json_t *document, *sources, *groups, *jobs, *failed_jobs, *sagas, *problems;
  const char *brokers; /* of the cluster that was asked for the lag; borrowed from the settings */
  int code;            /* exit code of the first problem, PostgreSQL before Kafka */
};

/* Adds a problem and tells it; the first one decides the exit code. */
void txb_status_problem(struct txb_status *status, const struct txb_error *err);

/* One database to look at. */
struct txb_status_target {
  const char *uri;
  const char **sources; /* names that the configuration gives to its outbox */
  size_t source_count;
  bool worker; /* a group of the configuration works on it: its groups must be readable */
  bool groups; /* its groups are shown if they are readable */
};
/* Adds what stands in one database. */
enum txb_rc txb_status_database(struct txb_status *status, struct txb_pg *pg, const struct txb_status_target *target,
                                struct txb_error *err) TXB_MUST_CHECK;
/* The sagas under way in a database, if it is a coordinator's. */
enum txb_rc txb_status_sagas_add(struct txb_status *status, struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;
void txb_status_sagas_print(const struct txb_status *status, const struct txb_cli *cli);
void txb_status_print(const struct txb_status *status, const struct txb_cli *cli);

#endif
