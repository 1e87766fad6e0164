/* clock_jump.c: a library for LD_PRELOAD: the calendar's clock jumps a year ahead at every odd
 * call and back at every even one. The monotonic clock stays as it is. */
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>

enum { YEAR = 365 * 86400 };

static time_t jump(void) {
    static unsigned calls;
    return __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) % 2 ? YEAR : 0;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, out);
    if (!result && clock == CLOCK_REALTIME) out->tv_sec += jump();
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *out = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}
