/* test_faults_checkpoint.c: rows 1, 2, 4, 5 and 6 of the fault table for one checkpoint at a
 * time: nothing that happens to the disk, the memory, the process or the files loses the last
 * good one, or loads a wrong one. The whole program is under test in tests/run/faults.py. */
#include "checkpoint_fixture.h"
#include "checkpoints/hdf5_file.h"
#include "checkpoints/manifest.h"
#include "common/log.h"
#include "hostile_hdf5.h"

#include <errno.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

/* ---- damage ---- */

/* How often libhdf5 was let at the checkpoint under test. */
static int seen_by_library;
status __real_hdf5_list(const char *path, hdf5_entry **entries, size_t *count);
status __wrap_hdf5_list(const char *path, hdf5_entry **entries, size_t *count);
status __wrap_hdf5_list(const char *path, hdf5_entry **entries, size_t *count) {
    seen_by_library += strstr(path, "step-000002") != NULL;
    return __real_hdf5_list(path, entries, count);
}

/* Two checkpoints in a folder; the bytes of the second, which a test damages. */
typedef struct victim {
    char dir[512], data[600], manifest[600];
    char *good, *good_manifest;
    size_t bytes, manifest_bytes;
} victim;

static void victim_make(victim *v, const char *name) {
    folder_for(v->dir, name);
    assert_ok(save(v->dir, 1, 0));
    assert_ok(save(v->dir, 2, 0));
    snprintf(v->data, sizeof v->data, "%s/checkpoints/step-000002.h5", v->dir);
    snprintf(v->manifest, sizeof v->manifest, "%s/checkpoints/step-000002.json", v->dir);
    v->good = get_file(v->data, &v->bytes);
    v->good_manifest = get_file(v->manifest, &v->manifest_bytes);
    expect_newest(v->dir, 2);
    seen_by_library = 0;
    log_quiet(true);
}

/* Undamaged, it is the newest again. */
static void victim_end(victim *v) {
    assert_int_equal(seen_by_library, 0);
    put_file(v->data, v->good, v->bytes);
    put_file(v->manifest, v->good_manifest, v->manifest_bytes);
    expect_newest(v->dir, 2);
    log_quiet(false);
    free(v->good), free(v->good_manifest);
}

static void row05_truncations(void **unused) {
    victim v;
    uint64_t seed = 5;
    victim_make(&v, "cut");
    for (int t = 0; t < trials(60, 1000); t++) {
        put_file(v.data, v.good, t < 30 ? (size_t)t * 64 : noise(&seed) % v.bytes);
        expect_newest(v.dir, 1);
    }
    victim_end(&v);
}

static void row05_bit_flips(void **unused) {
    victim v;
    uint64_t seed = 6;
    victim_make(&v, "flips");
    put_file(v.data, v.good, v.bytes);
    for (int t = 0; t < trials(200, 10000); t++) {
        put_file(v.data, v.good, v.bytes);
        spoil(v.data, noise(&seed), (int)(noise(&seed) % 8));
        expect_newest(v.dir, 1);
    }
    victim_end(&v);
}

/* One to eight bytes of what is no tensor become others: superblock, heaps, headers, trees. */
static void row05_metadata_mutations(void **unused) {
    victim v;
    uint64_t seed = 7;
    hdf5_entry *entries;
    size_t count, places = 0;
    victim_make(&v, "mutations");
    assert_ok(__real_hdf5_list(v.data, &entries, &count));
    size_t *place = malloc(v.bytes * sizeof *place);
    for (size_t at = 0; at < v.bytes; at++) {
        bool data = false;
        for (size_t i = 0; i < count; i++)
            data |= (int64_t)at >= entries[i].offset &&
                    (int64_t)at < entries[i].offset + entries[i].bytes;
        if (!data) place[places++] = at;
    }
    hdf5_entries_free(entries, count);
    assert_true(places > 500);
    for (int t = 0; t < trials(200, 10000); t++) {
        char *copy = malloc(v.bytes);
        memcpy(copy, v.good, v.bytes);
        for (uint64_t k = 0, n = 1 + noise(&seed) % 8; k < n; k++)
            copy[place[noise(&seed) % places]] ^= (char)(1 + noise(&seed) % 255);
        bool changed = memcmp(copy, v.good, v.bytes) != 0; /* the same byte twice, undone */
        put_file(v.data, copy, v.bytes);
        free(copy);
        if (changed) expect_newest(v.dir, 1);
    }
    free(place);
    victim_end(&v);
}

/* The manifest: what it says, or not used. */
static void row05_manifest_flips(void **unused) {
    victim v;
    uint64_t seed = 8;
    int rejected = 0;
    json_t *meant, *now;
    victim_make(&v, "manifest");
    assert_ok(json_read_file(v.manifest, 1 << 20, STATUS_DATA, &meant));
    for (int t = 0; t < trials(300, 10000); t++) {
        put_file(v.manifest, v.good_manifest, v.manifest_bytes);
        spoil(v.manifest, noise(&seed), (int)(noise(&seed) % 8));
        checkpoint c;
        bool found;
        assert_ok(checkpoint_find(v.dir, &c, &found));
        assert_true(found);
        check_state(&c);
        if (c.step == 2) { /* a blank became another blank, at most */
            assert_ok(json_read_file(v.manifest, 1 << 20, STATUS_DATA, &now));
            assert_true(json_equal(meant, now));
            json_decref(now);
        } else
            rejected++;
        checkpoint_close(&c);
    }
    json_decref(meant);
    assert_true(rejected > 200);
    seen_by_library = 0;
    victim_end(&v);
}

static void row05_lost_files(void **unused) {
    victim v;
    victim_make(&v, "lost");
    unlink(v.data);
    expect_newest(v.dir, 1);
    unlink(scratch("lost/checkpoints/step-000001.h5"));
    checkpoint c;
    bool found;
    assert_fails(checkpoint_find(v.dir, &c, &found), STATUS_MODEL,
                 "none of the 2 checkpoints");
    victim_end(&v);
}

/* ---- hostile HDF5 under a manifest that vouches for it ---- */

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

/* Opens it in a process of its own, which may use a second and 64 MB. */
static void expect_refused(const char *path, int kind, const char *part) {
    enum { MOST_KB = 64 << 10 };
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        checkpoint c;
        status s = checkpoint_open(path, &c);
        if (s == STATUS_MODEL && strstr(status_message(), part)) _exit(0);
        print_error("hostile file %d: status %d, %s\n", kind, s, status_message());
        _exit(1);
    }
    int how;
    struct rusage used;
    assert_int_equal(wait4(child, &how, 0, &used), child);
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_int_equal(how, 0);
    double seconds =
        (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    assert_true(seconds < 1);
#ifndef __SANITIZE_ADDRESS__
    assert_true(used.ru_maxrss < MOST_KB);
#endif
}

/* step-000002.h5 with a "json" as it must be, and hostile thing number `kind`; returns the words that
 * refuse it, NULL for none. */
static const char *write_hostile(const char *dir, const char *data, int kind) {
    unlink(data);
    hid_t f = H5Fcreate(data, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hsize_t one[2] = {1, 2};
    hid_t early = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(early, H5D_ALLOC_TIME_EARLY);
    hid_t set = hostile_set(f, "json", H5T_STD_U8LE, 2, one, early);
    H5Dwrite(set, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, "{}");
    H5Dclose(set);
    const char *part = kind < HOSTILE_THINGS ? hostile_add(f, kind) : NULL;
    H5Fclose(f);
    vouch(dir);
    return part;
}

static void row06_hostile_hdf5(void **unused) {
    char dir[512], data[600];
    checkpoint c;
    folder_for(dir, "hostile");
    assert_ok(save(dir, 1, 0));
    snprintf(data, sizeof data, "%s/checkpoints/step-000002.h5", dir);
    log_quiet(true);
    for (int kind = 0; kind < HOSTILE_THINGS; kind++) {
        const char *part = write_hostile(dir, data, kind);
        expect_refused(data, kind, part);
        expect_newest(dir, 1);
    }
    write_hostile(dir, data, HOSTILE_THINGS); /* without one it opens */
    assert_ok(checkpoint_open(data, &c));
    checkpoint_close(&c);
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
static void row02_every_kth_write(void **unused) {
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

static void row04_every_kth_allocation(void **unused) {
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
static void row02_full_disk(void **unused) {
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
static void row01_kills_while_saving(void **unused) {
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

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(row01_kills_while_saving),
        cmocka_unit_test(row02_every_kth_write),
        cmocka_unit_test(row02_full_disk),
        cmocka_unit_test(row04_every_kth_allocation),
        cmocka_unit_test(row05_truncations),
        cmocka_unit_test(row05_bit_flips),
        cmocka_unit_test(row05_metadata_mutations),
        cmocka_unit_test(row05_manifest_flips),
        cmocka_unit_test(row05_lost_files),
        cmocka_unit_test(row06_hostile_hdf5),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
