/* metrics.c: metrics.jsonl; the event file's encoding is tfevents.c's matter. */
#include "trainer/run/metrics.h"
#include "common/alloc.h"
#include "common/log.h"
#include "trainer/run/tfevents.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { METRICS_LIMIT = 1 << 30 /* bytes of a metrics.jsonl that is cut back */ };

/* *step is -1 for a broken line, as a process leaves it that is killed while it writes. */
static status line_step(const char *line, size_t n, int64_t *step) {
    json_error_t e;
    json_t *o;
    *step = -1;
    TRY(json_parse(line, n, 0, &e, &o));
    if (o) *step = json_integer_value(json_object_get(o, "step"));
    json_decref(o);
    return STATUS_OK;
}

/* Drops the lines of steps beyond `keep` and a torn last line. */
static status cut_back(const char *path, int64_t keep) {
    if (!file_exists(path)) return STATUS_OK;
    char *text;
    size_t bytes, out = 0;
    TRY(file_read_all(path, METRICS_LIMIT, &text, &bytes));
    status s = STATUS_OK;
    for (size_t at = 0; at < bytes && s == STATUS_OK;) {
        const char *end = memchr(text + at, '\n', bytes - at);
        if (!end) break;
        size_t n = (size_t)(end - text) - at + 1;
        int64_t step;
        s = line_step(text + at, n, &step);
        if (s == STATUS_OK && step >= 0 && step <= keep) {
            memmove(text + out, text + at, n);
            out += n;
        }
        at += n;
    }
    if (s == STATUS_OK && out != bytes) s = file_write_all(path, text, out);
    mem_free(text);
    return s;
}

status metrics_open(metrics *m, const char *output_dir, int64_t keep_steps) {
    memset(m, 0, sizeof *m);
    char *path = file_join(output_dir, "metrics.jsonl");
    if (!path) return STATUS_MEMORY;
    status s = keep_steps >= 0 ? cut_back(path, keep_steps) : STATUS_OK;
    if (s == STATUS_OK) s = file_open_append(&m->lines, path);
    mem_free(path);
    if (s != STATUS_OK) return s;
    m->started = (double)time(NULL);
    char *folder = file_join(output_dir, "runs");
    char *name = folder ? mem_printf("%s/events.out.tfevents.%lld.nibble.%d", folder,
                                     (long long)time(NULL), (int)getpid())
                        : NULL;
    if (!name) s = STATUS_MEMORY;
    if (s == STATUS_OK) s = file_make_directories(folder);
    if (s == STATUS_OK) s = file_open_append(&m->events, name);
    if (s == STATUS_OK) s = tfevents_begin(&m->events, m->started);
    mem_free(folder);
    mem_free(name);
    if (s != STATUS_OK) metrics_close(m);
    return s;
}

void metrics_close(metrics *m) {
    file_close(&m->lines);
    file_close(&m->events);
}

json_t *metrics_real(double x) {
    char text[32];
    if (!isfinite(x)) return json_null();
    snprintf(text, sizeof text, "%.9g", x);
    return json_real(strtod(text, NULL));
}

void metrics_write(metrics *m, json_t *line, const char *group) {
    static bool warned;
    char *text =
        line ? json_write_text(line, JSON_REAL_PRECISION(9) | JSON_PRESERVE_ORDER) : NULL;
    char *whole = text ? mem_printf("%s\n", text) : NULL;
    status s = whole ? file_write(&m->lines, whole, strlen(whole)) : STATUS_MEMORY;
    const char *key;
    json_t *value;
    int64_t step = json_integer_value(json_object_get(line, "step"));
    if (m->events.path && s == STATUS_OK)
        json_object_foreach(line, key, value) if (json_is_number(value) &&
                                                  strcmp(key, "step") && s == STATUS_OK) {
            char tag[128];
            snprintf(tag, sizeof tag, "%s/%s", group, key);
            s = tfevents_scalar(&m->events, (double)time(NULL), step, tag,
                                (float)json_number_value(value));
        }
    if (s != STATUS_OK && !warned) {
        warned = true;
        log_warn("metrics: %s; the run goes on", status_message());
    }
    mem_free(text);
    mem_free(whole);
    json_decref(line);
}
