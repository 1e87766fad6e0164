/* test_decoder.c: the decoder on the engine against the goldens of the real libraries:
 * stories260K in fp32 (llama.cpp, PyTorch), the four peft-parity models. */
#include "model_fixture.h"
#include "scratch.h"

#include "checkpoints/bnb.h"
#include "quant/adamw.h"
#include "trainer/model/merge.h"

#define STORIES FIXTURES "/models/stories260K/hf-f32"
#define GOLDEN  "expectations/qlora-torch-golden/"

static const fixture_options plain = {.folder = STORIES,
                                      .compute = DTYPE_F32,
                                      .quantize = DTYPE_COUNT,
                                      .training = TRAIN_NOTHING};

/* ---- stories260K without adapter ---- */

static json_t *expected_json(void) {
    return golden_json(GOLDEN "expected.json");
}

/* ids of a JSON list; returns how many. */
static int64_t read_ids(const json_t *list, int32_t *ids, int64_t most) {
    int64_t n = (int64_t)json_array_size(list);
    assert_true(n > 0 && n <= most);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return n;
}

/* The prompt of llama_cpp_logprobs.json: BOS and the story's first 15 tokens. */
enum { PROMPT = 16 };

static void test_llama_cpp(void **state) {
    json_t *e = expected_json(),
           *l = golden_json("models/stories260K/llama_cpp_logprobs.json");
    const json_t *want = json_object_get(l, "logprobs");
    int32_t ids[256];
    float logp[FIXTURE_ROWS];
    batch b = {0};
    fixture f;
    read_ids(json_object_get(e, "greedy_ids_fp32"), ids, 256);
    assert_int_equal(json_array_size(want), PROMPT - 1);
    batch_add(&b, ids, NULL, PROMPT);
    fixture_open(&f, &plain);
    fixture_run(&f, RUN_EVALUATE, &b);
    fixture_logp(&f, RUN_EVALUATE, &b, logp);
    for (size_t i = 0; i < PROMPT - 1; i++) {
        double x = json_real_value(json_array_get(want, i));
        if (fabs(logp[i] - x) > 1e-4) fail_msg("token %zu: %g, llama.cpp %g", i, logp[i], x);
    }
    fixture_close(&f);
    json_decref(e);
    json_decref(l);
}

static generation generation_of(fixture *f, int64_t max_tokens) {
    return (generation){.e = f->e,
                        .program = RUN_GENERATE,
                        .config = &f->config,
                        .shape = f->shape,
                        .max_tokens = max_tokens};
}

/* The 200 greedy ids of PyTorch, from prompts of different lengths in one batch. */
static void test_greedy(void **state) {
    enum { TOTAL = 200 };
    static const int64_t lengths[] = {1, 16, 7, 70, 33, 2}; /* two waves of four */
    json_t *e = expected_json();
    int32_t ids[256], tokens[6][TOTAL];
    sequence s[6];
    fixture f;
    assert_int_equal(read_ids(json_object_get(e, "greedy_ids_fp32"), ids, 256), TOTAL);
    fixture_open(&f, &plain);
    generation g = generation_of(&f, TOTAL);
    g.shape.cache_rows = TOTAL; /* ends there */
    g.ignore_eos = true;
    for (int i = 0; i < 6; i++)
        s[i] = (sequence){.prompt = ids, .prompt_count = lengths[i], .tokens = tokens[i]};
    assert_ok(generate(&g, s, 6));
    for (int i = 0; i < 6; i++) {
        assert_int_equal(s[i].count, TOTAL - lengths[i]);
        assert_memory_equal(tokens[i], ids + lengths[i], (size_t)s[i].count * sizeof *ids);
    }
    fixture_close(&f);
    json_decref(e);
}

/* Rows of logits through the cache, a few tokens at a time, against PyTorch's in one go. */
static void test_logits(void **state) {
    golden g;
    json_t *e = expected_json();
    int32_t ids[64];
    fixture f;
    golden_open(&g, GOLDEN "logits_row0_fp32.safetensors");
    golden_tensor want = golden_get(&g, "logits");
    int64_t n = want.shape[0], vocab = want.shape[1];
    fixture_options o = plain;
    o.selected = 64;
    read_ids(json_array_get(json_object_get(e, "ids"), 0), ids, 64);
    fixture_open(&f, &o);
    float *got = calloc((size_t)(n * vocab), sizeof *got);
    for (int32_t at = 0, step = 1; at < n; at += step, step = step % 7 + 2) {
        int32_t m = at + step > n ? (int32_t)n - at : step, positions[64], selected[64];
        for (int32_t i = 0; i < m; i++) positions[i] = at + i, selected[i] = i;
        run_input inputs[GENERATE_INPUTS] = {[INPUT_IDS] = {ids + at, m, 0},
                                             [INPUT_POSITIONS] = {positions, m, 0},
                                             [INPUT_STARTS] = {(int32_t[]){0, m}, 2, 0},
                                             [INPUT_PAST] = {&at, 1, 0},
                                             [INPUT_SELECTED] = {selected, m, 0}};
        run_args args = {
            .rows = m, .documents = 1, .selected = m, .micro = UINT64_MAX, .inputs = inputs};
        assert_ok(engine_run(f.e, RUN_GENERATE, &args));
        assert_ok(engine_output(f.e, RUN_GENERATE, "logits", got + at * vocab, m * vocab * 4));
    }
    assert_true(relative_error(got, want.f32, n * vocab) < 1e-5);
    free(got);
    fixture_close(&f);
    golden_close(&g);
    json_decref(e);
}

/* ---- with adapters: losses and gradients of qlora-torch-golden ---- */

static const char *const all_targets[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                          "gate_proj", "up_proj", "down_proj"};
static const lora_request golden_lora = {
    .targets = all_targets, .target_count = 7, .rank = 8, .alpha = 16};

typedef struct golden_case {
    const char *name;
    dtype quantize;
    bool nested;
    double tolerance; /* relative, of losses and gradients */
} golden_case;

static const golden_case cases[] = {
    {"fp32", DTYPE_COUNT, false, 1e-4},
    {"nf4", DTYPE_NF4, false, 1e-4},
    {"nf4_dq", DTYPE_NF4, true, 1e-3},
};

static void golden_batch(batch *b, const json_t *e) {
    const json_t *ids = json_object_get(e, "ids"), *labels = json_object_get(e, "labels");
    memset(b, 0, sizeof *b);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t x[64], y[64];
        int64_t n = read_ids(json_array_get(ids, i), x, 64);
        read_ids(json_array_get(labels, i), y, 64);
        batch_add(b, x, y, n); /* padding stands behind its document and has no labels */
    }
}

/* Values of every adapter from a golden with PEFT's keys. */
static void load_golden_adapter(fixture *f, const golden *g) {
    for (size_t i = 0; i < f->d->trainable_count; i++) {
        const trainable *t = &f->d->trainables[i];
        golden_tensor x =
            golden_get(g, "base_model.model.%s", f->d->table.items[t->working].name);
        assert_int_equal(x.count, t->rows * t->cols);
        assert_ok(masters_put(f->d, f->e, t->working, 0, x.count, x.f32));
    }
}

/* Compares what `which` parameter of each trainable holds with a golden; worst relative error.
 */
static double compare_adapters(fixture *f, const golden *g, bool gradients) {
    double worst = 0;
    for (size_t i = 0; i < f->d->trainable_count; i++) {
        const trainable *t = &f->d->trainables[i];
        int64_t n = t->rows * t->cols;
        golden_tensor x =
            golden_get(g, "base_model.model.%s", f->d->table.items[t->working].name);
        float *got = malloc((size_t)n * sizeof *got);
        assert_ok(engine_store(f->e, gradients ? t->gradient : t->master, got, 0, n * 4));
        worst = fmax(worst, relative_error(got, x.f32, n));
        free(got);
    }
    return worst;
}

static void check_close(const char *what, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance * fabs(want)))
        fail_msg("%s: %.9g, expected %.9g", what, got, want);
}

static fixture_options golden_options(const golden_case *c) {
    return (fixture_options){.folder = STORIES,
                             .lora = &golden_lora,
                             .training = TRAIN_ADAPTERS,
                             .compute = DTYPE_F32,
                             .quantize = c->quantize,
                             .nested = c->nested};
}

/* Base loss with the reference program, then loss and gradients at a random B. */
static void check_random_b(const golden_case *c) {
    char path[96];
    golden g, init;
    batch b;
    fixture f;
    json_t *e = expected_json();
    const json_t *run = json_object_get(json_object_get(e, "runs"), c->name);
    fixture_options o = golden_options(c);
    fixture_open(&f, &o);
    golden_batch(&b, e);
    golden_open(&init, GOLDEN "lora_init_randomB.safetensors");
    load_golden_adapter(&f, &init);
    check_close("base_loss", fixture_run(&f, RUN_REFERENCE, &b),
                json_real_value(json_object_get(run, "base_loss")), c->tolerance);
    double want = json_real_value(json_object_get(run, "loss_random_B"));
    check_close("loss_random_B, evaluated", fixture_run(&f, RUN_EVALUATE, &b), want,
                c->tolerance);
    check_close("loss_random_B", fixture_run(&f, RUN_TRAIN, &b), want, c->tolerance);
    snprintf(path, sizeof path, GOLDEN "grads_randomB_%s.safetensors", c->name);
    golden_open(&g, path);
    double worst = compare_adapters(&f, &g, true);
    if (!(worst <= c->tolerance)) fail_msg("%s: gradients are off by %g", c->name, worst);
    golden_close(&init);
    golden_close(&g);
    json_decref(e);
    fixture_close(&f);
}

static void test_random_b(void **state) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_random_b(&cases[i]);
}

/* One AdamW step with clipping to 1; returns the gradients' norm before it. */
static double golden_step(fixture *f, int t) {
    double total[2], squares[128], norm = 0;
    run_args args = {0};
    assert_true(f->d->trainable_count <= 128);
    assert_ok(engine_run(f->e, RUN_NORM, &args));
    assert_ok(decoder_read_sums(f->d, f->e, total, squares));
    for (size_t i = 0; i < f->d->trainable_count; i++) norm += squares[i];
    norm = sqrt(norm);
    adamw_scalars adam = adamw_scalars_make(2e-3, 0.9, 0.999, 1e-8, 0.01, t);
    adam.grad_scale = (float)fmin(1, 1 / (norm + 1e-6));
    args.adam = &adam;
    assert_ok(engine_run(f->e, RUN_UPDATE, &args));
    return norm;
}

/* 30 steps: losses within 1e-3, adapters at the end within 2e-2. */
static void check_training(const golden_case *c) {
    char path[96], what[64];
    golden g, init;
    batch b;
    fixture f;
    json_t *e = expected_json();
    const json_t *run = json_object_get(json_object_get(e, "runs"), c->name);
    const json_t *losses = json_object_get(run, "losses"),
                 *norms = json_object_get(run, "grad_norms");
    fixture_options o = golden_options(c);
    fixture_open(&f, &o);
    golden_batch(&b, e);
    golden_open(&init, GOLDEN "lora_init_zeroB.safetensors");
    load_golden_adapter(&f, &init);
    for (size_t i = 0; i < json_array_size(losses); i++) {
        assert_ok(engine_zero_class(f.e, MEM_GRADIENT));
        snprintf(what, sizeof what, "%s, step %zu", c->name, i + 1);
        check_close(what, fixture_run(&f, RUN_TRAIN, &b),
                    json_real_value(json_array_get(losses, i)), 1e-3);
        check_close(what, golden_step(&f, (int)i + 1),
                    json_real_value(json_array_get(norms, i)), 1e-2);
    }
    snprintf(path, sizeof path, GOLDEN "lora_after30_%s.safetensors", c->name);
    golden_open(&g, path);
    double worst = compare_adapters(&f, &g, false);
    if (!(worst <= 2e-2)) fail_msg("%s: adapters are off by %g", c->name, worst);
    golden_close(&init);
    golden_close(&g);
    json_decref(e);
    fixture_close(&f);
}

static void test_training(void **state) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_training(&cases[i]);
}

/* ---- the four peft-parity models ---- */

#define PARITY "expectations/peft-parity/"

typedef struct parity_case {
    const char *name;
    dtype quantize;
    bool nested;
    dtype stored; /* of the base's files */
} parity_case;

static const parity_case parity[] = {
    {"llama-nf4-dq", DTYPE_NF4, true, DTYPE_BF16},
    {"qwen2-fp4", DTYPE_FP4, false, DTYPE_BF16},
    {"qwen3-packed", DTYPE_NF4, true, DTYPE_BF16},
    {"mistral-lora", DTYPE_COUNT, false, DTYPE_F16},
};
enum { PARITY_CASES = sizeof parity / sizeof *parity };

/* fixtures/expectations/peft-parity/CASE/NAME in one of four turning buffers */
static const char *parity_path(const parity_case *c, const char *name) {
    static char paths[4][512];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], FIXTURES "/" PARITY "%s/%s", c->name, name);
    return path;
}

static json_t *parity_json(const parity_case *c) {
    json_t *j;
    golden_require_fixtures();
    assert_ok(json_read_file(parity_path(c, "expected.json"), 1 << 24, STATUS_DATA, &j));
    return j;
}

/* All rows of a case as one batch. */
static void parity_batch(const parity_case *c, batch *b) {
    char *text, *line, *rest;
    size_t bytes;
    memset(b, 0, sizeof *b);
    assert_ok(file_read_all(parity_path(c, "rows.jsonl"), 1 << 20, &text, &bytes));
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        int32_t ids[256], labels[256];
        json_t *row;
        assert_ok(json_read_text(line, strlen(line), c->name, STATUS_DATA, &row));
        int64_t n = read_ids(json_object_get(row, "input_ids"), ids, 256);
        assert_int_equal(read_ids(json_object_get(row, "labels"), labels, 256), n);
        batch_add(b, ids, labels, n);
        json_decref(row);
    }
    mem_free(text);
}

static fixture_options parity_options(const parity_case *c, const char *folder) {
    return (fixture_options){.folder = folder,
                             .compute = DTYPE_F32,
                             .quantize = c->quantize,
                             .nested = c->nested,
                             .training = TRAIN_NOTHING};
}

static double number_in(const json_t *j, const char *object, const char *key) {
    const json_t *v = json_object_get(object ? json_object_get(j, object) : j, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

/* Sums of -log p per row, with adapter0. */
static void check_rows(fixture *f, const batch *b, const json_t *e) {
    float logp[FIXTURE_ROWS];
    const json_t *sums = json_object_get(e, "row_ce_sum_before_training");
    fixture_logp(f, RUN_EVALUATE, b, logp);
    assert_int_equal(json_array_size(sums), b->documents);
    for (int64_t i = 0; i < b->documents; i++) {
        double sum = 0;
        for (int32_t k = b->starts[i]; k < b->starts[i + 1]; k++)
            if (b->targets[k] >= 0) sum -= logp[k];
        check_close("cross-entropy of a row", sum,
                    json_number_value(json_array_get(sums, (size_t)i)), 1e-5);
    }
}

/* Norms of all gradients of the first step, by PEFT's key. */
static void check_gradient_norms(fixture *f, const json_t *e) {
    const json_t *norms = json_object_get(e, "grad_norm_step1_per_tensor");
    run_args args = {0};
    double total[2], squares[128];
    assert_ok(engine_run(f->e, RUN_NORM, &args));
    assert_ok(decoder_read_sums(f->d, f->e, total, squares));
    assert_int_equal(json_object_size(norms), f->d->trainable_count);
    for (size_t i = 0; i < f->d->trainable_count; i++) {
        char key[128];
        snprintf(key, sizeof key, "base_model.model.%s",
                 f->d->table.items[f->d->trainables[i].working].name);
        check_close(key, sqrt(squares[i]), number_in(norms, NULL, key), 1e-3);
    }
}

static void check_parity(const parity_case *c) {
    json_t *e = parity_json(c);
    batch b;
    fixture f;
    parity_batch(c, &b);
    char folder[512], adapter[512];
    snprintf(folder, sizeof folder, "%s", parity_path(c, "base"));
    snprintf(adapter, sizeof adapter, "%s", parity_path(c, "adapter0"));
    fixture_options o = parity_options(c, folder);
    o.adapter = adapter;
    o.training = TRAIN_ADAPTERS;
    fixture_open(&f, &o);
    check_close("base loss", fixture_run(&f, RUN_REFERENCE, &b),
                number_in(e, "base_loss", "quantized_base_no_adapter"), 1e-5);
    fixture_run(&f, RUN_EVALUATE, &b);
    check_rows(&f, &b, e);
    check_close("loss", fixture_run(&f, RUN_TRAIN, &b),
                json_number_value(json_array_get(json_object_get(e, "loss"), 0)), 1e-5);
    check_gradient_norms(&f, e);
    fixture_close(&f);
    o = parity_options(c, folder);
    o.quantize = DTYPE_COUNT;
    fixture_open(&f, &o);
    check_close("base loss, not quantized", fixture_run(&f, RUN_EVALUATE, &b),
                number_in(e, "base_loss", "original_base_no_adapter"), 1e-5);
    fixture_close(&f);
    json_decref(e);
}

static void test_parity(void **state) {
    for (int i = 0; i < PARITY_CASES; i++) check_parity(&parity[i]);
}

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

/* ---- what was loaded ---- */

/* Every parameter of the base, byte for byte. */
static void same_base(fixture *f, fixture *g) {
    assert_int_equal(f->d->table.count, g->d->table.count);
    for (size_t i = 0; i < f->d->table.count; i++) {
        const parameter *p = &f->d->table.items[i];
        mem_class class = f->d->table.pages[p->page].class;
        if (class != MEM_BASE && class != MEM_EMBEDDING) continue;
        tensor x = engine_host_view(f->e, (parameter_id)i),
               y = engine_host_view(g->e, (parameter_id)i);
        int64_t count = p->format.rows * p->format.cols;
        if (!dtype_is_4bit(p->format.type)) {
            assert_memory_equal(x.data, y.data, (size_t)p->bytes);
            continue;
        }
        quant_view v = tensor_quant_view(&x), u = tensor_quant_view(&y);
        assert_memory_equal(v.codes, u.codes, (size_t)quant_code_bytes(count));
        for (int64_t k = 0; k < quant_block_count(count, v.block); k++)
            assert_true(quant_view_absmax(&v, k) == quant_view_absmax(&u, k));
    }
}

/* The same model as fp32 in one file and as bf16 in shards: loaded for bf16, the same bytes,
 * and quantized from there the same codes. */
static void test_shards(void **state) {
    golden_require_fixtures();
    static const dtype types[] = {DTYPE_COUNT, DTYPE_NF4, DTYPE_FP4};
    for (int i = 0; i < 3; i++) {
        fixture f, g;
        fixture_options o = plain;
        o.compute = DTYPE_BF16;
        o.quantize = types[i];
        o.nested = i == 1;
        fixture_open(&f, &o);
        o.folder = FIXTURES "/models/stories260K/hf-bf16-sharded";
        fixture_open(&g, &o);
        assert_true(g.w.files.shard_count == 2);
        same_base(&f, &g);
        fixture_close(&f);
        fixture_close(&g);
    }
}

/* A bitsandbytes checkpoint made of a quantized model loads as it is. */
static void write_bnb_model(fixture *f, const char *folder) {
    char path[600];
    safetensors_writer w;
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_ok(file_copy(STORIES "/config.json", path));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(safetensors_create(&w, path));
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < f->d->table.count; i++) {
            const parameter *p = &f->d->table.items[i];
            mem_class class = f->d->table.pages[p->page].class;
            if (class != MEM_BASE && class != MEM_EMBEDDING) continue;
            const int64_t shape[] = {p->format.rows, p->format.cols};
            bool vector = p->format.rows == 1;
            const void *data = engine_host_view(f->e, (parameter_id)i).data;
            if (dtype_is_4bit(p->format.type) && !pass)
                assert_ok(bnb_declare(&w, p->name, &p->format, DTYPE_F32));
            else if (dtype_is_4bit(p->format.type))
                assert_ok(bnb_write(&w, p->name, &p->format, DTYPE_F32, data));
            else if (!pass)
                assert_ok(safetensors_declare(&w, p->name, p->format.type, vector ? 1 : 2,
                                              vector ? shape + 1 : shape));
            else
                assert_ok(safetensors_write(&w, p->name, data, (size_t)p->bytes));
        }
        if (!pass) assert_ok(safetensors_begin(&w, "pt"));
    }
    assert_ok(safetensors_finish(&w));
}

static void test_bnb_base(void **state) {
    golden_require_fixtures();
    for (int nested = 0; nested < 2; nested++) {
        char folder[512];
        fixture f, g;
        fixture_options o = plain;
        o.quantize = nested ? DTYPE_NF4 : DTYPE_FP4;
        o.nested = nested;
        fixture_open(&f, &o);
        snprintf(folder, sizeof folder, "%s", scratch_folder("bnb"));
        write_bnb_model(&f, folder);
        o.folder = folder;
        o.quantize = DTYPE_COUNT; /* the files say it */
        o.nested = false;
        fixture_open(&g, &o);
        assert_true(g.w.any_stored);
        same_base(&f, &g);
        fixture_close(&f);
        fixture_close(&g);
    }
}

/* ---- bf16 ---- */

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* Gradients in bf16 against PyTorch's in fp32, the NF4 codes being the same: as close as the
 * real libraries come in bf16 (cosine and norm, per tensor and of all together). */
static void test_bf16(void **state) {
    golden_require_fixtures();
    char folder[512];
    golden g, init;
    batch b;
    fixture f;
    json_t *e = expected_json();
    fixture_options o = plain;
    o.quantize = DTYPE_NF4;
    fixture_open(&f, &o);
    snprintf(folder, sizeof folder, "%s", scratch_folder("bnb"));
    write_bnb_model(&f, folder);
    fixture_close(&f);

    o = golden_options(&cases[1]);
    o.folder = folder;
    o.quantize = DTYPE_COUNT;
    o.compute = DTYPE_BF16;
    golden_batch(&b, e);
    golden_open(&init, GOLDEN "lora_init_randomB.safetensors");
    golden_open(&g, GOLDEN "grads_randomB_nf4.safetensors");
    fixture_open(&f, &o);
    load_golden_adapter(&f, &init);
    check_close("loss in bf16", fixture_run(&f, RUN_TRAIN, &b),
                number_in(json_object_get(e, "runs"), "nf4", "loss_random_B"), 1e-2);
    double both = 0, got_square = 0, want_square = 0, worst = 1;
    for (size_t i = 0; i < f.d->trainable_count; i++) {
        const trainable *t = &f.d->trainables[i];
        const char *name = f.d->table.items[t->working].name;
        golden_tensor x = golden_get(&g, "base_model.model.%s", name);
        float *got = malloc((size_t)x.count * sizeof *got);
        assert_ok(engine_store(f.e, t->gradient, got, 0, x.count * 4));
        double xy = dot(got, x.f32, x.count), yy = dot(got, got, x.count),
               xx = dot(x.f32, x.f32, x.count);
        worst = fmin(worst, xy / sqrt(xx * yy));
        if (!(xy / sqrt(xx * yy) >= 0.98)) fail_msg("%s: cosine %g", name, xy / sqrt(xx * yy));
        if (!(fabs(sqrt(yy / xx) - 1) <= 0.05))
            fail_msg("%s: norm times %g", name, sqrt(yy / xx));
        both += xy, got_square += yy, want_square += xx;
        free(got);
    }
    double cosine = both / sqrt(got_square * want_square);
    print_message("bf16 gradients: worst cosine %.4f, all together %.5f, norm times %.4f\n",
                  worst, cosine, sqrt(got_square / want_square));
    assert_true(cosine >= 0.998 && fabs(sqrt(got_square / want_square) - 1) <= 0.01);
    assert_true(cosine < 0.999999); /* it was bf16 */
    fixture_close(&f);
    golden_close(&init);
    golden_close(&g);
    json_decref(e);
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

/* ---- the base as a file of pages, and where it lives ---- */

/* Loss and all gradients of one micro-batch, concatenated. */
typedef struct outcome {
    double loss;
    float *gradients;
    int64_t count;
} outcome;

static outcome train_once(const fixture_options *o, batch *b) {
    fixture f;
    outcome r = {0};
    fixture_open(&f, o);
    r.loss = fixture_run(&f, RUN_TRAIN, b);
    for (size_t i = 0; i < f.d->trainable_count; i++)
        r.count += f.d->trainables[i].rows * f.d->trainables[i].cols;
    r.gradients = malloc((size_t)r.count * sizeof *r.gradients);
    float *to = r.gradients;
    for (size_t i = 0; i < f.d->trainable_count; i++) {
        const trainable *t = &f.d->trainables[i];
        assert_ok(engine_store(f.e, t->gradient, to, 0, t->rows * t->cols * 4));
        to += t->rows * t->cols;
    }
    json_t *identity;
    assert_ok(weights_identity(&f.w, &identity)); /* known from the pages' file too */
    assert_int_equal(json_object_size(identity), f.w.files.count);
    json_decref(identity);
    fixture_close(&f);
    return r;
}

/* Bit for bit the same from the folder, from the pages, streamed from host or disk, with any
 * number of slots and any handling of activations. */
static void check_places(const parity_case *c, dtype compute) {
    char folder[512], adapter[512], pages[600];
    batch b;
    snprintf(folder, sizeof folder, "%s", parity_path(c, "base"));
    snprintf(adapter, sizeof adapter, "%s", parity_path(c, "adapter0"));
    snprintf(pages, sizeof pages, "%s/base.h5", scratch_folder("pages"));
    parity_batch(c, &b);
    fixture_options o = parity_options(c, folder);
    o.adapter = adapter;
    o.training = TRAIN_ADAPTERS;
    o.compute = compute;
    outcome want = train_once(&o, &b);
    static const struct {
        bool pages;
        base_place base;
        int slots;
        activation_mode activations;
    } ways[] = {
        {true, BASE_RESIDENT, 0, ACTIVATIONS_KEEP},
        {true, BASE_HOST, 1, ACTIVATIONS_RECOMPUTE},
        {false, BASE_HOST, 2, ACTIVATIONS_OFFLOAD},
        {true, BASE_DISK, 1, ACTIVATIONS_KEEP},
        {true, BASE_DISK, 3, ACTIVATIONS_RECOMPUTE},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        o.pages = ways[i].pages ? pages : NULL;
        o.base = ways[i].base;
        o.slots = ways[i].slots;
        o.activations = ways[i].activations;
        outcome got = train_once(&o, &b);
        assert_true(got.loss == want.loss);
        assert_int_equal(got.count, want.count);
        assert_memory_equal(got.gradients, want.gradients, (size_t)want.count * 4);
        free(got.gradients);
    }
    free(want.gradients);
}

static void test_places(void **state) {
    golden_require_fixtures();
    check_places(&parity[0], DTYPE_F32);
    check_places(&parity[1], DTYPE_BF16);
    check_places(&parity[3], DTYPE_F16);
}

/* A pages' file of another configuration or another base is refused, saying which. */
static void test_foreign_pages(void **state) {
    golden_require_fixtures();
    char pages[600], other[512];
    model_config config;
    weights w;
    cache c;
    decoder *d;
    snprintf(pages, sizeof pages, "%s/base.h5", scratch_folder("pages"));
    snprintf(other, sizeof other, "%s", parity_path(&parity[0], "base"));
    decoder_options o = {.compute = DTYPE_F32,
                         .quantize = DTYPE_NF4,
                         .nested = true,
                         .tied = true,
                         .training = TRAIN_NOTHING,
                         .optimizer_bits = 32,
                         .alignment = 64};
    assert_ok(model_config_open(&config, STORIES));
    assert_ok(weights_open(&w, STORIES, &config));
    assert_ok(decoder_open(&d, &config, &o));
    assert_ok(base_pages_write(&w, d, pages, NULL));
    assert_ok(base_pages_open(&c, pages, &w, d));
    assert_ok(cache_verify(&c));
    cache_close(&c);
    decoder_close(d);
    for (int i = 0; i < 3; i++) { /* compute type, format, nesting */
        decoder_options changed = o;
        if (i == 0) changed.compute = DTYPE_BF16;
        if (i == 1) changed.quantize = DTYPE_FP4;
        if (i == 2) changed.nested = false;
        assert_ok(decoder_open(&d, &config, &changed));
        assert_fails(base_pages_open(&c, pages, &w, d), STATUS_MODEL, "another configuration");
        decoder_close(d);
    }
    weights_close(&w);
    model_config_close(&config);
    assert_ok(model_config_open(&config, other));
    assert_ok(weights_open(&w, other, &config));
    o.tied = false;
    assert_ok(decoder_open(&d, &config, &o));
    assert_fails(base_pages_open(&c, pages, &w, d), STATUS_MODEL, "other weights");
    decoder_close(d);
    weights_close(&w);
    model_config_close(&config);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_cpp),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_random_b),
        cmocka_unit_test(test_training),
        cmocka_unit_test(test_parity),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_merge_4bit),
        cmocka_unit_test(test_adapter_round_trip),
        cmocka_unit_test(test_adapter_patterns),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_bnb_base),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_failed_export),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_foreign_pages),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
