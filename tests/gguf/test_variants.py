"""A build with code for each kind of processor: the fastest that runs is chosen, and computes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from edgellm_gguf import library
from edgellm_gguf.plugin import GgufBackend

from edgellm.hardware.probe import probe

# Answers which variant computes, and four tokens of a model.
SCRIPT = """
import json, sys
from edgellm.contract.engine import SlotInput
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm_gguf import ggml
from edgellm_gguf.engine import LlamaEngine
engine = LlamaEngine(LaunchPlan("gguf", Artifact("gguf", (sys.argv[1],), "model"), Settings(64)))
prompt = tuple(engine.tokenizer.encode("The capital of France is", add_special=True, parse_special=False))
rows = engine.step([SlotInput(0, 0, prompt, 1)])
tokens = [int(rows[0][0].argmax())]
while len(tokens) < 4:
    rows = engine.step([SlotInput(0, len(prompt) + len(tokens) - 1, (tokens[-1],), 1)])
    tokens.append(int(rows[0][0].argmax()))
print(json.dumps([ggml.cpu_library(), "".join(map(engine.tokenizer.text, tokens))]))
"""


@pytest.fixture(autouse=True)
def variants() -> dict[str, int]:
    """ggml's scores of all code for a processor in this build."""
    scores = {} if library.missing() else library.verdict(probe(measure=False)).variants
    if not scores:
        pytest.skip(
            "does not apply: this libllama has one code for the processor; `make test-variants` builds the other kind"
        )
    return scores


def test_the_fastest_that_runs_here_is_chosen(variants: dict[str, int]) -> None:
    verdict = library.verdict(probe(measure=False))
    assert verdict.variant == max(variants, key=lambda name: variants[name])
    assert verdict.proof
    assert len(variants) > 5
    assert library.build().endswith(f" {verdict.variant}")
    assert GgufBackend().advise(probe(measure=False)) == []


def test_other_folders_are_not_searched(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself ggml takes what lies in the current folder."""
    (tmp_path / "libggml-cpu-evil.so").write_bytes(b"not a library")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(os.environ["EDGELLM_HOME"] + "/cache/gguf-probe")
    assert "evil" not in library.verdict(probe(measure=False)).variants


@pytest.mark.model
@pytest.mark.slow(90)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("processor", "variant"), [("Nehalem", "sse42"), ("SandyBridge", "sandybridge"), ("Haswell", "haswell")]
)
def test_each_processor_gets_its_own_code_and_generates(smollm2: str, processor: str, variant: str) -> None:
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu: no qemu-x86_64: apt-get install qemu-user")
    command = [qemu, "-cpu", processor, sys.executable, "-c", SCRIPT, smollm2]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    path, text = json.loads(done.stdout)
    assert path.endswith(f"libggml-cpu-{variant}.so")
    assert text.startswith(" Paris")
