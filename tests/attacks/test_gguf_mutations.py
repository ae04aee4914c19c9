"""A well-formed header with wrong values: refused in Python by the name of the key, or native code takes it alive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attacks.gguf.hybrids import hybrids, size_of
from attacks.gguf.mutations import flips, mutations, sound
from support.gguf_writer import Gguf, Tensor

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

# What ends native code all the same, and why it is not refused.
ABORTS: dict[str, str] = {}


def outcomes(folder: Path, files: dict[str, bytes], size: int = 0) -> dict[str, str]:
    """How each ended: what was said of it, or the signal that ended it. `size`: of a file that ends in a hole."""
    names = {}
    for number, (name, content) in enumerate(files.items()):
        path = folder / f"{number}.gguf"
        path.write_bytes(content)
        os.truncate(path, max(size, len(content)))
        names[str(path)] = name
    env = os.environ | {"GGML_NO_BACKTRACE": "1"}
    script = Path(__file__).parent / "gguf" / "run_native.py"
    done = subprocess.run(
        [sys.executable, str(script)], input="\n".join(names), capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {names[path]: outcome for path, outcome in json.loads(done.stdout).items()}


def ended_natively(ends: dict[str, str]) -> dict[str, str]:
    return {name: outcome for name, outcome in ends.items() if outcome.startswith(("killed by", "left with"))}


@pytest.mark.slow(25)
def test_no_wrong_value_ends_native_code(tmp_path: Path) -> None:
    files = {"sound": sound().build()}
    for name, mutate in mutations().items():
        model = sound()
        mutate(model)
        files[name] = model.build()
    assert len(files) > 2 * 78

    ends = outcomes(tmp_path, files)

    assert ends["sound"] == "said"
    assert ended_natively(ends).keys() == ABORTS.keys(), ended_natively(ends)


@pytest.mark.slow(22)
def test_no_flip_in_a_header_ends_native_code(tmp_path: Path) -> None:
    model = sound()
    rows = [(key, *entry) for key, entry in model.keys.items()]
    tensors = [Tensor(name, dims, kind, len(data)) for name, (dims, kind, data) in model.tensors.items()]
    ends = outcomes(tmp_path, flips(model.build(), len(Gguf(rows, tensors).header()), 300))
    assert ended_natively(ends) == {}


@pytest.mark.slow(40)
@pytest.mark.parametrize("arch", hybrids())
def test_no_flip_in_the_header_of_a_hybrid_ends_native_code(tmp_path: Path, arch: str) -> None:
    model = hybrids()[arch]
    head = model.header()
    ends = outcomes(tmp_path, {"sound": head, **flips(head, len(head), 300)}, size_of(model))

    assert ends["sound"] == "said"
    assert ended_natively(ends) == {}
