/* Lanes in the simulator, as the worker's process has them: leases that are renewed in time or too late, lanes that come and
 * go with them. See worker_world.h. */
#include "worker_world.h"

#include <stdlib.h>

enum { LEASE_US = 400000, CLAIM_US = 120000, LANES_MAX = 2 };

static void begin(struct world *w, struct worker *k, int lane) {
  struct txb_error err;
  int slot;
  if (txb_worker_core_assign(&k->core, true, w->m.now_us, &slot, &err) != TXB_OK)
    abort();
  k->slot[lane] = slot;
  k->partition_of[slot] = lane;
  k->position[lane] = -1;
}

/* What has been read of a lane that is to be read no further can't run: it begins anew, with nothing. */
static bool ends_earlier(const struct worker *k, int lane, int64_t end) {
  return end < k->lane_end[lane] && k->position[lane] > end;
}

static void renewed(struct world *w, struct worker *k, int lane, bool mine) {
  const struct log *l = &w->m.logs[lane];
  bool reads = txb_job_reads(job_of(&w->m, lane)->state, false);
  int64_t end = reads || w->m.rows[lane].next_offset > l->end ? l->end : w->m.rows[lane].next_offset;
  bool confirming = k->confirming[lane];
  k->confirming[lane] = false;
  if (k->slot[lane] < 0 && mine)
    begin(w, k, lane);
  else if (k->slot[lane] >= 0 && (!mine || ends_earlier(k, lane, end)))
    step(w, k, mine || chance(&w->m, 50) ? TXB_WE_LOST : TXB_WE_REVOKED, k->slot[lane]);
  else if (k->slot[lane] >= 0 && confirming)
    found(w, k, TXB_WE_CONFIRMED, k->slot[lane], true, 0);
  k->lane_end[lane] = end;
}

void claim_lanes(struct world *w, struct worker *k) {
  bool due = w->m.now_us >= k->claim_us, mine[PLACES];
  for (int lane = PARTITIONS_MAX; lane < PLACES; lane++)
    due = due || k->confirming[lane];
  if (w->m.job_count == 0 || !due || k->session < 0 || k->awaiting || k->waiting || chance(&w->m, 40))
    return;
  k->claim_us = w->m.now_us + CLAIM_US;
  job_claim(&w->m, k->instance, LEASE_US, LANES_MAX, mine);
  for (int lane = PARTITIONS_MAX; lane < PARTITIONS_MAX + w->m.job_count; lane++)
    renewed(w, k, lane, mine[lane]);
}
