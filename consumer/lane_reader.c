/* See lane_reader.h: which reader a lane has, and what it is asked. */
#include "consumer/lane_reader_internal.h"

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
  r->kind->pause(r);
}

void txb_lane_reader_resume(struct txb_lane_reader *r, int64_t offset) {
  r->kind->resume(r, offset);
}

enum txb_rc txb_lane_reader_next(struct txb_lane_reader *r, struct txb_lane_notice *out, struct txb_error *err) {
  return r->kind->next(r, out, err);
}

struct pollfd txb_lane_reader_pollfd(const struct txb_lane_reader *r) {
  return r->kind->pollfd(r);
}

int64_t txb_lane_reader_due_us(const struct txb_lane_reader *r) {
  return r->kind->due_us(r);
}
