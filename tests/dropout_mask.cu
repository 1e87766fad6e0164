/* dropout_mask.cu: see dropout_mask.h. A thread drops eight elements. */
#include "dropout_mask.h"

#include "autograd/cuda/cuda.h"
#include "autograd/cuda/dropout.h"

static __global__ void drop(dropout d, int64_t row, int64_t col, float *x) {
    int64_t at = (int64_t)(blockIdx.x * blockDim.x + threadIdx.x) * 8;
    float piece[8];
    for (int i = 0; i < 8; i++) piece[i] = x[at + i];
    dropout_piece<8>(d, row, col + at, piece);
    for (int i = 0; i < 8; i++) x[at + i] = piece[i];
}

status dropout_mask_run(backend *b, const dropout *d, int64_t row, int64_t col, int64_t n,
                        float *x) {
    LAUNCH(drop, (unsigned)(n / 8), 1, 0, cuda_stream(b), *d, row, col, x);
    return CUDA_LAUNCHED(b, "dropout");
}
