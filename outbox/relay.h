/* The relay process: one source's outbox to Kafka, on the calling thread, until stopped.
 *
 * A crash at any line leaves: intents in txb.outbox, a position in txb.relay that lies at or behind what Kafka
 * acknowledged, and perhaps messages in Kafka that the next relay sends once more in the same order; the inbox drops
 * those.
 */
#ifndef TXB_OUTBOX_RELAY_H
#define TXB_OUTBOX_RELAY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/kafka.h"

struct txb_relay_options {
  const char *source;       /* name of the source in configuration, logs and txb.relay */
  const char *event_source; /* CloudEvents source of its messages; NULL: "txbroker:" and the name */
  const char *database;     /* libpq connection string */
  struct txb_kafka_cluster kafka;
  const char *owner;  /* name of this relay in txb.relay: unique among relays that run at once */
  int stop_fd;        /* eventfd: readable when the relay shall end */
  int nudge_fd;       /* eventfd: readable when somebody in this process has committed intents; -1: nobody tells */
  int read_rows;      /* rows a read at most */
  int64_t read_bytes; /* payload bytes a read at most; but one row always fits, and eight while few come */
  int inflight_rows;  /* read and not yet acknowledged, at most */
  int64_t inflight_bytes;
  int64_t lease_ms;                     /* a stopped holder is replaced after this */
  int64_t checkpoint_ms;                /* at most one checkpoint in this time */
  int64_t poll_busy_us, poll_idle_ms;   /* the pause between polls grows from the first to the second */
  bool wait_flush;                      /* R8 */
  int64_t retry_first_ms, retry_cap_ms; /* reconnecting */
  int64_t partition_rows;               /* numbers a partition of txb.outbox spans */
  int partitions_ahead;
  int64_t retention_ms;   /* published intents are kept at least this long */
  int64_t failed_keep_ms; /* and the records of refused ones, once they are decided about */
  bool exit_when_idle;    /* tests and benchmarks: end once everything visible is published and checkpointed */
};
void txb_relay_options_init(struct txb_relay_options *options); /* the defaults of the settings table */

/* Runs until stop_fd is signalled (TXB_OK) or something needs a person (TXB_REFUSED, TXB_FENCED: two relays with one
 * owner name, TXB_FATAL). Servers that are away are waited for. Logs what changes, never a secret. */
enum txb_rc txb_relay_run(const struct txb_relay_options *options, struct txb_error *err) TXB_MUST_CHECK;

#endif
