"""Model families as the matrix asks about them: a tokenizer and a chat template each.

The fixtures hold five real tokenizers. Of the other families the pipeline is put around the vocabulary
of one of these, as their published tokenizer.json has it; control tokens of the template are added."""
import copy
import json
import os
import re

import nibble
import tokenizers_random as strings

CL100K = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
          "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
RAW = dict(strings.BYTE_LEVEL, use_regex=False)
# (name, tokenizer of the fixtures, what is made of it, template)
FAMILIES = [
    ("Llama 2, TinyLlama", "stories260K", "as it is", None),
    ("Llama 3.1", "llama3_2", "as it is", "meta-llama-Llama-3.1-8B-Instruct"),
    ("Llama 3.2, 3.3", "llama3_2", "as it is", "meta-llama-Llama-3.2-3B-Instruct"),
    ("Hermes 3", "llama3_2", "as it is", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use"),
    ("Mistral 7B", "mistral7b_v0.1", "as it is", None),
    ("Mistral Nemo", "gpt2", "o200k", "mistralai-Mistral-Nemo-Instruct-2407"),
    ("Mistral Small 3", "gpt2", "o200k", "Mistral-Small-3.2-24B-Instruct-2506"),
    ("Qwen2, Qwen2.5", "qwen2_5", "as it is", "Qwen-Qwen2.5-7B-Instruct"),
    ("Qwen3", "qwen2_5", "as it is", "Qwen-Qwen3-0.6B"),
    ("Gemma 1 to 4", "gemma2", "as it is", "google-gemma-2-2b-it"),
    ("Phi-2, GPT-2", "gpt2", "as it is", None),
    ("Phi-3, Phi-3.5", "stories260K", "rstrip", "microsoft-Phi-3.5-mini-instruct"),
    ("Phi-4, OLMo 2", "gpt2", "cl100k", None),
    ("GPT-NeoX, OLMo", "gpt2", "nfc", None),
    ("Falcon", "gpt2", "falcon", None),
    ("DeepSeek", "gpt2", "deepseek", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"),
    ("SmolLM", "gpt2", "digits", "HuggingFaceTB-SmolLM3-3B"),
    ("Granite", "gpt2", "digits", "ibm-granite-granite-3.3-2B-Instruct"),
]
NEEDS_TOOLS = ["NousResearch-Hermes-3-Llama-3.1-8B-tool_use"]
TOOL = {"type": "function", "function": {"name": "clock", "description": "The time.", "parameters": {
    "type": "object", "properties": {"zone": {"type": "string", "description": "Where."}}, "required": ["zone"]}}}


def folder_of(tokenizer):
    if tokenizer == "stories260K":
        return os.path.join(nibble.FIXTURES, "models", "stories260K", "hf-f32")
    return os.path.join(nibble.FIXTURES, "tokenizers", tokenizer)


def template_of(name):
    with open(os.path.join(nibble.FIXTURES, "templates", name + ".jinja"), encoding="utf8") as f:
        return f.read()


# by the template's text: what conversations bring along where it does not render without
TOOLS = {template_of(name): [TOOL] for name in NEEDS_TOOLS}


def steps(*items):
    return dict(type="Sequence", pretokenizers=list(items))


def pipeline(made, how):
    """tokenizer.json with the family's own stages."""
    made = copy.deepcopy(made)
    if how == "nfc":
        made["normalizer"] = dict(type="NFC")
    elif how == "cl100k":
        made["pre_tokenizer"] = steps(dict(type="Split", behavior="Removed", invert=True, pattern=dict(Regex=CL100K)), RAW)
    elif how == "rstrip":
        for token in made["added_tokens"]:
            token["rstrip"] = token["content"] == "</s>"
    elif how != "as it is":
        made = next(v for name, v in strings.variants(made, char_base()) if name == how)
    return made


def char_base():
    with open(os.path.join(folder_of("mistral7b_v0.1"), "tokenizer.json"), encoding="utf8") as f:
        return json.load(f)


CONTROL = re.compile(r"<\|[^|<>{}'\" ]+\|>|<\uff5c[^\uff5c]+\uff5c>|\[/?[A-Z_]{3,}\]|<(?:start|end)_of_turn>|</?think>")


def with_tokens(made, template):
    """The template's control tokens added; BOS and EOS stand for themselves."""
    known = {t["content"] for t in made["added_tokens"]}
    size = max([t["id"] for t in made["added_tokens"]] + list(made["model"]["vocab"].values())) + 1
    for content in sorted(set(CONTROL.findall(template)) - known):
        made["added_tokens"].append(strings.added(content, size, special=True, normalized=False))
        size += 1
    return made


def write(folder, family):
    """The family's tokenizer in a folder; returns (BOS, EOS)."""
    _, tokenizer, how, template = family
    os.makedirs(folder)
    with open(os.path.join(folder_of(tokenizer), "tokenizer.json"), encoding="utf8") as f:
        made = pipeline(json.load(f), how)
    if template:
        made = with_tokens(made, template_of(template))
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf8") as f:
        json.dump(made, f)
    with open(os.path.join(folder_of(tokenizer), "tokenizer_config.json"), encoding="utf8") as f:
        config = json.load(f)
    marks = {k: config[k]["content"] if isinstance(config.get(k), dict) else config.get(k)
             for k in ("bos_token", "eos_token")}
    nibble.write(os.path.join(folder, "tokenizer_config.json"), json.dumps(marks))
    return marks["bos_token"], marks["eos_token"]
