"""A file that is named is planned as it is estimated: by the same rules, on a card made of its headers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bitnet.models import Tiny
from support import gguf_writer
from support.refusals import refuses
from support.running_rule import running_rule
from support.words import said

from edgellm.app import launch
from edgellm.cli.main import main
from edgellm.contract.manager import plugins
from edgellm.errors import BackendError, NothingFits, UnsupportedArtifact, UnsupportedTask, UsageError
from edgellm.history import fingerprint, run_log
from edgellm.history.run_log import Numbers, Quality, Run
from edgellm.selection.option import Option
from edgellm.selection.rule_result import RuleResult
from edgellm.selection.scenario import Scenario
from edgellm.types.basis import Corrected, OwnRuns
from edgellm.types.criterion import Stated
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import LaunchPlan
from edgellm.types.reason import ContextLength, Slow, Speed
from edgellm.types.request import SelectionRequest

GIB = 1024**3
MACHINE = Machine(
    "slow", "Slow", Cpu("x86_64", "a model", cores=4, threads=4, isa=("avx2", "f16c", "fma")),
    Memory(4 * GIB, 3 * GIB, bandwidth_gb_s=0.8),
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("known_machine")


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.hardware.probe.probe", lambda *_, **__: MACHINE)
    monkeypatch.setattr("edgellm.hardware.host_checks.busy_load", lambda *_, **__: None)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Nearly all of what it reads for a token is its cache: 48 KiB for each token before it."""
    shape = {"block_count": 24, "embedding_length": 1024, "attention__head_count": 16, "attention__head_count_kv": 8}
    return str(gguf_writer.model(context_length=32768, **shape).write(tmp_path / "Long-Q8_0.gguf"))


def estimated(capsys: pytest.CaptureFixture[str], path: str, options: dict[str, Any]) -> dict[str, Any]:
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as end:
        main(["estimate", path, *flags, "--json"])
    assert not end.value.code
    (report,) = json.loads(capsys.readouterr().out)["estimates"]
    return report


def planned(path: str, **options: Any) -> LaunchPlan:
    return launch.plan(path, LaunchOptions.of(**options))[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"task": "code"},
        {"ctx": 2048},
        {"slots": 2},
        {"kv": "q8_0"},
        {"max_memory": "330MiB"},
        {"max_memory": "330MiB", "ctx": 4096},
        {"backend": "gguf"},
    ],
    ids=str,
)
def test_the_plan_is_what_the_estimate_shows(
    options: dict[str, Any], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = estimated(capsys, path, options)
    plan = planned(path, **options)

    assert (plan.settings.n_ctx, plan.settings.kv_type, plan.backend) == (
        report["ctx"], report["kv_type"], report["backend"]
    )  # fmt: skip


def test_the_speed_floor_bounds_the_context_of_a_file(path: str) -> None:
    plan = planned(path)
    (length,) = (reason for reason in plan.reasons if isinstance(reason, ContextLength))

    assert (length.bound, length.floor_tps) == ("speed", 5)
    assert plan.settings.n_ctx < 32768


def test_a_floor_that_is_asked_for_is_kept_or_refused(path: str) -> None:
    patient, usual = planned(path, min_tps=2), planned(path)

    assert patient.settings.n_ctx > usual.settings.n_ctx
    with refuses(NothingFits):
        planned(path, min_tps=1e6)


def test_a_file_below_the_floor_of_its_task_is_served_and_said_to_be_slow(path: str) -> None:
    plan = planned(path, task="agent")

    assert any(isinstance(reason, Slow) for reason in plan.reasons)


def test_a_file_that_does_not_fit_is_refused_with_its_numbers(path: str) -> None:
    with refuses(NothingFits):
        planned(path, ctx=32768, max_memory="330MiB")


def test_a_rule_of_a_plugin_is_in_force_for_a_file(path: str) -> None:
    def none_of_unknown_licence(options: Sequence[Option], scenario: Scenario) -> RuleResult:
        lost = tuple((o, Stated("licence unknown")) for o in options)
        return RuleResult((), lost, Stated("Known licences only."))

    with running_rule(none_of_unknown_licence, "licences"), refuses(NothingFits):
        planned(path)


def test_a_rule_that_gives_no_result_or_raises_is_a_typed_error(path: str) -> None:
    """Without it, something would be chosen that it was to drop."""

    def forgets_to_return(options: Sequence[Option], scenario: Scenario) -> None: ...

    def asks_for_a_price(options: Sequence[Option], scenario: Scenario) -> RuleResult:
        return RuleResult(tuple(o for o in options if o.price))  # type: ignore[attr-defined]

    def returns_options(options: Sequence[Option], scenario: Scenario) -> list[Option]:
        return list(options) * 100

    with running_rule(forgets_to_return, "licences"), refuses(BackendError):
        planned(path)
    with running_rule(returns_options, "licences"), refuses(BackendError):
        planned(path)
    with running_rule(asks_for_a_price, "licences"), refuses(BackendError, varies=r"line \d+"):
        planned(path)


def test_a_cache_that_nobody_holds_is_a_wrong_option(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm_gguf.plugin.GgufBackend.kv_types", frozenset({"f16"}))
    with pytest.raises(UsageError) as caught:
        planned(path, kv="q8_0")

    assert (caught.value.param, caught.value.hint) == ("kv", "leave kv out")


def test_a_file_that_only_reads_is_judged_by_reading_and_answers_no_chat(tmp_path: Path) -> None:
    encoder = str(gguf_writer.model("bert", context_length=512).write(tmp_path / "encoder.gguf"))

    assert planned(encoder).settings.n_ctx == 512
    with refuses(UnsupportedTask):
        launch.plan(encoder, LaunchOptions(), to_chat=True)


def test_what_ran_by_its_path_corrects_its_next_plan(tmp_path: Path) -> None:
    path = str(gguf_writer.model(context_length=2048).write(tmp_path / "My-Model-Q8_0.gguf"))
    first = planned(path)
    run_log.record(
        MACHINE,
        Run(
            id="1", time="", backend="gguf", model=first.artifact.model_id, quant=first.artifact.quant, build="",
            basis=fingerprint.basis(plugins().backend("gguf"), None), threads=first.settings.n_threads, ctx=2048,
            slots=1, kv_type="f16", predicted=Numbers(decode=10.0), measured=Numbers(decode=5.0),
        ),
    )  # fmt: skip
    again = planned(path)
    (speed,) = (reason for reason in again.reasons if isinstance(reason, Speed))

    assert isinstance(speed.basis, Corrected)
    assert speed.basis.runs == OwnRuns(1, "my-model", "Q8_0", "f16")
    assert again.artifact.name == "My-Model-Q8_0"


def test_a_file_that_failed_its_check_by_its_path_is_refused_by_its_path(path: str) -> None:
    checked = planned(path)
    run_log.record(
        MACHINE,
        Quality(
            id="1", time="", backend="gguf", model=checked.artifact.model_id, quant=checked.artifact.quant, sha256="",
            text_sha256="", tokens=9, perplexity=9.0, veto="it diverges from the reference",
        ),
    )  # fmt: skip

    with refuses(NothingFits):
        planned(path)
    assert launch.model_plan(path, SelectionRequest(), to_check=True).artifact == checked.artifact


@pytest.fixture
def unpredicted(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(*_: object) -> None:
        raise UnsupportedArtifact("cannot be predicted")

    monkeypatch.setattr("edgellm.app.file_card.of", of)


@pytest.mark.usefixtures("unpredicted")
def test_a_file_whose_memory_nobody_predicts_gets_the_usual_settings(path: str) -> None:
    plan, longer = planned(path), planned(path, ctx=8192, kv="q8_0")

    assert (plan.backend, plan.settings.n_ctx, plan.settings.kv_type) == ("gguf", 4096, "f16")
    assert (longer.settings.n_ctx, longer.settings.kv_type) == (8192, "q8_0")
    assert said(plan)[:3] == [
        "Model: Long-Q8_0 Q8_0, the file that was named.",
        "Backend: gguf opens gguf files.",
        "Context: 4,096 tokens per slot, as its weights are of no known kind; ctx asks for more.",
    ]
    with refuses(NothingFits):
        planned(path, max_memory="10MiB")


@pytest.mark.usefixtures("unpredicted")
def test_a_speed_that_nobody_predicts_is_not_promised(path: str) -> None:
    with refuses(UsageError, param="min_tps"):
        planned(path, min_tps=5)


@pytest.mark.usefixtures("unpredicted")
def test_of_two_that_open_a_file_the_one_that_holds_the_cache_is_taken(tmp_path: Path) -> None:
    ternary = str(Tiny("llama", ternary="TQ2_0").write(tmp_path / "ternary.gguf"))

    assert planned(ternary).backend == "bitnet"
    assert (planned(ternary, kv="q4_0").backend, planned(ternary, kv="q4_0").settings.kv_type) == ("gguf", "q4_0")


@pytest.mark.usefixtures("unpredicted")
def test_a_file_whose_speed_nobody_predicts_gets_as_much_context_as_memory_holds(path: str) -> None:
    plan = planned(path, max_memory="230MiB")
    (length,) = (reason for reason in plan.reasons if isinstance(reason, ContextLength))

    assert (length.ctx, length.bound) == (plan.settings.n_ctx, "memory")
    assert 512 <= plan.settings.n_ctx < 4096


def test_a_length_that_nothing_tells_is_no_limit(tmp_path: Path) -> None:
    path = str(gguf_writer.model(context_length=None).write(tmp_path / "silent.gguf"))
    (length,) = (reason for reason in planned(path).reasons if isinstance(reason, ContextLength))

    assert (length.ctx, length.bound) == (4096, "unknown")
    assert planned(path, ctx=8192).settings.n_ctx == 8192
