/* What `replay start` was asked for, as far as the command line and the configuration tell; and how far a job has come. */
#include <criterion/criterion.h>
#include <string.h>

#include "broker/cli/replay.h"

static struct txb_cli cli;
static struct txb_replay_wish wish;
static struct txb_error err;
static const char configuration[] =
    "{\"sources\": [{\"name\": \"shop\", \"database\": \"postgresql:///shop\"}],"
    " \"workers\": [{\"group\": \"ledger\", \"topics\": [\"orders\", \"payments\"], \"database\": "
    "\"postgresql:///ledger\", \"handler\": {\"function\": \"f\"}}]}";

static void setup(void) {
  cr_assert(txb_settings_init(&cli.settings, &err) == TXB_OK);
}

static void teardown(void) {
  txb_replay_wish_fini(&wish);
  txb_args_fini(&cli.args);
  txb_settings_fini(&cli.settings);
}

TestSuite(replay_wish, .init = setup, .fini = teardown);

#define READ(...)                                                                                                      \
  wish_of((const char *const[]){"txbroker", __VA_ARGS__},                                                              \
          sizeof((const char *const[]){"txbroker", __VA_ARGS__}) / sizeof(char *))

static enum txb_rc wish_of(const char *const *words, size_t count) {
  char *argv[20];
  for (size_t i = 0; i < count; i++)
    argv[i] = (char *)(uintptr_t)words[i];
  txb_replay_wish_fini(&wish);
  txb_args_fini(&cli.args);
  cr_assert(txb_args_parse(&cli.args, (int)count, argv, &err) == TXB_OK, "%s", err.message);
  cr_assert(txb_cli_apply_database(&cli, &err) == TXB_OK, "%s", err.message);
  return txb_replay_wish_read(&cli, &wish, &err);
}

static void configure(const char *json) {
  cr_assert(txb_settings_load_json(&cli.settings, "test.json", json, strlen(json), &err) == TXB_OK, "%s", err.message);
}

static void refused_with(enum txb_rc rc, const char *message) {
  cr_assert(rc == TXB_REFUSED && err.origin == TXB_ORIGIN_USAGE);
  cr_assert(strstr(err.message, message) != NULL, "\"%s\" does not hold \"%s\"", err.message, message);
}

Test(replay_wish, topics_source_and_databases_come_from_the_configuration) {
  configure(configuration);
  cr_assert(READ("replay", "start", "--group", "ledger") == TXB_OK, "%s", err.message);
  cr_assert_str_eq(wish.consumer_uri, "postgresql:///ledger");
  cr_assert_str_eq(wish.source, "shop");
  cr_assert_str_eq(wish.source_uri, "postgresql:///shop");
  cr_assert(wish.topic_count == 2 && strcmp(wish.topics[1], "payments") == 0);
  cr_assert(wish.from.seq == 0 && !wish.from.is_time && wish.to.seq == 0 && !wish.to.is_time && wish.rate_max == 0);
  cr_assert(!wish.dry_run && !wish.yes && !wish.forced && !wish.then_live);
}

Test(replay_wish, a_topic_that_is_named_twice_is_one) {
  configure(configuration);
  cr_assert(READ("replay", "start", "-g", "ledger", "-t", "orders", "--topic=orders") == TXB_OK &&
            wish.topic_count == 1);
}

Test(replay_wish, bounds_are_numbers_words_or_times) {
  configure(configuration);
  cr_assert(READ("replay", "plan", "-g", "ledger", "--from", "17", "--to", "now") == TXB_OK);
  cr_assert(wish.dry_run && wish.from.seq == 17 && !wish.from.is_time && wish.to.seq == 0 && !wish.to.is_time);
  cr_assert(READ("replay", "plan", "-g", "ledger", "--from", "beginning", "--to", "2026-01-31") == TXB_OK);
  cr_assert(wish.from.seq == 0 && !wish.from.is_time && wish.to.seq == 0 && wish.to.is_time);
  refused_with(READ("replay", "plan", "-g", "ledger", "--to", "0"), "--to: \"0\" is not a number of an outbox");
  refused_with(READ("replay", "plan", "-g", "ledger", "--from", "9223372036854775808"), "is not a number");
  refused_with(READ("replay", "plan", "-g", "ledger", "--to", ""), "--to is empty");
}

Test(replay_wish, keys_and_types_are_taken_in_order) {
  configure(configuration);
  cr_assert(READ("replay", "start", "-g", "ledger", "-k", "a", "-k", "", "--type", "t", "-y", "--rate", "5",
                 "--dry-run") == TXB_OK,
            "%s", err.message);
  cr_assert_str_eq(txb_replay_wish_nth(&wish, "key", 1), ""); /* the empty key is one */
  cr_assert(txb_replay_wish_nth(&wish, "key", 2) == NULL && txb_replay_wish_nth(&wish, "type", 1) == NULL);
  cr_assert(wish.yes && wish.dry_run && wish.rate_max == 5);
}

Test(replay_wish, what_does_not_go_together_is_refused) {
  configure(configuration);
  refused_with(READ("replay", "start"), "which group");
  refused_with(READ("replay", "start", "-g", "leger"), "did you mean \"ledger\"?");
  refused_with(READ("replay", "start", "-g", "ledger", "-t", "order"), "did you mean \"orders\"?");
  refused_with(READ("replay", "start", "-g", "ledger", "-t", "a b"), "takes no topic \"a b\"");
  refused_with(READ("replay", "start", "-g", "ledger", "--source", "shp"), "did you mean \"shop\"?");
  refused_with(READ("replay", "start", "-g", "ledger", "--force"), "--reason TEXT");
  refused_with(READ("replay", "start", "-g", "ledger", "--force", "-r", "x", "--then-live"), "don't go together");
  refused_with(READ("replay", "start", "-g", "ledger", "--then-live", "--to", "now"), "it takes no --to");
  refused_with(READ("replay", "start", "-g", "ledger", "--rate", "0"), "--rate");
}

Test(replay_wish, without_a_configuration_one_database_stands_for_both_sides) {
  refused_with(READ("replay", "start", "-g", "g", "-t", "t"), "no worker of group \"g\": add it to workers");
  refused_with(READ("-d", "postgresql:///both", "replay", "start", "-g", "g"), "which topics?");
  cr_assert(READ("-d", "postgresql:///both", "replay", "start", "-g", "g", "-t", "t") == TXB_OK, "%s", err.message);
  cr_assert_str_eq(wish.source, "both");
  cr_assert(READ("-d", "postgresql:///both", "replay", "start", "-g", "g", "-t", "t", "--source", "shop") == TXB_OK);
  cr_assert_str_eq(wish.source, "shop");
  cr_assert(strcmp(wish.source_uri, "postgresql:///both") == 0 && strcmp(wish.consumer_uri, wish.source_uri) == 0);
  refused_with(READ("-d", "postgresql:///both", "replay", "start", "-g", "g", "-t", "a b"), "--topic: \"a b\"");
}

/* ---- topics of Kafka, and a topic as the target ----------------------------------------------------------- */

static const char with_kafka[] =
    "{\"kafka\": {\"brokers\": \"127.0.0.1:1\"}, \"sources\": [{\"name\": \"shop\", \"database\": "
    "\"postgresql:///shop\"}],"
    " \"workers\": [{\"group\": \"ledger\", \"topics\": [\"orders\", \"payments\"], \"database\": "
    "\"postgresql:///ledger\", \"handler\": {\"function\": \"f\"}}]}";

Test(replay_wish, kafka_needs_no_source) {
  configure(with_kafka);
  cr_assert(READ("replay", "start", "-g", "ledger", "--kafka") == TXB_OK, "%s", err.message);
  cr_assert(wish.kafka && wish.source == NULL && wish.source_uri == NULL && wish.partition_count == 0);
  cr_assert(wish.topic_count == 2 && txb_replay_wish_has_partition(&wish, 7));
  cr_assert_str_eq(wish.consumer_uri, "postgresql:///ledger");
}

Test(replay_wish, partitions_are_numbers_each_once) {
  configure(with_kafka);
  cr_assert(READ("replay", "plan", "-g", "ledger", "--kafka", "-p", "3", "--partition", "0", "-p", "3") == TXB_OK, "%s",
            err.message);
  cr_assert(wish.partition_count == 2 && wish.partitions[0] == 3 && wish.partitions[1] == 0);
  cr_assert(txb_replay_wish_has_partition(&wish, 0) && !txb_replay_wish_has_partition(&wish, 1));
  refused_with(READ("replay", "plan", "-g", "ledger", "--kafka", "-p", "x"), "\"x\" is not the number of a partition");
  refused_with(READ("replay", "plan", "-g", "ledger", "--kafka", "--partition=-1"), "is not the number of a partition");
  refused_with(READ("replay", "plan", "-g", "ledger", "--kafka", "-p", "2147483648"),
               "is not the number of a partition");
  refused_with(READ("replay", "plan", "-g", "ledger", "--kafka", "-p", ""), "--partition is empty");
}

Test(replay_wish, an_offset_belongs_to_one_partition_of_one_topic) {
  configure(with_kafka);
  cr_assert(READ("replay", "plan", "-g", "ledger", "--kafka", "-t", "orders", "-p", "1", "--from", "0", "--to", "9") ==
                TXB_OK,
            "%s", err.message);
  cr_assert(wish.from.is_number && wish.from.seq == 0 && wish.to.is_number && wish.to.seq == 9);
  refused_with(READ("replay", "plan", "-g", "ledger", "--kafka", "-t", "orders", "--from", "5"),
               "--from 5 is an offset");
  refused_with(READ("replay", "plan", "-g", "ledger", "--kafka", "-p", "1", "--to", "5"), "--to 5 is an offset");
  refused_with(READ("replay", "plan", "-g", "ledger", "--kafka", "-t", "orders", "-p", "1", "-p", "2", "--from", "5"),
               "give one --topic and one --partition");
  refused_with(
      READ("replay", "plan", "-g", "ledger", "--kafka", "-t", "orders", "-p", "1", "--from", "9223372036854775808"),
      "is not an offset of Kafka");
  cr_assert(READ("replay", "plan", "-g", "ledger", "--kafka", "--from", "2026-01-31", "--to", "now") == TXB_OK);
  cr_assert(wish.from.is_time && !wish.to.is_time && !wish.to.is_number);
}

Test(replay_wish, what_does_not_go_with_kafka_or_a_topic_is_refused) {
  configure(with_kafka);
  refused_with(READ("replay", "start", "-g", "ledger", "-p", "1"), "give --kafka too");
  refused_with(READ("replay", "start", "-g", "ledger", "--kafka", "--source", "shop"), "leave --source out");
  refused_with(READ("replay", "start", "-g", "ledger", "--kafka", "--then-live"), "don't go together");
  refused_with(READ("replay", "start", "-g", "ledger", "--kafka", "-t", "order"), "did you mean \"orders\"?");
  refused_with(READ("replay", "start", "-g", "ledger", "--to-topic", "x", "--then-live"), "don't go together");
  refused_with(READ("replay", "start", "-g", "ledger", "--to-topic", "x", "--force", "-r", "y"), "leave --force out");
  refused_with(READ("replay", "start", "-g", "ledger", "--to-topic", "a b"), "--to-topic: \"a b\"");
  refused_with(READ("replay", "start", "-g", "ledger", "--to-topic", ""), "--to-topic is empty");
}

Test(replay_wish, what_goes_to_a_topic_may_be_of_any_topic) {
  configure(with_kafka);
  cr_assert(READ("replay", "start", "-g", "ledger", "--kafka", "-t", "archive", "--to-topic", "archive") == TXB_OK,
            "%s", err.message);
  cr_assert_str_eq(wish.to_topic, "archive");
  cr_assert(READ("replay", "start", "-g", "ledger", "-t", "other", "--to-topic", "copies") == TXB_OK, "%s",
            err.message);
  cr_assert(!wish.kafka && strcmp(wish.source, "shop") == 0);
}

Test(replay_wish, kafka_wants_brokers) {
  configure(configuration);
  refused_with(READ("replay", "start", "-g", "ledger", "--kafka"), "brokers");
}

/* ---- how far a job has come ------------------------------------------------------------------------------- */

static void progress_is(const char *lanes, const char *text) {
  struct txb_replay_progress now, before = {0};
  struct txb_buffer out;
  json_error_t wrong;
  json_t *job = json_object();
  (void)json_object_set_new(job, "lanes", json_loads(lanes, 0, &wrong));
  txb_replay_progress_of(job, &now);
  txb_buffer_init(&out);
  txb_replay_progress_text(&now, &before, 2000, &out);
  cr_assert_str_eq(txb_buffer_text(&out), text);
  txb_buffer_fini(&out);
  json_decref(job);
}

Test(replay_wish, progress_is_rounded_down_and_tells_what_is_left) {
  progress_is("[{\"seq_from\": 1, \"position\": 1000, \"seq_to\": 1001, \"consumed\": 400, \"moved\": 100}]",
              "[#######################-]  99.9 %, 999 of 1000 numbers, 250 messages/s, about 2 ms left");
  progress_is("[{\"seq_from\": 1, \"position\": 101, \"seq_to\": 101, \"consumed\": 2, \"done\": true}, {\"seq_from\": "
              "1, \"position\": 1, \"seq_to\": 101}]",
              "[############------------]  50.0 %, 100 of 200 numbers, 1 messages/s, about 2.0 s left");
  progress_is("[{\"seq_from\": 5, \"position\": 5, \"seq_to\": 5}]",
              "[------------------------]   0.0 %, 0 of 0 numbers, 0 messages/s");
  progress_is("[{\"seq_from\": 0, \"position\": 5, \"seq_to\": 10, \"from_partition\": 0}]",
              "[############------------]  50.0 %, 5 of 10 offsets, 0 messages/s, about 2.0 s left");
  progress_is("[{\"seq_from\": 5, \"position\": 5, \"seq_to\": 5, \"done\": true}]",
              "[########################] 100.0 %, 0 of 0 numbers, 0 messages/s");
}
