/* test_fakequant.c: fake quantization equals quantizing and dequantizing for real (4 bits) and
 * bitsandbytes' int8 vectors; what is not finite shows; nothing depends on tiles. */
#include "golden.h"

#include "common/half.h"
#include "common/philox.h"
#include "quant/fake.h"
#include "quant/simd.h"

#include <math.h>

enum { N = 10007 }; /* several tiles of 4,096 and a ragged end */

static float x[N], back[N];
static uint16_t half[N], half_back[N];

static void fill(uint64_t seed) {
    philox_stream s = philox_open(seed, PHILOX_SAMPLE, 0, 0, 0);
    for (int i = 0; i < N; i++) {
        float u = philox_uniform(philox_word(&s, (uint64_t)i)) - 0.5f;
        x[i] = i / 64 % 9 == 4 ? 0.0f : u * u * u * (i / 640 % 2 ? 3.0f : 0.01f);
    }
}

/* The way of a real tensor: codes and scales of the whole, then values. */
static void for_real(quant_type type, const void *in, int dtype, int32_t block, void *out) {
    static uint8_t codes[N / 2 + 1];
    static float absmax[N];
    assert_ok(quant_quantize(type, in, dtype, N, block, codes, absmax));
    quant_view view = {
        type, N, block, .codes = codes, .absmax = absmax, .code = quant_codebook(type)};
    if (dtype == QUANT_SRC_F32) quant_dequantize_f32(&view, 0, N, out);
    if (dtype == QUANT_SRC_BF16) quant_dequantize_bf16(&view, 0, N, out);
    if (dtype == QUANT_SRC_F16) quant_dequantize_f16(&view, 0, N, out);
}

static void four_bits_equal_the_real_way(void **state) {
    static const int32_t blocks[] = {2, 64, 96, 4096};
    static float expected[N];
    static uint16_t expected16[N];
    fill(1);
    for (int c = 0; c < 16; c++) {
        quant_type type = c % 2 ? QUANT_FP4 : QUANT_NF4;
        int32_t block = blocks[c / 4];
        simd_limit(c % 4 < 2 ? SIMD_NONE : SIMD_AVX512);
        for_real(type, x, QUANT_SRC_F32, block, expected);
        fake_quant4(type, x, QUANT_SRC_F32, N, block, back);
        assert_memory_equal(back, expected, sizeof expected);
        for (int dtype = QUANT_SRC_BF16; dtype <= QUANT_SRC_F16; dtype++) {
            convert_array(x, QUANT_SRC_F32, half, dtype, N);
            for_real(type, half, dtype, block, expected16);
            fake_quant4(type, half, dtype, N, block, half_back);
            assert_memory_equal(half_back, expected16, sizeof expected16);
        }
    }
}

static void in_place_and_in_ranges(void **state) {
    fill(2);
    fake_quant4(QUANT_NF4, x, QUANT_SRC_F32, N, 64, back);
    fake_quant4(QUANT_NF4, x, QUANT_SRC_F32, 6400, 64, x);
    fake_quant4(QUANT_NF4, x + 6400, QUANT_SRC_F32, N - 6400, 64, x + 6400);
    assert_memory_equal(x, back, sizeof back);
    fill(2);
    fake_quant_int8_rows(x, QUANT_SRC_F32, 1, N, back);
    fake_quant_int8_rows(x, QUANT_SRC_F32, 1, N, x);
    assert_memory_equal(x, back, sizeof back);
}

static void not_finite_shows_in_its_block(void **state) {
    for (int dtype = QUANT_SRC_F32; dtype <= QUANT_SRC_F16; dtype++) {
        fill(3);
        x[5000] = NAN, x[N - 1] = -INFINITY; /* blocks 78 and the last, short one */
        convert_array(x, QUANT_SRC_F32, dtype == QUANT_SRC_F32 ? (void *)back : half, dtype,
                      N);
        void *in = dtype == QUANT_SRC_F32 ? (void *)back : half;
        fake_quant4(QUANT_FP4, in, dtype, N, 64, in);
        float *out = x;
        convert_array(in, dtype, out, QUANT_SRC_F32, N);
        for (int i = 0; i < N; i++)
            assert_int_equal(isnan(out[i]) != 0, i / 64 == 78 || i / 64 == N / 64);
    }
    fill(3);
    x[4500] = INFINITY;
    fake_quant_int8_rows(x, QUANT_SRC_F32, 10, 1000, back);
    for (int i = 0; i < 10000; i++) assert_int_equal(isnan(back[i]) != 0, i / 1000 == 4);
}

/* torch.ops.bitsandbytes.int8_vectorwise_quant and its dequant, 0.50.2, on three rows of 8. */
static void int8_equals_bitsandbytes(void **state) {
    static const uint32_t in[24] = {0xbd9cf7af, 0x3eb84264, 0xbf483241, 0x3d927d22, 0x3f2a32ea,
                                    0xbe92d4de, 0x3fcf6e35, 0xbfcc60ee, 0x3c0494e8, 0x3c484f87,
                                    0x3c792a2b, 0x00000000, 0xbbe1ff72, 0x3c21c2a9, 0xbacb5f8f,
                                    0xbd13e53d, 0x4168dacf, 0x40c50667, 0x4122720f, 0x4222549a,
                                    0x41335851, 0x3ece13be, 0x41b9ae7b, 0xc051bf60};
    static const uint32_t expected[24] = {
        0xbd9ccc40, 0x3eb6ee4b, 0xbf474392, 0x3d9ccc40, 0x3f29dd46, 0xbe8fbb3a,
        0x3fcf6e35, 0xbfcc29f4, 0x3c026d70, 0x3c484ca3, 0x3c76e170, 0x00000000,
        0xbbdf970a, 0x3c2308cd, 0xbaba5332, 0xbd13e53d, 0x416b2ffd, 0x40c24909,
        0x41239bd2, 0x4222549a, 0x4132f26d, 0x3ea39bd2, 0x41ba9dbb, 0xc04c82c5};
    float rows[24];
    for (int level = SIMD_NONE; level <= SIMD_AVX512; level++) {
        simd_limit((simd_level)level);
        memcpy(rows, in, sizeof rows);
        fake_quant_int8_rows(rows, QUANT_SRC_F32, 3, 8, rows);
        assert_memory_equal(rows, expected, sizeof rows);
    }
}

/* Rows longer than a tile, zero and vanishing rows; error at most half a step. */
static void int8_rows_by_definition(void **state) {
    fill(4);
    for (int dtype = QUANT_SRC_F32; dtype <= QUANT_SRC_F16; dtype++) {
        convert_array(x, QUANT_SRC_F32, half, dtype == QUANT_SRC_F32 ? QUANT_SRC_BF16 : dtype,
                      N);
        const void *in = dtype == QUANT_SRC_F32 ? (const void *)x : half;
        float exact[N], out[N];
        convert_array(in, dtype, exact, QUANT_SRC_F32, N);
        fake_quant_int8_rows(in, dtype, 2, 5003,
                             dtype == QUANT_SRC_F32 ? (void *)back : half_back);
        convert_array(dtype == QUANT_SRC_F32 ? (void *)back : half_back, dtype, out,
                      QUANT_SRC_F32, N - 1);
        for (int r = 0; r < 2; r++) {
            float absmax = 0;
            for (int i = r * 5003; i < (r + 1) * 5003; i++)
                absmax = fmaxf(absmax, fabsf(exact[i]));
            float rounding = dtype == QUANT_SRC_F32    ? 1e-6f
                             : dtype == QUANT_SRC_BF16 ? 4e-3f
                                                       : 5e-4f;
            for (int i = r * 5003; i < (r + 1) * 5003; i++)
                assert_true(fabsf(out[i] - exact[i]) <=
                            absmax * (0.5f / 127.0f + 1e-6f) + rounding * fabsf(out[i]));
        }
    }
    float tiny[6] = {0, 0, -0.0f, 1e-38f, -1e-39f, 1e-40f}, zero[6] = {0};
    fake_quant_int8_rows(tiny, QUANT_SRC_F32, 2, 3, tiny);
    for (int i = 0; i < 6; i++) assert_true(tiny[i] == zero[i]);
    fake_quant_int8_rows(tiny, QUANT_SRC_F32, 0, 3, NULL);
    fake_quant4(QUANT_NF4, tiny, QUANT_SRC_F32, 0, 64, NULL);
}

static int lift_limit(void **state) {
    simd_limit(SIMD_AVX512);
    return 0;
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(four_bits_equal_the_real_way, lift_limit),
        cmocka_unit_test_teardown(in_place_and_in_ranges, lift_limit),
        cmocka_unit_test_teardown(not_finite_shows_in_its_block, lift_limit),
        cmocka_unit_test_teardown(int8_equals_bitsandbytes, lift_limit),
        cmocka_unit_test_teardown(int8_rows_by_definition, lift_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
