/* model_files.c: see model_files.h. */
#include "checkpoints/model_files.h"
#include "common/alloc.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_INDEX = 64 << 20 }; /* bytes; the index of a 405B model has 100 KB */

static int by_name(const void *a, const void *b) {
    return strcmp(((const model_tensor *)a)->entry->name,
                  ((const model_tensor *)b)->entry->name);
}

bool model_files_find(const model_files *m, const char *name, model_tensor *out) {
    safetensors_entry entry = {.name = name};
    model_tensor key = {.entry = &entry};
    const model_tensor *found =
        m->count ? bsearch(&key, m->tensors, m->count, sizeof key, by_name) : NULL;
    if (found) *out = *found;
    return found != NULL;
}

status model_files_get(const model_files *m, const char *name, model_tensor *out) {
    if (model_files_find(m, name, out)) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: has no tensor \"%s\"", m->folder, name);
}

status model_tensor_read(const model_tensor *t, int64_t first, int64_t bytes, void *out) {
    return safetensors_read(t->file, t->entry, first, bytes, out);
}

/* ---- opening ---- */

static status open_shard(model_files *m, const char *name) {
    char *path = file_join(m->folder, name);
    if (!path) return STATUS_MEMORY;
    status s = safetensors_open(&m->shards[m->shard_count], path);
    if (s == STATUS_OK) m->shard_count++;
    mem_free(path);
    return s;
}

/* All tensors of all shards, sorted; a name in two shards is ambiguous and refused. */
static status collect(model_files *m) {
    size_t total = 0;
    for (size_t i = 0; i < m->shard_count; i++) total += m->shards[i].count;
    if (!(m->tensors = mem_alloc_array(total, sizeof *m->tensors, "the model's tensors")))
        return STATUS_MEMORY;
    for (size_t i = 0; i < m->shard_count; i++)
        for (size_t j = 0; j < m->shards[i].count; j++)
            m->tensors[m->count++] = (model_tensor){&m->shards[i], &m->shards[i].entries[j]};
    qsort(m->tensors, total, sizeof *m->tensors, by_name);
    for (size_t i = 1; i < total; i++)
        if (!by_name(&m->tensors[i - 1], &m->tensors[i]))
            return status_fail(STATUS_MODEL, "%s and %s both hold tensor \"%.200s\"",
                               m->tensors[i - 1].file->file.path,
                               m->tensors[i].file->file.path, m->tensors[i].entry->name);
    return STATUS_OK;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of weight_map, sorted, into names[0 .. *count). */
static status shard_names(const json_t *map, const char *path, const char **names,
                          size_t *count) {
    const char *tensor_name;
    json_t *value;
    size_t n = 0;
    json_object_foreach((json_t *)map, tensor_name, value) {
        const char *name = json_string_value(value);
        if (!name || !*name || strchr(name, '/') || !strcmp(name, ".."))
            return status_fail(
                STATUS_MODEL, "%s: weight_map: \"%.200s\" must name a file in the same folder",
                path, tensor_name);
        names[n++] = name;
    }
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n; i++)
        if (!i || strcmp(names[i], names[i - 1])) names[(*count)++] = names[i];
    return STATUS_OK;
}

static status open_shards(model_files *m, const json_t *map, const char *path) {
    size_t entries = json_object_size(map), count = 0;
    const char **names = mem_alloc_array(entries, sizeof *names, "shard names");
    if (!names) return STATUS_MEMORY;
    status s = shard_names(map, path, names, &count);
    if (s == STATUS_OK && !(m->shards = mem_alloc_array(count, sizeof *m->shards, "shards")))
        s = STATUS_MEMORY;
    for (size_t i = 0; i < count && s == STATUS_OK; i++) s = open_shard(m, names[i]);
    mem_free(names);
    return s == STATUS_OK ? s : status_prefix(s, "%s", path);
}

/* Each name of the index is in the shard that it says. */
static status check_map(const model_files *m, const json_t *map, const char *path) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value) {
        model_tensor t;
        const char *slash =
            model_files_find(m, name, &t) ? strrchr(t.file->file.path, '/') : NULL;
        if (!slash || strcmp(slash + 1, json_string_value(value)))
            return status_fail(STATUS_MODEL,
                               "%s: says that %s holds tensor \"%.200s\", it does not", path,
                               json_string_value(value), name);
    }
    return STATUS_OK;
}

static status open_index(model_files *m, const char *path) {
    json_t *index;
    TRY(json_read_file(path, MAX_INDEX, STATUS_MODEL, &index));
    const json_t *map = json_object_get(index, "weight_map");
    status s = STATUS_OK;
    if (!json_is_object(map) || !json_object_size(map))
        s = status_fail(STATUS_MODEL, "%s: has no weight_map", path);
    if (s == STATUS_OK) s = open_shards(m, map, path);
    if (s == STATUS_OK) s = collect(m);
    if (s == STATUS_OK) s = check_map(m, map, path);
    json_decref(index);
    return s;
}

static status no_weights(const char *folder) {
    if (!file_is_directory(folder))
        return status_fail(STATUS_MODEL, "%s: no such folder", folder);
    static const char *const others[] = {"pytorch_model.bin", "pytorch_model.bin.index.json",
                                         "tf_model.h5", "consolidated.00.pth",
                                         "adapter_model.safetensors"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char *path = file_join(folder, others[i]);
        if (!path) return STATUS_MEMORY;
        bool there = file_exists(path);
        mem_free(path);
        if (there)
            return status_fail(
                STATUS_MODEL,
                "%s: holds %s, but a base model is read from model.safetensors or "
                "model.safetensors.index.json only",
                folder, others[i]);
    }
    return status_fail(
        STATUS_MODEL,
        "%s: neither model.safetensors nor model.safetensors.index.json is there", folder);
}

static status open_folder(model_files *m) {
    char *single = file_join(m->folder, "model.safetensors");
    char *index = file_join(m->folder, "model.safetensors.index.json");
    status s = STATUS_MEMORY;
    if (single && index) {
        if (file_exists(single)) { /* as transformers: the single file goes first */
            m->shards = mem_alloc(sizeof *m->shards, "shards");
            s = m->shards ? open_shard(m, "model.safetensors") : STATUS_MEMORY;
            if (s == STATUS_OK) s = collect(m);
        } else
            s = file_exists(index) ? open_index(m, index) : no_weights(m->folder);
    }
    mem_free(single);
    mem_free(index);
    return s;
}

status model_files_open(model_files *m, const char *folder) {
    memset(m, 0, sizeof *m);
    if (!(m->folder = mem_strdup(folder))) return STATUS_MEMORY;
    status s = open_folder(m);
    if (s != STATUS_OK) model_files_close(m);
    return s;
}

void model_files_close(model_files *m) {
    for (size_t i = 0; i < m->shard_count; i++) safetensors_close(&m->shards[i]);
    mem_free(m->shards);
    mem_free(m->tensors);
    mem_free(m->folder);
    memset(m, 0, sizeof *m);
}
