/* dynamic.c: makes the two maps from their definition (torch's fp32 linspace in its symmetric
 * form included) instead of listing 512 numbers; tests hold their SHA-256. */
#include "quant/dynamic.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

static pthread_once_t made = PTHREAD_ONCE_INIT;
static float map_signed[DYNAMIC_CODES], map_unsigned[DYNAMIC_CODES];
static dynamic_finder finder_signed, finder_unsigned;

/* linspace(0.1, 1, n)[i]: torch fills the upper half from the end. */
static float boundary(int i, int n) {
    float step = (1.0f - 0.1f) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, 0.1f) : fmaf(-step, (float)(n - 1 - i), 1.0f);
}

static int compare_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Decade i holds the means of 2^i (signed) or 2^(i+1) (unsigned) intervals of [0.1, 1]. */
static void make_map(float map[DYNAMIC_CODES], int is_signed) {
    static const float decade[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    int count = 0;
    for (int i = 0; i < 7; i++) {
        int n = (1 << (is_signed ? i : i + 1)) + 1;
        for (int j = 0; j + 1 < n; j++) {
            float mean = (boundary(j, n) + boundary(j + 1, n)) / 2.0f;
            map[count++] = decade[i] * mean;
            if (is_signed) map[count++] = -decade[i] * mean;
        }
    }
    map[count++] = 0.0f;
    map[count++] = 1.0f;
    qsort(map, DYNAMIC_CODES, sizeof *map, compare_floats);
}

/* Ends of bucket k of magnitudes, as floats. */
static float bucket_from(int k) {
    return k ? bits_float((uint32_t)(k - 1 + DYNAMIC_LOWEST) << 16) : 0.0f;
}
static float bucket_to(int k) {
    return k + 1 < DYNAMIC_BUCKETS ? nextafterf(bucket_from(k + 1), 0.0f) : INFINITY;
}

/* Bucket `at` holds low <= y <= high; buckets come in ascending order, *code follows. */
static void add_bucket(dynamic_finder *finder, int at, float low, float high, int *code) {
    int last;
    while (low > finder->above[*code]) ++*code;
    finder->start[at] = (uint8_t)*code;
    for (last = *code; high > finder->above[last];) last++;
    if (last - *code > finder->steps) finder->steps = last - *code;
}

void dynamic_finder_make(dynamic_finder *finder, const float map[DYNAMIC_CODES]) {
    for (int i = 0; i + 1 < DYNAMIC_CODES; i++) {
        float middle = (map[i] + map[i + 1]) * 0.5f;
        /* The tie belongs to the even one of i and i + 1. */
        finder->above[i] = i % 2 ? nextafterf(middle, -INFINITY) : middle;
    }
    finder->above[DYNAMIC_CODES - 1] = INFINITY;
    finder->steps = 0;
    int code = 0;
    for (int k = DYNAMIC_BUCKETS - 1; k >= 0; k--)
        add_bucket(finder, DYNAMIC_BUCKETS + k, -bucket_to(k), -bucket_from(k), &code);
    for (int k = 0; k < DYNAMIC_BUCKETS; k++)
        add_bucket(finder, k, bucket_from(k), bucket_to(k), &code);
}

static void make_all(void) {
    make_map(map_signed, 1);
    make_map(map_unsigned, 0);
    dynamic_finder_make(&finder_signed, map_signed);
    dynamic_finder_make(&finder_unsigned, map_unsigned);
}

const float *dynamic_map_signed(void) {
    pthread_once(&made, make_all);
    return map_signed;
}

const float *dynamic_map_unsigned(void) {
    pthread_once(&made, make_all);
    return map_unsigned;
}

const dynamic_finder *dynamic_finder_signed(void) {
    pthread_once(&made, make_all);
    return &finder_signed;
}

const dynamic_finder *dynamic_finder_unsigned(void) {
    pthread_once(&made, make_all);
    return &finder_unsigned;
}
