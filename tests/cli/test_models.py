"""`edgellm models` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_an_unknown_task_is_an_error(planner) -> None:
    assert "unknown task" in planner("models", "--task", "poetry", code=2).stderr
