/* traffic.cpp: see traffic.h.
 *
 * A warp's access is put together from the n-th access of each lane at one place since the lanes
 * last met. Global: distinct 32-byte sectors, against the fewest that hold the distinct bytes.
 * Shared: lanes are served in groups that make 128 bytes (32 lanes of 4 bytes, 16 of 8, 8 of
 * 16); each group takes as many wavefronts as the busiest of 32 banks has distinct words. */
#include "emulator/traffic.h"
#include "emulator/engine.h"

#include <algorithm>
#include <map>
#include <stdio.h>
#include <string.h>

enum { BLOCKS_COUNTED = 4 /* of a launch */, LAUNCHES_COUNTED = 32 /* of a kernel */ };

struct record {
    const void *place;
    uint32_t turn;
    int lane, bytes;
    uintptr_t at;
    bool write, shared;
};

static std::map<std::string, emulator_traffic> kernels;
static emulator_traffic *kernel;  /* that runs */
static emulator_traffic *counted; /* NULL: this block is not counted */
static std::vector<record> records[WARPS_MOST];
static std::map<std::pair<const void *, int>, uint32_t> turns[WARPS_MOST];
static uint64_t launch_counted;
static int blocks_counted;

void traffic_add(int thread, const void *place, const void *at, int bytes, bool write,
                 bool shared) {
    if (!counted) return;
    int warp = thread / LANES, lane = thread % LANES;
    uint32_t turn = turns[warp][{place, lane}]++;
    records[warp].push_back({place, turn, lane, bytes, (uintptr_t)at, write, shared});
}

static bool before(const record &a, const record &b) {
    return a.place != b.place ? a.place < b.place
           : a.turn != b.turn ? a.turn < b.turn
                              : a.lane < b.lane;
}

/* Numbers of `unit`-byte pieces that the accesses touch, distinct and sorted. */
static std::vector<uintptr_t> pieces(const record *r, int n, uintptr_t unit) {
    std::vector<uintptr_t> all;
    for (int i = 0; i < n; i++)
        for (uintptr_t p = r[i].at / unit; p <= (r[i].at + (uintptr_t)r[i].bytes - 1) / unit;
             p++)
            all.push_back(p);
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
}

static void count_global(const record *r, int n) {
    int64_t sectors = (int64_t)pieces(r, n, 32).size();
    int64_t least = ((int64_t)pieces(r, n, 1).size() + 31) / 32;
    (r->write ? counted->write_sectors : counted->read_sectors) += sectors;
    (r->write ? counted->least_write_sectors : counted->least_read_sectors) += least;
}

static void count_shared(const record *r, int n) {
    int lanes = r->bytes <= 4 ? 32 : 128 / r->bytes;
    for (int i = 0; i < n;) {
        int group = r[i].lane / lanes, busiest = 0, banks[32] = {}, first = i;
        while (i < n && r[i].lane / lanes == group) i++;
        for (uintptr_t word : pieces(r + first, i - first, 4))
            busiest = std::max(busiest, ++banks[word % 32]);
        counted->shared_wavefronts += busiest;
        counted->least_shared_wavefronts++;
    }
}

void traffic_flush(int warp) {
    if (!counted || records[warp].empty()) return;
    std::vector<record> &all = records[warp];
    std::stable_sort(all.begin(), all.end(), before);
    for (size_t i = 0, first = 0; i < all.size(); first = i) {
        while (i < all.size() && all[i].place == all[first].place &&
               all[i].turn == all[first].turn)
            i++;
        (all[first].shared ? count_shared : count_global)(&all[first], (int)(i - first));
    }
    all.clear();
    turns[warp].clear();
}

void traffic_block_begins(void) {
    if (launch_counted != engine.now->number) {
        launch_counted = engine.now->number;
        blocks_counted = 0;
        kernel = &kernels[engine.now->name];
        snprintf(kernel->kernel, sizeof kernel->kernel, "%.95s", engine.now->name.c_str());
        kernel->launches++;
    }
    counted = NULL;
    if (!emulator_settings.traffic || blocks_counted++ >= BLOCKS_COUNTED ||
        kernel->launches > LAUNCHES_COUNTED)
        return;
    counted = kernel;
    counted->blocks++;
}

void traffic_block_ends(void) {
    for (int w = 0; w < engine.warps; w++) {
        traffic_flush(w);
        records[w].clear(); /* where the grid was ended */
        turns[w].clear();
    }
    counted = NULL;
}

int emulator_traffic_of(const char *kernel, emulator_traffic *out) {
    memset(out, 0, sizeof *out);
    int found = 0;
    for (const auto &k : kernels) {
        if (k.first.find(kernel) == std::string::npos) continue;
        const emulator_traffic *t = &k.second;
        if (!found++) memcpy(out->kernel, t->kernel, sizeof out->kernel);
        out->launches += t->launches;
        out->blocks += t->blocks;
        out->read_sectors += t->read_sectors;
        out->least_read_sectors += t->least_read_sectors;
        out->write_sectors += t->write_sectors;
        out->least_write_sectors += t->least_write_sectors;
        out->shared_wavefronts += t->shared_wavefronts;
        out->least_shared_wavefronts += t->least_shared_wavefronts;
    }
    return found;
}

static double ratio(int64_t is, int64_t least) {
    return least ? (double)is / (double)least : 1;
}

void emulator_traffic_print(void) {
    fprintf(stderr, "%-60s %9s %9s %9s\n", "kernel", "reads", "writes", "shared");
    for (const auto &k : kernels) {
        const emulator_traffic *t = &k.second;
        fprintf(stderr, "%-60s %9.2f %9.2f %9.2f\n", t->kernel,
                ratio(t->read_sectors, t->least_read_sectors),
                ratio(t->write_sectors, t->least_write_sectors),
                ratio(t->shared_wavefronts, t->least_shared_wavefronts));
    }
}
