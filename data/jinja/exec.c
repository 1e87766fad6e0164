/* exec.c: statements. */
#include "data/jinja/eval.h"

#include <string.h>

/* ---- text that is kept back ---- */

void jinja_capture_begin(machine *m, capture *c) {
    memset(&c->text, 0, sizeof c->text);
    c->outer = m->out;
    m->out = &c->text;
}

status jinja_capture_end(machine *m, capture *c, status s, value *out) {
    m->out = c->outer;
    return s == STATUS_OK ? jinja_build(m, &c->text, out) : s;
}

static status capture_items(machine *m, const node *n, value *out) {
    capture c;
    jinja_capture_begin(m, &c);
    status s = jinja_enter_scope(m, n->scope);
    if (s == STATUS_OK) s = jinja_exec_all(m, n->items, n->count);
    return jinja_capture_end(m, &c, s, out);
}

/* The filters of a block, of which the innermost has no operand: the block's text. */
static status filter_text(machine *m, const node *filter, value text, value *out) {
    arguments a = {0};
    value self = text;
    if (filter->a) TRY(filter_text(m, filter->a, text, &self));
    if (filter->call) TRY(jinja_eval_arguments(m, filter->call, 0, &a));
    m->line = filter->line;
    if (!filter->builtin) return jinja_raise_unknown(m, filter);
    return jinja_call_builtin(m, filter->builtin, self, &a, out);
}

/* ---- assignment ---- */

static status assign_attribute(machine *m, const node *target, value v) {
    value of;
    TRY(jinja_eval(m, target->a, &of));
    m->line = target->line;
    if (of.kind != V_NAMESPACE)
        return jinja_raise(m, "TemplateRuntimeError",
                           "cannot assign attribute on non-namespace object");
    if (*target->name->text == '_')
        return jinja_raise(m, "SecurityError",
                           "Chat templates cannot store underscore-prefixed attributes on a "
                           "namespace, but got '%s'. Please rename the attribute.",
                           target->name->text);
    return jinja_dict_set(m, of.dict, STRING(target->name), v);
}

static status unpack(machine *m, const node *target, value v) {
    list *l;
    if (!jinja_can_iterate(&v))
        return jinja_raise(m, "TypeError", "cannot unpack non-iterable %s object",
                           jinja_type(&v));
    TRY(jinja_iterate(m, v, &l));
    if (l->count < target->count)
        return jinja_raise(m, "ValueError",
                           "not enough values to unpack (expected %zu, got %zu)",
                           target->count, l->count);
    if (l->count > target->count)
        return jinja_raise(m, "ValueError", "too many values to unpack (expected %zu)",
                           target->count);
    for (size_t i = 0; i < target->count; i++)
        TRY(jinja_assign(m, target->items[i], l->items[i]));
    return STATUS_OK;
}

status jinja_assign(machine *m, const node *target, value v) {
    if (target->kind == N_NAME) {
        m->frame->slots[target->slot] = v;
        return STATUS_OK;
    }
    return target->kind == N_TUPLE ? unpack(m, target, v) : assign_attribute(m, target, v);
}

/* ---- for ---- */

/* *any: whether a turn ended without break or continue; jinja2 takes the loop for empty, and
 * its `else` branch, where none did. */
static status run_body(machine *m, const node *n, loop *l, bool *any) {
    value item;
    bool more;
    for (*any = false;;) {
        TRY(jinja_loop_next(m, l, &item, &more));
        if (!more) return STATUS_OK;
        TRY(jinja_assign(m, n->a, item));
        m->frame->slots[n->loop_slot] = (value){.kind = V_LOOP, .loop = l};
        TRY(jinja_enter_scope(m, n->scope));
        TRY(jinja_exec_all(m, n->items, n->count));
        bool leave = m->flow == FLOW_BREAK, whole = m->flow == FLOW_ON;
        m->flow = FLOW_ON;
        *any |= whole;
        if (leave) return STATUS_OK;
    }
}

static status run_loop(machine *m, const node *n, value iterable, int64_t depth) {
    loop *l;
    list *items;
    bool any;
    m->line = n->line;
    TRY(jinja_iterate(m, iterable, &items));
    TRY(jinja_new(m, sizeof *l, &l));
    *l = (loop){.node = n,
                .frame = m->frame,
                .items = items,
                .index = -1,
                .length = -1,
                .depth = depth};
    TRY(run_body(m, n, l, &any));
    if (any || !n->other_count) return STATUS_OK;
    TRY(jinja_enter_scope(m, n->else_scope));
    return jinja_exec_all(m, n->others, n->other_count);
}

/* A recursive loop is a function: its text comes back as a value. */
static status run_recursive(machine *m, const node *n, frame *outer, value iterable,
                            int64_t depth, value *out) {
    frame *kept = m->frame, *inner;
    capture c;
    TRY(jinja_new(m, sizeof *inner, &inner));
    TRY(jinja_new(m, (n->slots + 1) * sizeof(value), &inner->slots));
    inner->outer = outer;
    m->frame = inner;
    m->depth += 8;
    TRY(jinja_descend(m));
    jinja_capture_begin(m, &c);
    status s = run_loop(m, n, iterable, depth);
    m->frame = kept;
    TRY(jinja_capture_end(m, &c, s, out));
    m->depth -= 9;
    return STATUS_OK;
}

status jinja_loop_again(machine *m, loop *l, const arguments *a, value *out) {
    if (a->count != 1 || a->named_count)
        return jinja_raise(m, "TypeError", "loop() takes 1 argument");
    if (!l->node->sign)
        return jinja_raise(
            m, "TypeError",
            "The loop must have the 'recursive' marker to be called recursively.");
    return run_recursive(m, l->node, l->frame->outer, a->items[0], l->depth + 1, out);
}

static status exec_for(machine *m, const node *n) {
    value iterable, text;
    TRY(jinja_eval(m, n->b, &iterable));
    if (!n->sign) return run_loop(m, n, iterable, 0);
    TRY(run_recursive(m, n, m->frame, iterable, 0, &text));
    return jinja_put_string(m, m->out, text.string);
}

/* ---- the others ---- */

static status exec_if(machine *m, const node *n) {
    value test;
    TRY(jinja_eval(m, n->a, &test));
    return jinja_truth(&test) ? jinja_exec_all(m, n->items, n->count)
                              : jinja_exec_all(m, n->others, n->other_count);
}

/* Before the value is computed, as jinja2 does. */
static status check_namespaces(machine *m, const node *target) {
    value of;
    for (size_t i = 0; i < target->count; i++) TRY(check_namespaces(m, target->items[i]));
    if (target->kind != N_NAMESPACE_TARGET) return STATUS_OK;
    TRY(jinja_eval(m, target->a, &of));
    m->line = target->line;
    if (of.kind == V_NAMESPACE) return STATUS_OK;
    return jinja_raise(m, "TemplateRuntimeError",
                       "cannot assign attribute on non-namespace object");
}

static status exec_set(machine *m, const node *n) {
    value v;
    if (n->kind == N_SET) TRY(check_namespaces(m, n->a));
    if (n->kind == N_SET) {
        TRY(jinja_eval(m, n->b, &v));
    } else {
        TRY(capture_items(m, n, &v));
        if (n->b) TRY(filter_text(m, n->b, v, &v));
    }
    m->line = n->line;
    return jinja_assign(m, n->a, v);
}

static status exec_with(machine *m, const node *n) {
    value *values;
    TRY(jinja_new(m, (n->count + 1) * sizeof *values, &values));
    for (size_t i = 0; i < n->count; i += 2) TRY(jinja_eval(m, n->items[i + 1], &values[i]));
    TRY(jinja_enter_scope(m, n->scope));
    for (size_t i = 0; i < n->count; i += 2) TRY(jinja_assign(m, n->items[i], values[i]));
    return jinja_exec_all(m, n->others, n->other_count);
}

static status exec_filter_block(machine *m, const node *n) {
    value text;
    TRY(capture_items(m, n, &text));
    TRY(filter_text(m, n->b, text, &text));
    return jinja_put_value(m, m->out, text);
}

static status exec_generation(machine *m, const node *n) {
    unsigned kept = m->flags;
    m->flags |= JINJA_GENERATED;
    status s = jinja_enter_scope(m, n->scope);
    if (s == STATUS_OK) s = jinja_exec_all(m, n->items, n->count);
    m->flags = kept;
    return s;
}

static status exec(machine *m, const node *n) {
    value made;
    switch ((node_kind)n->kind) {
    case N_DATA:
        return jinja_put(m, m->out, n->constant.string->text, n->constant.string->bytes);
    case N_PRINT:
        return jinja_put_expression(m, n->a);
    case N_FOR:
        return exec_for(m, n);
    case N_IF:
        return exec_if(m, n);
    case N_SET:
    case N_SET_BLOCK:
        return exec_set(m, n);
    case N_MACRO:
        TRY(jinja_make_macro(m, n->function, &made));
        return jinja_assign(m, n->a, made);
    case N_CALL_BLOCK:
        return jinja_exec_call_block(m, n);
    case N_FILTER_BLOCK:
        return exec_filter_block(m, n);
    case N_WITH:
        return exec_with(m, n);
    case N_GENERATION:
        return exec_generation(m, n);
    case N_BREAK:
    case N_CONTINUE:
        m->flow = n->kind == N_BREAK ? FLOW_BREAK : FLOW_CONTINUE;
        return STATUS_OK;
    default:
        return status_fail(STATUS_INTERNAL, "no statement: node %d", n->kind);
    }
}

status jinja_exec_all(machine *m, node *const *items, size_t count) {
    TRY(jinja_descend(m));
    for (size_t i = 0; i < count && m->flow == FLOW_ON; i++) TRY(exec(m, items[i]));
    m->depth--;
    return STATUS_OK;
}
