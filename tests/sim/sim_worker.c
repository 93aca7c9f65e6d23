/* Simulates workers of one group against a model of PostgreSQL and Kafka: kills at every step, stopped members that
 * wake as zombies, rebalances, server crashes, failing and killing messages, repetitions in the topic; in some seeds
 * replay jobs, whose lanes the workers hold by leases beside the live partitions of the same keys. The real core decides;
 * every commit is verified, and at the end everything.
 *
 *   sim_worker [--seeds N] [--seed S] [--bug NAME]     exit 0: nothing found; 1: a violation, printed with its seed and
 * history; 2: usage
 *
 * With --bug worker_* the rule of that name is broken: then something must be found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker_world.h"

enum { STEPS_FAULTY = 260, STEPS_MAX = 30000 };

static uint64_t replayed[R_COUNT];

/* ---- faults ------------------------------------------------------------------------------------- */

static void poison(struct world *w) {
  if (w->m.server_crashed) {
    w->m.server_crashed = false;
    model_crash_server(&w->m);
  }
  if (w->m.killed_worker >= 0) {
    struct worker *k = running_in(w, w->m.killed_worker);
    w->m.killed_worker = -1;
    if (k != NULL)
      kill_worker(w, k);
  }
}

static void fault(struct world *w) {
  struct worker *k = &w->workers[roll(&w->m, WORKERS)];
  switch (roll(&w->m, 24)) {
  case 0:
    if (k->alive)
      kill_worker(w, k);
    break;
  case 1:
  case 2:
    if (k->alive && !k->stopped) {
      say(&w->m, "worker %d is stopped", k->index);
      k->stopped = true;
    }
    break;
  case 3:
    if (chance(&w->m, 30))
      model_crash_server(&w->m);
    break;
  case 4:
    w->rotation = (int)roll(&w->m, WORKERS);
    w->generation++;
    rebalance(w);
    break;
  case 5: { /* W3: the server ends a session that stands idle in a transaction */
    int s = (int)roll(&w->m, SESSIONS_MAX);
    if (w->m.sessions[s].used && w->m.sessions[s].driven && w->m.sessions[s].in_transaction &&
        running_in(w, s) != NULL && running_in(w, s)->stopped) {
      session_rollback(&w->m, s);
      w->m.sessions[s].used = false;
    }
    break;
  }
  case 6:
  case 7:
    if (k->alive && k->stopped) {
      say(&w->m, "worker %d wakes", k->index);
      k->stopped = false;
    }
    break;
  case 8:
    w->m.now_us += SESSION_TIMEOUT_US / 2;
    break;
  default:
    break;
  }
}

static void advance_servers(struct world *w) {
  for (int s = 0; s < SESSIONS_MAX; s++) {
    struct session *x = &w->m.sessions[s];
    if (!x->used || x->driven || session_idle(&w->m, s) || chance(&w->m, 25))
      continue;
    session_advance(&w->m, s);
    poison(w);
    if (x->used && !x->connected && session_idle(&w->m, s))
      session_close(&w->m, s);
  }
}

/* When servers are killed every worker loses its connection, and which partition goes where after that is chance: then
 * one worker has all that kills. */
static bool is_alone(const struct world *w) {
  return w->m.poisoned && w->m.plugin_percent == 0;
}

static void tick(struct world *w, bool faulty) {
  w->m.now_us += 1000 + (int64_t)roll(&w->m, faulty ? 30000 : 60000);
  if (faulty && chance(&w->m, 25))
    model_produce(&w->m);
  if (faulty)
    fault(w);
  if (chance(&w->m, 4))
    failed_person(&w->m);
  job_person(&w->m);
  expire_members(w);
  advance_servers(w);
  bool alone = !faulty && is_alone(w);
  for (int i = 0; i < WORKERS; i++) {
    struct worker *k = &w->workers[i];
    if (k->alive && !k->stopped && (!faulty || chance(&w->m, 60)))
      turn(w, k);
    else if (!k->alive && !(alone && i > 0) && (!faulty || chance(&w->m, 8)))
      start_worker(w, i);
    poison(w);
  }
}

static const char *simulate(uint64_t seed, const struct bugs *bugs, bool verbose) {
  struct world w = {0};
  model_init(&w.m, seed, bugs, verbose);
  for (int p = 0; p < PARTITIONS_MAX; p++)
    w.owner[p] = -1;
  for (int i = 0; i < WORKERS; i++)
    start_worker(&w, i);
  for (int i = 0; i < STEPS_FAULTY && w.m.violation == NULL; i++)
    tick(&w, true);
  say(&w.m, "no more faults");
  w.m.healed = true;
  for (int i = 0; i < WORKERS; i++) {
    w.workers[i].stopped = false;
    if (is_alone(&w) && i > 0 && w.workers[i].alive)
      kill_worker(&w, &w.workers[i]);
  }
  int64_t calm_us = w.m.now_us + 3 * SESSION_TIMEOUT_US;
  int steps = 0;
  while (w.m.violation == NULL && !model_settled(&w.m) && steps++ < STEPS_MAX) {
    w.m.calm = w.m.now_us >= calm_us;
    tick(&w, false);
  }
  for (int p = 0; p < PLACES; p++)
    if (is_place(&w.m, p))
      say(&w.m, "%s %d: position %lld of %lld, owner %d", is_lane(p) ? "lane" : "partition",
          is_lane(p) ? p - PARTITIONS_MAX : p, (long long)w.m.rows[p].next_offset, (long long)w.m.logs[p].end,
          is_lane(p) ? w.m.jobs[p - PARTITIONS_MAX].instance : w.owner[p]);
  if (w.m.violation == NULL && !model_settled(&w.m))
    violated(&w.m, "V: it never gets to the end");
  if (w.m.violation == NULL)
    model_verify_end(&w.m);
  for (int i = 0; i < WORKERS; i++)
    if (w.workers[i].alive)
      txb_worker_core_fini(&w.workers[i].core);
  for (int i = 0; i < R_COUNT; i++)
    replayed[i] += w.m.replayed[i];
  return w.m.violation;
}

static bool plant(struct bugs *bugs, const char *name) {
  const struct {
    const char *name;
    bool *flag;
  } table[] = {{"worker_offset_before_commit", &bugs->offset_before_commit},
               {"worker_inbox_outside", &bugs->inbox_outside},
               {"worker_no_epoch_check", &bugs->no_epoch_check},
               {"worker_no_inbox", &bugs->no_inbox},
               {"worker_commit_tag_ignored", &bugs->commit_tag_ignored},
               {"worker_batch_duplicate_ids", &bugs->batch_duplicate_ids},
               {"worker_error_skips", &bugs->error_skips},
               {"worker_held_out_of_order", &bugs->held_out_of_order},
               {"worker_attempt_per_replica", &bugs->attempt_per_replica},
               {"worker_retry_before_due", &bugs->retry_before_due},
               {"worker_keys_version_ignored", &bugs->keys_version_ignored},
               {"worker_retry_unmarked", &bugs->retry_unmarked},
               {"worker_held_not_kept", &bugs->held_not_kept},
               {"worker_failed_not_recorded", &bugs->failed_not_recorded},
               {"worker_edit_keeps_id", &bugs->edit_keeps_id},
               {"worker_attempts_forgotten", &bugs->attempts_forgotten},
               {"worker_behind_applied", &bugs->behind_applied},
               {"worker_lane_position_first", &bugs->lane_position_first},
               {"worker_lane_no_fences", &bugs->lane_no_fences},
               {"worker_lane_keys_ignored", &bugs->lane_keys_ignored},
               {"worker_lane_two_owners", &bugs->lane_two_owners},
               {"worker_lane_pause_ignored", &bugs->lane_pause_ignored},
               {"worker_run_not_in_inbox", &bugs->run_not_in_inbox}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(table); i++)
    if (strcmp(table[i].name, name) == 0)
      return *table[i].flag = true;
  return false;
}

/* False: something never happened. */
static bool print_replayed(void) {
  static const char *const names[R_COUNT] = {"jobs",
                                             "forced",
                                             "in one order with live",
                                             "pauses",
                                             "resumed",
                                             "cancelled",
                                             "done",
                                             "leases run out",
                                             "messages handed to live partitions",
                                             "that waited there",
                                             "retries in lanes",
                                             "batches of jobs at rest refused"};
  bool all = true;
  for (int i = 0; i < R_COUNT; i++) {
    printf("%s%llu %s", i == 0 ? "" : ", ", (unsigned long long)replayed[i], names[i]);
    all = all && replayed[i] > 0;
  }
  printf("\n");
  return all;
}

int main(int argc, char **argv) {
  struct bugs bugs = {0};
  uint64_t seeds = 1000, first = 1;
  for (int i = 1; i < argc; i += 2) {
    bool value = i + 1 < argc;
    if (value && strcmp(argv[i], "--seeds") == 0)
      seeds = strtoull(argv[i + 1], NULL, 10);
    else if (value && (strcmp(argv[i], "--seed") == 0 || strcmp(argv[i], "--first") == 0))
      first = strtoull(argv[i + 1], NULL, 10);
    else if (!value || strcmp(argv[i], "--bug") != 0 || !plant(&bugs, argv[i + 1])) {
      fprintf(stderr, "usage: sim_worker [--seeds N] [--seed S] [--bug worker_NAME]\n");
      return 2;
    }
  }
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    const char *violation = simulate(seed, &bugs, false);
    if (violation == NULL)
      continue;
    printf("seed %llu: %s\nhistory (ms):\n", (unsigned long long)seed, violation);
    (void)simulate(seed, &bugs, true);
    printf("again: sim_worker --seeds 1 --seed %llu\n", (unsigned long long)seed);
    return 1;
  }
  printf("%llu seeds from %llu: nothing found\n", (unsigned long long)seeds, (unsigned long long)first);
  if (!print_replayed() && seeds >= 1000) {
    printf("something of that never happened: the seeds test less than they should\n");
    return 1;
  }
  return 0;
}
