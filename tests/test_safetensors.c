/* test_safetensors.c: safetensors files and folders of them: the reference implementation's
 * verdicts, hostile headers, injected faults, round trips. */
#include "safetensors_made.h"

/* ---- the reader ---- */

static void row07_reference_verdicts(void **state) {
    need_fixtures();
    json_t *all;
    assert_ok(json_read_file(FIXTURES "/malformed/safetensors/expected.json", 1 << 20,
                             STATUS_DATA, &all));
    const char *name;
    json_t *value;
    int seen = 0;
    json_object_foreach(all, name, value) {
        char path[1024];
        snprintf(path, sizeof path, FIXTURES "/malformed/safetensors/%s.safetensors", name);
        safetensors st;
        status s = safetensors_open(&st, path);
        bool good = !strncmp(name, "ok_", 3) || !strncmp(name, "writer_", 7);
        if (s != (good ? STATUS_OK : STATUS_MODEL))
            fail_msg("%s: status %d: %s", name, s, status_message());
        if (s == STATUS_OK) safetensors_close(&st);
        seen++;
    }
    assert_int_equal(seen, 23);
    json_decref(all);
}

static void row07_git_lfs_pointer_is_named(void **state) {
    need_fixtures();
    safetensors st;
    assert_fails(safetensors_open(&st, FIXTURES "/malformed/misc/lfs_pointer.safetensors"),
                 STATUS_MODEL, "git lfs pull");
}

static void row07_header_rules(void **state) {
    accept("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
    accept("{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2);
    accept("{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"a\":{\"dtype\":\"U8\",\"shape\":[0,9],\"data_offsets\":[0,0]}}",
           2);
    accept("{\"__metadata__\":{\"format\":\"pt\"}}", 0);
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
           2, "duplicate");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "a hole");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
           "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
           3, "overlap");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3,
           "the tensors end at");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, "truncated");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,0]}}", 2, "in order");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2,3]}}", 2,
           "two integers");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2]}}", 2, "two integers");
    refuse("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,2]}}", 2, "no shape");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[-2],\"data_offsets\":[0,2]}}", 2,
           "non-negative");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[2.0],\"data_offsets\":[0,2]}}", 2,
           "non-negative");
    refuse("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2,
           "does not take");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2,
           "does not take");
    refuse("{\"a\":{\"dtype\":\"Q9\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "\"Q9\"");
    refuse("{\"a\":{\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "dtype");
    refuse("{\"a\":3}", 0, "must be an object");
    refuse("[]", 0, "must be an object");
    refuse("{\"__metadata__\":{\"n\":3}}", 0, "must be a string");
    refuse("{\"__metadata__\":[]}", 0, "must be an object");
    refuse("{} x", 0, "");
    refuse("", 0, "");
}

static void row07_numbers_at_the_edge(void **state) {
    static const char *const hostile[] = {
        "[0,9223372036854775807]",
        "[9223372036854775807,9223372036854775807]",
        "[9223372036854775806,9223372036854775807]",
        "[-9223372036854775808,9223372036854775807]",
        "[-9223372036854775808,0]",
        "[0,18446744073709551615]",
        "[18446744073709551615,18446744073709551615]",
        "[0,1e18]",
        "[0,-1]",
        "[true,2]",
        "[null,null]",
        "[[],[]]",
    };
    static const char *const shapes[] = {"[2]", "[9223372036854775807]",
                                         "[4294967296,4294967296]", "[1152921504606846976,8]",
                                         "[2,4611686018427387904,2]"};
    char header[300];
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++)
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++) {
            snprintf(header, sizeof header,
                     "{\"a\":{\"dtype\":\"U8\",\"shape\":%s,\"data_offsets\":%s}}", shapes[j],
                     hostile[i]);
            refuse(header, 2, "");
        }
    /* the length itself */
    uint64_t lengths[] = {3,          100000001,  1ull << 31,    1ull << 32,
                          1ull << 63, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char bytes[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        memcpy(bytes, &lengths[i], 8);
        put_file(scratch("length"), bytes, sizeof bytes);
        safetensors st;
        assert_fails(safetensors_open(&st, scratch("length")), STATUS_MODEL, "");
    }
}

static void reads_what_is_there(void **state) {
    need_fixtures();
    safetensors st;
    assert_ok(safetensors_open(&st, FIXTURES "/models/stories260K/hf-f32/model.safetensors"));
    const safetensors_entry *e = safetensors_find(&st, "model.layers.2.mlp.up_proj.weight");
    assert_non_null(e);
    assert_int_equal(e->type, DTYPE_F32);
    assert_int_equal(e->rank, 2);
    assert_int_equal(e->shape[0], 172);
    assert_int_equal(e->shape[1], 64);
    assert_int_equal(e->bytes, 172 * 64 * 4);
    assert_null(safetensors_find(&st, "model.layers.2.mlp.up_proj"));
    float *all = malloc((size_t)e->bytes), part[7];
    assert_ok(safetensors_read(&st, e, 0, e->bytes, all));
    assert_ok(safetensors_read(&st, e, 4 * 1001, sizeof part, part));
    assert_memory_equal(part, all + 1001, sizeof part);
    for (int i = 0; i < 172 * 64; i++) assert_true(isfinite(all[i]) && fabsf(all[i]) < 10);
    free(all);
    assert_fails(safetensors_read(&st, e, e->bytes - 3, 4, part), STATUS_INTERNAL, "up_proj");
    assert_fails(safetensors_read(&st, e, -1, 4, part), STATUS_INTERNAL, "up_proj");
    safetensors_close(&st);
    safetensors_close(&st);
    assert_fails(safetensors_open(&st, scratch("nothing")), STATUS_MODEL, "nothing");
}

static void a_shrinking_file_is_an_error(void **state) {
    safetensors st;
    char data[64] = {0}, out[64];
    const char *path =
        make("{\"a\":{\"dtype\":\"U8\",\"shape\":[64],\"data_offsets\":[0,64]}}", data, 64);
    assert_ok(safetensors_open(&st, path));
    assert_int_equal(truncate(path, st.file.size - 10), 0);
    assert_ok(safetensors_read(&st, &st.entries[0], 0, 54, out));
    assert_fails(safetensors_read(&st, &st.entries[0], 0, 64, out), STATUS_IO, "tensor \"a\"");
    safetensors_close(&st);
}

/* Whatever happens to the bytes, the answer is a status; what opens can be read. */
static void row07_mutations_never_crash(void **state) {
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"a.b\":{\"dtype\":\"F32\",\"shape\":[2,3],"
        "\"data_offsets\":[0,24]},\"c\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":["
        "24,32]}}";
    char data[32] = {0}, out[4096];
    size_t n;
    char *good = get_file(make(header, data, 32), &n);
    uint64_t seed = 1;
    size_t before = mem_blocks();
    int opened = 0;
    for (int t = 0; t < trials(2000, 100000); t++) {
        char *copy = malloc(n);
        memcpy(copy, good, n);
        size_t cut = n;
        if (t % 4 == 0) cut = noise(&seed) % (n + 1);
        for (int k = 0; k < 1 + t % 3; k++)
            if (t % 2)
                copy[noise(&seed) % n] ^= (char)(1 << noise(&seed) % 8);
            else
                copy[noise(&seed) % n] = "0123456789\"{}[],:-e."[noise(&seed) % 20];
        put_file(scratch("mutated"), copy, cut);
        free(copy);
        safetensors st;
        status s = safetensors_open(&st, scratch("mutated"));
        assert_true(s == STATUS_OK || s == STATUS_MODEL);
        if (s != STATUS_OK) continue;
        opened++;
        for (size_t i = 0; i < st.count; i++)
            assert_ok(safetensors_read(&st, &st.entries[i], 0, st.entries[i].bytes, out));
        safetensors_close(&st);
    }
    assert_true(opened > 0);
    assert_int_equal(mem_blocks(), before);
    free(good);
}

/* ---- the writer ---- */

static status write_two(const char *path) {
    safetensors_writer w;
    float x[6] = {1, 2, 3, 4, 5, 6};
    uint16_t y[3] = {7, 8, 9};
    TRY(safetensors_create(&w, path));
    status s = safetensors_declare(&w, "half", DTYPE_BF16, 1, (int64_t[]){3});
    if (s == STATUS_OK) s = safetensors_declare(&w, "x", DTYPE_F32, 2, (int64_t[]){2, 3});
    if (s == STATUS_OK) s = safetensors_begin(&w, "pt");
    if (s == STATUS_OK) s = safetensors_write(&w, "half", y, 6);
    if (s == STATUS_OK) s = safetensors_write(&w, "x", x, 8);
    if (s == STATUS_OK) s = safetensors_write(&w, "x", x + 2, 16);
    if (s == STATUS_OK) return safetensors_finish(&w);
    safetensors_abandon(&w);
    return s;
}

static void check_two(const char *path) {
    safetensors st;
    float x[6];
    uint16_t y[3];
    assert_ok(safetensors_open(&st, path));
    assert_int_equal(st.count, 2);
    assert_string_equal(st.entries[0].name, "x"); /* larger types go first */
    assert_string_equal(json_string_value(json_object_get(st.metadata, "format")), "pt");
    assert_ok(safetensors_read(&st, safetensors_find(&st, "x"), 0, 24, x));
    assert_ok(safetensors_read(&st, safetensors_find(&st, "half"), 0, 6, y));
    for (int i = 0; i < 6; i++) assert_true(x[i] == (float)(i + 1));
    for (int i = 0; i < 3; i++) assert_int_equal(y[i], i + 7);
    safetensors_close(&st);
}

static void writes_and_reads_back(void **state) {
    const char *path = scratch("two.safetensors");
    assert_ok(write_two(path));
    check_two(path);
    assert_false(file_exists(scratch("two.safetensors.tmp")));
}

static void writes_the_references_bytes(void **state) {
    need_fixtures();
    static const char zeros[16];
    safetensors_writer w;
    size_t n, m;
    assert_ok(safetensors_create(&w, scratch("one")));
    assert_ok(safetensors_declare(&w, "test", DTYPE_I32, 2, (int64_t[]){2, 2}));
    assert_ok(safetensors_begin(&w, NULL));
    assert_ok(safetensors_write(&w, "test", zeros, 16));
    assert_ok(safetensors_finish(&w));
    char *mine = get_file(scratch("one"), &n);
    char *theirs =
        get_file(FIXTURES "/malformed/safetensors/writer_i32_2x2_zeros.safetensors", &m);
    assert_int_equal(n, m);
    assert_memory_equal(mine, theirs, n);
    free(mine), free(theirs);

    assert_ok(safetensors_create(&w, scratch("both")));
    assert_ok(safetensors_declare(&w, "test2", DTYPE_F16, 2, (int64_t[]){2, 2}));
    assert_ok(safetensors_declare(&w, "test1", DTYPE_I32, 2, (int64_t[]){2, 2}));
    assert_ok(safetensors_begin(&w, NULL));
    assert_ok(safetensors_write(&w, "test2", zeros, 8));
    assert_ok(safetensors_write(&w, "test1", zeros, 16));
    assert_ok(safetensors_finish(&w));
    mine = get_file(scratch("both"), &n);
    theirs = get_file(FIXTURES "/malformed/safetensors/writer_i32_then_f16.safetensors", &m);
    assert_int_equal(n, m);
    assert_memory_equal(mine, theirs, n);
    free(mine), free(theirs);
}

static void the_writer_wants_what_was_declared(void **state) {
    safetensors_writer w;
    char data[32] = {0};
    int64_t four = 4, huge[3] = {1ll << 32, 1ll << 32, 4};
    assert_ok(safetensors_create(&w, scratch("wrong")));
    assert_fails(safetensors_declare(&w, "q", DTYPE_NF4, 1, &four), STATUS_INTERNAL, "\"q\"");
    assert_fails(safetensors_declare(&w, "big", DTYPE_F32, 3, huge), STATUS_INTERNAL,
                 "too large");
    assert_ok(safetensors_declare(&w, "a", DTYPE_U8, 1, &four));
    assert_fails(safetensors_write(&w, "a", data, 4), STATUS_INTERNAL, "not declared");
    assert_ok(safetensors_begin(&w, NULL));
    assert_fails(safetensors_declare(&w, "late", DTYPE_U8, 1, &four), STATUS_INTERNAL, "late");
    assert_fails(safetensors_write(&w, "b", data, 4), STATUS_INTERNAL, "\"b\"");
    assert_fails(safetensors_write(&w, "a", data, 5), STATUS_INTERNAL, "\"a\"");
    assert_ok(safetensors_write(&w, "a", data, 3));
    assert_fails(safetensors_finish(&w), STATUS_INTERNAL, "3 of 4 bytes");
    assert_false(file_exists(scratch("wrong")));
    assert_false(file_exists(scratch("wrong.tmp")));
    assert_ok(safetensors_create(&w, scratch("twice")));
    assert_ok(safetensors_declare(&w, "a", DTYPE_U8, 1, &four));
    assert_ok(safetensors_declare(&w, "a", DTYPE_F32, 1, &four));
    assert_fails(safetensors_begin(&w, NULL), STATUS_INTERNAL, "two tensors");
    safetensors_abandon(&w);
    assert_false(file_exists(scratch("twice.tmp")));
}

/* Every write, fsync and rename fails once and from then on: the old file stays, no *.tmp. */
static void faults_leave_the_old_file(void **state) {
    char path[512];
    snprintf(path, sizeof path, "%s", scratch("old.safetensors"));
    static const int errors[] = {ENOSPC, EIO, EFBIG};
    for (int always = 0; always < 2; always++)
        for (size_t e = 0; e < 3; e++) {
            put_text(path, "old");
            uint64_t k = 1;
            for (;; k++) {
                file_fail_at(k, errors[e], always);
                uint64_t before = file_fault_count();
                status s = write_two(path);
                bool reached = file_fault_count() - before >= k;
                file_fail_at(0, 0, false);
                if (!reached) {
                    assert_int_equal(s, STATUS_OK);
                    break;
                }
                assert_int_equal(s, STATUS_IO);
                assert_false(file_exists(scratch("old.safetensors.tmp")));
                size_t n;
                char *now = get_file(path, &n);
                /* only the last one, syncing the folder, comes after the rename */
                if (n == 3)
                    assert_memory_equal(now, "old", 3);
                else
                    check_two(path);
                free(now);
            }
            assert_true(k > 5);
            check_two(path);
        }
    file_fail_at(2, FILE_FAULT_SHORT, true);
    assert_ok(write_two(path));
    file_fail_at(0, 0, false);
    check_two(path);
}

static void allocation_failures_are_clean(void **state) {
    const char *path = scratch("alloc.safetensors");
    size_t before = mem_blocks();
    for (int always = 0; always < 2; always++)
        for (uint64_t k = 1;; k++) {
            uint64_t start = mem_count();
            mem_fail_at(k, always);
            status s = write_two(path);
            bool reached = mem_count() - start >= k;
            mem_fail_at(0, 0);
            if (reached) assert_int_equal(s, STATUS_MEMORY);
            assert_int_equal(mem_blocks(), before);
            if (!reached) break;
        }
    for (uint64_t k = 1;; k++) {
        safetensors st;
        uint64_t start = mem_count();
        mem_fail_at(k, 0);
        status s = safetensors_open(&st, path);
        bool reached = mem_count() - start >= k;
        mem_fail_at(0, 0);
        if (reached && s != STATUS_MEMORY)
            fail_msg("allocation %d: %d %s", (int)k, s, status_message());
        if (s == STATUS_OK) safetensors_close(&st);
        assert_int_equal(mem_blocks(), before);
        if (!reached) break;
    }
}

/* ---- model folders ---- */

static void a_sharded_folder_is_one_model(void **state) {
    need_fixtures();
    model_files m, single;
    assert_ok(model_files_open(&m, FIXTURES "/models/stories260K/hf-bf16-sharded"));
    assert_ok(model_files_open(&single, FIXTURES "/models/stories260K/hf-f32"));
    assert_int_equal(m.shard_count, 2);
    assert_int_equal(single.shard_count, 1);
    assert_int_equal(m.count, single.count);
    for (size_t i = 0; i < m.count; i++) { /* the same tensors, in bf16 and in fp32 */
        model_tensor a, b = single.tensors[i];
        assert_ok(model_files_get(&m, b.entry->name, &a));
        assert_int_equal(a.entry->elements, b.entry->elements);
        uint16_t h;
        float x;
        int64_t at = a.entry->elements / 3;
        assert_ok(model_tensor_read(&a, 2 * at, 2, &h));
        assert_ok(model_tensor_read(&b, 4 * at, 4, &x));
        uint32_t bits = (uint32_t)h << 16;
        float y;
        memcpy(&y, &bits, 4);
        assert_true(fabsf(x - y) <= fabsf(x) / 256);
    }
    model_tensor t;
    assert_fails(model_files_get(&m, "lm_head.weight", &t), STATUS_MODEL, "lm_head.weight");
    model_files_close(&m);
    model_files_close(&single);
}

static void shard(const char *folder, const char *file_name, const char *tensor_name) {
    char header[300], path[600], data[2] = {0};
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", tensor_name);
    snprintf(path, sizeof path, "%s/%s", folder, file_name);
    assert_int_equal(rename(make(header, data, 2), path), 0);
}

static void refuse_index(const char *folder, const char *map, const char *part) {
    char path[600], text[600];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":%s}", map);
    put_text(path, text);
    model_files m;
    assert_fails(model_files_open(&m, folder), STATUS_MODEL, part);
}

static void an_index_must_be_right(void **state) {
    char folder[512];
    snprintf(folder, sizeof folder, "%s", scratch_folder("shards"));
    model_files m;
    assert_fails(model_files_open(&m, folder), STATUS_MODEL, "neither");
    assert_fails(model_files_open(&m, scratch("no-such")), STATUS_MODEL, "no such folder");
    put_text(scratch("shards/pytorch_model.bin"), "x");
    assert_fails(model_files_open(&m, folder), STATUS_MODEL, "pytorch_model.bin");
    shard(folder, "s1", "a");
    shard(folder, "s2", "b");
    refuse_index(folder, "{\"a\":\"s1\",\"b\":\"s3\"}", "s3");
    refuse_index(folder, "{\"a\":\"s2\",\"b\":\"s1\"}", "it does not");
    refuse_index(folder, "{\"a\":\"s1\",\"b\":\"s2\",\"c\":\"s2\"}", "\"c\"");
    refuse_index(folder, "{\"a\":\"../shards/s1\"}", "the same folder");
    refuse_index(folder, "{\"a\":\"..\"}", "the same folder");
    refuse_index(folder, "{\"a\":3}", "the same folder");
    refuse_index(folder, "{}", "no weight_map");
    refuse_index(folder, "[]", "no weight_map");
    shard(folder, "s3", "a");
    refuse_index(folder, "{\"a\":\"s1\",\"b\":\"s3\"}", "both hold");
    put_text(scratch("shards/model.safetensors.index.json"),
             "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s2\"}}");
    size_t before = mem_blocks();
    assert_ok(model_files_open(&m, folder));
    assert_int_equal(m.count, 2);
    model_files_close(&m);
    assert_int_equal(mem_blocks(), before);
    for (uint64_t k = 1;; k++) {
        uint64_t start = mem_count();
        mem_fail_at(k, k & 1);
        status s = model_files_open(&m, folder);
        bool reached = mem_count() - start >= k;
        mem_fail_at(0, 0);
        if (s == STATUS_OK) model_files_close(&m);
        if (reached) assert_int_equal(s, STATUS_MEMORY);
        assert_int_equal(mem_blocks(), before);
        if (!reached) break;
    }
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row07_reference_verdicts),
        cmocka_unit_test(row07_git_lfs_pointer_is_named),
        cmocka_unit_test(row07_header_rules),
        cmocka_unit_test(row07_numbers_at_the_edge),
        cmocka_unit_test(reads_what_is_there),
        cmocka_unit_test(a_shrinking_file_is_an_error),
        cmocka_unit_test(row07_mutations_never_crash),
        cmocka_unit_test(writes_and_reads_back),
        cmocka_unit_test(writes_the_references_bytes),
        cmocka_unit_test(the_writer_wants_what_was_declared),
        cmocka_unit_test(faults_leave_the_old_file),
        cmocka_unit_test(allocation_failures_are_clean),
        cmocka_unit_test(a_sharded_folder_is_one_model),
        cmocka_unit_test(an_index_must_be_right),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
