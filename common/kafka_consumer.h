/* The port to librdkafka for consuming: one member of one group, or a reader without any. What happens comes as notices, one by one, without
 * waiting; the descriptor is readable when there may be some. One thread.
 *
 * Membership and fetching are two things here: an assigned partition is fetched only after txb_kafka_consumer_fetch,
 * from the position that the database holds, and librdkafka stores, commits and resets no offset by itself. A crash
 * leaves a member that the group times out.
 */
#ifndef TXB_COMMON_KAFKA_CONSUMER_H
#define TXB_COMMON_KAFKA_CONSUMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/event.h"
#include "common/kafka.h"

struct txb_kafka_consumer;

struct txb_kafka_consumer_options {
  struct txb_kafka_cluster cluster;
  const char *group;
  /* NULL-ended. NULL: a reader of what it is told to fetch, in the group's name and under its rights; the group never hears
   * of it: it is no member, and commits nothing. */
  const char *const *topics;
  int session_timeout_ms; /* of a member */
};

/* Joins the group in the background, if there are topics. TXB_REFUSED: options are wrong; TXB_FATAL: no memory. */
enum txb_rc txb_kafka_consumer_open(const struct txb_kafka_consumer_options *options, struct txb_kafka_consumer **out,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* Leaves the group if txb_kafka_consumer_leave has not; may wait some seconds for librdkafka's threads. NULL is fine.
 */
void txb_kafka_consumer_close(struct txb_kafka_consumer *c);
/* Readable: call next until it has nothing more. */
int txb_kafka_consumer_fd(const struct txb_kafka_consumer *c);
/* Kafka's cluster id, "" until it is known. Borrowed until close. */
const char *txb_kafka_consumer_cluster_id(struct txb_kafka_consumer *c);

enum txb_kafka_notice_kind {
  TXB_KAFKA_RECORD,   /* record and place */
  TXB_KAFKA_ASSIGNED, /* the group has given us `count` partitions: txb_kafka_consumer_partition tells which. Nothing to
                         answer */
  TXB_KAFKA_REVOKED,  /* the group wants these back: answer with txb_kafka_consumer_give_back once they are done with */
  TXB_KAFKA_LOST,     /* the group does not count on us any more, others may own them: give_back as soon as possible */
  TXB_KAFKA_END,      /* place, offset: there is nothing more behind it for now */
  TXB_KAFKA_RANGE,    /* place: what was to be fetched does not exist; nothing comes from there until the next fetch */
  TXB_KAFKA_COMMITTED, /* the answer to txb_kafka_consumer_commit with this token: rc and err */
  TXB_KAFKA_LEFT,      /* the group is left: close */
  TXB_KAFKA_DOWN,      /* err: worth a line in the log: brokers are away, or refuse us (rc REFUSED), or the client is
                          unusable (rc FATAL) */
  TXB_KAFKA_UP,        /* they are back */
};

struct txb_kafka_notice {
  enum txb_kafka_notice_kind kind;
  size_t count;      /* ASSIGNED, REVOKED, LOST */
  const char *topic; /* RECORD, END, RANGE: the place; borrowed until the consumer is closed */
  int32_t partition;
  int place; /* the number that txb_kafka_consumer_fetch was given for it */
  int64_t offset;
  struct txb_record record; /* RECORD: borrowed until its release */
  void *ref;                /* RECORD: the caller's to release */
  uint64_t token;           /* COMMITTED */
  enum txb_rc rc;
  struct txb_error err;
};

/* TXB_AGAIN: nothing (more) now. TXB_FATAL: no memory. A failed call loses nothing but the notice at hand. */
enum txb_rc txb_kafka_consumer_next(struct txb_kafka_consumer *c, struct txb_kafka_notice *out,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* Partition `index` of the ASSIGNED, REVOKED or LOST notice at hand. The topic is borrowed until the next call of next.
 */
void txb_kafka_consumer_partition(const struct txb_kafka_consumer *c, size_t index, const char **topic_out,
                                  int32_t *partition_out);
/* Frees a record and what it borrows. */
void txb_kafka_consumer_release(void *ref);
/* The record's headers again, as they were in its notice (which borrowed a scratch array for them). Borrowed until the
 * next call. */
enum txb_rc txb_kafka_consumer_headers(struct txb_kafka_consumer *c, const void *ref, struct txb_record *record,
                                       struct txb_error *err) TXB_MUST_CHECK;

/* Fetches a partition from `offset` on; its records carry `place`. What was fetched of it before is void, and none of
 * it comes any more. */
enum txb_rc txb_kafka_consumer_fetch(struct txb_kafka_consumer *c, const char *topic, int32_t partition, int64_t offset,
                                     int place, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_kafka_consumer_unfetch(struct txb_kafka_consumer *c, const char *topic, int32_t partition,
                                       struct txb_error *err) TXB_MUST_CHECK;
/* What librdkafka holds of it is dropped by a pause, and fetched again after the resume, from `offset` on: that of the
 * record behind the last one seen. */
enum txb_rc txb_kafka_consumer_pause(struct txb_kafka_consumer *c, const char *topic, int32_t partition,
                                     struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_kafka_consumer_resume(struct txb_kafka_consumer *c, const char *topic, int32_t partition,
                                      int64_t offset, struct txb_error *err) TXB_MUST_CHECK;
/* Commits an offset under the present generation, without waiting; COMMITTED follows. */
enum txb_rc txb_kafka_consumer_commit(struct txb_kafka_consumer *c, const char *topic, int32_t partition,
                                      int64_t offset, uint64_t token, struct txb_error *err) TXB_MUST_CHECK;
/* The answer to the REVOKED or LOST notice at hand. */
enum txb_rc txb_kafka_consumer_give_back(struct txb_kafka_consumer *c, struct txb_error *err) TXB_MUST_CHECK;
/* Begins to leave the group: a REVOKED notice may come, at the end LEFT. */
enum txb_rc txb_kafka_consumer_leave(struct txb_kafka_consumer *c, struct txb_error *err) TXB_MUST_CHECK;

/* What Kafka has of a partition: first offset and the one after the last. Waits, at most timeout_ms. TXB_RETRY when no
 * answer came. */
enum txb_rc txb_kafka_consumer_range(struct txb_kafka_consumer *c, const char *topic, int32_t partition, int timeout_ms,
                                     int64_t *low_out, int64_t *high_out, struct txb_error *err) TXB_MUST_CHECK;
/* How many partitions a topic has. Waits likewise. TXB_REFUSED: there is no such topic. */
enum txb_rc txb_kafka_consumer_partitions(struct txb_kafka_consumer *c, const char *topic, int timeout_ms,
                                          int *count_out, struct txb_error *err) TXB_MUST_CHECK;

#endif
