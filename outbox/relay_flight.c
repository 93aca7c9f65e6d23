/* The relay core's ring: rows that were read, in the order in which they go to Kafka, until each is acknowledged,
 * recorded as failed, or held.
 *
 * Nothing here survives a crash, and need not: a row that is not done stands above the stored position or in a
 * stored hole, and is read again. */
#include "common/fault.h"
#include "common/memory.h"
#include "outbox/relay_core_internal.h"

struct txb_slot *txb_flight_slot(const struct txb_relay_core *core, uint64_t ticket) {
  return &core->slots[ticket & core->mask];
}

const struct txb_slot *txb_relay_core_slot(const struct txb_relay_core *core, uint64_t ticket) {
  return txb_flight_slot(core, ticket);
}

void txb_flight_reset(struct txb_relay_core *core) {
  core->tail = core->next = core->lowest_tail = core->head;
  core->bytes = 0;
  core->sent = core->open_holes = 0;
  core->send_count = 0;
  core->alone = core->replace = core->record_out = false;
  core->record_ticket = UINT64_MAX;
  for (size_t i = 0; i < core->topic_count; i++) {
    txb_free(core->topics[i].partitions);
    core->topics[i] = (struct txb_topic){0};
  }
  core->hold_count = 0;
  txb_drain_reset(core);
  txb_key_holds_fini(&core->keys);
  txb_holes_clear(&core->recorded);
}

bool txb_flight_has_room(const struct txb_relay_core *core, uint32_t branches) {
  uint64_t used = core->head - core->tail;
  if (used == 0)
    return true;
  return used + (uint64_t)branches * core->options.read_rows <= core->options.inflight_rows &&
         core->bytes + branches * core->options.read_bytes <= core->options.inflight_bytes;
}

enum txb_rc txb_flight_topic(struct txb_relay_core *core, uint32_t id, struct txb_topic **out, struct txb_error *err) {
  if (id >= core->topic_count) {
    size_t count = (size_t)id + 16;
    void *topics = core->topics;
    TXB_TRY(txb_realloc_array(&topics, count, sizeof *core->topics, err));
    core->topics = topics;
    for (size_t i = core->topic_count; i < count; i++)
      core->topics[i] = (struct txb_topic){0};
    core->topic_count = count;
  }
  *out = &core->topics[id];
  return TXB_OK;
}

static enum txb_rc done(struct txb_relay_core *core, struct txb_slot *slot, struct txb_error *err) {
  slot->state = TXB_SLOT_DONE;
  core->dirty = true;
  if (slot->kind == TXB_ROW_DRAIN)
    core->topics[slot->topic].draining--;
  if (slot->kind == TXB_ROW_KEY)
    slot->hold->open--;
  if (slot->kind == TXB_ROW_LOOSE)
    core->loose_open--;
  if (slot->kind != TXB_ROW_HOLE)
    return TXB_OK;
  core->open_holes--;
  return txb_pages_add(&core->generations.changed, txb_hole_page(slot->seq), err);
}

/* Whether a row is kept by something else than a hold of its topic: by the hold of its key, or as a failed message
 * that is to be sent again. */
static bool is_kept(const struct txb_slot *slot) {
  return slot->kind == TXB_ROW_KEY || slot->kind == TXB_ROW_LOOSE;
}

static enum txb_rc held_by_reference(struct txb_relay_core *core, struct txb_slot *slot, struct txb_error *err) {
  struct txb_topic *topic = &core->topics[slot->topic];
  if (!is_kept(slot))
    topic->lo = slot->seq < topic->lo ? slot->seq : topic->lo;
  return done(core, slot, err);
}

/* Whether a row that was read is passed over because its key is held. Of one that is drained, a late row below the
 * drain's place goes out now, since nothing before it waits; one above it is there for a page to find. */
static bool is_behind_its_key(const struct txb_relay_core *core, enum txb_row_kind kind,
                              const struct txb_relay_row *row) {
  const struct txb_key_hold *hold = txb_key_holds_find(&core->keys, row->topic, row->key);
  if (hold == NULL || kind == TXB_ROW_KEY)
    return false;
  switch (hold->state) {
  case TXB_KEY_HELD:
    return row->seq >= hold->lo;
  case TXB_KEY_DRAINING:
    return row->seq >= hold->lo && !(kind == TXB_ROW_TAIL && txb_bug("relay_drain_overtaken"));
  case TXB_KEY_ENDING:
    return false;
  }
  return false;
}

enum txb_rc txb_flight_take(struct txb_relay_core *core, enum txb_row_kind kind, const struct txb_relay_row *row,
                            void *owner, struct txb_error *err) {
  struct txb_topic *topic;
  TXB_TRY(txb_flight_topic(core, row->topic, &topic, err));
  core->rows_read++;
  core->dirty = true;
  if (kind != TXB_ROW_KEY && kind != TXB_ROW_LOOSE && txb_holes_has(&core->recorded, row->seq) &&
      !txb_bug("relay_failed_read_again"))
    return TXB_OK;
  if (is_behind_its_key(core, kind, row))
    return TXB_OK;
  if (topic->hold == TXB_TOPIC_HELD) {
    topic->lo = row->seq < topic->lo ? row->seq : topic->lo;
    return TXB_OK;
  }
  /* A late row below the drain's place goes out now: nothing before it waits. One above it is there for the drain's
   * own page to find. A tail row below it takes the drain back, else it would be lost: a stored position may lie
   * below a stored hold, and the topic be found before the first read. */
  if (topic->hold == TXB_TOPIC_DRAINING && kind == TXB_ROW_TAIL) {
    topic->lo = row->seq < topic->lo ? row->seq : topic->lo;
    return TXB_OK;
  }
  if (topic->hold == TXB_TOPIC_DRAINING && kind == TXB_ROW_HOLE && row->seq >= topic->lo)
    return TXB_OK;
  TXB_ASSERT(core->head - core->tail <= core->mask);
  *txb_flight_slot(core, core->head++) = (struct txb_slot){.seq = row->seq,
                                                           .key = row->key,
                                                           .sent_key = row->sent_key,
                                                           .owner = owner,
                                                           .row = row->row,
                                                           .topic = row->topic,
                                                           .bytes = row->bytes,
                                                           .failed = row->failed,
                                                           .kind = (uint8_t)kind,
                                                           .state = TXB_SLOT_QUEUED};
  core->bytes += row->bytes;
  core->open_holes += kind == TXB_ROW_HOLE;
  topic->draining += kind == TXB_ROW_DRAIN;
  core->loose_open += kind == TXB_ROW_LOOSE;
  return TXB_OK;
}

/* What was passed over lies in the same result as the rows that were taken, and goes with the last of them: it
 * counts with that one, or a held topic's traffic would fill the memory behind a few unacknowledged rows. */
void txb_flight_charge(struct txb_relay_core *core, const struct txb_relay_read *read, uint64_t head_before) {
  int64_t rest = 0;
  if (core->head == head_before)
    return;
  for (size_t i = 0; i < read->count; i++)
    rest += read->rows[i].bytes;
  for (uint64_t t = head_before; t < core->head; t++)
    rest -= txb_flight_slot(core, t)->bytes;
  txb_flight_slot(core, core->head - 1)->bytes += (uint32_t)rest;
  core->bytes += rest;
}

/* ---- proofs ----------------------------------------------------------------------------------------------------- */

/* Where a row goes; NULL: not known yet, or to no partition in particular, since a row without a key has no order. */
static struct txb_partition_proof *partition_of(const struct txb_relay_core *core, const struct txb_slot *slot) {
  const struct txb_topic *topic = &core->topics[slot->topic];
  if (topic->partition_count == 0 || slot->key.data == NULL)
    return NULL;
  struct txb_slice sent = slot->sent_key.data != NULL ? slot->sent_key : slot->key;
  uint32_t partition = core->options.partition_of(sent, topic->partition_count);
  TXB_ASSERT(partition < topic->partition_count);
  return &topic->partitions[partition];
}

static void forget_proofs(struct txb_topic *topic) {
  topic->proof = TXB_TOPIC_UNPROVEN;
  for (uint32_t i = 0; i < topic->partition_count; i++)
    topic->partitions[i].proof = TXB_TOPIC_UNPROVEN;
}

/* What waited aside is looked at again, in its order. */
static void unpark(struct txb_relay_core *core, struct txb_topic *topic) {
  core->next = topic->parked < core->next ? topic->parked : core->next;
  topic->parked = UINT64_MAX;
}

/* Kafka's word how many partitions there are. When it changes nothing is known of any, nor whom those that wait are
 * waiting for. */
static enum txb_rc count_partitions(struct txb_relay_core *core, struct txb_topic *topic, int32_t partitions,
                                    struct txb_error *err) {
  void *proofs = NULL;
  if (partitions <= 0 || (uint32_t)partitions == topic->partition_count)
    return TXB_OK;
  TXB_TRY(txb_alloc_array((size_t)partitions, sizeof *topic->partitions, &proofs, err)); /* zeroed: UNPROVEN */
  txb_free(topic->partitions);
  topic->partitions = proofs;
  topic->partition_count = (uint32_t)partitions;
  if (topic->proof == TXB_TOPIC_PROVEN)
    unpark(core, topic);
  return TXB_OK;
}

/* Whether a row has to wait aside, for the first one of its topic or of its partition. If it is that itself, it is
 * noted. */
static bool waits_for_proof(struct txb_relay_core *core, const struct txb_slot *slot, uint64_t ticket, int64_t now_us) {
  struct txb_topic *topic = &core->topics[slot->topic];
  struct txb_partition_proof *partition = topic->proof == TXB_TOPIC_PROVEN ? partition_of(core, slot) : NULL;
  if (partition != NULL && partition->proof == TXB_TOPIC_PROVEN &&
      now_us - partition->acked_us > core->options.proof_us)
    partition->proof = TXB_TOPIC_UNPROVEN;
  if (topic->proof == TXB_TOPIC_PROVING || (partition != NULL && partition->proof == TXB_TOPIC_PROVING)) {
    topic->parked = ticket < topic->parked ? ticket : topic->parked;
    return true;
  }
  if (topic->proof == TXB_TOPIC_UNPROVEN) {
    topic->proof = TXB_TOPIC_PROVING;
    topic->prover = ticket;
    topic->parked = UINT64_MAX;
  } else if (partition != NULL && partition->proof == TXB_TOPIC_UNPROVEN && !txb_bug("relay_partition_unproven")) {
    partition->proof = TXB_TOPIC_PROVING;
    partition->prover = ticket;
  }
  return false;
}

/* A topic's or a partition's first message was acknowledged, or one behind it. */
static enum txb_rc prove(struct txb_relay_core *core, struct txb_topic *topic, const struct txb_report *r,
                         int64_t now_us, struct txb_error *err) {
  TXB_TRY(count_partitions(core, topic, r->partitions, err));
  bool known = r->partitions > 0 && (uint32_t)r->partition < topic->partition_count;
  struct txb_partition_proof *partition = known ? &topic->partitions[r->partition] : NULL;
  bool of_topic = topic->proof == TXB_TOPIC_PROVING && topic->prover == r->ticket;
  bool of_partition = known && partition->proof == TXB_TOPIC_PROVING && partition->prover == r->ticket;
  if (known)
    partition->acked_us = now_us;
  if (!of_topic && !of_partition)
    return TXB_OK;
  if (known)
    partition->proof = TXB_TOPIC_PROVEN;
  if (of_topic) {
    topic->proof = TXB_TOPIC_PROVEN;
    topic->pause_us = 0;
  }
  unpark(core, topic);
  return TXB_OK;
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static void send(struct txb_relay_core *core, struct txb_slot *slot, uint64_t ticket, int64_t now_us) {
  slot->state = TXB_SLOT_SENT;
  slot->sent_us = now_us;
  core->sent++;
  core->alone = slot->suspect;
  core->sends[(core->send_first + core->send_count++) & core->mask] = ticket;
}

void txb_flight_send(struct txb_relay_core *core, int64_t now_us) {
  for (; core->next < core->head && !core->replace && !core->stopping; core->next++) {
    struct txb_slot *slot = txb_flight_slot(core, core->next);
    if (slot->state != TXB_SLOT_QUEUED)
      continue;
    if (core->alone ||
        (slot->suspect && (core->sent > 0 || core->record_ticket != UINT64_MAX))) /* one refusal at a time */
      break;
    if (!waits_for_proof(core, slot, core->next, now_us)) /* others go on */
      send(core, slot, core->next, now_us);
  }
}

bool txb_relay_core_next_send(struct txb_relay_core *core, uint64_t *ticket_out) {
  if (core->send_count == 0 || core->replace)
    return false;
  *ticket_out = core->sends[core->send_first++ & core->mask];
  core->send_count--;
  return true;
}

void txb_flight_trim(struct txb_relay_core *core) {
  for (; core->tail < core->head; core->tail++) {
    const struct txb_slot *slot = txb_flight_slot(core, core->tail);
    if (slot->state != TXB_SLOT_DONE)
      break;
    core->bytes -= slot->bytes;
  }
  core->next = core->next < core->tail ? core->tail : core->next;
  core->lowest_tail = core->lowest_tail < core->tail ? core->tail : core->lowest_tail;
}

/* Passes over what is queued behind a key's refused intent. Its hold is stored with the refusal, before any
 * checkpoint says that these are done. */
static enum txb_rc hold_key(struct txb_relay_core *core, const struct txb_slot *refused, struct txb_error *err) {
  if (refused->key.data == NULL)
    return TXB_OK; /* no key, no order */
  struct txb_key_hold *hold;
  TXB_TRY(txb_key_holds_add(&core->keys, refused->topic, refused->key, &hold, err));
  core->draining -= hold->state == TXB_KEY_DRAINING;
  if (hold->lo == 0 || hold->state != TXB_KEY_HELD || refused->seq < hold->lo)
    hold->lo = refused->seq;
  hold->state = TXB_KEY_HELD;
  for (uint64_t t = core->tail; t < core->head; t++) {
    struct txb_slot *slot = txb_flight_slot(core, t);
    if (slot->state == TXB_SLOT_QUEUED && slot->topic == refused->topic && slot->seq >= refused->seq &&
        txb_slice_equal(slot->key, refused->key))
      TXB_TRY(done(core, slot, err));
  }
  return TXB_OK;
}

/* Holds a topic from the lowest of its rows that did not get through. The rows are not kept: the drain reads them
 * again. */
static enum txb_rc hold_topic(struct txb_relay_core *core, struct txb_slot *failed, int64_t now_us,
                              struct txb_error *err) {
  struct txb_topic *topic = &core->topics[failed->topic];
  if (topic->hold == TXB_TOPIC_FREE) {
    core->hold_count++;
    topic->lo = is_kept(failed) ? core->highest + 1 : failed->seq;
  }
  topic->hold = TXB_TOPIC_HELD;
  topic->code = failed->code;
  topic->pause_us = topic->pause_us == 0 ? core->options.probe_first_us : topic->pause_us * 2;
  topic->pause_us = topic->pause_us < core->options.probe_cap_us ? topic->pause_us : core->options.probe_cap_us;
  topic->probe_us = now_us + topic->pause_us;
  /* What was accepted before stays in Kafka. Others that are under way may still be: with the producer gone nothing
   * later of the topic gets there. */
  core->replace = core->replace || topic->proof == TXB_TOPIC_PROVEN;
  forget_proofs(topic);
  txb_drain_revert(core, failed->topic);
  TXB_TRY(held_by_reference(core, failed, err));
  for (uint64_t t = core->tail; t < core->head; t++) {
    struct txb_slot *slot = txb_flight_slot(core, t);
    if (slot->state == TXB_SLOT_QUEUED && slot->topic == failed->topic)
      TXB_TRY(held_by_reference(core, slot, err));
  }
  return TXB_OK;
}

/* Goes out again with the next producer; of a topic that is held since it was sent, with the drain, or it would get
 * there before what the hold begins with. */
static enum txb_rc again(struct txb_relay_core *core, struct txb_slot *slot, struct txb_error *err) {
  slot->state = TXB_SLOT_QUEUED;
  return core->topics[slot->topic].hold == TXB_TOPIC_HELD ? held_by_reference(core, slot, err) : TXB_OK;
}

static enum txb_rc refused(struct txb_relay_core *core, struct txb_slot *slot, uint64_t ticket, bool alone,
                           struct txb_error *err) {
  core->replace = true; /* the producer is of no use after a gap */
  if (!alone) {         /* librdkafka reports a whole batch: only what is refused alone is refused (R5) */
    slot->suspect = true;
    return again(core, slot, err);
  }
  if (txb_bug("relay_refused_skipped"))
    return done(core, slot, err);
  slot->state = TXB_SLOT_REFUSED;
  core->record_ticket = ticket;
  return hold_key(core, slot, err);
}

static enum txb_rc report(struct txb_relay_core *core, const struct txb_report *r, int64_t now_us,
                          struct txb_error *err) {
  struct txb_slot *slot = txb_flight_slot(core, r->ticket);
  if (r->ticket < core->tail || r->ticket >= core->head || slot->state != TXB_SLOT_SENT)
    return TXB_OK; /* of a producer that is gone */
  struct txb_topic *topic = &core->topics[slot->topic];
  bool alone = core->alone;
  core->sent--;
  core->alone = false;
  slot->code = r->outcome == TXB_REPORT_ACKED ? 0 : r->code;
  if (r->outcome != TXB_REPORT_ACKED && topic->proof == TXB_TOPIC_PROVING && topic->prover == r->ticket)
    topic->proof = TXB_TOPIC_UNPROVEN;
  switch (r->outcome) {
  case TXB_REPORT_ACKED:
    TXB_TRY(prove(core, topic, r, now_us, err));
    core->published++;
    if (slot->failed != 0)
      TXB_TRY(txb_drain_settle(core, slot->failed, err));
    return done(core, slot, err);
  case TXB_REPORT_REFUSED:
    return refused(core, slot, r->ticket, alone, err);
  case TXB_REPORT_NO_TOPIC:
    return hold_topic(core, slot, now_us, err);
  case TXB_REPORT_LOST:
    core->replace = true;
    return again(core, slot, err);
  }
  return TXB_OK;
}

enum txb_rc txb_flight_reports(struct txb_relay_core *core, const struct txb_report *reports, size_t count,
                               int64_t now_us, struct txb_error *err) {
  for (size_t i = 0; i < count; i++)
    TXB_TRY(report(core, &reports[i], now_us, err));
  return TXB_OK;
}

/* What was not acknowledged goes out again, in the same order: an acknowledged row is in Kafka, and what the old
 * producer still gets there is a repetition. So nothing need be read again. */
enum txb_rc txb_flight_replaced(struct txb_relay_core *core, struct txb_error *err) {
  core->replace = core->alone = false;
  core->sent = 0;
  core->send_count = 0;
  for (size_t i = 0; i < core->topic_count; i++)
    forget_proofs(&core->topics[i]);
  for (uint64_t t = core->tail; t < core->head; t++) {
    struct txb_slot *slot = txb_flight_slot(core, t);
    if (slot->state != TXB_SLOT_SENT)
      continue;
    slot->state = TXB_SLOT_QUEUED;
    if (core->topics[slot->topic].hold == TXB_TOPIC_HELD)
      TXB_TRY(held_by_reference(core, slot, err));
  }
  core->next = core->tail;
  return TXB_OK;
}

enum txb_rc txb_flight_recorded(struct txb_relay_core *core, struct txb_error *err) {
  uint64_t ticket = core->record_ticket;
  core->record_out = false;
  core->record_ticket = UINT64_MAX;
  if (ticket == UINT64_MAX)
    return TXB_OK;
  struct txb_slot *slot = txb_flight_slot(core, ticket);
  struct txb_key_hold *hold = txb_key_holds_find(&core->keys, slot->topic, slot->key);
  if (hold != NULL && (hold->stored_lo == 0 || slot->seq < hold->stored_lo))
    hold->stored_lo = slot->seq;
  return done(core, slot, err);
}
