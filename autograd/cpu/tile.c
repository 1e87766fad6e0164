/* tile.c: tile_body.h compiled for each instruction set, and the choice between them. */
#include "autograd/cpu/tile.h"

#include "quant/simd.h"

#include <string.h>

#if SIMD_X86
#include <immintrin.h>
#endif

static int min_int(int a, int b) {
    return a < b ? a : b;
}
static int max_int(int a, int b) {
    return a > b ? a : b;
}

typedef struct range {
    int first, last; /* [first, last) */
} range;

/* The keys that some query of [q0, q1) sees, of `keys`. */
static range keys_seen(tile_band b, int q0, int q1, int keys) {
    int first = b.window > 0 ? max_int(0, q0 + b.delta - b.window + 1) : 0;
    return (range){first, min_int(keys, q1 + b.delta)};
}
/* The keys that every query of [q0, q1) sees, of `keys`. */
static range keys_seen_by_all(tile_band b, int q0, int q1, int keys) {
    int first = b.window > 0 ? max_int(0, q1 + b.delta - b.window) : 0;
    return (range){first, min_int(keys, q0 + b.delta + 1)};
}
/* The queries that see some key of [k0, k1), of `queries`. */
static range queries_seeing(tile_band b, int k0, int k1, int queries) {
    int last = b.window > 0 ? min_int(queries, k1 - 1 - b.delta + b.window) : queries;
    return (range){max_int(0, k0 - b.delta), last};
}

#define BASELINE_FMA(a, b, c) ((a) * (b) + (c))
#define BASELINE_MAX(a, b)    T(choose)((a) > (b), (a), (b))
#define T(name)               name##_baseline
#define TARGET
#define LANES      4
#define BLOCK_ROWS 6
#define VFMA       BASELINE_FMA
#define VMAX       BASELINE_MAX
#include "autograd/cpu/tile_body.h"

#if SIMD_X86
#define T(name)       name##_avx2
#define TARGET        TARGET_AVX2
#define LANES         8
#define BLOCK_ROWS    6
#define VFMA(a, b, c) ((T(vf))_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define VMAX(a, b)    ((T(vf))_mm256_max_ps((__m256)(a), (__m256)(b)))
#include "autograd/cpu/tile_body.h"

#define T(name)       name##_avx512
#define TARGET        TARGET_AVX512
#define LANES         16
#define BLOCK_ROWS    12
#define VFMA(a, b, c) ((T(vf))_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define VMAX(a, b)    ((T(vf))_mm512_max_ps((__m512)(a), (__m512)(b)))
#include "autograd/cpu/tile_body.h"
#endif

const tile_functions *tile_functions_get(void) {
#if SIMD_X86
    if (simd_get() >= SIMD_AVX512) return &functions_avx512;
    if (simd_get() >= SIMD_AVX2) return &functions_avx2;
#endif
    return &functions_baseline;
}

static void transpose_4(float *to, int64_t to_row, const float *from, int64_t from_row) {
#if SIMD_X86
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_row);
    __m128 c = _mm_loadu_ps(from + 2 * from_row), d = _mm_loadu_ps(from + 3 * from_row);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a);
    _mm_storeu_ps(to + to_row, b);
    _mm_storeu_ps(to + 2 * to_row, c);
    _mm_storeu_ps(to + 3 * to_row, d);
#else
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) to[j * to_row + i] = from[i * from_row + j];
#endif
}

void tile_transpose(float *to, int64_t to_row, const float *from, int64_t from_row, int rows,
                    int cols) {
    for (int c = 0; c < cols; c += 4)
        for (int r = 0; r < rows; r += 4)
            transpose_4(to + c * to_row + r, to_row, from + r * from_row + c, from_row);
}
