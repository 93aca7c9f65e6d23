/* The same CloudEvents headers as the relay's, written and read by code of its own: bare_relay must pay for what the
 * relay pays for. */
#ifndef TXB_BENCH_ENVELOPE_H
#define TXB_BENCH_ENVELOPE_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdint.h>

#define ENVELOPE_ID_SIZE   36
#define ENVELOPE_TIME_SIZE 27 /* 2024-05-06T07:08:09.123456Z */

void envelope_id_text(const unsigned char id[16], char out[ENVELOPE_ID_SIZE]);
bool envelope_id_parse(const char *text, size_t size, unsigned char out[16]);
/* Microseconds since 1970 as RFC 3339. */
void envelope_time_text(int64_t wall_us, char out[ENVELOPE_TIME_SIZE]);

struct envelope {
  const unsigned char *id;
  const char *source, *type, *content_type;
  int64_t time_us;
};
/* The caller owns what comes back, until a produce call takes it. */
rd_kafka_headers_t *envelope_headers(const struct envelope *e);

#endif
