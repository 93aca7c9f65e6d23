/* Publishing from C: txb.publish and txb.publish_many on the caller's connection, in the caller's transaction.
 *
 * Nothing is kept here. A crash of the application or of the server leaves the intent if and only if the transaction
 * was committed.
 */
#include <string.h>

#include "common/fault.h"
#include "common/memory.h"
#include "common/pg.h"
#include "common/slice.h"
#include "common/uuid.h"
#include "outbox_sql.h"
#include "txbroker/outbox.h"

#define STATEMENT_BYTES_MAX ((size_t)900 << 20) /* PostgreSQL takes messages up to 1 GiB */
#define INTENT_OVERHEAD     100                 /* lengths, id, time, flags: what the arrays add to an intent */

static const struct txb_pg_statement one_statement = {"publish_one", txb_text_publish_one};
static const struct txb_pg_statement many_statement = {"publish_many", txb_text_publish_many};

static struct txb_slice content_type_of(const struct txb_intent *intent) {
  return txb_slice_text(intent->content_type == NULL ? "application/json" : intent->content_type);
}

/* Text that PostgreSQL would refuse without saying of which field. */
static enum txb_rc check_text(const char *field, struct txb_slice text, struct txb_error *err) {
  if (text.data == NULL || txb_slice_is_text(text))
    return TXB_OK;
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s: not UTF-8 text, or with a NUL in it", field);
}

static enum txb_rc check_intent(const struct txb_intent *intent, struct txb_error *err) {
  TXB_TRY(check_text("topic", txb_slice_text(intent->topic), err));
  TXB_TRY(check_text("key", intent->key, err));
  TXB_TRY(check_text("type", txb_slice_text(intent->type), err));
  TXB_TRY(check_text("content_type", txb_slice_text(intent->content_type), err));
  return check_text("headers", txb_slice_text(intent->headers_json), err);
}

static enum txb_rc parse_id(const struct txb_intent *intent, struct txb_uuid *out, struct txb_error *err) {
  struct txb_error local;
  enum txb_rc rc = txb_uuid_parse(txb_slice_text(intent->id), out, &local);
  if (rc != TXB_OK) {
    txb_error_prefix(&local, "id");
    if (err != NULL)
      *err = local;
  }
  return rc;
}

/* What an intent takes of a statement: its fields, and what the arrays add to each. */
static bool add_size(const struct txb_intent *intent, size_t *total) {
  const char *texts[] = {intent->topic, intent->type, intent->content_type, intent->headers_json};
  bool fits = txb_size_add(*total, intent->payload.size, total) && txb_size_add(*total, intent->key.size, total) &&
              txb_size_add(*total, INTENT_OVERHEAD, total);
  for (size_t i = 0; fits && i < TXB_ARRAY_SIZE(texts); i++)
    fits = texts[i] == NULL || txb_size_add(*total, strlen(texts[i]), total);
  return fits && *total <= STATEMENT_BYTES_MAX;
}

static void close_pg(struct txb_pg **pg) {
  txb_pg_close(*pg); /* gives the borrowed connection back as it is */
}

enum txb_rc txb_publish(PGconn *conn, const struct txb_intent *intent, char id_out[37], struct txb_error *err) {
  TXB_CLEANUP(close_pg) struct txb_pg *pg = NULL;
  TXB_CLEANUP(txb_pg_params_fini) struct txb_pg_params p;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  struct txb_uuid id;
  txb_pg_params_init(&p);
  size_t total = 0;
  if (!add_size(intent, &total)) /* the server would cut the connection */
    return TXB_FAIL_FROM(
        err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s: the intent has more than %zu bytes, which is what one call can take",
        intent->payload.size > STATEMENT_BYTES_MAX ? "payload" : "key, type, headers and payload", STATEMENT_BYTES_MAX);
  TXB_TRY(check_intent(intent, err));
  if (intent->id != NULL)
    TXB_TRY(parse_id(intent, &id, err));
  TXB_TRY(txb_pg_borrow(conn, &pg, err));
  TXB_TRY(txb_pg_utf8_check(pg, err));
  txb_pg_add_text(&p, txb_slice_text(intent->topic));
  txb_pg_add_text(&p, intent->key);
  txb_pg_add_text(&p, txb_slice_text(intent->type));
  txb_pg_add_bytea(&p, intent->payload);
  txb_pg_add_jsonb(&p, txb_slice_text(intent->headers_json));
  txb_pg_add_uuid(&p, intent->id == NULL ? NULL : &id);
  if (intent->not_before_us == 0)
    txb_pg_add_null(&p, TXB_OID_TIMESTAMPTZ);
  else
    txb_pg_add_timestamptz(&p, intent->not_before_us);
  txb_pg_add_bool(&p, intent->strict_order);
  txb_pg_add_text(&p, content_type_of(intent));
  txb_failpoint("publish.before_insert");
  TXB_TRY(txb_pg_query(pg, &one_statement, &p, &result, err));
  txb_failpoint("publish.after_insert");
  if (id_out != NULL) {
    txb_pg_uuid(result, 0, 0, &id);
    txb_uuid_format(&id, id_out);
  }
  return TXB_OK;
}

/* ---- many ------------------------------------------------------------------------------------------------------- */

static struct txb_slice topic_of(const struct txb_intent *i) {
  return txb_slice_text(i->topic);
}

static struct txb_slice key_of(const struct txb_intent *i) {
  return i->key;
}

static struct txb_slice type_of(const struct txb_intent *i) {
  return txb_slice_text(i->type);
}

static struct txb_slice payload_of(const struct txb_intent *i) {
  return i->payload;
}

static void add_array(struct txb_pg_params *p, uint32_t oid, struct txb_slice (*of)(const struct txb_intent *),
                      const struct txb_intent *intents, size_t count) {
  txb_pg_array_begin(p, oid);
  for (size_t i = 0; i < count; i++)
    txb_pg_array_bytes(p, of(&intents[i]));
  txb_pg_array_end(p);
}

static enum txb_rc add_ids(struct txb_pg_params *p, const struct txb_intent *intents, size_t count,
                           struct txb_error *err) {
  txb_pg_array_begin(p, TXB_OID_UUID);
  for (size_t i = 0; i < count; i++) {
    struct txb_uuid id;
    if (intents[i].id == NULL) {
      txb_pg_array_bytes(p, txb_slice_of(NULL, 0));
      continue;
    }
    TXB_TRY(parse_id(&intents[i], &id, err));
    txb_pg_array_bytes(p, txb_slice_of(id.bytes, sizeof id.bytes));
  }
  txb_pg_array_end(p);
  return TXB_OK;
}

static void add_times_and_orders(struct txb_pg_params *p, const struct txb_intent *intents, size_t count) {
  txb_pg_array_begin(p, TXB_OID_TIMESTAMPTZ);
  for (size_t i = 0; i < count; i++) {
    if (intents[i].not_before_us == 0)
      txb_pg_array_bytes(p, txb_slice_of(NULL, 0));
    else
      txb_pg_array_timestamptz(p, intents[i].not_before_us);
  }
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_BOOL);
  for (size_t i = 0; i < count; i++) {
    char strict = intents[i].strict_order ? 1 : 0;
    txb_pg_array_bytes(p, txb_slice_of(&strict, 1));
  }
  txb_pg_array_end(p);
}

/* What the server would not name, or not take. Rows are counted from 1, as txb.publish_many does. */
static enum txb_rc check_all(const struct txb_intent *intents, size_t count, struct txb_error *err) {
  size_t total = 0;
  for (size_t i = 0; i < count; i++) {
    struct txb_error local = {0};
    struct txb_uuid id;
    enum txb_rc rc = check_intent(&intents[i], &local);
    if (rc == TXB_OK && intents[i].id != NULL)
      rc = parse_id(&intents[i], &id, &local);
    if (rc == TXB_OK && !add_size(&intents[i], &total))
      rc = TXB_FAIL(&local, TXB_REFUSED, "with the rows before it more than %zu bytes, which is what one call can take",
                    STATEMENT_BYTES_MAX);
    if (rc == TXB_OK)
      continue;
    txb_error_prefix(&local, "row %zu", i + 1);
    if (err != NULL)
      *err = local;
    return rc;
  }
  return TXB_OK;
}

enum txb_rc txb_publish_many(PGconn *conn, const struct txb_intent *intents, size_t count, char (*ids_out)[37],
                             struct txb_error *err) {
  TXB_CLEANUP(close_pg) struct txb_pg *pg = NULL;
  TXB_CLEANUP(txb_pg_params_fini) struct txb_pg_params p;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = NULL;
  txb_pg_params_init(&p);
  if (count == 0)
    return TXB_OK;
  TXB_TRY(check_all(intents, count, err));
  TXB_TRY(txb_pg_borrow(conn, &pg, err));
  TXB_TRY(txb_pg_utf8_check(pg, err));
  add_array(&p, TXB_OID_TEXT, topic_of, intents, count);
  add_array(&p, TXB_OID_TEXT, key_of, intents, count);
  add_array(&p, TXB_OID_TEXT, type_of, intents, count);
  add_array(&p, TXB_OID_BYTEA, payload_of, intents, count);
  add_array(&p, TXB_OID_TEXT, content_type_of, intents, count);
  txb_pg_array_begin(&p, TXB_OID_JSONB);
  for (size_t i = 0; i < count; i++)
    txb_pg_array_jsonb(&p, txb_slice_text(intents[i].headers_json));
  txb_pg_array_end(&p);
  TXB_TRY(add_ids(&p, intents, count, err));
  add_times_and_orders(&p, intents, count);
  txb_failpoint("publish.before_insert");
  TXB_TRY(txb_pg_query(pg, &many_statement, &p, &result, err));
  txb_failpoint("publish.after_insert");
  TXB_ASSERT(txb_pg_rows(result) == (int)count);
  for (size_t i = 0; ids_out != NULL && i < count; i++) {
    struct txb_uuid id;
    txb_pg_uuid(result, (int)i, 0, &id);
    txb_uuid_format(&id, ids_out[i]);
  }
  return TXB_OK;
}
