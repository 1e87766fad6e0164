/* fake_quant.cu: OP_FAKE_QUANT: the value that each weight would have after quantization, in
 * one pass without storing codes; with double quantization two more over the weights' scales
 * come before it. The gradient passes straight through. An element that is not finite makes
 * its block NaN. */
#include "autograd/cuda/codes.h"
#include "autograd/cuda/quantize.h"

/* y = level * scale rounded to T; scales NULL: each block's largest magnitude. */
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS)
    fake_blocks(matrix<T> x, matrix<T> y, int64_t n, code_book given, const float *scales) {
    SHARED(shared);
    code_book *book = (code_book *)shared;
    const int count = piece<T>::count;
    int64_t e = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) * count;
    float v[count];
    piece_widen(piece_load(x, 0, e, n), v);
    code_book_share(given, book);
    __syncthreads();
    float absmax = block_absmax<count>(v), inverse = __fdiv_rn(1.0f, absmax);
    float scale = scales && e < n ? scales[e / QUANT_BLOCK] : absmax;
    UNROLL
    for (int i = 0; i < count; i++)
        v[i] = __fmul_rn(book->level[code_find(book, v[i], inverse)], scale);
    piece_store(y, 0, e, n, piece_narrow<T>(v));
}

template <typename T> static status forward(backend *b, const op_call *call) {
    const tensor *w = &call->in[0];
    bool nested = call->attr->fake_quant.nested;
    quant_type type = call->attr->fake_quant.quant == DTYPE_FP4 ? QUANT_FP4 : QUANT_NF4;
    int64_t n = w->rows * w->cols;
    if (n == 0) return STATUS_OK;
    if (nested) TRY(cuda_quantize_scales(b, w->data, w->type, n, call->scratch));
    LAUNCH(fake_blocks<T>, (unsigned)ceil_div(n, ROW_THREADS * piece<T>::count), ROW_THREADS,
           sizeof(code_book), cuda_stream(b), matrix_flat<T>(w->data),
           matrix_flat<T>(call->out[0].data), n, code_book_of(type),
           nested ? (const float *)call->scratch : (const float *)NULL);
    return CUDA_LAUNCHED(b, "fake_quant");
}

/* dw += dy */
template <typename T, int n>
static __global__ void __launch_bounds__(ROW_THREADS)
    fake_gradient(matrix<T> dy, matrix<float> dw, int64_t cols, int64_t per_row) {
    const int step = n < 4 ? n : 4; /* f32 in 16 bytes */
    row_place at = row_place_of(per_row, n);
    float g[n];
    pack_widen(pack_load<n>(dy, at.row, at.col, cols), g);
    UNROLL
    for (int i = 0; i < n; i += step)
        pack_gradient<step>(dw, true, at.row, at.col + i, cols, g + i);
}

template <typename T, int n>
static void launch_gradient(backend *b, const matrix<T> &dy, const tensor *dw) {
    row_grid g = row_grid_of(dw->rows, dw->cols, n);
    LAUNCH((fake_gradient<T, n>), (unsigned)g.blocks, g.threads, 0, cuda_stream(b), dy,
           matrix_of<float>(dw), dw->cols, g.per_row);
}

template <typename T> static status backward(backend *b, const op_call *call) {
    const tensor *dw = &call->gin[0];
    matrix<T> dy = matrix_of<T>(&call->gout[0]);
    if (!dy.at || !dw->data || dw->rows * dw->cols == 0) return STATUS_OK;
    if (dy.wide && matrix_of<float>(dw).wide && whole_pieces<T>(dw->cols))
        launch_gradient<T, piece<T>::count>(b, dy, dw);
    else
        launch_gradient<T, 1>(b, dy, dw);
    return CUDA_LAUNCHED(b, "fake_quant backward");
}

status cuda_fake_quant_forward(backend *b, const op_call *call) {
    static const by_type run = {forward<float>, forward<bf16>, forward<f16>};
    return run[call->compute](b, call);
}

status cuda_fake_quant_backward(backend *b, const op_call *call) {
    static const by_type run = {backward<float>, backward<bf16>, backward<f16>};
    return run[call->compute](b, call);
}
