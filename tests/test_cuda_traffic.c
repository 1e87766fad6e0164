/* test_cuda_traffic.c: how the CUDA back end's memory-bound kernels put their accesses
 * together, counted by the emulator's detector: at the widths of real models every global
 * access moves whole sectors of 32 bytes, and shared memory answers a warp in about as few
 * turns as it can.
 *
 * Each kernel runs as a case of op_test where its operation has a reference, so these widths
 * are checked for their numbers too (several blocks of threads to a row, rows longer than a
 * block keeps). Limits are what was found plus a little: more is a kernel that was spoilt. */
#include "device_bytes.h"

#include "autograd/cuda/quantize.h"
#include "autograd/cuda/sizes.h"
#include "autograd/cuda/weights.h"
#include "common/checked.h"
#include "emulator/emulator.h"
#include "quant/adamw.h"

#include <string.h>

extern const op_suite suite_rmsnorm, suite_rope, suite_glu, suite_add, suite_embedding,
    suite_adamw, suite_square_sum, suite_fake_quant, suite_attention;

enum { BF16 = 1 << DTYPE_BF16 };

/* ---- the operations at real widths ---- */

static void run_norm(int64_t rows, int64_t cols) {
    tensor_format batch = format_of(TYPE_C, rows, cols);
    op_case c = {
        .name = "a real width",
        .types = BF16,
        .attr.rmsnorm.eps = 1e-5f,
        .rows = rows,
        .in = {[RMSNORM_X] = batch,
               [RMSNORM_RESIDUAL] = batch,
               [RMSNORM_W] = format_of(TYPE_C, 1, cols)},
        .out = {[RMSNORM_Y] = batch,
                [RMSNORM_SUM] = batch,
                [RMSNORM_RSTD] = format_of(DTYPE_F32, rows, 1)},
        .gradients = 1u << RMSNORM_X | 1u << RMSNORM_RESIDUAL | 1u << RMSNORM_W,
        .parameters = 1u << RMSNORM_W,
        .gouts = 1u << RMSNORM_Y | 1u << RMSNORM_SUM,
    };
    op_test(&suite_rmsnorm, &c);
}

static void run_rope(bool norms) {
    int64_t rows = 8, heads = 8, kv_heads = 2, dim = 128;
    int32_t positions[8];
    float inv_freq[64];
    for (int i = 0; i < 8; i++) positions[i] = 1000 * i;
    for (int i = 0; i < 64; i++) inv_freq[i] = 1.0f / (float)(1 + i * i);
    tensor_format batch = format_of(TYPE_C, rows, (heads + 2 * kv_heads) * dim);
    op_case c = {
        .name = "heads of 128",
        .types = BF16,
        .attr.rope = {(int32_t)heads, (int32_t)kv_heads, (int32_t)dim, 1e-6f, 1},
        .rows = rows,
        .in = {[ROPE_X] = batch,
               [ROPE_POSITIONS] = format_of(DTYPE_I32, rows, 1),
               [ROPE_INV_FREQ] = format_of(DTYPE_F32, 1, dim / 2)},
        .out = {[ROPE_Y] = batch},
        .ints = {[ROPE_POSITIONS] = positions},
        .values = {[ROPE_INV_FREQ] = inv_freq},
        .gradients = 1u << ROPE_X,
        .gouts = 1u << ROPE_Y,
    };
    if (norms) {
        c.in[ROPE_Q_NORM] = c.in[ROPE_K_NORM] = format_of(TYPE_C, 1, dim);
        c.out[ROPE_RSTD] = format_of(DTYPE_F32, rows, heads + kv_heads);
        c.parameters = 1u << ROPE_Q_NORM | 1u << ROPE_K_NORM;
        c.gradients |= c.parameters;
        c.no_op_in_place = 3;
    }
    op_test(&suite_rope, &c);
}

static void run_elementwise(void) {
    op_case glu = {.name = "a real width",
                   .types = BF16,
                   .attr.glu.act = ACT_SILU,
                   .rows = 3,
                   .in = {format_of(TYPE_C, 3, 2 * 5632)},
                   .out = {format_of(TYPE_C, 3, 5632)},
                   .gradients = 1,
                   .gouts = 1,
                   .k_backward = 32};
    op_case add = {.name = "a real width",
                   .types = BF16,
                   .rows = 3,
                   .in = {format_of(TYPE_C, 3, 4096), format_of(TYPE_C, 3, 4096)},
                   .out = {format_of(TYPE_C, 3, 4096)},
                   .gradients = 3,
                   .gouts = 1};
    op_test(&suite_glu, &glu);
    op_test(&suite_add, &add);
}

static void run_embedding(void) {
    static const int32_t ids[] = {3, 1, 3, 0, 3, 6, 1, 5};
    op_case c = {.name = "a real width",
                 .types = BF16,
                 .rows = 8,
                 .in = {[EMBEDDING_IDS] = format_of(DTYPE_I32, 8, 1),
                        [EMBEDDING_W] = format_of(TYPE_C, 7, 2048)},
                 .out = {format_of(TYPE_C, 8, 2048)},
                 .ints = {[EMBEDDING_IDS] = ids},
                 .gradients = 1u << EMBEDDING_W,
                 .parameters = 1u << EMBEDDING_W,
                 .gouts = 1};
    op_test(&suite_embedding, &c);
}

static void run_weights(void) {
    adamw_scalars scalars = adamw_scalars_make(1e-2, 0.9, 0.999, 1e-8, 0.1, 3);
    tensor_format f32 = format_of(DTYPE_F32, 40, 256), c = format_of(TYPE_C, 40, 256);
    float v[40 * 256];
    op_test_normal(v, DTYPE_F32, 40 * 256, 1, 5);
    for (int i = 0; i < 40 * 256; i++) v[i] *= v[i];
    op_case adamw = {.name = "whole pieces",
                     .types = BF16,
                     .attr.adamw = {.bits = 32, .decay = true},
                     .adam = &scalars,
                     .in = {[ADAMW_G] = f32,
                            [ADAMW_MASTER] = f32,
                            [ADAMW_M] = f32,
                            [ADAMW_V] = f32,
                            [ADAMW_WORKING] = c},
                     .values = {[ADAMW_V] = v}};
    op_case fake = {.name = "whole pieces",
                    .types = 1u << DTYPE_F32,
                    .attr.fake_quant = {DTYPE_NF4, true},
                    .in = {f32},
                    .out = {f32},
                    .gradients = 1,
                    .parameters = 1,
                    .gouts = 1};
    op_case squares = {
        .name = "whole pieces", .in = {f32, format_of(DTYPE_F64, 1, 1)}, .k_forward = 1e-6};
    op_test(&suite_adamw, &adamw);
    op_test(&suite_fake_quant, &fake);
    op_test(&suite_square_sum, &squares);
}

/* ---- what has no reference: test_cuda_rows.c checks its numbers ---- */

static void run_4bit(void) {
    backend *b = op_test_backend(2);
    tensor_format f = format_4bit(DTYPE_NF4, 24, 1024, true);
    int64_t bytes, n = f.rows * f.cols;
    uint16_t *x = bench_alloc(2 * n);
    op_test_normal(x, DTYPE_BF16, n, 1, 3);
    assert_int_equal(format_bytes(&f, &bytes), STATUS_OK);
    device_bytes on[] = {device_from(b, x, 2 * n), device_filled(b, 0, bytes),
                         device_filled(b, 0, cuda_quantize_scratch(n, true)),
                         device_filled(b, 0, f.rows * 1088 * 2)};
    tensor w = tensor_at(&f, on[1].at);
    assert_int_equal(cuda_quantize(b, on[0].at, DTYPE_BF16, &w, on[2].at), STATUS_OK);
    assert_int_equal(cuda_weights_decode(b, &w, 0, f.rows, DTYPE_BF16, on[3].at, 1088),
                     STATUS_OK);
    assert_int_equal(b->table->sync(b), STATUS_OK);
    for (int i = 0; i < 4; i++) device_free(b, &on[i]);
    mem_free(x);
}

static void run_adamw8(void) {
    enum { N = 1 << 14 };
    backend *b = op_test_backend(2);
    adamw_scalars s = adamw_scalars_make(1e-2, 0.9, 0.99, 1e-8, 0.1, 1);
    op_attr attr = {.adamw = {8, true}};
    op_call call = {.op = OP_ADAMW, .attr = &attr, .adam = &s};
    float *g = bench_alloc(4 * N);
    op_test_normal(g, DTYPE_F32, N, 1, 4);
    device_bytes on[] = {[ADAMW_G] = device_from(b, g, 4 * N),
                         [ADAMW_MASTER] = device_filled(b, 0, 4 * N),
                         [ADAMW_M] = device_filled(b, 0, N),
                         [ADAMW_V] = device_filled(b, 0, N),
                         [ADAMW_ABSMAX1] = device_filled(b, 0, N / 64),
                         [ADAMW_ABSMAX2] = device_filled(b, 0, N / 64),
                         [ADAMW_WORKING] = device_filled(b, 0, 2 * N)};
    for (int i = 0; i < 7; i++) {
        tensor_format f = format_of(i == ADAMW_WORKING ? DTYPE_BF16 : DTYPE_F32, 1, N);
        call.in[i] = tensor_at(&f, on[i].at);
    }
    assert_int_equal(b->table->forward[OP_ADAMW](b, &call), STATUS_OK);
    assert_int_equal(b->table->sync(b), STATUS_OK);
    for (int i = 0; i < 7; i++) device_free(b, &on[i]);
    mem_free(g);
}

/* A head of each width that tensor cores work in, over several tiles; then one new row each of
 * three sequences, whose keys are cached. */
static void run_attention(void) {
    static const int32_t starts[] = {0, 150, 163}, past[] = {150, 96, 3},
                         rows[] = {0, 1, 2, 3};
    static const int dims[] = {32, 64, 80, 96, 128, 256};
    op_case c = {
        .name = "tiles",
        .types = BF16,
        .rows = 163,
        .documents = 2,
        .in = {[ATTENTION_STARTS] = format_of(DTYPE_I32, 3, 1)},
        .out = {[ATTENTION_LSE] = format_of(DTYPE_F32, 163, 2)},
        .ints = {[ATTENTION_STARTS] = starts},
        .gradients = 1u << ATTENTION_QKV,
        .gouts = 1u << ATTENTION_Y,
        .k_forward = 64,
        .card_k_forward = 4,
        .card_k_backward = 12,
    };
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        int dim = dims[i];
        c.attr.attention.heads = 2, c.attr.attention.kv_heads = 1;
        c.attr.attention.head_dim = dim, c.attr.attention.scale = 0.1f;
        c.in[ATTENTION_QKV] = format_of(TYPE_C, 163, 4 * dim);
        c.out[ATTENTION_Y] = format_of(TYPE_C, 163, 2 * dim);
        op_test(&suite_attention, &c);
    }
    c.name = "new rows";
    c.rows = c.documents = 3;
    c.gradients = c.gouts = 0;
    c.attr.attention.cache_rows = 160;
    c.attr.attention.head_dim = 128;
    c.in[ATTENTION_QKV] = format_of(TYPE_C, 3, 4 * 128);
    c.in[ATTENTION_STARTS] = format_of(DTYPE_I32, 4, 1);
    c.in[ATTENTION_CACHE] = format_of(TYPE_C, 3 * 160, 2 * 128);
    c.in[ATTENTION_PAST] = format_of(DTYPE_I32, 3, 1);
    c.out[ATTENTION_Y] = format_of(TYPE_C, 3, 2 * 128);
    c.out[ATTENTION_LSE] = format_of(DTYPE_F32, 3, 2);
    c.ints[ATTENTION_STARTS] = rows;
    c.ints[ATTENTION_PAST] = past;
    op_test(&suite_attention, &c);
}

/* ---- the limits ---- */

typedef struct limit {
    const char *kernel;
    double reads, writes, shared; /* found / least */
} limit;

static void test_traffic(void **state) {
    static const limit limits[] = {
        {"norm_forward", 1.01, 1.01, 1.05},
        {"norm_backward", 1.01, 1.01, 1.05},
        {"norm_weight", 1.01, 1.01, 1.05},
        {"rope_plain", 1.01, 1.01, 1.2},
        {"rope_norm_forward", 1.05, 1.05, 1.3},
        {"rope_norm_backward", 1.05, 1.05, 1.3},
        {"glu_forward", 1.01, 1.01, 1},
        {"glu_backward", 1.01, 1.01, 1},
        {"add_forward", 1.01, 1.01, 1},
        {"add_backward", 1.01, 1.01, 1},
        {"gather", 1.01, 1.01, 1},
        {"scatter", 1.25, 2.01, 1} /* f32 gradients: two pieces a thread, side by side */,
        {"fake_gradient", 1.01, 1.01, 1},
        {"fake_blocks", 1.01, 1.01, 1.05},
        {"quantize_blocks", 1.01, 1.01, 1.05},
        {"decode_pieces", 1.01, 1.01, 1.05},
        {"mean_parts", 1.01, 1.01, 1.01},
        {"nest", 1.01, 1.01, 1.5},
        {"adamw32", 1.01, 1.01, 1},
        {"adamw8", 1.01, 1.01, 1.6},
        {"square_parts", 1.01, 1.01, 1.01},
        {"fold_parts", 1.01, 1.01, 1},
        {"(forward<T", 1.02, 1.04, 1.01},  /* log-sum-exps are written one by one */
        {"(backward<T", 1.12, 1.01, 1.01}, /* log-sum-exps begin anywhere */
        {"row_stats", 1.01, 1.01, 1.01},
        {"(decode<T", 1.02, 1.02, 1.05},
        {"append", 1.01, 1.01, 1},
    };
    emulator_set("EMULATOR_TRAFFIC", "1");
    run_norm(4, 4096);
    run_norm(2, 18432); /* longer than a block's threads keep */
    run_rope(false);
    run_rope(true);
    run_elementwise();
    run_embedding();
    run_weights();
    run_4bit();
    run_adamw8();
    run_attention();
    assert_string_equal(emulator_report(), "");
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const limit *l = &limits[i];
        emulator_traffic t;
        if (emulator_traffic_of(l->kernel, &t) == 0) fail_msg("%s did not run", l->kernel);
        double reads = (double)t.read_sectors / (double)max_i64(t.least_read_sectors, 1);
        double writes = (double)t.write_sectors / (double)max_i64(t.least_write_sectors, 1);
        double shared =
            (double)t.shared_wavefronts / (double)max_i64(t.least_shared_wavefronts, 1);
        if (reads > l->reads || writes > l->writes || shared > l->shared)
            fail_msg("%s: %.2f times the least sectors read, %.2f written, %.2f times the "
                     "least turns of shared memory",
                     l->kernel, reads, writes, shared);
    }
}

static int close_back_end(void **state) {
    op_test_close();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_traffic)};
    return cmocka_run_group_tests(tests, NULL, close_back_end);
}
