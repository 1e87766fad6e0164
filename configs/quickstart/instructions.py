#!/usr/bin/env python3
"""instructions.py: the quickstart's tasks, as chat rows: train.jsonl and heldout.jsonl.

Three tasks: answer a question, put a sentence in the past, say its opposite. An answer needs what
stands in the prompt, word by word, so it cannot be guessed, and training on shuffled answers
teaches nothing. No two rows share a sentence: what is held out, prompt or answer, occurs nowhere in
training; check() makes sure, and tests/run/quickstart.py again.

    python3 instructions.py DIR
"""
import json
import random
import sys

from language import NAMES, OPPOSITE, Event

TRAIN_ROWS, HELD_OUT_ROWS = 3000, 300


def past(rng):
    e = Event(rng)
    return "Put this in the past: " + e.present(), e.past()


def opposite(rng):
    e = Event(rng, qualities=list(OPPOSITE))
    return "Say the opposite: " + e.past(), e.past(OPPOSITE[e.quality])


def question(rng):
    e, other = Event(rng), rng.choice(NAMES)
    while other == e.name:
        other = rng.choice(NAMES)
    prompt = f"{e.past()} {other} did the same. What did {other} do?"
    e.name = other
    return prompt, e.past()


TASKS = (past, opposite, question)


def sentences(text):
    return {s.strip() for s in text.replace("?", ".").replace(":", ".").split(".") if s.strip()}


def rows(seed=1):
    """TRAIN_ROWS + HELD_OUT_ROWS pairs of prompt and answer; no sentence of an event twice."""
    rng = random.Random(seed)
    seen, result = set(), []
    while len(result) < TRAIN_ROWS + HELD_OUT_ROWS:
        prompt, answer = TASKS[len(result) % len(TASKS)](rng)
        events = {s for s in sentences(prompt + answer) if " a" in s}
        if not events & seen:
            seen |= events
            result.append((prompt, answer))
    return result


def held_out():
    return rows()[TRAIN_ROWS:]


def check(train, test):
    text = "\n".join(prompt + "\n" + answer for prompt, answer in train)
    for prompt, answer in test:
        assert prompt not in text and answer not in text, answer


def write(path, pairs):
    with open(path, "w", encoding="utf-8") as f:
        for prompt, answer in pairs:
            f.write(json.dumps({"messages": [{"role": "user", "content": prompt},
                                             {"role": "assistant", "content": answer}]}) + "\n")


if __name__ == "__main__":
    everything = rows()
    check(everything[:TRAIN_ROWS], everything[TRAIN_ROWS:])
    write(sys.argv[1] + "/train.jsonl", everything[:TRAIN_ROWS])
    write(sys.argv[1] + "/heldout.jsonl", everything[TRAIN_ROWS:])
