/* Bytes with their size: borrowed, never owned, not ended by a NUL. data == NULL means absent (SQL NULL), which differs from empty. */
#ifndef TXBROKER_SLICE_H
#define TXBROKER_SLICE_H

#include <stddef.h>

struct txb_slice {
  const void *data;
  size_t size;
};

#endif
