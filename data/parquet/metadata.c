/* metadata.c: see metadata.h. */
#include "data/parquet/metadata.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <string.h>

enum {
    TAIL = 8,               /* the footer's length and the magic */
    FOOTER_LIMIT = 1 << 28, /* bytes */
    ELEMENT_LIMIT = 1 << 16,
};

/* ---- the schema ---- */

/* What ConvertedType's numbers mean, the older way to say it. */
static const struct {
    parquet_logical logical;
    int unit, bits;
    bool is_unsigned, utc;
} converted[] = {
    {.logical = LOGICAL_STRING},
    {.logical = LOGICAL_MAP},
    {.logical = LOGICAL_MAP}, /* MAP_KEY_VALUE */
    {.logical = LOGICAL_LIST},
    {.logical = LOGICAL_ENUM},
    {.logical = LOGICAL_DECIMAL},
    {.logical = LOGICAL_DATE},
    {.logical = LOGICAL_TIME, .unit = 3, .utc = true},
    {.logical = LOGICAL_TIME, .unit = 6, .utc = true},
    {.logical = LOGICAL_TIMESTAMP, .unit = 3, .utc = true},
    {.logical = LOGICAL_TIMESTAMP, .unit = 6, .utc = true},
    {.logical = LOGICAL_INTEGER, .bits = 8, .is_unsigned = true},
    {.logical = LOGICAL_INTEGER, .bits = 16, .is_unsigned = true},
    {.logical = LOGICAL_INTEGER, .bits = 32, .is_unsigned = true},
    {.logical = LOGICAL_INTEGER, .bits = 64, .is_unsigned = true},
    {.logical = LOGICAL_INTEGER, .bits = 8},
    {.logical = LOGICAL_INTEGER, .bits = 16},
    {.logical = LOGICAL_INTEGER, .bits = 32},
    {.logical = LOGICAL_INTEGER, .bits = 64},
    {.logical = LOGICAL_JSON},
    {.logical = LOGICAL_BSON},
    {.logical = LOGICAL_INTERVAL},
};

static void read_converted(thrift *t, const thrift_field *f, parquet_element *e) {
    int64_t n = thrift_int(t, f);
    if (e->logical != LOGICAL_NONE) return; /* the newer way was there and says more */
    if (n < 0 || n >= (int64_t)(sizeof converted / sizeof *converted)) {
        e->logical = LOGICAL_OTHER;
        return;
    }
    e->logical = converted[n].logical;
    e->unit = converted[n].unit;
    e->bits = converted[n].bits;
    e->is_unsigned = converted[n].is_unsigned;
    e->utc = converted[n].utc;
}

/* TimeUnit: a union of empty structs. */
static int64_t read_unit(thrift *t, const thrift_field *f) {
    thrift_field unit = {0};
    int64_t digits = 0;
    if (!thrift_struct(t, f)) return 0;
    while (thrift_next(t, &unit)) {
        if (unit.id >= 1 && unit.id <= 3) digits = unit.id * 3;
        thrift_skip(t, unit.type);
    }
    return digits;
}

/* The struct inside of the union LogicalType; its fields by the kind. */
static void read_logical_fields(thrift *t, parquet_element *e) {
    thrift_field f = {0};
    bool time = e->logical == LOGICAL_TIME || e->logical == LOGICAL_TIMESTAMP;
    while (thrift_next(t, &f)) {
        if (e->logical == LOGICAL_DECIMAL && f.id == 1)
            e->scale = thrift_int(t, &f);
        else if (time && f.id == 1)
            e->utc = thrift_bool(t, &f);
        else if (time && f.id == 2)
            e->unit = read_unit(t, &f);
        else if (e->logical == LOGICAL_INTEGER && f.id == 1)
            e->bits = thrift_int(t, &f);
        else if (e->logical == LOGICAL_INTEGER && f.id == 2)
            e->is_unsigned = !thrift_bool(t, &f);
        else
            thrift_skip(t, f.type);
    }
}

static void read_logical(thrift *t, const thrift_field *f, parquet_element *e) {
    static const parquet_logical kinds[] = {
        LOGICAL_OTHER,     LOGICAL_STRING,   LOGICAL_MAP,      LOGICAL_LIST,
        LOGICAL_ENUM,      LOGICAL_DECIMAL,  LOGICAL_DATE,     LOGICAL_TIME,
        LOGICAL_TIMESTAMP, LOGICAL_INTERVAL, LOGICAL_INTEGER,  LOGICAL_NULL,
        LOGICAL_JSON,      LOGICAL_BSON,     LOGICAL_UUID,     LOGICAL_FLOAT16,
        LOGICAL_VARIANT,   LOGICAL_GEOMETRY, LOGICAL_GEOGRAPHY};
    thrift_field kind = {0};
    if (!thrift_struct(t, f)) return;
    while (thrift_next(t, &kind)) {
        bool known = kind.id > 0 && kind.id < (int)(sizeof kinds / sizeof *kinds);
        e->logical = known ? kinds[kind.id] : LOGICAL_OTHER;
        if (thrift_struct(t, &kind)) read_logical_fields(t, e);
    }
}

static void read_element(thrift *t, parquet_element *e) {
    thrift_field f = {0};
    e->type = PARQUET_GROUP;
    while (thrift_next(t, &f)) {
        if (f.id == 1)
            e->type = thrift_int(t, &f);
        else if (f.id == 2)
            e->length = thrift_int(t, &f);
        else if (f.id == 3)
            e->repetition = thrift_int(t, &f);
        else if (f.id == 4)
            e->name = thrift_text(t, &f, &e->name_bytes);
        else if (f.id == 5)
            e->children = thrift_int(t, &f);
        else if (f.id == 6)
            read_converted(t, &f, e);
        else if (f.id == 7)
            e->scale = thrift_int(t, &f);
        else if (f.id == 10)
            read_logical(t, &f, e);
        else
            thrift_skip(t, f.type);
    }
    t->broken |= !e->name;
}

static status read_schema(thrift *t, const thrift_field *f, parquet_metadata *m) {
    size_t count = thrift_list(t, f, THRIFT_STRUCT);
    if (count > ELEMENT_LIMIT)
        return status_fail(STATUS_DATA, "its schema has %zu fields, at most %d are read",
                           count, ELEMENT_LIMIT);
    for (size_t i = 0; i < count && !t->broken; i++) {
        if (mem_grow(&m->elements, &m->element_capacity, m->element_count + 1,
                     sizeof *m->elements, "a Parquet schema"))
            return STATUS_MEMORY;
        parquet_element *e = &m->elements[m->element_count++];
        memset(e, 0, sizeof *e);
        read_element(t, e);
    }
    return STATUS_OK;
}

/* ---- row groups ---- */

static void read_chunk_metadata(thrift *t, parquet_chunk *c) {
    thrift_field f = {0};
    int64_t data = -1, dictionary = 0;
    c->type = c->codec = c->values = -1;
    while (thrift_next(t, &f)) {
        if (f.id == 1)
            c->type = thrift_int(t, &f);
        else if (f.id == 4)
            c->codec = thrift_int(t, &f);
        else if (f.id == 5)
            c->values = thrift_int(t, &f);
        else if (f.id == 9)
            data = thrift_int(t, &f);
        else if (f.id == 11)
            dictionary = thrift_int(t, &f);
        else
            thrift_skip(t, f.type);
    }
    c->at = dictionary > 0 && dictionary < data ? dictionary : data;
    t->broken |= c->type < 0 || c->codec < 0 || c->values < 0 || c->at < 0;
}

static void read_chunk(thrift *t, parquet_chunk *c) {
    thrift_field f = {0};
    bool found = false;
    while (thrift_next(t, &f)) {
        if (f.id == 3 && thrift_struct(t, &f)) {
            read_chunk_metadata(t, c);
            found = true;
            continue;
        }
        c->elsewhere |= f.id == 1;
        c->encrypted |= f.id == 8 || f.id == 9;
        thrift_skip(t, f.type);
    }
    t->broken |= !found && !c->encrypted;
}

static status read_chunks(thrift *t, const thrift_field *f, parquet_metadata *m,
                          parquet_group *g) {
    g->chunk = m->chunk_count;
    g->chunks = thrift_list(t, f, THRIFT_STRUCT);
    for (size_t i = 0; i < g->chunks && !t->broken; i++) {
        if (mem_grow(&m->chunks, &m->chunk_capacity, m->chunk_count + 1, sizeof *m->chunks,
                     "a Parquet footer"))
            return STATUS_MEMORY;
        parquet_chunk *c = &m->chunks[m->chunk_count++];
        memset(c, 0, sizeof *c);
        read_chunk(t, c);
    }
    return STATUS_OK;
}

static status read_group(thrift *t, parquet_metadata *m, parquet_group *g) {
    thrift_field f = {0};
    g->rows = -1;
    while (thrift_next(t, &f)) {
        if (f.id == 1)
            TRY(read_chunks(t, &f, m, g));
        else if (f.id == 3)
            g->rows = thrift_int(t, &f);
        else
            thrift_skip(t, f.type);
    }
    t->broken |= g->rows < 0;
    return STATUS_OK;
}

static status read_groups(thrift *t, const thrift_field *f, parquet_metadata *m) {
    size_t count = thrift_list(t, f, THRIFT_STRUCT);
    for (size_t i = 0; i < count && !t->broken; i++) {
        if (mem_grow(&m->groups, &m->group_capacity, m->group_count + 1, sizeof *m->groups,
                     "a Parquet footer"))
            return STATUS_MEMORY;
        parquet_group *g = &m->groups[m->group_count++];
        memset(g, 0, sizeof *g);
        TRY(read_group(t, m, g));
    }
    return STATUS_OK;
}

/* ---- the footer ---- */

static status encrypted(void) {
    return status_fail(STATUS_DATA, "is an encrypted Parquet file, which is not read");
}

static status read_footer(thrift *t, parquet_metadata *m) {
    thrift_field f = {0};
    while (thrift_next(t, &f)) {
        if (f.id == 2 && !m->elements)
            TRY(read_schema(t, &f, m));
        else if (f.id == 3)
            m->rows = thrift_int(t, &f);
        else if (f.id == 4 && !m->groups)
            TRY(read_groups(t, &f, m));
        else if (f.id == 8)
            return encrypted();
        else
            thrift_skip(t, f.type);
    }
    if (t->broken) return status_fail(STATUS_DATA, "its Parquet footer is damaged");
    for (size_t i = 0; i < m->chunk_count; i++)
        if (m->chunks[i].encrypted) return encrypted();
    int64_t rows = 0;
    bool sum = true;
    for (size_t i = 0; i < m->group_count; i++)
        sum &= checked_add_i64(rows, m->groups[i].rows, &rows);
    if (!sum || rows != m->rows)
        return status_fail(STATUS_DATA,
                           "its Parquet footer is damaged: it states %lld rows, "
                           "its row groups have others",
                           (long long)m->rows);
    return STATUS_OK;
}

/* Where the footer lies. */
static status find_footer(parquet_metadata *m, const file *f, size_t *bytes) {
    unsigned char tail[TAIL];
    if (f->size < 4 + TAIL)
        return status_fail(STATUS_DATA, "is cut off: %lld bytes are no Parquet file",
                           (long long)f->size);
    TRY(file_read_at(f, tail, sizeof tail, f->size - TAIL));
    if (!memcmp(tail + 4, "PARE", 4)) return encrypted();
    if (memcmp(tail + 4, "PAR1", 4) != 0)
        return status_fail(STATUS_DATA,
                           "begins as a Parquet file and does not end as one: it is "
                           "cut off; download or copy it again");
    uint32_t length = (uint32_t)tail[0] | (uint32_t)tail[1] << 8 | (uint32_t)tail[2] << 16 |
                      (uint32_t)tail[3] << 24;
    if (length > FOOTER_LIMIT || length > f->size - 4 - TAIL)
        return status_fail(STATUS_DATA, "its Parquet footer is damaged: a length of %u bytes",
                           length);
    m->data_end = f->size - TAIL - length;
    *bytes = length;
    return STATUS_OK;
}

static status metadata_read(parquet_metadata *m, const file *f) {
    size_t bytes = 0;
    TRY(find_footer(m, f, &bytes));
    m->footer = mem_alloc(bytes, "a Parquet footer");
    if (!m->footer) return STATUS_MEMORY;
    TRY(file_read_at(f, m->footer, bytes, m->data_end));
    thrift t = {.at = (const uint8_t *)m->footer, .end = (const uint8_t *)m->footer + bytes};
    return read_footer(&t, m);
}

status parquet_metadata_read(parquet_metadata *m, const file *f) {
    memset(m, 0, sizeof *m);
    status s = metadata_read(m, f);
    if (s == STATUS_OK) return s;
    parquet_metadata_free(m);
    return s == STATUS_DATA ? status_prefix(s, "%s", f->path) : s;
}

void parquet_metadata_free(parquet_metadata *m) {
    mem_free(m->footer);
    mem_free(m->elements);
    mem_free(m->chunks);
    mem_free(m->groups);
    memset(m, 0, sizeof *m);
}

/* ---- pages ---- */

/* The fields of the three kinds of header that hold values: where each number of ours is. */
static void read_kind(thrift *t, const thrift_field *kind, parquet_page_header *h) {
    thrift_field f = {0};
    if (!thrift_struct(t, kind)) return;
    bool second = kind->id == 8;
    while (thrift_next(t, &f)) {
        if (f.id == 1)
            h->values = thrift_int(t, &f);
        else if (f.id == (second ? 4 : 2))
            h->encoding = thrift_int(t, &f);
        else if (f.id == 5 && second)
            h->definition_bytes = thrift_int(t, &f);
        else if (f.id == 6 && second)
            h->repetition_bytes = thrift_int(t, &f);
        else if (f.id == 7 && second)
            h->packed = thrift_bool(t, &f);
        else if (f.id == 3 && kind->id == 5)
            h->definition_encoding = thrift_int(t, &f);
        else if (f.id == 4 && kind->id == 5)
            h->repetition_encoding = thrift_int(t, &f);
        else
            thrift_skip(t, f.type);
    }
}

void parquet_page_header_read(thrift *t, parquet_page_header *h) {
    thrift_field f = {0};
    *h = (parquet_page_header){.type = -1, .values = -1, .encoding = -1, .packed = true};
    while (thrift_next(t, &f)) {
        if (f.id == 1)
            h->type = thrift_int(t, &f);
        else if (f.id == 2)
            h->bytes = thrift_int(t, &f);
        else if (f.id == 3)
            h->packed_bytes = thrift_int(t, &f);
        else if (f.id == 4) {
            h->crc = (uint32_t)thrift_int(t, &f);
            h->has_crc = true;
        } else if (f.id == 5 || f.id == 7 || f.id == 8)
            read_kind(t, &f, h);
        else
            thrift_skip(t, f.type);
    }
}
