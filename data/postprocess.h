/* postprocess.h: what stands before and behind a text when special tokens are asked for:
 * TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel (which adds none),
 * Sequence. */
#ifndef NIBBLE_DATA_POSTPROCESS_H
#define NIBBLE_DATA_POSTPROCESS_H

#include "common/json.h"
#include "common/status.h"
#include "data/tokenizer.h"

typedef struct postprocessor {
    id_list before, after;
} postprocessor;

/* From the value of "post_processor"; null or NULL adds nothing. */
status postprocessor_read(postprocessor *p, const json_t *json);
void postprocessor_free(postprocessor *p); /* a zeroed one is fine */

#endif
