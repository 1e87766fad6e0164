/* lengths.c: see lengths.h. */
#include "data/lengths.h"

length_bars lengths_count(const row_set *set) {
    length_bars bars = {.width = 1};
    int64_t longest = 0;
    for (int64_t i = 0; i < set->count; i++)
        if (row_set_length(set, i) > longest) longest = row_set_length(set, i);
    while (bars.width * LENGTH_BARS < longest) bars.width *= 2;
    for (int64_t i = 0; i < set->count; i++) {
        int64_t n = row_set_length(set, i);
        bars.rows[n ? (n - 1) / bars.width : 0]++;
    }
    bars.count = longest ? (int)((longest - 1) / bars.width) + 1 : 0;
    return bars;
}
