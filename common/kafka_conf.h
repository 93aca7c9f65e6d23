/* What the files common/kafka*.c share, and nobody else includes: librdkafka's own types.
 *
 * A client is made in three steps: txb_kafka_conf_new (brokers, client id, the user's allowed options, log),
 * txb_kafka_conf_set for what delivery rests on (set last, so that nothing can undo it), txb_kafka_client_new.
 */
#ifndef TXB_COMMON_KAFKA_CONF_H
#define TXB_COMMON_KAFKA_CONF_H

#include <librdkafka/rdkafka.h>

#include "common/kafka.h"

/* A configuration with brokers, client id, the user's options (checked against the allow-list, secrets read) and our
 * log callback. No callbacks for delivery, rebalance, errors or statistics, no opaque, no events: those are the
 * caller's. librdkafka's own log lines go to our log at debug, text unchanged; what counts is reported as errors
 * (RD_KAFKA_EVENT_ERROR), see struct txb_kafka_weather. *out is the caller's: rd_kafka_conf_destroy, or hand it to
 * txb_kafka_client_new.
 *   TXB_REFUSED (TXB_ORIGIN_USAGE)  an option is unknown, forbidden or has a bad value; brokers are missing; a secret
 *                                   can't be read */
enum txb_rc txb_kafka_conf_new(const struct txb_kafka_cluster *cluster, rd_kafka_conf_t **out,
                               struct txb_error *err) TXB_MUST_CHECK;

/* Sets one option of our own, overriding what the user set. TXB_FATAL names the option: only a librdkafka without it
 * can fail. */
enum txb_rc txb_kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value,
                               struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_kafka_conf_set_int(rd_kafka_conf_t *conf, const char *name, int64_t value,
                                   struct txb_error *err) TXB_MUST_CHECK;

/* rd_kafka_new. Takes `conf` in every case, also when it fails (librdkafka itself keeps it with the caller then).
 * TXB_REFUSED (TXB_ORIGIN_USAGE): the options don't fit together, or a certificate can't be read. */
enum txb_rc txb_kafka_client_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, rd_kafka_t **out,
                                 struct txb_error *err) TXB_MUST_CHECK;

/* What the caller must do about an error code, for requests (metadata, commit, admin) and client errors alike:
 *   TXB_OK         NO_ERROR
 *   TXB_RETRY      network, time-outs, elections, coordinators loading: passes by itself
 *                  (TXB_ORIGIN_KAFKA when brokers can't be reached)
 *   TXB_AGAIN      PARTITION_EOF, NO_OFFSET, QUEUE_FULL, IN_PROGRESS: nothing now
 *   TXB_DUPLICATE  TOPIC_ALREADY_EXISTS, DUPLICATE_SEQUENCE_NUMBER
 *   TXB_POISON     the message itself is refused: too large, invalid record
 *   TXB_FENCED     generation, member or producer epoch is no longer ours, assignment lost
 *   TXB_REFUSED    authentication, authorization (TXB_ORIGIN_SAFETY), unknown or invalid topic, invalid configuration,
 *                  offset out of range
 *   TXB_FATAL      _FATAL, out of memory, everything unknown
 * *origin_out may be NULL. Whether a missing topic is worth waiting for is the caller's choice. */
enum txb_rc txb_kafka_rc(rd_kafka_resp_err_t code, enum txb_origin *origin_out);

/* Raises it: rc and origin as above, kafka_code = code, message "<your text>: <librdkafka's text> (<NAME>)". Returns
 * the rc, never TXB_OK (a code of NO_ERROR is a bug). `detail` is librdkafka's text when there is more than the code's
 * (NULL: rd_kafka_err2str). */
#define TXB_KAFKA_FAIL(err, code, detail, ...) txb_kafka_fail((err), (code), (detail), __FILE__, __LINE__, __VA_ARGS__)
enum txb_rc txb_kafka_fail(struct txb_error *err, rd_kafka_resp_err_t code, const char *detail, const char *file,
                           int line, const char *fmt, ...) TXB_PRINTF(6, 7);

/* Errors once: librdkafka repeats "broker down" for as long as it lasts. Zeroed is fair weather. */
struct txb_kafka_weather {
  bool down;
  int seen[4];      /* the codes that had their line, the latest first */
  char reason[240]; /* of the latest that had none: why a broker could not be reached */
};
/* Whether this client error is worth a line: the first that says the whole cluster is away, or a code that had none
 * since the last fair weather. A connection lost or an answer late is not: its `text` (NULL: the code's) becomes the
 * reason, which belongs into the line that says that all are away. */
bool txb_kafka_weather_error(struct txb_kafka_weather *w, rd_kafka_resp_err_t code, const char *text);
/* That line, into *err; returns its code. */
enum txb_rc txb_kafka_weather_fail(const struct txb_kafka_weather *w, rd_kafka_resp_err_t code, const char *text,
                                   struct txb_error *err);
/* Something got through (a report, a message, an answer). True when it was down: worth a line "back". */
bool txb_kafka_weather_fair(struct txb_kafka_weather *w);

#endif
