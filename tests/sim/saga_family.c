/* Sagas within each other, for the simulator: each is a world of its own, with its participants, partition and coordinator; the
 * time is one for all. What a child leaves standing is the effect of its parent's step, so that the parent's invariants hold for
 * whole families: exactly what took effect is undone, a compensated one leaves nothing of its children, a completed one all. */
#include <stdlib.h>

#include "saga_world.h"

/* Kept from seed to seed: they are large. */
static struct saga_world worlds[FAMILY_MAX];

bool saga_family_make(struct saga_family *f, struct saga_world *top) {
  static const char *const names[KIT_LIBRARY_MAX] = {"n0", "n1", "n2"};
  struct txb_error err;
  *f = (struct saga_family){.members = {top}, .count = 1, .now_us = top->now_us};
  for (int n = 0; n < KIT_LIBRARY_MAX; n++) {
    struct saga_kit *k = &f->library[n];
    *k = (struct saga_kit){.random = kit_random(&top->kit),
                           .name = names[n],
                           .steps_max = 3,
                           .undoable_only = n != 1,
                           .nested = f->library,
                           .nested_count = n};
    kit_make(k);
    if (top->talk)
      printf("  %s\n", k->definition);
    if (txb_saga_definition_parse(k->name, txb_slice_text(k->definition), &f->definitions[n], &err) != TXB_OK) {
      printf("%s\n", err.message);
      return false;
    }
  }
  top->family = f;
  top->id.bytes[15] = 1;
  top->kit.nested = f->library;
  top->kit.nested_count = KIT_LIBRARY_MAX;
  top->kit.steps_max = 4;
  return true;
}

void saga_family_free(struct saga_family *f) {
  for (int n = 1; n < f->count; n++) {
    txb_saga_instance_fini(&f->members[n]->live);
    txb_saga_ledger_fini(&f->members[n]->ledger);
  }
  for (int n = 0; n < KIT_LIBRARY_MAX; n++)
    txb_saga_definition_free(f->definitions[n]);
}

void saga_family_child_text(const struct saga_world *w, int child, char out[37]) {
  out[0] = '\0';
  if (w->family != NULL && child > 0)
    txb_uuid_format(&w->family->members[child]->id, out);
}

static struct saga_world *mother_of(const struct saga_world *w) {
  return w->family->members[w->mother];
}

/* ---- children ----------------------------------------------------------------------------------- */

static struct saga_world *find(const struct saga_family *f, const struct txb_uuid *id) {
  for (int n = 1; n < f->count; n++)
    if (memcmp(&f->members[n]->id, id, sizeof *id) == 0)
      return f->members[n];
  return NULL;
}

static int library_number(const struct saga_family *f, const char *name) {
  for (int n = 0; n < KIT_LIBRARY_MAX; n++)
    if (strcmp(f->library[n].name, name) == 0)
      return n;
  return 0;
}

/* How many there were of that step before. */
static int earlier(const struct saga_world *mother, int rule) {
  int found = 0;
  for (int n = 1; n < mother->family->count; n++)
    found += mother->family->members[n]->mother == mother->self && mother->family->members[n]->mother_rule == rule;
  return found;
}

/* One that is tried again and again finds willing participants at last. */
static struct saga_world *make(struct saga_world *mother, const struct txb_saga_command *c, int rule) {
  struct saga_family *f = mother->family;
  struct saga_world *w = &worlds[f->count];
  int library = library_number(f, mother->definition->steps[mother->definition->origin[rule].step].nested);
  int before = earlier(mother, rule);
  saga_reset(w, kit_random(&mother->kit), mother->bugs, mother->talk);
  uint64_t random = w->kit.random;
  w->kit = f->library[library];
  w->kit.random = random;
  w->definition = f->definitions[library];
  w->rules = w->definition->rules.count;
  w->family = f;
  w->self = f->count;
  w->mother = mother->self;
  w->mother_rule = rule;
  w->id = c->child;
  w->now_us = f->now_us;
  w->calm = f->calm;
  w->willing = before >= 2 || f->calm || mother->willing;
  saga_make_participants(w, w->willing);
  w->live = (struct txb_saga_instance){.definition = w->definition};
  if (!w->willing && kit_chance(&w->kit, 15))
    w->live.deadline_us = w->now_us + (int64_t)kit_roll(&w->kit, 300000);
  txb_saga_instance_init(&w->live);
  txb_saga_ledger_init(&w->ledger);
  f->members[f->count++] = w;
  saga_seen[SEEN_CHILDREN]++;
  saga_seen[SEEN_GRANDCHILDREN] += mother->mother >= 0;
  saga_seen[SEEN_CHILDREN_AGAIN] += before > 0;
  saga_say(w, "is the saga that rule %d of [%d] is, of %s", rule, mother->self, w->kit.name);
  return w;
}

/* What the message says must be so. Its input is the child's. */
static void read_payload(struct saga_world *w, struct saga_world *mother, const struct txb_saga_command *c) {
  struct txb_saga_parent told;
  json_t *body = json_loadb(c->payload.data, c->payload.size, 0, NULL), *input = json_object_get(body, "input");
  const char *name = json_string_value(json_object_get(body, "name"));
  if (!txb_saga_parent_read(json_object_get(body, "parent"), &told) || name == NULL)
    saga_violated(mother, "V: a child can't read who its parent is");
  else if (memcmp(&told.saga, &mother->id, sizeof told.saga) != 0 || strcmp(told.step, c->step) != 0 ||
           memcmp(&told.root, &w->family->members[0]->id, sizeof told.root) != 0 || told.sending != c->sending ||
           strcmp(name, w->kit.name) != 0)
    saga_violated(mother, "V: a child is told of another parent than it has");
  if (input != NULL) {
    const json_t *of = json_object_get(input, "of");
    const struct saga_message_sim m = {.rule = w->mother_rule, .reads = of != NULL, .of = (int)json_integer_value(of)};
    saga_participant_check_input(mother, &m);
    char *text = json_dumps(input, JSON_COMPACT);
    snprintf(w->kit.input, sizeof w->kit.input, "%s", text);
    free(text);
  }
  json_decref(body);
}

/* From one world into another: with that one's time and ids. */
static void send_over(struct saga_world *from, struct saga_world *to, struct saga_message_sim m, int64_t delay_us) {
  to->now_us = from->now_us;
  m.id = to->ids++;
  int64_t late_us = delay_us + saga_some_time(from);
  saga_post(to, m, late_us);
  if (kit_chance(&from->kit, 5)) /* the relay died, and its successor sends again */
    saga_post(to, m, late_us + saga_some_time(from));
}

void saga_family_send(struct saga_world *w, const struct txb_saga_command *c, int64_t delay_us) {
  int rule = txb_saga_rule_of(w->definition, txb_slice_text(c->step));
  struct saga_world *child = find(w->family, &c->child);
  const struct saga_message_sim m = {
      .kind = SIM_FROM_PARENT, .rule = -1, .operation = c->operation, .sending = c->sending};
  if (strcmp(c->topic, SIM_TOPIC) != 0 || strcmp(c->type, txb_saga_nested_type(c->operation)) != 0)
    saga_violated(w, "V: a command to a nested saga does not go where that is");
  if (child == NULL && w->family->count == FAMILY_MAX) {
    saga_violated(w, "V: nested sagas without end");
    return;
  }
  child = child == NULL ? make(w, c, rule) : child;
  read_payload(child, w, c);
  saga_say(w, "to rule %d, saga [%d]: %s, sending %" PRId32, rule, child->self, txb_saga_operation_name(m.operation),
           m.sending);
  send_over(w, child, m, delay_us);
}

/* ---- in the child's transaction ------------------------------------------------------------------ */

/* Who comes first makes the row: txb.saga_begin. */
enum txb_rc saga_family_from_parent(struct saga_world *w, const struct saga_message_sim *m,
                                    const struct txb_saga_moment *moment, struct txb_error *err) {
  const struct saga_world *mother = mother_of(w);
  struct txb_saga_parent asked = {.saga = mother->id,
                                  .root = w->family->members[0]->id,
                                  .started_us = 1,
                                  .operation = m->operation,
                                  .sending = m->sending};
  bool starts = m->operation == TXB_SAGA_OPERATION_ACTION || m->operation == TXB_SAGA_OPERATION_FORWARD;
  txb_saga_rule_text(mother->definition, w->mother_rule, asked.step);
  saga_say(w, "from its parent: %s, sending %" PRId32, txb_saga_operation_name(m->operation), m->sending);
  if (w->row == CHILD_NONE || (w->row == CHILD_NEVER && w->bugs->child_forgets_never && starts)) {
    w->row = starts ? CHILD_BEGUN : CHILD_NEVER;
    w->parent = asked;
    saga_seen[SEEN_CHILDREN_NEVER] += !starts;
  }
  if (w->row == CHILD_NEVER)
    return txb_saga_say_never(&w->live, &asked, "it had not begun", &w->ledger, err);
  enum txb_saga_state before = w->live.state.state;
  enum txb_rc rc = txb_saga_instance_on_parent(&w->live, m->operation, m->sending, moment, &w->ledger, err);
  saga_seen[SEEN_CHILDREN_SETTLED] += m->operation == TXB_SAGA_OPERATION_RESOLVE && before == TXB_SAGA_RUNNING &&
                                      w->live.state.state == TXB_SAGA_COMPENSATING;
  return rc;
}

/* ---- after it ------------------------------------------------------------------------------------ */

static int number_in(struct txb_slice payload) {
  json_t *body = json_loadb(payload.data, payload.size, 0, NULL);
  int number = (int)json_integer_value(json_object_get(json_object_get(body, "output"), "n"));
  json_decref(body);
  return number;
}

static void note_effect(struct saga_world *w, int number) {
  struct saga_participant *p = &mother_of(w)->participants[w->mother_rule];
  w->stands = true;
  p->effects++;
  p->number = number;
  p->row = ROW_OK;
}

static void note_gone(struct saga_world *w) {
  struct saga_participant *p = &mother_of(w)->participants[w->mother_rule];
  p->undone += w->stands;
  p->row = w->stands ? ROW_COMPENSATED : ROW_REFUSED;
  saga_seen[SEEN_CHILDREN_UNDONE] += w->stands;
  if (w->stands)
    saga_participant_check_order(mother_of(w), w->mother_rule);
  w->stands = false;
}

/* Twice in one transaction: it was completed, and undone at once, since nothing of it stood. */
static void note_ends(struct saga_world *w, int ends) {
  int number = w->live.output.data != NULL ? (int)strtol(strchr(w->live.output.data, ':') + 1, NULL, 10) : 0;
  bool completed = w->live.state.state == TXB_SAGA_COMPLETED;
  if (ends > 0 && (completed || ends > 1))
    note_effect(w, number);
  if (ends > 0 && !completed)
    note_gone(w);
}

static void check_said(struct saga_world *w, const struct txb_saga_said *said) {
  if (strcmp(said->answer, "failed") == 0)
    saga_violated(w, "S: what was to be undone can't be");
}

void saga_family_commit(struct saga_world *w, int ends, int64_t delay_us) {
  note_ends(w, ends);
  for (size_t n = 0; n < w->ledger.said_count; n++) {
    const struct txb_saga_said *said = &w->ledger.said[n];
    const struct saga_message_sim m = {.kind = SIM_ANSWER,
                                       .rule = w->mother_rule,
                                       .operation = said->operation,
                                       .sending = said->sending,
                                       .text = said->answer,
                                       .number = number_in(said->payload),
                                       .child = w->self};
    saga_say(w, "answers %s to %s", said->answer, txb_saga_operation_name(said->operation));
    check_said(w, said);
    send_over(w, mother_of(w), m, delay_us);
  }
}

/* ---- the loop ------------------------------------------------------------------------------------ */

static bool waits(const struct saga_world *w) {
  return w->partition_next < w->partition_count;
}

static bool is_stuck(const struct saga_world *w) {
  return w->loaded && !w->decided && !waits(w) && txb_saga_is_stuck(&w->definition->rules, &w->live.state);
}

/* One of those that have something to do, by chance; NULL: none. */
static struct saga_world *any(struct saga_family *f, bool (*has)(const struct saga_world *)) {
  struct saga_world *found = NULL;
  uint64_t count = 0;
  for (int n = 0; n < f->count; n++)
    if (has(f->members[n]) && kit_roll(&f->members[0]->kit, ++count) == 0)
      found = f->members[n];
  return found;
}

static bool can_take(const struct saga_world *w) {
  return waits(w) && w->away_until_us <= w->family->now_us;
}

static struct saga_world *next_arrival(struct saga_family *f) {
  struct saga_world *best = NULL;
  for (int n = 0; n < f->count; n++) {
    struct saga_world *w = f->members[n];
    if (w->way_count > 0 && (best == NULL || w->way[saga_earliest(w)].at_us < best->way[saga_earliest(best)].at_us))
      best = w;
  }
  return best;
}

static void set_time(struct saga_family *f, int64_t now_us) {
  f->now_us = now_us > f->now_us ? now_us : f->now_us;
  for (int n = 0; n < f->count; n++) {
    f->members[n]->now_us = f->now_us;
    f->members[n]->calm = f->calm;
  }
}

/* False: nothing is left to be done. */
static bool turn(struct saga_family *f) {
  struct saga_kit *k = &f->members[0]->kit;
  struct saga_world *takes = any(f, can_take), *stuck = any(f, is_stuck), *arrives = next_arrival(f);
  int64_t back_us = INT64_MAX;
  if (takes != NULL && kit_chance(k, 70)) {
    saga_coordinator_take(takes);
    return true;
  }
  if (stuck != NULL && (arrives == NULL || kit_chance(k, 10))) {
    saga_operate(stuck);
    return true;
  }
  if (arrives != NULL) {
    saga_arrive(arrives);
    set_time(f, arrives->now_us);
    return true;
  }
  for (int n = 0; n < f->count; n++)
    if (waits(f->members[n]) && f->members[n]->away_until_us < back_us)
      back_us = f->members[n]->away_until_us;
  if (back_us == INT64_MAX)
    return false;
  set_time(f, back_us);
  return true;
}

static bool is_violated(const struct saga_family *f) {
  for (int n = 0; n < f->count; n++)
    if (f->members[n]->violation != NULL)
      return true;
  return false;
}

void saga_family_run(struct saga_family *f) {
  for (int n = 0; n < 3 * TURNS_MAX && !is_violated(f); n++) {
    f->calm = n > 3000 || f->count > FAMILY_MAX / 3; /* what is tried until it succeeds must be able to */
    set_time(f, f->now_us);
    if (!turn(f))
      break;
    if (kit_chance(&f->members[0]->kit, 50))
      saga_interfere(f->members[kit_roll(&f->members[0]->kit, (uint64_t)f->count)]);
  }
}

/* ---- what must hold ------------------------------------------------------------------------------ */

static void verify_never(struct saga_world *w) {
  for (int rule = 0; rule < w->rules; rule++)
    if (w->participants[rule].effects > 0)
      saga_violated(w, "S: a saga that never began took effect");
}

void saga_family_verify(struct saga_family *f) {
  struct saga_world *top = f->members[0];
  for (int n = 1; n < f->count; n++) {
    struct saga_world *w = f->members[n];
    if (w->row == CHILD_BEGUN)
      saga_verify(w);
    else
      verify_never(w);
    if (w->violation != NULL)
      saga_violated(top, w->violation);
  }
}
