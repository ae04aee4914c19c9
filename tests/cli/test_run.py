"""`edgellm run`: one answer, and a conversation in a terminal."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.refusals import check_refusal
from support.tiny_bert import TinyBert
from support.waiting import PATIENCE_S

from edgellm.cli import run as module
from edgellm.cli.run import command
from edgellm.errors import BadTemplate, UnsupportedTask, UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.types.drift import Drift


def invoke(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(command, ["echo", "--no-isolate", *arguments], input=text, standalone_mode=False)


def test_stats_tell_what_differs_from_its_prediction() -> None:
    with EdgeLLM.load("echo") as llm:
        assert module._drifts(llm) == []
        llm.verification.drifts = (Drift("decode", "m", "Q4_K_M", 6.0, 12.0, None),)
        (line,) = module._drifts(llm)
    assert line.startswith("decode of m Q4_K_M")
    assert "edgellm calibrate" in line


def test_a_prompt_is_answered_once() -> None:
    result = invoke("hello wörld 🎈")

    assert result.stdout == "hello wörld 🎈\n"
    assert result.return_value == 0


def test_a_pipe_is_answered_once() -> None:
    assert invoke(text="from a pipe\n").stdout == "from a pipe\n"


def test_raw_continues_text() -> None:
    assert invoke("--raw", "as it stands").stdout == "as it stands\n"


def test_limits_and_stops() -> None:
    assert invoke("hello", "--max-tokens", "3").stdout == "hel\n"
    assert invoke("one two three", "--stop", "two").stdout == "one \n"


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        (["x", "--temperature", "-1"], "temperature"),
        (["x", "--top-p", "2"], "top_p"),
        (["x", "--raw", "--system", "s"], ""),
        (["x", "--max-tokens", "0"], "max_tokens"),
        (["x", "--ctx", "1"], "ctx"),
    ],
)
def test_values_out_of_range_are_refused(arguments: list[str], param: str) -> None:
    check_refusal(invoke(*arguments).exception, UsageError, param=param)


def test_sampling_flags_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    samplings = []
    real = EdgeLLM.generate
    monkeypatch.setattr(
        EdgeLLM, "generate", lambda self, request: samplings.append(request.sampling) or real(self, request)
    )
    invoke("x", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--min-p", "0.1", "--seed", "7")

    assert (
        samplings[0].temperature,
        samplings[0].top_k,
        samplings[0].top_p,
        samplings[0].min_p,
        samplings[0].seed,
    ) == (0.5, 3, 0.9, 0.1, 7)


def test_a_base_model_says_how_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.builtin.echo.TEMPLATE", None)
    check_refusal(invoke("x").exception, BadTemplate)
    assert invoke("x", "--raw").stdout == "x\n"


def test_a_model_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys.stdout, "isatty", lambda: True)
    assert module._shown("a\x1b]0;title\x07b\x9bc\nd\te") == "a]0;titlebc\nd\te"


def test_importing_the_command_is_cheap() -> None:
    code = "import edgellm.cli.run, edgellm.cli.serve, sys; print({'starlette', 'numpy', 'rich'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


class Terminal:
    """`edgellm run echo` on a terminal of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        import pty

        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgellm", "run", "echo", *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "TERM": "dumb", **environment},
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def shows(self, text: str, timeout_s: float) -> bool:
        """Whether `text` comes in time; what was shown up to it is forgotten then."""
        try:
            self.expect(text, timeout_s)
        except AssertionError:
            return False
        return True

    def expect(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._master, 65536).decode()
                except OSError:
                    assert text in self.seen, self.seen
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    if os.name != "posix":
        pytest.skip("needs a POSIX terminal")
    opened = Terminal()
    yield opened
    opened.close()


def test_a_conversation(terminal: Terminal) -> None:
    terminal.expect(">>> ")
    terminal.type("hello\n")
    terminal.expect("hello\r\nhello\r\n>>> ")
    terminal.type("/stats\n")
    terminal.expect("answer: 5 tokens")
    terminal.type("/explain\n")
    terminal.expect("Model: echo")
    terminal.type("/reset\n")
    terminal.expect("Forgotten.")
    terminal.type("/nonsense\n")
    terminal.expect("/nonsense is no command.")
    terminal.expect(">>> ")
    terminal.type('"""one\ntwo"""\n')
    terminal.expect("one\r\ntwo\r\n>>> ")
    terminal.type("\x04")
    assert terminal.process.wait(PATIENCE_S) == 0


def test_an_error_does_not_end_the_conversation(terminal: Terminal) -> None:
    terminal.expect(">>> ")
    for _ in range(5):
        terminal.type("x" * 900 + "\n")
        terminal.expect(">>> ")
    terminal.type('"""' + "\n".join(["y" * 900] * 6) + '"""\n')
    terminal.expect("Error: the prompt has")
    terminal.expect(">>> ")
    terminal.type("still here\n")
    terminal.expect("still here\r\nstill here\r\n")


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves() -> None:
    if os.name != "posix":
        pytest.skip("needs a POSIX terminal")
    terminal = Terminal(EDGELLM_ECHO_STEP_S="0.05")
    try:
        terminal.expect(">>> ")
        terminal.type("z" * 400 + "\n")
        terminal.expect("z\r\nzzz")
        terminal.type("\x03")
        terminal.expect(">>> ")
        # Python's input() misses an interrupt that comes within microseconds of its prompt.
        while not terminal.shows("Ctrl-D leaves", 1.0):
            terminal.type("\x03")
        terminal.expect(">>> ")
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.close()


@pytest.mark.parametrize("raw", [(), ("--raw",)])
def test_a_model_that_only_embeds_says_what_it_is_for(tmp_path: Path, raw: tuple[str, ...]) -> None:
    folder = TinyBert().write(tmp_path / "tiny-bert")
    result = CliRunner().invoke(command, [str(folder), "--no-isolate", *raw, "hello"], standalone_mode=False)
    check_refusal(result.exception, UnsupportedTask)


def test_the_task_embed_is_refused_before_anything_is_chosen() -> None:
    result = CliRunner().invoke(command, ["--task", "embed", "hello"], standalone_mode=False)
    check_refusal(result.exception, UnsupportedTask)
    named = CliRunner().invoke(command, ["all-minilm-l6-v2", "hello"], standalone_mode=False)
    check_refusal(named.exception, UnsupportedTask)
