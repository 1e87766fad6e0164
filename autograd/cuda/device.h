/* device.h: what kernels are written with: launches, warps, 16-byte pieces, tensor cores.
 *
 * Every instruction that C has no word for stands here once, as a wrapper of inline PTX. Under a
 * plain C++ compiler the same names go to the emulator of tests/emulator, with the caller's place;
 * kernels themselves have no #ifdef.
 *
 * Rules for kernels (why: tests/emulator/README.md):
 *   - no atomics, and no two blocks write one word in one launch: two runs give the same bits;
 *   - shared memory is dynamic, through SHARED; no static __shared__ arrays;
 *   - no early return before a barrier or a shuffle: a `live` flag;
 *   - what must equal the CPU bit for bit is written with __fmul_rn, __fadd_rn, __fmaf_rn,
 *     __fdiv_rn, __fsqrt_rn: nvcc contracts a*b + c into fma;
 *   - counts are int64_t, indices within a tile int;
 *   - a kernel that needs more than 48 KB of shared memory is launched after allow_shared.
 *
 * Fragments of mma.m16n8k16, g = lane / 4, t = lane % 4 (PTX ISA):
 *   A a[0..3]: {row g, cols 2t..}, {row g+8}, {row g, cols 2t+8..}, {row g+8, cols 2t+8..}
 *   B b[0..1]: k = 2t.. and 2t+8.., n = g      C, D d[0..3]: rows g, g, g+8, g+8, cols 2t, 2t+1 */
#ifndef NIBBLE_AUTOGRAD_CUDA_DEVICE_H
#define NIBBLE_AUTOGRAD_CUDA_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;
typedef __half f16;

enum { WARP = 32, FULL_MASK = -1 };

#ifdef __CUDACC__

#define LAUNCH(kernel, grid, block, shared, stream, ...)                                      \
    (kernel)<<<(grid), (block), (size_t)(shared), (stream)>>>(__VA_ARGS__)
/* Declares `name`, the block's dynamic shared memory. */
#define SHARED(name) extern __shared__ __align__(128) unsigned char name[]
/* In front of a loop of constant length over an array in registers. */
#define UNROLL _Pragma("unroll")

/* ---- copies from global to shared memory that overlap with compute ---- */

/* 16 bytes, both addresses multiples of 16; zeros where not `valid` (nothing is read then). */
static __device__ __forceinline__ void cp_async_16(void *shared, const void *global,
                                                   bool valid) {
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(at), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
static __device__ __forceinline__ void cp_async_commit(void) {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}
/* Waits until at most `left` of the committed groups are under way. A barrier must follow. */
template <int left> static __device__ __forceinline__ void cp_async_wait(void) {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(left) : "memory");
}

/* ---- tensor cores ---- */

/* Four 8x8 matrices of 16-bit elements; lane 8m + r gives the address of row r of matrix m. */
static __device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *shared) {
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
static __device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *shared) {
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
/* d += a b in f32; T is bf16 or f16. */
template <typename T>
static __device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4],
                                                 const uint32_t b[2]);
template <>
__device__ __forceinline__ void mma_16816<bf16>(float d[4], const uint32_t a[4],
                                                const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void mma_16816<f16>(float d[4], const uint32_t a[4],
                                               const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 2^x in one instruction, within 2 units in the last place; 0 below f32's normal range. */
static __device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* One store of 16 bytes: a plain one may be cut into four where the words come from different
 * places. */
static __device__ __forceinline__ void store_16(void *global, uint4 x) {
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};\n" ::"l"(global), "r"(x.x), "r"(x.y),
                 "r"(x.z), "r"(x.w)
                 : "memory");
}

#else
#include "emulator/device.h" /* tests/: LAUNCH, SHARED and the wrappers above */
#endif

/* ---- types ---- */

template <typename T> static __device__ __forceinline__ float to_f32(T x);
template <> __device__ __forceinline__ float to_f32<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ float to_f32<bf16>(bf16 x) {
    return __bfloat162float(x);
}
template <> __device__ __forceinline__ float to_f32<f16>(f16 x) {
    return __half2float(x);
}
/* One rounding to nearest even. */
template <typename T> static __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    return __float2bfloat16_rn(x);
}
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) {
    return __float2half_rn(x);
}
/* x rounded to T, as f32. */
template <typename T> static __device__ __forceinline__ float round_to(float x) {
    return to_f32<T>(from_f32<T>(x));
}

/* Elements of T in 16 bytes, read and written together where addresses allow it. */
template <typename T> struct piece {
    static const int count = 16 / (int)sizeof(T);
    union {
        uint4 bits;
        T x[16 / sizeof(T)];
    };
    __device__ __forceinline__ piece() {}
};

/* ---- reductions in a fixed order ---- */

static __device__ __forceinline__ float warp_sum(float x) {
    for (int d = WARP / 2; d; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
static __device__ __forceinline__ float warp_max(float x) {
    for (int d = WARP / 2; d; d /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

#endif
