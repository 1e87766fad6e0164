#!/usr/bin/env python3
"""initialize.py: a Llama model with random weights, as a Hugging Face folder, to pre-train from.

Weights are normal with deviation 1 / sqrt(hidden size) (a small model learns much sooner so than
from the large models' 0.02), those that end a residual branch smaller by the root of their number,
as GPT-2's; norms are 1. Stored as bf16 in one safetensors file.

    python3 initialize.py MODEL_DIR
"""
import array
import json
import math
import random
import struct
import sys

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, FEED_FORWARD = 1024, 128, 4, 4, 2, 384
END_OF_TEXT, TURN_END = 1021, 1023  # ids of tokenizer.py's special tokens

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
    "hidden_size": HIDDEN, "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HIDDEN // HEADS,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None,
    "max_position_embeddings": 512, "attention_bias": False, "mlp_bias": False,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": TURN_END,
    "pad_token_id": END_OF_TEXT, "torch_dtype": "bfloat16"}
GENERATION = {"eos_token_id": [TURN_END, END_OF_TEXT], "pad_token_id": END_OF_TEXT,
              "do_sample": False}


def shapes():
    kv = HIDDEN * KV_HEADS // HEADS
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (HIDDEN,)
        for name, rows in (("q", HIDDEN), ("k", kv), ("v", kv), ("o", HIDDEN)):
            yield at + f"self_attn.{name}_proj.weight", (rows, HIDDEN)
        yield at + "post_attention_layernorm.weight", (HIDDEN,)
        yield at + "mlp.gate_proj.weight", (FEED_FORWARD, HIDDEN)
        yield at + "mlp.up_proj.weight", (FEED_FORWARD, HIDDEN)
        yield at + "mlp.down_proj.weight", (HIDDEN, FEED_FORWARD)
    yield "model.norm.weight", (HIDDEN,)


def bf16(value):
    """The 16 upper bits of the float, rounded to even."""
    bits, = struct.unpack("<I", struct.pack("<f", value))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def values(name, shape, rng):
    count = math.prod(shape)
    if len(shape) == 1:
        return [1.0] * count
    ends_branch = "o_proj" in name or "down_proj" in name
    deviation = 1 / math.sqrt(HIDDEN * (2 * LAYERS if ends_branch else 1))
    return [rng.gauss(0, deviation) for _ in range(count)]


def write(folder, seed=3):
    rng, header, data = random.Random(seed), {"__metadata__": {"format": "pt"}}, array.array("H")
    for name, shape in shapes():
        begin = 2 * len(data)
        data.extend(bf16(v) for v in values(name, shape, rng))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, 2 * len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if sys.byteorder == "big":
        data.byteswap()
    with open(folder + "/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data.tobytes())
    for file, value in (("config.json", CONFIG), ("generation_config.json", GENERATION)):
        with open(f"{folder}/{file}", "w", encoding="utf-8") as f:
            f.write(json.dumps(value, indent=1) + "\n")
    return len(data)


if __name__ == "__main__":
    print(f"{write(sys.argv[1]):,} parameters")
