/* common/pg*.c against a real server, which test_pg_port.py starts: TXB_TEST_DATABASE is a connection string of its
 * superuser, TXB_TEST_PASSWORD_URI one of a role that needs the password "geheim". */
#include <criterion/criterion.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/pg.h"

#define STATEMENT(variable, text) static const struct txb_pg_statement variable = {#variable, text}
STATEMENT(twice, "SELECT $1 * 2");
STATEMENT(thrice, "SELECT $1 * 3");
STATEMENT(by_zero, "SELECT 1 / ($1 - $1)");
STATEMENT(misspelt, "SELEKT 1");
STATEMENT(forget_all, "DEALLOCATE ALL");
STATEMENT(begin, "BEGIN");
STATEMENT(commit, "COMMIT");
STATEMENT(sleep_long, "SELECT pg_sleep(600)");
STATEMENT(prepared_count, "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'thrice%'");

static struct txb_pg *pg;
static struct txb_pg_params p;
static struct txb_error err;

static struct txb_pg *open_one(void) {
  struct txb_pg_options options = {
      .uri = getenv("TXB_TEST_DATABASE"), .application_name = "pg_port", .connect_timeout_ms = 30000, .stop_fd = -1};
  struct txb_pg *one = NULL;
  cr_assert(options.uri != NULL, "test_pg_port.py runs this");
  cr_assert(txb_pg_open(&options, &one, &err) == TXB_OK, "%s", err.message);
  return one;
}

static void set_up(void) {
  pg = open_one();
  txb_pg_params_init(&p);
  txb_pg_add_int8(&p, 21);
}

static void tear_down(void) {
  txb_pg_close(pg);
  txb_pg_params_fini(&p);
}

TestSuite(pg_port, .init = set_up, .fini = tear_down);

static int64_t number(const struct txb_pg_statement *statement, const struct txb_pg_params *params) {
  struct txb_pg_result *r = NULL;
  cr_assert(txb_pg_query(pg, statement, params, &r, &err) == TXB_OK, "%s", err.message);
  int64_t v = txb_pg_int8(r, 0, 0);
  txb_pg_result_free(r);
  return v;
}

static void script(const char *sql) {
  cr_assert(txb_pg_script(pg, sql, &err) == TXB_OK, "%s", err.message);
}

/* ---- pipelines: what is sent, then what must come back ---- */

static void queue(const struct txb_pg_statement *statement, const struct txb_pg_params *params) {
  cr_assert(txb_pg_send(pg, statement, params, &err) == TXB_OK, "%s", err.message);
}

static void sync_point(void) {
  cr_assert(txb_pg_sync(pg, &err) == TXB_OK, "%s", err.message);
}

static void expect_kind(enum txb_pg_kind want, int line) {
  enum txb_pg_kind kind;
  struct txb_pg_result *r = NULL;
  enum txb_rc rc = txb_pg_next_wait(pg, 30000, &kind, &r, &err);
  cr_assert(rc == TXB_OK && kind == want, "line %d: rc %d, kind %d, %s", line, rc, kind, err.message);
  cr_assert((r != NULL) == (kind == TXB_PG_ROWS));
  txb_pg_result_free(r);
}
#define EXPECT(kind) expect_kind((kind), __LINE__)

static void expect_number(int64_t want) {
  enum txb_pg_kind kind;
  struct txb_pg_result *r = NULL;
  cr_assert(txb_pg_next_wait(pg, 30000, &kind, &r, &err) == TXB_OK && kind == TXB_PG_ROWS, "%s", err.message);
  cr_assert(txb_pg_int8(r, 0, 0) == want);
  txb_pg_result_free(r);
}

static void pipeline(void) {
  cr_assert(txb_pg_pipeline_begin(pg, &err) == TXB_OK, "%s", err.message);
}

static void end_pipeline(void) {
  cr_assert(txb_pg_pending(pg) == 0);
  cr_assert(txb_pg_pipeline_end(pg, &err) == TXB_OK, "%s", err.message);
  cr_assert(number(&twice, &p) == 42, "afterwards it is an ordinary connection again");
}

Test(pg_port, skips_to_the_sync_after_an_error_and_goes_on_behind_it) {
  pipeline();
  queue(&twice, &p);
  queue(&by_zero, &p);
  queue(&thrice, &p);
  sync_point();
  queue(&twice, &p);
  sync_point();
  cr_assert(txb_pg_pending(pg) == 6);
  expect_number(42);
  EXPECT(TXB_PG_ERROR);
  cr_assert_str_eq(err.sqlstate, "22012");
  cr_assert(err.rc == TXB_REFUSED);
  EXPECT(TXB_PG_SKIPPED);
  EXPECT(TXB_PG_SYNC);
  expect_number(42);
  EXPECT(TXB_PG_SYNC);
  end_pipeline();
}

/* The error skips the preparation too. Whether it is known yet or not, the next use must work. */
Test(pg_port, remembers_that_a_skipped_preparation_was_none) {
  pipeline();
  queue(&by_zero, &p);
  queue(&thrice, &p);
  sync_point();
  queue(&thrice, &p); /* its preparation is unanswered, and will be skipped */
  sync_point();
  EXPECT(TXB_PG_ERROR);
  EXPECT(TXB_PG_SKIPPED);
  EXPECT(TXB_PG_SYNC);
  expect_number(63);
  EXPECT(TXB_PG_SYNC);
  queue(&thrice, &p); /* now it is known to be none */
  queue(&thrice, &p);
  queue(&prepared_count, NULL);
  sync_point();
  expect_number(63);
  expect_number(63);
  expect_number(1);
  EXPECT(TXB_PG_SYNC);
  end_pipeline();
}

Test(pg_port, gives_a_failed_preparation_s_error_to_its_statement) {
  pipeline();
  queue(&misspelt, NULL);
  queue(&twice, &p);
  sync_point();
  EXPECT(TXB_PG_ERROR);
  cr_assert_str_eq(err.sqlstate, "42601");
  cr_assert(strncmp(err.message, "misspelt: ", 10) == 0, "%s", err.message);
  EXPECT(TXB_PG_SKIPPED);
  EXPECT(TXB_PG_SYNC);
  end_pipeline();
}

Test(pg_port, tells_by_the_tag_that_a_commit_was_none) {
  pipeline();
  queue(&begin, NULL);
  queue(&by_zero, &p);
  sync_point();
  queue(&commit, NULL);
  sync_point();
  EXPECT(TXB_PG_ROWS);
  EXPECT(TXB_PG_ERROR);
  EXPECT(TXB_PG_SYNC);
  enum txb_pg_kind kind;
  struct txb_pg_result *r = NULL;
  cr_assert(txb_pg_next_wait(pg, 30000, &kind, &r, &err) == TXB_OK && kind == TXB_PG_ROWS);
  cr_assert_str_eq(txb_pg_tag(r), "ROLLBACK");
  txb_pg_result_free(r);
  EXPECT(TXB_PG_SYNC);
  end_pipeline();
}

Test(pg_port, reports_a_commit_that_fails_at_the_sync) {
  STATEMENT(orphan, "INSERT INTO child VALUES (99)");
  script("CREATE TEMP TABLE parent (id int PRIMARY KEY);"
         "CREATE TEMP TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)");
  pipeline();
  queue(&orphan, NULL);
  sync_point();
  queue(&twice, &p);
  sync_point();
  EXPECT(TXB_PG_ROWS);
  EXPECT(TXB_PG_ERROR);
  cr_assert_str_eq(err.sqlstate, "23503");
  EXPECT(TXB_PG_SYNC);
  expect_number(42);
  EXPECT(TXB_PG_SYNC);
  end_pipeline();
}

/* A handler may run DEALLOCATE ALL or DISCARD ALL: one retry, then everything is prepared anew. */
Test(pg_port, prepares_anew_what_somebody_deallocated) {
  cr_assert(number(&twice, &p) == 42 && number(&thrice, &p) == 63);
  pipeline();
  queue(&forget_all, NULL);
  queue(&twice, &p);
  sync_point();
  EXPECT(TXB_PG_ROWS);
  EXPECT(TXB_PG_ERROR);
  cr_assert(err.rc == TXB_RETRY, "%s", err.message);
  EXPECT(TXB_PG_SYNC);
  queue(&twice, &p);
  sync_point();
  expect_number(42);
  EXPECT(TXB_PG_SYNC);
  end_pipeline();
  script("DISCARD ALL");
  cr_assert(txb_pg_query(pg, &thrice, &p, NULL, &err) == TXB_OK, "it was forgotten with the first");
  script("DEALLOCATE ALL");
  cr_assert(txb_pg_query(pg, &thrice, &p, NULL, &err) == TXB_RETRY);
  cr_assert(number(&thrice, &p) == 63);
}

Test(pg_port, prepares_anew_what_a_migration_gave_another_type) {
  STATEMENT(shaped, "SELECT * FROM shape");
  script("CREATE TEMP TABLE shape (a int8); INSERT INTO shape VALUES (5)");
  cr_assert(number(&shaped, NULL) == 5);
  script("ALTER TABLE shape ADD COLUMN b text");
  cr_assert(txb_pg_query(pg, &shaped, NULL, NULL, &err) == TXB_RETRY, "%s", err.message);
  cr_assert(number(&shaped, NULL) == 5);
}

/* Far more than both sockets hold: neither side may end up waiting for the other. */
Test(pg_port, does_not_lock_up_when_both_sides_write) {
  STATEMENT(echo, "SELECT $1");
  char blob[2000];
  memset(blob, 'x', sizeof blob);
  struct txb_pg_params bytes;
  txb_pg_params_init(&bytes);
  txb_pg_add_bytea(&bytes, txb_slice_of(blob, sizeof blob));
  pipeline();
  for (int i = 0; i < 20000; i++) {
    queue(&echo, &bytes);
    if (i % 100 == 99)
      sync_point();
    if (i % 10 == 0)
      cr_assert(txb_pg_pump(pg, &err) == TXB_OK, "%s", err.message);
  }
  int rows = 0;
  while (txb_pg_pending(pg) > 0) {
    enum txb_pg_kind kind;
    struct txb_pg_result *r = NULL;
    cr_assert(txb_pg_next_wait(pg, 30000, &kind, &r, &err) == TXB_OK, "%s", err.message);
    if (kind == TXB_PG_ROWS)
      rows += txb_pg_bytes(r, 0, 0).size == sizeof blob;
    txb_pg_result_free(r);
  }
  cr_assert(rows == 20000);
  txb_pg_params_fini(&bytes);
  end_pipeline();
}

/* ---- values ---- */

Test(pg_port, brings_values_there_and_back) {
  STATEMENT(echo_all, "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text");
  struct txb_uuid id, back;
  txb_uuid_v7(txb_clock_wall_us(), &id);
  struct txb_pg_params v;
  txb_pg_params_init(&v);
  txb_pg_add_int8(&v, INT64_MIN);
  txb_pg_add_int4(&v, -5);
  txb_pg_add_bool(&v, true);
  txb_pg_add_text(&v, txb_slice_text("h\xC3\xA9llo"));
  txb_pg_add_bytea(&v, txb_slice_of("\0\xFF", 2));
  txb_pg_add_jsonb(&v, txb_slice_text("{\"a\": [1, null]}"));
  txb_pg_add_uuid(&v, &id);
  txb_pg_add_timestamptz(&v, INT64_C(1769860800123456));
  txb_pg_add_null(&v, TXB_OID_INT8);
  txb_pg_add_text(&v, txb_slice_of("", 0));
  struct txb_pg_result *r = NULL;
  cr_assert(txb_pg_query(pg, &echo_all, &v, &r, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_pg_int8(r, 0, 0) == INT64_MIN && txb_pg_int4(r, 0, 1) == -5 && txb_pg_bool(r, 0, 2));
  cr_assert_str_eq(txb_pg_text(r, 0, 3), "h\xC3\xA9llo");
  cr_assert(txb_slice_equal(txb_pg_bytes(r, 0, 4), txb_slice_of("\0\xFF", 2)));
  cr_assert(txb_slice_equal(txb_pg_jsonb(r, 0, 5), txb_slice_text("{\"a\": [1, null]}")));
  txb_pg_uuid(r, 0, 6, &back);
  cr_assert(memcmp(&id, &back, sizeof id) == 0);
  cr_assert(txb_pg_timestamptz_us(r, 0, 7) == INT64_C(1769860800123456));
  cr_assert(txb_pg_is_null(r, 0, 8) && txb_pg_bytes(r, 0, 8).data == NULL && txb_pg_text(r, 0, 8) == NULL);
  cr_assert(txb_pg_bytes(r, 0, 9).data != NULL && txb_pg_bytes(r, 0, 9).size == 0);
  txb_pg_result_free(r);
  txb_pg_params_fini(&v);
}

Test(pg_port, sends_arrays_that_the_server_reads_as_such) {
  STATEMENT(look,
            "SELECT $1::int8[] = '{1,-2}' AND $2::text[] = ARRAY['a', NULL, ''] AND cardinality($3::timestamptz[]) = 0"
            " AND $4::jsonb[] = ARRAY['{\"x\": 1}'::jsonb] AND $5::uuid[] = "
            "ARRAY['00010203-0405-0607-0809-0a0b0c0d0e0f'::uuid]"
            " AND $6::int4[] = '{7}' AND $7::bytea[] = ARRAY['\\x00ff'::bytea]");
  struct txb_pg_params v;
  txb_pg_params_init(&v);
  txb_pg_array_begin(&v, TXB_OID_INT8);
  txb_pg_array_int8(&v, 1);
  txb_pg_array_int8(&v, -2);
  txb_pg_array_end(&v);
  txb_pg_array_begin(&v, TXB_OID_TEXT);
  txb_pg_array_bytes(&v, txb_slice_text("a"));
  txb_pg_array_bytes(&v, txb_slice_of(NULL, 0));
  txb_pg_array_bytes(&v, txb_slice_of("", 0));
  txb_pg_array_end(&v);
  txb_pg_array_begin(&v, TXB_OID_TIMESTAMPTZ);
  txb_pg_array_end(&v);
  txb_pg_array_begin(&v, TXB_OID_JSONB);
  txb_pg_array_jsonb(&v, txb_slice_text("{\"x\":1}"));
  txb_pg_array_end(&v);
  txb_pg_array_begin(&v, TXB_OID_UUID);
  txb_pg_array_bytes(&v, txb_slice_of("\0\1\2\3\4\5\6\7\x08\x09\x0A\x0B\x0C\x0D\x0E\x0F", 16));
  txb_pg_array_end(&v);
  txb_pg_array_begin(&v, TXB_OID_INT4);
  txb_pg_array_int4(&v, 7);
  txb_pg_array_end(&v);
  txb_pg_array_begin(&v, TXB_OID_BYTEA);
  txb_pg_array_bytes(&v, txb_slice_of("\0\xFF", 2));
  txb_pg_array_end(&v);
  struct txb_pg_result *r = NULL;
  cr_assert(txb_pg_query(pg, &look, &v, &r, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_pg_bool(r, 0, 0));
  txb_pg_result_free(r);
  txb_pg_params_fini(&v);
}

Test(pg_port, joins_message_detail_and_hint_in_one_line) {
  cr_assert(txb_pg_script(pg,
                          "DO $$ BEGIN RAISE E'too\\nlarge' USING DETAIL = 'it has 3', HINT = 'make it smaller', "
                          "ERRCODE = 'TXB01'; END $$",
                          &err) == TXB_FENCED);
  cr_assert_str_eq(err.message, "too large; DETAIL: it has 3; HINT: make it smaller");
  cr_assert_str_eq(err.sqlstate, "TXB01");
}

static char notices[1000];

static void sink(const char *line, size_t size) {
  snprintf(notices, sizeof notices, "%.*s", (int)size, line);
}

Test(pg_port, logs_notices_at_debug_and_prints_none) {
  txb_log_setup(TXB_LOG_DEBUG, TXB_LOG_LOGFMT, sink);
  script("DO $$ BEGIN RAISE NOTICE 'psst'; END $$");
  cr_assert(strstr(notices, "level=debug") != NULL && strstr(notices, "text=psst") != NULL, "%s", notices);
}

Test(pg_port, refuses_copy_and_gives_the_connection_up) {
  cr_assert(txb_pg_script(pg, "COPY (SELECT 1) TO STDOUT", &err) == TXB_REFUSED);
  cr_assert(!txb_pg_is_usable(pg));
  cr_assert(txb_pg_script(pg, "SELECT 1", &err) == TXB_RETRY && err.origin == TXB_ORIGIN_POSTGRES);
}

/* ---- being stopped, cut off, refused ---- */

Test(pg_port, ends_a_wait_when_stopped) {
  int stop;
  cr_assert(txb_wake_open(&stop, &err) == TXB_OK);
  txb_pg_watch_stop(pg, stop);
  txb_wake_signal(stop);
  cr_assert(txb_pg_query(pg, &sleep_long, NULL, NULL, &err) == TXB_RETRY);
  cr_assert_str_eq(err.message, "stopping");
  cr_assert(!txb_pg_is_usable(pg), "its answer would be taken for the next one's");
  close(stop);
}

Test(pg_port, keeps_a_pipeline_whole_when_stopped) {
  STATEMENT(wait_for_lock, "SELECT 1::int8 FROM (SELECT pg_advisory_xact_lock(77)) AS l");
  struct txb_pg *holder = open_one();
  int stop;
  enum txb_pg_kind kind;
  struct txb_pg_result *r = NULL;
  cr_assert(txb_pg_script(holder, "SELECT pg_advisory_lock(77)", &err) == TXB_OK);
  cr_assert(txb_wake_open(&stop, &err) == TXB_OK);
  txb_pg_watch_stop(pg, stop);
  pipeline();
  queue(&wait_for_lock, NULL);
  sync_point();
  txb_wake_signal(stop);
  cr_assert(txb_pg_next_wait(pg, 30000, &kind, &r, &err) == TXB_RETRY && txb_pg_is_usable(pg));
  txb_pg_watch_stop(pg, -1);
  cr_assert(txb_pg_next_wait(pg, 0, &kind, &r, &err) == TXB_RETRY && strstr(err.message, "no answer") != NULL);
  txb_pg_close(holder);
  expect_number(1);
  EXPECT(TXB_PG_SYNC);
  end_pipeline();
  close(stop);
}

/* Ends the test's session once it sleeps. */
static void *end_sleeper(void *unused) {
  STATEMENT(end_it, "SELECT coalesce((SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE pid = $1 AND query LIKE '%pg_sleep(600)' AND state = 'active'), false)");
  struct txb_pg *other = open_one();
  struct txb_pg_params v;
  txb_pg_params_init(&v);
  txb_pg_add_int4(&v, PQbackendPID(txb_pg_native(pg)));
  for (bool done = false; !done;) {
    struct txb_pg_result *r = NULL;
    struct txb_error e;
    cr_assert(txb_pg_query(other, &end_it, &v, &r, &e) == TXB_OK, "%s", e.message);
    done = txb_pg_bool(r, 0, 0);
    txb_pg_result_free(r);
  }
  txb_pg_params_fini(&v);
  txb_pg_close(other);
  return unused;
}

Test(pg_port, reports_the_end_of_its_session_in_the_middle_of_a_query) {
  pthread_t thread;
  cr_assert(pthread_create(&thread, NULL, end_sleeper, NULL) == 0);
  enum txb_rc rc = txb_pg_query(pg, &sleep_long, NULL, NULL, &err);
  cr_assert(rc == TXB_RETRY && err.origin == TXB_ORIGIN_POSTGRES && !txb_pg_is_usable(pg), "%s", err.message);
  cr_assert_str_eq(err.sqlstate, "57P01");
  pthread_join(thread, NULL);
}

Test(pg_port, delivers_what_came_before_the_end_of_its_session) {
  pthread_t thread;
  enum txb_pg_kind kind;
  struct txb_pg_result *r = NULL;
  pipeline();
  queue(&twice, &p);
  queue(&sleep_long, NULL);
  queue(&twice, &p);
  sync_point();
  cr_assert(pthread_create(&thread, NULL, end_sleeper, NULL) == 0);
  expect_number(42);
  EXPECT(TXB_PG_ERROR);
  cr_assert(err.rc == TXB_RETRY && strcmp(err.sqlstate, "57P01") == 0);
  EXPECT(TXB_PG_SKIPPED);
  cr_assert(txb_pg_next_wait(pg, 30000, &kind, &r, &err) == TXB_RETRY && err.origin == TXB_ORIGIN_POSTGRES);
  cr_assert(!txb_pg_is_usable(pg) && txb_pg_send(pg, &twice, &p, &err) == TXB_RETRY);
  cr_assert(txb_pg_sync(pg, &err) == TXB_RETRY && txb_pg_pump(pg, &err) == TXB_RETRY);
  pthread_join(thread, NULL);
}

Test(pg_port, notices_a_connection_cut_without_a_word) {
  cr_assert(number(&twice, &p) == 42);
  cr_assert(shutdown(txb_pg_socket(pg), SHUT_RDWR) == 0);
  cr_assert(txb_pg_query(pg, &twice, &p, NULL, &err) == TXB_RETRY && err.origin == TXB_ORIGIN_POSTGRES, "%s",
            err.message);
  cr_assert(!txb_pg_is_usable(pg));
}

Test(pg_port, keeps_a_result_beyond_its_connection) {
  struct txb_pg_result *r = NULL;
  struct txb_pg *other = open_one();
  cr_assert(txb_pg_query(other, &twice, &p, &r, &err) == TXB_OK);
  txb_pg_close(other);
  cr_assert(txb_pg_int8(r, 0, 0) == 42);
  txb_pg_result_free_ptr(&r);
}

static enum txb_rc open_uri(const char *uri) {
  struct txb_pg_options options = {.uri = uri, .connect_timeout_ms = 30000, .stop_fd = -1};
  struct txb_pg *one = NULL;
  enum txb_rc rc = txb_pg_open(&options, &one, &err);
  txb_pg_close(one);
  return rc;
}

Test(pg_port, tells_refusal_from_absence_when_connecting) {
  char uri[500];
  const char *good = getenv("TXB_TEST_PASSWORD_URI"), *password = strstr(good, "geheim");
  cr_assert(open_uri(good) == TXB_OK, "%s", err.message);
  snprintf(uri, sizeof uri, "%.*s%s%s", (int)(password - good), good, "falsch", password + strlen("geheim"));
  cr_assert(open_uri(uri) == TXB_REFUSED && err.origin == TXB_ORIGIN_SAFETY, "%s", err.message);
  cr_assert(strstr(err.message, "falsch") == NULL && strstr(err.message, "28P01") == NULL &&
            strstr(err.message, "LOCATION") == NULL);
  cr_assert_str_eq(err.sqlstate, "28P01");
  snprintf(uri, sizeof uri, "%s_missing", good);
  cr_assert(open_uri(uri) == TXB_REFUSED && strcmp(err.sqlstate, "3D000") == 0, "%s", err.message);
}

Test(pg_port, passes_settings_and_name_on) {
  STATEMENT(look, "SELECT current_setting('work_mem') || ' ' || current_setting('application_name')");
  struct txb_pg_options options = {
      .uri = getenv("TXB_TEST_DATABASE"), .application_name = "by name", .stop_fd = -1, .settings = "-c work_mem=2MB"};
  struct txb_pg *one = NULL;
  struct txb_pg_result *r = NULL;
  cr_assert(txb_pg_open(&options, &one, &err) == TXB_OK && txb_pg_query(one, &look, NULL, &r, &err) == TXB_OK);
  cr_assert_str_eq(txb_pg_text(r, 0, 0), "2MB by name");
  cr_assert(txb_pg_server_version(one) >= 140000 && PQbackendPID(txb_pg_native(one)) > 0);
  txb_pg_result_free(r);
  txb_pg_close(one);
}

/* ---- borrowed connections ---- */

Test(pg_port, works_on_a_borrowed_connection_inside_its_transaction_and_leaves_nothing_behind) {
  for (int nonblocking = 0; nonblocking <= 1; nonblocking++) {
    PGconn *conn = PQconnectdb(getenv("TXB_TEST_DATABASE"));
    struct txb_pg *own = pg;
    PQclear(PQexec(conn, "BEGIN"));
    cr_assert(PQsetnonblocking(conn, nonblocking) == 0 && txb_pg_borrow(conn, &pg, &err) == TXB_OK);
    cr_assert(number(&twice, &p) == 42 && number(&thrice, &p) == 63 && number(&prepared_count, NULL) == 0);
    cr_assert(PQtransactionStatus(conn) == PQTRANS_INTRANS);
    cr_assert(txb_pg_query(pg, &by_zero, &p, NULL, &err) == TXB_REFUSED);
    cr_assert(txb_pg_query(pg, &twice, &p, NULL, &err) == TXB_REFUSED && strcmp(err.sqlstate, "25P02") == 0);
    txb_pg_close(pg);
    PQclear(PQexec(conn, "ROLLBACK"));
    cr_assert(PQstatus(conn) == CONNECTION_OK && PQisnonblocking(conn) == nonblocking);
    PQfinish(conn);
    pg = own;
  }
}

Test(pg_port, refuses_a_borrowed_connection_that_is_busy_or_in_a_pipeline) {
  PGconn *conn = PQconnectdb(getenv("TXB_TEST_DATABASE"));
  struct txb_pg *borrowed = NULL;
  cr_assert(txb_pg_borrow(conn, &borrowed, &err) == TXB_OK);
  cr_assert(PQenterPipelineMode(conn) == 1);
  cr_assert(txb_pg_query(borrowed, &twice, &p, NULL, &err) == TXB_REFUSED);
  cr_assert(PQexitPipelineMode(conn) == 1 && PQsendQuery(conn, "SELECT 1") == 1);
  cr_assert(txb_pg_query(borrowed, &twice, &p, NULL, &err) == TXB_REFUSED);
  txb_pg_close(borrowed);
  PQfinish(conn);
}
