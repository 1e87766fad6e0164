/* template_jinja.c: see template_jinja.h. The rendered text is cut into pieces (control tokens
 * and stretches of text), the bytes that are learned are marked, and both go to the spans. */
#include "data/template_jinja.h"
#include "common/alloc.h"
#include "common/hash.h"
#include "data/unicode.h"

#include <string.h>

void chat_work_free(chat_work *w) {
    for (int i = 0; i < KNOWN_WORDS; i++) {
        mem_free(w->known[i].text);
        literal_free(&w->known[i].parts);
    }
    jinja_rendering_free(&w->rendering);
    mem_free(w->pieces);
    mem_free(w->extents);
    mem_free(w->learn);
    memset(w, 0, sizeof *w);
}

/* ---- control tokens ---- */

static bool is_word(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                    (c >= '0' && c <= '9') || c == '_' || c == '-';
        if (!good) return false;
    }
    return true;
}

static const jinja_source *source_of(const jinja_rendering *r, const jinja_run *run) {
    return run->source ? &r->sources[run->source - 1] : NULL;
}

static bool is_role(const jinja_source *source) {
    return source->message >= 0 && !strcmp(source->field, "role");
}

/* Whether the run at `text` is the template's to say. */
static bool is_trusted(const jinja_rendering *r, const jinja_run *run, const char *text) {
    const jinja_source *source = source_of(r, run);
    return !source || (is_role(source) && is_word(text, run->bytes));
}

/* The template's words, of which there are few, with their tokens. */
static status look_up(chat_work *w, const token_names *names, const char *text, size_t bytes,
                      const literal **out) {
    known_words *k = &w->known[hash_bytes(text, bytes).low % KNOWN_WORDS];
    *out = &k->parts;
    if (k->text && k->bytes == bytes && !memcmp(k->text, text, bytes)) return STATUS_OK;
    mem_free(k->text);
    literal_free(&k->parts);
    *k = (known_words){.bytes = bytes, .text = mem_strndup(text, bytes)};
    if (!k->text) return STATUS_MEMORY;
    status s = literal_compile_text(&k->parts, k->text, bytes, names);
    if (s != STATUS_OK) {
        mem_free(k->text);
        k->text = NULL;
    }
    return s;
}

static status add_piece(chat_work *w, size_t from, size_t to, int32_t id) {
    if (from == to) return STATUS_OK;
    if (mem_grow(&w->pieces, &w->piece_capacity, w->piece_count + 1, sizeof *w->pieces,
                 "a conversation"))
        return STATUS_MEMORY;
    w->pieces[w->piece_count++] = (text_piece){from, to, id};
    return STATUS_OK;
}

static status cut_words(chat_work *w, const token_names *names, const char *text, size_t from,
                        size_t to) {
    const literal *l;
    TRY(look_up(w, names, text + from, to - from, &l));
    for (size_t i = 0; i < l->count; i++) {
        TRY(add_piece(w, from, from + l->parts[i].bytes, l->parts[i].id));
        from += l->parts[i].bytes;
    }
    return STATUS_OK;
}

static status cut(chat_work *w, const token_names *names) {
    const jinja_rendering *r = &w->rendering;
    w->piece_count = 0;
    for (size_t i = 0, at = 0; i < r->run_count;) {
        size_t from = at;
        bool trusted = is_trusted(r, &r->runs[i], r->text + at);
        do at += r->runs[i++].bytes;
        while (i < r->run_count && is_trusted(r, &r->runs[i], r->text + at) == trusted);
        TRY(trusted ? cut_words(w, names, r->text, from, at) : add_piece(w, from, at, -1));
    }
    return STATUS_OK;
}

/* ---- where the messages are ---- */

static status find_extents(chat_work *w, size_t count) {
    const jinja_rendering *r = &w->rendering;
    if (mem_grow(&w->extents, &w->extent_capacity, count + 1, sizeof *w->extents,
                 "a conversation"))
        return STATUS_MEMORY;
    memset(w->extents, 0, count * sizeof *w->extents);
    for (size_t i = 0, at = 0; i < r->run_count; at += r->runs[i++].bytes) {
        const jinja_source *source = source_of(r, &r->runs[i]);
        if (!source || source->message < 0 || is_role(source)) continue;
        byte_range *e = &w->extents[source->message];
        if (e->from == e->to) e->from = at;
        e->to = at + r->runs[i].bytes;
    }
    return STATUS_OK;
}

/* The first control token behind message i and before another one's words. */
static bool find_end(const chat_work *w, size_t i, size_t count, byte_range *out) {
    size_t limit = w->rendering.bytes;
    for (size_t k = i + 1; k < count; k++)
        if (w->extents[k].from < w->extents[k].to && w->extents[k].from >= w->extents[i].to &&
            w->extents[k].from < limit)
            limit = w->extents[k].from;
    for (size_t p = 0; p < w->piece_count; p++)
        if (w->pieces[p].id >= 0 && w->pieces[p].from >= w->extents[i].to &&
            w->pieces[p].to <= limit) {
            *out = (byte_range){w->pieces[p].from, w->pieces[p].to};
            return true;
        }
    return false;
}

/* ---- what is learned ---- */

static void mark(chat_work *w, size_t from, size_t to) {
    if (from < to) memset(w->learn + from, 1, to - from);
}

typedef struct prefix { /* of the messages */
    const char *text;
    size_t bytes;
    bool good; /* the template renders it */
} prefix;

/* Renders the first `count` messages beside the whole conversation, whose results stay. */
static status render_prefix(const chat_view *v, chat_work *w, size_t count, bool prompt,
                            prefix *out) {
    jinja_rendering *r = &w->rendering, whole = *r;
    status s = jinja_render(v->template, r, count, prompt);
    *out = (prefix){r->text, r->bytes, s == STATUS_OK};
    r->text = whole.text, r->bytes = whole.bytes;
    r->runs = whole.runs, r->run_count = whole.run_count;
    return s == STATUS_DATA ? STATUS_OK : s;
}

static bool begins_with(const jinja_rendering *r, const prefix *p) {
    return p->good && p->bytes <= r->bytes && !memcmp(p->text, r->text, p->bytes);
}

/* Where the model begins to speak in turn i. */
static status find_start(const chat_view *v, chat_work *w, size_t i, size_t *out) {
    const jinja_rendering *r = &w->rendering;
    prefix p;
    *out = w->extents[i].from;
    TRY(render_prefix(v, w, i, true, &p));
    if (begins_with(r, &p) && p.bytes <= w->extents[i].from) {
        *out = p.bytes;
        return STATUS_OK;
    }
    if (i == 0) return STATUS_OK; /* nobody asked: there is no prompt */
    TRY(render_prefix(v, w, i, false, &p));
    if (begins_with(r, &p) && p.bytes <= w->extents[i].from) return STATUS_OK;
    return status_fail(STATUS_DATA,
                       "message %zu cannot be learned: the chat template renders the messages "
                       "before it in another way once it follows, so the text has not the "
                       "prompt that it answers",
                       i + 1);
}

/* The conversation up to turn i must agree with the whole one up to byte `to`. Where the turn
 * ends without a token, *to becomes its end. */
static status check_stable(const chat_view *v, chat_work *w, size_t i, size_t count,
                           bool has_end, size_t *to) {
    const jinja_rendering *r = &w->rendering;
    prefix p;
    if (i + 1 == count) {
        if (!has_end) *to = r->bytes;
        return STATUS_OK;
    }
    TRY(render_prefix(v, w, i + 1, false, &p));
    if (p.good && p.bytes >= *to && *to <= r->bytes && !memcmp(p.text, r->text, *to)) {
        if (!has_end)
            while (*to < p.bytes && *to < r->bytes && p.text[*to] == r->text[*to]) ++*to;
        return STATUS_OK;
    }
    return status_fail(
        STATUS_DATA,
        "message %zu cannot be learned: the chat template renders it in another "
        "way once other messages follow, so what the model would have to say "
        "there is not in the text; make a row of each answer, or choose a "
        "template that keeps earlier turns (chat_template: qwen3)",
        i + 1);
}

static void mark_content(chat_work *w, size_t message) {
    const jinja_rendering *r = &w->rendering;
    for (size_t i = 0, at = 0; i < r->run_count; at += r->runs[i++].bytes) {
        const jinja_source *source = source_of(r, &r->runs[i]);
        if (source && source->message == (int32_t)message && !strcmp(source->field, "content"))
            mark(w, at, at + r->runs[i].bytes);
    }
}

static status learn_turn(const chat_view *v, const conversation *c, chat_work *w, size_t i) {
    const chat_message *m = &c->items[i];
    const byte_range *words = &w->extents[i];
    byte_range end = {words->to, words->to};
    if (words->from == words->to || !(m->learn || m->learn_end)) return STATUS_OK;
    bool has_end = find_end(w, i, c->count, &end), answers = !strcmp(m->role, "assistant");
    if (answers) {
        size_t start = words->from;
        if (m->learn) TRY(find_start(v, w, i, &start));
        if (m->learn || !has_end) TRY(check_stable(v, w, i, c->count, has_end, &end.to));
        if (m->learn) mark(w, start, end.from);
    } else if (m->learn) {
        mark_content(w, i);
    }
    if (m->learn_end) mark(w, end.from, end.to);
    return STATUS_OK;
}

/* The stretches inside {% generation %}, each of the message whose words it holds. */
static void learn_generated(const conversation *c, chat_work *w) {
    const jinja_rendering *r = &w->rendering;
    for (size_t i = 0, at = 0; i < r->run_count;) {
        size_t from = at;
        int32_t message = -1;
        bool generated = r->runs[i].flags & JINJA_GENERATED;
        for (; i < r->run_count && (r->runs[i].flags & JINJA_GENERATED) == generated; i++) {
            const jinja_source *source = source_of(r, &r->runs[i]);
            if (source && source->message >= 0 && (message < 0 || message == source->message))
                message = source->message;
            else if (source && source->message >= 0)
                break; /* the next message's */
            at += r->runs[i].bytes;
        }
        if (!generated || message < 0) continue;
        const chat_message *m = &c->items[message];
        byte_range end = {at, at};
        if (!find_end(w, (size_t)message, c->count, &end) || end.from > at)
            end = (byte_range){at, at};
        if (m->learn) mark(w, from, end.from < from ? from : end.from);
        if (m->learn && end.to < at) mark(w, end.to, at);
        if (m->learn_end) mark(w, end.from, end.to < at ? end.to : at);
    }
}

/* message_field_training_detail: characters of the content that are not learned. */
static void leave_out(chat_work *w, const conversation *c, size_t message) {
    const jinja_rendering *r = &w->rendering;
    const chat_message *m = &c->items[message];
    for (size_t d = 0; d < m->left_out_count; d++) {
        byte_range out = c->ranges[m->left_out + d];
        for (size_t i = 0, at = 0; i < r->run_count; at += r->runs[i++].bytes) {
            const jinja_run *run = &r->runs[i];
            const jinja_source *source = source_of(r, run);
            if (!source || source->message != (int32_t)message ||
                strcmp(source->field, "content") || run->offset >= out.to ||
                run->offset + run->bytes <= out.from)
                continue;
            size_t from = out.from > run->offset ? out.from - run->offset : 0,
                   to = out.to - run->offset < run->bytes ? out.to - run->offset : run->bytes;
            memset(w->learn + at + from, 0, to - from);
        }
    }
}

static status find_learned(const chat_view *v, const conversation *c, chat_work *w) {
    TRY(find_extents(w, c->count));
    if (jinja_has_generation(v->template)) {
        learn_generated(c, w);
    } else {
        for (size_t i = 0; i < c->count; i++) TRY(learn_turn(v, c, w, i));
    }
    for (size_t i = 0; i < c->count; i++) leave_out(w, c, i);
    return STATUS_OK;
}

/* ---- rendering ---- */

static status put_pieces(const chat_work *w, span_builder *b) {
    const char *text = w->rendering.text;
    for (size_t p = 0; p < w->piece_count; p++) {
        const text_piece *piece = &w->pieces[p];
        if (piece->id >= 0) {
            TRY(spans_control(b, piece->id, w->learn[piece->from]));
            continue;
        }
        for (size_t at = piece->from, end; at < piece->to; at = end) {
            for (end = at; end < piece->to && w->learn[end] == w->learn[at];) end++;
            TRY(spans_text(b, text + at, end - at, w->learn[at]));
        }
    }
    return STATUS_OK;
}

status chat_view_text(const chat_view *v, const json_t *data, bool prompt, chat_work *w) {
    w->rendering.today = NULL;
    memset(&w->today, 0, sizeof w->today);
    if (*v->date && strptime(v->date, "%d %b %Y", &w->today)) {
        w->today.tm_hour = 12;
        w->rendering.today = &w->today;
    }
    TRY(jinja_load(&w->rendering, v->settings, data));
    return jinja_render(v->template, &w->rendering, SIZE_MAX, prompt);
}

/* What is known of one tokenizer's words is of no use for another's. */
static void forget_others(chat_work *w, const token_names *names) {
    if (w->known_names.tokenizer == names->tokenizer) return;
    for (int i = 0; i < KNOWN_WORDS; i++) {
        mem_free(w->known[i].text);
        literal_free(&w->known[i].parts);
        w->known[i] = (known_words){0};
    }
    w->known_names = *names;
}

status chat_view_render(const chat_view *v, const conversation *c, bool prompt, chat_work *w,
                        span_builder *b) {
    TRY(chat_view_text(v, c->data, prompt, w));
    forget_others(w, &v->names);
    TRY(cut(w, &v->names));
    size_t bytes = w->rendering.bytes;
    if (mem_grow(&w->learn, &w->learn_capacity, bytes + 1, 1, "a conversation"))
        return STATUS_MEMORY;
    memset(w->learn, 0, bytes + 1);
    if (!prompt) TRY(find_learned(v, c, w));
    return put_pieces(w, b);
}

static status find_turn_end(const chat_view *v, conversation *c, chat_work *w, int32_t *out) {
    byte_range end;
    status s = chat_view_text(v, c->data, false, w);
    if (s != STATUS_OK) return s == STATUS_DATA ? STATUS_OK : s;
    TRY(cut(w, &v->names));
    TRY(find_extents(w, c->count));
    size_t last = c->count - 1;
    if (w->extents[last].from == w->extents[last].to || !find_end(w, last, c->count, &end))
        return STATUS_OK;
    for (size_t p = 0; p < w->piece_count; p++)
        if (w->pieces[p].from == end.from) *out = w->pieces[p].id;
    return STATUS_OK;
}

status chat_view_end(const chat_view *v, int32_t *out) {
    chat_message two[] = {{.role = "user"}, {.role = "assistant"}};
    conversation c = {.items = two, .count = 2};
    chat_work *w = mem_alloc(sizeof *w, "a chat template");
    *out = -1;
    c.data = json_pack("{s:[{s:s,s:s},{s:s,s:s}]}", "messages", "role", "user", "content",
                       "question", "role", "assistant", "content", "answer");
    status s = w && c.data ? find_turn_end(v, &c, w, out) : STATUS_MEMORY;
    json_decref(c.data);
    if (w) chat_work_free(w);
    mem_free(w);
    return s;
}
