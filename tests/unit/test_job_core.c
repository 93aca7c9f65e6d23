/* Replay jobs: the table of transitions, and which lanes may be served. */
#include "consumer/job_core.h"

#include <criterion/criterion.h>
#include <string.h>

/* What the table says, told a second time: every pair of state and event, and where it leads. */
static const enum txb_job_state wanted[TXB_JOB_STATES][TXB_JOB_EVENTS] = {
    /*                   start            pause           resume           cancel             finish */
    [TXB_JOB_NONE] = {TXB_JOB_RUNNING, TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_NONE},
    [TXB_JOB_RUNNING] = {TXB_JOB_NONE, TXB_JOB_PAUSED, TXB_JOB_NONE, TXB_JOB_CANCELLED, TXB_JOB_DONE},
    [TXB_JOB_PAUSED] = {TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_RUNNING, TXB_JOB_CANCELLED, TXB_JOB_NONE},
    [TXB_JOB_CANCELLED] = {TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_NONE},
    [TXB_JOB_DONE] = {TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_NONE, TXB_JOB_NONE},
};

Test(job_core, every_pair_of_state_and_event_is_in_the_table_or_refused) {
  size_t found = 0;
  for (int from = 0; from < TXB_JOB_STATES; from++)
    for (int event = 0; event < TXB_JOB_EVENTS; event++) {
      enum txb_job_state to = txb_job_next((enum txb_job_state)from, (enum txb_job_event)event);
      cr_assert_eq(to, wanted[from][event], "%s on %s to %s", txb_job_state_name((enum txb_job_state)from),
                   txb_job_event_name((enum txb_job_event)event), txb_job_state_name(to));
      found += to != TXB_JOB_NONE;
    }
  cr_assert_eq(found, txb_job_transitions_count, "an event leads to two states, or a line stands twice in the table");
}

Test(job_core, what_is_final_stays_so_and_everything_open_can_be_ended_by_a_person) {
  bool cancels[TXB_JOB_STATES] = {false};
  for (size_t i = 0; i < txb_job_transitions_count; i++) {
    const struct txb_job_transition *t = &txb_job_transitions[i];
    cr_assert(t->from == TXB_JOB_NONE || txb_job_is_open(t->from));
    cr_assert_neq(t->to, TXB_JOB_NONE);
    cr_assert_gt(strlen(t->why), 0);
    cancels[t->from] |= t->event == TXB_JOB_ON_CANCEL;
  }
  for (int state = 0; state < TXB_JOB_STATES; state++)
    cr_assert_eq(cancels[state], txb_job_is_open((enum txb_job_state)state));
}

Test(job_core, the_words_are_those_of_the_database) {
  static const char *const states[] = {"", "running", "paused", "cancelled", "done"};
  static const char *const events[] = {"start", "pause", "resume", "cancel", "finish"};
  for (int i = 0; i < TXB_JOB_STATES; i++)
    cr_assert_str_eq(txb_job_state_name((enum txb_job_state)i), states[i]);
  for (int i = 0; i < TXB_JOB_EVENTS; i++)
    cr_assert_str_eq(txb_job_event_name((enum txb_job_event)i), events[i]);
}

Test(job_core, only_a_running_job_reads_and_only_up_to_the_end_of_its_lane) {
  for (int state = 0; state < TXB_JOB_STATES; state++)
    for (int through = 0; through < 2; through++)
      cr_assert_eq(txb_job_reads((enum txb_job_state)state, through != 0), state == TXB_JOB_RUNNING && !through);
}

Test(job_core, nothing_of_a_paused_job_is_served) {
  for (int i = 0; i < 4; i++) {
    cr_assert_not(txb_job_serves(TXB_JOB_PAUSED, (i & 1) != 0, (i & 2) != 0));
    cr_assert_not(txb_job_serves(TXB_JOB_NONE, (i & 1) != 0, (i & 2) != 0));
  }
}

Test(job_core, failed_messages_of_a_lane_are_retried_after_the_job_s_end) {
  cr_assert(txb_job_serves(TXB_JOB_DONE, true, true));
  cr_assert(txb_job_serves(TXB_JOB_CANCELLED, false, true));
  cr_assert(txb_job_serves(TXB_JOB_RUNNING, true, true));
  cr_assert_not(txb_job_serves(TXB_JOB_DONE, true, false));
  cr_assert_not(txb_job_serves(TXB_JOB_CANCELLED, false, false), "it goes no further");
  cr_assert_not(txb_job_serves(TXB_JOB_RUNNING, true, false));
  cr_assert(txb_job_serves(TXB_JOB_RUNNING, false, false));
}
