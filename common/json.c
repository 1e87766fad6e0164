/* json.c: see json.h. */
#include "common/json.h"
#include "common/alloc.h"
#include "common/file.h"

#include <math.h>
#include <setjmp.h>
#include <string.h>

/* jansson is not safe when memory ends: a token whose buffer cannot grow loses bytes, and its
 * scanner then runs past the end (2.14, lex_save and lex_scan_string). So while jansson parses or
 * prints, its allocations are noted, and the first that fails jumps out of it and frees them all. */
static _Thread_local struct {
    bool on;
    jmp_buf out;
    void **blocks;
    size_t count, capacity;
} guard;

static void *json_allocate(size_t bytes) {
    void *block = mem_alloc(bytes, "JSON");
    if (!guard.on) return block;
    if (!block ||
        mem_grow(&guard.blocks, &guard.capacity, guard.count + 1, sizeof block, "JSON")) {
        mem_free(block);
        longjmp(guard.out, 1);
    }
    return guard.blocks[guard.count++] = block;
}

static void json_release(void *block) {
    for (size_t i = guard.on && block ? guard.count : 0; i-- > 0;) /* the newest go first */
        if (guard.blocks[i] == block) {
            guard.blocks[i] = guard.blocks[--guard.count];
            break;
        }
    mem_free(block);
}

static void guard_end(bool release) {
    guard.on = false;
    for (size_t i = 0; release && i < guard.count; i++) mem_free(guard.blocks[i]);
    mem_free(guard.blocks);
    guard.blocks = NULL;
    guard.count = guard.capacity = 0;
}

void json_setup(void) { json_set_alloc_funcs(json_allocate, json_release); }

status json_read_text(const char *text, size_t bytes, const char *where, status code,
                      json_t **out) {
    json_error_t e;
    *out = NULL;
    if (setjmp(guard.out)) {
        guard_end(true);
        return status_fail(STATUS_MEMORY, "%s: out of memory while parsing JSON", where);
    }
    size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    guard.on = true;
    *out = json_loadb(text, bytes, flags, &e);
    /* an integer beyond 64 bits (model_max_length as 10^30 in full): then all are read as reals */
    if (!*out && json_error_code(&e) == json_error_numeric_overflow)
        *out = json_loadb(text, bytes, flags | JSON_DECODE_INT_AS_REAL, &e);
    guard_end(false);
    if (*out) return STATUS_OK;
    return status_fail(code, "%s:%d:%d: %s", where, e.line, e.column, e.text);
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
        s = status_fail(code,
                        "%s: is a Git-LFS pointer, not the file itself: run `git lfs pull` in its "
                        "folder, or download it again",
                        path);
    else
        s = json_read_text(text, bytes, path, code, out);
    mem_free(text);
    return s;
}

const char *json_type_name(const json_t *value) {
    static const char *const names[] = {"an object", "a list",  "a string", "an integer",
                                        "a number",  "true",    "false",    "null"};
    return value ? names[json_typeof(value)] : "nothing";
}

static status wrong(const char *where, const char *key, const char *wanted, const json_t *value,
                    status code) {
    return status_fail(code, "%s: \"%s\" must be %s, it is %s", where, key, wanted,
                       json_type_name(value));
}

status json_get_int(const json_t *object, const char *key, int64_t *out, const char *where, status code) {
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

status json_get_real(const json_t *object, const char *key, double *out, const char *where, status code) {
    json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v)) return STATUS_OK;
    if (!json_is_number(v)) return wrong(where, key, "a number", v, code);
    *out = json_number_value(v);
    return STATUS_OK;
}

status json_get_bool(const json_t *object, const char *key, bool *out, const char *where, status code) {
    json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v)) return STATUS_OK;
    if (!json_is_boolean(v)) return wrong(where, key, "true or false", v, code);
    *out = json_is_true(v);
    return STATUS_OK;
}

status json_get_text(const json_t *object, const char *key, const char **out, const char *where, status code) {
    json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v)) return STATUS_OK;
    if (!json_is_string(v)) return wrong(where, key, "a string", v, code);
    *out = json_string_value(v);
    return STATUS_OK;
}

char *json_write_text(const json_t *value, size_t flags) {
    const size_t style = JSON_ENCODE_ANY | flags | (flags & JSON_INDENT(31) ? 0 : JSON_COMPACT);
    if (setjmp(guard.out)) {
        guard_end(true);
        return NULL;
    }
    guard.on = true;
    char *text = json_dumps(value, style);
    guard_end(false);
    return text;
}
