/* fuzz.c: see fuzz.h. */
#include "fuzz.h"

#include <ftw.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[256];

void fuzz_check(bool holds, const char *condition, const char *file, int line) {
    if (holds) return;
    fprintf(stderr, "%s:%d: not true: %s (last message: %s)\n", file, line, condition,
            status_message());
    abort();
}

bool fuzz_succeeds(status s, unsigned allowed) {
    if (s == STATUS_OK) return true;
    if (!(allowed >> s & 1)) fprintf(stderr, "status %d: %s\n", s, status_message());
    fuzz_require(allowed >> s & 1);
    fuzz_require(*status_message() && !strchr(status_message(), '\n'));
    return false;
}

static int unlink_one(const char *path, const struct stat *st, int kind, struct FTW *where) {
    return remove(path);
}

static void remove_root(void) {
    nftw(root, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

void fuzz_setup(void) {
    const char *base = access("/dev/shm", W_OK | X_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(root, sizeof root, "%s/nibble-fuzz-XXXXXX", base);
    fuzz_require(mkdtemp(root) != NULL);
    atexit(remove_root);
    json_setup();
    log_quiet(true);
}

const char *fuzz_path(const char *name) {
    static char paths[8][512];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

const char *fuzz_write(const char *name, const void *data, size_t bytes) {
    const char *path = fuzz_path(name);
    FILE *f = fopen(path, "wb");
    if (!f) {
        char folder[512];
        snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
        fuzz_require(file_make_directories(folder) == STATUS_OK);
        f = fopen(path, "wb");
    }
    fuzz_require(f && fwrite(data, 1, bytes, f) == bytes && !fclose(f));
    return path;
}

void fuzz_cut(const uint8_t *data, size_t size, fuzz_part *parts, int limit) {
    const char *at = (const char *)data, *end = at + size;
    for (int i = 0; i < limit; i++) {
        const char *nul = i + 1 < limit && at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        const char *stop = nul ? nul : end;
        parts[i] = (fuzz_part){at, (size_t)(stop - at)};
        at = nul ? nul + 1 : end;
    }
}
