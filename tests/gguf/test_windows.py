"""llama.cpp on Windows, where a handle tells of its own library's functions alone and files are called otherwise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from edgellm_gguf import library

if library.missing():
    pytest.skip("compiler: there is no libllama", allow_module_level=True)

from edgellm_gguf import ggml, inventory


def test_a_function_is_found_in_the_libraries_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = SimpleNamespace(ggml_nbytes=SimpleNamespace())
    monkeypatch.setattr(ggml, "_handles", lambda: (SimpleNamespace(), beside))

    assert ggml._Library().ggml_nbytes is beside.ggml_nbytes
    assert beside.ggml_nbytes.argtypes == [ggml._PTR]


def test_a_function_that_no_library_has_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml, "_handles", lambda: (SimpleNamespace(),))
    monkeypatch.setattr(ggml.binding, "_lib", SimpleNamespace())

    assert not hasattr(ggml._Library(), "ggml_nbytes")


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("libggml-cpu-haswell.so", "cpu-haswell"),
        ("libggml-cpu-armv8.0_1.so", "cpu-armv8.0_1"),
        ("libggml-vulkan.so.0.25.3", "vulkan"),
        ("ggml-cpu-haswell.dll", "cpu-haswell"),
        ("libggml-base.dylib", "base"),
        ("ggml.dll", ""),
        ("libllama.so", ""),
    ],
)
def test_libraries_of_ggml_are_told_by_their_names(file: str, kind: str) -> None:
    assert inventory._kind(Path(file)) == kind


def test_code_for_processors_is_scored_by_name(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("ggml-base.dll", "ggml-cpu-haswell.dll", "libggml-cpu-x64.so", "llama.dll")]
    assert inventory.scores(files) == {"haswell": 0, "x64": 0}
