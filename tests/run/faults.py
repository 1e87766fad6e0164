"""Rows 2, 3, 4, 14, 17 and 18 of the fault table on the whole program, seen from outside: writes,
fsyncs and renames that fail, disks that are full, base weights that shrink or cannot be read,
allocations that fail, two runs in one folder, resuming after a change, exports that do not end.
Rows 4, 5 and 6 in one process: test_faults_memory.c, test_faults_checkpoint.c, test_cache.c."""
import errno
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import nibble

if os.access("/dev/shm", os.W_OK | os.X_OK):  # thousands of saves are thousands of fsyncs
    tempfile.tempdir = "/dev/shm"
models = nibble.Cache()
SHORT = -1  # FILE_FAULT_SHORT of common/file.h: a byte less is written
STEPS = 6


def small(folder, **keys):
    return nibble.make_model(folder, num_hidden_layers=1, **keys)


class Faults(nibble.Case):
    def prepare(self, base=None, **keys):
        self.base = base or models("small", small)
        nibble.make_rows(self.path("rows.jsonl"), 12)
        c = dict(max_steps=STEPS, save_strategy="absent", save_steps=1, save_total_limit=2)
        nibble.write_config(self.path("config.yaml"), nibble.config(self.base, **dict(c, **keys)))

    def train(self, *more, env=None, limit=None):
        return nibble.run(self.dir, "train", "--config", "config.yaml", "--threads", 1, *more,
                          env=env, limit=limit)

    def counted(self, *arguments, **env):
        """How many allocations, file operations and reads a command has."""
        r = nibble.run(self.dir, *arguments, env=dict(env, NIBBLE_COUNT_FAULTS="1"))
        self.assertEqual(r.code, nibble.OK, r)
        found = re.search(r"(\d+) allocations, (\d+) file operations, (\d+) reads", r.err)
        self.assertTrue(found, r)
        return tuple(map(int, found.groups()))

    def remove(self, *names):
        for name in names:
            path = self.path(name)
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                os.unlink(path)

    def unfinished(self):
        return [name for _, _, names in os.walk(self.dir) for name in names
                if name.endswith(".tmp")]

    def assert_one_line(self, r, *codes):
        """Refused with one of the codes and one line at the end; no signal, no report."""
        self.assertIn(r.code, codes, r)
        self.assertEqual(len(r.errors), 1, r)
        self.assertEqual(r.err.rstrip("\n").splitlines()[-1], r.errors[0], r)

    def newest(self, out="out"):
        """The step that inspect, which verifies, finds in a folder."""
        r = nibble.run(self.dir, "inspect", os.path.join(out, "checkpoints"))
        self.assertEqual(r.code, nibble.OK, r)
        return nibble.json.loads(r.out)["step"]


class Writes(Faults):
    """Row 2."""

    def check_after(self, r, want, k, what):
        """Either the run went on to the same result, or it ended with exit code 7 and --resume
        does; what was committed is whole."""
        where = "%s at operation %d:\n%s" % (what, k, r)
        self.assertIn(r.code, (nibble.OK, nibble.IO), where)
        self.assertEqual(self.unfinished(), [], where)
        folder = self.path("out", "checkpoints")
        committed = [n for n in os.listdir(folder) if n.endswith(".json")] \
            if os.path.isdir(folder) else []
        if committed:
            self.newest()
        if r.code == nibble.OK:
            self.assertEqual(nibble.trained(self.path("out")), want[1], where)
            return "warning:" in r.err
        self.assertEqual(len(r.errors), 1, where)
        final = self.path("out", "adapter_model.safetensors")
        if os.path.exists(final):  # whole, or not there
            self.assertEqual(nibble.read(final), want[1], where)
        again = self.train("--resume", "--quiet")
        self.assertEqual(again.code, nibble.OK, "%s\nthen: %s" % (where, again))
        self.assertEqual(nibble.trained(self.path("out")), want[1], where)
        return True

    def each_operation(self, errors, stride, offset=1):
        self.prepare(max_steps=3)
        self.train("output_dir=reference", "--quiet")
        want = nibble.trace(self.path("reference"))
        _, count, _ = self.counted("train", "--config", "config.yaml", "--threads", 1)
        runs = noticed = 0
        for error in errors:
            name = errno.errorcode.get(error, "a short write")
            for always in ("", ":always"):
                for k in range(offset, count + 1, stride):
                    self.remove("out")
                    r = self.train("--quiet", env={
                        "NIBBLE_FILE_FAULT": "%d:%d%s" % (k, error, always)})
                    noticed += self.check_after(r, want, k, name + always)
                    runs += 1
                    if error in (SHORT, errno.EINTR):
                        self.assertEqual((r.code, r.err), (nibble.OK, ""), "%s %d" % (name, k))
        print("%d file operations; %d runs with one failing, %d told of it" % (count, runs, noticed))
        return count

    def test_row02_every_kth_write(self):
        self.each_operation((errno.ENOSPC, errno.EIO), 1 if nibble.FULL else 29)

    def test_row02_interrupted_and_short_writes(self):
        self.each_operation((SHORT, errno.EINTR), 3 if nibble.FULL else 71)

    def test_row02_file_too_large(self):
        self.each_operation((errno.EFBIG,), 3 if nibble.FULL else 97, 2)

    def test_row02_space_comes_back(self):
        """A really full file system: saving warns, training goes on, and after room was made the
        next save works."""
        self.prepare(max_steps=40, logging_steps=1)
        disk = self.path("disk")
        os.mkdir(disk)
        mounted = os.geteuid() == 0 and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "none", disk],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        if not mounted:
            self.skipTest("may not mount a small file system here")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        self.train("output_dir=reference", "--quiet")
        err, ballast = self.path("err"), os.path.join(disk, "ballast")
        p = nibble.start(self.dir, "train", "--config", "config.yaml", "--threads", 1,
                         "output_dir=disk/out", "max_steps=40")

        def said(words):
            return lambda: words in nibble.read(err).decode() or p.poll() is not None
        self.assertTrue(nibble.wait_for(said("saved step 2")))
        p.send_signal(signal.SIGSTOP)
        with open(ballast, "wb", 0) as f:
            try:
                while f.write(bytes(4096)):
                    pass
            except OSError:
                pass
        p.send_signal(signal.SIGCONT)
        nibble.wait_for(said("failed:"))
        p.send_signal(signal.SIGSTOP)
        warned = re.findall(r"warning: saving step \d+ failed: [^\n]*make room", nibble.read(err).decode())
        self.assertTrue(warned, nibble.read(err).decode())
        committed = self.newest("disk/out")
        self.assertGreaterEqual(committed, 2)
        os.unlink(ballast)
        p.send_signal(signal.SIGCONT)
        self.assertEqual(p.wait(nibble.TIMEOUT), nibble.OK, nibble.read(err).decode())
        self.assertEqual(self.newest("disk/out"), 40)
        self.assertEqual(nibble.trained(os.path.join(disk, "out")),
                         nibble.trained(self.path("reference")))


class Base(Faults):
    """Row 3."""

    def assert_clean(self, r, name):
        self.assert_one_line(r, nibble.MODEL, nibble.IO)
        self.assertIn(name, r.errors[0])
        self.assertFalse(os.path.exists(self.path("out", "summary.json")))

    def test_row03_truncated(self):
        base = small(self.path("base"))
        self.prepare(base)
        path = os.path.join(base, "model.safetensors")
        whole = nibble.read(path)
        chance = random.Random(3)
        cuts = 300 if nibble.FULL else 3
        for cut in [0, 7, 8, 9, len(whole) - 1] + [chance.randrange(len(whole)) for _ in range(cuts)]:
            nibble.write(path, whole[:cut])
            for verb in (["train"], ["quantize", "--out", "base.h5"], ["inspect", "base"]):
                more = [] if verb[0] == "inspect" else ["--config", "config.yaml"]
                r = nibble.run(self.dir, *verb, *more)
                self.assert_clean(r, "model.safetensors")
                self.assertFalse(os.path.exists(self.path("base.h5")))

    def shrink_while(self, path, cut, *arguments):
        """Runs with the file cut off at random moments; the exit code."""
        p = nibble.start(self.dir, *arguments)
        nibble.time.sleep(cut)
        size = os.path.getsize(path)
        os.truncate(path, size // 3)
        code = p.wait(nibble.TIMEOUT)
        return code, nibble.read(self.path("err")).decode("utf-8", "replace")

    def test_row03_shrinking_while_loaded(self):
        """A large enough base is cut off while it is read: an error that names file and offset,
        or too late to matter."""
        base = nibble.make_model(self.path("base"), hidden_size=384, intermediate_size=1024,
                                 head_dim=64, num_attention_heads=6, num_key_value_heads=6,
                                 num_hidden_layers=6)
        self.prepare(base, max_steps=1)
        path = os.path.join(base, "model.safetensors")
        whole = nibble.read(path)
        chance, met = random.Random(4), 0
        for _ in range(60 if nibble.FULL else 4):
            nibble.write(path, whole)
            self.remove("out")
            code, err = self.shrink_while(path, chance.uniform(0.1, 0.6), "train", "--config",
                                          "config.yaml", "--threads", 1)
            self.assertIn(code, (nibble.OK, nibble.MODEL, nibble.IO), err)
            if code:
                met += 1
                self.assertEqual(err.count("error:"), 1, err)
                self.assertIn("model.safetensors", err)
        print("%d runs met the shrunken file" % met)

    def test_row03_shrinking_while_streamed(self):
        """memory.base=disk: the cache loses its end in the middle of training."""
        self.prepare(models("deep", lambda f: nibble.make_model(f, num_hidden_layers=6)),
                     max_steps=4000, save_steps=0, memory={"base": "disk", "slots": 1},
                     logging_steps=1000)
        r = nibble.run(self.dir, "quantize", "--config", "config.yaml", "--out", "base.h5")
        self.assertEqual(r.code, nibble.OK, r)
        whole, chance = nibble.read(self.path("base.h5")), random.Random(5)
        for _ in range(20 if nibble.FULL else 3):
            nibble.write(self.path("base.h5"), whole)
            self.remove("out")
            p = nibble.start(self.dir, "train", "--config", "config.yaml", "--threads", 1,
                             "quantized_cache=base.h5")
            metrics = self.path("out", "metrics.jsonl")
            self.assertTrue(nibble.wait_for(
                lambda: os.path.exists(metrics) and os.path.getsize(metrics) > 300))
            nibble.time.sleep(chance.uniform(0, 0.05))
            os.truncate(self.path("base.h5"), chance.randrange(4096, len(whole) // 2))
            code = p.wait(nibble.TIMEOUT)
            err = nibble.read(self.path("err")).decode()
            self.assertIn(code, (nibble.MODEL, nibble.IO), err)
            self.assertEqual(err.count("error:"), 1, err)
            self.assertRegex(err.splitlines()[-1], r"base\.h5: .*\d")
            self.assertFalse(os.path.exists(self.path("out", "adapter_model.safetensors")))

    def test_row03_every_kth_read(self):
        """A read that fails is an error that names the file, or, where a checkpoint is read back,
        a warning; short and interrupted reads are nothing."""
        self.prepare(max_steps=2, save_steps=1)
        self.train("--quiet")
        want = nibble.trained(self.path("out"))
        shutil.copytree(self.path("out"), self.path("kept"))
        disk = ["memory.base=disk", "memory.slots=1"]
        jobs = (["train", "--config", "config.yaml", "--threads", 1, *disk],
                ["quantize", "--config", "config.yaml", "--out", "base.h5"],
                ["export", "--config", "config.yaml", "--adapter", "kept", "--out", "merged"],
                ["eval", "--model", self.base, "--adapter", "kept", "--data", "rows.jsonl"],
                ["inspect", "kept/checkpoints"])
        results = ("out", "merged", "base.h5", "base.h5.json")
        runs = told = 0
        for job in jobs:
            self.remove(*results)
            _, _, count = self.counted(*job)
            stride = 1 if nibble.FULL else count // 3 + 1
            for error, always in ((errno.EIO, ""), (errno.EIO, ":always"), (SHORT, ":always"),
                                  (errno.EINTR, ":always")):
                for k in range(1, count + 1, stride if error == errno.EIO else 7 * stride):
                    self.remove(*results)
                    r = nibble.run(self.dir, *job, env={
                        "NIBBLE_READ_FAULT": "%d:%d%s" % (k, error, always)})
                    runs += 1
                    if error != errno.EIO:
                        self.assertEqual((r.code, "warning" in r.err), (nibble.OK, False), r)
                    if r.code == nibble.OK:
                        if job[0] == "train":
                            self.assertEqual(nibble.trained(self.path("out")), want, r)
                        continue
                    told += 1
                    self.assert_one_line(r, nibble.USAGE, nibble.DATA, nibble.MODEL, nibble.IO)
                    self.assertIn(os.strerror(errno.EIO), r.err)
                    self.assertEqual(self.unfinished(), [], r)
                    self.assertFalse(os.path.exists(self.path("merged")), r)
                    self.assertFalse(os.path.exists(self.path("base.h5")), r)
        print("%d runs with a read failing, %d ended by it" % (runs, told))

    def test_row03_unreadable(self):
        """A folder, a pipe, a link to nothing in the place of the weights."""
        base = small(self.path("base"))
        self.prepare(base)
        path = os.path.join(base, "model.safetensors")
        os.unlink(path)
        for make in (os.mkdir, os.mkfifo, lambda p: os.symlink("/nonexistent", p)):
            make(path)
            r = self.train()
            self.assert_clean(r, "safetensors")
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)


class Memory(Faults):
    """Row 4, the program as a process: one line, exit code 6."""

    def test_row04_every_verb(self):
        self.prepare(max_steps=2, val_set_size=4)
        self.train("--quiet")
        shutil.copytree(self.path("out"), self.path("kept"))
        nibble.write(self.path("text"), '"abc"\n')
        chance = random.Random(6)
        jobs = (["train", "--config", "config.yaml", "--threads", 1],
                ["plan", "--config", "config.yaml"],
                ["check", "--config", "config.yaml", "--show", 1],
                ["eval", "--model", self.base, "--adapter", "kept", "--data", "rows.jsonl"],
                ["generate", "--model", self.base, "--adapter", "kept", "--prompt", "a", "--raw",
                 "--max-new-tokens", 2],
                ["export", "--config", "config.yaml", "--adapter", "kept", "--out", "merged"],
                ["quantize", "--config", "config.yaml", "--out", "base.h5"],
                ["inspect", "kept/checkpoints"], ["tokenize", "--model", self.base])
        runs = 0
        for job in jobs:
            self.remove("out", "merged", "base.h5", "base.h5.json")
            count, _, _ = self.counted(*job)
            for _ in range(60 if nibble.FULL else 3):
                for always in ("", ":always"):
                    self.remove("out", "merged", "base.h5", "base.h5.json")
                    k = chance.randrange(1, count + 1)
                    r = nibble.run(self.dir, *job, env={
                        "NIBBLE_ALLOC_FAULT": "%d%s" % (k, always)})
                    runs += 1
                    if r.code == nibble.OK and not always:
                        continue  # saving, metrics: a warning
                    self.assert_one_line(r, nibble.MEMORY)
                    self.assertEqual(self.unfinished(), [], r)
                    self.assertFalse(os.path.exists(self.path("merged")), r)
                    self.assertFalse(os.path.exists(self.path("base.h5")), r)
        print("%d runs with an allocation failing" % runs)


class Lock(Faults):
    """Row 14."""

    def contents(self):
        return {os.path.join(folder, name): (nibble.read(os.path.join(folder, name)),
                                             os.stat(os.path.join(folder, name)).st_mtime_ns)
                for folder, _, names in os.walk(self.path("out")) for name in names}

    def test_row14_second_run(self):
        """Within a second, naming pid and host; not a byte, not a date is touched."""
        self.prepare(max_steps=100000, save_steps=2)
        p = nibble.start(self.dir, "train", "--config", "config.yaml", "--threads", 1)
        try:
            saved = self.path("out", "checkpoints", "step-000002.json")
            self.assertTrue(nibble.wait_for(lambda: os.path.exists(saved)))
            p.send_signal(signal.SIGSTOP)
            before = self.contents()
            for more in ([], ["--resume"], ["--overwrite"]):
                began = nibble.time.monotonic()
                r = self.train(*more)
                seconds = nibble.time.monotonic() - began
                self.assert_one_line(r, nibble.LOCKED)
                self.assertIn("pid %d on %s" % (p.pid, socket.gethostname()), r.errors[0])
                self.assertLess(seconds, 1)
            self.assertEqual(self.contents(), before)
        finally:
            p.send_signal(signal.SIGKILL)
            p.wait()

    def test_row14_stale_lock(self):
        """What a killed run, another host or a strange program left is no lock."""
        self.prepare()
        self.train("--quiet", "output_dir=reference")
        for text in ("pid 1 on %s\n" % socket.gethostname(), "pid 4242 on elsewhere\n", "",
                     "\0" * 5000):
            os.mkdir(self.path("out"))
            nibble.write(self.path("out", ".lock"), text)
            r = self.train("--quiet")
            self.assertEqual(r.code, nibble.OK, r)
            self.assertEqual(nibble.trained(self.path("out")),
                             nibble.trained(self.path("reference")))
            self.remove("out")

    def test_row14_at_the_same_moment(self):
        """Of runs that start together exactly one trains."""
        self.prepare(max_steps=60)
        for _ in range(20 if nibble.FULL else 2):
            self.remove("out")
            results = []

            def one():
                results.append(self.train("--quiet"))
            threads = [threading.Thread(target=one) for _ in range(4)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            codes = sorted(r.code for r in results)
            # a late one may find the finished run, shows its summary and is content
            self.assertEqual(codes[0], nibble.OK, results[0])
            self.assertTrue(set(codes) <= {nibble.OK, nibble.LOCKED}, "\n".join(map(str, results)))
            self.assertEqual(len(nibble.steps(self.path("out"))), 60)


class Changed(Faults):
    """Row 17."""

    def unfinish(self):
        for name in ("summary.json", "adapter_model.safetensors", "adapter_config.json"):
            self.remove(os.path.join("out", name))

    def prepare_run(self, **keys):
        self.prepare(**dict(dict(save_total_limit=10, val_set_size=2), **keys))
        self.train("--quiet")
        self.want = nibble.trained(self.path("out"))
        for step in range(4, STEPS + 1):
            for end in ("json", "h5"):
                os.unlink(self.path("out", "checkpoints", "step-%06d.%s" % (step, end)))
        self.unfinish()
        shutil.copytree(self.path("out"), self.path("half"))

    def resume(self, *more):
        self.remove("out")
        shutil.copytree(self.path("half"), self.path("out"))
        before = nibble.read(self.path("out", "metrics.jsonl"))
        r = self.train("--resume", *more)
        if r.code:
            self.assert_one_line(r, r.code)
            self.assertEqual(nibble.read(self.path("out", "metrics.jsonl")), before)
            self.assertEqual(self.newest(), 3)
        return r

    def test_row17_changed_config(self):
        """A key that changes the result is named with both values; others are free to change."""
        self.prepare_run()
        for key, before, now in (("learning_rate", "0.01", "0.02"), ("lora_r", "4", "8"),
                                 ("seed", "7", "8"), ("sequence_len", "32", "64"),
                                 ("optimizer", "adamw_torch", "adamw_bnb_8bit"),
                                 ("max_steps", "6", "7"), ("weight_decay", "0.01", "0.1"),
                                 ("gradient_accumulation_steps", "2", "1")):
            r = self.resume("%s=%s" % (key, now))
            self.assertEqual(r.code, nibble.USAGE, r)
            for word in (key, before, now, "--overwrite"):
                self.assertIn(word, r.errors[0])
        for free in ("logging_steps=2", "save_steps=2", "save_total_limit=3",
                     "memory.base=host", "memory.activations=recompute"):
            r = self.resume(free)
            self.assertEqual(r.code, nibble.OK, r)
            self.assertEqual(nibble.trained(self.path("out")), self.want, free)

    def test_row17_changed_data(self):
        """A row less, one twice, two in another order, one token more."""
        self.prepare_run(val_set_size="absent")
        good = nibble.read(self.path("rows.jsonl"))
        lines = good.splitlines(True)
        for bad in (lines[1:], lines + lines[:1], [lines[1], lines[0]] + lines[2:],
                    [lines[0].replace(b"256, ", b"256, 97, ", 1).replace(b"[-100", b"[-100, -100")]
                    + lines[1:]):
            nibble.write(self.path("rows.jsonl"), b"".join(bad))
            r = self.resume()
            self.assertEqual(r.code, nibble.DATA, r)
            self.assertIn("rows", r.errors[0])
        nibble.write(self.path("rows.jsonl"), good)
        self.assertEqual(self.resume().code, nibble.OK)
        self.assertEqual(nibble.trained(self.path("out")), self.want)

    def test_row17_changed_base(self):
        """One bit of one weight; another model; the same one elsewhere is the same one."""
        self.prepare_run()
        base = self.path("other")
        shutil.copytree(self.base, base)
        path = os.path.join(base, "model.safetensors")
        whole = bytearray(nibble.read(path))
        whole[-2] ^= 1
        nibble.write(path, bytes(whole))
        r = self.resume("base_model=other")
        self.assertEqual(r.code, nibble.MODEL, r)
        self.assertIn("another base", r.errors[0])
        self.assertIn("weight", r.errors[0])  # the tensor
        whole[-2] ^= 1
        nibble.write(path, bytes(whole))
        self.assertEqual(self.resume("base_model=other").code, nibble.OK)
        self.assertEqual(nibble.trained(self.path("out")), self.want)

    def test_row17_another_thread_count(self):
        self.prepare_run()
        self.remove("out")
        shutil.copytree(self.path("half"), self.path("out"))
        r = nibble.run(self.dir, "train", "--config", "config.yaml", "--threads", 2, "--resume")
        self.assertEqual(r.code, nibble.OK, r)
        self.assertIn("not bit for bit", r.err)
        self.assertRegex(r.err, r"threads:? 2\b.*threads:? 1\b")

    def test_row17_other_versions(self):
        """A manifest of another version, of another format, or one that is not there."""
        self.prepare_run()
        r = self.train("resume_from_checkpoint=no.h5", "output_dir=new")
        self.assert_one_line(r, nibble.MODEL)
        self.assertIn("no.h5", r.errors[0])
        for step in (1, 2, 3):
            path = self.path("half", "checkpoints", "step-%06d.json" % step)
            manifest = nibble.json.loads(nibble.read(path))
            manifest["version"] = 99
            nibble.write(path, nibble.json.dumps(manifest))
        self.remove("out")
        shutil.copytree(self.path("half"), self.path("out"))
        r = self.train("--resume")
        self.assert_one_line(r, nibble.MODEL)
        self.assertIn("version 99", r.err)


class Export(Faults):
    """Row 18."""

    def prepare_export(self, **keys):
        self.prepare(max_steps=1, save_steps=0, **keys)
        self.train("--quiet")
        self.export = ["export", "--config", "config.yaml", "--out", "merged"]

    def left(self):
        return sorted(n for n in os.listdir(self.dir) if n.startswith("merged"))

    def test_row18_killed(self):
        """At a random moment: the folder is whole or not there, and the same command works."""
        self.prepare_export(base=models("wide", lambda f: nibble.make_model(
            f, hidden_size=512, intermediate_size=1408, head_dim=64, num_attention_heads=8,
            num_key_value_heads=8, num_hidden_layers=4)))
        began = nibble.time.monotonic()
        r = nibble.run(self.dir, *self.export[:-1], "reference")
        seconds = nibble.time.monotonic() - began
        self.assertEqual(r.code, nibble.OK, r)
        want = nibble.trained_folder(self.path("reference"))
        chance, killed = random.Random(8), 0
        for _ in range(200 if nibble.FULL else 5):
            p = nibble.start(self.dir, *self.export)
            nibble.wait_for(lambda: p.poll() is not None, chance.uniform(0, seconds))
            p.kill()
            killed += p.wait() != 0
            if "merged" in self.left():
                self.assertTrue(nibble.trained_folder(self.path("merged")) == want)
                self.remove("merged", "merged.tmp")
        r = nibble.run(self.dir, *self.export)
        self.assertEqual(r.code, nibble.OK, r)
        self.assertEqual(self.left(), ["merged"])
        self.assertTrue(nibble.trained_folder(self.path("merged")) == want)
        print("%d exports killed" % killed)

    def test_row18_every_kth_write(self):
        self.prepare_export()
        _, count, _ = self.counted(*self.export)
        want = nibble.trained_folder(self.path("merged"))
        self.assertGreater(count, 10)
        for kind in ("merged", "adapter"):
            for always in ("", ":always"):
                for k in range(1, count + 1, 1 if nibble.FULL else 9):
                    self.remove("merged")
                    r = nibble.run(self.dir, *self.export, "--kind", kind, env={
                        "NIBBLE_FILE_FAULT": "%d:%d%s" % (k, errno.ENOSPC, always)})
                    if r.code:
                        self.assert_one_line(r, nibble.IO)
                        self.assertEqual(self.unfinished(), [])
                        if kind == "merged":
                            self.assertEqual(self.left(), [], r)
                    elif kind == "merged":
                        self.assertTrue(nibble.trained_folder(self.path("merged")) == want)

    def test_row18_full_disk(self):
        self.prepare_export()
        disk = self.path("disk")
        os.mkdir(disk)
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk],
                                          stderr=subprocess.DEVNULL).returncode:
            self.skipTest("may not mount a small file system here")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        r = nibble.run(self.dir, "export", "--config", "config.yaml", "--out", "disk/merged")
        self.assert_one_line(r, nibble.IO)
        self.assertEqual(os.listdir(disk), [])

    def test_row18_wrong_base(self):
        """One bit of one weight, in the middle where no sample looks."""
        self.prepare_export(base=models("large", lambda f: small(f, vocab_size=5000)))
        other = self.path("other")
        shutil.copytree(self.base, other)
        path = os.path.join(other, "model.safetensors")
        whole = bytearray(nibble.read(path))
        at = len(whole) // 2 + 6000
        whole[at] ^= 1
        nibble.write(path, bytes(whole))
        for more in (["base_model=other"], ["base_model=other", "--base", "dequantized"]):
            r = nibble.run(self.dir, *self.export, *more)
            self.assert_one_line(r, nibble.MODEL)
            self.assertIn("another base", r.errors[0])
            self.assertEqual(self.left(), [])
        r = nibble.run(self.dir, "export", "--model", "other", "--adapter", "out", "--out", "merged")
        self.assert_one_line(r, nibble.MODEL)
        whole[at] ^= 1
        nibble.write(path, bytes(whole))
        r = nibble.run(self.dir, *self.export, "base_model=other")
        self.assertEqual(r.code, nibble.OK, r)


if __name__ == "__main__":
    nibble.main()
