/* planner.c: see planner.h. What each choice costs is found by making the plan again, with the
 * same code; that is how `auto` chooses and how remedies are checked before they are offered.
 */
#include "autograd/planner.h"
#include "autograd/pager.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_SLOTS = 2 };

/* ---- one plan for one resolved policy ---- */

static bool streams(const plan *p, mem_class c) {
    if (c == MEM_BASE) return p->policy.base == BASE_HOST || p->policy.base == BASE_DISK;
    return c == MEM_OPTIMIZER && p->policy.page_optimizer;
}

static bool stays_on_host(const plan *p, const page *g) {
    return g->gathered && p->policy.base == BASE_HOST;
}

static tier tier_of(const plan *p, const page *g) {
    mem_class c = g->class;
    if (stays_on_host(p, g)) return TIER_HOST;
    if (!streams(p, c)) return TIER_DEVICE;
    return c == MEM_BASE && p->policy.base == BASE_DISK ? TIER_DISK : TIER_HOST;
}

static int64_t align_of(const plan *p) {
    return p->backend->table->alignment;
}

/* Resident pages by class, then the streaming slots; host pages. */
static void place_pages(plan *p) {
    const parameter_table *t = p->table;
    int64_t device = 0, host = 0, align = align_of(p);
    for (int c = 0; c < MEM_CLASS_COUNT; c++) {
        int pages = 0;
        for (size_t i = 0; i < t->page_count; i++) {
            const page *g = &t->pages[i];
            if (g->class != (mem_class)c) continue;
            page_place *place = &p->pages[i];
            place->tier = tier_of(p, g);
            place->mapped = stays_on_host(p, g);
            pages++;
            if (place->tier == TIER_DEVICE) {
                place->offset = round_up_i64(device, align);
                device = place->offset + g->bytes;
                p->class_device[c] += g->bytes;
                continue;
            }
            if (!place->mapped && g->bytes > p->slot_bytes[c])
                p->slot_bytes[c] = round_up_i64(g->bytes, align);
            if (place->tier == TIER_DISK) {
                place->offset = -1;
                p->class_disk[c] += g->bytes;
                continue;
            }
            place->offset = round_up_i64(host, align);
            host = place->offset + g->bytes;
            p->class_host[c] += g->bytes;
        }
        if (!streams(p, (mem_class)c) || !pages) continue;
        p->slots[c] = p->policy.slots < pages ? p->policy.slots : pages;
        p->slot_offset[c] = round_up_i64(device, align);
        device = p->slot_offset[c] + p->slots[c] * p->slot_bytes[c];
        p->class_device[c] += p->slots[c] * p->slot_bytes[c];
    }
    p->transient_offset = round_up_i64(device, align);
    p->offload_offset = round_up_i64(host, align);
    p->device_bytes = device;
    p->host_bytes = host;
}

/* The most bytes of a class alive at one step. */
static status class_peaks(const schedule *s, int64_t peaks[MEM_CLASS_COUNT]) {
    size_t n = s->step_count + 2;
    int64_t *delta = mem_alloc_array(n, sizeof *delta, "the planner");
    if (!delta) return STATUS_MEMORY;
    for (int c = 0; c < MEM_CLASS_COUNT; c++) {
        memset(delta, 0, n * sizeof *delta);
        for (size_t i = 0; i < s->buffer_count; i++) {
            const buffer *b = &s->buffers[i];
            if (b->class != (mem_class)c) continue;
            delta[b->first] += b->bytes;
            if ((size_t)b->last + 1 < n) delta[b->last + 1] -= b->bytes;
        }
        int64_t live = 0;
        for (size_t i = 0; i < n; i++)
            if ((live += delta[i]) > peaks[c]) peaks[c] = live;
    }
    mem_free(delta);
    return STATUS_OK;
}

/* Host places of offloaded values: all of them live at once, between forward and backward. */
static int64_t place_offloaded(schedule *s, int64_t align) {
    int64_t end = 0;
    for (size_t i = 0; i < s->buffer_count; i++) {
        buffer *b = &s->buffers[i];
        if (b->host_offset < 0) continue;
        b->host_offset = round_up_i64(end, align);
        end = b->host_offset + b->bytes;
    }
    return end;
}

/* The steps of one run, walked. */
static plan_cost cost_of_steps(const program_plan *q, int64_t rows, op_load load) {
    const schedule *s = &q->schedule;
    plan_cost c = {0};
    for (size_t n = 0; n < s->step_count; n++) {
        op_shape shape;
        step_shape(s, q->program, n, rows, &shape);
        shape.load = load;
        const operation_row *row = operation_get(shape.op);
        c.flops += row->flops(&shape);
        c.bytes += row->bytes(&shape);
    }
    return c;
}

plan_cost plan_cost_of(const plan *p, int program, int64_t rows, op_load load) {
    const program_plan *q = &p->programs[program];
    const backend_rates *r = &p->rates;
    plan_cost c = cost_of_steps(q, rows, load);
    if (r->gemm_flops <= 0) return c;
    double compute = c.flops / r->gemm_flops + c.bytes / r->copy_bytes;
    double moved = (double)(q->moved_in + q->moved_out) / r->host_bytes;
    if (r->disk_bytes > 0) moved += (double)q->disk_read / r->disk_bytes;
    c.seconds = compute > moved ? compute : moved;
    return c;
}

/* What one run costs at capacity. */
static void count_costs(program_plan *q) {
    const schedule *s = &q->schedule;
    plan_cost c = cost_of_steps(q, q->program->capacity, (op_load){0});
    q->flops = c.flops;
    q->bytes = c.bytes;
    for (size_t i = 0; i < s->move_count; i++)
        *(s->moves[i].out ? &q->moved_out : &q->moved_in) +=
            s->buffers[s->moves[i].from].bytes;
}

/* Page traffic of a run that follows one like it, by letting the pager take its decisions on
 * addresses that nobody touches. */
static status rehearse_pages(plan *p, program_plan *q, backend *rehearsal) {
    static char *const nowhere = (char *)4096;
    pager *g;
    pager_traffic before = {0}, after = {0};
    TRY(pager_open(&g, rehearsal, p, nowhere, nowhere, NULL));
    status s = STATUS_OK;
    for (int turn = 0; turn < 2 && s == STATUS_OK; turn++) {
        before = after;
        after = (pager_traffic){0};
        pager_begin(g, &q->schedule);
        for (int32_t n = 0; n < (int32_t)q->schedule.step_count && s == STATUS_OK; n++)
            s = pager_step(g, n);
        pager_end(g);
        for (int c = 0; c < MEM_CLASS_COUNT; c++) {
            pager_traffic t = pager_traffic_of(g, (mem_class)c);
            after.in_bytes += t.in_bytes;
            after.out_bytes += t.out_bytes;
            after.disk_bytes += t.disk_bytes;
        }
    }
    q->first_in = before.in_bytes;
    q->disk_read = after.disk_bytes - before.disk_bytes;
    q->pages_in = after.in_bytes - before.in_bytes;
    q->pages_out = after.out_bytes - before.out_bytes;
    q->moved_in += q->pages_in - q->disk_read;
    q->moved_out += q->pages_out;
    pager_close(g);
    return s;
}

static status plan_program(plan *p, int i, const program *pr, int kept_layers) {
    program_plan *q = &p->programs[i];
    q->program = pr;
    int layers = program_layers(pr);
    activation_mode *modes = mem_alloc_array((size_t)layers + 1, sizeof *modes, "the planner");
    if (!modes) return STATUS_MEMORY;
    for (int l = 0; l < layers; l++) /* the last layers' values are needed again first */
        modes[l] = kept_layers >= 0 && l >= layers - kept_layers ? ACTIVATIONS_KEEP
                                                                 : p->policy.activations;
    status s = schedule_make(&q->schedule, pr, p->backend, modes);
    mem_free(modes);
    TRY(s);
    q->transient_bytes = schedule_place(&q->schedule, align_of(p));
    if (q->transient_bytes < 0) return STATUS_MEMORY;
    q->offload_bytes = place_offloaded(&q->schedule, align_of(p));
    return STATUS_OK;
}

static status attempt(plan **out, backend *b, const parameter_table *table,
                      const program *const *programs, int count, const plan_policy *policy,
                      int kept_layers) {
    plan *p = *out = mem_alloc(sizeof *p, "a plan");
    if (!p) return STATUS_MEMORY;
    p->table = table, p->backend = b, p->policy = *policy, p->program_count = count;
    p->kept_layers = kept_layers;
    p->pages = mem_alloc_array(table->page_count + 1, sizeof *p->pages, "a plan");
    p->programs = mem_alloc_array((size_t)count + 1, sizeof *p->programs, "a plan");
    status s = p->pages && p->programs ? STATUS_OK : STATUS_MEMORY;
    if (s == STATUS_OK) place_pages(p);
    int64_t transient = 0, offload = 0, peaks[MEM_CLASS_COUNT] = {0};
    for (int i = 0; i < count && s == STATUS_OK; i++) {
        s = plan_program(p, i, programs[i], programs[i]->backward ? kept_layers : -1);
        if (s != STATUS_OK) break;
        transient = max_i64(transient, p->programs[i].transient_bytes);
        offload = max_i64(offload, p->programs[i].offload_bytes);
        s = class_peaks(&p->programs[i].schedule, peaks);
    }
    if (s != STATUS_OK) {
        plan_free(p);
        *out = NULL;
        return s;
    }
    for (int c = MEM_ACTIVATION; c < MEM_CLASS_COUNT; c++) p->class_device[c] = peaks[c];
    p->class_host[MEM_ACTIVATION] = offload;
    if (transient) p->device_bytes = p->transient_offset + transient;
    if (offload) p->host_bytes = p->offload_offset + offload;
    return STATUS_OK;
}

void plan_free(plan *p) {
    if (!p) return;
    for (int i = 0; i < p->program_count && p->programs; i++)
        schedule_free(&p->programs[i].schedule);
    mem_free(p->programs);
    mem_free(p->pages);
    mem_free(p);
}

void plan_set_disk(plan *p, int32_t id, int64_t file_offset) {
    p->pages[id].offset = file_offset;
}

/* ---- budgets, auto, remedies ---- */

/* On the CPU device and host are the same memory: what counts is the sum. */
static int64_t excess(const plan *p) {
    const plan_policy *q = &p->policy;
    int64_t over = 0;
    if (q->device_budget) over = max_i64(over, p->device_bytes - q->device_budget);
    if (q->host_budget) over = max_i64(over, p->host_bytes - q->host_budget);
    if (q->total_budget)
        over = max_i64(over, p->device_bytes + p->host_bytes - q->total_budget);
    return over;
}

typedef struct request {
    backend *b;
    const parameter_table *table;
    const program *const *programs;
    int count;
    int64_t least; /* smallest excess seen */
} request;

/* Plans; *fits tells whether it is within the budgets, and *out is only kept if so. */
static status consider(request *r, const plan_policy *policy, int kept, plan **out,
                       bool *fits) {
    plan *p;
    TRY(attempt(&p, r->b, r->table, r->programs, r->count, policy, kept));
    int64_t over = excess(p);
    *fits = over <= 0;
    if (over < r->least) r->least = over;
    if (*fits)
        *out = p;
    else
        plan_free(p);
    return STATUS_OK;
}

/* The most kept layers that fit, by halving: more kept, more memory. */
static status most_kept(request *r, plan_policy policy, plan **out, bool *fits) {
    int layers = 0;
    for (int i = 0; i < r->count; i++)
        if (r->programs[i]->backward) layers = program_layers(r->programs[i]);
    policy.activations = ACTIVATIONS_KEEP;
    TRY(consider(r, &policy, -1, out, fits));
    if (*fits) return STATUS_OK;
    policy.activations = ACTIVATIONS_RECOMPUTE;
    TRY(consider(r, &policy, -1, out, fits));
    if (!*fits) return STATUS_OK;
    for (int low = 0, high = layers; high - low > 1;) {
        int middle = (low + high) / 2;
        plan *better = NULL;
        bool ok;
        TRY(consider(r, &policy, middle, &better, &ok));
        if (ok) {
            plan_free(*out);
            *out = better;
            low = middle;
        } else
            high = middle;
    }
    return STATUS_OK;
}

static status choose_activations(request *r, const plan_policy *policy, plan **out,
                                 bool *fits) {
    if (policy->activations == ACTIVATIONS_AUTO) return most_kept(r, *policy, out, fits);
    return consider(r, policy, -1, out, fits);
}

/* base: auto tries the nearest place first. */
static status choose(request *r, const plan_policy *policy, plan **out, bool *fits) {
    static const base_place order[] = {BASE_RESIDENT, BASE_HOST, BASE_DISK};
    plan_policy q = *policy;
    if (!q.slots) q.slots = DEFAULT_SLOTS;
    if (q.base != BASE_AUTO) return choose_activations(r, &q, out, fits);
    *fits = false;
    for (int i = 0; i < 3 && !*fits; i++) {
        q.base = order[i];
        if (q.base == BASE_DISK && !q.disk_possible) continue;
        if (q.base == BASE_HOST && q.total_budget && !q.device_budget)
            continue; /* the same memory */
        TRY(choose_activations(r, &q, out, fits));
    }
    return STATUS_OK;
}

/* FLOPs and traffic of every program. */
static status price(plan *p, const backend_rates *rates) {
    backend *rehearsal;
    if (rates) p->rates = *rates;
    TRY(backend_rehearsal_open(&rehearsal, p->backend));
    status s = STATUS_OK;
    for (int i = 0; i < p->program_count && s == STATUS_OK; i++) {
        s = rehearse_pages(p, &p->programs[i], rehearsal);
        if (s == STATUS_OK) count_costs(&p->programs[i]);
    }
    rehearsal->table->close(rehearsal);
    return s;
}

status plan_try(plan **out, int64_t *missing, const plan_request *q) {
    *out = NULL;
    request r = {q->b, q->table, q->programs, q->count, INT64_MAX};
    bool fits;
    status s = choose(&r, q->policy, out, &fits);
    if (s == STATUS_OK) {
        *missing = fits ? 0 : r.least;
        if (!fits) return STATUS_OK;
        s = price(*out, q->rates);
    }
    if (s == STATUS_OK) return STATUS_OK;
    plan_free(*out);
    *out = NULL;
    return s;
}

status plan_make(plan **out, backend *b, const parameter_table *table,
                 const program *const *programs, int count, const plan_policy *policy,
                 const backend_rates *rates) {
    plan_request q = {b, table, programs, count, policy, rates};
    int64_t missing;
    char text[512];
    TRY(plan_try(out, &missing, &q));
    if (*out) return STATUS_OK;
    TRY(plan_remedies(&q, text, sizeof text));
    double mib = (double)missing / 1048576.0;
    if (!*text)
        return status_fail(
            STATUS_MEMORY,
            "the plan needs %.1f MiB more than the memory allowed, and " PLAN_NO_PLACEMENT
            ": make micro_batch_size or sequence_len smaller",
            mib);
    return status_fail(
        STATUS_MEMORY,
        "the plan needs %.1f MiB more than the memory allowed; what would fit: %s", mib, text);
}
