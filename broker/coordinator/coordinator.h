/* The coordinator of sagas: an engine of a worker group (consumer/worker.h). Its topic holds starts, answers, timers and
 * people's decisions, keyed by the saga's id; a batch of them becomes events, commands, timers and ends in one transaction,
 * and a relay of the same database publishes what came of it.
 *
 * A crash before COMMIT leaves nothing of a batch, and its messages come again; after it, all of it.
 */
#ifndef TXB_BROKER_COORDINATOR_COORDINATOR_H
#define TXB_BROKER_COORDINATOR_COORDINATOR_H

#include "consumer/worker.h"

extern const struct txb_engine txb_coordinator_engine;

#endif
