/* norm.cu: RMSNorm over rows, with the residual's sum in front of it: OP_RMSNORM.
 *
 * A block takes one row: as many threads as hold it in KEPT pieces each, so that rows of up to
 * 512 * KEPT pieces are read once; what is longer is read again behind the reduction. The
 * weight's gradient is a second kernel: a block sums 8 warps' rows of one of NORM_SPLITS fixed
 * parts for the columns that a warp's pieces cover, and cuda_fold_parts adds the parts in
 * order. */
#include "autograd/cuda/reduce.h"
#include "autograd/cuda/rows.h"

enum {
    KEPT = 4,           /* pieces of each operand in a thread's registers */
    MOST_THREADS = 512, /* of a row */
    SPLIT_WARPS = 8,
    LANES =
        WARP + 4, /* sums of a warp's lanes, apart so that columns lie in different banks */
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
template <typename T, int n>
static __device__ __forceinline__ pack<T, n> stream_piece(const norm_call<T> &c, int64_t row,
                                                          int64_t col, pack<T, n> x,
                                                          const pack<T, n> &residual) {
    float a[n], b[n];
    if (!c.residual.at) return x;
    pack_widen(x, a);
    pack_widen(residual, b);
    UNROLL
    for (int i = 0; i < n; i++) a[i] += b[i];
    x = pack_narrow<T, n>(a);
    pack_store(c.sum, row, col, c.cols, x);
    return x;
}

template <typename T, int n>
static __device__ __forceinline__ float squares_of(const pack<T, n> &s) {
    float x[n], sum = 0;
    pack_widen(s, x);
    UNROLL
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

/* y = C(C(s * rstd) * w) */
template <typename T, int n>
static __device__ __forceinline__ void store_normal(const norm_call<T> &c, int64_t row,
                                                    int64_t col, const pack<T, n> &s,
                                                    const pack<T, n> &weight, float rstd) {
    float x[n], w[n];
    if (col >= c.cols) return;
    pack_widen(weight, w);
    pack_widen(s, x);
    UNROLL
    for (int i = 0; i < n; i++) x[i] *= rstd;
    pack_round_all<T, n>(x);
    UNROLL
    for (int i = 0; i < n; i++) x[i] *= w[i];
    pack_store(c.y, row, col, c.cols, pack_narrow<T, n>(x));
}

template <typename T, int n>
static __global__ void __launch_bounds__(MOST_THREADS) norm_forward(norm_call<T> c) {
    SHARED(shared);
    const int64_t row = blockIdx.x, step = (int64_t)blockDim.x * n;
    const int64_t first = (int64_t)threadIdx.x * n;
    pack<T, n> s[KEPT], residual[KEPT], w[KEPT];
    float squares = 0;
    UNROLL
    for (int k = 0; k < KEPT; k++) {
        s[k] = pack_load<n>(c.x, row, first + k * step, c.cols);
        if (c.residual.at)
            residual[k] = pack_load<n>(c.residual, row, first + k * step, c.cols);
        w[k] = pack_load<n>(c.w, 0, first + k * step, c.cols);
    }
    UNROLL
    for (int k = 0; k < KEPT; k++) {
        s[k] = stream_piece(c, row, first + k * step, s[k], residual[k]);
        squares += squares_of(s[k]);
    }
    for (int64_t col = first + KEPT * step; col < c.cols; col += step) {
        pack<T, n> x = pack_load<n>(c.x, row, col, c.cols), r;
        if (c.residual.at) r = pack_load<n>(c.residual, row, col, c.cols);
        squares += squares_of(stream_piece(c, row, col, x, r));
    }
    float mean = block_sum(squares, (float *)shared) / (float)c.cols;
    float rstd = __fdiv_rn(1.0f, __fsqrt_rn(mean + c.eps));
    if (threadIdx.x == 0) c.rstd[row * c.rstd_stride] = rstd;
    UNROLL
    for (int k = 0; k < KEPT; k++) store_normal(c, row, first + k * step, s[k], w[k], rstd);
    const matrix<T> &again = c.residual.at ? c.sum : c.x;
    for (int64_t col = first + KEPT * step; col < c.cols; col += step)
        store_normal(c, row, col, pack_load<n>(again, row, col, c.cols),
                     pack_load<n>(c.w, 0, col, c.cols), rstd);
}

template <typename T> static bool is_wide(const norm_call<T> &c) {
    return c.x.wide && c.residual.wide && c.w.wide && c.y.wide && c.sum.wide && c.dy.wide &&
           c.dsum.wide && c.dx.wide && c.dresidual.wide && whole_pieces<T>(c.cols);
}

template <typename T, int n> static void launch_forward(backend *b, const norm_call<T> &c) {
    LAUNCH((norm_forward<T, n>), (unsigned)c.rows, threads_for(c.cols, n),
           ROW_WARPS * sizeof(float), cuda_stream(b), c);
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
    is_wide(c) ? launch_forward<T, piece<T>::count>(b, c) : launch_forward<T, 1>(b, c);
    return CUDA_LAUNCHED(b, "rmsnorm");
}

/* ---- backward ---- */

/* What a thread holds of a row at one place; zeros where an operand is absent. */
template <typename T, int n> struct norm_place { pack<T, n> s, dy, w, dsum; };

template <typename T, int n>
static __device__ __forceinline__ norm_place<T, n> place_load(const norm_call<T> &c,
                                                              int64_t row, int64_t col) {
    norm_place<T, n> p;
    p.s = pack_load<n>(c.x, row, col, c.cols);
    p.dy = pack_load<n>(c.dy, row, col, c.dy.at ? c.cols : 0);
    p.w = pack_load<n>(c.w, 0, col, c.cols);
    p.dsum = pack_load<n>(c.dsum, row, col, c.dsum.at ? c.cols : 0);
    return p;
}

/* sum of dy * w * s */
template <typename T, int n>
static __device__ __forceinline__ float product_of(const norm_place<T, n> &p) {
    float s[n], g[n], w[n], sum = 0;
    pack_widen(p.w, w);
    pack_widen(p.s, s);
    pack_widen(p.dy, g);
    UNROLL
    for (int i = 0; i < n; i++) sum += g[i] * w[i] * s[i];
    return sum;
}

/* dx = dsum + rstd * (dy * w - s * rstd * mean), set or added to both gradients. */
template <typename T, int n>
static __device__ __forceinline__ void store_gradient(const norm_call<T> &c, int64_t row,
                                                      int64_t col, const norm_place<T, n> &p,
                                                      float rstd, float mean) {
    float s[n], g[n], x[n];
    if (col >= c.cols) return;
    pack_widen(p.w, x);
    pack_widen(p.s, s);
    pack_widen(p.dy, g);
    UNROLL
    for (int i = 0; i < n; i++) g[i] = rstd * (g[i] * x[i] - s[i] * rstd * mean);
    pack_widen(p.dsum, x);
    UNROLL
    for (int i = 0; i < n; i++) x[i] = g[i] += x[i];
    if (c.dx.at) pack_gradient<n>(c.dx, c.add_dx, row, col, c.cols, g);
    if (c.dresidual.at) pack_gradient<n>(c.dresidual, c.add_dresidual, row, col, c.cols, x);
}

template <typename T, int n>
static __global__ void __launch_bounds__(MOST_THREADS, 1) norm_backward(norm_call<T> c) {
    SHARED(shared);
    const int64_t row = blockIdx.x, step = (int64_t)blockDim.x * n;
    const int64_t first = (int64_t)threadIdx.x * n;
    float rstd = c.rstd[row * c.rstd_stride], product = 0;
    norm_place<T, n> p[KEPT];
    UNROLL
    for (int k = 0; k < KEPT; k++) p[k] = place_load<T, n>(c, row, first + k * step);
    UNROLL
    for (int k = 0; k < KEPT; k++) product += product_of(p[k]);
    for (int64_t col = first + KEPT * step; col < c.cols; col += step)
        product += product_of(place_load<T, n>(c, row, col));
    float mean = block_sum(product, (float *)shared) * rstd / (float)c.cols;
    UNROLL
    for (int k = 0; k < KEPT; k++) store_gradient(c, row, first + k * step, p[k], rstd, mean);
    for (int64_t col = first + KEPT * step; col < c.cols; col += step)
        store_gradient(c, row, col, place_load<T, n>(c, row, col), rstd, mean);
}

/* parts[split][cols] = sum over the split's rows of dy * C(s * rstd). Blocks are numbered by
 * split, then by WARP pieces of columns. */
template <typename T, int n>
static __global__ void __launch_bounds__(SPLIT_WARPS *WARP)
    norm_weight(norm_call<T> c, int64_t blocks, float *parts) {
    SHARED(shared);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float(*sums)[n][LANES] = (float(*)[n][LANES])shared; /* [SPLIT_WARPS] */
    int64_t split = blockIdx.x / blocks, tile = blockIdx.x % blocks * (WARP * n);
    int64_t col = tile + lane * n, last = c.rows * (split + 1) / NORM_SPLITS;
    float sum[n] = {0};
    for (int64_t row = c.rows * split / NORM_SPLITS + warp; row < last; row += SPLIT_WARPS) {
        float s[n], g[n], rstd = c.rstd[row * c.rstd_stride];
        pack_widen(pack_load<n>(c.x, row, col, c.cols), s);
        pack_widen(pack_load<n>(c.dy, row, col, c.cols), g);
        UNROLL
        for (int i = 0; i < n; i++) s[i] *= rstd;
        pack_round_all<T, n>(s);
        UNROLL
        for (int i = 0; i < n; i++) sum[i] += g[i] * s[i];
    }
    UNROLL
    for (int i = 0; i < n; i++) sums[warp][i][lane] = sum[i];
    __syncthreads();
    for (int i = threadIdx.x; i < WARP * n; i += SPLIT_WARPS * WARP) {
        float total = 0;
        for (int k = 0; k < SPLIT_WARPS; k++) total += sums[k][i % n][i / n];
        if (tile + i < c.cols) parts[split * c.cols + tile + i] = total;
    }
}

/* Of the weight, then of the rest, which may take the place of an operand. */
template <typename T, int n>
static status launch_backward(backend *b, const op_call *call, const norm_call<T> &c) {
    float *dw = (float *)call->gin[RMSNORM_W].data, *parts = (float *)call->scratch;
    if (dw && c.dy.at) {
        int64_t blocks = ceil_div(c.cols, WARP * n);
        LAUNCH((norm_weight<T, n>), (unsigned)(NORM_SPLITS * blocks), SPLIT_WARPS * WARP,
               SPLIT_WARPS * n * LANES * sizeof(float), cuda_stream(b), c, blocks, parts);
        TRY(cuda_fold_parts(b, parts, NORM_SPLITS, c.cols, c.cols, dw));
    }
    if (c.dx.at || c.dresidual.at)
        LAUNCH((norm_backward<T, n>), (unsigned)c.rows, threads_for(c.cols, n),
               ROW_WARPS * sizeof(float), cuda_stream(b), c);
    return CUDA_LAUNCHED(b, "rmsnorm backward");
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
    return is_wide(c) ? launch_backward<T, piece<T>::count>(b, call, c)
                      : launch_backward<T, 1>(b, call, c);
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
