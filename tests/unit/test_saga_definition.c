/* Definitions of sagas: what is read, and what is refused, with the line and the reason. */
#include "broker/saga/definition.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "json_schemas.h"

static const char trip[] =
    "{\n"                                                                                                   /* 1 */
    "  \"name\": \"trip\",\n"                                                                               /* 2 */
    "  \"version\": 3,\n"                                                                                   /* 3 */
    "  \"description\": \"A flight, a hotel, one payment.\",\n"                                             /* 4 */
    "  \"input\": {\"type\": \"object\"},\n"                                                                /* 5 */
    "  \"output\": {\"flight\": \"{steps.flight.output.id}\", \"paper\": \"{steps.paper.output.id?}\"},\n"  /* 6 */
    "  \"output_schema\": {\"type\": \"object\"},\n"                                                        /* 7 */
    "  \"deadline\": \"5m\",\n"                                                                             /* 8 */
    "  \"locks\": [\"account:{input.from}\", \"trips\"],\n"                                                 /* 9 */
    "  \"reply_topic\": \"trips.done\",\n"                                                                  /* 10 */
    "  \"steps\": [\n"                                                                                      /* 11 */
    "    {\"name\": \"flight\", \"topic\": \"flights\", \"type\": \"book\", \"kind\": \"compensatable\",\n" /* 12 */
    "     \"timeout\": \"30s\",\n"                                                                          /* 13 */
    "     \"retry\": {\"attempts\": 7, \"first\": \"100ms\", \"factor\": 3, \"cap\": \"2h\"},\n"            /* 14 */
    "     \"compensation\": {\"type\": \"unbook\", \"input\": {\"who\": \"{input.who}\"}}},\n"              /* 15 */
    "    {\"name\": \"hotel\", \"topic\": \"hotels\", \"type\": \"hold\", \"kind\": \"reserve\",\n"         /* 16 */
    "     \"after\": [],\n"                                                                                 /* 17 */
    "     \"confirm\": {\"type\": \"take\", \"input\": \"{steps.hotel.output.room}\"},\n"                   /* 18 */
    "     \"cancel\": {\"type\": \"release\"}},\n"                                                          /* 19 */
    "    {\"name\": \"payment\", \"topic\": \"payments\", \"type\": \"pay\", \"kind\": \"pivot\",\n"        /* 20 */
    "     \"after\": [\"flight\", \"hotel\"],\n"                                                            /* 21 */
    "     \"input\": {\"sum\": [\"{steps.flight.output.price}\"], \"for\": \"trip {saga.id}\"}},\n"         /* 22 */
    "    {\"name\": \"paper\", \"kind\": \"retriable\",\n"                                                  /* 23 */
    "     \"when\": \"input.paper and steps.flight.output.price > 10\",\n"                                  /* 24 */
    "     \"saga\": {\"name\": \"print\", \"version\": 2}}\n"                                               /* 25 */
    "  ]\n"                                                                                                 /* 26 */
    "}\n";                                                                                                  /* 27 */

static struct txb_saga_definition *d;
static struct txb_error err;

static void teardown(void) {
  txb_saga_definition_free(d);
  d = NULL;
}

TestSuite(saga_definition, .fini = teardown);

static enum txb_rc parse(const char *text) {
  return txb_saga_definition_parse("trip.json", txb_slice_text(text), &d, &err);
}

static void accepts(const char *text) {
  cr_assert(parse(text) == TXB_OK, "%s", err.message);
  txb_saga_definition_free(d);
  d = NULL;
}

static void refuses(const char *text, const char *message) {
  err.message[0] = '\0';
  cr_assert(parse(text) == TXB_REFUSED, "accepted: %s", text);
  cr_assert(err.origin == TXB_ORIGIN_USAGE && d == NULL);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
}

/* The trip with the first `old` replaced. */
static const char *with(const char *old, const char *new) {
  static char text[sizeof trip + 20000];
  const char *at = strstr(trip, old);
  cr_assert_not_null(at, "%s", old);
  (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - trip), trip, new, at + strlen(old));
  return text;
}

static void refuses_with(const char *old, const char *new, const char *message) {
  refuses(with(old, new), message);
}

/* ---- what is read ------------------------------------------------------------------------------- */

Test(saga_definition, all_of_it_is_read) {
  cr_assert(parse(trip) == TXB_OK, "%s", err.message);
  cr_assert_str_eq(d->name, "trip");
  cr_assert_str_eq(d->description, "A flight, a hotel, one payment.");
  cr_assert_str_eq(d->reply_topic, "trips.done");
  cr_assert(d->version == 3 && d->deadline_ms == 300000 && d->count == 4 && json_array_size(d->locks) == 2);
  cr_assert(json_is_object(d->input) && json_is_object(d->output_schema) && json_object_size(d->output) == 2);
  const struct txb_saga_step_definition *flight = &d->steps[0], *hotel = &d->steps[1], *paper = &d->steps[3];
  cr_assert(flight->kind == TXB_SAGA_STEP_COMPENSATABLE && flight->timeout_ms == 30000 && flight->after == 0);
  cr_assert(flight->retry.attempts == 7 && flight->retry.first_ms == 100 && flight->retry.factor == 3 &&
            flight->retry.cap_ms == 7200000);
  cr_assert_str_eq(flight->topic, "flights");
  cr_assert_str_eq(flight->action.type, "book");
  cr_assert_str_eq(flight->undo.type, "unbook");
  cr_assert(flight->action.input == NULL && json_is_object(flight->undo.input) && flight->confirm.type == NULL);
  cr_assert_str_eq(hotel->undo.type, "release");
  cr_assert_str_eq(hotel->confirm.type, "take");
  cr_assert(hotel->undo.input == NULL && json_is_string(hotel->confirm.input));
  cr_assert(d->steps[2].after == 3 && json_is_object(d->steps[2].action.input));
  cr_assert(paper->topic == NULL && paper->nested_version == 2 && paper->after == 4);
  cr_assert_str_eq(paper->nested, "print");
  cr_assert_str_eq(paper->when, "input.paper and steps.flight.output.price > 10");
  cr_assert_eq(txb_saga_definition_step(d, txb_slice_text("payment")), 2);
  cr_assert_eq(txb_saga_definition_step(d, txb_slice_text("pay")), -1);
}

Test(saga_definition, what_is_left_out_has_its_default) {
  cr_assert(parse("{\"name\": \"a\", \"version\": 1, \"steps\": ["
                  "{\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"pivot\"},"
                  "{\"name\": \"z\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"retriable\","
                  " \"retry\": {\"first\": \"5m\"}}]}") == TXB_OK,
            "%s", err.message);
  const struct txb_saga_retry *retry = &d->steps[0].retry;
  cr_assert(retry->attempts == 5 && retry->factor == 2 && retry->first_ms == 200 && retry->cap_ms == 60000);
  cr_assert(d->steps[1].retry.first_ms == 300000 && d->steps[1].retry.cap_ms == 300000);
  cr_assert(d->steps[0].timeout_ms == 60000 && d->steps[1].after == 1 && d->steps[0].when == NULL);
  cr_assert(d->deadline_ms == 0 && d->locks == NULL && d->input == NULL && d->output == NULL &&
            d->output_schema == NULL && d->reply_topic == NULL && d->description == NULL);
}

Test(saga_definition, a_reserve_step_is_a_try_and_a_confirm_behind_all_that_may_refuse) {
  cr_assert(parse(trip) == TXB_OK, "%s", err.message);
  cr_assert(d->rules.count == 5 && d->rules.pivot == 2);
  cr_assert(d->rule[1].kind == TXB_SAGA_COMPENSATABLE && d->origin[1].step == 1 && !d->origin[1].confirm);
  cr_assert(d->rule[4].kind == TXB_SAGA_RETRIABLE && d->rule[4].after == 7 && d->rule[0].attempts_max == 7);
  cr_assert(d->origin[4].step == 1 && d->origin[4].confirm && d->steps[1].confirm_rule == 4);
  cr_assert(d->steps[0].confirm_rule == -1);
}

Test(saga_definition, without_a_pivot_a_confirm_is_behind_all_that_can_be_undone) {
  cr_assert(parse("{\"name\": \"a\", \"version\": 1, \"steps\": ["
                  "{\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"reserve\","
                  " \"confirm\": {\"type\": \"c\"}, \"cancel\": {\"type\": \"d\"}},"
                  "{\"name\": \"z\", \"kind\": \"compensatable\", \"saga\": {\"name\": \"b\"}}]}") == TXB_OK,
            "%s", err.message);
  cr_assert(d->rules.pivot == -1 && d->rules.count == 3 && d->rule[2].after == 3);
  cr_assert(d->steps[1].undo.type == NULL && d->steps[1].nested_version == 0);
}

Test(saga_definition, durations_have_a_unit_and_an_end) {
  int64_t ms = -1;
  static const struct {
    const char *text;
    int64_t ms;
  } good[] = {{"1500ms", 1500}, {"30s", 30000}, {"5m", 300000}, {"2h", 7200000}, {"365d", INT64_C(31536000000)}};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
    cr_assert(txb_saga_duration_parse(good[i].text, &ms) && ms == good[i].ms, "%s", good[i].text);
  static const char *const bad[] = {"",    "s",    "5",    "0s", "-5s",  "+5s",
                                    "5 s", "1.5s", "366d", "5S", "5sec", "99999999999999999999ms"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    cr_assert_not(txb_saga_duration_parse(bad[i], &ms), "%s", bad[i]);
}

/* ---- shape -------------------------------------------------------------------------------------- */

Test(saga_definition, what_is_no_json_is_refused_with_line_and_column) {
  refuses("{\n \"name\": }", "trip.json:2:");
  refuses("", "trip.json:1:");
  refuses("[]", "trip.json:1: must be an object, not an array");
  refuses_with("\"version\": 3", "\"name\": \"x\"", "not valid JSON: duplicate object key");
  static char large[TXB_SAGA_DEFINITION_SIZE_MAX + 2];
  memset(large, ' ', sizeof large - 1);
  refuses(large, "trip.json: 262145 bytes are more than a saga's definition can have (262144)");
}

Test(saga_definition, unknown_keys_are_refused_with_the_nearest_known_one) {
  refuses_with("\"deadline\"", "\"deadlin\"", "trip.json:8: deadlin: unknown key \"deadlin\"; did you mean deadline?");
  refuses_with("\"timeout\"", "\"time_out\"", "trip.json:13: steps[0].time_out: unknown key \"time_out\"; did you");
  refuses_with("\"attempts\": 7", "\"attemps\": 7", "trip.json:14: steps[0].retry.attemps: unknown key \"attemps\"");
  refuses_with("\"type\": \"release\"", "\"type\": \"release\", \"topic\": \"x\"",
               "trip.json:19: steps[1].cancel.topic: unknown key \"topic\"; leave it out");
  refuses_with("\"name\": \"print\",", "\"name\": \"print\", \"versoin\": 1,",
               "trip.json:25: steps[3].saga.versoin: unknown key \"versoin\"; did you mean version?");
  refuses_with("\"timeout\"", "\"\\u0074imeou\"", "trip.json:12: steps[0].timeou: unknown key");
}

Test(saga_definition, missing_keys_are_refused_with_the_object_that_misses_them) {
  refuses_with("  \"name\": \"trip\",\n", "", "trip.json:1: name is missing");
  refuses_with("  \"version\": 3,\n", "", "trip.json:1: version is missing");
  refuses("{\"name\": \"a\", \"version\": 1}", "trip.json:1: steps is missing");
  refuses_with("\"name\": \"payment\", ", "", "trip.json:20: steps[2]: name is missing");
  refuses_with(", \"kind\": \"pivot\"", "", "trip.json:20: steps[2]: kind is missing");
  refuses_with("\"topic\": \"payments\", ", "",
               "trip.json:20: steps[2]: topic is missing: a step needs topic and type, or");
  refuses_with("\"type\": \"pay\", ", "", "trip.json:20: steps[2]: type is missing");
  refuses_with("{\"type\": \"release\"}", "{}", "trip.json:19: steps[1].cancel: type is missing");
  refuses_with("\"name\": \"print\", ", "", "trip.json:25: steps[3].saga: name is missing");
}

Test(saga_definition, values_of_another_kind_are_refused) {
  refuses_with("\"trip\"", "7", "trip.json:2: name: must be a string, not a number");
  refuses_with("\"version\": 3", "\"version\": \"3\"", "trip.json:3: version: must be a whole number from 1 to");
  refuses_with("\"version\": 3", "\"version\": 0", "version: must be a whole number from 1 to 2147483647");
  refuses_with("\"version\": 3", "\"version\": 2147483648", "version: must be a whole number from 1 to 2147483647");
  refuses_with("\"A flight, a hotel, one payment.\"", "[]", "trip.json:4: description: must be a string, not an array");
  refuses_with("\"input\": {\"type\": \"object\"}", "\"input\": true", "trip.json:5: input: must be a JSON Schema");
  refuses_with("\"output_schema\": {\"type\": \"object\"}", "\"output_schema\": []",
               "trip.json:7: output_schema: must");
  refuses_with("[\"account:{input.from}\", \"trips\"]", "\"x\"", "trip.json:9: locks: must be an array of strings");
  refuses_with("\"trips\"]", "7]", "trip.json:9: locks[1]: must be a string, not a number");
  refuses_with("\"trips\"]", "\"\"]", "trip.json:9: locks[1]: a lock needs a name");
  refuses_with("[\"flight\", \"hotel\"]", "\"flight\"",
               "trip.json:21: steps[2].after: must be an array of steps' names");
  refuses_with("[\"flight\", \"hotel\"]", "[null]", "trip.json:21: steps[2].after[0]: must be a string, not null");
  refuses_with("\"input.paper and steps.flight.output.price > 10\"", "true", "trip.json:24: steps[3].when: must be a");
  refuses_with("{\"type\": \"release\"}", "\"release\"",
               "trip.json:19: steps[1].cancel: must be an object, not a string");
  refuses_with("\"factor\": 3", "\"factor\": 1.5",
               "trip.json:14: steps[0].retry.factor: must be a whole number from 1 to 10");
  refuses_with("\"attempts\": 7", "\"attempts\": 0", "steps[0].retry.attempts: must be a whole number from 1 to 1000");
  refuses("{\"name\": \"a\", \"version\": 1, \"steps\": {}}", "steps: must be an array of steps, not an object");
  refuses("{\"name\": \"a\", \"version\": 1, \"steps\": []}", "steps: a saga has 1 to 64 steps");
  refuses("{\"name\": \"a\", \"version\": 1, \"steps\": [1]}", "steps[0]: must be an object, not a number");
}

Test(saga_definition, bad_names_topics_types_and_durations_are_refused) {
  refuses_with("\"trip\"", "\"Trip\"", "trip.json:2: name: must begin with a small letter and have at most 63");
  refuses_with("\"trip\"", "\"\"", "name: must begin with a small letter");
  refuses_with("\"trip\"", "\"1trip\"", "name: must begin with a small letter");
  refuses_with("\"trip\"", "\"a.b\"", "name: must begin with a small letter");
  refuses_with("\"trip\"", "\"a123456789012345678901234567890123456789012345678901234567890123\"", "at most 63");
  accepts(with("\"trip\"", "\"a12345678901234567890123456789012345678901234567890123456789012\""));
  refuses_with("\"payment\"", "\"pay ment\"", "trip.json:20: steps[2].name: must begin with a small letter");
  refuses_with("\"payments\"", "\"pay ments\"",
               "trip.json:20: steps[2].topic: the name of a topic may hold only letters, digits, '.', '_' and '-'");
  refuses_with("\"payments\"", "\"..\"", "steps[2].topic: the name of a topic must not be \".\" or \"..\"");
  refuses_with("\"payments\"", "\"\"", "steps[2].topic: the name of a topic must have 1 to 249 characters");
  refuses_with("\"trips.done\"", "\"a/b\"", "trip.json:10: reply_topic: the name of a topic may hold only");
  refuses_with("\"pay\"", "\"\"", "steps[2].type: the type of a command must have 1 to 255 bytes");
  refuses_with("\"5m\"", "\"5\"", "trip.json:8: deadline: must be a duration above 0 and at most 365d");
  refuses_with("\"5m\"", "300", "trip.json:8: deadline: must be a duration");
  refuses_with("\"30s\"", "\"0s\"", "trip.json:13: steps[0].timeout: must be a duration");
  refuses_with("\"100ms\"", "\"x\"", "trip.json:14: steps[0].retry.first: must be a duration");
  refuses_with("\"cap\": \"2h\"", "\"cap\": \"99ms\"", "trip.json:14: steps[0].retry: first is longer than cap");
}

Test(saga_definition, an_unknown_kind_is_refused_with_the_nearest) {
  refuses_with("\"pivot\"", "\"pivto\"",
               "trip.json:20: steps[2].kind: must be compensatable, pivot, retriable or reserve; did you mean pivot?");
}

Test(saga_definition, a_kind_that_cant_be_read_is_not_guessed) {
  refuses("{\"name\": \"a\", \"version\": 1, \"steps\": [\n"
          "{\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"pivot\"},\n"
          "{\"name\": \"z\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"retriabel\"}]}",
          "trip.json:3: steps[1].kind: must be compensatable, pivot, retriable or reserve; did you mean retriable?");
}

/* ---- what belongs to a kind --------------------------------------------------------------------- */

Test(saga_definition, missing_and_superfluous_operations_are_refused) {
  refuses_with(",\n     \"compensation\": {\"type\": \"unbook\", \"input\": {\"who\": \"{input.who}\"}}", "",
               "trip.json:12: steps[0]: compensation is missing: a compensatable step needs one");
  refuses_with("     \"cancel\": {\"type\": \"release\"}},\n", "     \"timeout\": \"1s\"},\n",
               "trip.json:16: steps[1]: cancel is missing: a reserve step needs one");
  refuses_with("\"confirm\": {\"type\": \"take\", \"input\": \"{steps.hotel.output.room}\"},\n", "",
               "trip.json:16: steps[1]: confirm is missing");
  refuses_with("\"cancel\": {\"type\"", "\"cancel\": {\"type\": \"release\"}, \"compensation\": {\"type\"",
               "trip.json:19: steps[1].compensation: a reserve step is undone by its cancel");
  refuses_with("\"kind\": \"pivot\",\n", "\"kind\": \"pivot\",\n\"compensation\": {\"type\": \"x\"},",
               "trip.json:21: steps[2].compensation: behind a pivot there is no way back");
  refuses_with("\"kind\": \"pivot\",\n", "\"kind\": \"pivot\",\n\"confirm\": {\"type\": \"x\"},",
               "trip.json:21: steps[2].confirm: only a reserve step is confirmed");
  refuses_with("\"timeout\": \"30s\"", "\"cancel\": {\"type\": \"x\"}",
               "trip.json:13: steps[0].cancel: only a reserve step is cancelled: name it compensation");
  refuses_with("  ]\n}",
               ", {\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"retriable\","
               " \"compensation\": {\"type\": \"c\"}}]}",
               "trip.json:26: steps[4].compensation: a retriable step is never undone");
}

Test(saga_definition, a_step_is_a_command_or_a_saga) {
  refuses_with("\"kind\": \"retriable\",\n", "\"kind\": \"retriable\",\n\"topic\": \"x\",",
               "trip.json:24: steps[3].topic: a step that is a saga has neither topic nor type");
  refuses_with("\"kind\": \"retriable\",\n", "\"kind\": \"retriable\",\n\"type\": \"x\",",
               "trip.json:24: steps[3].type: a step that is a saga has neither");
  refuses_with("\"kind\": \"retriable\",\n", "\"kind\": \"retriable\",\n\"compensation\": {\"type\": \"x\"},",
               "trip.json:24: steps[3].compensation: a step that is a saga is undone by its own steps");
  refuses_with("\"kind\": \"retriable\",\n", "\"kind\": \"reserve\",\n",
               "trip.json:23: steps[3]: a step that is a saga can't be reserve");
}

/* ---- order -------------------------------------------------------------------------------------- */

Test(saga_definition, two_steps_of_one_name_are_refused) {
  refuses_with("\"name\": \"hotel\"", "\"name\": \"flight\"",
               "trip.json:16: steps[1].name: steps[0] is already named flight; give each step a name of its own");
}

Test(saga_definition, unknown_steps_in_after_are_refused) {
  refuses_with("[\"flight\", \"hotel\"]", "[\"flight\", \"hotle\"]",
               "trip.json:21: steps[2].after[1]: there is no step \"hotle\"; did you mean hotel?");
  refuses_with("[\"flight\", \"hotel\"]", "[\"flight\", \"hotel\", \"flight\"]",
               "trip.json:21: steps[2].after[2]: flight stands here twice");
}

Test(saga_definition, what_cant_be_run_safely_is_refused_by_the_steps_name) {
  refuses_with("\"after\": [],", "\"after\": [\"hotel\"],",
               "trip.json:16: steps[1]: step hotel comes after itself: a cycle; change its after or its kind");
  refuses_with("\"timeout\": \"30s\"", "\"after\": [\"payment\"]",
               "trip.json:12: steps[0]: step flight comes after itself");
  refuses_with("\"after\": [\"flight\", \"hotel\"]", "\"after\": [\"flight\"]",
               "trip.json:20: steps[2]: step payment can't be compensated, and does not come after all steps that can");
  refuses_with("  ]\n}", ", {\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"pivot\"}]}",
               "trip.json:26: steps[4]: step x is a second pivot");
  refuses_with("  ]\n}",
               ", {\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"reserve\","
               " \"confirm\": {\"type\": \"c\"}, \"cancel\": {\"type\": \"c\"}}]}",
               /* the first in the file: it would have to be before the pivot */
               "trip.json:20: steps[2]: step payment can't be compensated");
  refuses_with("\"kind\": \"retriable\",\n", "\"kind\": \"retriable\", \"after\": [\"hotel\", \"flight\"],\n",
               "trip.json:23: steps[3]: step paper is retriable and does not come after the pivot");
}

static const char *reserves(int count) {
  static char text[64 * 200];
  size_t used = (size_t)snprintf(text, sizeof text, "{\"name\": \"a\", \"version\": 1, \"steps\": [");
  for (int i = 0; i < count; i++)
    used += (size_t)snprintf(text + used, sizeof text - used,
                             "%s{\"name\": \"s%d\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"reserve\","
                             " \"confirm\": {\"type\": \"c\"}, \"cancel\": {\"type\": \"c\"}}",
                             i == 0 ? "" : ",\n", i);
  (void)snprintf(text + used, sizeof text - used, "]}");
  return text;
}

Test(saga_definition, reserve_steps_count_twice) {
  accepts(reserves(32));
  refuses(reserves(33), "trip.json:1: steps: more than 64 operations: a reserve step counts twice");
}

static const char *nested_sagas(int count) {
  static char text[100 * 100];
  size_t used = (size_t)snprintf(text, sizeof text, "{\"name\": \"a\", \"version\": 1, \"steps\": [");
  for (int i = 0; i < count; i++)
    used += (size_t)snprintf(text + used, sizeof text - used,
                             "%s{\"name\": \"s%d\", \"kind\": \"compensatable\", \"saga\": {\"name\": \"b\"}}",
                             i == 0 ? "" : ",\n", i);
  (void)snprintf(text + used, sizeof text - used, "]}");
  return text;
}

Test(saga_definition, a_saga_has_64_steps_at_most) {
  accepts(nested_sagas(64));
  refuses(nested_sagas(65), "steps: a saga has 1 to 64 steps");
}

/* ---- references --------------------------------------------------------------------------------- */

Test(saga_definition, templates_and_conditions_that_cant_be_read_are_refused) {
  refuses_with("{input.who}", "{input.who",
               "trip.json:15: steps[0].compensation.input.who: \"{input.who\": a '}' must follow");
  refuses_with("\"trip {saga.id}\"", "\"trip {saga.ids}\"",
               "trip.json:22: steps[2].input.for: \"{saga.ids}\": of the saga");
  refuses_with("price > 10", "price = 10", "trip.json:24: steps[3].when: condition \"input.paper");
  refuses_with("{input.from}", "{input from}", "trip.json:9: locks[0]: \"{input from}\": a '}' must follow");
  refuses_with("{steps.flight.output.id}", "{steps.flight.id}",
               "trip.json:6: output.flight: \"{steps.flight.id}\": a step's");
}

Test(saga_definition, outputs_of_unknown_steps_are_refused) {
  refuses_with("{steps.flight.output.price}", "{steps.flihgt.output.price}",
               "trip.json:22: steps[2].input.sum[0]: steps.flihgt.output.price: there is no step \"flihgt\"; did you "
               "mean flight?");
  refuses_with("steps.flight.output.price > 10", "steps.x.output.price > 10",
               "trip.json:24: steps[3].when: steps.x.output.price: there is no step \"x\"");
  refuses_with("{steps.flight.output.id}", "{steps.x.output.id?}",
               "trip.json:6: output.flight: steps.x.output.id: there is no step");
}

Test(saga_definition, outputs_of_steps_that_are_not_before_are_refused) {
  refuses_with(
      "\"after\": [],", "\"after\": [], \"input\": \"{steps.flight.output?}\",",
      "trip.json:17: steps[1].input: steps.flight.output: step flight is not before step hotel; name it in after");
  refuses_with("\"timeout\": \"30s\"", "\"input\": \"{steps.payment.output.x}\"",
               "trip.json:13: steps[0].input: steps.payment.output.x: step payment is not before step flight");
  refuses_with("{steps.hotel.output.room}", "{steps.paper.output.x?}",
               "trip.json:18: steps[1].confirm.input: steps.paper.output.x: step paper is not before step hotel");
  refuses_with("\"after\": [],", "\"when\": \"steps.hotel.output.x\",\n\"after\": [],",
               "trip.json:17: steps[1].when: steps.hotel.output.x is what step hotel itself gives");
  refuses_with(
      "{input.who}", "{steps.hotel.output}",
      "trip.json:15: steps[0].compensation.input.who: steps.hotel.output: step hotel is not before step flight");
  /* A confirm is behind all that may refuse. */
  accepts(with("{steps.hotel.output.room}", "{steps.payment.output.x} {steps.flight.output.y}"));
}

Test(saga_definition, outputs_of_steps_that_may_be_skipped_need_a_question_mark) {
  refuses_with("{steps.paper.output.id?}", "{steps.paper.output.id}",
               "trip.json:6: output.paper: steps.paper.output.id: step paper has a when, and may be skipped; write "
               "steps.paper.output.id?");
  refuses_with("\"timeout\": \"30s\"", "\"when\": \"input.x\"",
               "trip.json:6: output.flight: steps.flight.output.id: step");
  const char *late = ", {\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"retriable\",\n"
                     " \"when\": \"steps.paper.output.x == 1\"}]}";
  refuses_with("  ]\n}", late, "trip.json:27: steps[4].when: steps.paper.output.x: step paper has a when");
  accepts(with("  ]\n}", ", {\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"retriable\","
                         " \"when\": \"steps.paper.output.x? == 1\"}]}"));
  /* A confirm is run only if its try was. */
  accepts(with("\"after\": [],", "\"after\": [], \"when\": \"input.hotel\","));
}

Test(saga_definition, what_undoes_a_step_must_not_read_its_output) {
  refuses_with(
      "{input.who}", "{steps.flight.output.id?}",
      "trip.json:15: steps[0].compensation.input.who: steps.flight.output.id is what the step itself gives: its "
      "participant's barrier hands it to the handler");
  refuses_with("{\"type\": \"release\"}", "{\"type\": \"release\", \"input\": \"{steps.hotel.output.room}\"}",
               "trip.json:19: steps[1].cancel.input: steps.hotel.output.room is what the step itself gives");
}

static void conflict_is(const char *more, bool ends) {
  cr_assert(parse(with("\"trips\"],", more)) == TXB_OK, "%s", err.message);
  cr_assert_eq(d->locks_refuse, ends);
  txb_saga_definition_free(d);
  d = NULL;
}

Test(saga_definition, what_happens_when_a_lock_is_held_is_wait_or_refuse_and_needs_locks) {
  conflict_is("\"trips\"],", false);
  conflict_is("\"trips\"], \"lock_conflict\": \"refuse\",", true);
  conflict_is("\"trips\"], \"lock_conflict\": \"wait\",", false);
  refuses_with("\"trips\"],", "\"trips\"], \"lock_conflict\": \"fail\",",
               "trip.json:9: lock_conflict: must be wait or refuse");
  refuses_with("\"trips\"],", "\"trips\"], \"lock_conflict\": 7,",
               "trip.json:9: lock_conflict: must be a string, not a number");
  refuses_with("[\"account:{input.from}\", \"trips\"],", "[], \"lock_conflict\": \"wait\",",
               "trip.json:9: lock_conflict: there is nothing to lock: name it in locks, or leave this out");
  refuses_with("\"locks\": [\"account:{input.from}\", \"trips\"],", "\"lock_conflict\": \"wait\",",
               "trip.json:9: lock_conflict: there is nothing to lock");
}

Test(saga_definition, more_than_64_locks_are_refused) {
  char locks[1000] = "[";
  for (int n = 0; n < 64; n++)
    snprintf(locks + strlen(locks), sizeof locks - strlen(locks), "\"l%d\", ", n);
  snprintf(locks + strlen(locks), sizeof locks - strlen(locks), "\"trips\"]");
  refuses_with("[\"account:{input.from}\", \"trips\"]", locks, "trip.json:9: locks: a saga has at most 64 locks");
}

Test(saga_definition, locks_read_no_steps) {
  refuses_with("{input.from}", "{steps.flight.output.x}",
               "trip.json:9: locks[0]: steps.flight.output.x: locks are taken at the start, before any step");
}

Test(saga_definition, too_deep_a_template_is_refused) {
  char deep[500] = "\"for\": ";
  for (int i = 0; i < 70; i++)
    strncat(deep, "[", 2);
  strncat(deep, "1", 2);
  for (int i = 0; i < 70; i++)
    strncat(deep, "]", 2);
  strncat(deep, ", \"x\": \"", 10);
  refuses_with("\"for\": \"", deep, "nested too deep; a definition has at most 60 levels");
}

/* ---- what is asked of new ones only ---------------------------------------------------------------- */

/* A saga of the schema, with {REFERENCE} in the compensation of its first step. */
static const char *undone_with(const char *schema, const char *reference) {
  static char text[2000];
  (void)snprintf(text, sizeof text,
                 "{\"name\": \"a\", \"version\": 1,\n%s%s%s"
                 "\"steps\": [{\"name\": \"x\", \"topic\": \"t\", \"type\": \"y\", \"kind\": \"compensatable\",\n"
                 "\"compensation\": {\"type\": \"z\", \"input\": {\"of\": \"{%s}\"}}}]}",
                 schema != NULL ? "\"input\": " : "", schema != NULL ? schema : "", schema != NULL ? ",\n" : "",
                 reference);
  return text;
}

static enum txb_rc parse_new(const char *text) {
  err.message[0] = '\0';
  return txb_saga_definition_parse_new("trip.json", txb_slice_text(text), &d, &err);
}

static void certain(const char *schema, const char *reference) {
  cr_assert(parse_new(undone_with(schema, reference)) == TXB_OK, "%s", err.message);
  txb_saga_definition_free(d);
  d = NULL;
}

/* And it can be read all the same where it was deployed before. */
static void uncertain(const char *schema, const char *reference, const char *message) {
  cr_assert(parse_new(undone_with(schema, reference)) == TXB_REFUSED, "accepted: %s of %s", reference, schema);
  cr_assert(err.origin == TXB_ORIGIN_USAGE && d == NULL);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
  accepts(undone_with(schema, reference));
}

#define OBJECT(required, more) "{\"type\": \"object\", \"required\": [" required "]" more "}"

Test(saga_definition, a_compensation_reads_only_what_every_input_has) {
  static const char seat[] = OBJECT("\"seat\"", ", \"properties\": {\"seat\": {\"type\": \"object\","
                                                " \"required\": [\"row\"]}}");
  static const char rows[] = OBJECT("\"rows\"", ", \"properties\": {\"rows\": {\"type\": [\"array\"], \"minItems\": 2,"
                                                " \"items\": " OBJECT("\"n\"", "") "}}");
  certain(seat, "input");
  certain(seat, "input.seat");
  certain(seat, "input.seat.row");
  certain(seat, "input.seat.gate?");
  certain(rows, "input.rows[1].n");
  certain(NULL, "input");
  certain(NULL, "input.seat?");
  certain(NULL, "saga.id");
  certain(NULL, "saga.key?");
  certain(OBJECT("\"a\"", ", \"additionalProperties\": " OBJECT("\"b\"", "")), "input.a.b");
  uncertain(OBJECT("", ", \"properties\": {\"seat\": {}}"), "input.seat",
            "trip.json:4: steps[0].compensation.input.of: input.seat may be absent (its schema does not require "
            "input.seat), and the saga would be stuck here, where it can't go back; make it required in the schema of "
            "the input, or write input.seat?");
  uncertain(NULL, "input.seat",
            "trip.json:3: steps[0].compensation.input.of: input.seat may be absent (the definition has no schema");
  uncertain(seat, "input.seat.gate", "(its schema does not require input.seat.gate)");
  uncertain(seat, "input.seat.row.n", "(its schema does not say \"type\": \"object\" of input.seat.row)");
  uncertain(seat, "input[0]", "(its schema does not say \"type\": \"array\" of input)");
  uncertain(rows, "input.rows[2]", "(its schema has no minItems that makes sure of input.rows[2])");
  uncertain(rows, "input.rows[0].m", "(its schema does not require input.rows[0].m)");
  /* Any other kind of input would do, too. */
  uncertain("{\"required\": [\"seat\"]}", "input.seat", "(its schema does not say \"type\": \"object\" of input)");
  uncertain("{\"type\": [\"object\", \"null\"], \"required\": [\"seat\"]}", "input.seat", "does not say \"type\"");
  uncertain(seat, "saga.key", "saga.key may be absent (a saga may be started without one)");
}

static void new_one_is(const char *text, const char *message) {
  enum txb_rc rc = parse_new(text);
  if (message == NULL)
    cr_assert(rc == TXB_OK, "%s", err.message);
  else
    cr_assert(rc == TXB_REFUSED && strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message,
              message);
  txb_saga_definition_free(d);
  d = NULL;
}

/* The trip, whose input need hold nothing, with a template elsewhere than in flight's compensation. */
static const char *reading(const char *old, const char *new) {
  static char text[sizeof trip + 1000];
  (void)snprintf(text, sizeof text, "%s", with(old, new));
  char *who = strstr(text, "{input.who}");
  memmove(who + strlen("{input}"), who + strlen("{input.who}"), strlen(who + strlen("{input.who}")) + 1);
  memcpy(who, "{input}", strlen("{input}"));
  return text;
}

Test(saga_definition, what_is_sent_when_there_is_no_way_back_reads_only_what_every_input_has) {
  new_one_is(reading("\"release\"", "\"release\", \"input\": \"{input.x}\""),
             "trip.json:19: steps[1].cancel.input: input.x may be absent");
  new_one_is(reading("{steps.hotel.output.room}", "{steps.hotel.output.room} {input.x}"),
             "trip.json:18: steps[1].confirm.input: input.x may be absent");
  new_one_is(reading("\"kind\": \"retriable\",\n", "\"kind\": \"retriable\", \"input\": [\"{input.x}\"],\n"),
             "trip.json:23: steps[3].input[0]: input.x may be absent");
  new_one_is(reading("input.paper and", "input.paper == 1 and"),
             "trip.json:24: steps[3].when: input.paper may be absent");
  new_one_is(reading("input.paper and", "1 == input.paper and"),
             "trip.json:24: steps[3].when: input.paper may be absent");
  /* Alone in a condition it is what the condition is about. */
  new_one_is(reading("\"pay\"", "\"pay\""), NULL);
  /* What is refused before the pivot turns the saga back. */
  new_one_is(reading("\"trip {saga.id}\"", "\"{input.x} {saga.key}\""), NULL);
  new_one_is(reading("\"after\": [],", "\"after\": [], \"input\": \"{input.x}\", \"when\": \"input.y > 1\","), NULL);
}

/* ---- one problem at a time ---------------------------------------------------------------------- */

Test(saga_definition, the_first_problem_in_the_file_is_told) {
  char text[sizeof trip + 100];
  (void)snprintf(text, sizeof text, "%s", with("\"deadline\"", "\"deadlin\""));
  text[strstr(text, "\"version\": 3") - text + 11] = '0'; /* line 3 comes before line 8 */
  refuses(text, "trip.json:3: version");
  /* A cycle, which is found late, comes before a bad duration. */
  (void)snprintf(text, sizeof text, "%s", with("\"timeout\": \"30s\"", "\"after\": [\"flight\"]"));
  *strstr(text, "saga\": {\"name") = 'x'; /* line 25 */
  refuses(text, "trip.json:12: steps[0]: step flight comes after itself");
  /* What needs the steps' names is not told while one of them can't be read. */
  (void)snprintf(text, sizeof text, "%s", with("\"name\": \"paper\"", "\"name\": \"Paper\""));
  refuses(text, "trip.json:23: steps[3].name: must begin with a small letter");
}

Test(saga_definition, a_file_of_nothing_but_problems_is_refused_soon) {
  static char text[200000];
  size_t used = (size_t)snprintf(text, sizeof text, "{");
  for (int i = 0; i < 12000; i++)
    used += (size_t)snprintf(text + used, sizeof text - used, "%s\"k%d\": 1", i == 0 ? "" : ",\n", i);
  (void)snprintf(text + used, sizeof text - used, "}");
  refuses(text, "trip.json:1: k0: unknown key \"k0\"");
}

Test(saga_definition, every_lack_of_memory_is_an_error) {
  enum txb_rc rc = TXB_FATAL;
  for (uint64_t nth = 1; rc != TXB_OK && nth < 100; nth++) {
    txb_alloc_fail_at(nth);
    rc = parse(trip);
    cr_assert(rc == TXB_OK || (rc == TXB_FATAL && d == NULL));
  }
  txb_alloc_fail_at(0);
  cr_assert(rc == TXB_OK);
}

/* ---- the published contract --------------------------------------------------------------------- */

/* Whether the reader knows a key of the object that `prefix` and `suffix` make: it says nothing about unknown keys. */
static void knows(const char *prefix, const char *key, const char *suffix) {
  char text[400], unknown[100];
  (void)snprintf(text, sizeof text, "%s\"%s\": 1%s", prefix, key, suffix);
  (void)snprintf(unknown, sizeof unknown, "unknown key \"%s\"", key);
  if (parse(text) == TXB_REFUSED)
    cr_assert(strstr(err.message, unknown) == NULL, "%s: the schema has a key that the reader does not know", key);
}

static void knows_all(const json_t *object, size_t count, const char *prefix, const char *suffix) {
  json_t *properties = json_object_get(object, "properties");
  const char *key;
  json_t *value;
  cr_assert_eq(json_object_size(properties), count, "the schema has %zu keys for %s", json_object_size(properties),
               prefix);
  cr_assert(json_is_false(json_object_get(object, "additionalProperties")));
  json_object_foreach(properties, key, value) knows(prefix, key, suffix);
}

/* How many keys the reader has is told here a second time: one that is added must be added to the schema. */
Test(saga_definition, the_schema_has_the_keys_that_are_read) {
  json_t *schema = json_loads(txb_text_saga, JSON_REJECT_DUPLICATES, NULL);
  json_t *defs = json_object_get(schema, "$defs");
  cr_assert_not_null(defs);
  knows_all(schema, 11, "{", "}");
  knows_all(json_object_get(defs, "step"), 13, "{\"steps\": [{", "}]}");
  knows_all(json_object_get(defs, "operation"), 2, "{\"steps\": [{\"confirm\": {", "}}]}");
  knows_all(json_object_get(defs, "retry"), 4, "{\"steps\": [{\"retry\": {", "}}]}");
  knows_all(json_object_get(defs, "nested"), 2, "{\"steps\": [{\"saga\": {", "}}]}");
  json_decref(schema);
}
