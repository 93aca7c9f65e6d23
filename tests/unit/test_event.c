/* What a Kafka record means: own and foreign messages, and every way in which headers can be malformed. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/event.h"

#define TEXT(text)                                                                                                     \
  { "" text, sizeof(text) - 1 }
#define OWN_ID "019c13ec-9e7b-774b-b733-378b62825f2e"

static const struct txb_header own[] = {
    {TEXT("ce_specversion"), TEXT("1.0")},
    {TEXT("ce_id"), TEXT(OWN_ID)},
    {TEXT("ce_source"), TEXT("txbroker:a")},
    {TEXT("ce_type"), TEXT("transfer.made")},
    {TEXT("ce_time"), TEXT("2026-01-31T12:00:00.123456Z")},
    {TEXT("content-type"), TEXT("application/json")},
};

static struct txb_event parse(const struct txb_header *headers, size_t count, int64_t offset, int64_t timestamp_ms) {
  struct txb_record record = {.cluster = TEXT("cluster"),
                              .topic = TEXT("orders"),
                              .partition = 3,
                              .offset = offset,
                              .timestamp_ms = timestamp_ms,
                              .headers = headers,
                              .header_count = count};
  struct txb_event event;
  memset(&event, 0xAA, sizeof event);
  txb_event_parse(&record, &event);
  cr_assert(txb_uuid_is_v7(&event.id), "whatever comes, its id fits into the inbox");
  return event;
}

static void check_id(const struct txb_event *event, const char *want) {
  char text[37];
  txb_uuid_format(&event->id, text);
  cr_assert_str_eq(text, want);
}

static void check_text(struct txb_slice s, const char *want) {
  cr_assert(txb_slice_equal(s, txb_slice_text(want)), "%.*s", (int)s.size, (const char *)s.data);
}

Test(event, reads_its_own_messages) {
  struct txb_event e = parse(own, TXB_ARRAY_SIZE(own), 1, 5);
  check_id(&e, OWN_ID);
  cr_assert(!e.foreign && e.problem == NULL && e.time_us == INT64_C(1769860800123456));
  check_text(e.source, "txbroker:a");
  check_text(e.type, "transfer.made");
  check_text(e.content_type, "application/json");
}

Test(event, gives_a_record_without_headers_an_id_by_its_place) {
  struct txb_event e = parse(NULL, 0, 42, INT64_C(1700000000000));
  check_id(&e, "018bcfe5-6800-7000-9f0c-c9485cf052fe");
  cr_assert(e.foreign && e.problem == NULL && e.source.data == NULL && e.type.data == NULL &&
            e.content_type.data == NULL);
  struct txb_event other = parse(NULL, 0, 43, INT64_C(1700000000000));
  cr_assert(memcmp(&e.id, &other.id, 16) != 0);
}

Test(event, gives_a_foreign_event_an_id_by_source_and_id_wherever_it_lies) {
  static const struct txb_header headers[] = {
      {TEXT("ce_specversion"), TEXT("1.0")},
      {TEXT("ce_id"), TEXT("order-1")},
      {TEXT("ce_source"), TEXT("urn:shop")},
      {TEXT("ce_type"), TEXT("t")},
      {TEXT("ce_time"), TEXT("2026-01-31T13:00:00.123456+01:00")},
  };
  struct txb_event e = parse(headers, TXB_ARRAY_SIZE(headers), 1, 5),
                   again = parse(headers, TXB_ARRAY_SIZE(headers), 99, 7);
  check_id(&e, "019c13ec-9e7b-774b-b733-378b62825f2e");
  cr_assert(e.foreign && e.problem == NULL && memcmp(&e.id, &again.id, 16) == 0);
}

Test(event, notes_that_a_foreign_event_without_time_is_not_known_again) {
  static const struct txb_header headers[] = {{TEXT("ce_specversion"), TEXT("1.0")},
                                              {TEXT("ce_id"), TEXT("order-1")},
                                              {TEXT("ce_source"), TEXT("urn:shop")},
                                              {TEXT("ce_type"), TEXT("t")}};
  struct txb_event e = parse(headers, TXB_ARRAY_SIZE(headers), 1, 5),
                   again = parse(headers, TXB_ARRAY_SIZE(headers), 2, 7);
  cr_assert(e.foreign && memcmp(&e.id, &again.id, 16) != 0);
  cr_assert_str_eq(e.problem, "ce_time is missing: sent again it would count as another message");
}

Test(event, compares_header_names_without_case_and_takes_the_last) {
  static const struct txb_header headers[] = {
      {TEXT("ce_type"), TEXT("first")},  {TEXT("CE_SpecVersion"), TEXT("1.0")},
      {TEXT("CE_ID"), TEXT(OWN_ID)},     {TEXT("Ce_Source"), TEXT("s")},
      {TEXT("ce_TYPE"), TEXT("last")},   {TEXT("Content-Type"), TEXT("text/plain")},
      {TEXT("ce_typeX"), TEXT("other")}, {TEXT("xce_type"), TEXT("other")},
      {{NULL, 0}, TEXT("nameless")},
  };
  struct txb_event e = parse(headers, TXB_ARRAY_SIZE(headers), 1, 5);
  check_text(e.type, "last");
  check_text(e.content_type, "text/plain");
  cr_assert(!e.foreign && e.problem == NULL);
}

Test(event, takes_the_record_s_time_when_there_is_no_other) {
  cr_assert(parse(NULL, 0, 1, 1234).time_us == 1234000);
  cr_assert(parse(NULL, 0, 1, -1).time_us == 0);
  cr_assert(parse(NULL, 0, 1, INT64_MIN).time_us == 0);
}

Test(event, names_a_timestamp_that_no_calendar_holds) {
  struct txb_event e = parse(NULL, 0, 1, INT64_MAX);
  cr_assert(e.time_us == 0);
  cr_assert_str_eq(e.problem, "the record's timestamp is beyond the year 9999");
}

/* One header of an own message replaced or taken away: what is ignored, what is said, and whether the id must be
 * derived. */
Test(event, accepts_every_malformed_header) {
  static const struct {
    size_t at;
    struct txb_header header;
    const char *problem;
    bool foreign;
  } rows[] = {
      {0, {TEXT("x"), TEXT("")}, "ce_specversion is missing", false},
      {0, {TEXT("ce_specversion"), TEXT("0.3")}, "ce_specversion is not 1.0", false},
      {0, {TEXT("ce_specversion"), {NULL, 0}}, "ce_specversion is missing", false},
      {1, {TEXT("x"), TEXT("")}, "ce_id is missing", true},
      {1, {TEXT("ce_id"), {NULL, 0}}, "ce_id is missing", true},
      {1, {TEXT("ce_id"), TEXT("")}, "ce_id is not text", true},
      {1, {TEXT("ce_id"), TEXT("a\0b")}, "ce_id is not text", true},
      {1, {TEXT("ce_id"), TEXT("\xFF")}, "ce_id is not text", true},
      {1, {TEXT("ce_id"), TEXT("019c13ec-9e7b-474b-b733-378b62825f2e")}, NULL, true}, /* version 4 */
      {2, {TEXT("x"), TEXT("")}, "ce_source is missing", false},
      {2, {TEXT("ce_source"), TEXT("\xC0\x80")}, "ce_source is not text", false},
      {3, {TEXT("x"), TEXT("")}, "ce_type is missing", false},
      {3, {TEXT("ce_type"), TEXT("")}, "ce_type is not text", false},
      {4, {TEXT("ce_time"), TEXT("yesterday")}, "ce_time is not RFC 3339", false},
      {4, {TEXT("ce_time"), TEXT("2026-01-31T12:00:00")}, "ce_time is not RFC 3339", false},
      {4, {TEXT("ce_time"), TEXT("\xE2\x82")}, "ce_time is not text", false},
      {5, {TEXT("content-type"), TEXT("\x80")}, "content-type is not text", false},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    struct txb_header headers[TXB_ARRAY_SIZE(own)];
    memcpy(headers, own, sizeof headers);
    headers[rows[i].at] = rows[i].header;
    struct txb_event e = parse(headers, TXB_ARRAY_SIZE(headers), 1, 5);
    cr_assert(e.foreign == rows[i].foreign, "row %zu", i);
    cr_assert((e.problem == NULL) == (rows[i].problem == NULL), "row %zu: %s", i, e.problem);
    if (rows[i].problem != NULL)
      cr_assert_str_eq(e.problem, rows[i].problem, "row %zu", i);
    if (rows[i].at == 4)
      cr_assert(e.time_us == 5000, "row %zu: the record's time stands in", i);
    if (rows[i].at == 2)
      cr_assert(e.source.data == NULL);
  }
}

Test(event, keys_an_event_without_source_by_its_place) {
  static const struct txb_header headers[] = {{TEXT("ce_id"), TEXT("order-1")}};
  struct txb_event a = parse(headers, 1, 1, 5), b = parse(headers, 1, 2, 5);
  cr_assert(a.foreign && memcmp(&a.id, &b.id, 16) != 0);
}

Test(event, says_that_structured_mode_is_not_read) {
  static const struct txb_header headers[] = {
      {TEXT("content-type"), TEXT("application/cloudevents+json; charset=utf-8")}};
  cr_assert_str_eq(parse(headers, 1, 1, 5).problem, "a CloudEvent in structured mode: its attributes are not read");
}

Test(event_time, reads_rfc_3339) {
  static const struct {
    const char *text;
    int64_t us;
  } rows[] = {
      {"1970-01-01T00:00:00Z", 0},
      {"1969-12-31T23:59:59.999999Z", -1},
      {"2000-02-29T00:00:00.000001Z", INT64_C(951782400000001)},
      {"2026-01-31T12:00:00.123456Z", INT64_C(1769860800123456)},
      {"2026-01-31t12:00:00.123456789z", INT64_C(1769860800123456)},
      {"2026-01-31T12:00:00.1Z", INT64_C(1769860800100000)},
      {"2026-01-31T14:30:00+02:30", INT64_C(1769860800000000)},
      {"2026-01-31T00:00:00-12:00", INT64_C(1769860800000000)},
      {"2016-12-31T23:59:60Z", INT64_C(1483228800000000)}, /* a leap second is the next second */
      {"0000-01-01T00:00:00Z", INT64_C(-62167219200000000)},
      {"9999-12-31T23:59:59.999999Z", INT64_C(253402300799999999)},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    int64_t us = 1;
    cr_assert(txb_event_time_parse(txb_slice_text(rows[i].text), &us), "%s", rows[i].text);
    cr_assert(us == rows[i].us, "%s", rows[i].text);
  }
}

Test(event_time, refuses_everything_else) {
  static const char *const rows[] = {
      "",
      "2026",
      "2026-01-31",
      "2026-01-31T12:00Z",
      "2026-01-31T12:00:00",
      "2026-01-31T12:00:00.Z",
      "2026-01-31 12:00:00Z",
      "2026-13-01T00:00:00Z",
      "2026-00-01T00:00:00Z",
      "2026-02-29T00:00:00Z",
      "2100-02-29T00:00:00Z",
      "2026-04-31T00:00:00Z",
      "2026-01-00T00:00:00Z",
      "2026-01-31T24:00:00Z",
      "2026-01-31T12:60:00Z",
      "2026-01-31T12:00:61Z",
      "2026-01-31T12:00:00+24:00",
      "2026-01-31T12:00:00+02:60",
      "2026-01-31T12:00:00+0200",
      "2026-01-31T12:00:00+02",
      "2026-01-31T12:00:00ZZ",
      "26-01-31T12:00:00Z",
      "+2026-01-31T12:00:00Z",
      "2026-1-31T12:00:00Z",
      " 2026-01-31T12:00:00Z",
      "2026-01-31T12:00:00,5Z",
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    int64_t us = 77;
    cr_assert(!txb_event_time_parse(txb_slice_text(rows[i]), &us) && us == 77, "%s", rows[i]);
  }
  int64_t us = 77;
  cr_assert(!txb_event_time_parse(txb_slice_of(NULL, 0), &us));
  cr_assert(!txb_event_time_parse(txb_slice_of("2026-01-31T12:00:00\0", 20), &us));
}

/* Every prefix of a good text ends before its time, and none reads beyond its size. */
Test(event_time, refuses_every_prefix) {
  static const char text[] = "2026-01-31T12:00:00.123456+01:00";
  for (size_t size = 0; size < sizeof text - 1; size++) {
    char copy[64];
    int64_t us;
    memcpy(copy, text, size);
    memset(copy + size, '0', sizeof copy - size);
    cr_assert(!txb_event_time_parse(txb_slice_of(copy, size), &us), "%zu", size);
  }
}
