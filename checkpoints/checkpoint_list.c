/* checkpoint_list.c: see checkpoint_list.h. */
#include "checkpoints/checkpoint_list.h"
#include "checkpoints/checkpoint.h"
#include "common/alloc.h"

#include <stdlib.h>
#include <string.h>

char *checkpoint_folder(const char *output_dir) {
    return file_join(output_dir, "checkpoints");
}

bool checkpoint_is_ours(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    return !strncmp(name, "step-", 5) && n > 5 + m && !strcmp(name + n - m, ending);
}

static status read_numbers(checkpoint_item *item, const char *path) {
    const json_t *step = json_object_get(item->manifest.json, "step");
    const json_t *save = json_object_get(item->manifest.json, "save");
    if (!json_is_integer(step) || !json_is_integer(save) || json_integer_value(step) < 0 ||
        json_integer_value(save) < 1)
        return status_fail(STATUS_MODEL, "%s: \"step\" or \"save\" is malformed", path);
    item->step = json_integer_value(step);
    item->save = json_integer_value(save);
    return STATUS_OK;
}

status checkpoint_item_read(checkpoint_item *item, const char *path) {
    memset(item, 0, sizeof *item);
    if (!(item->path = mem_strdup(path))) return STATUS_MEMORY;
    status s = manifest_read(&item->manifest, path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION);
    if (s == STATUS_OK) s = read_numbers(item, path);
    if (s == STATUS_OK) return s;
    if (s != STATUS_MEMORY && (item->fault = mem_strdup(status_message()))) return STATUS_OK;
    checkpoint_item_free(item);
    return STATUS_MEMORY;
}

void checkpoint_item_free(checkpoint_item *item) {
    manifest_close(&item->manifest);
    mem_free(item->path);
    mem_free(item->fault);
    memset(item, 0, sizeof *item);
}

static int newest_first(const void *a, const void *b) {
    const checkpoint_item *x = a, *y = b;
    if (!x->fault != !y->fault) return x->fault ? 1 : -1;
    if (x->save != y->save) return x->save < y->save ? 1 : -1;
    return strcmp(y->path, x->path);
}

static status add(checkpoint_list *list, const char *folder, const char *name) {
    char *path = file_join(folder, name);
    if (!path) return STATUS_MEMORY;
    status s = mem_grow(&list->items, &list->capacity, list->count + 1, sizeof *list->items,
                        "checkpoints")
                   ? STATUS_MEMORY
                   : checkpoint_item_read(&list->items[list->count], path);
    if (s == STATUS_OK) list->count++;
    mem_free(path);
    return s;
}

status checkpoint_list_read(checkpoint_list *list, const char *folder) {
    memset(list, 0, sizeof *list);
    if (!file_is_directory(folder)) return STATUS_OK;
    char **names;
    size_t count;
    TRY(file_list(folder, &names, &count));
    status s = STATUS_OK;
    for (size_t i = 0; i < count && s == STATUS_OK; i++)
        if (checkpoint_is_ours(names[i], ".json")) s = add(list, folder, names[i]);
    file_list_free(names, count);
    if (s != STATUS_OK)
        checkpoint_list_free(list);
    else if (list->count)
        qsort(list->items, list->count, sizeof *list->items, newest_first);
    return s;
}

void checkpoint_list_free(checkpoint_list *list) {
    for (size_t i = 0; i < list->count; i++) checkpoint_item_free(&list->items[i]);
    mem_free(list->items);
    memset(list, 0, sizeof *list);
}
