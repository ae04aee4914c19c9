"""LoRA adapters on llama.cpp: they add what dense weights would, each answer has its own, and a crash keeps them.

The models are tiny and of F32, so that nothing is rounded away. Real ones: test_contract.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from support.gguf_decoders import FAMILIES, Decoder
from support.loras import merged, random_factors, random_lora, tiny_with, write_lora
from support.refusals import check_refusal, refuses
from support.waiting import wait_until

from edgellm.contract.engine import AdapterLoader, Engine, SlotInput
from edgellm.contract.manager import plugins
from edgellm.errors import BadArtifact, UnknownAdapter, UnsupportedArtifact, UsageError
from edgellm.runtime.session import Delivery, QueueSink
from edgellm.runtime.supervisor import WorkerSession
from edgellm.types.adapter import AdapterFile, AdapterSet, DropAdapter, LoadAdapter
from edgellm.types.event import Adapters, Delta, Done
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import AdapterRequest, GenerationRequest
from edgellm.types.sampling import Sampling
from edgellm.units import MIB

TOKENS = tuple(range(40, 70))
ROUNDED = 5e-3  # of the largest logit, of one among thousands: the cache is of F16
FOUR = tuple(f"lora-{number}" for number in range(4))


def plan(path: Path | str, adapters: Sequence[AdapterFile] = (), n_slots: int = 5) -> LaunchPlan:
    """One thread: the threads of a library that spins at barriers crawl where other processes run."""
    settings = Settings(n_ctx=256, n_slots=n_slots, n_batch=128)
    return LaunchPlan("gguf", Artifact("gguf", (str(path),), "tiny"), settings, adapters=tuple(adapters))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    return tiny_with(tmp_path_factory.mktemp("tiny"), *FOUR)


@pytest.fixture(scope="module")
def tiny(made: tuple[Path, dict[str, Path]]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def four(made: tuple[Path, dict[str, Path]]) -> dict[str, str]:
    """Path by name."""
    return {name: str(path) for name, path in made[1].items()}


@pytest.fixture
def session(tiny: Path, four: dict[str, str]) -> Iterator[WorkerSession]:
    opened = WorkerSession(plan(tiny, [AdapterFile(name, path) for name, path in four.items()]))
    yield opened
    opened.close()


def open_engine(path: Path) -> Engine:
    return plugins().backend("gguf").open(plan(path))


def rows(engine: Engine, adapters: AdapterSet = ()) -> npt.NDArray[np.float32]:
    """Of each token of the prompt."""
    batch = [SlotInput(0, 0, TOKENS, len(TOKENS), adapters)]
    logits: npt.NDArray[np.float32] = engine.step(batch)[0].copy()
    engine.truncate(0, 0)
    return logits


def check_close(rows: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    largest = abs(expected).max()
    np.testing.assert_allclose(rows, expected, atol=ROUNDED * largest)
    assert abs(rows - expected).mean() <= ROUNDED / 25 * largest


@pytest.mark.parametrize("family", ["llama", "llama untied, one head of keys, biases", "qwen3", "gemma3"])
@pytest.mark.parametrize(("rank", "alpha", "scale"), [(4, 8.0, 1.0), (3, None, 0.5), (8, 8.0, -1.0)])
def test_it_adds_what_its_factors_multiplied_would_add_to_the_weights(
    family: str, rank: int, alpha: float | None, scale: float, tmp_path: Path
) -> None:
    model = FAMILIES[family].write(tmp_path / "model.gguf")
    factors = random_factors(model, rank=rank, size=0.1)
    lora = write_lora(tmp_path / "lora.gguf", model, factors, alpha=alpha)
    whole = merged(tmp_path / "merged.gguf", model, factors, scale * (1.0 if alpha is None else alpha / rank))
    engine, dense = open_engine(model), open_engine(whole)
    assert isinstance(engine, AdapterLoader)
    base = rows(engine)
    engine.load_adapter("lora", str(lora))
    added, expected = rows(engine, (("lora", scale),)), rows(dense)
    again = rows(engine)
    engine.close()
    dense.close()
    assert abs(expected - base).max() > 0.5
    check_close(added, expected)
    assert (again == base).all()


def test_two_at_once_add_up(tiny: Path, tmp_path: Path) -> None:
    both = [random_factors(tiny, seed=seed, size=0.1) for seed in (1, 2)]
    engine = open_engine(tiny)
    assert isinstance(engine, AdapterLoader)
    for name, factors in zip(("a", "b"), both, strict=True):
        engine.load_adapter(name, str(write_lora(tmp_path / f"{name}.gguf", tiny, factors)))
    dense = open_engine(merged(tmp_path / "two.gguf", merged(tmp_path / "one.gguf", tiny, both[0], 1.0), both[1], 0.25))
    check_close(rows(engine, (("a", 1.0), ("b", 0.25))), rows(dense))
    engine.close()
    dense.close()


def test_the_step_after_a_drop_is_the_base_s_and_the_name_is_free(tiny: Path, four: dict[str, str]) -> None:
    engine = open_engine(tiny)
    assert isinstance(engine, AdapterLoader)
    base, one = rows(engine), (("a", 1.0),)
    engine.load_adapter("a", four[FOUR[0]])
    first = rows(engine, one)
    engine.drop_adapter("a")
    assert (rows(engine) == base).all()
    engine.load_adapter("a", four[FOUR[1]])
    assert abs(rows(engine, one) - first).max() > 0.1
    engine.close()


def test_nan_of_an_adapter_reaches_no_other_answer(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that are free are read, too, times zero. The other slots keep what they hold, and it is not copied out."""
    engine = open_engine(tiny)
    assert isinstance(engine, AdapterLoader)
    monkeypatch.setattr(engine, "_state", None)
    base, huge = rows(engine), random_factors(tiny, size=1e30)
    engine.load_adapter("huge", str(write_lora(tmp_path / "huge.gguf", tiny, huge)))
    engine.step([SlotInput(1, 0, TOKENS[:-1], 0, ())])
    # Of a prompt whose answer nobody waited for, and of one that was computed.
    engine.step([SlotInput(0, 0, TOKENS * 3, 0, (("huge", 1.0),))])
    assert engine.truncate(0, 9) == 0
    assert (rows(engine) == base).all()
    assert not np.isfinite(rows(engine, (("huge", 1.0),))).any()
    assert (rows(engine) == base).all()
    assert engine.fork(1, 0, 9) == 9
    last = engine.step([SlotInput(1, len(TOKENS) - 1, TOKENS[-1:], 1, ())])[0]
    check_close(last, base[-1:])
    engine.close()


@pytest.mark.parametrize("n_slots", [1, 5])
def test_a_long_prompt_reads_no_nan_of_an_adapter(
    n_slots: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 64 tokens on, attention computes free cells beside the others. In all slots, or in one beside others."""
    engine, long = open_engine(tiny), TOKENS * 2 + TOKENS[:10]

    def last() -> npt.NDArray[np.float32]:
        engine.truncate(0, 0)
        return engine.step([SlotInput(0, 0, long, 1, ())])[0].copy()

    assert isinstance(engine, AdapterLoader)
    base, huge = last(), random_factors(tiny, size=1e30)
    engine.load_adapter("huge", str(write_lora(tmp_path / "huge.gguf", tiny, huge)))
    for slot in range(n_slots):
        engine.truncate(slot, 0)
        engine.step([SlotInput(slot, 0, TOKENS * 4, 0, (("huge", 1.0),))])
    if n_slots == 1:
        monkeypatch.setattr(engine, "_state", None)  # what the others hold is not copied
    assert (last() == base).all()
    engine.close()


def test_loading_and_dropping_keeps_memory_flat(tiny: Path, tmp_path: Path) -> None:
    lora = str(random_lora(tmp_path / "big.gguf", tiny, rank=512))
    engine = open_engine(tiny)
    assert isinstance(engine, AdapterLoader)

    def turn() -> None:
        engine.load_adapter("a", lora)
        engine.step([SlotInput(0, 0, (40,), 1, (("a", 1.0),))])
        engine.truncate(0, 0)
        engine.drop_adapter("a")

    for _ in range(5):
        turn()
    before = psutil.Process().memory_info().rss
    for _ in range(20):
        turn()
    assert psutil.Process().memory_info().rss - before < 5 * os.path.getsize(lora) + 8 * MIB
    engine.close()


def test_an_adapter_of_another_model_never_reaches_native_code(tiny: Path, tmp_path: Path) -> None:
    other = Decoder(hidden=128, keys={"context_length": 256}).write(tmp_path / "other.gguf")
    engine = open_engine(tiny)
    assert isinstance(engine, AdapterLoader)
    before = rows(engine)
    with refuses(UnsupportedArtifact):
        engine.load_adapter("a", str(random_lora(tmp_path / "lora.gguf", other)))
    with refuses(UnsupportedArtifact):
        engine.load_adapter("a", str(tiny))
    with refuses(BadArtifact):
        engine.load_adapter("a", str(tmp_path / "none.gguf"))
    assert (rows(engine) == before).all()
    engine.close()


def test_one_that_acts_from_certain_tokens_on_is_refused(tiny: Path, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "a.gguf", tiny, random_factors(tiny), invocation_tokens=(5, 6))
    engine = open_engine(tiny)
    assert isinstance(engine, AdapterLoader)
    with refuses(UnsupportedArtifact):
        engine.load_adapter("a", str(lora))
    engine.close()


def request(adapters: AdapterSet = (), prompt: str = "in the on the other hand " * 4, n: int = 12) -> GenerationRequest:
    return GenerationRequest(
        prompt, Sampling(temperature=0), n, ignore_eos=True, adapters=adapters, top_logprobs=0, parse_special=False
    )


def ask(session: WorkerSession, asked: GenerationRequest | AdapterRequest) -> QueueSink:
    sink = QueueSink()
    session.submit(asked, sink)
    return sink


def heard(sink: QueueSink) -> tuple[list[int], list[float], Delivery]:
    """Tokens, logprobs, and the last that came."""
    tokens: list[int] = []
    logprobs: list[float] = []
    while isinstance(outcome := sink.get(), Delta):
        tokens += [told.chosen.token for told in outcome.logprobs]
        logprobs += [told.chosen.logprob for told in outcome.logprobs]
    return tokens, logprobs, outcome


def test_four_in_turn_beside_the_base_answer_as_each_alone(session: WorkerSession) -> None:
    sets: list[AdapterSet] = [(), *(((name, 1.0),) for name in FOUR), ((FOUR[0], 0.5),), ((FOUR[1], 0.0),)]
    alone = [heard(ask(session, request(adapters)))[:2] for adapters in sets]
    assert len({tuple(tokens) for tokens, _ in alone[:6]}) == 6, "the adapters must make a difference"
    sinks = [ask(session, request(adapters)) for _ in range(3) for adapters in sets]
    for (tokens, logprobs, _), (expected, close_to) in zip(map(heard, sinks), alone * 3, strict=True):
        assert tokens == expected
        np.testing.assert_allclose(logprobs, close_to, atol=0.02)
    assert alone[6][0] == alone[0][0], "a scale of 0 is the base"


def test_what_is_cached_is_used_by_the_same_set_only(session: WorkerSession) -> None:
    def n_cached(adapters: AdapterSet) -> int:
        _, _, done = heard(ask(session, request(adapters)))
        assert isinstance(done, Done)
        return done.usage.cached_tokens

    one, two = ((FOUR[0], 1.0),), ((FOUR[1], 1.0),)
    assert [n_cached(adapters) > 0 for adapters in ((), one, two, (), one, two)] == [False] * 3 + [True] * 3
    assert n_cached(((FOUR[0], 0.5),)) == 0


def test_an_adapter_is_loaded_and_dropped_while_others_answer(session: WorkerSession, four: dict[str, str]) -> None:
    expected = heard(ask(session, request(n=100)))[0]
    running = ask(session, request(n=100))
    _, _, loaded = heard(ask(session, LoadAdapter(AdapterFile("late", four[FOUR[2]]))))
    assert isinstance(loaded, Adapters)
    assert [file.name for file in loaded.loaded] == [*FOUR, "late"]
    assert session.adapters == loaded.loaded
    late = heard(ask(session, request((("late", 1.0),))))[0]
    assert late == heard(ask(session, request(((FOUR[2], 1.0),))))[0]
    _, _, dropped = heard(ask(session, DropAdapter("late")))
    assert isinstance(dropped, Adapters)
    assert heard(running)[0] == expected
    check_refusal(heard(ask(session, request((("late", 1.0),))))[2], UnknownAdapter, adapter="late")
    check_refusal(heard(ask(session, LoadAdapter(AdapterFile(FOUR[0], four[FOUR[0]]))))[2], UsageError)


def test_a_worker_that_died_comes_back_with_what_was_loaded_since(
    session: WorkerSession, four: dict[str, str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone.gguf"
    gone.write_bytes(Path(four[FOUR[2]]).read_bytes())
    heard(ask(session, LoadAdapter(AdapterFile("late", four[FOUR[1]]))))
    heard(ask(session, LoadAdapter(AdapterFile("gone", str(gone)))))
    heard(ask(session, DropAdapter(FOUR[3])))
    before = {name: heard(ask(session, request(((name, 1.0),))))[0] for name in (*FOUR[:3], "late", "gone")}
    gone.unlink()
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: session.restarts == 1 and session.state == "ready")
    assert [file.name for file in session.adapters] == [*FOUR[:3], "late"]
    del before["gone"]
    assert {name: heard(ask(session, request(((name, 1.0),))))[0] for name in before} == before
    for name in ("gone", FOUR[3]):
        assert isinstance(heard(ask(session, request(((name, 1.0),))))[2], UnknownAdapter)


def test_a_plan_whose_adapter_does_not_fit_does_not_load(tiny: Path, tmp_path: Path) -> None:
    session = WorkerSession(plan(tiny, [AdapterFile("a", str(tmp_path / "none.gguf"))]))
    with refuses(BadArtifact):
        _ = session.info
    session.close()


def test_nothing_changes_the_files(session: WorkerSession, tiny: Path, four: dict[str, str]) -> None:
    files = [tiny, *map(Path, four.values())]
    before = [hashlib.sha256(path.read_bytes()).digest() for path in files]
    for name in FOUR:
        heard(ask(session, request(((name, 1.0),))))
    heard(ask(session, DropAdapter(FOUR[0])))
    session.close()
    assert [hashlib.sha256(path.read_bytes()).digest() for path in files] == before
