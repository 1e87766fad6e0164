/* test_model.c: config.json in its forms and its abuses, rope tables against transformers,
 * adapter targets, sampling, and what is wrong with a folder of weights. The engine is
 * test_decoder.c's. */
#include "golden.h"
#include "scratch.h"

#include "checkpoints/safetensors_writer.h"
#include "trainer/model/generate.h"
#include "trainer/model/layout.h"
#include "trainer/model/weights.h"

#include <math.h>

/* A small valid llama; `more` are further keys, the last of equal ones wins. */
#define LLAMA                                                                                 \
    "\"model_type\": \"llama\", \"vocab_size\": 40, \"hidden_size\": 16, "                    \
    "\"intermediate_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4"

static json_t *parse(const char *text) {
    json_t *j;
    assert_ok(json_read_text(text, strlen(text), "test", STATUS_MODEL, &j));
    return j;
}

/* The valid one with the keys of `more` put over it; a key "-x" takes x away. */
static json_t *llama_with(const char *more) {
    json_t *j = parse("{" LLAMA "}"), *over = parse(more), *value;
    const char *key;
    json_object_foreach(over, key, value) {
        if (*key == '-')
            json_object_del(j, key + 1);
        else
            json_object_set(j, key, value);
    }
    json_decref(over);
    return j;
}

static model_config read_config(const char *more) {
    model_config c;
    json_t *j = llama_with(more);
    assert_ok(model_config_read(&c, j, NULL, "config.json"));
    json_decref(j);
    return c;
}

/* ---- config.json ---- */

static void test_absent_keys(void **state) {
    model_config c = read_config("{}");
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_dim, 4);
    assert_int_equal(c.positions, 2048);
    assert_true(c.rope.theta == 10000 && c.rope.kind == ROPE_DEFAULT && c.rope_factor == 1);
    assert_true(c.eps == 1e-6f && !c.tied && !c.qkv_bias && !c.o_bias && !c.mlp_bias);
    assert_true(c.windows[0] == 0 && c.windows[1] == 0);
    assert_true(c.act == ACT_SILU && c.stored == DTYPE_F32 && !c.quantized);
    assert_true(c.bos == -1 && c.eos_count == 0);
    model_config_close(&c);

    c = read_config("{\"model_type\": \"mistral\", \"num_attention_heads\": 8}");
    assert_int_equal(c.kv_heads, 8);
    assert_true(c.windows[0] == 4096 && c.windows[1] == 4096);
    model_config_close(&c);
    c = read_config("{\"model_type\": \"mistral\", \"sliding_window\": null, "
                    "\"num_key_value_heads\": null, \"head_dim\": null}");
    assert_true(c.windows[0] == 0 && c.kv_heads == 4 && c.head_dim == 4);
    model_config_close(&c);

    c = read_config("{\"model_type\": \"qwen3\", \"num_attention_heads\": 64}");
    assert_true(c.kv_heads == 32 && c.head_dim == 128 && c.family->qk_norm && !c.qkv_bias);
    model_config_close(&c);
    c = read_config("{\"model_type\": \"qwen2\", \"num_key_value_heads\": 2, "
                    "\"attention_bias\": false}");
    assert_true(c.qkv_bias && !c.o_bias && !c.family->qk_norm);
    model_config_close(&c);
}

static void test_windows(void **state) {
    static const char qwen[] = "\"model_type\": \"qwen2\", \"num_key_value_heads\": 2";
    static const struct {
        const char *more;
        int32_t first, second;
    } rows[] = {
        {"\"sliding_window\": 8, \"max_window_layers\": 0", 0, 0}, /* not used */
        {"\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 1", 0,
         8},
        {"\"use_sliding_window\": true, \"max_window_layers\": 0", 4096, 4096},
        {"\"use_sliding_window\": true, \"sliding_window\": 8", 0, 0}, /* 28 full layers */
        {"\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 0, "
         "\"layer_types\": [\"sliding_attention\", \"full_attention\"]",
         8, 0},
        {"\"layer_types\": [\"full_attention\", \"full_attention\"]", 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char more[512];
        snprintf(more, sizeof more, "{%s, %s}", qwen, rows[i].more);
        model_config c = read_config(more);
        assert_int_equal(c.windows[0], rows[i].first);
        assert_int_equal(c.windows[1], rows[i].second);
        model_config_close(&c);
    }
    model_config c = read_config("{\"sliding_window\": 8}"); /* llama does not know the key */
    assert_int_equal(c.windows[0], 0);
    model_config_close(&c);
}

static void test_forms(void **state) {
    model_config c = read_config(
        "{\"dtype\": \"bfloat16\", \"rope_parameters\": {\"rope_theta\": 500000, "
        "\"rope_type\": "
        "\"linear\", \"factor\": 2}, \"head_dim\": 8, \"num_key_value_heads\": 2, "
        "\"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true, "
        "\"eos_token_id\": [3, 7], \"bos_token_id\": 1, \"hidden_size\": 18}");
    assert_true(c.stored == DTYPE_BF16 && c.rope.theta == 500000 &&
                c.rope.kind == ROPE_LINEAR);
    assert_true(c.head_dim == 8 && c.kv_heads == 2 && c.tied);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias);
    assert_true(c.eos_count == 2 && c.eos[0] == 3 && c.eos[1] == 7 && c.bos == 1);
    model_config_close(&c);
    /* the old form; rope_scaling wins over rope_parameters, as in transformers */
    c = read_config(
        "{\"torch_dtype\": \"torch.float16\", \"rope_theta\": 1e6, \"rope_scaling\": "
        "{\"type\": \"linear\", \"factor\": 4.0}, \"rope_parameters\": {\"rope_type\": "
        "\"default\"}}");
    assert_true(c.stored == DTYPE_F16 && c.rope.theta == 1e6 && c.rope.factor == 4);
    model_config_close(&c);
    c = read_config(
        "{\"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": "
        "true, \"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_use_double_quant\": true}}");
    assert_true(c.quantized && c.quant_type == DTYPE_NF4 && c.quant_nested);
    model_config_close(&c);
    /* generation_config.json's end tokens come first */
    json_t *j = llama_with("{\"eos_token_id\": 2}"), *g = parse("{\"eos_token_id\": [5, 6]}");
    assert_ok(model_config_read(&c, j, g, "config.json"));
    assert_true(c.eos_count == 2 && c.eos[0] == 5);
    model_config_close(&c);
    json_decref(j);
    json_decref(g);
}

/* Everything hostile or unsupported is one line of STATUS_MODEL that holds `part`. */
static void row10_hostile_config(void **state) {
    static const struct {
        const char *more, *part;
    } rows[] = {
        {"{\"num_attention_heads\": 0}", "num_attention_heads is 0"},
        {"{\"num_attention_heads\": -4}", "num_attention_heads is -4"},
        {"{\"hidden_size\": 2147483648}", "hidden_size is 2147483648"},
        {"{\"hidden_size\": 9223372036854775807}", "hidden_size is 9223372036854775807"},
        {"{\"hidden_size\": 17}", "not a multiple of num_attention_heads"},
        {"{\"hidden_size\": \"16\"}", "\"hidden_size\" must be an integer, it is a string"},
        {"{\"hidden_size\": 16.5}", "must be an integer"},
        {"{\"hidden_size\": [16]}", "it is a list"},
        {"{\"-hidden_size\": 0}", "\"hidden_size\" is missing"},
        {"{\"vocab_size\": null}", "\"vocab_size\" is missing"},
        {"{\"vocab_size\": 1e18}", "must be an integer"},
        {"{\"num_hidden_layers\": 1000000000}", "num_hidden_layers is 1000000000"},
        {"{\"num_hidden_layers\": 513}", "num_hidden_layers is 513; it must be in 1 .. 512"},
        {"{\"num_hidden_layers\": 0}", "num_hidden_layers is 0"},
        {"{\"intermediate_size\": 0}", "intermediate_size is 0"},
        {"{\"num_key_value_heads\": 0}", "num_key_value_heads is 0"},
        {"{\"num_key_value_heads\": 3}", "not a multiple of num_key_value_heads 3"},
        {"{\"num_key_value_heads\": 8}", "num_key_value_heads is 8"},
        {"{\"head_dim\": 3}", "head_dim 3 is odd"},
        {"{\"head_dim\": 512}", "head_dim is 512"},
        {"{\"num_attention_heads\": 65536, \"head_dim\": 128}", "heads * head_dim"},
        {"{\"max_position_embeddings\": 0}", "max_position_embeddings is 0"},
        {"{\"rms_norm_eps\": 0}", "rms_norm_eps is 0"},
        {"{\"rms_norm_eps\": -1e-6}", "rms_norm_eps"},
        {"{\"rms_norm_eps\": \"1e-6\"}", "must be a number"},
        {"{\"rope_theta\": 0}", "rope_theta is 0"},
        {"{\"rope_theta\": -1}", "rope_theta is -1"},
        {"{\"rope_theta\": 1e300}", "rope_theta is 1e+300"},
        {"{\"rope_theta\": true}", "must be a number"},
        {"{\"rope_scaling\": []}", "rope_scaling must be an object"},
        {"{\"rope_scaling\": {\"type\": \"linear\"}}", "lack factor"},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}}", "rope factor is 0"},
        {"{\"rope_scaling\": {\"type\": \"longrope\", \"factor\": 2}}", "\"longrope\" is not"},
        {"{\"rope_scaling\": {\"type\": 4}}", "must be a string"},
        {"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}}",
         "lack low_freq_factor"},
        {"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": "
         "4, "
         "\"high_freq_factor\": 4}}",
         "not above low_freq_factor"},
        {"{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2, "
         "\"original_max_position_embeddings\": 0}}",
         "original_max_position_embeddings is 0"},
        {"{\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}}",
         "per layer type"},
        {"{\"partial_rotary_factor\": 0.5}", "partial_rotary_factor 0.5"},
        {"{\"hidden_act\": \"relu\"}", "\"relu\" is not supported"},
        {"{\"hidden_act\": null, \"tie_word_embeddings\": 1}", "must be true or false"},
        {"{\"torch_dtype\": \"float8_e4m3fn\"}", "\"float8_e4m3fn\" is not supported"},
        {"{\"eos_token_id\": 40}", "ids below vocab_size 40"},
        {"{\"eos_token_id\": [-1]}", "ids below vocab_size"},
        {"{\"eos_token_id\": [0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}", "more than 16"},
        {"{\"bos_token_id\": 40}", "bos_token_id is 40"},
        {"{\"quantization_config\": 1}", "must be an object"},
        {"{\"quantization_config\": {\"quant_method\": \"gptq\"}}", "quantized by gptq"},
        {"{\"quantization_config\": {\"load_in_8bit\": true}}", "in 8 bits"},
        {"{\"quantization_config\": {\"load_in_4bit\": true, \"bnb_4bit_quant_type\": "
         "\"int4\"}}",
         "\"int4\" is not nf4 or fp4"},
        {"{\"-model_type\": 0}", "\"model_type\" is missing"},
        {"{\"model_type\": 5}", "must be a string"},
        {"{\"model_type\": \"gpt2\"}",
         "\"gpt2\" is not supported; supported are llama, mistral, "
         "qwen2, qwen3"},
        {"{\"model_type\": \"mistral\", \"sliding_window\": 0, \"num_key_value_heads\": 2}",
         "sliding_window is 0"},
        {"{\"model_type\": \"mistral\"}",
         "num_key_value_heads is 8"}, /* its default, 4 heads */
        {"{\"model_type\": \"qwen3\", \"num_key_value_heads\": 2, \"layer_types\": "
         "[\"full_attention\"]}",
         "list of 2 names"},
        {"{\"model_type\": \"qwen3\", \"num_key_value_heads\": 2, \"layer_types\": "
         "[\"full_attention\", \"linear_attention\"]}",
         "layer_types[1] \"linear_attention\""},
        {"{\"model_type\": \"qwen3\", \"num_key_value_heads\": 2, \"layer_types\": "
         "[\"sliding_attention\", \"full_attention\"]}",
         "there is no window"},
        {"{\"model_type\": \"qwen3\", \"num_key_value_heads\": 2, \"layer_types\": [1, 2]}",
         "must be a string"},
    };
    size_t used = mem_peak();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        model_config c;
        json_t *j = llama_with(rows[i].more);
        status s = model_config_read(&c, j, NULL, "config.json");
        if (s != STATUS_MODEL || !strstr(status_message(), rows[i].part))
            fail_msg("%s: status %d, \"%s\"", rows[i].more, s, s ? status_message() : "");
        assert_null(strchr(status_message(), '\n'));
        json_decref(j);
    }
    assert_true(mem_peak() - used < 1 << 20);
}

/* A file that says NaN, infinity or a number beyond all types is refused where it says so. */
static void row10_numbers_that_are_none(void **state) {
    static const char *const values[] = {"NaN",    "Infinity", "-Infinity", "1e999",
                                         "-1e999", "0x10",     "1e",        "+1"};
    static const char *const keys[] = {"rope_theta", "rms_norm_eps", "head_dim"};
    char path[600];
    snprintf(path, sizeof path, "%s/config.json", scratch_folder("numbers"));
    for (size_t k = 0; k < 3; k++)
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            char text[1000];
            model_config c;
            snprintf(text, sizeof text, "{" LLAMA ", \"%s\": %s}", keys[k], values[i]);
            put_text(path, text);
            assert_fails(model_config_open(&c, scratch("numbers")), STATUS_MODEL,
                         "config.json:1:");
        }
}

static void test_files(void **state) {
    model_config c;
    const char *folder = scratch_folder("config");
    char path[600];
    assert_fails(model_config_open(&c, folder), STATUS_MODEL, "config.json");
    snprintf(path, sizeof path, "%s/config.json", folder);
    put_text(path, "{" LLAMA ", \"rope_theta\": NaN}");
    assert_fails(model_config_open(&c, folder), STATUS_MODEL, "config.json:1:");
    put_text(path, "{" LLAMA ", \"hidden_size\": 32}");
    assert_fails(model_config_open(&c, folder), STATUS_MODEL, "duplicate");
    put_text(path, "[]");
    assert_fails(model_config_open(&c, folder), STATUS_MODEL, "must be an object");
    put_text(path, "version https://git-lfs.github.com/spec/v1\n");
    assert_fails(model_config_open(&c, folder), STATUS_MODEL, "Git-LFS");
    put_text(path, "{" LLAMA "}");
    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    put_text(path, "{\"eos_token_id\": \"</s>\"}");
    assert_fails(model_config_open(&c, folder), STATUS_MODEL, "eos_token_id");
    put_text(path, "{\"eos_token_id\": 4}");
    assert_ok(model_config_open(&c, folder));
    assert_true(c.eos_count == 1 && c.eos[0] == 4);
    model_config_close(&c);
}

/* ---- rope ---- */

/* transformers 5.23: inv_freq at 0, 1, n/4, n/2, 3n/4, n-1 of head size 128, and its fp64 sum.
 */
static void test_rope(void **state) {
#define BIG "\"hidden_size\": 256, \"num_attention_heads\": 2, \"max_position_embeddings\": "
    static const struct {
        const char *more;
        double factor, at[6], sum;
    } rows[] = {
        {"{" BIG "131072, \"rope_theta\": 500000.0}",
         1,
         {1.0, 0.8146172165870667, 0.03760603070259094, 0.001414213445968926,
          5.3182957344688475e-05, 2.4551407022954663e-06},
         5.394233954003312},
        {"{" BIG "4096, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}}",
         1,
         {0.4000000059604645, 0.34638574719429016, 0.03999999910593033, 0.003999999724328518,
          0.0004000000189989805, 4.619127867044881e-05},
         2.983981703291647},
        {"{" BIG "131072, \"rope_theta\": 500000.0, \"rope_scaling\": {\"factor\": 8.0, "
         "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
         "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}}",
         1,
         {1.0, 0.8146172165870667, 0.03760603070259094, 0.0005248460220173001,
          6.647869668086059e-06, 3.068925877869333e-07},
         5.386058263449144},
        {"{" BIG "131072, \"rope_parameters\": {\"rope_theta\": 500000.0, \"factor\": 32.0, "
         "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
         "\"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}}",
         1,
         {1.0, 0.8146172165870667, 0.03760603070259094, 0.000429556705057621,
          1.6619674170215148e-06, 7.672314694673332e-08},
         5.385182296587423},
        {"{" BIG "131072, \"rope_theta\": 1000000.0, \"rope_scaling\": {\"factor\": 4.0, "
         "\"original_max_position_embeddings\": 32768, \"type\": \"yarn\"}}",
         1.138629436111989,
         {1.0, 0.8058422207832336, 0.03162277862429619, 0.0006029411451891065,
          7.905693564680405e-06, 3.102344408034696e-07},
         5.1440348281193735},
        {"{" BIG "131072, \"rope_scaling\": {\"factor\": 40.0, "
         "\"original_max_position_embeddings\": 4096, \"rope_type\": \"yarn\", \"mscale\": "
         "0.707, "
         "\"mscale_all_dim\": 1.0, \"beta_fast\": 16, \"beta_slow\": 2, \"truncate\": false}}",
         0.9210423553163399,
         {1.0, 0.8659643530845642, 0.10000000149011612, 0.005790104623883963,
          2.499999936844688e-05, 2.886954689529375e-06},
         7.390694987097959},
        {"{" BIG "131072, \"rope_scaling\": {\"factor\": 16.0, "
         "\"original_max_position_embeddings\": 4096, \"rope_type\": \"yarn\", "
         "\"attention_factor\": 1.25}}",
         1.25,
         {1.0, 0.8659643530845642, 0.10000000149011612, 0.005673076957464218,
          6.25000029685907e-05, 7.217387064883951e-06},
         7.365234765676178},
        {"{" BIG "2048, \"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2.0}}",
         1,
         {1.0, 0.8659643530845642, 0.10000000149011612, 0.009999999776482582,
          0.0010000000474974513, 0.00011547819303814322},
         7.459954202655354},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        model_config c = read_config(rows[i].more);
        const int places[] = {0, 1, 16, 32, 48, 63};
        double sum = 0;
        assert_int_equal(c.head_dim, 128);
        assert_true(fabs(c.rope_factor - rows[i].factor) < 1e-7);
        for (int k = 0; k < 64; k++) sum += c.inv_freq[k];
        for (int k = 0; k < 6; k++) {
            double got = c.inv_freq[places[k]], want = rows[i].at[k];
            if (!(fabs(got - want) <= 4e-7 * want))
                fail_msg("row %zu, frequency %d: %.9g, expected %.9g", i, places[k], got,
                         want);
        }
        assert_true(fabs(sum - rows[i].sum) < 1e-6);
        if (c.rope.kind == ROPE_DYNAMIC) {
            assert_ok(model_config_check_length(&c, 2048));
            assert_fails(model_config_check_length(&c, 2049), STATUS_USAGE, "dynamic");
        } else {
            assert_ok(model_config_check_length(&c, 1 << 30));
        }
        model_config_close(&c);
    }
}

/* ---- adapters ---- */

static lora_request request_of(const char *const *targets, size_t n) {
    return (lora_request){.targets = targets, .target_count = n, .rank = 4, .alpha = 8};
}

static void test_targets(void **state) {
    model_config c = read_config("{}");
    lora_spec s;
    const char *const names[] = {"q_proj", "mlp.up_proj", "model.layers.1.self_attn.o_proj"};
    lora_request r = request_of(names, 3);
    assert_ok(lora_spec_make(&s, &c, &r));
    for (int32_t l = 0; l < 2; l++)
        for (int m = 0; m < MODULE_COUNT; m++) {
            bool want = m == MODULE_Q || m == MODULE_UP || (m == MODULE_O && l == 1);
            assert_int_equal(lora_spec_at(&s, l, (linear_module)m).rank, want ? 4 : 0);
        }
    assert_true(lora_spec_at(&s, 0, MODULE_Q).scale == 2);
    lora_spec_free(&s);
    r.every_linear = true, r.rslora = true;
    r.layers = (const int64_t[]){1}, r.layer_count = 1;
    assert_ok(lora_spec_make(&s, &c, &r));
    assert_true(lora_spec_at(&s, 1, MODULE_DOWN).scale == 4 &&
                !lora_spec_at(&s, 0, MODULE_Q).rank);
    lora_spec_free(&s);

    static const struct {
        const char *target;
        int64_t rank;
        double alpha, dropout;
        const char *part;
    } wrong[] = {
        {"query", 4, 8, 0, "\"query\" is no linear layer"},
        {"proj", 4, 8, 0, "is no linear layer"}, /* an end, but not after a dot */
        {"lm_head", 4, 8, 0, "head and embedding stay"},
        {"model.embed_tokens", 4, 8, 0, "head and embedding stay"},
        {"model.layers.2.self_attn.q_proj", 4, 8, 0, "is no linear layer"},
        {"q_proj", 0, 8, 0, "lora_r is 0"},
        {"q_proj", 4, 0, 0, "lora_alpha is 0"},
        {"q_proj", 4, 8, 1, "lora_dropout is 1"},
        {"q_proj", 4, 8, (double)NAN, "lora_dropout is"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        r = request_of(&wrong[i].target, 1);
        r.rank = wrong[i].rank, r.alpha = wrong[i].alpha, r.dropout = wrong[i].dropout;
        assert_fails(lora_spec_make(&s, &c, &r), STATUS_USAGE, wrong[i].part);
    }
    r = request_of(NULL, 0);
    assert_fails(lora_spec_make(&s, &c, &r), STATUS_USAGE, "lora_target_linear");
    model_config_close(&c);
}

/* ---- what a decoder registers ---- */

static void test_full_training_table(void **state) {
    model_config c = read_config("{\"tie_word_embeddings\": true, \"attention_bias\": true, "
                                 "\"vocab_size\": 400}");
    decoder_options o = {.compute = DTYPE_BF16,
                         .quantize = DTYPE_COUNT,
                         .tied = true,
                         .training = TRAIN_EVERYTHING,
                         .optimizer_bits = 8,
                         .alignment = 64};
    decoder *d;
    assert_ok(decoder_open(&d, &c, &o));
    assert_int_equal(d->head, d->embedding);
    assert_int_equal(d->trainable_count, 2 * (7 + 4 + 2) + 2);
    assert_int_equal(d->trainables[0].working, d->embedding);
    int64_t elements = 0;
    for (size_t i = 0; i < d->trainable_count; i++) {
        const trainable *t = &d->trainables[i];
        const parameter *p = &d->table.items[t->working];
        bool plain = strstr(p->name, "norm") || strstr(p->name, ".bias");
        assert_int_equal(t->decay, !plain);
        assert_int_equal(t->bits, t->rows * t->cols >= 4096 ? 8 : 32);
        assert_int_equal(p->gradient, t->gradient);
        assert_int_equal(d->table.items[t->master].format.type, DTYPE_F32);
        elements += t->rows * t->cols;
    }
    assert_int_equal(elements, model_config_parameters(&c, true));
    program *p;
    assert_ok(decoder_record_train(d, &p, 100));
    assert_int_equal(p->capacity, 128);
    assert_int_equal(p->template_count, 3); /* embed, one block for both layers, head */
    program_close(p);
    assert_ok(decoder_record_update(d, &p));
    assert_int_equal(p->template_count, 3); /* embedding, layers, final norm */
    program_close(p);
    decoder_close(d);

    o.quantize = DTYPE_NF4;
    assert_fails(decoder_open(&d, &c, &o), STATUS_USAGE, "unquantized");
    o.quantize = DTYPE_COUNT, o.training = TRAIN_ADAPTERS;
    assert_fails(decoder_open(&d, &c, &o), STATUS_USAGE, "no adapter");
    model_config_close(&c);
}

/* Layers that differ have templates of their own; without adapters those that differ only
 * there share. */
static void test_templates(void **state) {
    model_config c = read_config("{\"model_type\": \"qwen2\", \"num_key_value_heads\": 2, "
                                 "\"num_hidden_layers\": 6, \"use_sliding_window\": true, "
                                 "\"sliding_window\": 8, \"max_window_layers\": 3}");
    lora_spec spec;
    lora_request r = {.every_linear = true,
                      .rank = 4,
                      .alpha = 8,
                      .layers = (const int64_t[]){1, 5},
                      .layer_count = 2};
    decoder *d;
    program *p;
    assert_ok(lora_spec_make(&spec, &c, &r));
    decoder_options o = {.compute = DTYPE_F32,
                         .quantize = DTYPE_NF4,
                         .nested = true,
                         .lora = &spec,
                         .training = TRAIN_ADAPTERS,
                         .optimizer_bits = 32,
                         .alignment = 64};
    assert_ok(decoder_open(&d, &c, &o));
    assert_int_equal(d->trainable_count, 2 * 14);
    assert_ok(decoder_record_train(d, &p, 64));
    assert_int_equal(p->template_count, 2 + 4); /* {full, window} x {with, without} */
    assert_int_equal(p->section_count, 2 + 5);  /* 0 | 1 | 2 | 3 4 | 5 */
    program_close(p);
    assert_ok(decoder_record_evaluate(d, &p, 64, false));
    assert_int_equal(p->template_count, 2 + 2);
    assert_int_equal(p->section_count, 2 + 2);
    program_close(p);
    assert_ok(decoder_record_norm(d, &p));
    assert_int_equal(p->template_count, 1);
    program_close(p);
    decoder_close(d);
    lora_spec_free(&spec);
    model_config_close(&c);
}

/* ---- sampling ---- */

static void test_sampling(void **state) {
    enum { V = 5, DRAWS = 20000 };
    const float logits[V] = {1, 3, 2, 3, -1};
    int32_t scratch[V];
    sampling s = {.temperature = 0, .top_p = 1};
    assert_int_equal(sampling_choose(&s, logits, V, 0, 0, scratch), 1); /* the lower id */
    static const struct {
        double temperature;
        int64_t top_k;
        double top_p;
        unsigned kept; /* bit per id */
    } rows[] = {
        {1, 0, 1, 31},   {0.7, 0, 1, 31}, {1, 2, 1, 10},   {1, 3, 1, 14},   {1, 1, 1, 2},
        {1, 0, 0.5, 10}, {1, 0, 0.3, 2},  {1, 0, 0.9, 14}, {2, 3, 0.5, 10}, {1, 9, 0.999, 31},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        s = (sampling){rows[i].temperature, rows[i].top_k, rows[i].top_p, 42};
        int counts[V] = {0};
        double total = 0;
        for (int id = 0; id < V; id++)
            if (rows[i].kept >> id & 1) total += exp(logits[id] / s.temperature);
        for (uint64_t k = 0; k < DRAWS; k++) {
            int32_t id = sampling_choose(&s, logits, V, k % 3, k, scratch);
            assert_int_equal(id, sampling_choose(&s, logits, V, k % 3, k, scratch));
            counts[id]++;
        }
        for (int id = 0; id < V; id++) {
            double p = rows[i].kept >> id & 1 ? exp(logits[id] / s.temperature) / total : 0;
            double sd = sqrt(p * (1 - p) / DRAWS);
            if (!(fabs((double)counts[id] / DRAWS - p) <= 4.5 * sd))
                fail_msg("row %zu, id %d: %d of %d, expected %g", i, id, counts[id], DRAWS, p);
        }
    }
    s.top_p = 0;
    assert_fails(sampling_check(&s), STATUS_USAGE, "top_p");
    s.temperature = -1;
    assert_fails(sampling_check(&s), STATUS_USAGE, "temperature");
}

/* ---- folders of weights ---- */

/* What to spoil in a folder that is otherwise right. */
typedef struct spoil {
    const char *missing, *extra, *misshapen, *wrong_type, *not_finite;
    float value; /* at element 5 of not_finite */
    bool other_head;
} spoil;

static bool is_it(const char *name, const char *which) {
    return which && !strcmp(name, which);
}

static void write_folder(const char *folder, const model_config *c, bool head,
                         const spoil *q) {
    char path[600];
    float values[1024] = {0};
    model_layout layout;
    safetensors_writer w;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(model_layout_make(&layout, c, !head));
    assert_ok(safetensors_create(&w, path));
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < layout.count; i++) {
            const layout_tensor *t = &layout.tensors[i];
            int64_t shape[] = {t->rows, t->cols + is_it(t->name, q->misshapen)};
            dtype type = is_it(t->name, q->wrong_type) ? DTYPE_I32 : DTYPE_F32;
            if (is_it(t->name, q->missing)) continue;
            for (int k = 0; k < 1024; k++) values[k] = 0.01f * (float)k;
            if (is_it(t->name, q->not_finite)) values[5] = q->value;
            if (is_it(t->name, LAYOUT_HEAD) && q->other_head) values[7] = 3;
            if (!pass)
                assert_ok(safetensors_declare(&w, t->name, type, t->rank,
                                              t->rank == 1 ? shape + 1 : shape));
            else
                assert_ok(
                    safetensors_write(&w, t->name, values,
                                      (size_t)((t->rank == 1 ? 1 : shape[0]) * shape[1]) * 4));
        }
        if (q->extra && !pass)
            assert_ok(safetensors_declare(&w, q->extra, DTYPE_F32, 1, (int64_t[]){2}));
        if (!pass) assert_ok(safetensors_begin(&w, "pt"));
        if (q->extra && pass) assert_ok(safetensors_write(&w, q->extra, values, 8));
    }
    assert_ok(safetensors_finish(&w));
    model_layout_free(&layout);
}

static void test_folders(void **state) {
    static const struct {
        spoil q;
        const char *part; /* NULL: it opens */
    } rows[] = {
        {{0}, NULL},
        {{.missing = "model.layers.1.mlp.up_proj.weight"},
         "model.layers.1.mlp.up_proj.weight is missing"},
        {{.missing = LAYOUT_HEAD}, "lm_head.weight is missing"},
        {{.extra = "model.layers.2.input_layernorm.weight"},
         "is not part of a llama model with 2"},
        {{.extra = "model.layers.0.self_attn.q_proj.bias"}, "is not part of"},
        {{.extra = "model.layers.0.self_attn.rotary_emb.inv_freq"}, NULL},
        {{.misshapen = "model.norm.weight"},
         "model.norm.weight is [17], config.json says [16]"},
        {{.misshapen = "model.layers.0.mlp.down_proj.weight"}, "config.json says [16, 24]"},
        {{.wrong_type = "model.embed_tokens.weight"}, "stored as I32"},
    };
    model_config c = read_config("{}");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *folder = scratch_folder("weights");
        weights w;
        write_folder(folder, &c, true, &rows[i].q);
        if (rows[i].part) {
            assert_fails(weights_open(&w, folder, &c), STATUS_MODEL, rows[i].part);
            continue;
        }
        assert_ok(weights_open(&w, folder, &c));
        weights_close(&w);
    }
    model_config_close(&c);
}

/* tie_word_embeddings with a head in the file: tied only if it is the embedding. */
static void test_tied(void **state) {
    model_config c = read_config("{\"tie_word_embeddings\": true}");
    for (int i = 0; i < 3; i++) {
        const char *folder = scratch_folder("tied");
        weights w;
        spoil q = {.other_head = i == 2};
        write_folder(folder, &c, i > 0, &q);
        assert_ok(weights_open(&w, folder, &c));
        assert_int_equal(w.tied, i < 2);
        weights_close(&w);
    }
    model_config_close(&c);
}

static status drop_bytes(void *context, parameter_id id, int64_t offset, const void *data,
                         int64_t n) {
    return STATUS_OK;
}

static status stop_there(void *context, int64_t done, int64_t total) {
    assert_true(done > 0 && done <= total);
    return --*(int *)context ? STATUS_OK : status_fail(STATUS_INTERRUPTED, "stopped");
}

static status stream_folder(const char *folder, const model_config *c, dtype compute,
                            dtype quantize, const load_progress *progress, json_t **identity) {
    weights w;
    decoder *d;
    base_sink sink = {drop_bytes, NULL};
    decoder_options o = {.compute = compute,
                         .quantize = quantize,
                         .nested = true,
                         .training = TRAIN_NOTHING,
                         .optimizer_bits = 32,
                         .alignment = 64};
    assert_ok(weights_open(&w, folder, c));
    assert_ok(decoder_open(&d, c, &o));
    status s = weights_stream(&w, d, &sink, progress);
    if (s == STATUS_OK && identity) assert_ok(weights_identity(&w, identity));
    decoder_close(d);
    weights_close(&w);
    return s;
}

static void test_not_finite(void **state) {
    static const char *const names[] = {"model.layers.1.self_attn.v_proj.weight",
                                        "model.layers.0.input_layernorm.weight",
                                        "model.embed_tokens.weight"};
    static const float values[] = {NAN, INFINITY, -INFINITY};
    model_config c = read_config("{}");
    for (int i = 0; i < 9; i++) {
        const char *folder = scratch_folder("weights");
        spoil q = {.not_finite = names[i / 3], .value = values[i % 3]};
        char part[128];
        write_folder(folder, &c, true, &q);
        snprintf(part, sizeof part, "%s: element 5 is not finite", names[i / 3]);
        dtype quantize = i % 2 ? DTYPE_NF4 : DTYPE_COUNT;
        assert_fails(stream_folder(folder, &c, DTYPE_BF16, quantize, NULL, NULL), STATUS_MODEL,
                     part);
    }
    const char *folder = scratch_folder("weights");
    spoil q = {.not_finite = names[0], .value = 1e5f}; /* beyond fp16's 65,504 */
    write_folder(folder, &c, true, &q);
    assert_ok(stream_folder(folder, &c, DTYPE_BF16, DTYPE_NF4, NULL, NULL));
    assert_fails(stream_folder(folder, &c, DTYPE_F16, DTYPE_NF4, NULL, NULL), STATUS_MODEL,
                 "element 5 is too large");
    model_config_close(&c);
}

static void test_stopping_and_identity(void **state) {
    model_config c = read_config("{}");
    char folder[512];
    json_t *first, *second;
    snprintf(folder, sizeof folder, "%s", scratch_folder("weights"));
    spoil none = {0}, other = {.not_finite = "model.norm.weight", .value = 7};
    write_folder(folder, &c, true, &none);
    for (int at = 1; at < 4; at++) {
        int left = at;
        load_progress p = {stop_there, &left};
        assert_fails(stream_folder(folder, &c, DTYPE_F32, DTYPE_NF4, &p, NULL),
                     STATUS_INTERRUPTED, "stopped");
    }
    assert_ok(stream_folder(folder, &c, DTYPE_F32, DTYPE_NF4, NULL, &first));
    assert_ok(stream_folder(folder, &c, DTYPE_BF16, DTYPE_COUNT, NULL, &second));
    assert_true(json_equal(first, second)); /* of the files, however they were loaded */
    assert_int_equal(json_object_size(first), 2 * 9 + 3);
    json_decref(second);
    write_folder(folder, &c, true, &other);
    assert_ok(stream_folder(folder, &c, DTYPE_F32, DTYPE_NF4, NULL, &second));
    assert_false(json_equal(first, second));
    json_decref(first);
    json_decref(second);
    model_config_close(&c);
}

/* Every allocation of opening a model fails once: a clean status, nothing leaked. */
static void test_allocation_failures(void **state) {
    model_config c = read_config("{}");
    char folder[512];
    spoil none = {0};
    snprintf(folder, sizeof folder, "%s", scratch_folder("weights"));
    write_folder(folder, &c, true, &none);
    size_t blocks = mem_blocks();
    for (uint64_t k = 1;; k++) {
        weights w;
        decoder *d = NULL;
        program *p = NULL;
        decoder_options o = {.compute = DTYPE_BF16,
                             .quantize = DTYPE_COUNT,
                             .training = TRAIN_EVERYTHING,
                             .optimizer_bits = 32,
                             .alignment = 64};
        mem_fail_at(k, 0);
        status s = weights_open(&w, folder, &c);
        if (s == STATUS_OK) {
            s = decoder_open(&d, &c, &o);
            if (s == STATUS_OK) s = decoder_record_train(d, &p, 64);
            program_close(p);
            decoder_close(d);
            weights_close(&w);
        }
        mem_fail_at(0, 0);
        assert_int_equal(mem_blocks(), blocks);
        if (s == STATUS_OK) break;
        assert_int_equal(s, STATUS_MEMORY);
    }
    model_config_close(&c);
}

int main(void) {
    json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent_keys),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(row10_hostile_config),
        cmocka_unit_test(row10_numbers_that_are_none),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_full_training_table),
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_tied),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_stopping_and_identity),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
