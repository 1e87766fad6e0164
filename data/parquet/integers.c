/* integers.c: see integers.h. */
#include "data/parquet/integers.h"
#include "data/parquet/thrift.h"

#include <string.h>

/* `width` <= 64 bits at bit `offset` of data that ends at `end`. */
static inline uint64_t bits_at(const uint8_t *data, uint64_t offset, int width,
                               const uint8_t *end) {
    const uint8_t *p = data + offset / 8;
    int shift = (int)(offset % 8);
    uint64_t low = 0, high = 0;
    size_t n = (size_t)(end - p);
    memcpy(&low, p, n < 8 ? n : 8);
    if (shift + width > 64 && n > 8) high = p[8];
    low = low >> shift | (shift ? high << (64 - shift) : 0);
    return width < 64 ? low & ((1ull << width) - 1) : low;
}

static uint64_t varint(const uint8_t **at, const uint8_t *end, bool *ok) {
    thrift t = {.at = *at, .end = end};
    uint64_t n = thrift_varint(&t);
    *at = t.at;
    *ok &= !t.broken;
    return n;
}

/* ---- runs ---- */

status run_open(run_reader *r, const uint8_t *data, size_t bytes, int width) {
    *r = (run_reader){.at = data, .end = data + bytes, .width = width};
    if (width < 0 || width > 32)
        return status_fail(STATUS_DATA, "values of %d bits in its runs", width);
    return STATUS_OK;
}

/* Leaves the present run and reads the next one's header; false where there is none. */
static bool next_run(run_reader *r) {
    if (r->packed) r->at += (r->offset + 7) / 8;
    r->packed = false;
    bool ok = true;
    uint64_t head = varint(&r->at, r->end, &ok), room = (uint64_t)(r->end - r->at);
    r->left = ok ? head >> 1 : 0;
    if (head & 1) { /* groups of eight; the last one may be cut off behind its last value */
        uint64_t fit = r->width ? room * 8 / (uint64_t)r->width : UINT64_MAX / 8;
        r->left = r->left > fit / 8 ? fit : r->left * 8;
        r->packed = true;
        r->offset = 0;
        return r->left > 0;
    }
    size_t bytes = (size_t)(r->width + 7) / 8;
    if (bytes > room) r->left = 0;
    if (!r->left) return false;
    r->value = 0;
    for (size_t i = 0; i < bytes; i++) r->value |= (uint32_t)r->at[i] << (8 * i);
    r->at += bytes;
    return true;
}

static void unpack(run_reader *r, uint32_t *out, size_t n) {
    for (size_t i = 0; i < n; i++, r->offset += (uint64_t)r->width)
        out[i] = (uint32_t)bits_at(r->at, r->offset, r->width, r->end);
}

size_t run_read(run_reader *r, uint32_t *out, size_t n) {
    size_t done = 0;
    while (done < n && (r->left || next_run(r))) {
        size_t take = n - done < r->left ? n - done : (size_t)r->left;
        if (r->packed)
            unpack(r, out + done, take);
        else
            for (size_t i = 0; i < take; i++) out[done + i] = r->value;
        r->left -= take;
        done += take;
    }
    return done;
}

/* ---- differences ---- */

static status damaged(void) {
    return status_fail(STATUS_DATA, "its differences (DELTA encoding) are damaged");
}

status delta_open(delta_reader *r, const uint8_t *data, size_t bytes) {
    *r = (delta_reader){.at = data, .end = data + bytes, .first = true};
    bool ok = true;
    uint64_t block = varint(&r->at, r->end, &ok);
    r->minis = varint(&r->at, r->end, &ok);
    r->left = varint(&r->at, r->end, &ok);
    r->value = thrift_zigzag(varint(&r->at, r->end, &ok));
    if (!ok || !r->minis || !block || block % r->minis || block / r->minis % 32 ||
        block > 1 << 30)
        return damaged();
    r->per_mini = block / r->minis;
    r->mini = r->minis;
    return STATUS_OK;
}

/* Enters the next miniblock, and its block where that is new. */
static status next_mini(delta_reader *r) {
    if (r->mini == r->minis) {
        bool ok = true;
        r->least = thrift_zigzag(varint(&r->at, r->end, &ok));
        if (!ok || (uint64_t)(r->end - r->at) < r->minis) return damaged();
        r->widths = r->at;
        r->at += r->minis;
        r->mini = 0;
    }
    r->width = r->widths[r->mini++];
    uint64_t bytes = r->per_mini / 8 * (uint64_t)r->width;
    if (r->width > 64 || bytes > (uint64_t)(r->end - r->at)) return damaged();
    r->packed = r->at;
    r->at += bytes;
    r->in_mini = r->per_mini;
    r->offset = 0;
    return STATUS_OK;
}

status delta_next(delta_reader *r, int64_t *out) {
    if (!r->left) return status_fail(STATUS_DATA, "its values end early");
    r->left--;
    if (!r->first) {
        if (!r->in_mini) TRY(next_mini(r));
        uint64_t more = bits_at(r->packed, r->offset, r->width, r->end);
        r->value = (int64_t)((uint64_t)r->value + (uint64_t)r->least + more);
        r->offset += (uint64_t)r->width;
        r->in_mini--;
    }
    r->first = false;
    *out = r->value;
    return STATUS_OK;
}

status delta_end(const delta_reader *r, const uint8_t **end) {
    delta_reader walk = *r;
    for (uint64_t left = r->left ? r->left - 1 : 0; left;
         left -= left < walk.per_mini ? left : walk.per_mini)
        TRY(next_mini(&walk));
    *end = walk.at;
    return STATUS_OK;
}
