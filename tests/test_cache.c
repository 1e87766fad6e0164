/* test_cache.c: the quantized cache: pages come back by one pread, half-written, damaged and
 * hostile ones are refused, and failures leave nothing behind. */
#include "checkpoints/cache.h"
#include "checkpoints/hdf5_file.h"
#include "common/worker.h"
#include "scratch.h"

#include <errno.h>
#include <sys/wait.h>

enum { PAGES = 40 };

static int64_t page_bytes(size_t i) {
    return i % 3 == 2 ? 100 + (int64_t)i : 5000 * ((int64_t)i % 7 + 1) + 13;
}

static void page_fill(size_t i, unsigned char *out) {
    uint64_t seed = i + 1;
    for (int64_t k = 0; k < page_bytes(i); k++) out[k] = (unsigned char)noise(&seed);
}

static void list_pages(cache_item items[PAGES], char names[PAGES][32]) {
    for (size_t i = 0; i < PAGES; i++) {
        snprintf(names[i], 32, "base/%zu", i);
        names[i][4] = '.'; /* '/' is not for names */
        items[i] = (cache_item){.name = names[i], .bytes = page_bytes(i)};
    }
}

static json_t *metadata(void) {
    return json_pack("{s:s, s:{s:s}}", "quant", "nf4", "identity", "a", "00");
}

static status write_pages(cache_writer *w) {
    static unsigned char data[50000];
    for (size_t k = 0; k < PAGES; k++) {
        size_t i = k * 7 % PAGES; /* any order, two pieces */
        page_fill(i, data);
        int64_t n = page_bytes(i), half = n / 2;
        TRY(cache_write(w, i, half, data + half, n - half));
        TRY(cache_write(w, i, 0, data, half));
    }
    return STATUS_OK;
}

static status make_cache(const char *path) {
    cache_writer w;
    cache_item items[PAGES];
    char names[PAGES][32];
    list_pages(items, names);
    json_t *meta = metadata();
    if (!meta) return status_fail(STATUS_MEMORY, "out of memory");
    status s = cache_create(&w, path, items, PAGES);
    if (s == STATUS_OK) {
        s = write_pages(&w);
        if (s == STATUS_OK)
            s = cache_finish(&w, meta);
        else
            cache_abandon(&w);
    }
    json_decref(meta);
    return s;
}

static void check_pages(const char *path) {
    static unsigned char want[50000], got[50000];
    cache c;
    assert_ok(cache_open(&c, path));
    assert_ok(cache_verify(&c));
    assert_int_equal(c.count, PAGES);
    assert_string_equal(json_string_value(json_object_get(c.metadata, "quant")), "nf4");
    for (size_t i = 0; i < PAGES; i++) {
        char name[32];
        snprintf(name, sizeof name, "base.%zu", i);
        const cache_item *item = cache_find(&c, name);
        assert_non_null(item);
        assert_int_equal(item->bytes, page_bytes(i));
        assert_int_equal(item->offset % CACHE_ALIGN, 0);
        page_fill(i, want);
        assert_ok(cache_read(&c, item, 0, item->bytes, got));
        assert_memory_equal(want, got, item->bytes);
        assert_ok(cache_read(&c, item, 3, 50, got));
        assert_memory_equal(want + 3, got, 50);
        assert_fails(cache_read(&c, item, 3, item->bytes, got), STATUS_INTERNAL, name);
    }
    assert_null(cache_find(&c, "base.99"));
    cache_close(&c);
}

static void pages_come_back(void **state) {
    char path[512];
    snprintf(path, sizeof path, "%s", scratch("deep/er/base.h5"));
    cache c;
    size_t before = mem_blocks();
    assert_fails(cache_open(&c, path), STATUS_MODEL, "base.h5.json");
    assert_ok(make_cache(path));
    check_pages(path);
    assert_false(file_exists(scratch("deep/er/base.h5.tmp")));
    assert_ok(make_cache(path)); /* again over the old one */
    check_pages(path);
    assert_int_equal(mem_blocks(), before);
    /* libhdf5 sees the same: one dataset of bytes per page, at the same offset */
    hdf5_entry *entries;
    size_t count;
    assert_ok(hdf5_list(path, &entries, &count));
    assert_int_equal(count, PAGES);
    assert_ok(cache_open(&c, path));
    for (size_t i = 0; i < count; i++) {
        const cache_item *item = cache_find(&c, entries[i].name);
        assert_non_null(item);
        assert_int_equal(item->offset, entries[i].offset);
        assert_int_equal(item->bytes, entries[i].bytes);
    }
    cache_close(&c);
    hdf5_entries_free(entries, count);
}

static void what_is_missing_or_wrong_is_said(void **state) {
    char path[512];
    snprintf(path, sizeof path, "%s", scratch("wrong.h5"));
    cache_writer w;
    cache_item items[2] = {{.name = "a", .bytes = 10}, {.name = "b", .bytes = 10}};
    char data[20] = {0};
    json_t *meta = metadata();
    assert_ok(cache_create(&w, path, items, 2));
    assert_ok(cache_write(&w, 0, 0, data, 10));
    assert_ok(cache_write(&w, 1, 0, data, 9));
    assert_fails(cache_write(&w, 1, 9, data, 2), STATUS_INTERNAL, "item 1");
    assert_fails(cache_write(&w, 2, 0, data, 1), STATUS_INTERNAL, "item 2");
    assert_fails(cache_write(&w, 0, -1, data, 1), STATUS_INTERNAL, "item 0");
    assert_fails(cache_finish(&w, meta), STATUS_INTERNAL, "19 of 20");
    assert_false(file_exists(path) || file_exists(scratch("wrong.h5.tmp")));
    items[1].bytes = 0;
    assert_fails(cache_create(&w, path, items, 2), STATUS_INTERNAL, "\"b\"");
    items[1].bytes = 1ll << 55;
    assert_fails(cache_create(&w, path, items, 2), STATUS_IO, "are free");
    items[1].bytes = INT64_MAX;
    assert_fails(cache_create(&w, path, items, 2), STATUS_INTERNAL, "\"b\"");
    items[1] = items[0];
    assert_fails(cache_create(&w, path, items, 2), STATUS_IO, "name already exists");
    assert_false(file_exists(scratch("wrong.h5.tmp")));
    json_decref(meta);
}

static void one_writer_at_a_time(void **state) {
    char path[512];
    snprintf(path, sizeof path, "%s", scratch("shared.h5"));
    cache_writer w;
    cache_item item = {.name = "a", .bytes = 10};
    char data[10] = {0};
    json_t *meta = metadata();
    put_text(scratch("shared.h5.tmp"), "of a run that died");
    assert_ok(cache_create(&w, path, &item, 1));
    pid_t child = fork();
    if (!child) {
        cache_writer second;
        _exit(cache_create(&second, path, &item, 1) == STATUS_LOCKED ? 0 : 1);
    }
    int how;
    waitpid(child, &how, 0);
    assert_true(WIFEXITED(how) && !WEXITSTATUS(how));
    assert_ok(cache_write(&w, 0, 0, data, 10));
    assert_ok(cache_finish(&w, meta));
    cache c;
    assert_ok(cache_open(&c, path));
    cache_close(&c);
    json_decref(meta);
}

static void row05_cache_damage(void **state) {
    char path[512], manifest_file[520];
    snprintf(path, sizeof path, "%s", scratch("damage.h5"));
    snprintf(manifest_file, sizeof manifest_file, "%s.json", path);
    assert_ok(make_cache(path));
    size_t n, m;
    char *good = get_file(path, &n), *good_manifest = get_file(manifest_file, &m);
    cache c;
    uint64_t seed = 3;
    for (int t = 0; t < trials(200, 10000); t++) { /* the file is small: samples cover it */
        size_t at = noise(&seed) % n;
        good[at] ^= (char)(1 << t % 8);
        put_file(path, good, n);
        assert_fails(cache_open(&c, path), STATUS_MODEL, "quantize again");
        good[at] ^= (char)(1 << t % 8);
    }
    for (int t = 0; t < trials(50, 1000); t++) {
        put_file(path, good, noise(&seed) % n);
        assert_fails(cache_open(&c, path), STATUS_MODEL, "its manifest says");
    }
    put_file(path, good, n);
    size_t before = mem_blocks();
    static unsigned char out[50000];
    for (int t = 0; t < trials(1000, 10000); t++) {
        char *copy = malloc(m);
        memcpy(copy, good_manifest, m);
        if (t % 2)
            copy[noise(&seed) % m] ^= (char)(1 << noise(&seed) % 8);
        else
            copy[noise(&seed) % m] = "0123456789\"[]{},-"[noise(&seed) % 17];
        put_file(manifest_file, copy, t % 5 ? m : noise(&seed) % m);
        free(copy);
        status s = cache_open(&c, path);
        assert_true(s == STATUS_OK || s == STATUS_MODEL);
        if (s != STATUS_OK) continue;
        for (size_t i = 0; i < c.count; i++)
            if (c.items[i].bytes <= (int64_t)sizeof out)
                assert_ok(cache_read(&c, &c.items[i], 0, c.items[i].bytes, out));
        cache_close(&c);
    }
    assert_int_equal(mem_blocks(), before);
    put_file(manifest_file, good_manifest, m);
    check_pages(path);
    free(good), free(good_manifest);
}

/* A vouched-for manifest with hostile items: what is read stays inside the file, and libhdf5 is
 * never asked, whatever the file holds. */
static void row06_hostile_cache(void **state) {
    char path[512], manifest_file[520];
    snprintf(path, sizeof path, "%s", scratch("hostile.h5"));
    snprintf(manifest_file, sizeof manifest_file, "%s.json", path);
    static const struct {
        const char *items, *part;
    } cases[] = {
        {"[[\"a\", 0, 9223372036854775807]]", "malformed"},
        {"[[\"a\", 9223372036854771712, 4096]]", "malformed"},
        {"[[\"a\", -4096, 10]]", "malformed"},
        {"[[\"a\", 4096, -1]]", "malformed"},
        {"[[\"a\", 4096, 0]]", "malformed"},
        {"[[\"a\", 100, 10]]", "malformed"},
        {"[[\"a\", 8192, 1]]", "malformed"},
        {"[[\"a\", 4096, 4097]]", "malformed"},
        {"[[\"a\", 0, 5000], [\"b\", 4096, 10]]", "malformed"},
        {"[[\"a\", 4096, 10], [\"b\", 0, 10]]", "malformed"},
        {"[[\"a\", 4096.5, 10]]", "malformed"},
        {"[[1, 4096, 10]]", "malformed"},
        {"[[\"a\", 4096]]", "malformed"},
        {"{}", "malformed"},
        {"[]", "malformed"}, /* no "quick" */
    };
    static char bytes[8192];
    memcpy(bytes, "\x89HDF\r\n\x1a\n", 8);
    put_file(path, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *items;
        cache c;
        assert_ok(json_read_text(cases[i].items, strlen(cases[i].items), "items", STATUS_DATA,
                                 &items));
        json_t *more = json_pack("{s:{}, s:o}", "metadata", "items", items);
        assert_ok(manifest_write(manifest_file, "nibble-quantized-base", CACHE_VERSION, "hostile.h5",
                                 sizeof bytes, hash_bytes(bytes, sizeof bytes), more));
        json_decref(more);
        assert_fails(cache_open(&c, path), STATUS_MODEL, cases[i].part);
    }
    static const char *const names[] = {"../hostile.h5", "/etc/passwd", ""};
    for (int i = 0; i < 3; i++) {
        cache c;
        assert_ok(manifest_write(manifest_file, "nibble-quantized-base", CACHE_VERSION, names[i],
                                 sizeof bytes, hash_bytes(bytes, sizeof bytes), NULL));
        assert_fails(cache_open(&c, path), STATUS_MODEL, "malformed");
    }
}

/* A large page, damaged where no sample looks: the full check finds it. */
static void the_full_check_reads_everything(void **state) {
    char path[512];
    snprintf(path, sizeof path, "%s", scratch("large.h5"));
    enum { BYTES = 8 << 20 };
    char *data = calloc(1, BYTES);
    cache_item item = {.name = "a", .bytes = BYTES};
    cache_writer w;
    json_t *meta = metadata();
    assert_ok(cache_create(&w, path, &item, 1));
    assert_ok(cache_write(&w, 0, 0, data, BYTES));
    assert_ok(cache_finish(&w, meta));
    size_t n;
    char *bytes = get_file(path, &n);
    bytes[(n - 4096) / 255 * 100 + 4096 + 7] ^= 1; /* just behind sample 100 */
    put_file(path, bytes, n);
    cache c;
    assert_ok(cache_open(&c, path));
    assert_fails(cache_verify(&c), STATUS_MODEL, "large.h5");
    cache_close(&c);
    json_decref(meta);
    free(data), free(bytes);
}

static void row02_row04_cache_faults(void **state) {
    char path[512];
    snprintf(path, sizeof path, "%s", scratch("fault.h5"));
    static const int errors[] = {ENOSPC, EIO};
    for (int always = 0; always < 2; always++)
        for (uint64_t k = 1, more = 1; more; k++) {
            uint64_t before = file_fault_count();
            file_fail_at(k, errors[k % 2], always);
            status s = make_cache(path);
            more = file_fault_count() - before >= k;
            file_fail_at(0, 0, false);
            assert_int_equal(s, more ? STATUS_IO : STATUS_OK);
            assert_false(file_exists(scratch("fault.h5.tmp")));
            cache c; /* whole or not there; only the last sync may fail after the commit */
            s = cache_open(&c, path);
            if (s == STATUS_OK)
                cache_close(&c), check_pages(path);
            else
                assert_int_equal(s, STATUS_MODEL);
        }
    size_t blocks = mem_blocks();
    for (int always = 0; always < 2; always++)
        for (uint64_t k = 1, more = 1; more; k++) {
            uint64_t before = mem_count();
            mem_fail_at(k, always);
            status s = make_cache(path);
            more = mem_count() - before >= k;
            mem_fail_at(0, 0);
            assert_int_equal(s, more ? STATUS_MEMORY : STATUS_OK);
            assert_int_equal(mem_blocks(), blocks);
            assert_false(file_exists(scratch("fault.h5.tmp")));
        }
    for (uint64_t k = 1, more = 1; more; k++) {
        uint64_t before = mem_count();
        cache c;
        mem_fail_at(k, k & 1);
        status s = cache_open(&c, path);
        more = mem_count() - before >= k;
        mem_fail_at(0, 0);
        if (s == STATUS_OK) cache_close(&c);
        assert_int_equal(s, more ? STATUS_MEMORY : STATUS_OK);
        assert_int_equal(mem_blocks(), blocks);
    }
}

typedef struct share {
    cache_writer *w;
    size_t first;
} share;

static status write_share(void *context) {
    share *s = context;
    unsigned char *data = malloc(50000);
    status done = STATUS_OK;
    for (size_t i = s->first; i < PAGES && done == STATUS_OK; i += 3) {
        page_fill(i, data);
        done = cache_write(s->w, i, 0, data, page_bytes(i));
    }
    free(data);
    return done;
}

static void threads_share_a_writer(void **state) {
    char path[512], names[PAGES][32];
    snprintf(path, sizeof path, "%s", scratch("threads.h5"));
    cache_writer w;
    cache_item items[PAGES];
    list_pages(items, names);
    json_t *meta = metadata();
    assert_ok(cache_create(&w, path, items, PAGES));
    worker *workers[3];
    share shares[3];
    uint64_t tickets[3];
    for (size_t i = 0; i < 3; i++) {
        shares[i] = (share){&w, i};
        assert_ok(worker_open(&workers[i], "writer", 1));
        tickets[i] = worker_give(workers[i], write_share, &shares[i]);
    }
    for (size_t i = 0; i < 3; i++) {
        assert_ok(worker_wait(workers[i], tickets[i]));
        worker_close(workers[i]);
    }
    assert_ok(cache_finish(&w, meta));
    check_pages(path);
    json_decref(meta);
}

/* libhdf5 leaks a little when its writes fail: not ours to mend. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5";
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_come_back),
        cmocka_unit_test(what_is_missing_or_wrong_is_said),
        cmocka_unit_test(one_writer_at_a_time),
        cmocka_unit_test(row05_cache_damage),
        cmocka_unit_test(row06_hostile_cache),
        cmocka_unit_test(the_full_check_reads_everything),
        cmocka_unit_test(row02_row04_cache_faults),
        cmocka_unit_test(threads_share_a_writer),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
