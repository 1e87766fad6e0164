/* model_fixture.h: a model opened for tests: folder to engine in one call, documents in,
 * losses, gradients and log-probabilities out. Failing here fails the running test. */
#ifndef NIBBLE_TESTS_MODEL_FIXTURE_H
#define NIBBLE_TESTS_MODEL_FIXTURE_H

#include "golden.h"
#include "trainer/model/base_pages.h"
#include "trainer/model/generate.h"
#include "trainer/model/lora.h"
#include "trainer/model/masters.h"
#include "trainer/model/weights.h"

#include <math.h>

enum { FIXTURE_ROWS = 256, FIXTURE_SEQUENCES = 4, FIXTURE_CACHE = 256 };
enum { RUN_TRAIN, RUN_EVALUATE, RUN_REFERENCE, RUN_GENERATE, RUN_NORM, RUN_UPDATE, RUN_COUNT };

/* How to open it. */
typedef struct fixture_options {
    const char *folder;       /* absolute */
    const char *adapter;      /* PEFT folder, or NULL */
    const lora_request *lora; /* without a folder: what to make; NULL: no adapter */
    decoder_training training;
    dtype compute, quantize; /* DTYPE_COUNT: not quantized */
    bool nested;
    int optimizer_bits; /* 0: 32 */
    int64_t selected;   /* rows of logits; 0: FIXTURE_SEQUENCES */
    const char *pages;  /* file of the base's pages, made when absent; NULL: from the folder */
    base_place base;    /* AUTO: resident */
    activation_mode activations; /* AUTO: keep */
    int slots;
} fixture_options;

typedef struct fixture {
    model_config config;
    weights w;
    peft_adapter peft;
    lora_spec spec;
    decoder *d;
    program *programs[RUN_COUNT];
    backend *b;
    plan *plan;
    engine *e;
    generate_shape shape;
    cache pages;
    bool pages_open;
} fixture;

static inline void fixture_record(fixture *f, const fixture_options *o) {
    f->shape = (generate_shape){FIXTURE_ROWS, FIXTURE_SEQUENCES, FIXTURE_CACHE,
                                o->selected ? o->selected : FIXTURE_SEQUENCES};
    assert_ok(decoder_record_train(f->d, &f->programs[RUN_TRAIN], FIXTURE_ROWS));
    assert_ok(decoder_record_evaluate(f->d, &f->programs[RUN_EVALUATE], FIXTURE_ROWS, true));
    assert_ok(decoder_record_evaluate(f->d, &f->programs[RUN_REFERENCE], FIXTURE_ROWS, false));
    assert_ok(decoder_record_generate(f->d, &f->programs[RUN_GENERATE], &f->shape, true));
    assert_ok(decoder_record_norm(f->d, &f->programs[RUN_NORM]));
    assert_ok(decoder_record_update(f->d, &f->programs[RUN_UPDATE]));
}

static inline void fixture_adapter(fixture *f, const fixture_options *o) {
    if (o->adapter) {
        assert_ok(peft_open(&f->peft, o->adapter));
        assert_ok(lora_spec_from_peft(&f->spec, &f->config, &f->peft));
    } else if (o->lora) {
        assert_ok(lora_spec_make(&f->spec, &f->config, o->lora));
    }
}

static inline void fixture_pages(fixture *f, const fixture_options *o) {
    if (!file_exists(o->pages)) assert_ok(base_pages_write(&f->w, f->d, o->pages, NULL));
    assert_ok(base_pages_open(&f->pages, o->pages, &f->w, f->d));
    base_pages_place(&f->pages, f->d, f->plan);
    f->pages_open = true;
}

static inline void fixture_engine(fixture *f, const fixture_options *o) {
    plan_policy policy = {.activations = o->activations ? o->activations : ACTIVATIONS_KEEP,
                          .base = o->base ? o->base : BASE_RESIDENT,
                          .slots = o->slots,
                          .disk_possible = o->pages != NULL};
    const program *const *programs = (const program *const *)f->programs;
    assert_ok(plan_make(&f->plan, f->b, &f->d->table, programs, RUN_COUNT, &policy, NULL));
    if (o->pages) fixture_pages(f, o);
    assert_ok(engine_open(&f->e, f->b, f->plan, o->pages ? &f->pages.file : NULL));
    assert_ok(engine_zero_class(f->e, MEM_OPTIMIZER));
    assert_ok(engine_zero_class(f->e, MEM_GRADIENT));
    assert_ok(decoder_load_tables(f->d, f->e));
    if (o->pages)
        assert_ok(base_pages_load(&f->pages, f->d, f->plan, f->e, NULL));
    else
        assert_ok(weights_load_base(&f->w, f->d, f->e, NULL));
    if (o->adapter)
        assert_ok(lora_load(f->d, f->e, &f->peft));
    else if (o->lora)
        assert_ok(lora_initialize(f->d, f->e, 7));
}

/* The CPU's, or where the test is built with OP_TEST_CUDA the card's. */
static inline status fixture_back_end(backend **out) {
#ifdef OP_TEST_CUDA
    return backend_cuda_open(out);
#else
    return backend_cpu_open(out, 0);
#endif
}

/* For what takes minutes there; run/cuda.py drives the whole program instead. */
static inline void skip_on_emulator(void) {
#ifdef OP_TEST_EMULATED
    skip();
#endif
}

static inline void fixture_open(fixture *f, const fixture_options *o) {
    memset(f, 0, sizeof *f);
    assert_ok(fixture_back_end(&f->b));
    assert_ok(model_config_open(&f->config, o->folder));
    assert_ok(weights_open(&f->w, o->folder, &f->config));
    fixture_adapter(f, o);
    decoder_options d = {.compute = o->compute,
                         .quantize = o->quantize,
                         .nested = o->nested,
                         .stored = f->w.any_stored ? f->w.stored : NULL,
                         .tied = f->w.tied,
                         .lora = f->spec.modules ? &f->spec : NULL,
                         .training = o->training,
                         .optimizer_bits = o->optimizer_bits ? o->optimizer_bits : 32,
                         .alignment = f->b->table->alignment};
    assert_ok(decoder_open(&f->d, &f->config, &d));
    fixture_record(f, o);
    fixture_engine(f, o);
}

static inline void fixture_close(fixture *f) {
    engine_close(f->e);
    plan_free(f->plan);
    if (f->pages_open) cache_close(&f->pages);
    for (int i = 0; i < RUN_COUNT; i++) program_close(f->programs[i]);
    decoder_close(f->d);
    lora_spec_free(&f->spec);
    if (f->peft.json) peft_close(&f->peft);
    weights_close(&f->w);
    model_config_close(&f->config);
    f->b->table->close(f->b);
}

/* ---- documents ---- */

/* A micro-batch of documents; targets already shifted, -1 where there is none. */
typedef struct batch {
    int32_t ids[FIXTURE_ROWS], positions[FIXTURE_ROWS], targets[FIXTURE_ROWS];
    int32_t starts[FIXTURE_ROWS + 1];
    float weights[FIXTURE_ROWS];
    int64_t rows, documents, target_count;
} batch;

/* Adds a document; labels as Hugging Face's (aligned with ids, -100 ignored), NULL: all. */
static inline void batch_add(batch *b, const int32_t *ids, const int32_t *labels, int64_t n) {
    assert_true(b->rows + n <= FIXTURE_ROWS);
    for (int64_t i = 0; i < n; i++) {
        int32_t label = i + 1 == n ? -100 : labels ? labels[i + 1] : ids[i + 1];
        b->ids[b->rows] = ids[i];
        b->positions[b->rows] = (int32_t)i;
        b->targets[b->rows] = label < 0 ? -1 : label;
        b->target_count += label >= 0;
        b->rows++;
    }
    b->starts[++b->documents] = (int32_t)b->rows;
}

/* Runs train, evaluate or reference over it; returns the mean loss. */
static inline double fixture_run(fixture *f, int which, batch *b) {
    double total[2];
    for (int64_t i = 0; i < b->rows; i++)
        b->weights[i] = b->targets[i] < 0 ? 0 : 1 / (float)b->target_count;
    run_input inputs[TRAIN_INPUTS] = {
        [INPUT_IDS] = {b->ids, b->rows, 0},
        [INPUT_POSITIONS] = {b->positions, b->rows, 0},
        [INPUT_STARTS] = {b->starts, b->documents + 1, 0},
        [INPUT_TARGETS] = {b->targets, b->rows, 0xff},
        [INPUT_WEIGHTS] = {b->weights, b->rows, 0},
    };
    run_args args = {
        .rows = b->rows, .documents = b->documents, .micro = UINT64_MAX, .inputs = inputs};
    assert_ok(decoder_clear_total(f->d, f->e));
    assert_ok(engine_run(f->e, which, &args));
    assert_ok(decoder_read_sums(f->d, f->e, total, NULL));
    assert_true(total[1] == (double)b->target_count);
    return total[0] / total[1];
}

/* Log-probabilities of the targets, from the last evaluate run. */
static inline void fixture_logp(fixture *f, int which, const batch *b, float *logp) {
    assert_ok(engine_output(f->e, which, "logp", logp, b->rows * 4));
}

/* |got - want| / |want| over a tensor. */
static inline double relative_error(const float *got, const float *want, int64_t n) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    return sqrt(difference / size);
}

#endif
