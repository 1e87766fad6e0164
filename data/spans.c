/* spans.c: see spans.h. */
#include "data/spans.h"
#include "common/alloc.h"
#include "data/rows.h"
#include "data/unicode.h"

#include <string.h>

/* ---- literals ---- */

static status add_part(literal *l, int32_t id, const char *text, size_t bytes) {
    if (id == PART_TEXT && !bytes) return STATUS_OK;
    if (mem_grow(&l->parts, &l->capacity, l->count + 1, sizeof *l->parts, "a template"))
        return STATUS_MEMORY;
    l->parts[l->count++] = (literal_part){id, text, bytes};
    return STATUS_OK;
}

/* Text without marks: the tokenizer says which special tokens it sees, in order, and each is
 * looked up in the text from behind the one before. */
static status add_text(literal *l, const char *text, size_t bytes, const tokenizer *t) {
    id_list ids = {0};
    status s = tokenizer_encode(t, text, bytes, 0, &ids);
    const char *end = text + bytes;
    for (size_t i = 0; s == STATUS_OK && i < ids.count; i++) {
        const char *name =
            tokenizer_is_special(t, ids.items[i]) ? tokenizer_token(t, ids.items[i]) : NULL;
        char *found = name ? memmem(text, (size_t)(end - text), name, strlen(name)) : NULL;
        if (!found) continue;
        s = add_part(l, PART_TEXT, text, (size_t)(found - text));
        if (s == STATUS_OK) s = add_part(l, ids.items[i], found, strlen(name));
        text = found + strlen(name);
    }
    if (s == STATUS_OK) s = add_part(l, PART_TEXT, text, (size_t)(end - text));
    mem_free(ids.items);
    return s;
}

static status add_mark(literal *l, const char *mark, const token_names *names) {
    if (*mark == *LITERAL_ROLE) return add_part(l, PART_ROLE, mark, 1);
    int32_t id = *mark == *LITERAL_BOS ? names->bos : names->eos;
    return id < 0 ? STATUS_OK : add_part(l, id, mark, 1);
}

status literal_compile(literal *out, const char *text, const token_names *names) {
    memset(out, 0, sizeof *out);
    out->text = mem_strdup(text);
    if (!out->text) return STATUS_MEMORY;
    for (const char *p = out->text; *p;) {
        size_t n = strcspn(p, LITERAL_BOS LITERAL_EOS LITERAL_ROLE);
        TRY(n ? add_text(out, p, n, names->tokenizer) : add_mark(out, p, names));
        p += n ? n : 1;
    }
    return STATUS_OK;
}

status literal_compile_text(literal *out, const char *text, size_t bytes,
                            const token_names *names) {
    memset(out, 0, sizeof *out);
    out->text = mem_alloc(bytes + 1, "a template");
    if (!out->text) return STATUS_MEMORY;
    memcpy(out->text, text, bytes);
    return add_text(out, out->text, bytes, names->tokenizer);
}

void literal_free(literal *l) {
    mem_free(l->text);
    mem_free(l->parts);
    memset(l, 0, sizeof *l);
}

/* ---- building a row ---- */

void spans_reset(span_builder *b) {
    b->ids.count = b->labels.count = b->run.bytes = b->mark_count = 0;
    b->inside = b->strips = false;
}

void spans_free(span_builder *b) {
    mem_free(b->ids.items);
    mem_free(b->labels.items);
    mem_free(b->run.data);
    mem_free(b->marks);
    mem_free(b->scratch.items);
    mem_free(b->prefix.items);
    memset(b, 0, sizeof *b);
}

/* White space behind a control token that takes it along. */
static void strip_left(span_builder *b, const char **text, size_t *bytes) {
    while (*bytes && unicode_is_space(utf8_get(*text))) {
        size_t n = utf8_length((unsigned char)**text);
        *text += n, *bytes -= n;
    }
    b->strips = *bytes == 0;
}

/* White space before one: the run's end. */
static void strip_right(span_builder *b) {
    while (b->run.bytes) {
        const char *last = utf8_back(b->run.data, b->run.data + b->run.bytes);
        if (!unicode_is_space(utf8_get(last))) break;
        b->run.bytes = (size_t)(last - b->run.data);
    }
    while (b->mark_count && b->marks[b->mark_count - 1].at >= b->run.bytes) b->mark_count--;
}

status spans_text(span_builder *b, const char *text, size_t bytes, bool learn) {
    if (b->strips) strip_left(b, &text, &bytes);
    if (!bytes) return STATUS_OK;
    bool before = b->mark_count && b->marks[b->mark_count - 1].learn;
    if (!b->mark_count || before != learn) {
        if (mem_grow(&b->marks, &b->mark_capacity, b->mark_count + 1, sizeof *b->marks,
                     "marks"))
            return STATUS_MEMORY;
        b->marks[b->mark_count++] = (span_mark){b->run.bytes, learn};
    }
    return text_append(&b->run, text, bytes);
}

static status add_id(span_builder *b, int32_t id, bool learn) {
    int32_t label = learn ? id : LABEL_IGNORED;
    TRY(id_list_append(&b->ids, &id, 1));
    return id_list_append(&b->labels, &label, 1);
}

static unsigned run_flags(const span_builder *b) {
    return TOKENIZER_PLAIN_TEXT | (b->inside ? TOKENIZER_INSIDE : 0);
}

/* How many of the run's tokens lie before byte `at`: those that tokenizing the run up to there
 * gives too. When they are fewer, a token crosses the border; `after` takes it in. */
static status tokens_before(span_builder *b, size_t at, bool after, size_t *out) {
    *out = 0;
    if (at == 0) return STATUS_OK;
    b->prefix.count = 0;
    TRY(tokenizer_encode(b->names.tokenizer, b->run.data, at, run_flags(b), &b->prefix));
    size_t same = 0,
           limit = b->prefix.count < b->scratch.count ? b->prefix.count : b->scratch.count;
    while (same < limit && b->prefix.items[same] == b->scratch.items[same]) same++;
    *out = same;
    if (after && same < b->prefix.count && same < b->scratch.count) ++*out;
    return STATUS_OK;
}

static status finish_run(span_builder *b) {
    if (!b->run.bytes) return STATUS_OK;
    b->scratch.count = 0;
    TRY(tokenizer_encode(b->names.tokenizer, b->run.data, b->run.bytes, run_flags(b),
                         &b->scratch));
    size_t token = 0;
    for (size_t m = 0; m < b->mark_count; m++) {
        bool learn = b->marks[m].learn, last = m + 1 == b->mark_count;
        size_t end = b->scratch.count;
        if (!last) TRY(tokens_before(b, b->marks[m + 1].at, learn, &end));
        for (; token < end; token++) TRY(add_id(b, b->scratch.items[token], learn));
    }
    b->run.bytes = b->mark_count = 0;
    return STATUS_OK;
}

status spans_finish(span_builder *b) {
    TRY(finish_run(b));
    b->inside = b->strips = false;
    return STATUS_OK;
}

status spans_control(span_builder *b, int32_t id, bool learn) {
    bool left, right;
    tokenizer_strips(b->names.tokenizer, id, &left, &right);
    if (left && utf8_valid(b->run.data, b->run.bytes) == b->run.bytes) strip_right(b);
    TRY(finish_run(b));
    b->strips = right;
    b->inside = true;
    return add_id(b, id, learn);
}

status spans_literal(span_builder *b, const literal *l, const char *role, bool learn) {
    for (size_t i = 0; i < l->count; i++) {
        const literal_part *p = &l->parts[i];
        if (p->id >= 0)
            TRY(spans_control(b, p->id, learn));
        else if (p->id == PART_ROLE)
            TRY(spans_text(b, role, strlen(role), learn));
        else
            TRY(spans_text(b, p->text, p->bytes, learn));
    }
    return STATUS_OK;
}
