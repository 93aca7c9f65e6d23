/* Simulates relays against a model of PostgreSQL and Kafka: open, slow, prepared and rolled-back transactions,
 * savepoints, skipped numbers, refused and lost messages, broken producers, topics that come and go, persons who decide
 * about failed messages at any moment (again, edited, discarded), server crashes, relays killed at every step and
 * zombies beside their successors. The real core decides; every append and every
 * checkpoint is verified, and at the end everything.
 *
 *   sim_relay [--seeds N] [--seed S] [--bug NAME]
 *
 * Exit 0: nothing found; 1: a violation, printed with its seed and history; 2: usage.
 *
 * With --bug relay_* the rule of that name is broken (builds with TXB_FAULTS only): then something must be found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "relay_world.h"

enum { STEPS_FAULTY = 300, STEPS_MAX = 20000 };

struct counts counts;

static uint32_t partition_of(struct txb_slice key, uint32_t partitions) {
  return (uint32_t)(*(const char *)key.data - 'a') % partitions;
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

static void disturb(struct world *w) {
  struct rm_model *m = &w->m;
  struct relay *r = w->relay, *z = w->zombie;
  struct rm_producer *const producers[] = {&r->producer, &z->producer};
  if (m->topic_trouble > 0 && rm_chance(m, m->topic_trouble))
    rm_topic_step(m, producers, RELAYS);
  if (rm_random(m, m->kill_every) == 0 && r->alive) {
    counts.kills++;
    rm_trace(m, "the relay of epoch %lld is killed", (long long)r->epoch);
    relay_end(m, r);
  }
  if (rm_random(m, 300) == 0 && r->held &&
      !z->alive) { /* its lease ran out: it becomes a zombie beside its successor */
    w->zombie = r;
    w->relay = z;
    r->zombie = true;
    counts.zombies++;
    rm_trace(m, "the relay of epoch %lld is a zombie", (long long)r->epoch);
    r = w->relay;
    z = w->zombie;
  }
  if (z->alive && (rm_random(m, 150) == 0 || !z->held))
    relay_end(m, z);
  if (rm_random(m, m->kill_every) == 0 && r->held) {
    rm_trace(m, "the relay of epoch %lld loses its connection", (long long)r->epoch);
    counts.lost++;
    lose(m, r);
  }
  if (rm_random(m, 500) == 0 && r->held && !r->stopping) {
    rm_trace(m, "the relay of epoch %lld is asked to stop", (long long)r->epoch);
    r->stopping = true;
    step(m, r, &(struct txb_relay_event){.kind = TXB_RELAY_STOP});
  }
  if (rm_random(m, 600) == 0) {
    rm_server_crash(m);
    for (int i = 0; i < RELAYS; i++) {
      struct relay *any = &w->places[i];
      if (!any->held)
        continue;
      forget(m, any);
      step(m, any, &(struct txb_relay_event){.kind = TXB_RELAY_LOST});
    }
  }
}

/* ---- one seed --------------------------------------------------------------------------------------------------- */

static void choose_options(struct world *w) {
  struct rm_model *m = &w->m;
  struct txb_relay_core_options *o = &w->options;
  txb_relay_core_options_init(o);
  o->partition_of = partition_of;
  o->read_rows = 2 + (uint32_t)rm_random(m, 6);
  o->few_rows = 1 + (uint32_t)rm_random(m, 3);
  o->few_bytes = (int64_t)rm_random(m, 100);
  o->inflight_rows = 32;
  o->read_bytes = 20 + (int64_t)rm_random(m, 100);
  o->inflight_bytes = 3 * o->read_bytes + (int64_t)rm_random(m, 300);
  o->lease_us = 40000 + (int64_t)rm_random(m, 200000);
  o->hole_ranges_max = rm_chance(m, 10) ? 2 + rm_random(m, 6) : 1000;
  w->replace_percent = rm_chance(m, 30) ? 8 : 50;
  o->checkpoint_us = (int64_t)rm_random(m, 20000);
  o->poll_busy_us = 1000;
  o->poll_idle_us = 1000 + (int64_t)rm_random(m, 8000);
  o->span = 4 + (int64_t)rm_random(m, 60);
  o->drain_span = 4 + (int64_t)rm_random(m, 60);
  o->drain_keys = 1 + (uint32_t)rm_random(m, 4);
  o->gap_max = 1 + (int64_t)rm_random(m, 12);
  o->list_first_us = (int64_t)rm_random(m, 8000);
  o->list_cap_us = 20000;
  o->probe_first_us = 2000;
  o->probe_cap_us = 20000;
  o->policy.ask_freely = rm_random(m, 3);
  o->policy.quiet_min = (uint32_t)rm_random(m, 2);
  o->policy.look_ranges = 1 + rm_random(m, 4);
  o->policy.generations_max = 2 + rm_random(m, 4);
}

static bool at_rest(struct world *w) {
  const struct rm_stored *s = &w->m.stored;
  for (int t = 0; t < RM_TOPICS; t++)
    if (s->topic_lo[t] != 0)
      return false;
  if (!rm_all_settled(&w->m))
    return false;
  return rm_applications_done(&w->m) && w->relay->held && w->relay->idle && s->highest == w->m.drawn &&
         s->hole_count == 0;
}

static bool simulate(uint64_t seed, bool verbose, char *violation, size_t size) {
  static struct world w;
  struct rm_model *m = &w.m;
  w.relay = &w.places[0];
  w.zombie = &w.places[1];
  for (int i = 0; i < RELAYS; i++)
    w.places[i].alive = w.places[i].held = w.places[i].zombie = w.places[i].producer.open = false;
  rm_init(m, seed, verbose);
  m->accepts_anybody = txb_bug("relay_no_epoch_check");
  choose_options(&w);
  relay_begin(&w, w.relay);
  int steps = STEPS_FAULTY / 2 + (int)rm_random(m, STEPS_FAULTY);
  for (int i = 0; i < STEPS_MAX && m->violation == NULL; i++) {
    if (i == steps) {
      m->healing = true;
      rm_trace(m, "---- no more faults");
      if (w.zombie->alive)
        relay_end(m, w.zombie);
    }
    if (m->healing && i % 16 == 0 && at_rest(&w))
      break;
    m->now_us += (int64_t)rm_random(m, m->healing ? 4000 : 1500);
    if (!w.relay->alive && rm_chance(m, 20))
      relay_begin(&w, w.relay);
    for (int n = (int)rm_random(m, 4); n > 0; n--)
      rm_applications_step(m);
    rm_person_step(m);
    for (int r = 0; r < RELAYS; r++) {
      struct relay *relay = r == 0 ? w.relay : w.zombie;
      for (int n = (int)rm_random(m, 4); n > 0 && relay->alive; n--)
        relay_step(&w, relay);
      rm_kafka_step(m, relay->alive ? &relay->producer : NULL);
    }
    if (m->healing)
      rm_topics_heal(m, (struct rm_producer *const[]){&w.relay->producer, &w.zombie->producer}, RELAYS);
    else
      disturb(&w);
  }
  if (m->violation == NULL)
    rm_verify_end(m);
  counts.retried += m->retried;
  counts.edited += m->edited;
  counts.discarded += m->discarded;
  for (int r = 0; r < RELAYS; r++)
    if (w.places[r].alive)
      end_core(&w.places[r]);
  snprintf(violation, size, "%s", m->violation == NULL ? "" : m->violation);
  return m->violation == NULL;
}

int main(int argc, char **argv) {
  uint64_t seeds = 1000, first = 1;
  char violation[256];
  for (int i = 1; i < argc; i += 2) {
    bool value = i + 1 < argc;
    if (value && strcmp(argv[i], "--seeds") == 0) {
      seeds = strtoull(argv[i + 1], NULL, 10);
    } else if (value && (strcmp(argv[i], "--seed") == 0 || strcmp(argv[i], "--first") == 0)) {
      first = strtoull(argv[i + 1], NULL, 10);
    } else if (value && strcmp(argv[i], "--bug") == 0 && strncmp(argv[i + 1], "relay_", 6) == 0) {
      setenv("TXB_BUG", argv[i + 1], 1);
    } else {
      fprintf(stderr, "usage: sim_relay [--seeds N] [--seed S] [--bug relay_NAME]\n");
      return 2;
    }
  }
  for (uint64_t seed = first; seed < first + seeds; seed++) {
    if (simulate(seed, false, violation, sizeof violation))
      continue;
    printf("seed %llu: %s\nhistory (ms):\n", (unsigned long long)seed, violation);
    (void)simulate(seed, true, violation, sizeof violation);
    printf("again: sim_relay --seeds 1 --seed %llu\n", (unsigned long long)seed);
    return 1;
  }
  printf("%llu seeds from %llu: nothing found\n", (unsigned long long)seeds, (unsigned long long)first);
  printf("%llu polls, %llu thrown away, %llu generations left out, %llu rows drained, %llu intents refused, %llu "
         "producers replaced, %llu fenced, "
         "%llu zombies, %llu kills, %llu stops, %llu connections lost, %llu retried, %llu edited, %llu discarded, %llu "
         "keys drained, %llu without a key, %llu failed ones read again\n",
         (unsigned long long)counts.polls, (unsigned long long)counts.thrown_away, (unsigned long long)counts.left_out,
         (unsigned long long)counts.drained, (unsigned long long)counts.refused, (unsigned long long)counts.replaced,
         (unsigned long long)counts.fenced, (unsigned long long)counts.zombies, (unsigned long long)counts.kills,
         (unsigned long long)counts.stops, (unsigned long long)counts.lost, (unsigned long long)counts.retried,
         (unsigned long long)counts.edited, (unsigned long long)counts.discarded,
         (unsigned long long)counts.keys_drained, (unsigned long long)counts.loose,
         (unsigned long long)counts.recorded);
  if (seeds >= 1000 &&
      (counts.thrown_away == 0 || counts.left_out == 0 || counts.drained == 0 || counts.refused == 0 ||
       counts.replaced == 0 || counts.fenced == 0 || counts.zombies == 0 || counts.kills == 0 || counts.stops == 0 ||
       counts.lost == 0 || counts.retried == 0 || counts.edited == 0 || counts.discarded == 0 ||
       counts.keys_drained == 0 || counts.loose == 0 || counts.recorded == 0)) {
    printf("something of that never happened: the seeds test less than they should\n");
    return 1;
  }
  return 0;
}
