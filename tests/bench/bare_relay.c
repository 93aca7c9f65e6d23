/* The ceiling of a relay: pages of one plain table, read in binary with the next read under way, into an idempotent
 * producer with acks=all and the same headers. It keeps no position, no holes, no lease and no order across
 * transactions: a crash loses everything. Only its speed counts.
 *
 *   bench_bare_relay --database URI --brokers LIST --topic NAME [--page 4000] [--queue 100000]
 *
 * Reads bare.outbox, which the caller makes a view of the one partition that holds the backlog.
 *
 * Prints one JSON object: rows, acked, seconds (from the first read to the last report).
 */
#include <arpa/inet.h>
#include <endian.h>
#include <libpq-fe.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "envelope.h"
#include "measure.h"

#define POSTGRES_EPOCH_US INT64_C(946684800000000)

enum column { SEQ, ID, KEY, TYPE, PAYLOAD, CONTENT_TYPE, CREATED_AT };

struct bare {
  PGconn *pg;
  rd_kafka_t *kafka;
  rd_kafka_topic_t *topic;
  int64_t page, queue;
  int64_t rows, acked, failed;
};

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
  char text[256];
  if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK)
    give_up("%s", text);
}

static void reported(rd_kafka_t *kafka, const rd_kafka_message_t *message, void *opaque) {
  (void)kafka;
  struct bare *b = opaque;
  if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
    b->acked++;
  else
    b->failed++;
}

static void open_producer(struct bare *b, const char *brokers, const char *topic) {
  char number[24], text[256];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", brokers);
  set(conf, "enable.idempotence", "true");
  set(conf, "acks", "all");
  set(conf, "partitioner", "murmur2_random");
  set(conf, "linger.ms", "5");
  set(conf, "batch.num.messages", "10000");
  snprintf(number, sizeof number, "%lld", (long long)b->queue);
  set(conf, "queue.buffering.max.messages", number);
  set(conf, "message.timeout.ms", "0");
  rd_kafka_conf_set_dr_msg_cb(conf, reported);
  rd_kafka_conf_set_opaque(conf, b);
  b->kafka = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
  if (b->kafka == NULL)
    give_up("producer: %s", text);
  b->topic = rd_kafka_topic_new(b->kafka, topic, NULL);
  if (b->topic == NULL)
    give_up("topic: %s", rd_kafka_err2str(rd_kafka_last_error()));
}

static PGresult *one_result(struct bare *b) {
  PGresult *r = PQgetResult(b->pg), *end = PQgetResult(b->pg);
  if (end != NULL || (PQresultStatus(r) != PGRES_TUPLES_OK && PQresultStatus(r) != PGRES_COMMAND_OK))
    give_up("%s", PQerrorMessage(b->pg));
  return r;
}

static void prepare(struct bare *b) {
  PGresult *r = PQprepare(b->pg, "page",
                          "SELECT seq, id, key, type, payload, content_type, created_at FROM bare.outbox"
                          " WHERE seq > $1 ORDER BY seq LIMIT $2",
                          0, NULL);
  if (PQresultStatus(r) != PGRES_COMMAND_OK)
    give_up("%s", PQerrorMessage(b->pg));
  PQclear(r);
}

static void ask(struct bare *b, int64_t after) {
  uint64_t seq = htobe64((uint64_t)after), limit = htobe64((uint64_t)b->page);
  const char *values[] = {(const char *)&seq, (const char *)&limit};
  const int sizes[] = {sizeof seq, sizeof limit}, binary[] = {1, 1};
  if (PQsendQueryPrepared(b->pg, "page", 2, values, sizes, binary, 1) != 1)
    give_up("%s", PQerrorMessage(b->pg));
  PQflush(b->pg);
}

static int64_t int8_of(const PGresult *r, int row, int column) {
  uint64_t v;
  memcpy(&v, PQgetvalue(r, row, column), sizeof v);
  return (int64_t)be64toh(v);
}

static void produce(struct bare *b, const PGresult *r, int row) {
  struct envelope e = {
      .id = (const unsigned char *)PQgetvalue(r, row, ID),
      .source = "txbroker:bench",
      .type = PQgetvalue(r, row, TYPE),
      .content_type = PQgetvalue(r, row, CONTENT_TYPE),
      .time_us = int8_of(r, row, CREATED_AT) + POSTGRES_EPOCH_US,
  };
  rd_kafka_vu_t parts[5] = {0};
  parts[0].vtype = RD_KAFKA_VTYPE_RKT;
  parts[0].u.rkt = b->topic;
  parts[1].vtype = RD_KAFKA_VTYPE_KEY;
  parts[1].u.mem.ptr = PQgetisnull(r, row, KEY) ? NULL : PQgetvalue(r, row, KEY);
  parts[1].u.mem.size = (size_t)PQgetlength(r, row, KEY);
  parts[2].vtype = RD_KAFKA_VTYPE_VALUE;
  parts[2].u.mem.ptr = PQgetvalue(r, row, PAYLOAD);
  parts[2].u.mem.size = (size_t)PQgetlength(r, row, PAYLOAD);
  parts[3].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
  parts[3].u.i = RD_KAFKA_MSG_F_COPY;
  parts[4].vtype = RD_KAFKA_VTYPE_HEADERS;
  parts[4].u.headers = envelope_headers(&e);
  for (;;) {
    rd_kafka_error_t *error = rd_kafka_produceva(b->kafka, parts, 5);
    if (error == NULL)
      break;
    if (rd_kafka_error_code(error) != RD_KAFKA_RESP_ERR__QUEUE_FULL)
      give_up("produce: %s", rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    rd_kafka_poll(b->kafka, 10);
  }
  b->rows++;
}

static void relay(struct bare *b) {
  prepare(b);
  ask(b, 0);
  for (;;) {
    PGresult *r = one_result(b);
    int rows = PQntuples(r);
    if (rows == 0) {
      PQclear(r);
      return;
    }
    ask(b, int8_of(r, rows - 1, SEQ));
    for (int i = 0; i < rows; i++) {
      produce(b, r, i);
      if (i % 256 == 255) {
        /* Takes what the server has sent meanwhile: it must not stand before a full socket. */
        PQconsumeInput(b->pg);
        rd_kafka_poll(b->kafka, 0);
      }
    }
    PQclear(r);
  }
}

int main(int argc, char **argv) {
  struct bare b = {
      .page = argument_number(argc, argv, "page", 4000),
      .queue = argument_number(argc, argv, "queue", 100000),
  };
  b.pg = PQconnectdb(argument(argc, argv, "database", NULL));
  if (PQstatus(b.pg) != CONNECTION_OK)
    give_up("%s", PQerrorMessage(b.pg));
  open_producer(&b, argument(argc, argv, "brokers", NULL), argument(argc, argv, "topic", NULL));
  int64_t begun = now_ns();
  relay(&b);
  while (b.acked + b.failed < b.rows)
    rd_kafka_poll(b.kafka, 100);
  double seconds = (double)(now_ns() - begun) / 1e9;
  printf("{\"rows\": %lld, \"acked\": %lld, \"seconds\": %.4f}\n", (long long)b.rows, (long long)b.acked, seconds);
  rd_kafka_topic_destroy(b.topic);
  rd_kafka_destroy(b.kafka);
  PQfinish(b.pg);
  return b.acked == b.rows ? 0 : 1;
}
