/* test_data.c: datasets end to end: every type, lengths, bad rows, duplicates, the held-out
 * part. */
#include "mini_dataset.h"

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

/* Fields inside of objects and lists, where no key is called so. */
static void test_nested_fields(void **state) {
    dataset_options o = usual_options();
    dataset_source s = {.type = "completion", .field = "a.b.1"};
    expect("{\"a\":{\"b\":[\"x\",\"y\"]}}", s, &o, "[y</s>]");
    expect("{\"a.b.1\":\"z\",\"a\":{\"b\":[\"x\",\"y\"]}}", s, &o, "[z</s>]");
    expect_failure("{\"a\":{\"b\":[\"x\"]}}", s, &o, STATUS_DATA,
                   "\"a.b.1\" must be a string");
    s = (dataset_source){
        .type = "alpaca",
        .prompt = {.field_instruction = "q.text", .field_output = "answers.0"}};
    expect_failure("{\"q\":{},\"answers\":[\"no\"]}", s, &o, STATUS_DATA, "q.text");
    s = (dataset_source){.type = "chat_template", .chat = {.messages = "data.turns"}};
    expect("{\"data\":{\"turns\":[{\"role\":\"user\",\"content\":\"a\"},"
           "{\"role\":\"assistant\",\"content\":\"b\"}]}}",
           s, &o, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>\n]");
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

/* Slices and shards go over all files of a pattern, whatever their formats. */
static void test_several_files(void **state) {
    dataset d;
    dataset_options o = {.sequence_len = 4};
    static const char *const files[] = {"s*.jsonl"}, *const odd[] = {"s1.jsonl", "s.json"};
    numbers("s1.jsonl", 0, 5);
    numbers("s2.jsonl", 5, 5);
    numbers("s3.jsonl", 10, 5);
    put_text(scratch("s.json"), "[{\"input_ids\":[15,15]},{\"input_ids\":[16,16]}]");
    dataset_source s = {.path = scratch_root, .files = files, .file_count = 1};
    static const char *const cases[][2] = {{"train[3:7]", "3 4 5 6"},
                                           {"train[-2:]+train[:1]", "0 13 14"},
                                           {"train[80%:]+train[5:6]", "5 12 13 14"},
                                           {"train[5:5]", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s.split = cases[i][0];
        if (!cases[i][1]) {
            assert_fails(dataset_open(&d, &s, 1, &o), STATUS_DATA, "hold none");
            continue;
        }
        assert_ok(dataset_open(&d, &s, 1, &o));
        expect_numbers(&d.train, cases[i][1]);
        dataset_close(&d);
    }
    s.split = "train[4:]";
    s.shards = 4, s.shard = 3;
    assert_ok(dataset_open(&d, &s, 1, &o));
    expect_numbers(&d.train, "7 11");
    dataset_close(&d);
    s = (dataset_source){
        .path = scratch_root, .files = odd, .file_count = 2, .split = "train[4:]"};
    assert_ok(dataset_open(&d, &s, 1, &o));
    expect_numbers(&d.train, "4 15 16");
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

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alpaca),
        cmocka_unit_test(test_formats_of_ones_own),
        cmocka_unit_test(test_completion),
        cmocka_unit_test(test_nested_fields),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_tokenized),
        cmocka_unit_test(row11_bad_rows_fail_or_are_skipped),
        cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_slices_and_shards),
        cmocka_unit_test(test_several_files),
        cmocka_unit_test(test_shuffle_and_hold_out),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
