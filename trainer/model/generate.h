/* generate.h: continuing token sequences with a generate program: prefill and decoding of a
 * batch, greedy or sampled.
 *
 * A token is a pure function of (model, prompt, sampling, seed, sequence number, position):
 * the random word is Philox(seed, SAMPLE, sequence; position). Sampling follows transformers'
 * order: logits / temperature, then the top_k largest, then the fewest that together have
 * top_p, then a draw in descending order of probability (equal logits: the lower id first).
 * Text and tokenizers are not this file's matter. */
#ifndef NIBBLE_TRAINER_MODEL_GENERATE_H
#define NIBBLE_TRAINER_MODEL_GENERATE_H

#include "trainer/model/decoder.h"

typedef struct sampling {
    double temperature; /* 0: greedy, the rest is ignored */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 1: all */
    uint64_t seed;
} sampling;

/* STATUS_USAGE for a temperature below 0, top_p outside (0, 1], top_k below 0. */
status sampling_check(const sampling *s);

/* Chooses one of `vocab` logits. `scratch` is [vocab] ids; logits are not changed. */
int32_t sampling_choose(const sampling *s, const float *logits, int64_t vocab,
                        uint64_t sequence, uint64_t position, int32_t *scratch);

typedef struct sequence {
    const int32_t *prompt; /* [prompt_count] at least one token */
    int64_t prompt_count;
    int32_t *tokens; /* [max_tokens], filled; the token that ended it is the last */
    int64_t count;   /* filled so far */
    bool stopped;    /* by an end token; else the length was reached */
} sequence;

typedef struct generation {
    engine *e;
    int program; /* its number in the engine's plan */
    const model_config *config;
    generate_shape shape; /* as the program was recorded */
    sampling sampling;
    int64_t max_tokens;  /* new ones per sequence, at least 1 */
    const int32_t *stop; /* [stop_count] end tokens beside config's eos; may be NULL */
    int stop_count;
    bool ignore_eos;       /* go on until max_tokens */
    uint64_t first_number; /* Philox number of the first sequence */
    /* Told every new token of every sequence; anything but STATUS_OK ends it. May be NULL. */
    status (*token)(void *context, size_t sequence, int32_t id);
    void *context;
} generation;

/* Continues `count` sequences, shape.sequences at a time. STATUS_DATA for an empty prompt, an
 * id outside the vocabulary, or a prompt that leaves no room in cache_rows. */
status generate(const generation *g, sequence *sequences, size_t count);

#endif
