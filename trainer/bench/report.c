/* report.c: results of bench.h: collected round by round, printed, written as JSON. */
#include "trainer/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const bench_shape bench_shapes[3] = {
    {.layers = 12,
     .hidden = 768,
     .heads = 12,
     .kv_heads = 4,
     .head_dim = 64,
     .ffn = 2048,
     .vocab = 32000,
     .documents = 4,
     .length = 512,
     .targets = 512,
     .rounds = 7,
     .step_rounds = 3,
     .patience = 0.06},
    {.layers = 2,
     .hidden = 64,
     .heads = 4,
     .kv_heads = 2,
     .head_dim = 16,
     .ffn = 128,
     .vocab = 320,
     .documents = 2,
     .length = 64,
     .targets = 64,
     .rounds = 2,
     .step_rounds = 2,
     .patience = 0.002},
    {.layers = 1,
     .hidden = 4096,
     .heads = 32,
     .kv_heads = 8,
     .head_dim = 128,
     .ffn = 14336,
     .vocab = 128256,
     .documents = 2,
     .length = 2048,
     .targets = 1024,
     .rounds = 7,
     .step_rounds = 3,
     .patience = 0.1},
};

double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void bench_add(bench_report *r, const char *name, const char *unit, const char *limit,
               double value) {
    int i = 0;
    while (i < r->count && strcmp(r->items[i].name, name)) i++;
    if (i == BENCH_RESULTS) return;
    bench_result *q = &r->items[i];
    if (i == r->count) {
        r->count++;
        *q = (bench_result){.name = name, .unit = unit, .limit = limit};
    }
    if (q->rounds < BENCH_ROUNDS) q->value[q->rounds++] = value;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(const bench_result *r, double *least, double *most) {
    double sorted[BENCH_ROUNDS];
    int n = r->rounds;
    memcpy(sorted, r->value, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    *least = sorted[0];
    *most = sorted[n - 1];
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

json_t *bench_json(const bench_report *r) {
    json_t *o = json_object();
    for (int i = 0; i < r->count; i++) {
        const bench_result *q = &r->items[i];
        double least, most, median = bench_median(q, &least, &most);
        json_put(&o, q->name,
                 json_pack("{s:f, s:f, s:f, s:i, s:s, s:s}", "median", median, "least", least,
                           "most", most, "rounds", q->rounds, "unit", q->unit, "limit",
                           q->limit));
    }
    return o;
}

void bench_print(const bench_report *r) {
    printf("  %-26s %9s %9s %9s\n", "", "median", "least", "most");
    for (int i = 0; i < r->count; i++) {
        const bench_result *q = &r->items[i];
        double least, most, median = bench_median(q, &least, &most);
        int digits = median < 10 ? 3 : 1;
        printf("  %-26s %9.*f %9.*f %9.*f  %s%s%s\n", q->name, digits, median, digits, least,
               digits, most, q->unit, *q->limit ? " " : "", q->limit);
    }
}
