/* normalize.c: see normalize.h. A list of steps, each from one buffer into another. */
#include "data/normalize.h"
#include "common/alloc.h"
#include "data/normalize_unicode.h"
#include "data/unicode.h"

enum { MAX_STEPS = 32, MAX_NESTING = 8 };

enum kind { FORM, PREPEND, REPLACE, STRIP, LOWERCASE };

typedef struct step {
    enum kind kind;
    int form;
    bool left, right; /* STRIP */
    char *content;    /* PREPEND, REPLACE */
    size_t content_bytes;
    regex *pattern;
    char single; /* REPLACE of one ASCII character, else 0 */
} step;

struct normalizer {
    step steps[MAX_STEPS];
    int count;
};

static const char where[] = "normalizer";

/* ---- reading ---- */

static status read_content(step *s, const json_t *json, const char *key) {
    const json_t *value = json_object_get(json, key);
    if (!json_is_string(value))
        return status_fail(STATUS_MODEL, "%s: \"%s\" must be a string, it is %s", where, key,
                           json_type_name(value));
    s->content_bytes = json_string_length(value);
    s->content = mem_strndup(json_string_value(value), s->content_bytes);
    return s->content ? STATUS_OK : STATUS_MEMORY;
}

static status read_replace(step *s, const json_t *json) {
    TRY(read_content(s, json, "content"));
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *text = json_object_get(pattern, "String");
    bool literal = json_is_string(text);
    if (!literal) text = json_object_get(pattern, "Regex");
    if (!json_is_string(text) || !json_string_length(text))
        return status_fail(STATUS_MODEL,
                           "%s: Replace needs a String or a Regex that is not empty", where);
    const char *bytes = json_string_value(text);
    if (literal && json_string_length(text) == 1 && (unsigned char)*bytes < 0x80)
        s->single = *bytes;
    return regex_open(&s->pattern, bytes, json_string_length(text), literal);
}

static status read_strip(step *s, const json_t *json) {
    TRY(json_get_bool(json, "strip_left", &s->left, where, STATUS_MODEL));
    return json_get_bool(json, "strip_right", &s->right, where, STATUS_MODEL);
}

static status read_step(normalizer *n, const json_t *json, int depth);

static status read_sequence(normalizer *n, const json_t *json, int depth) {
    const json_t *list = json_object_get(json, "normalizers"), *item;
    size_t i;
    if (!json_is_array(list))
        return status_fail(STATUS_MODEL, "%s: a Sequence needs a list of \"normalizers\"",
                           where);
    json_array_foreach(list, i, item) TRY(read_step(n, item, depth + 1));
    return STATUS_OK;
}

static status read_step(normalizer *n, const json_t *json, int depth) {
    static const struct {
        const char *type;
        int form;
    } forms[] = {{"NFC", FORM_COMPOSED},
                 {"NFD", 0},
                 {"NFKC", FORM_COMPOSED | FORM_COMPATIBLE},
                 {"NFKD", FORM_COMPATIBLE}};
    const char *type = "";
    TRY(json_get_text(json, "type", &type, where, STATUS_MODEL));
    if (depth > MAX_NESTING || n->count == MAX_STEPS)
        return status_fail(STATUS_MODEL, "%s: nested too deep, or too many steps", where);
    if (!strcmp(type, "Sequence")) return read_sequence(n, json, depth);
    step *s = &n->steps[n->count++];
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (!strcmp(type, forms[i].type)) {
            s->kind = FORM;
            s->form = forms[i].form;
            normalize_unicode_setup();
            return STATUS_OK;
        }
    if (!strcmp(type, "Prepend")) {
        s->kind = PREPEND;
        return read_content(s, json, "prepend");
    }
    if (!strcmp(type, "Replace")) {
        s->kind = REPLACE;
        return read_replace(s, json);
    }
    if (!strcmp(type, "Strip")) {
        s->kind = STRIP;
        return read_strip(s, json);
    }
    s->kind = LOWERCASE;
    if (!strcmp(type, "Lowercase")) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s \"%.60s\" is not supported", where, type);
}

status normalizer_open(normalizer **out, const json_t *json) {
    *out = NULL;
    normalizer *n = mem_alloc(sizeof *n, "a normalizer");
    if (!n) return STATUS_MEMORY;
    status s = !json || json_is_null(json) ? STATUS_OK : read_step(n, json, 0);
    if (s != STATUS_OK)
        normalizer_close(n);
    else
        *out = n;
    return s;
}

void normalizer_close(normalizer *n) {
    if (!n) return;
    for (int i = 0; i < n->count; i++) {
        mem_free(n->steps[i].content);
        regex_close(n->steps[i].pattern);
    }
    mem_free(n);
}

void normalizer_scratch_free(normalizer_scratch *s) {
    for (int i = 0; i < 2; i++) mem_free(s->text[i].data);
    mem_free(s->codes.items);
    mem_free(s->sorted.items);
}

/* ---- applying ---- */

static status replace_single(const step *s, const char *text, size_t bytes, text_buffer *out) {
    const char *end = text + bytes;
    for (const char *p = text; p < end;) {
        const char *hit = memchr(p, s->single, (size_t)(end - p));
        if (!hit) return text_append(out, p, (size_t)(end - p));
        TRY(text_append(out, p, (size_t)(hit - p)));
        TRY(text_append(out, s->content, s->content_bytes));
        p = hit + 1;
    }
    return STATUS_OK;
}

static status replace(const step *s, normalizer_scratch *scratch, const char *text,
                      size_t bytes, text_buffer *out, bool *moved) {
    if (s->single && s->content_bytes) return replace_single(s, text, bytes, out);
    regex_walk walk = {.text = text, .bytes = bytes};
    size_t from = 0;
    bool found;
    for (;;) {
        TRY(regex_next(s->pattern, scratch->regex, &walk, &found));
        if (!found) break;
        TRY(text_append(out, text + from, walk.start - from));
        TRY(text_append(out, s->content, s->content_bytes));
        from = walk.end;
        /* a longer match at the start aligns with its last character, an erased one with none
         */
        if (!walk.start && walk.end &&
            (!s->content_bytes || walk.end > utf8_length((unsigned char)*text)))
            *moved = true;
    }
    return text_append(out, text + from, bytes - from);
}

static status strip(const step *s, const char *text, size_t bytes, text_buffer *out,
                    bool *moved) {
    const char *start = text, *end = text + bytes;
    while (s->left && start < end && unicode_is_space(utf8_get(start)))
        start += utf8_length((unsigned char)*start);
    while (s->right && start < end) {
        const char *last = utf8_back(start, end);
        if (!unicode_is_space(utf8_get(last))) break;
        end = last;
    }
    if (start != text) *moved = true;
    return text_append(out, start, (size_t)(end - start));
}

static status lowercase(const char *text, size_t bytes, text_buffer *out) {
    TRY(text_reserve(out,
                     2 * bytes)); /* U+0130 grows from 2 to 3 bytes, nothing more than twice */
    for (size_t i = 0; i < bytes; i += utf8_length((unsigned char)text[i])) {
        uint32_t lower[2];
        int n = unicode_lower(utf8_get(text + i), lower);
        for (int k = 0; k < n; k++) out->bytes += utf8_put(lower[k], out->data + out->bytes);
    }
    return STATUS_OK;
}

static status apply_step(const step *s, normalizer_scratch *scratch, const char *text,
                         size_t bytes, text_buffer *out, bool *moved) {
    switch (s->kind) {
    case FORM:
        return normalize_unicode(scratch, text, bytes, s->form, out);
    case PREPEND:
        if (bytes) TRY(text_append(out, s->content, s->content_bytes));
        return text_append(out, text, bytes);
    case REPLACE:
        return replace(s, scratch, text, bytes, out, moved);
    case STRIP:
        return strip(s, text, bytes, out, moved);
    case LOWERCASE:
        return lowercase(text, bytes, out);
    }
    return status_fail(STATUS_INTERNAL, "an unknown normalizer");
}

status normalizer_apply(const normalizer *n, normalizer_scratch *s, const char *text,
                        size_t bytes, const char **out, size_t *out_bytes, bool *moved) {
    *out = text;
    *out_bytes = bytes;
    for (int i = 0; i < n->count; i++) {
        const step *one = &n->steps[i];
        if (one->kind == FORM &&
            normalize_unicode_stable(*out, *out_bytes, one->form) == *out_bytes)
            continue;
        text_buffer *to = &s->text[*out == s->text[0].data];
        to->bytes = 0;
        TRY(apply_step(one, s, *out, *out_bytes, to, moved));
        *out = to->data;
        *out_bytes = to->bytes;
    }
    return STATUS_OK;
}
