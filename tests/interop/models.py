"""Tiny random base models of every supported family, as transformers writes them.

Sizes are chosen to be awkward: 4-bit blocks cross rows (no width but the hidden size is a multiple
of 64), windows and original lengths are shorter than the rows, biases and norms are not what they
are initialized to."""
import json
import os

import torch
import transformers

import nibble

WIDTHS = dict(hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, vocab_size=320, max_position_embeddings=256, rms_norm_eps=1e-5,
              bos_token_id=nibble.BOS, eos_token_id=nibble.EOS, tie_word_embeddings=False)
WINDOW = 9  # tokens; rows have 5 to 40


def rope(kind, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=10000.0, **more))


# name: configuration class, its keys; "old": config.json in the form of transformers 4
FAMILIES = {
    "llama2": ("Llama", dict(num_key_value_heads=4)),
    "llama2-tied": ("Llama", dict(tie_word_embeddings=True, old=True)),
    "llama3": ("Llama", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=32)),
    "llama3-old-tied": ("Llama", dict(tie_word_embeddings=True, old=True, **rope(
        "llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16))),
    "llama-linear": ("Llama", dict(old=True, **rope("linear", factor=4.0))),
    "llama-dynamic": ("Llama", rope("dynamic", factor=2.0)),
    "llama-yarn": ("Llama", rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    "llama-head-dim": ("Llama", dict(head_dim=24, attention_bias=True, mlp_bias=True)),
    "mistral": ("Mistral", dict(sliding_window=WINDOW)),
    "mistral-full": ("Mistral", dict(sliding_window=None, head_dim=24)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2-sliding": ("Qwen2", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=WINDOW,
                                    max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=32, tie_word_embeddings=True)),
    "qwen3-untied-yarn": ("Qwen3", dict(head_dim=24, **rope("yarn", factor=2.0, original_max_position_embeddings=24))),
}


def randomize(model, seed):
    """Matrices keep the size of what goes through them; norms and biases get values that matter."""
    chance = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=chance)
        if p.ndim == 2:
            p.data = noise / p.shape[1] ** 0.5
        else:
            p.data = 0.1 * noise + (1.0 if "norm" in name else 0.0)


def to_old_form(path):
    """rope_parameters and dtype as rope_theta, rope_scaling and torch_dtype."""
    with open(path) as f:
        c = json.load(f)
    scaling = c.pop("rope_parameters")
    c["rope_theta"] = scaling.pop("rope_theta")
    c["rope_scaling"] = scaling if scaling["rope_type"] != "default" else None
    c["torch_dtype"] = c.pop("dtype")
    nibble.write(path, json.dumps(c, indent=2))


def make_base(folder, family, dtype=torch.float32, seed=1):
    """A Hugging Face folder; returns it."""
    kind, keys = FAMILIES[family]
    keys = dict(WIDTHS, **keys)
    old = keys.pop("old", False)
    config = getattr(transformers, kind + "Config")(**keys)
    model = transformers.AutoModelForCausalLM.from_config(config)
    randomize(model, seed)
    model.to(dtype).save_pretrained(folder)
    nibble.write_tokenizer(folder)
    if old:
        to_old_form(os.path.join(folder, "config.json"))
    return folder
