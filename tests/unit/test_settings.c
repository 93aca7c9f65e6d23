/* Settings: precedence, limits, and messages that name the place, the key and the nearest one. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "common/settings.h"
#include "consumer/worker.h"
#include "outbox/relay.h"

static struct txb_settings s;
static struct txb_error err;

static void setup(void) {
  cr_assert(txb_settings_init(&s, &err) == TXB_OK);
}

static void teardown(void) {
  txb_settings_fini(&s);
}

TestSuite(settings, .init = setup, .fini = teardown);

static enum txb_rc load(const char *json) {
  return txb_settings_load_json(&s, "t.json", json, strlen(json), &err);
}

static void refuses(const char *json, const char *message) {
  err.message[0] = '\0';
  cr_assert(load(json) == TXB_REFUSED, "accepted: %s", json);
  cr_assert(err.origin == TXB_ORIGIN_USAGE);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
}

static void refuses_flag(const char *flag, const char *message) {
  cr_assert(txb_settings_load_flag(&s, flag, &err) == TXB_REFUSED, "accepted: %s", flag);
  cr_assert(err.origin == TXB_ORIGIN_USAGE);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
}

static const char whole[] =
    "{\"sources\": [{\"name\": \"a\", \"database\": \"postgresql:///a\"}],\n"
    " \"kafka\": {\"brokers\": \"h:1\", \"client\": {\"linger.ms\": 2}},\n"
    " \"relay\": {\"lease_ms\": 4000, \"wait_flush\": true},\n"
    " \"workers\": [{\"group\": \"g\", \"topics\": [\"x\", \"y\"], \"database\": \"postgresql:///b\",\n"
    "   \"handler\": {\"function\": \"f.g\", \"per\": \"batch\"}, \"retry\": {\"first_ms\": 7}}]}";

Test(settings, a_file_fills_sections_lists_and_nested_objects) {
  cr_assert(load(whole) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_finish(&s, &err) == TXB_OK, "%s", err.message);
  cr_assert(s.relay.lease_ms == 4000 && s.relay.wait_flush && s.relay.checkpoint_ms == 100);
  cr_assert(s.sources.count == 1 && strcmp(txb_settings_source(&s, 0)->lane, "auto") == 0);
  const struct txb_group_settings *g = txb_settings_group(&s, 0);
  cr_assert(g->topics.count == 2 && strcmp(g->topics.items[1], "y") == 0 && g->topics.items[2] == NULL);
  cr_assert(strcmp(g->handler_per, "batch") == 0 && g->retry_first_ms == 7 && g->retry_cap_ms == 60000);
  cr_assert(s.kafka.client.count == 2 && strcmp(s.kafka.client.items[1], "2") == 0);
}

Test(settings, flags_beat_environment_which_beats_the_file) {
  const char *const environment[] = {"TXB_RELAY_LEASE_MS=5000", "TXB_RELAY_CHECKPOINT_MS=50",
                                     "TXB_WORKERS_G_START=latest", "HOME=/x", NULL};
  cr_assert(load(whole) == TXB_OK);
  cr_assert(txb_settings_load_environment(&s, environment, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_load_flag(&s, "relay.lease_ms=6000", &err) == TXB_OK);
  cr_assert(s.relay.lease_ms == 6000 && s.relay.checkpoint_ms == 50);
  cr_assert(strcmp(txb_settings_group(&s, 0)->start, "latest") == 0);
  cr_assert(txb_settings_finish(&s, &err) == TXB_OK);
}

Test(settings, a_flag_makes_the_entry_of_a_list) {
  cr_assert(txb_settings_load_flag(&s, "workers.my.group.topics=a, b", &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_load_flag(&s, "workers.my.group.retry.first_ms=3", &err) == TXB_OK);
  cr_assert(txb_settings_load_flag(&s, "kafka.client.linger.ms=9", &err) == TXB_OK);
  cr_assert(s.workers.count == 1 && strcmp(txb_settings_group(&s, 0)->group, "my.group") == 0);
  cr_assert(txb_settings_group(&s, 0)->topics.count == 2 && txb_settings_group(&s, 0)->retry_first_ms == 3);
  cr_assert(strcmp(s.kafka.client.items[0], "linger.ms") == 0 && strcmp(s.kafka.client.items[1], "9") == 0);
}

Test(settings, unknown_keys_name_the_line_and_the_nearest) {
  refuses("{\n\"relay\": {\n\n\"lease_sm\": 1}}",
          "t.json:4: relay.lease_sm: relay has no key \"lease_sm\"; did you mean relay.lease_ms?");
  refuses("{\"wrokers\": []}", "t.json:1: wrokers: there is no section \"wrokers\"; did you mean \"workers\"?");
  refuses("{\"workers\": [{\"hanlder\": {}}]}", "did you mean workers.NAME.handler?");
  refuses("{\"workers\": [{},\n {\"handler\": {\n\"knd\": \"sql\"}}]}", "t.json:3: workers[1].handler.knd");
  refuses_flag("relay.lease_sm=1", "did you mean relay.lease_ms?");
  refuses_flag("rely.lease_ms=1", "did you mean \"relay\"?");
  refuses_flag("workers.g.topcis=x", "did you mean workers.NAME.topics?");
  refuses_flag("lease_ms=1", "SECTION.KEY=VALUE");
}

Test(settings, values_are_held_to_their_kind_and_limits) {
  refuses("{\"relay\": {\"lease_ms\": \"soon\"}}", "relay.lease_ms: must be a whole number, not a string");
  refuses("{\"relay\": {\"lease_ms\": 1}}", "\"1\" is not a whole number from 1000 to 600000 (milliseconds)");
  refuses("{\"relay\": {\"wait_flush\": 1}}", "must be true or false");
  refuses("{\"relay\": []}", "relay: must be an object, not an array");
  refuses("{\"workers\": {}}", "must be an array of objects");
  refuses("{\"workers\": [{\"topics\": \"x\"}]}", "must be an array of strings");
  refuses("{\"workers\": [{\"topics\": [\"a b\"]}]}", "\"a b\" may hold only");
  refuses("{\"workers\": [{\"start\": \"earlyest\"}]}", "\"earlyest\" is not one of earliest|latest|error");
  refuses("{\"kafka\": {\"client\": {\"linger.ms\": null}}}", "kafka.client: linger.ms");
  refuses_flag("relay.lease_ms=", "is not a whole number");
  refuses_flag("relay.lease_ms=99999999999999999999", "is not a whole number");
  refuses_flag("relay.wait_flush=maybe", "neither true nor false");
}

Test(settings, what_is_not_json_names_line_and_column_and_shows_nothing_of_it) {
  refuses("{\n \"sources\": [{\"database\": \"postgresql://u:geheim@h/x\" geheim", "t.json:2:");
  cr_assert(strstr(err.message, "geheim") == NULL, "%s", err.message);
  refuses("{\"relay\": {}, \"relay\": {}}", "not valid JSON: duplicate");
}

Test(settings, what_is_missing_or_does_not_fit_shows_at_the_end) {
  cr_assert(load("{\"sources\": [{\"name\": \"a\"}]}") == TXB_OK);
  cr_assert(txb_settings_finish(&s, &err) == TXB_REFUSED);
  cr_assert_str_eq(err.message, "t.json:1: sources[0]: database is missing for name a; set sources.a.database");
}

Test(settings, two_entries_of_one_name_are_refused) {
  cr_assert(load("{\"sources\": [{\"name\": \"a\", \"database\": \"x\"},\n {\"name\": \"a\", \"database\": \"y\"}]}") ==
            TXB_OK);
  cr_assert(txb_settings_finish(&s, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "t.json:2: sources[1]: there is already one with name a") != NULL, "%s", err.message);
}

Test(settings, a_mistyped_variable_is_refused_and_a_stranger_s_is_not) {
  const char *const mistyped[] = {"TXB_RELAY_LEASEMS=1", NULL}, *const strange[] = {"TXB_KAFKA_SERVICE_HOST=1",
                                                                                    "TXB_CONFIG=x", "TXBX=1", NULL};
  cr_assert(txb_settings_load_environment(&s, strange, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_load_environment(&s, mistyped, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "TXB_RELAY_LEASEMS is not a setting; did you mean TXB_RELAY_LEASE_MS?") != NULL, "%s",
            err.message);
}

static void shows(const char *uri, const char *expected) {
  struct txb_buffer b;
  txb_buffer_init(&b);
  txb_settings_mask_uri(uri, &b);
  cr_assert_str_eq(txb_buffer_text(&b), expected);
  txb_buffer_fini(&b);
}

Test(settings, passwords_are_masked_wherever_they_stand) {
  shows("postgresql:///bank", "postgresql:///bank");
  shows("postgresql://u@h/bank", "postgresql://u@h/bank");
  shows("postgresql://u:pw@h:1/bank?x=1", "postgresql://u:***@h:1/bank?x=1");
  shows("postgresql://u:p@w/x@h/bank", "postgresql://u:***@h/bank");
  shows("postgres://h/bank?password=pw&sslpassword=pw2&x=1", "postgres://h/bank?password=***&sslpassword=***&x=1");
  shows("postgres://h/bank?p%61ssword=pw", "postgres://h/bank?p%61ssword=***");
  shows("host=h dbname=x", "host=h dbname=x");
  shows("host=h password = 'p w'", "***");
}

Test(settings, secret_client_options_are_masked_but_references_are_not) {
  struct txb_buffer b;
  txb_buffer_init(&b);
  cr_assert(txb_settings_load_flag(&s, "kafka.client.sasl.password=pw", &err) == TXB_OK);
  cr_assert(txb_settings_load_flag(&s, "kafka.client.ssl.key.password=env:KEYPW", &err) == TXB_OK);
  txb_settings_print_json(&s, &b);
  cr_assert(strstr(txb_buffer_text(&b), "\"sasl.password\": \"***\"") != NULL);
  cr_assert(strstr(txb_buffer_text(&b), "\"ssl.key.password\": \"env:KEYPW\"") != NULL);
  txb_buffer_fini(&b);
}

Test(settings, what_is_printed_can_be_loaded_again) {
  struct txb_buffer printed, again;
  struct txb_settings copy;
  txb_buffer_init(&printed);
  txb_buffer_init(&again);
  cr_assert(load(whole) == TXB_OK);
  txb_settings_print_json(&s, &printed);
  cr_assert(txb_settings_init(&copy, &err) == TXB_OK);
  cr_assert(txb_settings_load_json(&copy, "p", printed.data, printed.size, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_finish(&copy, &err) == TXB_OK, "%s", err.message);
  txb_settings_print_json(&copy, &again);
  cr_assert_str_eq(txb_buffer_text(&printed), txb_buffer_text(&again));
  txb_settings_fini(&copy);
  txb_buffer_clear(&printed);
  txb_settings_print_sample(&printed);
  cr_assert(txb_settings_init(&copy, &err) == TXB_OK);
  cr_assert(txb_settings_load_json(&copy, "sample", printed.data, printed.size, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_finish(&copy, &err) == TXB_OK, "%s", err.message);
  txb_settings_fini(&copy);
  txb_buffer_fini(&printed);
  txb_buffer_fini(&again);
}

Test(settings, the_reference_holds_every_key_and_its_variable) {
  struct txb_buffer b, name;
  txb_buffer_init(&b);
  txb_buffer_init(&name);
  txb_settings_print_reference(&b);
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++)
    for (size_t i = 0; i < section->count; i++) {
      cr_assert(strlen(section->settings[i].help) > 10 && section->settings[i].key != NULL);
      txb_buffer_clear(&name);
      txb_buffer_addf(&name, "| `%s` |", section->settings[i].key);
      cr_assert(strstr(txb_buffer_text(&b), txb_buffer_text(&name)) != NULL, "%s", txb_buffer_text(&name));
    }
  cr_assert(strstr(txb_buffer_text(&b), "`TXB_WORKERS_NAME_RETRY_FIRST_MS`") != NULL);
  txb_buffer_fini(&b);
  txb_buffer_fini(&name);
}

/* The library has defaults of its own for those who bring no settings: they must be the same. */
Test(settings, defaults_are_those_of_relay_and_worker) {
  struct txb_relay_options r;
  struct txb_worker_settings w;
  txb_relay_options_init(&r);
  txb_worker_settings_init(&w);
  cr_assert(txb_settings_load_flag(&s, "workers.g.start=earliest", &err) == TXB_OK);
  const struct txb_group_settings *g = txb_settings_group(&s, 0);
  cr_assert(r.read_rows == s.relay.read_rows && r.read_bytes == s.relay.read_bytes);
  cr_assert(r.inflight_rows == s.relay.inflight_rows && r.inflight_bytes == s.relay.inflight_bytes);
  cr_assert(r.lease_ms == s.relay.lease_ms && r.checkpoint_ms == s.relay.checkpoint_ms);
  cr_assert(r.poll_busy_us == s.relay.poll_busy_us && r.poll_idle_ms == s.relay.poll_idle_ms &&
            r.wait_flush == s.relay.wait_flush);
  cr_assert(r.partition_rows == s.relay.partition_rows && r.partitions_ahead == s.relay.partitions_ahead &&
            r.retention_ms == s.relay.retention_ms && r.failed_keep_ms == s.relay.failed_keep_ms);
  cr_assert(r.retry_first_ms == s.retry.first_ms && r.retry_cap_ms == s.retry.cap_ms);
  cr_assert(w.batch_messages == g->batch_messages && w.batch_bytes == g->batch_bytes &&
            w.batch_wait_ms == g->batch_wait_ms);
  cr_assert(w.session_timeout_ms == g->session_timeout_ms && w.inbox_keep_ms == g->inbox_keep_ms &&
            w.failed_keep_ms == g->failed_keep_ms && w.saga_keep_ms == g->saga_keep_ms);
  cr_assert(w.retry_first_ms == g->retry_first_ms && w.retry_cap_ms == g->retry_cap_ms);
}

Test(settings, running_out_of_memory_anywhere_is_an_error_and_loses_nothing) {
  for (uint64_t nth = 1; nth < 2000; nth++) {
    struct txb_settings one;
    txb_alloc_fail_at(nth);
    enum txb_rc rc = txb_settings_init(&one, &err);
    if (rc == TXB_OK)
      rc = txb_settings_load_json(&one, "t.json", whole, sizeof(whole) - 1, &err);
    if (rc == TXB_OK)
      rc = txb_settings_load_flag(&one, "workers.h.topics=a", &err);
    txb_alloc_fail_at(0);
    txb_settings_fini(&one);
    if (rc == TXB_OK) {
      cr_assert(nth > 20);
      return;
    }
    cr_assert(rc == TXB_FATAL, "%lu: %s", (unsigned long)nth, err.message);
  }
  cr_assert_fail("never got through");
}

/* What follows a comma may be the rest of a password. */
Test(settings, shows_nothing_of_a_secret_with_a_comma) {
  static const char *const flags[] = {"kafka.client=sasl.password=hunter2,topsecret",
                                      "kafka.client=sasl.password=hunter2,top=secret"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(flags); i++) {
    refuses_flag(flags[i], "part 2");
    cr_assert(strstr(err.message, "secret") == NULL && strstr(err.message, "top") == NULL, "%s", err.message);
  }
}

Test(settings, names_fit_where_they_are_stored) {
  char json[600], name[300];
  memset(name, 'n', sizeof name);
  name[101] = '\0';
  snprintf(json, sizeof json, "{\"sources\": [{\"name\": \"%s\", \"database\": \"postgresql:///x\"}]}", name);
  refuses(json, "100");
  refuses("{\"workers\": [{\"group\": \"g\", \"topics\": [\"..\"], \"database\": \"postgresql:///x\"}]}", "topics");
}

Test(settings, a_dead_letter_topic_is_none_of_the_groups_own) {
  static const char json[] = "{\"workers\": [{\"group\": \"g\", \"topics\": [\"x\", \"y\"], \"database\": "
                             "\"postgresql:///b\", \"handler\": {\"function\": \"f\"}}]}";
  cr_assert(load(json) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_group(&s, 0)->retry_dead_letter_topic == NULL);
  cr_assert(txb_settings_load_flag(&s, "workers.g.retry.dead_letter_topic=x.dead", &err) == TXB_OK);
  cr_assert(txb_settings_finish(&s, &err) == TXB_OK, "%s", err.message);
  cr_assert_str_eq(txb_settings_group(&s, 0)->retry_dead_letter_topic, "x.dead");
  refuses_flag("workers.g.retry.dead_letter_topic=a b", "may hold only");
  cr_assert(txb_settings_load_flag(&s, "workers.g.retry.dead_letter_topic=y", &err) == TXB_OK);
  cr_assert(txb_settings_finish(&s, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "retry.dead_letter_topic of group g is y, one of its own topics") != NULL, "%s",
            err.message);
}

Test(settings, what_can_never_work_is_refused_before_anything_is_connected) {
  static const char *const wrong[] = {":::", "host:99999", "host:0", "http://x:9092", "x:9092,,y", "x:9092,",
                                      "",    " ",          "a b:1",  "[::1",          "[::1]x",    "x:"};
  static const char *const right[] = {"h", "h:1", "a:1,b:2", "a:1, b:2", "[::1]:9092", "SASL_SSL://h:65535"};
  char flag[100];
  for (size_t i = 0; i < TXB_ARRAY_SIZE(wrong); i++) {
    snprintf(flag, sizeof(flag), "kafka.brokers=%s", wrong[i]);
    refuses_flag(flag, "must be HOST:PORT");
  }
  for (size_t i = 0; i < TXB_ARRAY_SIZE(right); i++) {
    snprintf(flag, sizeof(flag), "kafka.brokers=%s", right[i]);
    cr_assert(txb_settings_load_flag(&s, flag, &err) == TXB_OK, "%s: %s", right[i], err.message);
  }
  refuses_flag("kafka.brokers=user:s3cret@h:1", "must be HOST:PORT");
  cr_assert(strstr(err.message, "s3cret") == NULL);
  cr_assert(txb_settings_load_flag(&s, "sources.a.database=password=s3cret x=1", &err) == TXB_OK);
  cr_assert(txb_settings_finish(&s, &err) == TXB_REFUSED && err.origin == TXB_ORIGIN_USAGE);
  cr_assert(strstr(err.message, "database of source a: --set sources.a.database: malformed") == err.message, "%s",
            err.message);
  cr_assert(strstr(err.message, "s3cret") == NULL);
}

Test(settings, a_variable_of_an_entry_that_is_not_there_is_refused) {
  const char *const none[] = {"TXB_WORKERS_X_START=latest", NULL};
  const char *const others[] = {"TXB_WORKERS_G_START=latest", "TXB_SOURCES_A_DATABASE=postgresql:///a",
                                "TXB_WORKERS_SERVICE_HOST=10.0.0.1", "TXB_PASSWORD=x", NULL};
  const char *const longer[] = {"TXB_WORKERS_G_B_START=latest", NULL};
  cr_assert(load(whole) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_check_environment(&s, others, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_settings_check_environment(&s, none, &err) == TXB_REFUSED);
  cr_assert(strstr(err.message, "TXB_WORKERS_X_START") != NULL, "%s", err.message);
  cr_assert(txb_settings_check_environment(&s, longer, &err) == TXB_REFUSED);
}

Test(settings, messages_say_what_was_written_and_what_was_meant) {
  refuses("{\"relay\": {\"lease_ms\": 5000.5}}", "must be a whole number, not 5000.5");
  refuses("{\"relay\": {\"owner\": \"a\\u0000\"}}", "\\u0000 is not allowed");
  cr_assert(strstr(err.message, "JSON_ALLOW_NUL") == NULL);
  refuses_flag("relay.lease=1", "did you mean relay.lease_ms?");
}
