/* doctor: checks, each with what was found and what to do.
 *
 *   cmd_doctor.c       the order of the checks, and how they are printed
 *   doctor_postgres.c  what one database says
 *   doctor_kafka.c     the cluster, its topics, and how they fit to groups
 *   doctor_handler.c   functions and plugins
 *   doctor_sagas.c     a coordinator's database
 */
#ifndef TXB_BROKER_CLI_DOCTOR_H
#define TXB_BROKER_CLI_DOCTOR_H

#include "broker/cli/cli.h"
#include "broker/cli/status.h"
#include "common/kafka_inspect.h"

enum txb_health { TXB_HEALTH_OK, TXB_HEALTH_WARN, TXB_HEALTH_FAIL };

struct txb_doctor {
  struct txb_cli *cli;
  json_t *checks; /* {"check", "of", "result", "found", "remedy"} */
  int failures;
  int timeout_ms;
  struct txb_kafka_inspect *kafka; /* NULL: can't be asked */
  json_t *topics;                  /* names seen in outboxes, as keys */
};

/* One check. remedy: NULL where there is nothing to do. */
void txb_doctor_add(struct txb_doctor *d, enum txb_health health, const char *check, const char *of, const char *remedy,
                    const char *found, ...) TXB_PRINTF(6, 7);
/* A check that could not be made, by its error. */
void txb_doctor_add_error(struct txb_doctor *d, const char *check, const char *of, const struct txb_error *err);

/* Everything about one database; *pg_out stays open for the handlers (NULL when it can't be used). */
void txb_doctor_database(struct txb_doctor *d, const struct txb_status_target *target, struct txb_pg **pg_out);
/* Coordinators of the configuration that work on that database, if any. */
enum txb_rc txb_doctor_sagas(struct txb_doctor *d, struct txb_pg *pg, const char *uri,
                             struct txb_error *err) TXB_MUST_CHECK;
/* Whether the user is only there for looking (txb_reader or txb_admin, neither txb_relay nor txb_worker): then what it
 * may do says nothing about the relay's or the worker's user. False when that can't be asked. */
bool txb_doctor_only_looks(struct txb_pg *pg);
/* The group's handler, and its positions against the cluster. */
void txb_doctor_handler(struct txb_doctor *d, const struct txb_group_settings *group, struct txb_pg *pg);
void txb_doctor_positions(struct txb_doctor *d, const struct txb_group_settings *group, struct txb_pg *pg);

void txb_doctor_kafka(struct txb_doctor *d);
/* A topic: there, large enough messages, retention shorter than keep_ms (0: nothing to compare). */
void txb_doctor_topic(struct txb_doctor *d, const char *topic, const char *of, int64_t keep_ms);

#endif
