/* Settings from a JSON file, the environment and flags, and what must hold when all are loaded. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/json_place.h"
#include "common/kafka.h"
#include "common/memory.h"
#include "common/nearest.h"
#include "common/settings_internal.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define FILE_BYTES_MAX   (1024 * 1024)

/* ---- file ------------------------------------------------------------------------------------------------ */

/* A scalar as the text that a flag would have. */
static enum txb_rc scalar_text(const json_t *value, const char *where, struct txb_buffer *out, struct txb_error *err) {
  if (json_is_string(value))
    txb_buffer_add(out, json_string_value(value), json_string_length(value));
  else if (json_is_boolean(value))
    txb_buffer_add_text(out, json_is_true(value) ? "true" : "false");
  else if (json_is_integer(value))
    txb_buffer_addf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
  else if (json_is_real(value))
    txb_buffer_addf(out, "%.15g", json_real_value(value));
  else
    return REFUSE(err, "%s: must be a string, a number, true or false, not %s", where, txb_json_kind_name(value));
  return txb_buffer_check(out, err);
}

static enum txb_rc put_client(void *entry, const struct txb_section *section, const struct txb_setting *setting,
                              json_t *value, const char *where, struct txb_error *err) {
  if (!json_is_object(value))
    return REFUSE(err, "%s: must be an object of names and values, not %s", where, txb_json_kind_name(value));
  const char *name;
  json_t *item;
  json_object_foreach(value, name, item) {
    struct txb_buffer text;
    txb_buffer_init(&text);
    char at[TXB_JSON_WHERE_SIZE + 100];
    (void)snprintf(at, sizeof(at), "%s: %.90s", where, name);
    enum txb_rc rc = scalar_text(item, at, &text, err);
    if (rc == TXB_OK)
      rc = txb_texts_map_put((void *)((char *)entry + setting->offset), name, txb_buffer_text(&text), err);
    txb_buffer_fini(&text);
    TXB_TRY(rc);
  }
  txb_settings_mark(entry, section, setting, TXB_FROM_FILE);
  return TXB_OK;
}

static enum txb_rc list_text(const json_t *value, const char *where, struct txb_buffer *out, struct txb_error *err) {
  if (!json_is_array(value))
    return REFUSE(err, "%s: must be an array of strings, not %s", where, txb_json_kind_name(value));
  for (size_t i = 0; i < json_array_size(value); i++) {
    const json_t *item = json_array_get(value, i);
    if (!json_is_string(item) || strchr(json_string_value(item), ',') != NULL)
      return REFUSE(err, "%s: element %zu must be a string without a comma", where, i);
    txb_buffer_addf(out, "%s%s", i == 0 ? "" : ",", json_string_value(item));
  }
  return txb_buffer_check(out, err);
}

/* JSON has types: a number in quotes is a mistake that is better told than guessed at. */
static enum txb_rc check_kind(const struct txb_setting *setting, const json_t *value, const char *where,
                              struct txb_error *err) {
  switch (setting->type) {
  case TXB_SETTING_TEXT:
  case TXB_SETTING_CHOICE:
    return json_is_string(value) ? TXB_OK
                                 : REFUSE(err, "%s: must be a string, not %s", where, txb_json_kind_name(value));
  case TXB_SETTING_INTEGER:
    if (json_is_real(value))
      return REFUSE(err, "%s: must be a whole number, not %.15g", where, json_real_value(value));
    return json_is_integer(value) ? TXB_OK
                                  : REFUSE(err, "%s: must be a whole number, not %s", where, txb_json_kind_name(value));
  case TXB_SETTING_BOOLEAN:
    return json_is_boolean(value) ? TXB_OK
                                  : REFUSE(err, "%s: must be true or false, not %s", where, txb_json_kind_name(value));
  case TXB_SETTING_LIST:
  case TXB_SETTING_MAP:
    return TXB_OK;
  }
  return TXB_OK;
}

static enum txb_rc put_json(void *entry, const struct txb_section *section, const struct txb_setting *setting,
                            json_t *value, const char *where, struct txb_error *err) {
  if (setting->type == TXB_SETTING_MAP)
    return put_client(entry, section, setting, value, where, err);
  TXB_TRY(check_kind(setting, value, where, err));
  struct txb_buffer text;
  txb_buffer_init(&text);
  enum txb_rc rc =
      setting->type == TXB_SETTING_LIST ? list_text(value, where, &text, err) : scalar_text(value, where, &text, err);
  if (rc == TXB_OK)
    rc = txb_settings_put(entry, section, setting, txb_buffer_text(&text), TXB_FROM_FILE, where, err);
  txb_buffer_fini(&text);
  return rc;
}

static bool is_prefix(const struct txb_section *section, const char *prefix) {
  size_t size = strlen(prefix);
  for (size_t i = 0; i < section->count; i++)
    if (strncmp(section->settings[i].key, prefix, size) == 0 && section->settings[i].key[size] == '.')
      return true;
  return false;
}

/* One object of a section; `prefix` is "handler" while inside it, else "". path[depth] is free for the key. */
static enum txb_rc load_object(const struct txb_json_document *document, void *entry, const struct txb_section *section,
                               const char *prefix, json_t *object, struct txb_json_step *path, size_t depth,
                               struct txb_error *err) {
  char where[TXB_JSON_WHERE_SIZE];
  txb_json_describe(document, path, depth, where);
  if (!json_is_object(object))
    return REFUSE(err, "%s: must be an object, not %s", where, txb_json_kind_name(object));
  const char *name;
  json_t *value;
  json_object_foreach(object, name, value) {
    char key[100];
    (void)snprintf(key, sizeof(key), "%s%s%s", prefix, *prefix == '\0' ? "" : ".", name);
    path[depth] = (struct txb_json_step){.key = name};
    const struct txb_setting *setting = txb_settings_key(section, key);
    if (setting != NULL) {
      txb_json_describe(document, path, depth + 1, where);
      TXB_TRY(put_json(entry, section, setting, value, where, err));
    } else if (*prefix == '\0' && is_prefix(section, key)) {
      TXB_TRY(load_object(document, entry, section, key, value, path, depth + 1, err));
    } else {
      txb_json_describe(document, path, depth + 1, where);
      return txb_settings_unknown_key(section, key, where, err);
    }
  }
  return TXB_OK;
}

static enum txb_rc load_list(const struct txb_json_document *document, struct txb_settings *s,
                             const struct txb_section *section, json_t *list, struct txb_json_step *path,
                             struct txb_error *err) {
  char where[TXB_JSON_WHERE_SIZE];
  txb_json_describe(document, path, 1, where);
  if (!json_is_array(list))
    return REFUSE(err, "%s: must be an array of objects, not %s", where, txb_json_kind_name(list));
  for (size_t i = 0; i < json_array_size(list); i++) {
    path[1] = (struct txb_json_step){.index = i};
    txb_json_describe(document, path, 2, where);
    void *entry;
    TXB_TRY(txb_settings_append(s, section, where, &entry, err));
    TXB_TRY(load_object(document, entry, section, "", json_array_get(list, i), path, 2, err));
  }
  return TXB_OK;
}

static enum txb_rc load_document(struct txb_settings *s, const struct txb_json_document *document, json_t *root,
                                 struct txb_error *err) {
  if (!json_is_object(root))
    return REFUSE(err, "%s: must be a JSON object of sections, not %s", document->name, txb_json_kind_name(root));
  const char *name;
  json_t *value;
  json_object_foreach(root, name, value) {
    struct txb_json_step path[5] = {{.key = name}};
    const struct txb_section *section = txb_settings_section(name);
    if (section == NULL) {
      char where[TXB_JSON_WHERE_SIZE];
      txb_json_describe(document, path, 1, where);
      return txb_settings_unknown_section(name, where, err);
    }
    if (section->list)
      TXB_TRY(load_list(document, s, section, value, path, err));
    else
      TXB_TRY(load_object(document, txb_settings_place(s, section, 0), section, "", value, path, 1, err));
  }
  return TXB_OK;
}

enum txb_rc txb_settings_load_json(struct txb_settings *s, const char *name, const char *text, size_t size,
                                   struct txb_error *err) {
  struct txb_json_document document = {name, txb_slice_of(text, size)};
  json_t *root;
  TXB_TRY(txb_json_parse(&document, &root, err));
  enum txb_rc rc = load_document(s, &document, root, err);
  json_decref(root);
  return rc;
}

static enum txb_rc read_all(int fd, const char *path, struct txb_buffer *out, struct txb_error *err) {
  while (out->size <= FILE_BYTES_MAX) {
    char chunk[4096];
    ssize_t n = read(fd, chunk, sizeof(chunk));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return REFUSE(err, "can't read %s: %s", path, strerror(errno));
    if (n == 0)
      return txb_buffer_check(out, err);
    txb_buffer_add(out, chunk, (size_t)n);
  }
  return REFUSE(err, "%s is larger than a configuration can be (%d bytes)", path, FILE_BYTES_MAX);
}

enum txb_rc txb_settings_load_file(struct txb_settings *s, const char *path, struct txb_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return REFUSE(err, "can't open configuration %s: %s", path, strerror(errno));
  struct txb_buffer text;
  txb_buffer_init(&text);
  enum txb_rc rc = read_all(fd, path, &text, err);
  (void)close(fd);
  if (rc == TXB_OK)
    rc = txb_settings_load_json(s, path, text.data == NULL ? "" : text.data, text.size, err);
  txb_buffer_fini(&text);
  return rc;
}

/* ---- environment ----------------------------------------------------------------------------------------- */

static void add_upper(struct txb_buffer *out, const char *text) {
  for (; *text != '\0'; text++) {
    char c = isalnum((unsigned char)*text) ? (char)toupper((unsigned char)*text) : '_';
    txb_buffer_add(out, &c, 1);
  }
}

void txb_settings_environment_name(const struct txb_section *section, const struct txb_setting *setting,
                                   const char *name, struct txb_buffer *out) {
  txb_buffer_add_text(out, "TXB_");
  add_upper(out, section->name);
  txb_buffer_add_text(out, "_");
  if (section->list && name != NULL) {
    add_upper(out, name);
    txb_buffer_add_text(out, "_");
  }
  add_upper(out, setting->key);
}

static const char *lookup(const char *const *environment, const char *name) {
  size_t size = strlen(name);
  for (; *environment != NULL; environment++)
    if (strncmp(*environment, name, size) == 0 && (*environment)[size] == '=')
      return *environment + size + 1;
  return NULL;
}

/* Takes the variables of one entry; every name that was looked for goes into known. */
static enum txb_rc load_entry_environment(void *entry, const struct txb_section *section,
                                          const char *const *environment, struct txb_texts *known,
                                          struct txb_error *err) {
  for (size_t i = 0; i < section->count; i++) {
    const struct txb_setting *setting = &section->settings[i];
    if (section->list && strcmp(setting->key, section->name_key) == 0)
      continue;
    struct txb_buffer name;
    txb_buffer_init(&name);
    txb_settings_environment_name(section, setting, section->list ? txb_settings_entry_name(entry, section) : NULL,
                                  &name);
    enum txb_rc rc = txb_buffer_check(&name, err);
    if (rc == TXB_OK)
      rc = txb_texts_add(known, name.data, name.size, err);
    const char *value = rc == TXB_OK ? lookup(environment, txb_buffer_text(&name)) : NULL;
    if (value != NULL)
      rc = txb_settings_put(entry, section, setting, value, TXB_FROM_ENVIRONMENT, txb_buffer_text(&name), err);
    txb_buffer_fini(&name);
    TXB_TRY(rc);
  }
  return TXB_OK;
}

/* TXB_RELAY_LEASEMS is a typing error; TXB_KAFKA_SERVICE_HOST is what Kubernetes sets for a service txb-kafka. */
static enum txb_rc find_mistyped(const char *const *environment, const struct txb_texts *known, struct txb_error *err) {
  for (; *environment != NULL; environment++) {
    size_t size = strcspn(*environment, "=");
    char name[200];
    if (strncmp(*environment, "TXB_", 4) != 0 || size >= sizeof(name))
      continue;
    memcpy(name, *environment, size);
    name[size] = '\0';
    bool exact = false;
    for (size_t i = 0; i < known->count && !exact; i++)
      exact = strcmp(known->items[i], name) == 0;
    const char *nearest = exact ? NULL : txb_nearest(name, (const char *const *)known->items, known->count);
    if (nearest != NULL)
      return REFUSE(err, "environment: %s is not a setting; did you mean %s?", name, nearest);
  }
  return TXB_OK;
}

enum txb_rc txb_settings_load_environment(struct txb_settings *s, const char *const *environment,
                                          struct txb_error *err) {
  struct txb_texts known = {NULL, 0};
  enum txb_rc rc = TXB_OK;
  for (const struct txb_section *section = txb_sections; rc == TXB_OK && section->name != NULL; section++)
    for (size_t i = 0; rc == TXB_OK && i < txb_settings_entries(s, section); i++) {
      void *entry = txb_settings_place(s, section, i);
      if (!section->list || txb_settings_entry_name(entry, section) != NULL)
        rc = load_entry_environment(entry, section, environment, &known, err);
    }
  if (rc == TXB_OK)
    rc = find_mistyped(environment, &known, err);
  txb_texts_fini(&known);
  return rc;
}

/* Whether `variable` is TXB_SECTION_..._KEY, given TXB_SECTION_KEY: a setting of an entry of any name. */
static bool is_of_entry(const char *variable, const char *name, size_t section_size) {
  size_t head = strlen("TXB_") + section_size, tail = strlen(name) - head;
  size_t size = strlen(variable);
  return size > head + 1 + tail && strncmp(variable, name, head + 1) == 0 &&
         strcmp(variable + size - tail, name + head) == 0;
}

static bool stands_for(const char *variable, const struct txb_section *section, const struct txb_setting *setting) {
  struct txb_buffer buffer;
  txb_buffer_init(&buffer);
  txb_settings_environment_name(section, setting, NULL, &buffer);
  const char *name = txb_buffer_text(&buffer);
  bool same = strcmp(variable, name) == 0;
  if (section->list && *name != '\0') /* there was memory */
    same = is_of_entry(variable, name, strlen(section->name));
  txb_buffer_fini(&buffer);
  return same;
}

const struct txb_section *txb_settings_section_of_variable(const char *variable) {
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++)
    for (size_t i = 0; i < section->count; i++)
      if (stands_for(variable, section, &section->settings[i]))
        return section;
  return NULL;
}

static bool is_of(const char *variable, const struct txb_section *section, const char *entry_name) {
  bool same = false;
  for (size_t i = 0; i < section->count && !same; i++) {
    struct txb_buffer name;
    txb_buffer_init(&name);
    txb_settings_environment_name(section, &section->settings[i], entry_name, &name);
    same = strcmp(variable, txb_buffer_text(&name)) == 0;
    txb_buffer_fini(&name);
  }
  return same;
}

static enum txb_rc check_entry_variable(const struct txb_settings *s, const struct txb_section *section,
                                        const char *variable, struct txb_error *err) {
  const struct txb_settings_list *list = (const void *)((const char *)s + section->offset);
  for (size_t i = 0; i < list->count; i++) {
    const char *name = txb_settings_entry_name((const char *)list->items + i * section->size, section);
    if (name != NULL && is_of(variable, section, name))
      return TXB_OK;
  }
  return REFUSE(err, "environment: %s is for none of the %s that the configuration has: correct the name, or unset it",
                variable, section->name);
}

enum txb_rc txb_settings_check_environment(const struct txb_settings *s, const char *const *environment,
                                           struct txb_error *err) {
  for (; *environment != NULL; environment++) {
    size_t size = strcspn(*environment, "=");
    char name[200];
    if (size >= sizeof(name))
      continue;
    memcpy(name, *environment, size);
    name[size] = '\0';
    const struct txb_section *section = txb_settings_section_of_variable(name);
    if (section != NULL && section->list)
      TXB_TRY(check_entry_variable(s, section, name, err));
  }
  return TXB_OK;
}

/* ---- flags ----------------------------------------------------------------------------------------------- */

/* A key that ends `path` after a dot: "ledger.eu.retry.first_ms" -> retry.first_ms, and *name_size = 9. The longest
 * wins. */
static const struct txb_setting *key_at_end(const struct txb_section *section, const char *path, size_t *name_size) {
  for (const char *dot = strchr(path, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
    const struct txb_setting *setting = txb_settings_key(section, dot + 1);
    if (setting != NULL) {
      *name_size = (size_t)(dot - path);
      return setting;
    }
  }
  return NULL;
}

static enum txb_rc flag_of_list(struct txb_settings *s, const struct txb_section *section, char *path,
                                const char *value, const char *where, struct txb_error *err) {
  size_t name_size = 0;
  const struct txb_setting *setting = key_at_end(section, path, &name_size);
  if (setting == NULL) {
    const char *dot = strchr(path, '.');
    if (dot == NULL)
      return REFUSE(err, "%s: must be %s.NAME.KEY=VALUE", where, section->name);
    return txb_settings_unknown_key(section, dot + 1, where, err);
  }
  path[name_size] = '\0';
  void *entry;
  TXB_TRY(txb_settings_entry(s, section, path, TXB_FROM_FLAG, where, &entry, err));
  return txb_settings_put(entry, section, setting, value, TXB_FROM_FLAG, where, err);
}

static enum txb_rc flag_of_section(struct txb_settings *s, const struct txb_section *section, const char *key,
                                   const char *value, const char *where, struct txb_error *err) {
  void *entry = txb_settings_place(s, section, 0);
  const struct txb_setting *setting = txb_settings_key(section, key);
  if (setting != NULL)
    return txb_settings_put(entry, section, setting, value, TXB_FROM_FLAG, where, err);
  for (size_t i = 0; i < section->count; i++) {
    setting = &section->settings[i];
    size_t size = strlen(setting->key);
    if (setting->type != TXB_SETTING_MAP || strncmp(key, setting->key, size) != 0 || key[size] != '.')
      continue;
    TXB_TRY(txb_texts_map_put((void *)((char *)entry + setting->offset), key + size + 1, value, err));
    txb_settings_mark(entry, section, setting, TXB_FROM_FLAG);
    return TXB_OK;
  }
  return txb_settings_unknown_key(section, key, where, err);
}

enum txb_rc txb_settings_load_flag(struct txb_settings *s, const char *assignment, struct txb_error *err) {
  const char *equals = strchr(assignment, '=');
  const char *dot = strchr(assignment, '.');
  if (equals == NULL || dot == NULL || dot > equals)
    return REFUSE(err, "--set wants SECTION.KEY=VALUE, as in --set relay.lease_ms=5000");
  char path[300], where[sizeof(path) + 10];
  if ((size_t)(equals - assignment) >= sizeof(path))
    return REFUSE(err, "--set: the key is too long");
  memcpy(path, assignment, (size_t)(equals - assignment));
  path[equals - assignment] = '\0';
  (void)snprintf(where, sizeof(where), "--set %s", path);
  path[dot - assignment] = '\0';
  char *key = path + (dot - assignment) + 1;
  const struct txb_section *section = txb_settings_section(path);
  if (section == NULL)
    return txb_settings_unknown_section(path, where, err);
  if (section->list)
    return flag_of_list(s, section, key, equals + 1, where, err);
  return flag_of_section(s, section, key, equals + 1, where, err);
}
