/* parse_postfix.c: what follows a value in an expression: attributes, items, slices, calls,
 * filters and tests. */
#include "common/alloc.h"
#include "data/jinja/ast.h"

#include <string.h>

/* ---- calls, attributes, items ---- */

typedef struct call_parts {
    node_list items, named;
    call *call;
} call_parts;

static status parse_argument(compiler *c, call_parts *p, const string **names) {
    call *k = p->call;
    const token *t = jinja_now(c);
    node *item;
    bool named = t->type == T_NAME && t[1].type == T_OPERATOR && !strcmp(t[1].text, "=");
    if (jinja_is_sign(c, "*") || jinja_is_sign(c, "**")) {
        node **rest = t->text[1] ? &k->named_rest : &k->rest;
        if (k->rest ? !t->text[1] : false) return jinja_unexpected(c);
        if (k->named_rest) return jinja_unexpected(c);
        c->at++;
        return jinja_parse_expression(c, rest);
    }
    if (k->named_rest || (!named && (k->rest || p->named.count))) return jinja_unexpected(c);
    if (named) {
        string *name;
        if (p->named.count == 16)
            return jinja_syntax(c, t->line, t->column, "more than 16 named arguments");
        TRY(jinja_make_name(c, t, &name));
        names[p->named.count] = name;
        c->at += 2;
    }
    TRY(jinja_parse_expression(c, &item));
    return jinja_push(named ? &p->named : &p->items, item);
}

static status parse_arguments(compiler *c, call_parts *p) {
    const string *names[16];
    TRY(jinja_expect(c, T_OPERATOR, "("));
    for (bool first = true; !jinja_is_sign(c, ")"); first = false) {
        if (!first) TRY(jinja_expect(c, T_OPERATOR, ","));
        if (!first && jinja_is_sign(c, ")")) break;
        TRY(parse_argument(c, p, names));
    }
    c->at++;
    call *k = p->call;
    TRY(jinja_keep(c, &p->items, &k->items, &k->count));
    TRY(jinja_keep(c, &p->named, &k->named, &k->named_count));
    k->names = jinja_compiler_new(c, (k->named_count + 1) * sizeof *k->names);
    if (!k->names) return STATUS_MEMORY;
    if (k->named_count) memcpy(k->names, names, k->named_count * sizeof *k->names);
    return STATUS_OK;
}

static status parse_call(compiler *c, call **out) {
    call_parts p = {.call = jinja_compiler_new(c, sizeof(call))};
    *out = p.call;
    if (!p.call) return STATUS_MEMORY;
    status s = parse_arguments(c, &p);
    mem_free(p.items.items);
    mem_free(p.named.items);
    return s;
}

/* What stands in [ ]: an expression, or a slice's bounds into n->items. */
static status parse_subscript(compiler *c, node *n) {
    node *bound[3] = {0};
    int part = 0;
    bool slice = false;
    while (!jinja_is_sign(c, "]")) {
        if (jinja_is_sign(c, ",")) /* a tuple */
            return jinja_syntax(c, n->line, n->column,
                                "several items in [ ] are not supported");
        if (jinja_is_sign(c, ":")) {
            if (++part > 2) return jinja_unexpected(c);
            slice = true;
            c->at++;
        } else if (bound[part]) {
            return jinja_unexpected(c);
        } else {
            TRY(jinja_parse_expression(c, &bound[part]));
        }
    }
    c->at++;
    n->b = bound[0];
    if (!slice) return bound[0] ? STATUS_OK : jinja_unexpected(c);
    n->kind = N_SLICE;
    n->b = NULL;
    n->items = jinja_compiler_new(c, sizeof bound);
    if (!n->items) return STATUS_MEMORY;
    memcpy(n->items, bound, sizeof bound);
    n->count = 3;
    return STATUS_OK;
}

static status parse_dot(compiler *c, node *n) {
    const token *t = jinja_now(c);
    if (t->type == T_NAME) {
        value text = STRING(NULL), dict = DICT(NULL);
        c->at++;
        n->on_string = jinja_find_method(&text, t->text);
        n->on_dict = jinja_find_method(&dict, t->text);
        n->plain = jinja_is_plain_key(t->text);
        return jinja_make_name(c, t, &n->name);
    }
    if (t->type != T_INTEGER) return jinja_unexpected(c);
    c->at++;
    n->kind = N_ITEM;
    n->b = jinja_node(c, N_CONST, t);
    if (!n->b) return STATUS_MEMORY;
    n->b->constant = INT(t->integer);
    return STATUS_OK;
}

status jinja_parse_postfix(compiler *c, node **of) {
    for (;;) {
        const token *t = jinja_now(c);
        node_kind kind = jinja_is_sign(c, ".")   ? N_ATTRIBUTE
                         : jinja_is_sign(c, "[") ? N_ITEM
                                                 : N_CALL;
        if (kind == N_CALL && !jinja_is_sign(c, "(")) return STATUS_OK;
        node *n = jinja_node(c, kind, t);
        if (!n) return STATUS_MEMORY;
        n->a = *of;
        if (kind == N_CALL) {
            TRY(parse_call(c, &n->call));
        } else {
            c->at++;
            TRY(kind == N_ITEM ? parse_subscript(c, n) : parse_dot(c, n));
        }
        TRY(jinja_deepen(c, n));
        *of = n;
    }
}

/* ---- filters and tests ---- */

/* What jinja2 has and this has not. */
static bool is_left_out(const char *name, bool test) {
    static const char *const filters[] = {"filesizeformat", "forceescape",
                                          "pprint",         "random",
                                          "striptags",      "urlencode",
                                          "urlize",         "wordwrap",
                                          "xmlattr",        NULL},
                             *const tests[] = {"filter", "test", NULL};
    for (const char *const *p = test ? tests : filters; *p; p++)
        if (!strcmp(*p, name)) return true;
    return false;
}

status jinja_find_builtin(compiler *c, node *n, const token *name) {
    bool test = n->kind == N_TEST;
    n->builtin = test ? jinja_find_test(name->text) : jinja_find_filter(name->text);
    if (n->builtin) return STATUS_OK;
    if (is_left_out(name->text, test))
        return jinja_syntax(c, n->line, n->column, "the %s `%.60s` is not supported here",
                            test ? "test" : "filter", name->text);
    if (mem_grow(&c->unknown, &c->unknown_capacity, c->unknown_count + 1, sizeof *c->unknown,
                 "a template"))
        return STATUS_MEMORY;
    c->unknown[c->unknown_count++] = (unknown_name){.at = n};
    return jinja_make_name(c, name, &n->name);
}

void jinja_soften(compiler *c, size_t first) {
    for (size_t i = first; i < c->unknown_count; i++) c->unknown[i].soft = true;
}

status jinja_refuse_unknown(compiler *c, size_t first) {
    for (size_t i = first; i < c->unknown_count; i++) {
        const node *n = c->unknown[i].at;
        if (!c->unknown[i].soft)
            return jinja_syntax(c, n->line, n->column, "the %s `%.60s` is not known",
                                n->kind == N_TEST ? "test" : "filter", n->name->text);
    }
    return STATUS_OK;
}

status jinja_parse_filters(compiler *c, node *of, bool inline_first, node **out) {
    *out = of;
    while (inline_first || jinja_is_sign(c, "|")) {
        if (!inline_first) c->at++;
        inline_first = false;
        const token *t = jinja_now(c);
        TRY(jinja_expect(c, T_NAME, NULL));
        node *n = jinja_node(c, N_FILTER, t);
        if (!n) return STATUS_MEMORY;
        n->a = *out;
        TRY(jinja_find_builtin(c, n, t));
        if (jinja_is_sign(c, "(")) TRY(parse_call(c, &n->call));
        TRY(jinja_deepen(c, n));
        *out = n;
    }
    return STATUS_OK;
}

static bool begins_argument(const compiler *c) {
    const token *t = jinja_now(c);
    if (t->type == T_NAME)
        return strcmp(t->text, "else") && strcmp(t->text, "or") && strcmp(t->text, "and");
    return t->type == T_STRING || t->type == T_INTEGER || t->type == T_REAL ||
           jinja_is_sign(c, "[") || jinja_is_sign(c, "{");
}

static status parse_test(compiler *c, node **of) {
    const token *at = jinja_now(c);
    c->at++;
    bool negated = jinja_take_word(c, "not");
    const token *t = jinja_now(c);
    TRY(jinja_expect(c, T_NAME, NULL));
    node *n = jinja_node(c, N_TEST, t);
    if (!n) return STATUS_MEMORY;
    n->a = *of;
    TRY(jinja_find_builtin(c, n, t));
    if (jinja_is_sign(c, "(")) {
        TRY(parse_call(c, &n->call));
    } else if (begins_argument(c)) {
        node *argument;
        if (jinja_is_word(c, "is"))
            return jinja_syntax(c, t->line, t->column,
                                "You cannot chain multiple tests with is");
        TRY(jinja_parse_primary(c, false, &argument));
        TRY(jinja_parse_postfix(c, &argument));
        n->call = jinja_compiler_new(c, sizeof *n->call);
        node **items = jinja_compiler_new(c, sizeof *items);
        if (!n->call || !items) return STATUS_MEMORY;
        items[0] = argument;
        *n->call = (call){.items = items, .count = 1};
    }
    TRY(jinja_deepen(c, n));
    *of = n;
    if (!negated) return STATUS_OK;
    return jinja_make_binary(c, N_NOT, at, n, NULL, of);
}

status jinja_parse_filters_and_tests(compiler *c, node **of) {
    for (;;) {
        if (jinja_is_sign(c, "|")) {
            TRY(jinja_parse_filters(c, *of, false, of));
        } else if (jinja_is_word(c, "is")) {
            TRY(parse_test(c, of));
        } else if (jinja_is_sign(c, "(")) {
            TRY(jinja_parse_postfix(c, of));
        } else {
            return STATUS_OK;
        }
    }
}
