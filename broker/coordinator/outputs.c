/* What sagas gave, by the schema of their definitions: looked at when all of a batch is handled, and before it is stored. One
 * round trip, and none where no definition asks for it: the database knows what a schema means, for what a saga is started
 * with as well. See coordinator_internal.h and schemas/sql/0035_saga_outputs.sql. */
#include "broker/coordinator/coordinator_internal.h"
#include "coordinator_sql.h"

static const struct txb_pg_statement outputs = {"txb_saga_outputs", txb_text_saga_outputs};

enum { OUTPUTS_NTH, OUTPUTS_PROBLEM };

/* Only an end has an output of the whole. */
static bool is_to_be_looked_at(const struct txb_saga_entry *e) {
  return e->output.data != NULL && e->instance->definition->output_schema != NULL && strcmp(e->event, "end") == 0;
}

static enum txb_rc add_schema(struct txb_coordinator *c, const struct txb_saga_entry *e, struct txb_error *err) {
  char *text = txb_saga_json_text(e->instance->definition->output_schema);
  if (text == NULL)
    return TXB_FAIL(err, TXB_FATAL, "no memory for a schema");
  txb_pg_array_jsonb(&c->params, txb_slice_text(text));
  free(text);
  return TXB_OK;
}

static enum txb_rc ask(struct txb_coordinator *c, struct txb_pg *pg, struct txb_pg_result **out,
                       struct txb_error *err) {
  struct txb_pg_result **results[] = {out};
  txb_pg_params_clear(&c->params);
  txb_pg_array_begin(&c->params, TXB_OID_JSONB);
  for (size_t n = 0; n < c->ledger.entry_count; n++)
    if (is_to_be_looked_at(&c->ledger.entries[n]))
      TXB_TRY(add_schema(c, &c->ledger.entries[n], err));
  txb_pg_array_end(&c->params);
  txb_pg_array_begin(&c->params, TXB_OID_JSONB);
  for (size_t n = 0; n < c->ledger.entry_count; n++)
    if (is_to_be_looked_at(&c->ledger.entries[n]))
      txb_pg_array_jsonb(&c->params, c->ledger.entries[n].output);
  txb_pg_array_end(&c->params);
  TXB_TRY(txb_pg_send(pg, &outputs, &c->params, err));
  TXB_TRY(txb_pg_sync(pg, err));
  return txb_coordinator_answers(pg, results, 1, err);
}

enum txb_rc txb_coordinator_check_outputs(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  int64_t looked_at = 0;
  int row = 0;
  for (size_t n = 0; n < c->ledger.entry_count; n++)
    looked_at += is_to_be_looked_at(&c->ledger.entries[n]);
  if (looked_at == 0)
    return TXB_OK;
  TXB_TRY(ask(c, pg, &r, err));
  looked_at = 0;
  for (size_t n = 0; n < c->ledger.entry_count && row < txb_pg_rows(r); n++) {
    if (!is_to_be_looked_at(&c->ledger.entries[n]))
      continue;
    looked_at++;
    if (txb_pg_int8(r, row, OUTPUTS_NTH) == looked_at)
      TXB_TRY(txb_saga_take_back_output(&c->ledger, n, txb_pg_text(r, row++, OUTPUTS_PROBLEM), err));
  }
  return TXB_OK;
}
