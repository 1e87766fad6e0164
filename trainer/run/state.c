/* state.c: see state.h. */
#include "trainer/run/state.h"
#include "common/alloc.h"
#include "common/log.h"
#include "trainer/model/masters.h"
#include "trainer/model/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void run_state_init(run_state *r, const session *s) {
    memset(r, 0, sizeof *r);
    r->optimizer.loss_scale = s->compute == DTYPE_F16 ? s->c->initial_loss_scale : 1;
    r->best_eval = INFINITY;
}

/* ---- the list of tensors ---- */

enum { PARTS = 5 };

typedef struct saved {
    session *s;
    parameter_id id;
    char *name;
} saved;

static status read_parameter(void *context, int64_t first, int64_t bytes, void *out) {
    saved *v = context;
    TRY(engine_store(v->s->e, v->id, out, first, bytes));
    dtype type = v->s->d->table.items[v->id].format.type;
    if (type != DTYPE_F32) return STATUS_OK; /* codes of 8-bit moments: their scales tell */
    int64_t bad = first_not_finite(out, type, bytes / (int64_t)sizeof(float));
    if (bad < 0) return STATUS_OK;
    return status_fail(STATUS_DIVERGED,
                       "%s is not finite (NaN or infinity) at element %lld: nothing of this "
                       "step is kept; lower learning_rate and go on from the last checkpoint",
                       v->name, (long long)(first / (int64_t)sizeof(float) + bad));
}

/* The i-th part of a trained tensor that is state, PARAMETER_NONE when it has none. */
static parameter_id part_of(const trainable *t, int i) {
    const parameter_id ids[PARTS] = {t->master, t->m, t->v, t->absmax1, t->absmax2};
    return ids[i];
}

/* Calls for every state tensor, in a fixed order. */
static status each_tensor(session *s, saved *list, size_t *count) {
    *count = 0;
    for (size_t i = 0; i < s->d->trainable_count; i++)
        for (int k = 0; k < PARTS; k++) {
            parameter_id id = part_of(&s->d->trainables[i], k);
            if (id < 0) continue;
            saved *v = &list[(*count)++];
            v->s = s;
            v->id = id;
            v->name = s->d->table.items[id].name;
        }
    return STATUS_OK;
}

/* ---- counters ---- */

static json_t *counters(const run_state *r, const run_identity *id) {
    const optimizer_state *o = &r->optimizer;
    return json_pack(
        "{s:I, s:I, s:I, s:i, s:f, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:f, s:b, s:f, "
        "s:I, s:O?, s:s, s:O, s:s, s:s, s:s, s:I, s:I, s:I}",
        "step", (json_int_t)o->step, "adam_t", (json_int_t)o->adam_t, "skipped",
        (json_int_t)o->skipped, "skipped_in_row", o->skipped_in_row, "loss_scale",
        o->loss_scale, "good_in_row", (json_int_t)o->good_in_row, "cursor",
        (json_int_t)r->cursor, "tokens", (json_int_t)r->tokens, "targets",
        (json_int_t)r->targets, "best_eval", isfinite(r->best_eval) ? r->best_eval : 0.0,
        "best_eval_step", (json_int_t)r->best_eval_step, "evals_without_gain",
        (json_int_t)r->evals_without_gain, "watchdog_in_row", (json_int_t)r->watchdog_in_row,
        "seconds", r->seconds, "has_best_eval", (int)isfinite(r->best_eval), "before_loss",
        r->before_loss, "before_targets", (json_int_t)r->before_targets, "samples_before",
        r->samples_before, "config", id->config, "base", id->base, "data", id->data,
        "fingerprint", id->fingerprint, "template_date", id->template_date, "window_group",
        (json_int_t)r->place.group, "window_epoch", (json_int_t)r->place.epoch, "window_row",
        (json_int_t)r->place.row);
}

status state_save(session *s, const run_state *r, const run_identity *id,
                  const char *output_dir, int keep) {
    TRY(engine_sync(s->e));
    size_t most = s->d->trainable_count * PARTS + 1, count;
    saved *list = mem_alloc_array(most, sizeof *list, "a checkpoint");
    named_tensor *tensors = mem_alloc_array(most, sizeof *tensors, "a checkpoint");
    json_t *content = counters(r, id);
    status result = list && tensors && content ? each_tensor(s, list, &count) : STATUS_MEMORY;
    for (size_t i = 0; result == STATUS_OK && i < count; i++)
        tensors[i] = (named_tensor){.name = list[i].name,
                                    .format = s->d->table.items[list[i].id].format,
                                    .read = read_parameter,
                                    .context = &list[i]};
    if (result == STATUS_OK)
        result = checkpoint_save(output_dir, r->optimizer.step, content, tensors, count, keep);
    json_decref(content);
    mem_free(list);
    mem_free(tensors);
    return result;
}

/* ---- going on ---- */

static status read_counters(run_state *r, const json_t *c, const char *where) {
    optimizer_state *o = &r->optimizer;
    int64_t in_row = 0;
    bool has_best = false;
    struct {
        const char *key;
        int64_t *to;
    } ints[] = {{"step", &o->step},
                {"adam_t", &o->adam_t},
                {"skipped", &o->skipped},
                {"skipped_in_row", &in_row},
                {"good_in_row", &o->good_in_row},
                {"cursor", &r->cursor},
                {"tokens", &r->tokens},
                {"targets", &r->targets},
                {"best_eval_step", &r->best_eval_step},
                {"evals_without_gain", &r->evals_without_gain},
                {"watchdog_in_row", &r->watchdog_in_row}};
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        *ints[i].to = -1;
        TRY(json_get_int(c, ints[i].key, ints[i].to, where, STATUS_MODEL));
        if (*ints[i].to < 0)
            return status_fail(STATUS_MODEL, "%s: \"%s\" is missing", where, ints[i].key);
    }
    o->skipped_in_row = (int)in_row;
    TRY(json_get_real(c, "loss_scale", &o->loss_scale, where, STATUS_MODEL));
    TRY(json_get_real(c, "best_eval", &r->best_eval, where, STATUS_MODEL));
    TRY(json_get_bool(c, "has_best_eval", &has_best, where, STATUS_MODEL));
    TRY(json_get_real(c, "before_loss", &r->before_loss, where, STATUS_MODEL));
    TRY(json_get_int(c, "before_targets", &r->before_targets, where, STATUS_MODEL));
    TRY(json_get_real(c, "seconds", &r->seconds, where, STATUS_MODEL));
    r->place = (feed_place){0}; /* which older checkpoints do not have */
    TRY(json_get_int(c, "window_group", &r->place.group, where, STATUS_MODEL));
    TRY(json_get_int(c, "window_epoch", &r->place.epoch, where, STATUS_MODEL));
    TRY(json_get_int(c, "window_row", &r->place.row, where, STATUS_MODEL));
    const json_t *samples = json_object_get(c, "samples_before");
    if (json_is_array(samples)) r->samples_before = json_incref((json_t *)samples);
    if (!has_best) r->best_eval = INFINITY;
    return STATUS_OK;
}

static status same_base(const json_t *before, const json_t *now, const char *where) {
    const char *name;
    json_t *hash;
    json_object_foreach((json_t *)before, name, hash) {
        if (json_equal(hash, json_object_get(now, name))) continue;
        return status_fail(STATUS_MODEL,
                           "%s was trained on another base: tensor %s differs; give the same "
                           "base_model, or start anew with --overwrite",
                           where, name);
    }
    if (json_object_size(before) != json_object_size(now))
        return status_fail(
            STATUS_MODEL,
            "%s was trained on another base: it had %zu tensors, this one has %zu", where,
            json_object_size(before), json_object_size(now));
    return STATUS_OK;
}

static status load_tensor(session *s, parameter_id id, const checkpoint *c) {
    const parameter *p = &s->d->table.items[id];
    void *bytes = mem_alloc((size_t)p->bytes, "a checkpoint's tensor");
    if (!bytes) return STATUS_MEMORY;
    status r = checkpoint_read(c, p->name, &p->format, bytes);
    if (r == STATUS_OK) r = engine_load(s->e, id, bytes, 0, p->bytes);
    mem_free(bytes);
    return r;
}

/* "threads: 2" from "...; threads: 2; ...": the part that begins like `part` up to its colon. */
static size_t find_part(const char *text, const char *part, const char **found) {
    size_t key = strcspn(part, ":;") + 1;
    for (const char *p = text; *p; p += strspn(p, "; ")) {
        size_t n = strcspn(p, ";");
        *found = p;
        if (n >= key && !strncmp(p, part, key)) return n;
        p += n;
    }
    return 0;
}

/* Says what differs, part by part. */
static status compare_fingerprints(const char *then, const char *now) {
    if (!strcmp(then, now)) return STATUS_OK;
    char *text = mem_strdup("");
    for (const char *p = now; text && *p; p += strspn(p, "; ")) {
        const char *old = "";
        size_t n = strcspn(p, ";"), m = find_part(then, p, &old);
        if (m != n || memcmp(p, old, n)) {
            char *more = mem_printf("%s\n  %.*s, in the checkpoint %.*s", text, (int)n, p,
                                    m ? (int)m : 7, m ? old : "nothing");
            mem_free(text);
            text = more;
        }
        p += n;
    }
    if (!text) return STATUS_MEMORY;
    log_warn(
        "this is not the machine or the set-up of the checkpoint: the run goes on, but not "
        "bit for bit. What differs:%s",
        text);
    mem_free(text);
    return STATUS_OK;
}

status state_load(session *s, run_state *r, const run_identity *id, const checkpoint *c) {
    const char *data = "", *fingerprint = "";
    const json_t *base = json_object_get(c->content, "base");
    TRY(json_get_text(c->content, "data", &data, c->path, STATUS_MODEL));
    TRY(json_get_text(c->content, "fingerprint", &fingerprint, c->path, STATUS_MODEL));
    TRY(same_base(base, id->base, c->path));
    if (strcmp(data, id->data))
        return status_fail(
            STATUS_DATA,
            "%s: the training rows are not the ones that the checkpoint was made with "
            "(%s then, %s now): the same files, tokenizer and data keys are needed",
            c->path, data, id->data);
    TRY(read_counters(r, c->content, c->path));
    for (size_t i = 0; i < s->d->trainable_count; i++) {
        const trainable *t = &s->d->trainables[i];
        for (int k = 0; k < PARTS; k++)
            if (part_of(t, k) >= 0) TRY(load_tensor(s, part_of(t, k), c));
    }
    TRY(masters_round(s->d, s->e));
    return compare_fingerprints(fingerprint, id->fingerprint);
}
