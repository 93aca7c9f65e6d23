/* The ceiling of a worker: batches of a thousand from Kafka, applied over one connection in one pipelined transaction
 * a batch, with arrays: ids into an inbox, one grouped UPDATE of the accounts, the offsets, commit. No group, no
 * fence, no handler function, no failed messages: only its speed counts.
 *
 *   bench_bare_apply --database URI --brokers LIST --topic NAME --messages N [--batch 1000]
 *
 * Needs bare.inbox (message_id uuid primary key), bare.position (partition int primary key, next_offset bigint) with
 * a row a partition, and bench.account (id bigint primary key, balance bigint). Prints one JSON object: applied,
 * batches, seconds (from the first message to the last commit).
 */
#include <endian.h>
#include <libpq-fe.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "envelope.h"
#include "measure.h"

enum { BATCH_MAX = 10000, OID_INT8 = 20, OID_INT4 = 23, OID_UUID = 2950, PARTITIONS_MAX = 1024 };

struct array { /* PostgreSQL's binary form of a one-dimensional array without nulls */
  unsigned char *bytes;
  size_t size;
  uint32_t count;
};

struct apply {
  PGconn *pg;
  rd_kafka_t *kafka;
  int64_t batch, applied, batches;
  unsigned char (*ids)[16];
  struct array id, account, partition, offset;
  int64_t next[PARTITIONS_MAX];
  int partitions;
};

enum { ARRAY_HEAD = 20 };

static void put32(unsigned char *p, uint32_t v) {
  v = htobe32(v);
  memcpy(p, &v, sizeof v);
}

static void array_init(struct array *a, size_t elements) {
  a->bytes = malloc(ARRAY_HEAD + elements * 20);
  if (a->bytes == NULL)
    give_up("out of memory");
}

static void array_begin(struct array *a, uint32_t oid) {
  put32(a->bytes, 1);
  put32(a->bytes + 4, 0);
  put32(a->bytes + 8, oid);
  put32(a->bytes + 16, 1);
  a->size = ARRAY_HEAD;
  a->count = 0;
}

static void array_add(struct array *a, const void *value, uint32_t size) {
  put32(a->bytes + a->size, size);
  memcpy(a->bytes + a->size + 4, value, size);
  a->size += 4 + size;
  put32(a->bytes + 12, ++a->count);
}

static void array_add_int8(struct array *a, int64_t v) {
  uint64_t wire = htobe64((uint64_t)v);
  array_add(a, &wire, sizeof wire);
}

static void array_add_int4(struct array *a, int v) {
  uint32_t wire = htobe32((uint32_t)v);
  array_add(a, &wire, sizeof wire);
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
  char text[256];
  if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK)
    give_up("%s", text);
}

static void open_consumer(struct apply *a, const char *brokers, const char *topic) {
  char text[256];
  const struct rd_kafka_metadata *meta = NULL;
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", brokers);
  set(conf, "group.id", "bench-bare-apply");
  set(conf, "enable.auto.commit", "false");
  set(conf, "queued.max.messages.kbytes", "65536");
  a->kafka = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
  if (a->kafka == NULL)
    give_up("consumer: %s", text);
  rd_kafka_poll_set_consumer(a->kafka);
  rd_kafka_topic_t *handle = rd_kafka_topic_new(a->kafka, topic, NULL);
  if (rd_kafka_metadata(a->kafka, 0, handle, &meta, 10000) != RD_KAFKA_RESP_ERR_NO_ERROR || meta->topic_cnt != 1)
    give_up("topic %s: no metadata", topic);
  a->partitions = meta->topics[0].partition_cnt;
  if (a->partitions < 1 || a->partitions > PARTITIONS_MAX)
    give_up("topic %s has %d partitions", topic, a->partitions);
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(a->partitions);
  for (int p = 0; p < a->partitions; p++)
    rd_kafka_topic_partition_list_add(list, topic, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
  rd_kafka_assign(a->kafka, list);
  rd_kafka_topic_partition_list_destroy(list);
  rd_kafka_metadata_destroy(meta);
  rd_kafka_topic_destroy(handle);
}

static void prepare(struct apply *a) {
  static const char *const text[][2] = {
      {"begin", "BEGIN"},
      {"inbox", "INSERT INTO bare.inbox SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING"},
      {"effect", "UPDATE bench.account a SET balance = balance + g.n"
                 " FROM (SELECT id, count(*) AS n FROM unnest($1::int8[]) AS u (id) GROUP BY id ORDER BY id) g WHERE "
                 "a.id = g.id"},
      {"offset",
       "UPDATE bare.position p SET next_offset = u.next FROM unnest($1::int4[], $2::int8[]) AS u (partition, next)"
       " WHERE p.partition = u.partition"},
      {"commit", "COMMIT"},
  };
  for (size_t i = 0; i < sizeof text / sizeof text[0]; i++) {
    PGresult *r = PQprepare(a->pg, text[i][0], text[i][1], 0, NULL);
    if (PQresultStatus(r) != PGRES_COMMAND_OK)
      give_up("%s", PQerrorMessage(a->pg));
    PQclear(r);
  }
  if (PQenterPipelineMode(a->pg) != 1)
    give_up("%s", PQerrorMessage(a->pg));
}

static void send_one(struct apply *a, const char *name, int count, const struct array *x, const struct array *y) {
  const char *values[] = {x == NULL ? NULL : (const char *)x->bytes, y == NULL ? NULL : (const char *)y->bytes};
  int sizes[] = {x == NULL ? 0 : (int)x->size, y == NULL ? 0 : (int)y->size}, binary[] = {1, 1};
  if (PQsendQueryPrepared(a->pg, name, count, values, sizes, binary, 1) != 1)
    give_up("%s", PQerrorMessage(a->pg));
}

/* Waits for the answers of the batch under way, up to its sync. */
static void settle(struct apply *a) {
  for (;;) {
    PGresult *r = PQgetResult(a->pg);
    ExecStatusType status = PQresultStatus(r);
    PQclear(r);
    if (r == NULL)
      continue;
    if (status == PGRES_PIPELINE_SYNC)
      return;
    if (status != PGRES_COMMAND_OK)
      give_up("%s", PQerrorMessage(a->pg));
  }
}

static int by_bytes(const void *a, const void *b) {
  return memcmp(a, b, 16);
}

static void take_message(struct apply *a, const rd_kafka_message_t *m, size_t place) {
  rd_kafka_headers_t *headers;
  const void *id;
  size_t id_size;
  char key[24] = "";
  if (rd_kafka_message_headers(m, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR ||
      rd_kafka_header_get_last(headers, "ce_id", &id, &id_size) != RD_KAFKA_RESP_ERR_NO_ERROR ||
      !envelope_id_parse(id, id_size, a->ids[place]) || m->key_len >= sizeof key)
    give_up("a message that bare_relay or the relay did not write");
  memcpy(key, m->key, m->key_len);
  array_add_int8(&a->account, strtoll(key, NULL, 10));
  a->next[m->partition] = m->offset + 1;
}

static void send_batch(struct apply *a, size_t count) {
  array_begin(&a->id, OID_UUID);
  qsort(a->ids, count, 16, by_bytes);
  for (size_t i = 0; i < count; i++)
    array_add(&a->id, a->ids[i], 16);
  array_begin(&a->partition, OID_INT4);
  array_begin(&a->offset, OID_INT8);
  for (int p = 0; p < a->partitions; p++) {
    array_add_int4(&a->partition, p);
    array_add_int8(&a->offset, a->next[p]);
  }
  send_one(a, "begin", 0, NULL, NULL);
  send_one(a, "inbox", 1, &a->id, NULL);
  send_one(a, "effect", 1, &a->account, NULL);
  send_one(a, "offset", 2, &a->partition, &a->offset);
  send_one(a, "commit", 0, NULL, NULL);
  if (PQpipelineSync(a->pg) != 1)
    give_up("%s", PQerrorMessage(a->pg));
}

static void run(struct apply *a, int64_t messages) {
  rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(a->kafka);
  rd_kafka_message_t **batch = calloc((size_t)a->batch, sizeof *batch);
  if (batch == NULL)
    give_up("out of memory");
  int64_t taken = 0;
  while (taken < messages) {
    ssize_t got = rd_kafka_consume_batch_queue(queue, 1000, batch, (size_t)a->batch);
    if (got <= 0)
      continue;
    size_t count = 0;
    array_begin(&a->account, OID_INT8);
    for (ssize_t i = 0; i < got; i++) {
      if (batch[i]->err == RD_KAFKA_RESP_ERR_NO_ERROR)
        take_message(a, batch[i], count++);
      rd_kafka_message_destroy(batch[i]);
    }
    /* The batch before was at work while this one was read and parsed. */
    if (a->batches > 0)
      settle(a);
    send_batch(a, count);
    a->batches++;
    taken += (int64_t)count;
  }
  if (a->batches > 0)
    settle(a);
  a->applied = taken;
  free(batch);
  rd_kafka_queue_destroy(queue);
}

int main(int argc, char **argv) {
  struct apply a = {.batch = argument_number(argc, argv, "batch", 1000)};
  if (a.batch < 1 || a.batch > BATCH_MAX)
    give_up("batch: 1 to %d", BATCH_MAX);
  struct array *arrays[] = {&a.id, &a.account, &a.partition, &a.offset};
  for (int i = 0; i < 4; i++)
    array_init(arrays[i], BATCH_MAX);
  a.ids = malloc(BATCH_MAX * sizeof *a.ids);
  a.pg = PQconnectdb(argument(argc, argv, "database", NULL));
  if (a.ids == NULL || PQstatus(a.pg) != CONNECTION_OK)
    give_up("%s", PQerrorMessage(a.pg));
  prepare(&a);
  open_consumer(&a, argument(argc, argv, "brokers", NULL), argument(argc, argv, "topic", NULL));
  int64_t begun = now_ns();
  run(&a, argument_number(argc, argv, "messages", 0));
  printf("{\"applied\": %lld, \"batches\": %lld, \"seconds\": %.4f}\n", (long long)a.applied, (long long)a.batches,
         (double)(now_ns() - begun) / 1e9);
  for (int i = 0; i < 4; i++)
    free(arrays[i]->bytes);
  free(a.ids);
  rd_kafka_consumer_close(a.kafka);
  rd_kafka_destroy(a.kafka);
  PQfinish(a.pg);
  return 0;
}
