/* reference_optimizer.c: OP_ADAMW, OP_SQUARE_SUM and OP_FAKE_QUANT in fp64, written from
 * NUMERICS 1 and 2 (the goldens of the real libraries are test_quant.c's, test_optimizer8.c's
 * and test_fakequant.c's). */
#include "op_test.h"

#include "common/alloc.h"
#include "common/checked.h"
#include "quant/adamw.h"
#include "quant/dynamic.h"

#include <math.h>
#include <string.h>

/* ---- AdamW ---- */

static void adamw_forward(ref_call *r) {
    const adamw_scalars *s = r->call->adam;
    double decay = r->call->attr->adamw.decay ? s->decay : 1;
    for (int64_t e = 0; e < r->in[ADAMW_MASTER].rows * r->in[ADAMW_MASTER].cols; e++) {
        double g = r->in[ADAMW_G].x[e] * s->grad_scale, *p = &r->in[ADAMW_MASTER].x[e];
        double *m = &r->in[ADAMW_M].x[e], *v = &r->in[ADAMW_V].x[e];
        *p *= decay;
        *m = s->beta1 * *m + s->rest1 * g;
        *v = s->beta2 * *v + s->rest2 * g * g;
        *p += s->step * *m / (sqrt(*v) / s->root2 + s->eps);
        if (r->in[ADAMW_WORKING].x) r->in[ADAMW_WORKING].x[e] = ref_round(r, *p);
    }
}

static void adamw_case(const op_suite *suite, const char *name, int64_t rows, int64_t cols,
                       bool decay, bool working) {
    int64_t n = rows * cols;
    adamw_scalars scalars = adamw_scalars_make(1e-2, 0.9, 0.999, 1e-8, 0.1, 3);
    scalars.grad_scale = 0.5f;
    float *v = mem_alloc((size_t)n * 4, "test");
    op_test_normal(v, DTYPE_F32, n, 1, 5);
    for (int64_t e = 0; e < n; e++) v[e] *= v[e];
    tensor_format f = format_of(DTYPE_F32, rows, cols);
    op_case c = {
        .name = name,
        .attr.adamw = {.bits = 32, .decay = decay},
        .adam = &scalars,
        .in = {[ADAMW_G] = f,
               [ADAMW_MASTER] = f,
               [ADAMW_M] = f,
               [ADAMW_V] = f,
               [ADAMW_WORKING] = working ? format_of(TYPE_C, rows, cols) : (tensor_format){0}},
        .values = {[ADAMW_V] = v},
    };
    op_test(suite, &c);
    mem_free(v);
}

static void adamw_run(const op_suite *suite) {
    adamw_case(suite, "decay and working copy", 37, 64, true, true);
    adamw_case(suite, "several pieces", 300, 172, false, true);
    adamw_case(suite, "no working copy", 1, 5, true, false);
}

/* ---- squares ---- */

static void square_sum_forward(ref_call *r) {
    r->in[SQUARE_OUT].x[0] = 0;
    for (int64_t e = 0; e < r->in[SQUARE_G].rows * r->in[SQUARE_G].cols; e++)
        r->in[SQUARE_OUT].x[0] += r->in[SQUARE_G].x[e] * r->in[SQUARE_G].x[e];
}

static void square_sum_run(const op_suite *suite) {
    static const int64_t shapes[][2] = {{37, 172}, {1, 1}, {16, 4096}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        op_case c = {.name = "squares",
                     .in = {format_of(DTYPE_F32, shapes[i][0], shapes[i][1]),
                            format_of(DTYPE_F64, 1, 1)},
                     .k_forward = 1e-6}; /* the sum is in double */
        op_test(suite, &c);
    }
}

/* ---- fake quantization ---- */

/* Levels of the format in ascending order and what separates neighbours. */
static float nearest_level(dtype quant, float y) {
    const float *book = quant == DTYPE_FP4 ? fp4_codebook() : nf4_codebook();
    float best = book[0];
    for (int i = 1; i < 16; i++)
        if (fabsf(book[i] - y) < fabsf(best - y)) best = book[i];
    return best;
}

static float nearest_map(float y) {
    const float *map = dynamic_map_signed();
    int best = 0;
    for (int i = 1; i < 256; i++)
        if (fabsf(map[i] - y) < fabsf(map[best] - y)) best = i;
    return map[best];
}

/* The scales through 8 bits and back. */
static void nest(float *absmax, int64_t blocks) {
    double mean = 0;
    for (int64_t b = 0; b < blocks; b++) mean += absmax[b] / (double)blocks;
    float offset = (float)mean;
    for (int64_t first = 0; first < blocks; first += TENSOR_NEST_BLOCK) {
        int64_t last = min_i64(blocks, first + TENSOR_NEST_BLOCK);
        float most = 0;
        for (int64_t b = first; b < last; b++) most = fmaxf(most, fabsf(absmax[b] - offset));
        for (int64_t b = first; b < last; b++)
            absmax[b] = nearest_map((absmax[b] - offset) / most) * most + offset;
    }
}

static void fake_quant_forward(ref_call *r) {
    int64_t n = r->in[0].rows * r->in[0].cols, blocks = (n + 63) / 64;
    const double *w = r->in[0].x;
    float *absmax = mem_alloc_array((size_t)blocks, 4, "reference");
    memcpy(r->out[0].x, w, (size_t)n * 8);
    for (int64_t e = 0; e < n; e++) absmax[e / 64] = fmaxf(absmax[e / 64], fabsf((float)w[e]));
    float *scale = mem_alloc_array((size_t)blocks, 4, "reference");
    memcpy(scale, absmax, (size_t)blocks * 4);
    if (r->call->attr->fake_quant.nested) nest(scale, blocks);
    for (int64_t e = 0; r->rounding && e < n; e++) { /* straight-through: else y is w */
        float y = (float)w[e] * (1.0f / absmax[e / 64]);
        float level = nearest_level(r->call->attr->fake_quant.quant, y);
        r->out[0].x[e] = ref_round(r, level * scale[e / 64]);
    }
    mem_free(absmax);
    mem_free(scale);
}

static void fake_quant_backward(ref_call *r) {
    for (int64_t e = 0; e < r->in[0].rows * r->in[0].cols; e++)
        r->gin[0].x[e] += r->gout[0].x[e];
}

static void fake_quant_case(const op_suite *suite, const char *name, int64_t rows,
                            int64_t cols, dtype quant, bool nested, uint32_t types) {
    op_case c = {
        .name = name,
        .attr.fake_quant = {quant, nested},
        .types = types,
        .in = {format_of(TYPE_C, rows, cols)},
        .out = {format_of(TYPE_C, rows, cols)},
        .gradients = 1,
        .parameters = 1,
        .gouts = 1,
    };
    op_test(suite, &c);
}

/* f32 where 16-bit values would often lie on the midpoint between two levels. */
static void fake_quant_run(const op_suite *suite) {
    static const uint32_t f32 = 1u << DTYPE_F32;
    fake_quant_case(suite, "NF4, the last block short", 37, 90, DTYPE_NF4, false, 0);
    fake_quant_case(suite, "double quantization", 300, 120, DTYPE_NF4, true, 0);
    fake_quant_case(suite, "FP4", 40, 64, DTYPE_FP4, false, f32);
}

const op_suite suite_adamw = {OP_ADAMW, adamw_forward, NULL, NULL, adamw_run};
const op_suite suite_square_sum = {OP_SQUARE_SUM, square_sum_forward, NULL, NULL,
                                   square_sum_run};
const op_suite suite_fake_quant = {OP_FAKE_QUANT, fake_quant_forward, fake_quant_backward,
                                   NULL, fake_quant_run};
