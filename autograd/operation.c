/* operation.c: the table of operations: who reads what, and what a call costs.
 *
 * Facts only; the mathematics stands in the back ends, the meaning in operation.h. Masks are
 * supersets: where an optional operand decides (OP_RMSNORM with a residual reads the sum and
 * not x; OP_ROPE reads x only with norms), whoever derives looks at the operands too. FLOPs
 * count a multiply and an add as two, matrix products only; bytes count every operand and
 * result once, what is updated in place twice. Both are for rates, predictions and progress,
 * not for placing memory. */
#include "autograd/operation.h"

#include <assert.h>
#include <stddef.h>

#define IN(i) (1u << (i))

/* ---- costs ---- */

static bool present(const tensor_format *f) {
    return f->type < DTYPE_COUNT && f->cols > 0;
}

static double bytes_of(const op_shape *s, const tensor_format *f) {
    if (!present(f)) return 0;
    int64_t rows = f->rows ? f->rows : s->rows;
    return (double)rows * (double)f->cols * dtype_bits(f->type) / 8;
}

/* Every operand once, what the operation updates in place twice. */
static double bytes_all(const op_shape *s) {
    const operation_row *row = operation_get(s->op);
    double bytes = 0;
    for (int i = 0; i < row->inputs; i++)
        bytes += bytes_of(s, &s->in[i]) * (row->state_inputs & IN(i) ? 2 : 1);
    for (int i = 0; i < row->outputs; i++) bytes += bytes_of(s, &s->out[i]);
    return bytes;
}

/* A backward reads what it needs of the forward and the gradients of the outputs, and writes
 * those that are wanted; of a pair that is equal there is one. */
static double bytes_backward(const op_shape *s) {
    const operation_row *row = operation_get(s->op);
    uint32_t wanted = s->gradients;
    double bytes = 0;
    if (row->same_gradient[0] >= 0 && wanted & IN(row->same_gradient[0]))
        wanted &= ~IN(row->same_gradient[1]);
    for (int i = 0; i < row->inputs; i++)
        bytes += bytes_of(s, &s->in[i]) *
                 (!!(row->reads_inputs & IN(i)) + !!(wanted & IN(i)));
    for (int i = 0; i < row->outputs; i++)
        bytes += bytes_of(s, &s->out[i]) *
                 (!!(row->reads_outputs & IN(i)) + !!(s->gouts & IN(i)));
    return bytes;
}

static double bytes_plain(const op_shape *s) {
    return s->backward ? bytes_backward(s) : bytes_all(s);
}

/* A gather touches the rows it takes, not the table. */
static double bytes_gather(const op_shape *s) {
    return 2 * bytes_of(s, &s->out[0]);
}

static double flops_none(const op_shape *s) {
    (void)s;
    return 0;
}

static double flops_linear(const op_shape *s) {
    double rows = (double)s->rows, in = (double)s->attr->linear.in, flops = 0;
    for (int k = 0; k < s->attr->linear.parts; k++) {
        double out = (double)s->attr->linear.out[k], r = s->attr->linear.rank[k];
        bool dx = s->gradients & IN(LINEAR_X), dw = s->gradients & IN(linear_w(k));
        bool da = s->gradients & IN(linear_a(k)), db = s->gradients & IN(linear_b(k));
        if (!s->backward) {
            flops += 2 * rows * (in * out + r * (in + out));
            continue;
        }
        flops += 2 * rows * in * out * (dx + dw);
        flops += 2 * rows * r * out * ((dx || da) + db); /* dy B; dy^T u */
        flops += 2 * rows * r * in * (dx + da + db);     /* times A; dA; u again */
    }
    return flops;
}

/* One document that fills the rows is the upper bound; a window bounds every query's keys. */
static double flops_attention(const op_shape *s) {
    double rows = (double)s->rows, window = s->attr->attention.window;
    double pairs = s->load.pairs > 0 ? s->load.pairs : rows * (rows + 1) / 2;
    if (window > 0 && window * rows < pairs) pairs = window * rows;
    double product = 2 * pairs * s->attr->attention.heads * s->attr->attention.head_dim;
    return product * (s->backward ? 5 : 2);
}

static double flops_head(const op_shape *s) {
    double rows = s->load.targets > 0 ? (double)s->load.targets : (double)s->rows;
    double product = 2.0 * rows * (double)s->in[HEAD_W].rows * (double)s->in[HEAD_W].cols;
    if (!s->backward) return product;
    return product * (1 + !!(s->gradients & IN(HEAD_X)) + !!(s->gradients & IN(HEAD_W)));
}

static double flops_logits(const op_shape *s) {
    double selected =
        (double)(s->in[LOGITS_SELECTED].rows ? s->in[LOGITS_SELECTED].rows : s->rows);
    return 2 * selected * (double)s->in[LOGITS_W].rows * (double)s->in[LOGITS_W].cols;
}

/* ---- the table ---- */

#define NO_PLACE .in_place_out = -1, .in_place_in = -1, .in_place_gin = -1, .in_place_gout = -1
#define NO_PAIR  .same_gradient = {-1, -1}

#define LINEAR_TRAINABLE(k)                                                                   \
    (IN(1 + LINEAR_PER_PART * (k)) | IN(2 + LINEAR_PER_PART * (k)) |                          \
     IN(3 + LINEAR_PER_PART * (k)) | IN(4 + LINEAR_PER_PART * (k)))
#define LINEAR_PARAMETERS (LINEAR_TRAINABLE(0) | LINEAR_TRAINABLE(1) | LINEAR_TRAINABLE(2))
#define LINEAR_BIASES                                                                         \
    (IN(2) | IN(2 + LINEAR_PER_PART) |                                                        \
     IN(2 + 2 * LINEAR_PER_PART)) /* added, never read back */

static const operation_row table[] = {
    {.op = OP_EMBEDDING,
     .name = "embedding",
     .inputs = 2,
     .outputs = 1,
     .differentiable = IN(EMBEDDING_W),
     .reads_inputs = IN(EMBEDDING_IDS),
     .has_backward = true,
     NO_PLACE,
     NO_PAIR,
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_gather},
    {.op = OP_RMSNORM,
     .name = "rmsnorm",
     .inputs = 3,
     .outputs = 3,
     .optional_inputs = IN(RMSNORM_RESIDUAL),
     .differentiable = IN(RMSNORM_X) | IN(RMSNORM_RESIDUAL) | IN(RMSNORM_W),
     .reads_inputs = IN(RMSNORM_X) | IN(RMSNORM_W),
     .reads_outputs = IN(RMSNORM_SUM) | IN(RMSNORM_RSTD),
     .has_backward = true,
     .in_place_out = -1,
     .in_place_in = -1,
     .in_place_gin = RMSNORM_X,
     .in_place_gout = RMSNORM_SUM,
     .same_gradient = {RMSNORM_X, RMSNORM_RESIDUAL},
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_plain},
    {.op = OP_LINEAR,
     .name = "linear",
     .inputs = 1 + LINEAR_PARTS * LINEAR_PER_PART,
     .outputs = 1,
     .optional_inputs = LINEAR_PARAMETERS & ~IN(1), /* everything but x and the first W */
     .differentiable = IN(LINEAR_X) | LINEAR_PARAMETERS,
     .reads_inputs = IN(LINEAR_X) | (LINEAR_PARAMETERS & ~LINEAR_BIASES),
     .has_backward = true,
     NO_PLACE,
     NO_PAIR,
     .flops = flops_linear,
     .bytes = bytes_plain},
    {.op = OP_ROPE,
     .name = "rope",
     .inputs = 5,
     .outputs = 2,
     .optional_inputs = IN(ROPE_Q_NORM) | IN(ROPE_K_NORM),
     .differentiable = IN(ROPE_X) | IN(ROPE_Q_NORM) | IN(ROPE_K_NORM),
     .reads_inputs = IN(ROPE_X) | IN(ROPE_POSITIONS) | IN(ROPE_INV_FREQ) | IN(ROPE_Q_NORM) |
                     IN(ROPE_K_NORM),
     .reads_outputs = IN(ROPE_RSTD),
     .has_backward = true,
     .in_place_out = ROPE_Y,
     .in_place_in = ROPE_X,
     .in_place_gin = ROPE_X,
     .in_place_gout = ROPE_Y,
     NO_PAIR,
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_plain},
    {.op = OP_ATTENTION,
     .name = "attention",
     .inputs = 4,
     .outputs = 2,
     .optional_inputs = IN(ATTENTION_CACHE) | IN(ATTENTION_PAST),
     .state_inputs = IN(ATTENTION_CACHE),
     .differentiable = IN(ATTENTION_QKV),
     .reads_inputs = IN(ATTENTION_QKV) | IN(ATTENTION_STARTS),
     .reads_outputs = IN(ATTENTION_Y) | IN(ATTENTION_LSE),
     .has_backward = true,
     NO_PLACE,
     NO_PAIR,
     .flops = flops_attention,
     .bytes = bytes_plain},
    {.op = OP_GLU,
     .name = "glu",
     .inputs = 1,
     .outputs = 1,
     .differentiable = IN(0),
     .reads_inputs = IN(0),
     .has_backward = true,
     NO_PLACE,
     NO_PAIR,
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_plain},
    {.op = OP_ADD,
     .name = "add",
     .inputs = 2,
     .outputs = 1,
     .differentiable = IN(0) | IN(1),
     .has_backward = true,
     .in_place_out = 0,
     .in_place_in = 0,
     .in_place_gin = 0,
     .in_place_gout = 0,
     .same_gradient = {0, 1},
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_plain},
    {.op = OP_HEAD_CROSS_ENTROPY,
     .name = "head_cross_entropy",
     .inputs = 4,
     .outputs = 2,
     .differentiable = IN(HEAD_X) | IN(HEAD_W),
     .reads_inputs = IN(HEAD_X) | IN(HEAD_W) | IN(HEAD_TARGETS) | IN(HEAD_WEIGHTS),
     .has_backward = true,
     .fused_backward = true,
     NO_PLACE,
     NO_PAIR,
     .flops = flops_head,
     .bytes = bytes_plain},
    {.op = OP_LOGITS,
     .name = "logits",
     .inputs = 3,
     .outputs = 1,
     NO_PLACE,
     NO_PAIR,
     .flops = flops_logits,
     .bytes = bytes_plain},
    {.op = OP_FAKE_QUANT,
     .name = "fake_quant",
     .inputs = 1,
     .outputs = 1,
     .differentiable = IN(0),
     .has_backward = true,
     .free_of_batch = true,
     NO_PLACE,
     NO_PAIR,
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_plain},
    {.op = OP_LOSS_SUM,
     .name = "loss_sum",
     .inputs = 3,
     .state_inputs = IN(LOSS_TOTAL),
     NO_PLACE,
     NO_PAIR,
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_plain},
    {.op = OP_SQUARE_SUM,
     .name = "square_sum",
     .inputs = 2,
     .state_inputs = IN(SQUARE_OUT),
     .free_of_batch = true,
     NO_PLACE,
     NO_PAIR,
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_plain},
    {.op = OP_ADAMW,
     .name = "adamw",
     .inputs = 7,
     .optional_inputs = IN(ADAMW_ABSMAX1) | IN(ADAMW_ABSMAX2) | IN(ADAMW_WORKING),
     .state_inputs = IN(ADAMW_MASTER) | IN(ADAMW_M) | IN(ADAMW_V) | IN(ADAMW_ABSMAX1) |
                     IN(ADAMW_ABSMAX2) | IN(ADAMW_WORKING),
     .free_of_batch = true,
     NO_PLACE,
     NO_PAIR,
     .cheap = true,
     .flops = flops_none,
     .bytes = bytes_plain},
};
static_assert(sizeof table / sizeof *table == OP_COUNT, "one row per operation");
static_assert(1 + LINEAR_PARTS * LINEAR_PER_PART == OP_INPUTS,
              "OP_LINEAR has the most inputs");

const operation_row *operation_get(operation op) {
    assert(op >= 0 && op < OP_COUNT && table[op].op == op);
    return &table[op];
}
