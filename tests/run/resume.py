"""Resuming: at every step of 20 the run goes on bit for bit; what the command line says about
finished, unfinished, absent and foreign runs; what metrics.jsonl holds afterwards."""
import os
import shutil

import nibble

models = nibble.Cache()
STEPS = 50 if nibble.FULL else 20
EVERYTHING = dict(lora_dropout=0.1, sample_packing=True, sequence_len=48, micro_batch_size=1,
                  max_steps=STEPS, save_strategy="absent", save_steps=1, save_total_limit=100)


class Resume(nibble.Case):
    def prepare(self, family="llama", **keys):
        base = models(family, lambda f: nibble.make_model(f, family, num_hidden_layers=2))
        nibble.make_rows(self.path("rows.jsonl"))
        nibble.write_config(self.path("config.yaml"), nibble.config(base, **dict(EVERYTHING, **keys)))

    def checkpoint(self, step, out="out"):
        return os.path.join(out, "checkpoints", "step-%06d.h5" % step)

    def every_step(self, steps, *more):
        self.job("--threads", 1, "--quiet")
        want = nibble.trace(self.path("out"))
        self.assertEqual([row[0] for row in want[0]], list(range(1, STEPS + 1)))
        for k in steps:
            with self.subTest(step=k):
                self.job("output_dir=at%d" % k, "--threads", 1, "--quiet", "save_steps=0", *more,
                         "resume_from_checkpoint=" + self.path(self.checkpoint(k)))
                got = nibble.trace(self.path("at%d" % k))
                self.assert_same(got, (want[0][k:], want[1]), "resumed at step %d" % k)

    def test_row16_resumed_at_every_step(self):
        self.prepare()
        self.every_step(range(1, STEPS))

    def test_streamed_after_resident(self):
        """Where things live may change at a resumption; the bits do not."""
        self.prepare("qwen3", bf16=True, optimizer="paged_adamw_32bit")
        self.every_step((3, 11), "memory.base=host", "memory.slots=1",
                        "memory.activations=recompute", "memory.optimizer=resident")

    def test_streamed_dataset(self):
        """Rows are read in windows while training: over their borders, and over the file's end."""
        self.prepare(streaming=True, streaming_multipack_buffer_size=100, gradient_accumulation_steps=32)
        nibble.make_rows(self.path("rows.jsonl"), count=1200)
        self.every_step((2, 5, 12, 17))
        epochs = [m["epoch"] for m in nibble.metrics(self.path("out")) if "epoch" in m]
        self.assertEqual(min(epochs), 0)
        self.assertGreaterEqual(max(epochs), 1)
        nibble.make_rows(self.path("rows.jsonl"), count=1201)
        r = nibble.run(self.dir, "--config", "config.yaml", "output_dir=other", "--threads", 1,
                       "resume_from_checkpoint=" + self.path(self.checkpoint(5)))
        self.assertEqual(r.code, nibble.DATA, r)

    def test_8bit_moments_and_loss_scale(self):
        self.prepare(lora_r=64, lora_alpha=32, optimizer="adamw_bnb_8bit", fp16=True,
                     initial_loss_scale=1e6)
        self.every_step((1, 7, 19))

    def test_all_parameters(self):
        self.prepare(adapter="absent", load_in_4bit=False, lora_r="absent", lora_dropout="absent",
                     lora_alpha="absent", lora_target_linear="absent")
        self.every_step((2, 13))

    def test_metrics_after_a_resume(self):
        """Each step once, and a line that says where the run went on."""
        self.prepare()
        self.job("--threads", 1, "--quiet")
        want = nibble.trace(self.path("out"))
        os.unlink(self.path("out", "summary.json"))
        os.unlink(self.path("out", "adapter_model.safetensors"))
        for k in range(8, STEPS + 1):  # as if the run had died after step 9's metrics
            for name in (self.checkpoint(k), self.checkpoint(k)[:-2] + "json"):
                os.unlink(self.path(name))
        lines = nibble.read(self.path("out", "metrics.jsonl")).splitlines(True)
        nibble.write(self.path("out", "metrics.jsonl"), b"".join(lines[:9]) + lines[9][:20])
        self.job("--resume", "--threads", 1, "--quiet")
        self.assert_same(nibble.trace(self.path("out")), want, "resumed")
        told = [m for m in nibble.metrics(self.path("out")) if "resumed_from" in m]
        self.assertEqual(told, [{"step": 7, "resumed_from": 7}])
        self.assertEqual(nibble.summary(self.path("out"))["resumed_from"], 7)

    def test_killed_after_the_last_save(self):
        """Only the end is done again, and no line of metrics.jsonl twice."""
        self.prepare(val_set_size=4, eval_steps=10)
        self.job("--threads", 1, "--quiet")
        want, lines = nibble.trace(self.path("out")), nibble.metrics(self.path("out"))
        after = nibble.summary(self.path("out"))["held_out_after"]
        for name in ("summary.json", "adapter_model.safetensors"):
            os.unlink(self.path("out", name))
        self.job("--resume", "--threads", 1, "--quiet")
        self.assert_same(nibble.trace(self.path("out")), want, "resumed at the end")
        self.assertEqual([m for m in nibble.metrics(self.path("out")) if "eval_loss" in m],
                         [m for m in lines if "eval_loss" in m])
        self.assertEqual(nibble.summary(self.path("out"))["held_out_after"], after)

    def test_row17_other_threads(self):
        """Another number of threads: the run goes on, what differs is said, and what was
        measured before the first step is still there."""
        self.prepare(max_steps=6, val_set_size=4, generate_samples=True, num_generation_samples=2)
        self.job("--threads", 1, "--quiet")
        want = nibble.summary(self.path("out"))
        r = self.job("--threads", 2, "output_dir=two",
                     "resume_from_checkpoint=" + self.path(self.checkpoint(3)))
        self.assertIn("threads: 2, in the checkpoint threads: 1", r.err)
        self.assertNotIn("compute:", r.err)  # what is equal is not listed
        got = nibble.summary(self.path("two"))
        for key in "held_out_before", "samples_before":
            self.assertEqual(got[key], want[key], key)
        self.assertEqual(got["steps"], want["steps"])

    def test_newest_is_broken(self):
        """The one before is taken, loudly."""
        self.prepare()
        self.job("--threads", 1, "--quiet")
        want = nibble.trace(self.path("out"))
        os.unlink(self.path("out", "summary.json"))
        newest = self.path(self.checkpoint(STEPS))
        raw = bytearray(nibble.read(newest))
        raw[len(raw) // 2] ^= 1
        nibble.write(newest, bytes(raw))
        r = self.job("--resume", "--threads", 1)
        self.assertIn("warning", r.err)
        self.assertIn("resumed from step %d " % (STEPS - 1), r.err)
        self.assert_same(nibble.trace(self.path("out")), want, "resumed")

    def test_finished_and_unfinished(self):
        self.prepare(max_steps=3)
        r = self.job("--resume", "--threads", 1)
        self.assertIn("from the beginning", r.err)  # no checkpoint yet
        want = nibble.trace(self.path("out"))
        r = self.job()
        self.assertIn("finished", r.err)
        self.assertIn("3 steps", r.out)
        self.assert_same(nibble.trace(self.path("out")), want, "a finished run is left alone")
        os.unlink(self.path("out", "summary.json"))
        r = self.job(expect=nibble.USAGE)
        self.assertIn("--resume", r.err)
        self.assertIn("--overwrite", r.err)
        self.assert_same(nibble.trace(self.path("out")), want, "a refused run is left alone")
        self.job("--overwrite", "--threads", 1)
        self.assert_same(nibble.trace(self.path("out")), want, "the same again")
        self.assertEqual([m for m in nibble.metrics(self.path("out")) if "resumed_from" in m], [])

    def test_save_total_limit(self):
        self.prepare(max_steps=7, save_total_limit=2)
        self.job("--threads", 1, "--quiet")
        self.assertEqual(sorted(os.listdir(self.path("out", "checkpoints"))),
                         ["step-000006.h5", "step-000006.json", "step-000007.h5",
                          "step-000007.json"])

    def test_changed_things_are_named(self):
        """Another configuration, other rows, another base: refused, and nothing is touched."""
        self.prepare(max_steps=4)
        self.job("--threads", 1, "--quiet")
        os.unlink(self.path("out", "summary.json"))
        before = nibble.read(self.path("out", "metrics.jsonl"))
        r = self.job("--resume", "learning_rate=0.02", expect=nibble.USAGE)
        self.assertIn("learning_rate", r.err)
        nibble.make_rows(self.path("rows.jsonl"), seed=99)
        r = self.job("--resume", expect=nibble.DATA)
        self.assertIn("rows", r.err)
        nibble.make_rows(self.path("rows.jsonl"))
        nibble.make_model(self.path("other"), num_hidden_layers=2, seed=5)
        r = self.job("--resume", "base_model=other", expect=nibble.MODEL)
        self.assertIn("another base", r.err)
        self.assertEqual(nibble.read(self.path("out", "metrics.jsonl")), before)
        moved = models.root + "-moved"
        self.addCleanup(shutil.rmtree, moved, True)
        shutil.copytree(models.made["llama"], moved)  # the same base elsewhere is the same base
        self.job("--resume", "base_model=" + moved, "--threads", 1)


if __name__ == "__main__":
    nibble.main()
