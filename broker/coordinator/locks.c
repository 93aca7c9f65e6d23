/* What sagas lock from their start to their end (S6): rows of txb.saga_lock. Those of a batch that would begin are asked for
 * before anything is handled, those that have ended give theirs back in the round trip that stores the batch. Both in its
 * transaction: a crash before COMMIT leaves nothing. See coordinator_internal.h and schemas/sql/0030_saga_locks.sql. */
#include "broker/coordinator/coordinator_internal.h"
#include "common/fault.h"
#include "coordinator_sql.h"

static const struct txb_pg_statement lock = {"txb_saga_lock", txb_text_saga_lock},
                                     unlock = {"txb_saga_unlock", txb_text_saga_unlock};

enum { LOCK_NTH, LOCK_GRANTED, LOCK_NAME, LOCK_HOLDER };

/* Whose end gives them back. */
static const struct txb_uuid *root_of(const struct txb_saga_case *of) {
  return of->instance.parent != NULL ? &of->parent.root : &of->instance.id;
}

/* One that was refused holds nothing, and would not be asked to give it back. */
static bool can_begin(const struct txb_saga_case *of) {
  return of->found && !txb_saga_case_never_began(of);
}

static bool has_locks(const struct txb_saga_case *of) {
  return can_begin(of) && json_array_size(of->instance.definition->locks) > 0;
}

/* Its own, or those of the sagas within it, which it holds for them. */
static bool may_hold(const struct txb_saga_case *of) {
  return has_locks(of) ||
         (can_begin(of) && of->instance.parent == NULL && txb_saga_has_nested(of->instance.definition));
}

/* A saga within another asks when that one holds its own already, out of the order of the names: two that waited so might wait
 * for each other. */
static bool waits(const struct txb_saga_case *of) {
  return !of->instance.definition->locks_refuse && of->instance.parent == NULL;
}

/* ---- wishes ------------------------------------------------------------------------------------------------- */

static enum txb_rc keep(struct txb_coordinator *c, const char *text, const char **out, struct txb_error *err) {
  void *memory;
  size_t size = strlen(text) + 1;
  TXB_TRY(txb_arena_alloc(&c->ledger.arena, size, &memory, err));
  memcpy(memory, text, size);
  *out = memory;
  return TXB_OK;
}

static bool would_begin(const struct txb_saga_message *m, const struct txb_saga_case *of) {
  return (m->kind == TXB_SAGA_MESSAGE_START || m->kind == TXB_SAGA_MESSAGE_WAKE) && has_locks(of) &&
         of->locks == TXB_SAGA_LOCKS_NOT_ASKED && !of->instance.begun && !of->instance.ended;
}

static enum txb_rc wish(struct txb_coordinator *c, struct txb_saga_case *of, struct txb_error *err) {
  struct txb_saga_lock_names names;
  struct txb_error why;
  enum txb_rc rc = txb_saga_instance_locks(&of->instance, &c->ledger, &names, &why);
  of->locks = rc == TXB_OK ? TXB_SAGA_LOCKS_HELD : TXB_SAGA_LOCKS_REFUSED; /* the former until something else is said */
  if (rc == TXB_REFUSED)
    return keep(c, why.message, &of->locks_why, err);
  if (rc != TXB_OK) {
    *err = why;
    return rc;
  }
  if (c->wish_count + names.count > c->wish_room) {
    size_t room = 2 * (c->wish_count + names.count);
    TXB_TRY(txb_regrow_array(&c->wishes, room, sizeof *c->wishes, err));
    c->wish_room = room;
  }
  for (size_t n = 0; n < names.count; n++)
    c->wishes[c->wish_count++] = (struct txb_saga_lock_wish){of, names.items[n]};
  return TXB_OK;
}

/* ---- asking ------------------------------------------------------------------------------------------------- */

static void add_uuid(struct txb_pg_params *p, const struct txb_uuid *id) {
  txb_pg_array_bytes(p, txb_slice_of(id->bytes, sizeof id->bytes));
}

static void add_bool(struct txb_pg_params *p, bool value) {
  const char byte = value ? 1 : 0;
  txb_pg_array_bytes(p, txb_slice_of(&byte, 1));
}

enum wish_column { WISH_SAGA, WISH_STARTED, WISH_ROOT, WISH_NAME, WISH_WAITS, WISH_COLUMNS };
static const uint32_t wish_oids[WISH_COLUMNS] = {TXB_OID_UUID, TXB_OID_TIMESTAMPTZ, TXB_OID_UUID, TXB_OID_TEXT,
                                                 TXB_OID_BOOL};

static void add_wish(struct txb_pg_params *p, enum wish_column column, const struct txb_saga_lock_wish *w) {
  switch (column) {
  case WISH_SAGA:
    add_uuid(p, &w->of->instance.id);
    break;
  case WISH_STARTED:
    txb_pg_array_timestamptz(p, w->of->instance.started_us);
    break;
  case WISH_ROOT:
    add_uuid(p, root_of(w->of));
    break;
  case WISH_NAME:
    txb_pg_array_bytes(p, txb_slice_text(w->name));
    break;
  case WISH_WAITS:
    add_bool(p, waits(w->of));
    break;
  case WISH_COLUMNS:
    break;
  }
}

/* Roots that may end in this batch: what is locked is locked once and in one order. */
static void add_others(struct txb_coordinator *c) {
  txb_pg_array_begin(&c->params, TXB_OID_UUID);
  for (size_t n = 0; n < c->case_count; n++) {
    const struct txb_saga_case *of = &c->cases[n];
    if (may_hold(of))
      add_uuid(&c->params, root_of(of));
  }
  txb_pg_array_end(&c->params);
}

static enum txb_rc ask(struct txb_coordinator *c, struct txb_pg *pg, struct txb_pg_result **out,
                       struct txb_error *err) {
  struct txb_pg_result **results[] = {out};
  txb_pg_params_clear(&c->params);
  for (int column = 0; column < WISH_COLUMNS; column++) {
    txb_pg_array_begin(&c->params, wish_oids[column]);
    for (size_t n = 0; n < c->wish_count; n++)
      add_wish(&c->params, (enum wish_column)column, &c->wishes[n]);
    txb_pg_array_end(&c->params);
  }
  add_others(c);
  TXB_TRY(txb_pg_send(pg, &lock, &c->params, err));
  TXB_TRY(txb_pg_sync(pg, err));
  return txb_coordinator_answers(pg, results, 1, err);
}

static enum txb_rc take(struct txb_coordinator *c, const struct txb_pg_result *r, int row, struct txb_error *err) {
  struct txb_saga_case *of = c->wishes[txb_pg_int8(r, row, LOCK_NTH) - 1].of;
  struct txb_uuid holder;
  char id[37];
  if (txb_pg_bool(r, row, LOCK_GRANTED) || txb_bug("saga_lock_ignored"))
    return TXB_OK;
  txb_pg_uuid(r, row, LOCK_HOLDER, &holder);
  txb_uuid_format(&holder, id);
  txb_buffer_clear(&c->scratch);
  txb_buffer_addf(&c->scratch, "lock %s is held by saga %s", txb_pg_text(r, row, LOCK_NAME), id);
  TXB_TRY(txb_buffer_check(&c->scratch, err));
  of->locks = waits(of) ? TXB_SAGA_LOCKS_AWAITED : TXB_SAGA_LOCKS_REFUSED;
  return keep(c, txb_buffer_text(&c->scratch), &of->locks_why, err);
}

enum txb_rc txb_coordinator_lock(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  c->wish_count = 0;
  for (size_t m = 0; m < c->message_count; m++) {
    const struct txb_saga_message *message = &c->messages[m];
    if (message->kind != TXB_SAGA_MESSAGE_STRAY && would_begin(message, &c->cases[message->instance]))
      TXB_TRY(wish(c, &c->cases[message->instance], err));
  }
  if (c->wish_count == 0)
    return TXB_OK;
  TXB_TRY(ask(c, pg, &r, err));
  for (int row = 0; row < txb_pg_rows(r); row++)
    TXB_TRY(take(c, r, row, err));
  return TXB_OK;
}

/* ---- giving back -------------------------------------------------------------------------------------------- */

static bool gives_back(const struct txb_saga_case *of) {
  return may_hold(of) && of->instance.ended && of->instance.ends > of->ends_before;
}

enum txb_rc txb_coordinator_send_unlock(struct txb_coordinator *c, struct txb_pg *pg, struct txb_error *err) {
  bool any = false;
  for (size_t n = 0; n < c->case_count; n++)
    any = any || gives_back(&c->cases[n]);
  if (!any)
    return TXB_OK;
  txb_pg_params_clear(&c->params);
  for (int column = 0; column < 2; column++) {
    txb_pg_array_begin(&c->params, TXB_OID_UUID);
    for (size_t n = 0; n < c->case_count; n++)
      if (gives_back(&c->cases[n]))
        add_uuid(&c->params, column == 0 ? &c->cases[n].instance.id : root_of(&c->cases[n]));
    txb_pg_array_end(&c->params);
  }
  return txb_pg_send(pg, &unlock, &c->params, err);
}
