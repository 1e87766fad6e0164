/* epoch.h: the order of one epoch: which rows stand in which micro-batch. A pure function of
 * (lengths, options, seed, number of the epoch), made again whenever it is needed; loader.h says
 * what it is. */
#ifndef NIBBLE_DATA_EPOCH_H
#define NIBBLE_DATA_EPOCH_H

#include "data/loader.h"
#include "data/pack.h"

typedef struct epoch {
    const row_set *rows;
    const loader_options *o;
    const int32_t *used; /* [used_count] rows that are trained on, in the dataset's order */
    int64_t used_count;
    /* the order; micro-batch m is order[start[m] .. start[m + 1]) */
    int64_t number; /* of the epoch that was made last; -1: none */
    int64_t micro_count;
    int32_t *order; /* [used_count] */
    int32_t *start; /* [used_count + 1] */
    /* scratch of its making */
    int64_t window; /* rows that are ordered together */
    packer *packer;
    int32_t *lengths, *bin, *rank, *sorted; /* [window] */
} epoch;

/* All but the epoch itself must outlive it. Close it also after a failure. */
status epoch_open(epoch *e, const row_set *rows, const loader_options *o, const int32_t *used,
                  int64_t used_count);
void epoch_close(epoch *e); /* a zeroed one is fine */

/* Makes the order of epoch `number`; returns its bins (packed; else places of rows). */
int64_t epoch_make(epoch *e, int64_t number);

#endif
