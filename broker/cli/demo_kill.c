/* demo: relay and worker are killed while they have work.
 *
 * A kill counts only if the tables show work under way before it and still show it once the process is gone: then
 * nothing but a successor can do it.
 */
#include "broker/cli/demo.h"

/* ---- configuration --------------------------------------------------------------------------------------- */

static json_t *group_of(const struct txb_demo_bank *bank) {
  return json_pack("{s:s, s:[s], s:s, s:{s:s, s:s}, s:i, s:{s:i, s:i}}", "group", bank->group, "topics", bank->topic,
                   "database", bank->db->uri, "handler", "kind", "sql", "function", "bank.apply", "session_timeout_ms",
                   6000, "retry", "first_ms", 50, "cap_ms", 1000);
}

static json_t *config_of(const struct txb_demo *demo) {
  const struct txb_demo_bank *a = &demo->banks[0], *b = &demo->banks[1];
  return json_pack("{s:[{s:s, s:s}, {s:s, s:s}], s:{s:s, s:o}, s:{s:i, s:i, s:i}, s:[o, o], s:{s:i, s:i}}", "sources",
                   "name", a->db->name, "database", a->db->uri, "name", b->db->name, "database", b->db->uri, "kafka",
                   "brokers", demo->stage.brokers, "client", txb_stage_client_options(&demo->stage), "relay",
                   "lease_ms", 5000, "checkpoint_ms", 100, "partitions_ahead", 2, "workers", group_of(a), group_of(b),
                   "retry", "first_ms", 50, "cap_ms", 1000);
}

/* ---- processes ------------------------------------------------------------------------------------------- */

/* What the kind has done so far, by the tables. */
static int64_t progress_of(const struct txb_demo *demo, enum txb_demo_role role) {
  const struct txb_demo_bank *b = demo->banks;
  return role == TXB_DEMO_RELAY ? b[0].watermark + b[1].watermark : b[0].credited + b[1].credited;
}

/* Relay: intents written and not known to be published. Worker: transfers committed in one bank and not applied in
 * the other. */
static int64_t work_of(const struct txb_demo *demo, enum txb_demo_role role) {
  const struct txb_demo_bank *b = demo->banks;
  if (role == TXB_DEMO_RELAY)
    return b[0].drawn - b[0].watermark + b[1].drawn - b[1].watermark;
  return b[0].sent - b[1].credited + b[1].sent - b[0].credited;
}

static enum txb_rc start(struct txb_demo *demo, enum txb_demo_role role, struct txb_error *err) {
  struct txb_stage_process *p = &demo->stage.processes[role];
  p->progress_at_start = progress_of(demo, role);
  return txb_stage_start(&demo->stage, p, err);
}

enum txb_rc txb_demo_processes_start(struct txb_demo *demo, struct txb_error *err) {
  static const char *const names[TXB_DEMO_ROLES] = {[TXB_DEMO_RELAY] = "relay", [TXB_DEMO_WORKER] = "worker"};
  TXB_TRY(txb_stage_write_config(&demo->stage, config_of(demo), err));
  demo->stage.process_count = TXB_DEMO_ROLES;
  for (int role = 0; role < TXB_DEMO_ROLES; role++) {
    struct txb_stage_process *p = &demo->stage.processes[role];
    p->name = p->arguments[0] = names[role];
    TXB_TRY(start(demo, (enum txb_demo_role)role, err));
  }
  return TXB_OK;
}

/* Relay, worker, relay, relay, worker, relay, ...: a worker's successor waits for the session timeout of the dead
 * member, a relay's does not. */
static enum txb_demo_role victim_of(int number) {
  return number % 3 == 1 ? TXB_DEMO_WORKER : TXB_DEMO_RELAY;
}

enum txb_rc txb_demo_kill_next(struct txb_demo *demo, bool *killed_out, struct txb_error *err) {
  enum txb_demo_role role = victim_of(demo->stage.kills);
  struct txb_stage_process *p = &demo->stage.processes[role];
  *killed_out = false;
  if (work_of(demo, role) <= 0 || progress_of(demo, role) <= p->progress_at_start)
    return TXB_OK;
  txb_stage_kill(p);
  TXB_TRY(txb_demo_look(demo, err));
  int64_t left = work_of(demo, role);
  TXB_TRY(start(demo, role, err));
  if (left <= 0)
    return TXB_OK;
  p->kills++;
  demo->stage.kills++;
  *killed_out = true;
  txb_progress(demo->stage.cli, NULL);
  txb_say("killed the %s with kill -9, %lld %s", p->name, (long long)left,
          role == TXB_DEMO_RELAY ? "intents not yet known to be published" : "transfers not yet applied");
  return TXB_OK;
}
