/* device.h: the emulator's side of autograd/cuda/device.h: the names that stand for inline PTX
 * under nvcc. Only that header includes this one. */
#ifndef NIBBLE_TESTS_EMULATOR_DEVICE_H
#define NIBBLE_TESTS_EMULATOR_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <functional>
#include <tuple>
#include <type_traits>

/* Enqueues `body` as a grid; runtime errors are cudaGetLastError's, as after <<<>>>. `forget`
 * frees the arguments when the grid has run. */
void emulator_launch(const char *name, const void *kernel, dim3 grid, dim3 block,
                     size_t shared, cudaStream_t stream, std::function<void()> body,
                     void *arguments, size_t bytes, void (*forget)(void *arguments));

template <typename... P, typename... A>
static inline void emulator_launch_as(const char *name, void (*kernel)(P...), dim3 grid,
                                      dim3 block, size_t shared, cudaStream_t stream,
                                      A... arguments) {
    typedef std::tuple<P...> values;
    values *kept = new values(arguments...);
    emulator_launch(
        name, (const void *)kernel, grid, block, shared, stream,
        [kernel, kept] { std::apply(kernel, *kept); }, kept, sizeof *kept,
        [](void *p) { delete (values *)p; });
}

#define LAUNCH(kernel, grid, block, shared, stream, ...)                                      \
    emulator_launch_as(#kernel, (kernel), dim3(grid), dim3(block), (size_t)(shared),          \
                       (stream), __VA_ARGS__)
#define SHARED(name) unsigned char *const name = emulator_shared()
#define UNROLL

unsigned char *emulator_shared(void);

/* 16 bytes, both addresses multiples of 16. The bytes in shared memory are poison until the
 * wait that covers them: nothing may read them before. */
void emulator_cp_async(void *shared, const void *global, bool valid, const char *file,
                       int line);
void emulator_cp_commit(const char *file, int line);
void emulator_cp_wait(int left, const char *file, int line);
void emulator_ldmatrix(uint32_t r[4], const void *shared, bool trans, const char *file,
                       int line);
void emulator_mma(float d[4], const uint32_t a[4], const uint32_t b[2], bool bf16,
                  const char *file, int line);

static inline void cp_async_16(void *shared, const void *global, bool valid, EMULATOR_PLACE) {
    emulator_cp_async(shared, global, valid, file, line);
}
static inline void cp_async_commit(EMULATOR_PLACE) {
    emulator_cp_commit(file, line);
}
template <int left> static inline void cp_async_wait(EMULATOR_PLACE) {
    emulator_cp_wait(left, file, line);
}
static inline void ldmatrix_x4(uint32_t r[4], const void *shared, EMULATOR_PLACE) {
    emulator_ldmatrix(r, shared, false, file, line);
}
static inline void ldmatrix_x4_trans(uint32_t r[4], const void *shared, EMULATOR_PLACE) {
    emulator_ldmatrix(r, shared, true, file, line);
}
template <typename T>
static inline void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2],
                             EMULATOR_PLACE) {
    static_assert(sizeof(T) == 2, "bf16 or f16");
    emulator_mma(d, a, b, std::is_same<T, __nv_bfloat16>::value, file, line);
}

static inline float exp2_fast(float x) {
    float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

static inline void store_16(void *global, uint4 x) {
    *(uint4 *)global = x;
}

#endif
