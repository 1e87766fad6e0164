/* attention.h: what the two directions of CPU attention share: a call's sizes, its documents
 * cut into tiles, and tiles filled from operands.
 *
 * Work is cut by document, key-value head and tile of TILE rows, counted from the document's
 * first key, so that a document's results depend neither on its neighbours nor on the threads.
 */
#ifndef NIBBLE_AUTOGRAD_CPU_ATTENTION_H
#define NIBBLE_AUTOGRAD_CPU_ATTENTION_H

#include "autograd/cpu/rows.h"
#include "autograd/cpu/scratch.h"
#include "autograd/cpu/tile.h"

enum { HEADS_AT_ONCE = 4 /* query heads of one group that share the loading of a key tile */ };

typedef struct attention_sizes {
    int heads, kv_heads, dim;
    int group;  /* query heads per key-value head */
    int parts;  /* pieces of at most HEADS_AT_ONCE heads of a group */
    int padded; /* dim rounded up to TILE_COLS */
    int row; /* floats from row to row of a [TILE, dim] tile: an odd number of cache lines */
    int64_t key_col, value_col; /* in a row of qkv */
} attention_sizes;

attention_sizes attention_sizes_of(const op_attr *attr);
/* STATUS_INTERNAL for sizes that these kernels do not do; sizes come from a checked config. */
status attention_check(const op_attr *attr);

/* A document: rows [row, row + count) of the batch; its keys are rows [key_row, ...) of
 * `keys`. */
typedef struct attention_document {
    int64_t row, count, past; /* past: keys in front of the first query */
    const tensor *keys;       /* qkv or the cache */
    int64_t key_row, key_col, value_col;
} attention_document;

attention_document attention_document_of(const op_call *call, int64_t document);

/* Tile `index` of document `document`: query rows [index * TILE, ...). */
typedef struct attention_tile {
    int32_t document, index;
} attention_tile;

/* Lists the tiles of all documents, a document's last one first (it has most keys). At most
 * one per row. Returns their number. */
int64_t attention_list_tiles(const op_call *call, attention_tile *tiles);

static inline int attention_tiles(int64_t rows) {
    return (int)((rows + TILE - 1) / TILE);
}

/* to [TILE, s->row] = rows [row, row + n) of `from`, columns [col, col + dim), times `scale`;
 * further columns, and rows up to a multiple of TILE_COLS, are 0. */
void attention_load(const attention_sizes *s, const tensor *from, int64_t row, int n,
                    int64_t col, float scale, float *to);

/* The first key that a query at position `first` sees, rounded down to a tile. */
int64_t attention_first_key(const op_attr *attr, int64_t first);

/* Who sees whom in a tile whose first query stands `delta` behind its first key. */
tile_band attention_band(const op_attr *attr, int64_t delta);

/* Tasks of unequal length: each thread takes the next one. */
#ifdef _OPENMP
#define ATTENTION_TASKS(b) PARALLEL_PRAGMA(omp parallel for schedule(dynamic) num_threads((b)->threads))
#else
#define ATTENTION_TASKS(b)
#endif

/* Bytes; attention_backward.c. */
int64_t attention_backward_scratch(int threads, const op_attr *attr, int64_t rows);

#endif
