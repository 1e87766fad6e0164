/* file_list.c: see file_list.h. */
#include "data/file_list.h"
#include "common/alloc.h"
#include "common/file.h"
#include "data/glob.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { DEPTH = 12, FILES = 1 << 20 }; /* folders below the first; files in all */

void files_free(file_names *f) {
    for (size_t i = 0; i < f->count; i++) mem_free(f->items[i]);
    mem_free(f->items);
    memset(f, 0, sizeof *f);
}

status file_list_append(file_names *out, char *path) {
    if (!path || mem_grow(&out->items, &out->capacity, out->count + 1, sizeof *out->items,
                          "file names")) {
        mem_free(path);
        return STATUS_MEMORY;
    }
    out->items[out->count++] = path;
    return STATUS_OK;
}

/* ---- folders ---- */

static bool is_hidden(const char *name) {
    static const char *const others[] = {"README.md",         "config.json",
                                         "dataset_info.json", "dataset_infos.json",
                                         "dataset_dict.json", "state.json"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(name, others[i])) return true;
    return name[0] == '.' || !strncmp(name, "__", 2);
}

static status list(file_names *out, const char *folder, int depth);

/* Takes the path over. */
static status list_entry(file_names *out, char *path, int depth) {
    if (!path) return STATUS_MEMORY;
    if (!file_is_directory(path)) return file_list_append(out, path);
    status s = depth < DEPTH ? list(out, path, depth + 1) : STATUS_OK;
    mem_free(path);
    return s;
}

static status list(file_names *out, const char *folder, int depth) {
    char **names;
    size_t count;
    TRY(file_list(folder, &names, &count));
    status s = STATUS_OK;
    if (out->count + count > FILES)
        s = status_fail(STATUS_DATA,
                        "%s: more than %d files: name those that are meant with "
                        "data_files",
                        folder, FILES);
    for (size_t i = 0; i < count && s == STATUS_OK; i++)
        if (!is_hidden(names[i])) s = list_entry(out, file_join(folder, names[i]), depth);
    file_list_free(names, count);
    return s;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

status file_list_folder(file_names *out, const char *folder) {
    size_t before = out->count;
    status s = list(out, folder, 0);
    if (s == STATUS_IO) s = STATUS_DATA;
    if (out->count > before)
        qsort(out->items + before, out->count - before, sizeof *out->items, by_name);
    return s;
}

/* ---- patterns ---- */

/* The folder before the first name with a wildcard; *rest is what follows it. */
static char *fixed_folder(const char *pattern, const char **rest) {
    size_t n = strcspn(pattern, "*?[");
    while (n > 0 && pattern[n - 1] != '/') n--;
    *rest = pattern + n;
    return n ? mem_strndup(pattern, n > 1 ? n - 1 : 1) : mem_strdup(".");
}

/* Appends copies of the files below `folder` that match. */
static status add_matching(file_names *out, const char *folder, const char *pattern) {
    file_names all = {0};
    size_t skip = strlen(folder) + (strcmp(folder, "/") != 0);
    status s = file_list_folder(&all, folder);
    for (size_t i = 0; i < all.count && s == STATUS_OK; i++)
        if (glob_matches(pattern, all.items[i] + skip))
            s = file_list_append(out, mem_strdup(all.items[i]));
    files_free(&all);
    return s;
}

static status add_pattern(file_names *out, const char *full) {
    const char *rest;
    char *folder = fixed_folder(full, &rest);
    if (!folder) return STATUS_MEMORY;
    status s = file_is_directory(folder) ? add_matching(out, folder, rest) : STATUS_OK;
    mem_free(folder);
    return s;
}

static status add_name(file_names *out, const char *full) {
    if (!file_exists(full))
        return status_fail(STATUS_DATA, "%s: there is no such file (data_files)", full);
    if (file_is_directory(full))
        return status_fail(STATUS_DATA, "%s: is a folder; its files are %s/** (data_files)",
                           full, full);
    return file_list_append(out, mem_strdup(full));
}

status file_list_add(file_names *out, const char *folder, const char *pattern) {
    while (!strncmp(pattern, "./", 2)) pattern += 2;
    char *full = strcmp(folder, ".") ? file_join(folder, pattern) : mem_strdup(pattern);
    if (!full) return STATUS_MEMORY;
    status s = glob_is_pattern(pattern) ? add_pattern(out, full) : add_name(out, full);
    mem_free(full);
    return s;
}

/* ---- formats ---- */

/* In the order in which the hub prefers one of two that are as frequent. */
static const struct {
    const char *ending;
    int format; /* equal for endings of one format */
} endings[] = {{".parquet", 1}, {".arrow", 2}, {".jsonl", 3}, {".json", 3}, {".ndjson", 3},
               {".csv", 4},     {".tsv", 5},   {".txt", 6},   {".text", 6}};
enum { FORMATS = 7 };

/* 0: no known ending. */
static int format_of(const char *path) {
    static const char *const packings[] = {"", ".gz", ".zst", ".zstd"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        for (size_t k = 0; k < sizeof packings / sizeof *packings; k++) {
            size_t e = strlen(endings[i].ending), p = strlen(packings[k]);
            if (n > e + p && !strcasecmp(path + n - p, packings[k]) &&
                !strncasecmp(path + n - p - e, endings[i].ending, e))
                return endings[i].format;
        }
    return 0;
}

void file_list_keep_format(file_names *f, bool named) {
    size_t counts[FORMATS] = {0}, kept = 0;
    int best = 1;
    for (size_t i = 0; i < f->count; i++) counts[format_of(f->items[i])]++;
    for (int k = 1; k < FORMATS; k++)
        if (counts[k] > counts[best]) best = k;
    if (!counts[best] && named) return;
    for (size_t i = 0; i < f->count; i++)
        if (format_of(f->items[i]) == best)
            f->items[kept++] = f->items[i];
        else
            mem_free(f->items[i]);
    f->count = kept;
}
