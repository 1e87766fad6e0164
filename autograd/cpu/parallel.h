/* parallel.h: how a loop is spread over threads.
 *
 * PARALLEL_FOR(b) before a for loop of independent iterations: each thread takes one
 * contiguous range of them; `b` is anything with a member `threads`. PARALLEL_FOR_IF(b, worth) runs on the
 * caller alone where waking the others costs more than they do (some 10 us). Without OpenMP (the TSan
 * build) the loop just runs. */
#ifndef NIBBLE_AUTOGRAD_CPU_PARALLEL_H
#define NIBBLE_AUTOGRAD_CPU_PARALLEL_H

#ifdef _OPENMP
#include <omp.h>
#define PARALLEL_PRAGMA(text) _Pragma(#text)
#define PARALLEL_FOR(b)                                                                       \
    PARALLEL_PRAGMA(omp parallel for schedule(static) num_threads((b)->threads))
#define PARALLEL_FOR_IF(b, worth)                                                             \
    PARALLEL_PRAGMA(omp parallel for schedule(static) num_threads((worth) ? (b)->threads : 1))
/* This thread's number inside such a loop, below `threads`: which part of a scratch is its
 * own. */
static inline int parallel_thread(void) {
    return omp_get_thread_num();
}
#else
#define PARALLEL_FOR(b)
#define PARALLEL_FOR_IF(b, worth)
static inline int parallel_thread(void) {
    return 0;
}
#endif

#endif
