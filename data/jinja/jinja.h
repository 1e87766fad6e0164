/* jinja.h: Jinja templates, as chat templates use them, in a sandbox.
 *
 * The language is Jinja2 3.1's in Hugging Face's environment (transformers,
 * utils/chat_template_utils.py): immutable sandbox, trim_blocks, lstrip_blocks, loop controls,
 * {% generation %}, tojson without escapes for HTML, raise_exception, strftime_now. Text is
 * byte for byte what jinja2 gives, errors included ("TypeError: 'NoneType' object is not
 * iterable"). What is not implemented is refused by its name: tags, filters and tests when
 * the template is compiled, methods of values when they are called; integers are of 64 bits.
 *
 * Every byte of a string knows where it comes from: the template (and what the configuration
 * says), or which string of the row, and where in it. String operations carry the marks along,
 * so that the caller knows whose words it tokenizes and what of them is learned.
 *
 *     jinja_compile    once; the template is immutable then, threads share it
 *     jinja_load       the row's values, into a rendering (one for each thread, reused)
 *     jinja_render     as often as wanted, with the list `messages` cut short or not
 */
#ifndef NIBBLE_DATA_JINJA_JINJA_H
#define NIBBLE_DATA_JINJA_JINJA_H

#include "common/json.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

typedef struct jinja_template jinja_template;

/* Compiles `bytes` of UTF-8. `code` with "where:line:column: what" for what is wrong or not
 * known. */
status jinja_compile(jinja_template **out, const char *text, size_t bytes, const char *where,
                     status code);
void jinja_free(jinja_template *t); /* NULL is fine */

/* Whether the template has {% generation %}, and whether it asks for the date. */
bool jinja_has_generation(const jinja_template *t);
bool jinja_has_date(const jinja_template *t);
/* Whether one of the template's variables has this name. */
bool jinja_has_variable(const jinja_template *t, const char *name);

enum { JINJA_GENERATED = 1 }; /* a run's flag: inside {% generation %} */

/* A stretch of the output. */
typedef struct jinja_run {
    uint32_t bytes;
    uint32_t source; /* 0: the template, else sources[source - 1] */
    uint32_t offset; /* of its first byte in the source */
    uint32_t flags;
} jinja_run;

/* A string of the row. */
typedef struct jinja_source {
    const char *field; /* the key in the message ("content"), or of the row ("tools") */
    int32_t message;   /* its index in `messages`; -1: elsewhere */
} jinja_source;

typedef struct jinja_arena {
    struct jinja_block *first, *now;
    size_t used; /* bytes, of all blocks */
} jinja_arena;

/* Caps on what one row may cost; a template that goes beyond is stopped with STATUS_DATA. */
enum {
    JINJA_STEPS = 20000000,   /* evaluated nodes and turns of loops, of one rendering */
    JINJA_MEMORY = 512 << 20, /* bytes of values, of one row */
    JINJA_OUTPUT = 64 << 20,  /* bytes of a string, the output too */
    JINJA_DEPTH = 600,        /* nested evaluation: nodes, macros */
    JINJA_RANGE = 100000,     /* numbers in range(), jinja2's own cap */
};

/* Where a row is rendered. Zero it, set `today` (NULL: strftime_now is refused); free with
 * jinja_rendering_free. The results are valid until the next jinja_load. */
typedef struct jinja_rendering {
    const struct tm *today;
    const char *text; /* UTF-8 */
    size_t bytes;
    const jinja_run *runs; /* together they cover the text */
    size_t run_count;
    jinja_source *sources;
    size_t source_count;
    char error[2048]; /* "TemplateError: ...", when it is the template that failed */
    /* the rest is the evaluator's */
    jinja_arena arena;
    size_t source_capacity;
    struct jinja_loaded *loaded;
    size_t expected; /* bytes of the longest output so far */
} jinja_rendering;

/* Takes over a row's values: `data` is an object whose texts are marked as the row's, of
 * `settings` they are the template's (bos_token and what the configuration says). Both must
 * live as long as renderings of them are made. STATUS_MEMORY. */
status jinja_load(jinja_rendering *r, const json_t *settings, const json_t *data);

/* Renders the first `count` messages (SIZE_MAX: all). STATUS_DATA with the template's line:
 * the template refuses the row, or costs too much. */
status jinja_render(const jinja_template *t, jinja_rendering *r, size_t count, bool prompt);

void jinja_rendering_free(jinja_rendering *r);

#endif
