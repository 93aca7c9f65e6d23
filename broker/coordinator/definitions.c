/* Definitions that the coordinator has met. See coordinator_internal.h. */
#include <inttypes.h>
#include <stdio.h>

#include "broker/coordinator/coordinator_internal.h"
#include "coordinator_sql.h"

static const struct txb_pg_statement statement = {"txb_saga_definition", txb_text_saga_definition};

void txb_definitions_fini(struct txb_definitions *definitions) {
  for (size_t i = 0; i < definitions->count; i++)
    txb_saga_definition_free(definitions->items[i]);
  txb_free(definitions->items);
  *definitions = (struct txb_definitions){.items = NULL};
}

static int compare(const struct txb_saga_definition *d, const char *name, int32_t version) {
  int by_name = strcmp(d->name, name);
  return by_name != 0 ? by_name : (d->version > version) - (d->version < version);
}

/* Where it is, or belongs. */
static size_t place_of(const struct txb_definitions *definitions, const char *name, int32_t version) {
  size_t low = 0, high = definitions->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (compare(definitions->items[middle], name, version) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

const struct txb_saga_definition *txb_definitions_find(const struct txb_definitions *definitions, const char *name,
                                                       int32_t version) {
  size_t at = place_of(definitions, name, version);
  bool there = at < definitions->count && compare(definitions->items[at], name, version) == 0;
  return there ? definitions->items[at] : NULL;
}

static enum txb_rc read_body(struct txb_pg *pg, const char *name, int32_t version, struct txb_pg_result **out,
                             struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(name));
  txb_pg_add_int4(&params, version);
  enum txb_rc rc = txb_pg_send(pg, &statement, &params, err);
  txb_pg_params_fini(&params);
  TXB_TRY(rc);
  TXB_TRY(txb_pg_sync(pg, err));
  struct txb_pg_result **results[] = {out};
  return txb_coordinator_answers(pg, results, 1, err);
}

static enum txb_rc pin(struct txb_saga_definition *d, struct txb_slice pins, struct txb_error *err) {
  json_t *nested = pins.data != NULL ? json_loadb(pins.data, pins.size, 0, NULL) : NULL;
  enum txb_rc rc = pins.data != NULL && nested == NULL
                       ? TXB_FAIL(err, TXB_FATAL, "no memory for which sagas the steps of saga %s are", d->name)
                       : txb_saga_definition_pin(d, nested, err);
  json_decref(nested);
  return rc;
}

enum txb_rc txb_definitions_load(struct txb_definitions *definitions, struct txb_pg *pg, const char *name,
                                 int32_t version, const struct txb_saga_definition **out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_saga_definition *read = NULL;
  char file_name[120];
  TXB_TRY(read_body(pg, name, version, &r, err));
  if (txb_pg_rows(r) == 0)
    return TXB_FAIL(err, TXB_REFUSED, "version %" PRId32 " of saga %s is not deployed in %s", version, name,
                    txb_pg_name(pg));
  snprintf(file_name, sizeof file_name, "%s (version %" PRId32 ")", name, version);
  TXB_TRY(txb_saga_definition_parse(file_name, txb_pg_bytes(r, 0, 0), &read, err));
  enum txb_rc rc = pin(read, txb_pg_jsonb(r, 0, 1), err);
  if (rc == TXB_OK)
    rc = txb_regrow_array(&definitions->items, definitions->count + 1, sizeof(void *), err);
  if (rc != TXB_OK) {
    txb_saga_definition_free(read);
    return rc;
  }
  size_t at = place_of(definitions, name, version);
  memmove(definitions->items + at + 1, definitions->items + at, (definitions->count - at) * sizeof(void *));
  definitions->items[at] = read;
  definitions->count++;
  *out = read;
  return TXB_OK;
}
