/* files.c: see files.h. The rules are those of datasets' data_files.py and load.py. */
#include "data/files.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"
#include "data/dataset_card.h"
#include "data/file_list.h"
#include "data/glob.h"
#include "data/split.h"
#include "data/text_buffer.h"

#include <string.h>

enum { CHUNK = 1 << 20, SPLITS = 3 }; /* bytes */

static const char *const splits[SPLITS] = {"train", "validation", "test"};

static const struct {
    const char *word;
    unsigned split; /* bit of splits */
} words[] = {{"train", 1}, {"training", 1},  {"validation", 2}, {"valid", 2},
             {"val", 2},   {"dev", 2},       {"test", 4},       {"testing", 4},
             {"eval", 4},  {"evaluation", 4}};

/* ---- what names say ---- */

static bool separates(char c) {
    return c && strchr("-._ 0123456789", c);
}

/* The splits whose words are in a name of n bytes. */
static unsigned splits_in(const char *name, size_t n) {
    unsigned found = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t m = strlen(words[i].word);
        for (size_t at = 0; at + m <= n; at++)
            if (!memcmp(name + at, words[i].word, m) && (!at || separates(name[at - 1])) &&
                (at + m == n || separates(name[at + m])))
                found |= words[i].split;
    }
    return found;
}

/* Of the folders of a path, or of the file itself. */
static unsigned splits_of(const char *path, bool folders) {
    unsigned found = 0;
    const char *p = path;
    for (const char *slash; (slash = strchr(p, '/')); p = slash + 1)
        if (folders) found |= splits_in(p, (size_t)(slash - p));
    return folders ? found : splits_in(p, strlen(p));
}

/* The bytes of SPLIT in data/SPLIT-00000-of-00003...; 0 for other paths. */
static size_t shard_split(const char *path, const char **name) {
    static const char digits[] = "[0-9][0-9][0-9][0-9][0-9]";
    char pattern[80];
    *name = path + 5;
    strcpy(pattern, "-");
    strcat(strcat(strcat(strcat(pattern, digits), "-of-"), digits), "*.*");
    if (strncmp(path, "data/", 5) || strchr(*name, '/')) return 0;
    for (const char *p = *name; (p = strchr(p, '-')); p++)
        if (p > *name && glob_matches(pattern, p)) return (size_t)(p - *name);
    return 0;
}

/* ---- choosing in a folder without a card ---- */

/* Where a file's split is stated; the first way that any file states one counts for all. */
typedef enum stated { BY_SHARD, BY_FOLDER, BY_NAME, NOT_AT_ALL } stated;

static bool states(stated way, const char *path) {
    const char *name;
    if (way == BY_SHARD) return shard_split(path, &name) > 0;
    return way == NOT_AT_ALL || splits_of(path, way == BY_FOLDER) != 0;
}

static bool is_of(stated way, const char *path, const char *split) {
    const char *name;
    if (way == NOT_AT_ALL) return !strcmp(split, "train");
    if (way == BY_SHARD) {
        size_t n = shard_split(path, &name);
        return n == strlen(split) && !memcmp(name, split, n);
    }
    unsigned found = splits_of(path, way == BY_FOLDER);
    for (int i = 0; i < SPLITS; i++)
        if ((found >> i & 1) && !strcmp(splits[i], split)) return true;
    return false;
}

static stated stated_by(const file_names *f, size_t skip) {
    for (stated way = BY_SHARD; way < NOT_AT_ALL; way++)
        for (size_t i = 0; i < f->count; i++)
            if (states(way, f->items[i] + skip)) return way;
    return NOT_AT_ALL;
}

/* Keeps the files of a split; paths count from `skip` on. */
static void keep_split(file_names *f, size_t skip, const char *split) {
    stated way = stated_by(f, skip);
    size_t kept = 0;
    for (size_t i = 0; i < f->count; i++)
        if (is_of(way, f->items[i] + skip, split))
            f->items[kept++] = f->items[i];
        else
            mem_free(f->items[i]);
    f->count = kept;
}

static status add_split(text_buffer *b, const char *name, size_t n) {
    for (size_t at = 0; at + n < b->bytes; at++) /* between spaces, once */
        if (b->data[at] == ' ' && !memcmp(b->data + at + 1, name, n) &&
            (at + 1 + n == b->bytes || b->data[at + 1 + n] == ' '))
            return STATUS_OK;
    TRY(text_append(b, " ", 1));
    return text_append(b, name, n);
}

/* The splits that there are, each behind a space. */
static status list_splits(const file_names *f, size_t skip, text_buffer *b) {
    stated way = stated_by(f, skip);
    const char *name;
    for (size_t i = 0; i < f->count && way == BY_SHARD && b->bytes < 200; i++) {
        size_t n = shard_split(f->items[i] + skip, &name);
        if (n) TRY(add_split(b, name, n));
    }
    for (int k = 0; k < SPLITS && way != BY_SHARD; k++)
        for (size_t i = 0; i < f->count; i++)
            if (is_of(way, f->items[i] + skip, splits[k]))
                TRY(add_split(b, splits[k], strlen(splits[k])));
    return text_append(b, "", 1);
}

static status no_split(const file_names *f, const char *folder, const char *split) {
    text_buffer there = {0};
    status s = list_splits(f, strlen(folder) + 1, &there);
    if (s == STATUS_OK)
        s = status_fail(STATUS_DATA,
                        "%s: there is no split `%s` in its %zu data files, but:%s "
                        "(files can be named with data_files)",
                        folder, split, f->count, there.data);
    mem_free(there.data);
    return s;
}

static bool has_split(const file_names *f, size_t skip, const char *split) {
    stated way = stated_by(f, skip);
    for (size_t i = 0; i < f->count; i++)
        if (is_of(way, f->items[i] + skip, split)) return true;
    return false;
}

static status find_by_names(file_names *out, const char *folder, const row_split *split) {
    size_t skip = strlen(folder) + 1;
    TRY(file_list_folder(out, folder));
    file_list_keep_format(out, false);
    if (!out->count)
        return status_fail(
            STATUS_DATA,
            "%s: there is no data file (.parquet, .json, .jsonl, .csv, .txt) in "
            "this folder",
            folder);
    if (!has_split(out, skip, split->name)) return no_split(out, folder, split->name);
    keep_split(out, skip, split->name);
    return STATUS_OK;
}

/* ---- choosing by the card ---- */

/* A card comes with the data: it must not lead out of the folder. */
static status add_of_card(file_names *out, const char *folder, const tree_node *pattern) {
    const char *text = pattern->shape == SHAPE_SCALAR ? pattern->text : "";
    if (!*text || *text == '/' || strstr(text, "..") || strstr(text, "://"))
        return status_fail(STATUS_DATA, "%s/README.md: `%.200s` is no file of this folder",
                           folder, text);
    return file_list_add(out, folder, text);
}

static status find_by_patterns(file_names *out, const char *folder, const tree_node *config,
                               const row_split *split) {
    const tree_node *patterns = dataset_card_patterns(config, split->name);
    if (!patterns) {
        char *there = dataset_card_splits(config);
        status s = there
                       ? status_fail(STATUS_DATA, "%s: there is no split `%s`; there are: %s",
                                     folder, split->name, there)
                       : STATUS_MEMORY;
        mem_free(there);
        return s;
    }
    if (patterns->shape != SHAPE_LIST) TRY(add_of_card(out, folder, patterns));
    if (patterns->shape == SHAPE_LIST)
        for (const tree_node *i = patterns->first; i; i = i->next)
            TRY(add_of_card(out, folder, i));
    if (!out->count)
        return status_fail(STATUS_DATA, "%s: no file matches what its README.md says of `%s`",
                           folder, split->name);
    file_list_keep_format(out, true);
    return STATUS_OK;
}

static status find_in_config(file_names *out, const char *folder, const tree_node *config,
                             const row_split *split) {
    const char *below = dataset_card_folder(config);
    if (below && (*below == '/' || strstr(below, "..")))
        return status_fail(STATUS_DATA, "%s/README.md: `%.200s` is no folder in this one",
                           folder, below);
    char *place = below ? file_join(folder, below) : mem_strdup(folder);
    if (!place) return STATUS_MEMORY;
    status s = dataset_card_has_files(config) ? find_by_patterns(out, place, config, split)
                                              : find_by_names(out, place, split);
    mem_free(place);
    return s;
}

static status no_config(const dataset_card *c, const char *folder, const char *name) {
    char *there = dataset_card_names(c);
    if (!there) return STATUS_MEMORY;
    status s = name ? status_fail(STATUS_DATA,
                                  "%s: there is no configuration `%s`; there are: "
                                  "%s",
                                  folder, name, there)
                    : status_fail(STATUS_DATA,
                                  "%s: choose one of its configurations with "
                                  "name: %s",
                                  folder, there);
    mem_free(there);
    return s;
}

/* ---- a folder ---- */

static status find_named(file_names *out, const char *folder, const char *const *wanted,
                         size_t count) {
    bool patterns = false;
    for (size_t i = 0; i < count; i++) {
        patterns |= glob_is_pattern(wanted[i]);
        TRY(file_list_add(out, folder, wanted[i]));
    }
    if (!out->count)
        return status_fail(STATUS_DATA, "%s: no file matches `%s` (data_files)", folder,
                           wanted[0]);
    if (patterns) file_list_keep_format(out, true);
    return STATUS_OK;
}

/* A `name` that is no configuration of the card may be a folder of the dataset. */
static status find_below(file_names *out, const char *folder, const char *name,
                         const char *const *wanted, size_t count, const row_split *split) {
    char *below = file_join(folder, name);
    if (!below) return STATUS_MEMORY;
    status s = file_is_directory(below) && count ? find_named(out, below, wanted, count)
               : file_is_directory(below)        ? find_by_names(out, below, split)
                                                 : status_fail(STATUS_DATA,
                                                               "%s: there is no configuration "
                                                                      "or folder `%s`",
                                                               folder, name);
    mem_free(below);
    return s;
}

static status find_in_folder(file_names *out, const char *folder, const char *name,
                             const char *const *wanted, size_t count, const row_split *split) {
    dataset_card c;
    TRY(dataset_card_read(&c, folder));
    const tree_node *config = dataset_card_config(&c, name);
    bool inside = name && !config && file_exists_in(folder, name);
    status s;
    if (count && !inside)
        s = find_named(out, folder, wanted, count);
    else if (inside || (!c.configs && name && strcmp(name, "default")))
        s = find_below(out, folder, name, wanted, count, split);
    else if (config)
        s = find_in_config(out, folder, config, split);
    else if (c.configs)
        s = no_config(&c, folder, name);
    else
        s = find_by_names(out, folder, split);
    dataset_card_free(&c);
    return s;
}

bool files_is_format(const char *path) {
    static const char *const names[] = {"json", "csv", "parquet", "text"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(path, names[i])) return !file_exists(path);
    return false;
}

status files_find(file_names *out, const char *path, const char *name,
                  const char *const *wanted, size_t wanted_count, const char *split_text) {
    row_split split;
    memset(out, 0, sizeof *out);
    TRY(split_parse(&split, split_text));
    if (files_is_format(path)) {
        if (wanted_count) return find_named(out, ".", wanted, wanted_count);
        return status_fail(STATUS_DATA, "path: %s: say which files with data_files", path);
    }
    if (file_is_directory(path))
        return find_in_folder(out, path, name, wanted, wanted_count, &split);
    if (strcmp(split.name, "train") != 0)
        return status_fail(STATUS_DATA, "%s: a file has one split, `train`, and no `%s`", path,
                           split.name);
    if (file_exists(path)) return file_list_append(out, mem_strdup(path));
    if (glob_is_pattern(path)) return find_named(out, ".", &path, 1);
    return status_fail(STATUS_DATA, "%s: there is no such file", path);
}

/* ---- bytes ---- */

static status hash_file(const file *f, hash_stream *h, char *chunk) {
    for (int64_t at = 0; at < f->size; at += CHUNK) {
        size_t n = (size_t)min_i64(CHUNK, f->size - at);
        TRY(file_read_at(f, chunk, n, at));
        hash_update(h, chunk, n);
    }
    hash_update(h, &f->size, sizeof f->size);
    return STATUS_OK;
}

status files_hash(const char *path, hash_stream *h) {
    file f;
    TRY(file_open(&f, path));
    char *chunk = mem_alloc(CHUNK, "a file");
    status s = chunk ? hash_file(&f, h, chunk) : STATUS_MEMORY;
    mem_free(chunk);
    file_close(&f);
    return s;
}
