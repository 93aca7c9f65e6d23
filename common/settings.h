/* Settings: one table that everything else is made of (file parser, environment, flags, help, reference page, sample).
 *
 * Precedence: flag > environment > file > default. Load in that order reversed (init, file, environment, flags), then
 * finish. A key that is not in the table is refused with the nearest one that is. No message ever holds the value of
 * a secret.
 */
#ifndef TXB_COMMON_SETTINGS_H
#define TXB_COMMON_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/error.h"

enum txb_setting_type {
  TXB_SETTING_TEXT,
  TXB_SETTING_INTEGER,
  TXB_SETTING_BOOLEAN,
  TXB_SETTING_CHOICE,
  TXB_SETTING_LIST, /* of texts */
  TXB_SETTING_MAP,  /* name to text */
};

/* Where a value came from, weakest first. */
enum txb_setting_from { TXB_FROM_DEFAULT, TXB_FROM_FILE, TXB_FROM_ENVIRONMENT, TXB_FROM_FLAG };

/* How much of a value may be shown. */
enum txb_setting_secrecy {
  TXB_SHOWN,
  TXB_SHOWN_AS_URI,     /* a connection string: its password is masked */
  TXB_SHOWN_AS_OPTIONS, /* Kafka client options: those that the allow-list calls secret are masked */
};

struct txb_setting {
  const char *key; /* below its section: "lease_ms", "handler.kind" */
  enum txb_setting_type type;
  size_t offset;                          /* of the field in the section's struct */
  const char *fallback;                   /* the default as text; NULL: none */
  const char *fallback_note;              /* what happens without a value, where fallback is NULL */
  int64_t min, max;                       /* of integers */
  const char *unit;                       /* "milliseconds"; NULL: none */
  const char *choices;                    /* "sql|plugin" */
  const char *(*check)(const char *text); /* NULL, or tells what is wrong with a text (static storage), NULL: nothing */
  bool required;
  enum txb_setting_secrecy secrecy;
  const char *sample; /* JSON for the sample configuration; NULL: not in it */
  const char *help;
};

struct txb_section {
  const char *name;
  bool list;            /* a JSON array of objects, told apart by name_key */
  const char *name_key; /* "name" */
  size_t offset;        /* in struct txb_settings: of the section's struct, or of its struct txb_settings_list */
  size_t size;          /* of the section's struct */
  const struct txb_setting *settings;
  size_t count;
  const char *help;
};

/* All sections, ended by one without a name. */
extern const struct txb_section txb_sections[];

#define TXB_SETTINGS_IN_SECTION_MAX 32

/* First member of every section's struct. */
struct txb_section_head {
  unsigned char from[TXB_SETTINGS_IN_SECTION_MAX]; /* enum txb_setting_from, by the setting's number */
  char *where; /* "txbroker.json:12", where an entry of a list began; NULL: nowhere */
};

/* Texts, NULL-ended; a map is name, value, name, value. items is NULL when there are none. */
struct txb_texts {
  char **items;
  size_t count;
};

struct txb_source_settings {
  struct txb_section_head head;
  char *name, *database, *lane, *event_source;
};

struct txb_kafka_settings {
  struct txb_section_head head;
  char *brokers;
  struct txb_texts client;
};

struct txb_relay_settings {
  struct txb_section_head head;
  char *owner;
  int64_t read_rows, read_bytes, inflight_rows, inflight_bytes, lease_ms, checkpoint_ms, poll_busy_us, poll_idle_ms;
  bool wait_flush;
  int64_t partition_rows, partitions_ahead, retention_ms, failed_keep_ms;
};

struct txb_group_settings {
  struct txb_section_head head;
  char *group;
  struct txb_texts topics;
  char *database, *handler_kind, *handler_function, *handler_per, *handler_path, *handler_symbol, *handler_argument,
      *start;
  int64_t batch_messages, batch_bytes, batch_wait_ms, session_timeout_ms, inbox_keep_ms, retry_first_ms, retry_cap_ms,
      retry_factor, retry_attempts_max, handler_timeout_ms, failed_keep_ms, saga_keep_ms, held_per_key_max,
      held_per_group_max;
  char *retry_on_dead, *retry_dead_letter_topic;
};

struct txb_log_settings {
  struct txb_section_head head;
  char *level, *format;
};

struct txb_retry_settings {
  struct txb_section_head head;
  int64_t first_ms, cap_ms;
};

struct txb_settings_list {
  void *items; /* an array of the section's struct */
  size_t count;
};

struct txb_settings {
  struct txb_settings_list sources; /* struct txb_source_settings */
  struct txb_kafka_settings kafka;
  struct txb_relay_settings relay;
  struct txb_settings_list workers; /* struct txb_group_settings */
  struct txb_log_settings log;
  struct txb_retry_settings retry;
};

static inline const struct txb_source_settings *txb_settings_source(const struct txb_settings *s, size_t i) {
  return (const struct txb_source_settings *)s->sources.items + i;
}
static inline const struct txb_group_settings *txb_settings_group(const struct txb_settings *s, size_t i) {
  return (const struct txb_group_settings *)s->workers.items + i;
}

/* ---- loading: each TXB_REFUSED with TXB_ORIGIN_USAGE names where, the key and what is wrong
 * --------------------------------------- */
/* The defaults. Also after a failure, fini is to be called. */
enum txb_rc txb_settings_init(struct txb_settings *s, struct txb_error *err) TXB_MUST_CHECK;
void txb_settings_fini(struct txb_settings *s);
/* A JSON file. */
enum txb_rc txb_settings_load_file(struct txb_settings *s, const char *path, struct txb_error *err) TXB_MUST_CHECK;
/* JSON text; `name` stands for the file in messages. */
enum txb_rc txb_settings_load_json(struct txb_settings *s, const char *name, const char *text, size_t size,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* TXB_SECTION_KEY, for lists TXB_SECTION_NAME_KEY, of a NULL-ended environ. Every entry of a list must already be
 * there. A variable that looks like a mistyped one is refused; others of that prefix are somebody else's. */
enum txb_rc txb_settings_load_environment(struct txb_settings *s, const char *const *environment,
                                          struct txb_error *err) TXB_MUST_CHECK;
/* TXB_REFUSED for a variable of a list's entry that is not there: what it sets would be left aside without a word. After
 * everything is loaded. */
enum txb_rc txb_settings_check_environment(const struct txb_settings *s, const char *const *environment,
                                           struct txb_error *err) TXB_MUST_CHECK;
/* The section that a variable's name speaks of, whatever the entry is called; NULL: it is no setting. */
const struct txb_section *txb_settings_section_of_variable(const char *variable);
/* TXB_REFUSED (usage) for a connection string that libpq can't read. */
enum txb_rc txb_settings_check_database(const char *uri, const char *where, struct txb_error *err) TXB_MUST_CHECK;
/* One flag: "relay.lease_ms=5000", "workers.ledger.topics=a,b", "kafka.client.linger.ms=5". Makes the entry of a list
 * that is not there. */
enum txb_rc txb_settings_load_flag(struct txb_settings *s, const char *assignment,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* What only shows when everything is loaded: missing keys, entries of one name, values that don't go together. */
enum txb_rc txb_settings_finish(const struct txb_settings *s, struct txb_error *err) TXB_MUST_CHECK;

/* ---- one value, for those above and for shortcuts
 * ---------------------------------------------------------------------------------- */
/* Sets section.key of an entry (its struct) from text. `where` begins every message ("--brokers"). */
enum txb_rc txb_settings_put(void *entry, const struct txb_section *section, const struct txb_setting *setting,
                             const char *text, enum txb_setting_from from, const char *where,
                             struct txb_error *err) TXB_MUST_CHECK;
const struct txb_section *txb_settings_section(const char *name);                               /* NULL: none */
const struct txb_setting *txb_settings_key(const struct txb_section *section, const char *key); /* NULL: none */
/* The entry of that name, made if it is missing (with its defaults). The entry lives in s, and moves when another is
 * made. */
enum txb_rc txb_settings_entry(struct txb_settings *s, const struct txb_section *section, const char *name,
                               enum txb_setting_from from, const char *where, void **entry_out,
                               struct txb_error *err) TXB_MUST_CHECK;

/* ---- printing -------------------------------------------------------------------------------------------- */
/* The environment's name of a setting: "TXB_RELAY_LEASE_MS"; for lists with NAME in the middle. */
void txb_settings_environment_name(const struct txb_section *section, const struct txb_setting *setting,
                                   const char *name, struct txb_buffer *out);
/* A value as text, secrets masked; "" when there is none. */
void txb_settings_show(const void *entry, const struct txb_setting *setting, struct txb_buffer *out);
/* Everything that is set, as a configuration file, secrets masked. */
void txb_settings_print_json(const struct txb_settings *s, struct txb_buffer *out);
/* A configuration to begin with; loading it succeeds. */
void txb_settings_print_sample(struct txb_buffer *out);
/* docs/reference-settings.md */
void txb_settings_print_reference(struct txb_buffer *out);
/* The same for a terminal. */
void txb_settings_print_help(struct txb_buffer *out);
/* A connection string without its password; what can't be understood is masked whole. */
void txb_settings_mask_uri(const char *uri, struct txb_buffer *out);
const char *txb_setting_from_name(enum txb_setting_from from); /* "default", "file", "environment", "flag" */

/* Kafka's rule for the name of a topic: what is wrong with the text ("must have 1 to 249 characters"), static; NULL:
 * nothing. */
const char *txb_topic_name_problem(const char *text);

#endif
