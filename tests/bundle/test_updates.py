"""Updates of a machine that serves: five bad ones are refused while it answers, a good one is served, and back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import pytest
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.app.bundle import activate, asked, install
from edgellm.app.bundle.activate import Service
from edgellm.app.bundle.create import create
from edgellm.app.bundle.gate import GateOptions
from edgellm.app.bundle.install import InstallOptions
from edgellm.bundle import reader, writer
from edgellm.bundle.layout import unpacked_at
from edgellm.bundle.manifest import Manifest
from edgellm.bundle.slots import Slots
from edgellm.bundle.writer import Content
from edgellm.errors import UnfitSlot
from edgellm.formats.gguf.reader import read_model
from edgellm.hardware import profiles
from edgellm.hardware.probe import probe
from edgellm.store.library import silent
from edgellm.types.options import SelectionOptions

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="serves from slots"),
    pytest.mark.timeout(1200),
]

Files = dict[str, bytes]
TEMPLATE = b"{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
PAUSE_S = 0.2


@dataclass
class Packed:
    """A bundle of the small ternary model for this machine, to be changed."""

    manifest: Manifest
    files: Files

    def write(self, path: Path, release: int, change: Callable[[Files, str], None] | None = None) -> Path:
        files = dict(self.files)
        (model,) = (name for name in files if name.endswith(".gguf"))
        if change is not None:
            change(files, model)
            record = f"{model.rpartition('/')[0]}/stored.json"
            stored = json.loads(files[record])
            digest = hashlib.sha256(files[model]).hexdigest()
            (row,) = stored["files"]
            row |= {"sha256": digest, "bytes": len(files[model]), "mtime_ns": unpacked_at(digest) * 10**9}
            files[record] = json.dumps(stored).encode()
        about = msgspec.structs.replace(self.manifest, release=release, files=())
        with open(path, "wb") as file:
            writer.write(file, about, [Content.of(name, data) for name, data in files.items()], None, silent)
        return path


# Figures; the last words of a process; and what is said of a machine that others keep busy.
VARIES = r"(?<=ended with status 4: ).*|(?<=hint: )(?:the machine is busy[^;]*; )?|\d[\d,.]*"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    pytest.importorskip("edgellm_bitnet")
    folder = tmp_path_factory.mktemp("packed")
    (folder / "here.toml").write_text(profiles.dump(probe()))
    options = asked.BundleOptions(
        name="toy", model="tiny-ternary", selection=SelectionOptions(slots="auto", ctx=256, threads=1)
    )
    made = create(str(folder / "here.toml"), folder / "x.edgellm", options)
    assert made.unrecorded == {}
    with reader.opened(made.path) as bundle:
        files = {entry.path: b"".join(pieces) for entry, pieces in bundle.files()}
    # How fast a machine that others use is, no plan says.
    changed_plan(files, lambda choice: choice["decode"].update(low=0.01))
    return Packed(made.manifest, files)


def changed_plan(files: Files, change: Callable[[dict[str, dict[str, float]]], None]) -> None:
    (path,) = (name for name in files if name.startswith("plans/"))
    plan = json.loads(files[path])
    change(plan["choice"])
    files[path] = json.dumps(plan).encode()


def wrong_weights(files: Files, model: str) -> None:
    """The two halves of the embedding table, which is the first tensor, in each other's place."""
    from edgellm_bitnet.models import TINY_TERNARY

    table, *_ = read_model(Path(TINY_TERNARY.files[0].source.removeprefix("file:"))).tensors
    data, begin, end = files[model], table.offset, table.offset + table.n_bytes
    middle = (begin + end) // 2
    files[model] = data[:begin] + data[middle:end] + data[begin:middle] + data[end:]


def broken_template(files: Files, model: str) -> None:
    broken = b"{{ messages[0]['nothing']['at all'] }}".ljust(len(TEMPLATE))
    files[model] = files[model].replace(TEMPLATE, broken)


def no_model(files: Files, model: str) -> None:
    files[model] = files[model][: len(files[model]) // 2]


def too_slow(files: Files, model: str) -> None:
    changed_plan(files, lambda choice: choice["decode"].update(low=1e9))


def too_large(files: Files, model: str) -> None:
    changed_plan(files, lambda choice: choice["memory"].update(resident_bytes=2**20))


BAD = {
    "answers": wrong_weights, "template": broken_template, "start": no_model, "speed": too_slow, "memory": too_large,
}  # fmt: skip


@dataclass
class Asking:
    """Asks a server five times a second, and counts what fails."""

    url: str
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client:
            while not self.stopped.wait(PAUSE_S):
                try:
                    reply = client.post("/v1/completions", json={"prompt": "Once upon a time", "max_tokens": 4})
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                self.answered += 1
                if reply.status_code != 200:
                    self.failures.append(reply.text)


@contextlib.contextmanager
def asking(url: str) -> Iterator[Asking]:
    one = Asking(url)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        yield one
    finally:
        one.stopped.set()
        thread.join(PATIENCE_S)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """What the link leads to, as a service would run it; its URL."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [root / "current" / "run", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: is_well(url))
            yield url
        finally:
            process.terminate()


def is_well(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health").status_code == 200
    return False


def put(path: Path, root: Path) -> str:
    return install.install(path, InstallOptions(root, unsigned=True, allow_older=True)).slot.name


@pytest.mark.slow(110)
def test_bad_updates_are_refused_while_it_answers_and_it_goes_back(packed, tmp_path):
    root = tmp_path / "root"
    activate.activate(root, put(packed.write(tmp_path / "1", 1), root))
    two = Slots(root)
    with serving(root) as url, asking(url) as clients:
        for release, (check, change) in enumerate(BAD.items(), 2):
            path = packed.write(tmp_path / "bad", release, change)
            with refuses(UnfitSlot, failed=(check,), varies=VARIES):
                activate.activate(root, put(path, root))
            assert two.current().record.release == 1, check
            assert is_well(url)
        done = activate.activate(root, put(packed.write(tmp_path / "7", 7), root))
        assert {check.state for check in done.checks} == {"passed"}
        assert two.current().record.release == 7
        n_before = clients.answered
        wait_until(lambda: clients.answered > n_before)
    assert (clients.failures, clients.answered > 0) == ([], True)

    with serving(root):
        pass
    assert install.roll_back(root).record.release == 1
    with serving(root) as url:
        assert httpx.post(f"{url}/v1/completions", json={"prompt": "Once", "max_tokens": 1}).status_code == 200
    put(packed.write(tmp_path / "0", 1), root)


RESTART = """
if [ -f {pid} ]; then kill "$(cat {pid})"; while kill -0 "$(cat {pid})" 2>/dev/null; do sleep 0.1; done; fi
{root}/current/run --port {port} >/dev/null 2>&1 </dev/null & echo $! >{pid}
"""


@pytest.mark.slow(60)
def test_what_fails_once_it_is_served_is_taken_back(packed, tmp_path):
    """Nobody asked it, and its model is none."""
    root, port, pid = tmp_path / "root", free_port(), tmp_path / "pid"
    script = tmp_path / "restart"
    script.write_text(RESTART.format(pid=pid, root=root, port=port))
    service = Service(f"sh {script}", f"http://127.0.0.1:{port}", deadline_s=PATIENCE_S, watch_s=1.0)
    unasked = GateOptions(frozenset({"start"}))
    try:
        activate.activate(root, put(packed.write(tmp_path / "1", 1), root), unasked, service)
        assert is_well(service.url)
        bad = put(packed.write(tmp_path / "2", 2, no_model), root)
        hasty = Service(service.restart, service.url, deadline_s=60.0, watch_s=1.0)
        with refuses(UnfitSlot, failed=("service",), varies=r"http://[\d.:]+"):
            activate.activate(root, bad, unasked, hasty)
        assert Slots(root).current().record.release == 1
        assert is_well(service.url)
    finally:
        subprocess.run(["sh", "-c", f"kill $(cat {pid})"], check=False)
