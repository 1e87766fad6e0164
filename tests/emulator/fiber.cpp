/* fiber.cpp: see fiber.h. */
#include "emulator/fiber.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#define FIBER_UCONTEXT
#endif

/* Present where AddressSanitizer is linked. */
extern "C" {
void __sanitizer_start_switch_fiber(void **fake, const void *bottom, size_t bytes)
    __attribute__((weak));
void __sanitizer_finish_switch_fiber(void *fake, const void **bottom, size_t *bytes)
    __attribute__((weak));
void __asan_unpoison_memory_region(const volatile void *at, size_t bytes)
    __attribute__((weak));
}

#ifdef __x86_64__
/* fiber_swap(save, load): pushes what a call must preserve, exchanges stack pointers, pops. */
extern "C" void fiber_swap(void **save, void *load);
asm(".text\n"
    ".globl fiber_swap\n"
    ".hidden fiber_swap\n"
    ".type fiber_swap, @function\n"
    "fiber_swap:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n"
    "    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n"
    "    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size fiber_swap, .-fiber_swap\n");

static void *first_frame(char *top, void (*entry)(void)) {
    void **at = (void **)top;
    *--at = NULL; /* keeps the entry's stack at 8 modulo 16, as after a call */
    *--at = (void *)entry;
    for (int i = 0; i < 6; i++) *--at = NULL;
    return at;
}
#elif defined(__aarch64__)
extern "C" void fiber_swap(void **save, void *load);
asm(".text\n"
    ".globl fiber_swap\n"
    ".hidden fiber_swap\n"
    ".type fiber_swap, %function\n"
    "fiber_swap:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp]\n    stp x21, x22, [sp, #16]\n    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n    stp x27, x28, [sp, #64]\n    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n    str x9, [x0]\n    mov sp, x1\n"
    "    ldp x19, x20, [sp]\n    ldp x21, x22, [sp, #16]\n    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n    ldp x27, x28, [sp, #64]\n    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n"
    ".size fiber_swap, .-fiber_swap\n");

static void *first_frame(char *top, void (*entry)(void)) {
    void **at = (void **)(top - 160);
    for (int i = 0; i < 20; i++) at[i] = NULL;
    at[11] = (void *)entry; /* x30 */
    return at;
}
#else
static void fiber_swap(void **save, void *load) {
    swapcontext((ucontext_t *)*save, (ucontext_t *)load);
}
#endif

static fiber *pool;
static fiber main_fiber;

fiber *fiber_main(void) {
#ifdef FIBER_UCONTEXT
    if (!main_fiber.saved) main_fiber.saved = calloc(1, sizeof(ucontext_t));
#endif
    static thread_local void *low; /* each thread of the host has its own stack */
    static thread_local size_t bytes;
    if (__sanitizer_start_switch_fiber && !low) {
        pthread_attr_t attr;
        pthread_getattr_np(pthread_self(), &attr);
        pthread_attr_getstack(&attr, &low, &bytes);
        pthread_attr_destroy(&attr);
    }
    main_fiber.stack = (char *)low;
    main_fiber.bytes = bytes;
    return &main_fiber;
}

static fiber *make(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *at = (char *)mmap(NULL, FIBER_STACK + page, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fiber *f = (fiber *)calloc(1, sizeof *f);
    if (at == MAP_FAILED || !f || mprotect(at, page, PROT_NONE)) {
        perror("emulator: a thread's stack");
        abort();
    }
    f->stack = at + page;
    f->bytes = FIBER_STACK;
#ifdef FIBER_UCONTEXT
    f->saved = calloc(1, sizeof(ucontext_t));
#endif
    return f;
}

fiber *fiber_take(void (*entry)(void)) {
    fiber *f = pool;
    if (f)
        pool = f->next;
    else
        f = make();
#ifdef FIBER_UCONTEXT
    ucontext_t *c = (ucontext_t *)f->saved;
    getcontext(c);
    c->uc_stack.ss_sp = f->stack;
    c->uc_stack.ss_size = f->bytes;
    makecontext(c, entry, 0);
#else
    f->saved = first_frame(f->stack + f->bytes, entry);
#endif
    return f;
}

void fiber_give(fiber *f) {
    f->next = pool;
    pool = f;
}

void fiber_drop(fiber *f) {
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(f->stack, f->bytes);
    fiber_give(f);
}

void fiber_switch(fiber *from, fiber *to, bool dying) {
    void *fake = NULL;
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(dying ? NULL : &fake, to->stack, to->bytes);
    fiber_swap(&from->saved, to->saved);
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake, NULL, NULL);
}

void fiber_started(void) {
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
}
