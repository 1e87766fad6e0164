/* bnb.h: bitsandbytes' 4-bit weights as Hugging Face checkpoints hold them.
 *
 *   NAME                                        U8 [(n+1)/2, 1], or the same bytes as a
 * 16/32-bit float type NAME.absmax                                 F32 [blocks], nested: U8
 * [blocks] NAME.quant_map                              F32 [16] NAME.nested_absmax,
 * NAME.nested_quant_map   F32 [ceil(blocks/256)], F32 [256]; nested only
 *   NAME.quant_state.bitsandbytes__nf4 (__fp4)  U8: JSON with quant_type, blocksize, dtype,
 * shape and, nested, nested_blocksize, nested_dtype, nested_offset
 *
 * This file turns that into the one contiguous piece of autograd/tensor.h and back; the tables
 * travel along. Matched: bitsandbytes 0.50, functional.py (QuantState.as_dict, from_dict). */
#ifndef NIBBLE_CHECKPOINTS_BNB_H
#define NIBBLE_CHECKPOINTS_BNB_H

#include "checkpoints/model_files.h"
#include "checkpoints/safetensors_writer.h"

typedef struct bnb_weight {
    tensor_format format; /* NF4 or FP4, rows x cols, block, nested */
    dtype source;         /* what it was quantized from: F32, BF16, F16 */
    float offset;         /* nested: mean of the scales */
    model_tensor codes, absmax, code;
    model_tensor absmax2, map; /* nested only */
} bnb_weight;

/* Looks whether `name` ("....weight") is stored in 4 bits and checks all of its parts: sizes,
 * types, the JSON to the last key. Plain tensors and absent ones: STATUS_OK and *found false.
 * STATUS_MODEL when a part is missing or malformed, and for 8-bit (SCB) weights. */
status bnb_find(const model_files *m, const char *name, bnb_weight *w, bool *found);

/* Reads it into `out` (format_bytes(&w->format) bytes, laid out as tensor_at expects). Scales
 * and tables must be finite: STATUS_MODEL. */
status bnb_read(const bnb_weight *w, void *out);

/* Writing, streaming: declares the parts of one 4-bit tensor, and later writes them from
 * `data`. The JSON is padded with spaces to a length that does not depend on the offset. */
status bnb_declare(safetensors_writer *w, const char *name, const tensor_format *format,
                   dtype source);
status bnb_write(safetensors_writer *w, const char *name, const tensor_format *format,
                 dtype source, const void *data);
/* The parts of one tensor: how many, and what stands behind its name ("" is the codes'). */
int bnb_part_count(const tensor_format *format);
const char *bnb_part_ending(const tensor_format *format, int part);

#endif
