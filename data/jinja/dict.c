/* dict.c: Python's dict: any value with a hash as key, in the order of insertion. Few pairs are
 * searched one after the other, many through an index. */
#include "data/jinja/text.h"

#include <math.h>
#include <string.h>

enum { PLAIN = 12 }; /* pairs without an index */

uint32_t jinja_text_hash(const char *text, size_t bytes) {
    uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a, a word at a time */
    for (; bytes >= 8; text += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        h = (h ^ word) * 0x9E3779B97F4A7C15ull;
        h ^= h >> 29;
    }
    for (; bytes; text++, bytes--) h = (h ^ (unsigned char)*text) * 0x100000001b3ull;
    h = (h ^ h >> 32) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(h >> 32) | 1;
}

uint32_t jinja_string_hash(string *s) {
    if (!s->hash) s->hash = jinja_text_hash(s->text, s->bytes);
    return s->hash;
}

static status hash_tuple(machine *m, const list *l, uint32_t *out) {
    uint32_t h = 17, one;
    for (size_t i = 0; i < l->count; i++) {
        TRY(jinja_hash(m, &l->items[i], &one));
        h = h * 31 + one;
    }
    *out = h | 1;
    return STATUS_OK;
}

/* Numbers that are equal have the same hash. */
static uint32_t hash_number(const value *key) {
    double d;
    jinja_number(key, &d);
    return d == floor(d) && fabs(d) < 9e15 ? (uint32_t)(int64_t)d * 2654435761u | 1
                                           : jinja_text_hash((const char *)&d, sizeof d);
}

status jinja_hash(machine *m, const value *key, uint32_t *out) {
    switch (key->kind) {
    case V_STRING:
        *out = jinja_string_hash(key->string);
        return STATUS_OK;
    case V_BOOL:
    case V_INT:
    case V_REAL:
        *out = hash_number(key);
        return STATUS_OK;
    case V_TUPLE:
        return hash_tuple(m, key->list, out);
    case V_LIST:
    case V_DICT:
        return jinja_raise(m, "TypeError", "unhashable type: '%s'", jinja_type(key));
    default:
        *out = (uint32_t)key->kind + 1;
        return STATUS_OK;
    }
}

pair *jinja_dict_find(const dict *d, const value *key, uint32_t hash) {
    if (!d->index) {
        for (size_t i = 0; i < d->count; i++)
            if (d->pairs[i].hash == hash && jinja_equal(&d->pairs[i].key, key))
                return &d->pairs[i];
        return NULL;
    }
    for (size_t slot = hash & (d->slots - 1); d->index[slot];
         slot = (slot + 1) & (d->slots - 1)) {
        pair *p = &d->pairs[d->index[slot] - 1];
        if (p->hash == hash && jinja_equal(&p->key, key)) return p;
    }
    return NULL;
}

pair *jinja_dict_text(const dict *d, const char *key) {
    string s = {.text = key, .bytes = (uint32_t)strlen(key), .chars = UNCOUNTED};
    value v = STRING(&s);
    return jinja_dict_find(d, &v, jinja_string_hash(&s));
}

status jinja_dict_new(machine *m, size_t capacity, dict **out) {
    TRY(jinja_new(m, sizeof **out, out));
    (*out)->capacity = capacity;
    return capacity ? jinja_new(m, capacity * sizeof(pair), &(*out)->pairs) : STATUS_OK;
}

static void add_to_index(dict *d, size_t i) {
    size_t slot = d->pairs[i].hash & (d->slots - 1);
    while (d->index[slot]) slot = (slot + 1) & (d->slots - 1);
    d->index[slot] = (uint32_t)i + 1;
}

static status grow(machine *m, dict *d) {
    if (d->count == d->capacity) {
        pair *pairs;
        size_t capacity = d->capacity ? d->capacity * 2 : 4;
        TRY(jinja_new(m, capacity * sizeof *pairs, &pairs));
        if (d->count) memcpy(pairs, d->pairs, d->count * sizeof *pairs);
        d->pairs = pairs, d->capacity = capacity;
    }
    if (d->count < PLAIN || d->count * 2 < d->slots) return STATUS_OK;
    size_t slots = d->slots ? d->slots * 2 : 64;
    TRY(jinja_new(m, slots * sizeof *d->index, &d->index));
    d->slots = slots;
    for (size_t i = 0; i < d->count; i++) add_to_index(d, i);
    return STATUS_OK;
}

status jinja_dict_append(machine *m, dict *d, value key, value v, uint32_t hash) {
    TRY(grow(m, d));
    d->pairs[d->count++] = (pair){key, v, hash};
    if (d->index) add_to_index(d, d->count - 1);
    return STATUS_OK;
}

status jinja_dict_set(machine *m, dict *d, value key, value v) {
    uint32_t hash = 0;
    TRY(jinja_hash(m, &key, &hash));
    pair *found = jinja_dict_find(d, &key, hash);
    if (found) {
        found->value = v;
        return STATUS_OK;
    }
    return jinja_dict_append(m, d, key, v, hash);
}
