/* attention.h: what the kernels of OP_ATTENTION share: a call as they see it, and how a block
 * finds its piece of a document.
 *
 * The host knows how many rows and documents there are, not where documents begin. So the grid
 * has slots for tiles of `size` rows: document d's first tile is slot starts[d] / size + d,
 * which leaves room for all its tiles whatever its length, and a block finds its document by
 * binary search. Slots beyond a document's last tile do nothing. Rows past the last document
 * are one document more, whose outputs are zeros. Results depend on a row's place in its
 * document only, not on its place in the batch.
 *
 * attention_plain.cu does every type, size and stride in f32, slowly; attention_forward.cu and
 * attention_backward.cu do 16-bit types on tensor cores; attention_cached.cu generation. */
#ifndef NIBBLE_AUTOGRAD_CUDA_ATTENTION_H
#define NIBBLE_AUTOGRAD_CUDA_ATTENTION_H

#include "autograd/cuda/cuda.h"
#include "autograd/cuda/device.h"

enum { ATTENTION_DIM_MAX = 256 };

typedef struct attention_args {
    int heads, kv_heads, group; /* group: query heads of a kv head */
    int dim, window;            /* window 0: none */
    float scale, softcap;       /* softcap 0: none */
    float inner;                /* scale / softcap */
    /* what a raw score counts in an exponent of e and of 2; where there is a cap, its tanh */
    float unit, unit2;
    bool add; /* gradients are added to what stands there */
    int64_t rows, documents;
    const int32_t *starts; /* [documents + 1] */
    const int32_t *past;   /* [documents], or NULL: 0 */
    const void *qkv;       /* [rows, (heads + 2 kv_heads) * dim] */
    int64_t qkv_stride;
    const void *keys; /* qkv, or the cache [documents * cache_rows, 2 * kv_heads * dim] */
    int64_t key_stride, key_col, value_col;
    int64_t cache_rows; /* 0: keys are rows of the batch */
    void *y;            /* [rows, heads * dim] */
    float *lse;         /* [rows, heads] */
    int64_t y_stride, lse_stride;
    const void *dy; /* like y */
    void *g;        /* like qkv */
    int64_t dy_stride, g_stride;
    float2 *stats; /* [heads, plane] {lse, row sum of dy * y}, in scratch */
    int64_t plane; /* rows, rounded up to an even number */
} attention_args;

/* Rows [first, count) of a document, as many as a tile has. */
typedef struct attention_tile {
    bool live, padding;   /* padding: rows past the last document */
    int64_t row, key_row; /* of the document's first row in the batch, first key in `keys` */
    int first, count;     /* in the document; count: of the whole document */
    int past;             /* keys in front of its first row */
} attention_tile;

static inline int64_t attention_slots(const attention_args *a, int size) {
    return a->rows / size + a->documents + 1;
}

static __device__ __forceinline__ attention_tile attention_tile_of(const attention_args &a,
                                                                   int64_t slot, int size) {
    int64_t low = 0, high = a.documents;
    while (low < high) {
        int64_t d = (low + high + 1) / 2;
        if (a.starts[d] / size + d <= slot)
            low = d;
        else
            high = d - 1;
    }
    attention_tile t;
    int begin = a.documents ? a.starts[low] : 0;
    t.padding = low == a.documents;
    t.row = begin;
    t.past = a.past && !t.padding ? a.past[low] : 0;
    t.key_row = a.cache_rows ? low * a.cache_rows : begin;
    t.count = (t.padding ? (int)a.rows : a.starts[low + 1]) - begin;
    t.first = (int)(slot - begin / size - low) * size;
    t.live = t.first < t.count;
    return t;
}

/* Query minus key is in [0, attention_reach) for those that see each other. */
static __device__ __forceinline__ unsigned attention_reach(const attention_args &a) {
    return a.window > 0 ? (unsigned)a.window : 1u << 31;
}
/* The first key that a query at `position` sees. */
static __device__ __forceinline__ int attention_first_key(const attention_args &a,
                                                          int position) {
    return a.window > 0 ? max(0, position - a.window + 1) : 0;
}
static __device__ __forceinline__ bool attention_sees(const attention_args &a, int query,
                                                      int key) {
    return (unsigned)(query - key) < attention_reach(a);
}

/* tanh(x) with an absolute error of 2^-22: what a capped score needs. */
static __device__ __forceinline__ float attention_tanh(float x) {
    return 1 - __fdividef(2.0f, 1 + exp2_fast(x * 2.885390082f));
}

/* Writes 0 to columns [col, col + cols) of the tile's rows, by the whole block. */
template <typename T>
static __device__ void attention_clear(T *to, int64_t stride, const attention_tile &t,
                                       int size, int64_t col, int cols) {
    int rows = min(size, t.count - t.first);
    for (int i = threadIdx.x; i < rows * cols; i += blockDim.x)
        to[(t.row + t.first + i / cols) * stride + col + i % cols] = from_f32<T>(0);
}

/* ---- launches; `type` is the compute type ---- */

/* attention_plain.cu: any type, any size up to ATTENTION_DIM_MAX, any stride. */
cudaError_t attention_plain_forward(dtype type, const attention_args *a, cudaStream_t s);
cudaError_t attention_plain_backward(dtype type, const attention_args *a, cudaStream_t s);
/* stats from y, dy and lse; every backward begins with it. `wide`: heads of y and dy are whole
 * pieces of 16 bytes. */
cudaError_t attention_stats(dtype type, const attention_args *a, bool wide, cudaStream_t s);

/* Tensor cores: bf16 and f16, operands in 16-byte pieces. */
cudaError_t attention_forward(dtype type, const attention_args *a, cudaStream_t s);
cudaError_t attention_backward(dtype type, const attention_args *a, cudaStream_t s);
/* Loads the kernels for heads of `dim`. */
cudaError_t attention_forward_prepare(dtype type, int dim);
cudaError_t attention_backward_prepare(dtype type, int dim);

/* attention_cached.cu: stores the new keys and values; the forward for few rows per document,
 * from 16-byte pieces. */
cudaError_t attention_append(dtype type, const attention_args *a, cudaStream_t s);
cudaError_t attention_decode(dtype type, const attention_args *a, cudaStream_t s);

#endif
