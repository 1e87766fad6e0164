/* json.c: see json.h. */
#include "common/json.h"
#include "common/alloc.h"
#include "common/file.h"
#include "common/json_scan.h"

#include <math.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <string.h>

/* jansson asks for millions of small blocks (a tokenizer.json has two million strings and
 * lists), so while it parses or prints, they are cut from chunks; a chunk is freed with the
 * last block in it, which may be long after and on another thread. Outside of that each block
 * is its own chunk.
 *
 *   | chunk, 32 bytes | owner 16 | block ... | owner 16 | block ... |
 *
 * jansson is also not safe when memory ends: a token whose buffer cannot grow loses bytes, and
 * its scanner then runs past the end (2.14, lex_save and lex_scan_string). So the first chunk
 * that cannot be had jumps out of it and frees all chunks of that call. */
typedef struct chunk {
    atomic_size_t live; /* blocks, and one for the call that fills it */
    struct chunk *next; /* of the same call */
    size_t used, size;  /* bytes */
} chunk;

enum { CHUNK = 64 << 10, OWNER = 16 }; /* bytes */

static _Thread_local struct {
    bool on;
    jmp_buf out;
    chunk *chunks; /* of this call, the open one first */
} guard;

static chunk *chunk_open(size_t size) {
    chunk *c = mem_alloc(sizeof *c + size, "JSON");
    if (!c) return NULL;
    atomic_init(&c->live, 1);
    c->size = size;
    return c;
}

static void chunk_drop(chunk *c) {
    if (atomic_fetch_sub(&c->live, 1) == 1) mem_free(c);
}

static void *chunk_cut(chunk *c, size_t bytes) {
    char *block = (char *)(c + 1) + c->used + OWNER;
    memcpy(block - OWNER, &c, sizeof c);
    c->used += bytes;
    return block;
}

static void *json_allocate(size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + 2 * OWNER - 1) / OWNER * OWNER; /* rounded up, with the owner */
    if (!guard.on) {
        chunk *c = chunk_open(bytes);
        return c ? chunk_cut(c, bytes) : NULL;
    }
    if (!guard.chunks || guard.chunks->size - guard.chunks->used < bytes) {
        chunk *c = chunk_open(bytes > CHUNK ? bytes : CHUNK);
        if (!c) longjmp(guard.out, 1);
        c->next = guard.chunks;
        guard.chunks = c;
    }
    atomic_fetch_add(&guard.chunks->live, 1);
    return chunk_cut(guard.chunks, bytes);
}

static void json_release(void *block) {
    chunk *c;
    if (!block) return;
    memcpy(&c, (char *)block - OWNER, sizeof c);
    chunk_drop(c);
}

static void guard_end(bool release) {
    guard.on = false;
    for (chunk *c = guard.chunks, *next; c; c = next) {
        next = c->next;
        if (release)
            mem_free(c);
        else
            chunk_drop(c);
    }
    guard.chunks = NULL;
}

void json_setup(void) {
    json_set_alloc_funcs(json_allocate, json_release);
}

status json_parse(const char *text, size_t bytes, size_t flags, json_error_t *e,
                  json_t **out) {
    *out = NULL;
    if (setjmp(guard.out)) {
        guard_end(true);
        return status_fail(STATUS_MEMORY, "out of memory while parsing JSON");
    }
    guard.on = true;
    if (flags == (JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY))
        *out = json_scan(text, bytes);
    if (!*out) *out = json_loadb(text, bytes, flags, e);
    guard_end(false);
    return STATUS_OK;
}

status json_read_text(const char *text, size_t bytes, const char *where, status code,
                      json_t **out) {
    json_error_t e;
    size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    status s = json_parse(text, bytes, flags, &e, out);
    /* an integer beyond 64 bits (model_max_length as 10^30 in full): then all are read as
     * reals */
    if (s == STATUS_OK && !*out && json_error_code(&e) == json_error_numeric_overflow)
        s = json_parse(text, bytes, flags | JSON_DECODE_INT_AS_REAL, &e, out);
    if (s != STATUS_OK) return status_prefix(s, "%s", where);
    return *out ? STATUS_OK
                : status_fail(code, "%s:%d:%d: %s", where, e.line, e.column, e.text);
}

status json_read_file(const char *path, int64_t limit, status code, json_t **out) {
    *out = NULL;
    char *text;
    size_t bytes;
    status s = file_read_all(path, limit, &text, &bytes);
    if (s == STATUS_IO) return code;
    TRY(s);
    static const char pointer[] = "version https://git-lfs";
    if (bytes >= sizeof pointer - 1 && !memcmp(text, pointer, sizeof pointer - 1))
        s = status_fail(
            code,
            "%s: is a Git-LFS pointer, not the file itself: run `git lfs pull` in its "
            "folder, or download it again",
            path);
    else
        s = json_read_text(text, bytes, path, code, out);
    mem_free(text);
    return s;
}

const char *json_type_name(const json_t *value) {
    static const char *const names[] = {"an object", "a list", "a string", "an integer",
                                        "a number",  "true",   "false",    "null"};
    return value ? names[json_typeof(value)] : "nothing";
}

static status wrong(const char *where, const char *key, const char *wanted,
                    const json_t *value, status code) {
    return status_fail(code, "%s: \"%s\" must be %s, it is %s", where, key, wanted,
                       json_type_name(value));
}

status json_get_int(const json_t *object, const char *key, int64_t *out, const char *where,
                    status code) {
    json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v)) return STATUS_OK;
    if (json_is_real(v)) {
        double x = json_real_value(v);
        if (x == floor(x) && fabs(x) < 9e15) {
            *out = (int64_t)x;
            return STATUS_OK;
        }
    }
    if (!json_is_integer(v)) return wrong(where, key, "an integer", v, code);
    *out = json_integer_value(v);
    return STATUS_OK;
}

status json_get_real(const json_t *object, const char *key, double *out, const char *where,
                     status code) {
    json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v)) return STATUS_OK;
    if (!json_is_number(v)) return wrong(where, key, "a number", v, code);
    *out = json_number_value(v);
    return STATUS_OK;
}

status json_get_bool(const json_t *object, const char *key, bool *out, const char *where,
                     status code) {
    json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v)) return STATUS_OK;
    if (!json_is_boolean(v)) return wrong(where, key, "true or false", v, code);
    *out = json_is_true(v);
    return STATUS_OK;
}

status json_get_text(const json_t *object, const char *key, const char **out,
                     const char *where, status code) {
    json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v)) return STATUS_OK;
    if (!json_is_string(v)) return wrong(where, key, "a string", v, code);
    *out = json_string_value(v);
    return STATUS_OK;
}

void json_put(json_t **object, const char *key, json_t *value) {
    if (*object && !json_object_set_new(*object, key, value)) return;
    if (!*object) json_decref(value);
    json_decref(*object);
    *object = NULL;
}

void json_push(json_t **list, json_t *value) {
    if (*list && !json_array_append_new(*list, value)) return;
    if (!*list) json_decref(value);
    json_decref(*list);
    *list = NULL;
}

json_t *json_clone(const json_t *value) {
    if (setjmp(guard.out)) {
        guard_end(true);
        return NULL;
    }
    guard.on = true;
    json_t *copy = json_deep_copy(value);
    guard_end(false);
    return copy;
}

char *json_write_text(const json_t *value, size_t flags) {
    const size_t style =
        JSON_ENCODE_ANY | flags | (flags & JSON_INDENT(31) ? 0 : JSON_COMPACT);
    if (setjmp(guard.out)) {
        guard_end(true);
        return NULL;
    }
    guard.on = true;
    char *text = json_dumps(value, style);
    guard_end(false);
    char *copy = text ? mem_strdup(text) : NULL; /* for mem_free */
    json_release(text);
    return copy;
}
