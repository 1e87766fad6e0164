/* simd.h: which instruction set the hot loops of quant/ use, decided once at run time.
 *
 * The binary is built for baseline x86-64; a loop worth it exists twice or three times and the
 * variant is picked by simd_get. All variants give the same bits: every function here is
 * either elementwise or reduces by maximum, and fused multiply-adds are written out, never
 * contracted. On other processors only the plain variant is compiled. */
#ifndef NIBBLE_QUANT_SIMD_H
#define NIBBLE_QUANT_SIMD_H

typedef enum simd_level {
    SIMD_NONE,   /* what the compiler makes of plain C for the baseline */
    SIMD_AVX2,   /* AVX2, FMA, F16C: Haswell and Zen on */
    SIMD_AVX512, /* AVX512 F, BW, VL, DQ */
} simd_level;

/* The best level that this processor has, at most the limit. Thread-safe. */
simd_level simd_get(void);
/* Test hook: from now on at most `limit`; SIMD_AVX512 lifts it. */
void simd_limit(simd_level limit);

#if defined(__x86_64__) && defined(__GNUC__)
#define SIMD_X86      1
#define TARGET_AVX2   __attribute__((target("avx2,fma,f16c")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")))
#else
#define SIMD_X86 0
#define TARGET_AVX2
#define TARGET_AVX512
#endif

/* Defines the function NAME out of NAME_body, which must be SIMD_INLINE: compiled for the
 * baseline and for AVX2, chosen per call. The compiler vectorizes; no intrinsics needed. */
#define SIMD_INLINE static inline __attribute__((always_inline))
#define SIMD_TWICE(name, parameters, arguments)                                               \
    static void name##_plain parameters {                                                     \
        name##_body arguments;                                                                \
    }                                                                                         \
    TARGET_AVX2 static void name##_avx2 parameters {                                          \
        name##_body arguments;                                                                \
    }                                                                                         \
    void name parameters {                                                                    \
        if (simd_get() >= SIMD_AVX2)                                                          \
            name##_avx2 arguments;                                                            \
        else                                                                                  \
            name##_plain arguments;                                                           \
    }

#endif
