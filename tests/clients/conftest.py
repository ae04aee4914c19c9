"""Servers for clients as their users have them: `edgellm serve` in another environment, which knows none of them.

These tests run in an environment of the clients (`make test-clients`). EDGELLM names the command to serve with; or
SERVED_AT the address of what serves the echo model already, as a cluster (tests/ray), and EDGELLM_API_KEY its key.
`calls.toml` lists what each client is asked to do: each of its calls is a test here, which runs on each backend.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import tomllib
import urllib.request
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

HERE = Path(__file__).parent
SERVED_AT = os.environ.get("SERVED_AT")
BACKENDS = ("echo",) if SERVED_AT else ("echo", "gguf", "bitnet", "onnx")
CLIENTS: dict[str, dict[str, Any]] = {
    client["tests"]: client for client in tomllib.loads((HERE / "calls.toml").read_text("utf-8"))["client"]
}
OPEN = re.compile(r"API: (http://\S+)/v1\)")


class Server:
    """Something that serves, which says the prompt back where the backend is "echo"."""

    def __init__(self, backend: str, root: str) -> None:
        self.backend = backend
        self.is_echo = backend == "echo"
        self.root = root
        self.url = f"{root}/v1"
        self.model = self.client().models.list().data[0].id

    def client(self, kind: type[Any] = openai.OpenAI) -> Any:
        return kind(base_url=self.url, api_key=os.environ.get("EDGELLM_API_KEY", "none"), max_retries=0)

    def close(self) -> None:
        """Whoever started it ends it."""


class OwnServer(Server):
    """`edgellm serve MODEL`."""

    def __init__(self, backend: str, model: str) -> None:
        settings = ["--port", "0", "--slots", "4", "--ctx", "4096", "--threads", "1"]
        self._process = subprocess.Popen(
            [os.environ["EDGELLM"], "serve", model, *settings], stdout=subprocess.PIPE, text=True
        )
        said = ""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said += line
            if line.startswith("Ready"):
                break
        opened = OPEN.search(said)
        assert opened is not None, said
        super().__init__(backend, opened[1])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What to serve, by backend (support.client_models)."""
    if SERVED_AT:
        return {"echo": "echo"}
    python = Path(os.environ["EDGELLM"]).with_name("python")
    command = [str(python), "-m", "support.client_models", str(tmp_path_factory.mktemp("models"))]
    made = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(HERE.parent)}, capture_output=True, check=True)
    served: dict[str, str] = json.loads(made.stdout)
    return served


@pytest.fixture(scope="session")
def servers(models: dict[str, str]) -> Iterator[Callable[..., Server]]:
    """Servers by backend, and by the task of a model that does nothing else. They stay until the end."""
    started: dict[str, Server] = {}

    def get(backend: str, task: str = "") -> Server:
        name = f"{backend} {task}" if f"{backend} {task}" in models else backend
        if name not in started:
            started[name] = Server(backend, SERVED_AT) if SERVED_AT else OwnServer(backend, models[name])
        return started[name]

    yield get
    for server in started.values():
        server.close()


@pytest.fixture(params=BACKENDS)
def server(request: pytest.FixtureRequest, servers: Callable[..., Server]) -> Server:
    test: pytest.Function = request.node
    return servers(request.param, task(test.path.name, test.originalname))


@pytest.fixture(scope="session")
def echo(servers: Callable[..., Server]) -> Server:
    return servers("echo")


@pytest.fixture(scope="session")
def schemas(echo: Server) -> dict[str, Any]:
    """What the server's own document says of bodies and answers, by name."""
    with urllib.request.urlopen(f"{echo.root}/openapi.json") as document:
        described: dict[str, Any] = json.load(document)["components"]["schemas"]
    return described


def pytest_collection_finish(session: pytest.Session) -> None:
    """Each test on every backend is a call of the list, and each call of the list is a test."""
    for module in {item.module for item in session.items if isinstance(item, pytest.Function)}:
        file = Path(module.__file__).name
        calls = CLIENTS[file]["calls"].keys() if file in CLIENTS else set()
        tests = {name: value for name, value in vars(module).items() if name.startswith("test_")}
        everywhere = {name for name, test in tests.items() if "server" in inspect.signature(test).parameters}
        if wrong := everywhere ^ calls:
            raise pytest.UsageError(f"{file}: in calls.toml alone, or in the file alone: {', '.join(sorted(wrong))}")


def refused(tests: str, name: str, backend: str) -> str | None:
    """The code with which a backend refuses a call; None where the call has to work."""
    return _named(tests, name).get(backend)


def task(tests: str, name: str) -> str:
    """What a call needs a model for, where it is not one that writes."""
    return _named(tests, name).get("task", "")


def _named(tests: str, name: str) -> dict[str, str]:
    call = CLIENTS.get(tests, {"calls": {}})["calls"].get(name)
    return call if isinstance(call, dict) else {}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A call that a backend refuses has to fail there, and the client's error has to tell the code of the refusal."""
    server = pyfuncitem.funcargs.get("server")
    code = refused(pyfuncitem.path.name, pyfuncitem.originalname, server.backend) if server is not None else None
    if code is None:
        return (yield)
    with pytest.raises(Exception) as caught:
        yield
    assert any(code in told for told in _told(caught.value))
    return True


def _told(error: BaseException | None) -> Iterator[str]:
    """What an error says, with those that it came from: one has the code in its text, another as an attribute."""
    while error is not None:
        yield f"{getattr(error, 'code', '')} {error}"
        error = error.__cause__ or error.__context__
