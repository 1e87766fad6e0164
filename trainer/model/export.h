/* export.h: writing a Hugging Face model folder, tensor by tensor: shards, index, config.json
 * and the files that come along. Where the values come from is a source (merge.h has the usual
 * ones).
 *
 * Everything is written into <out>.tmp and, once every byte was read back and agrees, renamed:
 * a folder under its final name is complete. Memory: 48 MB, what the source needs, and in 4 bits
 * one linear's codes. */
#ifndef NIBBLE_TRAINER_MODEL_EXPORT_H
#define NIBBLE_TRAINER_MODEL_EXPORT_H

#include "trainer/model/layout.h"
#include "trainer/model/weights.h"

enum { EXPORT_CHUNK = 1 << 22 }; /* elements that a source is asked for, or one row */

typedef struct export_source {
    /* Called before a tensor's first rows; may be NULL. */
    status (*begin)(void *context, const layout_tensor *t);
    /* Rows [first, first + rows) as fp32 into out [rows * cols]. */
    status (*read)(void *context, const layout_tensor *t, int64_t first, int64_t rows,
                   float *out);
    void *context;
} export_source;

typedef struct model_export {
    const model_config *config;
    bool tied;        /* no head of its own is written */
    const char *from; /* folder whose tokenizer files and generation_config.json are copied */
    const char *out;  /* must not exist, or be an empty folder */
    dtype type;       /* F32, BF16, F16 */
    bool quantize;    /* linears in bitsandbytes' 4 bits, from their values rounded to `type` */
    dtype quantized;  /* NF4 or FP4, when `quantize` */
    bool nested;      /* their scales too */
    double *error;    /* what that moved the linears by, relative rms; may be NULL */
    int64_t shard_bytes; /* a file's weights at most (one tensor may be more); 0: 5 GB */
    const int32_t *eos; /* [eos_count] replaces eos_token_id where training changed it; NULL */
    int eos_count;
    const export_source *source;
    const load_progress *progress; /* bytes written and read back; may be NULL */
} model_export;

/* STATUS_USAGE: `out` is there and not empty. STATUS_MODEL: a value that is not finite in
 * `type`. STATUS_IO: no space, or what was read back differs. On failure nothing stands under
 * `out`. */
status model_export_write(const model_export *x);

#endif
