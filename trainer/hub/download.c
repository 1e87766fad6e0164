/* download.c: see download.h. */
#include "trainer/hub/download.h"

#include "common/alloc.h"
#include "common/file.h"
#include "common/log.h"

#include <string.h>

enum { PIECE = 1 << 20 }; /* bytes read at once when hashing what is there */

/* A file under way. */
typedef struct partial {
    const download *d;
    char *path;
    file out;
    digest hash;
    int64_t at;   /* bytes that are in the file and in the hash */
    bool resumed; /* some of them are not of this run */
} partial;

static void count(const partial *p, int64_t there, int64_t received) {
    atomic_fetch_add(&p->d->counts->there, there);
    atomic_fetch_add(&p->d->counts->received, received);
}

/* Empties the file and the hash. */
static status start_over(partial *p) {
    count(p, -p->at, 0);
    p->at = 0;
    p->resumed = false;
    TRY(file_close(&p->out));
    TRY(file_create(&p->out, p->path, false));
    return digest_begin(&p->hash, p->d->file->lfs, p->d->file->size);
}

/* Hashes the first `bytes` of the file. */
static status hash_start(partial *p, int64_t bytes) {
    const http_settings *settings = p->d->settings;
    file in;
    TRY(file_open(&in, p->path));
    void *piece = mem_alloc(PIECE, "a piece of a file");
    status s = piece ? STATUS_OK : STATUS_MEMORY;
    while (s == STATUS_OK && p->at < bytes) {
        int64_t n = bytes - p->at < PIECE ? bytes - p->at : PIECE;
        if (settings->stop && settings->stop(settings->stop_context))
            s = status_fail(STATUS_INTERRUPTED, "interrupted");
        if (s == STATUS_OK) s = file_read_at(&in, piece, (size_t)n, p->at);
        if (s == STATUS_OK) s = digest_add(&p->hash, piece, (size_t)n);
        if (s != STATUS_OK) break;
        count(p, n, 0);
        p->at += n;
    }
    mem_free(piece);
    file_close(&in);
    return s;
}

/* Opens the .incomplete file and takes up what is in it. */
static status take_up(partial *p) {
    const hub_file *f = p->d->file;
    int64_t bytes = hub_incomplete_bytes(p->d->place, f->id);
    if (bytes == 0 || bytes > f->size) return start_over(p);
    TRY(digest_begin(&p->hash, f->lfs, f->size));
    TRY(hash_start(p, bytes));
    p->resumed = true;
    return file_open_update(&p->out, p->path);
}

/* ---- what the server sends ---- */

static int64_t next_byte(void *context) {
    return ((const partial *)context)->at;
}

static bool has_all(void *context) {
    const partial *p = context;
    return p->at == p->d->file->size;
}

static status wrong_size(const partial *p, int64_t size, const http_answer *a) {
    return status_fail(STATUS_IO,
                       "%s: %s: the hub lists %lld bytes, but its server sends %lld%s%s%s",
                       p->d->place->name, p->d->file->path, (long long)p->d->file->size,
                       (long long)size, *a->type ? " (" : "", a->type, *a->type ? ")" : "");
}

/* 206 from where we are, or 200: then the server has not understood Range and sends all. What
 * is there is given up for that only when it is not some other page. */
static status begin_file(void *context, const http_answer *a) {
    partial *p = context;
    int64_t size = p->d->file->size;
    bool page = a->length < 0 && !strncmp(a->type, "text/html", 9);
    if (a->code == 206 && a->first == p->at)
        return a->whole >= 0 && a->whole != size ? wrong_size(p, a->whole, a) : STATUS_OK;
    if (a->code == 206 || (p->at && page))
        return status_fail(STATUS_IO,
                           "%s: %s: bytes from %lld were asked for, but the server sends %s",
                           p->d->place->name, p->d->file->path, (long long)p->at,
                           page ? "a web page" : "others");
    if (a->length >= 0 && a->length != size) return wrong_size(p, a->length, a);
    return p->at ? start_over(p) : STATUS_OK;
}

static status take_piece(void *context, const void *data, size_t bytes) {
    partial *p = context;
    if ((int64_t)bytes > p->d->file->size - p->at)
        return status_fail(STATUS_IO,
                           "%s: %s: the server sends more than the %lld bytes that the hub "
                           "lists",
                           p->d->place->name, p->d->file->path, (long long)p->d->file->size);
    TRY(file_write_at(&p->out, data, bytes, p->at));
    TRY(digest_add(&p->hash, data, bytes));
    count(p, (int64_t)bytes, (int64_t)bytes);
    p->at += (int64_t)bytes;
    return STATUS_OK;
}

/* The hub says why it refuses; where it redirects to does not. */
static status refused(const partial *p, const http_answer *a) {
    if (*a->error_code || *a->error_message)
        return hub_refused(p->d->settings, p->d->place, p->d->commit, a);
    return status_fail(STATUS_IO, "%s: %s: its server answers %d", p->d->place->name,
                       p->d->file->path, a->code);
}

/* All bytes that are missing, right or wrong. */
static status receive(http *h, partial *p, const char *url) {
    http_answer a;
    http_request q = {url, next_byte, begin_file, take_piece, has_all, p};
    if (has_all(p)) return STATUS_OK;
    TRY(http_get(h, &q, &a));
    if (a.code == 416 && p->resumed) {
        TRY(start_over(p));
        TRY(http_get(h, &q, &a));
    }
    if (a.code == 416)
        return status_fail(STATUS_IO,
                           "%s: %s: the hub lists %lld bytes, but its server has only %lld",
                           p->d->place->name, p->d->file->path, (long long)p->d->file->size,
                           (long long)p->at);
    if (a.code != 200 && a.code != 206) return refused(p, &a);
    return STATUS_OK;
}

static status check(partial *p, bool *same) {
    char got[DIGEST_TEXT];
    TRY(digest_end(&p->hash, got));
    *same = !strcmp(got, p->d->file->id);
    return STATUS_OK;
}

/* Bytes that were taken up may be worn; all from the first on are the server's own. */
static status receive_right(http *h, partial *p, const char *url) {
    bool same;
    TRY(receive(h, p, url));
    TRY(check(p, &same));
    if (same) return STATUS_OK;
    if (p->resumed) {
        log_info("%s: what was there of it is spoilt; it is fetched again", p->d->file->path);
        TRY(start_over(p));
        TRY(receive(h, p, url));
        TRY(check(p, &same));
        if (same) return STATUS_OK;
    }
    file_unlink(p->path);
    return status_fail(STATUS_IO,
                       "%s: %s: the bytes that were sent do not have the hash that the hub "
                       "states (%s %s); nothing of it is kept",
                       p->d->place->name, p->d->file->path,
                       p->d->file->lfs ? "SHA-256" : "git's SHA-1", p->d->file->id);
}

/* The blob's own name, at last. */
static status commit_blob(partial *p, const char *blob) {
    status s = file_sync(&p->out);
    status closed = file_close(&p->out);
    if (s == STATUS_OK) s = closed;
    if (s == STATUS_OK) s = file_rename(p->path, blob);
    if (s == STATUS_OK) s = file_sync_parent(blob);
    return s;
}

status download_file(http *h, const download *d) {
    partial p = {.d = d, .out = {.fd = -1}};
    char *url = hub_file_url(d->settings, d->place, d->commit, d->file->path);
    char *blob = hub_blob_path(d->place, d->file->id);
    p.path = blob ? mem_printf("%s.incomplete", blob) : NULL;
    status s = url && p.path ? take_up(&p) : STATUS_MEMORY;
    if (s == STATUS_OK) s = receive_right(h, &p, url);
    if (s == STATUS_OK) s = commit_blob(&p, blob);
    file_close(&p.out);
    digest_close(&p.hash);
    mem_free(p.path);
    mem_free(blob);
    mem_free(url);
    return s;
}
