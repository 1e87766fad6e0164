/* dropout_mask.h: a kernel that only drops, for test_cuda_rows.c. */
#ifndef NIBBLE_TESTS_DROPOUT_MASK_H
#define NIBBLE_TESTS_DROPOUT_MASK_H

#ifdef __cplusplus
extern "C" {
#endif

#include "autograd/backend.h"
#include "autograd/cpu/dropout.h"

/* dropout_apply on the card: x f32 [n] there, n a multiple of 8. */
status dropout_mask_run(backend *b, const dropout *d, int64_t row, int64_t col, int64_t n,
                        float *x);

#ifdef __cplusplus
}
#endif
#endif
