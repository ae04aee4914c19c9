"""`edgellm serve` as a process: what it prints, when it listens, how it leaves."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import httpx
import psutil
import pytest
from support import fake_plugins
from support.full_pipe import full_pipe
from support.live_server import echo_plan
from support.processes import workers
from support.serving import serving
from support.waiting import PATIENCE_S, wait_until

from edgellm import explain
from edgellm.app import launch
from edgellm.cli import log_lines, serve
from edgellm.cli._options import headline
from edgellm.cli.main import main
from edgellm.errors import BackendUnavailable, SourceUnreachable, UsageError
from edgellm.server import listener
from edgellm.types.reason import RulesUnasked
from edgellm.types.request import SelectionRequest

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and error text of a command line that must not get as far as serving."""
    with pytest.raises(SystemExit) as caught:
        main(["serve", *arguments])
    return int(caught.value.code or 0), capsys.readouterr().err


def test_it_says_what_runs_and_where_and_answers() -> None:
    with serving("echo", "--port", "0", "--ctx", "512", "--slots", "2") as command:
        command.wait_for("Ready after")
        answer = httpx.post(f"{command.url}/v1/completions", json={"prompt": "hello"}, timeout=PATIENCE_S)
        text = "".join(command.out)

        assert answer.json()["choices"][0]["text"] == "hello"
        assert "echo on echo: 512 tokens of context, 2 at the same time" in text
        assert "Model: echo, as named" in text
        assert f"{command.url}/v1" in text
        assert "\x1b" not in text


def test_the_first_line_names_the_adapter_that_answers() -> None:
    plan = echo_plan(512, 1)
    mail, tone = ("mail", 1.0), ("tone", 1.0)

    assert headline(replace(plan, answers_with=(mail,))).startswith("echo:mail on echo: ")
    for other in (plan, replace(plan, answers_with=(mail, tone))):
        assert headline(other).startswith("echo on echo: ")


def test_it_listens_while_the_model_loads() -> None:
    with serving("echo", "--port", "0", EDGELLM_ECHO_LOAD_S="60") as command:
        health = httpx.get(f"{command.url}/health", timeout=PATIENCE_S)

        assert (health.status_code, health.json()["status"]) == (503, "loading")


def test_it_says_when_it_is_ready() -> None:
    with serving("echo", "--port", "0") as command:
        command.wait_for("Ready after")

        assert httpx.get(f"{command.url}/health", timeout=PATIENCE_S).json()["status"] == "ok"


@posix
def test_the_first_interrupt_finishes_what_runs() -> None:
    with serving("echo", "--port", "0", EDGELLM_ECHO_STEP_S="0.02") as command:
        command.wait_for("Ready after")
        body = {"prompt": "x" * 30, "max_tokens": 30, "stream": True}
        processes = command.processes()
        with httpx.stream("POST", f"{command.url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            command.signal(signal.SIGINT)
            rest = [line for line in lines if line]
        wait_until(lambda: _refused(command.url))

        assert rest[-1] == "data: [DONE]"
        assert command.status() == 0
        assert "Finishing 1 request" in "".join(command.err)
        assert len(processes) == 2
        assert not any(process.is_running() for process in processes)


@posix
def test_the_second_interrupt_leaves_now() -> None:
    """The answer would take half an hour more."""
    with serving("echo", "--port", "0", "--drain", "3600", EDGELLM_ECHO_STEP_S="0.2") as command:
        command.wait_for("Ready after")
        processes = command.processes()
        body = {"prompt": "x" * 2000, "max_tokens": 2000, "stream": True}
        with httpx.stream("POST", f"{command.url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            command.signal(signal.SIGINT)
            wait_until(lambda: "Finishing" in "".join(command.err))
            command.signal(signal.SIGINT)
            with pytest.raises(httpx.HTTPError):
                list(lines)

        assert command.status() == 130
        assert "Stopped at once" in command.err[-1]
        assert not any(process.is_running() for process in processes)


@posix
def test_the_rest_of_a_body_is_not_waited_for() -> None:
    with serving("echo", "--port", "0", "--drain", "3600") as command:
        command.wait_for("Ready after")
        url = httpx.URL(command.url)
        with socket.create_connection((url.host, url.port), timeout=PATIENCE_S) as connection:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n{")
            httpx.get(f"{command.url}/health", timeout=PATIENCE_S)  # answered after the head was read
            command.signal(signal.SIGTERM)
            with connection.makefile("rb") as answer:
                status, *_ = answer.read().splitlines()

        assert status.startswith(b"HTTP/1.1 503")
        assert command.status() == 0


@posix
def test_an_answer_that_is_not_finished_in_time_ends_with_an_error() -> None:
    """It would take half an hour more."""
    with serving("echo", "--port", "0", "--drain", "0.2", EDGELLM_ECHO_STEP_S="0.2") as command:
        command.wait_for("Ready after")
        body = {"prompt": "x" * 2000, "max_tokens": 2000, "stream": True}
        with httpx.stream("POST", f"{command.url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            command.signal(signal.SIGTERM)
            rest = [line for line in lines if line]

        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "closed"
        assert command.status() == 0


@posix
def test_without_a_terminal_a_hangup_is_refused_and_cuts_nothing() -> None:
    """Then it comes from a service manager that asks to reload."""
    with serving("echo", "--port", "0", EDGELLM_ECHO_STEP_S="0.02") as command:
        command.wait_for("Ready after")
        body = {"prompt": "x" * 30, "max_tokens": 30, "stream": True}
        with httpx.stream("POST", f"{command.url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            command.signal(signal.SIGHUP)
            rest = [line for line in lines if line]
        wait_until(lambda: "SIGHUP changes nothing" in "".join(command.err))

        assert rest[-1] == "data: [DONE]"
        assert httpx.get(f"{command.url}/health", timeout=PATIENCE_S).status_code == 200


@posix
def test_where_the_terminal_goes_away_answers_are_finished() -> None:
    controller, terminal = os.openpty()
    with serving("echo", "--port", "0", terminal=terminal, EDGELLM_ECHO_STEP_S="0.02") as command:
        command.wait_for("Ready after")
        body = {"prompt": "x" * 30, "max_tokens": 30, "stream": True}
        with httpx.stream("POST", f"{command.url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.close(terminal)
            os.close(controller)
            rest = [line for line in lines if line]

        assert rest[-1] == "data: [DONE]"
        assert command.status() == 0


@posix
def test_a_server_that_is_killed_leaves_no_worker() -> None:
    with serving("echo", "--port", "0") as command:
        command.wait_for("Ready after")
        processes = command.processes()
        command.signal(signal.SIGKILL)
        wait_until(lambda: not any(process.is_running() for process in processes))

        assert len(processes) == 2


@posix
def test_sigterm_stops_while_loading() -> None:
    with serving("echo", "--port", "0", EDGELLM_ECHO_LOAD_S="60") as command:
        _ = command.url
        processes = command.processes()
        command.signal(signal.SIGTERM)

        assert command.status() == 0
        assert not any(process.is_running() for process in processes)


@posix
def test_sigterm_while_it_asks_the_index_leaves_no_pip() -> None:
    """The index takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as index:
        url = f"http://127.0.0.1:{index.getsockname()[1]}"
        silent = {"PIP_INDEX_URL": f"{url}/simple", "HF_ENDPOINT": url}
        with serving("smollm2-135m-instruct", "--port", "0", **silent) as command:
            wait_until(lambda: any(_is_pip(child) for child in command.processes()))
            helpers = command.processes()
            command.signal(signal.SIGTERM)

            assert command.status() == 0
            wait_until(lambda: not any(helper.is_running() for helper in helpers))


def _is_pip(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # a helper that has just ended
        return "pip" in process.cmdline()
    return False


def test_a_port_that_is_taken_is_named_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):  # or another has it
            status, text = refused(capsys, "echo", "--port", str(port))
            assert f"--port {port + 1} " not in text

    assert status == 2
    assert f"port {port} is taken by" in text
    assert f"process {os.getpid()}" in text
    assert "--port" in text


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["echo", "--host", "0.0.0.0"], 2, "EDGELLM_API_KEY"),
        (["echo", "--port", "70000"], 2, "70000"),
        (["echo", "--drain", "-1"], 2, "-1"),
        (["echo", "--log-format", "xml"], 2, "xml"),
        (["echo", "--slots", "0"], 2, "slots=0"),
        (["echo", "--ctx", "5"], 2, "ctx=5"),
        (["echo", "--threads", "0"], 2, "threads=0"),
        (["echo", "--gpu-layers", "5"], 2, "--gpu-layers has no meaning for echo"),
        (["echo", "--gpu-layers", "many"], 2, "gpu_layers='many'"),
        (["--gpu-layers", "10000"], 2, "gpu_layers=10000"),
        (["echo", "--ctx", "99999999999"], 2, "ctx=99999999999"),
        (["echo", "--host", "no.such.host.invalid", "--api-key", "k"], 2, "no.such.host.invalid"),
        (["--quant", "Q4_K_M"], 2, "--quant"),
        (["--max-memory", "much"], 2, "much"),
        (["no-such-model"], 2, "no-such-model"),
        (["/no/such/file.gguf"], 2, "/no/such/file.gguf"),
        (["echo", "--flag"], 2, "--flag"),
        (["echo", "--port", "9001", "--ollama-port", "9001"], 2, "both 9001"),
        (["echo", "--threads", "999999"], 2, "threads=999999"),
        (["echo", "--models-dir", "/no/such/folder"], 2, "/no/such/folder"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_status(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, told: str
) -> None:
    found, text = refused(capsys, *arguments, *([] if "--port" in arguments else ["--port", "0"]))

    assert found == status
    assert told in text
    assert "Traceback" not in text


FAILS_TO_LOAD = """
from edgellm.builtin.echo import EchoBackend
from edgellm.errors import BackendUnavailable

def fail(self, plan):
    raise BackendUnavailable("it does not load")

EchoBackend.open = fail
"""


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    fake_plugins.install(tmp_path, "fails", FAILS_TO_LOAD)
    with serving("echo", "--port", "0", PYTHONPATH=str(tmp_path), EDGELLM_PLUGINS="fails") as command:
        assert command.status() == BackendUnavailable.exit_code
        wait_until(lambda: "it does not load" in "".join(command.err))


@pytest.mark.parametrize("name", ["EDGELLM_ECHO_STEP_S", "EDGELLM_ECHO_LOAD_S"])
def test_a_delay_that_is_none_is_told_before_it_listens(name: str) -> None:
    with serving("echo", "--port", "0", **{name: "soon"}) as command:
        assert command.status() == BackendUnavailable.exit_code
        wait_until(lambda: f"{name}='soon'" in "".join(command.err))
        assert "Open" not in "".join(command.out)


def test_a_key_that_can_be_guessed_is_told() -> None:
    for key, is_told in (("k", True), ("5b1f0e0a9b6c4d7f5b1f0e0a9b6c4d7f", False)):
        with serving("echo", "--port", "0", EDGELLM_API_KEY=key) as command:
            command.wait_for("Ready after")
            assert ("can be guessed" in "".join(command.err)) == is_told


def test_rules_that_were_not_asked_are_a_warning() -> None:
    unasked = RulesUnasked("licences", "edgellm-licences 1.0", "ImportError: no list")
    plan = launch.model_plan("echo", SelectionRequest())
    said: list[str] = []
    warned: list[str] = []
    serve._say_why(replace(plan, reasons=(unasked, *plan.reasons)), said.append, warned.append, named=True)

    assert warned == [explain.sentence(unasked)]
    assert said == [f"  {explain.sentence(reason)}" for reason in plan.reasons]


def test_a_plugin_that_is_not_installed_is_told_by_its_name() -> None:
    with serving("echo", "--port", "0", EDGELLM_PLUGINS="ggfu") as command:
        assert command.status() == UsageError.exit_code
        wait_until(lambda: "EDGELLM_PLUGINS names 'ggfu'" in "".join(command.err))


def test_a_log_level_holds_for_what_the_server_says_of_itself() -> None:
    with click.Context(click.Command("serve")):
        say, warn = log_lines.set_up("warning", "json")
        log = logging.getLogger("edgellm.serve")
        assert (say, warn) == (log.info, log.warning)
        assert (log.isEnabledFor(logging.INFO), log.isEnabledFor(logging.WARNING)) == (False, True)


@pytest.mark.parametrize("level", ["bogus", "5"])
def test_a_log_level_that_is_none_is_told_before_a_worker_dies_of_it(level: str) -> None:
    with serving("echo", "--port", "0", EDGELLM_LOG=level) as command:
        assert command.status() == 2
        wait_until(lambda: "one of DEBUG, INFO, WARNING, ERROR" in "".join(command.err))

        assert f"EDGELLM_LOG='{level}' is not a log level" in "".join(command.err)
        assert "Traceback" not in "".join(command.err)


@pytest.mark.parametrize("form", [["--log-format", "json"], ["--log-format=json"]])
@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--flag"], ["--slots", "0"]])
def test_options_that_are_wrong_are_lines_of_a_log_of_json(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], form: list[str], wrong: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "echo", *form, *wrong])
    (line,) = caplog.records

    assert ended.value.code == 2
    assert (line.levelname, line.facts["code"]) == ("ERROR", "usage_error")  # type: ignore[attr-defined]
    assert "EDGELLM_PORT" not in line.getMessage()
    assert capsys.readouterr() == ("", "")


def test_all_addresses_are_told() -> None:
    with serving("echo", "--port", "0", "--host", "0.0.0.0", "--api-key", "k") as command:
        wait_until(lambda: any("all addresses" in line for line in command.out))


def test_a_log_of_json_has_all_that_is_said() -> None:
    with serving("echo", "--port", "0", "--log-format", "json", EDGELLM_LOG_LEVEL="debug") as command:
        wait_until(lambda: any("Ready after" in line for line in command.err))
        opened = next(line for line in map(json.loads, command.err) if line["message"].startswith("Open "))
        url = opened["message"].split()[1]
        httpx.post(f"{url}/v1/completions", json={"prompt": "hello"}, timeout=PATIENCE_S)
        wait_until(lambda: any("/v1/completions" in line for line in command.err))
        lines = list(map(json.loads, command.err))

        assert command.out == []
        assert any("did you mean EDGELLM_LOG?" in line["message"] for line in lines)
        (asked,) = [line for line in lines if line["logger"] == "edgellm.requests"]
        assert (asked["status"], asked["completion_tokens"]) == (200, 5)
        assert all(line["time"].endswith("Z") for line in lines)


def test_progress_and_the_last_error_are_in_the_log_of_json() -> None:
    with serving("http://127.0.0.1:9/x.gguf", "--port", "0", "--log-format", "json") as command:
        assert command.status() == SourceUnreachable.exit_code
        wait_until(lambda: "error" in "".join(command.err))
        *_, progress, error = map(json.loads, command.err)

        assert progress["message"] == "reading the header"
        assert (error["level"], error["code"]) == ("error", "source_unreachable")
        assert error["hint"]
        assert command.out == []


def test_what_the_system_refuses_is_a_line_of_a_log_of_json(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc/meminfo")

    monkeypatch.setattr(listener, "bind", refuse)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "echo", "--log-format", "json"])
    (line,) = caplog.records

    assert ended.value.code == 2
    assert line.getMessage() == "too many open files (/proc/meminfo cannot be opened)"
    assert (line.levelname, line.facts["code"]) == ("ERROR", "usage_error")  # type: ignore[attr-defined]
    assert "LimitNOFILE=" in line.facts["hint"]  # type: ignore[attr-defined]
    assert capsys.readouterr() == ("", "")


@posix
@pytest.mark.parametrize("most", [12, 24, 40])
def test_too_few_open_files_are_told_before_it_listens(most: int) -> None:
    """Fewer than a model needs, than the event loop needs, and than there are connections for."""
    command = f"ulimit -n {most}; exec {shlex.quote(sys.executable)} -m edgellm serve echo --port 0 --log-format json"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    *_, error = map(json.loads, done.stderr.splitlines())

    assert done.returncode == 2
    assert (error["level"], error["code"]) == ("error", "usage_error")
    assert "open files" in error["hint"]


def test_address_and_port_come_from_the_environment() -> None:
    with serving("echo", EDGELLM_HOST="127.0.0.2", EDGELLM_PORT="0") as command:
        opened = command.wait_for(r"Open http://127\.0\.0\.2:\d+")

        assert not opened.endswith(":8642")


def test_a_second_port_answers_clients_of_ollama() -> None:
    with serving("echo", "--port", "0", EDGELLM_OLLAMA_PORT="0") as command:
        url = command.wait_for(r"Clients of Ollama find it at http://\S+").split()[-1]

        assert httpx.get(url).text == "Ollama is running"
        assert httpx.get(f"{url}/api/tags").json()["models"][0]["name"] == "echo"


def test_a_second_port_that_is_taken_is_said_with_whom_and_no_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with serving("echo", "--port", "0", "--ollama-port", str(port)) as command:
            command.wait_for(r"Open http://\S+")
            by = f"process {os.getpid()}" if sys.platform == "linux" else ""
            wait_until(lambda: re.search(rf"port {port} is taken.*{by}", "".join(command.err)) is not None)


def test_a_port_of_the_environment_that_is_none_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELLM_PORT", "many")
    status, text = refused(capsys, "echo")

    assert status == 2
    assert "EDGELLM_PORT" in text


def test_a_format_of_lines_that_is_none_is_told_before_a_worker_dies_of_it() -> None:
    with serving("echo", "--port", "0", EDGELLM_LOG_FORMAT="xml") as command:
        assert command.status() == 2
        wait_until(lambda: "EDGELLM_LOG_FORMAT='xml'" in "".join(command.err))


def test_another_host_with_a_key_is_served() -> None:
    with serving("echo", "--host", "0.0.0.0", "--port", "0", EDGELLM_API_KEY="k") as command:
        command.wait_for("Ready after")
        with httpx.Client(base_url=command.url, timeout=PATIENCE_S) as client:
            assert client.get("/v1/models").status_code == 401
            assert client.get("/v1/models", headers={"authorization": "Bearer k"}).status_code == 200


def test_in_one_process() -> None:
    with serving("echo", "--port", "0", "--no-isolate") as command:
        command.wait_for("Ready after")
        assert not workers(command.process.pid)
        answer = httpx.post(f"{command.url}/v1/completions", json={"prompt": "x"}, timeout=PATIENCE_S)
        assert answer.json()["choices"][0]["text"] == "x"


def _refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", timeout=1)
    except httpx.ConnectError:
        return True
    return False


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx.ConnectError):
        return httpx.get(f"{url}/health", timeout=PATIENCE_S).status_code == 200
    return False


@posix
@pytest.mark.parametrize("unread", ["stdout", pytest.param("stderr", marks=pytest.mark.slow(3))])
def test_a_reader_who_never_reads_holds_up_no_answer_and_no_end(unread: str) -> None:
    """As a terminal that was stopped, or a pipe of a service manager that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reading, writing = full_pipe()
    with serving("echo", "--port", str(port), "--log-level", "debug", **{unread: writing}) as command:
        wait_until(lambda: _is_ready(f"http://127.0.0.1:{port}"))
        for _ in range(20):
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"prompt": "hello"}, timeout=PATIENCE_S)
            assert answer.status_code == 200
        command.signal(signal.SIGTERM)

        assert command.status() == 0
    os.close(reading)
    os.close(writing)
