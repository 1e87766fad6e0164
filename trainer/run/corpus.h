/* corpus.h: from the configuration's data keys to prepared rows: the only place that knows
 * both. */
#ifndef NIBBLE_TRAINER_RUN_CORPUS_H
#define NIBBLE_TRAINER_RUN_CORPUS_H

#include "data/dataset.h"
#include "data/feed.h"
#include "trainer/run/config.h"

/* Datasets as data/ wants them; what they point to. */
typedef struct source_list {
    dataset_source *sources;
    role_names *roles;
    property *properties;
} source_list;

typedef struct corpus {
    dataset train; /* .held_out: val_set_size of `datasets` */
    dataset test;  /* of test_datasets; its .train holds the rows */
    bool has_test;
    row_stream *stream;         /* streaming: `train` holds only the first window; else NULL */
    source_list streamed;       /* what it reads */
    dataset_options options;    /* as used */
    json_t *template_variables; /* chat_template_kwargs */
} corpus;

/* A synthetic base has rows of its own, sequence_len random ids each, and the configuration's
 * datasets are not read. tok may be NULL only then, or if every row is tokenized. vocabulary:
 * the model's. today: the date
 * that some chat templates state, as an earlier run's report gave it; NULL: the real one. */
status corpus_open(corpus *out, const config *c, const tokenizer *tok,
                   const char *tokenizer_folder, int32_t vocabulary, const char *today);
void corpus_close(corpus *c);

/* The rows to evaluate on; NULL when there are none. */
const row_set *corpus_held_out(const corpus *c);
/* Warns when a row is longer than the positions that the model has learned. */
void corpus_warn_of_length(const corpus *c, int64_t positions);
/* Identity of the training rows: XXH3-128 over ids, labels and lengths; 32 hex digits. Of a
 * stream those of the first window, and the files' sizes. */
status corpus_identity(const corpus *c, char text[33]);

/* What the run trains on. */
status corpus_open_feed(const corpus *c, const config *conf, feed **out);

/* The `type` of a file that nobody described, by what its first row has: messages,
 * instruction, input_ids, segments, else text. */
status corpus_guess_type(const char *path, const char **type);

/* Loader options for training, and for evaluation (in order, every row once). */
loader_options corpus_train_options(const config *c);
loader_options corpus_eval_options(const config *c);

#endif
