/* template.c: the table of templates and its renderer. See template.h.
 *
 * A style says what stands before and after a turn of each role; flags name the few rules that
 * templates have beyond that. Literals are written with LITERAL_* marks. */
#include "data/template.h"
#include "common/alloc.h"
#include "common/hash.h"
#include "data/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_OTHER, ROLES };

enum {
    TRIM = 1 << 0,         /* contents lose white space at both ends, as Python's strip */
    ALTERNATE = 1 << 1,    /* user and assistant take turns, the user begins */
    SYSTEM_FIRST = 1 << 2, /* a system message goes into the first user turn */
    SYSTEM_LAST = 1 << 3,  /* ... into the last turn if that is the user's, else nowhere */
    SYSTEM_BLOCK = 1 << 4, /* a system turn always, with a preamble and the date */
    SYSTEM_ONLY_FIRST = 1 << 5, /* a system message elsewhere is left out */
    SYSTEM_NOT_EMPTY = 1 << 6,  /* an empty system message is left out */
    DEFAULT_SYSTEM = 1 << 7,    /* where the first message is no system message */
    SKIP_OTHERS = 1 << 8,       /* messages of other roles are left out */
    TODAY = 1 << 9,             /* the date is that of the day */
    TOOLS = 1 << 10,            /* tools and their answers would be rendered */
    THINK = 1 << 11,            /* <think> blocks, in the last answers only */
};

typedef struct style {
    const char *name;
    unsigned flags;
    const char *begin;                        /* of the text */
    const char *before[ROLES], *after[ROLES]; /* NULL: the last one's; that NULL: refused */
    const char *between;                      /* turns */
    const char *end;                          /* of the text, unless an answer is prompted */
    const char *prompt;                       /* what makes the model answer */
    const char *default_system;
} style;

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

struct chat_template {
    const style *style;
    char *default_system;
    char date[TEMPLATE_DATE]; /* "" when the template states none */
    literal begin, before[ROLES], after[ROLES], between, end, prompt, think, no_think;
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

/* ---- rendering ---- */

typedef struct slice {
    const char *text;
    size_t bytes;
} slice;

static bool python_space(uint32_t code) {
    return unicode_is_space(code) || (code >= 0x1c && code <= 0x1f);
}

static slice strip(slice s) {
    size_t n;
    while (s.bytes && python_space(utf8_get(s.text))) {
        n = utf8_length((unsigned char)*s.text);
        s.text += n, s.bytes -= n;
    }
    while (s.bytes) {
        const char *last = utf8_back(s.text, s.text + s.bytes);
        if (!python_space(utf8_get(last))) break;
        s.bytes = (size_t)(last - s.text);
    }
    return s;
}

static slice content_of(const chat_template *t, const chat_message *m) {
    slice s = {m->content, m->bytes};
    return t->style->flags & TRIM ? strip(s) : s;
}

static bool is_role(const chat_message *m, const char *role) {
    return !strcmp(m->role, role);
}

static int role_of(const chat_message *m) {
    return is_role(m, "system")      ? ROLE_SYSTEM
           : is_role(m, "user")      ? ROLE_USER
           : is_role(m, "assistant") ? ROLE_ASSISTANT
                                     : ROLE_OTHER;
}

/* The turn's end: its first control token is what the model must learn to say; where the
 * tokenizer knows none, all of an answer's end. Nobody learns to end a turn without a word, as
 * in Axolotl: empty answers are holes in the data. */
static status render_end(const chat_template *t, const chat_message *m, span_builder *b) {
    const literal *after = &t->after[role_of(m)];
    bool open = true, has_token = role_of(m) != ROLE_ASSISTANT;
    for (size_t i = 0; i < after->count; i++) has_token |= after->parts[i].id >= 0;
    for (size_t i = 0; i < after->count; i++) {
        literal one = {.parts = &after->parts[i], .count = 1};
        bool end = after->parts[i].id >= 0 ? open : !has_token;
        TRY(spans_literal(b, &one, m->role, m->learn_end && m->bytes && end));
        if (after->parts[i].id >= 0) open = false;
    }
    return STATUS_OK;
}

static slice strip_lines(slice s, bool left, bool right) {
    while (left && s.bytes && *s.text == '\n') s.text++, s.bytes--;
    while (right && s.bytes && s.text[s.bytes - 1] == '\n') s.bytes--;
    return s;
}

static const char *find(slice s, const char *what) {
    return s.bytes ? memmem(s.text, s.bytes, what, strlen(what)) : NULL;
}

static slice after_last(slice s, const char *what) {
    const char *found;
    while ((found = find(s, what))) {
        size_t gone = (size_t)(found - s.text) + strlen(what);
        s.text += gone, s.bytes -= gone;
    }
    return s;
}

/* qwen3 takes a <think> block out of an answer, and puts one, perhaps empty, before the
 * answers that follow the last question (`recent`): the very last always, others when they
 * have one. */
static status render_thinking(const chat_template *t, const chat_message *m, bool recent,
                              bool last, span_builder *b) {
    slice content = {m->content, m->bytes}, thinking = {"", 0};
    const char *end;
    if (m->thinking)
        thinking = (slice){m->thinking, strlen(m->thinking)};
    else if ((end = find(content, "</think>"))) {
        slice head = {content.text, (size_t)(end - content.text)};
        thinking =
            strip_lines(after_last(strip_lines(head, false, true), "<think>"), true, false);
        content = strip_lines(after_last(content, "</think>"), true, false);
    }
    if (!recent || (!last && !thinking.bytes))
        return spans_text(b, content.text, content.bytes, m->learn);
    thinking = strip_lines(thinking, true, true);
    content = strip_lines(content, true, false);
    if (thinking.bytes) {
        TRY(spans_literal(b, &t->think, NULL,
                          m->learn && !last)); /* the last one's always stands */
        TRY(spans_text(b, "\n", 1, m->learn));
        TRY(spans_text(b, thinking.text, thinking.bytes, m->learn));
        TRY(spans_text(b, "\n</think>\n\n", 11, m->learn));
    } else
        TRY(spans_literal(b, &t->no_think, NULL, false));
    return spans_text(b, content.text, content.bytes, m->learn);
}

/* A tool's answer in the user's clothes. */
static bool is_tool_response(const chat_message *m) {
    static const char head[] = "<tool_response>", tail[] = "</tool_response>";
    size_t a = sizeof head - 1, b = sizeof tail - 1;
    return m->bytes >= a && m->bytes >= b && !memcmp(m->content, head, a) &&
           !memcmp(m->content + m->bytes - b, tail, b);
}

/* The last message of the user; all that follows answers it. The last message where there is
 * none. */
static size_t last_question(const chat_message *messages, size_t count) {
    for (size_t i = count; i-- > 0;)
        if (is_role(&messages[i], "user") && !is_tool_response(&messages[i])) return i;
    return count - 1;
}

static status render_turn(const chat_template *t, const chat_message *m,
                          const chat_message *system, bool recent, bool last,
                          span_builder *b) {
    slice content = content_of(t, m);
    int role =
        role_of(m); /* what stands before an answer and no prompt gives, the model must say */
    bool said = role == ROLE_ASSISTANT && !t->style->prompt && m->learn && content.bytes;
    TRY(spans_literal(b, &t->before[role], m->role, said));
    if (system) {
        TRY(spans_text(b, system->content, system->bytes, system->learn));
        TRY(spans_text(b, "\n\n", 2, false));
    }
    if (t->style->flags & THINK && is_role(m, "assistant"))
        TRY(render_thinking(t, m, recent, last, b));
    else
        TRY(spans_text(b, content.text, content.bytes, m->learn));
    return render_end(t, m, b);
}

/* STATUS_OK when the template has a place for this message; *skip when it leaves it out. */
static status admit(const chat_template *t, const chat_message *m, size_t place, bool first,
                    bool *skip) {
    unsigned flags = t->style->flags;
    int role = role_of(m);
    *skip = (flags & SKIP_OTHERS && role == ROLE_OTHER) ||
            (flags & SYSTEM_ONLY_FIRST && role == ROLE_SYSTEM && !first) ||
            (flags & SYSTEM_NOT_EMPTY && role == ROLE_SYSTEM && !m->bytes);
    if (flags & TOOLS &&
        (is_role(m, "tool") || is_role(m, "ipython") || is_role(m, "tool_results")))
        return status_fail(STATUS_DATA,
                           "a message of the role `%s`: answers of tools are not "
                           "rendered by the template %s here",
                           m->role, t->style->name);
    if (flags & ALTERNATE && (role == ROLE_USER) != (place % 2 == 0))
        return status_fail(STATUS_DATA,
                           "the template %s wants user and assistant to take turns, "
                           "message %zu is of the role `%s`",
                           t->style->name, place + 1, m->role);
    if (!*skip && !t->before[role].text)
        return status_fail(STATUS_DATA, "the template %s has no place for the role `%s`",
                           t->style->name, m->role);
    return STATUS_OK;
}

/* The system turn that Llama 3.1 and 3.2 always have. */
static status render_block(const chat_template *t, const chat_message *system,
                           span_builder *b) {
    TRY(spans_text(b, t->date, strlen(t->date), false));
    TRY(spans_text(b, "\n\n", 2, false));
    chat_message empty = {.role = "system", .content = ""};
    if (!system) system = &empty;
    slice content = content_of(t, system);
    TRY(spans_text(b, content.text, content.bytes, system->learn));
    return render_end(t, system, b);
}

static status render_default_system(const chat_template *t, span_builder *b) {
    chat_message system = {
        .role = "system", .content = t->default_system, .bytes = strlen(t->default_system)};
    return render_turn(t, &system, NULL, false, false, b);
}

status chat_template_render(const chat_template *t, const chat_message *messages, size_t count,
                            bool prompt, span_builder *b) {
    unsigned flags = t->style->flags;
    if (!count) return status_fail(STATUS_DATA, "the conversation has no message");
    bool has_system = is_role(messages, "system"),
         apart = flags & (SYSTEM_FIRST | SYSTEM_LAST | SYSTEM_BLOCK);
    const chat_message *system = has_system && apart ? messages : NULL;
    TRY(spans_literal(b, &t->begin, NULL, false));
    if (flags & SYSTEM_BLOCK) {
        TRY(render_block(t, system, b));
        if (system) messages++, count--;
        system = NULL;
    } else if (system)
        messages++, count--;
    else if (flags & DEFAULT_SYSTEM && !has_system)
        TRY(render_default_system(t, b));
    size_t question = count ? last_question(messages, count) : 0;
    for (size_t i = 0; i < count; i++) {
        bool skip, last = i + 1 == count;
        TRY(admit(t, &messages[i], i, i == 0, &skip));
        bool here = flags & SYSTEM_FIRST ? i == 0 : last && is_role(&messages[i], "user");
        if (!skip)
            TRY(render_turn(t, &messages[i], here ? system : NULL, i > question, last, b));
        if (!last) TRY(spans_literal(b, &t->between, NULL, false));
    }
    return spans_literal(b, prompt ? &t->prompt : &t->end, NULL, false);
}
