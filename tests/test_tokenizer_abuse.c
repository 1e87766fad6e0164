/* test_tokenizer_abuse.c: what a tokenizer must survive: folders and hostile files, failed
 * allocations, threads, worst cases. */
#include "made_tokenizer.h"

/* ---- folders and hostile files ---- */

static void test_config(void **state) {
    const char *folder =
        folder_with("config", "{\"added_tokens\":[{\"id\":2,\"content\":\"<s>\",\"special\":"
                              "true}],\"post_processor\":{\"type\":"
                              "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
                              "\"<s>\",\"type_id\":0}},{\"Sequence\":"
                              "{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{"
                              "\"<s>\":{\"id\":\"<s>\",\"ids\":[2],"
                              "\"tokens\":[\"<s>\"]}}},\"model\":{\"type\":\"BPE\",\"vocab\":{"
                              "\"a\":0,\"b\":1},\"merges\":[]}}");
    char path[700];
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    put_text(path, "{\"bos_token\":{\"content\":\"<s>\",\"lstrip\":false},\"eos_token\":\"</"
                   "s>\",\"add_bos_token\":false,"
                   "\"model_max_length\":1000000000000000019884624838656,\"additional_special_"
                   "tokens\":[\"b\"],"
                   "\"added_tokens_decoder\":{\"3\":{\"content\":\"</"
                   "s>\",\"special\":true},\"2\":{\"content\":\"<s>\","
                   "\"special\":true}},\"chat_template\":[{\"name\":\"other\",\"template\":"
                   "\"no\"},{\"name\":"
                   "\"default\",\"template\":\"{{ x }}\"}]}");
    snprintf(path, sizeof path, "%s/special_tokens_map.json", folder);
    put_text(path, "{\"eos_token\":\"a\",\"pad_token\":\"nowhere\",\"unk_token\":\"a\"}");
    tokenizer *t;
    assert_ok(tokenizer_open(&t, folder));
    assert_int_equal(tokenizer_bos(t), 2);
    assert_int_equal(tokenizer_eos(t), 3);
    assert_int_equal(tokenizer_pad(t), -1);
    assert_int_equal(tokenizer_unk(t), 0);
    assert_true(tokenizer_adds_bos(t)); /* tokenizer.json decides, as in transformers 5 */
    assert_true(tokenizer_is_special(t, 1));
    assert_int_equal(tokenizer_size(t), 4);
    assert_string_equal(tokenizer_chat_template(t), "{{ x }}");
    EXPECT(t, "a</s>", TOKENIZER_ADD_SPECIAL, 2, 0, 3);
    tokenizer_close(t);
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    put_text(path, "from the file");
    assert_ok(tokenizer_open(&t, folder));
    assert_string_equal(tokenizer_chat_template(t), "from the file");
    tokenizer_close(t);
}

static void test_missing_files(void **state) {
    tokenizer *t;
    const char *folder = scratch_folder("older");
    char path[700];
    assert_fails(tokenizer_open(&t, folder), STATUS_MODEL, "no tokenizer.json");
    snprintf(path, sizeof path, "%s/tokenizer.model", folder);
    put_text(path, "x");
    assert_fails(tokenizer_open(&t, folder), STATUS_MODEL, "save_pretrained");
    assert_fails(
        tokenizer_open(
            &t, folder_with("pointer", "version https://git-lfs.github.com/spec/v1\noid x\n")),
        STATUS_MODEL, "Git-LFS");
    assert_null(t);
}

#define MODEL(rest) "{\"model\":{\"type\":\"BPE\"," rest "}}"
#define WITH(rest)                                                                            \
    "{" rest ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}"
#define ADDED(rest) WITH("\"added_tokens\":[" rest "]")

static void row08_hostile_files(void **state) {
    static const struct {
        const char *json, *why;
    } rows[] = {
        {"[]", "model"},
        {"{", "tokenizer.json:1"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"},
        {MODEL("\"vocab\":[]"), "vocab must be an object"},
        {MODEL("\"vocab\":{\"a\":0}"), "merges must be a list"},
        {MODEL("\"vocab\":{\"a\":-1},\"merges\":[]"), "no usable id"},
        {MODEL("\"vocab\":{\"a\":\"0\"},\"merges\":[]"), "no usable id"},
        {MODEL("\"vocab\":{\"a\":16777216},\"merges\":[]"), "no usable id"},
        {MODEL("\"vocab\":{\"a\":16777215},\"merges\":[]"), "vocabulary of 1 tokens"},
        {MODEL("\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]"), "same id 0"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a a\"]"), "merges[0]"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"aa\"]"), "one space"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]"), "one space"},
        {MODEL("\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",[\"a\",\"a\"]]"),
         "merges[1]"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]"), "two strings"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[7]"), "two strings"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1"), "dropout"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\""),
         "end_of_word_suffix"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"##\""),
         "subword_prefix"},
        {MODEL("\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":1"), "byte_fallback"},
        {ADDED("{\"id\":2}"), "content"},
        {ADDED("{\"content\":\"x\"}"), "no usable id"},
        {ADDED("{\"id\":1e9,\"content\":\"x\"}"), "no usable id"},
        {ADDED("{\"id\":7,\"content\":\"x\"}"), "says that its id is 7"},
        {ADDED("{\"id\":1,\"content\":\"a\"}"), "says that its id is 1"},
        {ADDED("{\"id\":2,\"content\":\"x\",\"lstrip\":\"yes\"}"), "lstrip"},
        {ADDED("7"), "no usable id"},
        {WITH("\"normalizer\":{\"type\":\"BertNormalizer\"}"), "BertNormalizer"},
        {WITH("\"normalizer\":{\"type\":\"Precompiled\"}"), "Precompiled"},
        {WITH("\"normalizer\":{\"type\":\"Prepend\"}"), "prepend"},
        {WITH("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":"
              "\"\"}"),
         "not empty"},
        {WITH("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":"
              "\"\"}"),
         "parenthesis"},
        {WITH("\"normalizer\":7"), "\"\" is not supported"},
        {WITH("\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}"), "BertPreTokenizer"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"}}"),
         "behavior"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},"
              "\"behavior\":\"Odd\"}"),
         "Odd"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}"),
         "one character"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_"
              "scheme\":\"odd\"}"),
         "odd"},
        {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"),
         "text A once"},
        {WITH(
             "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"x\",-5],\"sep\":[]}"),
         "unusable"},
        {WITH("\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"x\",7],\"sep\":"
              "[\"b\",1]}"),
         "adds the id 7, which is not in the vocabulary"},
        {WITH("\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":"
              "[\"x\",2]}"),
         "adds the id 2"},
        {WITH("\"decoder\":{\"type\":\"WordPiece\"}"), "WordPiece"},
        {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\"ab\"}"), "one character"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tokenizer *t;
        size_t before = mem_blocks();
        status s = tokenizer_open(&t, folder_with("hostile", rows[i].json));
        if (s != STATUS_MODEL || !strstr(status_message(), rows[i].why))
            fail_msg("%s: status %d, \"%s\"", rows[i].json, s, s ? status_message() : "");
        assert_null(t);
        assert_int_equal(mem_blocks(), before);
    }
}

/* Sequences in sequences, and lists in lists, to no end. */
static void row08_deep_nesting(void **state) {
    static const char *const sections[][2] = {{"normalizer", "normalizers"},
                                              {"pre_tokenizer", "pretokenizers"},
                                              {"post_processor", "processors"},
                                              {"decoder", "decoders"}};
    enum { DEPTH = 500 };
    char *json = malloc(DEPTH * 64 + 4096);
    tokenizer *t;
    for (int k = 0; k < 4; k++) {
        char *p = json + sprintf(json, "{\"%s\":", sections[k][0]);
        for (int i = 0; i < DEPTH; i++)
            p += sprintf(p, "{\"type\":\"Sequence\",\"%s\":[", sections[k][1]);
        for (int i = 0; i < DEPTH; i++) p += sprintf(p, "]}");
        sprintf(p, ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}");
        assert_fails(tokenizer_open(&t, folder_with("deep", json)), STATUS_MODEL,
                     "nested too deep");
    }
    memset(json, '[', DEPTH * 64);
    json[DEPTH * 64] = 0;
    assert_fails(tokenizer_open(&t, folder_with("deep", json)), STATUS_MODEL, "depth");
    free(json);
}

/* A real file that ends early is refused at once. */
static void test_truncated_file(void **state) {
    need_fixtures();
    size_t bytes;
    char *json = get_file(FIXTURES "/tokenizers/qwen2_5/tokenizer.json", &bytes);
    double start = seconds();
    for (int i = 1; i < 4; i++) {
        char path[700];
        tokenizer *t;
        snprintf(path, sizeof path, "%s/tokenizer.json", scratch_folder("cut"));
        put_file(path, json, bytes / 4 * (size_t)i);
        assert_fails(tokenizer_open(&t, scratch("cut")), STATUS_MODEL, "tokenizer.json:");
    }
    assert_true(seconds() - start < 20);
    free(json);
}

/* ---- resources ---- */

/* Uses every kind of stage. */
static const char all_stages[] =
    "{\"added_tokens\":[{\"id\":9,\"content\":\"<x>\",\"special\":true},{\"id\":10,"
    "\"content\":\"B\"}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":"
    "\"Lowercase\"},{\"type\":"
    "\"Replace\",\"pattern\":{\"Regex\":\"q+\"},\"content\":\"a\"},{\"type\":\"Strip\","
    "\"strip_left\":false,"
    "\"strip_right\":true}]},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
    "\"type\":\"Split\","
    "\"pattern\":{\"Regex\":\"\\\\d+\"},\"behavior\":\"MergedWithNext\",\"invert\":false},{"
    "\"type\":\"ByteLevel\","
    "\"add_prefix_space\":true}]},\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":["
    "\"x\",1],\"cls\":[\"y\",2]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},{\"type\":"
    "\"Replace\",\"pattern\":"
    "{\"String\":\" "
    "\"},\"content\":\"_\"},{\"type\":\"Fuse\"}]},\"model\":{\"type\":\"BPE\",\"vocab\":{"
    "\"a\":0,"
    "\"b\":1,\"\\u0120\":2,\"aa\":3,\"\\u0120a\":4,\"1\":5,\"\\u00c3\":6,\"\\u00a9\":7,"
    "\"aaaa\":8},\"merges\":"
    "[\"a a\",\"\\u0120 a\",\"aa aa\"]}}";

static status use_once(const char *folder) {
    tokenizer *t;
    static const char text[] =
        "aQQ B e\xCC\x81 11 <x> "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ";
    id_list ids = {0};
    char *out = NULL;
    TRY(tokenizer_open(&t, folder));
    status s = tokenizer_encode(t, text, strlen(text), TOKENIZER_ADD_SPECIAL, &ids);
    if (s == STATUS_OK) s = tokenizer_decode(t, ids.items, ids.count, false, &out, NULL);
    mem_free(out);
    mem_free(ids.items);
    tokenizer_close(t);
    return s;
}

/* Every allocation fails once: a clean refusal, nothing left behind. */
static void test_failed_allocations(void **state) {
    const char *folder = folder_with("memory", all_stages);
    assert_ok(use_once(folder));
    size_t before = mem_blocks(), bytes = mem_used();
    uint64_t count = mem_count();
    assert_ok(use_once(folder));
    count = mem_count() - count;
    assert_true(count > 50);
    for (uint64_t k = 1; k <= count; k++) {
        mem_fail_at(k, false);
        status s = use_once(folder);
        mem_fail_at(0, false);
        /* the JIT's stack may be missing: PCRE2 then uses the machine's */
        if (s != STATUS_MEMORY && s != STATUS_OK)
            fail_msg("allocation %d: status %d", (int)k, s);
        assert_int_equal(mem_blocks(), before);
        assert_int_equal(mem_used(), bytes);
    }
}

typedef struct job {
    const tokenizer *t;
    const char *text;
    size_t bytes;
    int rounds;
    id_list ids;
    status s;
} job;

static void *run_job(void *context) {
    job *j = context;
    for (int i = 0; i < j->rounds && j->s == STATUS_OK; i++) {
        j->ids.count = 0;
        j->s = tokenizer_encode(j->t, j->text, j->bytes, 0, &j->ids);
    }
    return NULL;
}

static void test_threads(void **state) {
    need_fixtures();
    tokenizer *t;
    size_t bytes;
    char *text = get_file(FIXTURES "/datasets/tinyshakespeare.txt", &bytes);
    assert_ok(tokenizer_open(&t, FIXTURES "/tokenizers/qwen2_5"));
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    job jobs[THREADS] = {0};
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job){.t = t, .text = text, .bytes = 50000, .rounds = 20};
        assert_int_equal(pthread_create(&threads[i], NULL, run_job, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(jobs[i].s, STATUS_OK);
        assert_int_equal(jobs[i].ids.count, jobs[0].ids.count);
        assert_memory_equal(jobs[i].ids.items, jobs[0].ids.items,
                            jobs[0].ids.count * sizeof(int32_t));
    }
    for (int i = 0; i < THREADS; i++) mem_free(jobs[i].ids.items);
    tokenizer_close(t);
    free(text);
}

/* A million of something (in the long form ten times as much: the time is to be linear), on a
 * stack of 256 KiB, within two seconds of processor time a megabyte. */
static void worst_case(const tokenizer *t, const char *unit) {
    enum { STACK = 256 << 10 };
    size_t n = strlen(unit), bytes = (size_t)trials(1000000, 10000000) / n * n;
    char *text = malloc(bytes);
    for (size_t i = 0; i < bytes; i += n) memcpy(text + i, unit, n);
    job j = {.t = t, .text = text, .bytes = bytes, .rounds = 1};
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK);
    double start = seconds();
    assert_int_equal(pthread_create(&thread, &small, run_job, &j), 0);
    pthread_join(thread, NULL);
    double took = seconds() - start;
    pthread_attr_destroy(&small);
    assert_int_equal(j.s, STATUS_OK);
    if (took > 2 * SLOWER * (double)bytes / 1e6)
        fail_msg("%zu bytes of \"%s\" took %.2f s", bytes, unit, took);
    mem_free(j.ids.items);
    free(text);
}

static void row08_worst_cases(void **state) {
    static const char *const folders[] = {"llama3_2", "mistral7b_v0.1", "qwen2_5", "gemma2",
                                          "gpt2"};
    static const char *const units[] = {"a",
                                        " ",
                                        "\xE4\xB8\xAD",
                                        "\xF0\x9F\x91\xA9\xE2\x80\x8D",
                                        "\xCC\x81\xCC\xA3",
                                        "\xE1\x84\x92\xE1\x85\xA1",
                                        " \n",
                                        "<|im_start|",
                                        "etaoin shrdlu"};
    need_fixtures();
    for (int f = 0; f < trials(3, 5); f++) {
        char path[600];
        tokenizer *t;
        snprintf(path, sizeof path, FIXTURES "/tokenizers/%s", folders[f]);
        assert_ok(tokenizer_open(&t, path));
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) worst_case(t, units[i]);
        tokenizer_close(t);
    }
}

/* Backtracking without end is given up, not waited for. */
static void row08_a_pattern_gives_up(void **state) {
    tokenizer *t = open_text(
        WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+x\"},"
             "\"behavior\":\"Isolated\",\"invert\":false}"));
    char text[4001];
    memset(text, 'a', 4000);
    strcpy(text + 3998, "!x"); /* the x keeps PCRE2 from seeing at once that nothing matches */
    id_list ids = {0};
    assert_fails(tokenizer_encode(t, text, 4000, 0, &ids), STATUS_DATA, "gave up");
    mem_free(ids.items);
    tokenizer_close(t);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_missing_files),
        cmocka_unit_test(row08_hostile_files),
        cmocka_unit_test(row08_deep_nesting),
        cmocka_unit_test(test_truncated_file),
        cmocka_unit_test(test_failed_allocations),
        cmocka_unit_test(row08_a_pattern_gives_up),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(row08_worst_cases),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, scratch_open, scratch_close);
}
