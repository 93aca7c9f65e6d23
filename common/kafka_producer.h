/* The port to librdkafka's producer: idempotent, acks=all, sent until Kafka has it, stopped at the first gap.
 *
 * What was handed over and has no report when the producer is closed, or the process dies, may or may not be in Kafka.
 * One thread uses it. Payloads are not copied: they must stay until the message's report has come or the producer is
 * closed.
 */
#ifndef TXB_COMMON_KAFKA_PRODUCER_H
#define TXB_COMMON_KAFKA_PRODUCER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/kafka.h"
#include "common/slice.h"

struct txb_kafka_producer;
struct txb_kafka_topic; /* a topic of one producer; lives as long as that */

struct txb_kafka_producer_options {
  const struct txb_kafka_cluster *cluster; /* borrowed for the call */
  int64_t batch_bytes; /* a request's size to one partition; 0: the user's batch.size, else 1,000,000 */
};

struct txb_kafka_outgoing {
  struct txb_kafka_topic *topic;
  struct txb_slice key, value;      /* absent: null; the key and the headers are copied */
  const struct txb_header *headers; /* common/event.h */
  size_t header_count;
  uint64_t ticket; /* comes back in the report */
};

enum txb_kafka_outcome {
  TXB_KAFKA_ACKED,    /* all in-sync replicas have it */
  TXB_KAFKA_REFUSED,  /* it, or the batch that it was in, is refused for good; the producer is of no use any more */
  TXB_KAFKA_NO_TOPIC, /* its topic is missing, has an invalid name, or may not be written to */
  TXB_KAFKA_LOST,     /* anything else: whether Kafka has it is unknown; a new producer must send it again */
};
struct txb_kafka_report {
  uint64_t ticket;
  enum txb_kafka_outcome outcome;
  int code;                      /* librdkafka's */
  int32_t partition, partitions; /* where it went, of how many; 0: not known */
};

/* Where a message with that key goes, of so many partitions (> 0): murmur2, as Java producers do. */
uint32_t txb_kafka_partition_of(struct txb_slice key, uint32_t partitions);

/* What the client said, for one line in the log. */
enum txb_kafka_news {
  TXB_KAFKA_NO_NEWS,
  TXB_KAFKA_TROUBLE, /* err tells; it goes on by itself, unless broken */
  TXB_KAFKA_BACK,    /* the cluster was away and something got through again */
};

/* Does not connect yet. REFUSED: options; FATAL: no resources. */
enum txb_rc txb_kafka_producer_open(const struct txb_kafka_producer_options *options, struct txb_kafka_producer **out,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* Gives up on what has no report; NULL is fine. */
void txb_kafka_producer_close(struct txb_kafka_producer *producer);
/* Readable when reports or news wait: then call reports until it gives less than asked for. */
int txb_kafka_producer_fd(const struct txb_kafka_producer *producer);
/* After a fatal error of the client nothing more is sent: close it and open another. */
bool txb_kafka_producer_is_broken(const struct txb_kafka_producer *producer);

/* The handle of a topic, made at its first use. */
enum txb_rc txb_kafka_producer_topic(struct txb_kafka_producer *producer, const char *name,
                                     struct txb_kafka_topic **out, struct txb_error *err) TXB_MUST_CHECK;

/* Hands a message over. Its report comes later, unless this fails:
 *   TXB_AGAIN    the client's queue is full: call reports, then again
 *   TXB_POISON   refused at once: too large for this client
 *   TXB_REFUSED  the topic is missing, invalid or forbidden
 *   TXB_RETRY    the producer is broken
 *   TXB_FATAL    out of memory */
enum txb_rc txb_kafka_producer_send(struct txb_kafka_producer *producer, const struct txb_kafka_outgoing *message,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* The outcome that a code means, also for a failed send (err->kafka_code). */
enum txb_kafka_outcome txb_kafka_outcome_of(int code);

/* Its name ("MSG_SIZE_TOO_LARGE") and librdkafka's text. Static storage. */
const char *txb_kafka_code_name(int code);
const char *txb_kafka_code_text(int code);

/* Up to `max` reports; *count_out may be 0. Never waits. */
void txb_kafka_producer_reports(struct txb_kafka_producer *producer, struct txb_kafka_report *out, size_t max,
                                size_t *count_out);
enum txb_kafka_news txb_kafka_producer_news(struct txb_kafka_producer *producer, struct txb_error *err);

/* Whether a topic is there and may be written to as far as its metadata tell; asks the cluster. timeout_ms should be
 * short. TXB_REFUSED: it is missing, invalid or forbidden; TXB_RETRY: no answer. */
enum txb_rc txb_kafka_producer_probe(struct txb_kafka_producer *producer, struct txb_kafka_topic *topic, int timeout_ms,
                                     struct txb_error *err) TXB_MUST_CHECK;

#endif
