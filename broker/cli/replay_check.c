/* What stands against a replay: told by a plan, and before a start asks. Changes nothing. */
#include <stdio.h>
#include <string.h>

#include "broker/cli/replay.h"
#include "broker/cli/safe_text.h"
#include "cli_sql.h"
#include "common/clock.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define VALUES_SHOWN     3

static const struct txb_pg_statement missing_statement = {"cli_replay_missing", txb_text_cli_replay_missing};
static const struct txb_pg_statement refusal_statement = {"cli_replay_refusal", txb_text_cli_replay_refusal};

enum txb_rc txb_replay_check_target(const struct txb_cli *cli, const struct txb_replay_wish *wish,
                                    struct txb_error *err) {
  return wish->to_topic == NULL ? TXB_OK : txb_target_topic(cli, "txbroker-replay", wish->to_topic, err);
}

/* For a topic any --topic may be taken, not only those of the group: so one that was mistyped is seen by this alone. */
enum txb_rc txb_replay_check_topics(struct txb_pg *source, const struct txb_replay_wish *wish,
                                    const struct txb_replay_range *range, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  if (wish->to_topic == NULL || txb_replay_wish_nth(wish, "topic", 0) == NULL)
    return TXB_OK;
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, range->seq_from);
  txb_pg_add_int8(&params, range->seq_to);
  txb_replay_topics_param(&params, wish);
  TXB_TRY(txb_failed_ask(source, &missing_statement, &params, "txb_reader", &row, err));
  if (txb_pg_rows(row) == 0)
    return TXB_OK;
  return REFUSE(err, "source \"%s\" holds nothing of topic %s from %s to %s: correct --topic, --from or --to",
                wish->source, txb_pg_text(row, 0, 0), wish->from.text == NULL ? "the beginning" : wish->from.text,
                wish->to.text == NULL ? "now" : wish->to.text);
}

/* ---- a range without anything that is meant --------------------------------------------------------------- */

static const char *value_of(const struct txb_replay_wish *wish, const char *option, size_t n) {
  if (strcmp(option, "topic") != 0)
    return txb_replay_wish_nth(wish, option, n);
  return n < wish->topic_count ? wish->topics[n] : NULL; /* also those that only the configuration names */
}

/* `, key "k1" or "k2" or 3 more` */
static void add_values(const struct txb_replay_wish *wish, const char *option, const char *before,
                       struct txb_buffer *out) {
  const char *text;
  size_t n = 0;
  for (; (text = value_of(wish, option, n)) != NULL; n++) {
    if (n >= VALUES_SHOWN)
      continue;
    txb_buffer_addf(out, "%s\"", n == 0 ? before : " or ");
    txb_safe_add(out, txb_slice_text(text), 40, TXB_SAFE_LINE);
    txb_buffer_add_text(out, "\"");
  }
  if (n > VALUES_SHOWN)
    txb_buffer_addf(out, " or %zu more", n - VALUES_SHOWN);
}

/* Of all that makes the range narrow, whatever was given may be what is wrong. */
static void add_remedy(const struct txb_replay_wish *wish, struct txb_buffer *out) {
  static const char *const options[] = {"topic", "key", "type", "partition", "from", "to"};
  const char *given[TXB_ARRAY_SIZE(options)];
  size_t count = 0;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(options); i++)
    if (txb_args_has(wish->args, options[i]))
      given[count++] = options[i];
  for (size_t i = 0; i < count; i++)
    txb_buffer_addf(out, "%s--%s", i == 0 ? "correct " : i + 1 < count ? ", " : " or ", given[i]);
  txb_buffer_add_text(out, count == 0 ? "nothing to replay" : count == 1 ? ", or leave it out" : ", or leave them out");
}

enum txb_rc txb_replay_nothing(const struct txb_replay_wish *wish, struct txb_error *err) {
  struct txb_buffer text;
  txb_buffer_init(&text);
  if (wish->kafka)
    txb_buffer_add_text(&text, "Kafka");
  else
    txb_buffer_addf(&text, "source \"%s\"", wish->source);
  add_values(wish, "topic", " holds nothing of topic ", &text);
  add_values(wish, "key", ", key ", &text);
  add_values(wish, "type", ", type ", &text);
  txb_buffer_addf(&text, " from %s to %s: ", wish->from.text == NULL ? "the beginning" : wish->from.text,
                  wish->to.text == NULL ? "now" : wish->to.text);
  add_remedy(wish, &text);
  enum txb_rc rc = REFUSE(err, "%s", txb_buffer_text(&text));
  txb_buffer_fini(&text);
  return rc;
}

enum txb_rc txb_replay_check_any(const struct txb_cli *cli, struct txb_pg *source, const struct txb_replay_wish *wish,
                                 const struct txb_replay_range *range, struct txb_error *err) {
  int64_t first;
  if (wish->then_live) /* all that comes is meant, too */
    return TXB_OK;
  txb_progress(cli,
               "looking for what is meant ..."); /* no index has keys or types: all of the range, if there is none */
  enum txb_rc rc = txb_replay_range_first(source, wish, range, &first, err);
  txb_progress(cli, NULL);
  if (rc == TXB_OK && first == 0)
    return txb_replay_nothing(wish, err);
  return rc;
}

/* ---- what a start would refuse ---------------------------------------------------------------------------- */

static enum txb_rc ask_server(struct txb_pg *consumer, const struct txb_replay_wish *wish,
                              const struct txb_replay_range *range, const struct txb_replay_lanes *lanes,
                              struct txb_buffer *out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(wish->group));
  txb_pg_add_text(&params, txb_slice_text(wish->source));
  txb_pg_add_text(&params, txb_slice_text(lanes == NULL ? NULL : lanes->cluster_id));
  txb_replay_topics_param(&params, wish);
  txb_replay_number_param(&params, lanes == NULL, range->seq_from);
  txb_replay_number_param(&params, lanes == NULL && !wish->then_live, range->seq_to);
  txb_pg_add_bool(&params, wish->forced);
  txb_pg_add_bool(&params, wish->then_live);
  txb_pg_add_text(&params, txb_slice_text(wish->to_topic));
  txb_replay_lanes_params(&params, lanes);
  txb_replay_filter_params(&params, wish);
  TXB_TRY(txb_failed_ask(consumer, &refusal_statement, &params, "txb_reader", &row, err));
  if (!txb_pg_is_null(row, 0, 0))
    txb_buffer_add_text(out, txb_pg_text(row, 0, 0));
  if (!txb_pg_is_null(row, 0, 1))
    txb_buffer_addf(out, "; %s", txb_pg_text(row, 0, 1));
  return TXB_OK;
}

static enum txb_rc ask_all(const struct txb_cli *cli, struct txb_pg *consumer, struct txb_pg *source,
                           const struct txb_replay_wish *wish, const struct txb_replay_range *range,
                           const struct txb_replay_lanes *lanes, bool nothing, struct txb_buffer *out,
                           struct txb_error *err) {
  struct txb_error told;
  if (nothing && !wish->then_live && txb_replay_nothing(wish, &told) == TXB_REFUSED) {
    txb_buffer_add_text(out, told.message);
    return TXB_OK;
  }
  TXB_TRY(ask_server(consumer, wish, range, lanes, out, err));
  if (out->size > 0)
    return TXB_OK;
  enum txb_rc rc = lanes != NULL ? txb_replay_topics_remembered(cli, consumer, wish, lanes, &told)
                                 : txb_replay_range_remembered(consumer, source, wish, range, &told);
  if (rc == TXB_REFUSED && told.origin == TXB_ORIGIN_USAGE) {
    txb_buffer_add_text(out, told.message);
    return TXB_OK;
  }
  if (rc != TXB_OK && err != NULL)
    *err = told;
  return rc;
}

enum txb_rc txb_replay_refusal(const struct txb_cli *cli, struct txb_pg *consumer, struct txb_pg *source,
                               const struct txb_replay_wish *wish, const struct txb_replay_range *range,
                               const struct txb_replay_lanes *lanes, bool nothing, json_t *document,
                               struct txb_error *err) {
  struct txb_buffer text;
  struct txb_replay_job job;
  int64_t horizon;
  char since[28];
  TXB_TRY(txb_replay_horizon(consumer, &horizon, err));
  txb_clock_format(horizon, since);
  (void)json_object_set_new(document, "remembers_since", horizon == 0 ? json_null() : json_string(since));
  (void)json_object_set_new(document, "would_refuse", json_null());
  TXB_TRY(txb_replay_named(consumer, wish->name, &job, err));
  if (job.number > 0) /* a start finds it, and starts nothing */
    return TXB_OK;
  txb_buffer_init(&text);
  enum txb_rc rc = ask_all(cli, consumer, source, wish, range, lanes, nothing, &text, err);
  if (rc == TXB_OK && text.size > 0)
    (void)json_object_set_new(document, "would_refuse", json_string(txb_buffer_text(&text)));
  txb_buffer_fini(&text);
  return rc;
}

void txb_replay_print_refusal(const json_t *document) {
  const char *why = txb_failed_text(document, "would_refuse");
  struct txb_buffer safe;
  if (why == NULL)
    return;
  txb_buffer_init(&safe);
  txb_safe_add(&safe, txb_slice_text(why), 0, TXB_SAFE_LINE); /* names of jobs and people are in it */
  txb_print("\nreplay start would refuse this: %s\n", txb_buffer_text(&safe));
  txb_buffer_fini(&safe);
}

void txb_replay_print_forgotten(const struct txb_replay_wish *wish, const json_t *document) {
  const char *since = txb_failed_text(document, "remembers_since");
  char text[200];
  if (wish->to_topic == NULL)
    (void)snprintf(text, sizeof text,
                   "are older than the inbox remembers: `replay start` refuses them without --force");
  else
    (void)snprintf(text, sizeof text,
                   "are older than %.19sZ: groups of databases whose inbox forgets what was before that will refuse "
                   "their copies",
                   since == NULL ? "" : since);
  txb_replay_plan_line(document, "forgotten", text);
}
