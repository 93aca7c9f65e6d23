/* Foreign text for a terminal. */
#include <criterion/criterion.h>
#include <string.h>

#include "broker/cli/safe_text.h"

static struct txb_buffer out;

static void setup(void) {
  txb_buffer_init(&out);
}

static void teardown(void) {
  txb_buffer_fini(&out);
}

TestSuite(safe_text, .init = setup, .fini = teardown);

static const char *safe(const char *bytes, size_t size, size_t width_max, int lines) {
  txb_buffer_clear(&out);
  txb_safe_add(&out, txb_slice_of(bytes, size), width_max, lines);
  return txb_buffer_text(&out);
}

#define SAFE(text) safe((text), sizeof(text) - 1, 0, TXB_SAFE_LINE)

Test(safe_text, leaves_what_can_be_read_as_it_is) {
  cr_assert_str_eq(SAFE("Gr\xC3\xBC\xC3\x9F Gott, \xE4\xB8\xAD \xF0\x9F\x98\x80 a\\b"),
                   "Gr\xC3\xBC\xC3\x9F Gott, \xE4\xB8\xAD \xF0\x9F\x98\x80 a\\b");
  cr_assert_str_eq(SAFE(""), "");
}

Test(safe_text, escapes_what_a_terminal_obeys) {
  cr_assert_str_eq(SAFE("a\x1B[2J\a\x7F"), "a\\x1b[2J\\x07\\x7f");
  cr_assert_str_eq(SAFE("\xC2\x9B"
                        "2J"),
                   "\\x9b2J");
  cr_assert_str_eq(SAFE("a\0b\r\n\t"), "a\\x00b\\x0d\\x0a\\x09");
  cr_assert_str_eq(SAFE("\xE2\x80\xAE"
                        "evil\xE2\x80\x8B\xEF\xBB\xBF"),
                   "\\u202eevil\\u200b\\ufeff");
  cr_assert_str_eq(SAFE("\xF3\xA0\x81\x81"), "\\U000e0041");
}

Test(safe_text, escapes_bytes_that_are_no_character) {
  cr_assert_str_eq(SAFE("\xFF\xC3"), "\\xff\\xc3");
  cr_assert_str_eq(SAFE("\xED\xA0\x80"), "\\xed\\xa0\\x80"); /* a surrogate */
  cr_assert_str_eq(SAFE("\x9B"
                        "2J"),
                   "\\x9b2J");
}

Test(safe_text, keeps_line_feeds_and_tabs_only_where_lines_are_wanted) {
  cr_assert_str_eq(safe("a\tb\nc\r", 6, 0, TXB_SAFE_LINES), "a\tb\nc\\x0d");
  cr_assert_str_eq(safe("a\tb\nc", 5, 0, TXB_SAFE_LINE), "a\\x09b\\x0ac");
}

Test(safe_text, is_cut_between_characters) {
  cr_assert_str_eq(safe("\xC3\xBC\xC3\xBC\xC3\xBC", 6, 2, TXB_SAFE_LINE), "\xC3\xBC\xC3\xBC...");
  cr_assert_str_eq(safe("\xC3\xBC\xC3\xBC", 4, 2, TXB_SAFE_LINE), "\xC3\xBC\xC3\xBC");
}

Test(safe_text, dumps_bytes_with_their_place_and_what_is_printable) {
  txb_safe_add_hex(&out, txb_slice_of("0123456789abcdef\x1B!", 18), 0, 2);
  cr_assert_str_eq(txb_buffer_text(&out),
                   "  00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n"
                   "  00000010  1b 21                                             |.!|\n");
  txb_buffer_clear(&out);
  txb_safe_add_hex(&out, txb_slice_of("0123456789abcdef\x1B!", 18), 16, 0);
  cr_assert(strstr(txb_buffer_text(&out), "... and 2 bytes more\n") != NULL);
}
