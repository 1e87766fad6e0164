/* inspect.c: `train inspect`: what a model folder, an adapter, a checkpoint or a program
 * consists of. */
#include "checkpoints/checkpoint.h"
#include "common/alloc.h"
#include "common/file.h"
#include "common/json.h"
#include "trainer/run/loop.h"
#include "trainer/run/train.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <string.h>

static status print_json(json_t *o) {
    char *text = o ? json_write_text(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (!text) return status_fail(STATUS_MEMORY, "out of memory for a report");
    puts(text);
    mem_free(text);
    return STATUS_OK;
}

/* ---- programs ---- */

static void count_program(const program_plan *q, json_t **into) {
    int64_t forward = 0, backward = 0, recompute = 0;
    double flops = 0;
    for (size_t n = 0; n < q->schedule.step_count; n++) {
        op_shape shape;
        const step *e = &q->schedule.steps[n];
        step_shape(&q->schedule, q->program, n, q->program->capacity, &shape);
        flops += operation_get(shape.op)->flops(&shape);
        *(e->phase == PHASE_FORWARD    ? &forward
          : e->phase == PHASE_BACKWARD ? &backward
                                       : &recompute) += 1;
    }
    json_put(into, q->program->name,
             json_pack("{s:I, s:I, s:I, s:f}", "forward", (json_int_t)forward, "recompute",
                       (json_int_t)recompute, "backward", (json_int_t)backward, "flops",
                       flops));
}

static status print_programs(const command *c, const run *r) {
    json_t *counts = json_object();
    for (int i = 0; i < r->s.plan->program_count; i++)
        count_program(&r->s.plan->programs[i], &counts);
    if (c->format == FORMAT_JSON) return print_json(counts);
    status s = counts ? STATUS_OK : status_fail(STATUS_MEMORY, "out of memory for a report");
    for (int i = 0; i < r->s.plan->program_count && s == STATUS_OK; i++) {
        const program *p = r->s.plan->programs[i].program;
        char *text = NULL;
        s = program_print(p, &text);
        if (s == STATUS_OK) fputs(text, stdout);
        mem_free(text);
        json_t *n = json_object_get(counts, p->name);
        if (s == STATUS_OK)
            printf("  %lld operations forward, %lld recomputed, %lld backward, %.3f GFLOP at "
                   "capacity\n\n",
                   (long long)json_integer_value(json_object_get(n, "forward")),
                   (long long)json_integer_value(json_object_get(n, "recompute")),
                   (long long)json_integer_value(json_object_get(n, "backward")),
                   json_number_value(json_object_get(n, "flops")) / 1e9);
    }
    json_decref(counts);
    return s;
}

static status inspect_programs(const command *c) {
    config conf;
    char *model;
    TRY(verb_load_config(c, true, &conf, &model));
    train_request q = {.model_folder = model};
    run r = {0};
    status s = train_open(&r, &conf, &q);
    if (s == STATUS_OK) s = print_programs(c, &r);
    train_close(&r);
    mem_free(model);
    config_free(&conf);
    return s;
}

/* ---- files ---- */

static json_t *format_json(const tensor_format *f) {
    return json_pack("{s:s, s:I, s:I}", "dtype", dtype_name(f->type), "rows",
                     (json_int_t)f->rows, "cols", (json_int_t)f->cols);
}

static status inspect_model(const char *folder) {
    model_config m;
    weights w;
    TRY(model_config_open(&m, folder));
    status s = weights_open(&w, folder, &m);
    if (s == STATUS_OK) {
        json_t *o = json_pack(
            "{s:s, s:s, s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:b, s:s, s:s, s:I, s:I}", "kind",
            "model", "family", m.family->model_type, "vocabulary", (json_int_t)m.vocab,
            "hidden", (json_int_t)m.hidden, "feed_forward", (json_int_t)m.feed_forward,
            "layers", (int)m.layers, "heads", (int)m.heads, "kv_heads", (int)m.kv_heads,
            "head_dim", (int)m.head_dim, "tied_head", (int)w.tied, "dtype",
            dtype_name(m.stored), "quantized", w.any_stored ? dtype_name(m.quant_type) : "no",
            "parameters", (json_int_t)model_config_parameters(&m, w.tied), "linear_weights",
            (json_int_t)model_config_linear_weights(&m));
        s = print_json(o);
        weights_close(&w);
    }
    model_config_close(&m);
    return s;
}

static status inspect_adapter(const char *folder) {
    peft_adapter p;
    TRY(peft_open(&p, folder));
    json_t *modules = json_object();
    for (size_t i = 0; i < p.count; i++)
        json_put(&modules, p.modules[i].name,
                 json_pack("{s:I, s:I, s:I, s:f}", "in", (json_int_t)p.modules[i].in, "out",
                           (json_int_t)p.modules[i].out, "rank", (json_int_t)p.modules[i].rank,
                           "scale", p.modules[i].scale));
    json_t *o =
        json_pack("{s:s, s:I, s:f, s:b, s:o}", "kind", "adapter", "r", (json_int_t)p.config.r,
                  "alpha", p.config.alpha, "rslora", (int)p.config.rslora, "modules", modules);
    peft_close(&p);
    return print_json(o);
}

static status inspect_checkpoint(const char *path) {
    checkpoint c;
    TRY(checkpoint_open(path, &c));
    json_t *tensors = json_object(), *content = json_clone(c.content);
    for (size_t i = 0; i < c.count; i++)
        json_put(&tensors, c.entries[i].name, format_json(&c.entries[i].format));
    json_object_del(content, "base");
    json_t *o = json_pack("{s:s, s:s, s:I, s:o, s:o}", "kind", "checkpoint", "path", c.path,
                          "step", (json_int_t)c.step, "state", content, "tensors", tensors);
    checkpoint_close(&c);
    return print_json(o);
}

status verb_inspect(const command *c) {
    if (c->program) return inspect_programs(c);
    if (!c->path)
        return status_fail(STATUS_USAGE, "inspect needs a PATH, or --config FILE --program");
    if (!file_exists(c->path))
        return status_fail(STATUS_MODEL, "%s: there is no such file or folder", c->path);
    if (file_exists_in(c->path, "adapter_config.json")) return inspect_adapter(c->path);
    if (file_exists_in(c->path, "config.json")) return inspect_model(c->path);
    return inspect_checkpoint(c->path);
}
