/* thrift.c: see thrift.h. */
#include "data/parquet/thrift.h"

static uint64_t broken(thrift *t) {
    t->broken = true;
    t->at = t->end;
    return 0;
}

static uint8_t take_byte(thrift *t) {
    if (t->at < t->end) return *t->at++;
    t->ran_out |= !t->broken;
    return (uint8_t)broken(t);
}

uint64_t thrift_varint(thrift *t) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        uint8_t byte = take_byte(t);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return value;
    }
    return broken(t);
}

static void take_bytes(thrift *t, uint64_t bytes) {
    if (bytes > (uint64_t)(t->end - t->at)) {
        t->ran_out |= !t->broken;
        broken(t);
    } else
        t->at += bytes;
}

bool thrift_next(thrift *t, thrift_field *f) {
    uint8_t head = take_byte(t);
    if (t->broken || (head & 15) == THRIFT_STOP) return false;
    f->type = (thrift_type)(head & 15);
    if (head >> 4)
        f->id += head >> 4;
    else
        f->id = (int16_t)thrift_zigzag(thrift_varint(t));
    return !t->broken;
}

/* A list's, set's or map's size: elements that take a byte at least. */
static uint64_t take_count(thrift *t, uint64_t count) {
    return count > (uint64_t)(t->end - t->at) ? (t->ran_out |= !t->broken, broken(t)) : count;
}

static uint64_t list_head(thrift *t, thrift_type *type) {
    uint8_t head = take_byte(t);
    *type = (thrift_type)(head & 15);
    return take_count(t, head >> 4 < 15 ? head >> 4 : thrift_varint(t));
}

static void skip_value(thrift *t, thrift_type type, bool in_list, int depth);

static void skip_list(thrift *t, int depth) {
    thrift_type type;
    uint64_t count = list_head(t, &type);
    for (uint64_t i = 0; i < count && !t->broken; i++) skip_value(t, type, true, depth + 1);
}

static void skip_map(thrift *t, int depth) {
    uint64_t count = take_count(t, thrift_varint(t));
    uint8_t types = count ? take_byte(t) : 0;
    for (uint64_t i = 0; i < count && !t->broken; i++) {
        skip_value(t, (thrift_type)(types >> 4), true, depth + 1);
        skip_value(t, (thrift_type)(types & 15), true, depth + 1);
    }
}

static void skip_struct(thrift *t, int depth) {
    thrift_field f = {0};
    while (thrift_next(t, &f)) skip_value(t, f.type, false, depth + 1);
}

static void skip_value(thrift *t, thrift_type type, bool in_list, int depth) {
    if (depth > THRIFT_DEPTH) {
        broken(t);
        return;
    }
    switch (type) {
    case THRIFT_TRUE:
    case THRIFT_FALSE: /* in a struct the field's type is the value */
        if (in_list) take_byte(t);
        break;
    case THRIFT_BYTE:
        take_byte(t);
        break;
    case THRIFT_I16:
    case THRIFT_I32:
    case THRIFT_I64:
        thrift_varint(t);
        break;
    case THRIFT_DOUBLE:
        take_bytes(t, 8);
        break;
    case THRIFT_BINARY:
        take_bytes(t, thrift_varint(t));
        break;
    case THRIFT_LIST:
    case THRIFT_SET:
        skip_list(t, depth);
        break;
    case THRIFT_MAP:
        skip_map(t, depth);
        break;
    case THRIFT_STRUCT:
        skip_struct(t, depth);
        break;
    default:
        broken(t);
    }
}

void thrift_skip(thrift *t, thrift_type type) {
    skip_value(t, type, false, 0);
}

int64_t thrift_int(thrift *t, const thrift_field *f) {
    if (f->type == THRIFT_BYTE) return (int8_t)take_byte(t);
    if (f->type < THRIFT_I16 || f->type > THRIFT_I64) return (int64_t)broken(t);
    return thrift_zigzag(thrift_varint(t));
}

bool thrift_bool(thrift *t, const thrift_field *f) {
    if (f->type != THRIFT_TRUE && f->type != THRIFT_FALSE) broken(t);
    return f->type == THRIFT_TRUE;
}

const char *thrift_text(thrift *t, const thrift_field *f, size_t *bytes) {
    if (f->type != THRIFT_BINARY) broken(t);
    uint64_t n = thrift_varint(t);
    const char *text = (const char *)t->at;
    take_bytes(t, n);
    *bytes = t->broken ? 0 : (size_t)n;
    return text;
}

bool thrift_struct(thrift *t, const thrift_field *f) {
    if (f->type != THRIFT_STRUCT) broken(t);
    return !t->broken;
}

size_t thrift_list(thrift *t, const thrift_field *f, thrift_type type) {
    thrift_type found;
    if (f->type != THRIFT_LIST) broken(t);
    uint64_t count = list_head(t, &found);
    if (count && found != type) broken(t);
    return t->broken ? 0 : (size_t)count;
}
