/* text.h: strings with marks, and building them; inside data/jinja only. */
#ifndef NIBBLE_DATA_JINJA_TEXT_H
#define NIBBLE_DATA_JINJA_TEXT_H

#include "data/jinja/value.h"

typedef struct builder { /* zero it */
    char *text;
    size_t bytes, capacity;
    jinja_run *runs;
    size_t run_count, run_capacity;
} builder;

/* Makes room for a text of about so many bytes, 64 KiB at most. */
status jinja_expect_bytes(machine *m, builder *b, size_t bytes);
/* Appends the template's words. */
status jinja_put(machine *m, builder *b, const char *text, size_t bytes);
status jinja_put_word(machine *m, builder *b, const char *text);
/* Appends bytes from .. to of a string, marks included. */
status jinja_put_part(machine *m, builder *b, const string *s, size_t from, size_t to);
status jinja_put_string(machine *m, builder *b, const string *s);
/* Appends other bytes in place of what stands at `from` in s: an escape, another case. */
status jinja_put_instead(machine *m, builder *b, const string *s, size_t from,
                         const char *text, size_t bytes);
/* Appends a string with the characters of HTML escaped. */
status jinja_put_escaped(machine *m, builder *b, const string *s);
status jinja_build(machine *m, const builder *b, value *out);

status jinja_string_new(machine *m, const char *text, size_t bytes, string **out); /* copied */
status jinja_word(machine *m, const char *text, value *out);
status jinja_part(machine *m, string *s, size_t from, size_t to, value *out);
uint32_t jinja_chars(string *s);
/* The byte at which code point `index` (0 to chars) begins. */
size_t jinja_byte_at(string *s, size_t index);
bool jinja_string_equal(string *a, string *b);
/* The first place of `what` at or after byte `from`; SIZE_MAX when there is none. */
size_t jinja_find(const string *s, const string *what, size_t from);
/* str.isspace of one character. */
bool jinja_space(uint32_t code);

/* str(v), repr(v) and json. */
status jinja_text(machine *m, value v, string **out);
status jinja_put_value(machine *m, builder *b, value v); /* str */
status jinja_put_repr(machine *m, builder *b, value v);
typedef struct json_form {
    bool ascii, sort;
    const string *indent;     /* of one level; NULL: all on one line */
    const string *item, *key; /* separators */
} json_form;
status jinja_put_json(machine *m, builder *b, value v, const json_form *form);

/* format % values, and format.format(...). */
status jinja_percent(machine *m, string *format, value values, value *out);
status jinja_format(machine *m, string *format, const arguments *a, value *out);

#endif
