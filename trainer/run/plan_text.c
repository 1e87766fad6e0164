/* plan_text.c: see plan_text.h. */
#include "trainer/run/plan_text.h"
#include "autograd/card.h"
#include "common/alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *bytes_text(int64_t bytes, char text[BYTES_TEXT]) {
    double b = (double)bytes;
    if (b >= 0x1p30)
        snprintf(text, BYTES_TEXT, "%.2f GiB", b / 0x1p30);
    else if (b >= 0x1p20)
        snprintf(text, BYTES_TEXT, "%.1f MiB", b / 0x1p20);
    else
        snprintf(text, BYTES_TEXT, "%.1f KiB", b / 0x1p10);
    return text;
}

static const program_plan *planned(const session *s, session_program p) {
    return s->index[p] < 0 ? NULL : &s->plan->programs[s->index[p]];
}

plan_cost plan_step_cost(const session *s, int accumulation) {
    static const session_program of_a_step[] = {PROGRAM_TRAIN, PROGRAM_NORM, PROGRAM_UPDATE};
    const session_request *r = &s->request;
    plan_cost total = {0};
    for (size_t i = 0; i < sizeof of_a_step / sizeof *of_a_step; i++) {
        session_program p = of_a_step[i];
        const program_plan *q = planned(s, p);
        if (!q) continue;
        bool train = p == PROGRAM_TRAIN;
        int64_t rows = train && r->expected_rows ? r->expected_rows : q->program->capacity;
        plan_cost c =
            plan_cost_of(s->plan, s->index[p], rows, train ? r->expected : (op_load){0});
        int times = train ? accumulation : 1;
        total.flops += times * c.flops;
        total.bytes += times * c.bytes;
        total.seconds += times * c.seconds;
    }
    return total;
}

int64_t plan_checkpoint_bytes(const session *s) {
    int64_t bytes = 0;
    for (size_t i = 0; i < s->d->table.count; i++)
        if (s->d->table.pages[s->d->table.items[i].page].class == MEM_OPTIMIZER)
            bytes += s->d->table.items[i].bytes;
    return bytes;
}

int64_t plan_result_bytes(const session *s) {
    int64_t bytes = 0;
    for (size_t i = 0; i < s->d->trainable_count; i++)
        bytes += s->d->trainables[i].rows * s->d->trainables[i].cols * (int64_t)sizeof(float);
    return bytes;
}

static const char *const activation_names[] = {"auto", "keep", "recompute", "offload"};
static const char *const base_names[] = {"auto", "resident", "host", "disk"};

json_t *plan_json(const session *s, int accumulation) {
    const plan *p = s->plan;
    plan_cost step = plan_step_cost(s, accumulation);
    json_t *o = json_object(), *classes = json_object();
    for (int c = 0; c < MEM_CLASS_COUNT; c++) {
        if (!p->class_device[c] && !p->class_host[c] && !p->class_disk[c]) continue;
        json_put(&classes, mem_class_name((mem_class)c),
                 json_pack("{s:I, s:I, s:I}", "device", (json_int_t)p->class_device[c], "host",
                           (json_int_t)p->class_host[c], "disk",
                           (json_int_t)p->class_disk[c]));
    }
    json_put(&o, "classes", classes);
    json_put(&o, "device_bytes", json_integer(p->device_bytes));
    json_put(&o, "host_bytes", json_integer(p->host_bytes));
    json_put(&o, "context_bytes", json_integer(s->b->context));
    json_put(&o, "outside_bytes", json_integer(session_outside(0)));
    json_put(&o, "compute", json_string(dtype_name(s->compute)));
    json_put(&o, "activations", json_string(activation_names[p->policy.activations]));
    json_put(&o, "kept_layers", json_integer(p->kept_layers));
    json_put(&o, "base", json_string(base_names[p->policy.base]));
    json_put(&o, "optimizer", json_string(p->policy.page_optimizer ? "paged" : "resident"));
    json_put(&o, "slots", json_integer(p->slots[MEM_BASE]));
    json_put(&o, "capacity", json_integer(s->capacity));
    json_put(&o, "accumulation", json_integer(accumulation));
    json_put(&o, "checkpoint_bytes", json_integer(plan_checkpoint_bytes(s)));
    json_put(&o, "kept_checkpoints", json_integer(s->c->save_total_limit));
    json_put(&o, "result_bytes", json_integer(plan_result_bytes(s)));
    json_put(&o, "step_flops", json_real(step.flops));
    json_put(&o, "step_seconds", json_real(step.seconds));
    json_put(&o, "gemm_flops_per_second", json_real(s->rates.gemm_flops));
    json_put(&o, "copy_bytes_per_second", json_real(s->rates.copy_bytes));
    const program_plan *t = planned(s, PROGRAM_TRAIN), *u = planned(s, PROGRAM_UPDATE);
    if (t) {
        json_put(&o, "micro_step_pages_in", json_integer(t->pages_in));
        json_put(&o, "first_micro_step_pages_in", json_integer(t->first_in));
        json_put(&o, "micro_step_disk_read", json_integer(t->disk_read));
        json_put(&o, "offloaded_per_micro_step", json_integer(t->moved_out - t->pages_out));
    }
    if (u) {
        json_put(&o, "first_optimizer_pages_in", json_integer(u->first_in));
        json_put(&o, "optimizer_pages_in", json_integer(u->pages_in));
        json_put(&o, "optimizer_pages_out", json_integer(u->pages_out));
    }
    return o;
}

/* ---- as text ---- */

/* Appends a line; *text becomes NULL, and stays it, when memory ends. */
__attribute__((format(printf, 2, 3))) static void add(char **text, const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    char *longer = *text ? mem_printf("%s%s\n", *text, line) : NULL;
    mem_free(*text);
    *text = longer;
}

/* A row of the table of classes; what is 0 in all columns has none. */
static void add_class(char **text, const char *name, int64_t device, int64_t host,
                      int64_t disk) {
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT];
    if (device || host || disk)
        add(text, "  %-11s %12s %12s %12s", name, bytes_text(device, a), bytes_text(host, b),
            bytes_text(disk, c));
}

static void add_classes(char **text, const session *s) {
    const plan *p = s->plan;
    int64_t outside = session_outside(0);
    char a[BYTES_TEXT], b[BYTES_TEXT];
    add(text, "  %-11s %12s %12s %12s", "class", "device", "host", "disk");
    for (int c = 0; c < MEM_CLASS_COUNT; c++)
        add_class(text, mem_class_name((mem_class)c), p->class_device[c], p->class_host[c],
                  p->class_disk[c]);
    add(text, "  %-11s %12s %12s %12s  (classes at their own peaks)", "arenas",
        bytes_text(p->device_bytes, a), bytes_text(p->host_bytes, b), "");
    add_class(text, "context", s->b->context, 0, 0);
    add_class(text, "outside", s->b->memory ? 0 : outside, s->b->memory ? outside : 0, 0);
}

static void add_traffic(char **text, const session *s) {
    const program_plan *t = planned(s, PROGRAM_TRAIN), *u = planned(s, PROGRAM_UPDATE);
    char a[BYTES_TEXT], b[BYTES_TEXT], c[BYTES_TEXT];
    if (t && t->moved_in + t->moved_out + t->disk_read)
        add(text, "  traffic of a micro-step: %s in, %s out, %s from disk",
            bytes_text(t->moved_in, a), bytes_text(t->moved_out, b),
            bytes_text(t->disk_read, c));
    if (u && u->pages_in + u->pages_out)
        add(text, "  traffic of the optimizer's sweep: %s in, %s out",
            bytes_text(u->pages_in, a), bytes_text(u->pages_out, b));
}

char *plan_text(const session *s, int accumulation) {
    const plan *p = s->plan;
    plan_cost step = plan_step_cost(s, accumulation);
    const card *card = s->request.device.card;
    char *text = mem_strdup(""), a[BYTES_TEXT], b[BYTES_TEXT];
    add(&text,
        "plan: %s, activations %s%s, base %s, optimizer %s, %lld tokens a micro-step, %d a "
        "step",
        dtype_name(s->compute), activation_names[p->policy.activations],
        p->kept_layers > 0 ? " (the last layers keep)" : "", base_names[p->policy.base],
        p->policy.page_optimizer ? "paged" : "resident", (long long)s->capacity, accumulation);
    add_classes(&text, s);
    if (s->d->trainable_count)
        add(&text, "  on disk: %s a checkpoint, at most %lld kept; %s the result",
            bytes_text(plan_checkpoint_bytes(s), a), (long long)s->c->save_total_limit,
            bytes_text(plan_result_bytes(s), b));
    add(&text, "  a step: %.1f GFLOP, %.2f s predicted (%.0f GFLOP/s, %.1f GB/s %s%s)",
        step.flops / 1e9, step.seconds, s->rates.gemm_flops / 1e9, s->rates.copy_bytes / 1e9,
        card ? "expected of the " : "measured", card ? card->name : "");
    add_traffic(&text, s);
    if (text) text[strlen(text) - 1] = 0;
    return text;
}
