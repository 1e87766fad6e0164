/* merge.h: where an exported model's values come from.
 *
 * An adapter merged into its base: W + scale * B A in fp32, rounded once by export.h. Two
 * bases: original     the 16-bit weights of the files; what was trained on 4-bit weights then
 * stands on slightly others dequantized  the weights that training saw: rounded to the compute
 * type, quantized, dequantized; every linear, adapted or not A base that is 4-bit in its files
 * has only the second. Or, after full training, the masters. */
#ifndef NIBBLE_TRAINER_MODEL_MERGE_H
#define NIBBLE_TRAINER_MODEL_MERGE_H

#include "trainer/model/export.h"
#include "trainer/model/lora_spec.h"

typedef struct merge_options {
    bool dequantized;
    dtype compute;  /* of the training run: what weights are rounded to before quantization */
    dtype quantize; /* DTYPE_NF4, DTYPE_FP4 of the run, when dequantized */
    bool nested;
} merge_options;

typedef struct merge merge;

/* `w` and `adapter` (NULL: none) must outlive it. STATUS_MODEL when the adapter does not fit.
 */
status merge_open(merge **out, weights *w, const peft_adapter *adapter,
                  const merge_options *o);
void merge_close(merge *m);
/* To be given to model_export. */
export_source merge_source(merge *m);

/* The masters of full training as a source; `context` is the pair. */
typedef struct masters_context {
    const decoder *d;
    engine *e;
} masters_context;
export_source masters_source(masters_context *c);

#endif
