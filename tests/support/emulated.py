"""Programs that run on another processor, by qemu-user: wheels are installed for it, and nothing is compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from support.made_wheels import ROOT, folder, made

ENTER, MAKE_ROOT = (ROOT / "tests" / "arm64" / name for name in ("enter.sh", "root.sh"))
PYTHON = "3.13"  # of the arm64 root
WANTED = ("edgellm[gguf]", "edgellm-bitnet")


# Where there is no other network, this machine still reaches itself.
_ALONE = """
import fcntl, os, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, loopback, running
os.execvp(sys.argv[1], sys.argv[1:])
"""


def without_a_network(*command: str) -> list[str]:
    """The command, in a network of its own with nothing but 127.0.0.1."""
    return ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", _ALONE, *command]


def site_for_arm(target: Path) -> Path:
    """What the arm64 root's Python needs, unpacked by this machine's pip from the folder of wheels alone."""
    made("llama_cpp_python", "manylinux_2_28_aarch64")
    if not any(folder().glob(f"numpy-*-cp{PYTHON.replace('.', '')}-*aarch64.whl")):
        pytest.skip(f'wheels: {folder()} has not what they need (make wheels ARGS="--python {PYTHON}")')
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "--no-index"]
    command += ["--find-links", str(folder()), "--python-version", PYTHON, "--implementation", "cp"]
    command += ["--only-binary=:all:", "--ignore-requires-python", "--platform=manylinux2014_aarch64"]
    command += [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(31, 4, -1)]
    subprocess.run([*command, *WANTED], check=True)
    return target


@dataclass(frozen=True, slots=True)
class Processor:
    """One that qemu knows by its name; "" is this machine's own."""

    machine: str
    name: str

    def command(self, site: Path) -> list[str]:
        """What a Python program is started with."""
        if self.machine == "aarch64":
            for program in ("qemu-aarch64", "mmdebstrap", "unshare"):
                if shutil.which(program) is None:
                    pytest.skip(f"qemu: no {program}")
            subprocess.run([MAKE_ROOT], check=True, stdout=subprocess.DEVNULL)
            return [str(ENTER), "env", f"PYTHONPATH={site}", "python3"]
        if not self.name:
            return [sys.executable]
        if shutil.which("qemu-x86_64") is None:
            pytest.skip("qemu: no qemu-x86_64: apt-get install qemu-user")
        return ["qemu-x86_64", sys.executable]

    def logits(self, backend: str, model: str, target: Path, site: Path, **libraries: str) -> tuple[str, np.ndarray]:
        """The code that computed, and the logits of 200 tokens. `libraries`: environment variables that name them."""
        script = "tests/support/variant_logits.py"
        done = subprocess.run(
            [*self.command(site), script, backend, model, str(target)],
            cwd=ROOT, env={**os.environ, "QEMU_CPU": self.name, **libraries}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), np.load(target)
