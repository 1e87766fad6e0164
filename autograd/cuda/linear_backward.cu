/* linear_backward.cu: OP_LINEAR's gradients; see linear_size.h.
 *
 *   v = scale dy B, u = scale drop(x) A^T             per part, where wanted
 *   dA += v^T drop(x), dB += dy^T u                   adapter.cu: splits of 512 rows, in order
 *   dW += dy^T x, dbias += sum of dy                  full training
 *   dx = [dy | v v'] [W ; A ; A]                      one product
 *
 * With dropout the adapters' share of dx has a mask of its own per part, so dx comes from f32
 * tiles: t = dy W, and then t + mask (v A) is rounded once, LINEAR_CHUNK rows at a time. */
#include "autograd/cuda/dropout.h"
#include "autograd/cuda/linear.h"
#include "autograd/cuda/rows.h"

enum {
    FINISH_ROWS = 4, /* of a thread: A is read once for them */
    BIAS_COLS = 32,  /* of a block */
    BIAS_LANES = 8,  /* rows at a time */
};

/* ---- products of the library ---- */

/* dx (+)= dy W over `rows` rows. */
static cuda_gemm_shape product_dx(const linear_size *z, int64_t rows, dtype out, bool add,
                                  int64_t ldy, int64_t ldx) {
    cuda_gemm_shape s = {};
    s.add = add;
    s.in = z->type, s.out = out;
    s.m = rows, s.n = z->in, s.k = cuda_linear_back_depth(z);
    s.lda = ldy, s.ldb = cuda_linear_back_pitch(z), s.ldc = ldx;
    s.alpha = 1;
    return s;
}

/* dW_k += dy_k^T x. */
static cuda_gemm_shape product_dw(const linear_size *z, int k, int64_t ldy, int64_t ldx) {
    cuda_gemm_shape s = {};
    s.ta = s.add = true;
    s.in = z->type, s.out = DTYPE_F32;
    s.m = z->out[k], s.n = z->in, s.k = z->rows;
    s.lda = ldy, s.ldb = ldx, s.ldc = z->in;
    s.alpha = 1;
    return s;
}

/* ---- dx ---- */

/* W of all parts, and below it A of each part, once per term of v. */
static status gather(backend *b, const op_call *c, const linear_size *z,
                     const linear_back_space *at) {
    int64_t ld = cuda_linear_back_pitch(z), row = z->stack;
    size_t size = (size_t)dtype_bytes(z->type), pitch = (size_t)ld * size;
    TRY(cuda_linear_gather(b, c, z, at->w, ld));
    if (cuda_linear_back_depth(z) == z->stack) return STATUS_OK;
    for (int k = 0; k < z->parts; k++)
        for (int term = 0; z->rank[k] && term < z->terms; term++) {
            CUDA_TRY(b, cudaMemcpy2DAsync((char *)at->w + (size_t)row * pitch, pitch,
                                          c->in[linear_a(k)].data, (size_t)z->in * size,
                                          (size_t)z->in * size, (size_t)z->rank[k],
                                          cudaMemcpyDeviceToDevice, cuda_stream(b)));
            row += z->rank[k];
        }
    return b->table->fill(b, (char *)at->w + (size_t)row * pitch, 0,
                          (cuda_linear_back_depth(z) - row) * (int64_t)pitch);
}

/* What the adapters of a stack add to dx with dropout. */
typedef struct shares {
    int parts, rank[LINEAR_PARTS];
    const float *v[LINEAR_PARTS];
    const void *a[LINEAR_PARTS];
    dropout drop[LINEAR_PARTS];
} shares;

/* dx = tile + sum of mask (v A) (+ dx): FINISH_ROWS rows of four columns per thread. `row` is
 * the tile's first row in the batch. */
template <typename T>
__global__ void finish_kernel(const float *tile, shares p, int64_t row, int64_t rows,
                              int64_t cols, T *dx, int64_t ld, bool add) {
    int64_t col = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    int64_t first = (int64_t)blockIdx.y * FINISH_ROWS;
    float sum[FINISH_ROWS][4];
    if (col >= cols) return;
#pragma unroll
    for (int i = 0; i < FINISH_ROWS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            bool there = first + i < rows && col + j < cols;
            sum[i][j] = there ? tile[(first + i) * cols + col + j] : 0.0f;
            if (there && add) sum[i][j] += to_f32<T>(dx[(row + first + i) * ld + col + j]);
        }
    for (int k = 0; k < p.parts; k++) {
        const T *a = (const T *)p.a[k];
        float share[FINISH_ROWS][4] = {};
        for (int l = 0; l < p.rank[k]; l++) {
            float x[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                x[j] = col + j < cols ? to_f32<T>(a[l * cols + col + j]) : 0.0f;
#pragma unroll
            for (int i = 0; i < FINISH_ROWS; i++) {
                bool there = first + i < rows;
                float v = there ? p.v[k][(row + first + i) * p.rank[k] + l] : 0.0f;
#pragma unroll
                for (int j = 0; j < 4; j++) share[i][j] = fmaf(v, x[j], share[i][j]);
            }
        }
#pragma unroll
        for (int i = 0; i < FINISH_ROWS; i++) {
            dropout_piece<4>(p.drop[k], row + first + i, col, share[i]);
#pragma unroll
            for (int j = 0; j < 4; j++) sum[i][j] += share[i][j];
        }
    }
#pragma unroll
    for (int i = 0; i < FINISH_ROWS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (first + i < rows && col + j < cols)
                dx[(row + first + i) * ld + col + j] = from_f32<T>(sum[i][j]);
}

template <typename T>
static void launch_finish(backend *b, const op_call *c, const linear_back_space *at,
                          const shares *p, int64_t row, int64_t rows) {
    const tensor *dx = &c->gin[LINEAR_X];
    dim3 grid((unsigned)ceil_div(dx->cols, 4 * 128), (unsigned)ceil_div(rows, FINISH_ROWS));
    LAUNCH((finish_kernel<T>), grid, 128, 0, cuda_stream(b), at->tile, *p, row, rows, dx->cols,
           (T *)dx->data, dx->stride, (c->add >> LINEAR_X & 1) != 0);
}

static status gradient_x_dropped(backend *b, const op_call *c, const linear_size *z,
                                 const linear_back_space *at) {
    shares p = {};
    p.parts = z->parts;
    for (int k = 0; k < z->parts; k++) {
        p.rank[k] = z->rank[k];
        p.v[k] = at->v[k];
        p.a[k] = c->in[linear_a(k)].data;
        p.drop[k] = dropout_of(c, k);
    }
    const tensor *dy = &c->gout[0];
    for (int64_t row = 0; row < z->rows; row += LINEAR_CHUNK) {
        int64_t rows = min_i64(LINEAR_CHUNK, z->rows - row);
        cuda_gemm_shape s = product_dx(z, rows, DTYPE_F32, false, dy->stride, z->in);
        TRY(cuda_gemm_run(cuda_of(b)->gemm, cuda_stream(b), &s, cuda_at(dy, row, 0), at->w,
                          at->tile, at->gemm));
        if (z->type == DTYPE_F32)
            launch_finish<float>(b, c, at, &p, row, rows);
        else if (z->type == DTYPE_BF16)
            launch_finish<bf16>(b, c, at, &p, row, rows);
        else
            launch_finish<f16>(b, c, at, &p, row, rows);
        TRY(CUDA_LAUNCHED(b, "linear, backward"));
    }
    return STATUS_OK;
}

static status gradient_x(backend *b, const op_call *c, const linear_size *z,
                         const linear_back_space *at) {
    const tensor *dy = &c->gout[0], *dx = &c->gin[LINEAR_X];
    if (cuda_linear_back_gathers(z)) TRY(gather(b, c, z, at));
    if (z->dropout) return gradient_x_dropped(b, c, z, at);
    if (at->dy) {
        linear_tail t = cuda_linear_tail(z, false);
        for (int k = 0; k < z->parts; k++) t.thin[k] = at->v[k];
        TRY(cuda_linear_extend(b, z->type, z->rows, z->stack, &t, at->dy,
                               cuda_linear_back_depth(z)));
    }
    cuda_gemm_shape s =
        product_dx(z, z->rows, z->type, (c->add >> LINEAR_X & 1) != 0,
                   at->dy ? cuda_linear_back_depth(z) : dy->stride, dx->stride);
    return cuda_gemm_run(cuda_of(b)->gemm, cuda_stream(b), &s, at->dy ? at->dy : dy->data,
                         at->w ? at->w : c->in[linear_w(0)].data, dx->data, at->gemm);
}

/* ---- parameters ---- */

/* Column sums in double: BIAS_LANES of them per column, put together in order. */
template <typename T>
__global__ void bias_kernel(matrix<T> dy, int64_t rows, int64_t cols, float *dbias) {
    SHARED(memory);
    double(*sums)[BIAS_COLS] = (double(*)[BIAS_COLS])memory;
    int lane = (int)threadIdx.x / BIAS_COLS, at = (int)threadIdx.x % BIAS_COLS;
    int64_t col = (int64_t)blockIdx.x * BIAS_COLS + at;
    double sum = 0;
    for (int64_t row = lane; col < cols && row < rows; row += BIAS_LANES)
        sum += (double)to_f32<T>(dy.at[row * dy.stride + col]);
    sums[lane][at] = sum;
    __syncthreads();
    if (lane != 0 || col >= cols) return;
    for (int i = 1; i < BIAS_LANES; i++) sum += sums[i][at];
    dbias[col] += (float)sum;
}

template <typename T> static void launch_bias(backend *b, const tensor *dy, void *dbias) {
    LAUNCH((bias_kernel<T>), (unsigned)ceil_div(dy->cols, BIAS_COLS), BIAS_COLS * BIAS_LANES,
           sizeof(double) * BIAS_COLS * BIAS_LANES, cuda_stream(b), matrix_of<T>(dy), dy->rows,
           dy->cols, (float *)dbias);
}

static status gradient_bias(backend *b, const tensor *dy, void *dbias) {
    if (dy->type == DTYPE_F32)
        launch_bias<float>(b, dy, dbias);
    else if (dy->type == DTYPE_BF16)
        launch_bias<bf16>(b, dy, dbias);
    else
        launch_bias<f16>(b, dy, dbias);
    return CUDA_LAUNCHED(b, "a bias's gradient");
}

/* Where part k's columns stand in dy with tails; NULL where dx needs none. */
static void *copy_of_part(const op_call *c, const linear_size *z, const linear_back_space *at,
                          int k) {
    int64_t first = 0;
    for (int i = 0; i < k; i++) first += z->out[i];
    bool needed = at->dy && c->gin[LINEAR_X].data && !z->dropout;
    return needed ? (char *)at->dy + first * dtype_bytes(z->type) : NULL;
}

/* dA, dB and v of part k, and its columns of dy for dx: the pass over dy leaves them there. */
static status gradient_adapter(backend *b, const op_call *c, const linear_size *z,
                               const linear_back_space *at, int k, const tensor *dy) {
    void *copy = copy_of_part(c, z, at, k);
    int64_t ld = cuda_linear_back_depth(z);
    float *da = (float *)c->gin[linear_a(k)].data, *db = (float *)c->gin[linear_b(k)].data;
    float scale = c->attr->linear.scale[k];
    int64_t r = z->rank[k];
    adapter_wide x = cuda_linear_input(c, z, k), plain = {*dy, {}, NULL, 0};
    if (!r) return copy ? cuda_rows_copy(b, dy, copy, ld) : STATUS_OK;
    if (da || c->gin[LINEAR_X].data) {
        adapter_wide kept = {*dy, {}, copy, ld};
        TRY(cuda_adapter_turn(b, &c->in[linear_b(k)], at->turned));
        TRY(cuda_adapter_down(b, &kept, at->turned, r, scale, at->v[k]));
    }
    if (da) TRY(cuda_adapter_sum(b, &x, at->v[k], r, true, da, at->sums));
    if (!db) return STATUS_OK;
    TRY(cuda_adapter_down(b, &x, c->in[linear_a(k)].data, r, scale, at->u));
    return cuda_adapter_sum(b, &plain, at->u, r, false, db, at->sums);
}

static status gradient_w(backend *b, const op_call *c, const linear_size *z,
                         const linear_back_space *at, int k, const tensor *dy) {
    const tensor *x = &c->in[LINEAR_X];
    cuda_gemm_shape s = product_dw(z, k, dy->stride, x->stride);
    return cuda_gemm_run(cuda_of(b)->gemm, cuda_stream(b), &s, dy->data, x->data,
                         c->gin[linear_w(k)].data, at->gemm);
}

/* ---- the operation ---- */

static uint32_t wanted(const op_call *c) {
    uint32_t mask = 0;
    for (int i = 0; i < OP_INPUTS; i++) mask |= c->gin[i].data ? 1u << i : 0;
    return mask;
}

/* No gradient came: dx is zero, or stays as it is when added to. */
static status clear_dx(backend *b, const op_call *c) {
    const tensor *dx = &c->gin[LINEAR_X];
    if (!dx->data || c->add >> LINEAR_X & 1) return STATUS_OK;
    for (int64_t i = 0; i < dx->rows; i++)
        TRY(b->table->fill(b, cuda_at(dx, i, 0), 0, dx->cols * dtype_bytes(dx->type)));
    return STATUS_OK;
}

status cuda_linear_backward(backend *b, const op_call *c) {
    linear_size z = cuda_linear_size_of_call(c);
    cuda_scratch s = {(char *)c->scratch, 0};
    linear_back_space at;
    if (z.rows == 0) return STATUS_OK;
    if (!c->gout[0].data) return clear_dx(b, c);
    cuda_linear_back_take(&s, &z, wanted(c), &at);
    TRY(cuda_scratch_check(&s, "linear, backward", c->scratch_bytes));
    for (int k = 0; k < z.parts; k++) {
        tensor dy = cuda_linear_part(&c->gout[0], &z, k);
        TRY(gradient_adapter(b, c, &z, &at, k, &dy));
        if (c->gin[linear_w(k)].data) TRY(gradient_w(b, c, &z, &at, k, &dy));
        if (c->gin[linear_bias(k)].data)
            TRY(gradient_bias(b, &dy, c->gin[linear_bias(k)].data));
    }
    return c->gin[LINEAR_X].data ? gradient_x(b, c, &z, &at) : STATUS_OK;
}

status cuda_linear_backward_prepare(backend *b, const op_shape *shape) {
    linear_size z = cuda_linear_size_of_shape(shape);
    cuda_gemm *g = cuda_of(b)->gemm;
    for (int k = 0; k < z.parts; k++) {
        cuda_gemm_shape dw = product_dw(&z, k, z.stack, z.in);
        if (shape->gradients >> linear_w(k) & 1) TRY(cuda_gemm_plan(g, &dw));
    }
    if (!(shape->gradients >> LINEAR_X & 1)) return STATUS_OK;
    cuda_gemm_shape dx =
        z.dropout
            ? product_dx(&z, min_i64(z.rows, LINEAR_CHUNK), DTYPE_F32, false, z.stack, z.in)
            : product_dx(&z, z.rows, z.type, false, cuda_linear_back_depth(&z), z.in);
    return cuda_gemm_plan(g, &dx);
}
