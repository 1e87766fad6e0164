/* test_base.c: the base as it was loaded (shards, bitsandbytes' files) and as a file of pages,
 * wherever it lives. */
#include "golden_model.h"
#include "scratch.h"
#include "trainer/model/synthetic.h"

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

/* ---- synthetic bases ---- */

/* What a stream has put so far: every byte once, in order within a parameter. */
typedef struct audit {
    int64_t *next; /* [parameters] */
} audit;

static status note_bytes(void *context, parameter_id id, int64_t offset, const void *data,
                         int64_t n) {
    audit *a = context;
    assert_int_equal(offset, a->next[id]);
    a->next[id] += n;
    return STATUS_OK;
}

static void test_synthetic(void **state) {
    static const struct {
        const char *name;
        dtype compute, quantize;
        bool nested;
    } rows[] = {
        {"synthetic:smollm2-135m", DTYPE_BF16, DTYPE_NF4, true},
        {"synthetic:qwen3-0.6b", DTYPE_F32, DTYPE_FP4, false},
        {"synthetic:Qwen2.5-0.5B", DTYPE_F16, DTYPE_COUNT, false},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        model_config config;
        weights w;
        decoder *d;
        assert_ok(model_config_open(&config, rows[r].name));
        assert_ok(weights_open(&w, rows[r].name, &config));
        decoder_options o = {.compute = rows[r].compute,
                             .quantize = rows[r].quantize,
                             .nested = rows[r].nested,
                             .tied = w.tied,
                             .training = TRAIN_NOTHING,
                             .optimizer_bits = 32,
                             .alignment = 64};
        assert_ok(decoder_open(&d, &config, &o));
        audit a = {calloc(d->table.count, sizeof *a.next)};
        base_sink sink = {note_bytes, &a};
        assert_ok(weights_stream(&w, d, &sink, NULL));
        for (size_t i = 0; i < d->table.count; i++) {
            mem_class class = d->table.pages[d->table.items[i].page].class;
            bool base = class == MEM_BASE || class == MEM_EMBEDDING;
            assert_int_equal(a.next[i], base ? d->table.items[i].bytes : 0);
        }
        free(a.next);
        decoder_close(d);
        weights_close(&w);
        model_config_close(&config);
    }
}

/* Published sizes, in millions of weights. */
static void test_synthetic_shapes(void **state) {
    static const struct {
        const char *base_model, *like;
        double millions;
    } rows[] = {
        {"NousResearch/Meta-Llama-3-8B", "llama-3-8b", 8030},
        {"meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", 8030},
        {"NousResearch/Meta-Llama-3-70B", "llama-3-70b", 70554},
        {"meta-llama/Llama-2-7b-hf", "llama-2-7b", 6738},
        {"meta-llama/Llama-2-13b-chat-hf", "llama-2-13b", 13016},
        {"meta-llama/Llama-3.2-1B", "llama-3.2-1b", 1236},
        {"meta-llama/Llama-3.2-3B", "llama-3.2-3b", 3213},
        {"meta-llama/Llama-3.1-405B", "llama-3.1-405b", 405853},
        {"mistralai/Mistral-7B-v0.3", "mistral-7b", 7248},
        {"Qwen/Qwen2.5-0.5B", "qwen2.5-0.5b", 494},
        {"Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b", 7616},
        {"Qwen/Qwen2.5-72B", "qwen2.5-72b", 72706},
        {"Qwen/Qwen3-8B", "qwen3-8b", 8191},
        {"Qwen/Qwen3-32B", "qwen3-32b", 32762},
        {"HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m", 134.5},
        {"TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b", 1100},
        {"some/llama-3-80b", NULL, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *like = synthetic_like(rows[i].base_model);
        char folder[64];
        model_config c;
        if (!rows[i].like) assert_null(like);
        if (!rows[i].like) continue;
        assert_string_equal(like, rows[i].like);
        snprintf(folder, sizeof folder, SYNTHETIC_PREFIX "%s", like);
        assert_ok(model_config_open(&c, folder));
        double count = (double)model_config_parameters(&c, c.tied) / 1e6;
        if (fabs(count / rows[i].millions - 1) > 1e-3)
            fail_msg("%s: %.1f million weights, %.1f are published", like, count,
                     rows[i].millions);
        model_config_close(&c);
    }
    model_config c;
    assert_fails(model_config_open(&c, "synthetic:gpt-5"), STATUS_MODEL, "qwen3-8b");
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_bnb_base),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_foreign_pages),
        cmocka_unit_test(test_synthetic),
        cmocka_unit_test(test_synthetic_shapes),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
