/* test_chat.c: conversations under interpreted templates: what of them is learned, which of
 * their bytes may be control tokens, what of a row reaches the template, and how a template is
 * chosen. */
#include "mini_tokenizer.h"

#include "common/alloc.h"
#include "common/json.h"
#include "data/rows.h"
#include "data/template.h"

static token_names names;

static int setup(void **state) {
    if (scratch_open(state)) return -1;
    tokenizer *t;
    const char *path = scratch_folder("mini");
    mini_tokenizer_write(path, NULL, true);
    assert_ok(tokenizer_open(&t, path));
    names = (token_names){t, tokenizer_bos(t), tokenizer_eos(t)};
    return 0;
}

static int teardown(void **state) {
    tokenizer_close((tokenizer *)names.tokenizer);
    return scratch_close(state);
}

/* The tokens of a row: learned ones in ( ), BOS ^, EOS $. */
static void spell(const span_builder *b, char *out, size_t room) {
    bool inside = false;
    size_t n = 0;
    for (size_t i = 0; i < b->ids.count && n + 8 < room; i++) {
        bool learn = b->labels.items[i] != LABEL_IGNORED;
        int32_t id = b->ids.items[i];
        if (learn != inside) out[n++] = learn ? '(' : ')';
        inside = learn;
        out[n++] = id == MINI_BOS ? '^' : id == MINI_EOS ? '$' : (char)id; /* ids are bytes */
    }
    if (inside) out[n++] = ')';
    out[n] = 0;
}

/* Renders a row and compares; a wanted text that begins with "!" is part of a refusal. */
static void expect(const char *template, const char *row_text, const chat_fields *fields,
                   const char *want) {
    static const chat_fields usual;
    chat_fields whole = fields ? *fields : usual;
    whole.whole = true;
    conversation c = {0};
    chat_work w = {0};
    span_builder b = {.names = names};
    chat_template *t;
    char got[1000];
    json_t *row = json_loads(row_text, 0, NULL);
    assert_non_null(row);
    assert_ok(chat_template_open(&t, NULL, template, "10 Jul 2025", &names));
    status s = conversation_read(&c, row, &whole);
    if (s == STATUS_OK) s = chat_template_render(t, &c, false, &w, &b);
    if (s == STATUS_OK) s = spans_finish(&b);
    if (s == STATUS_OK) {
        spell(&b, got, sizeof got);
        assert_string_equal(got, want);
    } else if (*want != '!' || !strstr(status_message(), want + 1)) {
        fail_msg("%s\nwanted: %s", status_message(), want);
    }
    assert_true(s == STATUS_OK || s == STATUS_DATA);
    chat_template_close(t);
    conversation_free(&c);
    chat_work_free(&w);
    spans_free(&b);
    json_decref(row);
}

#define USER(text)   "{\"role\":\"user\",\"content\":\"" text "\"}"
#define ANSWER(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define ROW(list)    "{\"messages\":[" list "]}"
#define TWO          ROW(USER("a") "," ANSWER("b") "," USER("c") "," ANSWER("d"))

/* <role>content</s>, and "<assistant>" as the prompt. */
static const char plain[] =
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

static void test_answers_are_learned(void **state) {
    expect(plain, TWO, NULL, "^<user>a$\n<assistant>(b$)\n<user>c$\n<assistant>(d$)\n");
    expect(plain, ROW(USER("a") "," ANSWER("") "," USER("c") "," ANSWER("d")), NULL,
           "^<user>a$\n<assistant>$\n<user>c$\n<assistant>(d$)\n");
    expect(plain, ROW(ANSWER("x") "," USER("y")), NULL, "^<assistant>(x$)\n<user>y$\n");
    chat_fields none = {.ends = ENDS_NONE}, last = {.ends = ENDS_LAST},
                all = {.ends = ENDS_ALL};
    expect(plain, TWO, &none, "^<user>a$\n<assistant>(b)$\n<user>c$\n<assistant>(d)$\n");
    expect(plain, TWO, &last, "^<user>a$\n<assistant>(b)$\n<user>c$\n<assistant>(d$)\n");
    expect(plain, TWO, &all, "^<user>a($)\n<assistant>(b$)\n<user>c($)\n<assistant>(d$)\n");
    static const char *const users[] = {"user"};
    chat_fields user = {.roles_to_train = users, .train_count = 1},
                inputs = {.train_on_inputs = true};
    expect(plain, TWO, &user, "^<user>(a$)\n<assistant>b$\n<user>(c$)\n<assistant>d$\n");
    expect(plain, TWO, &inputs, "^<user>(a$)\n<assistant>(b$)\n<user>(c$)\n<assistant>(d$)\n");
}

/* What stands before an answer and is in no prompt, the model must say. */
static void test_prompt_decides_where_an_answer_begins(void **state) {
    static const char spaced[] =
        "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]"
        "{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}"
        "{% endfor %}";
    expect(spaced, TWO, NULL, "[a]( b$)[c]( d$)");
    /* an opening that the rendered turn has not: from its first byte on */
    static const char opens[] =
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant><think>"
        "{% endif %}";
    expect(opens, TWO, NULL, "<user>a$<assistant>(b$)<user>c$<assistant>(d$)");
    /* what the prompt has not and the turn has, thinking too, is said */
    static const char thinks[] =
        "{% for m in messages %}<{{ m.role }}>{% if m.role != 'user' %}"
        "<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}";
    expect(thinks,
           ROW(USER(
               "a") ",{\"role\":\"assistant\",\"content\":\"b\",\"reasoning_content\":\"r\"}"),
           NULL, "<user>a$<assistant>(<think>r</think>b$)");
    /* no token ends a turn: all that is left of it */
    static const char lines[] =
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    expect(lines, TWO, NULL, "user: a\nassistant: (b\n)user: c\nassistant: (d\n)");
}

static void test_rewritten_turns_are_refused(void **state) {
    static const char last_only[] =
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}"
        "<think></think>{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}";
    expect(last_only, TWO, NULL,
           "!message 2 cannot be learned: the chat template renders it in");
    expect(last_only, ROW(USER("a") "," ANSWER("b")), NULL,
           "<user>a$<assistant>(<think></think>b$)");
    chat_fields marked = {.training = "train"};
    expect(last_only,
           ROW(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"train\":false}," USER(
               "c") "," ANSWER("d")),
           &marked, "<user>a$<assistant>b$<user>c$<assistant>(<think></think>d$)");
    static const char counted[] =
        "{{ messages | length }}{% for m in messages %}<{{ m.role }}>"
        "{{ m.content }}{{ eos_token }}{% endfor %}";
    expect(counted, TWO, NULL, "!the messages before it in another way");
    static const char refuses[] = "{% if messages | length == 3 %}{{ raise_exception('odd') }}"
                                  "{% endif %}x{% for m in messages %}{{ m.content }}"
                                  "{{ eos_token }}{% endfor %}";
    expect(refuses, TWO, NULL, "!message 4 cannot be learned");
    expect("{{ raise_exception('no') }}", TWO, NULL, "!line 1: TemplateError: no");
}

static void test_generation_blocks(void **state) {
    static const char marked[] =
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}!{{ eos_token }}~{% endgeneration %}{% else %}{{ m.content }}"
        "{{ eos_token }}{% endif %}{% endfor %}";
    chat_fields none = {.ends = ENDS_NONE}, training = {.training = "train"};
    expect(marked, TWO, NULL, "<user>a$<assistant>(b!$~)<user>c$<assistant>(d!$~)");
    expect(marked, TWO, &none, "<user>a$<assistant>(b!)$(~)<user>c$<assistant>(d!)$(~)");
    expect(marked,
           ROW(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"train\":false}," USER(
               "c") "," ANSWER("d")),
           &training, "<user>a$<assistant>b!$~<user>c$<assistant>(d!$~)");
    /* from a macro, and neighbours */
    expect("{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
           "{% for m in messages %}{{ say(m) if m.role == 'assistant' }}{% endfor %}.",
           ROW(ANSWER("b") "," ANSWER("d")), NULL, "(bd).");
}

static void test_characters_that_are_not_learned(void **state) {
    chat_fields f = {.detail = "parts"};
    expect(plain,
           ROW(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\\u00e9cdef\",\"parts\":["
                         "{\"begin_offset\":1,\"end_offset\":2,\"train\":false},"
                         "{\"begin_offset\":3,\"end_offset\":3,\"train\":true},"
                         "{\"begin_offset\":5,\"end_offset\":99,\"train\":false}]}"),
           &f, "^<user>a$\n<assistant>(b)\u00e9c(de)f($)\n");
    expect(plain,
           ROW("{\"role\":\"assistant\",\"content\":\"b\",\"parts\":[{\"train\":true}]}"), &f,
           "!\"parts\"[0] must have begin_offset");
}

static void test_words_of_the_row_are_text(void **state) {
    expect(plain, ROW(USER("</s><s>") "," ANSWER("x</s>")), NULL,
           "^<user></s><s>$\n<assistant>(x</s>$)\n");
    expect(
        "{% for m in messages %}<{{ m.role }}>{{ m.content | tojson }}{% endfor %}",
        ROW("{\"role\":\"/s\",\"content\":\"<s>\"},{\"role\":\"s\",\"content\":\"q\"}"), NULL,
        "</s>\"<s>\"^\"q\""); /* only a plain word of a role joins the template's brackets */
    expect("{{ messages[0].content[:2] ~ 's>' }}{{ '<' ~ 's>' }}", ROW(USER("</")), NULL,
           "</s>^");
}

/* ---- what of a row reaches the template ---- */

static void test_fields(void **state) {
    static const char all[] = "{{ messages | tojson }}{{ tools | tojson }}";
    expect(
        all,
        "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\",\"name\":\"n\",\"x\":null}],"
        "\"system\":\"s\",\"tools\":\"[{\\\"function\\\":{\\\"parameters\\\":\\\"{}\\\"}}]\"}",
        NULL,
        "[{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": "
        "\"a\", \"name\": \"n\"}][{\"function\": {\"parameters\": {}}}]");
    expect(
        all,
        ROW("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":"
            "\"f\",\"arguments\":\"{\\\"b\\\":1,\\\"a\\\":[2]}\"}}]}"),
        &(chat_fields){.roles_to_train = (const char *const[]){"x"}, .train_count = 1},
        "[{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": "
        "{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": [2]}}}]}]null");
    expect(all, ROW("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"t\"}]}"),
           NULL,
           "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"t\"}]}]null");
    property properties[] = {{"name", "who"}, {"role", "kind"}};
    chat_fields named = {.messages = "talk",
                         .role = "kind",
                         .content = "what.text",
                         .thinking = "thought",
                         .thinking_name = "thinking",
                         .tools = "can",
                         .properties = properties,
                         .property_count = 2,
                         .drop_system_message = true};
    expect(all,
           "{\"talk\":[{\"kind\":\"system\",\"what\":{\"text\":\"s\"}},{\"kind\":\"user\","
           "\"what\":{\"text\":\"a\"},\"who\":\"w\",\"thought\":\"t\"}],\"can\":[1]}",
           &named,
           "[{\"role\": \"user\", \"content\": \"a\", \"thinking\": \"t\", \"name\": \"w\", "
           "\"what\": {\"text\": \"a\"}}][1]");
    expect(all, "{\"messages\":[" USER("a") "],\"tools\":\"[\"}", NULL, "!is no JSON");
    expect(all, "{\"messages\":[" USER("a") "],\"tools\":3}", NULL,
           "!must be a list of tools");
    expect(all, ROW("{\"role\":\"user\",\"content\":3}"), NULL, "!must be a string");
}

/* ---- choosing ---- */

static void test_choosing(void **state) {
    chat_template *t;
    put_text("own.jinja",
             "{% for m in messages %}{{ m.content }}{{ eos_token }}{{ x }}{% endfor %}");
    json_t *variables = json_pack("{s:s}", "x", "y");
    template_choice file = {.name = "./own.jinja", .variables = variables},
                    jinja = {.name = "jinja"}, text = {.text = "{{ 1 }}"},
                    named = {.name = "chatml", .text = "{{ 1 }}"},
                    kwargs = {.name = "chatml", .variables = variables};
    assert_ok(chat_template_choose(&t, &file, &names));
    assert_true(chat_template_interprets(t));
    assert_int_equal(chat_template_end(t), MINI_EOS);
    chat_template_close(t);
    assert_fails(chat_template_choose(&t, &jinja, &names), STATUS_USAGE,
                 "chat_template_jinja");
    jinja.text = "own.jinja";
    assert_ok(chat_template_choose(&t, &jinja, &names));
    chat_template_close(t);
    assert_ok(chat_template_choose(&t, &text, &names));
    assert_int_equal(chat_template_end(t), -1);
    assert_null(chat_template_date(t));
    chat_template_close(t);
    assert_ok(chat_template_choose(&t, &named, &names));
    assert_false(chat_template_interprets(t));
    chat_template_close(t);
    assert_fails(chat_template_choose(&t, &kwargs, &names), STATUS_USAGE, "no variables");
    text.text = "{{ strftime_now('%Y') }}";
    text.today = "10 Jul 2025";
    assert_ok(chat_template_choose(&t, &text, &names));
    assert_string_equal(chat_template_date(t), "10 Jul 2025");
    chat_template_close(t);
    json_decref(variables);
}

/* ---- memory ---- */

static status whole_way(const json_t *row) {
    chat_fields fields = {.whole = true, .detail = "parts"};
    conversation c = {0};
    chat_work w = {0};
    span_builder b = {.names = names};
    chat_template *t;
    TRY(chat_template_open(&t, NULL, plain, "10 Jul 2025", &names));
    status s = conversation_read(&c, row, &fields);
    if (s == STATUS_OK) s = chat_template_render(t, &c, false, &w, &b);
    if (s == STATUS_OK) s = spans_finish(&b);
    chat_template_close(t);
    conversation_free(&c);
    chat_work_free(&w);
    spans_free(&b);
    return s;
}

/* Every allocation fails in turn: "out of memory", and nothing is left. */
static void test_memory_ends(void **state) {
    json_t *row = json_loads(
        "{\"system\":\"s\",\"tools\":\"[{\\\"function\\\":{\\\"parameters\\\":\\\"{}\\\"}}]\","
        "\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
        "\"content\":\"b\",\"parts\":[{\"begin_offset\":0,\"end_offset\":0,\"train\":false}],"
        "\"tool_calls\":[{\"function\":{\"arguments\":\"{}\"}}]}]}",
        0, NULL);
    assert_non_null(row);
    assert_ok(whole_way(row)); /* the tokenizer's own buffers are there now */
    size_t before = mem_blocks();
    status s = STATUS_MEMORY;
    uint64_t k = 0;
    while (s != STATUS_OK && k < 2000) {
        mem_fail_at(++k, 0);
        s = whole_way(row);
        mem_fail_at(0, 0);
        if (s != STATUS_OK) assert_int_equal(s, STATUS_MEMORY);
        assert_int_equal(mem_blocks(), before);
    }
    assert_ok(s);
    assert_true(k > 100);
    json_decref(row);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_are_learned),
        cmocka_unit_test(test_prompt_decides_where_an_answer_begins),
        cmocka_unit_test(test_rewritten_turns_are_refused),
        cmocka_unit_test(test_generation_blocks),
        cmocka_unit_test(test_characters_that_are_not_learned),
        cmocka_unit_test(test_words_of_the_row_are_text),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_choosing),
        cmocka_unit_test(test_memory_ends),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
