"""Numbers that are not finite, and losses that jump: no update and no checkpoint of such a state,
exit 5 with the rows of the batch, and the last checkpoint still good to go on from."""
import json
import math
import os
import random
import shutil

import nibble

models = nibble.Cache()


class Divergence(nibble.Case):
    def prepare(self, **keys):
        base = models("base", lambda f: nibble.make_model(f, num_hidden_layers=2, dtype="float32"))
        nibble.make_rows(self.path("rows.jsonl"))
        c = nibble.config(base, save_strategy="absent", save_steps=1, save_total_limit=100)
        nibble.write_config(self.path("config.yaml"), dict(c, **keys))

    def checkpoints(self):
        folder = self.path("out", "checkpoints")
        return sorted(n for n in os.listdir(folder)) if os.path.isdir(folder) else []

    def adapter_with(self, value, times=1):
        """An adapter of this model whose first B begins with such numbers."""
        self.job("--threads", 1, "--quiet", "max_steps=1", "output_dir=made")
        tensors = nibble.read_safetensors(self.path("made", "adapter_model.safetensors"))
        name = sorted(n for n in tensors if "lora_B" in n)[0]
        kind, shape, data = tensors[name]
        self.assertEqual(kind, "F32")
        tensors[name] = kind, shape, nibble.f32_bytes([value] * times) + data[4 * times:]
        os.makedirs(self.path("bad"), exist_ok=True)
        shutil.copy(self.path("made", "adapter_config.json"), self.path("bad"))
        nibble.write_safetensors(self.path("bad", "adapter_model.safetensors"), tensors)
        return name

    def test_row15_loss_without_end(self):
        """Every step overflows: none changes the weights, the fifth in a row ends the run."""
        self.prepare(max_steps=20)
        self.adapter_with(3e38, 256)
        r = self.job("--threads", 1, "lora_model_dir=bad", expect=nibble.DIVERGED)
        self.assertEqual(len(r.errors), 1, r)
        self.assertIn("not finite 5 steps in a row", r.err)
        lines = nibble.steps(self.path("out"))
        self.assertEqual([m["skipped_steps"] for m in lines], list(range(1, len(lines) + 1)))
        self.assertTrue(all(m["loss"] is None or math.isfinite(m["loss"]) for m in lines))
        with open(self.path("out", "bad_batch.json")) as f:
            bad = json.load(f)
        self.assertEqual(len(bad["rows"]), 4)  # micro_batch_size x gradient_accumulation_steps
        self.assertTrue(all(0 <= row < 24 for row in bad["rows"]))
        self.assertNotIn("adapter_model.safetensors", os.listdir(self.path("out")))

    def test_row15_adapter_not_finite(self):
        self.prepare()
        for value in math.nan, math.inf, -math.inf:
            name = self.adapter_with(value)
            r = self.job("--threads", 1, "lora_model_dir=bad", expect=nibble.MODEL)
            self.assertEqual(len(r.errors), 1, r)
            self.assertIn(name, r.err)
            self.assertIn("not finite", r.err)
            shutil.rmtree(self.path("out"), True)

    def test_row15_moments_not_finite(self):
        """A gradient that is finite while its square is not: nothing of it is saved."""
        self.prepare(max_steps=4, max_grad_norm=0, warmup_steps=0)
        base = nibble.make_model(self.path("steep"), num_hidden_layers=2, dtype="float32")
        tensors = nibble.read_safetensors(os.path.join(base, "model.safetensors"))
        for name in ("lm_head.weight", "model.norm.weight"):
            kind, shape, data = tensors[name]
            values = nibble.array("f", data)
            tensors[name] = kind, shape, nibble.f32_bytes([x * 3e12 for x in values])
        nibble.write_safetensors(os.path.join(base, "model.safetensors"), tensors)
        r = self.job("--threads", 1, "base_model=steep", expect=nibble.DIVERGED)
        self.assertEqual(len(r.errors), 1, r)
        self.assertEqual(self.checkpoints(), [])
        self.assertNotIn("adapter_model.safetensors", os.listdir(self.path("out")))

    def test_row15_loss_spike(self):
        """The watchdog ends the run; without it the run goes on from the checkpoint before."""
        self.prepare(max_steps=12, warmup_steps=0, learning_rate=0.03, lr_scheduler="constant",
                     max_grad_norm=0, shuffle_merged_datasets=False, curriculum_sampling=True)
        calm = [nibble.json.loads(s) for s in nibble.read(self.path("rows.jsonl")).splitlines()]
        chance = random.Random(3)
        with open(self.path("rows.jsonl"), "w") as f:  # all alike, then noise over all ids
            for i in range(48):
                row = calm[0] if i < 24 else {"input_ids": [chance.randrange(258) for _ in range(30)]}
                f.write(json.dumps(row) + "\n")
        self.job("--threads", 1, "--quiet", "output_dir=free")
        losses = [m["loss"] for m in nibble.steps(self.path("free"))]
        self.assertGreater(losses[6], 1.05 * max(losses[:6]), losses)
        threshold = "loss_watchdog_threshold=%g" % ((max(losses[:6]) + min(losses[6:])) / 2)
        r = self.job("--threads", 1, threshold, "loss_watchdog_patience=2", expect=nibble.DIVERGED)
        self.assertEqual(len(r.errors), 1, r)
        self.assertIn("loss_watchdog_threshold", r.err)
        self.assertEqual(nibble.steps(self.path("out"))[-1]["step"], 8)
        newest = [n for n in self.checkpoints() if n.endswith(".json")][-1]
        self.assertEqual(newest, "step-000007.json")
        self.job("--threads", 1, "--resume")
        self.assert_same(nibble.trace(self.path("out")), nibble.trace(self.path("free")), "went on")


if __name__ == "__main__":
    nibble.main()
