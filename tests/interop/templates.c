/* templates.c: the C half of templates.py: renders templates, one a line.
 *
 *     interop_templates < LINES       {"template", "settings", "data", "prompt"} a line ->
 *                                     {"text"} | {"error"} | {"compile"} a line
 *     interop_templates TEMPLATE N    rows on stdin: microseconds of processor time to load and
 *                                     render one of them N times, and to load it alone */
#include "common/alloc.h"
#include "common/file.h"
#include "common/json.h"
#include "data/jinja/jinja.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tm today;
static jinja_rendering r = {.today = &today};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static json_t *render(const json_t *line) {
    const json_t *text = json_object_get(line, "template");
    jinja_template *t;
    status s = jinja_compile(&t, json_string_value(text), json_string_length(text), "template",
                             STATUS_MODEL);
    if (s != STATUS_OK) return json_pack("{s:s}", "compile", status_message());
    s = jinja_load(&r, json_object_get(line, "settings"), json_object_get(line, "data"));
    if (s == STATUS_OK)
        s = jinja_render(t, &r, SIZE_MAX, json_is_true(json_object_get(line, "prompt")));
    jinja_free(t);
    if (s != STATUS_OK)
        return json_pack("{s:s}", "error", *r.error ? r.error : status_message());
    return json_pack("{s:s%}", "text", r.text, r.bytes);
}

/* The time of `times` rounds over all rows, for one row. */
static double measure(const jinja_template *t, json_t **rows, size_t count, int times) {
    json_t *settings = json_pack("{s:s, s:s}", "bos_token", "<s>", "eos_token", "</s>");
    double start = now();
    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < times; k++) {
            if (jinja_load(&r, settings, rows[i]) ||
                (t && jinja_render(t, &r, SIZE_MAX, false)))
                exit(1);
        }
    double end = now();
    json_decref(settings);
    return (end - start) / times / (double)count;
}

static int time_template(const char *path, int times) {
    static json_t *rows[100000];
    char *text, *line = NULL;
    size_t bytes, count = 0, capacity = 0;
    jinja_template *t;
    if (file_read_all(path, 1 << 22, &text, &bytes) ||
        jinja_compile(&t, text, bytes, path, STATUS_MODEL))
        return 1;
    while (getline(&line, &capacity, stdin) > 0 && count < 100000)
        rows[count++] = json_loads(line, 0, NULL);
    printf("%.3f %.3f\n", measure(t, rows, count, times), measure(NULL, rows, count, times));
    return 0;
}

int main(int argc, char **argv) {
    time_t when = 1752148800;
    gmtime_r(&when, &today);
    json_setup();
    if (argc == 3) return time_template(argv[1], atoi(argv[2]));
    char *line = NULL;
    size_t capacity = 0;
    while (getline(&line, &capacity, stdin) > 0) {
        json_t *o = json_loads(line, 0, NULL), *answer = o ? render(o) : NULL;
        char *text = answer ? json_write_text(answer, 0) : NULL;
        puts(text ? text : "{}");
        mem_free(text);
        json_decref(answer);
        json_decref(o);
    }
    free(line);
    jinja_rendering_free(&r);
    return 0;
}
