/* reduce.h: sums of partial sums that other kernels left in scratch. */
#ifndef NIBBLE_AUTOGRAD_CUDA_REDUCE_H
#define NIBBLE_AUTOGRAD_CUDA_REDUCE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "autograd/backend.h"

/* Enqueues to[c] += the sum over p of parts[p, c], taken in double in the order of p, rounded
 * once: the last step of a parameter's gradient. parts f32 [count, cols], `stride` elements
 * from part to part; to f32 [cols]; `to` NULL or cols == 0 does nothing. STATUS_DEVICE. */
status cuda_fold_parts(backend *b, const float *parts, int64_t count, int64_t stride,
                       int64_t cols, float *to);

#ifdef __cplusplus
}
#endif
#endif
