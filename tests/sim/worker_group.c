/* Kafka's group in the simulator: who is a member, who has which partition, and what it is told. See worker_world.h. */
#include "worker_world.h"

void tell(struct worker *k, struct kafka_event e) {
  if (!k->member && e.kind != K_LOST && e.kind != K_CONFIRMED) /* meant for its last life */
    return;
  TXB_ASSERT(k->event_count < EVENTS_MAX);
  k->events[k->event_count++] = e;
}

void rebalance(struct world *w) {
  int members[WORKERS], n = 0;
  for (int i = 0; i < WORKERS; i++)
    if (w->in_group[i])
      members[n++] = i;
  for (int p = 0; p < w->m.partitions && n > 0; p++) {
    int target = members[(p + w->rotation) % n];
    int owner = w->owner[p];
    if (owner == target || w->revoking[p])
      continue;
    if (owner < 0) {
      w->owner[p] = target;
      say(&w->m, "group: partition %d to worker %d", p, target);
      tell(&w->workers[target], (struct kafka_event){.kind = K_ASSIGN, .partition = p});
    } else if (w->workers[owner].alive) {
      w->revoking[p] = true;
      tell(&w->workers[owner], (struct kafka_event){.kind = K_REVOKE, .partition = p});
    }
  }
}

void leave_group(struct world *w, int index) {
  if (!w->in_group[index])
    return;
  say(&w->m, "group: worker %d is out", index);
  w->in_group[index] = false;
  w->generation++;
  for (int p = 0; p < w->m.partitions; p++)
    if (w->owner[p] == index) {
      w->owner[p] = -1;
      w->revoking[p] = false;
    }
  rebalance(w);
}

void join_group(struct world *w, struct worker *k) {
  say(&w->m, "group: worker %d joins", k->index);
  k->member = w->in_group[k->index] = true;
  w->seen_us[k->index] = w->m.now_us;
  w->generation++;
  w->rotation = (int)roll(&w->m, WORKERS);
  rebalance(w);
}

void expire_members(struct world *w) {
  for (int i = 0; i < WORKERS; i++)
    if (w->in_group[i] && w->m.now_us - w->seen_us[i] > SESSION_TIMEOUT_US)
      leave_group(w, i);
}
