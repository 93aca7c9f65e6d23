/* Requests: asking one participant for one thing, inside your own transaction, on your own connection, and waiting for its reply.
 *
 * The request is made if and only if your transaction commits; its effect happens once, whatever comes twice. Nothing here talks to Kafka, begins or
 * ends a transaction, or keeps state between calls. What takes the replies is a worker group of this database: docs/guides/sagas.md.
 *
 *     PQexec(conn, "BEGIN");  ... your own work ...
 *     char id[37];
 *     if (txb_request(conn, &(struct txb_request_order){.topic = "rooms", .type = "room.hold", .input_json = "{\"nights\": 2}"}, id, &err) != TXB_OK)
 *       { ROLLBACK, err.message }
 *     PQexec(conn, "COMMIT");
 *     struct txb_reply *reply;
 *     if (txb_request_wait(conn, id, &reply, &err) == TXB_OK && txb_reply_state(reply) == TXB_REPLY_ANSWERED) ... txb_reply_answer(reply) ...
 *     txb_reply_free(reply);
 */
#ifndef TXBROKER_REQUEST_H
#define TXBROKER_REQUEST_H

#include <libpq-fe.h>
#include <stdint.h>

#include "txbroker/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to ask. All texts are UTF-8, and so must be the connection's client_encoding. */
struct txb_request_order {
  const char *topic;      /* of the participant's group */
  const char *type;       /* of the command */
  const char *input_json; /* NULL: {} */
  const char *
      key; /* NULL, or 1 to 1,024 bytes: a repeated request to that topic gives the first one's id, and sends nothing */
  int64_t timeout_ms;   /* 0: 30 seconds; after that a reply is too late */
  const char *reply_to; /* NULL: where txb.reply_topic_set said */
};

/* Writes a request. id_out gets its id as 36 characters and a NUL. Waits for the server's answer. Thread: the connection's, which must not be in
 * pipeline mode. Return codes and what to do are those of txb_publish (outbox.h); TXB_REFUSED also: nobody has said where replies go. */
TXB_EXPORT enum txb_rc txb_request(PGconn *conn, const struct txb_request_order *order, char id_out[37],
                                   struct txb_error *err) TXB_MUST_CHECK;

enum txb_reply_state {
  TXB_REPLY_UNKNOWN = 0, /* there is no request of that id, or it was forgotten: a week after its time was over */
  TXB_REPLY_ANSWERED,
  TXB_REPLY_EXPIRED, /* no reply came in time. Whether the effect happened, or still will, is not known: ask its participant, or use a saga */
};
struct txb_reply;

/* Looks until the reply is there or the request's time is over, at growing distances of 2 to 100 ms. What it says is final. On a connection to the
 * database of the request that is in no transaction, after the request's own was committed. Blocks the calling thread.
 *   TXB_OK       *out is the caller's, to be freed
 *   TXB_REFUSED  id is no UUID, the connection is in a transaction or in pipeline mode, or no permission
 *   TXB_RETRY    connection lost, or the server shuts down: call again on a new one
 *   TXB_FATAL    out of memory */
TXB_EXPORT enum txb_rc txb_request_wait(PGconn *conn, const char *id, struct txb_reply **out,
                                        struct txb_error *err) TXB_MUST_CHECK;
TXB_EXPORT enum txb_reply_state txb_reply_state(const struct txb_reply *reply);
/* "ok", "refused" (a business no, nothing was done), or "undeliverable" (Kafka did not take the request); NULL: it was not answered. Then JSON text of
 * what the participant gave, and why it refused; NULL: nothing. They live as long as the reply. */
TXB_EXPORT const char *txb_reply_answer(const struct txb_reply *reply);
TXB_EXPORT const char *txb_reply_output(const struct txb_reply *reply);
TXB_EXPORT const char *txb_reply_reason(const struct txb_reply *reply);
TXB_EXPORT void txb_reply_free(struct txb_reply *reply); /* NULL is allowed */

#ifdef __cplusplus
}
#endif
#endif
