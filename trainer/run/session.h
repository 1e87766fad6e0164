/* session.h: what every verb that touches a model has open: back end, model, decoder,
 * programs, plan, engine. Opened in the order in which things can be known, each step a
 * function, so that `plan` stops before memory is reserved and `check` before weights are
 * read. */
#ifndef NIBBLE_TRAINER_RUN_SESSION_H
#define NIBBLE_TRAINER_RUN_SESSION_H

#include "autograd/execute.h"
#include "checkpoints/cache.h"
#include "data/tokenizer.h"
#include "trainer/model/decoder.h"
#include "trainer/model/lora.h"
#include "trainer/model/weights.h"
#include "trainer/run/config.h"

typedef enum session_program {
    PROGRAM_TRAIN,
    PROGRAM_EVALUATE,
    PROGRAM_GENERATE,
    PROGRAM_NORM,
    PROGRAM_UPDATE,
    SESSION_PROGRAMS
} session_program;

/* What to open. */
typedef struct session_request {
    const char *model_folder;
    const char *adapter_folder; /* NULL: config's adapter keys say what is made anew */
    bool train;                 /* gradients and optimizer states; else adapters as they are */
    device_request device;
    bool pattern;      /* fill the arenas with a pattern, to observe the high-water mark */
    unsigned programs; /* bit per session_program */
    int64_t train_capacity, evaluate_capacity; /* rows */
    int64_t expected_rows; /* of a training micro-batch, for predictions; 0: the capacity */
    op_load expected;      /* what it holds */
    generate_shape generate;
} session_request;

typedef struct session {
    const config *c;
    session_request request;
    backend *b;
    char gemm_table[24]; /* hash of the measured table in use, "none" */
    dtype compute;
    backend_rates rates;
    model_config model;
    weights w;
    bool model_open, weights_open;
    peft_adapter adapter;
    bool adapter_open;
    lora_spec lora;
    decoder *d;
    program *programs[SESSION_PROGRAMS]; /* NULL: not asked for */
    int index[SESSION_PROGRAMS];         /* in the plan */
    int64_t capacity;                    /* of the training program */
    plan *plan;
    cache cache; /* the base's pages as a file (base_cache.h) */
    bool cache_open;
    char *disk_path;       /* of a hidden one, to remove at the end; NULL: it is the user's */
    json_t *base_identity; /* tensor -> hash, once loaded */
    engine *e;
    tokenizer *tok;
} session;

/* Back end, config.json, headers of the weights, adapter, decoder: STATUS_MODEL and
 * STATUS_USAGE. */
status session_open(session *s, const config *c, const session_request *r);
/* Reads the tokenizer and checks that its ids fit the model's vocabulary. A synthetic base
 * has none: s->tok stays NULL in training, else STATUS_MODEL. */
status session_open_tokenizer(session *s);
/* Records the programs and plans them: STATUS_MEMORY with remedies. */
status session_plan(session *s);
/* Forgets programs and plan, to plan again with another request. */
void session_unplan(session *s);
/* Reserves memory, loads the base (from the folder or the quantized cache), then the adapter.
 */
status session_load(session *s);
void session_close(session *s); /* zeroed or half-open ones are fine */

/* What must be equal for bit-exactness: back end, device, instruction set, libraries, threads,
 * compute type, measured table of products. One line. */
void session_fingerprint(const session *s, char *text, size_t bytes);

/* Bytes outside the arenas that a run of this kind takes (libraries, tokenizer, rows); an
 * estimate that the plan prints as `outside`. */
int64_t session_outside(int64_t dataset_bytes);

#endif
