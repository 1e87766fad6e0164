/* json_text.c: see json_text.h. */
#include "data/json_text.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

/* Whether one of eight bytes is a control character, a quote or a backslash: each test leaves
 * the high bit of the bytes that meet it ("Bit Twiddling Hacks", hasless; bytes above 0x7f
 * never do). */
static inline bool has_special(const char *text) {
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t w;
    memcpy(&w, text, sizeof w);
    uint64_t quote = w ^ ones * '"', slash = w ^ ones * '\\';
    return (((w - ones * 0x20) & ~w) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) &
           high;
}

static inline bool is_special(char c) {
    return (unsigned char)c < 0x20 || c == '"' || c == '\\';
}

/* How many bytes from `text` on are copied as they are. */
static size_t plain_run(const char *text, size_t bytes) {
    size_t n = 0;
    while (n + 8 <= bytes && !has_special(text + n)) n += 8;
    while (n < bytes && !is_special(text[n])) n++;
    return n;
}

static status append_escaped(text_buffer *b, char c) {
    static const char shorts[] = "\"\"\\\\\bb\ff\nn\rr\tt"; /* a character, its letter */
    for (size_t i = 0; i + 1 < sizeof shorts; i += 2)
        if (shorts[i] == c) return text_append(b, (const char[]){'\\', shorts[i + 1]}, 2);
    static const char digits[] = "0123456789abcdef";
    const char text[] = {'\\', 'u', '0', '0', digits[c >> 4 & 15], digits[c & 15]};
    return text_append(b, text, sizeof text);
}

status json_text_string(text_buffer *b, const char *text, size_t bytes) {
    TRY(text_reserve(b, bytes + 2));
    TRY(text_append(b, "\"", 1));
    for (size_t at = 0; at < bytes;) {
        size_t n = plain_run(text + at, bytes - at);
        TRY(text_append(b, text + at, n));
        at += n;
        if (at < bytes) TRY(append_escaped(b, text[at++]));
    }
    return text_append(b, "\"", 1);
}

status json_text_unsigned(text_buffer *b, uint64_t value) {
    char digits[20];
    size_t n = sizeof digits;
    do digits[--n] = (char)('0' + value % 10);
    while (value /= 10);
    return text_append(b, digits + n, sizeof digits - n);
}

status json_text_integer(text_buffer *b, int64_t value) {
    if (value >= 0) return json_text_unsigned(b, (uint64_t)value);
    TRY(text_append(b, "-", 1));
    return json_text_unsigned(b, -(uint64_t)value);
}

status json_text_real(text_buffer *b, double value) {
    char text[40];
    if (!isfinite(value)) return text_append(b, "null", 4);
    int n = snprintf(text, sizeof text, "%.17g", value);
    if (!strpbrk(text, ".e")) n += snprintf(text + n, sizeof text - (size_t)n, ".0");
    return text_append(b, text, (size_t)n);
}
