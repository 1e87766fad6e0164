"""Seeds for a fuzz target: seeds.py TARGET FOLDER [FIXTURES].

Small inputs in the target's own form (the comment on top of fuzz_TARGET.c), made of the fixtures
where they are and of what is below elsewhere. Large tokenizers are cut to their first tokens."""
import glob
import gzip
import hashlib
import json
import os
import struct
import sys

LARGEST = 1 << 15  # bytes of a seed: libFuzzer is fastest on small ones


def read(path):
    with open(path, "rb") as f:
        return f.read()


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def found(fixtures, *patterns):
    """The bytes of files of the fixtures."""
    for pattern in patterns:
        for path in sorted(glob.glob(os.path.join(fixtures, pattern), recursive=True)):
            yield path, read(path)


# ---- safetensors ----

def safetensors(tensors, metadata=None):
    """tensors: (name, type, shape, bytes)."""
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, kind, shape, content in tensors:
        header[name] = {"dtype": kind, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = compact(header)
    return struct.pack("<Q", len(text)) + text + data


def nf4():
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64],
             "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}
    plain = {k: v for k, v in state.items() if not k.startswith("nested")}
    floats = lambda n: b"\x00\x00\x80\x3e" * n
    name = "model.layers.0.mlp.up_proj.weight"
    yield safetensors([(name, "U8", [64, 1], bytes(64)), (name + ".absmax", "F32", [2], floats(2)),
                       (name + ".quant_map", "F32", [16], floats(16)),
                       (name + ".quant_state.bitsandbytes__nf4", "U8", [len(compact(plain))],
                        compact(plain))])
    yield safetensors([(name, "U8", [64, 1], bytes(64)), (name + ".absmax", "U8", [2], bytes(2)),
                       (name + ".quant_map", "F32", [16], floats(16)),
                       (name + ".nested_absmax", "F32", [1], floats(1)),
                       (name + ".nested_quant_map", "F32", [256], floats(256)),
                       (name + ".quant_state.bitsandbytes__nf4", "U8", [len(compact(state))],
                        compact(state))])


def seeds_safetensors(fixtures):
    yield safetensors([])
    yield safetensors([("a", "F32", [2, 2], bytes(16)), ("b", "BF16", [], bytes(2)),
                       ("c", "I64", [0], b"")], {"format": "pt"})
    yield from nf4()
    for _, data in found(fixtures, "malformed/safetensors/*.safetensors",
                         "malformed/misc/*.safetensors"):
        yield data


# ---- tokenizers ----

def byte_alphabet():
    shown = [b for r in ((33, 127), (161, 173), (174, 256)) for b in range(*r)]
    hidden = [b for b in range(256) if b not in shown]
    code = {b: b for b in shown}
    code.update({b: 256 + i for i, b in enumerate(hidden)})
    return [chr(code[b]) for b in range(256)]


def cut(tokenizer, tokens=300):
    """The same tokenizer with few tokens: the first ones, merges that make them, and added
    tokens with new ids."""
    model = tokenizer["model"]
    vocab = sorted(model.get("vocab", {}).items(), key=lambda item: item[1])[:tokens]
    model["vocab"] = {token: i for i, (token, _) in enumerate(vocab)}
    pair = lambda m: m.split(" ") if isinstance(m, str) else m
    model["merges"] = [m for m in model.get("merges", [])
                       if all(x in model["vocab"] for x in pair(m) + ["".join(pair(m))])][:40]
    added = tokenizer.get("added_tokens", [])[:12]
    for i, token in enumerate(added):
        token["id"] = model["vocab"].get(token["content"], len(vocab) + i)
    tokenizer["added_tokens"] = added
    return tokenizer


def mini(**parts):
    tokens = byte_alphabet() + ["he", "ll", "hell", "\u2581", "\u2581a", "<0x0A>", "<unk>"]
    out = {"version": "1.0", "truncation": None, "padding": None,
           "added_tokens": [{"id": len(tokens), "content": "<s>", "single_word": False,
                             "lstrip": False, "rstrip": False, "normalized": False,
                             "special": True},
                            {"id": len(tokens) + 1, "content": "word", "single_word": True,
                             "lstrip": True, "rstrip": True, "normalized": True,
                             "special": False}],
           "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
           "model": {"type": "BPE", "dropout": None, "unk_token": None,
                     "continuing_subword_prefix": None, "end_of_word_suffix": None,
                     "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                     "vocab": {t: i for i, t in enumerate(tokens)},
                     "merges": ["h e", ["l", "l"], "he ll"]}}
    out["model"].update(parts.pop("model", {}))
    out.update(parts)
    return out


def minis():
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|\\p{N}{1,3}|[^\\s\\p{L}]+|\\p{L}+"},
             "behavior": "Isolated", "invert": False}
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [263],
                                                       "tokens": ["<s>"]}}}
    yield mini(pre_tokenizer=level, decoder=level, post_processor=template)
    yield mini(pre_tokenizer={"type": "Sequence", "pretokenizers": [
        split, {"type": "Digits", "individual_digits": True}, dict(level, use_regex=False)]},
        decoder=level, normalizer={"type": "NFC"}, model={"ignore_merges": True})
    yield mini(normalizer={"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "NFKC"}]},
        decoder={"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        post_processor=template,
        model={"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True})
    yield mini(pre_tokenizer={"type": "Metaspace", "replacement": "\u2581",
                              "prepend_scheme": "always", "split": True},
               decoder={"type": "Metaspace", "replacement": "\u2581",
                        "prepend_scheme": "always", "split": True},
               model={"unk_token": "<unk>"})


TEXT = "Hello, w\u00f6rld! 123  it's <s> word\n\u4f60\u597d \U0001f468\u200d\U0001f469".encode()


def seeds_tokenizer(fixtures):
    settings = compact({"bos_token": "<s>", "eos_token": {"content": "<s>", "special": True},
                        "add_bos_token": True, "chat_template": "{{ messages }}"})
    for tokenizer in minis():
        yield compact(tokenizer) + b"\0" + TEXT + b"\0" + settings
    for path, data in found(fixtures, "tokenizers/*/tokenizer.json",
                            "models/*/hf-f32/tokenizer.json"):
        more = os.path.join(os.path.dirname(path), "tokenizer_config.json")
        more = json.loads(read(more)) if os.path.exists(more) else {}
        more.pop("added_tokens_decoder", None)
        yield compact(cut(json.loads(data))) + b"\0" + TEXT + b"\0" + compact(more)


# ---- configurations ----

YAML = b"""base_model: m
adapter: qlora
load_in_4bit: true
lora_r: 8
lora_alpha: 16
lora_target_modules: [q_proj, v_proj]
learning_rate: 1e-4
memory: {device_budget: 4GiB, base: host, slots: 2}
datasets:
  - path: rows.jsonl
    type: alpaca
  - path: "chat \\x41.jsonl"
    type: chat_template
    roles: {user: [human, 'me']}
    message_property_mappings:
      role: from
    split: train[:10%]
  - path: own
    type:
      format: |-
        Q: {instruction}
      field_output: >
        folded
        text
val_set_size: 0.05
flash_attention: true
plugins:
- axolotl.integrations.liger.LigerPlugin
"""


def seeds_yaml(fixtures):
    yield YAML
    yield YAML + b"\0datasets.0.type=completion"
    yield YAML + b"\0sample_prompts=[a, \"b\"]"
    for words in (b"a: &x [1]\nb: *x\n", b"<<: {a: 1}\n", b"a: !!str 1\n", b"? [a]\n: b\n",
                  b"%YAML 1.2\n---\na: no\n...\n", b"\xef\xbb\xbfseed: 0o17\n", b"a: {b: [c, {d: 1_000}]}\n"):
        yield words
    here = os.path.dirname(os.path.abspath(__file__))
    for path in glob.glob(os.path.join(here, "..", "..", "configs", "*.yaml")):
        yield read(path)
    for _, data in found(fixtures, "expectations/peft-parity/*/config.yaml"):
        yield data


# ---- rows ----

ROWS = (  # by the number of the kind in fuzz_rows.c
    b'{"input_ids": [1, 2, 257], "labels": [-100, 2, 257]}\n{"input_ids": [3, 4]}\n',
    b'{"text": "a text"}\n{"text": "another <s> text that is longer than a row may be, so that '
    b'it is cut into pieces"}\n',
    b'{"instruction": "add", "input": "1 2", "output": "3"}\n'
    b'{"instruction": "say </s>", "output": "<s>"}\n',
    b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n',
    b'{"segments": [{"label": false, "text": "<s>a"}, {"label": true, "text": "b</s>"}]}\n',
    "a line\n\n  \r\nnext \u4f60\n".encode(),
    b"one\ntwo\n\nthree\n",
    b"a whole\ndocument\n",
    b'[{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},\n'
    b'{"conversations": []}]\n',
    b'{"question": "why", "answer": "so"}\n',
    b'{"instruction": "x", "input": "y", "output": "z \\ud83d\\ude00"}\n',
)


def seeds_rows(fixtures):
    for kind, data in enumerate(ROWS):
        for options in (0, 1, 0xff):
            yield bytes([kind, options]) + data
    for path, data in found(fixtures, "expectations/peft-parity/*/rows.jsonl"):
        yield b"\0\1" + data
    for kind, pattern in ((2, "self_instruct*.jsonl"), (2, "gpteacher*.json"), (5, "*.txt"),
                          (8, "*_conversation.json"), (9, "gsm8k*.jsonl")):
        for _, data in found(fixtures, "datasets/" + pattern):
            yield bytes([kind, 1]) + data[:data.rfind(b"\n", 0, 3000) + 1]


# ---- Parquet and other data files: a number for what is done, then the file ----

def thrift(*fields):
    """A struct of the compact protocol: (id, value), values by their Python type."""
    out, last = b"", 0
    for number, value in fields:
        kind = {bool: 1 if value is True else 2, int: 6, bytes: 8, list: 9, tuple: 12}[type(value)]
        out += bytes([number - last << 4 | kind]) + thrift_value(value)
        last = number
    return out + b"\0"


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def thrift_value(value):
    if isinstance(value, bool):
        return b""
    if isinstance(value, int):
        return varint(value << 1 ^ value >> 63)
    if isinstance(value, bytes):
        return varint(len(value)) + value
    if isinstance(value, list):
        kind = 12 if value and isinstance(value[0], tuple) else 6
        return bytes([len(value) << 4 | kind]) + b"".join(map(thrift_value, value))
    return thrift(*value)


def parquet(columns, rows, second=False, codec=0):
    """columns: (schema elements, physical type, values with nulls, encoding, page, dictionary or None)."""
    data, chunks, elements = b"PAR1", [], []
    pack = {0: lambda b: b, 2: lambda b: gzip.compress(b, mtime=0)}[codec]
    for schema, kind, values, encoding, levels, body, dictionary in columns:
        start = len(data)
        if dictionary is not None:
            packed = pack(dictionary[1])
            data += thrift((1, 2), (2, len(dictionary[1])), (3, len(packed)),
                           (7, ((1, dictionary[0]), (2, 0)))) + packed
        at = len(data)
        runs = b"".join(levels)
        if second:
            packed = runs + pack(body)
            head = (8, ((1, values), (2, 0), (3, rows), (4, encoding), (5, len(levels[1])), (6, len(levels[0])),
                        (7, codec != 0)))
            size = len(runs) + len(body)
        else:
            plain = b"".join(struct.pack("<I", len(part)) + part for part in levels if part) + body
            packed, size = pack(plain), len(plain)
            head = (5, ((1, values), (2, encoding), (3, 3), (4, 3)))
        data += thrift((1, 3 if second else 0), (2, size), (3, len(packed)), head) + packed
        meta = [(1, kind), (2, [0]), (4, codec), (5, values), (6, 1), (7, 1), (9, at)]
        if dictionary is not None:
            meta.append((11, start))
        chunks.append(((2, start), (3, tuple(meta))))
        elements += schema
    top = sum(1 for e in elements if dict(e).get(99))
    elements = [tuple(f for f in e if f[0] != 99) for e in elements]
    footer = thrift((1, 2), (2, [((4, b"schema"), (5, top))] + elements), (3, rows),
                    (4, [((1, chunks), (2, 1), (3, rows))]))
    return data + footer + struct.pack("<I", len(footer)) + b"PAR1"


def parquet_columns():
    element = lambda name, kind, repetition, *more, top=True: tuple(
        [(1, kind)] * (kind >= 0) + [(3, repetition), (4, name)] + list(more) + [(99, True)] * top)
    text = lambda words: b"".join(struct.pack("<I", len(w)) + w for w in words)
    delta = bytes([128, 1, 4, 4, 2, 4, 0, 0, 0, 0])  # 1, 3, 5, 7
    lists = [element(b"l", -1, 1, (5, 1), (6, 3)), element(b"list", -1, 2, (5, 1), top=False),
             element(b"element", 6, 1, (6, 0), top=False)]
    return [
        ([element(b"n", 1, 0)], 1, 4, 0, (b"", b""), struct.pack("<4i", 1, -2, 3, 4), None),
        ([element(b"d", 2, 0)], 2, 4, 5, (b"", b""), delta, None),
        ([element(b"t", 6, 1, (6, 0))], 6, 4, 0, (b"", b"\x03\x0d"), text([b"a", b"", b"long text"]), None),
        (lists, 6, 5, 8, (b"\x03\x02", b"\x06\x03\x02\x00\x02\x01"), b"\x01\x03\x05", (2, text([b"x", b"yz"]))),
        ([element(b"l2", 6, 0)], 6, 4, 6, (b"", b""), delta + b"abcdefghijklmnop", None),
        ([element(b"p", 6, 0)], 6, 4, 7, (b"", b""), bytes([128, 1, 4, 4, 0, 0, 0, 0, 0, 0]) + delta + b"q" * 16, None),
        ([element(b"f", 5, 0)], 5, 4, 9, (b"", b""), bytes(32), None),
        ([element(b"b", 0, 0)], 0, 4, 3, (b"", b""), struct.pack("<I", 2) + b"\x03\x05", None),
        ([((1, 7), (2, 2), (3, 0), (4, b"x"), (6, 5), (7, 1), (8, 4), (99, True))], 7, 4, 0, (b"", b""), bytes(8), None),
        ([element(b"s", 2, 0, (10, ((8, ((1, True), (2, ((3, ()),)))),)))], 2, 4, 0, (b"", b""), bytes(32), None),
    ]


def seeds_parquet(fixtures):
    columns = parquet_columns()
    for second in (False, True):
        for codec in (0, 2):
            yield b"\0" + parquet(columns, 4, second, codec)
            for column in columns:
                yield b"\x10" + parquet([column], 4, second, codec)
    for text in (b"a,b\n1,\"x\"\"\ny\"\n", b"\"a\"\tb\r\n1\t\r\n", b",x,x\n1,2\n\n3"):
        yield b"\1" + text
        yield b"\2" + text
        yield b"\1" + gzip.compress(text, mtime=0) * 2
    yield b"\3" + gzip.compress(b'[{"a": 1}, 2]', mtime=0)


# ---- config.json ----

MODEL = {"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128,
         "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
         "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
         "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": [2, 3], "rope_theta": 1e4}
ROPES = ({"rope_type": "linear", "factor": 2.0}, {"type": "dynamic", "factor": 2.0},
         {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64},
         {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1,
          "original_max_position_embeddings": 64},
         {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8})


def seeds_model(fixtures):
    yield compact(MODEL)
    for rope in ROPES:
        yield compact(dict(MODEL, rope_scaling=rope))
    yield compact(dict(MODEL, rope_parameters=dict(ROPES[2], rope_theta=5e5)))
    yield compact(dict(MODEL, model_type="mistral", sliding_window=32))
    for kind in ("qwen2", "qwen3"):
        yield compact(dict(MODEL, model_type=kind, head_dim=16, use_sliding_window=True,
                           sliding_window=16, max_window_layers=1))
    yield compact(dict(MODEL, model_type="qwen3", use_sliding_window=True, sliding_window=16,
                       layer_types=["sliding_attention", "full_attention", "sliding_attention"]))
    yield compact(dict(MODEL, quantization_config={
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True})) + b"\0" + compact({"eos_token_id": 5})
    for path, data in found(fixtures, "**/config.json"):
        yield data


# ---- adapters ----

ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "m", "r": 2, "lora_alpha": 4,
           "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj", "up_proj"],
           "use_rslora": False, "use_dora": False, "task_type": "CAUSAL_LM",
           "fan_in_fan_out": False, "modules_to_save": None, "rank_pattern": {},
           "alpha_pattern": {}, "init_lora_weights": True, "inference_mode": True}


def adapter_weights(rank, kind="F32", size=4):
    tensors = []
    for module, wide, out in (("self_attn.q_proj", 8, 8), ("mlp.up_proj", 8, 16)):
        name = "base_model.model.model.layers.0." + module
        tensors += [(name + ".lora_A.weight", kind, [rank, wide], bytes(rank * wide * size)),
                    (name + ".lora_B.weight", kind, [out, rank], bytes(out * rank * size))]
    return safetensors(tensors, {"format": "pt"})


def seeds_adapter(fixtures):
    yield compact(ADAPTER) + b"\0" + adapter_weights(2)
    yield compact(dict(ADAPTER, use_rslora=True)) + b"\0" + adapter_weights(2, "BF16", 2)
    yield compact(dict(ADAPTER, r=4, rank_pattern={"q_proj": 2, "mlp.up_proj": 2},
                       alpha_pattern={".*q_proj": 3})) + b"\0" + adapter_weights(2, "F16", 2)
    yield compact(dict(ADAPTER, target_modules="all-linear")) + b"\0" + adapter_weights(2)
    yield compact(dict(ADAPTER, target_modules=".*\\.(q|up)_proj")) + b"\0" + adapter_weights(2)
    for path, data in found(fixtures, "expectations/**/adapter_config.json"):
        weights = os.path.join(os.path.dirname(path), "adapter_model.safetensors")
        if os.path.exists(weights):
            yield data + b"\0" + read(weights)


# ---- templates ----

def seeds_jinja(fixtures):
    row = compact({"settings": {"bos_token": "<s>", "eos_token": "</s>"}, "data": {
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": " a "},
                     {"role": "assistant", "content": "<think>b</think>c", "tool_calls": [
                         {"function": {"name": "f", "arguments": {"x": [1, 2.5, None]}}}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {}}}}}],
        "n": 3, "l": [3, 1, 2], "s": "Hello, World"}})
    for template in (
            b"{% macro m(a, b=1) %}{{ a ~ b }}{{ caller() }}{% endmacro %}{% call m('x') %}y{% endcall %}",
            b"{% for x in l if x > 1 recursive %}{{ loop.index }}{{ loop([x]) }}{% else %}-{% endfor %}",
            b"{% set ns = namespace(i=0) %}{% for m in messages %}{% set ns.i = ns.i + 1 %}{{ m.role | title }}"
            b"{% generation %}{{ m['content'] | trim | tojson(indent=2) }}{% endgeneration %}{% endfor %}{{ ns.i }}",
            b"{{ s[::-1] }}{{ s.split(',')[1:] | join('|') }}{{ '%5.1f|%s' % (n, l) }}{{ '{} {a!r:>4}'.format(n, a=s) }}",
            b"{% filter upper %}{{ l | sort | map('string') | list }}{% endfilter %}{{ messages | groupby('role') | list }}"):
        yield row + b"\0" + template
    for path, data in found(fixtures, "templates/*.jinja"):
        yield row + b"\0" + data


def seeds_manifest(fixtures):
    return ()  # the target writes its own: they hold hashes of files that it makes


seeds_prepared = seeds_manifest


def main():
    target, folder = sys.argv[1:3]
    fixtures = sys.argv[3] if len(sys.argv) > 3 else os.path.join(folder, "absent")
    os.makedirs(folder, exist_ok=True)
    for data in globals()["seeds_" + target](fixtures):
        if len(data) <= LARGEST:
            with open(os.path.join(folder, hashlib.sha256(data).hexdigest()[:16]), "wb") as f:
                f.write(data)


if __name__ == "__main__":
    main()
