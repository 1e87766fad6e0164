/* base_cache.c: see base_cache.h. */
#include "trainer/run/base_cache.h"
#include "common/log.h"
#include "trainer/model/base_pages.h"

/* `ours`: the hidden file of an earlier run may be stale and is made again; a user's is
 * refused. */
static status open_or_make(session *s, const char *path, bool ours,
                           const load_progress *progress) {
    if (file_exists(path)) {
        status r = base_pages_open(&s->cache, path, &s->w, s->d);
        s->cache_open = r == STATUS_OK;
        if (r == STATUS_OK || !ours) return r;
        TRY(file_unlink(path));
    }
    TRY(base_pages_write(&s->w, s->d, path, progress));
    TRY(base_pages_open(&s->cache, path, &s->w, s->d));
    s->cache_open = true;
    return STATUS_OK;
}

status base_cache_prepare(session *s, const load_progress *progress) {
    const config *c = s->c;
    bool disk = s->plan->policy.base == BASE_DISK;
    if (c->adapter == ADAPTER_FULL && s->request.train)
        return STATUS_OK; /* its base is what is trained */
    if (c->quantized_cache)
        TRY(open_or_make(s, c->quantized_cache, false, progress));
    else if (disk && s->request.train) {
        s->disk_path = file_join(c->output_dir, ".base-cache.h5");
        if (!s->disk_path) return STATUS_MEMORY;
        log_info("memory.base=disk without quantized_cache: the pages go to %s, which is "
                 "removed at the end",
                 s->disk_path);
        TRY(open_or_make(s, s->disk_path, true, progress));
    } else if (disk)
        return status_fail(STATUS_USAGE, "memory.base=disk needs quantized_cache=FILE here");
    if (disk) base_pages_place(&s->cache, s->d, s->plan);
    return STATUS_OK;
}

status base_cache_load(session *s, const load_progress *progress) {
    if (s->cache_open)
        TRY(base_pages_load(&s->cache, s->d, s->plan, s->e, progress));
    else
        TRY(weights_load_base(&s->w, s->d, s->e, progress));
    return weights_identity(&s->w, &s->base_identity);
}
