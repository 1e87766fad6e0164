/* hub.c: names to paths; see hub.h. */
#include "trainer/verbs/hub.h"

#include "common/alloc.h"
#include "common/file.h"
#include "trainer/model/synthetic.h"

#include <string.h>

typedef struct words {
    const char *what, *flag;
    status code;
} words;

static const words of_kind[] = {
    [HUB_MODEL] = {"folder", "", STATUS_MODEL},
    [HUB_DATASET] = {"file or folder", " --dataset", STATUS_DATA},
};

/* A file's name rather than a repository's, when it is not there: rows.jsonl, data/rows.json.
 */
static bool names_file(const char *name) {
    static const char *const endings[] = {".json", ".jsonl", ".ndjson",     ".txt", ".text",
                                          ".csv",  ".tsv",   ".parquet",    ".gz",  ".zst",
                                          ".zstd", ".h5",    ".safetensors"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i]);
        if (length > n && !strcmp(name + length - n, endings[i])) return true;
    }
    return false;
}

static bool is_path(hub_kind kind, const char *name) {
    return file_exists(name) || (kind == HUB_MODEL && synthetic_is(name));
}

bool hub_names_repository(hub_kind kind, const char *name) {
    return !is_path(kind, name) && hub_is_name(name) && !names_file(name);
}

static status find_in_cache(hub_kind kind, const char *name, const char *revision,
                            char **path) {
    hub_place place;
    status s = hub_place_open(&place, kind, name);
    if (s == STATUS_OK) s = hub_find_snapshot(&place, revision ? revision : "main", path);
    if (s == STATUS_OK && !*path)
        s = status_fail(of_kind[kind].code,
                        "%s: no such %s, and not in the local Hugging Face cache (%s); "
                        "download it once with: train get %s%s%s%s",
                        name, of_kind[kind].what, place.folder, name, of_kind[kind].flag,
                        revision ? " --revision " : "", revision ? revision : "");
    hub_place_close(&place);
    return s;
}

static status find(hub_kind kind, const char *name, const char *revision, char **path) {
    *path = NULL;
    if (is_path(kind, name)) {
        *path = mem_strdup(name);
        return *path ? STATUS_OK : STATUS_MEMORY;
    }
    if (!hub_names_repository(kind, name))
        return status_fail(of_kind[kind].code, "%s: no such %s", name, of_kind[kind].what);
    if (revision && !hub_is_revision(revision))
        return status_fail(STATUS_USAGE, "%s: \"%s\" is not the name of a revision", name,
                           revision);
    return find_in_cache(kind, name, revision, path);
}

status hub_find_model(const char *name, const char *revision, char **path) {
    return find(HUB_MODEL, name, revision, path);
}

status hub_find_dataset(const char *name, const char *revision, char **path) {
    return find(HUB_DATASET, name, revision, path);
}
