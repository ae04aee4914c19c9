"""A slot is served once it did what its bundle says, and the other one goes on where it did not."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from support import bundles
from support.refusals import check_refusal, refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.app.bundle import activate, gate, install, serving
from edgellm.app.bundle.activate import Service
from edgellm.app.bundle.gate import GateOptions
from edgellm.app.bundle.install import InstallOptions
from edgellm.app.bundle.trial import last_lines
from edgellm.bundle.slots import Slots
from edgellm.bundle.writer import Content
from edgellm.cli.main import cli
from edgellm.errors import BadArtifact, UnfitSlot, UnsupportedArtifact, UsageError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links of a POSIX system")

HERE = {"arch": platform.machine(), "os": platform.system().lower()}
UNASKED = GateOptions(frozenset({"start"}))


def put(folder: Path, release: int, plan: bytes = b"{}\n", run: str = "") -> str:
    """Install a bundle into the spare slot of `folder / "root"`; its name."""
    files = [content for content in bundles.contents(1000) if not content.path.startswith("plans/")]
    path = folder / f"{release}.edgellm"
    target = bundles.target(**HERE)
    bundles.make(path, [*files, Content.of(target.plan, plan)], targets=(target,), release=release)
    slot = install.install(path, InstallOptions(folder / "root", bundles.PUBLIC)).slot
    if run:
        (slot.folder / "run").write_text(f"#!/bin/sh\n{run}\n")
        Slots(folder / "root").finish(slot, slot.record)  # as if it had been installed with that
    return slot.name


@pytest.fixture
def served(tmp_path: Path) -> Slots:
    """Slots of which A is served."""
    activate.activate(tmp_path / "root", put(tmp_path, 1), UNASKED)
    return Slots(tmp_path / "root")


def test_one_that_does_not_start_is_not_served(served, tmp_path):
    name = put(tmp_path, 2, run="echo 'no weights' >&2; exit 3")

    with refuses(UnfitSlot, failed=("start",)):
        activate.activate(served.root, name)
    assert served.current().name == "A"


def test_what_is_not_ready_is_told_without_its_plan(served, tmp_path):
    name = put(tmp_path, 2, run="echo 'Cache: f16, as asked.' >&2; exec sleep 600")

    with refuses(UnfitSlot, failed=("start",)):
        activate.activate(served.root, name, GateOptions(deadline_s=1.0))


def test_what_failed_is_told_with_values(served, tmp_path):
    name = put(tmp_path, 2, json.dumps(plan(2**50)).encode())
    result = CliRunner().invoke(cli, ["bundle", "activate", name, "--root", str(served.root), "--json"])

    check_refusal(result.exception, UnfitSlot, failed=("memory",))
    told = json.loads(result.stdout)
    (check,) = told["checks"]
    assert (told["activated"], check["name"], check["state"], check["bound"]) == (False, "memory", "failed", 2**50)
    assert 0 < check["value"] < 2**50
    assert result.exception.exit_code == 7


def plan(needed_bytes: int) -> dict[str, Any]:
    memory = {"resident_bytes": needed_bytes, "needed_bytes": needed_bytes}
    return {"choice": {"memory": memory, "decode": {"low": 1.0}}}


@pytest.mark.parametrize("text", [b"", b"[" * 10**5, b'{"choice": 3}', b'{"choice":{"memory":{"resident_bytes":-1}}}'])
def test_a_plan_that_cannot_be_read_is_refused(text, served, tmp_path):
    with refuses(BadArtifact):
        activate.activate(served.root, put(tmp_path, 2, text))
    assert served.current().name == "A"


def test_what_is_skipped_is_said(served, tmp_path):
    arguments = ["bundle", "activate", put(tmp_path, 2), "--root", str(served.root), "--skip", "start"]
    result = CliRunner().invoke(cli, arguments)

    assert result.exception is None, result.output
    assert all(f"Not checked: {name}" in result.stderr for name in ("start", "template", "answers", "speed", "memory"))
    assert served.current().name == "B"


def test_what_is_served_already_is_not_asked_again(served):
    assert activate.activate(served.root, "A").checks == ()


def test_the_old_one_is_served_again_where_the_service_fails(served, tmp_path):
    """Restarting fails with both, so that it is tried with both."""
    name, log = put(tmp_path, 2), tmp_path / "log"
    script = tmp_path / "restart"
    script.write_text(f"readlink {served.root}/current >> {log}\nexit 1\n")

    with refuses(UnfitSlot, failed=("service",)):
        activate.activate(served.root, name, UNASKED, Service(f"sh {script}"))
    assert log.read_text().split() == ["B", "A"]
    assert served.current().name == "A"
    assert not served.has_served(served.slot(name))


def marks(slots: Slots) -> list[str]:
    """Of slots that are not proven, or that nobody goes back to."""
    return sorted(str(path.relative_to(slots.root)) for path in slots.root.glob("[AB]/un*"))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are told there")
def test_a_restart_that_fails_is_told_as_that_where_what_was_served_goes_on(served, tmp_path):
    activate.activate(served.root, name := put(tmp_path, 2), UNASKED)
    install.roll_back(served.root)
    with well(served.root / "A" / "home") as url, refuses(UnfitSlot, failed=("service",), varies=r"http://[\d.:]+"):
        activate.activate(served.root, name, UNASKED, Service("false", url))

    assert (served.current().name, marks(served)) == ("A", [])
    assert served.has_served(served.slot(name))


@pytest.mark.parametrize("restart", [" ", "systemctl 'restart"])
def test_what_is_no_command_is_refused_before_anything_is_changed(restart, served, tmp_path):
    with refuses(UsageError, param="restart"):
        activate.activate(served.root, put(tmp_path, 2), UNASKED, Service(restart))
    assert served.current().name == "A"


# A service that is always well, at the socket that it inherits.
WELL = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as listener:
    while True:
        with listener.accept()[0] as one:
            one.recv(65536)
            one.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""


@contextlib.contextmanager
def well(*homes: Path | None) -> Iterator[str]:
    """The URL of a service that processes of all these homes serve, or one without."""
    with contextlib.ExitStack() as ended, socket.create_server(("127.0.0.1", 0)) as listener:
        for home in homes:
            env = os.environ | ({"EDGELLM_HOME": str(home)} if home else {})
            command = [sys.executable, "-c", WELL, str(listener.fileno())]
            process = ended.enter_context(subprocess.Popen(command, env=env, pass_fds=[listener.fileno()]))
            ended.callback(process.kill)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.close()  # theirs alone
        yield url


RESTART = """
readlink {root}/current >>{log}
[ "$(readlink {root}/current)" = A ] || while [ ! -e {folder}/goes-on ]; do sleep 0.1; done
exit "$(cat {folder}/status)"
"""


@dataclass
class Restarts:
    """A service that does not come back from starting anew with slot B, until it is let; the slots that it saw."""

    folder: Path
    log: Path
    service: Service
    told: str = ""  # by an `activate` that got a signal

    def seen(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def let_go(self, status: int = 0) -> None:
        (self.folder / "status").write_text(str(status))
        (self.folder / "goes-on").touch()


@pytest.fixture
def restarts(served: Slots, tmp_path: Path) -> Iterator[Restarts]:
    script, log = tmp_path / "restart", tmp_path / "log"
    script.write_text(RESTART.format(root=served.root, log=log, folder=tmp_path))
    (tmp_path / "status").write_text("0")
    with well(*(served.root / name / "home" for name in "AB")) as url:
        one = Restarts(tmp_path, log, Service(f"sh {script}", url, deadline_s=PATIENCE_S, watch_s=0.0))
        yield one
        one.let_go()  # what a killed process left behind


def ended(name: str, root: Path, restarts: Restarts, number: int) -> int:
    """The exit code of an `activate` that got a signal while the service was started anew."""
    command = [sys.executable, "-P", "-m", "edgellm", "bundle", "activate", name, "--root", root, "--skip", "start"]
    command += ["--restart", restarts.service.restart, "--url", restarts.service.url, "--watch", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_until(lambda: restarts.seen() == [name])
        process.send_signal(number)
        restarts.told = " ".join(process.communicate()[1].decode().split())
        return process.returncode


def test_an_activation_that_was_killed_is_not_told_as_done(served, restarts, tmp_path):
    name = put(tmp_path, 2)
    assert ended(name, served.root, restarts, signal.SIGKILL) == -signal.SIGKILL
    assert served.current().name == "B"

    restarts.let_go()
    for _ in range(2):
        assert activate.activate(served.root, name, UNASKED, restarts.service).checks == ()
    assert restarts.seen() == ["B", "B"]
    assert served.current().name == "B"


@pytest.mark.parametrize("replaced", [False, True])
def test_one_that_was_killed_goes_back_when_it_is_repeated(replaced, served, restarts, tmp_path):
    """To what was served before, and to nothing that was installed in its place since."""
    name = put(tmp_path, 2)
    ended(name, served.root, restarts, signal.SIGKILL)
    if replaced:
        assert put(tmp_path, 3) == "A"
    restarts.let_go(1)

    with refuses(UnfitSlot, failed=("service",)):
        activate.activate(served.root, name, UNASKED, restarts.service)
    assert restarts.seen() == (["B", "B"] if replaced else ["B", "B", "A"])
    assert served.current().name == ("B" if replaced else "A")


def test_one_that_is_told_to_end_goes_back_first(served, restarts, tmp_path):
    assert ended(put(tmp_path, 2), served.root, restarts, signal.SIGTERM) == 128 + signal.SIGTERM

    assert "Told to end before slot B was seen well: slot A is served again." in restarts.told
    assert (restarts.seen(), served.current().name) == (["B", "A"], "A")
    assert not served.has_served(served.slot("B"))
    assert activate.activate(served.root, "A", UNASKED, restarts.service).checks == ()
    assert restarts.seen() == ["B", "A"]


def test_what_was_rolled_back_by_hand_is_not_taken_over_again(served, restarts, tmp_path):
    name = put(tmp_path, 2)
    ended(name, served.root, restarts, signal.SIGKILL)
    for _ in range(2):
        install.roll_back(served.root)
    restarts.let_go()

    activate.activate(served.root, name, UNASKED, restarts.service)
    assert restarts.seen() == ["B"]


@pytest.mark.skipif(sys.platform != "linux", reason="environments of processes")
def test_a_service_that_answers_elsewhere_is_named_before_anything_is_changed(served, restarts, tmp_path):
    name = put(tmp_path, 2)
    with socket.create_server(("127.0.0.1", 0)) as one:
        unheard = f"http://127.0.0.1:{one.getsockname()[1]}"
    service = replace(restarts.service, url=unheard)
    with refuses(UsageError, param="url", varies=r"(?<=port )\d+|(?<=127.0.0.1:)\d+") as caught:
        activate.activate(served.root, name, UNASKED, service)
    assert caught.value.hint.endswith(f"--url {restarts.service.url}")
    assert (restarts.seen(), served.current().name) == ([], "A")


@pytest.mark.skipif(sys.platform != "linux", reason="environments of processes")
@pytest.mark.parametrize("answering", ["A", ""])
def test_what_answers_and_does_not_serve_the_slot_is_not_taken_for_it(answering, served, restarts, tmp_path):
    """Nothing was started anew, or something else answers at the URL; it is known before where the slot is served."""
    name = put(tmp_path, 2)
    with well(served.root / "A" / "home" if answering else None) as url:
        service = replace(restarts.service, restart="true", url=url, deadline_s=1.0)
        error, told = (UnfitSlot, {"failed": ("service",)}) if answering else (UsageError, {"param": "url"})
        with refuses(error, varies=r"(?<=process )\d+|(?<=port )\d+|(?<=127.0.0.1:)\d+|python[\d.]*", **told):
            activate.activate(served.root, name, UNASKED, service)
    assert served.current().name == "A"


@pytest.mark.skipif(sys.platform != "linux", reason="environments of processes")
def test_who_listens_is_a_stranger_where_no_slot_listens(served, restarts):
    two, port = served.all(), urlsplit(restarts.service.url).port
    with well(None) as url:
        assert serving.stranger(two, urlsplit(url).port).endswith(")")
    assert [serving.stranger([slot], port) for slot in two] == ["", ""]
    with socket.create_server(("127.0.0.1", 0)) as one:
        unheard = one.getsockname()[1]
    assert serving.stranger(two, unheard) == "", "nobody does"


LISTENS = """
import socket, time
with socket.create_server(("127.0.0.1", 0)) as one:
    print(one.getsockname()[1], flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="a process of another user")
def test_what_others_say_that_they_serve_does_not_count(served):
    """Whom the slots belong to may serve them; nobody else's process is believed."""
    env = os.environ | {"EDGELLM_HOME": str(served.root / "A" / "home")}
    command = ["/usr/bin/env", "python3", "-c", LISTENS]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, user=65534) as process:
        port = int(process.stdout.readline())
        unheard = serving.ports(served.current())
        assert serving.stranger([served.current()], port) == "", "it may be a user of the service's own"
        os.chown(served.root, 65534, -1)
        heard = serving.ports(served.current())
        process.kill()
    assert (unheard, heard) == ([], [port])


def test_what_is_served_is_not_spoken_of_where_nothing_is(tmp_path):
    name = put(tmp_path, 1, run="exit 3")

    with refuses(UnfitSlot, failed=("start",)):
        activate.activate(tmp_path / "root", name)
    with refuses(UnsupportedArtifact):
        install.roll_back(tmp_path / "root")
    assert Slots(tmp_path / "root").current() is None


def test_nobody_goes_back_to_what_the_gate_refused(served, tmp_path):
    name = put(tmp_path, 2, run="exit 3")
    releases = (served.root / "releases.json").read_text()
    for _ in range(2):
        with refuses(UnsupportedArtifact):  # before it was asked, and after
            install.roll_back(served.root)
        with refuses(UnfitSlot, failed=("start",)):
            activate.activate(served.root, name)
    assert (served.current().name, (served.root / "releases.json").read_text()) == ("A", releases)


def test_what_has_served_and_fails_now_is_not_gone_back_to(served, tmp_path):
    """It is activated on purpose only."""
    activate.activate(served.root, put(tmp_path, 2, run="exit 3"), UNASKED)
    assert install.roll_back(served.root).name == "A"
    assert served.has_served(served.slot("B"))

    with refuses(UnfitSlot, failed=("start",)):
        activate.activate(served.root, "B")
    with refuses(UnsupportedArtifact):
        install.roll_back(served.root)
    activate.activate(served.root, "B", UNASKED)
    for name in "AB":
        assert install.roll_back(served.root).name == name


def test_what_had_no_room_to_be_asked_is_still_gone_back_to(served, tmp_path):
    activate.activate(served.root, put(tmp_path, 2, json.dumps(plan(2**50)).encode()), UNASKED)
    install.roll_back(served.root)

    with refuses(UnfitSlot, failed=("memory",), varies=r"(?!)"):
        activate.activate(served.root, "B")
    assert install.roll_back(served.root).name == "B"


@pytest.mark.parametrize(("failed", "load"), [(["speed"], 8.0), (["speed"], None), (["start"], 8.0)])
def test_a_busy_machine_is_named_where_it_is_too_slow(failed, load):
    hint = gate.remedy(failed, load, 2, is_first=False)

    assert ("a load of 8.0 on 2 processors" in hint) == (failed == ["speed"] and load is not None)
    assert f"what is served goes on; --skip {failed[0]} " in hint


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("loads\n\nerror: no\n  hint: why \n", "loads error: no hint: why"),
        (f"loads {'x' * 600}\nerror: no\nhint: why\n", "error: no hint: why"),
        (f"loads\nerror: {'x' * 600}\n", f"error: {'x' * 593}"),
        ("", ""),
    ],
)
def test_an_error_is_told_from_its_beginning_on(written, told):
    assert last_lines(written) == told


@pytest.mark.parametrize("url", ["here", "ftp://127.0.0.1", "http://", "http://[", "http://x:y"])
def test_what_is_no_url_is_refused_before_anything_is_asked(url, served, tmp_path):
    name = put(tmp_path, 2)

    with refuses(UsageError, param="url"):
        activate.activate(served.root, name, UNASKED, Service("true", url))
    assert served.current().name == "A"


def test_a_url_is_of_a_service_that_is_started(served):
    arguments = ["bundle", "activate", "A", "--root", str(served.root), "--url", "http://127.0.0.1:1"]

    check_refusal(CliRunner().invoke(cli, arguments).exception, UsageError, param="url")
