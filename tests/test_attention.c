/* test_attention.c: what attention promises beyond one call: documents do not touch each
 * other, and generation with a cache sees what the whole sequence would. Numbers against fp64
 * are in reference_attention.c. */
#include "op_test.h"

#include "common/alloc.h"
#include "common/checked.h"

#include <math.h>
#include <string.h>

enum { HEADS = 4, KV_HEADS = 2, DIM = 24, WIDTH = (HEADS + 2 * KV_HEADS) * DIM };

static const op_attr plain = {.attention = {HEADS, KV_HEADS, DIM, .scale = 0.2f}};

/* A packed batch: its call and operands. */
typedef struct batch {
    op_call call;
    op_attr attr;
    backend *on;
} batch;

static tensor filled(dtype type, int64_t rows, int64_t cols) {
    tensor_format f = format_of(type, rows, cols);
    void *data = mem_alloc_array((size_t)max_i64(rows * cols, 1), 4, "test operand");
    assert_non_null(data);
    return tensor_at(&f, data);
}

static void batch_open(batch *b, dtype type, const int32_t *starts, int64_t documents,
                       int threads) {
    int64_t rows = starts[documents];
    memset(b, 0, sizeof *b);
    b->attr = plain;
    b->on = op_test_backend(threads);
    op_call *c = &b->call;
    c->op = OP_ATTENTION, c->attr = &b->attr, c->compute = type;
    c->rows = c->used = rows, c->documents = documents;
    c->in[ATTENTION_QKV] = filled(type, rows, WIDTH);
    c->in[ATTENTION_STARTS] = filled(DTYPE_I32, documents + 1, 1);
    memcpy(c->in[ATTENTION_STARTS].data, starts, (size_t)(documents + 1) * sizeof *starts);
    c->out[ATTENTION_Y] = filled(type, rows, HEADS * DIM);
    c->out[ATTENTION_LSE] = filled(DTYPE_F32, rows, HEADS);
    c->gout[ATTENTION_Y] = filled(type, rows, HEADS * DIM);
    c->gin[ATTENTION_QKV] = filled(type, rows, WIDTH);
    op_test_normal(c->in[ATTENTION_QKV].data, type, rows * WIDTH, 1, 1);
    op_test_normal(c->gout[ATTENTION_Y].data, type, rows * HEADS * DIM, 1, 2);
}

static void batch_close(batch *b) {
    for (int i = 0; i < OP_INPUTS; i++) {
        mem_free(b->call.in[i].data);
        mem_free(b->call.gin[i].data);
    }
    for (int i = 0; i < OP_OUTPUTS; i++) {
        mem_free(b->call.out[i].data);
        mem_free(b->call.gout[i].data);
    }
}

enum { OPERANDS = 2 * (OP_INPUTS + OP_OUTPUTS) };

static tensor *operand(op_call *c, int i) {
    tensor *of[] = {c->in, c->out, c->gin, c->gout};
    int from[] = {0, OP_INPUTS, OP_INPUTS + OP_OUTPUTS, 2 * OP_INPUTS + OP_OUTPUTS, OPERANDS};
    for (int k = 3;; k--)
        if (i >= from[k]) return of[k] + i - from[k];
}

static int64_t bytes_of(const tensor *t) {
    return t->data ? t->rows * t->cols * dtype_bytes(t->type) : 0;
}

/* The call with its operands in the back end's memory; and back again. */
static op_call placed(const batch *b) {
    op_call c = b->call;
    for (int i = 0; i < OPERANDS && !b->on->host_visible; i++) {
        tensor *t = operand(&c, i);
        void *at = t->data;
        if (!bytes_of(t)) continue;
        assert_int_equal(b->on->table->reserve(b->on, false, bytes_of(t), &at), STATUS_OK);
        assert_int_equal(b->on->table->upload(b->on, at, t->data, bytes_of(t)), STATUS_OK);
        t->data = at;
    }
    return c;
}
static void fetch(batch *b, op_call *c) {
    for (int i = 0; i < OPERANDS && !b->on->host_visible; i++) {
        tensor *from = operand(c, i), *to = operand(&b->call, i);
        int64_t n = bytes_of(from);
        if (!n) continue;
        assert_int_equal(b->on->table->download(b->on, to->data, from->data, n), STATUS_OK);
        b->on->table->release(b->on, false, from->data, n);
    }
}

static status run(batch *b, bool backward) {
    op_shape shape = {.op = OP_ATTENTION,
                      .attr = &b->attr,
                      .compute = b->call.compute,
                      .rows = b->call.rows,
                      .backward = backward,
                      .gradients = 1};
    op_call c = placed(b);
    c.scratch_bytes = b->on->table->scratch(b->on, &shape);
    if (c.scratch_bytes)
        assert_int_equal(b->on->table->reserve(b->on, false, c.scratch_bytes, &c.scratch),
                         STATUS_OK);
    op_function f = (backward ? b->on->table->backward : b->on->table->forward)[OP_ATTENTION];
    status result = f(b->on, &c);
    fetch(b, &c);
    if (c.scratch_bytes) b->on->table->release(b->on, false, c.scratch, c.scratch_bytes);
    return result;
}

static void batch_run(batch *b, bool backward) {
    assert_int_equal(run(b, backward), STATUS_OK);
}

/* Rows [first, first + n) of a against rows [at, at + n) of b, in bits. */
static bool rows_equal(const tensor *a, int64_t first, const tensor *b, int64_t at,
                       int64_t n) {
    size_t row = (size_t)(a->cols * dtype_bytes(a->type));
    return !memcmp((char *)a->data + (size_t)first * row, (char *)b->data + (size_t)at * row,
                   (size_t)n * row);
}

static bool document_equal(const batch *a, int64_t first, const batch *b, int64_t at,
                           int64_t n) {
    return rows_equal(&a->call.out[0], first, &b->call.out[0], at, n) &&
           rows_equal(&a->call.out[1], first, &b->call.out[1], at, n) &&
           rows_equal(&a->call.gin[0], first, &b->call.gin[0], at, n);
}

static const int32_t starts[] = {0, 65, 128, 328, 329};
enum { DOCUMENTS = 4 };

/* Other values in one document change no bit of the others. */
static void test_documents_are_isolated(void **state) {
    for (int changed = 0; changed < DOCUMENTS; changed++) {
        batch a, b;
        batch_open(&a, DTYPE_BF16, starts, DOCUMENTS, 2);
        batch_open(&b, DTYPE_BF16, starts, DOCUMENTS, 2);
        int64_t first = starts[changed], n = starts[changed + 1] - first;
        op_test_normal((uint16_t *)b.call.in[0].data + first * WIDTH, DTYPE_BF16, n * WIDTH, 3,
                       9);
        op_test_normal((uint16_t *)b.call.gout[0].data + first * HEADS * DIM, DTYPE_BF16,
                       n * HEADS * DIM, 3, 10);
        for (int backward = 0; backward < 2; backward++) {
            batch_run(&a, backward);
            batch_run(&b, backward);
        }
        for (int d = 0; d < DOCUMENTS; d++) {
            int64_t at = starts[d], rows = starts[d + 1] - at;
            assert_int_equal(document_equal(&a, at, &b, at, rows), d != changed);
        }
        batch_close(&a);
        batch_close(&b);
    }
}

static void check_place(dtype type) {
    batch all;
    size_t bytes = (size_t)dtype_bytes(type);
    batch_open(&all, type, starts, DOCUMENTS, 2);
    batch_run(&all, false);
    batch_run(&all, true);
    for (int d = 0; d < DOCUMENTS; d++) {
        int64_t first = starts[d], n = starts[d + 1] - first;
        batch one;
        batch_open(&one, type, (int32_t[]){0, (int32_t)n}, 1, 3);
        memcpy(one.call.in[0].data,
               (char *)all.call.in[0].data + (size_t)first * WIDTH * bytes,
               (size_t)n * WIDTH * bytes);
        memcpy(one.call.gout[0].data,
               (char *)all.call.gout[0].data + (size_t)first * HEADS * DIM * bytes,
               (size_t)n * HEADS * DIM * bytes);
        batch_run(&one, false);
        batch_run(&one, true);
        assert_true(document_equal(&all, first, &one, 0, n));
        batch_close(&one);
    }
    batch_close(&all);
}

/* A document alone in a batch gives the bits that it gives among others. */
static void test_place_in_batch_does_not_matter(void **state) {
    check_place(DTYPE_F32);
    check_place(DTYPE_BF16);
}

/* Few documents and heads make the backward take two passes where there are more threads than
 * work; its bits are those of one pass. */
static void test_two_passes_equal_one(void **state) {
    batch one, two;
    int32_t whole[] = {0, 300};
    batch_open(&one, DTYPE_F32, whole, 1, 1);
    batch_open(&two, DTYPE_F32, whole, 1, 3);
    for (int window = 0; window < 100; window += 70) {
        one.attr.attention.window = two.attr.attention.window = window;
        for (int backward = 0; backward < 2; backward++) {
            batch_run(&one, backward);
            batch_run(&two, backward);
        }
        assert_true(document_equal(&one, 0, &two, 0, 300));
    }
    batch_close(&one);
    batch_close(&two);
}

/* ---- generation ---- */

enum { SEQUENCES = 3, CACHE_ROWS = 210, STEPS = 5 };
static const int32_t lengths[SEQUENCES] = {205, 64, 70};

/* Largest difference of a document's rows from the whole run's, over the run's rms. */
static double difference(const batch *whole, int64_t row, const batch *part, int64_t at,
                         int64_t n) {
    static double a[CACHE_ROWS * HEADS * DIM], b[CACHE_ROWS * HEADS * DIM];
    int64_t cols = HEADS * DIM, bytes = dtype_bytes(whole->call.compute);
    double worst = 0, square = 0;
    op_test_widen(a, (char *)whole->call.out[0].data + row * cols * bytes, whole->call.compute,
                  n * cols);
    op_test_widen(b, (char *)part->call.out[0].data + at * cols * bytes, part->call.compute,
                  n * cols);
    for (int64_t i = 0; i < n * cols; i++) {
        worst = fmax(worst, fabs(a[i] - b[i]));
        square += a[i] * a[i];
    }
    return worst / sqrt(square / (double)(n * cols));
}

/* Runs the next `counts` rows of each sequence, whose first `past` rows are in the cache. */
static void check_part(const batch *whole, tensor cache, const int32_t *past,
                       const int32_t *counts, double tolerance) {
    int32_t begin[SEQUENCES + 1] = {0}, from = 0;
    size_t row = (size_t)(WIDTH * dtype_bytes(whole->call.compute));
    for (int d = 0; d < SEQUENCES; d++) begin[d + 1] = begin[d] + counts[d];
    batch part;
    batch_open(&part, whole->call.compute, begin, SEQUENCES, 2);
    part.attr = whole->attr;
    part.call.in[ATTENTION_CACHE] = cache;
    part.call.in[ATTENTION_PAST] = filled(DTYPE_I32, SEQUENCES, 1);
    memcpy(part.call.in[ATTENTION_PAST].data, past, SEQUENCES * sizeof *past);
    for (int d = 0; d < SEQUENCES; from += lengths[d], d++)
        memcpy((char *)part.call.in[0].data + (size_t)begin[d] * row,
               (char *)whole->call.in[0].data + (size_t)(from + past[d]) * row,
               (size_t)counts[d] * row);
    batch_run(&part, false);
    from = 0;
    for (int d = 0; d < SEQUENCES; from += lengths[d], d++)
        assert_true(difference(whole, from + past[d], &part, begin[d], counts[d]) <=
                    tolerance);
    part.call.in[ATTENTION_CACHE].data = NULL;
    batch_close(&part);
}

/* Prefill of all but the last rows, then one row at a time, equals the whole sequence. */
static void check_generation(dtype type, int window, double tolerance) {
    int32_t begin[SEQUENCES + 1] = {0}, past[SEQUENCES] = {0}, counts[SEQUENCES];
    for (int d = 0; d < SEQUENCES; d++) begin[d + 1] = begin[d] + lengths[d];
    batch whole;
    batch_open(&whole, type, begin, SEQUENCES, 2);
    whole.attr.attention.window = window;
    whole.attr.attention.cache_rows = CACHE_ROWS;
    batch_run(&whole, false);
    tensor cache = filled(type, SEQUENCES * CACHE_ROWS, 2 * KV_HEADS * DIM);
    for (int d = 0; d < SEQUENCES; d++) counts[d] = lengths[d] - STEPS;
    check_part(&whole, cache, past, counts, tolerance);
    for (int step = 0; step < STEPS; step++) {
        for (int d = 0; d < SEQUENCES; d++) past[d] += counts[d], counts[d] = 1;
        check_part(&whole, cache, past, counts, tolerance);
    }
    mem_free(cache.data);
    batch_close(&whole);
}

static void test_generation_equals_whole(void **state) {
    for (int window = 0; window < 100; window += 33) {
        check_generation(DTYPE_F32, window, 64 * 0x1p-24);
        /* one rounding the other way; on the card a row's weights are rounded where it is one of
         * many, and not where it is alone */
        check_generation(DTYPE_BF16, window,
                         (op_test_backend(2)->host_visible ? 4 : 8) * 0x1p-8);
    }
}

/* Keys beyond the cache are refused, and none is written. The card's host does not know where
 * sequences end. */
static void test_full_cache_is_refused(void **state) {
    batch b;
    if (!op_test_backend(1)->host_visible) skip();
    batch_open(&b, DTYPE_F32, (int32_t[]){0, 3}, 1, 1);
    b.attr.attention.cache_rows = 4;
    b.call.in[ATTENTION_CACHE] = filled(DTYPE_F32, 4, 2 * KV_HEADS * DIM);
    b.call.in[ATTENTION_PAST] = filled(DTYPE_I32, 1, 1);
    *(int32_t *)b.call.in[ATTENTION_PAST].data = 2;
    assert_int_equal(run(&b, false), STATUS_INTERNAL);
    assert_non_null(strstr(status_message(), "do not fit a cache of 4"));
    for (int i = 0; i < 4 * 2 * KV_HEADS * DIM; i++)
        assert_true(((float *)b.call.in[ATTENTION_CACHE].data)[i] == 0);
    batch_close(&b);
}

static int close_back_ends(void **state) {
    op_test_close();
    return mem_blocks() != 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents_are_isolated),
        cmocka_unit_test(test_place_in_batch_does_not_matter),
        cmocka_unit_test(test_two_passes_equal_one),
        cmocka_unit_test(test_generation_equals_whole),
        cmocka_unit_test(test_full_cache_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, close_back_ends);
}
