/* test_quant.c: 4-bit formats, dynamic map, double quantization and conversions: against the
 * goldens of bitsandbytes, and every fast path against the slow one of quant_reference.h. */
#include "golden.h"

#include "quant/simd.h"
#include "quant_reference.h"
#include "sha256.h"

enum { LEVELS = 3 };
static const simd_level levels[LEVELS] = {SIMD_NONE, SIMD_AVX2, SIMD_AVX512};

/* ---- tests ---- */

static void codebooks_and_maps_have_their_bits(void **state) {
    char text[65];
    sha256_text("abc", 3, text); /* the test's own tool first */
    assert_string_equal(text,
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_text(dynamic_map_signed(), 1024, text);
    assert_string_equal(text,
                        "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
    sha256_text(dynamic_map_unsigned(), 1024, text);
    assert_string_equal(text,
                        "305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398");
    assert_true(dynamic_map_signed()[DYNAMIC_ZERO_SIGNED] == 0.0f);
    golden g;
    golden_open(&g, "expectations/bnb-nf4-golden/nf4_golden.safetensors");
    assert_memory_equal(nf4_codebook(), golden_get(&g, "code_nf4").data, 64);
    golden_close(&g);
    golden_open(&g, "expectations/fp4-golden/fp4_golden.safetensors");
    assert_memory_equal(fp4_codebook(), golden_get(&g, "code_fp4").data, 64);
    golden_close(&g);
}

/* Double quantization of a golden's scales; the golden's own offset and map give its own
 * codes. */
static void check_nested(const golden *g, const char *name, quant_view *view, int64_t blocks) {
    const float *map = golden_get(g, "code_dynamic").f32;
    golden_tensor absmax2 = golden_get(g, "%s.nested_absmax", name);
    float offset = golden_get(g, "%s.nested_offset", name).f32[0], ours, codes2[8];
    uint8_t codes[2048];
    assert_true(absmax2.count <= 8 && blocks <= 2048 &&
                absmax2.count == quant_nest_count(blocks));
    assert_ok(quant_nest(view->absmax, blocks, codes, codes2, &ours, map));
    assert_true(fabsf(ours - offset) <=
                2.4e-7f * offset); /* torch's order: at most 2 ulp here */
    assert_ok(quant_nest_around(view->absmax, blocks, offset, map, codes, codes2));
    assert_memory_equal(codes, golden_get(g, "%s.absmax_u8", name).data, (size_t)blocks);
    assert_memory_equal(codes2, absmax2.data, (size_t)absmax2.count * 4);

    float back[2048];
    quant_unnest(codes, codes2, offset, map, 0, blocks, back);
    assert_memory_equal(back, golden_get(g, "%s.absmax_from_dq", name).data,
                        (size_t)blocks * 4);
    view->absmax = NULL;
    view->absmax_codes = golden_get(g, "%s.absmax_u8", name).u8;
    view->absmax2 = absmax2.f32;
    view->map2 = map;
    view->offset = offset;
    golden_tensor expected = golden_get(g, "%s.deq_dq_f32", name);
    float *out = mem_alloc_array((size_t)view->count, 4, "test");
    quant_dequantize_f32(view, 0, view->count, out);
    assert_memory_equal(out, expected.data, (size_t)view->count * 4);
    mem_free(out);
}

static void nf4_equals_bitsandbytes(void **state) {
    static const char *const inputs[] = {"normal", "bf16in", "edge", "odd"};
    golden g;
    golden_open(&g, "expectations/bnb-nf4-golden/nf4_golden.safetensors");
    for (int c = 0; c < 16; c++) {
        const char *input = inputs[c / 4];
        int32_t block = c % 2 ? 128 : 64;
        simd_limit(levels[c % 4 / 2 * 2]);
        char name[64];
        snprintf(name, sizeof name, "%s.bs%d", input, block);
        golden_tensor x = golden_get(&g, "%s.input", input);
        golden_tensor packed = golden_get(&g, "%s.packed", name),
                      absmax = golden_get(&g, "%s.absmax", name);
        int dtype = strcmp(x.dtype, "BF16") ? QUANT_SRC_F32 : QUANT_SRC_BF16;
        uint8_t *codes = mem_alloc((size_t)packed.count, "test");
        float *scales = mem_alloc_array((size_t)absmax.count, 4, "test");
        float *out = mem_alloc_array((size_t)x.count, 4, "test");
        assert_int_equal(quant_block_count(x.count, block), absmax.count);
        assert_ok(quant_quantize(QUANT_NF4, x.data, dtype, x.count, block, codes, scales));
        assert_memory_equal(codes, packed.data, (size_t)packed.count);
        assert_memory_equal(scales, absmax.data, (size_t)absmax.count * 4);
        quant_view view = {QUANT_NF4,      x.count,          block,
                           .codes = codes, .absmax = scales, .code = nf4_codebook()};
        assert_ok(quant_view_check(&view));
        quant_dequantize_f32(&view, 0, x.count, out);
        assert_memory_equal(out, golden_get(&g, "%s.deq_f32", name).data, (size_t)x.count * 4);
        check_nested(&g, name, &view, absmax.count);
        mem_free(codes), mem_free(scales), mem_free(out);
    }
    simd_limit(SIMD_AVX512);
    golden_close(&g);
}

static void fp4_equals_bitsandbytes(void **state) {
    static const char *const inputs[] = {"square", "ragged"};
    golden g;
    golden_open(&g, "expectations/fp4-golden/fp4_golden.safetensors");
    for (int c = 0; c < 4; c++) {
        const char *input = inputs[c / 2];
        simd_limit(levels[c % 2 * 2]);
        golden_tensor x = golden_get(&g, "%s.input", input),
                      packed = golden_get(&g, "%s.packed", input);
        uint8_t codes[4096];
        float scales[128], out[8192];
        uint16_t out16[8192];
        assert_true(x.count <= 8192);
        assert_ok(
            quant_quantize(QUANT_FP4, x.data, QUANT_SRC_F32, x.count, 64, codes, scales));
        assert_memory_equal(codes, packed.data, (size_t)packed.count);
        golden_tensor absmax = golden_get(&g, "%s.absmax", input);
        assert_memory_equal(scales, absmax.data, (size_t)absmax.count * 4);
        quant_view view = {QUANT_FP4,      x.count,          64,
                           .codes = codes, .absmax = scales, .code = fp4_codebook()};
        quant_dequantize_f32(&view, 0, x.count, out);
        quant_dequantize_bf16(&view, 0, x.count, out16);
        assert_memory_equal(out, golden_get(&g, "%s.dequantized_f32", input).data,
                            (size_t)x.count * 4);
        assert_memory_equal(out16, golden_get(&g, "%s.dequantized_bf16", input).data,
                            (size_t)x.count * 2);
    }
    simd_limit(SIMD_AVX512);
    golden_close(&g);
}

/* Ugly material in every block size, source type, instruction set, with odd counts. */
static void quantize_equals_reference(void **state) {
    static const int32_t blocks[] = {2, 32, 64, 96, 128, 1000, 4096};
    enum { N = 9001 };
    float *x = mem_alloc_array(N, 4, "test"), *rounded = mem_alloc_array(N, 4, "test");
    float *absmax = mem_alloc_array(N, 4, "test"), *absmax_ref = mem_alloc_array(N, 4, "test");
    uint8_t codes[N], codes_ref[N];
    fill(x, N, 7);
    for (int dtype = QUANT_SRC_F32; dtype <= QUANT_SRC_F16; dtype++) {
        for (int i = 0; i < N && dtype == QUANT_SRC_F16; i++)
            x[i] = fminf(fmaxf(x[i], -65000.0f), 65000.0f);
        convert_array(x, QUANT_SRC_F32, rounded, dtype, N);
        for (int b = 0; b < 7; b++)
            for (int type = QUANT_NF4; type <= QUANT_FP4; type++) {
                int64_t n = N - 131 * b;
                int32_t block = blocks[b];
                reference_quantize((quant_type)type, rounded, dtype, n, block, codes_ref,
                                   absmax_ref);
                for (int level = 0; level < LEVELS; level++) {
                    simd_limit(levels[level]);
                    memset(codes, 0xaa, sizeof codes);
                    assert_ok(quant_quantize((quant_type)type, rounded, dtype, n, block, codes,
                                             absmax));
                    assert_memory_equal(codes, codes_ref, (size_t)quant_code_bytes(n));
                    assert_int_equal(codes[quant_code_bytes(n)], 0xaa);
                    assert_memory_equal(absmax, absmax_ref,
                                        (size_t)quant_block_count(n, block) * 4);
                }
            }
    }
    mem_free(x), mem_free(rounded), mem_free(absmax), mem_free(absmax_ref);
}

static void zero_block_and_odd_count(void **state) {
    float x[67] = {0}, absmax[2];
    uint8_t codes[34];
    x[64] = -3.0f, x[65] = 0.0f, x[66] = 3.0f;
    assert_ok(quant_quantize(QUANT_NF4, x, QUANT_SRC_F32, 67, 64, codes, absmax));
    for (int i = 0; i < 32; i++)
        assert_int_equal(codes[i], 0x77); /* as bitsandbytes' CPU path */
    assert_int_equal(codes[32], 0x07);
    assert_int_equal(codes[33], 0xf7); /* the last low nibble is y = 0 */
    assert_true(absmax[0] == 0.0f && absmax[1] == 3.0f);
    assert_ok(quant_quantize(QUANT_FP4, x, QUANT_SRC_F32, 67, 64, codes, absmax));
    for (int i = 0; i < 32; i++) assert_int_equal(codes[i], 0);
    assert_int_equal(codes[33], 0x30);
    assert_ok(
        quant_quantize(QUANT_NF4, x, QUANT_SRC_F32, 0, 64, NULL, NULL)); /* nothing is fine */
}

/* Streaming: block-aligned ranges give the bytes of the whole. */
static void quantize_in_ranges(void **state) {
    enum { N = 64 * 50 + 13 };
    float x[N], absmax[51], absmax_part[51];
    uint8_t codes[N / 2 + 1], part[N / 2 + 1];
    fill(x, N, 3);
    assert_ok(quant_quantize(QUANT_NF4, x, QUANT_SRC_F32, N, 64, codes, absmax));
    for (int64_t at = 0, step = 64; at < N; at += step, step += 64) {
        int64_t n = at + step < N ? step : N - at;
        assert_ok(quant_quantize(QUANT_NF4, x + at, QUANT_SRC_F32, n, 64, part + at / 2,
                                 absmax_part + at / 64));
    }
    assert_memory_equal(codes, part, sizeof codes);
    assert_memory_equal(absmax, absmax_part, sizeof absmax);
}

static void non_finite_is_refused_by_index(void **state) {
    float x[300], absmax[5];
    uint16_t h[300];
    uint8_t codes[150];
    for (int level = 0; level < LEVELS; level++) {
        simd_limit(levels[level]);
        for (int i = 0; i < 300; i++) x[i] = 1.0f;
        x[217] = NAN, x[290] = INFINITY;
        assert_int_equal(quant_quantize(QUANT_NF4, x, QUANT_SRC_F32, 300, 64, codes, absmax),
                         STATUS_MODEL);
        assert_non_null(strstr(status_message(), "element 217 of 300"));
        x[217] = 1.0f;
        convert_f32_to_f16(x, h, 300);
        assert_int_equal(quant_quantize(QUANT_FP4, h, QUANT_SRC_F16, 300, 64, codes, absmax),
                         STATUS_MODEL);
        assert_non_null(strstr(status_message(), "element 290 of 300"));
    }
    assert_int_equal(quant_quantize(QUANT_NF4, x, QUANT_SRC_F32, 64, 63, codes, absmax),
                     STATUS_INTERNAL);
    assert_int_equal(quant_quantize(QUANT_NF4, x, QUANT_SRC_F32, 64, 8192, codes, absmax),
                     STATUS_INTERNAL);
    float scale = NAN, absmax2, offset;
    assert_int_equal(quant_nest(&scale, 1, codes, &absmax2, &offset, dynamic_map_signed()),
                     STATUS_MODEL);
    quant_view view = {
        QUANT_NF4, 64, 63, .codes = codes, .absmax = absmax, .code = nf4_codebook()};
    assert_int_equal(quant_view_check(&view), STATUS_MODEL);
    view.block = 64, view.absmax = NULL;
    assert_int_equal(quant_view_check(&view), STATUS_MODEL);
    view.absmax = absmax, view.code = NULL;
    assert_int_equal(quant_view_check(&view), STATUS_MODEL);
}

/* One range in all three types against the reference; the bytes around stay as they were. */
static void check_range(const quant_view *view, int64_t first, int64_t n) {
    float *f32 = mem_alloc_array((size_t)n + 2, 4, "test");
    uint16_t *bf16 = mem_alloc_array((size_t)n + 2, 2, "test"),
             *f16 = mem_alloc_array((size_t)n + 2, 2, "test");
    f32[0] = f32[n + 1] = -7.0f;
    bf16[0] = bf16[n + 1] = f16[0] = f16[n + 1] = 0x5555;
    quant_dequantize_f32(view, first, n, f32 + 1);
    quant_dequantize_bf16(view, first, n, bf16 + 1);
    quant_dequantize_f16(view, first, n, f16 + 1);
    for (int64_t i = 0; i < n; i++) {
        float expected = reference_value(view, first + i);
        assert_int_equal(float_bits(f32[i + 1]), float_bits(expected));
        assert_int_equal(bf16[i + 1], f32_to_bf16(expected));
        assert_int_equal(f16[i + 1], f32_to_f16(expected));
    }
    assert_true(f32[0] == -7.0f && f32[n + 1] == -7.0f);
    assert_true(bf16[0] == 0x5555 && bf16[n + 1] == 0x5555 && f16[0] == 0x5555 &&
                f16[n + 1] == 0x5555);
    mem_free(f32), mem_free(bf16), mem_free(f16);
}

/* Exactly-sized arrays, so that a sanitizer sees a read outside the range's codes and scales.
 */
static void any_range_decodes(void **state) {
    static const int32_t sizes[] = {64, 2, 32, 96, 20, 4096};
    enum { N = 12345 };
    float *x = mem_alloc_array(N, 4, "test");
    fill(x, N, 11);
    philox_stream s = philox_open(5, PHILOX_SAMPLE, 0, 0, 0);
    for (int c = 0; c < 12; c++) {
        int32_t block = sizes[c / 2];
        quant_type type = c % 4 < 2 ? QUANT_NF4 : QUANT_FP4;
        int64_t blocks = quant_block_count(N, block);
        uint8_t *codes = malloc((size_t)quant_code_bytes(N)), *nested = malloc((size_t)blocks);
        float *absmax = malloc((size_t)blocks * 4),
              *absmax2 = malloc((size_t)quant_nest_count(blocks) * 4);
        for (int i = 0; i < N; i++) x[i] = fminf(fmaxf(x[i], -1e5f), 1e5f);
        assert_ok(quant_quantize(type, x, QUANT_SRC_F32, N, block, codes, absmax));
        quant_view view = {
            type, N, block, .codes = codes, .absmax = absmax, .code = quant_codebook(type)};
        if (c % 2) {
            assert_ok(quant_nest(absmax, blocks, nested, absmax2, &view.offset,
                                 dynamic_map_signed()));
            view.absmax = NULL, view.absmax_codes = nested, view.absmax2 = absmax2;
            view.map2 = dynamic_map_signed();
        }
        for (int level = 0; level < LEVELS; level++) {
            simd_limit(levels[level]);
            check_range(&view, 0, N);
            check_range(&view, N, 0);
            for (uint64_t k = 0; k < 40; k++) {
                int64_t first = philox_word(&s, 2 * k) % N;
                check_range(&view, first,
                            philox_word(&s, 2 * k + 1) % (uint32_t)(N - first + 1));
            }
        }
        free(codes), free(nested), free(absmax), free(absmax2);
    }
    mem_free(x);
}

/* Bad scales of a hostile file (NaN, infinity) decode to something, the same everywhere. */
static void hostile_scales_decode_alike(void **state) {
    uint8_t codes[64];
    float absmax[2] = {NAN, -INFINITY};
    uint16_t plain[128], fast[128];
    for (int i = 0; i < 64; i++) codes[i] = (uint8_t)(i * 37);
    quant_view view = {
        QUANT_NF4, 128, 64, .codes = codes, .absmax = absmax, .code = nf4_codebook()};
    simd_limit(SIMD_NONE);
    quant_dequantize_bf16(&view, 0, 128, plain);
    simd_limit(SIMD_AVX512);
    quant_dequantize_bf16(&view, 0, 128, fast);
    assert_memory_equal(plain, fast, sizeof plain);
}

static void nearest_code_is_bitsandbytes(void **state) {
    const float *maps[2] = {dynamic_map_signed(), dynamic_map_unsigned()};
    const dynamic_finder *finders[2] = {dynamic_finder_signed(), dynamic_finder_unsigned()};
    philox_stream s = philox_open(9, PHILOX_SAMPLE, 1, 0, 0);
    for (int m = 0; m < 2; m++) {
        for (int i = 0; i < 256; i++)
            assert_int_equal(dynamic_nearest(finders[m], maps[m][i]), i);
        for (int i = 0; i < 255; i++) { /* at every midpoint and beside it */
            float y = (maps[m][i] + maps[m][i + 1]) * 0.5f;
            assert_int_equal(dynamic_nearest(finders[m], y), i + i % 2);
            assert_int_equal(dynamic_nearest(finders[m], y), reference_dynamic(maps[m], y));
            assert_int_equal(dynamic_nearest(finders[m], nextafterf(y, -2)), i);
            assert_int_equal(dynamic_nearest(finders[m], nextafterf(y, 2)), i + 1);
        }
        for (uint64_t i = 0; i < 200000; i++) {
            float y = normal(&s, i) * powf(10.0f, -(float)(i % 9));
            assert_int_equal(dynamic_nearest(finders[m], y), reference_dynamic(maps[m], y));
        }
    }
}

/* A finder makes no assumption but the order: even spacing, equal values, crowded near zero.
 */
static void nearest_code_in_any_map(void **state) {
    float maps[3][256];
    for (int i = 0; i < 256; i++) {
        maps[0][i] = ((float)i - 127.0f) / 128.0f;
        maps[1][i] = i < 100 ? -1.0f : i < 200 ? 0.25f : 1.0f;
        maps[2][i] = ((float)i - 127.0f) * 1e-12f;
    }
    philox_stream s = philox_open(9, PHILOX_SAMPLE, 2, 0, 0);
    dynamic_finder finder;
    for (int m = 0; m < 3; m++) {
        dynamic_finder_make(&finder, maps[m]);
        for (uint64_t i = 0; i < 20000; i++) {
            float y = normal(&s, i) * powf(10.0f, -(float)(i % 13));
            int code = dynamic_nearest(&finder, y);
            assert_true(maps[m][code] == maps[m][reference_dynamic(maps[m], y)]);
        }
    }
    assert_int_equal(dynamic_finder_signed()->steps, 1); /* what makes it fast */
    assert_int_equal(dynamic_finder_unsigned()->steps, 1);
}

/* Equal scales leave nothing to quantize: absmax2 is 0 and the offset alone comes back. */
static void nesting_equal_scales_and_many(void **state) {
    float absmax[777], absmax2[4], offset, back[777];
    uint8_t codes[777];
    for (int i = 0; i < 777; i++) absmax[i] = 0.375f;
    assert_ok(quant_nest(absmax, 777, codes, absmax2, &offset, dynamic_map_signed()));
    assert_true(offset == 0.375f && absmax2[3] == 0.0f && codes[776] == DYNAMIC_ZERO_SIGNED);
    quant_unnest(codes, absmax2, offset, dynamic_map_signed(), 5, 700, back);
    for (int i = 0; i < 700; i++) assert_true(back[i] == 0.375f);
    philox_stream s = philox_open(2, PHILOX_SAMPLE, 0, 0, 0);
    double sum = 0;
    for (int i = 0; i < 777; i++) sum += absmax[i] = fabsf(normal(&s, (uint64_t)i)) + 1e-3f;
    assert_ok(quant_nest(absmax, 777, codes, absmax2, &offset, dynamic_map_signed()));
    assert_float_equal(offset, sum / 777, 1e-7);
    quant_unnest(codes, absmax2, offset, dynamic_map_signed(), 0, 777, back);
    for (int i = 0; i < 777; i++) /* half of the widest step of the map, .014 */
        assert_true(fabsf(back[i] - absmax[i]) <= 0.00705f * absmax2[i / 256]);
    assert_true(quant_nest_offset(NULL, 0) == 0.0f);
}

static void errors_on_normal_numbers(void **state) {
    static const struct {
        quant_type type;
        int block;
        double absolute, relative;
    } rows[] = {{QUANT_NF4, 64, .072798, .203339},
                {QUANT_NF4, 32, .067746, 0},
                {QUANT_NF4, 128, .076831, 0},
                {QUANT_FP4, 64, .096543, .260125}};
    enum { N = 1 << 20 };
    float *x = mem_alloc_array(N, 4, "test"), *out = mem_alloc_array(N, 4, "test");
    float *absmax = mem_alloc_array(N / 32, 4, "test");
    uint8_t *codes = mem_alloc(N / 2, "test");
    philox_stream s = philox_open(42, PHILOX_INIT, 0, 0, 0);
    for (uint64_t i = 0; i < N; i++) x[i] = normal(&s, i);
    for (int r = 0; r < 4; r++) {
        assert_ok(
            quant_quantize(rows[r].type, x, QUANT_SRC_F32, N, rows[r].block, codes, absmax));
        quant_view view = {rows[r].type,     N,
                           rows[r].block,    .codes = codes,
                           .absmax = absmax, .code = quant_codebook(rows[r].type)};
        quant_dequantize_f32(&view, 0, N, out);
        double absolute = 0, relative = 0;
        for (int i = 0; i < N; i++) {
            double e = fabs((double)out[i] - x[i]);
            absolute += e / N;
            relative += e / (fabs((double)x[i]) + 1e-8) / N;
        }
        assert_float_equal(absolute, rows[r].absolute, 3e-4); /* four standard deviations */
        if (rows[r].relative) assert_float_equal(relative, rows[r].relative, 1.4e-3);
    }
    mem_free(x), mem_free(out), mem_free(absmax), mem_free(codes);
}

/* Every 16-bit value, and fp32 values around everything where rounding decides. */
static void conversions_equal_half_h(void **state) {
    enum { N = 65536 };
    uint16_t *h = mem_alloc_array(N, 2, "test"), *h2 = mem_alloc_array(N, 2, "test");
    float *x = mem_alloc_array(N, 4, "test");
    for (int i = 0; i < N; i++) h[i] = (uint16_t)i;
    for (int level = 0; level < LEVELS; level++) {
        simd_limit(levels[level]);
        convert_bf16_to_f32(h, x, N);
        for (int i = 0; i < N; i++)
            assert_int_equal(float_bits(x[i]), float_bits(bf16_to_f32(h[i])));
        convert_f16_to_f32(h, x, N);
        for (int i = 0; i < N; i++)
            assert_int_equal(float_bits(x[i]), float_bits(f16_to_f32(h[i])));
        convert_array(h, QUANT_SRC_F16, h2, QUANT_SRC_BF16, N - 3);
        for (int i = 0; i < N - 3; i++) assert_int_equal(h2[i], f32_to_bf16(f16_to_f32(h[i])));
        static const uint32_t low[] = {0,      1,      0xfff,  0x1000, 0x1001, 0x1fff,
                                       0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xf000,
                                       0xffff, 0x5a5a, 0x3001, 0x2fff};
        for (int l = 0; l < 16; l++) {
            for (uint32_t i = 0; i < N; i++) x[i] = bits_float(i << 16 | low[l]);
            convert_f32_to_bf16(x, h2, N);
            for (int i = 0; i < N; i++) assert_int_equal(h2[i], f32_to_bf16(x[i]));
            convert_f32_to_f16(x, h2, N);
            for (int i = 0; i < N; i++) assert_int_equal(h2[i], f32_to_f16(x[i]));
        }
    }
    mem_free(h), mem_free(h2), mem_free(x);
}

static int lift_limit(void **state) {
    simd_limit(SIMD_AVX512);
    return 0;
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(codebooks_and_maps_have_their_bits, lift_limit),
        cmocka_unit_test_teardown(nf4_equals_bitsandbytes, lift_limit),
        cmocka_unit_test_teardown(fp4_equals_bitsandbytes, lift_limit),
        cmocka_unit_test_teardown(quantize_equals_reference, lift_limit),
        cmocka_unit_test_teardown(zero_block_and_odd_count, lift_limit),
        cmocka_unit_test_teardown(quantize_in_ranges, lift_limit),
        cmocka_unit_test_teardown(non_finite_is_refused_by_index, lift_limit),
        cmocka_unit_test_teardown(any_range_decodes, lift_limit),
        cmocka_unit_test_teardown(hostile_scales_decode_alike, lift_limit),
        cmocka_unit_test_teardown(nearest_code_is_bitsandbytes, lift_limit),
        cmocka_unit_test_teardown(nearest_code_in_any_map, lift_limit),
        cmocka_unit_test_teardown(nesting_equal_scales_and_many, lift_limit),
        cmocka_unit_test_teardown(errors_on_normal_numbers, lift_limit),
        cmocka_unit_test_teardown(conversions_equal_half_h, lift_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
