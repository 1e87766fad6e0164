/* operation.h: the operations, one row each.
 *
 * An operation is pure in (inputs, attributes, rows, random key). Its row in the table says
 * what goes in and out, what its backward reads, which outputs may take an input's place, and
 * what it costs. The same rows serve recording, deriving the backward pass, planning and every
 * back end; a back end is one function per row and direction (backend.h).
 *
 * Shapes: rows means call->rows, the micro-batch's tokens rounded up to a bucket, <= capacity;
 * rows == 0 is legal and does nothing. C is the compute type: f32, bf16 or f16. Gradients of
 * activations are C; gradients of parameters are f32 and always *added* (the group's sum is
 * zeroed once before its first micro-step); gradients of activations are set or added as
 * call->add says. "absent" is a tensor whose data is NULL. */
#ifndef NIBBLE_AUTOGRAD_OPERATION_H
#define NIBBLE_AUTOGRAD_OPERATION_H

#include "autograd/tensor.h"

struct adamw_scalars; /* quant/adamw.h */

typedef enum operation {
    /* ids I32 [rows] , W C [V, H] -> y C [rows, H]: row ids[i] of W. attr.embedding.scale != 0
     * multiplies (Gemma). Backward: dW f32 [V, H] (+=), in row order. */
    OP_EMBEDDING,
    /* x C [rows, H], residual C [rows, H] or absent, w C [H] -> y C, sum C (when residual),
     * rstd f32 [rows]. s = x + residual rounded to C; rstd = 1/sqrt(mean(s^2) + eps) in f32; y
     * = C(C(s * rstd) * w). Backward reads s (x, or the output sum), rstd, w; dx = dresidual =
     * dsum + dnorm; dw f32 [H] (+=). */
    OP_RMSNORM,
    /* lora_linear over a stack of 1 to 3 parts (q,k,v or gate,up), each with its own W [out,
     * in] (4-bit, or C), bias C [out] or absent, A C [r, in], B C [out, r] or both absent:
     *   y[:, part] = x W^T + bias + scale * drop(x) A^T B^T       y C [rows, sum out]
     * inputs: x, then (W, bias, A, B) per part: LINEAR_W(k) ... Backward reads x and the
     * parameters: dx C; dA, dB f32 (+=), and dW, dbias f32 (+=) where they are wanted (full
     * training, W in C). */
    OP_LINEAR,
    /* x C [rows, (A + 2K) * D] (q heads, k heads, v heads), positions I32 [rows], inv_freq f32
     * [D/2], q_norm C [D] or absent, k_norm C [D] or absent -> y C same shape, rstd f32 [rows,
     * A + K] with norms. q and k heads: first RMSNorm over the head (as OP_RMSNORM rounds),
     * then rotation of the two halves ("rotate_half") by position * inv_freq: cos and sin in
     * f32, times attr.rope.factor, then rounded to C. v is copied. Without norms y may take
     * x's place, and the backward reads only positions. */
    OP_ROPE,
    /* qkv C [rows, (A + 2K) * D], starts I32 [documents + 1], cache C [sequences *
     * attr.cache_rows, 2 * K * D] or absent, past I32 [documents] or absent -> y C [rows, A *
     * D], lse f32 [rows, A]. Causal within each document; query i sees keys i - window + 1 ..
     * i (window 0: all). Scores are scaled by attr.scale, softmax in f32. With a cache,
     * document d's new keys and values are first stored at rows past[d].. of sequence d's
     * part, and older ones are seen too (forward only). Rows past the last document (bucket
     * padding) give y = 0, lse = 0. Memory O(rows), never [rows, rows]. Backward reads qkv, y,
     * lse. */
    OP_ATTENTION,
    /* x C [rows, 2F] (gate | up) -> y C [rows, F] = C(act(gate)) * up. Backward reads x. */
    OP_GLU,
    /* a C, b C [rows, H] -> y = a + b. Backward reads nothing: da = db = dy. */
    OP_ADD,
    /* x C [rows, H], W C [V, H], targets I32 [rows] (-1: none), weights f32 [rows] ->
     * logp f32 [rows] = log p(target) (0 where none), lse f32 [rows].
     * Logits are rounded to C, then f32. Backward: with loss = sum_i weights[i] * -logp[i], dx
     * C and dW f32 (+=). Rows without a target are dropped before the products; dx there is 0.
     * At most a chunk of rows of logits exists (a function of the shape). The backward also
     * writes logp and lse, so a training schedule has no forward step for it
     * (`fused_backward`). */
    OP_HEAD_CROSS_ENTROPY,
    /* x C [rows, H], W C [V, H], selected I32 [call->selected] -> y f32 [selected, V]. No
       backward. */
    OP_LOGITS,
    /* w C [n, m] -> y C [n, m] = dequantize(quantize(w)), straight-through: dw += dy. Rows do
     * not follow the batch. Quantization-aware training. */
    OP_FAKE_QUANT,
    /* logp f32 [rows], targets I32 [rows], total f64 [2] in place: total[0] += sum of -logp
     * over targets, total[1] += their number, in row order. No backward. */
    OP_LOSS_SUM,
    /* g f32 [n, m], out f64 [1] in place: out = sum of squares, fixed order. No backward. */
    OP_SQUARE_SUM,
    /* The optimizer's update of one tensor: gradient f32, master f32, m, v (f32, or u8 with
     * absmax f32 per 256 each), working copy C. call->adam gives the scalars. m, v, master,
     * working in place. */
    OP_ADAMW,
    OP_COUNT
} operation;

enum { OP_INPUTS = 13, OP_OUTPUTS = 3, LINEAR_PARTS = 3, LINEAR_PER_PART = 4 };

/* positions of OP_LINEAR's inputs */
enum { LINEAR_X = 0 };
static inline int linear_w(int part) {
    return 1 + LINEAR_PER_PART * part;
}
static inline int linear_bias(int part) {
    return 2 + LINEAR_PER_PART * part;
}
static inline int linear_a(int part) {
    return 3 + LINEAR_PER_PART * part;
}
static inline int linear_b(int part) {
    return 4 + LINEAR_PER_PART * part;
}
/* positions of the others */
enum { EMBEDDING_IDS, EMBEDDING_W };
enum { RMSNORM_X, RMSNORM_RESIDUAL, RMSNORM_W };
enum { RMSNORM_Y, RMSNORM_SUM, RMSNORM_RSTD };
enum { ROPE_X, ROPE_POSITIONS, ROPE_INV_FREQ, ROPE_Q_NORM, ROPE_K_NORM };
enum { ROPE_Y, ROPE_RSTD };
enum { ATTENTION_QKV, ATTENTION_STARTS, ATTENTION_CACHE, ATTENTION_PAST };
enum { ATTENTION_Y, ATTENTION_LSE };
enum { HEAD_X, HEAD_W, HEAD_TARGETS, HEAD_WEIGHTS };
enum { HEAD_LOGP, HEAD_LSE };
enum { LOGITS_X, LOGITS_W, LOGITS_SELECTED };
enum { LOSS_LOGP, LOSS_TARGETS, LOSS_TOTAL };
enum { SQUARE_G, SQUARE_OUT };
enum { ADAMW_G, ADAMW_MASTER, ADAMW_M, ADAMW_V, ADAMW_ABSMAX1, ADAMW_ABSMAX2, ADAMW_WORKING };

typedef enum activation { ACT_SILU, ACT_GELU_TANH } activation;

/* Small constants of one record. */
typedef struct op_attr {
    union {
        struct {
            float scale;
        } embedding;
        struct {
            float eps;
        } rmsnorm;
        struct {
            int32_t parts;
            int64_t in, out[LINEAR_PARTS];
            int32_t rank[LINEAR_PARTS];   /* 0: no adapter */
            float scale[LINEAR_PARTS];    /* alpha / r, rsLoRA alpha / sqrt(r) */
            float dropout;                /* of the adapters' input */
            int32_t module[LINEAR_PARTS]; /* Philox module number of each part */
        } linear;
        struct {
            int32_t heads, kv_heads, head_dim;
            float eps, factor;
        } rope;
        struct {
            int32_t heads, kv_heads, head_dim;
            int32_t window;     /* 0: none */
            float scale;        /* 1/sqrt(D) */
            float softcap;      /* 0: none */
            int64_t cache_rows; /* keys per sequence in the cache */
        } attention;
        struct {
            activation act;
        } glu;
        struct {
            dtype quant;
            bool nested;
        } fake_quant;
        struct {
            int32_t bits;
            bool decay;
        } adamw; /* 32 or 8; whether weight decay applies */
    };
} op_attr;

/* One call of one operation, forward or backward, everything resolved. Tensors that follow the
 * batch have rows == call->rows (outputs and gradients too). */
typedef struct op_call {
    operation op;
    const op_attr *attr;
    dtype compute;     /* C */
    int64_t rows;      /* bucketed rows; operations without a batch ignore it */
    int64_t used;      /* rows that are real, <= rows */
    int64_t documents; /* of OP_ATTENTION */
    int64_t selected;  /* of OP_LOGITS */
    int64_t targets;   /* of OP_HEAD_CROSS_ENTROPY: rows with one, where the caller has counted
                          them; 0: all, for all that he knows */
    int32_t layer;     /* Philox layer */
    uint64_t seed,
        micro; /* Philox key and global micro-batch; micro == UINT64_MAX: no dropout */
    tensor in[OP_INPUTS], out[OP_OUTPUTS];
    /* backward only: gradients of outputs (absent: zero) and of inputs (absent: not wanted) */
    tensor gout[OP_OUTPUTS], gin[OP_INPUTS];
    uint32_t add; /* bit i: gin[i] is added to; parameters always are */
    void *scratch;
    int64_t scratch_bytes;
    const struct adamw_scalars *adam;
} op_call;

/* What a batch holds, as far as an operation's cost depends on it: attention sees pairs of a
 * query and a key that it may see, the head drops rows without a target. 0: the most that fits
 * the rows. */
typedef struct op_load {
    double pairs;
    int64_t targets;
} op_load;

/* What planning needs to know of a call: formats at capacity (type DTYPE_COUNT: absent). */
typedef struct op_shape {
    operation op;
    const op_attr *attr;
    dtype compute;
    int64_t rows;
    bool backward;
    tensor_format in[OP_INPUTS], out[OP_OUTPUTS];
    uint32_t gradients; /* backward: bit i = gin[i] wanted */
    uint32_t gouts;     /* backward: bit i = gout[i] is there */
    op_load load;       /* for `flops` */
} op_shape;

/* A row of the table. Masks have bit i for input or output i. */
typedef struct operation_row {
    operation op;
    const char *name;
    int inputs, outputs;
    uint32_t optional_inputs;
    uint32_t state_inputs;   /* written by the operation (caches, totals, optimizer state) */
    uint32_t differentiable; /* inputs that can get a gradient */
    uint32_t reads_inputs;   /* what the backward reads */
    uint32_t reads_outputs;
    bool has_backward;
    bool fused_backward; /* the backward also writes the outputs */
    bool free_of_batch;  /* rows do not follow the batch */
    int8_t in_place_out,
        in_place_in; /* forward: this output may take this input's place; -1 none */
    int8_t in_place_gin,
        in_place_gout;       /* backward: this gin may take this gout's place; -1 none */
    int8_t same_gradient[2]; /* these two inputs' gradients are equal; -1 none */
    bool cheap;              /* recomputing costs memory traffic only, no matrix product */
    double (*flops)(const op_shape *s); /* of the direction in s->backward */
    double (*bytes)(const op_shape *s); /* memory traffic, every operand once */
} operation_row;

const operation_row *operation_get(operation op);

#endif
