/* number.c: Python's arithmetic on numbers, + * % of sequences, and numbers as text. */
#include "data/jinja/text.h"
#include "common/checked.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

/* ---- as text ---- */

void jinja_real_text(double d, char out[NUMBER_TEXT]) {
    if (isnan(d) || isinf(d)) {
        snprintf(out, NUMBER_TEXT, "%s", isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    char digits[NUMBER_TEXT]; /* d.ddde+xx, the shortest that reads back the same */
    for (int p = 0; p < 17; p++) {
        snprintf(digits, sizeof digits, "%.*e", p, d);
        if (strtod(digits, NULL) == d) break;
    }
    char *e = strchr(digits, 'e');
    int exponent = atoi(e + 1), p = (int)(e - digits) - (digits[0] == '-');
    int decimals = p > 2 ? p - 2 : 0; /* behind the point */
    if (exponent >= -4 && exponent < 16) {
        snprintf(out, NUMBER_TEXT, "%.*f", decimals > exponent ? decimals - exponent : 1, d);
        return;
    }
    *e = 0;
    snprintf(out, NUMBER_TEXT, "%.24se%c%02d", digits, exponent < 0 ? '-' : '+',
             abs(exponent));
}

/* Python's number syntax: white space around, single _ between digits. Into `out` without _. */
static bool clean_number(const string *s, char *out, size_t room) {
    const char *p = s->text, *end = p + s->bytes;
    size_t n = 0;
    while (p < end && jinja_space((unsigned char)*p)) p++;
    while (end > p && jinja_space((unsigned char)end[-1])) end--;
    for (const char *q = p; q < end; q++) {
        if (*q == '_') {
            bool between = q > p && q + 1 < end && q[-1] != '_' && q[1] != '_' &&
                           strchr("0123456789abcdefABCDEFxXoO", q[-1]) &&
                           strchr("0123456789abcdefABCDEF", q[1]);
            if (!between) return false;
            continue;
        }
        if ((unsigned char)*q >= 0x80 || !*q || n + 1 >= room) return false;
        out[n++] = *q;
    }
    out[n] = 0;
    return n > 0;
}

bool jinja_parse_int(const string *s, int base, int64_t *out, bool *big) {
    char word[128], *p = word, *end;
    *big = false;
    if (!clean_number(s, word, sizeof word)) return false;
    bool minus = *p == '-';
    if (*p == '-' || *p == '+') p++;
    char kind = p[0] == '0' ? (char)(p[1] | 0x20) : 0;
    int prefixed = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    if (prefixed && (base == prefixed || base == 0)) p += 2, base = prefixed;
    if (base == 0) base = 10;
    if (!*p || *p == '-' || *p == '+' || jinja_space((unsigned char)*p)) return false;
    if (prefixed && base == 16 && p[0] == '0' && (p[1] | 0x20) == 'x') return false;
    unsigned long long u = strtoull(p, &end, base);
    if (*end) return false;
    *big = strlen(p) > 18 && (u > INT64_MAX || strlen(p) > 64);
    *out = minus ? -(int64_t)u : (int64_t)u;
    return true;
}

bool jinja_parse_real(const string *s, double *out) {
    char word[400], *end;
    if (!clean_number(s, word, sizeof word)) return false;
    const char *p = word + (*word == '-' || *word == '+');
    bool name = !strcasecmp(p, "inf") || !strcasecmp(p, "nan") || !strcasecmp(p, "infinity");
    if (!name && strspn(p, "0123456789.eE+-") != strlen(p)) return false;
    if (!name && !strchr("0123456789.", *p)) return false;
    *out = strtod(word, &end);
    return !*end;
}

/* ---- sequences ---- */

static status add_lists(machine *m, value a, value b, value *out) {
    list *l;
    size_t n = a.list->count, k = b.list->count;
    TRY(jinja_step(m, (n + k) / 4));
    TRY(jinja_make_list(m, n + k, &l));
    if (n) memcpy(l->items, a.list->items, n * sizeof *l->items);
    if (k) memcpy(l->items + n, b.list->items, k * sizeof *l->items);
    *out = (value){.kind = a.kind, .list = l};
    return STATUS_OK;
}

/* What is added to a text that is safe is escaped, and the sum is safe. */
static status add_strings(machine *m, string *a, string *b, value *out) {
    builder t = {0};
    bool safe = a->safe || b->safe;
    TRY(jinja_step(m, (a->bytes + b->bytes) / 64));
    TRY(safe && !a->safe ? jinja_put_escaped(m, &t, a) : jinja_put_string(m, &t, a));
    TRY(safe && !b->safe ? jinja_put_escaped(m, &t, b) : jinja_put_string(m, &t, b));
    TRY(jinja_build(m, &t, out));
    out->string->safe = safe;
    return STATUS_OK;
}

static bool is_sequence(const value *v) {
    return v->kind == V_STRING || v->kind == V_LIST || v->kind == V_TUPLE;
}

static status repeat(machine *m, value v, int64_t times, value *out) {
    if (times < 0) times = 0;
    size_t each = v.kind == V_STRING ? v.string->bytes : v.list->count * sizeof(value);
    int64_t bytes;
    if (!checked_mul_i64((int64_t)each, times, &bytes) || bytes > JINJA_OUTPUT)
        return jinja_raise(m, "MemoryError", "a value of more than %d MiB",
                           JINJA_OUTPUT >> 20);
    if (!each) times = 1;
    TRY(jinja_step(m, (uint64_t)times + (uint64_t)bytes / 64));
    if (v.kind == V_STRING) {
        builder b = {0};
        for (int64_t i = 0; i < times; i++) TRY(jinja_put_string(m, &b, v.string));
        return jinja_build(m, &b, out);
    }
    list *l;
    size_t n = v.list->count;
    TRY(jinja_make_list(m, n * (size_t)times, &l));
    for (size_t i = 0; i < l->count; i++) l->items[i] = v.list->items[i % n];
    *out = (value){.kind = v.kind, .list = l};
    return STATUS_OK;
}

/* ---- numbers ---- */

static status too_big(machine *m) {
    return jinja_unsupported(m, "an integer of more than 64 bits");
}

static status by_zero(machine *m, const char *what) {
    return jinja_raise(m, "ZeroDivisionError", "%s", what);
}

static status integer_power(machine *m, int64_t a, int64_t b, value *out) {
    if (b < 0) {
        if (!a) return by_zero(m, "0.0 cannot be raised to a negative power");
        *out = REAL(pow((double)a, (double)b));
        return STATUS_OK;
    }
    int64_t result = 1;
    for (int64_t base = a; b; b >>= 1) {
        if (b & 1 && !checked_mul_i64(result, base, &result)) return too_big(m);
        if (b > 1 && !checked_mul_i64(base, base, &base)) return too_big(m);
    }
    *out = INT(result);
    return STATUS_OK;
}

static status integers(machine *m, int sign, int64_t a, int64_t b, value *out) {
    int64_t result = 0;
    bool fits = true;
    switch (sign) {
    case SIGN_ADD:
        fits = checked_add_i64(a, b, &result);
        break;
    case SIGN_SUB:
        fits = !__builtin_sub_overflow(a, b, &result);
        break;
    case SIGN_MUL:
        fits = checked_mul_i64(a, b, &result);
        break;
    case SIGN_POW:
        return integer_power(m, a, b, out);
    default:
        if (!b)
            return by_zero(m, sign == SIGN_DIV ? "division by zero"
                                               : "integer division or modulo by zero");
        if (sign == SIGN_DIV) {
            *out = REAL((double)a / (double)b);
            return STATUS_OK;
        }
        if (b == -1) { /* INT64_MIN / -1 */
            fits = sign == SIGN_MOD || a != INT64_MIN;
            result = sign == SIGN_MOD || !fits ? 0 : -a;
            break;
        }
        int64_t quotient = a / b, rest = a % b;
        if (rest && (rest < 0) != (b < 0)) quotient--, rest += b;
        result = sign == SIGN_MOD ? rest : quotient;
    }
    if (!fits) return too_big(m);
    *out = INT(result);
    return STATUS_OK;
}

/* a mod b with the sign of b, and the quotient that fits it. */
static double modulo(double a, double b, double *quotient) {
    double rest = fmod(a, b);
    *quotient = (a - rest) / b;
    if (rest && (rest < 0) != (b < 0)) rest += b, *quotient -= 1;
    if (!rest) rest = copysign(0, b);
    if (*quotient) {
        double whole = floor(*quotient);
        *quotient = *quotient - whole > 0.5 ? whole + 1 : whole;
    } else {
        *quotient = copysign(0, a / b);
    }
    return rest;
}

static status reals(machine *m, int sign, double a, double b, value *out) {
    double quotient, rest;
    switch (sign) {
    case SIGN_ADD:
        *out = REAL(a + b);
        return STATUS_OK;
    case SIGN_SUB:
        *out = REAL(a - b);
        return STATUS_OK;
    case SIGN_MUL:
        *out = REAL(a * b);
        return STATUS_OK;
    case SIGN_POW:
        if (!a && b < 0) return by_zero(m, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b)) return jinja_unsupported(m, "a complex number");
        *out = REAL(pow(a, b));
        if (isinf(out->real) && !isinf(a) && !isinf(b))
            return jinja_raise(m, "OverflowError", "(34, 'Numerical result out of range')");
        return STATUS_OK;
    default:
        if (!b)
            return by_zero(m, sign == SIGN_DIV     ? "float division by zero"
                              : sign == SIGN_FLOOR ? "float floor division by zero"
                                                   : "float modulo");
        rest = modulo(a, b, &quotient);
        *out = REAL(sign == SIGN_DIV ? a / b : sign == SIGN_MOD ? rest : quotient);
        return STATUS_OK;
    }
}

static status no_such(machine *m, int sign, const value *a, const value *b) {
    if (a->kind == V_UNDEFINED || b->kind == V_UNDEFINED)
        return jinja_raise_undefined(m, (a->kind == V_UNDEFINED ? a : b)->undefined);
    if (sign == SIGN_ADD && a->kind == V_STRING)
        return jinja_raise(m, "TypeError", "can only concatenate str (not \"%s\") to str",
                           jinja_type(b));
    if (sign == SIGN_ADD && (a->kind == V_LIST || a->kind == V_TUPLE))
        return jinja_raise(m, "TypeError", "can only concatenate %s (not \"%s\") to %s",
                           jinja_type(a), jinja_type(b), jinja_type(a));
    if (sign == SIGN_MUL && (is_sequence(a) || is_sequence(b)))
        return jinja_raise(m, "TypeError", "can't multiply sequence by non-int of type '%s'",
                           jinja_type(is_sequence(a) ? b : a));
    return jinja_raise(m, "TypeError", "unsupported operand type(s) for %s: '%s' and '%s'",
                       signs[sign], jinja_type(a), jinja_type(b));
}

status jinja_arithmetic(machine *m, int sign, value a, value b, value *out) {
    int64_t i, j;
    double x, y;
    bool safe =
        (a.kind == V_STRING && a.string->safe) || (b.kind == V_STRING && b.string->safe);
    if (safe && !(sign == SIGN_ADD && a.kind == V_STRING && b.kind == V_STRING))
        return jinja_unsupported(m, "arithmetic with what the filter safe gave");
    if (sign == SIGN_ADD && a.kind == V_STRING && b.kind == V_STRING)
        return add_strings(m, a.string, b.string, out);
    bool ints = jinja_integer(&a, &i), both = jinja_integer(&b, &j);
    if (ints && both) return integers(m, sign, i, j, out);
    if (jinja_number(&a, &x) && jinja_number(&b, &y)) return reals(m, sign, x, y, out);
    if (sign == SIGN_MOD && a.kind == V_STRING) return jinja_percent(m, a.string, b, out);
    if (sign == SIGN_ADD && (a.kind == V_LIST || a.kind == V_TUPLE) && a.kind == b.kind)
        return add_lists(m, a, b, out);
    if (sign == SIGN_MUL && is_sequence(&a) && both) return repeat(m, a, j, out);
    if (sign == SIGN_MUL && is_sequence(&b) && ints) return repeat(m, b, i, out);
    return no_such(m, sign, &a, &b);
}

status jinja_negate(machine *m, value v, bool minus, value *out) {
    int64_t i;
    if (v.kind == V_REAL) {
        *out = REAL(minus ? -v.real : v.real);
        return STATUS_OK;
    }
    if (jinja_integer(&v, &i)) {
        if (minus && i == INT64_MIN) return too_big(m);
        *out = INT(minus ? -i : i);
        return STATUS_OK;
    }
    if (v.kind == V_UNDEFINED) return jinja_raise_undefined(m, v.undefined);
    return jinja_raise(m, "TypeError", "bad operand type for unary %s: '%s'",
                       minus ? "-" : "+", jinja_type(&v));
}
