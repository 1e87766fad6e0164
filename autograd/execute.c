/* execute.c: the executor: one loop over the steps of a schedule. It decides nothing. */
#include "autograd/execute.h"
#include "autograd/arena.h"
#include "autograd/pager.h"
#include "common/alloc.h"
#include "common/checked.h"

#include <string.h>
#include <time.h>

enum {
    BUCKET = 64,     /* rows are rounded up to a multiple of this, */
    EXACT_ROWS = 16, /* but so few rows are run as they are (decoding) */
    PENDING_MOVES = 512
};

struct engine {
    backend *b;
    const plan *p;
    arena device, host;
    pager *pager;
    const file *disk;
    struct {
        const move *m;
        event e;
    } pending[PENDING_MOVES];
    int pending_count;
    int64_t *last_rows; /* [programs] bucketed rows of the last run */
    pager_traffic activations;
    engine_profile *profile; /* [programs] */
};

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- opening ---- */
status engine_prepare(backend *b, const plan *p, int i, int64_t rows) {
    const program_plan *q = &p->programs[i];
    for (size_t n = 0; n < q->schedule.step_count; n++) {
        op_shape shape;
        step_shape(&q->schedule, q->program, n, rows, &shape);
        op_function f =
            shape.backward ? b->table->backward[shape.op] : b->table->forward[shape.op];
        if (!f)
            return status_fail(STATUS_INTERNAL, "back end %s has no %s of operation %s",
                               b->table->name, shape.backward ? "backward" : "forward",
                               operation_get(shape.op)->name);
        TRY(b->table->prepare(b, &shape));
    }
    return STATUS_OK;
}

static status prepare_all(engine *e) {
    for (int i = 0; i < e->p->program_count; i++)
        TRY(engine_prepare(e->b, e->p, i, e->p->programs[i].program->capacity));
    return STATUS_OK;
}

status engine_open(engine **out, backend *b, const plan *p, const file *disk) {
    engine *e = *out = mem_alloc(sizeof *e, "the engine");
    if (!e) return STATUS_MEMORY;
    e->b = b, e->p = p, e->disk = disk;
    e->last_rows =
        mem_alloc_array((size_t)p->program_count + 1, sizeof *e->last_rows, "the engine");
    e->profile =
        mem_alloc_array((size_t)p->program_count + 1, sizeof *e->profile, "the engine");
    status s = e->last_rows && e->profile ? STATUS_OK : STATUS_MEMORY;
    if (s == STATUS_OK) s = prepare_all(e); /* what libraries load comes before the arenas */
    if (s == STATUS_OK) s = arena_open(&e->device, b, false, p->device_bytes, b->pattern);
    if (s == STATUS_OK) s = arena_open(&e->host, b, true, p->host_bytes, b->pattern);
    if (s == STATUS_OK) s = pager_open(&e->pager, b, p, e->device.base, e->host.base, disk);
    if (s != STATUS_OK) {
        engine_close(e);
        *out = NULL;
    }
    return s;
}

void engine_close(engine *e) {
    if (!e) return;
    if (e->device.base || e->host.base) e->b->table->sync(e->b);
    pager_close(e->pager);
    arena_close(&e->device);
    arena_close(&e->host);
    mem_free(e->last_rows);
    mem_free(e->profile);
    mem_free(e);
}

/* ---- parameters ---- */
static char *home_of(const engine *e, parameter_id id) {
    const parameter *q = &e->p->table->items[id];
    const page_place *place = &e->p->pages[q->page];
    if (place->tier == TIER_DISK) return NULL;
    return (place->tier == TIER_DEVICE ? e->device.base : e->host.base) + place->offset +
           q->offset;
}

static bool on_device(const engine *e, parameter_id id) {
    return e->p->pages[e->p->table->items[id].page].tier == TIER_DEVICE;
}

status engine_load(engine *e, parameter_id id, const void *from, int64_t offset,
                   int64_t bytes) {
    char *at = home_of(e, id);
    if (!at)
        return status_fail(STATUS_INTERNAL, "%s lives on disk and cannot be loaded",
                           e->p->table->items[id].name);
    if (on_device(e, id)) return e->b->table->upload(e->b, at + offset, from, bytes);
    TRY(e->b->table->sync(e->b));
    pager_forget(e->pager, e->p->table->items[id].page);
    memcpy(at + offset, from, (size_t)bytes);
    return STATUS_OK;
}

status engine_store(engine *e, parameter_id id, void *to, int64_t offset, int64_t bytes) {
    const parameter *q = &e->p->table->items[id];
    char *at = home_of(e, id);
    if (!at)
        return file_read_at(e->disk, to, (size_t)bytes,
                            e->p->pages[q->page].offset + q->offset + offset);
    if (on_device(e, id)) return e->b->table->download(e->b, to, at + offset, bytes);
    TRY(e->b->table->sync(e->b));
    memcpy(to, at + offset, (size_t)bytes);
    return STATUS_OK;
}

tensor engine_host_view(engine *e, parameter_id id) {
    char *at = home_of(e, id);
    if (!at || (on_device(e, id) && !e->b->host_visible)) return (tensor){0};
    return tensor_at(&e->p->table->items[id].format, at);
}

status engine_zero_class(engine *e, mem_class c) {
    const parameter_table *t = e->p->table;
    for (size_t i = 0; i < t->page_count; i++) {
        if (t->pages[i].class != c) continue;
        const page_place *place = &e->p->pages[i];
        if (place->tier == TIER_DEVICE)
            TRY(e->b->table->fill(e->b, e->device.base + place->offset, 0, t->pages[i].bytes));
        else if (place->tier == TIER_HOST) {
            TRY(e->b->table->sync(e->b));
            pager_forget(e->pager, (int32_t)i);
            memset(e->host.base + place->offset, 0, (size_t)t->pages[i].bytes);
        }
    }
    return STATUS_OK;
}

void engine_class_range(engine *e, mem_class c, void **at, int64_t *bytes) {
    *at = NULL;
    *bytes = 0;
    for (size_t i = 0; i < e->p->table->page_count; i++) {
        if (e->p->table->pages[i].class != c || e->p->pages[i].tier != TIER_DEVICE) continue;
        char *start = e->device.base + e->p->pages[i].offset;
        if (!*at) *at = start;
        *bytes = start + e->p->table->pages[i].bytes - (char *)*at;
    }
}

/* ---- resolving references ---- */
static char *buffer_address(const engine *e, const buffer *b) {
    return e->device.base + e->p->transient_offset + b->offset;
}

static status resolve(engine *e, const schedule *s, buffer_id ref, int64_t rows, tensor *out) {
    if (ref == REF_NONE) {
        memset(out, 0, sizeof *out);
        return STATUS_OK;
    }
    if (ref_is_parameter(ref)) {
        const parameter *q = &e->p->table->items[ref_parameter_id(ref)];
        char *at;
        TRY(pager_address(e->pager, q->page, &at));
        *out = tensor_at(&q->format, at + q->offset);
        return STATUS_OK;
    }
    const buffer *b = &s->buffers[ref];
    tensor_format f = b->format;
    if (b->follows_batch) f.rows = rows;
    *out = tensor_at(&f, buffer_address(e, b));
    return STATUS_OK;
}

/* ---- one run ---- */
static int64_t bucket_rows(const program *p, int64_t rows) {
    if (!p->backward && rows <= EXACT_ROWS) return rows;
    int64_t up = round_up_i64(rows, BUCKET);
    return up < p->capacity ? up : p->capacity;
}

static status upload_input(engine *e, const buffer *b, const run_input *in, int64_t rows) {
    int64_t row = b->format.cols * dtype_bytes(b->format.type);
    char *at = buffer_address(e, b);
    int64_t given = in->data ? in->rows : 0;
    if (given > b->format.rows)
        return status_fail(STATUS_INTERNAL, "an input of %lld rows, at most %lld are planned",
                           (long long)given, (long long)b->format.rows);
    if (given) TRY(e->b->table->upload(e->b, at, in->data, given * row));
    if (b->follows_batch && rows > given)
        TRY(e->b->table->fill(e->b, at + given * row, in->pad, (rows - given) * row));
    return STATUS_OK;
}

/* Waits for the movements that must be over before step n. */
static void settle_moves(engine *e, int32_t n) {
    for (int i = 0; i < e->pending_count;) {
        if (e->pending[i].m->until > n) {
            i++;
            continue;
        }
        e->activations.stall_seconds += e->b->table->await(e->b, e->pending[i].e);
        e->pending[i] = e->pending[--e->pending_count];
    }
}

static void give_move(engine *e, const schedule *s, const move *m, int64_t rows) {
    const buffer *from = &s->buffers[m->from], *to = &s->buffers[m->to];
    int64_t bytes = from->follows_batch
                        ? rows * from->format.cols * dtype_bytes(from->format.type)
                        : from->bytes;
    char *host = e->host.base + e->p->offload_offset + from->host_offset;
    if (e->pending_count == PENDING_MOVES) settle_moves(e, INT32_MAX);
    event after = e->b->table->mark(e->b);
    event done =
        m->out
            ? e->b->table->copy(e->b, QUEUE_OUT, host, buffer_address(e, from), bytes, after)
            : e->b->table->copy(e->b, QUEUE_IN, buffer_address(e, to), host, bytes, after);
    *(m->out ? &e->activations.out_bytes : &e->activations.in_bytes) += bytes;
    e->pending[e->pending_count].m = m;
    e->pending[e->pending_count++].e = done;
}

static void count_cost(engine_profile *p, const program_plan *q, int32_t n,
                       const run_args *args, int64_t rows, double seconds) {
    op_shape shape;
    step_shape(&q->schedule, q->program, (size_t)n, rows, &shape);
    shape.load = args->load;
    const operation_row *row = operation_get(shape.op);
    engine_cost *c = &p->of[shape.op][shape.backward];
    c->calls++;
    c->seconds += seconds;
    c->flops += row->flops(&shape);
    c->bytes += row->bytes(&shape);
}

static status run_step(engine *e, const program_plan *q, int32_t n, const run_args *args,
                       int64_t rows) {
    const schedule *s = &q->schedule;
    const step *st = &s->steps[n];
    const operation_row *row = operation_get(st->op);
    op_call call = {.op = st->op,
                    .attr = st->attr,
                    .compute = q->program->compute,
                    .rows = rows,
                    .used = args->rows,
                    .documents = args->documents,
                    .selected = args->selected,
                    .targets = args->load.targets,
                    .layer = st->layer,
                    .seed = args->seed,
                    .micro = args->micro,
                    .add = st->add,
                    .adam = args->adam};
    for (int i = 0; i < row->inputs; i++) {
        TRY(resolve(e, s, st->in[i], rows, &call.in[i]));
        if (st->phase != PHASE_BACKWARD) continue;
        TRY(resolve(e, s, st->gin[i], rows, &call.gin[i]));
        if (st->zero >> i & 1)
            TRY(e->b->table->fill(e->b, call.gin[i].data, 0, s->buffers[st->gin[i]].bytes));
    }
    for (int i = 0; i < row->outputs; i++) {
        TRY(resolve(e, s, st->out[i], rows, &call.out[i]));
        if (st->phase == PHASE_BACKWARD) TRY(resolve(e, s, st->gout[i], rows, &call.gout[i]));
    }
    if (st->scratch != REF_NONE) {
        call.scratch = buffer_address(e, &s->buffers[st->scratch]);
        call.scratch_bytes = s->buffers[st->scratch].bytes;
    }
    int back = st->phase == PHASE_BACKWARD;
    double began = seconds_now();
    status result = (back ? e->b->table->backward : e->b->table->forward)[st->op](e->b, &call);
    if (result == STATUS_OK && e->b->timed) result = e->b->table->sync(e->b);
    count_cost(&e->profile[q - e->p->programs], q, n, args, rows, seconds_now() - began);
    if (result != STATUS_OK)
        return status_prefix(result, "%s, layer %d%s", row->name, st->layer,
                             back ? ", backward" : "");
    return STATUS_OK;
}

status engine_run(engine *e, int index, const run_args *args) {
    const program_plan *q = &e->p->programs[index];
    const schedule *s = &q->schedule;
    if (args->rows > q->program->capacity)
        return status_fail(STATUS_INTERNAL, "program %s: %lld rows, planned for %lld",
                           q->program->name, (long long)args->rows,
                           (long long)q->program->capacity);
    int64_t rows = bucket_rows(q->program, args->rows);
    double began = seconds_now();
    e->last_rows[index] = rows;
    for (size_t i = 0; i < q->program->input_count; i++)
        TRY(upload_input(e, &s->buffers[s->inputs[i]], &args->inputs[i], rows));
    pager_begin(e->pager, s);
    size_t next_move = 0;
    status result = STATUS_OK;
    for (int32_t n = 0; n < (int32_t)s->step_count && result == STATUS_OK; n++) {
        settle_moves(e, n);
        for (; next_move < s->move_count && s->moves[next_move].at <= n; next_move++)
            give_move(e, s, &s->moves[next_move], rows);
        settle_moves(e, n);
        result = pager_step(e->pager, n);
        if (result == STATUS_OK) result = run_step(e, q, n, args, rows);
    }
    settle_moves(e, INT32_MAX);
    pager_end(e->pager);
    e->profile[index].seconds += seconds_now() - began;
    e->profile[index].runs++;
    return result;
}

status engine_output(engine *e, int index, const char *name, void *to, int64_t bytes) {
    const schedule *s = &e->p->programs[index].schedule;
    for (size_t i = 0; i < s->output_count; i++) {
        if (strcmp(s->output_names[i], name)) continue;
        const buffer *b = &s->buffers[s->outputs[i]];
        if (bytes > b->bytes)
            return status_fail(STATUS_INTERNAL,
                               "output %s has %lld bytes, %lld were asked for", name,
                               (long long)b->bytes, (long long)bytes);
        return e->b->table->download(e->b, to, buffer_address(e, b), bytes);
    }
    return status_fail(STATUS_INTERNAL, "program %s has no output %s",
                       e->p->programs[index].program->name, name);
}

status engine_sync(engine *e) {
    return e->b->table->sync(e->b);
}

engine_traffic engine_traffic_of(const engine *e, mem_class c) {
    pager_traffic t = c == MEM_ACTIVATION ? e->activations : pager_traffic_of(e->pager, c);
    return (engine_traffic){t.in_bytes,      t.out_bytes, t.disk_bytes,
                            t.stall_seconds, t.fetches,   t.hits};
}

const engine_profile *engine_profile_of(const engine *e, int program) {
    return &e->profile[program];
}

void engine_profile_clear(engine *e) {
    memset(e->profile, 0, (size_t)e->p->program_count * sizeof *e->profile);
}

void engine_high_water(const engine *e, int64_t *device, int64_t *host) {
    *device = arena_high_water(&e->device);
    *host = arena_high_water(&e->host);
}
