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

/* The lanes folded by halves, the same order everywhere. */
SIMD_INLINE float fold(float *lanes) {
    for (int j = 0; j < 16; j++) lanes[j] += lanes[j + 16];
    for (int j = 0; j < 8; j++) lanes[j] += lanes[j + 8];
    for (int j = 0; j < 4; j++) lanes[j] += lanes[j + 4];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

SIMD_INLINE void weights_dots_body(const float *restrict w, const float *restrict x,
                                   int64_t ld, int64_t rows, int64_t n, float *restrict sums) {
    for (int64_t row = 0; row < rows; row++) {
        const float *line = x + row * ld;
        float lanes[LANES] = {0};
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES)
            for (int j = 0; j < LANES; j++)
                lanes[j] = __builtin_fmaf(w[i + j], line[i + j], lanes[j]);
        for (int j = 0; i + j < n; j++)
            lanes[j] = __builtin_fmaf(w[i + j], line[i + j], lanes[j]);
        sums[row] += fold(lanes);
    }
}
SIMD_TWICE(weights_dots,
           (const float *w, const float *x, int64_t ld, int64_t rows, int64_t n, float *sums),
           (w, x, ld, rows, n, sums))
