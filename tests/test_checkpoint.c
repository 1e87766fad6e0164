/* test_checkpoint.c: training checkpoints: what is saved comes back, old ones go in order, other
 * formats and other bases are named. Faults and hostile files: test_faults_checkpoint.c. */
#include "checkpoints/checkpoint.h"
#include "checkpoints/hdf5_file.h"
#include "checkpoints/identity.h"
#include "checkpoints/lock.h"
#include "checkpoints/manifest.h"
#include "common/log.h"
#include "checkpoint_fixture.h"

#include <sys/wait.h>

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

/* ---- what is refused ---- */

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
        cmocka_unit_test(other_versions_and_formats_are_named),
        cmocka_unit_test(one_run_per_folder),
        cmocka_unit_test(a_base_is_known_by_its_bytes),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
