"""SIGTERM, SIGINT and SIGUSR1 in every phase: exit 75, nothing half written under a final name,
and the same command (with --resume where training had begun) ends with the undisturbed result.
And the lock: a second run in the same folder."""
import os
import signal

import nibble

models = nibble.Cache()
NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT", signal.SIGUSR1: "SIGUSR1"}


def small(folder):
    return nibble.make_model(folder, num_hidden_layers=2)


def large(folder):
    """Slow enough to be met in the middle of loading and of a step."""
    return nibble.make_model(folder, hidden_size=384, intermediate_size=1024, head_dim=64,
                             num_attention_heads=6, num_key_value_heads=6, num_hidden_layers=6)


WIDE, WIDE_LAYERS = 1024, 4


def wide(folder):
    """A hundred megabytes: slow to export."""
    return nibble.make_model(folder, hidden_size=WIDE, intermediate_size=2816, head_dim=64,
                             num_attention_heads=16, num_key_value_heads=16,
                             num_hidden_layers=WIDE_LAYERS)


class Signals(nibble.Case):
    def prepare(self, make=small, rows=24, least=5, most=30, **keys):
        self.base = models(make.__name__, make)
        nibble.make_rows(self.path("rows.jsonl"), rows, least, most)
        c = nibble.config(self.base, **dict(dict(max_steps=3, save_strategy="absent", save_steps=1), **keys))
        nibble.write_config(self.path("config.yaml"), c)

    def err(self):
        return nibble.read(self.path("err")).decode("utf-8", "replace")

    def interrupt(self, number, when, *arguments, wait=60):
        """Runs until when(), sends the signal, returns the exit code."""
        p = nibble.start(self.dir, *arguments)
        try:
            self.assertTrue(nibble.wait_for(lambda: when() or p.poll() is not None, wait))
            self.assertIsNone(p.poll(), "it ended before the signal:\n" + self.err())
            p.send_signal(number)
            code = p.wait(nibble.TIMEOUT)
        finally:
            if p.poll() is None:
                p.kill()
                p.wait()
        if code == nibble.INTERRUPTED:
            self.assertEqual(self.err().count("error:"), 1, self.err())
            self.assertIn(NAMES[number], self.err())
        return code

    def train(self):
        return ("train", "--config", "config.yaml", "--threads", 1)

    def said(self, text):
        return lambda: text in self.err()

    def interrupt_and_resume(self, number, when, resume=True):
        """Interrupts a run of config.yaml and lets it go on; the result is the undisturbed one."""
        self.job("output_dir=reference", "--threads", 1, "--quiet")
        code = self.interrupt(number, when, *self.train())
        self.assertEqual(code, nibble.INTERRUPTED, self.err())
        self.assertFalse(os.path.exists(self.path("out", "adapter_model.safetensors")))
        self.assertFalse(os.path.exists(self.path("out", "summary.json")))
        self.job(*(["--resume"] if resume else []), "--threads", 1, "--quiet")
        self.assert_same(nibble.trace(self.path("out")), nibble.trace(self.path("reference")),
                         "after " + NAMES[number])

    def test_row12_load(self):
        self.prepare(large, max_steps=1, micro_batch_size=1, gradient_accumulation_steps=1,
                     save_steps=0)
        self.interrupt_and_resume(signal.SIGTERM, self.said("plan:"), resume=False)
        self.assertNotIn("step 1/", self.err())

    def test_row12_tokenize(self):
        self.prepare(max_steps=1)
        text = "".join(chr(97 + i * i % 26) + ("" if i % 7 else " ") for i in range(20000))
        nibble.write(self.path("text.jsonl"), (nibble.json.dumps({"text": text}) + "\n") * 100)
        c = nibble.config(self.base, max_steps=1, save_strategy="absent", sequence_len=64,
                          excess_length_strategy="truncate",
                          datasets=[{"path": "text.jsonl", "type": "completion"}])
        nibble.write_config(self.path("config.yaml"), c)
        self.interrupt_and_resume(signal.SIGINT, self.said("generation_temperature"), resume=False)
        self.assertNotIn("plan:", self.err())

    def test_row12_step(self):
        """In the middle of a step: the group is dropped, the step before is saved."""
        self.prepare(large, rows=12, least=60, most=64, sequence_len=64, max_steps=3, save_steps=0,
                     gradient_accumulation_steps=4, lora_dropout=0.1)
        self.interrupt_and_resume(signal.SIGUSR1, self.said("step 1/3"))
        self.assertIn("is saved", self.err())

    def test_row12_first_step(self):
        self.prepare(large, rows=12, least=60, most=64, sequence_len=64, max_steps=2, save_steps=0,
                     gradient_accumulation_steps=4)
        self.interrupt_and_resume(signal.SIGTERM,
                                  lambda: os.path.exists(self.path("out", "runs")))

    def test_row12_evaluation(self):
        self.prepare(large, rows=24, least=60, most=64, sequence_len=64, max_steps=2, save_steps=0,
                     gradient_accumulation_steps=1, micro_batch_size=1, val_set_size=20,
                     eval_steps=1)
        self.interrupt_and_resume(signal.SIGTERM, self.said("step 1/2"))
        saved = [m["step"] for m in nibble.metrics(self.path("out")) if "resumed_from" in m]
        self.assertEqual(saved, [1])

    def test_row12_evaluation_before(self):
        self.prepare(large, rows=24, least=60, most=64, sequence_len=64, max_steps=1, save_steps=0,
                     gradient_accumulation_steps=1, micro_batch_size=1, val_set_size=20)
        self.interrupt_and_resume(signal.SIGINT,
                                  lambda: os.path.exists(self.path("out", "runs")))
        self.assertNotIn("step 0 ", self.err())

    def test_row12_sampling(self):
        self.prepare(max_steps=3, save_steps=0, val_set_size=4, eval_steps=1,
                     generate_samples=True, generation_max_new_tokens=300,
                     generation_do_sample=False)
        self.interrupt_and_resume(signal.SIGTERM, self.said("step 1  held-out"))

    def test_row12_save(self):
        self.prepare(max_steps=3)

        def saving():
            folder = self.path("out", "checkpoints")
            return os.path.isdir(folder) and any(n.endswith(".tmp") for n in os.listdir(folder))
        self.interrupt_and_resume(signal.SIGTERM, saving)

    def write_adapter(self, folder, rank=2):
        """On every q_proj of the wide model."""
        os.mkdir(folder)
        name = "base_model.model.model.layers.%d.self_attn.q_proj.lora_%s.weight"
        row = nibble.f32_bytes([0.01] * WIDE)
        nibble.write_safetensors(os.path.join(folder, "adapter_model.safetensors"), {
            name % (i, side): ("F32", shape, row * rank) for i in range(WIDE_LAYERS)
            for side, shape in (("A", [rank, WIDE]), ("B", [WIDE, rank]))})
        nibble.write(os.path.join(folder, "adapter_config.json"), nibble.json.dumps(
            {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 4,
             "target_modules": ["q_proj"], "bias": "none", "lora_dropout": 0}))

    def test_row12_export(self):
        """Nothing half written under a final name; the same command again completes."""
        base = models("wide", wide)
        self.write_adapter(self.path("adapter"))
        export = ("export", "--model", base, "--adapter", "adapter", "--out")
        r = nibble.run(self.dir, *export, "reference")
        self.assertEqual(r.code, nibble.OK, r)

        def left():
            return [n for n in os.listdir(self.dir) if n.startswith("merged")]
        code = self.interrupt(signal.SIGTERM, left, *export, "merged")
        self.assertEqual(code, nibble.INTERRUPTED, self.err())
        self.assertEqual(left(), [])
        r = nibble.run(self.dir, *export, "merged")
        self.assertEqual(r.code, nibble.OK, r)
        self.assertTrue(nibble.trained_folder(self.path("merged")) ==
                        nibble.trained_folder(self.path("reference")))

    def test_row12_second_signal_aborts(self):
        self.prepare(large, rows=12, least=60, most=64, sequence_len=64, max_steps=3)
        p = nibble.start(self.dir, *self.train())
        try:
            self.assertTrue(nibble.wait_for(self.said("plan:")))
            p.send_signal(signal.SIGTERM)
            p.send_signal(signal.SIGINT)
            self.assertEqual(p.wait(20), nibble.INTERRUPTED)
        finally:
            p.kill()
            p.wait()

    def test_lock(self):
        """The second run names the first one and touches nothing."""
        self.prepare(large, rows=12, least=60, most=64, sequence_len=64, max_steps=2)
        p = nibble.start(self.dir, *self.train())
        try:
            self.assertTrue(nibble.wait_for(self.said("plan:")))
            before = sorted(os.listdir(self.path("out")))
            began = nibble.time.monotonic()
            r = nibble.run(self.dir, *self.train(), "--overwrite")
            self.assertEqual(r.code, nibble.LOCKED, r)
            self.assertIn(str(p.pid), "".join(r.errors))
            self.assertLess(nibble.time.monotonic() - began, 5)
            self.assertTrue(set(before) <= set(os.listdir(self.path("out"))))
            self.assertIsNone(p.poll())
            self.assertEqual(p.wait(nibble.TIMEOUT), nibble.OK, self.err())
        finally:
            if p.poll() is None:
                p.kill()
                p.wait()


if __name__ == "__main__":
    nibble.main()
