/* test_parquet_abuse.c: Parquet files that are cut off, damaged or made to deceive: each is
 * read or refused in words, within the memory that its size justifies. */
#include "scratch.h"

#include <errno.h>

#include "parquet_made.h"

#include "common/json.h"
#include "data/records.h"

#define GROUP PARQUET_GROUP

enum { ROWS = 20000 }; /* of a file that claims more */

static uint64_t rows_sum; /* of the bytes of the rows that were read last */

/* Reads what is there; how it ended. */
static status read_file(const unsigned char *data, size_t n, int64_t *rows) {
    const char *path = scratch("abuse.parquet");
    put_file(path, data, n);
    record_reader *r;
    data_record row;
    *rows = 0;
    rows_sum = 0;
    status_clear();
    TRY(records_open(&r, path, RECORD_AUTO));
    status s;
    while ((s = records_next(r, &row)) == STATUS_OK && row.text && *rows < ROWS) {
        for (size_t i = 0; i < row.bytes; i++)
            rows_sum = rows_sum * 31 + (unsigned char)row.text[i];
        ++*rows;
    }
    records_close(r);
    return s;
}

static void expect_refusal(const made_file *f, const char *part) {
    int64_t rows;
    assert_fails(read_file(f->b.data, f->b.n, &rows), STATUS_DATA, part);
    assert_non_null(strstr(status_message(), "abuse.parquet: "));
}

/* A file with a bit of everything: nesting, dictionaries, differences, both kinds of page. */
static void make_all(made_file *f, int codec, bool crc) {
    static const made_element elements[] = {
        {"s", GROUP, .children = 4},
        {"n", PARQUET_INT64, PARQUET_OPTIONAL},
        {"t", PARQUET_BYTES, PARQUET_REQUIRED, .logical = 1},
        {"l", GROUP, PARQUET_OPTIONAL, .children = 1, .logical = 3},
        {"list", GROUP, PARQUET_REPEATED, .children = 1},
        {"e", GROUP, PARQUET_OPTIONAL, .children = 2},
        {"a", PARQUET_BYTES, PARQUET_OPTIONAL, .converted = 1},
        {"b", PARQUET_DOUBLE, PARQUET_REQUIRED},
        {"d", PARQUET_FIXED, PARQUET_REQUIRED, .length = 3, .logical = 5, .scale = 2},
    };
    static const int definition[] = {1, 0, 1, 1, 0, 1},
                     repetition[] = {0, 1, 0, 0, 0, 1, 0, 0}, a[] = {4, 2, 4, 0, 3, 4, 1, 4},
                     b[] = {3, 2, 3, 0, 3, 3, 1, 3}, indices[] = {0, 2, 1, 1};
    static const int64_t numbers[] = {7, -9, INT64_MAX, 4}, lengths[] = {1, 0, 5, 2, 2, 300};
    static bytes body;
    char long_text[310];
    memset(long_text, 'z', sizeof long_text);
    made_begin(f);
    f->crc = crc;
    for (int group = 0; group < 2; group++) {
        f->second = group;
        made_chunk(f, PARQUET_INT64, codec);
        body.n = 0, put_delta(&body, numbers, 4);
        made_page(f, (made_levels){6, NULL, definition, 0, 1}, ENCODING_DELTA_BINARY_PACKED,
                  &body);
        made_chunk(f, PARQUET_BYTES, codec);
        body.n = 0, put_delta(&body, lengths, 6), put(&body, long_text, 310);
        made_page(f, (made_levels){6}, ENCODING_DELTA_LENGTH_BYTES, &body);
        made_chunk(f, PARQUET_BYTES, codec);
        body.n = 0, put_string(&body, "x"), put_string(&body, ""), put_string(&body, "yz");
        made_dictionary(f, 3, &body);
        body.n = 0, put_byte(&body, 2), put_runs(&body, indices, 4, 2, group);
        made_page(f, (made_levels){8, repetition, a, 1, 4}, ENCODING_RLE_DICTIONARY, &body);
        made_chunk(f, PARQUET_DOUBLE, codec);
        body.n = 0, put(&body, long_text, 5 * 8);
        made_page(f, (made_levels){8, repetition, b, 1, 3}, ENCODING_BYTE_STREAM_SPLIT, &body);
        made_chunk(f, PARQUET_FIXED, codec);
        body.n = 0, put(&body, long_text, 18);
        made_page(f, (made_levels){6}, ENCODING_PLAIN, &body);
        made_group(f, 6);
    }
    made_end(f, elements, 9);
}

static void test_whole(void **state) {
    static made_file f;
    for (int codec = 0; codec <= CODEC_LZ4; codec++) {
        if (codec == CODEC_LZO || codec == CODEC_LZ4_OLD) continue;
        int64_t rows;
        make_all(&f, codec, true);
        assert_ok(read_file(f.b.data, f.b.n, &rows));
        assert_int_equal(rows, 12);
    }
}

static void test_truncated(void **state) {
    static made_file f;
    make_all(&f, CODEC_SNAPPY, true);
    for (size_t n = 0; n < f.b.n; n++) {
        int64_t rows;
        assert_int_equal(read_file(f.b.data, n, &rows), STATUS_DATA);
        assert_non_null(strstr(status_message(), "abuse.parquet"));
    }
    for (size_t from = 5; from < f.b.n - 8; from += 3) { /* bytes missing in the middle */
        int64_t rows;
        static bytes cut;
        cut.n = 0;
        put(&cut, f.b.data, from), put(&cut, f.b.data + from + 1, f.b.n - from - 1);
        assert_int_equal(read_file(cut.data, cut.n, &rows), STATUS_DATA);
    }
}

/* Bits, bytes and whole words changed: with checksums no row of a damaged page comes through,
 * without them what is nonsense is found by what it says. */
static void test_mutated(void **state) {
    static made_file f;
    static bytes bad;
    uint64_t seed = 11;
    int refused = 0, count = trials(3000, 10000);
    for (int i = 0; i < count; i++) {
        static const int codecs[] = {CODEC_NONE, CODEC_SNAPPY, CODEC_ZSTD, CODEC_LZ4,
                                     CODEC_GZIP};
        if (i % 100 == 0) make_all(&f, codecs[i / 100 % 5], false);
        bad = f.b;
        for (uint64_t n = noise(&seed) % 3 + 1; n; n--) {
            uint64_t at = noise(&seed) % (bad.n - 4), kind = noise(&seed) % 4;
            if (kind == 0) bad.data[at] ^= (unsigned char)(1 << noise(&seed) % 8);
            if (kind == 1) bad.data[at] = (unsigned char)noise(&seed);
            if (kind == 2) memset(bad.data + at, noise(&seed) % 2 ? 0xff : 0, 4);
            if (kind == 3) memcpy(bad.data + at, bad.data + noise(&seed) % (bad.n - 4), 4);
        }
        int64_t rows;
        size_t before = mem_used();
        status s = read_file(bad.data, bad.n, &rows);
        assert_true(s == STATUS_OK || s == STATUS_DATA);
        if (s != STATUS_OK) assert_non_null(strstr(status_message(), "abuse.parquet: "));
        refused += s != STATUS_OK;
        assert_int_equal(mem_used(), before);
    }
    assert_true(refused > count / 4);
    assert_true(mem_peak() < (size_t)192 << 20);
}

/* A page's body is covered; some numbers of its header nobody needs. */
static void test_checksums(void **state) {
    static made_file f, g;
    int64_t rows;
    int refused = 0;
    make_all(&f, CODEC_SNAPPY, true);
    assert_ok(read_file(f.b.data, f.b.n, &rows));
    uint64_t sum = rows_sum;
    for (size_t at = 4; at < 600; at++) {
        g = f;
        g.b.data[at] ^= 0x10;
        status s = read_file(g.b.data, g.b.n, &rows);
        if (s == STATUS_OK && rows_sum != sum) fail_msg("other rows by byte %zu", at);
        refused += s != STATUS_OK;
    }
    assert_true(refused > 500);
}

/* ---- lies ---- */

/* A required column of 32-bit numbers with one page, as `made` by its caller. */
static const made_element one[] = {{"s", GROUP, .children = 1}, {"x", PARQUET_INT32}};

static void begin_one(made_file *f, int codec) {
    made_begin(f);
    made_chunk(f, PARQUET_INT32, codec);
}

static void test_lies_of_size(void **state) {
    static made_file f;
    static const char *const messages[] = {[CODEC_NONE] = "that is said to have",
                                           [CODEC_SNAPPY] = "cannot hold",
                                           [CODEC_GZIP] = "cannot hold",
                                           [CODEC_ZSTD] = "more than",
                                           [CODEC_LZ4] = "cannot hold"};
    for (int codec = 0; codec <= CODEC_LZ4; codec++) {
        if (!messages[codec]) continue;
        bytes packed = {.n = 0};
        begin_one(&f, codec);
        put_packed(&packed, codec, "0123", 4);
        made_struct s = made_header(&f, 0, 2000000000, &packed), d = made_inside(&s, 5);
        made_int(&d, 1, 1), made_int(&d, 2, 0), made_int(&d, 3, 3), made_int(&d, 4, 3);
        made_stop(&d), made_stop(&s);
        put(&f.b, packed.data, packed.n);
        f.chunks[0].values = 1;
        made_group(&f, 1);
        made_end(&f, one, 2);
        size_t peak = mem_used() + (1 << 20);
        expect_refusal(&f, messages[codec]);
        assert_true(mem_used() < peak);
    }
}

static void test_lies_of_count(void **state) {
    static made_file f;
    static bytes body;
    body.n = 0, put_u32(&body, 1), put_u32(&body, 2);
    begin_one(&f, CODEC_NONE);
    made_page(&f, (made_levels){2}, ENCODING_PLAIN, &body);
    made_group(&f, 3);
    made_end(&f, one, 2);
    expect_refusal(&f, "column `x`, row group 1: it ends before the row group does");
    begin_one(&f, CODEC_NONE);
    made_page(&f, (made_levels){2}, ENCODING_PLAIN, &body);
    made_group(&f, 1);
    made_end(&f, one, 2);
    expect_refusal(&f, "it has more rows than the row group");
    begin_one(&f, CODEC_NONE);
    made_page(&f, (made_levels){1000}, ENCODING_PLAIN, &body);
    made_group(&f, 1000);
    made_end(&f, one, 2);
    expect_refusal(&f, "its values end early");
    begin_one(&f, CODEC_NONE);
    made_dictionary(&f, 1 << 30, &body);
    made_page(&f, (made_levels){2}, ENCODING_RLE_DICTIONARY, &body);
    made_group(&f, 2);
    made_end(&f, one, 2);
    expect_refusal(&f, "cannot have 1073741824 values");
    begin_one(&f, CODEC_NONE);
    body.n = 0, put_u32(&body, 5);
    made_dictionary(&f, 1, &body);
    body.n = 0, put_byte(&body, 1), put_byte(&body, 3), put_byte(&body, 2);
    made_page(&f, (made_levels){2}, ENCODING_RLE_DICTIONARY, &body);
    made_group(&f, 2);
    made_end(&f, one, 2);
    expect_refusal(&f, "value 1 of a dictionary of 1");
    begin_one(&f, CODEC_NONE);
    made_page(&f, (made_levels){2}, ENCODING_RLE_DICTIONARY, &body);
    made_group(&f, 2);
    made_end(&f, one, 2);
    expect_refusal(&f, "its dictionary is missing");
}

/* Columns of one struct or list that do not agree. */
static void test_columns_disagree(void **state) {
    static const made_element pair[] = {{"s", GROUP, .children = 1},
                                        {"l", GROUP, PARQUET_REPEATED, .children = 2},
                                        {"a", PARQUET_INT32, PARQUET_REQUIRED},
                                        {"b", PARQUET_INT32, PARQUET_REQUIRED}};
    static const int ones[] = {1, 1, 1}, two[] = {0, 1, 0}, three[] = {0, 1, 1},
                     none[] = {0, 0, 0};
    static made_file f;
    static bytes body;
    static const struct {
        const int *repetition, *definition;
        const char *part;
    } others[] = {{three, ones, "other lengths"},
                  {two, none, "a null where its group has none"},
                  {none, ones, "other lengths"}};
    body.n = 0, put_u64(&body, 0), put_u32(&body, 1);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        made_begin(&f);
        made_chunk(&f, PARQUET_INT32, CODEC_NONE);
        made_page(&f, (made_levels){3, two, ones, 1, 1}, ENCODING_PLAIN, &body);
        made_chunk(&f, PARQUET_INT32, CODEC_NONE);
        made_page(&f, (made_levels){3, others[i].repetition, others[i].definition, 1, 1},
                  ENCODING_PLAIN, &body);
        made_group(&f, 2);
        made_end(&f, pair, 4);
        expect_refusal(&f, others[i].part);
    }
}

/* A few bytes of runs that stand for two billion nulls in one row, or for as many rows. */
static void test_bombs(void **state) {
    static const made_element list[] = {
        {"s", GROUP, .children = 1},
        {"l", GROUP, PARQUET_OPTIONAL, .children = 1, .logical = 3},
        {"list", GROUP, PARQUET_REPEATED, .children = 1},
        {"e", PARQUET_INT32, PARQUET_OPTIONAL}};
    static made_file f;
    static bytes body;
    for (int rows = 0; rows < 2; rows++) {
        bytes levels = {.n = 0};
        body.n = 0;
        put_varint(&levels, 2), put_byte(&levels, 0); /* repetition: 0, then ones or zeros */
        put_varint(&levels, 0xfffffffcu), put_byte(&levels, !rows);
        put_u32(&body, (uint32_t)levels.n), put(&body, levels.data, levels.n);
        levels.n = 0;
        put_varint(&levels, 0xfffffffeu), put_byte(&levels, 2); /* definition */
        put_u32(&body, (uint32_t)levels.n), put(&body, levels.data, levels.n);
        made_begin(&f);
        made_chunk(&f, PARQUET_INT32, CODEC_NONE);
        made_page(&f, (made_levels){INT32_MAX}, ENCODING_PLAIN, &body);
        made_group(&f, rows ? INT32_MAX : 1);
        made_end(&f, list, 4);
        int64_t read;
        if (rows) {
            assert_ok(read_file(f.b.data, f.b.n, &read));
            assert_int_equal(read, ROWS);
        } else
            expect_refusal(&f, "more memory than the file can justify");
    }
}

static void test_refused_by_name(void **state) {
    static made_file f;
    static bytes body;
    static const struct {
        made_element e;
        const char *part;
    } types[] = {
        {{"x", PARQUET_FIXED, .length = 12, .converted = 22},
         "`x`: is of a type that is "
         "not read: INTERVAL"},
        {{"x", PARQUET_INT32, .logical = 1}, "STRING"},
        {{"x", PARQUET_FIXED, .length = 2, .logical = 14}, "UUID"},
        {{"x", PARQUET_INT32, .logical = 19}, "of a later version"},
        {{"x", GROUP, .children = 1, .logical = 16}, "VARIANT"},
        {{"x", 8}, "of no known type"},
        {{"x", GROUP, .children = 1}, "fields are missing"},
        {{"x", GROUP, .children = 0}, "a group without fields"},
        {{"x", GROUP, .children = 1, .logical = 3}, "without its one repeated field"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const made_element elements[] = {{"s", GROUP, .children = 1}, types[i].e};
        begin_one(&f, CODEC_NONE);
        made_group(&f, 0);
        made_end(&f, elements, 2);
        expect_refusal(&f, types[i].part);
    }
    static const struct {
        int codec;
        const char *part;
    } codecs[] = {{CODEC_LZO, "LZO"}, {CODEC_LZ4_OLD, "Hadoop"}, {8, "number 8"}};
    for (size_t i = 0; i < sizeof codecs / sizeof *codecs; i++) {
        begin_one(&f, codecs[i].codec);
        body.n = 0, put_u32(&body, 1);
        made_page(&f, (made_levels){1}, ENCODING_PLAIN, &body);
        made_group(&f, 1);
        made_end(&f, one, 2);
        expect_refusal(&f, codecs[i].part);
    }
    begin_one(&f, CODEC_NONE);
    made_page(&f, (made_levels){1}, ENCODING_DELTA_BYTES, &body);
    made_group(&f, 1);
    made_end(&f, one, 2);
    expect_refusal(&f, "DELTA_BYTE_ARRAY");
    f.encryption = 1;
    made_end(&f, one, 2);
    expect_refusal(&f, "encrypted");
    memcpy(f.b.data + f.b.n - 4, "PARE", 4);
    expect_refusal(&f, "encrypted");
}

static void test_deep(void **state) {
    static made_file f;
    made_element elements[200];
    for (int i = 0; i < 199; i++)
        elements[i] = (made_element){"g", GROUP, PARQUET_OPTIONAL, .children = 1};
    elements[199] = one[1];
    begin_one(&f, CODEC_NONE);
    made_group(&f, 0);
    made_end(&f, elements, 200);
    expect_refusal(&f, "nests deeper");
    elements[30] = one[1];
    begin_one(&f, CODEC_NONE);
    made_group(&f, 0);
    made_end(&f, elements, 31);
    int64_t rows;
    assert_ok(read_file(f.b.data, f.b.n, &rows));
    assert_int_equal(rows, 0);
}

/* The k-th allocation or read fails, for every k: it is said, and nothing is left behind. */
static void test_faults(void **state) {
    static made_file f;
    make_all(&f, CODEC_GZIP, true);
    size_t before = mem_used();
    int64_t rows;
    status s = STATUS_MEMORY;
    for (uint64_t k = 1; s == STATUS_MEMORY; k++) {
        mem_fail_at(k, k % 2);
        s = read_file(f.b.data, f.b.n, &rows);
        mem_fail_at(0, 0);
        if (s != STATUS_OK) assert_int_equal(s, STATUS_MEMORY);
        assert_int_equal(mem_used(), before);
    }
    assert_int_equal(rows, 12);
    s = STATUS_IO;
    for (uint64_t k = 1; s == STATUS_IO || s == STATUS_DATA; k++) {
        file_fail_read_at(k, EIO, true);
        s = read_file(f.b.data, f.b.n, &rows);
        file_fail_read_at(0, 0, false);
        if (s != STATUS_OK) assert_non_null(strstr(status_message(), "Input/output error"));
        assert_int_equal(mem_used(), before);
    }
    assert_int_equal(s, STATUS_OK);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_mutated),
        cmocka_unit_test(test_checksums),
        cmocka_unit_test(test_lies_of_size),
        cmocka_unit_test(test_lies_of_count),
        cmocka_unit_test(test_columns_disagree),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_refused_by_name),
        cmocka_unit_test(test_deep),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
