"""A backend that raises where it is asked, or answers something else, is a row and is left out; the others go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import fake_plugins
from support.refusals import refuses
from support.waiting import wait_until

import edgellm.contract.manager
from edgellm.builtin.echo import EchoBackend
from edgellm.contract import answers, slow
from edgellm.contract.backend import Device, Offload, worker_environment
from edgellm.contract.converter import Converted
from edgellm.contract.manager import Plugins
from edgellm.errors import BackendError, BadArtifact, UsageError
from edgellm.selection import backend_facts as selection_facts
from edgellm.selection.backend_facts import assumed_facts, backend_facts
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.model import Artifact
from edgellm.types.plan import Footprint, Settings
from edgellm.types.priors import ExportRule, KernelRate, Priors, ProviderPrior, ProviderRate, Repacking

MACHINE = Machine("test", "Test", Cpu("x86_64"), Memory(2**34))
ECHO = Artifact("echo", (), "echo")


@pytest.fixture(autouse=True)
def blamed_for_this_test_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backend does here is not the error of its plugin in the tests that follow."""
    registered = edgellm.contract.manager.plugins()
    monkeypatch.setattr(registered, "_rows", dict(registered._rows))


def raises(*_: object, **__: object) -> Any:
    raise RuntimeError("it is broken")


def exits(*_: object, **__: object) -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize("given", [raises, exits, lambda _: None, lambda _: "no GPU", lambda _: 7, lambda _: [7]])
@pytest.mark.parametrize("member", ["check", "supports"])
def test_reasons_that_are_none_are_the_reason(monkeypatch: pytest.MonkeyPatch, member: str, given: Any) -> None:
    backend = EchoBackend()
    monkeypatch.setattr(backend, member, given, raising=False)

    (reason,) = answers.check(backend, MACHINE) if member == "check" else answers.supports(backend, ECHO)

    assert reason.startswith(f"{member}() ")


def test_a_method_that_does_not_come_back_is_named_while_it_lasts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slow, "TOLD_AFTER_S", 0.01)
    backend = EchoBackend()

    def waits(machine: Machine) -> list[str]:
        wait_until(lambda: caplog.records)
        return []

    monkeypatch.setattr(backend, "check", waits, raising=False)

    assert answers.check(backend, MACHINE) == []
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == ["backend echo: check()"]


def refuses_in_its_own_words(*_: object) -> Any:
    raise UsageError("not here")


def provider(*decode: float) -> ProviderPrior:
    return ProviderPrior("CUDAExecutionProvider", ProviderRate("cuda", decode, None, "nowhere"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("member", "given"),
    [
        ("check", raises),
        ("check", lambda machine: "no GPU"),
        ("offload", raises),
        ("offload", lambda machine: [Device("CUDA0", "a GPU", 2**30)]),
        ("architectures", lambda machine: "llama"),
        ("tensor_types", lambda machine: ["Q4_K"]),
        ("build", lambda: 7),
        ("repacking", lambda machine, *, is_here: None),
        ("priors", dict),
        ("kv_types", "f16"),
        ("kv_types", frozenset()),
        ("kv_types", frozenset({"F16"})),
        ("kv_types", {"zzz": 1}.keys()),
        ("offload", lambda machine: Offload((Device("CUDA0", "a GPU", "24 GB"),))),
        ("offload", lambda machine: Offload((Device("CUDA0", "a GPU", -1),))),
        ("offload", lambda machine: Offload((Device("CUDA0", "a GPU", 2**30, 10**30),))),
        ("offload", lambda machine: Offload((Device("\x1b[31m", "a GPU", 2**30),))),
        ("offload", lambda machine: Offload((Device("CUDA0", "a GPU", 2**30), Device("cuda0", "a GPU", 2**30)))),
        ("offload", refuses_in_its_own_words),
        ("build", refuses_in_its_own_words),
        ("repacking", lambda machine, *, is_here: Repacking(frozenset({"Q4_K"}), 0)),
        ("priors", lambda: Priors(rates={"Q4_K": KernelRate("fast", 1.0)})),
        ("priors", lambda: Priors(rates={"Q4_K": KernelRate(0.0, 1.0)})),
        ("priors", lambda: Priors(rates={"Q4_K": KernelRate(1.0, float("nan"))})),
        ("priors", lambda: Priors(export=ExportRule("onnx", {"F16": "no-type"}))),
        ("priors", lambda: Priors(providers={"CUDA": provider(0.9, 0.5, 1.0)})),
    ],
)
def test_facts_of_a_broken_backend_are_its_problem_and_others_have_theirs(member: str, given: Any) -> None:
    methods: dict[str, Any] = {
        "offload": lambda machine: Offload(missing="none"),
        "architectures": lambda machine: None,
        "tensor_types": lambda machine: None,
        "build": lambda: "1",
        "calibrate": lambda settings: None,
    }
    body = {name: staticmethod(call) if callable(call) else call for name, call in (methods | {member: given}).items()}
    broken = type("Broken", (EchoBackend,), body | {"name": "broken"})()

    facts = {f.name: f for f in backend_facts([broken, EchoBackend()], MACHINE)}

    assert facts["echo"].problems == ()
    assert facts["broken"].problems[0].startswith(member if given is not refuses_in_its_own_words else "not here")
    assert facts["broken"].usual_cache == "f16"
    if member in ("repacking", "priors", "kv_types"):
        assert assumed_facts([broken], MACHINE)[0].problems[0].startswith(member)


def test_a_failure_that_no_check_foresaw_ends_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    def unforeseen(backend: Any, machine: Machine) -> None:
        if backend.name == "broken":
            raise StopIteration

    monkeypatch.setattr(selection_facts, "calibration_of", unforeseen)
    broken = type("Broken", (EchoBackend,), {"name": "broken"})()

    facts = {f.name: f for f in backend_facts([broken, EchoBackend()], MACHINE)}

    assert facts["echo"].problems == ()
    assert "StopIteration" in facts["broken"].problems[0]


def test_names_that_nobody_knows_beside_known_ones_are_passed_over() -> None:
    """A plugin for a later release may have types of cache that this one does not."""
    newer = type("Newer", (EchoBackend,), {"name": "newer", "kv_types": frozenset({"q8_0", "f32", "q2_9"})})()

    (facts,) = backend_facts([newer], MACHINE)

    assert facts.problems == ()
    assert facts.kv_types == {"q8_0", "f32"}
    assert facts.usual_cache == "f32"


class Lazy(list[str]):
    """What it holds comes from elsewhere, and does not come."""

    def __iter__(self) -> Any:
        raise RuntimeError("it is broken")

    __len__ = __repr__ = __iter__


class Text(str):
    def __repr__(self) -> str:
        raise SystemExit(3)

    __str__ = __format__ = __repr__  # type: ignore[assignment]


class Posing:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("it is broken")


def test_a_value_that_fails_where_it_is_read_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = EchoBackend()
    monkeypatch.setattr(backend, "check", lambda machine: Lazy(["a"]), raising=False)
    (reason,) = answers.check(backend, MACHINE)
    assert reason.startswith("check() gives a Lazy, which cannot be read: RuntimeError: it is broken")

    monkeypatch.setattr(backend, "check", lambda machine: [Posing()], raising=False)
    (reason,) = answers.check(backend, MACHINE)
    assert reason.startswith("check() gives a list of Posing, which cannot be read: RuntimeError: it is broken")

    monkeypatch.setattr(backend, "check", lambda machine: [Text("no GPU")], raising=False)
    (reason,) = answers.check(backend, MACHINE)
    assert (type(reason), reason) == (str, "no GPU")


def test_what_people_read_is_a_line_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = EchoBackend()
    monkeypatch.setattr(backend, "check", lambda machine: ["\x1b[31mno\n GPU\x07", "x" * 9_000_000], raising=False)

    short, long = answers.check(backend, MACHINE)

    assert short == "no GPU"
    assert long == "x" * 2000 + "... (9,000,000 characters)"


def test_an_error_of_ours_that_a_plugin_raises_is_tidied(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(artifact: Artifact, settings: Settings) -> None:
        raise BadArtifact("\x1b[31mit is damaged", hint="y" * 5000)

    backend = EchoBackend()
    monkeypatch.setattr(backend, "footprint", refuse, raising=False)
    with pytest.raises(BadArtifact) as caught:
        answers.footprint(backend, ECHO, Settings(n_ctx=1))

    assert caught.value.message == "it is damaged"
    assert len(caught.value.hint) < 2100


@pytest.mark.parametrize("size", [-1, 2**61])
def test_a_footprint_that_no_memory_has_is_a_typed_error(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    backend = EchoBackend()
    given = Footprint(size, 0, 0, 0)
    monkeypatch.setattr(backend, "footprint", lambda artifact, settings: given, raising=False)
    with refuses(BackendError):
        answers.footprint(backend, ECHO, Settings(n_ctx=1))


def test_a_footprint_that_is_none_is_a_typed_error_and_one_of_ours_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(artifact: Artifact, settings: Settings) -> None:
        raise BadArtifact("it is damaged")

    backend = EchoBackend()
    monkeypatch.setattr(backend, "footprint", lambda artifact, settings: 7, raising=False)
    with refuses(BackendError):
        answers.footprint(backend, ECHO, Settings(n_ctx=1))
    monkeypatch.setattr(backend, "footprint", damaged, raising=False)
    with refuses(BadArtifact):
        answers.footprint(backend, ECHO, Settings(n_ctx=1))


@pytest.mark.parametrize(
    "given",
    [{"A": 1}, {"A=B": "x"}, {"A": "x\0"}, {"A\0": "x"}, {"": "x"}, {"A": "\ud800"}, {"A": "x" * 200_000}, ["A"]],
    ids=range(8),
)
def test_variables_that_no_process_can_have_are_the_backends_fault(given: Any) -> None:
    backend = type("Odd", (EchoBackend,), {"worker_environment": given})()

    with pytest.raises(BackendError) as caught:
        worker_environment(backend)
    assert caught.value.message.startswith("backend echo: worker_environment gives ")


class Unshowable:
    def __repr__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "it gives [], a path is expected"),
        ({"library": 7}, "it gives {'library': <class 'int'>}, a path is expected"),
        ([Unshowable()], "it gives a list of Unshowable, a path is expected"),
        (
            Converted("/x", 7),
            "it gives Converted(path='/x', bytes=7, notes=()), in which path is '/x', Path is expected",
        ),
    ],
)
def test_what_is_wrong_is_seen_in_what_is_told(given: object, told: str) -> None:
    with pytest.raises(answers.Fault) as caught:
        answers.asked("it", lambda: given, lambda _: False, "a path")

    assert str(caught.value) == told


BROKEN = (
    fake_plugins.LIGHT_BACKEND.replace('"gguf"\n', '"broken"\n').replace("return []", "return {}['x']", 1)
    + "\n@hookimpl\ndef register_backends(register):\n    register(Light())\n"
)


def test_what_holds_itself_cannot_be_read() -> None:
    given: list[object] = []
    given.append(given)
    with pytest.raises(answers.Fault):
        answers.asked("it", lambda: given, lambda _: True, "a list")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    monkeypatch.syspath_prepend(tmp_path)
    fake_plugins.install(tmp_path, "mine", BROKEN, module="fake_answers")
    plugins = Plugins()
    monkeypatch.setattr(edgellm.contract.manager, "plugins", lambda: plugins)
    return plugins


def test_the_first_fault_is_the_error_of_the_plugin(host: Plugins, tmp_path: Path) -> None:
    broken = host.backends()["broken"]
    answers.check(broken, MACHINE)
    host.blame("broken", "another")

    (row,) = (row for row in host.rows() if row.name == "mine")

    assert row.error == f"backend broken: check() failed: KeyError: 'x' ({tmp_path}/fake_answers.py, line 9)"


def test_a_command_that_chooses_goes_on_without_it(tmp_path: Path) -> None:
    fake_plugins.install(tmp_path, "mine", BROKEN)

    chosen = fake_plugins.run_edgellm(tmp_path, "mine", tmp_path, "models", "--json")
    listed = fake_plugins.run_edgellm(tmp_path, "mine", tmp_path, "plugins")

    assert "Traceback" not in chosen.stderr
    assert "backend broken: check() failed: KeyError: 'x'" in " ".join(listed.stdout.split())
