/* template.c: the table of built-in templates, and choosing a template. See template.h.
 *
 * A style says what stands before and after a turn of each role; flags name the few rules that
 * templates have beyond that. Literals are written with LITERAL_* marks. */
#include "data/template_style.h"
#include "common/alloc.h"
#include "common/file.h"
#include "data/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHATML_TURN                                                                           \
    .before[ROLE_OTHER] = "<|im_start|>" LITERAL_ROLE "\n",                                   \
    .after[ROLE_OTHER] = "<|im_end|>\n", .prompt = "<|im_start|>assistant\n"
#define LLAMA3_HEAD(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define LLAMA3_TURN                                                                           \
    .before[ROLE_OTHER] = LLAMA3_HEAD(LITERAL_ROLE), .after[ROLE_OTHER] = "<|eot_id|>",       \
    .prompt = LLAMA3_HEAD("assistant")
#define MISTRAL(user_before, user_after, answer_before, answer_after)                         \
    .begin = LITERAL_BOS, .before[ROLE_USER] = user_before, .after[ROLE_USER] = user_after,   \
    .before[ROLE_ASSISTANT] = answer_before, .after[ROLE_ASSISTANT] = answer_after
#define PHI_TURN(role) "<|" role "|>\n"
#define PHI35                                                                                 \
    .before = {PHI_TURN("system"), PHI_TURN("user"), PHI_TURN("assistant")},                  \
    .after = {"<|end|>\n", "<|end|>\n", "<|end|>\n"}, .prompt = PHI_TURN("assistant")
#define QWEN_SYSTEM "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

static const style styles[] = {
    {.name = "chatml", CHATML_TURN},
    {.name = "qwen_25",
     .flags = DEFAULT_SYSTEM | SKIP_OTHERS | TOOLS,
     .default_system = QWEN_SYSTEM,
     CHATML_TURN},
    {.name = "qwen3", .flags = SKIP_OTHERS | TOOLS | THINK, CHATML_TURN},
    {.name = "llama3", .flags = TRIM, .begin = LITERAL_BOS, LLAMA3_TURN},
    {.name = "mistral_v1",
     .flags = ALTERNATE,
     MISTRAL(" [INST] ", " [/INST]", " ", LITERAL_EOS)},
    {.name = "mistral_v2v3",
     .flags = ALTERNATE,
     MISTRAL("[INST] ", "[/INST]", " ", LITERAL_EOS)},
    {.name = "mistral_v3_tekken",
     .flags = ALTERNATE,
     MISTRAL("[INST]", "[/INST]", "", LITERAL_EOS)},
    {.name = "alpaca",
     .flags = SYSTEM_ONLY_FIRST | SKIP_OTHERS,
     .begin = LITERAL_BOS,
     .before = {"", "### Instruction:\n", "### Response:\n"},
     .after = {"", "", LITERAL_EOS},
     .between = "\n\n",
     .prompt = "\n\n### Response:\n"},
    {.name = "gemma",
     .flags = TRIM | ALTERNATE,
     .begin = LITERAL_BOS,
     .before = {NULL, "<start_of_turn>user\n", "<start_of_turn>model\n"},
     .after = {NULL, "<end_of_turn>\n", "<end_of_turn>\n"},
     .prompt = "<start_of_turn>model\n"},
    {.name = "phi_3",
     .flags = SKIP_OTHERS,
     .begin = LITERAL_BOS,
     .before = {PHI_TURN("system"), PHI_TURN("user"), ""},
     .after = {"<|end|>\n", "<|end|>\n" PHI_TURN("assistant"), "<|end|>\n"}},
    {.name = "phi_35", .flags = SKIP_OTHERS | SYSTEM_NOT_EMPTY, PHI35},
};
enum { STYLES = sizeof styles / sizeof *styles };

/* ---- choosing ---- */

const char *chat_template_names(void) {
    return "chatml, llama3, qwen_25, qwen3, mistral_v1, mistral_v2v3, mistral_v3_tekken, "
           "alpaca, "
           "gemma, phi_3, phi_35";
}

static const style *find_style(const char *name) {
    if (!strcmp(name, "mistral")) name = "mistral_v1";
    for (int i = 0; i < STYLES; i++)
        if (!strcmp(styles[i].name, name)) return &styles[i];
    return NULL;
}

/* ---- interpreted templates ---- */

static const char *token_text(const token_names *names, int32_t id) {
    return id < 0 || !names->tokenizer ? NULL : tokenizer_token(names->tokenizer, id);
}

/* What the template is given beside the row, as transformers gives it. */
static status make_settings(chat_template *t) {
    const char *bos = token_text(&t->names, t->names.bos),
               *eos = token_text(&t->names, t->names.eos);
    t->settings = json_object();
    json_put(&t->settings, "tools", json_null());
    json_put(&t->settings, "documents", json_null());
    if (bos) json_put(&t->settings, "bos_token", json_string(bos));
    if (eos) json_put(&t->settings, "eos_token", json_string(eos));
    return t->settings ? STATUS_OK : status_fail(STATUS_MEMORY, "out of memory");
}

static chat_view view_of(const chat_template *t) {
    return (chat_view){t->jinja, t->settings, t->names, t->date};
}

static status interpret(chat_template *t, const char *text, const char *where) {
    t->text_hash = hash_bytes(text, strlen(text));
    status s = jinja_compile(&t->jinja, text, strlen(text), where, STATUS_MODEL);
    return s == STATUS_OK ? make_settings(t) : s;
}

/* A template's text, or a file with one. */
enum { FILE_LIMIT = 4 << 20 };
static status interpret_file(chat_template *t, const char *path) {
    char *text;
    size_t bytes;
    status s = file_read_all(path, FILE_LIMIT, &text, &bytes);
    if (s != STATUS_OK) return s == STATUS_IO ? STATUS_USAGE : s;
    s = interpret(t, text, path);
    mem_free(text);
    return s;
}

static status choose_own(chat_template *t, const char *own) {
    if (!own)
        return status_fail(
            STATUS_MODEL,
            "the model has no chat template of its own: set `chat_template:` to one "
            "of %s, or to a file with a template",
            chat_template_names());
    return interpret(t, own, "the model's chat template");
}

static bool is_path(const char *name) {
    size_t n = strlen(name);
    return strchr(name, '/') || (n > 6 && !strcmp(name + n - 6, ".jinja"));
}

static status choose(chat_template *t, const char *name, const char *own) {
    static const char fallback[] = "tokenizer_default_fallback_";
    if (!name || !*name || !strcmp(name, "tokenizer_default")) return choose_own(t, own);
    if (!strncmp(name, fallback, sizeof fallback - 1)) {
        if (own) return choose_own(t, own);
        name += sizeof fallback - 1;
    }
    if (is_path(name)) return interpret_file(t, name);
    t->style = find_style(name);
    if (!t->style)
        return status_fail(STATUS_USAGE,
                           "chat_template: there is no `%s` here; choose one of %s, or a file "
                           "with a template",
                           name, chat_template_names());
    return STATUS_OK;
}

void template_today(char out[TEMPLATE_DATE]) {
    const char *fixed = getenv("SOURCE_DATE_EPOCH");
    time_t now = fixed ? (time_t)strtoll(fixed, NULL, 10) : time(NULL);
    struct tm day;
    if (!(fixed ? gmtime_r(&now, &day) : localtime_r(&now, &day))) memset(&day, 0, sizeof day);
    strftime(out, TEMPLATE_DATE, "%d %b %Y", &day);
}

static void set_date(chat_template *t, const char *today) {
    if (!jinja_has_date(t->jinja)) return;
    if (today)
        snprintf(t->date, sizeof t->date, "%s", today);
    else
        template_today(t->date);
}

static status compile_turn(chat_template *t, int role, const token_names *names) {
    const style *s = t->style;
    const char *before = s->before[role], *after = s->after[role];
    if (!before && role != ROLE_OTHER)
        before = s->before[ROLE_OTHER], after = s->after[ROLE_OTHER];
    if (!before) return STATUS_OK;
    TRY(literal_compile(&t->before[role], before, names));
    return literal_compile(&t->after[role], after, names);
}

static status compile(chat_template *t, const token_names *names) {
    const style *s = t->style;
    for (int role = 0; role < ROLES; role++) TRY(compile_turn(t, role, names));
    TRY(literal_compile(&t->begin, s->begin ? s->begin : "", names));
    TRY(literal_compile(&t->between, s->between ? s->between : "", names));
    TRY(literal_compile(&t->prompt, s->prompt ? s->prompt : "", names));
    TRY(literal_compile(&t->think, "<think>", names));
    return literal_compile(&t->no_think, "<think>\n\n</think>\n\n", names);
}

/* What is left to do once the template is chosen. */
static status finish(chat_template *t, const char *today) {
    if (t->jinja) {
        set_date(t, today);
        if (!t->names.tokenizer) return STATUS_OK; /* for text alone */
        chat_view v = view_of(t);
        return chat_view_end(&v, &t->turn_end);
    }
    if (t->style->default_system) {
        t->default_system = mem_strdup(t->style->default_system);
        if (!t->default_system) return STATUS_MEMORY;
    }
    return compile(t, &t->names);
}

static status start(chat_template **out, const token_names *names) {
    unicode_setup();
    *out = mem_alloc(sizeof **out, "a chat template");
    if (!*out) return STATUS_MEMORY;
    (*out)->names = *names;
    (*out)->turn_end = -1;
    return STATUS_OK;
}

static status end_start(chat_template **out, status s) {
    if (s == STATUS_OK) return s;
    chat_template_close(*out);
    *out = NULL;
    return s;
}

status chat_template_open(chat_template **out, const char *name, const char *own,
                          const char *today, const token_names *names) {
    template_choice c = {.name = name, .own = own, .today = today};
    return chat_template_choose(out, &c, names);
}

static status choose_text(chat_template *t, const char *text) {
    bool file = !strchr(text, '{') && !strchr(text, '\n');
    return file ? interpret_file(t, text) : interpret(t, text, "chat_template_jinja");
}

static status set_variables(chat_template *t, const json_t *variables) {
    if (!json_object_size(variables)) return STATUS_OK;
    if (!t->jinja)
        return status_fail(STATUS_USAGE,
                           "chat_template_kwargs: the built-in template %s has no variables; "
                           "the model's own may (chat_template: tokenizer_default)",
                           t->style->name);
    if (json_object_update(t->settings, (json_t *)variables))
        return status_fail(STATUS_MEMORY, "out of memory");
    return STATUS_OK;
}

status chat_template_choose(chat_template **out, const template_choice *c,
                            const token_names *names) {
    bool named = c->name && *c->name && strcmp(c->name, "jinja") != 0;
    if (!c->text && c->name && !strcmp(c->name, "jinja"))
        return status_fail(STATUS_USAGE,
                           "chat_template: jinja needs chat_template_jinja, a template's text "
                           "or file");
    TRY(start(out, names));
    status s = c->text && !named ? choose_text(*out, c->text) : choose(*out, c->name, c->own);
    if (s == STATUS_OK) s = set_variables(*out, c->variables);
    if (s == STATUS_OK) s = finish(*out, c->today);
    return end_start(out, s);
}

status chat_template_identify(const chat_template *t, hash_stream *h) {
    hash_update(h, chat_template_name(t), strlen(chat_template_name(t)));
    if (!t->jinja) return STATUS_OK;
    char *settings = json_write_text(t->settings, JSON_SORT_KEYS);
    if (!settings) return STATUS_MEMORY;
    hash_update(h, settings, strlen(settings));
    hash_update(h, &t->text_hash, sizeof t->text_hash);
    mem_free(settings);
    return STATUS_OK;
}

void chat_template_close(chat_template *t) {
    if (!t) return;
    for (int role = 0; role < ROLES; role++) {
        literal_free(&t->before[role]);
        literal_free(&t->after[role]);
    }
    literal *rest[] = {&t->begin, &t->between, &t->prompt, &t->think, &t->no_think};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) literal_free(rest[i]);
    jinja_free(t->jinja);
    json_decref(t->settings);
    mem_free(t->default_system);
    mem_free(t);
}

const char *chat_template_name(const chat_template *t) {
    return t->jinja ? "tokenizer_default" : t->style->name;
}

const char *chat_template_date(const chat_template *t) {
    return *t->date ? t->date : NULL;
}

bool chat_template_interprets(const chat_template *t) {
    return t->jinja != NULL;
}

bool chat_template_refuses_tools(const chat_template *t) {
    return t->style && t->style->flags & TOOLS;
}

int32_t chat_template_end(const chat_template *t) {
    const literal *after = &t->after[ROLE_ASSISTANT];
    for (size_t i = 0; i < after->count; i++)
        if (after->parts[i].id >= 0) return after->parts[i].id;
    return t->turn_end;
}

status chat_template_render(const chat_template *t, const conversation *c, bool prompt,
                            chat_work *w, span_builder *b) {
    if (!t->jinja) return chat_style_render(t, c->items, c->count, prompt, b);
    chat_view v = view_of(t);
    return chat_view_render(&v, c, prompt, w, b);
}

status chat_template_text(const chat_template *t, const json_t *data, bool prompt,
                          chat_work *w, const char **text, size_t *bytes, const char **error) {
    *error = NULL;
    if (!t->jinja)
        return status_fail(STATUS_USAGE, "the built-in template %s gives no text, only tokens",
                           t->style->name);
    chat_view v = view_of(t);
    status s = chat_view_text(&v, data, prompt, w);
    if (s == STATUS_DATA && *w->rendering.error) *error = w->rendering.error;
    *text = w->rendering.text, *bytes = w->rendering.bytes;
    return s;
}
