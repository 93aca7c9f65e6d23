/* Between the parts of the model's sessions: see worker_session.c, worker_batch.c. */
#ifndef TXB_TESTS_SIM_WORKER_SESSION_H
#define TXB_TESTS_SIM_WORKER_SESSION_H

#include "worker_model.h"

/* Rolls back, and the script ends with that answer. */
void session_fail(struct model *m, int s, enum answer answer);
/* A message that has not failed as often as it shall. */
static inline bool fails_now(const struct subject *u) {
  return u->attempts < u->fails;
}

/* What the inbox knows a message by: without its run a forced one is taken for the live one. */
static inline int inbox_of(const struct model *m, int id) {
  return m->bugs.run_not_in_inbox ? m->subjects[id].of : id;
}
/* The position of that place moves in a transaction of its own. */
static inline bool moves_first(const struct model *m, int place) {
  return m->bugs.offset_before_commit || (m->bugs.lane_position_first && is_lane(place));
}

/* ---- worker_batch.c: the statements of a batch, or of a retry, between its opening and its closing ---- */
/* INSERT ... ON CONFLICT DO NOTHING of the ids. False: it waits for another transaction that has one of them. */
bool batch_insert_ids(struct model *m, int s, int *candidates, int *count);
void batch_apply(struct model *m, int s);
void batch_isolated(struct model *m, int s);

/* ---- worker_verify.c ---- */
/* What a lane is about to commit: alone with the live partitions, and no key of theirs passed by (J1). */
void verify_lane(struct model *m, int s);
/* At a commit: no effect twice, in order, and what is below the position has its effect or is set aside. */
void verify_commit(struct model *m, struct session *x);

#endif
