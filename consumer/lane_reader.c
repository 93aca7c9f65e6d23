/* See lane_reader.h: which reader a lane has, what it is asked, and what all kinds do alike. */
#include "consumer/lane_reader_internal.h"

#include <string.h>

#include "common/clock.h"
#include "common/random.h"
#include "consumer/worker_internal.h"

#define MS INT64_C(1000)

enum txb_rc txb_lane_reader_new(const struct txb_lane_reader_options *options, struct txb_lane_reader **out,
                                struct txb_error *err) {
  return options->cluster_id != NULL ? txb_lane_topic_new(options, out, err) : txb_lane_outbox_new(options, out, err);
}

void txb_lane_reader_free(struct txb_lane_reader *r) {
  if (r != NULL)
    r->kind->free(r);
}

void txb_lane_reader_bound(struct txb_lane_reader *r, int64_t seq_to, bool whole, int64_t rate_max) {
  r->kind->bound(r, seq_to, whole, rate_max);
}

void txb_lane_reader_pin(struct txb_lane_reader *r, int64_t lo) {
  if (r->kind->pin != NULL)
    r->kind->pin(r, lo);
}

void txb_lane_reader_pin_not(struct txb_lane_reader *r) {
  if (r->kind->pin_not != NULL)
    r->kind->pin_not(r);
}

void txb_lane_reader_unpin(struct txb_lane_reader *r) {
  if (r->kind->unpin != NULL)
    r->kind->unpin(r);
}

void txb_lane_reader_ask_highest(struct txb_lane_reader *r) {
  if (r->kind->ask_highest != NULL)
    r->kind->ask_highest(r);
}

void txb_lane_reader_fetch(struct txb_lane_reader *r, int64_t offset, const struct txb_lane_last *last) {
  r->kind->fetch(r, offset, last);
}

void txb_lane_reader_unfetch(struct txb_lane_reader *r) {
  r->kind->unfetch(r);
}

void txb_lane_reader_pause(struct txb_lane_reader *r) {
  r->paused = true;
}

void txb_lane_reader_resume(struct txb_lane_reader *r, int64_t offset) {
  if (offset < r->given_next) { /* what was given is not there any more */
    r->kind->begin(r, offset);
    return;
  }
  r->paused = false;
  r->told_end = -1;
}

struct pollfd txb_lane_reader_pollfd(const struct txb_lane_reader *r) {
  return r->kind->pollfd(r);
}

int64_t txb_lane_reader_due_us(const struct txb_lane_reader *r) {
  return r->kind->due_us(r);
}

/* ---- what is noted --------------------------------------------------------------------------- */

void txb_lane_note_trouble(struct txb_lane_reader *r, const struct txb_error *why) {
  bool same = r->in_trouble && strcmp(r->trouble.message, why->message) == 0;
  r->in_trouble = true;
  r->trouble = *why;
  r->tell_trouble = r->tell_trouble || !same;
  r->tell_well = false;
}

void txb_lane_note_well(struct txb_lane_reader *r) {
  txb_backoff_reset(&r->backoff);
  if (!r->in_trouble)
    return;
  r->tell_well = !r->tell_trouble;
  r->in_trouble = r->tell_trouble = false;
}

bool txb_lane_end_is_told(const struct txb_lane_reader *r, int64_t offset, bool more) {
  return r->told_end >= offset && r->end_more == more;
}

void txb_lane_note_end(struct txb_lane_reader *r, int64_t offset, bool more) {
  if (txb_lane_end_is_told(r, offset, more))
    return;
  r->tell_end = true;
  r->end = offset;
  r->end_more = more;
}

/* ---- notices --------------------------------------------------------------------------------- */

static bool tell(struct txb_lane_notice *out, enum txb_lane_notice_kind kind, int64_t offset) {
  *out = (struct txb_lane_notice){.kind = kind, .offset = offset};
  return true;
}

bool txb_lane_may_give(const struct txb_lane_reader *r) {
  return r->fetching && !r->paused && r->kind->ready(r);
}

static bool give_record(struct txb_lane_reader *r, struct txb_lane_notice *out) {
  bool limited = r->rate.per_second > 0;
  if (!txb_lane_may_give(r) || !txb_lane_rate_take(&r->rate, limited ? txb_clock_steady_us() : 0))
    return false;
  *out = (struct txb_lane_notice){.kind = TXB_LANE_RECORD};
  r->kind->give(r, out);
  out->offset = out->message->record.offset;
  r->given_next = out->offset + 1;
  return true;
}

static bool has_state(struct txb_lane_reader *r, struct txb_lane_notice *out) {
  if (r->tell_trouble) {
    r->tell_trouble = false;
    (void)tell(out, TXB_LANE_TROUBLE, 0);
    out->err = r->trouble;
    return true;
  }
  if (r->tell_well) {
    r->tell_well = false;
    return tell(out, TXB_LANE_WELL, 0);
  }
  return r->kind->give_highest != NULL && r->kind->give_highest(r, out);
}

static bool has_news(struct txb_lane_reader *r, struct txb_lane_notice *out) {
  if (give_record(r, out) || has_state(r, out))
    return true;
  if (!r->fetching || r->kind->ready(r))
    return false;
  if (r->tell_range) {
    r->tell_range = r->fetching = false; /* until the next fetch */
    (void)tell(out, TXB_LANE_RANGE, r->low);
    out->high = r->high;
    return true;
  }
  if (r->tell_end && !r->paused) {
    r->tell_end = false;
    r->told_end = r->end;
    (void)tell(out, TXB_LANE_END, r->end);
    out->more = r->end_more;
    return true;
  }
  return false;
}

/* Nothing is lost: what was not given yet is read again. */
static void lost(struct txb_lane_reader *r, const struct txb_error *why) {
  txb_lane_note_trouble(r, why);
  r->kind->disconnect(r);
  r->retry_us = txb_clock_steady_us() + txb_backoff_next_ms(&r->backoff, txb_random_u64()) * MS;
}

enum txb_rc txb_lane_reader_next(struct txb_lane_reader *r, struct txb_lane_notice *out, struct txb_error *err) {
  struct txb_error error;
  if (has_news(r, out))
    return TXB_OK;
  enum txb_rc rc = r->kind->progress(r, &error);
  bool says_server = rc == TXB_FATAL && (error.origin == TXB_ORIGIN_POSTGRES || error.kafka_code != 0);
  if (rc == TXB_FATAL && !says_server) {
    *err = error;
    return rc;
  }
  if (rc != TXB_OK && rc != TXB_AGAIN)
    lost(r, &error);
  return has_news(r, out) ? TXB_OK : TXB_AGAIN;
}
