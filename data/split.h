/* split.h: `split:` of a dataset: "train", "train[:500]", "train[10%:]", "train[-100:]",
 * several joined by +. The meaning is Hugging Face's: percents round to the nearest row (half
 * to even), negative boundaries count from the end, and rows past the end are not there. */
#ifndef NIBBLE_DATA_SPLIT_H
#define NIBBLE_DATA_SPLIT_H

#include "common/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { SPLIT_PARTS = 16, SPLIT_NAME = 64 };

typedef struct split_bound {
    int64_t value;
    bool given, percent;
} split_bound;

typedef struct row_split {
    char name[SPLIT_NAME]; /* "train" */
    int count;
    struct {
        split_bound from, to;
    } parts[SPLIT_PARTS];
} row_split;

/* NULL or "" is all of train. STATUS_USAGE with the reason. */
status split_parse(row_split *out, const char *text);
/* Whether rows must be counted before the slices are known. */
bool split_needs_count(const row_split *s);
/* The rows [from, to) of a part; `rows` is the total, INT64_MAX while it does not matter. */
void split_range(const row_split *s, int part, int64_t rows, int64_t *from, int64_t *to);

#endif
