/* UUIDs, version 7 (RFC 9562): 48 bits of milliseconds, then the fraction of the millisecond in 12 bits (section 6.2,
 * method 3: so ids of one process sort to the microsecond), then 62 random bits. */
#ifndef TXB_COMMON_UUID_H
#define TXB_COMMON_UUID_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"

struct txb_uuid {
  unsigned char bytes[16]; /* network order, as PostgreSQL's binary format and as text reads */
};

/* A new id of the given wall time. Any thread. */
void txb_uuid_v7(int64_t wall_us, struct txb_uuid *out);
/* A v7 id that depends on its inputs only: the time to the microsecond, and 62 bits of SHA-256 over the parts, each
 * preceded by its length (W7). The same foreign message always gets the same id. */
void txb_uuid_v7_derive(int64_t wall_us, const struct txb_slice *parts, size_t count, struct txb_uuid *out);
/* The millisecond of a v7 id. */
int64_t txb_uuid_v7_ms(const struct txb_uuid *id);
bool txb_uuid_is_v7(const struct txb_uuid *id);
void txb_uuid_format(const struct txb_uuid *id, char out[37]);
/* The 36-character form, upper or lower case; TXB_REFUSED otherwise. */
enum txb_rc txb_uuid_parse(struct txb_slice text, struct txb_uuid *out, struct txb_error *err) TXB_MUST_CHECK;

#endif
