/* What persons decide about failed messages: noticing it, and telling what became of it. The decision itself stands in
 * txb.failed, and so does its end: a crash anywhere between loses neither. */
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "outbox/relay_internal.h"
#include "outbox_sql.h"

static const struct txb_pg_statement take_statement = {"relay_decisions_take", txb_text_relay_decisions_take};
static const struct txb_pg_statement settle_statement = {"relay_settle", txb_text_relay_settle};
static const struct txb_pg_statement keys_statement = {"relay_read_keys", txb_text_relay_read_keys};
static const struct txb_pg_statement loose_statement = {"relay_read_loose", txb_text_relay_read_loose};

static struct txb_slice topic_name(const struct txb_relay *r, uint32_t topic) {
  return txb_slice_of(r->topics.items[topic].name, r->topics.items[topic].size);
}

/* ---- noticing --------------------------------------------------------------------------------------------------- */

enum txb_rc txb_relay_send_decide(struct txb_relay *r, struct txb_error *err) {
  TXB_TRY(txb_pg_send(r->pg, &take_statement, txb_relay_fenced_params(r), err));
  return txb_relay_request_sent(r, TXB_REQUEST_DECIDE, err);
}

/* Kept until they are committed: a note that is still there would be taken again, one that is taken and not acted upon
 * would wait for the next relay. */
void txb_relay_take_decisions(struct txb_relay *r, struct txb_pg_result *taken) {
  txb_pg_result_free(r->decisions);
  r->decisions = taken;
}

enum txb_rc txb_relay_decisions_done(struct txb_relay *r, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = txb_steal(r->decisions);
  TXB_CLEANUP(txb_free_ptr) struct txb_relay_key_hold *keys = NULL;
  struct txb_relay_event event = {.kind = TXB_RELAY_DECIDED};
  void *p;
  int rows = txb_pg_rows(result);
  TXB_TRY(txb_alloc_array((size_t)rows, sizeof *keys, &p, err));
  keys = p;
  for (int i = 0; i < rows; i++) {
    struct txb_slice key = txb_pg_bytes(result, i, 1);
    if (key.data == NULL) {
      event.u.decisions.loose = true;
      continue;
    }
    struct txb_relay_key_hold *out = &keys[event.u.decisions.count++];
    *out = (struct txb_relay_key_hold){.key = key};
    TXB_TRY(txb_relay_topics_number(&r->topics, txb_pg_bytes(result, i, 0), &out->topic, err));
  }
  event.u.decisions.keys = keys;
  if (rows > 0)
    txb_log(TXB_LOG_INFO, TXB_MSG("somebody has decided about failed messages, they go on"),
            TXB_F("source", r->o->source), TXB_FI("keys", event.u.decisions.count));
  /* A crash here: the notes are gone, the decisions are not. The next relay sees them where it reads its holds. */
  txb_failpoint("relay.after_decisions");
  return txb_relay_step(r, &event, err);
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

enum txb_rc txb_relay_send_keys_page(struct txb_relay *r, const struct txb_relay_poll *poll, struct txb_error *err) {
  struct txb_pg_params *p = &r->params;
  txb_pg_params_clear(p);
  txb_pg_add_int8(p, poll->drain_from);
  txb_pg_add_int8(p, poll->drain_to);
  txb_pg_array_begin(p, TXB_OID_TEXT);
  for (size_t i = 0; i < poll->drain_key_count; i++) {
    const struct txb_key_hold *hold = poll->drain_keys[i];
    if (hold->state != TXB_KEY_DRAINING)
      continue;
    struct txb_slice topic = topic_name(r, hold->topic);
    txb_buffer_clear(&r->scratch);
    txb_buffer_add(&r->scratch, topic.data, topic.size);
    txb_buffer_add(&r->scratch, "/", 1);
    txb_buffer_add(&r->scratch, hold->key.data, hold->key.size);
    TXB_TRY(txb_buffer_check(&r->scratch, err));
    txb_pg_array_bytes(p, txb_slice_of(r->scratch.data, r->scratch.size));
  }
  txb_pg_array_end(p);
  txb_pg_add_int4(p, (int32_t)poll->rows);
  txb_pg_add_int8(p, poll->bytes);
  txb_pg_add_text(p, txb_slice_text(r->o->source));
  return txb_pg_send(r->pg, &keys_statement, p, err);
}

enum txb_rc txb_relay_send_loose_page(struct txb_relay *r, const struct txb_relay_poll *poll, struct txb_error *err) {
  struct txb_pg_params *p = &r->params;
  txb_pg_params_clear(p);
  txb_pg_add_int8(p, poll->drain_from);
  txb_pg_add_int4(p, (int32_t)poll->rows);
  txb_pg_add_int8(p, poll->bytes);
  txb_pg_add_text(p, txb_slice_text(r->o->source));
  return txb_pg_send(r->pg, &loose_statement, p, err);
}

/* ---- what became of them ---------------------------------------------------------------------------------------- */

static void tell_key(struct txb_relay *r, const struct txb_relay_key_hold *key) {
  const char *topic = r->topics.items[key->topic].name;
  if (key->lo == 0)
    txb_log(TXB_LOG_INFO, TXB_MSG("a key is no longer held"), TXB_F("source", r->o->source), TXB_F("topic", topic));
  else
    txb_log(TXB_LOG_INFO, TXB_MSG("a key is held from its next failed intent on"), TXB_F("source", r->o->source),
            TXB_F("topic", topic), TXB_FI("from_seq", key->lo));
}

enum txb_rc txb_relay_send_settle(struct txb_relay *r, const struct txb_relay_checkpoint *c, struct txb_error *err) {
  if (c->settled_count == 0 && c->key_count == 0)
    return TXB_OK;
  /* Before: Kafka has them, their records say retrying and their holds are there: they are sent again, in order. */
  txb_failpoint("relay.before_settle");
  struct txb_pg_params *p = txb_relay_fenced_params(r);
  txb_pg_array_begin(p, TXB_OID_INT8);
  for (size_t i = 0; i < c->settled_count; i++)
    txb_pg_array_int8(p, c->settled[i]);
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_TEXT);
  for (size_t i = 0; i < c->key_count; i++)
    txb_pg_array_bytes(p, topic_name(r, c->keys[i].topic));
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_TEXT);
  for (size_t i = 0; i < c->key_count; i++)
    txb_pg_array_bytes(p, c->keys[i].key);
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_INT8);
  for (size_t i = 0; i < c->key_count; i++) {
    txb_pg_array_int8(p, c->keys[i].lo);
    tell_key(r, &c->keys[i]);
  }
  txb_pg_array_end(p);
  r->settling = true;
  return txb_pg_send(r->pg, &settle_statement, p, err);
}
