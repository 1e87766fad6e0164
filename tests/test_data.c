/* test_data.c: datasets end to end: every type, lengths, bad rows, duplicates, the held-out
 * part, prepared rows, and real files through tokenizer, packing and loader. */
#include "mini_tokenizer.h"

#include <errno.h>

#include "common/json.h"
#include "data/dataset.h"
#include "data/loader.h"

#ifdef _OPENMP
#include <omp.h>
#endif

static tokenizer *mini, *mini_bos; /* without and with <s> before texts */
static char mini_folder[600];

static int setup(void **state) {
    if (scratch_open(state)) return -1;
    mini_tokenizer_write(scratch_folder("bos"), NULL, true);
    if (tokenizer_open(&mini_bos, scratch("bos"))) return -1;
    mini_tokenizer_write(scratch_folder("mini"), NULL, false);
    snprintf(mini_folder, sizeof mini_folder, "%s", scratch("mini"));
    return tokenizer_open(&mini, mini_folder) ? -1 : 0;
}

static int teardown(void **state) {
    tokenizer_close(mini);
    tokenizer_close(mini_bos);
    return scratch_close(state);
}

static dataset_options usual_options(void) {
    return (dataset_options){.tokenizer = mini,
                             .tokenizer_folder = mini_folder,
                             .chat_template = "chatml",
                             .today = "10 Jul 2025",
                             .sequence_len = 4096,
                             .seed = 1};
}

/* A row as text; what is learned stands in [ ]. */
static char *show(const row_set *rows, int64_t row) {
    size_t n = (size_t)row_set_length(rows, row);
    char *text = mem_alloc(n * 6 + 3, "test"), *p = text;
    bool learned = false;
    for (int64_t i = rows->offsets[row]; i < rows->offsets[row + 1]; i++) {
        bool learn = rows->labels[i] != LABEL_IGNORED;
        if (learn) assert_int_equal(rows->labels[i], rows->ids[i]);
        if (learn != learned) *p++ = learn ? '[' : ']';
        learned = learn;
        if (rows->ids[i] < 256)
            *p++ = (char)rows->ids[i];
        else
            p += sprintf(p, "%s", rows->ids[i] == MINI_BOS ? "<s>" : "</s>");
    }
    if (learned) *p++ = ']';
    return text;
}

static void expect_row(const row_set *rows, int64_t row, const char *want) {
    char *got = show(rows, row);
    assert_string_equal(got, want);
    mem_free(got);
}

/* One dataset from a text; its only row shows as `want`. */
static void expect(const char *json, dataset_source source, const dataset_options *o,
                   const char *want) {
    dataset d;
    const char *path = scratch("one.jsonl");
    put_text(path, json);
    source.path = path;
    assert_ok(dataset_open(&d, &source, 1, o));
    assert_int_equal(d.train.count, 1);
    expect_row(&d.train, 0, want);
    dataset_close(&d);
}

/* It fails, and the message holds `part`. */
static void expect_failure(const char *json, dataset_source source, const dataset_options *o,
                           status code, const char *part) {
    dataset d;
    const char *path = scratch("one.jsonl");
    put_text(path, json);
    source.path = path;
    assert_fails(dataset_open(&d, &source, 1, o), code, part);
}

/* ---- types ---- */

#define TASK    "Below is an instruction that describes a task"
#define REQUEST "Write a response that appropriately completes the request.\n\n"

static void test_alpaca(void **state) {
    dataset_options o = usual_options();
    dataset_source s = {.type = "alpaca"};
    expect("{\"instruction\":\"I\",\"input\":\"\",\"output\":\"O\"}", s, &o,
           TASK ". " REQUEST "### Instruction:\nI\n\n### Response:\n[O</s>]");
    expect("{\"instruction\":\"I\",\"output\":\"O\"}", s, &o,
           TASK ". " REQUEST "### Instruction:\nI\n\n### Response:\n[O</s>]");
    const char *with = TASK ", paired with an input that provides further context. " REQUEST
                            "### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n[O</s>]";
    const char *row = "{\"instruction\":\"I\",\"input\":\"X\",\"output\":\"O\"}";
    expect(row, s, &o, with);
    char bos[1000];
    o.tokenizer = mini_bos;
    snprintf(bos, sizeof bos, "<s>%s", with); /* one BOS, not one more before the answer */
    expect(row, s, &o, bos);
    o = usual_options();
    s.type = "alpaca_chat.load_qa";
    expect("{\"question\":\"Q\",\"answer\":\"A\"}", s, &o,
           "SYSTEM: " TASK ". Write a response that appropriately completes the request.\n"
           "USER: Q\nASSISTANT:[A</s>]");
    o.train_on_inputs = true;
    s = (dataset_source){.type = "alpaca",
                         .prompt = {.field_output = "response", .system_prompt = "S"}};
    expect("{\"instruction\":\"I\",\"response\":\"O\"}", s, &o,
           "[S\n\n### Instruction:\nI\n\n### Response:\nO</s>]");
}

static void test_formats_of_ones_own(void **state) {
    dataset_options o = usual_options();
    dataset_source s = {.custom_prompt = true,
                        .prompt = {.field_instruction = "q",
                                   .field_input = "c",
                                   .field_output = "a",
                                   .system_prompt = "Sys.",
                                   .system_format = "<{{{system}}}> ",
                                   .format = "{instruction}|{input}|</s>",
                                   .no_input_format = "{instruction}!"}};
    expect("{\"q\":\"Q</s>\",\"c\":\"C\",\"a\":\"A\"}", s, &o, "<{Sys.}> Q</s>|C|</s>[A</s>]");
    expect("{\"q\":\"Q\",\"c\":null,\"a\":\"A\"}", s, &o, "<{Sys.}> Q![A</s>]");
    s.prompt.no_input_format = NULL;
    expect("{\"q\":\"Q\",\"a\":\"A\"}", s, &o, "<{Sys.}> Q||</s>[A</s>]");
    s.prompt.field_system = "s";
    expect("{\"q\":\"Q\",\"a\":\"A\",\"s\":\"T\"}", s, &o, "<{T}> Q||</s>[A</s>]");
    expect("{\"q\":\"Q\",\"a\":\"A\"}", s, &o, "Q||</s>[A</s>]");
    s.prompt.format = "{question}";
    expect_failure("{}", s, &o, STATUS_USAGE, "`{question}`");
    s.prompt.format = NULL;
    expect_failure("{}", s, &o, STATUS_USAGE, "needs `format:`");
    s = (dataset_source){.type = "alpacca"};
    expect_failure("{}", s, &o, STATUS_USAGE, "\"alpacca\" does not exist here");
}

static void test_completion(void **state) {
    dataset_options o = usual_options();
    dataset_source s = {.type = "completion"};
    expect("{\"text\":\"once\"}", s, &o, "[once</s>]");
    expect("{\"text\":\"<s>once</s>\"}", s, &o,
           "[<s>once</s></s>]"); /* the words, not the tokens */
    s.field = "body";
    expect("{\"body\":\"once\"}", s, &o, "[once</s>]");
    expect_failure("{\"text\":1}", s, &o, STATUS_DATA,
                   "one.jsonl:1: \"body\" must be a string");
    o.sequence_len = 3;
    dataset d;
    put_text(scratch("book.txt"), "abcdefg\n\nhij\nk");
    s = (dataset_source){.path = scratch("book.txt"), .type = "completion"};
    assert_ok(dataset_open(&d, &s, 1, &o));
    static const char *const want[] = {"[abc]", "[def]", "[g</s>]", "[hij]", "[k</s>]"};
    assert_int_equal(d.train.count,
                     5); /* and one piece, only </s>, that has nothing to learn */
    for (int i = 0; i < 5; i++) expect_row(&d.train, i, want[i]);
    assert_int_equal(d.report.read, 3);
    assert_int_equal(d.report.cut, 2);
    assert_int_equal(d.report.dropped_untargeted, 1);
    dataset_close(&d);
    s.ds_type = "document";
    assert_ok(dataset_open(&d, &s, 1, &o));
    expect_row(&d.train, 0, "[abc]");
    assert_int_equal(d.train.count, 5);
    expect_row(&d.train, 4, "[\nk</s>]");
    dataset_close(&d);
    s.type = "alpaca";
    assert_fails(dataset_open(&d, &s, 1, &o), STATUS_DATA, "type: completion");
}

static void test_chat(void **state) {
    dataset_options o = usual_options();
    dataset_source s = {.type = "chat_template"};
    const char *row =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
        "{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"},"
        "{\"role\":\"assistant\",\"content\":\"d\"}]}";
    o.chat_template = "mistral_v1";
    expect(row, s, &o, "<s> [INST] a [/INST][ b</s>] [INST] c [/INST][ d</s>]");
    s.train_on_eos = s.train_on_eot = ENDS_LAST;
    expect(row, s, &o, "<s> [INST] a [/INST][ b]</s> [INST] c [/INST][ d</s>]");
    s.chat_template = "mistral_v3_tekken";
    s.train_on_eos = s.train_on_eot = ENDS_TURN;
    expect(row, s, &o, "<s>[INST]a[/INST][b</s>][INST]c[/INST][d</s>]");
    expect_failure("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                   "{\"role\":\"user\",\"content\":\"b\"}]}",
                   s, &o, STATUS_DATA,
                   "one.jsonl:1: the template mistral_v3_tekken wants user and");
    expect_failure("{\"messages\":[{\"role\":\"system\",\"content\":\"a\"}]}", s, &o,
                   STATUS_DATA, "one.jsonl:1: ");
    s.chat_template = "qwen_25";
    expect_failure("{\"tools\":[{}],\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", s,
                   &o, STATUS_DATA, "has tools");
    s.chat_template = NULL;
    o.chat_template = NULL;
    expect_failure(row, s, &o, STATUS_MODEL, "no chat template of its own");
}

static void test_segments(void **state) {
    dataset_options o = usual_options();
    dataset_source s = {.type = "input_output"};
    expect("{\"segments\":[{\"label\":false,\"text\":\"<s>in "
           "\"},{\"label\":true,\"text\":\"out</s>\"}]}",
           s, &o, "<s>in [out</s>]");
    expect_failure("{\"segments\":[{\"text\":\"x\"}]}", s, &o, STATUS_DATA,
                   "segment 1 must have");
}

static void test_tokenized(void **state) {
    dataset_options o = {.sequence_len = 16, .vocabulary = 300};
    dataset_source s = {.type = ""};
    expect("{\"input_ids\":[104,105],\"attention_mask\":[1,1]}", s, &o, "[hi]");
    expect("{\"input_ids\":[104,105],\"labels\":[-100,105]}", s, &o, "h[i]");
    expect("{\"input_ids\":[104,105],\"labels\":null}", s, &o, "[hi]");
    expect_failure("{\"input_ids\":[104,300]}", s, &o, STATUS_DATA,
                   "vocabulary has 300 tokens");
    expect_failure("{\"input_ids\":[104,-1]}", s, &o, STATUS_DATA,
                   "\"input_ids\"[1] is no token id");
    expect_failure("{\"input_ids\":[104,1.5]}", s, &o, STATUS_DATA, "is no token id");
    expect_failure("{\"input_ids\":[1],\"labels\":[1,2]}", s, &o, STATUS_DATA,
                   "list of 1 ids");
    expect_failure("{\"input_ids\":[1,2],\"labels\":[1,-7]}", s, &o, STATUS_DATA,
                   "\"labels\"[1]");
    expect_failure("{\"text\":\"x\"}", s, &o, STATUS_DATA, "\"input_ids\" must be a list");
    expect_failure("[1]", s, &o, STATUS_DATA, "a row must be an object, it is an integer");
    expect_failure("{\"input_ids\":[1,2],\"labels\":[2,-100]}", s, &o, STATUS_DATA,
                   "no row is left");
}

/* ---- lengths, bad rows ---- */

static const char mixed[] = "{\"instruction\":\"a\",\"output\":\"bb\"}\n"
                            "not a row\n"
                            "{\"instruction\":\"a\",\"output\":\"cccccccccccccccccccc\"}\n"
                            "{\"instruction\":\"a\",\"output\":\"\"}\n"
                            "{\"instruction\":7,\"output\":\"x\"}\n"
                            "{\"instruction\":\"a\",\"output\":\"bb\"}\n"
                            "{\"instruction\":\"a\",\"output\":\"\\ud800\"}\n";

static dataset_source mixed_source(void) {
    put_text(scratch("mixed.jsonl"), mixed);
    return (dataset_source){.path = scratch("mixed.jsonl"),
                            .custom_prompt = true,
                            .prompt = {.format = "{instruction}:"}};
}

static void row11_bad_rows_fail_or_are_skipped(void **state) {
    dataset d;
    dataset_options o = usual_options();
    dataset_source s = mixed_source();
    assert_fails(dataset_open(&d, &s, 1, &o), STATUS_DATA, "mixed.jsonl:2:");
    o.skip_bad_rows = true;
    o.sequence_len = 10;
    assert_ok(dataset_open(&d, &s, 1, &o));
    assert_int_equal(d.report.read, 7);
    assert_int_equal(d.report.bad, 3);
    assert_non_null(strstr(d.report.first_bad, "mixed.jsonl:2:"));
    assert_int_equal(d.report.dropped_long, 1);
    assert_int_equal(d.report.longest_seen, 23);
    assert_int_equal(d.report.dropped_untargeted, 1);
    assert_int_equal(d.report.kept, 2);
    assert_int_equal(d.report.tokens, 10);
    assert_int_equal(d.report.targets, 6);
    assert_int_equal(d.report.longest, 5);
    char *text = dataset_describe(&d, &o);
    assert_non_null(strstr(text, "7 rows read, 2 kept"));
    assert_non_null(
        strstr(text, "1 dropped: longer than sequence_len 10 (the longest has 23)"));
    assert_non_null(strstr(text, "3 bad rows skipped"));
    mem_free(text);
    dataset_close(&d);
    o.deduplicate = true;
    assert_ok(dataset_open(&d, &s, 1, &o));
    assert_int_equal(d.report.dropped_duplicate, 1);
    assert_int_equal(d.train.count, 1);
    expect_row(&d.train, 0, "a:[bb</s>]");
    dataset_close(&d);
}

static void test_long_rows(void **state) {
    dataset d;
    dataset_options o = usual_options();
    dataset_source s = mixed_source();
    o.skip_bad_rows = true;
    o.sequence_len = 4;
    o.long_rows = LONG_TRUNCATE;
    assert_ok(dataset_open(&d, &s, 1, &o));
    assert_int_equal(d.report.truncated, 3);
    assert_int_equal(d.report.truncated_tokens, 19 + 1 + 1);
    expect_row(&d.train, 0, "a:[bb]"); /* the EOS is lost, and the report says so */
    dataset_close(&d);
    o.sequence_len = 2;
    assert_fails(dataset_open(&d, &s, 1, &o), STATUS_DATA, "no row is left of 7");
    assert_non_null(strstr(status_message(), "3 bad; train check --show 3"));
    assert_non_null(strstr(status_message(), "; the first bad one: "));
    o.sequence_len = 10;
    o.long_rows = LONG_FAIL;
    assert_fails(dataset_open(&d, &s, 1, &o), STATUS_DATA,
                 "mixed.jsonl:3: the row has 23 tokens");
    o.long_rows = LONG_DROP;
    o.keep_untargeted = true; /* evaluation */
    assert_ok(dataset_open(&d, &s, 1, &o));
    assert_int_equal(d.train.count, 3);
    expect_row(&d.train, 1, "a:");
    dataset_close(&d);
}

/* ---- slices, merging, holding out ---- */

/* `count` rows, number i tokenized as {i, i}. */
static dataset_source numbers(const char *name, int from, int count) {
    static char names[4][300];
    static int turn;
    char *path = names[turn++ % 4];
    snprintf(path, sizeof names[0], "%s", scratch(name));
    FILE *f = fopen(path, "w");
    for (int i = from; i < from + count; i++) fprintf(f, "{\"input_ids\":[%d,%d]}\n", i, i);
    fclose(f);
    return (dataset_source){.path = path};
}

static void expect_numbers(const row_set *rows, const char *want) {
    char got[1000] = "";
    for (int64_t r = 0; r < rows->count; r++)
        sprintf(got + strlen(got), "%s%d", r ? " " : "", rows->ids[rows->offsets[r]]);
    assert_string_equal(got, want);
}

static void test_slices_and_shards(void **state) {
    dataset d;
    dataset_options o = {.sequence_len = 4};
    dataset_source s[2] = {numbers("n.jsonl", 0, 10), numbers("m.jsonl", 20, 3)};
    static const char *const cases[][2] = {{"train[:3]", "0 1 2"},
                                           {"train[80%:]", "8 9"},
                                           {"train[-2:]+train[:1]", "0 8 9"},
                                           {"train[2:4]+train[3:5]", "2 3 3 4"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s[0].split = cases[i][0];
        assert_ok(dataset_open(&d, s, 1, &o));
        expect_numbers(&d.train, cases[i][1]);
        dataset_close(&d);
    }
    s[0].split = "test";
    assert_fails(dataset_open(&d, s, 1, &o), STATUS_DATA, "has one split");
    s[0].split = NULL;
    s[0].shards = 4, s[0].shard = 1;
    assert_ok(dataset_open(&d, s, 2, &o));
    expect_numbers(&d.train, "1 5 9 20 21 22");
    assert_int_equal(d.report.files, 2);
    dataset_close(&d);
}

static void test_shuffle_and_hold_out(void **state) {
    dataset d, again;
    dataset_options o = {.sequence_len = 4, .held_out = 0.125, .seed = 3};
    dataset_source s[2] = {numbers("n.jsonl", 0, 50), numbers("m.jsonl", 100, 50)};
    assert_ok(dataset_open(&d, s, 2, &o));
    assert_int_equal(d.held_out.count, 13); /* rounded up */
    assert_int_equal(d.train.count, 87);
    int seen[200] = {0};
    for (int64_t r = 0; r < 87; r++) seen[d.train.ids[2 * r]]++;
    for (int64_t r = 0; r < 13; r++) seen[d.held_out.ids[2 * r]]++;
    for (int i = 0; i < 200; i++) assert_int_equal(seen[i], i % 100 < 50);
    for (int64_t r = 1; r < 87; r++) assert_true(d.train.ids[2 * r] > d.train.ids[2 * r - 2]);
    o.held_out = 13;
    assert_ok(dataset_open(&again, s, 2, &o));
    assert_memory_equal(again.held_out.ids, d.held_out.ids, 13 * 2 * 4);
    dataset_close(&again);
    o.seed = 4;
    assert_ok(dataset_open(&again, s, 2, &o));
    assert_memory_not_equal(again.held_out.ids, d.held_out.ids, 13 * 2 * 4);
    dataset_close(&again);
    o.shuffle = true;
    assert_ok(dataset_open(&again, s, 2, &o));
    int64_t rising = 0;
    for (int64_t r = 1; r < 87; r++)
        rising += again.train.ids[2 * r] > again.train.ids[2 * r - 2];
    assert_in_range(rising, 25, 62);
    dataset_close(&again);
    o.held_out = 100;
    assert_fails(dataset_open(&again, s, 2, &o), STATUS_DATA, "holds out 100 of 100 rows");
    dataset_close(&d);
}

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
        cmocka_unit_test(test_alpaca),
        cmocka_unit_test(test_formats_of_ones_own),
        cmocka_unit_test(test_completion),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_tokenized),
        cmocka_unit_test(row11_bad_rows_fail_or_are_skipped),
        cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_slices_and_shards),
        cmocka_unit_test(test_shuffle_and_hold_out),
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
