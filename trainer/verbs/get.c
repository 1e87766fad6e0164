/* get.c: `train get`: a model or dataset from the hub into the local Hugging Face cache, where
 * training and the Python libraries look for it. */
#include "common/alloc.h"
#include "common/json.h"
#include "common/log.h"
#include "trainer/hub/choose.h"
#include "trainer/hub/fetch.h"
#include "trainer/run/signals.h"
#include "trainer/verbs/hub.h"
#include "trainer/verbs/load.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { SIZE_TEXT = 24, PLAIN_SECONDS = 10 /* between progress lines off a terminal */ };

/* One repository on its way. */
typedef struct errand {
    const command *c;
    const http_settings *settings;
    const hub_patterns *patterns;
    const char *revision;
    hub_place place;
    hub_listing listing;
    bool *chosen;
    fetch f;
    double began, shown, marked, speed; /* for the progress line: seconds, bytes a second */
    int64_t at_mark;
} errand;

/* As the hub's pages count: 1 GB is 10^9 bytes. */
static const char *size_text(int64_t bytes, char text[SIZE_TEXT]) {
    static const char *const units[] = {"B", "kB", "MB", "GB"};
    double n = (double)bytes;
    int unit = 0;
    for (; n >= 1000 && unit < 3; unit++) n /= 1000;
    snprintf(text, SIZE_TEXT, "%.*f %s", unit ? 2 : 0, n, units[unit]);
    return text;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static bool stop(void *context) {
    return signals_stop_wanted();
}

/* ---- the progress line ---- */

/* 3:05, 1:03:05 */
static void left_text(double seconds, char text[32]) {
    long s = seconds < 1e6 ? (long)seconds : 1000000;
    if (s >= 3600)
        snprintf(text, 32, ", left %ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, 32, ", left %ld:%02ld", s / 60, s % 60);
}

/* Bytes a second of the last seconds: each second weighs half of the one after it. */
static void measure_speed(errand *e, int64_t received) {
    double t = now(), passed = t - e->marked;
    if (passed < 1) return;
    double latest = (double)(received - e->at_mark) / passed;
    e->speed = e->speed > 0 ? (e->speed + latest) / 2 : latest;
    e->marked = t;
    e->at_mark = received;
}

static void show(void *context, int64_t there, int64_t received) {
    errand *e = context;
    char done[SIZE_TEXT], all[SIZE_TEXT], speed[SIZE_TEXT], left[32] = "";
    measure_speed(e, received);
    if (e->speed > 0) left_text((double)(e->f.bytes - there) / e->speed, left);
    size_text(there, done);
    size_text(e->f.bytes, all);
    size_text((int64_t)e->speed, speed);
    if (log_is_terminal())
        log_progress("%s: %s of %s, %s/s%s", e->place.name, done, all, speed, left);
    else if (now() - e->shown >= PLAIN_SECONDS) {
        e->shown = now();
        log_info("%s: %s of %s, %s/s%s", e->place.name, done, all, speed, left);
    }
}

/* ---- the list ---- */

static const char *state_of(const errand *e, size_t i) {
    const hub_file *file = &e->listing.files[i];
    if (hub_has_file(&e->place, e->listing.commit, file->path, file->id, file->size))
        return "in the cache";
    return e->chosen[i] ? "to fetch" : "left out";
}

static void print_list(const errand *e) {
    char size[SIZE_TEXT], missing[SIZE_TEXT];
    for (size_t i = 0; i < e->listing.count; i++)
        printf("%12s  %-12s  %s\n", size_text(e->listing.files[i].size, size), state_of(e, i),
               e->listing.files[i].path);
    printf("%s at %s: %lld files, %s; to fetch: %s\n", e->place.name, e->listing.commit,
           (long long)e->f.files, size_text(e->f.bytes, size),
           size_text(e->f.missing_bytes, missing));
}

/* ---- the summary ---- */

static json_t *file_json(const errand *e, size_t i) {
    const hub_file *file = &e->listing.files[i];
    return json_pack("{s:s, s:I, s:s, s:s}", "path", file->path, "bytes",
                     (json_int_t)file->size, "hash", file->id, "state", state_of(e, i));
}

static json_t *summary_json(const errand *e, const char *path) {
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:f}", "repository", e->place.name,
                  "kind", e->place.kind == HUB_MODEL ? "model" : "dataset", "revision",
                  e->revision, "commit", e->listing.commit, "path", path, "files",
                  (json_int_t)e->f.files, "bytes", (json_int_t)e->f.bytes, "received",
                  (json_int_t)e->f.received, "seconds", now() - e->began);
    if (!e->c->list) return o;
    json_t *files = json_array();
    for (size_t i = 0; i < e->listing.count; i++) json_push(&files, file_json(e, i));
    json_put(&o, "listing", files);
    json_put(&o, "missing", json_integer((json_int_t)e->f.missing_bytes));
    return o;
}

static status print_json(json_t *o) {
    char *text = o ? json_write_text(o, 0) : NULL;
    json_decref(o);
    if (!text)
        return status_fail(STATUS_MEMORY,
                           "no memory for the summary, or the cache's path is no UTF-8");
    puts(text);
    mem_free(text);
    return STATUS_OK;
}

static status print_summary(const errand *e) {
    char all[SIZE_TEXT], received[SIZE_TEXT];
    char *path = hub_snapshot_path(&e->place, e->listing.commit);
    if (!path) return STATUS_MEMORY;
    status s = STATUS_OK;
    if (e->c->format == FORMAT_JSON)
        s = print_json(summary_json(e, path));
    else if (e->c->list)
        print_list(e);
    else
        printf("%s: %lld files, %s (%s received in %.1f s): %s\n", e->place.name,
               (long long)e->f.files, size_text(e->f.bytes, all),
               size_text(e->f.received, received), now() - e->began, path);
    mem_free(path);
    return s;
}

/* ---- one repository ---- */

/* What is fetched, and that not all is, before the first byte. */
static void announce(const errand *e) {
    char missing[SIZE_TEXT], out[SIZE_TEXT];
    const hub_file *largest = NULL;
    int64_t left = 0, bytes = 0;
    for (size_t i = 0; i < e->listing.count; i++) {
        const hub_file *file = &e->listing.files[i];
        if (e->chosen[i]) continue;
        if (!largest || file->size > largest->size) largest = file;
        left++;
        bytes += file->size;
    }
    log_info("%s at %s: %lld files, %s to fetch", e->place.name, e->listing.commit,
             (long long)e->f.files, size_text(e->f.missing_bytes, missing));
    if (left && !e->patterns->count)
        log_info("left out, as training does not read them: %lld files, %s (%s ...); "
                 "--include fetches what it names",
                 (long long)left, size_text(bytes, out), largest->path);
}

static status interrupted(const errand *e) {
    char there[SIZE_TEXT], all[SIZE_TEXT];
    if (!e->f.bytes) return signals_check("asking the hub");
    return status_fail(
        STATUS_INTERRUPTED,
        "interrupted by %s: %s of %s are in the cache; the same command goes on",
        signals_name(), size_text(e->f.there, there), size_text(e->f.bytes, all));
}

static status run(errand *e) {
    http *h;
    TRY(http_open(&h, e->settings));
    status s = hub_list(h, e->settings, &e->place, e->revision, &e->listing);
    http_close(h);
    TRY(s);
    e->chosen = mem_alloc(e->listing.count, "a list of files");
    if (!e->chosen) return STATUS_MEMORY;
    TRY(hub_choose(&e->place, &e->listing, e->patterns, e->chosen));
    e->f = (fetch){.settings = e->settings,
                   .place = &e->place,
                   .revision = e->revision,
                   .listing = &e->listing,
                   .chosen = e->chosen};
    fetch_measure(&e->f);
    if (e->c->list) return print_summary(e);
    announce(e);
    e->shown = e->marked = now();
    s = fetch_run(&e->f, show, e);
    log_progress_end();
    return s == STATUS_OK ? print_summary(e) : s;
}

static status get(const command *c, const http_settings *settings,
                  const hub_patterns *patterns, hub_kind kind, const char *name,
                  const char *revision) {
    errand e = {.c = c, .settings = settings, .patterns = patterns, .began = now()};
    e.revision = revision ? revision : "main";
    if (!hub_is_name(name))
        return status_fail(STATUS_USAGE,
                           "\"%s\" is no ORG/NAME, the name of a model or dataset of the hub",
                           name);
    if (!hub_is_revision(e.revision))
        return status_fail(STATUS_USAGE, "\"%s\" is not the name of a revision", e.revision);
    status s = hub_place_open(&e.place, kind, name);
    if (s == STATUS_OK) s = run(&e);
    if (s == STATUS_INTERRUPTED) s = interrupted(&e);
    mem_free(e.chosen);
    hub_listing_close(&e.listing);
    hub_place_close(&e.place);
    return s;
}

/* ---- what a configuration names ---- */

static status get_datasets(const command *c, const http_settings *settings,
                           const dataset_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        const dataset_config *d = &list->items[i];
        hub_patterns files = {(const char *const *)d->data_files.items, d->data_files.count};
        if (hub_names_repository(HUB_DATASET, d->path))
            TRY(get(c, settings, &files, HUB_DATASET, d->path, d->revision));
    }
    return STATUS_OK;
}

static status get_config(const command *c, const http_settings *settings,
                         const hub_patterns *patterns) {
    config conf;
    TRY(config_load(c->config_path, c->overrides, c->override_count, &conf));
    status s = STATUS_OK;
    if (hub_names_repository(HUB_MODEL, conf.base_model))
        s = get(c, settings, patterns, HUB_MODEL, conf.base_model, conf.revision_of_model);
    if (s == STATUS_OK) s = get_datasets(c, settings, &conf.datasets);
    if (s == STATUS_OK) s = get_datasets(c, settings, &conf.test_datasets);
    config_free(&conf);
    return s;
}

/* ---- the verb ---- */

/* --include, each of which may hold several patterns between commas; `words` owns the text. */
static status split_patterns(const command *c, char **words, hub_patterns *out) {
    size_t bytes = 1, n = 0, capacity = 0;
    const char **items = NULL;
    for (int i = 0; i < c->include.count; i++) bytes += strlen(c->include.items[i]) + 1;
    *words = mem_alloc(bytes, "patterns");
    if (!*words) return STATUS_MEMORY;
    for (int i = 0; i < c->include.count; i++)
        strcat(strcat(*words, c->include.items[i]), ",");
    for (char *p = strtok(*words, ","); p; p = strtok(NULL, ",")) {
        if (mem_grow(&items, &capacity, n + 1, sizeof *items, "patterns"))
            return STATUS_MEMORY;
        items[n++] = p;
        *out = (hub_patterns){items, n};
    }
    if (c->include.count && !n) return status_fail(STATUS_USAGE, "--include names no pattern");
    return STATUS_OK;
}

static status get_all(const command *c, const hub_patterns *patterns) {
    http_settings settings;
    status s = http_settings_open(&settings, stop, NULL);
    if (s == STATUS_OK && c->config_path)
        s = get_config(c, &settings, patterns);
    else if (s == STATUS_OK)
        s = get(c, &settings, patterns, c->dataset ? HUB_DATASET : HUB_MODEL, c->path,
                c->revision);
    http_settings_close(&settings);
    return s;
}

status verb_get(const command *c) {
    char *words = NULL;
    hub_patterns patterns = {0};
    if (hub_variable_is_true("HF_HUB_OFFLINE") || hub_variable_is_true("TRANSFORMERS_OFFLINE"))
        return status_fail(STATUS_USAGE, "HF_HUB_OFFLINE is set: nothing is fetched; unset it "
                                         "to let get ask the hub");
    status s = split_patterns(c, &words, &patterns);
    if (s == STATUS_OK) s = get_all(c, &patterns);
    mem_free((void *)patterns.items);
    mem_free(words);
    return s;
}
