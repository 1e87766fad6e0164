/* metadata.h: what a Parquet file says of itself: its schema, row groups and column chunks
 * (the footer), and the header of a page. Field numbers and meanings are parquet.thrift's of
 * the Apache Parquet format, version 2.12.
 *
 *     PAR1 | column chunks: pages ... | footer (FileMetaData) | its bytes, u32 | PAR1
 *
 * Only what is needed is kept: statistics, indexes, bloom filters and key-value pairs are
 * passed over. The numbers are as the file has them: who uses one checks it. */
#ifndef NIBBLE_DATA_PARQUET_METADATA_H
#define NIBBLE_DATA_PARQUET_METADATA_H

#include "common/file.h"
#include "common/status.h"
#include "data/parquet/thrift.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum parquet_type {
    PARQUET_GROUP = -1, /* no value: fields below it */
    PARQUET_BOOLEAN,
    PARQUET_INT32,
    PARQUET_INT64,
    PARQUET_INT96,
    PARQUET_FLOAT,
    PARQUET_DOUBLE,
    PARQUET_BYTES,
    PARQUET_FIXED, /* bytes of one length */
    PARQUET_TYPES
} parquet_type;

typedef enum parquet_repetition {
    PARQUET_REQUIRED,
    PARQUET_OPTIONAL,
    PARQUET_REPEATED,
} parquet_repetition;

typedef enum parquet_logical { /* of either of the file's two ways to say it */
                               LOGICAL_NONE,
                               LOGICAL_STRING,
                               LOGICAL_MAP,
                               LOGICAL_LIST,
                               LOGICAL_ENUM,
                               LOGICAL_DECIMAL,
                               LOGICAL_DATE,
                               LOGICAL_TIME,
                               LOGICAL_TIMESTAMP,
                               LOGICAL_INTERVAL,
                               LOGICAL_INTEGER,
                               LOGICAL_NULL,
                               LOGICAL_JSON,
                               LOGICAL_BSON,
                               LOGICAL_UUID,
                               LOGICAL_FLOAT16,
                               LOGICAL_VARIANT,
                               LOGICAL_GEOMETRY,
                               LOGICAL_GEOGRAPHY,
                               LOGICAL_OTHER, /* of a later version */
                               LOGICAL_KINDS
} parquet_logical;

/* An element of the schema, which is a tree written in depth-first order. */
typedef struct parquet_element {
    const char *name; /* in the footer, not NUL-terminated */
    size_t name_bytes;
    int64_t type, repetition, children, length; /* length: of PARQUET_FIXED */
    parquet_logical logical;
    int64_t scale; /* decimals: digits behind the point */
    int64_t unit;  /* times: digits of a second's fraction: 3, 6 or 9 */
    bool utc;      /* timestamps */
    int64_t bits;  /* integers */
    bool is_unsigned;
} parquet_element;

typedef struct parquet_chunk {
    int64_t type, codec, values;
    int64_t at; /* the first page's byte in the file */
    bool encrypted, elsewhere /* in another file */;
} parquet_chunk;

typedef struct parquet_group {
    size_t chunk, chunks; /* the first, how many */
    int64_t rows;
} parquet_group;

typedef struct parquet_metadata {
    char *footer;
    int64_t data_end; /* where the footer begins in the file */
    parquet_element *elements;
    size_t element_count, element_capacity;
    parquet_chunk *chunks;
    size_t chunk_count, chunk_capacity;
    parquet_group *groups;
    size_t group_count, group_capacity;
    int64_t rows;
} parquet_metadata;

/* STATUS_DATA: no Parquet file, damaged, or encrypted. */
status parquet_metadata_read(parquet_metadata *m, const file *f);
void parquet_metadata_free(parquet_metadata *m);

typedef enum parquet_page {
    PAGE_DATA,
    PAGE_INDEX,
    PAGE_DICTIONARY,
    PAGE_DATA_2,
} parquet_page;

typedef enum parquet_encoding {
    ENCODING_PLAIN = 0,
    ENCODING_PLAIN_DICTIONARY =
        2, /* the older name of RLE_DICTIONARY; for dictionaries: plain */
    ENCODING_RLE = 3,
    ENCODING_BIT_PACKED = 4,
    ENCODING_DELTA_BINARY_PACKED = 5,
    ENCODING_DELTA_LENGTH_BYTES = 6,
    ENCODING_DELTA_BYTES = 7,
    ENCODING_RLE_DICTIONARY = 8,
    ENCODING_BYTE_STREAM_SPLIT = 9,
} parquet_encoding;

typedef struct parquet_page_header {
    int64_t type, bytes, packed_bytes; /* bytes: after decompression */
    bool has_crc;
    uint32_t crc;
    int64_t values, encoding, definition_encoding, repetition_encoding;
    int64_t definition_bytes, repetition_bytes; /* PAGE_DATA_2 */
    bool packed;                                /* PAGE_DATA_2: the values are compressed */
} parquet_page_header;

/* Reads a header from the bytes that t has; t says how it went. */
void parquet_page_header_read(thrift *t, parquet_page_header *h);

#endif
