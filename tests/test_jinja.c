/* test_jinja.c: the interpreter of templates: the fixtures' renderings byte for byte, errors
 * included; small templates with what jinja2 makes of them; where the bytes come from; what is
 * refused; and what hostile templates may cost. */
#include "scratch.h"

#include "common/alloc.h"
#include "common/file.h"
#include "common/json.h"
#include "data/jinja/jinja.h"

#include <time.h>

static struct tm today;
static jinja_rendering r = {.today = &today};

static status render(const char *template, const json_t *settings, const json_t *data,
                     bool prompt) {
    jinja_template *t;
    TRY(jinja_compile(&t, template, strlen(template), "template", STATUS_MODEL));
    *r.error = 0;
    status s = jinja_load(&r, settings, data);
    if (s == STATUS_OK) s = jinja_render(t, &r, SIZE_MAX, prompt);
    jinja_free(t);
    return s;
}

static const char *text_of(const json_t *o, const char *key) {
    return json_string_value(json_object_get(o, key));
}

/* ---- the fixtures ---- */

/* The template that a golden row names: a file, or a tokenizer's own. */
static char *golden_template(const char *name) {
    char path[600], *text;
    size_t bytes;
    const char *base = strchr(name, '/') + 1;
    if (strstr(base, ".jinja")) {
        snprintf(path, sizeof path, "%s/templates/%s", FIXTURES, base);
        assert_ok(file_read_all(path, 1 << 20, &text, &bytes));
        return text;
    }
    json_t *config;
    snprintf(path, sizeof path, "%s/tokenizers/%s/tokenizer_config.json", FIXTURES, base);
    assert_ok(json_read_file(path, 1 << 26, STATUS_DATA, &config));
    text = mem_strdup(text_of(config, "chat_template"));
    json_decref(config);
    return text;
}

static void test_golden_renderings(void **state) {
    need_fixtures();
    json_t *all, *want,
        *settings = json_pack("{s:s, s:s}", "bos_token", "<s>", "eos_token", "</s>");
    size_t i, equal = 0, refused = 0;
    assert_ok(json_read_file(FIXTURES "/expectations/golden-templates/chat_templates.json",
                             1 << 24, STATUS_DATA, &all));
    json_array_foreach(json_object_get(all, "rows"), i, want) {
        const char *conversation = text_of(want, "conv"), *output = text_of(want, "output");
        char *template = golden_template(text_of(want, "template"));
        bool tools = !strcmp(conversation, "tools");
        json_t *data = json_pack(
            "{s:O, s:O?, s:n}", "messages",
            json_object_get(json_object_get(all, "conversations"), conversation), "tools",
            tools ? json_object_get(all, "tools") : json_null(), "documents");
        status s = render(template, settings, data,
                          json_is_true(json_object_get(want, "add_generation_prompt")));
        if (output) {
            if (s) fail_msg("%s: %s", text_of(want, "template"), status_message());
            assert_int_equal(r.bytes, strlen(output));
            assert_memory_equal(r.text, output, r.bytes);
            equal++;
        } else {
            assert_int_equal(s, STATUS_DATA);
            assert_string_equal(r.error, text_of(want, "error"));
            refused++;
        }
        mem_free(template);
        json_decref(data);
    }
    assert_int_equal(equal + refused, 224);
    assert_int_equal(refused, 24);
    json_decref(settings);
    json_decref(all);
}

/* ---- small templates ---- */

static const char small_data[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\" Hi <s> \"},"
    "{\"role\":\"assistant\",\"content\":\"n\\u00e4\\\"y\",\"name\":\"b\"}],"
    "\"s\":\"Hello, World\",\"n\":5,\"f\":2.5,\"l\":[3,1,2],"
    "\"d\":{\"k\":\"v\",\"items\":1,\"z\":[null,true,1e20]}}";

static void test_small_templates(void **state) {
    static const struct {
        const char *template, *want; /* NULL: see `error` */
        const char *error;
    } rows[] = {
        {"{{ s }} {{ missing }}{{ n / 2 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ 2 ** 3 }}",
         "Hello, World 2.5 -4 2 8", NULL},
        {"{% for x in l %}{{ loop.index }}{{ x }}{% if not loop.last %},{% endif %}{% endfor "
         "%}",
         "13,21,32", NULL},
        {"{% for x in l if x > 1 %}{{ loop.length }}{{ x }}{% else %}none{% endfor %}", "2322",
         NULL},
        {"{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "32",
         NULL},
        {"  {% if true %}\n  a\n  {% endif %}\nb", "  a\nb", NULL},
        {"a  {%- if true -%}  b  {%- endif %}\nc", "abc", NULL},
        {"{% raw %}{{ x }}{% endraw %}{# no #}!", "{{ x }}!", NULL},
        {"{% set ns = namespace(n=0) %}{% for x in l %}{% set ns.n = ns.n + x %}{% endfor %}"
         "{{ ns.n }}",
         "6", NULL},
        {"{% set x = 1 %}{% for y in l %}{% set x = y %}{% endfor %}{{ x }}", "1", NULL},
        {"{% macro m(a, b='B') %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}"
         "{{ m(1) }}{{ m(b=2, a=1) }}{% call m('x') %}c{% endcall %}",
         "1B12xBc", NULL},
        {"{% for x in [[1, [2]], [3]] recursive %}{{ loop.depth }}{{ loop(x) if x is iterable "
         "and x is not string else x }}{% endfor %}",
         "121232123", NULL},
        {"{{ s[::-1] }} {{ s[-5:] }} {{ s[7:9] }} {{ l[::-1] }}",
         "dlroW ,olleH World Wo [2, 1, 3]", NULL},
        {"{{ d }} {{ d.items() | list | length }} {{ d['items'] }} {{ d | tojson }}",
         "{'k': 'v', 'items': 1, 'z': [None, True, 1e+20]} 3 1 "
         "{\"k\": \"v\", \"items\": 1, \"z\": [null, true, 1e+20]}",
         NULL},
        {"{{ messages | map(attribute='role') | join('+') }}"
         "{{ messages | selectattr('name', 'defined') | list | length }}",
         "user+assistant1", NULL},
        {"{{ '%s|%5.1f|%d' % (s, f, n) }} {{ '{} {a}'.format(n, a=s) }}",
         "Hello, World|  2.5|5 5 Hello, World", NULL},
        {"{% filter upper %}{{ s }}{% endfilter %}{% set x %}y{{ n }}{% endset %}{{ x }}",
         "HELLO, WORLDy5", NULL},
        {"{{ strftime_now('%d %b %Y') }} {{ 'x' if false }}{{ 1 < n <= 5 }}",
         "10 Jul 2025 True", NULL},
        {"{{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e15 }} {{ 100 / 3 }} {{ 1e-5 }}",
         "0.30000000000000004 1e+16 1000000000000000.0 33.333333333333336 1e-05", NULL},
        {"{{ missing.x }}", NULL, "UndefinedError: 'missing' is undefined"},
        {"{{ d.q.x }}", NULL, "UndefinedError: 'dict object' has no attribute 'q'"},
        {"{{ s + n }}", NULL, "TypeError: can only concatenate str (not \"int\") to str"},
        {"{{ l.append(1) }}", NULL,
         "SecurityError: access to attribute 'append' of 'list' object is unsafe."},
        {"{{ s[''] }}{{ n[''] }}|", "|", NULL},
        {"{{ raise_exception('no ' ~ n) }}", NULL, "TemplateError: no 5"},
        {"{% for a, b in l %}{% endfor %}", NULL,
         "TypeError: cannot unpack non-iterable int object"},
    };
    json_t *data = json_loads(small_data, 0, NULL), *settings = json_object();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        status s = render(rows[i].template, settings, data, false);
        char got[400] = "";
        if (s == STATUS_OK)
            snprintf(got, sizeof got, "%.*s", (int)r.bytes, r.text);
        else
            snprintf(got, sizeof got, "%s", r.error);
        if (!*got && s) fail_msg("%s: %s", rows[i].template, status_message());
        assert_string_equal(got, rows[i].want ? rows[i].want : rows[i].error);
        assert_int_equal(s == STATUS_OK, rows[i].want != NULL);
    }
    json_decref(data);
    json_decref(settings);
}

/* ---- where bytes come from ---- */

static void test_provenance(void **state) {
    json_t *data = json_loads(small_data, 0, NULL),
           *settings = json_pack("{s:s}", "bos_token", "<s>");
    assert_ok(
        render("{{ bos_token }}{% for m in messages %}[{{ m.role | upper }}]"
               "{% generation %}{{ (m.content ~ '.') | trim | tojson }}{% endgeneration %}"
               "{% endfor %}",
               settings, data, false));
    char got[600] = "";
    for (size_t i = 0, at = 0; i < r.run_count; at += r.runs[i++].bytes) {
        const jinja_run *run = &r.runs[i];
        const jinja_source *source = run->source ? &r.sources[run->source - 1] : NULL;
        sprintf(got + strlen(got), "%s%.*s|", run->flags & JINJA_GENERATED ? "+" : "",
                (int)run->bytes, r.text + at);
        if (source)
            sprintf(got + strlen(got) - 1, "(%s %d@%u)|", source->field, source->message,
                    run->offset);
    }
    assert_string_equal(got, "<s>[|USER(role 0@0)|]|+\"|+Hi <s> (content 0@1)|+.\"|[|"
                             "ASSISTANT(role 1@0)|]|+\"|+n\u00e4\\\"(content 1@0)|"
                             "+y(content 1@4)|+.\"|");
    json_decref(data);
    json_decref(settings);
}

/* A list cut short is what the template sees of the messages. */
static void test_first_messages(void **state) {
    json_t *data = json_loads(small_data, 0, NULL), *settings = json_object();
    static const char text[] = "{% for m in messages %}{{ m.role }};{% endfor %}"
                               "{{ '>' if add_generation_prompt }}";
    jinja_template *t;
    assert_ok(jinja_compile(&t, text, sizeof text - 1, "template", STATUS_MODEL));
    assert_ok(jinja_load(&r, settings, data));
    assert_ok(jinja_render(t, &r, 1, true));
    const char *first = r.text;
    assert_memory_equal(r.text, "user;>", r.bytes);
    assert_ok(jinja_render(t, &r, 2, false));
    assert_memory_equal(r.text, "user;assistant;", r.bytes);
    assert_memory_equal(first, "user;>", 6); /* older results stay */
    assert_true(jinja_has_variable(t, "messages") && !jinja_has_variable(t, "tools"));
    assert_false(jinja_has_generation(t) || jinja_has_date(t));
    jinja_free(t);
    json_decref(data);
    json_decref(settings);
}

/* ---- what is refused ---- */

static void test_refused_when_compiled(void **state) {
    static const struct {
        const char *template, *words;
    } rows[] = {{"a\n {% include 'x' %}", "template:2:5: the tag `include` is not known here"},
                {"{{ x | urlize }}", "template:1:8: the filter `urlize` is not supported"},
                {"{{ x is filter }}", "the test `filter`"},
                {"{% if x %}", "{% elif %} is missing"},
                {"{{ x", "`}}` is expected here, not the end of the template"},
                {"{{ 'x }}", "without its end"},
                {"{% break %}", "outside of a loop"},
                {"{{ 99999999999999999999 }}", "64 bits"},
                {"{# x", "Missing end of comment"},
                {"{{ (] }}", "closing bracket"},
                {"{% set 1 = 2 %}", "can't assign"},
                {"{% for loop in x %}{% endfor %}", "special loop variable"},
                {"{{ \"\xff\" }}", "no UTF-8"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        jinja_template *t;
        status s = jinja_compile(&t, rows[i].template, strlen(rows[i].template), "template",
                                 STATUS_MODEL);
        assert_int_equal(s, STATUS_MODEL);
        if (!strstr(status_message(), rows[i].words)) fail_msg("%s", status_message());
    }
}

static char *repeated(const char *head, const char *part, size_t times, const char *tail) {
    size_t n = strlen(part);
    char *text = mem_alloc(strlen(head) + n * times + strlen(tail) + 1, "a test");
    char *p = text + sprintf(text, "%s", head);
    for (size_t i = 0; i < times; i++, p += n) memcpy(p, part, n);
    strcpy(p, tail);
    return text;
}

/* Each ends soon, with a status and a message. */
static void test_hostile_templates(void **state) {
    static const char *const templates[] = {
        "{% for x in range(10**9) %}x{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ [1] * 10**9 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('aaaaaaaaaaaaaaaa') }}",
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}"
        "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% for x in [[]] recursive %}{{ loop([x]) }}{% endfor %}",
        "{{ 'x' | center(10**9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ range(99999) | map('string') | map('center', 99999) | list }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    };
    json_t *data = json_object(), *settings = json_object();
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        clock_t begin = clock();
        status_clear();
        status s = render(templates[i], settings, data, false);
        double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
        if (s != STATUS_DATA || !*r.error) fail_msg("%s: %d", templates[i], s);
        if (seconds > 10) fail_msg("%s: %.1f s", templates[i], seconds);
    }
    static const struct {
        const char *head, *part, *tail;
    } deep[] = {{"{{ ", "(", ""},
                {"{{ ", "[", ""},
                {"", "{% if 1 %}", ""},
                {"{{ ", "not ", "1 }}"},
                {"{{ ", "-", "1 }}"},
                {"{{ 1", "+1", " }}"},
                {"{{ 1", " if 1 else 1", " }}"},
                {"{{ x", ".a", " }}"},
                {"{{ x", " | list", " }}"},
                {"{% if 1 %}", "{% elif 1 %}", "{% endif %}"}};
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        char *text = repeated(deep[i].head, deep[i].part, 100000, deep[i].tail);
        assert_int_equal(render(text, settings, data, false), STATUS_MODEL);
        mem_free(text);
    }
    json_decref(data);
    json_decref(settings);
    jinja_rendering_free(&r);
    r.today = &today;
}

/* Every allocation fails in turn: the row ends with "out of memory" and nothing is left. */
static void test_memory_ends(void **state) {
    static const char template[] =
        "{% macro m(a, *b) %}{% endmacro %}{% for m in messages recursive %}"
        "{% set x %}{{ m.content | trim | tojson(indent=2) }}{% endset %}{{ x.split() | join "
        "}}"
        "{{ {'a': [1, 2] | map('string') | list} }}{{ '%s' % s }}{% endfor %}";
    static const char good[] =
        "{% macro m(a, b=1) %}{{ a ~ b }}{% endmacro %}{% for m in messages recursive %}"
        "{% set x %}{{ m.content | trim | tojson(indent=2) }}{% endset %}{{ x.split() | join "
        "}}"
        "{{ {'a': [1, 2] | map('string') | list} }}{{ '%s' % s }}{{ m2 }}{% endfor %}{{ m(s) "
        "}}";
    json_t *data = json_loads(small_data, 0, NULL), *settings = json_object();
    assert_int_equal(render(template, settings, data, false), STATUS_MODEL);
    jinja_rendering_free(&r);
    size_t before = mem_blocks();
    status s = STATUS_MEMORY;
    for (uint64_t k = 1; s != STATUS_OK && k < 500; k++) {
        mem_fail_at(k, 0);
        s = render(good, settings, data, false);
        mem_fail_at(0, 0);
        if (s != STATUS_OK) assert_int_equal(s, STATUS_MEMORY);
        jinja_rendering_free(&r);
        assert_int_equal(mem_blocks(), before);
    }
    assert_ok(s);
    r.today = &today;
    json_decref(data);
    json_decref(settings);
}

static int teardown(void **state) {
    jinja_rendering_free(&r);
    return 0;
}

int main(void) {
    time_t when = 1752148800; /* 10 July 2025 */
    gmtime_r(&when, &today);
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_renderings),
        cmocka_unit_test(test_small_templates),
        cmocka_unit_test(test_provenance),
        cmocka_unit_test(test_first_messages),
        cmocka_unit_test(test_refused_when_compiled),
        cmocka_unit_test(test_hostile_templates),
        cmocka_unit_test(test_memory_ends),
    };
    return cmocka_run_group_tests(tests, NULL, teardown);
}
