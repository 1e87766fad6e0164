/* test_optimizer8.c: AdamW with 32-bit states bit for bit against torch, with 8-bit blockwise
 * states against the golden of bitsandbytes, and that neither cutting a range nor the
 * instruction set changes a bit. */
#include "golden.h"

#include "adamw_golden.h"
#include "common/half.h"
#include "common/philox.h"
#include "quant/adamw.h"
#include "quant/dynamic.h"
#include "quant/simd.h"

#include <math.h>

static const simd_level levels[2] = {SIMD_NONE, SIMD_AVX512};

static void adamw32_equals_torch(void **state) {
    for (int c = 0; c < 4; c++) {
        const adamw_golden *golden = &adamw_goldens[c / 2];
        simd_limit(levels[c % 2]);
        float p[32], g[32], m[32] = {0}, v[32] = {0};
        memcpy(p, golden->p0, sizeof p);
        for (int t = 1; t <= ADAMW_GOLDEN_STEPS; t++) {
            adamw_scalars s = adamw_scalars_make(golden->lr, golden->beta1, golden->beta2,
                                                 golden->eps, golden->weight_decay, t);
            memcpy(g, golden->g[t - 1], sizeof g);
            adamw32_update(p, m, v, g, 32, &s);
        }
        assert_memory_equal(p, golden->p, sizeof p);
        assert_memory_equal(m, golden->m, sizeof m);
        assert_memory_equal(v, golden->v, sizeof v);
    }
}

static void fill(float *x, int64_t n, uint64_t seed, float scale) {
    philox_stream s = philox_open(seed, PHILOX_SAMPLE, 0, 0, 0);
    for (int64_t i = 0; i < n; i++) {
        uint32_t word = philox_word(&s, (uint64_t)i);
        x[i] =
            ((float)(word >> 8) - 8388608.0f) * (scale * 0x1p-23f) * (word & 7 ? 1.0f : 1e-5f);
    }
}

/* Clipping: a scale in the update is g rounded after a multiplication beforehand. */
static void grad_scale_rounds_the_gradient(void **state) {
    enum { N = 300 };
    float p[2][N], m[2][N] = {{0}}, v[2][N] = {{0}}, g[N], scaled[N];
    uint8_t c1[2][N] = {{0}}, c2[2][N] = {{0}};
    float a1[2][2] = {{0}}, a2[2][2] = {{0}};
    fill(g, N, 4, 2.0f);
    for (int i = 0; i < N; i++) p[0][i] = p[1][i] = g[N - 1 - i];
    for (int t = 1; t <= 3; t++) {
        adamw_scalars s = adamw_scalars_make(1e-2, .9, .999, 1e-8, 0, t), clipped = s;
        clipped.grad_scale = 0.3f;
        for (int i = 0; i < N; i++) scaled[i] = g[i] * 0.3f;
        adamw32_update(p[0], m[0], v[0], g, N, &clipped);
        adamw32_update(p[1], m[1], v[1], scaled, N, &s);
        adamw8_update(p[0], c1[0], a1[0], c2[0], a2[0], g, N, &clipped);
        adamw8_update(p[1], c1[1], a1[1], c2[1], a2[1], scaled, N, &s);
    }
    assert_memory_equal(p[0], p[1], sizeof p[0]);
    assert_memory_equal(v[0], v[1], sizeof v[0]);
    assert_memory_equal(c2[0], c2[1], sizeof c2[0]);
}

typedef struct run8 {
    float *p, absmax1[24], absmax2[24];
    uint8_t *codes1, *codes2;
    int64_t n;
} run8;

static run8 run8_open(const float *p0, int64_t n) {
    run8 r = {.p = mem_alloc_array((size_t)n, 4, "test"),
              .codes1 = mem_alloc((size_t)n, "test"),
              .codes2 = mem_alloc((size_t)n, "test"),
              .n = n};
    memcpy(r.p, p0, (size_t)n * 4);
    return r;
}
static void run8_close(run8 *r) {
    mem_free(r->p), mem_free(r->codes1), mem_free(r->codes2);
}

/* `pieces` calls per step, cut at multiples of 256. */
static void run8_step(run8 *r, const float *g, const adamw_scalars *s, int pieces) {
    int64_t step = ((r->n + pieces - 1) / pieces + 255) / 256 * 256;
    for (int64_t at = 0; at < r->n; at += step) {
        int64_t n = r->n - at < step ? r->n - at : step;
        adamw8_update(r->p + at, r->codes1 + at, r->absmax1 + at / 256, r->codes2 + at,
                      r->absmax2 + at / 256, g + at, n, s);
    }
}

static adamw_scalars golden_scalars(const json_t *expected, int64_t t) {
    double lr = 0, beta1 = 0, beta2 = 0, eps = 0, decay = 0;
    assert_ok(json_get_real(expected, "lr", &lr, "golden", STATUS_DATA));
    assert_ok(json_get_real(expected, "beta1", &beta1, "golden", STATUS_DATA));
    assert_ok(json_get_real(expected, "beta2", &beta2, "golden", STATUS_DATA));
    assert_ok(json_get_real(expected, "eps", &eps, "golden", STATUS_DATA));
    assert_ok(json_get_real(expected, "weight_decay", &decay, "golden", STATUS_DATA));
    return adamw_scalars_make(lr, beta1, beta2, eps, decay, t);
}

static void check_codes(const uint8_t *codes, golden_tensor expected) {
    int different = 0;
    for (int64_t i = 0; i < expected.count; i++) {
        if (codes[i] == expected.u8[i]) continue;
        different++;
        assert_true(abs(codes[i] - expected.u8[i]) == 1);
    }
    assert_true(different <= 5);
}

static void check_scales(const float *scales, golden_tensor expected, double tolerance) {
    for (int64_t i = 0; i < expected.count; i++)
        assert_true(fabs(scales[i] - expected.f32[i]) <= tolerance * fabs(expected.f32[i]));
}

/* Together within 1e-5 of the way they went (bias corrections taken in fp32, as cuda_order has
 * them, are 7e-6 off), each within what separates the two goldens after 20 steps, 2.2e-7. */
static void check_parameters(golden_tensor expected, const run8 *r, const float *p0) {
    double error = 0, way = 0;
    for (int64_t i = 0; i < expected.count; i++) {
        double e = (double)r->p[i] - expected.f32[i], w = (double)expected.f32[i] - p0[i];
        error += e * e;
        way += w * w;
        assert_true(fabs(e) <= 2.2e-7);
    }
    assert_true(sqrt(error) <= 1e-5 * sqrt(way));
}

/* States are those of the CUDA kernel's order bit for bit; of the CPU class they are, by the
 * golden's README, codes but for 5 neighbours, absmax1 to 1e-6, absmax2 to 2e-5 (1 - .999 in
 * fp32). */
static void check_golden(const golden *g, int step, const run8 *r, const float *p0) {
    golden_tensor codes1 = golden_get(g, "cuda_order.state1.%d", step);
    assert_memory_equal(r->codes1, codes1.data, (size_t)codes1.count);
    assert_memory_equal(r->codes2, golden_get(g, "cuda_order.state2.%d", step).data,
                        (size_t)r->n);
    assert_memory_equal(r->absmax1, golden_get(g, "cuda_order.absmax1.%d", step).data,
                        sizeof r->absmax1);
    assert_memory_equal(r->absmax2, golden_get(g, "cuda_order.absmax2.%d", step).data,
                        sizeof r->absmax2);
    check_codes(r->codes1, golden_get(g, "bnb_exact.state1.%d", step));
    check_codes(r->codes2, golden_get(g, "bnb_exact.state2.%d", step));
    check_scales(r->absmax1, golden_get(g, "bnb_exact.absmax1.%d", step), 1e-6);
    check_scales(r->absmax2, golden_get(g, "bnb_exact.absmax2.%d", step), 2e-5);
    check_parameters(golden_get(g, "cuda_order.param.%d", step), r, p0);
    check_parameters(golden_get(g, "bnb_exact.param.%d", step), r, p0);
}

static void adamw8_equals_bitsandbytes(void **state) {
    golden g;
    json_t *expected = golden_json("expectations/adamw8bit-golden/expected.json");
    golden_open(&g, "expectations/adamw8bit-golden/adamw8bit.safetensors");
    assert_memory_equal(dynamic_map_signed(), golden_get(&g, "signed_map").data, 1024);
    assert_memory_equal(dynamic_map_unsigned(), golden_get(&g, "unsigned_map").data, 1024);
    golden_tensor p0 = golden_get(&g, "param0"), grads = golden_get(&g, "grads");
    for (int level = 0; level < 2; level++) {
        simd_limit(levels[level]);
        run8 r = run8_open(p0.f32, p0.count);
        for (int t = 1; t <= 20; t++) {
            adamw_scalars s = golden_scalars(expected, t);
            run8_step(&r, grads.f32 + (t - 1) * p0.count, &s, 1);
            if (t == 1 || t == 2 || t == 20) check_golden(&g, t, &r, p0.f32);
        }
        run8_close(&r);
    }
    golden_close(&g);
    json_decref(expected);
}

/* Sizes around the block and the vector, cut in pieces, on each instruction set: one result.
 */
static void adamw8_is_the_same_however_cut(void **state) {
    static const int64_t sizes[] = {1, 7, 255, 256, 257, 4096, 5901};
    float p0[5901], g[5901];
    for (int c = 0; c < 7; c++) {
        int64_t n = sizes[c];
        fill(p0, n, 1, 0.1f);
        run8 whole = run8_open(p0, n), cut = run8_open(p0, n);
        for (int t = 1; t <= 5; t++) {
            adamw_scalars s = adamw_scalars_make(1e-3, .9, .95, 1e-8, .1, t);
            fill(g, n, 10 + (uint64_t)t, t == 3 ? 1e-6f : 0.5f);
            simd_limit(SIMD_NONE);
            run8_step(&whole, g, &s, 1);
            simd_limit(SIMD_AVX512);
            run8_step(&cut, g, &s, 1 + t);
        }
        assert_memory_equal(whole.p, cut.p, (size_t)n * 4);
        assert_memory_equal(whole.codes1, cut.codes1, (size_t)n);
        assert_memory_equal(whole.codes2, cut.codes2, (size_t)n);
        assert_memory_equal(whole.absmax1, cut.absmax1, sizeof cut.absmax1);
        assert_memory_equal(whole.absmax2, cut.absmax2, sizeof cut.absmax2);
        run8_close(&whole), run8_close(&cut);
    }
}

static void adamw32_is_the_same_however_cut(void **state) {
    enum { N = 1003 };
    float p[2][N], m[2][N] = {{0}}, v[2][N] = {{0}}, g[N];
    fill(p[0], N, 1, 0.1f);
    memcpy(p[1], p[0], sizeof p[0]);
    for (int t = 1; t <= 5; t++) {
        adamw_scalars s = adamw_scalars_make(1e-3, .9, .999, 1e-8, .01, t);
        fill(g, N, 20 + (uint64_t)t, 1.0f);
        simd_limit(SIMD_NONE);
        adamw32_update(p[0], m[0], v[0], g, N, &s);
        simd_limit(SIMD_AVX512);
        for (int at = 0, step = 1; at < N; at += step, step += 6) {
            int n = N - at < step ? N - at : step;
            adamw32_update(p[1] + at, m[1] + at, v[1] + at, g + at, n, &s);
        }
    }
    assert_memory_equal(p[0], p[1], sizeof p[0]);
    assert_memory_equal(m[0], m[1], sizeof m[0]);
    assert_memory_equal(v[0], v[1], sizeof v[0]);
}

/* A block without a gradient keeps zero states and only decays; a gradient that rounds to the
 * zero code keeps its sign. */
static void adamw8_zeros_and_signs(void **state) {
    float p[512], g[512] = {0}, a1[2] = {0}, a2[2] = {0};
    uint8_t c1[512] = {0}, c2[512] = {0};
    for (int i = 0; i < 512; i++) p[i] = 1.0f;
    g[256] = 1.0f, g[300] = -1e-9f, g[301] = 1e-9f, g[302] = -0.0f;
    adamw_scalars s = adamw_scalars_make(1e-3, .9, .999, 1e-8, .5, 1);
    adamw8_update(p, c1, a1, c2, a2, g, 512, &s);
    assert_true(a1[0] == 0.0f && a2[0] == 0.0f && a1[1] > 0.0f);
    for (int i = 0; i < 256; i++) {
        assert_true(p[i] == s.decay);
        assert_true(c1[i] == DYNAMIC_ZERO_SIGNED && c2[i] == DYNAMIC_ZERO_UNSIGNED);
    }
    assert_int_equal(c1[256], 255);
    assert_int_equal(c1[300], DYNAMIC_ZERO_SIGNED - 1);
    assert_int_equal(c1[301], DYNAMIC_ZERO_SIGNED);
    assert_int_equal(c1[302], DYNAMIC_ZERO_SIGNED);
    assert_true(p[300] > p[0] && p[256] < p[0]);
}

static int lift_limit(void **state) {
    simd_limit(SIMD_AVX512);
    return 0;
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(adamw32_equals_torch, lift_limit),
        cmocka_unit_test_teardown(grad_scale_rounds_the_gradient, lift_limit),
        cmocka_unit_test_teardown(adamw8_equals_bitsandbytes, lift_limit),
        cmocka_unit_test_teardown(adamw8_is_the_same_however_cut, lift_limit),
        cmocka_unit_test_teardown(adamw32_is_the_same_however_cut, lift_limit),
        cmocka_unit_test_teardown(adamw8_zeros_and_signs, lift_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
