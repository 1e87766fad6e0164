/* tests.c: `x is defined` and its kind. */
#include "data/jinja/strings.h"

#include <string.h>

#define TEST(name) static status name(machine *m, value self, value *a, value *out)
#define ANSWER(name, truth)                                                                   \
    TEST(name) {                                                                              \
        *out = BOOL(truth);                                                                   \
        return STATUS_OK;                                                                     \
    }

ANSWER(is_defined, self.kind != V_UNDEFINED)
ANSWER(is_undefined, self.kind == V_UNDEFINED)
ANSWER(is_none, self.kind == V_NONE)
ANSWER(is_boolean, self.kind == V_BOOL)
ANSWER(is_true, self.kind == V_BOOL && self.truth)
ANSWER(is_false, self.kind == V_BOOL && !self.truth)
ANSWER(is_integer, self.kind == V_INT)
ANSWER(is_float, self.kind == V_REAL)
ANSWER(is_number, self.kind == V_INT || self.kind == V_REAL || self.kind == V_BOOL)
ANSWER(is_string, self.kind == V_STRING)
ANSWER(is_mapping, self.kind == V_DICT)
ANSWER(is_iterable, jinja_can_iterate(&self) || self.kind == V_LOOP)
ANSWER(is_sequence, self.kind == V_STRING || self.kind == V_LIST || self.kind == V_TUPLE ||
                        self.kind == V_DICT || self.kind == V_RANGE ||
                        self.kind == V_UNDEFINED)
ANSWER(is_callable, self.kind == V_MACRO || self.kind == V_METHOD || self.kind == V_FUNCTION ||
                        self.kind == V_LOOP || self.kind == V_UNDEFINED)
ANSWER(is_escaped, self.kind == V_STRING && self.string->safe)
ANSWER(is_equal, jinja_equal(&self, &a[0]))
ANSWER(is_unequal, !jinja_equal(&self, &a[0]))

/* The same object: small numbers, the constants, and what stands in the same place. */
TEST(is_sameas) {
    bool same = self.kind == a[0].kind;
    if (same && (self.kind == V_BOOL || self.kind == V_INT || self.kind == V_REAL))
        same = jinja_equal(&self, &a[0]);
    else if (same && self.kind == V_STRING)
        same = jinja_string_equal(self.string, a[0].string);
    else if (same && self.kind != V_NONE)
        same = self.dict == a[0].dict;
    *out = BOOL(same);
    return STATUS_OK;
}

static status by_order(machine *m, value a, value b, const char *sign, value *out) {
    int order;
    TRY(jinja_compare(m, &a, &b, sign, &order));
    bool equal = sign[1] && order == 0;
    *out = BOOL(order != 2 && (equal || (*sign == '<' ? order < 0 : order > 0)));
    return STATUS_OK;
}

TEST(is_less) {
    return by_order(m, self, a[0], "<", out);
}
TEST(is_at_most) {
    return by_order(m, self, a[0], "<=", out);
}
TEST(is_more) {
    return by_order(m, self, a[0], ">", out);
}
TEST(is_at_least) {
    return by_order(m, self, a[0], ">=", out);
}

TEST(is_in) {
    bool found;
    TRY(jinja_contains(m, self, a[0], &found));
    *out = BOOL(found);
    return STATUS_OK;
}

static status has_rest(machine *m, value self, value by, int64_t rest, value *out) {
    value r, wanted = INT(rest);
    TRY(jinja_arithmetic(m, SIGN_MOD, self, by, &r));
    *out = BOOL(jinja_equal(&r, &wanted));
    return STATUS_OK;
}

TEST(is_odd) {
    return has_rest(m, self, INT(2), 1, out);
}
TEST(is_even) {
    return has_rest(m, self, INT(2), 0, out);
}
TEST(is_divisible) {
    return has_rest(m, self, a[0], 0, out);
}

TEST(is_lower) {
    string *s;
    TRY(jinja_text(m, self, &s));
    return jinja_str_islower(m, STRING(s), a, out);
}
TEST(is_upper) {
    string *s;
    TRY(jinja_text(m, self, &s));
    return jinja_str_isupper(m, STRING(s), a, out);
}

static const builtin tests[] = {{"defined", is_defined, {0}, 0, NULL},
                                {"undefined", is_undefined, {0}, 0, NULL},
                                {"none", is_none, {0}, 0, NULL},
                                {"boolean", is_boolean, {0}, 0, NULL},
                                {"true", is_true, {0}, 0, NULL},
                                {"false", is_false, {0}, 0, NULL},
                                {"integer", is_integer, {0}, 0, NULL},
                                {"float", is_float, {0}, 0, NULL},
                                {"number", is_number, {0}, 0, NULL},
                                {"string", is_string, {0}, 0, NULL},
                                {"mapping", is_mapping, {0}, 0, NULL},
                                {"iterable", is_iterable, {0}, 0, NULL},
                                {"sequence", is_sequence, {0}, 0, NULL},
                                {"callable", is_callable, {0}, 0, NULL},
                                {"escaped", is_escaped, {0}, 0, NULL},
                                {"eq", is_equal, {"other"}, 1, NULL},
                                {"equalto", is_equal, {"other"}, 1, NULL},
                                {"==", is_equal, {"other"}, 1, NULL},
                                {"ne", is_unequal, {"other"}, 1, NULL},
                                {"!=", is_unequal, {"other"}, 1, NULL},
                                {"sameas", is_sameas, {"other"}, 1, NULL},
                                {"lt", is_less, {"other"}, 1, NULL},
                                {"lessthan", is_less, {"other"}, 1, NULL},
                                {"<", is_less, {"other"}, 1, NULL},
                                {"le", is_at_most, {"other"}, 1, NULL},
                                {"<=", is_at_most, {"other"}, 1, NULL},
                                {"gt", is_more, {"other"}, 1, NULL},
                                {"greaterthan", is_more, {"other"}, 1, NULL},
                                {">", is_more, {"other"}, 1, NULL},
                                {"ge", is_at_least, {"other"}, 1, NULL},
                                {">=", is_at_least, {"other"}, 1, NULL},
                                {"in", is_in, {"seq"}, 1, NULL},
                                {"odd", is_odd, {0}, 0, NULL},
                                {"even", is_even, {0}, 0, NULL},
                                {"divisibleby", is_divisible, {"num"}, 1, NULL},
                                {"lower", is_lower, {0}, 0, NULL},
                                {"upper", is_upper, {0}, 0, NULL}};

const builtin *jinja_find_test(const char *name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (!strcmp(tests[i].name, name)) return &tests[i];
    return NULL;
}
