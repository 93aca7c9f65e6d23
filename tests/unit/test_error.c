/* Errors: one line, cut between characters, context in front, an exit code for each origin. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/error.h"
#include "common/slice.h"

Test(error, gives_the_code_back_and_fills_every_field) {
  struct txb_error err = {.sqlstate = "23505", .kafka_code = 7};
  cr_assert(TXB_FAIL_FROM(&err, TXB_RETRY, TXB_ORIGIN_KAFKA, "topic %s is away", "t") == TXB_RETRY);
  cr_assert(err.rc == TXB_RETRY && err.origin == TXB_ORIGIN_KAFKA);
  cr_assert_str_eq(err.message, "topic t is away");
  cr_assert_str_eq(err.sqlstate, "", "what an earlier failure left is gone");
  cr_assert(err.kafka_code == 0);
  cr_assert(err.line > 0 && strstr(err.file, "test_error.c") != NULL);
}

Test(error, may_go_nowhere) {
  cr_assert(TXB_FAIL(NULL, TXB_FATAL, "nobody listens") == TXB_FATAL);
}

Test(error, is_one_line_whatever_a_server_says) {
  struct txb_error err;
  (void)TXB_FAIL(&err, TXB_REFUSED, "first\nsecond\r\tthird\x1b[31m");
  cr_assert_str_eq(err.message, "first second  third [31m");
}

Test(error, is_valid_text_whatever_a_plugin_says) {
  struct txb_error err;
  cr_assert_eq(TXB_FAIL(&err, TXB_POISON, "said \xd0 and \xff\xfe, \xd0\xb6"), TXB_POISON);
  cr_assert_str_eq(err.message, "said ? and ??, \xd0\xb6");
}

Test(error, may_quote_its_own_message) {
  struct txb_error err;
  (void)TXB_FAIL(&err, TXB_REFUSED, "inner");
  (void)TXB_FAIL(&err, TXB_RETRY, "outer: %s", err.message);
  cr_assert_str_eq(err.message, "outer: inner");
}

/* Every length around the field's size, with characters of 1 to 4 bytes: a cut text is still text. */
Test(error, cuts_between_characters) {
  static const char *const characters[] = {"x", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
  for (size_t c = 0; c < TXB_ARRAY_SIZE(characters); c++)
    for (size_t lead = 0; lead < 4; lead++) {
      char text[1200] = "";
      size_t size = 0, step = strlen(characters[c]);
      for (; size < lead; size++)
        text[size] = 'a';
      for (; size + step < sizeof text; size += step)
        memcpy(text + size, characters[c], step);
      struct txb_error err;
      (void)TXB_FAIL(&err, TXB_REFUSED, "%s", text);
      size_t kept = strlen(err.message);
      cr_assert(txb_slice_is_text(txb_slice_text(err.message)));
      cr_assert(kept + step >= sizeof err.message && memcmp(err.message, text, kept) == 0);
      (void)txb_error_prefix(&err, "source %s", "bank_a");
      cr_assert(txb_slice_is_text(txb_slice_text(err.message)), "a prefix pushes the end out between characters too");
      cr_assert(strncmp(err.message, "source bank_a: ", 15) == 0);
    }
}

Test(error, takes_context_in_front) {
  struct txb_error err;
  (void)TXB_FAIL(&err, TXB_FENCED, "lease lost");
  cr_assert(txb_error_prefix(&err, "source %s", "a") == TXB_FENCED);
  cr_assert_str_eq(err.message, "source a: lease lost");
}

Test(error, keeps_the_cause_when_the_prefix_is_endless) {
  struct txb_error err;
  char prefix[1000];
  memset(prefix, 'p', sizeof prefix - 1);
  prefix[sizeof prefix - 1] = '\0';
  (void)TXB_FAIL(&err, TXB_FENCED, "lease lost");
  (void)txb_error_prefix(&err, "%s", prefix);
  cr_assert_str_eq(err.message, "lease lost");
}

Test(error, has_an_exit_code_for_each_origin) {
  static const struct {
    enum txb_rc rc;
    enum txb_origin origin;
    int code;
  } rows[] = {
      {TXB_OK, TXB_ORIGIN_NONE, 0},        {TXB_REFUSED, TXB_ORIGIN_NONE, 1}, {TXB_REFUSED, TXB_ORIGIN_USAGE, 2},
      {TXB_RETRY, TXB_ORIGIN_POSTGRES, 3}, {TXB_RETRY, TXB_ORIGIN_KAFKA, 4},  {TXB_REFUSED, TXB_ORIGIN_SAFETY, 5},
      {TXB_FENCED, TXB_ORIGIN_NONE, 5},    {TXB_FATAL, TXB_ORIGIN_NONE, 1},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    struct txb_error err = {.rc = rows[i].rc, .origin = rows[i].origin};
    cr_assert(txb_error_exit_code(&err) == rows[i].code, "row %zu", i);
  }
}

Test(error, names_every_code) {
  static const char *const names[] = {"ok", "again", "retry", "duplicate", "refused", "poison", "fenced", "fatal"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(names); i++)
    cr_assert_str_eq(txb_rc_name((enum txb_rc)i), names[i]);
  cr_assert_str_eq(txb_rc_name((enum txb_rc)99), "unknown");
}
