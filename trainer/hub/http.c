/* http.c: see http.h. One attempt is one exchange, or several where the server redirects. */
#include "trainer/hub/http.h"

#include "common/alloc.h"
#include "common/log.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum {
    ATTEMPTS = 6, /* without one more byte: 31 s of pauses */
    REDIRECTS = 8,
    LONGEST_WAIT = 600,        /* seconds; a server that asks for more is not waited for */
    LONGEST_CONNECT = 15,      /* seconds */
    ERROR_PAGE = 256 << 10,    /* bytes of an answer that nobody reads */
    RECEIVE_BUFFER = 256 << 10 /* bytes */
};

struct http {
    const http_settings *settings;
    CURL *curl;
    char origin[HTTP_ORIGIN];   /* the endpoint's */
    struct curl_slist *headers; /* the token's, to be sent to that origin alone */
    char error[CURL_ERROR_SIZE];
    const http_request *q; /* the rest is of the exchange under way */
    http_answer *a;
    bool begun;
    int64_t unread;
    curl_off_t seen;   /* bytes in both directions, and since when there are no more */
    double seen_since; /* seconds */
    bool stalled;
    status failed; /* what begin or take returned */
};

static status out_of_memory(void) {
    return status_fail(STATUS_MEMORY, "out of memory: libcurl");
}

/* ---- addresses ---- */

status http_origin(const char *url, char out[HTTP_ORIGIN]) {
    char *scheme = NULL, *host = NULL, *port = NULL;
    CURLU *u = curl_url();
    CURLUcode e = u ? curl_url_set(u, CURLUPART_URL, url, 0) : CURLUE_OUT_OF_MEMORY;
    if (!e) e = curl_url_get(u, CURLUPART_SCHEME, &scheme, 0);
    if (!e) e = curl_url_get(u, CURLUPART_HOST, &host, 0);
    if (!e) e = curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
    if (e || snprintf(out, HTTP_ORIGIN, "%s://%s:%s", scheme, host, port) >= HTTP_ORIGIN)
        snprintf(out, HTTP_ORIGIN, "no address");
    for (char *c = out; *c; c++) *c = (char)tolower((unsigned char)*c);
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
    return e == CURLUE_OUT_OF_MEMORY ? out_of_memory() : STATUS_OK;
}

/* ---- what the server says about the body ---- */

static int64_t whole_number(const char *text) {
    size_t digits = strspn(text, "0123456789");
    return digits && digits < 18 ? atoll(text) : -1;
}

/* Content-Range: bytes 5-9/10 */
static void read_range(http_answer *a, const char *value) {
    const char *slash = strchr(value, '/');
    if (strncasecmp(value, "bytes ", 6)) return;
    a->first = whole_number(value + 6);
    a->whole = slash ? whole_number(slash + 1) : -1;
}

/* Retry-After: 120; a date, its other form, counts as not said. */
static void read_retry_after(http_answer *a, const char *value) {
    a->wait_seconds = whole_number(value);
}

/* RateLimit: "api";r=0;t=55: nothing remains until 55 seconds from now
 * (draft-ietf-httpapi-ratelimit-headers). */
static void read_rate_limit(http_answer *a, const char *value) {
    const char *remains = strstr(value, ";r=0;t=");
    if (remains && a->wait_seconds < 0) a->wait_seconds = whole_number(remains + 7);
}

/* Link: <https://...>; rel="next" */
static void read_link(http_answer *a, const char *value) {
    const char *end = strchr(value, '>');
    if (*value != '<' || !end || !strstr(end, "rel=\"next\"")) return;
    size_t n = (size_t)(end - value) - 1;
    if (n >= sizeof a->next) return;
    memcpy(a->next, value + 1, n);
    a->next[n] = '\0';
}

static void read_error_code(http_answer *a, const char *value) {
    snprintf(a->error_code, sizeof a->error_code, "%s", value);
}

static void read_error_message(http_answer *a, const char *value) {
    snprintf(a->error_message, sizeof a->error_message, "%s", value);
}

static void read_type(http_answer *a, const char *value) {
    snprintf(a->type, sizeof a->type, "%s", value);
}

static const struct {
    const char *name;
    void (*read)(http_answer *a, const char *value);
} known_headers[] = {
    {"Content-Range", read_range},
    {"Content-Type", read_type},
    {"Link", read_link},
    {"RateLimit", read_rate_limit},
    {"Retry-After", read_retry_after},
    {"X-Error-Code", read_error_code},
    {"X-Error-Message", read_error_message},
};

static void forget_answer(http_answer *a) {
    *a = (http_answer){.length = -1, .first = -1, .whole = -1, .wait_seconds = -1};
}

static size_t on_header(char *data, size_t size, size_t n, void *context) {
    http *h = context;
    char line[4096];
    if (n >= 5 && !strncmp(data, "HTTP/", 5))
        forget_answer(h->a); /* not the one after a 100 */
    if (n >= sizeof line) return n;
    memcpy(line, data, n);
    line[n] = '\0';
    line[strcspn(line, "\r\n")] = '\0';
    char *colon = strchr(line, ':');
    if (!colon) return n;
    *colon = '\0';
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    for (size_t i = 0; i < sizeof known_headers / sizeof *known_headers; i++)
        if (!strcasecmp(line, known_headers[i].name)) known_headers[i].read(h->a, value);
    return n;
}

static bool is_taken(int code) {
    return code == 200 || code == 206;
}

/* Once the headers are there. */
static void begin_body(http *h) {
    long code = 0;
    curl_off_t length = -1;
    curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &code);
    curl_easy_getinfo(h->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    h->a->code = (int)code;
    h->a->length = length;
    h->begun = true;
    if (is_taken(h->a->code)) h->failed = h->q->begin(h->q->context, h->a);
}

/* Returning less than n ends the exchange. */
static size_t on_body(char *data, size_t size, size_t n, void *context) {
    http *h = context;
    if (!h->begun) begin_body(h);
    if (!is_taken(h->a->code)) return (h->unread += (int64_t)n) > ERROR_PAGE ? 0 : n;
    if (h->failed == STATUS_OK) h->failed = h->q->take(h->q->context, data, n);
    return h->failed == STATUS_OK ? n : 0;
}

static bool stop_wanted(const http *h) {
    return h->settings->stop && h->settings->stop(h->settings->stop_context);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* libcurl's own limit on low speed looks at the mean of five seconds, which is too patient
 * with a connection that stands still. */
static int on_progress(void *context, curl_off_t all_down, curl_off_t down, curl_off_t all_up,
                       curl_off_t up) {
    http *h = context;
    if (down + up != h->seen) {
        h->seen = down + up;
        h->seen_since = now();
    }
    h->stalled = now() - h->seen_since > (double)h->settings->stall_seconds;
    return h->stalled || stop_wanted(h);
}

/* ---- one exchange ---- */

static void set_up(http *h) {
    CURL *c = h->curl;
    int64_t stall = h->settings->stall_seconds;
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "nibble");
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->error);
    curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, (long)RECEIVE_BUFFER);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT,
                     (long)(stall < LONGEST_CONNECT ? stall : LONGEST_CONNECT));
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, h);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, h);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, h);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    if (h->settings->authorities)
        curl_easy_setopt(c, CURLOPT_CAINFO, h->settings->authorities);
}

static CURLcode exchange(http *h, const char *url, bool ours) {
    char range[32];
    int64_t from = h->q->from ? h->q->from(h->q->context) : 0;
    snprintf(range, sizeof range, "%lld-", (long long)from);
    forget_answer(h->a);
    h->begun = false;
    h->stalled = false;
    h->unread = h->seen = 0;
    h->seen_since = now();
    h->failed = STATUS_OK;
    *h->error = '\0';
    curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, ours ? h->headers : NULL);
    if (curl_easy_setopt(h->curl, CURLOPT_URL, url) ||
        curl_easy_setopt(h->curl, CURLOPT_RANGE, from > 0 ? range : NULL))
        return CURLE_OUT_OF_MEMORY;
    uint64_t failures = mem_failures();
    CURLcode e = curl_easy_perform(h->curl);
    if (mem_failures() != failures) return CURLE_OUT_OF_MEMORY; /* 7.88 may go on regardless */
    if ((e == CURLE_OK || e == CURLE_WRITE_ERROR) && !h->begun) begin_body(h);
    if (e == CURLE_OK && h->failed == STATUS_OK && is_taken(h->a->code) && h->q->whole &&
        !h->q->whole(h->q->context))
        e = CURLE_PARTIAL_FILE;
    /* a write error is our own doing: h->failed says why, or nobody reads on */
    return e == CURLE_WRITE_ERROR ? CURLE_OK : e;
}

/* Where the answer sends us, checked; NULL in *next when it is no redirect. */
static status find_redirect(http *h, const char *from, char **next) {
    char *target = NULL, to[HTTP_ORIGIN];
    *next = NULL;
    curl_easy_getinfo(h->curl, CURLINFO_REDIRECT_URL, &target);
    if (h->a->code / 100 != 3 || !target) return STATUS_OK;
    TRY(http_origin(target, to));
    bool secure = !strncmp(to, "https://", 8);
    if (!secure && (strncmp(to, "http://", 7) || !strncmp(from, "https://", 8)))
        return status_fail(STATUS_IO, "%s: redirects to %s, which is not followed", from, to);
    *next = mem_strdup(target);
    return *next ? STATUS_OK : STATUS_MEMORY;
}

/* One attempt: exchanges until the answer is no redirect. *url becomes the last address,
 * `origin` its origin. */
static status attempt(http *h, char **url, char origin[HTTP_ORIGIN], CURLcode *e) {
    for (int i = 0; i <= REDIRECTS; i++) {
        char *next;
        TRY(http_origin(*url, origin));
        *e = exchange(h, *url, !strcmp(origin, h->origin));
        if (h->failed != STATUS_OK) return h->failed;
        if (*e != CURLE_OK) return STATUS_OK;
        TRY(find_redirect(h, origin, &next));
        if (!next) return STATUS_OK;
        mem_free(*url);
        *url = next;
    }
    return status_fail(STATUS_IO, "%s: redirects more than %d times", h->settings->endpoint,
                       REDIRECTS);
}

/* ---- patience ---- */

static status interrupted(void) {
    return status_fail(STATUS_INTERRUPTED, "interrupted");
}

static status wait_ms(const http *h, int64_t ms) {
    for (; ms > 0; ms -= 50) {
        struct timespec t = {0, (ms < 50 ? ms : 50) * 1000000};
        if (stop_wanted(h)) return interrupted();
        nanosleep(&t, NULL);
    }
    return STATUS_OK;
}

/* Whether another attempt may end better; else *s says why not. */
static bool may_pass(const http *h, CURLcode e, const char *origin, status *s) {
    *s = STATUS_OK;
    if (h->stalled) return true;
    if (e == CURLE_OK) return h->a->code == 408 || h->a->code == 429 || h->a->code >= 500;
    if (stop_wanted(h))
        *s = interrupted();
    else if (e == CURLE_OUT_OF_MEMORY && mem_failures())
        *s = out_of_memory();
    else if (e == CURLE_PEER_FAILED_VERIFICATION || e == CURLE_SSL_CACERT_BADFILE)
        *s = status_fail(STATUS_IO,
                         "%s: its certificate cannot be checked: %s; install the package "
                         "ca-certificates, or name a file of authorities in SSL_CERT_FILE",
                         origin, *h->error ? h->error : curl_easy_strerror(e));
    else if (e == CURLE_URL_MALFORMAT || e == CURLE_UNSUPPORTED_PROTOCOL)
        *s = status_fail(STATUS_IO, "%s: %s", origin, curl_easy_strerror(e));
    return *s == STATUS_OK;
}

static void describe(const http *h, CURLcode e, char text[400]) {
    if (h->stalled)
        snprintf(text, 400, "stands still for %lld s", (long long)h->settings->stall_seconds);
    else if (e == CURLE_OK)
        snprintf(text, 400, "answers %d%s%s", h->a->code, *h->a->error_message ? ": " : "",
                 h->a->error_message);
    else if (e == CURLE_OUT_OF_MEMORY) /* libcurl's word for it, too */
        snprintf(text, 400, "answers with too long a header");
    else
        snprintf(text, 400, "%s", *h->error ? h->error : curl_easy_strerror(e));
}

/* Before the next attempt, after `failures` of them in a row. */
static status rest(const http *h, CURLcode e, const char *origin, int failures) {
    char why[400];
    int64_t asked = e == CURLE_OK ? h->a->wait_seconds : -1;
    int64_t ms = h->settings->retry_ms << (failures - 1);
    describe(h, e, why);
    if (failures >= ATTEMPTS)
        return status_fail(STATUS_IO, "%s: %s, %d times in a row: try again later", origin,
                           why, failures);
    if (asked > LONGEST_WAIT)
        return status_fail(STATUS_IO, "%s: %s and asks to come again in %lld s", origin, why,
                           (long long)asked);
    if (asked * 1000 > ms) ms = asked * 1000;
    log_info("%s: %s; again in %.1f s", origin, why, (double)ms / 1e3);
    return wait_ms(h, ms);
}

static status get(http *h, char **url) {
    int64_t best = 0;
    for (int failures = 0;;) {
        CURLcode e = CURLE_OK;
        status s;
        char origin[HTTP_ORIGIN];
        mem_free(*url);
        if (!(*url = mem_strdup(h->q->url))) return STATUS_MEMORY;
        TRY(attempt(h, url, origin, &e));
        if (!may_pass(h, e, origin, &s)) return s;
        int64_t at = h->q->from ? h->q->from(h->q->context) : 0;
        failures = at > best ? 1 : failures + 1;
        if (at > best) best = at;
        TRY(rest(h, e, origin, failures));
    }
}

status http_get(http *h, const http_request *q, http_answer *a) {
    char *url = NULL;
    h->q = q;
    h->a = a;
    status s = get(h, &url);
    mem_free(url);
    return s;
}

status http_open(http **out, const http_settings *s) {
    http *h = *out = mem_alloc(sizeof *h, "a connection");
    if (!h) return STATUS_MEMORY;
    h->settings = s;
    h->curl = curl_easy_init();
    bool known = http_origin(s->endpoint, h->origin) == STATUS_OK;
    char *line = s->token ? mem_printf("Authorization: Bearer %s", s->token) : NULL;
    if (line) h->headers = curl_slist_append(NULL, line);
    mem_free(line);
    if (!h->curl || !known || (s->token && !h->headers)) {
        http_close(h);
        *out = NULL;
        return out_of_memory();
    }
    set_up(h);
    return STATUS_OK;
}

void http_close(http *h) {
    if (!h) return;
    curl_easy_cleanup(h->curl);
    curl_slist_free_all(h->headers);
    mem_free(h);
}
