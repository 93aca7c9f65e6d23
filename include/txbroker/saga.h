/* Sagas: starting one inside your own transaction, on your own connection, and waiting for its end.
 *
 * The saga is there if and only if your transaction commits. Nothing here talks to Kafka, begins or ends a transaction, or keeps state between
 * calls. What sagas are: docs/guides/sagas.md.
 *
 *     PQexec(conn, "BEGIN");  ... your own work ...
 *     char id[37];
 *     if (txb_saga_start(conn, &(struct txb_saga_order){.name = "trip", .input_json = "{\"seat\": \"12A\"}", .key = "order-42"}, id, &err) != TXB_OK)
 *       { ROLLBACK, err.message }
 *     PQexec(conn, "COMMIT");
 *     struct txb_saga_result *result;
 *     if (txb_saga_wait(conn, id, 5000, &result, &err) == TXB_OK && txb_saga_result_state(result) == TXB_SAGA_RESULT_COMPLETED) ...
 *     txb_saga_result_free(result);
 */
#ifndef TXBROKER_SAGA_H
#define TXBROKER_SAGA_H

#include <libpq-fe.h>
#include <stdint.h>

#include "txbroker/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to start. All texts are UTF-8, and so must be the connection's client_encoding. */
struct txb_saga_order {
  const char *name;       /* of a saga that is deployed in this database, or at the coordinator */
  const char *input_json; /* NULL: {} */
  const char
      *key; /* NULL, or 1 to 1,024 bytes: a repeated start of that name gives the first saga's id, and starts nothing */
  int64_t deadline_ms;     /* 0: the definition's; else then it turns back, unless its pivot took effect */
  const char *reply_topic; /* NULL: the definition's; else where its end is told */
  const char *
      coordinator; /* NULL: of this database; else the topic of a coordinator with another one: the start travels through this outbox, and what
                              is wrong with it is told by the saga's end */
};

/* Writes a start. id_out gets the saga's id as 36 characters and a NUL. Waits for the server's answer. Thread: the connection's, which must not be in
 * pipeline mode. Return codes and what to do are those of txb_publish (outbox.h); TXB_REFUSED also: there is no such saga, its input breaks the
 * schema, or no coordinator has run here. */
TXB_EXPORT enum txb_rc txb_saga_start(PGconn *conn, const struct txb_saga_order *order, char id_out[37],
                                      struct txb_error *err) TXB_MUST_CHECK;

enum txb_saga_result_state {
  TXB_SAGA_RESULT_UNKNOWN = 0, /* there is none of that id; or its start has not come to its coordinator yet */
  TXB_SAGA_RESULT_RUNNING,     /* ask again, by the same id */
  TXB_SAGA_RESULT_COMPLETED,
  TXB_SAGA_RESULT_COMPENSATED, /* nothing of it stands, but for what a person let stand: the reason says so */
  TXB_SAGA_RESULT_REFUSED,     /* it never began */
};
struct txb_saga_result;

/* Looks until the saga has ended or timeout_ms are over (0: looks once), at growing distances of 2 to 100 ms. On a connection to the coordinator's
 * database that is in no transaction: inside one it might see nothing of what comes. Blocks the calling thread.
 *   TXB_OK       *out is the caller's, to be freed, also when the saga still runs
 *   TXB_REFUSED  id is no UUID, the connection is in a transaction or in pipeline mode, or no permission
 *   TXB_RETRY    connection lost, or the server shuts down: call again on a new one
 *   TXB_FATAL    out of memory */
TXB_EXPORT enum txb_rc txb_saga_wait(PGconn *conn, const char *id, int timeout_ms, struct txb_saga_result **out,
                                     struct txb_error *err) TXB_MUST_CHECK;
TXB_EXPORT enum txb_saga_result_state txb_saga_result_state(const struct txb_saga_result *result);
/* JSON text of what it gave, and why it was compensated or refused. NULL: nothing. They live as long as the result. */
TXB_EXPORT const char *txb_saga_result_output(const struct txb_saga_result *result);
TXB_EXPORT const char *txb_saga_result_reason(const struct txb_saga_result *result);
TXB_EXPORT void txb_saga_result_free(struct txb_saga_result *result); /* NULL is allowed */

#ifdef __cplusplus
}
#endif
#endif
