/* What a failure means: the table of causes. */
#include "consumer/failure_class.h"

#include <criterion/criterion.h>
#include <string.h>

static void is(enum txb_failure_cause cause, const char *sqlstate, bool usable, enum txb_failure_class class,
               const char *error_class) {
  struct txb_failure_meaning m = txb_failure_of(cause, sqlstate, usable);
  cr_assert_eq(m.class, class, "cause %d, SQLSTATE %s: class %d", (int)cause, sqlstate, (int)m.class);
  cr_assert_str_eq(m.error_class, error_class);
}

Test(failure_class, what_another_transaction_caused_is_free) {
  static const char *const states[] = {"40001", "40P01", "55P03", "26000", "0A000"};
  for (size_t i = 0; i < 5; i++)
    is(TXB_CAUSE_SQLSTATE, states[i], true, TXB_CLASS_FREE, "conflict");
}

Test(failure_class, a_server_in_trouble_is_waited_for) {
  static const char *const states[] = {"53000", "53100", "53200", "53300", "58000", "58030"};
  for (size_t i = 0; i < 6; i++)
    is(TXB_CAUSE_SQLSTATE, states[i], true, TXB_CLASS_WAIT, "error");
}

Test(failure_class, a_connection_that_is_over_is_away_and_one_that_is_not_was_not_meant) {
  static const char *const states[] = {"08006", "57P01", "57P02", "57P03", "57P05", "25P03", "25006"};
  for (size_t i = 0; i < 7; i++) {
    is(TXB_CAUSE_SQLSTATE, states[i], false, TXB_CLASS_AWAY, "error");
    is(TXB_CAUSE_SQLSTATE, states[i], true, TXB_CLASS_COUNT, "error"); /* a handler that asks another server */
  }
  is(TXB_CAUSE_SQLSTATE, "", false, TXB_CLASS_AWAY, "error");
  is(TXB_CAUSE_SQLSTATE, NULL, false, TXB_CLASS_AWAY, "error");
}

Test(failure_class, everything_else_counts_against_the_message) {
  static const char *const states[] = {"23505", "22012", "42883", "P0001", "55006", "40002", "XX000", "TXB02", "25P02"};
  for (size_t i = 0; i < 9; i++)
    is(TXB_CAUSE_SQLSTATE, states[i], true, TXB_CLASS_COUNT, "error");
  is(TXB_CAUSE_SQLSTATE, "", true, TXB_CLASS_COUNT, "error");
  is(TXB_CAUSE_SQLSTATE, NULL, true, TXB_CLASS_COUNT, "error");
  is(TXB_CAUSE_SQLSTATE, "57014", true, TXB_CLASS_COUNT, "timeout");
}

Test(failure_class, a_handler_s_answers_mean_what_they_say) {
  is(TXB_CAUSE_RETRY, NULL, true, TXB_CLASS_COUNT, "retry");
  is(TXB_CAUSE_REFUSE, NULL, true, TXB_CLASS_DEAD, "refuse");
  is(TXB_CAUSE_DEAD, NULL, true, TXB_CLASS_DEAD, "dead");
  is(TXB_CAUSE_NO_OUTCOME, NULL, true, TXB_CLASS_COUNT, "error");
  is(TXB_CAUSE_TIMEOUT, NULL, true, TXB_CLASS_COUNT, "timeout");
  is(TXB_CAUSE_CRASH, NULL, true, TXB_CLASS_DEAD, "crash");
  is(TXB_CAUSE_CONFLICT, NULL, true, TXB_CLASS_COUNT, "conflict");
  is(TXB_CAUSE_CONFLICT, "40P01", true, TXB_CLASS_COUNT, "conflict"); /* the cause decides, not what was raised */
}

Test(failure_class, a_handler_s_word_is_its_answer_or_none) {
  cr_assert_eq(txb_failure_cause_of("retry"), TXB_CAUSE_RETRY);
  cr_assert_eq(txb_failure_cause_of("refuse"), TXB_CAUSE_REFUSE);
  cr_assert_eq(txb_failure_cause_of("dead"), TXB_CAUSE_DEAD);
  cr_assert_eq(txb_failure_cause_of("ok"), TXB_CAUSE_NO_OUTCOME);
  cr_assert_eq(txb_failure_cause_of(""), TXB_CAUSE_NO_OUTCOME);
}

Test(failure_class, every_cause_stands_in_the_table_and_the_last_line_takes_everything) {
  bool seen[TXB_CAUSE_CONFLICT + 1] = {false};
  for (size_t i = 0; i < txb_failure_rules_count; i++) {
    seen[txb_failure_rules[i].cause] = true;
    cr_assert_gt(strlen(txb_failure_rules[i].why), 0);
    cr_assert_gt(strlen(txb_failure_rules[i].error_class), 0);
  }
  for (int cause = 0; cause <= TXB_CAUSE_CONFLICT; cause++)
    cr_assert(seen[cause], "cause %d", cause);
  cr_assert_eq(txb_failure_rules[txb_failure_rules_count - 1].sqlstate[0], '\0');
}
