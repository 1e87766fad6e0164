/* fuzz_adapter.c: adapter_config.json, NUL, adapter_model.safetensors: a PEFT folder. What is
 * accepted is read as numbers and matched with a small model. */
#include "checkpoints/peft.h"
#include "fuzz.h"
#include "trainer/model/lora_spec.h"

static model_config model;

static const char small[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 32, \"hidden_size\": 8,"
    "\"intermediate_size\": 16, \"num_hidden_layers\": 2,"
    "\"num_attention_heads\": 2}";

static void read_matrix(const peft_adapter *p, const safetensors_entry *e) {
    fuzz_require(e->elements <= p->weights.file.size);
    float *values = mem_alloc_array((size_t)e->elements, sizeof *values, "an adapter");
    fuzz_require(values && peft_read(p, e, values) == STATUS_OK);
    mem_free(values);
}

static void use(const peft_adapter *p) {
    lora_spec lora;
    for (size_t i = 0; i < p->count; i++) {
        const peft_module *m = &p->modules[i];
        fuzz_require(peft_find(p, m->name) == m && m->rank >= 1 && m->scale - m->scale == 0);
        fuzz_require(m->a->elements == m->rank * m->in && m->b->elements == m->rank * m->out);
        read_matrix(p, m->a);
        read_matrix(p, m->b);
    }
    if (fuzz_succeeds(lora_spec_from_peft(&lora, &model, p), MAY_FAIL(STATUS_MODEL)))
        lora_spec_free(&lora);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    json_t *json;
    fuzz_setup();
    fuzz_require(json_read_text(small, strlen(small), "small", STATUS_MODEL, &json) ==
                 STATUS_OK);
    fuzz_require(model_config_read(&model, json, NULL, "small") == STATUS_OK);
    json_decref(json);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part part[2];
    peft_adapter p;
    fuzz_blocks before = fuzz_begin();
    fuzz_cut(data, size, part, 2);
    fuzz_write("a/adapter_config.json", part[0].text, part[0].bytes);
    fuzz_write("a/adapter_model.safetensors", part[1].text, part[1].bytes);
    if (fuzz_succeeds(peft_open(&p, fuzz_path("a")), MAY_FAIL(STATUS_MODEL))) {
        use(&p);
        peft_close(&p);
    }
    fuzz_end(before);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
    return fuzz_mutate(data, size, room, seed, 0);
}
