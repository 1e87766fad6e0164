/* warp.cpp: what the lanes of a warp do together: __syncwarp, shuffles, votes, cp.async,
 * ldmatrix, mma.
 *
 * A lane leaves its operands in its struct and waits; the last one to come does the work for all and
 * wakes them. Lanes must stand in one line of one file and name the same mask. */
#include "emulator/engine.h"
#include "emulator/device.h"

#include <string.h>

/* Begins to wait for the lanes of `mask`, none of which may have ended. */
static void open_meeting(const warp_meeting &m) {
    const thread *warp = warp_of(engine.here);
    int lanes = engine.threads - warp->number;
    for (unsigned left = m.mask; left; left &= left - 1) {
        int l = __builtin_ctz(left);
        if (l >= lanes || warp[l].state == THREAD_DONE)
            engine_fail(cudaErrorLaunchFailure, m.file, m.line, "lane %d of the mask %s", l,
                        l >= lanes ? "does not exist" : "has ended");
    }
    engine.open[warp->number / LANES].push_back(m);
}

/* Waits for the lanes of `mask`. True for the last to come: it does the work and calls part. */
static bool meet(meeting kind, unsigned mask, const char *file, int line) {
    const thread *t = engine.here;
    unsigned bit = 1u << lane_of(t);
    if (!(mask & bit))
        engine_fail(cudaErrorLaunchFailure, file, line, "lane %d is not in its mask %08x",
                    lane_of(t), mask);
    if (mask == bit) return true;
    std::vector<warp_meeting> &open = engine.open[t->number / LANES];
    for (size_t i = 0; i < open.size(); i++) {
        warp_meeting *m = &open[i];
        if (m->mask != mask) continue;
        if (m->kind != kind || m->line != line || (m->file != file && strcmp(m->file, file)))
            engine_fail(cudaErrorLaunchFailure, file, line,
                        "other lanes of the mask %08x wait at %s:%d", mask, m->file, m->line);
        m->arrived |= bit;
        if (m->arrived != mask) return engine_wait(kind, mask, file, line), false;
        open.erase(open.begin() + (long)i);
        return true;
    }
    open_meeting({kind, mask, bit, file, line});
    engine_wait(kind, mask, file, line);
    return false;
}

static void part(unsigned mask) {
    const thread *t = engine.here;
    DETECT(warp_meets, t->number / LANES);
    engine_wake(t->number / LANES, mask & ~(1u << lane_of(t)));
}

/* A mask of some lanes orders memory of all, which hides a race of the others. */
void emulator_warp_barrier(unsigned mask, const char *file, int line) {
    if (!meet(MEET_WARP, mask, file, line)) return;
    DETECT(warp_barrier, engine.here->number / LANES);
    part(mask);
}

uint64_t emulator_shuffle(unsigned mask, uint64_t value, int from, const char *file,
                          int line) {
    thread *t = engine.here, *warp = warp_of(t);
    if (!(mask >> from & 1))
        engine_fail(cudaErrorLaunchFailure, file, line,
                    "a shuffle from lane %d, which is not in the mask %08x", from, mask);
    t->value = value;
    t->from = from;
    if (meet(MEET_SHUFFLE, mask, file, line)) {
        for (unsigned left = mask; left; left &= left - 1) {
            thread *o = &warp[__builtin_ctz(left)];
            o->result = warp[o->from].value;
        }
        part(mask);
    }
    return t->result;
}

unsigned emulator_vote_of(unsigned mask, emulator_vote what, int predicate, const char *file,
                          int line) {
    thread *t = engine.here, *warp = warp_of(t);
    t->value = predicate != 0;
    if (meet(MEET_VOTE, mask, file, line)) {
        unsigned ballot = 0;
        for (unsigned left = mask; left; left &= left - 1)
            ballot |= (unsigned)warp[__builtin_ctz(left)].value << __builtin_ctz(left);
        for (unsigned left = mask; left; left &= left - 1)
            warp[__builtin_ctz(left)].result = ballot;
        part(mask);
    }
    unsigned ballot = (unsigned)t->result;
    return what == VOTE_BALLOT ? ballot : what == VOTE_ANY ? ballot != 0 : ballot == mask;
}

/* ---- cp.async: copied as late as the program allows ---- */

static bool in_shared(const void *at, size_t bytes) {
    const unsigned char *p = (const unsigned char *)at;
    return p >= engine.shared && p + bytes <= engine.shared + engine.shared_room;
}

void emulator_cp_async(void *shared, const void *global, bool valid, const char *file,
                       int line) {
    if (!in_shared(shared, 16))
        engine_fail(cudaErrorIllegalAddress, file, line,
                    "cp.async to %p, outside the block's %zu bytes of shared memory", shared,
                    engine.shared_room);
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16)
        engine_fail(cudaErrorMisalignedAddress, file, line,
                    "cp.async from %p to %p: not multiples of 16", global, shared);
    if (valid && !memory_holds(global, 16))
        engine_fail(cudaErrorIllegalAddress, file, line,
                    "cp.async from %p: 16 bytes that are not all in one allocation", global);
    thread *t = engine.here;
    if (valid) DETECT(read, t, global, 16, file, line);
    DETECT(write, t, shared, 16, file, line); /* from now on, at any time */
    DETECT(flight, shared, true);
    memset(shared, 0xff, 16);
    t->pieces.push_back({(unsigned char *)shared, valid ? (const unsigned char *)global : NULL,
                         t->groups, file, line});
}

void emulator_cp_commit(const char *, int) {
    engine.here->groups++;
}

void emulator_cp_wait(int left, const char *file, int line) {
    thread *t = engine.here;
    size_t kept = 0;
    for (size_t i = 0; i < t->pieces.size(); i++) {
        const cp_piece p = t->pieces[i];
        if (p.group >= t->groups - left) {
            t->pieces[kept++] = p;
            continue;
        }
        DETECT(flight, p.to, false);
        DETECT(write, t, p.to, 16, p.file, p.line);
        if (p.from)
            memcpy(p.to, p.from, 16);
        else
            memset(p.to, 0, 16);
    }
    t->pieces.resize(kept);
}

/* ---- tensor cores; layouts: PTX ISA, "Matrix fragments for mma.m16n8k16" ---- */

void emulator_ldmatrix(uint32_t r[4], const void *shared, bool trans, const char *file,
                       int line) {
    thread *t = engine.here, *warp = warp_of(t);
    if (!in_shared(shared, 16))
        engine_fail(cudaErrorIllegalAddress, file, line,
                    "ldmatrix from %p, outside the block's %zu bytes of shared memory", shared,
                    engine.shared_room);
    if ((uintptr_t)shared % 16)
        engine_fail(cudaErrorMisalignedAddress, file, line,
                    "ldmatrix from %p: not a multiple of 16", shared);
    t->address = shared;
    t->out = r;
    if (!meet(MEET_LDMATRIX, ~0u, file, line)) return;
    for (int l = 0; l < LANES; l++) DETECT(read, &warp[l], warp[l].address, 16, file, line);
    for (int m = 0; m < 4; m++) {
        uint16_t x[8][8];
        for (int row = 0; row < 8; row++) memcpy(x[row], warp[8 * m + row].address, 16);
        for (int l = 0; l < LANES; l++) {
            int g = l / 4, c = l % 4 * 2;
            uint32_t low = trans ? x[c][g] : x[g][c], high = trans ? x[c + 1][g] : x[g][c + 1];
            warp[l].out[m] = high << 16 | low;
        }
    }
    part(~0u);
}

typedef float row8 __attribute__((vector_size(32)));

/* f16 by a table: conversion by arithmetic would be most of the work. */
static const float *f16_table(void) {
    static float table[65536];
    static bool made;
    for (unsigned i = 0; !made && i < 65536; i++)
        table[i] = __half2float(__ushort_as_half((unsigned short)i));
    made = true;
    return table;
}

static inline void widen(uint32_t pair, const float *f16, float *low, float *high) {
    *low = f16 ? f16[pair & 0xffff] : __uint_as_float(pair << 16);
    *high = f16 ? f16[pair >> 16] : __uint_as_float(pair & 0xffff0000);
}

/* c += a b, k ascending. */
#ifdef __x86_64__
__attribute__((target_clones("avx2", "default")))
#endif
static void
multiply_add(row8 c[16], const float a[16][16], const row8 b[16]) {
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++) c[row] += a[row][k] * b[k];
}

void emulator_mma(float d[4], const uint32_t a[4], const uint32_t b[2], bool bf16,
                  const char *file, int line) {
    thread *t = engine.here, *warp = warp_of(t);
    const float *f16 = bf16 ? NULL : f16_table();
    t->d = d;
    t->a = a;
    t->b = b;
    if (!meet(MEET_MMA, ~0u, file, line)) return;
    float at[16][16];
    union {
        row8 row[16];
        float x[16][8];
    } bt, c;
    for (int l = 0; l < LANES; l++) {
        const thread *o = &warp[l];
        int g = l / 4, q = l % 4 * 2;
        for (int i = 0; i < 4; i++) {
            float *to = &at[g + i % 2 * 8][q + i / 2 * 8];
            widen(o->a[i], f16, to, to + 1);
            c.x[g + i / 2 * 8][q + i % 2] = o->d[i];
        }
        for (int i = 0; i < 2; i++)
            widen(o->b[i], f16, &bt.x[q + 8 * i][g], &bt.x[q + 8 * i + 1][g]);
    }
    multiply_add(c.row, at, bt.row);
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++) warp[l].d[i] = c.x[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
    part(~0u);
}
