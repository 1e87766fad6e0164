/* resolve.c: which slot a name is, by the rules of jinja2's idtracking.py: a scope that stores
 * a name has a slot for it from its beginning on, branches of an `if` are no scopes, and a name
 * that is only stored in a branch is the outer one where the branch is not taken. */
#include "common/alloc.h"
#include "data/jinja/ast.h"

#include <string.h>

enum { NAMES = 2000 }; /* in one scope */

typedef struct function_slots { /* a function's frame */
    uint32_t count;
    struct function_slots *parent;
} function_slots;

typedef struct slot_name {
    const string *name;
    uint32_t slot;
} slot_name;

/* What scopes of the same place share: their slots. */
typedef struct level {
    function_slots *function;
    slot_name *names;
    size_t count, capacity;
} level;

typedef struct ref {
    const string *name;
    load load; /* slot and what it holds at first */
    bool stored;
} ref;

typedef struct symbols {
    struct symbols *parent;
    level *level;
    ref *refs;
    size_t count, capacity;
} symbols;

typedef struct resolver {
    compiler *c;
    symbols *now;
} resolver;

static bool same_name(const string *a, const string *b) {
    return a->bytes == b->bytes && !memcmp(a->text, b->text, a->bytes);
}

static ref *own_ref(const symbols *s, const string *name) {
    for (size_t i = 0; i < s->count; i++)
        if (same_name(s->refs[i].name, name)) return &s->refs[i];
    return NULL;
}

/* The scope's or an outer one's; *hops functions away. */
static ref *find_ref(const symbols *s, const string *name, uint32_t *hops) {
    const function_slots *from = s ? s->level->function : NULL;
    *hops = 0;
    for (; s; s = s->parent) {
        for (; from != s->level->function; from = from->parent) ++*hops;
        ref *found = own_ref(s, name);
        if (found) return found;
    }
    return NULL;
}

/* The number of a variable of the row. */
static status variable_number(compiler *c, const string *name, uint32_t *out) {
    struct jinja_template *t = c->template;
    for (*out = 0; *out < t->variable_count; ++*out)
        if (same_name(t->variables[*out].name, name)) return STATUS_OK;
    if (mem_grow(&t->variables, &t->variable_capacity, t->variable_count + 1,
                 sizeof *t->variables, "a template"))
        return STATUS_MEMORY;
    t->variables[t->variable_count++] =
        (variable){.name = (string *)name, /* of a node, its hash is computed */
                   .function = jinja_find_function(name->text),
                   .kind = !strcmp(name->text, "messages")                ? VARIABLE_MESSAGES
                           : !strcmp(name->text, "add_generation_prompt") ? VARIABLE_PROMPT
                                                                          : VARIABLE_PLAIN};
    t->date |= !strcmp(name->text, "strftime_now");
    return STATUS_OK;
}

static status slot_of(level *l, const string *name, uint32_t *out) {
    for (size_t i = 0; i < l->count; i++)
        if (same_name(l->names[i].name, name)) {
            *out = l->names[i].slot;
            return STATUS_OK;
        }
    if (mem_grow(&l->names, &l->capacity, l->count + 1, sizeof *l->names, "a template"))
        return STATUS_MEMORY;
    *out = l->function->count++;
    l->names[l->count++] = (slot_name){name, *out};
    return STATUS_OK;
}

static status define(resolver *r, const string *name, load_kind kind, ref **out) {
    symbols *s = r->now;
    ref *entry = own_ref(s, name);
    if (!entry) {
        if (s->count == NAMES)
            return status_fail(r->c->code, "%s: more than %d names in a scope", r->c->where,
                               NAMES);
        if (mem_grow(&s->refs, &s->capacity, s->count + 1, sizeof *s->refs, "a template"))
            return STATUS_MEMORY;
        entry = &s->refs[s->count++];
        *entry = (ref){.name = name};
    }
    TRY(slot_of(s->level, name, &entry->load.slot));
    entry->load.kind = kind;
    *out = entry;
    return STATUS_OK;
}

static status declare_parameter(resolver *r, const string *name) {
    ref *entry;
    TRY(define(r, name, LOAD_PARAMETER, &entry));
    entry->stored = true;
    return STATUS_OK;
}

/* The load of a name that this scope stores, or may store: the outer one's value. */
static bool load_outer(const symbols *s, const string *name, load *l) {
    uint32_t hops = 0;
    const ref *outer = find_ref(s->parent, name, &hops);
    if (!outer) return false;
    if (s->parent->level->function != s->level->function) {
        const function_slots *f = s->level->function;
        for (; f != s->parent->level->function; f = f->parent) hops++;
    }
    l->kind = LOAD_OUTER, l->hops = hops, l->from = outer->load.slot;
    return true;
}

static status store(resolver *r, const string *name) {
    ref *entry = own_ref(r->now, name);
    if (!entry) {
        TRY(define(r, name, LOAD_NOTHING, &entry));
        load_outer(r->now, name, &entry->load);
    }
    entry->stored = true;
    return STATUS_OK;
}

static status use(resolver *r, const string *name) {
    ref *entry;
    uint32_t hops;
    if (find_ref(r->now, name, &hops)) return STATUS_OK;
    TRY(define(r, name, LOAD_VARIABLE, &entry));
    return variable_number(r->c, name, &entry->load.name);
}

/* ---- first walk: what a scope's statements use and store ---- */

static status scan(resolver *r, const node *n);

static status scan_all(resolver *r, node *const *items, size_t count) {
    for (size_t i = 0; i < count; i++) TRY(scan(r, items[i]));
    return STATUS_OK;
}

static status scan_call(resolver *r, const call *k) {
    if (!k) return STATUS_OK;
    TRY(scan_all(r, k->items, k->count));
    TRY(scan_all(r, k->named, k->named_count));
    TRY(scan(r, k->rest));
    return scan(r, k->named_rest);
}

static status scan_target(resolver *r, const node *n, bool parameter) {
    if (n->kind == N_NAMESPACE_TARGET) return use(r, n->a->name);
    if (n->kind == N_NAME)
        return parameter ? declare_parameter(r, n->name) : store(r, n->name);
    for (size_t i = 0; i < n->count; i++) TRY(scan_target(r, n->items[i], parameter));
    return STATUS_OK;
}

static status copy_symbols(const symbols *s, symbols *out) {
    *out = (symbols){.parent = s->parent, .level = s->level};
    if (mem_grow(&out->refs, &out->capacity, s->count + 1, sizeof *s->refs, "a template"))
        return STATUS_MEMORY;
    if (s->count) memcpy(out->refs, s->refs, s->count * sizeof *s->refs);
    out->count = s->count;
    return STATUS_OK;
}

/* Takes a branch's names over; those that it stores first are outer ones where it is not taken. */
static status merge(resolver *r, const symbols *branch, size_t known) {
    symbols *s = r->now;
    for (size_t i = 0; i < branch->count; i++) {
        const ref *from = &branch->refs[i];
        ref *entry;
        bool was_stored = i < known && s->refs[i].stored;
        load l = from->load;
        TRY(define(r, from->name, l.kind, &entry));
        if (from->stored && !was_stored && !load_outer(s, from->name, &l)) {
            l.kind = LOAD_VARIABLE;
            TRY(variable_number(r->c, from->name, &l.name));
        }
        entry->load = l;
        entry->stored |= from->stored;
    }
    return STATUS_OK;
}

static status scan_branches(resolver *r, const node *n, symbols branches[2]) {
    symbols *outer = r->now;
    size_t known = outer->count;
    bool stored[NAMES];
    for (int i = 0; i < 2; i++) {
        TRY(copy_symbols(outer, &branches[i]));
        r->now = &branches[i];
        status s =
            i ? scan_all(r, n->others, n->other_count) : scan_all(r, n->items, n->count);
        r->now = outer;
        TRY(s);
    }
    for (size_t k = 0; k < known; k++) stored[k] = outer->refs[k].stored;
    TRY(merge(r, &branches[0], known));
    for (size_t k = 0; k < known; k++) outer->refs[k].stored = stored[k];
    TRY(merge(r, &branches[1], known));
    for (size_t k = 0; k < known; k++) outer->refs[k].stored |= branches[0].refs[k].stored;
    return STATUS_OK;
}

static status scan_if(resolver *r, const node *n) {
    symbols branches[2] = {0};
    TRY(scan(r, n->a));
    status s = scan_branches(r, n, branches);
    mem_free(branches[0].refs);
    mem_free(branches[1].refs);
    return s;
}

static status scan(resolver *r, const node *n) {
    if (!n) return STATUS_OK;
    switch ((node_kind)n->kind) {
    case N_NAME:
        return use(r, n->name);
    case N_FOR:
        return scan(r, n->b);
    case N_IF:
        return scan_if(r, n);
    case N_SET:
        TRY(scan(r, n->b));
        return scan_target(r, n->a, false);
    case N_SET_BLOCK:
        TRY(scan(r, n->b));
        return scan_target(r, n->a, false);
    case N_MACRO:
        return store(r, n->a->name);
    case N_CALL_BLOCK:
        return scan(r, n->a);
    case N_FILTER_BLOCK:
        return scan(r, n->b);
    case N_WITH:
        for (size_t i = 1; i < n->count; i += 2) TRY(scan(r, n->items[i]));
        return STATUS_OK;
    case N_GENERATION:
        return STATUS_OK;
    default:
        TRY(scan(r, n->a));
        TRY(scan(r, n->b));
        TRY(scan(r, n->c));
        TRY(scan_all(r, n->items, n->count));
        return scan_call(r, n->call);
    }
}

/* ---- second walk: slots, and the scopes inside ---- */

static status bind(resolver *r, node *n);

static status bind_all(resolver *r, node **items, size_t count) {
    for (size_t i = 0; i < count; i++) TRY(bind(r, items[i]));
    return STATUS_OK;
}

static status bind_call(resolver *r, call *k) {
    if (!k) return STATUS_OK;
    TRY(bind_all(r, k->items, k->count));
    TRY(bind_all(r, k->named, k->named_count));
    TRY(bind(r, k->rest));
    return bind(r, k->named_rest);
}

/* The scope's loads, for the evaluator. */
static status seal(resolver *r, scope **out) {
    const symbols *s = r->now;
    scope *made = *out = jinja_compiler_new(r->c, sizeof *made);
    if (!made) return STATUS_MEMORY;
    made->loads = jinja_compiler_new(r->c, (s->count + 1) * sizeof *made->loads);
    if (!made->loads) return STATUS_MEMORY;
    for (size_t i = 0; i < s->count; i++)
        if (s->refs[i].load.kind != LOAD_PARAMETER)
            made->loads[made->count++] = s->refs[i].load;
    return STATUS_OK;
}

typedef struct scope_plan {
    status (*scan)(resolver *r, node *n);
    status (*bind)(resolver *r, node *n);
    scope **out;
} scope_plan;

static status with_scope(resolver *r, node *n, level *l, const scope_plan *plan) {
    symbols inner = {.parent = r->now, .level = l};
    symbols *outer = r->now;
    r->now = &inner;
    status s = plan->scan(r, n);
    if (s == STATUS_OK) s = seal(r, plan->out);
    if (s == STATUS_OK) s = plan->bind(r, n);
    r->now = outer;
    mem_free(inner.refs);
    return s;
}

static status in_new_level(resolver *r, node *n, function_slots *f, const scope_plan *plan) {
    level l = {.function = f ? f : r->now->level->function};
    status s = with_scope(r, n, &l, plan);
    mem_free(l.names);
    return s;
}

static const string loop_name = {.text = "loop", .bytes = 4};

static status scan_loop(resolver *r, node *n) {
    TRY(declare_parameter(r, &loop_name));
    n->loop_slot = own_ref(r->now, &loop_name)->load.slot;
    TRY(scan_target(r, n->a, true));
    return scan_all(r, n->items, n->count);
}
static status bind_loop(resolver *r, node *n) {
    TRY(bind(r, n->a));
    return bind_all(r, n->items, n->count);
}
static status scan_loop_test(resolver *r, node *n) {
    TRY(scan_target(r, n->a, true));
    return scan(r, n->c);
}
static status bind_loop_test(resolver *r, node *n) {
    return bind(r, n->c);
}
static status scan_others(resolver *r, node *n) {
    return scan_all(r, n->others, n->other_count);
}
static status bind_others(resolver *r, node *n) {
    return bind_all(r, n->others, n->other_count);
}
static status scan_items(resolver *r, node *n) {
    return scan_all(r, n->items, n->count);
}
static status bind_items(resolver *r, node *n) {
    return bind_all(r, n->items, n->count);
}

static status check_loop_target(const resolver *r, const node *n) {
    if (n->kind == N_NAME && same_name(n->name, &loop_name))
        return jinja_syntax(r->c, n->line, n->column,
                            "Can't assign to special loop variable in for-loop");
    for (size_t i = 0; i < n->count; i++) TRY(check_loop_target(r, n->items[i]));
    return STATUS_OK;
}

static status bind_for(resolver *r, node *n) {
    function_slots own = {.parent = r->now->level->function};
    level l = {.function = n->sign ? &own : own.parent};
    TRY(check_loop_target(r, n->a));
    TRY(bind(r, n->b));
    status s = with_scope(r, n, &l, &(scope_plan){scan_loop, bind_loop, &n->scope});
    if (s == STATUS_OK && n->c)
        s = with_scope(r, n, &l,
                       &(scope_plan){scan_loop_test, bind_loop_test, &n->test_scope});
    mem_free(l.names);
    if (s == STATUS_OK && n->other_count)
        s = in_new_level(r, n, l.function,
                         &(scope_plan){scan_others, bind_others, &n->else_scope});
    n->slots = own.count;
    return s;
}

/* Whether `name` is used somewhere in there. */
static bool mentions(const node *n, const char *name);

static bool any_mentions(node *const *items, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (mentions(items[i], name)) return true;
    return false;
}

static bool mentions(const node *n, const char *name) {
    if (!n) return false;
    if (n->kind == N_NAME) return !strcmp(n->name->text, name);
    const call *k = n->call;
    bool function = n->kind == N_MACRO || n->kind == N_CALL_BLOCK;
    return mentions(n->a, name) || mentions(n->b, name) || mentions(n->c, name) ||
           any_mentions(n->items, n->count, name) ||
           any_mentions(n->others, n->other_count, name) ||
           (function && any_mentions(n->function->items, n->function->item_count, name)) ||
           (k && (any_mentions(k->items, k->count, name) ||
                  any_mentions(k->named, k->named_count, name) || mentions(k->rest, name) ||
                  mentions(k->named_rest, name)));
}

static status scan_function(resolver *r, node *n) {
    static const string specials[] = {{.text = "caller", .bytes = 6},
                                      {.text = "kwargs", .bytes = 6},
                                      {.text = "varargs", .bytes = 7}};
    function_body *f = n->function;
    int64_t *slots[] = {&f->caller, &f->kwargs, &f->varargs};
    for (size_t i = 0; i < f->count; i++) TRY(declare_parameter(r, f->parameters[i]->name));
    for (int i = 0; i < 3; i++) {
        *slots[i] = -1;
        if (own_ref(r->now, &specials[i]) ||
            !any_mentions(f->items, f->item_count, specials[i].text))
            continue;
        TRY(declare_parameter(r, &specials[i]));
        *slots[i] = own_ref(r->now, &specials[i])->load.slot;
    }
    TRY(scan_all(r, f->defaults, f->default_count));
    return scan_all(r, f->items, f->item_count);
}

static status bind_function_body(resolver *r, node *n) {
    function_body *f = n->function;
    TRY(bind_all(r, f->parameters, f->count));
    TRY(bind_all(r, f->defaults, f->default_count));
    return bind_all(r, f->items, f->item_count);
}

static status bind_function(resolver *r, node *n) {
    function_slots own = {.parent = r->now->level->function};
    TRY(bind(r, n->a)); /* a macro's name, a call block's call */
    TRY(in_new_level(r, n, &own,
                     &(scope_plan){scan_function, bind_function_body, &n->function->scope}));
    n->function->slots = own.count;
    return STATUS_OK;
}

static status scan_with(resolver *r, node *n) {
    for (size_t i = 0; i < n->count; i += 2) TRY(scan_target(r, n->items[i], true));
    return scan_others(r, n);
}

static status bind_with(resolver *r, node *n) {
    for (size_t i = 0; i < n->count; i += 2) TRY(bind(r, n->items[i]));
    return bind_others(r, n);
}

static status bind(resolver *r, node *n) {
    if (!n) return STATUS_OK;
    scope_plan plan = {scan_items, bind_items, &n->scope};
    switch ((node_kind)n->kind) {
    case N_NAME: {
        const ref *found = find_ref(r->now, n->name, &n->hops);
        if (!found) return status_fail(STATUS_INTERNAL, "a name without a slot");
        n->slot = found->load.slot;
        return STATUS_OK;
    }
    case N_FOR:
        return bind_for(r, n);
    case N_MACRO:
    case N_CALL_BLOCK:
        return bind_function(r, n);
    case N_SET_BLOCK:
    case N_FILTER_BLOCK: /* the filter's arguments are of the scope outside */
        TRY(bind(r, n->a));
        TRY(bind(r, n->b));
        return in_new_level(r, n, NULL, &plan);
    case N_GENERATION:
        return in_new_level(r, n, NULL, &plan);
    case N_WITH:
        for (size_t i = 1; i < n->count; i += 2) TRY(bind(r, n->items[i]));
        return in_new_level(r, n, NULL, &(scope_plan){scan_with, bind_with, &n->scope});
    default:
        TRY(bind(r, n->a));
        TRY(bind(r, n->b));
        TRY(bind(r, n->c));
        TRY(bind_all(r, n->items, n->count));
        TRY(bind_all(r, n->others, n->other_count));
        return bind_call(r, n->call);
    }
}

status jinja_resolve(compiler *c) {
    struct jinja_template *t = c->template;
    function_slots root = {0};
    level l = {.function = &root};
    symbols all = {.level = &l};
    resolver r = {.c = c, .now = &all};
    status s = scan_all(&r, t->items, t->count);
    if (s == STATUS_OK) s = seal(&r, &t->scope);
    if (s == STATUS_OK) s = bind_all(&r, t->items, t->count);
    t->slots = root.count;
    mem_free(all.refs);
    mem_free(l.names);
    return s;
}
