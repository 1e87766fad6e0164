"""`train bench --quick` gives every figure of docs/performance.md, leaves nothing behind; `train
--profile` accounts for a step's operations, their FLOPs and bytes."""
import os

import nibble

RESULTS = """gemm_f32 gemm_bf16 copy nf4_decoding linear attention rmsnorm glu rope linear.backward
attention.backward rmsnorm.backward glu.backward rope.backward head_cross_entropy adamw load.cold
load.warm step.rate step step.predicted step.host step.disk paged_adamw tokenizer""".split()


class Bench(nibble.Case):
    def test_quick(self):
        base = nibble.make_model(self.path("base"))
        nibble.write(self.path("text"), "The quick brown fox jumps over the lazy dog.\n" * 50)
        os.mkdir(self.path("tmp"))
        r = nibble.run(self.dir, "bench", "--quick", "--format", "json", "--out", "all.json",
                       "--model", base, "--data", "text", env={"TMPDIR": self.path("tmp")})
        self.assertEqual(r.code, nibble.OK, r)
        said = nibble.json.loads(r.out)
        self.assertEqual(said, nibble.json.loads(nibble.read(self.path("all.json"))))
        self.assertEqual(sorted(said["results"]), sorted(RESULTS))
        for name, q in said["results"].items():
            self.assertGreater(q["least"], 0, name)
            self.assertLessEqual(q["least"], q["median"], name)
            self.assertLessEqual(q["median"], q["most"], name)
        self.assertEqual(os.listdir(self.path("tmp")), [])

    def test_half_a_tokenizer(self):
        r = nibble.run(self.dir, "bench", "--quick", "--model", "base")
        self.assertEqual(r.code, nibble.USAGE, r)
        self.assertIn("--data", r.err)

    def test_a_run(self):
        """A configuration's steps, on a base and rows that nobody has to have."""
        nibble.write_config(self.path("config.yaml"), nibble.config(
            "HuggingFaceTB/SmolLM2-135M", sequence_len=32, micro_batch_size=1, max_steps=3,
            gradient_accumulation_steps=2, quantized_cache="base.h5"))
        before = sorted(os.listdir(self.dir))
        r = nibble.run(self.dir, "bench", "--config", "config.yaml", "--synthetic", "--format", "json")
        self.assertEqual(r.code, nibble.OK, r)
        said = nibble.json.loads(r.out)
        self.assertEqual(sorted(said["results"]), ["step", "step.predicted", "step.rate"])
        self.assertEqual(said["results"]["step"]["rounds"], 2)
        self.assertEqual(said["profile"]["head_cross_entropy.backward"]["calls"], 2 * 2)
        self.assertEqual(sorted(os.listdir(self.dir)), before)
        r = nibble.run(self.dir, "bench", "--config", "config.yaml", "--synthetic", "base_model=some/name")
        self.assertEqual(r.code, nibble.USAGE, r)
        self.assertIn("base_model=synthetic:NAME", r.err)
        r = nibble.run(self.dir, "generate", "--model", "synthetic:smollm2-135m", "--prompt", "a")
        self.assertEqual(r.code, nibble.MODEL, r)
        self.assertIn("no tokenizer", r.err)


class Profile(nibble.Case):
    STEPS, LENGTH, ROWS = 3, 64, 2  # every row fills its bin

    def test_accounts(self):
        nibble.make_model(self.path("base"))
        nibble.make_rows(self.path("rows.jsonl"), count=12, least=self.LENGTH, most=self.LENGTH)
        nibble.write_config(self.path("config.yaml"), nibble.config(
            sequence_len=self.LENGTH, micro_batch_size=self.ROWS, max_steps=self.STEPS,
            gradient_accumulation_steps=1, memory={"activations": "keep"}))
        r = self.job("--profile", "--threads", 1)
        for name in ("linear", "square_sum", "adamw", "inputs, pages", "limits:"):
            self.assertIn(name, r.out)
        s = nibble.summary(self.path("out"))
        p = s["profile"]
        layers, h, f, q, kv, vocab, rank = 3, 64, 96, 64, 32, 264, 4
        tokens = self.STEPS * self.LENGTH * self.ROWS
        linears = [(h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)]
        forward = 2 * tokens * layers * sum(i * o + rank * (i + o) for i, o in linears)
        self.assertAlmostEqual(p["linear"]["flops"] / forward, 1)
        pairs = self.STEPS * self.ROWS * self.LENGTH * (self.LENGTH + 1) / 2
        self.assertAlmostEqual(p["attention"]["flops"] / (4 * pairs * q * layers), 1)
        self.assertAlmostEqual(
            p["head_cross_entropy.backward"]["flops"] / (4 * s["targets"] * vocab * h), 1)
        trained = layers * sum(rank * (i + o) for i, o in linears)
        # gradient, master, m, v and working copy; all but the first are written too
        self.assertAlmostEqual(p["adamw"]["bytes"] / (self.STEPS * trained * 4 * 9), 1)
        self.assertEqual(p["adamw"]["calls"], self.STEPS * layers * 14)
        self.assertEqual(p["square_sum"]["calls"], self.STEPS * layers * 14)
        seconds = sum(c["seconds"] for c in p.values())
        self.assertLess(seconds, s["train_seconds"])
        self.assertGreater(seconds, s["train_seconds"] / 3)
        self.assertGreater(s["step_seconds_predicted"], 0)
        self.assertGreater(s["step_seconds_measured"], 0)


if __name__ == "__main__":
    nibble.main()
