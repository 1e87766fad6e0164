/* fiber.h: a thread of a kernel: a stack of its own and a switch that costs a dozen instructions.
 *
 * Stacks are 64 KB above a guard page, kept from launch to launch. The switch is assembly on
 * x86-64 and aarch64, ucontext elsewhere. AddressSanitizer, where it is linked, is told of every
 * switch. Nothing here knows of kernels; block.cpp decides who runs. */
#ifndef NIBBLE_TESTS_EMULATOR_FIBER_H
#define NIBBLE_TESTS_EMULATOR_FIBER_H

#include <stddef.h>

enum { FIBER_STACK = 64 << 10 };

struct fiber {
    void *saved; /* stack pointer, or the ucontext, while it does not run */
    char *stack; /* its lowest byte; NULL for the caller's own stack */
    size_t bytes;
    fiber *next; /* of the pool */
};

/* The context that calls into the first fiber; its stack is the calling thread's. */
fiber *fiber_main(void);
/* A fiber that will run `entry`, which never returns. Aborts when there is no memory. */
fiber *fiber_take(void (*entry)(void));
/* Back into the pool: it will not be switched to again. It may be the running one, if that
 * switches away next. */
void fiber_give(fiber *f);
/* The same for one that was left in the middle of its work. */
void fiber_drop(fiber *f);
/* Runs `to` until something switches back. `dying`: `from` will not run again. */
void fiber_switch(fiber *from, fiber *to, bool dying);
/* First statement of an entry. */
void fiber_started(void);

#endif
