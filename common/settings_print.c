/* Settings: what is printed from the table. */
#include <inttypes.h>
#include <string.h>

#include "common/kafka.h"
#include "common/settings_internal.h"

const char *txb_setting_from_name(enum txb_setting_from from) {
  switch (from) {
  case TXB_FROM_DEFAULT:
    return "default";
  case TXB_FROM_FILE:
    return "file";
  case TXB_FROM_ENVIRONMENT:
    return "environment";
  case TXB_FROM_FLAG:
    return "flag";
  }
  return "?";
}

/* ---- secrets --------------------------------------------------------------------------------------------- */

/* postgresql://user:PASSWORD@host/db?password=PASSWORD: from the first colon after // to the last @ before the path;
 * then the query. */
static void mask_url(const char *uri, struct txb_buffer *out) {
  const char *authority = strstr(uri, "://") + 3;
  /* A password may hold unescaped / or @ by mistake: the last @ of all ends it. */
  const char *at = strrchr(authority, '@');
  const char *colon = at == NULL ? NULL : memchr(authority, ':', (size_t)(at - authority));
  const char *rest = uri;
  if (colon != NULL) {
    txb_buffer_add(out, uri, (size_t)(colon - uri));
    txb_buffer_add_text(out, ":***");
    rest = at;
  }
  const char *query = strchr(rest, '?');
  if (query == NULL) {
    txb_buffer_add_text(out, rest);
    return;
  }
  txb_buffer_add(out, rest, (size_t)(query - rest));
  while (*query != '\0') {
    size_t size = 1 + strcspn(query + 1, "&");
    size_t name = strcspn(query + 1, "=&") + 1;
    bool secret = name < size && (memmem(query, name, "password", 8) != NULL || memchr(query, '%', name) != NULL);
    txb_buffer_add(out, query, secret ? name + 1 : size);
    if (secret)
      txb_buffer_add_text(out, "***");
    query += size;
  }
}

void txb_settings_mask_uri(const char *uri, struct txb_buffer *out) {
  if (strncmp(uri, "postgresql://", 13) == 0 || strncmp(uri, "postgres://", 11) == 0)
    mask_url(uri, out);
  else if (strstr(uri, "password") == NULL)
    txb_buffer_add_text(out, uri);
  else
    txb_buffer_add_text(out, "***"); /* keyword = value with quoting rules: rather nothing than a piece of a password */
}

static bool is_secret_option(const char *name) {
  for (const struct txb_kafka_option *o = txb_kafka_options_allowed; o->name != NULL; o++)
    if (strcmp(o->name, name) == 0)
      return o->secret;
  return true; /* unknown: it may be anything */
}

static const char *option_shown(const char *name, const char *value) {
  bool reference = strncmp(value, "env:", 4) == 0 || strncmp(value, "file:", 5) == 0;
  return is_secret_option(name) && !reference ? "***" : value;
}

/* ---- values ---------------------------------------------------------------------------------------------- */

static void show_texts(const struct txb_texts *texts, const struct txb_setting *setting, struct txb_buffer *out) {
  bool map = setting->type == TXB_SETTING_MAP;
  for (size_t i = 0; i < texts->count; i += map ? 2 : 1) {
    txb_buffer_add_text(out, i == 0 ? "" : ",");
    txb_buffer_add_text(out, texts->items[i]);
    if (map)
      txb_buffer_addf(out, "=%s", option_shown(texts->items[i], texts->items[i + 1]));
  }
}

void txb_settings_show(const void *entry, const struct txb_setting *setting, struct txb_buffer *out) {
  const void *at = (const char *)entry + setting->offset;
  switch (setting->type) {
  case TXB_SETTING_TEXT:
  case TXB_SETTING_CHOICE: {
    const char *text = *(char *const *)at;
    if (text == NULL)
      return;
    if (setting->secrecy == TXB_SHOWN_AS_URI)
      txb_settings_mask_uri(text, out);
    else
      txb_buffer_add_text(out, text);
    return;
  }
  case TXB_SETTING_INTEGER:
    txb_buffer_addf(out, "%" PRId64, *(const int64_t *)at);
    return;
  case TXB_SETTING_BOOLEAN:
    txb_buffer_add_text(out, *(const bool *)at ? "true" : "false");
    return;
  case TXB_SETTING_LIST:
  case TXB_SETTING_MAP:
    show_texts(at, setting, out);
    return;
  }
}

static void json_texts(const struct txb_texts *texts, bool map, struct txb_buffer *out) {
  txb_buffer_add_text(out, map ? "{" : "[");
  for (size_t i = 0; i < texts->count; i += map ? 2 : 1) {
    txb_buffer_add_text(out, i == 0 ? "" : ", ");
    txb_buffer_add_json(out, txb_slice_text(texts->items[i]));
    if (!map)
      continue;
    txb_buffer_add_text(out, ": ");
    txb_buffer_add_json(out, txb_slice_text(option_shown(texts->items[i], texts->items[i + 1])));
  }
  txb_buffer_add_text(out, map ? "}" : "]");
}

static void json_value(const void *entry, const struct txb_setting *setting, struct txb_buffer *out) {
  bool texts = setting->type == TXB_SETTING_LIST || setting->type == TXB_SETTING_MAP;
  bool quoted = setting->type == TXB_SETTING_TEXT || setting->type == TXB_SETTING_CHOICE;
  if (texts) {
    json_texts((const void *)((const char *)entry + setting->offset), setting->type == TXB_SETTING_MAP, out);
    return;
  }
  struct txb_buffer text;
  txb_buffer_init(&text);
  txb_settings_show(entry, setting, &text);
  if (quoted)
    txb_buffer_add_json(out, txb_slice_of(txb_buffer_text(&text), text.size));
  else
    txb_buffer_add_text(out, txb_buffer_text(&text));
  txb_buffer_fini(&text);
}

static bool has_value(const void *entry, const struct txb_setting *setting) {
  const void *at = (const char *)entry + setting->offset;
  if (setting->type == TXB_SETTING_TEXT || setting->type == TXB_SETTING_CHOICE)
    return *(char *const *)at != NULL;
  if (setting->type == TXB_SETTING_LIST || setting->type == TXB_SETTING_MAP)
    return ((const struct txb_texts *)at)->count > 0;
  return true;
}

/* ---- a configuration file
 * ------------------------------------------------------------------------------------------------------------ */

/* Writes "key": value pairs; keys of one prefix stand together in the table and become one nested object. */
struct member_writer {
  const struct txb_section *section;
  const void *entry; /* NULL: the sample */
  struct txb_buffer *out;
};

static bool wants(const struct member_writer *w, const struct txb_setting *setting) {
  return w->entry == NULL ? setting->sample != NULL : has_value(w->entry, setting);
}

static void write_members(const struct member_writer *w, const char *indent) {
  char open[40] = ""; /* the prefix whose object is open */
  bool first = true, first_inside = true;
  for (size_t i = 0; i < w->section->count; i++) {
    const struct txb_setting *setting = &w->section->settings[i];
    if (!wants(w, setting))
      continue;
    const char *dot = strchr(setting->key, '.');
    size_t size = dot == NULL ? 0 : (size_t)(dot - setting->key);
    if (*open != '\0' && (strlen(open) != size || strncmp(open, setting->key, size) != 0)) {
      txb_buffer_add_text(w->out, "}");
      *open = '\0';
    }
    if (*open == '\0')
      txb_buffer_addf(w->out, "%s\n%s", first ? "" : ",", indent);
    if (*open == '\0' && dot != NULL && size < sizeof(open)) {
      memcpy(open, setting->key, size);
      open[size] = '\0';
      txb_buffer_addf(w->out, "\"%s\": {", open);
      first_inside = true;
    }
    if (*open != '\0' && !first_inside)
      txb_buffer_add_text(w->out, ", ");
    txb_buffer_addf(w->out, "\"%s\": ", dot == NULL ? setting->key : dot + 1);
    if (w->entry == NULL)
      txb_buffer_add_text(w->out, setting->sample);
    else
      json_value(w->entry, setting, w->out);
    first = first_inside = false;
  }
  if (*open != '\0')
    txb_buffer_add_text(w->out, "}");
}

static const void *entry_at(const struct txb_settings *s, const struct txb_section *section, size_t index) {
  const char *base = (const char *)s + section->offset;
  if (!section->list)
    return base;
  return (const char *)((const struct txb_settings_list *)(const void *)base)->items + index * section->size;
}

static void write_file(const struct txb_settings *s, struct txb_buffer *out) {
  bool first = true;
  txb_buffer_add_text(out, "{");
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++) {
    size_t count = s == NULL || !section->list ? 1 : txb_settings_entries(s, section);
    bool sampled = false;
    for (size_t i = 0; i < section->count; i++)
      sampled = sampled || section->settings[i].sample != NULL;
    if (s == NULL && !sampled)
      continue;
    txb_buffer_addf(out, "%s\n  \"%s\": %s", first ? "" : ",", section->name, section->list ? "[" : "{");
    first = false;
    for (size_t i = 0; i < count; i++) {
      struct member_writer w = {section, s == NULL ? NULL : entry_at(s, section, i), out};
      txb_buffer_add_text(out, !section->list ? "" : i == 0 ? "\n    {" : ",\n    {");
      write_members(&w, section->list ? "      " : "    ");
      txb_buffer_add_text(out, section->list ? "\n    }" : "");
    }
    txb_buffer_add_text(out, !section->list ? "\n  }" : count == 0 ? "]" : "\n  ]");
  }
  txb_buffer_add_text(out, "\n}\n");
}

void txb_settings_print_json(const struct txb_settings *s, struct txb_buffer *out) {
  write_file(s, out);
}

void txb_settings_print_sample(struct txb_buffer *out) {
  write_file(NULL, out);
}

/* ---- help and reference
 * --------------------------------------------------------------------------------------------------------------- */

static const char *type_name(enum txb_setting_type type) {
  switch (type) {
  case TXB_SETTING_TEXT:
    return "text";
  case TXB_SETTING_INTEGER:
    return "whole number";
  case TXB_SETTING_BOOLEAN:
    return "true or false";
  case TXB_SETTING_CHOICE:
    return "one of";
  case TXB_SETTING_LIST:
    return "list of texts";
  case TXB_SETTING_MAP:
    return "names and values";
  }
  return "?";
}

/* "whole number of milliseconds, 1000 to 600000" */
static void describe_type(const struct txb_setting *setting, struct txb_buffer *out) {
  txb_buffer_add_text(out, type_name(setting->type));
  if (setting->type == TXB_SETTING_CHOICE)
    for (const char *c = setting->choices; *c != '\0'; c += strcspn(c, "|"), c += *c == '|')
      txb_buffer_addf(out, "%s%.*s", c == setting->choices ? " " : ", ", (int)strcspn(c, "|"), c);
  if (setting->unit != NULL)
    txb_buffer_addf(out, " of %s", setting->unit);
  if (setting->type == TXB_SETTING_INTEGER)
    txb_buffer_addf(out, ", %" PRId64 " to %" PRId64, setting->min, setting->max);
}

static void describe_default(const struct txb_setting *setting, struct txb_buffer *out) {
  if (setting->required)
    txb_buffer_add_text(out, "required");
  else if (setting->fallback != NULL)
    txb_buffer_add_text(out, setting->fallback);
  else
    txb_buffer_add_text(out, setting->fallback_note == NULL ? "none" : setting->fallback_note);
}

void txb_settings_print_reference(struct txb_buffer *out) {
  txb_buffer_add_text(
      out, "# Settings\n\nPrinted from the table in common/settings_table.c: change it there.\n\n"
           "A flag (`--set SECTION.KEY=VALUE`) beats the environment, which beats the file (`--config "
           "FILE`, JSON), which beats the "
           "default.\nEntries of a list are told apart by name: `--set sources.NAME.KEY=VALUE`, `--set "
           "workers.GROUP.KEY=VALUE`; in the "
           "environment\n`TXB_SOURCES_NAME_KEY`, in capitals and with `_` for every other character.\n"
           "The environment changes entries that the file or a flag made; it makes none, and the commands that work "
           "with entries refuse a variable of one that is not there.\n"
           "`txbroker config` shows what is in force and where each value came from.\n");
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++) {
    txb_buffer_addf(out, "\n## %s%s\n\n%s\n\n| key | type | default | environment | meaning |\n|---|---|---|---|---|\n",
                    section->name, section->list ? "[]" : "", section->help);
    for (size_t i = 0; i < section->count; i++) {
      const struct txb_setting *setting = &section->settings[i];
      txb_buffer_addf(out, "| `%s` | ", setting->key);
      describe_type(setting, out);
      txb_buffer_add_text(out, " | ");
      describe_default(setting, out);
      txb_buffer_add_text(out, " | ");
      if (section->list && strcmp(setting->key, section->name_key) == 0) {
        txb_buffer_add_text(out, "-");
      } else {
        txb_buffer_add_text(out, "`");
        txb_settings_environment_name(section, setting, "NAME", out);
        txb_buffer_add_text(out, "`");
      }
      txb_buffer_addf(out, " | %s |\n", setting->help);
    }
  }
  txb_buffer_add_text(out, "\n## A configuration to begin with\n\n```json\n");
  txb_settings_print_sample(out);
  txb_buffer_add_text(out, "```\n\n## Kafka client options\n\n`kafka.client` takes these options of librdkafka; those "
                           "marked * are masked wherever settings "
                           "are shown.\n\n");
  for (const struct txb_kafka_option *o = txb_kafka_options_allowed; o->name != NULL; o++)
    txb_buffer_addf(out, "- `%s`%s\n", o->name, o->secret ? " *" : "");
}

void txb_settings_print_help(struct txb_buffer *out) {
  for (const struct txb_section *section = txb_sections; section->name != NULL; section++) {
    txb_buffer_addf(out, "%s%s%s: %s\n", section == txb_sections ? "" : "\n", section->name, section->list ? "[]" : "",
                    section->help);
    for (size_t i = 0; i < section->count; i++) {
      const struct txb_setting *setting = &section->settings[i];
      txb_buffer_addf(out, "  %s  (", setting->key);
      describe_type(setting, out);
      txb_buffer_add_text(out, "; default: ");
      describe_default(setting, out);
      txb_buffer_addf(out, ")\n      %s\n", setting->help);
    }
  }
}
