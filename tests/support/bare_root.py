"""A Debian with Python's venv and nothing else, without a network: where wheels have to do.

Made once, by mmdebstrap, in the user's cache; nothing is written into it afterwards. Any user may do it, in a user
namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import platformdirs
import pytest
from filelock import FileLock

# Mounts and enters: $1 is the root, $2 the folder that can be written, $3 the wheels, $4 a model.
_ENTER = r"""
root=$1 work=$2 wheels=$3 model=$4; shift 4
mount -t tmpfs tmpfs "$root/mnt"
mkdir "$root/mnt/own" "$root/mnt/wheels"
touch "$root/mnt/model.gguf"
mount --bind "$work" "$root/mnt/own"
mount --bind "$wheels" "$root/mnt/wheels"
mount --bind "$model" "$root/mnt/model.gguf"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
exec chroot "$root" /usr/bin/env -i HOME=/mnt/own EDGELLM_HOME=/mnt/own/home LANG=C.UTF-8 \
  PATH=/mnt/own/venv/bin:/usr/bin:/bin "$@"
"""
_INSIDE = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]


def mirror() -> str:
    """The one that this machine's apt has Debian from, which has every suite; "" = as mmdebstrap chooses."""
    if named := os.environ.get("DEBIAN_MIRROR"):
        return named
    if shutil.which("apt-get") is None:
        return ""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"]
    return next(iter(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()), "")


def bare_root(suite: str) -> Path:
    """The folder of a minimal Debian of that name; skips, as group "wheels", where it cannot be made."""
    root = Path(platformdirs.user_cache_dir("edgellm")) / "roots" / suite
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f"{suite}.lock")):  # files of tests run beside one another
        if not root.exists():
            _make(root, suite)
    return root


def musl_root() -> Path:
    """The folder of a system of busybox and musl's loader, and nothing else; skips, as `bare_root` does."""
    root = Path(platformdirs.user_cache_dir("edgellm")) / "roots" / "musl"
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name("musl.lock")):
        if not root.exists():
            part = _unpacked(root, "trixie", "extract", "busybox-static,musl")
            for name in ("dev", "mnt", "proc"):
                (part / name).mkdir(exist_ok=True)
            for name in ("bin", "lib"):
                (part / name).symlink_to(f"usr/{name}")
            listed = subprocess.run([part / "bin/busybox", "--list"], stdout=subprocess.PIPE, text=True, check=True)
            for name in {*listed.stdout.split()} - {"busybox"}:
                (part / "bin" / name).symlink_to("busybox")
            part.rename(root)
    return root


def _make(root: Path, suite: str) -> None:
    _unpacked(root, suite, "minbase", "python3,python3-venv").rename(root)


def _unpacked(root: Path, suite: str, variant: str, packages: str) -> Path:
    """A folder beside the root with these packages of Debian's."""
    for program in ("mmdebstrap", "unshare"):
        if shutil.which(program) is None:
            pytest.skip(f"wheels: no {program}: apt-get install {program}")
    part = root.with_name(f"{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    make = ["mmdebstrap", "--quiet", f"--variant={variant}", f"--include={packages}", suite, str(part)]
    subprocess.run([*make, *filter(None, [mirror()])], check=True)
    return part


def enter(root: Path, work: Path, wheels: Path, model: str, *command: str) -> str:
    """Standard output of a command in the root, without a network. What it is given lies in /mnt."""
    inside = [*_INSIDE, "--net", "sh", "-ec", _ENTER, "sh", str(root), str(work), str(wheels), model, *command]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
