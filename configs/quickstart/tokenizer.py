#!/usr/bin/env python3
"""tokenizer.py: trains a byte-level BPE tokenizer (GPT-2's kind) and writes a model's tokenizer files.

The merges are those of the textbook: the most frequent pair of neighbours becomes a token, ties by
the alphabet, until the vocabulary is full or no pair occurs twice. Words are counted once, so that a
small vocabulary takes seconds. The text is taken to be ASCII; other text still encodes, as bytes.

    python3 tokenizer.py CORPUS_DIR MODEL_DIR
"""
import collections
import json
import re
import sys

VOCABULARY = 1024
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
{{ '<|im_start|>assistant\n' }}{% endif %}"""


def byte_letters():
    """GPT-2's printable letter for each byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def texts(folder):
    for line in open(folder + "/stories.jsonl", encoding="utf-8"):
        yield json.loads(line)["text"]
    for line in open(folder + "/talk.jsonl", encoding="utf-8"):
        for message in json.loads(line)["messages"]:
            yield message["role"] + "\n"
            yield message["content"]


def joined(word, pair):
    out, i = [], 0
    while i < len(word):
        both = tuple(word[i:i + 2]) == pair
        out.append(word[i] + word[i + 1] if both else word[i])
        i += 1 + both
    return out


def train(folder):
    """The vocabulary in the order of its ids, and the merges."""
    letters = byte_letters()
    counts = collections.Counter(w for t in texts(folder) for w in WORDS.findall(t))
    words = [([letters[b] for b in w.encode()], n) for w, n in counts.items()]
    vocabulary, merges = [letters[b] for b in range(256)], []
    while len(vocabulary) < VOCABULARY - len(SPECIAL):
        pairs = collections.Counter()
        for word, n in words:
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        if pairs[best] < 2:
            break
        words = [(joined(word, best), n) for word, n in words]
        merges.append(best)
        vocabulary.append("".join(best))
    return vocabulary, merges


def tokenizer_json(vocabulary, merges):
    added = [{"id": len(vocabulary) + i, "content": t, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False, "special": True} for i, t in enumerate(SPECIAL)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(vocabulary)},
                  "merges": [" ".join(m) for m in merges]}}


CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None,
          "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
          "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
          "model_max_length": 512, "clean_up_tokenization_spaces": False, "chat_template": CHATML}


def write(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    made = train(sys.argv[1])
    write(sys.argv[2] + "/tokenizer.json", tokenizer_json(*made))
    write(sys.argv[2] + "/tokenizer_config.json", CONFIG)
    print(f"{len(made[0]) + len(SPECIAL)} tokens, {len(made[1])} merges")
