/* demo: the story from start to end. */
#include <inttypes.h>
#include <stdio.h>

#include "broker/cli/demo.h"
#include "common/clock.h"
#include "common/loop.h"
#include "common/random.h"

#define PARTITIONS  4
#define TICK_US     (8 * 1000)
#define RATE        350 /* transfers a second, so that work is always under way */
#define TRICKLE     25  /* while a process that is to be killed next has not come back */
#define PROGRESS_US (100 * 1000)
#define STUCK_US    (90 * 1000 * 1000LL)

/* ---- setting up ------------------------------------------------------------------------------------------ */

static enum txb_rc take_options(struct txb_demo *demo, struct txb_error *err) {
  const struct txb_args *args = &demo->stage.cli->args;
  long long transfers = 2000, writers = 4, kills = 6, seed = (long long)(txb_random_u64() >> 2);
  TXB_TRY(txb_args_integer(args, "transfers", 1, 1000000, &transfers, err));
  TXB_TRY(txb_args_integer(args, "writers", 2, TXB_DEMO_WRITERS_MAX, &writers, err));
  TXB_TRY(txb_args_integer(args, "kills", 0, 1000, &kills, err));
  TXB_TRY(txb_args_integer(args, "seed", 0, INT64_MAX, &seed, err));
  if (txb_args_has(args, "trips"))
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "--trips is for demo saga");
  demo->transfers = transfers;
  demo->writers = (int)writers;
  demo->kills_wanted = (int)kills;
  demo->seed = (uint64_t)seed;
  return TXB_OK;
}

static enum txb_rc set_up(struct txb_demo *demo, int64_t *money, struct txb_error *err) {
  static const char *const names[] = {"bank_a", "bank_b"}, *const topics[] = {"to_bank_a", "to_bank_b"};
  for (int i = 0; i < 2; i++) {
    struct txb_demo_bank *bank = &demo->banks[i];
    bank->db = txb_stage_add_database(&demo->stage, names[i]);
    bank->topic = txb_stage_add_topic(&demo->stage, topics[i]);
    txb_stage_group_name(&demo->stage, names[i], bank->group, sizeof(bank->group));
  }
  TXB_TRY(txb_stage_open(&demo->stage, PARTITIONS, err));
  txb_say("seed %" PRIu64, demo->seed);
  TXB_TRY(txb_demo_banks_open(demo, money, err));
  return txb_demo_processes_start(demo, err);
}

static void tear_down(struct txb_demo *demo) {
  txb_demo_writers_stop(demo);
  txb_stage_close(&demo->stage);
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
  double gate = demo->stage.kills >= demo->kills_wanted ? (double)demo->transfers : share * (demo->stage.kills + 1);
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
  return demo->stage.kills < demo->kills_wanted && (double)sent > share * (demo->stage.kills + 0.4);
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
                 b[0].published + b[1].published, b[0].credited + b[1].credited,
                 demo->stage.processes[TXB_DEMO_RELAY].kills, demo->stage.processes[TXB_DEMO_WORKER].kills);
  txb_progress(demo->stage.cli, text);
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
    struct pollfd fd = {.fd = demo->stage.stop_fd, .events = POLLIN};
    TXB_TRY(txb_wait(&fd, 1, TICK_US, NULL, err));
    if (txb_stopped(demo->stage.stop_fd))
      return TXB_FAIL(err, TXB_RETRY, "stopping");
    int64_t now = txb_clock_steady_us();
    TXB_TRY(txb_demo_look(demo, err));
    let_writers_go(demo, &pace, now);
    TXB_TRY(txb_demo_writers_check(demo, err));
    TXB_TRY(txb_stage_check(&demo->stage, err));
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
  txb_stage_stop(&demo->stage);
  TXB_TRY(txb_demo_look(demo, err));
  txb_progress(demo->stage.cli, NULL);
  return txb_demo_verify(demo, money, verdict, err);
}

int txb_cmd_demo(struct txb_cli *cli) {
  static struct txb_demo demo; /* too large for a stack */
  if (cli->args.operand_count > 0)
    return txb_demo_saga(cli);
  struct txb_error err;
  struct txb_demo_verdict verdict = {.ok = false};
  demo = (struct txb_demo){.started_us = txb_clock_steady_us()};
  (void)pthread_mutex_init(&demo.mutex, NULL);
  (void)pthread_cond_init(&demo.changed, NULL);
  enum txb_rc rc = txb_stage_init(&demo.stage, cli, &err);
  if (rc == TXB_OK)
    rc = take_options(&demo, &err);
  if (rc == TXB_OK)
    rc = txb_signals_open(&demo.stage.stop_fd, &err);
  if (rc == TXB_OK)
    rc = tell(&demo, &verdict, &err);
  if (rc != TXB_OK && txb_stopped(demo.stage.stop_fd))
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
