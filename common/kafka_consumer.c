/* See kafka_consumer.h. librdkafka's event API: no callbacks, everything comes through the consumer queue. */
#include "common/kafka_consumer.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "common/kafka_conf.h"
#include "common/loop.h"
#include "common/memory.h"

/* What librdkafka may hold beside what was taken from it. The loop drains it all the time, so it is seldom full; a full
 * queue makes librdkafka 2.0.2 pause for a second. */
#define FETCH_QUEUE_MESSAGES 20000
#define FETCH_QUEUE_KBYTES   8192
/* A reader lets it fill up: whatever librdkafka has is what is there until it looks again. */
#define READER_QUEUE_MESSAGES 50000
/* A slow handler is no reason to leave the group: a dead process is found by its session. */
#define POLL_INTERVAL_MS 86400000

/* A partition that is fetched. */
struct fetched {
  char *topic;
  int32_t partition;
  int place;
  bool paused;
  rd_kafka_topic_t *handle; /* of its records, once one has come; compared only */
};

struct txb_kafka_consumer {
  rd_kafka_t *client;
  rd_kafka_queue_t *queue;
  int fd;
  char *cluster_id;
  struct fetched *fetched;
  size_t fetched_count, fetched_capacity, last;
  rd_kafka_event_t *rebalance; /* the ASSIGNED, REVOKED or LOST at hand */
  bool answered;               /* it needs no answer any more */
  bool assigned;               /* once at least, be it nothing */
  bool leaving, left, abandoned;
  struct txb_header *headers; /* scratch */
  size_t headers_capacity;
  struct txb_kafka_weather weather;
  bool back; /* UP is to be told */
};

/* ---- opening --------------------------------------------------------------------------------- */

/* Ours, that a user may change (under either name): a resumed partition waits for the fetch under way to end; new
 * topics and partitions are looked for; what one fetch brings of a partition is held on top of its share of the buffer;
 * and a fetch is held as a whole until the last of its records is done with. */
static const struct {
  const char *name, *alias, *value;
} defaults[] = {{"fetch.wait.max.ms", "", "100"},
                {"topic.metadata.refresh.interval.ms", "", "30000"},
                {"fetch.max.bytes", "", "4194304"},
                {"max.partition.fetch.bytes", "fetch.message.max.bytes", "262144"}};

static enum txb_rc configure_defaults(const struct txb_kafka_cluster *cluster, rd_kafka_conf_t *conf,
                                      struct txb_error *err) {
  for (size_t i = 0; i < TXB_ARRAY_SIZE(defaults); i++) {
    bool given = false;
    for (const char *const *o = cluster->options; o != NULL && o[0] != NULL; o += 2)
      given = given || strcmp(o[0], defaults[i].name) == 0 || strcmp(o[0], defaults[i].alias) == 0;
    if (!given)
      TXB_TRY(txb_kafka_conf_set(conf, defaults[i].name, defaults[i].value, err));
  }
  return TXB_OK;
}

static enum txb_rc configure_member(const struct txb_kafka_consumer_options *o, rd_kafka_conf_t *conf,
                                    struct txb_error *err) {
  TXB_TRY(txb_kafka_conf_set_int(conf, "session.timeout.ms", o->session_timeout_ms, err));
  int heartbeat_ms = o->session_timeout_ms / 10 < 3000 ? o->session_timeout_ms / 10 : 3000;
  return txb_kafka_conf_set_int(conf, "heartbeat.interval.ms", heartbeat_ms > 1 ? heartbeat_ms : 1, err);
}

static enum txb_rc configure(const struct txb_kafka_consumer_options *o, rd_kafka_conf_t *conf, struct txb_error *err) {
  /* auto.offset.reset: the position is the database's; what Kafka no longer has is told, never jumped over. */
  static const char *const fixed[][2] = {
      {"enable.auto.commit", "false"},       {"enable.auto.offset.store", "false"},
      {"auto.offset.reset", "error"},        {"partition.assignment.strategy", "cooperative-sticky"},
      {"isolation.level", "read_committed"}, {"enable.partition.eof", "true"},
      {"allow.auto.create.topics", "false"},
  };
  TXB_TRY(configure_defaults(&o->cluster, conf, err));
  for (size_t i = 0; i < TXB_ARRAY_SIZE(fixed); i++)
    TXB_TRY(txb_kafka_conf_set(conf, fixed[i][0], fixed[i][1], err));
  TXB_TRY(txb_kafka_conf_set(conf, "group.id", o->group, err));
  /* A reader is told of a topic that is not there soon: it did not just make it. */
  TXB_TRY(o->topics != NULL ? configure_member(o, conf, err)
                            : txb_kafka_conf_set(conf, "topic.metadata.propagation.max.ms", "5000", err));
  TXB_TRY(txb_kafka_conf_set_int(conf, "max.poll.interval.ms", POLL_INTERVAL_MS, err));
  TXB_TRY(txb_kafka_conf_set_int(conf, "queued.min.messages",
                                 o->topics != NULL ? FETCH_QUEUE_MESSAGES : READER_QUEUE_MESSAGES, err));
  TXB_TRY(txb_kafka_conf_set_int(conf, "queued.max.messages.kbytes", FETCH_QUEUE_KBYTES, err));
  rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_REBALANCE | RD_KAFKA_EVENT_OFFSET_COMMIT | RD_KAFKA_EVENT_ERROR);
  return TXB_OK;
}

static void conf_free(rd_kafka_conf_t **conf) {
  if (*conf != NULL)
    rd_kafka_conf_destroy(*conf);
}

static void list_free(rd_kafka_topic_partition_list_t **list) {
  if (*list != NULL)
    rd_kafka_topic_partition_list_destroy(*list);
}

static enum txb_rc list_new(int size, rd_kafka_topic_partition_list_t **out, struct txb_error *err) {
  *out = rd_kafka_topic_partition_list_new(size);
  return *out != NULL ? TXB_OK : TXB_FAIL(err, TXB_FATAL, "out of memory: list of partitions");
}

static enum txb_rc subscribe(struct txb_kafka_consumer *c, const struct txb_kafka_consumer_options *o,
                             struct txb_error *err) {
  TXB_CLEANUP(list_free) rd_kafka_topic_partition_list_t *topics = NULL;
  TXB_TRY(list_new(4, &topics, err));
  for (const char *const *t = o->topics; *t != NULL; t++)
    rd_kafka_topic_partition_list_add(topics, *t, RD_KAFKA_PARTITION_UA);
  rd_kafka_resp_err_t code = rd_kafka_subscribe(c->client, topics);
  return code == RD_KAFKA_RESP_ERR_NO_ERROR
             ? TXB_OK
             : TXB_KAFKA_FAIL(err, code, NULL, "subscribing to the topics of group %s", o->group);
}

static void consumer_free(struct txb_kafka_consumer **c) {
  txb_kafka_consumer_close(*c);
}

enum txb_rc txb_kafka_consumer_open(const struct txb_kafka_consumer_options *options, struct txb_kafka_consumer **out,
                                    struct txb_error *err) {
  TXB_CLEANUP(conf_free) rd_kafka_conf_t *conf = NULL;
  TXB_CLEANUP(consumer_free) struct txb_kafka_consumer *c = NULL;
  void *memory = NULL;
  TXB_TRY(txb_alloc(sizeof *c, &memory, err));
  c = memory;
  c->fd = -1;
  c->answered = true;
  /* A pipe's or an eventfd's writer: librdkafka writes eight bytes when its queue stops being empty, which is what an
   * eventfd takes. */
  TXB_TRY(txb_wake_open(&c->fd, err));
  TXB_TRY(txb_kafka_conf_new(&options->cluster, &conf, err));
  TXB_TRY(configure(options, conf, err));
  TXB_TRY(txb_kafka_client_new(RD_KAFKA_CONSUMER, txb_steal(conf), &c->client, err));
  (void)rd_kafka_poll_set_consumer(c->client); /* errors come through the same queue */
  c->queue = rd_kafka_queue_get_consumer(c->client);
  static const uint64_t one = 1;
  rd_kafka_queue_io_event_enable(c->queue, c->fd, &one, sizeof one);
  if (options->topics != NULL)
    TXB_TRY(subscribe(c, options, err));
  txb_wake_signal(c->fd);
  *out = txb_steal(c);
  return TXB_OK;
}

/* librdkafka before 2.3.0 aborts the process when a consumer is destroyed that has joined the group and got no answer
 * yet (its issue 4312: no state of the assignor, asserted to be there). Such a client is left alone instead: its
 * threads are idle, and the process is about to end. To be asked before the group is left. */
static bool destroy_would_abort(const struct txb_kafka_consumer *c) {
  if (rd_kafka_version() >= 0x02030000 || c->assigned)
    return false;
  const char *protocol = rd_kafka_rebalance_protocol(c->client); /* known from the join on */
  return protocol == NULL || strcmp(protocol, "NONE") != 0;
}

/* Where they can be found: by a debugger, and by a leak checker. */
static rd_kafka_t *volatile left_alone[16];
static atomic_uint left_alone_count;

/* Without a close of its own: who has not left by now is timed out by the group. */
static void destroy_client(struct txb_kafka_consumer *c) {
  if (c->leaving ? c->abandoned : destroy_would_abort(c))
    left_alone[atomic_fetch_add(&left_alone_count, 1) % TXB_ARRAY_SIZE(left_alone)] = c->client;
  else
    rd_kafka_destroy_flags(c->client, c->left ? 0 : RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
}

void txb_kafka_consumer_close(struct txb_kafka_consumer *c) {
  if (c == NULL)
    return;
  if (c->rebalance != NULL)
    rd_kafka_event_destroy(c->rebalance);
  if (c->queue != NULL) {
    rd_kafka_queue_io_event_enable(c->queue, -1, NULL, 0);
    rd_kafka_queue_destroy(c->queue);
  }
  if (c->client != NULL)
    destroy_client(c);
  for (size_t i = 0; i < c->fetched_count; i++)
    txb_free(c->fetched[i].topic);
  txb_free(c->fetched);
  txb_free(c->headers);
  txb_free(c->cluster_id);
  if (c->fd >= 0)
    close(c->fd);
  txb_free(c);
}

int txb_kafka_consumer_fd(const struct txb_kafka_consumer *c) {
  return c->fd;
}

const char *txb_kafka_consumer_cluster_id(struct txb_kafka_consumer *c) {
  if (c->cluster_id == NULL) {
    char *id = rd_kafka_clusterid(c->client, 0);
    if (id != NULL && txb_strdup(id, &c->cluster_id, NULL) != TXB_OK)
      c->cluster_id = NULL; /* asked again next time */
    if (id != NULL)
      rd_kafka_mem_free(c->client, id);
  }
  return c->cluster_id != NULL ? c->cluster_id : "";
}

/* ---- partitions that are fetched ------------------------------------------------------------- */

static struct fetched *find(struct txb_kafka_consumer *c, const char *topic, int32_t partition) {
  for (size_t i = 0; i < c->fetched_count; i++)
    if (c->fetched[i].partition == partition && strcmp(c->fetched[i].topic, topic) == 0)
      return &c->fetched[i];
  return NULL;
}

/* Most records come from the partition of the one before. */
static struct fetched *find_by_handle(struct txb_kafka_consumer *c, const rd_kafka_message_t *m) {
  for (size_t n = 0; n < c->fetched_count; n++) {
    size_t i = (c->last + n) % c->fetched_count;
    if (c->fetched[i].handle == m->rkt && c->fetched[i].partition == m->partition) {
      c->last = i;
      return &c->fetched[i];
    }
  }
  struct fetched *f = find(c, rd_kafka_topic_name(m->rkt), m->partition);
  if (f != NULL)
    f->handle = m->rkt;
  return f;
}

static enum txb_rc assigned_error(rd_kafka_error_t *error, const char *doing, const char *topic, int32_t partition,
                                  struct txb_error *err) {
  if (error == NULL)
    return TXB_OK;
  enum txb_rc rc = TXB_KAFKA_FAIL(err, rd_kafka_error_code(error), rd_kafka_error_string(error), "%s %s partition %d",
                                  doing, topic, (int)partition);
  rd_kafka_error_destroy(error);
  return rc;
}

/* A pause outlives an assignment: it is taken back before the partition goes, so that the next start of it runs. */
static void forget(struct txb_kafka_consumer *c, struct fetched *f, rd_kafka_topic_partition_list_t *list) {
  rd_kafka_topic_partition_list_add(list, f->topic, f->partition);
  if (f->paused)
    (void)rd_kafka_resume_partitions(c->client, list);
  txb_free(f->topic);
  *f = c->fetched[--c->fetched_count];
}

enum txb_rc txb_kafka_consumer_unfetch(struct txb_kafka_consumer *c, const char *topic, int32_t partition,
                                       struct txb_error *err) {
  struct fetched *f = find(c, topic, partition);
  if (f == NULL)
    return TXB_OK;
  TXB_CLEANUP(list_free) rd_kafka_topic_partition_list_t *list = NULL;
  TXB_TRY(list_new(1, &list, err));
  forget(c, f, list);
  return assigned_error(rd_kafka_incremental_unassign(c->client, list), "no longer fetching", topic, partition, err);
}

enum txb_rc txb_kafka_consumer_fetch(struct txb_kafka_consumer *c, const char *topic, int32_t partition, int64_t offset,
                                     int place, struct txb_error *err) {
  TXB_CLEANUP(list_free) rd_kafka_topic_partition_list_t *list = NULL;
  TXB_CLEANUP(txb_free_ptr) char *name = NULL;
  TXB_TRY(txb_kafka_consumer_unfetch(c, topic, partition, err)); /* that and the new start make a barrier: nothing
                                                                    fetched before comes through */
  if (c->fetched_count == c->fetched_capacity) {
    void *grown = c->fetched;
    size_t capacity = c->fetched_capacity == 0 ? 16 : c->fetched_capacity * 2;
    TXB_TRY(txb_realloc_array(&grown, capacity, sizeof *c->fetched, err));
    c->fetched = grown;
    c->fetched_capacity = capacity;
  }
  TXB_TRY(txb_strdup(topic, &name, err));
  TXB_TRY(list_new(1, &list, err));
  rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
  TXB_TRY(assigned_error(rd_kafka_incremental_assign(c->client, list), "fetching", topic, partition, err));
  c->fetched[c->fetched_count++] = (struct fetched){.topic = txb_steal(name), .partition = partition, .place = place};
  return TXB_OK;
}

enum txb_rc txb_kafka_consumer_pause(struct txb_kafka_consumer *c, const char *topic, int32_t partition,
                                     struct txb_error *err) {
  TXB_CLEANUP(list_free) rd_kafka_topic_partition_list_t *list = NULL;
  struct fetched *f = find(c, topic, partition);
  if (f == NULL)
    return TXB_OK;
  TXB_TRY(list_new(1, &list, err));
  rd_kafka_topic_partition_t *one = rd_kafka_topic_partition_list_add(list, topic, partition);
  rd_kafka_resp_err_t code = rd_kafka_pause_partitions(c->client, list);
  code = code == RD_KAFKA_RESP_ERR_NO_ERROR ? one->err : code;
  f->paused = code == RD_KAFKA_RESP_ERR_NO_ERROR;
  return code == RD_KAFKA_RESP_ERR_NO_ERROR
             ? TXB_OK
             : TXB_KAFKA_FAIL(err, code, NULL, "pausing %s partition %d", topic, (int)partition);
}

/* The seek is there because it wakes librdkafka's thread for the broker: after a resume alone that one goes on idling
 * for up to a second (2.0.2). */
enum txb_rc txb_kafka_consumer_resume(struct txb_kafka_consumer *c, const char *topic, int32_t partition,
                                      int64_t offset, struct txb_error *err) {
  TXB_CLEANUP(list_free) rd_kafka_topic_partition_list_t *list = NULL;
  struct fetched *f = find(c, topic, partition);
  if (f == NULL)
    return TXB_OK;
  TXB_TRY(list_new(1, &list, err));
  rd_kafka_topic_partition_t *one = rd_kafka_topic_partition_list_add(list, topic, partition);
  rd_kafka_resp_err_t code = rd_kafka_resume_partitions(c->client, list);
  code = code == RD_KAFKA_RESP_ERR_NO_ERROR ? one->err : code;
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_KAFKA_FAIL(err, code, NULL, "resuming %s partition %d", topic, (int)partition);
  f->paused = false;
  one->offset = offset;
  return assigned_error(rd_kafka_seek_partitions(c->client, list, 0), "resuming", topic, partition, err);
}

enum txb_rc txb_kafka_consumer_commit(struct txb_kafka_consumer *c, const char *topic, int32_t partition,
                                      int64_t offset, uint64_t token, struct txb_error *err) {
  TXB_CLEANUP(list_free) rd_kafka_topic_partition_list_t *list = NULL;
  TXB_TRY(list_new(1, &list, err));
  rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
  rd_kafka_resp_err_t code = rd_kafka_commit_queue(c->client, list, c->queue, NULL, (void *)(uintptr_t)token);
  if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_OK;
  return TXB_KAFKA_FAIL(err, code, NULL, "committing offset %lld of %s partition %d", (long long)offset, topic,
                        (int)partition);
}

/* ---- rebalances ------------------------------------------------------------------------------ */

enum txb_rc txb_kafka_consumer_give_back(struct txb_kafka_consumer *c, struct txb_error *err) {
  TXB_ASSERT(c->rebalance != NULL && !c->answered);
  TXB_CLEANUP(list_free) rd_kafka_topic_partition_list_t *list = NULL;
  const rd_kafka_topic_partition_list_t *revoked = rd_kafka_event_topic_partition_list(c->rebalance);
  TXB_TRY(list_new(revoked->cnt, &list, err));
  for (int i = 0; i < revoked->cnt; i++) {
    struct fetched *f = find(c, revoked->elems[i].topic, revoked->elems[i].partition);
    if (f == NULL) /* librdkafka refuses what was never added */
      continue;
    forget(c, f, list);
  }
  c->answered = true;
  return assigned_error(rd_kafka_incremental_unassign(c->client, list), "giving back partitions,", "all", list->cnt,
                        err);
}

/* Nothing is fetched yet: the answer to an assignment is an empty one, and the group goes on. */
static enum txb_rc accept_assignment(struct txb_kafka_consumer *c, struct txb_error *err) {
  TXB_CLEANUP(list_free) rd_kafka_topic_partition_list_t *none = NULL;
  TXB_TRY(list_new(1, &none, err));
  return assigned_error(rd_kafka_incremental_assign(c->client, none), "accepting an assignment,", "none", 0, err);
}

static enum txb_rc on_rebalance(struct txb_kafka_consumer *c, rd_kafka_event_t *event, struct txb_kafka_notice *out,
                                struct txb_error *err) {
  TXB_ASSERT(c->answered); /* librdkafka waits for the answer before it asks again */
  c->rebalance = event;
  out->count = (size_t)rd_kafka_event_topic_partition_list(event)->cnt;
  if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
    out->kind = TXB_KAFKA_ASSIGNED;
    c->assigned = true;
    return accept_assignment(c, err);
  }
  c->answered = false;
  out->kind = rd_kafka_assignment_lost(c->client) ? TXB_KAFKA_LOST : TXB_KAFKA_REVOKED;
  return TXB_OK;
}

void txb_kafka_consumer_partition(const struct txb_kafka_consumer *c, size_t index, const char **topic_out,
                                  int32_t *partition_out) {
  const rd_kafka_topic_partition_list_t *list = rd_kafka_event_topic_partition_list(c->rebalance);
  TXB_ASSERT(index < (size_t)list->cnt);
  *topic_out = list->elems[index].topic;
  *partition_out = list->elems[index].partition;
}

enum txb_rc txb_kafka_consumer_leave(struct txb_kafka_consumer *c, struct txb_error *err) {
  if (c->leaving)
    return TXB_OK;
  c->leaving = true;
  c->abandoned = destroy_would_abort(c);
  txb_wake_signal(c->fd);
  rd_kafka_error_t *error = rd_kafka_consumer_close_queue(c->client, c->queue);
  return assigned_error(error, "leaving the group,", "partitions of", 0, err);
}

/* ---- records --------------------------------------------------------------------------------- */

/* A record stays in the event that brought it. */
static const rd_kafka_message_t *message_of(const void *ref) {
  const rd_kafka_message_t *const *slot = ref;
  return *slot;
}

struct held {
  const rd_kafka_message_t *message; /* first: see message_of */
  rd_kafka_event_t *event;
};

void txb_kafka_consumer_release(void *ref) {
  struct held *h = ref;
  rd_kafka_event_destroy(h->event);
  txb_free(h);
}

enum txb_rc txb_kafka_consumer_headers(struct txb_kafka_consumer *c, const void *ref, struct txb_record *record,
                                       struct txb_error *err) {
  rd_kafka_headers_t *headers = NULL;
  record->headers = NULL;
  record->header_count = 0;
  if (rd_kafka_message_headers(message_of(ref), &headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_OK; /* none, or librdkafka can't read them */
  size_t count = rd_kafka_header_cnt(headers);
  if (count > c->headers_capacity) {
    void *grown = c->headers;
    TXB_TRY(txb_realloc_array(&grown, count + 16, sizeof *c->headers, err));
    c->headers = grown;
    c->headers_capacity = count + 16;
  }
  for (size_t i = 0; i < count; i++) {
    const char *name = "";
    const void *value = NULL;
    size_t size = 0;
    (void)rd_kafka_header_get_all(headers, i, &name, &value, &size);
    c->headers[i] = (struct txb_header){.name = txb_slice_text(name), .value = txb_slice_of(value, size)};
  }
  record->headers = c->headers;
  record->header_count = count;
  return TXB_OK;
}

static enum txb_rc on_record(struct txb_kafka_consumer *c, const rd_kafka_message_t *m, rd_kafka_event_t *event,
                             struct txb_kafka_notice *out, struct txb_error *err) {
  const struct fetched *f = find_by_handle(c, m);
  if (f == NULL) { /* given back meanwhile */
    rd_kafka_event_destroy(event);
    return TXB_AGAIN;
  }
  void *memory = NULL;
  enum txb_rc rc = txb_alloc(sizeof(struct held), &memory, err);
  if (rc != TXB_OK) {
    rd_kafka_event_destroy(event);
    return rc;
  }
  struct held *h = memory;
  *h = (struct held){.message = m, .event = event};
  rd_kafka_timestamp_type_t type;
  out->kind = TXB_KAFKA_RECORD;
  out->topic = f->topic;
  out->partition = f->partition;
  out->place = f->place;
  out->offset = m->offset;
  out->ref = h;
  out->record = (struct txb_record){.cluster = txb_slice_text(txb_kafka_consumer_cluster_id(c)),
                                    .topic = txb_slice_text(f->topic),
                                    .partition = f->partition,
                                    .offset = m->offset,
                                    .timestamp_ms = rd_kafka_message_timestamp(m, &type),
                                    .key = txb_slice_of(m->key, m->key_len),
                                    .value = txb_slice_of(m->payload, m->len)};
  rc = txb_kafka_consumer_headers(c, h, &out->record, err);
  if (rc != TXB_OK)
    txb_kafka_consumer_release(h);
  return rc;
}

/* ---- notices --------------------------------------------------------------------------------- */

/* An error of one partition: the end of it, or an offset that is not there. TXB_AGAIN: nothing to tell. */
static enum txb_rc on_partition_error(struct txb_kafka_consumer *c, rd_kafka_resp_err_t code, const char *topic,
                                      int32_t partition, int64_t offset, struct txb_kafka_notice *out) {
  const struct fetched *f = find(c, topic, partition);
  if (f == NULL)
    return TXB_AGAIN;
  out->topic = f->topic;
  out->partition = f->partition;
  out->place = f->place;
  out->offset = offset;
  if (code == RD_KAFKA_RESP_ERR__PARTITION_EOF)
    out->kind = TXB_KAFKA_END;
  else if (code == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET || code == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE)
    out->kind = TXB_KAFKA_RANGE;
  else {
    out->kind = TXB_KAFKA_DOWN;
    out->rc = TXB_KAFKA_FAIL(&out->err, code, NULL, "%s partition %d", f->topic, (int)f->partition);
  }
  return TXB_OK;
}

static enum txb_rc on_error(struct txb_kafka_consumer *c, rd_kafka_event_t *event, struct txb_kafka_notice *out) {
  rd_kafka_resp_err_t code = rd_kafka_event_error(event);
  rd_kafka_topic_partition_t *place = rd_kafka_event_topic_partition(event);
  if (place != NULL) {
    enum txb_rc rc = on_partition_error(c, code, place->topic, place->partition, place->offset, out);
    rd_kafka_topic_partition_destroy(place);
    return rc;
  }
  char text[300];
  if (code == RD_KAFKA_RESP_ERR__FATAL) {
    code = rd_kafka_fatal_error(c->client, text, sizeof text);
    (void)TXB_KAFKA_FAIL(&out->err, code, text, "Kafka client");
    out->rc = out->err.rc = TXB_FATAL;
  } else if (txb_kafka_weather_error(&c->weather, code, rd_kafka_event_error_string(event))) {
    out->rc = txb_kafka_weather_fail(&c->weather, code, rd_kafka_event_error_string(event), &out->err);
  } else {
    return TXB_AGAIN;
  }
  out->kind = TXB_KAFKA_DOWN;
  return TXB_OK;
}

static void on_committed(rd_kafka_event_t *event, struct txb_kafka_notice *out) {
  rd_kafka_resp_err_t code = rd_kafka_event_error(event);
  const rd_kafka_topic_partition_list_t *list = rd_kafka_event_topic_partition_list(event);
  for (int i = 0; code == RD_KAFKA_RESP_ERR_NO_ERROR && list != NULL && i < list->cnt; i++)
    code = list->elems[i].err;
  out->kind = TXB_KAFKA_COMMITTED;
  out->token = (uint64_t)(uintptr_t)rd_kafka_event_opaque(event);
  out->rc = code == RD_KAFKA_RESP_ERR_NO_ERROR ? TXB_OK : TXB_KAFKA_FAIL(&out->err, code, NULL, "committing an offset");
}

/* TXB_AGAIN: this event tells nothing. Takes the event. */
static enum txb_rc translate(struct txb_kafka_consumer *c, rd_kafka_event_t *event, struct txb_kafka_notice *out,
                             struct txb_error *err) {
  enum txb_rc rc = TXB_AGAIN;
  switch (rd_kafka_event_type(event)) {
  case RD_KAFKA_EVENT_FETCH: {
    const rd_kafka_message_t *m = rd_kafka_event_message_next(event);
    if (m == NULL)
      break;
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
      rc = on_partition_error(c, m->err, rd_kafka_topic_name(m->rkt), m->partition, m->offset, out);
      break;
    }
    c->back = txb_kafka_weather_fair(&c->weather) || c->back;
    return on_record(c, m, event, out, err);
  }
  case RD_KAFKA_EVENT_REBALANCE: /* what is taken away may be so because the group can't be reached */
    if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
      c->back = txb_kafka_weather_fair(&c->weather) || c->back;
    return on_rebalance(c, event, out, err);
  case RD_KAFKA_EVENT_OFFSET_COMMIT:
    on_committed(event, out);
    if (out->rc == TXB_OK)
      c->back = txb_kafka_weather_fair(&c->weather) || c->back;
    rc = TXB_OK;
    break;
  case RD_KAFKA_EVENT_ERROR:
    rc = on_error(c, event, out);
    break;
  default:
    break;
  }
  rd_kafka_event_destroy(event);
  return rc;
}

enum txb_rc txb_kafka_consumer_next(struct txb_kafka_consumer *c, struct txb_kafka_notice *out, struct txb_error *err) {
  for (;;) {
    *out = (struct txb_kafka_notice){.rc = TXB_OK};
    if (c->rebalance != NULL && c->answered) {
      rd_kafka_event_destroy(c->rebalance);
      c->rebalance = NULL;
    }
    if (c->back) {
      c->back = false;
      out->kind = TXB_KAFKA_UP;
      return TXB_OK;
    }
    rd_kafka_event_t *event = rd_kafka_queue_poll(c->queue, 0);
    if (event == NULL) {
      /* The descriptor is cleared before the queue is looked at for the last time: what comes in between signals it
       * again. */
      txb_wake_clear(c->fd);
      event = rd_kafka_queue_poll(c->queue, 0);
    }
    if (event == NULL) {
      bool left = c->leaving && !c->left && rd_kafka_consumer_closed(c->client);
      c->left = c->left || left;
      out->kind = TXB_KAFKA_LEFT;
      return left ? TXB_OK : TXB_AGAIN;
    }
    enum txb_rc rc = translate(c, event, out, err);
    if (rc != TXB_AGAIN)
      return rc;
  }
}

/* ---- questions ------------------------------------------------------------------------------- */

enum txb_rc txb_kafka_consumer_range(struct txb_kafka_consumer *c, const char *topic, int32_t partition, int timeout_ms,
                                     int64_t *low_out, int64_t *high_out, struct txb_error *err) {
  int64_t low = 0, high = 0;
  rd_kafka_resp_err_t code = rd_kafka_query_watermark_offsets(c->client, topic, partition, &low, &high, timeout_ms);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_KAFKA_FAIL(err, code, NULL, "asking for the first and last offset of %s partition %d", topic,
                          (int)partition);
  *low_out = low;
  *high_out = high;
  return TXB_OK;
}

enum txb_rc txb_kafka_consumer_partitions(struct txb_kafka_consumer *c, const char *topic, int timeout_ms,
                                          int *count_out, struct txb_error *err) {
  const struct rd_kafka_metadata *metadata = NULL;
  rd_kafka_topic_t *handle = rd_kafka_topic_new(c->client, topic, NULL);
  if (handle == NULL)
    return TXB_KAFKA_FAIL(err, rd_kafka_last_error(), NULL, "topic %s", topic);
  rd_kafka_resp_err_t code = rd_kafka_metadata(c->client, 0, handle, &metadata, timeout_ms);
  rd_kafka_topic_destroy(handle);
  if (code == RD_KAFKA_RESP_ERR_NO_ERROR && metadata->topic_cnt == 1)
    code = metadata->topics[0].err;
  int count = code == RD_KAFKA_RESP_ERR_NO_ERROR && metadata->topic_cnt == 1 ? metadata->topics[0].partition_cnt : 0;
  if (metadata != NULL)
    rd_kafka_metadata_destroy(metadata);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    return TXB_KAFKA_FAIL(err, code, NULL, "asking for the partitions of topic %s", topic);
  *count_out = count;
  return TXB_OK;
}
