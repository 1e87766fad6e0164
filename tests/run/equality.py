"""The equality matrix at tolerance 0: where activations, base and optimizer live changes no bit
of any loss, gradient norm or trained weight. Every variant runs on an arena filled with a
pattern, so that a buffer that is read before it is written shows too."""
import itertools

import nibble

models = nibble.Cache()

# name -> (family, keys of the configuration)
CASES = {
    "llama nf4, dropout": ("llama", dict(lora_dropout=0.1)),
    "qwen3 packed bf16": ("qwen3", dict(bf16=True, sample_packing=True, sequence_len=64,
                                        micro_batch_size=1)),
    "mistral 16-bit fp16": ("mistral", dict(nibble.LORA, load_in_4bit=False, fp16=True,
                                            initial_loss_scale=1024)),
    "qwen2 fp4, 8-bit moments": ("qwen2", dict(
        bnb_config_kwargs={"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False},
        lora_r=64, lora_alpha=64, optimizer="paged_adamw_8bit", peft_use_rslora=True,
        lora_dropout=0.05)),
    "all parameters": ("llama", dict(adapter="absent", load_in_4bit=False, lora_r="absent",
                                     lora_alpha="absent", lora_target_linear="absent",
                                     learning_rate=0.003)),
}

REFERENCE = dict(activations="keep", base="resident", slots=2, optimizer="resident")
SHORT = [
    dict(activations="recompute"),
    dict(activations="offload"),
    dict(base="host", slots=1),
    dict(base="host", slots=3, activations="recompute", optimizer="paged"),
    dict(base="disk", slots=2, activations="offload", optimizer="paged"),
]


def variants(full_parameters):
    if nibble.FULL:
        every = itertools.product(("keep", "recompute", "offload"),
                                  ("resident", "host", "disk"), (1, 2, 3, 4),
                                  ("resident", "paged"))
        chosen = [dict(zip(("activations", "base", "slots", "optimizer"), v)) for v in every]
        chosen = [v for v in chosen if v["base"] != "resident" or v["slots"] in (1, 4)]
    else:
        chosen = SHORT
    if full_parameters:  # what is trained is no frozen page: the base is always resident
        chosen = [v for v in chosen if v.get("base", "resident") == "resident"]
        chosen += [] if nibble.FULL else [dict(activations="recompute", optimizer="paged", slots=1)]
    return chosen


class Equality(nibble.Case):
    def prepare(self, name, **keys):
        family, changes = CASES[name]
        base = models(family, lambda f: nibble.make_model(f, family))
        nibble.make_rows(self.path("rows.jsonl"))
        c = nibble.config(base, **changes)
        c.update(keys)
        nibble.write_config(self.path("config.yaml"), c)

    def train(self, label, memory, *more, threads=1):
        """Trains with this placement into a folder of its own; returns the trace."""
        placed = ["memory.%s=%s" % kv for kv in memory.items()]
        self.job("output_dir=" + label, *placed, *more, "--threads", threads, "--quiet",
                 env={"NIBBLE_PATTERN": "1"})
        return nibble.trace(self.path(label))

    def check(self, name):
        self.prepare(name)
        want = self.train("reference", REFERENCE)
        self.assertEqual(len(want[0]), 6)
        self.assertGreater(len({row[1] for row in want[0]}), 5, "losses that do not change")
        for i, v in enumerate(variants(name == "all parameters")):
            with self.subTest(**v):
                got = self.train("variant%d" % i, dict(REFERENCE, **v))
                self.assert_same(got, want, "%s with %s" % (name, v))

    def test_row16_llama(self):
        self.check("llama nf4, dropout")

    def test_row16_qwen3(self):
        self.check("qwen3 packed bf16")

    def test_row16_mistral(self):
        self.check("mistral 16-bit fp16")

    def test_row16_qwen2(self):
        self.check("qwen2 fp4, 8-bit moments")

    def test_row16_all_parameters(self):
        self.check("all parameters")

    def test_row16_same_seed_twice_two_threads(self):
        self.prepare("llama nf4, dropout")
        want = self.train("first", REFERENCE, threads=2)
        self.assert_same(self.train("second", REFERENCE, threads=2), want, "the same twice")
        streamed = dict(REFERENCE, base="host", slots=2, activations="recompute")
        self.assert_same(self.train("third", streamed, threads=2), want, "streamed")

    def test_another_seed_differs(self):
        self.prepare("llama nf4, dropout")
        want = self.train("first", REFERENCE)
        self.assertNotEqual(self.train("second", REFERENCE, "seed=8")[1], want[1])

    def test_row16_auto_between(self):
        """Under a budget between keep's and recompute's plan some layers keep; same bits."""
        self.prepare("llama nf4, dropout", sequence_len=256, micro_batch_size=4)
        nibble.make_rows(self.path("rows.jsonl"), count=16, least=200, most=256)

        def plan(*keys):
            r = nibble.run(self.dir, "plan", "--config", "config.yaml", "--format", "json", *keys)
            self.assertEqual(r.code, nibble.OK, r)
            return nibble.json.loads(r.out)

        keep = plan("memory.activations=keep")["device_bytes"]
        recompute = plan("memory.activations=recompute")["device_bytes"]
        self.assertLess(recompute, keep)
        want = self.train("reference", REFERENCE, "max_steps=2")
        budget = "memory.device_budget=%d" % ((keep * 2 + recompute) // 3)
        got = self.train("between", {}, budget, "max_steps=2")
        self.assert_same(got, want, "auto")
        chosen = nibble.summary(self.path("between"))["plan"]
        self.assertEqual(chosen["activations"], "recompute")
        self.assertGreater(chosen["kept_layers"], 0)
        self.assertLessEqual(chosen["device_bytes"], (keep * 2 + recompute) // 3)


if __name__ == "__main__":
    nibble.main()
