/* yaml.h: a configuration file, or the head of a dataset's card, as a tree of maps, lists and
 * scalars, not yet typed.
 *
 * The subset that a configuration needs, and nothing that lets a small file mean a large one:
 * anchors, aliases, tags, merge keys, several documents, duplicate keys, keys that are not
 * plain text, more than TREE_DEPTH levels, TREE_NODES values, TREE_KEYS keys in a map or
 * TREE_FILE bytes are refused with file:line:column, within milliseconds. Whether `no` is text
 * or false, and 1e-4 text or a number, is decided by who reads the scalar (values.h), not
 * here. */
#ifndef NIBBLE_DATA_YAML_H
#define NIBBLE_DATA_YAML_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TREE_FILE = 1 << 20, /* bytes */
    TREE_DEPTH = 32,
    TREE_NODES = 10000,
    TREE_KEYS = 1000,
};

typedef enum tree_shape { SHAPE_SCALAR, SHAPE_LIST, SHAPE_MAP } tree_shape;

typedef struct tree_node {
    tree_shape shape;
    bool plain;       /* a scalar without quotes, or an absent one */
    int line, column; /* from 1; line 0: the command line */
    uint32_t hash;    /* of the key */
    const char *key;  /* in a map, else NULL */
    const char *text; /* of a scalar */
    size_t count;     /* children */
    struct tree_node *first, *last, *next;
} tree_node;

/* Reads a file, whose top level must be a map. STATUS_USAGE for everything wrong with it. */
status tree_read_file(const char *path, tree_node **root);

/* Reads text of any shape; `name` stands for the file in messages. */
status tree_read_text(const char *text, size_t bytes, const char *name, tree_node **root);

/* Sets `a.b.c=value` in a tree: maps on the way are made, numbers select a list's item (the
 * number after the last appends). A value that begins with [ { " or ' is read as YAML, any
 * other is a plain scalar; an empty one means not set. */
status tree_override(tree_node *root, const char *assignment);

/* An empty map to put overrides into. NULL when out of memory. */
tree_node *tree_empty(void);

tree_node *tree_get(const tree_node *map, const char *key); /* NULL when absent */

/* Nothing, ~, null or an empty string: the key counts as not set. */
bool tree_is_unset(const tree_node *node);

/* "FILE:LINE:COLUMN" or "command line". */
enum { TREE_WHERE = 512 };
void tree_where(const tree_node *node, const char *name, char out[TREE_WHERE]);

void tree_free(tree_node *root); /* NULL is fine */

#endif
