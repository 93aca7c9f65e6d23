/* Messages as parameters: of the handler's statement, and of txb.failed_add. They come from Kafka, or from txb.failed
 * when they are tried again, and are the same to a handler. Nothing is sent from here. */
#include "consumer/worker_internal.h"

/* The columns of worker_retry_mark.sql. */
enum {
  ROW_ATTEMPTS = 3,
  ROW_OFFSET = 6,
  ROW_ID,
  ROW_SOURCE,
  ROW_KEY,
  ROW_TYPE,
  ROW_TIME,
  ROW_PAYLOAD,
  ROW_CONTENT_TYPE,
  ROW_HEADERS,
  ROW_RUN
};

static const struct txb_worker_message *message_at(const txb_worker_t *w, const struct txb_worker_batch *b,
                                                   uint32_t i) {
  return txb_worker_core_running(&w->core, b->slot, b->base + (int32_t)i)->ref;
}

static int64_t time_us_of_row(const struct txb_pg_result *rows, int row) {
  return txb_pg_is_null(rows, row, ROW_TIME) ? 0 : txb_pg_timestamptz_us(rows, row, ROW_TIME);
}

static void item_of_row(const struct txb_pg_result *rows, int row, struct txb_worker_item *out) {
  txb_pg_uuid(rows, row, ROW_ID, &out->id);
  out->offset = txb_pg_int8(rows, row, ROW_OFFSET);
  out->source = txb_pg_bytes(rows, row, ROW_SOURCE);
  out->key = txb_pg_bytes(rows, row, ROW_KEY);
  out->type = txb_pg_bytes(rows, row, ROW_TYPE);
  out->time_us = time_us_of_row(rows, row);
  out->payload = txb_pg_bytes(rows, row, ROW_PAYLOAD);
  out->content_type = txb_pg_bytes(rows, row, ROW_CONTENT_TYPE);
  out->is_command = txb_event_is_command(txb_pg_jsonb(rows, row, ROW_HEADERS));
}

void txb_worker_item_of(const txb_worker_t *w, const struct txb_worker_source *s, uint32_t i,
                        struct txb_worker_item *out) {
  if (s->rows != NULL) {
    item_of_row(s->rows, (int)i, out);
    return;
  }
  const struct txb_worker_message *m = message_at(w, s->batch, i);
  *out = (struct txb_worker_item){.id = s->batch->ids[i],
                                  .offset = m->record.offset,
                                  .source = m->event.source,
                                  .key = m->record.key,
                                  .type = m->event.type,
                                  .time_us = m->event.time_us,
                                  .payload = m->record.value,
                                  .content_type = m->event.content_type,
                                  .is_command = m->event.is_command};
}

/* A partition's failed messages may be a replay's: what a lane may not run behind a held key waits there. */
int64_t txb_worker_run_of(const txb_worker_t *w, const struct txb_worker_source *s) {
  return s->rows == NULL ? w->places[s->batch->slot].run : txb_pg_int8(s->rows, 0, ROW_RUN);
}

int32_t txb_worker_attempt_of(const struct txb_worker_source *s, uint32_t i) {
  return s->rows == NULL ? 1 : txb_pg_int4(s->rows, (int)i, ROW_ATTEMPTS) + 1;
}

enum txb_rc txb_worker_item_headers(txb_worker_t *w, const struct txb_worker_source *s, uint32_t i,
                                    struct txb_slice *out, struct txb_error *err) {
  if (s->rows != NULL) {
    *out = txb_pg_jsonb(s->rows, (int)i, ROW_HEADERS);
    if (out->data == NULL)
      *out = txb_slice_text("{}");
    return TXB_OK;
  }
  const struct txb_worker_message *m = message_at(w, s->batch, i);
  if (m->kafka == NULL) {
    *out = m->headers.data != NULL ? m->headers : txb_slice_text("{}");
    return TXB_OK;
  }
  struct txb_record record = m->record;
  TXB_TRY(txb_kafka_consumer_headers(w->kafka, m->kafka, &record, err));
  txb_buffer_clear(&w->text);
  txb_worker_headers_json(&record, &m->event, &w->text);
  TXB_TRY(txb_buffer_check(&w->text, err));
  *out = txb_slice_of(w->text.data, w->text.size);
  return TXB_OK;
}

/* ---- columns --------------------------------------------------------------------------------- */

enum column { COLUMN_ID, COLUMN_SOURCE, COLUMN_KEY, COLUMN_TYPE, COLUMN_PAYLOAD, COLUMN_CONTENT_TYPE };

static const int row_columns[] = {
    [COLUMN_ID] = ROW_ID,     [COLUMN_SOURCE] = ROW_SOURCE,   [COLUMN_KEY] = ROW_KEY,
    [COLUMN_TYPE] = ROW_TYPE, [COLUMN_PAYLOAD] = ROW_PAYLOAD, [COLUMN_CONTENT_TYPE] = ROW_CONTENT_TYPE};

/* One column of one message, and nothing else of it: this runs for every message, column by column. */
static struct txb_slice column_of(const txb_worker_t *w, const struct txb_worker_source *s, uint32_t i,
                                  enum column column) {
  if (s->rows != NULL)
    return txb_pg_bytes(s->rows, (int)i, row_columns[column]);
  const struct txb_uuid *id = &s->batch->ids[i];
  if (column == COLUMN_ID)
    return txb_slice_of(id->bytes, sizeof id->bytes);
  const struct txb_worker_message *m = message_at(w, s->batch, i);
  switch (column) {
  case COLUMN_ID:
    break;
  case COLUMN_SOURCE:
    return m->event.source;
  case COLUMN_KEY:
    return m->record.key;
  case COLUMN_TYPE:
    return m->event.type;
  case COLUMN_PAYLOAD:
    return m->record.value;
  case COLUMN_CONTENT_TYPE:
    return m->event.content_type;
  }
  return txb_slice_of(NULL, 0);
}

static void add_column(const txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which, int32_t n,
                       enum column column, uint32_t oid, struct txb_pg_params *p) {
  txb_pg_array_begin(p, oid);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_bytes(p, column_of(w, s, which[i], column));
  txb_pg_array_end(p);
}

static int64_t offset_of(const txb_worker_t *w, const struct txb_worker_source *s, uint32_t i) {
  return s->rows != NULL ? txb_pg_int8(s->rows, (int)i, ROW_OFFSET) : message_at(w, s->batch, i)->record.offset;
}

static int64_t time_us_of(const txb_worker_t *w, const struct txb_worker_source *s, uint32_t i) {
  return s->rows != NULL ? time_us_of_row(s->rows, (int)i) : message_at(w, s->batch, i)->event.time_us;
}

static void add_offsets(const txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which, int32_t n,
                        struct txb_pg_params *p) {
  txb_pg_array_begin(p, TXB_OID_INT8);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_int8(p, offset_of(w, s, which[i]));
  txb_pg_array_end(p);
}

static void add_times(const txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which, int32_t n,
                      struct txb_pg_params *p) {
  txb_pg_array_begin(p, TXB_OID_TIMESTAMPTZ);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_timestamptz(p, time_us_of(w, s, which[i]));
  txb_pg_array_end(p);
}

static enum txb_rc add_headers(txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which, int32_t n,
                               struct txb_pg_params *p, struct txb_error *err) {
  txb_pg_array_begin(p, TXB_OID_JSONB);
  for (int32_t i = 0; i < n; i++) {
    struct txb_slice json;
    TXB_TRY(txb_worker_item_headers(w, s, which[i], &json, err));
    txb_pg_array_jsonb(p, json);
  }
  txb_pg_array_end(p);
  return TXB_OK;
}

/* A copy of a command is no command: whoever reads it in its new place answers it. */
static bool has_commands(txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which, int32_t n) {
  /* A batch made ahead is of its own partition, which need not be the one the operation under way works on. */
  int slot = s->rows != NULL ? w->operation.action.slot : s->batch->slot;
  if (w->places[slot].copies)
    return false;
  for (int32_t i = 0; i < n; i++)
    if (s->rows != NULL ? txb_event_is_command(txb_pg_jsonb(s->rows, (int)which[i], ROW_HEADERS))
                        : message_at(w, s->batch, which[i])->event.is_command) {
      txb_worker_serves_commands(w);
      return true;
    }
  return false;
}

/* What stands behind id and offset in every statement that takes messages, in its order. */
static enum txb_rc add_rest(txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which, int32_t n,
                            struct txb_pg_params *p, struct txb_error *err) {
  add_column(w, s, which, n, COLUMN_SOURCE, TXB_OID_TEXT, p);
  add_column(w, s, which, n, COLUMN_KEY, TXB_OID_BYTEA, p);
  add_column(w, s, which, n, COLUMN_TYPE, TXB_OID_TEXT, p);
  add_times(w, s, which, n, p);
  add_column(w, s, which, n, COLUMN_PAYLOAD, TXB_OID_BYTEA, p);
  add_column(w, s, which, n, COLUMN_CONTENT_TYPE, TXB_OID_TEXT, p);
  return add_headers(w, s, which, n, p, err);
}

enum txb_rc txb_worker_apply_columns(txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which,
                                     int32_t n, struct txb_pg_params *p, struct txb_error *err) {
  add_column(w, s, which, n, COLUMN_ID, TXB_OID_UUID, p);
  add_offsets(w, s, which, n, p);
  TXB_TRY(add_rest(w, s, which, n, p, err));
  txb_pg_add_int4(p, 1); /* see worker_apply_message.sql */
  txb_pg_add_int8(p, txb_worker_run_of(w, s));
  txb_pg_add_bool(p, has_commands(w, s, which, n));
  return txb_buffer_check(&p->bytes, err);
}

/* A heap sort, since it needs neither memory nor luck. */
static bool before(const struct txb_uuid *a, const struct txb_uuid *b) {
  return memcmp(a, b, sizeof *a) < 0;
}

static void sift(struct txb_uuid *ids, size_t root, size_t end) {
  for (size_t child; (child = 2 * root + 1) < end; root = child) {
    if (child + 1 < end && before(&ids[child], &ids[child + 1]))
      child++;
    if (!before(&ids[root], &ids[child]))
      return;
    struct txb_uuid swap = ids[root];
    ids[root] = ids[child];
    ids[child] = swap;
  }
}

void txb_worker_sort_ids(struct txb_uuid *ids, size_t n) {
  for (size_t i = n / 2; i-- > 0;)
    sift(ids, i, n);
  for (size_t end = n; end-- > 1;) {
    struct txb_uuid swap = ids[0];
    ids[0] = ids[end];
    ids[end] = swap;
    sift(ids, 0, end);
  }
}

enum txb_rc txb_worker_apply_ids(txb_worker_t *w, const struct txb_worker_source *s, const uint32_t *which, int32_t n,
                                 struct txb_pg_params *p, struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) struct txb_uuid *ids = NULL;
  void *memory = NULL;
  TXB_TRY(txb_alloc_array((size_t)n + 1, sizeof *ids, &memory, err));
  ids = memory;
  for (int32_t i = 0; i < n; i++)
    memcpy(ids[i].bytes, column_of(w, s, which[i], COLUMN_ID).data, sizeof ids[i].bytes);
  txb_worker_sort_ids(ids, (size_t)n);
  txb_pg_array_begin(p, TXB_OID_UUID);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_bytes(p, txb_slice_of(ids[i].bytes, sizeof ids[i].bytes));
  txb_pg_array_end(p);
  return TXB_OK;
}

/* ---- setting aside --------------------------------------------------------------------------- */

static const char *const state_names[] = {
    [TXB_ASIDE_RETRYING] = "retrying", [TXB_ASIDE_HELD] = "held", [TXB_ASIDE_DEAD] = "dead"};

/* Text of a handler or a server, as PostgreSQL takes it. */
struct txb_slice txb_worker_safe_text(struct txb_slice text, struct txb_buffer *scratch) {
  if (text.data == NULL || txb_slice_is_text(text))
    return text;
  txb_buffer_clear(scratch);
  const char *bytes = text.data;
  for (size_t at = 0; at < text.size;) {
    size_t step = bytes[at] == '\0' ? 0 : txb_utf8_character(txb_slice_of(bytes + at, text.size - at));
    if (step == 0)
      txb_buffer_add_text(scratch, "?");
    else
      txb_buffer_add(scratch, bytes + at, step);
    at += step == 0 ? 1 : step;
  }
  return txb_slice_text(txb_buffer_text(scratch));
}

enum aside_text { TEXT_CLASS, TEXT_SQLSTATE, TEXT_ERROR };

static void add_texts(txb_worker_t *w, const struct txb_worker_aside *a, int32_t n, enum aside_text which,
                      struct txb_pg_params *p) {
  txb_pg_array_begin(p, TXB_OID_TEXT);
  for (int32_t i = 0; i < n; i++) {
    const char *text = which == TEXT_CLASS ? a[i].error_class : which == TEXT_SQLSTATE ? a[i].sqlstate : a[i].error;
    if (text != NULL && text[0] == '\0')
      text = NULL;
    txb_pg_array_bytes(p, txb_worker_safe_text(txb_slice_text(text), &w->text));
  }
  txb_pg_array_end(p);
}

static void add_fates(const struct txb_worker_aside *a, int32_t n, struct txb_pg_params *p) {
  txb_pg_array_begin(p, TXB_OID_TEXT);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_bytes(p, txb_slice_text(state_names[a[i].state]));
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_INT4);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_int4(p, a[i].state == TXB_ASIDE_HELD ? 0 : 1);
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_INT8);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_int8(p, a[i].delay_ms);
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_BOOL);
  for (int32_t i = 0; i < n; i++)
    txb_pg_array_bytes(p, txb_slice_of(a[i].holds ? "\1" : "\0", 1));
  txb_pg_array_end(p);
}

enum txb_rc txb_worker_aside_params(txb_worker_t *w, const struct txb_worker_source *s,
                                    const struct txb_worker_aside *a, int32_t n, struct txb_pg_params *p,
                                    struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) uint32_t *which = NULL;
  void *memory = NULL;
  TXB_TRY(txb_alloc_array((size_t)n + 1, sizeof *which, &memory, err));
  which = memory;
  for (int32_t i = 0; i < n; i++)
    which[i] = a[i].index;
  const struct txb_worker_place *place = &w->places[s->batch->slot];
  txb_pg_params_clear(p);
  txb_pg_add_text(p, txb_slice_text(w->settings->group));
  txb_pg_add_text(p, txb_slice_text(place->topic));
  txb_pg_add_int4(p, place->partition);
  add_offsets(w, s, which, n, p);
  add_column(w, s, which, n, COLUMN_ID, TXB_OID_UUID, p);
  TXB_TRY(add_rest(w, s, which, n, p, err));
  add_fates(a, n, p);
  add_texts(w, a, n, TEXT_CLASS, p);
  add_texts(w, a, n, TEXT_SQLSTATE, p);
  add_texts(w, a, n, TEXT_ERROR, p);
  txb_pg_add_text(p, txb_slice_text(txb_worker_handler_name(w, s->batch->slot)));
  txb_pg_add_text(p, txb_slice_text(w->settings->owner));
  return txb_buffer_check(&p->bytes, err);
}
