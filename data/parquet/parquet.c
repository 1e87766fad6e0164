/* parquet.c: see parquet.h. A row is written along the tree: each node looks at the levels of
 * the first column below it and decides whether it is null, how many elements it has, and
 * passes on to its children, which take one value of each column or, where there is nothing,
 * one null. That all columns tell the same story is checked at each of them, since the file
 * may lie. */
#include "data/parquet/parquet.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "data/parquet/column.h"
#include "data/parquet/render.h"
#include "data/parquet/tree.h"

#include <string.h>

enum { MEMORY_LEAST = 64 << 20, MEMORY_MOST = 1 << 30, MEMORY_TIMES = 64 };

typedef struct parquet_reader {
    record_reader base;
    file f;
    parquet_metadata metadata;
    parquet_tree tree;
    parquet_source source;
    parquet_column *columns; /* [tree.leaf_count] */
    size_t group;            /* the next row group */
    int64_t left;            /* rows of the present one */
    int64_t index;
    text_buffer row;
} parquet_reader;

/* ---- one row ---- */

static status write_node(parquet_reader *r, size_t node, unsigned repetition);

/* The levels of the next value of a column, which must be there and begin at `repetition`. */
static status look(parquet_column *c, unsigned repetition, unsigned *definition) {
    TRY(parquet_column_fill(c));
    if (c->next == c->count)
        return parquet_column_fail(c, "it ends before the row group does");
    if (c->repetition[c->next] != repetition)
        return parquet_column_fail(c, "its lists have other lengths than those of its group");
    *definition = c->definition[c->next];
    return STATUS_OK;
}

/* Nothing is here: all columns below say so, with the same level. */
static status take_nothing(parquet_reader *r, const parquet_node *n, unsigned repetition,
                           unsigned definition) {
    for (size_t i = n->leaf; i < n->leaf + n->leaves; i++) {
        unsigned d = 0;
        TRY(look(&r->columns[i], repetition, &d));
        if (d != definition)
            return parquet_column_fail(&r->columns[i],
                                       "it has no null where its group has one");
        r->columns[i].next++;
    }
    return STATUS_OK;
}

static status write_leaf(parquet_reader *r, const parquet_node *n) {
    parquet_column *c = &r->columns[n->leaf];
    parquet_value value;
    TRY(parquet_column_value(c, &value));
    c->next++;
    return parquet_column_place(c, render_value(c->leaf->element, &value, &r->row));
}

static status write_fields(parquet_reader *r, const parquet_node *n, unsigned repetition) {
    bool pair = n->kind == NODE_PAIR;
    const char *before = pair ? "[" : "{";
    for (size_t child = n->child; child; before = ",") {
        const parquet_node *field = &r->tree.nodes[child];
        TRY(text_append(&r->row, before, 1));
        if (!pair) TRY(text_append(&r->row, r->tree.keys.data + field->key, field->key_bytes));
        TRY(write_node(r, child, repetition));
        child = field->next;
    }
    return text_append(&r->row, pair ? "]" : "}", 1);
}

static status write_elements(parquet_reader *r, const parquet_node *n, unsigned repetition) {
    parquet_column *first = &r->columns[n->leaf];
    const char *before = "[";
    for (bool more = true; more; before = ",") {
        TRY(text_append(&r->row, before, 1));
        TRY(write_node(r, n->child, repetition));
        if (r->row.bytes > r->source.limit || r->row.bytes > RECORD_LIMIT)
            return parquet_column_fail(first, "a row that wants more memory than the file can "
                                              "justify");
        TRY(parquet_column_fill(first));
        repetition = n->repetition;
        more = first->next < first->count && first->repetition[first->next] == repetition;
    }
    return text_append(&r->row, "]", 1);
}

/* The node's value; `repetition`: that of the values that it begins with. */
static status write_node(parquet_reader *r, size_t node, unsigned repetition) {
    const parquet_node *n = &r->tree.nodes[node];
    unsigned definition = 0;
    TRY(look(&r->columns[n->leaf], repetition, &definition));
    if (n->optional && definition + 1 == n->definition) {
        TRY(text_append(&r->row, "null", 4));
        return take_nothing(r, n, repetition, definition);
    }
    if (definition < n->definition)
        return parquet_column_fail(&r->columns[n->leaf],
                                   "it has a null where its group has none");
    switch (n->kind) {
    case NODE_VALUE:
        return write_leaf(r, n);
    case NODE_LIST:
        if (definition >= n->element) return write_elements(r, n, repetition);
        TRY(text_append(&r->row, "[]", 2));
        return take_nothing(r, n, repetition, definition);
    default:
        return write_fields(r, n, repetition);
    }
}

/* ---- row groups ---- */

static status start_group(parquet_reader *r, size_t group) {
    const parquet_group *g = &r->metadata.groups[group];
    if (g->chunks != r->tree.leaf_count)
        return status_fail(STATUS_DATA, "row group %zu has %zu columns, the schema %zu",
                           group + 1, g->chunks, r->tree.leaf_count);
    for (size_t i = 0; i < g->chunks; i++)
        TRY(parquet_column_start(&r->columns[i], &r->metadata.chunks[g->chunk + i], group));
    r->left = g->rows;
    return STATUS_OK;
}

/* After the last row of a group no column may have a value. */
static status end_group(parquet_reader *r) {
    for (size_t i = 0; i < r->tree.leaf_count; i++) {
        TRY(parquet_column_fill(&r->columns[i]));
        if (r->columns[i].next < r->columns[i].count)
            return parquet_column_fail(&r->columns[i], "it has more rows than the row group");
    }
    return STATUS_OK;
}

static status named(const parquet_reader *r, status s) {
    return s == STATUS_DATA ? status_prefix(s, "%s", r->f.path) : s;
}

/* ---- the reader ---- */

static status next_row(parquet_reader *r) {
    while (!r->left && r->group < r->metadata.group_count) TRY(start_group(r, r->group++));
    r->row.bytes = 0;
    if (!r->left) return STATUS_OK;
    TRY(write_node(r, 0, 0));
    return --r->left ? STATUS_OK : end_group(r);
}

static status parquet_next(record_reader *base, data_record *out) {
    parquet_reader *r = (parquet_reader *)base;
    TRY(named(r, next_row(r)));
    if (!r->row.bytes) return STATUS_OK;
    *out = (data_record){.text = r->row.data,
                         .bytes = r->row.bytes,
                         .index = r->index,
                         .line = r->index + 1,
                         .column = 1};
    r->index++;
    return STATUS_OK;
}

static status skip_in_group(parquet_reader *r, int64_t rows) {
    for (size_t i = 0; i < r->tree.leaf_count; i++)
        TRY(parquet_column_skip(&r->columns[i], rows));
    r->left -= rows;
    return r->left ? STATUS_OK : end_group(r);
}

static status skip_rows(parquet_reader *r, int64_t rows, int64_t *passed) {
    while (*passed < rows) {
        bool fresh = !r->left;
        if (fresh && r->group == r->metadata.group_count) break;
        int64_t there = fresh ? r->metadata.groups[r->group].rows : r->left;
        int64_t n = min_i64(rows - *passed, there);
        if (fresh && n == there) /* not even opened */
            r->group++;
        else {
            if (fresh) TRY(start_group(r, r->group++));
            TRY(skip_in_group(r, n));
        }
        r->index += n;
        *passed += n;
    }
    return STATUS_OK;
}

static status parquet_skip(record_reader *base, int64_t rows, int64_t *passed) {
    parquet_reader *r = (parquet_reader *)base;
    return named(r, skip_rows(r, rows, passed));
}

static status parquet_count(record_reader *base, int64_t *rows) {
    *rows = ((parquet_reader *)base)->metadata.rows;
    return STATUS_OK;
}

static void parquet_close(record_reader *base) {
    parquet_reader *r = (parquet_reader *)base;
    for (size_t i = 0; r->columns && i < r->tree.leaf_count; i++)
        parquet_column_close(&r->columns[i]);
    mem_free(r->columns);
    mem_free(r->source.packed.data);
    mem_free(r->row.data);
    parquet_tree_close(&r->tree);
    parquet_metadata_free(&r->metadata);
    file_close(&r->f);
    mem_free(r);
}

static const record_kind parquet_kind = {false, parquet_next, parquet_skip, parquet_count,
                                         parquet_close};

static status begin(parquet_reader *r) {
    TRY(parquet_metadata_read(&r->metadata, &r->f));
    TRY(named(r, parquet_tree_open(&r->tree, &r->metadata)));
    int64_t times = min_i64(r->f.size, MEMORY_MOST / MEMORY_TIMES) * MEMORY_TIMES;
    r->source = (parquet_source){.f = &r->f,
                                 .data_end = r->metadata.data_end,
                                 .limit = (size_t)min_i64(MEMORY_LEAST + times, MEMORY_MOST)};
    r->columns =
        mem_alloc_array(r->tree.leaf_count, sizeof *r->columns, "columns of a Parquet file");
    if (!r->columns) return STATUS_MEMORY;
    for (size_t i = 0; i < r->tree.leaf_count; i++)
        parquet_column_open(&r->columns[i], &r->source, &r->tree.leaves[i]);
    return STATUS_OK;
}

status record_parquet_open(record_reader **out, file *f) {
    parquet_reader *r = mem_alloc(sizeof *r, "a data file");
    if (!r) {
        file_close(f);
        return STATUS_MEMORY;
    }
    r->base.kind = &parquet_kind;
    r->f = *f;
    status s = begin(r);
    if (s != STATUS_OK)
        parquet_close(&r->base);
    else
        *out = &r->base;
    return s;
}
