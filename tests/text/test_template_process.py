"""A chat template that nothing in its own process can stop is ended, and the next render works."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.refusals import check_refusal, refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.errors import BadTemplate, Closed, Overloaded, UsageError, WorkerCrashed
from edgellm.sdk.client import EdgeLLM
from edgellm.text import template_jobs, template_process
from edgellm.text.template_jobs import CapsJob, MarkupJob, RenderJob, TemplateJob, TemplateSource
from edgellm.text.template_process import TemplateProcess
from edgellm.types.markup import Markup, ReasoningMarkup

TURNS = TemplateSource("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ bos_token }}", "<s>")
# A trillion comparisons in one call. The charge, which refuses it, is taken out below.
HANGS = TemplateSource("{% set s = 'a' * 2000000 %}{{ s.rfind('a' * 500000 ~ 'b' ~ 'a' * 500000) }}")
UNCHARGED = """
import sys
from edgellm.contract.helper import answer_all
from edgellm.text import template_jobs
from edgellm.text.budget import Budget
Budget.tick = lambda self, steps=1: None
answer_all(template_jobs.answer, seconds=float(sys.argv[1]), memory_bytes=template_jobs.MEMORY_BYTES)
"""
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def render(template: TemplateSource = TURNS, content: object = "hi", **variables: object) -> RenderJob:
    return RenderJob(template, [{"role": "user", "content": content}], variables, [], add_generation_prompt=True)


@pytest.fixture
def uncharged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is charged there, and the kernel alone ends a question, after half a second."""
    monkeypatch.setattr(template_process, "_command", lambda: [sys.executable, "-P", "-c", UNCHARGED, "0.5"])
    monkeypatch.setattr(template_process, "PATIENCE_S", 600.0)


@pytest.fixture
def templates() -> Iterator[TemplateProcess]:
    process = TemplateProcess()
    yield process
    process.close()


def pid_of(templates: TemplateProcess) -> int:
    wait_until(lambda: templates.pid is not None)
    assert templates.pid is not None
    return templates.pid


def test_it_answers_as_this_process_would(templates: TemplateProcess) -> None:
    declared = Markup(reasoning=ReasoningMarkup("<t>", "</t>"))
    special: list[object] = [
        "\n\x00\x85 \u2028'\"\\{{ 1 }}",
        "😀é",
        [{"type": "text", "text": "a"}],
        None,
        "long " * 500_000,
    ]
    numbers = {"n": [2**70, -1, 1.5, 1e300, True, None], "nested": {"a": {"b": ["c"]}}}
    shows = TemplateSource("{{ n }}{{ nested }}{{ tools }}{{ tools is defined }}")
    jobs: list[TemplateJob] = [
        CapsJob(TURNS), MarkupJob(TURNS), MarkupJob(TURNS, declared), *(render(content=text) for text in special),
        render(shows, **numbers), RenderJob(shows, [], dict(numbers), ["tools"], add_generation_prompt=False),
    ]  # fmt: skip

    assert [templates.run(job) for job in jobs] == [template_jobs.run(job) for job in jobs]


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('x' * 900) }}", "{% for %}", "{{ 1 / 0 }}", "{{ ''.__class__.__mro__ }}"]
)
def test_what_a_template_refuses_is_told_in_the_same_words(templates: TemplateProcess, source: str) -> None:
    with pytest.raises(BadTemplate) as here:
        template_jobs.run(render(TemplateSource(source)))
    with pytest.raises(BadTemplate) as there:
        templates.run(render(TemplateSource(source)))

    assert (there.value.message, there.value.hint) == (here.value.message, here.value.hint)


@posix
@pytest.mark.usefixtures("uncharged")
def test_a_template_that_hangs_in_native_code_is_ended(templates: TemplateProcess) -> None:
    before = pid_of(templates)
    with refuses(BadTemplate):
        templates.run(render(HANGS))

    assert templates.run(render()).text == "<user>hi<s>"
    assert not psutil.pid_exists(before)


@posix
@pytest.mark.usefixtures("uncharged")
def test_one_that_uses_no_processor_time_is_ended_by_the_clock(
    templates: TemplateProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert templates.run(render()).text
    os.kill(pid_of(templates), signal.SIGSTOP)
    with monkeypatch.context() as impatient:
        impatient.setattr(template_process, "PATIENCE_S", 0.1)
        with refuses(Overloaded):
            templates.run(render())

    assert templates.run(render()).text == "<user>hi<s>"


@posix
def test_after_its_process_was_killed_the_next_render_works(templates: TemplateProcess) -> None:
    for _ in range(2):
        os.kill(pid := pid_of(templates), signal.SIGKILL)
        assert templates.run(render()).text == "<user>hi<s>"
        assert templates.pid != pid


@posix
def test_one_that_is_killed_while_nobody_asks_is_buried_and_logged(
    templates: TemplateProcess, caplog: pytest.LogCaptureFixture
) -> None:
    assert templates.run(render()).text
    os.kill(pid := pid_of(templates), signal.SIGKILL)

    wait_until(lambda: not psutil.pid_exists(pid) and templates.pid is None)  # no zombie either
    wait_until(lambda: any("SIGKILL" in record.getMessage() for record in caplog.records))
    assert templates.run(render()).text == "<user>hi<s>"


@posix
def test_one_that_ends_with_the_program_is_not_complained_of(
    templates: TemplateProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert templates.run(render()).text
    monkeypatch.setattr(template_process, "is_ending", lambda: True)
    os.kill(pid := pid_of(templates), signal.SIGKILL)

    wait_until(lambda: templates.pid != pid)
    assert templates.run(render()).text == "<user>hi<s>"  # whoever asks meanwhile still gets an answer
    assert not caplog.records


@posix
def test_a_question_that_ends_its_process_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    dies = "import os; input(); os.kill(os.getpid(), 11)"
    monkeypatch.setattr(template_process, "_command", lambda: [sys.executable, "-c", dies])
    templates = TemplateProcess()
    with refuses(BadTemplate):
        templates.run(render())
    templates.close()


def test_where_no_process_can_be_started_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(template_process, "_command", lambda: ["/nowhere/python"])
        templates = TemplateProcess()
        with refuses(WorkerCrashed):
            templates.run(render())
    # The next question starts one, or the one behind it: the thread may already have failed again.
    wait_until(lambda: starts(templates))
    templates.close()


def starts(templates: TemplateProcess) -> bool:
    try:
        return bool(templates.run(render()).text)
    except WorkerCrashed:
        return False


@posix
@pytest.mark.usefixtures("uncharged")
def test_closing_ends_a_render_at_hand_and_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = template_process._command()
    monkeypatch.setattr(template_process, "_command", lambda: [*whole[:-1], "600"])
    templates = TemplateProcess()
    pid = pid_of(templates)
    asked = [templates.ask(render(HANGS)), templates.ask(render())]
    wait_until(lambda: psutil.Process(pid).cpu_times().user > 0.5)
    templates.close()
    templates.close()

    for answer in asked:
        check_refusal(answer.exception(PATIENCE_S), Closed)
    with refuses(Closed):
        templates.run(render())
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("content", ["\ud800", object()])
def test_what_cannot_be_sent_is_refused(templates: TemplateProcess, content: object) -> None:
    with refuses(UsageError, param="messages", varies="object at 0x[0-9a-f]+"):
        templates.run(render(content=content))


@pytest.mark.usefixtures("own_templates")
@pytest.mark.parametrize("isolate", [True, False], ids=["process", "thread"])
def test_it_ends_with_its_model(isolate: bool) -> None:
    with EdgeLLM.load("echo", isolate=isolate) as llm:
        assert llm.chat("hello").text == "hello"
        closed = psutil.Process(pid_of(llm._templates))  # type: ignore[attr-defined]
    dropped = EdgeLLM.load("echo", isolate=isolate)
    left = psutil.Process(pid_of(dropped._templates))  # type: ignore[attr-defined]
    del dropped
    gc.collect()

    assert not closed.is_running()
    wait_until(lambda: not left.is_running())


def test_a_model_without_a_template_has_none() -> None:
    templates = TemplateProcess(lambda: False)
    wait_until(lambda: not templates._thread.is_alive())
    assert templates.pid is None
    with refuses(Closed):
        templates.run(render())


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_is_confined(templates: TemplateProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    secretive = TemplateProcess()
    assert secretive.run(render()).text
    process = psutil.Process(pid_of(secretive))
    status = Path(f"/proc/{process.pid}/status").read_text()
    core, memory = (process.rlimit(kind) for kind in (psutil.RLIMIT_CORE, psutil.RLIMIT_AS))
    environment = process.environ()
    secretive.close()

    assert "NoNewPrivs:\t1" in status
    assert (core, memory) == ((0, 0), (template_jobs.MEMORY_BYTES, template_jobs.MEMORY_BYTES))
    assert "HF_TOKEN" not in environment


def test_no_thread_is_started_for_a_question(templates: TemplateProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    templates.run(CapsJob(TemplateSource("{{ messages[0].content }}")))
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    for _ in range(3):
        templates.run(CapsJob(TemplateSource("{{ messages[0].content }}")))

    assert started == []
