/* oniguruma.h: Oniguruma's pattern syntax (Ruby's), in which tokenizer.json writes its
 * patterns, translated to PCRE2's with the same meaning.
 *
 * Handled: everything that published Split patterns use: classes (nested ones too),
 * properties, shorthands with Oniguruma's Unicode meaning, groups, look-around, atomic groups,
 * intervals,
 * (?i). Refused by name: class intersections, (?x), inline options in the middle of a group,
 * subexpression calls, absent operators, and case-insensitive text that folds with ligatures.
 */
#ifndef NIBBLE_DATA_ONIGURUMA_H
#define NIBBLE_DATA_ONIGURUMA_H

#include "common/status.h"

#include <stddef.h>

/* *out is a fresh NUL-terminated PCRE2 pattern (for UTF and MULTILINE) of *out_bytes bytes.
 * STATUS_MODEL for what is not understood. */
status oniguruma_to_pcre2(const char *pattern, size_t bytes, char **out, size_t *out_bytes);

#endif
