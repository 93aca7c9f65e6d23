/* The log: what foreign bytes can't do to it. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <string.h>

#include "common/log.h"

static char lines[20000];
static size_t lines_size;

static void sink(const char *line, size_t size) {
  cr_assert(lines_size + size < sizeof lines);
  memcpy(lines + lines_size, line, size);
  lines_size += size;
  lines[lines_size] = '\0';
}

static void use(enum txb_log_level level, enum txb_log_format format) {
  lines_size = 0;
  lines[0] = '\0';
  txb_log_setup(level, format, sink);
}

/* The line without the time in front, which differs. */
static const char *after_time(void) {
  cr_assert(strncmp(lines, "time=2", 6) == 0, "%s", lines);
  return strchr(lines, ' ') + 1;
}

Test(log, writes_one_line_of_named_fields) {
  use(TXB_LOG_INFO, TXB_LOG_LOGFMT);
  txb_log(TXB_LOG_WARN, TXB_MSG("lease taken"), TXB_F("source", "bank_a"), TXB_FI("epoch", -7),
          TXB_FB("key", txb_slice_of("k\0\xFF", 3)));
  cr_assert_str_eq(after_time(), "level=warn msg=\"lease taken\" source=bank_a epoch=-7 key=\"k\\x00\\xff\"\n");
}

Test(log, leaves_out_fields_without_name_or_value) {
  use(TXB_LOG_INFO, TXB_LOG_LOGFMT);
  txb_log(TXB_LOG_INFO, TXB_MSG("m"), TXB_F(NULL, "x"), TXB_F("topic", NULL), TXB_FB("key", txb_slice_of(NULL, 0)),
          TXB_F("empty", ""));
  cr_assert_str_eq(after_time(), "level=info msg=m empty=\"\"\n");
}

Test(log, drops_what_is_below_its_level) {
  use(TXB_LOG_WARN, TXB_LOG_LOGFMT);
  txb_log(TXB_LOG_INFO, TXB_MSG("quiet"));
  cr_assert(lines_size == 0 && !txb_log_enabled(TXB_LOG_INFO) && txb_log_enabled(TXB_LOG_ERROR));
}

Test(log, can_not_be_made_to_forge_a_line_or_a_field) {
  static const struct {
    const char *value, *written;
  } rows[] = {
      {"a\nlevel=error msg=forged", "\"a\\nlevel=error msg=forged\""},
      {"x\" topic=\"forged", "\"x\\\" topic=\\\"forged\""},
      {"back\\slash", "\"back\\\\slash\""},
      {"a=b", "\"a=b\""},
      {"tab\there", "\"tab\\there\""},
      {"\x1b[31mred", "\"\\x1b[31mred\""},
      {"del\x7F", "\"del\\x7f\""},
      {"\xC2\x9B"
       "31m",
       "\"\\xc2\\x9b"
       "31m\""}, /* a control sequence in one character of C1 */
      {"caf\xC3\xA9", "\"caf\xC3\xA9\""},
      {"cut\xC3", "\"cut\\xc3\""},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    char want[200];
    use(TXB_LOG_INFO, TXB_LOG_LOGFMT);
    txb_log(TXB_LOG_INFO, TXB_F("topic", rows[i].value));
    snprintf(want, sizeof want, "level=info topic=%s\n", rows[i].written);
    cr_assert_str_eq(after_time(), want, "row %zu", i);
  }
}

/* Every single byte as a value, in both formats: one line, and in JSON one object that reads back. */
Test(log, keeps_its_form_for_every_byte) {
  for (unsigned c = 0; c < 256; c++) {
    char byte[3] = {'a', (char)c, 'b'};
    use(TXB_LOG_INFO, TXB_LOG_LOGFMT);
    txb_log(TXB_LOG_INFO, TXB_FB("key", txb_slice_of(byte, 3)));
    cr_assert(memchr(lines, '\n', lines_size) == lines + lines_size - 1, "byte %u", c);
    use(TXB_LOG_INFO, TXB_LOG_JSON);
    txb_log(TXB_LOG_INFO, TXB_MSG("m"), TXB_FB("key", txb_slice_of(byte, 3)), TXB_FI("offset", 5));
    json_t *json = json_loadb(lines, lines_size, JSON_ALLOW_NUL, NULL);
    cr_assert(json != NULL, "byte %u: %s", c, lines);
    json_t *key = json_object_get(json, "key");
    if (c < 0x80)
      cr_assert(json_string_length(key) == 3 && memcmp(json_string_value(key), byte, 3) == 0, "byte %u", c);
    cr_assert(json_integer_value(json_object_get(json, "offset")) == 5);
    cr_assert_str_eq(json_string_value(json_object_get(json, "level")), "info");
    json_decref(json);
  }
}

/* Values of every length around the line's size: still one line, still well-formed, and marked as cut. */
Test(log, ends_a_full_line_in_good_form) {
  static char value[9000];
  for (size_t size = 8000; size < sizeof value; size += 7) {
    for (size_t i = 0; i < size; i++)
      value[i] = "a\"\xC3\xA9\n"[i % 5];
    for (int json = 0; json <= 1; json++) {
      use(TXB_LOG_INFO, json ? TXB_LOG_JSON : TXB_LOG_LOGFMT);
      txb_log(TXB_LOG_INFO, TXB_FB("error", txb_slice_of(value, size)), TXB_FI("offset", INT64_MIN),
              TXB_F("topic", "t"));
      cr_assert(lines_size <= 8192 && memchr(lines, '\n', lines_size) == lines + lines_size - 1);
      if (!json)
        continue;
      json_t *object = json_loadb(lines, lines_size, 0, NULL);
      cr_assert(object != NULL, "%zu: ...%s", size, lines + lines_size - 40);
      const char *text = json_string_value(json_object_get(object, "error"));
      cr_assert(strcmp(text + strlen(text) - 3, "...") == 0);
      json_decref(object);
    }
  }
}

static char diverted_line[5000];
static enum txb_log_level diverted_level;

static void divert(enum txb_log_level level, const char *line, void *context) {
  cr_assert(context == &diverted_level);
  diverted_level = level;
  snprintf(diverted_line, sizeof diverted_line, "%s", line);
}

Test(log, goes_to_the_application_of_this_thread_until_it_is_given_back) {
  static char big[6000];
  const struct txb_log_outlet outlet = {TXB_LOG_WARN, divert, &diverted_level};
  use(TXB_LOG_DEBUG, TXB_LOG_JSON);
  cr_assert(txb_log_divert(&outlet) == NULL);
  txb_log(TXB_LOG_INFO, TXB_MSG("quiet"));
  cr_assert(diverted_line[0] == '\0' && !txb_log_enabled(TXB_LOG_INFO));
  txb_log(TXB_LOG_WARN, TXB_MSG("lost"), TXB_F("topic", "a\nb"));
  cr_assert(diverted_level == TXB_LOG_WARN);
  cr_assert_str_eq(diverted_line, "msg=lost topic=\"a\\nb\"");
  memset(big, 'x', sizeof big - 1);
  txb_log(TXB_LOG_ERROR, TXB_MSG(big)); /* cut, and ended all the same */
  size_t size = strlen(diverted_line);
  cr_assert(size < 4096 && strcmp(diverted_line + size - 4, "...\"") == 0, "%zu", size);
  cr_assert(txb_log_divert(NULL) == &outlet && lines_size == 0);
  txb_log(TXB_LOG_DEBUG, TXB_MSG("here again"));
  cr_assert(lines_size > 0);
}
