/* fuzz_rows.c: one byte for the kind of dataset, one for options, then a data file. Rows that
 * are accepted are counted right, hold ids of the vocabulary and labels that are ids or
 * ignored, and somebody's words never become a control token. */
#include "data/dataset.h"
#include "fuzz.h"

/* mini_tokenizer.h is made for cmocka programs */
#define assert_non_null(x) fuzz_require((x) != NULL)
#define NIBBLE_TESTS_SCRATCH_H
static void put_text(const char *path, const char *text) {
    status s = file_write_all(path, text, strlen(text));
    fuzz_require(s == STATUS_OK);
}
#include <stdlib.h>
#include <unistd.h>
#include "mini_tokenizer.h"

static const struct kind {
    const char *type, *ds_type;
    int most_controls; /* per row; -1: the row says it */
} kinds[] = {
    {NULL, "json", -1},
    {"completion", "json", 2},
    {"alpaca", "json", 2},
    {"chat_template", "json", -1},
    {"input_output", "json", -1},
    {"completion", "text", 2},
    {"completion", "paragraphs", 2},
    {"completion", "document", 2},
    {"sharegpt", NULL, -1},
    {"alpaca_chat.load_qa", NULL, 2},
    {NULL, NULL, 2}, /* a format of one's own */
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void check_rows(const row_set *rows, const struct kind *kind, int64_t longest) {
    for (int64_t r = 0; r < rows->count; r++) {
        int controls = 0;
        fuzz_require(row_set_length(rows, r) >= 1 && row_set_length(rows, r) <= longest);
        for (int64_t i = rows->offsets[r]; i < rows->offsets[r + 1]; i++) {
            fuzz_require(rows->ids[i] >= 0 && rows->ids[i] < MINI_SIZE);
            fuzz_require(rows->labels[i] == LABEL_IGNORED || rows->labels[i] == rows->ids[i] ||
                         (kind->most_controls < 0 && rows->labels[i] >= 0 &&
                          rows->labels[i] < MINI_SIZE));
            controls += rows->ids[i] >= MINI_BOS;
        }
        fuzz_require(kind->most_controls < 0 || controls <= kind->most_controls);
    }
}

static void check(const dataset *d, const struct kind *kind, const dataset_options *o) {
    const dataset_report *r = &d->report;
    fuzz_require(d->train.count + d->held_out.count == r->kept);
    fuzz_require(r->bad <= r->read && (r->bad > 0) == (*r->first_bad != '\0'));
    check_rows(&d->train, kind, o->sequence_len);
    check_rows(&d->held_out, kind, o->sequence_len);
    char *words = dataset_describe(d, o);
    fuzz_require(words != NULL);
    mem_free(words);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    fuzz_write("t/empty", "", 0);
    mini_tokenizer_write(fuzz_path("t"), NULL, true);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    const struct kind *kind = &kinds[data[0] % KINDS];
    unsigned bits = data[1];
    fuzz_blocks before = fuzz_begin();
    tokenizer *mini; /* anew: it keeps what its threads worked with */
    fuzz_require(tokenizer_open(&mini, fuzz_path("t")) == STATUS_OK);
    char *path = mem_strdup(fuzz_write("rows.jsonl", data + 2, size - 2));
    dataset_source source = {.path = path, .type = kind->type, .ds_type = kind->ds_type};
    if (!kind->type && !kind->ds_type) {
        source.custom_prompt = true;
        source.prompt = (prompt_format){.format = "[{instruction}|{input}]",
                                        .no_input_format = "[{instruction}]"};
    }
    dataset_options options = {.tokenizer = mini,
                               .vocabulary = MINI_SIZE,
                               .chat_template = "chatml",
                               .skip_bad_rows = bits & 1,
                               .train_on_inputs = bits >> 1 & 1,
                               .long_rows = (long_rows)((bits >> 2 & 3) % 3),
                               .deduplicate = bits >> 4 & 1,
                               .shuffle = bits >> 5 & 1,
                               .keep_untargeted = bits >> 6 & 1,
                               .held_out = bits >> 7 ? 0.3 : 0,
                               .sequence_len = 64};
    dataset d;
    if (fuzz_succeeds(dataset_open(&d, &source, 1, &options), MAY_FAIL(STATUS_DATA))) {
        check(&d, kind, &options);
        dataset_close(&d);
    }
    mem_free(path);
    tokenizer_close(mini);
    fuzz_end(before);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
    return fuzz_mutate(data, size, room, seed, 2);
}
