/* The numbers of a source's outbox that a replay means. Times become numbers here, generously: the lanes compare times
 * themselves. Ranges end at the watermark, since rows may still appear above it (J1). */
#include <inttypes.h>
#include <string.h>

#include "broker/cli/replay.h"
#include "cli_sql.h"
#include "common/clock.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
/* By how many numbers sessions may overtake one another in time, at the most: also a server's clock that was set back
 * by some seconds. */
#define OVERTAKEN_MAX 100000

static const struct txb_pg_statement range_statement = {"cli_replay_range", txb_text_cli_replay_range};
static const struct txb_pg_statement first_statement = {"cli_replay_first", txb_text_cli_replay_first};
static const struct txb_pg_statement horizon_statement = {"cli_replay_horizon", txb_text_cli_replay_horizon};
static const struct txb_pg_statement times_statement = {"cli_replay_times", txb_text_cli_replay_times};
static const struct txb_pg_statement seq_at_statement = {"cli_replay_seq_at", txb_text_cli_replay_seq_at};

struct outbox {
  int64_t lowest, watermark; /* lowest 0: it is empty */
};

void txb_replay_topics_param(struct txb_pg_params *params, const struct txb_replay_wish *wish) {
  txb_pg_array_begin(params, TXB_OID_TEXT);
  for (size_t i = 0; i < wish->topic_count; i++)
    txb_pg_array_bytes(params, txb_slice_text(wish->topics[i]));
  txb_pg_array_end(params);
}

static void time_text(int64_t wall_us, char out[28]) {
  txb_clock_format(wall_us, out);
  memcpy(out + 19, "Z", 2); /* whole seconds */
}

static enum txb_rc look(struct txb_pg *pg, const struct txb_replay_wish *w, struct txb_replay_range *out,
                        struct outbox *outbox, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(w->source));
  txb_replay_topics_param(&params, w);
  TXB_TRY(txb_failed_ask(pg, &range_statement, &params, "txb_admin", &row, err));
  if (txb_pg_rows(row) == 0)
    return REFUSE(err,
                  "%s: no relay has published for a source \"%s\" here yet; correct --source, or start its relay first",
                  txb_pg_name(pg), w->source);
  outbox->lowest = txb_pg_is_null(row, 0, 0) ? 0 : txb_pg_int8(row, 0, 0);
  outbox->watermark = txb_pg_int8(row, 0, 2);
  out->lowest_time_us = txb_pg_is_null(row, 0, 1) ? 0 : txb_pg_timestamptz_us(row, 0, 1);
  out->watermark = outbox->watermark;
  out->whole = txb_pg_bool(row, 0, 3);
  out->waits_from = txb_pg_is_null(row, 0, 4) ? 0 : txb_pg_int8(row, 0, 4);
  return TXB_OK;
}

static const char *time_of(const struct txb_replay_bound *bound) {
  return bound->is_time ? bound->text : NULL;
}

static enum txb_rc ask_times(struct txb_pg *pg, const char *from, const char *to, struct txb_pg_result **out,
                             struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(from));
  txb_pg_add_text(&params, txb_slice_text(to));
  return txb_failed_ask(pg, &times_statement, &params, "txb_reader", out, err);
}

/* What the server says names no option. */
static enum txb_rc check_time(struct txb_pg *pg, const struct txb_replay_wish *w, const char *option,
                              const struct txb_replay_bound *bound, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  if (!bound->is_time)
    return TXB_OK;
  enum txb_rc rc = ask_times(pg, bound->text, NULL, &row, err);
  if (rc != TXB_REFUSED || (strncmp(err->sqlstate, "22", 2) != 0))
    return rc;
  return REFUSE(err, "--%s: \"%s\" is no time: give one like 2026-01-31T12:00:00Z, %s, or %s", option, bound->text,
                w->kafka ? "an offset" : "a number of the outbox", strcmp(option, "from") == 0 ? "beginning" : "now");
}

enum txb_rc txb_replay_range_times(struct txb_pg *pg, const struct txb_replay_wish *w, struct txb_replay_range *out,
                                   struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  if (!w->from.is_time && !w->to.is_time)
    return TXB_OK;
  TXB_TRY(check_time(pg, w, "from", &w->from, err));
  TXB_TRY(check_time(pg, w, "to", &w->to, err));
  TXB_TRY(ask_times(pg, time_of(&w->from), time_of(&w->to), &row, err));
  for (int i = 0; i < 2; i++)
    if (!txb_pg_bool(row, 0, 2 + i))
      return REFUSE(err, "--%s %s lies in the time to come: %s", i == 0 ? "from" : "to",
                    i == 0 ? w->from.text : w->to.text,
                    i == 0 ? "give one that is over" : "leave --to out, and start another job later");
  out->has_time_from = !txb_pg_is_null(row, 0, 0);
  out->has_time_to = !txb_pg_is_null(row, 0, 1);
  if (out->has_time_from)
    out->time_from_us = txb_pg_timestamptz_us(row, 0, 0);
  if (out->has_time_to)
    out->time_to_us = txb_pg_timestamptz_us(row, 0, 1);
  return TXB_OK;
}

static enum txb_rc seq_at(struct txb_pg *pg, int64_t wall_us, int64_t low, int64_t high, int64_t *out,
                          struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_timestamptz(&params, wall_us);
  txb_pg_add_int8(&params, low);
  txb_pg_add_int8(&params, high);
  TXB_TRY(txb_failed_ask(pg, &seq_at_statement, &params, "txb_reader", &row, err));
  *out = txb_pg_int8(row, 0, 0);
  return TXB_OK;
}

static enum txb_rc too_old(const struct txb_replay_wish *w, const struct txb_replay_range *r,
                           const struct outbox *outbox, struct txb_error *err) {
  char oldest[28];
  time_text(r->lowest_time_us, oldest);
  return REFUSE(err,
                "--from %s lies before what source \"%s\" still has: its oldest intent is number %" PRId64
                ", of %s; --from beginning takes it from there",
                w->from.text, w->source, outbox->lowest, oldest);
}

static enum txb_rc read_from(struct txb_pg *pg, const struct txb_replay_wish *w, const struct outbox *outbox,
                             struct txb_replay_range *r, struct txb_error *err) {
  bool old = w->from.seq > 0 ? w->from.seq < outbox->lowest : r->has_time_from && r->time_from_us < r->lowest_time_us;
  if (old && !r->whole)
    return too_old(w, r, outbox, err);
  r->seq_from = outbox->lowest;
  if (w->from.seq > outbox->lowest)
    r->seq_from = w->from.seq;
  if (!r->has_time_from)
    return TXB_OK;
  int64_t seq;
  TXB_TRY(seq_at(pg, r->time_from_us, outbox->lowest, outbox->watermark + 1, &seq, err));
  if (seq - OVERTAKEN_MAX > r->seq_from)
    r->seq_from = seq - OVERTAKEN_MAX;
  return TXB_OK;
}

static enum txb_rc read_to(struct txb_pg *pg, const struct txb_replay_wish *w, const struct outbox *outbox,
                           struct txb_replay_range *r, struct txb_error *err) {
  r->seq_to = outbox->watermark + 1;
  if (w->to.seq > r->seq_to)
    return REFUSE(err,
                  "--to %s lies above the watermark of source \"%s\": all is known up to number %" PRId64
                  ", so --to can be %" PRId64 " at most",
                  w->to.text, w->source, outbox->watermark, r->seq_to);
  if (w->to.seq > 0)
    r->seq_to = w->to.seq;
  if (!r->has_time_to)
    return TXB_OK;
  int64_t seq;
  TXB_TRY(seq_at(pg, r->time_to_us, outbox->lowest, r->seq_to, &seq, err));
  if (seq + OVERTAKEN_MAX < r->seq_to)
    r->seq_to = seq + OVERTAKEN_MAX;
  return TXB_OK;
}

/* A new group may follow an outbox that is empty still. */
static enum txb_rc live_range(const struct txb_replay_wish *w, const struct outbox *outbox, struct txb_replay_range *r,
                              struct txb_error *err) {
  if (r->seq_from == 0)
    r->seq_from = outbox->watermark + 1;
  r->seq_to = r->seq_from;
  if (r->seq_from > outbox->watermark + 1)
    return REFUSE(err, "--from %s lies above the watermark of source \"%s\": --from can be %" PRId64 " at most",
                  w->from.text, w->source, outbox->watermark + 1);
  return TXB_OK;
}

enum txb_rc txb_replay_range_read(struct txb_pg *source, const struct txb_replay_wish *wish,
                                  struct txb_replay_range *out, struct txb_error *err) {
  struct outbox outbox;
  *out = (struct txb_replay_range){0};
  TXB_TRY(look(source, wish, out, &outbox, err));
  TXB_TRY(txb_replay_range_times(source, wish, out, err));
  bool empty = outbox.lowest == 0 || outbox.lowest > outbox.watermark;
  if (empty && !wish->then_live)
    return REFUSE(err, "the outbox of source \"%s\" holds nothing up to its watermark, %" PRId64 ": nothing to replay",
                  wish->source, outbox.watermark);
  if (!empty)
    TXB_TRY(read_from(source, wish, &outbox, out, err));
  if (wish->then_live)
    return live_range(wish, &outbox, out, err);
  TXB_TRY(read_to(source, wish, &outbox, out, err));
  bool turned = out->has_time_from && out->has_time_to && out->time_from_us >= out->time_to_us;
  if (turned || out->seq_from >= out->seq_to)
    return REFUSE(err,
                  "nothing lies from %s to %s in source \"%s\": it ends with number %" PRId64
                  "; correct --from and --to, or leave them out",
                  wish->from.text == NULL ? "the beginning" : wish->from.text,
                  wish->to.text == NULL ? "now" : wish->to.text, wish->source, outbox.watermark);
  return TXB_OK;
}

enum txb_rc txb_replay_range_again(struct txb_pg *source, const struct txb_replay_wish *wish, int64_t seq_from,
                                   int64_t seq_to, struct txb_replay_range *out, struct txb_error *err) {
  *out = (struct txb_replay_range){.seq_from = wish->from.seq > 0 ? wish->from.seq : seq_from,
                                   .seq_to = wish->to.seq > 0 ? wish->to.seq : seq_to};
  return txb_replay_range_times(source, wish, out, err);
}

static void add_texts(struct txb_pg_params *params, const struct txb_replay_wish *wish, const char *option) {
  const char *text;
  txb_pg_array_begin(params, strcmp(option, "key") == 0 ? TXB_OID_BYTEA : TXB_OID_TEXT);
  for (size_t n = 0; (text = txb_replay_wish_nth(wish, option, n)) != NULL; n++)
    txb_pg_array_bytes(params, txb_slice_text(text));
  txb_pg_array_end(params);
}

void txb_replay_filter_params(struct txb_pg_params *params, const struct txb_replay_wish *wish) {
  add_texts(params, wish, "key");
  add_texts(params, wish, "type");
}

void txb_replay_number_param(struct txb_pg_params *params, bool has, int64_t number) {
  if (has)
    txb_pg_add_int8(params, number);
  else
    txb_pg_add_null(params, TXB_OID_INT8);
}

static void add_time(struct txb_pg_params *params, bool has, int64_t wall_us) {
  if (has)
    txb_pg_add_timestamptz(params, wall_us);
  else
    txb_pg_add_null(params, TXB_OID_TIMESTAMPTZ);
}

void txb_replay_range_params(struct txb_pg_params *params, const struct txb_replay_wish *wish,
                             const struct txb_replay_range *range) {
  txb_pg_add_text(params, txb_slice_text(wish->source));
  txb_replay_number_param(params, !wish->kafka, range->seq_from);
  txb_replay_number_param(params, !wish->kafka, range->seq_to);
  txb_replay_topics_param(params, wish);
  txb_replay_filter_params(params, wish);
  add_time(params, range->has_time_from, range->time_from_us);
  add_time(params, range->has_time_to, range->time_to_us);
}

/* ---- what the inbox remembers ----------------------------------------------------------------------------- */

static enum txb_rc one_time(struct txb_pg *pg, const struct txb_pg_statement *statement, struct txb_pg_params *params,
                            int64_t *wall_us_out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_failed_ask(pg, statement, params, "txb_reader", &row, err));
  bool none = txb_pg_rows(row) == 0 || txb_pg_is_null(row, 0, 0);
  *wall_us_out = none ? 0 : txb_pg_timestamptz_us(row, 0, 0);
  return TXB_OK;
}

enum txb_rc txb_replay_horizon(struct txb_pg *consumer, int64_t *wall_us_out, struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  return one_time(consumer, &horizon_statement, &params, wall_us_out, err);
}

enum txb_rc txb_replay_range_first(struct txb_pg *source, const struct txb_replay_wish *wish,
                                   const struct txb_replay_range *range, int64_t *wall_us_out, struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_replay_range_params(&params, wish, range);
  return one_time(source, &first_statement, &params, wall_us_out, err);
}

/* horizon 0: it begins with what the inbox remembers. */
static enum txb_rc look_before(struct txb_pg *consumer, struct txb_pg *source, const struct txb_replay_wish *wish,
                               const struct txb_replay_range *range, int64_t *horizon, struct txb_error *err) {
  int64_t first;
  TXB_TRY(txb_replay_horizon(consumer, horizon, err));
  if (*horizon == 0)
    return TXB_OK;
  TXB_TRY(txb_replay_range_first(source, wish, range, &first, err));
  if (first == 0 || first >= *horizon)
    *horizon = 0;
  return TXB_OK;
}

void txb_replay_warn_old(int64_t horizon_us) {
  char text[28];
  time_text(horizon_us, text);
  txb_say("some of these messages are older than %s: groups of databases whose inbox forgets what was before that will "
          "refuse their copies; `replay plan` counts them",
          text);
}

enum txb_rc txb_replay_range_warn(struct txb_pg *consumer, struct txb_pg *source, const struct txb_replay_wish *wish,
                                  const struct txb_replay_range *range, struct txb_error *err) {
  int64_t horizon = 0;
  if (wish->to_topic != NULL)
    TXB_TRY(look_before(consumer, source, wish, range, &horizon, err));
  if (horizon != 0)
    txb_replay_warn_old(horizon);
  return TXB_OK;
}

enum txb_rc txb_replay_range_remembered(struct txb_pg *consumer, struct txb_pg *source,
                                        const struct txb_replay_wish *wish, const struct txb_replay_range *range,
                                        struct txb_error *err) {
  int64_t horizon;
  char text[28];
  /* None of these relies on what live messages left in the inbox. */
  if (wish->forced || wish->then_live || wish->to_topic != NULL)
    return TXB_OK;
  TXB_TRY(look_before(consumer, source, wish, range, &horizon, err));
  if (horizon == 0)
    return TXB_OK;
  time_text(horizon, text);
  return REFUSE(err,
                "the inbox of group %s remembers what was applied since %s, and the range begins before: take --from "
                "%s, or --force with --reason to apply all of it again",
                wish->group, text, text);
}
