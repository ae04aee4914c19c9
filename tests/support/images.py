"""Small roots and wheels to make images of, and what is in the layers of one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

from edgellm.formats.oci.layout import Descriptor, ImageManifest, Layout

STATUS = """Package: python3-tiny
Status: install ok installed
Architecture: amd64
Version: 3.13.5-2

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
COPYRIGHT = b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: PSF-2\n"
LIBC = b"\x7fELF GNU C Library (Debian GLIBC 2.41-12) stable release version 2.41.\n"
ELF = b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little")  # of x86-64


def root(folder: Path, *, debian: bool = True, elf: bytes = ELF) -> Path:
    """What `edgellm image create` asks of a root, and nothing that runs."""
    files = {
        "usr/bin/python3.13": elf,
        "usr/lib/x86_64-linux-gnu/libc.so.6": LIBC,
        "usr/lib/python3/tiny.py": b"tiny = 1\n",
        "usr/lib/python3/__pycache__/tiny.cpython-313.pyc": b"\x00",
        "etc/hostname": b"box\n",
    }
    if debian:
        files |= {
            "var/lib/dpkg/status": STATUS.encode(),
            "var/lib/dpkg/info/python3-tiny.list": b"/.\n/usr/bin/python3.13\n/usr/lib/python3/tiny.py\n",
            "var/lib/dpkg/info/libc6:amd64.list": b"/lib/x86_64-linux-gnu/libc.so.6\n",
            "usr/share/doc/python3-tiny/copyright": COPYRIGHT,
            "usr/share/doc/base/copyright": b"This is prose.\n",
        }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "usr/bin/python3").symlink_to("python3.13")
    (folder / "lib").symlink_to("usr/lib")
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_bytes(b"of the host\n")
    if debian:
        (folder / "usr/share/doc/libc6").symlink_to("base")
    return folder


def for_arm(folder: Path) -> None:
    """Make a root one for 64-bit Arm."""
    (folder / "usr/bin/python3.13").write_bytes(ELF[:18] + (183).to_bytes(2, "little"))
    (folder / "usr/lib/x86_64-linux-gnu").rename(folder / "usr/lib/aarch64-linux-gnu")


def wheel(
    folder: Path, name: str, version: str = "1.0", *, files: dict[str, bytes] | None = None, record: str = ""
) -> Path:
    """A wheel that can be installed, with a program of its name. `record`: lines for its list of files."""
    folder.mkdir(exist_ok=True)
    module, path = name.replace("-", "_"), folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{module}-{version}.dist-info"
    told = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
    contents = {
        f"{module}/__init__.py": b"def main(): ...\n",
        f"{info}/METADATA": told.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {module}:main\n".encode(),
        **(files or {}),
    }
    lines = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in contents.items())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**contents, f"{info}/RECORD": f"{lines}{info}/RECORD,,\n{record}".encode()}.items():
            archive.writestr(member, data)
    return path


def _digest(data: bytes) -> str:
    return urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def wheels(folder: Path) -> Path:
    for name in ("edgellm", "edgellm-gguf"):
        wheel(folder, name)
    return folder


def row_of(layout: Path) -> Descriptor:
    (row,) = Layout(layout).index().manifests
    return row


def manifest_of(layout: Path) -> ImageManifest:
    return Layout(layout).manifest(row_of(layout))


def config_of(layout: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(Layout(layout).read(manifest_of(layout).config))
    return config


def members(layout: Path, no: int) -> dict[str, tarfile.TarInfo]:
    """What is in a layer."""
    with tarfile.open(Layout(layout).blob(manifest_of(layout).layers[no]), "r:") as archive:
        return {member.name: member for member in archive}


# Mounts and enters: $1 is the root, $2 the user, then the command. Nothing of the root can be written but the volumes.
_ENTER = r"""
root=$1 user=$2; shift 2
ip link set lo up
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for volume in $VOLUMES; do mount -t tmpfs -o "mode=0700,uid=$user,gid=$user" tmpfs "$root$volume"; done
mount -o remount,ro,bind "$root"
exec chroot --userspec="$user:$user" "$root" /usr/bin/env -i $VARIABLES "$@"
"""


def run(root: Path, config: dict[str, Any], user: int, *command: str) -> str:
    """Standard output of a command in an unpacked image, as its config has it: read-only, without a network of others.

    Root enters, as container tools do; the command itself is an ordinary user's.
    """
    runs = config["config"]
    inside = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-ec", _ENTER, "sh"]
    variables = {"VOLUMES": " ".join(runs["Volumes"]), "VARIABLES": " ".join(runs["Env"])}
    done = subprocess.run(
        [*inside, str(root), str(user), *command], capture_output=True, text=True, check=False,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unpacked(layout: Path, folder: Path) -> Path:
    """All layers, over one another."""
    for layer in manifest_of(layout).layers:
        with tarfile.open(Layout(layout).blob(layer), "r:") as archive:
            archive.extractall(folder, filter="tar")
    return folder
