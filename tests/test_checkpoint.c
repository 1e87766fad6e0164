/* test_checkpoint.c: training checkpoints: what is saved comes back, and nothing that happens
 * to the disk, the memory, the process or the files loses the last good one or loads a wrong
 * one. */
#include "checkpoints/checkpoint.h"
#include "checkpoints/hdf5_file.h"
#include "checkpoints/identity.h"
#include "checkpoints/lock.h"
#include "checkpoints/manifest.h"
#include "common/log.h"
#include "scratch.h"

#include <errno.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

/* ---- one small state, a function of the step ---- */

enum { WIDE = 700, TENSORS = 5 };
typedef struct state {
    float masters[3 * WIDE], first[3 * WIDE];
    uint8_t codes[WIDE];
    uint16_t working[WIDE];
    float paged[5000];
} state_t;

static const tensor_format formats[TENSORS] = {
    {.type = DTYPE_F32, .rows = 3, .cols = WIDE},
    {.type = DTYPE_F32, .rows = 3, .cols = WIDE},
    {.type = DTYPE_U8, .rows = 1, .cols = WIDE},
    {.type = DTYPE_BF16, .rows = WIDE, .cols = 1},
    {.type = DTYPE_F32, .rows = 1, .cols = 5000},
};
static const char *const names[TENSORS] = {"model.layers.0.q_proj.lora_A.weight", "adam/first",
                                           "adam.codes", "working", "paged"};

static void fill(state_t *s, int64_t step) {
    uint64_t seed = (uint64_t)step;
    for (size_t i = 0; i < sizeof *s / 8; i++) {
        uint64_t x = noise(&seed);
        memcpy((char *)s + 8 * i, &x, 8);
    }
}

static status fetch(void *context, int64_t first, int64_t bytes, void *out) {
    memcpy(out, (char *)((state_t *)context)->paged + first, (size_t)bytes);
    return STATUS_OK;
}

static void list_tensors(state_t *s, named_tensor t[TENSORS]) {
    const void *data[TENSORS] = {s->masters, s->first, s->codes, s->working, NULL};
    for (int i = 0; i < TENSORS; i++) {
        t[i] = (named_tensor){.name = names[i], .format = formats[i], .data = data[i]};
        if (i == 1) t[i].name = "adam.first"; /* '/' is not for names */
        if (!data[i]) t[i].read = fetch, t[i].context = s;
    }
}

static status save(const char *dir, int64_t step, int keep) {
    static state_t s;
    named_tensor t[TENSORS];
    fill(&s, step);
    list_tensors(&s, t);
    json_t *content = json_pack("{s:I, s:s, s:{s:f}}", "step", (json_int_t)step, "note", "π",
                                "config", "lr", 3e-4);
    if (!content) return status_fail(STATUS_MEMORY, "out of memory");
    status done = checkpoint_save(dir, step, content, t, TENSORS, keep);
    json_decref(content);
    return done;
}

/* What was opened is exactly the state of its step. */
static void check_state(const checkpoint *c) {
    static state_t want, got;
    fill(&want, c->step);
    void *out[TENSORS] = {got.masters, got.first, got.codes, got.working, got.paged};
    for (int i = 0; i < TENSORS; i++)
        assert_ok(checkpoint_read(c, i == 1 ? "adam.first" : names[i], &formats[i], out[i]));
    assert_memory_equal(&got, &want, sizeof got);
    assert_int_equal(json_integer_value(json_object_get(c->content, "step")), c->step);
    assert_string_equal(json_string_value(json_object_get(c->content, "note")), "π");
}

/* The newest usable checkpoint is that of `step` and whole. */
static void expect_newest(const char *dir, int64_t step) {
    checkpoint c;
    bool found;
    assert_ok(checkpoint_find(dir, &c, &found));
    assert_true(found);
    assert_int_equal(c.step, step);
    check_state(&c);
    checkpoint_close(&c);
}

static int files_in(const char *dir, const char *ending) {
    char folder[600], **list;
    size_t count;
    int n = 0;
    snprintf(folder, sizeof folder, "%s/checkpoints", dir);
    assert_ok(file_list(folder, &list, &count));
    for (size_t i = 0; i < count; i++) {
        size_t a = strlen(list[i]), b = strlen(ending);
        n += a >= b && !strcmp(list[i] + a - b, ending);
    }
    file_list_free(list, count);
    return n;
}

static void folder_for(char dir[512], const char *name) {
    snprintf(dir, 512, "%s", scratch_folder(name));
}

/* ---- saving and loading ---- */

static void saves_and_loads(void **unused) {
    char dir[512];
    folder_for(dir, "plain");
    checkpoint c;
    bool found = true;
    size_t before = mem_blocks();
    assert_ok(checkpoint_find(dir, &c, &found));
    assert_false(found);
    assert_fails(checkpoint_open(dir, &c), STATUS_MODEL, "holds no checkpoint");
    assert_ok(save(dir, 7, 0));
    expect_newest(dir, 7);
    assert_int_equal(files_in(dir, ".tmp"), 0);
    static const char *const ways[] = {"", "/checkpoints", "/checkpoints/step-000007.json",
                                       "/checkpoints/step-000007.h5"};
    for (int i = 0; i < 4; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s%s", dir, ways[i]);
        assert_ok(checkpoint_open(path, &c));
        check_state(&c);
        checkpoint_close(&c);
    }
    checkpoint_close(&c);
    assert_int_equal(mem_blocks(), before);
}

static void exact_types_and_shapes_only(void **unused) {
    char dir[512];
    folder_for(dir, "shapes");
    assert_ok(save(dir, 1, 0));
    checkpoint c;
    static float out[3 * WIDE];
    assert_ok(checkpoint_open(dir, &c));
    assert_true(checkpoint_has(&c, names[0]));
    assert_false(checkpoint_has(&c, "no-such"));
    assert_fails(checkpoint_read(&c, "no-such", &formats[0], out), STATUS_MODEL, "no-such");
    tensor_format f = formats[0];
    f.rows = WIDE, f.cols = 3;
    assert_fails(checkpoint_read(&c, names[0], &f, out), STATUS_MODEL,
                 "this run wants f32 [700, 3]");
    f = formats[0], f.type = DTYPE_I32;
    assert_fails(checkpoint_read(&c, names[0], &f, out), STATUS_MODEL, "this run wants i32");
    float part[10];
    static state_t want;
    fill(&want, 1);
    assert_ok(checkpoint_read_part(&c, names[0], &formats[0], 4 * 333, sizeof part, part));
    assert_memory_equal(part, want.masters + 333, sizeof part);
    assert_fails(checkpoint_read_part(&c, names[0], &formats[0], 4 * 2099, 8, part),
                 STATUS_INTERNAL, "bytes");
    checkpoint_close(&c);
}

static void old_ones_are_pruned_in_order_of_saving(void **unused) {
    char dir[512];
    folder_for(dir, "prune");
    for (int64_t step = 10; step <= 50; step += 10) assert_ok(save(dir, step, 2));
    assert_int_equal(files_in(dir, ".json"), 2);
    assert_int_equal(files_in(dir, ".h5"), 2);
    expect_newest(dir, 50);
    assert_ok(save(dir, 50, 2)); /* the same step again replaces it */
    assert_int_equal(files_in(dir, ".json"), 2);
    assert_int_equal(files_in(dir, ".h5"), 2);
    expect_newest(dir, 50);
    assert_ok(
        save(dir, 45, 2)); /* a run that went back: the newest save counts, not the step */
    expect_newest(dir, 45);
    assert_ok(save(dir, 46, 1));
    expect_newest(dir, 46);
    assert_int_equal(files_in(dir, ".json"), 1);
    assert_int_equal(files_in(dir, ".h5"), 1);
    put_text(scratch("prune/checkpoints/step-000099.h5"), "an orphan");
    put_text(scratch("prune/checkpoints/step-000099.h5.tmp"), "a leftover");
    put_text(scratch("prune/checkpoints/notes.txt"), "not ours");
    assert_ok(save(dir, 47, 0));
    assert_int_equal(files_in(dir, ".h5"), 2);
    assert_int_equal(files_in(dir, ".tmp"), 0);
    assert_true(file_exists(scratch("prune/checkpoints/notes.txt")));
}

static void the_same_state_gives_the_same_file(void **unused) {
    char a[512], b[512];
    folder_for(a, "same-a"), folder_for(b, "same-b");
    assert_ok(save(a, 3, 0));
    assert_ok(save(b, 3, 0));
    size_t n, m;
    char *x = get_file(scratch("same-a/checkpoints/step-000003.h5"), &n);
    char *y = get_file(scratch("same-b/checkpoints/step-000003.h5"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x), free(y);
}

static status failing_fetch(void *context, int64_t first, int64_t bytes, void *out) {
    return status_fail(STATUS_DEVICE, "the page is lost");
}

static void what_cannot_be_saved_is_said(void **unused) {
    char dir[512];
    folder_for(dir, "refused");
    assert_ok(save(dir, 1, 0));
    static float x[4];
    json_t *content = json_object();
    named_tensor t[2] = {{.name = "a", .format = format_of(DTYPE_F32, 2, 2), .data = x},
                         {.name = "a", .format = format_of(DTYPE_F32, 2, 2), .data = x}};
    assert_fails(checkpoint_save(dir, 2, content, t, 2, 1), STATUS_IO, "name already exists");
    t[1].name = "b/c";
    assert_fails(checkpoint_save(dir, 2, content, t, 2, 1), STATUS_INTERNAL, "b/c");
    t[1].name = "b", t[1].format.rows = 0;
    assert_fails(checkpoint_save(dir, 2, content, t, 2, 1), STATUS_INTERNAL, "\"b\"");
    t[1].format = format_of(DTYPE_F32, 1ll << 40, 1 << 10);
    assert_fails(checkpoint_save(dir, 2, content, t, 2, 1), STATUS_IO, "make room there");
    t[1].format = format_of(DTYPE_F32, 2, 2), t[1].data = NULL, t[1].read = failing_fetch;
    assert_fails(checkpoint_save(dir, 2, content, t, 2, 1), STATUS_DEVICE, "the page is lost");
    json_decref(content);
    assert_int_equal(files_in(dir, ".tmp"), 0);
    assert_int_equal(files_in(dir, ".h5"), 1);
    expect_newest(dir, 1);
}

/* ---- damage ---- */

static void spoil(const char *path, size_t at, int bit) {
    size_t n;
    char *data = get_file(path, &n);
    data[at % n] ^= (char)(1 << bit);
    put_file(path, data, n);
    free(data);
}

static void truncations_and_bit_flips_are_never_loaded(void **unused) {
    char dir[512], data[600], manifest_path[600];
    folder_for(dir, "damage");
    assert_ok(save(dir, 1, 0));
    assert_ok(save(dir, 2, 0));
    snprintf(data, sizeof data, "%s/checkpoints/step-000002.h5", dir);
    snprintf(manifest_path, sizeof manifest_path, "%s/checkpoints/step-000002.json", dir);
    size_t n, m;
    char *good = get_file(data, &n), *good_manifest = get_file(manifest_path, &m);
    uint64_t seed = 5;
    log_quiet(true);
    for (int t = 0; t < trials(60, 1000); t++) {
        put_file(data, good, t < 30 ? (size_t)t * 64 : noise(&seed) % n);
        expect_newest(dir, 1);
    }
    for (int t = 0; t < trials(300, 10000); t++) {
        put_file(data, good, n);
        size_t at =
            t % 2 ? noise(&seed) % 4096 : noise(&seed) % n; /* half of them in metadata */
        spoil(data, at, (int)(noise(&seed) % 8));
        expect_newest(dir, 1);
    }
    put_file(data, good, n);
    int rejected = 0;
    json_t *meant, *now;
    assert_ok(json_read_file(manifest_path, 1 << 20, STATUS_DATA, &meant));
    for (int t = 0; t < trials(300, 3000); t++) { /* the manifest: what it says, or not used */
        put_file(manifest_path, good_manifest, m);
        spoil(manifest_path, noise(&seed), (int)(noise(&seed) % 8));
        checkpoint c;
        bool found;
        assert_ok(checkpoint_find(dir, &c, &found));
        assert_true(found);
        check_state(&c);
        if (c.step == 2) { /* a blank became another blank, at most */
            assert_ok(json_read_file(manifest_path, 1 << 20, STATUS_DATA, &now));
            assert_true(json_equal(meant, now));
            json_decref(now);
        } else
            rejected++;
        checkpoint_close(&c);
    }
    json_decref(meant);
    assert_true(rejected > 200);
    put_file(manifest_path, good_manifest, m);
    expect_newest(dir, 2);
    unlink(data);
    expect_newest(dir, 1);
    unlink(scratch("damage/checkpoints/step-000001.h5"));
    checkpoint c;
    bool found;
    assert_fails(checkpoint_find(dir, &c, &found), STATUS_MODEL, "none of the 2 checkpoints");
    log_quiet(false);
    free(good), free(good_manifest);
}

static void other_versions_and_formats_are_named(void **unused) {
    char dir[512], path[600];
    folder_for(dir, "version");
    assert_ok(save(dir, 1, 0));
    snprintf(path, sizeof path, "%s/checkpoints/step-000001.json", dir);
    json_t *json;
    checkpoint c;
    assert_ok(json_read_file(path, 1 << 20, STATUS_DATA, &json));
    static const struct {
        const char *key, *value, *part;
        bool vouched; /* with a fitting "check" */
    } cases[] = {
        {"version", "2", "has version 2", false},
        {"version", "null", "not a manifest", false},
        {"format", "\"other\"", "not a manifest", false},
        {"step", "3", "changed after", false},
        {"check", "null", "changed after", false},
        {"file", "\"../x\"", "malformed", true},
        {"file", "\"x\"", "cannot open", true},
        {"bytes", "3", "its manifest says 3", true},
        {"xxh3_128", "\"00\"", "malformed", true},
        {"xxh3_128", "\"00000000000000000000000000000000\"", "not those that were written",
         true},
        {"step", "-1", "malformed", true},
        {"save", "0", "malformed", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *changed = json_copy(json), *value;
        assert_ok(
            json_read_text(cases[i].value, strlen(cases[i].value), "", STATUS_DATA, &value));
        json_object_set_new(changed, cases[i].key, value);
        if (cases[i].vouched) {
            json_object_del(changed, "check");
            hash128 none = {0, 0};
            assert_ok(manifest_write(path, "", 1, "", 0, none, changed));
        } else {
            char *text = json_write_text(changed, 0);
            put_text(path, text);
            mem_free(text);
        }
        assert_fails(checkpoint_open(path, &c), STATUS_MODEL, cases[i].part);
        json_decref(changed);
    }
    json_decref(json);
}

/* ---- hostile HDF5 under a manifest that vouches for it ---- */

static hid_t hostile_set(hid_t f, const char *name, hid_t type, int rank, const hsize_t *dims,
                         hid_t properties) {
    hid_t space = H5Screate_simple(rank, dims, NULL);
    hid_t set = H5Dcreate2(f, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    H5Sclose(space);
    return set;
}

/* Adds hostile thing number `kind` to an open file; NULL when there are no more. */
static const char *add_hostile(hid_t f, int kind) {
    hsize_t dims[3] = {4, 4, 4};
    hid_t early = H5Pcreate(H5P_DATASET_CREATE), p = H5Pcopy(early), t;
    H5Pset_alloc_time(early, H5D_ALLOC_TIME_EARLY);
    switch (kind) {
    case 0:
        H5Lcreate_soft("/json", f, "x", H5P_DEFAULT, H5P_DEFAULT);
        return "link";
    case 1:
        H5Lcreate_external("/etc/passwd", "/a", f, "x", H5P_DEFAULT, H5P_DEFAULT);
        return "link";
    case 2:
        H5Lcreate_hard(f, "json", f, "x", H5P_DEFAULT, H5P_DEFAULT);
        return "overlaps";
    case 3:
        H5Gclose(H5Gcreate2(f, "x", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
        return "not a dataset";
    case 4: /* another file's bytes as ours */
        H5Pset_external(p, "/etc/passwd", 0, 16);
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 2, dims, p));
        return "in another file";
    case 5:
        H5Pset_chunk(p, 2, dims);
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 2, dims, p));
        return "one piece";
    case 6:
        H5Pset_chunk(p, 2, dims);
        H5Pset_shuffle(p);
        H5Pset_fletcher32(p);
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 2, dims, p));
        return "one piece";
    case 7:
        H5Pset_layout(p, H5D_COMPACT);
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 2, dims, p));
        return "one piece";
    case 8: /* nine petabytes, never allocated */
        dims[0] = dims[1] = 100000000;
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 2, dims, p));
        return "inside the file";
    case 9:
        dims[0] = 1ull << 31, dims[1] = 1ull << 22; /* 2^56 bytes */
        H5Dclose(hostile_set(f, "x", H5T_IEEE_F64LE, 2, dims, p));
        return "inside the file";
    case 10:
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 3, dims, early));
        return "no matrix";
    case 11:
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 1, dims, early));
        return "no matrix";
    case 12:
        H5Dclose(hostile_set(f, "x", H5T_IEEE_F32BE, 2, dims, early));
        return "type";
    case 13:
        H5Dclose(hostile_set(f, "x", H5T_STD_I64LE, 2, dims, early));
        return "type";
    case 14:
        t = H5Tcopy(H5T_C_S1);
        H5Tset_size(t, H5T_VARIABLE);
        H5Dclose(hostile_set(f, "x", t, 2, dims, early));
        H5Tclose(t);
        return "type";
    case 15:
        t = H5Tcreate(H5T_COMPOUND, 4);
        H5Tinsert(t, "f", 0, H5T_IEEE_F32LE);
        H5Dclose(hostile_set(f, "x", t, 2, dims, early));
        H5Tclose(t);
        return "type";
    case 16:
        t = H5Tcopy(H5T_IEEE_F32LE);
        H5Tcommit2(f, "x", t, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        H5Tclose(t);
        return "not a dataset";
    case 17: { /* virtual storage: a view of another file */
        hid_t space = H5Screate_simple(2, dims, NULL);
        H5Pset_virtual(p, space, "/etc/passwd", "a", space);
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 2, dims, p));
        H5Sclose(space);
        return "one piece";
    }
    case 18: {
        hid_t set = hostile_set(f, "x", H5T_STD_U8LE, 2, dims, early),
              space = H5Screate(H5S_SCALAR);
        H5Aclose(H5Acreate2(set, "a", H5T_STD_U8LE, space, H5P_DEFAULT, H5P_DEFAULT));
        H5Sclose(space);
        H5Dclose(set);
        return "attributes";
    }
    case 19:
        H5Dclose(hostile_set(f, "x", H5T_STD_U8LE, 2, dims, p));
        return "inside the file";
    default:
        return NULL;
    }
}

/* A manifest for whatever step-000002.h5 holds now. */
static void vouch(const char *dir) {
    char data[600], path[600];
    snprintf(data, sizeof data, "%s/checkpoints/step-000002.h5", dir);
    snprintf(path, sizeof path, "%s/checkpoints/step-000002.json", dir);
    size_t n;
    char *bytes = get_file(data, &n);
    json_t *more = json_pack("{s:i, s:i}", "step", 2, "save", 9);
    assert_ok(manifest_write(path, "nibble-checkpoint", CHECKPOINT_VERSION, "step-000002.h5",
                             (int64_t)n, hash_bytes(bytes, n), more));
    json_decref(more);
    free(bytes);
}

static void hostile_files_are_refused(void **unused) {
    char dir[512], data[600];
    folder_for(dir, "hostile");
    assert_ok(save(dir, 1, 0));
    snprintf(data, sizeof data, "%s/checkpoints/step-000002.h5", dir);
    log_quiet(true);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    int kind = 0;
    for (;; kind++) {
        unlink(data);
        hid_t f = H5Fcreate(data, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
        hsize_t one[2] = {1, 2};
        hid_t early = H5Pcreate(H5P_DATASET_CREATE);
        H5Pset_alloc_time(early, H5D_ALLOC_TIME_EARLY);
        hid_t set = hostile_set(f, "json", H5T_STD_U8LE, 2, one, early);
        H5Dwrite(set, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, "{}");
        H5Dclose(set);
        const char *part = add_hostile(f, kind);
        H5Fclose(f);
        vouch(dir);
        checkpoint c;
        if (!part) { /* without the hostile thing it opens: the refusals are for the right
                        reason */
            assert_ok(checkpoint_open(data, &c));
            checkpoint_close(&c);
            break;
        }
        status s = checkpoint_open(data, &c);
        if (s != STATUS_MODEL || !strstr(status_message(), part))
            fail_msg("hostile file %d: status %d, %s", kind, s, status_message());
        expect_newest(dir, 1);
    }
    assert_int_equal(kind, 20);
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true(end.tv_sec - start.tv_sec < 10);
    put_text(data, "{\"not\": \"HDF5\"}");
    vouch(dir);
    expect_newest(dir, 1);
    static const char zeros[600];
    put_file(data, zeros, sizeof zeros);
    vouch(dir);
    expect_newest(dir, 1);
    log_quiet(false);
}

/* ---- faults while saving ---- */

/* Every k-th write, fsync, rename: the save fails or is whole; the one before stays good. */
static void injected_faults_lose_nothing(void **unused) {
    static const int errors[] = {ENOSPC, EIO, EFBIG};
    char dir[512];
    log_quiet(true);
    for (int always = 0; always < 2; always++)
        for (int e = 0; e < 3; e++)
            for (uint64_t k = 1;; k++) {
                folder_for(dir, "faults");
                assert_ok(save(dir, 1, 1));
                uint64_t before = file_fault_count();
                file_fail_at(k, errors[e], always);
                status s = save(dir, 2, 1);
                bool reached = file_fault_count() - before >= k;
                file_fail_at(0, 0, false);
                assert_int_equal(files_in(dir, ".tmp"), 0);
                if (!reached) {
                    assert_int_equal(s, STATUS_OK);
                    assert_true(k > 12);
                    break;
                }
                assert_int_equal(s, STATUS_IO);
                /* the old one is there whatever happened to the new one */
                checkpoint c;
                assert_ok(checkpoint_open(scratch("faults/checkpoints/step-000001.json"), &c));
                check_state(&c);
                checkpoint_close(&c);
                bool found;
                assert_ok(checkpoint_find(dir, &c, &found));
                assert_true(found);
                check_state(&c);
                checkpoint_close(&c);
                assert_ok(save(dir, 3, 1)); /* space came back */
                expect_newest(dir, 3);
                assert_int_equal(files_in(dir, ".h5"), 1);
            }
    folder_for(dir, "faults");
    for (uint64_t k = 1; k < 20; k++) { /* these are no failures */
        file_fail_at(k, FILE_FAULT_SHORT, k % 2);
        assert_ok(save(dir, (int64_t)k, 2));
        file_fail_at(k, EINTR, k % 2);
        assert_ok(save(dir, (int64_t)k, 2));
        file_fail_at(0, 0, false);
        expect_newest(dir, (int64_t)k);
    }
    log_quiet(false);
}

static void allocation_failures_lose_nothing(void **unused) {
    char dir[512];
    size_t before = mem_blocks();
    log_quiet(true);
    for (int always = 0; always < 2; always++)
        for (uint64_t k = 1, more = 1; more; k++) {
            folder_for(dir, "memory");
            assert_ok(save(dir, 1, 0));
            uint64_t start = mem_count();
            mem_fail_at(k, always);
            status s = save(dir, 2, 2);
            more = mem_count() - start >= k;
            mem_fail_at(0, 0);
            assert_int_equal(mem_blocks(), before);
            if (!more || s != STATUS_MEMORY)
                assert_int_equal(s, STATUS_OK); /* or pruning failed */
            checkpoint c;
            assert_ok(checkpoint_open(scratch("memory/checkpoints/step-000001.json"), &c));
            check_state(&c);
            checkpoint_close(&c);
            bool found;
            assert_ok(checkpoint_find(dir, &c, &found));
            check_state(&c);
            checkpoint_close(&c);
        }
    expect_newest(dir, 2);
    for (uint64_t k = 1, more = 1; more; k++) {
        checkpoint c;
        bool found;
        uint64_t start = mem_count();
        mem_fail_at(k, k & 1);
        status s = checkpoint_find(dir, &c, &found);
        more = mem_count() - start >= k;
        mem_fail_at(0, 0);
        if (s == STATUS_OK) checkpoint_close(&c);
        assert_int_equal(s, more ? STATUS_MEMORY : STATUS_OK);
        assert_int_equal(mem_blocks(), before);
    }
    log_quiet(false);
}

/* libhdf5 leaks a little when its writes fail: not ours to mend. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5";
}

/* A real limit on file size, libhdf5's writes included: errors, no crash at exit. */
static void a_full_disk_is_an_error(void **unused) {
    char dir[512];
    folder_for(dir, "full");
    assert_ok(save(dir, 1, 1));
    size_t n;
    free(get_file(scratch("full/checkpoints/step-000001.h5"), &n));
    for (long limit = 0; limit < (long)n; limit += limit < 4096 ? 512 : 8192) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            log_quiet(true);
            signal(SIGXFSZ, SIG_IGN);
            struct rlimit r = {(rlim_t)limit, RLIM_INFINITY};
            setrlimit(RLIMIT_FSIZE, &r);
            status s = save(dir, 2, 1);
            r.rlim_cur = RLIM_INFINITY;
            setrlimit(RLIMIT_FSIZE, &r);
            bool failed = s == STATUS_IO;
            s = save(dir, 3, 2);                    /* the next one works */
            exit(failed && s == STATUS_OK ? 0 : 1); /* through libhdf5's exit, if it had one */
        }
        int how;
        waitpid(child, &how, 0);
        if (!WIFEXITED(how) || WEXITSTATUS(how))
            fail_msg("limit %ld: wait status %d", limit, how);
        expect_newest(dir, 3);
        assert_int_equal(files_in(dir, ".tmp"), 0);
    }
}

/* kill -9 at any moment of saving again and again. */
static void kills_lose_nothing(void **unused) {
    char dir[512];
    folder_for(dir, "kill");
    assert_ok(save(dir, 1, 2));
    uint64_t seed = 11;
    int64_t highest = 1;
    log_quiet(true);
    for (int t = 0; t < trials(40, 1000); t++) {
        int pipe_ends[2];
        assert_int_equal(pipe(pipe_ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            for (int64_t step = highest + 1;; step++) {
                if (save(dir, step, 2) != STATUS_OK) _exit(1);
                if (write(pipe_ends[1], &step, sizeof step) != sizeof step) _exit(1);
            }
        }
        close(pipe_ends[1]);
        usleep((useconds_t)(noise(&seed) % 40000));
        kill(child, SIGKILL);
        int how;
        waitpid(child, &how, 0);
        assert_true(WIFSIGNALED(how));
        for (int64_t step; read(pipe_ends[0], &step, sizeof step) == sizeof step;)
            highest = step;
        close(pipe_ends[0]);
        checkpoint c;
        bool found;
        assert_ok(checkpoint_find(dir, &c, &found));
        assert_true(found);
        assert_true(c.step == highest || c.step == highest + 1); /* committed, not yet said */
        check_state(&c);
        highest = c.step;
        checkpoint_close(&c);
    }
    assert_ok(save(dir, highest + 1, 2));
    assert_int_equal(files_in(dir, ".tmp"), 0);
    assert_int_equal(files_in(dir, ".json"), 2);
    assert_int_equal(files_in(dir, ".h5"), 2);
    log_quiet(false);
}

/* ---- the lock, the identity ---- */

static void one_run_per_folder(void **unused) {
    char dir[512], text[64];
    snprintf(dir, sizeof dir, "%s", scratch("locked/deep"));
    output_lock lock;
    assert_ok(output_lock_take(&lock, dir));
    size_t n, m;
    char *before = get_file(scratch("locked/deep/.lock"), &n);
    snprintf(text, sizeof text, "pid %ld on ", (long)getpid());
    assert_memory_equal(before, text, strlen(text));
    pid_t child = fork();
    if (!child) {
        output_lock second;
        status s = output_lock_take(&second, dir);
        _exit(s == STATUS_LOCKED && strstr(status_message(), text) ? 0 : 1);
    }
    int how;
    waitpid(child, &how, 0);
    assert_true(WIFEXITED(how) && !WEXITSTATUS(how));
    char *after = get_file(scratch("locked/deep/.lock"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(before, after, n);
    free(before), free(after);
    output_lock_release(&lock);
    output_lock_release(&lock);
    assert_ok(output_lock_take(&lock, dir)); /* a file left behind means nothing */
    output_lock_release(&lock);
    put_text(scratch("plainfile"), "x");
    assert_fails(output_lock_take(&lock, scratch("plainfile")), STATUS_IO, "plainfile");
}

static void a_base_is_known_by_its_bytes(void **unused) {
    need_fixtures();
    model_files a, b, whole;
    hash128 x, y, z;
    assert_ok(model_files_open(&a, FIXTURES "/models/stories260K/hf-bf16-sharded"));
    assert_ok(model_files_open(&whole, FIXTURES "/models/stories260K/hf-f32"));
    char command[2000];
    snprintf(command, sizeof command, "cp -r %s %s && chmod -R u+w %s",
             FIXTURES "/models/stories260K/hf-bf16-sharded", scratch("copy"), scratch("copy"));
    assert_int_equal(system(command), 0);
    assert_ok(model_files_open(&b, scratch("copy")));
    json_t *p, *q;
    assert_ok(identity_full(&a, &p));
    assert_ok(identity_full(&b, &q));
    assert_ok(identity_compare(p, q, "the checkpoint", "copy"));
    assert_ok(identity_quick(&a, &x));
    assert_ok(identity_quick(&b, &y));
    assert_ok(identity_quick(&whole, &z));
    assert_true(hash_equal(x, y) && !hash_equal(x, z));
    json_decref(q);
    model_tensor t;
    assert_ok(model_files_get(&b, "model.layers.1.mlp.up_proj.weight", &t));
    char path[1024];
    snprintf(path, sizeof path, "%s", t.file->file.path);
    size_t at = (size_t)t.entry->offset;
    model_files_close(&b);
    spoil(path, at, 0);
    assert_ok(model_files_open(&b, scratch("copy")));
    assert_ok(identity_full(&b, &q));
    assert_fails(identity_compare(p, q, "the checkpoint", "copy"), STATUS_MODEL,
                 "1 of 47 tensors");
    assert_non_null(strstr(status_message(), "model.layers.1.mlp.up_proj.weight"));
    assert_ok(identity_quick(&b, &y));
    assert_false(hash_equal(x, y)); /* the first block is among the samples */
    json_object_del(q, "model.norm.weight");
    json_object_set_new(q, "another", json_string("x"));
    assert_fails(identity_compare(p, q, "the checkpoint", "copy"), STATUS_MODEL,
                 "3 of 47 tensors");
    json_decref(p), json_decref(q);
    model_files_close(&a), model_files_close(&b), model_files_close(&whole);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saves_and_loads),
        cmocka_unit_test(exact_types_and_shapes_only),
        cmocka_unit_test(old_ones_are_pruned_in_order_of_saving),
        cmocka_unit_test(the_same_state_gives_the_same_file),
        cmocka_unit_test(what_cannot_be_saved_is_said),
        cmocka_unit_test(truncations_and_bit_flips_are_never_loaded),
        cmocka_unit_test(other_versions_and_formats_are_named),
        cmocka_unit_test(hostile_files_are_refused),
        cmocka_unit_test(injected_faults_lose_nothing),
        cmocka_unit_test(allocation_failures_lose_nothing),
        cmocka_unit_test(a_full_disk_is_an_error),
        cmocka_unit_test(kills_lose_nothing),
        cmocka_unit_test(one_run_per_folder),
        cmocka_unit_test(a_base_is_known_by_its_bytes),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
