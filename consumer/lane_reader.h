/* The reader of one lane, ahead of the worker that applies what it reads: the intents of one topic out of a source's outbox
 * (lane_outbox.c), or the records of one Kafka partition (lane_topic.c). A connection of its own that does not wait: what
 * happens comes as notices, one by one, as Kafka's do (common/kafka_consumer.h). Except where Kafka has just said that the
 * place to read on is gone: what is there is asked for then, and librdkafka answers that after up to 2 s only when brokers
 * are slow (lane_topic.c). That stops the lane anyway, but the worker's other partitions wait as long.
 *
 * It keeps nothing that a crash would lose: where a lane stands is in the consuming database, and all of this is read again
 * from there. A number below (seq, offset) is the outbox's or Kafka's, as the log is.
 */
#ifndef TXB_CONSUMER_LANE_READER_H
#define TXB_CONSUMER_LANE_READER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"
#include "common/uuid.h"

struct txb_kafka_cluster;
struct txb_lane_last;
struct txb_lane_reader;
struct txb_worker_message;

struct txb_lane_reader_options {
  const char *topic; /* copied, as all that is not said to be borrowed */
  int32_t lane;
  /* In the server's binary form; absent: all. bytea[], text[]. */
  struct txb_slice keys, types;

  /* An outbox. */
  const char *source, *uri;            /* borrowed, as long as the reader lives */
  const char *name;                    /* application_name */
  const char *pin, *pin_what;          /* name of the pin in the source's database, and what people read of it */
  struct txb_slice time_from, time_to; /* timestamptz: when intents were written, from and before; absent: always */

  /* A Kafka partition: where cluster_id, as the job noted it, is not NULL. */
  const char *cluster_id;
  int32_t from_partition;
  const struct txb_lane_last *first;     /* the first message of the range, as the job noted it; NULL: none */
  const struct txb_kafka_cluster *kafka; /* borrowed likewise, with all its strings */
  const char *group;                     /* under whose rights it is read, without becoming a member of it; borrowed */
};

enum txb_lane_notice_kind {
  TXB_LANE_RECORD, /* message, size: the caller's; every message is given back by txb_lane_message_release (lane_page.h) */
  TXB_LANE_END,    /* offset: nothing more lies below it. more: it is read on behind it */
  TXB_LANE_RANGE, /* offset, high: where it is to read on is not there: the log begins at offset, or ends before high */
  TXB_LANE_HIGHEST, /* offset: the answer to txb_lane_reader_ask_highest */
  TXB_LANE_TROUBLE, /* err: worth telling; it goes on trying */
  TXB_LANE_WELL,    /* and that is over */
};

struct txb_lane_notice {
  enum txb_lane_notice_kind kind;
  struct txb_worker_message *message;
  int64_t size; /* bytes that it holds */
  int64_t offset, high;
  bool more;
  struct txb_error err;
};

/* TXB_FATAL: no memory. */
enum txb_rc txb_lane_reader_new(const struct txb_lane_reader_options *options, struct txb_lane_reader **out,
                                struct txb_error *err) TXB_MUST_CHECK;
/* Messages that are still out live on. NULL is fine. */
void txb_lane_reader_free(struct txb_lane_reader *r);

/* Where the range ends (the first number that is not of it); whether it must be whole, so that it waits for what has yet
 * to be published, where it else leaves that out (outbox); and how many messages a second may be given, 0: as many as there are. */
void txb_lane_reader_bound(struct txb_lane_reader *r, int64_t seq_to, bool whole, int64_t rate_max);
/* What concerns pins and the highest number is an outbox's: it does nothing to Kafka, where nothing can be pinned.
 *
 * The pin stands at `lo` from now on. It is renewed now and then, and only when this is called: by whoever has just been
 * told that its job goes on. */
void txb_lane_reader_pin(struct txb_lane_reader *r, int64_t lo);
/* The lane is not read any more here: a pin that is not sent yet is forgotten. The job may be cancelled, and whoever did
 * that takes the pin away. */
void txb_lane_reader_pin_not(struct txb_lane_reader *r);
/* The range is done with: the pin is taken away, and not set again. */
void txb_lane_reader_unpin(struct txb_lane_reader *r);
/* The highest number that the source's relay has seen, looked up from now on. */
void txb_lane_reader_ask_highest(struct txb_lane_reader *r);

/* The last message that was run, by number and id; number -1: none was. A source that does not have it any more was
 * restored or made anew: its numbers are drawn again, for other messages, and the range is told as not there (W9). Looked at
 * with each new connection. Of a Kafka partition the first message of the range stands in while none was run; what Kafka
 * has deleted or compacted away by now can't be looked at, and passes. */
struct txb_lane_last {
  int64_t seq;
  struct txb_uuid id;
};
/* Reads from `offset` on. What was read before is void. */
void txb_lane_reader_fetch(struct txb_lane_reader *r, int64_t offset, const struct txb_lane_last *last);
void txb_lane_reader_unfetch(struct txb_lane_reader *r);
/* A page stays where it is meanwhile. */
void txb_lane_reader_pause(struct txb_lane_reader *r);
void txb_lane_reader_resume(struct txb_lane_reader *r, int64_t offset);

/* TXB_AGAIN: nothing (more) now. TXB_FATAL: no memory. */
enum txb_rc txb_lane_reader_next(struct txb_lane_reader *r, struct txb_lane_notice *out,
                                 struct txb_error *err) TXB_MUST_CHECK;
/* What to wait for before next is called again: the descriptor (-1: none), and a time (INT64_MAX: none). */
struct pollfd txb_lane_reader_pollfd(const struct txb_lane_reader *r);
int64_t txb_lane_reader_due_us(const struct txb_lane_reader *r);

#endif
