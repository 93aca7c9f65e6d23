/* Where something stands in a JSON text. jansson tells the line of what is not JSON, but not that of a key that is
 * merely wrong; and it gives numbers as doubles, which money must not go through: so a payload is taken as the text
 * that it was. Pure. */
#ifndef TXB_COMMON_JSON_PLACE_H
#define TXB_COMMON_JSON_PLACE_H

#include "common/slice.h"

struct txb_json_step {
  const char *key; /* a member of an object; NULL: element `index` of an array */
  size_t index;
};

/* The line (from 1) of the key or element at the end of the path, 0 when it is not found. The text must be valid
 * JSON. */
int txb_json_line(struct txb_slice text, const struct txb_json_step *path, size_t depth);
/* The text of the value there, as it was written; absent when it is not found. The text must be valid JSON. */
struct txb_slice txb_json_span(struct txb_slice text, const struct txb_json_step *path, size_t depth);

#endif
