/* decode.c: see decode.h. */
#include "data/decode.h"
#include "common/alloc.h"
#include "data/byte_level.h"
#include "data/unicode.h"

#include <ctype.h>
#include <stdlib.h>

enum { MAX_STEPS = 16, MAX_NESTING = 8 };

enum kind { BYTE_LEVEL, REPLACE, BYTE_FALLBACK, FUSE, STRIP, METASPACE };

static const char replacement_character[] = "\xEF\xBF\xBD";

typedef struct step {
    enum kind kind;
    regex *pattern;      /* REPLACE */
    char *content;       /* REPLACE; STRIP and METASPACE: one character */
    size_t bytes;        /* of content */
    int64_t start, stop; /* STRIP: how many at most */
    bool erase_first;    /* METASPACE: in the first token */
} step;

struct decoder {
    step steps[MAX_STEPS];
    int count;
};

status text_list_add(text_list *list, const char *text, size_t bytes) {
    TRY(text_append(&list->text, text, bytes));
    if (mem_grow(&list->ends, &list->capacity, list->count + 1, sizeof *list->ends,
                 "decoding"))
        return STATUS_MEMORY;
    list->ends[list->count++] = list->text.bytes;
    return STATUS_OK;
}

void text_list_free(text_list *list) {
    mem_free(list->text.data);
    mem_free(list->ends);
}

/* Ends the token that has been written to list->text bit by bit. */
static status end_token(text_list *list) {
    return text_list_add(list, "", 0);
}

/* ---- reading ---- */

static const char where[] = "decoder";

static status read_content(step *s, const json_t *value, bool character) {
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    if (!text || (character && (!n || utf8_length((unsigned char)*text) != n)))
        return status_fail(STATUS_MODEL, "%s: its content must be %s", where,
                           character ? "one character" : "a string");
    s->content = mem_strndup(text, n);
    s->bytes = n;
    return s->content ? STATUS_OK : STATUS_MEMORY;
}

static status read_replace(step *s, const json_t *json) {
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *text = json_object_get(pattern, "String");
    bool literal = json_is_string(text);
    if (!literal) text = json_object_get(pattern, "Regex");
    if (!json_is_string(text) || !json_string_length(text))
        return status_fail(STATUS_MODEL,
                           "%s: Replace needs a String or a Regex that is not empty", where);
    TRY(read_content(s, json_object_get(json, "content"), false));
    return regex_open(&s->pattern, json_string_value(text), json_string_length(text), literal);
}

static status read_strip(step *s, const json_t *json) {
    TRY(read_content(s, json_object_get(json, "content"), true));
    TRY(json_get_int(json, "start", &s->start, where, STATUS_MODEL));
    return json_get_int(json, "stop", &s->stop, where, STATUS_MODEL);
}

static status read_metaspace(step *s, const json_t *json) {
    const char *scheme = "always";
    bool prefix = true;
    TRY(read_content(s, json_object_get(json, "replacement"), true));
    TRY(json_get_text(json, "prepend_scheme", &scheme, where, STATUS_MODEL));
    TRY(json_get_bool(json, "add_prefix_space", &prefix, where, STATUS_MODEL));
    s->erase_first = prefix && strcmp(scheme, "never");
    return STATUS_OK;
}

static status read_step(decoder *d, const json_t *json, int depth) {
    static const char *const types[] = {"ByteLevel", "Replace", "ByteFallback",
                                        "Fuse",      "Strip",   "Metaspace"};
    const char *type = "";
    TRY(json_get_text(json, "type", &type, where, STATUS_MODEL));
    if (depth > MAX_NESTING || d->count == MAX_STEPS)
        return status_fail(STATUS_MODEL, "%s: nested too deep, or too many steps", where);
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "decoders"), *item;
        size_t i;
        if (!json_is_array(list))
            return status_fail(STATUS_MODEL, "%s: a Sequence needs a list of \"decoders\"",
                               where);
        json_array_foreach(list, i, item) TRY(read_step(d, item, depth + 1));
        return STATUS_OK;
    }
    int kind = 0;
    while (kind <= METASPACE && strcmp(type, types[kind])) kind++;
    if (kind > METASPACE)
        return status_fail(STATUS_MODEL, "%s \"%.60s\" is not supported", where, type);
    step *s = &d->steps[d->count++];
    s->kind = (enum kind)kind;
    if (s->kind == REPLACE) return read_replace(s, json);
    if (s->kind == STRIP) return read_strip(s, json);
    return s->kind == METASPACE ? read_metaspace(s, json) : STATUS_OK;
}

status text_decoder_open(decoder **out, const json_t *json) {
    *out = NULL;
    if (!json || json_is_null(json)) return STATUS_OK;
    decoder *d = mem_alloc(sizeof *d, "a decoder");
    if (!d) return STATUS_MEMORY;
    status s = read_step(d, json, 0);
    if (s != STATUS_OK)
        text_decoder_close(d);
    else
        *out = d;
    return s;
}

void text_decoder_close(decoder *d) {
    if (!d) return;
    for (int i = 0; i < d->count; i++) {
        regex_close(d->steps[i].pattern);
        mem_free(d->steps[i].content);
    }
    mem_free(d);
}

/* ---- applying ---- */

/* Bytes as text, what is ill-formed replaced, as one token. */
static status add_lossy(text_list *out, const char *text, size_t bytes) {
    while (bytes) {
        size_t good = utf8_valid(text, bytes);
        TRY(text_append(&out->text, text, good));
        text += good;
        bytes -= good;
        if (!bytes) break;
        size_t bad = utf8_bad(text, bytes);
        TRY(text_append(&out->text, replacement_character, 3));
        text += bad;
        bytes -= bad;
    }
    return end_token(out);
}

/* A token that is not all of the alphabet stays as it is. */
static status byte_level(const text_list *in, text_list *out) {
    text_buffer bytes = {0};
    status s = STATUS_OK;
    for (size_t i = 0, from = 0; i < in->count && s == STATUS_OK; from = in->ends[i++]) {
        bool is;
        s = byte_level_read(in->text.data + from, in->ends[i] - from, &bytes, &is);
        if (s == STATUS_OK && !is)
            s = text_append(&bytes, in->text.data + from, in->ends[i] - from);
    }
    if (s == STATUS_OK) s = add_lossy(out, bytes.data, bytes.bytes);
    mem_free(bytes.data);
    return s;
}

static status replace(const step *s, regex_scratch *scratch, const char *token, size_t n,
                      text_list *out) {
    regex_walk walk = {.text = token, .bytes = n};
    size_t from = 0;
    bool found = n > 0;
    while (found) {
        TRY(regex_next(s->pattern, scratch, &walk, &found));
        if (!found) break;
        TRY(text_append(&out->text, token + from, walk.start - from));
        TRY(text_append(&out->text, s->content, s->bytes));
        from = walk.end;
    }
    TRY(text_append(&out->text, token + from, n - from));
    return end_token(out);
}

/* The byte of <0xNN>, or -1. */
static int byte_token(const char *token, size_t n) {
    if (n != 6 || memcmp(token, "<0x", 3) || token[5] != '>') return -1;
    /* Rust's from_str_radix takes a plus sign before one digit */
    bool sign = token[3] == '+';
    if ((!sign && !isxdigit((unsigned char)token[3])) || !isxdigit((unsigned char)token[4]))
        return -1;
    return (int)strtol((char[3]){sign ? '0' : token[3], token[4], 0}, NULL, 16);
}

/* A run of bytes is text when it is valid as a whole, else as many replacement characters. */
static status flush_bytes(text_buffer *bytes, text_list *out) {
    if (!bytes->bytes) return STATUS_OK;
    if (utf8_valid(bytes->data, bytes->bytes) == bytes->bytes)
        TRY(text_list_add(out, bytes->data, bytes->bytes));
    else
        for (size_t i = 0; i < bytes->bytes; i++)
            TRY(text_list_add(out, replacement_character, 3));
    bytes->bytes = 0;
    return STATUS_OK;
}

static status byte_fallback(const text_list *in, text_list *out) {
    text_buffer bytes = {0};
    status s = STATUS_OK;
    for (size_t i = 0, from = 0; i < in->count && s == STATUS_OK; from = in->ends[i++]) {
        const char *token = in->text.data + from;
        int byte = byte_token(token, in->ends[i] - from);
        if (byte >= 0) {
            char one = (char)byte;
            s = text_append(&bytes, &one, 1);
            continue;
        }
        s = flush_bytes(&bytes, out);
        if (s == STATUS_OK) s = text_list_add(out, token, in->ends[i] - from);
    }
    if (s == STATUS_OK) s = flush_bytes(&bytes, out);
    mem_free(bytes.data);
    return s;
}

static status strip(const step *s, const char *token, size_t n, text_list *out) {
    for (int64_t i = 0; i < s->start && n >= s->bytes && !memcmp(token, s->content, s->bytes);
         i++) {
        token += s->bytes;
        n -= s->bytes;
    }
    for (int64_t i = 0;
         i < s->stop && n >= s->bytes && !memcmp(token + n - s->bytes, s->content, s->bytes);
         i++)
        n -= s->bytes;
    return text_list_add(out, token, n);
}

static status metaspace(const step *s, const char *token, size_t n, bool first,
                        text_list *out) {
    for (size_t i = 0, length; i < n; i += length) {
        length = utf8_length((unsigned char)token[i]);
        bool meta = length == s->bytes && !memcmp(token + i, s->content, length);
        if (!meta)
            TRY(text_append(&out->text, token + i, length));
        else if (!first || !s->erase_first)
            TRY(text_append(&out->text, " ", 1));
    }
    return end_token(out);
}

static status apply_step(const step *s, regex_scratch *matcher, const text_list *in,
                         text_list *out) {
    out->text.bytes = out->count = 0;
    if (s->kind == BYTE_LEVEL) return byte_level(in, out);
    if (s->kind == BYTE_FALLBACK) return byte_fallback(in, out);
    if (s->kind == FUSE) return text_list_add(out, in->text.data, in->text.bytes);
    for (size_t i = 0, from = 0; i < in->count; from = in->ends[i++]) {
        const char *token = in->text.data + from;
        size_t n = in->ends[i] - from;
        if (s->kind == REPLACE) TRY(replace(s, matcher, token, n, out));
        if (s->kind == STRIP) TRY(strip(s, token, n, out));
        if (s->kind == METASPACE) TRY(metaspace(s, token, n, !i, out));
    }
    return STATUS_OK;
}

/* Without a decoder the library joins with spaces. */
static status join(const text_list *in, text_list *out) {
    out->text.bytes = out->count = 0;
    for (size_t i = 0, from = 0; i < in->count; from = in->ends[i++]) {
        if (i) TRY(text_append(&out->text, " ", 1));
        TRY(text_append(&out->text, in->text.data + from, in->ends[i] - from));
    }
    return end_token(out);
}

status decoder_apply(const decoder *d, regex_scratch *matcher, text_list *tokens,
                     text_list *scratch) {
    for (int i = 0; i < (d ? d->count : 1); i++) {
        TRY(d ? apply_step(&d->steps[i], matcher, tokens, scratch) : join(tokens, scratch));
        text_list other = *tokens;
        *tokens = *scratch;
        *scratch = other;
    }
    return STATUS_OK;
}
