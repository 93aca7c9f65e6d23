/* What the files of a worker's lanes share: lanes.c (claims, words, readers) and lanes_pass.c. The worker's thread only. */
#ifndef TXB_CONSUMER_LANES_INTERNAL_H
#define TXB_CONSUMER_LANES_INTERNAL_H

#include "consumer/lanes.h"
#include "consumer/worker_internal.h"

#define TXB_LANES_PASS_AGAIN_US INT64_C(5000000)

/* ---- lanes.c --------------------------------------------------------------------------------- */
/* The lane of a slot, NULL: there is none; the slot of a lane, -1: it is not ours. */
struct txb_lane *txb_lanes_at(const txb_worker_t *w, size_t slot);
int txb_lanes_find(const txb_worker_t *w, int32_t number);
/* Something is to be written to a lane's row: that it is given back, or what stands in its way ("": nothing any more). What
 * finds no room is in the log, or is said again at the next claim; a lane that is not freed runs out. */
void txb_lanes_add_word(txb_worker_t *w, int32_t lane, bool frees, const char *error);

/* ---- lanes_pass.c ---------------------------------------------------------------------------- */
/* The next step towards a pass, where one is wanted and it is time. TXB_FATAL: no memory; Kafka's trouble is told and tried
 * again. */
enum txb_rc txb_lanes_prepare_pass(txb_worker_t *w, size_t slot, struct txb_error *err) TXB_MUST_CHECK;
/* A slot whose ends and highest number go to the database now; -1: none. */
int txb_lanes_ready_slot(const txb_worker_t *w);
enum txb_rc txb_lanes_send_pass(txb_worker_t *w, int slot, struct txb_error *err) TXB_MUST_CHECK;
void txb_lanes_on_passed(txb_worker_t *w);

#endif
