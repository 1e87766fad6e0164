/* render.c: see render.h. Calendar arithmetic is proleptic Gregorian, by days from civil of
 * Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms". */
#include "data/parquet/render.h"
#include "common/half.h"
#include "data/json_text.h"
#include "data/unicode.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { DECIMAL_BYTES = 32, DECIMAL_DIGITS = 78, SCALE_LIMIT = 76, DAY = 86400 /* seconds */ };

/* ---- text of other values ---- */

__attribute__((format(printf, 2, 3))) static status append(text_buffer *b, const char *format,
                                                           ...) {
    char text[160];
    va_list list;
    va_start(list, format);
    int n = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    return text_append(b, text, (size_t)n);
}

static status render_base64(text_buffer *b, const uint8_t *p, size_t n) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    TRY(text_reserve(b, n / 3 * 4 + 6));
    b->data[b->bytes++] = '"';
    for (size_t i = 0; i < n; i += 3) {
        uint32_t word = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) |
                        (i + 2 < n ? p[i + 2] : 0);
        for (int k = 0; k < 4; k++)
            b->data[b->bytes++] = i + (size_t)k > n ? '=' : digits[word >> (18 - 6 * k) & 63];
    }
    return text_append(b, "\"", 1);
}

/* Bytes that nobody says the meaning of. */
static status render_bytes(text_buffer *b, const parquet_value *v) {
    const char *text = (const char *)v->bytes;
    if (utf8_valid(text, v->size) == v->size) return json_text_string(b, text, v->size);
    return render_base64(b, v->bytes, v->size);
}

/* ---- decimals ---- */

/* The digits of a two's complement number, the most significant byte first, without a sign;
 * returns where they begin in `digits`. Divides by ten, byte by byte. */
static size_t decimal_digits(const uint8_t *bytes, size_t n, char digits[DECIMAL_DIGITS]) {
    uint8_t work[DECIMAL_BYTES];
    bool negative = bytes[0] & 0x80;
    unsigned carry = negative;
    for (size_t i = n; i-- > 0;) {
        unsigned byte = negative ? (uint8_t)~bytes[i] : bytes[i];
        work[i] = (uint8_t)(byte + carry);
        carry = carry && byte == 0xff;
    }
    size_t at = DECIMAL_DIGITS, first = 0;
    while (first < n) {
        unsigned rest = 0;
        for (size_t i = first; i < n; i++) {
            unsigned value = rest << 8 | work[i];
            work[i] = (uint8_t)(value / 10);
            rest = value % 10;
        }
        digits[--at] = (char)('0' + rest);
        while (first < n && !work[first]) first++;
    }
    return at;
}

static status render_decimal(text_buffer *b, const parquet_element *e, const uint8_t *bytes,
                             size_t n) {
    char digits[DECIMAL_DIGITS];
    if (n < 1 || n > DECIMAL_BYTES)
        return status_fail(STATUS_DATA, "a decimal of %zu bytes; 1 to %d are read", n,
                           DECIMAL_BYTES);
    size_t at = decimal_digits(bytes, n, digits), scale = (size_t)e->scale;
    TRY(text_append_string(b, bytes[0] & 0x80 ? "\"-" : "\""));
    size_t count = DECIMAL_DIGITS - at;
    size_t whole = count > scale ? count - scale : 0;
    TRY(text_append(b, whole ? digits + at : "0", whole ? whole : 1));
    if (scale) TRY(text_append(b, ".", 1));
    for (size_t i = count; i < scale; i++) TRY(text_append(b, "0", 1));
    TRY(text_append(b, digits + at + whole, count - whole));
    return text_append(b, "\"", 1);
}

static status render_decimal_number(text_buffer *b, const parquet_element *e, int64_t n) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)n >> (56 - 8 * i));
    return render_decimal(b, e, bytes, sizeof bytes);
}

/* ---- times ---- */

static status append_date(text_buffer *b, int64_t days) {
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    int64_t month = mp < 10 ? mp + 3 : mp - 9, year = yoe + era * 400 + (month <= 2);
    return append(b, "%s%04lld-%02d-%02d", year < 0 ? "-" : "",
                  (long long)(year < 0 ? -year : year), (int)month,
                  (int)(doy - (153 * mp + 2) / 5 + 1));
}

/* A time of day: seconds and a fraction in units of 10^-digits; isoformat() leaves a fraction
 * of zero out, and writes six digits, or nine where six are not enough. */
static status append_time(text_buffer *b, int64_t seconds, int64_t fraction, int64_t digits) {
    TRY(append(b, "%02d:%02d:%02d", (int)(seconds / 3600), (int)(seconds / 60 % 60),
               (int)(seconds % 60)));
    if (!fraction) return STATUS_OK;
    for (; digits < 9; digits++) fraction *= 10;
    return fraction % 1000 ? append(b, ".%09d", (int)fraction)
                           : append(b, ".%06d", (int)(fraction / 1000));
}

static int64_t units_of(int64_t digits) {
    return digits == 3 ? 1000 : digits == 6 ? 1000000 : 1000000000;
}

static int64_t floor_div(int64_t a, int64_t b) {
    return a / b - (a % b < 0);
}

/* What floor_div leaves, from 0 to b - 1; a - floor_div(a, b) * b may overflow on the way. */
static int64_t floor_rest(int64_t a, int64_t b) {
    int64_t rest = a % b;
    return rest < 0 ? rest + b : rest;
}

static status render_moment(text_buffer *b, int64_t days, int64_t seconds, int64_t fraction,
                            const parquet_element *e) {
    TRY(text_append(b, "\"", 1));
    TRY(append_date(b, days));
    TRY(text_append(b, "T", 1));
    TRY(append_time(b, seconds, fraction, e->unit ? e->unit : 9));
    return text_append_string(b, e->utc ? "+00:00\"" : "\"");
}

static status render_timestamp(text_buffer *b, const parquet_element *e, int64_t n) {
    int64_t units = units_of(e->unit), seconds = floor_div(n, units);
    return render_moment(b, floor_div(seconds, DAY), floor_rest(seconds, DAY),
                         floor_rest(n, units), e);
}

/* INT96: nanoseconds of the day, then the Julian day, little-endian. */
static status render_int96(text_buffer *b, const parquet_element *e, const uint8_t *p) {
    int64_t nanoseconds;
    int32_t day;
    memcpy(&nanoseconds, p, 8);
    memcpy(&day, p + 8, 4);
    int64_t seconds = floor_div(nanoseconds, 1000000000);
    int64_t days = (int64_t)day - 2440588 + floor_div(seconds, DAY);
    return render_moment(b, days, floor_rest(seconds, DAY),
                         floor_rest(nanoseconds, 1000000000), e);
}

static status render_time(text_buffer *b, const parquet_element *e, int64_t n) {
    int64_t units = units_of(e->unit);
    if (n < 0 || n / units >= DAY)
        return status_fail(STATUS_DATA, "a time of day of %lld units", (long long)n);
    TRY(text_append(b, "\"", 1));
    TRY(append_time(b, n / units, n % units, e->unit));
    return text_append(b, "\"", 1);
}

static status render_date(text_buffer *b, int64_t days) {
    TRY(text_append(b, "\"", 1));
    TRY(append_date(b, days));
    return text_append(b, "\"", 1);
}

static status render_uuid(text_buffer *b, const uint8_t *p) {
    return append(b,
                  "\"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\"",
                  p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11],
                  p[12], p[13], p[14], p[15]);
}

/* ---- all of them ---- */

/* Which physical types an annotation goes with, bits 1 << PARQUET_...; 0: it is not read. */
static const struct {
    const char *name;
    unsigned types;
} logicals[LOGICAL_KINDS] = {
    [LOGICAL_NONE] = {"", ~0u},
    [LOGICAL_STRING] = {"STRING", 1u << PARQUET_BYTES},
    [LOGICAL_MAP] = {"MAP", 0},
    [LOGICAL_LIST] = {"LIST", 0},
    [LOGICAL_ENUM] = {"ENUM", 1u << PARQUET_BYTES},
    [LOGICAL_DECIMAL] = {"DECIMAL", 1u << PARQUET_INT32 | 1u << PARQUET_INT64 |
                                        1u << PARQUET_BYTES | 1u << PARQUET_FIXED},
    [LOGICAL_DATE] = {"DATE", 1u << PARQUET_INT32},
    [LOGICAL_TIME] = {"TIME", 1u << PARQUET_INT32 | 1u << PARQUET_INT64},
    [LOGICAL_TIMESTAMP] = {"TIMESTAMP", 1u << PARQUET_INT64},
    [LOGICAL_INTERVAL] = {"INTERVAL", 0},
    [LOGICAL_INTEGER] = {"INTEGER", 1u << PARQUET_INT32 | 1u << PARQUET_INT64},
    [LOGICAL_NULL] = {"UNKNOWN", ~0u},
    [LOGICAL_JSON] = {"JSON", 1u << PARQUET_BYTES},
    [LOGICAL_BSON] = {"BSON", 1u << PARQUET_BYTES},
    [LOGICAL_UUID] = {"UUID", 1u << PARQUET_FIXED},
    [LOGICAL_FLOAT16] = {"FLOAT16", 1u << PARQUET_FIXED},
    [LOGICAL_VARIANT] = {"VARIANT", 0},
    [LOGICAL_GEOMETRY] = {"GEOMETRY", 1u << PARQUET_BYTES},
    [LOGICAL_GEOGRAPHY] = {"GEOGRAPHY", 1u << PARQUET_BYTES},
    [LOGICAL_OTHER] = {"of a later version of the format", 0},
};

status render_check(const parquet_element *e) {
    bool fits =
        e->type >= 0 && e->type < PARQUET_TYPES && logicals[e->logical].types >> e->type & 1;
    if (e->type == PARQUET_FIXED)
        fits &= e->length > 0 && (e->logical != LOGICAL_UUID || e->length == 16) &&
                (e->logical != LOGICAL_FLOAT16 || e->length == 2);
    if (e->logical == LOGICAL_DECIMAL) fits &= e->scale >= 0 && e->scale <= SCALE_LIMIT;
    if (e->logical == LOGICAL_TIME || e->logical == LOGICAL_TIMESTAMP)
        fits &= e->unit == 3 || e->unit == 6 || e->unit == 9;
    if (fits) return STATUS_OK;
    return status_fail(STATUS_DATA, "is of a type that is not read: %s",
                       *logicals[e->logical].name ? logicals[e->logical].name
                                                  : "its length is wrong");
}

static status render_number(const parquet_element *e, int64_t n, text_buffer *out) {
    switch (e->logical) {
    case LOGICAL_DATE:
        return render_date(out, n);
    case LOGICAL_TIME:
        return render_time(out, e, n);
    case LOGICAL_TIMESTAMP:
        return render_timestamp(out, e, n);
    case LOGICAL_DECIMAL:
        return render_decimal_number(out, e, n);
    default:
        break;
    }
    if (!e->is_unsigned) return json_text_integer(out, n);
    return json_text_unsigned(out, e->type == PARQUET_INT32 ? (uint32_t)n : (uint64_t)n);
}

static status render_text(const parquet_element *e, const parquet_value *v, text_buffer *out) {
    switch (e->logical) {
    case LOGICAL_STRING:
    case LOGICAL_ENUM:
    case LOGICAL_JSON:
        return json_text_string(out, (const char *)v->bytes, v->size);
    case LOGICAL_DECIMAL:
        return render_decimal(out, e, v->bytes, v->size);
    case LOGICAL_UUID:
        return render_uuid(out, v->bytes);
    case LOGICAL_FLOAT16:
        return json_text_real(out, f16_to_f32((uint16_t)(v->bytes[0] | v->bytes[1] << 8)));
    case LOGICAL_NONE:
        return render_bytes(out, v);
    default:
        return render_base64(out, v->bytes, v->size);
    }
}

status render_value(const parquet_element *e, const parquet_value *v, text_buffer *out) {
    if (e->logical == LOGICAL_NULL) return text_append(out, "null", 4);
    switch ((parquet_type)e->type) {
    case PARQUET_BOOLEAN:
        return text_append_string(out, v->number ? "true" : "false");
    case PARQUET_INT32:
    case PARQUET_INT64:
        return render_number(e, v->number, out);
    case PARQUET_INT96:
        return render_int96(out, e, v->bytes);
    case PARQUET_FLOAT: {
        uint32_t bits = (uint32_t)v->number;
        float x;
        memcpy(&x, &bits, sizeof x);
        return json_text_real(out, x);
    }
    case PARQUET_DOUBLE: {
        double x;
        memcpy(&x, &v->number, sizeof x);
        return json_text_real(out, x);
    }
    default:
        return render_text(e, v, out);
    }
}
