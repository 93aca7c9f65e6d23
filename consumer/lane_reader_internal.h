/* What stands behind lane_reader.h: the kinds of readers, by what their log is. */
#ifndef TXB_CONSUMER_LANE_READER_INTERNAL_H
#define TXB_CONSUMER_LANE_READER_INTERNAL_H

#include "common/backoff.h"
#include "consumer/lane_rate.h"
#include "consumer/lane_reader.h"

/* Each as txb_lane_reader_* says; NULL: there is nothing of the sort, and nothing is done. */
struct txb_lane_reader_kind {
  void (*free)(struct txb_lane_reader *r);
  void (*bound)(struct txb_lane_reader *r, int64_t seq_to, bool whole, int64_t rate_max);
  void (*pin)(struct txb_lane_reader *r, int64_t lo);
  void (*pin_not)(struct txb_lane_reader *r);
  void (*unpin)(struct txb_lane_reader *r);
  void (*ask_highest)(struct txb_lane_reader *r);
  void (*fetch)(struct txb_lane_reader *r, int64_t offset, const struct txb_lane_last *last);
  void (*unfetch)(struct txb_lane_reader *r);
  /* Reads from `offset` on, and nothing of what was read is wanted any more. */
  void (*begin)(struct txb_lane_reader *r, int64_t offset);
  /* The connection is of no use any more: what was not given yet is read again. */
  void (*disconnect)(struct txb_lane_reader *r);
  /* As far as it goes without waiting. TXB_AGAIN: nothing more now. TXB_FATAL, unless the server said it: no memory.
   * Anything else is trouble. */
  enum txb_rc (*progress)(struct txb_lane_reader *r, struct txb_error *err);
  /* Whether a message is at hand; and giving it: message, size. */
  bool (*ready)(const struct txb_lane_reader *r);
  void (*give)(struct txb_lane_reader *r, struct txb_lane_notice *out);
  bool (*give_highest)(struct txb_lane_reader *r, struct txb_lane_notice *out);
  struct pollfd (*pollfd)(const struct txb_lane_reader *r);
  int64_t (*due_us)(const struct txb_lane_reader *r);
};

/* The first member of every reader. */
struct txb_lane_reader {
  const struct txb_lane_reader_kind *kind;
  int64_t retry_us; /* no connection before */
  struct txb_backoff backoff;
  bool in_trouble, tell_trouble, tell_well;
  struct txb_error trouble;

  bool fetching, paused;
  int64_t seq_to;
  int64_t given_next; /* behind the last message that was given */
  bool tell_end, end_more;
  int64_t end, told_end; /* told_end -1: none since the last fetch or resume */
  bool tell_range;
  int64_t low, high; /* of what is told then */
  struct txb_lane_rate rate;
};

#define TXB_LANE_READER_OF(which)                                                                                      \
  { .kind = (which), .backoff = {.first_ms = 100, .cap_ms = 30000}, .told_end = -1 }

/* Told once, and again only when it is another. */
void txb_lane_note_trouble(struct txb_lane_reader *r, const struct txb_error *why);
void txb_lane_note_well(struct txb_lane_reader *r);
/* Nothing lies below `offset`: told once. */
void txb_lane_note_end(struct txb_lane_reader *r, int64_t offset, bool more);
bool txb_lane_end_is_told(const struct txb_lane_reader *r, int64_t offset, bool more);
/* But for the rate. */
bool txb_lane_may_give(const struct txb_lane_reader *r);

/* lane_outbox.c, lane_topic.c. TXB_FATAL: no memory. */
enum txb_rc txb_lane_outbox_new(const struct txb_lane_reader_options *options, struct txb_lane_reader **out,
                                struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_lane_topic_new(const struct txb_lane_reader_options *options, struct txb_lane_reader **out,
                               struct txb_error *err) TXB_MUST_CHECK;

#endif
