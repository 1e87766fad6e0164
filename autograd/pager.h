/* pager.h: keeps streamed pages in k slots per class, fetched ahead of their use.
 *
 * The order of visits is known (schedule.uses), so at each visit the pager fetches the pages
 * of the next k - 1 visits into the slots whose pages are needed latest. want -> ready ->
 * release: a page is wanted when a visit begins, ready when its event has passed, released
 * when the visit ends. A written page goes back when its slot is taken or at the end of the
 * run; a frozen one never. Decisions depend on (slots' contents, schedule) only, never on
 * timing, so traffic is exact and the same in rehearsal. Bytes of an 8B layer: 112.5 MB; at 25
 * GB/s PCIe 4.5 ms; hidden when the layer computes longer, i.e. above about 0.2 * FLOP/s /
 * (bytes/s) tokens (NUMERICS 5). */
#ifndef NIBBLE_AUTOGRAD_PAGER_H
#define NIBBLE_AUTOGRAD_PAGER_H

#include "autograd/planner.h"

typedef struct pager_traffic {
    int64_t in_bytes, out_bytes, disk_bytes;
    int64_t fetches, hits;
    double stall_seconds;
} pager_traffic;

typedef struct pager pager;

/* device, host: the arenas' bases (NULL in rehearsal). disk: the cache file or NULL. */
status pager_open(pager **out, backend *b, const plan *p, char *device, char *host,
                  const file *disk);
void pager_close(pager *g);

/* Before the first step of a run of this program. */
void pager_begin(pager *g, const schedule *s);
/* Before step n: releases what is over, fetches ahead, waits for what the step reads. */
status pager_step(pager *g, int32_t n);
/* After the last step: written pages go back. */
void pager_end(pager *g);

/* Address of a page now: its slot, or its fixed place. Between pager_step calls only. A
 * streamed page that is not ready is STATUS_INTERNAL. */
status pager_address(pager *g, int32_t page, char **at);
/* The host copy of a page is about to be changed by hand, all queues idle: its slot's copy is
 * void. */
void pager_forget(pager *g, int32_t page);
pager_traffic pager_traffic_of(const pager *g, mem_class c);

#endif
