/* fuzz_jinja.c: a row as JSON ({settings, data}), NUL, then a template. What is compiled either
 * renders or is refused with a message; the output is UTF-8 that its runs cover, and a run that
 * comes from the row lies in one of its strings. */
#include "data/jinja/jinja.h"
#include "data/unicode.h"
#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    fuzz_setup();
    return 0;
}

static void check(const jinja_rendering *r) {
    size_t bytes = 0;
    fuzz_require(utf8_valid(r->text, r->bytes) == r->bytes);
    for (size_t i = 0; i < r->run_count; i++) {
        const jinja_run *run = &r->runs[i];
        fuzz_require(run->bytes > 0 && run->source <= r->source_count);
        fuzz_require((run->flags & ~(unsigned)JINJA_GENERATED) == 0);
        fuzz_require(run->source || !run->offset);
        bytes += run->bytes;
    }
    fuzz_require(bytes == r->bytes);
}

static void render(const jinja_template *t, const json_t *row) {
    time_t when = 1752148800;
    struct tm today;
    gmtime_r(&when, &today);
    jinja_rendering r = {.today = &today};
    json_t *none = json_object(), *settings = json_object_get(row, "settings"),
           *data = json_object_get(row, "data");
    if (!json_is_object(settings)) settings = none;
    if (!json_is_object(data)) data = none;
    if (fuzz_succeeds(jinja_load(&r, settings, data), MAY_FAIL(STATUS_DATA)))
        for (size_t count = 0; count < 3; count++)
            if (fuzz_succeeds(jinja_render(t, &r, count < 2 ? count : SIZE_MAX, count & 1),
                              MAY_FAIL(STATUS_DATA)))
                check(&r);
    jinja_rendering_free(&r);
    json_decref(none);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part parts[2];
    fuzz_cut(data, size, parts, 2);
    fuzz_blocks before = fuzz_begin();
    json_error_t e;
    json_t *row = NULL;
    jinja_template *t;
    fuzz_require(json_parse(parts[0].text, parts[0].bytes, 0, &e, &row) == STATUS_OK);
    if (fuzz_succeeds(jinja_compile(&t, parts[1].text, parts[1].bytes, "t", STATUS_MODEL),
                      MAY_FAIL(STATUS_MODEL))) {
        render(t, row);
        jinja_free(t);
    }
    json_decref(row);
    fuzz_end(before);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned seed) {
    return fuzz_mutate(data, size, room, seed, 0);
}
