#!/usr/bin/env python3
"""Do the real libraries read what checkpoints/ writes, and the other way round?

    cmake --build build --target interop_formats
    python3 tests/interop/formats.py build/tests/interop_formats

Needs torch, transformers, peft, bitsandbytes, safetensors, h5py; not part of the test suite.
"""
import copy
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import bitsandbytes as bnb
import h5py
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

TOOL = sys.argv[1]
ROWS, COLS, RANK = 172, 64, 4


def run(*arguments):
    subprocess.run([TOOL, *map(str, arguments)], check=True)


def values(n, first=0):
    i = np.arange(first, first + n, dtype=np.int64)
    return (((i * 7919 + 13) % 1024 - 512) / 512).astype(np.float32)


def tiny_llama():
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=128, hidden_size=COLS, intermediate_size=ROWS, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    return LlamaForCausalLM(config).eval()


def our_adapter_in_peft(folder):
    """By logits: a wrong key would load as B = 0 with only a warning."""
    base, ids = tiny_llama(), torch.arange(20).reshape(1, 20)
    merged = copy.deepcopy(base)
    a = torch.from_numpy(values(RANK * COLS).reshape(RANK, COLS))
    b = torch.from_numpy(values(ROWS * RANK, 1000).reshape(ROWS, RANK))
    with torch.no_grad():
        merged.model.layers[1].mlp.up_proj.weight += 6 / math.sqrt(RANK) * (b @ a)
        want, plain = merged(ids).logits, base(ids).logits
        got = PeftModel.from_pretrained(base, folder).eval()(ids).logits
    assert (want - plain).abs().max() > 1e-2
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    with safe_open(folder / "adapter_model.safetensors", "pt") as f:
        assert f.metadata() == {"format": "pt"}
    again = folder / "again.safetensors"
    save_file(load_file(folder / "adapter_model.safetensors"), again, metadata={"format": "pt"})
    assert again.read_bytes() == (folder / "adapter_model.safetensors").read_bytes()


def pefts_adapter_here(folder):
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, lora_alpha=10, target_modules=["q_proj", "up_proj"],
                                                    alpha_pattern={"up_proj": 3}, rank_pattern={"up_proj": 2}))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    model.save_pretrained(folder / "theirs")
    for module in ("self_attn.q_proj", "mlp.up_proj"):
        run("read-peft", folder / "theirs", f"model.layers.1.{module}", folder / "delta.f32")
        layer = model.get_submodule(f"base_model.model.model.layers.1.{module}")
        want = layer.get_delta_weight("default").detach().numpy()
        got = np.fromfile(folder / "delta.f32", np.float32).reshape(want.shape)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def decode(parts, name):
    """bitsandbytes' own parsing of the parts; exact decoding (its AVX-512 one is wrong for odd rows)."""
    stats = {k: v for k, v in parts.items() if k.startswith(name + ".")}
    state = bnb.functional.QuantState.from_dict({k[len(name) + 1:]: v for k, v in stats.items()}, "cpu")
    packed = parts[name].reshape(-1).view(torch.uint8).numpy()
    codes = np.stack([packed >> 4, packed & 15], 1).reshape(-1)[: math.prod(state.shape)]
    absmax = state.absmax
    if state.nested:
        absmax = state.state2.code[absmax.long()].numpy() * state.state2.absmax.numpy().repeat(256)[: absmax.numel()]
        absmax = absmax + np.float32(state.offset)
    absmax = np.asarray(absmax, np.float32).repeat(state.blocksize)[: codes.size]
    return state, (state.code.numpy()[codes] * absmax).reshape(state.shape)


def our_bnb_there(folder):
    state, got = decode(load_file(folder / "bnb/model.safetensors"), "w.weight")
    assert state.quant_type == "nf4" and state.nested and state.dtype == torch.float32
    run("read-bnb", folder / "bnb", "w.weight", folder / "w.f32")
    np.testing.assert_array_equal(np.fromfile(folder / "w.f32", np.float32).reshape(got.shape), got)
    assert np.abs(got - values(ROWS * COLS).reshape(ROWS, COLS)).max() < 0.2


def their_bnb_here(folder):
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            for storage in (torch.uint8, torch.bfloat16):
                torch.manual_seed(2)
                w = torch.nn.Parameter(torch.randn(ROWS, 4 * COLS), requires_grad=False)
                packed, state = bnb.functional.quantize_4bit(w, quant_type=kind, compress_statistics=nested,
                                                             quant_storage=storage)
                parts = {"w.weight": packed}
                parts.update({"w.weight." + k: v for k, v in state.as_dict(packed=True).items()})
                theirs = folder / "theirs-bnb"
                theirs.mkdir(exist_ok=True)
                save_file(parts, theirs / "model.safetensors")
                run("read-bnb", theirs, "w.weight", folder / "w.f32")
                _, want = decode(parts, "w.weight")
                np.testing.assert_array_equal(np.fromfile(folder / "w.f32", np.float32).reshape(want.shape), want)


def our_hdf5_in_h5py(folder):
    with h5py.File(folder / "run/checkpoints/step-000005.h5") as f:
        assert json.loads(f["json"][:].tobytes()) == {"answer": 42}
        want = values(ROWS * COLS).reshape(ROWS, COLS)
        np.testing.assert_array_equal(f["f32"][:], want)
        np.testing.assert_array_equal(f["f16"][:], want.astype(np.float16))
        bf16 = torch.from_numpy(want).bfloat16().float().numpy()
        np.testing.assert_array_equal(f["bf16"][:].astype(np.float32), bf16)
    with h5py.File(folder / "cache.h5") as f:
        np.testing.assert_array_equal(f["layer.0"][:].view(np.float32).reshape(-1), values(5000))
        assert f["layer.0"].id.get_offset() % 4096 == 0


with tempfile.TemporaryDirectory() as name:
    scratch = pathlib.Path(name)
    run("write", scratch)
    our_adapter_in_peft(scratch / "adapter")
    pefts_adapter_here(scratch)
    our_bnb_there(scratch)
    their_bnb_here(scratch)
    our_hdf5_in_h5py(scratch)
print("all formats agree with the real libraries")
