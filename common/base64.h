/* Base64 (RFC 4648, with padding), for bytes that are not text in JSON. */
#ifndef TXB_COMMON_BASE64_H
#define TXB_COMMON_BASE64_H

#include "common/buffer.h"

void txb_base64_encode(struct txb_slice bytes, struct txb_buffer *out);
/* Appends the bytes; false (with out perhaps grown) when the text is not base64. */
bool txb_base64_decode(struct txb_slice text, struct txb_buffer *out);

#endif
