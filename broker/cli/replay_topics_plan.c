/* What a replay of Kafka's topics would do: counts of the messages, and what inbox and held keys of the group make of
 * them. A range that is large is looked into from the beginning of each of its partitions, and the rest is estimated.
 * Changes nothing. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/replay.h"
#include "common/clock.h"
#include "common/memory.h"

#define LOOK_MAX 100000 /* messages, of all partitions */
#define IDS_MAX  10000  /* that the inbox is asked about at once */
#define KEYS_TOP 10

struct lane_count {
  int64_t looked, most; /* messages: that were read, and that are to be read at most */
  int64_t covered;      /* offsets */
  int64_t meant;        /* messages that the filters let through */
  bool cut;
};

struct look {
  const struct txb_cli *cli;
  const struct txb_replay_wish *wish;
  const struct txb_replay_lanes *lanes;
  struct txb_pg *consumer;
  struct lane_count *counts;
  struct txb_uuid *ids;
  size_t id_count;
  json_t *held, *topics, *types, *keys; /* text -> messages */
  int64_t untyped, unkeyed;
  int64_t looked, meant, behind, known, forgotten, circling;
  int32_t replayed_max;      /* into topics; 0: it goes to none */
  int64_t first_ms, last_ms; /* -1: none */
};

/* ---- counting --------------------------------------------------------------------------------------------- */

/* A key as txb.key_text has it. */
static void add_text(struct txb_slice bytes, struct txb_buffer *out) {
  if (txb_slice_is_text(bytes)) {
    txb_buffer_add(out, bytes.data, bytes.size);
    return;
  }
  txb_buffer_add_text(out, "\\x");
  for (size_t i = 0; i < bytes.size; i++)
    txb_buffer_addf(out, "%02x", ((const unsigned char *)bytes.data)[i]);
}

static void count_one(json_t *counts, struct txb_slice bytes) {
  struct txb_buffer text;
  txb_buffer_init(&text);
  add_text(bytes, &text);
  json_t *count = json_object_get(counts, txb_buffer_text(&text));
  if (count == NULL)
    (void)json_object_set_new(counts, txb_buffer_text(&text), json_integer(1));
  else
    (void)json_integer_set(count, json_integer_value(count) + 1);
  txb_buffer_fini(&text);
}

static bool is_held(const struct look *l, struct txb_slice key) {
  struct txb_buffer text;
  if (key.data == NULL || json_object_size(l->held) == 0)
    return false;
  txb_buffer_init(&text);
  add_text(key, &text);
  bool held = json_object_get(l->held, txb_buffer_text(&text)) != NULL;
  txb_buffer_fini(&text);
  return held;
}

/* As txb.replay_count reads it: digits; of equal names the last. */
static bool circles(const struct look *l, const struct txb_record *record) {
  struct txb_slice value = {NULL, 0};
  int64_t count = 0;
  for (size_t i = 0; i < record->header_count; i++)
    if (txb_slice_equal(record->headers[i].name, txb_slice_text("txb-replayed")))
      value = record->headers[i].value;
  for (size_t i = 0; i < value.size; i++) {
    unsigned char c = ((const unsigned char *)value.data)[i];
    if (c < '0' || c > '9')
      return false;
    count = count < 1000000000 ? count * 10 + (c - '0') : count;
  }
  return l->replayed_max > 0 && count >= l->replayed_max;
}

static enum txb_rc ask_inbox(struct look *l, struct txb_error *err) {
  size_t count = l->id_count;
  l->id_count = 0;
  if (count == 0)
    return TXB_OK;
  return txb_replay_ask_inbox(l->consumer, l->wish->group, l->ids, count, &l->known, &l->forgotten, err);
}

static enum txb_rc count_message(struct look *l, size_t lane, const struct txb_record *record,
                                 const struct txb_event *event, struct txb_error *err) {
  int64_t at = record->timestamp_ms;
  l->counts[lane].meant++;
  l->meant++;
  l->behind += is_held(l, record->key);
  l->circling += circles(l, record);
  count_one(l->topics, record->topic);
  if (event->type.data != NULL)
    count_one(l->types, event->type);
  else
    l->untyped++;
  if (record->key.data != NULL)
    count_one(l->keys, record->key);
  else
    l->unkeyed++;
  if (at >= 0) {
    l->first_ms = l->first_ms < 0 || at < l->first_ms ? at : l->first_ms;
    l->last_ms = at > l->last_ms ? at : l->last_ms;
  }
  l->ids[l->id_count++] = event->id;
  return l->id_count == IDS_MAX ? ask_inbox(l, err) : TXB_OK;
}

static enum txb_rc look_at(void *arg, size_t lane, const struct txb_record *record, bool *more, struct txb_error *err) {
  struct look *l = arg;
  struct lane_count *count = &l->counts[lane];
  struct txb_event event;
  char text[80];
  txb_event_parse(record, &event);
  if (txb_replay_is_meant(l->wish, record, &event))
    TXB_TRY(count_message(l, lane, record, &event, err));
  count->covered = record->offset + 1 - l->lanes->items[lane].from;
  count->looked++;
  if (++l->looked % 1000 == 0) {
    (void)snprintf(text, sizeof(text), "reading Kafka: %" PRId64 " messages", l->looked);
    txb_progress(l->cli, text);
  }
  count->cut = count->looked >= count->most;
  *more = !count->cut;
  return TXB_OK;
}

/* Each lane's share of what is read at most is that of its offsets, so that one factor fits them all. */
static void share(struct look *l) {
  int64_t span = txb_replay_lanes_span(l->lanes);
  for (size_t i = 0; i < l->lanes->count; i++) {
    int64_t own = l->lanes->items[i].to - l->lanes->items[i].from;
    int64_t most = (int64_t)((double)LOOK_MAX * (double)own / (double)span) + 1;
    l->counts[i].most = span <= LOOK_MAX ? INT64_MAX : most;
  }
}

static enum txb_rc held_keys(struct look *l, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  if (l->wish->to_topic != NULL) /* no handler: nothing waits */
    return txb_replay_count_max(l->consumer, &l->replayed_max, err);
  TXB_TRY(txb_replay_held(l->consumer, l->wish, &rows, err));
  for (int i = 0; i < txb_pg_rows(rows); i++)
    if (!txb_pg_is_null(rows, i, 0))
      count_one(l->held, txb_pg_bytes(rows, i, 0));
  return TXB_OK;
}

static enum txb_rc look_around(struct look *l, struct txb_error *err) {
  TXB_TRY(txb_regrow_array(&l->ids, IDS_MAX, sizeof(struct txb_uuid), err));
  void *counts;
  TXB_TRY(txb_alloc_array(l->lanes->count, sizeof(struct lane_count), &counts, err));
  l->counts = counts;
  share(l);
  TXB_TRY(held_keys(l, err));
  enum txb_rc rc = txb_replay_topics_each(l->cli, l->lanes, look_at, l, err);
  if (rc == TXB_OK)
    rc = ask_inbox(l, err);
  txb_progress(l->cli, NULL);
  return rc;
}

/* ---- the document ----------------------------------------------------------------------------------------- */

/* How many times what was looked at the whole is. */
static double factor_of(const struct look *l) {
  int64_t covered = 0, span = txb_replay_lanes_span(l->lanes);
  bool cut = false;
  for (size_t i = 0; i < l->lanes->count; i++) {
    const struct lane_count *count = &l->counts[i];
    int64_t own = l->lanes->items[i].to - l->lanes->items[i].from;
    bool whole = !count->cut || count->covered >= own;
    covered += whole ? own : count->covered;
    cut = cut || !whole;
  }
  return cut && covered > 0 ? (double)span / (double)covered : 1.0;
}

static json_int_t scaled(double factor, int64_t messages) {
  return (json_int_t)((double)messages * factor + 0.5);
}

static int more_first(const void *a, const void *b) {
  const json_t *one = *(json_t *const *)a, *other = *(json_t *const *)b;
  json_int_t n = txb_failed_integer(one, "messages"), m = txb_failed_integer(other, "messages");
  if (n != m)
    return n > m ? -1 : 1;
  const char *text = txb_failed_text(one, "value"), *with = txb_failed_text(other, "value");
  return strcmp(text == NULL ? "" : text, with == NULL ? "" : with);
}

/* [{"value", "messages"}], the largest first, `most` of them; `none` are those without a value. */
static enum txb_rc sorted(json_t *counts, int64_t none, size_t most, double factor, json_t **out,
                          struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) json_t **rows = NULL;
  size_t count = 0;
  const char *text;
  json_t *messages;
  TXB_TRY(txb_regrow_array(&rows, json_object_size(counts) + 1, sizeof(json_t *), err));
  json_object_foreach(counts, text, messages) {
    rows[count++] = json_pack("{s:s, s:I}", "value", text, "messages", scaled(factor, json_integer_value(messages)));
  }
  if (none > 0)
    rows[count++] = json_pack("{s:n, s:I}", "value", "messages", scaled(factor, none));
  qsort(rows, count, sizeof(json_t *), more_first);
  *out = json_array();
  for (size_t i = 0; i < count; i++)
    if (i < most)
      (void)json_array_append_new(*out, rows[i]);
    else
      json_decref(rows[i]);
  return TXB_OK;
}

static json_t *time_of(int64_t wall_ms) {
  char text[28];
  if (wall_ms < 0)
    return json_null();
  txb_clock_format(wall_ms > INT64_MAX / 1000 ? INT64_MAX : wall_ms * 1000, text);
  return json_string(text);
}

static json_t *lanes_of(const struct look *l) {
  json_t *list = json_array();
  for (size_t i = 0; i < l->lanes->count; i++) {
    const struct txb_replay_lane *lane = &l->lanes->items[i];
    (void)json_array_append_new(list, json_pack("{s:s, s:i, s:I, s:I}", "topic", lane->topic, "from_partition",
                                                (int)lane->partition, "seq_from", (json_int_t)lane->from, "seq_to",
                                                (json_int_t)lane->to));
  }
  return list;
}

static enum txb_rc add_counts(const struct look *l, json_t *document, struct txb_error *err) {
  json_t *topics, *types, *keys;
  double factor = factor_of(l);
  bool applies = !l->wish->forced && l->wish->to_topic == NULL;
  TXB_TRY(sorted(l->topics, 0, SIZE_MAX, factor, &topics, err));
  (void)json_object_set_new(document, "by_topic", topics);
  TXB_TRY(sorted(l->types, l->untyped, SIZE_MAX, factor, &types, err));
  (void)json_object_set_new(document, "by_type", types);
  TXB_TRY(sorted(l->keys, l->unkeyed, KEYS_TOP, 1.0, &keys, err)); /* a key of one message may have no other */
  (void)json_object_set_new(document, "by_key", keys);
  json_t *more =
      json_pack("{s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:I, s:I, s:b, s:I, s:I, s:o, s:o, s:o, s:s}", "messages",
                scaled(factor, l->meant), "known", applies ? scaled(factor, l->known) : 0, "forgotten",
                l->wish->forced ? 0 : scaled(factor, l->forgotten), "behind_held", scaled(factor, l->behind),
                "circling", scaled(factor, l->circling), "discarded", 0, "waiting", 0, "edited", 0, "key_count",
                (json_int_t)json_object_size(l->keys), "held_keys", (json_int_t)json_object_size(l->held), "estimated",
                factor > 1.0, "looked_at", (json_int_t)l->looked, "span", (json_int_t)txb_replay_lanes_span(l->lanes),
                "first_at", time_of(l->first_ms), "last_at", time_of(factor > 1.0 ? -1 : l->last_ms), "lanes",
                lanes_of(l), "cluster_id", l->lanes->cluster_id);
  (void)json_object_update(document, more);
  json_decref(more);
  return TXB_OK;
}

/* The partitions run side by side, so the largest one decides; a limit is for all of them together. */
static json_int_t most_of(const struct look *l) {
  int64_t most = 0;
  if (l->wish->rate_max > 0)
    return scaled(factor_of(l), l->meant);
  for (size_t i = 0; i < l->lanes->count; i++)
    most = l->counts[i].meant > most ? l->counts[i].meant : most;
  return scaled(factor_of(l), most);
}

/* ---- printing --------------------------------------------------------------------------------------------- */

static void print_ranges(const struct txb_cli *cli, const struct txb_replay_lanes *lanes) {
  static const struct txb_column columns[] = {{"FROM", TXB_RIGHT}, {"END", TXB_RIGHT}, {"PARTITION", TXB_LEFT}};
  const size_t shown = lanes->count < 20 ? lanes->count : 20;
  struct txb_table table;
  txb_print("\n");
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  for (size_t i = 0; i < shown; i++) {
    const struct txb_replay_lane *lane = &lanes->items[i];
    txb_table_cellf(&table, "%" PRId64, lane->from);
    txb_table_cellf(&table, "%" PRId64, lane->to);
    txb_table_cellf(&table, "%s[%d]", lane->topic, (int)lane->partition);
  }
  txb_table_print(&table, cli, 2);
  txb_table_fini(&table);
  if (lanes->count > shown)
    txb_print("  ... and %zu more\n", lanes->count - shown);
}

static void print_text(const struct look *l, const json_t *d) {
  json_int_t messages = txb_failed_integer(d, "messages"), span = txb_failed_integer(d, "span");
  bool estimated = json_is_true(json_object_get(d, "estimated"));
  txb_print("would replay %s%" JSON_INTEGER_FORMAT " message%s of Kafka into %s %s%s\n", estimated ? "about " : "",
            messages, messages == 1 ? "" : "s", l->wish->to_topic != NULL ? "topic" : "group",
            l->wish->to_topic != NULL ? l->wish->to_topic : l->wish->group,
            l->wish->forced ? ", also those that were applied already" : "");
  txb_print("  %" JSON_INTEGER_FORMAT " offsets of %zu partition%s", span, l->lanes->count,
            l->lanes->count == 1 ? "" : "s");
  if (l->first_ms >= 0 && estimated)
    txb_print(", from %.19s UTC on", txb_failed_text(d, "first_at"));
  else if (l->first_ms >= 0)
    txb_print(", from %.19s to %.19s UTC", txb_failed_text(d, "first_at"), txb_failed_text(d, "last_at"));
  txb_print("\n");
  if (estimated)
    txb_print("  all of this is an estimate: %" JSON_INTEGER_FORMAT
              " messages were looked at, from the beginning of each partition, and keys are counted among them alone\n",
              txb_failed_integer(d, "looked_at"));
  txb_replay_plan_line(d, "known", "of them the group has applied: they are counted as duplicates");
  txb_replay_plan_line(d, "behind_held", "wait behind keys that failed messages hold");
  txb_replay_plan_line(d, "circling", TXB_REPLAY_CIRCLING);
  txb_replay_print_forgotten(l->wish, d);
  print_ranges(l->cli, l->lanes);
  txb_replay_plan_counts(l->cli, json_object_get(d, "by_topic"), "TOPIC", 0);
  txb_replay_plan_counts(l->cli, json_object_get(d, "by_type"), "TYPE", 0);
  txb_replay_plan_counts(l->cli, json_object_get(d, "by_key"), "KEY", txb_failed_integer(d, "key_count"));
  txb_replay_plan_print_estimate(l->wish, d, "partition");
  txb_replay_print_refusal(d);
}

static enum txb_rc plan(struct look *l, const struct txb_replay_range *times, json_t *document, struct txb_error *err) {
  TXB_TRY(look_around(l, err));
  bool nothing = l->meant == 0 && !(factor_of(l) > 1.0);
  TXB_TRY(txb_replay_refusal(l->cli, l->consumer, NULL, l->wish, times, l->lanes, nothing, document, err));
  TXB_TRY(add_counts(l, document, err));
  txb_replay_plan_estimate(l->wish, most_of(l), document);
  if (l->cli->output == TXB_OUTPUT_TEXT)
    print_text(l, document);
  else
    txb_failed_print_json(l->cli, document);
  return TXB_OK;
}

enum txb_rc txb_replay_topics_plan(const struct txb_cli *cli, struct txb_pg *consumer,
                                   const struct txb_replay_wish *wish, const struct txb_replay_range *times,
                                   const struct txb_replay_lanes *lanes, struct txb_error *err) {
  struct look l = {.cli = cli, .wish = wish, .lanes = lanes, .consumer = consumer, .first_ms = -1, .last_ms = -1};
  json_t *document = txb_replay_plan_document(wish, times);
  l.held = json_object();
  l.topics = json_object();
  l.types = json_object();
  l.keys = json_object();
  enum txb_rc rc = plan(&l, times, document, err);
  json_decref(l.held);
  json_decref(l.topics);
  json_decref(l.types);
  json_decref(l.keys);
  json_decref(document);
  txb_free(l.ids);
  txb_free(l.counts);
  return rc;
}
