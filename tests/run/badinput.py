"""Bad input of every kind: one clear line on standard error, the documented exit code, and
nothing overwritten."""
import glob
import json
import os
import resource
import shutil
import unittest

import nibble

MALFORMED = os.path.join(nibble.FIXTURES, "malformed")


class BadInput(nibble.Case):
    def setUp(self):
        super().setUp()
        nibble.make_model(self.path("base"), num_hidden_layers=1)
        nibble.make_rows(self.path("rows.jsonl"), 8)
        self.configure()

    def configure(self, **keys):
        nibble.write_config(self.path("config.yaml"), nibble.config(max_steps=1, **keys))

    def refused(self, code, *words, keys=(), verb="train", limit=None):
        """The run ends with this code and one line that has these words; no result is written."""
        r = nibble.run(self.dir, verb, "--config", "config.yaml", *keys, limit=limit)
        self.assertEqual(r.code, code, r)
        lines = [line for line in r.err.splitlines() if line.startswith("error:")]
        self.assertEqual(len(lines), 1, r)
        self.assertTrue(r.err.rstrip("\n").endswith(lines[0]), "more after the error:\n%s" % r)
        for word in words:
            self.assertIn(word, lines[0])
        out = self.path("out")
        left = set(os.listdir(out)) if os.path.isdir(out) else set()
        self.assertFalse(left & {"adapter_model.safetensors", "summary.json"}, left)
        return lines[0]

    # ---- the configuration ----

    def test_configuration(self):
        text = nibble.read(self.path("config.yaml")).decode()
        for line, *words in (
                ("lora_rank: 8", "lora_rank", "lora_r"),
                ("learing_rate: 1e-4", "learing_rate", "learning_rate"),
                ("xyzzy_plugh: 3", "xyzzy_plugh"),
                ("num_epochs: many", "num_epochs", "many"),
                ("logging_steps: 1.5", "logging_steps"),
                ("group_by_length: 7", "group_by_length"),
                ("adam_beta1: 2", "adam_beta1"),
                ("seed: 8", "seed"),  # twice
                ("load_in_8bit: true", "load_in_8bit", "4bit"),
                ("test_datasets: [1, 2]", "test_datasets"),
                ("lora_modules_to_save: [embed_tokens]", "lora_modules_to_save"),
                ("adam_beta2: [", "config.yaml"),
                ("\tadam_beta2: 0.9", "config.yaml")):
            with self.subTest(line=line):
                nibble.write(self.path("config.yaml"), text + line + "\n")
                self.refused(nibble.USAGE, *words)
        self.assertFalse(os.path.exists(self.path("out")))

    def test_command_line(self):
        self.refused(nibble.USAGE, "--rezume", "--resume", keys=("--rezume",))
        self.refused(nibble.USAGE, "optimizer", keys=("optimizer=lion",))
        r = nibble.run(self.dir, "train", "--config", "no.yaml")
        self.assertEqual(r.code, nibble.USAGE, r)
        self.assertIn("no.yaml", r.err)
        r = nibble.run(self.dir, "trane", "--config", "config.yaml")
        self.assertEqual(r.code, nibble.USAGE, r)

    # ---- the model folder ----

    def test_absent_model(self):
        self.refused(nibble.MODEL, "nowhere", keys=("base_model=./nowhere",))
        line = self.refused(nibble.MODEL, "some-org/some-model",
                            keys=("base_model=some-org/some-model",))
        self.assertIn("download", line)
        for name, word in (("config.json", "config.json"), ("tokenizer.json", "tokenizer.json"),
                           ("model.safetensors", "safetensors")):
            with self.subTest(absent=name):
                os.rename(self.path("base", name), self.path("kept"))
                self.refused(nibble.MODEL, word)
                os.rename(self.path("kept"), self.path("base", name))

    @unittest.skipUnless(os.path.isdir(MALFORMED), "no fixtures: ../shared is absent")
    def test_row07_malformed_safetensors(self):
        files = sorted(glob.glob(os.path.join(MALFORMED, "safetensors", "*.safetensors")))
        self.assertGreaterEqual(len(files), 20)
        for path in files:  # the good ones lack the model's tensors
            with self.subTest(file=os.path.basename(path)):
                shutil.copyfile(path, self.path("base", "model.safetensors"))
                self.refused(nibble.MODEL)

    @unittest.skipUnless(os.path.isdir(MALFORMED), "no fixtures: ../shared is absent")
    def test_row07_lfs_pointers(self):
        for source, name in (("lfs_pointer.safetensors", "model.safetensors"),
                             ("lfs_pointer_tokenizer.json", "tokenizer.json")):
            with self.subTest(file=name):
                kept = nibble.read(self.path("base", name))
                shutil.copyfile(os.path.join(MALFORMED, "misc", source), self.path("base", name))
                self.refused(nibble.MODEL, name, "LFS")
                nibble.write(self.path("base", name), kept)

    def test_broken_weights(self):
        path = self.path("base", "model.safetensors")
        whole = nibble.read(path)
        tensors = nibble.read_safetensors(path)
        for cut in (5, 100, len(whole) // 2, len(whole) - 1):
            with self.subTest(cut=cut):
                nibble.write(path, whole[:cut])
                self.refused(nibble.MODEL, "model.safetensors")
        for name in ("model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight",
                     "model.norm.weight"):
            for bad in (b"\xc0\x7f", b"\x80\x7f"):  # NaN and infinity as bf16
                with self.subTest(tensor=name, bad=bad):
                    dtype, shape, data = tensors[name]
                    spoiled = data[:20] + bad + data[22:]
                    nibble.write_safetensors(path, dict(tensors, **{name: (dtype, shape, spoiled)}))
                    self.refused(nibble.MODEL, name, "finite")
        with self.subTest("a tensor of another shape"):
            dtype, shape, data = tensors["model.norm.weight"]
            nibble.write_safetensors(path, dict(tensors, **{
                "model.norm.weight": (dtype, [32], data[:64])}))
            self.refused(nibble.MODEL, "model.norm.weight")
        with self.subTest("a tensor that is absent"):
            del tensors["model.layers.0.mlp.up_proj.weight"]
            nibble.write_safetensors(path, tensors)
            self.refused(nibble.MODEL, "model.layers.0.mlp.up_proj.weight")

    def test_row10_broken_config_json(self):
        """Refused when planning, in the memory of a small program."""
        limit = None if nibble.SANITIZED else lambda: resource.setrlimit(
            resource.RLIMIT_DATA, (256 << 20, 256 << 20))
        path = self.path("base", "config.json")
        good = json.loads(nibble.read(path))
        for key, value in (("num_attention_heads", 0), ("hidden_size", 2 ** 31),
                           ("num_hidden_layers", 10 ** 9), ("hidden_size", "64"),
                           ("model_type", "mamba"), ("rope_theta", -1), ("vocab_size", -5),
                           ("num_key_value_heads", 3), ("intermediate_size", None)):
            with self.subTest(key=key, value=value):
                nibble.write(path, json.dumps(dict(good, **{key: value})))
                for verb in ("plan", "train"):
                    self.refused(nibble.MODEL, "config.json" if key != "model_type" else "mamba",
                                 verb=verb, limit=limit)
        nibble.write(path, "{")
        self.refused(nibble.MODEL, "config.json")

    def test_vocabulary_mismatch(self):
        shutil.rmtree(self.path("base"))
        nibble.make_model(self.path("base"), num_hidden_layers=1, vocab_size=nibble.TOKENS - 1,
                          bos_token_id=0, eos_token_id=1)
        self.refused(nibble.MODEL, "vocabulary")

    # ---- the data ----

    def test_row11_rows(self):
        good = nibble.read(self.path("rows.jsonl"))
        for line, *words in (
                (b'{"input_ids": [1, 2', "rows.jsonl:9"),
                (b'[1, 2]', "rows.jsonl:9"),
                (b'{"input_ids": [1, 2], "labels": [1]}', "rows.jsonl:9"),
                (b'{"input_ids": [1, "x"], "labels": [1, 2]}', "rows.jsonl:9"),
                (b'{"input_ids": [1, 5000], "labels": [1, 5000]}', "rows.jsonl:9", "5000"),
                (b'{"input_ids": [1, -3], "labels": [1, 2]}', "rows.jsonl:9"),
                (b'{"text": "x"}', "rows.jsonl:9", "input_ids"),
                (b'{"input_ids": [1, 2], "labels": [1, 2], "t": "\xff"}', "rows.jsonl:9:46"),
                (b'{"input_ids": [1, 2], "labels": [1, 2], "t": "\\ud800"}', "rows.jsonl:9:"),
                (b'\r\n\r\n {"input_ids": [1, 2,]}\r', "rows.jsonl:11:")):
            with self.subTest(line=line):
                nibble.write(self.path("rows.jsonl"), good + line + b"\n")
                self.refused(nibble.DATA, *words)
        for what in (b"", b"\n\n", b'{"input_ids": [1, 2], "labels": [-100, -100]}\n',
                     b"PAR1\x15\x04"):
            with self.subTest(file=what):
                nibble.write(self.path("rows.jsonl"), what)
                self.refused(nibble.DATA, "rows.jsonl" if b"labels" not in what else "")
        os.unlink(self.path("rows.jsonl"))
        self.refused(nibble.DATA, "rows.jsonl")

    def test_row11_bad_rows_are_skipped_and_counted(self):
        """on_bad_row: fail stops at the first; skip leaves them out and says how many."""
        bad = b'{"input_ids": [1, "x"]}\n{"input_ids": [2, 2], "t": "\xff"}\n{"input_ids": [\n'
        nibble.write(self.path("rows.jsonl"), nibble.read(self.path("rows.jsonl")) + bad)
        self.refused(nibble.DATA, "rows.jsonl:9")
        self.refused(nibble.DATA, "rows.jsonl:9", keys=("on_bad_row=fail",))
        self.refused(nibble.USAGE, "on_bad_row", keys=("on_bad_row=ignore",))
        r = nibble.run(self.dir, "check", "--config", "config.yaml", "on_bad_row=skip")
        self.assertEqual(r.code, 0, r)
        self.assertIn("3 bad rows skipped", r.out + r.err)
        self.assertIn("rows.jsonl:9", r.out + r.err)
        r = self.job("on_bad_row=skip")
        self.assertIn("3 bad rows skipped", r.out + r.err)

    def test_order_of_check(self):
        """check stops with the code of the first thing wrong: configuration, model, data."""
        nibble.write(self.path("rows.jsonl"), "{\n")
        self.refused(nibble.DATA, verb="check")
        os.unlink(self.path("base", "tokenizer.json"))
        self.refused(nibble.MODEL, verb="check")
        self.refused(nibble.USAGE, verb="check", keys=("lora_rank=3",))

    # ---- adapters and checkpoints ----

    def test_adapter_to_start_from(self):
        self.refused(nibble.MODEL, "nowhere", keys=("lora_model_dir=nowhere",))
        other = nibble.config(base="wide", max_steps=1, output_dir="of-wide")
        nibble.make_model(self.path("wide"), hidden_size=128, head_dim=32, num_hidden_layers=1)
        nibble.write_config(self.path("other.yaml"), other)
        self.job(file="other.yaml")
        self.refused(nibble.MODEL, "adapter", keys=("lora_model_dir=of-wide",))

    def test_checkpoint_to_go_on_from(self):
        self.refused(nibble.MODEL, "no.", keys=("resume_from_checkpoint=no.h5",))
        os.mkdir(self.path("saved"))
        nibble.write(self.path("saved", "step-000001.h5"), b"\x89HDF\r\n\x1a\n" + bytes(100))
        self.refused(nibble.MODEL, keys=("resume_from_checkpoint=saved/step-000001.h5",))

    # ---- the output ----

    def test_output(self):
        nibble.write(self.path("file"), "precious")
        line = self.refused(nibble.IO, "file", keys=("output_dir=file",))
        self.assertEqual(nibble.read(self.path("file")), b"precious", line)
        os.mkdir(self.path("mine"))
        nibble.write(self.path("mine", "thesis.tex"), "precious")
        self.refused(nibble.USAGE, "thesis.tex", keys=("output_dir=mine",))
        self.refused(nibble.USAGE, "thesis.tex", keys=("output_dir=mine", "--overwrite"))
        self.assertEqual(os.listdir(self.path("mine")), ["thesis.tex"])
        self.refused(nibble.IO, "file/out", keys=("output_dir=file/out",))

    def test_unwritable_output(self):
        """A folder without permission; root has it everywhere but in the kernel's own file system."""
        if os.path.isdir("/proc/self"):
            self.refused(nibble.IO, "/proc/nibble", keys=("output_dir=/proc/nibble",))
        if os.geteuid() == 0:
            return
        os.mkdir(self.path("locked"), 0o555)
        self.refused(nibble.IO, "locked", keys=("output_dir=locked/out",))

    def test_export_overwrites_nothing(self):
        """Exporting into a folder that holds something else, with and without --overwrite."""
        self.job("--threads", 1)
        os.mkdir(self.path("mine"))
        nibble.write(self.path("mine", "thesis.tex"), "precious")
        for more in ((), ("--overwrite",)):
            r = nibble.run(self.dir, "export", "--model", "base", "--adapter", "out", "--out",
                           "mine", *more)
            self.assertEqual(r.code, nibble.USAGE, r)
            self.assertEqual(nibble.read(self.path("mine", "thesis.tex")), b"precious")

    def test_full_disk(self):
        """A file system too small for the result: exit 7, and with space the same again."""
        tmpfs = self.path("tmpfs")
        os.mkdir(tmpfs)
        p = nibble.subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmpfs],
                                  stdout=nibble.subprocess.DEVNULL,
                                  stderr=nibble.subprocess.DEVNULL) if os.geteuid() == 0 else None
        if p is None or p.returncode:
            self.skipTest("may not mount a small file system here")
        try:
            self.refused(nibble.IO, "space", keys=("output_dir=tmpfs/out", "lora_r=16"))
        finally:
            nibble.subprocess.run(["umount", tmpfs], check=True)


if __name__ == "__main__":
    nibble.main()
