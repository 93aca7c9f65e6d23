/* What a batch of messages leads to, and the texts in it. See instance.h. Pure. */
#include <stdlib.h>

#include "broker/saga/instance_internal.h"

void txb_saga_ledger_init(struct txb_saga_ledger *ledger) {
  *ledger = (struct txb_saga_ledger){.entries = NULL};
  txb_arena_init(&ledger->arena, 64 * 1024);
}

void txb_saga_ledger_clear(struct txb_saga_ledger *ledger) {
  txb_arena_reset(&ledger->arena);
  ledger->entry_count = ledger->command_count = ledger->said_count = 0;
}

void txb_saga_ledger_fini(struct txb_saga_ledger *ledger) {
  txb_arena_fini(&ledger->arena);
  txb_free(ledger->entries);
  txb_free(ledger->commands);
  txb_free(ledger->said);
  ledger->entries = NULL;
  ledger->commands = NULL;
  ledger->said = NULL;
}

static enum txb_rc keep(struct txb_saga_ledger *ledger, const char *text, size_t size, char **out,
                        struct txb_error *err) {
  void *memory;
  TXB_TRY(txb_arena_alloc(&ledger->arena, size + 1, &memory, err));
  memcpy(memory, text, size);
  ((char *)memory)[size] = '\0';
  *out = memory;
  return TXB_OK;
}

/* What was cut, by bytes, may end within a character, and the database takes none of that. */
static void mend_text(char *text, size_t size) {
  for (size_t at = 0; at < size;) {
    size_t character = txb_utf8_character(txb_slice_of(text + at, size - at));
    if (character == 0)
      text[at] = '?';
    at += character == 0 ? 1 : character;
  }
}

enum txb_rc txb_saga_keep_text(struct txb_saga_ledger *ledger, const char *text, const char **out,
                               struct txb_error *err) {
  char *kept;
  *out = NULL;
  if (text == NULL)
    return TXB_OK;
  size_t size = strlen(text);
  TXB_TRY(keep(ledger, text, size, &kept, err));
  mend_text(kept, size);
  *out = kept;
  return TXB_OK;
}

enum txb_rc txb_saga_keep_bytes(struct txb_saga_ledger *ledger, struct txb_slice bytes, struct txb_slice *out,
                                struct txb_error *err) {
  char *kept;
  TXB_TRY(keep(ledger, bytes.data, bytes.size, &kept, err));
  *out = txb_slice_of(kept, bytes.size);
  return TXB_OK;
}

static bool has_reals(const json_t *value) {
  const char *name;
  json_t *inner;
  size_t n;
  if (json_is_array(value)) {
    json_array_foreach(value, n, inner) if (has_reals(inner)) return true;
  } else if (json_is_object(value)) {
    json_object_foreach((json_t *)(uintptr_t)value, name, inner) if (has_reals(inner)) return true;
  }
  return json_is_real(value);
}

/* The text that jansson makes, with 0.1 as 0.1 where fewer digits say the same. */
char *txb_saga_json_text(const json_t *value) {
  enum { FLAGS = JSON_COMPACT | JSON_ENCODE_ANY };
  if (!has_reals(value))
    return json_dumps(value, FLAGS);
  char *text = json_dumps(value, FLAGS | JSON_REAL_PRECISION(15));
  json_t *again = text == NULL ? NULL : json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
  bool same = again != NULL && json_equal(again, value) != 0;
  json_decref(again);
  if (same)
    return text;
  free(text);
  return json_dumps(value, FLAGS);
}

enum txb_rc txb_saga_keep_json(struct txb_saga_ledger *ledger, const json_t *value, struct txb_slice *out,
                               struct txb_error *err) {
  char *kept, *text = txb_saga_json_text(value);
  if (text == NULL)
    return TXB_FAIL(err, TXB_FATAL, "no memory for a saga's JSON");
  size_t size = strlen(text);
  enum txb_rc rc = keep(ledger, text, size, &kept, err);
  free(text);
  if (rc == TXB_OK)
    *out = txb_slice_of(kept, size);
  return rc;
}

enum txb_rc txb_saga_take_back_output(struct txb_saga_ledger *l, size_t entry, const char *problem,
                                      struct txb_error *err) {
  struct txb_saga_entry *e = &l->entries[entry];
  struct txb_saga_instance *i = e->instance;
  const char *text = e->output.data; /* one text: the end's, the saga's, and what its parent is told */
  char reason[600];
  snprintf(reason, sizeof reason, "completed, but its output breaks output_schema: %.400s", problem);
  TXB_TRY(txb_saga_keep_text(l, reason, &e->reason, err));
  e->output = txb_slice_of(NULL, 0);
  if (i->output.data == text) {
    i->output = e->output;
    i->reason = e->reason;
  }
  for (size_t n = 0; n < l->said_count; n++) {
    if (l->said[n].output.data != text)
      continue;
    l->said[n].output = e->output;
    TXB_TRY(txb_saga_said_make(&l->said[n], e->reason, l, err));
  }
  return TXB_OK;
}
