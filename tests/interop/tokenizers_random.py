#!/usr/bin/env python3
"""Compares our tokenizer with the `tokenizers` library on random mixed-script strings.

    tokenizers_random.py FOLDER [--count N] [--seed S] [--only NAME] -- build/train tokenize

FOLDER holds tokenizers as folders with a tokenizer.json (searched two levels deep). Besides them,
variants are made on the spot: constructs that published tokenizers use and these do not (Digits,
Metaspace in its schemes, Falcon's and DeepSeek's sequences, added tokens with flags, normalizers).
What follows -- is run with --model DIR [--no-special] [--decode], as `train tokenize` is: one JSON
string (or id array) per line in, one id array (or string) per line out. Needs `tokenizers`.
"""

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "run"))
import nibble  # noqa: E402
import ours  # noqa: E402

RANGES = [
    (0x21, 0x7E), (0x21, 0x7E), (0x41, 0x5A), (0x61, 0x7A), (0x61, 0x7A), (0x30, 0x39), (0xA1, 0x17F),
    (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF),
    (0x900, 0x97F), (0x980, 0x9FF), (0xE00, 0xE7F), (0xE80, 0xEFF), (0x1000, 0x109F), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1200, 0x137F), (0x1780, 0x17FF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFF),
    (0x2000, 0x206F), (0x2070, 0x209F), (0x20A0, 0x20CF), (0x2100, 0x218F), (0x2190, 0x23FF),
    (0x2460, 0x24FF), (0x2500, 0x27BF), (0x3000, 0x303F), (0x3041, 0x30FF), (0x3131, 0x318E),
    (0x4E00, 0x9FFF), (0x4E00, 0x4FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFB4F),
    (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x10000, 0x103FF), (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF),
    (0x1F900, 0x1F9FF), (0x20000, 0x2A6DF), (0x2F800, 0x2FA1F), (0xE0020, 0xE007F), (0, 0x1F),
]
BITS = [
    " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2003",
    "\u200b", "\ufeff", "\u180e", "\u2028", "\x85", "\x0b", "'s", "'S", "'\u017f", "'t", "'re", "'RE", "'ll",
    "'lL", "'ve", "'d", "'m", "\u2019s", "''s", " 's", "123", "1234567", " 42", "3.14", "\u0661\u0662",
    "\u00b2", "\u2167", "\u00bd", "\u2581", "\u2581\u2581", " \u2581", "<s>", "</s>", "<unk>", "<0x0A>", "<0x",
    "<|endoftext|>", "<|im_start|>", "<|im_", "<|begin_of_text|>", "<bos>", "<h1>", "<unused7>", "<pad>",
    "e\u0301", "\u00e9", "\u1e9b\u0323", "a\u0323\u0302\u0301", "\u0344", "\ud55c", "\u1112\u1161\u11ab", "\u3099", "\u304b\u3099",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\U0001f1e9\U0001f1ea",
    "\u212a", "\u0130", "\ufb01", "...", "!!", "://", "--", "()", "\u0000", "\x1f", "\x7f", "[[", "don't", "it's",
    "\U00011935\U00011930", "\u0897", "\U0001e030", "\U000105c9", "\U00031350", "\U0002ebf0",
]


def word(r, words):
    kind = r.random()
    if kind < 0.35:
        return r.choice(BITS)
    if kind < 0.7:
        return r.choice(words)
    if kind < 0.73:
        code = r.randrange(0x110000)
        return "" if 0xD800 <= code < 0xE000 else chr(code)
    low, high = r.choice(RANGES)
    return "".join(chr(r.randint(low, high)) for _ in range(r.randint(1, 6)))


def make_strings(count, seed, words):
    r = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(r.choice((1, 2, 4, 8, 16))):
            parts.append(word(r, words))
            if r.random() < 0.4:
                parts.append(" ")
        texts.append("".join(parts))
    return texts


def added(content, token_id, **flags):
    token = dict(id=token_id, content=content, single_word=False, lstrip=False, rstrip=False,
                 normalized=True, special=False)
    token.update(flags)
    return token


def metaspace(**options):
    return dict(type="Metaspace", replacement="\u2581", **options)


BYTE_LEVEL = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
SPLIT = dict(type="Split", behavior="Isolated", invert=False)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)


def variants(byte_base, char_base):
    """Yields (name, tokenizer.json) made from a byte-level one and one with byte fallback."""

    def changed(base, **parts):
        made = copy.deepcopy(base)
        made.update(parts)
        return made

    def steps(*items):
        return dict(type="Sequence", pretokenizers=list(items))

    raw = dict(BYTE_LEVEL, use_regex=False)
    yield "digits", changed(byte_base, pre_tokenizer=steps(dict(type="Digits", individual_digits=True), BYTE_LEVEL))
    yield "falcon", changed(byte_base, pre_tokenizer=steps(
        dict(type="Punctuation", behavior="Contiguous"), BYTE_LEVEL, dict(type="Digits", individual_digits=False),
        dict(SPLIT, pattern=dict(Regex="[0-9][0-9][0-9]"))))
    yield "o200k", changed(byte_base, pre_tokenizer=steps(dict(SPLIT, pattern=dict(Regex=O200K)), raw))
    yield "deepseek", changed(byte_base, pre_tokenizer=steps(
        dict(SPLIT, pattern=dict(Regex=r"\p{N}{1,3}")), dict(SPLIT, pattern=dict(Regex="[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+")),
        dict(SPLIT, pattern=dict(Regex=DEEPSEEK)), raw))
    yield "prefix", changed(byte_base, pre_tokenizer=dict(BYTE_LEVEL, add_prefix_space=True),
                            normalizer=dict(type="NFKC"))
    yield "nfd", changed(byte_base, normalizer=dict(type="Sequence", normalizers=[dict(type="NFD"), dict(type="Lowercase")]))
    yield "nfkd", changed(byte_base, normalizer=dict(type="Sequence", normalizers=[
        dict(type="NFKD"), dict(type="Strip", strip_left=True, strip_right=True)]))
    for behaviour in ("Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        yield "split-" + behaviour, changed(byte_base, pre_tokenizer=steps(
            dict(type="Split", behavior=behaviour, invert=False, pattern=dict(Regex=r"\s|\d|[a-c]*")), raw))
        yield "invert-" + behaviour, changed(byte_base, pre_tokenizer=steps(
            dict(type="Split", behavior=behaviour, invert=True, pattern=dict(String="e")), raw))
    yield "whitespace", changed(byte_base, pre_tokenizer=steps(dict(type="Whitespace"), raw))
    yield "words", changed(byte_base, pre_tokenizer=steps(
        dict(type="WhitespaceSplit"), dict(type="Punctuation", behavior="Isolated"), raw))
    yield "boundary", changed(byte_base, pre_tokenizer=steps(dict(SPLIT, pattern=dict(Regex=r"\b\w+\B|\W+|^.|\h$")), raw))
    size = len(byte_base["model"]["vocab"])
    flags, vocabulary = [], byte_base["model"]["vocab"]
    for content, options in ((
            ("<|endoftext|>", dict(special=True, normalized=False)),
            ("<s>", dict(lstrip=True, special=True, normalized=False)), ("</s>", dict(rstrip=True, normalized=False)),
            ("<pad>", dict(lstrip=True, rstrip=True, special=True)), ("it", dict(single_word=True)),
            ("don", dict(single_word=True, normalized=False)), ("123", dict(normalized=False)),
            ("12345", dict(normalized=False)), ("E\u0301", dict()))):
        flags.append(added(content, vocabulary.get(content, size), **options))
        size += content not in vocabulary
    yield "flags", changed(byte_base, added_tokens=flags, normalizer=dict(type="NFC"))
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            yield f"metaspace-{scheme}-{split}", changed(
                char_base, normalizer=None, pre_tokenizer=metaspace(prepend_scheme=scheme, split=split),
                decoder=metaspace(prepend_scheme=scheme, split=split))
    yield "no-fallback", changed(char_base, model=dict(char_base["model"], byte_fallback=False))
    yield "no-fuse", changed(char_base, model=dict(char_base["model"], byte_fallback=False, fuse_unk=False))
    yield "replace", changed(char_base, normalizer=dict(type="Sequence", normalizers=[
        dict(type="Replace", pattern=dict(Regex=r" {2,}|\s$"), content="\u2581"), dict(type="Prepend", prepend="\u2581"),
        dict(type="Replace", pattern=dict(String=" "), content="\u2581")]))
    vocabulary = char_base["model"]["vocab"]
    yield "char-flags", changed(char_base, added_tokens=char_base["added_tokens"] + [
        added("<pad>", len(vocabulary), special=True), added("don", vocabulary["don"], lstrip=True),
        added("the", vocabulary["the"], single_word=True)])


def run(tool, folder, lines, *options):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    result = subprocess.run(tool + ["--model", folder, *options], input=text.encode(), stdout=subprocess.PIPE)
    return [json.loads(line) for line in result.stdout.split(b"\n")[:-1]]


def compare(name, tool, folder, texts):
    """Encodes, a tenth also without special tokens, decodes what came out; counts the differences."""
    library = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    library.no_truncation()
    library.no_padding()
    wrong = 0
    for special, some in ((False, texts[::10]), (True, texts)):
        want = [e.ids for e in library.encode_batch(some, add_special_tokens=special)]
        got = run(tool, folder, some, *([] if special else ["--no-special"]))
        wrong += report(name, "ids", some, want, got)
    want_text = library.decode_batch(want, skip_special_tokens=False)
    wrong += report(name, "text", want, want_text, run(tool, folder, want, "--decode"))
    return wrong


def report(name, what, inputs, want, got):
    if len(want) != len(got):
        print(f"{name}: {len(got)} lines of {what} instead of {len(want)}")
        return 1
    bad = [i for i in range(len(want)) if want[i] != got[i]]
    for i in bad[:2]:
        print(f"  {name} {what}: {inputs[i]!r:.200}\n    library {want[i]!r:.200}\n    ours    {got[i]!r:.200}")
    return len(bad)


def find_folders(root):
    for path, folders, files in sorted(os.walk(root)):
        if "tokenizer.json" in files:
            yield os.path.relpath(path, root), path


def find_bases(folders):
    """Of tokenizers that variants can be made of: a byte-level one, and one with byte fallback."""
    bases = {}
    for _, folder in folders:
        made = json.load(open(os.path.join(folder, "tokenizer.json"), encoding="utf8"))
        if made["model"].get("byte_fallback") and (made.get("normalizer") or {}).get("type") == "Sequence":
            bases.setdefault("char", made)
        elif "<|endoftext|>" in made["model"]["vocab"]:
            bases.setdefault("byte", made)
    return bases["byte"], bases["char"]


def compare_variants(tool, bases, texts, only=""):
    wrong, count = 0, 0
    for name, made in variants(*bases):
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf8") as f:
                json.dump(made, f)
            wrong += compare(name, tool, folder, texts)
            count += 1
    return wrong, count


# ---- rows of the table ----


def texts_of(count):
    return make_strings(count, 1, open(__file__, encoding="utf8").read().split())


def checked(wrong, what):
    if wrong:
        raise ours.Differs("%d differences; the first are shown above" % wrong)
    return what


def table_row(name, folder):
    def body(place):
        if not folder:
            raise ours.Skipped("no fixtures: ../shared is absent")
        return checked(compare(name, nibble.command("tokenize"), folder, texts_of(100000)), "100,000 strings")
    return "tokenizers/" + name, body


def variants_row(place):
    if not FOLDERS:
        raise ours.Skipped("no fixtures: ../shared is absent")
    wrong, count = compare_variants(nibble.command("tokenize"), find_bases(FOLDERS), texts_of(2000))
    return checked(wrong, "%d made ones, 2,000 strings each" % count)


FOLDERS = [(name, folder) for root in ("tokenizers", "models")
           for name, folder in find_folders(os.path.join(nibble.FIXTURES, root)) if "sharded" not in name]
TABLE = [table_row(*item) for item in FOLDERS or [("all", None)]] + [("tokenizers/variants", variants_row)]


def main():
    split = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    args = parser.parse_args(sys.argv[1:split])
    tool = sys.argv[split + 1:]
    words = open(__file__, encoding="utf8").read().split()
    texts = make_strings(args.count, args.seed, words)
    folders = list(find_folders(args.folder))
    wrong = 0
    for name, folder in folders:
        if args.only in name:
            wrong += compare(name, tool, folder, texts)
            print(f"{name}: {len(texts)} strings, {wrong} differences so far", flush=True)
    wrong += compare_variants(tool, find_bases(folders), texts, args.only)[0]
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
