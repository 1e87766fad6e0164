/* simd.c: asks the processor once and remembers. */
#include "quant/simd.h"

#include <stdatomic.h>

static atomic_int limited = SIMD_AVX512;
static atomic_int found = -1; /* -1: not asked yet; asking twice is harmless */

static simd_level ask(void) {
#if SIMD_X86
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return avx2 ? (avx512 ? SIMD_AVX512 : SIMD_AVX2) : SIMD_NONE;
#else
    return SIMD_NONE;
#endif
}

simd_level simd_get(void) {
    int level = atomic_load_explicit(&found, memory_order_relaxed);
    if (level < 0) {
        level = ask();
        atomic_store_explicit(&found, level, memory_order_relaxed);
    }
    int limit = atomic_load_explicit(&limited, memory_order_relaxed);
    return (simd_level)(level < limit ? level : limit);
}

void simd_limit(simd_level limit) {
    atomic_store_explicit(&limited, (int)limit, memory_order_relaxed);
}
