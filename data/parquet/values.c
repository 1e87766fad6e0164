/* values.c: see values.h. An encoding is a function that opens and one that gives the next
 * value; the table at the end says which goes with which type. */
#include "data/parquet/values.h"

#include <string.h>

static status ends_early(void) {
    return status_fail(STATUS_DATA, "its values end early");
}

size_t values_width(const parquet_element *e) {
    static const uint8_t widths[PARQUET_TYPES] = {
        [PARQUET_INT32] = 4, [PARQUET_INT64] = 8,  [PARQUET_INT96] = 12,
        [PARQUET_FLOAT] = 4, [PARQUET_DOUBLE] = 8, [PARQUET_FIXED] = 0};
    return e->type == PARQUET_FIXED ? (size_t)e->length : widths[e->type];
}

static uint32_t load32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t load64(const uint8_t *p) {
    return load32(p) | (uint64_t)load32(p + 4) << 32;
}

/* A value whose bytes are all there. */
static void from_bytes(const parquet_element *e, const uint8_t *p, size_t width,
                       parquet_value *out) {
    if (e->type == PARQUET_INT32)
        out->number = (int32_t)load32(p);
    else if (e->type == PARQUET_FLOAT)
        out->number = load32(p);
    else if (e->type == PARQUET_INT64 || e->type == PARQUET_DOUBLE)
        out->number = (int64_t)load64(p);
    else
        *out = (parquet_value){.bytes = p, .size = width};
}

/* ---- PLAIN ---- */

static status next_bytes(value_reader *r, parquet_value *out) {
    if (r->end - r->at < 4) return ends_early();
    uint32_t n = load32(r->at);
    if (n > (size_t)(r->end - r->at) - 4) return ends_early();
    out->bytes = r->at + 4;
    out->size = n;
    r->at += 4 + (size_t)n;
    return STATUS_OK;
}

static status next_fixed(value_reader *r, parquet_value *out) {
    if ((size_t)(r->end - r->at) < r->width) return ends_early();
    from_bytes(r->element, r->at, r->width, out);
    r->at += r->width;
    return STATUS_OK;
}

static status next_bit(value_reader *r, parquet_value *out) {
    if (r->at == r->end) return ends_early();
    out->number = *r->at >> r->bit & 1;
    r->bit = (r->bit + 1) % 8;
    r->at += r->bit == 0;
    return STATUS_OK;
}

static status open_plain(value_reader *r) {
    r->bit = 0;
    r->next = r->element->type == PARQUET_BYTES     ? next_bytes
              : r->element->type == PARQUET_BOOLEAN ? next_bit
                                                    : next_fixed;
    return STATUS_OK;
}

/* ---- dictionaries and runs ---- */

/* A page with nulls has fewer indices than levels, so what comes is all there is. */
static status next_index(value_reader *r, uint32_t *out) {
    if (r->index == r->index_count) {
        r->index = 0;
        r->index_count = run_read(&r->runs, r->indices, VALUE_INDICES);
        if (!r->index_count) return ends_early();
    }
    *out = r->indices[r->index++];
    return STATUS_OK;
}

static status next_in_dictionary(value_reader *r, parquet_value *out) {
    uint32_t i = 0;
    TRY(next_index(r, &i));
    if (i >= r->dictionary->count)
        return status_fail(STATUS_DATA, "value %u of a dictionary of %zu", i,
                           r->dictionary->count);
    *out = r->dictionary->items[i];
    return STATUS_OK;
}

static status open_dictionary(value_reader *r) {
    if (!r->dictionary) return status_fail(STATUS_DATA, "its dictionary is missing");
    r->next = next_in_dictionary;
    if (r->at == r->end) return run_open(&r->runs, r->at, 0, 0); /* nulls alone */
    return run_open(&r->runs, r->at + 1, (size_t)(r->end - r->at) - 1, *r->at);
}

static status next_run_bit(value_reader *r, parquet_value *out) {
    uint32_t bit = 0;
    TRY(next_index(r, &bit));
    out->number = bit;
    return STATUS_OK;
}

static status open_runs(value_reader *r) {
    r->next = next_run_bit;
    size_t room = (size_t)(r->end - r->at);
    if (!room) return run_open(&r->runs, r->at, 0, 1);
    if (room < 4 || load32(r->at) > room - 4) return ends_early();
    return run_open(&r->runs, r->at + 4, load32(r->at), 1);
}

/* ---- differences ---- */

static status next_delta(value_reader *r, parquet_value *out) {
    int64_t n;
    TRY(delta_next(&r->lengths, &n));
    out->number = r->element->type == PARQUET_INT32 ? (int32_t)n : n;
    return STATUS_OK;
}

static status open_delta(value_reader *r) {
    r->next = next_delta;
    return delta_open(&r->lengths, r->at, (size_t)(r->end - r->at));
}

static status next_length_bytes(value_reader *r, parquet_value *out) {
    int64_t n;
    TRY(delta_next(&r->lengths, &n));
    if (n < 0 || n > r->end - r->at) return ends_early();
    *out = (parquet_value){.bytes = r->at, .size = (size_t)n};
    r->at += n;
    return STATUS_OK;
}

/* Lengths, and behind them the bytes. */
static status open_length_bytes(value_reader *r) {
    r->next = next_length_bytes;
    TRY(delta_open(&r->lengths, r->at, (size_t)(r->end - r->at)));
    return delta_end(&r->lengths, &r->at);
}

/* What a value has in common with the one before, then the rest. */
static status next_prefix_bytes(value_reader *r, parquet_value *out) {
    int64_t prefix;
    parquet_value rest = {0};
    TRY(delta_next(&r->prefixes, &prefix));
    TRY(next_length_bytes(r, &rest));
    if (prefix < 0 || (uint64_t)prefix > r->built.bytes)
        return status_fail(STATUS_DATA, "a value that shares %lld bytes with one of %zu",
                           (long long)prefix, r->built.bytes);
    r->built.bytes = (size_t)prefix;
    TRY(text_append(&r->built, (const char *)rest.bytes, rest.size));
    if (r->width && r->built.bytes != r->width)
        return status_fail(STATUS_DATA, "a value of %zu bytes, not %zu", r->built.bytes,
                           r->width);
    from_bytes(r->element, (const uint8_t *)r->built.data, r->built.bytes, out);
    return STATUS_OK;
}

static status open_prefix_bytes(value_reader *r) {
    r->built.bytes = 0;
    TRY(delta_open(&r->prefixes, r->at, (size_t)(r->end - r->at)));
    TRY(delta_end(&r->prefixes, &r->at));
    TRY(open_length_bytes(r));
    r->next = next_prefix_bytes;
    return STATUS_OK;
}

/* ---- bytes apart ---- */

/* All first bytes, then all second bytes ... */
static status next_split(value_reader *r, parquet_value *out) {
    if (r->item == r->items) return ends_early();
    r->built.bytes = 0;
    TRY(text_reserve(&r->built, r->width));
    for (size_t k = 0; k < r->width; k++)
        r->built.data[k] = (char)r->at[k * r->items + r->item];
    r->item++;
    from_bytes(r->element, (const uint8_t *)r->built.data, r->width, out);
    return STATUS_OK;
}

static status open_split(value_reader *r) {
    size_t bytes = (size_t)(r->end - r->at);
    if (bytes % r->width)
        return status_fail(STATUS_DATA, "%zu bytes are no values of %zu", bytes, r->width);
    r->item = 0;
    r->items = bytes / r->width;
    r->next = next_split;
    return STATUS_OK;
}

/* ---- which goes with which ---- */

enum {
    WHOLE = 1 << PARQUET_INT32 | 1 << PARQUET_INT64,
    TEXTS = 1 << PARQUET_BYTES,
    ANY = (1 << PARQUET_TYPES) - 1,
};

static const struct {
    const char *name;
    status (*open)(value_reader *r);
    unsigned types; /* bits 1 << PARQUET_... */
} encodings[] = {
    [ENCODING_PLAIN] = {"PLAIN", open_plain, ANY},
    [ENCODING_PLAIN_DICTIONARY] = {"PLAIN_DICTIONARY", open_dictionary, ANY},
    [ENCODING_RLE] = {"RLE", open_runs, 1 << PARQUET_BOOLEAN},
    [ENCODING_BIT_PACKED] = {"BIT_PACKED", NULL, 0},
    [ENCODING_DELTA_BINARY_PACKED] = {"DELTA_BINARY_PACKED", open_delta, WHOLE},
    [ENCODING_DELTA_LENGTH_BYTES] = {"DELTA_LENGTH_BYTE_ARRAY", open_length_bytes, TEXTS},
    [ENCODING_DELTA_BYTES] = {"DELTA_BYTE_ARRAY", open_prefix_bytes,
                              TEXTS | 1 << PARQUET_FIXED},
    [ENCODING_RLE_DICTIONARY] = {"RLE_DICTIONARY", open_dictionary, ANY},
    [ENCODING_BYTE_STREAM_SPLIT] = {"BYTE_STREAM_SPLIT", open_split,
                                    WHOLE | 1 << PARQUET_FLOAT | 1 << PARQUET_DOUBLE |
                                        1 << PARQUET_FIXED},
};
enum { ENCODINGS = sizeof encodings / sizeof *encodings };

status values_open(value_reader *r, const parquet_element *e, int64_t encoding,
                   const uint8_t *data, size_t bytes, const value_dictionary *dictionary) {
    bool known = encoding >= 0 && encoding < ENCODINGS && encodings[encoding].name;
    if (!known)
        return status_fail(STATUS_DATA, "has the encoding number %lld, which is not known",
                           (long long)encoding);
    if (!encodings[encoding].open || !(encodings[encoding].types >> e->type & 1))
        return status_fail(STATUS_DATA, "has the encoding %s, which is not read for its type",
                           encodings[encoding].name);
    r->element = e;
    r->at = data;
    r->end = data + bytes;
    r->dictionary = dictionary;
    r->width = values_width(e);
    r->index = r->index_count = 0;
    return encodings[encoding].open(r);
}

void values_close(value_reader *r) {
    mem_free(r->built.data);
    memset(r, 0, sizeof *r);
}
