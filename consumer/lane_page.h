/* A page of a lane: rows of lane_read.sql as messages, which point into it without a copy. It lives until the last of them
 * is released and the reader has let go of it. A crash loses it, and it is read again. */
#ifndef TXB_CONSUMER_LANE_PAGE_H
#define TXB_CONSUMER_LANE_PAGE_H

#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"

struct txb_lane_page;
struct txb_pg_result;
struct txb_worker_message;

/* How many bytes the rows of an answer count for towards the limit of a page; the number of the intent in one of them. */
int64_t txb_lane_page_bytes(const struct txb_pg_result *rows);
int64_t txb_lane_page_seq(const struct txb_pg_result *rows, int row);
/* The rows are the page's on TXB_OK only; *out is the caller's, who ends with unref. TXB_FATAL: no memory. */
enum txb_rc txb_lane_page_new(struct txb_pg_result *rows, const char *event_source, struct txb_lane_page **out,
                              struct txb_error *err) TXB_MUST_CHECK;
void txb_lane_page_unref(struct txb_lane_page *page); /* NULL is fine */
int txb_lane_page_rows(const struct txb_lane_page *page);
/* The message of a row, once for each row: the caller's, until txb_lane_message_release. `topic` is borrowed: once
 * it is gone the message may only be released. *size_out: bytes that it holds. */
struct txb_worker_message *txb_lane_page_give(struct txb_lane_page *page, int row, struct txb_slice topic,
                                              int32_t partition, int64_t *size_out);
/* Of any lane: also of one that reads Kafka, whose messages have no page. */
void txb_lane_message_release(struct txb_worker_message *message);

#endif
