"""A real model, tuned: llama.cpp with the exported adapter against the tuner, on the same tokens."""

from __future__ import annotations

import pydoc_data.topics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from edgellm_gguf import library
from support import exactness
from support.tuning import trainer

from edgellm.adaptation import adapter_file
from edgellm.adaptation.example import Example
from edgellm.adaptation.learned import learned
from edgellm.adaptation.packing import pack
from edgellm.contract.manager import plugins
from edgellm.formats.gguf.reader import read_model
from edgellm.formats.safetensors.writer import write_safetensors
from edgellm.types.plan import LaunchPlan, Settings

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(bool(library.missing()), reason="model: llama-cpp-python is not installed"),
    pytest.mark.timeout(3000),
]
LENGTH = 128


def documents(path: str, count: int) -> list[list[int]]:
    """Python's own help, in the tokens of the model, with the token that it wants at the beginning."""
    engine = plugins().backend("gguf").open(LaunchPlan("gguf", exactness.artifact(path), Settings(64)))
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    ids = engine.tokenizer.encode(text[: 8 * LENGTH * count], add_special=False, parse_special=False)
    first = engine.tokenizer.encode("", add_special=True, parse_special=False)
    engine.close()
    each = LENGTH - len(first)
    return [first + ids[at : at + each] for at in range(0, each * count, each)]


def train(path: str, rows: list[list[int]], folder: Path, steps: int):
    """LoRA+ on text, as the rules choose it, and the adapter that is served."""
    made = trainer(path, dtype="float32", method="lora+", learning_rate=1e-3)
    every = np.arange(LENGTH) > 0
    packed = pack([Example(np.array(ids, np.int32), every) for ids in rows], LENGTH)
    for step in range(steps):
        made.step([packed.batch([step % packed.n_rows])], 1e-3)
    write_safetensors(folder / "factors", made.factors())
    adapter_file.write(folder / "tuned.gguf", learned(folder / "factors", made.settings, read_model(path)))
    return made, folder / "tuned.gguf"


@dataclass(frozen=True)
class Compared:
    untouched: exactness.Distance
    adapted: exactness.Distance
    cosine: float


def compare(path, made, adapter: Path, held_out, folder: Path) -> Compared:
    base, after = (exactness.tuned(made, held_out, folder / f"tuner-{on}", adapted=on) for on in (False, True))
    native = [
        exactness.served(path, held_out, folder / f"served-{use is not None}.npy", use) for use in (None, adapter)
    ]
    return Compared(
        exactness.distance(base, native[0]),
        exactness.distance(after, native[1]),
        exactness.cosine_of_changes(base, after, *native),
    )


def of_base(made, path):
    """The same factors beside another file of the model."""
    import torch

    other = trainer(path, dtype="float32", method="lora+")
    with torch.no_grad():
        for name, tensor in other.trained.items():
            tensor.copy_(made.trained[name])
    return other


@pytest.fixture(scope="module")
def smollm2_tuned(smollm2: str, tmp_path_factory: pytest.TempPathFactory):
    """(what was trained, its adapter, documents that it has not seen), on the Q4_1 of the package."""
    rows = documents(smollm2, 48)
    made, adapter = train(smollm2, rows[:40], tmp_path_factory.mktemp("tuned"), 40)
    return made, adapter, rows[40:]


@pytest.mark.slow(400)
@pytest.mark.parametrize(
    ("quant", "n_documents"),
    [
        ("F32", 8),
        pytest.param("", 8, marks=pytest.mark.by_hand),
        pytest.param("Q8_0", 4, marks=pytest.mark.by_hand),
    ],
    ids=["F32", "Q4_1", "Q8_0"],
)
def test_llama_cpp_computes_what_the_tuner_does(
    quant: str, n_documents: int, smollm2: str, smollm2_tuned, tmp_path: Path
) -> None:
    made, adapter, held_out = smollm2_tuned
    path = exactness.requantized(smollm2, tmp_path / "other.gguf", quant) if quant else smollm2

    compared = compare(path, of_base(made, path), adapter, held_out[:n_documents], tmp_path)

    if quant == "F32":
        assert compared.adapted.kl <= 1e-4
        assert compared.adapted.same_top >= 0.999
    assert compared.adapted.kl <= max(1.2 * compared.untouched.kl, 1e-4)
    assert compared.cosine >= 0.99


@pytest.mark.slow(100)
@pytest.mark.by_hand
def test_llama_cpp_computes_what_the_tuner_does_of_gemma(gemma3: str, tmp_path: Path) -> None:
    rows = documents(gemma3, 22)
    made, adapter = train(gemma3, rows[:20], tmp_path, 20)

    compared = compare(gemma3, made, adapter, rows[20:], tmp_path)

    assert compared.adapted.kl <= 1.2 * compared.untouched.kl
    assert compared.cosine >= 0.99
