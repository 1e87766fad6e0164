/* digest.c: see digest.h. */
#include "trainer/hub/digest.h"

#include <openssl/evp.h>
#include <stdio.h>

static status refused(void) {
    return status_fail(STATUS_INTERNAL, "libcrypto refuses to hash");
}

status digest_begin(digest *d, bool lfs, int64_t size) {
    if (!d->state && !(d->state = EVP_MD_CTX_new()))
        return status_fail(STATUS_MEMORY, "out of memory: a hash");
    if (!EVP_DigestInit_ex(d->state, lfs ? EVP_sha256() : EVP_sha1(), NULL)) return refused();
    if (lfs) return STATUS_OK;
    char head[32];
    int n = snprintf(head, sizeof head, "blob %lld", (long long)size);
    return digest_add(d, head, (size_t)n + 1); /* with its NUL */
}

status digest_add(digest *d, const void *data, size_t bytes) {
    return EVP_DigestUpdate(d->state, data, bytes) ? STATUS_OK : refused();
}

status digest_end(digest *d, char text[DIGEST_TEXT]) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned n;
    if (!EVP_DigestFinal_ex(d->state, raw, &n) || 2 * n >= DIGEST_TEXT) return refused();
    for (unsigned i = 0; i < n; i++) snprintf(text + 2 * i, 3, "%02x", raw[i]);
    return STATUS_OK;
}

void digest_close(digest *d) {
    EVP_MD_CTX_free(d->state);
    d->state = NULL;
}
