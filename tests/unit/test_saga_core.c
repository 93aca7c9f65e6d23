/* Sagas: the table of transitions, which definitions can be run safely, and how a saga goes. */
#include "broker/saga/saga_core.h"

#include <criterion/criterion.h>
#include <string.h>

#define C TXB_SAGA_COMPENSATABLE
#define P TXB_SAGA_PIVOT
#define R TXB_SAGA_RETRIABLE

/* ---- the table ---------------------------------------------------------------------------------- */

static int lines_of(int from, int event, int kind, bool left) {
  int n = 0;
  for (size_t i = 0; i < txb_saga_transitions_count; i++) {
    const struct txb_saga_transition *t = &txb_saga_transitions[i];
    n += (int)t->from == from && (int)t->event == event && (t->kinds & (1U << kind)) != 0 &&
         (t->attempts == TXB_SAGA_ANY || (t->attempts == TXB_SAGA_LEFT) == left);
  }
  return n;
}

/* What an event leads to, told a second time: for each state and each kind, the events that change something. */
static const struct {
  enum txb_saga_step_state from;
  enum txb_saga_kind kind;
  const char *events; /* in the order of enum txb_saga_step_event: x changes something, . does not */
} wanted[] = {
    /*                                 BSERNUcCTbkrdule */
    {TXB_STEP_IDLE, C, "xx.............."},           {TXB_STEP_IDLE, P, "xx.............."},
    {TXB_STEP_IDLE, R, "xx.............."},           {TXB_STEP_RUNNING, C, "..xx.x..xx......"},
    {TXB_STEP_RUNNING, P, "..xx.x..xx......"},        {TXB_STEP_RUNNING, R, "..xx....x......."},
    {TXB_STEP_SETTLING, C, "..xxxx..x......."},       {TXB_STEP_SETTLING, P, "..xxxx..x......."},
    {TXB_STEP_SETTLING, R, "..x.xx..x......."},       {TXB_STEP_DONE, C, "..........x....."},
    {TXB_STEP_COMPENSATING, C, "......xxx......."},   {TXB_STEP_STUCK_ACTION, R, "..x........xx.xx"},
    {TXB_STEP_STUCK_SETTLING, C, "..xxxx.....xxx.."}, {TXB_STEP_STUCK_SETTLING, P, "..xxxx.....xxx.."},
    {TXB_STEP_STUCK_SETTLING, R, "..x.xx.....xxx.."}, {TXB_STEP_STUCK_COMPENSATION, C, "......x....x.xxx"},
};

static bool is_wanted(int from, int event, int kind) {
  for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
    if ((int)wanted[i].from == from && (int)wanted[i].kind == kind)
      return wanted[i].events[event] == 'x';
  return false;
}

Test(saga_core, every_state_and_event_of_every_kind_has_one_line_or_none) {
  for (int from = 0; from < TXB_STEP_STATES; from++)
    for (int event = 0; event < TXB_STEP_EVENTS; event++)
      for (int kind = 0; kind < TXB_SAGA_KINDS; kind++)
        for (int left = 0; left < 2; left++)
          cr_assert_eq(lines_of(from, event, kind, left != 0), is_wanted(from, event, kind) ? 1 : 0,
                       "%s on %s, kind %d, attempts %s", txb_saga_step_state_name((enum txb_saga_step_state)from),
                       txb_saga_step_event_name((enum txb_saga_step_event)event), kind, left ? "left" : "over");
}

Test(saga_core, only_steps_that_can_be_undone_are_and_who_is_stuck_can_be_helped) {
  bool retried[TXB_STEP_STATES] = {false};
  for (size_t i = 0; i < txb_saga_transitions_count; i++) {
    const struct txb_saga_transition *t = &txb_saga_transitions[i];
    if (t->to == TXB_STEP_COMPENSATING)
      cr_assert_eq(t->kinds, 1U << C);
    if (t->action == TXB_SAGA_CALL_PERSON)
      cr_assert_geq(t->to, TXB_STEP_STUCK_ACTION);
    cr_assert_gt(strlen(t->why), 0);
    retried[t->from] |= t->event == TXB_STEP_ON_RETRY;
  }
  for (int state = 0; state < TXB_STEP_STATES; state++)
    cr_assert_eq(retried[state], state >= TXB_STEP_STUCK_ACTION);
}

/* ---- definitions -------------------------------------------------------------------------------- */

static const char *problem_of(const struct txb_saga_rule *steps, int count, int *step) {
  struct txb_saga_rules rules = {.count = count, .steps = steps};
  return txb_saga_rules_prepare(&rules, step);
}

static void is_refused(const struct txb_saga_rule *steps, int count, int where, const char *why) {
  int step = -2;
  const char *problem = problem_of(steps, count, &step);
  cr_assert_not_null(problem);
  cr_assert_not_null(strstr(problem, why), "%s", problem);
  cr_assert_eq(step, where, "%d", step);
}

Test(saga_core, what_can_t_be_run_safely_is_refused) {
  is_refused((struct txb_saga_rule[]){{C, 2, 1}, {C, 1, 1}}, 2, 0, "cycle");
  is_refused((struct txb_saga_rule[]){{C, 1, 1}}, 1, 0, "cycle");
  is_refused((struct txb_saga_rule[]){{C, 4, 1}, {C, 0, 1}}, 2, 0, "that there is not");
  is_refused((struct txb_saga_rule[]){{P, 0, 1}, {C, 1, 1}}, 2, 0, "does not come after all steps");
  is_refused((struct txb_saga_rule[]){{C, 0, 1}, {P, 0, 1}}, 2, 1, "does not come after all steps");
  is_refused((struct txb_saga_rule[]){{C, 0, 1}, {R, 0, 1}}, 2, 1, "does not come after all steps");
  is_refused((struct txb_saga_rule[]){{P, 0, 1}, {P, 1, 1}}, 2, 1, "second pivot");
  is_refused((struct txb_saga_rule[]){{P, 0, 1}, {R, 0, 1}}, 2, 1, "might still refuse");
  is_refused((struct txb_saga_rule[]){{C, 0, 0}}, 1, 0, "no attempt");
  is_refused(NULL, 0, -1, "no steps");
  is_refused((struct txb_saga_rule[]){{C, 0, 1}}, 65, -1, "more than 64");
}

Test(saga_core, what_can_be_is_not_up_to_sixty_four_steps) {
  struct txb_saga_rule steps[64];
  int step;
  for (int i = 0; i < 64; i++)
    steps[i] = (struct txb_saga_rule){i < 62 ? C : i == 62 ? P : R, i == 0 ? 0 : UINT64_C(1) << (i - 1), 1};
  cr_assert_null(problem_of(steps, 64, &step));
  cr_assert_eq(step, -1);
  struct txb_saga_rule fan[] = {{C, 0, 1}, {C, 0, 1}, {C, 3, 1}, {P, 4, 1}, {R, 8, 1}, {R, 8, 1}};
  cr_assert_null(problem_of(fan, 6, &step));
}

/* ---- a saga ------------------------------------------------------------------------------------- */

static struct txb_saga_rule trip[] = {{C, 0, 2}, {C, 0, 2}, {P, 3, 2}, {R, 4, 2}};
static struct txb_saga_rules rules;
static struct txb_saga saga;
static struct txb_saga_actions out;

static void start(void) {
  int step;
  rules = (struct txb_saga_rules){.count = 4, .steps = trip};
  cr_assert_null(txb_saga_rules_prepare(&rules, &step));
  txb_saga_start(&rules, &saga, &out);
}

static bool on(int step, enum txb_saga_step_event event) {
  int32_t sending = event == TXB_STEP_ON_TIME ? saga.steps[step].sendings : 0;
  return txb_saga_step_on(&rules, &saga, step, event, sending, NULL, &out);
}

static void is_action(int at, enum txb_saga_action_kind kind, int step) {
  cr_assert_lt(at, out.count);
  cr_assert_eq(out.items[at].kind, kind, "%d", (int)out.items[at].kind);
  cr_assert_eq(out.items[at].step, step, "%d", out.items[at].step);
}

static void begun(int step) {
  cr_assert(on(step, TXB_STEP_ON_BEGIN));
  is_action(0, TXB_SAGA_SEND_ACTION, step);
}

static void up_to_the_pivot(void) {
  start();
  begun(0);
  begun(1);
  cr_assert(on(0, TXB_STEP_ON_EFFECT));
  cr_assert_eq(out.count, 0);
  cr_assert(on(1, TXB_STEP_ON_EFFECT));
  is_action(0, TXB_SAGA_ASK, 2);
  begun(2);
}

Test(saga_core, goes_forward_side_by_side_and_ends_completed) {
  start();
  cr_assert_eq(out.count, 2);
  is_action(0, TXB_SAGA_ASK, 0);
  is_action(1, TXB_SAGA_ASK, 1);
  up_to_the_pivot();
  cr_assert(on(2, TXB_STEP_ON_EFFECT));
  is_action(0, TXB_SAGA_ASK, 3);
  begun(3);
  cr_assert(on(3, TXB_STEP_ON_EFFECT));
  is_action(0, TXB_SAGA_END, -1);
  cr_assert_eq(saga.state, TXB_SAGA_COMPLETED);
  cr_assert_not(on(3, TXB_STEP_ON_EFFECT), "a repetition changes nothing");
}

Test(saga_core, a_step_whose_condition_does_not_hold_is_passed_by) {
  start();
  cr_assert(on(0, TXB_STEP_ON_SKIP));
  cr_assert(on(1, TXB_STEP_ON_SKIP));
  is_action(0, TXB_SAGA_ASK, 2);
  cr_assert_not(on(0, TXB_STEP_ON_BEGIN));
}

Test(saga_core, a_refusal_undoes_what_took_effect_and_settles_what_is_under_way) {
  start();
  begun(0);
  begun(1);
  cr_assert(on(0, TXB_STEP_ON_REFUSED));
  cr_assert_eq(saga.state, TXB_SAGA_COMPENSATING);
  is_action(0, TXB_SAGA_SEND_RESOLVE, 1);
  cr_assert(on(1, TXB_STEP_ON_EFFECT), "it succeeds late");
  is_action(0, TXB_SAGA_SEND_COMPENSATION, 1);
  cr_assert(on(1, TXB_STEP_ON_COMPENSATED));
  is_action(0, TXB_SAGA_END, -1);
  cr_assert_eq(saga.state, TXB_SAGA_COMPENSATED);
}

Test(saga_core, a_deadline_during_the_pivot_asks_what_became_of_it) {
  up_to_the_pivot();
  cr_assert(txb_saga_turn_back(&rules, &saga, NULL, &out));
  cr_assert_eq(saga.state, TXB_SAGA_TURNING);
  cr_assert_eq(out.count, 1);
  is_action(0, TXB_SAGA_SEND_RESOLVE, 2);
  cr_assert(on(2, TXB_STEP_ON_EFFECT));
  cr_assert_eq(saga.state, TXB_SAGA_RUNNING, "it took effect: only forward from here");
  is_action(0, TXB_SAGA_ASK, 3);
  cr_assert_not(txb_saga_turn_back(&rules, &saga, NULL, &out));

  up_to_the_pivot();
  cr_assert(txb_saga_turn_back(&rules, &saga, NULL, &out));
  cr_assert(on(2, TXB_STEP_ON_NEVER));
  cr_assert_eq(saga.state, TXB_SAGA_COMPENSATING);
  is_action(0, TXB_SAGA_SEND_COMPENSATION, 0);
  is_action(1, TXB_SAGA_SEND_COMPENSATION, 1);
}

Test(saga_core, a_timer_of_an_older_sending_changes_nothing) {
  start();
  begun(0);
  int32_t first = out.items[0].sending;
  cr_assert(on(0, TXB_STEP_ON_TIME));
  is_action(0, TXB_SAGA_SEND_RESOLVE, 0);
  cr_assert_gt(out.items[0].sending, first);
  cr_assert_not(txb_saga_step_on(&rules, &saga, 0, TXB_STEP_ON_TIME, first, NULL, &out));
  cr_assert_eq(out.count, 0);
}

Test(saga_core, behind_the_pivot_a_refusal_is_tried_again_and_then_a_person_is_asked) {
  up_to_the_pivot();
  cr_assert(on(2, TXB_STEP_ON_EFFECT));
  begun(3);
  cr_assert(on(3, TXB_STEP_ON_REFUSED));
  is_action(0, TXB_SAGA_PAUSE, 3);
  cr_assert(on(3, TXB_STEP_ON_TIME));
  is_action(0, TXB_SAGA_SEND_ACTION, 3);
  cr_assert_eq(out.items[0].attempts, 2);
  cr_assert(on(3, TXB_STEP_ON_REFUSED));
  is_action(0, TXB_SAGA_CALL_PERSON, 3);
  cr_assert(txb_saga_is_stuck(&rules, &saga));
  cr_assert(on(3, TXB_STEP_ON_RETRY));
  is_action(0, TXB_SAGA_SEND_ACTION, 3);
  cr_assert_eq(out.items[0].attempts, 1);
  cr_assert_not(txb_saga_is_stuck(&rules, &saga));
}

static void stuck_behind_the_pivot(void) {
  up_to_the_pivot();
  cr_assert(on(2, TXB_STEP_ON_EFFECT));
  begun(3);
  cr_assert(on(3, TXB_STEP_ON_TIME));
  cr_assert(on(3, TXB_STEP_ON_TIME));
  is_action(0, TXB_SAGA_CALL_PERSON, 3);
}

Test(saga_core, what_a_person_leaves_out_is_settled_first_and_never_guessed) {
  stuck_behind_the_pivot();
  cr_assert(on(3, TXB_STEP_ON_LEAVE));
  cr_assert_eq(out.count, 1);
  is_action(0, TXB_SAGA_SEND_RESOLVE, 3);
  cr_assert_eq(saga.state, TXB_SAGA_RUNNING, "it may have taken effect");
  cr_assert_not(on(3, TXB_STEP_ON_REFUSED), "a refusal of an earlier sending says nothing about a later one");
  cr_assert(on(3, TXB_STEP_ON_NEVER));
  cr_assert_eq(saga.steps[3].state, TXB_STEP_SKIPPED);
  is_action(0, TXB_SAGA_END, -1);
  cr_assert_eq(saga.state, TXB_SAGA_COMPLETED);

  stuck_behind_the_pivot();
  cr_assert(on(3, TXB_STEP_ON_LEAVE));
  cr_assert(on(3, TXB_STEP_ON_EFFECT));
  cr_assert_eq(saga.steps[3].state, TXB_STEP_DONE, "it took effect, and counts");
  is_action(0, TXB_SAGA_END, -1);
}

Test(saga_core, what_is_left_out_and_not_told_about_is_marked) {
  stuck_behind_the_pivot();
  cr_assert(on(3, TXB_STEP_ON_LEAVE));
  cr_assert(on(3, TXB_STEP_ON_TIME));
  is_action(0, TXB_SAGA_SEND_RESOLVE, 3);
  cr_assert(on(3, TXB_STEP_ON_TIME));
  is_action(0, TXB_SAGA_CALL_PERSON, 3);
  cr_assert_eq(saga.steps[3].state, TXB_STEP_STUCK_SETTLING);
  cr_assert_not(on(3, TXB_STEP_ON_LEAVE));
  cr_assert_not(on(3, TXB_STEP_ON_EDIT));
  cr_assert(on(3, TXB_STEP_ON_MARK_UNDONE));
  cr_assert_eq(saga.steps[3].state, TXB_STEP_SKIPPED);
  cr_assert_eq(saga.state, TXB_SAGA_COMPLETED, "behind the pivot nothing turns back");
}

Test(saga_core, an_edit_begins_anew_with_all_attempts) {
  stuck_behind_the_pivot();
  cr_assert(on(3, TXB_STEP_ON_EDIT));
  is_action(0, TXB_SAGA_SEND_ACTION, 3);
  cr_assert_eq(out.items[0].attempts, 1);
}

Test(saga_core, a_compensation_that_fails_is_tried_again_and_then_a_person_is_asked) {
  start();
  begun(0);
  cr_assert(on(1, TXB_STEP_ON_SKIP));
  cr_assert(on(0, TXB_STEP_ON_EFFECT));
  cr_assert(txb_saga_turn_back(&rules, &saga, NULL, &out));
  is_action(0, TXB_SAGA_SEND_COMPENSATION, 0);
  cr_assert(on(0, TXB_STEP_ON_NOT_COMPENSATED));
  cr_assert(on(0, TXB_STEP_ON_TIME));
  is_action(0, TXB_SAGA_SEND_COMPENSATION, 0);
  cr_assert(on(0, TXB_STEP_ON_NOT_COMPENSATED));
  is_action(0, TXB_SAGA_CALL_PERSON, 0);
  cr_assert_eq(saga.state, TXB_SAGA_COMPENSATING, "never given up in silence");
  cr_assert(txb_saga_is_stuck(&rules, &saga));
  cr_assert(on(0, TXB_STEP_ON_EDIT));
  is_action(0, TXB_SAGA_SEND_COMPENSATION, 0);
  cr_assert_eq(out.items[0].attempts, 1);
  cr_assert(on(0, TXB_STEP_ON_TIME));
  cr_assert(on(0, TXB_STEP_ON_TIME));
  struct txb_saga stuck = saga;
  cr_assert(on(0, TXB_STEP_ON_MARK_UNDONE));
  cr_assert_eq(saga.state, TXB_SAGA_COMPENSATED);
  saga = stuck;
  cr_assert(on(0, TXB_STEP_ON_LEAVE));
  cr_assert_eq(saga.steps[0].state, TXB_STEP_COMPENSATED);
  cr_assert_eq(saga.state, TXB_SAGA_COMPENSATED);
}

Test(saga_core, a_completed_one_is_undone_only_where_all_its_steps_can_be) {
  struct txb_saga_rule two[] = {{C, 0, 1}, {C, 1, 1}};
  int step;
  rules = (struct txb_saga_rules){.count = 2, .steps = two};
  cr_assert_null(txb_saga_rules_prepare(&rules, &step));
  txb_saga_start(&rules, &saga, &out);
  begun(0);
  cr_assert(on(0, TXB_STEP_ON_EFFECT));
  begun(1);
  cr_assert(on(1, TXB_STEP_ON_EFFECT));
  cr_assert_eq(saga.state, TXB_SAGA_COMPLETED);
  cr_assert(txb_saga_undo(&rules, &saga, NULL, &out));
  cr_assert_eq(out.count, 1);
  is_action(0, TXB_SAGA_SEND_COMPENSATION, 1);
  cr_assert(on(1, TXB_STEP_ON_COMPENSATED));
  is_action(0, TXB_SAGA_SEND_COMPENSATION, 0);
}
