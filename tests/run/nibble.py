"""What the tests that drive build/train from outside share: tiny random Hugging Face folders,
configurations, running the program, and reading what it wrote. Standard library only.

The program's path is in NIBBLE_TRAIN, the fixtures' (which may be absent) in NIBBLE_FIXTURES;
NIBBLE_FULL=1 asks for the long form. A test file is a unittest module that ends with
nibble.main(); where all of it was skipped the exit code is 77."""
import atexit
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from array import array

TRAIN = os.environ.get("NIBBLE_TRAIN", "build/train")
FIXTURES = os.environ.get("NIBBLE_FIXTURES", "")
FULL = os.environ.get("NIBBLE_FULL") == "1"
SKIPPED = 77
TIMEOUT = 300


def _is_sanitized():
    """Sanitizers reserve terabytes of addresses and keep freed memory: limits mean nothing then."""
    if not os.path.exists(TRAIN):
        return False
    with open(TRAIN, "rb") as f:
        program = f.read()
    return b"__asan_init" in program or b"__tsan_init" in program


SANITIZED = _is_sanitized()
NEEDS_LIMITS = unittest.skipIf(SANITIZED, "memory limits under a sanitizer")

# exit codes, as in common/status.h
OK, USAGE, DATA, MODEL, DIVERGED, MEMORY, IO, LOCKED, INTERRUPTED = 0, 2, 3, 4, 5, 6, 7, 9, 75

POOL = 32749  # random weights of a model, repeated in large tensors; a prime, so rows differ
BOS, EOS, TOKENS = 256, 257, 258  # the tokenizer: id = byte, then two special tokens


# ---- files ----

def f32_bytes(values):
    return array("f", values).tobytes()


def bf16_bytes(values):
    """Truncated, which is as good as rounded for random weights."""
    raw = array("f", values).tobytes()
    out = bytearray(len(raw) // 2)
    out[0::2], out[1::2] = raw[2::4], raw[3::4]
    return bytes(out)


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    head, body = {}, []
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        body.append(data)
        at += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(body))


def read_safetensors(path):
    """name -> (dtype, shape, bytes)."""
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack("<Q", raw[:8])
    body = raw[8 + n:]
    return {name: (t["dtype"], t["shape"], body[t["data_offsets"][0]:t["data_offsets"][1]])
            for name, t in json.loads(raw[8:8 + n]).items() if name != "__metadata__"}


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, text):
    with open(path, "wb") as f:
        f.write(text if isinstance(text, bytes) else text.encode())


# ---- models ----

FAMILIES = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral"},
}


def byte_symbols():
    """GPT-2's table: the printable character that stands for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b if b in plain else next(spare)) for b in range(256)]


def write_tokenizer(folder):
    special = [{"id": i, "content": text, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True}
               for i, text in ((BOS, "<s>"), (EOS, "</s>"))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    write(os.path.join(folder, "tokenizer.json"), json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {s: i for i, s in enumerate(byte_symbols())}, "merges": []}}))
    write(os.path.join(folder, "tokenizer_config.json"),
          json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def model_shapes(c):
    """Every tensor of the model and its shape."""
    h, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    q, kv = (c["head_dim"] * c[k] for k in ("num_attention_heads", "num_key_value_heads"))
    shapes = {"model.embed_tokens.weight": [v, h], "model.norm.weight": [h]}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [v, h]
    for i in range(c["num_hidden_layers"]):
        at = "model.layers.%d." % i
        linears = {"self_attn.q_proj": [q, h], "self_attn.k_proj": [kv, h],
                   "self_attn.v_proj": [kv, h], "self_attn.o_proj": [h, q],
                   "mlp.gate_proj": [f, h], "mlp.up_proj": [f, h], "mlp.down_proj": [h, f]}
        for name, shape in linears.items():
            shapes[at + name + ".weight"] = shape
            if c["model_type"] == "qwen2" and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                shapes[at + name + ".bias"] = shape[:1]
        if c["model_type"] == "qwen3":
            for name in ("q_norm", "k_norm"):
                shapes[at + "self_attn." + name + ".weight"] = [c["head_dim"]]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[at + name + ".weight"] = [h]
    return shapes


def make_model(folder, family="llama", seed=1, dtype="bfloat16", **changes):
    """A random model; `changes` replace keys of its config.json. Returns the folder."""
    c = dict(FAMILIES[family], hidden_size=64, intermediate_size=96, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=264,
             max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
             hidden_act="silu", tie_word_embeddings=False, torch_dtype=dtype,
             bos_token_id=BOS, eos_token_id=EOS)
    if family == "mistral":
        c["sliding_window"] = 9
    c.update(changes)
    os.makedirs(folder)
    write(os.path.join(folder, "config.json"), json.dumps(c, indent=1))
    write_tokenizer(folder)
    chance, tensors = random.Random(seed), {}
    pool = [chance.random() + chance.random() - 1 for _ in range(POOL)]
    encode, short = (bf16_bytes, "BF16") if dtype == "bfloat16" else (f32_bytes, "F32")
    for name, shape in model_shapes(c).items():
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        middle, wide = (1.0, 0.2) if "norm" in name else (0.0, 1.9 / shape[-1] ** 0.5)
        first = chance.randrange(POOL)
        block = encode([middle + wide * x for x in (pool[first:] + pool[:first])[:n]])
        tensors[name] = (short, shape, (block * (n // POOL + 1))[:n * len(block) // min(n, POOL)])
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    return folder


# ---- data and configuration ----

def make_rows(path, count=24, least=5, most=30, seed=2):
    """Rows of input_ids and labels, the first third of each masked; all end with EOS."""
    chance = random.Random(seed)
    with open(path, "w") as f:
        for _ in range(count):
            n = chance.randint(least, most)
            ids = [BOS] + [chance.randrange(97, 123) for _ in range(n - 2)] + [EOS]
            labels = [-100] * max(1, n // 3) + ids[max(1, n // 3):]
            f.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
    return path


QLORA = {"adapter": "qlora", "load_in_4bit": True, "lora_r": 4, "lora_alpha": 8,
         "lora_target_linear": True}
LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}
FULL_PARAMETERS = {}


def config(base="base", rows="rows.jsonl", **keys):
    c = {"base_model": base, "datasets": [{"path": rows, "type": None}], "output_dir": "out",
         "sequence_len": 32, "micro_batch_size": 2, "gradient_accumulation_steps": 2,
         "max_steps": 6, "optimizer": "adamw_torch", "learning_rate": 0.01,
         "lr_scheduler": "cosine", "warmup_steps": 2, "weight_decay": 0.01,
         "max_grad_norm": 0.5, "bf16": False, "fp16": False, "seed": 7, "save_strategy": "no"}
    c.update(QLORA)
    c.update(keys)
    return {k: v for k, v in c.items() if v != "absent"}


def write_config(path, c):
    """Every JSON value is YAML."""
    write(path, "".join("%s: %s\n" % (k, "" if v is None else json.dumps(v))
                        for k, v in c.items()))


# ---- running ----

class Result:
    def __init__(self, code, out, err, cwd):
        self.code, self.out, self.err, self.cwd = code, out, err, cwd

    @property
    def errors(self):
        return [line for line in self.err.splitlines() if "error:" in line]

    def __str__(self):
        return "exit %d\n%s%s" % (self.code, self.out[-2000:], self.err[-4000:])


def environment(**more):
    e = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "NIBBLE_"))}
    e.update({"OMP_WAIT_POLICY": "passive", "HF_HUB_CACHE": "/nonexistent", "NO_COLOR": "1"})
    e.update(more)
    return e


def command(*arguments):
    return [os.path.abspath(TRAIN), *map(str, arguments)]


def wait_for(test, seconds=60):
    """Whether test() became true within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if test():
            return True
        time.sleep(0.002)
    return False


def run(cwd, *arguments, env=None, limit=None, stdin=""):
    """limit: called in the child before the program starts."""
    p = subprocess.run(command(*arguments), cwd=cwd, env=environment(**(env or {})),
                       input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=TIMEOUT, preexec_fn=limit, encoding="utf-8", errors="replace")
    return Result(p.returncode, p.stdout, p.stderr, cwd)


def start(cwd, *arguments, env=None):
    """A running program; its standard error goes to a file `err` in cwd."""
    with open(os.path.join(cwd, "err"), "wb") as err:
        return subprocess.Popen(command(*arguments), cwd=cwd, env=environment(**(env or {})),
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)


# ---- what a run wrote ----

def metrics(out):
    with open(os.path.join(out, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def steps(out):
    """The lines that report a training step."""
    return [m for m in metrics(out) if "loss" in m]


def summary(out):
    with open(os.path.join(out, "summary.json")) as f:
        return json.load(f)


def trained(out):
    """The bytes of the trained weights."""
    adapter = os.path.join(out, "adapter_model.safetensors")
    return read(adapter if os.path.exists(adapter) else
                os.path.join(out, "model", "model.safetensors"))


def trained_folder(folder):
    """Every tensor of a model folder, whatever the number of its files."""
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(read_safetensors(os.path.join(folder, name)))
    return tensors


def trace(out):
    """What must be equal between equal runs: every step's numbers and the trained bytes."""
    keys = ("step", "loss", "grad_norm", "lr", "tokens", "targets")
    return [tuple(m[k] for k in keys) for m in steps(out)], trained(out)


# ---- tests ----

class Case(unittest.TestCase):
    """Has a scratch folder of its own; a failed run is shown whole."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="nibble-test-")
        self.addCleanup(shutil.rmtree, self.dir, True)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def job(self, *overrides, expect=OK, env=None, limit=None, file="config.yaml"):
        """Trains as `file` in the scratch folder says."""
        r = run(self.dir, "train", "--config", file, *overrides, env=env, limit=limit)
        self.assertEqual(r.code, expect, "%s:\n%s" % (" ".join(map(str, overrides)), r))
        return r

    def assert_same(self, got, want, what):
        self.assertEqual(got[0], want[0], what)
        self.assertTrue(got[1] == want[1], "%s: the trained bytes differ" % what)


class Cache:
    """Models and rows that several tests of a file read and none changes."""

    def __init__(self):
        self.made = {}

    def __call__(self, key, make):
        if not self.made:
            self.root = tempfile.mkdtemp(prefix="nibble-models-")
            atexit.register(shutil.rmtree, self.root, True)
        if key not in self.made:
            self.made[key] = make(os.path.join(self.root, key))
        return self.made[key]


def main():
    if not os.path.exists(TRAIN):
        print("no program at %s: build it, or set NIBBLE_TRAIN" % TRAIN)
        sys.exit(1)
    p = unittest.main(verbosity=2, exit=False)
    if p.result.wasSuccessful() and p.result.testsRun and len(p.result.skipped) == p.result.testsRun:
        sys.exit(SKIPPED)
    sys.exit(0 if p.result.wasSuccessful() else 1)
