/* What a replay would do: counts of the source's outbox, and what inbox and held keys of the group make of it. Changes
 * nothing. Both databases are asked in short statements, so that none keeps a snapshot for long. */
#include <inttypes.h>
#include <string.h>

#include "broker/cli/replay.h"
#include "cli_sql.h"
#include "common/clock.h"
#include "common/memory.h"

#define PAGE_ROWS 10000
/* Messages a second of each topic, where no limit says how fast it can be at most. */
#define RATE_ASSUMED 10000

static const struct txb_pg_statement count_statement = {"cli_replay_count", txb_text_cli_replay_count};
static const struct txb_pg_statement ids_statement = {"cli_replay_ids", txb_text_cli_replay_ids};

struct plan {
  const struct txb_cli *cli;
  struct txb_pg *consumer, *source;
  const struct txb_replay_wish *wish;
  struct txb_replay_range range; /* with then_live up to the watermark */
  json_t *document;
};

/* ---- counting --------------------------------------------------------------------------------------------- */

static enum txb_rc count(struct plan *p, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *held = NULL;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  TXB_TRY(txb_replay_held(p->consumer, p->wish, &held, err));
  int held_rows = p->wish->to_topic != NULL ? 0 : txb_pg_rows(held); /* no handler: nothing waits */
  txb_pg_params_init(&params);
  txb_replay_range_params(&params, p->wish, &p->range);
  txb_pg_array_begin(&params, TXB_OID_BYTEA);
  for (int i = 0; i < held_rows; i++)
    txb_pg_array_bytes(&params, txb_pg_bytes(held, i, 0));
  txb_pg_array_end(&params);
  txb_pg_add_bool(&params, p->wish->to_topic != NULL);
  txb_progress(p->cli, "counting ...");
  enum txb_rc rc = txb_failed_ask(p->source, &count_statement, &params, "txb_reader", &row, err);
  txb_progress(p->cli, NULL);
  if (rc != TXB_OK)
    return rc;
  json_t *counts = txb_failed_json(row, 0, 0);
  (void)json_object_set_new(counts, "held_keys", json_integer(held_rows));
  (void)json_object_update(p->document, counts);
  json_decref(counts);
  return TXB_OK;
}

/* What is left out was meant, too. */
static bool holds_nothing(const json_t *counts) {
  return txb_failed_integer(counts, "messages") + txb_failed_integer(counts, "discarded") +
             txb_failed_integer(counts, "waiting") ==
         0;
}

static enum txb_rc ask_inbox(struct plan *p, const struct txb_pg_result *rows, int64_t *known, int64_t *forgotten,
                             struct txb_error *err) {
  TXB_CLEANUP(txb_free_ptr) struct txb_uuid *ids = NULL;
  size_t count = (size_t)txb_pg_rows(rows);
  TXB_TRY(txb_regrow_array(&ids, count, sizeof(struct txb_uuid), err));
  for (size_t i = 0; i < count; i++)
    txb_pg_uuid(rows, (int)i, 1, &ids[i]);
  return txb_replay_ask_inbox(p->consumer, p->wish->group, ids, count, known, forgotten, err);
}

/* What was applied already is a duplicate for a job that is not forced. What is older than the inbox remembers can't be
 * told from a repetition, and fails (W7). */
static enum txb_rc look_into_inbox(struct plan *p, struct txb_error *err) {
  int64_t known = 0, forgotten = 0, seen = 0;
  struct txb_replay_range rest = p->range;
  char text[80];
  bool asks = p->wish->to_topic == NULL || txb_failed_text(p->document, "remembers_since") != NULL;
  for (int rows = asks ? PAGE_ROWS : 0; rows == PAGE_ROWS;) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *ids = NULL;
    struct txb_pg_params params;
    txb_pg_params_init(&params);
    txb_replay_range_params(&params, p->wish, &rest);
    txb_pg_add_int4(&params, PAGE_ROWS);
    TXB_TRY(txb_failed_ask(p->source, &ids_statement, &params, "txb_reader", &ids, err));
    rows = txb_pg_rows(ids);
    if (rows == 0)
      break;
    rest.seq_from = txb_pg_int8(ids, rows - 1, 0) + 1;
    TXB_TRY(ask_inbox(p, ids, &known, &forgotten, err));
    seen += rows;
    (void)snprintf(text, sizeof(text), "asking the inbox: %" PRId64 " of %" JSON_INTEGER_FORMAT, seen,
                   txb_failed_integer(p->document, "messages"));
    txb_progress(p->cli, text);
  }
  txb_progress(p->cli, NULL);
  bool applies = !p->wish->forced && p->wish->to_topic == NULL;
  (void)json_object_set_new(p->document, "known", json_integer(applies ? known : 0));
  bool matters = !p->wish->forced && !p->wish->then_live;
  (void)json_object_set_new(p->document, "forgotten", json_integer(matters ? forgotten : 0));
  return TXB_OK;
}

/* The topics run side by side, so the largest one decides; a limit is for all of them together. */
static void estimate(struct plan *p) {
  json_int_t most = 0;
  const json_t *topic;
  size_t i;
  json_array_foreach(json_object_get(p->document, "by_topic"), i, topic) {
    most = txb_failed_integer(topic, "messages") > most ? txb_failed_integer(topic, "messages") : most;
  }
  if (p->wish->rate_max > 0)
    most = txb_failed_integer(p->document, "messages");
  txb_replay_plan_estimate(p->wish, most, p->document);
}

void txb_replay_plan_estimate(const struct txb_replay_wish *wish, json_int_t most, json_t *document) {
  json_int_t rate = wish->rate_max > 0 ? wish->rate_max : RATE_ASSUMED;
  (void)json_object_set_new(document, "estimate_ms", json_integer(most * 1000 / rate));
  (void)json_object_set_new(document, "estimate_rate", json_integer(rate));
}

/* ---- printing --------------------------------------------------------------------------------------------- */

static json_t *time_or_null(bool has, int64_t wall_us) {
  char text[28];
  if (!has)
    return json_null();
  txb_clock_format(wall_us, text);
  return json_string(text);
}

static json_t *texts_or_null(const struct txb_replay_wish *wish, const char *option) {
  const char *text;
  json_t *list = json_array();
  for (size_t n = 0; (text = txb_replay_wish_nth(wish, option, n)) != NULL; n++)
    (void)json_array_append_new(list, json_string(text));
  if (json_array_size(list) > 0)
    return list;
  json_decref(list);
  return json_null();
}

static json_t *number_or_null(bool has, int64_t number) {
  return has ? json_integer(number) : json_null();
}

static json_t *partitions_or_null(const struct txb_replay_wish *wish) {
  if (wish->partition_count == 0)
    return json_null();
  json_t *list = json_array();
  for (size_t i = 0; i < wish->partition_count; i++)
    (void)json_array_append_new(list, json_integer(wish->partitions[i]));
  return list;
}

json_t *txb_replay_plan_document(const struct txb_replay_wish *wish, const struct txb_replay_range *range) {
  json_t *topics = json_array();
  for (size_t i = 0; i < wish->topic_count; i++)
    (void)json_array_append_new(topics, json_string(wish->topics[i]));
  return json_pack("{s:b, s:s, s:s?, s:s?, s:n, s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                   "dry_run", 1, "group", wish->group, "source", wish->source, "to_topic", wish->to_topic, "cluster_id",
                   "topics", topics, "partitions", partitions_or_null(wish), "keys", texts_or_null(wish, "key"),
                   "types", texts_or_null(wish, "type"), "forced", wish->forced, "then_live", wish->then_live,
                   "rate_max", number_or_null(wish->rate_max > 0, wish->rate_max), "seq_from",
                   number_or_null(!wish->kafka, range->seq_from), "seq_to", number_or_null(!wish->kafka, range->seq_to),
                   "watermark", number_or_null(!wish->kafka, range->watermark), "time_from",
                   time_or_null(range->has_time_from, range->time_from_us), "time_to",
                   time_or_null(range->has_time_to, range->time_to_us), "waits_from",
                   number_or_null(range->waits_from > 0, range->waits_from));
}

void txb_replay_plan_counts(const struct txb_cli *cli, const json_t *rows, const char *title, json_int_t all) {
  const struct txb_column columns[] = {{"MESSAGES", TXB_RIGHT}, {title, TXB_LEFT}};
  struct txb_table table;
  const json_t *row;
  size_t i;
  if (json_array_size(rows) == 0)
    return;
  txb_print("\n");
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(rows, i, row) {
    txb_failed_cell(&table, row, "messages", 0);
    if (txb_failed_text(row, "value") == NULL)
      txb_table_cell(&table, "(none)");
    else
      txb_failed_cell(&table, row, "value", 60);
  }
  txb_table_print(&table, cli, 2);
  txb_table_fini(&table);
  if ((size_t)all > json_array_size(rows))
    txb_print("  ... and %" JSON_INTEGER_FORMAT " more\n", all - (json_int_t)json_array_size(rows));
}

void txb_replay_plan_line(const json_t *document, const char *name, const char *what) {
  json_int_t n = txb_failed_integer(document, name);
  if (n > 0)
    txb_print("  %10" JSON_INTEGER_FORMAT "  %s\n", n, what);
}

void txb_replay_plan_print_estimate(const struct txb_replay_wish *wish, const json_t *document, const char *side) {
  char age[24];
  txb_format_age(txb_failed_integer(document, "estimate_ms"), age);
  if (wish->rate_max > 0)
    txb_print("\nat least %s at %" JSON_INTEGER_FORMAT " messages a second, the limit\n", age,
              txb_failed_integer(document, "estimate_rate"));
  else
    txb_print("\nabout %s at %" JSON_INTEGER_FORMAT " messages a second in each %s, which is assumed: %s\n", age,
              txb_failed_integer(document, "estimate_rate"), side,
              wish->to_topic != NULL ? "databases differ" : "handlers differ");
}

static void print_text(const struct plan *p) {
  const json_t *d = p->document;
  char first[28] = "";
  json_int_t messages = txb_failed_integer(d, "messages");
  txb_print("would replay %" JSON_INTEGER_FORMAT " message%s of source %s into %s %s%s\n", messages,
            messages == 1 ? "" : "s", p->wish->source, p->wish->to_topic != NULL ? "topic" : "group",
            p->wish->to_topic != NULL ? p->wish->to_topic : p->wish->group,
            p->wish->forced      ? ", also those that were applied already"
            : p->wish->then_live ? ", and then go on live"
                                 : "");
  txb_print("  numbers %" PRId64 " to %" PRId64, p->range.seq_from, p->range.seq_to - 1);
  if (messages > 0)
    txb_print(", from %.19s to %.19s UTC", txb_failed_text(d, "first_at"), txb_failed_text(d, "last_at"));
  txb_print("\n");
  txb_replay_plan_line(d, "known", "of them the group has applied: they are counted as duplicates");
  txb_replay_plan_line(d, "behind_held", "wait behind keys that failed messages hold");
  txb_replay_plan_line(d, "circling", TXB_REPLAY_CIRCLING);
  txb_replay_plan_line(d, "edited", "come as they were edited after Kafka had refused them");
  txb_replay_print_forgotten(p->wish, d);
  txb_replay_plan_line(d, "discarded", "more are left out: they were discarded");
  txb_replay_plan_line(d, "waiting",
                       p->wish->to_topic != NULL
                           ? "more are left out: they are not published yet, and are not copied"
                           : "more are left out: they are not published yet, and come through Kafka");
  txb_replay_plan_counts(p->cli, json_object_get(d, "by_topic"), "TOPIC", 0);
  txb_replay_plan_counts(p->cli, json_object_get(d, "by_type"), "TYPE", 0);
  txb_replay_plan_counts(p->cli, json_object_get(d, "by_key"), "KEY", txb_failed_integer(d, "key_count"));
  txb_replay_plan_print_estimate(p->wish, d, "topic");
  if (p->wish->then_live && !p->range.whole) {
    txb_clock_format(p->range.lowest_time_us, first);
    txb_print("what was published before %.19s UTC is no longer there: the group begins without it\n", first);
  }
  if (p->wish->then_live && p->range.waits_from > 0)
    txb_print("it will stop before number %" PRId64
              ", which waits for a decision: `txbroker failed list --source %s` shows it\n",
              p->range.waits_from, p->wish->source);
  txb_replay_print_refusal(d);
}

enum txb_rc txb_replay_plan(const struct txb_cli *cli, struct txb_pg *consumer, struct txb_pg *source,
                            const struct txb_replay_wish *wish, const struct txb_replay_range *range,
                            struct txb_error *err) {
  struct plan p = {.cli = cli, .consumer = consumer, .source = source, .wish = wish, .range = *range};
  if (wish->then_live)
    p.range.seq_to = range->watermark + 1;
  p.document = txb_replay_plan_document(wish, &p.range);
  enum txb_rc rc = count(&p, err);
  if (rc == TXB_OK)
    rc = txb_replay_refusal(cli, consumer, source, wish, range, NULL, holds_nothing(p.document), p.document, err);
  if (rc == TXB_OK)
    rc = look_into_inbox(&p, err);
  if (rc == TXB_OK) {
    estimate(&p);
    if (cli->output == TXB_OUTPUT_TEXT)
      print_text(&p);
    else
      txb_failed_print_json(cli, p.document);
  }
  json_decref(p.document);
  return rc;
}
