/* test_gemm.c: what test_operations.c cannot see from outside: the one door for products with
 * all its ways and strides, the dropout mask bit by bit, and adapters' gradients at sizes
 * where the library would cut the rows by threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "autograd/cpu/adapter.h"
#include "autograd/cpu/weights.h"
#include "common/alloc.h"
#include "common/half.h"
#include "quant/adamw.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { GAP = 5 /* columns between rows */ };

static float random_float(uint32_t seed, int64_t i) {
    philox_stream s = philox_open(seed, PHILOX_INIT, 0, 0, 0);
    return 2 * philox_uniform(philox_word(&s, (uint64_t)i)) - 1;
}

/* rows x cols of `type`, ld apart; what lies between is NaN and must not be touched. */
static void *matrix(dtype type, int64_t rows, int64_t cols, int64_t ld, uint32_t seed) {
    float *x = mem_alloc((size_t)(rows * ld + 1) * 4, "test");
    void *out = mem_alloc((size_t)(rows * ld + 1) * 4, "test");
    for (int64_t i = 0; i < rows * ld; i++) x[i] = i % ld < cols ? random_float(seed, i) : NAN;
    convert_array(x, QUANT_SRC_F32, out, (int)type, rows * ld);
    mem_free(x);
    return out;
}

static double element(const void *at, dtype type, int64_t i) {
    return type == DTYPE_F32    ? ((const float *)at)[i]
           : type == DTYPE_BF16 ? bf16_to_f32(((const uint16_t *)at)[i])
                                : f16_to_f32(((const uint16_t *)at)[i]);
}

static double half_ulp(dtype type) {
    return type == DTYPE_F32 ? 0x1p-24 : type == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
}

static void check_product(gemm *g, const gemm_shape *s) {
    int64_t rows_a = s->ta ? s->k : s->m, cols_a = s->ta ? s->m : s->k;
    int64_t rows_b = s->tb ? s->n : s->k, cols_b = s->tb ? s->k : s->n;
    void *a = matrix(s->in, rows_a, cols_a, s->lda, 1),
         *b = matrix(s->in, rows_b, cols_b, s->ldb, 2);
    void *c = matrix(s->out, s->m, s->n, s->ldc, 3),
         *old = matrix(s->out, s->m, s->n, s->ldc, 3);
    gemm_space space = {0};
    assert_int_equal(gemm_plan(g, s, &space.bytes), STATUS_OK);
    space.at = mem_alloc((size_t)space.bytes, "test");
    if (gemm_run(g, s, a, b, c, space) != STATUS_OK) fail_msg("%s", status_message());
    double tolerance = half_ulp(s->out) * 1.01 * (s->out == DTYPE_F32 ? 0 : 1);
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < s->ldc; j++) {
            double got = element(c, s->out, i * s->ldc + j), want = 0;
            if (j >= s->n) {
                assert_true(isnan(got));
                continue;
            }
            for (int64_t l = 0; l < s->k; l++)
                want += element(a, s->in, s->ta ? l * s->lda + i : i * s->lda + l) *
                        element(b, s->in, s->tb ? j * s->ldb + l : l * s->ldb + j);
            if (s->add) want += element(old, s->out, i * s->ldc + j);
            double bound = tolerance * fabs(want) + 0x1p-24 * 8 * (1 + sqrt((double)s->k));
            if (!(fabs(got - want) <= bound))
                fail_msg(
                    "%lld x %lld x %lld ta %d tb %d %s -> %s: [%lld, %lld] is %.9g, not %.9g",
                    (long long)s->m, (long long)s->n, (long long)s->k, s->ta, s->tb,
                    dtype_name(s->in), dtype_name(s->out), (long long)i, (long long)j, got,
                    want);
        }
    mem_free(a), mem_free(b), mem_free(c), mem_free(old), mem_free(space.at);
}

static void check_shapes(gemm *g, dtype in, dtype out, int64_t m, int64_t n, int64_t k) {
    for (int bits = 0; bits < 16; bits++) {
        gemm_shape s = {.ta = bits & 1,
                        .tb = bits & 2,
                        .add = bits & 4 && out == DTYPE_F32,
                        .in = in,
                        .out = out,
                        .m = m,
                        .n = n,
                        .k = k};
        int64_t gap = bits & 8 ? GAP : 0;
        s.lda = (s.ta ? m : k) + gap, s.ldb = (s.tb ? k : n) + gap, s.ldc = n + gap;
        check_product(g, &s);
    }
}

static void check_types(gemm *g) {
    static const dtype pairs[][2] = {{DTYPE_F32, DTYPE_F32},
                                     {DTYPE_BF16, DTYPE_BF16},
                                     {DTYPE_BF16, DTYPE_F32},
                                     {DTYPE_F16, DTYPE_F16},
                                     {DTYPE_F16, DTYPE_F32}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        check_shapes(g, pairs[i][0], pairs[i][1], 37, 16, 172);
        check_shapes(g, pairs[i][0], pairs[i][1], 1, 64, 1);
        check_shapes(g, pairs[i][0], pairs[i][1], 64, 1, 33);
    }
}

static void test_products(void **state) {
    gemm *g;
    assert_int_equal(gemm_open(&g, 2), STATUS_OK);
    check_types(g);
    gemm_close(g);
}

/* Widened operands in several tiles each way. */
static void test_tiles(void **state) {
    gemm *g;
    assert_int_equal(gemm_open(&g, 2), STATUS_OK);
    check_shapes(g, DTYPE_BF16, DTYPE_BF16, 1030, 5, 3);
    check_shapes(g, DTYPE_F16, DTYPE_F16, 3, 520, 7);
    check_shapes(g, DTYPE_BF16, DTYPE_BF16, 3, 5, 4100);
    check_shapes(g, DTYPE_BF16, DTYPE_F32, 3, 5, 2100);
    gemm_close(g);
}

/* Nothing to multiply: zeros, or C as it was. */
static void test_empty(void **state) {
    gemm *g;
    float c[6] = {1, 2, 3, 4, 5, 6};
    assert_int_equal(gemm_open(&g, 1), STATUS_OK);
    gemm_shape s = {.add = true, .m = 2, .n = 2, .lda = 1, .ldb = 2, .ldc = 3};
    assert_int_equal(gemm_run(g, &s, NULL, NULL, c, (gemm_space){0}), STATUS_OK);
    assert_true(c[0] == 1 && c[4] == 5);
    s.add = false;
    assert_int_equal(gemm_run(g, &s, NULL, NULL, c, (gemm_space){0}), STATUS_OK);
    assert_true(c[0] == 0 && c[1] == 0 && c[2] == 3 && c[3] == 0 && c[4] == 0 && c[5] == 6);
    s.k = 1, s.m = 0;
    assert_int_equal(gemm_run(g, &s, NULL, NULL, c, (gemm_space){0}), STATUS_OK);
    gemm_close(g);
}

/* The code of the native 16-bit path on f32, which every processor multiplies. */
static void test_primitives(void **state) {
    gemm *g;
    assert_int_equal(gemm_open(&g, 2), STATUS_OK);
    gemm_always_primitive(g, true);
    check_shapes(g, DTYPE_F32, DTYPE_F32, 37, 16, 172);
    check_shapes(g, DTYPE_F32, DTYPE_F32, 37, 16, 172); /* from the table */
    check_shapes(g, DTYPE_F32, DTYPE_F32, 130, 40, 5);
    gemm_close(g);
    if (!gemm_native(g = (gemm_open(&g, 2), g), DTYPE_BF16))
        print_message(
            "this processor multiplies bf16 through f32; its native path is not run\n");
    gemm_close(g);
}

/* More shapes than the table holds: it begins again. */
static void test_many_shapes(void **state) {
    gemm *g;
    size_t used = mem_used();
    assert_int_equal(gemm_open(&g, 1), STATUS_OK);
    gemm_always_primitive(g, true);
    for (int i = 0; i < 3200; i++) {
        gemm_shape s = {.m = 1, .n = 1, .k = 1, .lda = 1, .ldb = 1 + i, .ldc = 1};
        float a = 2, b = 3, c = 0;
        assert_int_equal(gemm_run(g, &s, &a, &b, &c, (gemm_space){0}), STATUS_OK);
        assert_true(c == 6);
    }
    gemm_close(g);
    assert_int_equal(mem_used(), used);
}

static void test_small_scratch(void **state) {
    gemm *g;
    uint16_t x[64] = {0};
    assert_int_equal(gemm_open(&g, 1), STATUS_OK);
    gemm_shape s = {.in = DTYPE_F16,
                    .out = DTYPE_F16,
                    .m = 4,
                    .n = 4,
                    .k = 4,
                    .lda = 4,
                    .ldb = 4,
                    .ldc = 4};
    assert_int_equal(gemm_run(g, &s, x, x + 16, x + 32, (gemm_space){0}), STATUS_INTERNAL);
    gemm_close(g);
}

/* ---- dropout ---- */

static void test_dropout(void **state) {
    enum { WIDTH = 173, ROWS = 300 };
    op_attr attr = {.linear = {.parts = 2, .in = WIDTH, .dropout = 0.1f, .module = {7, 8}}};
    op_call call = {.attr = &attr, .layer = 3, .seed = 99, .micro = 1ull << 33};
    int64_t kept = 0, differ = 0;
    for (int part = 0; part < 2; part++) {
        dropout d = dropout_of(&call, part);
        philox_stream s =
            philox_open(99, PHILOX_DROPOUT, (uint32_t)attr.linear.module[part], 3, 1ull << 33);
        for (int64_t row = 0; row < ROWS; row++) {
            float x[WIDTH], again[WIDTH], other[WIDTH];
            for (int i = 0; i < WIDTH; i++) x[i] = again[i] = other[i] = 1;
            dropout_apply(&d, row, 0, WIDTH, x);
            dropout_apply(&d, row, 0, 70, again); /* any cut, any alignment */
            dropout_apply(&d, row, 70, WIDTH - 70, again + 70);
            assert_memory_equal(x, again, sizeof x);
            dropout first = dropout_of(&call, 0);
            dropout_apply(&first, row, 0, WIDTH, other);
            for (int i = 0; i < WIDTH; i++) {
                uint32_t word = philox_word(&s, (uint64_t)(row * WIDTH + i));
                float want =
                    word >= philox_drop_threshold(0.1f) ? (float)(1 / (1 - (double)0.1f)) : 0;
                assert_true(x[i] == want);
                kept += x[i] != 0;
                differ += x[i] != other[i];
            }
        }
    }
    double share = (double)kept / (2 * ROWS * WIDTH), sd = sqrt(0.09 / (2 * ROWS * WIDTH));
    assert_true(fabs(share - 0.9) < 4 * sd);
    /* the second part's mask is another one: it differs in 2 * 0.9 * 0.1 of the elements */
    assert_true(fabs((double)differ / (ROWS * WIDTH) - 0.18) < 0.01);
    call.micro = UINT64_MAX;
    assert_false(dropout_of(&call, 0).on);
}

/* ---- adapters ---- */

/* v, dA, dB of a part at a size where dnnl_sgemm itself gives other bits with two threads. */
static void adapter_bits(int threads, float *bits, int64_t *count) {
    enum { ROWS = 1500, IN = 200, OUT = 130, RANK = 16 };
    backend *b;
    assert_int_equal(backend_cpu_open(&b, threads), STATUS_OK);
    float *x = matrix(DTYPE_F32, ROWS, IN, IN, 1), *dy = matrix(DTYPE_F32, ROWS, OUT, OUT, 2);
    float *a = matrix(DTYPE_F32, RANK, IN, IN, 3), *w = matrix(DTYPE_F32, OUT, RANK, RANK, 4);
    float *pieces = mem_alloc((size_t)threads * ADAPTER_FLOATS * 4, "test");
    tensor_format fx = format_of(DTYPE_F32, ROWS, IN), fy = format_of(DTYPE_F32, ROWS, OUT);
    tensor tx = tensor_at(&fx, x), ty = tensor_at(&fy, dy);
    adapter p = {.rank = RANK, .in = IN, .out = OUT, .scale = 2, .a = a, .b = w};
    float *u = bits, *v = u + ROWS * RANK, *da = v + ROWS * RANK, *db = da + RANK * IN;
    assert_int_equal(adapter_down(b, &p, &tx, u, pieces), STATUS_OK);
    assert_int_equal(adapter_down_gradient(b, &p, &ty, v, pieces), STATUS_OK);
    assert_int_equal(adapter_gradient_a(b, &p, &tx, v, da, pieces), STATUS_OK);
    assert_int_equal(adapter_gradient_b(b, &p, &ty, u, db, pieces), STATUS_OK);
    *count = db + OUT * RANK - bits;
    mem_free(x), mem_free(dy), mem_free(a), mem_free(w), mem_free(pieces);
    b->table->close(b);
}

static void test_adapter_threads(void **state) {
    float *one = mem_alloc(1 << 20, "test"), *many = mem_alloc(1 << 20, "test");
    int64_t count;
    adapter_bits(1, one, &count);
    for (int threads = 2; threads <= 5; threads++) {
        memset(many, 0, 1 << 20);
        adapter_bits(threads, many, &count);
        assert_memory_equal(one, many, (size_t)count * 4);
    }
    mem_free(one);
    mem_free(many);
}

/* ---- 8-bit AdamW in pieces ---- */

static void test_adamw8_pieces(void **state) {
    enum { ROWS = 300, COLS = 257, N = ROWS * COLS, BLOCKS = (N + 255) / 256 };
    backend *b;
    assert_int_equal(backend_cpu_open(&b, 2), STATUS_OK);
    adamw_scalars scalars = adamw_scalars_make(1e-3, 0.9, 0.999, 1e-8, 0.01, 1);
    float *g = matrix(DTYPE_F32, 1, N, N, 6), *p = matrix(DTYPE_F32, 1, N, N, 7);
    float *q = matrix(DTYPE_F32, 1, N, N, 7);
    uint8_t *codes = mem_alloc(4 * N, "test");
    float *absmax = mem_alloc(4 * BLOCKS * 4, "test");
    uint16_t *working = mem_alloc(2 * N, "test");
    op_attr attr = {.adamw = {.bits = 8, .decay = true}};
    op_call c = {.op = OP_ADAMW, .attr = &attr, .compute = DTYPE_BF16, .adam = &scalars};
    tensor_format f = format_of(DTYPE_F32, ROWS, COLS), u = format_of(DTYPE_U8, ROWS, COLS);
    tensor_format h = format_of(DTYPE_BF16, ROWS, COLS), s = format_of(DTYPE_F32, 1, BLOCKS);
    c.in[ADAMW_G] = tensor_at(&f, g), c.in[ADAMW_MASTER] = tensor_at(&f, p);
    c.in[ADAMW_M] = tensor_at(&u, codes), c.in[ADAMW_V] = tensor_at(&u, codes + N);
    c.in[ADAMW_ABSMAX1] = tensor_at(&s, absmax),
    c.in[ADAMW_ABSMAX2] = tensor_at(&s, absmax + BLOCKS);
    c.in[ADAMW_WORKING] = tensor_at(&h, working);
    for (int t = 0; t < 3; t++) {
        assert_int_equal(b->table->forward[OP_ADAMW](b, &c), STATUS_OK);
        adamw8_update(q, codes + 2 * N, absmax + 2 * BLOCKS, codes + 3 * N,
                      absmax + 3 * BLOCKS, g, N, &scalars);
    }
    assert_memory_equal(p, q, N * 4);
    assert_memory_equal(codes, codes + 2 * N, 2 * N);
    assert_memory_equal(absmax, absmax + 2 * BLOCKS, 2 * BLOCKS * 4);
    for (int i = 0; i < N; i++) assert_int_equal(working[i], f32_to_bf16(q[i]));
    mem_free(g), mem_free(p), mem_free(q), mem_free(codes), mem_free(absmax),
        mem_free(working);
    b->table->close(b);
}

static int no_leaks(void **state) {
    return mem_blocks() != 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),      cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_empty),         cmocka_unit_test(test_primitives),
        cmocka_unit_test(test_many_shapes),   cmocka_unit_test(test_small_scratch),
        cmocka_unit_test(test_dropout),       cmocka_unit_test(test_adapter_threads),
        cmocka_unit_test(test_adamw8_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, no_leaks);
}
