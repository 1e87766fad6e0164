/* cuda_bf16.h of the emulator: bfloat16 with exact conversions, to nearest even. */
#ifndef NIBBLE_TESTS_EMULATOR_CUDA_BF16_H
#define NIBBLE_TESTS_EMULATOR_CUDA_BF16_H

#include "cuda_runtime.h"

extern "C++" {
#include "common/half.h"

struct __nv_bfloat16_raw {
    unsigned short x;
};
struct __nv_bfloat16 {
    unsigned short __x;
    __nv_bfloat16() = default;
    __nv_bfloat16(__nv_bfloat16_raw r) : __x(r.x) {}
    /* as on the card, every NaN becomes one */
    __nv_bfloat16(float x) : __x(x != x ? 0x7fff : f32_to_bf16(x)) {}
    operator float() const { return bf16_to_f32(__x); }
    operator __nv_bfloat16_raw() const { return {__x}; }
};
struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    return __nv_bfloat16(x);
}
static inline float __bfloat162float(__nv_bfloat16 x) {
    return bf16_to_f32(x.__x);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__nv_bfloat16(x), __nv_bfloat16(y)};
}
static inline float __low2float(__nv_bfloat162 v) {
    return __bfloat162float(v.x);
}
static inline float __high2float(__nv_bfloat162 v) {
    return __bfloat162float(v.y);
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) {
    return x.__x;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) {
    return __nv_bfloat16_raw{x};
}
}

#endif
