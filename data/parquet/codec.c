/* codec.c: see codec.h. */
#include "data/parquet/codec.h"
#include "common/alloc.h"

#include <brotli/decode.h>
#include <lz4.h>
#include <snappy-c.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

/* Each: whether exactly `bytes` came out. *memory: there was not enough. */
typedef bool unpacker(const uint8_t *in, size_t packed, uint8_t *out, size_t bytes,
                      bool *memory);

static bool unpack_none(const uint8_t *in, size_t packed, uint8_t *out, size_t bytes,
                        bool *memory) {
    if (packed == bytes && bytes) memcpy(out, in, bytes);
    return packed == bytes;
}

static bool unpack_snappy(const uint8_t *in, size_t packed, uint8_t *out, size_t bytes,
                          bool *memory) {
    size_t stated;
    if (snappy_uncompressed_length((const char *)in, packed, &stated) != SNAPPY_OK ||
        stated != bytes)
        return false;
    return snappy_uncompress((const char *)in, packed, (char *)out, &stated) == SNAPPY_OK &&
           stated == bytes;
}

static void *zlib_alloc(void *opaque, unsigned n, unsigned size) {
    return mem_alloc_array(n, size, "gzip");
}

static void zlib_free(void *opaque, void *block) {
    mem_free(block);
}

/* Members one after the other are one text. */
static bool inflate_all(z_stream *z) {
    for (;;) {
        int e = inflate(z, Z_FINISH);
        if (e != Z_STREAM_END) return false;
        if (!z->avail_in) return z->avail_out == 0;
        inflateReset(z);
    }
}

static bool unpack_gzip(const uint8_t *in, size_t packed, uint8_t *out, size_t bytes,
                        bool *memory) {
    z_stream z = {.zalloc = zlib_alloc,
                  .zfree = zlib_free,
                  .next_in = (uint8_t *)in,
                  .avail_in = (unsigned)packed,
                  .next_out = out,
                  .avail_out = (unsigned)bytes};
    *memory = inflateInit2(&z, 15 + 32) != Z_OK;
    if (*memory) return false;
    bool whole = inflate_all(&z);
    inflateEnd(&z);
    return whole;
}

static bool unpack_zstd(const uint8_t *in, size_t packed, uint8_t *out, size_t bytes,
                        bool *memory) {
    size_t n = ZSTD_decompress(out, bytes, in, packed);
    *memory = ZSTD_isError(n) && !strcmp(ZSTD_getErrorName(n), "Allocation error : not enough "
                                                               "memory");
    return n == bytes;
}

static bool unpack_brotli(const uint8_t *in, size_t packed, uint8_t *out, size_t bytes,
                          bool *memory) {
    size_t n = bytes;
    return BrotliDecoderDecompress(packed, in, &n, out) == BROTLI_DECODER_RESULT_SUCCESS &&
           n == bytes;
}

static bool unpack_lz4(const uint8_t *in, size_t packed, uint8_t *out, size_t bytes,
                       bool *memory) {
    if (packed > LZ4_MAX_INPUT_SIZE || bytes > LZ4_MAX_INPUT_SIZE) return false;
    int n = LZ4_decompress_safe((const char *)in, (char *)out, (int)packed, (int)bytes);
    return n >= 0 && (size_t)n == bytes;
}

/* By parquet.thrift's CompressionCodec. `most`: at most so many bytes come out of one: Snappy
 * copies 64 bytes for three, deflate 258 for two bits, LZ4 255 for one; zstd and Brotli
 * repeat a byte through a whole block, whose bound is that of pages. */
static const struct {
    const char *name;
    unpacker *unpack;
    size_t most;
} codecs[] = {
    {"none", unpack_none, 1},     {"Snappy", unpack_snappy, 32},
    {"gzip", unpack_gzip, 1040},  {"LZO", NULL, 0},
    {"Brotli", unpack_brotli, 0}, {"LZ4 in Hadoop's framing", NULL, 0},
    {"zstd", unpack_zstd, 0},     {"LZ4", unpack_lz4, 256},
};
enum { CODECS = sizeof codecs / sizeof *codecs, SPARE = 64 /* bytes */ };

status codec_check(int64_t codec) {
    if (codec >= 0 && codec < CODECS && codecs[codec].unpack) return STATUS_OK;
    if (codec < 0 || codec >= CODECS)
        return status_fail(STATUS_DATA,
                           "is compressed by a codec of a later version (number "
                           "%lld)",
                           (long long)codec);
    return status_fail(STATUS_DATA,
                       "is compressed by %s, which is not read: write it with "
                       "Snappy or zstd",
                       codecs[codec].name);
}

bool codec_is_none(int64_t codec) {
    return codec == 0;
}

bool codec_is_plausible(int64_t codec, size_t packed, size_t bytes) {
    size_t most = codecs[codec].most;
    return !most || bytes / most <= packed + SPARE;
}

status codec_unpack(int64_t codec, const uint8_t *in, size_t packed, uint8_t *out,
                    size_t bytes) {
    bool memory = false;
    if (codecs[codec].unpack(in, packed, out, bytes, &memory)) return STATUS_OK;
    if (memory)
        return status_fail(STATUS_MEMORY, "out of memory: decompressing %s",
                           codecs[codec].name);
    return status_fail(STATUS_DATA, "its %s data is damaged, or its size is not as stated",
                       codecs[codec].name);
}
