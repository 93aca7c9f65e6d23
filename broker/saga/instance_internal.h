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

enum txb_rc txb_saga_keep_bytes(struct txb_saga_ledger *ledger, struct txb_slice bytes, struct txb_slice *out,
                                struct txb_error *err) TXB_MUST_CHECK;

/* ---- instance.c ---- */
/* Something that happens to the whole, by its name in txb.saga_event; changed_out: whether it changes anything. */
enum txb_rc txb_saga_tell(struct txb_saga_instance *instance, const char *event, int32_t sending, const char *reason,
                          const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger, bool *changed_out,
                          struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_saga_ignore(struct txb_saga_instance *instance, const char *reason,
                            const struct txb_saga_moment *moment, struct txb_saga_ledger *ledger,
                            struct txb_error *err) TXB_MUST_CHECK;

/* ---- nested.c: of a step that is a saga ---- */
/* A retriable one was refused: it is another saga from now on. */
void txb_saga_nested_refused(struct txb_saga_instance *instance, int rule);
/* Where its command goes. */
void txb_saga_nested_address(const struct txb_saga_instance *instance, int rule, struct txb_saga_command *command);
/* What it is told. TXB_REFUSED: its input can't be made; TXB_FATAL: no memory. */
enum txb_rc txb_saga_nested_payload(struct txb_saga_instance *instance, const struct txb_saga_action *action,
                                    enum txb_saga_operation_kind operation, struct txb_saga_ledger *ledger,
                                    struct txb_slice *out, struct txb_error *err) TXB_MUST_CHECK;
/* Whether an answer is of the saga that the step is, whose id is given in child_out. */
bool txb_saga_nested_is_from(const struct txb_saga_instance *instance, int rule, const struct txb_saga_answer *answer,
                             char child_out[37]);

/* ---- nested.c: of a saga that is a step ---- */
/* Its parent wants it undone. False: it was told so before. */
bool txb_saga_nested_undo(struct txb_saga_instance *instance, int32_t sending, struct txb_saga_actions *actions);
/* It has ended, and tells its parent. TXB_FATAL: no memory. */
enum txb_rc txb_saga_say_end(const struct txb_saga_instance *instance, struct txb_saga_ledger *ledger,
                             struct txb_error *err) TXB_MUST_CHECK;
/* The text of what is said, of its answer, its output and the reason. TXB_FATAL: no memory. */
enum txb_rc txb_saga_said_make(struct txb_saga_said *said, const char *reason, struct txb_saga_ledger *ledger,
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
