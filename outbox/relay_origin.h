/* The headers of a copy (txb.outbox_copy): those that the message had, and of the CloudEvents attributes what a consumer
 * needs to read out of it what it read out of the original, its id above all. No clock, no server. */
#ifndef TXB_OUTBOX_RELAY_ORIGIN_H
#define TXB_OUTBOX_RELAY_ORIGIN_H

#include <jansson.h>

#include "common/buffer.h"
#include "common/event.h"

struct txb_copy {
  const struct txb_uuid *id;
  struct txb_slice content_type;    /* absent: none */
  struct txb_slice headers, origin; /* JSON; headers may be absent */
};

struct txb_copy_headers {
  struct txb_header *items;
  size_t count;
  char id[37];
  json_t *headers, *origin; /* whose strings the items borrow */
  struct txb_buffer bytes;  /* values that are not text */
};

void txb_copy_headers_init(struct txb_copy_headers *h);
void txb_copy_headers_fini(struct txb_copy_headers *h);
/* Names and values borrow from `copy` and from h. TXB_FATAL: no memory. */
enum txb_rc txb_copy_headers_make(struct txb_copy_headers *h, const struct txb_copy *copy,
                                  struct txb_error *err) TXB_MUST_CHECK;

#endif
