/* fuzz_model.c: config.json, NUL, generation_config.json. What is accepted keeps the promises
 * of model_config.h and is taken as far as a plan: adapters on all linears, the programs of a
 * training run, every address; a plan that does not fit is refused. Nothing has the size of
 * the model's weights: memory stays that of the program, whatever the file promises. */
#include "autograd/planner.h"
#include "fuzz.h"
#include "trainer/model/decoder.h"

static backend *cpu;

enum { ROWS = 64, RANK = 8, BUDGET = 1 << 30, DEEP = 12 };

static void check_promises(const model_config *c) {
    fuzz_require(c->layers >= 1 && c->layers <= 512 && c->kv_heads >= 1);
    fuzz_require(c->hidden >= 1 && c->hidden <= 1 << 20);
    fuzz_require(c->feed_forward >= 1 && c->feed_forward <= 1 << 20);
    fuzz_require(c->vocab >= 1 && c->vocab <= 1 << 24);
    fuzz_require(c->heads % c->kv_heads == 0 && c->head_dim % 2 == 0 && c->head_dim <= 256);
    for (int32_t l = 0; l < c->layers; l++) fuzz_require(c->windows[l] >= 0);
    for (int32_t i = 0; i < c->head_dim / 2; i++)
        fuzz_require(c->inv_freq[i] - c->inv_freq[i] == 0);
    for (int i = 0; i < c->eos_count; i++)
        fuzz_require(c->eos[i] >= 0 && c->eos[i] < c->vocab);
    fuzz_require(model_config_parameters(c, c->tied) > 0);
}

/* The programs of a run: train, gradient norm, update. */
static status record_run(const decoder *d, program *programs[3]) {
    TRY(decoder_record_train(d, &programs[0], ROWS));
    TRY(decoder_record_norm(d, &programs[1]));
    return decoder_record_update(d, &programs[2]);
}

static void make_plan(const decoder *d) {
    program *programs[3] = {NULL, NULL, NULL};
    plan *p = NULL;
    plan_policy policy = {
        .device_budget = BUDGET, .host_budget = BUDGET, .disk_possible = true};
    unsigned codes = MAY_FAIL(STATUS_MODEL) | MAY_FAIL(STATUS_MEMORY);
    if (fuzz_succeeds(record_run(d, programs), codes)) {
        status s =
            plan_make(&p, cpu, &d->table, (const program *const *)programs, 3, &policy, NULL);
        if (fuzz_succeeds(s, codes)) {
            fuzz_require(p->device_bytes <= BUDGET && p->host_bytes <= BUDGET);
            plan_free(p);
        }
    }
    for (int i = 0; i < 3; i++) program_close(programs[i]);
}

static void use(const model_config *c) {
    lora_spec lora;
    lora_request request = {.every_linear = true, .rank = RANK, .alpha = 16};
    decoder *d = NULL;
    check_promises(c);
    if (!fuzz_succeeds(model_config_check_length(c, ROWS), MAY_FAIL(STATUS_USAGE))) return;
    fuzz_require(lora_spec_make(&lora, c, &request) == STATUS_OK);
    decoder_options options = {.compute = DTYPE_F32,
                               .quantize = DTYPE_NF4,
                               .nested = true,
                               .tied = c->tied,
                               .lora = &lora,
                               .training = TRAIN_ADAPTERS,
                               .optimizer_bits = 8,
                               .alignment = cpu->table->alignment};
    if (fuzz_succeeds(decoder_open(&d, c, &options),
                      MAY_FAIL(STATUS_MODEL) | MAY_FAIL(STATUS_USAGE)) &&
        c->layers <= DEEP) /* placing is quadratic in layers: 1 s for 128, 14 s for 512 */
        make_plan(d);
    decoder_close(d);
    lora_spec_free(&lora);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    fuzz_require(backend_cpu_open(&cpu, 1) == STATUS_OK);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part part[2];
    model_config c;
    fuzz_blocks before = fuzz_begin();
    fuzz_cut(data, size, part, 2);
    fuzz_write("m/config.json", part[0].text, part[0].bytes);
    const char *more = fuzz_write("m/generation_config.json", part[1].text, part[1].bytes);
    if (!part[1].bytes) remove(more);
    if (fuzz_succeeds(model_config_open(&c, fuzz_path("m")), MAY_FAIL(STATUS_MODEL))) {
        use(&c);
        model_config_close(&c);
    }
    fuzz_end(before);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
    return fuzz_mutate(data, size, room, seed, 0);
}
