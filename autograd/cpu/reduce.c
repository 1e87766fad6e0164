/* reduce.c: sums over whole tensors in double and in a fixed order: OP_LOSS_SUM,
 * OP_SQUARE_SUM. */
#include "autograd/cpu/cpu.h"

#include "quant/simd.h"

enum {
    SPLITS = 256, /* parts of a tensor; the part sums are added in order */
    LANES = 8,
    WORTH = 1 << 16, /* elements that are worth more than one thread */
};

status cpu_loss_sum_forward(backend *b, const op_call *c) {
    const float *logp = c->in[LOSS_LOGP].data;
    const int32_t *targets = c->in[LOSS_TARGETS].data;
    double *total = c->in[LOSS_TOTAL].data;
    for (int64_t row = 0; row < c->rows; row++) {
        if (targets[row] < 0) continue;
        total[0] -= logp[row];
        total[1] += 1;
    }
    return STATUS_OK;
}

SIMD_INLINE void square_lanes_body(const float *x, int64_t n, double *lanes) {
    double sum[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) sum[j] += (double)x[i + j] * (double)x[i + j];
    for (int j = 0; i + j < n; j++) sum[j] += (double)x[i + j] * (double)x[i + j];
    for (int j = 0; j < LANES; j++) lanes[j] = sum[j];
}
SIMD_TWICE(square_lanes, (const float *x, int64_t n, double *lanes), (x, n, lanes))

static double square_part(const float *x, int64_t n) {
    double lanes[LANES], sum = 0;
    square_lanes(x, n, lanes);
    for (int j = 0; j < LANES; j++) sum += lanes[j];
    return sum;
}

/* A square of an f32 is exact in double, and a NaN or infinity anywhere ends up in the sum. */
status cpu_square_sum_forward(backend *b, const op_call *c) {
    const tensor *g = &c->in[SQUARE_G];
    const float *x = g->data;
    int64_t n = g->rows * g->cols;
    double part[SPLITS], sum = 0;
    PARALLEL_FOR_IF(b, n >= WORTH)
    for (int i = 0; i < SPLITS; i++) {
        int64_t first = n / SPLITS * i + n % SPLITS * i / SPLITS;
        int64_t last = n / SPLITS * (i + 1) + n % SPLITS * (i + 1) / SPLITS;
        part[i] = square_part(x + first, last - first);
    }
    for (int i = 0; i < SPLITS; i++) sum += part[i];
    *(double *)c->in[SQUARE_OUT].data = sum;
    return STATUS_OK;
}
