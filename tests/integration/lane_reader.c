/* consumer/lane_reader.c against a real server, which test_lane_reader.py starts: TXB_TEST_DATABASE is a connection string
 * of its superuser, to a database whose outbox has ten intents of topic "t", numbers 1 to 10, all published. */
#include "consumer/lane_reader.h"

#include <criterion/criterion.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "consumer/lane_page.h"
#include "consumer/worker_internal.h"

#define COUNT   10
#define HANG_US (INT64_C(60) * 1000000)

static PGconn *root;
static struct txb_lane_reader *reader;
static struct txb_error err;

static PGresult *sql(const char *text) {
  PGresult *r = PQexec(root, text);
  ExecStatusType status = PQresultStatus(r);
  cr_assert(status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK, "%s: %s", text, PQerrorMessage(root));
  return r;
}

static void run(const char *text) {
  PQclear(sql(text));
}

/* Somebody waits for a lock that `root` holds. */
static bool somebody_waits(void) {
  PGresult *r = sql("SELECT FROM pg_locks WHERE NOT granted");
  bool any = PQntuples(r) > 0;
  PQclear(r);
  return any;
}

static struct txb_lane_last last_of(int64_t seq, bool another) {
  struct txb_lane_last last = {.seq = seq};
  char text[100];
  snprintf(text, sizeof text, "SELECT replace(id::text, '-', '') FROM txb.outbox WHERE seq = %d", (int)seq);
  PGresult *r = sql(text);
  for (size_t i = 0; i < sizeof last.id; i++) {
    char two[] = {PQgetvalue(r, 0, 0)[2 * i], PQgetvalue(r, 0, 0)[2 * i + 1], 0};
    ((uint8_t *)&last.id)[i] = (uint8_t)strtoul(two, NULL, 16);
  }
  PQclear(r);
  ((uint8_t *)&last.id)[0] ^= another;
  return last;
}

static void set_up(void) {
  const char *uri = getenv("TXB_TEST_DATABASE");
  struct txb_lane_reader_options options = {
      .source = "bank", .uri = uri, .name = "lane_reader", .topic = "t", .lane = 1, .pin = "p", .pin_what = "a test"};
  cr_assert(uri != NULL, "test_lane_reader.py runs this");
  root = PQconnectdb(uri);
  cr_assert(PQstatus(root) == CONNECTION_OK, "%s", PQerrorMessage(root));
  cr_assert(txb_lane_reader_new(&options, &reader, &err) == TXB_OK, "%s", err.message);
  txb_lane_reader_bound(reader, COUNT + 1, false, 0);
}

static void tear_down(void) {
  txb_lane_reader_free(reader);
  PQfinish(root);
}

TestSuite(lane_reader, .init = set_up, .fini = tear_down);

/* One notice, or none so far. */
static bool next_notice(struct txb_lane_notice *out) {
  enum txb_rc rc = txb_lane_reader_next(reader, out, &err);
  cr_assert(rc == TXB_OK || rc == TXB_AGAIN, "%s", err.message);
  if (rc == TXB_AGAIN) {
    struct pollfd fd = txb_lane_reader_pollfd(reader);
    poll(&fd, 1, 10);
  }
  return rc == TXB_OK;
}

static void wait_notice(struct txb_lane_notice *out) {
  int64_t until_us = txb_clock_steady_us() + HANG_US;
  while (!next_notice(out))
    cr_assert(txb_clock_steady_us() < until_us, "the reader hangs");
}

static void wait_until_it_waits(void) {
  struct txb_lane_notice n;
  int64_t until_us = txb_clock_steady_us() + HANG_US;
  while (!somebody_waits()) {
    cr_assert(!next_notice(&n));
    cr_assert(txb_clock_steady_us() < until_us, "the reader asks nothing");
  }
}

static void expect_records_from(int64_t offset) {
  for (; offset <= COUNT; offset++) {
    struct txb_lane_notice n;
    wait_notice(&n);
    cr_assert(n.kind == TXB_LANE_RECORD && n.offset == offset, "kind %d, offset %d instead of %d", (int)n.kind,
              (int)n.offset, (int)offset);
    txb_lane_message_release(n.message);
  }
}

/* Facts wait for the lock until `root` lets go of it. */
static void facts_under_way(void) {
  struct txb_lane_last none = {.seq = -1};
  run("BEGIN; LOCK TABLE txb.relay IN ACCESS EXCLUSIVE MODE");
  txb_lane_reader_fetch(reader, 1, &none);
  wait_until_it_waits();
}

Test(lane_reader, reads_from_the_position_to_the_bound) {
  struct txb_lane_last last = last_of(3, false);
  txb_lane_reader_fetch(reader, 4, &last);
  expect_records_from(4);
}

Test(lane_reader, another_message_in_the_place_of_the_last_is_told) {
  struct txb_lane_last last = last_of(3, true);
  struct txb_lane_notice n;
  txb_lane_reader_fetch(reader, 4, &last);
  wait_notice(&n);
  cr_assert(n.kind == TXB_LANE_RANGE && n.offset == 0 && n.high == -1, "kind %d", (int)n.kind);
}

Test(lane_reader, what_was_asked_before_a_fetch_does_not_answer_for_it) {
  struct txb_lane_last last = last_of(3, true);
  struct txb_lane_notice n;
  facts_under_way();
  txb_lane_reader_fetch(reader, 4, &last);
  run("COMMIT");
  wait_notice(&n);
  cr_assert(n.kind == TXB_LANE_RANGE && n.offset == 0 && n.high == -1, "kind %d", (int)n.kind);
}

Test(lane_reader, the_highest_number_is_told_though_a_fetch_came_after_the_question) {
  struct txb_lane_last last = last_of(3, false);
  struct txb_lane_notice n;
  txb_lane_reader_ask_highest(reader);
  facts_under_way();
  txb_lane_reader_fetch(reader, 4, &last);
  run("COMMIT");
  wait_notice(&n);
  cr_assert(n.kind == TXB_LANE_HIGHEST && n.offset == COUNT, "kind %d, offset %d", (int)n.kind, (int)n.offset);
  expect_records_from(4);
}

static bool is(struct txb_slice s, const char *text) {
  return txb_slice_equal(s, txb_slice_text(text));
}

static void copies(void) {
  run("BEGIN; SELECT txb.outbox_copy('copies', txb.uuid_v7(), 'shop', '\\xff00', 'made', '2026-01-31T12:00:00.123Z', "
      "'x', 'a/b', "
      "'{\"H\": null}', NULL); "
      "SELECT txb.outbox_copy('copies', txb.uuid_v7(), NULL, 'k', NULL, NULL, NULL, NULL, NULL, NULL); "
      "INSERT INTO txb.outbox (topic, key, type) VALUES ('copies', 'k', 'own'); "
      "UPDATE txb.relay SET highest = (SELECT max(seq) FROM txb.outbox), watermark = (SELECT max(seq) FROM "
      "txb.outbox); COMMIT");
}

/* It is alone with the database; the other tests count its intents. */
static void without_copies(void) {
  run("BEGIN; DELETE FROM txb.outbox WHERE topic = 'copies'; UPDATE txb.relay SET watermark = 10, highest = 10; "
      "COMMIT");
}

Test(lane_reader, a_copy_is_the_message_that_it_was_made_from) {
  struct txb_lane_reader_options options = {.source = "bank",
                                            .uri = getenv("TXB_TEST_DATABASE"),
                                            .name = "lane_reader",
                                            .topic = "copies",
                                            .lane = 2,
                                            .pin = "p2",
                                            .pin_what = "a test"};
  struct txb_lane_last none = {.seq = -1};
  struct txb_lane_notice n[3];
  copies();
  txb_lane_reader_free(reader);
  cr_assert(txb_lane_reader_new(&options, &reader, &err) == TXB_OK, "%s", err.message);
  txb_lane_reader_bound(reader, 1000, false, 0);
  txb_lane_reader_fetch(reader, 1, &none);
  for (int i = 0; i < 3; i++)
    wait_notice(&n[i]);
  without_copies();
  for (int i = 0; i < 3; i++)
    cr_assert(n[i].kind == TXB_LANE_RECORD, "kind %d", (int)n[i].kind);
  const struct txb_worker_message *first = n[0].message, *second = n[1].message, *own = n[2].message;
  cr_assert(txb_slice_equal(first->record.key, txb_slice_of("\xff\0", 2)) && is(first->record.value, "x"));
  cr_assert(is(first->event.source, "shop") && is(first->event.type, "made") && is(first->headers, "{\"H\": null}"));
  cr_assert(first->event.time_us == INT64_C(1769860800123000));
  cr_assert(second->event.source.data == NULL && second->event.type.data == NULL && second->record.value.data == NULL);
  cr_assert(is(second->record.key, "k") && second->event.time_us == 0);
  cr_assert(own->event.source.data != NULL && is(own->event.type, "own"));
  for (int i = 0; i < 3; i++)
    txb_lane_message_release(n[i].message);
}
