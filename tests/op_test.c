/* op_test.c: see op_test.h. Compares what a bench's runs give with the reference, and the
 * reference with itself. */
#include "op_bench.h"

#include "common/alloc.h"

#ifdef OP_TEST_EMULATED
#include "emulator/emulator.h"
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLAIN_THREADS = 2 };

static uint32_t gradients_checked[OP_COUNT];
static bool ran[OP_COUNT];
static backend *backends[4];

uint32_t op_test_gradients(operation op) {
    return gradients_checked[op];
}
bool op_test_ran(operation op) {
    return ran[op];
}

/* OP_TEST_ONCE, a 16-bit type: a build that looks at accesses runs each case once, without that
 * type unless NIBBLE_FULL is set, and leaves the references' own check to the others. */
#ifdef OP_TEST_ONCE
static const bool all_variants = false;
static bool left_out(dtype type) {
    return type == OP_TEST_ONCE && !getenv("NIBBLE_FULL");
}
#else
static const bool all_variants = true;
static bool left_out(dtype type) {
    return false;
}
#endif

#ifdef OP_TEST_CUDA
static status open_back_end(int threads) {
    return backends[0] ? STATUS_OK : backend_cuda_open(&backends[0]);
}
static int place_of(int threads) {
#ifdef OP_TEST_EMULATED
    static const char *const orders[] = {"round", "greedy", "reversed"};
    emulator_set("EMULATOR_ORDER", orders[threads - 1]);
#endif
    return 0;
}
#else
static status open_back_end(int threads) {
    return backends[threads] ? STATUS_OK : backend_cpu_open(&backends[threads], threads);
}
static int place_of(int threads) {
    return threads;
}
#endif

backend *op_test_backend(int threads) {
    assert_in_range(threads, 1, 3);
    if (open_back_end(threads) != STATUS_OK) fail_msg("back end: %s", status_message());
    return backends[place_of(threads)];
}

void op_test_close(void) {
    for (int i = 0; i < 4; i++) {
        if (backends[i]) backends[i]->table->close(backends[i]);
        backends[i] = NULL;
    }
}

/* ---- comparing ---- */

static double rms_of(const ref_tensor *t) {
    double sum = 0;
    int64_t n = t->rows * t->cols;
    for (int64_t i = 0; i < n; i++) sum += t->x[i] * t->x[i];
    return n ? sqrt(sum / (double)n) : 0;
}

/* Roundings of a result that the card makes with an intermediate rounded to C; 0: others. */
static double card_roundings(const bench *b, const variant *v, int i) {
    const tensor *t = bench_operand((op_call *)&b->call, i);
    bool card = !op_test_backend(PLAIN_THREADS)->host_visible;
    if (!card || t->type == DTYPE_F32 || i < FIRST_OUT) return 0;
    return v->backward ? b->c->card_k_backward : b->c->card_k_forward;
}

/* Operand i's bytes against `want`, in half-ulps of C; see op_test.h. */
static void compare(const bench *b, const variant *v, int i, const void *bytes,
                    const ref_tensor *want, double k) {
    const tensor *t = bench_operand((op_call *)&b->call, i);
    double rms = rms_of(want), u = op_test_half_ulp(b->compute),
           u32 = op_test_half_ulp(DTYPE_F32);
    double flips = b->c->flips > 0 ? b->c->flips : 0.01;
    if (card_roundings(b, v, i) > 0) k = card_roundings(b, v, i), flips = 1;
    int64_t flipped = 0, n = t->rows * t->cols;
    for (int64_t e = 0; e < n; e++) {
        double got = op_test_read(bytes, t->type, e / t->cols * t->stride + e % t->cols);
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
                         : got == op_test_round(t->type, x) || error <= k * u32 * rms;
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
        if (!after[i] || !bench_is_written(b, v, i)) continue;
        if (i >= FIRST_OUT && b->c->unchecked >> (i - FIRST_OUT) & 1) continue;
        compare(b, v, i, after[i], bench_reference((ref_call *)&b->ref, i), k);
    }
}

/* The reference's gradient: what stood there (if added to) + the derivative, in `out`. */
static void expected_gradient(const bench *b, const variant *v, int input,
                              const double *gradient, ref_tensor *out) {
    const ref_tensor *g = &b->ref.gin[input];
    *out = (ref_tensor){bench_alloc(g->rows * g->cols * 8), g->rows, g->cols};
    bool add = v->add || bench_is_parameter(b, input);
    const tensor *t = &b->call.gin[input];
    for (int64_t e = 0; e < g->rows * g->cols; e++) {
        double old = op_test_read(b->initial[FIRST_GIN + input], t->type,
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
        if (after[i]) compare(b, v, i, after[i], bench_reference(&b->ref, i), k);
}

/* Whether the operand's bits may follow the number of threads. */
static bool by_library(const bench *b, int i) {
    if (!op_test_backend(PLAIN_THREADS)->host_visible) return false;
    if (i >= FIRST_GIN) return b->c->library_gins >> (i - FIRST_GIN) & 1;
    return i >= FIRST_OUT && i < FIRST_GOUT && b->c->library_outs >> (i - FIRST_OUT) & 1;
}

/* Runs the variant and asserts the bits of `expected`. */
static void run_equal(bench *b, const variant *v, void *expected[OPERANDS]) {
    void *after[OPERANDS];
    if (!all_variants && v->threads != PLAIN_THREADS) return;
    bench_run(b, v, after);
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
    bench_free_all(after);
}

/* ---- the checks ---- */

static const variant plain_forward = {"forward", PLAIN_THREADS, false, false, false};
static const variant plain_backward = {"backward", PLAIN_THREADS, true, false, false};
static const variant added_backward = {"adding backward", PLAIN_THREADS, true, true, false};

/* Whether the table's in-place pair applies to this case and both its operands are there. */
static bool may_alias(const bench *b, bool backward) {
    const operation_row *row = b->row;
    if (b->c->no_op_in_place >> backward & 1) return false;
    if (backward)
        return row->in_place_gin >= 0 && b->initial[FIRST_GIN + row->in_place_gin] &&
               b->initial[FIRST_GOUT + row->in_place_gout];
    return row->in_place_out >= 0;
}

static void check_forward(bench *b) {
    bench_run(b, &plain_forward, b->forward);
    b->suite->forward(&b->ref);
    check_outputs(b, &plain_forward, b->forward);
    run_equal(b, &(variant){"forward, one thread", 1, false, false, false}, b->forward);
    run_equal(b, &(variant){"forward, three threads", 3, false, false, false}, b->forward);
    if (may_alias(b, false))
        run_equal(b, &(variant){"forward in place", PLAIN_THREADS, false, false, true},
                  b->forward);
    if (!b->row->free_of_batch) bench_run_empty(b, plain_forward);
}

static void zero_gradients(ref_call *r) {
    for (int i = 0; i < OP_INPUTS; i++)
        if (r->gin[i].x) memset(r->gin[i].x, 0, (size_t)(r->gin[i].rows * r->gin[i].cols) * 8);
}

static void check_backward(bench *b) {
    zero_gradients(&b->ref);
    b->suite->backward(&b->ref);
    bench_run(b, &plain_backward, b->backward[0]);
    check_gradients(b, &plain_backward, b->backward[0]);
    bench_run(b, &added_backward, b->backward[1]);
    check_gradients(b, &added_backward, b->backward[1]);
    run_equal(b, &(variant){"backward, one thread", 1, true, false, false}, b->backward[0]);
    run_equal(b, &(variant){"adding backward, three threads", 3, true, true, false},
              b->backward[1]);
    if (may_alias(b, true))
        run_equal(b, &(variant){"backward in place", PLAIN_THREADS, true, false, true},
                  b->backward[0]);
    if (!b->row->free_of_batch) bench_run_empty(b, plain_backward);
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
    double *base = bench_alloc(n * 8), *direction = bench_alloc(n * 8);
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
}

static void check_derivatives(bench *b) {
    b->ref.rounding = false;
    gradients_checked[b->suite->op] |= b->c->gradients;
    for (int i = 0; i < OP_INPUTS && all_variants; i++)
        if (b->c->gradients >> i & 1) check_derivative(b, i);
}

void op_test(const op_suite *suite, const op_case *c) {
    static const dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 3; i++) {
        if ((c->types && !(c->types >> types[i] & 1)) || left_out(types[i])) continue;
        bench b;
        bench_open(&b, suite, c, types[i]);
        check_forward(&b);
        if (c->gradients) check_backward(&b);
        if (c->gradients && types[i] == DTYPE_F32) check_derivatives(&b);
        bench_close(&b);
    }
    ran[suite->op] = true;
}
