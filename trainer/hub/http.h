/* http.h: GET over HTTP through libcurl, patient and suspicious. One http is one thread's
 * connections, kept open between requests.
 *
 * Patient: an answer of 408, 429 or 5xx, a connection that cannot be made, is cut or stands
 * still is tried again, after 1, 2, 4 ... seconds or what Retry-After says, going on where it
 * stopped. It gives up after as many attempts without one more byte as stand in http.c.
 * Suspicious: redirects are followed by hand, so that the token goes to the endpoint's own
 * scheme, host and port and nowhere else, and from https never to http.
 *
 * From the environment, as the Python library has them: HF_ENDPOINT; HF_TOKEN, else the file
 * HF_TOKEN_PATH or HF_HOME/token; HF_HUB_DOWNLOAD_TIMEOUT, the seconds that a connection may
 * stand still (30); and, as curl and OpenSSL have them, https_proxy, no_proxy,
 * CURL_CA_BUNDLE, REQUESTS_CA_BUNDLE, SSL_CERT_FILE. For tests: NIBBLE_RETRY_MS, the first
 * pause in milliseconds (1000). */
#ifndef NIBBLE_TRAINER_HUB_HTTP_H
#define NIBBLE_TRAINER_HUB_HTTP_H

#include "common/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What all threads share; read-only once open. */
typedef struct http_settings {
    char *endpoint;           /* without a slash at its end */
    char *token;              /* NULL: none */
    const char *token_source; /* for messages: "HF_TOKEN" or the file's kind */
    const char *authorities;  /* a file of certificates, NULL: the system's */
    int64_t stall_seconds, retry_ms;
    bool (*stop)(void *context); /* asked once a second or more often */
    void *stop_context;
} http_settings;

/* Reads the environment and sets libcurl up: once, before any thread. STATUS_USAGE for values
 * that cannot be meant. Close it in any case. */
status http_settings_open(http_settings *s, bool (*stop)(void *), void *context);
void http_settings_close(http_settings *s);

/* What came back; texts are cut to their fields. */
typedef struct http_answer {
    int code;
    int64_t length;                          /* of the body, -1: not said */
    int64_t first, whole;                    /* of Content-Range, -1: not said */
    int64_t wait_seconds;                    /* of Retry-After or RateLimit, -1: not said */
    char error_code[48], error_message[200]; /* X-Error-Code, X-Error-Message */
    char type[64];                           /* Content-Type */
    char next[2048];                         /* Link: <...>; rel="next" */
} http_answer;

/* A request and who takes its body. For an attempt that is answered with 200 or 206 `begin` is
 * called once, then `take` for each piece. What they return, if not STATUS_OK, ends the
 * request. */
typedef struct http_request {
    const char *url;
    int64_t (*from)(void *context); /* the first byte wanted; NULL: 0 */
    status (*begin)(void *context, const http_answer *a);
    status (*take)(void *context, const void *data, size_t bytes);
    bool (*whole)(
        void *context); /* false: the body was cut, though nobody noticed; NULL: true */
    void *context;
} http_request;

typedef struct http http;
status http_open(http **out, const http_settings *s);
void http_close(http *h); /* NULL is fine */

/* STATUS_OK with a->code when the server has said 200, 206 or what no patience changes (4xx);
 * STATUS_IO when it could not be asked, STATUS_INTERRUPTED when `stop` says so. */
status http_get(http *h, const http_request *q, http_answer *a);

/* scheme://host:port of a URL, in lower case: whom a token is for, and what messages show,
 * which must not hold a signed URL. "no address" where it is none; fails only by
 * STATUS_MEMORY. */
enum { HTTP_ORIGIN = 300 };
status http_origin(const char *url, char out[HTTP_ORIGIN]);

#endif
