/* template_style.h: what template.c, which chooses and compiles a template, and
 * template_render.c, which renders with it, share. */
#ifndef NIBBLE_DATA_TEMPLATE_STYLE_H
#define NIBBLE_DATA_TEMPLATE_STYLE_H

#include "data/template.h"

enum { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_OTHER, ROLES };

enum {
    TRIM = 1 << 0,              /* contents lose white space at both ends, as Python's strip */
    ALTERNATE = 1 << 1,         /* user and assistant take turns, the user begins */
    SYSTEM_ONLY_FIRST = 1 << 2, /* a system message elsewhere is left out */
    SYSTEM_NOT_EMPTY = 1 << 3,  /* an empty system message is left out */
    DEFAULT_SYSTEM = 1 << 4,    /* where the first message is no system message */
    SKIP_OTHERS = 1 << 5,       /* messages of other roles are left out */
    TOOLS = 1 << 6,             /* tools would be rendered, which this renderer cannot */
    THINK = 1 << 7,             /* <think> blocks, in the last answers only */
};

typedef struct style {
    const char *name;
    unsigned flags;
    const char *begin;                        /* of the text */
    const char *before[ROLES], *after[ROLES]; /* NULL: the last one's; that NULL: refused */
    const char *between;                      /* turns */
    const char *prompt;                       /* what makes the model answer */
    const char *default_system;
} style;

struct chat_template {
    jinja_template *jinja; /* interpreted: this and the settings, and no style */
    json_t *settings;
    hash128 text_hash;
    token_names names;
    int32_t turn_end; /* the token, of an interpreted one */
    const style *style;
    char *default_system;
    char date[TEMPLATE_DATE]; /* "" when the template states none */
    literal begin, before[ROLES], after[ROLES], between, prompt, think, no_think;
};

/* template_render.c: by a style. */
status chat_style_render(const chat_template *t, const chat_message *messages, size_t count,
                         bool prompt, span_builder *b);

#endif
