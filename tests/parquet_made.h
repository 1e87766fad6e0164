/* parquet_made.h: Parquet files written by hand for tests, piece by piece and with what a
 * writer would not do on purpose. Written from the format's documents, without the reader's
 * code.
 *
 *     made_file f;
 *     made_begin(&f);
 *     made_chunk(&f, PARQUET_INT32, CODEC_NONE);      a column of the row group
 *     made_page(&f, (made_levels){...}, encoding, &body);
 *     made_group(&f, rows);                            ends the row group
 *     made_end(&f, elements, count);                   the footer */
#ifndef NIBBLE_TESTS_PARQUET_MADE_H
#define NIBBLE_TESTS_PARQUET_MADE_H

#include "scratch.h"

#include "data/parquet/metadata.h"

#include <lz4.h>
#include <snappy-c.h>
#include <zlib.h>
#include <zstd.h>

/* what an element or a page does not have is left out */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

typedef struct bytes {
    unsigned char data[1 << 16];
    size_t n;
} bytes;

static inline void put(bytes *b, const void *data, size_t n) {
    assert_true(b->n + n <= sizeof b->data);
    if (n) memcpy(b->data + b->n, data, n);
    b->n += n;
}
static inline void put_byte(bytes *b, unsigned value) {
    unsigned char byte = (unsigned char)value;
    put(b, &byte, 1);
}
static inline void put_varint(bytes *b, uint64_t n) {
    for (; n > 127; n >>= 7) put_byte(b, 128 | (n & 127));
    put_byte(b, (unsigned)n);
}
static inline void put_zigzag(bytes *b, int64_t n) {
    put_varint(b, (uint64_t)n << 1 ^ (uint64_t)(n >> 63));
}
static inline void put_u32(bytes *b, uint32_t n) {
    for (int i = 0; i < 4; i++) put_byte(b, n >> (8 * i) & 255);
}
static inline void put_u64(bytes *b, uint64_t n) {
    put_u32(b, (uint32_t)n), put_u32(b, (uint32_t)(n >> 32));
}

/* ---- thrift: a struct's fields in rising order, ended by made_stop ---- */

typedef struct made_struct {
    bytes *b;
    int last;
} made_struct;

static inline void made_field(made_struct *s, int id, int type) {
    bool far = id - s->last > 15;
    put_byte(s->b, (far ? 0 : (unsigned)(id - s->last) << 4) | (unsigned)type);
    if (far) put_zigzag(s->b, id);
    s->last = id;
}
static inline void made_int(made_struct *s, int id, int64_t value) {
    made_field(s, id, 6);
    put_zigzag(s->b, value);
}
static inline void made_bool(made_struct *s, int id, bool value) {
    made_field(s, id, value ? 1 : 2);
}
static inline void made_text(made_struct *s, int id, const char *text) {
    made_field(s, id, 8);
    put_varint(s->b, strlen(text));
    put(s->b, text, strlen(text));
}
static inline void made_list(made_struct *s, int id, size_t count) { /* of structs */
    made_field(s, id, 9);
    put_byte(s->b, (unsigned)(count < 15 ? count : 15) << 4 | 12);
    if (count >= 15) put_varint(s->b, count);
}
static inline made_struct made_inside(made_struct *s, int id) {
    made_field(s, id, 12);
    return (made_struct){s->b, 0};
}
static inline void made_stop(made_struct *s) {
    put_byte(s->b, 0);
}

/* ---- encodings ---- */

/* Values of `width` bits in groups of eight, or one run for each stretch of equal ones. */
static inline void put_runs(bytes *b, const int *values, int n, int width, bool packed) {
    if (packed) put_varint(b, (uint64_t)((n + 7) / 8) << 1 | 1);
    unsigned word = 0, bits = 0;
    for (int i = 0; packed && i < (n + 7) / 8 * 8; i++) {
        word |= (unsigned)(i < n ? values[i] : 0) << bits;
        for (bits += (unsigned)width; bits >= 8; bits -= 8, word >>= 8)
            put_byte(b, word & 255);
    }
    for (int i = 0, k; !packed && i < n; i = k) {
        for (k = i; k < n && values[k] == values[i]; k++) continue;
        put_varint(b, (uint64_t)(k - i) << 1);
        for (int byte = 0; byte < (width + 7) / 8; byte++)
            put_byte(b, (unsigned)values[i] >> (8 * byte) & 255);
    }
}

/* DELTA_BINARY_PACKED: blocks of 128 in four miniblocks. */
static inline void put_delta(bytes *b, const int64_t *values, int n) {
    put_varint(b, 128), put_varint(b, 4), put_varint(b, (uint64_t)n);
    put_zigzag(b, n ? values[0] : 0);
    for (int from = 1; from < n; from += 128) {
        int count = n - from < 128 ? n - from : 128;
        uint64_t more[128] = {0};
        int64_t least = INT64_MAX;
        for (int i = 0; i < count; i++) {
            int64_t d = (int64_t)((uint64_t)values[from + i] - (uint64_t)values[from + i - 1]);
            least = d < least ? d : least;
        }
        int widths[4] = {0};
        for (int i = 0; i < count; i++) {
            more[i] =
                (uint64_t)values[from + i] - (uint64_t)values[from + i - 1] - (uint64_t)least;
            int width = more[i] ? 64 - __builtin_clzll(more[i]) : 0;
            if (width > widths[i / 32]) widths[i / 32] = width;
        }
        put_zigzag(b, least);
        for (int m = 0; m < 4; m++) put_byte(b, (unsigned)widths[m]);
        for (int m = 0; m * 32 < count; m++) {
            unsigned char packed[32 * 8] = {0};
            for (int bit = 0; bit < 32 * widths[m]; bit++)
                if (more[m * 32 + bit / widths[m]] >> bit % widths[m] & 1)
                    packed[bit / 8] |= (unsigned char)(1 << bit % 8);
            put(b, packed, (size_t)(4 * widths[m]));
        }
    }
}

static inline void put_string(bytes *b, const char *text) { /* PLAIN */
    put_u32(b, (uint32_t)strlen(text));
    put(b, text, strlen(text));
}

/* ---- compression ---- */

enum {
    CODEC_NONE,
    CODEC_SNAPPY,
    CODEC_GZIP,
    CODEC_LZO,
    CODEC_BROTLI,
    CODEC_LZ4_OLD,
    CODEC_ZSTD,
    CODEC_LZ4
};

/* Brotli without compressing (RFC 7932, section 9.2): one stored block, then an empty last. */
static inline void pack_brotli(bytes *out, const void *data, size_t n) {
    uint32_t head = (uint32_t)(n - 1) << 4 | 1u << 20;
    if (n)
        put_byte(out, head & 255), put_byte(out, head >> 8 & 255), put_byte(out, head >> 16);
    put(out, data, n);
    put_byte(out, n ? 3 : 6);
}

static inline void pack_gzip(bytes *out, const void *data, size_t n) {
    z_stream z = {.next_in = (unsigned char *)data, .avail_in = (unsigned)n};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_out = out->data + out->n;
    z.avail_out = (unsigned)(sizeof out->data - out->n);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    out->n += z.total_out;
    deflateEnd(&z);
}

static inline void put_packed(bytes *out, int codec, const void *data, size_t n) {
    size_t room = sizeof out->data - out->n;
    char *to = (char *)out->data + out->n;
    if (codec == CODEC_SNAPPY) {
        assert_int_equal(snappy_compress(data, n, to, &room), SNAPPY_OK);
        out->n += room;
    } else if (codec == CODEC_ZSTD)
        out->n += ZSTD_compress(to, room, data, n, 3);
    else if (codec == CODEC_LZ4)
        out->n += (size_t)LZ4_compress_default(data, to, (int)n, (int)room);
    else if (codec == CODEC_GZIP)
        pack_gzip(out, data, n);
    else if (codec == CODEC_BROTLI)
        pack_brotli(out, data, n);
    else
        put(out, data, n);
}

/* ---- files ---- */

enum { MADE_CHUNKS = 64, MADE_GROUPS = 8 };

typedef struct made_file {
    bytes b;
    struct {
        int type, codec;
        int64_t values, at, dictionary_at;
    } chunks[MADE_CHUNKS];
    int chunk_count, group_chunks[MADE_GROUPS], group_count;
    int64_t group_rows[MADE_GROUPS];
    bool second, crc; /* pages of the second kind; with checksums: set after made_begin */
    int encryption;   /* a field 8 of the footer */
} made_file;

typedef struct made_levels {
    int values;
    const int *repetition, *definition; /* [values], or NULL where there are none */
    int highest_repetition, highest_definition;
} made_levels;

static inline void made_begin(made_file *f) {
    memset(f, 0, sizeof *f);
    put(&f->b, "PAR1", 4);
}

static inline void made_chunk(made_file *f, int type, int codec) {
    f->chunks[f->chunk_count].type = type;
    f->chunks[f->chunk_count].codec = codec;
    f->chunks[f->chunk_count++].at = (int64_t)f->b.n;
    f->group_chunks[f->group_count]++;
}

static inline int width_for(int highest) {
    int width = 0;
    for (; highest >> width; width++) continue;
    return width;
}

static inline void put_levels(bytes *b, const int *levels, int n, int highest, bool length) {
    bytes runs = {.n = 0};
    if (!highest) return;
    put_runs(&runs, levels, n, width_for(highest), n % 2);
    if (length) put_u32(b, (uint32_t)runs.n);
    put(b, runs.data, runs.n);
}

static inline made_struct made_header(made_file *f, int type, size_t plain,
                                      const bytes *packed) {
    made_struct s = {&f->b, 0};
    made_int(&s, 1, type);
    made_int(&s, 2, (int64_t)plain);
    made_int(&s, 3, (int64_t)packed->n);
    if (f->crc) made_int(&s, 4, (int32_t)crc32(0, packed->data, (unsigned)packed->n));
    return s;
}

static inline void made_dictionary(made_file *f, int values, const bytes *body) {
    bytes packed = {.n = 0};
    int chunk = f->chunk_count - 1;
    put_packed(&packed, f->chunks[chunk].codec, body->data, body->n);
    f->chunks[chunk].dictionary_at = (int64_t)f->b.n;
    made_struct s = made_header(f, 2, body->n, &packed), d = made_inside(&s, 7);
    made_int(&d, 1, values);
    made_int(&d, 2, 0);
    made_stop(&d);
    made_stop(&s);
    put(&f->b, packed.data, packed.n);
    f->chunks[chunk].at = (int64_t)f->b.n;
}

static inline void made_page(made_file *f, made_levels l, int encoding, const bytes *body) {
    bytes plain = {.n = 0}, packed = {.n = 0};
    int chunk = f->chunk_count - 1, codec = f->chunks[chunk].codec;
    put_levels(&plain, l.repetition, l.values, l.highest_repetition, !f->second);
    size_t repetition = plain.n;
    put_levels(&plain, l.definition, l.values, l.highest_definition, !f->second);
    size_t levels = f->second ? plain.n : 0, definition = plain.n - repetition;
    put(&packed, plain.data, levels);
    put(&plain, body->data, body->n);
    put_packed(&packed, codec, plain.data + levels, plain.n - levels);
    f->chunks[chunk].values += l.values;
    made_struct s = made_header(f, f->second ? 3 : 0, plain.n, &packed),
                d = made_inside(&s, f->second ? 8 : 5);
    made_int(&d, 1, l.values);
    if (f->second) {
        int rows = 0;
        for (int i = 0; i < l.values; i++) rows += !l.repetition || !l.repetition[i];
        made_int(&d, 2, 0);
        made_int(&d, 3, rows);
        made_int(&d, 4, encoding);
        made_int(&d, 5, (int64_t)definition);
        made_int(&d, 6, (int64_t)repetition);
        made_bool(&d, 7, codec != CODEC_NONE);
    } else {
        made_int(&d, 2, encoding);
        made_int(&d, 3, 3);
        made_int(&d, 4, 3);
    }
    made_stop(&d);
    made_stop(&s);
    put(&f->b, packed.data, packed.n);
}

static inline void made_group(made_file *f, int64_t rows) {
    f->group_rows[f->group_count++] = rows;
}

typedef struct made_element {
    const char *name;
    int type, repetition, children; /* type: PARQUET_GROUP for one with children */
    int converted;                  /* ConvertedType + 1, 0: none */
    int logical;                    /* the union's field, 0: none */
    int length, scale, unit;        /* unit: the union's field */
    bool utc;
    int bits, is_signed;
} made_element;

static inline void put_logical(made_struct *s, const made_element *e) {
    made_struct kind = made_inside(s, 10), in = made_inside(&kind, e->logical);
    if (e->logical == 5) made_int(&in, 1, e->scale), made_int(&in, 2, 38);
    if (e->logical == 7 || e->logical == 8) {
        made_bool(&in, 1, e->utc);
        made_struct unit = made_inside(&in, 2), empty = made_inside(&unit, e->unit);
        made_stop(&empty);
        made_stop(&unit);
    }
    if (e->logical == 10) made_int(&in, 1, e->bits), made_bool(&in, 2, e->is_signed);
    made_stop(&in);
    made_stop(&kind);
}

static inline void put_element(bytes *b, const made_element *e, bool root) {
    made_struct s = {b, 0};
    if (e->type >= 0) made_int(&s, 1, e->type);
    if (e->length) made_int(&s, 2, e->length);
    if (!root) made_int(&s, 3, e->repetition);
    made_text(&s, 4, e->name);
    if (e->type < 0) made_int(&s, 5, e->children);
    if (e->converted) made_int(&s, 6, e->converted - 1);
    if (e->scale && e->converted) made_int(&s, 7, e->scale);
    if (e->logical) put_logical(&s, e);
    made_stop(&s);
}

static inline void put_chunk(bytes *b, const made_file *f, int i) {
    made_struct s = {b, 0};
    made_int(&s, 2, f->chunks[i].at);
    made_struct m = made_inside(&s, 3);
    made_int(&m, 1, f->chunks[i].type);
    made_field(&m, 2, 9), put_byte(b, 0x15), put_zigzag(b, 0); /* encodings: [PLAIN] */
    made_int(&m, 4, f->chunks[i].codec);
    made_int(&m, 5, f->chunks[i].values);
    made_int(&m, 6, 1), made_int(&m, 7, 1);
    made_int(&m, 9, f->chunks[i].at);
    if (f->chunks[i].dictionary_at) made_int(&m, 11, f->chunks[i].dictionary_at);
    made_stop(&m);
    made_stop(&s);
}

/* The first element is the root. */
static inline void made_end(made_file *f, const made_element *elements, size_t count) {
    size_t from = f->b.n;
    made_struct s = {&f->b, 0};
    int64_t rows = 0;
    for (int g = 0; g < f->group_count; g++) rows += f->group_rows[g];
    made_int(&s, 1, 2);
    made_list(&s, 2, count);
    for (size_t i = 0; i < count; i++) put_element(&f->b, &elements[i], i == 0);
    made_int(&s, 3, rows);
    made_list(&s, 4, (size_t)f->group_count);
    for (int g = 0, chunk = 0; g < f->group_count; g++) {
        made_struct group = {&f->b, 0};
        made_list(&group, 1, (size_t)f->group_chunks[g]);
        for (int i = 0; i < f->group_chunks[g]; i++) put_chunk(&f->b, f, chunk++);
        made_int(&group, 2, 1);
        made_int(&group, 3, f->group_rows[g]);
        made_stop(&group);
    }
    made_text(&s, 6, "made by hand");
    if (f->encryption) {
        made_struct e = made_inside(&s, 8);
        made_stop(&e);
    }
    made_stop(&s);
    put_u32(&f->b, (uint32_t)(f->b.n - from));
    put(&f->b, "PAR1", 4);
}

#endif
