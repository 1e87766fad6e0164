/* test_tokenizer.c: the tokenizer against the real library's goldens, merging against its
 * definition, added tokens, plain text, small stages. */
#include "made_tokenizer.h"

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
        cmocka_unit_test(row08_ids_equal_hugging_faces),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, scratch_open, scratch_close);
}
