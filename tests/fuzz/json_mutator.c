/* json_mutator.c: mutations that keep JSON JSON, so that inputs get past the parser and reach
 * what reads the values. One value of the document is picked; it is removed, copied, moved,
 * or replaced by another value of the document or by one from a list of nasty ones; or a key
 * is renamed. Strings go through libFuzzer's own mutations, which knows the dictionary. */
#include "fuzz.h"

#include <stdlib.h>

enum { STRING_MAX = 256 };

typedef struct pick {
    unsigned *state;
    json_t *parent, *value; /* the parent of the document itself is NULL */
    const char *key;        /* in an object */
    size_t index;           /* in a list */
    size_t seen;
} pick;

/* Xorshift: repeatable from the seed. */
static unsigned next(unsigned *state) {
    unsigned x = *state ? *state : 1;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return *state = x;
}

/* Every value is the picked one with the same chance. */
static void visit(pick *p, json_t *parent, const char *key, size_t index, json_t *value) {
    if (next(p->state) % ++p->seen == 0)
        p->parent = parent, p->key = key, p->index = index, p->value = value;
    size_t i;
    const char *name;
    json_t *child;
    json_array_foreach(value, i, child) visit(p, value, NULL, i, child);
    json_object_foreach(value, name, child) visit(p, value, name, 0, child);
}

static pick pick_one(json_t *document, unsigned *state) {
    pick p = {.state = state};
    visit(&p, NULL, NULL, 0, document);
    return p;
}

static json_t *mutated_string(const json_t *value) {
    uint8_t text[STRING_MAX];
    size_t n = json_string_length(value);
    if (n > STRING_MAX / 2) n = STRING_MAX / 2;
    memcpy(text, json_string_value(value), n);
    n = LLVMFuzzerMutate(text, n, sizeof text);
    json_t *out = json_stringn((const char *)text, n); /* NULL when it is no UTF-8 */
    return out ? out : json_string("");
}

static json_t *nasty_value(unsigned *state) {
    static const char *const values[] = {
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1",
        "2",
        "255",
        "256",
        "65536",
        "2147483647",
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "-9223372036854775808",
        "0.0",
        "-0.5",
        "1e-300",
        "1e300",
        "1e19",
        "0.1",
        "\"\"",
        "\"a\"",
        "\"\\u0000\"",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "\"\xf0\x9f\x91\x8d\"",
        "[0, 1]",
        "\"NaN\"",
        "16",
        "64",
        "4096",
    };
    const char *text = values[next(state) % (sizeof values / sizeof *values)];
    return json_loads(text, JSON_DECODE_ANY, NULL);
}

static json_t *replacement(json_t *document, const json_t *value, unsigned *state) {
    switch (next(state) % 4) {
    case 0:
        return json_deep_copy(pick_one(document, state).value);
    case 1:
        if (json_is_string(value)) return mutated_string(value);
        if (json_is_integer(value))
            return json_integer(json_integer_value(value) ^ (json_int_t)1 << next(state) % 63);
        return nasty_value(state);
    case 2:
        if (json_is_integer(value))
            return json_integer(
                (json_int_t)((uint64_t)json_integer_value(value) + next(state) % 5 - 2));
        return nasty_value(state);
    default:
        return nasty_value(state);
    }
}

/* Puts `value` where the picked one is. Returns the document, which may be another now. */
static json_t *put(json_t *document, const pick *p, json_t *value) {
    if (!value) return document;
    if (!p->parent) {
        json_decref(document);
        return value;
    }
    if (p->key)
        json_object_set_new(p->parent, p->key, value);
    else
        json_array_set_new(p->parent, p->index, value);
    return document;
}

static void erase(const pick *p) {
    if (p->key)
        json_object_del(p->parent, p->key);
    else if (p->parent)
        json_array_remove(p->parent, p->index);
}

/* Adds a value of the document beside the picked one, under a key of the document. */
static void insert(json_t *document, const pick *p, unsigned *state) {
    pick other = pick_one(document, state);
    json_t *copy = json_deep_copy(other.value);
    if (json_is_array(p->value))
        json_array_insert_new(p->value, next(state) % (json_array_size(p->value) + 1), copy);
    else if (json_is_object(p->value))
        json_object_set_new(p->value, other.key ? other.key : "a", copy);
    else if (p->parent && !p->key)
        json_array_insert_new(p->parent, p->index, copy);
    else
        json_decref(copy);
}

static void rename_key(const pick *p) {
    if (!p->key) return;
    json_t *old = json_string(p->key), *name = mutated_string(old);
    if (!strlen(json_string_value(name)) ||
        json_string_length(name) != strlen(json_string_value(name)))
        json_string_set(name, "x");
    json_object_set(p->parent, json_string_value(name), p->value);
    json_decref(old);
    json_decref(name);
}

static json_t *change(json_t *document, unsigned *state) {
    pick p = pick_one(document, state);
    switch (next(state) % 8) {
    case 0:
        erase(&p);
        return document;
    case 1:
    case 2:
        insert(document, &p, state);
        return document;
    case 3:
        rename_key(&p);
        return document;
    default:
        return put(document, &p, replacement(document, p.value, state));
    }
}

size_t fuzz_mutate_json(char *text, size_t bytes, size_t room, unsigned seed) {
    json_t *document = json_loadb(text, bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!document) return 0;
    unsigned state = seed | 1;
    for (unsigned n = 1 + seed % 3; n; n--) document = change(document, &state);
    size_t flags = JSON_ENCODE_ANY | JSON_COMPACT;
    size_t n = json_dumpb(document, NULL, 0, flags);
    if (n && n <= room) json_dumpb(document, text, room, flags);
    json_decref(document);
    return n <= room ? n : 0;
}

size_t fuzz_mutate(uint8_t *data, size_t size, size_t room, unsigned seed, size_t first) {
    if (size <= first || seed % 4 == 0) return LLVMFuzzerMutate(data, size, room);
    uint8_t *json = data + first, *nul = memchr(json, 0, size - first);
    size_t bytes = nul ? (size_t)(nul - json) : size - first, rest = size - first - bytes;
    char *out = malloc(room);
    fuzz_require(out != NULL);
    memcpy(out, json, bytes);
    size_t n = fuzz_mutate_json(out, bytes, room - first - rest, seed / 4);
    if (n) {
        memmove(json + n, json + bytes, rest);
        memcpy(json, out, n);
        size = first + n + rest;
    } else {
        size = LLVMFuzzerMutate(data, size, room);
    }
    free(out);
    return size;
}
