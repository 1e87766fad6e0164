/* yaml.c: libyaml's events into a bounded tree, and command-line overrides into the same tree.
 */
#include "data/yaml.h"

#include "common/alloc.h"
#include "common/file.h"
#include "data/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* A node owns its key and text: they lie behind it in the same block. */
static tree_node *new_node(tree_shape shape, const char *key, const char *words,
                           size_t length) {
    size_t key_bytes = key ? strlen(key) + 1 : 0;
    tree_node *node = mem_alloc(sizeof *node + key_bytes + length + 1, "configuration");
    if (!node) return NULL;
    char *tail = (char *)(node + 1);
    node->shape = shape;
    node->plain = true;
    if (key) {
        node->key = memcpy(tail, key, key_bytes);
        node->hash = 2166136261u;
        for (const char *p = key; *p; p++)
            node->hash = (node->hash ^ (unsigned char)*p) * 16777619u;
    }
    if (shape == SHAPE_SCALAR) {
        node->text = tail + key_bytes;
        if (length) memcpy(tail + key_bytes, words, length);
    }
    return node;
}

tree_node *tree_empty(void) {
    return new_node(SHAPE_MAP, NULL, NULL, 0);
}

void tree_free(tree_node *root) {
    if (!root) return;
    for (tree_node *child = root->first, *next; child; child = next) {
        next = child->next;
        tree_free(child);
    }
    mem_free(root);
}

static void append(tree_node *parent, tree_node *child) {
    if (parent->last)
        parent->last->next = child;
    else
        parent->first = child;
    parent->last = child;
    parent->count++;
}

tree_node *tree_get(const tree_node *map, const char *key) {
    if (!map || map->shape != SHAPE_MAP) return NULL;
    for (tree_node *child = map->first; child; child = child->next)
        if (!strcmp(child->key, key)) return child;
    return NULL;
}

bool tree_is_unset(const tree_node *node) {
    static const char *const nothing[] = {"", "~", "null", "Null", "NULL"};
    if (!node) return true;
    if (node->shape != SHAPE_SCALAR) return false;
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++)
        if (!strcmp(node->text, nothing[i])) return i == 0 || node->plain;
    return false;
}

void tree_where(const tree_node *node, const char *name, char out[TREE_WHERE]) {
    if (node->line)
        snprintf(out, TREE_WHERE, "%.400s:%d:%d", name, node->line, node->column);
    else
        snprintf(out, TREE_WHERE, "command line");
}

/* Building. The open maps and lists form a stack; in a map a key waits for its value. */
typedef struct builder {
    yaml_parser_t parser;
    const char *name;
    const char *text; /* for a better message about tabs */
    size_t bytes;
    tree_node *root;
    tree_node *open[TREE_DEPTH];
    char *key[TREE_DEPTH]; /* the key that waits in open[i], or NULL */
    int depth;
    int nodes, documents;
} builder;

static status refuse(const builder *b, yaml_mark_t at, const char *why) {
    return status_fail(STATUS_USAGE, "%s:%zu:%zu: %s", b->name, at.line + 1, at.column + 1,
                       why);
}

static tree_node *find_key(const tree_node *map, const char *key) {
    tree_node probe = {.hash = 2166136261u};
    for (const char *p = key; *p; p++)
        probe.hash = (probe.hash ^ (unsigned char)*p) * 16777619u;
    for (tree_node *child = map->first; child; child = child->next)
        if (child->hash == probe.hash && !strcmp(child->key, key)) return child;
    return NULL;
}

static status take_key(builder *b, const yaml_event_t *e) {
    tree_node *map = b->open[b->depth - 1];
    if (e->type != YAML_SCALAR_EVENT)
        return refuse(b, e->start_mark, "a key must be a plain word");
    const char *key = (const char *)e->data.scalar.value;
    if (!*key || strlen(key) != e->data.scalar.length)
        return refuse(b, e->start_mark, "a key must be a plain word");
    if (!strcmp(key, "<<"))
        return refuse(b, e->start_mark, "merge keys (<<) are not read: write the keys out");
    if (map->count >= TREE_KEYS)
        return refuse(b, e->start_mark, "more than 1000 keys in one map");
    const tree_node *twin = find_key(map, key);
    if (twin)
        return status_fail(
            STATUS_USAGE,
            "%s:%zu:%zu: %s is set twice, first in line %d: remove one of the two", b->name,
            e->start_mark.line + 1, e->start_mark.column + 1, key, twin->line);
    b->key[b->depth - 1] = mem_strdup(key);
    return b->key[b->depth - 1] ? STATUS_OK : STATUS_MEMORY;
}

/* Puts a fresh node under the innermost open one, or makes it the root. */
static status place(builder *b, tree_shape shape, const yaml_event_t *e) {
    bool scalar = shape == SHAPE_SCALAR;
    const char *words = scalar ? (const char *)e->data.scalar.value : NULL;
    size_t length = scalar ? e->data.scalar.length : 0;
    if (length && memchr(words, 0, length))
        return refuse(b, e->start_mark, "a NUL in a value");
    if (++b->nodes > TREE_NODES)
        return refuse(b, e->start_mark, "more than 10000 values in one file");
    char **key = b->depth ? &b->key[b->depth - 1] : NULL;
    tree_node *node = new_node(shape, key ? *key : NULL, words, length);
    if (!node) return STATUS_MEMORY;
    node->plain = !scalar || e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->line = (int)e->start_mark.line + 1;
    node->column = (int)e->start_mark.column + 1;
    if (key) {
        mem_free(*key);
        *key = NULL;
        append(b->open[b->depth - 1], node);
    } else
        b->root = node;
    if (scalar) return STATUS_OK;
    if (b->depth == TREE_DEPTH)
        return refuse(b, e->start_mark, "nested more than 32 levels deep");
    b->open[b->depth++] = node;
    return STATUS_OK;
}

/* What a value may not carry. */
static status check_plain(const builder *b, const yaml_event_t *e) {
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_SCALAR_EVENT) anchor = e->data.scalar.anchor, tag = e->data.scalar.tag;
    if (e->type == YAML_SEQUENCE_START_EVENT)
        anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag;
    if (e->type == YAML_MAPPING_START_EVENT)
        anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag;
    if (e->type == YAML_ALIAS_EVENT || anchor)
        return refuse(
            b, e->start_mark,
            "anchors and aliases (& and *) are not read: write the value out, or put a "
            "text that begins so in quotes");
    if (tag)
        return refuse(
            b, e->start_mark,
            "tags (!) are not read: remove it, or put a text that begins so in quotes");
    return STATUS_OK;
}

static status take_event(builder *b, const yaml_event_t *e) {
    switch (e->type) {
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        return STATUS_OK;
    case YAML_DOCUMENT_START_EVENT:
        if (b->documents++ == 0) return STATUS_OK;
        return refuse(b, e->start_mark, "a second document (---): only one is read");
    case YAML_MAPPING_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        b->depth--;
        return STATUS_OK;
    default:
        break;
    }
    TRY(check_plain(b, e));
    if (b->depth && b->open[b->depth - 1]->shape == SHAPE_MAP && !b->key[b->depth - 1])
        return take_key(b, e);
    if (e->type == YAML_MAPPING_START_EVENT) return place(b, SHAPE_MAP, e);
    if (e->type == YAML_SEQUENCE_START_EVENT) return place(b, SHAPE_LIST, e);
    return place(b, SHAPE_SCALAR, e);
}

/* Bytes that are no text: an older Windows encoding, most often. */
static status unreadable(const builder *b, size_t at) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < b->bytes; i++) {
        column++;
        if (b->text[i] == '\n') line++, column = 1;
    }
    return status_fail(STATUS_USAGE,
                       "%s:%zu:%zu: byte 0x%02x is not UTF-8 text (a Windows encoding?): save "
                       "the file as UTF-8",
                       b->name, line, column, at < b->bytes ? (unsigned char)b->text[at] : 0);
}

/* libyaml's complaint, in the words of who wrote the file. */
static status syntax_error(const builder *b) {
    const yaml_parser_t *p = &b->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return status_fail(STATUS_MEMORY, "%s: out of memory while reading", b->name);
    if (p->error == YAML_READER_ERROR) return unreadable(b, p->problem_offset);
    size_t at =
        p->problem_mark.index; /* in characters: right for the ASCII that counts here */
    if (at < b->bytes && b->text[at] == '\t')
        return refuse(b, p->problem_mark, "a tab where YAML wants spaces");
    return status_fail(STATUS_USAGE, "%s:%zu:%zu: not valid YAML: %s%s%s", b->name,
                       p->problem_mark.line + 1, p->problem_mark.column + 1,
                       p->context ? p->context : "", p->context ? ", " : "", p->problem);
}

static status build(builder *b) {
    for (bool end = false; !end;) {
        yaml_event_t e;
        if (!yaml_parser_parse(&b->parser, &e)) return syntax_error(b);
        end = e.type == YAML_STREAM_END_EVENT;
        status s = take_event(b, &e);
        yaml_event_delete(&e);
        TRY(s);
    }
    return STATUS_OK;
}

status tree_read_text(const char *words, size_t bytes, const char *name, tree_node **root) {
    *root = NULL;
    if (bytes >= 2 && (!memcmp(words, "\xff\xfe", 2) || !memcmp(words, "\xfe\xff", 2)))
        return status_fail(STATUS_USAGE, "%s: UTF-16 text: save it as UTF-8", name);
    if (bytes >= 3 && !memcmp(words, "\xef\xbb\xbf", 3)) words += 3, bytes -= 3;
    const char *nul = bytes ? memchr(words, 0, bytes) : NULL;
    if (nul)
        return status_fail(STATUS_USAGE, "%s: a NUL at byte %td: not a text file", name,
                           nul - words);
    builder b = {.name = name, .text = words, .bytes = bytes};
    if (!yaml_parser_initialize(&b.parser))
        return status_fail(STATUS_MEMORY, "%s: out of memory while reading", name);
    yaml_parser_set_encoding(&b.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&b.parser, (const unsigned char *)words, bytes);
    status s = build(&b);
    yaml_parser_delete(&b.parser);
    for (int i = 0; i < TREE_DEPTH; i++) mem_free(b.key[i]);
    if (s != STATUS_OK) {
        tree_free(b.root);
        return s;
    }
    *root = b.root;
    return STATUS_OK;
}

status tree_read_file(const char *path, tree_node **root) {
    *root = NULL;
    char *words;
    size_t bytes;
    status s = file_read_all(path, TREE_FILE, &words, &bytes);
    if (s == STATUS_IO) return STATUS_USAGE;
    TRY(s);
    s = tree_read_text(words, bytes, path, root);
    mem_free(words);
    TRY(s);
    if (*root && (*root)->shape == SHAPE_MAP) return STATUS_OK;
    s = status_fail(STATUS_USAGE, "%s: %s: a configuration is lines of `key: value`", path,
                    *root ? "no keys in it" : "empty");
    tree_free(*root);
    *root = NULL;
    return s;
}

/* Overrides. */

static void forget_position(tree_node *node) {
    node->line = node->column = 0;
    for (tree_node *child = node->first; child; child = child->next) forget_position(child);
}

/* The value of an assignment under its last key. */
static status override_value(const char *key, const char *words, tree_node **out) {
    if (!*words || !strchr("[{\"'", *words)) {
        *out = new_node(SHAPE_SCALAR, key, words, strlen(words));
        return *out ? STATUS_OK : STATUS_MEMORY;
    }
    tree_node *read;
    TRY(tree_read_text(words, strlen(words), "command line", &read));
    *out = new_node(read->shape, key, read->text, read->text ? strlen(read->text) : 0);
    if (*out) {
        (*out)->plain = read->plain;
        (*out)->first = read->first, (*out)->last = read->last, (*out)->count = read->count;
        read->first = NULL;
        forget_position(*out);
    }
    tree_free(read);
    return *out ? STATUS_OK : STATUS_MEMORY;
}

/* Puts `fresh` where `old` is in `parent`, or at the end when old is NULL. */
static void put(tree_node *parent, tree_node *old, tree_node *fresh) {
    if (!old) {
        append(parent, fresh);
        return;
    }
    tree_node **link = &parent->first;
    while (*link != old) link = &(*link)->next;
    *link = fresh;
    fresh->next = old->next;
    if (parent->last == old) parent->last = fresh;
    tree_free(old);
}

/* The child that a part of the path names. *child is NULL when it is to be made. */
static status step(const tree_node *parent, const char *part, const char *whole,
                   tree_node **child) {
    if (parent->shape == SHAPE_MAP) {
        *child = tree_get(parent, part);
        return STATUS_OK;
    }
    char *end;
    unsigned long index = strtoul(part, &end, 10);
    if (*part < '0' || *part > '9' || *end || index > parent->count)
        return status_fail(
            STATUS_USAGE,
            "command line: %s: \"%s\" must be the number of a list item, 0 to %zu", whole,
            part, parent->count);
    *child = parent->first;
    while (index--) *child = (*child)->next;
    return STATUS_OK;
}

static status descend(tree_node **parent, const char *part, const char *whole) {
    tree_node *child;
    TRY(step(*parent, part, whole, &child));
    if (child && child->shape == SHAPE_SCALAR && !tree_is_unset(child))
        return status_fail(STATUS_USAGE,
                           "command line: %s: %s is a single value and has no parts", whole,
                           part);
    if (!child || child->shape == SHAPE_SCALAR) {
        const char *key = (*parent)->shape == SHAPE_MAP ? part : NULL;
        tree_node *fresh = new_node(SHAPE_MAP, key, NULL, 0);
        if (!fresh) return STATUS_MEMORY;
        put(*parent, child, fresh);
        child = fresh;
    }
    *parent = child;
    return STATUS_OK;
}

static status set_path(tree_node *root, char *path, const char *value) {
    char *whole = mem_strdup(path);
    if (!whole) return STATUS_MEMORY;
    tree_node *parent = root, *old, *fresh = NULL;
    status s = STATUS_OK;
    int depth = 1;
    char *part = path;
    for (char *dot; s == STATUS_OK && (dot = strchr(part, '.')); part = dot + 1) {
        *dot = '\0';
        if (++depth > TREE_DEPTH)
            s = status_fail(STATUS_USAGE, "command line: %s: too many dots", whole);
        else
            s = descend(&parent, part, whole);
    }
    if (s == STATUS_OK) s = step(parent, part, whole, &old);
    if (s == STATUS_OK)
        s = override_value(parent->shape == SHAPE_MAP ? part : NULL, value, &fresh);
    if (s == STATUS_OK) put(parent, old, fresh);
    mem_free(whole);
    return s;
}

status tree_override(tree_node *root, const char *assignment) {
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return status_fail(STATUS_USAGE, "command line: \"%s\": an override is key=value",
                           assignment);
    if (utf8_valid(assignment, strlen(assignment)) < strlen(assignment))
        return status_fail(STATUS_USAGE, "command line: an override that is not UTF-8 text");
    char *path = mem_strndup(assignment, (size_t)(equals - assignment));
    if (!path) return STATUS_MEMORY;
    status s = set_path(root, path, equals + 1);
    mem_free(path);
    return s;
}
