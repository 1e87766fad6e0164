/* golden_model.h: the models whose numbers the real libraries gave (golden.h finds the files):
 * stories260K with and without adapter, and the four peft-parity cases. */
#ifndef NIBBLE_TESTS_GOLDEN_MODEL_H
#define NIBBLE_TESTS_GOLDEN_MODEL_H

#include "checkpoints/bnb.h"
#include "model_fixture.h"

#define STORIES FIXTURES "/models/stories260K/hf-f32"
#define GOLDEN  "expectations/qlora-torch-golden/"

static const fixture_options plain = {.folder = STORIES,
                                      .compute = DTYPE_F32,
                                      .quantize = DTYPE_COUNT,
                                      .training = TRAIN_NOTHING};

static inline void check_close(const char *what, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance * fabs(want)))
        fail_msg("%s: %.9g, expected %.9g", what, got, want);
}

static inline json_t *expected_json(void) {
    return golden_json(GOLDEN "expected.json");
}

/* ids of a JSON list; returns how many. */
static inline int64_t read_ids(const json_t *list, int32_t *ids, int64_t most) {
    int64_t n = (int64_t)json_array_size(list);
    assert_true(n > 0 && n <= most);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return n;
}

/* The adapters of qlora-torch-golden. */
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

static inline void golden_batch(batch *b, const json_t *e) {
    const json_t *ids = json_object_get(e, "ids"), *labels = json_object_get(e, "labels");
    memset(b, 0, sizeof *b);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t x[64], y[64];
        int64_t n = read_ids(json_array_get(ids, i), x, 64);
        read_ids(json_array_get(labels, i), y, 64);
        batch_add(b, x, y, n); /* padding stands behind its document and has no labels */
    }
}

static inline fixture_options golden_options(const golden_case *c) {
    return (fixture_options){.folder = STORIES,
                             .lora = &golden_lora,
                             .training = TRAIN_ADAPTERS,
                             .compute = DTYPE_F32,
                             .quantize = c->quantize,
                             .nested = c->nested};
}

/* A bitsandbytes checkpoint made of a quantized model loads as it is. */
static inline void write_bnb_model(fixture *f, const char *folder) {
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
            void *data = calloc(1, (size_t)p->bytes);
            assert_ok(engine_store(f->e, (parameter_id)i, data, 0, p->bytes));
            if (dtype_is_4bit(p->format.type) && !pass)
                assert_ok(bnb_declare(&w, p->name, &p->format, DTYPE_F32));
            else if (dtype_is_4bit(p->format.type))
                assert_ok(bnb_write(&w, p->name, &p->format, DTYPE_F32, data));
            else if (!pass)
                assert_ok(safetensors_declare(&w, p->name, p->format.type, vector ? 1 : 2,
                                              vector ? shape + 1 : shape));
            else
                assert_ok(safetensors_write(&w, p->name, data, (size_t)p->bytes));
            free(data);
        }
        if (!pass) assert_ok(safetensors_begin(&w, "pt"));
    }
    assert_ok(safetensors_finish(&w));
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

static inline json_t *parity_json(const parity_case *c) {
    json_t *j;
    golden_require_fixtures();
    assert_ok(json_read_file(parity_path(c, "expected.json"), 1 << 24, STATUS_DATA, &j));
    return j;
}

/* All rows of a case as one batch. */
static inline void parity_batch(const parity_case *c, batch *b) {
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

static inline fixture_options parity_options(const parity_case *c, const char *folder) {
    return (fixture_options){.folder = folder,
                             .compute = DTYPE_F32,
                             .quantize = c->quantize,
                             .nested = c->nested,
                             .training = TRAIN_NOTHING};
}

static inline double number_in(const json_t *j, const char *object, const char *key) {
    const json_t *v = json_object_get(object ? json_object_get(j, object) : j, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

#endif
