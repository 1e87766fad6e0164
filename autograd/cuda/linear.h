/* linear.h: what the files of OP_LINEAR on the card share beside its sizes: making the operands of
 * the one product that linear_size.h describes. */
#ifndef NIBBLE_AUTOGRAD_CUDA_LINEAR_H
#define NIBBLE_AUTOGRAD_CUDA_LINEAR_H

#include "autograd/cuda/adapter.h"

/* [... | terms of thin | 1 | zeros] of `type`: what stands behind the first `cols` columns of `rows`
 * rows at `to`, `ld` elements apart. */
status cuda_linear_extend(backend *b, dtype type, int64_t rows, int64_t cols,
                          const linear_tail *tail, void *to, int64_t ld);
/* W of every part in C to `to` [stack, ld]. */
status cuda_linear_gather(backend *b, const op_call *c, const linear_size *z, void *to,
                          int64_t ld);
/* Column window of part k of a tensor [rows, sum out], and what its adapter multiplies. */
tensor cuda_linear_part(const tensor *t, const linear_size *z, int k);
adapter_wide cuda_linear_input(const op_call *c, const linear_size *z, int k);

/* linear_few.cu: whether the call has few rows and weights that are read as codes, straight into the
 * sums; then y, with u [rows, rank] of every part made. */
bool cuda_linear_is_few(const op_call *c, const linear_size *z);
status cuda_linear_few(backend *b, const op_call *c, const linear_size *z, float *const u[]);

status cuda_linear_backward_prepare(backend *b, const op_shape *s);

#endif
