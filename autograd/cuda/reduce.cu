/* reduce.cu: sums over whole tensors in double and in a fixed order: OP_LOSS_SUM,
 * OP_SQUARE_SUM, and the last step of parameters' gradients.
 *
 * The order follows from the shape alone: threads add strided elements, a block folds its
 * threads by halves, and parts are added in order. The losses are few (one per row) and take
 * one block; a tensor's squares take up to SQUARE_PARTS blocks and a second launch. */
#include "autograd/cuda/reduce.h"

#include "autograd/cuda/rows.h"

enum {
    THREADS = 256,
    LOADS = 4,    /* pieces per thread and turn */
    ELEMENTS = 4, /* of a piece of f32 */
    TURN = THREADS * LOADS * ELEMENTS,
};

/* ---- losses ---- */

static __global__ void __launch_bounds__(THREADS)
    loss_sum(const float *logp, const int32_t *targets, int64_t rows, double *total) {
    SHARED(shared);
    double sum = 0, count = 0;
    for (int64_t row = threadIdx.x; row < rows; row += THREADS) {
        if (targets[row] < 0) continue;
        sum -= (double)logp[row];
        count += 1;
    }
    sum = block_sum_f64(sum, (double *)shared);
    __syncthreads();
    count = block_sum_f64(count, (double *)shared);
    if (threadIdx.x) return;
    total[0] += sum;
    total[1] += count;
}

status cuda_loss_sum_forward(backend *b, const op_call *call) {
    if (call->rows == 0) return STATUS_OK;
    LAUNCH(loss_sum, 1, THREADS, THREADS * sizeof(double), cuda_stream(b),
           (const float *)call->in[LOSS_LOGP].data,
           (const int32_t *)call->in[LOSS_TARGETS].data, call->rows,
           (double *)call->in[LOSS_TOTAL].data);
    return CUDA_LAUNCHED(b, "loss_sum");
}

/* ---- squares ---- */

/* parts[block] = sum of squares of the block's elements. A square of an f32 is exact in
 * double, and a NaN or infinity anywhere ends up in the sum. */
static __global__ void __launch_bounds__(THREADS)
    square_parts(matrix<float> g, int64_t n, double *parts) {
    SHARED(shared);
    double sum = 0;
    for (int64_t at = (int64_t)blockIdx.x * TURN; at < n; at += (int64_t)gridDim.x * TURN) {
        piece<float> p[LOADS];
        UNROLL
        for (int k = 0; k < LOADS; k++)
            p[k] = piece_load(g, 0, at + (k * THREADS + (int)threadIdx.x) * ELEMENTS, n);
        UNROLL
        for (int k = 0; k < LOADS; k++) UNROLL
        for (int i = 0; i < ELEMENTS; i++) sum += (double)p[k].x[i] * (double)p[k].x[i];
    }
    sum = block_sum_f64(sum, (double *)shared);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(THREADS)
    square_fold(const double *parts, int count, double *out) {
    SHARED(shared);
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += parts[i];
    sum = block_sum_f64(sum, (double *)shared);
    if (threadIdx.x == 0) *out = sum;
}

status cuda_square_sum_forward(backend *b, const op_call *call) {
    const tensor *g = &call->in[SQUARE_G];
    int64_t n = g->rows * g->cols,
            parts = min_i64(max_i64(ceil_div(n, TURN), 1), SQUARE_PARTS);
    LAUNCH(square_parts, (unsigned)parts, THREADS, THREADS * sizeof(double), cuda_stream(b),
           matrix_flat<float>(g->data), n, (double *)call->scratch);
    LAUNCH(square_fold, 1, THREADS, THREADS * sizeof(double), cuda_stream(b),
           (const double *)call->scratch, (int)parts, (double *)call->in[SQUARE_OUT].data);
    return CUDA_LAUNCHED(b, "square_sum");
}

/* ---- parts of gradients ---- */

static __global__ void __launch_bounds__(THREADS)
    fold_parts(const float *parts, int64_t count, int64_t stride, int64_t cols, float *to) {
    int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= cols) return;
    double sum = 0;
    for (int64_t p = 0; p < count; p++) sum += (double)parts[p * stride + c];
    to[c] += (float)sum;
}

status cuda_fold_parts(backend *b, const float *parts, int64_t count, int64_t stride,
                       int64_t cols, float *to) {
    if (!to || cols == 0) return STATUS_OK;
    LAUNCH(fold_parts, (unsigned)ceil_div(cols, THREADS), THREADS, 0, cuda_stream(b), parts,
           count, stride, cols, to);
    return CUDA_LAUNCHED(b, "sum of a gradient's parts");
}
