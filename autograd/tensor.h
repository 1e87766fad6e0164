/* tensor.h: what a block of numbers is: type, shape, place. Never owns memory.
 *
 * A `tensor_format` says what is stored (type, rows, columns, quantization) and so how many
 * bytes it takes; a `tensor` is a format at an address. Letters used everywhere: T rows of a
 * micro-batch (tokens)   H hidden size        F feed-forward size   V vocabulary A attention
 * heads                  K key-value heads    D head size           r LoRA rank
 *
 * A 4-bit tensor is one contiguous piece, so that it can be paged as bytes:
 *   [codes ceil(n/2)] [absmax: u8 per block if nested, else f32] [absmax2 f32 per 256 blocks]
 *   [map f32 x 256] [codebook f32 x 16] [offset f32], each part padded to 64 bytes;
 *   absmax2 and map only when nested. map and codebook travel with the data: a file is decoded
 *   with the tables that it carries (NUMERICS 1). */
#ifndef NIBBLE_AUTOGRAD_TENSOR_H
#define NIBBLE_AUTOGRAD_TENSOR_H

#include "common/status.h"
#include "quant/nf4.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum dtype {
    DTYPE_F32,
    DTYPE_BF16,
    DTYPE_F16,
    DTYPE_F64,
    DTYPE_I32,
    DTYPE_U8,
    DTYPE_NF4,
    DTYPE_FP4,
    DTYPE_COUNT,
} dtype;

enum {
    TENSOR_ALIGN = 64,      /* bytes; CUDA's arena uses 256 */
    TENSOR_NEST_BLOCK = 256 /* absmax values per second-level scale */
};

typedef struct tensor_format {
    dtype type;
    int64_t rows, cols;
    int32_t block; /* 4-bit: elements per absmax (64); else 0 */
    bool nested;   /* 4-bit: absmax itself is quantized to 8 bits */
} tensor_format;

/* The second part of a 4-bit tensor, inside its bytes. */
typedef struct tensor_scales {
    void *absmax;   /* uint8_t [blocks] if nested, else float [blocks] */
    float *absmax2; /* [ceil(blocks/256)], nested only */
    float *map;     /* [256], nested only */
    float *code;    /* [16] */
    float *offset;  /* [1], 0 unless nested */
} tensor_scales;

typedef struct tensor {
    void *data; /* NULL: absent (an optional operand, an unwanted gradient) */
    dtype type;
    int64_t rows, cols;
    int64_t stride; /* elements from row to row; == cols unless this is a window of a wider
                       tensor */
    int32_t block;
    bool nested;
    tensor_scales scales; /* 4-bit only */
} tensor;

/* Bits of one element (4 for NF4/FP4), and the type's name ("bf16"). */
int dtype_bits(dtype type);
const char *dtype_name(dtype type);
static inline bool dtype_is_4bit(dtype type) {
    return type == DTYPE_NF4 || type == DTYPE_FP4;
}
static inline int64_t dtype_bytes(dtype type) {
    return dtype_bits(type) / 8;
}

static inline tensor_format format_of(dtype type, int64_t rows, int64_t cols) {
    return (tensor_format){.type = type, .rows = rows, .cols = cols};
}
tensor_format format_4bit(dtype type, int64_t rows, int64_t cols, bool nested); /* block 64 */

/* Bytes of one tensor of this format, each part padded to TENSOR_ALIGN but the last; the
 * shape's product is checked: STATUS_MODEL on overflow or a negative size. */
status format_bytes(const tensor_format *f, int64_t *bytes);
/* Where the parts of a 4-bit tensor start (byte offsets) and its counts. */
typedef struct format_parts {
    int64_t blocks, nests;
    int64_t absmax, absmax2, map, code, offset, bytes;
} format_parts;
format_parts format_parts_of(const tensor_format *f);

/* The tensor of this format at `data`. */
tensor tensor_at(const tensor_format *f, void *data);
/* Rows [first, first + n) of a dense tensor that is not 4-bit. */
tensor tensor_rows(const tensor *t, int64_t first, int64_t n);
/* Columns [first, first + n): same rows, same stride. */
tensor tensor_columns(const tensor *t, int64_t first, int64_t n);
/* The pure view that quant/ works on. */
quant_view tensor_quant_view(const tensor *t);

#endif
