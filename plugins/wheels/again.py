"""Makes wheels a second time, as somebody else would on another day, and compares them with the first byte for byte.

Run by `make test-wheels-twice`, after `make wheels`. What differs the second time: the folders of checkout, tools and
build, all dates but SOURCE_DATE_EPOCH, the time zone, who may read new files, and the number of compilers at a time.
Nothing that was compiled before is used, zig's own libraries neither. zig is linked statically, so that no date can be
made up for it: that no source asks for one, the compiler is told to see to (-Werror=date-time).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def differences(one: Path, other: Path) -> list[str]:
    """Names in the wheels that differ in their bytes, or are in one only; "" = only the archives themselves differ."""
    if one.read_bytes() == other.read_bytes():
        return []
    with zipfile.ZipFile(one) as left, zipfile.ZipFile(other) as right:
        hashes = [
            {name: hashlib.sha256(archive.read(name)).digest() for name in archive.namelist()}
            for archive in (left, right)
        ]
    return sorted({name for name, _ in hashes[0].items() ^ hashes[1].items()}) or [""]


def make_again(work: Path, first: Path, jobs: int, targets: list[str]) -> Path:
    """The folder with wheels that are made in `work` from what is committed or changed in this checkout.

    llama.cpp's sources are taken from the first build's folder: an index could not be asked at a made-up date.
    """
    checkout, out = work / "another-checkout", work / "wheels"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, stdout=-1, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, checkout / name)
    for source in first.glob("llama-cpp-python-*"):
        shutil.copytree(source, work / "compiled" / source.name, copy_function=shutil.copyfile)
    python = work / "tools" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--requirement", HERE / "requirements.txt"], check=True)
    again = [python, checkout / "plugins" / "wheels" / "make.py", "--output", out, "--work", work / "compiled"]
    again += ["--jobs", str(jobs), *(f"--target={target}" for target in targets)]
    # Objects lie in the local one where somebody named it, else in the global one.
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(work / "zig"))
    environment = {**os.environ, "TZ": "Pacific/Kiritimati", **caches}
    subprocess.run(["faketime", "+400 days", *again], env=environment, umask=0o077, check=True)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--first", type=Path, default=ROOT / "dist", help="folder with the wheels to compare with")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "wheels", help="folder they were compiled in")
    parser.add_argument("--target", action="append", default=[], help="kind of machine, as for make wheels")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, help="compilers at a time")
    options = parser.parse_args()
    if shutil.which("faketime") is None:
        print("no faketime, which makes up another date: apt-get install faketime", file=sys.stderr)
        return 1
    n_different = 0
    with tempfile.TemporaryDirectory(prefix="edgellm-wheels-again-") as work:
        for wheel in sorted(make_again(Path(work), options.work, options.jobs, options.target).glob("*.whl")):
            first = options.first / wheel.name
            differing = differences(first, wheel) if first.exists() else [f"is not in {options.first}"]
            n_different += bool(differing)
            told = "differs: " + ", ".join(name or "the archive" for name in differing) if differing else "the same"
            print(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}  {told}")
    return 1 if n_different else 0


if __name__ == "__main__":
    sys.exit(main())
