"""EdgeLLM in an image: its home is a read-only layer, and copying has given every file a new time."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from support.read_only import run_read_only

MODEL = "smollm2-135m-instruct"


@pytest.mark.model
@pytest.mark.slow(13)
def test_a_model_in_a_read_only_layer_answers(smollm2: str, own_home: Path) -> None:
    entry = Path(smollm2).parent
    shutil.copytree(entry, own_home / "data" / "models" / MODEL / entry.name, copy_function=shutil.copyfile)

    arguments = ["run", MODEL, "Hi", "--offline", "--max-tokens", "2", "--ctx", "512"]
    done = run_read_only(own_home, sys.executable, "-m", "edgellm", *arguments)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr
    doctor = run_read_only(own_home, sys.executable, "-m", "edgellm", "doctor", "--json")
    notes = [finding["text"] for finding in json.loads(doctor.stdout)["findings"]]
    assert any(note.startswith(f"{MODEL} Q4_1 is hashed at each start") for note in notes), notes
