"""From a file of examples to an adapter in the store, with a toy for a tuner: what is refused, and what ends it."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import toy_tuner
from support.gguf_decoders import Decoder, byte_level
from support.refusals import refuses

from edgellm.adaptation import split
from edgellm.adaptation.worker import LOCK, TuneStop
from edgellm.app import stored_adapters
from edgellm.app.tune import jobs
from edgellm.contract.backend import Advice
from edgellm.contract.manager import plugins
from edgellm.errors import (
    BackendError,
    BackendUnavailable,
    DiskFull,
    EdgeLLMError,
    NothingFits,
    StoreUnwritable,
    UnknownModel,
    UnsupportedArtifact,
    UsageError,
    WorkerCrashed,
)
from edgellm.files import locked
from edgellm.formats.gguf.reader import quant_name, read_header, read_model
from edgellm.formats.tokenizer.from_gguf import read_vocabulary
from edgellm.sdk.client import EdgeLLM
from edgellm.sdk.tuning import plan_tuning, planned, tune
from edgellm.sdk.tuning_gate import judge_control, questions_of
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
def data(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[object] = ROWS) -> Path:
        path = tmp_path / "mail.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return write


OPTIONS = {"batch": 2, "epochs": 3, "learning_rate": 0.5, "held_out": 0.4, "threads": 1, "nice": 0}
OPTIONS |= {"general": "none", "shots": 0}  # what a gate asks takes longer than a toy's tuning
JOB_FILE = r"(?<=mail\.)[0-9a-f]{16}[^:\s]*"


@pytest.mark.usefixtures("in_processes")
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
    with refuses(UsageError, param="base"):  # a model with an adapter
        plan_tuning("tiny:mail", data(), name="more", **OPTIONS)


def test_the_gate_asks_with_examples_and_for_what_was_forgotten(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(base.read_bytes())
    tuned = tune(base, data(), against=str(other), **OPTIONS | {"general": None, "shots": None})

    assert tuned is not None
    gate = tuned.gate
    assert gate is not None
    assert gate.zero_shot is not None
    assert gate.few_shot is not None
    assert (gate.few_shot.n_rows, gate.few_shot.after) == (12, gate.zero_shot.after)
    assert 0 < gate.n_shots <= 4, "one of each class at least, as many as the context holds"
    assert gate.shuffled is None
    assert gate.against is not None
    assert (gate.against.model, gate.against.zero_shot) == ("other", gate.zero_shot)
    assert gate.forgetting is not None
    assert gate.forgetting.n_tokens == 16 * 254, "of each piece what the context holds"
    assert gate.forgetting.before != gate.forgetting.after
    figures = AdapterStore().installed()[0].sound().figures
    assert figures["few_shot_examples"] == gate.n_shots
    assert figures["general_high"] == gate.forgetting.high


@pytest.mark.slow(5)
def test_another_model_answers_the_same_questions(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(base.read_bytes())
    with refuses(UnknownModel):
        plan_tuning(base, data(), against="no such model", **OPTIONS)
    tuned = tune(base, data(), against=str(other), **OPTIONS | {"shots": 2})

    assert tuned is not None
    gate = tuned.gate
    assert gate is not None
    assert gate.against is not None
    assert gate.against.model == "other"
    assert gate.against.zero_shot == gate.zero_shot
    assert (gate.against.few_shot, gate.against.n_shots) == (gate.few_shot, 2)
    record = AdapterStore().installed()[0].sound()
    assert (record.against, record.figures["against_before"]) == ("other", gate.zero_shot.before)


@pytest.mark.slow(4)
def test_what_the_gate_asks_is_up_to_the_user(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], tmp_path: Path
) -> None:
    text = tmp_path / "general.txt"
    text.write_text("\n\n".join(f"Of the {number} tins in the house one is on the sill. " * 9 for number in range(3)))
    tuned = tune(base, data(), **OPTIONS | {"general": str(text)})

    assert tuned is not None
    assert tuned.gate is not None
    assert (tuned.gate.few_shot, tuned.gate.n_shots) == (None, 0)
    assert tuned.gate.forgetting is not None
    assert tuned.gate.forgetting.n_tokens == 3 * 254
    text.write_text("too short")
    for general in (text, tmp_path / "none.txt", tmp_path):
        with refuses(UsageError, param="general"):
            plan_tuning(base, data(), name="other", **OPTIONS | {"general": str(general)})
    with refuses(UsageError, param="shots"):
        plan_tuning(base, data(), name="other", **OPTIONS | {"shots": 65})


@pytest.mark.slow(6)
def test_a_control_learns_shuffled_answers(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    events: list[TuneEvent] = []
    plan = planned(base, data(), control=True, **OPTIONS)
    tuned = tune(base, data(), on_event=events.append, control=True, **OPTIONS)

    assert plan.preview.control
    assert plan.control is not None
    assert plan.control.rows.size.n_rows == plan.work.rows.size.n_rows
    assert plan.control.rows.sha256 != plan.work.rows.sha256
    assert [event.control for event in events if isinstance(event, TuneStarted)] == [False, True]
    assert tuned is not None
    assert tuned.gate is not None
    assert tuned.gate.forgetting is None
    assert tuned.gate.shuffled is not None
    assert tuned.gate.shuffled.n_rows == 12
    assert "shuffled_chance" in AdapterStore().installed()[0].sound().figures
    assert not list(Path(tuned.path).parents[3].glob("tuning/*/*"))


@pytest.mark.parametrize("leaks", [True, False])
def test_held_out_questions_that_are_learned_are_a_leak(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, leaks: bool
) -> None:
    """By a model that remembers each question that it learned, and gives true answers to others."""
    monkeypatch.setattr(split, "near_duplicates", lambda texts, others, progress: {})
    again = [
        {"messages": [{"role": role, "content": row[of]} for role, of in zip(("user", "assistant"), row, strict=True)]}
        for row in ROWS
    ]
    plan = planned(base, data([*ROWS, *(again if leaks else [])]), control=True, **OPTIONS)
    assert plan.control is not None
    text = read_vocabulary(read_header(os.fspath(base))).spelled(plan.control.rows.tokens.tolist())
    memory = dict(re.findall(r"user: (.*?)\nassistant: (the|in)", text))
    questions = questions_of(plan.test)
    control = judge_control(plan, [memory.get(one.messages[-1].content, one.wanted) for one in questions])

    assert bool(memory.keys() & {one.messages[-1].content for one in questions}) is leaks
    assert control.leaks is leaks


@pytest.mark.parametrize(("rows", "held_out"), [([{**row, "completion": "the"} for row in ROWS], 0.4), (ROWS, 0)])
def test_a_control_that_could_tell_nothing(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], rows: list[object], held_out: float
) -> None:
    with refuses(UsageError, param="control"):
        plan_tuning(base, data(rows), control=True, **OPTIONS | {"held_out": held_out})


def test_the_plan_says_what_it_takes(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    told: list[str] = []
    rows = [*ROWS, "{", {"prompt": "a", "completion": ""}]
    preview = plan_tuning(base, data(rows), progress=lambda _done, _of, what: told.append(what), **OPTIONS)
    steps = [what.partition(":")[0] for what in told]
    assert steps.index("reading the examples") < steps.index("looking for examples that are almost the same")
    assert "turning the examples into tokens" in steps

    assert (preview.tuner, preview.name, preview.n_examples, preview.n_held_out) == ("toy", "mail", 36, 24)
    assert preview.choice.footprint.needed_bytes == 9 * 1024**2
    assert preview.n_tokens == 3 * preview.size.n_tokens
    assert (preview.report.n_lines, preview.report.n_refused) == (62, 2)
    assert [(one.line, one.kind) for one in preview.report.problems] == [(61, "not_json"), (62, "empty_answer")]
    assert not preview.resumes


@pytest.mark.parametrize("name", ["tuning", "adapters"])
def test_a_store_that_cannot_be_written_is_told_before_anything_is_read(
    toy: toy_tuner.ToyTuner, own_home: Path, tmp_path: Path, name: str
) -> None:
    (own_home / "data").mkdir(exist_ok=True)
    (own_home / "data" / name).touch()  # permissions would not hinder root

    with refuses(StoreUnwritable) as caught:
        tune(tmp_path / "no model.gguf", tmp_path / "no data.jsonl", **OPTIONS)
    assert "EDGELLM_HOME" in caught.value.hint
    with refuses(UsageError):  # a plan writes nothing
        plan_tuning(tmp_path / "no model.gguf", tmp_path / "no data.jsonl", **OPTIONS)


def test_a_job_that_cannot_be_written_names_the_variable(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], own_home: Path
) -> None:
    (own_home / "data" / "tuning").mkdir(parents=True)
    (own_home / "data" / "tuning" / "tiny").touch()

    with refuses(StoreUnwritable, varies=JOB_FILE) as caught:
        tune(base, data(), **OPTIONS)
    assert "EDGELLM_HOME" in caught.value.hint


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


@pytest.mark.slow(11)  # of the worker: adaptation/test_worker.py
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
    with refuses(error, varies=JOB_FILE):
        tune(base, data(), **OPTIONS)
    monkeypatch.setenv("TOY", "")
    assert plan_tuning(base, data(), **OPTIONS).resumes
    assert not plan_tuning(base, data(), **OPTIONS | {"seed": 1}).resumes
    tuned = tune(base, data(), **OPTIONS)

    assert tuned is not None
    assert tuned.loss_before is not None, "of the first run"


def test_one_that_runs_is_left_alone(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY", "killed")
    with refuses(WorkerCrashed, varies=JOB_FILE):
        tune(base, data(), **OPTIONS)
    [job] = jobs.unfinished()

    with locked(job.folder / LOCK, lambda: None):
        assert plan_tuning(base, data(), **OPTIONS).resumes
        monkeypatch.setattr("edgellm.app.tune.plan.ServedBase", None)  # the model is not loaded for it
        with refuses(UsageError, param="name", varies=JOB_FILE):
            tune(base, data(), **OPTIONS)


def test_one_that_is_judged_is_left_alone(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    """No worker makes steps any more, and what was learned is not stored yet."""
    looked = list[str]()

    def look(_done: int, _of: int | None, what: str) -> None:
        if what.startswith("asking") and what not in looked:
            looked.append(what)
            [job] = jobs.unfinished()
            assert job.is_running
            with refuses(UsageError, param="job", varies=JOB_FILE):
                jobs.remove(job)
            with refuses(UsageError, param="name", varies=JOB_FILE):
                tune(base, data(), **OPTIONS)
            with refuses(UsageError, param="name", varies=JOB_FILE):
                tune(base, data(), **OPTIONS | {"seed": 1})

    assert tune(base, data(), progress=look, **OPTIONS) is not None
    assert looked == ["asking the base", "asking the tuned model"]
    assert not jobs.unfinished()


def test_asked_to_end_while_it_is_judged(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    stop = TuneStop()

    def end(_done: int, _of: int | None, what: str) -> None:
        if what == "asking the tuned model":
            stop.ask()

    assert tune(base, data(), stop=stop, progress=end, **OPTIONS) is None
    assert not AdapterStore().installed()
    [job] = jobs.unfinished()
    assert not job.is_running
    steps = list[TuneEvent]()
    tuned = tune(base, data(), on_event=steps.append, **OPTIONS)
    assert tuned is not None
    assert tuned.gate is not None
    assert not [event for event in steps if isinstance(event, TuneProgress)], "it had made all its steps"
    assert tuned.wall_s > next(event.wall_s for event in steps if isinstance(event, TuneFinished)), "as it was judged"


def test_a_name_that_is_taken_meanwhile_loses_nothing(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]
) -> None:
    taken = AdapterStore().root / "tiny" / "mail"
    with refuses(UsageError, param="name"):
        tune(base, data(), progress=lambda *_: taken.mkdir(parents=True, exist_ok=True), **OPTIONS)
    taken.rmdir()
    assert plan_tuning(base, data(), **OPTIONS).resumes
    assert tune(base, data(), **OPTIONS) is not None


def test_data_in_the_models_place_is_told(base: Path, data: Callable[..., Path], tmp_path: Path) -> None:
    with refuses(UsageError, param="base"):
        plan_tuning(data(), base)
    with refuses(UsageError, param="base"):
        plan_tuning(data(), "smollm2-135m-instruct")
    with refuses(UsageError, param="data"):
        plan_tuning(base, [{"prompt": "Hi", "completion": "Hello"}])  # type: ignore[arg-type]


def test_a_table_with_other_columns_is_told_which_it_needs(base: Path, toy: toy_tuner.ToyTuner, tmp_path: Path) -> None:
    (tmp_path / "mail.csv").write_text("question,answer\nWhere?,Here\n")
    with refuses(UsageError, param="data"):
        plan_tuning(base, tmp_path / "mail.csv")


def test_asked_to_end(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    stop = TuneStop()
    options = OPTIONS | {"epochs": 1000}

    assert tune(base, data(), on_event=lambda event: stop.ask(), stop=stop, **options) is None
    assert plan_tuning(base, data(), **options).resumes
    assert not plan_tuning(base, data(), **options | {"seed": 1}).resumes
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


def test_a_pipe_is_no_data(base: Path, toy: toy_tuner.ToyTuner, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.jsonl")
    with refuses(UsageError, param="data"):
        plan_tuning(base, tmp_path / "data.jsonl", **OPTIONS)


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
    with refuses(UsageError, param="to"):
        plan_tuning(base, data(), to="Q8_0", **OPTIONS)
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
        tune(base, data(), **OPTIONS)
    with refuses(UsageError, param="data"):
        tune(base, data().with_name("none.jsonl"), **OPTIONS)
    monkeypatch.setattr(plugins(), "_tuners", {})
    with refuses(BackendUnavailable):
        plan_tuning(base, data(), **OPTIONS)
    with refuses(UsageError, param="data"):
        plan_tuning(base, data().with_name("none.jsonl"), **OPTIONS)


def fails(*_: object) -> None:
    raise KeyError("broken")


@pytest.mark.parametrize(
    ("member", "given", "told"),
    [
        ("missing", fails, "missing() failed: KeyError: 'broken'"),
        ("missing", lambda: 5, "missing() gives 5, an Advice or None is expected"),
        ("supports", lambda base: None, "supports() gives None, a list of texts is expected"),
        ("footprint", lambda *_: None, "footprint() gives None, a TuneFootprint of bytes is expected"),
        ("footprint", lambda *_: TuneFootprint(*[-1] * 9), "a TuneFootprint of bytes is expected"),
        ("rate", lambda *_: "fast", "rate() gives 'fast', a rate above 0 is expected"),
        ("rate", lambda *_: 0.0, "rate() gives 0.0, a rate above 0 is expected"),
    ],
    ids=["missing_raises", "missing", "supports", "footprint", "bytes", "rate", "no_rate"],
)
def test_a_tuner_that_breaks_its_contract_is_left_out(
    base: Path,
    toy: toy_tuner.ToyTuner,
    data: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    member: str,
    given: Callable[..., object],
    told: str,
) -> None:
    bad = toy_tuner.ToyTuner()
    monkeypatch.setattr(bad, "name", "bad")
    monkeypatch.setattr(bad, member, given)
    monkeypatch.setattr(plugins(), "_tuners", {"bad": bad, "toy": toy})

    assert plan_tuning(base, data(), **OPTIONS).tuner == "toy"
    assert "tuner bad: " in caplog.text
    assert told in caplog.text
    monkeypatch.setattr(plugins(), "_tuners", {"bad": bad})
    with refuses(BackendError):
        plan_tuning(base, data(), **OPTIONS)


@pytest.mark.usefixtures("in_processes")
def test_a_base_that_is_tuned_is_in_use(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    pids, stop = list[int](), TuneStop()

    def look(event: TuneEvent) -> None:
        pids.extend(pids or holders(base.parent))
        stop.ask()

    tune(base, data(), on_event=look, stop=stop, **OPTIONS)

    assert os.getpid() in pids


@pytest.mark.parametrize(("method", "quant"), [pytest.param("dora", None, marks=pytest.mark.slow(6)), ("full", "F16")])
def test_what_no_adapter_holds_becomes_a_model(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], method: str, quant: str | None
) -> None:
    options = OPTIONS | {"method": method, "to": quant}
    preview = plan_tuning(base, data(), **options)
    tuned = tune(base, data(), **options)

    assert preview.merged_quant == (quant or "Q8_0")
    assert preview.disk_bytes > 4 * 9 * 1024 + read_model(base).tensor_bytes
    assert tuned is not None
    assert (tuned.model, tuned.gate.zero_shot.n_rows) == ("tiny:mail", 12)
    [stored] = AdapterStore().installed()
    record = stored.sound()
    assert (record.merged_quant, record.method, record.bytes) == (
        preview.merged_quant,
        method,
        stored.path.stat().st_size,
    )
    assert quant_name(read_model(tuned.path).header) == preview.merged_quant
    assert not list(stored.folder.parents[2].glob("tuning/*/*"))
    with EdgeLLM.load("tiny:mail") as llm:
        assert (llm.plan.artifact.path, llm.plan.artifact.name) == (tuned.path, "tiny:mail")
        assert llm.chat("a tin", max_tokens=2).usage.completion_tokens
    with refuses(UnsupportedArtifact):
        EdgeLLM.load(base, adapters="mail")
    with refuses(UnsupportedArtifact):
        stored_adapters.export("tiny:mail", base.with_name("out.gguf"))


def test_the_disk_is_known_before_it_starts(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = TuneFootprint(*[2**20] * 2, 2**60, *[2**20] * 6)
    monkeypatch.setattr(toy, "footprint", lambda base, settings, size: huge)
    with refuses(DiskFull, varies=r"\S+ [KMGT]?B (?=are free)"):
        plan_tuning(base, data(), max_memory=2**61, **OPTIONS)


def refused_by_the_system(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_what_was_never_finished_is_listed_and_removed(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY", "killed")
    for name in ("mail", "post"):
        with refuses(WorkerCrashed):
            tune(base, data(), name=name, **OPTIONS)
    first, second = jobs.unfinished()

    assert (first.label, second.label) == ("tiny:mail", "tiny:post")
    assert first.record is not None
    assert (first.record.model, first.record.data) == (str(base), str(data()))
    assert first.record.options.batch == 2
    assert 0 < first.step < first.record.n_steps
    assert not first.is_running
    assert first.bytes > 10_000
    if os.name == "posix":
        assert {stat.S_IMODE(job.folder.stat().st_mode) for job in (first, second)} == {0o700}, "the data is in it"
    assert jobs.find("tiny:mail") == jobs.find(first.id) == first
    with refuses(UsageError, param="job"):
        jobs.find("tiny:none")
    with locked(first.folder / LOCK, lambda: None), refuses(UsageError, param="job"):
        jobs.remove(first)
    (second.folder / jobs.RECORD).write_text("{")
    assert jobs.unfinished()[1].record is None
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", refused_by_the_system)
        with refuses(StoreUnwritable, varies=JOB_FILE):
            jobs.remove(first)
    assert jobs.remove(first) == first.bytes
    assert jobs.remove(second)
    assert jobs.unfinished() == []
    assert not jobs.root().exists()


def test_the_verdict_needs_no_library(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan_tuning(base, data(), **OPTIONS).missing == ""
    monkeypatch.setattr(toy, "missing", lambda: Advice("torch is not installed", "make setup-tune"))
    preview = plan_tuning(base, data(), **OPTIONS)

    assert preview.missing == "make setup-tune"
    assert preview.choice.footprint.needed_bytes == 9 * 1024**2


def test_classes_are_known_before_it_starts(base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path]) -> None:
    rare = {"prompt": "a sack of meal under", "completion": "at"}
    preview = plan_tuning(base, data([*ROWS, rare]), **OPTIONS)

    assert preview.classes == {"in": 30, "the": 30, "at": 1}
    assert preview.untested == ("at",)
    with refuses(UsageError, param="data"):  # both are held out
        plan_tuning(base, data([*ROWS, rare, rare]), **OPTIONS | {"held_out": 0.99})


@pytest.mark.slow(6)
def test_a_disk_that_vanishes(
    base: Path, toy: toy_tuner.ToyTuner, data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = planned(base, data(), **OPTIONS).work.folder
    monkeypatch.setenv("TOY", f"gone:{folder}")
    with refuses(UsageError, varies=JOB_FILE):
        tune(base, data(), **OPTIONS)
    folder.unlink()
    monkeypatch.setenv("TOY", "")
    assert tune(base, data(), **OPTIONS) is not None
