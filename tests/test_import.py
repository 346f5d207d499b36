"""What `import symjax` costs."""

import subprocess
import sys

HEAVY = ("scipy.stats", "scipy.optimize", "pandas", "matplotlib", "flax")  # most of a second each


def test_import_leaves_heavy_libraries_to_those_who_need_them():
    script = f"import sys, symjax; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == []
