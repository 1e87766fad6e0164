/* string_methods.c: str's methods that search, cut and join. Positions are code points outside
 * and bytes inside. */
#include "data/jinja/strings.h"
#include "data/unicode.h"

#include <string.h>

status jinja_take_integer(machine *m, const value *v, int64_t usual, int64_t *out) {
    *out = usual;
    if (v->kind == V_MISSING || v->kind == V_NONE || jinja_integer(v, out)) return STATUS_OK;
    if (v->kind == V_UNDEFINED) return jinja_raise_undefined(m, v->undefined);
    return jinja_raise(m, "TypeError", "'%s' object cannot be interpreted as an integer",
                       jinja_type(v));
}

status jinja_take_string(machine *m, const value *v, string **out) {
    *out = NULL;
    if (v->kind == V_MISSING || v->kind == V_NONE) return STATUS_OK;
    if (v->kind != V_STRING)
        return jinja_raise(m, "TypeError", "must be str, not %s", jinja_type(v));
    *out = v->string;
    return STATUS_OK;
}

static status need_string(machine *m, const value *v, string **out) {
    TRY(jinja_take_string(m, v, out));
    return *out ? STATUS_OK
                : jinja_raise(m, "TypeError", "must be str, not %s", jinja_type(v));
}

/* ---- strip ---- */

/* Whether the character at p is among `chars`, or white space where they are NULL. */
static bool is_among(const char *p, const string *chars) {
    if (!chars) return jinja_space(utf8_get(p));
    size_t n = utf8_length((unsigned char)*p);
    for (size_t i = 0; i < chars->bytes; i += utf8_length((unsigned char)chars->text[i]))
        if (utf8_length((unsigned char)chars->text[i]) == n && !memcmp(chars->text + i, p, n))
            return true;
    return false;
}

static status strip(machine *m, string *s, const value *a, bool left, bool right, value *out) {
    string *chars;
    TRY(jinja_take_string(m, a, &chars));
    const char *from = s->text, *to = from + s->bytes;
    TRY(jinja_step(m, chars ? (uint64_t)chars->bytes * s->bytes / 256 : 0));
    while (left && from < to && is_among(from, chars))
        from += utf8_length((unsigned char)*from);
    while (right && to > from && is_among(utf8_back(from, to), chars))
        to = utf8_back(from, to);
    return jinja_part(m, s, (size_t)(from - s->text), (size_t)(to - s->text), out);
}

status jinja_str_strip(machine *m, value self, value *a, value *out) {
    return strip(m, self.string, a, true, true, out);
}
static status lstrip(machine *m, value self, value *a, value *out) {
    return strip(m, self.string, a, true, false, out);
}
static status rstrip(machine *m, value self, value *a, value *out) {
    return strip(m, self.string, a, false, true, out);
}

static bool starts(const string *s, const string *with) {
    return s->bytes >= with->bytes && !memcmp(s->text, with->text, with->bytes);
}

static bool ends(const string *s, const string *with) {
    return s->bytes >= with->bytes &&
           !memcmp(s->text + s->bytes - with->bytes, with->text, with->bytes);
}

static status removeprefix(machine *m, value self, value *a, value *out) {
    string *s = self.string, *with;
    TRY(need_string(m, a, &with));
    return jinja_part(m, s, starts(s, with) ? with->bytes : 0, s->bytes, out);
}

static status removesuffix(machine *m, value self, value *a, value *out) {
    string *s = self.string, *with;
    TRY(need_string(m, a, &with));
    return jinja_part(m, s, 0, ends(s, with) ? s->bytes - with->bytes : s->bytes, out);
}

/* ---- searching ---- */

/* The part of s that start and end (code points, a[0] and a[1]) leave; false: none of it. */
static status window(machine *m, string *s, const value *a, size_t *from, size_t *to,
                     bool *any) {
    int64_t n = jinja_chars(s), first, last;
    TRY(jinja_take_integer(m, &a[0], 0, &first));
    TRY(jinja_take_integer(m, &a[1], n, &last));
    first = first < 0 ? first + n < 0 ? 0 : first + n : first;
    last = last < 0 ? last + n < 0 ? 0 : last + n : last > n ? n : last;
    *any = first <= last && first <= n;
    if (!*any) return STATUS_OK;
    *from = jinja_byte_at(s, (size_t)first);
    *to = jinja_byte_at(s, (size_t)last);
    return STATUS_OK;
}

static status affix(machine *m, string *s, value *a,
                    bool (*test)(const string *, const string *), value *out) {
    size_t from, to;
    bool any;
    TRY(window(m, s, a + 1, &from, &to, &any));
    *out = BOOL(false);
    string part = {.text = s->text + (any ? from : 0),
                   .bytes = any ? (uint32_t)(to - from) : 0};
    list one = {.items = a, .count = 1}, *options = a->kind == V_TUPLE ? a->list : &one;
    for (size_t i = 0; i < options->count; i++) {
        if (options->items[i].kind == V_UNDEFINED && a->kind != V_TUPLE)
            return jinja_raise(m, "TypeError",
                               "%s first arg must be str or a tuple of str, not Undefined",
                               test == starts ? "startswith" : "endswith");
        if (options->items[i].kind != V_STRING)
            return jinja_raise(
                m, "TypeError", "%s first arg must be str or a tuple of str, not %s",
                test == starts ? "startswith" : "endswith", jinja_type(&options->items[i]));
        if (any && test(&part, options->items[i].string)) *out = BOOL(true);
    }
    return STATUS_OK;
}

static status startswith(machine *m, value self, value *a, value *out) {
    return affix(m, self.string, a, starts, out);
}
static status endswith(machine *m, value self, value *a, value *out) {
    return affix(m, self.string, a, ends, out);
}

/* The first or last place in bytes, SIZE_MAX when there is none. */
static size_t search(const string *s, const string *what, size_t from, size_t to, bool last) {
    string part = {.text = s->text, .bytes = (uint32_t)to};
    size_t found = jinja_find(&part, what, from);
    if (!last || found == SIZE_MAX) return found;
    for (size_t at = to - what->bytes;; at--) /* from <= found <= at */
        if (!memcmp(s->text + at, what->text, what->bytes)) return at;
}

static status find_place(machine *m, string *s, value *a, bool last, int64_t *out) {
    string *what;
    size_t from, to;
    bool any;
    *out = -1;
    TRY(need_string(m, a, &what));
    TRY(window(m, s, a + 1, &from, &to, &any));
    TRY(jinja_step(m, s->bytes / 64));
    size_t found = any ? search(s, what, from, to, last) : SIZE_MAX;
    if (found == SIZE_MAX) return STATUS_OK;
    string before = {.text = s->text, .bytes = (uint32_t)found, .chars = UNCOUNTED};
    *out = jinja_chars(&before);
    return STATUS_OK;
}

static status find(machine *m, value self, value *a, value *out) {
    int64_t at;
    TRY(find_place(m, self.string, a, false, &at));
    *out = INT(at);
    return STATUS_OK;
}
static status rfind(machine *m, value self, value *a, value *out) {
    int64_t at;
    TRY(find_place(m, self.string, a, true, &at));
    *out = INT(at);
    return STATUS_OK;
}
static status index_of(machine *m, value self, value *a, value *out) {
    TRY(find(m, self, a, out));
    return out->integer < 0 ? jinja_raise(m, "ValueError", "substring not found") : STATUS_OK;
}
static status rindex_of(machine *m, value self, value *a, value *out) {
    TRY(rfind(m, self, a, out));
    return out->integer < 0 ? jinja_raise(m, "ValueError", "substring not found") : STATUS_OK;
}

static status count(machine *m, value self, value *a, value *out) {
    string *s = self.string, *what;
    size_t from, to;
    bool any;
    int64_t n = 0;
    TRY(need_string(m, a, &what));
    TRY(window(m, s, a + 1, &from, &to, &any));
    TRY(jinja_step(m, s->bytes / 64));
    if (any && !what->bytes) {
        string part = {
            .text = s->text + from, .bytes = (uint32_t)(to - from), .chars = UNCOUNTED};
        n = (int64_t)jinja_chars(&part) + 1;
    }
    for (size_t at = any && what->bytes ? search(s, what, from, to, false) : SIZE_MAX;
         at != SIZE_MAX; at = search(s, what, at + what->bytes, to, false))
        n++;
    *out = INT(n);
    return STATUS_OK;
}

status jinja_str_replace(machine *m, value self, value *a, value *out) {
    string *s = self.string, *old, *new;
    int64_t most;
    builder b = {0};
    size_t at = 0, found;
    TRY(need_string(m, &a[0], &old));
    TRY(need_string(m, &a[1], &new));
    TRY(jinja_take_integer(m, &a[2], -1, &most));
    TRY(jinja_step(m, s->bytes / 64));
    if (most < 0) most = INT64_MAX;
    *out = self;
    if (!most || (old->bytes && jinja_find(s, old, 0) == SIZE_MAX)) return STATUS_OK;
    if (!old->bytes) { /* between all characters */
        for (; most > 0 && at <= s->bytes; most--) {
            size_t n = at < s->bytes ? utf8_length((unsigned char)s->text[at]) : 1;
            TRY(jinja_put_string(m, &b, new));
            if (at < s->bytes) TRY(jinja_put_part(m, &b, s, at, at + n));
            at += n;
        }
    }
    for (; most > 0 && (found = jinja_find(s, old, at)) != SIZE_MAX; most--) {
        TRY(jinja_step(m, 1));
        TRY(jinja_put_part(m, &b, s, at, found));
        TRY(jinja_put_string(m, &b, new));
        at = found + old->bytes;
    }
    if (at < s->bytes) TRY(jinja_put_part(m, &b, s, at, s->bytes));
    return jinja_build(m, &b, out);
}

/* ---- cutting ---- */

typedef struct pieces {
    list *list;
    size_t capacity;
} pieces;

static status add_piece(machine *m, pieces *p, string *s, size_t from, size_t to) {
    value v;
    TRY(jinja_part(m, s, from, to, &v));
    return jinja_append(m, p->list, &p->capacity, v);
}

/* At white space; `most` cuts from the left. */
static status split_words(machine *m, string *s, int64_t most, pieces *p) {
    const char *at = s->text, *end = at + s->bytes;
    for (;;) {
        while (at < end && jinja_space(utf8_get(at))) at += utf8_length((unsigned char)*at);
        if (at == end) return STATUS_OK;
        const char *word = at;
        if (most-- == 0) { /* the rest, as it is but for its end */
            while (end > word && jinja_space(utf8_get(utf8_back(word, end))))
                end = utf8_back(word, end);
            return add_piece(m, p, s, (size_t)(word - s->text), (size_t)(end - s->text));
        }
        while (at < end && !jinja_space(utf8_get(at))) at += utf8_length((unsigned char)*at);
        TRY(add_piece(m, p, s, (size_t)(word - s->text), (size_t)(at - s->text)));
    }
}

static status rsplit_words(machine *m, string *s, int64_t most, pieces *p) {
    const char *start = s->text, *at = start + s->bytes;
    for (;;) {
        while (at > start && jinja_space(utf8_get(utf8_back(start, at))))
            at = utf8_back(start, at);
        if (at == start) return STATUS_OK;
        const char *end = at;
        if (most-- == 0) {
            while (start < end && jinja_space(utf8_get(start)))
                start += utf8_length((unsigned char)*start);
            return add_piece(m, p, s, (size_t)(start - s->text), (size_t)(end - s->text));
        }
        while (at > start && !jinja_space(utf8_get(utf8_back(start, at))))
            at = utf8_back(start, at);
        TRY(add_piece(m, p, s, (size_t)(at - s->text), (size_t)(end - s->text)));
    }
}

static status split_at(machine *m, string *s, const string *mark, int64_t most, bool right,
                       pieces *p) {
    size_t from = 0, to = s->bytes, found;
    while (most-- != 0 && (found = search(s, mark, from, to, right)) != SIZE_MAX) {
        TRY(right ? add_piece(m, p, s, found + mark->bytes, to)
                  : add_piece(m, p, s, from, found));
        if (right)
            to = found;
        else
            from = found + mark->bytes;
    }
    return add_piece(m, p, s, from, to);
}

static status split_any(machine *m, value self, value *a, bool right, value *out) {
    string *s = self.string, *mark;
    int64_t most;
    pieces p = {0};
    TRY(jinja_take_string(m, &a[0], &mark));
    TRY(jinja_take_integer(m, &a[1], -1, &most));
    if (mark && !mark->bytes) return jinja_raise(m, "ValueError", "empty separator");
    TRY(jinja_step(m, s->bytes / 64));
    TRY(jinja_make_list(m, 0, &p.list));
    if (mark)
        TRY(split_at(m, s, mark, most, right, &p));
    else
        TRY(right ? rsplit_words(m, s, most, &p) : split_words(m, s, most, &p));
    value *items = p.list->items;
    for (size_t i = 0, k = p.list->count; right && i + 1 < k; i++) {
        value swap = items[i];
        items[i] = items[--k], items[k] = swap;
    }
    *out = LIST(p.list);
    return STATUS_OK;
}

static status split(machine *m, value self, value *a, value *out) {
    return split_any(m, self, a, false, out);
}
static status rsplit(machine *m, value self, value *a, value *out) {
    return split_any(m, self, a, true, out);
}

static bool is_line_end(uint32_t code) {
    return (code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

status jinja_str_splitlines(machine *m, value self, value *a, value *out) {
    string *s = self.string;
    pieces p = {0};
    bool keep = jinja_truth(&a[0]);
    TRY(jinja_step(m, s->bytes / 16));
    TRY(jinja_make_list(m, 0, &p.list));
    for (size_t at = 0, start = 0; at < s->bytes;) {
        uint32_t code = utf8_get(s->text + at);
        size_t n = utf8_length((unsigned char)s->text[at]);
        if (is_line_end(code)) {
            if (code == '\r' && at + 1 < s->bytes && s->text[at + 1] == '\n') n = 2;
            TRY(add_piece(m, &p, s, start, keep ? at + n : at));
            start = at + n;
        } else if (at + n == s->bytes) {
            TRY(add_piece(m, &p, s, start, s->bytes));
        }
        at += n;
    }
    *out = LIST(p.list);
    return STATUS_OK;
}

static status partition_any(machine *m, value self, value *a, bool right, value *out) {
    string *s = self.string, *mark;
    list *l;
    TRY(need_string(m, a, &mark));
    if (!mark->bytes) return jinja_raise(m, "ValueError", "empty separator");
    TRY(jinja_step(m, s->bytes / 64));
    size_t found = search(s, mark, 0, s->bytes, right), end = found + mark->bytes;
    if (found == SIZE_MAX) found = end = right ? 0 : s->bytes;
    TRY(jinja_make_list(m, 3, &l));
    TRY(jinja_part(m, s, 0, found, &l->items[0]));
    TRY(jinja_part(m, s, found, end, &l->items[1]));
    TRY(jinja_part(m, s, end, s->bytes, &l->items[2]));
    *out = TUPLE(l);
    return STATUS_OK;
}

static status partition(machine *m, value self, value *a, value *out) {
    return partition_any(m, self, a, false, out);
}
static status rpartition(machine *m, value self, value *a, value *out) {
    return partition_any(m, self, a, true, out);
}

/* ---- joining and filling ---- */

static status join(machine *m, value self, value *a, value *out) {
    list *l;
    builder b = {0};
    if (!jinja_can_iterate(a)) return jinja_raise(m, "TypeError", "can only join an iterable");
    TRY(jinja_iterate(m, *a, &l));
    for (size_t i = 0; i < l->count; i++) {
        if (l->items[i].kind != V_STRING)
            return jinja_raise(m, "TypeError",
                               "sequence item %zu: expected str instance, %s found", i,
                               jinja_type(&l->items[i]));
        if (i) TRY(jinja_put_string(m, &b, self.string));
        TRY(jinja_put_string(m, &b, l->items[i].string));
    }
    TRY(jinja_step(m, l->count + b.bytes / 64));
    return jinja_build(m, &b, out);
}

static status fill(machine *m, builder *b, int64_t n, const string *with) {
    if (n > JINJA_OUTPUT)
        return jinja_raise(m, "MemoryError", "a text of more than %d MiB", JINJA_OUTPUT >> 20);
    TRY(jinja_step(m, n > 0 ? (uint64_t)n / 8 : 0));
    for (; n > 0; n--) TRY(with ? jinja_put_string(m, b, with) : jinja_put(m, b, " ", 1));
    return STATUS_OK;
}

/* `left` of 2 parts of what is missing goes before the text (1: the half, as str.center). */
static status justify(machine *m, value self, value *a, int left, value *out) {
    string *with;
    int64_t width, n = jinja_chars(self.string);
    builder b = {0};
    TRY(jinja_take_integer(m, &a[0], 0, &width));
    TRY(jinja_take_string(m, &a[1], &with));
    if (with && jinja_chars(with) != 1)
        return jinja_raise(m, "TypeError",
                           "The fill character must be exactly one character long");
    int64_t missing = width > n ? width - n : 0;
    int64_t before = left == 1 ? missing / 2 + (missing & width & 1) : left ? missing : 0;
    TRY(fill(m, &b, before, with));
    TRY(jinja_put_string(m, &b, self.string));
    TRY(fill(m, &b, missing - before, with));
    return jinja_build(m, &b, out);
}

status jinja_str_center(machine *m, value self, value *a, value *out) {
    return justify(m, self, a, 1, out);
}
static status ljust(machine *m, value self, value *a, value *out) {
    return justify(m, self, a, 0, out);
}
static status rjust(machine *m, value self, value *a, value *out) {
    return justify(m, self, a, 2, out);
}

static status zfill(machine *m, value self, value *a, value *out) {
    string *s = self.string, zero = {.text = "0", .bytes = 1, .chars = 1};
    int64_t width, n = jinja_chars(s);
    builder b = {0};
    TRY(jinja_take_integer(m, &a[0], 0, &width));
    size_t sign = s->bytes && (*s->text == '+' || *s->text == '-');
    TRY(jinja_put_part(m, &b, s, 0, sign));
    TRY(fill(m, &b, width - n, &zero));
    TRY(jinja_put_part(m, &b, s, sign, s->bytes));
    return jinja_build(m, &b, out);
}

static status format_values(machine *m, value self, const arguments *a, value *out) {
    return jinja_format(m, self.string, a, out);
}

const builtin jinja_string_methods[] = {
    {"capitalize", jinja_str_capitalize, {0}, 0, NULL},
    {"center", jinja_str_center, {"width", "fillchar"}, 1, NULL},
    {"count", count, {"sub", "start", "end"}, 1, NULL},
    {"endswith", endswith, {"suffix", "start", "end"}, 1, NULL},
    {"find", find, {"sub", "start", "end"}, 1, NULL},
    {"format", NULL, {0}, 0, format_values},
    {"index", index_of, {"sub", "start", "end"}, 1, NULL},
    {"isalnum", jinja_str_isalnum, {0}, 0, NULL},
    {"isalpha", jinja_str_isalpha, {0}, 0, NULL},
    {"isascii", jinja_str_isascii, {0}, 0, NULL},
    {"isdecimal", jinja_str_isdecimal, {0}, 0, NULL},
    {"isdigit", jinja_str_isdigit, {0}, 0, NULL},
    {"islower", jinja_str_islower, {0}, 0, NULL},
    {"isnumeric", jinja_str_isnumeric, {0}, 0, NULL},
    {"isspace", jinja_str_isspace, {0}, 0, NULL},
    {"istitle", jinja_str_istitle, {0}, 0, NULL},
    {"isupper", jinja_str_isupper, {0}, 0, NULL},
    {"join", join, {"iterable"}, 1, NULL},
    {"ljust", ljust, {"width", "fillchar"}, 1, NULL},
    {"lower", jinja_str_lower, {0}, 0, NULL},
    {"lstrip", lstrip, {"chars"}, 0, NULL},
    {"partition", partition, {"sep"}, 1, NULL},
    {"removeprefix", removeprefix, {"prefix"}, 1, NULL},
    {"removesuffix", removesuffix, {"suffix"}, 1, NULL},
    {"replace", jinja_str_replace, {"old", "new", "count"}, 2, NULL},
    {"rfind", rfind, {"sub", "start", "end"}, 1, NULL},
    {"rindex", rindex_of, {"sub", "start", "end"}, 1, NULL},
    {"rjust", rjust, {"width", "fillchar"}, 1, NULL},
    {"rpartition", rpartition, {"sep"}, 1, NULL},
    {"rsplit", rsplit, {"sep", "maxsplit"}, 0, NULL},
    {"rstrip", rstrip, {"chars"}, 0, NULL},
    {"split", split, {"sep", "maxsplit"}, 0, NULL},
    {"splitlines", jinja_str_splitlines, {"keepends"}, 0, NULL},
    {"startswith", startswith, {"prefix", "start", "end"}, 1, NULL},
    {"strip", jinja_str_strip, {"chars"}, 0, NULL},
    {"swapcase", jinja_str_swapcase, {0}, 0, NULL},
    {"title", jinja_str_title, {0}, 0, NULL},
    {"upper", jinja_str_upper, {0}, 0, NULL},
    {"zfill", zfill, {"width"}, 1, NULL},
    {0}};
