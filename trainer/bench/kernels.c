/* kernels.c: single operations over their limits, through the back end's own table. Every round
 * measures the limits (matrix products, copies) and then everything else. */
#include "common/alloc.h"
#include "common/checked.h"
#include "common/philox.h"
#include "quant/adamw.h"
#include "trainer/bench/bench.h"
#include "trainer/run/profile.h"

#include <math.h>
#include <string.h>

enum { POOL = 4093 /* random numbers, repeated */, RANK = 16, KERNELS = 16, TOGETHER = 16 };

/* One operation, ready to be called again and again. */
typedef struct kernel {
    const char *name;
    op_attr attr;
    op_shape shape;
    op_call call;
    op_function run;
    char *memory; /* operands and scratch, where the back end computes */
    int64_t memory_bytes;
    double flops, bytes;
    int32_t documents, length; /* of the operands that say where documents are */
} kernel;

/* ---- operands ---- */

static void fill_floats(void *at, dtype type, int64_t n, float spread) {
    float pool[POOL];
    philox_stream random = philox_open(3, PHILOX_INIT, 0, 0, 0);
    for (int i = 0; i < POOL; i++)
        pool[i] = spread * (philox_uniform(philox_word(&random, (uint64_t)i)) * 2 - 1);
    int64_t size = dtype_bytes(type);
    for (int64_t i = 0; i < n; i += POOL)
        convert_array(pool, QUANT_SRC_F32, (char *)at + i * size, (int)type,
                      min_i64(POOL, n - i));
}

/* Random codes and scales of a plausible size. */
static void fill_4bit(tensor *t) {
    int64_t n = t->rows * t->cols, blocks = quant_block_count(n, t->block);
    philox_stream random = philox_open(4, PHILOX_INIT, 0, 0, 0);
    for (int64_t i = 0; i < quant_code_bytes(n); i++)
        ((uint8_t *)t->data)[i] = (uint8_t)(i < POOL ? philox_word(&random, (uint64_t)i)
                                                     : ((uint8_t *)t->data)[i - POOL]);
    for (int64_t i = 0; i < blocks; i++) ((uint8_t *)t->scales.absmax)[i] = (uint8_t)(i * 37);
    for (int64_t i = 0; i < quant_nest_count(blocks); i++) t->scales.absmax2[i] = 0.02f;
    for (int i = 0; i < 256; i++) t->scales.map[i] = (float)(i - 127) / 128;
    memcpy(t->scales.code, nf4_codebook(), 16 * sizeof(float));
    *t->scales.offset = 0.1f;
}

/* What integers mean depends on the operand: ends of documents, positions, targets. */
static void fill_integers(const kernel *k, tensor *t, int64_t vocab) {
    int32_t *at = t->data;
    bool starts = k->call.op == OP_ATTENTION;
    for (int64_t i = 0; i < t->rows; i++)
        at[i] = (int32_t)(starts ? i * k->length : i * 7919 % vocab);
}

static tensor *operand(kernel *k, int i) {
    op_call *c = &k->call;
    if (i < OP_INPUTS) return &c->in[i];
    i -= OP_INPUTS;
    if (i < OP_OUTPUTS) return &c->out[i];
    i -= OP_OUTPUTS;
    return i < OP_OUTPUTS ? &c->gout[i] : &c->gin[i - OP_OUTPUTS];
}
enum { OPERANDS = 2 * OP_INPUTS + 2 * OP_OUTPUTS };

/* The formats of all operands: those of the shape, and of the gradients that it names. */
static tensor_format operand_format(const kernel *k, int i) {
    const op_shape *s = &k->shape;
    tensor_format none = format_of(DTYPE_COUNT, 0, 0);
    if (i < OP_INPUTS) return s->in[i];
    i -= OP_INPUTS;
    if (i < OP_OUTPUTS) return s->out[i];
    i -= OP_OUTPUTS;
    if (i < OP_OUTPUTS) return s->gouts >> i & 1 ? s->out[i] : none;
    i -= OP_OUTPUTS;
    if (!(s->gradients >> i & 1)) return none;
    tensor_format f = s->in[i];
    if (s->op == OP_LINEAR && i != LINEAR_X) f.type = DTYPE_F32;
    return f;
}

static bool is_there(const tensor_format *f) {
    return f->type < DTYPE_COUNT && f->cols > 0;
}

/* Takes `n` bytes of the back end's memory with the host's bytes in it; what the host sees is
 * taken as it is. */
static status settle_operands(kernel *k, backend *b, char *host, int64_t n) {
    void *device;
    k->memory_bytes = n;
    k->memory = host;
    if (b->host_visible) return STATUS_OK;
    status s = b->table->reserve(b, false, n, &device);
    k->memory = s == STATUS_OK ? device : NULL;
    if (s == STATUS_OK) s = b->table->upload(b, device, host, n);
    mem_free(host);
    return s;
}

static void free_operands(kernel *k, backend *b) {
    if (b->host_visible)
        mem_free(k->memory);
    else
        b->table->release(b, false, k->memory, k->memory_bytes);
}

static status place_operands(kernel *k, backend *b, int64_t scratch, int64_t vocab) {
    int64_t at[OPERANDS + 1] = {0}, bytes, align = b->table->alignment;
    for (int i = 0; i < OPERANDS; i++) {
        tensor_format f = operand_format(k, i);
        bytes = 0;
        if (is_there(&f)) TRY(format_bytes(&f, &bytes));
        at[i + 1] = at[i] + round_up_i64(bytes, align);
    }
    char *host = mem_alloc((size_t)(at[OPERANDS] + scratch), "a benchmark's operands");
    if (!host) return STATUS_MEMORY;
    for (int i = 0; i < OPERANDS; i++) {
        tensor_format f = operand_format(k, i);
        tensor *t = operand(k, i);
        if (!is_there(&f)) continue;
        *t = tensor_at(&f, host + at[i]);
        if (dtype_is_4bit(f.type))
            fill_4bit(t);
        else if (f.type == DTYPE_I32)
            fill_integers(k, t, vocab);
        else if (f.type <= DTYPE_F16 && k->shape.op != OP_ADAMW)
            fill_floats(t->data, f.type, f.rows * f.cols,
                        f.cols > 1 ? 2 / sqrtf((float)f.cols) : 0.5f);
    }
    TRY(settle_operands(k, b, host, at[OPERANDS] + scratch));
    for (int i = 0; i < OPERANDS; i++) {
        tensor_format f = operand_format(k, i);
        if (is_there(&f)) *operand(k, i) = tensor_at(&f, k->memory + at[i]);
    }
    k->call.scratch = k->memory + at[OPERANDS];
    k->call.scratch_bytes = scratch;
    return STATUS_OK;
}

/* ---- the operations ---- */

/* Fills in what all kernels have; `back` makes it the backward of the same shape. */
static op_shape *begin(kernel *k, const char *name, operation op, dtype compute, int64_t rows,
                       bool back) {
    memset(k, 0, sizeof *k);
    k->name = name;
    k->shape = (op_shape){.op = op, .compute = compute, .rows = rows, .backward = back};
    for (int i = 0; i < OP_INPUTS; i++) k->shape.in[i] = format_of(DTYPE_COUNT, 0, 0);
    for (int i = 0; i < OP_OUTPUTS; i++) k->shape.out[i] = format_of(DTYPE_COUNT, 0, 0);
    return &k->shape;
}

static void attention(kernel *k, dtype c, const bench_shape *z, bool back) {
    int64_t rows = z->documents * z->length, d = z->head_dim;
    op_shape *s =
        begin(k, back ? "attention.backward" : "attention", OP_ATTENTION, c, rows, back);
    k->attr.attention.heads = (int32_t)z->heads;
    k->attr.attention.kv_heads = (int32_t)z->kv_heads;
    k->attr.attention.head_dim = (int32_t)d;
    k->attr.attention.scale = 1 / sqrtf((float)d);
    k->documents = (int32_t)z->documents;
    k->length = (int32_t)z->length;
    s->load.pairs = (double)(z->documents * z->length * (z->length + 1)) / 2;
    s->in[ATTENTION_QKV] = format_of(c, rows, (z->heads + 2 * z->kv_heads) * d);
    s->in[ATTENTION_STARTS] = format_of(DTYPE_I32, z->documents + 1, 1);
    s->out[ATTENTION_Y] = format_of(c, rows, z->heads * d);
    s->out[ATTENTION_LSE] = format_of(DTYPE_F32, rows, z->heads);
    if (back) s->gouts = 1u << ATTENTION_Y, s->gradients = 1u << ATTENTION_QKV;
}

static void head(kernel *k, dtype c, const bench_shape *z) {
    op_shape *s = begin(k, "head_cross_entropy", OP_HEAD_CROSS_ENTROPY, c, z->targets, true);
    s->in[HEAD_X] = format_of(c, z->targets, z->hidden);
    s->in[HEAD_W] = format_of(c, z->vocab, z->hidden);
    s->in[HEAD_TARGETS] = format_of(DTYPE_I32, z->targets, 1);
    s->in[HEAD_WEIGHTS] = format_of(DTYPE_F32, z->targets, 1);
    s->out[HEAD_LOGP] = s->out[HEAD_LSE] = format_of(DTYPE_F32, z->targets, 1);
    s->gradients = 1u << HEAD_X;
}

static void norm(kernel *k, dtype c, const bench_shape *z, bool back) {
    int64_t rows = z->documents * z->length;
    op_shape *s = begin(k, back ? "rmsnorm.backward" : "rmsnorm", OP_RMSNORM, c, rows, back);
    k->attr.rmsnorm.eps = 1e-5f;
    if (!back)
        s->in[RMSNORM_X] = s->in[RMSNORM_RESIDUAL] = format_of(c, rows, z->hidden);
    else
        s->in[RMSNORM_X] = format_of(c, rows, z->hidden);
    s->in[RMSNORM_W] = format_of(c, 1, z->hidden);
    s->out[RMSNORM_Y] = format_of(c, rows, z->hidden);
    if (!back) s->out[RMSNORM_SUM] = format_of(c, rows, z->hidden);
    s->out[RMSNORM_RSTD] = format_of(DTYPE_F32, rows, 1);
    if (back) s->gouts = 1u << RMSNORM_Y, s->gradients = 1u << RMSNORM_X;
}

static void glu(kernel *k, dtype c, const bench_shape *z, bool back) {
    int64_t rows = z->documents * z->length;
    op_shape *s = begin(k, back ? "glu.backward" : "glu", OP_GLU, c, rows, back);
    k->attr.glu.act = ACT_SILU;
    s->in[0] = format_of(c, rows, 2 * z->ffn);
    s->out[0] = format_of(c, rows, z->ffn);
    if (back) s->gouts = s->gradients = 1;
}

static void rope(kernel *k, dtype c, const bench_shape *z, bool back) {
    int64_t rows = z->documents * z->length, d = z->head_dim;
    op_shape *s = begin(k, back ? "rope.backward" : "rope", OP_ROPE, c, rows, back);
    k->attr.rope.heads = (int32_t)z->heads;
    k->attr.rope.kv_heads = (int32_t)z->kv_heads;
    k->attr.rope.head_dim = (int32_t)d;
    k->attr.rope.factor = 1;
    s->in[ROPE_X] = format_of(c, rows, (z->heads + 2 * z->kv_heads) * d);
    s->in[ROPE_POSITIONS] = format_of(DTYPE_I32, rows, 1);
    s->in[ROPE_INV_FREQ] = format_of(DTYPE_F32, 1, d / 2);
    s->out[ROPE_Y] = s->in[ROPE_X];
    if (back) s->gouts = 1u << ROPE_Y, s->gradients = 1u << ROPE_X;
}

/* gate and up of one layer, with adapters on both. */
static void linear(kernel *k, dtype c, const bench_shape *z, bool back) {
    int64_t rows = z->documents * z->length;
    op_shape *s = begin(k, back ? "linear.backward" : "linear", OP_LINEAR, c, rows, back);
    k->attr.linear.parts = 2;
    k->attr.linear.in = z->hidden;
    s->in[LINEAR_X] = format_of(c, rows, z->hidden);
    s->gradients = back ? 1u << LINEAR_X : 0;
    for (int p = 0; p < 2; p++) {
        k->attr.linear.out[p] = z->ffn;
        k->attr.linear.rank[p] = RANK;
        k->attr.linear.scale[p] = 2;
        s->in[linear_w(p)] = format_4bit(DTYPE_NF4, z->ffn, z->hidden, true);
        s->in[linear_a(p)] = format_of(c, RANK, z->hidden);
        s->in[linear_b(p)] = format_of(c, z->ffn, RANK);
        if (back) s->gradients |= 1u << linear_a(p) | 1u << linear_b(p);
    }
    s->out[0] = format_of(c, rows, 2 * z->ffn);
    s->gouts = back;
}

/* As many elements as the adapters of the whole model have. */
static void adamw(kernel *k, dtype c, const bench_shape *z, const adamw_scalars *scalars) {
    int64_t kv = z->kv_heads * z->head_dim, q = z->heads * z->head_dim;
    int64_t n =
        z->layers * (2 * (z->hidden + q) + 2 * (z->hidden + kv) + 3 * (z->hidden + z->ffn));
    op_shape *s = begin(k, "adamw", OP_ADAMW, c, 0, false);
    k->attr.adamw.bits = 32;
    k->call.adam = scalars;
    for (int i = ADAMW_G; i <= ADAMW_V; i++) s->in[i] = format_of(DTYPE_F32, n, RANK);
    s->in[ADAMW_WORKING] = format_of(c, n, RANK);
}

static status open_kernel(kernel *k, backend *b, int64_t vocab) {
    const backend_table *t = b->table;
    op_shape *s = &k->shape;
    s->attr = &k->attr;
    k->run = (s->backward ? t->backward : t->forward)[s->op];
    k->call = (op_call){.op = s->op,
                        .attr = &k->attr,
                        .compute = s->compute,
                        .rows = s->rows,
                        .used = s->rows,
                        .documents = k->documents,
                        .micro = UINT64_MAX,
                        .adam = k->call.adam};
    TRY(place_operands(k, b, t->scratch(b, s), vocab));
    k->flops = operation_get(s->op)->flops(s);
    k->bytes = operation_get(s->op)->bytes(s);
    return t->prepare(b, s);
}

/* ---- rounds ---- */

/* The best time of a kernel within its patience. What is only enqueued is enqueued TOGETHER at
 * a time, so that the card never waits for the host. */
static status time_kernel(kernel *k, backend *b, double patience, double *best) {
    double began = bench_now();
    *best = INFINITY;
    for (int i = 0; i < 2 || bench_now() - began < patience; i++) {
        int runs = b->host_visible ? 1 : TOGETHER;
        double start = bench_now();
        for (int j = 0; j < runs; j++) TRY(k->run(b, &k->call));
        TRY(b->table->sync(b));
        double seconds = (bench_now() - start) / runs;
        if (seconds < *best) *best = seconds;
    }
    return STATUS_OK;
}

static status measure_kernel(bench_report *r, kernel *k, backend *b,
                             const backend_rates *rates, double patience) {
    engine_cost cost = {.calls = 1, .flops = k->flops, .bytes = k->bytes};
    double limit = profile_limit_seconds(rates, &cost);
    bool products = k->flops / rates->gemm_flops > k->bytes / rates->copy_bytes;
    TRY(time_kernel(k, b, patience, &cost.seconds));
    bench_add(r, k->name, "of", products ? "matrix products" : "copying",
              limit / cost.seconds);
    return STATUS_OK;
}

/* NF4 with double quantization to bf16 against memcpy of as many bytes, on one thread. */
static void measure_decoding(bench_report *r, double patience) {
    enum { ROWS = 2048, COLS = 2048 };
    tensor_format f = format_4bit(DTYPE_NF4, ROWS, COLS, true);
    int64_t bytes;
    if (format_bytes(&f, &bytes) != STATUS_OK) return;
    char *space = mem_alloc((size_t)bytes + 4 * ROWS * COLS, "a benchmark's operands");
    if (!space) return;
    tensor t = tensor_at(&f, space);
    fill_4bit(&t);
    quant_view v = {.type = QUANT_NF4,
                    .count = ROWS * COLS,
                    .block = t.block,
                    .codes = t.data,
                    .absmax_codes = t.scales.absmax,
                    .absmax2 = t.scales.absmax2,
                    .map2 = t.scales.map,
                    .code = t.scales.code,
                    .offset = *t.scales.offset};
    char *to = space + bytes, *from = to + 2 * ROWS * COLS;
    memset(from, 1, 2 * ROWS * COLS);
    double began = bench_now(), decoded = INFINITY, copied = INFINITY;
    while (bench_now() - began < patience) {
        double start = bench_now();
        quant_dequantize_bf16(&v, 0, ROWS * COLS, (uint16_t *)to);
        double middle = bench_now();
        memcpy(to, from, 2 * ROWS * COLS);
        double end = bench_now();
        if (middle - start < decoded) decoded = middle - start;
        if (end - middle < copied) copied = end - middle;
    }
    bench_add(r, "nf4_decoding", "of", "memcpy", copied / decoded);
    mem_free(space);
}

static status one_round(bench_report *r, kernel *k, int count, backend *b, dtype compute,
                        double patience) {
    backend_rates f32, bf16, rates;
    TRY(backend_measure(b, DTYPE_F32, &f32));
    TRY(backend_measure(b, DTYPE_BF16, &bf16));
    rates = compute == DTYPE_BF16 ? bf16 : f32;
    bench_add(r, "gemm_f32", "GFLOP/s", "", f32.gemm_flops / 1e9);
    bench_add(r, "gemm_bf16", "of", "gemm_f32", bf16.gemm_flops / f32.gemm_flops);
    bench_add(r, "copy", "GB/s", "", rates.copy_bytes / 1e9);
    if (b->host_visible) measure_decoding(r, patience);
    for (int i = 0; i < count; i++) TRY(measure_kernel(r, &k[i], b, &rates, patience));
    return STATUS_OK;
}

status bench_kernels(bench_report *r, backend *b, const bench_shape *z) {
    dtype c = b->table->native_types >> DTYPE_BF16 & 1 ? DTYPE_BF16 : DTYPE_F32;
    adamw_scalars scalars = adamw_scalars_make(1e-4, 0.9, 0.999, 1e-8, 0, 1);
    kernel *k = mem_alloc_array(KERNELS, sizeof *k, "the benchmark");
    if (!k) return STATUS_MEMORY;
    int n = 0;
    for (int back = 0; back < 2; back++) {
        linear(&k[n++], c, z, back);
        attention(&k[n++], c, z, back);
        norm(&k[n++], c, z, back);
        glu(&k[n++], c, z, back);
        rope(&k[n++], c, z, back);
    }
    head(&k[n++], c, z);
    adamw(&k[n++], c, z, &scalars);
    status s = STATUS_OK;
    for (int i = 0; i < n && s == STATUS_OK; i++) s = open_kernel(&k[i], b, z->vocab);
    for (int i = 0; i < z->rounds && s == STATUS_OK; i++)
        s = one_round(r, k, n, b, c, z->patience);
    for (int i = 0; i < n; i++) free_operands(&k[i], b);
    mem_free(k);
    return s;
}
