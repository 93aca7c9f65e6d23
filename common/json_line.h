/* Where something stands in a JSON text: jansson tells the line of what is not JSON, not of a key that is merely wrong. Pure. */
#ifndef TXB_COMMON_JSON_LINE_H
#define TXB_COMMON_JSON_LINE_H

#include "common/slice.h"

struct txb_json_step {
  const char *key; /* a member of an object; NULL: element `index` of an array */
  size_t index;
};

/* The line (from 1) of the key or element at the end of the path, 0 when it is not found. The text must be valid JSON. */
int txb_json_line(struct txb_slice text, const struct txb_json_step *path, size_t depth);

#endif
