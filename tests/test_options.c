/* test_options.c: the command line: verbs, options, overrides, what is missing, nearest names,
 * help and completion. */
#include "common/alloc.h"
#include "common/json.h"
#include "scratch.h"
#include "trainer/verbs/help.h"
#include "trainer/verbs/options.h"
#include "trainer/verbs/schema.h"

#include <stdio.h>

static status parse_words(command *c, char **words) {
    int n = 0;
    while (words[n]) n++;
    return options_parse(n, words, c);
}
#define PARSE(c, ...) parse_words(c, (char *[]){"train", ##__VA_ARGS__, NULL})

static void expect_error(char **words, const char *part) {
    command c;
    status s = parse_words(&c, words);
    if (s != STATUS_USAGE || !strstr(status_message(), part))
        fail_msg("%s ...: status %d, \"%s\"; wanted \"%s\"", words[1], s,
                 s ? status_message() : "", part);
    assert_null(strchr(status_message(), '\n'));
}
#define REFUSED(part, ...) expect_error((char *[]){"train", __VA_ARGS__, NULL}, part)

static void training(void **state) {
    command c;
    assert_ok(PARSE(&c, "--config", "a.yaml"));
    assert_int_equal(c.verb, VERB_TRAIN);
    assert_int_equal(c.action, ACTION_RUN);
    assert_string_equal(c.config_path, "a.yaml");
    assert_int_equal(c.override_count, 0);
    assert_false(c.resume);
    assert_int_equal(c.device, DEVICE_AUTO);
    options_free(&c);

    assert_ok(PARSE(&c, "a.yml", "lora_r=8", "--resume", "memory.base=disk", "--device=cpu",
                    "--threads", "2", "--quiet"));
    assert_int_equal(c.verb, VERB_TRAIN);
    assert_string_equal(c.config_path, "a.yml");
    assert_int_equal(c.override_count, 2);
    assert_string_equal(c.overrides[1], "memory.base=disk");
    assert_true(c.resume && c.quiet);
    assert_int_equal(c.device, DEVICE_CPU);
    assert_int_equal(c.threads, 2);
    options_free(&c);

    assert_ok(PARSE(&c, "lora_r=8", "a.yaml")); /* no verb before an override */
    assert_int_equal(c.verb, VERB_TRAIN);
    options_free(&c);
    assert_ok(PARSE(&c, "train", "--config=odd name", "--overwrite", "--device", "cuda"));
    assert_string_equal(c.config_path, "odd name");
    assert_int_equal(c.device, DEVICE_CUDA);
    options_free(&c);
}

static void other_verbs(void **state) {
    command c;
    assert_ok(PARSE(&c, "check", "--config", "a.yaml", "--show", "3", "--format", "json"));
    assert_int_equal(c.verb, VERB_CHECK);
    assert_int_equal(c.show, 3);
    assert_int_equal(c.format, FORMAT_JSON);
    options_free(&c);
    assert_ok(PARSE(&c, "eval", "--model", "m", "--adapter", "a", "--data", "d.jsonl",
                    "--logprobs", "l.jsonl", "sequence_len=64"));
    assert_string_equal(c.logprobs, "l.jsonl");
    assert_int_equal(c.override_count, 1);
    options_free(&c);
    assert_ok(PARSE(&c, "get", "org/name", "--include", "*.json", "--include=a,b", "--revision",
                    "v1", "--dataset", "--list"));
    assert_string_equal(c.path, "org/name");
    assert_string_equal(c.revision, "v1");
    assert_int_equal(c.include.count, 2);
    assert_string_equal(c.include.items[1], "a,b");
    assert_true(c.dataset && c.list);
    options_free(&c);
    assert_ok(PARSE(&c, "get", "a.yaml", "seed=3"));
    assert_string_equal(c.config_path, "a.yaml");
    assert_int_equal(c.override_count, 1);
    options_free(&c);
    assert_ok(PARSE(&c, "generate", "--model", "m", "--prompt", "-5 + 3 =", "--temperature",
                    "0.7", "--top-k", "40", "--top-p=0.9", "--seed", "7", "--max-new-tokens",
                    "12"));
    assert_string_equal(c.prompt, "-5 + 3 =");
    assert_true(c.temperature == 0.7 && c.top_p == 0.9);
    assert_int_equal(c.top_k, 40);
    assert_int_equal(c.seed, 7);
    assert_int_equal(c.max_new_tokens, 12);
    options_free(&c);
    assert_ok(PARSE(&c, "generate", "--model", "m"));
    assert_true(c.temperature == 0 && c.top_p == 1 && c.seed == -1 && c.max_new_tokens == -1);
    options_free(&c);
    assert_ok(PARSE(&c, "export", "--config", "a.yaml", "--out", "o", "--base", "dequantized",
                    "--kind", "adapter", "--shard-size", "2GB"));
    assert_int_equal(c.base, EXPORT_DEQUANTIZED);
    assert_int_equal(c.kind, EXPORT_ADAPTER);
    assert_int_equal(c.shard_size, 2000000000);
    options_free(&c);
    assert_ok(PARSE(&c, "export", "--config", "a.yaml", "--out", "o", "--kind=merged-4bit"));
    assert_int_equal(c.kind, EXPORT_MERGED_4BIT);
    options_free(&c);
    assert_ok(PARSE(&c, "inspect", "some/folder"));
    assert_string_equal(c.path, "some/folder");
    assert_null(c.config_path);
    options_free(&c);
    assert_ok(PARSE(&c, "inspect", "a.yaml", "--program", "lora_target_modules=[q_proj]"));
    assert_string_equal(c.config_path, "a.yaml");
    assert_true(c.program);
    options_free(&c);
    assert_ok(PARSE(&c, "tokenize", "--model", "m", "--no-special", "--decode"));
    assert_true(c.no_special && c.decode);
    options_free(&c);
    assert_ok(PARSE(&c, "quantize", "--model", "m", "--out", "q.h5"));
    options_free(&c);
    assert_ok(PARSE(&c, "inspect", "--", "--odd"));
    assert_string_equal(c.path, "--odd");
    options_free(&c);
}

static void mistakes(void **state) {
    REFUSED("did you mean --resume?", "a.yaml", "--resum");
    REFUSED("did you mean --config?", "--confg", "a.yaml");
    REFUSED("did you mean generate?", "generat", "--model", "m");
    REFUSED("did you mean eval?", "evla");
    REFUSED("neither a verb nor a .yaml file", "frobnicate");
    REFUSED("does not belong to the verb tokenize", "tokenize", "--model", "m", "--resume");
    REFUSED("one word too many", "a.yaml", "b.yaml");
    REFUSED("given twice", "--config", "a.yaml", "--config", "b.yaml");
    REFUSED("--config needs a value", "--config");
    REFUSED("takes no value", "a.yaml", "--resume=yes");
    REFUSED("must be one of auto|cpu|cuda", "a.yaml", "--device", "gpu");
    REFUSED("must be one of auto|cpu|cuda", "a.yaml", "--device", "l40s"); /* plan's alone */
    REFUSED("auto, cpu, cuda or one of rtx-3090", "plan", "a.yaml", "--device", "gpu");
    REFUSED("whole number", "check", "a.yaml", "--show", "x");
    REFUSED("from 0 to 1", "generate", "--model", "m", "--top-p", "2");
    REFUSED("two dashes", "a.yaml", "-r");
    REFUSED("choose one", "a.yaml", "--resume", "--overwrite");
    REFUSED("must not be empty", "--config", "");
    REFUSED("train --config FILE", "--resume");
    REFUSED("train plan --config FILE", "plan");
    REFUSED("--model DIR --data FILE", "eval", "--model", "m");
    REFUSED("--config FILE or --model DIR", "generate");
    REFUSED("--model DIR --adapter DIR", "export", "--model", "m", "--out", "o");
    REFUSED("export needs --out", "export", "--config", "a.yaml");
    REFUSED("inspect needs a path", "inspect");
    REFUSED("--program needs --config", "inspect", "folder", "--program");
    REFUSED("tokenize needs --model", "tokenize");
    REFUSED("get needs ORG/NAME", "get");
    REFUSED("get needs ORG/NAME", "get", "org/m", "--config", "a.yaml");
    REFUSED("one word too many", "get", "org/m", "org/n");
    REFUSED("no --dataset", "get", "a.yaml", "--include", "*");
    REFUSED("one or the other", "eval", "--model", "m", "--config", "a.yaml");
    REFUSED("must be bash", "--completion", "fish");
}

/* Every verb's help names each of its options, and no line is endless. */
static void help(void **state) {
    for (int v = 0; v < VERB_COUNT; v++) {
        command c;
        assert_ok(PARSE(&c, (char *)options_verbs[v].name, "-h"));
        assert_int_equal(c.action, ACTION_HELP);
        char *page = help_text(&c);
        assert_non_null(strstr(page, options_verbs[v].doc));
        for (size_t i = 0; i < options_count; i++) {
            char name[64];
            snprintf(name, sizeof name, "\n  --%s", options_table[i].name);
            bool there = strstr(page, name) != NULL;
            if (!there && options_table[i].verbs & 1u << v)
                fail_msg("%s --help lacks %s", options_verbs[v].name, name + 3);
        }
        for (const char *line = page; *line; line += strcspn(line, "\n") + 1)
            assert_true(strcspn(line, "\n") <= 120);
        mem_free(page);
        options_free(&c);
    }
    command c;
    assert_ok(PARSE(&c));
    assert_int_equal(c.action, ACTION_HELP);
    char *page = help_text(&c);
    for (int v = 0; v < VERB_COUNT; v++) assert_non_null(strstr(page, options_verbs[v].name));
    mem_free(page);
    options_free(&c);
    assert_ok(PARSE(&c, "help", "eval"));
    assert_int_equal(c.verb, VERB_EVAL);
    options_free(&c);
    assert_ok(PARSE(&c, "--version"));
    page = help_text(&c);
    assert_string_equal(page, "nibble " NIBBLE_VERSION "\n");
    mem_free(page);
    options_free(&c);
    assert_ok(PARSE(&c, "--keys"));
    assert_int_equal(c.action, ACTION_KEYS);
    options_free(&c);
}

/* The script is run by bash itself, as the shell would for a half-typed line. */
static void complete(const char *script, const char *words, const char *current,
                     const char *expected) {
    const char *runner = scratch("run.sh");
    FILE *f = fopen(runner, "w");
    fprintf(
        f,
        "compopt() { :; }\n%s\nCOMP_WORDS=(train %s \"%s\")\n"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_nibble_train\necho \" ${COMPREPLY[*]} \"\n",
        script, words, current);
    fclose(f);
    char shell[600], out[32768] = "";
    snprintf(shell, sizeof shell, "bash %s 2>&1", runner);
    FILE *p = popen(shell, "r");
    size_t n = fread(out, 1, sizeof out - 1, p);
    out[n] = '\0';
    assert_int_equal(pclose(p), 0);
    char wanted[128];
    snprintf(wanted, sizeof wanted, " %s ", expected);
    if (!strstr(out, wanted))
        fail_msg("train %s %s: no %s in%s", words, current, expected, out);
}

static void completion(void **state) {
    char *script = help_completion();
    assert_non_null(script);
    if (system("bash --version > /dev/null 2>&1")) {
        mem_free(script);
        print_message("skipped: no bash here\n");
        skip();
    }
    complete(script, "", "gen", "generate");
    complete(script, "check --config x.yaml", "--sh", "--show");
    complete(script, "", "--res", "--resume");
    complete(script, "a.yaml", "lora_al", "lora_alpha=");
    complete(script, "a.yaml", "memory.a", "memory.activations=");
    complete(script, "a.yaml memory.base =", "di", "disk");
    complete(script, "a.yaml sample_packing", "=", "true false");
    complete(script, "a.yaml --device", "c", "cpu cuda");
    complete(script, "export --base", "", "original dequantized");
    mem_free(script);
}

static void nothing_leaks(void **state) {
    size_t before = mem_blocks();
    command c;
    assert_int_equal(PARSE(&c, "a.yaml", "--nonsense"), STATUS_USAGE);
    mem_fail_at(1, 0);
    assert_int_equal(PARSE(&c, "a.yaml"), STATUS_MEMORY);
    mem_fail_at(0, 0);
    for (int k = 1; k < 20; k++) {
        mem_fail_at((uint64_t)k, 1);
        char *page = help_keys();
        mem_fail_at(0, 0);
        assert_true(page == NULL || k > 5);
        mem_free(page);
    }
    assert_int_equal(mem_blocks(), before);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training),   cmocka_unit_test(other_verbs),
        cmocka_unit_test(mistakes),   cmocka_unit_test(help),
        cmocka_unit_test(completion), cmocka_unit_test(nothing_leaks),
    };
    return cmocka_run_group_tests_name("options", tests, scratch_open, scratch_close);
}
