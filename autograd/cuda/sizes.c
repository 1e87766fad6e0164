/* sizes.c: see sizes.h. Linears and the head have files of their own. */
#include "autograd/cuda/sizes.h"

static int64_t embedding(const op_shape *s) {
    if (!s->backward || !(s->gradients >> EMBEDDING_W & 1)) return 0;
    return 2 * s->rows * (int64_t)sizeof(int32_t);
}

static int64_t rmsnorm(const op_shape *s) {
    if (!s->backward || !(s->gradients >> RMSNORM_W & 1)) return 0;
    return NORM_SPLITS * s->in[RMSNORM_W].cols * (int64_t)sizeof(float);
}

static int64_t rope(const op_shape *s) {
    bool wanted = s->gradients & (1u << ROPE_Q_NORM | 1u << ROPE_K_NORM);
    if (!s->backward || !wanted) return 0;
    return min_i64(s->rows, ROPE_SPLITS) * 2 * s->attr->rope.head_dim * (int64_t)sizeof(float);
}

/* {lse, row sum of dy * y} of every head, planes of whole pairs. */
static int64_t attention(const op_shape *s) {
    if (!s->backward) return 0;
    return s->attr->attention.heads * round_up_i64(s->rows, 2) * 2 * (int64_t)sizeof(float);
}

int64_t cuda_quantize_scratch(int64_t n, bool nested) {
    if (!nested) return 0;
    return round_up_i64(4 * quant_block_count(n, QUANT_BLOCK), TENSOR_ALIGN) +
           MEAN_PARTS * (int64_t)sizeof(double);
}

static int64_t fake_quant(const op_shape *s) {
    if (s->backward) return 0;
    return cuda_quantize_scratch(s->in[0].rows * s->in[0].cols, s->attr->fake_quant.nested);
}

static int64_t square_sum(const op_shape *s) {
    return SQUARE_PARTS * (int64_t)sizeof(double);
}

int64_t cuda_scratch_bytes(backend *b, const op_shape *shape) {
    static int64_t (*const bytes[OP_COUNT])(const op_shape *) = {
        [OP_EMBEDDING] = embedding,
        [OP_RMSNORM] = rmsnorm,
        [OP_LINEAR] = cuda_linear_scratch,
        [OP_ROPE] = rope,
        [OP_ATTENTION] = attention,
        [OP_HEAD_CROSS_ENTROPY] = cuda_head_cross_entropy_scratch,
        [OP_LOGITS] = cuda_logits_scratch,
        [OP_FAKE_QUANT] = fake_quant,
        [OP_SQUARE_SUM] = square_sum,
    };
    return bytes[shape->op] ? bytes[shape->op](shape) : 0;
}
