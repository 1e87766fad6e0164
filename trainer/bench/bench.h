/* bench.h: `train bench`: how fast this build is on this machine, each thing over its own limit.
 *
 * Matrix products and copies set the limits; everything else is given as the share of its limit
 * that it reaches, measured in the same process within the same round, so that a neighbour who
 * takes half of the machine takes half of both. Values are medians over the rounds, with the
 * least and the most. The model is a random Llama of 12 layers, 768 wide (vocabulary 32,000,
 * 12/4 heads of 64, 2,048 feed-forward, tied), steps are 4 x 512 tokens with rank 16 on every
 * linear; `quick` takes a tiny one, to test the program and not the machine. */
#ifndef NIBBLE_TRAINER_BENCH_BENCH_H
#define NIBBLE_TRAINER_BENCH_BENCH_H

#include "common/json.h"
#include "trainer/run/session.h"

enum { BENCH_ROUNDS = 15, BENCH_RESULTS = 48 };

typedef struct bench_result {
    const char *name;  /* "attention.backward" */
    const char *unit;  /* "of limit", "GFLOP/s" ... */
    const char *limit; /* what it is a share of, or "" */
    double value[BENCH_ROUNDS];
    int rounds;
} bench_result;

typedef struct bench_report {
    bench_result items[BENCH_RESULTS];
    int count;
    char device[512]; /* what was measured, as the back end describes it */
    json_t *profile;  /* of a run's steps (profile.h); NULL: none */
} bench_report;

/* Adds a value of this round to the result `name`; literals only. */
void bench_add(bench_report *r, const char *name, const char *unit, const char *limit,
               double value);
/* Median, least and most of a result. */
double bench_median(const bench_result *r, double *least, double *most);
json_t *bench_json(const bench_report *r);
void bench_print(const bench_report *r);

double bench_now(void); /* seconds */

/* The shape of the model and of a step. */
typedef struct bench_shape {
    int64_t layers, hidden, heads, kv_heads, head_dim, ffn, vocab;
    int64_t documents, length; /* of a micro-batch */
    int64_t targets;           /* rows of the head's measurement */
    int rounds, step_rounds;
    double patience; /* seconds of one kernel in one round */
} bench_shape;
/* The benchmark's, the quick one's, and on a card the operations': Llama-3-8B's layer. */
extern const bench_shape bench_shapes[3];

/* Products, copies, 4-bit decoding and the operations on `b` (kernels.c). */
status bench_kernels(bench_report *r, backend *b, const bench_shape *s);
/* Writes the random model as a Hugging Face folder without a tokenizer (model.c). */
status bench_write_model(const char *folder, const bench_shape *s);

/* Ways to place the same training step. */
enum { BENCH_RESIDENT, BENCH_HOST, BENCH_DISK, BENCH_PLACES };
/* Training steps of the model in `folder` under each configuration, turn about, and loading it
 * against reading it (steps.c). */
status bench_steps(bench_report *r, const char *folder, const config configs[BENCH_PLACES],
                   const device_request *device, const bench_shape *s);
/* Steps of the run that a configuration describes, max_steps or a few, of which the first does
 * not count (job.c). The plan goes to the log; with `table` the profile goes to
 * stdout too. */
status bench_job(bench_report *r, const config *c, const char *model_folder,
                 const device_request *device, bool table);
/* Bytes per second of encoding a file's text with a folder's tokenizer, on one thread (text.c).
 */
status bench_tokenizer(bench_report *r, const char *folder, const char *file, int rounds);

#endif
