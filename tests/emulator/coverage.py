#!/usr/bin/env python3
"""Line coverage of autograd/cuda by the emulated tests.

    python3 tests/emulator/coverage.py [--build FOLDER] [--lines] [--least PERCENT]

Builds the emulated targets with gcov's counters in FOLDER (default: build-coverage), runs their
tests, and prints the share of lines of each .cu and .h file that ran; a line of a template counts
when it ran in any of its instances. --lines lists those that did not. Fails below PERCENT of all.
"""
import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TESTS = ["operations_emulated", "cuda_rows_plain", "run_cuda"]
TARGETS = ["test_operations_emulated", "test_cuda_rows_plain", "train_emulated"]


def run(*command, **options):
    return subprocess.run(command, check=True, **options)


def build(folder):
    run("cmake", "-S", ROOT, "-B", folder, "-DNIBBLE_EMULATED_COVERAGE=ON",
        stdout=subprocess.DEVNULL)
    run("cmake", "--build", folder, "--target", *TARGETS, stdout=subprocess.DEVNULL)
    for path, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".gcda"):
                os.remove(os.path.join(path, name))


def counters(folder):
    """{file: {line: times}} of the back end's files."""
    lines = {}
    for path, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(".gcda"):
                continue
            out = run("gcov", "--json-format", "--stdout", os.path.join(path, name),
                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder).stdout
            for report in out.splitlines():
                for entry in json.loads(report)["files"]:
                    file = os.path.relpath(os.path.join(folder, entry["file"]), ROOT)
                    if not file.startswith("autograd/cuda/"):
                        continue
                    of_file = lines.setdefault(file, {})
                    for line in entry["lines"]:
                        number = line["line_number"]
                        of_file[number] = of_file.get(number, 0) + line["count"]
    return lines


def spans(numbers):
    """[1, 2, 3, 7] -> "1-3, 7"."""
    out = []
    for n in numbers:
        if out and n == out[-1][1] + 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=os.path.join(ROOT, "build-coverage"))
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--least", type=float, default=0)
    args = parser.parse_args()
    folder = os.path.abspath(args.build)
    build(folder)
    run("ctest", "--test-dir", folder, "-R", "^(" + "|".join(TESTS) + ")$", "--output-on-failure",
        stdout=sys.stderr)
    ran = total = 0
    for file, lines in sorted(counters(folder).items()):
        missed = sorted(n for n, times in lines.items() if times == 0)
        ran += len(lines) - len(missed)
        total += len(lines)
        print(f"{100 * (len(lines) - len(missed)) / len(lines):6.1f} %  {len(lines):5d}  {file}")
        if args.lines and missed:
            print(f"                   not run: {spans(missed)}")
    if not total:
        sys.exit("no counters were written")
    print(f"{100 * ran / total:6.1f} %  {total:5d}  all")
    if 100 * ran / total < args.least:
        sys.exit(f"below {args.least} %")


main()
