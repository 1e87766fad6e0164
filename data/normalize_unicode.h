/* normalize_unicode.h: NFC, NFD, NFKC and NFKD as the `tokenizers` library computes them:
 * through utf8proc, but by the tables of Unicode 9, and linear in the text whatever it holds.
 */
#ifndef NIBBLE_DATA_NORMALIZE_UNICODE_H
#define NIBBLE_DATA_NORMALIZE_UNICODE_H

#include "common/status.h"
#include "data/normalize.h"

enum { FORM_COMPOSED = 1, FORM_COMPATIBLE = 2 }; /* NFC = 1, NFKC = 3, NFD = 0, NFKD = 2 */

void normalize_unicode_setup(void);

/* Appends the form of valid UTF-8 to *out. */
status normalize_unicode(normalizer_scratch *s, const char *text, size_t bytes, int form,
                         text_buffer *out);

/* How many leading bytes the form surely leaves as they are, whatever follows. */
size_t normalize_unicode_stable(const char *text, size_t bytes, int form);

#endif
