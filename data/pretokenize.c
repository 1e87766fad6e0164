/* pretokenize.c: see pretokenize.h. Each step cuts the pieces of the step before it; a piece
 * travels through all of them before the next one starts. */
#include "data/pretokenize.h"
#include "common/alloc.h"
#include "data/byte_level.h"
#include "data/scanner.h"
#include "data/unicode.h"

enum { MAX_NESTING = 8 };

enum kind {
    SPLIT,
    SCAN,
    BYTE_LEVEL,
    METASPACE,
    DIGITS,
    WHITESPACE,
    WHITESPACE_SPLIT,
    PUNCTUATION
};
enum behaviour { REMOVED, ISOLATED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT };
enum scheme { ALWAYS, FIRST, NEVER };

typedef struct step {
    enum kind kind;
    enum behaviour behaviour;
    regex *pattern; /* SPLIT */
    bool invert;
    scanner scan;          /* SCAN */
    bool add_prefix_space; /* BYTE_LEVEL */
    bool raw;              /* BYTE_LEVEL: leaves the bytes as they are */
    enum scheme scheme;    /* METASPACE */
    bool split;            /* METASPACE */
    char replacement[8];   /* METASPACE, a character */
    size_t replacement_bytes;
} step;

struct pretokenizer {
    step steps[PRETOKENIZER_STEPS];
    int count;
};

static const char where[] = "pre_tokenizer";

/* ---- reading ---- */

static status read_behaviour(const json_t *json, enum behaviour *out) {
    static const char *const names[] = {"Removed", "Isolated", "Contiguous",
                                        "MergedWithPrevious", "MergedWithNext"};
    const char *name = NULL;
    TRY(json_get_text(json, "behavior", &name, where, STATUS_MODEL));
    for (int i = 0; name && i < 5; i++)
        if (!strcmp(name, names[i])) {
            *out = (enum behaviour)i;
            return STATUS_OK;
        }
    return name ? status_fail(STATUS_MODEL, "%s: behavior \"%.60s\" is not supported", where,
                              name)
                : STATUS_OK;
}

static status read_split(step *s, const json_t *json, bool scanners) {
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *text = json_object_get(pattern, "String");
    bool literal = json_is_string(text);
    if (!literal) text = json_object_get(pattern, "Regex");
    if (!json_is_string(text))
        return status_fail(STATUS_MODEL, "%s: Split needs a String or a Regex", where);
    if (!json_is_string(json_object_get(json, "behavior")))
        return status_fail(STATUS_MODEL, "%s: Split needs a behavior", where);
    TRY(read_behaviour(json, &s->behaviour));
    TRY(json_get_bool(json, "invert", &s->invert, where, STATUS_MODEL));
    const char *bytes = json_string_value(text);
    size_t n = json_string_length(text);
    if (scanners && !literal && s->behaviour != REMOVED) s->scan = scanner_for(bytes, n);
    /* a scanner leaves no gaps, and then isolated or not inverted makes no difference */
    if (s->scan && s->behaviour == ISOLATED) {
        s->kind = SCAN;
        return STATUS_OK;
    }
    s->kind = SPLIT;
    return regex_open(&s->pattern, bytes, n, literal);
}

static step *add_step(pretokenizer *p, enum kind kind) {
    if (p->count == PRETOKENIZER_STEPS) {
        status_fail(STATUS_MODEL, "%s: too many steps", where);
        return NULL;
    }
    p->steps[p->count].kind = kind;
    return &p->steps[p->count++];
}

/* Two steps: the cut by GPT-2's pattern, after the space before the first word, then the
 * alphabet. */
static status read_byte_level(pretokenizer *p, const json_t *json, bool scanners) {
    bool prefix = true, use_regex = true;
    TRY(json_get_bool(json, "add_prefix_space", &prefix, where, STATUS_MODEL));
    TRY(json_get_bool(json, "use_regex", &use_regex, where, STATUS_MODEL));
    if (use_regex) {
        step *s = add_step(p, scanners ? SCAN : SPLIT);
        if (!s) return STATUS_MODEL;
        s->add_prefix_space = prefix;
        s->behaviour = ISOLATED;
        s->scan = scanner_gpt2;
        if (!scanners)
            TRY(regex_open(&s->pattern, scanner_gpt2_pattern, strlen(scanner_gpt2_pattern),
                           false));
    }
    step *s = add_step(p, BYTE_LEVEL);
    if (!s) return STATUS_MODEL;
    s->add_prefix_space = prefix && !use_regex;
    return STATUS_OK;
}

static status read_metaspace(step *s, const json_t *json) {
    const char *replacement = "\xE2\x96\x81", *scheme = "always";
    bool prefix = true;
    s->split = true;
    TRY(json_get_text(json, "replacement", &replacement, where, STATUS_MODEL));
    TRY(json_get_text(json, "prepend_scheme", &scheme, where, STATUS_MODEL));
    TRY(json_get_bool(json, "split", &s->split, where, STATUS_MODEL));
    TRY(json_get_bool(json, "add_prefix_space", &prefix, where, STATUS_MODEL));
    s->replacement_bytes = strlen(replacement);
    if (!s->replacement_bytes ||
        utf8_length((unsigned char)*replacement) != s->replacement_bytes)
        return status_fail(STATUS_MODEL, "%s: Metaspace's replacement must be one character",
                           where);
    memcpy(s->replacement, replacement, s->replacement_bytes);
    s->scheme = !strcmp(scheme, "first") ? FIRST : !strcmp(scheme, "never") ? NEVER : ALWAYS;
    if (s->scheme == ALWAYS && strcmp(scheme, "always"))
        return status_fail(STATUS_MODEL, "%s: prepend_scheme \"%.60s\" is not supported",
                           where, scheme);
    if (!prefix && s->scheme != NEVER) { /* the older way of writing it */
        if (json_object_get(json, "prepend_scheme"))
            return status_fail(STATUS_MODEL, "%s: add_prefix_space contradicts prepend_scheme",
                               where);
        s->scheme = NEVER;
    }
    return STATUS_OK;
}

static status read_digits(step *s, const json_t *json) {
    bool individual = false;
    TRY(json_get_bool(json, "individual_digits", &individual, where, STATUS_MODEL));
    s->behaviour = individual ? ISOLATED : CONTIGUOUS;
    return STATUS_OK;
}

static status read_step(pretokenizer *p, const json_t *json, bool scanners, int depth);

static status read_sequence(pretokenizer *p, const json_t *json, bool scanners, int depth) {
    const json_t *list = json_object_get(json, "pretokenizers"), *item;
    size_t i;
    if (!json_is_array(list))
        return status_fail(STATUS_MODEL, "%s: a Sequence needs a list of \"pretokenizers\"",
                           where);
    json_array_foreach(list, i, item) TRY(read_step(p, item, scanners, depth + 1));
    return STATUS_OK;
}

static status read_step(pretokenizer *p, const json_t *json, bool scanners, int depth) {
    static const struct {
        const char *type;
        enum kind kind;
    } kinds[] = {{"Split", SPLIT},
                 {"Metaspace", METASPACE},
                 {"Digits", DIGITS},
                 {"Whitespace", WHITESPACE},
                 {"Punctuation", PUNCTUATION},
                 {"WhitespaceSplit", WHITESPACE_SPLIT}};
    const char *type = "";
    TRY(json_get_text(json, "type", &type, where, STATUS_MODEL));
    if (depth > MAX_NESTING) return status_fail(STATUS_MODEL, "%s: nested too deep", where);
    if (!strcmp(type, "Sequence")) return read_sequence(p, json, scanners, depth);
    if (!strcmp(type, "ByteLevel")) return read_byte_level(p, json, scanners);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(type, kinds[i].type)) continue;
        step *s = add_step(p, kinds[i].kind);
        if (!s) return STATUS_MODEL;
        if (s->kind == SPLIT) return read_split(s, json, scanners);
        if (s->kind == METASPACE) return read_metaspace(s, json);
        if (s->kind == DIGITS) return read_digits(s, json);
        s->behaviour = s->kind == PUNCTUATION ? ISOLATED : REMOVED;
        return s->kind == PUNCTUATION ? read_behaviour(json, &s->behaviour) : STATUS_OK;
    }
    return status_fail(STATUS_MODEL, "%s \"%.60s\" is not supported", where, type);
}

status pretokenizer_open(pretokenizer **out, const json_t *json, bool scanners) {
    *out = NULL;
    unicode_setup();
    pretokenizer *p = mem_alloc(sizeof *p, "a pre-tokenizer");
    if (!p) return STATUS_MEMORY;
    status s = !json || json_is_null(json) ? STATUS_OK : read_step(p, json, scanners, 0);
    if (s != STATUS_OK) {
        pretokenizer_close(p);
        return s;
    }
    if (p->count && p->steps[p->count - 1].kind == BYTE_LEVEL)
        p->steps[p->count - 1].raw = true;
    *out = p;
    return STATUS_OK;
}

void pretokenizer_close(pretokenizer *p) {
    if (!p) return;
    for (int i = 0; i < p->count; i++) regex_close(p->steps[i].pattern);
    mem_free(p);
}

bool pretokenizer_gives_bytes(const pretokenizer *p) {
    return p->count && p->steps[p->count - 1].raw;
}

void pretokenizer_forbid_bytes(pretokenizer *p) {
    if (p->count) p->steps[p->count - 1].raw = false;
}

bool pretokenizer_is_empty(const pretokenizer *p) {
    return !p->count;
}

void pretokenizer_scratch_free(pretokenizer_scratch *s) {
    for (int i = 0; i < PRETOKENIZER_STEPS; i++) {
        mem_free(s->prefixed[i].data);
        mem_free(s->text[i].data);
    }
}

/* ---- cutting ---- */

typedef struct run {
    const pretokenizer *p;
    pretokenizer_scratch *scratch;
    piece_sink sink;
    void *context;
} run;

static status run_step(const run *r, int index, const char *text, size_t bytes, bool at_start);

static status pass_on(const run *r, int index, const char *text, size_t bytes, bool at_start) {
    if (!bytes) return STATUS_OK;
    if (index + 1 == r->p->count) return r->sink(r->context, text, bytes);
    return run_step(r, index + 1, text, bytes, at_start);
}

/* Stretches, alternately matched or not, become pieces by the step's behaviour; the last one
 * is held back as long as it may still grow. */
typedef struct cutter {
    const run *r;
    int index;
    enum behaviour behaviour;
    const char *text;
    bool at_start;
    size_t start, end; /* held back */
    bool held, held_match;
} cutter;

static status release(cutter *c) {
    if (!c->held) return STATUS_OK;
    c->held = false;
    return pass_on(c->r, c->index, c->text + c->start, c->end - c->start,
                   c->at_start && !c->start);
}

/* Whether the new stretch joins the one held back. */
static bool joins(const cutter *c, bool match) {
    if (!c->held) return false;
    switch (c->behaviour) {
    case CONTIGUOUS:
        return match == c->held_match;
    case MERGED_WITH_PREVIOUS:
        return match && !c->held_match;
    case MERGED_WITH_NEXT:
        return !match && c->held_match;
    default:
        return false;
    }
}

static status cut(cutter *c, size_t start, size_t end, bool match) {
    if (c->behaviour == REMOVED && match) return STATUS_OK;
    if (joins(c, match)) {
        c->end = end;
        c->held_match = match;
        return STATUS_OK;
    }
    TRY(release(c));
    c->start = start;
    c->end = end;
    c->held = true;
    c->held_match = match;
    return STATUS_OK;
}

static status split_pattern(cutter *c, const step *s, size_t bytes) {
    regex_walk walk = {.text = c->text, .bytes = bytes};
    size_t from = 0;
    bool found;
    for (;;) {
        TRY(regex_next(s->pattern, c->r->scratch->regex, &walk, &found));
        if (!found) break;
        if (from != walk.start) TRY(cut(c, from, walk.start, s->invert));
        TRY(cut(c, walk.start, walk.end, !s->invert));
        from = walk.end;
    }
    if (from != bytes) TRY(cut(c, from, bytes, s->invert));
    return release(c);
}

/* Every character for which `is` holds is a match of its own. */
static status split_characters(cutter *c, bool (*is)(uint32_t), size_t bytes) {
    size_t from = 0;
    for (size_t i = 0, next; i < bytes; i = next) {
        next = i + utf8_length((unsigned char)c->text[i]);
        if (!is(utf8_get(c->text + i))) continue;
        if (from < i) TRY(cut(c, from, i, false));
        TRY(cut(c, i, next, true));
        from = next;
    }
    if (from < bytes) TRY(cut(c, from, bytes, false));
    return release(c);
}

/* \w+|[^\w\s]+, without what is between. */
static status split_words(cutter *c, size_t bytes) {
    size_t from = 0;
    int before = 0; /* 0: space, 1: word, 2: neither */
    for (size_t i = 0; i < bytes; i += utf8_length((unsigned char)c->text[i])) {
        uint32_t code = utf8_get(c->text + i);
        int now = unicode_is_word(code) ? 1 : unicode_is_space(code) ? 0 : 2;
        if (now == before) continue;
        if (before) TRY(cut(c, from, i, false));
        from = i;
        before = now;
    }
    if (before) TRY(cut(c, from, bytes, false));
    return release(c);
}

static status metaspace(const run *r, int index, const char *text, size_t bytes,
                        bool at_start) {
    const step *s = &r->p->steps[index];
    size_t n = s->replacement_bytes;
    bool has = *text == ' ' || (bytes >= n && !memcmp(text, s->replacement, n));
    bool add = !has && (s->scheme == ALWAYS || (s->scheme == FIRST && at_start));
    text_buffer *b = &r->scratch->text[index];
    b->bytes = 0;
    TRY(text_reserve(b, n * (bytes + 1)));
    TRY(text_append(b, s->replacement, add ? n : 0));
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ') {
            memcpy(b->data + b->bytes, s->replacement, n);
            b->bytes += n;
        } else {
            b->data[b->bytes++] = text[i];
        }
    }
    if (!s->split) return pass_on(r, index, b->data, b->bytes, at_start);
    cutter c = {.r = r,
                .index = index,
                .behaviour = MERGED_WITH_NEXT,
                .text = b->data,
                .at_start = at_start};
    size_t from = 0;
    for (size_t i = 0; i + n <= b->bytes; i += utf8_length((unsigned char)b->data[i])) {
        if (memcmp(b->data + i, s->replacement, n)) continue;
        if (from < i) TRY(cut(&c, from, i, false));
        TRY(cut(&c, i, i + n, true));
        from = i + n;
    }
    if (from < b->bytes) TRY(cut(&c, from, b->bytes, false));
    return release(&c);
}

static status byte_level(const run *r, int index, const char *text, size_t bytes,
                         bool at_start) {
    if (r->p->steps[index].raw) return pass_on(r, index, text, bytes, at_start);
    text_buffer *b = &r->scratch->text[index];
    b->bytes = 0;
    TRY(byte_level_write(text, bytes, b));
    return pass_on(r, index, b->data, b->bytes, at_start);
}

static status scan(const run *r, int index, const char *text, size_t bytes, bool at_start) {
    const char *end = text + bytes;
    for (const char *p = text, *next; p < end; p = next) {
        next = r->p->steps[index].scan(p, end);
        TRY(pass_on(r, index, p, (size_t)(next - p), at_start && p == text));
    }
    return STATUS_OK;
}

static status run_step(const run *r, int index, const char *text, size_t bytes,
                       bool at_start) {
    const step *s = &r->p->steps[index];
    if (s->add_prefix_space && *text != ' ') {
        text_buffer *b = &r->scratch->prefixed[index];
        b->bytes = 0;
        TRY(text_append(b, " ", 1));
        TRY(text_append(b, text, bytes));
        text = b->data;
        bytes = b->bytes;
    }
    cutter c = {
        .r = r, .index = index, .behaviour = s->behaviour, .text = text, .at_start = at_start};
    switch (s->kind) {
    case SPLIT:
        return split_pattern(&c, s, bytes);
    case SCAN:
        return scan(r, index, text, bytes, at_start);
    case BYTE_LEVEL:
        return byte_level(r, index, text, bytes, at_start);
    case METASPACE:
        return metaspace(r, index, text, bytes, at_start);
    case DIGITS:
        return split_characters(&c, unicode_is_numeric, bytes);
    case WHITESPACE:
        return split_words(&c, bytes);
    case WHITESPACE_SPLIT:
        return split_characters(&c, unicode_is_space, bytes);
    case PUNCTUATION:
        return split_characters(&c, unicode_is_punctuation, bytes);
    }
    return status_fail(STATUS_INTERNAL, "an unknown pre-tokenizer");
}

status pretokenize(const pretokenizer *p, pretokenizer_scratch *s, const char *text,
                   size_t bytes, bool at_start, piece_sink sink, void *context) {
    run r = {p, s, sink, context};
    if (!bytes) return STATUS_OK;
    return p->count ? run_step(&r, 0, text, bytes, at_start) : sink(context, text, bytes);
}
