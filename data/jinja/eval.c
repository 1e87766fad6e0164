/* eval.c: expressions. */
#include "data/jinja/eval.h"

#include <string.h>

status jinja_too_deep(machine *m) {
    return jinja_raise(m, "RecursionError", "maximum recursion depth exceeded");
}

/* ---- names ---- */

static frame *frame_at(const machine *m, uint32_t hops) {
    frame *f = m->frame;
    while (hops--) f = f->outer;
    return f;
}

/* Looked for once in a rendering: what is not there is V_MISSING and `truth`. */
static status global(machine *m, uint32_t number, value *out) {
    value *known = &m->globals[number];
    if (known->kind == V_MISSING && !known->truth) {
        TRY(jinja_variable(m, &m->template->variables[number], known));
        if (known->kind == V_MISSING) known->truth = true;
    }
    *out = *known;
    return STATUS_OK;
}

status jinja_enter_scope(machine *m, const scope *s) {
    for (size_t i = 0; s && i < s->count; i++) {
        const load *l = &s->loads[i];
        value *slot = &m->frame->slots[l->slot];
        if (l->kind == LOAD_VARIABLE)
            TRY(global(m, l->name, slot));
        else
            *slot = l->kind == LOAD_OUTER ? frame_at(m, l->hops)->slots[l->from] : MISSING;
    }
    return STATUS_OK;
}

static status eval_name(machine *m, const node *n, value *out) {
    *out = frame_at(m, n->hops)->slots[n->slot];
    if (out->kind != V_MISSING) return STATUS_OK;
    m->line = n->line;
    return jinja_make_undefined(m, MISSING, STRING(n->name), NULL, out);
}

/* ---- displays ---- */

static status eval_items(machine *m, const node *n, value *out) {
    list *l;
    TRY(jinja_make_list(m, n->count, &l));
    for (size_t i = 0; i < n->count; i++) TRY(jinja_eval(m, n->items[i], &l->items[i]));
    *out = (value){.kind = n->kind == N_LIST ? V_LIST : V_TUPLE, .list = l};
    return STATUS_OK;
}

static status eval_dict(machine *m, const node *n, value *out) {
    dict *d;
    TRY(jinja_dict_new(m, n->count / 2, &d));
    for (size_t i = 0; i < n->count; i += 2) {
        value key, v;
        TRY(jinja_eval(m, n->items[i], &key));
        TRY(jinja_eval(m, n->items[i + 1], &v));
        TRY(jinja_dict_set(m, d, key, v));
    }
    *out = DICT(d);
    return STATUS_OK;
}

/* ---- operators ---- */

static status eval_if_else(machine *m, const node *n, value *out) {
    value test;
    TRY(jinja_eval(m, n->b, &test));
    if (jinja_truth(&test)) return jinja_eval(m, n->a, out);
    if (n->c) return jinja_eval(m, n->c, out);
    return jinja_make_undefined(m, MISSING, NONE,
                                "the inline if-expression evaluated to false and no else "
                                "section was defined.",
                                out);
}

static status eval_logic(machine *m, const node *n, value *out) {
    TRY(jinja_eval(m, n->a, out));
    bool truth = jinja_truth(out);
    if (n->kind == N_NOT) {
        *out = BOOL(!truth);
        return STATUS_OK;
    }
    return truth == (n->kind == N_AND) ? jinja_eval(m, n->b, out) : STATUS_OK;
}

static status compare_one(machine *m, compare_sign sign, value a, value b, bool *out) {
    static const char *const names[] = {
        [COMPARE_LT] = "<", [COMPARE_LE] = "<=", [COMPARE_GT] = ">", [COMPARE_GE] = ">="};
    int order;
    if (sign == COMPARE_EQ || sign == COMPARE_NE) {
        TRY(jinja_step(m, 1));
        *out = jinja_equal(&a, &b) == (sign == COMPARE_EQ);
        return STATUS_OK;
    }
    if (sign == COMPARE_IN || sign == COMPARE_NOT_IN) {
        TRY(jinja_contains(m, a, b, out));
        *out = *out == (sign == COMPARE_IN);
        return STATUS_OK;
    }
    TRY(jinja_compare(m, &a, &b, names[sign], &order));
    *out = order == 2           ? false
           : sign == COMPARE_LT ? order < 0
           : sign == COMPARE_LE ? order <= 0
           : sign == COMPARE_GT ? order > 0
                                : order >= 0;
    return STATUS_OK;
}

static status eval_compare(machine *m, const node *n, value *out) {
    value left, right;
    bool holds = true;
    TRY(jinja_eval(m, n->a, &left));
    for (size_t i = 0; i < n->count && holds; i++) {
        TRY(jinja_eval(m, n->items[i], &right));
        m->line = n->line;
        TRY(compare_one(m, (compare_sign)n->signs[i], left, right, &holds));
        left = right;
    }
    *out = BOOL(holds);
    return STATUS_OK;
}

/* a + b + c ...: strings are kept until all are there, so that a text is copied once; what is
 * no string is added as it comes. *out is the sum, or *b its text where that is not empty. */
enum { CHAIN = 64 };
static status eval_chain(machine *m, const node *n, builder *b, value *out) {
    const node *parts[CHAIN];
    size_t count = 0;
    value next;
    bool text = false; /* the sum so far is b and then *out */
    for (; n->kind == N_SIGN && n->sign == SIGN_ADD && count + 1 < CHAIN; n = n->a)
        parts[count++] = n;
    TRY(jinja_eval(m, n, out));
    while (count--) {
        TRY(jinja_eval(m, parts[count]->b, &next));
        m->line = parts[count]->line;
        if (out->kind == V_STRING && next.kind == V_STRING && !out->string->safe &&
            !next.string->safe) {
            TRY(jinja_put_string(m, b, out->string));
            *out = next, text = true;
            continue;
        }
        if (text) {
            TRY(jinja_put_string(m, b, out->string));
            TRY(jinja_build(m, b, out));
            *b = (builder){0}, text = false;
        }
        TRY(jinja_arithmetic(m, SIGN_ADD, *out, next, out));
    }
    return STATUS_OK;
}

static status eval_sum(machine *m, const node *n, value *out) {
    builder b = {0};
    TRY(eval_chain(m, n, &b, out));
    if (!b.bytes) return STATUS_OK;
    TRY(jinja_put_string(m, &b, out->string));
    TRY(jinja_step(m, b.bytes / 64));
    return jinja_build(m, &b, out);
}

/* What {{ }} writes goes straight to the output where it is a sum or ~ of texts. */
status jinja_put_expression(machine *m, const node *n) {
    value v;
    TRY(jinja_descend(m));
    if (n->kind == N_CONCAT) {
        for (size_t i = 0; i < n->count; i++) {
            TRY(jinja_eval(m, n->items[i], &v));
            TRY(jinja_put_value(m, m->out, v));
        }
    } else if (n->kind == N_SIGN && n->sign == SIGN_ADD) {
        builder b = {0};
        TRY(eval_chain(m, n, &b, &v));
        string head = {.text = b.text,
                       .bytes = (uint32_t)b.bytes,
                       .runs = b.runs,
                       .run_count = (uint32_t)b.run_count};
        if (b.bytes) TRY(jinja_put_string(m, m->out, &head));
        TRY(jinja_put_value(m, m->out, v));
    } else {
        TRY(jinja_eval(m, n, &v));
        m->line = n->line;
        TRY(jinja_put_value(m, m->out, v));
    }
    m->depth--;
    return STATUS_OK;
}

static status eval_sign(machine *m, const node *n, value *out) {
    value a, b;
    if (n->kind == N_SIGN && n->sign == SIGN_ADD) return eval_sum(m, n, out);
    TRY(jinja_eval(m, n->a, &a));
    if (n->kind != N_SIGN) {
        m->line = n->line;
        return jinja_negate(m, a, n->kind == N_MINUS, out);
    }
    TRY(jinja_eval(m, n->b, &b));
    m->line = n->line;
    return jinja_arithmetic(m, n->sign, a, b, out);
}

static status eval_concat(machine *m, const node *n, value *out) {
    builder b = {0};
    for (size_t i = 0; i < n->count; i++) {
        value v;
        TRY(jinja_eval(m, n->items[i], &v));
        TRY(jinja_put_value(m, &b, v));
    }
    TRY(jinja_step(m, b.bytes / 64));
    return jinja_build(m, &b, out);
}

/* ---- attributes and items ---- */

/* The most frequent case at once: a key of a dict that is no method's name. */
static status eval_attribute(machine *m, const node *n, value *out) {
    value of;
    TRY(jinja_eval(m, n->a, &of));
    m->line = n->line;
    if (of.kind == V_DICT && n->plain) {
        value name = STRING(n->name);
        const pair *p = jinja_dict_find(of.dict, &name, n->name->hash);
        if (p) {
            *out = p->value;
            return STATUS_OK;
        }
    }
    return jinja_getattr(m, of, n->name, out);
}

static status eval_item(machine *m, const node *n, value *out) {
    value of, key;
    TRY(jinja_eval(m, n->a, &of));
    TRY(jinja_eval(m, n->b, &key));
    m->line = n->line;
    return jinja_getitem(m, of, key, out);
}

static status eval_slice(machine *m, const node *n, value *out) {
    value of, bounds[3] = {{0}};
    TRY(jinja_eval(m, n->a, &of));
    for (int i = 0; i < 3; i++)
        if (n->items[i]) TRY(jinja_eval(m, n->items[i], &bounds[i]));
    m->line = n->line;
    return jinja_slice(m, of, bounds, out);
}

/* ---- filters and tests ---- */

status jinja_raise_unknown(machine *m, const node *n) {
    return jinja_raise(m, "TemplateRuntimeError", "No %s named '%s' found.",
                       n->kind == N_TEST ? "test" : "filter", n->name->text);
}

static status eval_builtin(machine *m, const node *n, value *out) {
    value self;
    arguments a = {0};
    TRY(jinja_eval(m, n->a, &self));
    if (n->call) TRY(jinja_eval_arguments(m, n->call, 0, &a));
    m->line = n->line;
    if (!n->builtin) return jinja_raise_unknown(m, n);
    return jinja_call_builtin(m, n->builtin, self, &a, out);
}

static status eval_kind(machine *m, const node *n, value *out) {
    switch ((node_kind)n->kind) {
    case N_TUPLE:
    case N_LIST:
        return eval_items(m, n, out);
    case N_DICT:
        return eval_dict(m, n, out);
    case N_IF_ELSE:
        return eval_if_else(m, n, out);
    case N_OR:
    case N_AND:
    case N_NOT:
        return eval_logic(m, n, out);
    case N_COMPARE:
        return eval_compare(m, n, out);
    case N_SIGN:
    case N_MINUS:
    case N_PLUS:
        return eval_sign(m, n, out);
    case N_CONCAT:
        return eval_concat(m, n, out);
    case N_ATTRIBUTE:
        return eval_attribute(m, n, out);
    case N_ITEM:
        return eval_item(m, n, out);
    case N_SLICE:
        return eval_slice(m, n, out);
    case N_CALL:
        return jinja_eval_call(m, n, NULL, out);
    case N_FILTER:
    case N_TEST:
        return eval_builtin(m, n, out);
    default:
        return status_fail(STATUS_INTERNAL, "no expression: node %d", n->kind);
    }
}

status jinja_eval(machine *m, const node *n, value *out) {
    if (n->kind == N_CONST) {
        *out = n->constant;
        return STATUS_OK;
    }
    if (n->kind == N_NAME) return eval_name(m, n, out);
    TRY(jinja_descend(m));
    TRY(eval_kind(m, n, out));
    m->depth--;
    return STATUS_OK;
}
