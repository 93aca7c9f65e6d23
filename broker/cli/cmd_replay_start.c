/* replay plan, replay start. The range is pinned in the source before the job is there, so that retention can't take it
 * in between; then the pin goes over to the job's own name. A crash before the job is started leaves a pin that nobody
 * renews: it counts for seven days. A crash after it leaves the job, and perhaps that pin.
 *
 * What is read from Kafka is kept there by nobody: there is nothing to pin, and a start is one transaction. */
#include <inttypes.h>
#include <stdio.h>

#include "broker/cli/replay.h"
#include "common/clock.h"
#include "common/uuid.h"
#include "consumer/job_core.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

struct both {
  struct txb_pg *consumer, *source;
};

static enum txb_rc connect_one(const struct txb_cli *cli, const char *uri, const char *what, const char *name,
                               struct txb_pg **out, struct txb_error *err) {
  enum txb_rc rc = txb_failed_connect(cli, uri, out, err);
  return rc == TXB_OK ? TXB_OK : txb_error_prefix(err, "%s %s", what, name);
}

static enum txb_rc connect_both(const struct txb_cli *cli, const struct txb_replay_wish *wish, struct both *out,
                                struct txb_error *err) {
  TXB_TRY(connect_one(cli, wish->consumer_uri, "group", wish->group, &out->consumer, err));
  if (wish->kafka)
    return TXB_OK;
  return connect_one(cli, wish->source_uri, "source", wish->source, &out->source, err);
}

/* "group ledger, also what was applied already", "topic copies, by the workers of group ledger" */
static void add_target(const struct txb_replay_wish *wish, struct txb_buffer *out) {
  if (wish->to_topic != NULL)
    txb_buffer_addf(out, "topic %s, by the workers of group %s", wish->to_topic, wish->group);
  else
    txb_buffer_addf(out, "group %s%s", wish->group, wish->forced ? ", also what was applied already" : "");
}

static enum txb_rc ask(const struct txb_replay_wish *wish, const struct txb_replay_range *range,
                       const struct txb_replay_lanes *lanes, bool *yes, struct txb_error *err) {
  struct txb_buffer target;
  *yes = true;
  if (wish->yes)
    return TXB_OK;
  if (!txb_can_ask())
    return REFUSE(err, "replay start asks before it starts: add --yes, or --dry-run to see what would be replayed");
  txb_buffer_init(&target);
  add_target(wish, &target);
  if (lanes != NULL)
    *yes = txb_ask_yes("replay %" PRId64 " offsets of %zu partition%s of Kafka into %s?", txb_replay_lanes_span(lanes),
                       lanes->count, lanes->count == 1 ? "" : "s", txb_buffer_text(&target));
  else if (wish->then_live)
    *yes = txb_ask_yes("replay source %s from number %" PRId64 " on into group %s, and go on live?", wish->source,
                       range->seq_from, wish->group);
  else
    *yes = txb_ask_yes("replay numbers %" PRId64 " to %" PRId64 " of source %s into %s?", range->seq_from,
                       range->seq_to - 1, wish->source, txb_buffer_text(&target));
  txb_buffer_fini(&target);
  return TXB_OK;
}

/* The lowest number that a lane still has to read; 0: none has. */
static int64_t lowest_wanted(const json_t *job) {
  const json_t *lane;
  size_t i;
  int64_t lowest = 0;
  json_array_foreach(json_object_get(job, "lanes"), i, lane) {
    int64_t position = json_integer_value(json_object_get(lane, "position"));
    if (!json_is_true(json_object_get(lane, "done")) && (lowest == 0 || position < lowest))
      lowest = position;
  }
  return lowest;
}

/* The job's own pin is what its workers renew, and take away at its end. One that was started by a command which was
 * killed right behind it has none yet. */
static enum txb_rc pin_as_job(const struct both *both, int64_t number, const struct txb_replay_wish *wish,
                              struct txb_error *err) {
  json_t *job;
  char name[160], what[TXB_JOB_PIN_WHAT_SIZE];
  TXB_TRY(txb_replay_show(both->consumer, number, &job, err));
  int64_t lowest = txb_replay_is_final(job) ? 0 : lowest_wanted(job);
  (void)snprintf(name, sizeof name, "%s", txb_failed_text(job, "pin"));
  txb_job_pin_what(txb_failed_text(job, "database"), wish->group, number, what);
  json_decref(job);
  return lowest > 0 ? txb_replay_pin(both->source, name, lowest, what, err) : TXB_OK;
}

static void print_started(const struct txb_cli *cli, const struct txb_replay_wish *wish, int64_t number, bool existed) {
  if (cli->output != TXB_OUTPUT_TEXT) {
    json_t *document =
        json_pack("{s:I, s:b, s:s?, s:s, s:s?, s:s?}", "number", (json_int_t)number, "existed", existed, "name",
                  wish->name, "group", wish->group, "source", wish->source, "to_topic", wish->to_topic);
    txb_failed_print_json(cli, document);
    json_decref(document);
    return;
  }
  struct txb_buffer text;
  txb_buffer_init(&text);
  txb_failed_called(cli, "replay show", (json_int_t)number, &text);
  if (existed)
    txb_print("job %" PRId64 " of that name is there already: nothing was started\n", number);
  else
    txb_print("job %" PRId64 " is started; a running worker of group %s takes it%s%s\n", number, wish->group,
              wish->to_topic != NULL ? ", and writes its messages to the outbox for topic " : "",
              wish->to_topic != NULL ? wish->to_topic : "");
  txb_print("  %s --follow\n", txb_buffer_text(&text));
  txb_buffer_fini(&text);
}

/* Two that start one name at once make one job: the server decides. */
static enum txb_rc start_pinned(const struct txb_cli *cli, struct both *both, const struct txb_replay_wish *wish,
                                const struct txb_replay_range *range, struct txb_error *err) {
  int64_t number;
  bool existed;
  TXB_TRY(txb_replay_start(both->consumer, wish, range, NULL, &number, &existed, err));
  TXB_TRY(pin_as_job(both, number, wish, err));
  print_started(cli, wish, number, existed);
  return TXB_OK;
}

/* The same command again: whether it says the same is for the server to compare, but for the ends that move with time. */
static enum txb_rc start_again(const struct txb_cli *cli, struct both *both, const struct txb_replay_wish *wish,
                               const struct txb_replay_job *job, struct txb_error *err) {
  struct txb_replay_range range;
  int64_t number;
  bool existed;
  TXB_TRY(txb_replay_range_again(both->source, wish, job->seq_from, job->seq_to, &range, err));
  TXB_TRY(txb_replay_start(both->consumer, wish, &range, NULL, &number, &existed, err));
  TXB_TRY(pin_as_job(both, number, wish, err));
  print_started(cli, wish, number, existed);
  return TXB_OK;
}

/* What was dropped before the pin was there is seen now: from here on what is there stays there. */
static enum txb_rc start_kept(const struct txb_cli *cli, struct both *both, const struct txb_replay_wish *wish,
                              struct txb_error *err) {
  struct txb_replay_range range;
  TXB_TRY(txb_replay_range_read(both->source, wish, &range, err));
  TXB_TRY(txb_replay_range_remembered(both->consumer, both->source, wish, &range, err));
  return start_pinned(cli, both, wish, &range, err);
}

static enum txb_rc start(const struct txb_cli *cli, struct both *both, const struct txb_replay_wish *wish,
                         const struct txb_replay_range *range, struct txb_error *err) {
  struct txb_uuid id;
  char text[37], name[64], what[320];
  txb_uuid_v7(txb_clock_wall_us(), &id);
  txb_uuid_format(&id, text);
  (void)snprintf(name, sizeof(name), "replay-start-%s", text);
  (void)snprintf(what, sizeof(what), "a replay into group %s that is being started", wish->group);
  TXB_TRY(txb_replay_pin(both->source, name, range->seq_from, what, err));
  enum txb_rc rc = start_kept(cli, both, wish, err);
  struct txb_error ignored; /* what went wrong first is told; a pin that is left counts for some days only */
  enum txb_rc unpinned = txb_replay_unpin(both->source, name, rc == TXB_OK ? err : &ignored);
  return rc == TXB_OK ? unpinned : rc;
}

static void decline(int *code) {
  txb_say("nothing was started");
  *code = TXB_EXIT_FAILED;
}

/* ---- from Kafka ------------------------------------------------------------------------------------------- */

static enum txb_rc start_lanes(const struct txb_cli *cli, struct both *both, const struct txb_replay_wish *wish,
                               const struct txb_replay_range *times, const struct txb_replay_lanes *lanes,
                               struct txb_error *err) {
  int64_t number;
  bool existed;
  TXB_TRY(txb_replay_start(both->consumer, wish, times, lanes, &number, &existed, err));
  print_started(cli, wish, number, existed);
  return TXB_OK;
}

static enum txb_rc go_lanes(const struct txb_cli *cli, struct both *both, const struct txb_replay_wish *wish,
                            const struct txb_replay_range *times, struct txb_replay_lanes *lanes, int *code,
                            struct txb_error *err) {
  bool yes, any;
  if (wish->dry_run)
    return txb_replay_topics_plan(cli, both->consumer, wish, times, lanes, err);
  TXB_TRY(txb_replay_topics_remembered(cli, both->consumer, wish, lanes, err));
  TXB_TRY(txb_replay_topics_warn(cli, both->consumer, wish, lanes, err));
  TXB_TRY(txb_replay_topics_firsts(cli, lanes, err));
  TXB_TRY(txb_replay_topics_any(cli, wish, lanes, &any, err));
  if (!any)
    return txb_replay_nothing(wish, err);
  TXB_TRY(ask(wish, times, lanes, &yes, err));
  if (yes)
    return start_lanes(cli, both, wish, times, lanes, err);
  decline(code);
  return TXB_OK;
}

/* The same command again asks no Kafka: what was meant stands in the job. */
static enum txb_rc go_kafka(const struct txb_cli *cli, struct both *both, const struct txb_replay_wish *wish,
                            const struct txb_replay_job *job, int *code, struct txb_error *err) {
  struct txb_replay_range times = {0};
  struct txb_replay_lanes lanes;
  TXB_TRY(txb_replay_range_times(both->consumer, wish, &times, err));
  bool again = job->number > 0 && job->kafka && !wish->dry_run;
  if (!again)
    TXB_TRY(txb_replay_check_target(cli, wish, err));
  enum txb_rc rc = again ? txb_replay_topics_again(both->consumer, job->number, wish, &lanes, err)
                         : txb_replay_topics_read(cli, wish, &times, &lanes, err);
  if (rc == TXB_OK)
    rc = again ? start_lanes(cli, both, wish, &times, &lanes, err)
               : go_lanes(cli, both, wish, &times, &lanes, code, err);
  txb_replay_lanes_fini(&lanes);
  return rc;
}

/* ---- either ----------------------------------------------------------------------------------------------- */

static enum txb_rc go(const struct txb_cli *cli, struct both *both, const struct txb_replay_wish *wish, int *code,
                      struct txb_error *err) {
  struct txb_replay_range range;
  struct txb_replay_job job;
  bool yes;
  TXB_TRY(connect_both(cli, wish, both, err));
  TXB_TRY(txb_replay_named(both->consumer, wish->name, &job, err));
  if (wish->kafka)
    return go_kafka(cli, both, wish, &job, code, err);
  if (job.number > 0 && !job.kafka && !wish->dry_run)
    return start_again(cli, both, wish, &job, err);
  TXB_TRY(txb_replay_range_read(both->source, wish, &range, err));
  TXB_TRY(txb_replay_check_topics(both->source, wish, &range, err));
  TXB_TRY(txb_replay_check_target(cli, wish, err));
  if (wish->dry_run)
    return txb_replay_plan(cli, both->consumer, both->source, wish, &range, err);
  TXB_TRY(txb_replay_check_any(cli, both->source, wish, &range, err));
  TXB_TRY(txb_replay_range_remembered(both->consumer, both->source, wish, &range, err));
  TXB_TRY(txb_replay_range_warn(both->consumer, both->source, wish, &range, err));
  TXB_TRY(ask(wish, &range, NULL, &yes, err));
  if (yes)
    return start(cli, both, wish, &range, err);
  decline(code);
  return TXB_OK;
}

static int run(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_replay_wish wish;
  struct both both = {NULL, NULL};
  int code = TXB_EXIT_DONE;
  enum txb_rc rc = txb_replay_wish_read(cli, &wish, &err);
  if (rc == TXB_OK)
    rc = go(cli, &both, &wish, &code, &err);
  txb_pg_close(both.consumer);
  txb_pg_close(both.source);
  txb_replay_wish_fini(&wish);
  return rc == TXB_OK ? code : txb_fail(&err);
}

int txb_cmd_replay_plan(struct txb_cli *cli) {
  return run(cli);
}

int txb_cmd_replay_start(struct txb_cli *cli) {
  return run(cli);
}
