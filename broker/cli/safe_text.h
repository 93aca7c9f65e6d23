/* Foreign bytes made safe for a terminal: what came in a message must not move the cursor, recolour the screen or type
 * into the shell of whoever looks at it. Pure. */
#ifndef TXB_BROKER_CLI_SAFE_TEXT_H
#define TXB_BROKER_CLI_SAFE_TEXT_H

#include "common/buffer.h"

enum { TXB_SAFE_LINE, TXB_SAFE_LINES };

/* Appends a text in which control characters (C0, DEL, C1), what turns the direction of writing, invisible marks and
 * bytes that are not UTF-8 stand as \x1b or \u202e. Without TXB_SAFE_LINES line feeds and tabs too. At most width_max
 * characters (0: all), then "...". */
void txb_safe_add(struct txb_buffer *out, struct txb_slice text, size_t width_max, int lines);
/* Bytes as in `hexdump -C`, each line indented; at most size_max of them (0: all). */
void txb_safe_add_hex(struct txb_buffer *out, struct txb_slice bytes, size_t size_max, int indent);

#endif
