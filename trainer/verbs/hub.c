/* hub.c: names to paths through the local Hugging Face cache. Names come from configuration
 * files: no name, revision or ref may lead out of the cache. */
#include "trainer/verbs/hub.h"

#include "common/alloc.h"
#include "common/file.h"
#include "trainer/model/synthetic.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct kind {
    const char *prefix, *what, *download;
    status code;
} kind;

static const kind model = {"models", "folder", "hf download", STATUS_MODEL};
static const kind dataset = {"datasets", "file or folder", "hf download --repo-type dataset",
                             STATUS_DATA};

/* Words of letters, digits, dots, dashes and underscores, which do not begin with a dot or
 * dash, joined by at most `slashes` slashes; no ".." anywhere. */
static bool is_name(const char *words, int slashes) {
    if (strlen(words) > 200 || strstr(words, "..")) return false;
    for (const char *p = words;; p++) {
        size_t n =
            strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
        if (!n || strchr(".-", *p)) return false;
        p += n;
        if (!*p) return true;
        if (*p != '/' || slashes-- == 0) return false;
    }
}

/* A file's name rather than a repository's, when it is not there: rows.jsonl, data/rows.json.
 */
static bool names_file(const char *words) {
    static const char *const endings[] = {".json",    ".jsonl", ".txt",         ".csv",
                                          ".parquet", ".gz",    ".safetensors", ".h5"};
    size_t length = strlen(words);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i]);
        if (length > n && !strcmp(words + length - n, endings[i])) return true;
    }
    return false;
}

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* The cache's folder; NULL when out of memory. */
static char *cache_folder(void) {
    const char *home = variable("HOME") ? variable("HOME") : ".", *value;
    char *folder;
    if ((value = variable("HF_HUB_CACHE")) || (value = variable("HUGGINGFACE_HUB_CACHE")))
        folder = mem_strdup(value);
    else if ((value = variable("HF_HOME")))
        folder = mem_printf("%s/hub", value);
    else if ((value = variable("XDG_CACHE_HOME")))
        folder = mem_printf("%s/huggingface/hub", value);
    else
        folder = mem_printf("%s/.cache/huggingface/hub", home);
    if (!folder || strncmp(folder, "~/", 2)) return folder;
    char *expanded = mem_printf("%s%s", home, folder + 1); /* as Hugging Face does */
    mem_free(folder);
    return expanded;
}

/* CACHE/models--org--name */
static char *repository_folder(const kind *k, const char *name) {
    char *cache = cache_folder();
    if (!cache) return NULL;
    const char *slash = strchr(name, '/');
    char *folder = slash ? mem_printf("%s/%s--%.*s--%s", cache, k->prefix, (int)(slash - name),
                                      name, slash + 1)
                         : mem_printf("%s/%s--%s", cache, k->prefix, name);
    mem_free(cache);
    return folder;
}

/* The commit that a ref file holds, or the revision itself when there is no such ref. */
static status read_ref(const char *repository, const char *revision, char **commit) {
    *commit = NULL;
    char *path = mem_printf("%s/refs/%s", repository, revision), *words = NULL;
    if (!path) return STATUS_MEMORY;
    status s = STATUS_OK;
    if (file_exists(path) && !file_is_directory(path))
        s = file_read_all(path, 256, &words, NULL);
    mem_free(path);
    TRY(s);
    if (words) words[strcspn(words, " \t\r\n")] = '\0';
    *commit = mem_strdup(words ? words : revision);
    mem_free(words);
    return *commit ? STATUS_OK : STATUS_MEMORY;
}

/* The snapshot's folder; NULL in *path when it is not there. */
static status find_snapshot(const char *repository, const char *revision, char **path) {
    char *commit;
    *path = NULL;
    TRY(read_ref(repository, revision, &commit));
    status s = STATUS_OK;
    if (is_name(commit, 0)) {
        *path = mem_printf("%s/snapshots/%s", repository, commit);
        if (!*path) s = STATUS_MEMORY;
    }
    mem_free(commit);
    if (*path && !file_is_directory(*path)) {
        mem_free(*path);
        *path = NULL;
    }
    return s;
}

static status find(const kind *k, const char *name, const char *revision, char **path) {
    *path = NULL;
    if (file_exists(name) || (k == &model && synthetic_is(name))) {
        *path = mem_strdup(name);
        return *path ? STATUS_OK : STATUS_MEMORY;
    }
    if (!is_name(name, 1) || names_file(name))
        return status_fail(k->code, "%s: no such %s", name, k->what);
    if (revision && !is_name(revision, 8))
        return status_fail(STATUS_USAGE, "%s: \"%s\" is not the name of a revision", name,
                           revision);
    char *repository = repository_folder(k, name);
    if (!repository) return STATUS_MEMORY;
    status s = find_snapshot(repository, revision ? revision : "main", path);
    if (s == STATUS_OK && !*path)
        s = status_fail(
            k->code,
            "%s: no such %s, and not in the local Hugging Face cache (%s); download "
            "it once with: %s %s%s%s",
            name, k->what, repository, k->download, name, revision ? " --revision " : "",
            revision ? revision : "");
    mem_free(repository);
    return s;
}

status hub_find_model(const char *name, const char *revision, char **path) {
    return find(&model, name, revision, path);
}

status hub_find_dataset(const char *name, const char *revision, char **path) {
    return find(&dataset, name, revision, path);
}
