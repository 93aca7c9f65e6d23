/* Settings: values into their structs. One way in for file, environment and flags: txb_settings_put. */
#include "common/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/kafka.h"
#include "common/memory.h"
#include "common/nearest.h"
#include "common/settings_internal.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static void *field(void *entry, const struct txb_setting *setting) {
  return (char *)entry + setting->offset;
}

static size_t number_of(const struct txb_section *section, const struct txb_setting *setting) {
  return (size_t)(setting - section->settings);
}

void txb_texts_fini(struct txb_texts *texts) {
  for (size_t i = 0; i < texts->count; i++)
    txb_free(texts->items[i]);
  txb_free(texts->items);
  *texts = (struct txb_texts){NULL, 0};
}

/* Adds a copy of size bytes and keeps the NULL at the end. */
enum txb_rc txb_texts_add(struct txb_texts *texts, const char *text, size_t size, struct txb_error *err) {
  void *copy;
  TXB_TRY(txb_alloc(size + 1, &copy, err));
  memcpy(copy, text, size);
  void *items = texts->items;
  enum txb_rc rc = txb_realloc_array(&items, texts->count + 2, sizeof(char *), err);
  if (rc != TXB_OK) {
    txb_free(copy);
    return rc;
  }
  texts->items = items;
  texts->items[texts->count++] = copy;
  texts->items[texts->count] = NULL;
  return TXB_OK;
}

/* ---- one value ------------------------------------------------------------------------------------------- */

static enum txb_rc put_text(char **out, const struct txb_setting *setting, const char *text, const char *where,
                            struct txb_error *err) {
  const char *wrong = setting->check == NULL ? NULL : setting->check(text);
  if (wrong != NULL && strchr(text, '@') != NULL) /* USER:PASSWORD@HOST, where none belongs */
    return REFUSE(err, "%s: %s (what was given is not shown: it may hold a password)", where, wrong);
  if (wrong != NULL)
    return REFUSE(err, "%s: \"%s\" %s", where, text, wrong);
  if (setting->required && *text == '\0')
    return REFUSE(err, "%s: must not be empty", where);
  char *copy = NULL;
  if (*text != '\0')
    TXB_TRY(txb_strdup(text, &copy, err));
  txb_free(*out);
  *out = copy;
  return TXB_OK;
}

static enum txb_rc put_choice(char **out, const struct txb_setting *setting, const char *text, const char *where,
                              struct txb_error *err) {
  size_t size = strlen(text);
  for (const char *c = setting->choices; c != NULL; c = strchr(c, '|') == NULL ? NULL : strchr(c, '|') + 1)
    if (size > 0 && strncmp(c, text, size) == 0 && (c[size] == '|' || c[size] == '\0'))
      return put_text(out, setting, text, where, err);
  return REFUSE(err, "%s: \"%s\" is not one of %s", where, text, setting->choices);
}

static enum txb_rc put_integer(int64_t *out, const struct txb_setting *setting, const char *text, const char *where,
                               struct txb_error *err) {
  char *end = NULL;
  errno = 0;
  int64_t value = strtoll(text, &end, 10);
  bool number = *text != '\0' && *end == '\0' && errno == 0 && (*text == '-' || (*text >= '0' && *text <= '9'));
  if (!number || value < setting->min || value > setting->max)
    return REFUSE(err, "%s: \"%s\" is not a whole number from %" PRId64 " to %" PRId64 " (%s)", where, text,
                  setting->min, setting->max, setting->unit == NULL ? "count" : setting->unit);
  *out = value;
  return TXB_OK;
}

static enum txb_rc put_boolean(bool *out, const char *text, const char *where, struct txb_error *err) {
  static const char *const yes[] = {"true", "on", "yes", "1"}, *const no[] = {"false", "off", "no", "0"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(yes); i++) {
    if (strcmp(text, yes[i]) == 0) {
      *out = true;
      return TXB_OK;
    }
    if (strcmp(text, no[i]) == 0) {
      *out = false;
      return TXB_OK;
    }
  }
  return REFUSE(err, "%s: \"%s\" is neither true nor false", where, text);
}

/* Splits "a, b" into its trimmed parts. */
static enum txb_rc split(const char *text, struct txb_texts *out, struct txb_error *err) {
  while (*text != '\0') {
    size_t lead = strspn(text, " ,");
    text += lead;
    size_t size = strcspn(text, ",");
    size_t kept = size;
    while (kept > 0 && text[kept - 1] == ' ')
      kept--;
    if (kept > 0)
      TXB_TRY(txb_texts_add(out, text, kept, err));
    text += size;
  }
  return TXB_OK;
}

static enum txb_rc put_list(struct txb_texts *out, const struct txb_setting *setting, const char *text,
                            const char *where, struct txb_error *err) {
  struct txb_texts parts = {NULL, 0};
  enum txb_rc rc = split(text, &parts, err);
  for (size_t i = 0; rc == TXB_OK && i < parts.count; i++) {
    const char *wrong = setting->check == NULL ? NULL : setting->check(parts.items[i]);
    if (wrong != NULL)
      rc = REFUSE(err, "%s: \"%s\" %s", where, parts.items[i], wrong);
  }
  if (rc == TXB_OK && parts.count == 0 && setting->required)
    rc = REFUSE(err, "%s: must name at least one", where);
  if (rc != TXB_OK) {
    txb_texts_fini(&parts);
    return rc;
  }
  txb_texts_fini(out);
  *out = parts;
  return TXB_OK;
}

enum txb_rc txb_texts_map_put(struct txb_texts *map, const char *name, const char *value, struct txb_error *err) {
  for (size_t i = 0; i + 1 < map->count; i += 2) {
    if (strcmp(map->items[i], name) != 0)
      continue;
    char *copy;
    TXB_TRY(txb_strdup(value, &copy, err));
    txb_free(map->items[i + 1]);
    map->items[i + 1] = copy;
    return TXB_OK;
  }
  TXB_TRY(txb_texts_add(map, name, strlen(name), err));
  enum txb_rc rc = txb_texts_add(map, value, strlen(value), err);
  if (rc != TXB_OK) {
    txb_free(map->items[--map->count]);
    map->items[map->count] = NULL;
  }
  return rc;
}

/* "a=1, b=2": each set into the map beside what is there. */
static enum txb_rc put_map(struct txb_texts *out, const char *text, const char *where, struct txb_error *err) {
  struct txb_texts parts = {NULL, 0};
  enum txb_rc rc = split(text, &parts, err);
  for (size_t i = 0; rc == TXB_OK && i < parts.count; i++) {
    char *equals = strchr(parts.items[i], '=');
    if (equals != NULL)
      *equals = '\0';
    /* What is no option may be the rest of a secret with a comma in it: its text is not told. */
    if (equals == NULL || (i > 0 && !txb_kafka_option_is_allowed(parts.items[i]))) {
      rc = REFUSE(err,
                  "%s: part %zu, counted by commas, is not NAME=VALUE of a Kafka client option; set a value that holds "
                  "a comma by itself, as kafka.client.NAME=VALUE",
                  where, i + 1);
      break;
    }
    rc = txb_texts_map_put(out, parts.items[i], equals + 1, err);
  }
  txb_texts_fini(&parts);
  return rc;
}

enum txb_rc txb_settings_put(void *entry, const struct txb_section *section, const struct txb_setting *setting,
                             const char *text, enum txb_setting_from from, const char *where, struct txb_error *err) {
  void *at = field(entry, setting);
  switch (setting->type) {
  case TXB_SETTING_TEXT:
    TXB_TRY(put_text(at, setting, text, where, err));
    break;
  case TXB_SETTING_CHOICE:
    TXB_TRY(put_choice(at, setting, text, where, err));
    break;
  case TXB_SETTING_INTEGER:
    TXB_TRY(put_integer(at, setting, text, where, err));
    break;
  case TXB_SETTING_BOOLEAN:
    TXB_TRY(put_boolean(at, text, where, err));
    break;
  case TXB_SETTING_LIST:
    TXB_TRY(put_list(at, setting, text, where, err));
    break;
  case TXB_SETTING_MAP:
    TXB_TRY(put_map(at, text, where, err));
    break;
  }
  txb_settings_mark(entry, section, setting, from);
  return TXB_OK;
}

void txb_settings_mark(void *entry, const struct txb_section *section, const struct txb_setting *setting,
                       enum txb_setting_from from) {
  struct txb_section_head *head = entry;
  head->from[number_of(section, setting)] = (unsigned char)from;
}

/* ---- sections and entries
 * --------------------------------------------------------------------------------------------------------- */

const struct txb_section *txb_settings_section(const char *name) {
  for (const struct txb_section *s = txb_sections; s->name != NULL; s++)
    if (strcmp(s->name, name) == 0)
      return s;
  return NULL;
}

const struct txb_setting *txb_settings_key(const struct txb_section *section, const char *key) {
  for (size_t i = 0; i < section->count; i++)
    if (strcmp(section->settings[i].key, key) == 0)
      return &section->settings[i];
  return NULL;
}

void *txb_settings_place(struct txb_settings *s, const struct txb_section *section, size_t index) {
  void *at = (char *)s + section->offset;
  if (!section->list)
    return at;
  struct txb_settings_list *list = at;
  return (char *)list->items + index * section->size;
}

size_t txb_settings_entries(const struct txb_settings *s, const struct txb_section *section) {
  const void *at = (const char *)s + section->offset;
  return section->list ? ((const struct txb_settings_list *)at)->count : 1;
}

static void entry_fini(void *entry, const struct txb_section *section) {
  for (size_t i = 0; i < section->count; i++) {
    void *at = field(entry, &section->settings[i]);
    switch (section->settings[i].type) {
    case TXB_SETTING_TEXT:
    case TXB_SETTING_CHOICE:
      txb_free(*(char **)at);
      *(char **)at = NULL;
      break;
    case TXB_SETTING_LIST:
    case TXB_SETTING_MAP:
      txb_texts_fini(at);
      break;
    case TXB_SETTING_INTEGER:
    case TXB_SETTING_BOOLEAN:
      break;
    }
  }
  struct txb_section_head *head = entry;
  txb_free(head->where);
  head->where = NULL;
}

static enum txb_rc entry_defaults(void *entry, const struct txb_section *section, struct txb_error *err) {
  memset(entry, 0, section->size);
  for (size_t i = 0; i < section->count; i++) {
    const struct txb_setting *setting = &section->settings[i];
    if (setting->fallback != NULL)
      TXB_TRY(txb_settings_put(entry, section, setting, setting->fallback, TXB_FROM_DEFAULT, setting->key, err));
  }
  return TXB_OK;
}

enum txb_rc txb_settings_append(struct txb_settings *s, const struct txb_section *section, const char *where,
                                void **entry_out, struct txb_error *err) {
  struct txb_settings_list *list = (void *)((char *)s + section->offset);
  TXB_TRY(txb_realloc_array(&list->items, list->count + 1, section->size, err));
  void *entry = (char *)list->items + list->count * section->size;
  enum txb_rc rc = entry_defaults(entry, section, err);
  if (rc == TXB_OK)
    rc = txb_strdup(where, &((struct txb_section_head *)entry)->where, err);
  if (rc != TXB_OK) {
    entry_fini(entry, section);
    return rc;
  }
  list->count++;
  *entry_out = entry;
  return TXB_OK;
}

const char *txb_settings_entry_name(const void *entry, const struct txb_section *section) {
  const struct txb_setting *name = txb_settings_key(section, section->name_key);
  const void *at = (const char *)entry + name->offset;
  return *(char *const *)at;
}

enum txb_rc txb_settings_entry(struct txb_settings *s, const struct txb_section *section, const char *name,
                               enum txb_setting_from from, const char *where, void **entry_out, struct txb_error *err) {
  for (size_t i = 0; i < txb_settings_entries(s, section); i++) {
    void *entry = txb_settings_place(s, section, i);
    const char *has = txb_settings_entry_name(entry, section);
    if (has != NULL && strcmp(has, name) == 0) {
      *entry_out = entry;
      return TXB_OK;
    }
  }
  const struct txb_setting *key = txb_settings_key(section, section->name_key);
  const char *wrong = key->check == NULL ? NULL : key->check(name);
  if (wrong != NULL)
    return REFUSE(err, "%s: %s \"%s\" %s", where, section->name_key, name, wrong);
  void *entry;
  TXB_TRY(txb_settings_append(s, section, where, &entry, err));
  enum txb_rc rc = txb_settings_put(entry, section, key, name, from, where, err);
  if (rc != TXB_OK) {
    entry_fini(entry, section);
    ((struct txb_settings_list *)(void *)((char *)s + section->offset))->count--;
    return rc;
  }
  *entry_out = entry;
  return TXB_OK;
}

enum txb_rc txb_settings_init(struct txb_settings *s, struct txb_error *err) {
  memset(s, 0, sizeof(*s));
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++)
    if (!section->list)
      TXB_TRY(entry_defaults((char *)s + section->offset, section, err));
  return TXB_OK;
}

void txb_settings_fini(struct txb_settings *s) {
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++) {
    for (size_t i = 0; i < txb_settings_entries(s, section); i++)
      entry_fini(txb_settings_place(s, section, i), section);
    if (section->list)
      txb_free(((struct txb_settings_list *)(void *)((char *)s + section->offset))->items);
  }
  memset(s, 0, sizeof(*s));
}

/* ---- unknown keys
 * ------------------------------------------------------------------------------------------------------------------ */

/* Keys as the section has them, and the names of its nested objects ("handler"). */
#define NAMES_MAX (2 * TXB_SETTINGS_IN_SECTION_MAX)

static const char *nearest_key(const struct txb_section *section, const char *key, char prefixes[][32]) {
  const char *names[NAMES_MAX] = {NULL};
  size_t count = 0;
  for (size_t i = 0; i < section->count; i++) {
    const char *dot = strchr(section->settings[i].key, '.');
    names[count++] = section->settings[i].key;
    if (dot == NULL || (size_t)(dot - section->settings[i].key) >= sizeof(prefixes[0]))
      continue;
    memcpy(prefixes[i], section->settings[i].key, (size_t)(dot - section->settings[i].key));
    prefixes[i][dot - section->settings[i].key] = '\0';
    names[count++] = prefixes[i];
  }
  const char *nearest = txb_nearest(key, names, count);
  for (size_t i = 0; nearest == NULL && *key != '\0' && i < count; i++)
    if (strncmp(names[i], key, strlen(key)) == 0) /* cut short: lease for lease_ms */
      nearest = names[i];
  return nearest;
}

static const char *nearest_section(const char *name) {
  const char *names[16];
  size_t count = 0;
  for (const struct txb_section *s = txb_sections; s->name != NULL && count < TXB_ARRAY_SIZE(names); s++)
    names[count++] = s->name;
  return txb_nearest(name, names, count);
}

enum txb_rc txb_settings_unknown_key(const struct txb_section *section, const char *key, const char *where,
                                     struct txb_error *err) {
  char prefixes[TXB_SETTINGS_IN_SECTION_MAX][32];
  const char *nearest = nearest_key(section, key, prefixes);
  if (nearest != NULL)
    return REFUSE(err, "%s: %s has no key \"%s\"; did you mean %s%s.%s?", where, section->name, key, section->name,
                  section->list ? ".NAME" : "", nearest);
  return REFUSE(err, "%s: %s has no key \"%s\"; `txbroker config --keys` lists them", where, section->name, key);
}

enum txb_rc txb_settings_unknown_section(const char *name, const char *where, struct txb_error *err) {
  const char *nearest = nearest_section(name);
  if (nearest != NULL)
    return REFUSE(err, "%s: there is no section \"%s\"; did you mean \"%s\"?", where, name, nearest);
  return REFUSE(err, "%s: there is no section \"%s\"; `txbroker config --keys` lists them", where, name);
}
