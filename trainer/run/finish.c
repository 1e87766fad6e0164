/* finish.c: see finish.h. */
#include "trainer/run/finish.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/log.h"
#include "trainer/model/merge.h"
#include "trainer/run/plan_text.h"
#include "trainer/run/profile.h"

#include <stdio.h>
#include <string.h>

void finish_print_plan(const run *r) {
    char *text = plan_text(&r->s, (int)r->c->gradient_accumulation_steps);
    if (text) log_info("%s", text);
    mem_free(text);
}

/* ---- the trained weights ---- */

static status write_result(run *r) {
    const config *c = r->c;
    if (c->adapter == ADAPTER_FULL) {
        masters_context masters = {r->s.d, r->s.e};
        char *folder = file_join(c->output_dir, "model");
        if (!folder) return STATUS_MEMORY;
        export_source source = masters_source(&masters);
        model_export x = {.config = &r->s.model,
                          .tied = r->s.w.tied,
                          .from = r->s.request.model_folder,
                          .out = folder,
                          .type = r->s.model.stored,
                          .source = &source};
        status s = file_remove_tree(folder);
        if (s == STATUS_OK) s = model_export_write(&x);
        mem_free(folder);
        return s;
    }
    char base[HASH_TEXT];
    TRY(identity_digest(r->s.base_identity, base));
    lora_export how = {.base_model = c->base_model,
                       .base_hash = base,
                       .rank = r->s.lora.rank,
                       .alpha = r->s.lora.alpha,
                       .dropout = c->lora_dropout,
                       .rslora = r->s.lora.rslora};
    return lora_write(r->s.d, r->s.e, c->output_dir, &how);
}

/* ---- the summary as JSON ---- */

static json_t *evaluation_json(const evaluation *e) {
    if (!e->targets) return json_null();
    return json_pack("{s:o, s:o, s:I}", "loss", metrics_real(e->loss), "perplexity",
                     metrics_real(perplexity_of(e->loss)), "targets", (json_int_t)e->targets);
}

static json_t *traffic_json(const run *r) {
    json_t *o = json_object();
    static const mem_class moved[] = {MEM_BASE, MEM_OPTIMIZER, MEM_ACTIVATION};
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
        engine_traffic t = engine_traffic_of(r->s.e, moved[i]);
        if (!t.in_bytes && !t.out_bytes) continue;
        json_put(&o, mem_class_name(moved[i]),
                 json_pack("{s:I, s:I, s:I, s:I, s:I, s:o}", "in", (json_int_t)t.in_bytes,
                           "out", (json_int_t)t.out_bytes, "from_disk",
                           (json_int_t)t.disk_bytes, "fetches", (json_int_t)t.fetches, "hits",
                           (json_int_t)t.hits, "stall_seconds",
                           metrics_real(t.stall_seconds)));
    }
    return o;
}

static json_t *summary_json(const run *r) {
    const optimizer_state *o = &r->state.optimizer;
    int accumulation = (int)r->c->gradient_accumulation_steps;
    json_t *s = json_object();
    json_put(&s, "steps", json_integer(o->step));
    json_put(&s, "skipped_steps", json_integer(o->skipped));
    json_put(&s, "tokens", json_integer(r->state.tokens));
    json_put(&s, "targets", json_integer(r->state.targets));
    json_put(&s, "train_seconds", metrics_real(r->state.seconds));
    json_put(&s, "final_loss", metrics_real(r->last_loss));
    json_put(&s, "stopped_early", json_boolean(r->stopped_early));
    json_put(&s, "resumed_from",
             r->resumed_from >= 0 ? json_integer(r->resumed_from) : json_null());
    json_put(&s, "held_out_before", evaluation_json(&r->before));
    json_put(&s, "held_out_after", evaluation_json(&r->after));
    if (r->state.samples_before)
        json_put(&s, "samples_before", json_incref(r->state.samples_before));
    if (r->samples_after) json_put(&s, "samples_after", json_incref(r->samples_after));
    json_put(&s, "packing_fill", metrics_real(loader_fill(feed_sample(r->feed))));
    json_put(&s, "step_seconds_predicted",
             metrics_real(plan_step_cost(&r->s, accumulation).seconds));
    json_put(&s, "step_seconds_measured",
             metrics_real(r->steps_here ? r->seconds / (double)r->steps_here : 0));
    json_put(&s, "plan", plan_json(&r->s, accumulation));
    json_put(&s, "traffic", traffic_json(r));
    const backend *b = r->s.b;
    if (b->host_visible || b->timed) json_put(&s, "profile", profile_json(&r->s));
    if (r->s.b->pattern) {
        int64_t device, host;
        engine_high_water(r->s.e, &device, &host);
        json_put(&s, "observed_device_bytes", json_integer(device));
        json_put(&s, "observed_host_bytes", json_integer(host));
    }
    json_put(&s, "fingerprint", json_string(r->identity.fingerprint));
    json_put(&s, "warnings", json_integer(log_warnings()));
    json_put(&s, "output", json_string(r->c->output_dir));
    json_put(&s, "adapter", json_string(r->c->adapter == ADAPTER_FULL ? "full" : "lora"));
    return s;
}

/* ---- the summary for people ---- */

static double number(const json_t *o, const char *group, const char *key) {
    const json_t *g = group ? json_object_get(o, group) : o;
    return json_number_value(json_object_get(g, key));
}

/* An answer equals what was expected, white space at the ends aside. */
static bool same_text(const char *a, const char *b) {
    static const char *const space = " \t\r\n";
    a += strspn(a, space), b += strspn(b, space);
    size_t n = strlen(a), m = strlen(b);
    while (n && strchr(space, a[n - 1])) n--;
    while (m && strchr(space, b[m - 1])) m--;
    return n == m && !memcmp(a, b, n);
}

static int exact_answers(const json_t *list, int *known) {
    int exact = 0;
    size_t i;
    json_t *o;
    *known = 0;
    json_array_foreach((json_t *)list, i, o) {
        const char *expected = json_string_value(json_object_get(o, "expected"));
        if (!expected) continue;
        ++*known;
        exact += same_text(json_string_value(json_object_get(o, "answer")), expected);
    }
    return exact;
}

static void print_table(const json_t *s) {
    bool before = json_is_object(json_object_get(s, "held_out_before"));
    bool after = json_is_object(json_object_get(s, "held_out_after"));
    int known_before = 0, known = 0;
    int exact_before = exact_answers(json_object_get(s, "samples_before"), &known_before);
    int exact = exact_answers(json_object_get(s, "samples_after"), &known);
    if (after || known) printf("\n  %-22s %12s %12s\n", "held out", "before", "after");
    if (after) {
        char text[32] = "-";
        if (before) snprintf(text, sizeof text, "%.4f", number(s, "held_out_before", "loss"));
        printf("  %-22s %12s %12.4f\n", "loss", text, number(s, "held_out_after", "loss"));
        if (before)
            snprintf(text, sizeof text, "%.2f", number(s, "held_out_before", "perplexity"));
        printf("  %-22s %12s %12.2f\n", "perplexity", text,
               number(s, "held_out_after", "perplexity"));
    }
    if (known) {
        char b[32] = "-", a[32];
        if (known_before) snprintf(b, sizeof b, "%d of %d", exact_before, known_before);
        snprintf(a, sizeof a, "%d of %d", exact, known);
        printf("  %-22s %12s %12s\n", "exact answers", b, a);
    }
}

static void print_samples(const json_t *s) {
    const json_t *before = json_object_get(s, "samples_before"),
                 *after = json_object_get(s, "samples_after");
    for (size_t i = 0; i < json_array_size(after) && i < 2; i++) {
        const json_t *a = json_array_get(after, i), *b = json_array_get(before, i);
        printf("\n  prompt: %s\n", json_string_value(json_object_get(a, "prompt")));
        if (b) printf("  before: %s\n", json_string_value(json_object_get(b, "answer")));
        printf("  after:  %s\n", json_string_value(json_object_get(a, "answer")));
    }
}

static void print_traffic(const json_t *s) {
    const char *name;
    json_t *t;
    json_object_foreach(json_object_get(s, "traffic"), name, t) {
        char in[BYTES_TEXT], out[BYTES_TEXT];
        printf("  %s pages: %s in, %s out, stalled %.2f s\n", name,
               bytes_text((int64_t)number(t, NULL, "in"), in),
               bytes_text((int64_t)number(t, NULL, "out"), out),
               number(t, NULL, "stall_seconds"));
    }
}

static void print_summary(const json_t *s) {
    char device[BYTES_TEXT], host[BYTES_TEXT];
    const char *output = json_string_value(json_object_get(s, "output"));
    log_progress_end();
    print_table(s);
    print_samples(s);
    double seconds = number(s, NULL, "train_seconds");
    printf("\n  %.0f steps, %.0f tokens (%.0f targets) in %.1f s: %.0f tokens/s; %.0f steps "
           "skipped\n",
           number(s, NULL, "steps"), number(s, NULL, "tokens"), number(s, NULL, "targets"),
           seconds, seconds > 0 ? number(s, NULL, "tokens") / seconds : 0,
           number(s, NULL, "skipped_steps"));
    printf("  a step: %.3f s measured, %.3f s predicted; bins %.1f %% full\n",
           number(s, NULL, "step_seconds_measured"), number(s, NULL, "step_seconds_predicted"),
           100 * number(s, NULL, "packing_fill"));
    printf("  memory planned: %s on the device, %s on the host\n",
           bytes_text((int64_t)number(s, "plan", "device_bytes"), device),
           bytes_text((int64_t)number(s, "plan", "host_bytes"), host));
    print_traffic(s);
    bool full = !strcmp(json_string_value(json_object_get(s, "adapter")), "full");
    printf(
        "\n  written: %s/%s\n           %s/metrics.jsonl, %s/summary.json, %s/checkpoints\n",
        output, full ? "model" : "adapter_model.safetensors, adapter_config.json", output,
        output, output);
    fflush(stdout);
}

status finish_run(run *r, bool profile) {
    TRY(write_result(r));
    json_t *s = summary_json(r);
    char *text = s ? json_write_text(s, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    char *path = file_join(r->c->output_dir, "summary.json");
    status result = text && path ? file_write_all(path, text, strlen(text))
                                 : status_fail(STATUS_MEMORY, "out of memory for the summary");
    if (result == STATUS_OK) print_summary(s);
    if (result == STATUS_OK && profile) profile_print(&r->s, r->seconds);
    mem_free(path);
    mem_free(text);
    json_decref(s);
    return result;
}

status finish_show_summary(const char *output_dir) {
    char *path = file_join(output_dir, "summary.json");
    json_t *s = NULL;
    status r = path ? json_read_file(path, 16 << 20, STATUS_IO, &s) : STATUS_MEMORY;
    if (r == STATUS_OK) {
        log_info("%s holds a finished run; --overwrite starts anew. Its summary:", output_dir);
        print_summary(s);
    }
    json_decref(s);
    mem_free(path);
    return r;
}
