"""Facts are data: each kind has a sentence and a row in docs/facts-json.md, and no sentence of ours is read back."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from edgellm import explain
from edgellm.types.basis import Basis, Fact
from edgellm.types.criterion import Criterion, QuantCriterion
from edgellm.types.drift import Drift
from edgellm.types.plan import Decision, Rejection
from edgellm.types.quantize_note import LargerTypes, QuantizeNote
from edgellm.types.reason import ContextLength, Reason
from edgellm.types.refusal import NeedsMemory, Refusal, SchemeUnknown
from edgellm.types.store_problem import StoreProblem
from edgellm.types.verdict import Fits, Verdict

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "facts-json.md"
SOURCES = sorted([*(ROOT / "edgellm").rglob("*.py"), *(ROOT / "plugins").glob("*/edgellm_*/**/*.py")])
# Of these names a value is a sentence or a fact; asking how one begins or ends is asking the wrong question.
SENTENCES = {"reason", "reasons", "basis", "problem", "problems", "message", "refusal", "sentence", "note", "notes"}
TAKES_APART = {
    "startswith", "endswith", "partition", "rpartition", "split", "rsplit", "removeprefix", "removesuffix", "replace",
    "find", "index",
}  # fmt: skip


def kinds() -> dict[str, type[Fact]]:
    unions = (Basis, Reason, Refusal, Criterion, QuantCriterion, StoreProblem, QuantizeNote, Verdict, Drift)
    classes = {cls for union in unions for cls in get_args(union) or (union,)}
    return {cls.__struct_config__.tag: cls for cls in sorted(classes, key=lambda cls: cls.__name__)}


def table() -> str:
    """The rows of the page, by kind."""
    rows = []
    for kind, cls in sorted(kinds().items()):
        keys = ", ".join(f"`{key}`" for key in cls.__struct_fields__) or "none"
        rows.append(f"| `{kind}` | {(cls.__doc__ or '').splitlines()[0]} | {keys} |")
    return "\n".join(["| kind | what it says | keys |", "|---|---|---|", *rows]) + "\n"


def test_every_kind_is_in_the_document() -> None:
    text = PAGE.read_text("utf-8")
    head = text[: text.index("| kind |")]
    if os.environ.get("EDGELLM_UPDATE_GOLDEN"):
        PAGE.write_text(head + table(), "utf-8")
    assert PAGE.read_text("utf-8") == head + table()


@pytest.mark.parametrize("cls", kinds().values(), ids=kinds())
def test_every_kind_says_what_it_is(cls: type[Fact]) -> None:
    assert cls.__doc__
    assert cls.__doc__.endswith(".")


def test_a_fact_is_read_back_from_its_json() -> None:
    fact = NeedsMemory(8 * 2**30, 4 * 2**30, 4096, "q8_0")

    assert explain.facts(fact) == {
        "kind": "needs_memory", "needed_bytes": 8 * 2**30, "budget_bytes": 4 * 2**30, "ctx": 4096, "kv_type": "q8_0",
    }  # fmt: skip
    assert msgspec.convert(explain.facts(fact), Refusal) == fact


def test_plain_data_has_each_sentence_and_the_fact_beside_it() -> None:
    context, too_big = ContextLength(4096, "asked"), NeedsMemory(2**31, 2**30, 4096, "f16")
    found = explain.plain(Decision(None, (context,), rejected=(Rejection("m", "", "fits_memory", too_big),)))

    assert found["reasons"] == ["Context: 4,096 tokens per slot, as asked."]
    assert found["reasons_facts"] == [explain.facts(context)]
    assert found["rejected"][0]["reason"] == "needs 2.00 GiB with 4,096 tokens of context, 1.00 GiB may be used"
    assert found["rejected"][0]["reason_facts"] == explain.facts(too_big)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    "fact",
    [LargerTypes(3), Fits(2**30), Drift("decode", "m", "Q4_K_M", 6.0, 10.0)],
    ids=lambda fact: type(fact).__name__,
)
def test_what_no_plan_holds_is_plain_data_too(fact: Fact) -> None:
    held = explain.plain({"text": fact})

    assert held["text"]
    assert held["text_facts"] == explain.facts(fact)


def taken_apart(tree: ast.AST) -> list[int]:
    """Lines that ask a sentence how it begins or ends, cut it, or look for words in it."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TAKES_APART:
            if name_of(node.func.value) in SENTENCES:
                lines.append(node.lineno)
        elif isinstance(node, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in node.ops):
            is_word = isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
            if is_word and name_of(node.comparators[0]) in SENTENCES:
                lines.append(node.lineno)
    return lines


def name_of(node: ast.AST) -> str:
    """The last name of `a.b.name`, of a call of it, and of `str(name)`."""
    if isinstance(node, ast.Call):
        is_str = isinstance(node.func, ast.Name) and node.func.id == "str" and node.args
        return name_of(node.args[0] if is_str else node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize(
    "text",
    [
        'a.reason.startswith("Context: ")',
        'basis.partition(":")',
        'outcome.message.replace("a", "b")',
        '"GPU" in r.reason',
    ],
)
def test_the_guard_sees_a_sentence_that_is_read_back(text: str) -> None:
    assert taken_apart(ast.parse(text)) == [1]


# Reads a file format of ours: a profile that was written before it had `bandwidth_source`.
OLD_PROFILES = ROOT / "edgellm" / "hardware" / "profiles.py"


def test_no_sentence_of_ours_is_read_back() -> None:
    lines = {path: taken_apart(ast.parse(path.read_text("utf-8"))) for path in SOURCES if path != OLD_PROFILES}
    places = [f"{path.relative_to(ROOT)}:{line}" for path, found in lines.items() for line in found]

    assert places == []


def test_a_source_without_a_scheme_is_told_so() -> None:
    """As `HF://a/b`, which begins with capitals."""
    assert explain.refusal(SchemeUnknown("", ("file", "hf"))) == (
        "its source has no scheme in lower case; there are file, hf"
    )
    assert explain.refusal(SchemeUnknown("foo", ("file", "hf"))).startswith("no source has the scheme 'foo'; there are")
