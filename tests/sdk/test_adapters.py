"""LoRA adapters in Python: loaded with the model or later, named in a call, dropped, and refused by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loras import random_lora, tiny_with
from support.refusals import refuses

from edgellm import EdgeLLM, UnknownAdapter
from edgellm.app import launch
from edgellm.errors import BadArtifact, NothingFits, TimedOut, UnsupportedArtifact, UsageError
from edgellm.runtime.supervisor import WorkerSession
from edgellm.types.adapter import AskedAdapters
from edgellm.types.options import LaunchOptions
from edgellm.types.reason import AdaptersBeside
from edgellm.types.request import GenerationRequest
from edgellm.units import GIB


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    return tiny_with(tmp_path_factory.mktemp("made"), "mail", "tone", "late")


@pytest.fixture(scope="module")
def llm(made: tuple[Path, dict[str, Path]]) -> Iterator[EdgeLLM]:
    model, loras = made
    with EdgeLLM.load(model, adapters={"mail": loras["mail"], "tone": loras["tone"]}, slots=3, threads=1) as loaded:
        yield loaded


@contextlib.contextmanager
def stopped(llm: EdgeLLM) -> Iterator[None]:
    """In the block the model reads nothing."""
    session = llm._session
    assert isinstance(session, WorkerSession)
    os.kill(session.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(session.pid, signal.SIGCONT)


def say(llm: EdgeLLM, adapters: AskedAdapters | None = None) -> str:
    return llm.chat("in the on the other", temperature=0, max_tokens=12, adapters=adapters).text


def test_a_call_names_the_adapters_that_answer(llm: EdgeLLM) -> None:
    base, mail, both = say(llm), say(llm, "mail"), say(llm, {"mail": 1.0, "tone": 0.5})
    assert len({base, mail, both}) == 3
    assert (say(llm), say(llm, ["mail"]), say(llm, [("mail", 1.0)])) == (base, mail, mail)
    assert say(llm, {"mail": 0.0}) == base
    assert [file.name for file in llm.adapters] == ["mail", "tone"]


def test_one_is_added_and_removed_while_it_runs(llm: EdgeLLM, made: tuple[Path, dict[str, Path]]) -> None:
    with refuses(UnknownAdapter, adapter="late", param="adapters"):
        say(llm, "late")
    added = llm.add_adapter(made[1]["late"])
    assert (added.name, added.path) == ("late", str(made[1]["late"]))
    assert added.bytes > 0
    late = say(llm, "late")
    assert late != say(llm)
    with refuses(UsageError, param="adapters"):
        llm.add_adapter(made[1]["late"])
    llm.remove_adapter("late")
    with refuses(UnknownAdapter, adapter="late"):
        llm.remove_adapter("late")
    llm.add_adapter(made[1]["late"], "late-again")
    assert say(llm, "late-again") == late
    llm.remove_adapter("late-again")
    assert [file.name for file in llm.adapters] == ["mail", "tone"]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_what_is_late_is_done_later(llm: EdgeLLM, made: tuple[Path, dict[str, Path]]) -> None:
    for change, names in (
        (lambda: llm.add_adapter(made[1]["late"], timeout=0.05), ["mail", "tone", "late"]),
        (lambda: llm.remove_adapter("late", timeout=0.05), ["mail", "tone"]),
    ):
        with stopped(llm), refuses(TimedOut, timeout=0.05):
            change()
        say(llm)  # answers come in order
        assert [file.name for file in llm.adapters] == names


@pytest.mark.parametrize("asked", [{"mail": "1"}, [("mail", "1")], {"mail": b"1"}, {"mail": True}])
def test_a_scale_is_a_number(llm: EdgeLLM, asked: Any) -> None:
    with refuses(UsageError, param="adapters"):
        say(llm, asked)


def test_coroutines_do_the_same(llm: EdgeLLM, made: tuple[Path, dict[str, Path]]) -> None:
    async def turn() -> tuple[str, str]:
        await llm.aadd_adapter(made[1]["late"], "async")
        answers = await asyncio.gather(
            *(llm.achat("the on", temperature=0, max_tokens=8, adapters=one) for one in ("async", "mail"))
        )
        await llm.aremove_adapter("async")
        return answers[0].text, answers[1].text

    late, mail = asyncio.run(turn())
    assert late != mail


def test_a_thread_has_adapters_too(made: tuple[Path, dict[str, Path]]) -> None:
    model, loras = made
    with EdgeLLM.load(model, isolate=False, threads=1, adapters=[loras["mail"]]) as loaded:
        assert [file.name for file in loaded.adapters] == ["mail"]
        mail = say(loaded, "mail")
        loaded.add_adapter(loras["tone"])
        assert len({say(loaded), mail, say(loaded, "tone")}) == 3


def test_the_plan_counts_them_and_says_so(llm: EdgeLLM) -> None:
    assert llm.plan.footprint is not None
    reason = next(reason for reason in llm.plan.reasons if isinstance(reason, AdaptersBeside))
    assert llm.plan.footprint.adapter_bytes == reason.needed_bytes == sum(file.bytes for file in llm.plan.adapters)
    assert reason.names == ("mail", "tone")
    assert "mail, tone" in llm.explain()


def test_what_is_measured_with_adapters_is_not_learned_of_the_model(llm: EdgeLLM) -> None:
    say(llm)
    llm.verification.record(llm.verification._measurements())
    assert llm.verification.run is None


def test_a_model_leaves_room_for_them(made: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    model, _ = made
    alone, _ = launch.plan(str(model), LaunchOptions.of(ctx=256))
    assert alone.footprint is not None
    big = random_lora(tmp_path / "big.gguf", model, rank=2048)
    most = alone.footprint.resident_bytes + big.stat().st_size // 2
    launch.plan(str(model), LaunchOptions.of(ctx=256, max_memory=most))
    launch.plan(str(model), LaunchOptions.of(ctx=256, max_memory=GIB, adapters=big))
    with refuses(NothingFits, varies=r"[\d.]+ [MG]iB|[\d,]+ tokens"):
        launch.plan(str(model), LaunchOptions.of(ctx=256, max_memory=most, adapters=big))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{}", "mail"), ("letters={}", "letters"), ("{folder}/named/adapter.gguf", "named"),
        ("{folder}/a=b.gguf", "a-b"), ("{folder}/.hidden one.gguf", "hidden-one"),
    ],
)  # fmt: skip
def test_an_adapter_has_the_name_of_its_file(
    text: str, name: str, made: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    model, loras = made
    (tmp_path / "named").mkdir()
    for other in ("named/adapter.gguf", "a=b.gguf", ".hidden one.gguf"):
        (tmp_path / other).write_bytes(loras["mail"].read_bytes())
    plan, _ = launch.plan(str(model), LaunchOptions.of(adapters=text.format(loras["mail"], folder=tmp_path)))
    assert [file.name for file in plan.adapters] == [name]


def test_what_does_not_fit_is_refused_before_the_model_is_loaded(
    made: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    model, loras = made
    mail = loras["mail"]
    (tmp_path / "text.gguf").write_text("no adapter")
    with refuses(BadArtifact):
        launch.plan(str(model), LaunchOptions.of(adapters=tmp_path / "text.gguf"))
    with refuses(UnsupportedArtifact):
        launch.plan(str(model), LaunchOptions.of(adapters=model))
    with refuses(UsageError, param="adapters"):
        launch.plan(str(model), LaunchOptions.of(adapters=[mail, mail]))
    with refuses(UsageError, param="adapters"):
        launch.plan(str(model), LaunchOptions.of(adapters={"Q4_K_M": mail}))
    with refuses(UsageError, param="adapters"):
        launch.plan(str(model), LaunchOptions.of(adapters=3))
    with refuses(UnsupportedArtifact):
        launch.plan("echo", LaunchOptions.of(adapters=mail))


def test_a_request_that_is_made_by_hand_names_them_too(llm: EdgeLLM) -> None:
    events = list(llm.generate(GenerationRequest("the", max_tokens=2, adapters=(("mail", 1.0),))))
    assert events
    with refuses(UnknownAdapter, adapter="none"):
        list(llm.generate(GenerationRequest("the", max_tokens=2, adapters=(("none", 1.0),))))
