"""Do the real libraries read what checkpoints/ writes, and the other way round? And what a training
run leaves behind: safetensors, HDF5, TensorBoard.

The C half is interop_formats (formats.c): it writes one of each with known numbers."""
import copy
import glob
import json
import math
import os
import pathlib
import subprocess

import bitsandbytes as bnb
import h5py
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import LlamaConfig, LlamaForCausalLM

import models
import nibble
import ours

TOOL = os.environ["NIBBLE_FORMATS"]
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


# ---- what a training run writes ----


def trained(place):
    """A run with evaluation and a checkpoint; its output folder."""
    models.make_base(place.path("base"), "llama2")
    nibble.make_rows(place.path("rows.jsonl"))
    nibble.write_config(place.path("config.yaml"), nibble.config(
        val_set_size=4, eval_steps=2, save_strategy="steps", save_steps=3))
    ours.run(place.path(), "train", "--config", "config.yaml")
    return place.path("out")


def tensorboard(place):
    """Every number of metrics.jsonl is a scalar, in the order of the steps, and none is too many."""
    out = trained(place)
    events = EventAccumulator(os.path.join(out, "runs"), size_guidance={"scalars": 0}).Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    want = {}
    for line in nibble.metrics(out):
        for key, value in line.items():
            if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                want.setdefault(key, []).append((line["step"], float(np.float32(value))))
    got = {}
    for tag in sorted(scalars):  # "train/loss", "eval/eval_loss"
        got.setdefault(tag.split("/", 1)[1], []).extend(scalars[tag])
    for key in sorted(set(want) | set(got)):
        if sorted(want.get(key, [])) != sorted(got.get(key, [])):
            raise ours.Differs("%s: %s in metrics.jsonl, %s in TensorBoard" % (
                key, want.get(key, [])[:3], got.get(key, [])[:3]))
    return "%d scalars of %d tags" % (sum(map(len, scalars.values())), len(scalars))


def run_files(place):
    """safetensors opens the adapter, and h5py all of a checkpoint: contiguous, without filters."""
    out = trained(place)
    adapter = load_file(os.path.join(out, "adapter_model.safetensors"))
    (path,) = glob.glob(os.path.join(out, "checkpoints", "step-000006.h5"))
    seen, plain = [], set()
    with h5py.File(path) as f:
        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                seen.append(name)
                plain.add(item.chunks is None and item.compression is None)
                item[()]
        f.visititems(visit)
        same = [k for k in adapter for name in seen
                if f[name].dtype == np.float32 and f[name].size == adapter[k].numel()
                and np.array_equal(f[name][()].reshape(-1), adapter[k].numpy().reshape(-1))]
    if plain != {True}:
        raise ours.Differs("a dataset of the checkpoint is chunked or filtered")
    if set(same) != set(adapter):
        raise ours.Differs("the checkpoint lacks %s of the adapter" % sorted(set(adapter) - set(same))[:3])
    return "%d datasets, the adapter's %d tensors among them" % (len(seen), len(adapter))


def row(check, *parts):
    def body(place):
        scratch = pathlib.Path(place.path())
        run("write", scratch)
        check(*(scratch / part if part else scratch for part in parts))
        return check.__name__.replace("_", " ")
    return body


TABLE = [
    ("files/peft", row(our_adapter_in_peft, "adapter")),
    ("files/peft-here", row(pefts_adapter_here, "")),
    ("files/bitsandbytes", row(our_bnb_there, "")),
    ("files/bitsandbytes-here", row(their_bnb_here, "")),
    ("files/hdf5", row(our_hdf5_in_h5py, "")),
    ("files/run", run_files),
    ("files/tensorboard", tensorboard),
]
