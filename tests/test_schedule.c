/* test_schedule.c: learning rates of every step: transformers' own test values, the formulas of
 * NUMERICS.md section 2 exactly, and the ends of each schedule. */
#include "trainer/run/schedule.h"

#include "common/json.h"
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { STEPS = 10 };
static const double PI = 3.14159265358979323846;

/* ---- transformers' values ---- */

static void check_list(const json_t *all, const char *name, const lr_schedule *s) {
    const json_t *list = json_object_get(all, name);
    assert_int_equal(json_array_size(list), STEPS);
    for (int k = 0; k < STEPS; k++) {
        double want = json_number_value(json_array_get(list, (size_t)k)), got = lr_at(s, k);
        if (fabs(got - want) > 1e-2)
            fail_msg("%s, index %d: %g, expected %g", name, k, got, want);
    }
}

static void equals_transformers(void **state) {
    const char *path = FIXTURES "/expectations/hf_lr_schedules.json";
    if (!file_exists(path)) {
        print_message("no fixtures at %s\n", path);
        skip();
    }
    json_t *all;
    assert_int_equal(json_read_file(path, 1 << 20, STATUS_DATA, &all), STATUS_OK);
    lr_schedule s = {.peak = 10, .total = STEPS};
    s.kind = SCHEDULER_CONSTANT;
    check_list(all, "constant", &s);
    s.kind = SCHEDULER_CONSTANT_WITH_WARMUP, s.warmup = 4;
    check_list(all, "constant_with_warmup(warmup=4)", &s);
    s.kind = SCHEDULER_LINEAR, s.warmup = 2;
    check_list(all, "linear(warmup=2,total=10)", &s);
    s.kind = SCHEDULER_COSINE;
    check_list(all, "cosine(warmup=2,total=10)", &s);
    json_decref(all);
}

/* ---- the formulas ---- */

/* The rate at an index of a run, written once more as the formula stands on paper. */
static double formula(const lr_schedule *s, int64_t index) {
    double k = (double)index, w = (double)s->warmup, n = (double)s->total;
    if (s->kind == SCHEDULER_CONSTANT) return s->peak;
    if (k < w) return s->peak * k / w;
    switch (s->kind) {
    case SCHEDULER_LINEAR: return s->peak * (n - k) / (n - w);
    case SCHEDULER_COSINE: {
        double floor = s->min_ratio * s->peak;
        return floor + (s->peak - floor) * (1 + cos(PI * (k - w) / (n - w))) / 2;
    }
    default: return s->peak;
    }
}

static void follows_the_formulas(void **state) {
    static const config_scheduler kinds[] = {SCHEDULER_CONSTANT, SCHEDULER_CONSTANT_WITH_WARMUP,
                                             SCHEDULER_LINEAR, SCHEDULER_COSINE};
    static const int64_t totals[] = {1, 7, 100, 12345}, warmups[] = {0, 1, 3, 50};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (size_t t = 0; t < sizeof totals / sizeof *totals; t++)
            for (size_t w = 0; w < sizeof warmups / sizeof *warmups; w++) {
                lr_schedule s = {kinds[i], 3e-4, 0.1, warmups[w], totals[t]};
                if (s.warmup >= s.total) continue;
                for (int64_t k = 0; k < s.total; k += 1 + s.total / 50)
                    assert_true(fabs(lr_at(&s, k) - formula(&s, k)) <= 1e-15);
            }
}

static void ends_where_it_should(void **state) {
    lr_schedule s = {SCHEDULER_COSINE, 2e-4, 0, 5, 100};
    assert_true(lr_at(&s, 0) == 0);      /* with warm-up the first rate is 0 */
    assert_true(lr_at(&s, 5) == 2e-4);   /* the peak, exactly */
    assert_true(lr_at(&s, 99) > 0);      /* the last index of a run is N - 1 */
    assert_true(lr_at(&s, 100) < 1e-19); /* one past it: nothing left */
    s.min_ratio = 0.25;
    assert_true(fabs(lr_at(&s, 100) - 0.25 * 2e-4) < 1e-18);
    s.kind = SCHEDULER_LINEAR;
    assert_true(lr_at(&s, 100) == 0);
    assert_true(lr_at(&s, 101) == 0); /* never negative */
}

/* A run that is all warm-up, and none at all: no division by zero. */
static void survives_odd_lengths(void **state) {
    lr_schedule s = {SCHEDULER_LINEAR, 1, 0, 10, 10};
    assert_true(lr_at(&s, 9) == 0.9);
    assert_true(isfinite(lr_at(&s, 10)));
    s = (lr_schedule){SCHEDULER_COSINE, 1, 0, 20, 10};
    assert_true(lr_at(&s, 9) == 9.0 / 20);
    s = (lr_schedule){SCHEDULER_COSINE, 1, 0, 0, 1};
    assert_true(lr_at(&s, 0) == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_transformers),
        cmocka_unit_test(follows_the_formulas),
        cmocka_unit_test(ends_where_it_should),
        cmocka_unit_test(survives_odd_lengths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
