"""The Python that helper processes run in, and the command that runs a module of ours in it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence

from edgellm import settings
from edgellm.contract.confine import HELPER
from edgellm.errors import UsageError
from edgellm.files import expanded

# Of programs that are Python: no uwsgi_python3.
_PYTHON = re.compile(r"(^|[.-])(python|pypy|graalpy)", re.IGNORECASE)


def interpreter() -> str:
    """The Python that helpers run in: EDGELLM_PYTHON, or the one that runs.

    Raises:
        UsageError: what runs is no Python. A frozen app that is started in its place would load its model again, and
            start itself again for that, without an end.
    """
    hint = "set EDGELLM_PYTHON to the path of a Python that has edgellm, before a model is loaded"
    if (module := os.environ.get(HELPER)) and not _runs(module):
        what = f"this process was started to run {module}, and runs something else: what started it took it for Python"
        raise UsageError(what, hint=hint)
    if named := settings.current().python:
        if (path := shutil.which(str(expanded(named)))) is None:
            raise UsageError(f"EDGELLM_PYTHON={named!r} is no program that can be run", hint=hint)
        return path
    program = sys.executable or ""
    # Nuitka's mark in what it compiled; the others set `sys.frozen`.
    is_app = hasattr(sys, "frozen") or getattr(globals().get("__compiled__"), "standalone", False)
    if is_app or not _PYTHON.search(os.path.basename(program)):
        what = "a frozen app" if is_app else "no Python"
        raise UsageError(f"models run in helper processes of Python, and {program or 'this'} is {what}", hint=hint)
    return program


def _runs(module: str) -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name in (module, f"{module}.__main__")


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module in `interpreter`, and raises what that raises. -P: nothing is imported from the
    current folder, which may hold a stranger's files."""
    return [interpreter(), "-P", "-m", module, *arguments]


def marked(command: Sequence[str], env: Mapping[str, str]) -> dict[str, str]:
    """Variables for a command of `python`, by which another program that runs in its place is known."""
    _, *options = command
    # `edgellm` itself is no helper: what it starts is its own.
    is_helper = options[:2] == ["-P", "-m"] and options[2] != "edgellm"
    return {**env, HELPER: options[2]} if is_helper else dict(env)
