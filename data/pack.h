/* pack.h: which rows share a bin. Minimum bin slack (J. N. D. Gupta and J. C. Ho, 1999): a bin
 * begins with the longest row left and gets those that fill it best, found by a search that
 * gives up after some steps; done a few times with different patience, the fewest bins win.
 * Best fit decreasing, the usual choice, wastes most where two rows fill three quarters of a
 * bin. gsm8k as conversations, 7,470 rows of 74 to 512 tokens, 192 on average:
 *
 *     bins of      best fit decreasing     this          best possible
 *        512             97.3 %            98.3 %            99.9 %
 *      1,024             98.4 %            99.6 %
 *
 * Knows lengths only, no tokens and no order of training: the loader shuffles what comes out.
 * A window of n rows costs some hundred steps per bin, 1 ms for 1,000 rows, and allocates
 * nothing. */
#ifndef NIBBLE_DATA_PACK_H
#define NIBBLE_DATA_PACK_H

#include "common/status.h"

#include <stdint.h>

typedef struct packer packer;

/* For bins of `bin_tokens` and windows of at most `window` rows. */
status pack_open(packer **out, int64_t bin_tokens, int64_t window);
void pack_close(packer *p); /* NULL is fine */

/* Puts n rows of these lengths (1 .. bin_tokens) into bins: bin[i] is row i's, numbered from 0
 * by the first row (smallest i) in each. Returns the number of bins. Rows of equal length go
 * by their order, so the result is a function of the arguments. */
int64_t pack_best_fit(packer *p, const int32_t *lengths, int64_t n, int32_t *bin);
/* The same with the rows' order kept: a bin is closed when the next row does not fit. */
int64_t pack_in_order(packer *p, const int32_t *lengths, int64_t n, int32_t *bin);

#endif
