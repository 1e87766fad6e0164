#!/usr/bin/env python3
"""What data can be trained on, as two tables for docs/compatibility.md: families of models, by tokenizer and
chat template, and formats of files. Every cell is a comparison, made now.

    ./run interop matrix [--count N] [--only families|formats]

ids, decode   the golden texts' kind: N / 10 random strings, with and without special tokens, and back
fuzz          N random mixed-script strings (100,000), with special tokens, and back
template      conversations of several shapes, rendered by the family's own template, against jinja2
masks         their tokens and which of them are learned, against a rule written anew here
read, slice   rows of the format against the same rows as JSON lines; parts of them by `split`
resume        training on it, stopped and resumed, has the adapter of the run that was not stopped
corrupt       cut off or damaged: exit 3 with the file's name, and no traceback

Exit status 1: a cell is not green."""
import argparse
import bisect
import datetime
import gzip
import json
import os
import random
import sys
import tempfile

import run

TODAY = datetime.datetime(2025, 7, 10, tzinfo=datetime.timezone.utc)


# ---- families ----


def conversations():
    """Shapes that chat data has, without tools."""
    def u(text):
        return {"role": "user", "content": text}

    def a(text):
        return {"role": "assistant", "content": text}
    chance, out = random.Random(5), []
    with open(os.path.join(os.environ["NIBBLE_FIXTURES"], "datasets", "gsm8k_train.jsonl"), encoding="utf8") as f:
        words = [w for w in json.loads(next(f))["question"].split() + json.loads(next(f))["question"].split()
                 if w.isalpha() and len(w) > 3]  # no word of a template's, nor part of a control token

    def some(n):
        return " ".join(chance.choice(words) for _ in range(chance.randint(1, n)))
    for i in range(60):
        c = [{"role": "system", "content": some(12)}] if i % 3 == 0 else []
        for _ in range(1 + i % 4):
            c += [u(some(20)), a(some(30))]
        out.append(c)
    out += [[u("\u6f22\u5b57, e\u0301, \U0001f600"), a(" \n spaces \t around \n ")], [u("x"), a("line\n\nline\n")],
            [u("only a question")]]
    return out


def render(template, messages, marks, prompt=False):
    import families
    from templates import compiled
    return compiled(template).render(messages=messages, tools=families.TOOLS.get(template), documents=None, add_generation_prompt=prompt,
                                     bos_token=marks[0], eos_token=marks[1], strftime_now=TODAY.strftime)


def rendered(template, messages, marks, prompt=False):
    """None where the template refuses."""
    try:
        return render(template, messages, marks, prompt)
    except Exception:
        return None


def learned_spans(template, messages, text, marks, control):
    """[from, to) of what is learned, by data/template_jinja.h's rule; None: the row is refused."""
    spans = []
    for i, m in enumerate(messages):
        if m["role"] != "assistant":
            continue
        prompt, before, upto = (rendered(template, messages[:n], marks, p)
                                for n, p in ((i, True), (i, False), (i + 1, False)))
        if prompt is None or upto is None or before is None:
            return None
        if not upto.startswith(prompt) and not upto.startswith(before):
            return None
        said = m["content"] if m["content"] in upto else m["content"].strip()
        first = upto.rindex(said)
        start, last = len(prompt) if upto.startswith(prompt) else first, first + len(said)
        ends = [(at, at + len(token)) for token in control for at in [text.find(token, last)] if at >= 0]
        if not ends or text[:min(ends)[1]] != upto[:min(ends)[1]]:
            return None
        spans.append((start, min(ends)[1]))
    return spans


def labels_of(library, text, spans):
    e = library.encode(text, add_special_tokens=False)
    labels = []
    for i, (first, last) in zip(e.ids, e.offsets):
        at = bisect.bisect_right([s[1] for s in spans], first)
        labels.append(i if at < len(spans) and last > spans[at][0] and first < spans[at][1] else -100)
    return e.ids, labels


def ask_chats(folder, path, chats, tools, *more):
    import subprocess
    text = "".join(json.dumps(dict(messages=c, tools=tools)) + "\n" for c in chats)
    p = subprocess.run([os.environ["NIBBLE_TRAIN"], "tokenize", "--model", folder, "--chat", "--template", path, "--quiet", *more],
                       input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       env=dict(os.environ, SOURCE_DATE_EPOCH="%d" % TODAY.timestamp()))
    return [json.loads(line) for line in p.stdout.decode().splitlines()]


def ask_template(folder, family, marks):
    """(renderings that agree, rows whose masks agree, rows that both refuse)"""
    import families
    from tokenizers import Tokenizer
    template, chats = families.template_of(family[3]), conversations()
    path, tools = os.path.join(folder, "own.jinja"), families.TOOLS.get(template)
    with open(path, "w", encoding="utf8") as f:
        f.write(template)
    library = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    control = sorted(t.content for t in library.get_added_tokens_decoder().values() if t.special)
    texts = [ask_chats(folder, path, chats, tools, "--text", *flag) for flag in ((), ("--add-generation-prompt",))]
    for prompt in (0, 1):
        for c, got in zip(chats, texts[prompt]):
            want = rendered(template, c, marks, bool(prompt))
            assert (got if isinstance(got, str) else None) == want, "%r: %r, jinja2 %r" % (c, got, want)
    same = refused = 0
    for c, text, got in zip(chats, texts[0], ask_chats(folder, path, chats, tools)):
        spans = learned_spans(template, c, text, marks, control) if isinstance(text, str) else None
        if spans is None:
            assert "ids" not in got, "%r is taken: %r" % (c, got)
            refused += 1
            continue
        want = labels_of(library, text, spans)
        assert "ids" in got and want == (got["ids"], got["labels"]), "%r\n%r\n%r" % (c, want, got)
        same += 1
    return 2 * len(chats), same, refused


def families_table(args):
    import families
    import nibble
    import tokenizers_random as strings
    tool, texts, red = nibble.command("tokenize"), strings.texts_of(args.count), 0
    print("| family | pipeline | ids | decode | fuzz | template | masks |\n|---|---|---|---|---|---|---|")
    for number, family in enumerate(families.FAMILIES):
        folder = os.path.join(args.folder, "family%d" % number)
        marks = families.write(folder, family)
        few = strings.compare(family[0], tool, folder, texts[:args.count // 10])
        fuzz = strings.compare(family[0], tool, folder, texts)
        cells = ["no" if few else "yes"] * 2 + ["no" if fuzz else "%d" % args.count]
        try:
            told = ask_template(folder, family, marks) if family[3] else None
            cells += ["%d equal" % told[0], "%d equal%s" % (told[1], ", %d refused" % told[2] if told[2] else "")] if told \
                else ["none of its own", ""]
        except AssertionError as e:
            print(str(e)[:1500], file=sys.stderr)
            cells += ["no", "no"]
        red += "no" in cells
        how = family[1] if family[2] == "as it is" else "%s of %s" % (family[2], family[1])
        print("| %s | %s | %s |" % (family[0], how, " | ".join(cells)), flush=True)
    return red


# ---- formats ----


def chat_rows(count=60):
    return [{"messages": c, "n": i} for i, c in enumerate((conversations() * 2)[:count]) if c[-1]["role"] == "assistant"]


def write_parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=13)


def write_lines(path, rows):
    with open(path, "w", encoding="utf8") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)


def write_array(path, rows):
    with open(path, "w", encoding="utf8") as f:
        json.dump(rows, f, indent=1)


def write_gzip(path, rows):
    with gzip.open(path, "wt", encoding="utf8") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)


def write_zstd(path, rows):
    import pyarrow as pa
    with pa.CompressedOutputStream(path, "zstd") as f:
        f.write("".join(json.dumps(r) + "\n" for r in rows).encode())


def alpaca(rows):
    return [{"instruction": r["messages"][-2]["content"], "output": r["messages"][-1]["content"]} for r in rows]


def write_csv(path, rows):
    import csv
    with open(path, "w", encoding="utf8", newline="") as f:
        w = csv.DictWriter(f, ["instruction", "output"], quoting=csv.QUOTE_ALL)  # a cut-off cell shows
        w.writeheader()
        w.writerows(rows)


def write_text(path, rows):
    with open(path, "w", encoding="utf8") as f:
        f.writelines(r["text"] + "\n" for r in rows)


FORMATS = [  # name, file, type, its rows of the chats, writer
    ("JSON lines", "rows.jsonl", "chat_template", None, write_lines),
    ("JSON array", "rows.json", "chat_template", None, write_array),
    ("JSON lines, gzip", "rows.jsonl.gz", "chat_template", None, write_gzip),
    ("JSON lines, zstd", "rows.jsonl.zst", "chat_template", None, write_zstd),
    ("Parquet", "rows.parquet", "chat_template", None, write_parquet),
    ("CSV", "rows.csv", "alpaca", alpaca, write_csv),
    ("text", "rows.txt", "completion",
     lambda rows: [{"text": " ".join(r["messages"][-1]["content"].split())} for r in rows], write_text),
]


def write_config(folder, path, kind, **keys):
    import nibble
    data = dict({"path": path, "type": kind}, **({"split": keys.pop("split")} if "split" in keys else {}))
    config = os.path.join(folder, "config.yaml")
    nibble.write_config(config, nibble.config(
        os.path.join(folder, "base"), datasets=[data], chat_template="chatml", sequence_len=2048, val_set_size=0,
        dataset_prepared_path=None, shuffle_merged_datasets=False, **dict(dict(
            max_steps=4, save_steps=1, save_strategy="absent", save_total_limit=9), **keys)))
    return config


def shown(folder, path, kind, **keys):
    import nibble
    r = nibble.run(folder, "check", "--config", write_config(folder, path, kind, **keys), "--format", "json", "--show", 999,
                   "--quiet")
    assert r.code == nibble.OK, str(r)
    return [json.loads(line) for line in r.out.splitlines()]


def resumed(folder, path, kind):
    """An adapter's bytes, and those of the run that goes on from step 2."""
    import nibble
    config, out = write_config(folder, path, kind), []
    for label, more in (("whole", ()), ("rest", ("resume_from_checkpoint=whole/checkpoints/step-000002.h5",))):
        r = nibble.run(folder, "train", "--config", config, "output_dir=" + label, "--overwrite", "--quiet", *more)
        assert r.code == nibble.OK, str(r)
        with open(os.path.join(folder, label, "adapter_model.safetensors"), "rb") as f:
            out.append(f.read())
    return out


def damaged(folder, path, kind):
    """Runs on copies that are cut off at several places: refused, never taken for whole."""
    import nibble
    with open(path, "rb") as f:
        whole = f.read()
    for part in (0.0, 0.3, 0.7, 0.97):
        broken = os.path.join(folder, "broken-" + os.path.basename(path))
        with open(broken, "wb") as f:
            f.write(whole[:int(len(whole) * part)])
        r = nibble.run(folder, "check", "--config", write_config(folder, broken, kind), "--quiet")
        assert r.code == nibble.DATA and len(r.errors) == 1 and os.path.basename(broken) in r.err, \
            "%s cut at %g: %s" % (path, part, r)


def formats_table(args):
    import nibble
    folder, red = os.path.join(args.folder, "formats"), 0
    os.makedirs(folder)
    nibble.make_model(os.path.join(folder, "base"), max_position_embeddings=4096)
    print("| format | read | slice | resume | corrupt |\n|---|---|---|---|---|")
    for name, file, kind, made_of, writer in FORMATS:
        rows = (made_of or list)(chat_rows())
        path, same = os.path.join(folder, file), os.path.join(folder, "same.jsonl")
        writer(path, rows)
        write_lines(same, rows)
        cells = []
        for cell in (lambda: shown(folder, path, kind) == shown(folder, same, kind),
                     lambda: all(shown(folder, path, kind, split=s) == shown(folder, same, kind, split=s)
                                 for s in ("train[3:9]", "train[50%:]", "train[-4:]")),
                     lambda: len(set(resumed(folder, path, kind))) == 1,
                     lambda: kind == "completion" or damaged(folder, path, kind) is None):
            try:
                cells.append("yes" if cell() else "no")
            except AssertionError as e:
                print(str(e)[:1500], file=sys.stderr)
                cells.append("no")
        if kind == "completion":
            cells[-1] = "any text is text"
        red += "no" in cells
        print("| %s | %s |" % (name, " | ".join(cells)), flush=True)
    return red


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100000, help="random strings for each tokenizer (100,000)")
    parser.add_argument("--only", default="", help="families or formats")
    args = parser.parse_args()
    run.enter(__file__)
    sys.path[:0] = [run.HERE, os.path.join(os.path.dirname(run.HERE), "run")]
    red = 0
    with tempfile.TemporaryDirectory() as args.folder:
        for table in (families_table, formats_table):
            if args.only in table.__name__:
                red += table(args)
                print()
    sys.exit(1 if red else 0)


if __name__ == "__main__":
    main()
