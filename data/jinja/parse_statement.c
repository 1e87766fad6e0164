/* parse_statement.c: tags and the text between them. */
#include "common/alloc.h"
#include "data/jinja/ast.h"

#include <string.h>

typedef struct body { /* statements up to one of the words that end them */
    node **items;
    size_t count;
} body;

static status parse_body(compiler *c, const char *const *ends, body *out);

static const char *const end_of_template[] = {NULL};

static bool ends_here(const compiler *c, const char *const *ends) {
    for (; *ends; ends++)
        if (jinja_is_word(c, *ends)) return true;
    return false;
}

/* "%} ... {% end": what is inside; the end's word is taken when there is only one. */
static status parse_block(compiler *c, const char *const *ends, body *out) {
    jinja_take_sign(c, ":");
    TRY(jinja_expect(c, T_BLOCK_END, NULL));
    TRY(parse_body(c, ends, out));
    if (!ends[1]) c->at++;
    return STATUS_OK;
}

static status keep_body(compiler *c, node *n, const char *end) {
    body b;
    const char *const ends[] = {end, NULL};
    TRY(parse_block(c, ends, &b));
    n->items = b.items, n->count = b.count;
    return jinja_deepen(c, n);
}

/* ---- for, if, set ---- */

static status parse_for(compiler *c, node *n) {
    static const char *const ends[] = {"endfor", "else", NULL}, *const end[] = {"endfor",
                                                                                NULL};
    body b;
    n->kind = N_FOR;
    TRY(jinja_parse_target(c, false, false, "in", &n->a));
    TRY(jinja_expect(c, T_NAME, "in"));
    TRY(jinja_parse_tuple(c, false, false, "recursive", &n->b));
    if (jinja_take_word(c, "if")) TRY(jinja_parse_expression(c, &n->c));
    n->sign = jinja_take_word(c, "recursive");
    c->loops++;
    TRY(parse_block(c, ends, &b));
    c->loops--;
    n->items = b.items, n->count = b.count;
    if (jinja_take_word(c, "else")) {
        TRY(parse_block(c, end, &b));
        n->others = b.items, n->other_count = b.count;
    } else {
        c->at++;
    }
    return jinja_deepen(c, n);
}

/* `elif` is an `if` in the other branch; deep chains of them are no nesting. */
static status parse_if(compiler *c, node *n) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif",
                                                                                       NULL};
    body b;
    n->kind = N_IF;
    int branches = 0;
    for (node *at = n;;) {
        TRY(jinja_parse_tuple(c, false, false, NULL, &at->a));
        TRY(parse_block(c, ends, &b));
        at->items = b.items, at->count = b.count;
        TRY(jinja_deepen(c, at));
        if (at != n && at->depth > n->depth) n->depth = at->depth;
        if (jinja_is_word(c, "elif")) {
            if (++branches > 100)
                return jinja_syntax(c, n->line, n->column, "more than 100 times elif");
            node *next = jinja_node(c, N_IF, jinja_now(c));
            at->others = jinja_compiler_new(c, sizeof *at->others);
            if (!next || !at->others) return STATUS_MEMORY;
            at->others[0] = next, at->other_count = 1;
            at = next;
            c->at++;
            continue;
        }
        if (jinja_take_word(c, "else")) {
            TRY(parse_block(c, end, &b));
            at->others = b.items, at->other_count = b.count;
            TRY(jinja_deepen(c, at));
            if (at->depth > n->depth) n->depth = at->depth;
        } else {
            c->at++;
        }
        return STATUS_OK;
    }
}

static status parse_set(compiler *c, node *n) {
    n->kind = N_SET;
    TRY(jinja_parse_target(c, false, true, NULL, &n->a));
    if (jinja_take_sign(c, "=")) {
        TRY(jinja_parse_tuple(c, false, true, NULL, &n->b));
        return jinja_deepen(c, n);
    }
    n->kind = N_SET_BLOCK;
    TRY(jinja_parse_filters(c, NULL, false, &n->b));
    return keep_body(c, n, "endset");
}

static status parse_with_values(compiler *c, node_list *l) {
    while (jinja_now(c)->type != T_BLOCK_END) {
        node *part;
        if (l->count) TRY(jinja_expect(c, T_OPERATOR, ","));
        TRY(jinja_parse_primary(c, false, &part));
        if (part->kind != N_NAME)
            return jinja_syntax(c, part->line, part->column, "can't assign to this");
        TRY(jinja_push(l, part));
        TRY(jinja_expect(c, T_OPERATOR, "="));
        TRY(jinja_parse_expression(c, &part));
        TRY(jinja_push(l, part));
    }
    return STATUS_OK;
}

static status parse_with(compiler *c, node *n) {
    static const char *const end[] = {"endwith", NULL};
    node_list l = {0};
    body b;
    n->kind = N_WITH;
    status s = parse_with_values(c, &l);
    if (s == STATUS_OK) s = jinja_keep(c, &l, &n->items, &n->count);
    mem_free(l.items);
    TRY(s);
    TRY(parse_block(c, end, &b));
    n->others = b.items, n->other_count = b.count;
    return jinja_deepen(c, n);
}

/* ---- macros and blocks ---- */

static status parse_parameters(compiler *c, node_list *names, node_list *defaults) {
    TRY(jinja_expect(c, T_OPERATOR, "("));
    while (!jinja_is_sign(c, ")")) {
        node *part;
        if (names->count) TRY(jinja_expect(c, T_OPERATOR, ","));
        TRY(jinja_parse_target(c, true, false, NULL, &part));
        TRY(jinja_push(names, part));
        if (jinja_take_sign(c, "=")) {
            TRY(jinja_parse_expression(c, &part));
            TRY(jinja_push(defaults, part));
        } else if (defaults->count) {
            return jinja_syntax(c, part->line, part->column,
                                "non-default argument follows default argument");
        }
    }
    c->at++;
    return STATUS_OK;
}

static status parse_signature(compiler *c, function_body *f) {
    node_list names = {0}, defaults = {0};
    status s = parse_parameters(c, &names, &defaults);
    if (s == STATUS_OK) s = jinja_keep(c, &names, &f->parameters, &f->count);
    if (s == STATUS_OK) s = jinja_keep(c, &defaults, &f->defaults, &f->default_count);
    mem_free(names.items);
    mem_free(defaults.items);
    return s;
}

/* A function's own break and continue would leave it. */
static status parse_function(compiler *c, node *n, const char *end, body *b) {
    const char *const ends[] = {end, NULL};
    int loops = c->loops;
    c->loops = 0;
    TRY(parse_block(c, ends, b));
    c->loops = loops;
    if (!n->function) return STATUS_OK;
    n->function->items = b->items, n->function->item_count = b->count;
    for (size_t i = 0; i < b->count; i++)
        if (b->items[i]->depth >= n->depth) n->depth = (uint16_t)(b->items[i]->depth + 1);
    return jinja_deepen(c, n);
}

static status parse_macro(compiler *c, node *n) {
    body b;
    n->kind = N_MACRO;
    n->function = jinja_compiler_new(c, sizeof *n->function);
    if (!n->function) return STATUS_MEMORY;
    TRY(jinja_parse_target(c, true, false, NULL, &n->a));
    if (n->a->kind != N_NAME) return jinja_unexpected(c);
    n->function->name = n->a->name;
    TRY(parse_signature(c, n->function));
    return parse_function(c, n, "endmacro", &b);
}

static status parse_call_block(compiler *c, node *n) {
    body b;
    n->kind = N_CALL_BLOCK;
    n->function = jinja_compiler_new(c, sizeof *n->function);
    if (!n->function) return STATUS_MEMORY;
    if (jinja_is_sign(c, "(")) TRY(parse_signature(c, n->function));
    TRY(jinja_parse_expression(c, &n->a));
    if (n->a->kind != N_CALL) return jinja_syntax(c, n->line, n->column, "expected call");
    return parse_function(c, n, "endcall", &b);
}

static status parse_filter_block(compiler *c, node *n) {
    n->kind = N_FILTER_BLOCK;
    TRY(jinja_parse_filters(c, NULL, true, &n->b));
    return keep_body(c, n, "endfilter");
}

static status parse_generation(compiler *c, node *n) {
    body b;
    n->kind = N_GENERATION;
    c->template->generation = true;
    node inner = {0};
    TRY(parse_function(c, &inner, "endgeneration", &b));
    n->items = b.items, n->count = b.count;
    return jinja_deepen(c, n);
}

static status parse_loop_control(compiler *c, node *n) {
    n->kind = !strcmp(c->tokens[c->at - 1].text, "break") ? N_BREAK : N_CONTINUE;
    if (!c->loops) return jinja_syntax(c, n->line, n->column, "outside of a loop");
    return STATUS_OK;
}

/* {% print a, b %}, and {% do %} which jinja2 has only as an extension, are not among these. */
static const struct tag {
    const char *name;
    status (*parse)(compiler *c, node *n);
} tags[] = {{"for", parse_for},
            {"if", parse_if},
            {"set", parse_set},
            {"with", parse_with},
            {"macro", parse_macro},
            {"call", parse_call_block},
            {"filter", parse_filter_block},
            {"generation", parse_generation},
            {"break", parse_loop_control},
            {"continue", parse_loop_control}};

static status parse_tag(compiler *c, node **out) {
    const token *t = jinja_now(c);
    if (t->type != T_NAME) return jinja_unexpected(c);
    if (c->depth > 60)
        return jinja_syntax(c, t->line, t->column, "the template is nested too deeply");
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        if (strcmp(tags[i].name, t->text)) continue;
        *out = jinja_node(c, N_DATA, t);
        if (!*out) return STATUS_MEMORY;
        c->at++;
        c->depth++;
        size_t unknown = c->unknown_count;
        TRY(tags[i].parse(c, *out));
        c->depth--;
        if ((*out)->kind == N_IF)
            jinja_soften(c, unknown);
        else if ((*out)->kind != N_SET) /* has a scope of its own */
            TRY(jinja_refuse_unknown(c, unknown));
        return jinja_expect(c, T_BLOCK_END, NULL);
    }
    return jinja_syntax(c, t->line, t->column, "the tag `%.60s` is not known here", t->text);
}

static status parse_piece(compiler *c, node **out) {
    const token *t = jinja_now(c);
    *out = jinja_node(c, t->type == T_DATA ? N_DATA : N_PRINT, t);
    if (!*out) return STATUS_MEMORY;
    c->at++;
    if (t->type == T_DATA) {
        string *s;
        TRY(jinja_make_name(c, t, &s));
        (*out)->constant = STRING(s);
        return STATUS_OK;
    }
    TRY(jinja_parse_tuple(c, false, true, NULL, &(*out)->a));
    TRY(jinja_deepen(c, *out));
    return jinja_expect(c, T_PRINT_END, NULL);
}

static status parse_pieces(compiler *c, const char *const *ends, node_list *l) {
    for (;;) {
        const token *t = jinja_now(c);
        node *n = NULL;
        if (t->type == T_END) {
            if (!*ends) return STATUS_OK;
            return jinja_syntax(c, t->line, t->column, "{%% %s %%} is missing", *ends);
        }
        if (t->type == T_BLOCK) {
            c->at++;
            if (ends_here(c, ends)) return STATUS_OK;
            TRY(parse_tag(c, &n));
        } else {
            TRY(parse_piece(c, &n));
        }
        TRY(jinja_push(l, n));
    }
}

/* Up to one of the words `ends`, which is the next token then, or to the template's end. */
static status parse_body(compiler *c, const char *const *ends, body *out) {
    node_list l = {0};
    status s = parse_pieces(c, ends, &l);
    if (s == STATUS_OK) s = jinja_keep(c, &l, &out->items, &out->count);
    mem_free(l.items);
    return s;
}

status jinja_parse(compiler *c) {
    body b;
    TRY(parse_body(c, end_of_template, &b));
    TRY(jinja_refuse_unknown(c, 0));
    c->template->items = b.items, c->template->count = b.count;
    return STATUS_OK;
}
