/* optimizer.c: OP_ADAMW and OP_FAKE_QUANT: quant/'s functions spread over threads.
 *
 * Both are elementwise over blocks, so pieces at multiples of the block give the same bits as
 * one call. The working copy is the master rounded to C, or the master itself. */
#include "autograd/cpu/cpu.h"
#include "quant/adamw.h"
#include "autograd/cpu/scratch.h"

#include "common/checked.h"
#include "quant/adamw.h"
#include "quant/double.h"
#include "quant/dynamic.h"
#include "quant/fake.h"

#include <assert.h>
#include <stdatomic.h>

enum { PIECE = 1 << 15 /* elements: a multiple of every block size */ };
static_assert(PIECE % ADAMW8_BLOCK == 0 && PIECE % QUANT_BLOCK_MAX == 0,
              "pieces hold whole blocks");

static int64_t pieces_of(int64_t n) {
    return (n + PIECE - 1) / PIECE;
}

static void adamw_piece(const op_call *c, const adamw_scalars *scalars, int64_t first,
                        int64_t n) {
    const tensor *in = c->in, *working = &in[ADAMW_WORKING];
    const float *g = (const float *)in[ADAMW_G].data + first;
    float *master = (float *)in[ADAMW_MASTER].data + first;
    if (c->attr->adamw.bits == 8)
        adamw8_update(master, (uint8_t *)in[ADAMW_M].data + first,
                      (float *)in[ADAMW_ABSMAX1].data + first / ADAMW8_BLOCK,
                      (uint8_t *)in[ADAMW_V].data + first,
                      (float *)in[ADAMW_ABSMAX2].data + first / ADAMW8_BLOCK, g, n, scalars);
    else
        adamw32_update(master, (float *)in[ADAMW_M].data + first,
                       (float *)in[ADAMW_V].data + first, g, n, scalars);
    if (working->data && working->data != in[ADAMW_MASTER].data)
        convert_array(master, QUANT_SRC_F32,
                      (char *)working->data + first * dtype_bytes(working->type),
                      (int)working->type, n);
}

status cpu_adamw_forward(backend *b, const op_call *c) {
    int64_t n = c->in[ADAMW_MASTER].rows * c->in[ADAMW_MASTER].cols;
    adamw_scalars scalars = *c->adam;
    if (!c->attr->adamw.decay) scalars.decay = 1;
    PARALLEL_FOR_IF(b, pieces_of(n) > 1)
    for (int64_t i = 0; i < pieces_of(n); i++)
        adamw_piece(c, &scalars, i * PIECE, min_i64(PIECE, n - i * PIECE));
    return STATUS_OK;
}

/* ---- fake quantization ---- */

/* A whole tensor quantized with double quantization, whose offset is a sum over all blocks. */
typedef struct nested {
    uint8_t *codes, *absmax_codes;
    float *absmax, *absmax2;
} nested;

static void nested_take(scratch *s, int64_t n, nested *out) {
    int64_t blocks = quant_block_count(n, QUANT_BLOCK);
    out->codes = scratch_take(s, quant_code_bytes(n));
    out->absmax = scratch_take(s, 4 * blocks);
    out->absmax_codes = scratch_take(s, blocks);
    out->absmax2 = scratch_take(s, 4 * quant_nest_count(blocks));
}

static quant_type type_of(dtype type) {
    return type == DTYPE_FP4 ? QUANT_FP4 : QUANT_NF4;
}

/* Each piece on its own, scales in f32. */
static void fake_pieces(backend *b, const op_call *c, int64_t n) {
    const tensor *w = &c->in[0], *y = &c->out[0];
    int64_t width = dtype_bytes(w->type);
    quant_type type = type_of(c->attr->fake_quant.quant);
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < pieces_of(n); i++)
        fake_quant4(type, (const char *)w->data + i * PIECE * width, (int)w->type,
                    min_i64(PIECE, n - i * PIECE), QUANT_BLOCK,
                    (char *)y->data + i * PIECE * width);
}

static void decode_piece(const quant_view *v, int64_t first, int64_t n, const tensor *y) {
    void *to = (char *)y->data + first * dtype_bytes(y->type);
    switch (y->type) {
    case DTYPE_BF16:
        quant_dequantize_bf16(v, first, n, to);
        break;
    case DTYPE_F16:
        quant_dequantize_f16(v, first, n, to);
        break;
    default:
        quant_dequantize_f32(v, first, n, to);
    }
}

/* STATUS_MODEL where an element is not finite. */
static status fake_nested(backend *b, const op_call *c, int64_t n, const nested *at) {
    const tensor *w = &c->in[0];
    quant_type type = type_of(c->attr->fake_quant.quant);
    int64_t blocks = quant_block_count(n, QUANT_BLOCK), width = dtype_bytes(w->type);
    atomic_bool failed = false;
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < pieces_of(n); i++) {
        int64_t first = i * PIECE;
        if (quant_quantize(type, (const char *)w->data + first * width, (int)w->type,
                           min_i64(PIECE, n - first), QUANT_BLOCK, at->codes + first / 2,
                           at->absmax + first / QUANT_BLOCK) != STATUS_OK)
            failed = true;
    }
    if (failed) return STATUS_MODEL;
    quant_view view = {.type = type,
                       .count = n,
                       .block = QUANT_BLOCK,
                       .codes = at->codes,
                       .absmax_codes = at->absmax_codes,
                       .absmax2 = at->absmax2,
                       .map2 = dynamic_map_signed(),
                       .code = quant_codebook(type)};
    TRY(quant_nest(at->absmax, blocks, at->absmax_codes, at->absmax2, &view.offset,
                   view.map2));
    PARALLEL_FOR(b)
    for (int64_t i = 0; i < pieces_of(n); i++)
        decode_piece(&view, i * PIECE, min_i64(PIECE, n - i * PIECE), &c->out[0]);
    return STATUS_OK;
}

/* A weight that is not finite must show in the loss: single quantization turns its block into
 * NaN, so it stands in where the double one has no offset. */
status cpu_fake_quant_forward(backend *b, const op_call *c) {
    const tensor *w = &c->in[0];
    int64_t n = w->rows * w->cols;
    if (n == 0) return STATUS_OK;
    if (c->attr->fake_quant.nested) {
        scratch s = {.base = c->scratch};
        nested at;
        nested_take(&s, n, &at);
        TRY(scratch_check(&s, "fake_quant", c->scratch_bytes));
        if (fake_nested(b, c, n, &at) == STATUS_OK) return STATUS_OK;
        status_clear();
    }
    fake_pieces(b, c, n);
    return STATUS_OK;
}

status cpu_fake_quant_backward(backend *b, const op_call *c) {
    const tensor *dy = &c->gout[0], *dw = &c->gin[0];
    if (!dy->data || !dw->data) return STATUS_OK;
    PARALLEL_FOR(b)
    for (int64_t row = 0; row < dw->rows; row++) {
        float piece[512], *to = cpu_at(dw, row, 0);
        for (int64_t col = 0; col < dw->cols; col += 512) {
            int64_t n = min_i64(512, dw->cols - col);
            cpu_load(dy, row, col, n, piece);
            for (int64_t j = 0; j < n; j++) to[col + j] += piece[j];
        }
    }
    return STATUS_OK;
}

int64_t cpu_fake_quant_scratch(backend *b, const op_shape *shape) {
    if (shape->backward || !shape->attr->fake_quant.nested) return 0;
    scratch s = {0};
    nested at;
    nested_take(&s, shape->in[0].rows * shape->in[0].cols, &at);
    return s.used;
}
