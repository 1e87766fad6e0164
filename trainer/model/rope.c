/* rope.c: reading and computing of rope.h. The comments name transformers' functions. */
#include "trainer/model/rope.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    rope_kind kind;
} kinds[] = {
    {"default", ROPE_DEFAULT}, {"linear", ROPE_LINEAR},   {"llama3", ROPE_LLAMA3},
    {"yarn", ROPE_YARN},       {"dynamic", ROPE_DYNAMIC},
};

static status find_kind(const char *name, const char *where, rope_kind *out) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, name)) {
            *out = kinds[i].kind;
            return STATUS_OK;
        }
    return status_fail(
        STATUS_MODEL,
        "%s: rope type \"%.64s\" is not supported; supported are default, linear, "
        "llama3, yarn and dynamic",
        where, name);
}

/* The object that says how to scale: rope_scaling wins where both stand, as there. NULL: none.
 */
static status find_parameters(const json_t *config, const char *where, const json_t **out) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    *out = NULL;
    for (int i = 0; i < 2 && !*out; i++) {
        const json_t *v = json_object_get(config, keys[i]);
        if (!v || json_is_null(v)) continue;
        if (!json_is_object(v))
            return status_fail(STATUS_MODEL, "%s: %s must be an object, it is %s", where,
                               keys[i], json_type_name(v));
        if (json_object_size(v)) *out = v;
    }
    const char *key;
    json_t *value;
    if (!*out) return STATUS_OK;
    json_object_foreach((json_t *)*out, key, value) {
        if (json_is_object(value))
            return status_fail(STATUS_MODEL,
                               "%s: rope parameters per layer type (%.64s) are not supported",
                               where, key);
    }
    return STATUS_OK;
}

static status check_range(double x, double low, double high, const char *name,
                          const char *where) {
    if (x >= low && x <= high) return STATUS_OK; /* false for NaN */
    return status_fail(STATUS_MODEL, "%s: %s is %g; it must be in %g .. %g", where, name, x,
                       low, high);
}

/* A number that this kind of scaling cannot do without. */
static status need_real(const json_t *o, const char *key, double *out, const char *where) {
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v))
        return status_fail(STATUS_MODEL, "%s: the rope parameters lack %s", where, key);
    return json_get_real(o, key, out, where, STATUS_MODEL);
}

static status read_llama3(const json_t *p, const char *where, rope_config *r) {
    TRY(need_real(p, "low_freq_factor", &r->low, where));
    TRY(need_real(p, "high_freq_factor", &r->high, where));
    TRY(check_range(r->low, 1e-6, 1e6, "low_freq_factor", where));
    TRY(check_range(r->high, 1e-6, 1e6, "high_freq_factor", where));
    if (r->high > r->low) return STATUS_OK;
    return status_fail(STATUS_MODEL, "%s: high_freq_factor %g is not above low_freq_factor %g",
                       where, r->high, r->low);
}

static status read_yarn(const json_t *p, const char *where, rope_config *r) {
    r->beta_fast = r->beta_slow = 0;
    r->truncate = true;
    TRY(json_get_real(p, "attention_factor", &r->attention, where, STATUS_MODEL));
    TRY(json_get_real(p, "mscale", &r->mscale, where, STATUS_MODEL));
    TRY(json_get_real(p, "mscale_all_dim", &r->mscale_all, where, STATUS_MODEL));
    TRY(json_get_real(p, "beta_fast", &r->beta_fast, where, STATUS_MODEL));
    TRY(json_get_real(p, "beta_slow", &r->beta_slow, where, STATUS_MODEL));
    TRY(json_get_bool(p, "truncate", &r->truncate, where, STATUS_MODEL));
    if (r->beta_fast == 0) r->beta_fast = 32; /* transformers: `or 32` */
    if (r->beta_slow == 0) r->beta_slow = 1;
    TRY(check_range(r->attention, 0, 1e3, "attention_factor", where));
    TRY(check_range(r->mscale, 0, 1e3, "mscale", where));
    TRY(check_range(r->mscale_all, 0, 1e3, "mscale_all_dim", where));
    TRY(check_range(r->beta_fast, 1e-6, 1e6, "beta_fast", where));
    return check_range(r->beta_slow, 1e-6, 1e6, "beta_slow", where);
}

/* The original length: config's own key before the parameters' before max_position_embeddings.
 */
static status read_original(const json_t *config, const json_t *p, int64_t positions,
                            const char *where, rope_config *r) {
    static const char key[] = "original_max_position_embeddings";
    r->original = (double)positions;
    TRY(json_get_real(p, key, &r->original, where, STATUS_MODEL));
    TRY(json_get_real(config, key, &r->original, where, STATUS_MODEL));
    return check_range(r->original, 1, 1e12, key, where);
}

static status read_scaling(const json_t *config, const json_t *p, int64_t positions,
                           const char *where, rope_config *r) {
    bool scaled_from_original = r->kind == ROPE_LLAMA3 || r->kind == ROPE_YARN;
    if (scaled_from_original) TRY(read_original(config, p, positions, where, r));
    const json_t *factor = json_object_get(p, "factor");
    if (r->kind == ROPE_YARN && factor && json_is_null(factor))
        r->factor = (double)positions / r->original;
    else
        TRY(need_real(p, "factor", &r->factor, where));
    TRY(check_range(r->factor, 1e-3, 1e6, "rope factor", where));
    if (r->kind == ROPE_LLAMA3) return read_llama3(p, where, r);
    if (r->kind == ROPE_YARN) return read_yarn(p, where, r);
    if (r->kind == ROPE_DYNAMIC) r->longest = positions;
    return STATUS_OK;
}

status rope_read(const json_t *config, double theta_absent, int64_t positions,
                 const char *where, rope_config *out) {
    rope_config r = {
        .kind = ROPE_DEFAULT, .theta = theta_absent, .factor = 1, .longest = INT64_MAX};
    const json_t *p;
    const char *kind = "default";
    double partial = 1;
    TRY(find_parameters(config, where, &p));
    TRY(json_get_real(config, "rope_theta", &r.theta, where, STATUS_MODEL));
    TRY(json_get_real(config, "partial_rotary_factor", &partial, where, STATUS_MODEL));
    if (p) {
        TRY(json_get_real(p, "rope_theta", &r.theta, where, STATUS_MODEL));
        TRY(json_get_real(p, "partial_rotary_factor", &partial, where, STATUS_MODEL));
        TRY(json_get_text(p, "type", &kind, where, STATUS_MODEL));
        TRY(json_get_text(p, "rope_type", &kind, where, STATUS_MODEL));
        TRY(find_kind(kind, where, &r.kind));
    }
    if (partial != 1)
        return status_fail(STATUS_MODEL,
                           "%s: partial_rotary_factor %g is not supported, only 1", where,
                           partial);
    TRY(check_range(r.theta, 1.0000001, 1e15, "rope_theta", where));
    if (r.kind != ROPE_DEFAULT) TRY(read_scaling(config, p, positions, where, &r));
    *out = r;
    return STATUS_OK;
}

/* theta^(2i/D): the exponent is rounded to fp32 first, as torch's arange / dim is. */
static float position_frequency(const rope_config *r, int i, int head_dim) {
    float exponent = (float)(2 * i) / (float)head_dim;
    return (float)pow((float)r->theta, exponent);
}

/* _compute_llama3_parameters */
static float scale_llama3(const rope_config *r, float f) {
    float wave = (float)(2 * M_PI) / f;
    float low = (float)(r->original / r->low), high = (float)(r->original / r->high);
    if (wave > low) return f / (float)r->factor;
    if (wave < high) return f;
    float smooth = ((float)r->original / wave - (float)r->low) / (float)(r->high - r->low);
    return (1 - smooth) * f / (float)r->factor + smooth * f;
}

typedef struct yarn_ramp {
    double low, high; /* dimensions where the ramp begins and ends */
} yarn_ramp;

/* find_correction_dim: the dimension that makes so many rotations over the original length */
static double yarn_dimension(const rope_config *r, double rotations, int head_dim) {
    return head_dim * log(r->original / (rotations * 2 * M_PI)) / (2 * log(r->theta));
}

static yarn_ramp yarn_ramp_of(const rope_config *r, int head_dim) {
    yarn_ramp ramp = {yarn_dimension(r, r->beta_fast, head_dim),
                      yarn_dimension(r, r->beta_slow, head_dim)};
    if (r->truncate) ramp = (yarn_ramp){floor(ramp.low), ceil(ramp.high)};
    ramp.low = fmax(ramp.low, 0);
    ramp.high = fmin(ramp.high, head_dim - 1);
    if (ramp.low == ramp.high) ramp.high += 0.001;
    return ramp;
}

/* _compute_yarn_parameters; `power` = theta^(2i/D) */
static float scale_yarn(const rope_config *r, const yarn_ramp *ramp, int i, float power) {
    float t = ((float)i - (float)ramp->low) / (float)(ramp->high - ramp->low);
    float keep = 1 - fminf(fmaxf(t, 0), 1);
    return 1 / ((float)r->factor * power) * (1 - keep) + 1 / power * keep;
}

static double yarn_mscale(double scale, double mscale) {
    return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1;
}

static float attention_factor(const rope_config *r) {
    if (r->kind != ROPE_YARN) return 1;
    if (r->attention > 0) return (float)r->attention;
    if (r->mscale > 0 && r->mscale_all > 0)
        return (float)(yarn_mscale(r->factor, r->mscale) /
                       yarn_mscale(r->factor, r->mscale_all));
    return (float)yarn_mscale(r->factor, 1);
}

status rope_frequencies(const rope_config *rope, int head_dim, float *inv_freq,
                        float *factor) {
    yarn_ramp ramp = {0, 1};
    if (rope->kind == ROPE_YARN) ramp = yarn_ramp_of(rope, head_dim);
    *factor = attention_factor(rope);
    for (int i = 0; i < head_dim / 2; i++) {
        float power = position_frequency(rope, i, head_dim), f = 1 / power;
        if (rope->kind == ROPE_LINEAR) f /= (float)rope->factor;
        if (rope->kind == ROPE_LLAMA3) f = scale_llama3(rope, f);
        if (rope->kind == ROPE_YARN) f = scale_yarn(rope, &ramp, i, power);
        if (!isfinite(f) || f < 0)
            return status_fail(STATUS_MODEL, "the rope parameters give frequency %g at %d", f,
                               i);
        inv_freq[i] = f;
    }
    return STATUS_OK;
}
