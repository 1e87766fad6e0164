/* pager.c: see pager.h. */
#include "autograd/pager.h"
#include "common/alloc.h"

#include <string.h>

enum { NO_PAGE = -1, MOST_SLOTS = 64, NEVER = INT32_MAX };

typedef struct page_slot {
    int32_t page;
    bool dirty;  /* written since it was fetched */
    event ready; /* the fetch */
} page_slot;

struct pager {
    backend *b;
    const plan *p;
    char *device, *host;
    const file *disk;
    page_slot slots[MEM_CLASS_COUNT][MOST_SLOTS];
    int32_t *slot_of; /* [pages] or -1 */
    event *left;      /* [pages] its last write-back */
    const schedule *s;
    size_t next_use; /* first use not yet begun */
    bool *held;      /* [uses of the schedule] begun and not over */
    size_t held_capacity;
    size_t oldest; /* first use that may still be held */
    pager_traffic traffic[MEM_CLASS_COUNT];
};

static mem_class class_of(const pager *g, int32_t page) {
    return g->p->table->pages[page].class;
}
static bool streamed(const pager *g, int32_t page) {
    return g->p->pages[page].tier != TIER_DEVICE && !g->p->pages[page].mapped;
}

status pager_open(pager **out, backend *b, const plan *p, char *device, char *host,
                  const file *disk) {
    pager *g = *out = mem_alloc(sizeof *g, "the pager");
    if (!g) return STATUS_MEMORY;
    g->b = b, g->p = p, g->device = device, g->host = host, g->disk = disk;
    g->slot_of = mem_alloc_array(p->table->page_count + 1, sizeof *g->slot_of, "the pager");
    g->left = mem_alloc_array(p->table->page_count + 1, sizeof *g->left, "the pager");
    for (int i = 0; i < p->program_count; i++)
        if (p->programs[i].schedule.use_count > g->held_capacity)
            g->held_capacity = p->programs[i].schedule.use_count;
    g->held = mem_alloc_array(g->held_capacity + 1, 1, "the pager");
    if (!g->slot_of || !g->left || !g->held) {
        pager_close(g);
        *out = NULL;
        return STATUS_MEMORY;
    }
    for (size_t i = 0; i < p->table->page_count; i++) g->slot_of[i] = -1;
    for (int c = 0; c < MEM_CLASS_COUNT; c++) {
        if (p->slots[c] > MOST_SLOTS)
            return status_fail(STATUS_USAGE, "memory.slots: at most %d", MOST_SLOTS);
        for (int k = 0; k < MOST_SLOTS; k++) g->slots[c][k].page = NO_PAGE;
    }
    return STATUS_OK;
}

void pager_close(pager *g) {
    if (!g) return;
    mem_free(g->slot_of);
    mem_free(g->left);
    mem_free(g->held);
    mem_free(g);
}

static char *slot_address(const pager *g, mem_class c, int k) {
    return g->device + g->p->slot_offset[c] + k * g->p->slot_bytes[c];
}

static bool held_now(const pager *g, int32_t page) {
    for (size_t u = g->oldest; u < g->next_use; u++)
        if (g->held[u] && g->s->uses[u].page == page) return true;
    return false;
}

/* First step of the next visit to the page; when the order comes round again (the next
 * micro-step starts where this one did), counted after the end. */
static int32_t next_visit(const pager *g, int32_t page) {
    for (size_t u = g->next_use; u < g->s->use_count; u++)
        if (g->s->uses[u].page == page) return g->s->uses[u].first;
    for (size_t u = 0; u < g->next_use; u++)
        if (g->s->uses[u].page == page) return (int32_t)g->s->step_count + g->s->uses[u].first;
    return NEVER;
}

static void write_back(pager *g, mem_class c, page_slot *slot, int k) {
    int32_t page = slot->page;
    if (!slot->dirty) return;
    g->left[page] = g->b->table->copy(g->b, QUEUE_OUT, g->host + g->p->pages[page].offset,
                                      slot_address(g, c, k), g->p->table->pages[page].bytes,
                                      g->b->table->mark(g->b));
    slot->dirty = false;
    g->traffic[c].out_bytes += g->p->table->pages[page].bytes;
}

/* Queues are in order, so an empty copy makes all later ones wait. */
static void order_after(pager *g, event e) {
    if (e.ticket) g->b->table->copy(g->b, QUEUE_IN, NULL, NULL, 0, e);
}

static void fetch(pager *g, int32_t page, int k) {
    mem_class c = class_of(g, page);
    page_slot *slot = &g->slots[c][k];
    if (slot->page != NO_PAGE) {
        write_back(g, c, slot, k);
        order_after(g, g->left[slot->page]); /* its bytes are read out of this slot */
        g->slot_of[slot->page] = -1;
    }
    order_after(g, g->left[page]); /* its bytes have arrived on the host */
    int64_t bytes = g->p->table->pages[page].bytes, at = g->p->pages[page].offset;
    char *to = slot_address(g, c, k);
    event read = g->b->table->mark(g->b); /* compute is done with the old page */
    if (g->p->pages[page].tier == TIER_DISK) {
        slot->ready = g->b->table->read(g->b, QUEUE_IN, g->disk, at, to, bytes, read);
        g->traffic[c].disk_bytes += bytes;
    } else
        slot->ready = g->b->table->copy(g->b, QUEUE_IN, to, g->host + at, bytes, read);
    g->traffic[c].in_bytes += bytes;
    g->traffic[c].fetches++;
    slot->page = page;
    g->slot_of[page] = k;
}

/* The slot to take for a page: an empty one, else the one needed latest; -1 when every page is
 * held or needed before step `before`. */
static int victim(const pager *g, mem_class c, int32_t before) {
    int best = -1;
    int32_t latest = before;
    for (int k = 0; k < g->p->slots[c]; k++) {
        int32_t page = g->slots[c][k].page;
        if (page == NO_PAGE) return k;
        if (held_now(g, page)) continue;
        int32_t visit = next_visit(g, page);
        if (visit > latest) latest = visit, best = k;
    }
    return best;
}

static void bring(pager *g, size_t use) {
    int32_t page = g->s->uses[use].page;
    if (g->slot_of[page] >= 0) return;
    int k = victim(g, class_of(g, page), g->s->uses[use].first);
    if (k >= 0) fetch(g, page, k);
}

void pager_begin(pager *g, const schedule *s) {
    g->s = s;
    g->next_use = g->oldest = 0;
    memset(g->held, 0, s->use_count);
}

static status begin_use(pager *g, size_t use) {
    int32_t page = g->s->uses[use].page;
    mem_class c = class_of(g, page);
    if (g->slot_of[page] >= 0)
        g->traffic[c].hits++;
    else {
        int k = victim(g, c, -1);
        if (k < 0)
            return status_fail(
                STATUS_INTERNAL, "pager: no slot for page %d (%s, layer %d): %d slots", page,
                mem_class_name(c), g->p->table->pages[page].group, g->p->slots[c]);
        fetch(g, page, k);
    }
    page_slot *slot = &g->slots[c][g->slot_of[page]];
    g->traffic[c].stall_seconds += g->b->table->await(g->b, slot->ready);
    slot->ready.ticket = 0;
    slot->dirty |= g->s->uses[use].written;
    g->held[use] = true;
    return STATUS_OK;
}

status pager_step(pager *g, int32_t n) {
    const schedule *s = g->s;
    for (size_t u = g->oldest; u < g->next_use; u++)
        if (g->held[u] && s->uses[u].last < n) g->held[u] = false;
    while (g->oldest < g->next_use && !g->held[g->oldest]) g->oldest++;
    bool began[MEM_CLASS_COUNT] = {false};
    for (; g->next_use < s->use_count && s->uses[g->next_use].first <= n;) {
        size_t use = g->next_use++;
        int32_t page = s->uses[use].page;
        if (!streamed(g, page)) continue;
        TRY(begin_use(g, use));
        began[class_of(g, page)] = true;
    }
    /* ahead: the coming visits of each class that has just moved on */
    for (int c = 0; c < MEM_CLASS_COUNT; c++) {
        if (!began[c] || g->p->slots[c] < 2) continue;
        int ahead = g->p->slots[c] - 1;
        for (size_t u = g->next_use; u < s->use_count && ahead > 0; u++)
            if (streamed(g, s->uses[u].page) && class_of(g, s->uses[u].page) == (mem_class)c)
                bring(g, u), ahead--;
    }
    return STATUS_OK;
}

void pager_end(pager *g) {
    for (int c = 0; c < MEM_CLASS_COUNT; c++)
        for (int k = 0; k < g->p->slots[c]; k++)
            if (g->slots[c][k].page != NO_PAGE)
                write_back(g, (mem_class)c, &g->slots[c][k], k);
}

status pager_address(pager *g, int32_t page, char **at) {
    const page_place *place = &g->p->pages[page];
    if (!streamed(g, page)) {
        *at = (place->mapped ? g->host : g->device) + place->offset;
        return STATUS_OK;
    }
    mem_class c = class_of(g, page);
    int k = g->slot_of[page];
    if (k < 0 || g->slots[c][k].ready.ticket)
        return status_fail(STATUS_INTERNAL,
                           "pager: page %d (%s, layer %d) is read before it is ready", page,
                           mem_class_name(c), g->p->table->pages[page].group);
    *at = slot_address(g, c, k);
    return STATUS_OK;
}

void pager_forget(pager *g, int32_t page) {
    int k = g->slot_of[page];
    if (k < 0) return;
    g->slots[class_of(g, page)][k] = (page_slot){.page = NO_PAGE};
    g->slot_of[page] = -1;
}

pager_traffic pager_traffic_of(const pager *g, mem_class c) {
    return g->traffic[c];
}
