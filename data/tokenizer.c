/* tokenizer.c: see tokenizer.h. The pipeline of the `tokenizers` library:
 *
 *   text -> added tokens -> normalizer -> normalized added tokens -> pre-tokenizer -> BPE ->
 * ids
 *
 * in which every stage hands its parts on as they come. What a call writes to is a workspace,
 * borrowed from the tokenizer for the call, so that buffers are kept from one text to the next
 * and any number of threads may encode at once. */
#include "data/tokenizer.h"
#include "common/alloc.h"
#include "common/file.h"
#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/decode.h"
#include "data/normalize.h"
#include "data/postprocess.h"
#include "data/pretokenize.h"
#include "data/tokenizer_config.h"
#include "data/unicode.h"

#include <pthread.h>
#include <string.h>

enum { LIMIT = 256 << 20 }; /* bytes of tokenizer.json */

typedef struct workspace {
    struct workspace *next;
    regex_scratch *regex;
    normalizer_scratch normal;
    pretokenizer_scratch pieces;
    bpe_scratch symbols;
} workspace;

struct tokenizer {
    normalizer *normalizer;
    pretokenizer *pretokenizer;
    bpe *model;
    added_tokens *added;
    postprocessor post;
    decoder *decoder;
    tokenizer_config config;
    int32_t size;
    int32_t special[ROLES]; /* ids, -1 when absent */
    pthread_mutex_t lock;
    workspace *idle; /* under the lock */
};

status id_list_append(id_list *list, const int32_t *items, size_t n) {
    if (list->count + n > list->capacity &&
        mem_grow(&list->items, &list->capacity, list->count + n, sizeof *items, "token ids"))
        return STATUS_MEMORY;
    if (n) memcpy(list->items + list->count, items, n * sizeof *items);
    list->count += n;
    return STATUS_OK;
}

/* ---- workspaces ---- */

static void workspace_close(workspace *w) {
    if (!w) return;
    regex_scratch_close(w->regex);
    normalizer_scratch_free(&w->normal);
    pretokenizer_scratch_free(&w->pieces);
    bpe_scratch_free(&w->symbols);
    mem_free(w);
}

static status workspace_take(const tokenizer *t, workspace **out) {
    tokenizer *shared = (tokenizer *)t; /* only the list of idle workspaces changes */
    pthread_mutex_lock(&shared->lock);
    workspace *w = *out = shared->idle;
    if (w) shared->idle = w->next;
    pthread_mutex_unlock(&shared->lock);
    if (w) return STATUS_OK;
    w = mem_alloc(sizeof *w, "a tokenizer's workspace");
    if (!w) return STATUS_MEMORY;
    status s = regex_scratch_open(&w->regex);
    if (s != STATUS_OK) {
        workspace_close(w);
        return s;
    }
    w->normal.regex = w->pieces.regex = w->regex;
    *out = w;
    return STATUS_OK;
}

/* After a long text the buffers are not kept. */
static void workspace_give(const tokenizer *t, workspace *w, size_t bytes) {
    enum { KEPT = 1 << 20 };
    if (bytes > KEPT) {
        workspace_close(w);
        return;
    }
    tokenizer *shared = (tokenizer *)t;
    pthread_mutex_lock(&shared->lock);
    w->next = shared->idle;
    shared->idle = w;
    pthread_mutex_unlock(&shared->lock);
}

/* ---- opening ---- */

static status read_pipeline(tokenizer *t, const json_t *json) {
    const json_t *model = json_object_get(json, "model");
    bool fallback = false;
    if (!json_is_object(model))
        return status_fail(STATUS_MODEL, "\"model\" must be an object, it is %s",
                           json_type_name(model));
    TRY(normalizer_open(&t->normalizer, json_object_get(json, "normalizer")));
    TRY(pretokenizer_open(&t->pretokenizer, json_object_get(json, "pre_tokenizer"), true));
    TRY(postprocessor_read(&t->post, json_object_get(json, "post_processor")));
    TRY(text_decoder_open(&t->decoder, json_object_get(json, "decoder")));
    /* <0xNN> stand for the bytes of the alphabet's characters then: no short cut for that */
    TRY(json_get_bool(model, "byte_fallback", &fallback, "model", STATUS_MODEL));
    if (fallback) pretokenizer_forbid_bytes(t->pretokenizer);
    return bpe_open(&t->model, model, pretokenizer_gives_bytes(t->pretokenizer));
}

/* Ids that the post-processor adds are written into the file apart from the vocabulary. */
static status check_added_ids(const tokenizer *t, const id_list *ids) {
    for (size_t i = 0; i < ids->count; i++)
        if (!tokenizer_token(t, ids->items[i]))
            return status_fail(
                STATUS_MODEL, "post_processor: adds the id %d, which is not in the vocabulary",
                ids->items[i]);
    return STATUS_OK;
}

static status seal_tokens(tokenizer *t) {
    workspace *w;
    TRY(workspace_take(t, &w));
    status s = added_tokens_seal(t->added, t->normalizer, &w->normal);
    workspace_give(t, w, 0);
    TRY(s);
    t->size = bpe_tokens(t->model)->size;
    for (size_t i = 0; i < added_tokens_count(t->added); i++) {
        const added_token *a = added_tokens_at(t->added, i);
        if (a->id >= t->size) t->size = a->id + 1;
        if (a->special) bpe_mark_control(t->model, a->id);
    }
    bpe_seal(t->model);
    for (int i = 0; i < ROLES; i++)
        t->special[i] = t->config.special[i] ? tokenizer_id(t, t->config.special[i]) : -1;
    TRY(check_added_ids(t, &t->post.before));
    return check_added_ids(t, &t->post.after);
}

static status read_json(tokenizer *t, const char *path) {
    json_t *json = NULL;
    TRY(json_read_file(path, LIMIT, STATUS_MODEL, &json));
    status s = read_pipeline(t, json);
    if (s == STATUS_OK) s = added_tokens_open(&t->added, t->model);
    if (s == STATUS_OK)
        s = added_tokens_read(t->added, json_object_get(json, "added_tokens"),
                              "tokenizer.json");
    json_decref(json);
    if (s == STATUS_OK) s = tokenizer_config_add_tokens(&t->config, t->added);
    if (s == STATUS_OK) s = seal_tokens(t);
    return s == STATUS_MODEL ? status_prefix(s, "%s", path) : s;
}

/* A folder in an older form needs one line of Python. */
static status explain_missing(const char *folder) {
    static const char *const older[] = {"tokenizer.model", "vocab.json", "spiece.model"};
    for (int i = 0; i < 3; i++) {
        char *path = file_join(folder, older[i]);
        if (!path) return STATUS_MEMORY;
        bool there = file_exists(path);
        mem_free(path);
        if (there)
            return status_fail(
                STATUS_MODEL,
                "%s: has %s but no tokenizer.json; write one with: python -c \"from "
                "transformers import AutoTokenizer; "
                "AutoTokenizer.from_pretrained('%s').save_pretrained('%s')\"",
                folder, older[i], folder, folder);
    }
    return status_fail(
        STATUS_MODEL,
        "%s: has no tokenizer.json: copy the model's tokenizer files (tokenizer.json, "
        "tokenizer_config.json) into the folder",
        folder);
}

static status read_folder(tokenizer *t, const char *folder) {
    char *path = file_join(folder, "tokenizer.json");
    if (!path) return STATUS_MEMORY;
    status s = file_exists(path) ? tokenizer_config_read(&t->config, folder)
                                 : explain_missing(folder);
    if (s == STATUS_OK) s = read_json(t, path);
    mem_free(path);
    return s;
}

status tokenizer_open(tokenizer **out, const char *folder) {
    *out = NULL;
    unicode_setup();
    tokenizer *t = mem_alloc(sizeof *t, "a tokenizer");
    if (!t) return STATUS_MEMORY;
    pthread_mutex_init(&t->lock, NULL);
    status s = read_folder(t, folder);
    if (s != STATUS_OK)
        tokenizer_close(t);
    else
        *out = t;
    return s;
}

void tokenizer_close(tokenizer *t) {
    if (!t) return;
    while (t->idle) {
        workspace *w = t->idle;
        t->idle = w->next;
        workspace_close(w);
    }
    pthread_mutex_destroy(&t->lock);
    normalizer_close(t->normalizer);
    pretokenizer_close(t->pretokenizer);
    bpe_close(t->model);
    added_tokens_close(t->added);
    postprocessor_free(&t->post);
    text_decoder_close(t->decoder);
    tokenizer_config_free(&t->config);
    mem_free(t);
}

/* ---- encoding ---- */

typedef struct encoding {
    const tokenizer *t;
    workspace *w;
    const char *text; /* the user's */
    bool plain, inside;
    bool at_start; /* of the part that is being normalized */
    id_list *out;
} encoding;

static status encode_piece(void *context, const char *piece, size_t bytes) {
    encoding *e = context;
    return bpe_encode(e->t->model, &e->w->symbols, piece, bytes, e->plain, e->out);
}

static status encode_normalized(void *context, int32_t id, const char *text, size_t bytes) {
    encoding *e = context;
    if (id >= 0) {
        e->at_start = false;
        return id_list_append(e->out, &id, 1);
    }
    bool at_start = e->at_start;
    e->at_start = false;
    return pretokenize(e->t->pretokenizer, &e->w->pieces, text, bytes, at_start, encode_piece,
                       e);
}

static status encode_part(void *context, int32_t id, const char *text, size_t bytes) {
    encoding *e = context;
    if (id >= 0) return id_list_append(e->out, &id, 1);
    bool moved = false;
    e->at_start = text == e->text && !e->inside;
    TRY(normalizer_apply(e->t->normalizer, &e->w->normal, text, bytes, &text, &bytes, &moved));
    if (moved) e->at_start = false;
    return added_tokens_split(e->t->added, true, e->plain, text, bytes, encode_normalized, e);
}

static status encode(encoding *e, size_t bytes, bool special) {
    const postprocessor *p = &e->t->post;
    if (special) TRY(id_list_append(e->out, p->before.items, p->before.count));
    TRY(added_tokens_split(e->t->added, false, e->plain, e->text, bytes, encode_part, e));
    return special ? id_list_append(e->out, p->after.items, p->after.count) : STATUS_OK;
}

status tokenizer_encode(const tokenizer *t, const char *text, size_t bytes, unsigned flags,
                        id_list *out) {
    size_t valid = utf8_valid(text, bytes), before = out->count;
    if (valid != bytes)
        return status_fail(STATUS_DATA, "the text is not valid UTF-8 at byte %zu", valid);
    encoding e = {.t = t,
                  .text = text,
                  .plain = flags & TOKENIZER_PLAIN_TEXT,
                  .inside = flags & TOKENIZER_INSIDE,
                  .out = out};
    TRY(workspace_take(t, &e.w));
    status s = encode(&e, bytes, flags & TOKENIZER_ADD_SPECIAL);
    workspace_give(t, e.w, bytes);
    if (s != STATUS_OK) out->count = before;
    return s;
}

/* ---- decoding ---- */

/* The text of an id as the decoder gets it; NULL when there is none. */
static const char *decoded_text(const tokenizer *t, int32_t id, size_t *bytes) {
    const added_token *a = added_tokens_by_id(t->added, id);
    if (a) {
        *bytes = a->pattern_bytes;
        return a->pattern;
    }
    const vocabulary *v = bpe_tokens(t->model);
    return vocabulary_has(v, id) ? vocabulary_key(v, id, bytes) : NULL;
}

/* Whether decoding skips a token: the library asks for its text, normalized as it may be. */
static bool skipped(const tokenizer *t, const char *text, size_t bytes) {
    const added_token *a = added_tokens_by_content(t->added, text, bytes);
    return a && a->special;
}

static status decode(const tokenizer *t, workspace *w, const int32_t *ids, size_t n,
                     bool skip_special, text_list *tokens, text_list *scratch) {
    for (size_t i = 0; i < n; i++) {
        size_t bytes = 0;
        const char *text = decoded_text(t, ids[i], &bytes);
        if (!text && skip_special)
            continue; /* a model's vocabulary may be padded beyond ours */
        if (!text) return status_fail(STATUS_DATA, "id %d is not in the vocabulary", ids[i]);
        if (!skip_special || !skipped(t, text, bytes)) TRY(text_list_add(tokens, text, bytes));
    }
    TRY(decoder_apply(t->decoder, w->regex, tokens, scratch));
    return text_append(&tokens->text, "", 1);
}

status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                        char **out, size_t *bytes) {
    text_list tokens = {0}, scratch = {0};
    workspace *w;
    *out = NULL;
    TRY(workspace_take(t, &w));
    status s = decode(t, w, ids, n, skip_special, &tokens, &scratch);
    workspace_give(t, w, 0);
    if (s == STATUS_OK) {
        *out = tokens.text.data;
        if (bytes) *bytes = tokens.text.bytes - 1;
        tokens.text.data = NULL;
    }
    text_list_free(&tokens);
    text_list_free(&scratch);
    return s;
}

/* ---- asking ---- */

int32_t tokenizer_size(const tokenizer *t) {
    return t->size;
}

int32_t tokenizer_id(const tokenizer *t, const char *token) {
    const added_token *a = added_tokens_by_content(t->added, token, strlen(token));
    return a ? a->id : vocabulary_find(bpe_tokens(t->model), token, strlen(token));
}

const char *tokenizer_token(const tokenizer *t, int32_t id) {
    const added_token *a = added_tokens_by_id(t->added, id);
    if (a) return a->content;
    const vocabulary *v = bpe_tokens(t->model);
    return vocabulary_has(v, id) ? vocabulary_key(v, id, NULL) : NULL;
}

bool tokenizer_is_special(const tokenizer *t, int32_t id) {
    const added_token *a = added_tokens_by_id(t->added, id);
    return a && a->special;
}

void tokenizer_strips(const tokenizer *t, int32_t id, bool *left, bool *right) {
    const added_token *a = added_tokens_by_id(t->added, id);
    *left = a && a->lstrip;
    *right = a && a->rstrip;
}

int32_t tokenizer_bos(const tokenizer *t) {
    return t->special[ROLE_BOS];
}
int32_t tokenizer_eos(const tokenizer *t) {
    return t->special[ROLE_EOS];
}
int32_t tokenizer_pad(const tokenizer *t) {
    return t->special[ROLE_PAD];
}
int32_t tokenizer_unk(const tokenizer *t) {
    return t->special[ROLE_UNK];
}

bool tokenizer_adds_bos(const tokenizer *t) {
    return t->post.before.count && t->post.before.items[0] == tokenizer_bos(t);
}

const char *tokenizer_chat_template(const tokenizer *t) {
    return t->config.chat_template;
}
