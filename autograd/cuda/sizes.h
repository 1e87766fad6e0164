/* sizes.h: bytes of scratch that each operation needs on a card, functions of the shape alone, so
 * that a plan for a card can be made where there is none. */
#ifndef NIBBLE_AUTOGRAD_CUDA_SIZES_H
#define NIBBLE_AUTOGRAD_CUDA_SIZES_H

#ifdef __cplusplus
extern "C" {
#endif

#include "autograd/backend.h"
#include "autograd/cuda/scratch.h"

enum {
    NORM_SPLITS = 32,    /* of the rows, for a norm's weight gradient */
    ROPE_SPLITS = 512,   /* of the rows, for the head norms' weight gradients, at most */
    SQUARE_PARTS = 1024, /* partial sums of a gradient's squares, at most */
    MEAN_PARTS = 64,     /* of the mean of scales */
};

/* backend_table's `scratch`. */
int64_t cuda_scratch_bytes(backend *b, const op_shape *shape);

/* Its parts. */
int64_t cuda_linear_scratch(const op_shape *shape);
int64_t cuda_head_cross_entropy_scratch(const op_shape *shape);
int64_t cuda_logits_scratch(const op_shape *shape);
/* Of quantizing n weights. */
int64_t cuda_quantize_scratch(int64_t n, bool nested);

#ifdef __cplusplus
}
#endif
#endif
