/* The CloudEvents 1.0 envelope in Kafka's binary content mode: what a message's headers mean.
 * Source: CloudEvents spec 1.0.2 and its Kafka protocol binding 3.2 (headers "ce_" + attribute, "content-type"; values
 * are UTF-8). Pure.
 *
 * A message without CloudEvents headers, or with malformed ones, is foreign, not wrong: it is accepted, keyed by where
 * it stands (W7), and `problem` says what was malformed, for the log and for `tail`.
 */
#ifndef TXB_COMMON_EVENT_H
#define TXB_COMMON_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"
#include "common/uuid.h"

#define TXB_EVENT_HEADERS_MAX 64

struct txb_header {
  struct txb_slice name;  /* text */
  struct txb_slice value; /* any bytes; absent: null */
};

/* A record as it lies in Kafka. All slices borrowed. */
struct txb_record {
  struct txb_slice cluster; /* Kafka's cluster id; may be empty when unknown */
  struct txb_slice topic;
  int32_t partition;
  int64_t offset;
  int64_t timestamp_ms;        /* of the record; -1: none */
  struct txb_slice key, value; /* absent: null */
  const struct txb_header *headers;
  size_t header_count;
};

/* What it means. Slices borrow from the record. */
struct txb_event {
  struct txb_uuid id;            /* its own when ce_id is a UUIDv7, else derived (W7) */
  bool foreign;                  /* the id was derived */
  struct txb_slice source;       /* ce_source, absent for a message without CloudEvents headers */
  struct txb_slice type;         /* ce_type, absent likewise */
  int64_t time_us;               /* ce_time, else the record's timestamp, else 0 */
  struct txb_slice content_type; /* absent when none is given */
  bool is_command; /* it says where its answer goes: a header txb-reply-to (schemas/sql/0023_commands.sql) */
  /* NULL, or what in the headers was malformed and therefore ignored ("ce_time is not RFC 3339"); static storage. */
  const char *problem;
};

/* A derived id is txb_uuid_v7_derive of time_us and (ce_source, ce_id), or (cluster, topic, partition, offset) with
 * both numbers as decimal text. Never fails: whatever comes from a foreign producer has a meaning. Header names are
 * compared without regard to case, the last of equal names counts. */
void txb_event_parse(const struct txb_record *record, struct txb_event *out);

/* The same of headers that are a JSON object already. */
bool txb_event_is_command(struct txb_slice headers_json);

/* RFC 3339 to wall microseconds; false when malformed. */
bool txb_event_time_parse(struct txb_slice text, int64_t *wall_us_out);

/* The limits that every way of publishing checks (the SQL side has the same in schemas/sql; a test compares them). */
enum {
  TXB_TOPIC_SIZE_MAX = 249, /* Kafka's own */
  TXB_KEY_SIZE_MAX = 1024,
  TXB_TYPE_SIZE_MAX = 255,
  TXB_CONTENT_TYPE_SIZE_MAX = 255,
  TXB_PAYLOAD_SIZE_MAX = 1000000, /* leaves room for key and headers below Kafka's default of 1,048,588 a batch */
  TXB_HEADERS_MAX = 32,
  TXB_HEADERS_SIZE_MAX = 16384, /* the headers' JSON text */
};

#endif
