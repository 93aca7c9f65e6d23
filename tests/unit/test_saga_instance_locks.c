/* A saga that locks what others may hold: which names those are, and what becomes of it while it waits for one. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "broker/saga/instance.h"

#define TRIP(locks)                                                                                                    \
  "{\"name\":\"trip\",\"version\":1,\"locks\":[" locks "],\"steps\":["                                                 \
  "{\"name\":\"pay\",\"topic\":\"payments\",\"type\":\"pay\",\"kind\":\"pivot\",\"timeout\":\"40ms\"}]}"
#define ACCOUNT  "\"account:{input.n}\""
#define HELD     "lock account:7 is held by saga 01890000-0000-7000-8000-000000000009"
#define DEADLINE 1500000

static struct txb_saga_definition *d;
static struct txb_saga_instance saga;
static struct txb_saga_ledger ledger;
static struct txb_saga_moment moment;
static struct txb_error err;
static struct txb_saga_lock_names names;
static size_t told;

static void setup(void) {
  txb_saga_ledger_init(&ledger);
}

static void teardown(void) {
  txb_saga_instance_fini(&saga);
  txb_saga_ledger_fini(&ledger);
  txb_saga_definition_free(d);
  d = NULL;
}

TestSuite(saga_instance_locks, .init = setup, .fini = teardown);

static struct txb_saga_instance fresh(const char *input) {
  struct txb_saga_instance i = {.definition = d,
                                .started_us = 1000,
                                .deadline_us = DEADLINE,
                                .key = txb_slice_text("order-1"),
                                .input = txb_slice_text(input)};
  cr_assert(txb_uuid_parse(txb_slice_text("01890000-0000-7000-8000-000000000001"), &i.id, NULL) == TXB_OK);
  txb_saga_instance_init(&i);
  return i;
}

static void define(const char *definition, const char *input) {
  txb_saga_instance_fini(&saga);
  txb_saga_definition_free(d);
  cr_assert(txb_saga_definition_parse("t.json", txb_slice_text(definition), &d, &err) == TXB_OK, "%s", err.message);
  saga = fresh(input);
  moment.now_us = 1000000;
  told = ledger.entry_count;
}

/* The entries since the last look. */
static void happened(const char *wanted) {
  char text[1000] = "";
  for (; told < ledger.entry_count; told++)
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", text[0] != '\0' ? " " : "",
             ledger.entries[told].event);
  cr_assert_str_eq(text, wanted);
}

static void waits(const char *why) {
  cr_assert(txb_saga_instance_on_wait(&saga, why, &moment, &ledger, &err) == TXB_OK);
}

static void turned_away(void) {
  cr_assert(txb_saga_instance_on_turned_away(&saga, HELD, &moment, &ledger, &err) == TXB_OK);
}

static void starts(void) {
  cr_assert(txb_saga_instance_on_start(&saga, &moment, &ledger, &err) == TXB_OK);
}

static void cancelled(void) {
  const struct txb_saga_decision one = {"cancel", NULL, saga.n, "because", "ann", NULL};
  cr_assert(txb_saga_instance_on_decision(&saga, &one, &moment, &ledger, &err) == TXB_OK);
}

/* ---- names -------------------------------------------------------------------------------------- */

static void locks(const char *definition, const char *input, const char *wanted) {
  char text[200] = "";
  define(definition, input);
  cr_assert(txb_saga_instance_locks(&saga, &ledger, &names, &err) == TXB_OK, "%s", err.message);
  for (size_t n = 0; n < names.count; n++)
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", n > 0 ? " " : "", names.items[n]);
  cr_assert_str_eq(text, wanted);
}

Test(saga_instance_locks, names_are_filled_in_sorted_and_each_is_there_once) {
  locks(TRIP("\"z\"," ACCOUNT ",\"B\",\"account:7\",\"{saga.name}:{saga.key}\",\"\xc3\xa4\""), "{\"n\":7}",
        "B account:7 trip:order-1 z \xc3\xa4");
  locks(TRIP("\"{input.whole}\""), "{\"whole\":\"x y\"}", "x y");
  locks(TRIP(""), "{}", "");
}

static void locks_nothing(const char *definition, const char *input, const char *why) {
  define(definition, input);
  cr_assert(txb_saga_instance_locks(&saga, &ledger, &names, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, why) != NULL, "\"%s\" does not hold \"%s\"", err.message, why);
}

Test(saga_instance_locks, a_name_that_can_t_be_made_is_refused_and_says_which) {
  char input[1200];
  locks_nothing(TRIP("\"a\"," ACCOUNT), "{}", "lock 2 can't be made out: input.n is absent");
  locks_nothing(TRIP("\"{input.n}\""), "{\"n\":7}", "lock 1 can't be made out: its name is no text");
  locks_nothing(TRIP("\"{input.n?}\""), "{}", "its name is no text");
  locks_nothing(TRIP("\"{input.n}\""), "{\"n\":\"\"}", "its name is empty");
  locks_nothing(TRIP("\"{input.n}\""), "{\"n\":\"a\\u0000b\"}", "its name has a character of code 0");
  snprintf(input, sizeof input, "{\"n\":\"%01025d\"}", 0);
  locks_nothing(TRIP("\"{input.n}\""), input, "its name has 1025 bytes, and may have 1024");
  snprintf(input, sizeof input, "{\"n\":\"%01024d\"}", 0);
  define(TRIP("\"{input.n}\""), input);
  cr_assert(txb_saga_instance_locks(&saga, &ledger, &names, &err) == TXB_OK);
}

/* ---- waiting ------------------------------------------------------------------------------------ */

Test(saga_instance_locks, one_that_waits_says_for_what_once_and_its_deadline_is_watched) {
  define(TRIP(ACCOUNT), "{\"n\":7}");
  waits(HELD);
  happened("waits");
  cr_assert_str_eq(ledger.entries[0].reason, HELD);
  cr_assert(!saga.begun && !saga.ended && saga.state.state == TXB_SAGA_RUNNING && ledger.command_count == 0);
  txb_saga_instance_settle(&saga, &ledger);
  cr_assert(saga.timer_us == DEADLINE && ledger.entries[0].timer_us == DEADLINE);
  waits(HELD);
  happened("");
  waits("lock b is held by saga x");
  waits(HELD);
  happened("waits waits");
}

Test(saga_instance_locks, one_that_was_woken_begins_and_waits_no_more) {
  define(TRIP(ACCOUNT), "{\"n\":7}");
  waits(HELD);
  starts();
  happened("waits start begin");
  cr_assert(saga.begun && ledger.command_count == 1);
  starts();
  waits("lock b is held by saga x");
  turned_away();
  happened("");
}

Test(saga_instance_locks, one_that_is_turned_away_ends_with_nothing_done_and_says_why) {
  define(TRIP(ACCOUNT), "{\"n\":7}");
  turned_away();
  happened("turn_back end");
  cr_assert(saga.ended && saga.state.state == TXB_SAGA_COMPENSATED && ledger.command_count == 0);
  cr_assert_str_eq(saga.reason, HELD);
  turned_away();
  starts();
  waits(HELD);
  happened("");
}

Test(saga_instance_locks, one_that_is_cancelled_while_it_waits_ends_with_nothing_done) {
  define(TRIP(ACCOUNT), "{\"n\":7}");
  waits(HELD);
  cancelled();
  happened("waits turn_back end");
  cr_assert(saga.ended && saga.state.state == TXB_SAGA_COMPENSATED && ledger.command_count == 0);
  cr_assert_str_eq(saga.reason, "because");
  starts();
  waits("lock b is held by saga x");
  happened("");
}

Test(saga_instance_locks, one_whose_deadline_is_over_while_it_waits_ends_with_nothing_done) {
  define(TRIP(ACCOUNT), "{\"n\":7}");
  waits(HELD);
  txb_saga_instance_settle(&saga, &ledger);
  moment.now_us = DEADLINE + 1;
  cr_assert(txb_saga_instance_on_timer(&saga, DEADLINE, &moment, &ledger, &err) == TXB_OK);
  happened("waits timer turn_back end");
  cr_assert(saga.state.state == TXB_SAGA_COMPENSATED && ledger.command_count == 0);
  cr_assert_str_eq(saga.reason, "its deadline is over");
}

/* ---- replay ------------------------------------------------------------------------------------- */

static struct txb_saga_instance replayed(const char *input) {
  struct txb_saga_instance again = fresh(input);
  for (size_t n = 0; n < ledger.entry_count; n++) {
    const struct txb_saga_entry *e = &ledger.entries[n];
    const struct txb_saga_past past = {.n = e->n,
                                       .event = e->event,
                                       .step = txb_slice_text(e->step),
                                       .sending = e->sending,
                                       .at_us = e->at_us,
                                       .timer_us = e->timer_us,
                                       .output = e->output,
                                       .reason = e->reason};
    cr_assert(txb_saga_instance_replay(&again, &past, &err) == TXB_OK, "%s", err.message);
  }
  cr_assert(again.n == saga.n && again.begun == saga.begun && again.ended == saga.ended &&
            again.state.state == saga.state.state && again.timer_us == saga.timer_us);
  cr_assert(again.waits_why == saga.waits_why || strcmp(again.waits_why, saga.waits_why) == 0);
  return again;
}

Test(saga_instance_locks, its_entries_make_the_same_state_again) {
  define(TRIP(ACCOUNT), "{\"n\":7}");
  waits("lock b is held by saga x");
  waits(HELD);
  txb_saga_instance_settle(&saga, &ledger);
  saga = replayed("{\"n\":7}");
  happened("waits waits");
  waits(HELD);
  happened("");
  starts();
  saga = replayed("{\"n\":7}");
  happened("start begin");
  cr_assert(saga.begun);
}

Test(saga_instance_locks, no_entry_says_that_it_waits_once_it_has_begun) {
  define(TRIP(ACCOUNT), "{\"n\":7}");
  starts();
  const struct txb_saga_past past = {.n = saga.n + 1, .event = "waits", .at_us = 1, .reason = HELD};
  cr_assert(txb_saga_instance_replay(&saga, &past, &err) == TXB_REFUSED);
}

/* ---- memory ------------------------------------------------------------------------------------- */

Test(saga_instance_locks, every_lack_of_memory_is_an_error) {
  char input[900];
  int failures = 0;
  enum txb_rc rc = TXB_FATAL;
  snprintf(input, sizeof input, "{\"n\":\"%0800d\"}", 0);
  for (uint64_t nth = 1; rc != TXB_OK && nth < 100; nth++, failures++) {
    define(TRIP(ACCOUNT), input);
    txb_alloc_fail_at(nth);
    rc = txb_saga_instance_locks(&saga, &ledger, &names, &err);
    rc = rc == TXB_OK ? txb_saga_instance_on_wait(&saga, HELD, &moment, &ledger, &err) : rc;
    txb_alloc_fail_at(0);
    cr_assert(rc == TXB_OK || rc == TXB_FATAL);
    teardown();
    setup();
  }
  cr_assert(rc == TXB_OK && failures >= 1, "%d", failures);
}
