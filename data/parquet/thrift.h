/* thrift.h: reading Thrift's compact protocol (Apache Thrift, thrift-compact-protocol.md), in
 * which Parquet writes its footer and page headers.
 *
 * The bytes are not trusted: every read is checked, failure sticks (`broken`; the getters then
 * give zeros and loops end), lists are no longer than the bytes that are left, and what is
 * skipped nests at most THRIFT_DEPTH deep. */
#ifndef NIBBLE_DATA_PARQUET_THRIFT_H
#define NIBBLE_DATA_PARQUET_THRIFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { THRIFT_DEPTH = 16 };

typedef enum thrift_type { /* as in the protocol */
                           THRIFT_STOP,
                           THRIFT_TRUE,
                           THRIFT_FALSE,
                           THRIFT_BYTE,
                           THRIFT_I16,
                           THRIFT_I32,
                           THRIFT_I64,
                           THRIFT_DOUBLE,
                           THRIFT_BINARY,
                           THRIFT_LIST,
                           THRIFT_SET,
                           THRIFT_MAP,
                           THRIFT_STRUCT,
} thrift_type;

typedef struct thrift {
    const uint8_t *at, *end;
    bool broken, ran_out; /* ran_out: because the bytes ended */
} thrift;

typedef struct thrift_field {
    int id;
    thrift_type type;
} thrift_field;

/* The next field of a struct, whose `f` starts zeroed; false at its end. Each field is then
 * read by one of the below, or skipped. */
bool thrift_next(thrift *t, thrift_field *f);
void thrift_skip(thrift *t, thrift_type type);

/* Broken when the field is of another type. */
int64_t thrift_int(thrift *t, const thrift_field *f);
bool thrift_bool(thrift *t, const thrift_field *f);
/* The text stays where it is. */
const char *thrift_text(thrift *t, const thrift_field *f, size_t *bytes);
bool thrift_struct(thrift *t, const thrift_field *f);
/* How many elements a list of `type` has. */
size_t thrift_list(thrift *t, const thrift_field *f, thrift_type type);

/* ULEB128, also used by Parquet's encodings. */
uint64_t thrift_varint(thrift *t);
static inline int64_t thrift_zigzag(uint64_t n) {
    return (int64_t)(n >> 1) ^ -(int64_t)(n & 1);
}

#endif
