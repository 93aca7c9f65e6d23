/* The headers of copied messages: read as a consumer reads them, a copy has its original's id; and nothing of what it had
 * is lost. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "outbox/relay_origin.h"

#define OWN_ID "019c13ec-9e7b-774b-b733-378b62825f2e"

static struct txb_copy_headers made;

static const struct txb_header *header(const char *name) {
  const struct txb_header *found = NULL;
  for (size_t i = 0; i < made.count; i++)
    if (txb_slice_equal(made.items[i].name, txb_slice_text(name))) {
      cr_assert(found == NULL, "%s is there twice", name);
      found = &made.items[i];
    }
  return found;
}

static void is(const char *name, const char *value) {
  const struct txb_header *h = header(name);
  cr_assert((h == NULL) == (value == NULL), "%s", name);
  if (value != NULL)
    cr_assert(txb_slice_equal(h->value, txb_slice_text(value)), "%s is %.*s", name, (int)h->value.size,
              h->value.data == NULL ? "" : (const char *)h->value.data);
}

static void make(const struct txb_uuid *id, const char *content_type, const char *headers, const char *origin) {
  struct txb_copy copy = {.id = id,
                          .content_type = txb_slice_text(content_type),
                          .headers = txb_slice_text(headers),
                          .origin = txb_slice_text(origin)};
  struct txb_error err;
  txb_copy_headers_fini(&made);
  txb_copy_headers_init(&made);
  cr_assert(txb_copy_headers_make(&made, &copy, &err) == TXB_OK);
}

static void uuid_of(const char *text, struct txb_uuid *out) {
  struct txb_error err;
  cr_assert(txb_uuid_parse(txb_slice_text(text), out, &err) == TXB_OK);
}

static void make_own(const char *content_type, const char *headers, const char *origin) {
  struct txb_uuid id;
  uuid_of(OWN_ID, &id);
  make(&id, content_type, headers, origin);
}

/* Elsewhere than the original lay, and at another time. */
static struct txb_event read_copy(void) {
  const struct txb_record record = {.cluster = txb_slice_text("other"),
                                    .topic = txb_slice_text("copies"),
                                    .partition = 7,
                                    .offset = 4711,
                                    .timestamp_ms = 1900000000000,
                                    .headers = made.items,
                                    .header_count = made.count};
  struct txb_event event;
  txb_event_parse(&record, &event);
  return event;
}

static void fini(void) {
  txb_copy_headers_fini(&made);
}

TestSuite(copy_headers, .fini = fini);

Test(copy_headers, an_own_message_gets_its_attributes_back) {
  make_own("application/json", "{\"trace\": \"7\"}",
           "{\"source\": \"txbroker:a\", \"type\": \"made\", \"time\": \"2026-01-31T12:00:00.123456Z\"}");
  is("ce_specversion", "1.0");
  is("ce_id", OWN_ID);
  is("ce_source", "txbroker:a");
  is("ce_type", "made");
  is("ce_time", "2026-01-31T12:00:00.123456Z");
  is("content-type", "application/json");
  is("trace", "7");
  cr_assert(made.count == 7);
  struct txb_event event = read_copy();
  cr_assert(!event.foreign && event.problem == NULL);
}

Test(copy_headers, one_without_any_gets_the_id_and_no_source) {
  make_own(NULL, "{\"X\": \"7\"}", "{\"time\": \"2026-01-31T12:00:00.000000Z\"}");
  is("ce_id", OWN_ID);
  is("ce_time", "2026-01-31T12:00:00.000000Z");
  cr_assert(made.count == 3);
  struct txb_event event = read_copy();
  cr_assert(event.source.data == NULL && event.type.data == NULL && !event.foreign);
  make_own(NULL, NULL, "{}");
  cr_assert(made.count == 1, "neither headers nor a time");
}

Test(copy_headers, values_come_back_as_the_bytes_that_they_were) {
  make_own(NULL,
           "{\"a\": {\"base64\": \"/wA=\"}, \"b\": {\"base64\": \"\"}, \"c\": null, \"d\": \"\", \"e\": {\"base64\": "
           "\"AQID\"}}",
           "{}");
  cr_assert(txb_slice_equal(header("a")->value, txb_slice_of("\xff\0", 2)));
  cr_assert(header("b")->value.data != NULL && header("b")->value.size == 0);
  cr_assert(header("c")->value.data == NULL);
  cr_assert(header("d")->value.data != NULL && header("d")->value.size == 0);
  is("e", "\x01\x02\x03");
}

Test(copy_headers, nonsense_of_a_superuser_is_left_out) {
  make_own(NULL, "{\"a\": 7, \"b\": {\"base64\": \"?\"}, \"c\": {\"size\": 5}, \"d\": [], \"e\": \"1\"}",
           "{\"source\": 7}");
  is("e", "1");
  is("ce_id", OWN_ID);
  cr_assert(made.count == 2);
}

/* The id that a consumer has derived for a CloudEvent of that source, id and time. */
static void derived(const char *source, const char *ce_id, const char *time, struct txb_uuid *out) {
  int64_t time_us;
  const struct txb_slice parts[] = {txb_slice_text(source), txb_slice_text(ce_id)};
  cr_assert(txb_event_time_parse(txb_slice_text(time), &time_us));
  txb_uuid_v7_derive(time_us, parts, 2, out);
}

static void same_id(const struct txb_uuid *want) {
  struct txb_event event = read_copy();
  char have_text[37], want_text[37];
  txb_uuid_format(&event.id, have_text);
  txb_uuid_format(want, want_text);
  cr_assert_str_eq(have_text, want_text);
}

#define FOREIGN "\"ce_specversion\": \"1.0\", \"CE_ID\": \"order-7\", \"ce_source\": \"/shop\", \"ce_type\": \"made\""

Test(copy_headers, a_foreign_cloudevent_stands_as_it_is) {
  struct txb_uuid id;
  derived("/shop", "order-7", "2026-01-31T13:00:00+01:00", &id);
  make(&id, "text/plain", "{" FOREIGN ", \"ce_time\": \"2026-01-31T13:00:00+01:00\", \"Content-Type\": \"text/plain\"}",
       "{\"source\": \"/shop\", \"type\": \"made\", \"time\": \"2026-01-31T12:00:00.000000Z\"}");
  is("CE_ID", "order-7");
  is("ce_time", "2026-01-31T13:00:00+01:00");
  is("Content-Type", "text/plain");
  cr_assert(made.count == 6);
  same_id(&id);
}

Test(copy_headers, without_a_time_of_its_own_it_gets_that_of_the_record) {
  struct txb_uuid id;
  derived("/shop", "order-7", "2026-01-31T12:00:00.123Z", &id);
  make(&id, NULL, "{" FOREIGN "}",
       "{\"source\": \"/shop\", \"type\": \"made\", \"time\": \"2026-01-31T12:00:00.123000Z\"}");
  is("CE_ID", "order-7");
  is("ce_time", "2026-01-31T12:00:00.123000Z");
  same_id(&id);
  make(&id, NULL, "{" FOREIGN ", \"ce_time\": \"yesterday\"}",
       "{\"source\": \"/shop\", \"type\": \"made\", \"time\": \"2026-01-31T12:00:00.123000Z\"}");
  same_id(&id);
}

Test(copy_headers, where_it_can_not_be_derived_again_the_id_takes_the_others_place) {
  struct txb_uuid id;
  uuid_of(OWN_ID, &id);
  make(&id, NULL, "{" FOREIGN "}",
       "{\"source\": \"/shop\", \"type\": \"made\", \"time\": \"2026-01-31T12:00:00.000000Z\"}");
  is("CE_ID", OWN_ID);
  same_id(&id);
  make(&id, NULL, "{\"ce_id\": \"order-7\"}", "{}"); /* no source: its id was that of its place */
  is("ce_id", OWN_ID);
  same_id(&id);
}

Test(copy_headers, a_malformed_one_keeps_what_it_has) {
  make_own("x", "{\"ce_source\": \"/shop\", \"ce_type\": \"made\"}",
           "{\"source\": \"/shop\", \"type\": \"made\", \"time\": \"2026-01-31T12:00:00.000000Z\"}");
  is("ce_source", "/shop");
  is("ce_type", "made");
  is("ce_id", OWN_ID);
  is("ce_specversion", NULL);
}

Test(copy_headers, a_copy_of_a_copy_is_the_same_again) {
  struct txb_uuid id;
  uuid_of(OWN_ID, &id);
  make(&id, NULL, "{\"X\": \"7\", \"ce_id\": \"" OWN_ID "\", \"ce_time\": \"2026-01-31T12:00:00.000000Z\"}",
       "{\"time\": \"2026-01-31T12:00:00.000000Z\"}");
  cr_assert(made.count == 3);
  same_id(&id);
}

Test(copy_headers, an_edited_content_type_takes_the_place_of_the_header) {
  make_own("text/plain", "{\"Content-Type\": \"x\"}", "{}");
  is("Content-Type", "text/plain");
  cr_assert(made.count == 2);
}

Test(copy_headers, many_headers_are_no_matter) {
  struct txb_buffer json;
  txb_buffer_init(&json);
  for (int i = 0; i < 1000; i++)
    txb_buffer_addf(&json, "%s\"h%d\": {\"base64\": \"/w==\"}", i == 0 ? "{" : ", ", i);
  txb_buffer_add_text(&json, "}");
  make_own(NULL, txb_buffer_text(&json), "{}");
  cr_assert(made.count == 1001);
  is("h999", "\xff");
  txb_buffer_fini(&json);
}

Test(copy_headers, memory_that_runs_out_is_an_error_and_no_lost_header) {
  struct txb_uuid id;
  struct txb_error err;
  uuid_of(OWN_ID, &id);
  struct txb_copy copy = {
      .id = &id, .headers = txb_slice_text("{\"a\": {\"base64\": \"/w==\"}}"), .origin = txb_slice_text("{}")};
  for (uint64_t nth = 1;; nth++) {
    txb_copy_headers_init(&made);
    txb_alloc_fail_at(nth);
    enum txb_rc rc = txb_copy_headers_make(&made, &copy, &err);
    txb_alloc_fail_at(0);
    if (rc == TXB_OK) {
      cr_assert(nth > 1 && made.count == 2);
      break;
    }
    cr_assert(rc == TXB_FATAL);
    txb_copy_headers_fini(&made);
  }
}
