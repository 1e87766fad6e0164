/* reference_head.c: the embedding and the head in fp64: OP_EMBEDDING, OP_HEAD_CROSS_ENTROPY,
 * OP_LOGITS, OP_LOSS_SUM. */
#include "op_test.h"

#include "common/alloc.h"
#include "common/checked.h"

#include <math.h>
#include <string.h>

enum { MOST_ROWS = 1200 };

/* ---- embedding ---- */

static void embedding_forward(ref_call *r) {
    int64_t width = r->in[EMBEDDING_W].cols, vocabulary = r->in[EMBEDDING_W].rows;
    double scale = r->call->attr->embedding.scale != 0 ? r->call->attr->embedding.scale : 1;
    for (int64_t row = 0; row < r->call->rows; row++)
        for (int64_t j = 0; j < width; j++) {
            double id = r->in[EMBEDDING_IDS].x[row];
            bool token = id >= 0 && id < (double)vocabulary;
            double w = token ? r->in[EMBEDDING_W].x[(int64_t)id * width + j] : 0;
            r->out[0].x[row * width + j] = ref_round(r, w * scale);
        }
}

static void embedding_backward(ref_call *r) {
    int64_t width = r->in[EMBEDDING_W].cols, vocabulary = r->in[EMBEDDING_W].rows;
    double scale = r->call->attr->embedding.scale != 0 ? r->call->attr->embedding.scale : 1;
    for (int64_t row = 0; row < r->call->rows; row++) {
        double id = r->in[EMBEDDING_IDS].x[row];
        if (id < 0 || id >= (double)vocabulary) continue;
        for (int64_t j = 0; j < width; j++)
            r->gin[EMBEDDING_W].x[(int64_t)id * width + j] +=
                scale * r->gout[0].x[row * width + j];
    }
}

static void embedding_case(const op_suite *suite, const char *name, int64_t rows,
                           int64_t width, float scale, bool windows) {
    int32_t ids[MOST_ROWS];
    for (int64_t i = 0; i < rows; i++)
        ids[i] = (int32_t)(i * i * 7 % 29);               /* some twice, some never */
    if (rows > 3) ids[rows - 2] = -1, ids[rows - 1] = 31; /* no tokens */
    op_case c = {
        .name = name,
        .attr.embedding.scale = scale,
        .rows = rows,
        .in = {format_of(DTYPE_I32, rows, 1), format_of(TYPE_C, 31, width)},
        .out = {format_of(TYPE_C, rows, width)},
        .ints = {ids},
        .windows = windows,
        .gradients = 1u << EMBEDDING_W,
        .parameters = 1u << EMBEDDING_W,
        .gouts = 1,
    };
    op_test(suite, &c);
}

static void embedding_run(const op_suite *suite) {
    embedding_case(suite, "rows and columns beyond a slab", 100, 172, 0, false);
    embedding_case(suite, "one row", 1, 64, 0, false);
    embedding_case(suite, "scaled, windows", 37, 40, 6.3f, true);
}

/* ---- cross entropy ---- */

/* The logits of one row [V], rounded as the head rounds them. */
static void row_logits(const ref_call *r, int64_t row, double *logits) {
    int64_t width = r->in[HEAD_W].cols;
    for (int64_t v = 0; v < r->in[HEAD_W].rows; v++) {
        double sum = 0;
        for (int64_t j = 0; j < width; j++)
            sum += r->in[HEAD_X].x[row * width + j] * r->in[HEAD_W].x[v * width + j];
        logits[v] = ref_round(r, sum);
    }
}

static double lse_of(const double *logits, int64_t n) {
    double most = -INFINITY, sum = 0;
    for (int64_t v = 0; v < n; v++) most = fmax(most, logits[v]);
    for (int64_t v = 0; v < n; v++) sum += exp(logits[v] - most);
    return most + log(sum);
}

static void head_forward(ref_call *r) {
    int64_t vocabulary = r->in[HEAD_W].rows;
    double *logits = mem_alloc((size_t)vocabulary * 8, "reference");
    for (int64_t row = 0; row < r->call->rows; row++) {
        double target = r->in[HEAD_TARGETS].x[row];
        r->out[HEAD_LOGP].x[row] = r->out[HEAD_LSE].x[row] = 0;
        if (target < 0) continue;
        row_logits(r, row, logits);
        r->out[HEAD_LSE].x[row] = lse_of(logits, vocabulary);
        r->out[HEAD_LOGP].x[row] = logits[(int64_t)target] - r->out[HEAD_LSE].x[row];
    }
    mem_free(logits);
}

static void head_backward(ref_call *r) {
    int64_t vocabulary = r->in[HEAD_W].rows, width = r->in[HEAD_W].cols;
    double *logits = mem_alloc((size_t)vocabulary * 8, "reference");
    for (int64_t row = 0; row < r->call->rows; row++) {
        double target = r->in[HEAD_TARGETS].x[row], weight = r->in[HEAD_WEIGHTS].x[row];
        if (target < 0) continue;
        row_logits(r, row, logits);
        double lse = lse_of(logits, vocabulary);
        for (int64_t v = 0; v < vocabulary; v++) {
            double d = ref_round(r, weight * (exp(logits[v] - lse) - ((double)v == target)));
            for (int64_t j = 0; j < width; j++) {
                if (r->gin[HEAD_X].x)
                    r->gin[HEAD_X].x[row * width + j] += d * r->in[HEAD_W].x[v * width + j];
                if (r->gin[HEAD_W].x)
                    r->gin[HEAD_W].x[v * width + j] += d * r->in[HEAD_X].x[row * width + j];
            }
        }
    }
    mem_free(logits);
}

static double head_loss(ref_call *r) {
    double sum = 0;
    for (int64_t row = 0; row < r->call->rows; row++)
        sum -= r->in[HEAD_WEIGHTS].x[row] * r->out[HEAD_LOGP].x[row];
    return sum;
}

static void head_case(const op_suite *suite, const char *name, int64_t rows, int64_t width,
                      int64_t vocabulary, int masked, uint32_t gradients, bool windows,
                      uint32_t types) {
    int32_t targets[MOST_ROWS];
    for (int64_t i = 0; i < rows; i++)
        targets[i] = masked && i % masked ? -1 : (int32_t)(i * 37 % vocabulary);
    op_case c = {
        .name = name,
        .rows = rows,
        .capacity = rows + 100,
        .types = types,
        .in = {format_of(TYPE_C, rows, width), format_of(TYPE_C, vocabulary, width),
               format_of(DTYPE_I32, rows, 1), format_of(DTYPE_F32, rows, 1)},
        .out = {format_of(DTYPE_F32, rows, 1), format_of(DTYPE_F32, rows, 1)},
        .ints = {[HEAD_TARGETS] = targets},
        .spread = {[HEAD_W] = 0.2f},
        .windows = windows,
        .gradients = gradients,
        .parameters = gradients & 1u << HEAD_W,
        .library_outs = 3,
        .library_gins = 3,
        .k_forward = 4 + 2 * sqrt((double)width),
        /* dlogits carry the logits' error, relative to themselves: up to 5 units each */
        .k_backward = 4 + 6 * sqrt((double)max_i64(width, max_i64(vocabulary, rows))),
        .flips = 1, /* one logit rounded the other way moves a whole row of dlogits */
    };
    op_test(suite, &c);
}

static void head_run(const op_suite *suite) {
    static const uint32_t f32 = 1u << DTYPE_F32;
    head_case(suite, "every row", 37, 64, 130, 0, 3, false, 0);
    head_case(suite, "a row in three", 200, 48, 70, 3, 3, true, 0);
    head_case(suite, "frozen head", 64, 172, 100, 2, 1, false, 0);
    head_case(suite, "a vocabulary of several pieces", 9, 24, 2500, 0, 3, false, 0);
    head_case(suite, "several chunks", 1100, 8, 33, 0, 3, false, f32 | 1u << DTYPE_BF16);
    head_case(suite, "evaluation", 50, 64, 300, 4, 0, false, 0);
    head_case(suite, "one row", 1, 64, 33, 0, 3, false, f32);
}

/* ---- logits ---- */

static void logits_forward(ref_call *r) {
    int64_t width = r->in[LOGITS_W].cols, vocabulary = r->in[LOGITS_W].rows;
    for (int64_t i = 0; i < r->call->selected; i++)
        for (int64_t v = 0; v < vocabulary; v++) {
            double sum = 0;
            for (int64_t j = 0; j < width; j++)
                sum += r->in[LOGITS_X].x[(int64_t)r->in[LOGITS_SELECTED].x[i] * width + j] *
                       r->in[LOGITS_W].x[v * width + j];
            r->out[0].x[i * vocabulary + v] = sum;
        }
}

static void logits_case(const op_suite *suite, const char *name, int64_t rows,
                        int64_t selected, const int32_t *which) {
    op_case c = {
        .name = name,
        .rows = rows,
        .selected = selected,
        .in = {format_of(TYPE_C, rows, 172), format_of(TYPE_C, 77, 172),
               format_of(DTYPE_I32, selected, 1)},
        .out = {format_of(DTYPE_F32, selected, 77)},
        .ints = {[LOGITS_SELECTED] = which},
        .spread = {[LOGITS_W] = 0.2f},
        .library_outs = 1,
        .k_forward = 30,
    };
    op_test(suite, &c);
}

static void logits_run(const op_suite *suite) {
    static const int32_t which[] = {36, 0, 11, 11};
    logits_case(suite, "four of 37", 37, 4, which);
    logits_case(suite, "one of 37", 37, 1, which);
}

/* ---- sums ---- */

static void loss_sum_forward(ref_call *r) {
    for (int64_t row = 0; row < r->call->rows; row++) {
        if (r->in[LOSS_TARGETS].x[row] < 0) continue;
        r->in[LOSS_TOTAL].x[0] -= r->in[LOSS_LOGP].x[row];
        r->in[LOSS_TOTAL].x[1] += 1;
    }
}

static void loss_sum_run(const op_suite *suite) {
    int32_t targets[200];
    for (int i = 0; i < 200; i++) targets[i] = i % 3 ? i : -1;
    op_case c = {
        .name = "two rows in three",
        .rows = 200,
        .in = {format_of(DTYPE_F32, 200, 1), format_of(DTYPE_I32, 200, 1),
               format_of(DTYPE_F64, 1, 2)},
        .ints = {[LOSS_TARGETS] = targets},
    };
    op_test(suite, &c);
}

const op_suite suite_embedding = {OP_EMBEDDING, embedding_forward, embedding_backward, NULL,
                                  embedding_run};
const op_suite suite_head = {OP_HEAD_CROSS_ENTROPY, head_forward, head_backward, head_loss,
                             head_run};
const op_suite suite_logits = {OP_LOGITS, logits_forward, NULL, NULL, logits_run};
const op_suite suite_loss_sum = {OP_LOSS_SUM, loss_sum_forward, NULL, NULL, loss_sum_run};
