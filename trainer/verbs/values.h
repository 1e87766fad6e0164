/* values.h: the text of a scalar as what its key wants. The key decides, not the spelling:
 * `no` is text for output_dir and false for sample_packing, 1e-4 is a number whatever YAML 1.1
 * says, and quotes make no difference. Spellings that different readers of YAML take for
 * different numbers (0o17, 017, 0x10, 1:30) are refused rather than guessed.
 *
 * Each returns NULL, or what is wrong ("must be ..."), a literal. */
#ifndef NIBBLE_TRAINER_VERBS_VALUES_H
#define NIBBLE_TRAINER_VERBS_VALUES_H

#include <stdbool.h>
#include <stdint.h>

const char *value_bool(const char *words, bool *out);   /* true/false, yes/no, on/off, 1/0 */
const char *value_int(const char *words, int64_t *out); /* 1000, 1_000, 1e3, 1000.0 */
const char *value_real(const char *words, double *out);

/* 24GB (10^9), 24GiB (2^30), also KB MB TB and 1.5GiB; a bare number is bytes. */
const char *value_bytes(const char *words, int64_t *out);

/* The position of `words` in "a|b|c", -1 when it is not there. */
int value_choice(const char *words, const char *choices);
/* Copies the i-th choice; out holds at least 32 bytes. */
void value_choice_name(const char *choices, int i, char out[32]);

#endif
