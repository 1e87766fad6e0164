/* render.h: one value of a Parquet column as JSON.
 *
 * What pyarrow's to_pylist gives, and of that what Python's json writes; where json writes
 * nothing, the text that is usual:
 *
 *   BOOLEAN, integers of all widths     true, false, the number (unsigned ones as such)
 *   FLOAT, DOUBLE, FLOAT16              the number, which reads back as the same; NaN and
 *                                       infinities are null, for JSON has none
 *   STRING, ENUM, JSON                  the text (JSON too: not what it means)
 *   bytes without a meaning             the text where they are UTF-8 (older writers leave the
 *                                       annotation out), else base64; BSON, geometry: base64
 *   DECIMAL                             "12.340": text with all its digits
 *   DATE, TIME, TIMESTAMP, INT96        ISO 8601 as Python's isoformat(), "+00:00" for UTC;
 *                                       nanoseconds with nine digits where they matter
 *   UUID                                "00112233-4455-6677-8899-aabbccddeeff"
 *   UNKNOWN                             null
 *
 * INTERVAL and what a later version of the format may add are refused. */
#ifndef NIBBLE_DATA_PARQUET_RENDER_H
#define NIBBLE_DATA_PARQUET_RENDER_H

#include "common/status.h"
#include "data/parquet/metadata.h"
#include "data/text_buffer.h"

#include <stddef.h>
#include <stdint.h>

typedef struct parquet_value {
    union {
        int64_t number;       /* PARQUET_BOOLEAN, INT32, INT64; the bits of FLOAT, DOUBLE */
        const uint8_t *bytes; /* all others */
    };
    size_t size; /* bytes */
} parquet_value;

/* STATUS_DATA for a type that is not read, or does not go with its annotation. */
status render_check(const parquet_element *e);
status render_value(const parquet_element *e, const parquet_value *v, text_buffer *out);

#endif
