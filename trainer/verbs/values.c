/* values.c: scalars by type. */
#include "trainer/verbs/values.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *value_bool(const char *words, bool *out) {
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!strcasecmp(words, yes[i]) || !strcasecmp(words, no[i])) {
            *out = !strcasecmp(words, yes[i]);
            return NULL;
        }
    return "must be true or false";
}

/* Copies a decimal number without its underscores, which must stand between digits. False when
 * it is no decimal number: sign, digits, fraction, exponent. */
static bool copy_number(const char *words, char out[64], bool *integral) {
    size_t n = 0, digits = 0;
    const char *p = words;
    if (*p == '+' || *p == '-') out[n++] = *p++;
    *integral = true;
    for (char last = 0; *p; last = *p++) {
        if (n >= 60) return false;
        if (*p == '_') {
            if (!isdigit((unsigned char)last) || !isdigit((unsigned char)p[1])) return false;
            continue;
        }
        if (isdigit((unsigned char)*p))
            digits++;
        else if (*p == '.' && *integral)
            *integral = false;
        else if ((*p == 'e' || *p == 'E') && digits)
            break;
        else
            return false;
        out[n++] = *p;
    }
    if (!digits) return false;
    if (*p) { /* exponent */
        *integral = false;
        out[n++] = *p++;
        if (*p == '+' || *p == '-') out[n++] = *p++;
        if (!isdigit((unsigned char)*p)) return false;
        for (; isdigit((unsigned char)*p) && n < 62; p++) out[n++] = *p;
        if (*p) return false;
    }
    out[n] = '\0';
    return true;
}

/* 0x10, 0o17, 017: not the same number for every reader of YAML. */
static bool other_base(const char *words) {
    if (*words == '+' || *words == '-') words++;
    return words[0] == '0' &&
           (isdigit((unsigned char)words[1]) || strchr("xXoObB_", words[1])) && words[1];
}

static const char decimal_only[] =
    "must be written in decimal (a leading 0, 0x or 0o means different numbers to different "
    "readers)";

const char *value_real(const char *words, double *out) {
    char number[64];
    bool integral;
    if (other_base(words)) return decimal_only;
    if (!copy_number(words, number, &integral)) return "must be a number";
    double value = strtod(number, NULL);
    if (!isfinite(value)) return "must be a finite number";
    *out = value;
    return NULL;
}

const char *value_int(const char *words, int64_t *out) {
    char number[64];
    bool integral;
    if (other_base(words)) return decimal_only;
    if (!copy_number(words, number, &integral)) return "must be a whole number";
    double value = strtod(number, NULL);
    if (value != floor(value)) return "must be a whole number";
    if (fabs(value) > 0x1p53) return "must be a smaller number";
    *out = integral ? strtoll(number, NULL, 10) : (int64_t)value;
    return NULL;
}

const char *value_bytes(const char *words, int64_t *out) {
    static const char wrong[] =
        "must be a number of bytes such as 24GB (10^9) or 24GiB (2^30)";
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {{"TiB", 0x1p40}, {"GiB", 0x1p30}, {"MiB", 0x1p20},
                 {"KiB", 0x1p10}, {"TB", 1e12},    {"GB", 1e9},
                 {"MB", 1e6},     {"KB", 1e3},     {"B", 1}};
    size_t length = strcspn(words, "TGMKBtgmkb ");
    char number[64];
    if (length >= sizeof number) return wrong;
    memcpy(number, words, length);
    number[length] = '\0';
    const char *suffix = words + length + strspn(words + length, " ");
    double value, factor = *suffix ? 0 : 1;
    for (size_t i = 0; i < sizeof units / sizeof *units && !factor; i++)
        if (!strcasecmp(suffix, units[i].suffix)) factor = units[i].factor;
    if (!factor || value_real(number, &value) || value < 0 || value * factor >= 9e18)
        return wrong;
    if (!*suffix && value > 0 && value < 4096)
        return wrong; /* 24 means 24GB, or nobody knows */
    *out = (int64_t)(value * factor);
    return NULL;
}

int value_choice(const char *words, const char *choices) {
    size_t length = strlen(words);
    for (int i = 0;; i++) {
        size_t n = strcspn(choices, "|");
        if (n == length && !strncasecmp(words, choices, n)) return i;
        if (!choices[n]) return -1;
        choices += n + 1;
    }
}

void value_choice_name(const char *choices, int i, char out[32]) {
    while (i-- > 0) choices += strcspn(choices, "|") + 1;
    snprintf(out, 32, "%.*s", (int)strcspn(choices, "|"), choices);
}
