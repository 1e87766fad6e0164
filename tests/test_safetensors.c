/* test_safetensors.c: safetensors, model folders, bitsandbytes' layout and PEFT adapters: the
 * reference implementation's verdicts, hostile headers, injected faults, round trips. */
#include "checkpoints/bnb.h"
#include "checkpoints/model_files.h"
#include "checkpoints/peft.h"
#include "checkpoints/safetensors.h"
#include "checkpoints/safetensors_writer.h"
#include "quant/double.h"
#include "quant/dynamic.h"
#include "scratch.h"

#include <errno.h>
#include <math.h>

/* A file of this header and data; returns its path. */
static const char *make(const char *header, const void *data, size_t bytes) {
    size_t n = strlen(header);
    char *all = malloc(8 + n + bytes);
    for (int i = 0; i < 8; i++) all[i] = (char)(n >> 8 * i);
    memcpy(all + 8, header, n);
    memcpy(all + 8 + n, data, bytes);
    const char *path = scratch("made.safetensors");
    put_file(path, all, 8 + n + bytes);
    free(all);
    return path;
}

static void refuse(const char *header, size_t bytes, const char *part) {
    static const char zeros[256];
    safetensors st;
    assert_fails(safetensors_open(&st, make(header, zeros, bytes)), STATUS_MODEL, part);
}

static void accept(const char *header, size_t bytes) {
    static const char zeros[256];
    safetensors st;
    assert_ok(safetensors_open(&st, make(header, zeros, bytes)));
    safetensors_close(&st);
}

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

/* ---- PEFT adapters ---- */

static void reads_the_real_librarys_adapters(void **state) {
    need_fixtures();
    static const char *const cases[] = {"llama-nf4-dq", "mistral-lora", "qwen2-fp4",
                                        "qwen3-packed"};
    for (int i = 0; i < 4; i++) {
        char folder[600];
        snprintf(folder, sizeof folder, FIXTURES "/expectations/peft-parity/%s/adapter0",
                 cases[i]);
        peft_adapter p;
        assert_ok(peft_open(&p, folder));
        assert_true(p.count > 0 && p.config.target_count > 0);
        const peft_module *m = peft_find(&p, "model.layers.1.self_attn.q_proj");
        assert_non_null(m);
        assert_int_equal(m->rank, p.config.r);
        assert_true(m->scale == p.config.alpha / (p.config.rslora ? sqrt((double)m->rank)
                                                                  : (double)m->rank));
        assert_null(peft_find(&p, "q_proj"));
        float *a = malloc((size_t)(m->rank * m->in) * 4);
        assert_ok(peft_read(&p, m->a, a));
        double sum = 0;
        for (int64_t k = 0; k < m->rank * m->in; k++) sum += fabs(a[k]);
        assert_true(sum > 0 && isfinite(sum));
        free(a);
        peft_close(&p);
    }
}

enum { R = 2, IN = 5, OUT = 3 };
static const float a_values[R * IN] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
static const float b_values[OUT * R] = {.5f, -1, 2, 0, 0, 1e-30f};

static status read_b(void *context, int64_t first, int64_t bytes, void *out) {
    memcpy(out, (const char *)b_values + first, (size_t)bytes);
    *(int *)context += 1;
    return STATUS_OK;
}

static status write_adapter(const char *folder, int *reads) {
    peft_config c = {
        .base_model = "some/base", .r = R, .alpha = 16, .dropout = 0.05, .rslora = true};
    named_tensor t[4] = {
        {.name = "model.layers.0.mlp.up_proj.lora_A.weight",
         .format = format_of(DTYPE_F32, R, IN),
         .data = a_values},
        {.name = "model.layers.0.mlp.up_proj.lora_B.weight",
         .format = format_of(DTYPE_F32, OUT, R),
         .read = read_b,
         .context = reads},
        {.name = "model.layers.0.self_attn.q_proj.lora_B.weight",
         .format = format_of(DTYPE_F32, OUT, R),
         .data = b_values},
        {.name = "model.layers.0.self_attn.q_proj.lora_A.weight",
         .format = format_of(DTYPE_F32, R, IN),
         .data = a_values},
    };
    return peft_write(folder, &c, t, 4);
}

static void adapters_round_trip(void **state) {
    int reads = 0;
    assert_ok(write_adapter(scratch("adapter/deep"), &reads));
    assert_int_equal(reads, 1);
    peft_adapter p;
    assert_ok(peft_open(&p, scratch("adapter/deep")));
    assert_int_equal(p.count, 2);
    assert_int_equal(p.config.target_count, 2);
    assert_string_equal(p.config.targets[0], "q_proj");
    assert_string_equal(p.config.targets[1], "up_proj");
    assert_string_equal(p.config.base_model, "some/base");
    assert_true(p.config.rslora && p.config.dropout == 0.05);
    const peft_module *m = peft_find(&p, "model.layers.0.mlp.up_proj");
    assert_non_null(m);
    assert_true(m->in == IN && m->out == OUT && m->rank == R && m->scale == 16 / sqrt(2.0));
    float a[R * IN], b[OUT * R];
    assert_ok(peft_read(&p, m->a, a));
    assert_ok(peft_read(&p, m->b, b));
    assert_memory_equal(a, a_values, sizeof a);
    assert_memory_equal(b, b_values, sizeof b);
    peft_close(&p);
    size_t before = mem_blocks();
    for (uint64_t k = 1, more = 1; more; k++) {
        uint64_t start = mem_count();
        mem_fail_at(k, k & 1);
        status s = write_adapter(scratch("adapter/deep"), &reads);
        more = mem_count() - start >= k;
        mem_fail_at(0, 0);
        if (more) assert_int_equal(s, STATUS_MEMORY);
        assert_int_equal(mem_blocks(), before);
    }
    for (uint64_t k = 1, more = 1; more; k++) {
        uint64_t start = mem_count();
        mem_fail_at(k, k & 1);
        status s = peft_open(&p, scratch("adapter/deep"));
        more = mem_count() - start >= k;
        mem_fail_at(0, 0);
        if (s == STATUS_OK) peft_close(&p);
        if (more) assert_int_equal(s, STATUS_MEMORY);
        assert_int_equal(mem_blocks(), before);
    }
}

/* An adapter folder whose config is the good one with `change` (a JSON object) laid over it.
 */
static const char *changed_adapter(const char *change) {
    int reads;
    const char *folder = scratch("changed");
    assert_ok(write_adapter(folder, &reads));
    json_t *config, *more;
    assert_ok(
        json_read_file(scratch("changed/adapter_config.json"), 1 << 20, STATUS_DATA, &config));
    assert_ok(json_read_text(change, strlen(change), "change", STATUS_DATA, &more));
    json_object_update(config, more);
    char *text = json_write_text(config, 0);
    put_text(scratch("changed/adapter_config.json"), text);
    mem_free(text);
    json_decref(config);
    json_decref(more);
    return folder;
}

static void refuse_adapter(const char *change, const char *part) {
    peft_adapter p;
    assert_fails(peft_open(&p, changed_adapter(change)), STATUS_MODEL, part);
}

static void what_is_not_plain_lora_is_refused(void **state) {
    refuse_adapter("{\"use_dora\":true}", "use_dora");
    refuse_adapter("{\"modules_to_save\":[\"lm_head\"]}", "modules_to_save");
    refuse_adapter("{\"bias\":\"all\"}", "bias");
    refuse_adapter("{\"lora_bias\":true}", "lora_bias");
    refuse_adapter("{\"trainable_token_indices\":[1]}", "trainable_token_indices");
    refuse_adapter("{\"layer_replication\":[[0,1]]}", "layer_replication");
    refuse_adapter("{\"target_parameters\":[\"w\"]}", "target_parameters");
    refuse_adapter("{\"fan_in_fan_out\":true}", "fan_in_fan_out");
    refuse_adapter("{\"init_lora_weights\":\"pissa_niter_4\"}", "pissa");
    refuse_adapter("{\"peft_type\":\"IA3\"}", "peft_type");
    refuse_adapter("{\"peft_type\":null}", "peft_type");
    refuse_adapter("{\"task_type\":\"SEQ_CLS\"}", "task_type");
    refuse_adapter("{\"r\":0}", "\"r\"");
    refuse_adapter("{\"r\":\"8\"}", "\"r\"");
    refuse_adapter("{\"r\":3}", "rank 2");
    refuse_adapter("{\"lora_dropout\":1.5}", "lora_dropout");
    refuse_adapter("{\"target_modules\":[\"v_proj\",\"up_proj\"]}",
                   "not among target_modules");
    refuse_adapter("{\"target_modules\":[\"roj\",\"up_proj\"]}", "not among target_modules");
    refuse_adapter("{\"target_modules\":[3]}", "target_modules");
    refuse_adapter("{\"target_modules\":{}}", "target_modules");
    refuse_adapter("{\"rank_pattern\":{\".*proj\":2}}", "plain module names");
    refuse_adapter("{\"rank_pattern\":{\"q_proj\":4}}", "rank_pattern says 4");
    refuse_adapter("{\"rank_pattern\":{\"q_proj\":1e19}}", "rank_pattern says 1e+19");
    refuse_adapter("{\"rank_pattern\":{\"q_proj\":2.5}}", "rank_pattern says 2.5");
    refuse_adapter("{\"alpha_pattern\":{\"q_proj\":\"4\"}}", "must be a number");
}

static void patterns_and_targets(void **state) {
    peft_adapter p;
    assert_ok(peft_open(&p, changed_adapter("{\"r\":64,\"rank_pattern\":{\"up_proj\":2,\"self_"
                                            "attn.q_proj\":2},\"use_rslora\":false,"
                                            "\"alpha_pattern\":{\"^model.layers.0.mlp.up_"
                                            "proj\":6,\"proj\":99,\"up_proj\":1}}")));
    assert_true(peft_find(&p, "model.layers.0.mlp.up_proj")->scale == 3);
    assert_true(peft_find(&p, "model.layers.0.self_attn.q_proj")->scale == 8);
    peft_close(&p);
    assert_ok(peft_open(
        &p, changed_adapter("{\"target_modules\":\"all-linear\",\"some_future_key\":true}")));
    assert_string_equal(p.config.target_pattern, "all-linear");
    peft_close(&p);
    assert_ok(peft_open(&p, changed_adapter("{\"target_modules\":null,\"task_type\":null}")));
    peft_close(&p);
}

static void wrong_keys_are_refused(void **state) {
    static const struct {
        const char *name, *part;
    } cases[] = {
        {"model.model.layers.0.q_proj.lora_A.weight", "is not base_model.model"},
        {"base_model.model.q_proj.lora_A.default.weight", "is not base_model.model"},
        {"base_model.model.q_proj.lora_magnitude_vector", "is not base_model.model"},
        {"base_model.model..lora_A.weight", "is not base_model.model"},
        {"base_model.model.lora_A.weight", "is not base_model.model"},
        {"base_model.model.q_proj.lora_A.weight", "only one of"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        changed_adapter("{}");
        char header[300], data[16] = {0};
        snprintf(header, sizeof header,
                 "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}",
                 cases[i].name);
        assert_int_equal(
            rename(make(header, data, 16), scratch("changed/adapter_model.safetensors")), 0);
        peft_adapter p;
        assert_fails(peft_open(&p, scratch("changed")), STATUS_MODEL, cases[i].part);
    }
    peft_adapter p;
    unlink(scratch("changed/adapter_model.safetensors"));
    assert_fails(peft_open(&p, scratch("changed")), STATUS_MODEL, "is missing");
    put_text(scratch("changed/adapter_model.bin"), "x");
    assert_fails(peft_open(&p, scratch("changed")), STATUS_MODEL, "safe_serialization");
}

static void bf16_adapters_are_widened(void **state) {
    int reads;
    assert_ok(write_adapter(scratch("adapter16"), &reads));
    static const char header[] = "{\"base_model.model.q_proj.lora_A.weight\":{\"dtype\":"
                                 "\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                                 "\"base_model.model.q_proj.lora_B.weight\":{\"dtype\":"
                                 "\"F16\",\"shape\":[1,2],\"data_offsets\":[12,16]}}";
    static const uint16_t data[8] = {0x3f80, 0xbf80, 0x4000, 0x4040,
                                     0x4080, 0x40a0, 0x3c00, 0xc000};
    assert_int_equal(
        rename(make(header, data, 16), scratch("adapter16/adapter_model.safetensors")), 0);
    peft_adapter p;
    float a[6], b[2];
    assert_ok(peft_open(&p, scratch("adapter16")));
    assert_ok(peft_read(&p, p.modules[0].a, a));
    assert_ok(peft_read(&p, p.modules[0].b, b));
    static const float want[6] = {1, -1, 2, 3, 4, 5};
    assert_memory_equal(a, want, sizeof a);
    assert_true(b[0] == 1 && b[1] == -2);
    peft_close(&p);
}

/* ---- bitsandbytes' 4-bit layout ---- */

enum { ROWS = 172, COLS = 130 }; /* blocks cross rows; more than 256 of them */

/* A quantized tensor in one piece, as tensor.h lays it out. To be freed. */
static char *quantized(tensor_format f, int64_t *bytes) {
    int64_t n = f.rows * f.cols;
    assert_ok(format_bytes(&f, bytes));
    char *out = calloc(1, (size_t)*bytes);
    float *x = malloc((size_t)n * 4);
    uint64_t seed = 9;
    for (int64_t i = 0; i < n; i++) x[i] = (float)(int64_t)noise(&seed) * 0x1p-66f;
    tensor t = tensor_at(&f, out);
    int64_t blocks = quant_block_count(n, f.block);
    float *absmax = malloc((size_t)blocks * 4);
    quant_type type = f.type == DTYPE_FP4 ? QUANT_FP4 : QUANT_NF4;
    assert_ok(quant_quantize(type, x, QUANT_SRC_F32, n, f.block, t.data, absmax));
    memcpy(t.scales.code, quant_codebook(type), 64);
    if (f.nested) {
        memcpy(t.scales.map, dynamic_map_signed(), 1024);
        assert_ok(quant_nest(absmax, blocks, t.scales.absmax, t.scales.absmax2,
                             t.scales.offset, t.scales.map));
    } else
        memcpy(t.scales.absmax, absmax, (size_t)blocks * 4);
    free(x), free(absmax);
    return out;
}

/* A model folder with one 4-bit weight "w.weight". */
static const char *bnb_folder(const char *name, tensor_format f, const void *data) {
    const char *folder = scratch_folder(name);
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    safetensors_writer w;
    float plain[2] = {1, 2};
    assert_ok(safetensors_create(&w, path));
    assert_ok(bnb_declare(&w, "w.weight", &f, DTYPE_BF16));
    assert_ok(safetensors_declare(&w, "norm.weight", DTYPE_F32, 1, (int64_t[]){2}));
    assert_ok(safetensors_begin(&w, "pt"));
    assert_ok(bnb_write(&w, "w.weight", &f, DTYPE_BF16, data));
    assert_ok(safetensors_write(&w, "norm.weight", plain, 8));
    assert_ok(safetensors_finish(&w));
    return folder;
}

static void four_bit_weights_round_trip(void **state) {
    for (int kind = 0; kind < 8; kind++) {
        tensor_format f = {.type = kind & 1 ? DTYPE_FP4 : DTYPE_NF4,
                           .rows = ROWS,
                           .cols = COLS,
                           .block = kind & 4 ? 128 : 64,
                           .nested = kind & 2};
        int64_t bytes;
        char *data = quantized(f, &bytes), *back = malloc((size_t)bytes);
        model_files m;
        bnb_weight w;
        bool found;
        assert_ok(model_files_open(&m, bnb_folder("bnb", f, data)));
        assert_ok(bnb_find(&m, "w.weight", &w, &found));
        assert_true(found && w.format.type == f.type && w.format.rows == ROWS &&
                    w.format.cols == COLS && w.format.block == f.block &&
                    w.format.nested == f.nested && w.source == DTYPE_BF16);
        assert_ok(bnb_read(&w, back));
        assert_memory_equal(back, data, bytes);
        assert_ok(bnb_find(&m, "norm.weight", &w, &found));
        assert_false(found);
        assert_ok(bnb_find(&m, "absent", &w, &found));
        assert_false(found);
        model_files_close(&m);
        free(data), free(back);
    }
}

/* A file of the parts of a 64 x 2 nested NF4 weight, with one thing changed. */
typedef struct bnb_change {
    const char *state;   /* the JSON, or NULL for the good one */
    const char *part;    /* ending of the part to leave out or change */
    dtype type;          /* its type, DTYPE_COUNT: left out */
    int64_t elements;    /* its size */
    float fill;          /* fp32 parts are filled with it when not 0 */
    const char *message; /* NULL: it is fine */
} bnb_change;

static void try_bnb(bnb_change c) {
    static const char good[] =
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float16\", \"shape\": [64, "
        "2], "
        "\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 2.5}";
    struct {
        const char *ending;
        dtype type;
        int64_t elements;
    } parts[] = {{"", DTYPE_U8, 64},
                 {".absmax", DTYPE_U8, 2},
                 {".quant_map", DTYPE_F32, 16},
                 {".nested_absmax", DTYPE_F32, 1},
                 {".nested_quant_map", DTYPE_F32, 256},
                 {".quant_state.bitsandbytes__nf4", DTYPE_U8, 0}};
    const char *json = c.state ? c.state : good;
    parts[5].elements = (int64_t)strlen(json);
    char folder[512], path[600], name[100];
    snprintf(folder, sizeof folder, "%s", scratch_folder("bnb-bad"));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    safetensors_writer w;
    assert_ok(safetensors_create(&w, path));
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < 6; i++) {
            bool changed = c.part && !strcmp(parts[i].ending, c.part);
            dtype type = changed ? c.type : parts[i].type;
            int64_t n = changed ? c.elements : parts[i].elements;
            if (type == DTYPE_COUNT) continue;
            float values[256];
            for (int k = 0; k < 256; k++) values[k] = changed ? c.fill : 0.5f;
            snprintf(name, sizeof name, "w.weight%s", parts[i].ending);
            if (!pass)
                assert_ok(safetensors_declare(&w, name, type, 1, &n));
            else
                assert_ok(safetensors_write(&w, name, i == 5 ? (const void *)json : values,
                                            (size_t)(n * dtype_bytes(type))));
        }
        if (!pass) assert_ok(safetensors_begin(&w, "pt"));
    }
    assert_ok(safetensors_finish(&w));
    model_files m;
    bnb_weight weight;
    bool found;
    char out[4096];
    assert_ok(model_files_open(&m, folder));
    status s = bnb_find(&m, "w.weight", &weight, &found);
    if (s == STATUS_OK && found) s = bnb_read(&weight, out);
    if (!c.message) {
        if (s != STATUS_OK || !found || weight.offset != 2.5f)
            fail_msg("%s", status_message());
    } else if (s != STATUS_MODEL || !strstr(status_message(), c.message))
        fail_msg("wanted \"%s\", got %d \"%s\"", c.message, s, status_message());
    model_files_close(&m);
}

#define STATE(type, block, dtype, shape, rest)                                                \
    "{\"quant_type\": " type ", \"blocksize\": " block ", \"dtype\": " dtype                  \
    ", \"shape\": " shape rest "}"
#define NESTED                                                                                \
    ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 2.5"

static void malformed_four_bit_weights_are_refused(void **state) {
    static const bnb_change changes[] = {
        {.message = NULL},
        {.part = "",
         .type = DTYPE_BF16,
         .elements = 32,
         .fill = 1,
         .message = NULL}, /* quant_storage */
        {.part = "", .type = DTYPE_COUNT, .message = "no codes"},
        {.part = "", .type = DTYPE_U8, .elements = 65, .message = "needs 64"},
        {.part = ".absmax", .type = DTYPE_COUNT, .message = "lacks \".absmax\""},
        {.part = ".absmax", .type = DTYPE_F32, .elements = 2, .message = "not U8"},
        {.part = ".absmax", .type = DTYPE_U8, .elements = 3, .message = "with 2 values"},
        {.part = ".quant_map",
         .type = DTYPE_F32,
         .elements = 17,
         .fill = 1,
         .message = "with 16"},
        {.part = ".quant_map",
         .type = DTYPE_F32,
         .elements = 16,
         .fill = NAN,
         .message = "not finite"},
        {.part = ".nested_absmax", .type = DTYPE_COUNT, .message = "lacks"},
        {.part = ".nested_absmax",
         .type = DTYPE_F32,
         .elements = 1,
         .fill = INFINITY,
         .message = "not finite"},
        {.part = ".nested_quant_map",
         .type = DTYPE_F32,
         .elements = 255,
         .message = "with 256"},
        {.part = ".quant_state.bitsandbytes__nf4",
         .type = DTYPE_F32,
         .elements = 4,
         .message = "bytes of JSON"},
        {.state = "{", .message = "bitsandbytes__nf4"},
        {.state = "[]", .message = "must be an object"},
        {.state = STATE("\"fp4\"", "64", "\"float16\"", "[64, 2]", NESTED),
         .message = "quant_type"},
        {.state = STATE("3", "64", "\"float16\"", "[64, 2]", NESTED), .message = "quant_type"},
        {.state = STATE("\"nf4\"", "63", "\"float16\"", "[64, 2]", NESTED),
         .message = "blocksize"},
        {.state = STATE("\"nf4\"", "8192", "\"float16\"", "[64, 2]", NESTED),
         .message = "blocksize"},
        {.state = STATE("\"nf4\"", "64.0", "\"float16\"", "[64, 2]", NESTED),
         .message = "blocksize"},
        {.state = STATE("\"nf4\"", "64", "\"int8\"", "[64, 2]", NESTED), .message = "dtype"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64]", NESTED), .message = "shape"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[0, 2]", NESTED), .message = "shape"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"",
                        "[9223372036854775807, 9223372036854775807]", NESTED),
         .message = "impossible"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 4]", NESTED),
         .message = "needs 128"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]", ", \"extra\": 1"),
         .message = "\"extra\""},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]",
                        ", \"nested_dtype\": \"float32\""),
         .message = "four keys"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]", ""), .message = "not F32"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]",
                        ", \"nested_blocksize\": 128, \"nested_dtype\": \"float32\", "
                        "\"nested_offset\": 2.5"),
         .message = "nested_blocksize"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]",
                        ", \"nested_blocksize\": 256, \"nested_dtype\": \"float16\", "
                        "\"nested_offset\": 2.5"),
         .message = "nested_dtype"},
        {.state = STATE("\"nf4\"", "64", "\"float16\"", "[64, 2]",
                        ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", "
                        "\"nested_offset\": 1e300"),
         .message = "nested_offset"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) try_bnb(changes[i]);
}

static void eight_bit_weights_are_named(void **state) {
    const char *folder = scratch_folder("scb");
    char path[600], data[6] = {0};
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(
        rename(make("{\"q.SCB\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                    "\"q.weight\":{\"dtype\":\"I8\",\"shape\":[1,2],\"data_offsets\":[4,6]}}",
                    data, 6),
               path),
        0);
    model_files m;
    bnb_weight w;
    bool found;
    assert_ok(model_files_open(&m, folder));
    assert_fails(bnb_find(&m, "q.weight", &w, &found), STATUS_MODEL, "8 bits");
    model_files_close(&m);
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
        cmocka_unit_test(reads_the_real_librarys_adapters),
        cmocka_unit_test(adapters_round_trip),
        cmocka_unit_test(what_is_not_plain_lora_is_refused),
        cmocka_unit_test(patterns_and_targets),
        cmocka_unit_test(wrong_keys_are_refused),
        cmocka_unit_test(bf16_adapters_are_widened),
        cmocka_unit_test(four_bit_weights_round_trip),
        cmocka_unit_test(malformed_four_bit_weights_are_refused),
        cmocka_unit_test(eight_bit_weights_are_named),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
