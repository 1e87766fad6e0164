/* text.c: a growing string. */
#include "trainer/verbs/text.h"

#include "common/alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void add_bytes(text *t, const char *bytes, size_t n) {
    if (t->failed) return;
    if (mem_grow(&t->data, &t->capacity, t->length + n + 1, 1, "text")) {
        t->failed = true;
        return;
    }
    memcpy(t->data + t->length, bytes, n);
    t->length += n;
    t->data[t->length] = '\0';
}

void text_add(text *t, const char *words) {
    add_bytes(t, words, strlen(words));
}

void text_addf(text *t, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int need = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (need < 0 || t->failed ||
        mem_grow(&t->data, &t->capacity, t->length + (size_t)need + 1, 1, "text")) {
        t->failed = true;
        return;
    }
    va_start(arguments, format);
    vsnprintf(t->data + t->length, (size_t)need + 1, format, arguments);
    va_end(arguments);
    t->length += (size_t)need;
}

void text_wrap(text *t, const char *words, int column, int indent, int width) {
    bool first = true;
    while (*words) {
        int n = (int)strcspn(words, " ");
        if (!first && column + 1 + n > width) {
            text_addf(t, "\n%*s", indent, "");
            column = indent;
        } else if (!first) {
            text_add(t, " ");
            column++;
        }
        add_bytes(t, words, (size_t)n);
        column += n;
        words += n;
        words += strspn(words, " ");
        first = false;
    }
}

char *text_take(text *t) {
    if (!t->failed) add_bytes(t, "", 0);
    char *data = t->data;
    if (t->failed) {
        mem_free(data);
        data = NULL;
    }
    *t = (text){0};
    return data;
}
