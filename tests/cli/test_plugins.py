"""`edgellm plugins` as a person meets it: whole processes, real entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import fake_plugins

ROOT = Path(__file__).parents[2]
SHOUT = ROOT / "docs" / "examples" / "edgellm-shout"


@pytest.fixture
def edgellm(tmp_path: Path, knowing: Callable[[Path], Path]):
    """Runs `python -m edgellm` with the example plugin and `tmp_path` on its path."""
    knowing(tmp_path / "home")
    fake_plugins.declare(tmp_path, "shout", "edgellm_shout.plugin", "edgellm-shout", "0.1.0")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path), str(SHOUT), str(ROOT)])
        env = os.environ | {"PYTHONPATH": path, "EDGELLM_HOME": str(tmp_path / "home")} | environment
        command = [sys.executable, "-m", "edgellm", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path, check=False)

    return run


def test_the_example_plugin_needs_only_its_entry_point(edgellm) -> None:
    listed = json.loads(edgellm("plugins", "--json").stdout)
    row = next(row for row in listed["plugins"] if row["name"] == "shout")

    assert listed["schema"] == 1
    assert row == {
        "name": "shout",
        "status": "ok",
        "distribution": "edgellm-shout 0.1.0",
        "module": "edgellm_shout.plugin",
        "registers": ["backend shout", "command shout"],
        "error": "",
    }
    assert edgellm("shout", "hello").stdout == "HELLO\n"
    assert edgellm("run", "shout", "hello").stdout == "HELLO\n"
    assert "Say TEXT in capital letters." in edgellm("--help").stdout


def test_four_broken_plugins_are_rows_and_the_command_line_stays_up(tmp_path: Path, edgellm) -> None:
    fake_plugins.install(tmp_path, "raises", fake_plugins.RAISES)
    fake_plugins.install(tmp_path, "half", fake_plugins.BAD_BACKEND)
    fake_plugins.install(tmp_path, "typo", fake_plugins.TYPO)
    fake_plugins.install(tmp_path, "taken", fake_plugins.TAKES_SERVE)
    fake_plugins.declare(tmp_path, "shout", "fake_raises", "edgellm-zzz-second")
    done = edgellm("plugins", "--json")
    errors = {row["name"]: row["error"] for row in json.loads(done.stdout)["plugins"] if row["error"]}

    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert errors["raises"] == f"RuntimeError: its library is gone ({tmp_path}/fake_raises.py, line 1)"
    assert "is not a backend: it lacks formats" in errors["half"]
    assert "unknown hook 'register_backend'" in errors["typo"]
    assert "command name 'serve' is already taken by plugin commands (built in)" in errors["taken"]
    assert "name 'shout' is already taken" in str(errors)
    assert edgellm("shout", "hello").stdout == "HELLO\n"
    assert edgellm("--help").returncode == 0
    assert "its library is gone" in edgellm("plugins").stdout


WRONG_THINGS = """
from edgellm.contract.hookspecs import hookimpl
from edgellm.types.model import ModelCard

class Bucket:
    scheme = "s3"

@hookimpl
def {hook}(register):
    register({things})
"""
CARD = 'ModelCard("Not Lower", "llama", "chat", "mit", 8192, 1, 1, None)'


WRONG = {
    "sources": ('"s3", Bucket()', "is not a model source: it lacks reachable, needs, fetch, discard"),
    "rules": ("lambda options: None", "it takes (options), but is called with (options, scenario)"),
    "models": (CARD, "catalog row 'Not Lower': id must be lower case without spaces"),
    "quants": ('"Q9"', "'Q9' is not a Quant"),
}


def test_what_cannot_be_registered_is_an_error_of_its_plugin(tmp_path: Path, edgellm) -> None:
    for kind, (things, _) in WRONG.items():
        source = WRONG_THINGS.format(hook=f"register_{kind}", things=things)
        fake_plugins.install(tmp_path, f"wrong-{kind}", source, module=f"wrong_{kind}")
    allowed = ",".join(f"wrong-{kind}" for kind in WRONG)
    listed = json.loads(edgellm("plugins", "--json", EDGELLM_PLUGINS=allowed).stdout)
    rows = {row["name"]: row for row in listed["plugins"]}

    for kind, (_, reason) in WRONG.items():
        row = rows[f"wrong-{kind}"]
        assert row["status"] == "error"
        assert reason in row["error"]
        assert row["error"].endswith(f"({tmp_path}/wrong_{kind}.py, line 10)")


TALKS = """
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl

print("imported")


class Talks(EchoBackend):
    name = "talks"

    def describe(self):
        return 3


@hookimpl
def register_backends(register):
    print("called")
    register(Talks())
"""


def test_what_a_plugin_prints_is_not_in_the_output_and_what_it_describes_is_checked(tmp_path: Path, edgellm) -> None:
    fake_plugins.install(tmp_path, "talks", TALKS)
    done = edgellm("plugins", "--json")
    (row,) = (row for row in json.loads(done.stdout)["plugins"] if row["name"] == "talks")

    assert row["error"] == "backend talks: describe() gives 3, a dict of texts is expected"
    assert done.stderr.startswith("imported\ncalled\n")


TUNES = """
from edgellm.contract.hookspecs import hookimpl

class Tunes:
    name, methods = "tunes", frozenset({"lora"})
    def missing(self): raise KeyError("torch")
    def supports(self, base): ...
    def footprint(self, base, settings, size): ...
    def rate(self, base, settings, machine): ...
    def open(self, base, settings): ...

@hookimpl
def register_tuners(register):
    register(Tunes())
"""


def test_a_tuner_that_fails_is_an_error_of_its_plugin(tmp_path: Path, edgellm) -> None:
    fake_plugins.install(tmp_path, "tunes", TUNES)
    rows = {row["name"]: row for row in json.loads(edgellm("plugins", "--json").stdout)["plugins"]}

    told = f"tuner tunes: missing() failed: KeyError: 'torch' ({tmp_path}/fake_tunes.py, line 6)"
    assert rows["tunes"]["error"] == told


PRINTS = """
import os
import subprocess
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl


def tell(what):
    print(what)
    os.write(1, b"by its number\\n")
    subprocess.run(["echo", "of a program"])


class Prints(EchoBackend):
    name = "prints"

    def check(self, machine):
        tell("checked")
        return []

    def describe(self):
        tell("described")
        return {}


tell("imported")


@hookimpl
def register_backends(register):
    register(Prints())
"""


def test_what_a_plugin_prints_in_any_way_stands_beside_the_one_object(tmp_path: Path, edgellm) -> None:
    fake_plugins.install(tmp_path, "prints", PRINTS)
    done = edgellm("plugins", "--json")

    assert {row["name"]: row["error"] for row in json.loads(done.stdout)["plugins"]}["prints"] == ""
    for told in ("imported", "checked", "described", "by its number", "of a program"):
        assert told in done.stderr
    assert json.loads(edgellm("auto-select", "--json").stdout)["schema"]


def test_the_allow_list_is_read_from_the_environment(edgellm) -> None:
    rows = json.loads(edgellm("plugins", "--json", EDGELLM_PLUGINS="gguf").stdout)["plugins"]

    assert {row["name"]: row["status"] for row in rows}["shout"] == "off"
    assert edgellm("shout", "hello", EDGELLM_PLUGINS="").returncode == 2


def test_where_a_plugin_failed_each_choice_says_that_its_rules_were_not_asked(tmp_path: Path, edgellm) -> None:
    """Also of what chooses without showing a plan, and beside the one JSON object."""
    source = f"{fake_plugins.LIGHT_BACKEND}\n@hookimpl\ndef register_backends(register):\n    register(Light())\n"
    fake_plugins.install(tmp_path, "planner", source)
    fake_plugins.install(tmp_path, "bad", fake_plugins.RAISES)
    profile = ("--profile", "raspberry-pi-5-8gb")
    only, both = {"EDGELLM_PLUGINS": "planner", "COLUMNS": "300"}, {"EDGELLM_PLUGINS": "planner,bad", "COLUMNS": "300"}
    sound = json.loads(edgellm("auto-select", *profile, "--json", **only).stdout)
    told = json.loads(edgellm("auto-select", *profile, "--json", **both).stdout)

    assert told["reasons_facts"][0] == {
        "kind": "rules_unasked",
        "plugin": "bad",
        "distribution": "edgellm-bad 1.0",
        "error": f"RuntimeError: its library is gone ({tmp_path}/fake_bad.py, line 1)",
    }
    assert told | {"reasons": told["reasons"][1:], "reasons_facts": told["reasons_facts"][1:]} == sound
    assert told["reasons"][0] in edgellm("auto-select", *profile, **both).stdout
    for arguments in (("models", "--fits", *profile, "--json"), ("estimate", "qwen3-0.6b", *profile, "--json")):
        done = edgellm(*arguments, **both)
        assert done.stderr.strip() == told["reasons"][0]
        assert edgellm(*arguments, **only).stdout == done.stdout


def test_a_command_of_a_plugin_that_failed_is_told_with_its_name(tmp_path: Path, edgellm) -> None:
    fake_plugins.install(tmp_path, "bad", fake_plugins.RAISES)
    done = edgellm("hello")

    assert done.returncode == 2
    assert "plugin bad, which failed, may bring it (see `edgellm plugins`)" in done.stderr


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("", "ModuleNotFoundError: No module named 'fake_gone'"),
        ("print('on standard output')\nraise OSError('no library')", "OSError: no library"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
    ids=["nowhere", "raises", "ends"],
)
def test_a_lazy_command_that_cannot_be_had_is_an_error_of_its_plugin(
    module: str, told: str, tmp_path: Path, edgellm
) -> None:
    if module:
        (tmp_path / "fake_gone.py").write_text(module, "utf-8")
    source = """
from edgellm.contract.command import LazyCommand
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_commands(register):
    register(LazyCommand("gone", "It is gone.", "fake_gone"))
"""
    fake_plugins.install(tmp_path, "lazy", source)
    rows = json.loads(edgellm("plugins", "--json", EDGELLM_PLUGINS="lazy").stdout)["plugins"]

    (error,) = (row["error"] for row in rows if row["name"] == "lazy")
    assert error.startswith(f"command gone: {told}")
