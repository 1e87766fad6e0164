/* norm.cu: RMSNorm over rows, with the residual's sum in front of it: OP_RMSNORM.
 *
 * A block takes one row: as many threads as hold it in KEPT pieces each, so that rows of up to
 * 512 * KEPT pieces are read once; what is longer is read again behind the reduction. The weight's
 * gradient is a second kernel: a block sums 8 warps' rows of one of SPLITS fixed parts for the
 * columns that a warp's pieces cover, and cuda_fold_parts adds the parts in order. */
#include "autograd/cuda/reduce.h"
#include "autograd/cuda/rows.h"

enum {
    KEPT = 4,           /* pieces of each operand in a thread's registers */
    MOST_THREADS = 512, /* of a row */
    SPLITS = 32,        /* of the rows, for the weight's gradient */
    SPLIT_WARPS = 8,
};

template <typename T> struct norm_call {
    matrix<T> x, residual, w, y, sum;  /* forward; of a backward x is the stream s */
    matrix<T> dy, dsum, dx, dresidual; /* backward; w too */
    bool add_dx, add_dresidual;        /* whether these two are added to */
    float *rstd;                       /* [rows], `rstd_stride` apart */
    int64_t rows, cols, rstd_stride;
    float eps;
};

static int threads_for(int64_t cols, int elements) {
    int64_t pieces = ceil_div(cols, elements);
    return (int)min_i64(round_up_i64(ceil_div(pieces, KEPT), WARP), MOST_THREADS);
}

/* ---- forward ---- */

/* s = x + residual rounded to T, which is stored, or x. */
template <typename T>
static __device__ __forceinline__ piece<T> stream_piece(const norm_call<T> &c, int64_t row,
                                                        int64_t col, piece<T> x,
                                                        const piece<T> &residual) {
    const int count = piece<T>::count;
    float a[count], b[count];
    if (!c.residual.at) return x;
    piece_widen(x, a);
    piece_widen(residual, b);
    UNROLL for (int i = 0; i < count; i++) a[i] += b[i];
    x = piece_narrow<T>(a);
    piece_store(c.sum, row, col, c.cols, x);
    return x;
}

template <typename T> static __device__ __forceinline__ float squares_of(const piece<T> &s) {
    float x[piece<T>::count], sum = 0;
    piece_widen(s, x);
    UNROLL for (int i = 0; i < piece<T>::count; i++) sum += x[i] * x[i];
    return sum;
}

/* y = C(C(s * rstd) * w) */
template <typename T>
static __device__ __forceinline__ void
store_normal(const norm_call<T> &c, int64_t row, int64_t col, const piece<T> &s, float rstd) {
    float x[piece<T>::count], w[piece<T>::count];
    if (col >= c.cols) return;
    piece_widen(piece_load(c.w, 0, col, c.cols), w);
    piece_widen(s, x);
    UNROLL for (int i = 0; i < piece<T>::count; i++) x[i] *= rstd;
    piece_widen(piece_narrow<T>(x), x);
    UNROLL for (int i = 0; i < piece<T>::count; i++) x[i] *= w[i];
    piece_store(c.y, row, col, c.cols, piece_narrow<T>(x));
}

template <typename T>
static __global__ void __launch_bounds__(MOST_THREADS) norm_forward(norm_call<T> c) {
    SHARED(shared);
    const int count = piece<T>::count;
    const int64_t row = blockIdx.x, step = (int64_t)blockDim.x * count;
    const int64_t first = (int64_t)threadIdx.x * count;
    piece<T> s[KEPT], residual[KEPT];
    float squares = 0;
    UNROLL for (int k = 0; k < KEPT; k++) {
        s[k] = piece_load(c.x, row, first + k * step, c.cols);
        if (c.residual.at) residual[k] = piece_load(c.residual, row, first + k * step, c.cols);
    }
    UNROLL for (int k = 0; k < KEPT; k++) {
        s[k] = stream_piece(c, row, first + k * step, s[k], residual[k]);
        squares += squares_of(s[k]);
    }
    for (int64_t col = first + KEPT * step; col < c.cols; col += step) {
        piece<T> x = piece_load(c.x, row, col, c.cols), r;
        if (c.residual.at) r = piece_load(c.residual, row, col, c.cols);
        squares += squares_of(stream_piece(c, row, col, x, r));
    }
    float mean = block_sum(squares, (float *)shared) / (float)c.cols;
    float rstd = __fdiv_rn(1.0f, __fsqrt_rn(mean + c.eps));
    if (threadIdx.x == 0) c.rstd[row * c.rstd_stride] = rstd;
    UNROLL for (int k = 0; k < KEPT; k++) store_normal(c, row, first + k * step, s[k], rstd);
    const matrix<T> &again = c.residual.at ? c.sum : c.x;
    for (int64_t col = first + KEPT * step; col < c.cols; col += step)
        store_normal(c, row, col, piece_load(again, row, col, c.cols), rstd);
}

template <typename T> static status forward(backend *b, const op_call *call) {
    const tensor *rstd = &call->out[RMSNORM_RSTD];
    norm_call<T> c = {};
    c.x = matrix_of<T>(&call->in[RMSNORM_X]);
    c.residual = matrix_of<T>(&call->in[RMSNORM_RESIDUAL]);
    c.w = matrix_of<T>(&call->in[RMSNORM_W]);
    c.y = matrix_of<T>(&call->out[RMSNORM_Y]);
    c.sum = matrix_of<T>(&call->out[RMSNORM_SUM]);
    c.rstd = (float *)rstd->data, c.rstd_stride = rstd->stride;
    c.rows = call->rows, c.cols = call->in[RMSNORM_X].cols;
    c.eps = call->attr->rmsnorm.eps;
    LAUNCH(norm_forward<T>, (unsigned)c.rows, threads_for(c.cols, piece<T>::count),
           ROW_WARPS * sizeof(float), cuda_stream(b), c);
    return CUDA_LAUNCHED(b, "rmsnorm");
}

/* ---- backward ---- */

/* dx = dsum + rstd * (dy * w - s * rstd * mean), set or added to both gradients. */
template <typename T>
static __device__ __forceinline__ void
store_gradient(const norm_call<T> &c, int64_t row, int64_t col, const piece<T> &stream,
               const piece<T> &dy, float rstd, float mean) {
    const int count = piece<T>::count;
    float s[count], g[count], x[count];
    if (col >= c.cols) return;
    piece_widen(piece_load(c.w, 0, col, c.cols), x);
    piece_widen(stream, s);
    piece_widen(dy, g);
    UNROLL for (int i = 0; i < count; i++) g[i] = rstd * (g[i] * x[i] - s[i] * rstd * mean);
    if (c.dsum.at) {
        piece_widen(piece_load(c.dsum, row, col, c.cols), x);
        UNROLL for (int i = 0; i < count; i++) g[i] += x[i];
    }
    UNROLL for (int i = 0; i < count; i++) x[i] = g[i];
    if (c.dx.at) piece_gradient(c.dx, c.add_dx, row, col, c.cols, g);
    if (c.dresidual.at) piece_gradient(c.dresidual, c.add_dresidual, row, col, c.cols, x);
}

/* sum of dy * w * s */
template <typename T>
static __device__ __forceinline__ float
product_of(const norm_call<T> &c, int64_t col, const piece<T> &stream, const piece<T> &dy) {
    float s[piece<T>::count], g[piece<T>::count], w[piece<T>::count], sum = 0;
    piece_widen(piece_load(c.w, 0, col, c.cols), w);
    piece_widen(stream, s);
    piece_widen(dy, g);
    UNROLL for (int i = 0; i < piece<T>::count; i++) sum += g[i] * w[i] * s[i];
    return sum;
}

template <typename T>
static __global__ void __launch_bounds__(MOST_THREADS) norm_backward(norm_call<T> c) {
    SHARED(shared);
    const int count = piece<T>::count;
    const int64_t row = blockIdx.x, step = (int64_t)blockDim.x * count;
    const int64_t first = (int64_t)threadIdx.x * count;
    float rstd = c.rstd[row * c.rstd_stride], product = 0;
    piece<T> s[KEPT], dy[KEPT];
    UNROLL for (int k = 0; k < KEPT; k++) {
        s[k] = piece_load(c.x, row, first + k * step, c.cols);
        dy[k] = piece_load(c.dy, row, first + k * step, c.dy.at ? c.cols : 0);
    }
    UNROLL for (int k = 0; k < KEPT; k++) product +=
        product_of(c, first + k * step, s[k], dy[k]);
    for (int64_t col = first + KEPT * step; col < c.cols && c.dy.at; col += step)
        product += product_of(c, col, piece_load(c.x, row, col, c.cols),
                              piece_load(c.dy, row, col, c.cols));
    float mean = block_sum(product, (float *)shared) * rstd / (float)c.cols;
    UNROLL for (int k = 0; k < KEPT; k++)
        store_gradient(c, row, first + k * step, s[k], dy[k], rstd, mean);
    for (int64_t col = first + KEPT * step; col < c.cols; col += step)
        store_gradient(c, row, col, piece_load(c.x, row, col, c.cols),
                       piece_load(c.dy, row, col, c.dy.at ? c.cols : 0), rstd, mean);
}

/* parts[split][cols] = sum over the split's rows of dy * C(s * rstd). Blocks are numbered by
 * split, then by WARP pieces of columns. */
template <typename T>
static __global__ void __launch_bounds__(SPLIT_WARPS *WARP)
    norm_weight(norm_call<T> c, int64_t blocks, float *parts) {
    SHARED(shared);
    const int count = piece<T>::count, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float(*sums)[WARP * count] = (float(*)[WARP * count]) shared; /* [SPLIT_WARPS] */
    int64_t split = blockIdx.x / blocks, tile = blockIdx.x % blocks * (WARP * count);
    int64_t col = tile + lane * count, last = c.rows * (split + 1) / SPLITS;
    float sum[count] = {0};
    for (int64_t row = c.rows * split / SPLITS + warp; row < last; row += SPLIT_WARPS) {
        float s[count], g[count], rstd = c.rstd[row * c.rstd_stride];
        piece_widen(piece_load(c.x, row, col, c.cols), s);
        piece_widen(piece_load(c.dy, row, col, c.cols), g);
        UNROLL for (int i = 0; i < count; i++) s[i] *= rstd;
        piece_widen(piece_narrow<T>(s), s);
        UNROLL for (int i = 0; i < count; i++) sum[i] += g[i] * s[i];
    }
    UNROLL for (int i = 0; i < count; i++) sums[warp][i * WARP + lane] = sum[i];
    __syncthreads();
    for (int i = threadIdx.x; i < WARP * count; i += SPLIT_WARPS * WARP) {
        int64_t at = tile + i % WARP * count + i / WARP;
        float total = 0;
        for (int k = 0; k < SPLIT_WARPS; k++) total += sums[k][i];
        if (at < c.cols) parts[split * c.cols + at] = total;
    }
}

template <typename T>
static status weight_gradient(backend *b, const op_call *call, const norm_call<T> &c) {
    const int count = piece<T>::count;
    int64_t blocks = ceil_div(c.cols, WARP * count);
    LAUNCH(norm_weight<T>, (unsigned)(SPLITS * blocks), SPLIT_WARPS * WARP,
           WARP * count * SPLIT_WARPS * sizeof(float), cuda_stream(b), c, blocks,
           (float *)call->scratch);
    TRY(CUDA_LAUNCHED(b, "rmsnorm backward"));
    return cuda_fold_parts(b, (const float *)call->scratch, SPLITS, c.cols, c.cols,
                           (float *)call->gin[RMSNORM_W].data);
}

template <typename T> static status backward(backend *b, const op_call *call) {
    const tensor *sum = &call->out[RMSNORM_SUM], *rstd = &call->out[RMSNORM_RSTD];
    const tensor *stream = sum->data ? sum : &call->in[RMSNORM_X];
    norm_call<T> c = {};
    c.x = matrix_of<T>(stream);
    c.w = matrix_of<T>(&call->in[RMSNORM_W]);
    c.dy = matrix_of<T>(&call->gout[RMSNORM_Y]);
    c.dsum = matrix_of<T>(&call->gout[RMSNORM_SUM]);
    c.dx = matrix_of<T>(&call->gin[RMSNORM_X]);
    c.dresidual = matrix_of<T>(&call->gin[RMSNORM_RESIDUAL]);
    if (c.dresidual.at == c.dx.at) c.dresidual.at = NULL; /* one gradient for both */
    c.add_dx = call->add >> RMSNORM_X & 1, c.add_dresidual = call->add >> RMSNORM_RESIDUAL & 1;
    c.rstd = (float *)rstd->data, c.rstd_stride = rstd->stride;
    c.rows = call->rows, c.cols = stream->cols;
    if (call->gin[RMSNORM_W].data && c.dy.at) TRY(weight_gradient<T>(b, call, c));
    if (!c.dx.at && !c.dresidual.at) return STATUS_OK;
    LAUNCH(norm_backward<T>, (unsigned)c.rows, threads_for(c.cols, piece<T>::count),
           ROW_WARPS * sizeof(float), cuda_stream(b), c);
    return CUDA_LAUNCHED(b, "rmsnorm backward");
}

/* ---- doors ---- */

status cuda_rmsnorm_forward(backend *b, const op_call *call) {
    static const by_type run = {forward<float>, forward<bf16>, forward<f16>};
    return call->rows ? run[call->compute](b, call) : STATUS_OK;
}

status cuda_rmsnorm_backward(backend *b, const op_call *call) {
    static const by_type run = {backward<float>, backward<bf16>, backward<f16>};
    return call->rows ? run[call->compute](b, call) : STATUS_OK;
}

int64_t cuda_rmsnorm_scratch(backend *b, const op_shape *shape) {
    if (!shape->backward || !(shape->gradients >> RMSNORM_W & 1)) return 0;
    return SPLITS * shape->in[RMSNORM_W].cols * (int64_t)sizeof(float);
}
