"""Every kernel compiles, for every card, without spilling: registers, stack and shared memory as
ptxas reports them, a line per kernel. Needs nvcc and no card; skipped without it. The default suite
compiles for the oldest card only, NIBBLE_FULL=1 for all that this nvcc knows."""
import os
import re
import shutil
import subprocess
import tempfile

import nibble

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KERNELS = os.path.join(ROOT, "autograd", "cuda")
CARDS = (80, 86, 89, 90, 120) if nibble.FULL else (80,)
ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def nvcc():
    return os.environ.get("CUDACXX") or shutil.which("nvcc")


def known():
    p = subprocess.run([nvcc(), "--list-gpu-arch"], stdout=subprocess.PIPE, encoding="utf-8")
    return [c for c in CARDS if "compute_%d\n" % c in p.stdout]


def compile_one(name, folder):
    """ptxas's report of a file's kernels: (kernel, card, registers, stack, spilled bytes)."""
    codes = [word for c in known() for word in ("-gencode", "arch=compute_%d,code=sm_%d" % (c, c))]
    p = subprocess.run([nvcc(), "-std=c++17", "-O3", "-Xptxas", "-v", *codes, "-I", ROOT, "-c",
                        os.path.join(KERNELS, name), "-o", os.path.join(folder, "object.o")],
                       stderr=subprocess.PIPE, encoding="utf-8")
    found, entry, stack = [], None, None
    for line in p.stderr.splitlines():
        if ENTRY.search(line):
            entry, stack = ENTRY.search(line).groups(), None
        elif STACK.search(line) and entry and stack is None:
            stack = tuple(map(int, STACK.search(line).groups()))
        elif USED.search(line) and entry:
            found.append((*entry, int(USED.search(line).group(1)), stack[0], stack[1] + stack[2]))
            entry = None
    return p, found


def readable(names):
    p = subprocess.run(["c++filt", "-p"], input="\n".join(names), stdout=subprocess.PIPE, encoding="utf-8")
    return p.stdout.splitlines() if p.returncode == 0 else names


class Resources(nibble.Case):
    def test_no_kernel_spills(self):
        if not nvcc():
            self.skipTest("nvcc is not here")
        everything = []
        with tempfile.TemporaryDirectory() as folder:
            for name in sorted(os.listdir(KERNELS)):
                if not name.endswith(".cu"):
                    continue
                p, found = compile_one(name, folder)
                self.assertEqual(p.returncode, 0, p.stderr)
                everything += [(name, *row) for row in found]
        self.assertGreater(len(everything), 50)
        bad = []
        names = readable([row[1] for row in everything])
        for (name, _, card, registers, stack, spilled), kernel in zip(everything, names):
            print("%-24s sm_%s %4d registers %4d stack %4d spilled  %s" % (
                name, card, registers, stack, spilled, kernel))
            if stack or spilled:
                bad.append((name, kernel, card))
        self.assertEqual(bad, [])


if __name__ == "__main__":
    nibble.main()
