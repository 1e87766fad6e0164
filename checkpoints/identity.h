/* identity.h: what a base model is, by its bytes: XXH3-128 per tensor.
 *
 * A checkpoint and a quantized cache remember the base that they belong to as a JSON object
 * from tensor name to 32 hexadecimal digits, taken while the tensors were read anyway.
 * Checking all of it again costs a full read; the quick check hashes names, types, shapes and
 * a few sampled blocks of each tensor, which finds another model and most damage in well under
 * a second. */
#ifndef NIBBLE_CHECKPOINTS_IDENTITY_H
#define NIBBLE_CHECKPOINTS_IDENTITY_H

#include "checkpoints/model_files.h"
#include "common/hash.h"

/* XXH3-128 of a range of a file, read in pieces. */
status identity_range(const file *f, int64_t offset, int64_t bytes, hash128 *out);
/* Of one tensor's raw bytes as the file holds them. */
status identity_tensor(const model_tensor *t, hash128 *out);

/* Adds name -> hash to a JSON object. */
status identity_add(json_t *tensors, const char *name, hash128 hash);
/* One hash of an identity, whatever the order of its names. */
status identity_digest(const json_t *tensors, char text[HASH_TEXT]);
/* All tensors of a model: a full read. *tensors is to be json_decref'ed. */
status identity_full(const model_files *m, json_t **tensors);

/* Names, types, shapes, sizes and up to four blocks of 4 KiB per tensor in one hash. It does
 * not depend on how the tensors are spread over shards, nor on their order in them. */
status identity_quick(const model_files *m, hash128 *out);

/* STATUS_MODEL when two identities differ: how many tensors do, and the first of them.
 * `expected_of` and `found_in` name the two sides in the message. */
status identity_compare(const json_t *expected, const json_t *found, const char *expected_of,
                        const char *found_in);

#endif
