#!/usr/bin/env python3
"""Tokens per second against PyTorch + PEFT + bitsandbytes: same machine, threads, rows, number format,
run in turn. Not part of the table of run.py: it takes long, and wants a quiet machine.

    ./run interop speed [--steps N] [--rounds N] [--threads N] [--precision fp32|bf16]
                        [--model DIR --data CHATS.jsonl] [--compiled] [--only NAME] [--out FILE.json]

Jobs: "llama-12x768", a random Llama of 12 layers, 768 wide, vocabulary 32,000, tied, 4 rows of 512 tokens
a step; and with --model "chats", that model on the chats' rows of 100 to 400 tokens, 8 a step, which the
other side pads. Rank 16 on all linears, NF4 with double quantization, AdamW, no recomputing.
bf16 where the processor multiplies it natively, else fp32, on both sides. --compiled adds a third
runner: torch.compile on a base that is not quantized, in 16 bits where that is fast.

Each round runs every side once, each in a process of its own; the first --warm steps of a process do
not count. A ratio is taken within a round. The first losses must agree, or the work is not the same."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import run

SHORTEST, LONGEST = 100, 400  # tokens of the chats' rows
RANK, ALPHA, PEAK = 16, 32, 0.0002
LLAMA = dict(vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
             num_attention_heads=12, num_key_value_heads=4, max_position_embeddings=2048,
             tie_word_embeddings=True, bos_token_id=256, eos_token_id=257)


def native_bf16():
    """What `bf16: auto` asks for: AVX512-BF16 or AMX."""
    try:
        with open("/proc/cpuinfo") as f:
            flags = f.read().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


# ---- jobs ----


def write_rows(path, rows):
    with open(path, "w") as f:
        for ids, known in rows:
            f.write(json.dumps(dict(input_ids=ids, labels=[-100] * known + ids[known:])) + "\n")


def make_llama(folder, count):
    """The random model and `count` rows of 512 tokens; returns rows a step."""
    import random
    import torch
    import transformers
    import nibble
    torch.manual_seed(1)
    base = os.path.join(folder, "base")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    model.to(torch.bfloat16).save_pretrained(base)
    nibble.write_tokenizer(base)
    chance = random.Random(1)
    write_rows(os.path.join(folder, "rows.jsonl"),
               [([chance.randrange(LLAMA["vocab_size"]) for _ in range(512)], 1) for _ in range(4 * count)])
    return 4


def make_chats(folder, count, model, data):
    """Rows by the model's own chat template; the last turn is learned."""
    import transformers
    os.symlink(os.path.abspath(model), os.path.join(folder, "base"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    ids_of = lambda messages, prompt: tokenizer.apply_chat_template(
        messages, add_generation_prompt=prompt, tokenize=True, return_dict=False)
    rows = []
    with open(data, encoding="utf-8") as f:
        for line in f:
            messages = json.loads(line)["messages"]
            ids = ids_of(messages, False)
            if SHORTEST <= len(ids) <= LONGEST:
                rows.append((ids, len(ids_of(messages[:-1], True))))
            if len(rows) == 8 * count:
                break
    write_rows(os.path.join(folder, "rows.jsonl"), rows)
    return 8


def make_job(folder, batch, args):
    job = dict(base_model="base", datasets=[dict(path="rows.jsonl", type=None)], output_dir="out", adapter="qlora",
               load_in_4bit=True, lora_r=RANK, lora_alpha=ALPHA, lora_target_linear=True, lora_dropout=0,
               sequence_len=512, micro_batch_size=batch, gradient_accumulation_steps=1,
               max_steps=args.warm + args.steps, curriculum_sampling=True, shuffle_merged_datasets=False,
               optimizer="adamw_torch_fused", learning_rate=PEAK, lr_scheduler="constant", weight_decay=0,
               max_grad_norm=1, warmup_steps=0, bf16=args.precision == "bf16", fp16=False, save_strategy="no")
    with open(os.path.join(folder, "job.json"), "w") as f:
        json.dump(dict(job, threads=args.threads), f)
    return job


# ---- the sides: a list of steps with tokens, seconds, loss ----


def run_here(folder, job, args):
    import ours
    import nibble
    nibble.TIMEOUT = None
    out = "out-%d" % time.monotonic_ns()
    nibble.write_config(os.path.join(folder, "config.yaml"), dict(job, output_dir=out))
    ours.run(folder, "train", "--config", "config.yaml", "--threads", args.threads, "--quiet")
    return [dict(tokens=m["tokens"], seconds=m["step_seconds"], loss=m["loss"])
            for m in nibble.steps(os.path.join(folder, out))]


def run_there(folder, kind, args):
    environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    p = subprocess.run([sys.executable, os.path.abspath(__file__), "--worker", kind, folder], env=environment,
                       stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(p.stdout.splitlines()[-1])


def worker(kind, folder):
    """The other side, in a process of its own; prints its steps as JSON."""
    import peft
    import torch
    import theirs
    with open(os.path.join(folder, "job.json")) as f:
        job = json.load(f)
    with open(os.path.join(folder, "rows.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    torch.set_num_threads(job["threads"])
    dtype = torch.bfloat16 if job["bf16"] else torch.float32
    base = os.path.join(folder, job["base_model"])
    model = theirs.load(base, ("nf4", True) if kind == "stack" else None, dtype)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA,
                                                      target_modules=theirs.LINEARS)).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, weight_decay=0, fused=True)
    compute = torch.compile(model) if kind == "compiled" else model
    steps, batch = [], job["micro_batch_size"]
    for i in range(job["max_steps"]):
        documents = rows[i * batch:(i + 1) * batch]
        start = time.perf_counter()
        inputs, labels = theirs.padded(documents)
        loss = theirs.cross_entropy_sum(compute, (inputs, labels)) / int((labels[:, 1:] != -100).sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, job["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        steps.append(dict(tokens=sum(len(d["input_ids"]) for d in documents), loss=loss.item(),
                          seconds=time.perf_counter() - start))
    print(json.dumps(steps))


# ---- the comparison ----


def rate(steps, warm):
    counted = steps[warm:]
    return sum(s["tokens"] for s in counted) / sum(s["seconds"] for s in counted)


def check_same_work(name, first, args):
    """The adapters' B is zero, so the first loss is the base's, whatever A is."""
    want = first["stack"]
    for side, loss in first.items():
        tolerance = 1e-3 if args.precision == "fp32" and side == "nibble" else 5e-2
        if abs(loss - want) > tolerance * want:
            sys.exit("speed: %s: the first loss is %.5f with %s and %.5f with the stack: not the same work"
                     % (name, loss, side, want))


def measure(name, folder, batch, args):
    job = make_job(folder, batch, args)
    sides = ["nibble", "stack"] + ["compiled"] * args.compiled
    rates, first = {s: [] for s in sides}, {}
    for i in range(args.rounds):
        for side in sides if i % 2 == 0 else sides[::-1]:
            steps = run_here(folder, job, args) if side == "nibble" else run_there(folder, side, args)
            rates[side].append(rate(steps, args.warm))
            first[side] = steps[0]["loss"]
            print("%s, round %d, %s: %.1f tokens/s" % (name, i + 1, side, rates[side][-1]), file=sys.stderr)
    check_same_work(name, first, args)
    result = dict(job=name, precision=args.precision, threads=args.threads, steps=args.steps, rounds=args.rounds,
                  tokens_per_second=rates)
    for side in sides[1:]:
        ratios = [a / b for a, b in zip(rates["nibble"], rates[side])]
        result["over_" + side] = dict(median=statistics.median(ratios), least=min(ratios), most=max(ratios))
        print("%-14s %s, %d threads: nibble %8.1f tokens/s, %-8s %8.1f, ratio %.2f (%.2f to %.2f)" % (
            name, args.precision, args.threads, statistics.median(rates["nibble"]), side,
            statistics.median(rates[side]), *(result["over_" + side][k] for k in ("median", "least", "most"))),
            flush=True)
    return result


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="steps of a process that count (6)")
    parser.add_argument("--warm", type=int, default=2, help="steps before them (2)")
    parser.add_argument("--rounds", type=int, default=3, help="times that every side runs (3)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every side (all)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16" if native_bf16() else "fp32")
    parser.add_argument("--model", help="a Hugging Face folder, for the job \"chats\"")
    parser.add_argument("--data", help="JSON lines with messages, for the job \"chats\"")
    parser.add_argument("--compiled", action="store_true", help="torch.compile on an unquantized base too")
    parser.add_argument("--only", default="", help="the job of this name")
    parser.add_argument("--out", help="JSON file (interop-speed.json in the build folder)")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if bool(args.model) != bool(args.data):
        parser.error("--model and --data belong together")
    return args


def main():
    args = parse()
    run.enter(__file__)
    sys.path[:0] = [run.HERE, os.path.join(os.path.dirname(run.HERE), "run")]
    if args.worker:
        return worker(*args.worker)
    makers = {"llama-12x768": make_llama}
    if args.model:
        makers["chats"] = lambda folder, count: make_chats(folder, count, args.model, args.data)
    results = []
    for name, make in makers.items():
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="nibble-speed-") as folder:
            batch = make(folder, args.warm + args.steps)
            results.append(measure(name, folder, batch, args))
    out = args.out or os.path.join(os.path.dirname(os.environ["NIBBLE_TRAIN"]), "interop-speed.json")
    with open(out, "w") as f:
        json.dump(results, f, indent=1)
    print("written to " + out, file=sys.stderr)


if __name__ == "__main__":
    main()
