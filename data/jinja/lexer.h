/* lexer.h: a template's text to tokens; inside data/jinja only. */
#ifndef NIBBLE_DATA_JINJA_LEXER_H
#define NIBBLE_DATA_JINJA_LEXER_H

#include "data/jinja/text.h"

typedef enum token_type {
    T_END,
    T_DATA,      /* text between tags */
    T_BLOCK,     /* {% */
    T_BLOCK_END, /* %} */
    T_PRINT,     /* {{ */
    T_PRINT_END, /* }} */
    T_NAME,
    T_STRING,
    T_INTEGER,
    T_REAL,
    T_OPERATOR,
} token_type;

typedef struct token {
    token_type type;
    int line, column; /* from 1 */
    const char
        *text; /* of names and operators NUL-terminated, of data and strings unescaped */
    size_t bytes;
    int64_t integer;
    double real;
} token;

/* What compiling shares: where memory comes from, and what the template is called. */
typedef struct compiler {
    jinja_arena *arena;
    const char *where; /* in messages */
    status code;       /* of what is wrong with the template */
    token *tokens;     /* the last is T_END */
    size_t count, capacity;
    size_t at; /* the parser's */
    int depth, loops;
    struct unknown_name *unknown; /* filters and tests that nobody knows */
    size_t unknown_count, unknown_capacity;
    struct jinja_template *template;
} compiler;

/* "where:line:column: what"; returns c->code. */
status jinja_syntax(const compiler *c, int line, int column, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void *jinja_compiler_new(compiler *c, size_t bytes); /* NULL: out of memory */

status jinja_lex(compiler *c, const char *text, size_t bytes);

#endif
