/* test_faults_memory.c: row 4 of the fault table. Every verb of the program does a tiny job
 * with its k-th allocation failing, once and from then on, for every k (NIBBLE_FULL=1) or a
 * spread of them. It ends with "out of memory" or, where that is a warning (saving, metrics),
 * as if nothing had happened; no block of memory is left, no unfinished file has a final name,
 * and the same command works afterwards. What libraries allocate by themselves is outside. */
#include "autograd/backend.h"
#include "common/json.h"
#include "common/log.h"
#include "tiny_folder.h"
#include "trainer/verbs/help.h"
#include "trainer/verbs/verbs.h"

#include <ctype.h>
#include <fcntl.h>

/* Measuring takes a quarter of a second: it has a test of its own. */
status __real_backend_measure(backend *b, dtype compute, backend_rates *rates);
status __wrap_backend_measure(backend *b, dtype compute, backend_rates *rates);
status __wrap_backend_measure(backend *b, dtype compute, backend_rates *rates) {
    *rates = (backend_rates){.gemm_flops = 1e10, .copy_bytes = 1e10, .host_bytes = 1e10};
    return STATUS_OK;
}

/* ---- a command, its output kept in files ---- */

typedef struct job {
    const char *arguments[14]; /* after the program's name, up to a NULL */
    const char *fresh;         /* a file or folder that is removed before */
    const char *from;          /* a folder that `fresh` is then copied from, or NULL */
    const char *results[3];    /* files that are whole or absent afterwards, up to a NULL */
    bool repeat;               /* afterwards the same command, with --resume, must work */
} job;

static status (*const verbs[VERB_COUNT])(const command *) = {
    [VERB_TRAIN] = verb_train,       [VERB_PLAN] = verb_plan,
    [VERB_CHECK] = verb_check,       [VERB_EVAL] = verb_eval,
    [VERB_GENERATE] = verb_generate, [VERB_EXPORT] = verb_export,
    [VERB_QUANTIZE] = verb_quantize, [VERB_INSPECT] = verb_inspect,
    [VERB_TOKENIZE] = verb_tokenize,
};

static status answer(const command *c) {
    if (c->action == ACTION_RUN) return verbs[c->verb](c);
    char *text = help_text(c);
    if (!text) return STATUS_MEMORY;
    fputs(text, stdout);
    mem_free(text);
    return STATUS_OK;
}

static status run(const char *const *arguments, const char *more) {
    char *argv[18] = {(char *)"train"};
    int argc = 1;
    for (; arguments[argc - 1]; argc++) argv[argc] = (char *)arguments[argc - 1];
    if (more) argv[argc++] = (char *)more;
    command c;
    status s = options_parse(argc, argv, &c);
    if (s != STATUS_OK) return s;
    s = answer(&c);
    options_free(&c);
    return s;
}

/* Runs it with standard output in `out`, standard error (warnings) in a file of its own, and
 * standard input from the file "stdin". */
static status run_quietly(const char *const *arguments, const char *more, const char *out) {
    fflush(stdout);
    int kept[3],
        ours[3] = {open("stdin", O_RDONLY), open(out, O_WRONLY | O_CREAT | O_TRUNC, 0666),
                   open("stderr", O_WRONLY | O_CREAT | O_TRUNC, 0666)};
    for (int i = 0; i < 3; i++) {
        kept[i] = dup(i);
        assert_true(kept[i] >= 0 && ours[i] >= 0);
        dup2(ours[i], i);
    }
    clearerr(stdin), fflush(stdin);
    log_quiet(true);
    status s = run(arguments, more);
    log_quiet(false);
    fflush(stdout);
    for (int i = 0; i < 3; i++) {
        dup2(kept[i], i);
        close(kept[i]), close(ours[i]);
    }
    return s;
}

/* ---- files before and after ---- */

static void copy_tree(const char *from, const char *to) {
    char text[1000];
    snprintf(text, sizeof text, "cp -r %s %s", from, to);
    assert_int_equal(system(text), 0);
}

static void prepare(const job *j) {
    if (j->fresh) scratch_remove(j->fresh);
    if (j->from) copy_tree(j->from, j->fresh);
}

static const char *result_name(const job *j, int i, bool reference) {
    static char text[2][300];
    snprintf(text[reference], sizeof text[0], "%s%s", reference ? "reference/" : "",
             j->results[i]);
    return text[reference];
}

static void keep_reference(const job *j) {
    scratch_remove("reference");
    for (int i = 0; j->results[i]; i++) {
        char folder[300];
        snprintf(folder, sizeof folder, "%s", result_name(j, i, true));
        *strrchr(folder, '/') = 0;
        assert_ok(file_make_directories(folder));
        copy_tree(result_name(j, i, false), folder);
    }
}

static bool same_file(const char *a, const char *b) {
    size_t n, m;
    char *x = get_file(a, &n), *y = get_file(b, &m);
    bool same = n == m && !memcmp(x, y, n);
    free(x), free(y);
    return same;
}

/* Equal but for numbers: times differ. */
static bool same_words(const char *a, const char *b) {
    size_t n, m;
    char *x = get_file(a, &n), *y = get_file(b, &m), *p = x, *q = y;
    bool same = true;
    while (same && (*p || *q)) {
        same = (isdigit(*p) != 0) == (isdigit(*q) != 0) && (isdigit(*p) || *p == *q);
        bool number = isdigit(*p);
        do p += *p != 0;
        while (number && strchr("0123456789.e-+", *p) && *p);
        do q += *q != 0;
        while (number && strchr("0123456789.e-+", *q) && *q);
    }
    free(x), free(y);
    return same;
}

static int unfinished;
static int count_unfinished(const char *path, const struct stat *st, int kind,
                            struct FTW *where) {
    size_t n = strlen(path);
    unfinished += n > 4 && !strcmp(path + n - 4, ".tmp");
    return 0;
}

/* ---- the loop ---- */

typedef struct tally {
    int runs, refused, tolerated, repeated;
} tally;

static void check_one(const job *j, status s, uint64_t k, bool always, size_t blocks) {
    const char *name = j->arguments[0];
    if (s != STATUS_OK && (s != STATUS_MEMORY || !*status_message()))
        fail_msg("%s, allocation %d%s: status %d, \"%s\"", name, (int)k, always ? "+" : "", s,
                 status_message());
    if (mem_blocks() != blocks)
        fail_msg("%s, allocation %d%s: %d blocks are left (status %d, %s)", name, (int)k,
                 always ? "+" : "", (int)(mem_blocks() - blocks), s, status_message());
    if (s == STATUS_OK && !same_words("output", "expected"))
        fail_msg("%s, allocation %d%s: other output", name, (int)k, always ? "+" : "");
    for (int i = 0; j->results[i]; i++) {
        const char *path = result_name(j, i, false);
        if (s != STATUS_OK && !file_exists(path)) continue;
        if (!same_file(path, result_name(j, i, true)))
            fail_msg("%s, allocation %d%s: %s differs", name, (int)k, always ? "+" : "", path);
    }
    unfinished = 0;
    if (j->fresh) nftw(".", count_unfinished, 16, FTW_PHYS);
    if (unfinished)
        fail_msg("%s, allocation %d%s: %d unfinished files", name, (int)k, always ? "+" : "",
                 unfinished);
}

static void check_repeat(const job *j, uint64_t k) {
    bool train = !strcmp(j->arguments[0], "train");
    if (run_quietly(j->arguments, train ? "--resume" : NULL, "output") != STATUS_OK)
        fail_msg("%s after allocation %d: %s", j->arguments[0], (int)k, status_message());
    for (int i = 0; j->results[i]; i++)
        if (!same_file(result_name(j, i, false), result_name(j, i, true)))
            fail_msg("%s after allocation %d: %s differs", j->arguments[0], (int)k,
                     j->results[i]);
}

static void fail_each(const job *j, tally *t) {
    prepare(j);
    if (run_quietly(j->arguments, NULL, "expected") != STATUS_OK)
        fail_msg("%s: %s", j->arguments[0], status_message());
    keep_reference(j);
    size_t blocks = mem_blocks();
    prepare(j);
    uint64_t count = mem_count();
    assert_ok(run_quietly(j->arguments, NULL, "output"));
    count = mem_count() - count;
    uint64_t stride = (uint64_t)trials((int)(count / 24 + 1), 1);
    for (int always = 0; always < 2; always++)
        for (uint64_t k = 1 + (uint64_t)always * (stride / 2); k <= count; k += stride) {
            prepare(j);
            mem_fail_at(k, always);
            status s = run_quietly(j->arguments, NULL, "output");
            mem_fail_at(0, 0);
            check_one(j, s, k, always, blocks);
            t->runs++;
            t->refused += s == STATUS_MEMORY;
            t->tolerated += s == STATUS_OK;
            if (!j->repeat || t->runs % trials(8, 16)) continue;
            check_repeat(j, k);
            t->repeated++;
        }
    print_message("  %-8s %-28s %5d allocations\n", j->arguments[0],
                  j->arguments[1] ? j->arguments[1] : "", (int)count);
}

static void fail_all(const job *jobs, size_t count) {
    tally t = {0};
    for (size_t i = 0; i < count; i++) fail_each(&jobs[i], &t);
    print_message("%d runs: %d refused cleanly, %d went on; %d repeated\n", t.runs, t.refused,
                  t.tolerated, t.repeated);
}

#define JOBS(list) fail_all(list, sizeof list / sizeof *list)

/* ---- the jobs ---- */

#define TRAIN           "train", "--config", "config.yaml", "--threads", "1"
#define EXPORT          "export", "--config", "config.yaml", "--adapter", "kept", "--out", "merged"
#define ASK             "--prompt", "ab", "--raw", "--max-new-tokens", "3"
#define JSON            "--format", "json"
#define ADAPTER(folder) folder "/adapter_model.safetensors", folder "/adapter_config.json"

static void row04_allocations_of_training(void **unused) {
    static const job jobs[] = {
        {.arguments = {TRAIN, "save_total_limit=1"},
         .fresh = "out",
         .results = {ADAPTER("out")},
         .repeat = true},
        {.arguments = {TRAIN}, .fresh = "out", .from = "kept", .results = {ADAPTER("out")}},
        {.arguments = {TRAIN, "--resume"}, /* from step 1 */
         .fresh = "out",
         .from = "half",
         .results = {ADAPTER("out")}},
        {.arguments = {TRAIN, "memory.base=disk", "optimizer=paged_adamw_8bit",
                       "memory.activations=offload"},
         .fresh = "out",
         .results = {ADAPTER("out")},
         .repeat = true},
        {.arguments = {TRAIN, "datasets.0.path=chats.jsonl", "datasets.0.type=alpaca",
                       "sequence_len=256", "generate_samples=true", "sample_packing=true",
                       "generation_max_new_tokens=3"},
         .fresh = "out",
         .results = {ADAPTER("out")}},
    };
    JOBS(jobs);
}

static void row04_allocations_of_full_training(void **unused) {
    static const job jobs[] = {
        {.arguments = {"train", "--config", "full.yaml", "--threads", "1"},
         .fresh = "whole",
         .results = {"whole/model/model.safetensors", "whole/model/config.json"},
         .repeat = true}};
    put_text("full.yaml", "base_model: base\noutput_dir: whole\ndatasets:\n"
                          "  - path: rows.jsonl\n    type:\nsequence_len: 16\n"
                          "micro_batch_size: 2\ngradient_accumulation_steps: 1\n"
                          "max_steps: 1\nlearning_rate: 0.01\nbf16: false\n");
    JOBS(jobs);
}

static void row04_allocations_of_results(void **unused) {
    static const job jobs[] = {
        {.arguments = {EXPORT},
         .fresh = "merged",
         .results = {"merged/model.safetensors", "merged/config.json"},
         .repeat = true},
        {.arguments = {EXPORT, "--base", "dequantized"},
         .fresh = "merged",
         .results = {"merged/model.safetensors", "merged/config.json"}},
        {.arguments = {EXPORT, "--kind", "merged-4bit"},
         .fresh = "merged",
         .results = {"merged/model.safetensors", "merged/config.json"}},
        {.arguments = {"export", "--config", "config.yaml", "base_model=wide", "--adapter",
                       "kept-wide", "--out", "merged", "--shard-size", "1000000"},
         .fresh = "merged",
         .results = {"merged/model.safetensors.index.json", "merged/config.json"}},
        {.arguments = {EXPORT, "--kind", "adapter"},
         .fresh = "merged",
         .results = {ADAPTER("merged")}},
        {.arguments = {"quantize", "--config", "config.yaml", "--out", "q/base.h5"},
         .fresh = "q",
         .results = {"q/base.h5", "q/base.h5.json"},
         .repeat = true},
    };
    JOBS(jobs);
}

static void row04_allocations_of_questions(void **unused) {
    static const job jobs[] = {
        {.arguments = {"eval", "--model", "base", "--adapter", "kept", "--data", "rows.jsonl",
                       "--logprobs", "p.jsonl"}},
        {.arguments = {"eval", "--config", "config.yaml", "--adapter", "kept", JSON}},
        {.arguments = {"generate", "--model", "base", "--adapter", "kept", ASK}},
        {.arguments = {"generate", "--model", "base", ASK, JSON}},
        {.arguments = {"plan", "--config", "config.yaml"}},
        {.arguments = {"plan", "--config", "config.yaml", "memory.base=host", JSON}},
        {.arguments = {"check", "--config", "config.yaml", "--show", "2"}},
        {.arguments = {"check", "--config", "config.yaml", "--show", "2", JSON}},
        {.arguments = {"inspect", "base"}},
        {.arguments = {"inspect", "kept"}},
        {.arguments = {"inspect", "kept/checkpoints"}},
        {.arguments = {"inspect", "--config", "config.yaml", "--program"}},
        {.arguments = {"inspect", "--config", "config.yaml", "--program", JSON}},
        {.arguments = {"tokenize", "--model", "base"}},
        {.arguments = {"--keys"}},
        {.arguments = {"train", "--help"}},
    };
    JOBS(jobs);
}

static void row04_allocations_of_measuring(void **unused) {
    backend *b;
    backend_rates rates;
    assert_ok(backend_cpu_open(&b, 1));
    size_t blocks = mem_blocks();
    for (int always = 0; always < 2; always++)
        for (uint64_t k = 1;; k++) {
            uint64_t before = mem_count();
            mem_fail_at(k, always);
            status s = __real_backend_measure(b, DTYPE_F32, &rates);
            bool reached = mem_count() - before >= k;
            mem_fail_at(0, 0);
            assert_int_equal(s, reached ? STATUS_MEMORY : STATUS_OK);
            assert_int_equal(mem_blocks(), blocks);
            if (!reached) break;
        }
    b->table->close(b);
}

/* ---- set-up ---- */

/* The jobs' folder, with `kept` (a finished run) and `half` (one that stopped at step 1). */
static int open_folder(void **state) {
    static const char *const train[] = {TRAIN, NULL};
    if (scratch_open(state) || chdir(scratch_root)) return -1;
    tiny_folder_write();
    tiny_model_write("wide", TINY_WIDE);
    put_text("stdin", "\"abc\"\n\"x y\"\n");
    assert_ok(run_quietly(train, NULL, "output"));
    copy_tree("out", "kept");
    scratch_remove("out");
    assert_ok(run_quietly(train, "base_model=wide", "output"));
    copy_tree("out", "kept-wide");
    scratch_remove("out");
    copy_tree("kept", "out");
    copy_tree("out", "half");
    static const char *const later[] = {
        "half/summary.json", "half/adapter_model.safetensors", "half/adapter_config.json",
        "half/checkpoints/step-000002.json", "half/checkpoints/step-000002.h5"};
    for (int i = 0; i < 5; i++) assert_ok(file_unlink(later[i]));
    return 0;
}

static int close_folder(void **state) {
    return chdir("/") || scratch_close(state);
}

int main(void) {
    setenv("HF_HUB_CACHE", "/nonexistent", 1);
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row04_allocations_of_training),
        cmocka_unit_test(row04_allocations_of_full_training),
        cmocka_unit_test(row04_allocations_of_results),
        cmocka_unit_test(row04_allocations_of_questions),
        cmocka_unit_test(row04_allocations_of_measuring),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
