/* nearest.h: which known name did a person mean? One rule for configuration keys, verbs and
 * options: a Damerau-Levenshtein distance of at most 2 (1 for names of up to four letters), or
 * one name being the beginning of the other. */
#ifndef NIBBLE_TRAINER_VERBS_NEAREST_H
#define NIBBLE_TRAINER_VERBS_NEAREST_H

enum { NEAREST_WORD = 64 };

typedef struct nearest {
    const char *wanted;
    char best[NEAREST_WORD]; /* "": nothing is near */
    int distance;
} nearest;

/* Begin with {.wanted = word}, offer every candidate, read best. */
void nearest_offer(nearest *n, const char *candidate);

/* Adjacent transpositions, insertions, deletions and replacements between two words of less
 * than NEAREST_WORD bytes; more than that for longer ones. */
int nearest_distance(const char *a, const char *b);

#endif
