/* What retry, discard, edit and copy share: which messages are meant, showing and asking before anything is changed, telling
 * what became of each. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/failed.h"
#include "broker/cli/safe_text.h"
#include "common/memory.h"
#include "consumer/failed_core.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define SHOWN            10

struct meant {
  json_t *states;
  int64_t total;
};

/* ---- a dry run -------------------------------------------------------------------------------------------- */

/* Of what is meant: what would be done, and what can't be, by state. */
struct plan {
  const char *verb;
  json_t *would, *refused; /* {"dead": 3, ...} */
  json_t *first;           /* of what would be done */
};

/* An intent of the publishing side is the relay's until it is dead (txb.outbox_decide); what else there is follows the table.
 * What is special to one message (an edit that it can't take, a retry that was asked for already) shows only when it is
 * decided on. */
static bool can_be(enum txb_failed_verb verb, bool outbox, enum txb_failed_state state) {
  static const enum txb_failed_event events[] = {
      [TXB_FAILED_RETRY] = TXB_FAILED_ON_RETRY,
      [TXB_FAILED_DISCARD] = TXB_FAILED_ON_DISCARD,
      [TXB_FAILED_EDIT] = TXB_FAILED_ON_EDIT,
      [TXB_FAILED_COPY] = TXB_FAILED_ON_COPIED,
  };
  if (outbox && verb != TXB_FAILED_COPY && state != TXB_FAILED_DEAD)
    return false;
  return txb_failed_may(state, events[verb]);
}

static void count_in(json_t *states, const char *state, json_int_t messages) {
  (void)json_object_set_new(states, state, json_integer(json_integer_value(json_object_get(states, state)) + messages));
}

static json_int_t sum(const json_t *states) {
  const char *state;
  json_t *count;
  json_int_t result = 0;
  json_object_foreach((json_t *)(uintptr_t)states, state, count) {
    result += json_integer_value(count);
  }
  return result;
}

/* Both are in the order of their numbers. */
static void merge_first(json_t *first, const json_t *more) {
  const json_t *one;
  size_t i, at = 0;
  json_array_foreach(more, i, one) {
    while (at < json_array_size(first) &&
           txb_failed_integer(json_array_get(first, at), "number") < txb_failed_integer(one, "number"))
      at++;
    (void)json_array_insert(first, at, (json_t *)(uintptr_t)one);
  }
  while (json_array_size(first) > SHOWN)
    (void)json_array_remove(first, SHOWN);
}

static enum txb_rc plan_side(enum txb_failed_verb verb, const struct txb_failed_choice *choice, bool outbox,
                             struct plan *plan, struct txb_error *err) {
  json_t *states = NULL, *more = NULL, *can = json_array(), *filter = json_copy(choice->filter);
  int64_t total;
  (void)json_object_set_new(filter, "side", json_string(outbox ? "outbox" : "consumer"));
  enum txb_rc rc = txb_failed_states(choice->pg, filter, &states, &total, err);
  for (int i = TXB_FAILED_RETRYING; rc == TXB_OK && i < TXB_FAILED_STATES; i++) {
    enum txb_failed_state state = (enum txb_failed_state)i;
    const char *name = txb_failed_state_name(state);
    const json_t *count = json_object_get(states, name);
    if (count == NULL)
      continue;
    bool would = can_be(verb, outbox, state);
    count_in(would ? plan->would : plan->refused, name, json_integer_value(count));
    if (would)
      (void)json_array_append_new(can, json_string(name));
  }
  if (rc == TXB_OK && json_array_size(can) > 0) {
    (void)json_object_set(filter, "state", can);
    rc = txb_failed_find(choice->pg, filter, 0, SHOWN, &more, err);
    if (rc == TXB_OK)
      merge_first(plan->first, more);
  }
  json_decref(more);
  json_decref(filter);
  json_decref(can);
  json_decref(states);
  return rc;
}

static void print_plan_json(const struct txb_cli *cli, const struct plan *plan, const char *to_topic,
                            const struct meant *meant) {
  json_t *document = json_pack("{s:b, s:s, s:I, s:O, s:I, s:O, s:O}", "dry_run", 1, "action", plan->verb, "matched",
                               (json_int_t)meant->total, "states", meant->states, "would", sum(plan->would), "refused",
                               plan->refused, "first", plan->first);
  if (to_topic != NULL)
    (void)json_object_set_new(document, "to_topic", json_string(to_topic));
  txb_failed_print_json(cli, document);
  json_decref(document);
}

static void print_plan(const struct txb_cli *cli, const struct plan *plan) {
  json_int_t would = sum(plan->would), refused = sum(plan->refused);
  struct txb_buffer text;
  txb_buffer_init(&text);
  txb_buffer_addf(&text, "would %s %" JSON_INTEGER_FORMAT " message%s", plan->verb, would, would == 1 ? "" : "s");
  if (would > 0)
    txb_buffer_add_text(&text, ": ");
  txb_failed_states_text(plan->would, &text);
  if (refused > 0)
    txb_buffer_addf(&text, "; %" JSON_INTEGER_FORMAT " can't be: ", refused);
  txb_failed_states_text(plan->refused, &text);
  txb_print("%s\n", txb_buffer_text(&text));
  txb_buffer_fini(&text);
  if (json_object_get(plan->refused, "held") != NULL)
    txb_print("held: each follows when what it waits behind has ended; `txbroker failed show NUMBER` tells which\n");
  if (json_object_get(plan->refused, "retrying") != NULL)
    txb_print("retrying: a relay is publishing it\n");
  if (would > 0) {
    txb_print("\n");
    txb_failed_print_table(cli, plan->first, 0);
  }
  if (would > (json_int_t)json_array_size(plan->first))
    txb_print("... and %" JSON_INTEGER_FORMAT " more\n", would - (json_int_t)json_array_size(plan->first));
}

static enum txb_rc dry_run(const struct txb_cli *cli, enum txb_failed_verb verb, struct txb_failed_choice *choice,
                           const struct meant *meant, struct txb_error *err) {
  struct plan plan = {txb_failed_words_of(verb)->verb, json_object(), json_object(), json_array()};
  enum txb_rc rc = choice->changes == NULL ? TXB_OK : txb_failed_check_changes(choice->pg, choice->changes, err);
  if (rc == TXB_OK)
    rc = plan_side(verb, choice, false, &plan, err);
  if (rc == TXB_OK)
    rc = plan_side(verb, choice, true, &plan, err);
  if (rc == TXB_OK && cli->output == TXB_OUTPUT_TEXT)
    print_plan(cli, &plan);
  else if (rc == TXB_OK)
    print_plan_json(cli, &plan, choice->to_topic, meant);
  if (rc == TXB_OK && sum(plan.would) == 0)
    choice->code = TXB_EXIT_FAILED; /* as the command itself when it can change none */
  json_decref(plan.would);
  json_decref(plan.refused);
  json_decref(plan.first);
  return rc;
}

/* ---- which are meant -------------------------------------------------------------------------------------- */

/* A person answers on the terminal; without one, --yes must have been given. */
static enum txb_rc ask(const char *verb, const struct meant *meant, bool *yes_out, struct txb_error *err) {
  struct txb_buffer states;
  txb_buffer_init(&states);
  txb_failed_states_text(meant->states, &states);
  enum txb_rc rc = TXB_OK;
  if (txb_can_ask()) {
    *yes_out = txb_ask_yes("%s %" PRId64 " messages (%s)?", verb, meant->total, txb_buffer_text(&states));
  } else {
    rc = REFUSE(err, "%" PRId64 " messages are meant (%s): add --yes to %s them all, or --dry-run to see them",
                meant->total, txb_buffer_text(&states), verb);
  }
  txb_buffer_fini(&states);
  return rc;
}

/* Numbers are taken as they are: what can't be done with one is told by the decision itself. */
static enum txb_rc take_numbers(const struct txb_cli *cli, struct txb_failed_choice *choice, struct txb_error *err) {
  if (cli->args.operand_count == 0)
    return txb_failed_all_numbers(choice->pg, choice->filter, &choice->numbers, &choice->count, err);
  choice->count = cli->args.operand_count;
  return txb_failed_numbers(&cli->args, &choice->numbers, err);
}

/* What one transaction takes is decided on at once, by this command: all of it or nothing. */
static bool is_for_a_job(const struct txb_args *args, int64_t total) {
  return txb_args_has(args, "detach") || (args->operand_count == 0 && total > TXB_FAILED_CHUNK);
}

static enum txb_rc choose(struct txb_cli *cli, enum txb_failed_verb v, struct txb_failed_choice *choice,
                          struct meant *meant, bool *go, struct txb_error *err) {
  const struct txb_args *args = &cli->args;
  const char *verb = txb_failed_words_of(v)->verb;
  bool dry = txb_args_has(args, "dry-run"), numbers = args->operand_count > 0;
  TXB_TRY(txb_failed_states(choice->pg, choice->filter, &meant->states, &meant->total, err));
  if (meant->total == 0 && (dry || !numbers)) {
    txb_say("no failed message is like that: nothing to %s; `txbroker failed list` shows what there is", verb);
    choice->code = TXB_EXIT_FAILED;
    return TXB_OK;
  }
  if (dry)
    return dry_run(cli, v, choice, meant, err);
  bool yes = true;
  if (meant->total > 1 && !txb_args_has(args, "yes"))
    TXB_TRY(ask(verb, meant, &yes, err));
  if (!yes) {
    txb_say("nothing was changed");
    choice->code = TXB_EXIT_FAILED;
    return TXB_OK;
  }
  choice->is_job = choice->may_be_job && is_for_a_job(args, meant->total);
  if (!choice->is_job)
    TXB_TRY(take_numbers(cli, choice, err));
  *go = choice->is_job || choice->count > 0;
  return TXB_OK;
}

enum txb_rc txb_failed_choose(struct txb_cli *cli, enum txb_failed_verb verb, const json_t *states,
                              struct txb_failed_choice *choice, bool *go_out, struct txb_error *err) {
  struct txb_targets targets = {NULL, 0};
  struct meant meant = {NULL, 0};
  const char *uri = NULL;
  size_t flags;
  const char *reason = txb_args_text(&cli->args, "reason");
  *go_out = false;
  if (reason != NULL && !txb_slice_is_text(txb_slice_text(reason)))
    return REFUSE(err, "--reason is not UTF-8");
  TXB_TRY(txb_failed_filter(&cli->args, &choice->filter, &flags, err));
  if (flags == 0 && cli->args.operand_count == 0 && json_object_size(choice->filter) == 0)
    return REFUSE(err,
                  "%s: which messages? Give a NUMBER, --error-group, --key or another filter; `txbroker failed list` "
                  "shows them",
                  cli->args.command->name);
  if (cli->args.operand_count == 0 && json_object_get(choice->filter, "state") == NULL)
    (void)json_object_set(choice->filter, "state", (json_t *)(uintptr_t)states);
  enum txb_rc rc = txb_failed_targets(cli, &targets, err);
  if (rc == TXB_OK)
    rc = txb_failed_one_target(cli, &targets, &uri, err);
  if (rc == TXB_OK)
    rc = txb_failed_connect(cli, uri, &choice->pg, err);
  if (rc == TXB_OK)
    rc = choose(cli, verb, choice, &meant, go_out, err);
  json_decref(meant.states);
  txb_targets_fini(&targets);
  return rc;
}

void txb_failed_choice_fini(struct txb_failed_choice *choice) {
  json_decref(choice->filter);
  txb_free(choice->numbers);
  txb_pg_close(choice->pg);
  *choice = (struct txb_failed_choice){0};
}

/* ---- what became of them ---------------------------------------------------------------------------------- */

const struct txb_failed_words *txb_failed_words_of(enum txb_failed_verb verb) {
  static const struct txb_failed_words words[] = {
      [TXB_FAILED_RETRY] = {"retry", "is due now", "retried"},
      [TXB_FAILED_DISCARD] = {"discard", "is discarded", "discarded"},
      [TXB_FAILED_EDIT] = {"edit", "is edited", "edited"},
      [TXB_FAILED_COPY] = {"copy", "is copied", "copied"},
  };
  return &words[verb];
}

static void print_json(const struct txb_cli *cli, const char *action, const json_t *results, json_int_t changed) {
  const json_t *one;
  size_t i;
  if (cli->output == TXB_OUTPUT_JSONL) {
    json_array_foreach(results, i, one) {
      txb_failed_print_json(cli, one);
    }
    return;
  }
  json_t *document = json_pack("{s:s, s:I, s:I, s:O}", "action", action, "matched",
                               (json_int_t)json_array_size(results), "changed", changed, "messages", results);
  if (strcmp(action, "failed copy") == 0)
    (void)json_object_set_new(document, "to_topic", json_string(txb_args_text(&cli->args, "to-topic")));
  txb_failed_print_json(cli, document);
  json_decref(document);
}

static void print_done(const json_t *one, const struct txb_failed_words *words) {
  const json_t *successor = json_object_get(one, "new_number");
  json_int_t number = json_integer_value(json_object_get(one, "number"));
  if (json_is_integer(successor))
    txb_print("message %" JSON_INTEGER_FORMAT " %s: message %" JSON_INTEGER_FORMAT " is in its place, with id %s\n",
              number, words->one, json_integer_value(successor), txb_failed_text(one, "new_id"));
  else
    txb_print("message %" JSON_INTEGER_FORMAT " %s\n", number, words->one);
}

static void say_refused(const json_t *one) {
  struct txb_buffer why;
  txb_buffer_init(&why);
  txb_safe_add(&why, txb_slice_text(txb_failed_text(one, "why")), 0, TXB_SAFE_LINE);
  txb_say("message %" JSON_INTEGER_FORMAT " %s", json_integer_value(json_object_get(one, "number")),
          txb_buffer_text(&why));
  txb_buffer_fini(&why);
}

static void print_text(const json_t *results, const struct txb_failed_words *words, json_int_t changed) {
  const json_t *one;
  size_t i, count = json_array_size(results);
  json_array_foreach(results, i, one) {
    if (count <= SHOWN && json_is_true(json_object_get(one, "done")))
      print_done(one, words);
  }
  if (count > SHOWN)
    txb_print("%s %" JSON_INTEGER_FORMAT " of %zu messages\n", words->many, changed, count);
}

void txb_failed_say_refused(const json_t *refused, size_t total) {
  const json_t *one;
  size_t i, shown = 0;
  json_array_foreach(refused, i, one) {
    if (shown < SHOWN) {
      say_refused(one);
      shown++;
    }
  }
  if (total > shown)
    txb_say("... and %zu more could not be changed", total - shown);
}

/* On standard error, whatever the results are printed as. */
static void say_all_refused(const json_t *results) {
  json_t *one, *refused = json_array();
  size_t i;
  json_array_foreach(results, i, one) {
    if (!json_is_true(json_object_get(one, "done")))
      (void)json_array_append(refused, one);
  }
  txb_failed_say_refused(refused, json_array_size(refused));
  json_decref(refused);
}

int txb_failed_report(const struct txb_cli *cli, const struct txb_failed_words *words, const json_t *results) {
  const json_t *one;
  size_t i;
  json_int_t changed = 0;
  json_array_foreach(results, i, one) {
    changed += json_is_true(json_object_get(one, "done"));
  }
  if (cli->output == TXB_OUTPUT_TEXT)
    print_text(results, words, changed);
  else
    print_json(cli, cli->args.command->name, results, changed);
  say_all_refused(results);
  return (size_t)changed == json_array_size(results) ? TXB_EXIT_DONE : TXB_EXIT_FAILED;
}

enum txb_rc txb_failed_carry_out(const struct txb_cli *cli, const struct txb_failed_choice *choice,
                                 const struct txb_failed_decision *d, int *code_out, struct txb_error *err) {
  if (choice->is_job)
    return txb_failed_job_begin(cli, choice, d, code_out, err);
  json_t *results = json_array();
  enum txb_rc rc = txb_failed_decide(choice->pg, d, choice->numbers, choice->count, results, err);
  if (rc == TXB_OK)
    *code_out = txb_failed_report(cli, txb_failed_words_of(d->verb), results);
  json_decref(results);
  return rc;
}
