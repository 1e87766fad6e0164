/* test_model_config.c: config.json in its forms and its abuses, rope tables against transformers. */
#include "llama_config.h"

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
    };
    return cmocka_run_group_tests(tests, scratch_open, scratch_close);
}
