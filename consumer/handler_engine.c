/* Engines: handlers of the program's own that take a batch as a whole (worker.h). They send statements into the pipeline of
 * the delivery's transaction and wait for them, as a plugin's calls are waited for.
 */
#include "common/memory.h"
#include "consumer/worker_internal.h"

enum txb_rc txb_worker_handler_engine_open(txb_worker_t *w, struct txb_error *err) {
  TXB_TRY(w->settings->engine->open(w->settings, &w->engine_context, err));
  w->engine_open = true;
  return TXB_OK;
}

enum txb_rc txb_worker_handler_engine_connected(txb_worker_t *w, struct txb_error *err) {
  if (!w->engine_open)
    return TXB_OK;
  return w->settings->engine->connected(w->engine_context, w->pg, err);
}

void txb_worker_handler_engine_close(txb_worker_t *w) {
  if (w->engine_open)
    w->settings->engine->close(w->engine_context);
  w->engine_open = false;
}

/* The headers' texts come one at a time into a scratch buffer: they are copied, and pointed to when they lie still. */
struct texts {
  struct txb_buffer bytes;
  size_t *starts;
};

static void texts_fini(struct texts *t) {
  txb_buffer_fini(&t->bytes);
  txb_free(t->starts);
}

static enum txb_rc gather(txb_worker_t *w, const struct txb_worker_source *source, const uint32_t *which, int32_t n,
                          const struct txb_fresh_ids *fresh, struct texts *t, struct txb_engine_message *out,
                          size_t *count_out, struct txb_error *err) {
  const struct txb_worker_place *place = &w->places[w->operation.action.slot];
  size_t count = 0;
  for (int32_t k = 0; k < n; k++) {
    struct txb_worker_item item;
    struct txb_slice headers;
    txb_worker_item_of(w, source, which[k], &item);
    if (!txb_fresh_ids_has(fresh, &item.id))
      continue;
    TXB_TRY(txb_worker_item_headers(w, source, which[k], &headers, err));
    t->starts[count] = t->bytes.size;
    txb_buffer_add(&t->bytes, headers.data, headers.size);
    out[count++] = (struct txb_engine_message){.id = item.id,
                                               .partition = place->partition,
                                               .offset = item.offset,
                                               .time_us = item.time_us,
                                               .key = item.key,
                                               .type = item.type,
                                               .payload = item.payload};
  }
  TXB_TRY(txb_buffer_check(&t->bytes, err));
  t->starts[count] = t->bytes.size;
  for (size_t i = 0; i < count; i++)
    out[i].headers = txb_slice_of(t->bytes.data + t->starts[i], t->starts[i + 1] - t->starts[i]);
  *count_out = count;
  return TXB_OK;
}

enum txb_rc txb_worker_handler_engine_run(txb_worker_t *w, const struct txb_worker_source *source,
                                          const uint32_t *which, int32_t n, const struct txb_fresh_ids *fresh,
                                          int64_t *applied_out, struct txb_worker_verdict *out, struct txb_error *err) {
  TXB_CLEANUP(texts_fini) struct texts texts = {.starts = NULL};
  TXB_CLEANUP(txb_free_ptr) struct txb_engine_message *messages = NULL;
  size_t count;
  txb_buffer_init(&texts.bytes);
  TXB_TRY(txb_regrow_array(&texts.starts, (size_t)n + 1, sizeof *texts.starts, err));
  TXB_TRY(txb_regrow_array(&messages, (size_t)n + 1, sizeof *messages, err));
  TXB_TRY(gather(w, source, which, n, fresh, &texts, messages, &count, err));
  w->published = count > 0;
  enum txb_rc rc = count == 0 ? TXB_OK : w->settings->engine->apply(w->engine_context, w->pg, messages, count, err);
  if (rc == TXB_OK) {
    *applied_out = (int64_t)count;
    return TXB_OK;
  }
  if (rc == TXB_FATAL || !txb_pg_is_usable(w->pg) || txb_worker_is_away(w, err))
    return rc;
  *out = (struct txb_worker_verdict){.at = n == 1 ? (int32_t)which[0] : -1, .outcome = "error", .why = *err};
  return TXB_POISON;
}
