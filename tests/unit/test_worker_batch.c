/* The worker core and its batches: when one runs, how large, in which order, and what is fetched meanwhile. */
#include "worker_kit.h"

TestSuite(worker_batch, .init = begin, .fini = end);

Test(worker_batch, waits_for_an_incomplete_batch_no_longer_than_asked) {
  int slot = owned(0);
  record(slot, 0);
  expect(TXB_WA_NONE);
  cr_assert_eq(txb_worker_core_due_us(&core), now_us + 5 * MS);
  now_us += 5 * MS;
  cr_assert_eq(expect(TXB_WA_RUN).count, 1);
}

Test(worker_batch, runs_a_full_batch_at_once_and_one_at_a_time) {
  int slot = owned(0);
  records(slot, 0, 12);
  struct txb_worker_action a = expect(TXB_WA_RUN);
  cr_assert_eq(a.count, 8);
  cr_assert_eq(a.expected_next, 0);
  cr_assert_eq(a.new_next, 8);
  cr_assert_eq(a.epoch, 5);
  expect(TXB_WA_NONE);
  commit(slot);
  cr_assert_eq(dropped, 8);
  cr_assert_eq(run(4).expected_next, 8);
}

Test(worker_batch, passes_gaps_in_the_offsets) {
  int slot = owned(0);
  record(slot, 3);
  record(slot, 9);
  struct txb_worker_action a = run(2);
  cr_assert_eq(a.expected_next, 0);
  cr_assert_eq(a.new_next, 10);
}

Test(worker_batch, drops_records_that_come_again_from_an_older_fetch) {
  int slot = owned(5);
  records(slot, 3, 3);
  run(1);
  cr_assert_eq(dropped, 2);
}

Test(worker_batch, ends_a_batch_by_its_bytes) {
  int slot = owned(0);
  struct txb_error err;
  for (int i = 0; i < 3; i++) {
    struct txb_worker_record r = {.offset = i, .size = 6000};
    cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
  }
  cr_assert_eq(expect(TXB_WA_RUN).count, 1);
}

Test(worker_batch, a_commit_counts_only_if_its_tag_says_so) { /* W1 */
  int slot = owned(0);
  records(slot, 0, 8);
  run(8);
  struct txb_worker_event e = event(TXB_WE_COMMITTED, slot);
  e.tag_commit = false;
  txb_worker_core_step(&core, &e);
  cr_assert_eq(dropped, 0);
  struct txb_worker_action a = run(8);
  cr_assert_eq(a.expected_next, 0);
  cr_assert(a.isolated);
}

Test(worker_batch, of_equal_ids_in_a_batch_only_the_first_is_a_candidate) { /* W6 */
  struct txb_uuid ids[6] = {id_of(5), id_of(3), id_of(5), id_of(1), id_of(3), id_of(9)};
  uint32_t order[6];
  bool first[6];
  cr_assert_eq(txb_batch_candidates(ids, 6, order, first), 4);
  bool wanted[6] = {true, true, false, true, false, true};
  cr_assert_arr_eq(first, wanted, sizeof wanted);
  for (int i = 1; i < 6; i++)
    cr_assert_leq(memcmp(&ids[order[i - 1]], &ids[order[i]], 16), 0);
}

Test(worker_batch, serves_its_partitions_in_turn) {
  int a = owned(0), b = owned(0);
  records(a, 0, 16);
  records(b, 0, 16);
  for (int i = 0; i < 4; i++) {
    struct txb_worker_action r = run(8);
    cr_assert_eq(r.slot, i % 2 == 0 ? a : b);
    commit(r.slot);
  }
}

Test(worker_batch, pauses_a_partition_whose_share_of_the_buffer_is_full_and_resumes_it) {
  struct txb_worker_core_options o = options();
  o.batch_bytes = 200000;
  txb_worker_core_init(&core, &o);
  int slot = owned(0);
  struct txb_error err;
  for (int i = 0; i < 12; i++) {
    struct txb_worker_record r = {.offset = i, .size = 100000};
    cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_OK);
  }
  expect(TXB_WA_PAUSE);
  for (int i = 0; i < 3; i++) {
    run(2);
    commit(slot);
  }
  run(2);
  commit(slot);
  expect(TXB_WA_RESUME);
}

Test(worker_batch, is_idle_only_at_the_end_that_kafka_told) {
  int slot = owned(0);
  cr_assert_not(txb_worker_core_idle(&core));
  records(slot, 0, 2);
  step_found(TXB_WE_END, slot, true, 2);
  cr_assert_not(txb_worker_core_idle(&core));
  run(2);
  commit(slot);
  cr_assert(txb_worker_core_idle(&core));
  record(slot, 2);
  cr_assert_not(txb_worker_core_idle(&core));
}

Test(worker_batch, keeps_its_state_when_memory_is_short) {
  int slot = owned(0);
  struct txb_error err;
  txb_alloc_fail_at(1);
  struct txb_worker_record r = {.offset = 0, .size = 10};
  cr_assert_eq(txb_worker_core_record(&core, slot, &r, now_us, &err), TXB_FATAL);
  cr_assert_eq(dropped, 0);
  record(slot, 0);
  run(1);
}
