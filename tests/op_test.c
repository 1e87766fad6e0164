/* op_test.c: see op_test.h. A `bench` holds one case in one compute type: its operands'
 * initial bytes, the reference's numbers, and what the first run gave. Every run starts from
 * fresh copies of the same bytes, so that runs can be compared bit by bit. */
#include "op_test.h"

#include "common/alloc.h"
#include "common/checked.h"
#include "common/half.h"
#include "common/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GUARD = 64,    /* bytes before and after every operand */
    FILLER = 0xFF, /* what they hold, and what is to be set: NaN in every float type */
    PLAIN_THREADS = 2,
    WINDOW_GAP = 24, /* extra columns of a windowed operand */
    OPERANDS = OP_INPUTS + 2 * OP_OUTPUTS + OP_INPUTS,
    FIRST_OUT = OP_INPUTS,
    FIRST_GOUT = FIRST_OUT + OP_OUTPUTS,
    FIRST_GIN = FIRST_GOUT + OP_OUTPUTS,
};

/* How a run differs from the plain one. */
typedef struct variant {
    const char *name;
    int threads;
    bool backward, add, in_place;
} variant;

typedef struct bench {
    const op_suite *suite;
    const op_case *c;
    const operation_row *row;
    dtype compute;
    op_call call;                /* counts and attributes; operands' formats, no data */
    void *initial[OPERANDS];     /* bytes at the start of a run; NULL: absent */
    int64_t bytes[OPERANDS];     /* of the block from the first to the last element */
    void *forward[OPERANDS];     /* bytes after the plain forward */
    void *backward[2][OPERANDS]; /* bytes after the plain backward: set, added */
    ref_call ref;
} bench;

static uint32_t gradients_checked[OP_COUNT];
static bool ran[OP_COUNT];
static backend *backends[4];

uint32_t op_test_gradients(operation op) {
    return gradients_checked[op];
}
bool op_test_ran(operation op) {
    return ran[op];
}

backend *op_test_backend(int threads) {
    assert_in_range(threads, 1, 3);
    if (!backends[threads] && backend_cpu_open(&backends[threads], threads) != STATUS_OK)
        fail_msg("back end: %s", status_message());
    return backends[threads];
}

void op_test_close(void) {
    for (int i = 0; i < 4; i++) {
        if (backends[i]) backends[i]->table->close(backends[i]);
        backends[i] = NULL;
    }
}

/* ---- numbers ---- */

static double half_ulp(dtype type) {
    return type == DTYPE_BF16 ? 0x1p-8 : type == DTYPE_F16 ? 0x1p-11 : 0x1p-24;
}

static double read_element(const void *at, dtype type, int64_t i) {
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

static double round_to(dtype type, double x) {
    double out;
    write_element(&out, type, 0, x);
    return read_element(&out, type, 0);
}

double ref_round_to(const ref_call *r, dtype type, double x) {
    return r->rounding ? round_to(type, x) : x;
}
double ref_round(const ref_call *r, double x) {
    return ref_round_to(r, r->call->compute, x);
}

void op_test_widen(double *to, const void *from, dtype type, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = read_element(from, type, i);
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

static tensor *operand(op_call *call, int i) {
    return i < FIRST_OUT    ? &call->in[i]
           : i < FIRST_GOUT ? &call->out[i - FIRST_OUT]
           : i < FIRST_GIN  ? &call->gout[i - FIRST_GOUT]
                            : &call->gin[i - FIRST_GIN];
}

static ref_tensor *ref_operand(ref_call *r, int i) {
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

static bool is_parameter(const bench *b, int input) {
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
        f = format_of(is_parameter(b, i - FIRST_GIN) ? DTYPE_F32 : b->compute, f.rows, f.cols);
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
            wide[at] = read_element(data, t->type, r * t->stride + col);
        }
}

/* Random numbers in a gout, or in a gin that is added to; ref gets the same. */
static void fill_random(const tensor *t, void *data, uint32_t seed, double *wide) {
    philox_stream s = philox_open(seed, PHILOX_INIT, 2, 0, 0);
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t col = 0; col < t->cols; col++) {
            write_element(data, t->type, r * t->stride + col, normal(&s, r * t->cols + col));
            wide[r * t->cols + col] = read_element(data, t->type, r * t->stride + col);
        }
}

static void *checked_alloc(int64_t bytes) {
    void *p = mem_alloc((size_t)bytes, "test operand");
    assert_non_null(p);
    return p;
}

/* Makes operand i's initial bytes and its double twin. Outputs and set gradients start as
 * FILLER, so that what is not written, or is added to it, is NaN. */
static void make_operand(bench *b, int i) {
    tensor_format f = format_at(b, i);
    tensor *t = operand(&b->call, i);
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
    b->initial[i] = checked_alloc(max_i64(bytes, 1));
    memset(b->initial[i], FILLER, (size_t)bytes);
    ref_tensor *wide = ref_operand(&b->ref, i);
    *wide = (ref_tensor){checked_alloc(max_i64(f.rows * f.cols, 1) * 8), f.rows, f.cols};
    if (dtype_is_4bit(f.type))
        fill_4bit(&f, b->initial[i], 17 + (uint32_t)i, wide->x);
    else if (i < FIRST_OUT)
        fill_input(b, i, b->initial[i], t, wide->x);
    else if (i >= FIRST_GOUT)
        fill_random(t, b->initial[i], 91 + (uint32_t)i, wide->x);
}

static void bench_open(bench *b, const op_suite *suite, const op_case *c, dtype compute) {
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

static void bench_close(bench *b) {
    for (int i = 0; i < OPERANDS; i++) {
        mem_free(b->initial[i]);
        mem_free(b->forward[i]);
        mem_free(b->backward[0][i]);
        mem_free(b->backward[1][i]);
        mem_free(ref_operand(&b->ref, i)->x);
    }
}

static void bench_fail(const bench *b, const variant *v, int i, const char *what) {
    char name[32];
    operand_name(i, name, sizeof name);
    fail_msg("%s, case \"%s\", %s, %s run: %s %s", b->row->name, b->c->name,
             dtype_name(b->compute), v->name, name, what);
}

/* ---- running ---- */

static char *guarded(const void *bytes, int64_t n) {
    char *block = checked_alloc(n + 2 * GUARD);
    memset(block, FILLER, (size_t)(n + 2 * GUARD));
    memcpy(block + GUARD, bytes, (size_t)n);
    return block;
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
    if (i >= FIRST_GIN && !v->add && !is_parameter(b, i - FIRST_GIN)) return filler;
    return b->initial[i];
}

typedef struct run {
    op_call call;
    char *block[OPERANDS], *scratch;
    int64_t scratch_bytes;
} run;

static void run_alias(const bench *b, const variant *v, run *r, int *hidden) {
    const operation_row *row = b->row;
    *hidden = -1;
    if (!v->in_place) return;
    int place = v->backward ? FIRST_GOUT + row->in_place_gout : row->in_place_in;
    int guest = v->backward ? FIRST_GIN + row->in_place_gin : FIRST_OUT + row->in_place_out;
    operand(&r->call, guest)->data = operand(&r->call, place)->data;
    operand(&r->call, guest)->stride = operand(&r->call, place)->stride;
    *hidden = place;
}

static void run_open(bench *b, const variant *v, run *r, int *hidden) {
    *r = (run){.call = b->call};
    r->call.add = v->add ? UINT32_MAX : 0;
    for (int i = 0; i < OPERANDS; i++) {
        bool used = b->initial[i] && (v->backward || i < FIRST_GOUT);
        tensor *t = operand(&r->call, i);
        if (!used) {
            t->data = NULL;
            continue;
        }
        char *filler = checked_alloc(max_i64(b->bytes[i], 1));
        memset(filler, FILLER, (size_t)b->bytes[i]);
        r->block[i] = guarded(start_of(b, v, i, filler), b->bytes[i]);
        mem_free(filler);
        tensor_format f = format_at(b, i);
        int64_t stride = t->stride;
        *t = tensor_at(&f, r->block[i] + GUARD);
        t->stride = stride;
    }
    run_alias(b, v, r, hidden);
    backend *be = op_test_backend(v->threads);
    op_shape shape = shape_of(b, v->backward);
    r->scratch_bytes = be->table->scratch(be, &shape);
    char *scratch = checked_alloc(max_i64(r->scratch_bytes, 1));
    memset(scratch, FILLER, (size_t)r->scratch_bytes);
    r->scratch = guarded(scratch, r->scratch_bytes);
    mem_free(scratch);
    r->call.scratch = r->scratch_bytes ? r->scratch + GUARD : NULL;
    r->call.scratch_bytes = r->scratch_bytes;
    if (be->table->prepare(be, &shape) != STATUS_OK) fail_msg("prepare: %s", status_message());
}

static void run_close(run *r) {
    for (int i = 0; i < OPERANDS; i++) mem_free(r->block[i]);
    mem_free(r->scratch);
}

static bool is_written(const bench *b, const variant *v, int i) {
    if (i < FIRST_OUT) return !v->backward && b->row->state_inputs >> i & 1;
    if (i < FIRST_GOUT) return !v->backward || b->row->fused_backward;
    return i >= FIRST_GIN;
}

static void check_bytes_around(const bench *b, const variant *v, const run *r, int i) {
    const char *block = r->block[i];
    if (!is_filler(block, GUARD)) bench_fail(b, v, i, "is written to in front of its bytes");
    if (!is_filler(block + GUARD + b->bytes[i], GUARD))
        bench_fail(b, v, i, "is written to behind its bytes");
    const tensor *t = operand((op_call *)&b->call, i);
    int64_t element = dtype_is_4bit(t->type) ? 0 : dtype_bytes(t->type);
    for (int64_t row = 0; t->stride > t->cols && row + 1 < t->rows; row++)
        if (!is_filler(block + GUARD + (row * t->stride + t->cols) * element,
                       (t->stride - t->cols) * element))
            bench_fail(b, v, i, "is written to between its rows");
}

static void run_function(const bench *b, const variant *v, run *r) {
    backend *be = op_test_backend(v->threads);
    op_function f = (v->backward ? be->table->backward : be->table->forward)[b->suite->op];
    if (!f)
        fail_msg("%s has no %s on %s", b->row->name, v->backward ? "backward" : "forward",
                 be->table->name);
    if (f(be, &r->call) != STATUS_OK)
        fail_msg("%s, case \"%s\": %s", b->row->name, b->c->name, status_message());
}

/* Runs the variant and returns each written operand's bytes in `after` (others NULL). */
static void run_variant(bench *b, const variant *v, void *after[OPERANDS]) {
    run r;
    int hidden;
    run_open(b, v, &r, &hidden);
    run_function(b, v, &r);
    for (int i = 0; i < OPERANDS; i++) {
        after[i] = NULL;
        if (!r.block[i]) continue;
        check_bytes_around(b, v, &r, i);
        const char *bytes = (char *)operand(&r.call, i)->data;
        if (!is_written(b, v, i)) {
            char *filler = NULL;
            if (i != hidden && memcmp(bytes, start_of(b, v, i, filler), (size_t)b->bytes[i]))
                bench_fail(b, v, i, "is an input, but was written to");
            if (v->backward) continue;
        }
        after[i] = checked_alloc(max_i64(b->bytes[i], 1));
        memcpy(after[i], bytes, (size_t)b->bytes[i]);
    }
    if (!is_filler(r.scratch, GUARD) || !is_filler(r.scratch + GUARD + r.scratch_bytes, GUARD))
        fail_msg("%s, case \"%s\": writes outside its scratch", b->row->name, b->c->name);
    run_close(&r);
}

static void free_all(void *after[OPERANDS]) {
    for (int i = 0; i < OPERANDS; i++) mem_free(after[i]);
}

/* A call of no rows succeeds and writes nothing. */
static void run_empty(bench *b, variant v) {
    run r;
    int hidden;
    v.name = "empty";
    run_open(b, &v, &r, &hidden);
    r.call.rows = r.call.used = r.call.documents = r.call.selected = 0;
    run_function(b, &v, &r);
    for (int i = 0; i < OPERANDS; i++) {
        if (!r.block[i]) continue;
        check_bytes_around(b, &v, &r, i);
        char *filler = checked_alloc(max_i64(b->bytes[i], 1));
        memset(filler, FILLER, (size_t)b->bytes[i]);
        if (memcmp(r.block[i] + GUARD, start_of(b, &v, i, filler), (size_t)b->bytes[i]))
            bench_fail(b, &v, i, "is written to by a call of no rows");
        mem_free(filler);
    }
    run_close(&r);
}

/* ---- comparing ---- */

static double rms_of(const ref_tensor *t) {
    double sum = 0;
    int64_t n = t->rows * t->cols;
    for (int64_t i = 0; i < n; i++) sum += t->x[i] * t->x[i];
    return n ? sqrt(sum / (double)n) : 0;
}

/* Operand i's bytes against `want`, in half-ulps of C; see op_test.h. */
static void compare(const bench *b, const variant *v, int i, const void *bytes,
                    const ref_tensor *want, double k) {
    const tensor *t = operand((op_call *)&b->call, i);
    double rms = rms_of(want), u = half_ulp(b->compute), u32 = half_ulp(DTYPE_F32);
    double flips = b->c->flips > 0 ? b->c->flips : 0.01;
    int64_t flipped = 0, n = t->rows * t->cols;
    for (int64_t e = 0; e < n; e++) {
        double got = read_element(bytes, t->type, e / t->cols * t->stride + e % t->cols);
        double x = want->x[e], error = fabs(got - x);
        if (!(error <= k * u * (fabs(x) + rms))) {
            char text[200];
            snprintf(text, sizeof text,
                     "[%lld, %lld] is %.9g, not %.9g (rms %.3g, %.1f units)",
                     (long long)(e / t->cols), (long long)(e % t->cols), got, x, rms,
                     error / (u * (fabs(x) + rms)));
            bench_fail(b, v, i, text);
        }
        bool exact = t->type == DTYPE_F32
                         ? error <= k * u32 * (fabs(x) + rms)
                         : got == round_to(t->type, x) || error <= k * u32 * rms;
        flipped += !exact;
    }
    if (b->compute != DTYPE_F32 && (double)flipped > flips * (double)n + 1) {
        char text[100];
        snprintf(text, sizeof text,
                 "is rounded otherwise than the reference in %lld of %lld elements",
                 (long long)flipped, (long long)n);
        bench_fail(b, v, i, text);
    }
}

/* Written outputs and state against the reference. */
static void check_outputs(const bench *b, const variant *v, void *after[OPERANDS]) {
    double k = b->c->k_forward > 0 ? b->c->k_forward : 8;
    for (int i = 0; i < FIRST_GOUT; i++) {
        if (!after[i] || !is_written(b, v, i)) continue;
        if (i >= FIRST_OUT && b->c->unchecked >> (i - FIRST_OUT) & 1) continue;
        compare(b, v, i, after[i], ref_operand((ref_call *)&b->ref, i), k);
    }
}

/* The reference's gradient: what stood there (if added to) + the derivative, in `out`. */
static void expected_gradient(const bench *b, const variant *v, int input,
                              const double *gradient, ref_tensor *out) {
    const ref_tensor *g = &b->ref.gin[input];
    *out = (ref_tensor){checked_alloc(g->rows * g->cols * 8), g->rows, g->cols};
    bool add = v->add || is_parameter(b, input);
    const tensor *t = &b->call.gin[input];
    for (int64_t e = 0; e < g->rows * g->cols; e++) {
        double old = read_element(b->initial[FIRST_GIN + input], t->type,
                                  e / t->cols * t->stride + e % t->cols);
        out->x[e] = gradient[e] + (add ? old : 0);
    }
}

static void check_gradients(bench *b, const variant *v, void *after[OPERANDS]) {
    double k = b->c->k_backward > 0 ? b->c->k_backward : 8;
    for (int i = 0; i < OP_INPUTS; i++) {
        if (!b->ref.gin[i].x) continue;
        ref_tensor want;
        expected_gradient(b, v, i, b->ref.gin[i].x, &want);
        compare(b, v, FIRST_GIN + i, after[FIRST_GIN + i], &want, k);
        mem_free(want.x);
    }
    for (int i = FIRST_OUT; b->row->fused_backward && i < FIRST_GOUT; i++)
        if (after[i]) compare(b, v, i, after[i], ref_operand(&b->ref, i), k);
}

/* Whether the operand's bits may follow the number of threads. */
static bool by_library(const bench *b, int i) {
    if (i >= FIRST_GIN) return b->c->library_gins >> (i - FIRST_GIN) & 1;
    return i >= FIRST_OUT && i < FIRST_GOUT && b->c->library_outs >> (i - FIRST_OUT) & 1;
}

/* Runs the variant and asserts the bits of `expected`. */
static void run_equal(bench *b, const variant *v, void *expected[OPERANDS]) {
    void *after[OPERANDS];
    run_variant(b, v, after);
    int place = v->in_place
                    ? (v->backward ? FIRST_GOUT + b->row->in_place_gout : b->row->in_place_in)
                    : -1;
    for (int i = 0; i < OPERANDS; i++)
        if (after[i] && i != place && !(v->threads != PLAIN_THREADS && by_library(b, i)) &&
            memcmp(after[i], expected[i], (size_t)b->bytes[i]))
            bench_fail(b, v, i, "differs in its bits from the plain run");
    if (v->threads != PLAIN_THREADS && v->backward)
        check_gradients(b, v, after);
    else if (v->threads != PLAIN_THREADS)
        check_outputs(b, v, after);
    free_all(after);
}

/* ---- the checks ---- */

static const variant plain_forward = {"forward", PLAIN_THREADS, false, false, false};
static const variant plain_backward = {"backward", PLAIN_THREADS, true, false, false};
static const variant added_backward = {"adding backward", PLAIN_THREADS, true, true, false};

static void check_forward(bench *b) {
    run_variant(b, &plain_forward, b->forward);
    b->suite->forward(&b->ref);
    check_outputs(b, &plain_forward, b->forward);
    run_equal(b, &(variant){"forward, one thread", 1, false, false, false}, b->forward);
    run_equal(b, &(variant){"forward, three threads", 3, false, false, false}, b->forward);
    if (b->row->in_place_out >= 0 && !(b->c->no_op_in_place & 1))
        run_equal(b, &(variant){"forward in place", PLAIN_THREADS, false, false, true},
                  b->forward);
    if (!b->row->free_of_batch) run_empty(b, plain_forward);
}

static void zero_gradients(ref_call *r) {
    for (int i = 0; i < OP_INPUTS; i++)
        if (r->gin[i].x) memset(r->gin[i].x, 0, (size_t)(r->gin[i].rows * r->gin[i].cols) * 8);
}

static void check_backward(bench *b) {
    zero_gradients(&b->ref);
    b->suite->backward(&b->ref);
    run_variant(b, &plain_backward, b->backward[0]);
    check_gradients(b, &plain_backward, b->backward[0]);
    run_variant(b, &added_backward, b->backward[1]);
    check_gradients(b, &added_backward, b->backward[1]);
    run_equal(b, &(variant){"backward, one thread", 1, true, false, false}, b->backward[0]);
    run_equal(b, &(variant){"adding backward, three threads", 3, true, true, false},
              b->backward[1]);
    if (b->row->in_place_gin >= 0 && !(b->c->no_op_in_place & 2))
        run_equal(b, &(variant){"backward in place", PLAIN_THREADS, true, false, true},
                  b->backward[0]);
    if (!b->row->free_of_batch) run_empty(b, plain_backward);
}

static double loss_of(const op_suite *suite, ref_call *r) {
    suite->forward(r);
    if (suite->loss) return suite->loss(r);
    double sum = 0;
    for (int i = 0; i < OP_OUTPUTS; i++)
        for (int64_t e = 0; r->gout[i].x && e < r->gout[i].rows * r->gout[i].cols; e++)
            sum += r->gout[i].x[e] * r->out[i].x[e];
    return sum;
}

/* The loss after a step of h along `direction` from `base`; input i is left there. */
static double loss_at(bench *b, int i, const double *base, const double *direction, double h) {
    ref_tensor *t = &b->ref.in[i];
    for (int64_t e = 0; e < t->rows * t->cols; e++) t->x[e] = base[e] + h * direction[e];
    return loss_of(b->suite, &b->ref);
}

/* Fourth-order central difference of the reference's loss along a random direction of input i.
 */
static void check_derivative(bench *b, int i) {
    ref_tensor *t = &b->ref.in[i];
    int64_t n = t->rows * t->cols;
    double *base = checked_alloc(n * 8), *direction = checked_alloc(n * 8);
    memcpy(base, t->x, (size_t)n * 8);
    op_test_normal(direction, DTYPE_F64, n, 1, 333 + (uint32_t)i);
    b->suite->forward(&b->ref);
    zero_gradients(&b->ref);
    b->suite->backward(&b->ref);
    double along = 0, square = 0, h = 1e-3 / sqrt((double)n);
    for (int64_t e = 0; e < n; e++) along += b->ref.gin[i].x[e] * direction[e];
    for (int64_t e = 0; e < n; e++) square += b->ref.gin[i].x[e] * b->ref.gin[i].x[e];
    double near = loss_at(b, i, base, direction, h) - loss_at(b, i, base, direction, -h);
    double far =
        loss_at(b, i, base, direction, 2 * h) - loss_at(b, i, base, direction, -2 * h);
    double measured = (8 * near - far) / (12 * h);
    memcpy(t->x, base, (size_t)n * 8);
    mem_free(base);
    mem_free(direction);
    if (!(fabs(measured - along) <= 1e-6 * sqrt(square)))
        fail_msg(
            "%s, case \"%s\": the reference's gradient of in[%d] is %.12g along a direction, "
            "its loss changes by %.12g",
            b->row->name, b->c->name, i, along, measured);
    gradients_checked[b->suite->op] |= 1u << i;
}

static void check_derivatives(bench *b) {
    b->ref.rounding = false;
    for (int i = 0; i < OP_INPUTS; i++)
        if (b->c->gradients >> i & 1) check_derivative(b, i);
}

void op_test(const op_suite *suite, const op_case *c) {
    static const dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 3; i++) {
        if (c->types && !(c->types >> types[i] & 1)) continue;
        bench b;
        bench_open(&b, suite, c, types[i]);
        check_forward(&b);
        if (c->gradients) check_backward(&b);
        if (c->gradients && types[i] == DTYPE_F32) check_derivatives(&b);
        bench_close(&b);
    }
    ran[suite->op] = true;
}
