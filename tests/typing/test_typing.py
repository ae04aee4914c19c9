"""What an editor says of calls of the SDK: right ones are inferred to the last attribute, wrong ones are marked."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow(2)
def test_an_editor_infers_right_calls_and_marks_wrong_ones() -> None:
    """Each `pyright: ignore` in wrong.py names the error of its line; where there is none, the comment is the error."""
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("typing: basedpyright is not installed; `make typing` installs and runs it")
    command = [sys.executable, "-m", "basedpyright", "--project", str(HERE), "--pythonpath", sys.executable]
    checked = subprocess.run([*command, "--outputjson"], capture_output=True, text=True, check=False)
    report = json.loads(checked.stdout)

    assert report["summary"]["filesAnalyzed"] >= 2, checked.stderr
    assert [_line(found) for found in report["generalDiagnostics"] if found["severity"] == "error"] == []


def _line(diagnostic: dict) -> str:
    start = diagnostic["range"]["start"]["line"] + 1
    return f"{Path(diagnostic['file']).name}:{start}: {diagnostic['message']} ({diagnostic.get('rule', '')})"
