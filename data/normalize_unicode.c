/* normalize_unicode.c: see normalize_unicode.h. Text is handled in stretches: what a form
 * leaves alone is copied, the rest is decomposed, each run of marks sorted by combining class
 * with a counting sort (utf8proc's insertion sort is quadratic in a run's length) and
 * recomposed. */
#include "data/normalize_unicode.h"
#include "data/unicode.h"

#include <pthread.h>
#include <utf8proc.h>

/* For NFC, one bit per code point: it stays as it is and never joins what stands before it. */
static uint8_t plain[UNICODE_TABLE / 8];

static void set_plain(int32_t code, bool value) {
    if (code >= UNICODE_TABLE) return;
    uint8_t bit = (uint8_t)(1u << (code & 7));
    plain[code >> 3] = (uint8_t)(value ? plain[code >> 3] | bit : plain[code >> 3] & ~bit);
}

static bool is_plain(uint32_t code) {
    return code < UNICODE_TABLE && (plain[code >> 3] >> (code & 7) & 1);
}

static bool surrogate(int32_t code) {
    return code >= 0xD800 && code <= 0xDFFF;
}

/* Whether composing its decomposition gives the character back. */
static bool recomposes(int32_t code, int32_t *parts, utf8proc_ssize_t n) {
    return utf8proc_normalize_utf32(parts, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE) == 1 &&
           parts[0] == code;
}

static void fill(void) {
    for (int32_t code = 0; code < UNICODE_TABLE; code++)
        set_plain(code, utf8proc_get_property(code)->combining_class == 0 && !surrogate(code));
    /* vowels and final consonants of Hangul join what stands before them */
    for (int32_t code = 0x1160; code <= 0x11FF; code++) set_plain(code, false);
    for (int32_t code = 0xC0; code < 0x30000; code++) {
        int32_t parts[32];
        int last = 0;
        if (surrogate(code)) continue;
        utf8proc_ssize_t n =
            utf8proc_decompose_char(code, parts, 32, UTF8PROC_DECOMPOSE, &last);
        if (n == 1 && parts[0] == code) continue;
        for (utf8proc_ssize_t i = 1; i < n; i++) set_plain(parts[i], false);
        if (!recomposes(code, parts, n)) set_plain(code, false);
    }
}

void normalize_unicode_setup(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
}

/* A character that stays and is followed by a character that does not is left to the slow way,
 * because they may join. */
size_t normalize_unicode_stable(const char *text, size_t bytes, int form) {
    size_t i = 0, last = 0;
    while (i < bytes) {
        unsigned char first = (unsigned char)text[i];
        bool stays = first < 0x80 || (form == FORM_COMPOSED && is_plain(utf8_get(text + i)));
        if (!stays) return last;
        last = i;
        i += utf8_length(first);
    }
    return bytes;
}

static status add(struct code_list *list, const int32_t *codes, size_t n) {
    if (mem_grow(&list->items, &list->capacity, list->count + n, sizeof *list->items, "text"))
        return STATUS_MEMORY;
    memcpy(list->items + list->count, codes, n * sizeof *codes);
    list->count += n;
    return STATUS_OK;
}

/* Stable, by combining class, in O(n + 256). */
static status sort_marks(normalizer_scratch *s, int32_t *marks, size_t n) {
    if (n < 2) return STATUS_OK;
    size_t start[257] = {0};
    s->sorted.count = 0;
    TRY(add(&s->sorted, marks, n));
    for (size_t i = 0; i < n; i++)
        start[utf8proc_get_property(marks[i])->combining_class % 256 + 1]++;
    for (int c = 0; c < 256; c++) start[c + 1] += start[c];
    for (size_t i = 0; i < n; i++)
        marks[start[utf8proc_get_property(s->sorted.items[i])->combining_class % 256]++] =
            s->sorted.items[i];
    return STATUS_OK;
}

static status sort_all(normalizer_scratch *s) {
    int32_t *codes = s->codes.items;
    for (size_t i = 0, from = 0; i <= s->codes.count; i++) {
        if (i < s->codes.count && utf8proc_get_property(codes[i])->combining_class) continue;
        TRY(sort_marks(s, codes + from, i - from));
        from = i + 1;
    }
    return STATUS_OK;
}

/* Sorts, composes and writes out what has been decomposed. */
static status flush(normalizer_scratch *s, int form, text_buffer *out) {
    TRY(sort_all(s));
    utf8proc_ssize_t n = (utf8proc_ssize_t)s->codes.count;
    if ((form & FORM_COMPOSED) && n)
        n = utf8proc_normalize_utf32(s->codes.items, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    TRY(text_reserve(out, 4 * (size_t)n));
    for (utf8proc_ssize_t i = 0; i < n; i++)
        out->bytes += utf8_put((uint32_t)s->codes.items[i], out->data + out->bytes);
    s->codes.count = 0;
    return STATUS_OK;
}

static status decompose(normalizer_scratch *s, const char *text, size_t bytes, int form,
                        text_buffer *out) {
    int options =
        UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (form & FORM_COMPATIBLE ? UTF8PROC_COMPAT : 0);
    s->codes.count = 0;
    for (size_t i = 0, length; i < bytes; i += length) {
        length = utf8_length((unsigned char)text[i]);
        uint32_t code = utf8_get(text + i);
        /* A wall for sorting and composing. U+11A7 stands before the final consonants of Hangul
         * and is none, but utf8proc 2.8 composes it away. */
        if (unicode_is_inert(code) || code == 0x11A7) {
            TRY(flush(s, form, out));
            TRY(text_append(out, text + i, length));
            continue;
        }
        int32_t parts[32];
        int last = 0;
        utf8proc_ssize_t n = utf8proc_decompose_char((int32_t)code, parts, 32, options, &last);
        if (n < 1 || n > 32)
            return status_fail(STATUS_INTERNAL, "U+%04X has no decomposition", (unsigned)code);
        TRY(add(&s->codes, parts, (size_t)n));
    }
    return flush(s, form, out);
}

status normalize_unicode(normalizer_scratch *s, const char *text, size_t bytes, int form,
                         text_buffer *out) {
    size_t i = 0;
    while (i < bytes) {
        size_t same = normalize_unicode_stable(text + i, bytes - i, form);
        TRY(text_append(out, text + i, same));
        i += same;
        size_t stop = i;
        for (bool first = true; stop < bytes; first = false) {
            unsigned char c = (unsigned char)text[stop];
            bool stays =
                c < 0x80 || (form == FORM_COMPOSED && is_plain(utf8_get(text + stop)));
            /* the stretch ends before a character that stays, but for its own first one */
            if (stays && !first) break;
            stop += utf8_length(c);
        }
        TRY(decompose(s, text + i, stop - i, form, out));
        i = stop;
    }
    return STATUS_OK;
}
