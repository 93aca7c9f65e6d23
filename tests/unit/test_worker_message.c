/* What of a record's headers reaches a handler, and in which form. */
#include <criterion/criterion.h>
#include <string.h>

#include "consumer/lane_page.h"
#include "consumer/worker_internal.h"

static struct txb_header header(const char *name, const void *value, size_t size) {
  return (struct txb_header){.name = txb_slice_text(name), .value = txb_slice_of(value, size)};
}

static void expect(const struct txb_header *headers, size_t count, const char *wanted) {
  struct txb_record record = {.headers = headers, .header_count = count, .timestamp_ms = 1000};
  struct txb_event event;
  struct txb_buffer text;
  txb_event_parse(&record, &event);
  txb_buffer_init(&text);
  txb_worker_headers_json(&record, &event, &text);
  cr_assert_str_eq(txb_buffer_text(&text), wanted);
  txb_buffer_fini(&text);
}

Test(worker_message, a_message_without_headers_has_an_empty_object) {
  expect(NULL, 0, "{}");
}

Test(worker_message, text_stays_text_and_is_escaped) {
  const struct txb_header h[] = {header("a", "x\"\\\n", 4), header("b", "", 0)};
  expect(h, 2, "{\"a\": \"x\\\"\\\\\\n\", \"b\": \"\"}");
}

Test(worker_message, what_is_not_text_is_base64) { /* W12 */
  const struct txb_header h[] = {header("nul", "a\0b", 3), header("bytes", "\xff\xfe", 2), header("null", NULL, 0)};
  expect(h, 3, "{\"nul\": {\"base64\": \"YQBi\"}, \"bytes\": {\"base64\": \"//4=\"}, \"null\": null}");
}

Test(worker_message, a_name_that_is_not_text_is_base64_too) { /* W12 */
  const struct txb_header h[] = {header("\xff", "v", 1)};
  expect(h, 1, "{\"/w==\": \"v\"}");
}

#define ID "01890a5d-ac96-774b-bcce-b302099a8057"

Test(worker_message, what_the_message_says_in_fields_of_its_own_is_left_out) {
  const struct txb_header h[] = {header("ce_specversion", "1.0", 3), header("CE_id", ID, 36),
                                 header("ce_source", "s", 1),        header("ce_type", "t", 1),
                                 header("ce_subject", "u", 1),       header("Content-Type", "a/b", 3)};
  expect(h, 6, "{\"ce_subject\": \"u\"}");
}

Test(worker_message, of_a_malformed_event_everything_is_kept) {
  const struct txb_header h[] = {header("ce_id", "17", 2), header("ce_source", "s", 1)};
  expect(h, 2, "{\"ce_id\": \"17\", \"ce_source\": \"s\"}");
}

/* A lane's message outlives the fetch that brought it. */
Test(worker_message, a_copy_has_bytes_of_its_own) {
  char key[] = "k", value[] = "", name[] = "a", text[] = "x";
  const struct txb_header h[] = {
      header("ce_specversion", "1.0", 3), header("ce_id", ID, 36), header("ce_source", text, 1),
      header("ce_type", "t", 1),          header(name, text, 1),   header("content-type", "a/b", 3)};
  struct txb_record record = {.topic = txb_slice_text("topic"),
                              .partition = 3,
                              .offset = 17,
                              .timestamp_ms = 1000,
                              .key = txb_slice_of(key, 1),
                              .value = txb_slice_of(value, 0),
                              .headers = h,
                              .header_count = TXB_ARRAY_SIZE(h)};
  struct txb_event event;
  struct txb_buffer scratch;
  struct txb_worker_message *m;
  int64_t size;
  txb_event_parse(&record, &event);
  txb_buffer_init(&scratch);
  cr_assert(txb_worker_message_copy(&record, &event, &scratch, &m, &size, NULL) == TXB_OK);
  key[0] = name[0] = text[0] = '!';
  txb_buffer_fini(&scratch);
  cr_assert(txb_slice_equal(m->record.key, txb_slice_text("k")));
  cr_assert(m->record.value.data != NULL && m->record.value.size == 0); /* empty, not absent */
  cr_assert(txb_slice_equal(m->event.source, txb_slice_text("x")));
  cr_assert(txb_slice_equal(m->event.type, txb_slice_text("t")));
  cr_assert(txb_slice_equal(m->event.content_type, txb_slice_text("a/b")));
  cr_assert(txb_slice_equal(m->headers, txb_slice_text("{\"a\": \"x\"}")));
  cr_assert(m->record.offset == 17 && m->record.timestamp_ms == 1000 && m->record.headers == NULL && m->kafka == NULL);
  cr_assert(memcmp(&m->event.id, &event.id, sizeof event.id) == 0 && size > (int64_t)sizeof *m);
  txb_lane_message_release(m);
}

Test(worker_message, what_is_absent_stays_so_in_a_copy) {
  const struct txb_record record = {.timestamp_ms = 1000};
  struct txb_event event;
  struct txb_buffer scratch;
  struct txb_worker_message *m;
  int64_t size;
  txb_event_parse(&record, &event);
  txb_buffer_init(&scratch);
  cr_assert(txb_worker_message_copy(&record, &event, &scratch, &m, &size, NULL) == TXB_OK);
  cr_assert(m->record.key.data == NULL && m->record.value.data == NULL && m->event.source.data == NULL);
  cr_assert(m->event.type.data == NULL && m->event.content_type.data == NULL);
  cr_assert(txb_slice_equal(m->headers, txb_slice_text("{}")));
  txb_lane_message_release(m);
  txb_buffer_fini(&scratch);
}

/* Else one partition that was lost ends a process that has others, or a lack of memory goes on as if nothing was. */
Test(worker_kafka, only_our_own_failure_ends_the_process) {
  struct txb_error none = {.rc = TXB_OK}, ours = {.rc = TXB_FATAL}, refused = {.rc = TXB_REFUSED},
                   theirs = {.rc = TXB_FATAL, .kafka_code = -172};
  cr_assert_eq(txb_worker_only_fatal(TXB_OK, &none), TXB_OK);
  cr_assert_eq(txb_worker_only_fatal(TXB_FATAL, &ours), TXB_FATAL);
  cr_assert_eq(txb_worker_only_fatal(TXB_FATAL, &theirs), TXB_OK);
  cr_assert_eq(txb_worker_only_fatal(TXB_REFUSED, &refused), TXB_OK);
  cr_assert_eq(txb_worker_only_fatal(TXB_RETRY, &refused), TXB_OK);
}
