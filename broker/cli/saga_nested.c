/* Definitions whose steps are sagas: whether those are deployed, and can be undone where they have to be. txb.saga_deploy looks at
 * the same, and what it finds counts; here it is told by line. See saga.h. */
#include <inttypes.h>

#include "broker/cli/saga.h"
#include "broker/saga/nested.h"
#include "cli_sql.h"
#include "common/json_place.h"

static const struct txb_pg_statement statement = {"cli_saga_nested", txb_text_cli_saga_nested};

static enum txb_rc ask(struct txb_pg *pg, const char *name, int32_t version, struct txb_pg_result **out,
                       struct txb_error *err) {
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(name));
  if (version > 0)
    txb_pg_add_int4(&params, version);
  else
    txb_pg_add_null(&params, TXB_OID_INT4);
  return txb_failed_ask(pg, &statement, &params, "txb_admin", out, err);
}

/* With the place of a step's saga in the file, and its line. */
#define REFUSE(document, step, err, ...)                                                                               \
  txb_saga_refuse_at((document),                                                                                       \
                     (const struct txb_json_step[]){{.key = "steps"}, {.index = (size_t)(step)}, {.key = "saga"}}, 3,  \
                     (err), __VA_ARGS__)

/* What can be undone as a whole has only steps that can. Of sagas within it that was looked at when it was deployed. */
static enum txb_rc check_kinds(const struct txb_json_document *document, int step,
                               const struct txb_saga_definition *inner, struct txb_error *err) {
  for (int i = 0; i < inner->count; i++)
    if (inner->steps[i].kind != TXB_SAGA_STEP_COMPENSATABLE)
      return REFUSE(document, step, err,
                    "step %s of saga %s (version %" PRId32
                    ") is %s, and can't be undone for good; a compensatable step "
                    "needs a saga of compensatable steps only: make this step the pivot or retriable, or name another",
                    inner->steps[i].name, inner->name, inner->version, txb_saga_step_kind_name(inner->steps[i].kind));
  return TXB_OK;
}

static enum txb_rc check_found(const struct txb_json_document *document, const struct txb_saga_definition *d, int step,
                               const struct txb_pg_result *r, struct txb_error *err) {
  struct txb_saga_definition *inner = NULL;
  if (txb_pg_int4(r, 0, 2) >= TXB_SAGA_DEPTH_MAX)
    return REFUSE(document, step, err,
                  "more than %d sagas would lie within each other; give the steps of one of them to the saga around it",
                  TXB_SAGA_DEPTH_MAX);
  if (d->steps[step].kind != TXB_SAGA_STEP_COMPENSATABLE)
    return TXB_OK;
  enum txb_rc rc = txb_saga_definition_parse(d->steps[step].nested, txb_pg_bytes(r, 0, 1), &inner, err);
  rc = rc == TXB_OK ? check_kinds(document, step, inner, err) : rc;
  txb_saga_definition_free(inner);
  return rc;
}

static enum txb_rc check_step(struct txb_pg *pg, const struct txb_json_document *document,
                              struct txb_saga_definition *d, int step, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_saga_step_definition *s = &d->steps[step];
  TXB_TRY(ask(pg, s->nested, s->nested_version, &r, err));
  if (txb_pg_rows(r) == 0 && s->nested_version > 0)
    return REFUSE(document, step, err,
                  "version %" PRId32 " of saga %s is not deployed; deploy it first, or name another version",
                  s->nested_version, s->nested);
  if (txb_pg_rows(r) == 0)
    return REFUSE(document, step, err, "saga %s is not deployed; deploy it first, or correct its name", s->nested);
  TXB_TRY(check_found(document, d, step, r, err));
  s->nested_version = txb_pg_int4(r, 0, 0);
  return TXB_OK;
}

enum txb_rc txb_saga_pin(struct txb_saga_definition *definition, struct txb_slice pins, struct txb_error *err) {
  json_t *nested = pins.data != NULL ? json_loadb(pins.data, pins.size, 0, NULL) : NULL;
  enum txb_rc rc = txb_saga_definition_pin(definition, nested, err);
  json_decref(nested);
  return rc;
}

enum txb_rc txb_saga_check_nested(struct txb_pg *pg, const char *file_name, struct txb_slice text,
                                  struct txb_saga_definition *definition, struct txb_error *err) {
  const struct txb_json_document document = {file_name, text};
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *there = NULL;
  if (!txb_saga_has_nested(definition))
    return TXB_OK;
  /* What is deployed keeps its versions, whatever has come since. */
  TXB_TRY(ask(pg, definition->name, definition->version, &there, err));
  if (txb_pg_rows(there) > 0)
    return txb_saga_pin(definition, txb_pg_jsonb(there, 0, 3), err);
  for (int i = 0; i < definition->count; i++)
    if (definition->steps[i].nested != NULL)
      TXB_TRY(check_step(pg, &document, definition, i, err));
  return TXB_OK;
}
