"""`train check`: what it says of the rows, as numbers and to a person's eye, agrees with the rows."""
import json
import os
import pty
import re

import nibble

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONFIG = os.path.join(ROOT, "configs", "quickstart.yaml")
KEYS = ("datasets.0.split=train[:200]", "num_epochs=1")


class Check(nibble.Case):
    def check(self, *more):
        r = nibble.run(ROOT, "check", "--config", CONFIG, *KEYS, *more)
        self.assertEqual(r.code, nibble.OK, r)
        return r.out

    def rows(self, n=200):
        lines = self.check("--format", "json", "--show", n).splitlines()
        self.assertEqual(len(lines), n)
        return [json.loads(line) for line in lines]

    def test_numbers(self):
        said, rows = json.loads(self.check("--format", "json")), self.rows()
        lengths = [len(r["ids"]) for r in rows]
        self.assertEqual((said["kept"], said["tokens"], said["longest"]), (200, sum(lengths), max(lengths)))
        self.assertEqual(said["targets"], sum(x != -100 for r in rows for x in r["labels"][1:]))
        before = 0
        for bar in said["lengths"]:
            self.assertEqual(bar["rows"], sum(before < n <= bar["to"] for n in lengths))
            before = bar["to"]
        self.assertGreaterEqual(before, max(lengths))
        self.assertLessEqual(len(said["lengths"]), 12)
        tokens_in_bin = 256 * said["fill"]
        self.assertAlmostEqual(said["rows_per_bin"], tokens_in_bin * 200 / sum(lengths), delta=0.2)

    def test_text(self):
        out = self.check("--show", 1)
        self.assertRegex(out, r"(?m)^ +29 - +32 +\d+  #+$")
        self.assertRegex(out, r"packed: [67]\.\d rows in a bin of 256 tokens")
        self.assertEqual(out.count("[["), out.count("]]"))
        self.assertTrue(out.endswith("ok\n"))

    def test_pretraining_dataset(self):
        """... is a dataset of texts that is streamed: the same rows."""
        base = nibble.make_model(self.path("base"))
        with open(self.path("texts.jsonl"), "w") as f:
            f.writelines(json.dumps({"body": "text number %d " % i * (i % 5 + 1)}) + "\n" for i in range(30))
        keys = dict(sequence_len=64, sample_packing=True)
        entry = {"path": "texts.jsonl", "text_column": "body", "skip": 3}
        configs = {
            "there.yaml": dict(datasets="absent", pretraining_dataset=[entry]),
            "here.yaml": dict(streaming=True, datasets=[
                {"path": "texts.jsonl", "type": "completion", "field": "body", "split": "train[3:]"}])}
        out = []
        for name, more in configs.items():
            nibble.write_config(self.path(name), nibble.config(base, **dict(keys, **more)))
            r = nibble.run(self.dir, "check", "--config", name, "--format", "json", "--show", 9, "--quiet")
            self.assertEqual(r.code, nibble.OK, r)
            out.append(r.out)
        self.assertEqual(out[0], out[1])
        self.assertEqual(len(out[0].splitlines()), 9)
        for change, words in ((dict(pretraining_dataset=[entry]), "datasets is set too"),
                              (dict(datasets="absent"), "datasets is missing"),
                              (dict(datasets=[entry]), "belongs to pretraining_dataset")):
            nibble.write_config(self.path("bad.yaml"), nibble.config(base, **dict(keys, **change)))
            r = nibble.run(self.dir, "check", "--config", "bad.yaml")
            self.assertEqual((r.code, r.err.count(words)), (nibble.USAGE, 1), r)

    def test_colour(self):
        """On a terminal what is learned is green and control tokens are bold."""
        main, side = pty.openpty()
        environment = dict(nibble.environment())
        environment.pop("NO_COLOR", None)
        pid = os.fork()
        if not pid:
            os.dup2(side, 1)
            os.chdir(ROOT)
            os.execve(nibble.TRAIN, [nibble.TRAIN, "check", "--config", CONFIG, *KEYS, "--show", "1",
                                     "--quiet"], environment)
        os.close(side)
        out = b""
        try:
            while True:
                piece = os.read(main, 1 << 16)
                if not piece:
                    break
                out += piece
        except OSError:  # the other side is closed
            pass
        os.close(main)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        text = out.decode()
        self.assertIn("\x1b[90m\x1b[1m<|im_start|>\x1b[22m", text)
        self.assertIn("\x1b[32m\x1b[1m<|im_end|>\x1b[22m", text)
        learned = "".join(re.findall(r"\x1b\[32m([^\x1b]*)", text))
        self.assertNotIn("user", learned)


if __name__ == "__main__":
    nibble.main()
