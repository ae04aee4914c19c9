"""The update module, called as Mender's client calls it: a state and a folder, in its order."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import bundles
from support.refusals import check_refusal

from edgellm.bundle.mender import update_module
from edgellm.bundle.slots import Slots
from edgellm.cli.main import cli
from edgellm.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script")

HERE = {"arch": platform.machine(), "os": platform.system().lower()}


@dataclass
class Client:
    """What Mender's client does with one artifact (its protocol 3, of 2025): the states, and where they lead."""

    module: Path
    folder: Path
    states: list[str]

    def call(self, state: str) -> subprocess.CompletedProcess[str]:
        self.states.append(state)
        command = [str(self.module), state, str(self.folder)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)

    def update(self, payload: Path, *, commits: bool = True, n_calls: int = 1) -> bool:
        """Whether the artifact is installed. `commits=False`: another module of the artifact fails then. `n_calls`: of
        installing, as after a loss of power."""
        (self.folder / "tmp").mkdir(parents=True)
        (self.folder / "files").mkdir()
        assert self.call("SupportsRollback").stdout == "Yes\n"
        assert self.call("Download").returncode == 0
        os.link(payload, self.folder / "files" / payload.name)
        is_installed = all(self.call("ArtifactInstall").returncode == 0 for _ in range(n_calls))
        if is_installed:
            assert self.call("NeedsArtifactReboot").stdout == "No\n"
            is_installed = commits and self.call("ArtifactCommit").returncode == 0
        if not is_installed:
            assert self.call("ArtifactRollback").returncode == 0
            assert self.call("ArtifactFailure").returncode == 0
        assert self.call("Cleanup").returncode == 0
        return is_installed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root of it's"


@pytest.fixture
def module(root: Path, tmp_path: Path) -> Path:
    (tmp_path / "key.pub").write_bytes(bytes(bundles.PUBLIC) + b"\n")
    # Not asked: the models of these bundles are none.
    program = tmp_path / "edgellm"
    skipped = 'case "$2" in activate) set -- "$@" --skip start ;; esac'
    program.write_text(f'#!/bin/sh\n{skipped}\nexec {sys.executable} -P -m edgellm "$@"\n')
    program.chmod(0o755)
    arguments = ["bundle", "mender", "--key", str(tmp_path / "key.pub"), "--root", str(root), "--edgellm", str(program)]
    result = CliRunner().invoke(cli, [*arguments, "-o", str(tmp_path / "module")])
    assert result.exception is None, result.output
    return tmp_path / "module"


def bundle(folder: Path, release: int, *, signed: bool = True) -> Path:
    path = folder / f"{release}.edgellm"
    bundles.make(path, bundles.contents(2000), targets=(bundles.target(**HERE),), release=release, signed=signed)
    return path


def released(root: Path) -> int:
    slot = Slots(root).current()
    return slot.record.release if slot and slot.record else 0


@pytest.mark.slow(25)
def test_it_installs_goes_back_and_refuses(module, root, tmp_path):
    clients = (Client(module, tmp_path / f"payload-{number}", []) for number in range(9))
    assert next(clients).update(bundle(tmp_path, 1))
    assert released(root) == 1

    one = next(clients)
    assert not one.update(bundle(tmp_path, 2), commits=False, n_calls=2)
    assert released(root) == 1
    assert one.states[-3:] == ["ArtifactRollback", "ArtifactFailure", "Cleanup"]

    assert not next(clients).update(bundle(tmp_path, 3, signed=False))
    assert released(root) == 1

    delta = tmp_path / "1-4.delta"
    arguments = ["bundle", "diff", str(tmp_path / "1.edgellm"), str(bundle(tmp_path, 4)), "-o", str(delta)]
    assert CliRunner().invoke(cli, arguments).exception is None
    assert next(clients).update(delta)
    assert released(root) == 4
    assert not list(root.glob(".mender*"))


def test_states_that_it_does_not_know_print_nothing(module, tmp_path):
    for state in ("ProvidePayloadFileSizes", "ArtifactVerifyReboot", "FutureState"):
        done = Client(module, tmp_path, []).call(state)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("names", [(), ("a", "b")])
def test_a_payload_is_one_file(names, module, tmp_path):
    for name in ("tmp", "files"):
        (tmp_path / "payload" / name).mkdir(parents=True)
    for name in names:
        (tmp_path / "payload" / "files" / name).touch()
    client = Client(module, tmp_path / "payload", [])

    assert client.call("ArtifactInstall").returncode == 2
    assert client.call("ArtifactRollback").returncode == 0


def test_what_was_served_is_kept_where_installing_is_called_again(module, root, tmp_path):
    for folder in (root, tmp_path / "payload" / "tmp", tmp_path / "payload" / "files"):
        folder.mkdir(parents=True)
    client = Client(module, tmp_path / "payload", [])
    for slot in "AB":
        (root / "current").unlink(missing_ok=True)
        (root / "current").symlink_to(slot)
        assert client.call("ArtifactInstall").returncode == 2

    assert (tmp_path / "payload" / "tmp" / "edgellm-before").read_text() == "A\n"


def test_nothing_is_installed_where_what_is_served_cannot_be_kept(module, root, tmp_path):
    for folder in (root, tmp_path / "payload" / "tmp" / "edgellm-before.new", tmp_path / "payload" / "files"):
        folder.mkdir(parents=True)
    done = Client(module, tmp_path / "payload", []).call("ArtifactInstall")

    assert done.returncode != 0
    assert "edgellm-before.new" in done.stderr
    assert "the payload" not in done.stderr, "it went on"


def test_a_value_that_looks_like_a_place_of_another_stays():
    key = "'; id; '@URL@"
    text = update_module(Path("/opt/@KEY@"), key, restart="@EDGELLM@", url="x")
    values = [shlex.quote(value) for value in ("/opt/@KEY@", key, "@EDGELLM@", "x")]

    assert "root={}\nkey={}\nrestart={}\nurl={}\n".format(*values) in text


def test_it_is_printed_and_its_values_are_quoted():
    key = bundles.PUBLIC.to_base64().decode()
    result = CliRunner().invoke(cli, ["bundle", "mender", "--key", key, "--root", "/a b/$(id)", "--restart", "x; y"])

    assert "root='/a b/$(id)'\n" in result.stdout
    assert f"key={key}\n" in result.stdout.replace("'", "")
    assert "restart='x; y'\n" in result.stdout


def test_a_key_is_asked_for():
    check_refusal(CliRunner().invoke(cli, ["bundle", "mender", "--key", "no"]).exception, UsageError, param="key")
