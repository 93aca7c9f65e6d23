/* What retry, discard, edit and copy share: which messages are meant, showing and asking before anything is changed, telling
 * what became of each. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/failed.h"
#include "broker/cli/safe_text.h"
#include "common/memory.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define SHOWN            10

struct meant {
  json_t *states;
  int64_t total;
};

static void print_meant(const struct txb_cli *cli, const char *verb, const char *to_topic, const struct meant *meant,
                        const json_t *first) {
  if (cli->output != TXB_OUTPUT_TEXT) {
    json_t *document = json_pack("{s:b, s:s, s:I, s:O, s:O}", "dry_run", 1, "action", verb, "matched",
                                 (json_int_t)meant->total, "states", meant->states, "first", first);
    if (to_topic != NULL)
      (void)json_object_set_new(document, "to_topic", json_string(to_topic));
    txb_failed_print_json(cli, document);
    json_decref(document);
    return;
  }
  struct txb_buffer states;
  txb_buffer_init(&states);
  txb_failed_states_text(meant->states, &states);
  txb_print("would %s %" PRId64 " message%s: %s\n\n", verb, meant->total, meant->total == 1 ? "" : "s",
            txb_buffer_text(&states));
  txb_buffer_fini(&states);
  txb_failed_print_table(cli, first, 0);
  if (meant->total > (int64_t)json_array_size(first))
    txb_print("... and %" PRId64 " more\n", meant->total - (int64_t)json_array_size(first));
}

static enum txb_rc dry_run(const struct txb_cli *cli, const char *verb, const struct txb_failed_choice *choice,
                           const struct meant *meant, struct txb_error *err) {
  json_t *first;
  if (choice->changes != NULL)
    TXB_TRY(txb_failed_check_changes(choice->pg, choice->changes, err));
  TXB_TRY(txb_failed_find(choice->pg, choice->filter, 0, SHOWN, &first, err));
  print_meant(cli, verb, choice->to_topic, meant, first);
  json_decref(first);
  return TXB_OK;
}

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

static enum txb_rc choose(struct txb_cli *cli, const char *verb, struct txb_failed_choice *choice, struct meant *meant,
                          bool *go, struct txb_error *err) {
  const struct txb_args *args = &cli->args;
  bool dry = txb_args_has(args, "dry-run"), numbers = args->operand_count > 0;
  TXB_TRY(txb_failed_states(choice->pg, choice->filter, &meant->states, &meant->total, err));
  if (meant->total == 0 && (dry || !numbers)) {
    txb_say("no failed message is like that: nothing to %s; `txbroker failed list` shows what there is", verb);
    choice->code = TXB_EXIT_FAILED;
    return TXB_OK;
  }
  if (dry)
    return dry_run(cli, verb, choice, meant, err);
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

enum txb_rc txb_failed_choose(struct txb_cli *cli, const char *verb, const json_t *states,
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
