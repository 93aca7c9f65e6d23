/* The reader of one lane: the intents of one topic out of a source's outbox, page by page, ahead of the worker that
 * applies them. A connection of its own that never waits: what happens comes as notices, one by one, as Kafka's do
 * (common/kafka_consumer.h).
 *
 * It reads below the source's watermark only, where nothing can appear any more. It keeps nothing that a crash would
 * lose: where a lane stands is in the consuming database, and all of this is read again from there.
 */
#ifndef TXB_CONSUMER_LANE_READER_H
#define TXB_CONSUMER_LANE_READER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"
#include "common/uuid.h"

struct txb_lane_reader;
struct txb_lane_page;
struct txb_worker_message;

struct txb_lane_reader_options {
  const char *source, *uri; /* borrowed, as long as the reader lives */
  const char *name;         /* application_name; copied */
  const char *topic;        /* copied, as all below */
  int32_t lane;
  const char *pin, *pin_what; /* name of the pin in the source's database, and what people read of it */
  /* In the server's binary form; absent: all. bytea[], text[], timestamptz (from), timestamptz (before). */
  struct txb_slice keys, types, time_from, time_to;
};

enum txb_lane_notice_kind {
  TXB_LANE_RECORD, /* message, size: the caller's; every message is given back by txb_lane_message_release (lane_page.h) */
  TXB_LANE_END,    /* offset: nothing more lies below it. more: it is read on behind it */
  TXB_LANE_RANGE, /* offset, high: where it is to read on is not there: the outbox begins at offset, or ends before high */
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
 * to be published, where it else leaves that out; and how many messages a second may be given, 0: as many as there are. */
void txb_lane_reader_bound(struct txb_lane_reader *r, int64_t seq_to, bool whole, int64_t rate_max);
/* The pin stands at `lo` from now on. It is renewed now and then, and only when this is called: by whoever has just been
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
 * restored or made anew: its numbers are drawn again, for other messages, and the range is told as not there (the same as
 * W9 for Kafka). Looked at with each new connection. */
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
