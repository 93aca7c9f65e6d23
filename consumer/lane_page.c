/* See lane_page.h. */
#include "consumer/lane_page.h"

#include "common/memory.h"
#include "consumer/worker_internal.h"

#define ROW_OVERHEAD 200 /* what libpq's result holds for a row beside its values, roughly */

/* The columns of lane_read.sql. */
enum {
  ROW_SEQ,
  ROW_ID,
  ROW_KEY,
  ROW_TYPE,
  ROW_PAYLOAD,
  ROW_CONTENT_TYPE,
  ROW_HEADERS,
  ROW_CREATED_AT,
  ROW_SIZE,
  ROW_COPIED, /* then its source is its own, and so may its key be */
  ROW_COPIED_SOURCE,
  ROW_COPIED_KEY
};

struct txb_lane_page {
  struct txb_pg_result *rows;
  int refs; /* messages that are out, and the reader while it gives them */
  char *event_source;
  struct txb_worker_message messages[];
};

int64_t txb_lane_page_bytes(const struct txb_pg_result *rows) {
  int64_t bytes = 0;
  for (int i = 0; i < txb_pg_rows(rows); i++)
    bytes += txb_pg_int4(rows, i, ROW_SIZE);
  return bytes;
}

int64_t txb_lane_page_seq(const struct txb_pg_result *rows, int row) {
  return txb_pg_int8(rows, row, ROW_SEQ);
}

enum txb_rc txb_lane_page_new(struct txb_pg_result *rows, const char *event_source, struct txb_lane_page **out,
                              struct txb_error *err) {
  void *memory = NULL;
  size_t size, count = (size_t)txb_pg_rows(rows);
  TXB_ASSERT(txb_size_mul(count, sizeof(struct txb_worker_message), &size));
  TXB_TRY(txb_alloc(sizeof(struct txb_lane_page) + size, &memory, err));
  struct txb_lane_page *page = memory;
  enum txb_rc rc = txb_strdup(event_source, &page->event_source, err);
  if (rc != TXB_OK) {
    txb_free(page);
    return rc;
  }
  page->rows = rows;
  page->refs = 1;
  *out = page;
  return TXB_OK;
}

void txb_lane_page_unref(struct txb_lane_page *page) {
  if (page == NULL || --page->refs > 0)
    return;
  txb_pg_result_free(page->rows);
  txb_free(page->event_source);
  txb_free(page);
}

int txb_lane_page_rows(const struct txb_lane_page *page) {
  return txb_pg_rows(page->rows);
}

/* As the record would be read that the relay makes of it (outbox/relay_publish.c). */
struct txb_worker_message *txb_lane_page_give(struct txb_lane_page *page, int row, struct txb_slice topic,
                                              int32_t partition, int64_t *size_out) {
  const struct txb_pg_result *rows = page->rows;
  struct txb_worker_message *m = &page->messages[row];
  m->page = page;
  m->headers = txb_pg_jsonb(rows, row, ROW_HEADERS);
  m->record.topic = topic;
  m->record.partition = partition;
  m->record.offset = txb_pg_int8(rows, row, ROW_SEQ);
  m->record.key = txb_pg_bytes(rows, row, txb_pg_is_null(rows, row, ROW_COPIED_KEY) ? ROW_KEY : ROW_COPIED_KEY);
  m->record.value = txb_pg_bytes(rows, row, ROW_PAYLOAD);
  m->event.time_us = txb_pg_timestamptz_us(rows, row, ROW_CREATED_AT);
  m->record.timestamp_ms = m->event.time_us / 1000;
  txb_pg_uuid(rows, row, ROW_ID, &m->event.id);
  m->event.source = txb_pg_bool(rows, row, ROW_COPIED) ? txb_pg_bytes(rows, row, ROW_COPIED_SOURCE)
                                                       : txb_slice_text(page->event_source);
  m->event.type = txb_pg_bytes(rows, row, ROW_TYPE);
  m->event.content_type = txb_pg_bytes(rows, row, ROW_CONTENT_TYPE);
  m->event.is_command = txb_event_is_command(m->headers);
  *size_out = (int64_t)(m->record.key.size + m->record.value.size + m->headers.size + sizeof *m) + ROW_OVERHEAD;
  page->refs++;
  return m;
}

void txb_lane_message_release(struct txb_worker_message *message) {
  if (message->page != NULL)
    txb_lane_page_unref(message->page);
  else
    txb_free(message);
}
