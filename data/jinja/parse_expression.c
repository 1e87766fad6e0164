/* parse_expression.c: expressions by recursive descent, with jinja2's precedences. */
#include "common/alloc.h"
#include "data/jinja/ast.h"

#include <string.h>

enum { NESTING = 120, NODE_DEPTH = 450 };

node *jinja_node(compiler *c, node_kind kind, const token *at) {
    node *n = jinja_compiler_new(c, sizeof *n);
    if (n) *n = (node){.kind = (uint8_t)kind, .line = at->line, .column = at->column};
    return n;
}

/* ---- tokens ---- */

bool jinja_is_sign(const compiler *c, const char *sign) {
    return jinja_now(c)->type == T_OPERATOR && !strcmp(jinja_now(c)->text, sign);
}

bool jinja_is_word(const compiler *c, const char *word) {
    return jinja_now(c)->type == T_NAME && !strcmp(jinja_now(c)->text, word);
}

bool jinja_take_sign(compiler *c, const char *sign) {
    bool is = jinja_is_sign(c, sign);
    c->at += is;
    return is;
}

bool jinja_take_word(compiler *c, const char *word) {
    bool is = jinja_is_word(c, word);
    c->at += is;
    return is;
}

static void describe(const token *t, char out[80]) {
    static const char *const names[] = {[T_END] = "the end of the template",
                                        [T_DATA] = "text",
                                        [T_BLOCK] = "{%",
                                        [T_BLOCK_END] = "%}",
                                        [T_PRINT] = "{{",
                                        [T_PRINT_END] = "}}"};
    const char *name = t->type < T_NAME ? names[t->type] : NULL;
    if (name)
        snprintf(out, 80, "%s", name);
    else
        snprintf(out, 80, "`%.*s`", t->bytes > 40 ? 40 : (int)t->bytes, t->text);
}

status jinja_unexpected(const compiler *c) {
    char what[80];
    describe(jinja_now(c), what);
    return jinja_syntax(c, jinja_now(c)->line, jinja_now(c)->column, "%s is not expected here",
                        what);
}

status jinja_expect(compiler *c, token_type type, const char *text) {
    const token *t = jinja_now(c);
    if (t->type == type && (!text || !strcmp(t->text, text))) {
        c->at++;
        return STATUS_OK;
    }
    char what[80];
    static const char *const names[] = {
        [T_BLOCK_END] = "%}", [T_PRINT_END] = "}}", [T_NAME] = "a name"};
    describe(t, what);
    return jinja_syntax(c, t->line, t->column, "`%s` is expected here, not %s",
                        text ? text : names[type], what);
}

status jinja_push(node_list *l, node *n) {
    if (mem_grow(&l->items, &l->capacity, l->count + 1, sizeof *l->items, "a template"))
        return STATUS_MEMORY;
    l->items[l->count++] = n;
    return STATUS_OK;
}

status jinja_keep(compiler *c, node_list *l, node ***items, size_t *count) {
    *items = jinja_compiler_new(c, (l->count + 1) * sizeof **items);
    if (!*items) return STATUS_MEMORY;
    if (l->count) memcpy(*items, l->items, l->count * sizeof **items);
    *count = l->count;
    return STATUS_OK;
}

static void reach(node *n, const node *part) {
    if (part && part->depth >= n->depth) n->depth = (uint16_t)(part->depth + 1);
}

status jinja_deepen(const compiler *c, node *n) {
    reach(n, n->a), reach(n, n->b), reach(n, n->c);
    for (size_t i = 0; i < n->count; i++) reach(n, n->items[i]);
    for (size_t i = 0; i < n->other_count; i++) reach(n, n->others[i]);
    for (size_t i = 0; n->call && i < n->call->count; i++) reach(n, n->call->items[i]);
    for (size_t i = 0; n->call && i < n->call->named_count; i++) reach(n, n->call->named[i]);
    if (n->depth > NODE_DEPTH)
        return jinja_syntax(c, n->line, n->column, "the template is nested too deeply");
    return STATUS_OK;
}

status jinja_make_name(compiler *c, const token *t, string **out) {
    string *s = jinja_compiler_new(c, sizeof *s);
    if (!s) return STATUS_MEMORY;
    *s = (string){.text = t->text, .bytes = (uint32_t)t->bytes, .chars = UNCOUNTED};
    jinja_string_hash(s), jinja_chars(s); /* threads share it: nothing is left to compute */
    *out = s;
    return STATUS_OK;
}

/* ---- primaries ---- */

static status parse_unary(compiler *c, bool filters, node **out);

status jinja_make_binary(compiler *c, node_kind kind, const token *at, node *a, node *b,
                         node **out) {
    node *n = jinja_node(c, kind, at);
    if (!n) return STATUS_MEMORY;
    n->a = a, n->b = b;
    *out = n;
    return jinja_deepen(c, n);
}

static status parse_items(compiler *c, const char *end, bool pairs, node *n, node_list *l) {
    while (!jinja_is_sign(c, end)) {
        node *item;
        if (l->count) TRY(jinja_expect(c, T_OPERATOR, ","));
        if (jinja_is_sign(c, end)) break;
        TRY(jinja_parse_expression(c, &item));
        TRY(jinja_push(l, item));
        if (!pairs) continue;
        TRY(jinja_expect(c, T_OPERATOR, ":"));
        TRY(jinja_parse_expression(c, &item));
        TRY(jinja_push(l, item));
    }
    TRY(jinja_keep(c, l, &n->items, &n->count));
    return jinja_expect(c, T_OPERATOR, end);
}

static status parse_display(compiler *c, node_kind kind, const char *end, node **out) {
    node_list l = {0};
    node *n = *out = jinja_node(c, kind, jinja_now(c));
    if (!n) return STATUS_MEMORY;
    c->at++;
    status s = parse_items(c, end, kind == N_DICT, n, &l);
    mem_free(l.items);
    return s == STATUS_OK ? jinja_deepen(c, n) : s;
}

/* Strings that stand together are one. */
static status parse_string(compiler *c, node *n) {
    size_t bytes = 0, first = c->at;
    for (; jinja_now(c)->type == T_STRING; c->at++) bytes += jinja_now(c)->bytes;
    char *text = jinja_compiler_new(c, bytes + 1), *p = text;
    if (!text) return STATUS_MEMORY;
    for (size_t i = first; i < c->at; i++) {
        memcpy(p, c->tokens[i].text, c->tokens[i].bytes);
        p += c->tokens[i].bytes;
    }
    string *s;
    TRY(jinja_make_name(c, &(token){.text = text, .bytes = bytes}, &s));
    n->constant = STRING(s);
    return STATUS_OK;
}

static bool parse_word_constant(const token *t, value *out) {
    static const struct {
        const char *word;
        value constant;
    } words[] = {{"true", BOOL(true)},   {"True", BOOL(true)}, {"false", BOOL(false)},
                 {"False", BOOL(false)}, {"none", NONE},       {"None", NONE}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(words[i].word, t->text)) {
            *out = words[i].constant;
            return true;
        }
    return false;
}

static status parse_name(compiler *c, bool namespaces, node **out) {
    const token *t = jinja_now(c);
    node *n = *out = jinja_node(c, N_CONST, t);
    if (!n) return STATUS_MEMORY;
    c->at++;
    if (parse_word_constant(t, &n->constant)) return STATUS_OK;
    n->kind = N_NAME;
    TRY(jinja_make_name(c, t, &n->name));
    if (!namespaces || !jinja_take_sign(c, ".")) return STATUS_OK;
    node *of = n;
    n = *out = jinja_node(c, N_NAMESPACE_TARGET, t);
    if (!n) return STATUS_MEMORY;
    n->a = of;
    const token *name = jinja_now(c);
    TRY(jinja_expect(c, T_NAME, NULL));
    return jinja_make_name(c, name, &n->name);
}

status jinja_parse_primary(compiler *c, bool namespaces, node **out) {
    const token *t = jinja_now(c);
    if (t->type == T_NAME) return parse_name(c, namespaces, out);
    if (t->type == T_STRING || t->type == T_INTEGER || t->type == T_REAL) {
        node *n = *out = jinja_node(c, N_CONST, t);
        if (!n) return STATUS_MEMORY;
        if (t->type == T_STRING) return parse_string(c, n);
        n->constant = t->type == T_INTEGER ? INT(t->integer) : REAL(t->real);
        c->at++;
        return STATUS_OK;
    }
    if (jinja_take_sign(c, "(")) {
        TRY(jinja_parse_tuple(c, true, true, NULL, out));
        return jinja_expect(c, T_OPERATOR, ")");
    }
    if (jinja_is_sign(c, "[")) return parse_display(c, N_LIST, "]", out);
    if (jinja_is_sign(c, "{")) return parse_display(c, N_DICT, "}", out);
    return jinja_unexpected(c);
}

/* ---- operators, from the tightest ---- */

static status parse_unary(compiler *c, bool filters, node **out) {
    const token *t = jinja_now(c);
    if (c->depth > NESTING)
        return jinja_syntax(c, t->line, t->column, "the template is nested too deeply");
    c->depth++;
    bool minus = jinja_is_sign(c, "-");
    if (minus || jinja_is_sign(c, "+")) {
        c->at++;
        TRY(parse_unary(c, false, out));
        TRY(jinja_make_binary(c, minus ? N_MINUS : N_PLUS, t, *out, NULL, out));
    } else {
        TRY(jinja_parse_primary(c, false, out));
    }
    TRY(jinja_parse_postfix(c, out));
    if (filters) TRY(jinja_parse_filters_and_tests(c, out));
    c->depth--;
    return STATUS_OK;
}

/* A level of binary operators, all from the left. */
typedef struct level {
    const char *signs[5];
    uint8_t numbers[5];
} level;

static status parse_binary(compiler *c, const level *l, status (*next)(compiler *, node **),
                           node **out) {
    TRY(next(c, out));
    for (;;) {
        const token *t = jinja_now(c);
        int i = 0;
        while (l->signs[i] && !jinja_is_sign(c, l->signs[i])) i++;
        if (!l->signs[i]) return STATUS_OK;
        node *right;
        c->at++;
        TRY(next(c, &right));
        TRY(jinja_make_binary(c, N_SIGN, t, *out, right, out));
        (*out)->sign = l->numbers[i];
    }
}

static status parse_filtered(compiler *c, node **out) {
    return parse_unary(c, true, out);
}

static status parse_power(compiler *c, node **out) {
    static const level l = {{"**"}, {SIGN_POW}};
    return parse_binary(c, &l, parse_filtered, out);
}

static status parse_product(compiler *c, node **out) {
    static const level l = {{"*", "/", "//", "%"}, {SIGN_MUL, SIGN_DIV, SIGN_FLOOR, SIGN_MOD}};
    return parse_binary(c, &l, parse_power, out);
}

static status parse_concat(compiler *c, node **out) {
    const token *t = jinja_now(c);
    TRY(parse_product(c, out));
    if (!jinja_is_sign(c, "~")) return STATUS_OK;
    node_list l = {0};
    node *n = jinja_node(c, N_CONCAT, t);
    status s = n ? jinja_push(&l, *out) : STATUS_MEMORY;
    while (s == STATUS_OK && jinja_take_sign(c, "~")) {
        s = parse_product(c, out);
        if (s == STATUS_OK) s = jinja_push(&l, *out);
    }
    if (s == STATUS_OK) s = jinja_keep(c, &l, &n->items, &n->count);
    mem_free(l.items);
    *out = n;
    return s == STATUS_OK ? jinja_deepen(c, n) : s;
}

static status parse_sum(compiler *c, node **out) {
    static const level l = {{"+", "-"}, {SIGN_ADD, SIGN_SUB}};
    return parse_binary(c, &l, parse_concat, out);
}

/* The comparison that stands here, taken; false: none. */
static bool take_comparison(compiler *c, uint8_t *sign) {
    static const struct {
        const char *text;
        compare_sign sign;
    } signs[] = {{"==", COMPARE_EQ}, {"!=", COMPARE_NE}, {"<=", COMPARE_LE},
                 {">=", COMPARE_GE}, {"<", COMPARE_LT},  {">", COMPARE_GT}};
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (jinja_take_sign(c, signs[i].text)) {
            *sign = (uint8_t)signs[i].sign;
            return true;
        }
    const token *next = jinja_now(c) + 1;
    bool negated =
        jinja_is_word(c, "not") && next->type == T_NAME && !strcmp(next->text, "in");
    c->at += negated;
    *sign = negated ? COMPARE_NOT_IN : COMPARE_IN;
    return jinja_take_word(c, "in");
}

static status parse_comparison(compiler *c, node **out) {
    const token *t = jinja_now(c);
    uint8_t signs[32], sign;
    size_t count = 0;
    TRY(parse_sum(c, out));
    if (!take_comparison(c, &sign)) return STATUS_OK;
    node *n = jinja_node(c, N_COMPARE, t), *items[32];
    if (!n) return STATUS_MEMORY;
    do {
        if (count == 32)
            return jinja_syntax(c, t->line, t->column, "a chain of over 32 comparisons");
        signs[count] = sign;
        TRY(parse_sum(c, &items[count++]));
    } while (take_comparison(c, &sign));
    n->a = *out;
    n->count = count;
    n->items = jinja_compiler_new(c, sizeof items);
    n->signs = jinja_compiler_new(c, sizeof signs);
    if (!n->items || !n->signs) return STATUS_MEMORY;
    memcpy(n->items, items, count * sizeof *items);
    memcpy(n->signs, signs, count);
    *out = n;
    return jinja_deepen(c, n);
}

static status parse_not(compiler *c, node **out) {
    const token *t = jinja_now(c);
    size_t nots = 0;
    while (jinja_take_word(c, "not")) nots++;
    TRY(parse_comparison(c, out));
    for (; nots; nots--) TRY(jinja_make_binary(c, N_NOT, t, *out, NULL, out));
    return STATUS_OK;
}

static status parse_and(compiler *c, node **out) {
    const token *t = jinja_now(c);
    TRY(parse_not(c, out));
    while (jinja_take_word(c, "and")) {
        node *right;
        TRY(parse_not(c, &right));
        TRY(jinja_make_binary(c, N_AND, t, *out, right, out));
    }
    return STATUS_OK;
}

static status parse_or(compiler *c, node **out) {
    const token *t = jinja_now(c);
    TRY(parse_and(c, out));
    while (jinja_take_word(c, "or")) {
        node *right;
        TRY(parse_and(c, &right));
        TRY(jinja_make_binary(c, N_OR, t, *out, right, out));
    }
    return STATUS_OK;
}

status jinja_parse_expression(compiler *c, node **out) {
    const token *t = jinja_now(c);
    if (c->depth > NESTING)
        return jinja_syntax(c, t->line, t->column, "the template is nested too deeply");
    c->depth++;
    size_t unknown = c->unknown_count;
    bool branches = false;
    TRY(parse_or(c, out));
    while (jinja_take_word(c, "if")) {
        branches = true;
        node *n = jinja_node(c, N_IF_ELSE, t);
        if (!n) return STATUS_MEMORY;
        n->a = *out;
        TRY(parse_or(c, &n->b));
        if (jinja_take_word(c, "else")) TRY(jinja_parse_expression(c, &n->c));
        TRY(jinja_deepen(c, n));
        *out = n;
    }
    if (branches) jinja_soften(c, unknown);
    c->depth--;
    return STATUS_OK;
}

/* ---- tuples and targets ---- */

typedef struct tuple_rules {
    bool target, namespaces, conditional;
    const char *until; /* a word that ends it, or NULL */
} tuple_rules;

static bool ends_tuple(const compiler *c, const tuple_rules *r) {
    token_type type = jinja_now(c)->type;
    return type == T_PRINT_END || type == T_BLOCK_END || jinja_is_sign(c, ")") ||
           (r->until && jinja_is_word(c, r->until));
}

static status parse_tuple_items(compiler *c, const tuple_rules *r, bool *is_tuple,
                                node_list *l) {
    for (;;) {
        node *item;
        if (ends_tuple(c, r)) return STATUS_OK;
        if (r->target)
            TRY(jinja_parse_primary(c, r->namespaces, &item));
        else
            TRY(r->conditional ? jinja_parse_expression(c, &item) : parse_or(c, &item));
        TRY(jinja_push(l, item));
        if (!jinja_take_sign(c, ",")) return STATUS_OK;
        *is_tuple = true;
    }
}

static status parse_any_tuple(compiler *c, const tuple_rules *r, bool parentheses,
                              node **out) {
    const token *t = jinja_now(c);
    node_list l = {0};
    bool is_tuple = false;
    status s = parse_tuple_items(c, r, &is_tuple, &l);
    if (s == STATUS_OK && !is_tuple && l.count == 1) {
        *out = l.items[0];
    } else if (s == STATUS_OK && !is_tuple && !parentheses) {
        s = jinja_unexpected(c);
    } else if (s == STATUS_OK) {
        node *n = *out = jinja_node(c, N_TUPLE, t);
        s = n ? jinja_keep(c, &l, &n->items, &n->count) : STATUS_MEMORY;
        if (s == STATUS_OK) s = jinja_deepen(c, n);
    }
    mem_free(l.items);
    return s;
}

status jinja_parse_tuple(compiler *c, bool parentheses, bool conditional, const char *until,
                         node **out) {
    tuple_rules r = {.conditional = conditional, .until = until};
    return parse_any_tuple(c, &r, parentheses, out);
}

static status check_target(const compiler *c, const node *n, bool top) {
    bool fine = n->kind == N_NAME || (top && n->kind == N_NAMESPACE_TARGET);
    if (n->kind == N_TUPLE) {
        for (size_t i = 0; i < n->count; i++) TRY(check_target(c, n->items[i], top));
        return STATUS_OK;
    }
    return fine ? STATUS_OK : jinja_syntax(c, n->line, n->column, "can't assign to this");
}

status jinja_parse_target(compiler *c, bool names_only, bool namespaces, const char *until,
                          node **out) {
    if (names_only) {
        if (jinja_now(c)->type != T_NAME) return jinja_unexpected(c);
        TRY(parse_name(c, false, out));
    } else {
        tuple_rules r = {.target = true, .namespaces = namespaces, .until = until};
        TRY(parse_any_tuple(c, &r, false, out));
    }
    return check_target(c, *out, namespaces);
}
