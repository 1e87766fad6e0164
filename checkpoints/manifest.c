/* manifest.c: see manifest.h. */
#include "checkpoints/manifest.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/file.h"

#include <stdio.h>
#include <string.h>

enum { MAX_MANIFEST = 64 << 20 }; /* bytes; a cache's lists its pages */

/* ---- its own hash ---- */

/* Of the compact text without the key "check", which must not be there: blanks and line ends
 * do not matter. */
static status own_hash(const json_t *json, char text[HASH_TEXT]) {
    char *compact = json_write_text(json, 0);
    if (!compact) return status_fail(STATUS_MEMORY, "out of memory for a manifest");
    hash_format(hash_bytes(compact, strlen(compact)), text);
    mem_free(compact);
    return STATUS_OK;
}

/* Takes "check" out of the manifest and compares. */
static status check_itself(const manifest *m, const char *path) {
    char promised[HASH_TEXT] = "", found[HASH_TEXT];
    const char *text = json_string_value(json_object_get(m->json, "check"));
    if (text && strlen(text) == HASH_TEXT - 1) snprintf(promised, sizeof promised, "%s", text);
    json_object_del(m->json, "check");
    TRY(own_hash(m->json, found));
    if (!strcmp(promised, found)) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: was changed after it was written", path);
}

/* ---- writing ---- */

static json_t *compose(const char *format, int version, const char *data_name, int64_t bytes,
                       hash128 hash, const json_t *more) {
    char text[HASH_TEXT];
    hash_format(hash, text);
    json_t *out = json_pack("{s:s, s:i, s:s, s:I, s:s}", "format", format, "version", version,
                            "file", data_name, "bytes", (json_int_t)bytes, "xxh3_128", text);
    int failed = !out || (more && json_object_update(out, (json_t *)more)) ||
                 own_hash(out, text) != STATUS_OK ||
                 json_object_set_new(out, "check", json_string(text));
    if (!failed) return out;
    json_decref(out);
    return NULL;
}

status manifest_write(const char *path, const char *format, int version, const char *data_name,
                      int64_t bytes, hash128 hash, const json_t *more) {
    json_t *json = compose(format, version, data_name, bytes, hash, more);
    char *text = json ? json_write_text(json, JSON_INDENT(1)) : NULL;
    json_decref(json);
    if (!text) return status_fail(STATUS_MEMORY, "%s: out of memory", path);
    status s = file_write_all(path, text, strlen(text));
    mem_free(text);
    return s;
}

/* ---- reading ---- */

static status check_format(const manifest *m, const char *path, const char *format,
                           int version) {
    const char *found = json_string_value(json_object_get(m->json, "format"));
    const json_t *found_version = json_object_get(m->json, "version");
    if (!found || strcmp(found, format) || !json_is_integer(found_version))
        return status_fail(STATUS_MODEL, "%s: is not a manifest of the format %s", path,
                           format);
    if (json_integer_value(found_version) != version)
        return status_fail(STATUS_MODEL,
                           "%s: has version %lld of its format, this program reads %d", path,
                           (long long)json_integer_value(found_version), version);
    return STATUS_OK;
}

static char *beside(const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    return slash ? mem_printf("%.*s/%s", (int)(slash - path), path, name) : mem_strdup(name);
}

static status check_data(manifest *m, const char *path) {
    const char *name = json_string_value(json_object_get(m->json, "file"));
    const char *hash = json_string_value(json_object_get(m->json, "xxh3_128"));
    const json_t *bytes = json_object_get(m->json, "bytes");
    if (!name || !*name || strchr(name, '/') || !json_is_integer(bytes) || !hash ||
        hash_parse(hash, &m->hash))
        return status_fail(STATUS_MODEL,
                           "%s: \"file\", \"bytes\" or \"xxh3_128\" is malformed", path);
    m->bytes = json_integer_value(bytes);
    if (!(m->data_path = beside(path, name))) return STATUS_MEMORY;
    file f;
    status s = file_open(&f, m->data_path);
    if (s == STATUS_IO) return STATUS_MODEL;
    TRY(s);
    if (f.size != m->bytes)
        s = status_fail(STATUS_MODEL, "%s: has %lld bytes, its manifest says %lld",
                        m->data_path, (long long)f.size, (long long)m->bytes);
    file_close(&f);
    return s;
}

status manifest_read(manifest *m, const char *path, const char *format, int version) {
    memset(m, 0, sizeof *m);
    TRY(json_read_file(path, MAX_MANIFEST, STATUS_MODEL, &m->json));
    status s = check_format(m, path, format, version);
    if (s == STATUS_OK) s = check_itself(m, path);
    if (s == STATUS_OK) s = check_data(m, path);
    if (s != STATUS_OK) manifest_close(m);
    return s;
}

void manifest_close(manifest *m) {
    json_decref(m->json);
    mem_free(m->data_path);
    memset(m, 0, sizeof *m);
}

status manifest_verify(const manifest *m) {
    file f;
    TRY(file_open(&f, m->data_path));
    hash128 found = {0, 0};
    status s = identity_range(&f, 0, m->bytes, &found);
    file_close(&f);
    if (s == STATUS_OK && !hash_equal(found, m->hash))
        s = status_fail(STATUS_MODEL,
                        "%s: its bytes are not those that were written (XXH3-128)",
                        m->data_path);
    return s;
}
