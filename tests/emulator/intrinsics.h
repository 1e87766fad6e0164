/* intrinsics.h: what a kernel may call without a header of ours: indices, barriers, shuffles,
 * votes, and CUDA's arithmetic.
 *
 * Calls that threads make together carry the caller's place, for reports. Atomics are absent:
 * kernels have none. `rsqrtf`, `exp2f`, `__expf` and their like are exact to rounding here and
 * approximate on a card: nothing may depend on their last bits. */
#ifndef NIBBLE_TESTS_EMULATOR_INTRINSICS_H
#define NIBBLE_TESTS_EMULATOR_INTRINSICS_H

#include "emulator/types.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* ---- where a thread is ---- */

extern const uint3 *emulator_thread_index;
extern uint3 emulator_block_index;
extern dim3 emulator_block_size, emulator_grid_size;
#define threadIdx (*emulator_thread_index)
#define blockIdx  emulator_block_index
#define blockDim  emulator_block_size
#define gridDim   emulator_grid_size
static const int warpSize = 32;

/* ---- what threads do together; block.cpp and warp.cpp ---- */

#define EMULATOR_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

enum emulator_vote { VOTE_BALLOT, VOTE_ANY, VOTE_ALL };
enum emulator_count { COUNT_NONE, COUNT_SUM, COUNT_OR, COUNT_AND };

int emulator_barrier(emulator_count what, int predicate, const char *file, int line);
void emulator_warp_barrier(unsigned mask, const char *file, int line);
/* The value of lane `from` of the warp. */
uint64_t emulator_shuffle(unsigned mask, uint64_t value, int from, const char *file, int line);
unsigned emulator_vote_of(unsigned mask, emulator_vote what, int predicate, const char *file,
                          int line);
int emulator_lane(void);

static inline void __syncthreads(EMULATOR_PLACE) {
    emulator_barrier(COUNT_NONE, 0, file, line);
}
static inline int __syncthreads_count(int p, EMULATOR_PLACE) {
    return emulator_barrier(COUNT_SUM, p, file, line);
}
static inline int __syncthreads_or(int p, EMULATOR_PLACE) {
    return emulator_barrier(COUNT_OR, p, file, line);
}
static inline int __syncthreads_and(int p, EMULATOR_PLACE) {
    return emulator_barrier(COUNT_AND, p, file, line);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_PLACE) {
    emulator_warp_barrier(mask, file, line);
}
static inline unsigned __ballot_sync(unsigned mask, int p, EMULATOR_PLACE) {
    return emulator_vote_of(mask, VOTE_BALLOT, p, file, line);
}
static inline int __any_sync(unsigned mask, int p, EMULATOR_PLACE) {
    return (int)emulator_vote_of(mask, VOTE_ANY, p, file, line);
}
static inline int __all_sync(unsigned mask, int p, EMULATOR_PLACE) {
    return (int)emulator_vote_of(mask, VOTE_ALL, p, file, line);
}

template <typename T>
static inline T emulator_shuffle_as(unsigned mask, T x, int from, const char *file, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &x, sizeof x);
    bits = emulator_shuffle(mask, bits, from, file, line);
    memcpy(&x, &bits, sizeof x);
    return x;
}
template <typename T>
static inline T __shfl_sync(unsigned mask, T x, int from, int width = 32, EMULATOR_PLACE) {
    int base = emulator_lane() & -width;
    return emulator_shuffle_as(mask, x, base | (from & (width - 1)), file, line);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T x, int with, int width = 32, EMULATOR_PLACE) {
    int lane = emulator_lane(), from = lane ^ with;
    return emulator_shuffle_as(mask, x, from < (lane & -width) + width ? from : lane, file,
                               line);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32,
                               EMULATOR_PLACE) {
    int lane = emulator_lane(), from = lane - (int)by;
    return emulator_shuffle_as(mask, x, from >= (lane & -width) ? from : lane, file, line);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32,
                                 EMULATOR_PLACE) {
    int lane = emulator_lane(), from = lane + (int)by;
    return emulator_shuffle_as(mask, x, from < (lane & -width) + width ? from : lane, file,
                               line);
}

static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}
static inline void __threadfence_system(void) {}

/* ---- memory with a hint ---- */

#define EMULATOR_LOAD(name)                                                                   \
    template <typename T> static inline T name(const T *at) {                                 \
        return *at;                                                                           \
    }
#define EMULATOR_STORE(name)                                                                  \
    template <typename T> static inline void name(T *at, T x) {                               \
        *at = x;                                                                              \
    }
EMULATOR_LOAD(__ldg)
EMULATOR_LOAD(__ldcs)
EMULATOR_LOAD(__ldca)
EMULATOR_LOAD(__ldcg)
EMULATOR_LOAD(__ldlu)
EMULATOR_STORE(__stcs)
EMULATOR_STORE(__stcg)
EMULATOR_STORE(__stwb)
EMULATOR_STORE(__stwt)
#undef EMULATOR_LOAD
#undef EMULATOR_STORE

/* ---- arithmetic ---- */

/* glibc declares the double-underscore names of its own functions: ours are macros. */
#define __expf(x)          expf(x)
#define __exp10f(x)        exp10f(x)
#define __logf(x)          logf(x)
#define __log2f(x)         log2f(x)
#define __log10f(x)        log10f(x)
#define __sinf(x)          sinf(x)
#define __cosf(x)          cosf(x)
#define __tanhf(x)         tanhf(x)
#define __powf(x, y)       powf(x, y)
#define __sincosf(x, s, c) sincosf(x, s, c)

static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
static inline double rsqrt(double x) {
    return 1.0 / sqrt(x);
}
static inline float __frsqrt_rn(float x) {
    return (float)(1.0 / sqrt((double)x));
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __fdiv_rn(float a, float b) {
    return a / b;
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __frcp_rn(float a) {
    return 1.0f / a;
}
static inline float __fsqrt_rn(float a) {
    return sqrtf(a);
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline double __dmul_rn(double a, double b) {
    return a * b;
}
static inline double __dadd_rn(double a, double b) {
    return a + b;
}
static inline double __dsub_rn(double a, double b) {
    return a - b;
}
static inline double __ddiv_rn(double a, double b) {
    return a / b;
}
static inline double __dsqrt_rn(double a) {
    return sqrt(a);
}
static inline double __fma_rn(double a, double b, double c) {
    return fma(a, b, c);
}
static inline float __saturatef(float x) {
    return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f;
}

template <typename To, typename From> static inline To emulator_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}
static inline unsigned __float_as_uint(float x) {
    return emulator_bits<unsigned>(x);
}
static inline int __float_as_int(float x) {
    return emulator_bits<int>(x);
}
static inline float __uint_as_float(unsigned x) {
    return emulator_bits<float>(x);
}
static inline float __int_as_float(int x) {
    return emulator_bits<float>(x);
}
static inline long long __double_as_longlong(double x) {
    return emulator_bits<long long>(x);
}
static inline double __longlong_as_double(long long x) {
    return emulator_bits<double>(x);
}

static inline int emulator_to_int(double x) {
    return x != x               ? 0
           : x >= 2147483647.0  ? 2147483647
           : x <= -2147483648.0 ? INT32_MIN
                                : (int)x;
}
static inline unsigned emulator_to_uint(double x) {
    return !(x > 0) ? 0 : x >= 4294967295.0 ? 4294967295u : (unsigned)x;
}
static inline int __float2int_rn(float x) {
    return emulator_to_int(rintf(x));
}
static inline int __float2int_rd(float x) {
    return emulator_to_int(floorf(x));
}
static inline int __float2int_ru(float x) {
    return emulator_to_int(ceilf(x));
}
static inline int __float2int_rz(float x) {
    return emulator_to_int(truncf(x));
}
static inline unsigned __float2uint_rn(float x) {
    return emulator_to_uint(rintf(x));
}
static inline unsigned __float2uint_rz(float x) {
    return emulator_to_uint(truncf(x));
}
static inline float __int2float_rn(int x) {
    return (float)x;
}
static inline float __uint2float_rn(unsigned x) {
    return (float)x;
}
static inline float __double2float_rn(double x) {
    return (float)x;
}

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x) {
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline int __mulhi(int a, int b) {
    return (int)((int64_t)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
/* Four bytes chosen by nibbles out of the eight of {y, x}; bit 3 repeats the sign. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t from = (uint64_t)y << 32 | x;
    unsigned to = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> (4 * i) & 15, byte = from >> (8 * (s & 7)) & 0xff;
        if (s & 8) byte = byte & 0x80 ? 0xff : 0;
        to |= byte << (8 * i);
    }
    return to;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)((((uint64_t)high << 32 | low) << (by & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}

#define EMULATOR_MIN_MAX(type)                                                                \
    static inline type min(type a, type b) {                                                  \
        return a < b ? a : b;                                                                 \
    }                                                                                         \
    static inline type max(type a, type b) {                                                  \
        return a > b ? a : b;                                                                 \
    }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX
static inline float min(float a, float b) {
    return fminf(a, b);
}
static inline float max(float a, float b) {
    return fmaxf(a, b);
}
static inline double min(double a, double b) {
    return fmin(a, b);
}
static inline double max(double a, double b) {
    return fmax(a, b);
}

#endif
