"""Twenty steps from the same adapter and the same rows, there and here: losses, gradient norms,
learning rates and the adapter's update must agree.

One row of the table is a family; it is trained with each way of storing the base, packed and not.
The rest of a job goes around with the number of the run, so that every family meets every schedule:
accumulation over rows of unequal length with a short last group in every epoch, clipping that bites,
weight decay, target subsets, rsLoRA."""
import json
import os

import torch
from safetensors.torch import load_file

import models
import nibble
import ours
import theirs

STEPS, ROWS, PEAK = 20, 34, 0.004
BASES = [("nf4", True), ("nf4", False), ("fp4", False)]  # code book, double quantization
SCHEDULES = [
    dict(lr_scheduler="constant", warmup_steps=0),
    dict(lr_scheduler="constant_with_warmup", warmup_steps=4),
    dict(lr_scheduler="linear", warmup_steps=3),
    dict(lr_scheduler="cosine", warmup_steps=2),
    dict(lr_scheduler="cosine", warmup_steps=0, cosine_min_lr_ratio=0.2),
]
CLIPS = [0.1, 0, 1.0]  # the first bites at every step; 0: none
DECAYS = [0.0, 0.05]
ADAPTERS = [
    dict(r=8, lora_alpha=16, target_modules=theirs.LINEARS),
    dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True),
    dict(r=6, lora_alpha=3, target_modules=["k_proj", "o_proj", "gate_proj", "up_proj"]),
]


def chunks(items, n):
    return [items[i:i + n] for i in range(0, len(items), n)]


def fill_bins(rows, capacity):
    """In the rows' order; a bin is closed when the next row does not fit."""
    bins, used = [], capacity
    for row in rows:
        n = len(row["input_ids"])
        if used + n > capacity:
            bins.append([])
            used = 0
        bins[-1].append(row)
        used += n
    return bins


def their_groups(rows, job):
    """The batches of each of STEPS steps; epochs follow each other, each with its own last group."""
    if job["sample_packing"]:
        batches = [theirs.packed(b) for b in fill_bins(rows, job["sequence_len"])]
    else:
        batches = [theirs.padded(b) for b in chunks(rows, job["micro_batch_size"])]
    groups = chunks(batches, job["gradient_accumulation_steps"])
    return [groups[i % len(groups)] for i in range(STEPS)]


def make_job(number, base, packing):
    adapter = ADAPTERS[number // 2 % len(ADAPTERS)]
    job = dict(base_model="base", datasets=[dict(path="rows.jsonl", type=None)], output_dir="out",
               adapter="qlora", load_in_4bit=True, lora_model_dir="adapter",
               bnb_config_kwargs=dict(bnb_4bit_quant_type=base[0], bnb_4bit_use_double_quant=base[1]),
               lora_r=adapter["r"], lora_alpha=adapter["lora_alpha"], lora_target_modules=adapter["target_modules"],
               peft_use_rslora=adapter.get("use_rslora", False), lora_dropout=0,
               sequence_len=72 if packing else 64, sample_packing=packing, sample_packing_sequentially=packing,
               curriculum_sampling=True, shuffle_merged_datasets=False,
               micro_batch_size=1 if packing else 2, gradient_accumulation_steps=3 if packing else 4,
               max_steps=STEPS, optimizer="adamw_torch", learning_rate=PEAK, weight_decay=DECAYS[number % len(DECAYS)],
               max_grad_norm=CLIPS[number % len(CLIPS)], bf16=False, fp16=False, save_strategy="no")
    job.update(SCHEDULES[number % len(SCHEDULES)])
    return job, adapter


def compare(what, want, got, first, along):
    """The largest relative difference; an error beyond the tolerances."""
    worst = 0.0
    for i, (a, b) in enumerate(zip(want, got)):
        off = abs(b - a) / max(abs(a), 1e-12)
        if not off <= (first if i == 0 else along):
            raise ours.Differs("%s at step %d: %.9g there, %.9g here" % (what, i + 1, a, b))
        worst = max(worst, off)
    return worst


def compare_updates(start, want, got):
    if set(want) != set(got):
        raise ours.Differs("the adapters hold other tensors: %s" % sorted(set(want) ^ set(got))[:3])
    worst = 0.0
    for name in want:
        there, here = want[name] - start[name], got[name] - start[name]
        if there.norm() < 0.05 * start[name].norm():
            raise ours.Differs("%s hardly changes: choose other settings" % name)
        off = float((here - there).norm() / there.norm())
        if not off <= 1e-2:
            raise ours.Differs("the update of %s is %.2e off" % (name, off))
        worst = max(worst, off)
    return worst


def run_pair(folder, number, base, packing):
    """Trains both; the largest differences of losses, norms and updates."""
    job, adapter = make_job(number, base, packing)
    os.makedirs(folder)
    at = lambda *names: os.path.join(folder, *names)
    os.symlink(os.path.join(os.path.dirname(folder), "base"), at("base"))
    theirs.make_adapter(at("base"), at("adapter"), seed=number, lora_dropout=0.0, **adapter)
    nibble.make_rows(at("rows.jsonl"), count=ROWS, least=5, most=40, seed=number)
    nibble.write_config(at("config.yaml"), job)
    ours.run(folder, "train", "--config", "config.yaml")
    with open(at("rows.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    model = theirs.load_adapter(theirs.load(at("base"), base), at("adapter"), trainable=True)
    losses, norms, rates = theirs.train(model, their_groups(rows, job), job)
    steps = nibble.steps(at("out"))
    if len(steps) != STEPS:
        raise ours.Differs("%d steps instead of %d" % (len(steps), STEPS))
    if job["max_grad_norm"] and job["max_grad_norm"] < 1 and min(norms) <= job["max_grad_norm"]:
        raise ours.Differs("the clipping does not bite: choose another limit")
    compare("learning rate", [r or PEAK for r in rates], [m["lr"] or PEAK for m in steps], 1e-7, 1e-7)
    loss = compare("loss", losses, [m["loss"] for m in steps], 1e-4, 1e-3)
    norm = compare("gradient norm", norms, [m["grad_norm"] for m in steps], 1e-4, 1e-3)
    update = compare_updates(load_file(at("adapter", "adapter_model.safetensors")), theirs.adapter_tensors(model),
                             load_file(at("out", "adapter_model.safetensors")))
    return loss, norm, update


def train_family(place, family):
    models.make_base(place.path("base"), family)
    worst = (0.0, 0.0, 0.0)
    first = list(models.FAMILIES).index(family)
    for i, base in enumerate(BASES):
        for packing in (False, True):
            number = 7 * first + 2 * i + packing
            name = "%s%s%s" % (base[0], "+dq" if base[1] else "", ", packed" if packing else "")
            try:
                off = run_pair(place.path("run%d" % number), number, base, packing)
            except ours.Differs as e:
                raise ours.Differs("%s: %s" % (name, e))
            worst = tuple(max(a, b) for a, b in zip(worst, off))
    return "%d runs of %d steps: loss %.0e, norm %.0e, update %.0e off" % (2 * len(BASES), STEPS, *worst)


def row(family):
    return "training/" + family, lambda place: train_family(place, family)


TABLE = [row(family) for family in models.FAMILIES]
