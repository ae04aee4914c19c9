"""Servers for clients as their users have them: `edgellm serve` in another environment, which knows none of them.

These tests run in an environment of the clients (`make test-clients`). EDGELLM names the command to serve with.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

MODELS = ("echo", "smollm2-135m-instruct")
OPEN = re.compile(r"API: (http://\S+)/v1\)")


class Server:
    """`edgellm serve MODEL`, which says the prompt back where it is "echo"."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.is_echo = model == "echo"
        command = [
            os.environ["EDGELLM"],
            "serve",
            model,
            "--port",
            "0",
            "--slots",
            "4",
            "--ctx",
            "4096",
            "--threads",
            "1",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said = ""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said += line
            if line.startswith("Ready"):
                break
        opened = OPEN.search(said)
        assert opened is not None, said
        self.url = f"{opened[1]}/v1"

    @property
    def root(self) -> str:
        """Where clients of other APIs than OpenAI's begin."""
        return self.url.removesuffix("/v1")

    def client(self, kind: type[Any] = openai.OpenAI) -> Any:
        return kind(base_url=self.url, api_key="none", max_retries=0)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture(scope="session", params=MODELS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.close()


@pytest.fixture(scope="session")
def echo() -> Iterator[Server]:
    server = Server("echo")
    yield server
    server.close()
