/* merge.c: see merge.h. */
#include "trainer/model/merge.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "quant/simd.h"
#include "trainer/model/masters.h"

#include <string.h>

struct merge {
    weights *w;
    const peft_adapter *adapter;
    merge_options options;
    decoder *d; /* only its table: the formats of the dequantized base */
    /* the tensor that goes through */
    float *a, *b; /* [rank, in], [out, rank]; NULL: no adapter here */
    int64_t rank;
    float scale;
    char *quantized; /* the 4-bit weight; NULL: read from the file */
    tensor tensor;
};

static void forget_tensor(merge *m) {
    mem_free(m->a);
    mem_free(m->b);
    mem_free(m->quantized);
    m->a = m->b = NULL;
    m->quantized = NULL;
}

/* ---- a tensor begins ---- */

static status load_matrices(merge *m, const char *module) {
    const peft_module *p = peft_find(m->adapter, module);
    if (!p) return STATUS_OK;
    m->a = mem_alloc_array((size_t)p->a->elements, sizeof *m->a, "an adapter");
    m->b = mem_alloc_array((size_t)p->b->elements, sizeof *m->b, "an adapter");
    if (!m->a || !m->b) return STATUS_MEMORY;
    m->rank = p->rank;
    m->scale = (float)p->scale;
    TRY(peft_read(m->adapter, p->a, m->a));
    return peft_read(m->adapter, p->b, m->b);
}

static status put_quantized(void *context, parameter_id id, int64_t offset, const void *data,
                            int64_t n) {
    merge *m = context;
    memcpy(m->quantized + offset, data, (size_t)n);
    return STATUS_OK;
}

static status load_quantized(merge *m, const layout_tensor *t) {
    parameter_id id = m->d->layers[t->layer].w[t->module];
    const parameter *p = &m->d->table.items[id];
    base_sink sink = {put_quantized, m};
    if (!dtype_is_4bit(p->format.type)) return STATUS_OK;
    m->quantized = mem_alloc((size_t)p->bytes, "a 4-bit weight");
    if (!m->quantized) return STATUS_MEMORY;
    TRY(weights_stream_one(m->w, m->d, id, &sink));
    m->tensor = tensor_at(&p->format, m->quantized);
    return STATUS_OK;
}

static status begin_tensor(void *context, const layout_tensor *t) {
    merge *m = context;
    char module[MODULE_NAME_MAX];
    forget_tensor(m);
    if (t->module < 0) return STATUS_OK;
    module_full_name(module, t->layer, (linear_module)t->module);
    if (m->adapter) TRY(load_matrices(m, module));
    return load_quantized(m, t);
}

/* ---- its rows ---- */

static status read_file_rows(const merge *m, const layout_tensor *t, int64_t first,
                             int64_t rows, float *out) {
    model_tensor file;
    int64_t n = rows * t->cols;
    TRY(model_files_get(&m->w->files, t->name, &file));
    dtype type = file.entry->type;
    int64_t size = dtype_bytes(type);
    if (type == DTYPE_F32) return model_tensor_read(&file, first * t->cols * 4, n * 4, out);
    void *raw = mem_alloc((size_t)(n * size), "staging of weights");
    if (!raw) return STATUS_MEMORY;
    status s = model_tensor_read(&file, first * t->cols * size, n * size, raw);
    if (s == STATUS_OK) convert_array(raw, quant_source_of(type), out, QUANT_SRC_F32, n);
    mem_free(raw);
    return s;
}

/* What training computed with: dequantized to the compute type. */
static status dequantize_rows(const merge *m, const layout_tensor *t, int64_t first,
                              int64_t rows, float *out) {
    quant_view v = tensor_quant_view(&m->tensor);
    int64_t n = rows * t->cols, at = first * t->cols;
    dtype type = m->options.compute;
    if (type == DTYPE_F32) {
        quant_dequantize_f32(&v, at, n, out);
        return STATUS_OK;
    }
    uint16_t *half = mem_alloc((size_t)n * 2, "staging of weights");
    if (!half) return STATUS_MEMORY;
    if (type == DTYPE_BF16)
        quant_dequantize_bf16(&v, at, n, half);
    else
        quant_dequantize_f16(&v, at, n, half);
    convert_array(half, quant_source_of(type), out, QUANT_SRC_F32, n);
    mem_free(half);
    return STATUS_OK;
}

/* delta = sum over k of b[k] * a[k, :], in the order of k; then w += scale * delta */
SIMD_INLINE void merge_add_row_body(const float *a, const float *b, int64_t rank, int64_t cols,
                                    float scale, float *delta, float *w) {
    for (int64_t j = 0; j < cols; j++) delta[j] = 0;
    for (int64_t k = 0; k < rank; k++)
        for (int64_t j = 0; j < cols; j++) delta[j] += b[k] * a[k * cols + j];
    for (int64_t j = 0; j < cols; j++) w[j] += scale * delta[j];
}
void merge_add_row(const float *a, const float *b, int64_t rank, int64_t cols, float scale,
                   float *delta, float *w);
SIMD_TWICE(merge_add_row,
           (const float *a, const float *b, int64_t rank, int64_t cols, float scale,
            float *delta, float *w),
           (a, b, rank, cols, scale, delta, w))

static status add_delta(const merge *m, const layout_tensor *t, int64_t first, int64_t rows,
                        float *out) {
    bool failed = false;
#pragma omp parallel
    {
        float *delta = mem_alloc_array((size_t)t->cols, sizeof *delta, "a row of the adapter");
        if (!delta) {
#pragma omp atomic write
            failed = true;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++)
            if (delta)
                merge_add_row(m->a, m->b + (first + i) * m->rank, m->rank, t->cols, m->scale,
                              delta, out + i * t->cols);
        mem_free(delta);
    }
    return failed ? status_fail(STATUS_MEMORY, "out of memory while merging %s", t->name)
                  : STATUS_OK;
}

static status read_rows(void *context, const layout_tensor *t, int64_t first, int64_t rows,
                        float *out) {
    const merge *m = context;
    if (m->quantized)
        TRY(dequantize_rows(m, t, first, rows, out));
    else
        TRY(read_file_rows(m, t, first, rows, out));
    return m->a ? add_delta(m, t, first, rows, out) : STATUS_OK;
}

/* ---- around it ---- */

static status check_adapter(const merge *m) {
    lora_spec spec;
    if (!m->adapter) return STATUS_OK;
    TRY(lora_spec_from_peft(&spec, m->w->config, m->adapter));
    lora_spec_free(&spec);
    return STATUS_OK;
}

static status open_all(merge *m) {
    const merge_options *o = &m->options;
    decoder_options d = {.compute = o->compute,
                         .quantize = o->dequantized ? o->quantize : DTYPE_COUNT,
                         .nested = o->nested,
                         .stored = m->w->any_stored ? m->w->stored : NULL,
                         .tied = m->w->tied,
                         .training = TRAIN_NOTHING,
                         .optimizer_bits = 32,
                         .alignment = TENSOR_ALIGN};
    TRY(check_adapter(m));
    return decoder_open(&m->d, m->w->config, &d);
}

status merge_open(merge **out, weights *w, const peft_adapter *adapter,
                  const merge_options *o) {
    merge *m = mem_alloc(sizeof *m, "a merge");
    *out = NULL;
    if (!m) return STATUS_MEMORY;
    m->w = w;
    m->adapter = adapter;
    m->options = *o;
    status s = open_all(m);
    if (s != STATUS_OK) {
        merge_close(m);
        return s;
    }
    *out = m;
    return STATUS_OK;
}

void merge_close(merge *m) {
    if (!m) return;
    forget_tensor(m);
    decoder_close(m->d);
    mem_free(m);
}

export_source merge_source(merge *m) {
    return (export_source){begin_tensor, read_rows, m};
}

/* ---- full training ---- */

static status read_masters(void *context, const layout_tensor *t, int64_t first, int64_t rows,
                           float *out) {
    const masters_context *c = context;
    parameter_id id = parameter_find(&c->d->table, t->name);
    if (id == PARAMETER_NONE)
        return status_fail(STATUS_INTERNAL, "%s is not part of the trained model", t->name);
    return masters_get(c->d, c->e, id, first * t->cols, rows * t->cols, out);
}

export_source masters_source(masters_context *c) {
    return (export_source){NULL, read_masters, c};
}
