/* "Did you mean ...": the known name nearest to a misspelt one. Pure, allocates nothing. */
#ifndef TXB_COMMON_NEAREST_H
#define TXB_COMMON_NEAREST_H

#include <stddef.h>

/* The name that the fewest changes lead to (a letter added, left out or replaced, two neighbours swapped; case does not
 * count), the first of several; NULL when none is near enough to be meant: at most a third of the word's letters.
 * Borrowed from names. */
const char *txb_nearest(const char *word, const char *const *names, size_t count);

#endif
