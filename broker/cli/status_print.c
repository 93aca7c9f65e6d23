/* status as text. */
#include <stdio.h>
#include <string.h>

#include "broker/cli/replay.h"
#include "broker/cli/safe_text.h"
#include "broker/cli/status.h"

static const char *text_of(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  return json_is_string(value) ? json_string_value(value) : NULL;
}

static bool is_set(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  return value != NULL && !json_is_null(value);
}

static void number_cell(struct txb_table *table, const json_t *object, const char *name) {
  if (is_set(object, name))
    txb_table_cellf(table, "%" JSON_INTEGER_FORMAT, txb_failed_integer(object, name));
  else
    txb_table_cell(table, NULL);
}

static void age_cell(struct txb_table *table, const json_t *object, const char *name) {
  char age[24];
  if (is_set(object, name)) {
    txb_format_age(txb_failed_integer(object, name), age);
    txb_table_cell(table, age);
  } else {
    txb_table_cell(table, NULL);
  }
}

/* What a statement was, short enough for a line. */
static void query_cell(struct txb_table *table, const char *query) {
  char line[61];
  size_t used = 0;
  for (; query != NULL && *query != '\0' && used < sizeof(line) - 4; query++)
    line[used++] = *query == '\n' || *query == '\t' ? ' ' : *query;
  bool cut = query != NULL && *query != '\0';
  while (cut && used > 0 && ((unsigned char)line[used - 1] & 0x80) != 0)
    used--; /* not into the middle of a character */
  line[used] = '\0';
  if (cut)
    memcpy(line + used, "...", 4);
  txb_table_cell(table, used == 0 ? NULL : line);
}

static void print_holders(const json_t *holders, const struct txb_cli *cli) {
  static const struct txb_column columns[] = {{"PID", TXB_RIGHT},  {"APPLICATION", TXB_LEFT}, {"USER", TXB_LEFT},
                                              {"STATE", TXB_LEFT}, {"OPEN FOR", TXB_RIGHT},   {"STATEMENT", TXB_LEFT}};
  struct txb_table table;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  for (size_t i = 0; i < json_array_size(holders); i++) {
    const json_t *h = json_array_get(holders, i);
    const char *gid = text_of(h, "gid");
    number_cell(&table, h, "pid");
    txb_table_cell(&table, text_of(h, "application"));
    txb_table_cell(&table, text_of(h, "user"));
    txb_table_cell(&table, gid == NULL ? text_of(h, "state") : "prepared");
    age_cell(&table, h, "transaction_age_ms");
    if (gid != NULL)
      txb_table_cellf(&table, "gid %s", gid);
    else
      query_cell(&table, text_of(h, "query"));
  }
  txb_table_print(&table, cli, 4);
  txb_table_fini(&table);
}

static void print_source_details(const json_t *source, const struct txb_cli *cli) {
  const char *name = text_of(source, "source");
  const json_t *hole = json_object_get(source, "oldest_hole"), *hold;
  char age[24];
  size_t i;
  if (text_of(source, "alarm") != NULL)
    txb_print("  %s%s: %s%s\n", txb_color(cli, "\033[31m"), name, text_of(source, "alarm"), txb_color(cli, "\033[0m"));
  if (text_of(source, "last_error") != NULL)
    txb_print("  %s: last error: %s\n", name, text_of(source, "last_error"));
  if (json_is_object(hole)) {
    txb_format_age(txb_failed_integer(hole, "age_ms"), age);
    txb_print("  %s: oldest hole is number %" JSON_INTEGER_FORMAT
              "%s%s; its intents come when these transactions end:\n",
              name, txb_failed_integer(hole, "seq"), is_set(hole, "age_ms") ? ", open for " : "",
              is_set(hole, "age_ms") ? age : "");
    print_holders(json_object_get(hole, "holders"), cli);
  }
  json_array_foreach(json_object_get(source, "holds"), i, hold) {
    const char *key = text_of(hold, "key");
    txb_format_age(txb_failed_integer(hold, "age_ms"), age);
    txb_print("  %s: held from number %" JSON_INTEGER_FORMAT ", for %s: topic %s%s%s: %s\n", name,
              txb_failed_integer(hold, "from"), age, text_of(hold, "topic"), key == NULL ? "" : " key ",
              key == NULL ? "" : key, text_of(hold, "error"));
  }
}

static void print_sources(const struct txb_status *status, const struct txb_cli *cli) {
  static const struct txb_column columns[] = {
      {"SOURCE", TXB_LEFT},     {"DATABASE", TXB_LEFT}, {"STATE", TXB_LEFT},     {"OWNER", TXB_LEFT},
      {"EPOCH", TXB_RIGHT},     {"BACKLOG", TXB_RIGHT}, {"SEQUENCE", TXB_RIGHT}, {"WATERMARK", TXB_RIGHT},
      {"PUBLISHED", TXB_RIGHT}, {"HOLES", TXB_RIGHT},   {"HELD", TXB_RIGHT},     {"REFUSED", TXB_RIGHT},
      {"SCHEDULED", TXB_RIGHT}};
  static const char *const numbers[] = {"epoch", "backlog", "sequence", "watermark", "published", "holes"};
  struct txb_table table;
  const json_t *source;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(status->sources, i, source) {
    txb_table_cell(&table, text_of(source, "source"));
    txb_table_cell(&table, text_of(source, "database"));
    txb_table_cell(&table, text_of(source, "state"));
    txb_table_cell(&table, text_of(source, "owner"));
    for (size_t n = 0; n < TXB_ARRAY_SIZE(numbers); n++)
      number_cell(&table, source, numbers[n]);
    txb_table_cellf(&table, "%zu", json_array_size(json_object_get(source, "holds")));
    number_cell(&table, source, "refused");
    number_cell(&table, source, "scheduled");
  }
  txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
  json_array_foreach(status->sources, i, source) {
    print_source_details(source, cli);
  }
}

static void partition_cells(struct txb_table *table, const json_t *group, const json_t *partition) {
  static const char *const numbers[] = {"partition", "next_offset", "end_offset", "lag",
                                        "epoch",     "applied",     "duplicate",  "failed"};
  txb_table_cell(table, text_of(group, "group"));
  txb_table_cell(table, text_of(partition, "topic"));
  for (size_t n = 0; n < TXB_ARRAY_SIZE(numbers); n++)
    number_cell(table, partition, numbers[n]);
  txb_table_cell(table, text_of(partition, "state"));
  txb_table_cell(table, text_of(partition, "owner"));
}

static void print_stall(const json_t *group, const json_t *partition, const struct txb_cli *cli) {
  const json_t *stall = json_object_get(partition, "stall"), *suspect = json_object_get(partition, "suspect");
  const char *name = text_of(group, "group"), *topic = text_of(partition, "topic");
  json_int_t number = txb_failed_integer(partition, "partition");
  char age[24], next[24];
  if (json_is_object(stall)) {
    const char *sqlstate = text_of(stall, "sqlstate");
    txb_format_age(txb_failed_integer(stall, "age_ms"), age);
    if (is_set(stall, "next_attempt_in_ms"))
      txb_format_age(txb_failed_integer(stall, "next_attempt_in_ms"), next);
    txb_print("  %s%s: %s/%" JSON_INTEGER_FORMAT " stalls at offset %" JSON_INTEGER_FORMAT
              " for %s%s: attempt %" JSON_INTEGER_FORMAT ", %s%s: %s: %s%s%s%s\n",
              txb_color(cli, "\033[33m"), name, topic, number, txb_failed_integer(stall, "offset"), age,
              txb_color(cli, "\033[0m"), txb_failed_integer(stall, "attempts"),
              is_set(stall, "next_attempt_in_ms") ? "next in " : "it waits for a person to decide",
              is_set(stall, "next_attempt_in_ms") ? next : "",
              text_of(stall, "outcome") == NULL ? "error" : text_of(stall, "outcome"),
              text_of(stall, "error") == NULL ? "" : text_of(stall, "error"), sqlstate == NULL ? "" : " (SQLSTATE ",
              sqlstate == NULL ? "" : sqlstate, sqlstate == NULL ? "" : ")");
  }
  if (json_is_object(suspect))
    txb_print("  %s: %s/%" JSON_INTEGER_FORMAT " suspects the message at offset %" JSON_INTEGER_FORMAT
              ": its worker died under it %" JSON_INTEGER_FORMAT " times\n",
              name, topic, number, txb_failed_integer(suspect, "offset"), txb_failed_integer(suspect, "deaths"));
}

/* Of all its partitions together. */
static void print_replies_ignored(const json_t *group) {
  static const char *const reasons[] = {"late", "repeated", "unknown", "unreadable"};
  const json_t *partition;
  size_t i;
  const char *separator = NULL;
  for (size_t r = 0; r < TXB_ARRAY_SIZE(reasons); r++) {
    json_int_t count = 0;
    json_array_foreach(json_object_get(group, "partitions"), i, partition) {
      count += txb_failed_integer(json_object_get(partition, "replies_ignored"), reasons[r]);
    }
    if (count == 0)
      continue;
    if (separator == NULL)
      txb_print("  %s: replies to requests that changed nothing:", text_of(group, "group"));
    txb_print("%s %" JSON_INTEGER_FORMAT " %s", separator == NULL ? "" : separator, count, reasons[r]);
    separator = ",";
  }
  if (separator != NULL)
    txb_print("\n");
}

static void print_groups(const struct txb_status *status, const struct txb_cli *cli) {
  static const struct txb_column columns[] = {{"GROUP", TXB_LEFT},     {"TOPIC", TXB_LEFT},    {"PARTITION", TXB_RIGHT},
                                              {"POSITION", TXB_RIGHT}, {"END", TXB_RIGHT},     {"LAG", TXB_RIGHT},
                                              {"EPOCH", TXB_RIGHT},    {"APPLIED", TXB_RIGHT}, {"DUPLICATE", TXB_RIGHT},
                                              {"FAILED", TXB_RIGHT},   {"STATE", TXB_LEFT},    {"OWNER", TXB_LEFT}};
  struct txb_table table;
  const json_t *group, *partition;
  size_t i, j;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(status->groups, i, group) {
    json_array_foreach(json_object_get(group, "partitions"), j, partition) {
      partition_cells(&table, group, partition);
    }
  }
  if (table.cell_count > 0)
    txb_table_print(&table, cli, 0);
  txb_table_fini(&table);
  json_array_foreach(status->groups, i, group) {
    json_array_foreach(json_object_get(group, "partitions"), j, partition) {
      print_stall(group, partition, cli);
    }
    print_replies_ignored(group);
  }
}

/* A lane of a job, with what the job is. */
static void lane_cells(struct txb_table *table, const json_t *job, const json_t *lane) {
  static const char *const numbers[] = {"position", "seq_to", "applied", "duplicate", "failed"};
  number_cell(table, job, "number");
  txb_failed_cell(table, job, "group_name", 24);
  txb_replay_source_cell(table, job);
  txb_replay_place_cell(table, lane);
  for (size_t n = 0; n < TXB_ARRAY_SIZE(numbers); n++)
    number_cell(table, lane, numbers[n]);
  txb_table_cell(table, txb_replay_lane_state(job, lane));
  txb_failed_cell(table, lane, "owner", 40);
}

static void print_lane_error(const json_t *job, const json_t *lane) {
  struct txb_buffer text;
  const char *error = text_of(lane, "last_error");
  bool stalled = is_set(lane, "stalled_offset");
  if (error == NULL && !stalled)
    return;
  txb_buffer_init(&text);
  txb_safe_add(&text, txb_slice_text(error != NULL ? error : text_of(lane, "stalled_error")), 300, TXB_SAFE_LINE);
  struct txb_buffer place;
  txb_buffer_init(&place);
  txb_replay_lane_place(lane, &place);
  txb_print("  job %" JSON_INTEGER_FORMAT ", %s: %s\n", txb_failed_integer(job, "number"), txb_buffer_text(&place),
            txb_buffer_text(&text));
  txb_buffer_fini(&place);
  txb_buffer_fini(&text);
}

static void print_jobs(const struct txb_status *status, const struct txb_cli *cli) {
  static const struct txb_column columns[] = {{"JOB", TXB_RIGHT},     {"GROUP", TXB_LEFT},      {"SOURCE", TXB_LEFT},
                                              {"TOPIC", TXB_LEFT},    {"POSITION", TXB_RIGHT},  {"END", TXB_RIGHT},
                                              {"APPLIED", TXB_RIGHT}, {"DUPLICATE", TXB_RIGHT}, {"FAILED", TXB_RIGHT},
                                              {"STATE", TXB_LEFT},    {"OWNER", TXB_LEFT}};
  struct txb_table table;
  const json_t *job, *lane;
  size_t i, j;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(status->jobs, i, job) {
    json_array_foreach(json_object_get(job, "lanes"), j, lane) {
      lane_cells(&table, job, lane);
    }
  }
  if (table.cell_count > 0) {
    txb_print("\n");
    txb_table_print(&table, cli, 0);
  }
  txb_table_fini(&table);
  json_array_foreach(status->jobs, i, job) {
    json_array_foreach(json_object_get(job, "lanes"), j, lane) {
      print_lane_error(job, lane);
    }
  }
}

/* Of one group or source. A source's or topic's key is foreign text: made harmless. */
static void failed_cells(struct txb_table *table, const char *what, const json_t *entry) {
  static const char *const numbers[] = {"retrying", "due", "held", "dead"};
  const json_t *failed = json_object_get(entry, "failed_messages"), *key = json_object_get(failed, "oldest_key");
  char age[24];
  txb_table_cell(table, what);
  txb_table_cell(table, text_of(entry, what));
  for (size_t n = 0; n < TXB_ARRAY_SIZE(numbers); n++)
    number_cell(table, failed, numbers[n]);
  age_cell(table, failed, "next_due_in_ms");
  if (!json_is_object(key)) {
    txb_table_cell(table, NULL);
    return;
  }
  struct txb_buffer text;
  txb_buffer_init(&text);
  txb_format_age(txb_failed_integer(key, "age_ms"), age);
  txb_buffer_addf(&text, "%s key ", text_of(key, "topic"));
  txb_safe_add(&text, txb_slice_text(text_of(key, "key")), 40, TXB_SAFE_LINE);
  txb_buffer_addf(&text, ", for %s, by message %" JSON_INTEGER_FORMAT " (%s)", age, txb_failed_integer(key, "number"),
                  text_of(key, "state"));
  txb_table_cell(table, txb_buffer_text(&text));
  txb_buffer_fini(&text);
}

static void print_failed(const struct txb_status *status, const struct txb_cli *cli) {
  static const struct txb_column columns[] = {
      {"FAILED", TXB_LEFT}, {"OF", TXB_LEFT},    {"RETRYING", TXB_RIGHT}, {"DUE", TXB_RIGHT},
      {"HELD", TXB_RIGHT},  {"DEAD", TXB_RIGHT}, {"NEXT IN", TXB_RIGHT},  {"HELD LONGEST", TXB_LEFT}};
  struct txb_table table;
  const json_t *entry;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(status->sources, i, entry) {
    if (is_set(entry, "failed_messages"))
      failed_cells(&table, "source", entry);
  }
  json_array_foreach(status->groups, i, entry) {
    if (is_set(entry, "failed_messages"))
      failed_cells(&table, "group", entry);
  }
  if (table.cell_count > 0) {
    txb_print("\n");
    txb_table_print(&table, cli, 0);
    txb_print("  `txbroker failed list --group-by error` shows the causes\n");
  }
  txb_table_fini(&table);
}

static void print_failed_job(struct txb_table *table, const json_t *job) {
  char age[24];
  txb_failed_cell(table, job, "number", 0);
  txb_failed_job_verb_cell(table, job);
  txb_failed_cell(table, job, "group_name", 24);
  txb_table_cellf(table, "%" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT, txb_failed_integer(job, "done"),
                  txb_failed_integer(job, "messages"));
  txb_failed_cell(table, job, "skipped", 0);
  txb_format_age(txb_failed_integer(job, "age_ms"), age);
  txb_table_cell(table, age);
  txb_failed_cell(table, job, "created_by", 24);
  txb_failed_cell(table, job, "os_user", 24);
  txb_table_cell(table, json_is_true(json_object_get(job, "served")) ? "a worker" : "failed resume");
}

static void print_failed_jobs(const struct txb_status *status, const struct txb_cli *cli) {
  static const struct txb_column columns[] = {
      {"FAILED JOB", TXB_RIGHT}, {"WHAT", TXB_LEFT},     {"GROUP", TXB_LEFT},
      {"CHANGED", TXB_RIGHT},    {"SKIPPED", TXB_RIGHT}, {"AGE", TXB_RIGHT},
      {"ROLE", TXB_LEFT},        {"PERSON", TXB_LEFT},   {"GOES ON BY", TXB_LEFT}};
  struct txb_table table;
  const json_t *job;
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(status->failed_jobs, i, job) {
    print_failed_job(&table, job);
  }
  if (table.cell_count > 0) {
    txb_print("\n");
    txb_table_print(&table, cli, 0);
  }
  txb_table_fini(&table);
}

void txb_status_print(const struct txb_status *status, const struct txb_cli *cli) {
  bool sources = json_array_size(status->sources) > 0, groups = json_array_size(status->groups) > 0;
  if (sources)
    print_sources(status, cli);
  if (sources && groups)
    txb_print("\n");
  if (groups)
    print_groups(status, cli);
  print_jobs(status, cli);
  txb_status_sagas_print(status, cli);
  print_failed(status, cli);
  print_failed_jobs(status, cli);
}
