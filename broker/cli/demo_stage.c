/* See demo_stage.h. */
#include "broker/cli/demo_stage.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/migrate.h"
#include "cli_sql.h"
#include "common/kafka_inspect.h"
#include "common/memory.h"
#include "common/random.h"

static const struct txb_pg_statement create_statement = {"demo_database_create", txb_text_demo_database_create};
static const struct txb_pg_statement end_statement = {"demo_database_end", txb_text_demo_database_end};
static const struct txb_pg_statement name_statement = {"demo_database_name", txb_text_demo_database_name};
static const struct txb_pg_statement drop_statement = {"demo_database_drop", txb_text_demo_database_drop};

#define CONNECT_MS       10000
#define STOP_MS          20000
#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* ---- names ------------------------------------------------------------------------------------------------ */

enum txb_rc txb_stage_init(struct txb_stage *stage, struct txb_cli *cli, struct txb_error *err) {
  *stage = (struct txb_stage){.cli = cli, .stop_fd = -1, .run = (uint32_t)txb_random_u64()};
  stage->postgres = (struct txb_private_postgres){.directory.lock_fd = -1, .data_lock_fd = -1, .server.pidfd = -1};
  stage->directory.lock_fd = -1;
  stage->server_uri = txb_args_text(&cli->args, "database");
  stage->own_postgres = stage->server_uri == NULL;
  if (stage->own_postgres && txb_args_has(&cli->args, "keep"))
    return REFUSE(err,
                  "--keep keeps databases in a server of yours: name it with --database URI; the private server is "
                  "removed with all that is in it");
  return TXB_OK;
}

struct txb_stage_database *txb_stage_add_database(struct txb_stage *stage, const char *name) {
  TXB_ASSERT(stage->database_count < TXB_STAGE_MAX);
  struct txb_stage_database *d = &stage->databases[stage->database_count++];
  if (stage->own_postgres)
    (void)snprintf(d->name, sizeof(d->name), "%s", name);
  else
    (void)snprintf(d->name, sizeof(d->name), "txbroker_demo_%08x_%s", stage->run, name);
  return d;
}

const char *txb_stage_add_topic(struct txb_stage *stage, const char *name) {
  TXB_ASSERT(stage->topic_count < TXB_STAGE_MAX);
  char *topic = stage->topics[stage->topic_count++];
  if (stage->cli->settings.kafka.brokers == NULL)
    (void)snprintf(topic, sizeof(stage->topics[0]), "%s", name);
  else
    (void)snprintf(topic, sizeof(stage->topics[0]), "txbroker-demo-%08x.%s", stage->run, name);
  return topic;
}

void txb_stage_group_name(const struct txb_stage *stage, const char *name, char *out, size_t out_size) {
  (void)snprintf(out, out_size, "txbroker-demo-%08x.%s", stage->run, name);
}

/* ---- databases --------------------------------------------------------------------------------------------- */

/* What separates one more parameter from a connection string. libpq takes a '?' in user and password for what it is:
 * a query begins behind them, and they end at an '@' that comes before any '/'. */
static const char *separator(const char *uri) {
  static const char *const schemes[] = {"postgresql://", "postgres://"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(schemes); i++) {
    size_t size = strlen(schemes[i]);
    if (strncmp(uri, schemes[i], size) != 0)
      continue;
    const char *host = uri + size + strcspn(uri + size, "@/");
    return strchr(*host == '@' ? host : uri + size, '?') == NULL ? "?" : "&";
  }
  return " ";
}

/* The same server, another database: what comes last in a connection string counts. */
static enum txb_rc make_uri(const struct txb_stage *stage, struct txb_stage_database *d, struct txb_error *err) {
  char own[300];
  if (stage->own_postgres) {
    txb_private_postgres_uri(&stage->postgres, d->name, own, sizeof(own));
    txb_buffer_add_text(&d->address, own);
  } else {
    txb_buffer_addf(&d->address, "%s%sdbname=%s", stage->server_uri, separator(stage->server_uri), d->name);
  }
  d->uri = txb_buffer_text(&d->address);
  return txb_buffer_check(&d->address, err);
}

static enum txb_rc run_named(struct txb_pg *pg, const struct txb_pg_statement *statement, const char *name,
                             struct txb_error *err) {
  struct txb_pg_params params;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(name));
  enum txb_rc rc = txb_pg_query(pg, statement, &params, &row, err);
  txb_pg_params_fini(&params);
  TXB_TRY(rc);
  return txb_pg_script(pg, txb_pg_text(row, 0, 0), err);
}

static enum txb_rc connect_server(const struct txb_stage *stage, const char *name, int stop_fd, struct txb_pg **out,
                                  struct txb_error *err) {
  char uri[300];
  if (!stage->own_postgres)
    return txb_cli_connect_as(stage->server_uri, name, stop_fd, out, err);
  txb_private_postgres_uri(&stage->postgres, "postgres", uri, sizeof(uri));
  return txb_cli_connect_as(uri, name, stop_fd, out, err);
}

/* Of the connection that makes the databases: named after this run, so that it is found again. */
static const char *maker_name(const struct txb_stage *stage) {
  return stage->databases[0].name;
}

static enum txb_rc create_databases(struct txb_stage *stage, struct txb_error *err) {
  struct txb_pg *pg = NULL;
  TXB_TRY(connect_server(stage, maker_name(stage), stage->stop_fd, &pg, err));
  enum txb_rc rc = TXB_OK;
  for (int i = 0; i < stage->database_count && rc == TXB_OK; i++) {
    rc = run_named(pg, &create_statement, stage->databases[i].name, err);
    if (rc != TXB_OK)
      (void)txb_error_prefix(err, "database %s", stage->databases[i].name);
    if (rc == TXB_OK || !txb_pg_is_usable(pg))
      stage->databases_made++;
  }
  txb_pg_close(pg);
  return rc;
}

/* Whatever the user's connection string does: schemas are made in a database of ours only. */
static enum txb_rc check_database(const struct txb_stage_database *d, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_pg_query(d->pg, &name_statement, NULL, &row, err));
  if (strcmp(txb_pg_text(row, 0, 0), d->name) == 0)
    return TXB_OK;
  return REFUSE(err, "--database with dbname=%s added leads to database %s: nothing was changed there", d->name,
                txb_pg_text(row, 0, 0));
}

static enum txb_rc open_database(struct txb_stage *stage, struct txb_stage_database *d, struct txb_error *err) {
  struct txb_migrate_options options = {.partition_rows = 1000000, .partitions_ahead = 2};
  TXB_TRY(make_uri(stage, d, err));
  TXB_TRY(txb_cli_connect_as(d->uri, "txbroker demo", stage->stop_fd, &d->pg, err));
  TXB_TRY(check_database(d, err));
  json_t *report = json_object();
  enum txb_rc rc = txb_migrate(d->pg, &options, report, err);
  json_decref(report);
  return rc;
}

/* A CREATE DATABASE whose answer nobody waited for goes on at the server: it must have ended before the drop. */
static enum txb_rc end_maker(const struct txb_stage *stage, struct txb_pg *pg, struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(maker_name(stage)));
  enum txb_rc rc = txb_pg_query(pg, &end_statement, &params, NULL, err);
  txb_pg_params_fini(&params);
  return rc;
}

static enum txb_rc drop_databases(const struct txb_stage *stage, struct txb_pg *pg, struct txb_error *err) {
  TXB_TRY(end_maker(stage, pg, err));
  for (int i = 0; i < stage->databases_made; i++)
    TXB_TRY(run_named(pg, &drop_statement, stage->databases[i].name, err));
  return TXB_OK;
}

static void tell_left_behind(const struct txb_stage *stage, const char *why) {
  struct txb_buffer names;
  txb_buffer_init(&names);
  for (int i = 0; i < stage->databases_made; i++)
    txb_buffer_addf(&names, "%s%s",
                    i == 0                          ? ""
                    : i + 1 < stage->databases_made ? ", "
                                                    : " and ",
                    stage->databases[i].name);
  txb_say("left behind: database %s: %s", txb_buffer_text(&names), why);
  txb_buffer_fini(&names);
}

static void drop_all(const struct txb_stage *stage) {
  struct txb_error err;
  struct txb_pg *pg = NULL;
  bool all = stage->databases_made == stage->database_count;
  enum txb_rc rc = connect_server(stage, "txbroker demo", -1, &pg, &err);
  if (rc == TXB_OK)
    rc = drop_databases(stage, pg, &err);
  txb_pg_close(pg);
  if (rc != TXB_OK)
    tell_left_behind(stage, err.message);
  else if (!all)
    txb_say("database %s is dropped again, since there is no second one", stage->databases[0].name);
}

static void close_databases(struct txb_stage *stage, bool drop) {
  for (int i = 0; i < stage->database_count; i++) {
    struct txb_stage_database *d = &stage->databases[i];
    txb_pg_close(d->pg);
    d->pg = NULL;
    d->uri = NULL;
    txb_buffer_fini(&d->address);
  }
  if (drop && stage->databases_made > 0)
    drop_all(stage);
}

/* ---- servers ------------------------------------------------------------------------------------------------ */

static enum txb_rc open_postgres(struct txb_stage *stage, struct txb_error *err) {
  if (!stage->own_postgres) {
    stage->base = stage->directory.path;
    return txb_private_directory_open(&stage->directory, err);
  }
  struct txb_private_postgres_options options = {.port = -1, .stop_fd = stage->stop_fd};
  TXB_TRY(txb_private_postgres_open(&options, &stage->postgres, err));
  stage->base = stage->postgres.directory.path;
  return TXB_OK;
}

static enum txb_rc open_kafka(struct txb_stage *stage, int partitions, struct txb_error *err) {
  stage->brokers = stage->cli->settings.kafka.brokers;
  struct txb_kafka_cluster cluster = txb_cli_cluster(stage->cli, "txbroker-demo");
  if (stage->brokers == NULL) {
    TXB_TRY(txb_kafka_mock_open(1, &stage->mock, err));
    stage->brokers = txb_kafka_mock_brokers(stage->mock);
  }
  for (int i = 0; i < stage->topic_count; i++) {
    if (stage->mock != NULL)
      TXB_TRY(txb_kafka_mock_topic(stage->mock, stage->topics[i], partitions, err));
    else
      TXB_TRY(txb_kafka_topic_create(&cluster, stage->topics[i], partitions, -1, CONNECT_MS, err));
    stage->topics_made++;
  }
  return TXB_OK;
}

/* Settings of the caller's environment, of entries of any name, must not reach the children: they have a configuration
 * of their own. Other variables must: an option may name one ("env:TXB_PASSWORD"), whatever it is called. */
static void clear_environment(void) {
  for (char **variable = environ; *variable != NULL;) {
    char name[200];
    size_t size = strcspn(*variable, "=");
    (void)snprintf(name, sizeof(name), "%.*s", (int)(size < sizeof(name) ? size : 0), *variable);
    if (txb_settings_section_of_variable(name) == NULL || unsetenv(name) != 0)
      variable++;
  }
}

enum txb_rc txb_stage_open(struct txb_stage *stage, int partitions, struct txb_error *err) {
  /* Kafka first: it is asked in a moment, and a wrong address should not cost the start of a server. */
  TXB_TRY(open_kafka(stage, partitions, err));
  TXB_TRY(open_postgres(stage, err));
  TXB_TRY(create_databases(stage, err));
  for (int i = 0; i < stage->database_count; i++)
    TXB_TRY(open_database(stage, &stage->databases[i], err));
  txb_say("%s%s, Kafka: %s (%s)", stage->own_postgres ? "private PostgreSQL " : "PostgreSQL of yours",
          stage->own_postgres ? stage->postgres.version : "", stage->brokers,
          stage->mock != NULL ? "librdkafka's mock cluster" : "yours");
  clear_environment();
  return TXB_OK;
}

void txb_stage_close(struct txb_stage *stage) {
  txb_stage_stop(stage);
  /* Some of them alone are not worth keeping. */
  bool keep = stage->databases_made > 0 && stage->databases_made == stage->database_count &&
              txb_args_has(&stage->cli->args, "keep");
  close_databases(stage, !stage->own_postgres && !keep);
  if (stage->own_postgres)
    txb_private_postgres_close(&stage->postgres);
  else
    txb_private_directory_close(&stage->directory);
  struct txb_error ignored;
  struct txb_kafka_cluster cluster = txb_cli_cluster(stage->cli, "txbroker-demo");
  for (int i = 0; i < stage->topics_made && stage->mock == NULL; i++)
    if (txb_kafka_topic_delete(&cluster, stage->topics[i], CONNECT_MS, &ignored) != TXB_OK)
      txb_say("topic %s is left behind: %s", stage->topics[i], ignored.message);
  txb_kafka_mock_close(stage->mock);
}

/* ---- processes ---------------------------------------------------------------------------------------------- */

json_t *txb_stage_client_options(const struct txb_stage *stage) {
  const struct txb_texts *client = &stage->cli->settings.kafka.client;
  json_t *object = json_object();
  for (size_t i = 0; i + 1 < client->count; i += 2)
    (void)json_object_set_new(object, client->items[i], json_string(client->items[i + 1]));
  return object;
}

enum txb_rc txb_stage_write_config(struct txb_stage *stage, json_t *config, struct txb_error *err) {
  char *text = config == NULL ? NULL : json_dumps(config, JSON_INDENT(2));
  json_decref(config);
  if (text == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory");
  (void)snprintf(stage->config, sizeof(stage->config), "%s/demo.json", stage->base);
  int fd = open(stage->config, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  size_t size = strlen(text);
  bool written = fd >= 0 && write(fd, text, size) == (ssize_t)size;
  free(text);
  if (fd >= 0 && close(fd) != 0)
    written = false;
  return written ? TXB_OK : TXB_FAIL(err, TXB_REFUSED, "can't write %s: %s", stage->config, strerror(errno));
}

/* This very file, also when it was replaced meanwhile; without /proc, by the name that we were called by. */
static const char *own_program(void) {
  return access("/proc/self/exe", X_OK) == 0 ? "/proc/self/exe" : program_invocation_name;
}

enum txb_rc txb_stage_start(struct txb_stage *stage, struct txb_stage_process *p, struct txb_error *err) {
  const char *argv[TXB_STAGE_MAX + 6] = {"txbroker", "--config", stage->config};
  size_t count = 3;
  for (size_t i = 0; p->arguments[i] != NULL; i++)
    argv[count++] = p->arguments[i];
  (void)snprintf(p->log, sizeof(p->log), "%s/%s.log", stage->base, p->name);
  int log_fd = open(p->log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (log_fd < 0)
    return TXB_FAIL(err, TXB_REFUSED, "can't write %s: %s", p->log, strerror(errno));
  struct txb_child_options options = {
      .path = own_program(), .argv = argv, .output_fd = log_fd, .death_signal = SIGKILL};
  enum txb_rc rc = txb_child_start(&options, &p->child, err);
  (void)close(log_fd);
  return rc;
}

/* The last line that a process left. */
static void last_line(const char *path, char *out, size_t out_size) {
  char text[4096];
  int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
  ssize_t n =
      fd < 0 ? 0
             : pread(fd, text, sizeof(text) - 1, size > (off_t)sizeof(text) - 1 ? size - (off_t)sizeof(text) + 1 : 0);
  if (fd >= 0)
    (void)close(fd);
  while (n > 0 && text[n - 1] == '\n')
    n--;
  text[n > 0 ? n : 0] = '\0';
  const char *newline = strrchr(text, '\n');
  (void)snprintf(out, out_size, "%.*s", (int)out_size - 1, newline == NULL ? text : newline + 1);
}

enum txb_rc txb_stage_check(struct txb_stage *stage, struct txb_error *err) {
  for (int i = 0; i < stage->process_count; i++) {
    struct txb_stage_process *p = &stage->processes[i];
    char line[400];
    if (!txb_child_wait(&p->child, 0))
      continue;
    last_line(p->log, line, sizeof(line));
    return TXB_FAIL(err, TXB_REFUSED, "the %s process ended by itself: %s", p->name, line);
  }
  return TXB_OK;
}

void txb_stage_kill(struct txb_stage_process *p) {
  txb_child_signal(&p->child, SIGKILL);
  (void)txb_child_wait(&p->child, -1);
}

void txb_stage_stop(struct txb_stage *stage) {
  for (int i = 0; i < stage->process_count; i++)
    txb_child_signal(&stage->processes[i].child, SIGTERM);
  for (int i = 0; i < stage->process_count; i++)
    txb_child_stop(&stage->processes[i].child, SIGTERM, STOP_MS);
}
