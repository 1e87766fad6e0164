/* loader.c: see loader.h. Two parts beside the order of an epoch (epoch.h): the survey of all
 * epochs at the start, and the groups, built by a worker one ahead of the loop.
 *
 * Three slots hold groups: the one in use, the one before it (still promised to be valid), and
 * the one being built. Their buffers have the size of the largest group that the survey met.
 */
#include "data/loader.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/worker.h"
#include "data/epoch.h"

#include <math.h>
#include <string.h>

enum {
    SLOTS = 3,
    EPOCHS_LIMIT = 1000000, /* more is a slip of the configuration */
};

typedef struct slot {
    batch_group group;
    micro_batch *micro;                 /* [accumulation] */
    int32_t *ids, *targets, *positions; /* [group_tokens] */
    int32_t *starts;                    /* [group_documents + accumulation] */
    int64_t *row_index;                 /* [group_documents] */
} slot;

struct loader {
    const row_set *rows;
    loader_options o;
    int32_t *used; /* [used_count] rows that are trained on */
    int64_t used_count;
    epoch plan; /* the worker's, once the survey is done */

    int64_t *first_group; /* [epochs + 1]: groups before each epoch */
    size_t first_capacity;
    int64_t epochs, steps;
    int64_t bins, tokens, longest_batch, group_tokens, group_documents;
    bool *buckets;    /* [capacity / LOADER_BUCKET + 2], see loader_has_bucket */
    int64_t measured; /* micro-batches whose load is summed in: */
    loader_load load;

    worker *worker;
    slot slots[SLOTS];
    int64_t next;     /* group that loader_next gives */
    int64_t building; /* group that the worker was given; -1 = none */
    uint64_t ticket;
};

static int64_t row_length(const loader *l, int32_t row) {
    return row_set_length(l->rows, row);
}

/* ---- the survey ---- */

static int64_t groups_of(const loader *l, int64_t micro_count) {
    int64_t per_group = (int64_t)l->o.accumulation * l->o.world;
    return (micro_count + per_group - 1) / per_group;
}

/* This rank's a-th micro-batch of a group of the planned epoch; -1 past the end. */
static int64_t micro_of(const loader *l, int64_t group, int64_t a) {
    int64_t m = (group * l->o.accumulation + a) * l->o.world + l->o.rank;
    return m < l->plan.micro_count ? m : -1;
}

/* Adds a document to what the first epoch's micro-batches hold. */
static void add_load(loader *l, int32_t row) {
    double n = row_length(l, row);
    l->load.tokens += n;
    l->load.pairs += n * (n + 1) / 2;
    l->load.targets += (double)row_set_targets(l->rows, row);
}

/* Notes the sizes of the planned epoch's first `groups` groups. */
static void measure(loader *l, int64_t groups) {
    const epoch *p = &l->plan;
    for (int64_t g = 0; g < groups; g++) {
        int64_t group_tokens = 0, documents = 0;
        for (int64_t a = 0; a < l->o.accumulation; a++) {
            int64_t m = micro_of(l, g, a), batch = 0;
            if (m < 0) break;
            for (int64_t i = p->start[m]; i < p->start[m + 1]; i++)
                batch += row_length(l, p->order[i]);
            for (int64_t i = p->start[m]; p->number == 0 && i < p->start[m + 1]; i++)
                add_load(l, p->order[i]);
            l->measured += p->number == 0;
            documents += p->start[m + 1] - p->start[m];
            group_tokens += batch;
            l->longest_batch = max_i64(l->longest_batch, batch);
            l->buckets[(batch + LOADER_BUCKET - 1) / LOADER_BUCKET] = true;
        }
        l->group_tokens = max_i64(l->group_tokens, group_tokens);
        l->group_documents = max_i64(l->group_documents, documents);
    }
}

/* Plans epoch after epoch until there are steps enough. */
static status survey(loader *l) {
    int64_t epoch_tokens = 0;
    for (int64_t i = 0; i < l->used_count; i++) epoch_tokens += row_length(l, l->used[i]);
    for (;; l->epochs++) {
        if (mem_grow(&l->first_group, &l->first_capacity, (size_t)l->epochs + 2,
                     sizeof *l->first_group, "epochs"))
            return STATUS_MEMORY;
        l->first_group[l->epochs] = l->steps;
        double left = l->o.num_epochs - (double)l->epochs;
        if (l->o.max_steps > 0 ? l->steps >= l->o.max_steps : left <= 1e-9) break;
        if (l->epochs == EPOCHS_LIMIT)
            return status_fail(STATUS_USAGE,
                               "the run would take more than %d epochs of %lld rows",
                               EPOCHS_LIMIT, (long long)l->used_count);
        int64_t bins = epoch_make(&l->plan, l->epochs);
        int64_t whole = groups_of(l, l->plan.micro_count), groups = whole;
        if (l->o.max_steps > 0)
            groups = min_i64(whole, l->o.max_steps - l->steps);
        else if (left < 1) /* the slack keeps 0.1 * 30 at 3 */
            groups = min_i64(whole, (int64_t)ceil(left * (double)whole - 1e-9));
        measure(l, groups);
        l->bins += bins;
        l->tokens += epoch_tokens;
        l->steps += groups;
    }
    if (!l->steps)
        return status_fail(STATUS_USAGE, "num_epochs %g makes no step", l->o.num_epochs);
    return STATUS_OK;
}

/* ---- groups ---- */

static void lay_document(const row_set *rows, int64_t row, slot *s, int64_t at,
                         int64_t *targets) {
    const int32_t *ids = rows->ids + rows->offsets[row],
                  *labels = rows->labels + rows->offsets[row];
    int64_t n = row_set_length(rows, row);
    memcpy(s->ids + at, ids, (size_t)n * sizeof *ids);
    for (int64_t i = 0; i < n; i++) {
        int32_t target = i + 1 < n && labels[i + 1] != LABEL_IGNORED ? labels[i + 1] : -1;
        s->targets[at + i] = target;
        s->positions[at + i] = (int32_t)i;
        *targets += target >= 0;
    }
}

/* Lays micro-batch m of the plan from token `at`, document `d`, start entry `d + a` on. */
static void lay_micro(loader *l, slot *s, int64_t m, int a, int64_t at, int64_t d) {
    const epoch *p = &l->plan;
    int32_t *starts = s->starts + d + a;
    int64_t tokens = 0, targets = 0, documents = p->start[m + 1] - p->start[m];
    for (int64_t i = 0; i < documents; i++) {
        int32_t row = p->order[p->start[m] + i];
        starts[i] = (int32_t)tokens;
        s->row_index[d + i] = row;
        lay_document(l->rows, row, s, at + tokens, &targets);
        tokens += row_length(l, row);
    }
    starts[documents] = (int32_t)tokens;
    s->micro[a] = (micro_batch){tokens,          documents,         targets, s->ids + at,
                                s->targets + at, s->positions + at, starts,  s->row_index + d};
}

static int64_t epoch_of(const loader *l, int64_t group) {
    int64_t low = 0, high = l->epochs; /* first_group[low] <= group < first_group[high] */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (l->first_group[middle] <= group)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static status build(void *context) {
    loader *l = context;
    int64_t index = l->building, epoch = epoch_of(l, index);
    if (l->plan.number != epoch) epoch_make(&l->plan, epoch);
    slot *s = &l->slots[index % SLOTS];
    batch_group *g = &s->group;
    int64_t local = index - l->first_group[epoch], documents = 0;
    *g = (batch_group){.index = index, .micro = s->micro};
    for (int a = 0; a < l->o.accumulation; a++) {
        int64_t m = micro_of(l, local, a);
        if (m < 0) break;
        lay_micro(l, s, m, a, g->tokens, documents);
        g->tokens += s->micro[a].tokens;
        g->targets += s->micro[a].target_count;
        documents += s->micro[a].documents;
        g->micro_count++;
    }
    int64_t consumed = (local + 1) * l->o.accumulation * l->o.world;
    g->epoch = (double)epoch +
               (double)min_i64(consumed, l->plan.micro_count) / (double)l->plan.micro_count;
    return STATUS_OK;
}

static void start_building(loader *l, int64_t index) {
    if (index >= l->steps) {
        l->building = -1;
        return;
    }
    l->building = index;
    l->ticket = worker_give(l->worker, build, l);
}

static status finish_building(loader *l) {
    return l->building < 0 ? STATUS_OK : worker_wait(l->worker, l->ticket);
}

status loader_seek(loader *l, int64_t index) {
    if (index < 0 || index > l->steps)
        return status_fail(STATUS_INTERNAL, "loader: step %lld is outside of 0 to %lld",
                           (long long)index, (long long)l->steps);
    TRY(finish_building(l));
    l->next = index;
    start_building(l, index);
    return STATUS_OK;
}

status loader_next(loader *l, const batch_group **out) {
    *out = NULL;
    if (l->next >= l->steps) return STATUS_OK;
    TRY(finish_building(l));
    *out = &l->slots[l->next % SLOTS].group;
    start_building(l, ++l->next);
    return STATUS_OK;
}

/* ---- opening ---- */

static status check_options(const loader_options *o) {
    uint64_t capacity;
    if (o->sequence_len < 1 || o->micro_batch_size < 1 || o->accumulation < 1 ||
        !checked_mul_u64((uint64_t)o->sequence_len, (uint64_t)o->micro_batch_size,
                         &capacity) ||
        capacity > INT32_MAX)
        return status_fail(
            STATUS_USAGE,
            "sequence_len %lld, micro_batch_size %d and gradient_accumulation_steps "
            "%d must be at least 1, and a micro-batch below 2^31 tokens",
            (long long)o->sequence_len, o->micro_batch_size, o->accumulation);
    if (o->max_steps <= 0 && !(o->num_epochs > 0 && o->num_epochs <= EPOCHS_LIMIT))
        return status_fail(STATUS_USAGE, "num_epochs must be above 0 and at most %d, it is %g",
                           EPOCHS_LIMIT, o->num_epochs);
    if (o->world < 0 || o->rank < 0 || (o->world ? o->rank >= o->world : o->rank > 0))
        return status_fail(STATUS_INTERNAL, "loader: rank %d of %d", o->rank, o->world);
    return STATUS_OK;
}

static status choose_rows(loader *l) {
    if (l->rows->count >= INT32_MAX)
        return status_fail(STATUS_DATA,
                           "the dataset has 2^31 rows or more: train on a part of it");
    l->used = mem_alloc_array((size_t)l->rows->count, sizeof *l->used, "the rows' order");
    if (!l->used) return STATUS_MEMORY;
    for (int64_t r = 0; r < l->rows->count; r++) {
        int64_t n = row_set_length(l->rows, r);
        if (n > l->o.sequence_len)
            return status_fail(STATUS_DATA, "row %lld has %lld tokens, sequence_len is %lld",
                               (long long)r + 1, (long long)n, (long long)l->o.sequence_len);
        if (n && (l->o.drop_nothing || row_set_targets(l->rows, r)))
            l->used[l->used_count++] = (int32_t)r;
    }
    if (!l->used_count)
        return status_fail(STATUS_DATA, "none of the dataset's %lld rows has a token to learn",
                           (long long)l->rows->count);
    return STATUS_OK;
}

static status make_room(loader *l) {
    int64_t capacity = l->o.sequence_len * l->o.micro_batch_size;
    l->buckets = mem_alloc_array((size_t)(capacity / LOADER_BUCKET + 2), sizeof *l->buckets,
                                 "the loader");
    if (!l->buckets) return STATUS_MEMORY;
    return epoch_open(&l->plan, l->rows, &l->o, l->used, l->used_count);
}

static status make_slots(loader *l) {
    size_t tokens = (size_t)l->group_tokens, documents = (size_t)l->group_documents;
    size_t micros = (size_t)l->o.accumulation;
    for (slot *s = l->slots; s < l->slots + SLOTS; s++) {
        s->micro = mem_alloc_array(micros, sizeof *s->micro, "a batch");
        s->ids = mem_alloc_array(tokens, sizeof *s->ids, "a batch");
        s->targets = mem_alloc_array(tokens, sizeof *s->targets, "a batch");
        s->positions = mem_alloc_array(tokens, sizeof *s->positions, "a batch");
        s->starts = mem_alloc_array(documents + micros, sizeof *s->starts, "a batch");
        s->row_index = mem_alloc_array(documents, sizeof *s->row_index, "a batch");
        if (!s->micro || !s->ids || !s->targets || !s->positions || !s->starts ||
            !s->row_index)
            return STATUS_MEMORY;
    }
    return STATUS_OK;
}

static status open_parts(loader *l) {
    TRY(choose_rows(l));
    TRY(make_room(l));
    TRY(survey(l));
    TRY(make_slots(l));
    TRY(worker_open(&l->worker, "data loader", 1));
    return loader_seek(l, 0);
}

status loader_open(loader **out, const row_set *rows, const loader_options *options) {
    *out = NULL;
    TRY(check_options(options));
    loader *l = mem_alloc(sizeof *l, "the loader");
    if (!l) return STATUS_MEMORY;
    l->rows = rows;
    l->o = *options;
    if (!l->o.world) l->o.world = 1;
    l->building = -1;
    status s = open_parts(l);
    if (s != STATUS_OK)
        loader_close(l);
    else
        *out = l;
    return s;
}

void loader_close(loader *l) {
    if (!l) return;
    worker_close(l->worker);
    for (slot *s = l->slots; s < l->slots + SLOTS; s++) {
        mem_free(s->micro);
        mem_free(s->ids);
        mem_free(s->targets);
        mem_free(s->positions);
        mem_free(s->starts);
        mem_free(s->row_index);
    }
    epoch_close(&l->plan);
    mem_free(l->used);
    mem_free(l->first_group);
    mem_free(l->buckets);
    mem_free(l);
}

int64_t loader_steps(const loader *l) {
    return l->steps;
}

int64_t loader_steps_per_epoch(const loader *l) {
    return l->first_group[1] - l->first_group[0];
}

double loader_fill(const loader *l) {
    return (double)l->tokens / ((double)l->bins * (double)l->o.sequence_len);
}

int64_t loader_longest_batch(const loader *l) {
    return l->longest_batch;
}

bool loader_has_bucket(const loader *l, int64_t rows) {
    return rows >= 0 && rows <= round_up_i64(l->longest_batch, LOADER_BUCKET) &&
           l->buckets[(rows + LOADER_BUCKET - 1) / LOADER_BUCKET];
}

loader_load loader_mean_batch(const loader *l) {
    double n = (double)l->measured;
    return (loader_load){l->load.tokens / n, l->load.targets / n, l->load.pairs / n};
}
