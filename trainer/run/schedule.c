/* schedule.c: transformers' optimization.py (get_*_schedule) as one function of the index. */
#include "trainer/run/schedule.h"

static double factor(const lr_schedule *s, int64_t index) {
    if (s->kind == SCHEDULER_CONSTANT) return 1;
    if (index < s->warmup) return (double)index / (double)(s->warmup > 1 ? s->warmup : 1);
    if (s->kind == SCHEDULER_CONSTANT_WITH_WARMUP) return 1;
    int64_t rest = s->total - s->warmup;
    double after = rest > 1 ? (double)rest : 1;
    if (s->kind == SCHEDULER_LINEAR) {
        double left = (double)(s->total - index) / after;
        return left > 0 ? left : 0;
    }
    double progress = (double)(index - s->warmup) / after;
    double wave = 0.5 * (1 + cos(3.14159265358979323846 * progress));
    if (wave < 0) wave = 0;
    return wave * (1 - s->min_ratio) + s->min_ratio;
}

double lr_at(const lr_schedule *s, int64_t index) {
    return s->peak * factor(s, index);
}
