/* Edit distance with swaps (optimal string alignment), three rows at a time. */
#include "common/nearest.h"

#include <ctype.h>
#include <string.h>

#define WORD_SIZE_MAX 64

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

static size_t distance(const char *a, size_t a_size, const char *b, size_t b_size) {
  size_t rows[3][WORD_SIZE_MAX + 1];
  size_t *before = rows[0], *last = rows[1], *row = rows[2];
  for (size_t j = 0; j <= b_size; j++)
    last[j] = j;
  for (size_t i = 1; i <= a_size; i++) {
    row[0] = i;
    for (size_t j = 1; j <= b_size; j++) {
      int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
      row[j] = least(least(last[j] + 1, row[j - 1] + 1), last[j - 1] + (x != y));
      if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) && y == tolower((unsigned char)a[i - 2]))
        row[j] = least(row[j], before[j - 2] + 1);
    }
    size_t *free_row = before;
    before = last;
    last = row;
    row = free_row;
  }
  return last[b_size];
}

const char *txb_nearest(const char *word, const char *const *names, size_t count) {
  size_t size = strlen(word), best = size / 3 + 1; /* below that */
  const char *nearest = NULL;
  if (size == 0 || size > WORD_SIZE_MAX)
    return NULL;
  for (size_t i = 0; i < count; i++) {
    size_t name_size = strlen(names[i]);
    if (name_size > WORD_SIZE_MAX)
      continue;
    size_t d = distance(word, size, names[i], name_size);
    if (d < best) {
      best = d;
      nearest = names[i];
    }
  }
  return nearest;
}
