/* test_text_stages.c: what stands before the tokenizer's model: UTF-8, normal forms, patterns
 * against the real library's results on every pattern of the hub, scanners against patterns.
 */
#include "gz.h"

#include "data/normalize_unicode.h"
#include "data/pretokenize.h"
#include "data/scanner.h"
#include "data/unicode.h"

/* ---- patterns ---- */

/* Collects pieces as a JSON list. */
static status collect(void *context, const char *piece, size_t bytes) {
    return json_array_append_new(context, json_stringn(piece, bytes)) ? STATUS_MEMORY
                                                                      : STATUS_OK;
}

static status open_split(pretokenizer **p, const json_t *pattern, const char *behaviour,
                         bool invert, bool scanners) {
    json_t *json = json_pack("{s:s,s:{s:O},s:s,s:b}", "type", "Split", "pattern", "Regex",
                             pattern, "behavior", behaviour, "invert", invert);
    status s = pretokenizer_open(p, json, scanners);
    json_decref(json);
    return s;
}

static json_t *cut(const pretokenizer *p, const char *text, size_t bytes) {
    pretokenizer_scratch scratch = {0};
    json_t *pieces = json_array();
    assert_ok(regex_scratch_open(&scratch.regex));
    assert_ok(pretokenize(p, &scratch, text, bytes, true, collect, pieces));
    regex_scratch_close(scratch.regex);
    pretokenizer_scratch_free(&scratch);
    return pieces;
}

/* Patterns that no published byte-level or SentencePiece BPE needs and that are refused. */
static bool may_refuse(const char *id) {
    static const char *const refused[] = {"edge-class-intersection", "edge-ci-full-fold"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!strcmp(id, refused[i])) return true;
    return false;
}

static void test_split_oracle(void **state) {
    need_fixtures();
    json_t *all = read_json(FIXTURES "/expectations/tokenizers.js/splitRegexPatterns.json");
    json_t *oracle = read_gz(FIXTURES "/expectations/tokenizers.js/splitRegexOracle.json.gz");
    const json_t *defaults = json_object_get(json_object_get(all, "defaults"), "inputs");
    const json_t *row;
    size_t i, compared = 0, wrong = 0;
    json_array_foreach(json_object_get(all, "patterns"), i, row) {
        const char *id = json_string_value(json_object_get(row, "id"));
        json_get_text(row, "name", &id, "a pattern", STATUS_DATA);
        const json_t *inputs = json_object_get(row, "inputs");
        const json_t *wanted = json_object_get(json_object_get(oracle, "tokens"), id);
        if (!inputs) inputs = defaults;
        pretokenizer *p;
        if (open_split(&p, json_object_get(row, "pattern"), "Removed", true, true) !=
            STATUS_OK) {
            if (!may_refuse(id)) fail_msg("%s: %s", id, status_message());
            continue;
        }
        assert_false(may_refuse(id));
        for (size_t k = 0; k < json_array_size(inputs); k++) {
            const json_t *text = json_array_get(inputs, k);
            json_t *got = cut(p, json_string_value(text), json_string_length(text));
            if (!json_equal(got, json_array_get(wanted, k))) {
                char *words = json_write_text(got, 0);
                print_error("%s, input %zu: %s\n", id, k, words);
                mem_free(words);
                wrong++;
            }
            compared++;
            json_decref(got);
        }
        pretokenizer_close(p);
    }
    assert_int_equal(wrong, 0);
    assert_true(compared > 2000);
    json_decref(all);
    json_decref(oracle);
}

/* Text that patterns find hard: words, spaces, line ends, digits, apostrophes, all scripts. */
static size_t hard_text(uint64_t *seed, char *out, size_t room) {
    static const char *const bits[] = {" ",
                                       "  ",
                                       "\n",
                                       "\r\n",
                                       "\t",
                                       "'s",
                                       "'S",
                                       "'re",
                                       "'LL",
                                       "'\xC5\xBF",
                                       "'",
                                       "a",
                                       "Zz",
                                       "\xC3\xA9",
                                       "1",
                                       "22",
                                       "\xC2\xB2",
                                       "!",
                                       "?!",
                                       "\xE2\x80\x83",
                                       "\xC2\x85",
                                       "\xE4\xB8\xAD",
                                       "\xE0\xA4\x95\xE0\xA5\x8D",
                                       "\xF0\x9F\x98\x80",
                                       "\xE2\x80\x8D",
                                       "\xE1\xA0\x8E",
                                       "\xF0\x9E\xA5\x90",
                                       "\xF0\x90\xB5\x80"};
    size_t n = 0, count = noise(seed) % 24;
    for (size_t i = 0; i < count && n + 8 < room; i++) {
        uint64_t r = noise(seed);
        if (r % 4) {
            const char *bit = bits[(r >> 8) % (sizeof bits / sizeof *bits)];
            memcpy(out + n, bit, strlen(bit));
            n += strlen(bit);
        } else {
            uint32_t code = (uint32_t)(r >> 8) % (r >> 40 & 1 ? 0x110000 : 0x3100);
            if (code < 0xD800 || code > 0xDFFF) n += utf8_put(code, out + n);
        }
    }
    return n;
}

/* The hand-written scanners give what their patterns give. */
static void test_scanners(void **state) {
    static const char *const patterns[] = {
        scanner_gpt2_pattern,
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"};
    uint64_t seed = 11;
    for (size_t k = 0; k < sizeof patterns / sizeof *patterns; k++) {
        assert_non_null(scanner_for(patterns[k], strlen(patterns[k])));
        json_t *pattern = json_string(patterns[k]);
        pretokenizer *fast, *slow;
        assert_ok(open_split(&fast, pattern, "Isolated", false, true));
        assert_ok(open_split(&slow, pattern, "Isolated", false, false));
        for (int i = 0; i < trials(3000, 30000); i++) {
            char text[256];
            size_t n = hard_text(&seed, text, sizeof text);
            json_t *a = cut(fast, text, n), *b = cut(slow, text, n);
            if (!json_equal(a, b)) fail_msg("pattern %zu: \"%.*s\"", k, (int)n, text);
            json_decref(a);
            json_decref(b);
        }
        pretokenizer_close(fast);
        pretokenizer_close(slow);
        json_decref(pattern);
    }
    assert_null(scanner_for("\\s+", 3));
}

static void test_refused_patterns(void **state) {
    static const struct {
        const char *pattern, *why;
    } rows[] = {{"[a-w&&[^c-g]]", "intersection"},
                {"(?x) a", "this group"},
                {"a(?i)b", "middle"},
                {"(?i:ss)", "ligature"},
                {"(a", "open parenthesis"},
                {"a)", "closes nothing"},
                {"[a", "open class"},
                {"*a", "nothing to repeat"},
                {"\\p{Nonsense}", "property"},
                {"\\k<a>", "escape"},
                {"(?<=a*)b", "lookbehind"},
                {"\\xFF", "byte above"},
                {"(*FAIL)", "callout"},
                {"a{3,1}", "interval"},
                {"\\", "backslash"},
                {"[[^a][^b\\W]]", "complements"},
                {"\\p{L", "open property"},
                {"[z-a]", "range"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        regex *r;
        assert_fails(regex_open(&r, rows[i].pattern, strlen(rows[i].pattern), false),
                     STATUS_MODEL, rows[i].why);
        assert_null(r);
    }
}

static void test_split_behaviours(void **state) {
    static const struct {
        const char *behaviour, *pieces;
    } rows[] = {{"Removed", "[\"the\",\"final\",\"countdown\"]"},
                {"Isolated", "[\"the\",\"-\",\"final\",\"-\",\"-\",\"countdown\"]"},
                {"Contiguous", "[\"the\",\"-\",\"final\",\"--\",\"countdown\"]"},
                {"MergedWithPrevious", "[\"the-\",\"final-\",\"-\",\"countdown\"]"},
                {"MergedWithNext", "[\"the\",\"-final\",\"-\",\"-countdown\"]"}};
    static const char text[] = "the-final--countdown";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *pattern = json_string("-");
        pretokenizer *p;
        assert_ok(open_split(&p, pattern, rows[i].behaviour, false, true));
        json_t *got = cut(p, text, strlen(text));
        char *words = json_write_text(got, 0);
        assert_string_equal(words, rows[i].pieces);
        mem_free(words);
        json_decref(got);
        json_decref(pattern);
        pretokenizer_close(p);
    }
}

/* The normal forms where the library differs from a newer Unicode, and where runs are long. */
static void test_normal_forms(void **state) {
    static const struct {
        int form;
        const char *text, *wanted;
    } rows[] = {
        {FORM_COMPOSED, "e\xCC\x81", "\xC3\xA9"},
        {0, "\xC3\xA9", "e\xCC\x81"},
        {FORM_COMPOSED, "a\xCC\x81\xCC\xA3", "\xE1\xBA\xA1\xCC\x81"}, /* marks change places */
        {FORM_COMPOSED | FORM_COMPATIBLE, "\xEF\xAC\x81\xC2\xBD",
         "fi1\xE2\x81\x84"
         "2"},
        {FORM_COMPOSED, "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"}, /* Hangul */
        {FORM_COMPOSED, "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xA7",
         "\xED\x95\x98\xE1\x86\xA7"}, /* U+11A7 is no final consonant */
        {FORM_COMPOSED, "\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0",
         "\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0"},              /* Unicode 13 */
        {FORM_COMPATIBLE, "\xE3\x8B\xBF", "\xE3\x8B\xBF"}, /* U+32FF, Unicode 12.1 */
        {FORM_COMPOSED, "e\xE0\xA2\x98\xCC\x81",
         "e\xE0\xA2\x98\xCC\x81"}, /* U+0898 is no mark yet */
    };
    normalize_unicode_setup();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        normalizer_scratch scratch = {0};
        text_buffer out = {0};
        assert_ok(normalize_unicode(&scratch, rows[i].text, strlen(rows[i].text), rows[i].form,
                                    &out));
        if (out.bytes != strlen(rows[i].wanted) || memcmp(out.data, rows[i].wanted, out.bytes))
            fail_msg("row %zu: \"%.*s\"", i, (int)out.bytes, out.data);
        mem_free(out.data);
        normalizer_scratch_free(&scratch);
    }
}

static void test_utf8(void **state) {
    static const struct {
        const char *text;
        size_t valid, bad;
    } rows[] = {{"ok", 2, 0},
                {"a\xC0\x80", 1, 1},
                {"\xED\xA0\x80", 0, 1},
                {"\xF4\x90\x80\x80", 0, 1},
                {"\xE2\x82", 0, 2},
                {"\xF0\x9F\x98", 0, 3},
                {"\xF0\x9F"
                 "x",
                 0, 2},
                {"\x80", 0, 1},
                {"12345678\xC3", 8, 1},
                {"\xF0\x9F\x98\x80", 4, 0},
                {"\xFF", 0, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = strlen(rows[i].text);
        assert_int_equal(utf8_valid(rows[i].text, n), rows[i].valid);
        if (rows[i].bad)
            assert_int_equal(utf8_bad(rows[i].text + rows[i].valid, n - rows[i].valid),
                             rows[i].bad);
    }
}

int main(void) {
    json_setup();
    unicode_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_oracle),     cmocka_unit_test(test_scanners),
        cmocka_unit_test(test_refused_patterns), cmocka_unit_test(test_split_behaviours),
        cmocka_unit_test(test_normal_forms),     cmocka_unit_test(test_utf8),
    };
    return cmocka_run_group_tests_name("text_stages", tests, NULL, NULL);
}
