"""A long run grows in nothing: memory, open files, threads, as the kernel counts them; with
evaluations, samples, saves and paging going on all the while."""
import os

import nibble

STEPS = 20000 if nibble.FULL else 400
WARM = 0.2  # of the steps: by then everything has happened once


class Soak(nibble.Case):
    def prepare(self):
        nibble.make_model(self.path("base"), num_hidden_layers=2)
        nibble.make_rows(self.path("rows.jsonl"))
        nibble.write_config(self.path("config.yaml"), nibble.config(
            max_steps=STEPS, val_set_size=4, eval_steps=20, lora_dropout=0.1, save_strategy="absent",
            save_steps=20, save_total_limit=2, optimizer="paged_adamw_32bit", generate_samples=True,
            num_generation_samples=2, generation_max_new_tokens=8, logging_steps=100,
            memory={"base": "disk", "activations": "offload"}))

    def look(self, process):
        """Private memory in KiB, open files, threads; None once it has ended."""
        at = "/proc/%d/" % process.pid
        try:
            status = dict(s.split(":", 1) for s in nibble.read(at + "status").decode().splitlines())
            return (int(status["RssAnon"].split()[0]), len(os.listdir(at + "fd")),
                    int(status["Threads"]))
        except (OSError, KeyError):  # a process that has just ended has neither
            return None

    def test_row19_nothing_grows(self):
        self.prepare()
        p = nibble.start(self.dir, "train", "--config", "config.yaml", "--threads", 2, "--quiet")
        path, seen = self.path("out", "metrics.jsonl"), []
        while p.poll() is None:
            nibble.wait_for(lambda: p.poll() is not None, 0.05)
            done = nibble.read(path).count(b'"loss"') if os.path.exists(path) else 0
            now = self.look(p)
            if done >= STEPS * WARM and now:
                seen.append((done, *now))
        self.assertEqual(p.returncode, nibble.OK, nibble.read(self.path("err")).decode())
        self.assertGreater(len(seen), 10)
        self.assertLessEqual(max(m[1] for m in seen) - seen[0][1], 512, seen[::len(seen) // 10])
        self.assertLessEqual(max(m[2] for m in seen), seen[0][2] + 3)  # a save opens some files
        self.assertLessEqual(max(m[3] for m in seen) - min(m[3] for m in seen), 1)  # an evaluation's
        memory = [m["memory"] for m in nibble.steps(self.path("out"))]
        self.assertLessEqual(max(memory) - memory[int(STEPS * WARM)], 1 << 19)
        print("%d steps, %d looks: private memory %d to %d KiB, files %d to %d"
              % (STEPS, len(seen), min(m[1] for m in seen), max(m[1] for m in seen),
                 min(m[2] for m in seen), max(m[2] for m in seen)))


if __name__ == "__main__":
    nibble.main()
