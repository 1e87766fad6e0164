/* download.h: one file from the hub into the cache, or nothing.
 *
 * The bytes go to blobs/ID.incomplete; what an earlier attempt, run or the Python library has
 * left there is hashed and gone on from. Only when all of it has the hash and the size that
 * the hub states is it synced and renamed to blobs/ID. The address names the commit, so the
 * bytes cannot change between two attempts (no If-Range is needed); if they do, or if the disk
 * has lost some, the hash says so and the file is fetched once more from its first byte. */
#ifndef NIBBLE_TRAINER_HUB_DOWNLOAD_H
#define NIBBLE_TRAINER_HUB_DOWNLOAD_H

#include "trainer/hub/listing.h"

#include <stdatomic.h>

/* For the progress line; shared by all files. */
typedef struct download_counts {
    atomic_llong there;    /* bytes of the files that are in the cache, incomplete ones too */
    atomic_llong received; /* bytes that came over the network */
} download_counts;

typedef struct download {
    const http_settings *settings;
    const hub_place *place;
    const char *commit;
    const hub_file *file;
    download_counts *counts;
} download;

/* The caller holds the blob's lock. STATUS_IO when the bytes are not those that were promised;
 * then nothing of them is kept. After other failures the .incomplete file stays. */
status download_file(http *h, const download *d);

#endif
