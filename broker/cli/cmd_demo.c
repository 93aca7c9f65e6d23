/* demo: the story from start to end. A crash of this process takes its children along; what is on disk is removed by
 * the next start. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/demo.h"
#include "common/clock.h"
#include "common/kafka_inspect.h"
#include "common/loop.h"
#include "common/random.h"

#define PARTITIONS       4
#define CONNECT_MS       10000
#define TICK_US          (8 * 1000)
#define RATE             350 /* transfers a second, so that work is always under way */
#define TRICKLE          25  /* while a process that is to be killed next has not come back */
#define PROGRESS_US      (100 * 1000)
#define STUCK_US         (90 * 1000 * 1000LL)
#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* ---- setting up ------------------------------------------------------------------------------------------ */

static enum txb_rc take_options(struct txb_demo *demo, struct txb_error *err) {
  const struct txb_args *args = &demo->cli->args;
  long long transfers = 2000, writers = 4, kills = 6, seed = (long long)(txb_random_u64() >> 2);
  TXB_TRY(txb_args_integer(args, "transfers", 1, 1000000, &transfers, err));
  TXB_TRY(txb_args_integer(args, "writers", 2, TXB_DEMO_WRITERS_MAX, &writers, err));
  TXB_TRY(txb_args_integer(args, "kills", 0, 1000, &kills, err));
  TXB_TRY(txb_args_integer(args, "seed", 0, INT64_MAX, &seed, err));
  demo->transfers = transfers;
  demo->writers = (int)writers;
  demo->kills_wanted = (int)kills;
  demo->seed = (uint64_t)seed;
  demo->server_uri = txb_args_text(args, "database");
  demo->own_postgres = demo->server_uri == NULL;
  if (demo->own_postgres && txb_args_has(args, "keep"))
    return REFUSE(err,
                  "--keep keeps databases in a server of yours: name it with --database URI; the private server is "
                  "removed with all that is in it");
  return TXB_OK;
}

/* Names of this run: on servers of the user's they must meet nothing that is there. */
static void name_banks(struct txb_demo *demo, bool own_kafka) {
  uint32_t run = (uint32_t)txb_random_u64();
  for (int i = 0; i < 2; i++) {
    struct txb_demo_bank *bank = &demo->banks[i];
    char letter = (char)('a' + i);
    if (demo->own_postgres)
      (void)snprintf(bank->name, sizeof(bank->name), "bank_%c", letter);
    else
      (void)snprintf(bank->name, sizeof(bank->name), "txbroker_demo_%08x_bank_%c", run, letter);
    if (own_kafka)
      (void)snprintf(bank->topic, sizeof(bank->topic), "to_bank_%c", letter);
    else
      (void)snprintf(bank->topic, sizeof(bank->topic), "txbroker-demo-%08x.to_bank_%c", run, letter);
    (void)snprintf(bank->group, sizeof(bank->group), "txbroker-demo-%08x.bank_%c", run, letter);
  }
}

static enum txb_rc open_postgres(struct txb_demo *demo, struct txb_error *err) {
  if (!demo->own_postgres) {
    demo->base = demo->directory.path;
    return txb_private_directory_open(&demo->directory, err);
  }
  struct txb_private_postgres_options options = {.port = -1, .stop_fd = demo->stop_fd};
  TXB_TRY(txb_private_postgres_open(&options, &demo->postgres, err));
  demo->base = demo->postgres.directory.path;
  return TXB_OK;
}

static enum txb_rc open_kafka(struct txb_demo *demo, struct txb_error *err) {
  demo->brokers = demo->cli->settings.kafka.brokers;
  struct txb_kafka_cluster cluster = txb_cli_cluster(demo->cli, "txbroker-demo");
  if (demo->brokers == NULL) {
    TXB_TRY(txb_kafka_mock_open(1, &demo->mock, err));
    demo->brokers = txb_kafka_mock_brokers(demo->mock);
  }
  for (int i = 0; i < 2; i++) {
    const char *topic = demo->banks[i].topic;
    if (demo->mock != NULL)
      TXB_TRY(txb_kafka_mock_topic(demo->mock, topic, PARTITIONS, err));
    else
      TXB_TRY(txb_kafka_topic_create(&cluster, topic, PARTITIONS, -1, CONNECT_MS, err));
    demo->topics_made++;
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

static enum txb_rc set_up(struct txb_demo *demo, int64_t *money, struct txb_error *err) {
  name_banks(demo, demo->cli->settings.kafka.brokers == NULL);
  /* Kafka first: it is asked in a moment, and a wrong address should not cost the start of a server. */
  TXB_TRY(open_kafka(demo, err));
  TXB_TRY(open_postgres(demo, err));
  TXB_TRY(txb_demo_banks_open(demo, money, err));
  txb_say("%s%s, Kafka: %s (%s); seed %" PRIu64, demo->own_postgres ? "private PostgreSQL " : "PostgreSQL of yours",
          demo->own_postgres ? demo->postgres.version : "", demo->brokers,
          demo->mock != NULL ? "librdkafka's mock cluster" : "yours", demo->seed);
  clear_environment();
  return txb_demo_processes_start(demo, err);
}

static void tear_down(struct txb_demo *demo) {
  txb_demo_writers_stop(demo);
  txb_demo_processes_stop(demo);
  /* One bank alone is not worth keeping. */
  bool keep = demo->databases_made == 2 && txb_args_has(&demo->cli->args, "keep");
  txb_demo_banks_close(demo, !demo->own_postgres && !keep);
  if (demo->own_postgres)
    txb_private_postgres_close(&demo->postgres);
  else
    txb_private_directory_close(&demo->directory);
  struct txb_error ignored;
  struct txb_kafka_cluster cluster = txb_cli_cluster(demo->cli, "txbroker-demo");
  for (int i = 0; i < demo->topics_made && demo->mock == NULL; i++)
    if (txb_kafka_topic_delete(&cluster, demo->banks[i].topic, CONNECT_MS, &ignored) != TXB_OK)
      txb_say("topic %s is left behind: %s", demo->banks[i].topic, ignored.message);
  txb_kafka_mock_close(demo->mock);
}

/* ---- under way ------------------------------------------------------------------------------------------- */

struct pace {
  int64_t last_us, progress_us, moved_us, moved; /* moved: a sum that grows while anything happens */
  double allowance;                              /* transfers that may have been begun by now */
};

/* Transfers go on at a steady rate up to the next kill's share, and trickle until it was made: there is always
 * something to interrupt. */
static void let_writers_go(struct txb_demo *demo, struct pace *pace, int64_t now) {
  double share = (double)demo->transfers * 0.85 / (demo->kills_wanted + 1);
  double gate = demo->kills >= demo->kills_wanted ? (double)demo->transfers : share * (demo->kills + 1);
  double rate = pace->allowance < gate ? RATE : TRICKLE;
  pace->allowance += rate * (double)(now - pace->last_us) / 1e6;
  pace->last_us = now;
  if (pace->allowance > (double)demo->transfers)
    pace->allowance = (double)demo->transfers;
  txb_demo_writers_allow(demo, (int64_t)pace->allowance);
}

static bool is_kill_due(const struct txb_demo *demo) {
  double share = (double)demo->transfers * 0.85 / (demo->kills_wanted + 1);
  int64_t sent = demo->banks[0].sent + demo->banks[1].sent;
  return demo->kills < demo->kills_wanted && (double)sent > share * (demo->kills + 0.4);
}

static void show(struct txb_demo *demo, struct pace *pace, int64_t now) {
  const struct txb_demo_bank *b = demo->banks;
  char text[160];
  if (now - pace->progress_us < PROGRESS_US)
    return;
  pace->progress_us = now;
  (void)snprintf(text, sizeof(text),
                 "%5.1f s   transfers %" PRId64 "/%" PRId64 "   published %" PRId64 "   applied %" PRId64
                 "   killed: relay %d, worker %d",
                 (double)(now - demo->started_us) / 1e6, b[0].sent + b[1].sent, demo->transfers,
                 b[0].published + b[1].published, b[0].credited + b[1].credited, demo->processes[TXB_DEMO_RELAY].kills,
                 demo->processes[TXB_DEMO_WORKER].kills);
  txb_progress(demo->cli, text);
}

static enum txb_rc check_stuck(const struct txb_demo *demo, struct pace *pace, int64_t now, struct txb_error *err) {
  const struct txb_demo_bank *b = demo->banks;
  int64_t moved = b[0].sent + b[1].sent + b[0].credited + b[1].credited + b[0].watermark + b[1].watermark;
  if (moved != pace->moved)
    pace->moved_us = now;
  pace->moved = moved;
  if (now - pace->moved_us < STUCK_US)
    return TXB_OK;
  return TXB_FAIL(err, TXB_REFUSED,
                  "nothing has moved for %lld s: %" PRId64 " of %" PRId64 " transfers are made, %" PRId64 " applied",
                  STUCK_US / 1000000, b[0].sent + b[1].sent, demo->transfers, b[0].credited + b[1].credited);
}

/* Until every transfer is made and applied, or a signal comes (which stays to be read: it ends the writers' waits
 * too). */
static enum txb_rc play(struct txb_demo *demo, struct txb_error *err) {
  struct pace pace = {.last_us = txb_clock_steady_us()};
  pace.moved_us = pace.last_us;
  for (;;) {
    struct pollfd fd = {.fd = demo->stop_fd, .events = POLLIN};
    TXB_TRY(txb_wait(&fd, 1, TICK_US, NULL, err));
    if (txb_stopped(demo->stop_fd))
      return TXB_FAIL(err, TXB_RETRY, "stopping");
    int64_t now = txb_clock_steady_us();
    TXB_TRY(txb_demo_look(demo, err));
    let_writers_go(demo, &pace, now);
    TXB_TRY(txb_demo_writers_check(demo, err));
    TXB_TRY(txb_demo_processes_check(demo, err));
    bool killed = false;
    if (is_kill_due(demo))
      TXB_TRY(txb_demo_kill_next(demo, &killed, err));
    show(demo, &pace, now);
    TXB_TRY(check_stuck(demo, &pace, now, err));
    const struct txb_demo_bank *b = demo->banks;
    if (b[0].sent + b[1].sent >= demo->transfers && b[0].credited >= b[1].sent && b[1].credited >= b[0].sent)
      return TXB_OK;
  }
}

static enum txb_rc tell(struct txb_demo *demo, struct txb_demo_verdict *verdict, struct txb_error *err) {
  int64_t money = 0;
  TXB_TRY(set_up(demo, &money, err));
  TXB_TRY(txb_demo_writers_start(demo, err));
  TXB_TRY(play(demo, err));
  /* Stopped before the verifier looks: nothing is to move while it counts, and what a late repetition would double
   * must have had its chance. */
  txb_demo_writers_stop(demo);
  txb_demo_processes_stop(demo);
  TXB_TRY(txb_demo_look(demo, err));
  txb_progress(demo->cli, NULL);
  return txb_demo_verify(demo, money, verdict, err);
}

int txb_cmd_demo(struct txb_cli *cli) {
  static struct txb_demo demo; /* too large for a stack */
  struct txb_error err;
  struct txb_demo_verdict verdict = {.ok = false};
  demo = (struct txb_demo){.cli = cli, .stop_fd = -1, .started_us = txb_clock_steady_us()};
  demo.postgres = (struct txb_private_postgres){.directory.lock_fd = -1, .data_lock_fd = -1, .server.pidfd = -1};
  demo.directory.lock_fd = -1;
  (void)pthread_mutex_init(&demo.mutex, NULL);
  (void)pthread_cond_init(&demo.changed, NULL);
  enum txb_rc rc = take_options(&demo, &err);
  if (rc == TXB_OK)
    rc = txb_signals_open(&demo.stop_fd, &err);
  if (rc == TXB_OK)
    rc = tell(&demo, &verdict, &err);
  if (rc != TXB_OK && txb_stopped(demo.stop_fd))
    rc = TXB_FAIL(&err, TXB_REFUSED, "stopped before the end");
  txb_progress(cli, NULL);
  if (rc == TXB_OK) {
    txb_demo_print(&demo, &verdict);
    (void)txb_print_flush();
  }
  tear_down(&demo);
  if (rc != TXB_OK)
    return txb_fail(&err);
  return verdict.ok ? TXB_EXIT_DONE : TXB_EXIT_FAILED;
}
