"""The four peft-parity cases: losses, gradient norms, schedule and final adapters of
transformers + PEFT + bitsandbytes, compared by the script that stands beside them."""
import os
import subprocess
import sys
import unittest

import nibble

COMPARE = os.path.join(nibble.FIXTURES, "expectations", "peft-parity", "compare.py")


@unittest.skipUnless(os.path.exists(COMPARE), "no fixtures: ../shared is absent")
class Parity(unittest.TestCase):
    def test_cases(self):
        p = subprocess.run([sys.executable, COMPARE, os.path.abspath(nibble.TRAIN)],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           env=nibble.environment(), encoding="utf-8")
        print(p.stdout, end="")
        self.assertEqual(p.returncode, 0, p.stdout)
        self.assertEqual(p.stdout.count(": ok "), 4, p.stdout)


if __name__ == "__main__":
    nibble.main()
