/* What stands behind lane_reader.h: the kinds of readers, by what their log is. */
#ifndef TXB_CONSUMER_LANE_READER_INTERNAL_H
#define TXB_CONSUMER_LANE_READER_INTERNAL_H

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
  void (*pause)(struct txb_lane_reader *r);
  void (*resume)(struct txb_lane_reader *r, int64_t offset);
  enum txb_rc (*next)(struct txb_lane_reader *r, struct txb_lane_notice *out, struct txb_error *err);
  struct pollfd (*pollfd)(const struct txb_lane_reader *r);
  int64_t (*due_us)(const struct txb_lane_reader *r);
};

/* The first member of every reader. */
struct txb_lane_reader {
  const struct txb_lane_reader_kind *kind;
};

/* lane_outbox.c, lane_topic.c. TXB_FATAL: no memory. */
enum txb_rc txb_lane_outbox_new(const struct txb_lane_reader_options *options, struct txb_lane_reader **out,
                                struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_lane_topic_new(const struct txb_lane_reader_options *options, struct txb_lane_reader **out,
                               struct txb_error *err) TXB_MUST_CHECK;

#endif
