/* tree.c: see tree.h. */
#include "data/parquet/tree.h"
#include "common/alloc.h"
#include "data/json_text.h"
#include "data/parquet/render.h"

#include <string.h>

enum { PATH_SHOWN = 200 }; /* bytes of a column's path, for messages */

/* The walk through the elements, which come parents first. */
typedef struct walk {
    parquet_tree *t;
    const parquet_metadata *m;
    size_t at;        /* the next element */
    int depth;        /* groups around it */
    text_buffer path; /* of the element, dots between names */
} walk;

/* What a node is under: levels so far. */
typedef struct levels {
    uint8_t definition, repetition;
} levels;

static status broken(const char *what) {
    return status_fail(STATUS_DATA, "its Parquet schema is broken: %s", what);
}

/* ---- nodes ---- */

static status add_node(walk *w, parquet_node_kind kind, const parquet_element *e, levels at,
                       size_t *out) {
    parquet_tree *t = w->t;
    if (mem_grow(&t->nodes, &t->node_capacity, t->node_count + 1, sizeof *t->nodes,
                 "a Parquet schema"))
        return STATUS_MEMORY;
    size_t key = t->keys.bytes;
    TRY(json_text_string(&t->keys, e->name, e->name_bytes));
    TRY(text_append(&t->keys, ":", 1));
    *out = t->node_count++;
    t->nodes[*out] = (parquet_node){.kind = kind,
                                    .definition = at.definition,
                                    .leaf = t->leaf_count,
                                    .key = key,
                                    .key_bytes = t->keys.bytes - key};
    return STATUS_OK;
}

static status add_leaf(walk *w, const parquet_element *e, levels at) {
    parquet_tree *t = w->t;
    if (mem_grow(&t->leaves, &t->leaf_capacity, t->leaf_count + 1, sizeof *t->leaves,
                 "a Parquet schema"))
        return STATUS_MEMORY;
    size_t shown = w->path.bytes < PATH_SHOWN ? w->path.bytes : PATH_SHOWN;
    char *path = mem_strndup(w->path.data, shown);
    if (!path) return STATUS_MEMORY;
    t->leaves[t->leaf_count++] = (parquet_leaf){e, at.definition, at.repetition, path};
    status s = render_check(e);
    return s == STATUS_OK ? s : status_prefix(s, "the column `%s`", path);
}

/* ---- reading elements ---- */

static const parquet_element *peek(const walk *w) {
    return w->at < w->m->element_count ? &w->m->elements[w->at] : NULL;
}

static status read_node(walk *w, levels at, bool repeated_is_list, size_t *out);

/* The fields of a struct, as children of `parent`. */
static status read_children(walk *w, size_t parent, int64_t count, levels at) {
    size_t last = 0;
    for (int64_t i = 0; i < count; i++) {
        size_t child = 0;
        TRY(read_node(w, at, true, &child));
        if (last)
            w->t->nodes[last].next = child;
        else
            w->t->nodes[parent].child = child;
        last = child;
    }
    return STATUS_OK;
}

static bool name_is(const parquet_element *e, const char *name) {
    return e->name_bytes == strlen(name) && !memcmp(e->name, name, e->name_bytes);
}

/* LIST's rules for the repeated field below it: whether it is the element itself, or a group
 * around the element. */
static bool is_element(const parquet_element *list, const parquet_element *repeated,
                       const parquet_element *below) {
    if (repeated->type != PARQUET_GROUP || repeated->children != 1) return true;
    if (below && below->repetition == PARQUET_REPEATED) return true;
    size_t n = list->name_bytes;
    bool tuple = repeated->name_bytes == n + 6 && !memcmp(repeated->name, list->name, n) &&
                 !memcmp(repeated->name + n, "_tuple", 6);
    return name_is(repeated, "array") || tuple;
}

static status enter(walk *w, const parquet_element *e, size_t *path_bytes) {
    *path_bytes = w->path.bytes;
    if (++w->depth > PARQUET_DEPTH)
        return status_fail(STATUS_DATA, "its Parquet schema nests deeper than %d groups",
                           PARQUET_DEPTH);
    if (w->path.bytes) TRY(text_append(&w->path, ".", 1));
    return text_append(&w->path, e->name, e->name_bytes);
}

static void leave(walk *w, size_t path_bytes) {
    w->path.bytes = path_bytes;
    w->depth--;
}

/* A group of one repeated field: a list or a map. The levels are the group's own. */
static status read_list(walk *w, const parquet_element *e, levels at, size_t node) {
    const parquet_element *repeated = peek(w);
    if (e->children != 1 || !repeated || repeated->repetition != PARQUET_REPEATED)
        return broken("a list or map without its one repeated field");
    bool map = e->logical == LOGICAL_MAP;
    const parquet_element *below = w->at + 1 < w->m->element_count ? repeated + 1 : NULL;
    levels inside = {(uint8_t)(at.definition + 1), (uint8_t)(at.repetition + 1)};
    size_t child = 0, path_bytes = 0;
    w->t->nodes[node].element = inside.definition;
    w->t->nodes[node].repetition = inside.repetition;
    if (!map && is_element(e, repeated, below)) {
        TRY(read_node(w, inside, false, &child));
    } else {
        TRY(enter(w, repeated, &path_bytes));
        w->at++;
        if (map && (repeated->type != PARQUET_GROUP || repeated->children < 1 ||
                    repeated->children > 2))
            return broken("a map whose entries are no key and value");
        if (map) {
            TRY(add_node(w, NODE_PAIR, repeated, inside, &child));
            TRY(read_children(w, child, repeated->children, inside));
            w->t->nodes[child].leaves = w->t->leaf_count - w->t->nodes[child].leaf;
        } else
            TRY(read_node(w, inside, true, &child));
        leave(w, path_bytes);
    }
    w->t->nodes[node].child = child;
    return STATUS_OK;
}

/* A value or a group, whose repetition has been dealt with. */
static status read_plain(walk *w, const parquet_element *e, levels at, size_t *out) {
    size_t path_bytes = 0;
    TRY(enter(w, e, &path_bytes));
    w->at++;
    if (e->type != PARQUET_GROUP) {
        TRY(add_node(w, NODE_VALUE, e, at, out));
        TRY(add_leaf(w, e, at));
    } else if (e->logical == LOGICAL_LIST || e->logical == LOGICAL_MAP) {
        TRY(add_node(w, NODE_LIST, e, at, out));
        TRY(read_list(w, e, at, *out));
    } else if (e->logical == LOGICAL_VARIANT) {
        return status_fail(STATUS_DATA, "the column `%.*s` is a VARIANT, which is not read",
                           (int)w->path.bytes, w->path.data);
    } else {
        if (e->children < 1) return broken("a group without fields");
        TRY(add_node(w, NODE_STRUCT, e, at, out));
        TRY(read_children(w, *out, e->children, at));
    }
    w->t->nodes[*out].leaves = w->t->leaf_count - w->t->nodes[*out].leaf;
    leave(w, path_bytes);
    return STATUS_OK;
}

/* The next element with all below it. A repeated one is a list that is never null, unless its
 * parent is the list (`repeated_is_list` false). */
static status read_node(walk *w, levels at, bool repeated_is_list, size_t *out) {
    const parquet_element *e = peek(w);
    if (!e) return broken("fields are missing");
    if (e->repetition < PARQUET_REQUIRED || e->repetition > PARQUET_REPEATED ||
        e->type < PARQUET_GROUP || e->type >= PARQUET_TYPES)
        return broken("a field of no known type");
    if (e->repetition == PARQUET_REPEATED && repeated_is_list) {
        TRY(add_node(w, NODE_LIST, e, at, out));
        levels inside = {(uint8_t)(at.definition + 1), (uint8_t)(at.repetition + 1)};
        size_t child = 0;
        TRY(read_plain(w, e, inside, &child));
        parquet_node *n = &w->t->nodes[*out];
        n->element = inside.definition, n->repetition = inside.repetition;
        n->child = child;
        n->leaves = w->t->leaf_count - n->leaf;
        return STATUS_OK;
    }
    at.definition = (uint8_t)(at.definition + (e->repetition == PARQUET_OPTIONAL));
    TRY(read_plain(w, e, at, out));
    w->t->nodes[*out].optional = e->repetition == PARQUET_OPTIONAL;
    return STATUS_OK;
}

static status read_tree(walk *w) {
    const parquet_element *root = peek(w);
    size_t row = 0;
    if (!root || root->type != PARQUET_GROUP) return broken("it has no columns");
    w->at++;
    TRY(add_node(w, NODE_STRUCT, root, (levels){0, 0}, &row));
    TRY(read_children(w, row, root->children, (levels){0, 0}));
    w->t->nodes[row].leaves = w->t->leaf_count;
    if (!w->t->leaf_count) return broken("it has no columns");
    if (w->at != w->m->element_count) return broken("it has fields that belong to no group");
    return STATUS_OK;
}

status parquet_tree_open(parquet_tree *t, const parquet_metadata *m) {
    memset(t, 0, sizeof *t);
    walk w = {.t = t, .m = m};
    status s = read_tree(&w);
    mem_free(w.path.data);
    if (s != STATUS_OK) parquet_tree_close(t);
    return s;
}

void parquet_tree_close(parquet_tree *t) {
    for (size_t i = 0; i < t->leaf_count; i++) mem_free(t->leaves[i].path);
    mem_free(t->nodes);
    mem_free(t->leaves);
    mem_free(t->keys.data);
    memset(t, 0, sizeof *t);
}
