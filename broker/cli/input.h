/* What a command reads: a file, or standard input. */
#ifndef TXB_BROKER_CLI_INPUT_H
#define TXB_BROKER_CLI_INPUT_H

#include "common/buffer.h"

/* All of a file, "-" for standard input, added to `out`. TXB_REFUSED (usage): it can't be read, or has more than size_max
 * bytes; TXB_FATAL: no memory. */
enum txb_rc txb_input_read(const char *path, size_t size_max, struct txb_buffer *out,
                           struct txb_error *err) TXB_MUST_CHECK;

#endif
