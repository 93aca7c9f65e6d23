/* Sagas from C: txb.saga_start on the caller's connection, in the caller's transaction, and looking for the end.
 *
 * Nothing is kept here. A crash of the application or of the server leaves the saga if and only if the transaction was
 * committed; who waited asks again by its id.
 */
#include <string.h>

#include "common/clock.h"
#include "common/loop.h"
#include "common/memory.h"
#include "common/pg.h"
#include "common/uuid.h"
#include "outbox_sql.h"
#include "txbroker/saga.h"

static const struct txb_pg_statement start_statement = {"saga_start", txb_text_saga_start},
                                     result_statement = {"saga_result", txb_text_saga_result};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define LOOK_FIRST_US    INT64_C(2000) /* between two looks, growing by half */
#define LOOK_LONGEST_US  INT64_C(100000)

struct txb_saga_result {
  enum txb_saga_result_state state;
  char *output, *reason;
};

static void close_pg(struct txb_pg **pg) {
  txb_pg_close(*pg); /* gives the borrowed connection back as it is */
}

static enum txb_rc check_texts(const struct txb_saga_order *o, struct txb_error *err) {
  const struct {
    const char *field, *text;
  } texts[] = {{"name", o->name},
               {"input", o->input_json},
               {"key", o->key},
               {"reply_topic", o->reply_topic},
               {"coordinator", o->coordinator}};
  if (o->name == NULL)
    return REFUSE(err, "name: NULL; which saga is to be started?");
  if (o->deadline_ms < 0)
    return REFUSE(err, "deadline_ms: %lld; 0 for the definition's, or above", (long long)o->deadline_ms);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(texts); i++)
    if (texts[i].text != NULL && !txb_slice_is_text(txb_slice_text(texts[i].text)))
      return REFUSE(err, "%s: not UTF-8 text", texts[i].field);
  return TXB_OK;
}

enum txb_rc txb_saga_start(PGconn *conn, const struct txb_saga_order *order, char id_out[37], struct txb_error *err) {
  TXB_CLEANUP(close_pg) struct txb_pg *pg = NULL;
  TXB_CLEANUP(txb_pg_params_fini) struct txb_pg_params p;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  struct txb_uuid id;
  txb_pg_params_init(&p);
  TXB_TRY(check_texts(order, err));
  TXB_TRY(txb_pg_borrow(conn, &pg, err));
  TXB_TRY(txb_pg_utf8_check(pg, err));
  txb_pg_add_text(&p, txb_slice_text(order->name));
  txb_pg_add_jsonb(&p, txb_slice_text(order->input_json != NULL ? order->input_json : "{}"));
  txb_pg_add_text(&p, txb_slice_text(order->key));
  if (order->deadline_ms > 0)
    txb_pg_add_int8(&p, order->deadline_ms);
  else
    txb_pg_add_null(&p, TXB_OID_INT8);
  txb_pg_add_text(&p, txb_slice_text(order->reply_topic));
  txb_pg_add_text(&p, txb_slice_text(order->coordinator));
  TXB_TRY(txb_pg_query(pg, &start_statement, &p, &result, err));
  txb_pg_uuid(result, 0, 0, &id);
  txb_uuid_format(&id, id_out);
  return TXB_OK;
}

/* ---- waiting ------------------------------------------------------------------------------------------------ */

static enum txb_saga_result_state state_of(const char *name) {
  static const struct {
    const char *name;
    enum txb_saga_result_state state;
  } states[] = {{"running", TXB_SAGA_RESULT_RUNNING},
                {"completed", TXB_SAGA_RESULT_COMPLETED},
                {"compensated", TXB_SAGA_RESULT_COMPENSATED},
                {"refused", TXB_SAGA_RESULT_REFUSED}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(states); i++)
    if (strcmp(states[i].name, name) == 0)
      return states[i].state;
  return TXB_SAGA_RESULT_UNKNOWN;
}

static enum txb_rc look(struct txb_pg *pg, const struct txb_uuid *id, struct txb_saga_result *out,
                        struct txb_error *err) {
  TXB_CLEANUP(txb_pg_params_fini) struct txb_pg_params p;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  txb_pg_params_init(&p);
  txb_pg_add_uuid(&p, id);
  TXB_TRY(txb_pg_query(pg, &result_statement, &p, &r, err));
  out->state = state_of(txb_pg_text(r, 0, 0));
  if (!txb_pg_is_null(r, 0, 1))
    TXB_TRY(txb_strdup(txb_pg_text(r, 0, 1), &out->output, err));
  if (!txb_pg_is_null(r, 0, 2))
    TXB_TRY(txb_strdup(txb_pg_text(r, 0, 2), &out->reason, err));
  return TXB_OK;
}

static enum txb_rc await(struct txb_pg *pg, const struct txb_uuid *id, int64_t until_us, struct txb_saga_result *out,
                         struct txb_error *err) {
  for (int64_t pause_us = LOOK_FIRST_US;; pause_us = pause_us * 3 / 2) {
    TXB_TRY(look(pg, id, out, err));
    int64_t left_us = until_us - txb_clock_steady_us();
    if (out->state > TXB_SAGA_RESULT_RUNNING || left_us <= 0)
      return TXB_OK;
    pause_us = pause_us < LOOK_LONGEST_US ? pause_us : LOOK_LONGEST_US;
    (void)txb_pause(-1, pause_us < left_us ? pause_us : left_us);
  }
}

enum txb_rc txb_saga_wait(PGconn *conn, const char *id, int timeout_ms, struct txb_saga_result **out,
                          struct txb_error *err) {
  TXB_CLEANUP(close_pg) struct txb_pg *pg = NULL;
  struct txb_uuid saga;
  struct txb_error ignored;
  void *memory;
  if (txb_uuid_parse(txb_slice_text(id), &saga, &ignored) != TXB_OK)
    return REFUSE(err, "id: no UUID, as txb_saga_start gives");
  TXB_TRY(txb_pg_borrow(conn, &pg, err));
  TXB_TRY(txb_pg_utf8_check(pg, err));
  if (PQtransactionStatus(conn) != PQTRANS_IDLE)
    return REFUSE(err, "the connection is in a transaction: end it first, or what it sees may never change");
  TXB_TRY(txb_alloc(sizeof(struct txb_saga_result), &memory, err));
  enum txb_rc rc = await(pg, &saga, txb_clock_steady_us() + (int64_t)timeout_ms * 1000, memory, err);
  if (rc == TXB_OK)
    *out = memory;
  else
    txb_saga_result_free(memory);
  return rc;
}

enum txb_saga_result_state txb_saga_result_state(const struct txb_saga_result *result) {
  return result->state;
}

const char *txb_saga_result_output(const struct txb_saga_result *result) {
  return result->output;
}

const char *txb_saga_result_reason(const struct txb_saga_result *result) {
  return result->reason;
}

void txb_saga_result_free(struct txb_saga_result *result) {
  if (result == NULL)
    return;
  txb_free(result->output);
  txb_free(result->reason);
  txb_free(result);
}
