/* What the two files of the worker core share: worker_core.c (events) and worker_next_core.c (actions). */
#ifndef TXB_CONSUMER_WORKER_CORE_INTERNAL_H
#define TXB_CONSUMER_WORKER_CORE_INTERNAL_H

#include "consumer/worker_core.h"

/* The partition behind a slot that is in use. */
struct txb_partition *txb_worker_core_slot(const struct txb_worker_core *core, int slot);

#endif
