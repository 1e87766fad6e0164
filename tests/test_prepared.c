/* test_prepared.c: prepared rows, kept and broken; faults, threads; real files through tokenizer,
 * packing and loader. */
#include "mini_dataset.h"

/* ---- prepared rows ---- */

static void expect_same(const row_set *a, const row_set *b) {
    assert_int_equal(a->count, b->count);
    size_t tokens = (size_t)a->offsets[a->count];
    assert_memory_equal(a->offsets, b->offsets, (size_t)(a->count + 1) * 8);
    assert_memory_equal(a->ids, b->ids, tokens * 4);
    assert_memory_equal(a->labels, b->labels, tokens * 4);
}

/* Opens with `o`; whether the rows came from the prepared file. */
static bool open_prepared(dataset_source *s, const dataset_options *o, const row_set *want) {
    dataset d;
    assert_ok(dataset_open(&d, s, 1, o));
    bool prepared = d.from_prepared;
    if (want) expect_same(&d.train, want);
    if (prepared) assert_string_equal(d.prepared_note, "");
    dataset_close(&d);
    return prepared;
}

static void test_prepared_rows(void **state) {
    dataset d;
    dataset_options o = usual_options();
    dataset_source s = mixed_source();
    o.skip_bad_rows = true;
    assert_ok(dataset_open(&d, &s, 1, &o));
    o.prepared = scratch_folder("prepared/below");
    assert_false(open_prepared(&s, &o, &d.train));
    assert_true(open_prepared(&s, &o, &d.train));
    o.held_out = 1; /* is split off afterwards */
    assert_true(open_prepared(&s, &o, NULL));
    o.held_out = 0;
    o.sequence_len = 100; /* all else is another dataset */
    assert_false(open_prepared(&s, &o, NULL));
    s.prompt.format = "{instruction};";
    assert_false(open_prepared(&s, &o, NULL));
    s.split = "train[:1]";
    assert_false(open_prepared(&s, &o, NULL));
    mini_tokenizer_write(mini_folder, "{{ x }}", false);
    assert_false(open_prepared(&s, &o, NULL));
    mini_tokenizer_write(mini_folder, NULL, false);
    assert_true(open_prepared(&s, &o, NULL));
    s = mixed_source();
    o = (dataset_options){.tokenizer = mini,
                          .tokenizer_folder = mini_folder,
                          .today = "10 Jul 2025",
                          .chat_template = "chatml",
                          .sequence_len = 4096,
                          .seed = 1,
                          .skip_bad_rows = true,
                          .prepared = o.prepared};
    assert_true(open_prepared(&s, &o, &d.train));
    char changed[sizeof mixed];
    memcpy(changed, mixed, sizeof mixed);
    changed[16] = 'z';
    put_text(s.path, changed);
    assert_false(open_prepared(&s, &o, NULL));
    dataset_close(&d);
}

static void test_broken_prepared_rows(void **state) {
    dataset d, again;
    dataset_options o = {.sequence_len = 4};
    dataset_source s = numbers("n.jsonl", 0, 5);
    o.prepared = scratch_folder("prepared");
    assert_ok(dataset_open(&d, &s, 1, &o));
    char **names, path[700];
    size_t count, bytes;
    assert_ok(file_list(o.prepared, &names, &count));
    assert_int_equal(count, 1); /* no temporary file is left */
    snprintf(path, sizeof path, "%s/%s", o.prepared, names[0]);
    file_list_free(names, count);
    char *good = get_file(path, &bytes);
    uint64_t seed = 1;
    for (int i = 0; i < 300; i++) { /* a bit flipped, or the end cut off */
        char *bad = malloc(bytes);
        memcpy(bad, good, bytes);
        size_t bit = noise(&seed) % (bytes * 8), length = bytes;
        if (i % 3)
            bad[bit / 8] ^= (char)(1 << bit % 8);
        else
            length = bit / 8;
        put_file(path, bad, length);
        free(bad);
        assert_ok(dataset_open(&again, &s, 1, &o));
        if (i % 3 == 0 || bit / 8 < 12 || bit / 8 >= 16) { /* bytes 12 to 15 are padding */
            assert_false(again.from_prepared);
            assert_non_null(strstr(again.prepared_note, "made again: "));
        }
        expect_same(&again.train, &d.train);
        dataset_close(&again);
    }
    const size_t rows_at = 56 + sizeof(dataset_report); /* offsets, then ids: prepared.c */
    const struct {
        size_t at;
        int64_t value;
    } lies[] = {{rows_at, 2},
                {rows_at + 8, 1ll << 40},
                {rows_at + 8, -8},
                {rows_at + 16, 0},
                {rows_at + 6 * 8, -1}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) { /* with the right checksum */
        char *bad = malloc(bytes);
        memcpy(bad, good, bytes);
        memcpy(bad + lies[i].at, &lies[i].value, 8);
        hash128 sum = hash_bytes(bad + 32, bytes - 32);
        memcpy(bad + 16, &sum.low, 8);
        memcpy(bad + 24, &sum.high, 8);
        put_file(path, bad, bytes);
        free(bad);
        assert_ok(dataset_open(&again, &s, 1, &o));
        assert_false(again.from_prepared);
        assert_non_null(strstr(again.prepared_note, "do not fit together"));
        expect_same(&again.train, &d.train);
        dataset_close(&again);
    }
    free(good);
    for (int k = 1; k < 10; k++) { /* the disk is full */
        unlink(path);
        file_fail_at((uint64_t)k, ENOSPC, true);
        assert_ok(dataset_open(&again, &s, 1, &o));
        file_fail_at(0, 0, false);
        expect_same(&again.train, &d.train);
        if (!*again.prepared_note) assert_true(file_exists(path));
        if (file_exists(path)) assert_true(open_prepared(&s, &o, &d.train));
        dataset_close(&again);
    }
    dataset_close(&d);
}

/* ---- faults ---- */

static void test_allocation_failures(void **state) {
    dataset_options o = usual_options();
    dataset_source s[2] = {mixed_source(),
                           {.path = scratch("chat.json"), .type = "chat_template"}};
    put_text(s[1].path, "[{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                        "{\"role\":\"assistant\",\"content\":\"b\"}]}]");
    o.skip_bad_rows = o.deduplicate = o.shuffle = true;
    o.held_out = 1;
    size_t blocks = mem_blocks();
    for (uint64_t k = 1;; k++) {
        dataset d;
        mem_fail_at(k, (int)(k % 2));
        status code = dataset_open(&d, s, 2, &o);
        mem_fail_at(0, 0);
        if (code == STATUS_OK) {
            assert_int_equal(d.report.bad, 3); /* no failure passes for a bad row */
            dataset_close(&d);
            assert_true(k > 50);
            break;
        }
        assert_int_equal(code, STATUS_MEMORY);
        assert_int_equal(mem_blocks(), blocks);
    }
}

/* Many rows on one thread and on several: the same rows in the same order, and the first bad
 * row is the one that is named. */
static void test_threads(void **state) {
    FILE *f = fopen(scratch("many.jsonl"), "w");
    for (int i = 0; i < 5000; i++)
        fprintf(f, "{\"text\":\"%.*s%d\"}\n", i % 50,
                "..................................................", i);
    fclose(f);
    dataset d, one;
    dataset_options o = usual_options();
    dataset_source s = {.path = scratch("many.jsonl"), .type = "completion"};
    assert_ok(dataset_open(&d, &s, 1, &o));
    assert_int_equal(d.train.count, 5000);
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    omp_set_num_threads(threads > 1 ? 1 : 4);
#endif
    assert_ok(dataset_open(&one, &s, 1, &o));
    expect_same(&d.train, &one.train);
    dataset_close(&one);
    f = fopen(scratch("many.jsonl"), "a");
    for (int i = 0; i < 1000; i++) fprintf(f, "{\"text\":%d}\n", i);
    fclose(f);
    assert_fails(dataset_open(&one, &s, 1, &o), STATUS_DATA, "many.jsonl:5001:");
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    dataset_close(&d);
}

static void test_token_texts(void **state) {
    const char *text = "a \xc3\xa9\xe2\x82\xac!";
    id_list ids = {0};
    assert_ok(tokenizer_encode(mini, text, strlen(text), 0, &ids));
    int32_t eos = MINI_EOS;
    assert_ok(id_list_append(&ids, &eos, 1));
    char **texts;
    assert_ok(dataset_texts(mini, ids.items, (int64_t)ids.count, &texts));
    assert_string_equal(texts[0], "a");
    assert_string_equal(texts[1], " ");
    assert_string_equal(texts[3], "\xc3\xa9"); /* with its last byte the character is there */
    assert_string_equal(texts[6], "\xe2\x82\xac");
    assert_string_equal(texts[7], "!");
    assert_string_equal(texts[8], "</s>");
    dataset_free_texts(texts, (int64_t)ids.count);
    mem_free(ids.items);
}

/* ---- real files ---- */

static void fixture_path(char *path, size_t room, const char *name) {
    snprintf(path, room, "%s/%s", FIXTURES, name);
}

static void test_parity_cases(void **state) {
    need_fixtures();
    static const struct {
        const char *name;
        int64_t sequence_len, rows, tokens;
        int micro_batch, accumulation;
        bool packing;
    } cases[] = {{"llama-nf4-dq", 64, 4, 0, 2, 2, false},
                 {"qwen2-fp4", 64, 3, 0, 1, 3, false},
                 {"qwen3-packed", 96, 5, 96, 1, 1, true},
                 {"mistral-lora", 64, 3, 0, 3, 1, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/expectations/peft-parity/%s/rows.jsonl", FIXTURES,
                 cases[i].name);
        dataset d;
        dataset_options o = {
            .sequence_len = cases[i].sequence_len, .shuffle = true, .seed = 42};
        dataset_source s = {.path = path};
        assert_ok(dataset_open(&d, &s, 1, &o));
        assert_int_equal(d.train.count, cases[i].rows);
        loader *l;
        loader_options lo = {.sequence_len = cases[i].sequence_len,
                             .shuffle = true,
                             .seed = 42,
                             .micro_batch_size = cases[i].micro_batch,
                             .max_steps = 12,
                             .accumulation = cases[i].accumulation,
                             .packing = cases[i].packing};
        assert_ok(loader_open(&l, &d.train, &lo));
        assert_int_equal(loader_steps(l), 12);
        assert_int_equal(loader_steps_per_epoch(l), 1); /* all rows in every step */
        const batch_group *g;
        assert_ok(loader_next(l, &g));
        assert_int_equal(g->tokens, cases[i].tokens ? cases[i].tokens : d.report.tokens);
        assert_int_equal(g->targets, d.report.targets);
        loader_close(l);
        dataset_close(&d);
    }
}

/* gsm8k as conversations, as the real-model walk-through trains on. */
static const char *write_gsm8k_chat(void) {
    char from[600];
    fixture_path(from, sizeof from, "datasets/gsm8k_train.jsonl");
    FILE *in = fopen(from, "r"), *out = fopen(scratch("gsm8k_chat.jsonl"), "w");
    static char line[1 << 16];
    while (fgets(line, sizeof line, in)) {
        json_t *row = json_loads(line, 0, NULL);
        json_t *chat = json_pack("{s:[{s:s,s:O},{s:s,s:O}]}", "messages", "role", "user",
                                 "content", json_object_get(row, "question"), "role",
                                 "assistant", "content", json_object_get(row, "answer"));
        json_dumpf(chat, out, 0);
        fputc('\n', out);
        json_decref(chat);
        json_decref(row);
    }
    fclose(in);
    fclose(out);
    return scratch("gsm8k_chat.jsonl");
}

static void test_packing_of_gsm8k(void **state) {
    need_fixtures();
    char folder[600];
    fixture_path(folder, sizeof folder, "tokenizers/qwen2_5");
    tokenizer *t;
    assert_ok(tokenizer_open(&t, folder));
    for (int64_t length = 512; length <= 1024; length *= 2) {
        dataset d;
        dataset_options o = {.tokenizer = t,
                             .tokenizer_folder = folder,
                             .sequence_len = length,
                             .chat_template = "chatml",
                             .shuffle = true,
                             .seed = 42};
        dataset_source s = {.path = write_gsm8k_chat(), .type = "chat_template"};
        assert_ok(dataset_open(&d, &s, 1, &o));
        assert_int_equal(d.report.read, 7473);
        assert_true(d.train.count > 7400);
        loader *l;
        loader_options lo = {.sequence_len = length,
                             .micro_batch_size = 4,
                             .accumulation = 2,
                             .num_epochs = 2,
                             .packing = true,
                             .shuffle = true,
                             .seed = 42};
        assert_ok(loader_open(&l, &d.train, &lo));
        print_message("gsm8k, sequence_len %d: %d rows, %.2f %% full, %d steps an epoch\n",
                      (int)length, (int)d.train.count, 100 * loader_fill(l),
                      (int)loader_steps_per_epoch(l));
        assert_true(loader_fill(l) > 0.98);
        loader_close(l);
        dataset_close(&d);
    }
    tokenizer_close(t);
}

static void test_real_files(void **state) {
    need_fixtures();
    static const struct {
        const char *name, *type;
        int64_t rows;
    } files[] = {{"gpteacher_roleplay.json", "alpaca", 3146},
                 {"fastchat_dummy_conversation.json", "chat_template", 500},
                 {"gsm8k_train.jsonl", "alpaca_chat.load_qa", 7473},
                 {"axolotl_conversation.json", "sharegpt", 1}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/datasets/%s", FIXTURES, files[i].name);
        dataset d;
        dataset_options o = usual_options();
        o.sequence_len = 1 << 20;
        dataset_source s = {.path = path, .type = files[i].type};
        if (i == 3) { /* one object over many lines is no data file: refused with a hint */
            assert_fails(dataset_open(&d, &s, 1, &o), STATUS_DATA, "one object a line");
            continue;
        }
        assert_ok(dataset_open(&d, &s, 1, &o));
        assert_int_equal(d.report.read, files[i].rows);
        assert_int_equal(d.report.kept + d.report.dropped_untargeted, files[i].rows);
        assert_true(d.report.targets * 10 > d.report.tokens);
        for (int64_t r = 0; r < d.train.count; r++) { /* every answer's end is learned */
            int64_t last = d.train.offsets[r + 1] - 1;
            if (strcmp(files[i].type, "chat_template") != 0)
                assert_int_equal(d.train.labels[last], MINI_EOS);
        }
        dataset_close(&d);
    }
    char path[600];
    dataset d;
    dataset_options o = usual_options();
    fixture_path(path, sizeof path, "datasets/self_instruct_seed_tasks.jsonl");
    dataset_source s = {.path = path, .type = "alpaca"};
    assert_fails(
        dataset_open(&d, &s, 1, &o), STATUS_DATA,
        "self_instruct_seed_tasks.jsonl:1: \"output\" must be a string, it is missing");
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prepared_rows),
        cmocka_unit_test(test_broken_prepared_rows),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_token_texts),
        cmocka_unit_test(test_parity_cases),
        cmocka_unit_test(test_packing_of_gsm8k),
        cmocka_unit_test(test_real_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
