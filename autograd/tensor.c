/* tensor.c: sizes and windows of tensors; nothing here touches the numbers themselves. */
#include "autograd/tensor.h"
#include "common/checked.h"

#include <assert.h>
#include <inttypes.h>
#include <stddef.h>

static const struct {
    const char *name;
    int bits;
} types[] = {
    [DTYPE_F32] = {"f32", 32}, [DTYPE_BF16] = {"bf16", 16}, [DTYPE_F16] = {"f16", 16},
    [DTYPE_F64] = {"f64", 64}, [DTYPE_I32] = {"i32", 32},   [DTYPE_U8] = {"u8", 8},
    [DTYPE_NF4] = {"nf4", 4},  [DTYPE_FP4] = {"fp4", 4},
};
static_assert(sizeof types / sizeof *types == DTYPE_COUNT, "a name and a size per type");

int dtype_bits(dtype type) {
    return types[type].bits;
}
const char *dtype_name(dtype type) {
    return type < DTYPE_COUNT ? types[type].name : "none";
}

tensor_format format_4bit(dtype type, int64_t rows, int64_t cols, bool nested) {
    return (tensor_format){
        .type = type, .rows = rows, .cols = cols, .block = QUANT_BLOCK, .nested = nested};
}

format_parts format_parts_of(const tensor_format *f) {
    int64_t count = f->rows * f->cols;
    format_parts p = {.blocks = quant_block_count(count, f->block)};
    p.nests = f->nested ? quant_block_count(p.blocks, TENSOR_NEST_BLOCK) : 0;
    p.absmax = round_up_i64(quant_code_bytes(count), TENSOR_ALIGN);
    p.absmax2 = round_up_i64(p.absmax + p.blocks * (f->nested ? 1 : 4), TENSOR_ALIGN);
    p.map = round_up_i64(p.absmax2 + p.nests * 4, TENSOR_ALIGN);
    p.code = p.map + (f->nested ? 256 * 4 : 0);
    p.offset = p.code + 16 * 4;
    p.bytes = p.offset + 4;
    return p;
}

status format_bytes(const tensor_format *f, int64_t *bytes) {
    int64_t count, most;
    /* 16 bytes an element is above any type with its scales, whatever the block */
    if (f->rows < 0 || f->cols < 0 || !checked_mul_i64(f->rows, f->cols, &count) ||
        !checked_mul_i64(count, 16, &most) || most > INT64_MAX - 65536)
        return status_fail(STATUS_MODEL,
                           "a tensor of %" PRId64 " x %" PRId64 " elements is impossible",
                           f->rows, f->cols);
    if (!dtype_is_4bit(f->type)) {
        *bytes = count * dtype_bytes(f->type);
        return STATUS_OK;
    }
    if (f->block < 2 || f->block % 2 || f->block > QUANT_BLOCK_MAX)
        return status_fail(STATUS_MODEL,
                           "a 4-bit block of %d elements is not supported (even, 2 to %d)",
                           f->block, QUANT_BLOCK_MAX);
    *bytes = format_parts_of(f).bytes;
    return STATUS_OK;
}

tensor tensor_at(const tensor_format *f, void *data) {
    tensor t = {.data = data,
                .type = f->type,
                .rows = f->rows,
                .cols = f->cols,
                .stride = f->cols,
                .block = f->block,
                .nested = f->nested};
    if (data && dtype_is_4bit(f->type)) {
        format_parts p = format_parts_of(f);
        char *base = data;
        t.scales.absmax = base + p.absmax;
        if (f->nested) {
            t.scales.absmax2 = (float *)(base + p.absmax2);
            t.scales.map = (float *)(base + p.map);
        }
        t.scales.code = (float *)(base + p.code);
        t.scales.offset = (float *)(base + p.offset);
    }
    return t;
}

tensor tensor_rows(const tensor *t, int64_t first, int64_t n) {
    assert(!dtype_is_4bit(t->type) && first >= 0 && n >= 0 && first + n <= t->rows);
    tensor part = *t;
    part.rows = n;
    if (t->data) part.data = (char *)t->data + first * t->stride * dtype_bytes(t->type);
    return part;
}

tensor tensor_columns(const tensor *t, int64_t first, int64_t n) {
    assert(!dtype_is_4bit(t->type) && first >= 0 && n >= 0 && first + n <= t->cols);
    tensor part = *t;
    part.cols = n;
    if (t->data) part.data = (char *)t->data + first * dtype_bytes(t->type);
    return part;
}

quant_view tensor_quant_view(const tensor *t) {
    quant_view v = {.type = t->type == DTYPE_FP4 ? QUANT_FP4 : QUANT_NF4,
                    .count = t->rows * t->cols,
                    .block = t->block,
                    .codes = t->data,
                    .code = t->scales.code};
    if (t->nested) {
        v.absmax_codes = t->scales.absmax;
        v.absmax2 = t->scales.absmax2;
        v.map2 = t->scales.map;
        v.offset = *t->scales.offset;
    } else {
        v.absmax = t->scales.absmax;
    }
    return v;
}
