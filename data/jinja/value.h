/* value.h: the values of a template, inside data/jinja only. All live in an arena, none is
 * ever changed once it is made (namespaces and half-used iterators apart). */
#ifndef NIBBLE_DATA_JINJA_VALUE_H
#define NIBBLE_DATA_JINJA_VALUE_H

#include "data/jinja/arena.h"

typedef enum kind {
    V_MISSING, /* no argument was given; a variable that is not set */
    V_UNDEFINED,
    V_NONE,
    V_BOOL,
    V_INT,
    V_REAL,
    V_STRING,
    V_LIST,
    V_TUPLE,
    V_DICT,
    V_RANGE,
    V_VIEW,      /* a dict's keys, values or items */
    V_LAZY,      /* what map, select ... give: computed when first looked at, used up then */
    V_NAMESPACE, /* the one thing that changes */
    V_LOOP,      /* the variable `loop` */
    V_MACRO,
    V_METHOD,   /* of a value */
    V_FUNCTION, /* range, namespace ... */
} kind;

typedef struct value {
    kind kind;
    union {
        bool truth;
        int64_t integer;
        double real;
        struct string *string;
        struct list *list; /* and tuples */
        struct dict *dict; /* and namespaces */
        struct range *range;
        struct view *view;
        struct lazy *lazy;
        struct loop *loop;
        struct macro *macro;
        struct method *method;
        const struct function *function;
        struct undefined *undefined;
    };
} value;

typedef struct string {
    const char *text;
    uint32_t bytes;
    uint32_t chars; /* UNCOUNTED, or how many code points */
    uint32_t hash;  /* 0: not computed */
    uint32_t run_count;
    const jinja_run *runs; /* NULL: all of it is the template's */
    bool safe;             /* | safe: what is added to it jinja2 would escape */
} string;
enum { UNCOUNTED = UINT32_MAX };

typedef struct list {
    value *items;
    size_t count;
    bool group; /* groupby's (grouper, list) */
} list;

typedef struct pair {
    value key, value;
    uint32_t hash;
} pair;

typedef struct dict { /* in the order of insertion */
    pair *pairs;
    size_t count, capacity;
    uint32_t *index; /* of count + 1s by hash, when there are many */
    size_t slots;
} dict;

typedef struct range {
    int64_t start, stop, step, count;
} range;

typedef struct view {
    dict *dict;
    enum { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS } of;
} view;

typedef struct undefined {
    const char *hint; /* a message of its own, or NULL: made of the others */
    value of;         /* whose attribute; V_MISSING: a variable */
    value name;
    bool unsafe; /* SecurityError instead of UndefinedError */
} undefined;

typedef struct method {
    const struct builtin *row;
    value self;
} method;

typedef struct arguments {
    value *items;
    size_t count;
    const string **names; /* of keyword arguments */
    value *named;
    size_t named_count;
} arguments;

struct machine;
typedef struct machine machine;

enum { PARAMETERS = 5 };

/* A filter, test, method or function: `a` are its arguments in the order of `parameters`,
 * V_MISSING where none was given; what it works on is `self`. */
typedef struct builtin {
    const char *name;
    status (*call)(machine *m, value self, value *a, value *out);
    const char *parameters[PARAMETERS];
    int needed; /* arguments without a default */
    /* instead of `call`: takes any arguments */
    status (*variadic)(machine *m, value self, const arguments *a, value *out);
} builtin;

typedef struct function {
    const char *name;
    status (*call)(machine *m, const arguments *a, value *out);
} function;

/* Computes all the values of a lazy one. */
typedef struct lazy {
    const char *type; /* "generator" */
    status (*fill)(machine *m, struct lazy *l, list *out);
    value source;
    arguments arguments;
    const builtin *row;
    bool keep; /* select or reject */
    list items;
    size_t at;
    bool filled;
} lazy;

struct machine {
    const jinja_template *template;
    jinja_rendering *r;
    struct builder *out;
    struct frame *frame; /* of the function that runs */
    value *globals;      /* by name number, V_MISSING: not looked up yet */
    uint64_t steps;
    int depth;
    int line;
    size_t list_count; /* messages that are shown */
    bool prompt;
    unsigned flags; /* JINJA_GENERATED */
    enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
    string *bytes[128]; /* strings of one ASCII character, made when first wanted */
};

/* ---- making ---- */

#define NONE      ((value){.kind = V_NONE})
#define MISSING   ((value){.kind = V_MISSING})
#define BOOL(x)   ((value){.kind = V_BOOL, .truth = (x)})
#define INT(x)    ((value){.kind = V_INT, .integer = (x)})
#define REAL(x)   ((value){.kind = V_REAL, .real = (x)})
#define STRING(s) ((value){.kind = V_STRING, .string = (s)})
#define LIST(l)   ((value){.kind = V_LIST, .list = (l)})
#define TUPLE(l)  ((value){.kind = V_TUPLE, .list = (l)})
#define DICT(d)   ((value){.kind = V_DICT, .dict = (d)})

/* Zeroed memory of the row; a failure is memory's end or the cap. */
status jinja_new(machine *m, size_t bytes, void *out);
/* The same, not zeroed. */
status jinja_new_text(machine *m, size_t bytes, char **out);
status jinja_too_long(machine *m); /* the steps are used up */
/* Counts, and stops beyond the cap. */
static inline status jinja_step(machine *m, uint64_t steps) {
    m->steps += steps;
    return m->steps <= JINJA_STEPS ? STATUS_OK : jinja_too_long(m);
}

/* A failure of the template: an exception by Python's name for it. */
status jinja_raise(machine *m, const char *type, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* What jinja2 does and this does not. */
status jinja_unsupported(machine *m, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
status jinja_raise_undefined(machine *m, const undefined *u);

status jinja_make_undefined(machine *m, value of, value name, const char *hint, value *out);
status jinja_make_list(machine *m, size_t count, list **out);     /* of V_MISSING */
status jinja_make_pair(machine *m, value a, value b, value *out); /* a tuple */
status jinja_make_lazy(machine *m, const char *type, value source, value *out);
status jinja_append(machine *m, list *l, size_t *capacity, value v);

/* ---- value.c ---- */

bool jinja_is(const value *v, kind k);
const char *jinja_type(const value *v);
bool jinja_truth(const value *v);
/* a == b. */
bool jinja_equal(const value *a, const value *b);
/* *order < 0, 0, > 0; TypeError for what has no order. `sign` is named in its message. */
status jinja_compare(machine *m, const value *a, const value *b, const char *sign, int *order);
/* a in b. */
status jinja_contains(machine *m, value a, value b, bool *out);
/* len(); false when it has none. */
bool jinja_length(machine *m, const value *v, int64_t *out);
/* v as an index or count: bools too. */
bool jinja_integer(const value *v, int64_t *out);
bool jinja_number(const value *v, double *out);

/* All the values of what can be iterated over, as a list; generators are used up. TypeError. */
status jinja_iterate(machine *m, value v, list **out);
/* Whether jinja_iterate would work. */
bool jinja_can_iterate(const value *v);

/* ---- dict.c ---- */

/* TypeError "unhashable type". */
status jinja_hash(machine *m, const value *key, uint32_t *out);
pair *jinja_dict_find(const dict *d, const value *key, uint32_t hash);
pair *jinja_dict_text(const dict *d, const char *key);
status jinja_dict_set(machine *m, dict *d, value key, value v);
/* Adds a key that is not there yet. */
status jinja_dict_append(machine *m, dict *d, value key, value v, uint32_t hash);
status jinja_dict_new(machine *m, size_t capacity, dict **out);
uint32_t jinja_text_hash(const char *text, size_t bytes);
uint32_t jinja_string_hash(string *s);

/* ---- load.c ---- */

/* A variable of the row, the settings, or a function; V_MISSING when there is none. */
struct variable;
status jinja_variable(machine *m, const struct variable *v, value *out);

/* ---- number.c ---- */

enum { SIGN_ADD, SIGN_SUB, SIGN_MUL, SIGN_DIV, SIGN_FLOOR, SIGN_MOD, SIGN_POW };
status jinja_arithmetic(machine *m, int sign, value a, value b, value *out);
status jinja_negate(machine *m, value v, bool minus, value *out);
enum { NUMBER_TEXT = 40 };
/* repr of a float. */
void jinja_real_text(double d, char out[NUMBER_TEXT]);
/* int("..."), float("..."); false: no number. *big: more than 64 bits. */
bool jinja_parse_int(const string *s, int base, int64_t *out, bool *big);
bool jinja_parse_real(const string *s, double *out);

/* ---- attribute.c ---- */

status jinja_getattr(machine *m, value of, string *name, value *out);
status jinja_getitem(machine *m, value of, value key, value *out);
status jinja_slice(machine *m, value of, const value bounds[3], value *out);
/* Binds arguments to a builtin's parameters and calls it. */
status jinja_call_builtin(machine *m, const builtin *b, value self, const arguments *a,
                          value *out);
const builtin *jinja_find_filter(const char *name);
const builtin *jinja_find_test(const char *name);
const function *jinja_find_function(const char *name);
/* A method by type and name; NULL when there is none. */
const builtin *jinja_find_method(const value *of, const char *name);
bool jinja_is_string_method(const builtin *b);
/* Whether no dict has an attribute of that name. */
bool jinja_is_plain_key(const char *name);
status jinja_call(machine *m, value callee, const arguments *a, value *out);

#endif
