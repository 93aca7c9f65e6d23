/* Reading a topic without a consumer group: for `tail` and `replay plan`, nothing is committed anywhere and nobody's progress is
 * touched. */
#ifndef TXB_COMMON_KAFKA_TAIL_H
#define TXB_COMMON_KAFKA_TAIL_H

#include "common/event.h"
#include "common/kafka.h"

enum txb_tail_from { TXB_TAIL_BEGINNING, TXB_TAIL_END, TXB_TAIL_OFFSET, TXB_TAIL_OFFSETS };

struct txb_tail_options {
  struct txb_kafka_cluster kafka;
  const char *topic;
  int partition; /* -1: all */
  enum txb_tail_from from;
  int64_t offset; /* for TXB_TAIL_OFFSET: where each partition begins */
  /* For TXB_TAIL_OFFSETS: where partition i begins; -1, and what lies behind the array: it is left out. */
  const int64_t *offsets;
  size_t offset_count;
  int timeout_ms; /* for the first answer of the cluster */
};

struct txb_tail;
/* TXB_RETRY (TXB_ORIGIN_KAFKA): no answer. TXB_REFUSED: no such topic or partition, no right, wrong options. */
enum txb_rc txb_tail_open(const struct txb_tail_options *options, struct txb_tail **out,
                          struct txb_error *err) TXB_MUST_CHECK;
void txb_tail_close(struct txb_tail *tail); /* NULL is fine */
/* The next message of any partition; *out and all it points to are borrowed until the next call. TXB_AGAIN: none
 * within the time. TXB_RETRY: the cluster is away (librdkafka goes on trying; call again). TXB_REFUSED: it can't be
 * read. */
enum txb_rc txb_tail_next(struct txb_tail *tail, int timeout_ms, struct txb_record *out,
                          struct txb_error *err) TXB_MUST_CHECK;
/* Nothing of a partition comes any more: it counts as read. */
void txb_tail_stop(struct txb_tail *tail, int32_t partition);
/* Whether every partition was read up to the end that it had when last looked at. */
bool txb_tail_at_end(const struct txb_tail *tail);

#endif
