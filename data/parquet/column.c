/* column.c: see column.h. */
#include "data/parquet/column.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "data/parquet/codec.h"

#include <string.h>
#include <zlib.h>

enum {
    HEADER_FIRST = 1 << 10, /* bytes of a page header that are tried first ... */
    HEADER_LIMIT = 1 << 24, /* ... and last: statistics may be long */
};

/* ---- messages and memory ---- */

status parquet_column_place(const parquet_column *c, status s) {
    if (s != STATUS_DATA) return s;
    return status_prefix(s, "column `%s`, row group %zu", c->leaf->path, c->group + 1);
}

status parquet_column_fail(const parquet_column *c, const char *what) {
    return parquet_column_place(c, status_fail(STATUS_DATA, "%s", what));
}

static status reserve(parquet_source *s, parquet_buffer *b, size_t bytes) {
    if (bytes <= b->capacity) return STATUS_OK;
    if (bytes - b->capacity > s->limit - s->memory)
        return status_fail(STATUS_DATA, "its pages want more than %zu MiB of memory at once",
                           s->limit >> 20);
    s->memory -= b->capacity; /* nothing of the old content is wanted */
    mem_free(b->data);
    b->capacity = 0;
    b->data = mem_alloc(bytes, "a Parquet page");
    if (!b->data) return STATUS_MEMORY;
    b->capacity = bytes;
    s->memory += bytes;
    return STATUS_OK;
}

void parquet_column_open(parquet_column *c, parquet_source *source, const parquet_leaf *leaf) {
    c->source = source;
    c->leaf = leaf;
}

void parquet_column_close(parquet_column *c) {
    mem_free(c->page.data);
    mem_free(c->dictionary_page.data);
    mem_free(c->dictionary_items.data);
    values_close(&c->values);
}

/* ---- pages ---- */

/* The header at c->at, and the page's first byte. Its size is nowhere said: it is read from so
 * many bytes, or from more when they end within it. */
static status read_header(parquet_column *c, parquet_page_header *h, int64_t *body) {
    parquet_source *s = c->source;
    int64_t room = min_i64(s->data_end - c->at, HEADER_LIMIT), n = 0;
    thrift t = {.ran_out = true, .broken = true};
    *body = c->at;
    while (t.ran_out && n < room) {
        n = min_i64(n ? n * 16 : HEADER_FIRST, room);
        TRY(reserve(s, &s->packed, (size_t)n));
        TRY(file_read_at(s->f, s->packed.data, (size_t)n, c->at));
        t = (thrift){.at = s->packed.data, .end = s->packed.data + n};
        parquet_page_header_read(&t, h);
        *body = c->at + (t.at - s->packed.data);
    }
    if (t.broken || h->bytes < 0 || h->bytes > INT32_MAX || h->packed_bytes < 0 ||
        h->packed_bytes > s->data_end - *body)
        return status_fail(STATUS_DATA, "a page header is damaged, or the file is cut off");
    return STATUS_OK;
}

static status check_crc(const parquet_page_header *h, const uint8_t *data, size_t bytes) {
    if (!h->has_crc || crc32(0, data, (unsigned)bytes) == h->crc) return STATUS_OK;
    return status_fail(STATUS_DATA, "a page's checksum is wrong: the file is damaged");
}

/* The page's bytes as they lie in the file: in *b where they stay as they are, else in the
 * source's buffer. */
static status read_packed(parquet_column *c, const parquet_page_header *h, int64_t body,
                          parquet_buffer *b) {
    size_t packed = (size_t)h->packed_bytes;
    TRY(reserve(c->source, b, packed));
    TRY(file_read_at(c->source->f, b->data, packed, body));
    return check_crc(h, b->data, packed);
}

/* The page's bytes, decompressed but for `plain` at its beginning, into *out. */
static status read_body(parquet_column *c, const parquet_page_header *h, int64_t body,
                        size_t plain, bool is_packed, parquet_buffer *out) {
    size_t packed = (size_t)h->packed_bytes, bytes = (size_t)h->bytes;
    if (plain > packed || plain > bytes)
        return status_fail(STATUS_DATA, "a page's levels are larger than the page");
    if (!is_packed) {
        if (packed != bytes)
            return status_fail(STATUS_DATA, "a page of %zu bytes that is said to have %zu",
                               packed, bytes);
        return read_packed(c, h, body, out);
    }
    parquet_buffer *buffer = &c->source->packed;
    if (!codec_is_plausible(c->codec, packed - plain, bytes - plain))
        return status_fail(STATUS_DATA,
                           "a page of %zu bytes cannot hold the %zu that it is "
                           "said to",
                           packed, bytes);
    TRY(read_packed(c, h, body, buffer));
    TRY(reserve(c->source, out, bytes));
    if (plain) memcpy(out->data, buffer->data, plain);
    if (bytes == plain) return STATUS_OK; /* some writers then write no compressed block */
    return codec_unpack(c->codec, buffer->data + plain, packed - plain, out->data + plain,
                        bytes - plain);
}

/* ---- dictionaries ---- */

static status read_dictionary(parquet_column *c, const parquet_page_header *h, int64_t body) {
    const parquet_element *e = c->leaf->element;
    value_dictionary *d = &c->dictionary;
    if (c->has_dictionary) return status_fail(STATUS_DATA, "it has two dictionaries");
    if (h->encoding != ENCODING_PLAIN && h->encoding != ENCODING_PLAIN_DICTIONARY)
        return status_fail(STATUS_DATA, "its dictionary has the encoding number %lld",
                           (long long)h->encoding);
    TRY(read_body(c, h, body, 0, !codec_is_none(c->codec), &c->dictionary_page));
    size_t least = e->type == PARQUET_BYTES ? 4 : values_width(e);
    if (h->values < 0 || !least || h->values > h->bytes / (int64_t)least)
        return status_fail(STATUS_DATA, "its dictionary of %lld bytes cannot have %lld values",
                           (long long)h->bytes, (long long)h->values);
    d->count = (size_t)h->values;
    TRY(reserve(c->source, &c->dictionary_items, d->count * sizeof *d->items));
    d->items = (parquet_value *)c->dictionary_items.data;
    TRY(values_open(&c->values, e, ENCODING_PLAIN, c->dictionary_page.data, (size_t)h->bytes,
                    NULL));
    for (size_t i = 0; i < d->count; i++) TRY(values_next(&c->values, &d->items[i]));
    c->has_dictionary = true;
    return STATUS_OK;
}

/* ---- data pages ---- */

static int width_of(unsigned level) {
    return level ? 32 - __builtin_clz(level) : 0;
}

/* Levels of the first kind of page: their length in four bytes, then runs. */
static status open_levels(run_reader *r, uint8_t highest, int64_t encoding, const uint8_t **at,
                          const uint8_t *end) {
    if (!highest) return STATUS_OK;
    if (encoding != ENCODING_RLE)
        return status_fail(STATUS_DATA, "its levels have the encoding %s, which is not read",
                           encoding == ENCODING_BIT_PACKED ? "BIT_PACKED"
                                                           : "of a later version");
    if (end - *at < 4) return status_fail(STATUS_DATA, "a page's levels are cut off");
    uint32_t bytes = (uint32_t)(*at)[0] | (uint32_t)(*at)[1] << 8 | (uint32_t)(*at)[2] << 16 |
                     (uint32_t)(*at)[3] << 24;
    *at += 4;
    if (bytes > (size_t)(end - *at))
        return status_fail(STATUS_DATA, "a page's levels are cut off");
    const uint8_t *levels = *at;
    *at += bytes;
    return run_open(r, levels, bytes, width_of(highest));
}

static status open_values(parquet_column *c, const parquet_page_header *h, const uint8_t *at) {
    c->page_left = h->values;
    return values_open(&c->values, c->leaf->element, h->encoding, at,
                       (size_t)(c->page.data + h->bytes - at),
                       c->has_dictionary ? &c->dictionary : NULL);
}

static status open_data(parquet_column *c, const parquet_page_header *h, int64_t body) {
    TRY(read_body(c, h, body, 0, !codec_is_none(c->codec), &c->page));
    const uint8_t *at = c->page.data, *end = at + h->bytes;
    TRY(open_levels(&c->repetitions, c->leaf->repetition, h->repetition_encoding, &at, end));
    TRY(open_levels(&c->definitions, c->leaf->definition, h->definition_encoding, &at, end));
    return open_values(c, h, at);
}

/* The second kind: levels come first and are never compressed. */
static status open_data_2(parquet_column *c, const parquet_page_header *h, int64_t body) {
    int64_t first = h->repetition_bytes, second = h->definition_bytes;
    if (first < 0 || second < 0 || first > h->bytes || second > h->bytes - first)
        return status_fail(STATUS_DATA, "a page's levels are larger than the page");
    size_t levels = (size_t)(first + second);
    TRY(read_body(c, h, body, levels, h->packed && !codec_is_none(c->codec), &c->page));
    TRY(run_open(&c->repetitions, c->page.data, (size_t)first, width_of(c->leaf->repetition)));
    TRY(run_open(&c->definitions, c->page.data + first, (size_t)second,
                 width_of(c->leaf->definition)));
    return open_values(c, h, c->page.data + levels);
}

static status next_page(parquet_column *c) {
    parquet_page_header h = {0};
    int64_t body;
    TRY(read_header(c, &h, &body));
    c->at = body + h.packed_bytes;
    if (h.type == PAGE_DICTIONARY) return read_dictionary(c, &h, body);
    if (h.type != PAGE_DATA && h.type != PAGE_DATA_2) return STATUS_OK; /* an index, say */
    if (h.values < 0 || h.values > c->chunk_left)
        return status_fail(STATUS_DATA, "a page of %lld values where %lld are left",
                           (long long)h.values, (long long)c->chunk_left);
    c->chunk_left -= h.values;
    return h.type == PAGE_DATA ? open_data(c, &h, body) : open_data_2(c, &h, body);
}

/* ---- values ---- */

static status check_chunk(const parquet_column *c, const parquet_chunk *chunk) {
    if (chunk->elsewhere)
        return status_fail(STATUS_DATA, "its data lie in another file, which is not read");
    if (chunk->type != c->leaf->element->type || chunk->at > c->source->data_end)
        return status_fail(STATUS_DATA, "what the footer says of it does not fit");
    return codec_check(chunk->codec);
}

status parquet_column_start(parquet_column *c, const parquet_chunk *chunk, size_t group) {
    c->group = group;
    TRY(parquet_column_place(c, check_chunk(c, chunk)));
    c->codec = chunk->codec;
    c->at = chunk->at;
    c->chunk_left = chunk->values;
    c->page_left = 0;
    c->has_dictionary = false;
    c->next = c->count = 0;
    return STATUS_OK;
}

static status read_levels(run_reader *r, uint8_t highest, uint8_t *out, size_t n) {
    uint32_t levels[COLUMN_BATCH];
    if (!highest) {
        memset(out, 0, n);
        return STATUS_OK;
    }
    if (run_read(r, levels, n) < n)
        return status_fail(STATUS_DATA, "a page's levels end early");
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)levels[i];
        most = levels[i] > most ? levels[i] : most;
    }
    return most <= highest ? STATUS_OK : status_fail(STATUS_DATA, "a level is too high");
}

static status fill(parquet_column *c) {
    while (!c->page_left && c->chunk_left) TRY(next_page(c));
    size_t n = (size_t)min_i64(c->page_left, COLUMN_BATCH);
    c->next = c->count = 0;
    TRY(read_levels(&c->repetitions, c->leaf->repetition, c->repetition, n));
    TRY(read_levels(&c->definitions, c->leaf->definition, c->definition, n));
    c->page_left -= (int64_t)n;
    c->count = n;
    return STATUS_OK;
}

status parquet_column_fill(parquet_column *c) {
    return c->next < c->count ? STATUS_OK : parquet_column_place(c, fill(c));
}

status parquet_column_value(parquet_column *c, parquet_value *out) {
    return parquet_column_place(c, values_next(&c->values, out));
}

status parquet_column_skip(parquet_column *c, int64_t rows) {
    parquet_value value;
    for (;;) {
        TRY(parquet_column_fill(c));
        if (c->next == c->count)
            return rows ? parquet_column_fail(c, "it ends before the row group does")
                        : STATUS_OK;
        for (; c->next < c->count; c->next++) {
            if (!c->repetition[c->next] && rows-- == 0) return STATUS_OK;
            if (c->definition[c->next] == c->leaf->definition)
                TRY(parquet_column_value(c, &value));
        }
    }
}
