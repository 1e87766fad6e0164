/* json_scan.h: JSON text to jansson's values, several times as fast as jansson's own reader.
 *
 * It accepts a subset of what jansson accepts, with the same values (tests/test_json_scan.c
 * holds the two side by side), and has no messages: where it is not sure it says NULL, and
 * jansson reads the text again, for good or for its verdict. So datasets of millions of rows
 * are fast, and what is wrong with one of them is told in jansson's words. */
#ifndef NIBBLE_COMMON_JSON_SCAN_H
#define NIBBLE_COMMON_JSON_SCAN_H

#include <jansson.h>
#include <stddef.h>

/* As json_loadb with the flags JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
 * NULL: ask that one. */
json_t *json_scan(const char *text, size_t bytes);

#endif
