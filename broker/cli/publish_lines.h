/* Intents as JSON lines: what `publish --jsonl` reads and `tail` prints. */
#ifndef TXB_BROKER_CLI_PUBLISH_LINES_H
#define TXB_BROKER_CLI_PUBLISH_LINES_H

#include <jansson.h>

#include "common/buffer.h"
#include "common/memory.h"
#include "txbroker/outbox.h"

/* One parsed line. The intent borrows from root, from text and from arena. */
struct txb_line {
  json_t *root;
  struct txb_intent intent;
};

/* Parses a line whose text lives as long as the intent. TXB_REFUSED says what is wrong, without a line number. */
enum txb_rc txb_line_parse(struct txb_slice text, struct txb_arena *arena, struct txb_line *out,
                           struct txb_error *err) TXB_MUST_CHECK;
void txb_line_fini(struct txb_line *line);

/* "2026-01-31T12:00:00Z", or "+30" for seconds from now, to wall microseconds. */
enum txb_rc txb_not_before_parse(const char *text, int64_t *out, struct txb_error *err) TXB_MUST_CHECK;

/* Publishes every line of a stream in one transaction: all of them, or none. ids gets the id of each, a newline after
 * it. *count_out: how many. A crash before the COMMIT leaves nothing; after it, everything. The error names the
 * line. */
enum txb_rc txb_publish_lines(void *pgconn, int fd, struct txb_buffer *ids, size_t *count_out,
                              struct txb_error *err) TXB_MUST_CHECK;

#endif
