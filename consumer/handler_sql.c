/* SQL handlers: a function of the database, called inside the statement that fills the inbox.
 *
 * Its name comes from the configuration and has to stand in SQL text. It gets there in one way only: the server looks
 * the function up by that name (to_regprocedure, which takes a name and nothing else), and what the server gives back,
 * schema and name as quoted identifiers, replaces the placeholders of an embedded statement, as a name and as a literal.
 * The user's text itself never becomes SQL.
 */
#include "common/memory.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

#define PLACEHOLDER      "@handler@"
#define PLACEHOLDER_TEXT "@handler_text@" /* the same as a literal */

static const struct txb_pg_statement look_up = {"txb_worker_handler", txb_text_worker_handler};

static bool is_batch(const txb_worker_t *w) {
  return w->settings->handler == TXB_HANDLER_SQL_BATCH;
}

static const char *argument_of(const txb_worker_t *w) {
  return is_batch(w) ? "txb.message[]" : "txb.message";
}

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* Everything that would fail at the first message fails here, with what to do about it. */
static enum txb_rc check(const txb_worker_t *w, const struct txb_pg_result *r, struct txb_error *err) {
  const char *wanted = w->settings->function, *argument = argument_of(w), *role = txb_pg_text(r, 0, 9);
  const char *result = is_batch(w) ? "SETOF txb.outcome" : "txb.outcome";
  if (txb_pg_is_null(r, 0, 0)) {
    if (txb_pg_is_null(r, 0, 10))
      return REFUSE(err, "there is no function %s(%s) in %s: create it, RETURNS %s, or correct handler.function",
                    wanted, argument, txb_pg_name(w->pg), result);
    return REFUSE(err,
                  "there is no function %s(%s) in %s, but there is %s: create it, RETURNS %s, or correct "
                  "handler.function or handler.per",
                  wanted, argument, txb_pg_name(w->pg), txb_pg_text(r, 0, 10), result);
  }
  const char *name = txb_pg_text(r, 0, 0);
  if (!txb_pg_bool(r, 0, 2))
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                         "%s may not use the schema of handler %s: GRANT USAGE ON SCHEMA %s TO %s", role, name,
                         txb_pg_text(r, 0, 3), role);
  if (!txb_pg_bool(r, 0, 1))
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                         "%s may not call handler %s: GRANT EXECUTE ON FUNCTION %s(%s) TO %s", role, name, name,
                         argument, role);
  if (!txb_pg_bool(r, 0, 8))
    return REFUSE(err, "handler %s(%s) is a procedure or an aggregate: it must be a function", name, argument);
  if (!txb_pg_bool(r, 0, 5) || txb_pg_bool(r, 0, 6) != is_batch(w))
    return REFUSE(err, "handler %s(%s) returns %s%s: with handler.per = \"%s\" it must return %s", name, argument,
                  txb_pg_bool(r, 0, 6) ? "SETOF " : "", txb_pg_text(r, 0, 4), is_batch(w) ? "batch" : "message",
                  result);
  if (!txb_pg_bool(r, 0, 7))
    return REFUSE(err, "handler %s(%s) is not VOLATILE and could not write: ALTER FUNCTION %s(%s) VOLATILE", name,
                  argument, name, argument);
  return TXB_OK;
}

/* Whatever standard_conforming_strings is: without a backslash both forms of a literal mean the same. */
static void add_literal(struct txb_buffer *sql, const char *name) {
  txb_buffer_add_text(sql, strchr(name, '\\') != NULL ? " E'" : "'");
  for (; *name != '\0'; name++) {
    if (*name == '\'' || *name == '\\')
      txb_buffer_add(sql, name, 1);
    txb_buffer_add(sql, name, 1);
  }
  txb_buffer_add_text(sql, "'");
}

static enum txb_rc fill_in(const char *text, const char *name, char **out, struct txb_error *err) {
  struct txb_buffer sql TXB_CLEANUP(txb_buffer_fini);
  txb_buffer_init(&sql);
  const char *rest = text;
  for (const char *at; (at = strchr(rest, '@')) != NULL;) {
    bool is_text = strncmp(at, PLACEHOLDER_TEXT, strlen(PLACEHOLDER_TEXT)) == 0;
    txb_buffer_add(&sql, rest, (size_t)(at - rest));
    if (is_text)
      add_literal(&sql, name);
    else
      txb_buffer_add_text(&sql, name);
    rest = at + strlen(is_text ? PLACEHOLDER_TEXT : PLACEHOLDER);
  }
  txb_buffer_add_text(&sql, rest);
  const char *whole = txb_buffer_text(&sql);
  TXB_TRY(txb_buffer_check(&sql, err));
  return txb_strdup(whole, out, err);
}

enum txb_rc txb_worker_handler_sql_open(txb_worker_t *w, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  if (w->settings->function == NULL || w->settings->function[0] == '\0')
    return REFUSE(err, "group %s has no handler: set handler.function", w->settings->group);
  txb_pg_params_clear(&w->params);
  txb_pg_add_text(&w->params, txb_slice_text(w->settings->function));
  txb_pg_add_text(&w->params, txb_slice_text(argument_of(w)));
  enum txb_rc rc = txb_pg_query(w->pg, &look_up, &w->params, &r, err);
  if (rc == TXB_REFUSED)
    return txb_error_prefix(err, "handler.function \"%s\"", w->settings->function);
  TXB_TRY(rc);
  TXB_TRY(check(w, r, err));
  TXB_TRY(fill_in(is_batch(w) ? txb_text_worker_apply_batch : txb_text_worker_apply_message, txb_pg_text(r, 0, 0),
                  &w->apply_sql, err));
  w->apply = (struct txb_pg_statement){.name = "txb_worker_apply", .sql = w->apply_sql};
  return TXB_OK;
}

enum txb_rc txb_worker_copy_open(txb_worker_t *w, struct txb_error *err) {
  if (w->copy_sql == NULL)
    TXB_TRY(fill_in(txb_text_worker_apply_batch, TXB_COPY_FUNCTION, &w->copy_sql, err));
  w->copy = (struct txb_pg_statement){.name = "txb_worker_copy", .sql = w->copy_sql};
  return TXB_OK;
}
