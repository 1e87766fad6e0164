/* integers.h: the two encodings of whole numbers that all others build on (Encodings.md of the
 * Apache Parquet format): RLE / bit-packed hybrid for levels, dictionary indices and booleans,
 * and DELTA_BINARY_PACKED. Both are read a few values at a time, so that what a page claims to
 * hold takes no memory. */
#ifndef NIBBLE_DATA_PARQUET_INTEGERS_H
#define NIBBLE_DATA_PARQUET_INTEGERS_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Runs of one value, or of values packed in groups of eight, the lowest bits first. */
typedef struct run_reader {
    const uint8_t *at, *end; /* behind the present run's header */
    int width;               /* bits of a value, 0 to 32 */
    uint64_t left;           /* values of the present run */
    bool packed;
    uint32_t value;  /* of a run of one value */
    uint64_t offset; /* of a packed run's next value, in bits from `at` */
} run_reader;

/* STATUS_DATA for a width that does not exist. */
status run_open(run_reader *r, const uint8_t *data, size_t bytes, int width);
/* Up to n values; how many: fewer only where the data ends, or is damaged. */
size_t run_read(run_reader *r, uint32_t *out, size_t n);

/* A first value, then blocks of differences, in miniblocks of a width each. */
typedef struct delta_reader {
    const uint8_t *at, *end; /* behind what was read of the present block */
    uint64_t left;           /* values not read yet */
    uint64_t minis, per_mini;
    const uint8_t *widths; /* of the present block's miniblocks */
    uint64_t mini;         /* the next miniblock */
    uint64_t in_mini;      /* values left of the present one */
    const uint8_t *packed; /* the present one */
    int width;
    uint64_t offset; /* bits */
    int64_t value, least;
    bool first;
} delta_reader;

status delta_open(delta_reader *r, const uint8_t *data, size_t bytes);
/* The next value; STATUS_DATA behind the last. Sums wrap around, as the format says. */
status delta_next(delta_reader *r, int64_t *out);
/* Where the encoding ends, for what follows it. r is a fresh reader and is not changed. */
status delta_end(const delta_reader *r, const uint8_t **end);

#endif
