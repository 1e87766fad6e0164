/* test_packings.c: data files compressed by gzip and zstd: members and frames one after the
 * other, every truncation, damage anywhere, and what is no compressed file behind its name. */
#include "scratch.h"

#include "common/json.h"
#include "data/records.h"

#include <zlib.h>
#include <zstd.h>

typedef struct packed {
    unsigned char data[1 << 16];
    size_t bytes;
} packed;

static void pack_gzip(packed *p, const char *text, size_t n) {
    z_stream z = {.next_in = (unsigned char *)text, .avail_in = (unsigned)n};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_out = p->data + p->bytes;
    z.avail_out = (unsigned)(sizeof p->data - p->bytes);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    p->bytes += z.total_out;
    deflateEnd(&z);
}

static void pack_zstd(packed *p, const char *text, size_t n) {
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    size_t got = ZSTD_compress2(c, p->data + p->bytes, sizeof p->data - p->bytes, text, n);
    assert_false(ZSTD_isError(got));
    p->bytes += got;
    ZSTD_freeCCtx(c);
}

static const struct {
    const char *name, *ending;
    void (*pack)(packed *p, const char *text, size_t n);
} packings[] = {{"gzip", ".gz", pack_gzip}, {"zstd", ".zst", pack_zstd}};
enum { PACKINGS = 2 };

/* The rows' texts, joined by |. */
static status read_rows(const char *name, const packed *p, char *out, size_t room) {
    const char *path = scratch(name);
    put_file(path, p->data, p->bytes);
    record_reader *r;
    *out = 0;
    TRY(records_open(&r, path, RECORD_AUTO));
    data_record row;
    status s;
    size_t used = 0;
    while ((s = records_next(r, &row)) == STATUS_OK && row.text) {
        used += (size_t)snprintf(out + used, room - used, "%s%.*s", used ? "|" : "",
                                 (int)row.bytes, row.text);
        assert_true(used < room);
    }
    records_close(r);
    return s;
}

static void expect(int k, const char *name, const char *text, const char *want) {
    packed p = {.bytes = 0};
    char got[2000], full[100];
    packings[k].pack(&p, text, strlen(text));
    snprintf(full, sizeof full, "%s%s", name, packings[k].ending);
    assert_ok(read_rows(full, &p, got, sizeof got));
    assert_string_equal(got, want);
    assert_ok(read_rows(name, &p, got, sizeof got)); /* the name need not say it */
    assert_string_equal(got, want);
}

static void test_formats(void **state) {
    for (int k = 0; k < PACKINGS; k++) {
        expect(k, "a.jsonl", "{\"a\":1}\n{}\n", "{\"a\":1}|{}");
        expect(k, "a.json", "[{\"a\":1}, 2]", "{\"a\":1}|2");
        expect(k, "a.csv", "a,b\n1,2\n", "{\"a\":\"1\",\"b\":\"2\"}");
        expect(k, "a.tsv", "a\tb\n1\t2\n", "{\"a\":\"1\",\"b\":\"2\"}");
        expect(k, "a.txt", "one\ntwo", "one|two");
    }
}

static void test_members(void **state) {
    char got[2000];
    for (int k = 0; k < PACKINGS; k++) {
        packed p = {.bytes = 0};
        packings[k].pack(&p, "{\"a\":", 5);
        packings[k].pack(&p, "", 0);
        packings[k].pack(&p, "1}\n{}", 5);
        assert_ok(read_rows("a.jsonl", &p, got, sizeof got));
        assert_string_equal(got, "{\"a\":1}|{}");
        memcpy(p.data + p.bytes, "junk", 4), p.bytes += 4;
        assert_fails(read_rows("a.jsonl", &p, got, sizeof got), STATUS_DATA,
                     "damaged at byte");
        memset(p.data + p.bytes - 4, 0, 4);
        if (k == 0) /* padding */
            assert_ok(read_rows("a.jsonl", &p, got, sizeof got));
        else
            assert_fails(read_rows("a.jsonl", &p, got, sizeof got), STATUS_DATA, "damaged");
        p.bytes = 0;
        packings[k].pack(&p, "", 0);
        assert_fails(read_rows("a.jsonl", &p, got, sizeof got), STATUS_DATA, "is empty");
    }
    packed p = {.bytes = 0};
    pack_zstd(&p, "{}", 2);
    memcpy(p.data + p.bytes, "\x50\x2a\x4d\x18\x03\0\0\0abc", 11),
        p.bytes += 11; /* to be skipped */
    pack_zstd(&p, "\n[]", 3);
    assert_ok(read_rows("a.jsonl", &p, got, sizeof got));
    assert_string_equal(got, "{}|[]");
}

/* Some hundred rows that do not compress to nothing. */
static size_t make_rows(char *text) {
    uint64_t state = 7;
    char *p = text;
    for (int i = 0; i < 40; i++)
        p +=
            sprintf(p, "{\"n\":%d,\"x\":\"%016llx\"}\n", i, (unsigned long long)noise(&state));
    return (size_t)(p - text);
}

/* Cut off anywhere or with any bit changed: a refusal, or the very rows (a gzip header's time
 * is not checked by anybody). */
static void test_damage(void **state) {
    static char text[4000], got[4000], whole[4000];
    size_t n = make_rows(text);
    for (int k = 0; k < PACKINGS; k++) {
        packed p = {.bytes = 0}, bad;
        packings[k].pack(&p, text, n);
        assert_ok(read_rows("a.jsonl", &p, whole, sizeof whole));
        for (size_t cut = 4; cut < p.bytes; cut++) {
            bad = p, bad.bytes = cut;
            assert_fails(read_rows("a.jsonl", &bad, got, sizeof got), STATUS_DATA, "cut off");
            assert_non_null(strstr(status_message(), packings[k].name));
        }
        int refused = 0;
        for (size_t i = 0; i < p.bytes * 8; i += (size_t)trials(7, 1)) {
            bad = p, bad.data[i / 8] ^= (unsigned char)(1 << i % 8);
            status s = read_rows("a.jsonl", &bad, got, sizeof got);
            assert_true(s == STATUS_OK || s == STATUS_DATA);
            if (s == STATUS_OK && i / 8 >= 4) assert_string_equal(got, whole);
            refused += s != STATUS_OK;
        }
        assert_true(refused > (int)p.bytes);
    }
}

/* A small file of endless text takes no more memory than a row may. */
static void test_bomb(void **state) {
    enum { FRAMES = 700 };
    static packed one;
    static char zeros[1 << 20];
    one.bytes = 0;
    pack_zstd(&one, zeros, sizeof zeros);
    const char *path = scratch("bomb.jsonl.zst");
    FILE *f = fopen(path, "wb");
    for (int i = 0; i < FRAMES; i++) fwrite(one.data, 1, one.bytes, f);
    fclose(f);
    record_reader *r;
    data_record row;
    assert_ok(records_open(&r, path, RECORD_AUTO));
    assert_fails(records_next(r, &row), STATUS_DATA, "a row of more than 256 MiB");
    assert_true(mem_used() <= (size_t)RECORD_LIMIT + (4 << 20));
    records_close(r);
}

static void test_memory(void **state) {
    char got[500];
    packed p = {.bytes = 0};
    pack_gzip(&p, "{}\n[]", 5);
    size_t before = mem_used();
    status s = STATUS_MEMORY;
    for (uint64_t k = 1; s == STATUS_MEMORY; k++) {
        mem_fail_at(k, k % 2);
        s = read_rows("m.jsonl", &p, got, sizeof got);
        mem_fail_at(0, 0);
        assert_true(s == STATUS_OK || s == STATUS_MEMORY);
        assert_int_equal(mem_used(), before);
    }
    assert_string_equal(got, "{}|[]");
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats), cmocka_unit_test(test_members),
        cmocka_unit_test(test_damage),  cmocka_unit_test(test_bomb),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
