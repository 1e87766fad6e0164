/* prepared.c: see prepared.h. */
#include "data/prepared.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/file.h"

#include <string.h>
#include <unistd.h>

static const char magic[12] = "NIBBLEROWS2";

typedef struct header {
    char magic[12];
    char zero[4];
    uint64_t hash[2]; /* low, high: of everything after this field */
    int64_t count, tokens, report_bytes;
} header;
enum { HASHED_FROM = 32 }; /* offsetof(header, count) */
_Static_assert(sizeof(header) == 56 && offsetof(header, count) == HASHED_FROM, "file layout");

static char *name_of(const char *folder, hash128 key) {
    char text[HASH_TEXT];
    hash_format(key, text);
    char *name = mem_printf("%s.rows", text);
    char *path = name ? file_join(folder, name) : NULL;
    mem_free(name);
    return path;
}

static status hash_rows(const header *h, const row_set *rows, const dataset_report *report,
                        hash128 *out) {
    hash_stream *stream = hash_open();
    if (!stream) return STATUS_MEMORY;
    hash_update(stream, (const char *)h + HASHED_FROM, sizeof *h - HASHED_FROM);
    hash_update(stream, report, sizeof *report);
    hash_update(stream, rows->offsets, (size_t)(h->count + 1) * sizeof *rows->offsets);
    hash_update(stream, rows->ids, (size_t)h->tokens * sizeof *rows->ids);
    hash_update(stream, rows->labels, (size_t)h->tokens * sizeof *rows->labels);
    *out = hash_close(stream);
    return STATUS_OK;
}

/* ---- reading ---- */

static status broken(const file *f, const char *what) {
    return status_fail(STATUS_DATA, "%s: %s", f->path, what);
}

static status read_header(const file *f, header *h) {
    if (f->size < (int64_t)sizeof *h) return broken(f, "is too short for prepared rows");
    TRY(file_read_at(f, h, sizeof *h, 0));
    if (memcmp(h->magic, magic, sizeof magic) != 0) return broken(f, "holds no prepared rows");
    int64_t limit = f->size / 4;
    if (h->count < 1 || h->tokens < 1 || h->count > limit || h->tokens > limit ||
        h->report_bytes != (int64_t)sizeof(dataset_report) ||
        f->size != (int64_t)sizeof *h + h->report_bytes + (h->count + 1) * 8 + h->tokens * 8)
        return broken(f, "is of another version, or its size is wrong");
    return STATUS_OK;
}

static status read_arrays(const file *f, const header *h, row_set *rows,
                          dataset_report *report) {
    size_t offsets = (size_t)(h->count + 1) * 8, tokens = (size_t)h->tokens * 4;
    rows->offsets = mem_alloc(offsets, "prepared rows");
    rows->ids = mem_alloc(tokens, "prepared rows");
    rows->labels = mem_alloc(tokens, "prepared rows");
    if (!rows->offsets || !rows->ids || !rows->labels) return STATUS_MEMORY;
    int64_t at = (int64_t)sizeof *h;
    TRY(file_read_at(f, report, sizeof *report, at));
    TRY(file_read_at(f, rows->offsets, offsets, at += (int64_t)sizeof *report));
    TRY(file_read_at(f, rows->ids, tokens, at += (int64_t)offsets));
    TRY(file_read_at(f, rows->labels, tokens, at + (int64_t)tokens));
    rows->count = h->count;
    rows->id_capacity = h->tokens;
    rows->row_capacity = h->count + 1;
    hash128 sum, wanted = {h->hash[0], h->hash[1]};
    TRY(hash_rows(h, rows, report, &sum));
    return hash_equal(sum, wanted) ? STATUS_OK : broken(f, "its checksum is wrong");
}

/* The checksum speaks of damage only; a file that lies is to be harmless too. */
static bool is_sound(const row_set *rows, int64_t tokens, const dataset_report *r) {
    bool sound = rows->offsets[0] == 0 && rows->offsets[rows->count] == tokens &&
                 memchr(r->first_bad, 0, sizeof r->first_bad) &&
                 memchr(r->template_name, 0, sizeof r->template_name) &&
                 memchr(r->template_date, 0, sizeof r->template_date);
    for (int64_t i = 0; i < rows->count && sound; i++)
        sound = rows->offsets[i] < rows->offsets[i + 1];
    for (int64_t i = 0; i < tokens && sound; i++) sound = rows->ids[i] >= 0;
    return sound;
}

static status read_file(const char *path, row_set *rows, dataset_report *report) {
    file f;
    header h;
    TRY(file_open(&f, path));
    status s = read_header(&f, &h);
    if (s == STATUS_OK) s = read_arrays(&f, &h, rows, report);
    if (s == STATUS_OK && !is_sound(rows, h.tokens, report))
        s = broken(&f, "its rows do not fit together");
    file_close(&f);
    if (s != STATUS_OK) row_set_free(rows);
    return s;
}

status prepared_read(const char *folder, hash128 key, row_set *rows, dataset_report *report,
                     bool *found) {
    char *path = name_of(folder, key);
    if (!path) return STATUS_MEMORY;
    *found = file_exists(path);
    status s = *found ? read_file(path, rows, report) : STATUS_OK;
    mem_free(path);
    return s;
}

/* ---- writing ---- */

static status write_arrays(file *f, const row_set *rows, const dataset_report *report) {
    header h = {.count = rows->count,
                .tokens = rows->offsets[rows->count],
                .report_bytes = sizeof *report};
    memcpy(h.magic, magic, sizeof magic);
    hash128 sum;
    TRY(hash_rows(&h, rows, report, &sum));
    h.hash[0] = sum.low, h.hash[1] = sum.high;
    TRY(file_write(f, &h, sizeof h));
    TRY(file_write(f, report, sizeof *report));
    TRY(file_write(f, rows->offsets, (size_t)(h.count + 1) * sizeof *rows->offsets));
    TRY(file_write(f, rows->ids, (size_t)h.tokens * sizeof *rows->ids));
    TRY(file_write(f, rows->labels, (size_t)h.tokens * sizeof *rows->labels));
    return file_sync(f);
}

static status write_file(const char *temporary, const char *path, const row_set *rows,
                         const dataset_report *report) {
    file f;
    TRY(file_create(&f, temporary, false));
    status s = write_arrays(&f, rows, report), closed = file_close(&f);
    if (s == STATUS_OK) s = closed;
    if (s == STATUS_OK) s = file_rename(temporary, path);
    if (s == STATUS_OK) return file_sync_parent(path);
    char message[512];
    memcpy(message, status_message(), sizeof message);
    message[sizeof message - 1] = 0;
    file_unlink(temporary);
    return status_set(s, message);
}

status prepared_write(const char *folder, hash128 key, const row_set *rows,
                      const dataset_report *report) {
    TRY(file_make_directories(folder));
    char *path = name_of(folder, key);
    char *temporary = path ? mem_printf("%s.%ld.tmp", path, (long)getpid()) : NULL;
    status s = temporary ? write_file(temporary, path, rows, report) : STATUS_MEMORY;
    mem_free(path);
    mem_free(temporary);
    return s;
}
