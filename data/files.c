/* files.c: see files.h. */
#include "data/files.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"
#include "data/split.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

enum { DEPTH = 2, CHUNK = 1 << 20 }; /* folders below the path that are looked into; bytes */

static const struct {
    const char *word, *split;
} words[] = {{"train", "train"},           {"training", "train"},   {"test", "test"},
             {"testing", "test"},          {"eval", "test"},        {"evaluation", "test"},
             {"validation", "validation"}, {"valid", "validation"}, {"val", "validation"},
             {"dev", "validation"}};

void files_free(file_names *f) {
    for (size_t i = 0; i < f->count; i++) mem_free(f->items[i]);
    mem_free(f->items);
    memset(f, 0, sizeof *f);
}

/* Takes the string over. */
static status add(file_names *f, char *path) {
    if (!path ||
        mem_grow(&f->items, &f->capacity, f->count + 1, sizeof *f->items, "file names")) {
        mem_free(path);
        return STATUS_MEMORY;
    }
    f->items[f->count++] = path;
    return STATUS_OK;
}

static bool is_data_file(const char *name) {
    static const char *const endings[] = {".jsonl",   ".json",  ".ndjson",   ".txt",
                                          ".parquet", ".arrow", ".jsonl.gz", ".jsonl.zst",
                                          ".json.gz", ".csv"};
    static const char *const others[] = {"dataset_info.json", "dataset_infos.json",
                                         "state.json", "dataset_dict.json"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(name, others[i])) return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t m = strlen(endings[i]);
        if (n > m && !strcasecmp(name + n - m, endings[i])) return name[0] != '.';
    }
    return false;
}

/* The split that a file's name (without its folders) states; NULL when it states none. */
static const char *split_of(const char *path) {
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    for (const char *p = name; *p;) {
        size_t n = 0;
        while (isalnum((unsigned char)p[n])) n++;
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (strlen(words[i].word) == n && !strncasecmp(p, words[i].word, n))
                return words[i].split;
        p += n ? n : 1;
    }
    return NULL;
}

static status list_folder(file_names *out, const char *folder, int depth) {
    char **names;
    size_t count;
    TRY(file_list(folder, &names, &count));
    status s = STATUS_OK;
    for (size_t i = 0; i < count && s == STATUS_OK; i++) {
        char *path = file_join(folder, names[i]);
        if (!path)
            s = STATUS_MEMORY;
        else if (file_is_directory(path) && names[i][0] != '.' && depth < DEPTH) {
            s = list_folder(out, path, depth + 1);
            mem_free(path);
        } else if (is_data_file(names[i]))
            s = add(out, path);
        else
            mem_free(path);
    }
    file_list_free(names, count);
    return s;
}

/* Keeps the files of the split, where names state splits at all. */
static void keep_split(file_names *f, const char *split) {
    bool stated = false;
    for (size_t i = 0; i < f->count; i++) stated |= split_of(f->items[i]) != NULL;
    size_t kept = 0;
    for (size_t i = 0; i < f->count; i++) {
        const char *its = split_of(f->items[i]);
        if (stated ? its && !strcmp(its, split) : !strcmp(split, "train"))
            f->items[kept++] = f->items[i];
        else
            mem_free(f->items[i]);
    }
    f->count = kept;
}

static status find_in_folder(file_names *out, const char *folder, const char *const *wanted,
                             size_t count, const row_split *split) {
    for (size_t i = 0; i < count; i++) {
        TRY(add(out, file_join(folder, wanted[i])));
        if (!file_exists(out->items[i]))
            return status_fail(STATUS_DATA, "%s: there is no such file (data_files)",
                               out->items[i]);
    }
    if (count) return STATUS_OK;
    status s = list_folder(out, folder, 0);
    if (s != STATUS_OK) return s == STATUS_IO ? STATUS_DATA : s;
    size_t all = out->count;
    keep_split(out, split->name);
    if (out->count) return STATUS_OK;
    return all ? status_fail(STATUS_DATA,
                             "%s: none of its %zu data files is of the split `%s`; name "
                             "files with data_files",
                             folder, all, split->name)
               : status_fail(STATUS_DATA,
                             "%s: there is no data file (.json, .jsonl, .txt) in this "
                             "folder",
                             folder);
}

status files_find(file_names *out, const char *path, const char *name,
                  const char *const *wanted, size_t wanted_count, const char *split_text) {
    row_split split;
    memset(out, 0, sizeof *out);
    TRY(split_parse(&split, split_text));
    if (!file_exists(path)) return status_fail(STATUS_DATA, "%s: there is no such file", path);
    if (file_is_directory(path)) {
        char *folder = name ? file_join(path, name) : mem_strdup(path);
        if (!folder) return STATUS_MEMORY;
        bool inside = file_is_directory(folder);
        status s = find_in_folder(out, inside ? folder : path, wanted, wanted_count, &split);
        mem_free(folder);
        return s;
    }
    if (strcmp(split.name, "train") != 0)
        return status_fail(STATUS_DATA, "%s: a file has one split, `train`, and no `%s`", path,
                           split.name);
    return add(out, mem_strdup(path));
}

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
