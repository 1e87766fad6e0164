/* cache.h: the local Hugging Face cache: what lies where, and nothing else knows it.
 *
 *     CACHE/models--org--name/blobs/ID               a file's bytes, named by their hash:
 *                                                    git's SHA-1, or SHA-256 in LFS
 *     CACHE/models--org--name/blobs/ID.incomplete    the first bytes of one on its way
 *     CACHE/models--org--name/snapshots/COMMIT/PATH  -> ../../blobs/ID
 *     CACHE/models--org--name/refs/main              the commit, 40 hexadecimal digits
 *     CACHE/.locks/models--org--name/ID.lock         flock while a blob is made
 *
 * This is the layout of the Python library huggingface_hub (its guide "Understand caching"),
 * so that both find what the other has fetched. CACHE is the first of HF_HUB_CACHE,
 * HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub and
 * ~/.cache/huggingface/hub that the environment names. Names come from configuration files
 * and from a server: no name, revision, ref or path may lead out of the cache. */
#ifndef NIBBLE_TRAINER_HUB_CACHE_H
#define NIBBLE_TRAINER_HUB_CACHE_H

#include "common/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum hub_kind { HUB_MODEL, HUB_DATASET } hub_kind;

/* org/name, or a name alone. */
bool hub_is_name(const char *words);
/* A branch, tag or commit. */
bool hub_is_revision(const char *words);
/* 40 hexadecimal digits in lower case. */
bool hub_is_commit(const char *words);
/* A file's path in a repository: relative, no empty, "." or ".." parts, nothing that a
 * terminal would obey, at most 1,024 bytes. */
bool hub_is_path(const char *words);

/* A value of the environment; NULL where it is not set or empty. */
const char *hub_variable(const char *name);
bool hub_variable_is_true(const char *name); /* 1, on, yes, true */
/* The folder of a user's settings (HF_HOME): the token file lies there. mem_free it; NULL when
 * out of memory. */
char *hub_home(void);

/* Where a repository lies in the cache, whether or not it is there. */
typedef struct hub_place {
    hub_kind kind;
    char *name;
    char *cache, *folder, *locks; /* absolute, or relative as the environment has it */
} hub_place;

/* `name` must be one (hub_is_name). Close it in any case. */
status hub_place_open(hub_place *p, hub_kind kind, const char *name);
void hub_place_close(hub_place *p);

/* The snapshot's folder for a branch, tag or commit; NULL in *path when it is not there.
 * mem_free it. */
status hub_find_snapshot(const hub_place *p, const char *revision, char **path);

/* Paths, to be freed with mem_free; NULL when out of memory. */
char *hub_blob_path(const hub_place *p, const char *id);
char *hub_snapshot_path(const hub_place *p, const char *commit);

/* Whether the blob is there with this size, also where a snapshot holds the file itself, as on
 * file systems without links. */
bool hub_has_file(const hub_place *p, const char *commit, const char *path, const char *id,
                  int64_t size);
/* Bytes of the blob's .incomplete file, 0 where there is none. */
int64_t hub_incomplete_bytes(const hub_place *p, const char *id);

/* Makes the folders that blobs and locks need, and CACHEDIR.TAG. */
status hub_prepare(const hub_place *p);
/* The lock of one blob: *fd, or -1 in it when another process (or thread) has it. close(2)
 * lets go. Where the file system has no locks nobody is kept out, which costs traffic, no
 * bytes: a blob is checked before it gets its name. */
status hub_lock(const hub_place *p, const char *id, int *fd);

/* Makes snapshots/COMMIT/PATH point to the blob; a file of this size that is there stays. */
status hub_link(const hub_place *p, const char *commit, const char *path, const char *id,
                int64_t size);
/* Syncs the folder that the link to PATH is in: links are not synced one by one. */
status hub_sync_links(const hub_place *p, const char *commit, const char *path);
/* Writes refs/REVISION unless it says so already; nothing for one that is the commit. */
status hub_write_ref(const hub_place *p, const char *revision, const char *commit);

#endif
