/* Which failed messages, in which database: the flags, read. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/failed.h"
#include "common/memory.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* Flag and key of the filter. The first two choose a database too. */
static const struct {
  const char *flag, *key;
} keys[] = {
    {"group", "group"},
    {"source", "source"},
    {"topic", "topic"},
    {"partition", "partition"},
    {"key", "key"},
    {"type", "type"},
    {"id", "id"},
    {"error-group", "error"},
    {"error-class", "error_class"},
    {"text", "text"},
    {"older-than", "older_than"},
    {"newer-than", "newer_than"},
};

enum txb_rc txb_number_parse(const char *text, const char *what, const char *list, int64_t *out,
                             struct txb_error *err) {
  char *end = NULL;
  errno = 0;
  long long n = strtoll(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || n < 1)
    return REFUSE(err, "\"%s\" is not the number of a %s; `txbroker %s` prints them", text, what, list);
  *out = n;
  return TXB_OK;
}

enum txb_rc txb_failed_numbers(const struct txb_args *args, int64_t **out, struct txb_error *err) {
  void *memory;
  TXB_TRY(txb_alloc_array(args->operand_count + 1, sizeof(int64_t), &memory, err));
  int64_t *numbers = memory;
  for (size_t i = 0; i < args->operand_count; i++) {
    enum txb_rc rc = txb_number_parse(args->operands[i], "failed message", "failed list", &numbers[i], err);
    if (rc != TXB_OK) {
      txb_free(numbers);
      return rc;
    }
  }
  *out = numbers;
  return TXB_OK;
}

static enum txb_rc add_flags(const struct txb_args *args, json_t *filter, size_t *flags, struct txb_error *err) {
  for (size_t i = 0; i < TXB_ARRAY_SIZE(keys); i++) {
    const char *text = txb_args_text(args, keys[i].flag);
    if (text == NULL)
      continue;
    if (!txb_slice_is_text(txb_slice_text(text)))
      return REFUSE(err, "--%s is not UTF-8; a key that is no text is given as \\x and hexadecimal digits",
                    keys[i].flag);
    (void)json_object_set_new(filter, keys[i].key, json_string(text));
    *flags += i > 1;
  }
  const char *state;
  json_t *states = json_array();
  for (size_t n = 0; (state = txb_args_nth(args, "state", n)) != NULL; n++)
    (void)json_array_append_new(states, json_string(state));
  if (json_array_size(states) > 0) {
    (void)json_object_set(filter, "state", states);
    (*flags)++;
  }
  json_decref(states);
  return TXB_OK;
}

enum txb_rc txb_failed_filter(const struct txb_args *args, json_t **out, size_t *flags_out, struct txb_error *err) {
  size_t flags = 0;
  json_t *filter = json_object();
  enum txb_rc rc = add_flags(args, filter, &flags, err);
  int64_t *numbers = NULL;
  if (rc == TXB_OK && args->operand_count > 0 && flags > 0)
    rc = REFUSE(err, "give numbers or a filter, not both");
  if (rc == TXB_OK)
    rc = txb_failed_numbers(args, &numbers, err);
  if (rc != TXB_OK) {
    json_decref(filter);
    return rc;
  }
  if (args->operand_count > 0) {
    json_t *list = json_array();
    for (size_t i = 0; i < args->operand_count; i++)
      (void)json_array_append_new(list, json_integer(numbers[i]));
    (void)json_object_clear(filter); /* numbers say all: --group and --source chose the database */
    (void)json_object_set_new(filter, "numbers", list);
  }
  txb_free(numbers);
  *out = filter;
  *flags_out = flags;
  return TXB_OK;
}

/* ---- the database ----------------------------------------------------------------------------------------- */

/* The database of a group or source that the configuration has; NULL: it has none of that name. */
static const char *database_of(const struct txb_settings *s, const char *group, const char *source) {
  const struct txb_group_settings *worker = group == NULL ? NULL : txb_targets_group(s, group);
  if (worker != NULL)
    return worker->database;
  for (size_t i = 0; source != NULL && i < s->sources.count; i++)
    if (strcmp(txb_settings_source(s, i)->name, source) == 0)
      return txb_settings_source(s, i)->database;
  return NULL;
}

enum txb_rc txb_failed_targets(const struct txb_cli *cli, struct txb_targets *out, struct txb_error *err) {
  const struct txb_args *args = &cli->args;
  const char *uri = txb_args_text(args, "database"), *group = txb_args_text(args, "group"),
             *source = txb_args_text(args, "source");
  if (uri == NULL)
    uri = database_of(&cli->settings, group, source);
  if (uri == NULL) {
    enum txb_rc rc = txb_targets_init(out, cli, err);
    txb_targets_merge(out);
    return rc;
  }
  return txb_targets_one(out, uri, err);
}

enum txb_rc txb_failed_one_target(const struct txb_cli *cli, const struct txb_targets *targets, const char **uri_out,
                                  struct txb_error *err) {
  if (targets->count > 1)
    return REFUSE(err,
                  "%s works on one database, and the configuration has %zu: choose with --group GROUP, --source SOURCE "
                  "or --database URI",
                  cli->args.command->name, targets->count);
  *uri_out = targets->items[0].uri;
  return TXB_OK;
}
