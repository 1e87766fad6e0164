/* tree.h: a Parquet schema as the tree that rows are written along, with the levels of each
 * node, by the format's rules for nested types (Dremel's repetition and definition levels) and
 * for lists and maps (LogicalTypes.md, with the older forms that it names).
 *
 *     message { optional group messages (LIST) {        LIST       definition 1, element 2
 *                 repeated group list {
 *                   optional group element {            STRUCT     definition 3, repetition 1
 *                     optional binary role (STRING);    VALUE      definition 4
 *                 } } } }
 *
 * A value's definition level says how far down its path something is there: at least
 * `definition` where the node itself is no null. */
#ifndef NIBBLE_DATA_PARQUET_TREE_H
#define NIBBLE_DATA_PARQUET_TREE_H

#include "common/status.h"
#include "data/parquet/metadata.h"
#include "data/text_buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PARQUET_DEPTH = 40 }; /* nested groups; levels fit a byte */

typedef enum parquet_node_kind {
    NODE_VALUE,
    NODE_STRUCT,
    NODE_LIST, /* one child: the element */
    NODE_PAIR, /* a map's entry: key and value */
} parquet_node_kind;

typedef struct parquet_node {
    parquet_node_kind kind;
    bool optional;
    uint8_t definition;          /* from this level on it is no null */
    uint8_t element, repetition; /* NODE_LIST: from this definition level on it has an element;
                                    the repetition level of all elements but the first */
    size_t leaf, leaves;         /* the columns below */
    size_t child, next;          /* nodes; 0: none */
    size_t key, key_bytes;       /* "name": as JSON, in the tree's keys */
} parquet_node;

typedef struct parquet_leaf {
    const parquet_element *element;
    uint8_t definition, repetition; /* the highest levels */
    char *path;                     /* messages.list.element.role */
} parquet_leaf;

typedef struct parquet_tree {
    parquet_node *nodes; /* the first is the row */
    size_t node_count, node_capacity;
    parquet_leaf *leaves;
    size_t leaf_count, leaf_capacity;
    text_buffer keys;
} parquet_tree;

/* STATUS_DATA for a schema that is broken, too deep, or has a type that is not read (with its
 * name). The tree points into m. */
status parquet_tree_open(parquet_tree *t, const parquet_metadata *m);
void parquet_tree_close(parquet_tree *t);

#endif
