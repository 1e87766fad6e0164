/* eval.h: what the evaluator's files share; inside data/jinja only. */
#ifndef NIBBLE_DATA_JINJA_EVAL_H
#define NIBBLE_DATA_JINJA_EVAL_H

#include "data/jinja/loop.h"

typedef struct macro {
    const function_body *body;
    frame *outer;
} macro;

status jinja_eval(machine *m, const node *n, value *out);
status jinja_exec_all(machine *m, node *const *items, size_t count);
status jinja_assign(machine *m, const node *target, value v);
status jinja_enter_scope(machine *m, const scope *s);

/* Text that statements write from here on is kept back, up to jinja_capture_end. */
typedef struct capture {
    builder text, *outer;
} capture;
void jinja_capture_begin(machine *m, capture *c);
status jinja_capture_end(machine *m, capture *c, status s, value *out);

/* The arguments of a call node; `extra` more named ones have room. */
status jinja_eval_arguments(machine *m, const call *k, size_t extra, arguments *out);
/* Deeper by one; RecursionError. */
status jinja_too_deep(machine *m);
static inline status jinja_descend(machine *m) {
    return ++m->depth > JINJA_DEPTH ? jinja_too_deep(m) : jinja_step(m, 1);
}
/* A filter or test that is not known was called. */
status jinja_raise_unknown(machine *m, const node *n);
/* Writes an expression's text. */
status jinja_put_expression(machine *m, const node *n);

/* ---- eval_call.c ---- */
status jinja_eval_call(machine *m, const node *n, const value *caller, value *out);
status jinja_make_macro(machine *m, const function_body *body, value *out);
status jinja_exec_call_block(machine *m, const node *n);

#endif
