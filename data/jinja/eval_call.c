/* eval_call.c: calls: of methods and functions, of macros with their defaults, and {% call %}. */
#include "data/jinja/eval.h"

#include <string.h>

/* ---- arguments ---- */

static status add_rest(machine *m, const node *rest, arguments *a) {
    value v;
    list *more;
    TRY(jinja_eval(m, rest, &v));
    TRY(jinja_iterate(m, v, &more));
    value *items;
    TRY(jinja_new(m, (a->count + more->count + 1) * sizeof *items, &items));
    if (a->count) memcpy(items, a->items, a->count * sizeof *items);
    if (more->count) memcpy(items + a->count, more->items, more->count * sizeof *items);
    a->items = items, a->count += more->count;
    return STATUS_OK;
}

static status add_named_rest(machine *m, const node *rest, size_t extra, arguments *a) {
    value v;
    TRY(jinja_eval(m, rest, &v));
    if (v.kind != V_DICT)
        return jinja_raise(m, "TypeError", "argument after ** must be a mapping, not %s",
                           jinja_type(&v));
    size_t n = a->named_count, more = v.dict->count;
    const string **names;
    value *named;
    TRY(jinja_new(m, (n + more + extra + 1) * sizeof *names, &names));
    TRY(jinja_new(m, (n + more + extra + 1) * sizeof *named, &named));
    if (n)
        memcpy(names, a->names, n * sizeof *names), memcpy(named, a->named, n * sizeof *named);
    for (size_t i = 0; i < more; i++) {
        if (v.dict->pairs[i].key.kind != V_STRING)
            return jinja_raise(m, "TypeError", "keywords must be strings");
        names[n + i] = v.dict->pairs[i].key.string;
        named[n + i] = v.dict->pairs[i].value;
    }
    a->names = names, a->named = named, a->named_count = n + more;
    return STATUS_OK;
}

status jinja_eval_arguments(machine *m, const call *k, size_t extra, arguments *out) {
    *out = (arguments){.count = k->count, .named_count = k->named_count, .names = k->names};
    if (k->count) TRY(jinja_new(m, k->count * sizeof(value), &out->items));
    for (size_t i = 0; i < k->count; i++) TRY(jinja_eval(m, k->items[i], &out->items[i]));
    if (k->named_count + extra) {
        TRY(jinja_new(m, (k->named_count + extra) * sizeof(value), &out->named));
        for (size_t i = 0; i < k->named_count; i++)
            TRY(jinja_eval(m, k->named[i], &out->named[i]));
    }
    if (extra) {
        const string **names;
        TRY(jinja_new(m, (k->named_count + extra) * sizeof *names, &names));
        if (k->named_count) memcpy(names, k->names, k->named_count * sizeof *names);
        out->names = names;
    }
    if (k->rest) TRY(add_rest(m, k->rest, out));
    return k->named_rest ? add_named_rest(m, k->named_rest, extra, out) : STATUS_OK;
}

/* ---- macros ---- */

status jinja_make_macro(machine *m, const function_body *body, value *out) {
    macro *made;
    TRY(jinja_new(m, sizeof *made, &made));
    *made = (macro){body, m->frame};
    *out = (value){.kind = V_MACRO, .macro = made};
    return STATUS_OK;
}

static const char *macro_name(const function_body *f) {
    return f->name ? f->name->text : "None";
}

/* Takes a named argument out of a; V_MISSING when there is none. */
static value take_named(arguments *a, bool *taken, const char *name, size_t bytes) {
    for (size_t i = 0; i < a->named_count; i++)
        if (!taken[i] && a->names[i]->bytes == bytes &&
            !memcmp(a->names[i]->text, name, bytes)) {
            taken[i] = true;
            return a->named[i];
        }
    return MISSING;
}

static status bind_specials(machine *m, const function_body *f, arguments *a, bool *taken,
                            value *slots) {
    const string *left = NULL;
    if (f->caller >= 0) {
        value caller = take_named(a, taken, "caller", 6);
        if (caller.kind == V_MISSING || caller.kind == V_NONE)
            TRY(jinja_make_undefined(m, MISSING, NONE, "No caller defined", &caller));
        slots[f->caller] = caller;
    }
    dict *d = NULL;
    if (f->kwargs >= 0) {
        TRY(jinja_dict_new(m, 0, &d));
        slots[f->kwargs] = DICT(d);
    }
    for (size_t i = 0; i < a->named_count; i++) {
        if (taken[i]) continue;
        if (d)
            TRY(jinja_dict_set(m, d, STRING((string *)a->names[i]), a->named[i]));
        else if (!left)
            left = a->names[i];
        if (!d && a->names[i]->bytes == 6 && !memcmp(a->names[i]->text, "caller", 6))
            return jinja_raise(m, "TypeError",
                               "macro '%s' was invoked with two values for the special caller "
                               "argument. This is most likely a bug.",
                               macro_name(f));
    }
    if (left)
        return jinja_raise(m, "TypeError", "macro '%s' takes no keyword argument '%.*s'",
                           macro_name(f), (int)left->bytes, left->text);
    if (f->varargs >= 0) {
        list *rest;
        size_t more = a->count > f->count ? a->count - f->count : 0;
        TRY(jinja_make_list(m, more, &rest));
        if (more) memcpy(rest->items, a->items + f->count, more * sizeof *rest->items);
        slots[f->varargs] = TUPLE(rest);
    } else if (a->count > f->count) {
        return jinja_raise(m, "TypeError", "macro '%s' takes not more than %zu argument(s)",
                           macro_name(f), f->count);
    }
    return STATUS_OK;
}

static status bind_parameters(machine *m, const function_body *f, arguments *a, value *slots) {
    bool *taken;
    TRY(jinja_new(m, a->named_count + 1, &taken));
    for (size_t i = 0; i < f->count; i++) {
        const node *p = f->parameters[i];
        value v =
            i < a->count ? a->items[i] : take_named(a, taken, p->name->text, p->name->bytes);
        slots[p->slot] = v;
    }
    return bind_specials(m, f, a, taken, slots);
}

/* Defaults are computed in the macro's own scope. */
static status fill_defaults(machine *m, const function_body *f) {
    for (size_t i = 0; i < f->count; i++) {
        const node *p = f->parameters[i];
        value *slot = &m->frame->slots[p->slot];
        if (slot->kind != V_MISSING) continue;
        size_t first = f->count - f->default_count;
        if (i >= first) {
            TRY(jinja_eval(m, f->defaults[i - first], slot));
            continue;
        }
        char *hint;
        size_t room = p->name->bytes + 40;
        TRY(jinja_new(m, room, &hint));
        snprintf(hint, room, "parameter '%s' was not provided", p->name->text);
        TRY(jinja_make_undefined(m, MISSING, STRING(p->name), hint, slot));
    }
    return STATUS_OK;
}

static status run_macro(machine *m, const function_body *f) {
    TRY(jinja_enter_scope(m, f->scope));
    TRY(fill_defaults(m, f));
    return jinja_exec_all(m, f->items, f->item_count);
}

static status call_macro(machine *m, const macro *called, arguments *a, value *out) {
    const function_body *f = called->body;
    frame *kept = m->frame, *inner;
    capture c;
    int line = m->line;
    m->depth += 8; /* a macro's turn takes more of the stack than a node's */
    TRY(jinja_descend(m));
    TRY(jinja_new(m, sizeof *inner, &inner));
    TRY(jinja_new(m, (f->slots + 1) * sizeof(value), &inner->slots));
    inner->outer = called->outer;
    TRY(bind_parameters(m, f, a, inner->slots));
    m->frame = inner;
    jinja_capture_begin(m, &c);
    status s = run_macro(m, f);
    m->frame = kept;
    TRY(jinja_capture_end(m, &c, s, out));
    m->line = line;
    m->depth -= 9;
    return STATUS_OK;
}

/* ---- calls ---- */

status jinja_call(machine *m, value callee, const arguments *a, value *out) {
    arguments copy = *a;
    switch (callee.kind) {
    case V_METHOD:
        return jinja_call_builtin(m, callee.method->row, callee.method->self, a, out);
    case V_FUNCTION:
        TRY(jinja_step(m, 1));
        return callee.function->call(m, a, out);
    case V_MACRO:
        return call_macro(m, callee.macro, &copy, out);
    case V_LOOP:
        return jinja_loop_again(m, callee.loop, a, out);
    case V_UNDEFINED:
        return jinja_raise_undefined(m, callee.undefined);
    default:
        return jinja_raise(m, "TypeError", "'%s' object is not callable", jinja_type(&callee));
    }
}

/* A method is called without making it a value first. */
static status eval_callee(machine *m, const node *n, value *callee, value *self,
                          const builtin **row) {
    *row = NULL;
    if (n->a->kind != N_ATTRIBUTE) return jinja_eval(m, n->a, callee);
    TRY(jinja_eval(m, n->a->a, self));
    m->line = n->line;
    if (self->kind == V_STRING) *row = n->a->on_string;
    if (self->kind == V_DICT) *row = n->a->on_dict;
    return *row ? STATUS_OK : jinja_getattr(m, *self, n->a->name, callee);
}

status jinja_eval_call(machine *m, const node *n, const value *caller, value *out) {
    value callee, self, name;
    const builtin *row;
    arguments a;
    TRY(eval_callee(m, n, &callee, &self, &row));
    TRY(jinja_eval_arguments(m, n->call, caller != NULL, &a));
    if (caller) {
        TRY(jinja_word(m, "caller", &name));
        a.names[a.named_count] = name.string;
        a.named[a.named_count++] = *caller;
    }
    m->line = n->line;
    return row ? jinja_call_builtin(m, row, self, &a, out) : jinja_call(m, callee, &a, out);
}

status jinja_exec_call_block(machine *m, const node *n) {
    value caller, text;
    TRY(jinja_make_macro(m, n->function, &caller));
    TRY(jinja_eval_call(m, n->a, &caller, &text));
    return jinja_put_value(m, m->out, text);
}
