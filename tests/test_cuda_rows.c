/* test_cuda_rows.c: what the CUDA back end shares with the CPU bit for bit: decoded and
 * quantized 4-bit weights, fake quantization, AdamW, an embedding's gradient, dropout's mask.
 *
 * Linked with the emulated back end (every case then runs in three thread orders), or with the
 * real one. Every operand is an allocation of its own, of exactly its bytes. */
#include "device_bytes.h"

#include "autograd/cpu/dropout.h"
#include "autograd/cuda/quantize.h"
#include "autograd/cuda/sizes.h"
#include "autograd/cuda/weights.h"
#include "common/checked.h"
#include "common/half.h"
#include "dropout_mask.h"
#include "quant/adamw.h"
#include "quant/double.h"
#include "quant/dynamic.h"
#include "quant/fake.h"

#ifdef OP_TEST_EMULATED
#include "emulator/emulator.h"
#endif

#include <math.h>
#include <string.h>

static backend *cuda, *cpu;

static const dtype compute_types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
static const dtype quant_types[] = {DTYPE_NF4, DTYPE_FP4};

static quant_type quant_of(dtype type) {
    return type == DTYPE_FP4 ? QUANT_FP4 : QUANT_NF4;
}

/* n normal numbers of `type`; every third block of 64 has something special. */
static void *weights_of(dtype type, int64_t n, uint32_t seed) {
    void *x = mem_alloc((size_t)(n * dtype_bytes(type)) + 1, "test");
    float *wide = mem_alloc((size_t)n * 4 + 1, "test");
    op_test_normal(wide, DTYPE_F32, n, 1, seed);
    for (int64_t i = 0; i < n; i++) {
        int64_t b = i / 64;
        if (b % 12 == 3) wide[i] = 0;                              /* no scale */
        if (b % 12 == 6) wide[i] = (float)(i % 7 - 3) * 0x1p-147f; /* 1/absmax is infinite */
        if (b % 12 == 9) wide[i] = (nf4_codebook()[i % 15] + nf4_codebook()[i % 15 + 1]) / 2;
        if (b % 12 == 9 && i % 64 == 0) wide[i] = -1; /* ties */
    }
    convert_array(wide, QUANT_SRC_F32, x, (int)type, n);
    mem_free(wide);
    return x;
}

/* A 4-bit tensor on the host, quantized by the CPU from `x`. Returns its bytes. */
static char *quantized(const tensor_format *f, const void *x, dtype from, int64_t *bytes) {
    int64_t n = f->rows * f->cols, blocks = quant_block_count(n, f->block);
    assert_int_equal(format_bytes(f, bytes), STATUS_OK);
    char *data = mem_alloc((size_t)*bytes, "test"); /* zeros */
    tensor t = tensor_at(f, data);
    float *absmax = mem_alloc((size_t)blocks * 4, "test");
    memcpy(t.scales.code, quant_codebook(quant_of(f->type)), 64);
    assert_int_equal(
        quant_quantize(quant_of(f->type), x, (int)from, n, f->block, t.data, absmax),
        STATUS_OK);
    if (f->nested) {
        memcpy(t.scales.map, dynamic_map_signed(), 1024);
        assert_int_equal(quant_nest(absmax, blocks, t.scales.absmax, t.scales.absmax2,
                                    t.scales.offset, t.scales.map),
                         STATUS_OK);
    } else {
        memcpy(t.scales.absmax, absmax, (size_t)blocks * 4);
    }
    mem_free(absmax);
    return data;
}

/* ---- decoding ---- */

static void decode_on_cpu(const quant_view *view, int64_t first, int64_t n, dtype type,
                          void *to) {
    if (type == DTYPE_F32)
        quant_dequantize_f32(view, first, n, to);
    else if (type == DTYPE_BF16)
        quant_dequantize_bf16(view, first, n, to);
    else
        quant_dequantize_f16(view, first, n, to);
}

typedef struct window {
    int64_t first, rows, gap; /* gap: elements between rows */
} window;

/* One range of rows; what lies between rows stays as it was. */
static void check_window(const tensor *host, const tensor *device, dtype type, window w) {
    int64_t stride = host->cols + w.gap, size = dtype_bytes(type);
    int64_t bytes = ((w.rows - 1) * stride + host->cols) * size;
    char *want = mem_alloc((size_t)bytes, "test");
    memset(want, 0xA5, (size_t)bytes);
    quant_view view = tensor_quant_view(host);
    for (int64_t r = 0; r < w.rows; r++)
        decode_on_cpu(&view, (w.first + r) * host->cols, host->cols, type,
                      want + r * stride * size);
    device_bytes to = device_filled(cuda, 0xA5, bytes);
    assert_int_equal(cuda_weights_decode(cuda, device, w.first, w.rows, type, to.at, stride),
                     STATUS_OK);
    device_check(cuda, &to, want, "decoded");
    device_free(cuda, &to);
    mem_free(want);
}

static void check_decoding(const tensor_format *f) {
    int64_t n = f->rows * f->cols, bytes;
    void *x = weights_of(DTYPE_F32, n, 7);
    char *data = quantized(f, x, DTYPE_F32, &bytes);
    device_bytes on = device_from(cuda, data, bytes);
    tensor host = tensor_at(f, data), device = tensor_at(f, on.at);
    int64_t last = f->rows - 1;
    const window windows[] = {{0, f->rows, 0},
                              {0, f->rows, 16},
                              {last, 1, 0},
                              {f->rows / 2, f->rows - f->rows / 2, 3}};
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; i < sizeof windows / sizeof *windows; i++)
            check_window(&host, &device, compute_types[t], windows[i]);
    device_free(cuda, &on);
    mem_free(data);
    mem_free(x);
}

/* Rows of whole pieces and not, blocks that run across rows, several blocks of threads, more
 * rows than elements in one; scales per 64 (always, when we quantize) and as files may have
 * it. */
static void test_decoding(void **state) {
    static const int64_t shapes[][2] = {{1, 64},   {5, 172},  {33, 8},   {7, 90},
                                        {3, 4104}, {2, 9216}, {40, 320}, {3, 1}};
    static const int32_t blocks[] = {64, 4096, 4, 66};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int q = 0; q < 4; q++) {
            tensor_format f =
                format_4bit(quant_types[q % 2], shapes[s][0], shapes[s][1], q / 2);
            check_decoding(&f);
        }
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        tensor_format f = format_4bit(DTYPE_NF4, 9, 232, i % 2);
        f.block = blocks[i];
        check_decoding(&f);
    }
    tensor none = {.cols = 64};
    assert_int_equal(cuda_weights_decode(cuda, &none, 0, 0, DTYPE_BF16, NULL, 64), STATUS_OK);
}

/* ---- quantizing ---- */

static void check_quantizing(const tensor_format *f, dtype from) {
    int64_t n = f->rows * f->cols, bytes;
    void *x = weights_of(from, n, 11);
    char *want = quantized(f, x, from, &bytes);
    device_bytes in = device_from(cuda, x, n * dtype_bytes(from));
    device_bytes out = device_filled(cuda, 0, bytes);
    device_bytes scratch = device_filled(cuda, 0xFF, cuda_quantize_scratch(n, f->nested));
    tensor w = tensor_at(f, out.at);
    assert_int_equal(cuda_quantize(cuda, in.at, from, &w, scratch.at), STATUS_OK);
    device_check(cuda, &out, want, "quantized");
    device_free(cuda, &in);
    device_free(cuda, &out);
    device_free(cuda, &scratch);
    mem_free(want);
    mem_free(x);
}

static void test_quantizing(void **state) {
    static const int64_t shapes[][2] = {{1, 64}, {3, 171}, {7, 90}, {300, 120}, {1, 1}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int q = 0; q < 4; q++)
            for (int t = 0; t < 3; t++) {
                tensor_format f =
                    format_4bit(quant_types[q % 2], shapes[s][0], shapes[s][1], q / 2);
                check_quantizing(&f, compute_types[t]);
            }
}

/* ---- fake quantization ---- */

static op_call fake_call(const op_attr *attr, dtype type, int64_t n, void *x, void *y,
                         void *scratch, int64_t scratch_bytes) {
    tensor_format f = format_of(type, 1, n);
    return (op_call){.op = OP_FAKE_QUANT,
                     .attr = attr,
                     .compute = type,
                     .in = {tensor_at(&f, x)},
                     .out = {tensor_at(&f, y)},
                     .scratch = scratch,
                     .scratch_bytes = scratch_bytes};
}

/* Both back ends on the same weights; NaN only has to be one. */
static void check_faking(op_attr attr, dtype type, int64_t n, bool broken) {
    int64_t bytes = n * dtype_bytes(type);
    void *x = weights_of(type, n, 13);
    if (broken) memset(x, 0xFF, 2 * (size_t)dtype_bytes(type)); /* NaN */
    op_shape shape = {
        .op = OP_FAKE_QUANT, .attr = &attr, .compute = type, .in = {format_of(type, 1, n)}};
    int64_t space = cpu->table->scratch(cpu, &shape);
    void *want = mem_alloc((size_t)bytes, "test"),
         *host = mem_alloc((size_t)space + 1, "test");
    op_call call = fake_call(&attr, type, n, x, want, host, space);
    assert_int_equal(cpu->table->forward[OP_FAKE_QUANT](cpu, &call), STATUS_OK);
    space = cuda->table->scratch(cuda, &shape);
    device_bytes in = device_from(cuda, x, bytes), out = device_filled(cuda, 0xA5, bytes);
    device_bytes scratch = device_filled(cuda, 0xFF, space);
    call = fake_call(&attr, type, n, in.at, out.at, scratch.at, space);
    assert_int_equal(cuda->table->forward[OP_FAKE_QUANT](cuda, &call), STATUS_OK);
    char *got = device_fetch(cuda, &out);
    for (int64_t i = 0; i < n; i++) {
        double a = op_test_read(got, type, i), b = op_test_read(want, type, i);
        if (broken && i < 64)
            assert_true(isnan(a) && isnan(b));
        else
            assert_true(a == b && !signbit(a) == !signbit(b));
    }
    mem_free(got);
    device_free(cuda, &in);
    device_free(cuda, &out);
    device_free(cuda, &scratch);
    mem_free(host);
    mem_free(want);
    mem_free(x);
}

static void test_faking(void **state) {
    for (int q = 0; q < 4; q++)
        for (int t = 0; t < 3; t++)
            for (int broken = 0; broken < 2; broken++) {
                op_attr attr = {.fake_quant = {quant_types[q % 2], q / 2}};
                check_faking(attr, compute_types[t], 777, broken);
                check_faking(attr, compute_types[t], 20000, broken);
            }
}

/* ---- AdamW ---- */

typedef struct optimizer_case {
    int bits;
    dtype working; /* DTYPE_COUNT: none */
    double beta1;
    bool decay;
    int64_t n;
    bool ties; /* with beta1 0: first moments that are hard to code */
} optimizer_case;

enum { STATES = 7 }; /* OP_ADAMW's operands */

static int64_t state_bytes(const optimizer_case *c, int i) {
    int64_t scales = c->bits == 8 ? ceil((double)c->n / ADAMW8_BLOCK) * 4 : 0;
    bool state = i == ADAMW_M || i == ADAMW_V;
    if (i == ADAMW_ABSMAX1 || i == ADAMW_ABSMAX2) return scales;
    if (i == ADAMW_WORKING)
        return c->working == DTYPE_COUNT ? 0 : c->n * dtype_bytes(c->working);
    return c->n * (state && c->bits == 8 ? 1 : 4);
}

static void step_on_cpu(const optimizer_case *c, void *const at[STATES],
                        const adamw_scalars *given) {
    adamw_scalars s = *given;
    if (!c->decay) s.decay = 1;
    if (c->bits == 8)
        adamw8_update(at[ADAMW_MASTER], at[ADAMW_M], at[ADAMW_ABSMAX1], at[ADAMW_V],
                      at[ADAMW_ABSMAX2], at[ADAMW_G], c->n, &s);
    else
        adamw32_update(at[ADAMW_MASTER], at[ADAMW_M], at[ADAMW_V], at[ADAMW_G], c->n, &s);
    if (c->working != DTYPE_COUNT)
        convert_array(at[ADAMW_MASTER], QUANT_SRC_F32, at[ADAMW_WORKING], (int)c->working,
                      c->n);
}

static void step_on_card(const optimizer_case *c, const device_bytes at[STATES],
                         const adamw_scalars *s) {
    op_attr attr = {.adamw = {c->bits, c->decay}};
    op_call call = {.op = OP_ADAMW, .attr = &attr, .adam = s};
    for (int i = 0; i < STATES; i++) {
        bool codes = c->bits == 8 && (i == ADAMW_M || i == ADAMW_V);
        tensor_format f = format_of(i == ADAMW_WORKING ? c->working
                                    : codes            ? DTYPE_U8
                                                       : DTYPE_F32,
                                    1, c->n);
        if (state_bytes(c, i)) call.in[i] = tensor_at(&f, at[i].at);
    }
    assert_int_equal(cuda->table->forward[OP_ADAMW](cuda, &call), STATUS_OK);
}

/* Where a first moment is the gradient: every midpoint between two codes, then numbers too
 * small for a code but of a sign, in blocks whose largest is 1. */
static void hard_gradient(float *g, int64_t n) {
    const float *map = dynamic_map_signed();
    for (int64_t i = 0; i < n; i++) {
        float middle = (map[i % 255] + map[i % 255 + 1]) * 0.5f;
        g[i] = i % 256 == 255 ? 1 : i / 256 % 2 ? (i % 2 ? 1e-9f : -1e-9f) : middle;
    }
}

static void make_gradient(const optimizer_case *c, int step, float *g) {
    if (c->ties) {
        hard_gradient(g, c->n);
        return;
    }
    op_test_normal(g, DTYPE_F32, c->n, 1e-3f, (uint32_t)step);
    for (int64_t i = 0; i < c->n; i += 5) g[i] = 0;
}

static void check_optimizer(optimizer_case c) {
    void *host[STATES];
    device_bytes device[STATES];
    for (int i = 0; i < STATES; i++) { /* all states begin as zeros */
        host[i] = mem_alloc((size_t)state_bytes(&c, i) + 1, "test");
        if (i == ADAMW_MASTER) op_test_normal(host[i], DTYPE_F32, c.n, 1, 3);
        device[i] = device_from(cuda, host[i], state_bytes(&c, i));
    }
    for (int step = 1; step <= 4; step++) {
        adamw_scalars s = adamw_scalars_make(1e-2, c.beta1, 0.99, 1e-8, 0.1, step);
        s.grad_scale = c.ties ? 1 : 0.7f;
        make_gradient(&c, step, host[ADAMW_G]);
        device_free(cuda, &device[ADAMW_G]);
        device[ADAMW_G] = device_from(cuda, host[ADAMW_G], c.n * 4);
        step_on_cpu(&c, host, &s);
        step_on_card(&c, device, &s);
    }
    for (int i = 0; i < STATES; i++) {
        device_check(cuda, &device[i], host[i], "optimizer");
        device_free(cuda, &device[i]);
        mem_free(host[i]);
    }
}

static void test_optimizer(void **state) {
    static const int64_t sizes[] = {1, 255, 256, 4099, 40000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int bits = 8; bits <= 32; bits += 24) {
            check_optimizer((optimizer_case){bits, DTYPE_BF16, 0.9, true, sizes[i], false});
            check_optimizer((optimizer_case){bits, DTYPE_F16, 0.3, false, sizes[i], false});
            check_optimizer((optimizer_case){bits, DTYPE_F32, 0.5, true, sizes[i], false});
            check_optimizer((optimizer_case){bits, DTYPE_COUNT, 0.9, true, sizes[i], false});
            check_optimizer((optimizer_case){bits, DTYPE_F32, 0, true, sizes[i], true});
        }
}

/* ---- an embedding's gradient ---- */

typedef struct embedding_case {
    dtype type;
    int64_t rows, vocabulary, cols;
    float scale;
} embedding_case;

static op_call embedding_call(const embedding_case *c, const op_attr *attr, void *ids,
                              void *dy, void *dw, void *scratch) {
    tensor_format f[3] = {format_of(DTYPE_I32, c->rows, 1),
                          format_of(c->type, c->rows, c->cols),
                          format_of(DTYPE_F32, c->vocabulary, c->cols)};
    return (op_call){.op = OP_EMBEDDING,
                     .attr = attr,
                     .compute = c->type,
                     .rows = c->rows,
                     .in = {tensor_at(&f[0], ids)},
                     .gout = {tensor_at(&f[1], dy)},
                     .gin = {[EMBEDDING_W] = tensor_at(&f[2], dw)},
                     .scratch = scratch};
}

/* Many rows of one token, several of others, some outside the table. */
static void check_embedding(embedding_case c) {
    op_attr attr = {.embedding = {c.scale}};
    int64_t table = c.vocabulary * c.cols, bytes = c.rows * c.cols * dtype_bytes(c.type);
    int32_t *ids = mem_alloc((size_t)c.rows * 4, "test");
    float *dw = mem_alloc((size_t)table * 4, "test");
    void *dy = mem_alloc((size_t)bytes, "test");
    for (int64_t i = 0; i < c.rows; i++)
        ids[i] = i % 3 == 0 ? 2 : (int32_t)(i * 7 % (c.vocabulary + 2)) - 1;
    op_test_normal(dw, DTYPE_F32, table, 1, 5);
    op_test_normal(dy, c.type, c.rows * c.cols, 1, 6);
    op_shape shape = {.op = OP_EMBEDDING,
                      .attr = &attr,
                      .rows = c.rows,
                      .backward = true,
                      .gradients = 1u << EMBEDDING_W};
    device_bytes on[] = {device_from(cuda, ids, c.rows * 4), device_from(cuda, dy, bytes),
                         device_from(cuda, dw, table * 4),
                         device_filled(cuda, 0xFF, cuda->table->scratch(cuda, &shape))};
    op_call call = embedding_call(&c, &attr, ids, dy, dw, NULL);
    assert_int_equal(cpu->table->backward[OP_EMBEDDING](cpu, &call), STATUS_OK);
    call = embedding_call(&c, &attr, on[0].at, on[1].at, on[2].at, on[3].at);
    assert_int_equal(cuda->table->backward[OP_EMBEDDING](cuda, &call), STATUS_OK);
    device_check(cuda, &on[2], dw, "embedding's gradient");
    for (int i = 0; i < 4; i++) device_free(cuda, &on[i]);
    mem_free(ids);
    mem_free(dw);
    mem_free(dy);
}

static void test_embedding(void **state) {
    check_embedding((embedding_case){DTYPE_BF16, 70, 19, 64, 0});
    check_embedding((embedding_case){DTYPE_F16, 41, 300, 172, 1.7f});
    check_embedding((embedding_case){DTYPE_F32, 150, 5, 30, 0});
    check_embedding((embedding_case){DTYPE_F32, 1, 5, 4, 3});
}

/* ---- dropout ---- */

static void check_mask(int64_t row, int64_t col, int64_t width, int64_t n, float p) {
    op_attr attr = {.linear = {.parts = 2, .in = width, .dropout = p, .module = {3, 130}}};
    op_call call = {.op = OP_LINEAR,
                    .attr = &attr,
                    .layer = 41,
                    .seed = 0x123456789abcdef,
                    .micro = 1ull << 33};
    dropout d = dropout_of(&call, 1);
    float *x = mem_alloc((size_t)n * 4, "test");
    op_test_normal(x, DTYPE_F32, n, 1, 9);
    device_bytes on = device_from(cuda, x, n * 4);
    assert_int_equal(dropout_mask_run(cuda, &d, row, col, n, on.at), STATUS_OK);
    dropout_apply(&d, row, col, n, x);
    device_check(cuda, &on, x, "dropout");
    device_free(cuda, &on);
    mem_free(x);
}

static void test_dropout(void **state) {
    check_mask(0, 0, 64, 64, 0.1f);
    check_mask(5, 3, 77, 32, 0.5f);             /* not at a quad's start */
    check_mask(1 << 20, 8, 28672, 4096, 0.05f); /* beyond 2^32 elements */
    check_mask(2, 0, 256, 256, 0);              /* off */
}

/* ---- */

typedef void test_body(void **state);

/* The test's body in each of the emulator's thread orders. */
static void in_all_orders(void **state) {
    test_body *const *body = *state;
#ifdef OP_TEST_EMULATED
    static const char *const orders[] = {"greedy", "reversed", "round"};
#ifdef OP_TEST_ONCE
    enum { ORDERS = 1 };
#else
    enum { ORDERS = 3 };
#endif
    for (int i = 0; i < ORDERS; i++) {
        emulator_set("EMULATOR_ORDER", orders[i]);
        (*body)(state);
        assert_string_equal(emulator_report(), "");
    }
#else
    (*body)(state);
#endif
}

static int open_both(void **state) {
    return backend_cuda_open(&cuda) != STATUS_OK || backend_cpu_open(&cpu, 1) != STATUS_OK;
}
static int close_both(void **state) {
    cuda->table->close(cuda);
    cpu->table->close(cpu);
    return 0;
}

int main(void) {
    static test_body *const bodies[] = {test_decoding,  test_quantizing, test_faking,
                                        test_optimizer, test_embedding,  test_dropout};
    const struct CMUnitTest tests[] = {
        {"decoding", in_all_orders, NULL, NULL, (void *)&bodies[0]},
        {"quantizing", in_all_orders, NULL, NULL, (void *)&bodies[1]},
        {"fake quantization", in_all_orders, NULL, NULL, (void *)&bodies[2]},
        {"AdamW", in_all_orders, NULL, NULL, (void *)&bodies[3]},
        {"embedding's gradient", in_all_orders, NULL, NULL, (void *)&bodies[4]},
        {"dropout", in_all_orders, NULL, NULL, (void *)&bodies[5]},
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
