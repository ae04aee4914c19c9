"""The form of the JSON: documented keys, fixed order, nothing that changes from run to run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from support.contexts import context

from edgellm.catalog.lookup import catalog
from edgellm.selection.decide import decide
from edgellm.selection.decision_json import SCHEMA, one_line, to_dict
from edgellm.types.reason import MemoryNeeded
from edgellm.types.request import SelectionRequest
from edgellm.units import show_memory

DOC = Path(__file__).parents[2] / "docs" / "auto-select-json.md"
TOP = (
    "schema", "choice", "reasons", "reasons_facts", "runners_up", "rejected", "would_choose", "budget_bytes", "inputs",
)  # fmt: skip


def report(machine, gguf, reachable: tuple[str, ...] | None = None) -> dict:
    return to_dict(decide(context(machine(), catalog().values(), [gguf()], reachable=reachable), SelectionRequest()))


def test_the_keys_are_the_documented_ones_in_order(machine, gguf) -> None:
    found = report(machine, gguf)

    assert tuple(found) == TOP
    assert found["schema"] == SCHEMA == 1
    assert tuple(found["choice"])[:4] == ("model", "params", "quant", "backend")


def test_every_key_is_in_the_document(machine, gguf) -> None:
    text = DOC.read_text("utf-8")
    found = report(machine, gguf, reachable=("pypi",))
    keys = {*found, *found["choice"], *found["inputs"], *found["rejected"][0]}
    keys |= {*found["choice"]["memory"], *found["choice"]["decode"], *found["choice"]["quality"]}

    assert sorted(key for key in keys if f"`{key}`" not in text) == []


def test_the_example_in_the_document_is_one(machine, gguf) -> None:
    block = re.search(r"```json\n(.*?)```", DOC.read_text("utf-8"), re.DOTALL)
    assert block is not None
    example = json.loads(block[1])

    assert tuple(example) == TOP
    assert tuple(example["choice"]) == tuple(report(machine, gguf)["choice"])


def test_the_report_is_plain_json(machine, gguf) -> None:
    found = report(machine, gguf)

    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_memory_of_the_first_line_is_the_one_that_counts(machine, gguf) -> None:
    """With the margin for a size that is an estimate."""
    card = catalog()["gemma-3n-e2b-it"]
    assert card.shape is not None
    card = replace(card, shape=replace(card.shape, arch="no list of its tensors"))
    decision = decide(context(machine(), [card], [gguf()]), SelectionRequest(min_tps=0.1))
    assert decision.choice is not None
    (memory,) = (reason for reason in decision.reasons if isinstance(reason, MemoryNeeded))

    assert memory.needed_bytes == decision.choice.counted_bytes > decision.choice.footprint.needed_bytes
    assert f"{show_memory(memory.needed_bytes)} of memory" in one_line(decision.choice)


def test_one_line_holds_what_a_person_compares(machine, gguf) -> None:
    decision = decide(context(machine(), [catalog()["smollm2-135m-instruct"]], [gguf()]), SelectionRequest())
    assert decision.choice is not None
    line = one_line(decision.choice)

    assert line.startswith("smollm2-135m-instruct ")
    assert all(part in line for part in ("135M", "8,192 tokens", "tok/s", "MiB of memory"))
