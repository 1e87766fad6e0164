/* attention.cu: OP_ATTENTION on the card: checks, scratch, and which kernels take a call.
 *
 * 16-bit operands whose heads are whole pieces of 16 bytes go to the tensor cores, everything
 * else to the plain kernels. A call with a cache first stores the new keys; where documents
 * have few new rows (generation), a block per row reads the cache instead of tiles of queries.
 * The choice follows the call's shape only. A sequence that outgrows its cache is the caller's
 * mistake, which the host cannot see: rows behind the cache's end are not stored. */
#include "autograd/cuda/attention.h"

#include "common/checked.h"

enum { DECODE_ROWS = 8 /* per document, on average: from here on tiles of queries win */ };

static status check_sizes(const op_attr *attr) {
    int heads = attr->attention.heads, kv = attr->attention.kv_heads;
    int dim = attr->attention.head_dim;
    if (kv > 0 && heads > 0 && heads % kv == 0 && dim > 0 && dim <= ATTENTION_DIM_MAX)
        return STATUS_OK;
    return status_fail(STATUS_INTERNAL, "attention: no kernel for %d heads, %d kv heads of %d",
                       heads, kv, dim);
}

static attention_args args_of(const op_call *call) {
    const tensor *qkv = &call->in[ATTENTION_QKV], *cache = &call->in[ATTENTION_CACHE];
    attention_args a = {};
    a.heads = call->attr->attention.heads;
    a.kv_heads = call->attr->attention.kv_heads;
    a.group = a.heads / a.kv_heads;
    a.dim = call->attr->attention.head_dim;
    a.window = (int)min_i64(call->attr->attention.window, 1 << 30); /* sums of it stay ints */
    a.scale = call->attr->attention.scale;
    a.softcap = call->attr->attention.softcap;
    a.inner = a.softcap > 0 ? a.scale / a.softcap : 0;
    a.unit = a.softcap > 0 ? a.softcap : a.scale;
    a.unit2 = a.unit * 1.4426950408889634f;
    a.rows = call->rows;
    a.documents = call->documents;
    a.starts = (const int32_t *)call->in[ATTENTION_STARTS].data;
    a.qkv = qkv->data, a.qkv_stride = qkv->stride;
    a.keys = qkv->data, a.key_stride = qkv->stride;
    a.key_col = (int64_t)a.heads * a.dim;
    a.value_col = a.key_col + (int64_t)a.kv_heads * a.dim;
    if (cache->data) {
        a.past = (const int32_t *)call->in[ATTENTION_PAST].data;
        a.keys = cache->data, a.key_stride = cache->stride;
        a.key_col = 0;
        a.value_col = (int64_t)a.kv_heads * a.dim;
        a.cache_rows = call->attr->attention.cache_rows;
    }
    a.y = call->out[ATTENTION_Y].data, a.y_stride = call->out[ATTENTION_Y].stride;
    a.lse = (float *)call->out[ATTENTION_LSE].data;
    a.lse_stride = call->out[ATTENTION_LSE].stride;
    a.dy = call->gout[ATTENTION_Y].data, a.dy_stride = call->gout[ATTENTION_Y].stride;
    a.g = call->gin[ATTENTION_QKV].data, a.g_stride = call->gin[ATTENTION_QKV].stride;
    a.add = call->add >> ATTENTION_QKV & 1;
    a.stats = (float2 *)call->scratch;
    a.plane = round_up_i64(call->rows, 2);
    return a;
}

/* Whether heads of the tensor (absent: yes) are whole pieces of 16 bytes. */
static bool tensor_wide(const tensor *t, int dim) {
    int64_t bytes = dtype_bytes(t->type);
    return !t->data || ((uintptr_t)t->data % 16 == 0 && t->stride * bytes % 16 == 0 &&
                        dim * bytes % 16 == 0);
}

static bool call_wide(const op_call *call) {
    int dim = call->attr->attention.head_dim;
    return tensor_wide(&call->in[ATTENTION_QKV], dim) &&
           tensor_wide(&call->in[ATTENTION_CACHE], dim) &&
           tensor_wide(&call->out[ATTENTION_Y], dim) &&
           tensor_wide(&call->gout[ATTENTION_Y], dim) &&
           tensor_wide(&call->gin[ATTENTION_QKV], dim);
}

status cuda_attention_forward(backend *b, const op_call *call) {
    TRY(check_sizes(call->attr));
    if (!call->rows) return STATUS_OK;
    attention_args a = args_of(call);
    bool wide = call_wide(call), cached = call->in[ATTENTION_CACHE].data;
    cudaStream_t s = cuda_stream(b);
    if (cached) CUDA_TRY(b, attention_append(call->compute, &a, s));
    if (cached && wide && call->rows < DECODE_ROWS * call->documents)
        CUDA_TRY(b, attention_decode(call->compute, &a, s));
    else if (wide && call->compute != DTYPE_F32)
        CUDA_TRY(b, attention_forward(call->compute, &a, s));
    else
        CUDA_TRY(b, attention_plain_forward(call->compute, &a, s));
    return STATUS_OK;
}

status cuda_attention_backward(backend *b, const op_call *call) {
    TRY(check_sizes(call->attr));
    if (!call->rows || !call->gin[ATTENTION_QKV].data) return STATUS_OK;
    attention_args a = args_of(call);
    if (a.heads * a.plane * (int64_t)sizeof(float2) > call->scratch_bytes)
        return status_fail(STATUS_INTERNAL, "attention: %lld bytes of scratch are too few",
                           (long long)call->scratch_bytes);
    bool wide = call_wide(call);
    cudaStream_t s = cuda_stream(b);
    CUDA_TRY(b, attention_stats(call->compute, &a, wide, s));
    if (wide && call->compute != DTYPE_F32)
        CUDA_TRY(b, attention_backward(call->compute, &a, s));
    else
        CUDA_TRY(b, attention_plain_backward(call->compute, &a, s));
    return STATUS_OK;
}

status cuda_attention_prepare(backend *b, const op_shape *shape) {
    TRY(check_sizes(shape->attr));
    int dim = shape->attr->attention.head_dim;
    if (shape->compute == DTYPE_F32) return STATUS_OK;
    if (shape->backward)
        CUDA_TRY(b, attention_backward_prepare(shape->compute, dim));
    else
        CUDA_TRY(b, attention_forward_prepare(shape->compute, dim));
    return STATUS_OK;
}
