/* mini_dataset.h: datasets of a row or two through the mini tokenizer, rows as text. */
#ifndef NIBBLE_TESTS_MINI_DATASET_H
#define NIBBLE_TESTS_MINI_DATASET_H

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

static inline int setup(void **state) {
    if (scratch_open(state)) return -1;
    mini_tokenizer_write(scratch_folder("bos"), NULL, true);
    if (tokenizer_open(&mini_bos, scratch("bos"))) return -1;
    mini_tokenizer_write(scratch_folder("mini"), NULL, false);
    snprintf(mini_folder, sizeof mini_folder, "%s", scratch("mini"));
    return tokenizer_open(&mini, mini_folder) ? -1 : 0;
}

static inline int teardown(void **state) {
    tokenizer_close(mini);
    tokenizer_close(mini_bos);
    return scratch_close(state);
}

static inline dataset_options usual_options(void) {
    return (dataset_options){.tokenizer = mini,
                             .tokenizer_folder = mini_folder,
                             .chat_template = "chatml",
                             .today = "10 Jul 2025",
                             .sequence_len = 4096,
                             .seed = 1};
}

/* A row as text; what is learned stands in [ ]. */
static inline char *show(const row_set *rows, int64_t row) {
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

static inline void expect_row(const row_set *rows, int64_t row, const char *want) {
    char *got = show(rows, row);
    assert_string_equal(got, want);
    mem_free(got);
}

/* One dataset from a text; its only row shows as `want`. */
static inline void expect(const char *json, dataset_source source, const dataset_options *o,
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
static inline void expect_failure(const char *json, dataset_source source,
                                  const dataset_options *o, status code, const char *part) {
    dataset d;
    const char *path = scratch("one.jsonl");
    put_text(path, json);
    source.path = path;
    assert_fails(dataset_open(&d, &source, 1, o), code, part);
}

static const char mixed[] = "{\"instruction\":\"a\",\"output\":\"bb\"}\n"
                            "not a row\n"
                            "{\"instruction\":\"a\",\"output\":\"cccccccccccccccccccc\"}\n"
                            "{\"instruction\":\"a\",\"output\":\"\"}\n"
                            "{\"instruction\":7,\"output\":\"x\"}\n"
                            "{\"instruction\":\"a\",\"output\":\"bb\"}\n"
                            "{\"instruction\":\"a\",\"output\":\"\\ud800\"}\n";

static inline dataset_source mixed_source(void) {
    put_text(scratch("mixed.jsonl"), mixed);
    return (dataset_source){.path = scratch("mixed.jsonl"),
                            .custom_prompt = true,
                            .prompt = {.format = "{instruction}:"}};
}

/* `count` rows, number i tokenized as {i, i}. */
static inline dataset_source numbers(const char *name, int from, int count) {
    static char names[4][300];
    static int turn;
    char *path = names[turn++ % 4];
    snprintf(path, sizeof names[0], "%s", scratch(name));
    FILE *f = fopen(path, "w");
    for (int i = from; i < from + count; i++) fprintf(f, "{\"input_ids\":[%d,%d]}\n", i, i);
    fclose(f);
    return (dataset_source){.path = path};
}

#endif
