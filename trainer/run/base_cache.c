/* base_cache.c: see base_cache.h. */
#include "trainer/run/base_cache.h"

status base_cache_to_disk(session *s, const load_progress *progress) {
    return status_fail(STATUS_INTERNAL, "no cache yet");
}
status base_cache_load(session *s, const load_progress *progress) { return weights_load_base(&s->w, s->d, s->e, progress); }
