/* Commands of a plugin or a callback: what txb.command_apply does for functions of the database, around a handler that is
 * none (schemas/sql/0023_commands.sql).
 *
 *   command_enter | SAVEPOINT, the handler, RELEASE or ROLLBACK TO | command_leave
 *
 * with a look at the output, if it gave one, before the RELEASE: one that no answer can carry is a refusal;
 * all on the delivery's transaction: a crash anywhere in it leaves neither effect nor record nor answer.
 */
#include "common/fault.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

static const struct txb_pg_statement enter = {"txb_worker_command_enter", txb_text_worker_command_enter},
                                     leave = {"txb_worker_command_leave", txb_text_worker_command_leave},
                                     savepoint = {"txb_worker_savepoint_command", "SAVEPOINT txb_command"},
                                     release = {"txb_worker_release_command", "RELEASE SAVEPOINT txb_command"},
                                     undo = {"txb_worker_undo_command", "ROLLBACK TO SAVEPOINT txb_command"},
                                     problem = {"txb_worker_output_problem", txb_text_worker_output_problem},
                                     reset_role = {"txb_worker_reset_command", txb_text_worker_reset_role};

static enum txb_rc run(txb_worker_t *w, const struct txb_pg_statement *statement, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  return txb_pg_query(w->pg, statement, NULL, &r, err);
}

enum txb_rc txb_worker_command_enter(txb_worker_t *w, struct txb_slice headers, struct txb_worker_command *out,
                                     struct txb_error *err) {
  memset(out, 0, sizeof *out);
  txb_worker_serves_commands(w);
  txb_pg_params_clear(&w->params);
  txb_pg_add_jsonb(&w->params, headers);
  TXB_TRY(txb_pg_query(w->pg, &enter, &w->params, &out->entered, err));
  out->runs = txb_pg_bool(out->entered, 0, 0);
  if (!txb_pg_is_null(out->entered, 0, 2))
    out->output = txb_pg_bytes(out->entered, 0, 2);
  return out->runs ? run(w, &savepoint, err) : TXB_OK;
}

void txb_worker_command_fini(struct txb_worker_command *c) {
  txb_pg_result_free(c->entered);
  c->entered = NULL;
}

static enum txb_rc answer(txb_worker_t *w, const struct txb_worker_item *item, struct txb_slice headers,
                          const char *what, struct txb_slice output, struct txb_slice reason, bool ran,
                          struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params *p = &w->params;
  txb_pg_params_clear(p);
  txb_pg_add_uuid(p, &item->id);
  txb_pg_add_text(p, txb_slice_text(w->places[w->operation.action.slot].topic));
  txb_pg_add_bytea(p, item->key);
  txb_pg_add_jsonb(p, headers);
  txb_pg_add_text(p, txb_slice_text(what));
  txb_pg_add_text(p, output);
  txb_pg_add_text(p, txb_worker_safe_text(reason, &w->text));
  txb_pg_add_bool(p, ran);
  /* A crash here, as anywhere before COMMIT: the command comes again, and finds nothing. */
  txb_failpoint("worker.before_command_answer");
  return txb_pg_query(w->pg, &leave, p, &r, err);
}

enum txb_rc txb_worker_command_known(txb_worker_t *w, const struct txb_worker_item *item, struct txb_slice headers,
                                     const struct txb_worker_command *c, struct txb_error *err) {
  struct txb_slice reason = txb_pg_is_null(c->entered, 0, 3) ? txb_slice_of(NULL, 0) : txb_pg_bytes(c->entered, 0, 3);
  return answer(w, item, headers, txb_pg_text(c->entered, 0, 1), c->output, reason, false, err);
}

/* The handler may have become another role: what is ours must not depend on that one's rights. */
enum txb_rc txb_worker_command_done(txb_worker_t *w, const struct txb_worker_item *item, struct txb_slice headers,
                                    struct txb_slice output, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  TXB_TRY(run(w, &reset_role, err));
  if (output.data != NULL) {
    txb_pg_params_clear(&w->params);
    txb_pg_add_text(&w->params, output);
    TXB_TRY(txb_pg_query(w->pg, &problem, &w->params, &r, err));
    if (!txb_pg_is_null(r, 0, 0))
      return txb_worker_command_refused(w, item, headers, txb_pg_bytes(r, 0, 0), err);
  }
  TXB_TRY(run(w, &release, err));
  return answer(w, item, headers, "ok", output, txb_slice_of(NULL, 0), true, err);
}

/* What it wrote before it refused is undone, the role that it became too. */
enum txb_rc txb_worker_command_refused(txb_worker_t *w, const struct txb_worker_item *item, struct txb_slice headers,
                                       struct txb_slice reason, struct txb_error *err) {
  TXB_TRY(run(w, &undo, err));
  TXB_TRY(run(w, &release, err));
  return answer(w, item, headers, "refused", txb_slice_of(NULL, 0), reason, true, err);
}
