/* test_files.c: which files a dataset's path means: patterns, the hub's naming of splits,
 * cards. tests/interop/files.py asks datasets itself. */
#include "scratch.h"

#include "data/files.h"
#include "data/glob.h"

static char folder[300];

/* A fresh folder with these files, in which their names stand; separated by spaces. */
static void make(const char *names) {
    char *list = strdup(names);
    snprintf(folder, sizeof folder, "%s", scratch_folder("dataset"));
    for (char *name = strtok(list, " "); name; name = strtok(NULL, " ")) {
        char *path = file_join(folder, name), *slash = strrchr(path, '/');
        *slash = 0;
        assert_ok(file_make_directories(path));
        *slash = '/';
        put_text(path, name);
        mem_free(path);
    }
    free(list);
}

static void write_card(const char *text) {
    char *path = file_join(folder, "README.md");
    put_text(path, text);
    mem_free(path);
}

/* The files found, relative to the folder, separated by spaces. */
static void expect_all(const char *name, const char *const *wanted, size_t count,
                       const char *split, const char *want) {
    file_names f;
    char got[1000] = "";
    assert_ok(files_find(&f, folder, name, wanted, count, split));
    for (size_t i = 0; i < f.count; i++)
        sprintf(got + strlen(got), "%s%s", i ? " " : "", f.items[i] + strlen(folder) + 1);
    files_free(&f);
    assert_string_equal(got, want);
}

static void expect(const char *split, const char *want) {
    expect_all(NULL, NULL, 0, split, want);
}

static void expect_none(const char *path, const char *name, const char *const *wanted,
                        size_t count, const char *split, const char *part) {
    file_names f;
    assert_fails(files_find(&f, path, name, wanted, count, split), STATUS_DATA, part);
    files_free(&f);
}

static void test_patterns(void **state) {
    static const struct {
        const char *pattern, *path;
        bool matches;
    } cases[] = {{"a.json", "a.json", true},
                 {"a.json", "b/a.json", false},
                 {"*.json", "a.json", true},
                 {"*.json", "b/a.json", false},
                 {"*", "a.json", true},
                 {"b/*", "b/a.json", true},
                 {"**", "a.json", true},
                 {"**", "b/c/a.json", true},
                 {"b/**", "b/c/a.json", true},
                 {"b/**", "b", false},
                 {"b/**/*.json", "b/a.json", true},
                 {"b/**/*.json", "b/c/d/a.json", true},
                 {"**/c/*", "b/c/a", true},
                 {"**/c/*", "c/a", true},
                 {"**/c/*", "b/a", false},
                 {"**/**", "a", true},
                 {"a?c", "abc", true},
                 {"a?c", "ac", false},
                 {"[a-c]x", "bx", true},
                 {"[!a-c]x", "bx", false},
                 {"[!a-c]x", "dx", true},
                 {"[]x]y", "]y", true},
                 {"[a-]y", "-y", true},
                 {"[ab", "[ab", true},
                 {"*-[0-9][0-9]-*", "x-1-22-3", true},
                 {"*a*b*c", "aXbXcXc", true},
                 {"*a*b*c", "aXbXcXd", false},
                 {"a*", "a", true},
                 {"", "a", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (glob_matches(cases[i].pattern, cases[i].path) != cases[i].matches)
            fail_msg("%s on %s", cases[i].pattern, cases[i].path);
    char stars[401], text[402];
    for (int i = 0; i < 400; i += 2) memcpy(stars + i, "*a", 2);
    memset(text, 'a', 401);
    stars[400] = 0, text[400] = 'b', text[401] = 0;
    assert_false(glob_matches(stars, text)); /* in time */
}

static void test_names_of_splits(void **state) {
    make("b.jsonl a.json README.md dataset_info.json .hidden.json __x/c.json notes.pdf");
    expect(NULL, "a.json b.jsonl");
    expect_none(folder, NULL, NULL, 0, "test",
                "no split `test` in its 2 data files, but: train");
    make("data/train-00000-of-00002-ab.parquet data/train-00001-of-00002.parquet "
         "data/test_sft-00000-of-00001.parquet data/other.parquet");
    expect("train[:3]",
           "data/train-00000-of-00002-ab.parquet data/train-00001-of-00002.parquet");
    expect("test_sft", "data/test_sft-00000-of-00001.parquet");
    expect_none(folder, NULL, NULL, 0, "test", "but: test_sft train");
    make("my_train.jsonl train2.jsonl test-set.jsonl dev.jsonl constrained.jsonl eval.jsonl");
    expect(NULL, "my_train.jsonl train2.jsonl");
    expect("test", "eval.jsonl test-set.jsonl");
    expect("validation", "dev.jsonl");
    make("train/a.csv x/Test/b.csv valid-1/c.csv a/testing/d.csv train.csv");
    expect(NULL, "train/a.csv");
    expect("test", "a/testing/d.csv");
    expect("validation", "valid-1/c.csv");
    make("default/train/0000.parquet default/train/0001.parquet default/test/0000.parquet");
    expect("test", "default/test/0000.parquet");
}

/* One set of rows in two formats is read once. */
static void test_formats(void **state) {
    make("a.jsonl a.parquet");
    expect(NULL, "a.parquet");
    make("a.jsonl b.jsonl a.parquet train.md");
    expect(NULL, "a.jsonl b.jsonl");
    make("a.jsonl.gz b.JSON c.csv");
    expect(NULL, "a.jsonl.gz b.JSON");
    make("picture.png");
    expect_none(folder, NULL, NULL, 0, NULL, "no data file");
}

static void test_data_files(void **state) {
    static const char *const one[] = {"b.jsonl"}, *const absent[] = {"c.jsonl"},
                             *const patterns[] = {"./y/*.jsonl", "a.dat"},
                             *const nothing[] = {"z*"}, *const directory[] = {"y"},
                             *const deep[] = {"**/*.jsonl"};
    make("b.jsonl a.dat y/2.jsonl y/1.jsonl y/1.txt");
    expect_all(NULL, one, 1, NULL, "b.jsonl");
    expect_all(NULL, patterns, 1, NULL, "y/1.jsonl y/2.jsonl");
    expect_all(NULL, deep, 1, NULL, "b.jsonl y/1.jsonl y/2.jsonl");
    expect_all(NULL, patterns + 1, 1, NULL, "a.dat");
    expect_none(folder, NULL, absent, 1, NULL, "no such file (data_files)");
    expect_none(folder, NULL, nothing, 1, NULL, "no file matches");
    expect_none(folder, NULL, directory, 1, NULL, "y/**");
    expect_none("json", NULL, NULL, 0, NULL, "data_files");
    file_names f;
    char full[400];
    const char *list[] = {full};
    snprintf(full, sizeof full, "%s/y/[12].jsonl", folder);
    assert_ok(files_find(&f, "json", NULL, list, 1, NULL));
    assert_int_equal(f.count, 2);
    files_free(&f);
    assert_ok(files_find(&f, full, NULL, NULL, 0, NULL));
    assert_int_equal(f.count, 2);
    files_free(&f);
    snprintf(full, sizeof full, "%s/b.jsonl", folder);
    expect_none(full, NULL, NULL, 0, "test", "one split");
    expect_none(scratch("nothing"), NULL, NULL, 0, NULL, "no such file");
    make("");
    expect_none(folder, NULL, NULL, 0, NULL, "no data file");
}

static const char several[] = "---\nlicense: mit\ntags: [a, &b c]\nconfigs:\n"
                              "- config_name: en\n"
                              "  data_files:\n"
                              "  - split: train\n"
                              "    path: en/t*.json\n"
                              "  - split: dev_x\n"
                              "    path:\n"
                              "    - en/d.json\n"
                              "    - en/e*\n"
                              "- config_name: 'fr'\n"
                              "  default: true\n"
                              "  data_files: fr.json\n"
                              "- config_name: dir\n"
                              "  data_dir: below\n"
                              "other: *b\n---\n# text\nconfigs: x\n";

static void test_cards(void **state) {
    make("en/t1.json en/t2.json en/d.json en/e1.json fr.json below/train.csv below/test.csv "
         "test/x.json sub/y.json");
    write_card(several);
    expect(NULL, "fr.json");
    expect_all("en", NULL, 0, NULL, "en/t1.json en/t2.json");
    expect_all("en", NULL, 0, "dev_x[:50%]", "en/d.json en/e1.json");
    expect_all("dir", NULL, 0, "test", "below/test.csv");
    expect_all("sub", NULL, 0, NULL, "sub/y.json");
    expect_none(folder, "en", NULL, 0, "test", "no split `test`; there are: train, dev_x");
    expect_none(folder, NULL, NULL, 0, "test", "there are: train");
    expect_none(folder, "de", NULL, 0, NULL, "no configuration `de`; there are: en, fr, dir");
    static const char *const one[] = {"fr.json"};
    expect_all(NULL, one, 1, NULL, "fr.json");
    write_card("---\nconfigs:\n- config_name: a\n  data_files: fr.json\n"
               "- config_name: b\n  data_files: [fr.json]\n---\n");
    expect_none(folder, NULL, NULL, 0, NULL,
                "choose one of its configurations with name: a, b");
    expect_all("b", NULL, 0, NULL, "fr.json");
    write_card("---\nconfigs:\n- config_name: only\n  data_files: 'en/*'\n---");
    expect(NULL, "en/d.json en/e1.json en/t1.json en/t2.json");
    write_card("---\nlicense: mit\n---\n");
    expect("test", "test/x.json");
    write_card("no head\nconfigs:\n- config_name: a\n");
    expect("test", "test/x.json");
    expect_none(folder, "de", NULL, 0, NULL, "no configuration or folder `de`");
}

/* Cards come with the data: they lead nowhere else, and do not break anything. */
static void test_hostile_cards(void **state) {
    static const char *const bad[] = {
        "---\nconfigs:\n- config_name: a\n  data_files: /etc/passwd\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: ../x.json\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: https://x.org/y.json\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_dir: ../x\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: {a: b}\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: train\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: [[a]]\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: gone*\n---\n",
        "---\nconfigs: [\n---\n",
        "---\nconfigs:\n- &a [*a]\n---\n",
        "---\nconfigs:\n- config_name: a\n- config_name: b\n---\n",
        "---\nconfigs:\n- 1\n- 2\n---\n"};
    make("a.json");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_card(bad[i]);
        expect_none(folder, NULL, NULL, 0, NULL, folder);
    }
    static const char *const fine[] = {"---", "---\nconfigs:\n---\n", "---\nconfigs: 7\n", "",
                                       "---\nconfigs: []\n---\n"};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        write_card(fine[i]);
        expect(NULL, "a.json");
    }
}

static void test_memory(void **state) {
    make("en/t1.json en/t2.json en/d.json fr.json below/train.csv");
    write_card(several);
    static const char *const names[] = {"en", "dir", "de", NULL};
    size_t before = mem_used();
    for (int i = 0; i < 4; i++) {
        status s = STATUS_MEMORY;
        for (uint64_t k = 1; s == STATUS_MEMORY; k++) {
            file_names f;
            mem_fail_at(k, k % 2);
            s = files_find(&f, folder, names[i], NULL, 0, NULL);
            mem_fail_at(0, 0);
            files_free(&f);
            assert_int_equal(mem_used(), before);
        }
        assert_int_equal(s, i == 2 ? STATUS_DATA : STATUS_OK);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns), cmocka_unit_test(test_names_of_splits),
        cmocka_unit_test(test_formats),  cmocka_unit_test(test_data_files),
        cmocka_unit_test(test_cards),    cmocka_unit_test(test_hostile_cards),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
