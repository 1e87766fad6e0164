/* test_peft.c: PEFT adapters: the real library's own, round trips, what is refused. */
#include "safetensors_made.h"

/* ---- PEFT adapters ---- */

static void reads_the_real_librarys_adapters(void **state) {
    need_fixtures();
    static const char *const cases[] = {"llama-nf4-dq", "mistral-lora", "qwen2-fp4",
                                        "qwen3-packed"};
    for (int i = 0; i < 4; i++) {
        char folder[600];
        snprintf(folder, sizeof folder, FIXTURES "/expectations/peft-parity/%s/adapter0",
                 cases[i]);
        peft_adapter p;
        assert_ok(peft_open(&p, folder));
        assert_true(p.count > 0 && p.config.target_count > 0);
        const peft_module *m = peft_find(&p, "model.layers.1.self_attn.q_proj");
        assert_non_null(m);
        assert_int_equal(m->rank, p.config.r);
        assert_true(m->scale == p.config.alpha / (p.config.rslora ? sqrt((double)m->rank)
                                                                  : (double)m->rank));
        assert_null(peft_find(&p, "q_proj"));
        float *a = malloc((size_t)(m->rank * m->in) * 4);
        assert_ok(peft_read(&p, m->a, a));
        double sum = 0;
        for (int64_t k = 0; k < m->rank * m->in; k++) sum += fabs(a[k]);
        assert_true(sum > 0 && isfinite(sum));
        free(a);
        peft_close(&p);
    }
}

enum { R = 2, IN = 5, OUT = 3 };
static const float a_values[R * IN] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
static const float b_values[OUT * R] = {.5f, -1, 2, 0, 0, 1e-30f};

static status read_b(void *context, int64_t first, int64_t bytes, void *out) {
    memcpy(out, (const char *)b_values + first, (size_t)bytes);
    *(int *)context += 1;
    return STATUS_OK;
}

static status write_adapter(const char *folder, int *reads) {
    peft_config c = {
        .base_model = "some/base", .r = R, .alpha = 16, .dropout = 0.05, .rslora = true};
    named_tensor t[4] = {
        {.name = "model.layers.0.mlp.up_proj.lora_A.weight",
         .format = format_of(DTYPE_F32, R, IN),
         .data = a_values},
        {.name = "model.layers.0.mlp.up_proj.lora_B.weight",
         .format = format_of(DTYPE_F32, OUT, R),
         .read = read_b,
         .context = reads},
        {.name = "model.layers.0.self_attn.q_proj.lora_B.weight",
         .format = format_of(DTYPE_F32, OUT, R),
         .data = b_values},
        {.name = "model.layers.0.self_attn.q_proj.lora_A.weight",
         .format = format_of(DTYPE_F32, R, IN),
         .data = a_values},
    };
    return peft_write(folder, &c, t, 4);
}

static void adapters_round_trip(void **state) {
    int reads = 0;
    assert_ok(write_adapter(scratch("adapter/deep"), &reads));
    assert_int_equal(reads, 1);
    peft_adapter p;
    assert_ok(peft_open(&p, scratch("adapter/deep")));
    assert_int_equal(p.count, 2);
    assert_int_equal(p.config.target_count, 2);
    assert_string_equal(p.config.targets[0], "q_proj");
    assert_string_equal(p.config.targets[1], "up_proj");
    assert_string_equal(p.config.base_model, "some/base");
    assert_true(p.config.rslora && p.config.dropout == 0.05);
    const peft_module *m = peft_find(&p, "model.layers.0.mlp.up_proj");
    assert_non_null(m);
    assert_true(m->in == IN && m->out == OUT && m->rank == R && m->scale == 16 / sqrt(2.0));
    float a[R * IN], b[OUT * R];
    assert_ok(peft_read(&p, m->a, a));
    assert_ok(peft_read(&p, m->b, b));
    assert_memory_equal(a, a_values, sizeof a);
    assert_memory_equal(b, b_values, sizeof b);
    peft_close(&p);
    size_t before = mem_blocks();
    for (uint64_t k = 1, more = 1; more; k++) {
        uint64_t start = mem_count();
        mem_fail_at(k, k & 1);
        status s = write_adapter(scratch("adapter/deep"), &reads);
        more = mem_count() - start >= k;
        mem_fail_at(0, 0);
        if (more) assert_int_equal(s, STATUS_MEMORY);
        assert_int_equal(mem_blocks(), before);
    }
    for (uint64_t k = 1, more = 1; more; k++) {
        uint64_t start = mem_count();
        mem_fail_at(k, k & 1);
        status s = peft_open(&p, scratch("adapter/deep"));
        more = mem_count() - start >= k;
        mem_fail_at(0, 0);
        if (s == STATUS_OK) peft_close(&p);
        if (more) assert_int_equal(s, STATUS_MEMORY);
        assert_int_equal(mem_blocks(), before);
    }
}

/* An adapter folder whose config is the good one with `change` (a JSON object) laid over it.
 */
static const char *changed_adapter(const char *change) {
    int reads;
    const char *folder = scratch("changed");
    assert_ok(write_adapter(folder, &reads));
    json_t *config, *more;
    assert_ok(
        json_read_file(scratch("changed/adapter_config.json"), 1 << 20, STATUS_DATA, &config));
    assert_ok(json_read_text(change, strlen(change), "change", STATUS_DATA, &more));
    json_object_update(config, more);
    char *text = json_write_text(config, 0);
    put_text(scratch("changed/adapter_config.json"), text);
    mem_free(text);
    json_decref(config);
    json_decref(more);
    return folder;
}

static void refuse_adapter(const char *change, const char *part) {
    peft_adapter p;
    assert_fails(peft_open(&p, changed_adapter(change)), STATUS_MODEL, part);
}

static void what_is_not_plain_lora_is_refused(void **state) {
    refuse_adapter("{\"use_dora\":true}", "use_dora");
    refuse_adapter("{\"modules_to_save\":[\"lm_head\"]}", "modules_to_save");
    refuse_adapter("{\"bias\":\"all\"}", "bias");
    refuse_adapter("{\"lora_bias\":true}", "lora_bias");
    refuse_adapter("{\"trainable_token_indices\":[1]}", "trainable_token_indices");
    refuse_adapter("{\"layer_replication\":[[0,1]]}", "layer_replication");
    refuse_adapter("{\"target_parameters\":[\"w\"]}", "target_parameters");
    refuse_adapter("{\"fan_in_fan_out\":true}", "fan_in_fan_out");
    refuse_adapter("{\"init_lora_weights\":\"pissa_niter_4\"}", "pissa");
    refuse_adapter("{\"peft_type\":\"IA3\"}", "peft_type");
    refuse_adapter("{\"peft_type\":null}", "peft_type");
    refuse_adapter("{\"task_type\":\"SEQ_CLS\"}", "task_type");
    refuse_adapter("{\"r\":0}", "\"r\"");
    refuse_adapter("{\"r\":\"8\"}", "\"r\"");
    refuse_adapter("{\"r\":3}", "rank 2");
    refuse_adapter("{\"lora_dropout\":1.5}", "lora_dropout");
    refuse_adapter("{\"target_modules\":[\"v_proj\",\"up_proj\"]}",
                   "not among target_modules");
    refuse_adapter("{\"target_modules\":[\"roj\",\"up_proj\"]}", "not among target_modules");
    refuse_adapter("{\"target_modules\":[3]}", "target_modules");
    refuse_adapter("{\"target_modules\":{}}", "target_modules");
    refuse_adapter("{\"rank_pattern\":{\".*proj\":2}}", "plain module names");
    refuse_adapter("{\"rank_pattern\":{\"q_proj\":4}}", "rank_pattern says 4");
    refuse_adapter("{\"rank_pattern\":{\"q_proj\":1e19}}", "rank_pattern says 1e+19");
    refuse_adapter("{\"rank_pattern\":{\"q_proj\":2.5}}", "rank_pattern says 2.5");
    refuse_adapter("{\"alpha_pattern\":{\"q_proj\":\"4\"}}", "must be a number");
}

static void patterns_and_targets(void **state) {
    peft_adapter p;
    assert_ok(peft_open(&p, changed_adapter("{\"r\":64,\"rank_pattern\":{\"up_proj\":2,\"self_"
                                            "attn.q_proj\":2},\"use_rslora\":false,"
                                            "\"alpha_pattern\":{\"^model.layers.0.mlp.up_"
                                            "proj\":6,\"proj\":99,\"up_proj\":1}}")));
    assert_true(peft_find(&p, "model.layers.0.mlp.up_proj")->scale == 3);
    assert_true(peft_find(&p, "model.layers.0.self_attn.q_proj")->scale == 8);
    peft_close(&p);
    assert_ok(peft_open(
        &p, changed_adapter("{\"target_modules\":\"all-linear\",\"some_future_key\":true}")));
    assert_string_equal(p.config.target_pattern, "all-linear");
    peft_close(&p);
    assert_ok(peft_open(&p, changed_adapter("{\"target_modules\":null,\"task_type\":null}")));
    peft_close(&p);
}

static void wrong_keys_are_refused(void **state) {
    static const struct {
        const char *name, *part;
    } cases[] = {
        {"model.model.layers.0.q_proj.lora_A.weight", "is not base_model.model"},
        {"base_model.model.q_proj.lora_A.default.weight", "is not base_model.model"},
        {"base_model.model.q_proj.lora_magnitude_vector", "is not base_model.model"},
        {"base_model.model..lora_A.weight", "is not base_model.model"},
        {"base_model.model.lora_A.weight", "is not base_model.model"},
        {"base_model.model.q_proj.lora_A.weight", "only one of"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        changed_adapter("{}");
        char header[300], data[16] = {0};
        snprintf(header, sizeof header,
                 "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}",
                 cases[i].name);
        assert_int_equal(
            rename(make(header, data, 16), scratch("changed/adapter_model.safetensors")), 0);
        peft_adapter p;
        assert_fails(peft_open(&p, scratch("changed")), STATUS_MODEL, cases[i].part);
    }
    peft_adapter p;
    unlink(scratch("changed/adapter_model.safetensors"));
    assert_fails(peft_open(&p, scratch("changed")), STATUS_MODEL, "is missing");
    put_text(scratch("changed/adapter_model.bin"), "x");
    assert_fails(peft_open(&p, scratch("changed")), STATUS_MODEL, "safe_serialization");
}

static void bf16_adapters_are_widened(void **state) {
    int reads;
    assert_ok(write_adapter(scratch("adapter16"), &reads));
    static const char header[] = "{\"base_model.model.q_proj.lora_A.weight\":{\"dtype\":"
                                 "\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                                 "\"base_model.model.q_proj.lora_B.weight\":{\"dtype\":"
                                 "\"F16\",\"shape\":[1,2],\"data_offsets\":[12,16]}}";
    static const uint16_t data[8] = {0x3f80, 0xbf80, 0x4000, 0x4040,
                                     0x4080, 0x40a0, 0x3c00, 0xc000};
    assert_int_equal(
        rename(make(header, data, 16), scratch("adapter16/adapter_model.safetensors")), 0);
    peft_adapter p;
    float a[6], b[2];
    assert_ok(peft_open(&p, scratch("adapter16")));
    assert_ok(peft_read(&p, p.modules[0].a, a));
    assert_ok(peft_read(&p, p.modules[0].b, b));
    static const float want[6] = {1, -1, 2, 3, 4, 5};
    assert_memory_equal(a, want, sizeof a);
    assert_true(b[0] == 1 && b[1] == -2);
    peft_close(&p);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_real_librarys_adapters),
        cmocka_unit_test(adapters_round_trip),
        cmocka_unit_test(what_is_not_plain_lora_is_refused),
        cmocka_unit_test(patterns_and_targets),
        cmocka_unit_test(wrong_keys_are_refused),
        cmocka_unit_test(bf16_adapters_are_widened),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
