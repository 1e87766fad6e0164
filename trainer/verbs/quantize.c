/* quantize.c: `train quantize`: a base model, quantized once, as the file that loads fastest
 * and can be streamed (quantized_cache: FILE). */
#include "common/alloc.h"
#include "common/log.h"
#include "trainer/model/base_pages.h"
#include "trainer/run/plan_text.h"
#include "trainer/run/signals.h"
#include "trainer/verbs/verbs.h"

#include <stdio.h>

static status show_progress(void *context, int64_t done, int64_t total) {
    log_progress("quantizing %lld of %lld MiB", (long long)(done >> 20),
                 (long long)(total >> 20));
    return signals_check("quantizing");
}

static status print_json(const char *out, int64_t bytes, int64_t weights) {
    json_t *o = json_pack("{s:s, s:I, s:I}", "out", out, "bytes", (json_int_t)bytes, "weights",
                          (json_int_t)weights);
    char *text = o ? json_write_text(o, 0) : NULL;
    json_decref(o);
    if (!text) return status_fail(STATUS_MEMORY, "out of memory for the report");
    puts(text);
    mem_free(text);
    return STATUS_OK;
}

static status report(const command *c, const session *s) {
    file f;
    char size[BYTES_TEXT];
    int64_t weights = model_config_linear_weights(&s->model);
    TRY(file_open(&f, c->out));
    int64_t bytes = f.size;
    TRY(file_close(&f));
    log_progress_end();
    if (c->format == FORMAT_JSON) return print_json(c->out, bytes, weights);
    printf("%s: %s, %lld weights in 4 bits; use it with quantized_cache=%s\n", c->out,
           bytes_text(bytes, size), (long long)weights, c->out);
    return STATUS_OK;
}

static status quantize(const command *c, const config *conf, const char *model, session *s) {
    session_request q = {.model_folder = model, .device = verb_device(c)};
    if (!c->out) return status_fail(STATUS_USAGE, "quantize needs --out FILE");
    if (file_exists(c->out) && !c->overwrite)
        return status_fail(STATUS_USAGE, "%s is there already; --overwrite replaces it",
                           c->out);
    if (conf->adapter != ADAPTER_QLORA)
        return status_fail(
            STATUS_USAGE,
            "quantize needs a 4-bit configuration: load_in_4bit=true adapter=qlora");
    TRY(session_open(s, conf, &q));
    load_progress progress = {show_progress, NULL};
    TRY(base_pages_write(&s->w, s->d, c->out, &progress));
    return report(c, s);
}

status verb_quantize(const command *c) {
    config conf;
    char *model;
    TRY(verb_model_config(c, &conf, &model));
    session s = {0};
    status r = quantize(c, &conf, model, &s);
    session_close(&s);
    mem_free(model);
    config_free(&conf);
    return r;
}
