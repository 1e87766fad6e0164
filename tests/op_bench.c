/* op_bench.c: see op_bench.h. Every run starts from fresh copies of the same bytes, so that
 * runs can be compared bit by bit. */
#include "op_bench.h"

#include "common/alloc.h"
#include "common/checked.h"
#include "common/half.h"
#include "common/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */

double op_test_half_ulp(dtype type) {
    return type == DTYPE_BF16 ? 0x1p-8 : type == DTYPE_F16 ? 0x1p-11 : 0x1p-24;
}

double op_test_read(const void *at, dtype type, int64_t i) {
    switch (type) {
    case DTYPE_F32:
        return ((const float *)at)[i];
    case DTYPE_BF16:
        return bf16_to_f32(((const uint16_t *)at)[i]);
    case DTYPE_F16:
        return f16_to_f32(((const uint16_t *)at)[i]);
    case DTYPE_F64:
        return ((const double *)at)[i];
    case DTYPE_I32:
        return ((const int32_t *)at)[i];
    case DTYPE_U8:
        return ((const uint8_t *)at)[i];
    default:
        fail_msg("no elements of this type");
        return 0;
    }
}

static void write_element(void *at, dtype type, int64_t i, double x) {
    switch (type) {
    case DTYPE_F32:
        ((float *)at)[i] = (float)x;
        break;
    case DTYPE_BF16:
        ((uint16_t *)at)[i] = f32_to_bf16((float)x);
        break;
    case DTYPE_F16:
        ((uint16_t *)at)[i] = f32_to_f16((float)x);
        break;
    case DTYPE_F64:
        ((double *)at)[i] = x;
        break;
    case DTYPE_I32:
        ((int32_t *)at)[i] = (int32_t)x;
        break;
    case DTYPE_U8:
        ((uint8_t *)at)[i] = (uint8_t)x;
        break;
    default:
        fail_msg("no elements of this type");
    }
}

double op_test_round(dtype type, double x) {
    double out;
    write_element(&out, type, 0, x);
    return op_test_read(&out, type, 0);
}

double ref_round_to(const ref_call *r, dtype type, double x) {
    return r->rounding ? op_test_round(type, x) : x;
}
double ref_round(const ref_call *r, double x) {
    return ref_round_to(r, r->call->compute, x);
}

void op_test_widen(double *to, const void *from, dtype type, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = op_test_read(from, type, i);
}

/* Box-Muller over Philox words. */
static double normal(const philox_stream *s, int64_t i) {
    double u = philox_uniform(philox_word(s, (uint64_t)(2 * i)));
    double v = philox_uniform(philox_word(s, (uint64_t)(2 * i + 1)));
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

void op_test_normal(void *to, dtype type, int64_t n, float spread, uint32_t seed) {
    philox_stream s = philox_open(seed, PHILOX_INIT, 0, 0, 0);
    for (int64_t i = 0; i < n; i++) write_element(to, type, i, spread * normal(&s, i));
}

/* ---- operands ---- */

tensor *bench_operand(op_call *call, int i) {
    return i < FIRST_OUT    ? &call->in[i]
           : i < FIRST_GOUT ? &call->out[i - FIRST_OUT]
           : i < FIRST_GIN  ? &call->gout[i - FIRST_GOUT]
                            : &call->gin[i - FIRST_GIN];
}

ref_tensor *bench_reference(ref_call *r, int i) {
    return i < FIRST_OUT    ? &r->in[i]
           : i < FIRST_GOUT ? &r->out[i - FIRST_OUT]
           : i < FIRST_GIN  ? &r->gout[i - FIRST_GOUT]
                            : &r->gin[i - FIRST_GIN];
}

static void operand_name(int i, char *text, size_t n) {
    const char *kind = i < FIRST_OUT    ? "in"
                       : i < FIRST_GOUT ? "out"
                       : i < FIRST_GIN  ? "gout"
                                        : "gin";
    int first = i < FIRST_OUT    ? 0
                : i < FIRST_GOUT ? FIRST_OUT
                : i < FIRST_GIN  ? FIRST_GOUT
                                 : FIRST_GIN;
    snprintf(text, n, "%s[%d]", kind, i - first);
}

bool bench_is_parameter(const bench *b, int input) {
    return b->c->parameters >> input & 1;
}

/* The format of operand i in this bench; cols 0: absent. */
static tensor_format format_at(const bench *b, int i) {
    const op_case *c = b->c;
    tensor_format f;
    if (i < FIRST_OUT)
        f = c->in[i];
    else if (i < FIRST_GOUT)
        f = c->out[i - FIRST_OUT];
    else if (i < FIRST_GIN)
        f = c->gouts >> (i - FIRST_GOUT) & 1 ? c->out[i - FIRST_GOUT] : (tensor_format){0};
    else
        f = c->gradients >> (i - FIRST_GIN) & 1 ? c->in[i - FIRST_GIN] : (tensor_format){0};
    if (f.cols == 0) return (tensor_format){.type = DTYPE_COUNT};
    if (i >= FIRST_GIN)
        f = format_of(bench_is_parameter(b, i - FIRST_GIN) ? DTYPE_F32 : b->compute, f.rows,
                      f.cols);
    if (f.type == TYPE_C) f.type = b->compute;
    return f;
}

static bool is_windowed(const bench *b, const tensor_format *f) {
    return b->c->windows && f->rows == b->c->rows && f->cols > 1 && !dtype_is_4bit(f->type);
}

/* NF4 or FP4: random codes and scales, tables of a plausible form; decoded by operation.h's
 * rule. */
static void fill_4bit(const tensor_format *f, void *data, uint32_t seed, double *wide) {
    tensor t = tensor_at(f, data);
    format_parts p = format_parts_of(f);
    int64_t n = f->rows * f->cols;
    philox_stream s = philox_open(seed, PHILOX_INIT, 1, 0, 0);
    const float *book = f->type == DTYPE_NF4 ? nf4_codebook() : fp4_codebook();
    memcpy(t.scales.code, book, 16 * sizeof *book);
    for (int64_t i = 0; i < (n + 1) / 2; i++)
        ((uint8_t *)t.data)[i] = (uint8_t)philox_word(&s, (uint64_t)i);
    for (int64_t i = 0; i < p.blocks; i++) {
        uint32_t w = philox_word(&s, (uint64_t)(n + i));
        if (f->nested)
            ((uint8_t *)t.scales.absmax)[i] = (uint8_t)w;
        else
            ((float *)t.scales.absmax)[i] = 0.05f + 0.1f * philox_uniform(w);
    }
    for (int64_t i = 0; f->nested && i < p.nests; i++)
        t.scales.absmax2[i] = 0.02f + 0.001f * (float)i;
    for (int i = 0; f->nested && i < 256; i++) t.scales.map[i] = (float)(i - 127) / 128.0f;
    if (f->nested) *t.scales.offset = 0.1f;
    for (int64_t i = 0; i < n; i++) {
        uint8_t byte = ((uint8_t *)t.data)[i / 2], code = i % 2 ? byte & 15 : byte >> 4;
        int64_t block = i / f->block;
        float absmax = f->nested ? t.scales.map[((uint8_t *)t.scales.absmax)[block]] *
                                           t.scales.absmax2[block / TENSOR_NEST_BLOCK] +
                                       *t.scales.offset
                                 : ((float *)t.scales.absmax)[block];
        wide[i] = t.scales.code[code] * absmax;
    }
}

static void fill_input(bench *b, int i, void *data, const tensor *t, double *wide) {
    const op_case *c = b->c;
    float spread = c->spread[i] != 0 ? c->spread[i] : 1;
    philox_stream s = philox_open(17 + (uint32_t)i, PHILOX_INIT, 0, 0, 0);
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t col = 0; col < t->cols; col++) {
            int64_t at = r * t->cols + col;
            double x = t->type == DTYPE_I32  ? (c->ints[i] ? c->ints[i][at] : 0)
                       : t->type == DTYPE_U8 ? philox_word(&s, (uint64_t)at) & 255
                       : c->values[i]        ? c->values[i][at]
                                             : spread * normal(&s, at);
            write_element(data, t->type, r * t->stride + col, x);
            wide[at] = op_test_read(data, t->type, r * t->stride + col);
        }
}

/* Random numbers in a gout, or in a gin that is added to; ref gets the same. */
static void fill_random(const tensor *t, void *data, uint32_t seed, double *wide) {
    philox_stream s = philox_open(seed, PHILOX_INIT, 2, 0, 0);
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t col = 0; col < t->cols; col++) {
            write_element(data, t->type, r * t->stride + col, normal(&s, r * t->cols + col));
            wide[r * t->cols + col] = op_test_read(data, t->type, r * t->stride + col);
        }
}

void *bench_alloc(int64_t bytes) {
    void *p = mem_alloc((size_t)bytes, "test operand");
    assert_non_null(p);
    return p;
}

/* Makes operand i's initial bytes and its double twin. Outputs and set gradients start as
 * FILLER, so that what is not written, or is added to it, is NaN. */
static void make_operand(bench *b, int i) {
    tensor_format f = format_at(b, i);
    tensor *t = bench_operand(&b->call, i);
    if (f.type == DTYPE_COUNT) {
        *t = (tensor){.type = DTYPE_COUNT};
        return;
    }
    int64_t bytes;
    if (format_bytes(&f, &bytes) != STATUS_OK) fail_msg("%s", status_message());
    *t = tensor_at(&f, NULL);
    if (is_windowed(b, &f)) {
        t->stride = f.cols + WINDOW_GAP;
        bytes = ((f.rows - 1) * t->stride + f.cols) * dtype_bytes(f.type);
    }
    b->bytes[i] = bytes;
    b->initial[i] = bench_alloc(max_i64(bytes, 1));
    memset(b->initial[i], FILLER, (size_t)bytes);
    ref_tensor *wide = bench_reference(&b->ref, i);
    *wide = (ref_tensor){bench_alloc(max_i64(f.rows * f.cols, 1) * 8), f.rows, f.cols};
    if (dtype_is_4bit(f.type))
        fill_4bit(&f, b->initial[i], 17 + (uint32_t)i, wide->x);
    else if (i < FIRST_OUT)
        fill_input(b, i, b->initial[i], t, wide->x);
    else if (i >= FIRST_GOUT)
        fill_random(t, b->initial[i], 91 + (uint32_t)i, wide->x);
}

void bench_open(bench *b, const op_suite *suite, const op_case *c, dtype compute) {
    memset(b, 0, sizeof *b);
    b->suite = suite, b->c = c, b->row = operation_get(suite->op), b->compute = compute;
    b->call = (op_call){.op = suite->op,
                        .attr = &c->attr,
                        .compute = compute,
                        .rows = c->rows,
                        .used = c->used ? c->used : c->rows,
                        .documents = c->documents,
                        .selected = c->selected,
                        .layer = c->layer,
                        .seed = c->seed,
                        .micro = c->micro,
                        .adam = c->adam};
    b->ref.call = &b->call;
    b->ref.rounding = true;
    for (int i = 0; i < OPERANDS; i++) make_operand(b, i);
}

void bench_close(bench *b) {
    for (int i = 0; i < OPERANDS; i++) {
        mem_free(b->initial[i]);
        mem_free(b->forward[i]);
        mem_free(b->backward[0][i]);
        mem_free(b->backward[1][i]);
        mem_free(bench_reference(&b->ref, i)->x);
    }
}

void bench_fail(const bench *b, const variant *v, int i, const char *what) {
    char name[32];
    operand_name(i, name, sizeof name);
    fail_msg("%s, case \"%s\", %s, %s run: %s %s", b->row->name, b->c->name,
             dtype_name(b->compute), v->name, name, what);
}

/* ---- running ---- */

/* Bytes before and after an operand: 0 where the emulator watches its end, and no less than what
 * arenas are aligned to on a card. */
static int64_t guard_of(const backend *be) {
#ifdef OP_TEST_EMULATED
    return 0;
#endif
    return be->host_visible ? GUARD : be->table->alignment;
}

/* An operand's bytes, where the back end sees them and on the host. */
typedef struct block {
    char *base, *host; /* the same where the host sees the back end's memory */
    int64_t bytes, guard;
} block;

/* `bytes` NULL: filler. */
static block block_open(backend *be, const void *bytes, int64_t n) {
    int64_t guard = guard_of(be), whole = n + 2 * guard;
    block k = {.host = bench_alloc(max_i64(whole, 1)), .bytes = n, .guard = guard};
    memset(k.host, FILLER, (size_t)whole);
    if (bytes) memcpy(k.host + guard, bytes, (size_t)n);
    k.base = k.host;
    if (be->host_visible || whole == 0) return k;
    void *base;
    status s = be->table->reserve(be, false, whole, &base);
    if (s == STATUS_OK && bytes) s = be->table->upload(be, base, k.host, whole);
    if (s == STATUS_OK && !bytes) s = be->table->fill(be, base, FILLER, whole);
    if (s != STATUS_OK) fail_msg("operand: %s", status_message());
    k.base = base;
    return k;
}

/* What the back end left there, as host bytes. */
static void block_fetch(backend *be, block *k) {
    if (k->base != k->host &&
        be->table->download(be, k->host, k->base, k->bytes + 2 * k->guard) != STATUS_OK)
        fail_msg("operand: %s", status_message());
}

static void block_close(backend *be, block *k) {
    if (k->base != k->host) be->table->release(be, false, k->base, k->bytes + 2 * k->guard);
    mem_free(k->host);
}

static bool is_filler(const char *at, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if ((uint8_t)at[i] != FILLER) return false;
    return true;
}

static op_shape shape_of(const bench *b, bool backward) {
    const op_case *c = b->c;
    op_shape s = {.op = b->suite->op,
                  .attr = &c->attr,
                  .compute = b->compute,
                  .rows = max_i64(c->capacity, c->rows),
                  .backward = backward,
                  .gradients = backward ? c->gradients : 0};
    for (int i = 0; i < OP_INPUTS; i++) s.in[i] = format_at(b, i);
    for (int i = 0; i < OP_OUTPUTS; i++) s.out[i] = format_at(b, FIRST_OUT + i);
    return s;
}

/* The bytes operand i starts with in this run: a backward gets the forward's outputs and
 * state; parameters' gradients and added ones start at random numbers, set ones at filler. */
static const void *start_of(const bench *b, const variant *v, int i, char *filler) {
    bool fused = b->row->fused_backward;
    if (v->backward && !fused && i < FIRST_GOUT) return b->forward[i];
    if (i >= FIRST_GIN && !v->add && !bench_is_parameter(b, i - FIRST_GIN)) return filler;
    return b->initial[i];
}

typedef struct run {
    op_call call;
    backend *be;
    block operand[OPERANDS], scratch;
    int home[OPERANDS]; /* whose block an operand lies in: its own but for one in place */
} run;

static void run_alias(const bench *b, const variant *v, run *r, int *hidden) {
    const operation_row *row = b->row;
    *hidden = -1;
    if (!v->in_place) return;
    int place = v->backward ? FIRST_GOUT + row->in_place_gout : row->in_place_in;
    int guest = v->backward ? FIRST_GIN + row->in_place_gin : FIRST_OUT + row->in_place_out;
    bench_operand(&r->call, guest)->data = bench_operand(&r->call, place)->data;
    bench_operand(&r->call, guest)->stride = bench_operand(&r->call, place)->stride;
    r->home[guest] = place;
    *hidden = place;
}

static void run_open(bench *b, const variant *v, run *r, int *hidden) {
    *r = (run){.call = b->call, .be = op_test_backend(v->threads)};
    r->call.add = v->add ? UINT32_MAX : 0;
    for (int i = 0; i < OPERANDS; i++) {
        bool used = b->initial[i] && (v->backward || i < FIRST_GOUT);
        tensor *t = bench_operand(&r->call, i);
        r->home[i] = i;
        if (!used) {
            t->data = NULL;
            continue;
        }
        char *filler = bench_alloc(max_i64(b->bytes[i], 1));
        memset(filler, FILLER, (size_t)b->bytes[i]);
        r->operand[i] = block_open(r->be, start_of(b, v, i, filler), b->bytes[i]);
        mem_free(filler);
        tensor_format f = format_at(b, i);
        int64_t stride = t->stride;
        *t = tensor_at(&f, r->operand[i].base + r->operand[i].guard);
        t->stride = stride;
    }
    run_alias(b, v, r, hidden);
    op_shape shape = shape_of(b, v->backward);
    int64_t bytes = r->be->table->scratch(r->be, &shape);
    r->scratch = block_open(r->be, NULL, bytes);
    r->call.scratch = bytes ? r->scratch.base + r->scratch.guard : NULL;
    r->call.scratch_bytes = bytes;
    if (r->be->table->prepare(r->be, &shape) != STATUS_OK)
        fail_msg("prepare: %s", status_message());
}

static void run_close(run *r) {
    for (int i = 0; i < OPERANDS; i++)
        if (r->operand[i].host) block_close(r->be, &r->operand[i]);
    block_close(r->be, &r->scratch);
}

bool bench_is_written(const bench *b, const variant *v, int i) {
    if (i < FIRST_OUT) return !v->backward && b->row->state_inputs >> i & 1;
    if (i < FIRST_GOUT) return !v->backward || b->row->fused_backward;
    return i >= FIRST_GIN;
}

static const char *bytes_of(const block *k) {
    return k->host + k->guard;
}

static bool is_intact(const block *k) {
    return is_filler(k->host, k->guard) && is_filler(bytes_of(k) + k->bytes, k->guard);
}

static void check_bytes_around(const bench *b, const variant *v, const run *r, int i) {
    const block *k = &r->operand[i];
    if (!is_filler(k->host, k->guard))
        bench_fail(b, v, i, "is written to in front of its bytes");
    if (!is_intact(k)) bench_fail(b, v, i, "is written to behind its bytes");
    const tensor *t = bench_operand((op_call *)&b->call, i);
    int64_t element = dtype_is_4bit(t->type) ? 0 : dtype_bytes(t->type);
    for (int64_t row = 0; t->stride > t->cols && row + 1 < t->rows; row++)
        if (!is_filler(bytes_of(k) + (row * t->stride + t->cols) * element,
                       (t->stride - t->cols) * element))
            bench_fail(b, v, i, "is written to between its rows");
}

static void run_function(const bench *b, const variant *v, run *r) {
    backend *be = r->be;
    op_function f = (v->backward ? be->table->backward : be->table->forward)[b->suite->op];
    if (!f)
        fail_msg("%s has no %s on %s", b->row->name, v->backward ? "backward" : "forward",
                 be->table->name);
    if (f(be, &r->call) != STATUS_OK || be->table->sync(be) != STATUS_OK)
        fail_msg("%s, case \"%s\": %s", b->row->name, b->c->name, status_message());
    for (int i = 0; i < OPERANDS; i++)
        if (r->operand[i].host) block_fetch(be, &r->operand[i]);
    if (r->scratch.guard) block_fetch(be, &r->scratch);
}

/* Runs the variant and returns each written operand's bytes in `after` (others NULL). */
void bench_run(bench *b, const variant *v, void *after[OPERANDS]) {
    run r;
    int hidden;
    run_open(b, v, &r, &hidden);
    run_function(b, v, &r);
    for (int i = 0; i < OPERANDS; i++) {
        after[i] = NULL;
        if (!r.operand[i].host) continue;
        check_bytes_around(b, v, &r, i);
        const char *bytes = bytes_of(&r.operand[r.home[i]]);
        if (!bench_is_written(b, v, i)) {
            char *filler = NULL;
            if (i != hidden && memcmp(bytes, start_of(b, v, i, filler), (size_t)b->bytes[i]))
                bench_fail(b, v, i, "is an input, but was written to");
            if (v->backward) continue;
        }
        after[i] = bench_alloc(max_i64(b->bytes[i], 1));
        memcpy(after[i], bytes, (size_t)b->bytes[i]);
    }
    if (!is_intact(&r.scratch))
        fail_msg("%s, case \"%s\": writes outside its scratch", b->row->name, b->c->name);
    run_close(&r);
}

void bench_free_all(void *after[OPERANDS]) {
    for (int i = 0; i < OPERANDS; i++) mem_free(after[i]);
}

/* A call of no rows succeeds and writes nothing. */
void bench_run_empty(bench *b, variant v) {
    run r;
    int hidden;
    v.name = "empty";
    run_open(b, &v, &r, &hidden);
    r.call.rows = r.call.used = r.call.documents = r.call.selected = 0;
    run_function(b, &v, &r);
    for (int i = 0; i < OPERANDS; i++) {
        if (!r.operand[i].host) continue;
        check_bytes_around(b, &v, &r, i);
        char *filler = bench_alloc(max_i64(b->bytes[i], 1));
        memset(filler, FILLER, (size_t)b->bytes[i]);
        if (memcmp(bytes_of(&r.operand[i]), start_of(b, &v, i, filler), (size_t)b->bytes[i]))
            bench_fail(b, &v, i, "is written to by a call of no rows");
        mem_free(filler);
    }
    run_close(&r);
}
