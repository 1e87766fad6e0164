#!/usr/bin/env python3
"""How fast data becomes training rows, against the Python libraries on the same machine. Like speed.py
not part of run.py's table: it wants a quiet machine.

    ./run interop data_speed [--rows N] [--rounds N] [--model DIR] [--only tokenize|prepare] [--out FILE.json]

tokenize: wikitext and gsm8k line by line on one thread, against the `tokenizers` library, for each
          tokenizer in the fixtures (or --model alone).
prepare:  N conversations of one to four exchanges rendered by the model's own chat template, tokenized,
          masked and packed: `train check` with all cores on all of them, against `apply_chat_template` in as
          many processes on a fifth of them (rendered and tokenized once whole and once up to each answer
          for the mask; not packed). The ratio is of the two times: 1 means five times as fast.

A ratio is taken within a round; the rows of both sides must be the same, token for token and mask for mask."""
import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

import run

PART = 5  # the other side takes one row of so many
COMPARED = 200


def fixtures():
    return os.environ["NIBBLE_FIXTURES"]


# ---- tokenize ----


def lines_of(limit=4 << 20):
    """Text as a data set has it."""
    lines, size = [], 0
    with open(os.path.join(fixtures(), "datasets", "wikitext2_test.txt"), encoding="utf-8") as f:
        lines += [line.rstrip("\n") for line in f if line.strip()]
    with open(os.path.join(fixtures(), "datasets", "gsm8k_train.jsonl"), encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            lines += row["question"].splitlines() + row["answer"].splitlines()
    for i, line in enumerate(lines):
        size += len(line.encode())
        if size > limit:
            return lines[:i]
    return lines


def time_theirs(folder, lines):
    from tokenizers import Tokenizer
    t = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    best = 1e9
    for _ in range(2):  # ours is the best of a few too, with what it keeps of words at hand
        start = time.perf_counter()
        for line in lines:
            t.encode(line, add_special_tokens=False)
        best = min(best, time.perf_counter() - start)
    return best


def time_ours(folder, text):
    p = subprocess.run([os.environ["NIBBLE_TRAIN"], "bench", "--quick", "--model", folder, "--data", text,
                        "--format", "json", "--quiet"], stdout=subprocess.PIPE, check=True)
    return os.path.getsize(text) / 1e6 / json.loads(p.stdout)["results"]["tokenizer"]["median"]


def tokenize(args):
    lines, found = lines_of(), {}
    text = os.path.join(args.folder, "lines.txt")
    with open(text, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    base = os.path.join(fixtures(), "tokenizers")
    for folder in [args.model] if args.model else sorted(os.path.join(base, n) for n in os.listdir(base)):
        if not os.path.exists(os.path.join(folder, "tokenizer.json")):
            continue
        ratios = [time_theirs(folder, lines) / time_ours(folder, text) for _ in range(args.rounds)]
        found["tokenize " + os.path.basename(os.path.normpath(folder))] = ratios
    return found


# ---- prepare ----


def write_conversations(path, count):
    with open(os.path.join(fixtures(), "datasets", "gsm8k_train.jsonl"), encoding="utf-8") as f:
        pairs = [json.loads(line) for line in f]
    chance = random.Random(3)
    with open(path, "w", encoding="utf-8") as f:
        for _ in range(count):
            messages = [{"role": "system", "content": "Answer step by step."}] if chance.random() < 0.5 else []
            for pair in chance.sample(pairs, chance.randint(1, 4)):
                messages += [{"role": "user", "content": pair["question"]},
                             {"role": "assistant", "content": pair["answer"]}]
            f.write(json.dumps({"messages": messages}) + "\n")


def make_model(folder, tokenizer):
    """A tiny model with that tokenizer: preparing data needs no more of it."""
    import shutil
    import nibble
    size = 0
    with open(os.path.join(tokenizer, "tokenizer.json"), encoding="utf-8") as f:
        t = json.load(f)
    size = max([len(t["model"]["vocab"])] + [a["id"] + 1 for a in t["added_tokens"]])
    nibble.make_model(folder, vocab_size=-(-size // 64) * 64, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                      num_attention_heads=1, num_key_value_heads=1, head_dim=8, max_position_embeddings=1 << 16)
    for name in os.listdir(tokenizer):
        if name.startswith(("tokenizer", "special_tokens", "chat_template")):
            shutil.copy(os.path.join(tokenizer, name), folder)


worker = {}


def open_worker(folder):
    from transformers import AutoTokenizer
    worker["tokenizer"] = AutoTokenizer.from_pretrained(folder)


def prepare_one(line):
    """Ids and labels: an answer's tokens behind its generation prompt, up to and with the token that
    ends its turn."""
    t, messages = worker["tokenizer"], json.loads(line)["messages"]
    ids = t.apply_chat_template(messages, return_dict=True)["input_ids"]
    labels = [-100] * len(ids)
    for i, m in enumerate(messages):
        if m["role"] != "assistant":
            continue
        first = len(t.apply_chat_template(messages[:i], add_generation_prompt=True, return_dict=True)["input_ids"])
        last = len(t.apply_chat_template(messages[:i + 1], return_dict=True)["input_ids"])
        while last > first and ids[last - 1] not in t.all_special_ids:
            last -= 1  # what stands behind the turn's end
        labels[first:last] = ids[first:last]
    return ids, labels


def read_lines(path, count):
    with open(path, encoding="utf-8") as f:
        return [next(f) for _ in range(count)]


def prepare_theirs(args, folder, path):
    lines, threads = read_lines(path, args.rows // PART), len(os.sched_getaffinity(0))
    with multiprocessing.Pool(threads, open_worker, (folder,)) as pool:
        pool.map(prepare_one, lines[:2 * threads])  # all have begun
        start = time.perf_counter()
        pool.map(prepare_one, lines, chunksize=64)
        return time.perf_counter() - start


def write_config(args, folder, path):
    import nibble
    config = os.path.join(args.folder, "config.yaml")
    nibble.write_config(config, nibble.config(
        folder, sequence_len=4096, sample_packing=True, dataset_prepared_path=None, num_epochs=1, max_steps="absent",
        shuffle_merged_datasets=False, datasets=[{"path": path, "type": "chat_template"}]))
    return config


def check(config, *more):
    return subprocess.run([os.environ["NIBBLE_TRAIN"], "check", "--config", config, "--quiet", *more],
                          stdout=subprocess.PIPE, check=True).stdout


def prepare_ours(config):
    start = time.perf_counter()
    check(config)
    return time.perf_counter() - start


def assert_same(folder, config, path):
    open_worker(folder)
    want = [prepare_one(line) for line in read_lines(path, COMPARED)]
    got = [json.loads(line) for line in check(config, "--format", "json", "--show", str(COMPARED)).splitlines()]
    for i, (a, b) in enumerate(zip(want, got)):
        assert a == (b["ids"], b["labels"]), "row %d differs" % i
    assert len(got) == COMPARED


def prepare(args):
    tokenizer = args.model or os.path.join(fixtures(), "tokenizers", "qwen2_5")
    folder, path = os.path.join(args.folder, "base"), os.path.join(args.folder, "chats.jsonl")
    make_model(folder, tokenizer)
    write_conversations(path, args.rows)
    config = write_config(args, folder, path)
    assert_same(folder, config, path)
    ratios = []
    for _ in range(args.rounds):
        ours = prepare_ours(config)
        theirs = prepare_theirs(args, folder, path)
        print("prepare: %d rows in %.1f s here, %d in %.1f s there" % (args.rows, ours, args.rows // PART, theirs))
        ratios.append(theirs / ours)
    return {"prepare " + os.path.basename(os.path.normpath(tokenizer)): ratios}


# ---- the table ----


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100000, help="conversations (100,000)")
    parser.add_argument("--rounds", type=int, default=3, help="times that both sides run (3)")
    parser.add_argument("--model", help="a folder with a tokenizer")
    parser.add_argument("--only", default="", help="tokenize or prepare")
    parser.add_argument("--out", help="JSON file (interop-data-speed.json in the build folder)")
    args = parser.parse_args()
    run.enter(__file__)
    sys.path[:0] = [run.HERE, os.path.join(os.path.dirname(run.HERE), "run")]
    found = {}
    with tempfile.TemporaryDirectory() as args.folder:
        for job in (tokenize, prepare):
            if args.only in job.__name__:
                found.update(job(args))
    for name, ratios in found.items():
        print("%-28s %6.2f x (%.2f to %.2f)" % (name, statistics.median(ratios), min(ratios), max(ratios)))
    out = args.out or os.path.join(os.path.dirname(os.environ["NIBBLE_TRAIN"]), "interop-data-speed.json")
    with open(out, "w") as f:
        json.dump(found, f, indent=1)


if __name__ == "__main__":
    main()
