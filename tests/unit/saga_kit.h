/* Random definitions of sagas, for tests that want many: side by side, reserve, pivot, retriable and conditions. Their steps
 * are s0, s1, ...; each gives {"n": ...}, gets {"a": 7, "of": n of an earlier one or null}, and is run if its input.w[N];
 * of a few the input or the condition can't be made out. Steps may be sagas of a library, which gives {"n": ...}, too. */
#ifndef TXB_TESTS_UNIT_SAGA_KIT_H
#define TXB_TESTS_UNIT_SAGA_KIT_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "broker/saga/definition.h"

enum { KIT_STEPS_MAX = 7, KIT_TOPICS = 3, KIT_TEXT_SIZE = 8000, KIT_LIBRARY_MAX = 3 };

struct saga_kit {
  uint64_t random;
  char definition[KIT_TEXT_SIZE], input[200];
  size_t used;
  int count, undoable;      /* steps, and how many of them can be undone: the first ones */
  bool pivot;               /* it comes behind those */
  int reads[KIT_STEPS_MAX]; /* whose output a step is handed; -1: nobody's */
  bool runs[KIT_STEPS_MAX];

  /* Given, for sagas within each other; zeroed there are none. */
  const char *name;              /* of one of a library; NULL: "s" */
  int steps_max;                 /* 0: KIT_STEPS_MAX */
  bool undoable_only;            /* all of it can be undone */
  const struct saga_kit *nested; /* the library */
  int nested_count;
};

static inline uint64_t kit_random(struct saga_kit *k) {
  uint64_t z = (k->random += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static inline uint64_t kit_roll(struct saga_kit *k, uint64_t n) {
  return kit_random(k) % n;
}

static inline bool kit_chance(struct saga_kit *k, unsigned percent) {
  return kit_roll(k, 100) < percent;
}

static inline void kit_add(struct saga_kit *k, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline void kit_add(struct saga_kit *k, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int size = vsnprintf(k->definition + k->used, KIT_TEXT_SIZE - k->used, format, args);
  va_end(args);
  TXB_ASSERT(size >= 0 && (size_t)size < KIT_TEXT_SIZE - k->used);
  k->used += (size_t)size;
}

/* Which steps it comes behind. */
static inline uint64_t kit_after(struct saga_kit *k, int step) {
  uint64_t earlier = (UINT64_C(1) << step) - 1, undoable = (UINT64_C(1) << k->undoable) - 1;
  if (step < k->undoable)
    return kit_random(k) & kit_random(k) & earlier;
  if (step == k->undoable || !k->pivot)
    return undoable | (kit_random(k) & earlier);
  return (UINT64_C(1) << k->undoable) | (kit_random(k) & earlier);
}

/* Now and then a template reads what is not there. Not in a library: one that never succeeds would be tried for ever. */
static inline const char *kit_broken(struct saga_kit *k) {
  return k->name == NULL && kit_chance(k, 2) ? ",\"b\":\"{input.none}\"" : "";
}

/* The number of a saga in the library that can be what the step is, -1: none. */
static inline int kit_nested(struct saga_kit *k, int step) {
  if (k->nested_count == 0 || !kit_chance(k, 60))
    return -1;
  int n = (int)kit_roll(k, (uint64_t)k->nested_count);
  return step >= k->undoable || k->nested[n].undoable_only ? n : -1;
}

static inline void kit_end_nested(struct saga_kit *k, int step, const struct saga_kit *nested) {
  kit_add(k, ",\"input\":{\"amount\":\"{input.amount}\",\"w\":[");
  for (int i = 0; i < nested->count; i++)
    kit_add(k, "%s%s", i == 0 ? "" : ",", nested->runs[i] ? "true" : "false");
  kit_add(k, "]");
  if (k->reads[step] >= 0)
    kit_add(k, ",\"of\":\"{steps.s%d.output.n?}\"", k->reads[step]);
  kit_add(k, "%s}}", step < k->undoable ? kit_broken(k) : "");
  k->runs[step] = true;
}

static inline void kit_step(struct saga_kit *k, int step) {
  int nested = kit_nested(k, step);
  bool reserve = nested < 0 && !k->undoable_only && step < k->undoable && kit_chance(k, 30);
  const char *kind = reserve                           ? "reserve"
                     : step < k->undoable              ? "compensatable"
                     : k->pivot && step == k->undoable ? "pivot"
                                                       : "retriable";
  uint64_t after = kit_after(k, step);
  const char *comma = "";
  kit_add(k, "%s{\"name\":\"s%d\",", step == 0 ? "" : ",", step);
  if (nested < 0)
    kit_add(k, "\"topic\":\"t%d\",\"type\":\"do\"", (int)kit_roll(k, KIT_TOPICS));
  else
    kit_add(k, "\"saga\":{\"name\":\"%s\",\"version\":1}", k->nested[nested].name);
  kit_add(k, ",\"kind\":\"%s\",\"after\":[", kind);
  k->reads[step] = -1;
  for (int i = 0; i < step; i++) {
    if ((after & (UINT64_C(1) << i)) == 0)
      continue;
    kit_add(k, "%s\"s%d\"", comma, i);
    comma = ",";
    k->reads[step] = i;
  }
  kit_add(k, "],\"timeout\":\"%dms\",\"retry\":{\"attempts\":%d,\"first\":\"%dms\",\"factor\":%d,\"cap\":\"40ms\"}",
          (nested < 0 ? 5 : 25) + (int)kit_roll(k, nested < 0 ? 60 : 400), 1 + (int)kit_roll(k, 4),
          1 + (int)kit_roll(k, 20), 1 + (int)kit_roll(k, 3));
  if (nested >= 0) {
    kit_end_nested(k, step, &k->nested[nested]);
    return;
  }
  kit_add(k, ",\"input\":{\"a\":\"{input.amount}\"");
  if (k->reads[step] >= 0)
    kit_add(k, ",\"of\":\"{steps.s%d.output.n?}\"", k->reads[step]);
  kit_add(k, "%s}", kit_broken(k));
  if (step < k->undoable)
    kit_add(k, ",\"%s\":{\"type\":\"undo\",\"input\":{\"who\":\"{saga.id}\"%s}}", reserve ? "cancel" : "compensation",
            kit_broken(k));
  if (reserve)
    kit_add(k,
            ",\"confirm\":{\"type\":\"confirm\",\"input\":{\"a\":\"{input.amount}\",\"of\":\"{steps.s%d.output.n?}\"}}",
            step);
  bool broken = k->name == NULL && kit_chance(k, 2), asked = !broken && kit_chance(k, 40);
  if (broken) /* it can't be told whether that holds */
    kit_add(k, ",\"when\":\"input.w > 1\"");
  else if (asked)
    kit_add(k, ",\"when\":\"input.w[%d]\"", step);
  k->runs[step] = k->runs[step] || !asked;
  kit_add(k, "}");
}

/* Fills it in from its random state. */
static inline void kit_make(struct saga_kit *k) {
  char text[100] = "";
  k->used = 0;
  k->count = 1 + (int)kit_roll(k, k->steps_max > 0 ? (uint64_t)k->steps_max : KIT_STEPS_MAX);
  k->undoable = k->undoable_only ? k->count : (int)kit_roll(k, (uint64_t)k->count + 1);
  k->pivot = k->undoable < k->count && kit_chance(k, 60);
  for (int i = 0; i < k->count; i++)
    k->runs[i] = kit_chance(k, 75);
  for (int i = 0; i < k->count; i++)
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i == 0 ? "" : ",", k->runs[i] ? "true" : "false");
  snprintf(k->input, sizeof k->input, "{\"amount\":7,\"w\":[%s]}", text);
  kit_add(k, "{\"name\":\"%s\",\"version\":1,\"output\":{\"%s\":\"{steps.s%d.output.n?}\"},\"steps\":[",
          k->name != NULL ? k->name : "s", k->name != NULL ? "n" : "last", k->count - 1);
  for (int i = 0; i < k->count; i++)
    kit_step(k, i);
  kit_add(k, "]}");
}

#endif
