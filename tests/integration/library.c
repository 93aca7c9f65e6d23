/* The public functions on a real server, which test_library.py starts: TXB_TEST_DATABASE is a migrated database. Kafka is
 * librdkafka's mock cluster: nothing is delivered here. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/kafka_mock.h"
#include "txbroker/consumer.h"
#include "txbroker/outbox.h"

#define MULLER "M\xC3\xBCller"

static struct txb_error err;

static PGconn *connect_to(const char *uri) {
  PGconn *conn = PQconnectdb(uri);
  cr_assert(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
  return conn;
}

static PGconn *connect_here(void) {
  const char *uri = getenv("TXB_TEST_DATABASE");
  cr_assert(uri != NULL, "test_library.py runs this");
  return connect_to(uri);
}

/* ---- publishing ---- */

static enum txb_rc publish(PGconn *conn, bool many, char id[37]) {
  const struct txb_intent intent = {.topic = "notes",
                                    .key = txb_bytes(MULLER),
                                    .type = "note.made",
                                    .payload = txb_bytes("{}"),
                                    .headers_json = "{\"who\": \"" MULLER "\"}"};
  char ids[1][37];
  if (!many)
    return txb_publish(conn, &intent, id, &err);
  enum txb_rc rc = txb_publish_many(conn, &intent, 1, ids, &err);
  if (rc == TXB_OK)
    memcpy(id, ids[0], sizeof ids[0]);
  return rc;
}

/* What a reader whose encoding is UTF8 finds. */
static void check_stored(const char *id) {
  PGconn *conn = connect_here();
  cr_assert(PQsetClientEncoding(conn, "UTF8") == 0);
  PGresult *r = PQexecParams(conn, "SELECT key, headers->>'who' FROM txb.outbox WHERE id = $1::uuid", 1, NULL, &id,
                             NULL, NULL, 0);
  cr_assert(PQntuples(r) == 1, "%s", PQresultErrorMessage(r));
  cr_assert_str_eq(PQgetvalue(r, 0, 0), MULLER);
  cr_assert_str_eq(PQgetvalue(r, 0, 1), MULLER);
  PQclear(r);
  PQfinish(conn);
}

Test(library, publishes_text_as_it_is_or_not_at_all) {
  static const struct {
    const char *encoding;
    enum txb_rc rc;
  } rows[] = {{"UTF8", TXB_OK}, {"SQL_ASCII", TXB_OK}, {"LATIN1", TXB_REFUSED}, {"WIN1252", TXB_REFUSED}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int many = 0; many <= 1; many++) {
      char id[37] = "";
      PGconn *conn = connect_here();
      cr_assert(PQsetClientEncoding(conn, rows[i].encoding) == 0);
      enum txb_rc rc = publish(conn, many == 1, id);
      cr_assert(rc == rows[i].rc, "%s, many %d: %s %s", rows[i].encoding, many, txb_rc_name(rc), err.message);
      if (rc == TXB_OK)
        check_stored(id);
      else
        cr_assert(strstr(err.message, rows[i].encoding) != NULL && strstr(err.message, "UTF8") != NULL, "%s",
                  err.message);
      PQfinish(conn);
    }
}

/* There the bytes would be taken for LATIN1: only the conversion from UTF8 keeps the text. */
Test(library, refuses_bytes_as_they_are_in_a_database_of_another_encoding) {
  const char *uri = getenv("TXB_TEST_LATIN1");
  char id[37] = "";
  cr_assert(uri != NULL);
  PGconn *conn = connect_to(uri);
  cr_assert(PQsetClientEncoding(conn, "SQL_ASCII") == 0);
  cr_assert(publish(conn, false, id) == TXB_REFUSED && strstr(err.message, "client_encoding") != NULL, "%s",
            err.message);
  PQfinish(conn);
}

/* The bytes behind the sizes do not exist: who looked at them would crash. */
Test(library, refuses_what_a_server_can_not_take_before_it_is_sent) {
  const struct txb_intent intent = {
      .topic = "notes", .key = txb_bytes("k"), .type = "note.made", .payload = {"{}", (size_t)1200 << 20}};
  PGconn *conn = connect_here();
  cr_assert(txb_publish(conn, &intent, NULL, &err) == TXB_REFUSED && strstr(err.message, "payload") != NULL, "%s",
            err.message);
  cr_assert(txb_publish_many(conn, &intent, 1, NULL, &err) == TXB_REFUSED && strstr(err.message, "row 1") != NULL, "%s",
            err.message);
  cr_assert(PQstatus(conn) == CONNECTION_OK);
  PQfinish(conn);
}

/* ---- a worker in this process ---- */

static struct txb_kafka_mock *mock;
static const char *const topics[] = {"notes", NULL};
static struct txb_worker *worker;
static atomic_bool ended;

static enum txb_outcome handle(PGconn *conn, const struct txb_message *message, struct txb_answer *answer,
                               void *context) {
  (void)conn;
  (void)message;
  (void)answer;
  (void)context;
  return TXB_OUTCOME_OK;
}

static struct txb_worker_options some_options(void) {
  if (mock == NULL) {
    cr_assert(txb_kafka_mock_open(1, &mock, &err) == TXB_OK, "%s", err.message);
    cr_assert(txb_kafka_mock_topic(mock, "notes", 1, &err) == TXB_OK, "%s", err.message);
  }
  return (struct txb_worker_options){.struct_size = sizeof(struct txb_worker_options),
                                     .group = "library",
                                     .topics = topics,
                                     .database = getenv("TXB_TEST_DATABASE"),
                                     .brokers = txb_kafka_mock_brokers(mock),
                                     .session_timeout_ms = 6000};
}

/* The session that it looked at the database with is gone then. */
static void make_worker(const struct txb_worker_options *options) {
  PGconn *conn = connect_here();
  cr_assert(txb_worker_new(options, handle, NULL, &worker, &err) == TXB_OK, "%s", err.message);
  for (bool gone = false; !gone;) {
    PGresult *r = PQexec(conn, "SELECT FROM pg_stat_activity WHERE application_name = 'txbroker worker library'");
    cr_assert(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
    gone = PQntuples(r) == 0;
    PQclear(r);
  }
  PQfinish(conn);
}

static void free_worker(void) {
  txb_worker_free(worker);
  txb_kafka_mock_close(mock);
}

static void *run_without_error(void *unused) {
  enum txb_rc rc = txb_worker_run(worker, NULL);
  cr_assert(rc == TXB_OK);
  atomic_store(&ended, true);
  return unused;
}

/* Process number of the worker's session other than this one; 0: it has none, and its run has ended. */
static int session_other_than(PGconn *conn, int pid) {
  for (;;) {
    bool over = atomic_load(&ended);
    PGresult *r = PQexec(conn, "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                               " AND application_name = 'txbroker worker library'");
    cr_assert(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
    int found = PQntuples(r) > 0 ? (int)strtol(PQgetvalue(r, 0, 0), NULL, 10) : 0;
    PQclear(r);
    if ((found != 0 && found != pid) || over)
      return found == pid ? 0 : found;
  }
}

static void end_session(PGconn *conn, int pid) {
  char text[16];
  const char *value = text;
  snprintf(text, sizeof text, "%d", pid);
  PGresult *r = PQexecParams(conn, "SELECT pg_terminate_backend($1::int)", 1, NULL, &value, NULL, NULL, 0);
  cr_assert(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
  PQclear(r);
}

Test(library, works_on_without_a_place_for_the_error_when_its_session_ends) {
  struct txb_worker_options options = some_options();
  make_worker(&options);
  pthread_t thread;
  PGconn *conn = connect_here();
  cr_assert(pthread_create(&thread, NULL, run_without_error, NULL) == 0);
  int first = session_other_than(conn, 0);
  end_session(conn, first);
  cr_assert(session_other_than(conn, first) != 0, "it connects again");
  txb_worker_stop(worker);
  cr_assert(pthread_join(thread, NULL) == 0);
  PQfinish(conn);
  free_worker();
}

Test(library, is_not_stopped_by_a_forked_child) {
  struct txb_worker_options options = some_options();
  make_worker(&options);
  pthread_t thread;
  pid_t child = fork();
  if (child == 0) {
    txb_worker_stop(worker);
    _exit(0);
  }
  cr_assert(waitpid(child, NULL, 0) == child);
  PGconn *conn = connect_here();
  cr_assert(pthread_create(&thread, NULL, run_without_error, NULL) == 0);
  cr_assert(session_other_than(conn, 0) != 0, "a stopped worker opens no session");
  txb_worker_stop(NULL);
  txb_worker_stop(worker);
  cr_assert(pthread_join(thread, NULL) == 0);
  PQfinish(conn);
  free_worker();
}

/* ---- where its log goes ---- */

static char lines[4000];
static int foreign_lines;
static sem_t started;

static void take_line(enum txb_log_level level, const char *line, void *context) {
  if (level < TXB_LOG_INFO || context != &started || strchr(line, '\n') != NULL)
    foreign_lines++;
  size_t size = strlen(lines);
  snprintf(lines + size, sizeof lines - size, "%s\n", line);
  if (strstr(line, "worker started") != NULL)
    sem_post(&started);
}

/* One whole run, with a session that ends; how many bytes came to standard error. */
static off_t run_and_look_at_stderr(bool told) {
  FILE *file = tmpfile();
  struct stat written;
  int old = dup(STDERR_FILENO);
  cr_assert(file != NULL && old >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
  pthread_t thread;
  PGconn *conn = connect_here();
  cr_assert(pthread_create(&thread, NULL, run_without_error, NULL) == 0);
  if (told)
    cr_assert(sem_wait(&started) == 0);
  int first = session_other_than(conn, 0);
  end_session(conn, first);
  cr_assert(session_other_than(conn, first) != 0);
  txb_worker_stop(worker);
  cr_assert(pthread_join(thread, NULL) == 0);
  cr_assert(fstat(fileno(file), &written) == 0 && dup2(old, STDERR_FILENO) >= 0);
  PQfinish(conn);
  fclose(file);
  close(old);
  return written.st_size;
}

Test(library, logs_to_the_application_when_it_wants_so) {
  struct txb_worker_options options = some_options();
  options.log = take_line;
  options.log_context = &started;
  cr_assert(sem_init(&started, 0, 0) == 0);
  make_worker(&options);
  cr_assert(run_and_look_at_stderr(true) == 0);
  cr_assert(strstr(lines, "msg=\"worker started\" group=library") != NULL && foreign_lines == 0, "%s", lines);
  cr_assert(strstr(lines, "connecting again") != NULL, "%s", lines);
  free_worker();
}

Test(library, logs_nothing_when_told_so_and_to_stderr_by_default) {
  struct txb_worker_options options = some_options();
  options.log_level = TXB_LOG_NONE;
  make_worker(&options);
  cr_assert(run_and_look_at_stderr(false) == 0);
  txb_worker_free(worker);
  atomic_store(&ended, false);
  options.struct_size = offsetof(struct txb_worker_options, log); /* of an application compiled before there was one */
  options.log = take_line;
  make_worker(&options);
  cr_assert(run_and_look_at_stderr(false) > 0 && lines[0] == '\0');
  free_worker();
}

Test(library, refuses_a_source_without_a_connection_string) {
  static const char *const sources[] = {"bank", "postgresql:///bank", "shop", NULL};
  struct txb_worker_options options = some_options();
  options.sources = sources;
  cr_assert(txb_worker_new(&options, handle, NULL, &worker, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "shop") != NULL, "%s", err.message);
  txb_kafka_mock_close(mock);
}

Test(library, refuses_one_of_its_topics_as_its_dead_letter_topic) {
  struct txb_worker_options options = some_options();
  options.retry_dead_letter_topic = options.topics[0];
  cr_assert(txb_worker_new(&options, handle, NULL, &worker, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "dead_letter_topic") != NULL, "%s", err.message);
  options.struct_size = offsetof(struct txb_worker_options, retry_dead_letter_topic); /* of before there was one */
  make_worker(&options);
  free_worker();
}

Test(library, refuses_a_level_that_is_none) {
  struct txb_worker_options options = some_options();
  options.log_level = (enum txb_log_level)99;
  cr_assert(txb_worker_new(&options, handle, NULL, &worker, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "log_level is 99") != NULL, "%s", err.message);
  txb_kafka_mock_close(mock);
}
