/* byte_level.c: see byte_level.h. Printable Latin-1 bytes stand for themselves; the others are
 * U+0100, U+0101 ... in order. */
#include "data/byte_level.h"
#include "data/unicode.h"

static bool is_printable(unsigned b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
}

/* Bytes below `b` that are not printable, in closed form: 0-32, 127-160, 173. */
static unsigned unprintable_below(unsigned b) {
    return b <= 33 ? b : b <= 127 ? 33 : b <= 161 ? 33 + b - 127 : 67;
}

static int byte_of(uint32_t code) {
    if (code < 0x100) return is_printable(code) ? (int)code : -1;
    uint32_t n = code - 0x100; /* the n-th of them */
    return n < 33 ? (int)n : n < 67 ? (int)(n - 33 + 127) : n == 67 ? 173 : -1;
}

status byte_level_write(const char *text, size_t bytes, text_buffer *out) {
    TRY(text_reserve(out, 2 * bytes));
    for (size_t i = 0; i < bytes; i++) {
        unsigned b = (unsigned char)text[i];
        uint32_t code = is_printable(b) ? b : 0x100 + unprintable_below(b);
        out->bytes += utf8_put(code, out->data + out->bytes);
    }
    return STATUS_OK;
}

status byte_level_read(const char *text, size_t bytes, text_buffer *out, bool *is) {
    size_t before = out->bytes;
    TRY(text_reserve(out, bytes));
    *is = true;
    for (size_t i = 0; i < bytes; i += utf8_length((unsigned char)text[i])) {
        int byte = byte_of(utf8_get(text + i));
        if (byte < 0) {
            out->bytes = before;
            *is = false;
            return STATUS_OK;
        }
        out->data[out->bytes++] = (char)byte;
    }
    return STATUS_OK;
}
