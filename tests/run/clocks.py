"""Clocks and pauses change nothing: a calendar that jumps by a year at every look, files whose
times lie in another century, a process that is stopped for a while."""
import os
import signal

import nibble

JUMP = os.environ.get("NIBBLE_CLOCK_JUMP", "")


class Clocks(nibble.Case):
    def prepare(self, **keys):
        nibble.make_model(self.path("base"), num_hidden_layers=2)
        nibble.make_rows(self.path("rows.jsonl"))
        nibble.write_config(self.path("config.yaml"), nibble.config(**dict(
            dict(save_strategy="absent", save_steps=2, save_total_limit=3, lora_dropout=0.1), **keys)))
        self.job("--threads", 1, "--quiet", "output_dir=free")
        self.want = nibble.trace(self.path("free"))

    def check(self, what):
        self.assert_same(nibble.trace(self.path("out")), self.want, what)
        for m in nibble.metrics(self.path("out")):  # no time that the jumps made
            self.assertTrue(0 <= m.get("step_seconds", 0) < 600, m)

    def test_row13_calendar_jumps(self):
        if not os.path.exists(JUMP):
            self.skipTest("NIBBLE_CLOCK_JUMP names no library")
        self.prepare()
        self.job("--threads", 1, "--quiet", env={"LD_PRELOAD": os.path.abspath(JUMP)})
        self.check("under a jumping calendar")

    def test_row13_order_is_by_step(self):
        """The newest checkpoint is the one of the last step, whatever the files' times say."""
        self.prepare(save_steps=1)
        self.job("--threads", 1, "--quiet")
        os.unlink(self.path("out", "summary.json"))
        folder = self.path("out", "checkpoints")
        for i, name in enumerate(sorted(os.listdir(folder), reverse=True)):
            os.utime(os.path.join(folder, name), (i * 1e8, i * 1e8))
        r = self.job("--resume", "--threads", 1)
        self.assertIn("resumed from step 6 ", r.err)
        self.check("old files")

    def test_row13_stopped(self):
        self.prepare(max_steps=30)
        p = nibble.start(self.dir, "train", "--config", "config.yaml", "--threads", 1)
        for _ in range(3):
            nibble.wait_for(lambda: p.poll() is not None, 0.15)
            if p.poll() is None:
                p.send_signal(signal.SIGSTOP)
                nibble.time.sleep(60 if nibble.FULL else 0.1)
                p.send_signal(signal.SIGCONT)
        self.assertEqual(p.wait(nibble.TIMEOUT), nibble.OK)
        self.check("stopped for a while")


if __name__ == "__main__":
    nibble.main()
