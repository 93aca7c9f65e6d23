/* demo saga: trips of a flight, a hotel and a payment, in three databases; one payment in five is declined. The
 * coordinator, participants and relays are killed while they have work; a verifier counts what was left over. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/demo.h"
#include "broker/saga/definition.h"
#include "cli_sql.h"
#include "common/clock.h"
#include "common/loop.h"

static const struct txb_pg_statement deploy_statement = {"cli_saga_deploy", txb_text_cli_saga_deploy},
                                     begin_statement = {"demo_trip_begin", txb_text_demo_trip_begin},
                                     look_statement = {"demo_trip_look", txb_text_demo_trip_look},
                                     ends_statement = {"demo_trip_ends", txb_text_demo_trip_ends},
                                     bookings_statement = {"demo_trip_bookings", txb_text_demo_trip_bookings},
                                     money_statement = {"demo_trip_money", txb_text_demo_trip_money};

#define PARTITIONS  4
#define TICK_US     (20 * 1000)
#define RATE        100 /* trips a second, so that work is always under way */
#define TRICKLE     10  /* while a process that is to be killed next has not come back */
#define PROGRESS_US (100 * 1000)
#define STUCK_US    (90 * 1000 * 1000LL)
#define TRIPS       500
#define KILLS       4

enum { AGENCY, FLIGHT, HOTEL, PAYMENT, PLACES };
static const char *const places[PLACES] = {"agency", "flight", "hotel", "payment"};

/* What is killed: by its number in the stage. */
enum { COORDINATOR, PARTICIPANT, BOOKINGS, RELAY, ROLES };

struct trips {
  struct txb_stage stage;
  int64_t wanted, begun;        /* numbers that were tried, rolled back ones too */
  int64_t sagas, ended, behind; /* when last looked at */
  int kills_wanted;
  struct txb_stage_database *db[PLACES];
  const char *topic[PLACES];
  char group[PLACES][80];
  int64_t started_us, moved_us, moved, told_us;
  double allowance;
};

struct verdict {
  int64_t trips, completed, compensated, stuck, orphans, missing, money_before, money_after;
  bool balanced, ok;
};

/* ---- setting up --------------------------------------------------------------------------------------------- */

static enum txb_rc take_options(struct trips *t, struct txb_error *err) {
  const struct txb_args *args = &t->stage.cli->args;
  static const char *const others[] = {"transfers", "writers", "seed"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(others); i++)
    if (txb_args_has(args, others[i]))
      return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                           "--%s is for the demo of the two banks, not for demo saga", others[i]);
  long long wanted = TRIPS, kills = KILLS;
  TXB_TRY(txb_args_integer(args, "trips", 1, 1000000, &wanted, err));
  TXB_TRY(txb_args_integer(args, "kills", 0, 1000, &kills, err));
  t->wanted = wanted;
  t->kills_wanted = (int)kills;
  return TXB_OK;
}

static json_t *step_of(const struct trips *t, int place, const char *kind) {
  char book[32], cancel[32];
  (void)snprintf(book, sizeof(book), "%s.book", places[place]);
  (void)snprintf(cancel, sizeof(cancel), "%s.cancel", places[place]);
  json_t *step = json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", places[place], "kind", kind, "topic", t->topic[place],
                           "type", book, "timeout", "30s");
  if (strcmp(kind, "compensatable") == 0)
    (void)json_object_set_new(step, "compensation", json_pack("{s:s}", "type", cancel));
  return step;
}

static json_t *definition_of(const struct trips *t) {
  return json_pack("{s:s, s:i, s:[o, o, o]}", "name", "trip", "version", 1, "steps",
                   step_of(t, FLIGHT, "compensatable"), step_of(t, HOTEL, "compensatable"),
                   step_of(t, PAYMENT, "pivot"));
}

static enum txb_rc deploy(const struct trips *t, struct txb_error *err) {
  json_t *definition = definition_of(t);
  char *text = definition == NULL ? NULL : json_dumps(definition, JSON_COMPACT);
  struct txb_saga_definition *read = NULL;
  struct txb_pg_params params;
  json_decref(definition);
  if (text == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory");
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text("trip"));
  txb_pg_add_int4(&params, 1);
  txb_pg_add_text(&params, txb_slice_text(text));
  txb_pg_add_null(&params, TXB_OID_INT8);
  txb_pg_add_text(&params, txb_slice_text(NULL));
  txb_pg_add_text(&params, txb_slice_text(t->topic[AGENCY]));
  txb_pg_add_text(&params, txb_slice_text("demo"));
  enum txb_rc rc = txb_saga_definition_parse_new("trip.json", txb_slice_text(text), &read, err);
  if (rc == TXB_OK)
    rc = txb_pg_query(t->db[AGENCY]->pg, &deploy_statement, &params, NULL, err);
  txb_pg_params_fini(&params);
  txb_saga_definition_free(read);
  free(text);
  return rc;
}

static json_t *group_of(const struct trips *t, int place) {
  json_t *handler = place == AGENCY ? json_pack("{s:s}", "kind", "coordinator")
                                    : json_pack("{s:s, s:s}", "kind", "sql", "function", "trip.handle");
  return json_pack("{s:s, s:[s], s:s, s:o, s:i, s:i, s:{s:i, s:i}}", "group", t->group[place], "topics",
                   t->topic[place], "database", t->db[place]->uri, "handler", handler, "batch_wait_ms", 0,
                   "session_timeout_ms", 6000, "retry", "first_ms", 50, "cap_ms", 1000);
}

static json_t *config_of(const struct trips *t) {
  json_t *sources = json_array(), *workers = json_array();
  for (int place = 0; place < PLACES; place++) {
    (void)json_array_append_new(sources,
                                json_pack("{s:s, s:s}", "name", t->db[place]->name, "database", t->db[place]->uri));
    (void)json_array_append_new(workers, group_of(t, place));
  }
  return json_pack("{s:o, s:{s:s, s:o}, s:{s:i, s:i, s:i}, s:o, s:{s:i, s:i}}", "sources", sources, "kafka", "brokers",
                   t->stage.brokers, "client", txb_stage_client_options(&t->stage), "relay", "lease_ms", 5000,
                   "checkpoint_ms", 100, "partitions_ahead", 2, "workers", workers, "retry", "first_ms", 50, "cap_ms",
                   1000);
}

static void name_processes(struct trips *t) {
  struct txb_stage_process *p = t->stage.processes;
  p[COORDINATOR] = (struct txb_stage_process){.name = "coordinator", .arguments = {"worker", t->group[AGENCY]}};
  p[PARTICIPANT] = (struct txb_stage_process){.name = "payment", .arguments = {"worker", t->group[PAYMENT]}};
  p[BOOKINGS] =
      (struct txb_stage_process){.name = "bookings", .arguments = {"worker", t->group[FLIGHT], t->group[HOTEL]}};
  p[RELAY] = (struct txb_stage_process){.name = "relay", .arguments = {"relay"}};
  t->stage.process_count = ROLES;
}

static enum txb_rc start(struct trips *t, int role, struct txb_error *err) {
  struct txb_stage_process *p = &t->stage.processes[role];
  p->progress_at_start = t->ended;
  return txb_stage_start(&t->stage, p, err);
}

static enum txb_rc set_up(struct trips *t, struct txb_error *err) {
  static const char *const topics[PLACES] = {"trips", "flights", "hotels", "payments"};
  for (int place = 0; place < PLACES; place++) {
    t->db[place] = txb_stage_add_database(&t->stage, places[place]);
    t->topic[place] = txb_stage_add_topic(&t->stage, topics[place]);
    txb_stage_group_name(&t->stage, places[place], t->group[place], sizeof(t->group[place]));
  }
  TXB_TRY(txb_stage_open(&t->stage, PARTITIONS, err));
  TXB_TRY(txb_pg_script(t->db[AGENCY]->pg, txb_text_demo_agency, err));
  for (int place = FLIGHT; place < PLACES; place++)
    TXB_TRY(txb_pg_script(t->db[place]->pg, txb_text_demo_trip, err));
  TXB_TRY(deploy(t, err));
  TXB_TRY(txb_stage_write_config(&t->stage, config_of(t), err));
  name_processes(t);
  for (int role = 0; role < ROLES; role++)
    TXB_TRY(start(t, role, err));
  return TXB_OK;
}

/* ---- under way ------------------------------------------------------------------------------------------------ */

static enum txb_rc look(struct trips *t, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_pg_query(t->db[AGENCY]->pg, &look_statement, NULL, &row, err));
  t->sagas = txb_pg_int8(row, 0, 0);
  t->ended = txb_pg_int8(row, 0, 1);
  t->behind = txb_pg_int8(row, 0, 2);
  return TXB_OK;
}

/* Trips go on at a steady rate up to the next kill's share, and trickle until it was made: there is always something to
 * interrupt. */
static enum txb_rc begin_some(struct trips *t, int64_t now, int64_t *last_us, struct txb_error *err) {
  double share = (double)t->wanted * 0.85 / (t->kills_wanted + 1);
  double gate = t->stage.kills >= t->kills_wanted ? (double)t->wanted : share * (t->stage.kills + 1);
  t->allowance += (t->allowance < gate ? RATE : TRICKLE) * (double)(now - *last_us) / 1e6;
  *last_us = now;
  int64_t allowed = t->allowance < (double)t->wanted ? (int64_t)t->allowance : t->wanted;
  if (allowed <= t->begun)
    return TXB_OK;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_int8(&params, t->begun);
  txb_pg_add_int8(&params, allowed);
  enum txb_rc rc = txb_pg_query(t->db[AGENCY]->pg, &begin_statement, &params, NULL, err);
  txb_pg_params_fini(&params);
  t->begun = rc == TXB_OK ? allowed : t->begun;
  return rc;
}

/* Coordinator, payment, relay, bookings, and again. */
static int victim_of(int number) {
  static const int order[] = {COORDINATOR, PARTICIPANT, RELAY, BOOKINGS};
  return order[number % (int)TXB_ARRAY_SIZE(order)];
}

static enum txb_rc kill_next(struct trips *t, struct txb_error *err) {
  int role = victim_of(t->stage.kills);
  struct txb_stage_process *p = &t->stage.processes[role];
  double share = (double)t->wanted * 0.85 / (t->kills_wanted + 1);
  if (t->stage.kills >= t->kills_wanted || (double)t->begun <= share * (t->stage.kills + 0.4) ||
      t->ended <= p->progress_at_start || t->sagas == t->ended)
    return TXB_OK;
  txb_stage_kill(p);
  TXB_TRY(look(t, err));
  int64_t left = t->sagas - t->ended;
  TXB_TRY(start(t, role, err));
  if (left <= 0)
    return TXB_OK;
  p->kills++;
  t->stage.kills++;
  txb_progress(t->stage.cli, NULL);
  txb_say("killed the %s with kill -9, %" PRId64 " sagas under way", p->name, left);
  return TXB_OK;
}

static void show(struct trips *t, int64_t now) {
  char text[160];
  if (now - t->told_us < PROGRESS_US)
    return;
  t->told_us = now;
  (void)snprintf(text, sizeof(text), "%5.1f s   trips %" PRId64 "/%" PRId64 "   ended %" PRId64 "   killed: %d",
                 (double)(now - t->started_us) / 1e6, t->begun, t->wanted, t->ended, t->stage.kills);
  txb_progress(t->stage.cli, text);
}

static enum txb_rc check_stuck(struct trips *t, int64_t now, struct txb_error *err) {
  int64_t moved = t->sagas + t->ended + t->begun;
  if (moved != t->moved)
    t->moved_us = now;
  t->moved = moved;
  if (now - t->moved_us < STUCK_US)
    return TXB_OK;
  return TXB_FAIL(err, TXB_REFUSED, "nothing has moved for %lld s: %" PRId64 " of %" PRId64 " sagas have ended",
                  STUCK_US / 1000000, t->ended, t->sagas);
}

static enum txb_rc play(struct trips *t, struct txb_error *err) {
  int64_t last_us = txb_clock_steady_us();
  t->moved_us = last_us;
  for (;;) {
    struct pollfd fd = {.fd = t->stage.stop_fd, .events = POLLIN};
    TXB_TRY(txb_wait(&fd, 1, TICK_US, NULL, err));
    if (txb_stopped(t->stage.stop_fd))
      return TXB_FAIL(err, TXB_RETRY, "stopping");
    int64_t now = txb_clock_steady_us();
    TXB_TRY(begin_some(t, now, &last_us, err));
    TXB_TRY(look(t, err));
    TXB_TRY(txb_stage_check(&t->stage, err));
    TXB_TRY(kill_next(t, err));
    show(t, now);
    TXB_TRY(check_stuck(t, now, err));
    if (t->begun == t->wanted && t->sagas == t->ended)
      return TXB_OK;
  }
}

/* ---- the verifier ---------------------------------------------------------------------------------------------- */

/* Both lists are sorted by saga: a completed one has one booking here, another one none. */
static void match(const struct txb_pg_result *ends, const struct txb_pg_result *bookings, struct verdict *v) {
  int j = 0, count = txb_pg_rows(bookings);
  for (int i = 0; i < txb_pg_rows(ends); i++) {
    struct txb_uuid saga, of;
    bool completed = !txb_pg_is_null(ends, i, 1) && strcmp(txb_pg_text(ends, i, 1), "completed") == 0;
    int64_t found = 0;
    txb_pg_uuid(ends, i, 0, &saga);
    for (; j < count; j++) {
      txb_pg_uuid(bookings, j, 0, &of);
      int order = memcmp(&of, &saga, sizeof(of));
      if (order > 0)
        break;
      if (order < 0)
        v->orphans += txb_pg_int8(bookings, j, 1);
      else
        found = txb_pg_int8(bookings, j, 1);
    }
    v->missing += completed && found == 0;
    v->orphans += completed ? (found > 1 ? found - 1 : 0) : found;
  }
  for (; j < count; j++)
    v->orphans += txb_pg_int8(bookings, j, 1);
}

static enum txb_rc money(const struct trips *t, int64_t *sum, bool *balanced, struct txb_error *err) {
  *sum = 0;
  *balanced = true;
  for (int place = FLIGHT; place < PLACES; place++) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
    TXB_TRY(txb_pg_query(t->db[place]->pg, &money_statement, NULL, &row, err));
    *sum += txb_pg_int8(row, 0, 0);
    *balanced = *balanced && txb_pg_bool(row, 0, 1);
  }
  return TXB_OK;
}

static enum txb_rc verify(const struct trips *t, struct verdict *v, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *ends = NULL;
  TXB_TRY(txb_pg_query(t->db[AGENCY]->pg, &ends_statement, NULL, &ends, err));
  v->trips = txb_pg_rows(ends);
  for (int i = 0; i < txb_pg_rows(ends); i++) {
    const char *state = txb_pg_is_null(ends, i, 1) ? "" : txb_pg_text(ends, i, 1);
    v->completed += strcmp(state, "completed") == 0;
    v->compensated += strcmp(state, "compensated") == 0;
    v->stuck += *state == '\0';
  }
  for (int place = FLIGHT; place < PLACES; place++) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *bookings = NULL;
    TXB_TRY(txb_pg_query(t->db[place]->pg, &bookings_statement, NULL, &bookings, err));
    match(ends, bookings, v);
  }
  TXB_TRY(money(t, &v->money_after, &v->balanced, err));
  v->ok = v->trips > 0 && v->completed + v->compensated == v->trips && v->stuck == 0 && v->orphans == 0 &&
          v->missing == 0 && v->money_before == v->money_after && v->balanced;
  return TXB_OK;
}

static void line(const struct trips *t, const char *name, int64_t value, bool good, const char *remark) {
  const char *color = good ? "" : txb_color(t->stage.cli, "\033[31m");
  txb_print("  %-32s %s%12" PRId64 "%s%s%s\n", name, color, value, *color == '\0' ? "" : "\033[0m",
            remark == NULL ? "" : "   ", remark == NULL ? "" : remark);
}

static void print_text(const struct trips *t, const struct verdict *v) {
  const struct txb_stage_process *p = t->stage.processes;
  char kills[160];
  (void)snprintf(kills, sizeof(kills), "coordinator %d, payment %d, bookings %d, relay %d; each with sagas under way",
                 p[COORDINATOR].kills, p[PARTICIPANT].kills, p[BOOKINGS].kills, p[RELAY].kills);
  txb_print("\n");
  line(t, "trips", v->trips, true, NULL);
  line(t, "completed", v->completed, v->completed > 0, "flight, hotel and payment");
  line(t, "compensated", v->compensated, true, "the card was declined: nothing is left");
  line(t, "stuck", v->stuck, v->stuck == 0, NULL);
  line(t, "bookings that should not exist", v->orphans, v->orphans == 0, NULL);
  line(t, "bookings that are missing", v->missing, v->missing == 0, NULL);
  line(t, "money before", v->money_before, true, NULL);
  line(t, "money after", v->money_after, v->money_before == v->money_after && v->balanced, NULL);
  line(t, "rolled back on purpose", t->wanted - v->trips, true, "there was no saga");
  line(t, "processes killed", t->stage.kills, t->stage.kills >= t->kills_wanted, kills);
  txb_print("\n%s%s%s\n", txb_color(t->stage.cli, v->ok ? "\033[32m" : "\033[31m"),
            v->ok ? "Every trip was booked as a whole, or not at all." : "The promise was broken: see above.",
            txb_color(t->stage.cli, "\033[0m"));
}

static void print(const struct trips *t, const struct verdict *v) {
  if (t->stage.cli->output == TXB_OUTPUT_TEXT) {
    print_text(t, v);
    return;
  }
  json_t *object = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:b}", "trips", (json_int_t)v->trips,
                             "completed", (json_int_t)v->completed, "compensated", (json_int_t)v->compensated, "stuck",
                             (json_int_t)v->stuck, "orphans", (json_int_t)v->orphans, "missing", (json_int_t)v->missing,
                             "money_before", (json_int_t)v->money_before, "money_after", (json_int_t)v->money_after,
                             "kills", t->stage.kills, "ok", v->ok);
  txb_print_json(t->stage.cli, object);
  json_decref(object);
}

static enum txb_rc tell(struct trips *t, struct verdict *v, struct txb_error *err) {
  bool balanced;
  TXB_TRY(set_up(t, err));
  TXB_TRY(money(t, &v->money_before, &balanced, err));
  TXB_TRY(play(t, err));
  /* Stopped before the verifier looks: what a late repetition would double must have had its chance. */
  txb_stage_stop(&t->stage);
  txb_progress(t->stage.cli, NULL);
  return verify(t, v, err);
}

int txb_demo_saga(struct txb_cli *cli) {
  static struct trips t; /* too large for a stack */
  struct txb_error err;
  struct verdict v = {.ok = false};
  t = (struct trips){.started_us = txb_clock_steady_us()};
  enum txb_rc rc = txb_stage_init(&t.stage, cli, &err);
  if (rc == TXB_OK)
    rc = take_options(&t, &err);
  if (rc == TXB_OK)
    rc = txb_signals_open(&t.stage.stop_fd, &err);
  if (rc == TXB_OK)
    rc = tell(&t, &v, &err);
  if (rc != TXB_OK && txb_stopped(t.stage.stop_fd))
    rc = TXB_FAIL(&err, TXB_REFUSED, "stopped before the end");
  txb_progress(cli, NULL);
  if (rc == TXB_OK) {
    print(&t, &v);
    (void)txb_print_flush();
  }
  txb_stage_close(&t.stage);
  if (rc != TXB_OK)
    return txb_fail(&err);
  return v.ok ? TXB_EXIT_DONE : TXB_EXIT_FAILED;
}
