/* session.c: see session.h. */
#include "trainer/run/session.h"
#include "common/alloc.h"
#include "common/log.h"
#include "trainer/run/base_cache.h"
#include "trainer/run/gemm_table.h"
#include "trainer/run/signals.h"

#include <stdio.h>
#include <string.h>

enum {
    OUTSIDE_BYTES = 64 << 20, /* libraries' code and heaps, measured on an empty run */
    PAGE_ALIGN = 256          /* every back end's, so that a cache's pages fit all of them */
};

int64_t session_outside(int64_t dataset_bytes) {
    return OUTSIDE_BYTES + 2 * dataset_bytes;
}

/* ---- opening ---- */

static status choose_compute(session *s) {
    uint32_t native = s->b->table->native_types;
    switch (config_compute_precision(s->c)) {
    case PRECISION_BF16:
        s->compute = DTYPE_BF16;
        break;
    case PRECISION_FP16:
        s->compute = DTYPE_F16;
        break;
    case PRECISION_FP32:
        s->compute = DTYPE_F32;
        break;
    case PRECISION_AUTO:
        s->compute = native >> DTYPE_BF16 & 1 ? DTYPE_BF16 : DTYPE_F32;
        if (s->compute == DTYPE_F32)
            log_info("bf16: auto means fp32 here: this processor has no fast bf16 products");
        break;
    }
    if (!(s->b->table->types >> s->compute & 1))
        return status_fail(STATUS_USAGE, "%s: the back end %s cannot compute in it",
                           dtype_name(s->compute), s->b->table->name);
    return STATUS_OK;
}

static status open_adapter(session *s) {
    const config *c = s->c;
    const char *folder =
        s->request.adapter_folder ? s->request.adapter_folder : c->lora_model_dir;
    if (c->adapter == ADAPTER_FULL && !s->request.adapter_folder) return STATUS_OK;
    if (folder) {
        TRY(peft_open(&s->adapter, folder));
        s->adapter_open = true;
        TRY(lora_spec_from_peft(&s->lora, &s->model, &s->adapter));
        s->lora.dropout = s->request.train ? c->lora_dropout : 0;
        return STATUS_OK;
    }
    if (!s->request.train) return STATUS_OK; /* the bare base */
    lora_request r = {.targets = (const char *const *)c->lora_target_modules.items,
                      .target_count = c->lora_target_modules.count,
                      .every_linear = c->lora_target_linear,
                      .rank = c->lora_r,
                      .alpha = (double)c->lora_alpha,
                      .dropout = c->lora_dropout,
                      .rslora = c->peft_use_rslora};
    return lora_spec_make(&s->lora, &s->model, &r);
}

static status open_decoder(session *s) {
    const config *c = s->c;
    bool quantize = c->adapter == ADAPTER_QLORA;
    decoder_options o = {.compute = s->compute,
                         .quantize = !quantize ? DTYPE_COUNT
                                     : c->bnb_config_kwargs.bnb_4bit_quant_type == CONFIG_FP4
                                         ? DTYPE_FP4
                                         : DTYPE_NF4,
                         .nested = c->bnb_config_kwargs.bnb_4bit_use_double_quant,
                         .stored = s->w.any_stored ? s->w.stored : NULL,
                         .tied = s->w.tied,
                         .lora = s->lora.modules ? &s->lora : NULL,
                         .training = !s->request.train            ? TRAIN_NOTHING
                                     : c->adapter == ADAPTER_FULL ? TRAIN_EVERYTHING
                                                                  : TRAIN_ADAPTERS,
                         .optimizer_bits = config_optimizer_8bit(c) ? 8 : 32,
                         .alignment = PAGE_ALIGN};
    return decoder_open(&s->d, &s->model, &o);
}

status session_open(session *s, const config *c, const session_request *r) {
    memset(s, 0, sizeof *s);
    s->c = c;
    s->request = *r;
    TRY(backend_open(&s->b, &r->device));
    s->b->pattern = r->pattern;
    TRY(gemm_table_use(s));
    TRY(choose_compute(s));
    TRY(model_config_open(&s->model, r->model_folder));
    s->model_open = true;
    TRY(weights_open(&s->w, r->model_folder, &s->model));
    s->weights_open = true;
    TRY(open_adapter(s));
    return open_decoder(s);
}

status session_open_tokenizer(session *s) {
    if (s->w.synthetic && s->request.train) return STATUS_OK; /* its rows are random ids */
    if (s->w.synthetic)
        return status_fail(STATUS_MODEL,
                           "%s has no tokenizer: it can be planned, measured and trained on "
                           "random rows",
                           s->request.model_folder);
    TRY(tokenizer_open(&s->tok, s->request.model_folder));
    if (tokenizer_size(s->tok) > s->model.vocab)
        return status_fail(
            STATUS_MODEL,
            "%s: the tokenizer has ids up to %d, the model's vocabulary ends at %lld: they do "
            "not belong together",
            s->request.model_folder, tokenizer_size(s->tok) - 1,
            (long long)s->model.vocab - 1);
    return STATUS_OK;
}

/* ---- planning ---- */

static status record_program(session *s, session_program p) {
    session_request *r = &s->request;
    bool adapters = s->lora.modules != NULL;
    switch (p) {
    case PROGRAM_TRAIN:
        return decoder_record_train(s->d, &s->programs[p], r->train_capacity);
    case PROGRAM_EVALUATE:
        return decoder_record_evaluate(s->d, &s->programs[p], r->evaluate_capacity, adapters);
    case PROGRAM_GENERATE:
        return decoder_record_generate(s->d, &s->programs[p], &r->generate, adapters);
    case PROGRAM_NORM:
        return decoder_record_norm(s->d, &s->programs[p]);
    default:
        return decoder_record_update(s->d, &s->programs[p]);
    }
}

static int64_t within(int64_t budget, int64_t limit) {
    return budget && (!limit || budget < limit) ? budget : limit;
}

/* What there is. A card's memory is its own; on the CPU both arenas share the host's. */
static void set_limits(plan_policy *p, const session *s) {
    const backend *b = s->b;
    int64_t host = plan_host_limit(session_outside(0));
    if (!b->memory) {
        p->total_budget = host;
        return;
    }
    p->device_budget = within(p->device_budget, b->memory);
    if (s->request.device.card) return; /* its host is not this one */
    p->host_budget = within(p->host_budget, host);
}

static plan_policy policy_of(const session *s) {
    static const activation_mode activations[] = {ACTIVATIONS_AUTO, ACTIVATIONS_KEEP,
                                                  ACTIVATIONS_RECOMPUTE, ACTIVATIONS_OFFLOAD};
    static const base_place bases[] = {BASE_AUTO, BASE_RESIDENT, BASE_HOST, BASE_DISK};
    const config *c = s->c;
    const memory_config *m = &c->memory;
    bool paged = c->optimizer == OPTIMIZER_PAGED_ADAMW_32BIT ||
                 c->optimizer == OPTIMIZER_PAGED_ADAMW_8BIT;
    plan_policy p = {.device_budget =
                         m->device_budget == CONFIG_NOT_SET ? 0 : m->device_budget,
                     .host_budget = m->host_budget == CONFIG_NOT_SET ? 0 : m->host_budget,
                     .activations = activations[m->activations],
                     .base = bases[m->base],
                     .slots = m->slots == CONFIG_NOT_SET ? 0 : (int)m->slots,
                     .page_optimizer = m->optimizer == STATES_PAGED ||
                                       (m->optimizer == STATES_AUTO && paged),
                     .disk_possible = true};
    set_limits(&p, s);
    if (c->adapter == ADAPTER_FULL)
        p.base = BASE_RESIDENT; /* what is trained is no frozen page */
    return p;
}

status session_plan(session *s) {
    const program *list[SESSION_PROGRAMS];
    int n = 0;
    s->capacity = s->request.train_capacity;
    for (int p = 0; p < SESSION_PROGRAMS; p++) {
        s->index[p] = -1;
        if (!(s->request.programs >> p & 1)) continue;
        TRY(record_program(s, (session_program)p));
        s->index[p] = n;
        list[n++] = s->programs[p];
    }
    plan_policy policy = policy_of(s);
    if (s->rates.gemm_flops <= 0) TRY(backend_measure(s->b, s->compute, &s->rates));
    return plan_make(&s->plan, s->b, &s->d->table, list, n, &policy, &s->rates);
}

void session_unplan(session *s) {
    plan_free(s->plan);
    s->plan = NULL;
    for (int p = 0; p < SESSION_PROGRAMS; p++) {
        program_close(s->programs[p]);
        s->programs[p] = NULL;
    }
}

/* ---- loading ---- */

static status show_progress(void *context, int64_t done, int64_t total) {
    const char *what = context;
    log_progress("%s %lld of %lld MiB", what, (long long)(done >> 20),
                 (long long)(total >> 20));
    return signals_check("loading the base");
}

status session_load(session *s) {
    load_progress progress = {
        show_progress, s->c->adapter == ADAPTER_QLORA ? "loading and quantizing" : "loading"};
    TRY(base_cache_prepare(s, &progress));
    TRY(engine_open(&s->e, s->b, s->plan, s->cache_open ? &s->cache.file : NULL));
    TRY(engine_zero_class(s->e,
                          MEM_OPTIMIZER)); /* moments begin at 0, whatever the arena held */
    TRY(decoder_load_tables(s->d, s->e));
    TRY(base_cache_load(s, &progress));
    if (!s->lora.modules) return STATUS_OK;
    if (s->adapter_open) return lora_load(s->d, s->e, &s->adapter);
    return lora_initialize(s->d, s->e, (uint64_t)s->c->seed);
}

void session_fingerprint(const session *s, char *text, size_t bytes) {
    char device[512];
    s->b->table->describe(s->b, device, sizeof device);
    size_t at = 0;
    for (char *line = strtok(device, "\n"); line && at < bytes; line = strtok(NULL, "\n"))
        at += (size_t)snprintf(text + at, bytes - at, "%s; ", line);
    if (at < bytes)
        snprintf(text + at, bytes - at, "compute: %s; gemm table: %s", dtype_name(s->compute),
                 s->gemm_table);
}

/* The file and its manifest (and lock). */
static void remove_hidden(const char *path) {
    static const char *const endings[] = {".json", ".lock", ""};
    for (int i = 0; i < 3; i++) {
        char *name = mem_printf("%s%s", path, endings[i]);
        if (name) file_unlink(name);
        mem_free(name);
    }
}

void session_close(session *s) {
    engine_close(s->e);
    session_unplan(s);
    decoder_close(s->d);
    lora_spec_free(&s->lora);
    if (s->adapter_open) peft_close(&s->adapter);
    if (s->weights_open) weights_close(&s->w);
    if (s->model_open) model_config_close(&s->model);
    tokenizer_close(s->tok);
    if (s->cache_open) cache_close(&s->cache);
    if (s->disk_path) remove_hidden(s->disk_path);
    mem_free(s->disk_path);
    json_decref(s->base_identity);
    if (s->b) s->b->table->close(s->b);
    memset(s, 0, sizeof *s);
}
