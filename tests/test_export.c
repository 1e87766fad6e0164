/* test_export.c: what leaves the program: merged models in 16 and 4 bits, adapters, and
 * exports that fail. */
#include "golden_model.h"
#include "scratch.h"

#include "checkpoints/bnb.h"
#include "trainer/model/merge.h"

/* ---- merging ---- */

/* The trained adapter of a case as a PEFT folder. */
static void parity_adapter(const parity_case *c, const char *folder) {
    char to[600];
    snprintf(to, sizeof to, "%s/adapter_config.json", folder);
    assert_ok(file_copy(parity_path(c, "adapter0/adapter_config.json"), to));
    snprintf(to, sizeof to, "%s/adapter_model.safetensors", folder);
    assert_ok(file_copy(parity_path(c, "expected_adapter.safetensors"), to));
}

/* Merges into `out`, linears in `quantized` 4 bits unless that is DTYPE_COUNT. */
static double merge_into(const parity_case *c, const char *adapter, const char *out,
                         bool dequantized, dtype type, dtype quantized) {
    model_config config;
    weights w;
    peft_adapter p;
    merge *m;
    double error = -1;
    merge_options how = {dequantized, DTYPE_F32, c->quantize, c->nested};
    assert_ok(model_config_open(&config, parity_path(c, "base")));
    assert_ok(weights_open(&w, parity_path(c, "base"), &config));
    assert_ok(peft_open(&p, adapter));
    assert_ok(merge_open(&m, &w, &p, &how));
    export_source source = merge_source(m);
    model_export x = {.config = &config,
                      .tied = w.tied,
                      .from = parity_path(c, "base"),
                      .out = out,
                      .type = type,
                      .quantize = quantized != DTYPE_COUNT,
                      .quantized = quantized,
                      .nested = c->nested,
                      .error = &error,
                      .shard_bytes = 100000, /* several shards */
                      .source = &source};
    assert_ok(model_export_write(&x));
    assert_fails(model_export_write(&x), STATUS_USAGE, "not empty");
    merge_close(m);
    peft_close(&p);
    weights_close(&w);
    model_config_close(&config);
    return error;
}

/* The loss of an exported model over the case's rows, quantized on the way or not. */
static double exported_loss(const parity_case *c, const char *folder, dtype quantize) {
    batch b;
    fixture f;
    fixture_options o = parity_options(c, folder);
    o.quantize = quantize;
    fixture_open(&f, &o);
    assert_true(f.w.files.shard_count > 1);
    parity_batch(c, &b);
    double loss = fixture_run(&f, RUN_EVALUATE, &b);
    fixture_close(&f);
    return loss;
}

static void check_merge(const parity_case *c) {
    json_t *e = parity_json(c);
    char adapter[512], out[512], file[600];
    snprintf(adapter, sizeof adapter, "%s", scratch_folder("adapter"));
    parity_adapter(c, adapter);
    const struct {
        const char *key;
        bool dequantized;
        dtype type;
    } ways[] = {{"onto_dequantized_base_fp32", true, DTYPE_F32},
                {"onto_original_base_fp32", false, DTYPE_F32},
                {"onto_original_base_rounded_to_its_dtype", false, c->stored}};
    for (int i = 0; i < 3; i++) {
        snprintf(out, sizeof out, "%s", scratch_folder("merged"));
        double error =
            merge_into(c, adapter, out, ways[i].dequantized, ways[i].type, DTYPE_COUNT);
        assert_true(error == 0);
        double loss = exported_loss(c, out, DTYPE_COUNT);
        check_close(ways[i].key, loss, number_in(e, "merged_loss", ways[i].key), 2e-6);
    }
    for (int i = 0; i < 3; i++) { /* what comes along */
        static const char *const names[] = {"tokenizer.json", "tokenizer_config.json",
                                            "generation_config.json"};
        snprintf(file, sizeof file, "%s/%s", out, names[i]);
        assert_true(file_exists(file));
    }
    snprintf(file, sizeof file, "%s.tmp", out);
    assert_false(file_exists(file));
    json_decref(e);
}

static void test_merge(void **state) {
    for (int i = 0; i < PARITY_CASES; i++) check_merge(&parity[i]);
}

/* Adds a 4-bit tensor's difference from the same one in BF16: |x|^2, |value - x|^2. */
static void add_difference(const bnb_weight *q, const model_tensor *t, double squares[2]) {
    int64_t n = t->entry->elements, bytes;
    assert_ok(format_bytes(&q->format, &bytes));
    void *data = calloc(1, (size_t)bytes);
    uint16_t *raw = calloc((size_t)n, sizeof *raw);
    float *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y);
    assert_ok(bnb_read(q, data));
    assert_ok(model_tensor_read(t, 0, n * 2, raw));
    tensor at = tensor_at(&q->format, data);
    quant_view v = tensor_quant_view(&at);
    quant_dequantize_f32(&v, 0, n, y);
    convert_bf16_to_f32(raw, x, n);
    for (int64_t i = 0; i < n; i++) {
        squares[0] += (double)x[i] * (double)x[i];
        squares[1] += pow((double)y[i] - (double)x[i], 2);
    }
    free(data);
    free(raw);
    free(x);
    free(y);
}

/* Relative rms difference of the linears of a folder in 4 bits from those of one in BF16. */
static double folder_difference(const char *packed, const char *plain) {
    model_files a, b;
    double squares[2] = {0, 0};
    assert_ok(model_files_open(&a, packed));
    assert_ok(model_files_open(&b, plain));
    for (size_t i = 0; i < b.count; i++) {
        bnb_weight q;
        bool found;
        assert_ok(bnb_find(&a, b.tensors[i].entry->name, &q, &found));
        assert_int_equal(found, strstr(b.tensors[i].entry->name, "_proj.weight") != NULL);
        if (found) add_difference(&q, &b.tensors[i], squares);
    }
    model_files_close(&a);
    model_files_close(&b);
    return sqrt(squares[1] / squares[0]);
}

/* Merged in 4 bits is the merged 16-bit model quantized as loading quantizes it: the same
 * codes, so the same loss. What is told of its cost is what it is. */
static void test_merge_4bit(void **state) {
    golden_require_fixtures();
    for (int i = 0; i < PARITY_CASES; i++) {
        parity_case c = parity[i];
        char adapter[512], plain[512], packed[512];
        if (c.quantize == DTYPE_COUNT) c.quantize = DTYPE_NF4;
        snprintf(adapter, sizeof adapter, "%s", scratch_folder("adapter"));
        snprintf(plain, sizeof plain, "%s", scratch_folder("merged"));
        snprintf(packed, sizeof packed, "%s", scratch_folder("merged-4bit"));
        parity_adapter(&c, adapter);
        merge_into(&c, adapter, plain, i % 2, DTYPE_BF16, DTYPE_COUNT);
        double error = merge_into(&c, adapter, packed, i % 2, DTYPE_BF16, c.quantize);
        check_close("error of 4 bits", error, folder_difference(packed, plain), 1e-2);
        double want = exported_loss(&c, plain, c.quantize);
        assert_true(exported_loss(&c, packed, c.quantize) == want);
        assert_true(exported_loss(&c, plain, DTYPE_COUNT) != want);
    }
}

/* ---- adapters written and read back ---- */

static void test_adapter_round_trip(void **state) {
    golden_require_fixtures();
    char folder[512];
    batch b = {0};
    fixture f;
    json_t *e = expected_json();
    lora_request request = golden_lora;
    const char *const some[] = {"q_proj", "model.layers.3.mlp.down_proj"};
    request.targets = some, request.target_count = 2, request.rslora = true;
    golden_batch(&b, e);
    fixture_options o = golden_options(&cases[2]);
    o.lora = &request;
    fixture_open(&f, &o);
    assert_int_equal(f.d->trainable_count, 2 * 6);
    for (size_t i = 0; i < f.d->trainable_count; i++) { /* B other than 0 */
        const trainable *t = &f.d->trainables[i];
        float *x = calloc((size_t)(t->rows * t->cols), sizeof *x);
        for (int64_t k = 0; k < t->rows * t->cols; k++)
            x[k] = 0.3f * sinf((float)(k + (int64_t)i));
        assert_ok(masters_put(f.d, f.e, t->working, 0, t->rows * t->cols, x));
        free(x);
    }
    double loss = fixture_run(&f, RUN_EVALUATE, &b);
    assert_true(fabs(loss - fixture_run(&f, RUN_REFERENCE, &b)) > 1e-3);
    for (int bake = 0; bake < 2; bake++) {
        snprintf(folder, sizeof folder, "%s", scratch_folder(bake ? "baked" : "rslora"));
        lora_export how = {
            .base_model = STORIES, .rank = 8, .alpha = 16, .rslora = true, .bake_scale = bake};
        assert_ok(lora_write(f.d, f.e, folder, &how));
        fixture g;
        fixture_options again = golden_options(&cases[2]);
        again.lora = NULL;
        again.adapter = folder;
        again.training = TRAIN_NOTHING;
        fixture_open(&g, &again);
        assert_int_equal(g.peft.config.rslora, !bake);
        double got = fixture_run(&g, RUN_EVALUATE, &b);
        if (bake)
            check_close("baked scale", got, loss, 1e-6);
        else
            assert_true(got == loss); /* the same bits */
        fixture_close(&g);
    }
    fixture_close(&f);
    json_decref(e);
}

/* An adapter whose modules have ranks and alphas of their own (rank_pattern, alpha_pattern)
 * goes out as it came in, with rsLoRA baked in or not. */
static void test_adapter_patterns(void **state) {
    golden_require_fixtures();
    static const float values[8 * 172];
    const peft_exception own[] = {{"model.layers.1.self_attn.q_proj", 2, 16},
                                  {"model.layers.1.mlp.up_proj", 8, 5}};
    const peft_config config = {
        .r = 8, .alpha = 16, .rslora = true, .exceptions = own, .exception_count = 2};
    named_tensor t[6];
    static const struct {
        const char *name;
        int64_t rows, cols;
    } rows[6] = {{"model.layers.0.self_attn.q_proj.lora_A.weight", 8, 64},
                 {"model.layers.0.self_attn.q_proj.lora_B.weight", 64, 8},
                 {"model.layers.1.self_attn.q_proj.lora_A.weight", 2, 64},
                 {"model.layers.1.self_attn.q_proj.lora_B.weight", 64, 2},
                 {"model.layers.1.mlp.up_proj.lora_A.weight", 8, 64},
                 {"model.layers.1.mlp.up_proj.lora_B.weight", 172, 8}};
    for (int i = 0; i < 6; i++)
        t[i] = (named_tensor){.name = rows[i].name,
                              .format = format_of(DTYPE_F32, rows[i].rows, rows[i].cols),
                              .data = values};
    char from[512], to[512];
    snprintf(from, sizeof from, "%s", scratch_folder("patterns"));
    assert_ok(peft_write(from, &config, t, 6));
    fixture f;
    fixture_options o = golden_options(&cases[0]);
    o.lora = NULL, o.adapter = from;
    fixture_open(&f, &o);
    for (int bake = 0; bake < 2; bake++) {
        peft_adapter p;
        lora_export how = {.rank = 8, .alpha = 16, .rslora = true, .bake_scale = bake};
        snprintf(to, sizeof to, "%s", scratch_folder(bake ? "patterns-baked" : "again"));
        assert_ok(lora_write(f.d, f.e, to, &how));
        assert_ok(peft_open(&p, to));
        assert_int_equal(p.count, f.peft.count);
        for (size_t i = 0; i < p.count; i++) {
            assert_int_equal(p.modules[i].rank, f.peft.modules[i].rank);
            check_close(p.modules[i].name, p.modules[i].scale, f.peft.modules[i].scale, 1e-12);
        }
        peft_close(&p);
    }
    check_close("scale", peft_find(&f.peft, own[1].module)->scale, 5 / sqrt(8), 1e-12);
    fixture_close(&f);
}

/* ---- exports that fail ---- */

/* A source of zeros; NaN in one tensor if asked for. */
static status read_zeros(void *context, const layout_tensor *t, int64_t first, int64_t rows,
                         float *out) {
    memset(out, 0, (size_t)(rows * t->cols) * sizeof *out);
    if (context && !strcmp(t->name, context)) out[3] = NAN;
    return STATUS_OK;
}

/* The disk is full at the k-th write, sync or rename, for every k; and a value is not finite:
 * nothing stands under the final name, the temporary folder is gone, the next try works. */
static void check_failed_export(bool quantize) {
    char out[512], temporary[600], name[] = "model.layers.1.mlp.up_proj.weight";
    model_config config;
    export_source source = {NULL, read_zeros, name};
    snprintf(out, sizeof out, "%s/merged", scratch_folder("failed"));
    snprintf(temporary, sizeof temporary, "%s.tmp", out);
    assert_ok(model_config_open(&config, STORIES));
    model_export x = {.config = &config,
                      .tied = true,
                      .from = STORIES,
                      .out = out,
                      .type = DTYPE_BF16,
                      .quantize = quantize,
                      .quantized = DTYPE_NF4,
                      .nested = true,
                      .shard_bytes = 200000,
                      .source = &source};
    assert_fails(model_export_write(&x), STATUS_MODEL,
                 "up_proj.weight: element 3 is not finite");
    assert_false(file_exists(out) || file_exists(temporary));
    source.context = NULL;
    uint64_t before = file_fault_count();
    assert_ok(model_export_write(&x));
    uint64_t calls = file_fault_count() - before;
    assert_ok(file_remove_tree(out));
    assert_true(calls > 50);
    uint64_t tail = calls - 8; /* renaming, and what comes after it: every call */
    for (uint64_t k = 1, next; k <= calls; k = next) {
        next = k < tail ? k + 1 + k / 8 : k + 1;
        if (k < tail && next > tail) next = tail;
        file_fail_at(k, 28 /* ENOSPC */, false);
        status s = model_export_write(&x);
        file_fail_at(0, 0, false);
        if (s != STATUS_IO) fail_msg("call %d of %d: status %d", (int)k, (int)calls, s);
        assert_false(file_exists(out) || file_exists(temporary));
    }
    assert_ok(model_export_write(&x));
    assert_true(file_exists(out) && !file_exists(temporary));
    model_config_close(&config);
}

static void test_failed_export(void **state) {
    golden_require_fixtures();
    check_failed_export(false);
    check_failed_export(true);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_merge_4bit),
        cmocka_unit_test(test_adapter_round_trip),
        cmocka_unit_test(test_adapter_patterns),
        cmocka_unit_test(test_failed_export),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
