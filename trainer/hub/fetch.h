/* fetch.h: a repository's chosen files into the cache: several at once, each resumed, checked
 * and committed on its own (download.h), and visible together.
 *
 * Blobs come first. Only when all of them are there do links in snapshots/COMMIT and at last
 * the ref appear, so that who looks a name up finds all of it or what was there before. Two
 * processes may fetch the same repository: each blob has a lock, and what one of them is
 * fetching the other leaves for later. */
#ifndef NIBBLE_TRAINER_HUB_FETCH_H
#define NIBBLE_TRAINER_HUB_FETCH_H

#include "trainer/hub/listing.h"

/* What is to be done, and what was. */
typedef struct fetch {
    const http_settings *settings;
    const hub_place *place;
    const char *revision;
    const hub_listing *listing;
    const bool *chosen;
    int64_t files, bytes;                 /* chosen */
    int64_t missing_files, missing_bytes; /* of them not in the cache when this began */
    int64_t there,
        received; /* in the cache at the end, incomplete ones too; over the network */
} fetch;

/* Sets files, bytes and what is missing, by looking at the cache. */
void fetch_measure(fetch *f);

/* Fetches what is missing and makes all visible. `show` is called some times a second with the
 * bytes that are there and those that came over the network. STATUS_IO without a byte written
 * when the disk has no room; STATUS_INTERRUPTED when the settings' stop says so: the same call
 * goes on from there. */
status fetch_run(fetch *f, void (*show)(void *context, int64_t there, int64_t received),
                 void *context);

#endif
