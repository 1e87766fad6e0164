/* test_dialect.c: files that were written for another tool: every one of its keys, a whole
 * file, names that people bring along; the files and the page of keys that the project ships;
 * the local Hugging Face cache. */
#include "common/json.h"
#include "config_words.h"
#include "trainer/verbs/help.h"
#include "trainer/verbs/hub.h"
#include "trainer/verbs/nearest.h"

/* A file as that tool's own examples write them: empty values, keys without effect here. */
static void a_file_of_the_dialect(void **state) {
    static const char words[] =
        "base_model: org/Llama-8B\nmodel_type: LlamaForCausalLM\ntokenizer_type: "
        "AutoTokenizer\n"
        "load_in_8bit: false\nload_in_4bit: true\nstrict: false\n\nchat_template: llama3\n"
        "plugins:\n  - axolotl.integrations.liger.LigerPlugin\n"
        "  - axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin\nliger_rope: true\n"
        "datasets:\n  - path: org/rows\n    type: chat_template\n    split: train[:10%]\n"
        "    field_messages: conversations\n    message_field_role: from\n"
        "    message_property_mappings:\n      content: value\n"
        "    roles:\n      user: [human, user]\n      assistant:\n        - gpt\n"
        "dataset_prepared_path:\nval_set_size: 0.05\noutput_dir: ./outputs/lora-out\n"
        "sequence_len: 4096\nsample_packing: true\npad_to_sequence_len: true\n"
        "adapter: lora\nlora_model_dir:\nlora_r: 32\nlora_alpha: 16\nlora_dropout: 0.05\n"
        "lora_target_modules:\n  - q_proj\n  - v_proj\nlora_fan_in_fan_out:\nwandb_project: "
        "w\n"
        "wandb_entity:\ngradient_accumulation_steps: 4\nmicro_batch_size: 2\nnum_epochs: 4\n"
        "optimizer: adamw_bnb_8bit\nlr_scheduler: cosine\nlearning_rate: 0.0002\nbf16: auto\n"
        "fp16:\ntf32: false\ngradient_checkpointing: true\n"
        "gradient_checkpointing_kwargs:\n  use_reentrant: false\nresume_from_checkpoint:\n"
        "logging_steps: 1\nflash_attention: true\nwarmup_steps: 10\nevals_per_epoch: 4\n"
        "eval_max_new_tokens: 128\nsaves_per_epoch: 1\ndebug:\ndeepspeed:\nfsdp:\n"
        "weight_decay: 0.0\nspecial_tokens:\n   pad_token: <|end_of_text|>\n";
    config c;
    assert_ok(load_words(words, &c));
    assert_int_equal(c.adapter, ADAPTER_QLORA); /* lora on a 4-bit base */
    assert_true(config_optimizer_8bit(&c));
    assert_int_equal(c.lora_target_modules.count, 2);
    assert_int_equal(c.memory.activations, CONFIG_ACTIVATIONS_RECOMPUTE);
    assert_int_equal(c.eval_sample_packing, SWITCH_ON);
    assert_string_equal(c.special_tokens.pad_token, "<|end_of_text|>");
    assert_null(c.lora_model_dir);
    const dataset_config *d = &c.datasets.items[0];
    assert_int_equal(d->message_property_mappings.count, 2);
    assert_string_equal(d->message_property_mappings.items[1].value, "from");
    assert_null(d->message_field_role);
    assert_int_equal(d->roles.items[0].values.count, 2);
    assert_string_equal(d->roles.items[1].values.items[0], "gpt");
    char *line = config_ignored_line(&c);
    assert_non_null(strstr(line, "model_type, tokenizer_type"));
    assert_non_null(strstr(line, "pad_to_sequence_len"));
    assert_non_null(strstr(line, "plugins"));
    assert_null(strstr(line, "strict"));       /* false changes nothing */
    assert_null(strstr(line, "wandb_entity")); /* not set */
    mem_free(line);
    config_free(&c);
}

/* Every key of the dialect, where it belongs, with its default and with an odd value:
 * accepted, or refused for a reason, never unknown. */
static void write_placed(const char *where, const char *key, const char *value, char *out,
                         size_t size) {
    const char *outer = !strcmp(where, "PretrainingDataset") ? "pretraining_dataset:\n  - "
                        : !strcmp(where, "QATConfig")        ? "qat:\n    "
                        : !strcmp(where, "PTQConfig")        ? "quantization:\n    "
                        : !strcmp(where, "LoftQConfig")      ? "peft:\n  loftq_config:\n    "
                        : !strcmp(where, "SpecialTokensConfig") ? "special_tokens:\n    "
                        : !strcmp(where, "PeftConfig")          ? "peft:\n    "
                        : !strcmp(where, "UserDefinedPrompterType")
                            ? "test_datasets:\n  - path: x\n    type:\n      format: f\n      "
                        : !strcmp(where, "SFTDataset") ? "test_datasets:\n  - "
                                                       : "";
    bool path = !strcmp(where, "SFTDataset") && strcmp(key, "path");
    static const char plain[] = "base_model: m\nadapter: lora\nlora_r: 8\nlora_alpha: 16\n"
                                "lora_target_linear: true\nlearning_rate: 1e-4\n"
                                "datasets: [{path: rows.jsonl, type: alpaca}]\n";
    snprintf(out, size, "%s%s%s%s: %s\n", plain, outer, path ? "path: x\n    " : "", key,
             value);
}

static int try_key(const char *where, const char *key, const char *value) {
    char words[2048];
    config c;
    write_placed(where, key, value, words, sizeof words);
    status s = load_words(words, &c);
    bool twice = s && strstr(status_message(), "set twice"); /* already among the least */
    if (s == STATUS_USAGE && !twice) {
        if (strstr(status_message(), "unknown key"))
            fail_msg("%s %s: %s", where, key, status_message());
        assert_non_null(strstr(status_message(), "t.yaml"));
    } else
        assert_true(s == STATUS_OK || twice);
    config_free(&c);
    return s == STATUS_OK || twice;
}

static void every_key_of_the_dialect(void **state) {
    need_fixtures();
    size_t bytes;
    char *table = get_file(FIXTURES "/axolotl-keys.tsv", &bytes), *rest = table;
    strsep(&rest, "\n");
    int keys = 0, refused = 0;
    for (char *row; (row = strsep(&rest, "\n")) && *row; keys++) {
        const char *where = strsep(&row, "\t"), *key = strsep(&row, "\t");
        strsep(&row, "\t");
        const char *standard = strsep(&row, "\t");
        /* maps that are refused as a whole, whatever is in them; and the one key that must be
         * set */
        bool whole =
            strstr("QATConfig PTQConfig LoftQConfig PeftConfig PretrainingDataset", where);
        bool needed = !strcmp(where, "SFTDataset") && !strcmp(key, "path");
        bool empty = try_key(where, key, "");
        if (empty == (whole || needed))
            fail_msg("%s %s: not set is %s: %s", where, key, empty ? "accepted" : "refused",
                     status_message());
        refused += !try_key(where, key, "odd");
        if (strchr(standard, ':') || !strcmp(standard, "None") || !*standard || whole)
            continue;
        if (!try_key(where, key, standard))
            fail_msg("%s %s: its default %s is refused: %s", where, key, standard,
                     status_message());
    }
    assert_int_equal(keys, 492);
    assert_true(refused > 150 && refused < 350);
    free(table);
}

static void names_people_bring(void **state) {
    static const char *const pairs[][2] = {
        {"alpha", "lora_alpha"},
        {"lora_rank", "lora_r"},
        {"lr", "learning_rate"},
        {"batch", "micro_batch_size"},
        {"epochs", "num_epochs"},
        {"max_seq_length", "sequence_len"},
        {"lora_aplha", "lora_alpha"},
        {"learningrate", "learning_rate"},
        {"sample_packin", "sample_packing"},
        {"wandb_projct", "wandb_project"},
        {"gradient_accumulation_step", "gradient_accumulation_steps"},
        {"sequence_len_max", "sequence_len"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char words[1024];
        snprintf(words, sizeof words, "%s%s: 1\n", least, pairs[i][0]);
        expect_refused(words, pairs[i][1]);
        assert_non_null(strstr(status_message(), "t.yaml:10:"));
    }
    expect_wrong("datasets.0.tpye=alpaca",
                 "datasets[0].tpye: unknown key; did you mean type?");
    expect_wrong("zzz=1", "train --keys lists all");
    assert_int_equal(nearest_distance("lora_r", "lora_r"), 0);
    assert_int_equal(nearest_distance("ab", "ba"), 1);
    assert_int_equal(nearest_distance("kitten", "sitting"), 3);
}

/* configs/ holds what it says, the page of keys is current. NIBBLE_WRITE_DOCS=1 writes the
 * page. */
static void shipped_files(void **state) {
    config c;
    assert_ok(config_load(SOURCE_DIR "/configs/qlora-8b.yaml", NULL, 0, &c));
    assert_int_equal(c.adapter, ADAPTER_QLORA);
    assert_int_equal(c.ignored.count, 0);
    config_free(&c);
    assert_ok(config_load(SOURCE_DIR "/configs/qlora-70b.yaml", NULL, 0, &c));
    assert_true(config_optimizer_8bit(&c));
    config_free(&c);
    char *page = help_keys();
    assert_non_null(page);
    if (getenv("NIBBLE_WRITE_DOCS")) put_text(SOURCE_DIR "/docs/configuration.md", page);
    size_t bytes;
    char *stored = get_file(SOURCE_DIR "/docs/configuration.md", &bytes);
    if (strcmp(stored, page))
        fail_msg("docs/configuration.md is not what train --keys prints: write it anew");
    free(stored);
    mem_free(page);
}

static void parity_configurations(void **state) {
    need_fixtures();
    static const char *const cases[] = {"llama-nf4-dq", "qwen2-fp4", "qwen3-packed",
                                        "mistral-lora"};
    for (size_t i = 0; i < 4; i++) {
        char path[512];
        config c;
        snprintf(path, sizeof path, FIXTURES "/expectations/peft-parity/%s/config.yaml",
                 cases[i]);
        assert_ok(config_load(path, NULL, 0, &c));
        assert_int_equal(config_compute_precision(&c), PRECISION_FP32);
        assert_int_equal(c.adapter, i == 3 ? ADAPTER_LORA : ADAPTER_QLORA);
        assert_null(c.datasets.items[0].type);
        assert_int_equal(c.max_steps, 12);
        config_free(&c);
    }
}

static void the_local_cache(void **state) {
    const char *cache = scratch_folder("cache");
    char path[1024], *found;
#define COMMIT "0123456789abcdef0123456789abcdef01234567"
    scratch_folder("cache/models--org--m/refs");
    scratch_folder("cache/models--org--m/snapshots/" COMMIT);
    put_text(scratch("cache/models--org--m/refs/main"), COMMIT "\n");
    put_text(scratch("cache/models--org--m/refs/evil"), "../../../..");
    scratch_folder("cache/datasets--rows/snapshots/abc");
    setenv("HF_HUB_CACHE", cache, 1);

    assert_ok(hub_find_model("org/m", NULL, &found));
    assert_non_null(strstr(found, "/snapshots/" COMMIT));
    mem_free(found);
    assert_ok(hub_find_model("org/m", COMMIT, &found));
    mem_free(found);
    assert_ok(hub_find_dataset("rows", "abc", &found));
    mem_free(found);
    assert_ok(hub_find_model(cache, NULL, &found)); /* a path that exists */
    assert_string_equal(found, cache);
    mem_free(found);

    assert_fails(hub_find_model("org/m", "evil", &found), STATUS_MODEL, "--revision evil");
    assert_fails(hub_find_model("org/m", "../main", &found), STATUS_USAGE, "revision");
    assert_fails(hub_find_model("org/other", NULL, &found), STATUS_MODEL,
                 "train get org/other");
    assert_fails(hub_find_dataset("rows", NULL, &found), STATUS_DATA,
                 "train get rows --dataset");
    assert_fails(hub_find_model("org/..", NULL, &found), STATUS_MODEL, "no such folder");
    assert_fails(hub_find_model("/no/where", NULL, &found), STATUS_MODEL, "no such folder");
    assert_fails(hub_find_dataset("data/rows.jsonl", NULL, &found), STATUS_DATA,
                 "no such file or folder");
    assert_null(strstr(status_message(), "download"));

    unsetenv("HF_HUB_CACHE");
    snprintf(path, sizeof path, "%s/hub", cache);
    setenv("HF_HOME", cache, 1);
    assert_fails(hub_find_model("org/m", NULL, &found), STATUS_MODEL, path);
    unsetenv("HF_HOME");
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_of_the_dialect), cmocka_unit_test(every_key_of_the_dialect),
        cmocka_unit_test(names_people_bring),    cmocka_unit_test(shipped_files),
        cmocka_unit_test(parity_configurations), cmocka_unit_test(the_local_cache),
    };
    return cmocka_run_group_tests_name("dialect", tests, scratch_open, scratch_close);
}
