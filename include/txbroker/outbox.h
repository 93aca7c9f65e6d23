/* Publishing: writing intents into txb.outbox inside your own transaction, on your own connection.
 *
 * The intent becomes a Kafka message if and only if your transaction commits. Nothing here talks to Kafka, begins or ends a transaction, or keeps
 * state between calls. Publish after you have taken the row lock that orders the key (for an account: after the UPDATE of its row), or set
 * strict_order: then messages of one key arrive in the order in which their transactions committed.
 *
 *     PQexec(conn, "BEGIN");  ... your own work ...
 *     struct txb_error err;
 *     if (txb_publish(conn, &(struct txb_intent){.topic = "transfers", .key = txb_bytes("42"), .type = "transfer.made",
 *                                                .payload = txb_bytes("{\"amount\": 7}")}, NULL, &err) != TXB_OK) { ROLLBACK, err.message }
 *     PQexec(conn, "COMMIT");
 */
#ifndef TXBROKER_OUTBOX_H
#define TXBROKER_OUTBOX_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "txbroker/error.h"
#include "txbroker/slice.h"

#ifdef __cplusplus
extern "C" {
#endif

struct txb_intent {
  const char *topic;        /* Kafka topic: 1 to 249 of [a-zA-Z0-9._-] */
  struct txb_slice key;     /* UTF-8 text up to 1,024 bytes; absent: no order, any partition */
  const char *type;         /* CloudEvents type, 1 to 255 bytes */
  struct txb_slice payload; /* up to 1,000,000 bytes; absent: a message without a value */
  const char *content_type; /* NULL: "application/json"; the payload must then be valid JSON */
  const char *
      headers_json; /* NULL, or a JSON object of strings: up to 32 headers, 16,384 bytes; names of [a-z0-9_-], not starting with ce_ */
  const char *id;        /* NULL: a new UUIDv7; else 36 characters, version 7 */
  int64_t not_before_us; /* 0: now; else microseconds since 1970: not published before */
  bool strict_order;     /* takes a transaction-level advisory lock on (topic, key) before the sequence number */
};

static inline struct txb_slice txb_bytes(const char *text) {
  struct txb_slice s = {text, text == NULL ? 0 : strlen(text)};
  return s;
}

/* Writes one intent. id_out (may be NULL) gets its id as 36 characters and a NUL. Waits for the server's answer. Thread: the connection's.
 *   TXB_OK       written; it is published if your transaction commits
 *   TXB_REFUSED  a limit or a name is wrong (message names the field), conn is NULL or in pipeline mode, its client_encoding is not UTF8, the
 *                transaction is already aborted, or no permission: roll back
 *   TXB_RETRY    connection lost, server shutting down or out of room or memory (53*), deadlock (40*), lock_timeout (55P03), cancelled or
 *                statement_timeout (57014): roll back and run your transaction again, on a new connection if PQstatus says so; sqlstate tells which.
 *                After 25006 only a server that is promoted meanwhile, or a transaction that is not READ ONLY, helps: give up after some tries
 *   TXB_FATAL    out of memory, or libpq failed on this side: close the connection
 * Outside a transaction block the intent is a transaction of its own. The connection must not be in pipeline mode.
 *
 * Text is UTF-8, so the connection's client_encoding must be UTF8: PQsetClientEncoding(conn, "UTF8"). SQL_ASCII does in a database whose encoding
 * is UTF8 or SQL_ASCII, since the server then takes bytes as they are. */
TXB_EXPORT enum txb_rc txb_publish(PGconn *conn, const struct txb_intent *intent, char id_out[37],
                                   struct txb_error *err) TXB_MUST_CHECK;

/* Writes many in one round trip and one statement, in this order; all or none. ids_out (may be NULL) has room for count * 37. Thread, return codes
 * and transaction as above; a message of TXB_REFUSED begins with the row ("row 3: ...", counted from 1). One call takes up to 900 MiB, as
 * one of txb_publish does. count 0 does nothing and is TXB_OK. */
TXB_EXPORT enum txb_rc txb_publish_many(PGconn *conn, const struct txb_intent *intents, size_t count,
                                        char (*ids_out)[37], struct txb_error *err) TXB_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
