/* weights.h: a base model's weights: from a Hugging Face folder into the engine.
 *
 *   open    reads headers only: every tensor that config.json promises is there with its
 * shape, none is too many, which linears are 4-bit already, whether the head is the embedding
 *   load    streams tensor by tensor through a bounded staging buffer with all cores:
 *           file's type -> load type (the compute type: rounded before it is quantized, as
 *           Hugging Face does) -> for linears codes and scales -> the engine, or a cache file
 *
 * A weight that is not finite is refused with its tensor and element. What a tensor's bytes
 * hash to is noted on the way: the base's identity. */
#ifndef NIBBLE_TRAINER_MODEL_WEIGHTS_H
#define NIBBLE_TRAINER_MODEL_WEIGHTS_H

#include "checkpoints/model_files.h"
#include "common/hash.h"
#include "trainer/model/decoder.h"

typedef struct weights {
    const model_config *config;
    model_files files;
    bool tied; /* the head is the embedding: config.json's wish, and no other head in
                  the files */
    tensor_format *stored; /* [layers * MODULE_COUNT] of linears that are 4-bit in the files;
                              rows 0 elsewhere. For decoder_options.stored */
    bool any_stored;
    bool synthetic; /* no files: weights are made (synthetic.h) */
    hash128 *hashes; /* [files.count] XXH3-128 of a tensor's bytes, once streamed */
    bool *hashed;    /* [files.count] */
} weights;

/* `config` must outlive it. STATUS_MODEL for a missing, unknown or misshapen tensor. */
status weights_open(weights *w, const char *folder, const model_config *config);
void weights_close(weights *w);

/* Called between pieces with the bytes done and to do; anything but STATUS_OK stops the load.
 */
typedef struct load_progress {
    status (*report)(void *context, int64_t done, int64_t total);
    void *context;
} load_progress;

/* Where loaded bytes go: n bytes from `offset` of a parameter. Every byte of every parameter
 * is put exactly once, padding inside 4-bit ones included. */
typedef struct base_sink {
    status (*put)(void *context, parameter_id id, int64_t offset, const void *data, int64_t n);
    void *context;
} base_sink;

/* Streams every tensor of the base, a page at a time in the order embedding, layers, final
 * norm, head. With full training the fp32 masters too. `progress` may be NULL. */
status weights_stream(weights *w, const decoder *d, const base_sink *sink,
                      const load_progress *progress);
/* One linear's weight only; no identity, no progress. */
status weights_stream_one(weights *w, const decoder *d, parameter_id id,
                          const base_sink *sink);
/* The same as weights_stream, into the engine. */
status weights_load_base(weights *w, const decoder *d, engine *e,
                         const load_progress *progress);

/* Identity of a streamed base: tensor name -> hash (checkpoints/identity.h, which also has the
 * quick check). *tensors is to be json_decref'ed. STATUS_INTERNAL before that. */
status weights_identity(const weights *w, json_t **tensors);

/* ---- what load.c and merge.c share ---- */

/* Place of a tensor in files.tensors, which holds it. */
size_t weights_index(const weights *w, const char *name);

/* Index of the first element that is not finite, -1 if all are; F32, BF16 or F16. */
int64_t first_not_finite(const void *x, dtype type, int64_t n);
/* quant/'s name of an unquantized type. */
int quant_source_of(dtype type);

#endif
