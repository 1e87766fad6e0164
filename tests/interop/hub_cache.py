"""One cache for two: what `train get` has fetched the real library finds without a network, and what
the library has fetched is not fetched again here. The hub is tests/run/hub.py's, on this machine.

The library reads its environment when it is imported, so each of its calls is a process of its own."""
import json
import os
import random
import subprocess
import sys

import hub
import nibble
import ours

chance = random.Random(5)
DATA = {"README.md": b"---\n", "data/train-00000-of-00001.parquet": chance.randbytes(70000), "data/a b%+.json": b"[]",
        "deep/er/still.txt": b"text"}


class Shared:
    """A hub with a model and a dataset, and an empty cache."""

    def __init__(self, place):
        base = nibble.make_model(place.path("base"), num_hidden_layers=1)
        self.model = {f: nibble.read(os.path.join(base, f)) for f in os.listdir(base)}
        self.model["pytorch_model.bin"] = b"other weights" * 999
        self.hub = hub.Hub(org__m=hub.Repository(self.model, refs=("main", "refs/pr/2")),
                                 org__d=hub.Repository(DATA, kind="dataset"))
        self.place, self.cache = place, place.path("cache")
        self.variables = {"HF_ENDPOINT": self.hub.url, "HF_HUB_CACHE": self.cache, "HF_HOME": place.path("home"),
                          "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                          "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.hub.close()

    def get(self, *arguments):
        return json.loads(ours.run(self.place.path(), "get", *arguments, "--format", "json", env=self.variables).out)

    def library(self, code, offline):
        """What `code` gives, as JSON; it sees huggingface_hub as h."""
        script = "import huggingface_hub as h, json\nprint(json.dumps(%s))" % code
        p = subprocess.run([sys.executable, "-c", script],
                           env=dict(os.environ, **self.variables, HF_HUB_OFFLINE="1" if offline else "0"),
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", timeout=120)
        if p.returncode:
            raise ours.Differs("%s: %s" % (code, p.stderr.strip()[-300:]))
        return json.loads(p.stdout)

    def requests(self):
        seen = [path for _, path, _ in self.hub.seen]
        self.hub.seen.clear()
        return seen


def content(folder):
    return {os.path.relpath(os.path.join(where, f), folder): nibble.read(os.path.join(where, f))
            for where, _, files in os.walk(folder) for f in files}


def of_training(files):
    return {path: data for path, data in files.items() if not path.endswith(".bin")}


def ours_there(place):
    """Snapshots and single files offline, a branch, the library's own look at the cache."""
    with Shared(place) as s:
        at = s.get("org/m")["path"]
        s.get("org/m", "--revision", "refs/pr/2")
        s.get("org/d", "--dataset")
        s.requests()
        assert s.library("h.snapshot_download('org/m')", True) == at
        assert s.library("h.snapshot_download('org/m', revision='refs/pr/2')", True) == at
        assert content(at) == of_training(s.model)
        assert content(s.library("h.snapshot_download('org/d', repo_type='dataset')", True)) == DATA
        for path in of_training(s.model):
            assert s.library("h.try_to_load_from_cache('org/m', %r)" % path, True) == os.path.join(at, path)
        found = s.library("[[r.repo_id, r.repo_type, r.size_on_disk, len(list(r.revisions)[0].files)] "
                          "for r in h.scan_cache_dir().repos] + [str(w) for w in h.scan_cache_dir().warnings]", True)
        want = [["org/d", "dataset", sum(map(len, DATA.values())), len(DATA)],
                ["org/m", "model", sum(map(len, of_training(s.model).values())), len(of_training(s.model))]]
        if sorted(found) != want:
            raise ours.Differs("the library finds %s, wanted %s" % (found, want))
        assert not s.requests()
        s.library("h.snapshot_download('org/m')", False)  # and fetches only what is missing
        fetched = {path for path in s.requests() if "/resolve/" in path}
        if {os.path.basename(path) for path in fetched} != {"pytorch_model.bin"}:
            raise ours.Differs("the library asks for %s" % sorted(fetched))
    return "%d files of a model and %d of a dataset" % (len(of_training(s.model)), len(DATA))


def theirs_here(place):
    """What the library has fetched, whole or in part, with its locks and listings beside it."""
    with Shared(place) as s:
        s.library("[h.hf_hub_download('org/m', f) for f in ('config.json', 'model.safetensors')]", False)
        s.requests()
        report = s.get("org/m")
        asked = {os.path.basename(path) for path in s.requests() if "/resolve/" in path}
        if asked & {"config.json", "model.safetensors"}:
            raise ours.Differs("asked for %s again" % asked)
        assert content(report["path"]) == of_training(s.model)
        s.library("h.snapshot_download('org/d', repo_type='dataset')", False)
        s.requests()
        report = s.get("org/d", "--dataset")
        assert report["received"] == 0 and not [path for path in s.requests() if "/resolve/" in path]
        assert content(report["path"]) == DATA
    return "%d files taken over" % (2 + len(DATA))


def one_layout(place):
    """Both caches, file for file: names, links, refs, locks; the listings that the library keeps aside."""
    with Shared(place) as s:
        trees = []
        for cache in ("theirs", "ours"):
            s.variables["HF_HUB_CACHE"] = s.cache = place.path(cache)
            if cache == "ours":
                s.get("org/d", "--dataset")
                s.get("org/m", "--include", "*")
            else:
                s.library("[h.snapshot_download('org/d', repo_type='dataset'), h.snapshot_download('org/m')]", False)
            tree = {}
            for where, _, files in os.walk(s.cache):
                for f in files:
                    path = os.path.join(where, f)
                    there = os.readlink(path) if os.path.islink(path) else nibble.read(path)
                    tree[os.path.relpath(path, s.cache)] = there
            trees.append({p: c for p, c in tree.items() if "/trees/" not in p and p != "CACHEDIR.TAG"})
        theirs, here = trees
        if theirs != here:
            raise ours.Differs("only theirs: %s, only ours: %s" % (sorted(set(theirs) - set(here))[:3],
                                                                  sorted(set(here) - set(theirs))[:3]))
    return "%d names" % len(here)


TABLE = [("hub/ours-there", ours_there), ("hub/theirs-here", theirs_here), ("hub/layout", one_layout)]
