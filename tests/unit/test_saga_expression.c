/* Templates and conditions of sagas: what they give, and what they say when they can't. */
#include "broker/saga/expression.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *context;
static struct txb_error err;

static void setup(void) {
  context =
      json_loads("{\"input\": {\"n\": 3, \"big\": 9007199254740993, \"real\": 0.1, \"text\": \"ab\", \"no\": false,"
                 "  \"yes\": true, \"nil\": null, \"list\": [1, {\"x\": \"deep\"}], \"object\": {\"a-b\": 1}},"
                 " \"steps\": {\"a\": {\"output\": {\"id\": 7}}, \"b-1\": {\"output\": null}},"
                 " \"saga\": {\"id\": \"0190\", \"name\": \"trip\"}}",
                 0, NULL);
  cr_assert_not_null(context);
}

static void teardown(void) {
  json_decref(context);
}

TestSuite(saga_expression, .init = setup, .fini = teardown);

/* ---- templates ---------------------------------------------------------------------------------- */

static void gives(const char *template, const char *wanted) {
  json_t *from = json_loads(template, JSON_DECODE_ANY, NULL), *to = json_loads(wanted, JSON_DECODE_ANY, NULL);
  json_t *filled = NULL;
  cr_assert(from != NULL && to != NULL, "%s", template);
  err.message[0] = '\0';
  cr_assert(txb_saga_template_fill(from, context, &filled, &err) == TXB_OK, "%s: %s", template, err.message);
  char *text = json_dumps(filled, JSON_ENCODE_ANY);
  cr_assert(json_equal(filled, to), "%s gives %s, not %s", template, text, wanted);
  free(text);
  json_decref(filled);
  json_decref(from);
  json_decref(to);
}

static void fails(const char *template, const char *message) {
  json_t *from = json_loads(template, JSON_DECODE_ANY, NULL), *filled = from;
  cr_assert_not_null(from);
  cr_assert(txb_saga_template_fill(from, context, &filled, &err) == TXB_REFUSED, "%s is filled", template);
  cr_assert_eq(filled, from, "the output was touched");
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
  cr_assert(err.origin == TXB_ORIGIN_USAGE);
  json_decref(from);
}

Test(saga_expression, a_path_alone_gives_the_value_with_its_kind) {
  gives("\"{input.n}\"", "3");
  gives("\"{input.big}\"", "9007199254740993");
  gives("\"{input.list}\"", "[1, {\"x\": \"deep\"}]");
  gives("\"{input.list[1].x}\"", "\"deep\"");
  gives("\"{input.nil}\"", "null");
  gives("\"{steps.a.output.id}\"", "7");
  gives("\"{steps.b-1.output}\"", "null");
  gives("\"{saga.id}\"", "\"0190\"");
  gives("\"{input.object.a-b}\"", "1");
}

Test(saga_expression, within_a_text_values_are_texts) {
  gives("\"n={input.n} t={input.text} {input.yes}/{input.no} r={input.real} b={input.big}\"",
        "\"n=3 t=ab true/false r=0.1 b=9007199254740993\"");
  gives("\"{input.n}{input.n}\"", "\"33\"");
  gives("\"{input.text} \"", "\"ab \"");
}

Test(saga_expression, two_braces_are_one_and_a_closing_one_is_text) {
  gives("\"{{input.n}\"", "\"{input.n}\"");
  gives("\"{{{input.n}}\"", "\"{3}\"");
  gives("\"a}b\"", "\"a}b\"");
  gives("\"\"", "\"\"");
}

Test(saga_expression, all_json_around_stays_as_it_is) {
  gives("{\"a\": [\"{input.n}\", 1.5, null, true, {\"{input.n}\": \"x {input.n}\"}], \"b\": {}}",
        "{\"a\": [3, 1.5, null, true, {\"{input.n}\": \"x 3\"}], \"b\": {}}");
  gives("17", "17");
}

Test(saga_expression, what_is_absent_is_an_error_that_names_the_path) {
  fails("{\"a\": [\"{input.list[2].x}\"]}", "input.list[2].x is absent; write input.list[2].x?");
  fails("\"{steps.c.output.id}\"", "steps.c.output.id is absent");
  fails("\"{saga.key}\"", "saga.key is absent");
  fails("\"a {input.n.x} b\"", "input.n.x is absent");
  fails("\"{input.list.x}\"", "input.list.x is absent");
  fails("\"{input.object[0]}\"", "input.object[0] is absent");
}

Test(saga_expression, a_question_mark_lets_it_be_absent) {
  gives("\"{input.list[2].x?}\"", "null");
  gives("\"<{steps.c.output.id?}>\"", "\"<>\"");
  gives("\"<{input.nil?}>\"", "\"<>\"");
  gives("\"{input.n?}\"", "3");
}

Test(saga_expression, what_is_no_text_cant_stand_within_one) {
  fails("\"a {input.nil}\"", "input.nil is null, which can't stand within a text; write a \"?\"");
  fails("\"a {input.list?}\"", "input.list is an array, which can't stand within a text");
  fails("\"a {input.object}\"", "is an object");
}

Test(saga_expression, a_filled_template_shares_nothing_with_its_context) {
  json_t *from = json_string("{input.list}"), *filled;
  cr_assert(txb_saga_template_fill(from, context, &filled, &err) == TXB_OK);
  json_object_set_new(json_array_get(filled, 1), "x", json_string("changed"));
  json_decref(filled);
  json_decref(from);
  gives("\"{input.list[1].x}\"", "\"deep\"");
}

/* What the allocator of jansson does next. */
static int allocations_left;

static void *scarce(size_t size) {
  return allocations_left-- > 0 ? malloc(size) : NULL;
}

Test(saga_expression, every_lack_of_memory_is_an_error) {
  json_t *from =
      json_loads("{\"a\": [\"{input.list}\", \"x {input.n}\", 1.5], \"b\": {\"c\": \"{input.object}\"}}", 0, NULL);
  enum txb_rc rc = TXB_FATAL;
  int failures = 0;
  cr_assert_not_null(from);
  for (; rc != TXB_OK && failures < 200; failures++) {
    json_t *filled = NULL;
    bool holds;
    allocations_left = failures;
    json_set_alloc_funcs(scarce, free);
    rc = txb_saga_template_fill(from, context, &filled, &err);
    allocations_left = 0;
    enum txb_rc condition = txb_saga_condition_holds("'a' == 'a'", context, &holds, &err);
    json_set_alloc_funcs(malloc, free);
    cr_assert(rc == TXB_OK ? filled != NULL : rc == TXB_FATAL && filled == NULL);
    cr_assert(condition == TXB_FATAL);
    json_decref(filled);
  }
  cr_assert(rc == TXB_OK && failures > 10);
  json_decref(from);
}

static void is_no_template(const char *text, const char *message) {
  cr_assert(txb_saga_template_check(text, NULL, NULL, &err) == TXB_REFUSED, "%s is accepted", text);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
}

Test(saga_expression, what_is_no_template_is_refused_with_the_piece) {
  is_no_template("x {", "\"{\": a path begins with input, steps.NAME.output or saga");
  is_no_template("{foo.bar}", "\"{foo.bar}\": a path begins with input");
  is_no_template("{inputs.x}", "a path begins with");
  is_no_template("{ input.x}", "a path begins with");
  is_no_template("{input.x }", "a '}' must follow the path; write {{");
  is_no_template("{input.x", "a '}' must follow");
  is_no_template("{input.x??}", "a '}' must follow");
  is_no_template("{input.}", "a field's name must follow the '.'");
  is_no_template("{input..x}", "a field's name must follow the '.'");
  is_no_template("{input[x]}", "a whole number and ']' must follow the '['");
  is_no_template("{input[-1]}", "a whole number");
  is_no_template("{input[1}", "a whole number");
  is_no_template("{input[]}", "a whole number");
  is_no_template("{input[12345678901234567890]}", "a whole number");
  is_no_template("{steps}", "a step's output is steps.NAME.output");
  is_no_template("{steps.a}", "a step's output is steps.NAME.output");
  is_no_template("{steps.a.outputs}", "a step's output is steps.NAME.output");
  is_no_template("{saga}", "of the saga there are saga.id, saga.key and saga.name");
  is_no_template("{saga.version}", "of the saga there are");
  is_no_template("{saga.id.x}", "of the saga there are");
  char long_field[400] = "{input.";
  memset(long_field + 7, 'x', 201);
  is_no_template(long_field, "at most 200");
}

static enum txb_rc note(void *arg, const struct txb_saga_reference *r, struct txb_error *e) {
  (void)e;
  char *out = arg;
  size_t used = strlen(out);
  (void)snprintf(out + used, 200 - used, "%d:%.*s:%.*s%s ", (int)r->root, (int)r->path.size, (const char *)r->path.data,
                 (int)r->step.size, r->step.data == NULL ? "" : (const char *)r->step.data, r->optional ? "?" : "");
  return TXB_OK;
}

Test(saga_expression, a_check_tells_what_is_read) {
  char seen[200] = "";
  cr_assert(txb_saga_template_check("a {input.x[2]?} {{no} {steps.b.output} {saga.id}", note, seen, &err) == TXB_OK);
  cr_assert_str_eq(seen, "0:input.x[2]:? 1:steps.b.output:b 2:saga.id: ");
  seen[0] = '\0';
  cr_assert(txb_saga_condition_check("false and (input.a == 1 or not steps.b.output.c?)", note, seen, &err) == TXB_OK);
  cr_assert_str_eq(seen, "0:input.a: 1:steps.b.output.c:b? ");
}

static enum txb_rc object_to(void *arg, const struct txb_saga_reference *r, struct txb_error *e) {
  (void)arg;
  (void)r;
  return TXB_FAIL(e, TXB_REFUSED, "not that one");
}

Test(saga_expression, who_is_told_can_end_the_check) {
  cr_assert(txb_saga_template_check("{input}", object_to, NULL, &err) == TXB_REFUSED);
  cr_assert_str_eq(err.message, "not that one");
  cr_assert(txb_saga_condition_check("input", object_to, NULL, &err) == TXB_REFUSED);
}

/* ---- conditions --------------------------------------------------------------------------------- */

static void decides(const char *text, bool wanted) {
  bool holds = !wanted;
  err.message[0] = '\0';
  cr_assert(txb_saga_condition_check(text, NULL, NULL, &err) == TXB_OK, "%s: %s", text, err.message);
  cr_assert(txb_saga_condition_holds(text, context, &holds, &err) == TXB_OK, "%s: %s", text, err.message);
  cr_assert_eq(holds, wanted, "%s", text);
}

Test(saga_expression, numbers_and_texts_are_compared) {
  decides("input.n == 3", true);
  decides("input.n==3.0", true);
  decides("input.n != 3", false);
  decides("input.n < 3", false);
  decides("input.n <= 3", true);
  decides("input.n > -1", true);
  decides("input.n >= 3.5", false);
  decides("3 < input.n", false);
  decides("input.text == 'ab'", true);
  decides("input.text < 'abc'", true);
  decides("input.text >= 'b'", false);
  decides("input.text == 'it''s'", false);
  decides("'it''s' == 'it''s'", true);
  decides("input.n == 'ab'", false);
  decides("input.yes == true and input.no == false", true);
  decides("input.nil == null", true);
  decides("input.list == input.list", true);
  decides("input.list[1].x == 'deep'", true);
}

Test(saga_expression, large_whole_numbers_keep_their_digits) {
  decides("input.big == 9007199254740993", true);
  decides("input.big == 9007199254740992", false);
  decides("input.big > 9007199254740992.0", true);
}

Test(saga_expression, a_path_alone_holds_when_it_is_there) {
  decides("input.n", true);
  decides("input.text", true);
  decides("input.yes", true);
  decides("input.no", false);
  decides("input.nil", false);
  decides("input.none", false);
  decides("input.none?", false);
  decides("not input.none", true);
  decides("true", true);
  decides("false", false);
}

Test(saga_expression, and_binds_closer_than_or_and_not_closest) {
  decides("true or false and false", true);
  decides("(true or false) and false", false);
  decides("not false and false", false);
  decides("not (false and false)", true);
  decides("not not true", true);
  decides("false or false or input.n == 3", true);
  decides("not input.n == 4", true);
}

Test(saga_expression, what_decides_already_leaves_the_rest_unread) {
  decides("input.none and input.none == 1", false);
  decides("true or input.none == 1", true);
  decides("false and (input.none > 1 or input.list < 1)", false);
  bool holds;
  cr_assert(txb_saga_condition_holds("true and input.none == 1", context, &holds, &err) == TXB_REFUSED);
}

Test(saga_expression, absent_values_are_errors_or_null) {
  bool holds = true;
  cr_assert(txb_saga_condition_holds("input.none == 1", context, &holds, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "input.none is absent") != NULL && holds);
  decides("input.none? == null", true);
  decides("input.none? == 1", false);
  decides("input.none? < 1", false);
  decides("1 > input.none?", false);
  decides("input.nil <= null", false);
}

Test(saga_expression, what_has_no_order_is_an_error) {
  bool holds;
  cr_assert(txb_saga_condition_holds("input.n < 'a'", context, &holds, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "a number and a string have no order") != NULL, "%s", err.message);
  cr_assert(txb_saga_condition_holds("input.list < 1", context, &holds, &err) == TXB_REFUSED);
  cr_assert(txb_saga_condition_holds("input.yes > false", context, &holds, &err) == TXB_REFUSED);
}

static void is_no_condition(const char *text, const char *message) {
  cr_assert(txb_saga_condition_check(text, NULL, NULL, &err) == TXB_REFUSED, "%s is accepted", text);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
}

Test(saga_expression, what_is_no_condition_is_refused_with_the_place) {
  is_no_condition("", "at its end: a path, a number");
  is_no_condition("input.n =", "at \"=\": and, or or the end is wanted");
  is_no_condition("input.n == ", "at its end: a path, a number");
  is_no_condition("input.n = 3", "at \"= 3\": and, or or the end is wanted");
  is_no_condition("input.n == 3 4", "at \"4\": and, or or the end");
  is_no_condition("input.n 3", "and, or or the end");
  is_no_condition("1 < 2 < 3", "at \"< 3\": and, or or the end");
  is_no_condition("5", "one of == != < <= > >= is wanted behind a value");
  is_no_condition("null", "one of ==");
  is_no_condition("'a' or true", "at \"or true\": one of ==");
  is_no_condition("(input.n", "at its end: a ')' is wanted");
  is_no_condition("input.n)", "at \")\": and, or or the end");
  is_no_condition("android", "a path begins with input");
  is_no_condition("trueish", "a path begins with input");
  is_no_condition("input. == 1", "a field's name must follow");
  is_no_condition("1x == 1", "this is no number");
  is_no_condition("1e999 == 1", "this is no number, or too large a one");
  is_no_condition("99999999999999999999 == 1", "or too large a one");
  is_no_condition("input.t == 'a", "the text has no closing quote");
  is_no_condition("input.t == \"a\"", "a 'text'");
  is_no_condition("true && true", "at \"&& true\"");
  is_no_condition("not", "at its end");
}

Test(saga_expression, a_condition_is_neither_too_long_nor_too_deep) {
  char text[TXB_SAGA_CONDITION_SIZE_MAX + 10];
  memset(text, ' ', sizeof text);
  memcpy(text, "true", 4);
  text[TXB_SAGA_CONDITION_SIZE_MAX] = '\0';
  cr_assert(txb_saga_condition_check(text, NULL, NULL, &err) == TXB_OK);
  text[TXB_SAGA_CONDITION_SIZE_MAX] = ' ';
  text[TXB_SAGA_CONDITION_SIZE_MAX + 1] = '\0';
  is_no_condition(text, "at most 4000 bytes");
  memset(text, '(', 33);
  text[33] = '\0';
  is_no_condition(text, "more than 32 parentheses");
  memset(text, '\'', TXB_SAGA_CONDITION_SIZE_MAX);
  text[TXB_SAGA_CONDITION_SIZE_MAX] = '\0';
  is_no_condition(text, "one of ==");
}
