/* doctor: everything that is checked, in order, and what to do about it. Changes nothing. */
#include "broker/cli/doctor.h"

#include <stdarg.h>
#include <string.h>

#include "broker/cli/targets.h"
#include "common/memory.h"

static const char *const health_names[] = {
    [TXB_HEALTH_OK] = "ok", [TXB_HEALTH_WARN] = "warn", [TXB_HEALTH_FAIL] = "fail"};

void txb_doctor_add(struct txb_doctor *d, enum txb_health health, const char *check, const char *of, const char *remedy,
                    const char *found, ...) {
  struct txb_buffer text;
  va_list args;
  txb_buffer_init(&text);
  va_start(args, found);
  txb_buffer_vaddf(&text, found, args);
  va_end(args);
  if (!txb_slice_is_text(txb_slice_of(txb_buffer_text(&text), text.size))) /* a server's message in another encoding */
    for (size_t i = 0; i < text.size; i++)
      if ((unsigned char)text.data[i] >= 0x80)
        text.data[i] = '?';
  json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:s*}", "check", check, "of", of, "result", health_names[health],
                          "found", txb_buffer_text(&text), "remedy", remedy);
  (void)json_array_append_new(d->checks, row);
  d->failures += health == TXB_HEALTH_FAIL;
  txb_buffer_fini(&text);
}

void txb_doctor_add_error(struct txb_doctor *d, const char *check, const char *of, const struct txb_error *err) {
  struct txb_error told = *err;
  if (txb_target_timed_out(err))
    (void)txb_target_explain(of, d->timeout_ms, &told);
  txb_doctor_add(d, TXB_HEALTH_FAIL, check, of, txb_next_step(&told), "%s", told.message);
}

static struct txb_pg *pg_of(const struct txb_targets *targets, struct txb_pg *const *open, const char *uri) {
  for (size_t i = 0; i < targets->count; i++)
    if (strcmp(targets->items[i].uri, uri) == 0)
      return open[i];
  return NULL;
}

static bool is_consumed(const struct txb_settings *s, const char *topic) {
  for (size_t i = 0; i < s->workers.count; i++)
    for (size_t j = 0; j < txb_settings_group(s, i)->topics.count; j++)
      if (strcmp(txb_settings_group(s, i)->topics.items[j], topic) == 0)
        return true;
  return false;
}

static void examine(struct txb_doctor *d, const struct txb_targets *targets, struct txb_pg **open) {
  const struct txb_settings *s = &d->cli->settings;
  for (size_t i = 0; i < targets->count; i++)
    txb_doctor_database(d, &targets->items[i], &open[i]);
  txb_doctor_kafka(d);
  for (size_t i = 0; i < s->workers.count; i++) {
    const struct txb_group_settings *group = txb_settings_group(s, i);
    struct txb_pg *pg = pg_of(targets, open, group->database);
    txb_doctor_handler(d, group, pg);
    for (size_t j = 0; j < group->topics.count; j++)
      txb_doctor_topic(d, group->topics.items[j], group->group, group->inbox_keep_ms);
    if (pg != NULL)
      txb_doctor_positions(d, group, pg);
  }
  const char *topic;
  json_t *of;
  json_object_foreach(d->topics, topic, of) {
    if (!is_consumed(s, topic))
      txb_doctor_topic(d, topic, json_string_value(of), 0);
  }
}

static void print_text(const struct txb_doctor *d) {
  const json_t *row;
  size_t i, check_width = 0, of_width = 0;
  json_array_foreach(d->checks, i, row) {
    size_t check = json_string_length(json_object_get(row, "check")),
           of = json_string_length(json_object_get(row, "of"));
    check_width = check > check_width ? check : check_width;
    of_width = of > of_width ? of : of_width;
  }
  json_array_foreach(d->checks, i, row) {
    const char *result = json_string_value(json_object_get(row, "result")),
               *remedy = json_string_value(json_object_get(row, "remedy"));
    const char *color = strcmp(result, "ok") == 0 ? "\033[32m" : strcmp(result, "warn") == 0 ? "\033[33m" : "\033[31m";
    txb_print("%s%-4s%s  %-*s  %-*s  %s\n", txb_color(d->cli, color), result, txb_color(d->cli, "\033[0m"),
              (int)check_width, json_string_value(json_object_get(row, "check")), (int)of_width,
              json_string_value(json_object_get(row, "of")), json_string_value(json_object_get(row, "found")));
    if (remedy != NULL)
      txb_print("%*s-> %s\n", (int)(check_width + of_width) + 10, "", remedy);
  }
}

static void print_all(const struct txb_doctor *d) {
  if (d->cli->output == TXB_OUTPUT_TEXT) {
    print_text(d);
    return;
  }
  if (d->cli->output == TXB_OUTPUT_JSON) {
    json_t *document = json_pack("{s:b, s:O}", "ok", d->failures == 0, "checks", d->checks);
    txb_print_json(d->cli, document);
    json_decref(document);
    return;
  }
  const json_t *row;
  size_t i;
  json_array_foreach(d->checks, i, row) {
    txb_print_json(d->cli, row);
  }
}

static enum txb_rc run(struct txb_cli *cli, struct txb_targets *targets, int *failures_out, struct txb_error *err) {
  struct txb_doctor d = {.cli = cli};
  void *open;
  TXB_TRY(txb_targets_timeout(cli, &d.timeout_ms, err));
  TXB_TRY(txb_targets_init(targets, cli, err));
  TXB_TRY(txb_alloc_array(targets->count, sizeof(struct txb_pg *), &open, err));
  d.checks = json_array();
  d.topics = json_object();
  examine(&d, targets, open);
  print_all(&d);
  *failures_out = d.failures;
  for (size_t i = 0; i < targets->count; i++)
    txb_pg_close(((struct txb_pg **)open)[i]);
  txb_kafka_inspect_close(d.kafka);
  json_decref(d.checks);
  json_decref(d.topics);
  txb_free(open);
  return TXB_OK;
}

int txb_cmd_doctor(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_targets targets = {NULL, 0};
  int failures = 0;
  enum txb_rc rc = run(cli, &targets, &failures, &err);
  txb_targets_fini(&targets);
  if (rc != TXB_OK)
    return txb_fail(&err);
  return failures == 0 ? TXB_EXIT_DONE : TXB_EXIT_FAILED;
}
