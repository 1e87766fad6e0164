/* linear.cu: OP_LINEAR forward; see linear.h, linear_size.h. Backward is linear_backward.cu.
 *
 * Without 4-bit weights, adapters and biases (full training) each part is a product on W itself.
 */
#include "autograd/cuda/linear.h"
#include "autograd/cuda/rows.h"
#include "autograd/cuda/weights.h"

tensor cuda_linear_part(const tensor *t, const linear_size *z, int k) {
    int64_t first = 0;
    for (int i = 0; i < k; i++) first += z->out[i];
    return tensor_columns(t, first, z->out[k]);
}

adapter_wide cuda_linear_input(const op_call *c, const linear_size *z, int k) {
    adapter_wide wide = {c->in[LINEAR_X], dropout_of(c, k), NULL, 0};
    return wide;
}

/* ---- tails ---- */

/* Part whose columns hold `col`, or -1. */
static __device__ __forceinline__ int part_of(const linear_tail &t, int col) {
    for (int k = 0; k < t.parts; k++)
        if (col >= t.first[k] && col < t.first[k + 1]) return k;
    return -1;
}

/* Term col / rank of x: what is left of it after the terms before, rounded to T. */
template <typename T>
__global__ void tail_of_rows(linear_tail t, T *to, int64_t ld, int64_t rows, int width) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / width;
    int col = (int)(i % width), k = part_of(t, col);
    if (row >= rows) return;
    float x = col == t.bias ? 1.0f : 0.0f;
    if (k >= 0) {
        int at = col - t.first[k];
        x = t.thin[k][row * t.rank[k] + at % t.rank[k]];
        if (at >= t.rank[k]) x -= round_to<T>(x);
    }
    to[row * ld + col] = from_f32<T>(x);
}

template <typename T>
__global__ void tail_of_weights(linear_tail t, T *to, int64_t ld, int width) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / width;
    int col = (int)(i % width), own = part_of(t, col), k = 0;
    if (row >= t.row[t.parts]) return;
    while (row >= t.row[k + 1]) k++;
    T x = from_f32<T>(0.0f);
    if (own == k)
        x = ((const T *)t.b[k])[(row - t.row[k]) * t.rank[k] + (col - t.first[k]) % t.rank[k]];
    if (col == t.bias && t.offset[k]) x = ((const T *)t.offset[k])[row - t.row[k]];
    to[row * ld + col] = x;
}

template <typename T>
static void launch_rows(backend *b, const linear_tail *t, void *to, int64_t ld, int64_t rows,
                        int64_t width) {
    LAUNCH((tail_of_rows<T>), (unsigned)ceil_div(rows * width, 256), 256, 0, cuda_stream(b),
           *t, (T *)to, ld, rows, (int)width);
}

template <typename T>
static void launch_weights(backend *b, const linear_tail *t, void *to, int64_t ld,
                           int64_t width) {
    LAUNCH((tail_of_weights<T>), (unsigned)ceil_div(t->row[t->parts] * width, 256), 256, 0,
           cuda_stream(b), *t, (T *)to, ld, (int)width);
}

static char *column(void *at, int64_t col, dtype type) {
    return (char *)at + col * dtype_bytes(type);
}

status cuda_rows_copy(backend *b, const tensor *t, void *to, int64_t ld) {
    size_t size = (size_t)dtype_bytes(t->type);
    CUDA_TRY(b, cudaMemcpy2DAsync(to, (size_t)ld * size, t->data, (size_t)t->stride * size,
                                  (size_t)t->cols * size, (size_t)t->rows,
                                  cudaMemcpyDeviceToDevice, cuda_stream(b)));
    return STATUS_OK;
}

status cuda_linear_extend(backend *b, dtype type, int64_t rows, int64_t cols,
                          const linear_tail *tail, void *to, int64_t ld) {
    int64_t width = ld - cols;
    void *at = column(to, cols, type);
    if (type == DTYPE_F32)
        launch_rows<float>(b, tail, at, ld, rows, width);
    else if (type == DTYPE_BF16)
        launch_rows<bf16>(b, tail, at, ld, rows, width);
    else
        launch_rows<f16>(b, tail, at, ld, rows, width);
    return CUDA_LAUNCHED(b, "a linear's tail");
}

status cuda_linear_gather(backend *b, const op_call *c, const linear_size *z, void *to,
                          int64_t ld) {
    for (int k = 0; k < z->parts; k++) {
        const tensor *w = &c->in[linear_w(k)];
        if (dtype_is_4bit(w->type))
            TRY(cuda_weights_decode(b, w, 0, w->rows, z->type, to, ld));
        else
            TRY(cuda_rows_copy(b, w, to, ld));
        to = column(to, z->out[k] * ld, z->type);
    }
    return STATUS_OK;
}

/* ---- forward ---- */

/* y = x W^T, W [n, depth]. */
static cuda_gemm_shape product(const linear_size *z, int64_t n, int64_t ldx, int64_t ldw,
                               int64_t ldy) {
    cuda_gemm_shape s = {};
    s.tb = true;
    s.in = s.out = z->type;
    s.m = z->rows, s.n = n, s.k = cuda_linear_depth(z);
    s.lda = ldx, s.ldb = ldw, s.ldc = ldy;
    s.alpha = 1;
    return s;
}

/* Each part on its own W. */
static status forward_parts(backend *b, const op_call *c, const linear_size *z,
                            const linear_space *at) {
    const tensor *x = &c->in[LINEAR_X];
    for (int k = 0; k < z->parts; k++) {
        tensor y = cuda_linear_part(&c->out[0], z, k);
        cuda_gemm_shape s = product(z, z->out[k], x->stride, z->in, y.stride);
        TRY(cuda_gemm_run(cuda_of(b)->gemm, cuda_stream(b), &s, x->data,
                          c->in[linear_w(k)].data, y.data, at->gemm));
    }
    return STATUS_OK;
}

/* u of every part, and x to `copy` unless that is NULL: the first pass over x leaves it there. */
static status make_thin(backend *b, const op_call *c, const linear_size *z,
                        const linear_space *at, void *copy) {
    if (copy && !cuda_linear_rank(z))
        return cuda_rows_copy(b, &c->in[LINEAR_X], copy, cuda_linear_depth(z));
    for (int k = 0; k < z->parts; k++) {
        if (!z->rank[k]) continue;
        adapter_wide x = cuda_linear_input(c, z, k);
        x.copy = copy, x.ld = cuda_linear_depth(z);
        copy = NULL;
        TRY(cuda_adapter_down(b, &x, c->in[linear_a(k)].data, z->rank[k],
                              c->attr->linear.scale[k], at->u[k]));
    }
    return STATUS_OK;
}

/* The operands' tails. */
static status make_tails(backend *b, const op_call *c, const linear_size *z,
                         const linear_space *at) {
    linear_tail t = cuda_linear_tail(z, z->bias);
    int64_t ld = cuda_linear_depth(z), width = ld - z->in;
    for (int k = 0; k < z->parts; k++) {
        t.thin[k] = at->u[k];
        t.b[k] = c->in[linear_b(k)].data;
        t.offset[k] = c->in[linear_bias(k)].data;
    }
    TRY(cuda_linear_extend(b, z->type, z->rows, z->in, &t, at->x, ld));
    void *to = column(at->w, z->in, z->type);
    if (z->type == DTYPE_F32)
        launch_weights<float>(b, &t, to, ld, width);
    else if (z->type == DTYPE_BF16)
        launch_weights<bf16>(b, &t, to, ld, width);
    else
        launch_weights<f16>(b, &t, to, ld, width);
    return CUDA_LAUNCHED(b, "a linear's tail");
}

status cuda_linear_forward(backend *b, const op_call *c) {
    linear_size z = cuda_linear_size_of_call(c);
    cuda_scratch s = {(char *)c->scratch, 0};
    linear_space at;
    if (z.rows == 0) return STATUS_OK;
    cuda_linear_take(&s, &z, &at);
    TRY(cuda_scratch_check(&s, "linear", c->scratch_bytes));
    if (!cuda_linear_gathers(&z)) return forward_parts(b, c, &z, &at);
    bool few = cuda_linear_is_few(c, &z);
    TRY(make_thin(b, c, &z, &at, few ? NULL : at.x));
    if (few) return cuda_linear_few(b, c, &z, at.u);
    int64_t ld = cuda_linear_pitch(&z);
    TRY(cuda_linear_gather(b, c, &z, at.w, ld));
    if (at.x) TRY(make_tails(b, c, &z, &at));
    const tensor *x = &c->in[LINEAR_X];
    cuda_gemm_shape p =
        product(&z, z.stack, at.x ? cuda_linear_depth(&z) : x->stride, ld, c->out[0].stride);
    return cuda_gemm_run(cuda_of(b)->gemm, cuda_stream(b), &p, at.x ? at.x : x->data, at.w,
                         c->out[0].data, at.gemm);
}

/* ---- planning ---- */

status cuda_linear_prepare(backend *b, const op_shape *shape) {
    if (shape->backward) return cuda_linear_backward_prepare(b, shape);
    linear_size z = cuda_linear_size_of_shape(shape);
    if (cuda_linear_gathers(&z)) {
        cuda_gemm_shape s =
            product(&z, z.stack, cuda_linear_depth(&z), cuda_linear_pitch(&z), z.stack);
        return cuda_gemm_plan(cuda_of(b)->gemm, &s);
    }
    for (int k = 0; k < z.parts; k++) {
        cuda_gemm_shape s = product(&z, z.out[k], z.in, z.in, z.stack);
        TRY(cuda_gemm_plan(cuda_of(b)->gemm, &s));
    }
    return STATUS_OK;
}
