/* output.c: see output.h. */
#include "trainer/run/output.h"
#include "common/alloc.h"
#include "common/file.h"
#include "trainer/run/gemm_table.h"

#include <string.h>

/* Everything that a run writes into its folder; folders are one level deep. */
static const char *const ours[] = {"config.yaml",
                                   "metrics.jsonl",
                                   "summary.json",
                                   "adapter_model.safetensors",
                                   "adapter_config.json",
                                   "bad_batch.json",
                                   "runs",
                                   "checkpoints",
                                   "model",
                                   ".base-cache.h5",
                                   "README.md"};

/* What a run finds there and leaves: our lock, and what `train plan --measure` wrote. */
static bool is_kept(const char *name) {
    return !strcmp(name, ".lock") || !strcmp(name, GEMM_TABLE_NAME);
}

static bool is_ours(const char *name) {
    if (is_kept(name) || !strcmp(name, GEMM_TABLE_NAME ".tmp")) return true;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        size_t n = strlen(ours[i]);
        if (!strncmp(name, ours[i], n) &&
            (!name[n] || !strcmp(name + n, ".tmp") || !strcmp(name + n, ".json") ||
             !strcmp(name + n, ".lock")))
            return true;
    }
    return false;
}

status output_take(output_lock *lock, const char *folder, output_kind *kind) {
    char **names = NULL;
    size_t count = 0;
    if (file_is_directory(folder)) TRY(file_list(folder, &names, &count));
    size_t found = 0;
    status s = STATUS_OK;
    for (size_t i = 0; i < count && s == STATUS_OK; i++) {
        if (!is_ours(names[i]))
            s = status_fail(
                STATUS_USAGE,
                "output_dir %s is not empty: it holds %s, which no run of this program "
                "wrote; choose another folder (output_dir=...)",
                folder, names[i]);
        found += !is_kept(names[i]);
    }
    file_list_free(names, count);
    TRY(s);
    TRY(output_lock_take(lock, folder));
    *kind = !found                                   ? OUTPUT_FRESH
            : file_exists_in(folder, "summary.json") ? OUTPUT_FINISHED
                                                     : OUTPUT_UNFINISHED;
    return STATUS_OK;
}

status output_clear(const char *folder) {
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        char *path = file_join(folder, ours[i]);
        if (!path) return STATUS_MEMORY;
        status s = file_exists(path) ? file_remove_tree(path) : STATUS_OK;
        mem_free(path);
        TRY(s);
    }
    return STATUS_OK;
}

status output_begin(const char *folder, const char *resolved) {
    char *path = file_join(folder, "config.yaml");
    if (!path) return STATUS_MEMORY;
    status s = file_write_all(path, resolved, strlen(resolved));
    mem_free(path);
    return s;
}
