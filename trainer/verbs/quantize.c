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

static status report(const command *c, const session *s) {
    file f;
    char size[BYTES_TEXT];
    TRY(file_open(&f, c->out));
    if (c->format == FORMAT_JSON)
        printf("{\"out\":\"%s\",\"bytes\":%lld,\"weights\":%lld}\n", c->out, (long long)f.size,
               (long long)model_config_linear_weights(&s->model));
    else
        printf("%s: %s, %lld weights in 4 bits; use it with quantized_cache=%s\n", c->out,
               bytes_text(f.size, size), (long long)model_config_linear_weights(&s->model),
               c->out);
    return file_close(&f);
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
