/* ast.h: a compiled template: nodes, and the scopes of their names; inside data/jinja only.
 *
 * Scopes are jinja2's (idtracking.py): every name of a scope has a slot in the frame of its
 * function (the template, a macro, a caller, a recursive loop), and the scope says what the
 * slot holds when it is entered: a variable of the row, a copy of an outer slot, or nothing. */
#ifndef NIBBLE_DATA_JINJA_AST_H
#define NIBBLE_DATA_JINJA_AST_H

#include "data/jinja/lexer.h"

typedef enum node_kind {
    /* expressions: a, b, c operands; items the rest */
    N_CONST,
    N_NAME,  /* slot, hops */
    N_TUPLE, /* items */
    N_LIST,
    N_DICT,    /* items: key, value, key, value ... */
    N_IF_ELSE, /* a if b else c (c may be NULL) */
    N_OR,
    N_AND,
    N_NOT,
    N_COMPARE, /* a, then items with signs */
    N_SIGN,    /* a sign b: arithmetic */
    N_MINUS,
    N_PLUS,
    N_CONCAT,    /* items joined by ~ */
    N_ATTRIBUTE, /* a.name */
    N_ITEM,      /* a[b] */
    N_SLICE,     /* a[items[0]:items[1]:items[2]], each may be NULL */
    N_CALL,      /* a(call) */
    N_FILTER,    /* a | builtin(call); a NULL: the block's text */
    N_TEST,      /* a is builtin(call) */
    /* statements */
    N_DATA,         /* constant */
    N_PRINT,        /* a */
    N_FOR,          /* target a in b if c: items, else others */
    N_IF,           /* a: items, else others */
    N_SET,          /* target a = b */
    N_SET_BLOCK,    /* target a, filter b or NULL, items */
    N_MACRO,        /* target a, function */
    N_CALL_BLOCK,   /* call a, function */
    N_FILTER_BLOCK, /* filter b, items */
    N_WITH,         /* targets items[0], values items[1] ... then others */
    N_BREAK,
    N_CONTINUE,
    N_GENERATION,       /* items */
    N_NAMESPACE_TARGET, /* a.name = */
} node_kind;

typedef enum compare_sign {
    COMPARE_EQ,
    COMPARE_NE,
    COMPARE_LT,
    COMPARE_LE,
    COMPARE_GT,
    COMPARE_GE,
    COMPARE_IN,
    COMPARE_NOT_IN,
} compare_sign;

typedef struct call { /* arguments of a call, filter or test */
    struct node **items;
    size_t count;
    const string **names;
    struct node **named;
    size_t named_count;
    struct node *rest, *named_rest; /* *rest, **named_rest */
} call;

typedef enum load_kind { LOAD_NOTHING, LOAD_VARIABLE, LOAD_OUTER, LOAD_PARAMETER } load_kind;

typedef struct load {
    uint32_t slot;
    load_kind kind;
    uint32_t name;       /* LOAD_VARIABLE: its number */
    uint32_t hops, from; /* LOAD_OUTER: functions outwards, slot there */
} load;

typedef struct scope {
    load *loads;
    size_t count;
} scope;

typedef struct function_body { /* of a macro or caller */
    const string *name;
    struct node **parameters; /* names */
    size_t count;
    struct node **defaults; /* of the last default_count parameters */
    size_t default_count;
    struct node **items;
    size_t item_count;
    scope *scope;
    uint32_t slots;
    int64_t caller, kwargs, varargs; /* slots of what the body uses; -1 */
} function_body;

typedef struct node {
    uint8_t kind, sign; /* SIGN_*, of a loop: whether it is recursive */
    uint16_t depth;
    int32_t line, column;
    uint32_t slot, hops;
    struct node *a, *b, *c;
    struct node **items, **others;
    size_t count, other_count;
    union {
        value constant;
        string *name; /* of names, attributes */
        uint8_t *signs;
        function_body *function;
    };
    call *call;
    const builtin *builtin;
    const builtin *on_string, *on_dict; /* of attributes: the method of that name */
    bool plain;                         /* no dict has such an attribute: it is a key */
    scope *scope, *test_scope, *else_scope;
    uint32_t loop_slot, slots; /* of loops: `loop`; of recursive ones: their frame */
} node;

typedef struct variable { /* that is looked for in the row */
    string *name;
    const function *function; /* of that name, where the row has none; or NULL */
    enum { VARIABLE_PLAIN, VARIABLE_PROMPT, VARIABLE_MESSAGES } kind;
} variable;

struct jinja_template {
    jinja_arena arena;
    node **items;
    size_t count;
    scope *scope;
    uint32_t slots;
    variable *variables;
    size_t variable_count, variable_capacity;
    bool generation, date;
};

/* Parses c's tokens into c->template->items. */
status jinja_parse(compiler *c);
/* Gives every name its slot. */
status jinja_resolve(compiler *c);

/* ---- between the parser's files ---- */

/* A filter or test that jinja2 does not know either: an error of the template, but one that
 * jinja2 leaves for the rendering where it stands in a condition's branch. */
typedef struct unknown_name {
    const node *at;
    bool soft; /* in a condition's branch */
} unknown_name;
/* Finds n->builtin by a name; refuses what jinja2 knows and this does not. */
status jinja_find_builtin(compiler *c, node *n, const token *name);
/* Those since `first` are in a branch; or stand in something else: then they are refused. */
void jinja_soften(compiler *c, size_t first);
status jinja_refuse_unknown(compiler *c, size_t first);

node *jinja_node(compiler *c, node_kind kind, const token *at); /* NULL: out of memory */
status jinja_parse_tuple(compiler *c, bool parentheses, bool conditional, const char *until,
                         node **out);
status jinja_parse_expression(compiler *c, node **out);
status jinja_parse_target(compiler *c, bool names_only, bool namespaces, const char *until,
                          node **out);
status jinja_parse_primary(compiler *c, bool namespaces, node **out);
status jinja_parse_postfix(compiler *c, node **of);
status jinja_parse_filters_and_tests(compiler *c, node **of);
status jinja_make_name(compiler *c, const token *t, string **out);
status jinja_make_binary(compiler *c, node_kind kind, const token *at, node *a, node *b,
                         node **out);
status jinja_parse_filters(compiler *c, node *of, bool inline_first, node **out);

static inline const token *jinja_now(const compiler *c) {
    return &c->tokens[c->at];
}
bool jinja_is_sign(const compiler *c, const char *sign);
bool jinja_is_word(const compiler *c, const char *word);
bool jinja_take_sign(compiler *c, const char *sign);
bool jinja_take_word(compiler *c, const char *word);
status jinja_expect(compiler *c, token_type type, const char *text);
status jinja_unexpected(const compiler *c);
/* A growing list of nodes while parsing; then copied to the arena. */
typedef struct node_list {
    node **items;
    size_t count, capacity;
} node_list;
status jinja_push(node_list *l, node *n);
status jinja_keep(compiler *c, node_list *l, node ***items, size_t *count);
/* Sets the depth from the operands'; refuses what is too deep. */
status jinja_deepen(const compiler *c, node *n);

#endif
