/* tile.h: products of small f32 tiles and the softmax between them, for attention.c.
 *
 * Scores are kept transposed, S^T [keys, queries]: a vector runs along queries, so that
 * maxima, sums and masks are elementwise, every product has the one form C [rows, cols] (+)= A
 * [rows, depth] B [depth, cols] with a scalar of A times a vector of B, and only the query
 * side is ever transposed, once per tile of queries: S^T = K Q^T   O^T += V^T P^T   dP^T = V
 * dO^T   dV += P^T dO   dK += dS^T Q   dQ^T += K^T dS^T Here is arithmetic on one tile; who
 * sees whom, and in which order, is attention.c's.
 *
 * Blocks of C stay in registers: 6 x 16 with AVX2, 12 x 32 with AVX-512, 6 x 8 for the
 * baseline (tile_body.h, compiled once for each). Bits depend on the instruction set (fused or
 * not), but not on which tiles are computed together. */
#ifndef NIBBLE_AUTOGRAD_CPU_TILE_H
#define NIBBLE_AUTOGRAD_CPU_TILE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    TILE = 64,      /* queries, or keys, of a tile */
    TILE_COLS = 16, /* columns come in multiples of this */
    TILE_ROW = 80,  /* floats from row to row of S^T: an odd number of cache lines, so that
                       a column of a tile falls into different sets of the L1 cache */
};

/* Query column q sees key row k iff q + delta - window < k <= q + delta (window 0: no lower
 * end). */
typedef struct tile_band {
    int delta, window;
} tile_band;

/* Which sides of a product the band cuts: elements out of sight are skipped. */
typedef enum tile_cut {
    TILE_CUT_NONE,
    TILE_CUT_ROWS,    /* rows are keys, columns queries; C out of sight is not written */
    TILE_CUT_KEYS,    /* depth is keys, columns queries; B out of sight is 0 */
    TILE_CUT_QUERIES, /* rows are keys, depth queries; A out of sight is 0 */
} tile_cut;

typedef struct tile_product {
    const float *a; /* element (r, k) at a[r * a_row + k * a_depth] */
    int64_t a_row, a_depth;
    const float *b; /* [depth, cols], b_row floats from row to row */
    int64_t b_row;
    float *c; /* [rows, cols] */
    int64_t c_row;
    int rows, cols, depth; /* cols a multiple of TILE_COLS */
    bool add;
    const float *rescale; /* [cols]: with `add`, C is multiplied by it first; NULL: not */
    tile_cut cut;
    tile_band band;
} tile_product;

/* One tile of scores [keys, cols], TILE_ROW floats from row to row. */
typedef struct tile_scores {
    float *s;  /* forward: scores become e^(s - max); backward: become p */
    float *dp; /* backward: dP becomes dS */
    int keys, cols;
    tile_band band;
    float softcap; /* s = softcap * tanh(s / softcap) first; 0: not */
    float *max, *sum,
        *rescale;             /* forward, [cols]: running maximum and sum; e^(old max - new) */
    const float *lse, *delta; /* backward, [cols] */
} tile_scores;

typedef struct tile_functions {
    void (*product)(const tile_product *p);
    void (*softmax)(const tile_scores *t);
    void (*derive)(const tile_scores *t); /* p = e^(s - lse), dS = p (dP - delta) ds/dscore */
} tile_functions;

/* For this processor (simd_get). */
const tile_functions *tile_functions_get(void);

/* to [cols, rows] = from [rows, cols] transposed; both counts are rounded up to a multiple
 * of 4. */
void tile_transpose(float *to, int64_t to_row, const float *from, int64_t from_row, int rows,
                    int cols);

/* Where the running maximum starts: below every score, but finite. */
#define TILE_LOWEST (-1e30f)

#endif
