/* text.c: strings with marks: pieces of them, and building new ones. A string that is wholly
 * the template's has no runs; pieces share their string's bytes. */
#include "data/jinja/text.h"
#include "data/unicode.h"

#include <string.h>

/* ---- building ---- */

/* Room for `more` bytes; the arena keeps what was outgrown, which doubling bounds. */
static status reserve(machine *m, builder *b, size_t more) {
    size_t need = b->bytes + more;
    if (need <= b->capacity) return STATUS_OK;
    if (need > JINJA_OUTPUT)
        return jinja_raise(m, "MemoryError", "a text of more than %d MiB", JINJA_OUTPUT >> 20);
    size_t capacity = b->capacity * 2 > need ? b->capacity * 2 : need < 64 ? 64 : need;
    char *text;
    TRY(jinja_new_text(m, capacity, &text));
    if (b->bytes) memcpy(text, b->text, b->bytes);
    b->text = text, b->capacity = capacity;
    return STATUS_OK;
}

status jinja_expect_bytes(machine *m, builder *b, size_t bytes) {
    return reserve(m, b, bytes < 65536 ? bytes : 65536);
}

static status put_run(machine *m, builder *b, jinja_run run) {
    run.flags |= m->flags;
    if (b->run_count) {
        jinja_run *last = &b->runs[b->run_count - 1];
        if (last->source == run.source && last->flags == run.flags &&
            (!run.source || last->offset + last->bytes == run.offset)) {
            last->bytes += run.bytes;
            return STATUS_OK;
        }
    }
    if (b->run_count == b->run_capacity) {
        size_t capacity = b->run_capacity ? b->run_capacity * 2 : 4;
        jinja_run *runs;
        TRY(jinja_new(m, capacity * sizeof *runs, &runs));
        if (b->run_count) memcpy(runs, b->runs, b->run_count * sizeof *runs);
        b->runs = runs, b->run_capacity = capacity;
    }
    b->runs[b->run_count++] = run;
    return STATUS_OK;
}

status jinja_put(machine *m, builder *b, const char *text, size_t bytes) {
    if (!bytes) return STATUS_OK;
    TRY(reserve(m, b, bytes));
    memcpy(b->text + b->bytes, text, bytes);
    b->bytes += bytes;
    return put_run(m, b, (jinja_run){.bytes = (uint32_t)bytes});
}

status jinja_put_word(machine *m, builder *b, const char *text) {
    return jinja_put(m, b, text, strlen(text));
}

status jinja_put_part(machine *m, builder *b, const string *s, size_t from, size_t to) {
    if (from >= to) return STATUS_OK;
    if (!s->runs) return jinja_put(m, b, s->text + from, to - from);
    TRY(reserve(m, b, to - from));
    memcpy(b->text + b->bytes, s->text + from, to - from);
    b->bytes += to - from;
    size_t at = 0;
    for (uint32_t i = 0; i < s->run_count && at < to; at += s->runs[i++].bytes) {
        jinja_run run = s->runs[i];
        size_t first = at > from ? at : from, end = at + run.bytes < to ? at + run.bytes : to;
        if (first >= end) continue;
        run.offset += run.source ? (uint32_t)(first - at) : 0;
        run.bytes = (uint32_t)(end - first);
        TRY(put_run(m, b, run));
    }
    return STATUS_OK;
}

status jinja_put_string(machine *m, builder *b, const string *s) {
    return jinja_put_part(m, b, s, 0, s->bytes);
}

static jinja_run run_at(const string *s, size_t byte) {
    if (!s->runs) return (jinja_run){0};
    uint32_t i = 0;
    size_t at = 0;
    while (i + 1 < s->run_count && at + s->runs[i].bytes <= byte) at += s->runs[i++].bytes;
    jinja_run run = s->runs[i];
    if (run.source) run.offset += (uint32_t)(byte - at);
    return run;
}

status jinja_put_instead(machine *m, builder *b, const string *s, size_t from,
                         const char *text, size_t bytes) {
    if (!bytes) return STATUS_OK;
    TRY(reserve(m, b, bytes));
    memcpy(b->text + b->bytes, text, bytes);
    b->bytes += bytes;
    jinja_run run = run_at(s, from);
    run.bytes = (uint32_t)bytes;
    return put_run(m, b, run);
}

status jinja_put_escaped(machine *m, builder *b, const string *s) {
    static const struct {
        char c;
        const char *text;
    } marks[] = {
        {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&#34;"}, {'\'', "&#39;"}};
    size_t plain = 0; /* what is not written yet begins here */
    TRY(jinja_step(m, s->bytes / 16));
    for (size_t i = 0; i < s->bytes; i++)
        for (size_t k = 0; k < sizeof marks / sizeof *marks; k++) {
            if (s->text[i] != marks[k].c) continue;
            TRY(jinja_put_part(m, b, s, plain, i));
            TRY(jinja_put_instead(m, b, s, i, marks[k].text, strlen(marks[k].text)));
            plain = i + 1;
        }
    return jinja_put_part(m, b, s, plain, s->bytes);
}

status jinja_build(machine *m, const builder *b, value *out) {
    string *s;
    TRY(jinja_new(m, sizeof *s, &s));
    bool plain =
        b->run_count == 0 || (b->run_count == 1 && !b->runs[0].source && !b->runs[0].flags);
    *s = (string){.text = b->text ? b->text : "",
                  .bytes = (uint32_t)b->bytes,
                  .chars = UNCOUNTED,
                  .runs = plain ? NULL : b->runs,
                  .run_count = plain ? 0 : (uint32_t)b->run_count};
    *out = STRING(s);
    return STATUS_OK;
}

/* ---- pieces ---- */

status jinja_string_new(machine *m, const char *text, size_t bytes, string **out) {
    char *copy;
    TRY(jinja_new(m, sizeof **out, out));
    TRY(jinja_new_text(m, bytes + 1, &copy));
    if (bytes) memcpy(copy, text, bytes);
    copy[bytes] = 0;
    **out = (string){.text = copy, .bytes = (uint32_t)bytes, .chars = UNCOUNTED};
    return STATUS_OK;
}

status jinja_word(machine *m, const char *text, value *out) {
    string *s;
    TRY(jinja_string_new(m, text, strlen(text), &s));
    *out = STRING(s);
    return STATUS_OK;
}

/* The runs of a piece: one of them mostly. */
static status cut_runs(machine *m, const string *s, size_t from, size_t to, string *piece) {
    uint32_t first = 0, last;
    size_t at = 0;
    while (first + 1 < s->run_count && at + s->runs[first].bytes <= from)
        at += s->runs[first++].bytes;
    size_t end = at + s->runs[first].bytes;
    for (last = first; last + 1 < s->run_count && end < to;) end += s->runs[++last].bytes;
    uint32_t count = last - first + 1;
    jinja_run *runs;
    if (count == 1 && !s->runs[first].source && !s->runs[first].flags) return STATUS_OK;
    TRY(jinja_new(m, count * sizeof *runs, &runs));
    memcpy(runs, s->runs + first, count * sizeof *runs);
    if (runs[0].source) runs[0].offset += (uint32_t)(from - at);
    runs[0].bytes -= (uint32_t)(from - at);
    runs[count - 1].bytes -= (uint32_t)(end - to);
    piece->runs = runs;
    piece->run_count = count;
    return STATUS_OK;
}

status jinja_part(machine *m, string *s, size_t from, size_t to, value *out) {
    if (to < from) to = from;
    *out = STRING(s);
    if (from == 0 && to == s->bytes) return STATUS_OK;
    string *piece;
    TRY(jinja_new(m, sizeof *piece, &piece));
    *piece =
        (string){.text = s->text + from, .bytes = (uint32_t)(to - from), .chars = UNCOUNTED};
    piece->safe = s->safe;
    if (s->chars == s->bytes) piece->chars = piece->bytes; /* one byte a character */
    if (s->runs && to > from) TRY(cut_runs(m, s, from, to, piece));
    *out = STRING(piece);
    return STATUS_OK;
}

uint32_t jinja_chars(string *s) {
    if (s->chars == UNCOUNTED) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < s->bytes; i++)
            n += ((unsigned char)s->text[i] & 0xC0) != 0x80;
        s->chars = n;
    }
    return s->chars;
}

size_t jinja_byte_at(string *s, size_t index) {
    if (jinja_chars(s) == s->bytes) return index < s->bytes ? index : s->bytes;
    size_t at = 0;
    while (index-- && at < s->bytes) at += utf8_length((unsigned char)s->text[at]);
    return at;
}

bool jinja_string_equal(string *a, string *b) {
    return a == b || (a->bytes == b->bytes && !memcmp(a->text, b->text, a->bytes));
}

size_t jinja_find(const string *s, const string *what, size_t from) {
    if (from > s->bytes || what->bytes > s->bytes - from) return SIZE_MAX;
    if (!what->bytes) return from;
    const char *found = memmem(s->text + from, s->bytes - from, what->text, what->bytes);
    return found ? (size_t)(found - s->text) : SIZE_MAX;
}

bool jinja_space(uint32_t code) {
    if (code < 0x80)
        return code == ' ' || (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x1f);
    return unicode_is_space(code);
}
