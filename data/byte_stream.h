/* byte_stream.h: the bytes of a data file from front to back, decompressed where they are
 * gzip (RFC 1952) or Zstandard (RFC 8878), told by the first bytes and not by the name.
 *
 * Several gzip members or zstd frames one after the other are one text, as gzip -d and zstd -d
 * read them; zeros behind the last member are padding. Memory is a chunk and the format's
 * window, at most 128 MiB (a frame that asks for more is refused). Damage is found where the
 * format can: every member and most frames end with a checksum. */
#ifndef NIBBLE_DATA_BYTE_STREAM_H
#define NIBBLE_DATA_BYTE_STREAM_H

#include "common/file.h"
#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct byte_stream byte_stream;

/* Takes the open file over, also when it fails (STATUS_MEMORY, STATUS_IO). */
status byte_stream_open(byte_stream **out, file *f);
void byte_stream_close(byte_stream *s); /* NULL is fine */

/* Up to `room` > 0 bytes; *got is 0 only at the end. STATUS_DATA for a compressed file that is
 * damaged or cut off, with the place in it; STATUS_IO when it cannot be read. */
status byte_stream_read(byte_stream *s, void *out, size_t room, size_t *got);

const char *byte_stream_path(const byte_stream *s);

#endif
