/* Sagas that are steps of others: what a parent sends, what a child answers, and that their entries make the same states again. */
#include "broker/saga/nested.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char tour[] =
    "{\"name\":\"tour\",\"version\":3,\"steps\":["
    "{\"name\":\"stay\",\"kind\":\"compensatable\",\"saga\":{\"name\":\"booking\",\"version\":2},\"timeout\":\"30ms\","
    "\"retry\":{\"attempts\":2,\"first\":\"10ms\"},\"input\":{\"city\":\"{input.city}\"}},"
    "{\"name\":\"pay\",\"kind\":\"pivot\",\"topic\":\"payments\",\"type\":\"pay\",\"timeout\":\"40ms\"},"
    "{\"name\":\"mail\",\"kind\":\"retriable\",\"saga\":{\"name\":\"mails\",\"version\":1},\"timeout\":\"50ms\","
    "\"retry\":{\"attempts\":3,\"first\":\"10ms\"}}]}";
static const char booking[] =
    "{\"name\":\"booking\",\"version\":2,\"output\":{\"room\":\"{steps.hotel.output.room}\"},\"steps\":["
    "{\"name\":\"flight\",\"kind\":\"compensatable\",\"topic\":\"flights\",\"type\":\"book\",\"timeout\":\"20ms\","
    "\"compensation\":{\"type\":\"unbook\"}},"
    "{\"name\":\"hotel\",\"kind\":\"compensatable\",\"topic\":\"hotels\",\"type\":\"book\",\"timeout\":\"20ms\","
    "\"compensation\":{\"type\":\"unbook\"}}]}";
static const char paid[] = "{\"name\":\"paid\",\"version\":1,\"steps\":["
                           "{\"name\":\"pay\",\"kind\":\"pivot\",\"topic\":\"payments\",\"type\":\"pay\"},"
                           "{\"name\":\"mail\",\"kind\":\"retriable\",\"topic\":\"mails\",\"type\":\"send\"}]}";
static const char ID[] = "01890000-0000-7000-8000-000000000001", ROOT[] = "01890000-0000-7000-8000-00000000000f";

static struct txb_saga_definition *d;
static struct txb_saga_instance saga;
static struct txb_saga_parent parent;
static struct txb_saga_ledger ledger;
static struct txb_saga_moment moment;
static struct txb_error err;
static size_t told; /* entries that were looked at */

static void setup(void) {
  txb_saga_ledger_init(&ledger);
  moment.now_us = 1000000;
  told = 0;
}

static void teardown(void) {
  txb_saga_instance_fini(&saga);
  txb_saga_ledger_fini(&ledger);
  txb_saga_definition_free(d);
  d = NULL;
}

TestSuite(saga_nested, .init = setup, .fini = teardown);

static struct txb_uuid id_of(const char *text) {
  struct txb_uuid id;
  cr_assert(txb_uuid_parse(txb_slice_text(text), &id, NULL) == TXB_OK);
  return id;
}

static struct txb_saga_instance fresh(bool is_child) {
  struct txb_saga_instance i = {.definition = d,
                                .id = id_of(ID),
                                .started_us = 1000,
                                .input = txb_slice_text("{\"city\":\"Rome\"}"),
                                .topic = "sagas",
                                .parent = is_child ? &parent : NULL};
  txb_saga_instance_init(&i);
  return i;
}

static void define(const char *definition, bool is_child) {
  cr_assert(txb_saga_definition_parse("t.json", txb_slice_text(definition), &d, &err) == TXB_OK, "%s", err.message);
  parent = (struct txb_saga_parent){.saga = id_of("01890000-0000-7000-8000-00000000000a"),
                                    .root = id_of(ROOT),
                                    .started_us = 1000,
                                    .step = "stay",
                                    .operation = TXB_SAGA_OPERATION_ACTION,
                                    .sending = 1};
  saga = fresh(is_child);
}

static void begin(const char *definition) {
  define(definition, false);
  cr_assert(txb_saga_instance_on_start(&saga, &moment, &ledger, &err) == TXB_OK);
}

static void happened(const char *wanted) {
  char text[2000] = "";
  for (; told < ledger.entry_count; told++) {
    const struct txb_saga_entry *e = &ledger.entries[told];
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s%s%s", text[0] != '\0' ? " " : "", e->step,
             e->step[0] != '\0' ? ":" : "", e->event);
  }
  cr_assert_str_eq(text, wanted);
}

static void reasons(const char *wanted) {
  const char *reason = ledger.entries[ledger.entry_count - 1].reason;
  cr_assert(reason != NULL && strstr(reason, wanted) != NULL, "\"%s\" does not hold \"%s\"", reason, wanted);
}

static const struct txb_saga_command *sent(void) {
  cr_assert_gt(ledger.command_count, 0);
  return &ledger.commands[ledger.command_count - 1];
}

/* The last command, to the saga that its step is. */
static struct txb_uuid asked(const char *step, enum txb_saga_operation_kind operation, const char *payload) {
  const struct txb_saga_command *c = sent();
  cr_assert(c->nested);
  cr_assert_str_eq(c->step, step);
  cr_assert_str_eq(c->topic, "sagas");
  cr_assert_str_eq(c->type, txb_saga_nested_type(operation));
  cr_assert_eq(c->operation, operation);
  if (payload != NULL)
    cr_assert(txb_slice_equal(c->payload, txb_slice_text(payload)), "%.*s", (int)c->payload.size,
              (const char *)c->payload.data);
  return c->child;
}

static bool same_id(struct txb_uuid a, struct txb_uuid b) {
  return memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

static void answer_from(const char *child, const char *step, const char *operation, const char *said) {
  int rule = txb_saga_rule_of(d, txb_slice_text(step));
  const struct txb_saga_step_definition *s = &d->steps[rule];
  const struct txb_saga_answer a = {.step = txb_slice_text(step),
                                    .operation = txb_slice_text(operation),
                                    .sending = saga.state.steps[rule].sendings,
                                    .topic = txb_slice_text(s->nested != NULL ? "sagas" : s->topic),
                                    .child = txb_slice_text(child),
                                    .answer = said};
  cr_assert(txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err) == TXB_OK, "%s", err.message);
}

static void answer(const char *step, const char *operation, const char *said) {
  struct txb_uuid id;
  char child[37];
  int rule = txb_saga_rule_of(d, txb_slice_text(step));
  txb_saga_child_of(&saga, rule, &id);
  txb_uuid_format(&id, child);
  answer_from(d->steps[rule].nested != NULL ? child : NULL, step, operation, said);
}

static void timer(void) {
  txb_saga_instance_settle(&saga, &ledger);
  cr_assert_neq(saga.timer_us, 0);
  moment.now_us = saga.timer_us + 10;
  cr_assert(txb_saga_instance_on_timer(&saga, saga.timer_us, &moment, &ledger, &err) == TXB_OK);
}

static void wants(enum txb_saga_operation_kind operation, int32_t sending) {
  cr_assert(txb_saga_instance_on_parent(&saga, operation, sending, &moment, &ledger, &err) == TXB_OK);
}

/* What it said since the last look: one answer, or none. */
static void says(const char *operation, int32_t sending, const char *payload) {
  cr_assert_eq(ledger.said_count, operation != NULL ? 1 : 0);
  if (operation != NULL) {
    const struct txb_saga_said *said = &ledger.said[0];
    cr_assert(said->instance == &saga && said->sending == sending);
    cr_assert_str_eq(txb_saga_operation_name(said->operation), operation);
    cr_assert(txb_slice_equal(said->payload, txb_slice_text(payload)), "%.*s", (int)said->payload.size,
              (const char *)said->payload.data);
  }
  ledger.said_count = 0;
}

static void replays_to_the_same(void) {
  struct txb_saga_instance again = fresh(saga.parent != NULL);
  for (size_t n = 0; n < ledger.entry_count; n++) {
    const struct txb_saga_entry *e = &ledger.entries[n];
    const struct txb_saga_past past = {e->n,      e->event, txb_slice_text(e->step), e->sending, e->at_us, e->timer_us,
                                       e->output, e->reason};
    cr_assert(txb_saga_instance_replay(&again, &past, &err) == TXB_OK, "%s", err.message);
  }
  cr_assert(again.state.state == saga.state.state && again.n == saga.n && again.ended == saga.ended);
  cr_assert(again.ends == saga.ends && again.undo_asked == saga.undo_asked && again.undo_sending == saga.undo_sending);
  cr_assert_eq(again.settle_sending, saga.settle_sending);
  cr_assert(again.timer_us == saga.timer_us && txb_slice_equal(again.output, saga.output));
  cr_assert((again.reason == NULL) == (saga.reason == NULL) &&
            (saga.reason == NULL || strcmp(again.reason, saga.reason) == 0));
  cr_assert(memcmp(again.due_us, saga.due_us, sizeof saga.due_us) == 0);
  cr_assert(memcmp(again.refusals, saga.refusals, sizeof saga.refusals) == 0);
  for (int rule = 0; rule < d->rules.count; rule++)
    cr_assert(again.state.steps[rule].state == saga.state.steps[rule].state &&
              again.state.steps[rule].sendings == saga.state.steps[rule].sendings);
}

/* ---- the parent ---------------------------------------------------------------------------------- */

#define PARENT(operation, sending)                                                                                     \
  "\"parent\":{\"saga\":\"01890000-0000-7000-8000-000000000001\",\"started\":1000,\"step\":\"stay\",\"operation\":"    \
  "\"" operation "\",\"sending\":" sending ",\"root\":\"01890000-0000-7000-8000-000000000001\"}"

Test(saga_nested, a_step_that_is_a_saga_is_begun_settled_and_undone_by_messages_to_it) {
  begin(tour);
  happened("start stay:begin");
  struct txb_uuid child =
      asked("stay", TXB_SAGA_OPERATION_ACTION,
            "{\"name\":\"booking\",\"version\":2," PARENT("action", "1") ",\"input\":{\"city\":\"Rome\"}}");
  cr_assert(txb_uuid_is_v7(&child) && txb_uuid_v7_ms(&child) == 1);
  timer();
  happened("timer stay:time");
  cr_assert(same_id(child, asked("stay", TXB_SAGA_OPERATION_RESOLVE,
                                 "{\"name\":\"booking\",\"version\":2," PARENT("resolve", "2") "}")));
  answer("stay", "action", "ok");
  happened("stay:effect pay:begin");
  cr_assert_not(sent()->nested);
  answer("pay", "action", "refused");
  happened("pay:refused");
  cr_assert(same_id(child, asked("stay", TXB_SAGA_OPERATION_COMPENSATION,
                                 "{\"name\":\"booking\",\"version\":2," PARENT("compensation", "3") "}")));
  replays_to_the_same();
  answer("stay", "compensation", "compensated");
  happened("stay:compensated end");
  cr_assert_eq(saga.state.state, TXB_SAGA_COMPENSATED);
  cr_assert_eq(ledger.said_count, 0, "it is nobody's step");
  replays_to_the_same();
}

Test(saga_nested, the_outermost_saga_is_handed_on) {
  define(tour, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  cr_assert(memmem(sent()->payload.data, sent()->payload.size, ROOT, sizeof ROOT - 1) != NULL);
}

Test(saga_nested, a_saga_without_an_input_of_its_own_gets_the_parents) {
  begin("{\"name\":\"t\",\"version\":1,\"steps\":[{\"name\":\"stay\",\"kind\":\"pivot\",\"saga\":{\"name\":\"b\","
        "\"version\":1}}]}");
  (void)asked("stay", TXB_SAGA_OPERATION_ACTION,
              "{\"name\":\"b\",\"version\":1," PARENT("action", "1") ",\"input\":{\"city\":\"Rome\"}}");
}

Test(saga_nested, an_input_that_can_t_be_made_refuses_the_step) {
  begin("{\"name\":\"t\",\"version\":1,\"steps\":[{\"name\":\"stay\",\"kind\":\"pivot\",\"saga\":{\"name\":\"b\","
        "\"version\":1},"
        "\"input\":\"{input.none}\"}]}");
  happened("start stay:begin stay:refused end");
  cr_assert_eq(ledger.command_count, 0);
}

Test(saga_nested, a_forged_answer_and_one_of_another_saga_are_ignored) {
  begin(tour);
  happened("start stay:begin");
  answer_from("01890000-0000-7000-8000-0000000000ff", "stay", "action", "ok");
  reasons("an answer of saga 01890000-0000-7000-8000-0000000000ff: the step is saga ");
  answer_from(NULL, "stay", "action", "ok");
  reasons("an answer of saga : the step is saga ");
  struct txb_uuid id;
  char child[37];
  txb_saga_child_of(&saga, 0, &id);
  txb_uuid_format(&id, child);
  const struct txb_saga_answer a = {.step = txb_slice_text("stay"),
                                    .operation = txb_slice_text("action"),
                                    .topic = txb_slice_text("payments"),
                                    .child = txb_slice_text(child),
                                    .answer = "ok"};
  cr_assert(txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err) == TXB_OK);
  reasons("an answer from topic payments: its commands go to sagas");
  happened("stay:ignored stay:ignored stay:ignored");
  answer("stay", "action", "ok");
  happened("stay:effect pay:begin");
  replays_to_the_same();
}

Test(saga_nested, what_is_tried_until_it_succeeds_is_another_saga_after_a_refusal_and_the_same_after_a_time_out) {
  char first_text[37];
  begin(tour);
  answer("stay", "action", "ok");
  answer("pay", "action", "ok");
  happened("start stay:begin stay:effect pay:begin pay:effect mail:begin");
  struct txb_uuid first = asked("mail", TXB_SAGA_OPERATION_FORWARD, NULL);
  txb_uuid_format(&first, first_text);
  timer();
  happened("timer mail:time");
  cr_assert(same_id(first, asked("mail", TXB_SAGA_OPERATION_FORWARD, NULL)));
  answer("mail", "forward", "refused");
  timer();
  happened("mail:refused timer mail:time");
  struct txb_uuid second = asked("mail", TXB_SAGA_OPERATION_FORWARD, NULL);
  cr_assert_not(same_id(first, second));
  replays_to_the_same();
  /* What the first one says now is about the first one. */
  answer_from(first_text, "mail", "forward", "refused");
  answer_from(first_text, "mail", "forward", "ok");
  happened("mail:ignored mail:ignored");
  answer("mail", "forward", "ok");
  happened("mail:effect end");
  cr_assert_eq(saga.state.state, TXB_SAGA_COMPLETED);
  replays_to_the_same();
}

Test(saga_nested, a_parent_that_is_stuck_ends_by_itself_when_its_child_answers) {
  begin(tour);
  timer();
  timer();
  timer();
  happened("start stay:begin timer stay:time timer stay:time timer stay:time stay:stuck");
  answer("stay", "resolve", "ok");
  happened("stay:effect pay:begin");
  replays_to_the_same();
}

/* ---- people -------------------------------------------------------------------------------------- */

static void decide(const char *what, const char *step, json_t *payload) {
  const struct txb_saga_decision decision = {
      .decision = what, .step = step, .seen = saga.n, .reason = "why", .who = "hal", .payload = payload};
  cr_assert(txb_saga_instance_on_decision(&saga, &decision, &moment, &ledger, &err) == TXB_OK, "%s", err.message);
  json_decref(payload);
}

/* The step mail is stuck, having been refused three times. */
static void stuck_mail(void) {
  begin(tour);
  answer("stay", "action", "ok");
  answer("pay", "action", "ok");
  for (int n = 0; n < 2; n++) {
    answer("mail", "forward", "refused");
    timer();
  }
  answer("mail", "forward", "refused");
  cr_assert_eq(saga.state.steps[2].state, TXB_STEP_STUCK_ACTION);
  told = ledger.entry_count;
}

Test(saga_nested, what_a_person_gives_a_saga_that_is_tried_until_it_succeeds_is_its_input_from_then_on) {
  stuck_mail();
  decide("edit", "mail", json_pack("{s:s}", "to", "hal"));
  happened("mail:edit");
  cr_assert_not_null(strstr(sent()->payload.data, "\"input\":{\"to\":\"hal\"}"), "%s",
                     (const char *)sent()->payload.data);
  answer("mail", "forward", "refused");
  timer();
  cr_assert_not_null(strstr(sent()->payload.data, "\"input\":{\"to\":\"hal\"}"), "%s",
                     (const char *)sent()->payload.data);
  replays_to_the_same();
}

Test(saga_nested, a_saga_that_is_left_out_is_settled_first) {
  stuck_mail();
  decide("skip", "mail", NULL);
  happened("mail:leave");
  asked("mail", TXB_SAGA_OPERATION_RESOLVE, NULL);
  answer("mail", "forward", "refused"); /* of before: it might be tried again */
  happened("mail:ignored");
  answer("mail", "resolve", "never");
  happened("mail:never end");
  cr_assert_eq(saga.state.state, TXB_SAGA_COMPLETED);
  replays_to_the_same();
}

Test(saga_nested, what_undoes_a_saga_can_t_be_edited) {
  begin(tour);
  answer("stay", "action", "ok");
  answer("pay", "action", "refused");
  answer("stay", "compensation", "failed");
  timer();
  answer("stay", "compensation", "failed");
  cr_assert_eq(saga.state.steps[0].state, TXB_STEP_STUCK_COMPENSATION);
  told = ledger.entry_count;
  decide("edit", "stay", json_object());
  happened("stay:ignored");
  reasons("a saga is undone by its own steps: edit what those are sent");
}

/* ---- the child ----------------------------------------------------------------------------------- */

static void complete(void) {
  define(booking, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  txb_saga_instance_settle(&saga, &ledger);
  answer("flight", "action", "ok");
  says(NULL, 0, NULL);
  const struct txb_saga_answer a = {.step = txb_slice_text("hotel"),
                                    .operation = txb_slice_text("action"),
                                    .topic = txb_slice_text("hotels"),
                                    .answer = "ok",
                                    .output = json_pack("{s:i}", "room", 7)};
  cr_assert(txb_saga_instance_on_answer(&saga, &a, &moment, &ledger, &err) == TXB_OK);
  json_decref(a.output);
  happened("start flight:begin flight:effect hotel:begin hotel:effect end");
}

static const char room[] = "{\"answer\":\"ok\",\"output\":{\"room\":7}}";

Test(saga_nested, its_end_is_told_to_its_parent_and_again_to_whoever_asks) {
  complete();
  says("action", 1, room);
  wants(TXB_SAGA_OPERATION_ACTION, 2);
  says("action", 2, room);
  wants(TXB_SAGA_OPERATION_RESOLVE, 3);
  says("resolve", 3, room);
  happened("");
}

Test(saga_nested, what_was_loaded_anew_answers_the_same) {
  complete();
  says("action", 1, room);
  struct txb_saga_instance again = fresh(true);
  for (size_t n = 0; n < ledger.entry_count; n++) {
    const struct txb_saga_entry *e = &ledger.entries[n];
    const struct txb_saga_past past = {e->n,      e->event, txb_slice_text(e->step), e->sending, e->at_us, e->timer_us,
                                       e->output, e->reason};
    cr_assert(txb_saga_instance_replay(&again, &past, &err) == TXB_OK);
  }
  txb_saga_instance_fini(&saga);
  saga = again;
  wants(TXB_SAGA_OPERATION_RESOLVE, 3);
  says("resolve", 3, room);
}

Test(saga_nested, a_start_that_comes_again_while_it_runs_is_passed_over) {
  define(booking, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  happened("start flight:begin");
  wants(TXB_SAGA_OPERATION_ACTION, 2);
  happened("");
  says(NULL, 0, NULL);
}

Test(saga_nested, one_that_is_compensated_has_refused) {
  define(booking, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  answer("flight", "action", "refused");
  happened("start flight:begin flight:refused end");
  says("action", 1, "{\"answer\":\"refused\",\"reason\":\"flight: refused\"}");
  wants(TXB_SAGA_OPERATION_RESOLVE, 2);
  says("resolve", 2, "{\"answer\":\"refused\",\"reason\":\"flight: refused\"}");
}

Test(saga_nested, one_that_would_be_tried_again_never_will_once_it_is_settled) {
  define(booking, true);
  parent.operation = TXB_SAGA_OPERATION_FORWARD;
  wants(TXB_SAGA_OPERATION_FORWARD, 1);
  answer("flight", "action", "refused");
  says("forward", 1, "{\"answer\":\"refused\",\"reason\":\"flight: refused\"}");
  wants(TXB_SAGA_OPERATION_RESOLVE, 2);
  says("resolve", 2, "{\"answer\":\"never\",\"reason\":\"flight: refused\"}");
}

Test(saga_nested, one_that_would_be_tried_again_says_that_it_never_will_when_it_was_left_out_under_way) {
  define(booking, true);
  parent.operation = TXB_SAGA_OPERATION_FORWARD;
  wants(TXB_SAGA_OPERATION_FORWARD, 1);
  wants(TXB_SAGA_OPERATION_RESOLVE, 2);
  says(NULL, 0, NULL);
  answer("flight", "resolve", "never");
  says("resolve", 2, "{\"answer\":\"never\",\"reason\":\"its parent asks to settle\"}");
  replays_to_the_same();
}

Test(saga_nested, one_that_is_settled_turns_back_and_tells_its_end) {
  define(booking, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  answer("flight", "action", "ok");
  wants(TXB_SAGA_OPERATION_RESOLVE, 2);
  happened("start flight:begin flight:effect hotel:begin turn_back");
  says(NULL, 0, NULL);
  wants(TXB_SAGA_OPERATION_RESOLVE, 3);
  happened("ignored");
  reasons("its parent asks to settle: it is compensating, and goes on to its end");
  says(NULL, 0, NULL);
  answer("hotel", "resolve", "never");
  answer("flight", "compensation", "compensated");
  happened("hotel:never flight:compensated end");
  says("resolve", 2, "{\"answer\":\"refused\",\"reason\":\"its parent asks to settle\"}");
  replays_to_the_same();
}

Test(saga_nested, one_that_is_past_its_pivot_goes_on_when_it_is_settled) {
  define(paid, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  answer("pay", "action", "ok");
  wants(TXB_SAGA_OPERATION_RESOLVE, 2);
  happened("start pay:begin pay:effect mail:begin ignored");
  says(NULL, 0, NULL);
  answer("mail", "forward", "ok");
  says("action", 1, "{\"answer\":\"ok\"}");
}

Test(saga_nested, one_that_is_completed_is_undone_and_ends_anew) {
  complete();
  says("action", 1, room);
  int64_t before_us = saga.timer_us;
  moment.now_us += 5000;
  wants(TXB_SAGA_OPERATION_COMPENSATION, 4);
  happened("undo");
  cr_assert(!saga.ended && saga.state.state == TXB_SAGA_COMPENSATING);
  cr_assert_str_eq(sent()->step, "hotel");
  cr_assert_eq(sent()->operation, TXB_SAGA_OPERATION_COMPENSATION);
  says(NULL, 0, NULL);
  /* Its timer was taken back at its end. */
  txb_saga_instance_settle(&saga, &ledger);
  cr_assert(saga.timer_us == moment.now_us + 20000 && saga.timer_us != before_us);
  wants(TXB_SAGA_OPERATION_COMPENSATION, 5);
  happened("ignored");
  reasons("its parent undoes it again: it is compensating already");
  wants(TXB_SAGA_OPERATION_ACTION, 6);
  happened("");
  says(NULL, 0, NULL);
  answer("hotel", "compensation", "compensated");
  replays_to_the_same();
  answer("flight", "compensation", "compensated");
  happened("hotel:compensated flight:compensated end");
  cr_assert(saga.ended && saga.ends == 2 && saga.output.data == NULL);
  says("compensation", 4, "{\"answer\":\"compensated\",\"reason\":\"its parent undoes it\"}");
  replays_to_the_same();
  /* S4: an action that comes again after it was undone must not be taken for one that stands. */
  wants(TXB_SAGA_OPERATION_ACTION, 7);
  says("action", 7, "{\"answer\":\"compensated\",\"reason\":\"its parent undoes it\"}");
  wants(TXB_SAGA_OPERATION_COMPENSATION, 8);
  says("compensation", 8, "{\"answer\":\"compensated\",\"reason\":\"its parent undoes it\"}");
  happened("");
}

Test(saga_nested, one_of_which_nothing_stands_is_undone_at_once) {
  define(
      "{\"name\":\"b\",\"version\":1,\"steps\":[{\"name\":\"flight\",\"kind\":\"compensatable\",\"topic\":\"flights\","
      "\"type\":\"book\",\"when\":\"input.none?\",\"compensation\":{\"type\":\"unbook\"}}]}",
      true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  says("action", 1, "{\"answer\":\"ok\"}");
  wants(TXB_SAGA_OPERATION_COMPENSATION, 2);
  happened("start flight:skip end undo end");
  says("compensation", 2, "{\"answer\":\"compensated\",\"reason\":\"its parent undoes it\"}");
  cr_assert_eq(saga.state.state, TXB_SAGA_COMPENSATED);
  replays_to_the_same();
}

Test(saga_nested, one_that_runs_turns_back_when_it_is_undone_and_says_that_nothing_stands) {
  define(booking, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  wants(TXB_SAGA_OPERATION_COMPENSATION, 2);
  happened("start flight:begin undo");
  answer("flight", "resolve", "ok");
  answer("flight", "compensation", "compensated");
  happened("flight:effect flight:compensated end");
  says("compensation", 2, "{\"answer\":\"compensated\",\"reason\":\"its parent undoes it\"}");
  replays_to_the_same();
}

Test(saga_nested, one_that_turns_back_already_remembers_that_it_is_undone) {
  define(booking, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  wants(TXB_SAGA_OPERATION_RESOLVE, 2);
  wants(TXB_SAGA_OPERATION_COMPENSATION, 3);
  answer("flight", "resolve", "never");
  happened("start flight:begin turn_back undo flight:never end");
  says("compensation", 3, "{\"answer\":\"compensated\",\"reason\":\"its parent asks to settle\"}");
  replays_to_the_same();
}

Test(saga_nested, one_that_can_t_be_undone_says_so) {
  static const char failed[] =
      "{\"answer\":\"failed\",\"reason\":\"it is completed, and has a step that can't be undone\"}";
  define(paid, true);
  wants(TXB_SAGA_OPERATION_ACTION, 1);
  answer("pay", "action", "ok");
  wants(TXB_SAGA_OPERATION_COMPENSATION, 2);
  happened("start pay:begin pay:effect mail:begin undo");
  answer("mail", "forward", "ok");
  says("compensation", 2, failed);
  wants(TXB_SAGA_OPERATION_COMPENSATION, 3);
  says("compensation", 3, failed);
  cr_assert(saga.ended && saga.state.state == TXB_SAGA_COMPLETED);
  replays_to_the_same();
}

Test(saga_nested, one_that_never_began_says_so) {
  static const struct {
    enum txb_saga_operation_kind made, asked;
    const char *said;
  } cases[] = {
      {TXB_SAGA_OPERATION_RESOLVE, TXB_SAGA_OPERATION_RESOLVE, "never"},
      {TXB_SAGA_OPERATION_RESOLVE, TXB_SAGA_OPERATION_ACTION, "refused"},
      {TXB_SAGA_OPERATION_COMPENSATION, TXB_SAGA_OPERATION_COMPENSATION, "compensated"},
      {TXB_SAGA_OPERATION_COMPENSATION, TXB_SAGA_OPERATION_ACTION, "refused"},
      {TXB_SAGA_OPERATION_FORWARD, TXB_SAGA_OPERATION_FORWARD, "refused"},
      {TXB_SAGA_OPERATION_FORWARD, TXB_SAGA_OPERATION_RESOLVE, "never"},
      {TXB_SAGA_OPERATION_ACTION, TXB_SAGA_OPERATION_RESOLVE, "refused"},
      {TXB_SAGA_OPERATION_ACTION, TXB_SAGA_OPERATION_COMPENSATION, "compensated"},
  };
  define(booking, true);
  for (size_t n = 0; n < sizeof cases / sizeof cases[0]; n++) {
    struct txb_saga_parent by = parent;
    char payload[100];
    parent.operation = cases[n].made;
    by.operation = cases[n].asked;
    by.sending = 9;
    cr_assert(txb_saga_say_never(&saga, &by, "w\"hy", &ledger, &err) == TXB_OK);
    snprintf(payload, sizeof payload, "{\"answer\":\"%s\",\"reason\":\"w\\\"hy\"}", cases[n].said);
    says(txb_saga_operation_name(cases[n].asked), 9, payload);
  }
}

/* ---- what is read -------------------------------------------------------------------------------- */

Test(saga_nested, a_parent_is_read_or_is_none) {
  static const char good[] =
      "{\"saga\":\"01890000-0000-7000-8000-000000000001\",\"started\":5,\"step\":\"stay\",\"operation\":"
      "\"forward\",\"sending\":2,\"root\":\"01890000-0000-7000-8000-00000000000f\"}";
  static const char *const bad[][2] = {{"saga", "\"x\""},
                                       {"saga", "7"},
                                       {"root", "null"},
                                       {"started", "\"5\""},
                                       {"started", "-1"},
                                       {"step", "\"\""},
                                       {"step", "\"a b\""},
                                       {"step", "\"A\""},
                                       {"step", "null"},
                                       {"operation", "\"drop\""},
                                       {"operation", "1"},
                                       {"sending", "0"},
                                       {"sending", "1.5"},
                                       {"sending", "4294967297"},
                                       {"step", "\"stay/confirm\""}};
  struct txb_saga_parent p;
  json_t *object = json_loads(good, 0, NULL);
  cr_assert(txb_saga_parent_read(object, &p));
  cr_assert(p.started_us == 5 && p.sending == 2 && p.operation == TXB_SAGA_OPERATION_FORWARD && p.root.bytes[15] == 15);
  cr_assert_str_eq(p.step, "stay");
  for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
    json_t *copy = json_copy(object);
    json_object_set_new(copy, bad[n][0], json_loads(bad[n][1], JSON_DECODE_ANY, NULL));
    cr_assert_not(txb_saga_parent_read(copy, &p), "%s: %s", bad[n][0], bad[n][1]);
    json_object_del(copy, bad[n][0]);
    cr_assert_not(txb_saga_parent_read(copy, &p), "%s is missing", bad[n][0]);
    json_decref(copy);
  }
  cr_assert_not(txb_saga_parent_read(NULL, &p));
  json_decref(object);
}

Test(saga_nested, versions_that_were_pinned_are_filled_in) {
  begin("{\"name\":\"t\",\"version\":1,\"steps\":[{\"name\":\"stay\",\"kind\":\"pivot\",\"saga\":{\"name\":\"b\"}},"
        "{\"name\":\"x\",\"kind\":\"retriable\",\"topic\":\"t\",\"type\":\"x\"}]}");
  json_t *pins = json_loads("{\"stay\":{\"name\":\"b\",\"version\":7}}", 0, NULL), *none = json_object();
  cr_assert(txb_saga_definition_pin(d, none, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "which version of saga b its step stay is was not kept") != NULL, "%s", err.message);
  cr_assert(txb_saga_definition_pin(d, NULL, &err) == TXB_REFUSED);
  cr_assert(txb_saga_definition_pin(d, pins, &err) == TXB_OK);
  cr_assert_eq(d->steps[0].nested_version, 7);
  json_decref(pins);
  json_decref(none);
}

/* ---- memory -------------------------------------------------------------------------------------- */

static enum txb_rc whole_life(void) {
  TXB_TRY(txb_saga_instance_on_parent(&saga, TXB_SAGA_OPERATION_ACTION, 1, &moment, &ledger, &err));
  TXB_TRY(txb_saga_instance_on_parent(&saga, TXB_SAGA_OPERATION_COMPENSATION, 2, &moment, &ledger, &err));
  return txb_saga_instance_on_parent(&saga, TXB_SAGA_OPERATION_COMPENSATION, 3, &moment, &ledger, &err);
}

Test(saga_nested, every_lack_of_memory_is_an_error) {
  enum txb_rc rc = TXB_FATAL;
  int failures = 0;
  for (uint64_t nth = 1; rc != TXB_OK && nth < 200; nth++, failures++) {
    define(tour, true);
    txb_alloc_fail_at(nth);
    rc = whole_life();
    txb_alloc_fail_at(0);
    cr_assert(rc == TXB_OK || rc == TXB_FATAL);
    teardown();
    setup();
  }
  cr_assert(rc == TXB_OK && failures > 3, "%d", failures);
}

static int allocations_left;

static void *scarce(size_t size) {
  return allocations_left-- > 0 ? malloc(size) : NULL;
}

Test(saga_nested, a_lack_of_memory_for_json_is_an_error_or_a_refusal) {
  bool over = false;
  for (int allowed = 0; !over && allowed < 1000; allowed++) {
    define(tour, true);
    allocations_left = allowed;
    json_set_alloc_funcs(scarce, free);
    enum txb_rc rc = whole_life();
    json_set_alloc_funcs(malloc, free);
    over = allocations_left >= 0;
    cr_assert(rc == TXB_OK || rc == TXB_FATAL, "%d", rc);
    teardown();
    setup();
  }
  cr_assert(over);
}
