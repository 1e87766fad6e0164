/* test_spans.c: rows put together from control tokens and text: where a text begins, and that
 * what follows a control token is still inside of it. */
#include "scratch.h"

#include "common/json.h"
#include "data/spans.h"

/* SentencePiece-style with prepend_scheme "first", as newer conversions of Llama and Mistral:
 * ids of <s> _ a b _a are 1 3 4 5 6. */
static const char first_scheme[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true,"
    "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false}],"
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
    "\"prepend_scheme\":\"first\",\"split\":false},\"post_processor\":null,\"decoder\":null,"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":false,"
    "\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2,\"\u2581\":3,\"a\":4,\"b\":5,\"\u2581a\":6},"
    "\"merges\":[\"\u2581 a\"]}}";

static void assert_ids(const id_list *ids, const char *want) {
    char text[128] = "";
    size_t at = 0;
    for (size_t i = 0; i < ids->count; i++)
        at +=
            (size_t)snprintf(text + at, sizeof text - at, "%s%d", i ? " " : "", ids->items[i]);
    assert_string_equal(text, want);
}

static tokenizer *open_first_scheme(void) {
    tokenizer *t;
    const char *folder = scratch_folder("first");
    assert_ok(file_write_all(scratch("first/tokenizer.json"), first_scheme,
                             sizeof first_scheme - 1));
    assert_ok(tokenizer_open(&t, folder));
    return t;
}

/* What `tokenizers` gives: "ab" has the mark, after <s> it has none. */
static void test_first_word_of_a_text(void **state) {
    (void)state;
    tokenizer *t = open_first_scheme();
    id_list ids = {0};
    assert_ok(tokenizer_encode(t, "ab", 2, 0, &ids));
    assert_ids(&ids, "6 5");
    ids.count = 0;
    assert_ok(tokenizer_encode(t, "<s>ab", 5, 0, &ids));
    assert_ids(&ids, "1 4 5");
    ids.count = 0;
    assert_ok(tokenizer_encode(t, "ab", 2, TOKENIZER_PLAIN_TEXT | TOKENIZER_INSIDE, &ids));
    assert_ids(&ids, "4 5");
    mem_free(ids.items);
    tokenizer_close(t);
}

static void test_text_after_a_control_token(void **state) {
    (void)state;
    tokenizer *t = open_first_scheme();
    span_builder b = {.names = {t, 1, 2}};
    assert_ok(spans_text(&b, "a", 1, false));
    assert_ok(spans_control(&b, 1, false));
    assert_ok(spans_text(&b, "a", 1, false));
    assert_ok(spans_text(&b, "b a", 3, true));
    assert_ok(spans_finish(&b)); /* another text begins */
    assert_ok(spans_text(&b, "a", 1, true));
    assert_ok(spans_finish(&b));
    assert_ids(&b.ids, "6 1 4 5 6 6");
    assert_ids(&b.labels, "-100 -100 -100 5 6 6");
    spans_reset(&b);
    assert_ok(spans_text(&b, "a", 1, true));
    assert_ok(spans_finish(&b));
    assert_ids(&b.ids, "6");
    spans_free(&b);
    tokenizer_close(t);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_word_of_a_text),
        cmocka_unit_test(test_text_after_a_control_token),
    };
    return cmocka_run_group_tests_name("spans", tests, scratch_open, scratch_close);
}
