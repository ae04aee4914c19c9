"""An engine that is not as the contract says does not open, and a wrong answer of a step ends one request."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import fake_plugins
from support.mixes import Planned, play
from support.refusals import check_refusal, refuses
from support.toy_engine import VOCAB, ToyEngine

from edgellm.builtin.echo import EchoBackend
from edgellm.contract.embedder import EmbeddingInfo
from edgellm.errors import BackendError, UnsupportedTask
from edgellm.runtime.checked_tokenizer import CheckedTokenizer
from edgellm.runtime.engine_check import check_kept, open_engine, wrong_engine
from edgellm.runtime.engine_error import close_engine
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

PLAN = LaunchPlan("odd", Artifact("odd", (), "odd"), Settings(n_ctx=256, n_slots=3))


class Odd(EchoBackend):
    """Opens the toy engine, with one thing wrong."""

    name = "odd"

    def __init__(self, spoil: Callable[[ToyEngine], Any]) -> None:
        self._spoil = spoil

    def open(self, plan: LaunchPlan) -> Any:
        return self._spoil(ToyEngine())


def with_info(**fields: Any) -> Callable[[ToyEngine], ToyEngine]:
    def spoil(engine: ToyEngine) -> ToyEngine:
        engine.info = dataclasses.replace(engine.info, **fields)
        return engine

    return spoil


def with_attributes(**attributes: Any) -> Callable[[ToyEngine], ToyEngine]:
    def spoil(engine: ToyEngine) -> ToyEngine:
        for name, value in attributes.items():
            setattr(engine, name, value)
        return engine

    return spoil


def with_capability(
    name: str, embedding: EmbeddingInfo | None = None, **methods: Any
) -> Callable[[ToyEngine], ToyEngine]:
    has = with_info(capabilities=frozenset({name}), embedding=embedding)
    return lambda engine: with_attributes(**methods)(has(engine))


class NoFork:
    """Everything that an engine has, but for one method."""

    def __init__(self, engine: ToyEngine) -> None:
        self.info, self.tokenizer = engine.info, engine.tokenizer
        self.step, self.truncate, self.close = engine.step, engine.truncate, engine.close


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: None, id="nothing"),
        pytest.param(NoFork, id="method"),
        pytest.param(with_attributes(step=7), id="step"),
        pytest.param(with_attributes(info=None), id="info"),
        pytest.param(with_attributes(tokenizer=None), id="tokenizer"),
        pytest.param(with_info(n_slots=0), id="n_slots"),
        pytest.param(with_info(generates=False), id="does nothing"),
        pytest.param(with_info(n_ctx=0), id="n_ctx"),
        pytest.param(with_info(vocab_size="many"), id="vocab_size"),
        pytest.param(with_info(vocab_size=10**9), id="vocab_size_huge"),
        pytest.param(with_info(max_batch_tokens=2), id="max_batch_tokens"),
        pytest.param(with_info(max_logits=1), id="max_logits"),
        pytest.param(with_info(eos_ids=frozenset({VOCAB})), id="eos_beyond"),
        pytest.param(with_info(eos_ids=0), id="eos_no_set"),
        pytest.param(with_info(n_ctx=10**30), id="n_ctx_huge"),
        pytest.param(with_info(allocated_bytes="lots"), id="allocated_text"),
        pytest.param(with_info(allocated_bytes=2**61), id="allocated_huge"),
        pytest.param(with_info(rewind_tokens=-1), id="rewind_negative"),
        pytest.param(with_info(device=None), id="device"),
        pytest.param(with_info(device="\ud800"), id="device_surrogate"),
        pytest.param(with_info(capabilities=None), id="capabilities"),
        pytest.param(with_info(details={"x": Path("y")}), id="details_object"),
        pytest.param(with_info(details={"x": "y" * 9_000_000}), id="details_large"),
        pytest.param(with_info(special_texts=("</s>", 7)), id="special_texts"),
        pytest.param(with_info(embedding="mean"), id="embedding"),
        pytest.param(with_capability("embed"), id="no embed"),
        pytest.param(with_capability("rerank"), id="no rerank"),
        pytest.param(with_capability("save_slot"), id="no save_slot"),
        pytest.param(with_capability("embedding"), id="capability unknown"),
        pytest.param(with_capability("adapters", load_adapter=print, drop_adapter=lambda: None), id="drop_adapter"),
        pytest.param(with_capability("embed", embed=print), id="vectors_untold"),
        pytest.param(with_capability("embed", embed=print, embedding=EmbeddingInfo("mean")), id="vectors_empty"),
    ],
)
def test_an_engine_that_is_wrong_is_refused_when_it_opens(spoil: Callable[[ToyEngine], Any]) -> None:
    with refuses(BackendError):
        open_engine(Odd(spoil), PLAN)


def test_an_engine_that_is_right_opens_and_an_encoder_needs_no_token_for_each_slot() -> None:
    assert open_engine(Odd(lambda engine: engine), PLAN).info.n_slots == 3
    embeds = with_info(
        generates=False,
        max_batch_tokens=1,
        capabilities=frozenset({"embed"}),
        embedding=EmbeddingInfo("mean"),
        n_embd=4,
    )
    assert wrong_engine(with_attributes(embed=print)(embeds(ToyEngine()))) == ""


def test_kinds_of_collections_that_a_frame_does_not_tell_apart_are_taken() -> None:
    spoil = with_info(eos_ids={1}, special_texts=["</s>"], details={"x": np.str_("y")})
    assert wrong_engine(spoil(ToyEngine())) == ""


def test_what_open_raises_names_the_backend_and_the_line_and_errors_of_ours_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def rotten(_: ToyEngine) -> ToyEngine:
        raise RuntimeError("weights are rotten")

    def encoder(_: ToyEngine) -> ToyEngine:
        raise UnsupportedTask("no")

    with caplog.at_level(logging.WARNING), refuses(BackendError, varies=r"line \d+"):
        open_engine(Odd(rotten), PLAN)
    assert "weights are rotten" in (caplog.records[0].exc_text or "")
    with refuses(UnsupportedTask):
        open_engine(Odd(encoder), PLAN)


ASK = GenerationRequest("a question", Sampling(temperature=0), max_tokens=4)


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(lambda rows: None, id="none"),
        pytest.param(lambda rows: [], id="too_few"),
        pytest.param(lambda rows: (row for row in rows), id="generator"),
        pytest.param(lambda rows: [*rows, *rows], id="too_many"),
        pytest.param(lambda rows: [row[0] for row in rows], id="flat"),
        pytest.param(lambda rows: [np.hstack([row, row]) for row in rows], id="too_wide"),
        pytest.param(lambda rows: [row.tolist() for row in rows], id="lists"),
    ],
)
def test_logits_of_a_wrong_shape_end_their_request_and_nothing_else(logits: Callable[[Any], Any]) -> None:
    engine = ToyEngine()
    whole = engine.step

    def step(batch: Any) -> Any:
        rows = whole(batch)
        return logits(rows) if len(engine.steps) == 1 else rows

    engine.step = step  # type: ignore[method-assign]
    first, second = play(engine, [Planned(ASK), Planned(ASK, arrives=5)])

    check_refusal(first.error, BackendError)
    assert second.error is None
    assert second.text


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(None, id="none"),
        pytest.param([b"a", b"b"], id="alone"),
        pytest.param(([b"a", "b"], frozenset()), id="text"),
        pytest.param(([b"a", b"b"], frozenset({7})), id="short"),
        pytest.param(([b"a"] * (VOCAB + 1), frozenset()), id="long"),
    ],
)
def test_pieces_that_are_none_are_the_backend_s_fault(pieces: Any) -> None:
    tokenizer = ToyEngine().tokenizer
    tokenizer.pieces = lambda: pieces  # type: ignore[method-assign]
    with refuses(BackendError):
        CheckedTokenizer(tokenizer, "odd", VOCAB).pieces()


def test_pieces_as_the_contract_says_pass() -> None:
    assert CheckedTokenizer(ToyEngine().tokenizer, "odd", VOCAB).pieces() == ToyEngine().tokenizer.pieces()


def test_a_tokenizer_that_gives_text_for_bytes_ends_its_request_and_nothing_else() -> None:
    engine = ToyEngine()
    token_bytes = engine.tokenizer.token_bytes
    said: list[int] = []

    def broken(token: int) -> Any:
        said.append(token)
        return "text" if len(said) == 1 else token_bytes(token)

    engine.tokenizer.token_bytes = broken  # type: ignore[method-assign]
    first, second = play(engine, [Planned(ASK), Planned(ASK, arrives=5)])

    check_refusal(first.error, BackendError)
    assert second.error is None
    assert second.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "gave None,"),
        ([], "gave no tokens for a text of 10 characters,"),
        ("ab", "gave 'ab',"),
        ([1.0, 2.0], "gave a list of float,"),
        ([1, VOCAB], f"gave token {VOCAB},"),
        ([-1], "gave token -1,"),
        (1, "gave 1,"),
    ],
)
def test_a_tokenizer_that_gives_no_tokens_is_at_fault_and_not_who_asked(given: Any, words: str) -> None:
    engine = ToyEngine()
    encode, asked = engine.tokenizer.encode, []

    def broken(text: str, **options: bool) -> Any:
        asked.append(text)
        return given if len(asked) == 1 else encode(text, **options)

    engine.tokenizer.encode = broken  # type: ignore[method-assign,assignment]
    first, second = play(engine, [Planned(ASK), Planned(ASK, arrives=5)])

    assert isinstance(first.error, BackendError)
    assert f"encode() of the engine {words}" in first.error.message
    assert second.text


def test_tokens_of_other_kinds_are_pythons_own_and_a_blank_text_may_have_none() -> None:
    tokenizer = SimpleNamespace(encode=lambda text, **_: np.array([5, 6]) if text.strip() else ())
    checked = CheckedTokenizer(tokenizer, "odd", VOCAB)  # type: ignore[arg-type]

    tokens = checked.encode("a", add_special=True, parse_special=True)

    assert (tokens, {*map(type, tokens)}) == ([5, 6], {int})
    assert checked.encode(" \n", add_special=False, parse_special=False) == []


def test_a_tokenizer_whose_texts_are_none_is_at_fault() -> None:
    tokenizer = SimpleNamespace(token_bytes=lambda token: "a", text=lambda token: b"a")
    checked = CheckedTokenizer(tokenizer, "odd", VOCAB)  # type: ignore[arg-type]
    with refuses(BackendError):
        checked.token_bytes(3)
    with refuses(BackendError):
        checked.text(3)


@pytest.mark.parametrize(("method", "kept"), [("truncate", None), ("truncate", 9), ("fork", -1), ("fork", None)])
def test_a_method_that_does_not_say_what_it_keeps_is_named(method: str, kept: object) -> None:
    with refuses(BackendError):
        check_kept("odd", method, kept, 8)
    assert check_kept("odd", method, np.int64(8), 8) == 8


def test_the_error_of_an_engine_that_does_not_say_what_it_keeps_is_the_last_word() -> None:
    engine = with_attributes(truncate=lambda slot, n_tokens: None)(ToyEngine())
    with refuses(BackendError):
        play(engine, [Planned(ASK)])


@pytest.mark.parametrize("spoil", ["raise KeyboardInterrupt", "os._exit(3)"])
def test_an_engine_that_ends_its_worker_is_named(tmp_path: Path, spoil: str) -> None:
    code = FAILS.replace("METHOD", "step").replace('{}["x"]', "ends()")
    code = f"import os\ndef ends():\n    {spoil}\n{code}"
    fake_plugins.install(tmp_path, "fails", code)
    is_last = spoil.startswith("raise")

    done = fake_plugins.run_edgellm(tmp_path, "fails", tmp_path, "run", "fails", "hi", code=6 if is_last else 7)

    told = " ".join(done.stderr.split())
    assert "Traceback" not in told
    assert (
        "the fails backend failed: KeyboardInterrupt"
        if is_last
        else "as the fails backend of plugin fails (edgellm-fails 1.0) or the model"
    ) in told


FAILS = """
from edgellm.builtin.echo import EchoBackend
from edgellm.contract.hookspecs import hookimpl

class Fails(EchoBackend):
    name, formats = "fails", frozenset({"fails"})
    def supports(self, artifact): return []
    def open(self, plan):
        engine = super().open(plan)
        engine.METHOD = lambda *things, **named: {}["x"]
        return engine

@hookimpl
def register_backends(register):
    register(Fails())
"""


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("step", "ERROR"),
        pytest.param("step", "DEBUG", marks=pytest.mark.slow(2)),
        pytest.param("tokenizer.encode", "DEBUG", marks=pytest.mark.slow(2)),
        ("truncate", "DEBUG"),
    ],
)
def test_the_error_names_the_line_and_the_log_has_the_traceback(tmp_path: Path, method: str, level: str) -> None:
    """In mid-answer, and where the worker ends of it."""
    fake_plugins.install(tmp_path, "fails", FAILS.replace("METHOD", method))

    done = fake_plugins.run_edgellm(tmp_path, "fails", tmp_path, "run", "fails", "hi", code=6, EDGELLM_LOG=level)

    place = f"KeyError: 'x' ({tmp_path}/fake_fails.py, line 10)"
    told = " ".join(done.stderr.split())
    assert f"the fails backend failed: {place}" in told
    assert "plugin fails (edgellm-fails 1.0) or the model file is at fault" in told
    assert ("Traceback" in done.stderr) == (level == "DEBUG")
    assert ('fake_fails.py", line 10' in done.stderr) == (level == "DEBUG")


def exits(_: object) -> Any:
    raise SystemExit(7)


def interrupts(_: object) -> Any:
    raise KeyboardInterrupt


def test_an_engine_that_interrupts_the_process_failed_as_any_other() -> None:
    with refuses(BackendError, varies=r"line \d+"):
        open_engine(Odd(interrupts), PLAN)


def test_an_engine_that_calls_for_the_end_of_the_process_failed_as_any_other() -> None:
    with refuses(BackendError):
        open_engine(Odd(exits), PLAN)


def test_what_close_raises_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    close_engine("odd", with_attributes(close=lambda: exits(None))(ToyEngine()))

    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("ERROR", None)
    assert "SystemExit: 7" in record.getMessage()
