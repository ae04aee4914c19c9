"""Writes plugins that pip never saw: a module and a dist-info on `sys.path` are all that an entry point is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import edgellm

ROOT = str(Path(edgellm.__file__).parents[1])  # the code of these tests, where another is installed


def install(folder: Path, name: str, source: str, *, distribution: str = "", module: str = "") -> Path:
    """Make plugin `name` importable from `folder`; its module holds `source`."""
    module = module or f"fake_{name}"
    (folder / f"{module}.py").write_text(source)
    declare(folder, name, module, distribution or f"edgellm-{name}")
    return folder


def declare(folder: Path, name: str, module: str, distribution: str, version: str = "1.0", *groups: str) -> None:
    """The dist-info of a distribution with the entry point `name = module` in each of `groups`, or in `edgellm.v1`."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    entries = [f"[{group}]\n{name} = {module}\n" for group in groups or ("edgellm.v1",)]
    (info / "entry_points.txt").write_text("".join(entries))


RAISES = 'raise RuntimeError("its library is gone")'

EXITS = "import sys\nsys.exit(3)"

TYPO = """
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_backend(register): ...
"""

WRONG_ARGUMENT = """
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_backends(registry): ...
"""

BAD_BACKEND = """
from edgellm.contract.hookspecs import hookimpl

class Half:
    name = "half"

@hookimpl
def register_backends(register):
    register(Half())
"""

TAKES_ECHO = """
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_backends(register):
    register(EchoBackend())
"""

COMMAND = """
import click
from edgellm.contract.hookspecs import hookimpl

@click.command()
def hello():
    "Say hello."
    click.echo("hello from a plugin")

@hookimpl
def register_commands(register):
    register(hello)
"""

TAKES_SERVE = COMMAND.replace("def hello", "def serve").replace("register(hello)", "register(serve)")

EXITS_IN_HOOK = """
import sys
from edgellm.contract.hookspecs import hookimpl

@hookimpl
def register_commands(register):
    sys.exit(3)
"""

# A backend that opens GGUF files by its word only: it can be planned for. Followed by what registers it, or a subclass.
LIGHT_BACKEND = """
from edgellm.errors import BackendUnavailable
from edgellm.contract.hookspecs import hookimpl

class Light:
    name = "gguf"
    formats = frozenset({"gguf"})
    quants = None
    def check(self, machine): return []
    def supports(self, artifact): return []
    def footprint(self, artifact, settings): return None
    def open(self, plan): raise BackendUnavailable("this backend runs no model")
    def describe(self): return {"library": "none"}
"""


def run_edgellm(
    home: Path, plugin: str, cwd: Path, *arguments: str, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m edgellm` with nothing but echo and that plugin of `home`."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(home), ROOT]), "EDGELLM_HOME": str(home),
        "EDGELLM_PLUGINS": plugin, "COLUMNS": "120",
    } | environment  # fmt: skip
    command = [sys.executable, "-m", "edgellm", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == code, done.stderr
    return done
