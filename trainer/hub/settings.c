/* settings.c: what http.h's settings take from the environment, and libcurl's own set-up. */
#include "trainer/hub/http.h"

#include "common/alloc.h"
#include "common/file.h"
#include "trainer/hub/cache.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

/* Where the hub is unless HF_ENDPOINT says otherwise: the only host name in this program. */
#define DEFAULT_ENDPOINT "https://huggingface.co"

/* ---- libcurl's memory is accounted like ours ---- */

static void *curl_take(size_t bytes) {
    return mem_alloc(bytes, "libcurl");
}

static void *curl_resize(void *block, size_t bytes) {
    return mem_resize(block, bytes, "libcurl");
}

static void *curl_take_array(size_t n, size_t size) {
    return mem_alloc_array(n, size, "libcurl");
}

static status set_up_curl(void) {
    if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, curl_take, mem_free, curl_resize, mem_strdup,
                             curl_take_array) != CURLE_OK)
        return status_fail(STATUS_INTERNAL, "libcurl cannot be set up");
    return STATUS_OK;
}

/* ---- the environment ---- */

/* A number of at most seven digits; `standard` where the variable is not set. */
static status number(const char *name, int64_t standard, int64_t *out) {
    const char *value = hub_variable(name);
    *out = standard;
    if (!value) return STATUS_OK;
    size_t digits = strspn(value, "0123456789");
    if (value[digits] || digits > 7 || !(*out = atoll(value)))
        return status_fail(STATUS_USAGE, "%s=%s: must be a whole number above 0", name, value);
    return STATUS_OK;
}

static status set_endpoint(http_settings *s) {
    const char *value = hub_variable("HF_ENDPOINT");
    if (!value) value = DEFAULT_ENDPOINT;
    size_t n = strlen(value);
    while (n && value[n - 1] == '/') n--;
    s->endpoint = mem_strndup(value, n);
    if (!s->endpoint) return STATUS_MEMORY;
    char origin[HTTP_ORIGIN];
    TRY(http_origin(s->endpoint, origin));
    bool plain = strcspn(s->endpoint, "?# \t\r\n") == n;
    if (!plain || (strncmp(origin, "http://", 7) && strncmp(origin, "https://", 8)))
        return status_fail(STATUS_USAGE,
                           "HF_ENDPOINT=%s: must be an address such as https://host", value);
    return STATUS_OK;
}

/* Without spaces and line ends around it; a token with others in it would be a header of its
 * own. */
static status take_token(http_settings *s, const char *text, const char *source) {
    size_t skip = strspn(text, " \t\r\n"), n = strlen(text + skip);
    while (n && strchr(" \t\r\n", text[skip + n - 1])) n--;
    if (!n) return STATUS_OK;
    for (size_t i = 0; i < n; i++)
        if (text[skip + i] <= ' ' || text[skip + i] >= 0x7f)
            return status_fail(STATUS_USAGE, "%s: holds what cannot be a token", source);
    s->token = mem_strndup(text + skip, n);
    s->token_source = source;
    return s->token ? STATUS_OK : STATUS_MEMORY;
}

static status read_token_file(http_settings *s, const char *path) {
    char *text = NULL;
    if (!file_exists(path)) return STATUS_OK;
    TRY(file_read_all(path, 4096, &text, NULL));
    status r = take_token(s, text, "the token that was stored by a login");
    mem_free(text);
    return r;
}

static status set_token(http_settings *s) {
    static const char *const names[] = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"};
    if (hub_variable_is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return STATUS_OK;
    for (size_t i = 0; i < 2; i++) {
        const char *value = hub_variable(names[i]);
        if (value) TRY(take_token(s, value, names[i]));
        if (s->token) return STATUS_OK;
    }
    const char *named = hub_variable("HF_TOKEN_PATH");
    if (named) return read_token_file(s, named);
    char *home = hub_home(), *path = home ? file_join(home, "token") : NULL;
    status r = path ? read_token_file(s, path) : STATUS_MEMORY;
    mem_free(path);
    mem_free(home);
    return r;
}

static const char *authorities(void) {
    static const char *const names[] = {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE",
                                        "SSL_CERT_FILE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (hub_variable(names[i])) return hub_variable(names[i]);
    return NULL;
}

status http_settings_open(http_settings *s, bool (*stop)(void *), void *context) {
    *s = (http_settings){.stop = stop, .stop_context = context, .authorities = authorities()};
    TRY(set_up_curl());
    TRY(number("HF_HUB_DOWNLOAD_TIMEOUT", 30, &s->stall_seconds));
    TRY(number("NIBBLE_RETRY_MS", 1000, &s->retry_ms));
    TRY(set_endpoint(s));
    return set_token(s);
}

void http_settings_close(http_settings *s) {
    mem_free(s->endpoint);
    mem_free(s->token);
    *s = (http_settings){0};
    curl_global_cleanup();
}
