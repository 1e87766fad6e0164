/* remedies.c: what to change when a plan does not fit: every placement is planned again, those
 * that fit are offered by their predicted time, and none that changes more than another. */
#include "autograd/planner.h"
#include "common/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OFFERED = 3 };

/* One setting per dimension; 0 is always "as it was asked for". */
typedef struct setting {
    const char *words;
    int value;
} setting;

enum { ACTIVATIONS, BASE, SLOTS, STATES, DIMENSIONS, MOST = 3 };
static const setting settings[DIMENSIONS][MOST] = {
    [ACTIVATIONS] = {{"", 0},
                     {"memory.activations=recompute", ACTIVATIONS_RECOMPUTE},
                     {"memory.activations=offload", ACTIVATIONS_OFFLOAD}},
    [BASE] = {{"", 0}, {"memory.base=host", BASE_HOST}, {"memory.base=disk", BASE_DISK}},
    [SLOTS] = {{"", 0}, {"memory.slots=1", 1}},
    [STATES] = {{"", 0}, {"memory.optimizer=paged", 1}},
};

typedef struct remedy {
    int choice[DIMENSIONS];
    int changes;
    double seconds; /* of all programs once; 0 without rates */
} remedy;

/* False where a setting is not there, or is what was asked for already. */
static bool apply(const remedy *r, plan_policy *q) {
    const int *c = r->choice;
    for (int d = 0; d < DIMENSIONS; d++)
        if (c[d] && !settings[d][c[d]].words) return false;
    plan_policy asked = *q;
    if (c[ACTIVATIONS])
        q->activations = (activation_mode)settings[ACTIVATIONS][c[ACTIVATIONS]].value;
    if (c[BASE]) q->base = (base_place)settings[BASE][c[BASE]].value;
    if (c[SLOTS]) q->slots = 1;
    if (c[STATES]) q->page_optimizer = true;
    return !(c[ACTIVATIONS] && q->activations == asked.activations) &&
           !(c[BASE] && q->base == asked.base) && !(c[SLOTS] && asked.slots == 1) &&
           !(c[STATES] && asked.page_optimizer) && (q->base != BASE_DISK || q->disk_possible);
}

/* Whether b changes all that a changes, in the same way, and so offers nothing new. */
static bool within(const remedy *a, const remedy *b) {
    for (int d = 0; d < DIMENSIONS; d++)
        if (a->choice[d] && a->choice[d] != b->choice[d]) return false;
    return true;
}

static int by_cost(const void *x, const void *y) {
    const remedy *a = x, *b = y;
    if (a->seconds != b->seconds) return a->seconds < b->seconds ? -1 : 1;
    if (a->changes != b->changes) return a->changes - b->changes;
    return memcmp(b->choice, a->choice, sizeof a->choice); /* later dimensions cost less */
}

static double seconds_of(const plan *p) {
    double seconds = 0;
    for (int i = 0; i < p->program_count; i++)
        seconds += plan_cost_of(p, i, p->programs[i].program->capacity, (op_load){0}).seconds;
    return seconds;
}

static status try_remedy(const plan_request *r, remedy *x, bool *fits) {
    plan_request again = *r;
    plan_policy q = *r->policy;
    plan *p = NULL;
    int64_t missing;
    *fits = false;
    if (!apply(x, &q)) return STATUS_OK;
    again.policy = &q;
    TRY(plan_try(&p, &missing, &again));
    *fits = p != NULL;
    if (p) x->seconds = seconds_of(p);
    plan_free(p);
    return STATUS_OK;
}

/* Fewer changes come first, so that supersets are seen as such. */
static status collect(const plan_request *r, remedy *found, int *count) {
    *count = 0;
    for (int changes = 1; changes <= DIMENSIONS; changes++)
        for (int code = 1; code < MOST * MOST * MOST * MOST; code++) {
            remedy x = {0};
            for (int d = 0, rest = code; d < DIMENSIONS; d++, rest /= MOST) {
                x.choice[d] = rest % MOST;
                x.changes += x.choice[d] != 0;
            }
            bool fits = x.changes == changes;
            for (int i = 0; i < *count && fits; i++) fits = !within(&found[i], &x);
            if (fits) TRY(try_remedy(r, &x, &fits));
            if (fits) found[(*count)++] = x;
        }
    qsort(found, (size_t)*count, sizeof *found, by_cost);
    return STATUS_OK;
}

status plan_remedies(const plan_request *r, char *text, size_t bytes) {
    remedy found[MOST * MOST * MOST * MOST];
    int count;
    size_t n = 0;
    text[0] = 0;
    TRY(collect(r, found, &count));
    for (int i = 0; i < count && i < OFFERED; i++)
        for (int d = 0, first = 1; d < DIMENSIONS; d++) {
            if (!found[i].choice[d] || n >= bytes) continue;
            n += (size_t)snprintf(text + n, bytes - n, "%s%s",
                                  !first ? " "
                                  : i    ? "; or "
                                         : "",
                                  settings[d][found[i].choice[d]].words);
            first = 0;
        }
    return STATUS_OK;
}
