/* What the parts of settings share: not for others. */
#ifndef TXB_COMMON_SETTINGS_INTERNAL_H
#define TXB_COMMON_SETTINGS_INTERNAL_H

#include "common/settings.h"

void txb_texts_fini(struct txb_texts *texts);
enum txb_rc txb_texts_add(struct txb_texts *texts, const char *text, size_t size, struct txb_error *err) TXB_MUST_CHECK;
/* Sets one name of a map. */
enum txb_rc txb_texts_map_put(struct txb_texts *map, const char *name, const char *value,
                              struct txb_error *err) TXB_MUST_CHECK;

void txb_settings_mark(void *entry, const struct txb_section *section, const struct txb_setting *setting,
                       enum txb_setting_from from);
/* The struct of a section; index counts only in lists. */
void *txb_settings_place(struct txb_settings *s, const struct txb_section *section, size_t index);
size_t txb_settings_entries(const struct txb_settings *s, const struct txb_section *section);
/* A new entry of a list, with its defaults and without a name. */
enum txb_rc txb_settings_append(struct txb_settings *s, const struct txb_section *section, const char *where,
                                void **entry_out, struct txb_error *err) TXB_MUST_CHECK;
const char *txb_settings_entry_name(const void *entry, const struct txb_section *section);

enum txb_rc txb_settings_unknown_key(const struct txb_section *section, const char *key, const char *where,
                                     struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_settings_unknown_section(const char *name, const char *where, struct txb_error *err) TXB_MUST_CHECK;

#endif
