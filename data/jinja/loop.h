/* loop.h: the variable `loop`; inside data/jinja only. */
#ifndef NIBBLE_DATA_JINJA_LOOP_H
#define NIBBLE_DATA_JINJA_LOOP_H

#include "data/jinja/ast.h"

typedef struct frame { /* a running function's variables */
    value *slots;
    struct frame *outer; /* of the function around it in the template */
} frame;

typedef struct loop {
    const node *node;
    frame *frame;
    const list *items;
    size_t at;                /* the next item */
    int64_t index;            /* from 0; -1 before the first turn */
    value before, now, after; /* after: V_MISSING when it was not looked at */
    int64_t length;           /* -1: not asked for yet */
    int64_t depth;
    bool sized;   /* the iterable has a length */
    list changed; /* loop.changed's last arguments */
    bool was_changed;
} loop;

/* The next item, those that the loop's `if` refuses left out; false at the end. */
status jinja_loop_next(machine *m, loop *l, value *out, bool *more);
status jinja_loop_length(machine *m, loop *l, int64_t *out);
/* loop.NAME; *found false: no such attribute. */
status jinja_loop_attribute(machine *m, loop *l, const string *name, value *out, bool *found);
const builtin *jinja_loop_method(const char *name);
/* loop(...) of a recursive one. */
status jinja_loop_again(machine *m, loop *l, const arguments *a, value *out);

#endif
