/* What the commands about replay jobs ask the consuming database, and the pin that keeps a range in the source. Each
 * call is one transaction of the server's functions: a crash in between leaves it done or not. */
#include <inttypes.h>

#include "broker/cli/replay.h"
#include "cli_sql.h"
#include "common/memory.h"
#include "common/nearest.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static const struct txb_pg_statement start_statement = {"cli_replay_start", txb_text_cli_replay_start};
static const struct txb_pg_statement list_statement = {"cli_replay_list", txb_text_cli_replay_list};
static const struct txb_pg_statement show_statement = {"cli_replay_show", txb_text_cli_replay_show};
static const struct txb_pg_statement named_statement = {"cli_replay_named", txb_text_cli_replay_named};
static const struct txb_pg_statement known_statement = {"cli_replay_known", txb_text_cli_replay_known};
static const struct txb_pg_statement count_max_statement = {"cli_replay_count_max", txb_text_cli_replay_count_max};
static const struct txb_pg_statement held_statement = {"cli_replay_held", txb_text_cli_replay_held};
static const struct txb_pg_statement rate_statement = {"cli_replay_rate", txb_text_cli_replay_rate};
static const struct txb_pg_statement pin_statement = {"cli_replay_pin", txb_text_cli_replay_pin};
static const struct txb_pg_statement unpin_statement = {"cli_replay_unpin", txb_text_cli_replay_unpin};
static const struct txb_pg_statement decide_statements[] = {
    [TXB_REPLAY_PAUSE] = {"cli_replay_pause", txb_text_cli_replay_pause},
    [TXB_REPLAY_RESUME] = {"cli_replay_resume", txb_text_cli_replay_resume},
    [TXB_REPLAY_CANCEL] = {"cli_replay_cancel", txb_text_cli_replay_cancel},
};

/* ---- which database --------------------------------------------------------------------------------------- */

static enum txb_rc group_uri(const struct txb_cli *cli, const char *group, const char **uri_out,
                             struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  const struct txb_group_settings *worker = txb_targets_group(s, group);
  const char *names[64];
  size_t count = 0;
  if (worker != NULL) {
    *uri_out = worker->database;
    return TXB_OK;
  }
  for (; count < s->workers.count && count < TXB_ARRAY_SIZE(names); count++)
    names[count] = txb_settings_group(s, count)->group;
  const char *nearest = txb_nearest(group, names, count);
  if (nearest != NULL)
    return REFUSE(err, "the configuration has no worker of group \"%s\"; did you mean \"%s\"?", group, nearest);
  return REFUSE(err, "the configuration has no worker of group \"%s\"; give --database URI instead", group);
}

enum txb_rc txb_replay_targets(const struct txb_cli *cli, struct txb_targets *out, struct txb_error *err) {
  const char *uri = txb_args_text(&cli->args, "database"), *group = txb_args_text(&cli->args, "group");
  *out = (struct txb_targets){NULL, 0};
  if (uri == NULL && group != NULL)
    TXB_TRY(group_uri(cli, group, &uri, err));
  if (uri != NULL)
    return txb_targets_one(out, uri, err);
  if (cli->settings.workers.count == 0)
    return REFUSE(err, "no database: jobs are kept in that of their group; give --database URI, or a configuration "
                       "with workers");
  TXB_TRY(txb_targets_init(out, cli, err));
  size_t kept = 0;
  for (size_t i = 0; i < out->count; i++) {
    if (out->items[i].worker)
      out->items[kept++] = out->items[i];
    else
      txb_free(out->items[i].sources);
  }
  out->count = kept;
  txb_targets_merge(out);
  return TXB_OK;
}

enum txb_rc txb_replay_target(const struct txb_cli *cli, const char **uri_out, struct txb_error *err) {
  struct txb_targets targets;
  enum txb_rc rc = txb_replay_targets(cli, &targets, err);
  if (rc == TXB_OK && targets.count > 1)
    rc = REFUSE(err,
                "%s works on one database, and the groups of the configuration have %zu: choose with --group GROUP or "
                "--database URI",
                cli->args.command->name, targets.count);
  if (rc == TXB_OK)
    *uri_out = targets.items[0].uri; /* borrowed from the settings */
  txb_targets_fini(&targets);
  return rc;
}

/* ---- jobs ------------------------------------------------------------------------------------------------- */

static void add_number(struct txb_pg_params *params, int64_t number) {
  txb_pg_params_init(params);
  txb_pg_add_int8(params, number);
}

enum txb_rc txb_replay_named(struct txb_pg *consumer, const char *name, struct txb_replay_job *out,
                             struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  *out = (struct txb_replay_job){0};
  if (name == NULL)
    return TXB_OK;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(name));
  TXB_TRY(txb_failed_ask(consumer, &named_statement, &params, "txb_reader", &row, err));
  if (txb_pg_rows(row) == 0)
    return TXB_OK;
  out->number = txb_pg_int8(row, 0, 0);
  out->seq_from = txb_pg_is_null(row, 0, 1) ? 0 : txb_pg_int8(row, 0, 1);
  out->seq_to = txb_pg_is_null(row, 0, 2) ? 0 : txb_pg_int8(row, 0, 2); /* then live */
  out->kafka = txb_pg_bool(row, 0, 3);
  return TXB_OK;
}

/* Of an outbox they are empty, which the statement takes for none. */
void txb_replay_lanes_params(struct txb_pg_params *params, const struct txb_replay_lanes *lanes) {
  static const struct txb_replay_lanes none;
  const struct txb_replay_lanes *l = lanes == NULL ? &none : lanes;
  txb_pg_array_begin(params, TXB_OID_TEXT);
  for (size_t i = 0; i < l->count; i++)
    txb_pg_array_bytes(params, txb_slice_text(l->items[i].topic));
  txb_pg_array_end(params);
  txb_pg_array_begin(params, TXB_OID_INT4);
  for (size_t i = 0; i < l->count; i++)
    txb_pg_array_int4(params, l->items[i].partition);
  txb_pg_array_end(params);
  txb_pg_array_begin(params, TXB_OID_INT8);
  for (size_t i = 0; i < l->count; i++)
    txb_pg_array_int8(params, l->items[i].from);
  txb_pg_array_end(params);
  txb_pg_array_begin(params, TXB_OID_INT8);
  for (size_t i = 0; i < l->count; i++)
    txb_pg_array_int8(params, l->items[i].to);
  txb_pg_array_end(params);
}

static void add_firsts(struct txb_pg_params *params, const struct txb_replay_lanes *lanes) {
  size_t count = lanes == NULL ? 0 : lanes->count;
  txb_pg_array_begin(params, TXB_OID_INT8);
  for (size_t i = 0; i < count; i++)
    if (lanes->items[i].first < 0)
      txb_pg_array_bytes(params, txb_slice_of(NULL, 0));
    else
      txb_pg_array_int8(params, lanes->items[i].first);
  txb_pg_array_end(params);
  txb_pg_array_begin(params, TXB_OID_UUID);
  for (size_t i = 0; i < count; i++) {
    const struct txb_replay_lane *l = &lanes->items[i];
    bool known = l->first >= 0;
    txb_pg_array_bytes(params, txb_slice_of(known ? l->first_id.bytes : NULL, known ? sizeof l->first_id.bytes : 0));
  }
  txb_pg_array_end(params);
}

static void add_partitions(struct txb_pg_params *params, const struct txb_replay_wish *wish) {
  txb_pg_array_begin(params, TXB_OID_INT4);
  for (size_t i = 0; i < wish->partition_count; i++)
    txb_pg_array_int4(params, wish->partitions[i]);
  txb_pg_array_end(params);
}

enum txb_rc txb_replay_start(struct txb_pg *consumer, const struct txb_replay_wish *wish,
                             const struct txb_replay_range *range, const struct txb_replay_lanes *lanes,
                             int64_t *number_out, bool *existed_out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_replay_range_params(&params, wish, range);
  txb_pg_add_text(&params, txb_slice_text(wish->name));
  txb_pg_add_text(&params, txb_slice_text(wish->group));
  txb_pg_add_bool(&params, wish->forced);
  txb_pg_add_bool(&params, wish->then_live);
  txb_failed_add_after(&params, wish->rate_max);
  txb_pg_add_text(&params, txb_slice_text(wish->reason));
  txb_pg_add_text(&params, txb_slice_text(txb_person()));
  txb_replay_lanes_params(&params, lanes);
  txb_pg_add_text(&params, txb_slice_text(lanes == NULL ? NULL : lanes->cluster_id));
  txb_pg_add_text(&params, txb_slice_text(wish->to_topic));
  add_partitions(&params, wish);
  add_firsts(&params, lanes);
  TXB_TRY(txb_failed_ask(consumer, &start_statement, &params, "txb_admin", &row, err));
  *number_out = txb_pg_int8(row, 0, 0);
  *existed_out = txb_pg_bool(row, 0, 1);
  return TXB_OK;
}

enum txb_rc txb_replay_ask_inbox(struct txb_pg *consumer, const char *group, const struct txb_uuid *ids, size_t count,
                                 int64_t *known, int64_t *forgotten, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(group));
  txb_pg_array_begin(&params, TXB_OID_UUID);
  for (size_t i = 0; i < count; i++)
    txb_pg_array_bytes(&params, txb_slice_of(ids[i].bytes, sizeof ids[i].bytes));
  txb_pg_array_end(&params);
  TXB_TRY(txb_failed_ask(consumer, &known_statement, &params, "txb_reader", &row, err));
  *known += txb_pg_int8(row, 0, 0);
  *forgotten += txb_pg_int8(row, 0, 1);
  return TXB_OK;
}

enum txb_rc txb_replay_count_max(struct txb_pg *consumer, int32_t *out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  TXB_TRY(txb_failed_ask(consumer, &count_max_statement, &params, "txb_reader", &row, err));
  *out = txb_pg_int4(row, 0, 0);
  return TXB_OK;
}

enum txb_rc txb_replay_held(struct txb_pg *consumer, const struct txb_replay_wish *wish, struct txb_pg_result **out,
                            struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(wish->group));
  txb_pg_array_begin(&params, TXB_OID_TEXT);
  for (size_t i = 0; i < wish->topic_count; i++)
    txb_pg_array_bytes(&params, txb_slice_text(wish->topics[i]));
  txb_pg_array_end(&params);
  return txb_failed_ask(consumer, &held_statement, &params, "txb_reader", out, err);
}

enum txb_rc txb_replay_list(struct txb_pg *consumer, int64_t after, int page, json_t **out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *rows = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_failed_add_after(&params, after);
  txb_pg_add_int4(&params, page);
  TXB_TRY(txb_failed_ask(consumer, &list_statement, &params, "txb_reader", &rows, err));
  *out = txb_failed_json_rows(rows);
  return TXB_OK;
}

enum txb_rc txb_replay_show(struct txb_pg *consumer, int64_t number, json_t **out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  add_number(&params, number);
  TXB_TRY(txb_failed_ask(consumer, &show_statement, &params, "txb_reader", &row, err));
  *out = txb_failed_json(row, 0, 0);
  return TXB_OK;
}

enum txb_rc txb_replay_decide(struct txb_pg *consumer, enum txb_replay_action action, int64_t number,
                              const char *reason, struct txb_error *err) {
  struct txb_pg_params params;
  add_number(&params, number);
  txb_pg_add_text(&params, txb_slice_text(txb_person()));
  txb_pg_add_text(&params, txb_slice_text(reason));
  return txb_failed_ask(consumer, &decide_statements[action], &params, "txb_admin", NULL, err);
}

enum txb_rc txb_replay_rate(struct txb_pg *consumer, int64_t number, int64_t rate_max, struct txb_error *err) {
  struct txb_pg_params params;
  add_number(&params, number);
  txb_failed_add_after(&params, rate_max);
  txb_pg_add_text(&params, txb_slice_text(txb_person()));
  return txb_failed_ask(consumer, &rate_statement, &params, "txb_admin", NULL, err);
}

/* ---- pins ------------------------------------------------------------------------------------------------- */

enum txb_rc txb_replay_pin(struct txb_pg *source, const char *name, int64_t lo, const char *what,
                           struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(name));
  txb_pg_add_int8(&params, lo);
  txb_pg_add_text(&params, txb_slice_text(what));
  return txb_failed_ask(source, &pin_statement, &params, "txb_admin", NULL, err);
}

enum txb_rc txb_replay_unpin(struct txb_pg *source, const char *name, struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(name));
  return txb_failed_ask(source, &unpin_statement, &params, "txb_admin", NULL, err);
}
