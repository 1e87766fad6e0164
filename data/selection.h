/* selection.h: which rows of a dataset are wanted: the slices of its split, and of those the
 * rows of one shard. Rows are counted over all files. */
#ifndef NIBBLE_DATA_SELECTION_H
#define NIBBLE_DATA_SELECTION_H

#include "data/split.h"

#include <stdint.h>

typedef struct row_selection {
    row_split split;
    int64_t rows;          /* of all files, INT64_MAX while not counted */
    int64_t shards, shard; /* shards > 1: only rows whose number modulo shards is shard */
    int64_t end;           /* no row from here on is wanted */
} row_selection;

/* Sets `end`; the other fields are set before. */
void selection_finish(row_selection *s);
/* How often a row is wanted: overlapping slices take it more than once. */
int selection_times(const row_selection *s, int64_t row);
/* The first row from `row` on that is wanted; `end` where there is none. */
int64_t selection_next(const row_selection *s, int64_t row);

#endif
