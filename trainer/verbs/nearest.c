/* nearest.c: the optimal string alignment distance, three rows at a time. */
#include "trainer/verbs/nearest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PREFIX = 4 }; /* letters; a shorter beginning says too little */

static int least(int a, int b) {
    return a < b ? a : b;
}

int nearest_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    if (n >= NEAREST_WORD || m >= NEAREST_WORD) return 2 * NEAREST_WORD;
    int rows[3][NEAREST_WORD];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= m; j++) above[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int replace = above[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = least(replace, least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], before[j - 2] + 1);
        }
        int *free_row = before;
        before = above, above = row, row = free_row;
    }
    return above[m];
}

void nearest_offer(nearest *n, const char *candidate) {
    size_t wanted = strlen(n->wanted), length = strlen(candidate);
    size_t shared = wanted < length ? wanted : length;
    int distance = nearest_distance(n->wanted, candidate);
    int allowed = shared <= 4 ? 1 : 2;
    if (distance > allowed) {
        if (shared < PREFIX || strncmp(n->wanted, candidate, shared)) return;
        distance =
            allowed + 1 + abs((int)wanted - (int)length); /* a prefix: any typo is nearer */
    }
    if (*n->best && n->distance <= distance) return;
    snprintf(n->best, sizeof n->best, "%s", candidate);
    n->distance = distance;
}
