/* template_render.c: conversations to spans of text, by a style's literals and its few rules. */
#include "data/template_style.h"
#include "data/unicode.h"

#include <string.h>

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

static status render_turn(const chat_template *t, const chat_message *m, bool recent,
                          bool last, span_builder *b) {
    slice content = content_of(t, m);
    int role =
        role_of(m); /* what stands before an answer and no prompt gives, the model must say */
    bool said = role == ROLE_ASSISTANT && !t->style->prompt && m->learn && content.bytes;
    TRY(spans_literal(b, &t->before[role], m->role, said));
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

static status render_default_system(const chat_template *t, span_builder *b) {
    chat_message system = {
        .role = "system", .content = t->default_system, .bytes = strlen(t->default_system)};
    return render_turn(t, &system, false, false, b);
}

status chat_style_render(const chat_template *t, const chat_message *messages, size_t count,
                         bool prompt, span_builder *b) {
    if (!count) return status_fail(STATUS_DATA, "the conversation has no message");
    TRY(spans_literal(b, &t->begin, NULL, false));
    if (t->style->flags & DEFAULT_SYSTEM && !is_role(messages, "system"))
        TRY(render_default_system(t, b));
    size_t question = last_question(messages, count);
    for (size_t i = 0; i < count; i++) {
        bool skip, last = i + 1 == count;
        TRY(admit(t, &messages[i], i, i == 0, &skip));
        if (!skip) TRY(render_turn(t, &messages[i], i > question, last, b));
        if (!last) TRY(spans_literal(b, &t->between, NULL, false));
    }
    return prompt ? spans_literal(b, &t->prompt, NULL, false) : STATUS_OK;
}
