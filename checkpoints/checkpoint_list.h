/* checkpoint_list.h: the manifests in a checkpoints folder, newest first. Internal to this
 * folder: what checkpoint.c chooses from and checkpoint_save.c counts and prunes. */
#ifndef NIBBLE_CHECKPOINTS_CHECKPOINT_LIST_H
#define NIBBLE_CHECKPOINTS_CHECKPOINT_LIST_H

#include "checkpoints/manifest.h"

#include <stdbool.h>

#define CHECKPOINT_FORMAT "nibble-checkpoint"

typedef struct checkpoint_item {
    char *path;        /* of the manifest */
    char *fault;       /* why the manifest cannot be used, else NULL: then the rest holds */
    manifest manifest; /* its data file is there and has the right size; not hashed yet */
    int64_t step;
    int64_t save; /* counts the saves of a folder from 1: the order, whatever clocks say */
} checkpoint_item;

typedef struct checkpoint_list {
    checkpoint_item *items; /* [count] newest first, those with a fault at the end */
    size_t count, capacity;
} checkpoint_list;

/* Reads the manifests step-*.json of `folder` (absent: none). */
status checkpoint_list_read(checkpoint_list *list, const char *folder);
/* Reads one; a bad one becomes an item with a fault. */
status checkpoint_item_read(checkpoint_item *item, const char *path);
void checkpoint_item_free(checkpoint_item *item);
void checkpoint_list_free(checkpoint_list *list);

/* <output_dir>/checkpoints in a fresh string; NULL when out of memory. */
char *checkpoint_folder(const char *output_dir);
/* "step-..." with this ending. */
bool checkpoint_is_ours(const char *name, const char *ending);

#endif
