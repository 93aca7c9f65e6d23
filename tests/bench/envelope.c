/* CloudEvents headers in Kafka's binary mode for the bare loops. */
#include "envelope.h"

#include <string.h>

#include "measure.h"

static const char digits[] = "0123456789abcdef";

void envelope_id_text(const unsigned char id[16], char out[ENVELOPE_ID_SIZE]) {
  char *p = out;
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10)
      *p++ = '-';
    *p++ = digits[id[i] >> 4];
    *p++ = digits[id[i] & 15];
  }
}

static int digit_value(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool envelope_id_parse(const char *text, size_t size, unsigned char out[16]) {
  if (size != ENVELOPE_ID_SIZE)
    return false;
  for (int i = 0; i < 16; i++) {
    if (*text == '-')
      text++;
    int high = digit_value(text[0]), low = digit_value(text[1]);
    if (high < 0 || low < 0)
      return false;
    out[i] = (unsigned char)(high << 4 | low);
    text += 2;
  }
  return true;
}

static void two(char *p, int64_t v) {
  p[0] = (char)('0' + v / 10 % 10);
  p[1] = (char)('0' + v % 10);
}

/* Year, month and day of a day number since 1970, by shifting the year to begin in March: leap days then fall at its
 * end. */
static void day_text(int64_t day, char *p) {
  int64_t shifted = day + 719468, era = shifted / 146097, of_era = shifted % 146097;
  int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  int64_t march_month = (5 * of_year + 2) / 153;
  int64_t month = march_month < 10 ? march_month + 3 : march_month - 9;
  int64_t year = era * 400 + year_of_era + (month <= 2 ? 1 : 0);
  two(p, year / 100);
  two(p + 2, year % 100);
  p[4] = '-';
  two(p + 5, month);
  p[7] = '-';
  two(p + 8, of_year - (153 * march_month + 2) / 5 + 1);
}

void envelope_time_text(int64_t wall_us, char out[ENVELOPE_TIME_SIZE]) {
  int64_t seconds = wall_us / 1000000, micros = wall_us % 1000000, of_day = seconds % 86400;
  memcpy(out, "0000-00-00T00:00:00.000000Z", ENVELOPE_TIME_SIZE);
  day_text(seconds / 86400, out);
  two(out + 11, of_day / 3600);
  two(out + 14, of_day / 60 % 60);
  two(out + 17, of_day % 60);
  two(out + 20, micros / 10000);
  two(out + 22, micros / 100 % 100);
  two(out + 24, micros % 100);
}

static void add(rd_kafka_headers_t *headers, const char *name, ssize_t name_size, const char *value, ssize_t size) {
  if (rd_kafka_header_add(headers, name, name_size, value, size) != RD_KAFKA_RESP_ERR_NO_ERROR)
    give_up("header %s not accepted", name);
}

rd_kafka_headers_t *envelope_headers(const struct envelope *e) {
  char id[ENVELOPE_ID_SIZE], time[ENVELOPE_TIME_SIZE];
  envelope_id_text(e->id, id);
  envelope_time_text(e->time_us, time);
  rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
  add(headers, "ce_specversion", 14, "1.0", 3);
  add(headers, "ce_id", 5, id, sizeof id);
  add(headers, "ce_source", 9, e->source, (ssize_t)strlen(e->source));
  add(headers, "ce_type", 7, e->type, (ssize_t)strlen(e->type));
  add(headers, "ce_time", 7, time, sizeof time);
  add(headers, "content-type", 12, e->content_type, (ssize_t)strlen(e->content_type));
  return headers;
}
