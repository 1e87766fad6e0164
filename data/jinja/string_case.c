/* string_case.c: str's methods about the kind and case of letters. */
#include "data/jinja/strings.h"
#include "data/unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "data/jinja/case_tables.h"

#define COUNT(rows) (sizeof(rows) / sizeof *(rows))

enum letter_case { CASE_LOWER, CASE_UPPER, CASE_TITLE };

static int category(uint32_t code) {
    return utf8proc_category((utf8proc_int32_t)code);
}

static bool in_ranges(const code_range *r, size_t count, uint32_t code) {
    for (size_t i = 0; i < count; i++)
        if (code >= r[i].first && code <= r[i].last) return true;
    return false;
}

static bool is_lower(uint32_t code) {
    if (code < 0x80) return code >= 'a' && code <= 'z';
    return category(code) == UTF8PROC_CATEGORY_LL ||
           in_ranges(other_lower, COUNT(other_lower), code);
}

static bool is_upper(uint32_t code) {
    if (code < 0x80) return code >= 'A' && code <= 'Z';
    return category(code) == UTF8PROC_CATEGORY_LU ||
           in_ranges(other_upper, COUNT(other_upper), code);
}

static bool is_titled(uint32_t code) {
    return code >= 0x80 && category(code) == UTF8PROC_CATEGORY_LT;
}

static bool is_cased(uint32_t code) {
    return is_lower(code) || is_upper(code) || is_titled(code);
}

static bool is_letter(uint32_t code) {
    if (code < 0x80) return is_cased(code);
    int c = category(code);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_decimal(uint32_t code) {
    return code < 0x80 ? code >= '0' && code <= '9' : category(code) == UTF8PROC_CATEGORY_ND;
}

static bool is_digit(uint32_t code) {
    return is_decimal(code) || in_ranges(other_digits, COUNT(other_digits), code);
}

static bool is_letter_or_number(uint32_t code) {
    int c = category(code);
    return is_letter(code) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

/* Characters that do not end a word for the final sigma's rule. */
static bool is_case_ignorable(uint32_t code) {
    int c = category(code);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME ||
           c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_LM ||
           c == UTF8PROC_CATEGORY_SK || code == '\'' || code == '.' || code == ':' ||
           code == 0xB7 || code == 0x2019 || code == 0x2018 || code == 0x2024 ||
           code == 0x2027 || code == 0xFE13 || code == 0xFE52 || code == 0xFE55 ||
           code == 0xFF07 || code == 0xFF0E || code == 0xFF1A || code == 0x387 ||
           code == 0x55F || code == 0x5F4;
}

/* A capital sigma that ends a word. */
static bool is_final_sigma(const string *s, size_t at) {
    bool before = false;
    for (const char *p = s->text + at; p > s->text && !before;) {
        p = utf8_back(s->text, p);
        if (is_case_ignorable(utf8_get(p))) continue;
        before = is_cased(utf8_get(p));
        if (!before) return false;
    }
    for (size_t i = at + 2; before && i < s->bytes;
         i += utf8_length((unsigned char)s->text[i])) {
        uint32_t code = utf8_get(s->text + i);
        if (!is_case_ignorable(code)) return !is_cased(code);
    }
    return before;
}

/* The character at `at` in another case, as UTF-8. */
static size_t change(const string *s, size_t at, enum letter_case to, char out[16]) {
    uint32_t code = utf8_get(s->text + at);
    const expansion *rows = to == CASE_UPPER ? upper_expansions : title_expansions;
    size_t count = to == CASE_UPPER ? COUNT(upper_expansions) : COUNT(title_expansions), n = 0;
    utf8proc_int32_t c = (utf8proc_int32_t)code;
    if (to == CASE_LOWER) {
        if (code == 0x130) return memcpy(out, "i\xcc\x87", 3), 3;
        if (code == 0x3A3) return utf8_put(is_final_sigma(s, at) ? 0x3C2 : 0x3C3, out);
        return utf8_put((uint32_t)utf8proc_tolower(c), out);
    }
    for (size_t i = 0; code >= 0x80 && i < count; i++) {
        if (rows[i].code != code) continue;
        for (int k = 0; k < 3 && rows[i].to[k]; k++) n += utf8_put(rows[i].to[k], out + n);
        return n;
    }
    return utf8_put((uint32_t)(to == CASE_UPPER ? utf8proc_toupper(c) : utf8proc_totitle(c)),
                    out);
}

static bool is_ascii(const string *s) {
    for (uint32_t i = 0; i < s->bytes; i++)
        if ((unsigned char)s->text[i] >= 0x80) return false;
    return true;
}

/* Which case a character gets, from whether it begins the text or a word. */
typedef enum letter_case (*case_rule)(bool first, bool after_cased, uint32_t code);

static enum letter_case rule_lower(bool first, bool after_cased, uint32_t code) {
    return CASE_LOWER;
}
static enum letter_case rule_upper(bool first, bool after_cased, uint32_t code) {
    return CASE_UPPER;
}
static enum letter_case rule_capitalize(bool first, bool after_cased, uint32_t code) {
    return first ? CASE_TITLE : CASE_LOWER;
}
static enum letter_case rule_title(bool first, bool after_cased, uint32_t code) {
    return after_cased ? CASE_LOWER : CASE_TITLE;
}
static enum letter_case rule_swap(bool first, bool after_cased, uint32_t code) {
    return is_upper(code) ? CASE_LOWER : CASE_UPPER;
}

static status recase(machine *m, string *s, case_rule rule, value *out) {
    builder b = {0};
    bool cased = false;
    TRY(jinja_step(m, s->bytes / 8));
    if (is_ascii(s)) { /* each byte stays one: the marks stay as they are */
        string *made;
        TRY(jinja_string_new(m, s->text, s->bytes, &made));
        char *text = (char *)made->text;
        for (uint32_t i = 0; i < s->bytes; i++) {
            uint32_t c = (unsigned char)text[i];
            enum letter_case to = rule(i == 0, cased, c);
            cased = is_cased(c);
            if (cased) text[i] = (char)(to == CASE_LOWER ? c | 0x20 : c & ~0x20u);
        }
        made->safe = s->safe;
        made->runs = s->runs, made->run_count = s->run_count, made->chars = made->bytes;
        *out = STRING(made);
        return STATUS_OK;
    }
    for (size_t i = 0; i < s->bytes;) {
        char letters[16];
        uint32_t code = utf8_get(s->text + i);
        size_t n = change(s, i, rule(i == 0, cased, code), letters);
        TRY(jinja_put_instead(m, &b, s, i, letters, n));
        cased = is_cased(code);
        i += utf8_length((unsigned char)s->text[i]);
    }
    return jinja_build(m, &b, out);
}

#define RECASE(name, rule)                                                                    \
    status jinja_str_##name(machine *m, value self, value *a, value *out) {                   \
        return recase(m, self.string, rule, out);                                             \
    }
RECASE(lower, rule_lower)
RECASE(upper, rule_upper)
RECASE(capitalize, rule_capitalize)
RECASE(title, rule_title)
RECASE(swapcase, rule_swap)

/* ---- questions ---- */

static bool all(const string *s, bool (*test)(uint32_t code)) {
    for (size_t i = 0; i < s->bytes; i += utf8_length((unsigned char)s->text[i]))
        if (!test(utf8_get(s->text + i))) return false;
    return s->bytes > 0;
}

/* Cased characters are all of one kind, and there is one. */
static bool all_cased(const string *s, bool (*good)(uint32_t), bool (*bad)(uint32_t)) {
    bool some = false;
    for (size_t i = 0; i < s->bytes; i += utf8_length((unsigned char)s->text[i])) {
        uint32_t code = utf8_get(s->text + i);
        if (bad(code) || is_titled(code)) return false;
        some |= good(code);
    }
    return some;
}

static bool is_title_case(const string *s) {
    bool some = false, inside = false;
    for (size_t i = 0; i < s->bytes; i += utf8_length((unsigned char)s->text[i])) {
        uint32_t code = utf8_get(s->text + i);
        bool capital = is_upper(code) || is_titled(code), small = is_lower(code);
        if ((capital && inside) || (small && !inside)) return false;
        inside = capital || small;
        some |= inside;
    }
    return some;
}

static bool ascii_code(uint32_t code) {
    return code < 0x80;
}

#define QUESTION(name, answer)                                                                \
    status jinja_str_##name(machine *m, value self, value *a, value *out) {                   \
        const string *s = self.string;                                                        \
        *out = BOOL(answer);                                                                  \
        return STATUS_OK;                                                                     \
    }
QUESTION(isalpha, all(s, is_letter))
QUESTION(isalnum, all(s, is_letter_or_number))
QUESTION(isdecimal, all(s, is_decimal))
QUESTION(isdigit, all(s, is_digit))
QUESTION(isspace, all(s, jinja_space))
QUESTION(isascii, !s->bytes || all(s, ascii_code))
QUESTION(islower, all_cased(s, is_lower, is_upper))
QUESTION(isupper, all_cased(s, is_upper, is_lower))
QUESTION(istitle, is_title_case(s))

status jinja_str_isnumeric(machine *m, value self, value *a, value *out) {
    if (!is_ascii(self.string))
        return jinja_unsupported(m, "isnumeric() of other characters than ASCII");
    return jinja_str_isdigit(m, self, a, out);
}
