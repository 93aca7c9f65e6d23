/* librdkafka's error codes as txbroker's: what the caller must do. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/kafka_conf.h"

/* What is not here is FATAL: an error that nobody has thought about must not be retried for ever. */
static const struct {
  rd_kafka_resp_err_t code;
  enum txb_rc rc;
  enum txb_origin origin;
} codes[] = {
    {RD_KAFKA_RESP_ERR__TRANSPORT, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR__RESOLVE, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR__TIMED_OUT, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR__WAIT_COORD, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR__RETRY, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__WAIT_CACHE, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__INTR, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__BAD_MSG, TXB_RETRY, TXB_ORIGIN_KAFKA}, /* a damaged answer: the connection is made anew */
    {RD_KAFKA_RESP_ERR__UNDERFLOW, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_INVALID_MSG, TXB_RETRY, TXB_ORIGIN_NONE}, /* checksum: damaged under way */
    {RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_NOT_COORDINATOR, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_NOT_CONTROLLER, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, TXB_RETRY, TXB_ORIGIN_KAFKA},
    {RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_PREFERRED_LEADER_NOT_AVAILABLE, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH, TXB_RETRY, TXB_ORIGIN_NONE}, /* metadata was old; not our fencing */
    {RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT, TXB_RETRY, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_UNKNOWN, TXB_RETRY, TXB_ORIGIN_KAFKA}, /* the broker's own catch-all */

    {RD_KAFKA_RESP_ERR__PARTITION_EOF, TXB_AGAIN, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__NO_OFFSET, TXB_AGAIN, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__QUEUE_FULL, TXB_AGAIN, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__IN_PROGRESS, TXB_AGAIN, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__PREV_IN_PROGRESS, TXB_AGAIN, TXB_ORIGIN_NONE},

    {RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS, TXB_DUPLICATE, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER, TXB_DUPLICATE, TXB_ORIGIN_NONE},

    {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, TXB_POISON, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE, TXB_POISON, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, TXB_POISON, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_RECORD, TXB_POISON, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, TXB_POISON, TXB_ORIGIN_NONE},

    {RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, TXB_FENCED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, TXB_FENCED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, TXB_FENCED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, TXB_FENCED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_PRODUCER_FENCED, TXB_FENCED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR__FENCED, TXB_FENCED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST, TXB_FENCED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR__MAX_POLL_EXCEEDED, TXB_FENCED, TXB_ORIGIN_SAFETY},

    {RD_KAFKA_RESP_ERR__AUTHENTICATION, TXB_REFUSED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED, TXB_REFUSED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, TXB_REFUSED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, TXB_REFUSED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, TXB_REFUSED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_SECURITY_DISABLED, TXB_REFUSED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR_POLICY_VIOLATION, TXB_REFUSED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR__SSL, TXB_REFUSED, TXB_ORIGIN_USAGE},
    {RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM, TXB_REFUSED, TXB_ORIGIN_USAGE},
    {RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE, TXB_REFUSED, TXB_ORIGIN_USAGE},
    {RD_KAFKA_RESP_ERR__INVALID_ARG, TXB_REFUSED, TXB_ORIGIN_USAGE},
    {RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE, TXB_REFUSED, TXB_ORIGIN_USAGE},
    {RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION, TXB_REFUSED, TXB_ORIGIN_USAGE},
    {RD_KAFKA_RESP_ERR_INVALID_REQUEST, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_CONFIG, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_PARTITIONS, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_REPLICA_ASSIGNMENT, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_SESSION_TIMEOUT, TXB_REFUSED, TXB_ORIGIN_USAGE},
    {RD_KAFKA_RESP_ERR_INCONSISTENT_GROUP_PROTOCOL, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_INVALID_GROUP_ID, TXB_REFUSED, TXB_ORIGIN_USAGE},
    {RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, TXB_REFUSED, TXB_ORIGIN_NONE},
    {RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE, TXB_REFUSED, TXB_ORIGIN_SAFETY},
    {RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, TXB_REFUSED, TXB_ORIGIN_SAFETY},
};

enum txb_rc txb_kafka_rc(rd_kafka_resp_err_t code, enum txb_origin *origin_out) {
  enum txb_rc rc = code == RD_KAFKA_RESP_ERR_NO_ERROR ? TXB_OK : TXB_FATAL;
  enum txb_origin origin = TXB_ORIGIN_NONE;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(codes); i++)
    if (codes[i].code == code) {
      rc = codes[i].rc;
      origin = codes[i].origin;
    }
  if (origin_out != NULL)
    *origin_out = origin;
  return rc;
}

/* Size of librdkafka's reason without what it appends about itself ("(after 0ms in state CONNECT, 1 identical error(s)
 * suppressed)"): noise to who reads the line, and different each time. */
static int reason_size(const char *reason) {
  const char *about_itself = strstr(reason, " (after ");
  return (int)(about_itself != NULL ? (size_t)(about_itself - reason) : strlen(reason));
}

enum txb_rc txb_kafka_fail(struct txb_error *err, rd_kafka_resp_err_t code, const char *detail, const char *file,
                           int line, const char *fmt, ...) {
  char text[400];
  enum txb_origin origin;
  enum txb_rc rc = txb_kafka_rc(code, &origin);
  TXB_ASSERT(rc != TXB_OK);
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  if (detail == NULL || detail[0] == '\0')
    detail = rd_kafka_err2str(code);
  txb_error_set(err, rc, origin, file, line, "%s: %.*s (%s)", text, reason_size(detail), detail,
                rd_kafka_err2name(code));
  if (err != NULL)
    err->kafka_code = code;
  return rc;
}

/* One broker of several, or one attempt of many: librdkafka goes on by itself, and says when the last one is away. */
static bool is_everyday(rd_kafka_resp_err_t code) {
  return code == RD_KAFKA_RESP_ERR__TRANSPORT || code == RD_KAFKA_RESP_ERR__TIMED_OUT ||
         code == RD_KAFKA_RESP_ERR_NO_ERROR;
}

bool txb_kafka_weather_error(struct txb_kafka_weather *w, rd_kafka_resp_err_t code, const char *text) {
  if (is_everyday(code)) {
    const char *reason = text != NULL ? text : rd_kafka_err2str(code);
    snprintf(w->reason, sizeof w->reason, "%.*s", reason_size(reason), reason);
    return false;
  }
  if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
    w->down = true;
  else
    w->reason[0] = '\0';
  for (size_t i = 0; i < TXB_ARRAY_SIZE(w->seen); i++)
    if (w->seen[i] == (int)code)
      return false;
  memmove(w->seen + 1, w->seen, sizeof w->seen - sizeof w->seen[0]);
  w->seen[0] = code;
  return true;
}

enum txb_rc txb_kafka_weather_fail(const struct txb_kafka_weather *w, rd_kafka_resp_err_t code, const char *text,
                                   struct txb_error *err) {
  return TXB_KAFKA_FAIL(err, code, text, "Kafka%s%s", w->reason[0] != '\0' ? ": " : "", w->reason);
}

bool txb_kafka_weather_fair(struct txb_kafka_weather *w) {
  w->reason[0] = '\0';
  if (!w->down)
    return false;
  *w = (struct txb_kafka_weather){0};
  return true;
}
