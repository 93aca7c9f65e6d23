/* Which name was meant. */
#include <criterion/criterion.h>
#include <string.h>

#include "common/error.h"
#include "common/nearest.h"

static const char *const names[] = {"relay", "workers", "kafka", "read_rows", "read_bytes", "lease_ms", "log"};

static const char *nearest(const char *word) {
  return txb_nearest(word, names, TXB_ARRAY_SIZE(names));
}

Test(nearest, finds_what_a_slip_away_was_meant) {
  cr_assert_str_eq(nearest("relays"), "relay");
  cr_assert_str_eq(nearest("realy"), "relay");
  cr_assert_str_eq(nearest("KAFKA"), "kafka");
  cr_assert_str_eq(nearest("read_row"), "read_rows");
  cr_assert_str_eq(nearest("read_byets"), "read_bytes");
  cr_assert_str_eq(nearest("leasems"), "lease_ms");
  cr_assert_str_eq(nearest("worker"), "workers");
}

Test(nearest, does_not_guess_wildly) {
  cr_assert(nearest("zzzz") == NULL);
  cr_assert(nearest("") == NULL);
  cr_assert(nearest("ab") == NULL);
  cr_assert(txb_nearest("relay", names, 0) == NULL);
}

Test(nearest, bears_words_of_any_length) {
  char word[300];
  for (size_t size = 0; size < sizeof word; size++) {
    memset(word, 'a', size);
    word[size] = '\0';
    (void)nearest(word);
  }
  static const char *const longs[] = {"a_name_that_is_longer_than_sixty_four_letters_and_so_is_never_the_nearest_one",
                                      "fine"};
  cr_assert_str_eq(txb_nearest("fime", longs, 2), "fine");
}
