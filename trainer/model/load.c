/* load.c: streaming a base's tensors: read, check, round, quantize, hand on.
 *
 * A tensor goes through in chunks of whole quantization blocks; the pieces of a chunk are
 * spread over all cores, each thread reading its own. Which core did what changes no bit:
 * blocks are independent. Memory: 17 MB of staging and 4 bytes per block of the largest
 * linear. */
#include "checkpoints/bnb.h"
#include "checkpoints/identity.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/half.h"
#include "quant/double.h"
#include "quant/dynamic.h"
#include "quant/nf4.h"
#include "trainer/model/synthetic.h"
#include "trainer/model/weights.h"

#include <string.h>

enum {
    PIECE = 1 << 16, /* elements that one thread takes at a time, whole blocks */
    PIECES = 32,     /* of a chunk */
    CHUNK = PIECE * PIECES,
};

typedef struct stream {
    weights *w;
    const decoder *d;
    const base_sink *sink;
    const load_progress *progress;
    int64_t done, total; /* bytes of files */
    int64_t chunk;       /* elements of the buffers below */
    char *raw;           /* [chunk] of the file's type */
    char *rounded;       /* [chunk] of the load type, or fp32 */
    uint8_t *codes;      /* [chunk / 2] */
    float *absmax;       /* [blocks of the largest linear] */
    hash_stream *hash;   /* of the tensor that is going through */
} stream;

/* A tensor on its way. */
typedef struct passage {
    const model_tensor *t;
    parameter_id id;
    tensor_format format; /* of the parameter */
    dtype load;           /* type before quantization */
    int64_t count;        /* elements */
} passage;

int quant_source_of(dtype type) {
    return type == DTYPE_F32    ? QUANT_SRC_F32
           : type == DTYPE_BF16 ? QUANT_SRC_BF16
                                : QUANT_SRC_F16;
}

/* ---- not finite ---- */

static bool all_finite_16(const uint16_t *x, int64_t n, uint16_t exponent) {
    int bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (x[i] & exponent) == exponent;
    return !bad;
}

static bool all_finite_32(const uint32_t *x, int64_t n) {
    int bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= (x[i] & 0x7f800000) == 0x7f800000;
    return !bad;
}

static bool all_finite(const void *x, dtype type, int64_t n) {
    if (type == DTYPE_F32) return all_finite_32(x, n);
    return all_finite_16(x, n, type == DTYPE_BF16 ? 0x7f80 : 0x7c00);
}

int64_t first_not_finite(const void *x, dtype type, int64_t n) {
    if (all_finite(x, type, n)) return -1;
    int64_t i = 0, size = dtype_bytes(type);
    while (all_finite((const char *)x + i * size, type, 1)) i++;
    return i;
}

static status refuse_element(const model_tensor *t, int64_t element, const char *why) {
    return status_fail(STATUS_MODEL, "%s: %s: element %lld %s", t->file->file.path,
                       t->entry->name, (long long)element, why);
}

static const char not_finite[] = "is not finite (NaN or infinity): the file is damaged";

/* ---- one piece ---- */

/* Elements [first, first + n) of the tensor, at `at` in the chunk. */
static status read_piece(const stream *s, const passage *p, int64_t first, int64_t at,
                         int64_t n) {
    dtype type = p->t->entry->type;
    int64_t size = dtype_bytes(type);
    char *raw = s->raw + at * size, *rounded = s->rounded + at * dtype_bytes(p->load);
    TRY(model_tensor_read(p->t, first * size, n * size, raw));
    int64_t bad = first_not_finite(raw, type, n);
    if (bad >= 0) return refuse_element(p->t, first + bad, not_finite);
    if (type == p->load) return STATUS_OK;
    convert_array(raw, quant_source_of(type), rounded, quant_source_of(p->load), n);
    bad = first_not_finite(rounded, p->load, n);
    if (bad >= 0)
        return refuse_element(p->t, first + bad,
                              "is too large for the type computed in; use bf16 "
                              "or fp32");
    return STATUS_OK;
}

/* Where the chunk's elements are once read: no copy when the file has the load type already.
 */
static const char *chunk_data(const stream *s, const passage *p) {
    return p->t->entry->type == p->load ? s->raw : s->rounded;
}

static status quantize_piece(const stream *s, const passage *p, int64_t first, int64_t at,
                             int64_t n) {
    quant_type type = p->format.type == DTYPE_NF4 ? QUANT_NF4 : QUANT_FP4;
    const char *x = chunk_data(s, p) + at * dtype_bytes(p->load);
    return quant_quantize(type, x, quant_source_of(p->load), n, p->format.block,
                          s->codes + at / 2, s->absmax + first / p->format.block);
}

/* ---- a chunk, on all cores ---- */

/* The failure of the earliest piece: the same message however many threads there are. */
typedef struct failure {
    status code;
    int64_t piece;
    char message[1024];
} failure;

static void note_failure(failure *f, status code, int64_t piece) {
#pragma omp critical(load_failure)
    if (f->code == STATUS_OK || piece < f->piece) {
        f->code = code;
        f->piece = piece;
        strncpy(f->message, status_message(), sizeof f->message - 1);
    }
}

/* Elements [first, first + n) into raw, rounded and, for 4-bit formats, codes and absmax. */
static status read_chunk(const stream *s, const passage *p, int64_t first, int64_t n) {
    failure f = {.code = STATUS_OK};
    int64_t pieces = (n + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t at = i * PIECE, m = min_i64(PIECE, n - at);
        status code = read_piece(s, p, first + at, at, m);
        if (code == STATUS_OK && dtype_is_4bit(p->format.type))
            code = quantize_piece(s, p, first + at, at, m);
        if (code != STATUS_OK) note_failure(&f, code, i);
    }
    hash_update(s->hash, s->raw, (size_t)(n * dtype_bytes(p->t->entry->type)));
    return f.code == STATUS_OK ? STATUS_OK : status_set(f.code, f.message);
}

static status put(const stream *s, parameter_id id, int64_t offset, const void *data,
                  int64_t n) {
    return s->sink->put(s->sink->context, id, offset, data, n);
}

static status report(stream *s, int64_t bytes) {
    s->done += bytes;
    return s->progress ? s->progress->report(s->progress->context, s->done, s->total)
                       : STATUS_OK;
}

/* ---- a tensor in the compute type ---- */

/* Full training: the master is the file's value itself, not what it was rounded to. */
static status put_master(const stream *s, const passage *p, int64_t first, int64_t n) {
    const trainable *t = NULL;
    for (size_t i = 0; i < s->d->trainable_count && !t; i++)
        if (s->d->trainables[i].working == p->id) t = &s->d->trainables[i];
    if (!t) return STATUS_OK;
    convert_array(s->raw, quant_source_of(p->t->entry->type), s->rounded, QUANT_SRC_F32, n);
    return put(s, t->master, first * 4, s->rounded, n * 4);
}

static status stream_plain(stream *s, const passage *p) {
    int64_t size = dtype_bytes(p->load);
    for (int64_t first = 0; first < p->count; first += s->chunk) {
        int64_t n = min_i64(s->chunk, p->count - first);
        TRY(read_chunk(s, p, first, n));
        TRY(put(s, p->id, first * size, chunk_data(s, p), n * size));
        TRY(put_master(s, p, first, n));
        TRY(report(s, n * dtype_bytes(p->t->entry->type)));
    }
    return STATUS_OK;
}

/* ---- a linear, quantized here ---- */

/* Zeroes what lies between two parts, so that every byte of a parameter is put once. */
static status put_gap(const stream *s, const passage *p, int64_t from, int64_t to) {
    static const char zeros[TENSOR_ALIGN];
    return from < to ? put(s, p->id, from, zeros, to - from) : STATUS_OK;
}

static status put_nested(const stream *s, const passage *p, const format_parts *parts) {
    float offset;
    const float *map = dynamic_map_signed();
    int64_t scales = parts->nests * 4;
    char *nested = mem_alloc((size_t)(parts->blocks + scales), "nested scales");
    if (!nested) return STATUS_MEMORY;
    float *absmax2 = (float *)nested;
    uint8_t *codes = (uint8_t *)nested + scales;
    status r = quant_nest(s->absmax, parts->blocks, codes, absmax2, &offset, map);
    if (r == STATUS_OK) r = put(s, p->id, parts->absmax, codes, parts->blocks);
    if (r == STATUS_OK) r = put_gap(s, p, parts->absmax + parts->blocks, parts->absmax2);
    if (r == STATUS_OK) r = put(s, p->id, parts->absmax2, absmax2, scales);
    if (r == STATUS_OK) r = put_gap(s, p, parts->absmax2 + scales, parts->map);
    if (r == STATUS_OK) r = put(s, p->id, parts->map, map, DYNAMIC_CODES * 4);
    if (r == STATUS_OK) r = put(s, p->id, parts->offset, &offset, 4);
    mem_free(nested);
    return r;
}

static status put_scales(const stream *s, const passage *p) {
    format_parts parts = format_parts_of(&p->format);
    quant_type type = p->format.type == DTYPE_NF4 ? QUANT_NF4 : QUANT_FP4;
    static const float zero = 0;
    TRY(put_gap(s, p, quant_code_bytes(p->count), parts.absmax));
    TRY(put(s, p->id, parts.code, quant_codebook(type), 16 * 4));
    if (p->format.nested) return put_nested(s, p, &parts);
    TRY(put(s, p->id, parts.absmax, s->absmax, parts.blocks * 4));
    TRY(put_gap(s, p, parts.absmax + parts.blocks * 4, parts.code));
    return put(s, p->id, parts.offset, &zero, 4);
}

static status stream_quantized(stream *s, const passage *p) {
    for (int64_t first = 0; first < p->count; first += s->chunk) {
        int64_t n = min_i64(s->chunk, p->count - first);
        TRY(read_chunk(s, p, first, n));
        TRY(put(s, p->id, first / 2, s->codes, quant_code_bytes(n)));
        TRY(report(s, n * dtype_bytes(p->t->entry->type)));
    }
    return put_scales(s, p);
}

/* ---- a linear that is 4-bit in the file ---- */

/* As it is, with its own tables. Its parts are hashed with the rest, at the end. */
static status stream_stored(const stream *s, parameter_id id, const bnb_weight *q) {
    const tensor_format *f = &s->d->table.items[id].format;
    int64_t bytes;
    if (f->type != q->format.type || f->block != q->format.block ||
        f->nested != q->format.nested)
        return status_fail(STATUS_INTERNAL, "%s is stored in another 4-bit form than planned",
                           s->d->table.items[id].name);
    TRY(format_bytes(f, &bytes));
    void *data = mem_alloc((size_t)bytes, "a 4-bit weight");
    if (!data) return STATUS_MEMORY;
    status r = bnb_read(q, data);
    if (r == STATUS_OK) r = put(s, id, 0, data, bytes);
    mem_free(data);
    return r;
}

/* ---- the whole base ---- */

static void note_hash(const stream *s, const model_tensor *t, hash128 hash) {
    size_t i = weights_index(s->w, t->entry->name);
    s->w->hashes[i] = hash;
    s->w->hashed[i] = true;
}

static status stream_parameter(stream *s, parameter_id id) {
    const parameter *q = &s->d->table.items[id];
    passage p = {.id = id,
                 .format = q->format,
                 .load = s->d->options.compute,
                 .count = q->format.rows * q->format.cols};
    model_tensor t;
    TRY(model_files_get(&s->w->files, q->name, &t));
    p.t = &t;
    if (dtype_is_4bit(q->format.type)) {
        bnb_weight stored;
        bool found;
        TRY(bnb_find(&s->w->files, q->name, &stored, &found));
        if (found) return stream_stored(s, id, &stored);
    }
    s->hash = hash_open();
    if (!s->hash) return STATUS_MEMORY;
    status r = dtype_is_4bit(q->format.type) ? stream_quantized(s, &p) : stream_plain(s, &p);
    hash128 hash = hash_close(s->hash);
    if (r == STATUS_OK) note_hash(s, &t, hash);
    return r;
}

static status stream_layer(stream *s, int32_t layer) {
    const decoder_layer *l = &s->d->layers[layer];
    const parameter_id norms[] = {l->norm1, l->norm2, l->q_norm, l->k_norm};
    for (int m = 0; m < MODULE_COUNT; m++) TRY(stream_parameter(s, l->w[m]));
    for (int m = 0; m < MODULE_COUNT; m++)
        if (l->bias[m] != PARAMETER_NONE) TRY(stream_parameter(s, l->bias[m]));
    for (int i = 0; i < 4; i++)
        if (norms[i] != PARAMETER_NONE) TRY(stream_parameter(s, norms[i]));
    return STATUS_OK;
}

/* What was not streamed (scales of stored linears, a second copy of the head) counts for the
 * identity too. */
static status hash_rest(stream *s) {
    const model_files *f = &s->w->files;
    for (size_t i = 0; i < f->count; i++) {
        hash128 hash;
        if (s->w->hashed[i]) continue;
        TRY(identity_tensor(&f->tensors[i], &hash));
        note_hash(s, &f->tensors[i], hash);
        TRY(report(s, f->tensors[i].entry->bytes));
    }
    return STATUS_OK;
}

static status stream_all(stream *s) {
    TRY(stream_parameter(s, s->d->embedding));
    for (int32_t l = 0; l < s->d->config->layers; l++) TRY(stream_layer(s, l));
    TRY(stream_parameter(s, s->d->final_norm));
    if (s->d->head != s->d->embedding) TRY(stream_parameter(s, s->d->head));
    return hash_rest(s);
}

/* ---- buffers ---- */

static status open_buffers(stream *s) {
    int64_t largest = 1, blocks = 1;
    const parameter_table *t = &s->d->table;
    for (size_t i = 0; i < t->count; i++) {
        const tensor_format *f = &t->items[i].format;
        largest = max_i64(largest, f->rows * f->cols);
        if (dtype_is_4bit(f->type)) blocks = max_i64(blocks, format_parts_of(f).blocks);
    }
    s->chunk = min_i64(CHUNK, round_up_i64(largest, PIECE));
    s->raw = mem_alloc((size_t)s->chunk * 4, "staging of weights");
    s->rounded = mem_alloc((size_t)s->chunk * 4, "staging of weights");
    s->codes = mem_alloc((size_t)s->chunk / 2, "staging of weights");
    s->absmax = mem_alloc_array((size_t)blocks, sizeof *s->absmax, "staging of scales");
    return s->raw && s->rounded && s->codes && s->absmax ? STATUS_OK : STATUS_MEMORY;
}

static void close_buffers(stream *s) {
    mem_free(s->raw);
    mem_free(s->rounded);
    mem_free(s->codes);
    mem_free(s->absmax);
}

status weights_stream(weights *w, const decoder *d, const base_sink *sink,
                      const load_progress *progress) {
    stream s = {.w = w, .d = d, .sink = sink, .progress = progress};
    if (w->synthetic) return synthetic_stream(d, sink, progress);
    for (size_t i = 0; i < w->files.count; i++) s.total += w->files.tensors[i].entry->bytes;
    status r = open_buffers(&s);
    if (r == STATUS_OK) r = stream_all(&s);
    close_buffers(&s);
    return r;
}

status weights_stream_one(weights *w, const decoder *d, parameter_id id,
                          const base_sink *sink) {
    stream s = {.w = w, .d = d, .sink = sink};
    status r = open_buffers(&s);
    if (r == STATUS_OK) r = stream_parameter(&s, id);
    close_buffers(&s);
    return r;
}

static status put_into_engine(void *e, parameter_id id, int64_t offset, const void *data,
                              int64_t n) {
    return engine_load(e, id, data, offset, n);
}

status weights_load_base(weights *w, const decoder *d, engine *e,
                         const load_progress *progress) {
    base_sink sink = {put_into_engine, e};
    return weights_stream(w, d, &sink, progress);
}
