/* The table of settings. Whatever a user can configure stands here once; text, limits and defaults are printed from
 * it everywhere. */
#include "common/settings.h"

#include <limits.h>
#include <string.h>

/* Kafka's own rule for topic names; group names and source names keep to it too, since they end in metrics, roles and
 * environment names. */
static const char *check_letters(const char *text) {
  for (const char *c = text; *c != '\0'; c++)
    if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
          strchr("._-", *c) != NULL))
      return "may hold only letters, digits, '.', '_' and '-'";
  return NULL;
}

/* The limits are those of the tables: txb.relay, txb.consumer_offset, txb.outbox. */
static const char *check_source_name(const char *text) {
  size_t size = strlen(text);
  return size == 0 || size > 100 ? "must have 1 to 100 characters" : check_letters(text);
}

static const char *check_owner_name(const char *text) {
  size_t size = strlen(text);
  return size == 0 || size > 200 ? "must have 1 to 200 characters" : check_letters(text);
}

static const char *check_group_name(const char *text) {
  size_t size = strlen(text);
  return size == 0 || size > 255 ? "must have 1 to 255 characters" : check_letters(text);
}

const char *txb_topic_name_problem(const char *text) {
  size_t size = strlen(text);
  if (strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
    return "must not be \".\" or \"..\"";
  return size == 0 || size > 249 ? "must have 1 to 249 characters" : check_letters(text);
}

static const char *check_function(const char *text) {
  size_t dots = 0;
  for (const char *c = text; *c != '\0'; c++) {
    if (*c == '(' || *c == ')' || *c == ' ' || *c == ';')
      return "must be a function's name without arguments, as in ledger.apply";
    dots += *c == '.';
  }
  return dots > 1 ? "must be a function's name, as in ledger.apply" : NULL;
}

/* [PROTOCOL://]HOST[:PORT], as librdkafka takes it. */
static bool is_broker(const char *text, size_t size) {
  static const char *const protocols[] = {"PLAINTEXT://", "SSL://", "SASL_PLAINTEXT://", "SASL_SSL://"};
  for (size_t i = 0; i < sizeof(protocols) / sizeof(protocols[0]); i++)
    if (strlen(protocols[i]) < size && strncmp(text, protocols[i], strlen(protocols[i])) == 0) {
      text += strlen(protocols[i]);
      size -= strlen(protocols[i]);
      break;
    }
  bool bracket = size > 0 && *text == '[';
  const char *end = bracket ? memchr(text, ']', size) : memchr(text, ':', size);
  size_t host = end == NULL ? size : (size_t)(end - text) + bracket;
  if ((bracket && (end == NULL || host < 4)) || host == 0)
    return false;
  for (size_t i = 0; !bracket && i < host; i++)
    if (strchr(" \t/@[]", text[i]) != NULL)
      return false;
  if (host == size)
    return true;
  long port = 0;
  for (size_t i = host + 1; i < size; i++) {
    if (text[i] < '0' || text[i] > '9' || port > USHRT_MAX)
      return false;
    port = port * 10 + (text[i] - '0');
  }
  return text[host] == ':' && port >= 1 && port <= USHRT_MAX;
}

static const char *check_brokers(const char *text) {
  for (const char *c = text;; c++) {
    c += strspn(c, " ");
    size_t size = strcspn(c, ",");
    if (!is_broker(c, size))
      return "must be HOST:PORT, several separated by commas";
    c += size;
    if (*c == '\0')
      return NULL;
  }
}

#define SOURCE(field) offsetof(struct txb_source_settings, field)
static const struct txb_setting source_settings[] = {
    {.key = "name",
     .type = TXB_SETTING_TEXT,
     .offset = SOURCE(name),
     .check = check_source_name,
     .required = true,
     .sample = "\"shop\"",
     .help =
         "Name of this source in logs, in metrics and in txb.relay. Never change it: the position is kept under it."},
    {.key = "database",
     .type = TXB_SETTING_TEXT,
     .offset = SOURCE(database),
     .required = true,
     .secrecy = TXB_SHOWN_AS_URI,
     .sample = "\"postgresql:///shop\"",
     .help =
         "Connection string of the database whose outbox is relayed, as libpq takes it. Put passwords into ~/.pgpass."},
    {.key = "lane",
     .type = TXB_SETTING_CHOICE,
     .offset = SOURCE(lane),
     .fallback = "auto",
     .choices = "auto|poll",
     .help = "How the outbox is read. poll works with any PostgreSQL; auto chooses."},
    {.key = "event_source",
     .type = TXB_SETTING_TEXT,
     .offset = SOURCE(event_source),
     .fallback_note = "txbroker: and the name",
     .help = "CloudEvents source of the messages."},
};

#define KAFKA(field) offsetof(struct txb_kafka_settings, field)
static const struct txb_setting kafka_settings[] = {
    {.key = "brokers",
     .type = TXB_SETTING_TEXT,
     .offset = KAFKA(brokers),
     .check = check_brokers,
     .sample = "\"127.0.0.1:9092\"",
     .help = "Brokers to begin with, host:port separated by commas."},
    {.key = "client",
     .type = TXB_SETTING_MAP,
     .offset = KAFKA(client),
     .secrecy = TXB_SHOWN_AS_OPTIONS,
     .sample = "{\"compression.type\": \"lz4\"}",
     .help = "Options of librdkafka by their own names (security.protocol, sasl.mechanism, compression.type, ...). "
             "What delivery rests on is "
             "not among them. Secrets may be given as env:NAME or file:PATH."},
};

#define RELAY(field) offsetof(struct txb_relay_settings, field)
static const struct txb_setting relay_settings[] = {
    {.key = "owner",
     .type = TXB_SETTING_TEXT,
     .offset = RELAY(owner),
     .check = check_owner_name,
     .fallback_note = "host name and process number",
     .help = "Name of this relay: unique among the relays that run at once."},
    {.key = "read_rows",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(read_rows),
     .fallback = "4000",
     .min = 1,
     .max = 100000,
     .unit = "rows",
     .help = "Rows that one read takes at most."},
    {.key = "read_bytes",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(read_bytes),
     .fallback = "4194304",
     .min = 65536,
     .max = 268435456,
     .unit = "bytes",
     .help = "Payload that one read takes at most (one row always fits, and eight while few come)."},
    {.key = "inflight_rows",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(inflight_rows),
     .fallback = "16000",
     .min = 1,
     .max = 1000000,
     .unit = "rows",
     .help = "Rows read and not yet acknowledged by Kafka, at most."},
    {.key = "inflight_bytes",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(inflight_bytes),
     .fallback = "16777216",
     .min = 1048576,
     .max = 1073741824,
     .unit = "bytes",
     .help = "The same in bytes: bounds the relay's memory."},
    {.key = "lease_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(lease_ms),
     .fallback = "10000",
     .min = 1000,
     .max = 600000,
     .unit = "milliseconds",
     .help = "A relay that does not answer for this long is replaced by one that stands by."},
    {.key = "checkpoint_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(checkpoint_ms),
     .fallback = "100",
     .min = 1,
     .max = 60000,
     .unit = "milliseconds",
     .help = "The position is written at most once in this time. After a crash at most what was published since is "
             "published again."},
    {.key = "poll_busy_us",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(poll_busy_us),
     .fallback = "2000",
     .min = 0,
     .max = 1000000,
     .unit = "microseconds",
     .help = "Pause between two reads while intents come."},
    {.key = "poll_idle_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(poll_idle_ms),
     .fallback = "50",
     .min = 1,
     .max = 60000,
     .unit = "milliseconds",
     .help = "The pause grows to this while none come: the longest wait of the first intent after a quiet time."},
    {.key = "wait_flush",
     .type = TXB_SETTING_BOOLEAN,
     .offset = RELAY(wait_flush),
     .fallback = "false",
     .help = "Publish only what is on the server's disk. Needed where applications commit with synchronous_commit = "
             "off: such a commit "
             "can be read, published, and then be lost by a server crash."},
    {.key = "partition_rows",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(partition_rows),
     .fallback = "1000000",
     .min = 1000,
     .max = 1000000000,
     .unit = "rows",
     .help = "Sequence numbers that one partition of txb.outbox spans."},
    {.key = "partitions_ahead",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(partitions_ahead),
     .fallback = "64",
     .min = 2,
     .max = 1000,
     .unit = "partitions",
     .help = "Empty partitions kept ready, so that no insert ever fails for want of one."},
    {.key = "retention_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(retention_ms),
     .fallback = "604800000",
     .min = 0,
     .max = INT64_MAX / 1000000,
     .unit = "milliseconds",
     .help = "Published intents are kept at least this long (the default is 7 days)."},
    {.key = "failed_keep_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = RELAY(failed_keep_ms),
     .fallback = "2592000000",
     .min = 3600000,
     .max = INT64_MAX / 1000000,
     .unit = "milliseconds",
     .help =
         "How long a refused intent that was decided about (resolved, discarded) stays in txb.failed with its history "
         "(the default is 30 days); longer if the outbox still has the intent."},
};

#define GROUP(field) offsetof(struct txb_group_settings, field)
static const struct txb_setting group_settings[] = {
    {.key = "group",
     .type = TXB_SETTING_TEXT,
     .offset = GROUP(group),
     .check = check_group_name,
     .required = true,
     .sample = "\"ledger\"",
     .help = "Kafka consumer group. Positions and deduplication are kept under it."},
    {.key = "topics",
     .type = TXB_SETTING_LIST,
     .offset = GROUP(topics),
     .check = txb_topic_name_problem,
     .required = true,
     .sample = "[\"transfers\"]",
     .help = "Topics that it consumes."},
    {.key = "database",
     .type = TXB_SETTING_TEXT,
     .offset = GROUP(database),
     .required = true,
     .secrecy = TXB_SHOWN_AS_URI,
     .sample = "\"postgresql:///ledger\"",
     .help = "Connection string of the database that holds effects, inbox and positions."},
    {.key = "handler.kind",
     .type = TXB_SETTING_CHOICE,
     .offset = GROUP(handler_kind),
     .fallback = "sql",
     .choices = "sql|plugin|coordinator",
     .sample = "\"sql\"",
     .help = "sql: a function in the database. plugin: a shared object. coordinator: the group runs the sagas of its "
             "database, and its one topic is theirs: starts, answers and timers."},
    {.key = "handler.function",
     .type = TXB_SETTING_TEXT,
     .offset = GROUP(handler_function),
     .check = check_function,
     .sample = "\"ledger.apply\"",
     .help = "For kind sql: name of a function(txb.message) returns txb.outcome, or with per batch a "
             "function(txb.message[]) returns setof "
             "txb.outcome."},
    {.key = "handler.per",
     .type = TXB_SETTING_CHOICE,
     .offset = GROUP(handler_per),
     .fallback = "message",
     .choices = "message|batch",
     .help = "For kind sql: whether the function gets one message or all of a batch."},
    {.key = "handler.path",
     .type = TXB_SETTING_TEXT,
     .offset = GROUP(handler_path),
     .help = "For kind plugin: path of the shared object."},
    {.key = "handler.symbol",
     .type = TXB_SETTING_TEXT,
     .offset = GROUP(handler_symbol),
     .fallback = "txb_plugin",
     .help = "For kind plugin: name of its struct txb_plugin."},
    {.key = "handler.argument",
     .type = TXB_SETTING_TEXT,
     .offset = GROUP(handler_argument),
     .help = "For kind plugin: text given to its open function."},
    {.key = "handler.timeout_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(handler_timeout_ms),
     .fallback = "60000",
     .min = 0,
     .max = 86400000,
     .unit = "milliseconds",
     .help =
         "A statement of the handler that takes longer is cancelled, and the message has failed. For kind plugin also: "
         "a call that takes a second longer than this ends the process, since it can't be interrupted; a message "
         "that does so twice alone is dead. 0: never."},
    {.key = "start",
     .type = TXB_SETTING_CHOICE,
     .offset = GROUP(start),
     .fallback = "earliest",
     .choices = "earliest|latest|error",
     .help = "What a partition without a stored position does. A position that Kafka no longer has always stops the "
             "partition."},
    {.key = "batch_messages",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(batch_messages),
     .fallback = "1000",
     .min = 1,
     .max = 100000,
     .unit = "messages",
     .help = "Messages that one transaction applies at most."},
    {.key = "batch_bytes",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(batch_bytes),
     .fallback = "4194304",
     .min = 1024,
     .max = 268435456,
     .unit = "bytes",
     .help = "The same in bytes (one message always fits)."},
    {.key = "batch_wait_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(batch_wait_ms),
     .fallback = "5",
     .min = 0,
     .max = 60000,
     .unit = "milliseconds",
     .help = "How long a batch that is not full may wait for more."},
    {.key = "session_timeout_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(session_timeout_ms),
     .fallback = "45000",
     .min = 6000,
     .max = 1800000,
     .unit = "milliseconds",
     .help = "A worker that does not answer for this long loses its partitions to the others of its group."},
    {.key = "inbox_keep_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(inbox_keep_ms),
     .fallback = "1209600000",
     .min = 3600000,
     .max = INT64_MAX / 1000000,
     .unit = "milliseconds",
     .help = "How long applied ids are remembered (the default is 14 days; of the groups in one database the longest "
             "counts). Must be longer than the topics' retention: doctor compares."},
    {.key = "failed_keep_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(failed_keep_ms),
     .fallback = "2592000000",
     .min = 3600000,
     .max = INT64_MAX / 1000000,
     .unit = "milliseconds",
     .help = "How long a failed message that has ended (resolved, discarded) stays in txb.failed with its history (the "
             "default is 30 days). Open ones stay."},
    {.key = "saga_keep_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(saga_keep_ms),
     .fallback = "2592000000",
     .min = 3600000,
     .max = INT64_MAX / 1000000,
     .unit = "milliseconds",
     .help = "How long a coordinator keeps sagas that have ended, and a participant what it did for them (the default "
             "is 30 days; of the groups in one database the longest counts). Must be longer than any saga takes: a "
             "command of one that is older is refused."},
    {.key = "held_per_key_max",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(held_per_key_max),
     .fallback = "10000",
     .min = 1,
     .max = 10000000,
     .unit = "messages",
     .help = "So many messages may wait behind a failed one of their key; then their partition waits. Nothing is "
             "dropped."},
    {.key = "held_per_group_max",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(held_per_group_max),
     .fallback = "100000",
     .min = 1,
     .max = 10000000,
     .unit = "messages",
     .help = "The same for all keys of the group together."},
    {.key = "retry.first_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(retry_first_ms),
     .fallback = "200",
     .min = 1,
     .max = 3600000,
     .unit = "milliseconds",
     .help = "Pause before a message that failed is tried again."},
    {.key = "retry.factor",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(retry_factor),
     .fallback = "2",
     .min = 1,
     .max = 10,
     .unit = "times",
     .help = "Each further pause is so many times as long as the one before it."},
    {.key = "retry.cap_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(retry_cap_ms),
     .fallback = "60000",
     .min = 1,
     .max = 86400000,
     .unit = "milliseconds",
     .help = "The longest such pause."},
    {.key = "retry.attempts_max",
     .type = TXB_SETTING_INTEGER,
     .offset = GROUP(retry_attempts_max),
     .fallback = "8",
     .min = 1,
     .max = 1000,
     .unit = "attempts",
     .help = "A message that has failed so often is dead: a person decides about it."},
    {.key = "retry.on_dead",
     .type = TXB_SETTING_CHOICE,
     .offset = GROUP(retry_on_dead),
     .fallback = "hold",
     .choices = "hold|release",
     .help = "Whether the later messages of its key wait until that decision (hold), or go on without it (release)."},
    {.key = "retry.dead_letter_topic",
     .type = TXB_SETTING_TEXT,
     .offset = GROUP(retry_dead_letter_topic),
     .check = txb_topic_name_problem,
     .help =
         "A message that becomes dead is copied into this topic, with the error in its headers, through the outbox of "
         "the group's database: a relay must serve that. None of the group's own topics."},
};

#define LOG(field) offsetof(struct txb_log_settings, field)
static const struct txb_setting log_settings[] = {
    {.key = "level",
     .type = TXB_SETTING_CHOICE,
     .offset = LOG(level),
     .fallback = "info",
     .choices = "debug|info|warn|error",
     .help = "The least that is logged."},
    {.key = "format",
     .type = TXB_SETTING_CHOICE,
     .offset = LOG(format),
     .fallback = "logfmt",
     .choices = "logfmt|json",
     .help = "How a line on standard error looks."},
};

#define RETRY(field) offsetof(struct txb_retry_settings, field)
static const struct txb_setting retry_settings[] = {
    {.key = "first_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = RETRY(first_ms),
     .fallback = "100",
     .min = 1,
     .max = 3600000,
     .unit = "milliseconds",
     .help = "Pause before the first try to reach a server that went away; it doubles each time."},
    {.key = "cap_ms",
     .type = TXB_SETTING_INTEGER,
     .offset = RETRY(cap_ms),
     .fallback = "5000",
     .min = 1,
     .max = 3600000,
     .unit = "milliseconds",
     .help = "The longest such pause."},
};

#define PLACE(field) offsetof(struct txb_settings, field)
const struct txb_section txb_sections[] = {
    {.name = "sources",
     .list = true,
     .name_key = "name",
     .offset = PLACE(sources),
     .size = sizeof(struct txb_source_settings),
     .settings = source_settings,
     .count = TXB_ARRAY_SIZE(source_settings),
     .help = "Databases whose outbox is relayed."},
    {.name = "kafka",
     .offset = PLACE(kafka),
     .size = sizeof(struct txb_kafka_settings),
     .settings = kafka_settings,
     .count = TXB_ARRAY_SIZE(kafka_settings),
     .help = "The Kafka cluster."},
    {.name = "relay",
     .offset = PLACE(relay),
     .size = sizeof(struct txb_relay_settings),
     .settings = relay_settings,
     .count = TXB_ARRAY_SIZE(relay_settings),
     .help = "How outboxes are relayed: the same for all sources."},
    {.name = "workers",
     .list = true,
     .name_key = "group",
     .offset = PLACE(workers),
     .size = sizeof(struct txb_group_settings),
     .settings = group_settings,
     .count = TXB_ARRAY_SIZE(group_settings),
     .help = "Consumer groups whose messages are applied to a database."},
    {.name = "log",
     .offset = PLACE(log),
     .size = sizeof(struct txb_log_settings),
     .settings = log_settings,
     .count = TXB_ARRAY_SIZE(log_settings),
     .help = "What is logged on standard error."},
    {.name = "retry",
     .offset = PLACE(retry),
     .size = sizeof(struct txb_retry_settings),
     .settings = retry_settings,
     .count = TXB_ARRAY_SIZE(retry_settings),
     .help = "How servers that went away are tried again."},
    {.name = NULL},
};

_Static_assert(TXB_ARRAY_SIZE(group_settings) <= TXB_SETTINGS_IN_SECTION_MAX,
               "head.from holds all settings of a section");
_Static_assert(TXB_ARRAY_SIZE(relay_settings) <= TXB_SETTINGS_IN_SECTION_MAX,
               "head.from holds all settings of a section");
