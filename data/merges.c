/* merges.c: see merges.h. */
#include "data/merges.h"
#include "common/alloc.h"
#include "data/text_buffer.h"

static const char where[] = "model.merges";

static size_t slot_of(const merge_table *m, uint64_t pair) {
    uint64_t hash = pair * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(hash ^ hash >> 32) & m->mask;
    while (m->slots[i].pair != pair && m->slots[i].pair != MERGE_NONE) i = (i + 1) & m->mask;
    return i;
}

/* The two halves of an entry. */
typedef struct halves {
    const char *left, *right;
    size_t left_bytes, right_bytes;
} halves;

static status bad(size_t index, const char *why) {
    return status_fail(STATUS_MODEL, "%s[%zu]: %s", where, index, why);
}

static status read_string(const json_t *entry, size_t index, halves *h) {
    const char *text = json_string_value(entry), *end = text + json_string_length(entry);
    const char *space = memchr(text, ' ', (size_t)(end - text));
    if (!space || memchr(space + 1, ' ', (size_t)(end - space - 1)))
        return bad(index, "a merge must be two tokens with one space between");
    *h = (halves){text, space + 1, (size_t)(space - text), (size_t)(end - space - 1)};
    return STATUS_OK;
}

static status read_pair(const json_t *entry, size_t index, halves *h) {
    const json_t *left = json_array_get(entry, 0), *right = json_array_get(entry, 1);
    if (json_array_size(entry) != 2 || !json_is_string(left) || !json_is_string(right))
        return bad(index, "a merge must be two strings");
    *h = (halves){json_string_value(left), json_string_value(right), json_string_length(left),
                  json_string_length(right)};
    return STATUS_OK;
}

static status add(merge_table *m, const vocabulary *tokens, const halves *h, size_t index,
                  uint32_t rank, text_buffer *product) {
    product->bytes = 0;
    TRY(text_append(product, h->left, h->left_bytes));
    TRY(text_append(product, h->right, h->right_bytes));
    int32_t left = vocabulary_find(tokens, h->left, h->left_bytes);
    int32_t right = vocabulary_find(tokens, h->right, h->right_bytes);
    int32_t merged = vocabulary_find(tokens, product->data, product->bytes);
    if (left < 0 || right < 0 || merged < 0)
        return status_fail(STATUS_MODEL,
                           "%s[%zu]: \"%.40s\" + \"%.40s\" is not in the vocabulary", where,
                           index, h->left, h->right);
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    /* the last of equal pairs counts, as in the library */
    m->slots[slot_of(m, pair)] =
        (struct merge_slot){pair, (uint64_t)rank << 32 | (uint32_t)merged};
    return STATUS_OK;
}

status merges_open(merge_table *m, const json_t *list, const vocabulary *tokens) {
    if (!json_is_array(list))
        return status_fail(STATUS_MODEL, "%s must be a list, it is %s", where,
                           json_type_name(list));
    size_t count = json_array_size(list), slots = 16;
    if (count >= UINT32_MAX / 4) return status_fail(STATUS_MODEL, "%s: too many", where);
    while (slots < 2 * count + 2) slots *= 2;
    m->slots = mem_alloc_array(slots, sizeof *m->slots, "the merge table");
    if (!m->slots) return STATUS_MEMORY;
    m->mask = slots - 1;
    for (size_t i = 0; i < slots; i++) m->slots[i].pair = MERGE_NONE;
    bool strings = count && json_is_string(json_array_get(list, 0));
    text_buffer product = {0};
    status s = STATUS_OK;
    uint32_t rank = 0;
    for (size_t i = 0; i < count && s == STATUS_OK; i++) {
        const json_t *entry = json_array_get(list, i);
        halves h = {0};
        if (strings && json_is_string(entry) &&
            !strncmp(json_string_value(entry), "#version", 8))
            continue;
        s = !strings                ? read_pair(entry, i, &h)
            : json_is_string(entry) ? read_string(entry, i, &h)
                                    : bad(i, "a merge must be a string as the first one is");
        if (s == STATUS_OK) s = add(m, tokens, &h, i, rank++, &product);
    }
    mem_free(product.data);
    return s;
}

void merges_close(merge_table *m) {
    mem_free(m->slots);
    m->slots = NULL;
}
