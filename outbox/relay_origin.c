/* What a consumer makes of the copy must be the original's id, or a group that had the one would apply the other. There
 * are four kinds of originals:
 *
 *   one of ours, or any CloudEvent whose ce_id is a UUIDv7: its attributes were taken out of its headers, and come back
 *   a CloudEvent with another ce_id: all its headers are there and stand; its id was derived of source, id and time
 *   the same without a ce_time: the time was the record's, which the copy's record doesn't have; it becomes the ce_time
 *   what is no CloudEvent: its id was derived of where it lay, and becomes the copy's ce_id
 *
 * Which of them it is need not be known: the headers are read as a consumer would, and mended until the id is right. */
#include "outbox/relay_origin.h"

#include <string.h>

#include "common/base64.h"

#define ATTRIBUTES 6 /* that may have to be added */

void txb_copy_headers_init(struct txb_copy_headers *h) {
  *h = (struct txb_copy_headers){.items = NULL};
  txb_buffer_init(&h->bytes);
}

void txb_copy_headers_fini(struct txb_copy_headers *h) {
  json_decref(h->headers);
  json_decref(h->origin);
  txb_buffer_fini(&h->bytes);
  txb_free(h->items);
}

/* ---- the message's own ------------------------------------------------------------------------------------------ */

static struct txb_slice text_of(const json_t *string) {
  return txb_slice_of(json_string_value(string), json_string_length(string));
}

/* The bytes first, since the buffer that they lie in may move. What is none of the three was put there by a superuser,
 * and is left out: the message matters more. */
static enum txb_rc decode_values(struct txb_copy_headers *h, struct txb_error *err) {
  const char *name;
  json_t *value;
  json_object_foreach(h->headers, name, value) {
    size_t before = h->bytes.size;
    if (!json_is_object(value))
      continue;
    const json_t *text = json_object_get(value, "base64");
    bool good = json_is_string(text) && txb_base64_decode(text_of(text), &h->bytes);
    json_object_set_new(value, "size", good ? json_integer((json_int_t)(h->bytes.size - before)) : json_null());
    h->bytes.size = good ? h->bytes.size : before;
  }
  return txb_buffer_check(&h->bytes, err);
}

static void add(struct txb_copy_headers *h, const char *name, struct txb_slice value) {
  h->items[h->count++] = (struct txb_header){.name = txb_slice_text(name), .value = value};
}

static void add_own(struct txb_copy_headers *h) {
  const char *name;
  json_t *value;
  size_t at = 0;
  json_object_foreach(h->headers, name, value) {
    const json_t *size = json_object_get(value, "size");
    if (json_is_string(value))
      add(h, name, text_of(value));
    else if (json_is_null(value))
      add(h, name, txb_slice_of(NULL, 0));
    else if (json_is_integer(size)) {
      add(h, name, txb_slice_of(h->bytes.size == 0 ? "" : h->bytes.data + at, (size_t)json_integer_value(size)));
      at += (size_t)json_integer_value(size);
    }
  }
}

/* ---- the attributes --------------------------------------------------------------------------------------------- */

/* Names are compared without regard to case, and of equal ones the last counts: as a consumer does. */
static struct txb_header *find(const struct txb_copy_headers *h, const char *lower) {
  size_t size = strlen(lower);
  for (size_t i = h->count; i-- > 0;)
    if (h->items[i].name.size == size && strncasecmp(h->items[i].name.data, lower, size) == 0)
      return &h->items[i];
  return NULL;
}

static void set(struct txb_copy_headers *h, const char *name, struct txb_slice value) {
  struct txb_header *there = find(h, name);
  if (there != NULL)
    there->value = value;
  else
    add(h, name, value);
}

static void add_missing(struct txb_copy_headers *h, const char *name, struct txb_slice value) {
  if (value.data != NULL && find(h, name) == NULL)
    add(h, name, value);
}

/* Its attributes, where its headers don't tell: what had none gets no source and no type, and what had them without an id
 * is not made a well-formed event. */
static void add_attributes(struct txb_copy_headers *h) {
  struct txb_slice source = text_of(json_object_get(h->origin, "source")),
                   type = text_of(json_object_get(h->origin, "type"));
  if (source.data != NULL && type.data != NULL && find(h, "ce_source") == NULL && find(h, "ce_type") == NULL)
    add_missing(h, "ce_specversion", txb_slice_of("1.0", 3));
  add(h, "ce_id", txb_slice_of(h->id, 36));
  add_missing(h, "ce_source", source);
  add_missing(h, "ce_type", type);
  add_missing(h, "ce_time", text_of(json_object_get(h->origin, "time")));
}

static void read_as_consumer(const struct txb_copy_headers *h, struct txb_event *out) {
  const struct txb_record record = {.cluster = txb_slice_of("", 0),
                                    .topic = txb_slice_of("", 0),
                                    .timestamp_ms = -1,
                                    .headers = h->items,
                                    .header_count = h->count};
  txb_event_parse(&record, out);
}

static void mend_id(struct txb_copy_headers *h, const struct txb_uuid *id) {
  struct txb_event event;
  struct txb_slice time = text_of(json_object_get(h->origin, "time"));
  int64_t time_us;
  read_as_consumer(h, &event);
  if (memcmp(&event.id, id, sizeof *id) == 0)
    return;
  if (txb_event_time_parse(time, &time_us) && time_us != event.time_us) {
    set(h, "ce_time", time);
    read_as_consumer(h, &event);
  }
  if (memcmp(&event.id, id, sizeof *id) != 0)
    set(h, "ce_id", txb_slice_of(h->id, 36)); /* an edited copy's, too */
}

/* It is jsonb's, so it is well-formed. */
static enum txb_rc load(struct txb_slice text, json_t **out, struct txb_error *err) {
  json_error_t problem;
  if (text.data == NULL)
    return TXB_OK;
  *out = json_loadb(text.data, text.size, JSON_ALLOW_NUL, &problem);
  if (*out == NULL && json_error_code(&problem) == json_error_out_of_memory)
    return TXB_FAIL(err, TXB_FATAL, "out of memory: headers of a copied message");
  return TXB_OK;
}

enum txb_rc txb_copy_headers_make(struct txb_copy_headers *h, const struct txb_copy *copy, struct txb_error *err) {
  void *memory = NULL;
  TXB_TRY(load(copy->origin, &h->origin, err));
  TXB_TRY(load(copy->headers, &h->headers, err));
  TXB_TRY(txb_alloc_array(json_object_size(h->headers) + ATTRIBUTES, sizeof *h->items, &memory, err));
  h->items = memory;
  TXB_TRY(decode_values(h, err));
  add_own(h);
  if (copy->content_type.data != NULL)
    set(h, "content-type", copy->content_type);
  txb_uuid_format(copy->id, h->id);
  if (find(h, "ce_id") == NULL)
    add_attributes(h);
  else
    mend_id(h, copy->id);
  return TXB_OK;
}
