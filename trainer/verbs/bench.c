/* bench.c: `train bench`: measures this build on this machine and prints what trainer/bench/
 * found. The model that it trains is random and written to a folder that is removed again. */
#include "trainer/bench/bench.h"
#include "common/alloc.h"
#include "common/file.h"
#include "common/log.h"
#include "trainer/run/signals.h"
#include "trainer/verbs/load.h"
#include "trainer/verbs/verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The same QLoRA run with its base in three places; with the base on the host the optimizer's
 * states are paged too. */
static status make_config(const char *folder, const bench_shape *z, int place, bool bf16,
                          config *out) {
    static const char *const bases[BENCH_PLACES] = {"memory.base=resident", "memory.base=host",
                                                    "memory.base=disk"};
    static const char *const states[BENCH_PLACES] = {
        "memory.optimizer=resident", "memory.optimizer=paged", "memory.optimizer=resident"};
    char *base = mem_printf("base_model=%s", folder),
         *output = mem_printf("output_dir=%s", folder),
         *length = mem_printf("sequence_len=%lld", (long long)z->length),
         *micro = mem_printf("micro_batch_size=%lld", (long long)z->documents);
    char *pages = place == BENCH_DISK ? mem_printf("quantized_cache=%s/base.h5", folder)
                                      : mem_strdup("quantized_cache=");
    char *words[] = {base,
                     output,
                     length,
                     micro,
                     pages,
                     bf16 ? "bf16=true" : "bf16=false",
                     "learning_rate=0.0001",
                     "datasets=[{path: none}]",
                     "adapter=qlora",
                     "load_in_4bit=true",
                     "lora_r=16",
                     "lora_alpha=32",
                     "lora_target_linear=true",
                     "memory.activations=keep",
                     (char *)bases[place],
                     (char *)states[place]};
    status s = base && output && length && micro && pages
                   ? config_load(NULL, words, sizeof words / sizeof *words, out)
                   : STATUS_MEMORY;
    mem_free(base);
    mem_free(output);
    mem_free(length);
    mem_free(micro);
    mem_free(pages);
    return s;
}

static status measure_steps(bench_report *r, const char *folder, const device_request *device,
                            bool bf16, const bench_shape *z) {
    config configs[BENCH_PLACES];
    int made = 0;
    status s = bench_write_model(folder, z);
    while (s == STATUS_OK && made < BENCH_PLACES) {
        s = make_config(folder, z, made, bf16, &configs[made]);
        made += s == STATUS_OK;
    }
    if (s == STATUS_OK) s = bench_steps(r, folder, configs, device, z);
    while (made > 0) config_free(&configs[--made]);
    return s;
}

static status measure(const command *c, const char *folder, backend *b, bench_report *r) {
    const bench_shape *z = &bench_shapes[c->quick];
    if (c->model) {
        log_progress("bench: the tokenizer");
        TRY(bench_tokenizer(r, c->model, c->data, z->rounds));
    }
    TRY(signals_check("measuring"));
    log_progress("bench: operations");
    TRY(bench_kernels(r, b, b->host_visible || c->quick ? z : &bench_shapes[2]));
    TRY(signals_check("measuring"));
    log_progress("bench: training steps");
    device_request device = verb_device(c);
    return measure_steps(r, folder, &device, b->table->native_types >> DTYPE_BF16 & 1, z);
}

/* Text to standard output or JSON there; with --out the JSON goes to a file too. */
static status report(const command *c, const bench_report *r) {
    log_progress_end();
    json_t *o = json_object();
    json_put(&o, "device", json_string(r->device));
    json_put(&o, "quick", json_boolean(c->quick));
    json_put(&o, "results", bench_json(r));
    if (r->profile) json_put(&o, "profile", json_incref(r->profile));
    char *text = o ? json_write_text(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(o);
    if (!text) return STATUS_MEMORY;
    status s = c->out ? file_write_all(c->out, text, strlen(text)) : STATUS_OK;
    if (s == STATUS_OK && c->format == FORMAT_JSON) printf("%s\n", text);
    mem_free(text);
    if (c->format == FORMAT_JSON) return s;
    printf("%s%s", r->profile ? "\n" : "", r->device);
    bench_print(r);
    return s;
}

static status in_folder(const command *c, const char *folder, bench_report *r) {
    backend *b;
    device_request device = verb_device(c);
    TRY(backend_open(&b, &device));
    b->table->describe(b, r->device, sizeof r->device);
    status s = measure(c, folder, b, r);
    b->table->close(b);
    return s;
}

/* The parts, and steps of the benchmark's model, in a folder that is removed again. */
static status measure_machine(const command *c, bench_report *r) {
    const char *temporary = getenv("TMPDIR");
    char *folder =
        mem_printf("%s/nibble-bench-XXXXXX", temporary && *temporary ? temporary : "/tmp");
    if (!folder) return STATUS_MEMORY;
    status s = mkdtemp(folder)
                   ? in_folder(c, folder, r)
                   : status_fail(STATUS_IO, "%s: cannot make a folder for the benchmark: %s",
                                 folder, strerror(errno));
    char message[512];
    snprintf(message, sizeof message, "%s", status_message());
    status removed = file_remove_tree(folder);
    mem_free(folder);
    return s != STATUS_OK ? status_fail(s, "%s", message) : removed;
}

static status measure_job(const command *c, bench_report *r) {
    config conf;
    char *model;
    TRY(verb_load_config(c, true, &conf, &model));
    device_request device = verb_device(c);
    status s = bench_job(r, &conf, model, &device, c->format == FORMAT_TEXT);
    mem_free(model);
    config_free(&conf);
    return s;
}

status verb_bench(const command *c) {
    bench_report *r = mem_alloc(sizeof *r, "the benchmark");
    status s = !r ? STATUS_MEMORY : c->config_path ? measure_job(c, r) : measure_machine(c, r);
    if (s == STATUS_OK) s = report(c, r);
    if (r) json_decref(r->profile);
    mem_free(r);
    return s;
}
