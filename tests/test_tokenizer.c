/* test_tokenizer.c: the tokenizer against the real library's goldens, merging against its
 * definition, added tokens, plain text, hostile files, failed allocations, threads, worst
 * cases. */
#include "gz.h"
#include "sha256.h"

#include "data/tokenizer.h"

#include <pthread.h>
#include <time.h>

/* Sanitizers cost time. */
#ifdef __SANITIZE_ADDRESS__
enum { SLOWER = 10 };
#else
enum { SLOWER = 1 };
#endif

/* ---- helpers ---- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A folder with this tokenizer.json. */
static const char *folder_with(const char *name, const char *tokenizer_json) {
    const char *folder = scratch_folder(name);
    char path[700];
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    put_text(path, tokenizer_json);
    return folder;
}

static tokenizer *open_text(const char *tokenizer_json) {
    tokenizer *t;
    assert_ok(tokenizer_open(&t, folder_with("made", tokenizer_json)));
    return t;
}

static void expect_ids(const tokenizer *t, const char *text, unsigned flags,
                       const int32_t *ids, size_t n) {
    id_list got = {0};
    assert_ok(tokenizer_encode(t, text, strlen(text), flags, &got));
    if (got.count != n || (n && memcmp(got.items, ids, n * sizeof *ids))) {
        for (size_t i = 0; i < got.count; i++) print_error("%d ", got.items[i]);
        fail_msg("\"%s\": these %zu ids are not the %zu expected", text, got.count, n);
    }
    mem_free(got.items);
}
#define EXPECT(t, text, flags, ...)                                                           \
    expect_ids(t, text, flags, (int32_t[]){__VA_ARGS__},                                      \
               sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

/* ---- the real library's results ---- */

static void compare_row(const tokenizer *t, const json_t *text, const json_t *row,
                        const char *name, size_t index) {
    const json_t *ids = json_object_get(row, "ids"),
                 *special = json_object_get(row, "special");
    const json_t *decoded = json_object_get(row, "decoded");
    if (!json_is_array(special)) special = ids;   /* 0: the same */
    if (!json_is_string(decoded)) decoded = text; /* 1: the text itself */
    int32_t plain[8192];
    for (int round = 0; round < 2; round++) {
        const json_t *wanted = round ? special : ids;
        id_list got = {0};
        assert_ok(tokenizer_encode(t, json_string_value(text), json_string_length(text),
                                   round ? TOKENIZER_ADD_SPECIAL : 0, &got));
        bool same = got.count == json_array_size(wanted);
        for (size_t i = 0; same && i < got.count; i++)
            same = got.items[i] == json_integer_value(json_array_get(wanted, i));
        if (!same) fail_msg("%s: text %zu, special %d: other ids", name, index, round);
        mem_free(got.items);
    }
    size_t n = json_array_size(ids), bytes;
    assert_true(n <= 8192);
    for (size_t i = 0; i < n; i++)
        plain[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    char *out;
    assert_ok(tokenizer_decode(t, plain, n, false, &out, &bytes));
    if (bytes != json_string_length(decoded) || memcmp(out, json_string_value(decoded), bytes))
        fail_msg("%s: text %zu decodes to \"%s\"", name, index, out);
    mem_free(out);
}

/* Token count and SHA-256 of the little-endian ids of whole corpora. */
static void compare_corpora(const tokenizer *t, const json_t *hashes, const char *name) {
    const char *file;
    json_t *wanted;
    json_object_foreach((json_t *)json_object_get(hashes, name), file, wanted) {
        char path[600], got[65];
        snprintf(path, sizeof path, FIXTURES "/%s", file);
        size_t bytes;
        char *text = get_file(path, &bytes);
        id_list ids = {0};
        assert_ok(tokenizer_encode(t, text, bytes, 0, &ids));
        assert_int_equal(ids.count, json_integer_value(json_object_get(wanted, "n")));
        uint8_t *little = malloc(4 * ids.count);
        for (size_t i = 0; i < ids.count; i++)
            for (int k = 0; k < 4; k++)
                little[4 * i + (size_t)k] = (uint8_t)((uint32_t)ids.items[i] >> 8 * k);
        sha256_text(little, 4 * ids.count, got);
        assert_string_equal(got, json_string_value(json_object_get(wanted, "sha256_u32le")));
        free(little);
        free(text);
        mem_free(ids.items);
    }
}

static void row08_ids_equal_hugging_faces(void **state) {
    static const char *const folders[][2] = {{"stories260K", "models/stories260K/hf-f32"},
                                             {"gpt2", "tokenizers/gpt2"},
                                             {"llama3_2", "tokenizers/llama3_2"},
                                             {"qwen2_5", "tokenizers/qwen2_5"},
                                             {"gemma2", "tokenizers/gemma2"},
                                             {"mistral7b_v0.1", "tokenizers/mistral7b_v0.1"}};
    need_fixtures();
    json_t *texts = read_json(FIXTURES "/expectations/golden-tokenizers/texts.json");
    json_t *hashes = read_json(FIXTURES "/expectations/golden-tokenizers/corpus_hashes.json");
    assert_true(json_array_size(texts) > 800);
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
        char path[600];
        tokenizer *t;
        snprintf(path, sizeof path, FIXTURES "/%s", folders[f][1]);
        assert_ok(tokenizer_open(&t, path));
        snprintf(path, sizeof path, FIXTURES "/expectations/golden-tokenizers/%s.json.gz",
                 folders[f][0]);
        json_t *rows = read_gz(path);
        assert_int_equal(json_array_size(rows), json_array_size(texts));
        for (size_t i = 0; i < json_array_size(rows); i++)
            compare_row(t, json_array_get(texts, i), json_array_get(rows, i), folders[f][0],
                        i);
        compare_corpora(t, hashes, folders[f][0]);
        json_decref(rows);
        tokenizer_close(t);
    }
    json_decref(texts);
    json_decref(hashes);
}

/* ---- merging ---- */

/* A random tokenizer over a, b, c: its merges join tokens made before. */
typedef struct random_merges {
    char tokens[64][16];
    int count, left[64], right[64]; /* of token i >= 3 */
} random_merges;

static char *random_tokenizer(random_merges *m, uint64_t *seed) {
    json_t *vocab = json_object(), *merges = json_array();
    for (m->count = 0; m->count < 3; m->count++)
        snprintf(m->tokens[m->count], 2, "%c", 'a' + m->count);
    while (m->count < 40) {
        int left = (int)(noise(seed) % (uint64_t)m->count),
            right = (int)(noise(seed) % (uint64_t)m->count);
        char token[16];
        if (strlen(m->tokens[left]) + strlen(m->tokens[right]) > 12) continue;
        snprintf(token, sizeof token, "%.7s%.7s", m->tokens[left], m->tokens[right]);
        bool known = false;
        for (int i = 0; i < m->count; i++) known |= !strcmp(m->tokens[i], token);
        if (known || strlen(token) != strlen(m->tokens[left]) + strlen(m->tokens[right]))
            continue;
        memcpy(m->tokens[m->count], token, sizeof token);
        m->left[m->count] = left;
        m->right[m->count++] = right;
        json_array_append_new(merges, json_pack("[s,s]", m->tokens[left], m->tokens[right]));
    }
    for (int i = 0; i < m->count; i++)
        json_object_set_new(vocab, m->tokens[i], json_integer(i));
    json_t *json = json_pack("{s:{s:s,s:o,s:o}}", "model", "type", "BPE", "vocab", vocab,
                             "merges", merges);
    char *text = json_write_text(json, 0);
    json_decref(json);
    return text;
}

/* The definition: again and again the leftmost pair of the least rank. Token i >= 3 has rank
 * i. */
static size_t merge_slowly(const random_merges *m, int32_t *ids, size_t n) {
    for (;;) {
        int best = m->count;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (int k = 3; k < best; k++)
                if (m->left[k] == ids[i] && m->right[k] == ids[i + 1]) {
                    best = k;
                    at = i;
                }
        if (best == m->count) return n;
        ids[at] = best;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

/* Few symbols, many symbols, twice (the second time what is known of tokens is used). */
static void test_merges(void **state) {
    uint64_t seed = 5;
    for (int round = 0; round < trials(20, 200); round++) {
        random_merges m;
        char *json = random_tokenizer(&m, &seed);
        tokenizer *t = open_text(json);
        mem_free(json);
        for (int i = 0; i < 60; i++) {
            char text[301];
            int32_t ids[300];
            size_t n = 1 + noise(&seed) % (i % 2 ? 300 : 12);
            for (size_t k = 0; k < n; k++)
                ids[k] = (text[k] = (char)('a' + noise(&seed) % 3)) - 'a';
            text[n] = 0;
            size_t count = merge_slowly(&m, ids, n);
            expect_ids(t, text, 0, ids, count);
            expect_ids(t, text, 0, ids, count);
        }
        tokenizer_close(t);
    }
}

static void test_model_options(void **state) {
    tokenizer *t = open_text(
        "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":true,\"vocab\":{\"?\":"
        "0,"
        "\"a\":1,\"b\":2,\"ab\":3,\"<0xC3>\":4},\"merges\":[\"#version: 0.2\",\"a b\"]}}");
    EXPECT(t, "abxyb", 0, 3, 0, 2); /* unknown characters become one */
    EXPECT(t, "xa", 0, 0, 1);
    tokenizer_close(t);
    t = open_text("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":"
                  "1},\"merges\":[]}}");
    EXPECT(t, "xya", 0, 0, 0, 1);
    tokenizer_close(t);
    t = open_text("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[]}}");
    EXPECT(t, "xaya", 0, 1, 1); /* no unknown token: they vanish */
    assert_int_equal(tokenizer_size(t), 2);
    assert_null(tokenizer_token(t, 0)); /* a hole */
    char *out;
    assert_fails(tokenizer_decode(t, (int32_t[]){0}, 1, false, &out, NULL), STATUS_DATA,
                 "id 0");
    tokenizer_close(t);
    t = open_text("{\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{\"a\":0,"
                  "\"b\":1,\"ab\":2},"
                  "\"merges\":[]}}");
    EXPECT(t, "ab", 0, 2);
    EXPECT(t, "aba", 0, 0, 1, 0);
    tokenizer_close(t);
    t = open_text("{\"model\":{\"type\":\"BPE\",\"unk_token\":\"gone\",\"vocab\":{\"a\":0},"
                  "\"merges\":[]}}");
    id_list ids = {0};
    assert_fails(tokenizer_encode(t, "ax", 2, 0, &ids), STATUS_DATA, "unknown token");
    assert_int_equal(ids.count, 0);
    assert_fails(tokenizer_encode(t, "a\xFF", 2, 0, &ids), STATUS_DATA, "byte 1");
    mem_free(ids.items);
    tokenizer_close(t);
}

/* ---- added tokens ---- */

/* Letters and a few words; `added` is the list. */
static tokenizer *open_with_added(const char *added) {
    char json[4096];
    snprintf(json, sizeof json,
             "{\"added_tokens\":[%s],\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,"
             "\"<\":2,\">\":3,\" \":4,"
             "\"s\":5,\"<s\":6,\"<s>\":7},\"merges\":[\"< s\",\"<s >\"]}}",
             added);
    return open_text(json);
}

static void test_added_tokens(void **state) {
    tokenizer *t = open_with_added(
        "{\"id\":8,\"content\":\"[x]\",\"special\":true},"
        "{\"id\":9,\"content\":\"[x]]\",\"special\":false,\"normalized\":false},"
        "{\"id\":10,\"content\":\"(l)\",\"lstrip\":true,\"normalized\":false},"
        "{\"id\":11,\"content\":\"(r)\",\"rstrip\":true,\"normalized\":false},"
        "{\"id\":12,\"content\":\"bb\",\"single_word\":true}");
    EXPECT(t, "a[x]b", 0, 0, 8, 1);
    EXPECT(t, "[x]]", 0, 9); /* the longest */
    EXPECT(t, "a  (l) a", 0, 0, 10, 4, 0);
    EXPECT(t, "a (r)  a", 0, 0, 4, 11, 0);
    EXPECT(t, "bb bba", 0, 12, 4, 1, 1, 0);
    assert_true(tokenizer_is_special(t, 8));
    assert_false(tokenizer_is_special(t, 9));
    assert_int_equal(tokenizer_id(t, "(l)"), 10);
    assert_int_equal(tokenizer_id(t, "nothing"), -1);
    assert_string_equal(tokenizer_token(t, 12), "bb");
    char *out;
    assert_ok(tokenizer_decode(t, (int32_t[]){0, 8, 9, 4711}, 4, true, &out, NULL));
    assert_string_equal(out, "a [x]]"); /* no decoder: joined by spaces */
    mem_free(out);
    tokenizer_close(t);
}

/* Text of a special token stays text, even where merges would make the token. */
static void row11_plain_text(void **state) {
    tokenizer *t = open_with_added(
        "{\"id\":7,\"content\":\"<s>\",\"special\":true},"
        "{\"id\":8,\"content\":\"[y]\",\"special\":false,\"normalized\":false}");
    EXPECT(t, "<s>a", 0, 7, 0);
    EXPECT(t, "<s>a[y]", TOKENIZER_PLAIN_TEXT, 6, 3, 0, 8);
    EXPECT(t, "<s>", TOKENIZER_PLAIN_TEXT, 6, 3);
    tokenizer_close(t);
    t = open_text("{\"added_tokens\":[{\"id\":0,\"content\":\"X\",\"special\":true},{\"id\":1,"
                  "\"content\":\"Yy\","
                  "\"special\":true}],\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,"
                  "\"unk_token\":\"?\",\"vocab\":"
                  "{\"X\":0,\"Yy\":1,\"Y\":2,\"y\":3,\"?\":4},\"merges\":[]}}");
    EXPECT(t, "XYy", 0, 0, 1);
    EXPECT(t, "Yy", TOKENIZER_PLAIN_TEXT, 2, 3);
    EXPECT(t, "X", TOKENIZER_PLAIN_TEXT,
           4); /* a character that is a control token is unknown */
    tokenizer_close(t);
}

/* No text of the goldens' special tokens gives one in plain text. */
static void row11_plain_text_of_real_tokenizers(void **state) {
    static const char *const folders[] = {"llama3_2", "qwen2_5", "mistral7b_v0.1", "gpt2"};
    need_fixtures();
    for (size_t f = 0; f < sizeof folders / sizeof *folders; f++) {
        char path[600];
        tokenizer *t;
        snprintf(path, sizeof path, FIXTURES "/tokenizers/%s", folders[f]);
        assert_ok(tokenizer_open(&t, path));
        int seen = 0;
        for (int32_t id = 0; id < tokenizer_size(t); id++) {
            if (!tokenizer_is_special(t, id)) continue;
            char text[300];
            snprintf(text, sizeof text, "say %s now%s", tokenizer_token(t, id),
                     tokenizer_token(t, id));
            id_list ids = {0};
            assert_ok(tokenizer_encode(t, text, strlen(text), TOKENIZER_PLAIN_TEXT, &ids));
            for (size_t i = 0; i < ids.count; i++)
                assert_false(tokenizer_is_special(t, ids.items[i]));
            ids.count = 0;
            assert_ok(tokenizer_encode(t, text, strlen(text), 0, &ids));
            for (size_t i = 0; i < ids.count; i++) seen += ids.items[i] == id;
            mem_free(ids.items);
        }
        assert_true(seen >= 2);
        tokenizer_close(t);
    }
}

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

/* ---- small stages ---- */

static void expect_text(const char *decoder, const char *const *tokens, const char *wanted) {
    json_t *vocab = json_object(), *json;
    int32_t ids[16], n = 0;
    for (; tokens[n]; n++) {
        json_object_set_new(vocab, tokens[n], json_integer(n));
        ids[n] = n;
    }
    assert_ok(json_read_text(decoder, strlen(decoder), "decoder", STATUS_DATA, &json));
    json = json_pack("{s:o,s:{s:o,s:[]}}", "decoder", json, "model", "vocab", vocab, "merges");
    char *text = json_write_text(json, 0), *out;
    tokenizer *t = open_text(text);
    size_t bytes;
    assert_ok(tokenizer_decode(t, ids, (size_t)n, false, &out, &bytes));
    assert_string_equal(out, wanted);
    assert_int_equal(bytes, strlen(wanted));
    mem_free(out);
    mem_free(text);
    json_decref(json);
    tokenizer_close(t);
}

static void test_decoders(void **state) {
    static const char *const bytes[] = {
        "\xE2\x96\x81\xC3\xA9", "<0xC3>", "<0xA9>", "x", "<0xFF>", "<0xC2>", NULL};
    expect_text(
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"\xE2\x96\x81\"},"
        "\"content\":\" "
        "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":"
        "\" \",\"start\":1,\"stop\":0}]}",
        bytes, "\xC3\xA9\xC3\xA9x\xEF\xBF\xBD\xEF\xBF\xBD");
    static const char *const words[] = {"\xE2\x96\x81"
                                        "a\xE2\x96\x81",
                                        "\xE2\x96\x81"
                                        "b",
                                        NULL};
    expect_text("{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":"
                "\"first\"}",
                words, "a b");
    expect_text(
        "{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"add_prefix_space\":false}",
        words, " a  b");
    /* 0xE2 0x82 is half a character, then bytes that are none, then a token not of the
     * alphabet */
    static const char *const level[] = {"\xC3\xA2\xC4\xA4", "a", "\xC3\xBF\xC3\xBF",
                                        "\xE4\xB8\xAD", NULL};
    expect_text("{\"type\":\"ByteLevel\"}", level,
                "\xEF\xBF\xBD"
                "a\xEF\xBF\xBD\xEF\xBF\xBD\xE4\xB8\xAD");
    static const char *const strip[] = {"..a...", "...",
                                        NULL}; /* one off the front, two off the end */
    expect_text("{\"type\":\"Strip\",\"content\":\".\",\"start\":1,\"stop\":2}", strip, ".a.");
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_merges),
        cmocka_unit_test(test_model_options),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(row11_plain_text),
        cmocka_unit_test(row11_plain_text_of_real_tokenizers),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_missing_files),
        cmocka_unit_test(row08_hostile_files),
        cmocka_unit_test(row08_deep_nesting),
        cmocka_unit_test(test_truncated_file),
        cmocka_unit_test(test_failed_allocations),
        cmocka_unit_test(row08_a_pattern_gives_up),
        cmocka_unit_test(row08_ids_equal_hugging_faces),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(row08_worst_cases),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, scratch_open, scratch_close);
}
