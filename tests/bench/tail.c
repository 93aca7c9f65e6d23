/* The ear: a raw consumer of one topic, no group, that reads the stamps of bench_load and tells how old they were.
 *
 *   bench_tail --brokers LIST --topic NAME [--skip N]
 *
 * It says "ready" on stdout once it is at the end of every partition, then listens. A line "expect N" on stdin says
 * how many different numbers there are to hear in all; it ends when it has heard them, or 30 s later. Messages
 * without a stamp count as others.
 *
 * Prints one JSON object: heard, repeated, others, missing, p50_ms, p90_ms, p99_ms, max_ms (without the first --skip
 * numbers), rate.
 */
#include <errno.h>
#include <fcntl.h>
#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "measure.h"

#define PATIENCE_NS INT64_C(30000000000)

struct ear {
  rd_kafka_t *kafka;
  struct samples ages;
  unsigned char *heard_bits;
  size_t bits_size;
  int64_t heard, repeated, others, expected, skip;
  int64_t first_ns, last_ns, counted;
  int64_t give_up_at;
};

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
  char text[256];
  if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK)
    give_up("%s", text);
}

static void assign_all(struct ear *e, const char *topic) {
  const struct rd_kafka_metadata *meta = NULL;
  rd_kafka_topic_t *handle = rd_kafka_topic_new(e->kafka, topic, NULL);
  rd_kafka_resp_err_t code = rd_kafka_metadata(e->kafka, 0, handle, &meta, 10000);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR || meta->topic_cnt != 1 || meta->topics[0].partition_cnt == 0)
    give_up("topic %s: %s", topic, rd_kafka_err2str(code));
  rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(meta->topics[0].partition_cnt);
  for (int p = 0; p < meta->topics[0].partition_cnt; p++)
    rd_kafka_topic_partition_list_add(list, topic, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
  code = rd_kafka_assign(e->kafka, list);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    give_up("assign: %s", rd_kafka_err2str(code));
  int open = list->cnt;
  while (open > 0) {
    rd_kafka_message_t *m = rd_kafka_consumer_poll(e->kafka, 10000);
    if (m == NULL)
      give_up("topic %s: its end is not reached", topic);
    open -= m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
    rd_kafka_message_destroy(m);
  }
  rd_kafka_topic_partition_list_destroy(list);
  rd_kafka_metadata_destroy(meta);
  rd_kafka_topic_destroy(handle);
}

static void open_consumer(struct ear *e, const char *brokers) {
  char text[256];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", brokers);
  set(conf, "group.id", "bench-tail");
  set(conf, "enable.auto.commit", "false");
  set(conf, "enable.partition.eof", "true");
  set(conf, "fetch.wait.max.ms", "100");
  e->kafka = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
  if (e->kafka == NULL)
    give_up("consumer: %s", text);
  rd_kafka_poll_set_consumer(e->kafka);
}

/* True when the number is new. */
static bool note_number(struct ear *e, int64_t n) {
  size_t byte = (size_t)n / 8;
  if (byte >= e->bits_size) {
    size_t size = byte * 2 + 65536;
    e->heard_bits = realloc(e->heard_bits, size);
    if (e->heard_bits == NULL)
      give_up("out of memory");
    memset(e->heard_bits + e->bits_size, 0, size - e->bits_size);
    e->bits_size = size;
  }
  unsigned char bit = (unsigned char)(1U << (n % 8));
  bool is_new = (e->heard_bits[byte] & bit) == 0;
  e->heard_bits[byte] |= bit;
  return is_new;
}

static void hear(struct ear *e, const rd_kafka_message_t *m) {
  int64_t now = now_ns();
  long long stamp, n;
  char head[96];
  size_t size = m->len < sizeof head - 1 ? m->len : sizeof head - 1;
  if (m->payload != NULL)
    memcpy(head, m->payload, size);
  head[m->payload != NULL ? size : 0] = '\0';
  if (sscanf(head, "{\"t\":%lld,\"n\":%lld", &stamp, &n) != 2 || n < 0) {
    e->others++;
    return;
  }
  if (!note_number(e, n)) {
    e->repeated++;
    return;
  }
  e->heard++;
  if (n < e->skip)
    return;
  samples_add(&e->ages, now - stamp);
  if (e->counted++ == 0)
    e->first_ns = now;
  e->last_ns = now;
}

static void read_orders(struct ear *e) {
  char text[64];
  ssize_t size = read(STDIN_FILENO, text, sizeof text - 1);
  if (size == 0)
    give_up("stdin closed before an order came");
  if (size < 0)
    return;
  text[size] = '\0';
  long long n;
  if (sscanf(text, "expect %lld", &n) != 1)
    give_up("not an order: %s", text);
  e->expected = n;
  e->give_up_at = now_ns() + PATIENCE_NS;
}

static void listen_until_done(struct ear *e) {
  while (e->expected < 0 || (e->heard < e->expected && now_ns() < e->give_up_at)) {
    rd_kafka_message_t *m = rd_kafka_consumer_poll(e->kafka, 50);
    if (m != NULL) {
      if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR)
        hear(e, m);
      rd_kafka_message_destroy(m);
    }
    if (e->expected < 0 && (m == NULL || e->heard % 64 == 0))
      read_orders(e);
  }
}

int main(int argc, char **argv) {
  struct ear e = {.expected = -1, .skip = argument_number(argc, argv, "skip", 0)};
  open_consumer(&e, argument(argc, argv, "brokers", NULL));
  assign_all(&e, argument(argc, argv, "topic", NULL));
  if (fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK) != 0)
    give_up("stdin: %s", strerror(errno));
  puts("ready");
  fflush(stdout);
  listen_until_done(&e);
  samples_sort(&e.ages);
  double seconds = (double)(e.last_ns - e.first_ns) / 1e9;
  printf("{\"heard\": %lld, \"repeated\": %lld, \"others\": %lld, \"missing\": %lld, \"p50_ms\": %.3f, \"p90_ms\": "
         "%.3f, \"p99_ms\": %.3f, "
         "\"max_ms\": %.3f, \"rate\": %.1f}\n",
         (long long)e.heard, (long long)e.repeated, (long long)e.others, (long long)(e.expected - e.heard),
         samples_quantile_ms(&e.ages, 0.5), samples_quantile_ms(&e.ages, 0.9), samples_quantile_ms(&e.ages, 0.99),
         samples_quantile_ms(&e.ages, 1), seconds > 0 ? (double)(e.counted - 1) / seconds : 0);
  samples_free(&e.ages);
  free(e.heard_bits);
  rd_kafka_consumer_close(e.kafka);
  rd_kafka_destroy(e.kafka);
  return 0;
}
