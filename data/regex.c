/* regex.c: see regex.h. */
#include "data/regex.h"
#include "common/alloc.h"
#include "data/oniguruma.h"
#include "data/unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

enum {
    JIT_STACK_START = 32 << 10, /* bytes */
    JIT_STACK_MOST = 16 << 20,  /* bytes */
    HEAP_LIMIT = 64 << 10,      /* KiB, for the interpreter */
    MATCH_LIMIT = 50000000,     /* calls of the matcher for one match */
};

struct regex {
    pcre2_general_context *memory;
    pcre2_code *code;
    char *pattern;
};

struct regex_scratch {
    pcre2_general_context *memory;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static void *allocate(size_t bytes, void *unused) {
    return mem_alloc(bytes, "a pattern");
}
static void release(void *block, void *unused) {
    mem_free(block);
}

static status compile(regex *r, const char *shown) {
    size_t bytes = strlen(r->pattern);
    pcre2_compile_context *context = pcre2_compile_context_create(r->memory);
    if (!context) return STATUS_MEMORY;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error;
    PCRE2_SIZE at;
    r->code = pcre2_compile((PCRE2_SPTR)r->pattern, bytes,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &at, context);
    pcre2_compile_context_free(context);
    if (!r->code) {
        if (error == PCRE2_ERROR_HEAP_FAILED) return STATUS_MEMORY; /* `allocate` said it */
        PCRE2_UCHAR why[128] = "";
        pcre2_get_error_message(error, why, sizeof why);
        return status_fail(STATUS_MODEL, "pattern \"%.200s\" is not supported: %s", shown,
                           (char *)why);
    }
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without a JIT the interpreter does it */
    return STATUS_OK;
}

/* \Q...\E cannot hold \E, so literals are written as code points. */
static status quote(regex *r, const char *text, size_t bytes) {
    r->pattern = mem_alloc(10 * bytes + 1, "a pattern");
    if (!r->pattern) return STATUS_MEMORY;
    char *out = r->pattern;
    for (const char *p = text; p < text + bytes; p += utf8_length((unsigned char)*p))
        out += snprintf(out, 11, "\\x{%X}", utf8_get(p));
    return STATUS_OK;
}

status regex_open(regex **out, const char *pattern, size_t bytes, bool literal) {
    *out = NULL;
    regex *r = mem_alloc(sizeof *r, "a pattern");
    if (!r) return STATUS_MEMORY;
    size_t translated;
    status s = literal ? quote(r, pattern, bytes)
                       : oniguruma_to_pcre2(pattern, bytes, &r->pattern, &translated);
    if (s == STATUS_OK) {
        r->memory = pcre2_general_context_create(allocate, release, NULL);
        s = r->memory ? compile(r, pattern) : STATUS_MEMORY;
    }
    if (s != STATUS_OK) {
        regex_close(r);
        return s;
    }
    *out = r;
    return STATUS_OK;
}

void regex_close(regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    pcre2_general_context_free(r->memory);
    mem_free(r->pattern);
    mem_free(r);
}

status regex_scratch_open(regex_scratch **out) {
    *out = NULL;
    regex_scratch *s = mem_alloc(sizeof *s, "a pattern's workspace");
    if (!s) return STATUS_MEMORY;
    s->memory = pcre2_general_context_create(allocate, release, NULL);
    if (s->memory) {
        s->data = pcre2_match_data_create(1, s->memory);
        s->context = pcre2_match_context_create(s->memory);
        s->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MOST, s->memory);
    }
    if (!s->data || !s->context) {
        regex_scratch_close(s);
        return STATUS_MEMORY;
    }
    pcre2_set_match_limit(s->context, MATCH_LIMIT);
    pcre2_set_heap_limit(s->context, HEAP_LIMIT);
    if (s->stack) pcre2_jit_stack_assign(s->context, NULL, s->stack);
    *out = s;
    return STATUS_OK;
}

void regex_scratch_close(regex_scratch *s) {
    if (!s) return;
    pcre2_jit_stack_free(s->stack);
    pcre2_match_context_free(s->context);
    pcre2_match_data_free(s->data);
    pcre2_general_context_free(s->memory);
    mem_free(s);
}

static status search(const regex *r, regex_scratch *s, regex_walk *w, bool *found) {
    PCRE2_SPTR text = (PCRE2_SPTR)(w->text ? w->text : "");
    int n =
        pcre2_match(r->code, text, w->bytes, w->next, PCRE2_NO_UTF_CHECK, s->data, s->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(r->code, text, w->bytes, w->next, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        s->data, s->context);
    *found = n >= 0;
    if (n < 0 && n != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR why[128] = "";
        pcre2_get_error_message(n, why, sizeof why);
        return status_fail(STATUS_DATA, "the tokenizer's pattern gave up on this text: %s",
                           (char *)why);
    }
    return STATUS_OK;
}

/* An empty match makes the next search start one character on, and the first one after a match
 * that is not empty does not count. */
status regex_next(const regex *r, regex_scratch *s, regex_walk *w, bool *found) {
    for (;;) {
        *found = false;
        if (w->next > w->bytes) return STATUS_OK;
        TRY(search(r, s, w, found));
        if (!*found) return STATUS_OK;
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(s->data);
        w->start = at[0];
        w->end = w->next = at[1];
        if (w->start != w->end) {
            w->skip_empty = true;
            return STATUS_OK;
        }
        w->next += w->next < w->bytes ? utf8_length((unsigned char)w->text[w->next]) : 1;
        if (!w->skip_empty) return STATUS_OK;
        w->skip_empty = false;
    }
}
