#!/usr/bin/env python3
"""Compares our tokenizer with the `tokenizers` library on every Unicode code point.

    tokenizers_unicode.py FOLDER -- build/train tokenize

FOLDER as for tokenizers_random.py; its byte-level tokenizer gets one construct after another that
depends on character classes or normalization, in a form in which the result shows in the ids:
what matches is removed, or every piece begins with a space. Needs `tokenizers`.
"""

import json
import os
import random
import sys
import tempfile

from tokenizers_random import SPLIT, compare, find_folders

# not Mn: PCRE2 10.42 (Unicode 14) has one character more in it, U+1171E, which is Mc since
CLASSES = [r"\p{%s}" % c for c in "L N M P S Z Lu Ll Lt Lm Lo Nd Nl No Mc Me Pd Po Sm Sc Sk So Cf Cc".split()]
CLASSES += [r"\w", r"\s", r"\d", r"[\W]", r"[\w]", r"\W", r"\P{L}", r"[^\p{P}\w]", r"(?i:s)", r"(?i:[a-z])", r"\b.", r"\h", "."]


def every_code_point():
    """Strings of 256 neighbours, and the same code points far from their neighbours between letters."""
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(codes), 256):
        yield "".join(map(chr, codes[start:start + 256]))
    random.Random(3).shuffle(codes)
    for start in range(0, len(codes), 64):
        yield "".join("a" + chr(c) + "\u0301" for c in codes[start:start + 64])


def constructs():
    spaced = dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=False)
    for pattern in CLASSES:
        yield pattern, dict(pre_tokenizer=dict(type="Sequence", pretokenizers=[
            dict(SPLIT, behavior="Removed", pattern=dict(Regex=pattern)), spaced]))
    for step in (dict(type="Digits", individual_digits=True), dict(type="Punctuation", behavior="Isolated"),
                 dict(type="Whitespace"), dict(type="WhitespaceSplit")):
        yield step["type"], dict(pre_tokenizer=dict(type="Sequence", pretokenizers=[step, spaced]))
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        yield form, dict(normalizer=dict(type=form))


def main():
    split = sys.argv.index("--")
    base = None
    for _, folder in find_folders(sys.argv[1]):
        made = json.load(open(os.path.join(folder, "tokenizer.json"), encoding="utf8"))
        if "<|endoftext|>" in made["model"]["vocab"]:
            base = made
    texts, wrong = list(every_code_point()), 0
    for name, parts in constructs():
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf8") as f:
                json.dump(dict(base, **parts), f)
            wrong += compare(name, sys.argv[split + 1:], folder, texts)
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
