#!/usr/bin/env python3
"""corpus.py: what the tiny base model reads before anybody instructs it: stories.jsonl, talk.jsonl.

Stories are plain text about events (language.py), told so that words come back: who reads on must
look up what was said. Small talk is chat rows in which the answer is any sentence of the same kind:
the base knows the chat form and the language, and none of the tasks. No held-out answer of
instructions.py is ever told.

    python3 corpus.py DIR [STORIES]
"""
import json
import random
import sys

import instructions
from language import NAMES, OPPOSITE, PLACES, THINGS, Event, article

STORIES = 18000


def capital(text):
    return text[0].upper() + text[1:]


def opening(rng, e):
    return rng.choice((
        f"One day, {e.name} was {e.place}.",
        f"It was a {rng.choice(('warm', 'cold', 'sunny', 'quiet', 'windy'))} day, and {e.name} "
        f"was {e.place}.",
        f"{e.name} was {e.place} with {rng.choice(NAMES)}.",
        f"There was {e.what()} {e.place}."))


def remark(rng, e):
    if e.quality in OPPOSITE and rng.random() < 0.6:
        other = OPPOSITE[e.quality]
        return rng.choice((
            f"The {e.thing} was {e.quality}. It was not {other}.",
            f"It was not {other}. It was {e.quality}.",
            f"{e.name} had {article(other)} {e.thing} too, but this one was {e.quality}."))
    return rng.choice((
        f"The {e.thing} was {e.quality}.",
        f"{e.name} was happy with the {e.quality} {e.thing}.",
        f"{e.name} put the {e.thing} into a {rng.choice(('bag', 'box', 'basket', 'sack'))}."))


def conversation(rng, e, friend):
    """The friend asks, and what happened is told again."""
    asked = rng.choice((f"What did you {e.verb[0]}?", f"What did you {e.verb[0]} {e.place}?",
                        f"Who {e.verb[2]} {e.what()}?", "What is new?", "What can you say?"))
    if asked.startswith("Who"):
        told = f'"{e.name} did," said {e.name}.'
    else:
        told = f'"I {e.verb[2]} {e.what()} {e.place}," said {e.name}.'
    return f'{friend} came and asked, "{asked}" {told}'


def retelling(rng, e, friend):
    to = rng.choice(NAMES)
    return rng.choice((
        f"{friend} told {to} about it: {e.past()}",
        f"Later {friend} wrote in a book: {e.past()}",
        f"In the past, {friend} would say so: {e.past()}",
        f'"{e.name} {e.verb[2]} {e.what()} {e.place}," said {friend} to {to}.'))


def ending(rng, e, friend):
    place = rng.choice(PLACES)
    return rng.choice((
        f"Then {e.name} and {friend} were {place} with the {e.quality} {e.thing}.",
        f"So {e.name} left the {e.thing} {place}.",
        f"Now the {e.quality} {e.thing} is {place}.",
        f"{friend} wanted {article(e.quality)} {rng.choice(THINGS)}, not {article(e.thing)}."))


def story(rng):
    e, friend = Event(rng), rng.choice(NAMES)
    parts = [opening(rng, e), e.past()]
    for part in (remark(rng, e), conversation(rng, e, friend), retelling(rng, e, friend)):
        if rng.random() < 0.75:
            parts.append(part)
    if rng.random() < 0.4:
        other = Event(rng, name=friend)
        parts += [other.past(), retelling(rng, rng.choice((e, other)), rng.choice(NAMES))]
    parts.append(ending(rng, e, friend))
    if rng.random() < 0.25:  # as somebody plans or reports it
        parts = [e.present() for e in (Event(rng), Event(rng))] + parts[-2:]
    return " ".join(map(capital, parts))


def echo(rng):
    """Somebody says something, others say it after them."""
    said = Event(rng)
    text = rng.choice((said.past, said.present))()
    again = rng.choice(("said it again", "said so too", "wrote it down", "said"))
    return " ".join([f"{rng.choice(NAMES)} said: {text}"] +
                    [f"{rng.choice(NAMES)} {again}: {text}" for _ in range(rng.choice((1, 2, 3)))])


def talk(rng):
    """Turns of small talk. The answer is a sentence of its own; now and then a word comes back."""
    messages = []
    for _ in range(rng.choice((1, 1, 2))):
        said = [Event(rng) for _ in range(rng.choice((1, 1, 2)))]
        text = " ".join(rng.choice((e.past, e.present))() for e in said)
        if rng.random() < 0.5:
            text = rng.choice((f"Say something: {text}", f"{text} What do you say?",
                               f"Hello {rng.choice(NAMES)}! {text}", f"{text} What is new?",
                               f"What did {said[0].name} {said[0].verb[0]}? {text}",
                               f"Put this in a book: {text}", f"{text} Who is there?",
                               f"Is it so? {text}", f"Not the opposite: {text}"))
        answer, about = Event(rng), rng.choice(said)
        for word in vars(answer):
            if rng.random() < 0.12:
                setattr(answer, word, getattr(about, word))
        messages += [{"role": "user", "content": text},
                     {"role": "assistant", "content": answer.past()}]
    return messages


def make(count, seed=2):
    """Stories, and half as many echoes and talks each; none of them holds a held-out answer."""
    rng = random.Random(seed)
    secret = {answer for _, answer in instructions.held_out()}
    for i in range(2 * count):
        row = {"messages": talk(rng)} if i % 4 == 3 else \
              {"text": echo(rng) if i % 4 == 2 else story(rng)}
        text = row.get("text") or " ".join(m["content"] for m in row["messages"])
        if not any(s + "." in secret for s in instructions.sentences(text)):
            yield row


if __name__ == "__main__":
    folder, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else STORIES
    with open(f"{folder}/stories.jsonl", "w", encoding="utf-8") as stories, \
            open(f"{folder}/talk.jsonl", "w", encoding="utf-8") as talks:
        for row in make(count):
            (stories if "text" in row else talks).write(json.dumps(row) + "\n")
