/* profile.c: see profile.h. */
#include "trainer/run/profile.h"
#include "common/checked.h"
#include "trainer/run/metrics.h"

#include <stdio.h>

double profile_limit_seconds(const backend_rates *r, const engine_cost *c) {
    double products = c->flops / r->gemm_flops, traffic = c->bytes / r->copy_bytes;
    return products > traffic ? products : traffic;
}

/* Sums the programs that a step consists of. */
static engine_profile of_steps(const session *s) {
    static const session_program programs[] = {PROGRAM_TRAIN, PROGRAM_NORM, PROGRAM_UPDATE};
    engine_profile sum = {0};
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        if (s->index[programs[i]] < 0) continue;
        const engine_profile *p = engine_profile_of(s->e, s->index[programs[i]]);
        sum.seconds += p->seconds;
        for (int op = 0; op < OP_COUNT; op++)
            for (int back = 0; back < 2; back++) {
                engine_cost *to = &sum.of[op][back];
                const engine_cost *from = &p->of[op][back];
                to->calls += from->calls;
                to->seconds += from->seconds;
                to->flops += from->flops;
                to->bytes += from->bytes;
            }
    }
    return sum;
}

json_t *profile_json(const session *s) {
    engine_profile p = of_steps(s);
    json_t *o = json_object();
    for (int op = 0; op < OP_COUNT; op++)
        for (int back = 0; back < 2; back++) {
            const engine_cost *c = &p.of[op][back];
            char name[64];
            if (!c->calls) continue;
            snprintf(name, sizeof name, "%s%s", operation_get((operation)op)->name,
                     back ? ".backward" : "");
            double limit = profile_limit_seconds(&s->rates, c);
            json_put(&o, name,
                     json_pack("{s:I, s:o, s:o, s:o, s:o}", "calls", (json_int_t)c->calls,
                               "seconds", metrics_real(c->seconds), "flops",
                               metrics_real(c->flops), "bytes", metrics_real(c->bytes),
                               "of_limit",
                               metrics_real(c->seconds > 0 ? limit / c->seconds : 0)));
        }
    return o;
}

static void print_row(const session *s, const char *name, const char *direction,
                      const engine_cost *c, double all) {
    const backend_rates *r = &s->rates;
    bool products = c->flops / r->gemm_flops > c->bytes / r->copy_bytes;
    printf("  %-18s %-8s %7lld %9.3f %6.1f %% %9.1f %s %5.0f %%\n", name, direction,
           (long long)c->calls, c->seconds, 100 * c->seconds / all,
           (products ? c->flops : c->bytes) / c->seconds / 1e9,
           products ? "GFLOP/s" : "GB/s   ", 100 * profile_limit_seconds(r, c) / c->seconds);
}

void profile_print(const session *s, double seconds) {
    engine_profile p = of_steps(s);
    double operations = 0, limits = 0;
    printf("\n  %-18s %-8s %7s %9s %8s %9s %7s %7s\n", "operation", "", "calls", "seconds",
           "share", "rate", "", "of limit");
    for (int op = 0; op < OP_COUNT; op++)
        for (int back = 0; back < 2; back++) {
            const engine_cost *c = &p.of[op][back];
            if (!c->calls) continue;
            print_row(s, operation_get((operation)op)->name, back ? "backward" : "forward", c,
                      seconds);
            operations += c->seconds;
            limits += profile_limit_seconds(&s->rates, c);
        }
    printf("  %-18s %-8s %7s %9.3f %6.1f %%\n", "inputs, pages", "", "",
           p.seconds - operations, 100 * (p.seconds - operations) / seconds);
    printf("  %-18s %-8s %7s %9.3f %6.1f %%\n", "between programs", "", "",
           seconds - p.seconds, 100 * (seconds - p.seconds) / seconds);
    printf("  %-18s %-8s %7s %9.3f %8s %25.0f %%\n", "all", "", "", seconds, "",
           100 * limits / seconds);
    printf("  limits: %.1f GFLOP/s of matrix products, %.1f GB/s of copying\n",
           s->rates.gemm_flops / 1e9, s->rates.copy_bytes / 1e9);
}
