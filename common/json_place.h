/* Where something stands in a JSON text. jansson tells the line of what is not JSON, but not that of a key that is
 * merely wrong; and it gives numbers as doubles, which money must not go through: so a payload is taken as the text
 * that it was. Pure. */
#ifndef TXB_COMMON_JSON_PLACE_H
#define TXB_COMMON_JSON_PLACE_H

#include <jansson.h>

#include "common/error.h"
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

struct txb_json_document {
  const char *name; /* of the file */
  struct txb_slice text;
};
enum { TXB_JSON_WHERE_SIZE = 400 };

/* The document's value, the caller's. TXB_REFUSED, an error of usage with line and column, when it is not valid JSON or
 * an object holds a key twice; the message holds nothing of the file: that could be a password. */
enum txb_rc txb_json_parse(const struct txb_json_document *document, json_t **out,
                           struct txb_error *err) TXB_MUST_CHECK;
/* "txbroker.json:12: workers[0].handler.kind"; a key that is written with escapes has the line of what it stands in, and
 * the line is left out when that can't be found either. Depth 0 is the whole: "txbroker.json:1". */
void txb_json_describe(const struct txb_json_document *document, const struct txb_json_step *path, size_t depth,
                       char out[TXB_JSON_WHERE_SIZE]);
/* "an object", "a string": static. */
const char *txb_json_kind_name(const json_t *value);

#endif
