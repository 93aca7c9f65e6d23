/* CloudEvents in Kafka's binary mode. Pure: the same record always means the same event, after every crash and in every
 * process. */
#include "common/event.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* 9999-12-31T23:59:59.999Z: what lies above fits neither RFC 3339 nor a database of ours. */
#define TIMESTAMP_MS_MAX INT64_C(253402300799999)

/* ---- RFC 3339 -------------------------------------------------------------------------------- */

struct scanner {
  const char *p, *end;
};

static bool scan_number(struct scanner *s, int digits, int low, int high, int *out) {
  int v = 0;
  if (s->end - s->p < digits)
    return false;
  for (int i = 0; i < digits; i++, s->p++) {
    if (*s->p < '0' || *s->p > '9')
      return false;
    v = v * 10 + (*s->p - '0');
  }
  *out = v;
  return v >= low && v <= high;
}

static bool scan_one_of(struct scanner *s, const char *characters, char *out) {
  if (s->p == s->end || *s->p == '\0' || strchr(characters, *s->p) == NULL)
    return false;
  *out = *s->p++;
  return true;
}

/* Days from 1970-01-01 in the Gregorian calendar; the year is taken to begin in March, so that the leap day is its
 * last. */
static int64_t days_from_date(int year, int month, int day) {
  int64_t y = month <= 2 ? year - 1 : year;
  int64_t era = (y >= 0 ? y : y - 399) / 400, of_era = y - era * 400;
  int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static int days_in_month(int year, int month) {
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return days[month - 1] + (month == 2 && leap);
}

/* ".123456789": digits beyond the microsecond are dropped. No dot: no fraction. */
static bool scan_fraction(struct scanner *s, int *microseconds_out) {
  int v = 0, digits = 0;
  char c;
  if (scan_one_of(s, ".", &c)) {
    for (; scan_one_of(s, "0123456789", &c); digits++)
      if (digits < 6)
        v = v * 10 + (c - '0');
    if (digits == 0)
      return false;
  }
  for (; digits < 6; digits++)
    v *= 10;
  *microseconds_out = v;
  return true;
}

/* "Z" or "+01:00", in seconds to take off. */
static bool scan_zone(struct scanner *s, int *seconds_out) {
  char sign, colon;
  int hours = 0, minutes = 0;
  if (!scan_one_of(s, "Zz+-", &sign))
    return false;
  if ((sign == '+' || sign == '-') &&
      (!scan_number(s, 2, 0, 23, &hours) || !scan_one_of(s, ":", &colon) || !scan_number(s, 2, 0, 59, &minutes)))
    return false;
  *seconds_out = (hours * 3600 + minutes * 60) * (sign == '-' ? -1 : 1);
  return true;
}

bool txb_event_time_parse(struct txb_slice text, int64_t *wall_us_out) {
  struct scanner s = {.p = text.data};
  int year, month, day, hour, minute, second, microseconds, zone;
  char c;
  if (text.size == 0)
    return false;
  s.end = s.p + text.size;
  bool date = scan_number(&s, 4, 0, 9999, &year) && scan_one_of(&s, "-", &c) && scan_number(&s, 2, 1, 12, &month) &&
              scan_one_of(&s, "-", &c) && scan_number(&s, 2, 1, 31, &day) && day <= days_in_month(year, month);
  bool time = date && scan_one_of(&s, "Tt", &c) && scan_number(&s, 2, 0, 23, &hour) && scan_one_of(&s, ":", &c) &&
              scan_number(&s, 2, 0, 59, &minute) && scan_one_of(&s, ":", &c) && scan_number(&s, 2, 0, 60, &second);
  if (!time || !scan_fraction(&s, &microseconds) || !scan_zone(&s, &zone) || s.p != s.end)
    return false;
  int64_t seconds = days_from_date(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - zone;
  *wall_us_out = seconds * 1000000 + microseconds;
  return true;
}

#define REPLY_TO "txb-reply-to"

/* A quotation mark within a text is escaped, so that only a name can look like that, or a value that is just this. */
bool txb_event_is_command(struct txb_slice headers_json) {
  static const char name[] = "\"" REPLY_TO "\"";
  return headers_json.size > sizeof name && memmem(headers_json.data, headers_json.size, name, sizeof name - 1) != NULL;
}

/* ---- the envelope ---------------------------------------------------------------------------- */

enum attribute { SPECVERSION, ID, SOURCE, TYPE, TIME, CONTENT_TYPE, ATTRIBUTES };

static const struct {
  const char *header;
  const char *not_text; /* the problem when its value is not text, or empty */
} attributes[ATTRIBUTES] = {
    [SPECVERSION] = {"ce_specversion", "ce_specversion is not text"},
    [ID] = {"ce_id", "ce_id is not text"},
    [SOURCE] = {"ce_source", "ce_source is not text"},
    [TYPE] = {"ce_type", "ce_type is not text"},
    [TIME] = {"ce_time", "ce_time is not text"},
    [CONTENT_TYPE] = {"content-type", "content-type is not text"},
};

static bool begins_with(struct txb_slice s, const char *lower) {
  size_t size = strlen(lower);
  const char *p = s.data;
  if (s.size < size)
    return false;
  for (size_t i = 0; i < size; i++)
    if ((p[i] >= 'A' && p[i] <= 'Z' ? p[i] - 'A' + 'a' : p[i]) != lower[i])
      return false;
  return true;
}

static void note(struct txb_event *out, const char *problem) {
  if (out->problem == NULL) /* the first one explains the others */
    out->problem = problem;
}

/* The attributes' values; what is not text is left out and noted. True when any ce_ header is there. */
static bool collect(const struct txb_record *record, struct txb_slice values[ATTRIBUTES], struct txb_event *out) {
  bool any = false;
  memset(values, 0, sizeof(struct txb_slice) * ATTRIBUTES);
  for (size_t i = 0; i < record->header_count; i++) {
    struct txb_slice name = record->headers[i].name;
    any = any || begins_with(name, "ce_");
    out->is_command = out->is_command || txb_slice_equal(name, txb_slice_text(REPLY_TO));
    for (int a = 0; a < ATTRIBUTES; a++)
      if (name.size == strlen(attributes[a].header) && begins_with(name, attributes[a].header))
        values[a] = record->headers[i].value;
  }
  for (int a = 0; a < ATTRIBUTES; a++)
    if (values[a].data != NULL && (values[a].size == 0 || !txb_slice_is_text(values[a]))) {
      note(out, attributes[a].not_text);
      values[a] = txb_slice_of(NULL, 0);
    }
  return any;
}

static void note_missing(const struct txb_slice values[ATTRIBUTES], struct txb_event *out) {
  if (values[SPECVERSION].data == NULL)
    note(out, "ce_specversion is missing");
  else if (!txb_slice_equal(values[SPECVERSION], txb_slice_text("1.0")))
    note(out, "ce_specversion is not 1.0");
  if (values[ID].data == NULL)
    note(out, "ce_id is missing");
  if (values[SOURCE].data == NULL)
    note(out, "ce_source is missing");
  if (values[TYPE].data == NULL)
    note(out, "ce_type is missing");
}

/* A foreign message's id (W7): of what its producer calls it and of its time, so that a message sent twice with the same
 * ce_time is one; else of the place where it lies. The time can't be left out: the inbox is partitioned by what stands
 * first in an id. Without a ce_time the record's own stands in, which is another one each time it is sent. */
static void derive_id(const struct txb_record *record, const struct txb_slice values[ATTRIBUTES],
                      struct txb_event *out) {
  out->foreign = true;
  if (values[SOURCE].data != NULL && values[ID].data != NULL) {
    if (values[TIME].data == NULL)
      note(out, "ce_time is missing: sent again it would count as another message");
    const struct txb_slice parts[] = {values[SOURCE], values[ID]};
    txb_uuid_v7_derive(out->time_us, parts, TXB_ARRAY_SIZE(parts), &out->id);
    return;
  }
  char partition[16], offset[24];
  snprintf(partition, sizeof partition, "%" PRId32, record->partition);
  snprintf(offset, sizeof offset, "%" PRId64, record->offset);
  const struct txb_slice parts[] = {record->cluster, record->topic, txb_slice_text(partition), txb_slice_text(offset)};
  txb_uuid_v7_derive(out->time_us, parts, TXB_ARRAY_SIZE(parts), &out->id);
}

void txb_event_parse(const struct txb_record *record, struct txb_event *out) {
  struct txb_slice values[ATTRIBUTES];
  struct txb_uuid own;
  memset(out, 0, sizeof *out);
  bool is_event = collect(record, values, out);
  if (is_event)
    note_missing(values, out);
  out->source = values[SOURCE];
  out->type = values[TYPE];
  out->content_type = values[CONTENT_TYPE];
  if (!is_event && begins_with(out->content_type, "application/cloudevents"))
    note(out, "a CloudEvent in structured mode: its attributes are not read");

  bool timed = values[TIME].data != NULL && txb_event_time_parse(values[TIME], &out->time_us);
  if (values[TIME].data != NULL && !timed)
    note(out, "ce_time is not RFC 3339");
  if (record->timestamp_ms > TIMESTAMP_MS_MAX)
    note(out, "the record's timestamp is beyond the year 9999");
  else if (!timed && record->timestamp_ms > 0)
    out->time_us = record->timestamp_ms * 1000;

  if (values[ID].data != NULL && txb_uuid_parse(values[ID], &own, NULL) == TXB_OK && txb_uuid_is_v7(&own))
    out->id = own;
  else
    derive_id(record, values, out);
}
