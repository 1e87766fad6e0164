"""This side: running the program, and what a row of the table may say."""
import json
import os

import nibble


class Differs(Exception):
    """The row is red; the text says by what."""


class Skipped(Exception):
    """What the row needs is not here; the text says what."""


def run(folder, *arguments, **more):
    r = nibble.run(folder, *arguments, **more)
    if r.code != nibble.OK:
        raise Differs("train %s: exit %d: %s" % (" ".join(map(str, arguments)), r.code, r.err.strip()[-400:]))
    return r


def log_probabilities(folder, rows, *options):
    """As theirs.log_probabilities; options name model, adapter and number formats."""
    data, out = os.path.join(folder, "score.jsonl"), os.path.join(folder, "score.out")
    nibble.write(data, "".join(json.dumps(dict(input_ids=ids, labels=ids)) + "\n" for ids in rows))
    run(folder, "eval", "--data", data, "--logprobs", out, *options)
    with open(out) as f:
        lines = sorted((json.loads(line) for line in f), key=lambda line: line["row"])
    return [line["logprobs"][1:] for line in lines]
