"""The plan is a contract: whatever the mode, the family and the budget, the arenas are used to
the byte that was planned; after the first step the program asks the system for nothing more; a
budget that is too small is refused with settings that then work; and what streams a model
(quantize, export) needs memory for a part of it only. NIBBLE_FULL=1: every combination."""
import itertools
import os
import re
import resource
import shutil
import struct
import subprocess

import nibble

MIB = 1 << 20
models = nibble.Cache()
MODES = {"qlora": {}, "fp4": {"bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4",
                                                    "bnb_4bit_use_double_quant": False}},
         "lora": dict(nibble.LORA, load_in_4bit=False), "8bit": {"optimizer": "adamw_bnb_8bit"},
         "full": {"adapter": "absent", "load_in_4bit": False, "lora_r": "absent",
                  "lora_alpha": "absent", "lora_target_linear": "absent"}}
COMPUTE = {"f32": {}, "bf16": {"bf16": True}, "fp16": {"fp16": True}}


class Case(nibble.Case):
    LENGTH, MICRO, STEPS = 64, 2, 2

    def prepare(self, family="llama", **keys):
        base = models(family, lambda f: nibble.make_model(f, family, num_hidden_layers=5))
        # every row fills its bin, so that every micro-batch has exactly the planned rows
        nibble.make_rows(self.path("rows.jsonl"), count=16, least=self.LENGTH, most=self.LENGTH)
        nibble.write_config(self.path("config.yaml"), nibble.config(base, **dict(dict(
            sequence_len=self.LENGTH, micro_batch_size=self.MICRO, max_steps=self.STEPS,
            gradient_accumulation_steps=2, warmup_steps=0), **keys)))

    def plan(self, *keys, expect=nibble.OK):
        r = nibble.run(self.dir, "plan", "--config", "config.yaml", "--format", "json",
                       "--threads", 1, *keys)
        self.assertEqual(r.code, expect, r)
        return nibble.json.loads(r.out) if expect == nibble.OK else r

    def observe(self, *keys):
        """Trains on pattern-filled arenas; every byte that was planned was needed, and no more."""
        self.job("--overwrite", "--threads", 1, "--quiet", *keys, env={"NIBBLE_PATTERN": "1"})
        s = nibble.summary(self.path("out"))
        self.assertEqual(s["observed_device_bytes"], s["plan"]["device_bytes"], keys)
        self.assertEqual(s["observed_host_bytes"], s["plan"]["host_bytes"], keys)
        return s["plan"]


class HighWater(Case):
    PLACES = list(itertools.product(("keep", "recompute", "offload"), ("resident", "host", "disk"),
                                    ("resident", "paged"), (1, 2)))

    def walk(self):
        """(family, mode, compute, place): all of them, or a part in which each value occurs."""
        every = itertools.product(nibble.FAMILIES, MODES, COMPUTE, self.PLACES)
        for i, (family, mode, compute, place) in enumerate(every):
            if mode == "full" and (place[1] != "resident" or place[3] != 1):
                continue  # the base is what is trained: it stays
            if nibble.FULL or i % 67 == 0:
                yield family, mode, compute, place

    def test_modes_and_families(self):
        runs = 0
        for family, mode, compute, place in self.walk():
            activations, base, optimizer, slots = place
            with self.subTest(family=family, mode=mode, compute=compute, place=place):
                self.prepare(family, **dict(MODES[mode], **COMPUTE[compute]))
                self.observe("memory.activations=%s" % activations, "memory.base=%s" % base,
                             "memory.optimizer=%s" % optimizer, "memory.slots=%d" % slots)
                runs += 1
        print("%d runs observed" % runs)

    def test_budgets(self):
        """`auto` under every budget between the floor and the fastest plan."""
        for family in nibble.FAMILIES if nibble.FULL else ("llama", "qwen3"):
            self.prepare(family)
            most = self.plan()["device_bytes"]
            least = self.plan("memory.activations=recompute", "memory.base=host",
                              "memory.slots=1", "memory.optimizer=paged")["device_bytes"]
            kinds, n = set(), 24 if nibble.FULL else 5
            for i in range(n + 1):
                budget = least + (most - least) * i // n
                p = self.observe("memory.device_budget=%d" % budget, "memory.optimizer=paged",
                                 "memory.slots=1")
                self.assertLessEqual(p["device_bytes"], budget)
                kinds.add((p["activations"], p["base"], p["kept_layers"]))
            self.assertGreater(len(kinds), 2, "budgets made no difference: %s" % kinds)
            r = self.plan("memory.device_budget=%d" % (least - 1), "memory.optimizer=paged",
                          "memory.slots=1", expect=nibble.MEMORY)
            self.assertEqual(len(r.errors), 1, r)


class Refused(Case):
    def remedies(self, r):
        """The settings that the refusal offers."""
        self.assertEqual(len(r.errors), 1, r)
        found = re.search(r"what would fit: (.*)$", r.errors[0])
        self.assertTrue(found, r)
        return [words.split() for words in found.group(1).split("; or ")]

    def test_remedies_work(self):
        self.prepare(micro_batch_size=4)
        pinned = ["memory.activations=keep", "memory.base=resident", "memory.optimizer=resident"]
        most = self.plan(*pinned)["device_bytes"]
        floor = self.plan("memory.activations=recompute", "memory.base=disk", "memory.slots=1",
                          "memory.optimizer=paged")["device_bytes"]
        offered = set()
        for i in range(1, 6):
            budget = "memory.device_budget=%d" % (most - (most - floor) * i // 5)
            r = self.job("--overwrite", "--threads", 1, *pinned, budget,
                         expect=nibble.MEMORY)
            for words in self.remedies(r):
                with self.subTest(budget=budget, remedy=words):
                    offered.add(" ".join(words))
                    self.job("--overwrite", "--quiet", "--threads", 1, *pinned, budget, *words)
        self.assertGreater(len(offered), 3, offered)
        print("remedies applied: " + "; ".join(sorted(offered)))

    def test_below_every_floor(self):
        """Where no placement fits, a smaller micro-batch is found that does, and works."""
        self.prepare(micro_batch_size=8)
        floor = self.plan("micro_batch_size=2", "memory.activations=recompute",
                          "memory.base=disk", "memory.slots=1",
                          "memory.optimizer=paged")["device_bytes"]
        budget = "memory.device_budget=%d" % (floor + 1000)
        r = self.job("--threads", 1, budget, expect=nibble.MEMORY)
        for words in self.remedies(r):
            self.assertTrue(words[0].startswith("micro_batch_size="), words)
            self.job("--overwrite", "--quiet", "--threads", 1, budget, *words)
        r = self.job("--threads", 1, "memory.device_budget=100KB", "--overwrite",
                     expect=nibble.MEMORY)
        self.assertEqual(len(r.errors), 1, r)
        self.assertNotIn("what would fit", r.errors[0])


class System(Case):
    """Nothing is asked of the system after the first step."""
    PLACES = [("keep", "resident", "resident"), ("offload", "host", "paged"),
              ("recompute", "disk", "paged")]

    def test_no_growth_after_the_first_step(self):
        if not shutil.which("strace"):
            self.skipTest("no strace")
        self.prepare(max_steps=12, num_epochs=2, lora_dropout=0.1, save_strategy="no")
        for activations, base, optimizer in self.PLACES:
            with self.subTest(base=base):
                calls = self.calls("memory.activations=" + activations, "memory.base=" + base,
                                   "memory.optimizer=" + optimizer)
                first = next(i for i, c in enumerate(calls) if '"step":1,' in c)
                last = next(i for i, c in enumerate(calls) if '"step":12,' in c)
                grown = [c for c in calls[first:last]
                         if re.search(r"\b(mmap|mremap|brk)\(", c) and "write(" not in c]
                self.assertEqual(grown, [])

    def calls(self, *keys):
        """Every mapping and every line of metrics, in order."""
        log = self.path("trace")
        p = subprocess.run(["strace", "-f", "-s", "64", "-e", "trace=mmap,mremap,brk,write", "-o",
                            log, *nibble.command("train", "--config", "config.yaml", "--threads",
                                                 2, "--overwrite", *keys)],
                           cwd=self.dir, env=nibble.environment(), capture_output=True,
                           encoding="utf-8", timeout=nibble.TIMEOUT)
        if "ptrace" in p.stderr and p.returncode:
            self.skipTest("strace may not trace here")
        self.assertEqual(p.returncode, nibble.OK, p.stderr)
        return [c.replace('\\"', '"') for c in nibble.read(log).decode().splitlines()]


class LargeModel(nibble.Case):
    """Quantizing and merging a model more than ten times larger than the memory allowed."""
    LIMIT = 44 * MIB  # RLIMIT_DATA counts all private writable memory, stacks of threads too

    def setUp(self):
        super().setUp()
        shape = dict(hidden_size=1024, intermediate_size=3072, head_dim=64, vocab_size=264,
                     num_attention_heads=16, num_key_value_heads=16)
        nibble.make_model(self.path("base"), num_hidden_layers=0, **shape)
        config = nibble.json.loads(nibble.read(self.path("base", "config.json")))
        config["num_hidden_layers"] = 18
        nibble.write(self.path("base", "config.json"), nibble.json.dumps(config))
        self.bytes = self.write_zeros(nibble.model_shapes(config))
        self.assertGreater(self.bytes, 10 * self.LIMIT)

    def write_zeros(self, shapes):
        """A file with holes: large, and takes no space."""
        head, at = {}, 0
        for name, shape in shapes.items():
            n = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            head[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
            at += n
        text = nibble.json.dumps(head).encode()
        with open(self.path("base", "model.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            f.truncate(8 + len(text) + at)
        return at

    def limited(self, *arguments):
        r = nibble.run(self.dir, *arguments, "--threads", 1, limit=lambda: resource.setrlimit(
            resource.RLIMIT_DATA, (self.LIMIT, self.LIMIT)))
        self.assertEqual(r.code, nibble.OK, r)

    def test_quantize(self):
        self.limited("quantize", "--model", "base", "--out", "base.h5", "adapter=qlora",
                     "load_in_4bit=true")
        self.assertGreater(os.path.getsize(self.path("base.h5")), self.bytes // 4)

    def test_export(self):
        name = "base_model.model.model.layers.3.self_attn.q_proj.lora_%s.weight"
        os.mkdir(self.path("adapter"))
        ones = {name % "A": ("F32", [2, 1024], nibble.f32_bytes([1.0] * 2048)),
                name % "B": ("F32", [1024, 2], nibble.f32_bytes([1.0] * 2048))}
        nibble.write_safetensors(self.path("adapter", "adapter_model.safetensors"), ones)
        nibble.write(self.path("adapter", "adapter_config.json"), nibble.json.dumps(
            {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"],
             "layers_to_transform": [3], "task_type": "CAUSAL_LM"}))
        self.limited("export", "--model", "base", "--adapter", "adapter", "--out", "merged")
        merged = self.path("merged", "model.safetensors")
        self.assertGreater(os.path.getsize(merged), self.bytes)
        with open(merged, "rb") as f:
            head = nibble.json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
            start = f.tell()
            for layer, value in ((3, 2.0), (4, 0.0)):
                q = head["model.layers.%d.self_attn.q_proj.weight" % layer]
                f.seek(start + q["data_offsets"][0])
                self.assertEqual(f.read(4), nibble.bf16_bytes([value] * 2))


if __name__ == "__main__":
    nibble.main()
