"""`edgellm models` as a person meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import tomli_w

from edgellm.catalog.lookup import catalog


def test_the_whole_catalog_is_listed(planner) -> None:
    shown = planner("models").stdout

    for row_id in catalog():
        assert f"{row_id} " in shown
    assert "embedding" in shown
    assert f"{len(catalog())} models" in shown


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


def test_an_empty_store_is_said(planner) -> None:
    assert "Nothing is stored yet" in planner("models", "--installed").stdout
    assert json.loads(planner("models", "--installed", "--json").stdout) == {"schema": 1, "installed": []}


def test_a_users_rows_are_listed(planner, tmp_path: Path) -> None:
    rows = tmp_path / "mine.jsonl"
    rows.write_text(
        '{"id":"house-model","family":"house","kind":"chat","license":"mit","ctx_train":2048,"params":1000,'
        '"params_active":1000,"shape":null}\n'
    )

    assert "house-model" in planner("models", "--models-file", str(rows)).stdout


def test_the_users_own_file_is_read_here_and_not_for_another_machine(planner, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "config").mkdir(parents=True)
    shape = msgspec.to_builtins(catalog()["smollm2-135m-instruct"].shape)
    row = {
        "id": "house-model", "family": "house", "kind": "chat", "license": "mit", "ctx_train": 8192,
        "params": 134515008,
        "params_active": 134515008, "shape": {k: v for k, v in shape.items() if v is not None},
        "scores": {"MMLU-Pro": 94.0}, "files": [{"source": "file:/models/house.gguf", "quant": "Q8_0"}],
    }  # fmt: skip
    own = home / "config" / "models.toml"
    own.write_text(tomli_w.dumps({"models": [row]}))
    here = {"EDGELLM_HOME": str(home)}
    there = ("--profile", "raspberry-pi-5-8gb")

    assert "house-model" in planner("models", "--fits", **here).stdout
    assert "house-model" not in planner("models", "--fits", *there, **here).stdout
    assert "house-model" in planner("models", "--fits", *there, "--models-file", str(own), **here).stdout
    assert "house-model" not in planner("models", EDGELLM_MODELS="", **here).stdout
    assert "nowhere.toml" in planner("models", EDGELLM_MODELS="/nowhere.toml", code=2, **here).stderr
    own.write_text(own.read_text().replace("8192", "0"))
    assert "models.toml: line 1, house-model: ctx_train 0 is no length" in planner("models", code=2, **here).stderr


def test_what_fits_stands_in_80_columns_with_restrictive_licences_marked(planner) -> None:
    shown = planner("models", "--fits", "--profile", "raspberry-pi-5-8gb").stdout

    assert max(map(len, shown.splitlines())) <= 80
    assert "gemma-3-1b-it*" in shown
    assert "smollm2-135m-instruct*" not in shown
    assert "* the licence restricts use" in shown
    assert "more fit but stay below 5 tok/s" in shown


def test_the_embedding_models_are_those_of_their_task(planner) -> None:
    rows = json.loads(planner("models", "--fits", "--task", "embed", "--json").stdout)["models"]

    assert {row["kind"] for row in rows} == {"embedding"}
    assert all(row["here"]["prefill"]["tok_s"] >= 100 for row in rows)


def test_a_profile_without_fits_is_refused(planner) -> None:
    assert "add --fits" in planner("models", "--profile", "raspberry-pi-5-8gb", code=2).stderr


def test_an_unknown_task_is_an_error(planner) -> None:
    assert "unknown task" in planner("models", "--task", "poetry", code=2).stderr


def test_files_of_a_folder_of_ones_own_are_listed_here_only(planner, tmp_path: Path) -> None:
    tiny = Path(__file__).parents[2] / "plugins" / "edgellm-bitnet" / "edgellm_bitnet" / "models" / "tiny-ternary.gguf"
    (tmp_path / "deep").mkdir()
    shutil.copy(tiny, tmp_path / "deep" / "house.gguf")
    folder = ("--models-dir", str(tmp_path))

    assert "\nhouse " in planner("models", *folder).stdout
    assert "\nhouse " not in planner("models").stdout
    assert "\nhouse " not in planner("models", "--fits", "--profile", "raspberry-pi-5-8gb", *folder).stdout
    assert "none is no folder" in planner("models", "--models-dir", "none", code=2).stderr
