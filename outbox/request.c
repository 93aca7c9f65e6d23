/* Requests from C: txb.request on the caller's connection, in the caller's transaction, and looking for the reply.
 *
 * Nothing is kept here. A crash of the application or of the server leaves the request if and only if the transaction was
 * committed; who waited asks again by its id.
 */
#include "txbroker/request.h"

#include <string.h>

#include "common/loop.h"
#include "common/memory.h"
#include "common/pg.h"
#include "common/uuid.h"
#include "outbox_sql.h"

static const struct txb_pg_statement send_statement = {"request_send", txb_text_request_send},
                                     result_statement = {"request_result", txb_text_request_result};

#define REFUSE(err, ...)   TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define TIMEOUT_MS_DEFAULT INT64_C(30000)
#define LOOK_FIRST_US      INT64_C(2000) /* between two looks, growing by half */
#define LOOK_LONGEST_US    INT64_C(100000)

struct txb_reply {
  enum txb_reply_state state;
  char *answer, *output, *reason;
};

static void close_pg(struct txb_pg **pg) {
  txb_pg_close(*pg); /* gives the borrowed connection back as it is */
}

static enum txb_rc check_texts(const struct txb_request_order *o, struct txb_error *err) {
  const struct {
    const char *field, *text;
  } texts[] = {
      {"topic", o->topic}, {"type", o->type}, {"input", o->input_json}, {"key", o->key}, {"reply_to", o->reply_to}};
  if (o->topic == NULL)
    return REFUSE(err, "topic: NULL; who is to be asked?");
  if (o->type == NULL)
    return REFUSE(err, "type: NULL; what is to be done?");
  if (o->timeout_ms < 0)
    return REFUSE(err, "timeout_ms: %lld; 0 for 30 seconds, or above", (long long)o->timeout_ms);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(texts); i++)
    if (texts[i].text != NULL && !txb_slice_is_text(txb_slice_text(texts[i].text)))
      return REFUSE(err, "%s: not UTF-8 text", texts[i].field);
  return TXB_OK;
}

enum txb_rc txb_request(PGconn *conn, const struct txb_request_order *order, char id_out[37], struct txb_error *err) {
  TXB_CLEANUP(close_pg) struct txb_pg *pg = NULL;
  TXB_CLEANUP(txb_pg_params_fini) struct txb_pg_params p;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  struct txb_uuid id;
  txb_pg_params_init(&p);
  TXB_TRY(check_texts(order, err));
  TXB_TRY(txb_pg_borrow(conn, &pg, err));
  TXB_TRY(txb_pg_utf8_check(pg, err));
  txb_pg_add_text(&p, txb_slice_text(order->topic));
  txb_pg_add_text(&p, txb_slice_text(order->type));
  txb_pg_add_jsonb(&p, txb_slice_text(order->input_json != NULL ? order->input_json : "{}"));
  txb_pg_add_text(&p, txb_slice_text(order->key));
  txb_pg_add_int8(&p, order->timeout_ms > 0 ? order->timeout_ms : TIMEOUT_MS_DEFAULT);
  txb_pg_add_text(&p, txb_slice_text(order->reply_to));
  TXB_TRY(txb_pg_query(pg, &send_statement, &p, &result, err));
  txb_pg_uuid(result, 0, 0, &id);
  txb_uuid_format(&id, id_out);
  return TXB_OK;
}

/* ---- waiting ------------------------------------------------------------------------------------------------ */

static enum txb_rc copy(const struct txb_pg_result *r, int column, char **out, struct txb_error *err) {
  return txb_pg_is_null(r, 0, column) ? TXB_OK : txb_strdup(txb_pg_text(r, 0, column), out, err);
}

/* *ended: what was found is final. */
static enum txb_rc look(struct txb_pg *pg, const struct txb_uuid *id, struct txb_reply *out, bool *ended,
                        struct txb_error *err) {
  TXB_CLEANUP(txb_pg_params_fini) struct txb_pg_params p;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  txb_pg_params_init(&p);
  txb_pg_add_uuid(&p, id);
  TXB_TRY(txb_pg_query(pg, &result_statement, &p, &r, err));
  const char *state = txb_pg_text(r, 0, 0);
  *ended = strcmp(state, "waiting") != 0;
  out->state = strcmp(state, "answered") == 0  ? TXB_REPLY_ANSWERED
               : strcmp(state, "expired") == 0 ? TXB_REPLY_EXPIRED
                                               : TXB_REPLY_UNKNOWN;
  TXB_TRY(copy(r, 1, &out->answer, err));
  TXB_TRY(copy(r, 2, &out->output, err));
  return copy(r, 3, &out->reason, err);
}

/* The request's time is over by the clock of its database, which says so. */
static enum txb_rc await(struct txb_pg *pg, const struct txb_uuid *id, struct txb_reply *out, struct txb_error *err) {
  bool ended = false;
  for (int64_t pause_us = LOOK_FIRST_US;; pause_us = pause_us * 3 / 2) {
    TXB_TRY(look(pg, id, out, &ended, err));
    if (ended)
      return TXB_OK;
    pause_us = pause_us < LOOK_LONGEST_US ? pause_us : LOOK_LONGEST_US;
    (void)txb_pause(-1, pause_us);
  }
}

enum txb_rc txb_request_wait(PGconn *conn, const char *id, struct txb_reply **out, struct txb_error *err) {
  TXB_CLEANUP(close_pg) struct txb_pg *pg = NULL;
  struct txb_uuid request;
  struct txb_error ignored;
  void *memory;
  if (txb_uuid_parse(txb_slice_text(id), &request, &ignored) != TXB_OK)
    return REFUSE(err, "id: no UUID, as txb_request gives");
  TXB_TRY(txb_pg_borrow(conn, &pg, err));
  TXB_TRY(txb_pg_utf8_check(pg, err));
  if (PQtransactionStatus(conn) != PQTRANS_IDLE)
    return REFUSE(err, "the connection is in a transaction: end it first, or what it sees may never change");
  TXB_TRY(txb_alloc(sizeof(struct txb_reply), &memory, err));
  enum txb_rc rc = await(pg, &request, memory, err);
  if (rc == TXB_OK)
    *out = memory;
  else
    txb_reply_free(memory);
  return rc;
}

enum txb_reply_state txb_reply_state(const struct txb_reply *reply) {
  return reply->state;
}

const char *txb_reply_answer(const struct txb_reply *reply) {
  return reply->answer;
}

const char *txb_reply_output(const struct txb_reply *reply) {
  return reply->output;
}

const char *txb_reply_reason(const struct txb_reply *reply) {
  return reply->reason;
}

void txb_reply_free(struct txb_reply *reply) {
  if (reply == NULL)
    return;
  txb_free(reply->answer);
  txb_free(reply->output);
  txb_free(reply->reason);
  txb_free(reply);
}
