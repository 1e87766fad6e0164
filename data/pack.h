/* pack.h: which rows share a bin. Best fit, decreasing: rows from the longest to the shortest,
 * each into the fullest bin that still holds it (D. S. Johnson, 1973: at most 11/9 of the
 * optimum, in practice over 99 % full once a window has a few hundred rows shorter than half a
 * bin). Knows lengths only, no tokens and no order of training: the loader shuffles what comes
 * out. A window of n rows costs O(n log n) and allocates nothing. */
#ifndef NIBBLE_DATA_PACK_H
#define NIBBLE_DATA_PACK_H

#include "common/status.h"

#include <stdint.h>

typedef struct packer packer;

/* For bins of `bin_tokens` and windows of at most `window` rows. */
status pack_open(packer **out, int64_t bin_tokens, int64_t window);
void pack_close(packer *p); /* NULL is fine */

/* Puts n rows of these lengths (1 .. bin_tokens) into bins: bin[i] is row i's, numbered from 0
 * by the first row (smallest i) in each. Returns the number of bins. */
int64_t pack_best_fit(packer *p, const int32_t *lengths, int64_t n, int32_t *bin);
/* The same with the rows' order kept: a bin is closed when the next row does not fit. */
int64_t pack_in_order(packer *p, const int32_t *lengths, int64_t n, int32_t *bin);

#endif
