"""Every feature on every backend: docs/conformance.md is what came of it.

EDGELLM_UPDATE_GOLDEN=1 .venv/bin/pytest tests/test_conformance.py::test_the_page_is_what_the_backends_do    writes it
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import onnx_models
from support.conformance import FEATURES, table
from support.live_server import Servers, echo_plan

from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings

PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"
CTX = 1024


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
    head = text[: text.index("## ")]
    if os.environ.get("EDGELLM_UPDATE_GOLDEN"):
        PAGE.write_text(head + table(cells), "utf-8")
    assert PAGE.read_text("utf-8") == head + table(cells)


def test_the_page_has_every_feature() -> None:
    page = PAGE.read_text("utf-8")
    assert not [
        feature.name for features in FEATURES.values() for feature in features if f"| {feature.name} |" not in page
    ]
