/* What a saga locks: the names that its definition's templates make of its input; and what becomes of one that has not got
 * them. See instance.h. Pure. */
#include <stdlib.h>
#include <string.h>

#include "broker/saga/expression.h"
#include "broker/saga/instance_internal.h"

#define NAME_SIZE_MAX 1024 /* txb.saga_lock */

static enum txb_rc check_name(const json_t *name, struct txb_error *err) {
  if (!json_is_string(name))
    return TXB_FAIL(err, TXB_REFUSED, "its name is no text; write it within one, such as \"account:{input.from}\"");
  size_t size = json_string_length(name);
  if (size == 0)
    return TXB_FAIL(err, TXB_REFUSED, "its name is empty");
  if (strlen(json_string_value(name)) != size)
    return TXB_FAIL(err, TXB_REFUSED, "its name has a character of code 0");
  return size <= NAME_SIZE_MAX
             ? TXB_OK
             : TXB_FAIL(err, TXB_REFUSED, "its name has %zu bytes, and may have %d", size, NAME_SIZE_MAX);
}

static enum txb_rc make_name(struct txb_saga_instance *i, struct txb_saga_ledger *ledger, const json_t *template,
                             const char **out, struct txb_error *err) {
  json_t *name;
  TXB_TRY(txb_saga_context_make(i, err));
  TXB_TRY(txb_saga_template_fill(template, i->context, &name, err));
  enum txb_rc rc = check_name(name, err);
  if (rc == TXB_OK)
    rc = txb_saga_keep_text(ledger, json_string_value(name), out, err);
  json_decref(name);
  return rc;
}

static int by_bytes(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

enum txb_rc txb_saga_instance_locks(struct txb_saga_instance *instance, struct txb_saga_ledger *ledger,
                                    struct txb_saga_lock_names *out, struct txb_error *err) {
  const json_t *locks = instance->definition->locks;
  const char *names[TXB_SAGA_LOCKS_MAX];
  size_t count = json_array_size(locks);
  TXB_ASSERT(count <= TXB_SAGA_LOCKS_MAX);
  for (size_t n = 0; n < count; n++) {
    enum txb_rc rc = make_name(instance, ledger, json_array_get(locks, n), &names[n], err);
    if (rc == TXB_REFUSED)
      (void)txb_error_prefix(err, "lock %zu can't be made out", n + 1);
    TXB_TRY(rc);
  }
  qsort(names, count, sizeof names[0], by_bytes);
  out->count = 0;
  for (size_t n = 0; n < count; n++)
    if (n == 0 || strcmp(names[n - 1], names[n]) != 0)
      out->items[out->count++] = names[n];
  return TXB_OK;
}

enum txb_rc txb_saga_instance_on_wait(struct txb_saga_instance *instance, const char *why,
                                      const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                      struct txb_error *err) {
  bool changed;
  if (instance->waits_why != NULL && strcmp(instance->waits_why, why) == 0)
    return TXB_OK;
  TXB_TRY(txb_saga_tell(instance, "waits", 0, why, moment, ledger, &changed, err));
  if (changed)
    instance->waits_why = ledger->entries[ledger->entry_count - 1].reason;
  return TXB_OK;
}

enum txb_rc txb_saga_instance_on_turned_away(struct txb_saga_instance *instance, const char *why,
                                             const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                                             struct txb_error *err) {
  bool changed;
  if (instance->begun || instance->ended)
    return TXB_OK;
  return txb_saga_tell(instance, "turn_back", 0, why, moment, ledger, &changed, err);
}
