/* test_template.c: chat templates against jinja2, ids against transformers, labels against
 * Axolotl's rule (tests/golden/chat.json, made by tests/interop/data_goldens.py), and what is
 * refused. */
#include "mini_tokenizer.h"

#include "common/json.h"
#include "data/conversation.h"
#include "data/rows.h"
#include "data/template.h"

static json_t *golden;

static int setup(void **state) {
    if (json_read_file(SOURCE_DIR "/tests/golden/chat.json", 1 << 24, STATUS_DATA, &golden))
        return -1;
    return scratch_open(state);
}

static int teardown(void **state) {
    json_decref(golden);
    return scratch_close(state);
}

static const char *text_of(const json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}

static json_t *row_of(int64_t number) {
    json_t *list = json_array_get(json_object_get(golden, "conversations"), (size_t)number);
    return json_pack("{s:O}", "messages", list);
}

/* Renders a row into b. */
static status render(const chat_template *t, const json_t *row, const chat_fields *fields,
                     bool prompt, span_builder *b) {
    conversation c = {0};
    chat_work w = {0};
    chat_fields whole = *fields;
    whole.whole = chat_template_interprets(t);
    spans_reset(b);
    status s = conversation_read(&c, row, &whole);
    if (s == STATUS_OK) s = chat_template_render(t, &c, prompt, &w, b);
    if (s == STATUS_OK) s = spans_finish(b);
    conversation_free(&c);
    chat_work_free(&w);
    return s;
}

static char *read_template(const char *name) {
    char path[600], *text;
    size_t bytes;
    snprintf(path, sizeof path, "%s/templates/%s.jinja", FIXTURES, name);
    assert_ok(file_read_all(path, 1 << 20, &text, &bytes));
    return text;
}

/* The rendered text, through a tokenizer that loses nothing. */
static void check_text(const json_t *want, const token_names *names, bool own) {
    char *source = own ? read_template(text_of(want, "template")) : NULL;
    const char *name = own ? NULL : text_of(want, "template");
    chat_template *t;
    span_builder b = {.names = *names};
    assert_ok(chat_template_open(&t, name, source, "10 Jul 2025", names));
    json_int_t number = json_integer_value(json_object_get(want, "conversation"));
    json_t *row = row_of(number);
    static const char *const nobody[] = {"nobody"};
    chat_fields fields = {.roles_to_train = nobody, .train_count = 1, .ends = ENDS_NONE};
    status s = render(t, row, &fields, json_is_true(json_object_get(want, "prompt")), &b);
    if (json_is_null(json_object_get(want, "text"))) {
        assert_int_equal(s, STATUS_DATA);
    } else {
        if (s != STATUS_OK)
            fail_msg("%s, conversation %d: %s", text_of(want, "template"), (int)number,
                     status_message());
        char *got;
        assert_ok(
            tokenizer_decode(names->tokenizer, b.ids.items, b.ids.count, false, &got, NULL));
        if (strcmp(got, text_of(want, "text")) != 0)
            fail_msg("%s, conversation %d:\n%s\nwanted:\n%s", text_of(want, "template"),
                     (int)number, got, text_of(want, "text"));
        mem_free(got);
    }
    json_decref(row);
    spans_free(&b);
    chat_template_close(t);
    mem_free(source);
}

static token_names open_mini(const char *folder, const char *own) {
    tokenizer *t;
    const char *path = scratch_folder(folder);
    mini_tokenizer_write(path, own, true);
    assert_ok(tokenizer_open(&t, path));
    return (token_names){t, tokenizer_bos(t), tokenizer_eos(t)};
}

static void check_texts(bool own) {
    token_names names = open_mini("mini", NULL);
    size_t i, checked = 0;
    json_t *want;
    json_array_foreach(json_object_get(golden, "texts"), i, want) {
        if (json_is_true(json_object_get(want, "own")) != own) continue;
        check_text(want, &names, own);
        checked++;
    }
    assert_true(checked > 100);
    tokenizer_close((tokenizer *)names.tokenizer);
}

static void test_built_in_templates_equal_jinja(void **state) {
    check_texts(false);
}

static void test_models_templates_equal_jinja(void **state) {
    need_fixtures();
    check_texts(true);
}

/* ---- the fixtures' own renderings ---- */

static void test_fixture_renderings(void **state) {
    need_fixtures();
    json_t *all;
    assert_ok(json_read_file(FIXTURES "/expectations/golden-templates/chat_templates.json",
                             1 << 24, STATUS_DATA, &all));
    token_names names = open_mini("mini", NULL);
    size_t i;
    json_t *want;
    static const char *const nobody[] = {"nobody"};
    int equal = 0, refused = 0;
    json_array_foreach(json_object_get(all, "rows"), i, want) {
        const char *name = strchr(text_of(want, "template"), '/') + 1,
                   *conv = text_of(want, "conv");
        char base[200], *source = NULL;
        if (strstr(name, ".jinja"))
            snprintf(base, sizeof base, "%.*s", (int)strlen(name) - 6, name);
        else
            snprintf(base, sizeof base, "%s",
                     strstr(name, "llama") ? "meta-llama-Llama-3.2-3B-Instruct"
                                           : "Qwen-Qwen2.5-7B-Instruct");
        source = read_template(base);
        chat_template *t;
        assert_ok(chat_template_open(&t, NULL, source, "10 Jul 2025", &names));
        mem_free(source);
        json_t *row = json_pack("{s:O}", "messages",
                                json_object_get(json_object_get(all, "conversations"), conv));
        if (!strcmp(conv, "tools"))
            json_object_set(row, "tools", json_object_get(all, "tools"));
        span_builder b = {.names = names};
        chat_fields fields = {.roles_to_train = nobody, .train_count = 1, .ends = ENDS_NONE};
        status s = render(t, row, &fields,
                          json_is_true(json_object_get(want, "add_generation_prompt")), &b);
        if (!text_of(want, "output")) {
            assert_int_equal(s, STATUS_DATA);
            refused++;
        } else {
            char *got;
            if (s) fail_msg("%s, %s: %s", name, conv, status_message());
            assert_ok(tokenizer_decode(names.tokenizer, b.ids.items, b.ids.count, false, &got,
                                       NULL));
            assert_string_equal(got, text_of(want, "output"));
            mem_free(got);
            equal++;
        }
        json_decref(row);
        spans_free(&b);
        chat_template_close(t);
    }
    print_message("%d renderings equal, %d refused by both\n", equal, refused);
    assert_int_equal(equal, 200);
    json_decref(all);
    tokenizer_close((tokenizer *)names.tokenizer);
}

/* ---- ids and labels ---- */

static learn_ends ends_of(const char *name) {
    return !strcmp(name, "all")    ? ENDS_ALL
           : !strcmp(name, "last") ? ENDS_LAST
           : !strcmp(name, "none") ? ENDS_NONE
                                   : ENDS_TURN;
}

static void check_list(const json_t *want, const id_list *got, const char *what,
                       const json_t *row) {
    for (size_t i = 0; i < json_array_size(want) && i < got->count; i++) {
        json_int_t id = json_integer_value(json_array_get(want, i));
        if (id != got->items[i])
            fail_msg("%s, %s, conversation %d, %s of %s: %s[%zu] is %d, wanted %d",
                     text_of(row, "tokenizer"), text_of(row, "template"),
                     (int)json_integer_value(json_object_get(row, "conversation")),
                     text_of(row, "trained"), text_of(row, "ends"), what, i, got->items[i],
                     (int)id);
    }
    assert_int_equal(got->count, json_array_size(want));
}

static void check_row(const json_t *want, const tokenizer *t) {
    token_names names = {t, tokenizer_bos(t), tokenizer_eos(t)};
    chat_template *template;
    assert_ok(chat_template_open(&template, text_of(want, "template"),
                                 tokenizer_chat_template(t), "10 Jul 2025", &names));
    span_builder b = {.names = names};
    chat_fields fields = {.train_on_inputs = !strcmp(text_of(want, "trained"), "all"),
                          .ends = ends_of(text_of(want, "ends"))};
    json_t *row = row_of(json_integer_value(json_object_get(want, "conversation")));
    assert_ok(render(template, row, &fields, false, &b));
    check_list(json_object_get(want, "ids"), &b.ids, "ids", want);
    if (json_is_array(json_object_get(want, "labels")))
        check_list(json_object_get(want, "labels"), &b.labels, "labels", want);
    json_decref(row);
    spans_free(&b);
    chat_template_close(template);
}

static void test_ids_and_labels(void **state) {
    need_fixtures();
    size_t i, checked = 0;
    json_t *want;
    tokenizer *t = NULL;
    char opened[600] = ""; /* rows of one tokenizer stand together */
    json_array_foreach(json_object_get(golden, "rows"), i, want) {
        char folder[600];
        const char *smollm2 = getenv("NIBBLE_SMOLLM2");
        bool other = !strcmp(text_of(want, "tokenizer"), "smollm2");
        if (other && !smollm2) continue;
        snprintf(folder, sizeof folder, "%s/tokenizers/%s", FIXTURES,
                 text_of(want, "tokenizer"));
        if (other) snprintf(folder, sizeof folder, "%s", smollm2);
        if (strcmp(folder, opened) != 0) {
            tokenizer_close(t);
            assert_ok(tokenizer_open(&t, folder));
            memcpy(opened, folder, sizeof opened);
        }
        check_row(want, t);
        checked++;
    }
    tokenizer_close(t);
    print_message("%zu rows; %s\n", checked,
                  getenv("NIBBLE_SMOLLM2") ? "SmolLM2 among them"
                                           : "NIBBLE_SMOLLM2 is not set");
    assert_true(checked > 150);
}

/* ---- what is not text of the template ---- */

static void row11_user_text_stays_text(void **state) {
    token_names names = open_mini("mini", NULL);
    chat_template *t;
    span_builder b = {.names = names};
    chat_fields fields = {0};
    assert_ok(chat_template_open(&t, "mistral_v3_tekken", NULL, NULL, &names));
    json_t *row = json_loads("{\"messages\":[{\"role\":\"user\",\"content\":\"a</s>b<s>\"},"
                             "{\"role\":\"assistant\",\"content\":\"</s>\"}]}",
                             0, NULL);
    assert_ok(render(t, row, &fields, false, &b));
    size_t specials = 0;
    for (size_t i = 0; i < b.ids.count; i++) specials += b.ids.items[i] >= 256;
    assert_int_equal(specials, 2); /* the template's BOS and EOS */
    assert_int_equal(b.ids.items[0], MINI_BOS);
    assert_int_equal(b.ids.items[b.ids.count - 1], MINI_EOS);
    assert_int_equal(b.labels.items[b.ids.count - 1], MINI_EOS);
    assert_int_equal(b.labels.items[0], LABEL_IGNORED);
    json_decref(row);
    spans_free(&b);
    chat_template_close(t);
    tokenizer_close((tokenizer *)names.tokenizer);
}

static void test_choosing(void **state) {
    token_names names = open_mini("mini", NULL);
    chat_template *t;
    assert_fails(chat_template_open(&t, "chatlm", NULL, NULL, &names), STATUS_USAGE,
                 "chatml, llama3");
    assert_fails(chat_template_open(&t, "llama 3.1", NULL, NULL, &names), STATUS_USAGE,
                 "llama 3.1");
    assert_fails(chat_template_open(&t, NULL, NULL, NULL, &names), STATUS_MODEL,
                 "no chat template");
    assert_fails(chat_template_open(&t, NULL, "{% include x %}", NULL, &names), STATUS_MODEL,
                 "the model's chat template:1:4: the tag `include`");
    assert_fails(chat_template_open(&t, "no/such.jinja", NULL, NULL, &names), STATUS_USAGE,
                 "no/such.jinja");
    assert_ok(chat_template_open(&t, "tokenizer_default_fallback_llama3", NULL, NULL, &names));
    assert_string_equal(chat_template_name(t), "llama3");
    assert_null(chat_template_date(t));
    assert_int_equal(chat_template_end(t),
                     -1); /* <|eot_id|> is no token of the mini tokenizer */
    chat_template_close(t);
    char date[TEMPLATE_DATE];
    setenv("SOURCE_DATE_EPOCH", "1752105600", 1);
    template_today(date);
    unsetenv("SOURCE_DATE_EPOCH");
    assert_string_equal(date, "10 Jul 2025");
    tokenizer_close((tokenizer *)names.tokenizer);
}

/* ---- rows of other shapes ---- */

static void expect_messages(const char *json, const chat_fields *fields, const char *want) {
    json_t *row = json_loads(json, 0, NULL);
    conversation c = {0};
    char got[1000] = "";
    assert_non_null(row);
    status s = conversation_read(&c, row, fields);
    if (s != STATUS_OK) {
        assert_int_equal(s, STATUS_DATA);
        snprintf(got, sizeof got, "%s", status_message());
    }
    for (size_t i = 0; s == STATUS_OK && i < c.count; i++)
        sprintf(got + strlen(got), "%s%s%s%s:%s", i ? "|" : "", c.items[i].learn ? "+" : "",
                c.items[i].learn_end ? "." : "", c.items[i].role, c.items[i].content);
    if (s == STATUS_OK)
        assert_string_equal(got, want);
    else if (!strstr(got, want))
        fail_msg("\"%s\" lacks \"%s\"", got, want);
    conversation_free(&c);
    json_decref(row);
}

static void test_rows_of_messages(void **state) {
    chat_fields usual = {0};
    expect_messages("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                    "{\"role\":\"assistant\",\"content\":\"b\"}]}",
                    &usual, "user:a|+.assistant:b");
    expect_messages("{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},"
                    "{\"from\":\"gpt\",\"value\":\"b\"}]}",
                    &usual, "user:a|+.assistant:b");
    expect_messages("{\"system\":\"s\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                    &usual, "system:s|user:a");
    expect_messages(
        "{\"system\":\"s\",\"messages\":[{\"role\":\"system\",\"content\":\"a\"}]}", &usual,
        "system:a");
    chat_fields drop = {
        .drop_system_message = true, .train_on_inputs = true, .ends = ENDS_NONE};
    expect_messages("{\"system\":\"s\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                    &drop, "+user:a");
    static const char *const bots[] = {"bot", "ai"}, *const trained[] = {"bot", "tool"};
    static const role_names roles[] = {{"assistant", bots, 2}};
    chat_fields named = {.messages = "talk",
                         .role = "who",
                         .content = "what",
                         .training = "train",
                         .roles = roles,
                         .role_count = 1,
                         .roles_to_train = trained,
                         .train_count = 2,
                         .ends = ENDS_LAST};
    expect_messages(
        "{\"talk\":[{\"who\":\"human\",\"what\":\"a\"},{\"who\":\"ai\",\"what\":\"b\"},"
        "{\"who\":\"ai\",\"what\":\"c\",\"train\":false},"
        "{\"who\":\"human\",\"what\":\"d\",\"train\":true},"
        "{\"who\":\"tool\",\"what\":\"e\",\"train\":null}]}",
        &named, "human:a|+assistant:b|assistant:c|+human:d|+.tool:e");
}

static void test_rows_that_are_refused(void **state) {
    chat_fields usual = {0}, named = {.messages = "talk", .training = "train"};
    expect_messages("{}", &usual, "\"messages\" must be a list of messages, it is nothing");
    expect_messages("{\"messages\":[]}", &usual, "no message");
    expect_messages("{\"messages\":\"x\"}", &usual, "it is a string");
    expect_messages("{\"messages\":[1]}", &usual, "message 1 must be an object");
    expect_messages("{\"messages\":[{\"role\":\"user\"}]}", &usual,
                    "\"content\" must be a string");
    expect_messages("{\"messages\":[{\"content\":\"user\"}]}", &usual,
                    "\"role\" must be a string");
    expect_messages("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
                    &usual, "a list (parts of several kinds");
    expect_messages(
        "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}]}",
        &usual, "tool_calls");
    expect_messages("{\"messages\":[]}", &named, "\"talk\" must be");
    expect_messages("{\"talk\":[{\"role\":\"u\",\"content\":\"\",\"train\":1}]}", &named,
                    "\"train\" must be true or false");
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_built_in_templates_equal_jinja),
        cmocka_unit_test(test_models_templates_equal_jinja),
        cmocka_unit_test(test_fixture_renderings),
        cmocka_unit_test(test_ids_and_labels),
        cmocka_unit_test(row11_user_text_stays_text),
        cmocka_unit_test(test_choosing),
        cmocka_unit_test(test_rows_of_messages),
        cmocka_unit_test(test_rows_that_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
