/* What the files of an instance share. */
#ifndef TXB_BROKER_SAGA_INSTANCE_INTERNAL_H
#define TXB_BROKER_SAGA_INSTANCE_INTERNAL_H

#include "broker/saga/instance.h"

/* ---- ledger.c: texts that live as long as the ledger's arena; TXB_FATAL: no memory ---- */
/* NULL gives NULL. What is no UTF-8 becomes "?". */
enum txb_rc txb_saga_keep_text(struct txb_saga_ledger *ledger, const char *text, const char **out,
                               struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_saga_keep_json(struct txb_saga_ledger *ledger, const json_t *value, struct txb_slice *out,
                               struct txb_error *err) TXB_MUST_CHECK;

/* ---- instance_context.c ---- */
/* instance->context, if it is not there. TXB_REFUSED: something of it can't be read; TXB_FATAL: no memory. */
enum txb_rc txb_saga_context_make(struct txb_saga_instance *instance, struct txb_error *err) TXB_MUST_CHECK;
void txb_saga_context_forget(struct txb_saga_instance *instance);

/* ---- instance_words.c ---- */
/* What a decision about a step is to it, of enum txb_saga_step_event; -1: there is no such decision. */
int txb_saga_decision_event(const char *decision);
/* What to do instead, where that is not plain; else "". */
const char *txb_saga_decision_advice(int event, enum txb_saga_step_state state);
/* Why it turned back, and whose effects stand all the same; "": there is nothing to say. */
void txb_saga_why_compensated(const struct txb_saga_instance *instance, char *out, size_t size);

#endif
