"""Adapters and models go there and back: log-probabilities of every token must agree.

One row of the table is a family. An adapter made by PEFT is trained further here on a 4-bit base;
what comes out is loaded by PEFT on the plain base and on the 4-bit one and trained further there.
Then the exports: merged, merged in 4 bits, and the other way round a checkpoint of bitsandbytes,
evaluated, and trained on, here."""
import json
import os

import torch
from safetensors.torch import load_file

import models
import nibble
import ours
import theirs
import training

CLOSE = 1e-3  # in a log-probability; fp32 on both sides
SCORED = [[(7 * i * i + 11 * i + k) % 256 for i in range(n)] for k, n in ((3, 40), (5, 17), (11, 29))]

# what a PEFT adapter may look like
ADAPTERS = [
    dict(r=6, lora_alpha=12, target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True),
    dict(r=4, lora_alpha=10, target_modules="all-linear"),
    dict(r=4, lora_alpha=4, target_modules=r".*\.(self_attn\.[qk]_proj|mlp\.up_proj)"),
    dict(r=4, lora_alpha=8, target_modules=["o_proj", "gate_proj"], rank_pattern={"o_proj": 2},
         alpha_pattern={"gate_proj": 3}),
    dict(r=3, lora_alpha=5, target_modules=theirs.LINEARS, layers_to_transform=[1]),
]
BASES = [("nf4", True), ("fp4", True), ("nf4", False)]
STORED = [torch.float32, torch.bfloat16, torch.float16]


class Scores:
    """Compares log-probabilities and remembers the largest difference."""

    def __init__(self):
        self.worst = 0.0

    def same(self, what, there, here):
        off = max(abs(a - b) for x, y in zip(there, here) for a, b in zip(x, y))
        if [len(x) for x in there] != [len(x) for x in here] or not off <= CLOSE:
            raise ours.Differs("%s: a log-probability is %.2e off" % (what, off))
        self.worst = max(self.worst, off)

    def different(self, what, one, other):
        """So that equal scores mean something."""
        off = max(abs(a - b) for x, y in zip(one, other) for a, b in zip(x, y))
        if off < 10 * CLOSE:
            raise ours.Differs("%s changes nothing (%.1e)" % (what, off))


def number_formats(base):
    return ["load_in_4bit=true", "adapter=qlora", "bnb_config_kwargs.bnb_4bit_quant_type=" + base[0],
            "bnb_config_kwargs.bnb_4bit_use_double_quant=" + str(base[1]).lower()]


def make_job(base, adapter, model, start, out):
    return dict(base_model=model, datasets=[dict(path="rows.jsonl", type=None)], output_dir=out, adapter="qlora",
                load_in_4bit=True, lora_model_dir=start,
                bnb_config_kwargs=dict(bnb_4bit_quant_type=base[0], bnb_4bit_use_double_quant=base[1]),
                lora_r=adapter["r"], lora_alpha=adapter["lora_alpha"], lora_target_linear=True,
                peft_use_rslora=adapter.get("use_rslora", False), sequence_len=64, micro_batch_size=2,
                curriculum_sampling=True, shuffle_merged_datasets=False, max_steps=4, learning_rate=0.01,
                lr_scheduler="constant", warmup_steps=0, weight_decay=0, max_grad_norm=1, optimizer="adamw_torch",
                bf16=False, fp16=False, save_strategy="no")


def train_here(folder, job):
    nibble.write_config(os.path.join(folder, "config.yaml"), job)
    ours.run(folder, "train", "--config", "config.yaml")
    return os.path.join(folder, job["output_dir"])


def train_there(model, rows, job):
    batches = [theirs.padded(b) for b in training.chunks(rows, job["micro_batch_size"])]
    return theirs.train(model, [[b] for b in batches[:job["max_steps"]]], job)


def adapter_both_ways(place, base, adapter, scores):
    """Returns the folder of the adapter that was trained here."""
    model, start = place.path("base"), place.path("adapter")
    job = make_job(base, adapter, model, start, "out")
    out = train_here(place.path(), job)
    plain = theirs.log_probabilities(theirs.load(model), SCORED)
    there = theirs.log_probabilities(theirs.load_adapter(theirs.load(model), out), SCORED)
    scores.different("the adapter", plain, there)
    scores.same("our adapter on the plain base", there,
                ours.log_probabilities(place.path(), SCORED, "--model", model, "--adapter", out, "bf16=false"))
    quantized = theirs.load_adapter(theirs.load(model, base), out, trainable=True)
    scores.same("our adapter on the 4-bit base", theirs.log_probabilities(quantized, SCORED),
                ours.log_probabilities(place.path(), SCORED, "--model", model, "--adapter", out, "bf16=false",
                                       *number_formats(base)))
    with open(place.path("rows.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    losses, norms, _ = train_there(quantized, rows, job)
    here = nibble.steps(train_here(place.path(), dict(job, lora_model_dir="out", output_dir="again")))
    training.compare("loss of the continued run", losses, [m["loss"] for m in here], 1e-4, 1e-3)
    training.compare("gradient norm of the continued run", norms, [m["grad_norm"] for m in here], 1e-4, 1e-3)
    return out


def same_codes(folder, model):
    """What we quantized is, but for the JSON's padding, what bitsandbytes makes of the merged model."""
    ours_, theirs_ = load_file(os.path.join(folder, "model.safetensors")), model.state_dict()
    for name, want in theirs_.items():
        if "quant_state" in name or name == "lm_head.weight" and name not in ours_:
            continue
        if name not in ours_ or ours_[name].shape != want.shape or ours_[name].dtype != want.dtype:
            raise ours.Differs("merged-4bit: %s is missing or has another shape" % name)
        if "nested_absmax" in name or ".absmax" in name:  # the mean of the scales is not portable
            off = (ours_[name].float() - want.float()).abs().max()
            if off > (1 if want.dtype == torch.uint8 else 1e-5):
                raise ours.Differs("merged-4bit: %s is %g off" % (name, off))
        elif not torch.equal(ours_[name], want):
            raise ours.Differs("merged-4bit: %s differs" % name)


def exports(place, base, out, scores):
    """Our merged models there."""
    model, export = place.path("base"), ["--adapter", out, "bf16=false", *number_formats(base)]
    for kind in ("merged", "merged-4bit"):
        ours.run(place.path(), "export", "--model", model, "--kind", kind, "--out", place.path(kind), *export)
        scores.same(kind, theirs.log_probabilities(theirs.load(place.path(kind)), SCORED),
                    ours.log_probabilities(place.path(), SCORED, "--model", place.path(kind), "bf16=false"))
    stored = theirs.load(place.path("merged"), dtype="auto").dtype
    same_codes(place.path("merged-4bit"), theirs.load(place.path("merged"), base, dtype=stored))


def their_checkpoint(place, base, adapter, scores):
    """A 4-bit checkpoint that transformers wrote: scored, and trained on, here."""
    checkpoint = place.path("bnb")
    theirs.load(place.path("base"), base).save_pretrained(checkpoint)
    nibble.write_tokenizer(checkpoint)
    there = theirs.load(checkpoint)
    scores.same("a bitsandbytes checkpoint", theirs.log_probabilities(there, SCORED),
                ours.log_probabilities(place.path(), SCORED, "--model", checkpoint, "bf16=false"))
    job = make_job(base, adapter, checkpoint, place.path("adapter"), "on-bnb")
    with open(place.path("rows.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    losses, _, _ = train_there(theirs.load_adapter(there, place.path("adapter"), trainable=True), rows, job)
    here = nibble.steps(train_here(place.path(), job))
    training.compare("loss on a bitsandbytes checkpoint", losses, [m["loss"] for m in here], 1e-4, 1e-3)


def exchange(place, family):
    number = list(models.FAMILIES).index(family)
    base, adapter = BASES[number % len(BASES)], ADAPTERS[number % len(ADAPTERS)]
    models.make_base(place.path("base"), family, dtype=STORED[number // 2 % len(STORED)], seed=number)
    theirs.make_adapter(place.path("base"), place.path("adapter"), seed=number, **adapter)
    nibble.make_rows(place.path("rows.jsonl"), count=8, seed=number)
    scores = Scores()
    out = adapter_both_ways(place, base, adapter, scores)
    exports(place, base, out, scores)
    their_checkpoint(place, base, adapter, scores)
    return "adapter, merged, merged 4-bit, 4-bit checkpoint: log-probabilities %.0e off" % scores.worst


def row(family):
    return "exchange/" + family, lambda place: exchange(place, family)


TABLE = [row(family) for family in models.FAMILIES]
