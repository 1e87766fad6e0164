/* dataset_card.c: see dataset_card.h. */
#include "data/dataset_card.h"
#include "common/alloc.h"
#include "common/file.h"
#include "data/text_buffer.h"

#include <string.h>

enum { LIMIT = 16 << 20 }; /* bytes of a card */

/* The end of the line at p, behind its line end. */
static const char *next_line(const char *p, const char *end) {
    const char *line = memchr(p, '\n', (size_t)(end - p));
    return line ? line + 1 : end;
}

static bool begins(const char *p, const char *end, const char *word) {
    size_t n = strlen(word);
    return (size_t)(end - p) >= n && !memcmp(p, word, n);
}

/* The lines of `configs:` in the card's head, which lies between two lines of ---: from that
 * key up to the next one at the left edge. The rest of the head is of no use here and may be
 * long. */
static bool find_configs(const char *text, const char *end, const char **from,
                         const char **to) {
    const char *p = text;
    if (begins(p, end, "\xef\xbb\xbf")) p += 3;
    if (!begins(p, end, "---")) return false;
    *from = NULL;
    for (p = next_line(p, end); p < end && !begins(p, end, "---"); p = next_line(p, end)) {
        if (*from && !strchr(" \t\r\n-#", *p)) break;
        if (begins(p, end, "configs:")) *from = p;
    }
    *to = p;
    return *from != NULL;
}

static status parse(dataset_card *out, const char *path, const char *text, size_t bytes) {
    const char *from, *to;
    if (!find_configs(text, text + bytes, &from, &to)) return STATUS_OK;
    tree_node *root;
    status s = tree_read_text(from, (size_t)(to - from), path, &root);
    if (s == STATUS_USAGE) return STATUS_DATA; /* the message stays */
    TRY(s);
    const tree_node *list = tree_get(root, "configs");
    if (list && list->shape == SHAPE_LIST && list->count)
        out->root = root, out->configs = list;
    else
        tree_free(root);
    return STATUS_OK;
}

status dataset_card_read(dataset_card *out, const char *folder) {
    *out = (dataset_card){0};
    char *path = file_join(folder, "README.md"), *text = NULL;
    if (!path) return STATUS_MEMORY;
    size_t bytes = 0;
    status s = STATUS_OK;
    if (file_exists(path) && !file_is_directory(path))
        s = file_read_all(path, LIMIT, &text, &bytes);
    if (s == STATUS_IO) s = STATUS_DATA;
    if (s == STATUS_OK && text) s = parse(out, path, text, bytes);
    mem_free(text);
    mem_free(path);
    return s;
}

void dataset_card_free(dataset_card *c) {
    tree_free(c->root);
    *c = (dataset_card){0};
}

/* ---- configurations ---- */

static const char *text_of(const tree_node *map, const char *key) {
    const tree_node *value = tree_get(map, key);
    return value && value->shape == SHAPE_SCALAR && !tree_is_unset(value) ? value->text : NULL;
}

static bool is_default(const dataset_card *c, const tree_node *config) {
    const char *name = text_of(config, "config_name"), *mark = text_of(config, "default");
    return c->configs->count == 1 || (name && !strcmp(name, "default")) ||
           (mark && !strcmp(mark, "true"));
}

const tree_node *dataset_card_config(const dataset_card *c, const char *name) {
    for (const tree_node *i = c->configs ? c->configs->first : NULL; i; i = i->next) {
        const char *its = text_of(i, "config_name");
        if (name ? its && !strcmp(its, name) : is_default(c, i)) return i;
    }
    return NULL;
}

/* `, name` for each of some. */
static char *join(const tree_node *first, const char *key) {
    text_buffer b = {0};
    status s = STATUS_OK;
    for (const tree_node *i = first; i && s == STATUS_OK; i = i->next) {
        const char *name = text_of(i, key);
        if (!name) continue;
        if (b.bytes) s = text_append_string(&b, ", ");
        if (s == STATUS_OK) s = text_append_string(&b, name);
    }
    if (s == STATUS_OK) s = text_append(&b, "", 1);
    if (s == STATUS_OK) return b.data;
    mem_free(b.data);
    return NULL;
}

char *dataset_card_names(const dataset_card *c) {
    return join(c->configs->first, "config_name");
}

/* ---- files ---- */

bool dataset_card_has_files(const tree_node *config) {
    const tree_node *files = tree_get(config, "data_files");
    return files && !tree_is_unset(files);
}

const char *dataset_card_folder(const tree_node *config) {
    return text_of(config, "data_dir");
}

char *dataset_card_splits(const tree_node *config) {
    const tree_node *files = tree_get(config, "data_files");
    bool named =
        files->shape == SHAPE_LIST && files->first && files->first->shape == SHAPE_MAP;
    return named ? join(files->first, "split") : mem_strdup("train");
}

const tree_node *dataset_card_patterns(const tree_node *config, const char *split) {
    const tree_node *files = tree_get(config, "data_files");
    bool named =
        files->shape == SHAPE_LIST && files->first && files->first->shape == SHAPE_MAP;
    if (!named) return strcmp(split, "train") ? NULL : files;
    for (const tree_node *i = files->first; i; i = i->next) {
        const char *its = text_of(i, "split");
        if (its && !strcmp(its, split)) return tree_get(i, "path");
    }
    return NULL;
}
