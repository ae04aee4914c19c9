"""`edgellm estimate` as a person meets it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.app import context
from edgellm.app.adapters import taking_adapters
from edgellm.app.stored_cards import StoredCard
from edgellm.catalog.lookup import find
from edgellm.cli import page
from edgellm.cli.main import main
from edgellm.selection.backend_facts import BackendFacts
from edgellm.types.priors import Repacking
from edgellm.units import show_memory

PI = ("--profile", "raspberry-pi-5-8gb")
TINY = Path(__file__).parents[2] / "plugins" / "edgellm-bitnet" / "edgellm_bitnet" / "models" / "tiny-ternary.gguf"

GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset({"f16", "q8_0"}))

Look = Callable[..., tuple[str, str]]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Look:
    """Runs the command in this process, with one backend that opens GGUF files; gives standard output and error."""
    monkeypatch.setenv("EDGELLM_PLUGINS", "")
    monkeypatch.setattr(page, "columns", lambda *, err=False: None if err else 80)
    monkeypatch.chdir(tmp_path)
    for facts in ("assumed_facts", "backend_facts"):
        monkeypatch.setattr(context, facts, lambda *_, **__: (GGUF,))

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main(["estimate", *arguments])
        output = capsys.readouterr()
        assert end.value.code == code, output
        return output.out, output.err

    return run


def test_what_a_row_says_is_not_told_as_read(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    card = replace(find("qwen3-0.6b"), trust="")
    monkeypatch.setattr("edgellm.app.resolve.named_model", lambda *_: StoredCard(card.id, card))

    assert "633.5 MB (as its row says)" in look("qwen3-0.6b:Q8_0", *PI)[0]


def test_as_a_process_of_its_own(planner_process) -> None:
    assert planner_process("estimate", "qwen3-0.6b:Q8_0", *PI).stdout.splitlines()[-1].startswith("Fits: ")


def test_every_term_stands_in_80_columns_with_the_verdict_last(look: Look) -> None:
    output = look("qwen3-0.6b:Q8_0", *PI)[0]
    lines = output.splitlines()

    assert max(len(line.rstrip()) for line in lines) <= 80
    for word in (
        "weights",
        "cache",
        "compute buffers",
        "output buffer",
        "worker process",
        "parent process",
        "together",
    ):
        assert any(line.startswith(word) and line.count("iB") == 2 for line in lines), word
    assert "633.5 MB (read from the file), file 639.4 MB" in output
    assert "quality" in output
    assert "Fits: " in lines[-1]


def test_less_than_is_resident_counts_where_the_file_may_be_dropped_and_that_is_said(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying = replace(GGUF, repacking=Repacking(frozenset({"Q4_K", "Q6_K"})))
    monkeypatch.setattr(context, "assumed_facts", lambda *_, **__: (copying,))
    output = look("qwen3-4b:Q4_K_M", *PI)[0]
    memory = json.loads(look("qwen3-4b:Q4_K_M", *PI, "--json")[0])["estimates"][0]["memory"]

    assert memory["reclaimable_bytes"] > 2**30
    assert f"the system may drop {show_memory(memory['reclaimable_bytes'])} of the file" in " ".join(output.split())
    assert "may drop" not in look("qwen3-0.6b:F16", *PI)[0]


def test_a_model_that_does_not_fit_says_what_would_and_exits_with_3(look: Look) -> None:
    outputs = look("qwen3-4b", "--quant", "q8_0", "--ctx", "8192", "--profile", "raspberry-pi-5-4gb", code=3)

    assert "Does not fit: it needs" in outputs[0]
    assert "--quant " in outputs[0]


def test_all_quantizations_stand_in_a_table_with_the_chosen_one(look: Look) -> None:
    output = look("qwen3-0.6b", *PI)[0]
    auto = json.loads(look("qwen3-0.6b", *PI, "--json")[0])
    chosen = [line for line in output.splitlines() if line.endswith(", chosen")]

    assert max(map(len, output.splitlines())) <= 80
    assert len(chosen) == 1
    assert chosen[0].split()[0] == auto["chosen"]
    assert len(auto["estimates"]) == sum(line.count("%") == 1 for line in output.splitlines())


@pytest.mark.parametrize(("slots", "is_told"), [((), True), (("--slots", "1"), False)])
def test_the_table_says_for_how_many_conversations_memory_is(look: Look, slots: tuple[str, ...], is_told: bool) -> None:
    """Else a smaller file that leaves room for more of them seems to need more than a larger one."""
    output = look("qwen3-4b", "--profile", "intel-n100-16gb", *slots)[0]
    rows = json.loads(look("qwen3-4b", "--profile", "intel-n100-16gb", *slots, "--json")[0])["estimates"]
    shown = {line.split()[0]: line.split()[4] for line in output.splitlines() if " GB " in line and "," in line}
    assert shown == {row["quant"]: str(row["slots"]) for row in rows}
    assert ("conversations at a time" in output) == is_told


def test_the_json_is_the_same_twice_and_its_terms_add_up(look: Look) -> None:
    arguments = ("qwen3.5-2b", *PI, "--slots", "2", "--kv", "q8_0", "--json")
    once, again = look(*arguments)[0], look(*arguments)[0]
    report = json.loads(once)

    assert once == again
    assert report["schema"] == 1
    for row in report["estimates"]:
        memory = row["memory"]
        assert sum(t["resident_bytes"] for t in memory["terms"]) == memory["resident_bytes"]
        assert sum(t["allocated_bytes"] for t in memory["terms"]) == memory["allocated_bytes"]
        assert row["verdict"]["fits"] == (row["verdict"]["free_bytes"] >= 0)
        assert (row["kv_type"], row["slots"]) == ("q8_0", 2)


def test_the_size_says_how_it_is_known(look: Look) -> None:
    def basis(model: str) -> tuple[str, bool]:
        (row,) = json.loads(look(model, "--profile", "apple-m4-max-128gb", "--json")[0])["estimates"]
        return row["tensor_bytes_basis"], row["file_bytes_exact"]

    assert basis("qwen3-0.6b:Q8_0") == ("exact", True)
    assert basis("qwen3-0.6b:Q4_K_M") == ("rule", False)
    assert basis("embeddinggemma-300m:Q5_K_M") == ("estimate", False)


def test_a_quantization_that_nobody_publishes_is_predicted_and_said_to_be(look: Look) -> None:
    report = json.loads(look("qwen3-4b", "--quant", "tq2_0", *PI, "--json")[0])["estimates"][0]

    assert report["quant"] == "TQ2_0"
    assert "no published file" in report["source"]
    assert "has no file in Q9_K; published" in (error := look("qwen3-4b:Q9_K", code=2)[1].replace("\n  ", "; ")), error


def test_a_file_is_read_by_its_header(look: Look, tmp_path: Path) -> None:
    report = json.loads(look(str(TINY), "--json", code=3)[0])
    (row,) = report["estimates"]

    assert report["model"]["facts"].startswith("the header of ")
    assert (row["file_bytes"], row["file_bytes_exact"], row["tensor_bytes_basis"]) == (1_840_672, True, "exact")
    assert row["backend"] is None
    assert "I2_S is not a type of stock llama.cpp" in row["verdict"]["text"]
    assert row["verdict"]["text_facts"]["kind"] == "cannot_run"
    shutil.copy(TINY, tmp_path / "mine.gguf")
    assert json.loads(look("mine.gguf", "--json", code=3)[0])["estimates"][0]["file_bytes"] == 1_840_672


@pytest.mark.parametrize(
    ("arguments", "complaint", "code"),
    [
        (("no-such-model",), "no model named 'no-such-model'", 2),
        (("falcon-e-1b-instruct",), "the shape of falcon-e-1b-instruct is not known", 4),
        (("bge-m3",), "no published file of bge-m3 is known", 2),
        (("nothing.gguf",), "nothing.gguf does not exist", 2),
        (("qwen3-4b", "--ctx", "3"), "ctx=3 is out of range", 2),
        (("qwen3-4b", "--kv", "q1"), "unknown cache type 'q1'", 2),
        (("qwen3-4b", "--task", "poetry"), "unknown task", 2),
        (("qwen3-4b", "--profile", "none"), "no hardware profile named", 2),
        ((str(TINY), "--quant", "Q8_0"), "--quant has no meaning", 2),
        (("qwen3-4b", "--adapter", str(TINY)), "key general.type is 'model', 'adapter' is needed", 4),
        (("hf://nobody/nothing:Q4_K_M", "--offline"), "cannot be asked, as offline was asked for", 5),
        (("smollm2-135m-instruct:INT4", "--adapter", "rank=16"), "adapters go with GGUF files", 4),
    ],
)
def test_what_cannot_be_estimated_is_an_error_with_a_hint(
    look: Look, arguments: tuple[str, ...], complaint: str, code: int
) -> None:
    error = look(*arguments, code=code)[1]

    assert complaint in error
    assert len(error.splitlines()) == 2


def test_an_adapter_is_counted_beside_files_that_take_one() -> None:
    card = find("smollm2-135m-instruct")
    assert {file.format for file in card.files} == {"gguf", "onnx"}
    assert {file.format for file in taking_adapters(card).files} == {"gguf"}


def test_an_address_is_answered_by_the_catalog_where_its_source_is_not_asked(look: Look) -> None:
    report = json.loads(look("hf://unsloth/Qwen3-4B-GGUF:Q5_K_M", "--offline", *PI, "--json")[0])
    whole = json.loads(look("hf://unsloth/Qwen3-4B-GGUF", "--offline", *PI, "--json")[0])

    assert report["model"]["id"] == "qwen3-4b"
    assert report["model"]["facts"].startswith("the catalog; trust medium")
    assert [row["quant"] for row in report["estimates"]] == ["Q5_K_M"]
    assert len(whole["estimates"]) > 10


def test_embedding_models_are_judged_by_how_fast_they_read(look: Look) -> None:
    report = json.loads(look("bge-large-en-v1.5:Q8_0", *PI, "--json")[0])
    (row,) = report["estimates"]

    assert report["request"]["task"] == "embed"
    assert row["verdict"]["rate_tps"] == row["prefill"]["tok_s"]
    assert row["verdict"]["floor_tps"] == 100
