"""Every feature on every backend: docs/conformance.md is what came of it. Calls of every family, on every backend.

EDGELLM_UPDATE_GOLDEN=1 .venv/bin/pytest tests/test_conformance.py::test_the_page_is_what_the_backends_do    writes it
EDGELLM_UPDATE_GOLDEN=1 .venv/bin/pytest tests/test_conformance.py::test_the_page_has_every_call    its part on clients
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from support import client_calls, onnx_models
from support.call_rows import ROWS
from support.conformance import FEATURES, SCHEMA, table
from support.live_server import Servers, echo_plan

from edgellm.contract.engine import Engine, SlotInput
from edgellm.contract.manager import plugins
from edgellm.text.call_grammar import call_grammar
from edgellm.text.matcher import GrammarCompiler, Matcher
from edgellm.text.readers import reader_of
from edgellm.text.sampling import Sampler
from edgellm.types.markup import Markup, Reading
from edgellm.types.message import Tool
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.sampling import Sampling

PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"
CTX = 1024
CLOCK = Tool("get_time", parameters=SCHEMA)


def _gguf(folder: Path, smollm2: str) -> LaunchPlan:
    return LaunchPlan("gguf", Artifact("gguf", (smollm2,), "SmolLM2"), Settings(CTX, n_slots=4))


def _bitnet(folder: Path, smollm2: str) -> LaunchPlan:
    from edgellm_bitnet.models import TINY_TERNARY

    path = TINY_TERNARY.files[0].source.removeprefix("file:")
    return LaunchPlan("bitnet", Artifact("gguf", (path,), "tiny"), Settings(CTX, n_slots=4))


def _onnx(folder: Path, smollm2: str) -> LaunchPlan:
    made = onnx_models.shared(folder / "onnx", onnx_models.Tiny(positions=CTX))
    return LaunchPlan("onnx", Artifact("onnx", (str(made),), "tiny"), Settings(CTX, n_slots=4))


def _echo(folder: Path, smollm2: str) -> LaunchPlan:
    return echo_plan(CTX, 4)


PLANS: dict[str, Callable[[Path, str], LaunchPlan]] = {"gguf": _gguf, "bitnet": _bitnet, "onnx": _onnx, "echo": _echo}


@pytest.mark.slow(90)
@pytest.mark.timeout(900)
def test_the_page_is_what_the_backends_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, smollm2: str) -> None:
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for backend, plan in PLANS.items():
        servers = Servers(monkeypatch)
        try:
            client = servers(plan(tmp_path, smollm2)).http
            cells[backend] = {
                (section, feature.name): feature.cell(client)
                for section, features in FEATURES.items()
                for feature in features
            }
        finally:
            servers.close()
    text = PAGE.read_text("utf-8")
    _check_page(text[: text.index("## ")] + table(cells) + "\n" + text[text.index(client_calls.HEADING) :])


def test_the_page_has_every_call() -> None:
    """What official clients are asked to do; tests/clients shows that it is true."""
    text = PAGE.read_text("utf-8")
    _check_page(text[: text.index(client_calls.HEADING)] + client_calls.pages_part(tuple(PLANS)))


def _check_page(text: str) -> None:
    if os.environ.get("EDGELLM_UPDATE_GOLDEN"):
        PAGE.write_text(text, "utf-8")
    assert PAGE.read_text("utf-8") == text


@pytest.mark.slow(60)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", PLANS)
def test_a_forced_call_of_every_family_is_valid(backend: str, tmp_path: Path, smollm2: str) -> None:
    """The backend's own logits and vocabulary, under the grammar of a row and read by the same row."""
    engine = plugins().backend(backend).open(PLANS[backend](tmp_path, smollm2))
    compiler = GrammarCompiler(engine.tokenizer, engine.info)
    try:
        for name, row in ROWS.items():
            grammar = call_grammar(Markup(calls=row), (CLOCK,), "required", parallel=False)
            assert grammar is not None
            answer = _written(engine, compiler.matcher(grammar))
            reader = reader_of(Reading(Markup(calls=row), tools=(CLOCK,)))
            parts = [*reader.push(answer), *reader.finish()]
            assert [part.text for part in parts if part.kind == "call_name"] == ["get_time"], (name, answer)
            arguments = "".join(part.text for part in parts if part.kind == "call_arguments")
            jsonschema.validate(json.loads(arguments), CLOCK.parameters)
    finally:
        engine.close()


def _written(engine: Engine, matcher: Matcher) -> str:
    """What the model answers, control tokens as a template writes them."""
    sampler, pieces = Sampler(Sampling(temperature=1.0, seed=1)), engine.tokenizer.pieces()[0]
    engine.truncate(0, 0)
    tokens = tuple(engine.tokenizer.encode("What time is it?", add_special=True, parse_special=False))
    n_past, answer = 0, b""
    while n_past + len(tokens) < CTX:
        row = engine.step([SlotInput(0, n_past, tokens, 1)])[0][-1]
        n_past += len(tokens)
        token = sampler.sample(row, matcher)
        if token in engine.info.eos_ids:
            break
        matcher.accept(token)
        tokens, answer = (token,), answer + pieces[token]
        if matcher.complete:
            break
    return answer.decode()


def test_the_page_has_every_feature() -> None:
    page = PAGE.read_text("utf-8")
    assert not [
        feature.name for features in FEATURES.values() for feature in features if f"| {feature.name} |" not in page
    ]
