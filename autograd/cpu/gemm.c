/* gemm.c: three ways to multiply behind one function.
 *
 *   f32            dnnl_sgemm: as fast as the library's matmul primitives and without their
 * cache bf16, native   matmul primitives with our scratchpad, one per shape, kept in a table
 *   16 bit, else   tiles of the operands are widened to f32, multiplied, and the result
 * rounded
 *
 * Measured on two Zen 3 cores, f32, 2048 x 768 x 2048: 150 to 185 GF/s through either door of
 * the library; skinny products (16 columns) reach 85 % of that per core. Tiles of our own over
 * the library's single-threaded product would make the bits independent of the number of
 * threads, and cost 5 to 10 %: not done here, done where adapters' gradients are summed
 * (adapter.c). */
#include "autograd/cpu/gemm.h"
#include "autograd/cpu/parallel.h"
#include "common/alloc.h"
#include "common/checked.h"
#include "common/hash.h"
#include "quant/convert.h"

#include <assert.h>
#include <dnnl.h>
#include <dnnl_debug.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    GEMM_SHAPES = 4096, /* entries for primitives, a power of two; at most 3/4 are used */
    /* the widened tiles: A 8 MB, B 4 MB, C 2 MB, in cache on big machines, and each widened
     * element is used at least 512 times */
    TILE_M = 1024,
    TILE_N = 512,
    TILE_K = 2048,
};

typedef struct kept {
    gemm_shape shape; /* m == 0: free */
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, scratchpad;
    int64_t scratch_bytes;
} kept;

struct gemm {
    int threads;
    bool native_bf16;
    bool always_primitive; /* a test hook */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    kept *table;
    int used;
};

/* Without OpenMP of our own (TSan) the library still has it; it must not start threads then.
 */
#ifndef _OPENMP
extern void omp_set_num_threads(int threads) __attribute__((weak));
extern int omp_get_max_threads(void) __attribute__((weak));
#endif

/* From now on the library uses so many threads when called from this one. Returns the old
 * number. */
static int set_threads(int threads) {
#ifndef _OPENMP
    if (!omp_set_num_threads || !omp_get_max_threads) return 1;
#endif
    int old = omp_get_max_threads();
    omp_set_num_threads(threads);
    return old;
}

static bool has_isa(dnnl_cpu_isa_t wanted) {
    return ((unsigned)dnnl_get_effective_cpu_isa() & (unsigned)wanted) == (unsigned)wanted;
}

status gemm_open(gemm **out, int threads) {
    *out = NULL;
    gemm *g = mem_alloc(sizeof *g, "matrix products");
    if (!g) return STATUS_MEMORY;
    g->threads = threads;
    g->table = mem_alloc_array(GEMM_SHAPES, sizeof *g->table, "matrix products");
    if (!g->table) {
        mem_free(g);
        return STATUS_MEMORY;
    }
    set_threads(threads);
    if (dnnl_engine_create(&g->engine, dnnl_cpu, 0) != dnnl_success ||
        dnnl_stream_create(&g->stream, g->engine, dnnl_stream_default_flags) != dnnl_success) {
        gemm_close(g);
        return status_fail(STATUS_DEVICE, "oneDNN does not start on this processor");
    }
    g->native_bf16 = has_isa(dnnl_cpu_isa_avx512_core_bf16);
    *out = g;
    return STATUS_OK;
}

static void kept_free(kept *p) {
    dnnl_memory_t memory[] = {p->a, p->b, p->c, p->scratchpad};
    for (int i = 0; i < 4; i++)
        if (memory[i]) dnnl_memory_destroy(memory[i]);
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    memset(p, 0, sizeof *p);
}

void gemm_close(gemm *g) {
    if (!g) return;
    for (int i = 0; i < GEMM_SHAPES; i++) kept_free(&g->table[i]);
    if (g->stream) dnnl_stream_destroy(g->stream);
    if (g->engine) dnnl_engine_destroy(g->engine);
    mem_free(g->table);
    mem_free(g);
}

void gemm_always_primitive(gemm *g, bool always) {
    g->always_primitive = always;
}

bool gemm_native(const gemm *g, dtype type) {
    return type == DTYPE_F32 || (type == DTYPE_BF16 && g->native_bf16);
}

void gemm_describe(const gemm *g, char *text, size_t bytes) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, bytes, "oneDNN %d.%d.%d, instruction set %#x, bf16 %s", v->major, v->minor,
             v->patch, (unsigned)dnnl_get_effective_cpu_isa(),
             g->native_bf16 ? "native" : "through f32");
}

static status fail_shape(const gemm_shape *s, const char *what, dnnl_status_t e) {
    return status_fail(
        STATUS_INTERNAL,
        "oneDNN cannot %s the product %" PRId64 " x %" PRId64 " x %" PRId64 " %s -> %s (%s)",
        what, s->m, s->n, s->k, dtype_name(s->in), dtype_name(s->out), dnnl_status2str(e));
}

/* ---- primitives ---- */

static bool same_shape(const gemm_shape *a, const gemm_shape *b) {
    return a->ta == b->ta && a->tb == b->tb && a->in == b->in && a->out == b->out &&
           a->add == b->add && a->m == b->m && a->n == b->n && a->k == b->k &&
           a->lda == b->lda && a->ldb == b->ldb && a->ldc == b->ldc;
}

static uint64_t shape_hash(const gemm_shape *s) {
    const int64_t key[] = {s->ta, s->tb, s->in,  s->out, s->add, s->m,
                           s->n,  s->k,  s->lda, s->ldb, s->ldc};
    return hash_bytes(key, sizeof key).low;
}

/* A matrix of rows x cols, stored with row stride ld, or its transpose stored so. */
static dnnl_status_t describe_matrix(dnnl_memory_desc_t *d, dtype type, int64_t rows,
                                     int64_t cols, int64_t ld, bool transposed) {
    dnnl_dims_t dims = {rows, cols};
    dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return dnnl_memory_desc_init_by_strides(d, 2, dims,
                                            type == DTYPE_F32 ? dnnl_f32 : dnnl_bf16, strides);
}

/* Our scratchpad; C += when the shape says so. */
static dnnl_status_t describe_attributes(dnnl_primitive_attr_t attr, bool add) {
    dnnl_status_t e = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (e != dnnl_success || !add) return e;
    dnnl_post_ops_t sum;
    if ((e = dnnl_post_ops_create(&sum)) != dnnl_success) return e;
    e = dnnl_post_ops_append_sum(sum, 1.0f);
    if (e == dnnl_success) e = dnnl_primitive_attr_set_post_ops(attr, sum);
    dnnl_post_ops_destroy(sum);
    return e;
}

static dnnl_status_t make_kept(gemm *g, const gemm_shape *s, dnnl_primitive_attr_t attr,
                               kept *out) {
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t d;
    dnnl_primitive_desc_t pd;
    dnnl_status_t e = describe_attributes(attr, s->add);
    if (e == dnnl_success) e = describe_matrix(&a, s->in, s->m, s->k, s->lda, s->ta);
    if (e == dnnl_success) e = describe_matrix(&b, s->in, s->k, s->n, s->ldb, s->tb);
    if (e == dnnl_success) e = describe_matrix(&c, s->out, s->m, s->n, s->ldc, false);
    if (e == dnnl_success) e = dnnl_matmul_desc_init(&d, &a, &b, NULL, &c);
    if (e == dnnl_success) e = dnnl_primitive_desc_create(&pd, &d, attr, g->engine, NULL);
    if (e != dnnl_success) return e;
    const dnnl_memory_desc_t *pad =
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    out->scratch_bytes = pad ? (int64_t)dnnl_memory_desc_get_size(pad) : 0;
    e = dnnl_primitive_create(&out->primitive, pd);
    if (e == dnnl_success) e = dnnl_memory_create(&out->a, &a, g->engine, DNNL_MEMORY_NONE);
    if (e == dnnl_success) e = dnnl_memory_create(&out->b, &b, g->engine, DNNL_MEMORY_NONE);
    if (e == dnnl_success) e = dnnl_memory_create(&out->c, &c, g->engine, DNNL_MEMORY_NONE);
    if (e == dnnl_success && out->scratch_bytes)
        e = dnnl_memory_create(&out->scratchpad, pad, g->engine, DNNL_MEMORY_NONE);
    dnnl_primitive_desc_destroy(pd);
    return e;
}

/* The primitive of this shape, made at the first call. */
static status find_kept(gemm *g, const gemm_shape *s, kept **out) {
    uint64_t at = shape_hash(s) % GEMM_SHAPES;
    for (; g->table[at].shape.m; at = (at + 1) % GEMM_SHAPES) {
        *out = &g->table[at];
        if (same_shape(&(*out)->shape, s)) return STATUS_OK;
    }
    if (g->used >= GEMM_SHAPES / 4 * 3) { /* replanning met many shapes: begin again */
        for (int i = 0; i < GEMM_SHAPES; i++) kept_free(&g->table[i]);
        g->used = 0;
        at = shape_hash(s) % GEMM_SHAPES;
    }
    dnnl_primitive_attr_t attr;
    dnnl_status_t e = dnnl_primitive_attr_create(&attr);
    if (e != dnnl_success) return fail_shape(s, "prepare", e);
    set_threads(g->threads);
    kept *p = &g->table[at];
    e = make_kept(g, s, attr, p);
    dnnl_primitive_attr_destroy(attr);
    if (e != dnnl_success) {
        kept_free(p);
        return fail_shape(s, "prepare", e);
    }
    p->shape = *s;
    g->used++;
    *out = p;
    return STATUS_OK;
}

static status check_space(const gemm_shape *s, int64_t needed, gemm_space given) {
    if (needed <= given.bytes) return STATUS_OK;
    return status_fail(STATUS_INTERNAL,
                       "the product %" PRId64 " x %" PRId64 " x %" PRId64 " needs %" PRId64
                       " bytes of scratch and got %" PRId64,
                       s->m, s->n, s->k, needed, given.bytes);
}

static status run_primitive(gemm *g, const gemm_shape *s, const void *a, const void *b,
                            void *c, gemm_space space) {
    kept *p;
    TRY(find_kept(g, s, &p));
    TRY(check_space(s, p->scratch_bytes, space));
    dnnl_memory_set_data_handle(p->a, (void *)(uintptr_t)a);
    dnnl_memory_set_data_handle(p->b, (void *)(uintptr_t)b);
    dnnl_memory_set_data_handle(p->c, c);
    if (p->scratchpad) dnnl_memory_set_data_handle(p->scratchpad, space.at);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->a},
                              {DNNL_ARG_WEIGHTS, p->b},
                              {DNNL_ARG_DST, p->c},
                              {DNNL_ARG_SCRATCHPAD, p->scratchpad}};
    dnnl_status_t e =
        dnnl_primitive_execute(p->primitive, g->stream, p->scratchpad ? 4 : 3, args);
    if (e == dnnl_success) e = dnnl_stream_wait(g->stream);
    return e == dnnl_success ? STATUS_OK : fail_shape(s, "run", e);
}

/* ---- f32 ---- */

static status multiply_f32(const gemm_shape *s, float alpha, const float *a, const float *b,
                           float *c) {
    dnnl_status_t e = dnnl_sgemm(s->ta ? 'T' : 'N', s->tb ? 'T' : 'N', s->m, s->n, s->k, alpha,
                                 a, s->lda, b, s->ldb, s->add ? 1.0f : 0.0f, c, s->ldc);
    return e == dnnl_success ? STATUS_OK : fail_shape(s, "run", e);
}

status gemm_f32(const gemm_shape *s, float alpha, const float *a, const float *b, float *c) {
    if (s->m == 0 || s->n == 0 || s->k == 0) return STATUS_OK;
    int threads = set_threads(1);
    status e = multiply_f32(s, alpha, a, b, c);
    set_threads(threads);
    return e;
}

/* ---- 16 bit through f32 ---- */

typedef struct tiles {
    int64_t m, n, k; /* largest tile */
    float *a, *b, *c;
} tiles;

static tiles tiles_of(const gemm_shape *s) {
    return (tiles){
        .m = min_i64(s->m, TILE_M), .n = min_i64(s->n, TILE_N), .k = min_i64(s->k, TILE_K)};
}

static int64_t tiles_bytes(const gemm_shape *s) {
    tiles t = tiles_of(s);
    return 4 * (t.m * t.k + t.n * t.k + (s->out == DTYPE_F32 ? 0 : t.m * t.n));
}

/* Rows of 16 bits, ld apart, as dense f32. */
static void widen(const gemm *g, dtype type, const void *from, int64_t ld, int64_t rows,
                  int64_t cols, float *to) {
    PARALLEL_FOR(g)
    for (int64_t i = 0; i < rows; i++)
        convert_array((const char *)from + i * ld * dtype_bytes(type), (int)type,
                      to + i * cols, QUANT_SRC_F32, cols);
}

static void narrow(const gemm *g, const float *from, int64_t rows, int64_t cols, dtype type,
                   void *to, int64_t ld) {
    PARALLEL_FOR(g)
    for (int64_t i = 0; i < rows; i++)
        convert_array(from + i * cols, QUANT_SRC_F32, (char *)to + i * ld * dtype_bytes(type),
                      (int)type, cols);
}

/* One tile of C: all of k, tile by tile. */
static status run_tile(gemm *g, const gemm_shape *s, const tiles *t, int64_t i, int64_t j,
                       const char *a, const char *b, char *c) {
    int64_t m = min_i64(t->m, s->m - i), n = min_i64(t->n, s->n - j),
            width = dtype_bytes(s->in);
    char *to = c + (i * s->ldc + j) * dtype_bytes(s->out);
    bool direct = s->out == DTYPE_F32;
    for (int64_t l = 0; l < s->k; l += t->k) {
        int64_t k = min_i64(t->k, s->k - l);
        widen(g, s->in, a + (s->ta ? l * s->lda + i : i * s->lda + l) * width, s->lda,
              s->ta ? k : m, s->ta ? m : k, t->a);
        widen(g, s->in, b + (s->tb ? j * s->ldb + l : l * s->ldb + j) * width, s->ldb,
              s->tb ? n : k, s->tb ? k : n, t->b);
        gemm_shape part = {.ta = s->ta,
                           .tb = s->tb,
                           .add = l > 0 || s->add,
                           .m = m,
                           .n = n,
                           .k = k,
                           .lda = s->ta ? m : k,
                           .ldb = s->tb ? k : n,
                           .ldc = direct ? s->ldc : n};
        TRY(multiply_f32(&part, 1.0f, t->a, t->b, direct ? (float *)to : t->c));
    }
    if (!direct) narrow(g, t->c, m, n, s->out, to, s->ldc);
    return STATUS_OK;
}

static status run_widened(gemm *g, const gemm_shape *s, const void *a, const void *b, void *c,
                          gemm_space space) {
    TRY(check_space(s, tiles_bytes(s), space));
    tiles t = tiles_of(s);
    t.a = space.at;
    t.b = t.a + t.m * t.k;
    t.c = t.b + t.n * t.k;
    for (int64_t j = 0; j < s->n; j += t.n)
        for (int64_t i = 0; i < s->m; i += t.m) TRY(run_tile(g, s, &t, i, j, a, b, c));
    return STATUS_OK;
}

/* ---- the door ---- */

static bool by_primitive(const gemm *g, const gemm_shape *s) {
    return g->always_primitive || (s->in == DTYPE_BF16 && g->native_bf16);
}

status gemm_plan(gemm *g, const gemm_shape *s, int64_t *bytes) {
    *bytes = 0;
    if (s->m == 0 || s->n == 0 || s->k == 0) return STATUS_OK;
    if (!by_primitive(g, s)) {
        if (s->in != DTYPE_F32) *bytes = tiles_bytes(s);
        return STATUS_OK;
    }
    gemm_shape part = *s;
    int64_t *rows = s->ta ? &part.k : &part.m;
    while (*rows > 0) {
        kept *p;
        TRY(find_kept(g, &part, &p));
        *bytes = max_i64(*bytes, p->scratch_bytes);
        *rows = (*rows - 1) / GEMM_ROWS * GEMM_ROWS; /* the next lower multiple */
    }
    return STATUS_OK;
}

static void clear(const gemm_shape *s, void *c) {
    for (int64_t i = 0; i < s->m; i++)
        memset((char *)c + i * s->ldc * dtype_bytes(s->out), 0,
               (size_t)(s->n * dtype_bytes(s->out)));
}

status gemm_run(gemm *g, const gemm_shape *s, const void *a, const void *b, void *c,
                gemm_space space) {
    assert(!s->add || s->out == DTYPE_F32);
    if (s->m == 0 || s->n == 0) return STATUS_OK;
    if (s->k == 0) {
        if (!s->add) clear(s, c);
        return STATUS_OK;
    }
    set_threads(g->threads);
    if (by_primitive(g, s)) return run_primitive(g, s, a, b, c, space);
    if (s->in == DTYPE_F32) return multiply_f32(s, 1.0f, a, b, c);
    return run_widened(g, s, a, b, c, space);
}
