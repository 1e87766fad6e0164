/* values.h: the values of one page, one after the other, in whatever encoding they are
 * (Encodings.md of the Apache Parquet format): PLAIN, RLE_DICTIONARY and its older name, RLE
 * (booleans), DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY and
 * BYTE_STREAM_SPLIT. Nulls have no value: levels say where they are.
 *
 * Values point into the page, which must stay, and are valid until the next one is read. */
#ifndef NIBBLE_DATA_PARQUET_VALUES_H
#define NIBBLE_DATA_PARQUET_VALUES_H

#include "common/status.h"
#include "data/parquet/integers.h"
#include "data/parquet/metadata.h"
#include "data/parquet/render.h"
#include "data/text_buffer.h"

#include <stddef.h>
#include <stdint.h>

/* The values of a dictionary page. */
typedef struct value_dictionary {
    parquet_value *items;
    size_t count;
} value_dictionary;

enum { VALUE_INDICES = 128 }; /* of a dictionary, decoded at once */

typedef struct value_reader value_reader;
typedef status value_next(value_reader *r, parquet_value *out);

/* Zero it before the first use, free it with values_close. */
struct value_reader {
    const parquet_element *element;
    value_next *next;
    const uint8_t *at, *end;
    const value_dictionary *dictionary;
    run_reader runs; /* indices, or booleans */
    uint32_t indices[VALUE_INDICES];
    size_t index, index_count;
    delta_reader lengths, prefixes;
    size_t width, item, items; /* bytes of a fixed value; the next and all of a stream split */
    unsigned bit;              /* booleans of PLAIN */
    text_buffer built;         /* a value that is nowhere in one piece */
};

/* A page's values. dictionary: NULL where there was none. STATUS_DATA for an encoding that is
 * not read or does not go with the type. */
status values_open(value_reader *r, const parquet_element *e, int64_t encoding,
                   const uint8_t *data, size_t bytes, const value_dictionary *dictionary);
void values_close(value_reader *r);

/* The next value; STATUS_DATA where the page ends before. */
static inline status values_next(value_reader *r, parquet_value *out) {
    return r->next(r, out);
}

/* Bytes of a value of the type; 0 where that differs from value to value. */
size_t values_width(const parquet_element *e);

#endif
