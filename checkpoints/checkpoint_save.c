/* checkpoint_save.c: the writing half of checkpoint.h: the commit protocol, step by step. */
#include "checkpoints/checkpoint.h"
#include "checkpoints/checkpoint_list.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/log.h"

#include <stdio.h>
#include <string.h>

enum {
    ALIGNMENT = TENSOR_ALIGN,
    PIECE = 4 << 20,    /* bytes of a tensor that is fetched through its callback */
    ROOM = 1 << 20,     /* bytes of free space beyond the tensors: skeleton, manifest */
    ROOM_EACH = 1 << 10 /* bytes of skeleton per tensor */
};

typedef struct saving {
    char *folder;
    char *name;      /* step-000123.h5 */
    char *path;      /* folder/name */
    char *temporary; /* folder/name.tmp */
    char *manifest;  /* folder/step-000123.json */
    int64_t step, save;
    named_tensor *tensors; /* [count], the caller's and "json" */
    hdf5_entry *entries;   /* [count], in the same order */
    hash128 *hashes;       /* [count], of what was meant to be written */
    size_t count;
    int64_t file_bytes;
    hash128 file_hash;
} saving;

/* ---- 1: names, room, leftovers ---- */

/* Data keeps its name for good: saving a step again must not touch the file that the committed
 * manifest of that step vouches for. */
static status choose_names(saving *s) {
    s->manifest = mem_printf("%s/step-%06lld.json", s->folder, (long long)s->step);
    if (!s->manifest) return STATUS_MEMORY;
    for (int k = 1;; k++) {
        mem_free(s->name);
        mem_free(s->path);
        s->path = NULL;
        s->name = k == 1 ? mem_printf("step-%06lld.h5", (long long)s->step)
                         : mem_printf("step-%06lld.%d.h5", (long long)s->step, k);
        if (!s->name || !(s->path = file_join(s->folder, s->name))) return STATUS_MEMORY;
        if (!file_exists(s->path)) break;
    }
    s->temporary = mem_printf("%s.tmp", s->path);
    return s->temporary ? STATUS_OK : STATUS_MEMORY;
}

static status describe(saving *s, const named_tensor *tensors, size_t count,
                       const char *json) {
    s->count = count + 1;
    s->tensors = mem_alloc_array(s->count, sizeof *s->tensors, "a checkpoint's tensors");
    s->entries = mem_alloc_array(s->count, sizeof *s->entries, "a checkpoint's tensors");
    s->hashes = mem_alloc_array(s->count, sizeof *s->hashes, "a checkpoint's tensors");
    if (!s->tensors || !s->entries || !s->hashes) return STATUS_MEMORY;
    if (count) memcpy(s->tensors, tensors, count * sizeof *tensors);
    s->tensors[count] = (named_tensor){
        .name = "json", .format = format_of(DTYPE_U8, 1, (int64_t)strlen(json)), .data = json};
    for (size_t i = 0; i < s->count; i++) {
        s->entries[i].name = (char *)s->tensors[i].name;
        s->entries[i].format = s->tensors[i].format;
    }
    return STATUS_OK;
}

static status check_room(const saving *s) {
    int64_t need = ROOM, bytes;
    for (size_t i = 0; i < s->count; i++) {
        TRY(format_bytes(&s->tensors[i].format, &bytes));
        if (!checked_add_i64(need, bytes + ROOM_EACH, &need))
            return status_fail(STATUS_INTERNAL, "%s: a checkpoint of more than 2^63 bytes",
                               s->path);
    }
    return file_require_space(s->folder, need, "a checkpoint");
}

static status remove_leftovers(const char *folder) {
    char **names;
    size_t count;
    TRY(file_list(folder, &names, &count));
    status s = STATUS_OK;
    for (size_t i = 0; i < count && s == STATUS_OK; i++) {
        if (!checkpoint_is_ours(names[i], ".tmp")) continue;
        char *path = file_join(folder, names[i]);
        s = path ? file_unlink(path) : STATUS_MEMORY;
        mem_free(path);
    }
    file_list_free(names, count);
    return s;
}

/* ---- 2: write ---- */

static status write_fetched(file *f, const named_tensor *t, const hdf5_entry *e,
                            hash128 *hash) {
    hash_stream *h = hash_open();
    void *piece = mem_alloc((size_t)min_i64(PIECE, e->bytes), "a checkpoint's piece");
    status s = h && piece ? STATUS_OK : STATUS_MEMORY;
    for (int64_t at = 0; at < e->bytes && s == STATUS_OK; at += PIECE) {
        int64_t n = min_i64(PIECE, e->bytes - at);
        s = named_tensor_read(t, at, n, piece);
        if (s != STATUS_OK) break;
        hash_update(h, piece, (size_t)n);
        s = file_write_at(f, piece, (size_t)n, e->offset + at);
    }
    mem_free(piece);
    if (h) *hash = hash_close(h);
    return s;
}

static status write_tensors(saving *s) {
    file f;
    TRY(file_open_update(&f, s->temporary));
    status done = STATUS_OK;
    for (size_t i = 0; i < s->count && done == STATUS_OK; i++) {
        const named_tensor *t = &s->tensors[i];
        const hdf5_entry *e = &s->entries[i];
        if (t->data) {
            s->hashes[i] = hash_bytes(t->data, (size_t)e->bytes);
            done = file_write_at(&f, t->data, (size_t)e->bytes, e->offset);
        } else
            done = write_fetched(&f, t, e, &s->hashes[i]);
    }
    if (done == STATUS_OK) done = file_sync(&f);
    status closed = file_close(&f);
    return done == STATUS_OK ? closed : done;
}

/* ---- 3: read back ---- */

/* What the disk gives is what was meant, tensor by tensor; and the hash of the whole. */
static status read_back(saving *s) {
    file f;
    TRY(file_open(&f, s->temporary));
    file_forget(&f);
    s->file_bytes = f.size;
    status done = identity_range(&f, 0, f.size, &s->file_hash);
    for (size_t i = 0; i < s->count && done == STATUS_OK; i++) {
        hash128 found = {0, 0};
        done = identity_range(&f, s->entries[i].offset, s->entries[i].bytes, &found);
        if (done == STATUS_OK && !hash_equal(found, s->hashes[i]))
            done = status_fail(STATUS_IO,
                               "%s: tensor \"%s\" reads back differently: is the disk sound?",
                               s->temporary, s->entries[i].name);
    }
    file_close(&f);
    return done;
}

/* ---- 4: commit ---- */

/* Whether the manifest in place vouches for this save; fails only for want of memory. */
static status is_committed(const saving *s, bool *yes) {
    manifest m;
    status read = manifest_read(&m, s->manifest, CHECKPOINT_FORMAT, CHECKPOINT_VERSION);
    *yes = false;
    if (read != STATUS_OK) return read == STATUS_MEMORY ? read : STATUS_OK;
    *yes = m.bytes == s->file_bytes && hash_equal(m.hash, s->file_hash) &&
           !strcmp(m.data_path, s->path);
    manifest_close(&m);
    return STATUS_OK;
}

static status commit(saving *s) {
    TRY(file_rename(s->temporary, s->path));
    TRY(file_sync_parent(s->path));
    json_t *more =
        json_pack("{s:I, s:I}", "step", (json_int_t)s->step, "save", (json_int_t)s->save);
    if (!more) return status_fail(STATUS_MEMORY, "out of memory");
    status done = manifest_write(s->manifest, CHECKPOINT_FORMAT, CHECKPOINT_VERSION, s->name,
                                 s->file_bytes, s->file_hash, more);
    json_decref(more);
    TRY(done);
    bool yes;
    TRY(is_committed(s, &yes));
    return yes ? STATUS_OK
               : status_fail(STATUS_IO, "%s: does not read back as written", s->manifest);
}

/* After a failure: no data without a manifest. Where the manifest did get its name and only
 * the last sync failed, the checkpoint is whole; it stays, but nothing older is removed for
 * it. */
static void take_back(const saving *s) {
    bool yes;
    file_unlink(s->temporary);
    if (is_committed(s, &yes) == STATUS_OK && !yes) file_unlink(s->path);
}

/* ---- 5: prune ---- */

static bool vouched_for(const checkpoint_list *list, const char *path) {
    for (size_t i = 0; i < list->count; i++) {
        const checkpoint_item *item = &list->items[i];
        if (item->manifest.data_path && !strcmp(item->manifest.data_path, path)) return true;
        /* a manifest that cannot be read may mean any data of its step: leave all */
        size_t stem = strlen(item->path) - strlen("json");
        if (item->fault && !strncmp(item->path, path, stem)) return true;
    }
    return false;
}

static status remove_orphans(const checkpoint_list *list, const char *folder) {
    char **names;
    size_t count;
    TRY(file_list(folder, &names, &count));
    status s = STATUS_OK;
    for (size_t i = 0; i < count && s == STATUS_OK; i++) {
        if (!checkpoint_is_ours(names[i], ".h5")) continue;
        char *path = file_join(folder, names[i]);
        if (!path)
            s = STATUS_MEMORY;
        else if (!vouched_for(list, path))
            s = file_unlink(path);
        mem_free(path);
    }
    file_list_free(names, count);
    return s;
}

/* Manifests go first: a checkpoint without data must never be seen. */
static status prune(const char *folder, int keep) {
    checkpoint_list list;
    TRY(checkpoint_list_read(&list, folder));
    status s = STATUS_OK;
    for (size_t i = keep > 0 ? (size_t)keep : list.count; i < list.count && s == STATUS_OK;
         i++) {
        if (list.items[i].fault) continue;
        s = file_unlink(list.items[i].path);
        if (s == STATUS_OK) s = file_unlink(list.items[i].manifest.data_path);
    }
    checkpoint_list_free(&list);
    TRY(s);
    TRY(checkpoint_list_read(&list, folder));
    s = remove_orphans(&list, folder);
    checkpoint_list_free(&list);
    return s;
}

/* ---- all of it ---- */

static status next_save(saving *s) {
    checkpoint_list list;
    TRY(checkpoint_list_read(&list, s->folder));
    s->save = list.count && !list.items[0].fault ? list.items[0].save + 1 : 1;
    checkpoint_list_free(&list);
    return STATUS_OK;
}

static status prepare(saving *s, const char *output_dir, const named_tensor *tensors,
                      size_t count, const char *json) {
    if (!(s->folder = checkpoint_folder(output_dir))) return STATUS_MEMORY;
    bool fresh = !file_is_directory(s->folder);
    TRY(file_make_directories(s->folder));
    if (fresh) TRY(file_sync_parent(s->folder));
    TRY(describe(s, tensors, count, json));
    TRY(remove_leftovers(s->folder));
    TRY(check_room(s));
    TRY(next_save(s));
    return choose_names(s);
}

static status write_and_commit(saving *s) {
    TRY(hdf5_make(s->temporary, s->entries, s->count, ALIGNMENT));
    TRY(write_tensors(s));
    TRY(read_back(s));
    return commit(s);
}

static void release(saving *s) {
    mem_free(s->folder);
    mem_free(s->name);
    mem_free(s->path);
    mem_free(s->temporary);
    mem_free(s->manifest);
    mem_free(s->tensors);
    mem_free(s->entries);
    mem_free(s->hashes);
}

status checkpoint_save(const char *output_dir, int64_t step, const json_t *content,
                       const named_tensor *tensors, size_t count, int keep) {
    saving s = {.step = step};
    char *json = json_write_text(content, 0);
    if (!json) return status_fail(STATUS_MEMORY, "out of memory for a checkpoint's state");
    status done = prepare(&s, output_dir, tensors, count, json);
    if (done == STATUS_OK && (done = write_and_commit(&s)) != STATUS_OK) {
        char cause[2048]; /* cleaning up may fail too, for another reason */
        snprintf(cause, sizeof cause, "%s", status_message());
        take_back(&s);
        status_set(done, cause);
    }
    if (done == STATUS_OK && prune(s.folder, keep) != STATUS_OK)
        log_warn("%s; older checkpoints stay for now", status_message());
    release(&s);
    mem_free(json);
    return done;
}
