/* weights.c: see weights.h. Rows are independent, so any cut gives the same bits. */
#include "autograd/cpu/weights.h"

#include "common/checked.h"
#include "quant/simd.h"

enum { LANES = 32, PIECE = 512 };

static void dequantize(const quant_view *v, int64_t first, int64_t n, dtype type, void *to) {
    switch (type) {
    case DTYPE_BF16:
        quant_dequantize_bf16(v, first, n, to);
        break;
    case DTYPE_F16:
        quant_dequantize_f16(v, first, n, to);
        break;
    default:
        quant_dequantize_f32(v, first, n, to);
    }
}

void weights_window(backend *b, const tensor *w, int64_t row, int64_t rows, int64_t col,
                    int64_t cols, dtype type, void *to) {
    quant_view view = tensor_quant_view(w);
    int64_t row_bytes = cols * dtype_bytes(type);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < rows; i++)
        dequantize(&view, (row + i) * w->cols + col, cols, type, (char *)to + i * row_bytes);
}

void weights_load(const tensor *w, const quant_view *view, int64_t row, int64_t col, int64_t n,
                  dtype type, float *to) {
    if (!dtype_is_4bit(w->type)) {
        cpu_load(w, row, col, n, to);
    } else if (type == DTYPE_F32) {
        quant_dequantize_f32(view, row * w->cols + col, n, to);
    } else {
        uint16_t rounded[PIECE];
        for (int64_t i = 0; i < n; i += PIECE) {
            int64_t m = min_i64(PIECE, n - i);
            dequantize(view, row * w->cols + col + i, m, type, rounded);
            convert_array(rounded, (int)type, to + i, QUANT_SRC_F32, m);
        }
    }
}

SIMD_INLINE void weights_lanes_body(const float *a, const float *b, int64_t n, float *lanes) {
    float sum[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sum[j] = __builtin_fmaf(a[i + j], b[i + j], sum[j]);
    for (int j = 0; i + j < n; j++) sum[j] = __builtin_fmaf(a[i + j], b[i + j], sum[j]);
    for (int j = 0; j < LANES; j++) lanes[j] = sum[j];
}
SIMD_TWICE(weights_lanes, (const float *a, const float *b, int64_t n, float *lanes),
           (a, b, n, lanes))

float weights_dot(const float *a, const float *b, int64_t n) {
    float lanes[LANES];
    weights_lanes(a, b, n, lanes);
    for (int half = LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
    return lanes[0];
}
