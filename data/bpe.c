/* bpe.c: see bpe.h. */
#include "data/bpe.h"
#include "common/alloc.h"
#include "data/byte_level.h"
#include "data/merges.h"
#include "data/unicode.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    CODES = 0x10000, /* characters with a table of their own */
    FEW = 48,        /* symbols up to which scanning beats a heap */
};

/* U+2581, SentencePiece's space. */
static const char meta[] = "\xE2\x96\x81";
enum { META_BYTES = 3, META = 0x2581 };

/* What is known of a token: would its own text be encoded as just it? */
enum { UNKNOWN, WHOLE, PARTS };

struct bpe {
    vocabulary tokens;        /* as in the file */
    vocabulary raw;           /* byte-level: the same as bytes */
    const vocabulary *pieces; /* whichever of them text is looked up in */
    merge_table merges;
    bool bytes, fuse_unk, byte_fallback, ignore_merges, unk_missing;
    int32_t unk;            /* -1: unknown characters vanish */
    int32_t byte_ids[256];  /* of a raw byte, or of <0xNN>; -1 */
    int32_t *code_ids;      /* characters: by code point below CODES; -1 */
    uint8_t *meta_after;    /* characters: bit by code point: a merge may join it with META */
    bool cut_at_meta;       /* META starts a piece of its own after all other characters */
    uint8_t *control;       /* by id */
    bool control_reachable; /* text could become a control token */
    _Atomic uint8_t *whole; /* by id */
};

const vocabulary *bpe_tokens(const bpe *b) {
    return &b->tokens;
}

/* ---- reading ---- */

static const char where[] = "model";

static status read_tokens(bpe *b, const json_t *vocab) {
    if (!json_is_object(vocab))
        return status_fail(STATUS_MODEL, "%s.vocab must be an object, it is %s", where,
                           json_type_name(vocab));
    json_t *object = (json_t *)vocab; /* jansson's iterators are not const */
    TRY(vocabulary_open(&b->tokens, json_object_size(vocab)));
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        const char *key = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= VOCABULARY_IDS)
            return status_fail(STATUS_MODEL, "%s.vocab: \"%.80s\" has no usable id", where,
                               key);
        TRY(vocabulary_add(&b->tokens, key, json_object_iter_key_len(at), (int32_t)id));
    }
    return STATUS_OK;
}

/* The tokens that are written in the byte-level alphabet, as bytes; the others no text can
 * give. */
static status read_raw(bpe *b) {
    TRY(vocabulary_open(&b->raw, b->tokens.count));
    text_buffer raw = {0};
    status s = STATUS_OK;
    for (int32_t id = 0; id < b->tokens.size && s == STATUS_OK; id++) {
        if (!vocabulary_has(&b->tokens, id)) continue;
        size_t n;
        const char *key = vocabulary_key(&b->tokens, id, &n);
        bool is;
        raw.bytes = 0;
        s = byte_level_read(key, n, &raw, &is);
        if (s == STATUS_OK && is) s = vocabulary_add(&b->raw, raw.data, raw.bytes, id);
    }
    mem_free(raw.data);
    return s;
}

static status read_text_option(const json_t *model, const char *key, const char **out) {
    *out = NULL;
    return json_get_text(model, key, out, where, STATUS_MODEL);
}

static status refuse_affixes(const json_t *model) {
    static const char *const keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *text;
        TRY(read_text_option(model, keys[i], &text));
        if (text && *text)
            return status_fail(STATUS_MODEL, "%s: %s \"%.40s\" is not supported", where,
                               keys[i], text);
    }
    double dropout = 0;
    TRY(json_get_real(model, "dropout", &dropout, where, STATUS_MODEL));
    return dropout == 0 ? STATUS_OK
                        : status_fail(STATUS_MODEL, "%s: dropout is not supported", where);
}

static status read_options(bpe *b, const json_t *model) {
    const char *type = "BPE", *unk;
    TRY(json_get_text(model, "type", &type, where, STATUS_MODEL));
    if (strcmp(type, "BPE"))
        return status_fail(STATUS_MODEL, "%s \"%.60s\" is not supported, only BPE is", where,
                           type);
    TRY(refuse_affixes(model));
    TRY(json_get_bool(model, "fuse_unk", &b->fuse_unk, where, STATUS_MODEL));
    TRY(json_get_bool(model, "byte_fallback", &b->byte_fallback, where, STATUS_MODEL));
    TRY(json_get_bool(model, "ignore_merges", &b->ignore_merges, where, STATUS_MODEL));
    TRY(read_tokens(b, json_object_get(model, "vocab")));
    TRY(read_text_option(model, "unk_token", &unk));
    b->unk = unk ? vocabulary_find(&b->tokens, unk, strlen(unk)) : -1;
    b->unk_missing = unk && b->unk < 0;
    return merges_open(&b->merges, json_object_get(model, "merges"), &b->tokens);
}

static void fill_byte_ids(bpe *b) {
    for (int i = 0; i < 256; i++) {
        char name[8], byte = (char)i;
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        b->byte_ids[i] = b->bytes ? vocabulary_find(&b->raw, &byte, 1)
                                  : vocabulary_find(&b->tokens, name, 6);
    }
}

/* A merge never crosses the border before META after a character that no left half of a merge
 * with META at the start of its right half ends with: the text can be cut there. */
static void fill_meta(bpe *b) {
    b->cut_at_meta = b->code_ids[META] >= 0;
    for (size_t i = 0; i <= b->merges.mask; i++) {
        uint64_t pair = b->merges.slots[i].pair;
        if (pair == MERGE_NONE) continue;
        size_t left_bytes, right_bytes;
        const char *left = vocabulary_key(&b->tokens, (int32_t)(pair >> 32), &left_bytes);
        const char *right = vocabulary_key(&b->tokens, (int32_t)(uint32_t)pair, &right_bytes);
        if (right_bytes < META_BYTES || memcmp(right, meta, META_BYTES) || !left_bytes)
            continue;
        uint32_t code = utf8_get(utf8_back(left, left + left_bytes));
        if (code >= CODES)
            b->cut_at_meta = false;
        else
            b->meta_after[code >> 3] |= (uint8_t)(1u << (code & 7));
    }
}

static status fill_codes(bpe *b) {
    b->code_ids = mem_alloc_array(CODES, sizeof *b->code_ids, "the vocabulary");
    b->meta_after = mem_alloc(CODES / 8, "the vocabulary");
    if (!b->code_ids || !b->meta_after) return STATUS_MEMORY;
    for (int i = 0; i < CODES; i++) b->code_ids[i] = -1;
    for (int32_t id = 0; id < b->tokens.size; id++) {
        if (!vocabulary_has(&b->tokens, id)) continue;
        size_t n;
        const char *key = vocabulary_key(&b->tokens, id, &n);
        if (n && utf8_length((unsigned char)*key) == n && utf8_get(key) < CODES)
            b->code_ids[utf8_get(key)] = id;
    }
    fill_meta(b);
    return STATUS_OK;
}

status bpe_open(bpe **out, const json_t *model, bool bytes) {
    *out = NULL;
    bpe *b = mem_alloc(sizeof *b, "a tokenizer model");
    if (!b) return STATUS_MEMORY;
    b->bytes = bytes;
    status s = read_options(b, model);
    if (s == STATUS_OK && bytes) s = read_raw(b);
    if (s == STATUS_OK && !bytes) s = fill_codes(b);
    if (s == STATUS_OK) {
        b->pieces = bytes ? &b->raw : &b->tokens;
        fill_byte_ids(b);
        size_t n = (size_t)b->tokens.size + 1;
        b->control = mem_alloc(n, "the vocabulary");
        b->whole = mem_alloc_array(n, sizeof *b->whole, "the vocabulary");
        if (!b->control || !b->whole) s = STATUS_MEMORY;
    }
    if (s != STATUS_OK)
        bpe_close(b);
    else
        *out = b;
    return s;
}

void bpe_close(bpe *b) {
    if (!b) return;
    vocabulary_close(&b->tokens);
    vocabulary_close(&b->raw);
    merges_close(&b->merges);
    mem_free(b->code_ids);
    mem_free(b->meta_after);
    mem_free(b->control);
    mem_free(b->whole);
    mem_free(b);
}

void bpe_mark_control(bpe *b, int32_t id) {
    if (vocabulary_has(&b->tokens, id)) b->control[id] = 1;
}

/* Text reaches a token as the product of a merge, as a single character, or (ignore_merges) as
 * a whole piece. The unknown token is no matter of the text's. */
void bpe_seal(bpe *b) {
    for (size_t i = 0; i <= b->merges.mask; i++)
        if (b->merges.slots[i].pair != MERGE_NONE &&
            b->control[(uint32_t)b->merges.slots[i].value])
            b->control_reachable = true;
    for (int32_t id = 0; id < b->tokens.size; id++) {
        if (!b->control[id] || !vocabulary_has(&b->tokens, id)) continue;
        size_t n;
        const char *key = vocabulary_key(&b->tokens, id, &n);
        if (b->ignore_merges || (n && utf8_length((unsigned char)*key) == n))
            b->control_reachable = true;
    }
}

/* ---- encoding ---- */

void bpe_scratch_free(bpe_scratch *s) {
    mem_free(s->ids);
    mem_free(s->merges);
    mem_free(s->heap);
    mem_free(s->previous);
    mem_free(s->next);
    memset(s, 0, sizeof *s);
}

static status reserve_symbols(bpe_scratch *s, size_t n) {
    size_t capacity = s->capacity;
    if (mem_grow(&s->ids, &capacity, n, sizeof *s->ids, "a piece of text"))
        return STATUS_MEMORY;
    capacity = s->capacity;
    if (mem_grow(&s->merges, &capacity, n, sizeof *s->merges, "a piece of text"))
        return STATUS_MEMORY;
    s->capacity = capacity;
    return STATUS_OK;
}

/* The id of one character (or raw byte) of the piece; -1 when it has none or must not. */
static int32_t unit_id(const bpe *b, const char *p, size_t n, bool guard) {
    int32_t id;
    if (b->bytes) {
        id = b->byte_ids[(unsigned char)*p];
    } else {
        uint32_t code = utf8_get(p);
        id = code < CODES ? b->code_ids[code] : vocabulary_find(&b->tokens, p, n);
    }
    return guard && id >= 0 && b->control[id] ? -1 : id;
}

static bool fall_back(const bpe *b, const char *p, size_t n, int32_t *ids) {
    if (!b->byte_fallback || b->bytes) return false;
    for (size_t i = 0; i < n; i++)
        if ((ids[i] = b->byte_ids[(unsigned char)p[i]]) < 0) return false;
    return true;
}

/* The piece's symbols into s->ids. An unknown token is written when the next known one comes,
 * not before bytes that stand for a character: the library's order. */
static status symbols(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes,
                      bool guard, size_t *count) {
    size_t n = 0;
    bool unknown = false;
    if (bytes > s->capacity) TRY(reserve_symbols(s, bytes));
    for (size_t i = 0, length; i < bytes; i += length) {
        length = b->bytes ? 1 : utf8_length((unsigned char)piece[i]);
        int32_t id = unit_id(b, piece + i, length, guard);
        if (id >= 0) {
            if (unknown) s->ids[n++] = b->unk;
            unknown = false;
            s->ids[n++] = id;
        } else if (fall_back(b, piece + i, length, s->ids + n)) {
            n += length;
        } else if (b->unk_missing) {
            return status_fail(STATUS_DATA,
                               "the tokenizer knows no token for \"%.*s\", and its "
                               "unknown token is not in its vocabulary",
                               (int)length, piece + i);
        } else if (b->unk >= 0) {
            if (unknown && !b->fuse_unk) s->ids[n++] = b->unk;
            unknown = true;
        }
    }
    if (unknown) s->ids[n++] = b->unk;
    *count = n;
    return STATUS_OK;
}

static inline uint64_t find_merge(const bpe *b, int32_t left, int32_t right, bool guard) {
    uint64_t value = merges_find(&b->merges, left, right);
    return guard && value != MERGE_NONE && b->control[(uint32_t)value] ? MERGE_NONE : value;
}

/* Merges n symbols in place, always the first pair of the least rank; returns how many are
 * left. */
static size_t merge_few(const bpe *b, int32_t *ids, uint64_t *merges, size_t n, bool guard) {
    for (size_t i = 0; i + 1 < n; i++) merges[i] = find_merge(b, ids[i], ids[i + 1], guard);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (merges[i] < merges[best]) best = i;
        if (merges[best] == MERGE_NONE) break;
        ids[best] = (int32_t)(uint32_t)merges[best];
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 2 < n)
            memmove(merges + best + 1, merges + best + 2, (n - best - 2) * sizeof *merges);
        if (best + 1 < n) merges[best] = find_merge(b, ids[best], ids[best + 1], guard);
        if (best) merges[best - 1] = find_merge(b, ids[best - 1], ids[best], guard);
    }
    return n;
}

/* ---- a heap of rank << 32 | position ---- */

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t moving = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= moving) break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

static void push(uint64_t *heap, size_t *n, uint64_t key) {
    size_t i = (*n)++;
    for (; i && heap[(i - 1) / 2] > key; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = key;
}

static uint64_t pop(uint64_t *heap, size_t *n) {
    uint64_t top = heap[0];
    heap[0] = heap[--*n];
    if (*n) sift_down(heap, *n, 0);
    return top;
}

/* Room for n symbols; each merge brings at most two new pairs, and n - 1 pairs are there
 * first. */
static status reserve_lists(bpe_scratch *s, size_t n) {
    if (n <= s->list_capacity) return STATUS_OK;
    size_t heap = 0, previous = 0, next = 0;
    mem_free(s->heap);
    mem_free(s->previous);
    mem_free(s->next);
    s->heap = NULL;
    s->previous = s->next = NULL;
    s->list_capacity = 0;
    if (mem_grow(&s->heap, &heap, 3 * n, sizeof *s->heap, "a long piece of text") ||
        mem_grow(&s->previous, &previous, n, sizeof *s->previous, "a long piece of text") ||
        mem_grow(&s->next, &next, n, sizeof *s->next, "a long piece of text"))
        return STATUS_MEMORY;
    s->list_capacity = n;
    return STATUS_OK;
}

#define NOWHERE UINT32_MAX

static uint64_t heap_key(uint64_t merge, uint32_t position) {
    return (merge & ~(uint64_t)UINT32_MAX) | position;
}

/* Symbols as a linked list; s->merges[i] is the merge of symbol i with its next one. A heap
 * entry is stale when its rank is not that merge's any more. */
static size_t merge_many(const bpe *b, bpe_scratch *s, size_t n, bool guard) {
    size_t heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->previous[i] = i ? i - 1 : NOWHERE;
        s->next[i] = i + 1 < n ? i + 1 : NOWHERE;
        s->merges[i] = i + 1 < n ? find_merge(b, s->ids[i], s->ids[i + 1], guard) : MERGE_NONE;
        if (s->merges[i] != MERGE_NONE) s->heap[heap++] = heap_key(s->merges[i], i);
    }
    for (size_t i = heap / 2; i-- > 0;) sift_down(s->heap, heap, i);
    while (heap) {
        uint64_t key = pop(s->heap, &heap);
        uint32_t at = (uint32_t)key;
        if (s->merges[at] == MERGE_NONE || heap_key(s->merges[at], at) != key) continue;
        uint32_t right = s->next[at], after = s->next[right], before = s->previous[at];
        s->ids[at] = (int32_t)(uint32_t)s->merges[at];
        s->ids[right] = -1;
        s->merges[right] = s->merges[at] = MERGE_NONE;
        s->next[at] = after;
        if (after != NOWHERE) {
            s->previous[after] = at;
            s->merges[at] = find_merge(b, s->ids[at], s->ids[after], guard);
            if (s->merges[at] != MERGE_NONE) push(s->heap, &heap, heap_key(s->merges[at], at));
        }
        if (before != NOWHERE) {
            s->merges[before] = find_merge(b, s->ids[before], s->ids[at], guard);
            if (s->merges[before] != MERGE_NONE)
                push(s->heap, &heap, heap_key(s->merges[before], before));
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (s->ids[i] >= 0) s->ids[kept++] = s->ids[i];
    return kept;
}

/* ---- pieces ---- */

/* By symbols and merges, into s->ids. */
static status merge(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes, bool guard,
                    size_t *count) {
    TRY(symbols(b, s, piece, bytes, guard, count));
    if (*count <= FEW) {
        *count = merge_few(b, s->ids, s->merges, *count, guard);
    } else {
        TRY(reserve_lists(s, *count));
        *count = merge_many(b, s, *count, guard);
    }
    return STATUS_OK;
}

/* A piece, or a part that merges cannot leave. */
static status encode_part(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes,
                          bool guard, id_list *out) {
    int32_t id = guard ? -1 : vocabulary_find(b->pieces, piece, bytes);
    uint8_t known =
        id >= 0 ? atomic_load_explicit(&b->whole[id], memory_order_relaxed) : PARTS;
    if (known == WHOLE) return id_list_append(out, &id, 1);
    size_t count = 0;
    TRY(merge(b, s, piece, bytes, guard, &count));
    if (known == UNKNOWN)
        atomic_store_explicit(&b->whole[id], count == 1 && s->ids[0] == id ? WHOLE : PARTS,
                              memory_order_relaxed);
    return id_list_append(out, s->ids, count);
}

/* The next place to cut behind `from`, or the end. */
static const char *next_cut(const bpe *b, const char *from, const char *end) {
    for (const char *p = from + utf8_length((unsigned char)*from); p < end; p += META_BYTES) {
        p = memmem(p, (size_t)(end - p), meta, META_BYTES);
        if (!p) break;
        uint32_t code = utf8_get(utf8_back(from, p));
        if (code >= CODES || !(b->meta_after[code >> 3] >> (code & 7) & 1)) return p;
    }
    return end;
}

status bpe_encode(const bpe *b, bpe_scratch *s, const char *piece, size_t bytes, bool plain,
                  id_list *out) {
    bool guard = plain && b->control_reachable;
    if (bytes >= UINT32_MAX / 4)
        return status_fail(STATUS_DATA, "a text of %zu bytes without a break is too long",
                           bytes);
    if (b->ignore_merges) {
        int32_t id = vocabulary_find(b->pieces, piece, bytes);
        if (id >= 0 && !(guard && b->control[id])) return id_list_append(out, &id, 1);
    }
    if (!b->cut_at_meta || (guard && b->control[b->code_ids[META]]))
        return encode_part(b, s, piece, bytes, guard, out);
    for (const char *p = piece, *end = piece + bytes, *cut; p < end; p = cut) {
        cut = next_cut(b, p, end);
        TRY(encode_part(b, s, p, (size_t)(cut - p), guard, out));
    }
    return STATUS_OK;
}
