"""`edgellm client-config`: lines that are right in the form that each program reads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from subprocess import PIPE
from threading import Thread
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result
from support.live_server import Live, Servers

from edgellm.cli.client_config import CLIENTS, CTX, TEXTS
from edgellm.cli.main import cli
from edgellm.errors import UsageError
from edgellm.server import listener

NOWHERE = "http://127.0.0.1:9"


def written(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, ["client-config", *arguments], env=environment)


@pytest.mark.parametrize("client", CLIENTS)
def test_each_names_the_address_and_holds_no_key(client: str) -> None:
    result = written(client, "--url", f"{NOWHERE}/v1/", "--ctx", "32768", EDGELLM_API_KEY="s3cret-key")

    assert result.exit_code == 0
    assert NOWHERE in result.stdout
    assert "/v1/v1" not in result.stdout
    assert "s3cret-key" not in result.stdout
    assert "$ctx" not in result.stdout
    assert result.stderr == ""


def test_every_text_has_its_client() -> None:
    assert sorted(path.stem for path in TEXTS.iterdir()) == list(CLIENTS)


def test_codex_reads_toml() -> None:
    config = tomllib.loads(written("codex", "--ctx", "4096").stdout)

    provider = config["model_providers"][config["model_provider"]]
    assert provider["base_url"] == "http://127.0.0.1:8642/v1"
    assert (config["model"], config["model_context_window"]) == ("edgellm", 4096)


def test_zed_reads_json() -> None:
    lines = written("zed", "--model", "gpt-4o", "--ctx", "4096").stdout.splitlines()

    (model,) = json.loads("{" + "".join(lines[1:]) + "}")["language_models"]["openai_compatible"]["EdgeLLM"][
        "available_models"
    ]
    assert (model["name"], model["max_tokens"]) == ("gpt-4o", 4096)


@pytest.mark.parametrize(("ctx", "output"), [("32768", "8192"), ("8192", "2048")])
def test_claude_code_is_told_how_long_context_and_answers_are(ctx: str, output: str) -> None:
    exports = dict(
        line.removeprefix("export ").split("=", 1)
        for line in written("claude-code", "--ctx", ctx).stdout.splitlines()
        if line.startswith("export ")
    )

    assert exports["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == ctx
    assert exports["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == output


@pytest.mark.parametrize(("client", "ctx"), [("claude-code", "512"), ("claude-code", "8192"), ("codex", "8192")])
def test_a_context_that_its_first_prompt_fills_is_told(client: str, ctx: str) -> None:
    assert "--ctx 32768" in written(client, "--ctx", ctx).stderr
    assert written("llm", "--ctx", ctx).stderr == ""


@pytest.mark.parametrize(
    ("word", "meant"),
    [("claude", "claude-code"), ("Claude", "claude-code"), ("continu", "continue"), ("codexx", "codex")],
)
def test_a_client_that_is_nearly_named_is_suggested(word: str, meant: str) -> None:
    result = written(word)

    assert result.exit_code == 2
    assert f"did you mean {meant}?" in result.stderr


def test_the_context_is_asked_of_the_server(live: Live) -> None:
    result = written("codex", "--url", live.url)

    assert tomllib.loads(result.stdout)["model_context_window"] == live.llm.plan.settings.n_ctx
    assert "No server" not in result.stderr


def test_a_server_with_a_key_is_asked_with_it(serve: Servers) -> None:
    locked = serve(api_key="s3cret-key")

    asked = written("codex", "--url", locked.url).stderr
    assert "EDGELLM_API_KEY" in asked
    assert "No server" not in asked
    assert "EDGELLM_API_KEY" in written("codex", "--url", locked.url, EDGELLM_API_KEY="another-key").stderr
    assert written("llm", "--url", locked.url, EDGELLM_API_KEY="s3cret-key").stderr == ""


class Asking(BaseHTTPRequestHandler):
    """Asks for a key, as anybody may where a server is down, and tells names that deceive."""

    keys: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.keys.append(self.headers["Authorization"])
        body = b'{"data": [{"id": "a\\n\\u202eb"}]}'
        self.send_response(200 if self.path == "/v1/models" else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def asking() -> Iterator[str]:
    Asking.keys.clear()
    with HTTPServer(("127.0.0.1", 0), Asking) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("is_own", [True, False])
def test_the_key_is_sent_to_this_users_server_only(is_own: bool, asking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "is_of_this_user", lambda port: is_own)
    result = written("codex", "--url", asking, EDGELLM_API_KEY="s3cret-key")

    assert ("Bearer s3cret-key" in Asking.keys) == is_own
    assert "EDGELLM_API_KEY" in result.stderr


def test_a_server_that_asks_for_no_key_is_sent_none(asking: str) -> None:
    result = written("llm", "--url", asking, "--model", "x", "--ctx", "4096", EDGELLM_API_KEY="s3cret-key")

    assert "'a\\n\\u202eb'" in result.stderr
    assert Asking.keys[0] is None


OF_ANOTHER_USER = """
import os, socket
os.setuid(65534)
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    input()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only root is told who listens")
def test_who_listens_is_asked_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        port = own.getsockname()[1]
        assert listener.is_of_this_user(port)
    assert not listener.is_of_this_user(port)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="user: only root runs programs of others")
def test_another_user_who_listens_is_noticed() -> None:
    command = [sys.executable, "-S", "-c", OF_ANOTHER_USER]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert not listener.is_of_this_user(port)
        process.communicate("\n")


def test_where_no_server_answers_it_is_said() -> None:
    result = written("codex", "--url", NOWHERE)

    assert tomllib.loads(result.stdout)["model_context_window"] == CTX
    assert "--ctx" in result.stderr


@pytest.mark.parametrize(
    "url",
    ["nope", "", "ftp://127.0.0.1", "http://", "http://a b", "127.0.0.1", "http://h/?q", "http://[::1", "h:99999"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    result = written("codex", "--url", url)

    assert isinstance(result.exception, UsageError), result.output
    assert result.exception.param == "url"
    assert result.stdout == ""


@pytest.mark.parametrize("host", ["127.0.0.1:9", "[::1]:9", "localhost:9/v1/"])
def test_an_address_without_its_scheme_gets_one(host: str) -> None:
    result = written("codex", "--url", host, "--ctx", "4096")

    url = tomllib.loads(result.stdout)["model_providers"]["edgellm"]["base_url"]
    assert url == f"http://{host.removesuffix('/v1/')}/v1"


@pytest.mark.parametrize("name", ["gpt-4o", "a/b c", "\u65e5"])
def test_a_model_that_is_not_served_is_named(live: Live, name: str) -> None:
    result = written("codex", "--url", live.url, "--model", name)

    assert tomllib.loads(result.stdout)["model"] == name
    assert "echo" in result.stderr


@pytest.mark.parametrize("name", ["echo", "default", "edgellm", "echo:latest"])
def test_nothing_is_said_of_a_model_that_is_served(live: Live, name: str) -> None:
    assert written("llm", "--url", live.url, "--model", name).stderr == ""


def test_a_client_that_is_none_of_them_is_told_once_what_there_is() -> None:
    result = written("emacs")

    assert result.exit_code == 2
    assert result.stderr.count("open-webui") == 1


def test_an_editor_is_answered_with_what_runs_in_it() -> None:
    result = written("vscode")

    assert result.exit_code == 2
    assert "continue, cline" in result.stderr
