/* Client configuration: an allow-list for users, and a table of what they may not set and why. What delivery rests on
 * is set by the producer and the consumer after the user's options, so that even a gap in these tables could not undo
 * it.
 */
#include "common/kafka_conf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/nearest.h"

const struct txb_kafka_option txb_kafka_options_allowed[] = {
    /* network */
    {"broker.address.family", false},
    {"broker.address.ttl", false},
    {"client.rack", false},
    {"connections.max.idle.ms", false},
    {"metadata.max.age.ms", false},
    {"receive.message.max.bytes", false},
    {"reconnect.backoff.max.ms", false},
    {"reconnect.backoff.ms", false},
    {"request.timeout.ms", false},
    {"socket.connection.setup.timeout.ms", false},
    {"socket.keepalive.enable", false},
    {"socket.nagle.disable", false},
    {"socket.receive.buffer.bytes", false},
    {"socket.send.buffer.bytes", false},
    {"socket.timeout.ms", false},
    {"topic.metadata.refresh.interval.ms", false},
    /* security */
    {"enable.ssl.certificate.verification", false},
    {"sasl.kerberos.keytab", false},
    {"sasl.kerberos.principal", false},
    {"sasl.kerberos.service.name", false},
    {"sasl.mechanism", false},
    {"sasl.mechanisms", false},
    {"sasl.oauthbearer.client.id", false},
    {"sasl.oauthbearer.client.secret", true},
    {"sasl.oauthbearer.config", true},
    {"sasl.oauthbearer.extensions", false},
    {"sasl.oauthbearer.method", false},
    {"sasl.oauthbearer.scope", false},
    {"sasl.oauthbearer.token.endpoint.url", false},
    {"sasl.password", true},
    {"sasl.username", false},
    {"security.protocol", false},
    {"ssl.ca.location", false},
    {"ssl.ca.pem", false},
    {"ssl.certificate.location", false},
    {"ssl.certificate.pem", false},
    {"ssl.cipher.suites", false},
    {"ssl.crl.location", false},
    {"ssl.curves.list", false},
    {"ssl.endpoint.identification.algorithm", false},
    {"ssl.key.location", false},
    {"ssl.key.password", true},
    {"ssl.key.pem", true},
    {"ssl.keystore.location", false},
    {"ssl.keystore.password", true},
    {"ssl.sigalgs.list", false},
    /* producing */
    {"batch.num.messages", false},
    {"batch.size", false},
    {"compression.codec", false},
    {"compression.level", false},
    {"compression.type", false},
    {"linger.ms", false},
    {"sticky.partitioning.linger.ms", false},
    /* consuming */
    {"fetch.error.backoff.ms", false},
    {"fetch.max.bytes", false},
    {"fetch.message.max.bytes", false},
    {"fetch.min.bytes", false},
    {"fetch.wait.max.ms", false},
    {"max.partition.fetch.bytes", false},
    /* looking at it */
    {"debug", false},
    {NULL, false},
};

/* Refused by name, with a reason: a user who looks for one of these should learn where it went. */
static const struct {
  const char *name, *reason;
} forbidden[] = {
    {"bootstrap.servers", "it is the setting kafka.brokers"},
    {"metadata.broker.list", "it is the setting kafka.brokers"},
    {"client.id", "it names the source or group"},
    {"group.id", "it is the setting group of a worker"},
    {"acks", "an intent counts as published only when all in-sync replicas have it"},
    {"request.required.acks", "an intent counts as published only when all in-sync replicas have it"},
    {"enable.idempotence", "without it a retry doubles or swaps messages"},
    {"enable.gapless.guarantee", "without it a refused message is passed by"},
    {"max.in.flight", "the order of messages rests on it"},
    {"max.in.flight.requests.per.connection", "the order of messages rests on it"},
    {"retries", "an intent is sent until Kafka has it"},
    {"message.send.max.retries", "an intent is sent until Kafka has it"},
    {"message.timeout.ms", "an intent is sent until Kafka has it"},
    {"delivery.timeout.ms", "an intent is sent until Kafka has it"},
    {"delivery.report.only.error", "an intent counts as published by its own report only"},
    {"partitioner", "it must agree with Java producers and never change"},
    {"queuing.strategy", "the order of messages rests on it"},
    {"transactional.id", "Kafka transactions are not used"},
    {"transaction.timeout.ms", "Kafka transactions are not used"},
    {"message.max.bytes", "the broker decides what is too large"},
    {"queue.buffering.max.messages", "it follows from the setting relay.inflight_rows"},
    {"queue.buffering.max.kbytes", "it follows from the setting relay.inflight_bytes"},
    {"queue.buffering.max.ms", "write linger.ms"},
    {"allow.auto.create.topics", "a misspelt topic must not come into being"},
    {"auto.offset.reset", "it is the setting start of a worker; a lost position is never jumped over"},
    {"auto.commit.enable", "the position is stored with the effects"},
    {"enable.auto.commit", "the position is stored with the effects"},
    {"enable.auto.offset.store", "the position is stored with the effects"},
    {"auto.commit.interval.ms", "the position is stored with the effects"},
    {"offset.store.method", "the position is stored with the effects"},
    {"isolation.level", "messages of aborted transactions must not have an effect"},
    {"check.crcs", "the worker decides it"},
    {"enable.partition.eof", "the worker decides it"},
    {"partition.assignment.strategy", "all members of a group must agree"},
    {"group.instance.id", "a member that is gone must lose its partitions"},
    {"session.timeout.ms", "it is the setting session_timeout_ms of a worker"},
    {"heartbeat.interval.ms", "it follows from the setting session_timeout_ms of a worker"},
    {"max.poll.interval.ms", "the worker decides it"},
    {"queued.min.messages", "the worker sizes its queues"},
    {"queued.max.messages.kbytes", "the worker sizes its queues"},
    {"statistics.interval.ms", "the process decides it"},
    {"plugin.library.paths", "it loads code into the process"},
    {"ssl.engine.location", "it loads code into the process"},
    {"ssl.providers", "it loads code into the process"},
    {"sasl.kerberos.kinit.cmd", "it runs a command"},
    {"enable.sasl.oauthbearer.unsecure.jwt", "an unsigned token protects nothing"},
};

#define SECRET_SIZE_MAX 65536

static enum txb_rc refuse_name(const char *name, struct txb_error *err) {
  for (size_t i = 0; i < TXB_ARRAY_SIZE(forbidden); i++)
    if (strcmp(forbidden[i].name, name) == 0)
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "the Kafka client option \"%s\" can't be set: %s", name,
                           forbidden[i].reason);
  const char *names[TXB_ARRAY_SIZE(txb_kafka_options_allowed)];
  size_t count = 0;
  for (; txb_kafka_options_allowed[count].name != NULL; count++)
    names[count] = txb_kafka_options_allowed[count].name;
  const char *nearest = txb_nearest(name, names, count);
  if (nearest == NULL)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "unknown Kafka client option \"%.100s\"", name);
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                       "unknown Kafka client option \"%.100s\": did you mean \"%s\"?", name, nearest);
}

static const struct txb_kafka_option *find_allowed(const char *name) {
  for (const struct txb_kafka_option *o = txb_kafka_options_allowed; o->name != NULL; o++)
    if (strcmp(o->name, name) == 0)
      return o;
  return NULL;
}

/* ---- secrets --------------------------------------------------------------------------------- */

static void wipe(struct txb_buffer *b) {
  if (b->data != NULL)
    explicit_bzero(b->data, b->capacity);
  txb_buffer_fini(b);
}

static enum txb_rc read_all(int fd, const char *path, struct txb_buffer *out, struct txb_error *err) {
  char *room = txb_buffer_reserve(out, SECRET_SIZE_MAX); /* once, so that growing leaves no copies behind */
  TXB_TRY(txb_buffer_check(out, err));
  size_t size = 0;
  for (;;) {
    ssize_t n = read(fd, room + size, SECRET_SIZE_MAX - size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "cannot read %s: %s", path, strerror(errno));
    if (n == 0)
      break;
    size += (size_t)n;
    if (size == SECRET_SIZE_MAX)
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s is too large for a secret", path);
  }
  if (memchr(room, '\0', size) != NULL)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s holds a NUL byte", path);
  if (size > 0 && room[size - 1] == '\n') /* editors end a file with one */
    size -= size > 1 && room[size - 2] == '\r' ? 2 : 1;
  out->size = size;
  return TXB_OK;
}

bool txb_kafka_option_is_allowed(const char *name) {
  return find_allowed(name) != NULL;
}

/* A secret's value: the text itself, or where it lies: "env:NAME", "file:PATH". */
static enum txb_rc read_secret(const char *option, const char *text, struct txb_buffer *out, struct txb_error *err) {
  if (strncmp(text, "env:", 4) == 0) {
    const char *value = getenv(text + 4);
    if (value == NULL)
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s: the environment has no %s", option, text + 4);
    txb_buffer_add_text(out, value);
    return txb_buffer_check(out, err);
  }
  if (strncmp(text, "file:", 5) == 0) {
    int fd = open(text + 5, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s: cannot open %s: %s", option, text + 5,
                           strerror(errno));
    enum txb_rc rc = read_all(fd, text + 5, out, err);
    close(fd);
    return rc;
  }
  txb_buffer_add_text(out, text);
  return txb_buffer_check(out, err);
}

/* ---- configurations -------------------------------------------------------------------------- */

/* librdkafka's text quotes the value: a secret's is not passed on. */
static enum txb_rc set_user_option(rd_kafka_conf_t *conf, const struct txb_kafka_option *option, const char *text,
                                   struct txb_error *err) {
  char errstr[256];
  struct txb_buffer secret TXB_CLEANUP(wipe);
  txb_buffer_init(&secret);
  if (option->secret) {
    TXB_TRY(read_secret(option->name, text, &secret, err));
    text = txb_buffer_text(&secret);
    TXB_TRY(txb_buffer_check(&secret, err));
  }
  if (rd_kafka_conf_set(conf, option->name, text, errstr, sizeof errstr) == RD_KAFKA_CONF_OK)
    return TXB_OK;
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "Kafka client option \"%s\": %s", option->name,
                       option->secret ? "not a valid value" : errstr);
}

static enum txb_rc set_user_options(rd_kafka_conf_t *conf, const char *const *options, struct txb_error *err) {
  for (; options != NULL && options[0] != NULL; options += 2) {
    const struct txb_kafka_option *option = find_allowed(options[0]);
    if (option == NULL)
      return refuse_name(options[0], err);
    if (options[1] == NULL)
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "Kafka client option \"%s\" has no value", options[0]);
    TXB_TRY(set_user_option(conf, option, options[1], err));
  }
  return TXB_OK;
}

static void conf_free(rd_kafka_conf_t **conf) {
  if (*conf != NULL)
    rd_kafka_conf_destroy(*conf);
}

enum txb_rc txb_kafka_options_check(const char *const *options, struct txb_error *err) {
  TXB_CLEANUP(conf_free) rd_kafka_conf_t *conf = rd_kafka_conf_new();
  return set_user_options(conf, options, err);
}

/* librdkafka's threads call this; the log is safe for any thread. */
static void on_log(const rd_kafka_t *rk, int severity, const char *facility, const char *text) {
  txb_log(TXB_LOG_DEBUG, TXB_MSG("librdkafka"), TXB_F("client", rk != NULL ? rd_kafka_name(rk) : NULL),
          TXB_FI("severity", severity), TXB_F("facility", facility), TXB_F("text", text));
}

/* Ours, that a user may change. */
static const char *const defaults[][2] = {
    {"log.connection.close", "false"}, /* brokers close idle connections all the time */
    {"socket.keepalive.enable", "true"},
    {"reconnect.backoff.max.ms", "2000"}, /* 10 s would be most of the time in which a backlog must be gone after an
                                             outage */
};

enum txb_rc txb_kafka_conf_new(const struct txb_kafka_cluster *cluster, rd_kafka_conf_t **out, struct txb_error *err) {
  if (cluster->brokers == NULL || cluster->brokers[0] == '\0')
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "no Kafka brokers are given (kafka.brokers)");
  TXB_CLEANUP(conf_free) rd_kafka_conf_t *conf = rd_kafka_conf_new();
  char errstr[256];
  for (size_t i = 0; i < TXB_ARRAY_SIZE(defaults); i++)
    TXB_TRY(txb_kafka_conf_set(conf, defaults[i][0], defaults[i][1], err));
  TXB_TRY(set_user_options(conf, cluster->options, err));
  if (rd_kafka_conf_set(conf, "bootstrap.servers", cluster->brokers, errstr, sizeof errstr) != RD_KAFKA_CONF_OK)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "kafka.brokers: %s", errstr);
  TXB_TRY(txb_kafka_conf_set(conf, "client.id", cluster->client_id != NULL ? cluster->client_id : "txbroker", err));
  rd_kafka_conf_set_log_cb(conf, on_log);
  *out = txb_steal(conf);
  return TXB_OK;
}

enum txb_rc txb_kafka_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value, struct txb_error *err) {
  char errstr[256];
  if (rd_kafka_conf_set(conf, name, value, errstr, sizeof errstr) == RD_KAFKA_CONF_OK)
    return TXB_OK;
  return TXB_FAIL(err, TXB_FATAL, "librdkafka %s does not take %s=%s: %s", rd_kafka_version_str(), name, value, errstr);
}

enum txb_rc txb_kafka_conf_set_int(rd_kafka_conf_t *conf, const char *name, int64_t value, struct txb_error *err) {
  char text[24];
  snprintf(text, sizeof text, "%" PRId64, value);
  return txb_kafka_conf_set(conf, name, text, err);
}

enum txb_rc txb_kafka_client_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, rd_kafka_t **out, struct txb_error *err) {
  char errstr[256];
  rd_kafka_t *client = rd_kafka_new(type, conf, errstr, sizeof errstr);
  if (client != NULL) {
    *out = client;
    return TXB_OK;
  }
  rd_kafka_resp_err_t code = rd_kafka_last_error();
  rd_kafka_conf_destroy(conf);
  if (code == RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE)
    return TXB_FAIL(err, TXB_FATAL, "cannot start a Kafka client: %s", errstr);
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "cannot start a Kafka client: %s", errstr);
}
