"""The plan against what a run is observed to do: the arenas' high-water mark to the byte (they are
filled with a pattern beforehand), and the page traffic of the whole run."""
import json
import os

import nibble

models = nibble.Cache()

PLACES = [
    dict(activations="keep", base="resident", optimizer="resident"),
    dict(activations="recompute", base="resident", optimizer="resident"),
    dict(activations="offload", base="resident", optimizer="resident"),
    dict(activations="keep", base="host", slots=1, optimizer="resident"),
    dict(activations="recompute", base="host", slots=3, optimizer="paged"),
    dict(activations="offload", base="host", slots=2, optimizer="paged"),
    dict(activations="keep", base="disk", slots=2, optimizer="paged"),
]
STEPS, ACCUMULATION = 4, 3


class Plan(nibble.Case):
    def prepare(self, family="llama", **keys):
        base = models(family, lambda f: nibble.make_model(f, family, num_hidden_layers=4))
        # every row fills its bin, so that every micro-batch has exactly the planned rows
        nibble.make_rows(self.path("rows.jsonl"), count=24, least=32, most=32)
        nibble.write_config(self.path("config.yaml"), nibble.config(
            base, sequence_len=32, micro_batch_size=2, max_steps=STEPS,
            gradient_accumulation_steps=ACCUMULATION, **keys))

    def observed(self, place):
        placed = ["memory.%s=%s" % kv for kv in place.items()]
        self.job("--overwrite", "--threads", 1, "--quiet", *placed, env={"NIBBLE_PATTERN": "1"})
        return nibble.summary(self.path("out"))

    def compare(self, **keys):
        for place in PLACES:
            with self.subTest(**place):
                s = self.observed(place)
                p, t = s["plan"], s["traffic"]
                self.assertEqual(s["observed_device_bytes"], p["device_bytes"])
                self.assertEqual(s["observed_host_bytes"], p["host_bytes"])
                self.check_traffic(p, t)

    def check_traffic(self, p, t):
        micro = STEPS * ACCUMULATION
        base = t.get("base", {"in": 0, "out": 0, "from_disk": 0})
        self.assertEqual(base["in"], p["first_micro_step_pages_in"] +
                         (micro - 1) * p["micro_step_pages_in"] if p["slots"] else 0)
        self.assertEqual(base["out"], 0, "frozen pages are never written back")
        if p["base"] == "disk":
            self.assertEqual(base["from_disk"], base["in"])
        else:
            self.assertEqual(base["from_disk"], 0)
        moments = t.get("optimizer", {"in": 0, "out": 0})
        self.assertEqual(moments["in"], p["first_optimizer_pages_in"] +
                         (STEPS - 1) * p["optimizer_pages_in"])
        self.assertEqual(moments["out"], STEPS * p["optimizer_pages_out"])
        moved = t.get("activation", {"in": 0, "out": 0})
        self.assertEqual(moved["out"], micro * p["offloaded_per_micro_step"])
        self.assertEqual(moved["in"], moved["out"])

    def test_qlora(self):
        self.prepare()
        self.compare()

    def test_bf16_evaluation_and_samples(self):
        """A run plans all its programs over one arena: their maximum."""
        self.prepare("qwen3", bf16=True, val_set_size=4, generate_samples=True,
                     num_generation_samples=2, generation_max_new_tokens=4)
        s = self.observed(dict(activations="recompute", base="host", slots=2))
        self.assertLessEqual(s["observed_device_bytes"], s["plan"]["device_bytes"])
        # the widest program, generation, fills its caches only as far as the prompts go
        self.assertGreater(s["observed_device_bytes"], 0)

    def test_embedding_stays_on_the_host(self):
        """... with base=host, where it is not the head too; the head and a tied one do not."""
        for tied in (False, True):
            with self.subTest(tied=tied):
                base = self.path("tied" if tied else "untied")
                nibble.make_model(base, "llama", tie_word_embeddings=tied)
                nibble.make_rows(self.path("rows.jsonl"))
                nibble.write_config(self.path("config.yaml"), nibble.config(base, max_steps=2))
                with open(os.path.join(base, "config.json")) as f:
                    c = json.load(f)
                table = 4 * c["vocab_size"] * c["hidden_size"]
                place = self.observed(dict(base="host"))["plan"]["classes"]["embedding"]
                self.assertEqual(place["host"], 0 if tied else table)
                self.assertEqual(place["device"], table + 4 * c["hidden_size"])

    def test_plan_is_the_run(self):
        """`train plan` prints the numbers that the run then has."""
        self.prepare()
        place = ["memory.activations=offload", "memory.base=host", "memory.optimizer=paged"]
        r = nibble.run(self.dir, "plan", "--config", "config.yaml", "--format", "json",
                       "--threads", 1, *place)
        self.assertEqual(r.code, nibble.OK, r)
        said = nibble.json.loads(r.out)
        done = self.observed(dict(activations="offload", base="host", optimizer="paged"))["plan"]
        for key in ("classes", "device_bytes", "host_bytes", "micro_step_pages_in",
                    "optimizer_pages_in", "offloaded_per_micro_step", "step_flops", "capacity"):
            self.assertEqual(said[key], done[key], key)
        self.assertEqual(said["steps"], STEPS)

    def test_largest_sequence(self):
        """Rows of the longest sequence that the plan offers fit the budget; longer ones do not."""
        self.prepare()

        def plan(*keys):
            return nibble.run(self.dir, "plan", "--config", "config.yaml", "--format", "json",
                              "memory.device_budget=%d" % (4 << 20), "--threads", 1,
                              "micro_batch_size=1", *keys)
        r = plan()
        self.assertEqual(r.code, nibble.OK, r)
        longest = nibble.json.loads(r.out)["largest_sequence_len"]
        self.assertEqual(longest % 64, 0)
        for more, code in ((0, nibble.OK), (64, nibble.MEMORY)):
            n = longest + more
            nibble.make_rows(self.path("rows.jsonl"), count=12, least=n, most=n)
            r = plan("sequence_len=%d" % n)
            self.assertEqual(r.code, code, "%d tokens: %s" % (n, r))


class Cards(nibble.Case):
    """Plans for cards that are not here, with bases that nobody has downloaded."""
    CONFIGS = nibble.os.path.join(nibble.os.path.dirname(nibble.os.path.dirname(nibble.os.path.dirname(
        nibble.os.path.abspath(__file__)))), "configs")

    def plan(self, config, card, *more, code=nibble.OK):
        r = nibble.run(self.dir, "plan", "--config", nibble.os.path.join(self.CONFIGS, config), "--synthetic",
                       "--device", card, "--format", "json", *more)
        self.assertEqual(r.code, code, r)
        return nibble.json.loads(r.out) if r.out else r

    def test_70b(self):
        small = ("micro_batch_size=1", "sequence_len=2048")
        resident = self.plan("qlora-70b.yaml", "l40s", *small)
        self.assertEqual(resident["base"], "resident")
        self.assertLess(resident["device_bytes"], 48e9)
        streamed = self.plan("qlora-70b.yaml", "RTX-4090")
        self.assertEqual(streamed["base"], "host")
        self.assertLess(streamed["device_bytes"], 24e9)
        faster = self.plan("qlora-70b.yaml", "h100")
        self.assertLess(faster["step_seconds"], streamed["step_seconds"] / 3)
        r = self.plan("qlora-70b.yaml", "rtx-4080", code=nibble.MEMORY)
        self.assertIn("what would fit", r.err)

    def test_unknown(self):
        r = self.plan("qlora-8b.yaml", "gtx-1080", code=nibble.USAGE)
        self.assertIn("rtx-4090", r.err)


if __name__ == "__main__":
    nibble.main()
