/* gemm_table.cu: which of the library's algorithms is the fastest for each product of a run,
 * measured on the card; see gemm.h.
 *
 * The library's first choice is a guess from the shape. Every proposal is timed on random
 * operands (zeros run faster); the best one then meets the first again, in turn, and stands in
 * the table only if it won by more than the noise. A row holds the algorithm as the library
 * gave it, which means something to the same version on the same kind of card alone. */
#include "autograd/cuda/gemm_plan.h"

extern "C" {
#include "common/alloc.h"
#include "common/checked.h"
#include "common/philox.h"
#include "quant/convert.h"
}

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PROPOSALS = 16,
    RUNS = 3,
    POOL = 1 << 16, /* random numbers, repeated */
    WORDS = 8,      /* of an algorithm */
};
static const double noise = 0.97; /* a winner takes less than this part of the first's time */

typedef struct tuning {
    cuda_gemm *g;
    cudaStream_t stream;
    cudaEvent_t begin, end;
    char *at[3], *space; /* A, B, C on the device */
} tuning;

#define CALL(expression)                                                                      \
    TRY(cuda_succeeds(expression, #expression)) /* outside a back end's sticky errors */

static status cuda_succeeds(cudaError_t e, const char *call) {
    if (e == cudaSuccess) return STATUS_OK;
    cudaGetLastError();
    status s = e == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_DEVICE;
    return status_fail(s, "measuring products: %.*s: %s", (int)strcspn(call, "("), call,
                       cudaGetErrorString(e));
}

/* ---- operands ---- */

static int64_t bytes_of(int64_t rows, int64_t cols, int64_t ld, dtype type) {
    return ((rows - 1) * ld + cols) * dtype_bytes(type);
}

static void operand_bytes(const cuda_gemm_shape *s, int64_t bytes[3]) {
    bytes[0] = bytes_of(s->ta ? s->k : s->m, s->ta ? s->m : s->k, s->lda, s->in);
    bytes[1] = bytes_of(s->tb ? s->n : s->k, s->tb ? s->k : s->n, s->ldb, s->in);
    bytes[2] = bytes_of(s->m, s->n, s->ldc, s->out);
}

/* bf16 numbers in (-0.5, 0.5); read as f32 or f16 they are random and finite too. */
static status fill_random(tuning *t, char *to, int64_t bytes) {
    philox_stream random = philox_open(1, PHILOX_INIT, 0, 0, 0);
    float *wide = (float *)mem_alloc_array(POOL, sizeof *wide, "measuring products");
    uint16_t *pool = (uint16_t *)mem_alloc_array(POOL, sizeof *pool, "measuring products");
    status s = wide && pool ? STATUS_OK : STATUS_MEMORY;
    for (int i = 0; s == STATUS_OK && i < POOL; i++)
        wide[i] = philox_uniform(philox_word(&random, (uint64_t)i)) - 0.5f;
    if (s == STATUS_OK) convert_f32_to_bf16(wide, pool, POOL);
    for (int64_t at = 0; s == STATUS_OK && at < bytes; at += 2 * POOL)
        s = cuda_succeeds(cudaMemcpy(to + at, pool, (size_t)min_i64(2 * POOL, bytes - at),
                                     cudaMemcpyHostToDevice),
                          "cudaMemcpy(");
    mem_free(wide);
    mem_free(pool);
    return s;
}

static status open_tuning(tuning *t) {
    int64_t most[3] = {0, 0, 0};
    for (int i = 0; i < GEMM_BUCKETS; i++)
        for (const gemm_plan *p = t->g->buckets[i]; p; p = p->next) {
            int64_t bytes[3];
            operand_bytes(&p->shape, bytes);
            for (int o = 0; o < 3; o++) most[o] = max_i64(most[o], bytes[o]);
        }
    CALL(cudaEventCreate(&t->begin));
    CALL(cudaEventCreate(&t->end));
    CALL(cudaMalloc((void **)&t->space, CUDA_GEMM_SPACE));
    for (int o = 0; o < 3; o++) {
        CALL(cudaMalloc((void **)&t->at[o], (size_t)max_i64(most[o], 1)));
        TRY(fill_random(t, t->at[o], most[o]));
    }
    return STATUS_OK;
}

static void close_tuning(tuning *t) {
    for (int o = 0; o < 3; o++) cudaFree(t->at[o]);
    cudaFree(t->space);
    if (t->begin) cudaEventDestroy(t->begin);
    if (t->end) cudaEventDestroy(t->end);
}

/* ---- timing ---- */

/* The least of a few runs into *seconds, which is only ever lowered. An algorithm that the
 * library will not run after all stays where it was. */
static status time_one(tuning *t, const gemm_plan *p, const cublasLtMatmulHeuristicResult_t *h,
                       double *seconds) {
    for (int run = 0; run <= RUNS; run++) { /* the first loads code */
        float ms = 0;
        CALL(cudaEventRecord(t->begin, t->stream));
        if (gemm_enqueue(t->g, p, &h->algo, h->workspaceSize, t->stream, 1, t->at[0], t->at[1],
                         t->at[2], t->space) != STATUS_OK)
            return STATUS_OK;
        CALL(cudaEventRecord(t->end, t->stream));
        CALL(cudaEventSynchronize(t->end));
        CALL(cudaEventElapsedTime(&ms, t->begin, t->end));
        if (run && ms / 1e3 < *seconds) *seconds = ms / 1e3;
    }
    return STATUS_OK;
}

/* *best: the index of the winner, 0 where the library's first choice stays. */
static status contest(tuning *t, const gemm_plan *p, const cublasLtMatmulHeuristicResult_t *h,
                      int count, int *best, double *seconds, double *first) {
    *best = 0;
    *seconds = *first = 1e9;
    for (int i = 0; i < count; i++) {
        double s = 1e9;
        TRY(time_one(t, p, &h[i], &s));
        if (i == 0) *first = s;
        if (s < *seconds) *seconds = s, *best = i;
    }
    if (!*best) return STATUS_OK;
    TRY(time_one(t, p, &h[0], first));
    TRY(time_one(t, p, &h[*best], seconds));
    if (*seconds >= noise * *first) *best = 0;
    return STATUS_OK;
}

/* ---- rows of the table ---- */

static json_t *row_of(const gemm_plan *p, const cublasLtMatmulHeuristicResult_t *h,
                      double seconds, double first) {
    const cuda_gemm_shape *s = &p->shape;
    char text[16 * WORDS + 1];
    for (int i = 0; i < WORDS; i++)
        snprintf(text + 16 * i, 17, "%016" PRIx64, (uint64_t)h->algo.data[i]);
    return json_pack(
        "{s:b, s:b, s:b, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:f, s:f}",
        "ta", s->ta, "tb", s->tb, "add", s->add, "in", dtype_name(s->in), "out",
        dtype_name(s->out), "m", (json_int_t)s->m, "n", (json_int_t)s->n, "k",
        (json_int_t)s->k, "lda", (json_int_t)s->lda, "ldb", (json_int_t)s->ldb, "ldc",
        (json_int_t)s->ldc, "align", (json_int_t)p->align, "algorithm", text, "space",
        (json_int_t)h->workspaceSize, "seconds", seconds, "first_choice_seconds", first);
}

static status type_of_name(const char *name, const char *where, dtype *out) {
    static const dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 3; i++)
        if (!strcmp(dtype_name(types[i]), name)) {
            *out = types[i];
            return STATUS_OK;
        }
    return status_fail(STATUS_MODEL, "%s: \"%.20s\" is no type of a product", where, name);
}

static status read_algorithm(const char *text, const char *where, cublasLtMatmulAlgo_t *out) {
    if (strlen(text) != 16 * WORDS || strspn(text, "0123456789abcdef") != 16 * WORDS)
        return status_fail(STATUS_MODEL, "%s: \"algorithm\" must be %d hexadecimal digits",
                           where, 16 * WORDS);
    for (int i = 0; i < WORDS; i++) {
        char word[17];
        memcpy(word, text + 16 * i, 16);
        word[16] = 0;
        out->data[i] = strtoull(word, NULL, 16);
    }
    return STATUS_OK;
}

static status read_row(const json_t *row, const char *where, gemm_choice *c) {
    cuda_gemm_shape *s = &c->shape;
    const char *in = "", *out = "", *algorithm = "";
    int64_t space = -1;
    const struct {
        const char *key;
        int64_t *to;
    } numbers[] = {{"m", &s->m},         {"n", &s->n},     {"k", &s->k},
                   {"lda", &s->lda},     {"ldb", &s->ldb}, {"ldc", &s->ldc},
                   {"align", &c->align}, {"space", &space}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        TRY(json_get_int(row, numbers[i].key, numbers[i].to, where, STATUS_MODEL));
    TRY(json_get_bool(row, "ta", &s->ta, where, STATUS_MODEL));
    TRY(json_get_bool(row, "tb", &s->tb, where, STATUS_MODEL));
    TRY(json_get_bool(row, "add", &s->add, where, STATUS_MODEL));
    TRY(json_get_text(row, "in", &in, where, STATUS_MODEL));
    TRY(json_get_text(row, "out", &out, where, STATUS_MODEL));
    TRY(json_get_text(row, "algorithm", &algorithm, where, STATUS_MODEL));
    TRY(type_of_name(in, where, &s->in));
    TRY(type_of_name(out, where, &s->out));
    if (s->m < 1 || s->n < 1 || s->k < 1 || space < 0 || space > cuda_gemm_space(s->m, s->n))
        return status_fail(STATUS_MODEL, "%s: a size is out of range", where);
    c->space = (size_t)space;
    return read_algorithm(algorithm, where, &c->algorithm);
}

/* ---- the door ---- */

static json_t *new_table(const cuda_gemm *g, const char *card) {
    char library[80];
    cuda_gemm_describe(g, library, sizeof library);
    return json_pack("{s:s, s:s, s:I, s:[]}", "card", card, "library", library, "measured",
                     (json_int_t)g->planned, "products");
}

static status tune_one(tuning *t, const gemm_plan *p, json_t *products) {
    cublasLtMatmulHeuristicResult_t found[PROPOSALS];
    int count, best;
    double seconds, first;
    memset(found, 0, sizeof found);
    TRY(gemm_ask(t->g, p, PROPOSALS, found, &count));
    TRY(contest(t, p, found, count, &best, &seconds, &first));
    if (!best) return STATUS_OK;
    json_t *row = row_of(p, &found[best], seconds, first);
    if (!row || json_array_append_new(products, row))
        return status_fail(STATUS_MEMORY, "out of memory for the table of products");
    return STATUS_OK;
}

static status tune_all(tuning *t, status (*go_on)(int64_t, int64_t), json_t *products) {
    int64_t done = 0;
    TRY(open_tuning(t));
    for (int i = 0; i < GEMM_BUCKETS; i++)
        for (const gemm_plan *p = t->g->buckets[i]; p; p = p->next) {
            if (go_on) TRY(go_on(done++, t->g->planned));
            TRY(tune_one(t, p, products));
        }
    return STATUS_OK;
}

status cuda_gemm_tune(cuda_gemm *g, void *stream, const char *card,
                      status (*go_on)(int64_t done, int64_t total), json_t **table) {
    tuning t = {};
    t.g = g;
    t.stream = (cudaStream_t)stream;
    *table = new_table(g, card);
    if (!*table) return status_fail(STATUS_MEMORY, "out of memory for the table of products");
    status s = tune_all(&t, go_on, json_object_get(*table, "products"));
    close_tuning(&t);
    if (s == STATUS_OK) return s;
    json_decref(*table);
    *table = NULL;
    return s;
}

static status take_rows(cuda_gemm *g, const json_t *products) {
    for (size_t i = 0; i < json_array_size(products); i++) {
        char where[32];
        snprintf(where, sizeof where, "product %zu", i + 1);
        TRY(read_row(json_array_get(products, i), where, &g->table[i]));
        g->table_count = i + 1;
    }
    return STATUS_OK;
}

status cuda_gemm_use_table(cuda_gemm *g, const char *card, const json_t *table, bool *fits) {
    const json_t *products = json_object_get(table, "products");
    const char *of = "", *library = "";
    char mine[80];
    cuda_gemm_describe(g, mine, sizeof mine);
    TRY(json_get_text(table, "card", &of, "the table", STATUS_MODEL));
    TRY(json_get_text(table, "library", &library, "the table", STATUS_MODEL));
    if (!json_is_array(products))
        return status_fail(STATUS_MODEL, "\"products\" must be a list, it is %s",
                           json_type_name(products));
    *fits = !strcmp(of, card) && !strcmp(library, mine);
    if (!*fits) return STATUS_OK;
    g->table = (gemm_choice *)mem_alloc_array(json_array_size(products) + 1, sizeof *g->table,
                                              "the table of products");
    if (!g->table) return STATUS_MEMORY;
    status s = take_rows(g, products);
    if (s != STATUS_OK) g->table_count = 0;
    return s;
}
