"""Ray's own processes on this machine: the head of a cluster, or a node that joins one."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from edgellm import settings
from edgellm.errors import RuntimeFailure, UsageError
from edgellm_ray import ledger, node, ray_library
from edgellm_ray.token import make_token, token_environment

PORT = 6379
# Ray passes tensors through shared memory; nothing here does. This is the least that it starts with.
_STORE_BYTES = 80 * 1024 * 1024
_START_S = 120.0
_STOP_S = 10.0


class NodeFailed(RuntimeFailure):
    """Ray did not start on this machine."""


def folder() -> Path:
    """Where Ray keeps logs and sockets: short, as the name of a socket may have 107 bytes, and of this home alone.

    Its name is drawn, so that nobody else can make it first, and kept in the data folder. Ray lets everybody write into
    the folder that it is given, so that one lies within.
    """
    path = _noted_folder()
    if path is None or not _is_for_us_alone(path):
        path = Path(tempfile.mkdtemp(prefix="edgellm-ray-"))
        _note("folder").write_text(str(path), "utf-8")
    return path / "ray"


def _noted_folder() -> Path | None:
    note = _note("folder")
    return Path(note.read_text("utf-8")) if note.exists() else None


def _is_for_us_alone(path: Path) -> bool:
    try:
        facts = path.lstat()
    except OSError:
        return False
    if os.name == "nt":
        return path.is_dir()
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o077


def start_head(host: str, port: int) -> None:
    """Start a cluster whose head this machine is. `host`: the address by which others join.

    Raises:
        BackendUnavailable: Ray is not installed. NodeFailed: it did not start.
    """
    make_token()
    without = ["--include-dashboard", "false", "--no-monitor"]  # the latter starts machines of a cloud
    _start(["--head", "--node-ip-address", host, "--port", str(port), *without])
    _note("address").write_text(f"{host}:{port}", "utf-8")
    _start_proxy(f"{host}:{port}")


def join(address: str) -> None:
    """Make this machine a node of the cluster whose head is at `address`, HOST:PORT.

    Raises:
        BackendUnavailable: Ray is not installed. NodeFailed: it did not start, or does not reach the head.
    """
    _start(["--address", address])
    _note("address").write_text(address, "utf-8")


def address() -> str:
    """HOST:PORT of the head of the cluster that this machine is in. Ray would take the last one that anybody started.

    Raises:
        UsageError: this machine is in none.
    """
    try:
        return _note("address").read_text("utf-8")
    except OSError:
        hint = "edgellm cluster up starts one, edgellm cluster join takes part in one, and --address names one"
        raise UsageError("this machine is in no cluster", hint=hint, param="address") from None


def _note(name: str) -> Path:
    """A file in which commands find what others did here."""
    path = settings.current().data_dir / "cluster" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def stop() -> int:
    """End what `start_head` and `join` started on this machine; how many processes that were."""
    ours = list(_processes())
    for process in ours:
        process.terminate()
    _, left = psutil.wait_procs(ours, timeout=_STOP_S)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=_STOP_S)
    _note("address").unlink(missing_ok=True)
    shutil.rmtree(ledger.folder(), ignore_errors=True)
    return len(ours)


def _start(arguments: list[str]) -> None:
    ray_library.require()
    # Zero processors, so that Ray keeps no idle workers ready: a replica takes a box, not a processor.
    fixed = {"--num-cpus": "0", "--object-store-memory": str(_STORE_BYTES), "--temp-dir": str(folder())}
    fixed |= {"--resources": json.dumps(node.resources())}
    fixed |= {"--include-log-monitor": "false"}  # nobody is told of other processes' lines; the files stay
    fixed |= {"--min-worker-port": "0", "--max-worker-port": "0"}  # any, so that none is that of the head
    command = [sys.executable, "-P", "-m", "edgellm_ray.lean", "start", "--disable-usage-stats", *arguments]
    command += [part for pair in fixed.items() for part in pair]
    try:
        done = subprocess.run(
            command, env=os.environ | token_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_START_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NodeFailed(f"Ray did not start within {_START_S:g} s", hint=f"logs: {folder()}") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = next((line for line in reversed(lines) if "Error" in line), (lines or ["no reason given"])[-1])
        raise NodeFailed(f"Ray did not start: {why}", hint=f"logs: {folder()}")


def _start_proxy(address: str) -> None:
    """While others join; nobody waits for it. `stop` finds it by the folder, which it has no other use for."""
    subprocess.Popen(
        [sys.executable, "-P", "-m", "edgellm_ray.proxy", address, str(folder())],
        env=os.environ | token_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def _processes() -> list[psutil.Process]:
    """Those of this user that were started with our folder. What they started leaves with them."""
    ours: list[psutil.Process] = []
    started_with = _noted_folder()
    if started_with is None:
        return ours
    mark = str(started_with)
    for process in psutil.process_iter(["cmdline", "username"]):
        command = process.info["cmdline"] or []
        if process.info["username"] == psutil.Process().username() and any(_is_below(part, mark) for part in command):
            ours.append(process)
    return ours


def _is_below(argument: str, folder: str) -> bool:
    """Whether an argument, as `--temp-dir=FOLDER/...`, names the folder or what lies in it."""
    _, marked, behind = argument.partition(folder)
    return bool(marked) and (not behind or behind[0] == "/")
