/* limit.c: how much memory this process may use. */
#include "autograd/planner.h"
#include "common/alloc.h"
#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* /proc files have size 0: read until the end. */
static bool read_small(const char *path, char *text, size_t bytes) {
    FILE *f = fopen(path, "r");
    if (!f) return false;
    size_t n = fread(text, 1, bytes - 1, f);
    fclose(f);
    text[n] = 0;
    return n > 0;
}

static int64_t field_kib(const char *text, const char *name) {
    const char *at = strstr(text, name);
    long long kib;
    return at && sscanf(at + strlen(name), ": %lld kB", &kib) == 1 ? kib * 1024 : 0;
}

/* What the limit of kind `resource` leaves beyond what is used already. */
static int64_t left_of(int resource, int64_t used) {
    struct rlimit r;
    if (getrlimit(resource, &r) != 0 || r.rlim_cur == RLIM_INFINITY) return INT64_MAX;
    return r.rlim_cur > (rlim_t)used ? (int64_t)r.rlim_cur - used : 0;
}

int64_t plan_host_limit(int64_t outside) {
    char text[8192];
    int64_t limit = INT64_MAX, data = 0, size = 0;
    if (read_small("/proc/self/status", text, sizeof text)) {
        data = field_kib(text, "VmData");
        size = field_kib(text, "VmSize");
    }
    limit = smaller(limit, left_of(RLIMIT_DATA, data));
    limit = smaller(limit, left_of(RLIMIT_AS, size));
    if (read_small("/proc/meminfo", text, sizeof text)) {
        int64_t available = field_kib(text, "MemAvailable");
        if (available) limit = smaller(limit, available);
    }
    long long max, current;
    if (read_small("/sys/fs/cgroup/memory.max", text, sizeof text) &&
        sscanf(text, "%lld", &max) == 1 &&
        read_small("/sys/fs/cgroup/memory.current", text, sizeof text) &&
        sscanf(text, "%lld", &current) == 1)
        limit = smaller(limit, max > current ? max - current : 0);
    if (limit == INT64_MAX) return 0;
    return limit > outside ? limit - outside : 1;
}
