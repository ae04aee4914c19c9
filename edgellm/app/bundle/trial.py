"""A model that answers on trial: `edgellm serve` as a process of its own, on a port of its own, with a key of ours."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from edgellm import settings
from edgellm.bundle.golden import PROMPT, TEXTS, Golden, GoldenChat, GoldenText
from edgellm.contract.child import Child
from edgellm.runtime.process_usage import ProcessUsage, process_usage, waited_share

_MAX_ANSWER = 8 * 1024**2
_ANSWER_S = 120.0
_POLL_S = 0.1
_LEAST_SHARE = 0.1  # of the processors: who had less is not believed any further
_LAST_CHARS = 600
# What the environment says of the service that runs already.
_OF_SERVICE = ("EDGELLM_HOST", "EDGELLM_PORT", "EDGELLM_OLLAMA_PORT", "EDGELLM_LOG_FORMAT")


class TrialFailed(Exception):
    """It does not start, or does not answer. Its text says why."""


class Trial:
    """The process runs for as long as the block lasts."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """`command`: of `edgellm serve`, to which flags are added."""
        self._key = secrets.token_hex(16)
        self._port = 0
        self._has_ended = False
        variables = {name: value for name, value in settings.variables().items() if name not in _OF_SERVICE}
        variables |= {**(env or {}), "EDGELLM_API_KEY": self._key}
        self._child = Child([*command, "--host", "127.0.0.1", "--port", "0", "--drain", "0"], env=variables)

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            # Where memory runs out, what is served already goes on.
            with suppress(OSError):
                Path(f"/proc/{self._child.pid}/oom_score_adj").write_text("1000")
        self._child.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, trace)

    @property
    def last_words(self) -> str:
        """The last lines that it wrote to stderr, as one, where it ended by itself; known after the block. What goes on
        wrote no reason: its plan is there."""
        return last_lines(self._child.end.stderr) if self._has_ended else ""

    def wait(self, deadline_s: float) -> float:
        """Seconds until it answers.

        Raises:
            TrialFailed: it ended, or `deadline_s` seconds were not enough.
        """
        began = time.monotonic()
        while not self._is_ready():
            if self._child.wait(_POLL_S):
                self._has_ended = True
                raise TrialFailed(f"it ended with status {self._child.returncode}")
            if time.monotonic() - began > deadline_s:
                raise TrialFailed(f"it is not ready after {deadline_s:g} s")
        return time.monotonic() - began

    def ask(self, path: str, body: Any = None) -> Any:
        """The JSON that it answers with.

        Raises:
            TrialFailed
        """
        status, content = self._request(path, body)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise TrialFailed(f"{path} answers with what is no JSON") from None
        if status != http.client.OK:
            error = answer.get("error") if isinstance(answer, dict) else None
            told = error.get("message") if isinstance(error, dict) else ""
            raise TrialFailed(f"{path} answers with status {status}: {str(told)[:300]}")
        return answer

    def resident_bytes(self) -> int:
        """Of all its processes: each one's own memory, and each file that they map once."""
        own, files = 0, dict[str, int]()
        for one in self._processes():
            with suppress(psutil.Error):
                if sys.platform != "linux":
                    own += one.memory_info().rss
                    continue
                for row in one.memory_maps(grouped=True):
                    if row.path.startswith("/"):
                        files[row.path] = max(row.rss, files.get(row.path, 0))
                    else:
                        own += row.rss
        return own + sum(files.values())

    def usages(self) -> dict[int, ProcessUsage]:
        """By process, what the system counts of it."""
        usages = {one.pid: process_usage(one.pid) for one in self._processes()}
        return {pid: usage for pid, usage in usages.items() if usage is not None}

    def _processes(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self._child.pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error as error:
            raise TrialFailed(f"it is gone: {error}") from None

    def _is_ready(self) -> bool:
        self._port = self._port or self._listening()
        if not self._port:
            return False
        try:
            return self._request("/health")[0] == http.client.OK
        except TrialFailed:
            return False

    def _listening(self) -> int:
        """The port that the system gave it; 0 = none yet."""
        with suppress(psutil.Error):
            process = psutil.Process(self._child.pid)
            for one in [process, *process.children()]:
                for row in one.net_connections("tcp"):
                    if row.status == psutil.CONN_LISTEN:
                        return int(row.laddr.port)
        return 0

    def _request(self, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_S)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request(
                "GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers
            )
            reply = connection.getresponse()
            content = reply.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise TrialFailed(f"{path} is not answered: {error!r}") from None
        finally:
            connection.close()
        return reply.status, content


def last_lines(text: str) -> str:
    """So many whole lines from the end as are short enough together, as one; a longer one loses its end."""
    kept = ""
    for line in reversed(text.splitlines()):
        more = " ".join(f"{line} {kept}".split())
        if kept and len(more) > _LAST_CHARS:
            break
        kept = more[:_LAST_CHARS]
    return kept


def serve_command(python: str = sys.executable) -> list[str]:
    return [python, "-P", "-m", "edgellm", "serve"]


def home_of(folder: Path) -> dict[str, str]:
    """Variables for a store below `folder`."""
    return {"EDGELLM_HOME": os.fspath(folder), "EDGELLM_MODELS": ""}


def generates(trial: Trial) -> bool:
    """Whether the model writes text.

    Raises:
        TrialFailed
    """
    return "generate" in (_of(trial.ask("/edgellm/plan"), "can") or ())


def answers(trial: Trial, texts: Sequence[str] = TEXTS) -> tuple[GoldenText, ...]:
    """The log-probabilities of the tokens of these texts.

    Raises:
        TrialFailed
    """
    return tuple(GoldenText(text=text, logprobs=_logprobs(trial, text)) for text in texts)


def chat(trial: Trial, prompt: str = PROMPT) -> GoldenChat:
    """How long the template makes a prompt; the model writes a word, too.

    Raises:
        TrialFailed
    """
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 4, "temperature": 0}
    n_tokens = _of(trial.ask("/v1/chat/completions", body), "usage", "prompt_tokens")
    if not isinstance(n_tokens, int) or n_tokens < 1:
        raise TrialFailed("an answer does not say how many tokens its prompt has")
    return GoldenChat(prompt=prompt, prompt_tokens=n_tokens)


def recorded(trial: Trial) -> Golden:
    """What is to be asked again where the bundle is installed.

    Raises:
        TrialFailed: it does not answer, or writes no text.
    """
    if not generates(trial):
        raise TrialFailed("the model writes no text")
    has_template = _of(trial.ask("/edgellm/plan"), "chat") is True
    return Golden(texts=answers(trial), chat=chat(trial) if has_template else None)


def decode_rate(trial: Trial, tokens: int) -> float:
    """Tokens a second of one answer, without the time in which the model was ready to run and others had the
    processors.

    Raises:
        TrialFailed
    """
    body = {"prompt": PROMPT, "n_predict": tokens, "ignore_eos": True, "temperature": 0}
    before = trial.usages()
    rate = _of(trial.ask("/completion", body), "timings", "predicted_per_second")
    after = trial.usages()
    if not isinstance(rate, int | float):
        raise TrialFailed("an answer does not say how fast it was written")
    worker = max(after, key=lambda pid: _ran(after[pid]) - _ran(before.get(pid)), default=0)
    share = waited_share(before.get(worker), after.get(worker)) or 0.0
    return float(rate) / max(1 - share, _LEAST_SHARE)


def _ran(usage: ProcessUsage | None) -> float:
    return usage.ran_s or 0.0 if usage else 0.0


def _logprobs(trial: Trial, text: str) -> tuple[float, ...]:
    body = {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 0, "temperature": 0}
    rows = _of(trial.ask("/v1/completions", body), "choices", 0, "logprobs", "token_logprobs")
    # Nothing stands before the first one, and the last one is of the answer.
    told = rows[1:-1] if isinstance(rows, list) else []
    if not told or not all(isinstance(value, int | float) and -1e6 < value <= 0 for value in told):
        raise TrialFailed("an answer lacks the log-probabilities of its prompt")
    return tuple(round(float(value), 4) for value in told)


def _of(answer: Any, *path: str | int) -> Any:
    """What stands at `path` in an answer; None where it has another form."""
    for step in path:
        if isinstance(step, int):
            answer = answer[step] if isinstance(answer, list) and len(answer) > step else None
        else:
            answer = answer.get(step) if isinstance(answer, dict) else None
    return answer
