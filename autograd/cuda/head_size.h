/* head_size.h: what the language model's head needs on a card, known without one. Rows with a
 * target go through in chunks, so that at most [chunk, V] logits exist. */
#ifndef NIBBLE_AUTOGRAD_CUDA_HEAD_SIZE_H
#define NIBBLE_AUTOGRAD_CUDA_HEAD_SIZE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "autograd/cuda/scratch.h"
#include "autograd/operation.h"

enum {
    HEAD_CHUNK = 1024, /* kept rows per product */
    HEAD_STEP = 64,    /* rows of a product are a multiple of it: few shapes */
};

typedef struct head_size {
    dtype type; /* C */
    int64_t rows, width, vocabulary;
    int64_t pitch; /* of the logits: rows begin at multiples of 16 bytes */
    bool dx, dw;
} head_size;

typedef struct head_space {
    int32_t *kept; /* [rows rounded up] numbers of the rows with a target, then -1 */
    void *x;       /* C [chunk, H] gathered */
    void *logits;  /* C [chunk, pitch] */
    void *dx;      /* C [chunk, H] */
    void *gemm;
} head_space;

head_size cuda_head_size_of_shape(const op_shape *s);
head_size cuda_head_size_of_call(const op_call *c);
int64_t cuda_head_chunk(int64_t rows);
void cuda_head_take(cuda_scratch *s, const head_size *z, head_space *out);

/* OP_LOGITS: x and gemm only. */
int64_t cuda_logits_rows(const op_shape *s);
void cuda_logits_take(cuda_scratch *s, dtype type, int64_t rows, int64_t vocabulary,
                      int64_t width, head_space *out);

#ifdef __cplusplus
}
#endif
#endif
