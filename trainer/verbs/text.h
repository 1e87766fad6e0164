/* text.h: a growing string, for what is printed or stored as a whole: help pages, the resolved
 * configuration. Out of memory sticks; text_take then returns NULL. */
#ifndef NIBBLE_TRAINER_VERBS_TEXT_H
#define NIBBLE_TRAINER_VERBS_TEXT_H

#include <stdbool.h>
#include <stddef.h>

typedef struct text { /* zero it to begin */
    char *data;
    size_t length, capacity;
    bool failed;
} text;

void text_add(text *t, const char *words);
void text_addf(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Breaks `words` at blanks so that no line passes `width` columns; the text stands at `column`
 * now, and continuation lines begin at column `indent`. */
void text_wrap(text *t, const char *words, int column, int indent, int width);

/* The string, to be freed with mem_free; NULL when an allocation failed. Zeroes t. */
char *text_take(text *t);

#endif
