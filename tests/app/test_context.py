"""A preview and the act are one decision: every face passes an equal context and request to `decide`.

A rule of a plugin and a correction of an earlier run are in force. Where a face narrows the candidates, the narrowing
is named here. The SDK, `run`, `models --fits` and `quantize` plan one conversation unless told otherwise, the others as
many as there is room for, which changes nothing but their number.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support import gguf_writer
from support.running_rule import running_rule

from edgellm import EdgeLLM
from edgellm.app import context as app_context
from edgellm.app import launch
from edgellm.app.quantize import plan as quantize_plan
from edgellm.catalog import lookup
from edgellm.cli.main import main
from edgellm.contract.hookspecs import hookimpl
from edgellm.contract.manager import PluginRow, Plugins, plugins
from edgellm.history import fingerprint, run_log
from edgellm.history.run_log import Numbers, Run
from edgellm.selection import decide as decide_module
from edgellm.selection import fleet
from edgellm.selection.context import SelectionContext
from edgellm.selection.option import Option
from edgellm.selection.rule_result import PluginRule, RuleResult
from edgellm.selection.scenario import Scenario
from edgellm.types.criterion import Stated
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.refusal import FileGone, SchemeUnknown
from edgellm.types.request import SelectionRequest

GIB = 1024**3
MACHINE = Machine(
    "test", "Test", Cpu("x86_64", "a model", cores=4, threads=8, isa=("avx2", "f16c", "fma")),
    Memory(16 * GIB, 12 * GIB, bandwidth_gb_s=30.0),
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("known_machine")
MODEL = "qwen3-0.6b"
REQUESTS: tuple[dict[str, Any], ...] = (
    {},
    {"task": "code"},
    {"task": "agent"},
    {"task": "embed"},
    {"ctx": 8192},
    {"min_tps": 12.0},
    {"max_memory": "2GiB"},
    {"backend": "gguf"},
    {"slots": 4},
    {"gpu_layers": 0},
    {"kv": "q8_0"},
    {"task": "code", "ctx": 4096, "slots": 2, "max_memory": "6GiB", "kv": "q8_0"},
)


def only_free(options: Sequence[Option], scenario: Scenario) -> RuleResult:
    """A plugin's rule: models under a free licence."""
    allowed = tuple(o for o in options if o.card.license in ("apache-2.0", "mit"))
    lost = tuple((o, Stated(f"licence {o.card.license}")) for o in options if o not in allowed)
    return RuleResult(allowed, lost, Stated("Free only."))


FREE = PluginRule(only_free, "free", "edgellm-free 1.0")


def test_files_that_cannot_be_had_are_known_before_anything_is_asked(tmp_path: Path) -> None:
    for name in ("here.gguf", "my own.gguf"):
        (tmp_path / name).write_bytes(b"")
    sources = [f"file:{tmp_path}/{name}.gguf" for name in ("here", "gone", "my own")]
    sources += ["foo://a/b.gguf", "HF://a/b", "hf://a/b", "made:of-a-stored-one"]
    card = replace(lookup.catalog()[MODEL], files=tuple(ModelFile(source, "Q8_0") for source in sources))

    known = ("file", "hf", "http", "https", "ollama", "pypi")
    unknown = {"foo://a/b.gguf": SchemeUnknown("foo", known), "HF://a/b": SchemeUnknown("", known)}
    assert app_context.absences([card]) == {sources[1]: FileGone(f"{tmp_path}/gone.gguf"), **unknown}
    assert app_context.absences([card], here=False) == unknown


class _Raising:
    @hookimpl
    def register_rules(self, register: Callable[[Any], None]) -> None:
        raise LookupError("no list of licences")


@pytest.mark.parametrize("profile", [None, "raspberry-pi-5-8gb"])
def test_a_context_says_whose_rules_are_not_in_it(profile: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = app_context.of(profile)
    host = Plugins(frozenset())
    host._manager.register(_Raising(), "echo-rules")
    host._rows["echo-rules"] = PluginRow("echo-rules", "edgellm-echo-rules 1.0", "echo_rules")
    monkeypatch.setattr(app_context, "plugins", lambda: host)

    assert sound.unasked == ()
    (unasked,) = app_context.of(profile).unasked
    assert (unasked.plugin, unasked.distribution) == ("echo-rules", "edgellm-echo-rules 1.0")
    assert unasked.error.startswith("register_rules: LookupError: no list of licences")


class _Rows:
    @hookimpl
    def register_models(self, register: Callable[[ModelCard], None]) -> None:
        card = lookup.catalog()["qwen3-0.6b"]
        register(replace(card, id="mine", files=(ModelFile("hf://a/b/c.gguf", "Q77"),)))


def test_a_row_of_a_plugin_in_a_quantization_that_nobody_knows_is_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Plugins(frozenset())
    host._manager.register(_Rows(), "odd")
    host._rows["odd"] = PluginRow("odd", "edgellm-odd 1.0", "odd")
    monkeypatch.setattr(app_context, "plugins", lambda: host)

    assert "mine" not in app_context.rows(here=False)
    (error,) = (row.error for row in host.rows() if row.name == "odd")
    assert error.startswith("register_models: ValueError: catalog row 'mine': no quantization named 'Q77'")


@dataclass(frozen=True)
class Call:
    context: SelectionContext
    request: SelectionRequest


class Stopped(Exception):
    """A face got as far as its decision."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    """What is passed to `decide`, which then ends the face."""
    monkeypatch.setattr("edgellm.hardware.probe.probe", lambda *_, **__: MACHINE)
    monkeypatch.setattr("edgellm.hardware.host_checks.busy_load", lambda _, minutes=1: 9.5)
    monkeypatch.setattr("sys.stdin", io.StringIO("a prompt"))
    basis = fingerprint.basis(plugins().backend("gguf"), None)
    ran = Numbers(decode=10.0, prefill=100.0, resident_bytes=10**9)
    run_log.record(
        MACHINE,
        Run(
            id="1", time="2026-01-01T00:00:00+00:00", backend="gguf", model=MODEL, quant="Q8_0", build="", basis=basis,
            threads=MACHINE.compute_threads, ctx=4096, slots=1, kv_type="f16", requests=1, whole_batch=True,
            predicted=ran, measured=replace_numbers(ran, decode=7.0),
        ),
    )  # fmt: skip
    calls: list[Call] = []

    def decide(context: SelectionContext, request: SelectionRequest) -> None:
        calls.append(Call(context, request))
        raise Stopped

    for module in (decide_module, launch, fleet):
        monkeypatch.setattr(module, "decide", decide)
    with running_rule(only_free, "free"):
        yield calls


def replace_numbers(numbers: Numbers, **changed: float) -> Numbers:
    import msgspec

    return msgspec.structs.replace(numbers, **changed)


def passed(calls: list[Call], face: Callable[[], object]) -> Call:
    """What `face` passes to `decide` first."""
    calls.clear()
    with pytest.raises(Stopped):
        face()
    return calls[0]


def one_conversation(call: Call, options: dict[str, Any]) -> Call:
    """The call of a face that plans one conversation unless told otherwise."""
    return replace(call, request=replace(call.request, slots=options.get("slots", 1)))


def flags(options: dict[str, Any]) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def fleet_file(folder: Path, options: dict[str, Any]) -> str:
    path = folder / "fleet.toml"
    rows = "\n".join(f"{name} = {value!r}" for name, value in options.items())
    path.write_text(f'[[boxes]]\nname = "here"\nprofile = "this machine"\n{rows}\n')
    return str(path)


@pytest.mark.parametrize("options", REQUESTS, ids=str)
def test_every_face_decides_the_same_on_the_same(options: dict[str, Any], calls: list[Call], tmp_path: Path) -> None:
    preview = passed(calls, lambda: main(["auto-select", *flags(options)]))
    serve_flags = flags(options)
    faces: dict[str, Callable[[], object]] = {
        "serve": lambda: main(["serve", "--port", "0", *serve_flags]),
        "fleet": lambda: main(["plan", "--fleet", fleet_file(tmp_path, options)]),
    }
    ones: dict[str, Callable[[], object]] = {"SDK": lambda: EdgeLLM.auto(**options)}
    if options.get("task") != "embed" and "slots" not in options:  # `run` chats, one conversation at a time
        ones["run"] = lambda: main(["run", *serve_flags])

    assert preview.context.rules == (FREE,)
    assert preview.context.corrections.rows
    assert preview.context == app_context.here()
    for name, face in faces.items():
        assert passed(calls, face) == preview, name
    for name, face in ones.items():
        assert passed(calls, face) == one_conversation(preview, options), name


@pytest.mark.parametrize("options", [o for o in REQUESTS if "min_tps" not in o and o.get("task") != "embed"], ids=str)
def test_estimate_narrows_to_the_card_and_forgets_what_is_stored(options: dict[str, Any], calls: list[Call]) -> None:
    preview = passed(calls, lambda: main(["auto-select", *flags(options)]))
    estimate = passed(calls, lambda: main(["estimate", MODEL, *flags(options)]))
    card = next(card for card in preview.context.cards if card.id == MODEL)

    assert estimate.request == preview.request
    assert estimate.context == replace(preview.context.narrowed([card]), stored=frozenset())


@pytest.mark.parametrize("options", [o for o in REQUESTS if o.get("task") != "embed"], ids=str)
def test_a_file_is_decided_on_its_card_by_every_face(
    options: dict[str, Any], calls: list[Call], tmp_path: Path
) -> None:
    """In `estimate`, what is stored does not matter, and no floor is asked for."""
    path = str(gguf_writer.model(context_length=16384, embedding_length=128).write(tmp_path / "house.gguf"))
    asked = flags(options)
    preview = passed(calls, lambda: main(["auto-select", *asked]))
    serve = passed(calls, lambda: main(["serve", path, "--port", "0", *asked]))

    assert serve.request == preview.request
    assert [card.id for card in serve.context.cards] == ["house"]
    assert [backend.name for backend in serve.context.backends] == ["gguf"]
    assert replace(serve.context, cards=(), backends=()) == replace(preview.context, cards=(), backends=())
    faces: dict[str, Callable[[], object]] = {"SDK": lambda: EdgeLLM.load(path, **options)}
    if "slots" not in options:
        faces["run"] = lambda: main(["run", path, *asked])
    for name, face in faces.items():
        assert passed(calls, face) == one_conversation(serve, options), name
    if "min_tps" not in options:
        estimate = passed(calls, lambda: main(["estimate", path, *asked]))
        assert estimate.request == serve.request
        assert estimate.context == replace(serve.context, stored=frozenset())


def test_models_that_fit_are_decided_one_by_one(calls: list[Call]) -> None:
    preview = passed(calls, lambda: main(["auto-select"]))
    fits = passed(calls, lambda: main(["models", "--fits"]))

    assert fits.request == one_conversation(preview, {}).request
    assert len([card for card in fits.context.cards if card.files]) == 1
    assert (fits.context.load, fits.context.load_lasts) == (None, False), "what it can do when nothing else runs"
    of_now = {name: getattr(preview.context, name) for name in ("cards", "load", "load_lasts")}
    assert replace(fits.context, **of_now) == preview.context


def test_quantize_narrows_to_what_can_be_made_of_the_source(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = gguf_writer.model().write(tmp_path / "house.gguf")
    preview = passed(calls, lambda: main(["auto-select"]))
    quantize = passed(calls, lambda: quantize_plan.plan(str(path), "auto"))
    (card,) = quantize.context.cards

    assert quantize.request == SelectionRequest() == one_conversation(preview, {}).request
    assert {file.source for file in card.files} == quantize.context.stored
    assert replace(quantize.context, cards=(), stored=frozenset()) == replace(
        preview.context, cards=(), stored=frozenset()
    )


def test_another_machine_has_nothing_of_this_one(calls: list[Call]) -> None:
    elsewhere = passed(calls, lambda: main(["auto-select", "--profile", "raspberry-pi-5-8gb"])).context

    assert (elsewhere.is_here, elsewhere.stored, elsewhere.corrections.rows) == (False, frozenset(), {})
    assert (dict(elsewhere.vetoes), dict(elsewhere.divergences)) == ({}, {})
    assert elsewhere.rules == (FREE,)
    assert {card.id for card in elsewhere.cards} >= set(lookup.catalog())
    assert [card.id for card in elsewhere.cards] == [card.id for card in app_context.cards(here=False)]


def test_what_a_rule_of_a_plugin_refuses_is_a_problem_of_the_estimate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_rule(only_free, "free"), pytest.raises(SystemExit) as end:
        main(["estimate", "gemma-3-270m", "--quant", "Q8_0", "--profile", "raspberry-pi-5-8gb"])

    assert end.value.code == 3
    assert "only_free: licence gemma" in capsys.readouterr().out
