/* test_config.c: configuration files: every type, every rule between keys, hostile YAML within
 * its limits, printing, comparing, failing allocations. The dialect is test_dialect.c's
 * matter. */
#include "common/json.h"
#include "config_words.h"
#include "trainer/verbs/print.h"
#include "trainer/verbs/schema.h"
#include "data/yaml.h"

#include <sys/resource.h>
#include <time.h>

static void defaults(void **state) {
    config c;
    assert_ok(load_words(least, &c));
    assert_string_equal(c.base_model, "m");
    assert_int_equal(c.adapter, ADAPTER_QLORA);
    assert_true(c.load_in_4bit);
    assert_int_equal(c.bnb_config_kwargs.bnb_4bit_quant_type, CONFIG_NF4);
    assert_true(c.bnb_config_kwargs.bnb_4bit_use_double_quant);
    assert_true(c.learning_rate == 1e-4);
    assert_int_equal(c.max_steps, CONFIG_NOT_SET);
    assert_true(isnan(c.warmup_ratio));
    assert_true(c.num_epochs == 1 && c.adam_beta2 == 0.999 && c.adam_epsilon == 1e-8);
    assert_int_equal(c.optimizer, OPTIMIZER_ADAMW_TORCH_FUSED);
    assert_int_equal(c.lr_scheduler, SCHEDULER_COSINE);
    assert_int_equal(c.sequence_len, 512);
    assert_int_equal(c.bf16, SWITCH_AUTO);
    assert_int_equal(config_compute_precision(&c), PRECISION_AUTO);
    assert_int_equal(c.memory.activations, CONFIG_ACTIVATIONS_AUTO);
    assert_int_equal(c.memory.slots, CONFIG_NOT_SET);
    assert_int_equal(c.eval_sample_packing, SWITCH_OFF);
    assert_int_equal(c.datasets.count, 1);
    assert_string_equal(c.datasets.items[0].type, "alpaca");
    assert_int_equal(c.datasets.items[0].train_on_eot, TRAIN_ON_TURN);
    assert_string_equal(c.output_dir, "./model-out");
    assert_int_equal(c.ignored.count, 0);
    config_free(&c);
}

static void row09_values_by_type(void **state) {
    config c;
    assert_ok(LOAD(&c, "sample_packing=No", "train_on_inputs=ON", "output_dir=no",
                   "lora_r=1_6", "max_steps=1e3", "num_epochs=.5", "learning_rate=\"2e-5\"",
                   "memory.device_budget=24GB", "memory.host_budget=1.5GiB", "bf16=off",
                   "gradient_checkpointing=yes", "eot_tokens=<|im_end|>", "seed=0",
                   "warmup_steps=-1", "chat_template=null",
                   "lora_target_modules=[q_proj, v_proj]", "datasets.1.path=b.txt",
                   "datasets.1.type={field_output: a, format: '{x}'}", "val_set_size=100",
                   "weight_decay=1E-2"));
    assert_false(c.sample_packing);
    assert_true(c.train_on_inputs);
    assert_string_equal(c.output_dir, "no");
    assert_int_equal(c.lora_r, 16);
    assert_int_equal(c.max_steps, 1000);
    assert_true(c.num_epochs == 0.5 && c.learning_rate == 2e-5 && c.weight_decay == 0.01);
    assert_int_equal(c.memory.device_budget, 24000000000);
    assert_int_equal(c.memory.host_budget, 3ll << 29);
    assert_int_equal(config_compute_precision(&c), PRECISION_FP32);
    assert_string_equal(c.eot_tokens.items[0], "<|im_end|>");
    assert_int_equal(c.warmup_steps, CONFIG_NOT_SET);
    assert_null(c.chat_template);
    assert_int_equal(c.lora_target_modules.count, 2);
    assert_int_equal(c.datasets.count, 2);
    assert_true(c.datasets.items[1].type_is_mapping);
    assert_string_equal(c.datasets.items[1].prompt.format, "{x}");
    assert_true(c.val_set_size == 100);
    config_free(&c);
}

static void row09_wrong_values(void **state) {
    static const struct {
        char *override;
        const char *part;
    } cases[] = {
        {"sequence_len=0o17", "decimal"},
        {"sequence_len=017", "decimal"},
        {"sequence_len=0x10", "decimal"},
        {"sequence_len=1:30", "whole number"},
        {"sequence_len=1__0", "whole number"},
        {"sequence_len=512.5", "whole number"},
        {"sequence_len=99999999", "from 2 to 4194304"},
        {"sequence_len=1e400", "smaller number"},
        {"sequence_len=[1]", "not a list"},
        {"lora_r=0.5", "whole number"},
        {"learning_rate=fast", "must be a number"},
        {"learning_rate=nan", "must be a number"},
        {"learning_rate=1e999", "finite"},
        {"learning_rate=0", "above 0"},
        {"learning_rate=", "learning_rate is missing"},
        {"sample_packing=maybe", "true or false"},
        {"bf16=half", "true, false or auto"},
        {"optimizer=lion_8bit", "\"lion_8bit\""},
        {"lr_scheduler=rex", "constant_with_warmup"},
        {"val_set_size=1.5", "number"},
        {"adam_beta1=1", "from 0 to 0.9999999"},
        {"memory.device_budget=24G", "24GiB"},
        {"memory.device_budget=-1GB", "24GiB"},
        {"memory.base=cloud", "resident"},
        {"memory.cache=1", "unknown key"},
        {"memory=big", "memory: must be a map"},
        {"datasets=rows.jsonl", "a list of maps"},
        {"datasets=[]", "datasets is missing"},
        {"datasets.0.path=", "datasets[0].path: is missing"},
        {"datasets.0.roles={user: [[a]]}", "datasets[0].roles.user[0]"},
        {"datasets.3.path=x", "number of a list item"},
        {"datasets.x.path=x", "number of a list item"},
        {"lora_r.x=1", "has no parts"},
        {"lora_target_modules=[q_proj, ]]", "command line:1:"},
        {"base_model=", "base_model is missing"},
        {"base_model=[a]", "must be text"},
        {"eot_tokens=[a, null]", "eot_tokens[1]: must be text"},
        {"plugins=[axolotl.integrations.kd.KDPlugin]", "plugins"},
        {"base_model_config=other", "repeats base_model"},
        {"bnb_config_kwargs={llm_int8_skip_modules: [lm_head]}", "llm_int8_skip_modules"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_wrong(cases[i].override, cases[i].part);
    config c;
    assert_fails(LOAD(&c, "lora_r"), STATUS_USAGE, "key=value");
    assert_fails(LOAD(&c, "=3"), STATUS_USAGE, "key=value");
    assert_fails(LOAD(&c, "output_dir=\xff"), STATUS_USAGE, "UTF-8");
    assert_fails(config_load(scratch("absent.yaml"), NULL, 0, &c), STATUS_USAGE,
                 "absent.yaml");
    assert_ok(LOAD(&c, "base_model_config=m", "tokenizer_config=m"));
    config_free(&c);
}

/* Rules between keys: refused with a reason ... */
static void rules(void **state) {
    static const struct {
        char *a, *b;
        const char *part;
    } cases[] = {
        {"load_in_8bit=true", "load_in_4bit=false",
         "load_in_8bit=false load_in_4bit=true adapter=qlora"},
        {"load_in_4bit=false", "seed=1", "adapter: lora"},
        {"adapter=full", "load_in_4bit=true", "adapter: qlora"},
        {"adapter=", "load_in_4bit=true", "adapter: qlora"},
        {"adapter=ia3", "seed=1", "full, lora, qlora"},
        {"lora_r=", "seed=1", "rank is missing"},
        {"lora_r=0", "seed=1", "rank is missing"},
        {"lora_alpha=", "seed=1", "lora_alpha"},
        {"lora_target_linear=false", "seed=1", "no module gets an adapter"},
        {"lora_target_modules=model.*q_proj", "seed=1", "pattern"},
        {"lora_target_modules=q_proj,v_proj", "seed=1", "[q_proj, v_proj]"},
        {"lora_modules_to_save=[lm_head]", "seed=1", "lora_modules_to_save"},
        {"bf16=true", "fp16=true", "bf16 is true too"},
        {"bf16=false", "bnb_config_kwargs.bnb_4bit_compute_dtype=bfloat16", "contradicts"},
        {"bfloat16=true", "float16=true", "contradicts"},
        {"warmup_steps=5", "warmup_ratio=0.1", "remove one"},
        {"save_steps=5", "saves_per_epoch=2", "remove one"},
        {"eval_steps=5", "evals_per_epoch=2", "remove one"},
        {"eval_steps=5", "eval_strategy=no", "contradicts eval_steps"},
        {"save_strategy=steps", "seed=1", "save_steps is not set"},
        {"save_strategy=best", "seed=1", "one of auto, no, steps, epoch"},
        {"evaluation_strategy=epoch", "eval_strategy=no", "set twice"},
        {"val_set_size=0.1", "test_datasets=[{path: x}]", "test_datasets is set too"},
        {"early_stopping_patience=3", "seed=1", "nothing is evaluated"},
        {"batch_size=7", "micro_batch_size=2", "not a multiple"},
        {"datasets.0.shards_idx=1", "seed=1", "datasets[0].shards_idx: shards is not set"},
        {"datasets.0.type=alpaka", "seed=1", "datasets[0].type: \"alpaka\" does not exist"},
        {"datasets.0.type={field_output: a}", "seed=1", "datasets[0].type: a prompt"},
        {"datasets.0.split=train[:", "seed=1", "datasets[0].split: split"},
        {"test_datasets=[{path: x, ds_type: arrow}]", "seed=1", "test_datasets[0].ds_type"},
        {"chat_template=chatlm", "seed=1", "chatml"},
        {"datasets.0.chat_template=tokenizer_default_fallback_x", "seed=1",
         "datasets[0].chat_template"},
        {"datasets.0.message_field_role=a", "datasets.0.message_property_mappings={role: b}",
         "datasets[0].message_field_role: message_property_mappings.role"},
        {"datasets.0.shards=2", "datasets.0.shards_idx=2", "below shards"},
        {"rl=dpo", "seed=1", "preferences"},
        {"relora=true", "seed=1", "LoRA"},
        {"neftune_noise_alpha=5", "seed=1", "cross-entropy"},
        {"dp_shard_size=2", "seed=1", "gradient_accumulation_steps"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        config c;
        status s = LOAD(&c, cases[i].a, cases[i].b);
        if (s != STATUS_USAGE || !strstr(status_message(), cases[i].part))
            fail_msg("%s %s: status %d, \"%s\"", cases[i].a, cases[i].b, s,
                     s ? status_message() : "");
    }
}

/* ... and spellings that fold into one. */
static void folding(void **state) {
    config c;
    assert_ok(LOAD(&c, "batch_size=32", "micro_batch_size=4", "fp16=true",
                   "gradient_checkpointing=offload", "dp_shard_size=1",
                   "peft_init_lora_weights=yes"));
    assert_int_equal(c.gradient_accumulation_steps, 8);
    assert_int_equal(config_compute_precision(&c), PRECISION_FP16);
    assert_int_equal(c.bf16, SWITCH_OFF);
    assert_int_equal(c.memory.activations, CONFIG_ACTIVATIONS_OFFLOAD);
    config_free(&c);
    assert_ok(LOAD(&c, "batch_size=32", "gradient_accumulation_steps=4", "bfloat16=true",
                   "memory.activations=keep", "gradient_checkpointing=true", "warmup_steps=0",
                   "warmup_ratio=0.1",
                   "lora_target_linear=", "lora_target_modules=all-linear"));
    assert_int_equal(c.micro_batch_size, 8);
    assert_int_equal(config_compute_precision(&c), PRECISION_BF16);
    assert_int_equal(c.memory.activations, CONFIG_ACTIVATIONS_KEEP);
    assert_int_equal(config_warmup_steps(&c, 95), 9);
    assert_true(c.lora_target_linear);
    config_free(&c);
    assert_ok(LOAD(&c, "float32=true", "activation_offloading=disk",
                   "datasets.0.train_on_eos=last"));
    assert_int_equal(config_compute_precision(&c), PRECISION_FP32);
    assert_int_equal(c.memory.activations, CONFIG_ACTIVATIONS_OFFLOAD);
    assert_int_equal(c.datasets.items[0].train_on_eot, TRAIN_ON_LAST);
    config_free(&c);
    /* the way out of load_in_8bit that the message prints */
    assert_ok(LOAD(&c, "load_in_8bit=true", "adapter=lora", "load_in_8bit=false",
                   "load_in_4bit=true", "adapter=qlora"));
    config_free(&c);
}

static void intervals(void **state) {
    config c;
    assert_ok(LOAD(&c, "save_steps=0.25", "evals_per_epoch=3"));
    assert_int_equal(config_save_interval(&c, 100, 50), 25);
    assert_int_equal(config_eval_interval(&c, 100, 50), 17);
    assert_int_equal(config_warmup_steps(&c, 100), 3);
    assert_int_equal(config_warmup_steps(&c, 100000), 100);
    config_free(&c);
    assert_ok(LOAD(&c, "save_steps=7", "evals_per_epoch=0", "warmup_steps=0"));
    assert_int_equal(config_save_interval(&c, 100, 50), 7);
    assert_int_equal(config_eval_interval(&c, 100, 50), 0);
    assert_int_equal(config_warmup_steps(&c, 100), 0);
    config_free(&c);
    assert_ok(LOAD(&c, "save_strategy=no"));
    assert_int_equal(config_save_interval(&c, 100, 50), 0);
    assert_int_equal(config_eval_interval(&c, 100, 50), 50);
    config_free(&c);
}

/* Row 9 of the fault table. `fill` repeats a unit after a beginning up to 1 MiB. */
static char *fill(const char *begin, const char *unit, const char *end) {
    size_t size = TREE_FILE, unit_bytes = strlen(unit);
    char *words = malloc(size + 1);
    size_t n = (size_t)sprintf(words, "%s", begin);
    while (n + unit_bytes + strlen(end) < size)
        memcpy(words + n, unit, unit_bytes), n += unit_bytes;
    strcpy(words + n, end);
    return words;
}

static void row09_bombs(void **state) {
    static const struct {
        const char *begin, *unit, *end, *part;
    } cases[] = {
        {"a: &a [x]\n", "b: [*a,*a]\n", "", "anchors and aliases"},
        {"", "a: *b\n", "", "anchors and aliases"},
        {"a: 1\n<<: {b: 2}\n", "", "", "merge keys"},
        {"a: !!binary x\n", "", "", "tags"},
        {"a: ", "[", "", "32 levels"},
        {"", "- ", "", "32 levels"},
        {"a: ", "{a: ", "", "32 levels"},
        {"a: [", "x,", "]", "10000 values"},
        {"", "---\n", "", "second document"},
        {"a: \"", "x", "\"", "unknown key"},
        {"a: \"", "x", "", "not valid YAML"},
        {"a: >\n", "  x\n\n", "", "unknown key"},
        {"", "a", ": 1\n", "not valid YAML"},
        {"", ":", "", "not valid YAML"},
        {"", "? ", "", "plain word"},
        {"", "#", "", "no keys"},
        {"", "\n", "", "no keys"},
        {"", "%TAG !e! tag:x\n", "", "not valid YAML"},
        {"", "&a x\n", "", "anchors and aliases"},
        {"base_model: a\nlora_r: 1\nlora_r: 2\n", "", "", "t.yaml:3:1: lora_r is set twice"},
        {"datasets:\n\t- path: x\n", "", "", "t.yaml:2:1: a tab"},
        {"a: \"x\\0y\"\n", "", "", "NUL"},
        {"a: \xff\n", "", "", "UTF-8"},
        {"hello", "", "", "no keys"},
    };
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *unit = cases[i].unit;
        char *words =
            *unit ? fill(cases[i].begin, unit, cases[i].end) : strdup(cases[i].begin);
        struct timespec a, b;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        expect_refused(words, cases[i].part);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        double ms =
            (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6;
#ifndef __SANITIZE_ADDRESS__
        if (ms > 50) fail_msg("case %zu, %.20s: %.1f ms", i, cases[i].begin, ms);
#else
        (void)ms;
#endif
        free(words);
    }
    getrusage(RUSAGE_SELF, &after);
#ifndef __SANITIZE_ADDRESS__
    assert_true(after.ru_maxrss - before.ru_maxrss < 16 * 1024); /* KiB */
#endif
    config c;
    assert_fails(config_load_text("a: b\0c", 6, "t.yaml", &c), STATUS_USAGE, "NUL at byte 4");
    assert_fails(config_load_text("\xff\xfe a", 5, "t.yaml", &c), STATUS_USAGE, "UTF-16");
    char *big = malloc(TREE_FILE + 1);
    memset(big, '\n', TREE_FILE + 1);
    put_file(scratch("big.yaml"), big, TREE_FILE + 1);
    free(big);
    assert_fails(config_load(scratch("big.yaml"), NULL, 0, &c), STATUS_USAGE, "1048577 bytes");
    char words[1024];
    snprintf(words, sizeof words, "\xef\xbb\xbf%s", least); /* a UTF-8 BOM is no error */
    assert_ok(load_words(words, &c));
    config_free(&c);
}

/* 1,001 distinct keys; the walk past a million ways to be wrong must be an error, never a
 * crash. */
static void row09_too_many_keys_and_noise(void **state) {
    char *words = malloc(20000);
    size_t n = 0;
    for (int i = 0; i <= TREE_KEYS; i++) n += (size_t)sprintf(words + n, "k%d: 1\n", i);
    expect_refused(words, "1000 keys");
    static const char letters[] = "abr_: \n-[]{}\"',#&*!|>%@`\\\t0.1";
    uint64_t seed = 1;
    int rounds = trials(20000, 200000);
    for (int r = 0; r < rounds; r++) {
        n = (size_t)sprintf(words, "%s", least);
        int edits = 1 + (int)(noise(&seed) % 6);
        for (int e = 0; e < edits; e++)
            words[noise(&seed) % n] = letters[noise(&seed) % (sizeof letters - 1)];
        config c;
        status s = load_words(words, &c);
        assert_true(s == STATUS_OK || s == STATUS_USAGE);
        config_free(&c);
    }
    free(words);
}

/* A configuration with something in every field. */
static char *everything[] = {
    "revision_of_model=v1",
    "quantized_cache=c.h5",
    "special_tokens.bos_token=<s>",
    "special_tokens.eos_token=</s>",
    "special_tokens.pad_token=~",
    "special_tokens.unk_token=\"\\u2028\"",
    "special_tokens.additional_special_tokens=['<a>', 'b c', "
    "\"\\x7f\\u0085\\ufeff\\\"\\\\\\n\"]",
    "lora_target_modules=[q_proj]",
    "lora_model_dir=./a",
    "peft_use_rslora=on",
    "lora_dropout=0.1",
    "bnb_config_kwargs={bnb_4bit_quant_type: fp4, bnb_4bit_compute_dtype: bfloat16}",
    "datasets.0.type={system_prompt: s, system_format: '{system}', field_system: a, "
    "field_instruction: b, field_input: c, field_output: d, format: \"{instruction}\\n\", "
    "no_input_format: 'null'}",
    "datasets.1={path: x y, type: chat_template, name: n, split: 'train[:5%]', revision: r, "
    "ds_type: json, data_files: [a, b], field: f, field_messages: m, message_field_role: "
    "from, "
    "message_property_mappings: {content: value}, field_thinking: think, "
    "message_field_training: t, "
    "roles: {user: [human], assistant: [gpt, model]}, roles_to_train: [assistant], "
    "train_on_eos: all, train_on_eot: none, chat_template: chatml, drop_system_message: true, "
    "chat_template_jinja: a.jinja, field_tools: t, template_thinking_key: thought, "
    "message_field_training_detail: d, "
    "shards: 4, shards_idx: 1, field_instruction: q, field_output: \"true\"}",
    "test_datasets=[{path: t.jsonl, type: }]",
    "dataset_prepared_path=prep",
    "chat_template=llama3",
    "chat_template_jinja='{{ messages }}'",
    "chat_template_kwargs={enable_thinking: false, x: a}",
    "eot_tokens=['<|eot|>']",
    "train_on_inputs=true",
    "shuffle_merged_datasets=false",
    "curriculum_sampling=true",
    "group_by_length=true",
    "dataset_exact_deduplication=true",
    "excess_length_strategy=drop",
    "on_bad_row=skip",
    "sample_packing=true",
    "sample_packing_sequentially=true",
    "eval_sample_packing=false",
    "batch_size=32",
    "micro_batch_size=2",
    "num_epochs=2.5",
    "max_steps=77",
    "optimizer=paged_adamw_8bit",
    "learning_rate=0.1",
    "cosine_min_lr_ratio=0.1",
    "warmup_ratio=0.03",
    "weight_decay=0.05",
    "adam_beta1=0.85",
    "adam_epsilon=1e-7",
    "max_grad_norm=0.333333333333333314829616256247",
    "seed=9007199254740991",
    "fp16=auto",
    "tf32=true",
    "initial_loss_scale=1e30",
    "gradient_checkpointing=offload_disk",
    "activation_offloading=legacy",
    "memory={device_budget: 24GB, host_budget: 64GiB, base: disk, slots: 3, optimizer: paged}",
    "logging_steps=5",
    "eval_steps=0.5",
    "save_steps=10",
    "save_total_limit=2",
    "early_stopping_patience=3",
    "loss_watchdog_threshold=5.0",
    "loss_watchdog_patience=4",
    "resume_from_checkpoint=c/1",
    "auto_resume_from_checkpoints=true",
    "generate_samples=true",
    "sample_steps=20",
    "sample_prompts=[\"Hello, world\", 'two\n\n lines']",
    "num_generation_samples=1",
    "generation_max_new_tokens=9",
    "generation_do_sample=false",
    "generation_temperature=0.5",
    "generation_top_k=40",
    "generation_top_p=0.9",
    "strict=true",
    NULL};

static void resolved_reads_back(void **state) {
    config a, b;
    assert_ok(load_with(&a, everything));
    status s = config_load_text(a.resolved, strlen(a.resolved), "resolved", &b);
    if (s) fail_msg("%s\n%s", status_message(), a.resolved);
    json_t *ja = config_to_json(&a), *jb = config_to_json(&b);
    assert_true(json_equal(ja, jb));
    assert_string_equal(a.resolved, b.resolved);
    /* every key that is not folded away is there */
    for (size_t i = 0; i < schema_config.count; i++) {
        const field *f = &schema_config.fields[i];
        static const char *const alternatives[] = {"lora_modules_to_save", "evals_per_epoch",
                                                   "saves_per_epoch", "warmup_steps",
                                                   "val_set_size"};
        bool skipped = f->kind == FIELD_SECTION || f->flags & FIELD_FOLDED;
        for (size_t k = 0; k < sizeof alternatives / sizeof *alternatives; k++)
            skipped |= !strcmp(f->name, alternatives[k]);
        if (!skipped && !json_object_get(ja, f->name)) fail_msg("%s is lost", f->name);
    }
    assert_string_equal(b.special_tokens.additional_special_tokens.items[2],
                        "\x7f\xc2\x85\xef\xbb\xbf\"\\\n");
    assert_string_equal(b.special_tokens.unk_token, "\xe2\x80\xa8");
    assert_null(b.special_tokens.pad_token);
    assert_string_equal(b.datasets.items[0].prompt.no_input_format, "null");
    assert_string_equal(b.sample_prompts.items[1], "two\nlines");
    assert_true(a.max_grad_norm == b.max_grad_norm);
    json_decref(ja);
    json_decref(jb);
    config_free(&a);
    config_free(&b);
}

static void comparison(void **state) {
    config a, b;
    char *difference;
    assert_ok(LOAD(&a, "seed=1", "bnb_config_kwargs.bnb_4bit_quant_type=nf4"));
    assert_ok(LOAD(&b, "seed=1", "output_dir=elsewhere", "memory.base=disk", "save_steps=3",
                   "logging_steps=7", "base_model=moved", "wandb_project=x"));
    assert_ok(config_compare(&a, &b, &difference));
    assert_string_equal(difference, "");
    mem_free(difference);
    config_free(&b);
    assert_ok(LOAD(&b, "seed=2", "learning_rate=2e-4", "max_steps=5",
                   "bnb_config_kwargs.bnb_4bit_quant_type=fp4"));
    assert_ok(config_compare(&a, &b, &difference));
    assert_string_equal(difference, "bnb_config_kwargs.bnb_4bit_quant_type: nf4 -> fp4\n"
                                    "max_steps: not set -> 5\n"
                                    "learning_rate: 0.0001 -> 0.0002\n"
                                    "seed: 1 -> 2\n");
    mem_free(difference);
    config_free(&a);
    config_free(&b);
}

/* Each allocation fails once, and from then on: an error, nothing leaks. */
static void allocation_failures(void **state) {
    config c;
    size_t before = mem_blocks();
    for (int from_then_on = 0; from_then_on < 2; from_then_on++) {
        uint64_t begin = mem_count();
        assert_ok(load_with(&c, everything));
        uint64_t total = mem_count() - begin;
        config_free(&c);
        for (uint64_t k = 1; k <= total; k++) {
            mem_fail_at(k, from_then_on);
            status s = load_with(&c, everything);
            mem_fail_at(0, 0);
            if (s != STATUS_MEMORY)
                fail_msg("allocation %llu of %llu: status %d, %s", (unsigned long long)k,
                         (unsigned long long)total, s, s ? status_message() : "");
            assert_null(c.resolved);
        }
    }
    assert_int_equal(mem_blocks(), before);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(row09_values_by_type),
        cmocka_unit_test(row09_wrong_values),
        cmocka_unit_test(rules),
        cmocka_unit_test(folding),
        cmocka_unit_test(intervals),
        cmocka_unit_test(row09_bombs),
        cmocka_unit_test(row09_too_many_keys_and_noise),
        cmocka_unit_test(resolved_reads_back),
        cmocka_unit_test(comparison),
        cmocka_unit_test(allocation_failures),
    };
    return cmocka_run_group_tests_name("config", tests, scratch_open, scratch_close);
}
