/* A run of messages in which each failure costs only itself (W5): chunks under savepoints, as consumer/isolate_core.h
 * says, in one transaction. For a batch that failed, and for failed messages that are tried again; what is done around
 * the chunks is with batch.c and retry.c.
 *
 *   SQL:     [end of the last chunk] SAVEPOINT; inbox and handler in one statement; role set back | ...
 *   plugins: [end of the last chunk] SAVEPOINT; inbox | handler calls | ...
 *
 * End of a chunk that went well: settings set back, RELEASE; of one that did not: ROLLBACK TO, which undoes everything
 * that it wrote and set, what it published as well. A crash anywhere in it rolls all of it back.
 */
#include <stdlib.h>

#include "common/fault.h"
#include "common/memory.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

static const struct txb_pg_statement savepoint = {"txb_worker_savepoint", txb_text_worker_savepoint},
                                     release = {"txb_worker_savepoint_release", txb_text_worker_savepoint_release},
                                     undo = {"txb_worker_savepoint_undo", txb_text_worker_savepoint_undo},
                                     timeout = {"txb_worker_timeout", txb_text_worker_timeout};

/* ---- beginning ------------------------------------------------------------------------------- */

static enum txb_rc make_room(struct txb_worker_isolated *o, size_t count, struct txb_error *err) {
  if (count <= o->room)
    return TXB_OK;
  TXB_TRY(txb_regrow_array(&o->candidates, count, sizeof *o->candidates, err));
  TXB_TRY(txb_regrow_array(&o->segment, count, sizeof *o->segment, err));
  TXB_TRY(txb_regrow_array(&o->chunk, count, sizeof *o->chunk, err));
  TXB_TRY(txb_regrow_array(&o->items, count, sizeof *o->items, err));
  TXB_TRY(txb_regrow_array(&o->keys, count, sizeof *o->keys, err));
  TXB_TRY(txb_regrow_array(&o->blocked, count + 1, sizeof *o->blocked, err));
  TXB_TRY(txb_regrow_array(&o->failures, count, sizeof *o->failures, err));
  o->room = count;
  return TXB_OK;
}

void txb_worker_isolated_init(struct txb_worker_isolated *o) {
  txb_pg_params_init(&o->apply);
  txb_buffer_init(&o->texts);
}

void txb_worker_isolated_fini(struct txb_worker_isolated *o) {
  txb_pg_params_fini(&o->apply);
  txb_buffer_fini(&o->texts);
  txb_free(o->candidates);
  txb_free(o->segment);
  txb_free(o->chunk);
  txb_free(o->items);
  txb_free(o->keys);
  txb_free(o->blocked);
  txb_free(o->failures);
}

enum txb_rc txb_worker_isolated_begin(txb_worker_t *w, const struct txb_worker_source *source, const uint32_t *which,
                                      int32_t n, int32_t culprit, struct txb_error *err) {
  struct txb_worker_isolated *o = &w->isolated;
  TXB_TRY(make_room(o, (size_t)n + 1, err));
  o->source = *source;
  o->open = o->fine = o->put_off = false;
  o->applied = 0;
  o->failure_count = 0;
  o->trouble = TXB_FAILURE_ERROR;
  txb_buffer_clear(&o->texts);
  for (int32_t i = 0; i < n; i++) {
    struct txb_worker_item item;
    txb_worker_item_of(w, source, which[i], &item);
    o->candidates[i] = which[i];
    o->keys[i] = txb_worker_held_key(&item);
  }
  /* `segment` and `chunk` are of the core from here on; before that they are its room for sorting. */
  txb_isolate_key_classes(o->keys, (uint32_t)n, o->segment, o->chunk);
  for (int32_t i = 0; i < n; i++)
    o->items[i] = (struct txb_isolate_item){.key_class = o->chunk[i], .state = TXB_ISOLATE_NOT_REACHED};
  const struct txb_worker_action *a = &w->operation.action;
  struct txb_isolate_options options = {.chunk = a->chunk > 0 ? (uint32_t)a->chunk : 0,
                                        .savepoints = TXB_ISOLATE_SAVEPOINTS,
                                        .culprit = culprit,
                                        .bug_behind_runs = txb_bug("worker_behind_applied")};
  txb_isolate_init(&o->core, &options, o->items, (uint32_t)n, o->segment, o->blocked);
  return TXB_OK;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

enum txb_rc txb_worker_isolated_end_chunk(txb_worker_t *w, bool last, struct txb_error *err) {
  struct txb_worker_isolated *o = &w->isolated;
  if (!o->open)
    return TXB_OK;
  o->open = false;
  if (!o->fine) { /* settings and role are what they were at the savepoint, too */
    TXB_TRY(txb_worker_send(w, &undo, NULL, err));
    return txb_worker_send(w, &release, NULL, err);
  }
  if (!txb_worker_is_sql(w, w->operation.action.slot))
    TXB_TRY(txb_worker_handler_plugin_reset(w, err));
  TXB_TRY(txb_worker_send(w, &release, NULL, err));
  if (last) /* deferred triggers may read settings of the transaction at COMMIT */
    return TXB_OK;
  if (txb_worker_is_sql(w, w->operation.action.slot))
    TXB_TRY(txb_worker_reset_settings(w, err));
  txb_pg_params_clear(&w->params);
  txb_worker_params_timeout(w);
  return txb_worker_send(w, &timeout, &w->params, err);
}

/* The messages of the chunk that are at the same attempt go in one statement: of one key, those behind the first are all
 * at their first. */
static enum txb_rc send_apply(txb_worker_t *w, const uint32_t *which, int32_t n, int32_t attempt,
                              struct txb_error *err) {
  struct txb_worker_isolated *o = &w->isolated;
  const struct txb_worker_place *place = &w->places[w->operation.action.slot];
  txb_pg_params_clear(&o->apply);
  txb_pg_add_text(&o->apply, txb_slice_text(w->settings->group));
  if (!txb_worker_is_sql(w, w->operation.action.slot)) {
    TXB_TRY(txb_worker_apply_ids(w, &o->source, which, n, &o->apply, err));
    txb_pg_add_int8(&o->apply, txb_worker_run_of(w, &o->source));
    TXB_TRY(txb_buffer_check(&o->apply.bytes, err));
    return txb_worker_send(w, &txb_worker_inbox_statement, &o->apply, err);
  }
  txb_pg_add_text(&o->apply, txb_slice_text(place->topic));
  txb_pg_add_int4(&o->apply, place->partition);
  txb_pg_add_int4(&o->apply, attempt);
  TXB_TRY(txb_worker_apply_ids(w, &o->source, which, n, &o->apply, err));
  TXB_TRY(txb_worker_apply_columns(w, &o->source, which, n, &o->apply, err));
  return txb_worker_send(w, txb_worker_apply_statement(w, w->operation.action.slot), &o->apply, err);
}

/* Moves those of the first one's attempt to the front, in their order; returns how many. */
static int32_t same_attempt(const struct txb_worker_source *source, uint32_t *which, int32_t n) {
  int32_t same = 0, attempt = txb_worker_attempt_of(source, which[0]);
  for (int32_t i = 0; i < n; i++) {
    if (txb_worker_attempt_of(source, which[i]) != attempt)
      continue;
    uint32_t one = which[i];
    memmove(which + same + 1, which + same, (size_t)(i - same) * sizeof *which);
    which[same++] = one;
  }
  return same;
}

static enum txb_rc send_chunk(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_isolated *o = &w->isolated;
  TXB_TRY(txb_worker_send(w, &savepoint, NULL, err));
  o->first_answer = w->operation.sent;
  o->open = true;
  o->fine = false;
  if (!txb_worker_is_sql(w, w->operation.action.slot))
    return send_apply(w, o->chunk, o->chunk_count, 0, err);
  for (int32_t done = 0, same; done < o->chunk_count; done += same) {
    uint32_t *rest = o->chunk + done;
    same = same_attempt(&o->source, rest, o->chunk_count - done);
    TXB_TRY(send_apply(w, rest, same, txb_worker_attempt_of(&o->source, rest[0]), err));
    TXB_TRY(txb_worker_reset_role(w, err));
  }
  return TXB_OK;
}

enum txb_rc txb_worker_isolated_next(txb_worker_t *w, bool *done_out, struct txb_error *err) {
  struct txb_worker_isolated *o = &w->isolated;
  const uint32_t *segment;
  uint32_t count;
  *done_out = !txb_isolate_next(&o->core, &segment, &count);
  if (*done_out)
    return txb_worker_isolated_end_chunk(w, true, err);
  for (uint32_t i = 0; i < count; i++)
    o->chunk[i] = o->candidates[segment[i]];
  o->chunk_count = (int32_t)count;
  o->alone = count == 1 ? (int32_t)segment[0] : -1;
  TXB_TRY(txb_worker_isolated_end_chunk(w, false, err));
  TXB_TRY(send_chunk(w, err));
  return txb_worker_sync(w, err);
}

/* ---- what came of it ------------------------------------------------------------------------- */

static int32_t candidate_of(const struct txb_worker_isolated *o, int32_t index) {
  for (uint32_t i = 0; index >= 0 && i < o->core.count; i++)
    if (o->candidates[i] == (uint32_t)index)
      return (int32_t)i;
  return -1;
}

static void note_failure(struct txb_worker_isolated *o, const struct txb_worker_verdict *v,
                         const struct txb_failure_meaning *meaning) {
  struct txb_worker_failure *f = &o->failures[o->failure_count++];
  *f = (struct txb_worker_failure){.candidate = (uint32_t)o->alone,
                                   .class = meaning->class,
                                   .after_ms = v->after_ms,
                                   .error_class = meaning->error_class,
                                   .error_at = o->texts.size};
  memcpy(f->sqlstate, v->why.sqlstate, sizeof f->sqlstate);
  txb_buffer_add(&o->texts, v->why.message, strlen(v->why.message) + 1);
}

/* A failure that is nobody's: the run ends before the message that met it alone, unless its patience is over. */
static enum txb_isolate_verdict judge(txb_worker_t *w, const struct txb_worker_verdict *v) {
  struct txb_worker_isolated *o = &w->isolated;
  struct txb_failure_meaning meaning = txb_worker_meaning(w, v);
  if (meaning.class == TXB_CLASS_FREE && w->operation.action.patience_over && o->alone == 0)
    meaning = txb_failure_of(TXB_CAUSE_CONFLICT, NULL, true);
  struct txb_worker_place *place = &w->places[w->operation.action.slot];
  place->error = v->why;
  place->error_class = meaning.error_class;
  place->failure_class = meaning.class;
  if (meaning.class == TXB_CLASS_FREE || meaning.class == TXB_CLASS_WAIT) {
    o->trouble = meaning.class == TXB_CLASS_FREE ? TXB_FAILURE_CONFLICT : TXB_FAILURE_WAIT;
    return TXB_ISOLATE_TRANSIENT;
  }
  if (o->alone >= 0)
    note_failure(o, v, &meaning);
  return TXB_ISOLATE_COUNTS;
}

/* Of a SQL chunk only a live batch's counts: it has one statement. */
static int64_t counted(const txb_worker_t *w) {
  const struct txb_worker_isolated *o = &w->isolated;
  if (o->source.rows != NULL)
    return 0;
  const struct txb_pg_result *r = w->operation.results[o->first_answer];
  return strtoll(txb_pg_text(r, 0, 0), NULL, 10);
}

enum txb_rc txb_worker_isolated_answer(txb_worker_t *w, struct txb_error *err) {
  struct txb_worker_isolated *o = &w->isolated;
  struct txb_worker_verdict verdict = {.at = -1, .outcome = "error"};
  enum txb_rc rc = TXB_OK;
  if (w->operation.failed) {
    if (txb_worker_is_away(w, &w->operation.error)) {
      *err = w->operation.error;
      return err->rc;
    }
    txb_worker_verdict_of(w, &o->source, &w->operation.error, &verdict);
    rc = TXB_POISON;
  } else if (txb_worker_is_sql(w, w->operation.action.slot)) {
    o->applied += counted(w);
  } else {
    int64_t applied = 0;
    rc = txb_worker_handler_plugin_run(w, &o->source, o->chunk, o->chunk_count, w->operation.results[o->first_answer],
                                       &applied, &verdict, err);
    if (rc != TXB_OK && rc != TXB_POISON)
      return rc;
    o->applied += rc == TXB_OK ? applied : 0;
  }
  if (verdict.put_off) {
    o->put_off = true;
    return TXB_OK;
  }
  o->fine = rc == TXB_OK;
  txb_isolate_answer(&o->core, o->fine ? TXB_ISOLATE_RAN : judge(w, &verdict), candidate_of(o, verdict.at));
  return txb_buffer_check(&o->texts, err);
}

const struct txb_worker_failure *txb_worker_isolated_failure(const struct txb_worker_isolated *o, uint32_t candidate) {
  int32_t low = 0, high = o->failure_count; /* they were found in their order, and may be many */
  while (low < high) {
    int32_t middle = low + (high - low) / 2;
    if (o->failures[middle].candidate < candidate)
      low = middle + 1;
    else
      high = middle;
  }
  return low < o->failure_count && o->failures[low].candidate == candidate ? &o->failures[low] : NULL;
}

const char *txb_worker_isolated_error(const struct txb_worker_isolated *o, const struct txb_worker_failure *f) {
  return o->texts.data + f->error_at;
}
