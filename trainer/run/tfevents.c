/* tfevents.c: see tfevents.h. Protobuf by hand: Event {1: double wall_time, 2: int64 step,
 * 3: string file_version, 5: Summary {1: Value {1: string tag, 2: float simple_value}}}. */
#include "trainer/run/tfevents.h"

#include <string.h>

uint32_t crc32c(const void *data, size_t bytes) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= ((const unsigned char *)data)[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return ~crc;
}

static uint32_t masked(const void *data, size_t bytes) {
    uint32_t c = crc32c(data, bytes);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

typedef struct text {
    unsigned char bytes[512];
    size_t n;
} text;

static void put(text *t, const void *data, size_t n) {
    memcpy(t->bytes + t->n, data, n);
    t->n += n;
}

static void put_varint(text *t, uint64_t x) {
    for (; x > 127; x >>= 7) t->bytes[t->n++] = (unsigned char)(x | 128);
    t->bytes[t->n++] = (unsigned char)x;
}

static void put_part(text *t, int field, const void *data, size_t n) { /* wire type 2 */
    put_varint(t, (uint64_t)field << 3 | 2);
    put_varint(t, n);
    put(t, data, n);
}

static void put_time(text *t, double wall) {
    put_varint(t, 1 << 3 | 1);
    put(t, &wall, 8);
}

static status write_record(file *f, const text *event) {
    unsigned char record[sizeof event->bytes + 16];
    uint64_t length = event->n;
    uint32_t head, tail = masked(event->bytes, event->n);
    memcpy(record, &length, 8);
    head = masked(record, 8);
    memcpy(record + 8, &head, 4);
    memcpy(record + 12, event->bytes, event->n);
    memcpy(record + 12 + event->n, &tail, 4);
    return file_write(f, record, event->n + 16);
}

status tfevents_begin(file *f, double wall_time) {
    text e = {.n = 0};
    put_time(&e, wall_time);
    put_part(&e, 3, "brain.Event:2", 13);
    return write_record(f, &e);
}

status tfevents_scalar(file *f, double wall_time, int64_t step, const char *tag, float value) {
    text v = {.n = 0}, s = {.n = 0}, e = {.n = 0};
    put_part(&v, 1, tag, strnlen(tag, 200));
    put_varint(&v, 2 << 3 | 5);
    put(&v, &value, 4);
    put_part(&s, 1, v.bytes, v.n);
    put_time(&e, wall_time);
    put_varint(&e, 2 << 3);
    put_varint(&e, (uint64_t)step);
    put_part(&e, 5, s.bytes, s.n);
    return write_record(f, &e);
}
