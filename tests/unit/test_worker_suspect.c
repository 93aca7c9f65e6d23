/* The worker core where somebody died, or a connection went: what is run how carefully, what is set aside, and what the next
 * owner is told (W10). */
#include "worker_kit.h"

TestSuite(worker_suspect, .init = begin, .fini = end);

static int suspect(struct txb_position p) {
  step(TXB_WE_UP, 0);
  int slot = assign();
  p.suspect = true;
  own(slot, p);
  return slot;
}

Test(worker_suspect, goes_carefully_where_the_last_owner_died) {
  int slot = suspect(plain(0));
  expect(TXB_WA_FETCH);
  records(slot, 0, 20);
  int32_t sizes[] = {1, 2, 4};
  for (int i = 0; i < 3; i++) { /* each under its own marker, in doubling steps */
    cr_assert_eq(expect(TXB_WA_MARK).count, sizes[i]);
    step(TXB_WE_MARKED, slot);
    run(sizes[i]);
    commit(slot);
  }
  cr_assert_eq(expect(TXB_WA_MARK).count, 8);
  step(TXB_WE_MARKED, slot);
  run(8);
  commit(slot);
  run(5); /* past what the dead owner can have had in hand */
}

Test(worker_suspect, goes_one_by_one_where_a_marker_over_several_died) {
  struct txb_position p = plain(0);
  p.suspect_offset = 0;
  p.suspect_count = 4;
  int slot = suspect(p);
  expect(TXB_WA_FETCH);
  records(slot, 0, 20);
  for (int i = 0; i < 4; i++) {
    cr_assert_eq(expect(TXB_WA_MARK).count, 1);
    step(TXB_WE_MARKED, slot);
    run(1);
    commit(slot);
  }
}

Test(worker_suspect, nothing_else_runs_while_a_marker_is_out) {
  int slot = suspect(plain(0));
  expect(TXB_WA_FETCH);
  int other = owned(0);
  records(slot, 0, 1);
  records(other, 0, 8);
  now_us += 10 * MS;
  struct txb_worker_action a = expect(TXB_WA_MARK);
  cr_assert_eq(a.slot, slot);
  step(TXB_WE_MARKED, slot);
  cr_assert_eq(expect(TXB_WA_RUN).slot, slot);
  step_failed(slot, TXB_FAILURE_ERROR, -1);
  a = expect(TXB_WA_RUN);
  cr_assert_eq(a.slot, slot);
  cr_assert(a.condemn);
  commit_cut(slot, 1, 1, false); /* that takes the marker in */
  cr_assert_eq(expect(TXB_WA_RUN).slot, other);
}

Test(worker_suspect, sets_a_message_aside_that_died_twice_under_its_own_marker) {
  struct txb_position p = plain(0);
  p.suspect_offset = 0;
  p.suspect_count = 1;
  p.suspect_deaths = 2;
  p.suspect_died = true;
  int slot = suspect(p);
  expect(TXB_WA_FETCH);
  records(slot, 0, 3);
  struct txb_worker_action a = run(1);
  cr_assert(a.condemn);
  cr_assert_eq(a.failure, TXB_FAILURE_CRASH);
  commit_cut(slot, 1, 1, false);
  cr_assert_eq(expect(TXB_WA_MARK).offset, 1); /* the others still go carefully */
}

Test(worker_suspect, a_message_that_died_once_under_its_own_marker_is_run_once_more) {
  struct txb_position p = plain(0);
  p.suspect_offset = 0;
  p.suspect_count = 1;
  p.suspect_deaths = 1;
  p.suspect_died = true;
  int slot = suspect(p);
  expect(TXB_WA_FETCH);
  records(slot, 0, 3);
  cr_assert_eq(expect(TXB_WA_MARK).count, 1);
  step(TXB_WE_MARKED, slot);
  cr_assert_not(run(1).condemn);
}

Test(worker_suspect, a_message_that_takes_the_connection_down_twice_is_set_aside) {
  int slot = owned(0);
  record(slot, 0);
  for (int i = 0; i < 2; i++) {
    cr_assert_not(run(1).condemn);
    step(TXB_WE_DOWN, 0);
    step(TXB_WE_UP, 0);
    own(slot, plain(0));
  }
  struct txb_worker_action a = run(1);
  cr_assert(a.condemn);
  cr_assert_eq(a.failure, TXB_FAILURE_CRASH);
}

/* Whoever restarts a server twice in a row must not set messages aside, however often it was the same one that ran. */
Test(worker_suspect, a_server_that_goes_away_twice_condemns_nobody_and_one_that_goes_again_and_again_does) {
  int slot = owned(0);
  record(slot, 0);
  for (int i = 0; i < TXB_LOST_SERVERS; i++) {
    cr_assert_not(run(1).condemn);
    step(TXB_WE_DOWN, 0);
    step(TXB_WE_DOWN, 0); /* no new connection could be made */
    step(TXB_WE_UP, 0);
    own(slot, plain(0));
  }
  cr_assert(run(1).condemn);
}

/* The connection may have gone for any reason. But when it was a message of the batch, each further death counts. */
Test(worker_suspect, goes_as_carefully_after_a_lost_connection_as_after_a_death) {
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  step(TXB_WE_DOWN, 0);
  for (int i = 0; i < 2; i++) { /* and does not forget it when the next one goes before anything ran */
    step(TXB_WE_UP, 0);
    own(slot, plain(0));
    step(TXB_WE_DOWN, 0);
  }
  step(TXB_WE_UP, 0);
  own(slot, plain(0));
  cr_assert_eq(expect(TXB_WA_MARK).count, 1);
}

/* Else its deaths would be counted anew, with each owner. */
Test(worker_suspect, hands_on_what_it_suspects_when_the_partition_is_asked_back) {
  struct txb_position p = plain(0);
  p.suspect_offset = 0;
  p.suspect_count = 4;
  int slot = suspect(p);
  expect(TXB_WA_FETCH);
  records(slot, 0, 8);
  expect(TXB_WA_MARK);
  step(TXB_WE_MARKED, slot);
  run(1);
  commit(slot);
  step(TXB_WE_REVOKED, slot);
  struct txb_worker_action a = expect(TXB_WA_MARK);
  cr_assert_eq(a.offset, 1);
  cr_assert_eq(a.count, 3);
  step(TXB_WE_MARKED, slot);
  expect(TXB_WA_RELEASE);
}

Test(worker_suspect, leaves_a_partition_as_if_it_had_died_when_it_knows_no_more_than_that_somebody_did) {
  int slot = suspect(plain(0));
  expect(TXB_WA_FETCH);
  records(slot, 0, 8);
  step(TXB_WE_REVOKED, slot);
  expect(TXB_WA_LEAVE);
}

/* Ends the wait for each of both partitions' ownership. */
static void own_both(int a, int b) {
  step(TXB_WE_UP, 0);
  for (int i = 0; i < 2; i++) {
    struct txb_worker_action look = expect(TXB_WA_LOOKUP);
    step_found(TXB_WE_LOOKED_UP, look.slot, true, 0);
    expect(TXB_WA_CONFIRM);
  }
  step_found(TXB_WE_CONFIRMED, a, true, 0);
  step_found(TXB_WE_CONFIRMED, b, true, 0);
  for (int i = 0; i < 2; i++) {
    struct txb_worker_event e = event(TXB_WE_TAKEN, expect(TXB_WA_TAKE).slot);
    e.position = plain(0);
    txb_worker_core_step(&core, &e);
  }
}

/* Each kills the connection, and so takes with it what only memory knows of the other. */
Test(worker_suspect, sets_both_aside_that_take_the_connection_down_in_turn) { /* W10 */
  int a = owned(0), b = owned(0), deaths = 0, condemned = 0;
  record(a, 0);
  record(b, 0);
  while (condemned < 2 && deaths < 10) {
    now_us += 10 * MS;
    struct txb_worker_action r = expect(TXB_WA_RUN);
    if (r.condemn) {
      condemned++;
      commit_cut(r.slot, 1, 1, false);
      continue;
    }
    deaths++;
    step(TXB_WE_DOWN, 0);
    own_both(a, b);
  }
  cr_assert_eq(condemned, 2);
  cr_assert_eq(deaths, 4);
}

Test(worker_suspect, a_message_is_not_to_blame_for_the_connection_that_went_while_it_was_set_aside) {
  int slot = owned(0);
  record(slot, 0);
  for (int i = 0; i < 3; i++) {
    cr_assert_not(run(1).condemn, "it is run again: that it failed was in memory only");
    step_failed(slot, TXB_FAILURE_ERROR, -1);
    cr_assert_eq(run(1).failure, TXB_FAILURE_ERROR);
    step(TXB_WE_DOWN, 0);
    step(TXB_WE_UP, 0);
    own(slot, plain(0));
  }
}

Test(worker_suspect, sets_it_aside_after_all_when_the_connection_went_before_it_could) { /* W10 */
  int slot = owned(0);
  record(slot, 0);
  for (int i = 0; i < 2; i++) {
    run(1);
    step(TXB_WE_DOWN, 0);
    step(TXB_WE_UP, 0);
    own(slot, plain(0));
  }
  cr_assert(run(1).condemn);
  step(TXB_WE_DOWN, 0); /* no handler ran: that says nothing about it, and what was known stands */
  step(TXB_WE_UP, 0);
  own(slot, plain(0));
  cr_assert(run(1).condemn);
}
