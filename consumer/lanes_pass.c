/* Passes of a lane that goes on live (J3): where the topic ends, then how far the source is, then both to the database, which
 * says whether one more pass is needed. Nothing of it is kept here: a crash before the statement is asked for anew by the
 * lane's next owner, and after it stands in the lane's row. */
#include <stdio.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/kafka_inspect.h"
#include "common/log.h"
#include "common/memory.h"
#include "consumer/lane_reader.h"
#include "consumer/lanes_internal.h"
#include "consumer_sql.h"

#define KAFKA_TIMEOUT_MS 2000
#define WAITING_PASS_US  INT64_C(1000000)
#define PASS_SHORT       10000 /* as txb.lane_pass has it */

static const struct txb_pg_statement pass_statement = {"txb_lane_pass", txb_text_lane_pass};

static enum txb_rc open_inspect(txb_worker_t *w, struct txb_error *err) {
  if (w->lanes.inspect != NULL)
    return TXB_OK;
  return txb_kafka_inspect_open(&w->settings->kafka, KAFKA_TIMEOUT_MS, &w->lanes.inspect, err);
}

/* Where the topic ends in each partition. It waits for Kafka, seldom and for a bounded time: nothing live is served
 * meanwhile. */
static enum txb_rc ask_ends(txb_worker_t *w, struct txb_lane *lane, const char *topic, struct txb_error *err) {
  int count = 0;
  int64_t low;
  TXB_TRY(open_inspect(w, err));
  struct txb_kafka_inspect *k = w->lanes.inspect;
  TXB_TRY(txb_kafka_inspect_partitions(k, topic, &count, err));
  if (count < 0)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_KAFKA, "there is no topic %s in Kafka to go on in", topic);
  TXB_TRY(txb_regrow_array(&lane->ends, (size_t)count + 1, sizeof *lane->ends, err));
  for (int p = 0; p < count; p++)
    TXB_TRY(txb_kafka_inspect_offsets(k, topic, p, &low, &lane->ends[p], err));
  lane->partitions = count;
  snprintf(lane->cluster, sizeof lane->cluster, "%s", txb_kafka_inspect_cluster_id(k));
  return TXB_OK;
}

/* The ends first, then how far the source is: whatever lies above that number is published behind those ends. */
enum txb_rc txb_lanes_prepare_pass(txb_worker_t *w, size_t slot, struct txb_error *err) {
  struct txb_lane *lane = txb_lanes_at(w, slot);
  struct txb_error error;
  if (lane->pass != TXB_PASS_ENDS || lane->leaving || w->operation.active || txb_clock_steady_us() < lane->pass_us)
    return TXB_OK;
  enum txb_rc rc = ask_ends(w, lane, w->places[slot].topic, &error);
  if (rc == TXB_OK) {
    lane->pass = TXB_PASS_HIGHEST;
    txb_lane_reader_ask_highest(lane->reader);
    return TXB_OK;
  }
  if (rc == TXB_FATAL && error.origin != TXB_ORIGIN_KAFKA) {
    *err = error;
    return rc;
  }
  txb_log(TXB_LOG_WARN, TXB_MSG("can't ask Kafka where the topic ends, asking again"), TXB_FI("job", lane->job),
          TXB_FI("lane", lane->number), TXB_F("error", error.message));
  txb_lanes_add_word(w, lane->number, false, error.message);
  txb_kafka_inspect_close(txb_steal(w->lanes.inspect));
  lane->pass_us = txb_clock_steady_us() + TXB_LANES_PASS_AGAIN_US;
  return TXB_OK;
}

int txb_lanes_ready_slot(const txb_worker_t *w) {
  for (size_t i = 0; i < w->places_count; i++)
    if (txb_lanes_at(w, i) != NULL && !txb_lanes_at(w, i)->leaving && txb_lanes_at(w, i)->pass == TXB_PASS_READY)
      return (int)i;
  return -1;
}

enum txb_rc txb_lanes_send_pass(txb_worker_t *w, int slot, struct txb_error *err) {
  struct txb_lane *lane = txb_lanes_at(w, (size_t)slot);
  lane->pass = TXB_PASS_NONE; /* whatever comes of it, the next claim says what is wanted */
  w->lanes.under_way = TXB_LANES_PASS;
  w->lanes.under_way_lane = lane->number;
  txb_pg_params_clear(&w->params);
  txb_pg_add_int4(&w->params, lane->number);
  txb_pg_add_uuid(&w->params, &w->instance);
  txb_pg_array_begin(&w->params, TXB_OID_INT4);
  for (int32_t p = 0; p < lane->partitions; p++)
    txb_pg_array_int4(&w->params, p);
  txb_pg_array_end(&w->params);
  txb_pg_array_begin(&w->params, TXB_OID_INT8);
  for (int32_t p = 0; p < lane->partitions; p++)
    txb_pg_array_int8(&w->params, lane->ends[p]);
  txb_pg_array_end(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(lane->cluster));
  txb_pg_add_int8(&w->params, lane->highest);
  /* A crash here: nothing of the pass is stored; the next owner asks for ends and number anew. */
  txb_failpoint("lane.before_pass");
  return txb_worker_send(w, &pass_statement, &w->params, err);
}

void txb_lanes_on_passed(txb_worker_t *w) {
  int slot = txb_lanes_find(w, w->lanes.under_way_lane);
  /* A crash here: the lane has its next range, or is done and the group has its positions; the next owner reads which. */
  txb_failpoint("lane.after_pass");
  w->lanes.claim_us = 0; /* where it goes on, or that it is done */
  if (slot < 0)
    return;
  struct txb_lane *lane = txb_lanes_at(w, (size_t)slot);
  bool done = lane->done = strcmp(txb_pg_text(w->operation.results[0], 0, 0), "done") == 0;
  bool waits = !done && lane->highest_passed >= 0 && lane->highest - lane->highest_passed <= PASS_SHORT;
  lane->end_asked_at = -1;
  lane->highest_passed = lane->highest;
  /* Short, and all the same it does not go live: something holds a key, until a person decides perhaps. Not told each
   * time. */
  if (waits) {
    lane->pass_us = txb_clock_steady_us() + WAITING_PASS_US;
    return;
  }
  txb_log(TXB_LOG_INFO,
          TXB_MSG(done ? "lane done: the group goes on where Kafka stood before its last pass"
                       : "lane goes on with what came meanwhile"),
          TXB_F("group", w->settings->group), TXB_FI("job", lane->job), TXB_FI("lane", lane->number),
          TXB_F("topic", w->places[slot].topic), TXB_FI("highest", lane->highest));
}
