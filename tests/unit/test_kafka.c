/* Client options, secrets, codes, and the mock cluster. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kafka_conf.h"
#include "common/kafka_mock.h"
#include "common/memory.h"

static enum txb_rc check(const char *name, const char *value, struct txb_error *err) {
  const char *const options[] = {"linger.ms", "5", name, value, NULL};
  return txb_kafka_options_check(options, err);
}

Test(kafka_options, takes_what_is_allowed) {
  struct txb_error err;
  cr_assert(txb_kafka_options_check(NULL, &err) == TXB_OK);
  cr_assert(check("security.protocol", "sasl_ssl", &err) == TXB_OK);
  cr_assert(check("sasl.password", "plain text", &err) == TXB_OK);
  cr_assert(check("compression.type", "zstd", &err) == TXB_OK);
}

Test(kafka_options, are_known_to_this_librdkafka) {
  for (const struct txb_kafka_option *o = txb_kafka_options_allowed; o->name != NULL; o++) {
    char errstr[256] = "";
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_res_t res = rd_kafka_conf_set(conf, o->name, "1", errstr, sizeof errstr);
    cr_assert(res != RD_KAFKA_CONF_UNKNOWN, "%s: %s", o->name, errstr);
    rd_kafka_conf_destroy(conf);
  }
}

Test(kafka_options, refuses_by_name_what_delivery_rests_on) {
  static const char *const names[] = {"acks",
                                      "enable.idempotence",
                                      "enable.gapless.guarantee",
                                      "retries",
                                      "max.in.flight",
                                      "partitioner",
                                      "message.timeout.ms",
                                      "transactional.id",
                                      "enable.auto.commit",
                                      "enable.auto.offset.store",
                                      "auto.offset.reset",
                                      "isolation.level",
                                      "group.id",
                                      "bootstrap.servers",
                                      "plugin.library.paths",
                                      "sasl.kerberos.kinit.cmd"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(names); i++) {
    struct txb_error err;
    cr_assert(check(names[i], "1", &err) == TXB_REFUSED && err.origin == TXB_ORIGIN_USAGE);
    cr_assert(strstr(err.message, names[i]) != NULL && strstr(err.message, "can't be set: ") != NULL, "%s",
              err.message);
  }
}

Test(kafka_options, names_the_nearest_for_an_unknown_one) {
  struct txb_error err;
  cr_assert(check("lingr.ms", "5", &err) == TXB_REFUSED);
  cr_assert_str_eq(err.message, "unknown Kafka client option \"lingr.ms\": did you mean \"linger.ms\"?");
  cr_assert(check("sasl.passwort", "x", &err) == TXB_REFUSED && strstr(err.message, "\"sasl.password\"") != NULL);
  cr_assert(check("something.else.entirely", "5", &err) == TXB_REFUSED && strstr(err.message, "did you mean") == NULL);
}

Test(kafka_options, refuses_bad_values_and_missing_ones) {
  struct txb_error err;
  cr_assert(check("linger.ms", "soon", &err) == TXB_REFUSED);
  cr_assert(check("security.protocol", "tls", &err) == TXB_REFUSED && strstr(err.message, "tls") != NULL);
  cr_assert(check("linger.ms", NULL, &err) == TXB_REFUSED && strstr(err.message, "has no value") != NULL);
}

static void check_password(const char *given, const char *want) {
  const char *const options[] = {"sasl.password", given, NULL};
  const struct txb_kafka_cluster cluster = {.brokers = "localhost:1", .options = options, .client_id = "test"};
  rd_kafka_conf_t *conf = NULL;
  struct txb_error err;
  cr_assert(txb_kafka_conf_new(&cluster, &conf, &err) == TXB_OK, "%s", err.message);
  char value[200];
  size_t size = sizeof value;
  cr_assert(rd_kafka_conf_get(conf, "sasl.password", value, &size) == RD_KAFKA_CONF_OK);
  cr_assert_str_eq(value, want);
  rd_kafka_conf_destroy(conf);
}

static void write_file(const char *path, const char *data, size_t size) {
  int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
  cr_assert(fd >= 0 && write(fd, data, size) == (ssize_t)size);
  close(fd);
}

Test(kafka_secrets, come_as_text_from_the_environment_or_a_file) {
  char path[] = "/tmp/txb_secret_XXXXXX", given[64];
  int fd = mkstemp(path);
  cr_assert(fd >= 0);
  close(fd);
  snprintf(given, sizeof given, "file:%s", path);
  check_password("plain", "plain");
  setenv("TXB_TEST_SECRET", "from env\n", 1);
  check_password("env:TXB_TEST_SECRET", "from env\n");
  write_file(path, "from file", 9);
  check_password(given, "from file");
  write_file(path, "from file\n", 10);
  check_password(given, "from file");
  write_file(path, "from file\r\n", 11);
  check_password(given, "from file");
  write_file(path, "two\n\n", 5);
  check_password(given, "two\n");
  unlink(path);
}

Test(kafka_secrets, refuses_what_can_not_be_read) {
  struct txb_error err;
  unsetenv("TXB_TEST_NONE");
  cr_assert(check("sasl.password", "env:TXB_TEST_NONE", &err) == TXB_REFUSED &&
            strstr(err.message, "TXB_TEST_NONE") != NULL);
  cr_assert(check("ssl.key.password", "file:/nowhere/secret", &err) == TXB_REFUSED &&
            strstr(err.message, "/nowhere/secret") != NULL);
  cr_assert(check("sasl.password", "file:/dev/zero", &err) == TXB_REFUSED && strstr(err.message, "too large") != NULL);
  cr_assert(check("sasl.password", "file:/", &err) == TXB_REFUSED);
}

Test(kafka_conf, sets_brokers_and_client_id_and_lets_users_change_our_defaults) {
  const char *const options[] = {"reconnect.backoff.max.ms", "777", NULL};
  const struct txb_kafka_cluster cluster = {.brokers = "a:1,b:2", .options = options, .client_id = "txbroker-relay-x"};
  rd_kafka_conf_t *conf = NULL;
  struct txb_error err;
  cr_assert(txb_kafka_conf_new(&cluster, &conf, &err) == TXB_OK);
  static const char *const want[][2] = {{"bootstrap.servers", "a:1,b:2"},
                                        {"client.id", "txbroker-relay-x"},
                                        {"reconnect.backoff.max.ms", "777"},
                                        {"log.connection.close", "false"}};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(want); i++) {
    char value[200];
    size_t size = sizeof value;
    cr_assert(rd_kafka_conf_get(conf, want[i][0], value, &size) == RD_KAFKA_CONF_OK);
    cr_assert_str_eq(value, want[i][1]);
  }
  cr_assert(txb_kafka_conf_set_int(conf, "linger.ms", 3, &err) == TXB_OK);
  cr_assert(txb_kafka_conf_set(conf, "no.such.option", "1", &err) == TXB_FATAL &&
            strstr(err.message, "no.such.option") != NULL);
  rd_kafka_conf_destroy(conf);
}

Test(kafka_conf, wants_brokers) {
  const struct txb_kafka_cluster none = {.client_id = "x"}, empty = {.brokers = ""};
  rd_kafka_conf_t *conf = NULL;
  struct txb_error err;
  cr_assert(txb_kafka_conf_new(&none, &conf, &err) == TXB_REFUSED && conf == NULL && err.origin == TXB_ORIGIN_USAGE);
  cr_assert(txb_kafka_conf_new(&empty, &conf, &err) == TXB_REFUSED && conf == NULL);
}

Test(kafka_conf, fails_cleanly_at_every_allocation) {
  const char *const options[] = {"sasl.password", "file:/dev/null", "ssl.key.password", "secret", NULL};
  const struct txb_kafka_cluster cluster = {.brokers = "a:1", .options = options};
  uint64_t failures = 0;
  for (uint64_t nth = 1; nth < 50; nth++) {
    rd_kafka_conf_t *conf = NULL;
    struct txb_error err;
    txb_alloc_fail_at(nth);
    enum txb_rc rc = txb_kafka_conf_new(&cluster, &conf, &err);
    txb_alloc_fail_at(0);
    if (rc == TXB_OK) {
      rd_kafka_conf_destroy(conf);
      break;
    }
    cr_assert(rc == TXB_FATAL && conf == NULL);
    failures++;
  }
  cr_assert(failures >= 2);
}

Test(kafka_codes, say_what_the_caller_must_do) {
  static const struct {
    rd_kafka_resp_err_t code;
    enum txb_rc rc;
    enum txb_origin origin;
  } rows[] = {
      {RD_KAFKA_RESP_ERR_NO_ERROR, TXB_OK, TXB_ORIGIN_NONE},
      {RD_KAFKA_RESP_ERR__TRANSPORT, TXB_RETRY, TXB_ORIGIN_KAFKA},
      {RD_KAFKA_RESP_ERR__QUEUE_FULL, TXB_AGAIN, TXB_ORIGIN_NONE},
      {RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS, TXB_DUPLICATE, TXB_ORIGIN_NONE},
      {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, TXB_POISON, TXB_ORIGIN_NONE},
      {RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, TXB_FENCED, TXB_ORIGIN_SAFETY},
      {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, TXB_REFUSED, TXB_ORIGIN_SAFETY},
      {RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, TXB_REFUSED, TXB_ORIGIN_NONE},
      {RD_KAFKA_RESP_ERR__FATAL, TXB_FATAL, TXB_ORIGIN_NONE},
      {(rd_kafka_resp_err_t)12345, TXB_FATAL, TXB_ORIGIN_NONE},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    enum txb_origin origin = TXB_ORIGIN_USAGE;
    cr_assert(txb_kafka_rc(rows[i].code, &origin) == rows[i].rc && origin == rows[i].origin, "row %zu", i);
    cr_assert(txb_kafka_rc(rows[i].code, NULL) == rows[i].rc);
  }
}

Test(kafka_codes, become_errors_with_text_and_name) {
  struct txb_error err;
  cr_assert(TXB_KAFKA_FAIL(&err, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, NULL, "topic %s", "t") == TXB_REFUSED);
  cr_assert_str_eq(err.message, "topic t: Broker: Unknown topic or partition (UNKNOWN_TOPIC_OR_PART)");
  cr_assert(err.kafka_code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
  cr_assert(TXB_KAFKA_FAIL(&err, RD_KAFKA_RESP_ERR__TRANSPORT, "refused (after 0ms in state CONNECT)", "k") ==
            TXB_RETRY);
  cr_assert_str_eq(err.message, "k: refused (_TRANSPORT)");
}

Test(kafka_weather, is_told_once_when_it_turns_and_once_when_it_clears) {
  struct txb_kafka_weather w = {0};
  cr_assert(!txb_kafka_weather_fair(&w));
  cr_assert(!txb_kafka_weather_error(&w, RD_KAFKA_RESP_ERR__TRANSPORT, "refused"), "one broker is not the cluster");
  cr_assert(txb_kafka_weather_error(&w, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, NULL));
  cr_assert_str_eq(w.reason, "refused");
  for (int i = 0; i < 5; i++) {
    cr_assert(!txb_kafka_weather_error(&w, RD_KAFKA_RESP_ERR__TRANSPORT, NULL));
    cr_assert(!txb_kafka_weather_error(&w, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, NULL));
  }
  cr_assert(txb_kafka_weather_error(&w, RD_KAFKA_RESP_ERR__AUTHENTICATION, NULL), "another reason is news");
  cr_assert(!txb_kafka_weather_error(&w, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, NULL),
            "two brokers with two reasons take turns");
  cr_assert(!txb_kafka_weather_error(&w, RD_KAFKA_RESP_ERR__AUTHENTICATION, NULL));
  cr_assert(txb_kafka_weather_fair(&w) && !txb_kafka_weather_fair(&w));
  cr_assert(txb_kafka_weather_error(&w, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, NULL), "and so is the next outage");
}

Test(kafka_mock, answers_as_a_cluster) {
  struct txb_kafka_mock *mock = NULL;
  struct txb_error err;
  char *id = NULL;
  int count = -2;
  cr_assert(txb_kafka_mock_open(2, &mock, &err) == TXB_OK, "%s", err.message);
  const struct txb_kafka_cluster cluster = {.brokers = txb_kafka_mock_brokers(mock), .client_id = "test"};
  cr_assert(txb_kafka_mock_topic(mock, "made", 7, &err) == TXB_OK);
  cr_assert(txb_kafka_probe(&cluster, 10000, &id, &err) == TXB_OK, "%s", err.message);
  cr_assert(strncmp(id, "mockCluster", 11) == 0);
  txb_free(id);
  cr_assert(txb_kafka_topic_partitions(&cluster, "made", 10000, &count, &err) == TXB_OK && count == 7);
  txb_kafka_mock_close(mock);
  txb_kafka_mock_close(NULL);
}

Test(kafka_probe, says_that_nobody_answers) {
  const struct txb_kafka_cluster cluster = {.brokers = "127.0.0.1:1", .client_id = "test"};
  struct txb_error err;
  char *id = NULL;
  cr_assert(txb_kafka_probe(&cluster, 300, &id, &err) == TXB_RETRY && id == NULL);
  cr_assert(err.origin == TXB_ORIGIN_KAFKA && strstr(err.message, "127.0.0.1:1") != NULL, "%s", err.message);
}
