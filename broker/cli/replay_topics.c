/* The offsets of Kafka that a replay means, and reading them for a plan. Times become offsets here, once: a job has fixed
 * ends, so that it ends also where somebody goes on writing, it itself perhaps. Nothing is changed anywhere, and no group
 * is joined: a crash leaves nothing. */
#include <inttypes.h>
#include <string.h>

#include "broker/cli/replay.h"
#include "cli_sql.h"
#include "common/clock.h"
#include "common/kafka_inspect.h"
#include "common/kafka_tail.h"
#include "common/memory.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define ASK_MS           10000
#define WAIT_MS          500
#define LOOK_MAX         100000            /* messages, of all lanes, to find the first ones that are meant */
#define QUIET_US         INT64_C(30000000) /* without a message, where there should be one */

static const struct txb_pg_statement lanes_statement = {"cli_replay_lanes", txb_text_cli_replay_lanes};

struct reading {
  const struct txb_cli *cli;
  const struct txb_replay_wish *wish;
  const struct txb_replay_range *times;
  struct txb_kafka_inspect *kafka;
  struct txb_replay_lanes *out;
};

/* ---- lanes ------------------------------------------------------------------------------------------------ */

static enum txb_rc add_lane(struct txb_replay_lanes *lanes, const char *topic, int32_t partition, int64_t from,
                            int64_t to, struct txb_error *err) {
  if (lanes->count == lanes->capacity) {
    size_t capacity = lanes->capacity == 0 ? 16 : lanes->capacity * 2;
    TXB_TRY(txb_regrow_array(&lanes->items, capacity, sizeof(struct txb_replay_lane), err));
    lanes->capacity = capacity;
  }
  struct txb_replay_lane *lane = &lanes->items[lanes->count];
  *lane = (struct txb_replay_lane){.partition = partition, .from = from, .to = to, .first = -1};
  TXB_TRY(txb_strdup(topic, &lane->topic, err));
  lanes->count++;
  return TXB_OK;
}

void txb_replay_lanes_fini(struct txb_replay_lanes *lanes) {
  for (size_t i = 0; i < lanes->count; i++)
    txb_free(lanes->items[i].topic);
  txb_free(lanes->items);
  txb_free(lanes->cluster_id);
  *lanes = (struct txb_replay_lanes){0};
}

int64_t txb_replay_lanes_span(const struct txb_replay_lanes *lanes) {
  int64_t span = 0;
  for (size_t i = 0; i < lanes->count; i++)
    span += lanes->items[i].to - lanes->items[i].from;
  return span;
}

/* ---- where it begins and ends ----------------------------------------------------------------------------- */

static enum txb_rc note_time(void *arg, size_t lane, const struct txb_record *record, bool *more,
                             struct txb_error *err) {
  (void)lane;
  (void)err;
  *(int64_t *)arg = record->timestamp_ms;
  *more = false;
  return TXB_OK;
}

/* The timestamp of the first message that a partition still has; -1: it has none, or it tells none. */
static enum txb_rc oldest_time(const struct reading *r, const char *topic, int32_t partition, int64_t low, int64_t high,
                               int64_t *wall_ms_out, struct txb_error *err) {
  struct txb_replay_lanes lanes = {0};
  *wall_ms_out = -1;
  enum txb_rc rc = add_lane(&lanes, topic, partition, low, high, err);
  if (rc == TXB_OK && low < high)
    rc = txb_replay_topics_each(r->cli, &lanes, note_time, wall_ms_out, err);
  txb_replay_lanes_fini(&lanes);
  return rc;
}

static enum txb_rc too_old(const struct reading *r, const char *topic, int32_t partition, int64_t low, int64_t high,
                           struct txb_error *err) {
  char of[40] = "", text[28];
  int64_t wall_ms;
  struct txb_error ignored; /* without its time the offset says enough */
  if (oldest_time(r, topic, partition, low, high, &wall_ms, &ignored) == TXB_OK && wall_ms >= 0 &&
      wall_ms < INT64_MAX / 1000) {
    txb_clock_format(wall_ms * 1000, text);
    (void)snprintf(of, sizeof(of), ", of %.19sZ", text);
  }
  return REFUSE(err,
                "--from %s lies before what Kafka still has of topic %s, partition %d: its oldest message has offset "
                "%" PRId64 "%s; --from beginning takes it from there",
                r->wish->from.text, topic, (int)partition, low, of);
}

/* Rounded up: a timestamp of Kafka has milliseconds. */
static enum txb_rc offset_at(const struct reading *r, const char *topic, int32_t partition, int64_t wall_us,
                             int64_t none, int64_t *out, struct txb_error *err) {
  int64_t wall_ms = wall_us <= 0 ? 0 : (wall_us - 1) / 1000 + 1, at;
  TXB_TRY(txb_kafka_inspect_offset_at(r->kafka, topic, partition, wall_ms, &at, err));
  *out = at < 0 ? none : at;
  return TXB_OK;
}

/* Where everything that is there is younger than the time, what was dropped may have been as old. */
static enum txb_rc begin_at(const struct reading *r, const char *topic, int32_t partition, int64_t low, int64_t high,
                            int64_t *out, struct txb_error *err) {
  int64_t first, oldest_ms;
  TXB_TRY(offset_at(r, topic, partition, r->times->time_from_us, high, out, err));
  if (low == 0)
    return TXB_OK;
  TXB_TRY(offset_at(r, topic, partition, 0, high, &first, err));
  if (*out > first)
    return TXB_OK;
  TXB_TRY(oldest_time(r, topic, partition, low, high, &oldest_ms, err));
  bool lost = oldest_ms >= 0 && oldest_ms < INT64_MAX / 1000 && oldest_ms * 1000 > r->times->time_from_us;
  return lost ? too_old(r, topic, partition, low, high, err) : TXB_OK;
}

static enum txb_rc above_end(const char *option, const struct txb_replay_bound *bound, const char *topic,
                             int32_t partition, int64_t high, struct txb_error *err) {
  return REFUSE(err, "--%s %s lies above the end of topic %s, partition %d: its next message gets offset %" PRId64,
                option, bound->text, topic, (int)partition, high);
}

static enum txb_rc read_lane(const struct reading *r, const char *topic, int32_t partition, struct txb_error *err) {
  const struct txb_replay_bound *from = &r->wish->from, *to = &r->wish->to;
  int64_t low, high;
  TXB_TRY(txb_kafka_inspect_offsets(r->kafka, topic, partition, &low, &high, err));
  int64_t begin = low, end = high;
  if (from->is_number && from->seq < low)
    return too_old(r, topic, partition, low, high, err);
  if (from->is_number && from->seq > high)
    return above_end("from", from, topic, partition, high, err);
  if (to->is_number && to->seq > high)
    return above_end("to", to, topic, partition, high, err);
  if (from->is_number)
    begin = from->seq;
  else if (r->times->has_time_from)
    TXB_TRY(begin_at(r, topic, partition, low, high, &begin, err));
  if (to->is_number)
    end = to->seq;
  else if (r->times->has_time_to)
    TXB_TRY(offset_at(r, topic, partition, r->times->time_to_us, high, &end, err));
  return begin < end ? add_lane(r->out, topic, partition, begin, end, err) : TXB_OK;
}

static enum txb_rc read_topic(const struct reading *r, const char *topic, struct txb_error *err) {
  const struct txb_replay_wish *w = r->wish;
  int count;
  TXB_TRY(txb_kafka_inspect_partitions(r->kafka, topic, &count, err));
  if (count < 0)
    return REFUSE(err, "Kafka at %s has no topic %s: create it, or correct --topic", r->cli->settings.kafka.brokers,
                  topic);
  for (size_t i = 0; i < w->partition_count; i++)
    if (w->partitions[i] >= count)
      return REFUSE(err, "topic %s has %d partition%s, numbered from 0: there is no %d; correct --partition", topic,
                    count, count == 1 ? "" : "s", (int)w->partitions[i]);
  for (int32_t partition = 0; partition < count; partition++)
    if (txb_replay_wish_has_partition(w, partition))
      TXB_TRY(read_lane(r, topic, partition, err));
  return TXB_OK;
}

static enum txb_rc read_all(struct reading *r, struct txb_error *err) {
  const struct txb_replay_wish *w = r->wish;
  struct txb_kafka_cluster cluster = txb_cli_cluster(r->cli, "txbroker-replay");
  TXB_TRY(txb_kafka_inspect_open(&cluster, ASK_MS, &r->kafka, err));
  TXB_TRY(txb_strdup(txb_kafka_inspect_cluster_id(r->kafka), &r->out->cluster_id, err));
  for (size_t i = 0; i < w->topic_count; i++)
    TXB_TRY(read_topic(r, w->topics[i], err));
  if (r->out->count > 0)
    return TXB_OK;
  return REFUSE(err, "nothing lies from %s to %s in topic %s%s of Kafka: correct --from and --to, or leave them out",
                w->from.text == NULL ? "the beginning" : w->from.text, w->to.text == NULL ? "now" : w->to.text,
                w->topics[0], w->topic_count > 1 ? " and the others" : "");
}

enum txb_rc txb_replay_topics_read(const struct txb_cli *cli, const struct txb_replay_wish *wish,
                                   const struct txb_replay_range *times, struct txb_replay_lanes *out,
                                   struct txb_error *err) {
  struct reading r = {.cli = cli, .wish = wish, .times = times, .out = out};
  *out = (struct txb_replay_lanes){0};
  enum txb_rc rc = read_all(&r, err);
  txb_kafka_inspect_close(r.kafka);
  return rc;
}

enum txb_rc txb_replay_topics_again(struct txb_pg *consumer, int64_t number, const struct txb_replay_wish *wish,
                                    struct txb_replay_lanes *out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  struct txb_pg_params params;
  *out = (struct txb_replay_lanes){0};
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, number);
  TXB_TRY(txb_failed_ask(consumer, &lanes_statement, &params, "txb_reader", &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++) {
    int64_t from = wish->from.is_number ? wish->from.seq : txb_pg_int8(rows, i, 2);
    int64_t to = wish->to.is_number ? wish->to.seq : txb_pg_int8(rows, i, 3);
    TXB_TRY(add_lane(out, txb_pg_text(rows, i, 0), txb_pg_int4(rows, i, 1), from, to, err));
  }
  return txb_strdup(txb_pg_text(rows, 0, 4), &out->cluster_id, err);
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

/* The lanes of one topic: items first to end - 1. */
struct topic_reading {
  const struct txb_replay_lanes *lanes;
  size_t first, end;
  struct txb_tail *tail;
  txb_replay_visit visit;
  void *arg;
};

static size_t lane_of(const struct topic_reading *t, int32_t partition) {
  for (size_t i = t->first; i < t->end; i++)
    if (t->lanes->items[i].partition == partition)
      return i;
  return t->end;
}

static enum txb_rc take(struct topic_reading *t, struct txb_record *record, struct txb_error *err) {
  size_t i = lane_of(t, record->partition);
  bool more = i < t->end && record->offset < t->lanes->items[i].to;
  record->cluster = txb_slice_text(t->lanes->cluster_id);
  if (more)
    TXB_TRY(t->visit(t->arg, i, record, &more, err));
  if (!more || record->offset + 1 >= t->lanes->items[i].to)
    txb_tail_stop(t->tail, record->partition);
  return TXB_OK;
}

/* A cluster that is away for a moment is waited for; librdkafka tries on by itself. */
static enum txb_rc read_on(struct topic_reading *t, const char *brokers, struct txb_error *err) {
  const char *topic = t->lanes->items[t->first].topic;
  int64_t seen_us = txb_clock_steady_us();
  while (!txb_tail_at_end(t->tail)) {
    struct txb_record record;
    enum txb_rc rc = txb_tail_next(t->tail, WAIT_MS, &record, err);
    if (rc == TXB_OK) {
      TXB_TRY(take(t, &record, err));
      seen_us = txb_clock_steady_us();
      continue;
    }
    if (rc != TXB_AGAIN && rc != TXB_RETRY)
      return rc;
    if (txb_clock_steady_us() - seen_us < QUIET_US)
      continue;
    return rc == TXB_RETRY ? rc
                           : TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_KAFKA, "Kafka at %s sends nothing of topic %s",
                                           brokers, topic);
  }
  return TXB_OK;
}

static enum txb_rc read_topic_lanes(const struct txb_cli *cli, struct topic_reading *t, struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) int64_t *offsets = NULL;
  int32_t highest = 0;
  for (size_t i = t->first; i < t->end; i++)
    highest = t->lanes->items[i].partition > highest ? t->lanes->items[i].partition : highest;
  size_t count = (size_t)highest + 1;
  TXB_TRY(txb_regrow_array(&offsets, count, sizeof(int64_t), err));
  for (size_t i = 0; i < count; i++)
    offsets[i] = -1;
  for (size_t i = t->first; i < t->end; i++)
    offsets[t->lanes->items[i].partition] = t->lanes->items[i].from;
  struct txb_tail_options options = {.kafka = txb_cli_cluster(cli, "txbroker-replay"),
                                     .topic = t->lanes->items[t->first].topic,
                                     .partition = -1,
                                     .from = TXB_TAIL_OFFSETS,
                                     .offsets = offsets,
                                     .offset_count = count,
                                     .timeout_ms = ASK_MS};
  TXB_TRY(txb_tail_open(&options, &t->tail, err));
  enum txb_rc rc = read_on(t, cli->settings.kafka.brokers, err);
  txb_tail_close(t->tail);
  return rc;
}

enum txb_rc txb_replay_topics_each(const struct txb_cli *cli, const struct txb_replay_lanes *lanes,
                                   txb_replay_visit visit, void *arg, struct txb_error *err) {
  for (size_t first = 0, end; first < lanes->count; first = end) {
    for (end = first + 1; end < lanes->count; end++)
      if (strcmp(lanes->items[end].topic, lanes->items[first].topic) != 0)
        break;
    struct topic_reading t = {.lanes = lanes, .first = first, .end = end, .visit = visit, .arg = arg};
    TXB_TRY(read_topic_lanes(cli, &t, err));
  }
  return TXB_OK;
}

/* ---- what lies there first -------------------------------------------------------------------------------- */

static enum txb_rc note_lane_first(void *arg, size_t lane, const struct txb_record *record, bool *more,
                                   struct txb_error *err) {
  struct txb_replay_lane *l = &((struct txb_replay_lanes *)arg)->items[lane];
  struct txb_event event;
  (void)err;
  txb_event_parse(record, &event);
  l->first = record->offset;
  l->first_id = event.id;
  *more = false;
  return TXB_OK;
}

enum txb_rc txb_replay_topics_firsts(const struct txb_cli *cli, struct txb_replay_lanes *lanes, struct txb_error *err) {
  return txb_replay_topics_each(cli, lanes, note_lane_first, lanes, err);
}

/* ---- whether there is anything ---------------------------------------------------------------------------- */

/* As the lanes compare: bytes, and a message without a key or type is not meant where some are named. */
static bool is_named(const struct txb_replay_wish *wish, const char *option, struct txb_slice value) {
  const char *text;
  size_t n = 0;
  for (; (text = txb_replay_wish_nth(wish, option, n)) != NULL; n++)
    if (value.data != NULL && txb_slice_equal(value, txb_slice_text(text)))
      return true;
  return n == 0;
}

bool txb_replay_is_meant(const struct txb_replay_wish *wish, const struct txb_record *record,
                         const struct txb_event *event) {
  return is_named(wish, "key", record->key) && is_named(wish, "type", event->type);
}

struct search {
  const struct txb_replay_wish *wish;
  size_t looked;
  bool found, cut;
};

static enum txb_rc look_for_one(void *arg, size_t lane, const struct txb_record *record, bool *more,
                                struct txb_error *err) {
  struct search *s = arg;
  struct txb_event event;
  (void)lane;
  (void)err;
  if (!s->found) {
    txb_event_parse(record, &event);
    s->found = txb_replay_is_meant(s->wish, record, &event);
  }
  s->cut = s->cut || ++s->looked >= LOOK_MAX;
  *more = !s->found && !s->cut;
  return TXB_OK;
}

enum txb_rc txb_replay_topics_any(const struct txb_cli *cli, const struct txb_replay_wish *wish,
                                  const struct txb_replay_lanes *lanes, bool *out, struct txb_error *err) {
  bool filtered = txb_replay_wish_nth(wish, "key", 0) != NULL || txb_replay_wish_nth(wish, "type", 0) != NULL;
  struct search search = {.wish = wish};
  *out = false;
  for (size_t i = 0; i < lanes->count; i++) /* offsets may have no message: of transactions, or compacted away */
    *out = *out || lanes->items[i].first >= 0;
  if (!*out || !filtered)
    return TXB_OK;
  TXB_TRY(txb_replay_topics_each(cli, lanes, look_for_one, &search, err));
  *out = search.found || search.cut;
  return TXB_OK;
}

/* ---- what the inbox remembers ----------------------------------------------------------------------------- */

struct firsts {
  const struct txb_replay_wish *wish;
  struct txb_uuid *ids;
  size_t count;
  size_t *looked, most; /* messages of each lane; and at most */
};

static enum txb_rc note_first(void *arg, size_t lane, const struct txb_record *record, bool *more,
                              struct txb_error *err) {
  struct firsts *firsts = arg;
  struct txb_event event;
  (void)err;
  txb_event_parse(record, &event);
  bool meant = txb_replay_is_meant(firsts->wish, record, &event);
  if (meant)
    firsts->ids[firsts->count++] = event.id;
  *more = !meant && ++firsts->looked[lane] < firsts->most;
  return TXB_OK;
}

/* horizon 0: they begin with what the inbox remembers. */
static enum txb_rc look_before(const struct txb_cli *cli, struct txb_pg *consumer, const struct txb_replay_wish *wish,
                               const struct txb_replay_lanes *lanes, int64_t *horizon, struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) struct txb_uuid *ids = NULL;
  TXB_CLEANUP(txb_free_ptr) void *looked = NULL;
  int64_t known = 0, forgotten = 0;
  TXB_TRY(txb_replay_horizon(consumer, horizon, err));
  if (*horizon == 0)
    return TXB_OK;
  TXB_TRY(txb_regrow_array(&ids, lanes->count, sizeof(struct txb_uuid), err));
  TXB_TRY(txb_alloc_array(lanes->count, sizeof(size_t), &looked, err));
  struct firsts firsts = {.wish = wish, .ids = ids, .looked = looked, .most = LOOK_MAX / lanes->count + 1};
  TXB_TRY(txb_replay_topics_each(cli, lanes, note_first, &firsts, err));
  TXB_TRY(txb_replay_ask_inbox(consumer, wish->group, ids, firsts.count, &known, &forgotten, err));
  if (forgotten == 0)
    *horizon = 0;
  return TXB_OK;
}

enum txb_rc txb_replay_topics_warn(const struct txb_cli *cli, struct txb_pg *consumer,
                                   const struct txb_replay_wish *wish, const struct txb_replay_lanes *lanes,
                                   struct txb_error *err) {
  int64_t horizon = 0;
  if (wish->to_topic != NULL)
    TXB_TRY(look_before(cli, consumer, wish, lanes, &horizon, err));
  if (horizon != 0)
    txb_replay_warn_old(horizon);
  return TXB_OK;
}

enum txb_rc txb_replay_topics_remembered(const struct txb_cli *cli, struct txb_pg *consumer,
                                         const struct txb_replay_wish *wish, const struct txb_replay_lanes *lanes,
                                         struct txb_error *err) {
  int64_t horizon;
  char text[28];
  if (wish->forced || wish->to_topic != NULL)
    return TXB_OK;
  TXB_TRY(look_before(cli, consumer, wish, lanes, &horizon, err));
  if (horizon == 0)
    return TXB_OK;
  txb_clock_format(horizon, text);
  return REFUSE(
      err,
      "the inbox of group %s remembers what was applied since %.19sZ, and the range begins before: take --from "
      "%.19sZ, or --force with --reason to apply all of it again",
      wish->group, text, text);
}
