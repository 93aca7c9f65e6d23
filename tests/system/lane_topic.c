/* A lane's reader of one Kafka partition (consumer/lane_topic.c) as a program, for test_lane_topic.py: commands come as
 * lines on standard input, notices go out as lines of JSON. It waits as the worker does, for what the reader says it waits
 * for and nothing else.
 *
 *   lane_topic BROKERS CLUSTER TOPIC PARTITION [k KEY | t TYPE | f OFFSET:ID]...
 *   bound TO RATE | fetch OFFSET | last OFFSET ID OFFSET | unfetch | pause | resume OFFSET | free | rounds
 */
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/kafka.h"
#include "consumer/lane_page.h"
#include "consumer/lane_reader.h"
#include "consumer/worker_internal.h"

#define MS        INT64_C(1000)
#define KEPT_MAX  100000
#define BYTEA_OID 17
#define TEXT_OID  25

static struct txb_lane_reader *reader;
static struct txb_worker_message *kept[KEPT_MAX]; /* after a free: messages outlive their reader */
static size_t kept_count;
static int64_t rounds;
static bool keeps;

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

/* The arguments of one kind as an array in the server's binary form. */
static struct txb_slice array_of(char **arguments, const char *kind, uint32_t oid, struct txb_buffer *b) {
  uint32_t n = 0;
  for (char **a = arguments; a[0] != NULL; a += 2)
    n += strcmp(a[0], kind) == 0;
  if (n == 0)
    return txb_slice_of(NULL, 0);
  const uint32_t head[] = {1, 0, oid, n, 1};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(head); i++)
    txb_buffer_add_u32(b, head[i]);
  for (char **a = arguments; a[0] != NULL; a += 2)
    if (strcmp(a[0], kind) == 0) {
      txb_buffer_add_u32(b, (uint32_t)strlen(a[1]));
      txb_buffer_add_text(b, a[1]);
    }
  return txb_slice_of(b->data, b->size);
}

/* The first message of the range, if one is told. */
static const struct txb_lane_last *first_of(char **arguments) {
  static struct txb_lane_last first;
  char id[40];
  for (char **a = arguments; a[0] != NULL; a += 2) {
    if (strcmp(a[0], "f") != 0)
      continue;
    if (sscanf(a[1], "%" SCNd64 ":%39s", &first.seq, id) != 2 ||
        txb_uuid_parse(txb_slice_text(id), &first.id, NULL) != TXB_OK)
      fail("no first message");
    return &first;
  }
  return NULL;
}

static void say(json_t *line) {
  json_dumpf(line, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
  putchar('\n');
  json_decref(line);
}

static json_t *text_of(struct txb_slice s) {
  return s.data == NULL ? json_null() : json_stringn(s.data, s.size);
}

static void say_message(const struct txb_lane_notice *n) {
  const struct txb_worker_message *m = n->message;
  char id[37];
  txb_uuid_format(&m->event.id, id);
  if (n->size < (int64_t)(m->record.key.size + m->record.value.size))
    fail("a message says that it holds less than it does");
  say(json_pack("{ss sI ss sI so so so so so sI}", "kind", "record", "offset", (json_int_t)n->offset, "id", id,
                "partition", (json_int_t)m->record.partition, "topic", text_of(m->record.topic), "key",
                text_of(m->record.key), "value", text_of(m->record.value), "type", text_of(m->event.type), "headers",
                text_of(m->headers), "time_us", (json_int_t)m->event.time_us));
}

static void on_notice(struct txb_lane_notice *n) {
  switch (n->kind) {
  case TXB_LANE_RECORD:
    say_message(n);
    if (keeps && kept_count < KEPT_MAX)
      kept[kept_count++] = n->message;
    else
      txb_lane_message_release(n->message);
    return;
  case TXB_LANE_END:
    say(json_pack("{ss sI sb}", "kind", "end", "offset", (json_int_t)n->offset, "more", n->more));
    return;
  case TXB_LANE_RANGE:
    say(json_pack("{ss sI sI}", "kind", "range", "low", (json_int_t)n->offset, "high", (json_int_t)n->high));
    return;
  case TXB_LANE_TROUBLE:
    say(json_pack("{ss ss}", "kind", "trouble", "text", n->err.message));
    return;
  case TXB_LANE_WELL:
    say(json_pack("{ss}", "kind", "well"));
    return;
  case TXB_LANE_HIGHEST:
    fail("a topic has no highest number");
  }
}

static void free_all(void) {
  int64_t from_us = txb_clock_steady_us();
  txb_lane_reader_free(reader);
  reader = NULL;
  say(json_pack("{ss sI}", "kind", "freed", "ms", (json_int_t)((txb_clock_steady_us() - from_us) / MS)));
  for (size_t i = 0; i < kept_count; i++)
    txb_lane_message_release(kept[i]);
  kept_count = 0;
}

static void command(const char *line) {
  int64_t a = 0, b = 0;
  char id[40];
  struct txb_lane_last last = {.seq = -1};
  if (sscanf(line, "bound %" SCNd64 " %" SCNd64, &a, &b) == 2)
    txb_lane_reader_bound(reader, a, false, b);
  else if (sscanf(line, "fetch %" SCNd64, &a) == 1)
    txb_lane_reader_fetch(reader, a, &last);
  else if (sscanf(line, "last %" SCNd64 " %39s %" SCNd64, &last.seq, id, &a) == 3) {
    if (txb_uuid_parse(txb_slice_text(id), &last.id, NULL) != TXB_OK)
      fail("no id");
    txb_lane_reader_fetch(reader, a, &last);
  } else if (sscanf(line, "resume %" SCNd64, &a) == 1)
    txb_lane_reader_resume(reader, a);
  else if (strcmp(line, "unfetch") == 0)
    txb_lane_reader_unfetch(reader);
  else if (strcmp(line, "pause") == 0)
    txb_lane_reader_pause(reader);
  else if (strcmp(line, "keep") == 0)
    keeps = true;
  else if (strcmp(line, "free") == 0)
    free_all();
  else if (strcmp(line, "rounds") == 0)
    say(json_pack("{ss sI}", "kind", "rounds", "n", (json_int_t)rounds));
  else
    fail("no such command");
}

/* False: the input is at its end. */
static bool take_commands(void) {
  static char text[4000];
  static size_t size;
  ssize_t n = read(0, text + size, sizeof text - size - 1);
  if (n <= 0)
    return false;
  size += (size_t)n;
  for (char *end; (end = memchr(text, '\n', size)) != NULL;) {
    *end = '\0';
    command(text);
    size -= (size_t)(end + 1 - text);
    memmove(text, end + 1, size);
  }
  return true;
}

static void take_notices(void) {
  struct txb_lane_notice n;
  struct txb_error err;
  enum txb_rc rc = TXB_OK;
  while (reader != NULL && (rc = txb_lane_reader_next(reader, &n, &err)) == TXB_OK)
    on_notice(&n);
  if (rc != TXB_OK && rc != TXB_AGAIN)
    fail(err.message);
  fflush(stdout);
}

static int pause_ms(void) {
  int64_t due_us = reader != NULL ? txb_lane_reader_due_us(reader) : INT64_MAX;
  int64_t left_us = due_us - txb_clock_steady_us();
  if (due_us == INT64_MAX)
    return -1;
  return left_us <= 0 ? 0 : (int)((left_us + MS - 1) / MS);
}

int main(int argc, char **argv) {
  struct txb_buffer keys, types;
  struct txb_error err;
  if (argc < 5)
    fail("lane_topic BROKERS CLUSTER TOPIC PARTITION ...");
  txb_buffer_init(&keys);
  txb_buffer_init(&types);
  /* A topic that was not there is looked for soon. */
  static const char *const kafka_options[] = {"topic.metadata.refresh.interval.ms", "500", NULL};
  const struct txb_kafka_cluster cluster = {.brokers = argv[1], .options = kafka_options, .client_id = "lane_topic"};
  const struct txb_lane_reader_options options = {.topic = argv[3],
                                                  .lane = 7,
                                                  .keys = array_of(argv + 5, "k", BYTEA_OID, &keys),
                                                  .types = array_of(argv + 5, "t", TEXT_OID, &types),
                                                  .first = first_of(argv + 5),
                                                  .cluster_id = argv[2],
                                                  .from_partition = (int32_t)strtol(argv[4], NULL, 10),
                                                  .kafka = &cluster,
                                                  .group = "lane_topic"};
  if (txb_lane_reader_new(&options, &reader, &err) != TXB_OK)
    fail(err.message);
  txb_buffer_fini(&keys);
  txb_buffer_fini(&types);
  for (bool goes_on = true; goes_on; rounds++) {
    struct pollfd fds[] = {{.fd = 0, .events = POLLIN},
                           reader != NULL ? txb_lane_reader_pollfd(reader) : (struct pollfd){.fd = -1}};
    if (poll(fds, TXB_ARRAY_SIZE(fds), pause_ms()) < 0)
      fail("poll");
    if (fds[0].revents != 0)
      goes_on = take_commands();
    take_notices();
  }
  if (reader != NULL)
    free_all();
  return 0;
}
