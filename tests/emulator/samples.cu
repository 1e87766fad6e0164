/* samples.cu: see samples.h. */
#include "autograd/cuda/device.h"
#include "emulator/samples.h"

__global__ void together(int *out) {
    int i = threadIdx.x, lane = i % WARP, odd = lane & 1;
    int *row = out + i * SAMPLE_WORDS;
    row[0] = __shfl_sync(0xffffffffu, 100 + i, 5);
    row[1] = __shfl_xor_sync(0xffffffffu, 100 + i, 3);
    row[2] = __shfl_up_sync(0xffffffffu, 100 + i, 2, 8);
    row[3] = __shfl_down_sync(0xffffffffu, 100 + i, 2, 8);
    row[4] = (int)__ballot_sync(0xffffffffu, odd);
    row[5] = __any_sync(0xffffffffu, i == 40);
    row[6] = __all_sync(0xffffffffu, i < 40);
    row[7] = __syncthreads_count(i % 3 == 0);
    row[8] = (int)(threadIdx.x + blockIdx.x * blockDim.x);
}
void sample_together(int *out) {
    LAUNCH(together, 1, SAMPLE_THREADS, 0, 0, out);
}

__global__ void stuck(int *none) {
    if (threadIdx.x < 33)
        __syncthreads();
    else
        __syncwarp();
}
void sample_deadlock(void) {
    LAUNCH(stuck, 1, 64, 0, 0, (int *)NULL);
}

__global__ void idle(int) {}
cudaError_t sample_launch(dim3 grid, dim3 block, size_t shared) {
    LAUNCH(idle, grid, block, shared, 0, 0);
    return cudaGetLastError();
}
cudaError_t sample_allow_shared(int bytes) {
    return cudaFuncSetAttribute(idle, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

__global__ void strided(const float *x, float *out, int stride, int pitch) {
    SHARED(raw);
    float *s = (float *)raw;
    int lane = threadIdx.x;
    s[lane * pitch] = x[lane * stride];
    __syncwarp();
    out[lane] = s[lane * pitch];
}
void sample_strided(int stride, int pitch) {
    float *x, *out;
    size_t n = (size_t)(32 * stride);
    cudaMalloc(&x, n * 4);
    cudaMalloc(&out, 32 * 4);
    cudaMemset(x, 0, n * 4);
    LAUNCH(strided, 1, 32, 32 * pitch * 4, 0, x, out, stride, pitch);
    cudaFree(x);
    cudaFree(out);
}

__global__ void fragments(uint4 *out, int pitch) {
    SHARED(raw);
    uint16_t *s = (uint16_t *)raw;
    int lane = threadIdx.x;
    uint32_t r[4];
    for (int i = lane; i < 16 * pitch; i += 32) s[i] = (uint16_t)i;
    __syncwarp();
    ldmatrix_x4(r, s + (lane & 15) * pitch + (lane >> 4) * 8);
    out[lane] = make_uint4(r[0], r[1], r[2], r[3]);
}
void sample_ldmatrix(int pitch) {
    uint4 *out;
    cudaMalloc(&out, 32 * 16);
    LAUNCH(fragments, 1, 32, 16 * pitch * 2, 0, out, pitch);
    cudaFree(out);
}
