"""kill -9 at random points, 30 % of them or more inside a save: every time the run goes on with
--resume, and what it ends with is bit for bit what an undisturbed run ends with."""
import os
import random
import signal

import nibble

KILLS = 1000 if nibble.FULL else 30
STEPS = 12


class Kills(nibble.Case):
    def prepare(self):
        nibble.make_model(self.path("base"))
        nibble.make_rows(self.path("rows.jsonl"))
        nibble.write_config(self.path("config.yaml"), nibble.config(
            lora_dropout=0.1, max_steps=STEPS, save_strategy="absent", save_steps=1,
            save_total_limit=3, val_set_size=4, eval_steps=4))

    def unfinished_save(self):
        folder = self.path("out", "checkpoints")
        return os.path.isdir(folder) and any(n.endswith(".tmp") for n in os.listdir(folder))

    def kill_one(self, chance, seconds):
        """Starts and kills; whether it was killed and whether in the middle of a save."""
        p = nibble.start(self.dir, "train", "--config", "config.yaml", "--resume", "--threads", 1)
        in_save = chance.random() < 0.5
        try:
            if in_save:
                saves = chance.randrange(1, 4)
                for _ in range(saves):
                    nibble.wait_for(lambda: self.unfinished_save() or p.poll() is not None)
                    if _ + 1 < saves:
                        nibble.wait_for(lambda: not self.unfinished_save() or p.poll() is not None)
            else:
                nibble.wait_for(lambda: p.poll() is not None, chance.uniform(0, seconds))
        finally:
            p.send_signal(signal.SIGKILL)
            code = p.wait()
        if code != -signal.SIGKILL:
            self.assertEqual(code, nibble.OK, nibble.read(self.path("err")).decode())
            return False, False
        return True, self.unfinished_save()

    def check_end(self, want):
        self.assert_same(nibble.trace(self.path("out")), want, "after the kills")
        evaluated = [m["step"] for m in nibble.metrics(self.path("out")) if "eval_loss" in m]
        self.assertEqual([s for s in evaluated if s], [4, 8, 12])
        left = os.listdir(self.path("out", "checkpoints"))
        self.assertEqual([n for n in left if n.endswith(".tmp")], [])
        # a kill while the last save pruned leaves one data file that nobody will name again
        committed = sorted(n[:-5] for n in left if n.endswith(".json"))
        self.assertEqual(committed, ["step-%06d" % n for n in (10, 11, 12)])
        for step in committed:  # step-N.h5, or step-N.2.h5 beside one that was never committed
            self.assertTrue([n for n in left if n.startswith(step) and n.endswith(".h5")], left)
        self.assertLessEqual(len(left), 7, left)

    def test_row01_kill_and_resume(self):
        self.prepare()
        began = nibble.time.monotonic()
        self.job("output_dir=reference", "--threads", 1)
        seconds = nibble.time.monotonic() - began
        want = nibble.trace(self.path("reference"))
        chance = random.Random(20261121)
        killed = inside = finished = 0
        while killed < KILLS:
            was_killed, in_save = self.kill_one(chance, seconds)
            killed += was_killed
            inside += in_save
            if os.path.exists(self.path("out", "summary.json")):
                self.check_end(want)
                finished += 1
                nibble.shutil.rmtree(self.path("out"))
        if os.path.exists(self.path("out")):
            self.job("--resume", "--threads", 1)
            self.check_end(want)
            finished += 1
        print("%d kills, %d of them left an unfinished save; %d runs ended, all equal"
              % (killed, inside, finished))
        self.assertGreaterEqual(inside, KILLS * 3 // 10)
        self.assertGreater(finished, 0)


if __name__ == "__main__":
    nibble.main()
