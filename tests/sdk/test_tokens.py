"""What a text is for a model, and how long a prompt will be, without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import onnx_models
from support.refusals import refuses

from edgellm import EdgeLLM, Prefill
from edgellm.errors import ContextOverflow, TimedOut, UsageError
from edgellm.runtime.prompt_reader import LONG_TEXT
from edgellm.runtime.session import Sink
from edgellm.sdk import tokens
from edgellm.sdk.asking import AsksModel, ask_all, without_asking
from edgellm.sdk.tokens import tokenize_each
from edgellm.types.event import Delta, Done
from edgellm.types.message import Message, Tool
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import MAX_IDS, GenerationRequest, Request

TEXT = "Köln 🙂 <|im_end|> costs 3 €."
CHAT = [Message("system", "Be brief."), Message("user", TEXT)]
WEATHER = Tool("weather", "Rain?", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture(scope="module")
def llm() -> Iterator[EdgeLLM]:
    with EdgeLLM.load("echo", isolate=False) as llm:
        yield llm


def test_a_text_comes_back(llm: EdgeLLM) -> None:
    ids = llm.tokenize(TEXT)
    assert llm.detokenize(ids) == TEXT
    assert b"".join(llm.pieces(ids)) == TEXT.encode()
    assert llm.tokenize("") == []
    assert llm.detokenize([]) == ""


async def test_tokens_that_are_late_are_told_as_such(llm: EdgeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm._session, "submit", lambda request, sink: 1)  # nobody answers
    with refuses(TimedOut, timeout=0.01):
        llm.tokenize("ab", timeout=0.01)
    with refuses(TimedOut, timeout=0.01):
        await llm.acount_tokens("ab", timeout=0.01)


def test_many_tokens_are_asked_for_in_portions(llm: EdgeLLM) -> None:
    ids = llm.tokenize("ab") * MAX_IDS
    assert llm.detokenize(ids) == "ab" * MAX_IDS


@pytest.mark.parametrize(("n_chars", "together"), [(1, [4]), (LONG_TEXT // 2, [2, 2]), (LONG_TEXT, [1] * 4)])
def test_of_several_texts_as_many_as_a_step_reads_are_asked_for_together(
    llm: EdgeLLM, monkeypatch: pytest.MonkeyPatch, n_chars: int, together: list[int]
) -> None:
    texts, asked = [letter * n_chars for letter in "abcd"], list[int]()

    def noting(session: Any, batch: list[Any], *rest: Any) -> Any:
        asked.append(len(batch))
        return ask_all(session, batch, *rest)

    monkeypatch.setattr(tokens, "ask_all", noting)
    ids = list(tokenize_each(llm, texts))
    assert asked == together
    assert ids == [list(text.encode()) for text in texts]


@pytest.mark.parametrize(
    "ask",
    [
        lambda llm: llm.tokenize("a"),
        lambda llm: llm.detokenize([97]),
        lambda llm: llm.count_tokens("Hi"),
        lambda llm: llm.embed("a"),
        lambda llm: llm.chat("Hi"),
        lambda llm: list(llm.stream("Hi")),
        lambda llm: llm.request("a" * 8000, truncate=True),
    ],
)
def test_nothing_is_asked_where_nothing_may_wait(llm: EdgeLLM, ask: Callable[[EdgeLLM], Any]) -> None:
    with without_asking(), pytest.raises(AsksModel):
        ask(llm)
    assert llm._session.idle
    ask(llm)


def test_portions_are_asked_for_one_after_another(llm: EdgeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others ask for meanwhile comes in between."""
    session, n_open = llm._session, list[int]()
    submit = session.submit

    def noting(request: Request, sink: Sink) -> int:
        n_open.append(len(session._dispatcher))
        return submit(request, sink)

    monkeypatch.setattr(session, "submit", noting)
    ids = [1] * (3 * MAX_IDS)
    assert llm.pieces(ids) == asyncio.run(llm.apieces(ids))
    assert n_open == [0] * 6


def test_half_a_character_is_a_piece_and_no_text(llm: EdgeLLM) -> None:
    first, *_ = llm.tokenize("é")
    assert llm.pieces([first]) == ["é".encode()[:1]]
    assert llm.detokenize([first]) == "\ufffd"


@pytest.mark.parametrize("ids", [[0.5], ["a"], 7, [10**9], [np.array([1])]], ids=str)
def test_what_is_no_token_is_refused(llm: EdgeLLM, ids: Any) -> None:
    with refuses(UsageError):
        llm.pieces(ids)


def test_coroutines_get_the_same(llm: EdgeLLM) -> None:
    async def ask() -> tuple[list[int], str, list[bytes], int]:
        ids = await llm.atokenize(TEXT, add_bos=True)
        return ids, await llm.adetokenize(ids), await llm.apieces(ids), await llm.acount_tokens(CHAT, tools=[WEATHER])

    ids = llm.tokenize(TEXT, add_bos=True)
    same = (ids, llm.detokenize(ids), llm.pieces(ids), llm.count_tokens(CHAT, tools=[WEATHER]))
    assert asyncio.run(ask()) == same


def test_a_count_goes_beyond_the_context(llm: EdgeLLM) -> None:
    """Who asks wants to know how much too long it is."""
    n_ctx = llm.info.n_ctx
    assert llm.count_tokens("a" * (2 * n_ctx)) > 2 * n_ctx
    with refuses(ContextOverflow):
        llm.count_tokens("a" * (200 * n_ctx))


def test_a_stream_tells_how_the_prompt_is_read_only_where_that_is_asked(llm: EdgeLLM) -> None:
    plain = list(llm.stream("Hi there", max_tokens=2))
    told = list(llm.stream("Hi there", max_tokens=2, progress=True))
    assert not any(isinstance(event, Prefill) for event in plain)
    first = told[0]
    assert isinstance(first, Prefill)
    assert first.total == llm.count_tokens("Hi there")
    assert [type(event) for event in told if not isinstance(event, Prefill)] == [type(event) for event in plain]
    assert {type(event) for event in plain} == {Delta, Done}

    async def ask() -> list[type]:
        return [type(event) async for event in llm.astream("Hi there", max_tokens=2, progress=True)]

    assert Prefill in asyncio.run(ask())


def check_counts(llm: EdgeLLM) -> None:
    """Those of prompts that are answered, which the engine has counted itself."""
    for options in ({}, {"tools": [WEATHER]}):
        count = llm.count_tokens(CHAT, **options)
        assert count == llm.chat(CHAT, max_tokens=1, **options).usage.prompt_tokens
    request = GenerationRequest(TEXT, max_tokens=1)
    (done,) = [event for event in llm.generate(request) if isinstance(event, Done)]
    assert llm.count_tokens(request) == len(llm.tokenize(TEXT, special=True, add_bos=True)) == done.usage.prompt_tokens
    assert llm.detokenize(llm.tokenize(TEXT, special=True)).strip() == TEXT


@pytest.mark.parametrize("isolate", [True, False], ids=["process", "thread"])
def test_counts_are_those_of_the_answers(isolate: bool) -> None:
    with EdgeLLM.load("echo", isolate=isolate) as llm:
        check_counts(llm)


def _gguf(folder: Path, smollm2: str) -> LaunchPlan:
    return LaunchPlan("gguf", Artifact("gguf", (smollm2,), "SmolLM2"), Settings(1024, n_slots=1))


def _bitnet(folder: Path, smollm2: str) -> LaunchPlan:
    from edgellm_bitnet.models import TINY_TERNARY

    path = TINY_TERNARY.files[0].source.removeprefix("file:")
    return LaunchPlan("bitnet", Artifact("gguf", (path,), "tiny"), Settings(1024, n_slots=1))


def _onnx(folder: Path, smollm2: str) -> LaunchPlan:
    made = onnx_models.shared(folder / "onnx", onnx_models.Tiny(positions=1024))
    return LaunchPlan("onnx", Artifact("onnx", (str(made),), "tiny"), Settings(1024, n_slots=1))


@pytest.mark.slow(20)
@pytest.mark.parametrize("plan", [_gguf, _bitnet, _onnx])
def test_counts_are_those_of_the_answers_of_models(
    plan: Callable[[Path, str], LaunchPlan], tmp_path: Path, smollm2: str
) -> None:
    with EdgeLLM(plan(tmp_path, smollm2)) as llm:
        check_counts(llm)
        marker = llm.info.special_texts[0]
        (token,) = llm.tokenize(marker, special=True)
        assert len(llm.tokenize(marker)) > 1
        assert llm.detokenize([token]) == marker


@pytest.mark.parametrize("ids", [[-1], ["a"], 5])
def test_what_is_wrong_with_ids_is_told_of_them(llm: EdgeLLM, ids: Any) -> None:
    with refuses(UsageError, param="ids") as caught:
        llm.detokenize(ids)
    assert "tokens" not in caught.value.message
