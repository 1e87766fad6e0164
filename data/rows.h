/* rows.h: a prepared dataset: token ids and labels of every row, in one flat array each.
 * Immutable once made; the loader, evaluation and `check` read it. */
#ifndef NIBBLE_DATA_ROWS_H
#define NIBBLE_DATA_ROWS_H

#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

enum { LABEL_IGNORED = -100 };

typedef struct row_set {
    int32_t *ids;     /* all rows end to end */
    int32_t *labels;  /* aligned with ids, not shifted; LABEL_IGNORED = not learned */
    int64_t *offsets; /* [count + 1] */
    int64_t count;
    int64_t id_capacity, row_capacity;
} row_set;

/* Appends one row of n tokens; labels NULL = every token is learned. On failure the set is as
 * it was. */
status row_set_append(row_set *set, const int32_t *ids, const int32_t *labels, int64_t n);
void row_set_free(row_set *set);

int64_t row_set_length(const row_set *set, int64_t row); /* tokens of a row */

/* How many of a row's tokens will be predicted: labels[1..n-1] that are not ignored. */
int64_t row_set_targets(const row_set *set, int64_t row);

#endif
