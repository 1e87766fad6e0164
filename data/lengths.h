/* lengths.h: how long the rows of a set are, as a histogram of a dozen bars. */
#ifndef NIBBLE_DATA_LENGTHS_H
#define NIBBLE_DATA_LENGTHS_H

#include "data/rows.h"

enum { LENGTH_BARS = 12 };

/* Bar b counts the rows of b * width + 1 to (b + 1) * width tokens. */
typedef struct length_bars {
    int64_t width; /* a power of two, the least that does with LENGTH_BARS */
    int count;     /* up to the longest row's; 0 for an empty set */
    int64_t rows[LENGTH_BARS];
} length_bars;

length_bars lengths_count(const row_set *set);

#endif
