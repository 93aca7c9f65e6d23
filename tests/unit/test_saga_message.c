/* What messages in the coordinator's topic say, and what is none. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/coordinator/coordinator_internal.h"

#define ID      "01890000-0000-7000-8000-00000000000a"
#define HEADERS "{\"txb-saga\":\"" ID "\",\"txb-saga-started\":\"1700000000000001\"}"

static struct txb_saga_message m;
static struct txb_error err;

static void teardown(void) {
  txb_saga_message_fini(&m);
}

TestSuite(saga_message, .fini = teardown);

static enum txb_rc read_with_key(const char *key, const char *type, const char *headers, struct txb_slice payload) {
  const struct txb_engine_message message = {
      .key = txb_slice_text(key), .type = txb_slice_text(type), .headers = txb_slice_text(headers), .payload = payload};
  txb_saga_message_fini(&m);
  return txb_saga_message_read(&message, &m, &err);
}

static void is(enum txb_saga_message_kind kind, const char *type, const char *payload) {
  cr_assert(read_with_key(ID, type, HEADERS, txb_slice_text(payload)) == TXB_OK);
  cr_assert(m.kind == kind && m.problem == NULL, "%s", m.problem);
  cr_assert(m.started_us == 1700000000000001 && m.saga.bytes[15] == 10);
}

static void is_stray(const char *type, const char *headers, const char *payload, const char *why) {
  cr_assert(read_with_key(ID, type, headers, txb_slice_text(payload)) == TXB_OK);
  cr_assert(m.kind == TXB_SAGA_MESSAGE_STRAY && m.problem != NULL && !m.from_elsewhere);
  cr_assert(strstr(m.problem, why) != NULL, "\"%s\" does not hold \"%s\"", m.problem, why);
}

Test(saga_message, each_type_is_known) {
  is(TXB_SAGA_MESSAGE_START, "txb.saga.start", "{}");
  cr_assert_not(m.from_elsewhere);
  is(TXB_SAGA_MESSAGE_START, "txb.saga.start", "{\"name\":\"trip\"}");
  cr_assert(m.from_elsewhere);
  is(TXB_SAGA_MESSAGE_ANSWER, "txb.reply", "{\"answer\":\"ok\",\"output\":[1]}");
  cr_assert_str_eq(txb_saga_message_text(m.body, "answer"), "ok");
  cr_assert_null(txb_saga_message_text(m.body, "output"));
  cr_assert_null(txb_saga_message_text(m.body, "reason"));
  cr_assert_not(m.from_elsewhere);
  is(TXB_SAGA_MESSAGE_TIMER, "txb.saga.timer", "{\"due_us\":1700000000000002}");
  is(TXB_SAGA_MESSAGE_DECISION, "txb.saga.decision", "{\"decision\":\"retry\"}");
  is(TXB_SAGA_MESSAGE_WAKE, "txb.saga.wake", "{}");
}

#define STARTED "1700000000000001"
#define PARENT(operation, started)                                                                                     \
  "{\"name\":\"b\",\"version\":2,\"parent\":{\"saga\":\"" ID "\",\"started\":" started ",\"step\":\"stay\","           \
  "\"operation\":\"" operation "\",\"sending\":3,\"root\":\"" ID "\"}}"

Test(saga_message, the_saga_that_it_is_a_step_of_is_read) {
  is(TXB_SAGA_MESSAGE_START, "txb.saga.start", PARENT("action", STARTED));
  cr_assert(m.from_elsewhere && m.has_parent && m.parent.sending == 3 && m.parent.started_us == m.started_us);
  cr_assert_str_eq(m.parent.step, "stay");
  is(TXB_SAGA_MESSAGE_START, "txb.saga.start", PARENT("forward", STARTED));
  cr_assert(m.has_parent && m.parent.operation == TXB_SAGA_OPERATION_FORWARD);
  is(TXB_SAGA_MESSAGE_SETTLE, "txb.saga.settle", PARENT("resolve", STARTED));
  cr_assert(m.from_elsewhere && m.has_parent);
  is(TXB_SAGA_MESSAGE_UNDO, "txb.saga.undo", PARENT("compensation", STARTED));
  cr_assert(m.from_elsewhere && m.has_parent);
  is(TXB_SAGA_MESSAGE_START, "txb.saga.start", "{\"name\":\"b\",\"parent\":null}");
  cr_assert(m.from_elsewhere && !m.has_parent);
}

Test(saga_message, a_parent_that_can_t_be_or_is_missing_makes_a_stray) {
  static const char cant[] = "what it says of the saga that it is a step of can't be read";
  is_stray("txb.saga.settle", HEADERS, "{}", cant);
  is_stray("txb.saga.undo", HEADERS, "{\"name\":\"b\",\"version\":1}", cant);
  is_stray("txb.saga.start", HEADERS, "{\"name\":\"b\",\"version\":1,\"parent\":7}", cant);
  is_stray("txb.saga.start", HEADERS, PARENT("action", "5"), cant);
  is_stray("txb.saga.start", HEADERS, PARENT("resolve", STARTED), "its type is not that of the operation");
  is_stray("txb.saga.settle", HEADERS, PARENT("compensation", STARTED), "its type is not that of the operation");
  is_stray("txb.saga.undo", HEADERS, PARENT("action", STARTED), "its type is not that of the operation");
  static const char *const without[] = {"\"version\":2", "\"version\":0", "\"version\":\"2\"",
                                        "\"name\":7,\"version\":2"};
  for (size_t n = 0; n < sizeof without / sizeof without[0]; n++) {
    char payload[400];
    snprintf(payload, sizeof payload, "{%s,%s", without[n], strstr(PARENT("action", STARTED), "\"parent\""));
    is_stray("txb.saga.start", HEADERS, payload, "without name and version");
  }
  cr_assert_not(m.has_parent);
}

Test(saga_message, what_is_missing_or_wrong_makes_a_stray_that_says_so) {
  is_stray("txb.saga.stop", HEADERS, "{}", "its type is none that a coordinator knows");
  is_stray(NULL, HEADERS, "{}", "its type is none");
  is_stray("txb.reply", "{}", "{\"answer\":\"ok\"}", "it names no saga");
  is_stray("txb.reply", NULL, "{\"answer\":\"ok\"}", "it names no saga");
  is_stray("txb.reply", "[1]", "{\"answer\":\"ok\"}", "it names no saga");
  is_stray("txb.reply", "{\"txb-saga\":7}", "{\"answer\":\"ok\"}", "it names no saga");
  is_stray("txb.reply", "{\"txb-saga\":\"x\"}", "{\"answer\":\"ok\"}", "it names no saga");
  is_stray("txb.reply", "{\"txb-saga\":\"" ID "\"}", "{\"answer\":\"ok\"}", "txb-saga-started is missing");
  static const char *const times[] = {
      "\"\"", "\"-1\"", "\"1.5\"", "\" 1\"", "1700000000000001", "null", "\"1234567890123456789\""};
  for (size_t n = 0; n < sizeof times / sizeof times[0]; n++) {
    char headers[200];
    snprintf(headers, sizeof headers, "{\"txb-saga\":\"" ID "\",\"txb-saga-started\":%s}", times[n]);
    is_stray("txb.reply", headers, "{\"answer\":\"ok\"}", "txb-saga-started is missing, or no number");
  }
  is_stray("txb.reply", HEADERS, "{}", "an answer without an answer");
  is_stray("txb.reply", HEADERS, "{\"answer\":[\"ok\"]}", "an answer without an answer");
  is_stray("txb.saga.timer", HEADERS, "{\"due_us\":\"7\"}", "a timer without a time");
  is_stray("txb.saga.timer", HEADERS, "{\"due_us\":1.5}", "a timer without a time");
  is_stray("txb.saga.decision", HEADERS, "{\"step\":\"x\"}", "a decision without a decision");
}

Test(saga_message, a_key_that_is_not_the_sagas_is_not_trusted) {
  static const char upper[] = "01890000-0000-7000-8000-00000000000A";
  static const char longer[] = ID " ";
  static const char headers[] = "{\"txb-saga\":\"01890000-0000-7000-8000-00000000000A\",\"txb-saga-started\":\"1\"}";
  const char *const keys[] = {NULL, "", "x", longer, upper};
  for (size_t n = 0; n < sizeof keys / sizeof keys[0]; n++) {
    cr_assert(read_with_key(keys[n], "txb.saga.start", headers, txb_slice_text("{}")) == TXB_OK);
    cr_assert(m.kind == TXB_SAGA_MESSAGE_STRAY && strstr(m.problem, "its key is not the saga's id") != NULL);
  }
  cr_assert(read_with_key(ID, "txb.saga.start", headers, txb_slice_text("{}")) == TXB_OK);
  cr_assert_eq(m.kind, TXB_SAGA_MESSAGE_START);
}

Test(saga_message, hostile_payloads_are_strays) {
  static char deep[200001];
  static const char none[] = "its payload is no JSON object";
  static const char *const texts[] = {NULL,
                                      "",
                                      "null",
                                      "[]",
                                      "7",
                                      "{",
                                      "{\"a\":1",
                                      "{}{}",
                                      "{\"answer\"}",
                                      "\xff",
                                      "{\"answer\":\"\xc3\"}",
                                      "{\"answer\":\"ok\\u0000\"}",
                                      "{\"answer\":\"\\ud800\"}",
                                      "{\"a\":nan}",
                                      "{'answer':1}"};
  for (size_t n = 0; n < sizeof texts / sizeof texts[0]; n++)
    is_stray("txb.reply", HEADERS, texts[n], none);
  memset(deep, '[', sizeof deep - 1);
  memcpy(deep, "{\"a\":", 5);
  is_stray("txb.reply", HEADERS, deep, none);
  cr_assert(read_with_key(ID, "txb.reply", HEADERS, txb_slice_of("{}\0{}", 5)) == TXB_OK);
  cr_assert_str_eq(m.problem, none);
  is_stray("txb.reply", HEADERS, "{\"answer\":\"ok\",\"output\":12345678901234567890}",
           "its payload has a number that does not fit into 64 bits");
  is_stray("txb.reply", HEADERS, "{\"answer\":\"ok\",\"output\":1e999}", "that does not fit into 64 bits");
}

static int allocations_left;

static void *scarce(size_t size) {
  return allocations_left-- > 0 ? malloc(size) : NULL;
}

Test(saga_message, a_lack_of_memory_is_an_error_and_leaks_nothing) {
  bool over = false;
  int fatal = 0;
  for (int allowed = 0; !over && allowed < 1000; allowed++) {
    allocations_left = allowed;
    json_set_alloc_funcs(scarce, free);
    enum txb_rc rc =
        read_with_key(ID, "txb.reply", HEADERS, txb_slice_text("{\"answer\":\"ok\",\"output\":{\"a\":[1]}}"));
    json_set_alloc_funcs(malloc, free);
    over = allocations_left >= 0;
    cr_assert(rc == TXB_OK || (rc == TXB_FATAL && m.headers == NULL && m.body == NULL));
    fatal += rc == TXB_FATAL;
    txb_saga_message_fini(&m);
  }
  cr_assert(over && fatal > 5);
}
