"""Which values answers are drawn by, and which row each of them is from."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bitnet import folders
from support import gguf_writer as w
from support.words import said

from edgellm import explain
from edgellm.app import asked, launch, sampling_defaults
from edgellm.catalog import lookup
from edgellm.catalog.identify import identify
from edgellm.cli.main import main
from edgellm.sdk.client import EdgeLLM
from edgellm.types.model import Artifact, ModelCard
from edgellm.types.options import LaunchOptions
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.reason import Thinks
from edgellm.types.sampling import SamplerValues, Sampling
from edgellm.types.sampling_defaults import USUAL, SamplingDefaults, SamplingPart, SamplingRow

GOLDEN = Path(__file__).parents[1] / "golden" / "sampling.txt"
CARD = lookup.find("smollm2-135m-instruct")
OF_CARD = SamplingPart("catalog", Sampling(temperature=0.2, top_p=0.9), "model card")


def gguf(tmp_path: Path, **keys: float) -> Artifact:
    model = w.model()
    model.keys += [
        (f"general.sampling.{key}", w.INT32 if isinstance(value, int) else w.FLOAT32, value)
        for key, value in keys.items()
    ]
    return identify(str(model.write(tmp_path / "model.gguf")))


def without_usual(names: set[str]) -> SamplingPart:
    """What the rows above leave of the usual values."""
    return SamplingPart("usual", USUAL.values.without(names))


def test_without_anything_the_usual_values_hold() -> None:
    chosen = sampling_defaults.of(None, None)

    assert chosen == SamplingDefaults((USUAL,))
    assert chosen.values == Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)


def test_what_the_row_leaves_open_is_usual(tmp_path: Path) -> None:
    expected = (OF_CARD, without_usual({"temperature", "top_p"}))

    assert sampling_defaults.of(None, CARD).parts == expected
    assert sampling_defaults.of(gguf(tmp_path), CARD).parts == expected
    assert sampling_defaults.of(None, CARD).values == Sampling(temperature=0.2, top_k=40, top_p=0.9, min_p=0.05)


def test_a_file_that_says_one_value_is_asked_last(tmp_path: Path) -> None:
    chosen = sampling_defaults.of(gguf(tmp_path, top_k=20), CARD)

    assert chosen.parts == (SamplingPart("file", Sampling(top_k=20), "general.sampling.*"),)
    assert SamplerValues.of(chosen.values) == SamplerValues(top_k=20), "what it lacks is neutral"


def test_the_operator_stands_before_the_file_and_the_request_before_both(tmp_path: Path) -> None:
    chosen = sampling_defaults.of(gguf(tmp_path, temp=0.5, top_k=20), CARD, Sampling(temperature=0.3, seed=7))

    assert chosen.parts == (
        SamplingPart("operator", Sampling(temperature=0.3, seed=7)),
        SamplingPart("file", Sampling(top_k=20), "general.sampling.*"),
    )
    assert chosen.under(Sampling(top_k=1, seed=3)) == (
        SamplingPart("request", Sampling(top_k=1, seed=3)),
        SamplingPart("operator", Sampling(temperature=0.3, seed=7)),
    )
    assert Sampling(top_k=1, seed=3).over(chosen.values) == Sampling(temperature=0.3, top_k=1, seed=3)


def test_a_request_that_sets_the_temperature_keeps_the_rest() -> None:
    chosen = sampling_defaults.of(None, CARD)

    assert Sampling(temperature=1.5).over(chosen.values) == Sampling(temperature=1.5, top_k=40, top_p=0.9, min_p=0.05)
    assert [part.origin for part in chosen.under(Sampling(temperature=1.5))] == ["request", "catalog", "usual"]


@pytest.mark.parametrize(("thinking", "temperature"), [(False, 0.7), (True, 0.6)])
def test_the_row_is_that_of_how_the_model_is_served(thinking: bool, temperature: float) -> None:
    card = replace(lookup.find("qwen3-4b"), thinking=thinking)

    assert sampling_defaults.of(None, card).values.temperature == temperature


@pytest.mark.parametrize(
    ("model", "thinks", "temperature"), [("qwen3-4b", True, 0.6), ("smollm2-135m-instruct", False, 0.2)]
)
def test_a_plan_thinks_where_that_is_asked_of_a_model_that_can(
    tmp_path: Path, model: str, thinks: bool, temperature: float
) -> None:
    named = LaunchPlan("gguf", replace(gguf(tmp_path), model_id=model), Settings(512))
    plan = asked.with_answers(named, None, thinking=True)

    assert plan.thinking is thinks
    assert (plan.thinking_sampling or plan.sampling).values.temperature == temperature
    assert [type(reason) for reason in plan.reasons] == [*([Thinks] if thinks else []), SamplingDefaults]
    assert plan.reasons[-1] == (plan.thinking_sampling if thinks else plan.sampling)


def test_a_plan_that_was_not_asked_to_think_has_values_for_requests_that_do(tmp_path: Path) -> None:
    plan = asked.with_answers(
        LaunchPlan("gguf", replace(gguf(tmp_path), model_id="qwen3-4b"), Settings(512)), None, thinking=False
    )

    assert not plan.thinking
    assert plan.sampling.values.temperature == 0.7
    assert plan.thinking_sampling is not None
    assert plan.thinking_sampling.values.temperature == 0.6


def test_a_folder_says_it_in_its_generation_config(tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "tiny").path
    before = launch.plan(str(folder), LaunchOptions(ctx=256))[0]
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "eos_token_id": 2}), "utf-8")
    after = launch.plan(str(folder), LaunchOptions(ctx=256))[0]

    assert before.sampling == SamplingDefaults()
    assert after.sampling.parts == (SamplingPart("file", Sampling(temperature=0), "generation_config.json"),)
    assert said(after)[-1] == "Sampling: temperature 0 (the file: generation_config.json)."


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
def test_a_graph_has_its_configuration_beside_or_above_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "generation_config.json").write_text('{"top_p": 0.5}', "utf-8")
    artifact = Artifact("onnx", (str(tmp_path / name),), "graph")

    assert sampling_defaults.of(artifact, None).values == Sampling(top_p=0.5)


def test_a_bad_value_is_told_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifact = gguf(tmp_path, temp=-3.0, mirostat=2)
    with caplog.at_level(logging.WARNING, "edgellm.sampling"):
        chosen = asked.with_answers(
            LaunchPlan("gguf", replace(artifact, model_id=CARD.id), Settings(512)), None, thinking=False
        ).sampling

    assert chosen.parts[0] == OF_CARD, "a value that is not used makes no source of the file"
    (record,) = caplog.records
    assert "general.sampling.temp" in record.getMessage()
    assert "general.sampling.mirostat" in explain.sentence(chosen)
    assert "general.sampling.temp" in explain.sentence(chosen)


def test_a_model_that_writes_nothing_has_none() -> None:
    cards = [card for card in lookup.catalog().values() if card.kind in ("embedding", "reranker")]

    assert not [card.id for card in cards if card.sampling]


@pytest.mark.parametrize(
    "row",
    [
        SamplingRow("", temperature=0.5),
        SamplingRow("a card", temperature=-1.0),
        SamplingRow("a card", top_p=0.0),
        SamplingRow("a card\x1b[2J", top_p=0.5),
    ],
)
def test_a_row_that_cannot_be_is_refused(row: SamplingRow) -> None:
    assert lookup.check(replace(CARD, sampling=(row,)))


def test_show_says_which_row_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gguf(tmp_path, temp=0.5).path

    assert "temperature 0.2, top_p 0.9 (catalog: model card)" in shown(capsys, CARD.id)
    assert "temperature 0.5 (the file: general.sampling.*)" in shown(capsys, path)
    told = json.loads(shown(capsys, path, "--json"))
    assert told["sampling"] == "Sampling: temperature 0.5 (the file: general.sampling.*)."
    assert told["sampling_facts"]["parts"] == [
        {"origin": "file", "values": {"temperature": 0.5}, "source": "general.sampling.*"}
    ]
    assert json.loads(shown(capsys, "bge-small-en-v1.5", "--json"))["sampling"] is None


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["show", *arguments])
    assert not end.value.code
    return " ".join(capsys.readouterr().out.split()) if "--json" not in arguments else capsys.readouterr().out


def test_loading_takes_the_operators_values() -> None:
    with EdgeLLM.load("echo", isolate=False, sampling=Sampling(temperature=0.3, top_k=5)) as llm:
        answer = llm.chat("hello", top_k=7)

    assert answer.timings.sampling == (
        SamplingPart("request", Sampling(top_k=7)),
        SamplingPart("operator", Sampling(temperature=0.3)),
        without_usual({"temperature", "top_k"}),
    )
    assert llm.plan.reasons[-1] == llm.plan.sampling


def lines(card: ModelCard) -> list[str]:
    """How the model is served; where it can think, how that would be, too."""
    if card.kind in ("embedding", "reranker"):
        return [f"{card.id}: writes no text"]
    variants = sorted({card.thinking, *(row.thinking for row in card.sampling if row.thinking is not None)})
    served = (replace(card, thinking=thinking) for thinking in variants)
    return [f"{card.id}: {explain.drawn_by(sampling_defaults.of(None, one))}" for one in served]


def test_every_row_of_the_catalog_resolves() -> None:
    """Each value has a source; the file says what a change of the catalog changes."""
    text = "".join(f"{line}\n" for card in lookup.catalog().values() for line in lines(card))
    if os.environ.get("EDGELLM_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, "utf-8")

    assert GOLDEN.read_text("utf-8") == text


def test_a_value_of_each_row_has_a_source() -> None:
    for card in lookup.catalog().values():
        parts = sampling_defaults.of(None, card).parts
        assert {name for part in parts for name in part.values.said} >= {"temperature", "top_k", "top_p", "min_p"}
        assert all(part.source for part in parts if part.origin == "catalog"), card.id


def unverified() -> set[str]:
    return {card.id for card in lookup.catalog().values() for row in card.sampling if row.unverified}


def test_rows_that_nobody_checked_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert "qwen2.5-0.5b-instruct" in unverified()
    assert "unverified" in shown(capsys, "qwen2.5-0.5b-instruct")


def run(**options: Any) -> SamplingDefaults:
    return launch.plan("echo", LaunchOptions(**options))[0].sampling


def test_a_plan_without_a_setting_has_the_usual_values() -> None:
    assert run() == SamplingDefaults((USUAL,))
    assert run(sampling=Sampling()) == SamplingDefaults((USUAL,))
