/* cuda_fp16.h of the emulator: IEEE half with exact conversions, to nearest even. */
#ifndef NIBBLE_TESTS_EMULATOR_CUDA_FP16_H
#define NIBBLE_TESTS_EMULATOR_CUDA_FP16_H

#include "cuda_runtime.h"

extern "C++" {
#include "common/half.h"

struct __half_raw {
    unsigned short x;
};
struct __half {
    unsigned short __x;
    __half() = default;
    __half(__half_raw r) : __x(r.x) {}
    /* as on the card, every NaN becomes one */
    __half(float x) : __x(x != x ? 0x7fff : f32_to_f16(x)) {}
    operator float() const { return f16_to_f32(__x); }
    operator __half_raw() const { return {__x}; }
};
typedef __half half;
struct __attribute__((aligned(4))) __half2 {
    __half x, y;
};
typedef __half2 half2;

static inline __half __float2half_rn(float x) {
    return __half(x);
}
static inline float __half2float(__half x) {
    return f16_to_f32(x.__x);
}
static inline __half2 __floats2half2_rn(float x, float y) {
    return {__half(x), __half(y)};
}
static inline float2 __half22float2(__half2 v) {
    return {__half2float(v.x), __half2float(v.y)};
}
static inline float __low2float(__half2 v) {
    return __half2float(v.x);
}
static inline float __high2float(__half2 v) {
    return __half2float(v.y);
}
static inline unsigned short __half_as_ushort(__half x) {
    return x.__x;
}
static inline __half __ushort_as_half(unsigned short x) {
    return __half_raw{x};
}
}

#endif
