/* test_parquet.c: Parquet files written by hand, read as rows: nesting in all its forms, every
 * encoding, codec and page kind, what values look like, slices. tests/interop/files.py asks
 * pyarrow the same at length; what is wrong with files is test_parquet_abuse.c's matter. */
#include "scratch.h"
#include "parquet_made.h"

#include "common/json.h"
#include "data/records.h"

#include <math.h>

#define GROUP PARQUET_GROUP

/* All rows, a line each. */
static void read_rows(const made_file *f, char *out, size_t room) {
    const char *path = scratch("made.parquet");
    put_file(path, f->b.data, f->b.n);
    record_reader *r;
    data_record row;
    size_t used = 0;
    *out = 0;
    assert_ok(records_open(&r, path, RECORD_AUTO));
    for (;;) {
        json_t *value;
        assert_ok(records_next(r, &row));
        if (!row.text) break;
        assert_ok(record_parse(path, &row, &value));
        json_decref(value);
        used += (size_t)snprintf(out + used, room - used, "%.*s\n", (int)row.bytes, row.text);
        assert_true(used < room);
    }
    records_close(r);
}

static void expect(made_file *f, const char *want) {
    static char got[1 << 16];
    read_rows(f, got, sizeof got);
    assert_string_equal(got, want);
}

/* ---- a real shape, in all codecs and both kinds of pages ---- */

static const made_element chat[] = {
    {"schema", GROUP, .children = 2},
    {"id", PARQUET_INT64, PARQUET_REQUIRED},
    {"messages", GROUP, PARQUET_OPTIONAL, .children = 1, .converted = 4},
    {"list", GROUP, PARQUET_REPEATED, .children = 1},
    {"element", GROUP, PARQUET_OPTIONAL, .children = 2},
    {"role", PARQUET_BYTES, PARQUET_OPTIONAL, .converted = 1},
    {"content", PARQUET_BYTES, PARQUET_OPTIONAL, .logical = 1},
};

/* Rows: two messages; null; no message; a null message and one without content. */
static void make_chat(made_file *f, int codec, bool second) {
    static const int repetition[] = {0, 1, 0, 0, 0, 1}, role[] = {4, 4, 0, 1, 2, 4},
                     content[] = {4, 4, 0, 1, 2, 3}, indices[] = {1, 0, 1};
    static bytes ids, names, roles, texts;
    ids.n = names.n = roles.n = texts.n = 0;
    for (int i = 0; i < 4; i++) put_u64(&ids, (uint64_t)(1000 - 700 * i));
    put_string(&names, "assistant"), put_string(&names, "user");
    put_byte(&roles, 1), put_runs(&roles, indices, 3, 1, true);
    put_string(&texts, "Hi \"you\"\n"), put_string(&texts, "h\xc3\xb6");
    made_begin(f);
    f->second = second;
    f->crc = true;
    made_chunk(f, PARQUET_INT64, codec);
    made_page(f, (made_levels){4}, ENCODING_PLAIN, &ids);
    made_chunk(f, PARQUET_BYTES, codec);
    made_dictionary(f, 2, &names);
    made_page(f, (made_levels){6, repetition, role, 1, 4}, ENCODING_RLE_DICTIONARY, &roles);
    made_chunk(f, PARQUET_BYTES, codec);
    made_page(f, (made_levels){6, repetition, content, 1, 4}, ENCODING_PLAIN, &texts);
    made_group(f, 4);
    made_end(f, chat, 7);
}

static const char chat_rows[] =
    "{\"id\":1000,\"messages\":[{\"role\":\"user\",\"content\":\"Hi \\\"you\\\"\\n\"},"
    "{\"role\":\"assistant\",\"content\":\"h\xc3\xb6\"}]}\n"
    "{\"id\":300,\"messages\":null}\n"
    "{\"id\":-400,\"messages\":[]}\n"
    "{\"id\":-1100,\"messages\":[null,{\"role\":\"user\",\"content\":null}]}\n";

static void test_codecs(void **state) {
    static const int codecs[] = {CODEC_NONE,   CODEC_SNAPPY, CODEC_GZIP,
                                 CODEC_BROTLI, CODEC_ZSTD,   CODEC_LZ4};
    static made_file f;
    for (int i = 0; i < 6; i++)
        for (int second = 0; second < 2; second++) {
            make_chat(&f, codecs[i], second);
            expect(&f, chat_rows);
        }
}

/* ---- encodings ---- */

enum { MANY = 300 };

static const int ones[MANY]; /* levels of a required column are not asked for */

/* One column of MANY values in pages of 100, each made by `encode`. */
static void expect_column(made_element e, int encoding,
                          void (*encode)(bytes *b, int from, int n),
                          void (*show)(char *out, int i)) {
    static made_file f;
    static bytes body;
    static char want[1 << 15];
    const made_element elements[] = {{"schema", GROUP, .children = 1}, e};
    made_begin(&f);
    made_chunk(&f, e.type, CODEC_NONE);
    for (int from = 0; from < MANY; from += 100) {
        body.n = 0;
        encode(&body, from, 100);
        f.second = from == 100;
        made_page(&f, (made_levels){100, ones, ones, 0, 0}, encoding, &body);
    }
    made_group(&f, MANY);
    made_end(&f, elements, 2);
    char *p = want;
    for (int i = 0; i < MANY; i++) {
        p += sprintf(p, "{\"x\":");
        show(p, i);
        p += strlen(p);
        p += sprintf(p, "}\n");
    }
    expect(&f, want);
}

static int64_t number(int i) {
    static const int64_t edges[] = {0, INT64_MAX, INT64_MIN, -1, 1};
    return i % 7 == 0 ? edges[i % 5] : (int64_t)i * i * 1000 - 70000;
}
static void show_number(char *out, int i) {
    sprintf(out, "%lld", (long long)number(i));
}
static void show_small(char *out, int i) {
    sprintf(out, "%d", (int32_t)number(i));
}
static void show_bit(char *out, int i) {
    strcpy(out, number(i) & 1 ? "true" : "false");
}
static void show_half(char *out, int i) {
    sprintf(out, "%d.%s", i / 2, i % 2 ? "5" : "0");
}
static const char *word(int i) {
    static char text[40];
    sprintf(text, "%.*s%d", i % 11, "prefixprefix", i / 3);
    return text;
}
static void show_word(char *out, int i) {
    sprintf(out, "\"%s\"", word(i));
}

static void delta_numbers(bytes *b, int from, int n) {
    int64_t values[MANY] = {0};
    for (int i = 0; i < n; i++) values[i] = number(from + i);
    put_delta(b, values, n);
}
static void delta_small(bytes *b, int from, int n) {
    int64_t values[MANY] = {0};
    for (int i = 0; i < n; i++) values[i] = (int32_t)number(from + i);
    put_delta(b, values, n);
}
static void plain_small(bytes *b, int from, int n) {
    for (int i = 0; i < n; i++) put_u32(b, (uint32_t)number(from + i));
}
static void plain_bits(bytes *b, int from, int n) {
    for (int i = 0; i < n; i++) {
        if (i % 8 == 0) put_byte(b, 0);
        b->data[b->n - 1] |= (unsigned char)((number(from + i) & 1) << i % 8);
    }
}
static void run_bits(bytes *b, int from, int n) {
    int bits[MANY];
    bytes runs = {.n = 0};
    for (int i = 0; i < n; i++) bits[i] = number(from + i) & 1;
    put_runs(&runs, bits, n, 1, from == 0);
    put_u32(b, (uint32_t)runs.n);
    put(b, runs.data, runs.n);
}
static void split_halves(bytes *b, int from, int n) {
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < n; i++) {
            double x = (from + i) / 2.0;
            put_byte(b, ((unsigned char *)&x)[k]);
        }
}
static void plain_halves(bytes *b, int from, int n) {
    for (int i = 0; i < n; i++) {
        float x = (float)(from + i) / 2;
        put(b, &x, 4);
    }
}
static void plain_words(bytes *b, int from, int n) {
    for (int i = 0; i < n; i++) put_string(b, word(from + i));
}
static void length_words(bytes *b, int from, int n) {
    int64_t lengths[MANY] = {0};
    for (int i = 0; i < n; i++) lengths[i] = (int64_t)strlen(word(from + i));
    put_delta(b, lengths, n);
    for (int i = 0; i < n; i++) put(b, word(from + i), (size_t)lengths[i]);
}
static void prefix_words(bytes *b, int from, int n) {
    int64_t shared[MANY] = {0}, rest[MANY] = {0};
    char last[40] = "";
    for (int i = 0; i < n; i++) {
        const char *w = word(from + i);
        shared[i] = 0;
        while (last[shared[i]] && last[shared[i]] == w[shared[i]]) shared[i]++;
        rest[i] = (int64_t)strlen(w) - shared[i];
        strcpy(last, w);
    }
    put_delta(b, shared, n);
    put_delta(b, rest, n);
    for (int i = 0; i < n; i++) put(b, word(from + i) + shared[i], (size_t)rest[i]);
}

static void test_encodings(void **state) {
    const made_element wide = {"x", PARQUET_INT64}, small = {"x", PARQUET_INT32},
                       bits = {"x", PARQUET_BOOLEAN}, real = {"x", PARQUET_DOUBLE},
                       narrow = {"x", PARQUET_FLOAT},
                       text = {"x", PARQUET_BYTES, .converted = 1};
    expect_column(wide, ENCODING_DELTA_BINARY_PACKED, delta_numbers, show_number);
    expect_column(small, ENCODING_DELTA_BINARY_PACKED, delta_small, show_small);
    expect_column(small, ENCODING_PLAIN, plain_small, show_small);
    expect_column(bits, ENCODING_PLAIN, plain_bits, show_bit);
    expect_column(bits, ENCODING_RLE, run_bits, show_bit);
    expect_column(real, ENCODING_BYTE_STREAM_SPLIT, split_halves, show_half);
    expect_column(narrow, ENCODING_PLAIN, plain_halves, show_half);
    expect_column(text, ENCODING_PLAIN, plain_words, show_word);
    expect_column(text, ENCODING_DELTA_LENGTH_BYTES, length_words, show_word);
    expect_column(text, ENCODING_DELTA_BYTES, prefix_words, show_word);
}

/* ---- lists in the forms of all times ---- */

/* One column of numbers 1, 2, 3 ...; levels as given. */
static void expect_nested(const made_element *elements, size_t count, made_levels l,
                          int64_t rows, const char *want) {
    static made_file f;
    static bytes body;
    made_begin(&f);
    made_chunk(&f, PARQUET_INT32, CODEC_NONE);
    body.n = 0;
    for (int i = 0, value = 1; i < l.values; i++)
        if (l.definition[i] == l.highest_definition) put_u32(&body, (uint32_t)value++);
    made_page(&f, l, ENCODING_PLAIN, &body);
    made_group(&f, rows);
    made_end(&f, elements, count);
    expect(&f, want);
}

static void test_lists(void **state) {
    static const int repetition[] = {0, 1, 0, 0}, full[] = {1, 1, 0, 1}, deep[] = {2, 2, 0, 1};
    const made_levels flat = {4, repetition, full, 1, 1},
                      optional = {4, repetition, deep, 1, 2};
    const made_element bare[] = {{"s", GROUP, .children = 1},
                                 {"x", PARQUET_INT32, PARQUET_REPEATED}};
    expect_nested(bare, 2, flat, 3, "{\"x\":[1,2]}\n{\"x\":[]}\n{\"x\":[3]}\n");
    const made_element group[] = {{"s", GROUP, .children = 1},
                                  {"x", GROUP, PARQUET_REPEATED, .children = 1},
                                  {"n", PARQUET_INT32, PARQUET_REQUIRED}};
    expect_nested(group, 3, flat, 3,
                  "{\"x\":[{\"n\":1},{\"n\":2}]}\n{\"x\":[]}\n{\"x\":[{\"n\":3}]}\n");
    const made_element two_level[] = {
        {"s", GROUP, .children = 1},
        {"x", GROUP, PARQUET_OPTIONAL, .children = 1, .logical = 3},
        {"array", PARQUET_INT32, PARQUET_REPEATED}};
    expect_nested(two_level, 3, optional, 3, "{\"x\":[1,2]}\n{\"x\":null}\n{\"x\":[]}\n");
    made_element three_level[] = {
        {"s", GROUP, .children = 1},
        {"x", GROUP, PARQUET_OPTIONAL, .children = 1, .converted = 4},
        {"bag", GROUP, PARQUET_REPEATED, .children = 1},
        {"n", PARQUET_INT32, PARQUET_REQUIRED}};
    expect_nested(three_level, 4, optional, 3, "{\"x\":[1,2]}\n{\"x\":null}\n{\"x\":[]}\n");
    static const char *const elements[] = {"array", "x_tuple"};
    for (int i = 0; i < 2; i++) { /* names that say: the group is the element */
        three_level[2].name = elements[i];
        expect_nested(three_level, 4, optional, 3,
                      "{\"x\":[{\"n\":1},{\"n\":2}]}\n{\"x\":null}\n{\"x\":[]}\n");
    }
    const made_element set[] = {{"s", GROUP, .children = 1},
                                {"x", GROUP, PARQUET_OPTIONAL, .children = 1, .converted = 2},
                                {"key_value", GROUP, PARQUET_REPEATED, .children = 1},
                                {"key", PARQUET_INT32, PARQUET_REQUIRED}};
    expect_nested(set, 4, optional, 3, "{\"x\":[[1],[2]]}\n{\"x\":null}\n{\"x\":[]}\n");
    static const int inner[] = {0, 2, 1, 0, 0}, levels[] = {4, 3, 4, 0, 1};
    const made_element nested[] = {
        {"s", GROUP, .children = 1},
        {"x", GROUP, PARQUET_OPTIONAL, .children = 1, .logical = 3},
        {"list", GROUP, PARQUET_REPEATED, .children = 1},
        {"element", GROUP, PARQUET_REQUIRED, .children = 1, .logical = 3},
        {"list", GROUP, PARQUET_REPEATED, .children = 1},
        {"element", PARQUET_INT32, PARQUET_OPTIONAL}};
    expect_nested(nested, 6, (made_levels){5, inner, levels, 2, 4}, 3,
                  "{\"x\":[[1,null],[2]]}\n{\"x\":null}\n{\"x\":[]}\n");
}

/* ---- what values look like ---- */

/* One value of a type, given as bytes of PLAIN. */
static void expect_rendered(made_element e, const void *value, size_t n, const char *want) {
    static made_file f;
    static bytes body;
    char row[300];
    const made_element elements[] = {{"s", GROUP, .children = 1}, e};
    made_begin(&f);
    made_chunk(&f, e.type, CODEC_NONE);
    body.n = 0;
    if (e.type == PARQUET_BYTES) put_u32(&body, (uint32_t)n);
    put(&body, value, n);
    made_page(&f, (made_levels){1}, ENCODING_PLAIN, &body);
    made_group(&f, 1);
    made_end(&f, elements, 2);
    snprintf(row, sizeof row, "{\"x\":%s}\n", want);
    expect(&f, row);
}
#define VALUE(want, v, ...)                                                                   \
    expect_rendered((made_element){"x", __VA_ARGS__}, &(v), sizeof(v), want)
#define TEXT(want, v, ...)                                                                    \
    expect_rendered((made_element){"x", __VA_ARGS__}, v, sizeof(v) - 1, want)

static void test_values(void **state) {
    const int32_t minus = -1, day = -1, time = 3723004;
    const int64_t big = -1, stamp = -1, nano = 1500000000123456789, least = INT64_MIN;
    const float tenth = 0.1f, none = (float)NAN;
    const double third = 1 / 3.0, whole = 1e15;
    VALUE("4294967295", minus, PARQUET_INT32, .logical = 10, .bits = 32);
    VALUE("18446744073709551615", big, PARQUET_INT64, .converted = 15);
    VALUE("-1", minus, PARQUET_INT32, .logical = 10, .bits = 8, .is_signed = 1);
    VALUE("0.10000000149011612", tenth, PARQUET_FLOAT);
    VALUE("null", none, PARQUET_FLOAT);
    VALUE("0.33333333333333331", third, PARQUET_DOUBLE);
    VALUE("1000000000000000.0", whole, PARQUET_DOUBLE);
    VALUE("\"1969-12-31\"", day, PARQUET_INT32, .logical = 6);
    VALUE("\"01:02:03.004000\"", time, PARQUET_INT32, .logical = 7, .unit = 1);
    VALUE("\"1969-12-31T23:59:59.999999+00:00\"", stamp, PARQUET_INT64, .logical = 8,
          .unit = 2, .utc = true);
    VALUE("\"2017-07-14T02:40:00.123456789\"", nano, PARQUET_INT64, .logical = 8, .unit = 3);
    VALUE("\"1677-09-21T00:12:43.145224192\"", least, PARQUET_INT64, .logical = 8, .unit = 3);
    TEXT("\"1970-01-02T00:00:00.000001\"", "\xe8\x03\0\0\0\0\0\0\x8d\x3d\x25\0",
         PARQUET_INT96);
    TEXT("\"-0.05\"", "\xff\xfb", PARQUET_FIXED, .length = 2, .logical = 5, .scale = 2);
    TEXT("\"655.36\"", "\x01\0\0", PARQUET_BYTES, .converted = 6, .scale = 2);
    VALUE("\"-1\"", big, PARQUET_INT64, .logical = 5);
    TEXT("1.5", "\0\x3e", PARQUET_FIXED, .length = 2, .logical = 15);
    TEXT("\"00010203-0405-0607-0809-0a0b0c0d0e0f\"",
         "\0\1\2\3\4\5\6\7\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f", PARQUET_FIXED, .length = 16,
         .logical = 14);
    TEXT("\"text\"", "text", PARQUET_BYTES);
    TEXT("\"/wA=\"", "\xff\0", PARQUET_BYTES);
    TEXT("\"{}\"", "{}", PARQUET_BYTES, .logical = 12);
    TEXT("\"AQ==\"", "\x01", PARQUET_BYTES, .logical = 13);
    TEXT("\"a\\u0000b\"", "a\0b", PARQUET_BYTES, .logical = 4);
    TEXT("\"abc\"", "abc", PARQUET_FIXED, .length = 3);
}

/* ---- row groups and slices ---- */

static void test_slices(void **state) {
    static made_file f;
    static bytes body;
    made_begin(&f);
    for (int group = 0; group < 3; group++) {
        made_chunk(&f, PARQUET_INT32, CODEC_SNAPPY);
        for (int page = 0; page < 2; page++) {
            body.n = 0;
            for (int i = 0; i < 50; i++)
                put_u32(&body, (uint32_t)(group * 100 + page * 50 + i));
            made_page(&f, (made_levels){50}, ENCODING_PLAIN, &body);
        }
        made_group(&f, 100);
    }
    const made_element elements[] = {{"s", GROUP, .children = 1}, {"x", PARQUET_INT32}};
    made_end(&f, elements, 2);
    const char *path = scratch("slices.parquet");
    put_file(path, f.b.data, f.b.n);
    for (int from = 0; from <= 310; from += 7) {
        record_reader *r;
        data_record row;
        int64_t rows;
        char want[40];
        assert_ok(records_open(&r, path, RECORD_AUTO));
        assert_ok(records_count(r, &rows));
        assert_int_equal(rows, 300);
        assert_ok(records_skip(r, from / 2, &rows)); /* in two steps */
        assert_ok(records_skip(r, from - from / 2, &rows));
        assert_int_equal(from / 2 + rows, from < 300 ? from : 300);
        for (int i = from; i < from + 120 && i < 300; i++) {
            assert_ok(records_next(r, &row));
            snprintf(want, sizeof want, "{\"x\":%d}", i);
            assert_int_equal(row.bytes, strlen(want));
            assert_memory_equal(row.text, want, row.bytes);
            assert_int_equal(row.index, i);
            assert_int_equal(row.line, i + 1);
        }
        if (from >= 180) {
            assert_ok(records_next(r, &row));
            assert_null(row.text);
        }
        records_close(r);
    }
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codecs), cmocka_unit_test(test_encodings),
        cmocka_unit_test(test_lists),  cmocka_unit_test(test_values),
        cmocka_unit_test(test_slices),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
