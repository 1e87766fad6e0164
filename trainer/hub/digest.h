/* digest.h: the two hashes by which the hub names a file's content, through OpenSSL's
 * libcrypto (which libcurl brings along, and which has the processor's own instructions).
 *
 *     an LFS file      SHA-256 of its bytes
 *     any other file   git's blob id: SHA-1 of "blob SIZE\0" and its bytes */
#ifndef NIBBLE_TRAINER_HUB_DIGEST_H
#define NIBBLE_TRAINER_HUB_DIGEST_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DIGEST_TEXT = 65 }; /* 64 hexadecimal digits and a NUL */

typedef struct digest {
    void *state;
} digest;

/* Begins; `lfs` chooses, `size` is the whole file's. Begins anew where it was begun. */
status digest_begin(digest *d, bool lfs, int64_t size);
status digest_add(digest *d, const void *data, size_t bytes);
/* The digest in lower-case hexadecimal digits. */
status digest_end(digest *d, char text[DIGEST_TEXT]);
void digest_close(digest *d); /* a zeroed one is fine */

#endif
