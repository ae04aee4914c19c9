"""From a file of examples to an adapter in the store, with a toy for a tuner: what is refused, and what ends it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import toy_tuner
from support.gguf_decoders import Decoder, byte_level
from support.refusals import refuses

from edgellm.adaptation.worker import TuneStop
from edgellm.contract.backend import Advice
from edgellm.contract.manager import plugins
from edgellm.errors import (
    BackendUnavailable,
    DiskFull,
    EdgeLLMError,
    NothingFits,
    UnsupportedArtifact,
    UsageError,
    WorkerCrashed,
)
from edgellm.sdk.tuning import plan_tuning, tune
from edgellm.store.adapters import AdapterStore
from edgellm.store.holders import holders
from edgellm.types.tuning import TuneEvaluation, TuneEvent, TuneFinished, TuneFootprint, TuneProgress, TuneStarted

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
ROWS = [{"prompt": f"a tin of {number} on", "completion": "the" if number % 2 else "in"} for number in range(60)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary = byte_level(288) | {"tokenizer.chat_template": TEMPLATE}
    return Decoder(keys={"context_length": 256}, vocabulary=vocabulary).write(
        tmp_path_factory.mktemp("b") / "tiny.gguf"
    )


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toy_tuner.ToyTuner:
    tuner = toy_tuner.ToyTuner()
    monkeypatch.setattr(plugins(), "_tuners", {"toy": tuner})
    toy_tuner.install(tmp_path, monkeypatch, "gguf")
    monkeypatch.setenv("TOY", "")
    return tuner


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[object] = ROWS) -> Path:
        path = tmp_path / "mail.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return write


OPTIONS = {"batch": 2, "epochs": 3, "learning_rate": 0.5, "held_out": 0.4, "threads": 1}


def test_examples_become_an_adapter(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    events: list[TuneEvent] = []
    tuned = tune(base, data(), on_event=events.append, **OPTIONS)

    assert [type(event) for event in (events[0], events[-1])] == [TuneStarted, TuneFinished]
    assert {TuneProgress, TuneEvaluation} <= {type(event) for event in events}
    assert tuned is not None
    [stored] = AdapterStore().installed()
    assert (stored.label, str(stored.path)) == (tuned.model, tuned.path) == ("tiny:mail", tuned.path)
    assert tuned.loss_after < tuned.loss_before
    assert tuned.gain is not None
    assert tuned.gain.n_rows == 12
    figures = stored.sound().figures
    assert figures["loss_after"] == tuned.loss_after
    assert figures["accuracy_n_rows"] == 12
    assert not list(stored.folder.parents[2].glob("tuning/*/*")), "nothing of the data stays"
    with refuses(UsageError, param="name"):
        plan_tuning(base, data(), **OPTIONS)


def test_the_plan_says_what_it_takes(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    preview = plan_tuning(base, data([*ROWS, "{", {"prompt": "a", "completion": ""}]), **OPTIONS)

    assert (preview.tuner, preview.name, preview.n_examples, preview.n_held_out) == ("toy", "mail", 36, 24)
    assert preview.choice.footprint.needed_bytes == 9 * 1024**2
    assert preview.n_tokens == 3 * preview.size.n_tokens
    assert (preview.report.n_lines, preview.report.n_refused) == (62, 2)
    assert [(one.line, one.kind) for one in preview.report.problems] == [(61, "not_json"), (62, "empty_answer")]
    assert not preview.resumes


def test_time_bounds_the_steps(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    whole = plan_tuning(base, data(), **OPTIONS)
    less = plan_tuning(base, data(), time=whole.choice.wall_s / 2, **OPTIONS)

    assert 0 < less.n_steps < 0.6 * whole.n_steps
    with refuses(UsageError, param="time"):
        plan_tuning(base, data(), time="soon", **OPTIONS)


def test_memory_is_known_before_it_starts(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "footprint", lambda base, s, size: TuneFootprint(*[s.batch * s.length * 1024] * 9))
    free = {name: value for name, value in OPTIONS.items() if name != "batch"}
    budget = 9 * 1024 * 128 * 2

    assert plan_tuning(base, data(), max_memory=budget, length=128, **free).choice.settings.batch <= 2
    with refuses(NothingFits):
        plan_tuning(base, data(), max_memory=budget, length=256, batch=8, **free)
    with refuses(NothingFits):
        plan_tuning(base, data(), max_memory=1024, **free)


@pytest.mark.parametrize(
    ("fate", "error"),
    [("killed", WorkerCrashed), ("full", DiskFull)],
)
def test_what_was_ended_goes_on(
    base: Path,
    toy: toy_tuner.ToyTuner,
    data: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    fate: str,
    error: type[EdgeLLMError],
) -> None:
    monkeypatch.setenv("TOY", fate)
    with refuses(error):
        tune(base, data(), **OPTIONS)
    monkeypatch.setenv("TOY", "")
    assert plan_tuning(base, data(), **OPTIONS).resumes
    assert not plan_tuning(base, data(), **OPTIONS | {"seed": 1}).resumes
    tuned = tune(base, data(), **OPTIONS)

    assert tuned is not None
    assert tuned.loss_before is not None, "of the first run"


def test_asked_to_end(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    stop = TuneStop()
    options = OPTIONS | {"epochs": 1000}

    assert tune(base, data(), on_event=lambda event: stop.ask(), stop=stop, **options) is None
    assert plan_tuning(base, data(), **options).resumes
    assert not AdapterStore().installed()


@pytest.mark.parametrize(
    ("rows", "param"),
    [
        (["{"], "data"),
        ([], "data"),
        ([{"chosen": "a", "rejected": "b"}], "data"),
        ([{"messages": [{"role": "user", "content": "in"}]}], "data"),
    ],
)
def test_data_that_teaches_nothing(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], rows: list[object], param: str
) -> None:
    with refuses(UsageError, param=param):
        plan_tuning(base, data(rows), **OPTIONS)


def test_a_model_without_a_template(toy: toy_tuner.ToyTuner, data: Callable[..., Path], tmp_path: Path) -> None:
    vocabulary = byte_level(288)
    del vocabulary["tokenizer.chat_template"]
    bare = Decoder(keys={"context_length": 256}, vocabulary=vocabulary).write(tmp_path / "bare.gguf")
    chat = {"messages": [{"role": "user", "content": "in"}, {"role": "assistant", "content": "on"}]}

    with refuses(UsageError, param="data"):
        plan_tuning(bare, data([chat]), **OPTIONS)
    assert plan_tuning(bare, data(), **OPTIONS).report.n_refused == 0


def test_what_cannot_be_tuned(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with refuses(UsageError, param="method"):
        plan_tuning(base, data(), method="dora", **OPTIONS)
    with refuses(UsageError, param="adapters"):
        plan_tuning(base, data(), name="../up", **OPTIONS)
    with refuses(UsageError, param="adapters"):
        plan_tuning(base, data(), name="q4_k_m", **OPTIONS)
    with refuses(UsageError, param="data"):
        plan_tuning(base, data().with_name("none.jsonl"), **OPTIONS)
    monkeypatch.setattr(toy, "supports", lambda base: ["it is a toy"])
    with refuses(UnsupportedArtifact):
        plan_tuning(base, data(), **OPTIONS)
    monkeypatch.setattr(toy, "missing", lambda: Advice("torch is not installed", "make setup-tune"))
    with refuses(BackendUnavailable):
        plan_tuning(base, data(), **OPTIONS)
    monkeypatch.setattr(plugins(), "_tuners", {})
    with refuses(BackendUnavailable):
        plan_tuning(base, data(), **OPTIONS)


def test_a_base_that_is_tuned_is_in_use(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    stop, pids = TuneStop(), list[int]()

    def tell(event: TuneEvent) -> None:
        if not stop.asked:
            pids.extend(holders(base.parent))
            stop.ask()

    assert tune(base, data(), on_event=tell, stop=stop, **OPTIONS) is None
    assert os.getpid() in pids
