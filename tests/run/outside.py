"""Nothing is faked, seen from outside: memory limits are obeyed by planning, a base larger than
the limit streams from disk, fewer adapters are fewer operations, fp16's loss scale finds its
place, a limit on the size of files is a full disk."""
import os
import resource

import nibble

MIB = 1 << 20


def at_most(data_bytes):
    """A limit for Case.job: RLIMIT_DATA, which counts all private writable memory."""
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))


class Limits(nibble.Case):
    def plan(self, *keys, limit=None):
        return nibble.run(self.dir, "plan", "--config", "config.yaml", "--format", "json",
                          "--threads", 1, *keys, limit=limit)

    def least_limit(self, step, *keys):
        """The smallest limit, in steps, under which this plan is accepted."""
        for n in range(1, 200):
            r = self.plan(*keys, limit=at_most(n * step))
            if r.code == nibble.OK:
                return n * step
        self.fail("no limit is enough: %s" % r)

    def test_between_two_plans(self):
        nibble.make_model(self.path("base"), hidden_size=128, intermediate_size=384, head_dim=32,
                          num_hidden_layers=6)
        nibble.make_rows(self.path("rows.jsonl"), count=6, least=500, most=512)
        nibble.write_config(self.path("config.yaml"), nibble.config(
            sequence_len=512, micro_batch_size=6, gradient_accumulation_steps=1, max_steps=1,
            warmup_steps=0))
        keep, recompute = "memory.activations=keep", "memory.activations=recompute"
        gap = (nibble.json.loads(self.plan(keep).out)["device_bytes"] -
               nibble.json.loads(self.plan(recompute).out)["device_bytes"])
        self.assertGreater(gap, 32 * MIB)
        limit = self.least_limit(gap // 4, recompute) + gap // 4
        r = self.job(keep, "--threads", 1, expect=nibble.MEMORY, limit=at_most(limit))
        self.assertEqual(len(r.errors), 1)
        self.assertIn(recompute, r.errors[0])
        self.job(recompute, "--threads", 1, limit=at_most(limit))
        self.job(keep, "--threads", 1, "output_dir=free")
        self.assert_same(nibble.trace(self.path("out")), nibble.trace(self.path("free")), "limited")

    def test_base_larger_than_memory(self):
        nibble.make_model(self.path("base"), hidden_size=768, intermediate_size=2048, head_dim=64,
                          num_attention_heads=12, num_key_value_heads=12, num_hidden_layers=24)
        nibble.make_rows(self.path("rows.jsonl"), count=2)
        nibble.write_config(self.path("config.yaml"), nibble.config(
            **dict(nibble.LORA, load_in_4bit=False, bf16=True, max_steps=2,
                   gradient_accumulation_steps=1)))
        base = os.path.getsize(self.path("base", "model.safetensors"))
        disk = ("memory.base=disk", "memory.slots=1", "memory.activations=recompute")
        limit = self.least_limit(8 * MIB, *disk) + 8 * MIB
        self.assertLess(limit, base, "the base does not exceed the limit")
        r = self.job("--threads", 1, "memory.base=resident", expect=nibble.MEMORY,
                     limit=at_most(limit))
        self.assertIn("memory.base=disk", r.err)
        self.job("--threads", 1, *disk, limit=at_most(limit))
        self.assertGreater(nibble.summary(self.path("out"))["traffic"]["base"]["from_disk"], base)
        self.job("--threads", 1, "memory.base=resident", "output_dir=free")
        self.assert_same(nibble.trace(self.path("out")), nibble.trace(self.path("free")), "streamed")
        print("base %d MB, limit %d MB" % (base >> 20, limit >> 20))


class Small(nibble.Case):
    def prepare(self, **keys):
        nibble.make_model(self.path("base"))
        nibble.make_rows(self.path("rows.jsonl"))
        nibble.write_config(self.path("config.yaml"), nibble.config(**keys))

    def test_one_target_module(self):
        self.prepare(lora_target_linear="absent", lora_target_modules=["q_proj"])

        def counts(*keys):
            r = nibble.run(self.dir, "inspect", "--config", "config.yaml", "--program",
                           "--format", "json", "memory.activations=keep", *keys)
            self.assertEqual(r.code, nibble.OK, r)
            return nibble.json.loads(r.out)
        one, all_linears = counts(), counts("lora_target_linear=true", "lora_target_modules=[]")
        for program in ("train", "update", "norm"):
            a, b = one[program], all_linears[program]
            self.assertLess(a["forward"] + a["backward"] + (program == "train") * a["flops"],
                            b["forward"] + b["backward"] + (program == "train") * b["flops"])
        self.assertEqual(one["update"]["forward"] * 7, all_linears["update"]["forward"])
        # nothing below the lowest adapter gets a gradient
        high = counts("lora_target_modules=[down_proj]")["train"]
        self.assertLess(high["backward"], all_linears["train"]["backward"])

    def test_absurd_loss_scale(self):
        """Overflowing steps are skipped and counted; then fp16 follows fp32."""
        self.prepare(max_steps=130, warmup_steps=0, lr_scheduler="constant", learning_rate=2e-3)
        row = nibble.read(self.path("rows.jsonl")).splitlines()[0] + b"\n"
        nibble.write(self.path("rows.jsonl"), row * 8)  # every step sees the same
        self.job("output_dir=f32", "--threads", 1, "--quiet", "max_steps=30")
        self.job("fp16=true", "initial_loss_scale=1e30", "--threads", 1, "--quiet")
        lines = nibble.steps(self.path("out"))
        skipped = lines[-1]["skipped_steps"]
        self.assertGreater(skipped, 40)
        self.assertLess(skipped, 100)
        self.assertEqual(nibble.summary(self.path("out"))["skipped_steps"], skipped)
        scales = [m["loss_scale"] for m in lines]
        self.assertAlmostEqual(scales[-1] / (1e30 / 2 ** skipped), 1, delta=1e-6)
        self.assertEqual(sorted(scales, reverse=True), scales)
        good = [m["loss"] for i, m in enumerate(lines)
                if m["skipped_steps"] == (lines[i - 1]["skipped_steps"] if i else 0)]
        want = [m["loss"] for m in nibble.steps(self.path("f32"))]
        self.assertGreaterEqual(len(good), len(want))
        for a, b in zip(good, want):
            self.assertAlmostEqual(a / b, 1, delta=1e-2)
        self.assertLess(good[29], good[0] - 0.1, "nothing was learned")

    def test_file_size_limit(self):
        """A full disk, as seen by every write: saves warn and the run goes on."""
        self.prepare(save_strategy="absent", save_steps=1)

        def limit(bytes):
            return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))
        r = self.job("--threads", 1, limit=limit(100000))  # the adapter fits, a checkpoint not
        self.assertIn("warning", r.err)
        self.assertIn("saving step 1 failed", r.err)
        self.job("--threads", 1, "output_dir=free", "--quiet")
        self.assert_same(nibble.trace(self.path("out")), nibble.trace(self.path("free")), "limited")
        r = self.job("--threads", 1, "output_dir=none", expect=nibble.IO, limit=limit(20000))
        self.assertEqual(len(r.errors), 1)
        self.assertNotIn("adapter_model.safetensors", os.listdir(self.path("none")))
        self.job("--threads", 1, "output_dir=none", "--resume")  # space is there again
        self.assert_same(nibble.trace(self.path("none")), nibble.trace(self.path("free")), "again")


if __name__ == "__main__":
    nibble.main()
