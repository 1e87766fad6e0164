"""The whole program on the emulated card (tests/emulator): its host side is a card's own, launches,
streams, pages and arenas included. NIBBLE_TRAIN is that program, whose CPU back end is the ordinary one."""
import json
import os
import shutil
import subprocess
import sys
import unittest

import nibble

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMPARE = os.path.join(nibble.FIXTURES, "expectations", "peft-parity", "compare.py")
SAVED = dict(save_strategy="absent", save_steps=1, save_total_limit=10)
ON_CPU = ("--device", "cpu")
ON_CARD = ("--device", "cuda")

models = nibble.Cache()
PLACES = [
    dict(activations="recompute"),
    dict(activations="offload", optimizer="paged"),
    dict(base="host", slots=1, activations="recompute"),
    dict(base="disk", slots=2, optimizer="paged"),
]
REFERENCE = dict(activations="keep", base="resident", optimizer="resident")


class Emulated(nibble.Case):
    def prepare(self, family="llama", **keys):
        base = models(family, lambda f: nibble.make_model(f, family))
        nibble.make_rows(self.path("rows.jsonl"))
        c = nibble.config(base, **dict(dict(max_steps=3, lora_dropout=0.1), **keys))
        nibble.write_config(self.path("config.yaml"), c)

    def train(self, label, device, *more, **memory):
        placed = ["memory.%s=%s" % kv for kv in memory.items()]
        self.job("output_dir=" + label, *placed, *device, *more, "--quiet",
                 env={"NIBBLE_PATTERN": "1"})
        return nibble.trace(self.path(label))

    def test_place_changes_no_bit(self):
        """keep = recompute = offload, resident = host = disk, on arenas filled with a pattern."""
        self.prepare()
        want = self.train("reference", ON_CARD, **REFERENCE)
        for i, place in enumerate(PLACES):
            with self.subTest(**place):
                got = self.train("place%d" % i, ON_CARD, **dict(REFERENCE, **place))
                self.assert_same(got, want, str(place))

    def test_order_changes_no_bit(self):
        """Of threads in a kernel, and of what the streams get to first."""
        self.prepare(bf16=True, max_steps=2)
        want = self.train("reference", ON_CARD, **REFERENCE)
        os.environ["EMULATOR_ORDER"], os.environ["EMULATOR_STREAMS"] = "reversed", "random:5"
        try:
            got = self.train("other", ON_CARD, activations="offload", base="host", slots=2)
        finally:
            del os.environ["EMULATOR_ORDER"], os.environ["EMULATOR_STREAMS"]
        self.assert_same(got, want, "another order")

    def checkpoint(self, out, step):
        return "resume_from_checkpoint=" + self.path(out, "checkpoints", "step-%06d.h5" % step)

    def test_resumed_is_equal(self):
        self.prepare(**SAVED)
        want = self.train("whole", ON_CARD)
        got = self.train("rest", ON_CARD, self.checkpoint("whole", 1))
        self.assert_same(got, (want[0][1:], want[1]), "resumed after step 1")

    def test_back_ends_are_interchangeable(self):
        """The same losses to fp32's last digits, and a checkpoint of one goes on on the other."""
        self.prepare(**SAVED)
        on_cpu, on_card = self.train("cpu", ON_CPU), self.train("card", ON_CARD)
        for a, b in zip(on_cpu[0], on_card[0]):
            self.assertAlmostEqual(a[1], b[1], delta=2e-5)
        r = self.job("output_dir=moved", self.checkpoint("cpu", 2), *ON_CARD)
        self.assertIn("bit for bit", r.err, "a resume on another back end says that it differs")
        self.assertAlmostEqual(nibble.trace(self.path("moved"))[0][0][1], on_cpu[0][2][1],
                               delta=2e-5)

    def measured(self, *more, **env):
        r = nibble.run(self.dir, "plan", "--config", "config.yaml", "--measure", "--format", "json",
                       *more, *ON_CARD, env=dict({"EMULATOR_SLOW_PRODUCT": "0"}, **env))
        self.assertEqual(r.code, nibble.OK, r)
        return json.loads(r.out)["gemm_table"]

    def test_table_of_products(self):
        """--measure finds what is faster, a run takes it and says so, a resumed one has its bits."""
        self.prepare(**SAVED)
        plain = self.train("plain", ON_CARD)
        found = self.measured("output_dir=tuned")
        self.assertGreater(found["faster"], 0)
        self.assertGreaterEqual(found["products"], found["faster"])
        self.assertLess(found["best"], 0.97)
        tuned = self.train("tuned", ON_CARD)
        with open(self.path("tuned", "gemm_table.json")) as f:
            table = json.load(f)
        self.assertEqual(len(table["products"]), found["faster"])
        for a, b in zip(plain[0], tuned[0]):
            self.assertAlmostEqual(a[1], b[1], delta=2e-5)
        summary = nibble.summary(self.path("tuned"))
        self.assertRegex(summary["fingerprint"], "gemm table: [0-9a-f]{16}$")
        os.makedirs(self.path("rest"))
        shutil.copy(self.path("tuned", "gemm_table.json"), self.path("rest"))
        rest = self.train("rest", ON_CARD, self.checkpoint("tuned", 1))
        self.assert_same(rest, (tuned[0][1:], tuned[1]), "resumed with the table")
        r = nibble.run(self.dir, "plan", "--config", "config.yaml", "--measure", "output_dir=tuned", *ON_CARD)
        self.assertEqual((r.code, r.err.count("a run began in")), (nibble.USAGE, 1), r)
        r = nibble.run(self.dir, "plan", "--config", "config.yaml", "--measure", "output_dir=cpu", *ON_CPU)
        self.assertEqual((r.code, r.err.count("one algorithm")), (nibble.USAGE, 1), r)

    def test_tables_that_do_not_fit(self):
        self.prepare()
        self.measured("output_dir=out")
        path = self.path("out", "gemm_table.json")
        with open(path) as f:
            table = json.load(f)
        none = dict(table["products"][0], algorithm="0" * 128)
        for change, code, words in (
                (dict(card="another"), nibble.OK, "is not used"),
                (dict(library="cuBLASLt 1.0.0"), nibble.OK, "is not used"),
                (dict(products=3), nibble.MODEL, "must be a list"),
                (dict(products=[dict(none, algorithm="xyz")]), nibble.MODEL, "hexadecimal"),
                (dict(products=[dict(none, m=0)]), nibble.MODEL, "out of range"),
                (dict(products=[none]), nibble.MODEL, "measure anew")):
            with self.subTest(**change):
                with open(path, "w") as f:
                    json.dump(dict(table, **change), f)
                r = nibble.run(self.dir, "train", "--config", "config.yaml", "output_dir=out",
                               "max_steps=1", "--overwrite", *ON_CARD)
                self.assertEqual((r.code, r.err.count(words)), (code, 1), r)

    def test_quickstart(self):
        losses = []
        for label, device in (("cpu", ON_CPU), ("card", ON_CARD)):
            r = nibble.run(ROOT, "train", "--config", "configs/quickstart.yaml", "max_steps=2",
                           "test_datasets=", "generate_samples=false", "sequence_len=128", "bf16=true",
                           "micro_batch_size=1", "logging_steps=1", "output_dir=" + self.path(label),
                           *device)
            self.assertEqual(r.code, nibble.OK, r)
            losses.append(nibble.trace(self.path(label))[0])
        self.assertEqual(len(losses[0]), 2)
        for a, b in zip(*losses):
            self.assertAlmostEqual(a[1], b[1], delta=0.02)

    def test_faults(self):
        """A sticky error of the card ends the run with its cause; what was saved goes on."""
        self.prepare(**SAVED)
        want = self.train("whole", ON_CARD)
        for calls in range(40, 120, 10):  # until it strikes after a checkpoint
            r = nibble.run(self.dir, "train", "--config", "config.yaml", "output_dir=out",
                           "--overwrite", *ON_CARD,
                           env={"EMULATOR_FAIL": "cudaMemsetAsync:%d:719" % calls})
            self.assertEqual(r.code, 8, r)
            self.assertIn("cudaErrorLaunchFailure", r.err)
            if "saved step 1" in r.err:
                break
        got = self.train("out", ON_CARD, "--resume")
        self.assertTrue(got[1] == want[1], "resumed after a fault")

    def test_context_is_planned(self):
        """What driver and libraries take of the card is a class of the plan, and no arena's."""
        self.prepare()
        for memory in (1 << 30, 2 << 30):
            r = nibble.run(self.dir, "plan", "--config", "config.yaml", "--format", "json", *ON_CARD,
                           env={"EMULATOR_MEMORY": str(memory)})
            p = json.loads(r.out)
            self.assertGreaterEqual(p["context_bytes"], 192 << 20)
            self.assertLess(p["device_bytes"] + p["context_bytes"], memory)
        r = nibble.run(self.dir, "plan", "--config", "config.yaml", "--device", "rtx-4090")
        self.assertRegex(r.out, r"\n  context +900.0 MiB +0.0 KiB +0.0 KiB\n")

    def test_no_card(self):
        self.prepare()
        for env, words in (({"EMULATOR_DEVICES": "0"}, "no NVIDIA card"),
                           ({"EMULATOR_DRIVER": "12000"}, "driver"),
                           ({"EMULATOR_MEMORY": "50000000"}, "memory")):
            with self.subTest(**env):
                r = nibble.run(self.dir, "train", "--config", "config.yaml", "output_dir=out",
                               *ON_CARD, env=env)
                self.assertEqual(r.code, 8, r)
                self.assertIn(words, r.err)
                self.assertEqual(r.err.count("error:"), 1)
        r = nibble.run(self.dir, "train", "--config", "config.yaml", "output_dir=auto",
                       env={"EMULATOR_DEVICES": "0"})
        self.assertEqual(r.code, nibble.OK, r)

    @unittest.skipUnless(os.path.exists(COMPARE), "no fixtures: ../shared is absent")
    def test_parity(self):
        p = subprocess.run([sys.executable, COMPARE, os.path.abspath(nibble.TRAIN)],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           env=nibble.environment(), encoding="utf-8")
        self.assertEqual(p.returncode, 0, p.stdout)
        self.assertEqual(p.stdout.count(": ok "), 4, p.stdout)


if __name__ == "__main__":
    nibble.main()
