/* head.cu: the language model's head on the card: OP_HEAD_CROSS_ENTROPY and OP_LOGITS.
 *
 * Rows without a target are dropped before the products: one block numbers the others in order,
 * and they go in chunks of HEAD_CHUNK rows, so at most [HEAD_CHUNK, V] logits in C exist (V = 128,256 in
 * bf16: 263 MB). How many there are is on the device; the host enqueues as many chunks as
 * call->targets says, or as all rows may need, and rows beyond the last are zeros.
 *
 * A block makes a row: one pass for the greatest logit and the sum of exponentials (each thread
 * carries both, 16 bytes at a time), one that puts dlogits in the logits' place. */
#include "autograd/cuda/head_size.h"
#include "autograd/cuda/rows.h"

#include <math.h>

enum {
    COUNT_THREADS = 512, /* of the block that numbers rows */
    ROW_BLOCK = 256,     /* threads of a row of logits */
};

/* ---- which rows ---- */

template <typename T> static __device__ __forceinline__ piece<T> zeros(void) {
    piece<T> p;
    p.bits = make_uint4(0, 0, 0, 0);
    return p;
}

/* One block. kept[0..] = rows with a target in order, then -1 up to `room`. */
__global__ void __launch_bounds__(COUNT_THREADS)
    keep_kernel(const int32_t *targets, int64_t rows, int32_t *kept, int64_t room) {
    SHARED(memory);
    int *counts = (int *)memory; /* per warp */
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    int64_t before = 0;
    for (int64_t row = 0; row < rows; row += COUNT_THREADS) {
        int64_t own = row + threadIdx.x;
        bool keep = own < rows && targets[own] >= 0;
        unsigned mask = __ballot_sync(0xffffffffu, keep);
        if (lane == 0) counts[warp] = __popc(mask);
        __syncthreads();
        int64_t at = before + __popc(mask & ((1u << lane) - 1));
        for (int i = 0; i < COUNT_THREADS / WARP; i++) {
            if (i < warp) at += counts[i];
            before += counts[i];
        }
        if (keep) kept[at] = (int32_t)own;
        __syncthreads();
    }
    for (int64_t i = before + threadIdx.x; i < room; i += COUNT_THREADS) kept[i] = -1;
}

/* Row kept[i] of x as row i; zeros where there is none. */
template <typename T>
__global__ void gather_kernel(matrix<T> x, int64_t rows, int64_t cols, const int32_t *kept,
                              matrix<T> to, int64_t per_row) {
    row_place p = row_place_of(per_row, piece<T>::count);
    int32_t from = kept[p.row];
    if (p.col >= cols) return;
    piece<T> v = zeros<T>();
    if (from >= 0 && from < rows) v = piece_load(x, from, p.col, cols);
    piece_store(to, p.row, p.col, cols, v);
}

/* Row i of `from` to, or added to, row kept[i] of dx. */
template <typename T>
__global__ void scatter_kernel(matrix<T> from, const int32_t *kept, matrix<T> dx, int64_t cols,
                               bool add, int64_t per_row) {
    row_place p = row_place_of(per_row, piece<T>::count);
    int32_t to = kept[p.row];
    if (p.col >= cols || to < 0) return;
    piece<T> v = piece_load(from, p.row, p.col, cols);
    if (add) {
        piece<T> old = piece_load(dx, to, p.col, cols);
#pragma unroll
        for (int i = 0; i < v.count; i++)
            v.x[i] = from_f32<T>(to_f32<T>(v.x[i]) + to_f32<T>(old.x[i]));
    }
    piece_store(dx, to, p.col, cols, v);
}

template <typename T> static matrix<T> dense(void *at, int64_t pitch) {
    return (matrix<T>){(T *)at, pitch, pitch * (int64_t)sizeof(T) % 16 == 0};
}

template <typename T>
static void launch_gather(backend *b, const tensor *x, const int32_t *kept, int64_t n,
                          void *to) {
    row_grid g = row_grid_of(n, x->cols, piece<T>::count);
    LAUNCH((gather_kernel<T>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b),
           matrix_of<T>(x), x->rows, x->cols, kept, dense<T>(to, x->cols), g.per_row);
}

template <typename T>
static void launch_scatter(backend *b, void *from, const int32_t *kept, int64_t n,
                           const tensor *dx, bool add) {
    row_grid g = row_grid_of(n, dx->cols, piece<T>::count);
    LAUNCH((scatter_kernel<T>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b),
           dense<T>(from, dx->cols), kept, matrix_of<T>(dx), dx->cols, add, g.per_row);
}

/* ---- one row of logits ---- */

/* A greatest value and the sum of exp(x - it). */
typedef struct softmax {
    float most, sum;
} softmax;

static __device__ __forceinline__ softmax join(softmax a, softmax b) {
    softmax s;
    s.most = fmaxf(a.most, b.most);
    /* -inf on both sides: nothing yet. A NaN stays in the sum. */
    float scale_a = a.most == s.most ? 1.0f : expf(a.most - s.most);
    float scale_b = b.most == s.most ? 1.0f : expf(b.most - s.most);
    s.sum = a.sum * scale_a + b.sum * scale_b;
    return s;
}

/* The same in every thread. */
static __device__ __forceinline__ softmax block_join(softmax s, softmax *space) {
    for (int d = WARP / 2; d; d /= 2) {
        softmax other = {__shfl_xor_sync(0xffffffffu, s.most, d),
                         __shfl_xor_sync(0xffffffffu, s.sum, d)};
        s = join(s, other);
    }
    if (threadIdx.x % WARP == 0) space[threadIdx.x / WARP] = s;
    __syncthreads();
    s = space[0];
    for (int i = 1; i < ROW_BLOCK / WARP; i++) s = join(s, space[i]);
    return s;
}

/* One piece joined to s: its greatest first, so that exponentials are not made again. */
template <typename T>
static __device__ __forceinline__ softmax join_piece(softmax s, const piece<T> &p, int count) {
    softmax own = {-INFINITY, 0};
#pragma unroll
    for (int i = 0; i < p.count; i++)
        if (i < count) own.most = fmaxf(own.most, to_f32<T>(p.x[i]));
    if (own.most < s.most) own.most = s.most;
#pragma unroll
    for (int i = 0; i < p.count; i++)
        if (i < count) own.sum += expf(to_f32<T>(p.x[i]) - own.most);
    return join(s, own);
}

/* Elements of the piece at `col` that are within the row. */
template <typename T> static __device__ __forceinline__ int within(int64_t col, int64_t cols) {
    return cols - col < piece<T>::count ? (int)(cols - col) : piece<T>::count;
}

typedef struct head_rows {
    const int32_t *kept, *targets;
    const float *weights;
    float *logp, *lse;
    int64_t vocabulary;
    bool gradients;
} head_rows;

/* logp and lse of row kept[i]; with gradients, dlogits in the logits' place: weight * (softmax -
 * [target]), and zeros in rows that are none. A target that is no token gives NaN. */
template <typename T>
__global__ void __launch_bounds__(ROW_BLOCK) rows_kernel(matrix<T> logits, head_rows h) {
    SHARED(memory);
    int64_t i = blockIdx.x;
    int32_t row = h.kept[i];
    int64_t step = (int64_t)ROW_BLOCK * piece<T>::count, begin = threadIdx.x * piece<T>::count;
    softmax s = {-INFINITY, 0};
    for (int64_t col = begin; row >= 0 && col < h.vocabulary; col += step)
        s = join_piece(s, piece_load(logits, i, col, h.vocabulary),
                       within<T>(col, h.vocabulary));
    s = block_join(s, (softmax *)memory);
    int32_t target = row >= 0 ? h.targets[row] : -1;
    double lse = (double)s.most + log((double)s.sum);
    bool token = target >= 0 && target < h.vocabulary;
    float chosen = token ? to_f32<T>(logits.at[i * logits.stride + target]) : NAN;
    __syncthreads(); /* the target's logit is read before it is overwritten */
    if (row >= 0 && threadIdx.x == 0) {
        h.logp[row] = (float)((double)chosen - lse);
        h.lse[row] = (float)lse;
    }
    float weight = row >= 0 ? h.weights[row] : 0.0f;
    for (int64_t col = begin; h.gradients && col < h.vocabulary; col += step) {
        piece<T> p = zeros<T>();
        if (row >= 0) {
            p = piece_load(logits, i, col, h.vocabulary);
#pragma unroll
            for (int j = 0; j < p.count; j++) {
                float d = weight * expf(to_f32<T>(p.x[j]) - (float)lse);
                if (col + j == target) d -= weight;
                p.x[j] = from_f32<T>(d);
            }
        }
        piece_store(logits, i, col, h.vocabulary, p);
    }
}

template <typename T>
static void launch_rows(backend *b, const head_rows *h, void *logits, int64_t pitch,
                        int64_t n) {
    LAUNCH((rows_kernel<T>), (unsigned)n, ROW_BLOCK, sizeof(softmax) * ROW_BLOCK / WARP,
           cuda_stream(b), dense<T>(logits, pitch), *h);
}

/* ---- by type ---- */

static void gather(backend *b, const tensor *x, const int32_t *kept, int64_t n, void *to) {
    if (x->type == DTYPE_F32)
        launch_gather<float>(b, x, kept, n, to);
    else if (x->type == DTYPE_BF16)
        launch_gather<bf16>(b, x, kept, n, to);
    else
        launch_gather<f16>(b, x, kept, n, to);
}

static void scatter(backend *b, void *from, const int32_t *kept, int64_t n, const tensor *dx,
                    bool add) {
    if (dx->type == DTYPE_F32)
        launch_scatter<float>(b, from, kept, n, dx, add);
    else if (dx->type == DTYPE_BF16)
        launch_scatter<bf16>(b, from, kept, n, dx, add);
    else
        launch_scatter<f16>(b, from, kept, n, dx, add);
}

static void finish_rows(backend *b, dtype type, const head_rows *h, void *logits,
                        int64_t pitch, int64_t n) {
    if (type == DTYPE_F32)
        launch_rows<float>(b, h, logits, pitch, n);
    else if (type == DTYPE_BF16)
        launch_rows<bf16>(b, h, logits, pitch, n);
    else
        launch_rows<f16>(b, h, logits, pitch, n);
}

/* ---- products ---- */

static cuda_gemm_shape product_logits(const head_size *z, int64_t rows) {
    cuda_gemm_shape s = {};
    s.tb = true;
    s.in = s.out = z->type;
    s.m = rows, s.n = z->vocabulary, s.k = z->width;
    s.lda = s.ldb = z->width, s.ldc = z->pitch;
    s.alpha = 1;
    return s;
}
static cuda_gemm_shape product_dx(const head_size *z, int64_t rows) {
    cuda_gemm_shape s = {};
    s.in = s.out = z->type;
    s.m = rows, s.n = z->width, s.k = z->vocabulary;
    s.lda = z->pitch, s.ldb = s.ldc = z->width;
    s.alpha = 1;
    return s;
}
static cuda_gemm_shape product_dw(const head_size *z, int64_t rows) {
    cuda_gemm_shape s = {};
    s.ta = s.add = true;
    s.in = z->type, s.out = DTYPE_F32;
    s.m = z->vocabulary, s.n = z->width, s.k = rows;
    s.lda = z->pitch, s.ldb = s.ldc = z->width;
    s.alpha = 1;
    return s;
}

static status run_product(backend *b, const cuda_gemm_shape *s, const void *x, const void *y,
                          void *to, const head_space *at) {
    return cuda_gemm_run(cuda_of(b)->gemm, cuda_stream(b), s, x, y, to, at->gemm);
}

/* ---- the operation ---- */

/* Rows kept[0..n), of which those beyond the last are -1. */
static status run_chunk(backend *b, const op_call *c, const head_size *z, const head_space *at,
                        const int32_t *kept, int64_t n) {
    const void *w = c->in[HEAD_W].data;
    head_rows h = {kept,
                   (const int32_t *)c->in[HEAD_TARGETS].data,
                   (const float *)c->in[HEAD_WEIGHTS].data,
                   (float *)c->out[HEAD_LOGP].data,
                   (float *)c->out[HEAD_LSE].data,
                   z->vocabulary,
                   z->dx || z->dw};
    cuda_gemm_shape logits = product_logits(z, n), dx = product_dx(z, n),
                    dw = product_dw(z, n);
    gather(b, &c->in[HEAD_X], kept, n, at->x);
    TRY(CUDA_LAUNCHED(b, "head_cross_entropy: rows"));
    TRY(run_product(b, &logits, at->x, w, at->logits, at));
    finish_rows(b, z->type, &h, at->logits, z->pitch, n);
    TRY(CUDA_LAUNCHED(b, "head_cross_entropy"));
    if (z->dw) TRY(run_product(b, &dw, at->logits, at->x, c->gin[HEAD_W].data, at));
    if (!z->dx) return STATUS_OK;
    TRY(run_product(b, &dx, at->logits, w, at->dx, at));
    scatter(b, at->dx, kept, n, &c->gin[HEAD_X], (c->add >> HEAD_X & 1) != 0);
    return CUDA_LAUNCHED(b, "head_cross_entropy, dx");
}

static status clear_rows(backend *b, const tensor *t) {
    int64_t size = dtype_bytes(t->type);
    if (t->stride == t->cols) return b->table->fill(b, t->data, 0, t->rows * t->cols * size);
    for (int64_t i = 0; i < t->rows; i++)
        TRY(b->table->fill(b, cuda_at(t, i, 0), 0, t->cols * size));
    return STATUS_OK;
}

static status run_head(backend *b, const op_call *c) {
    head_size z = cuda_head_size_of_call(c);
    cuda_scratch s = {(char *)c->scratch, 0};
    head_space at;
    if (z.rows == 0) return STATUS_OK;
    cuda_head_take(&s, &z, &at);
    TRY(cuda_scratch_check(&s, "head_cross_entropy", c->scratch_bytes));
    TRY(clear_rows(b, &c->out[HEAD_LOGP]));
    TRY(clear_rows(b, &c->out[HEAD_LSE]));
    if (z.dx && !(c->add >> HEAD_X & 1)) TRY(clear_rows(b, &c->gin[HEAD_X]));
    LAUNCH(keep_kernel, 1, COUNT_THREADS, sizeof(int) * COUNT_THREADS / WARP, cuda_stream(b),
           (const int32_t *)c->in[HEAD_TARGETS].data, z.rows, at.kept,
           round_up_i64(z.rows, HEAD_CHUNK));
    TRY(CUDA_LAUNCHED(b, "head_cross_entropy: rows"));
    int64_t count = c->targets > 0 ? min_i64(c->targets, z.rows) : z.rows;
    for (int64_t i = 0; i < count; i += HEAD_CHUNK)
        TRY(run_chunk(b, c, &z, &at, at.kept + i, cuda_head_chunk(count - i)));
    return STATUS_OK;
}

status cuda_head_cross_entropy_forward(backend *b, const op_call *c) {
    return run_head(b, c);
}
status cuda_head_cross_entropy_backward(backend *b, const op_call *c) {
    return run_head(b, c);
}

status cuda_head_cross_entropy_prepare(backend *b, const op_shape *shape) {
    head_size z = cuda_head_size_of_shape(shape);
    int64_t rows = cuda_head_chunk(z.rows);
    cuda_gemm *g = cuda_of(b)->gemm;
    cuda_gemm_shape logits = product_logits(&z, rows), dx = product_dx(&z, rows),
                    dw = product_dw(&z, rows);
    TRY(cuda_gemm_plan(g, &logits));
    if (z.dx) TRY(cuda_gemm_plan(g, &dx));
    return z.dw ? cuda_gemm_plan(g, &dw) : STATUS_OK;
}

/* ---- logits of selected rows ---- */

static cuda_gemm_shape product_selected(dtype type, int64_t rows, int64_t vocabulary,
                                        int64_t width, int64_t ldc) {
    cuda_gemm_shape s = {};
    s.tb = true;
    s.in = type, s.out = DTYPE_F32;
    s.m = rows, s.n = vocabulary, s.k = width;
    s.lda = s.ldb = width, s.ldc = ldc;
    s.alpha = 1;
    return s;
}

status cuda_logits_prepare(backend *b, const op_shape *s) {
    const tensor_format *w = &s->in[LOGITS_W];
    cuda_gemm_shape p =
        product_selected(s->compute, cuda_logits_rows(s), w->rows, w->cols, w->rows);
    return cuda_gemm_plan(cuda_of(b)->gemm, &p);
}

status cuda_logits_forward(backend *b, const op_call *c) {
    const tensor *x = &c->in[LOGITS_X], *w = &c->in[LOGITS_W];
    cuda_scratch s = {(char *)c->scratch, 0};
    head_space at;
    if (c->selected == 0) return STATUS_OK;
    cuda_logits_take(&s, c->compute, c->selected, w->rows, w->cols, &at);
    TRY(cuda_scratch_check(&s, "logits", c->scratch_bytes));
    gather(b, x, (const int32_t *)c->in[LOGITS_SELECTED].data, c->selected, at.x);
    TRY(CUDA_LAUNCHED(b, "logits: rows"));
    cuda_gemm_shape p =
        product_selected(c->compute, c->selected, w->rows, w->cols, c->out[0].stride);
    return run_product(b, &p, at.x, w->data, c->out[0].data, &at);
}
