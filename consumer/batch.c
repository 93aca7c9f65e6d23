/* A batch of messages as one transaction. For SQL handlers in one round trip:
 *
 *   BEGIN; batch_open (compare-and-set, W1); inbox and handler in one statement; batch_close; COMMIT; session set back
 *
 * for plugins in two, the handler's own between them:
 *
 *   BEGIN; batch_open; inbox | handler calls | session set back; batch_close; COMMIT
 *
 * A crash before COMMIT is answered leaves the transaction rolled back, or committed with all of it; the position in it
 * tells which.
 */
#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/random.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

static const struct txb_pg_statement open_statement = {"txb_worker_open", txb_text_worker_open},
                                     unfenced = {"txb_worker_open_unfenced", txb_text_worker_open_unfenced},
                                     unversioned = {"txb_worker_open_unversioned", txb_text_worker_open_unversioned},
                                     lane_unfenced = {"txb_lane_open_unfenced", txb_text_lane_open_unfenced},
                                     close_statement = {"txb_worker_close", txb_text_worker_close},
                                     add_statement = {"txb_worker_failed_add", txb_text_worker_failed_add};
const struct txb_pg_statement txb_worker_inbox_statement = {"txb_worker_inbox", txb_text_worker_inbox};

bool txb_worker_is_sql(const txb_worker_t *w, int slot) {
  return w->places[slot].copies || w->settings->handler == TXB_HANDLER_SQL ||
         w->settings->handler == TXB_HANDLER_SQL_BATCH;
}

const struct txb_pg_statement *txb_worker_apply_statement(const txb_worker_t *w, int slot) {
  return w->places[slot].copies ? &w->copy : &w->apply;
}

/* W11: what a handler may have changed of the session is set back: the role before anything of ours runs behind it, the
 * settings before the next message. A rollback sets both back too, and a crash ends the session. */
static const struct txb_pg_statement reset = {"txb_worker_reset", txb_text_worker_reset},
                                     reset_role = {"txb_worker_reset_role", txb_text_worker_reset_role};

enum txb_rc txb_worker_reset_role(txb_worker_t *w, struct txb_error *err) {
  return txb_worker_send(w, &reset_role, NULL, err);
}

enum txb_rc txb_worker_reset_settings(txb_worker_t *w, struct txb_error *err) {
  return txb_worker_send(w, &reset, NULL, err);
}

static bool is_lane(const txb_worker_t *w, int slot) {
  return w->places[slot].lane != NULL;
}

/* Planted: the position, in a transaction of its own before the effects. */
static bool position_goes_first(const txb_worker_t *w, int slot) {
  return txb_bug("worker_offset_before_commit") || (is_lane(w, slot) && txb_bug("lane_position_before_effects"));
}

static const struct txb_worker_record *record_at(const txb_worker_t *w, const struct txb_worker_batch *b, size_t i) {
  return txb_worker_core_running(&w->core, b->slot, b->base + (int32_t)i);
}

static const struct txb_worker_message *message_at(const txb_worker_t *w, const struct txb_worker_batch *b, size_t i) {
  return record_at(w, b, i)->ref;
}

/* ---- parameters ------------------------------------------------------------------------------ */

static enum txb_rc make_room(struct txb_worker_batch *b, size_t count, struct txb_error *err) {
  if (count <= b->room)
    return TXB_OK;
  TXB_TRY(txb_regrow_array(&b->order, count, sizeof *b->order, err));
  TXB_TRY(txb_regrow_array(&b->wanted, count, sizeof *b->wanted, err));
  TXB_TRY(txb_regrow_array(&b->first, count, sizeof *b->first, err));
  TXB_TRY(txb_regrow_array(&b->ids, count, sizeof *b->ids, err));
  TXB_TRY(txb_regrow_array(&b->aside, count, sizeof *b->aside, err));
  b->room = count;
  return TXB_OK;
}

static struct txb_slice bytes_of(const struct txb_uuid *id) {
  return txb_slice_of(id->bytes, sizeof id->bytes);
}

/* Sorted and distinct, so that two batches with ids in common meet them in one order; without those of held keys. */
static void add_sorted_ids(struct txb_worker_batch *b) {
  txb_pg_array_begin(&b->apply, TXB_OID_UUID);
  for (int32_t i = 0; i < b->asked; i++)
    if (b->first[b->order[i]] && b->order[i] < (uint32_t)b->count)
      txb_pg_array_bytes(&b->apply, bytes_of(&b->ids[b->order[i]]));
  txb_pg_array_end(&b->apply);
}

/* The group under which the inbox knows the batch. The planted bugs that go without it do so under a name that it meets
 * for the first time. */
static void add_group(const txb_worker_t *w, struct txb_worker_batch *b) {
  char unknown[40];
  if (!b->planted && !txb_bug("worker_no_inbox")) {
    txb_pg_add_text(&b->apply, txb_slice_text(w->settings->group));
    return;
  }
  snprintf(unknown, sizeof unknown, "none %" PRIu64, txb_random_u64());
  txb_pg_add_text(&b->apply, txb_slice_text(unknown));
}

/* The parameters of worker_apply_message.sql and worker_apply_batch.sql. */
static enum txb_rc add_messages(txb_worker_t *w, struct txb_worker_batch *b, int32_t attempt, struct txb_error *err) {
  const struct txb_worker_place *place = &w->places[b->slot];
  add_group(w, b);
  txb_pg_add_text(&b->apply, txb_slice_text(place->topic));
  txb_pg_add_int4(&b->apply, place->partition);
  txb_pg_add_int4(&b->apply, attempt);
  add_sorted_ids(b);
  struct txb_worker_source source = {.batch = b};
  return txb_worker_apply_columns(w, &source, b->wanted, b->candidates, &b->apply, err);
}

/* How many of the messages that are to be set aside so far are of this key. */
static int64_t of_key(const txb_worker_t *w, const struct txb_worker_batch *b, struct txb_slice key) {
  int64_t count = 0;
  for (int32_t i = 0; i < b->aside_count; i++)
    count += txb_slice_equal(message_at(w, b, b->aside[i].index)->record.key, key);
  return count;
}

/* Whether one more held message would be one too many, of its key or of the group. */
static bool is_full(const txb_worker_t *w, const struct txb_worker_batch *b, struct txb_slice key, int64_t waiting) {
  const struct txb_worker_settings *s = w->settings;
  if (w->places[b->slot].group_held + b->aside_count >= s->held_per_group_max)
    return true;
  return waiting + b->aside_count >= s->held_per_key_max && waiting + of_key(w, b, key) >= s->held_per_key_max;
}

/* Messages of held keys go aside, in their order; of what is left, the first of equal ids are candidates (W6). What the
 * limits allow no more is cut off. */
static void sort_out(txb_worker_t *w, struct txb_worker_batch *b) {
  const struct txb_held_keys *keys = &w->places[b->slot].keys;
  bool all = txb_bug("worker_batch_duplicate_ids") || txb_bug("worker_no_inbox"), held = keys->count > 0;
  bool ignored = txb_bug("worker_held_not_kept") || (is_lane(w, b->slot) && txb_bug("lane_held_ignored"));
  b->candidates = b->aside_count = 0;
  for (int32_t i = 0; i < b->asked; i++) {
    const struct txb_worker_message *m = message_at(w, b, (size_t)i);
    struct txb_slice key = held && !m->event.is_command ? m->record.key : txb_slice_of(NULL, 0);
    int64_t waiting = key.data != NULL && !ignored ? txb_held_keys_find(keys, key) : 0;
    if (waiting == 0) {
      if (b->first[i] || all)
        b->wanted[b->candidates++] = (uint32_t)i;
      continue;
    }
    if (!b->first[i])
      continue;
    if (is_full(w, b, key, waiting)) {
      b->count = i;
      break;
    }
    b->first[i] = false;
    b->aside[b->aside_count++] =
        (struct txb_worker_aside){.index = (uint32_t)i, .state = TXB_ASIDE_HELD, .holds = true};
  }
}

static enum txb_rc fill(txb_worker_t *w, struct txb_worker_batch *b, int32_t attempt, struct txb_error *err) {
  struct txb_worker_source source = {.batch = b};
  if (b->aside_count > 0)
    TXB_TRY(txb_worker_aside_params(w, &source, b->aside, b->aside_count, &b->add, err));
  txb_pg_params_clear(&b->apply);
  if (txb_worker_is_sql(w, b->slot))
    return add_messages(w, b, attempt, err);
  add_group(w, b);
  add_sorted_ids(b);
  txb_pg_add_int8(&b->apply, txb_worker_run_of(w, &source));
  return txb_buffer_check(&b->apply.bytes, err);
}

/* Makes the batch of `count` records, of which `base` stand before it. */
static enum txb_rc make(txb_worker_t *w, struct txb_worker_batch *b, int slot, int32_t base, int32_t count,
                        int32_t attempt, struct txb_error *err) {
  b->slot = slot;
  b->base = base;
  b->serial = w->places[slot].serial;
  b->keys_change = w->places[slot].keys_change;
  b->first_offset = record_at(w, b, 0)->offset;
  b->count = b->asked = 0;
  b->planted = false;
  TXB_TRY(make_room(b, (size_t)count, err));
  for (size_t i = 0; i < (size_t)count; i++) {
    b->ids[i] = record_at(w, b, i)->id;
  }
  (void)txb_batch_candidates(b->ids, (size_t)count, b->order, b->first);
  b->count = b->asked = count;
  sort_out(w, b);
  return fill(w, b, attempt, err);
}

static bool is_made(const txb_worker_t *w, const struct txb_worker_batch *b, int slot, int64_t first_offset,
                    int32_t count) {
  return b->asked == count && b->slot == slot && b->serial == w->places[slot].serial &&
         b->keys_change == w->places[slot].keys_change && b->first_offset == first_offset;
}

enum txb_rc txb_worker_batch_ahead(txb_worker_t *w, struct txb_error *err) {
  int slot;
  int32_t base, count;
  if (!txb_worker_core_ahead(&w->core, &slot, &base, &count))
    return TXB_OK;
  int64_t first_offset = txb_worker_core_running(&w->core, slot, base)->offset;
  if (w->prepared >= 0 && is_made(w, &w->batches[w->prepared], slot, first_offset, count))
    return TXB_OK;
  int other = w->running == 0 ? 1 : 0;
  w->prepared = -1;
  TXB_TRY(make(w, &w->batches[other], slot, base, count, 1, err));
  w->prepared = other;
  return TXB_OK;
}

void txb_worker_batches_fini(txb_worker_t *w) {
  for (size_t i = 0; i < TXB_ARRAY_SIZE(w->batches); i++) {
    struct txb_worker_batch *b = &w->batches[i];
    txb_pg_params_fini(&b->apply);
    txb_pg_params_fini(&b->add);
    txb_free(b->aside);
    txb_free(b->order);
    txb_free(b->wanted);
    txb_free(b->first);
    txb_free(b->ids);
  }
}

/* ---- sending --------------------------------------------------------------------------------- */

void txb_worker_params_timeout(txb_worker_t *w) {
  char text[24] = "0";
  if (w->settings->handler != TXB_HANDLER_CALLBACK && w->settings->handler != TXB_HANDLER_ENGINE)
    snprintf(text, sizeof text, "%" PRId64, w->settings->handler_timeout_ms);
  txb_pg_add_text(&w->params, txb_slice_text(text));
}

enum txb_rc txb_worker_batch_open(txb_worker_t *w, const struct txb_worker_batch *b, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  const struct txb_worker_record *last = record_at(w, b, (size_t)b->count - 1);
  txb_worker_params_place(w, a);
  txb_pg_add_int8(&w->params, a->epoch);
  txb_pg_add_int8(&w->params, a->expected_next);
  txb_pg_add_int8(&w->params, b->count == a->count ? a->new_next : last->offset + 1);
  txb_pg_add_int4(&w->params, b->count);
  txb_pg_add_uuid(&w->params, &last->id);
  txb_pg_add_int8(&w->params, last->timestamp_ms);
  txb_pg_add_int8(&w->params, w->places[b->slot].keys_version);
  txb_worker_params_timeout(w);
  return txb_worker_send(w,
                         is_lane(w, b->slot) && txb_bug("lane_fence_ignored") ? &lane_unfenced
                         : txb_bug("worker_no_epoch_check")                   ? &unfenced
                         : txb_bug("worker_keys_version_ignored")             ? &unversioned
                                                                              : &open_statement,
                         &w->params, err);
}

/* What goes aside, in the same transaction: its followers find it there. */
enum txb_rc txb_worker_batch_add(txb_worker_t *w, const struct txb_worker_batch *b, struct txb_error *err) {
  if (b->aside_count == 0 || txb_bug("worker_failed_not_recorded"))
    return TXB_OK;
  txb_failpoint("worker.before_set_aside");
  TXB_TRY(txb_worker_send(w, &add_statement, &b->add, err));
  w->operation.add_answer = w->operation.sent - 1;
  return TXB_OK;
}

static enum txb_rc send_close(txb_worker_t *w, const struct txb_worker_batch *b, int64_t applied,
                              struct txb_error *err) {
  txb_worker_params_place(w, &w->operation.action);
  txb_pg_add_int4(&w->params, b->count - b->aside_count);
  if (applied < 0)
    txb_pg_add_null(&w->params, TXB_OID_INT4);
  else
    txb_pg_add_int4(&w->params, (int32_t)applied);
  txb_pg_add_int4(&w->params, b->aside_count);
  return txb_worker_send(w, &close_statement, &w->params, err);
}

enum txb_rc txb_worker_batch_close(txb_worker_t *w, const struct txb_worker_batch *b, int64_t applied,
                                   struct txb_error *err) {
  if (!position_goes_first(w, b->slot))
    TXB_TRY(send_close(w, b, applied, err));
  return txb_worker_commit(w, err);
}

enum txb_rc txb_worker_commit(txb_worker_t *w, struct txb_error *err) {
#ifdef TXB_FAULTS
  TXB_TRY(txb_pg_pump(w->pg, err)); /* the server has everything but the COMMIT */
#endif
  /* A crash here: the server finds the connection gone and rolls back. */
  txb_failpoint("worker.before_commit");
  TXB_TRY(txb_worker_send(w, &txb_worker_commit_statement, NULL, err));
  w->operation.commit_answer = w->operation.sent - 1;
  /* Not before COMMIT: deferred triggers of the user's tables run there, and may read settings of the transaction. When
   * it fails, this is not run, and the rollback has done the same. */
  if (txb_worker_is_sql(w, w->operation.action.slot))
    TXB_TRY(txb_worker_reset_settings(w, err));
  TXB_TRY(txb_worker_sync(w, err));
  TXB_TRY(txb_pg_pump(w->pg, err));
  /* A crash here: committed or not. The next owner reads the position, which is in the same transaction. */
  txb_failpoint("worker.in_commit");
  return TXB_OK;
}

enum txb_rc txb_worker_batch_rollback(txb_worker_t *w, struct txb_error *err) {
  txb_worker_next_phase(w, TXB_PHASE_ROLLBACK);
  TXB_TRY(txb_worker_send(w, &txb_worker_rollback_statement, NULL, err));
  TXB_TRY(txb_worker_sync(w, err));
  if (txb_worker_is_sql(w, w->operation.action.slot))
    return TXB_OK;
  TXB_TRY(txb_worker_handler_plugin_reset(w, err));
  return txb_worker_sync(w, err);
}

static enum txb_rc send_batch(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  TXB_TRY(txb_worker_send(w, &txb_worker_begin_statement, NULL, err));
  if (!position_goes_first(w, b->slot))
    TXB_TRY(txb_worker_batch_open(w, b, err));
  if (w->operation.action.skip) { /* planted: worker_error_skips */
    w->operation.phase = TXB_PHASE_COMMIT;
    return txb_worker_batch_close(w, b, 0, err);
  }
  if (txb_worker_is_sql(w, b->slot)) {
    TXB_TRY(txb_worker_send(w, txb_worker_apply_statement(w, b->slot), &b->apply, err));
    TXB_TRY(txb_worker_reset_role(w, err));
    w->operation.phase = TXB_PHASE_COMMIT;
    TXB_TRY(txb_worker_batch_add(w, b, err));
    return txb_worker_batch_close(w, b, -1, err);
  }
  w->operation.phase = TXB_PHASE_OPEN;
  TXB_TRY(txb_worker_send(w, &txb_worker_inbox_statement, &b->apply, err));
  return txb_worker_sync(w, err);
}

/* Planted worker_inbox_outside: what the inbox took in its own transaction counts as new in the one that follows. */
static enum txb_rc make_planted(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  const struct txb_pg_result *fresh = w->operation.results[1];
  struct txb_uuid id;
  int32_t kept = 0;
  for (int32_t i = 0; i < b->count; i++) {
    bool found = false;
    for (int row = 0; row < txb_pg_rows(fresh) && !found; row++) {
      txb_pg_uuid(fresh, row, 0, &id);
      found = b->first[i] && memcmp(&id, &b->ids[i], sizeof id) == 0;
    }
    b->first[i] = found;
    if (found)
      b->wanted[kept++] = (uint32_t)i;
  }
  b->candidates = kept;
  b->planted = true;
  return fill(w, b, w->operation.action.attempt, err);
}

/* The two planted orders: the position, or the inbox, in a transaction of its own before the effects. */
static enum txb_rc send_planted(txb_worker_t *w, struct txb_worker_batch *b, struct txb_error *err) {
  w->operation.phase = TXB_PHASE_PLANTED;
  TXB_TRY(txb_worker_send(w, &txb_worker_begin_statement, NULL, err));
  if (position_goes_first(w, b->slot)) {
    TXB_TRY(txb_worker_batch_open(w, b, err));
    TXB_TRY(send_close(w, b, b->count, err));
  } else {
    txb_pg_params_clear(&w->params);
    txb_pg_add_text(&w->params, txb_slice_text(w->settings->group));
    txb_pg_array_begin(&w->params, TXB_OID_UUID);
    for (int32_t i = 0; i < b->count; i++)
      if (b->first[b->order[i]])
        txb_pg_array_bytes(&w->params, bytes_of(&b->ids[b->order[i]]));
    txb_pg_array_end(&w->params);
    txb_pg_add_int8(&w->params, w->places[b->slot].run);
    TXB_TRY(txb_worker_send(w, &txb_worker_inbox_statement, &w->params, err));
  }
  TXB_TRY(txb_worker_send(w, &txb_worker_commit_statement, NULL, err));
  return txb_worker_sync(w, err);
}

/* The message at the head may not be held any more: nothing is sent, its partition waits. */
static void tell_limit(txb_worker_t *w, const struct txb_worker_batch *b) {
  struct txb_worker_place *place = &w->places[b->slot];
  const struct txb_worker_settings *s = w->settings;
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_FAILED, b->slot);
  bool group = place->group_held >= s->held_per_group_max;
  e.failure = TXB_FAILURE_LIMIT;
  e.at = 0;
  (void)TXB_FAIL(&place->error, TXB_AGAIN,
                 "its key is held behind a failed message, and %s waits for so many already (workers.held_per_%s_max: "
                 "%" PRId64 "): retry, edit or discard what failed (txbroker failed list), or raise the limit",
                 group ? "the group" : "it", group ? "group" : "key",
                 group ? s->held_per_group_max : s->held_per_key_max);
  txb_worker_step(w, &e);
}

enum txb_rc txb_worker_batch_begin(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_action *a = &w->operation.action;
  int64_t first_offset = txb_worker_core_running(&w->core, a->slot, 0)->offset;
  bool made =
      w->prepared >= 0 && a->attempt == 1 && is_made(w, &w->batches[w->prepared], a->slot, first_offset, a->count);
  if (made) {
    w->running = w->prepared;
    w->batches[w->running].base = 0;
    w->prepared = -1;
  } else {
    w->running = w->prepared == 0 ? 1 : 0;
    TXB_TRY(make(w, &w->batches[w->running], a->slot, 0, a->count, a->attempt, err));
  }
  struct txb_worker_batch *b = &w->batches[w->running];
  if (b->count == 0) {
    tell_limit(w, b);
    return TXB_OK;
  }
  if (a->isolated || a->condemn)
    return txb_worker_aside_begin(w, b, err);
  if (!a->skip && (position_goes_first(w, a->slot) || txb_bug("worker_inbox_outside")))
    return send_planted(w, b, err);
  return send_batch(w, b, err);
}

/* ---- what became of it ----------------------------------------------------------------------- */

const char *txb_worker_handler_name(const txb_worker_t *w, int slot) {
  if (w->places[slot].copies)
    return TXB_COPY_FUNCTION;
  switch (w->settings->handler) {
  case TXB_HANDLER_SQL:
  case TXB_HANDLER_SQL_BATCH:
    return w->settings->function;
  case TXB_HANDLER_PLUGIN:
    return w->settings->plugin_path;
  case TXB_HANDLER_CALLBACK:
    return "callback";
  case TXB_HANDLER_ENGINE:
    return w->settings->engine->name;
  }
  return NULL;
}

/* Until when the first of what was set aside is due; -1: nothing of it is retried by itself. */
static int64_t due_of(const struct txb_worker_batch *b) {
  int64_t due_ms = -1;
  bool released = false;
  for (int32_t i = 0; i < b->aside_count; i++) {
    const struct txb_worker_aside *a = &b->aside[i];
    released = released || (a->state == TXB_ASIDE_DEAD && !a->holds);
    if (a->state == TXB_ASIDE_RETRYING && (due_ms < 0 || a->delay_ms < due_ms))
      due_ms = a->delay_ms;
    if (a->state == TXB_ASIDE_HELD && released) /* it may be the first of its key now */
      due_ms = 0;
  }
  return due_ms;
}

static int32_t tell_failed(txb_worker_t *w, const struct txb_worker_batch *b) {
  struct txb_worker_source source = {.batch = b};
  int32_t failed = 0;
  for (int32_t i = 0; i < b->aside_count; i++) {
    const struct txb_worker_aside *a = &b->aside[i];
    struct txb_worker_item item;
    if (a->state == TXB_ASIDE_HELD)
      continue;
    failed++;
    txb_worker_item_of(w, &source, a->index, &item);
    txb_worker_tell_aside(w, &item, a->state == TXB_ASIDE_DEAD ? "dead" : "retrying", 1, a->error_class, a->error);
  }
  return failed;
}

static enum txb_rc on_committed(txb_worker_t *w, struct txb_error *err) {
  const struct txb_worker_operation *o = &w->operation;
  const struct txb_worker_action *a = &o->action;
  const struct txb_worker_batch *b = &w->batches[w->running];
  struct txb_worker_place *place = &w->places[a->slot];
  struct txb_worker_event e = txb_worker_event_now(TXB_WE_COMMITTED, a->slot);
  const char *tag = txb_pg_tag(o->results[o->commit_answer]);
  e.tag_commit = strcmp(tag, "COMMIT") == 0;
  if (!e.tag_commit)
    (void)TXB_FAIL(&place->error, TXB_REFUSED,
                   "COMMIT was answered with %s: the handler went on after an error of its transaction", tag);
  w->consumed += e.tag_commit ? b->count : 0;
  txb_worker_nudge(w);
  /* A crash here, or any later: the effects stand, and Kafka's copy of the offset is a little old. */
  txb_failpoint("worker.after_commit");
  e.settled = b->count;
  e.due_ms = -1;
  e.held_count = -1;
  if (e.tag_commit && b->aside_count > 0) {
    txb_failpoint("worker.after_set_aside");
    e.aside = true;
    e.failed = tell_failed(w, b);
    e.due_ms = due_of(b);
    if (o->add_answer >= 0)
      place->group_held = txb_pg_int8(o->results[o->add_answer], 0, 0);
    TXB_TRY(txb_worker_keys_added(w, b, err));
    e.held_count = place->partition < 0 ? -1 : place->held;
  }
  if (a->isolated && !a->condemn) {
    e.transient = w->isolated.core.transient;
    e.chunk = (int32_t)txb_isolate_chunk(&w->isolated.core);
  }
  txb_worker_step(w, &e);
  return TXB_OK;
}

/* The inbox has said what is new: the handler is called. */
static enum txb_rc on_opened(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_batch *b = &w->batches[w->running];
  struct txb_worker_source source = {.batch = b};
  struct txb_worker_verdict verdict;
  int64_t applied = 0;
  txb_failpoint("worker.after_open");
  enum txb_rc rc = txb_worker_handler_plugin_run(
      w, &source, b->wanted, b->candidates, w->operation.results[w->operation.answers - 1], &applied, &verdict, err);
  if (rc == TXB_POISON) {
    txb_worker_blame(w, &verdict);
    return txb_worker_batch_rollback(w, err);
  }
  if (rc != TXB_OK)
    return rc;
  txb_failpoint("worker.after_apply");
  txb_worker_next_phase(w, TXB_PHASE_COMMIT);
  TXB_TRY(txb_worker_handler_plugin_reset(w, err));
  TXB_TRY(txb_worker_batch_add(w, b, err));
  return txb_worker_batch_close(w, b, applied, err);
}

enum txb_rc txb_worker_batch_end(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_operation *o = &w->operation;
  struct txb_worker_batch *b = &w->batches[w->running];
  struct txb_worker_source source = {.batch = b};
  switch ((enum txb_worker_phase)o->phase) {
  case TXB_PHASE_ROLLBACK:
    txb_worker_step(w, &w->verdict);
    return TXB_OK;
  case TXB_PHASE_CHUNK:
    return txb_worker_aside_end(w, b, err);
  case TXB_PHASE_COMMIT:
  case TXB_PHASE_OPEN:
  case TXB_PHASE_PLANTED:
    break;
  }
  if (o->failed)
    return txb_worker_failed(w, &source, err);
  if (o->phase == TXB_PHASE_COMMIT)
    return on_committed(w, err);
  if (o->phase == TXB_PHASE_OPEN)
    return on_opened(w, err);
  if (txb_bug("worker_inbox_outside"))
    TXB_TRY(make_planted(w, b, err));
  txb_worker_next_phase(w, TXB_PHASE_COMMIT);
  return send_batch(w, b, err);
}
