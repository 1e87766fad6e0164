/* samples.h: small kernels that the emulator's tests know the answers of. */
#ifndef NIBBLE_TESTS_EMULATOR_SAMPLES_H
#define NIBBLE_TESTS_EMULATOR_SAMPLES_H

#include <cuda_runtime.h>

enum { SAMPLE_THREADS = 64, SAMPLE_WORDS = 9 };

/* Per thread of one block: shuffles (from lane 5, xor 3, up 2, down 2 in widths of 8), ballot, any and
 * all of "lane is odd", __syncthreads_count of it, its index in the block. */
void sample_together(int *out);

/* 33 of 64 threads wait in __syncthreads, the others for a lane among them. */
void sample_deadlock(void);

/* Launches of a kernel that does nothing: what the runtime says of the shape. */
cudaError_t sample_launch(dim3 grid, dim3 block, size_t shared);
cudaError_t sample_allow_shared(int bytes);

/* One warp moves 32 floats each `stride` apart in global memory, then through shared memory with
 * rows `pitch` floats apart: the 32 lanes read a column. */
void sample_strided(int stride, int pitch);
/* One warp loads a 16x16 matrix of 16-bit elements whose rows are `pitch` elements apart. */
void sample_ldmatrix(int pitch);

#endif
