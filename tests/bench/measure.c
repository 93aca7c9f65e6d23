/* Clocks, samples and arguments of the measuring programs. */
#include "measure.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void give_up(const char *format, ...) {
  va_list list;
  va_start(list, format);
  fprintf(stderr, "%s: ", program_invocation_short_name);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
  exit(1);
}

const char *argument(int argc, char **argv, const char *name, const char *fallback) {
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strncmp(argv[i], "--", 2) != 0)
      give_up("%s: expected --name value", argv[i]);
    if (strcmp(argv[i] + 2, name) == 0)
      return argv[i + 1];
  }
  if (fallback == NULL)
    give_up("--%s is needed", name);
  return fallback;
}

int64_t argument_number(int argc, char **argv, const char *name, int64_t fallback) {
  const char *text = argument(argc, argv, name, "");
  if (text[0] == '\0')
    return fallback;
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (errno != 0 || *end != '\0')
    give_up("--%s %s: not a number", name, text);
  return value;
}

void samples_add(struct samples *s, int64_t value) {
  if (s->count == s->capacity) {
    s->capacity = s->capacity == 0 ? 65536 : s->capacity * 2;
    s->values = realloc(s->values, s->capacity * sizeof *s->values);
    if (s->values == NULL)
      give_up("out of memory");
  }
  s->values[s->count++] = value;
}

static int by_value(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

void samples_sort(struct samples *s) {
  if (s->count > 0)
    qsort(s->values, s->count, sizeof *s->values, by_value);
}

double samples_quantile_ms(const struct samples *s, double q) {
  if (s->count == 0)
    return 0;
  size_t i = (size_t)(q * (double)(s->count - 1) + 0.5);
  return (double)s->values[i] / 1e6;
}

void samples_free(struct samples *s) {
  free(s->values);
  *s = (struct samples){0};
}
