"""`edgellm models` as a person meets it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import tomli_w

from edgellm.app import context
from edgellm.catalog.lookup import catalog
from edgellm.cli import page
from edgellm.cli.main import main
from edgellm.hardware import probe, profiles
from edgellm.selection.backend_facts import BackendFacts

GGUF = BackendFacts("gguf", frozenset({"gguf"}))

Listed = Callable[..., str]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Listed:
    """Runs the command in this process, on a Raspberry Pi with 4 GB and one backend; gives what it prints."""
    monkeypatch.setenv("EDGELLM_PLUGINS", "")
    for facts in ("assumed_facts", "backend_facts"):
        monkeypatch.setattr(context, facts, lambda *_, **__: (GGUF,))
    monkeypatch.setattr(probe, "probe", lambda **_: profiles.load("raspberry-pi-5-4gb"))

    def run(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main(["models", *arguments])
        output = capsys.readouterr()
        assert end.value.code == code, output
        return output.err if code else output.out

    return run


def test_the_whole_catalog_is_listed(planner_process) -> None:
    output = planner_process("models").stdout

    for row_id in catalog():
        assert re.search(rf"^{re.escape(row_id)}\*? ", output, re.MULTILINE)
    assert "embedding" in output
    assert f"{len(catalog())} models" in output


def test_a_task_lists_the_models_it_chooses_from(planner) -> None:
    rows = json.loads(planner("models", "--task", "code", "--json").stdout)["models"]

    assert {row["kind"] for row in rows} == {"chat"}
    assert len(rows) >= 60
    assert all(row["license"] and row["trust"] for row in rows)


def test_what_fits_is_told_with_how_it_would_run(planner) -> None:
    rows = json.loads(planner("models", "--fits", "--json").stdout)["models"]

    assert 0 < len(rows) < len(catalog())
    for row in rows:
        assert row["here"]["decode"]["tok_s"] >= 5
        assert row["here"]["ctx"] <= row["ctx_train"]
    assert "tok/s" in planner("models", "--fits").stdout


def test_a_model_that_always_thinks_is_judged_by_the_rate_of_its_answers(listed: Listed) -> None:
    """At 6.4 tokens a second, of which one in eight is answer, `auto-select` refuses them as too slow."""
    there = ("--profile", "intel-n100-16gb")
    rows = json.loads(listed("--fits", "--json", *there))["models"]

    assert rows
    assert not {"phi-4-mini-reasoning", "gpt-oss-20b"} & {row["id"] for row in rows}


def test_an_empty_store_is_said(planner) -> None:
    assert "Nothing is stored yet" in planner("models", "--installed").stdout
    report = json.loads(planner("models", "--installed", "--json").stdout)
    assert (report["schema"], report["installed"]) == (1, [])


def test_a_users_rows_are_listed(planner, tmp_path: Path) -> None:
    rows = tmp_path / "mine.jsonl"
    rows.write_text(
        '{"id":"house-model","family":"house","kind":"chat","license":"mit","ctx_train":2048,"params":1000,'
        '"params_active":1000,"shape":null}\n'
    )

    assert "house-model" in planner("models", "--models-file", str(rows)).stdout


def test_the_users_own_file_is_read_here_and_not_for_another_machine(
    listed: Listed, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_home / "house.gguf"
    file.touch()
    shape = msgspec.to_builtins(catalog()["smollm2-135m-instruct"].shape)
    row = {
        "id": "house-model", "family": "house", "kind": "chat", "license": "mit", "ctx_train": 8192,
        "params": 134515008, "params_active": 134515008, "shape": {k: v for k, v in shape.items() if v is not None},
        "scores": {"MMLU-Pro": 94.0}, "files": [{"source": file.as_uri(), "quant": "Q8_0"}],
    }  # fmt: skip
    own = own_home / "config" / "models.toml"
    own.parent.mkdir()
    own.write_text(tomli_w.dumps({"models": [row]}))
    there = ("--profile", "raspberry-pi-5-8gb")

    assert "house-model" in listed("--fits")
    assert "house-model" not in listed("--fits", *there)
    file.unlink()
    assert "house-model" not in listed("--fits")
    assert "house-model" in listed("--fits", *there, "--models-file", str(own))
    own.write_text(own.read_text().replace("8192", "0"))
    assert "models.toml: line 1, house-model: ctx_train 0 is not a length" in listed(code=2)
    monkeypatch.setenv("EDGELLM_MODELS", "")
    assert "house-model" not in listed()
    monkeypatch.setenv("EDGELLM_MODELS", "/nowhere.toml")
    assert "EDGELLM_MODELS=/nowhere.toml: no file is there" in listed(code=2)


def test_what_fits_stands_in_80_columns_with_restrictive_licences_marked(
    listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "columns", lambda **_: 80)
    output = listed("--fits", "--profile", "raspberry-pi-5-8gb")

    assert max(map(len, output.splitlines())) <= 80
    assert "gemma-3-1b-it*" in output
    assert "smollm2-135m-instruct*" not in output
    assert "* the licence restricts use" in output
    assert "more fit but stay below 5 tok/s" in output


def test_the_best_come_first_and_what_is_chosen_is_marked(listed: Listed) -> None:
    rows = json.loads(listed("--fits", "--json"))["models"]
    first, *others = rows
    scores = [row["here"]["quality"]["mid"] for row in others]

    assert [row["chosen"] for row in rows] == [True, *(False for _ in others)]
    assert scores == sorted(scores, reverse=True)
    assert all(row["score"] >= row["here"]["quality"]["mid"] - 0.1 for row in rows)
    assert f"\n> {first['id']}" in listed("--fits")
    whole = listed()
    assert "The order counts what is left of it here" in whole
    words = {line.split()[0].rstrip("*"): line.split() for line in whole.splitlines()[1:] if line}
    assert "chosen" in words[first["id"]]
    assert all("fits" in words[row["id"]] for row in others)
    kinds = [row["kind"] for row in json.loads(listed("--json"))["models"]]
    assert list(dict.fromkeys(kinds)) == ["chat", "embedding", "reranker", "base"]


def test_the_embedding_models_are_those_of_their_task(listed: Listed) -> None:
    rows = json.loads(listed("--fits", "--task", "embed", "--json"))["models"]

    assert {row["kind"] for row in rows} == {"embedding"}
    assert all(row["here"]["prefill"]["tok_s"] >= 100 for row in rows)


def test_a_profile_without_fits_is_refused(listed: Listed) -> None:
    assert "add --fits" in listed("--profile", "raspberry-pi-5-8gb", code=2)


def test_an_unknown_task_is_an_error(planner) -> None:
    assert "unknown task" in planner("models", "--task", "poetry", code=2).stderr


def test_files_of_a_folder_of_ones_own_are_listed_here_only(listed: Listed, tmp_path: Path) -> None:
    tiny = Path(__file__).parents[2] / "plugins" / "edgellm-bitnet" / "edgellm_bitnet" / "models" / "tiny-ternary.gguf"
    (tmp_path / "deep").mkdir()
    shutil.copy(tiny, tmp_path / "deep" / "house.gguf")
    folder = ("--models-dir", str(tmp_path))

    assert "\nhouse* " in listed(*folder)
    assert "\nhouse* " not in listed()
    assert "house* " not in listed("--fits", "--profile", "raspberry-pi-5-8gb", *folder)
    assert "none is not a folder" in listed("--models-dir", "none", code=2)
