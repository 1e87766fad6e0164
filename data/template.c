/* template.c: the table of templates, and choosing one of them. See template.h.
 *
 * A style says what stands before and after a turn of each role; flags name the few rules that
 * templates have beyond that. Literals are written with LITERAL_* marks. */
#include "data/template_style.h"
#include "common/alloc.h"
#include "common/hash.h"
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
#define LLAMA31_BEGIN                                                                         \
    LITERAL_BOS LLAMA3_HEAD("system") "Cutting Knowledge Date: December 2023\n"               \
                                      "Today Date: "
#define MISTRAL(user_before, user_after, answer_before, answer_after)                         \
    .begin = LITERAL_BOS, .before[ROLE_USER] = user_before, .after[ROLE_USER] = user_after,   \
    .before[ROLE_ASSISTANT] = answer_before, .after[ROLE_ASSISTANT] = answer_after
#define PHI_TURN(role) "<|" role "|>\n"
#define PHI35                                                                                 \
    .before = {PHI_TURN("system"), PHI_TURN("user"), PHI_TURN("assistant")},                  \
    .after = {"<|end|>\n", "<|end|>\n", "<|end|>\n"}, .prompt = PHI_TURN("assistant")
#define QWEN_SYSTEM "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

/* The names with a space are no names to choose: only models' own templates lead there. */
static const style styles[] = {
    {.name = "chatml", CHATML_TURN},
    {.name = "chatml with a system message", .flags = DEFAULT_SYSTEM, CHATML_TURN},
    {.name = "qwen_25",
     .flags = DEFAULT_SYSTEM | SKIP_OTHERS | TOOLS,
     .default_system = QWEN_SYSTEM,
     CHATML_TURN},
    {.name = "qwen3", .flags = SKIP_OTHERS | TOOLS | THINK, CHATML_TURN},
    {.name = "llama3", .flags = TRIM, .begin = LITERAL_BOS, LLAMA3_TURN},
    {.name = "llama 3.1",
     .flags = TRIM | SYSTEM_BLOCK | TOOLS,
     .begin = LLAMA31_BEGIN,
     LLAMA3_TURN},
    {.name = "llama 3.2",
     .flags = TRIM | SYSTEM_BLOCK | TOOLS | TODAY,
     .begin = LLAMA31_BEGIN,
     LLAMA3_TURN},
    {.name = "mistral_v1",
     .flags = ALTERNATE,
     MISTRAL(" [INST] ", " [/INST]", " ", LITERAL_EOS)},
    {.name = "mistral_v2v3",
     .flags = ALTERNATE,
     MISTRAL("[INST] ", "[/INST]", " ", LITERAL_EOS)},
    {.name = "mistral_v3_tekken",
     .flags = ALTERNATE,
     MISTRAL("[INST]", "[/INST]", "", LITERAL_EOS)},
    {.name = "mistral 7B v0.1",
     .flags = ALTERNATE,
     MISTRAL("[INST] ", " [/INST]", "", LITERAL_EOS " ")},
    {.name = "mixtral 8x7B",
     .flags = ALTERNATE,
     MISTRAL("[INST] ", " [/INST]", "", LITERAL_EOS)},
    {.name = "mistral with a system message",
     .flags = ALTERNATE | SYSTEM_FIRST,
     MISTRAL(" [INST] ", " [/INST]", " ", LITERAL_EOS)},
    {.name = "mistral nemo",
     .flags = ALTERNATE | SYSTEM_LAST | TOOLS,
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
    {.name = "phi 3", .flags = SKIP_OTHERS, PHI35, .end = LITERAL_EOS},
    {.name = "phi 3.5", .flags = SKIP_OTHERS | SYSTEM_NOT_EMPTY, PHI35, .end = LITERAL_EOS},
    {.name = "zephyr chat",
     .flags = SKIP_OTHERS,
     .before = {PHI_TURN("system"), PHI_TURN("user"), PHI_TURN("assistant")},
     .after = {LITERAL_EOS "\n", LITERAL_EOS "\n", LITERAL_EOS "\n"},
     .prompt = PHI_TURN("assistant")},
};
enum { STYLES = sizeof styles / sizeof *styles };

/* Models' own templates by the XXH3-128 of their text without one final line end. Where `tail`
 * is not 0 the template states a system message of its own: the hash is that of the first
 * `head` and the last `tail` bytes, the message is what stands between. */
static const struct known {
    uint64_t high, low;
    uint16_t head, tail;
    const char *style;
} known[] = {
#include "data/template_known.h"
};

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

/* A default system message is plain text inside a string literal of the template. */
static bool is_plain(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (text[i] == '\'' || text[i] == '\\' || text[i] == '{' || text[i] == '}')
            return false;
    return true;
}

static status recognise(const char *text, const style **out, char **default_system) {
    size_t n = strlen(text);
    if (n && text[n - 1] == '\n') n--; /* jinja drops it too */
    *out = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const struct known *k = &known[i];
        size_t head = k->head, tail = k->tail;
        if (tail ? n < head + tail : n != head) continue;
        hash_stream *h = hash_open();
        if (!h) return STATUS_MEMORY;
        hash_update(h, text, head);
        hash_update(h, text + n - tail, tail);
        hash128 sum = hash_close(h), wanted = {k->low, k->high};
        if (!hash_equal(sum, wanted) || !is_plain(text + head, n - tail - head)) continue;
        *out = find_style(k->style);
        if (!tail) return STATUS_OK;
        *default_system = mem_strndup(text + head, n - tail - head);
        return *default_system ? STATUS_OK : STATUS_MEMORY;
    }
    return STATUS_OK;
}

static status choose_own(chat_template *t, const char *own) {
    if (!own)
        return status_fail(
            STATUS_MODEL,
            "the model has no chat template of its own: set `chat_template:` to one "
            "of %s",
            chat_template_names());
    TRY(recognise(own, &t->style, &t->default_system));
    if (!t->style)
        return status_fail(STATUS_MODEL,
                           "the model's own chat template is none of those known here: set "
                           "`chat_template: chatml`, or another of %s",
                           chat_template_names());
    return STATUS_OK;
}

static status choose(chat_template *t, const char *name, const char *own) {
    static const char fallback[] = "tokenizer_default_fallback_";
    if (!name || !*name || !strcmp(name, "tokenizer_default")) return choose_own(t, own);
    if (!strncmp(name, fallback, sizeof fallback - 1)) {
        if (own) return choose_own(t, own);
        name += sizeof fallback - 1;
    }
    t->style = strchr(name, ' ') ? NULL : find_style(name);
    if (!t->style)
        return status_fail(STATUS_USAGE,
                           "chat_template: there is no `%s` here; choose one of %s", name,
                           chat_template_names());
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
    if (!(t->style->flags & SYSTEM_BLOCK)) return;
    if (!(t->style->flags & TODAY)) today = "26 Jul 2024"; /* what Llama 3.1's states always */
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
    TRY(literal_compile(&t->end, s->end ? s->end : "", names));
    TRY(literal_compile(&t->prompt, s->prompt ? s->prompt : "", names));
    TRY(literal_compile(&t->think, "<think>", names));
    return literal_compile(&t->no_think, "<think>\n\n</think>\n\n", names);
}

status chat_template_open(chat_template **out, const char *name, const char *own,
                          const char *today, const token_names *names) {
    *out = NULL;
    unicode_setup();
    chat_template *t = mem_alloc(sizeof *t, "a chat template");
    if (!t) return STATUS_MEMORY;
    status s = choose(t, name, own);
    if (s == STATUS_OK && !t->default_system && t->style->default_system) {
        t->default_system = mem_strdup(t->style->default_system);
        if (!t->default_system) s = STATUS_MEMORY;
    }
    if (s == STATUS_OK) {
        set_date(t, today);
        s = compile(t, names);
    }
    if (s != STATUS_OK)
        chat_template_close(t);
    else
        *out = t;
    return s;
}

void chat_template_close(chat_template *t) {
    if (!t) return;
    for (int role = 0; role < ROLES; role++) {
        literal_free(&t->before[role]);
        literal_free(&t->after[role]);
    }
    literal *rest[] = {&t->begin, &t->between, &t->end, &t->prompt, &t->think, &t->no_think};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) literal_free(rest[i]);
    mem_free(t->default_system);
    mem_free(t);
}

const char *chat_template_name(const chat_template *t) {
    return t->style->name;
}

const char *chat_template_date(const chat_template *t) {
    return *t->date ? t->date : NULL;
}

bool chat_template_wants_tools(const chat_template *t) {
    return t->style->flags & TOOLS;
}

int32_t chat_template_end(const chat_template *t) {
    const literal *after = &t->after[ROLE_ASSISTANT];
    for (size_t i = 0; i < after->count; i++)
        if (after->parts[i].id >= 0) return after->parts[i].id;
    return -1;
}
