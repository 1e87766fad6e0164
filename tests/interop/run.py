#!/usr/bin/env python3
"""Does the program fit with what people already use? One table, a line for each question: green,
or red with the difference.

    ./run interop [--only NAME ...] [--list]         builds, and runs this

The other side are the real libraries (PACKAGES). They live in a virtual environment outside the
tree: the one that NIBBLE_VENV names, which is used as it is, else one in the user's cache folder, made
on the first call. pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL ...) say where from; a build
of torch for the CPU alone is the smallest. Exit status 1: a line is red; 2: the environment is not
there. `--only training` or `--only qwen` runs the lines whose names hold the word."""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

PACKAGES = ["torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers",
            "huggingface_hub", "safetensors", "h5py", "tensorboard", "numpy", "pyarrow", "pandas", "datasets"]
MODULES = ["formats", "files", "exchange", "training", "tokenizers_random", "hub_cache", "templates"]  # each has a TABLE of (name, function)
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
INSIDE = "NIBBLE_INTEROP_INSIDE"  # set where this is the virtual environment's own python


# ---- the environment ----


def fail(text):
    print("interop: " + text, file=sys.stderr)
    sys.exit(2)


def missing(python):
    """Packages that this python cannot import."""
    code = "import importlib.util as u; print(*[p for p in %r if not u.find_spec(p)])" % PACKAGES
    p = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, encoding="utf-8")
    return p.stdout.split() if p.returncode == 0 else PACKAGES


def own_environment():
    """The python of the environment in the user's cache, made and filled where it is not."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(cache, "nibble-interop")
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print("interop: making " + folder, file=sys.stderr)
        if subprocess.run([sys.executable, "-m", "venv", folder]).returncode:
            shutil.rmtree(folder, True)
            fail("no virtual environment could be made: install python3-venv, or name one in NIBBLE_VENV")
    lacking = missing(python)
    if lacking and subprocess.run([python, "-m", "pip", "install", "-q", *lacking]).returncode:
        fail("pip could not install " + ", ".join(lacking))
    return python


def named_environment(folder):
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        fail("NIBBLE_VENV is %s, where there is no bin/python" % folder)
    lacking = missing(python)
    if lacking:
        fail("the environment in NIBBLE_VENV lacks %s: `%s -m pip install %s`" % (
            ", ".join(lacking), python, " ".join(lacking)))
    return python


def enter(script=__file__):
    """Goes on as this script in the virtual environment's python."""
    if os.environ.get(INSIDE):
        return
    build = os.environ.get("NIBBLE_BUILD", os.path.join(ROOT, "build"))
    os.environ.setdefault("NIBBLE_TRAIN", os.path.join(build, "train"))
    os.environ.setdefault("NIBBLE_FORMATS", os.path.join(build, "tests", "interop_formats"))
    os.environ.setdefault("NIBBLE_ROWS", os.path.join(build, "tests", "interop_rows"))
    os.environ.setdefault("NIBBLE_FIXTURES", os.path.join(ROOT, "..", "shared", "fixtures"))
    for program in (os.environ[name] for name in ("NIBBLE_TRAIN", "NIBBLE_FORMATS", "NIBBLE_ROWS")):
        if not os.path.exists(program):
            fail("%s is not built: use ./run interop" % program)
    named = os.environ.get("NIBBLE_VENV")
    python = named_environment(named) if named else own_environment()
    os.environ.update({INSIDE: "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
                       "PYTHONDONTWRITEBYTECODE": "1"})
    os.execv(python, [python, os.path.abspath(script), *sys.argv[1:]])


# ---- the table ----


class Place:
    """A scratch folder for one line."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="nibble-interop-")

    def path(self, *parts):
        return os.path.join(self.folder, *parts)


def answer(check, ours):
    """(verdict, text) of one line."""
    place = Place()
    try:
        return "ok", check(place)
    except ours.Skipped as e:
        return "skipped", str(e)
    except ours.Differs as e:
        return "DIFFERS", str(e)
    except AssertionError as e:
        return "DIFFERS", " ".join(str(e).split()) or traceback.format_exc(limit=-1)
    except Exception:  # the other side may raise anything; the other lines are still asked
        return "DIFFERS", traceback.format_exc(limit=-3)
    finally:
        shutil.rmtree(place.folder, True)


def painted(verdict):
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return "%-7s" % verdict
    return "\033[%dm%-7s\033[0m" % ({"ok": 32, "skipped": 33}.get(verdict, 31), verdict)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="lines whose names hold one of these")
    parser.add_argument("--list", action="store_true", help="print the lines' names")
    args = parser.parse_args()
    enter()
    sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "run")]
    import torch
    import exact
    import ours
    exact.install()
    torch.set_num_threads(1)  # tiny models: more threads would only wait for each other
    lines = [line for module in MODULES for line in __import__(module).TABLE
             if any(word in line[0] for word in args.only)]
    counts, began = {"ok": 0, "skipped": 0, "DIFFERS": 0}, time.monotonic()
    if not lines:
        fail("no line is named like %s; --list shows them" % ", ".join(args.only))
    for name, check in lines:
        if args.list:
            print(name)
            continue
        start = time.monotonic()
        verdict, text = answer(check, ours)
        counts[verdict] += 1
        print("%s %-30s %5.1f s  %s" % (painted(verdict), name, time.monotonic() - start, text), flush=True)
    if not args.list:
        print("%d ok, %d differ, %d skipped, %.0f s" % (counts["ok"], counts["DIFFERS"], counts["skipped"],
                                                      time.monotonic() - began))
    sys.exit(1 if counts["DIFFERS"] else 0)


if __name__ == "__main__":
    main()
