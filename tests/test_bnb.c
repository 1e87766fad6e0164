/* test_bnb.c: bitsandbytes' 4-bit layout: round trips, what is malformed, what has 8 bits. */
#include "safetensors_made.h"

/* ---- bitsandbytes' 4-bit layout ---- */

enum { ROWS = 172, COLS = 130 }; /* blocks cross rows; more than 256 of them */

/* A quantized tensor in one piece, as tensor.h lays it out. To be freed. */
static char *quantized(tensor_format f, int64_t *bytes) {
    int64_t n = f.rows * f.cols;
    assert_ok(format_bytes(&f, bytes));
    char *out = calloc(1, (size_t)*bytes);
    float *x = malloc((size_t)n * 4);
    uint64_t seed = 9;
    for (int64_t i = 0; i < n; i++) x[i] = (float)(int64_t)noise(&seed) * 0x1p-66f;
    tensor t = tensor_at(&f, out);
    int64_t blocks = quant_block_count(n, f.block);
    float *absmax = malloc((size_t)blocks * 4);
    quant_type type = f.type == DTYPE_FP4 ? QUANT_FP4 : QUANT_NF4;
    assert_ok(quant_quantize(type, x, QUANT_SRC_F32, n, f.block, t.data, absmax));
    memcpy(t.scales.code, quant_codebook(type), 64);
    if (f.nested) {
        memcpy(t.scales.map, dynamic_map_signed(), 1024);
        assert_ok(quant_nest(absmax, blocks, t.scales.absmax, t.scales.absmax2,
                             t.scales.offset, t.scales.map));
    } else
        memcpy(t.scales.absmax, absmax, (size_t)blocks * 4);
    free(x), free(absmax);
    return out;
}

/* A model folder with one 4-bit weight "w.weight". */
static const char *bnb_folder(const char *name, tensor_format f, const void *data) {
    const char *folder = scratch_folder(name);
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    safetensors_writer w;
    float plain[2] = {1, 2};
    assert_ok(safetensors_create(&w, path));
    assert_ok(bnb_declare(&w, "w.weight", &f, DTYPE_BF16));
    assert_ok(safetensors_declare(&w, "norm.weight", DTYPE_F32, 1, (int64_t[]){2}));
    assert_ok(safetensors_begin(&w, "pt"));
    assert_ok(bnb_write(&w, "w.weight", &f, DTYPE_BF16, data));
    assert_ok(safetensors_write(&w, "norm.weight", plain, 8));
    assert_ok(safetensors_finish(&w));
    return folder;
}

static void four_bit_weights_round_trip(void **state) {
    for (int kind = 0; kind < 8; kind++) {
        tensor_format f = {.type = kind & 1 ? DTYPE_FP4 : DTYPE_NF4,
                           .rows = ROWS,
                           .cols = COLS,
                           .block = kind & 4 ? 128 : 64,
                           .nested = kind & 2};
        int64_t bytes;
        char *data = quantized(f, &bytes), *back = malloc((size_t)bytes);
        model_files m;
        bnb_weight w;
        bool found;
        assert_ok(model_files_open(&m, bnb_folder("bnb", f, data)));
        assert_ok(bnb_find(&m, "w.weight", &w, &found));
        assert_true(found && w.format.type == f.type && w.format.rows == ROWS &&
                    w.format.cols == COLS && w.format.block == f.block &&
                    w.format.nested == f.nested && w.source == DTYPE_BF16);
        assert_ok(bnb_read(&w, back));
        assert_memory_equal(back, data, bytes);
        assert_ok(bnb_find(&m, "norm.weight", &w, &found));
        assert_false(found);
        assert_ok(bnb_find(&m, "absent", &w, &found));
        assert_false(found);
        model_files_close(&m);
        free(data), free(back);
    }
}

/* A file of the parts of a 64 x 2 nested NF4 weight, with one thing changed. */
typedef struct bnb_change {
    const char *state;   /* the JSON, or NULL for the good one */
    const char *part;    /* ending of the part to leave out or change */
    dtype type;          /* its type, DTYPE_COUNT: left out */
    int64_t elements;    /* its size */
    float fill;          /* fp32 parts are filled with it when not 0 */
    const char *message; /* NULL: it is fine */
} bnb_change;

static void try_bnb(bnb_change c) {
    static const char good[] =
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float16\", \"shape\": [64, "
        "2], "
        "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 2.5}";
    struct {
        const char *ending;
        dtype type;
        int64_t elements;
    } parts[] = {{"", DTYPE_U8, 64},
                 {".absmax", DTYPE_U8, 2},
                 {".quant_map", DTYPE_F32, 16},
                 {".nested_absmax", DTYPE_F32, 1},
                 {".nested_quant_map", DTYPE_F32, 256},
                 {".quant_state.bitsandbytes__nf4", DTYPE_U8, 0}};
    const char *json = c.state ? c.state : good;
    parts[5].elements = (int64_t)strlen(json);
    char folder[512], path[600], name[100];
    snprintf(folder, sizeof folder, "%s", scratch_folder("bnb-bad"));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    safetensors_writer w;
    assert_ok(safetensors_create(&w, path));
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < 6; i++) {
            bool changed = c.part && !strcmp(parts[i].ending, c.part);
            dtype type = changed ? c.type : parts[i].type;
            int64_t n = changed ? c.elements : parts[i].elements;
            if (type == DTYPE_COUNT) continue;
            float values[256];
            for (int k = 0; k < 256; k++) values[k] = changed ? c.fill : 0.5f;
            snprintf(name, sizeof name, "w.weight%s", parts[i].ending);
            if (!pass)
                assert_ok(safetensors_declare(&w, name, type, 1, &n));
            else
                assert_ok(safetensors_write(&w, name, i == 5 ? (const void *)json : values,
                                            (size_t)(n * dtype_bytes(type))));
        }
        if (!pass) assert_ok(safetensors_begin(&w, "pt"));
    }
    assert_ok(safetensors_finish(&w));
    model_files m;
    bnb_weight weight;
    bool found;
    char out[4096];
    assert_ok(model_files_open(&m, folder));
    status s = bnb_find(&m, "w.weight", &weight, &found);
    if (s == STATUS_OK && found) s = bnb_read(&weight, out);
    if (!c.message) {
        if (s != STATUS_OK || !found || weight.offset != 2.5f)
            fail_msg("%s", status_message());
    } else if (s != STATUS_MODEL || !strstr(status_message(), c.message))
        fail_msg("wanted \"%s\", got %d \"%s\"", c.message, s, status_message());
    model_files_close(&m);
}

#define STATE(type, block, dtype, shape, rest)                                                \
    "{\"quant_type\": " type ", \"blocksize\": " block ", \"dtype\": " dtype                  \
    ", \"shape\": " shape rest "}"
#define NESTED                                                                                \
    ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 2.5"

static void malformed_four_bit_weights_are_refused(void **state) {
    static const bnb_change changes[] = {
        {.message = NULL},
        {.part = "",
         .type = DTYPE_BF16,
         .elements = 32,
         .fill = 1,
         .message = NULL}, /* quant_storage */
        {.part = "", .type = DTYPE_COUNT, .message = "no codes"},
        {.part = "", .type = DTYPE_U8, .elements = 65, .message = "needs 64"},
        {.part = ".absmax", .type = DTYPE_COUNT, .message = "lacks \".absmax\""},
        {.part = ".absmax", .type = DTYPE_F32, .elements = 2, .message = "not U8"},
        {.part = ".absmax", .type = DTYPE_U8, .elements = 3, .message = "with 2 values"},
        {.part = ".quant_map",
         .type = DTYPE_F32,
         .elements = 17,
         .fill = 1,
         .message = "with 16"},
        {.part = ".quant_map",
         .type = DTYPE_F32,
         .elements = 16,
         .fill = NAN,
         .message = "not finite"},
        {.part = ".nested_absmax", .type = DTYPE_COUNT, .message = "lacks"},
        {.part = ".nested_absmax",
         .type = DTYPE_F32,
         .elements = 1,
         .fill = INFINITY,
         .message = "not finite"},
        {.part = ".nested_quant_map",
         .type = DTYPE_F32,
         .elements = 255,
         .message = "with 256"},
        {.part = ".quant_state.bitsandbytes__nf4",
         .type = DTYPE_F32,
         .elements = 4,
         .message = "bytes of JSON"},
        {.state = "{", .message = "bitsandbytes__nf4"},
        {.state = "[]", .message = "must be an object"},
        {.state = STATE("\"fp4\"", "64", "\"float16\"", "[64, 2]", NESTED),
         .message = "quant_type"},
        {.state = STATE("3", "64", "\"float16\"", "[64, 2]", NESTED), .message = "quant_type"},
        {.state = STATE("\"nf4\"", "63", "\"float16\"", "[64, 2]", NESTED),
         .message = "blocksize"},
        {.state = STATE("\"nf4\"", "8192", "\"float16\"", "[64, 2]", NESTED),
         .message = "blocksize"},
        {.state = STATE("\"nf4\"", "64.0", "\"float16\"", "[64, 2]", NESTED),
         .message = "blocksize"},
        {.state = STATE("\"nf4\"", "64", "\"int8\"", "[64, 2]", NESTED), .message = "dtype"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64]", NESTED), .message = "shape"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[0, 2]", NESTED), .message = "shape"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"",
                        "[9223372036854775807, 9223372036854775807]", NESTED),
         .message = "impossible"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 4]", NESTED),
         .message = "needs 128"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]", ", \"extra\": 1"),
         .message = "\"extra\""},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]",
                        ", \"nested_dtype\": \"float32\""),
         .message = "four keys"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]", ""), .message = "not F32"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]",
                        ", \"nested_blocksize\": 128, \"nested_dtype\": \"float32\", "
                        "\"nested_offset\": 2.5"),
         .message = "nested_blocksize"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]",
                        ", \"nested_blocksize\": 256, \"nested_dtype\": \"float16\", "
                        "\"nested_offset\": 2.5"),
         .message = "nested_dtype"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]",
                        ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
                        "\"nested_offset\": 1e300"),
         .message = "nested_offset"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) try_bnb(changes[i]);
}

static void eight_bit_weights_are_named(void **state) {
    const char *folder = scratch_folder("scb");
    char path[600], data[6] = {0};
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(
        rename(make("{\"q.SCB\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                    "\"q.weight\":{\"dtype\":\"I8\",\"shape\":[1,2],\"data_offsets\":[4,6]}}",
                    data, 6),
               path),
        0);
    model_files m;
    bnb_weight w;
    bool found;
    assert_ok(model_files_open(&m, folder));
    assert_fails(bnb_find(&m, "q.weight", &w, &found), STATUS_MODEL, "8 bits");
    model_files_close(&m);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_bit_weights_round_trip),
        cmocka_unit_test(malformed_four_bit_weights_are_refused),
        cmocka_unit_test(eight_bit_weights_are_named),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
