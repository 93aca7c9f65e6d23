/* What the programs of tests/bench share: clocks, samples, arguments, and one way to give up. They live for one run
 * and keep nothing. */
#ifndef TXB_BENCH_MEASURE_H
#define TXB_BENCH_MEASURE_H

#include <stddef.h>
#include <stdint.h>

/* CLOCK_MONOTONIC: one clock for all processes of this machine, so that a stamp written by the load can be read by
 * the ear. */
int64_t now_ns(void);

/* Prints "program: text" on stderr and exits with 1: a measurement that went wrong is no measurement. */
_Noreturn void give_up(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The value after --name, or fallback; gives up when it is missing and there is no fallback (NULL). */
const char *argument(int argc, char **argv, const char *name, const char *fallback);
int64_t argument_number(int argc, char **argv, const char *name, int64_t fallback);

/* Samples in nanoseconds, all kept: quantiles are exact. */
struct samples {
  int64_t *values;
  size_t count, capacity;
};
void samples_add(struct samples *s, int64_t value);
/* Sorts, then reads: q from 0 to 1; 0 without samples. */
void samples_sort(struct samples *s);
double samples_quantile_ms(const struct samples *s, double q);
void samples_free(struct samples *s);

#endif
