/* codec.h: the compression of Parquet's pages (Compression.md): none, Snappy, gzip, zstd,
 * Brotli and raw LZ4. LZO and the LZ4 of before 2021 (Hadoop's framing) are refused by name.
 */
#ifndef NIBBLE_DATA_PARQUET_CODEC_H
#define NIBBLE_DATA_PARQUET_CODEC_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* STATUS_DATA for a codec that is not read, with its name. */
status codec_check(int64_t codec);
bool codec_is_none(int64_t codec);

/* Whether `packed` bytes can hold `bytes` at all: asked before memory is taken for a size that
 * only the file vouches for. */
bool codec_is_plausible(int64_t codec, size_t packed, size_t bytes);

/* Exactly `bytes` into out, else STATUS_DATA. */
status codec_unpack(int64_t codec, const uint8_t *in, size_t packed, uint8_t *out,
                    size_t bytes);

#endif
