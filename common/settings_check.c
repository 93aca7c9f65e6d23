/* Settings: what only shows when everything is loaded. */
#include <inttypes.h>
#include <string.h>

#include "common/kafka.h"
#include "common/pg.h"
#include "common/settings_internal.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static bool is_missing(const void *entry, const struct txb_setting *setting) {
  const void *at = (const char *)entry + setting->offset;
  switch (setting->type) {
  case TXB_SETTING_TEXT:
  case TXB_SETTING_CHOICE:
    return *(char *const *)at == NULL;
  case TXB_SETTING_LIST:
  case TXB_SETTING_MAP:
    return ((const struct txb_texts *)at)->count == 0;
  case TXB_SETTING_INTEGER:
  case TXB_SETTING_BOOLEAN:
    return false;
  }
  return false;
}

static enum txb_rc check_entry(const void *entry, const struct txb_section *section, struct txb_error *err) {
  const struct txb_section_head *head = entry;
  const char *name = section->list ? txb_settings_entry_name(entry, section) : NULL;
  for (size_t i = 0; i < section->count; i++) {
    const struct txb_setting *setting = &section->settings[i];
    if (!setting->required || !is_missing(entry, setting))
      continue;
    if (name == NULL)
      return REFUSE(err, "%s: %s is missing", head->where == NULL ? section->name : head->where, setting->key);
    return REFUSE(err, "%s: %s is missing for %s %s; set %s.%s.%s", head->where, setting->key, section->name_key, name,
                  section->name, name, setting->key);
  }
  return TXB_OK;
}

static enum txb_rc check_list(const struct txb_settings *s, const struct txb_section *section, struct txb_error *err) {
  const char *list =
      (const char *)((const struct txb_settings_list *)(const void *)((const char *)s + section->offset))->items;
  size_t count = txb_settings_entries(s, section);
  for (size_t i = 0; i < count; i++) {
    const void *entry = list + i * section->size;
    TXB_TRY(check_entry(entry, section, err));
    for (size_t j = 0; j < i; j++) {
      const char *name = txb_settings_entry_name(entry, section);
      if (strcmp(name, txb_settings_entry_name(list + j * section->size, section)) == 0)
        return REFUSE(err, "%s: there is already one with %s %s", ((const struct txb_section_head *)entry)->where,
                      section->name_key, name);
    }
  }
  return TXB_OK;
}

static enum txb_rc check_handler(const struct txb_group_settings *g, struct txb_error *err) {
  bool sql = strcmp(g->handler_kind, "sql") == 0, coordinator = strcmp(g->handler_kind, "coordinator") == 0;
  if (coordinator && (g->handler_function != NULL || g->handler_path != NULL))
    return REFUSE(err, "%s: handler.%s of group %s belongs to kind %s, but its kind is coordinator", g->head.where,
                  g->handler_function != NULL ? "function" : "path", g->group,
                  g->handler_function != NULL ? "sql" : "plugin");
  if (coordinator && g->topics.count != 1)
    return REFUSE(err, "%s: group %s is a coordinator and has %zu topics: give it one, which is its sagas'",
                  g->head.where, g->group, g->topics.count);
  if (coordinator)
    return TXB_OK;
  if (sql && g->handler_function == NULL)
    return REFUSE(err, "%s: handler.function is missing for group %s: the SQL function that applies its messages",
                  g->head.where, g->group);
  if (!sql && g->handler_path == NULL)
    return REFUSE(err, "%s: handler.path is missing for group %s: the shared object of the plugin", g->head.where,
                  g->group);
  if (!sql && g->handler_function != NULL)
    return REFUSE(err, "%s: handler.function of group %s belongs to kind sql, but its kind is plugin", g->head.where,
                  g->group);
  if (sql && g->handler_path != NULL)
    return REFUSE(err, "%s: handler.path of group %s belongs to kind plugin, but its kind is sql", g->head.where,
                  g->group);
  return TXB_OK;
}

static enum txb_rc check_group(const struct txb_group_settings *g, struct txb_error *err) {
  TXB_TRY(check_handler(g, err));
  if (g->retry_first_ms > g->retry_cap_ms)
    return REFUSE(err, "%s: retry.first_ms of group %s is longer than its retry.cap_ms", g->head.where, g->group);
  for (size_t i = 0; g->retry_dead_letter_topic != NULL && i < g->topics.count; i++)
    if (strcmp(g->retry_dead_letter_topic, g->topics.items[i]) == 0)
      return REFUSE(err,
                    "%s: retry.dead_letter_topic of group %s is %s, one of its own topics: it would read what it could "
                    "not apply; name another",
                    g->head.where, g->group, g->retry_dead_letter_topic);
  return TXB_OK;
}

/* By the very way in which it is opened: what can't be read fails before anything is connected, with a message that
 * holds no secret. */
enum txb_rc txb_settings_check_database(const char *uri, const char *where, struct txb_error *err) {
  char described[300];
  txb_pg_describe_uri(uri, described, sizeof(described));
  if (strcmp(described, TXB_PG_MALFORMED) != 0)
    return TXB_OK;
  struct txb_pg_options options = {.uri = uri, .stop_fd = -1};
  struct txb_pg *pg = NULL;
  if (txb_pg_open(&options, &pg, err) != TXB_OK)
    return txb_error_prefix(err, "%s", where);
  txb_pg_close(pg);
  return TXB_OK;
}

static enum txb_rc check_databases(const struct txb_settings *s, struct txb_error *err) {
  for (size_t i = 0; i < s->sources.count; i++) {
    const struct txb_source_settings *source = txb_settings_source(s, i);
    if (txb_settings_check_database(source->database, source->head.where, err) != TXB_OK)
      return txb_error_prefix(err, "database of source %s", source->name);
  }
  for (size_t i = 0; i < s->workers.count; i++) {
    const struct txb_group_settings *group = txb_settings_group(s, i);
    if (txb_settings_check_database(group->database, group->head.where, err) != TXB_OK)
      return txb_error_prefix(err, "database of group %s", group->group);
  }
  return TXB_OK;
}

enum txb_rc txb_settings_finish(const struct txb_settings *s, struct txb_error *err) {
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++) {
    if (section->list)
      TXB_TRY(check_list(s, section, err));
    else
      TXB_TRY(check_entry((const char *)s + section->offset, section, err));
  }
  for (size_t i = 0; i < s->workers.count; i++)
    TXB_TRY(check_group(txb_settings_group(s, i), err));
  TXB_TRY(check_databases(s, err));
  if (s->retry.first_ms > s->retry.cap_ms)
    return REFUSE(err, "retry.first_ms (%" PRId64 ") is longer than retry.cap_ms (%" PRId64 ")", s->retry.first_ms,
                  s->retry.cap_ms);
  if (s->relay.inflight_rows < s->relay.read_rows)
    return REFUSE(
        err, "relay.inflight_rows (%" PRId64 ") is less than relay.read_rows (%" PRId64 "): a read would never fit",
        s->relay.inflight_rows, s->relay.read_rows);
  if (s->relay.inflight_bytes < s->relay.read_bytes)
    return REFUSE(
        err, "relay.inflight_bytes (%" PRId64 ") is less than relay.read_bytes (%" PRId64 "): a read would never fit",
        s->relay.inflight_bytes, s->relay.read_bytes);
  if (s->kafka.client.count == 0)
    return TXB_OK;
  struct txb_error problem;
  if (txb_kafka_options_check((const char *const *)s->kafka.client.items, &problem) != TXB_OK)
    return REFUSE(err, "kafka.client: %s", problem.message);
  return TXB_OK;
}
