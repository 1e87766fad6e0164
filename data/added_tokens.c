/* added_tokens.c: see added_tokens.h. Matching walks a sorted list of patterns, narrowing it
 * byte by byte; first bytes that no pattern has are skipped by a table. */
#include "data/added_tokens.h"
#include "common/alloc.h"
#include "data/unicode.h"

#include <stdlib.h>
#include <string.h>

/* The patterns of one round, sorted by bytes. */
typedef struct pattern_set {
    const added_token **sorted;
    size_t count;
    bool first[256];
} pattern_set;

struct added_tokens {
    const vocabulary *model;
    added_token *items;
    size_t count, capacity;
    vocabulary index;          /* content to place in `items` */
    int32_t next_id;           /* for a token that the model does not have */
    pattern_set sets[2];       /* not normalized, normalized */
    const added_token **by_id; /* sorted by id */
};

status added_tokens_open(added_tokens **out, const bpe *model) {
    *out = NULL;
    added_tokens *a = mem_alloc(sizeof *a, "added tokens");
    if (!a) return STATUS_MEMORY;
    a->model = bpe_tokens(model);
    a->next_id = (int32_t)a->model->count;
    status s = vocabulary_open(&a->index, 64);
    if (s != STATUS_OK)
        added_tokens_close(a);
    else
        *out = a;
    return s;
}

void added_tokens_close(added_tokens *a) {
    if (!a) return;
    for (size_t i = 0; i < a->count; i++) {
        mem_free(a->items[i].content);
        mem_free(a->items[i].pattern);
    }
    mem_free(a->items);
    mem_free(a->sets[0].sorted);
    mem_free(a->sets[1].sorted);
    mem_free(a->by_id);
    vocabulary_close(&a->index);
    mem_free(a);
}

/* ---- adding ---- */

const added_token *added_tokens_by_content(const added_tokens *a, const char *text,
                                           size_t bytes) {
    int32_t at = vocabulary_find(&a->index, text, bytes);
    return at < 0 ? NULL : &a->items[at];
}

/* The entry with this content, made if need be; its id is the model's or the next free one. */
static status entry(added_tokens *a, const char *content, size_t bytes, added_token **out) {
    int32_t at = vocabulary_find(&a->index, content, bytes);
    if (at >= 0) {
        *out = &a->items[at];
        return STATUS_OK;
    }
    if (mem_grow(&a->items, &a->capacity, a->count + 1, sizeof *a->items, "added tokens"))
        return STATUS_MEMORY;
    added_token t = {.bytes = bytes, .id = vocabulary_find(a->model, content, bytes)};
    if (t.id < 0) {
        t.id = a->next_id;
        if (t.id >= VOCABULARY_IDS || vocabulary_has(a->model, t.id))
            return status_fail(STATUS_MODEL,
                               "added token \"%.80s\": its id %d is taken or too large",
                               content, t.id);
    }
    TRY(vocabulary_add(&a->index, content, bytes, (int32_t)a->count));
    t.content = mem_strndup(content, bytes);
    if (!t.content) return STATUS_MEMORY;
    if (t.id == a->next_id) a->next_id++;
    a->items[a->count] = t;
    *out = &a->items[a->count++];
    return STATUS_OK;
}

status added_tokens_put(added_tokens *a, const json_t *object, int64_t id, const char *where) {
    const json_t *content = json_object_get(object, "content");
    if (!json_is_string(content))
        return status_fail(STATUS_MODEL, "%s: an added token needs its \"content\"", where);
    if (!json_string_length(content)) return STATUS_OK; /* the library passes over it */
    added_token flags = {.normalized = true};
    TRY(json_get_bool(object, "single_word", &flags.single_word, where, STATUS_MODEL));
    TRY(json_get_bool(object, "lstrip", &flags.lstrip, where, STATUS_MODEL));
    TRY(json_get_bool(object, "rstrip", &flags.rstrip, where, STATUS_MODEL));
    TRY(json_get_bool(object, "special", &flags.special, where, STATUS_MODEL));
    flags.normalized = !flags.special;
    TRY(json_get_bool(object, "normalized", &flags.normalized, where, STATUS_MODEL));
    added_token *t;
    TRY(entry(a, json_string_value(content), json_string_length(content), &t));
    if (id >= 0 && id != t->id)
        return status_fail(
            STATUS_MODEL,
            "%s: token \"%.80s\" says that its id is %lld, but by the vocabulary it is %d",
            where, t->content, (long long)id, t->id);
    t->single_word = flags.single_word;
    t->lstrip = flags.lstrip;
    t->rstrip = flags.rstrip;
    t->special = flags.special;
    t->normalized = flags.normalized;
    return STATUS_OK;
}

status added_tokens_read(added_tokens *a, const json_t *list, const char *where) {
    const json_t *item;
    size_t i;
    if (!list || json_is_null(list)) return STATUS_OK;
    if (!json_is_array(list))
        return status_fail(STATUS_MODEL, "%s: added_tokens must be a list, it is %s", where,
                           json_type_name(list));
    json_array_foreach(list, i, item) {
        int64_t id = -1;
        TRY(json_get_int(item, "id", &id, where, STATUS_MODEL));
        if (id < 0 || id >= VOCABULARY_IDS)
            return status_fail(STATUS_MODEL, "%s: added_tokens[%zu] has no usable id", where,
                               i);
        TRY(added_tokens_put(a, item, id, where));
    }
    return STATUS_OK;
}

status added_tokens_put_special(added_tokens *a, const char *content) {
    size_t bytes = strlen(content);
    bool known = added_tokens_by_content(a, content, bytes);
    if (!bytes || (!known && vocabulary_find(a->model, content, bytes) < 0)) return STATUS_OK;
    added_token *t;
    TRY(entry(a, content, bytes, &t));
    t->special = true;
    return STATUS_OK;
}

/* ---- sealing ---- */

static int compare_bytes(const void *x, const void *y) {
    const added_token *a = *(added_token *const *)x, *b = *(added_token *const *)y;
    size_t n = a->pattern_bytes < b->pattern_bytes ? a->pattern_bytes : b->pattern_bytes;
    int order = memcmp(a->pattern, b->pattern, n);
    return order
               ? order
               : (a->pattern_bytes > b->pattern_bytes) - (a->pattern_bytes < b->pattern_bytes);
}

static int compare_ids(const void *x, const void *y) {
    const added_token *a = *(added_token *const *)x, *b = *(added_token *const *)y;
    return (a->id > b->id) - (a->id < b->id);
}

static status make_pattern(added_token *t, const normalizer *n, normalizer_scratch *scratch) {
    const char *text = t->content;
    size_t bytes = t->bytes;
    bool moved = false;
    if (utf8_valid(text, bytes) != bytes)
        return status_fail(STATUS_MODEL, "an added token is not valid UTF-8");
    if (t->normalized) TRY(normalizer_apply(n, scratch, text, bytes, &text, &bytes, &moved));
    if (!bytes)
        return status_fail(STATUS_MODEL, "added token \"%.80s\" is empty once normalized",
                           t->content);
    t->pattern_bytes = bytes;
    t->pattern = mem_strndup(text, bytes);
    return t->pattern ? STATUS_OK : STATUS_MEMORY;
}

static status sort_set(pattern_set *set) {
    qsort(set->sorted, set->count, sizeof(added_token *), compare_bytes);
    for (size_t i = 0; i < set->count; i++) {
        set->first[(unsigned char)*set->sorted[i]->pattern] = true;
        if (i && !compare_bytes(&set->sorted[i - 1], &set->sorted[i]))
            return status_fail(
                STATUS_MODEL,
                "added tokens \"%.80s\" and \"%.80s\" are the same once normalized",
                set->sorted[i - 1]->content, set->sorted[i]->content);
    }
    return STATUS_OK;
}

status added_tokens_seal(added_tokens *a, const normalizer *n, normalizer_scratch *scratch) {
    for (int i = 0; i < 2; i++) {
        a->sets[i].sorted =
            mem_alloc_array(a->count, sizeof *a->sets[i].sorted, "added tokens");
        if (!a->sets[i].sorted) return STATUS_MEMORY;
    }
    a->by_id = mem_alloc_array(a->count, sizeof *a->by_id, "added tokens");
    if (!a->by_id) return STATUS_MEMORY;
    for (size_t i = 0; i < a->count; i++) {
        added_token *t = &a->items[i];
        TRY(make_pattern(t, n, scratch));
        pattern_set *set = &a->sets[t->normalized];
        set->sorted[set->count++] = t;
        a->by_id[i] = t;
    }
    qsort(a->by_id, a->count, sizeof *a->by_id, compare_ids);
    TRY(sort_set(&a->sets[0]));
    return sort_set(&a->sets[1]);
}

size_t added_tokens_count(const added_tokens *a) {
    return a->count;
}
const added_token *added_tokens_at(const added_tokens *a, size_t index) {
    return &a->items[index];
}

const added_token *added_tokens_by_id(const added_tokens *a, int32_t id) {
    added_token wanted = {.id = id};
    const added_token *key = &wanted;
    const added_token **found =
        a->count ? bsearch(&key, a->by_id, a->count, sizeof *a->by_id, compare_ids) : NULL;
    return found ? *found : NULL;
}

/* ---- matching ---- */

/* The longest pattern that the text begins with, or NULL. */
static const added_token *longest(const pattern_set *set, const char *text, size_t bytes) {
    size_t low = 0, high = set->count;
    const added_token *best = NULL;
    for (size_t depth = 0; low < high; depth++) {
        /* [low, high) share the first `depth` bytes with the text; the shortest is first */
        if (set->sorted[low]->pattern_bytes == depth) best = set->sorted[low++];
        if (depth == bytes) break;
        unsigned char wanted = (unsigned char)text[depth];
        size_t from = low, to = high;
        while (from < to) { /* the first whose byte is not below */
            size_t middle = (from + to) / 2;
            if ((unsigned char)set->sorted[middle]->pattern[depth] < wanted)
                from = middle + 1;
            else
                to = middle;
        }
        low = from;
        for (to = high; from < to;) { /* the first whose byte is above */
            size_t middle = (from + to) / 2;
            if ((unsigned char)set->sorted[middle]->pattern[depth] <= wanted)
                from = middle + 1;
            else
                to = middle;
        }
        high = from;
    }
    return best;
}

static bool stands_alone(const char *text, size_t start, size_t end, size_t bytes) {
    return (!start || !unicode_is_word(utf8_get(utf8_back(text, text + start)))) &&
           (end == bytes || !unicode_is_word(utf8_get(text + end)));
}

/* Back over white space, but not below `least`. */
static size_t spaces_before(const char *text, size_t at, size_t least) {
    while (at > least) {
        const char *p = utf8_back(text, text + at);
        if (!unicode_is_space(utf8_get(p))) break;
        at = (size_t)(p - text);
    }
    return at;
}

static size_t spaces_behind(const char *text, size_t at, size_t bytes) {
    while (at < bytes && unicode_is_space(utf8_get(text + at)))
        at += utf8_length((unsigned char)text[at]);
    return at;
}

status added_tokens_split(const added_tokens *a, bool normalized, bool plain, const char *text,
                          size_t bytes, part_sink sink, void *context) {
    const pattern_set *set = &a->sets[normalized];
    size_t done = 0, i = 0, blank = 0; /* blank: the end of the last white space looked at */
    while (set->count && i < bytes) {
        if (!set->first[(unsigned char)text[i]]) {
            i++;
            continue;
        }
        const added_token *t = longest(set, text + i, bytes - i);
        if (!t) {
            i++;
            continue;
        }
        size_t start = i, end = i + t->pattern_bytes;
        i = end; /* also when it does not count: the library goes on behind it */
        if (plain && t->special) continue;
        if (t->single_word && !stands_alone(text, start, end, bytes)) continue;
        if (t->lstrip) {
            start = spaces_before(text, start, done);
            if (start < done) start = done; /* the token before took them */
        }
        if (t->rstrip) end = blank = end < blank ? blank : spaces_behind(text, end, bytes);
        if (done < start) TRY(sink(context, -1, text + done, start - done));
        TRY(sink(context, t->id, NULL, 0));
        done = end;
    }
    return done < bytes ? sink(context, -1, text + done, bytes - done) : STATUS_OK;
}
