/* byte_stream.c: see byte_stream.h. A packing is three functions; each takes what it can from
 * the input chunk, which the common part keeps filled. */
#include "data/byte_stream.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum {
    CHUNK = 256 << 10,
    WINDOW_LOG = 27
}; /* bytes read at once; log2 of the largest window */

typedef struct packing {
    const char *name;
    unsigned char magic[4];
    size_t magic_bytes;
    status (*open)(byte_stream *s);
    /* Decompresses from input[at, end) to out; moves `at` and *got; sets s->between where one
     * member has ended and the next has not begun. */
    status (*step)(byte_stream *s, void *out, size_t room, size_t *got);
    void (*close)(byte_stream *s);
} packing;

struct byte_stream {
    file f;
    const packing *packing; /* NULL: none */
    int64_t offset;         /* in the file, of input[end] */
    unsigned char *input;   /* [CHUNK] */
    size_t at, end;
    bool between; /* members: the text may end here */
    bool ended;
    z_stream gzip;
    ZSTD_DCtx *zstd;
};

static status damaged(const byte_stream *s, const char *what) {
    return status_fail(STATUS_DATA, "%s: the %s data is damaged at byte %lld: %s", s->f.path,
                       s->packing->name, (long long)(s->offset - (int64_t)(s->end - s->at)),
                       what);
}

/* ---- gzip ---- */

static void *gzip_alloc(void *opaque, unsigned n, unsigned size) {
    return mem_alloc_array(n, size, "gzip");
}

static void gzip_free(void *opaque, void *block) {
    mem_free(block);
}

static status gzip_open(byte_stream *s) {
    s->gzip.zalloc = gzip_alloc;
    s->gzip.zfree = gzip_free;
    return inflateInit2(&s->gzip, 15 + 16) == Z_OK ? STATUS_OK : STATUS_MEMORY;
}

static void gzip_close(byte_stream *s) {
    inflateEnd(&s->gzip);
}

/* Behind a member: another one, or zeros up to the end. */
static status gzip_next_member(byte_stream *s) {
    while (s->at < s->end && !s->input[s->at]) s->at++;
    if (s->at == s->end) return STATUS_OK;
    if (s->input[s->at] != s->packing->magic[0])
        return damaged(s, "what follows the compressed text is no gzip");
    s->between = false;
    inflateReset(&s->gzip);
    return STATUS_OK;
}

static status gzip_step(byte_stream *s, void *out, size_t room, size_t *got) {
    if (s->between) TRY(gzip_next_member(s));
    if (s->between) return STATUS_OK;
    s->gzip.next_in = s->input + s->at;
    s->gzip.avail_in = (unsigned)(s->end - s->at);
    s->gzip.next_out = out;
    s->gzip.avail_out = (unsigned)min_i64((int64_t)room, 1 << 30);
    unsigned before = s->gzip.avail_out;
    int e = inflate(&s->gzip, Z_NO_FLUSH);
    s->at = s->end - s->gzip.avail_in;
    *got = before - s->gzip.avail_out;
    s->between = e == Z_STREAM_END;
    if (e == Z_MEM_ERROR) return STATUS_MEMORY;
    if (e != Z_OK && e != Z_STREAM_END && e != Z_BUF_ERROR)
        return damaged(s, s->gzip.msg ? s->gzip.msg : "it cannot be read");
    return STATUS_OK;
}

/* ---- zstd ---- */

static status zstd_open(byte_stream *s) {
    s->zstd = ZSTD_createDCtx();
    if (!s->zstd) return status_fail(STATUS_MEMORY, "out of memory: zstd");
    ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, WINDOW_LOG);
    return STATUS_OK;
}

static void zstd_close(byte_stream *s) {
    ZSTD_freeDCtx(s->zstd);
}

static status zstd_step(byte_stream *s, void *out, size_t room, size_t *got) {
    ZSTD_inBuffer in = {s->input, s->end, s->at};
    ZSTD_outBuffer to = {out, room, 0};
    size_t left = ZSTD_decompressStream(s->zstd, &to, &in);
    s->at = in.pos;
    *got = to.pos;
    if (ZSTD_isError(left)) return damaged(s, ZSTD_getErrorName(left));
    s->between = left == 0;
    return STATUS_OK;
}

/* ---- the common part ---- */

static const packing packings[] = {
    {"gzip", {0x1f, 0x8b}, 2, gzip_open, gzip_step, gzip_close},
    {"zstd", {0x28, 0xb5, 0x2f, 0xfd}, 4, zstd_open, zstd_step, zstd_close},
};

static status begin(byte_stream *s) {
    unsigned char head[4] = {0};
    size_t n = (size_t)min_i64(s->f.size, sizeof head);
    TRY(file_read_at(&s->f, head, n, 0));
    for (size_t i = 0; i < sizeof packings / sizeof *packings; i++) {
        const packing *p = &packings[i];
        if (n < p->magic_bytes || memcmp(head, p->magic, p->magic_bytes) != 0) continue;
        s->input = mem_alloc(CHUNK, "a compressed file");
        if (!s->input) return STATUS_MEMORY;
        TRY(p->open(s));
        s->packing = p;
        break;
    }
    return STATUS_OK;
}

status byte_stream_open(byte_stream **out, file *f) {
    *out = NULL;
    byte_stream *s = mem_alloc(sizeof *s, "a data file");
    if (!s) {
        file_close(f);
        return STATUS_MEMORY;
    }
    s->f = *f;
    status e = begin(s);
    if (e != STATUS_OK)
        byte_stream_close(s);
    else
        *out = s;
    return e;
}

void byte_stream_close(byte_stream *s) {
    if (!s) return;
    if (s->packing) s->packing->close(s);
    mem_free(s->input);
    file_close(&s->f);
    mem_free(s);
}

/* The next bytes of the file; *got is 0 at its end. */
static status read_file(byte_stream *s, void *out, size_t room, size_t *got) {
    *got = (size_t)min_i64(s->f.size - s->offset, (int64_t)room);
    TRY(file_read_at(&s->f, out, *got, s->offset));
    s->offset += (int64_t)*got;
    return STATUS_OK;
}

status byte_stream_read(byte_stream *s, void *out, size_t room, size_t *got) {
    *got = 0;
    if (!s->packing) return read_file(s, out, room, got);
    while (!*got && !s->ended) {
        if (s->at == s->end) {
            TRY(read_file(s, s->input, CHUNK, &s->end));
            s->at = 0;
        }
        bool last = s->end == 0;
        if (!last || !s->between) TRY(s->packing->step(s, out, room, got));
        s->ended = last && !*got;
        if (s->ended && !s->between)
            return damaged(s, "the file is cut off; download or copy it again");
    }
    return STATUS_OK;
}

const char *byte_stream_path(const byte_stream *s) {
    return s->f.path;
}
