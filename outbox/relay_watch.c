/* What would otherwise go wrong in silence, looked at once a second and told once: an intent that Kafka neither
 * takes nor refuses, and holes that become too many. The text also stands in txb.relay.last_error as long as it
 * lasts. */
#include <inttypes.h>
#include <stdio.h>

#include "common/log.h"
#include "outbox/relay_internal.h"

#define WATCH_EVERY_US 1000000
#define WAITS_US       10000000

/* The oldest intent under way. All behind it goes on until the ring is full; the rest of its partition waits. */
static void watch_oldest(struct txb_relay *r, int64_t now_us) {
  const struct txb_slot *slot = txb_relay_core_slot(&r->core, r->core.tail);
  bool waits = r->core.tail < r->core.head && slot->state == TXB_SLOT_SENT && now_us - slot->sent_us >= WAITS_US;
  if (waits == r->told_waiting)
    return;
  r->told_waiting = waits;
  if (!waits) {
    txb_log(TXB_LOG_INFO, TXB_MSG("Kafka takes intents again"), TXB_F("source", r->o->source));
    return;
  }
  const char *topic = r->topics.items[slot->topic].name;
  txb_log(TXB_LOG_WARN,
          TXB_MSG("Kafka has neither taken nor refused an intent for a while (no leader, too few replicas?): it is "
                  "sent on and on"),
          TXB_F("source", r->o->source), TXB_FI("seq", slot->seq), TXB_F("topic", topic),
          TXB_FI("waits_ms", (now_us - slot->sent_us) / 1000));
  snprintf(r->watch_error, sizeof r->watch_error, "Kafka has neither taken nor refused intent %" PRId64 " of topic %s",
           slot->seq, topic);
}

static void watch_holes(struct txb_relay *r) {
  size_t ranges = txb_generations_ranges(&r->core.generations), most = r->core.options.hole_ranges_max;
  bool many = r->told_holes ? ranges > most / 4 : ranges > most / 2;
  if (many == r->told_holes)
    return;
  r->told_holes = many;
  if (!many) {
    txb_log(TXB_LOG_INFO, TXB_MSG("holes are few again"), TXB_F("source", r->o->source), TXB_FI("ranges", ranges));
    return;
  }
  txb_log(TXB_LOG_ERROR,
          TXB_MSG("holes are many: a transaction that has published stays open, and nothing behind rolled-back ones is "
                  "settled before it ends; "
                  "at the limit reading waits for it"),
          TXB_F("source", r->o->source), TXB_FI("ranges", ranges), TXB_FI("limit", most));
  snprintf(r->watch_error, sizeof r->watch_error,
           "%zu ranges of holes behind an open transaction that has published; at %zu reading waits for it", ranges,
           most);
}

void txb_relay_watch(struct txb_relay *r, int64_t now_us) {
  if (now_us < r->watch_us + WATCH_EVERY_US)
    return;
  r->watch_us = now_us;
  watch_oldest(r, now_us);
  watch_holes(r);
  if (!r->told_waiting && !r->told_holes)
    r->watch_error[0] = '\0';
}
