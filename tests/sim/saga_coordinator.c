/* The coordinator of a simulated saga: the real instance in a transaction for each batch of what lies in the partition. What
 * the database keeps is the entries; a process that is lost replays them. */
#include <stdlib.h>

#include "saga_world.h"

/* ---- loading ------------------------------------------------------------------------------------ */

static void init(const struct saga_world *w, struct txb_saga_instance *i) {
  *i = (struct txb_saga_instance){.definition = w->definition,
                                  .started_us = 1,
                                  .deadline_us = w->live.deadline_us,
                                  .input = txb_slice_text(w->kit.input),
                                  .bugs = &w->bugs->core,
                                  .id = w->id,
                                  .topic = SIM_TOPIC,
                                  .parent = w->mother >= 0 ? &w->parent : NULL};
  txb_saga_instance_init(i);
}

static void replay(struct saga_world *w, struct txb_saga_instance *i) {
  struct txb_error err;
  for (size_t n = 0; n < w->stored_count; n++) {
    const struct saga_stored *s = &w->stored[n];
    bool forgotten = w->bugs->reload_without_outputs;
    struct txb_slice output = s->has_output && !forgotten ? txb_slice_text(s->output) : txb_slice_of(NULL, 0);
    const struct txb_saga_past past = {.n = (int32_t)n + 1,
                                       .event = s->event,
                                       .step = txb_slice_text(s->step),
                                       .sending = s->sending,
                                       .at_us = s->at_us,
                                       .timer_us = w->bugs->reload_without_timer ? 0 : s->timer_us,
                                       .output = output,
                                       .reason = s->has_reason ? s->reason : NULL};
    if (txb_saga_instance_replay(i, &past, &err) != TXB_OK)
      saga_violated(w, "R: what was stored can't be replayed");
  }
}

static bool is_same_step(const struct txb_saga_step *a, const struct txb_saga_step *b) {
  return a->state == b->state && a->asked == b->asked && a->attempts == b->attempts && a->sendings == b->sendings;
}

static bool is_same_child(const struct saga_world *w, const struct txb_saga_instance *a,
                          const struct txb_saga_instance *b) {
  for (int rule = 0; rule < w->rules; rule++)
    if (a->refusals[rule] != b->refusals[rule])
      return false;
  return a->ends == b->ends && a->undo_asked == b->undo_asked && a->undo_sending == b->undo_sending &&
         txb_slice_equal(a->output, b->output) && (a->reason == NULL) == (b->reason == NULL);
}

static bool is_same(const struct saga_world *w, const struct txb_saga_instance *a, const struct txb_saga_instance *b) {
  for (int rule = 0; rule < w->rules; rule++)
    if (!txb_slice_equal(a->outputs[rule], b->outputs[rule]) || !txb_slice_equal(a->edited[rule], b->edited[rule]) ||
        !is_same_step(&a->state.steps[rule], &b->state.steps[rule]))
      return false;
  bool same_wait = a->waits_why == b->waits_why ||
                   (a->waits_why != NULL && b->waits_why != NULL && strcmp(a->waits_why, b->waits_why) == 0);
  return same_wait && a->state.state == b->state.state && memcmp(a->due_us, b->due_us, sizeof a->due_us) == 0 &&
         a->n == b->n && a->begun == b->begun && a->ended == b->ended && a->timer_us == b->timer_us &&
         a->fired_us == b->fired_us && a->turned_rule == b->turned_rule && a->left == b->left && is_same_child(w, a, b);
}

static void load(struct saga_world *w) {
  struct txb_saga_instance again;
  bool planted = w->bugs->reload_without_timer || w->bugs->reload_without_outputs || w->bugs->core.timer_unchecked;
  init(w, &again);
  replay(w, &again);
  if (w->loaded && !planted && !is_same(w, &again, &w->live))
    saga_violated(w, "R: the entries make another state than the one that wrote them");
  txb_saga_instance_fini(&w->live);
  w->live = again;
  w->loaded = true;
  txb_saga_ledger_clear(&w->ledger);
}

/* ---- one message -------------------------------------------------------------------------------- */

static bool is_repeated(struct saga_world *w, const struct saga_message_sim *m) {
  if (m->kind != SIM_TIMER)
    return w->inbox[m->id];
  for (size_t n = 0; n < w->timers_met_count; n++)
    if (w->timers_met[n] == m->due_us)
      return true;
  return false;
}

static void note_met(struct saga_world *w, const struct saga_message_sim *m) {
  if (m->kind != SIM_TIMER)
    w->inbox[m->id] = true;
  else
    w->timers_met[w->timers_met_count++] = m->due_us;
}

static enum txb_rc on_answer(struct saga_world *w, const struct saga_message_sim *m,
                             const struct txb_saga_moment *moment, struct txb_error *err) {
  char step[NAME_MAX_], child[37];
  const struct txb_saga_step_definition *s = &w->definition->steps[w->definition->origin[m->rule].step];
  txb_saga_rule_text(w->definition, m->rule, step);
  saga_family_child_text(w, m->child, child);
  json_t *output = m->number > 0 ? json_pack("{s:i}", "n", m->number) : NULL;
  const struct txb_saga_answer a = {.step = txb_slice_text(step),
                                    .operation = txb_slice_text(txb_saga_operation_name(m->operation)),
                                    .sending = m->sending,
                                    .topic = txb_slice_text(s->nested != NULL ? SIM_TOPIC : s->topic),
                                    .child = txb_slice_text(child),
                                    .answer = m->text,
                                    .output = output};
  bool stale = strcmp(m->text, "undeliverable") == 0 && m->sending != w->live.state.steps[m->rule].sendings;
  size_t before = w->ledger.entry_count;
  enum txb_rc rc = txb_saga_instance_on_answer(&w->live, &a, moment, &w->ledger, err);
  json_decref(output);
  if (rc == TXB_OK && stale && strcmp(w->ledger.entries[before].event, "time") == 0)
    saga_violated(w, "T: a timer of an older sending changes something");
  return rc;
}

/* S2: whatever lies there from before it was due has been met. */
static void check_timer(struct saga_world *w, const struct saga_message_sim *m, size_t at) {
  if (m->due_us != w->live.timer_us)
    return;
  for (size_t n = at + 1; n < w->partition_count; n++)
    if (w->partition[n].kind == SIM_ANSWER && w->partition[n].at_us <= m->due_us)
      saga_violated(w, "T: a timer overtakes an answer that was there before it");
}

/* Nothing is over before its time. */
static enum txb_rc on_timer(struct saga_world *w, const struct saga_message_sim *m,
                            const struct txb_saga_moment *moment, struct txb_error *err) {
  int64_t dues_us[RULES_MAX];
  size_t before = w->ledger.entry_count;
  memcpy(dues_us, w->live.due_us, sizeof dues_us);
  enum txb_rc rc = txb_saga_instance_on_timer(&w->live, m->due_us, moment, &w->ledger, err);
  for (size_t n = before; n < w->ledger.entry_count; n++) {
    const struct txb_saga_entry *e = &w->ledger.entries[n];
    if (strcmp(e->event, "turn_back") == 0 && w->live.deadline_us > m->due_us)
      saga_violated(w, "T: a deadline before its time");
    if (strcmp(e->event, "time") == 0 && dues_us[txb_saga_rule_of(w->definition, txb_slice_text(e->step))] > m->due_us)
      saga_violated(w, "T: a step's time is over before it is due");
  }
  return rc;
}

static enum txb_rc on_decision(struct saga_world *w, const struct saga_message_sim *m,
                               struct txb_saga_decision *decision, const struct txb_saga_moment *moment,
                               struct txb_error *err) {
  json_t *payload = m->edit > 0 ? json_pack("{s:i}", "edit", m->edit) : NULL;
  decision->payload = payload;
  enum txb_rc rc = txb_saga_instance_on_decision(&w->live, decision, moment, &w->ledger, err);
  json_decref(payload);
  return rc;
}

/* What txb.saga_lock says, in the transaction of the batch. */
static enum txb_rc on_start(struct saga_world *w, const struct txb_saga_moment *moment, struct txb_error *err) {
  static const char why[] = "lock a is held by saga b";
  bool free = !w->others || w->bugs->lock_ignored;
  if (w->locks && !w->live.begun && !w->live.ended && w->lock == LOCK_NONE && !(w->refuses && !free))
    w->lock = free ? LOCK_HELD : LOCK_AWAITED;
  if (w->locks && w->lock == LOCK_AWAITED)
    return txb_saga_instance_on_wait(&w->live, why, moment, &w->ledger, err);
  if (w->locks && w->lock == LOCK_NONE)
    return txb_saga_instance_on_turned_away(&w->live, why, moment, &w->ledger, err);
  return txb_saga_instance_on_start(&w->live, moment, &w->ledger, err);
}

static enum txb_rc handle(struct saga_world *w, const struct saga_message_sim *m, size_t at, struct txb_error *err) {
  const struct txb_saga_moment moment = {.now_us = w->now_us};
  char step[NAME_MAX_];
  struct txb_saga_decision decision = {m->text, NULL, m->seen, "because", "ann", NULL};
  switch (m->kind) {
  case SIM_START:
  case SIM_WAKE:
    return on_start(w, &moment, err);
  case SIM_ANSWER:
    return on_answer(w, m, &moment, err);
  case SIM_TIMER:
    check_timer(w, m, at);
    if (w->bugs->timer_passed_over && m->due_us != w->live.timer_us)
      return TXB_OK;
    return on_timer(w, m, &moment, err);
  case SIM_DECISION:
    w->decided = false;
    if (m->rule >= 0) {
      txb_saga_rule_text(w->definition, m->rule, step);
      decision.step = step;
    }
    return on_decision(w, m, &decision, &moment, err);
  case SIM_FROM_PARENT:
    return saga_family_from_parent(w, m, &moment, err);
  case SIM_COMMAND:
  case SIM_RELEASE:
    break;
  }
  return TXB_OK;
}

/* ---- what came of it ---------------------------------------------------------------------------- */

static void count_timers(struct saga_world *w, const struct txb_saga_entry *e) {
  bool fires = strcmp(e->event, "timer") == 0;
  saga_seen[SEEN_STOOD] += fires && w->fired_at_us == e->at_us;
  w->fired_at_us = fires ? e->at_us : 0;
  w->set_us = fires ? 0 : w->set_us;
  saga_seen[SEEN_REPLACED] += w->set_us > e->timer_us && e->timer_us > 0;
  w->set_us = e->timer_us > 0 ? e->timer_us : w->set_us;
}

/* It runs with its lock, and nobody else holds it then. */
static void check_lock(struct saga_world *w, const struct txb_saga_entry *e) {
  bool starts = strcmp(e->event, "start") == 0;
  if (starts && w->locks && (w->lock != LOCK_HELD || w->others))
    saga_violated(w, "L: it begins while another saga holds what it locks");
  saga_seen[SEEN_WOKEN] += starts && e->n > 1 && w->locks;
  saga_seen[SEEN_TURNED_AWAY] +=
      e->n == 1 && e->reason != NULL && strncmp(e->reason, "lock a ", 7) == 0 && strcmp(e->event, "turn_back") == 0;
  saga_seen[SEEN_GAVE_UP] += strcmp(e->event, "end") == 0 && w->lock == LOCK_AWAITED;
}

static void count_seen(struct saga_world *w, const struct txb_saga_entry *e) {
  check_lock(w, e);
  saga_seen[SEEN_STUCK] += strcmp(e->event, "stuck") == 0;
  saga_seen[SEEN_NEVER] += strcmp(e->event, "never") == 0;
  saga_seen[SEEN_SKIPPED] += strcmp(e->event, "skip") == 0;
  saga_seen[SEEN_IGNORED] += strcmp(e->event, "ignored") == 0;
  saga_seen[SEEN_MARKED] += strncmp(e->event, "mark", 4) == 0;
  saga_seen[SEEN_EDITED] += strcmp(e->event, "edit") == 0;
  saga_seen[SEEN_CONFIRMED] += strcmp(e->event, "effect") == 0 && strchr(e->step, '/') != NULL;
  saga_seen[SEEN_NOT_MADE] += e->reason != NULL && e->step[0] != '\0' && strstr(e->reason, "could not be made") != NULL;
  count_timers(w, e);
  w->ends += strcmp(e->event, "end") == 0;
}

static void store(struct saga_world *w, const struct txb_saga_entry *e) {
  if (w->stored_count == ENTRIES_MAX) {
    saga_violated(w, "V: entries without end");
    return;
  }
  struct saga_stored *s = &w->stored[w->stored_count++];
  *s = (struct saga_stored){.event = e->event, .sending = e->sending, .at_us = e->at_us, .timer_us = e->timer_us};
  memcpy(s->step, e->step, sizeof s->step);
  s->has_reason = e->reason != NULL;
  s->has_output = e->output.data != NULL;
  if (s->has_reason)
    snprintf(s->reason, sizeof s->reason, "%s", e->reason);
  if (s->has_output)
    snprintf(s->output, sizeof s->output, "%.*s", (int)e->output.size, (const char *)e->output.data);
  if ((size_t)e->n != w->stored_count)
    saga_violated(w, "R: entries are not numbered one by one");
  saga_say(w, "%s%s%s%s%s", e->step, e->step[0] != '\0' ? " " : "", e->event, e->reason != NULL ? ": " : "",
           e->reason != NULL ? e->reason : "");
  count_seen(w, e);
}

/* The number behind a name in a payload; 0: null, -1: there is no such name. */
static int number_of(struct txb_slice payload, const char *name) {
  const char *at = memmem(payload.data, payload.size, name, strlen(name));
  return at == NULL ? -1 : (int)strtol(at + strlen(name), NULL, 10);
}

/* The last payload that a person gave for a step, as it is stored; 0: nobody gave any. */
static int edit_of(const struct saga_world *w, const char *step) {
  int edit = 0;
  for (size_t n = 0; n < w->stored_count; n++) {
    const struct saga_stored *s = &w->stored[n];
    if (strcmp(s->event, "edit") == 0 && strcmp(s->step, step) == 0)
      edit = number_of(txb_slice_text(s->output), "\"edit\":");
  }
  return edit;
}

bool saga_was_left(const struct saga_world *w, int rule) {
  for (size_t n = 0; n < w->stored_count; n++)
    if (strcmp(w->stored[n].event, "leave") == 0 &&
        txb_saga_rule_of(w->definition, txb_slice_text(w->stored[n].step)) == rule)
      return true;
  return false;
}

/* From a person's edit on every sending says what he gave; the question what became of it says nothing. */
static void check_edit(struct saga_world *w, const struct txb_saga_command *c, int edit) {
  int wanted = c->operation == TXB_SAGA_OPERATION_RESOLVE ? 0 : edit_of(w, c->step);
  saga_seen[SEEN_EDITED_AGAIN] += wanted > 0 && w->sent_edit == wanted;
  w->sent_edit = wanted;
  if (edit != wanted)
    saga_violated(w, "E: a command does not say what a person gave");
}

static void send_command(struct saga_world *w, const struct txb_saga_command *c, int64_t delay_us) {
  if (c->nested) {
    saga_family_send(w, c, delay_us);
    return;
  }
  int of = number_of(c->payload, "\"of\":"), edit = number_of(c->payload, "\"edit\":");
  struct saga_message_sim m = {.kind = SIM_COMMAND,
                               .rule = txb_saga_rule_of(w->definition, txb_slice_text(c->step)),
                               .operation = c->operation,
                               .sending = c->sending,
                               .edit = edit > 0 ? edit : 0,
                               .reads = of >= 0,
                               .of = of > 0 ? of : 0};
  check_edit(w, c, m.edit);
  saga_say(w, "to rule %d: %s, sending %" PRId32, m.rule, txb_saga_operation_name(m.operation), m.sending);
  if (!w->calm && kit_chance(&w->kit, 2)) { /* its database answers for it: it can't be published */
    m.kind = SIM_ANSWER;
    m.text = "undeliverable";
    m.id = w->ids++;
    saga_seen[SEEN_UNDELIVERABLE]++;
    saga_post(w, m, delay_us + saga_some_time(w));
    return;
  }
  saga_post(w, m, delay_us + saga_some_time(w));
  if (kit_chance(&w->kit, 5)) /* the relay died, and its successor sends again */
    saga_post(w, m, delay_us + saga_some_time(w));
}

/* A timer is published when it is due, in the order of times, by one mover. */
static void set_timer(struct saga_world *w, int64_t due_us, int64_t delay_us) {
  struct saga_message_sim m = {.kind = SIM_TIMER, .rule = -1, .due_us = due_us};
  int64_t earliest_us = w->now_us + delay_us;
  saga_post(w, m, (due_us > earliest_us ? due_us : earliest_us) + 10 - w->now_us);
}

/* The commit, which takes its time: nobody sees any of it before. */
static void commit(struct saga_world *w, int64_t delay_us) {
  bool lost = w->bugs->entries_without_commands && kit_chance(&w->kit, 3);
  int ends = w->ends;
  for (size_t n = 0; n < w->ledger.entry_count; n++)
    store(w, &w->ledger.entries[n]);
  for (size_t n = 0; !lost && n < w->ledger.command_count; n++)
    send_command(w, &w->ledger.commands[n], delay_us);
  for (size_t n = 0; !lost && n < w->ledger.entry_count; n++) {
    int64_t timer_us = w->ledger.entries[n].timer_us;
    if (timer_us > 0)
      set_timer(w, timer_us, delay_us);
  }
  if (w->live.ended && !w->bugs->lock_kept)
    w->lock = LOCK_NONE;
  if (w->mother >= 0)
    saga_family_commit(w, w->ends - ends, delay_us);
  w->away_until_us = w->now_us + delay_us;
}

/* What became of a step that a person goes on without. */
static void note_left(const struct saga_world *w, int rule, enum txb_saga_step_state before) {
  enum txb_saga_step_state after = w->live.state.steps[rule].state;
  if (before != TXB_STEP_SETTLING || w->definition->rules.steps[rule].kind != TXB_SAGA_RETRIABLE)
    return;
  saga_seen[SEEN_LEFT_OUT] += after == TXB_STEP_SKIPPED;
  saga_seen[SEEN_LEFT_DONE] += after == TXB_STEP_DONE;
}

static void note_changes(const struct saga_world *w, const struct txb_saga *before) {
  const struct txb_saga *after = &w->live.state;
  for (int rule = 0; rule < w->rules; rule++)
    note_left(w, rule, before->steps[rule].state);
  for (int rule = 0; rule < w->rules; rule++)
    saga_seen[SEEN_LATE] += before->steps[rule].state == TXB_STEP_SETTLING && after->steps[rule].state == TXB_STEP_DONE;
  saga_seen[SEEN_PIVOT_KEPT] += before->state == TXB_SAGA_TURNING && after->state != TXB_SAGA_TURNING &&
                                after->state != TXB_SAGA_COMPENSATING && after->state != TXB_SAGA_COMPENSATED;
}

static void take_one(struct saga_world *w, size_t at) {
  struct txb_error err;
  struct saga_message_sim m = w->partition[at];
  struct txb_saga before = w->live.state;
  if (is_repeated(w, &m))
    return;
  note_met(w, &m);
  if (handle(w, &m, at, &err) != TXB_OK)
    saga_violated(w, "V: no memory");
  note_changes(w, &before);
}

/* Planted: timers first, whatever lies before them. */
static void swap_timer_forward(struct saga_world *w) {
  for (size_t n = w->partition_next + 1; n < w->partition_count; n++) {
    struct saga_message_sim m = w->partition[n], first = w->partition[w->partition_next];
    if (m.kind != SIM_TIMER || first.kind == SIM_TIMER)
      continue;
    w->partition[w->partition_next] = m;
    w->partition[n] = first;
    return;
  }
}

/* What a transaction that is undone leaves: nothing. */
struct memory {
  bool inbox[MESSAGES_MAX], decided;
  size_t timers_met_count;
  enum saga_lock lock;
  enum saga_child_row row;
  struct txb_saga_parent parent;
};

static void take_batch(struct saga_world *w, size_t count) {
  if (w->bugs->timer_before_replies)
    swap_timer_forward(w);
  for (size_t n = 0; n < count && w->violation == NULL; n++)
    take_one(w, w->partition_next + n);
  txb_saga_instance_settle(&w->live, &w->ledger);
}

void saga_coordinator_take(struct saga_world *w) {
  static struct memory memory;
  size_t waiting = w->partition_count - w->partition_next, count = 1 + (size_t)kit_roll(&w->kit, 6);
  bool dies = !w->calm && kit_chance(&w->kit, 4);
  count = count < waiting ? count : waiting;
  if (w->loaded && kit_chance(&w->kit, 20)) {
    saga_seen[SEEN_RELOADED]++;
    saga_say(w, "the coordinator's process is a new one");
  }
  load(w); /* each batch, as the program does */
  memory = (struct memory){.decided = w->decided,
                           .timers_met_count = w->timers_met_count,
                           .lock = w->lock,
                           .row = w->row,
                           .parent = w->parent};
  memcpy(memory.inbox, w->inbox, sizeof memory.inbox);
  take_batch(w, count);
  if (dies) { /* before its commit: all of that comes again */
    saga_seen[SEEN_LOST]++;
    saga_say(w, "the coordinator dies");
    memcpy(w->inbox, memory.inbox, sizeof memory.inbox);
    w->decided = memory.decided;
    w->timers_met_count = memory.timers_met_count;
    w->lock = memory.lock;
    w->row = memory.row;
    w->parent = memory.parent;
    w->loaded = false;
    w->away_until_us = w->now_us + saga_some_time(w);
    return;
  }
  w->partition_next += count;
  commit(w, !w->calm && kit_chance(&w->kit, 5) ? (int64_t)kit_roll(&w->kit, 40000) : 0);
}
