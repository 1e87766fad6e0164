/* listing.c: see listing.h. */
#include "trainer/hub/listing.h"

#include "common/alloc.h"
#include "common/checked.h"
#include "common/json.h"

#include <stdlib.h>
#include <string.h>

enum {
    PAGE_BYTES = 64 << 20, /* of one answer: that of the commit names each file, too */
    FILES = 500000,        /* in a repository */
    PAGES = 5000
};

status hub_code(const hub_place *p) {
    return p->kind == HUB_MODEL ? STATUS_MODEL : STATUS_DATA;
}

const char *hub_flag(const hub_place *p) {
    return p->kind == HUB_MODEL ? "" : " --dataset";
}

/* ---- addresses ---- */

/* Percent-encoded (RFC 3986), but for letters, digits, -._~ and those in `plain`. */
static char *encode(const char *text, const char *plain) {
    char *out = mem_alloc(3 * strlen(text) + 1, "an address");
    if (!out) return NULL;
    char *to = out;
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        bool word = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                    (*c >= '0' && *c <= '9') || strchr("-._~", *c);
        if (word || strchr(plain, *c))
            *to++ = (char)*c;
        else {
            *to++ = '%';
            *to++ = "0123456789ABCDEF"[*c >> 4];
            *to++ = "0123456789ABCDEF"[*c & 15];
        }
    }
    return out;
}

static char *api_url(const http_settings *settings, const hub_place *p, const char *what,
                     const char *revision, const char *query) {
    char *word = encode(revision, "");
    char *url = word ? mem_printf("%s/api/%s/%s/%s/%s%s", settings->endpoint,
                                  p->kind == HUB_MODEL ? "models" : "datasets", p->name, what,
                                  word, query)
                     : NULL;
    mem_free(word);
    return url;
}

char *hub_file_url(const http_settings *settings, const hub_place *p, const char *commit,
                   const char *path) {
    char *words = encode(path, "/");
    char *url =
        words ? mem_printf("%s/%s%s/resolve/%s/%s", settings->endpoint,
                           p->kind == HUB_MODEL ? "" : "datasets/", p->name, commit, words)
              : NULL;
    mem_free(words);
    return url;
}

/* ---- refusals ---- */

static status refused_gated(const http_settings *settings, const hub_place *p) {
    return status_fail(
        hub_code(p), "%s is gated: ask for access on its page, %s/%s%s, and then %s", p->name,
        settings->endpoint, p->kind == HUB_MODEL ? "" : "datasets/", p->name,
        settings->token ? "try again; the token that is sent must be of that account and "
                          "allow reading gated repositories"
                        : "set HF_TOKEN to a token of that account");
}

static status refused_token(const http_settings *settings, const hub_place *p) {
    return status_fail(hub_code(p),
                       "%s: the hub does not accept %s: make a new token, or unset it for "
                       "what is public",
                       p->name, settings->token_source);
}

static status refused_missing(const http_settings *settings, const hub_place *p) {
    return status_fail(
        hub_code(p), "%s: no such %s at %s, or it is private: check the name%s%s", p->name,
        p->kind == HUB_MODEL ? "model" : "dataset", settings->endpoint,
        p->kind == HUB_MODEL ? " (a dataset needs --dataset)" : "",
        settings->token ? "; the token that is sent does not open it"
                        : "; for a private one set HF_TOKEN to a token that may read it");
}

status hub_refused(const http_settings *settings, const hub_place *p, const char *revision,
                   const http_answer *a) {
    const char *code = a->error_code;
    if (!strcmp(code, "GatedRepo")) return refused_gated(settings, p);
    if (!strcmp(code, "RevisionNotFound"))
        return status_fail(hub_code(p), "%s has no revision \"%s\"", p->name, revision);
    if (!strcmp(code, "EntryNotFound"))
        return status_fail(hub_code(p), "%s: the hub lists a file that it does not have",
                           p->name);
    if (settings->token && strstr(a->error_message, "Invalid credentials"))
        return refused_token(settings, p);
    if (!strcmp(code, "RepoNotFound") || a->code == 401 || a->code == 404)
        return refused_missing(settings, p);
    return status_fail(a->code == 403 ? hub_code(p) : STATUS_IO, "%s: %s answers %d%s%s",
                       p->name, settings->endpoint, a->code, *a->error_message ? ": " : "",
                       a->error_message);
}

/* ---- one answer in JSON ---- */

typedef struct page {
    char *text;
    size_t bytes, capacity;
} page;

static status begin_page(void *context, const http_answer *a) {
    page *p = context;
    p->bytes = 0;
    return STATUS_OK;
}

static status add_to_page(void *context, const void *data, size_t bytes) {
    page *p = context;
    if (bytes > PAGE_BYTES - p->bytes)
        return status_fail(STATUS_IO, "the hub's answer is longer than %d bytes", PAGE_BYTES);
    if (mem_grow(&p->text, &p->capacity, p->bytes + bytes + 1, 1, "the hub's answer"))
        return STATUS_MEMORY;
    memcpy(p->text + p->bytes, data, bytes);
    p->bytes += bytes;
    return STATUS_OK;
}

/* A web page instead of JSON: a proxy's, a login's, or no hub at all. */
static status no_json(const http_settings *settings, const page *p, const http_answer *a) {
    char start[41] = "";
    size_t n = p->bytes < 40 ? p->bytes : 40;
    if (n) memcpy(start, p->text, n);
    start[n] = '\0';
    return status_fail(STATUS_IO,
                       "%s: no hub answers there, or something in between: its answer is no "
                       "JSON but %s (\"%s\")",
                       settings->endpoint, *a->type ? a->type : "untyped", start);
}

static status ask(http *h, const http_settings *settings, const hub_place *p,
                  const char *revision, const char *url, http_answer *a, json_t **out) {
    page body = {0};
    http_request q = {.url = url, .begin = begin_page, .take = add_to_page, .context = &body};
    *out = NULL;
    status s = http_get(h, &q, a);
    if (s == STATUS_OK && a->code != 200) s = hub_refused(settings, p, revision, a);
    json_error_t e;
    if (s == STATUS_OK) s = json_parse(body.text ? body.text : "", body.bytes, 0, &e, out);
    if (s == STATUS_OK && !*out) s = no_json(settings, &body, a);
    mem_free(body.text);
    return s;
}

/* ---- the commit ---- */

static status wrong(const hub_place *p, const char *what) {
    return status_fail(STATUS_IO, "%s: the hub's answer has %s", p->name, what);
}

static status find_commit(http *h, const http_settings *settings, const hub_place *p,
                          const char *revision, char commit[41]) {
    if (hub_is_commit(revision)) {
        memcpy(commit, revision, 41);
        return STATUS_OK;
    }
    char *url = api_url(settings, p, "revision", revision, "");
    http_answer a;
    json_t *info = NULL;
    status s = url ? ask(h, settings, p, revision, url, &a, &info) : STATUS_MEMORY;
    const char *sha = json_string_value(json_object_get(info, "sha"));
    if (s == STATUS_OK && (!sha || !hub_is_commit(sha)))
        s = wrong(p, "no commit (\"sha\": 40 hexadecimal digits)");
    if (s == STATUS_OK) memcpy(commit, sha, 41);
    json_decref(info);
    mem_free(url);
    return s;
}

/* ---- the files ---- */

static bool is_hash(const char *text, size_t digits) {
    return text && strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}

/* One entry of a page; folders are passed over. */
static status add_file(const hub_place *p, const json_t *entry, hub_listing *l) {
    const char *type = json_string_value(json_object_get(entry, "type"));
    const char *path = json_string_value(json_object_get(entry, "path"));
    const json_t *lfs = json_object_get(entry, "lfs");
    bool in_lfs = json_is_object(lfs);
    const json_t *from = in_lfs ? lfs : entry;
    const char *id = json_string_value(json_object_get(from, "oid"));
    const json_t *size = json_object_get(from, "size");
    if (type && strcmp(type, "file")) return STATUS_OK;
    if (!type || !path) return wrong(p, "an entry without type or path");
    if (!hub_is_path(path))
        return status_fail(STATUS_IO, "%s: \"%s\" is no name for a file: nothing is fetched",
                           p->name, path);
    if (!is_hash(id, in_lfs ? 64 : 40))
        return status_fail(STATUS_IO, "%s: %s: the hub states no hash of it", p->name, path);
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return status_fail(STATUS_IO, "%s: %s: the hub states no size of it", p->name, path);
    if (l->count >= FILES)
        return status_fail(STATUS_IO, "%s: has more than %d files", p->name, FILES);
    if (mem_grow(&l->files, &l->capacity, l->count + 1, sizeof *l->files, "a list of files"))
        return STATUS_MEMORY;
    hub_file *f = &l->files[l->count];
    *f = (hub_file){mem_strdup(path), json_integer_value(size), in_lfs, ""};
    memcpy(f->id, id, strlen(id) + 1);
    if (!f->path) return STATUS_MEMORY;
    l->count++;
    return STATUS_OK;
}

static status add_page(const hub_place *p, const json_t *entries, hub_listing *l) {
    size_t i;
    json_t *entry;
    if (!json_is_array(entries)) return wrong(p, "no list of files");
    json_array_foreach((json_t *)entries, i, entry) TRY(add_file(p, entry, l));
    return STATUS_OK;
}

/* All pages. Of the next one's address only the query is taken: it is asked where the first
 * was, whatever host the server believes itself to be. */
static status read_tree(http *h, const http_settings *settings, const hub_place *p,
                        const char *revision, hub_listing *l) {
    char query[2048] = "?recursive=true&expand=false";
    for (int i = 0; i < PAGES; i++) {
        char *url = api_url(settings, p, "tree", l->commit, query);
        http_answer a;
        json_t *entries = NULL;
        status s = url ? ask(h, settings, p, revision, url, &a, &entries) : STATUS_MEMORY;
        if (s == STATUS_OK) s = add_page(p, entries, l);
        json_decref(entries);
        mem_free(url);
        TRY(s);
        const char *next = strchr(a.next, '?');
        if (!next) return STATUS_OK;
        memcpy(query, next, strlen(next) + 1);
    }
    return wrong(p, "too many pages");
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const hub_file *)a)->path, ((const hub_file *)b)->path);
}

static status check_together(const hub_place *p, hub_listing *l) {
    int64_t bytes = 0;
    if (l->count) qsort(l->files, l->count, sizeof *l->files, by_path);
    for (size_t i = 0; i < l->count; i++) {
        if (i && !strcmp(l->files[i - 1].path, l->files[i].path))
            return status_fail(STATUS_IO, "%s: the hub lists %s twice", p->name,
                               l->files[i].path);
        if (!checked_add_i64(bytes, l->files[i].size, &bytes))
            return wrong(p, "sizes that cannot be");
    }
    return STATUS_OK;
}

status hub_list(http *h, const http_settings *settings, const hub_place *p,
                const char *revision, hub_listing *out) {
    *out = (hub_listing){0};
    TRY(find_commit(h, settings, p, revision, out->commit));
    TRY(read_tree(h, settings, p, revision, out));
    return check_together(p, out);
}

void hub_listing_close(hub_listing *l) {
    for (size_t i = 0; i < l->count; i++) mem_free(l->files[i].path);
    mem_free(l->files);
    *l = (hub_listing){0};
}
