"""Which adapter a word means: a stored one of that name comes before what lies in the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.loras import tiny_with

from edgellm.app import adapters, launch
from edgellm.app.stored_adapters import bring
from edgellm.types.options import LaunchOptions


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Path], Path]:
    """A model with a stored adapter `mail`, the files of two, and the current folder, which is empty."""
    made, here = tmp_path / "made", tmp_path / "here"
    made.mkdir()
    here.mkdir()
    model, loras = tiny_with(made, "mail", "tone")
    bring(loras["mail"], str(model), "mail")
    monkeypatch.chdir(here)
    return model, loras, here


@pytest.mark.parametrize("in_folder", ["nothing", "an adapter", "a folder"])
def test_a_name_is_that_of_the_store(made: tuple[Path, dict[str, Path], Path], in_folder: str) -> None:
    model, loras, here = made
    if in_folder == "an adapter":
        (here / "mail").write_bytes(loras["tone"].read_bytes())
    elif in_folder == "a folder":
        (here / "mail").mkdir()  # as peft leaves one, of which `edgellm adapters import ./mail` made the stored one
    for name, options in ((f"{model.stem}:mail", LaunchOptions()), (str(model), LaunchOptions.of(adapters="mail"))):
        plan, _ = launch.plan(name, options)
        assert [(file.name, Path(file.path).name) for file in plan.adapters] == [("mail", "adapter.gguf")]


def test_a_stored_name_that_looks_like_a_file_is_found_behind_the_model(
    made: tuple[Path, dict[str, Path], Path],
) -> None:
    model, loras, here = made
    bring(loras["mail"], str(model), "mail.gguf")
    (here / "mail.gguf").write_bytes(loras["tone"].read_bytes())
    plan, _ = launch.plan(f"{model.stem}:mail.gguf", LaunchOptions())
    assert [Path(file.path).name for file in plan.adapters] == ["adapter.gguf"]


def test_a_path_is_a_file(made: tuple[Path, dict[str, Path], Path]) -> None:
    _, loras, here = made
    for name in ("mail", "mail.gguf", "tone"):
        (here / name).write_bytes(loras["tone"].read_bytes())
    sha256 = adapters.asked([str(loras["tone"])])[0].file.sha256
    for text in ("./mail", "mail.gguf", "mine=mail", "tone"):  # of the last, none is stored
        (asked,) = adapters.asked([text])
        assert (asked.is_stored, asked.file.sha256) == (False, sha256)
    (asked,) = adapters.asked(LaunchOptions.of(adapters=Path("mail")).adapters)
    assert (asked.is_stored, asked.file.sha256) == (False, sha256), "a Path names no stored one"
