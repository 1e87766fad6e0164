/* test_model.c: what stands around the engine: adapter targets, what a decoder registers,
 * sampling, and what is wrong with a folder of weights. The engine is test_decoder.c's. */
#include "llama_config.h"

/* ---- adapters ---- */

static lora_request request_of(const char *const *targets, size_t n) {
    return (lora_request){.targets = targets, .target_count = n, .rank = 4, .alpha = 8};
}

static void test_targets(void **state) {
    model_config c = read_config("{}");
    lora_spec s;
    const char *const names[] = {"q_proj", "mlp.up_proj", "model.layers.1.self_attn.o_proj"};
    lora_request r = request_of(names, 3);
    assert_ok(lora_spec_make(&s, &c, &r));
    for (int32_t l = 0; l < 2; l++)
        for (int m = 0; m < MODULE_COUNT; m++) {
            bool want = m == MODULE_Q || m == MODULE_UP || (m == MODULE_O && l == 1);
            assert_int_equal(lora_spec_at(&s, l, (linear_module)m).rank, want ? 4 : 0);
        }
    assert_true(lora_spec_at(&s, 0, MODULE_Q).scale == 2);
    lora_spec_free(&s);
    r.every_linear = true, r.rslora = true;
    r.layers = (const int64_t[]){1}, r.layer_count = 1;
    assert_ok(lora_spec_make(&s, &c, &r));
    assert_true(lora_spec_at(&s, 1, MODULE_DOWN).scale == 4 &&
                !lora_spec_at(&s, 0, MODULE_Q).rank);
    lora_spec_free(&s);

    static const struct {
        const char *target;
        int64_t rank;
        double alpha, dropout;
        const char *part;
    } wrong[] = {
        {"query", 4, 8, 0, "\"query\" is no linear layer"},
        {"proj", 4, 8, 0, "is no linear layer"}, /* an end, but not after a dot */
        {"lm_head", 4, 8, 0, "head and embedding stay"},
        {"model.embed_tokens", 4, 8, 0, "head and embedding stay"},
        {"model.layers.2.self_attn.q_proj", 4, 8, 0, "is no linear layer"},
        {"q_proj", 0, 8, 0, "lora_r is 0"},
        {"q_proj", 4, 0, 0, "lora_alpha is 0"},
        {"q_proj", 4, 8, 1, "lora_dropout is 1"},
        {"q_proj", 4, 8, (double)NAN, "lora_dropout is"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        r = request_of(&wrong[i].target, 1);
        r.rank = wrong[i].rank, r.alpha = wrong[i].alpha, r.dropout = wrong[i].dropout;
        assert_fails(lora_spec_make(&s, &c, &r), STATUS_USAGE, wrong[i].part);
    }
    r = request_of(NULL, 0);
    assert_fails(lora_spec_make(&s, &c, &r), STATUS_USAGE, "lora_target_linear");
    model_config_close(&c);
}

/* ---- what a decoder registers ---- */

static void test_full_training_table(void **state) {
    model_config c = read_config("{\"tie_word_embeddings\": true, \"attention_bias\": true, "
                                 "\"vocab_size\": 400}");
    decoder_options o = {.compute = DTYPE_BF16,
                         .quantize = DTYPE_COUNT,
                         .tied = true,
                         .training = TRAIN_EVERYTHING,
                         .optimizer_bits = 8,
                         .alignment = 64};
    decoder *d;
    assert_ok(decoder_open(&d, &c, &o));
    assert_int_equal(d->head, d->embedding);
    assert_int_equal(d->trainable_count, 2 * (7 + 4 + 2) + 2);
    assert_int_equal(d->trainables[0].working, d->embedding);
    int64_t elements = 0;
    for (size_t i = 0; i < d->trainable_count; i++) {
        const trainable *t = &d->trainables[i];
        const parameter *p = &d->table.items[t->working];
        bool plain = strstr(p->name, "norm") || strstr(p->name, ".bias");
        assert_int_equal(t->decay, !plain);
        assert_int_equal(t->bits, t->rows * t->cols >= 4096 ? 8 : 32);
        assert_int_equal(p->gradient, t->gradient);
        assert_int_equal(d->table.items[t->master].format.type, DTYPE_F32);
        elements += t->rows * t->cols;
    }
    assert_int_equal(elements, model_config_parameters(&c, true));
    program *p;
    assert_ok(decoder_record_train(d, &p, 100));
    assert_int_equal(p->capacity, 128);
    assert_int_equal(p->template_count, 3); /* embed, one block for both layers, head */
    program_close(p);
    assert_ok(decoder_record_update(d, &p));
    assert_int_equal(p->template_count, 3); /* embedding, layers, final norm */
    program_close(p);
    decoder_close(d);

    o.quantize = DTYPE_NF4;
    assert_fails(decoder_open(&d, &c, &o), STATUS_USAGE, "unquantized");
    o.quantize = DTYPE_COUNT, o.training = TRAIN_ADAPTERS;
    assert_fails(decoder_open(&d, &c, &o), STATUS_USAGE, "no adapter");
    model_config_close(&c);
}

/* Layers that differ have templates of their own; without adapters those that differ only
 * there share. */
static void test_templates(void **state) {
    model_config c = read_config("{\"model_type\": \"qwen2\", \"num_key_value_heads\": 2, "
                                 "\"num_hidden_layers\": 6, \"use_sliding_window\": true, "
                                 "\"sliding_window\": 8, \"max_window_layers\": 3}");
    lora_spec spec;
    lora_request r = {.every_linear = true,
                      .rank = 4,
                      .alpha = 8,
                      .layers = (const int64_t[]){1, 5},
                      .layer_count = 2};
    decoder *d;
    program *p;
    assert_ok(lora_spec_make(&spec, &c, &r));
    decoder_options o = {.compute = DTYPE_F32,
                         .quantize = DTYPE_NF4,
                         .nested = true,
                         .lora = &spec,
                         .training = TRAIN_ADAPTERS,
                         .optimizer_bits = 32,
                         .alignment = 64};
    assert_ok(decoder_open(&d, &c, &o));
    assert_int_equal(d->trainable_count, 2 * 14);
    assert_ok(decoder_record_train(d, &p, 64));
    assert_int_equal(p->template_count, 2 + 4); /* {full, window} x {with, without} */
    assert_int_equal(p->section_count, 2 + 5);  /* 0 | 1 | 2 | 3 4 | 5 */
    program_close(p);
    assert_ok(decoder_record_evaluate(d, &p, 64, false));
    assert_int_equal(p->template_count, 2 + 2);
    assert_int_equal(p->section_count, 2 + 2);
    program_close(p);
    assert_ok(decoder_record_norm(d, &p));
    assert_int_equal(p->template_count, 1);
    program_close(p);
    decoder_close(d);
    lora_spec_free(&spec);
    model_config_close(&c);
}

/* ---- sampling ---- */

static void test_sampling(void **state) {
    enum { V = 5, DRAWS = 20000 };
    const float logits[V] = {1, 3, 2, 3, -1};
    int32_t scratch[V];
    sampling s = {.temperature = 0, .top_p = 1};
    assert_int_equal(sampling_choose(&s, logits, V, 0, 0, scratch), 1); /* the lower id */
    static const struct {
        double temperature;
        int64_t top_k;
        double top_p;
        unsigned kept; /* bit per id */
    } rows[] = {
        {1, 0, 1, 31},   {0.7, 0, 1, 31}, {1, 2, 1, 10},   {1, 3, 1, 14},   {1, 1, 1, 2},
        {1, 0, 0.5, 10}, {1, 0, 0.3, 2},  {1, 0, 0.9, 14}, {2, 3, 0.5, 10}, {1, 9, 0.999, 31},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        s = (sampling){rows[i].temperature, rows[i].top_k, rows[i].top_p, 42};
        int counts[V] = {0};
        double total = 0;
        for (int id = 0; id < V; id++)
            if (rows[i].kept >> id & 1) total += exp(logits[id] / s.temperature);
        for (uint64_t k = 0; k < DRAWS; k++) {
            int32_t id = sampling_choose(&s, logits, V, k % 3, k, scratch);
            assert_int_equal(id, sampling_choose(&s, logits, V, k % 3, k, scratch));
            counts[id]++;
        }
        for (int id = 0; id < V; id++) {
            double p = rows[i].kept >> id & 1 ? exp(logits[id] / s.temperature) / total : 0;
            double sd = sqrt(p * (1 - p) / DRAWS);
            if (!(fabs((double)counts[id] / DRAWS - p) <= 4.5 * sd))
                fail_msg("row %zu, id %d: %d of %d, expected %g", i, id, counts[id], DRAWS, p);
        }
    }
    s.top_p = 0;
    assert_fails(sampling_check(&s), STATUS_USAGE, "top_p");
    s.temperature = -1;
    assert_fails(sampling_check(&s), STATUS_USAGE, "temperature");
}

/* ---- folders of weights ---- */

/* What to spoil in a folder that is otherwise right. */
typedef struct spoil {
    const char *missing, *extra, *misshapen, *wrong_type, *not_finite;
    float value; /* at element 5 of not_finite */
    bool other_head;
} spoil;

static bool is_it(const char *name, const char *which) {
    return which && !strcmp(name, which);
}

static void write_folder(const char *folder, const model_config *c, bool head,
                         const spoil *q) {
    char path[600];
    float values[1024] = {0};
    model_layout layout;
    safetensors_writer w;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(model_layout_make(&layout, c, !head));
    assert_ok(safetensors_create(&w, path));
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < layout.count; i++) {
            const layout_tensor *t = &layout.tensors[i];
            int64_t shape[] = {t->rows, t->cols + is_it(t->name, q->misshapen)};
            dtype type = is_it(t->name, q->wrong_type) ? DTYPE_I32 : DTYPE_F32;
            if (is_it(t->name, q->missing)) continue;
            for (int k = 0; k < 1024; k++) values[k] = 0.01f * (float)k;
            if (is_it(t->name, q->not_finite)) values[5] = q->value;
            if (is_it(t->name, LAYOUT_HEAD) && q->other_head) values[7] = 3;
            if (!pass)
                assert_ok(safetensors_declare(&w, t->name, type, t->rank,
                                              t->rank == 1 ? shape + 1 : shape));
            else
                assert_ok(
                    safetensors_write(&w, t->name, values,
                                      (size_t)((t->rank == 1 ? 1 : shape[0]) * shape[1]) * 4));
        }
        if (q->extra && !pass)
            assert_ok(safetensors_declare(&w, q->extra, DTYPE_F32, 1, (int64_t[]){2}));
        if (!pass) assert_ok(safetensors_begin(&w, "pt"));
        if (q->extra && pass) assert_ok(safetensors_write(&w, q->extra, values, 8));
    }
    assert_ok(safetensors_finish(&w));
    model_layout_free(&layout);
}

static void test_folders(void **state) {
    static const struct {
        spoil q;
        const char *part; /* NULL: it opens */
    } rows[] = {
        {{0}, NULL},
        {{.missing = "model.layers.1.mlp.up_proj.weight"},
         "model.layers.1.mlp.up_proj.weight is missing"},
        {{.missing = LAYOUT_HEAD}, "lm_head.weight is missing"},
        {{.extra = "model.layers.2.input_layernorm.weight"},
         "is not part of a llama model with 2"},
        {{.extra = "model.layers.0.self_attn.q_proj.bias"}, "is not part of"},
        {{.extra = "model.layers.0.self_attn.rotary_emb.inv_freq"}, NULL},
        {{.misshapen = "model.norm.weight"},
         "model.norm.weight is [17], config.json says [16]"},
        {{.misshapen = "model.layers.0.mlp.down_proj.weight"}, "config.json says [16, 24]"},
        {{.wrong_type = "model.embed_tokens.weight"}, "stored as I32"},
    };
    model_config c = read_config("{}");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *folder = scratch_folder("weights");
        weights w;
        write_folder(folder, &c, true, &rows[i].q);
        if (rows[i].part) {
            assert_fails(weights_open(&w, folder, &c), STATUS_MODEL, rows[i].part);
            continue;
        }
        assert_ok(weights_open(&w, folder, &c));
        weights_close(&w);
    }
    model_config_close(&c);
}

/* tie_word_embeddings with a head in the file: tied only if it is the embedding. */
static void test_tied(void **state) {
    model_config c = read_config("{\"tie_word_embeddings\": true}");
    for (int i = 0; i < 3; i++) {
        const char *folder = scratch_folder("tied");
        weights w;
        spoil q = {.other_head = i == 2};
        write_folder(folder, &c, i > 0, &q);
        assert_ok(weights_open(&w, folder, &c));
        assert_int_equal(w.tied, i < 2);
        weights_close(&w);
    }
    model_config_close(&c);
}

static status drop_bytes(void *context, parameter_id id, int64_t offset, const void *data,
                         int64_t n) {
    return STATUS_OK;
}

static status stop_there(void *context, int64_t done, int64_t total) {
    assert_true(done > 0 && done <= total);
    return --*(int *)context ? STATUS_OK : status_fail(STATUS_INTERRUPTED, "stopped");
}

static status stream_folder(const char *folder, const model_config *c, dtype compute,
                            dtype quantize, const load_progress *progress, json_t **identity) {
    weights w;
    decoder *d;
    base_sink sink = {drop_bytes, NULL};
    decoder_options o = {.compute = compute,
                         .quantize = quantize,
                         .nested = true,
                         .training = TRAIN_NOTHING,
                         .optimizer_bits = 32,
                         .alignment = 64};
    assert_ok(weights_open(&w, folder, c));
    assert_ok(decoder_open(&d, c, &o));
    status s = weights_stream(&w, d, &sink, progress);
    if (s == STATUS_OK && identity) assert_ok(weights_identity(&w, identity));
    decoder_close(d);
    weights_close(&w);
    return s;
}

static void test_not_finite(void **state) {
    static const char *const names[] = {"model.layers.1.self_attn.v_proj.weight",
                                        "model.layers.0.input_layernorm.weight",
                                        "model.embed_tokens.weight"};
    static const float values[] = {NAN, INFINITY, -INFINITY};
    model_config c = read_config("{}");
    for (int i = 0; i < 9; i++) {
        const char *folder = scratch_folder("weights");
        spoil q = {.not_finite = names[i / 3], .value = values[i % 3]};
        char part[128];
        write_folder(folder, &c, true, &q);
        snprintf(part, sizeof part, "%s: element 5 is not finite", names[i / 3]);
        dtype quantize = i % 2 ? DTYPE_NF4 : DTYPE_COUNT;
        assert_fails(stream_folder(folder, &c, DTYPE_BF16, quantize, NULL, NULL), STATUS_MODEL,
                     part);
    }
    const char *folder = scratch_folder("weights");
    spoil q = {.not_finite = names[0], .value = 1e5f}; /* beyond fp16's 65,504 */
    write_folder(folder, &c, true, &q);
    assert_ok(stream_folder(folder, &c, DTYPE_BF16, DTYPE_NF4, NULL, NULL));
    assert_fails(stream_folder(folder, &c, DTYPE_F16, DTYPE_NF4, NULL, NULL), STATUS_MODEL,
                 "element 5 is too large");
    model_config_close(&c);
}

static void test_stopping_and_identity(void **state) {
    model_config c = read_config("{}");
    char folder[512];
    json_t *first, *second;
    snprintf(folder, sizeof folder, "%s", scratch_folder("weights"));
    spoil none = {0}, other = {.not_finite = "model.norm.weight", .value = 7};
    write_folder(folder, &c, true, &none);
    for (int at = 1; at < 4; at++) {
        int left = at;
        load_progress p = {stop_there, &left};
        assert_fails(stream_folder(folder, &c, DTYPE_F32, DTYPE_NF4, &p, NULL),
                     STATUS_INTERRUPTED, "stopped");
    }
    assert_ok(stream_folder(folder, &c, DTYPE_F32, DTYPE_NF4, NULL, &first));
    assert_ok(stream_folder(folder, &c, DTYPE_BF16, DTYPE_COUNT, NULL, &second));
    assert_true(json_equal(first, second)); /* of the files, however they were loaded */
    assert_int_equal(json_object_size(first), 2 * 9 + 3);
    json_decref(second);
    write_folder(folder, &c, true, &other);
    assert_ok(stream_folder(folder, &c, DTYPE_F32, DTYPE_NF4, NULL, &second));
    assert_false(json_equal(first, second));
    json_decref(first);
    json_decref(second);
    model_config_close(&c);
}

/* Every allocation of opening a model fails once: a clean status, nothing leaked. */
static void test_allocation_failures(void **state) {
    model_config c = read_config("{}");
    char folder[512];
    spoil none = {0};
    snprintf(folder, sizeof folder, "%s", scratch_folder("weights"));
    write_folder(folder, &c, true, &none);
    size_t blocks = mem_blocks();
    for (uint64_t k = 1;; k++) {
        weights w;
        decoder *d = NULL;
        program *p = NULL;
        decoder_options o = {.compute = DTYPE_BF16,
                             .quantize = DTYPE_COUNT,
                             .training = TRAIN_EVERYTHING,
                             .optimizer_bits = 32,
                             .alignment = 64};
        mem_fail_at(k, 0);
        status s = weights_open(&w, folder, &c);
        if (s == STATUS_OK) {
            s = decoder_open(&d, &c, &o);
            if (s == STATUS_OK) s = decoder_record_train(d, &p, 64);
            program_close(p);
            decoder_close(d);
            weights_close(&w);
        }
        mem_fail_at(0, 0);
        assert_int_equal(mem_blocks(), blocks);
        if (s == STATUS_OK) break;
        assert_int_equal(s, STATUS_MEMORY);
    }
    model_config_close(&c);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_full_training_table),
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_tied),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_stopping_and_identity),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
