"""`train get` against a hub on this machine (hub.py) that misbehaves in every way that is known of
real ones: what is fetched, where it lies, what is tried again, what is refused and how it is said."""
import errno
import glob
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import hub
import nibble

if os.access("/dev/shm", os.W_OK | os.X_OK):  # each file is synced
    tempfile.tempdir = "/dev/shm"
chance = random.Random(6)


def noise(n):
    return chance.randbytes(n)


WEIGHTS = noise(300000)
MODEL = {"config.json": b"{}", "tokenizer.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "README.md": b"",
         ".gitattributes": b"*", "pytorch_model.bin": noise(5000), "onnx/model.onnx": noise(100)}
OF_MODEL = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


class Get(nibble.Case):
    def setUp(self):
        super().setUp()
        self.hub = hub.Hub(org__m=hub.Repository(dict(MODEL)))
        self.addCleanup(self.hub.close)
        self.cache = self.path("cache")

    def environment(self, **more):
        return dict({"HF_ENDPOINT": self.hub.url, "HF_HUB_CACHE": self.cache, "NIBBLE_RETRY_MS": "5",
                     "HF_HOME": self.path("home"), "no_proxy": "*", "CURL_CA_BUNDLE": "", "REQUESTS_CA_BUNDLE": "",
                     "SSL_CERT_FILE": ""}, **more)

    def get(self, *arguments, code=nibble.OK, limit=None, **more):
        r = nibble.run(self.dir, "get", *arguments, env=self.environment(**more), limit=limit)
        self.assertEqual(r.code, code, r)
        self.assertEqual(len(r.errors), 0 if code == nibble.OK else 1, r)
        return r

    def refused(self, code, *words, arguments=("org/m",), **more):
        r = self.get(*arguments, code=code, **more)
        for word in words:
            self.assertIn(word, r.errors[0])
        return r.errors[0]

    def folder(self, name="org/m", kind="model"):
        return os.path.join(self.cache, kind + "s--" + name.replace("/", "--"))

    def snapshot(self, name="org/m", kind="model"):
        """path -> bytes of all that is visible."""
        root = os.path.join(self.folder(name, kind), "snapshots", hub.COMMIT)
        return {os.path.relpath(os.path.join(where, f), root): nibble.read(os.path.join(where, f))
                for where, _, files in os.walk(root) for f in files}

    def blobs(self):
        return sorted(os.path.basename(p) for p in glob.glob(self.folder() + "/blobs/*"))

    def assert_fetched(self, paths=OF_MODEL):
        files = self.hub.repositories["org/m"].files
        self.assertEqual(self.snapshot(), {p: files[p] for p in paths})
        self.assertEqual([b for b in self.blobs() if b.endswith(".incomplete")], [])

    def incomplete(self, data):
        path = os.path.join(self.folder(), "blobs", hub.blob_id(data) + ".incomplete")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def first_bytes(self, data):
        """Where the requests for these bytes began."""
        return [first for path, first in self.hub.ranges if hub.blob_id(data) in path]

    def serve(self, **files):
        self.hub.repositories["org/m"].files = dict(MODEL, **files)

    def fault(self, match, act, times=1):
        self.hub.faults.append(hub.Fault(match, act, times))

    # ---- what lies where ----

    def test_layout(self):
        r = self.get("org/m")
        self.assert_fetched()
        root = self.folder()
        self.assertIn(root + "/snapshots/" + hub.COMMIT, r.out)
        self.assertEqual(os.readlink("%s/snapshots/%s/model.safetensors" % (root, hub.COMMIT)),
                         "../../blobs/" + hub.sha256(WEIGHTS))
        self.assertEqual(os.readlink("%s/snapshots/%s/config.json" % (root, hub.COMMIT)),
                         "../../blobs/" + hub.git_sha1(b"{}"))
        self.assertEqual(nibble.read(root + "/refs/main").decode(), hub.COMMIT)
        self.assertTrue(nibble.read(self.cache + "/CACHEDIR.TAG").startswith(b"Signature: 8a477f597d28d172"))
        self.assertTrue(os.path.exists("%s/.locks/models--org--m/%s.lock" % (self.cache, hub.sha256(WEIGHTS))))
        self.hub.seen.clear()
        report = json.loads(self.get("org/m", "--format", "json").out)
        self.assertEqual((report["received"], report["files"], report["commit"], report["kind"]),
                         (0, 4, hub.COMMIT, "model"))
        self.assertEqual(report["bytes"], sum(len(MODEL[p]) for p in OF_MODEL))
        self.assertFalse([path for _, path, _ in self.hub.seen if "resolve" in path])

    def test_cache_folders(self):
        """As the Python library finds its cache."""
        for variables, place in (({"HF_HUB_CACHE": self.path("a")}, "a"),
                                 ({"HF_HUB_CACHE": "", "HF_HOME": self.path("b")}, "b/hub"),
                                 ({"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": self.path("c")},
                                  "c/huggingface/hub"),
                                 ({"HF_HUB_CACHE": "~/d", "HOME": self.dir}, "d")):
            with self.subTest(place):
                self.get("org/m", "--include", "config.json", **variables)
                self.assertTrue(os.path.exists(self.path(place, "models--org--m/refs/main")))

    def test_choice(self):
        """Of a model what is read, of a dataset all; else what the patterns name."""
        r = self.get("org/m")
        self.assertIn("left out", r.err)
        self.assertIn("pytorch_model.bin", r.err)
        self.get("org/m", "--include", "*.bin,onnx/", "--include", ".git*")
        self.assert_fetched(OF_MODEL + ["pytorch_model.bin", "onnx/model.onnx", ".gitattributes"])
        self.refused(nibble.USAGE, "*.gguf", "--list", arguments=("org/m", "--include", "*.gguf"))
        for files, words in (({"consolidated.safetensors": b"1"}, ("consolidated.safetensors", "--include")),
                             ({"x-Q4_K_M.gguf": b"1"}, ("x-Q4_K_M.gguf",)), ({"config.json": b"1"}, ("no weights",)),
                             ({}, ("no files",))):
            self.hub.repositories["org/m"].files = files
            self.refused(nibble.MODEL, *words)
        sharded = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                   "model.safetensors.index.json"]
        self.hub.repositories["org/m"] = hub.Repository(
            {p: p.encode() * len(p) for p in sharded + ["consolidated.safetensors", "tokenizer.model", "config.json",
                                               "flax.msgpack.index.json", "original/params.json"]},
            commit="a" * 40)
        r = self.get("org/m")
        self.assertIn("consolidated.safetensors", r.err)
        self.assertEqual(sorted(os.listdir(self.folder() + "/snapshots/" + "a" * 40)),
                         sorted(sharded + ["tokenizer.model", "config.json"]))
        self.hub.repositories["org/m"] = hub.Repository({p: p.encode() for p in sharded + ["model.safetensors"]},
                                                        commit="b" * 40)
        self.get("org/m")
        self.assertEqual(os.listdir(self.folder() + "/snapshots/" + "b" * 40), ["model.safetensors"])

    def test_dataset(self):
        files = {"README.md": b"---", "data/train-00000-of-00001.parquet": noise(9000), "data/a b%+é#?.json": b"[]",
                 "x/y/z/deep.txt": b"deep", "same.json": b"[]"}
        self.hub.repositories["org/d"] = hub.Repository(files, kind="dataset")
        self.hub.page = 2
        self.get("org/d", "--dataset")
        self.assertEqual(self.snapshot("org/d", "dataset"), files)
        self.assertEqual(os.readlink(self.folder("org/d", "dataset") + "/snapshots/%s/x/y/z/deep.txt" % hub.COMMIT),
                         "../../../../../blobs/" + hub.git_sha1(b"deep"))
        self.refused(nibble.MODEL, "org/d", "--dataset", arguments=("org/d",))

    def test_revisions(self):
        self.hub.repositories["org/m"].refs = ("main", "refs/pr/1", "v1.0")
        self.get("org/m", "--revision", "refs/pr/1")
        self.assertEqual(os.listdir(self.folder() + "/refs"), ["refs"])
        self.assertEqual(nibble.read(self.folder() + "/refs/refs/pr/1").decode(), hub.COMMIT)
        self.get("org/m", "--revision", hub.COMMIT)
        self.assertEqual(os.listdir(self.folder() + "/refs"), ["refs"])
        self.hub.repositories["org/m"].commit = "c" * 40  # main has moved
        self.get("org/m")
        self.hub.repositories["org/m"].commit = "d" * 40
        r = self.get("org/m")
        self.assertEqual(nibble.read(self.folder() + "/refs/main").decode(), "d" * 40)
        self.assertIn(" 0 B to fetch", r.err)
        self.refused(nibble.MODEL, "no revision \"v2\"", arguments=("org/m", "--revision", "v2"))
        self.refused(nibble.MODEL, "no revision", arguments=("org/m", "--revision", "e" * 40))
        for bad in ("../x", "a b", "x/../y", "-x"):
            self.refused(nibble.USAGE, "revision", arguments=("org/m", "--revision=" + bad))

    def test_list(self):
        r = self.get("org/m", "--list")
        self.assertRegex(r.out, r"300\.00 kB  to fetch +model\.safetensors\n")
        self.assertRegex(r.out, r"left out +pytorch_model\.bin\n")
        self.assertFalse(os.path.exists(self.cache))
        self.get("org/m")
        report = json.loads(self.get("org/m", "--list", "--format", "json").out)
        self.assertEqual(report["missing"], 0)
        self.assertEqual({f["path"]: f["state"] for f in report["listing"]},
                         {p: "in the cache" if p in OF_MODEL else "left out" for p in MODEL})

    def test_what_is_there_is_kept_or_mended(self):
        self.get("org/m")
        link = self.folder() + "/snapshots/%s/config.json" % hub.COMMIT
        os.unlink(link)
        os.symlink("../../blobs/nowhere", link)  # dangling
        nibble.write(self.folder() + "/blobs/" + hub.sha256(WEIGHTS), WEIGHTS[:-1])  # worn
        os.unlink(self.folder() + "/refs/main")
        self.get("org/m")
        self.assert_fetched()
        os.unlink(link)  # a file system without links
        nibble.write(link, b"{}")
        os.unlink(self.folder() + "/blobs/" + hub.git_sha1(b"{}"))
        self.get("org/m")
        self.assertFalse(os.path.islink(link))
        self.assert_fetched()

    # ---- who may read it ----

    def test_token(self):
        """Sent to the hub, and to nobody else; from the environment or where a login has put it."""
        self.hub.tokens = {"hf_good", "hf_other"}
        self.hub.repositories["org/m"].token = "hf_good"
        os.mkdir(self.path("home"))
        nibble.write(self.path("home", "token"), " hf_good\n")
        nibble.write(self.path("elsewhere"), "hf_good")
        for i, variables in enumerate(({"HF_TOKEN": "hf_good"}, {}, {"HUGGING_FACE_HUB_TOKEN": "hf_good\n"},
                                       {"HF_HOME": "/nonexistent", "HF_TOKEN_PATH": self.path("elsewhere")})):
            with self.subTest(variables):
                self.cache = self.path("cache%d" % i)
                self.hub.seen.clear()
                r = self.get("org/m", **variables)
                self.assert_fetched()
                self.assertNotIn("hf_good", r.out + r.err)
                self.assertEqual({(name, token) for name, _, token in self.hub.seen},
                                 {("hub", "Bearer hf_good"), ("cdn", None)})
        self.cache = self.path("none")
        for variables, *words in (({"HF_TOKEN": "hf_other"}, "no such model", "does not open it"),
                                  ({"HF_TOKEN": "hf_bad"}, "does not accept HF_TOKEN"),
                                  ({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, "no such model", "set HF_TOKEN"),
                                  ({"HF_HOME": "/nonexistent"}, "no such model", "set HF_TOKEN")):
            with self.subTest(variables):
                self.refused(nibble.MODEL, *words, **variables)
        for bad in ("a b", "hf\nX-Evil: 1", "h\x7f"):
            self.refused(nibble.USAGE, "HF_TOKEN", HF_TOKEN=bad)

    def test_redirects(self):
        """Within the hub with the token, elsewhere without; not in circles, not out of HTTP."""
        self.hub.tokens = {"t"}
        moved = self.hub.repositories["org/new"] = self.hub.repositories["org/m"]
        moved.token = "t"
        for place in ("api/models/org/m/", "/org/m/resolve"):  # renamed, as the hub does it
            self.fault("hub:.*" + place, hub.redirect(lambda x: x.path.replace("org/m", "org/new")), None)
        self.get("org/m", HF_TOKEN="t")
        self.assert_fetched()
        self.hub.faults.clear()
        shutil.rmtree(self.cache)
        self.hub.seen.clear()
        self.fault("hub:/api", hub.redirect(lambda x: self.hub.cdn_url + x.path), None)
        self.refused(nibble.MODEL, "org/m", HF_TOKEN="t")
        self.assertEqual([token for name, _, token in self.hub.seen if name == "cdn"], [None])
        for target, word in (("/api/models/org/m/again", "redirects more than"), ("file:///etc/passwd", "not followed"),
                             ("ftp://127.0.0.1/x", "not followed"), ("http://[", "")):
            with self.subTest(target):
                self.hub.faults.clear()
                self.fault("hub:/api", hub.redirect(target), None)
                self.refused(nibble.IO, word)

    @unittest.skipUnless(shutil.which("openssl"), "no openssl to make a certificate")
    def test_certificates(self):
        """Who shows no certificate that can be checked is not asked, and https does not lead to http."""
        pem = self.path("pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                        "-nodes", "-subj", "/CN=hub", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-keyout", pem + ".key", "-out", pem], check=True, stderr=subprocess.DEVNULL)
        both = self.path("both")
        nibble.write(both, nibble.read(pem) + nibble.read(pem + ".key"))
        plain, self.hub = self.hub, hub.Hub(certificate=both, org__m=hub.Repository(dict(MODEL)))
        self.addCleanup(self.hub.close)
        self.refused(nibble.IO, "certificate", "ca-certificates", "SSL_CERT_FILE")
        self.assertEqual(self.hub.seen, [])
        self.get("org/m", SSL_CERT_FILE=pem)
        self.assert_fetched()
        self.fault("hub:/api", hub.redirect(lambda x: plain.url + x.path), None)
        self.refused(nibble.IO, "not followed", CURL_CA_BUNDLE=pem)
        self.assertEqual(plain.seen, [])
        self.refused(nibble.IO, "certificate", SSL_CERT_FILE=self.path("absent"))

    def test_refusals(self):
        self.refused(nibble.MODEL, "org/none", "no such model", arguments=("org/none",))
        self.refused(nibble.DATA, "org/none", "no such dataset", arguments=("org/none", "--dataset"))
        self.hub.tokens = {"t"}
        self.hub.repositories["org/m"].gated = True
        line = self.refused(nibble.MODEL, "org/m is gated", self.hub.url + "/org/m", "HF_TOKEN")
        self.assertNotIn("snapshots", line)
        self.refused(nibble.MODEL, "org/m is gated", "token", HF_TOKEN="t")
        self.assertFalse(os.path.exists(self.folder() + "/snapshots"))
        self.assertFalse(os.path.exists(self.folder() + "/refs"))
        self.hub.repositories["org/m"].gated = False
        for code, error, words in ((403, "", ("403", "not today")), (400, "", ("400",)), (451, "", ("451",))):
            self.hub.faults.clear()
            self.fault("hub:/api", lambda x: x.refuse(code, error, "not today\x1b[31m") or True, None)
            self.refused(nibble.MODEL if code == 403 else nibble.IO, *words)
        self.hub.faults.clear()
        self.fault("resolve.*config.json", hub.status(404, X_Error_Code="EntryNotFound"))
        self.refused(nibble.MODEL, "does not have")

    def test_usage(self):
        for arguments in ((), ("org/m", "org/n"), ("a/b/c",), ("../x",), ("org/",), ("https://host/org/m",),
                          ("org/m", "--config", "x.yaml"), ("org/m", "--include="), ("org/m", "--include=,"),
                          ("--config", "x.yaml", "--dataset"), ("org/m", "--revison", "x")):
            with self.subTest(arguments):
                r = self.get(*arguments, code=nibble.USAGE)
        self.assertIn("--revision", r.errors[0])
        for name, value in (("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "true"), ("HF_ENDPOINT", "hub"),
                            ("HF_ENDPOINT", "ftp://x"), ("HF_ENDPOINT", "http://x/?a"),
                            ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"), ("HF_HUB_DOWNLOAD_TIMEOUT", "0")):
            with self.subTest(name, value=value):
                self.refused(nibble.USAGE, name.replace("TRANSFORMERS", "HF_HUB"), **{name: value})
        self.assertEqual(self.hub.seen, [])

    # ---- weather ----

    def test_weather(self):
        """Every trouble that passes is waited out, and what has come is not asked for again."""
        troubles = {
            "cut": (hub.cut(20000), 2), "reset": (hub.hang_up, 2), "500": (hub.status(500), 2),
            "503": (hub.status(503), 3), "408": (hub.status(408), 1), "closed": (hub.closing, 2),
            "429": (hub.status(429, Retry_After="1"), 1),
            "limit": (hub.status(429, RateLimit='"resolvers";r=0;t=1'), 1),
            "stall": (hub.stall(30000, 2), 1), "deaf": (hub.deaf, None), "unsized": (hub.unsized, 1)}
        files = {name + ".json": noise(50000) for name in troubles}
        files["both.json"] = noise(50000)
        self.serve(**files)
        for name, (act, times) in troubles.items():
            self.fault("cdn:.*" + hub.sha256(files[name + ".json"]), act, times)
        for name in ("deaf", "unsized"):
            self.fault("cdn:.*" + hub.sha256(files[name + ".json"]), hub.cut(40000))
        self.fault("hub:/api", hub.status(502), 2)
        self.fault("hub:/api.*tree", hub.hang_up, 1)
        began = time.monotonic()
        r = self.get("org/m", HF_HUB_DOWNLOAD_TIMEOUT="1")
        self.assertGreater(time.monotonic() - began, 1)
        self.assert_fetched(OF_MODEL + list(files))
        for name, want in (("cut", [0, 20000, 40000]), ("deaf", [0, 0]), ("stall", [0, 30000]), ("closed", [0]),
                           ("500", [0]), ("unsized", [0, 40000])):
            self.assertEqual(self.first_bytes(files[name + ".json"]), want, name)
        for word in ("stands still for 1 s", "answers 503", "again in 1.0 s"):
            self.assertIn(word, r.err)
        self.assertNotIn("signed", r.err)

    def test_gives_up(self):
        """A trouble that does not pass ends with one line and what has come."""
        for match, act, words in (("hub:/api", hub.status(500), ("500", "try again later")),
                                  ("hub:/api", hub.hang_up, ("6 times in a row",)),
                                  ("hub:/api", hub.status(429, Retry_After="4000"), ("4000 s",)),
                                  ("cdn:", hub.status(503), ("503",)),
                                  ("cdn:", hub.cut(0), ("6 times",)),
                                  ("cdn:", hub.status(403), ("model.safetensors", "403")),
                                  ("cdn:", hub.status(404), ("model.safetensors", "404"))):
            with self.subTest(match=match, words=words):
                self.hub.faults.clear()
                self.fault(match, act, None)
                self.refused(nibble.IO, *words)
                self.assertFalse(os.path.exists(self.folder() + "/snapshots"))
        self.hub.faults.clear()  # always the same first half, from the beginning each time
        self.fault("cdn:", hub.deaf, None)
        self.fault("cdn:", hub.cut(150000), None)
        self.refused(nibble.IO, "times in a row")
        self.assertEqual(os.path.getsize(self.incomplete(WEIGHTS)), 150000)
        self.hub.faults.clear()
        self.hub.ranges.clear()
        self.get("org/m")
        self.assertEqual(self.first_bytes(WEIGHTS), [150000])
        self.assert_fetched()
        self.refused(nibble.IO, "127.0.0.1:9", HF_ENDPOINT="http://127.0.0.1:9")

    def any_trouble(self):
        n = chance.randrange(1, 60000)
        code = chance.choice((100, 204, 206, 300, 301, 304, 400, 401, 403, 404, 408, 416, 418, 429, 500, 503, 999))
        line = b"HTTP/1.1 %d x\r\n" % chance.choice((200, 206, code))
        return chance.choice((
            lambda: hub.status(code), lambda: hub.cut(n), lambda: hub.hang_up, lambda: hub.deaf, lambda: hub.unsized,
            lambda: hub.spoil, lambda: hub.closing,
            lambda: hub.redirect(chance.choice(("/", "//", "http://127.0.0.1:9", "?"))),
            lambda: hub.body(noise(n)), lambda: hub.body(b"[" * n), lambda: hub.raw(noise(n)),
            lambda: hub.raw(line + noise(n)), lambda: hub.raw(line + b"X: " + b"y" * (n * 9) + b"\r\n\r\n"),
            lambda: hub.raw(line + b"Content-Length: %d\r\n\r\n12345" % chance.choice((-1, 0, 5, 2 ** 63, 10 ** 30))),
            lambda: hub.raw(line + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nzz\r\n"),
            lambda: hub.raw(line + b"Content-Range: bytes %d-9/%d\r\n\r\n12345" % (n, n)),
            lambda: hub.raw(line + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n12345")))()

    def test_storm(self):
        """Troubles at random: it ends with all or with one line, and the next fair day brings the rest."""
        places = ("hub:/api.*revision", "hub:/api.*tree", "hub:/org", "cdn:", "")
        for i in range(400 if nibble.FULL else 12):
            self.hub.faults = [hub.Fault(chance.choice(places), self.any_trouble(), chance.choice((1, 2, None)))
                               for _ in range(chance.randrange(1, 5))]
            told = [(f.match, f.act.__qualname__, f.times) for f in self.hub.faults]
            r = nibble.run(self.dir, "get", "org/m", env=self.environment(HF_HUB_DOWNLOAD_TIMEOUT="2"))
            self.assertIn(r.code, (nibble.OK, nibble.MODEL, nibble.IO), (told, str(r)))
            self.assertEqual(len(r.errors), r.code != 0, (told, str(r)))
            if r.code == nibble.OK:
                self.assert_fetched()
                shutil.rmtree(self.cache)
            else:
                self.assertFalse(os.path.exists(self.folder() + "/snapshots"), told)
        self.hub.faults = []
        self.get("org/m")
        self.assert_fetched()

    # ---- bytes that are not what they should be ----

    def test_wrong_bytes(self):
        for name, match in (("config.json", "resolve.*config.json"), ("model.safetensors", "cdn:")):
            with self.subTest(name):
                shutil.rmtree(self.cache, True)
                self.hub.faults.clear()
                self.fault(match, hub.spoil, None)
                self.refused(nibble.IO, name, "hash")
                self.assertFalse(os.path.exists(self.incomplete(MODEL[name])))
                self.assertFalse(os.path.exists(self.folder() + "/snapshots"))
                self.assertNotIn(hub.blob_id(MODEL[name]), self.blobs())

    def test_what_an_earlier_attempt_has_left(self):
        for content, starts in ((WEIGHTS[:100000], [100000]), (noise(100000), [100000, 0]), (WEIGHTS, []),
                                (noise(len(WEIGHTS)), [0]), (WEIGHTS + b"x", [0]), (b"", [0])):
            with self.subTest(starts=starts, bytes=len(content)):
                shutil.rmtree(self.cache, True)
                nibble.write(self.incomplete(WEIGHTS), content)
                self.hub.ranges.clear()
                self.get("org/m")
                self.assert_fetched()
                self.assertEqual(self.first_bytes(WEIGHTS), starts)

    def test_lying_sizes(self):
        """The listing says one size, the server sends another."""
        entry = self.hub.repositories["org/m"].entry

        def lie(by):
            def changed(path):
                e = entry(path)
                if path == "model.safetensors":
                    e["lfs"]["size"] += by
                return e
            return changed
        for by, unsized in ((1, False), (-1, False), (1, True), (-1, True)):
            with self.subTest(by=by, unsized=unsized):
                self.hub.faults.clear()
                self.hub.repositories["org/m"].entry = lie(by)
                if unsized:
                    self.fault("cdn:", hub.unsized, None)
                self.refused(nibble.IO, "model.safetensors")
                self.assertFalse(os.path.exists(self.folder() + "/snapshots"))
        self.hub.repositories["org/m"].entry = entry
        self.hub.faults.clear()
        nibble.write(self.incomplete(WEIGHTS), WEIGHTS[:1000])  # a web page costs nobody what is there
        self.fault("cdn:", hub.body(b"<html>", "text/html"), None)
        self.refused(nibble.IO, "text/html")
        self.assertEqual(nibble.read(self.incomplete(WEIGHTS)), WEIGHTS[:1000])
        self.hub.faults.clear()
        self.get("org/m")
        self.assert_fetched()

    def test_hostile_listings(self):
        good = self.hub.repositories["org/m"].entry("config.json")
        entries = [dict(good, path=p) for p in (
            "../x", "/etc/x", "a/../x", "a//b", "a/./b", "./a", "a/", "", "..", "a\nb", "a\x1b[31m", "a\u009b31m",
            "b" * 256, "a/" * 600 + "a")]
        entries += [dict(good, oid=o) for o in ("0" * 39, "../../../../x", "A" * 40, None, 7)]
        entries += [dict(good, size=s) for s in (-1, "2", 2.5, None, [])]
        entries += [dict(good, lfs={"oid": "0" * 40, "size": 2}), dict(good, lfs={"size": 2}), {"type": "file"},
                    {"path": "a"}]
        pages = [json.dumps([e]).encode() for e in entries]
        pages += [json.dumps([good, good]).encode(),
                  json.dumps([dict(good, size=2 ** 62, path=p) for p in "abc"]).encode(),
                  json.dumps([dict(good, size=10 ** 19)]).encode(), b"{}", b"[1]", b"", b"[", b"[" * 100000, b"\xff",
                  b'[{"type": "file", "path": "a\\u0000b", "oid": "%s", "size": 1}]' % (b"0" * 40),
                  b"<!DOCTYPE html><html><body>Sign in to the airport", b" " * (65 << 20)]
        for page in pages:
            with self.subTest(page=page[:90]):
                self.hub.faults.clear()
                self.fault("tree", hub.body(page), None)
                line = self.refused(nibble.IO, arguments=("org/m", "--include", "*"))
                self.assertNotIn("\x1b", line)
        self.assertFalse(os.path.exists(self.cache))
        for sha in (b"{}", b'{"sha": "main"}', b'{"sha": "../../%s"}' % (b"0" * 34), b'{"sha": 1}', b"<html>"):
            self.hub.faults.clear()
            self.fault("revision", hub.body(sha), None)
            self.refused(nibble.IO, "sha" if sha != b"<html>" else "no hub answers")
        self.hub.faults.clear()  # a file that another's folder has the name of
        self.hub.repositories["org/m"].files.update({"a": b"{}", "a/b": b"{}"})
        self.fault("tree", hub.body(json.dumps([dict(good, path=p) for p in ("a", "a/b")]).encode()), None)
        self.refused(nibble.IO, "a", arguments=("org/m", "--include", "*"))

    @unittest.skipUnless(nibble.FULL, "5,000 pages: NIBBLE_FULL=1")
    def test_endless_pages(self):
        self.fault("tree", hub.body(b"[]", Link='<http://x/?cursor=1>; rel="next"'), None)
        self.refused(nibble.IO, "pages")

    def test_no_room(self):
        entry = self.hub.repositories["org/m"].entry("model.safetensors")
        entry["lfs"]["size"] = 10 ** 17
        self.fault("tree", hub.body(json.dumps([entry]).encode()), None)
        self.refused(nibble.IO, "needs 100000000.00 GB", "are free", "HF_HUB_CACHE")
        self.assertFalse(os.path.exists(self.folder()))

    # ---- interruptions ----

    def slow_start(self, **files):
        """A get that is under way."""
        self.hub.faults.clear()
        self.fault("cdn:", hub.slow(400000), None)
        p = nibble.start(self.dir, "get", "org/m", env=self.environment())
        self.addCleanup(p.kill)
        return p

    def grown(self, least):
        path = self.incomplete(WEIGHTS)
        self.assertTrue(nibble.wait_for(lambda: os.path.exists(path) and os.path.getsize(path) >= least, 20))
        return os.path.getsize(path)

    def test_signals(self):
        """The first one ends it within two seconds with what has come; the same command goes on."""
        at = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            p = self.slow_start()
            self.grown(at + 40000)
            p.send_signal(number)
            began = time.monotonic()
            self.assertEqual(p.wait(20), nibble.INTERRUPTED, nibble.read(self.path("err")).decode())
            self.assertLess(time.monotonic() - began, 3)
            text = nibble.read(self.path("err")).decode()
            self.assertIn("interrupted by " + number.name, text)
            self.assertRegex(text, r"[1-9][0-9.]+ kB of 300\.01 kB are in the cache; the same command goes on")
            at = os.path.getsize(self.incomplete(WEIGHTS))
            self.assertFalse(os.path.exists(self.folder() + "/snapshots"))
        self.hub.faults.clear()
        self.get("org/m")
        self.assert_fetched()
        self.assertEqual(self.first_bytes(WEIGHTS)[-1], at)
        shutil.rmtree(self.cache)
        self.fault("hub:/api", hub.status(429, Retry_After="60"), None)  # while it waits
        p = nibble.start(self.dir, "get", "org/m", env=self.environment())
        nibble.wait_for(lambda: b"again in" in nibble.read(self.path("err")))
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(5), nibble.INTERRUPTED)

    def test_kill(self):
        for _ in range(40 if nibble.FULL else 4):
            shutil.rmtree(self.cache, True)
            at = 0
            for _ in range(2):
                p = self.slow_start()
                self.grown(at + chance.randrange(1000, 60000))
                p.kill()
                p.wait()
                at = os.path.getsize(self.incomplete(WEIGHTS))
                self.assertFalse(os.path.exists(self.folder() + "/snapshots"))
            self.hub.faults.clear()
            self.hub.ranges.clear()
            self.get("org/m")
            self.assert_fetched()
            self.assertEqual(self.first_bytes(WEIGHTS), [at])

    def test_two_at_once(self):
        """Both succeed, and no byte comes twice."""
        files = {"f%d.json" % i: noise(20000) for i in range(24)}
        self.serve(**files)
        self.fault("cdn:", hub.slow(200000), None)
        both = [nibble.start(self.dir, "get", "org/m", env=self.environment()) for _ in range(2)]
        self.assertEqual([p.wait(60) for p in both], [0, 0])
        self.assert_fetched(OF_MODEL + list(files))
        for data in files.values():
            self.assertEqual(self.first_bytes(data), [0])

    # ---- the disk ----

    def test_full_disk(self):
        """A file that cannot grow, then room: as if nothing had been."""
        self.refused(nibble.IO, "writing", limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000)))
        self.assertFalse(os.path.exists(self.folder() + "/snapshots"))
        self.get("org/m")
        self.assert_fetched()

    def test_small_file_system(self):
        place = self.path("small")
        os.mkdir(place)
        p = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL) if os.geteuid() == 0 else None
        if p is None or p.returncode:
            self.skipTest("may not mount a small file system here")
        try:
            self.cache = place
            self.refused(nibble.IO, "make room", "HF_HUB_CACHE")
        finally:
            subprocess.run(["umount", place], check=True)

    def test_failing_writes(self):
        """Each write, fsync and rename in turn."""
        self.serve(**{"f.json": noise(6000)})
        r = self.get("org/m", NIBBLE_COUNT_FAULTS="1")
        count = int(r.err.split(" file operations")[0].split()[-1])
        for k in range(1, count + 1, 1 if nibble.FULL else 7):
            for error in (errno.ENOSPC, errno.EIO):
                shutil.rmtree(self.cache)
                r = nibble.run(self.dir, "get", "org/m", env=self.environment(NIBBLE_FILE_FAULT="%d:%d" % (k, error)))
                self.assertIn(r.code, (nibble.OK, nibble.IO), r)  # OK: this run had fewer
                self.assertEqual(len(r.errors), r.code != 0, r)
                self.get("org/m")
                self.assert_fetched(OF_MODEL + ["f.json"])

    def test_failing_allocations(self):
        """Ours and libcurl's."""
        r = self.get("org/m", NIBBLE_COUNT_FAULTS="1")
        count = int(r.err.split(" allocations")[0].split()[-1])
        self.assertGreater(count, 500)
        for k in range(1, count, 1 if nibble.FULL else max(1, count // 20)):
            shutil.rmtree(self.cache, True)
            for always in ("", ":always"):
                r = nibble.run(self.dir, "get", "org/m", env=self.environment(NIBBLE_ALLOC_FAULT="%d%s" % (k, always)))
                self.assertIn(r.code, (nibble.OK, nibble.MEMORY), "%d%s: %s" % (k, always, r))
                self.assertEqual(len(r.errors), r.code != 0, r)
            self.get("org/m")
            self.assert_fetched()

    # ---- and then? ----

    def test_training_finds_it(self):
        """What is absent is offered by the command that fetches it; then it is there."""
        base = nibble.make_model(self.path("base"), num_hidden_layers=1)
        rows = nibble.make_rows(self.path("rows.jsonl"), 8)
        self.hub.repositories["org/m"].files = {f: nibble.read(os.path.join(base, f)) for f in os.listdir(base)}
        self.hub.repositories["org/d"] = hub.Repository(
            {"train.jsonl": nibble.read(rows), "other/huge.jsonl": noise(9000)}, kind="dataset")
        keys = nibble.config(base="org/m", rows="org/d", max_steps=1)
        keys["datasets"][0]["data_files"] = ["train.jsonl"]
        nibble.write_config(self.path("config.yaml"), keys)

        def check():
            return nibble.run(self.dir, "check", "--config", "config.yaml", env=self.environment())
        r = check()
        self.assertEqual(r.code, nibble.MODEL)
        self.assertTrue(r.errors[0].endswith("download it once with: train get org/m"), r)
        self.get("org/m")
        r = check()
        self.assertEqual(r.code, nibble.DATA)
        self.assertTrue(r.errors[0].endswith("download it once with: train get org/d --dataset"), r)
        self.get("org/d", "--dataset")
        self.assertEqual(check().code, nibble.OK)
        shutil.rmtree(self.cache)
        self.assertEqual(self.get("--config", "config.yaml", "--quiet").err, "")
        self.assertEqual(check().code, nibble.OK)
        self.assertEqual(list(self.snapshot("org/d", "dataset")), ["train.jsonl"])


if __name__ == "__main__":
    nibble.main()
