/* What `replay plan` and `replay start` were asked for: the command line, with what the configuration knows of group and
 * source. All that is wrong without a server is told here. */
#include "broker/cli/replay.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/memory.h"
#include "common/nearest.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define NAMES_MAX        64

/* "did you mean x?", or the names that there are. */
static void hint(const char *word, const char *const *names, size_t count, struct txb_buffer *out) {
  const char *nearest = txb_nearest(word, names, count);
  if (nearest != NULL) {
    txb_buffer_addf(out, "did you mean \"%s\"?", nearest);
    return;
  }
  txb_buffer_addf(out, count == 1 ? "there is " : "there are ");
  for (size_t i = 0; i < count; i++)
    txb_buffer_addf(out, "%s%s", i == 0 ? "" : ", ", names[i]);
}

static enum txb_rc unknown(const char *what, const char *word, const char *const *names, size_t count,
                           struct txb_error *err) {
  struct txb_buffer text;
  txb_buffer_init(&text);
  hint(word, names, count, &text);
  enum txb_rc rc = REFUSE(err, "%s \"%s\"; %s", what, word, txb_buffer_text(&text));
  txb_buffer_fini(&text);
  return rc;
}

/* ---- group and source ------------------------------------------------------------------------------------- */

static enum txb_rc unknown_group(const struct txb_settings *s, const char *name, struct txb_error *err) {
  const char *names[NAMES_MAX];
  size_t count = 0;
  for (; count < s->workers.count && count < NAMES_MAX; count++)
    names[count] = txb_settings_group(s, count)->group;
  if (count == 0)
    return REFUSE(err,
                  "the configuration has no worker of group \"%s\": add it to workers, or give --database URI and "
                  "--topic TOPIC",
                  name);
  return unknown("the configuration has no worker of group", name, names, count, err);
}

/* --database is the one database to work on, whatever the configuration says. */
static enum txb_rc read_group(const struct txb_cli *cli, struct txb_replay_wish *w,
                              const struct txb_group_settings **group_out, struct txb_error *err) {
  w->group = txb_args_text(w->args, "group");
  if (w->group == NULL)
    return REFUSE(err, "%s: which group do the messages go to? Give --group GROUP", w->args->command->name);
  *group_out = txb_targets_group(&cli->settings, w->group);
  const char *uri = txb_args_text(w->args, "database");
  if (*group_out == NULL && (uri == NULL || cli->settings.workers.count > 0))
    return unknown_group(&cli->settings, w->group, err);
  w->consumer_uri = uri != NULL ? uri : (*group_out)->database;
  return TXB_OK;
}

static enum txb_rc read_source(const struct txb_cli *cli, struct txb_replay_wish *w, struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  const char *names[NAMES_MAX], *uri = txb_args_text(w->args, "database");
  size_t count = 0;
  w->source = txb_args_text(w->args, "source");
  if (s->sources.count == 0)
    return REFUSE(err, "the configuration has no source: add sources[].name and sources[].database, or give "
                       "--database URI");
  if (w->source == NULL && s->sources.count > 1)
    return REFUSE(err, "the configuration has %zu sources: choose with --source SOURCE", s->sources.count);
  for (size_t i = 0; i < s->sources.count; i++) {
    const struct txb_source_settings *source = txb_settings_source(s, i);
    if (w->source == NULL || strcmp(source->name, w->source) == 0) {
      w->source = source->name;
      w->source_uri = source->database;
      return TXB_OK;
    }
    if (count < NAMES_MAX)
      names[count++] = source->name;
  }
  const char *where = txb_settings_source(s, 0)->head.where;
  if (uri == NULL || where == NULL || strcmp(where, "--database") != 0)
    return unknown("the configuration has no source", w->source, names, count, err);
  w->source_uri = uri; /* --database made the only one, named after the database */
  return TXB_OK;
}

/* ---- topics, keys, types ---------------------------------------------------------------------------------- */

static bool has_topic(const struct txb_replay_wish *w, const char *topic) {
  for (size_t i = 0; i < w->topic_count; i++)
    if (strcmp(w->topics[i], topic) == 0)
      return true;
  return false;
}

static enum txb_rc add_topic(struct txb_replay_wish *w, const char *topic, struct txb_error *err) {
  const char *wrong = txb_settings_key(txb_settings_section("workers"), "topics")->check(topic);
  if (wrong != NULL)
    return REFUSE(err, "--topic: \"%s\" %s", topic, wrong);
  if (has_topic(w, topic))
    return TXB_OK;
  TXB_TRY(txb_regrow_array(&w->topics, w->topic_count + 1, sizeof(char *), err));
  w->topics[w->topic_count++] = topic;
  return TXB_OK;
}

/* Of Kafka: 0 and up, each once. */
static enum txb_rc read_partitions(struct txb_replay_wish *w, struct txb_error *err) {
  const char *text;
  for (size_t n = 0; (text = txb_args_nth(w->args, "partition", n)) != NULL; n++) {
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number > INT32_MAX)
      return REFUSE(err, "--partition: \"%s\" is not the number of a partition: they begin with 0", text);
    if (txb_replay_wish_has_partition(w, (int32_t)number) && w->partition_count > 0)
      continue;
    TXB_TRY(txb_regrow_array(&w->partitions, w->partition_count + 1, sizeof(int32_t), err));
    w->partitions[w->partition_count++] = (int32_t)number;
  }
  return TXB_OK;
}

bool txb_replay_wish_has_partition(const struct txb_replay_wish *wish, int32_t partition) {
  for (size_t i = 0; i < wish->partition_count; i++)
    if (wish->partitions[i] == partition)
      return true;
  return wish->partition_count == 0;
}

static enum txb_rc check_topic(const struct txb_group_settings *group, const char *topic, struct txb_error *err) {
  for (size_t i = 0; i < group->topics.count; i++)
    if (strcmp(group->topics.items[i], topic) == 0)
      return TXB_OK;
  char what[160];
  (void)snprintf(what, sizeof(what), "group %.100s takes no topic", group->group);
  return unknown(what, topic, (const char *const *)group->topics.items, group->topics.count, err);
}

static enum txb_rc read_topics(struct txb_replay_wish *w, const struct txb_group_settings *group,
                               struct txb_error *err) {
  const char *topic;
  for (size_t n = 0; (topic = txb_args_nth(w->args, "topic", n)) != NULL; n++) {
    if (group != NULL && w->to_topic == NULL) /* no handler runs what goes to a topic: any may be taken */
      TXB_TRY(check_topic(group, topic, err));
    TXB_TRY(add_topic(w, topic, err));
  }
  if (w->topic_count > 0)
    return TXB_OK;
  if (group == NULL)
    return REFUSE(err, "which topics? The configuration has no worker of group \"%s\": give --topic TOPIC", w->group);
  for (size_t i = 0; i < group->topics.count; i++)
    TXB_TRY(add_topic(w, group->topics.items[i], err));
  return TXB_OK;
}

const char *txb_replay_wish_nth(const struct txb_replay_wish *wish, const char *option, size_t n) {
  return txb_args_nth(wish->args, option, n);
}

static enum txb_rc check_texts(const struct txb_replay_wish *w, struct txb_error *err) {
  static const char *const options[] = {"key", "type", "from", "to", "name", "reason", "to-topic", "partition"};
  const char *text;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(options); i++)
    for (size_t n = 0; (text = txb_args_nth(w->args, options[i], n)) != NULL; n++) {
      if (!txb_slice_is_text(txb_slice_text(text)))
        return REFUSE(err, "--%s is not UTF-8", options[i]);
      if (*text == '\0' && strcmp(options[i], "key") != 0) /* a shell variable that was never set */
        return REFUSE(err, "--%s is empty: give a value, or leave it out", options[i]);
    }
  return TXB_OK;
}

/* ---- the range, and what does not go together ------------------------------------------------------------- */

/* All digits: a number. The word: all there is. Anything else is a time, which the server reads. */
static enum txb_rc read_bound(const struct txb_replay_wish *w, const char *option, const char *all,
                              struct txb_replay_bound *out, struct txb_error *err) {
  const char *text = txb_args_text(w->args, option);
  *out = (struct txb_replay_bound){.text = text};
  if (text == NULL || strcmp(text, all) == 0)
    return TXB_OK;
  if (text[strspn(text, "0123456789")] != '\0') {
    out->is_time = true;
    return TXB_OK;
  }
  errno = 0;
  out->seq = strtoll(text, NULL, 10);
  out->is_number = true;
  if (w->kafka && errno != 0)
    return REFUSE(err, "--%s: \"%s\" is not an offset of Kafka", option, text);
  if (!w->kafka && (errno != 0 || out->seq < 1))
    return REFUSE(err, "--%s: \"%s\" is not a number of an outbox: they begin with 1", option, text);
  return TXB_OK;
}

static enum txb_rc check_together(const struct txb_replay_wish *w, struct txb_error *err) {
  static const char *const not_live[] = {"to", "key", "type"};
  if (w->forced && w->then_live)
    return REFUSE(err, "--force and --then-live don't go together: a new group has nothing that was applied already");
  if (w->forced && txb_args_blank(w->args, "reason"))
    return REFUSE(err, "--force applies again what was applied already: say why with --reason TEXT");
  for (size_t i = 0; i < TXB_ARRAY_SIZE(not_live) && w->then_live; i++)
    if (txb_args_has(w->args, not_live[i]))
      return REFUSE(err,
                    "--then-live goes on with everything that comes: it takes no --%s, which would leave a gap "
                    "before that",
                    not_live[i]);
  return TXB_OK;
}

/* What is read from Kafka, and what goes to a topic. */
static enum txb_rc check_topics(const struct txb_replay_wish *w, struct txb_error *err) {
  if (!w->kafka && txb_args_has(w->args, "partition"))
    return REFUSE(err, "--partition is one of Kafka's: give --kafka too, or leave it out");
  if (w->kafka && txb_args_has(w->args, "source"))
    return REFUSE(err, "--kafka reads the topics themselves, not a source's outbox: leave --source out");
  if (w->kafka && w->then_live)
    return REFUSE(err, "--kafka and --then-live don't go together: in Kafka a new group begins live by itself, where "
                       "workers.GROUP.start says");
  if (w->to_topic == NULL)
    return TXB_OK;
  if (w->then_live)
    return REFUSE(err, "--to-topic and --then-live don't go together: a group that goes on live runs its handler");
  if (w->forced)
    return REFUSE(err, "--to-topic runs no handler, so there is nothing to apply again: leave --force out");
  const char *wrong = txb_settings_key(txb_settings_section("workers"), "topics")->check(w->to_topic);
  return wrong == NULL ? TXB_OK : REFUSE(err, "--to-topic: \"%s\" %s", w->to_topic, wrong);
}

/* An offset belongs to one partition. */
static enum txb_rc check_offsets(const struct txb_replay_wish *w, struct txb_error *err) {
  bool from = w->from.is_number, alone = w->topic_count == 1 && w->partition_count == 1;
  if (!w->kafka || alone || (!from && !w->to.is_number))
    return TXB_OK;
  return REFUSE(
      err,
      "--%s %s is an offset, and each partition has offsets of its own: give one --topic and one --partition, "
      "or a time",
      from ? "from" : "to", from ? w->from.text : w->to.text);
}

static enum txb_rc read_where(const struct txb_cli *cli, struct txb_replay_wish *w, struct txb_error *err) {
  const struct txb_group_settings *group = NULL;
  TXB_TRY(read_group(cli, w, &group, err));
  TXB_TRY(read_topics(w, group, err));
  TXB_TRY(check_offsets(w, err));
  return w->kafka ? txb_cli_need_brokers(cli, err) : read_source(cli, w, err);
}

enum txb_rc txb_replay_wish_read(const struct txb_cli *cli, struct txb_replay_wish *out, struct txb_error *err) {
  const struct txb_args *args = &cli->args;
  bool start = strcmp(args->command->name, "replay start") == 0;
  *out = (struct txb_replay_wish){.args = args,
                                  .name = txb_args_text(args, "name"),
                                  .reason = txb_args_text(args, "reason"),
                                  .to_topic = txb_args_text(args, "to-topic"),
                                  .kafka = txb_args_has(args, "kafka"),
                                  .forced = txb_args_has(args, "force"),
                                  .then_live = txb_args_has(args, "then-live"),
                                  .dry_run = !start || txb_args_has(args, "dry-run"),
                                  .yes = start && txb_args_has(args, "yes")};
  TXB_TRY(check_texts(out, err));
  TXB_TRY(txb_args_integer(args, "rate", 1, 1000000000, &out->rate_max, err));
  TXB_TRY(read_bound(out, "from", "beginning", &out->from, err));
  TXB_TRY(read_bound(out, "to", "now", &out->to, err));
  TXB_TRY(read_partitions(out, err));
  TXB_TRY(check_together(out, err));
  TXB_TRY(check_topics(out, err));
  return read_where(cli, out, err);
}

void txb_replay_wish_fini(struct txb_replay_wish *wish) {
  txb_free(wish->topics);
  txb_free(wish->partitions);
  *wish = (struct txb_replay_wish){0};
}
