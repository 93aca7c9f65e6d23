/* Replay jobs as text: one in full, a list, the lanes, how far they have come. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/replay.h"
#include "broker/cli/safe_text.h"

#define BAR_WIDTH 24

static bool is(const json_t *object, const char *name) {
  return json_is_true(json_object_get(object, name));
}

static bool is_of_kafka(const json_t *lane) {
  return json_is_integer(json_object_get(lane, "from_partition")) && txb_failed_integer(lane, "from_partition") >= 0;
}

bool txb_replay_is_final(const json_t *job) {
  const char *state = txb_failed_text(job, "state");
  return strcmp(state, "done") == 0 || strcmp(state, "cancelled") == 0;
}

/* ---- progress --------------------------------------------------------------------------------------------- */

void txb_replay_progress_of(const json_t *job, struct txb_replay_progress *out) {
  const json_t *lane;
  size_t i;
  *out = (struct txb_replay_progress){0};
  json_array_foreach(json_object_get(job, "lanes"), i, lane) {
    json_int_t from = txb_failed_integer(lane, "seq_from"), position = txb_failed_integer(lane, "position");
    json_int_t to = txb_failed_integer(lane, "seq_to");
    out->done += position > from ? position - from : 0;
    out->all += to > from ? to - from : 0;
    out->consumed += txb_failed_integer(lane, "consumed") + txb_failed_integer(lane, "moved");
    out->applied += txb_failed_integer(lane, "applied");
    out->duplicate += txb_failed_integer(lane, "duplicate");
    out->failed += txb_failed_integer(lane, "failed");
    out->moved += txb_failed_integer(lane, "moved");
    out->lanes++;
    out->lanes_done += is(lane, "done");
    out->partitions += is_of_kafka(lane);
  }
}

/* Rounded down: 100 % is the end. */
static double part_of(const struct txb_replay_progress *p) {
  if (p->all <= 0)
    return p->lanes > 0 && p->lanes_done == p->lanes ? 1.0 : 0.0;
  return (double)(int64_t)((double)p->done * 1000.0 / (double)p->all) / 1000.0;
}

/* Messages and numbers a second over a span; what is left at that speed. */
static void add_speed(const struct txb_replay_progress *now, const struct txb_replay_progress *before, int64_t span_ms,
                      struct txb_buffer *out) {
  int64_t done = now->done - before->done, left = now->all - now->done;
  char age[24];
  txb_buffer_addf(out, ", %" PRId64 " messages/s", (now->consumed - before->consumed) * 1000 / span_ms);
  if (done <= 0 || left <= 0)
    return;
  txb_format_age((int64_t)((double)left * (double)span_ms / (double)done), age);
  txb_buffer_addf(out, ", about %s left", age);
}

void txb_replay_progress_text(const struct txb_replay_progress *now, const struct txb_replay_progress *before,
                              int64_t span_ms, struct txb_buffer *out) {
  double part = part_of(now);
  size_t full = (size_t)(part * BAR_WIDTH);
  txb_buffer_add_text(out, "[");
  for (size_t i = 0; i < BAR_WIDTH; i++)
    txb_buffer_add_text(out, i < full ? "#" : "-");
  txb_buffer_addf(out, "] %5.1f %%, %" PRId64 " of %" PRId64 " %s", part * 100.0, now->done, now->all,
                  now->partitions > 0 ? "offsets" : "numbers");
  if (before != NULL && span_ms > 0)
    add_speed(now, before, span_ms, out);
}

/* ---- one job ---------------------------------------------------------------------------------------------- */

static void line(const char *title, const char *text) {
  struct txb_buffer safe;
  if (text == NULL)
    return;
  txb_buffer_init(&safe);
  txb_safe_add(&safe, txb_slice_text(text), 0, TXB_SAFE_LINE);
  txb_print("  %-12s %s\n", title, txb_buffer_text(&safe));
  txb_buffer_fini(&safe);
}

static void list(const char *title, const json_t *texts) {
  struct txb_buffer text;
  const json_t *one;
  size_t i;
  if (json_array_size(texts) == 0)
    return;
  txb_buffer_init(&text);
  json_array_foreach(texts, i, one) {
    txb_buffer_add_text(&text, i == 0 ? "" : ", ");
    if (json_is_integer(one))
      txb_buffer_addf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(one));
    else
      txb_buffer_add_text(&text, json_string_value(one));
  }
  line(title, txb_buffer_text(&text));
  txb_buffer_fini(&text);
}

/* To the second. */
static void time_line(const char *title, const char *time) {
  if (time != NULL)
    txb_print("  %-12s %.10s %.8s UTC\n", title, time, time + 11);
}

static void print_range(const json_t *job) {
  const char *from = txb_failed_text(job, "time_from"), *to = txb_failed_text(job, "time_to");
  if (!json_is_integer(json_object_get(job, "seq_from")))
    line("range", "offsets of each partition, see below");
  else if (is(job, "then_live"))
    txb_print("  %-12s from number %" JSON_INTEGER_FORMAT " on, and then live\n", "range",
              txb_failed_integer(job, "seq_from"));
  else
    txb_print("  %-12s numbers %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT "\n", "range",
              txb_failed_integer(job, "seq_from"), txb_failed_integer(job, "seq_to") - 1);
  time_line("not before", from);
  time_line("before", to);
}

static void print_head(const struct txb_cli *cli, const json_t *job) {
  const char *name = txb_failed_text(job, "name"), *state = txb_failed_text(job, "state");
  struct txb_buffer text;
  char age[24];
  txb_buffer_init(&text);
  txb_buffer_addf(&text, "job %" JSON_INTEGER_FORMAT, txb_failed_integer(job, "number"));
  if (name != NULL) {
    txb_buffer_add_text(&text, " \"");
    txb_safe_add(&text, txb_slice_text(name), 60, TXB_SAFE_LINE);
    txb_buffer_add_text(&text, "\"");
  }
  txb_format_age(txb_failed_integer(job, "state_age_ms"), age);
  txb_print("%s%s%s: %s for %s", txb_color(cli, "\033[1m"), txb_buffer_text(&text), txb_color(cli, "\033[0m"), state,
            age);
  txb_buffer_clear(&text);
  const char *by = txb_failed_text(job, "state_by");
  if (by != NULL && strcmp(state, "done") != 0) {
    txb_safe_add(&text, txb_slice_text(by), 60, TXB_SAFE_LINE);
    txb_print(", by %s", txb_buffer_text(&text));
  }
  txb_print("\n");
  txb_buffer_fini(&text);
}

/* "3 dead, 1 held": what is open of it, also after its end. */
static void open_states(const json_t *job, struct txb_buffer *out) {
  static const char *const names[] = {"retrying", "held", "dead"};
  json_t *states = json_object();
  for (size_t i = 0; i < TXB_ARRAY_SIZE(names); i++)
    if (txb_failed_integer(job, names[i]) > 0)
      (void)json_object_set(states, names[i], json_object_get(job, names[i]));
  txb_failed_states_text(states, out);
  json_decref(states);
}

/* No handler applies what goes to a topic. */
static const char *done_word(const json_t *job) {
  return txb_failed_text(job, "to_topic") != NULL ? "written" : "applied";
}

static void print_progress(const json_t *job) {
  static const struct txb_replay_progress none;
  struct txb_replay_progress now;
  struct txb_buffer text;
  txb_replay_progress_of(job, &now);
  txb_buffer_init(&text);
  txb_replay_progress_text(&now, &none, txb_failed_integer(job, "run_ms"), &text);
  txb_print("\n%s\n", txb_buffer_text(&text));
  txb_buffer_clear(&text);
  txb_buffer_addf(&text, "%" PRId64 " %s, %" PRId64 " duplicate, %" PRId64 " failed", now.applied, done_word(job),
                  now.duplicate, now.failed);
  if (now.moved > 0)
    txb_buffer_addf(&text, ", %" PRId64 " behind keys that failed messages hold", now.moved);
  struct txb_buffer states;
  txb_buffer_init(&states);
  open_states(job, &states);
  if (states.size > 0)
    txb_buffer_addf(&text, "; open: %s", txb_buffer_text(&states));
  txb_print("%s\n", txb_buffer_text(&text));
  txb_buffer_fini(&states);
  txb_buffer_fini(&text);
}

static void owner_cells(struct txb_table *table, const json_t *lane) {
  json_int_t left = txb_failed_integer(lane, "lease_ms");
  char age[24];
  txb_failed_cell(table, lane, "owner", 40);
  if (txb_failed_text(lane, "owner") == NULL) {
    txb_table_cell(table, NULL);
    return;
  }
  txb_format_age(left, age);
  txb_table_cell(table, left > 0 ? age : "over");
}

void txb_replay_lane_place(const json_t *lane, struct txb_buffer *out) {
  txb_safe_add(out, txb_slice_text(txb_failed_text(lane, "topic")), 40, TXB_SAFE_LINE);
  if (is_of_kafka(lane))
    txb_buffer_addf(out, "[%" JSON_INTEGER_FORMAT "]", txb_failed_integer(lane, "from_partition"));
}

void txb_replay_place_cell(struct txb_table *table, const json_t *lane) {
  struct txb_buffer text;
  txb_buffer_init(&text);
  txb_replay_lane_place(lane, &text);
  txb_table_cell(table, txb_buffer_text(&text));
  txb_buffer_fini(&text);
}

void txb_replay_source_cell(struct txb_table *table, const json_t *job) {
  if (txb_failed_text(job, "source") != NULL)
    txb_failed_cell(table, job, "source", 24);
  else
    txb_table_cell(table, "Kafka");
}

void txb_replay_print_lanes(const struct txb_cli *cli, const json_t *job, int indent) {
  const char *done = txb_failed_text(job, "to_topic") != NULL ? "WRITTEN" : "APPLIED";
  const struct txb_column columns[] = {
      {"LANE", TXB_RIGHT}, {"TOPIC", TXB_LEFT},  {"POSITION", TXB_RIGHT},  {"END", TXB_RIGHT},    {"STATE", TXB_LEFT},
      {"PASS", TXB_RIGHT}, {done, TXB_RIGHT},    {"DUPLICATE", TXB_RIGHT}, {"FAILED", TXB_RIGHT}, {"BEHIND", TXB_RIGHT},
      {"OWNER", TXB_LEFT}, {"LEASE", TXB_RIGHT}, {"LAST ERROR", TXB_LEFT}};
  static const char *const numbers[] = {"passes", "applied", "duplicate", "failed", "moved"};
  struct txb_table table;
  const json_t *lane;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(json_object_get(job, "lanes"), i, lane) {
    txb_failed_cell(&table, lane, "lane", 0);
    txb_replay_place_cell(&table, lane);
    txb_failed_cell(&table, lane, "position", 0);
    txb_failed_cell(&table, lane, "seq_to", 0);
    txb_table_cell(&table, txb_replay_lane_state(job, lane));
    for (size_t n = 0; n < TXB_ARRAY_SIZE(numbers); n++)
      txb_failed_cell(&table, lane, numbers[n], 0);
    owner_cells(&table, lane);
    txb_failed_cell(&table, lane, "last_error", 100);
  }
  txb_table_print(&table, cli, indent);
  txb_table_fini(&table);
}

const char *txb_replay_lane_state(const json_t *job, const json_t *lane) {
  if (is(lane, "done"))
    return "done";
  if (json_is_integer(json_object_get(lane, "stalled_offset")))
    return "stalled";
  if (strcmp(txb_failed_text(job, "state"), "running") != 0)
    return txb_failed_text(job, "state");
  return txb_failed_text(lane, "owner") != NULL && txb_failed_integer(lane, "lease_ms") > 0 ? "owned" : "waits";
}

/* The database role, and the operating system's user. */
static void print_starter(const json_t *job) {
  const char *person = txb_failed_text(job, "os_user");
  struct txb_buffer text;
  txb_buffer_init(&text);
  txb_buffer_add_text(&text, txb_failed_text(job, "created_by"));
  if (person != NULL)
    txb_buffer_addf(&text, " (%s)", person);
  line("by", txb_buffer_text(&text));
  txb_buffer_fini(&text);
}

static void print_next(const struct txb_cli *cli, const json_t *job) {
  json_int_t number = txb_failed_integer(job, "number");
  bool paused = strcmp(txb_failed_text(job, "state"), "paused") == 0;
  if (txb_replay_is_final(job))
    return;
  txb_print("\n%sWhat to do%s\n", txb_color(cli, "\033[1m"), txb_color(cli, "\033[0m"));
  txb_failed_print_called(cli, paused ? "replay resume" : "replay pause", number, "");
  txb_failed_print_called(cli, "replay rate", number, " MESSAGES");
  txb_failed_print_called(cli, "replay cancel", number, " --reason TEXT");
}

void txb_replay_print_job(const struct txb_cli *cli, const json_t *job) {
  print_head(cli, job);
  line("group", txb_failed_text(job, "group_name"));
  line("into topic", txb_failed_text(job, "to_topic"));
  line("source", txb_failed_text(job, "source"));
  line("Kafka", txb_failed_text(job, "cluster_id"));
  list("topics", json_object_get(job, "topics"));
  list("partitions", json_object_get(job, "partitions"));
  print_range(job);
  list("keys", json_object_get(job, "keys"));
  list("types", json_object_get(job, "types"));
  if (is(job, "forced"))
    line("forced", "also what was applied already is applied again");
  line("reason", txb_failed_text(job, "reason"));
  if (json_is_integer(json_object_get(job, "rate_max")))
    txb_print("  %-12s at most %" JSON_INTEGER_FORMAT " messages a second\n", "rate",
              txb_failed_integer(job, "rate_max"));
  time_line("started", txb_failed_text(job, "created_at"));
  print_starter(job);
  print_progress(job);
  txb_print("\n");
  txb_replay_print_lanes(cli, job, 2);
  print_next(cli, job);
}

/* ---- a list ----------------------------------------------------------------------------------------------- */

static void kind_cell(struct txb_table *table, const json_t *job) {
  const char *to_topic = txb_failed_text(job, "to_topic");
  struct txb_buffer text;
  txb_buffer_init(&text);
  if (to_topic != NULL) {
    txb_buffer_add_text(&text, "to ");
    txb_safe_add(&text, txb_slice_text(to_topic), 30, TXB_SAFE_LINE);
  } else {
    txb_buffer_add_text(&text, is(job, "forced") ? "forced" : is(job, "then_live") ? "then live" : "plain");
  }
  txb_table_cell(table, txb_buffer_text(&text));
  txb_buffer_fini(&text);
}

/* Of all these jobs. */
static const char *done_title(const json_t *jobs) {
  size_t copies = 0, i;
  const json_t *job;
  json_array_foreach(jobs, i, job) {
    copies += txb_failed_text(job, "to_topic") != NULL;
  }
  return copies == 0 ? "APPLIED" : copies == json_array_size(jobs) ? "WRITTEN" : "APPLIED OR WRITTEN";
}

void txb_replay_print_table(const struct txb_cli *cli, const json_t *jobs, int indent) {
  const struct txb_column columns[] = {
      {"JOB", TXB_RIGHT},       {"NAME", TXB_LEFT},    {"STATE", TXB_LEFT}, {"GROUP", TXB_LEFT},
      {"SOURCE", TXB_LEFT},     {"TOPICS", TXB_LEFT},  {"DONE", TXB_RIGHT}, {done_title(jobs), TXB_RIGHT},
      {"DUPLICATE", TXB_RIGHT}, {"FAILED", TXB_RIGHT}, {"KIND", TXB_LEFT},  {"AGE", TXB_RIGHT}};
  struct txb_table table;
  struct txb_replay_progress p;
  const json_t *job;
  char age[24];
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(jobs, i, job) {
    const json_t *topics = json_object_get(job, "topics");
    size_t count = json_array_size(topics);
    txb_replay_progress_of(job, &p);
    txb_failed_cell(&table, job, "number", 0);
    txb_failed_cell(&table, job, "name", 30);
    txb_failed_cell(&table, job, "state", 0);
    txb_failed_cell(&table, job, "group_name", 24);
    txb_replay_source_cell(&table, job);
    txb_table_cellf(&table, count > 1 ? "%s and %zu more" : "%s", json_string_value(json_array_get(topics, 0)),
                    count - 1);
    txb_table_cellf(&table, "%.1f %%", part_of(&p) * 100.0);
    txb_table_cellf(&table, "%" PRId64, p.applied);
    txb_table_cellf(&table, "%" PRId64, p.duplicate);
    txb_table_cellf(&table, "%" PRId64, p.failed);
    kind_cell(&table, job);
    txb_format_age(txb_failed_integer(job, "age_ms"), age);
    txb_table_cell(&table, age);
  }
  txb_table_print(&table, cli, indent);
  txb_table_fini(&table);
}
