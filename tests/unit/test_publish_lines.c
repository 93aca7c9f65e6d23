/* JSON lines as intents: what tail prints, publish takes, byte for byte. */
#include <criterion/criterion.h>
#include <string.h>

#include "broker/cli/publish_lines.h"
#include "common/base64.h"
#include "common/json_place.h"

static struct txb_arena arena;
static struct txb_line line;
static struct txb_error err;

static void setup(void) {
  txb_arena_init(&arena, 4096);
}

static void teardown(void) {
  if (line.root != NULL)
    txb_line_fini(&line);
  txb_arena_fini(&arena);
}

TestSuite(publish_lines, .init = setup, .fini = teardown);

static void takes(const char *text) {
  cr_assert(txb_line_parse(txb_slice_text(text), &arena, &line, &err) == TXB_OK, "%s: %s", text, err.message);
}

static void refuses(const char *text, const char *message) {
  struct txb_line none;
  cr_assert(txb_line_parse(txb_slice_text(text), &arena, &none, &err) == TXB_REFUSED, "accepted: %s", text);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
}

static bool is(struct txb_slice slice, const char *text) {
  return txb_slice_equal(slice, txb_slice_text(text));
}

Test(publish_lines, a_json_payload_is_taken_as_it_was_written) {
  takes("{\"topic\": \"t\", \"type\": \"x\", \"payload\" : {\"amount\": 1.10, \"big\": 123456789012345678901234567890, "
        "\"s\": \"a\\u0000}\"} , \"key\": \"k\"}");
  cr_assert(
      is(line.intent.payload, "{\"amount\": 1.10, \"big\": 123456789012345678901234567890, \"s\": \"a\\u0000}\"}"));
  cr_assert(is(line.intent.key, "k") && line.intent.content_type == NULL && line.intent.headers_json == NULL);
}

Test(publish_lines, scalars_and_null_are_json_payloads_too) {
  takes("{\"topic\":\"t\",\"type\":\"x\",\"payload\":-1.50e3}");
  cr_assert(is(line.intent.payload, "-1.50e3"));
  txb_line_fini(&line);
  takes("{\"topic\":\"t\",\"type\":\"x\",\"payload\":null}");
  cr_assert(is(line.intent.payload, "null"));
  txb_line_fini(&line);
  takes("{\"topic\":\"t\",\"type\":\"x\"}");
  cr_assert(line.intent.payload.data == NULL);
}

Test(publish_lines, what_tail_prints_is_taken) {
  takes("{\"topic\":\"t\",\"partition\":1,\"offset\":0,\"timestamp\":\"2026-11-24T09:49:08.108000Z\",\"key\":\"k1\","
        "\"id\":\"0190b5a4-7a00-7000-8000-000000000001\","
        "\"source\":\"s\",\"type\":\"x.y\",\"time\":\"2026-01-01T00:00:00Z\",\"content_type\":\"application/"
        "json\",\"headers\":{\"trace\":\"a\\\"b\"},\"payload\":[1, 2]}");
  cr_assert_str_eq(line.intent.headers_json, "{\"trace\":\"a\\\"b\"}");
  cr_assert_str_eq(line.intent.id, "0190b5a4-7a00-7000-8000-000000000001");
  cr_assert(is(line.intent.payload, "[1, 2]"));
}

Test(publish_lines, text_and_bytes_have_their_own_members) {
  takes("{\"topic\":\"t\",\"type\":\"x\",\"payload_text\":\"a\\nb\"}");
  cr_assert(is(line.intent.payload, "a\nb"));
  cr_assert_str_eq(line.intent.content_type, "text/plain; charset=utf-8");
  txb_line_fini(&line);
  takes("{\"topic\":\"t\",\"type\":\"x\",\"payload_base64\":\"/wA=\",\"content_type\":\"image/"
        "x\",\"strict_order\":true}");
  cr_assert(txb_slice_equal(line.intent.payload, txb_slice_of("\xff\0", 2)) && line.intent.strict_order);
  cr_assert_str_eq(line.intent.content_type, "image/x");
}

Test(publish_lines, mistakes_are_named) {
  refuses("{\"topic\":\"t\",\"type\":\"x\",\"paylaod\":1}", "unknown member \"paylaod\"; did you mean \"payload\"?");
  refuses("{\"type\":\"x\"}", "topic is missing");
  refuses("{\"topic\":\"t\"}", "type is missing");
  refuses("[1]", "not a JSON object");
  refuses("{\"topic\":", "not valid JSON");
  refuses("{\"topic\":\"t\",\"topic\":\"t\"}", "not valid JSON: duplicate");
  refuses("{\"topic\":7,\"type\":\"x\"}", "topic is not a string");
  refuses("{\"topic\":\"t\\u0000\",\"type\":\"x\"}", "topic holds a NUL");
  refuses("{\"topic\":\"t\",\"type\":\"x\",\"payload\":1,\"payload_text\":\"1\"}", "only one of");
  refuses("{\"topic\":\"t\",\"type\":\"x\",\"payload_base64\":\"/w=\"}", "payload_base64 is not base64");
  refuses("{\"topic\":\"t\",\"type\":\"x\",\"headers\":[]}", "headers is not an object");
  refuses("{\"topic\":\"t\",\"type\":\"x\",\"key_base64\":\"/w==\"}", "the key is not text");
  refuses("{\"topic\":\"t\",\"type\":\"x\",\"not_before\":\"tomorrow\"}", "neither a time");
  refuses("{\"topic\":\"t\",\"type\":\"x\",\"strict_order\":1}", "neither true nor false");
}

Test(publish_lines, base64_gives_back_what_it_got) {
  for (size_t size = 0; size < 70; size++) {
    unsigned char bytes[70];
    struct txb_buffer text, back;
    for (size_t i = 0; i < size; i++)
      bytes[i] = (unsigned char)(i * 37 + size * 11);
    txb_buffer_init(&text);
    txb_buffer_init(&back);
    txb_base64_encode(txb_slice_of(bytes, size), &text);
    cr_assert(txb_base64_decode(txb_slice_of(text.data, text.size), &back));
    cr_assert(back.size == size && (size == 0 || memcmp(back.data, bytes, size) == 0));
    txb_buffer_fini(&text);
    txb_buffer_fini(&back);
  }
  struct txb_buffer none;
  txb_buffer_init(&none);
  cr_assert(!txb_base64_decode(txb_slice_text("ab=c"), &none) && !txb_base64_decode(txb_slice_text("a"), &none) &&
            !txb_base64_decode(txb_slice_text("===="), &none));
  txb_buffer_fini(&none);
}

Test(publish_lines, a_place_in_json_is_found_past_strings_that_look_like_structure) {
  const char text[] = "{\"a\": \"}\\\"{\",\n \"b\": [1, {\"c\":\n [\"]\", 2, true]}, 3],\n\"d\": {}}";
  const struct txb_json_step c[] = {{.key = "b"}, {.index = 1}, {.key = "c"}}, d[] = {{.key = "d"}},
                             none[] = {{.key = "b"}, {.index = 3}};
  cr_assert(txb_json_line(txb_slice_text(text), c, 3) == 2);
  cr_assert(is(txb_json_span(txb_slice_text(text), c, 3), "[\"]\", 2, true]"));
  cr_assert(txb_json_line(txb_slice_text(text), d, 1) == 4);
  cr_assert(txb_json_line(txb_slice_text(text), none, 2) == 0);
  for (size_t cut = 0; cut < sizeof(text); cut++)
    (void)txb_json_span(txb_slice_of(text, cut), d, 1); /* whatever it is, it stays inside */
}
