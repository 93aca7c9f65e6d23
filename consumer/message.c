/* A fetched record: its meaning, and its headers as JSON. Whatever a foreign producer sends (binary keys, NUL bytes,
 * headers that are no text) must reach the handler as data and never stop the bookkeeping (W12). */
#include "common/base64.h"
#include "common/memory.h"
#include "consumer/worker_internal.h"

enum txb_rc txb_worker_message_new(void *kafka, const struct txb_record *record, struct txb_worker_message **out,
                                   struct txb_error *err) {
  void *memory = NULL;
  TXB_TRY(txb_alloc(sizeof **out, &memory, err));
  struct txb_worker_message *m = memory;
  m->kafka = kafka;
  m->record = *record;
  txb_event_parse(record, &m->event);
  m->record.headers = NULL; /* borrowed from a scratch array */
  m->record.header_count = 0;
  *out = m;
  return TXB_OK;
}

/* The next piece of a message's own bytes; what is absent stays so. */
static struct txb_slice keep(char **at, struct txb_slice s) {
  if (s.data == NULL)
    return s;
  struct txb_slice kept = txb_slice_of(*at, s.size);
  memcpy(*at, s.data, s.size);
  *at += s.size;
  return kept;
}

enum txb_rc txb_worker_message_copy(const struct txb_record *record, const struct txb_event *event,
                                    struct txb_buffer *scratch, struct txb_worker_message **out, int64_t *size_out,
                                    struct txb_error *err) {
  txb_buffer_clear(scratch);
  txb_worker_headers_json(record, event, scratch);
  TXB_TRY(txb_buffer_check(scratch, err));
  const struct txb_slice parts[] = {record->key, record->value,       event->source,
                                    event->type, event->content_type, txb_slice_of(scratch->data, scratch->size)};
  size_t size = sizeof **out;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(parts); i++)
    TXB_ASSERT(txb_size_add(size, parts[i].size, &size));
  void *memory = NULL;
  TXB_TRY(txb_alloc(size, &memory, err));
  struct txb_worker_message *m = memory;
  char *at = (char *)(m + 1);
  m->record = (struct txb_record){.topic = record->topic,
                                  .partition = record->partition,
                                  .offset = record->offset,
                                  .timestamp_ms = record->timestamp_ms,
                                  .key = keep(&at, parts[0]),
                                  .value = keep(&at, parts[1])};
  m->event = *event;
  m->event.source = keep(&at, parts[2]);
  m->event.type = keep(&at, parts[3]);
  m->event.content_type = keep(&at, parts[4]);
  m->headers = keep(&at, parts[5]);
  *out = m;
  *size_out = (int64_t)size;
  return TXB_OK;
}

static bool is_named(struct txb_slice name, const char *lower) {
  const char *p = name.data;
  if (name.size != strlen(lower))
    return false;
  for (size_t i = 0; i < name.size; i++)
    if ((p[i] >= 'A' && p[i] <= 'Z' ? p[i] - 'A' + 'a' : p[i]) != lower[i])
      return false;
  return true;
}

/* What the message says in fields of its own. Of a foreign or malformed one everything is kept: its ce_id is not the
 * message's id. */
static bool is_told_elsewhere(struct txb_slice name, const struct txb_event *event) {
  static const char *const names[] = {"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"};
  for (size_t i = 0; !event->foreign && event->problem == NULL && i < TXB_ARRAY_SIZE(names); i++)
    if (is_named(name, names[i]))
      return true;
  return false;
}

static void add_base64(struct txb_slice bytes, struct txb_buffer *out) {
  txb_buffer_add(out, "\"", 1);
  txb_base64_encode(bytes, out);
  txb_buffer_add(out, "\"", 1);
}

static void add_value(struct txb_slice value, struct txb_buffer *out) {
  if (value.data == NULL) {
    txb_buffer_add_text(out, "null");
  } else if (txb_slice_is_text(value)) {
    txb_buffer_add_json(out, value);
  } else { /* a NUL would be \u0000, which jsonb refuses */
    txb_buffer_add_text(out, "{\"base64\": ");
    add_base64(value, out);
    txb_buffer_add_text(out, "}");
  }
}

void txb_worker_headers_json(const struct txb_record *record, const struct txb_event *event, struct txb_buffer *out) {
  bool any = false;
  txb_buffer_add_text(out, "{");
  for (size_t i = 0; i < record->header_count; i++) {
    const struct txb_header *h = &record->headers[i];
    if (is_told_elsewhere(h->name, event))
      continue;
    if (any)
      txb_buffer_add_text(out, ", ");
    any = true;
    if (txb_slice_is_text(h->name))
      txb_buffer_add_json(out, h->name);
    else
      add_base64(h->name, out);
    txb_buffer_add_text(out, ": ");
    add_value(h->value, out);
  }
  txb_buffer_add_text(out, "}");
}
