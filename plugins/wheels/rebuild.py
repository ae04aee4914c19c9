"""Makes wheels of llama.cpp anew with a fix that no release has yet, tries them, and names the lists of faults.

Run by `make rebuild PATCH=fix.patch`. The wheels have the same version with a build number, which pip prefers, and
which names the fix: llama_cpp_python-0.3.36+edgellm-1_<hash of the fix>-py3-none-....whl.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from advisories import told
from release import try_out

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("patch", type=Path, nargs="+", help="fix of llama.cpp, for git apply -p1; one after the other")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the wheels")
    parser.add_argument("--target", action="append", default=[], help="kind of machine, as for make wheels")
    options = parser.parse_args()
    made = [sys.executable, HERE / "make.py", f"--output={options.output}"]
    made += [f"--target={target}" for target in options.target] + [f"--patch={patch}" for patch in options.patch]
    try:
        subprocess.run(made, check=True)
        try_out(options.output)
    except subprocess.CalledProcessError as failed:
        print(f"no rebuild: this failed: {' '.join(map(str, failed.cmd))}", file=sys.stderr)
        return 1
    print(told())
    return 0


if __name__ == "__main__":
    sys.exit(main())
