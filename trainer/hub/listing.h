/* listing.h: what the hub says a repository consists of at one commit.
 *
 *     GET /api/models/ORG/NAME/revision/REV                 {"sha": COMMIT}
 *     GET /api/models/ORG/NAME/tree/COMMIT?recursive=true   a list, in pages that the header
 *         Link: <...>; rel="next" joins, of {"type": "file", "path", "size", "oid",
 *         "lfs": {"oid", "size"}}
 *     GET /ORG/NAME/resolve/COMMIT/PATH                     the bytes, often by a redirect
 *
 * with datasets/ before ORG in the last one, and api/datasets/ in the others (the hub's
 * OpenAPI document). The answers are hostile input: sizes, counts, names and hashes are
 * checked. */
#ifndef NIBBLE_TRAINER_HUB_LISTING_H
#define NIBBLE_TRAINER_HUB_LISTING_H

#include "common/status.h"
#include "trainer/hub/cache.h"
#include "trainer/hub/digest.h"
#include "trainer/hub/http.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct hub_file {
    char *path;
    int64_t size;
    bool lfs;             /* by which hash it is named: see digest.h */
    char id[DIGEST_TEXT]; /* the name of its blob */
} hub_file;

typedef struct hub_listing {
    char commit[41];
    hub_file *files; /* sorted by path, no path twice */
    size_t count, capacity;
} hub_listing;

/* STATUS_MODEL or STATUS_DATA, by the kind, with what to do when the repository or revision is
 * not there or not open to this user. hub_listing_close it in any case. */
status hub_list(http *h, const http_settings *settings, const hub_place *p,
                const char *revision, hub_listing *out);
void hub_listing_close(hub_listing *l);

/* The address of a file's bytes; mem_free it, NULL when out of memory. */
char *hub_file_url(const http_settings *settings, const hub_place *p, const char *commit,
                   const char *path);

/* The failure that an answer stands for which is not 200 or 206: gated, missing, private. */
status hub_refused(const http_settings *settings, const hub_place *p, const char *revision,
                   const http_answer *a);

/* STATUS_MODEL or STATUS_DATA: what is wrong with a repository. */
status hub_code(const hub_place *p);
/* " --dataset" or "": what a command that names the repository must add. */
const char *hub_flag(const hub_place *p);

#endif
