"""Wheels on emulated processors: each gets the code that was made for it, which computes what plain code computes.

make test-all       makes them, and runs these tests on four processors and this one
make test-wheels    on all of them
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edgellm_bitnet.models import TINY_TERNARY
from support.emulated import Processor, site_for_arm
from support.made_wheels import unpacked
from support.tiny_models import Tiny, with_weights

pytestmark = pytest.mark.timeout(3600)

# Codes differ in how they repack, and in the order in which they add. Mean difference over 200 random tokens, against a
# standard deviation of 3.6 (SmolLM2), 3.8 (ternary) and 0.9 (random weights).
TOLERANCE = {"SmolLM2": 0.4, "ternary": 0.05, "random": 0.05}
QUANTS = ("Q4_0", "Q4_K_M", "Q8_0", "IQ4_NL", "F16")
# Machine, processor, code of llama.cpp, kernels of the ternary engine.
PROCESSORS = [
    ("x86_64", "Nehalem", "sse42", "sse41"),
    ("x86_64", "SandyBridge", "sandybridge", "sse41"),
    ("x86_64", "IvyBridge", "ivybridge", "sse41"),
    ("x86_64", "Haswell", "haswell", "avx2"),
    ("x86_64", "EPYC", "haswell", "avx2"),
    ("aarch64", "cortex-a53", "armv8.0_1", "neon"),
    ("aarch64", "cortex-a72", "armv8.0_1", "neon"),
    ("aarch64", "neoverse-n1", "armv8.2_2", "dotprod"),
    ("aarch64", "neoverse-v1", "armv8.6_1", "i8mm"),
    ("aarch64", "max", "armv9.2_2", "i8mm"),
]
# Of each machine the least that is served and a common one; the others are asked by hand.
ALWAYS = {"Nehalem", "Haswell", "cortex-a53", "neoverse-n1"}
MARKED = [pytest.param(*row, marks=[] if row[1] in ALWAYS else pytest.mark.by_hand) for row in PROCESSORS]
X86 = "manylinux_2_28_x86_64"
HERE = Processor("x86_64", "")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the wheels for this machine, as environment variables name them."""
    folder = tmp_path_factory.mktemp("wheels")
    llama = unpacked("llama_cpp_python", X86, folder) / "llama_cpp" / "lib"
    ternary = unpacked("edgellm_bitnet", X86, folder) / "edgellm_bitnet" / "libedgellm_bitnet.so"
    return {"LLAMA_CPP_LIB_PATH": str(llama), "EDGELLM_BITNET_LIBRARY": str(ternary)}


@pytest.fixture(scope="module")
def plain(libraries: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As `libraries`, with the code for every processor alone."""
    folder = tmp_path_factory.mktemp("plain")
    for file in Path(libraries["LLAMA_CPP_LIB_PATH"]).iterdir():
        if "ggml-cpu-" not in file.name or file.name == "libggml-cpu-x64.so":
            (folder / file.name).symlink_to(file)
    return {**libraries, "LLAMA_CPP_LIB_PATH": str(folder), "EDGELLM_BITNET_ISA": "scalar"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a Python of the arm64 root imports."""
    return site_for_arm(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By type, random weights: of a size that an emulator computes in seconds."""
    folder = tmp_path_factory.mktemp("models")
    made = {"F16": with_weights(Tiny("llama", n_layer=4).gguf(), folder / "F16.gguf")}
    for quant in QUANTS[:-1]:
        made[quant] = str(folder / f"{quant}.gguf")
        quantize = [sys.executable, "-P", "-m", "edgellm", "quantize", made["F16"], "--to", quant]
        subprocess.run([*quantize, "--output", made[quant]], check=True, stdout=subprocess.DEVNULL)
    return made


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The trained model, where the arm64 root sees it."""
    trained = TINY_TERNARY.files[0].source.removeprefix("file:")
    return str(shutil.copy(trained, tmp_path_factory.mktemp("ternary")))


@pytest.fixture(scope="module")
def expected(
    plain: dict[str, str], models: dict[str, str], ternary: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """Logits of plain code, by type; of the ternary engine as "ternary"."""
    target, nothing = tmp_path_factory.mktemp("expected") / "logits.npy", Path()
    logits = {}
    for quant, model in models.items():
        variant, logits[quant] = HERE.logits("gguf", model, target, nothing, **plain)
        assert variant == "x64"
    _, logits["ternary"] = HERE.logits("bitnet", ternary, target, nothing, **plain)
    return logits


def difference(what: str, one: np.ndarray, other: np.ndarray) -> float:
    apart = np.abs(one - other)
    print(f"{what}: {apart.mean():.5f} on average, {apart.max():.4f} at most, of {other.std():.2f}")
    return float(apart.mean())


@pytest.mark.slow(60)
@pytest.mark.parametrize(("machine", "name", "variant", "kernels"), MARKED)
def test_each_processor_gets_its_own_code(
    libraries: dict[str, str], site: Path, models: dict[str, str], ternary: str, expected: dict[str, np.ndarray],
    tmp_path: Path, machine: str, name: str, variant: str, kernels: str,
) -> None:  # fmt: skip
    processor, target = Processor(machine, name), tmp_path / "logits.npy"
    named = libraries if machine == "x86_64" else {}

    for quant, model in models.items():
        chosen, computed = processor.logits("gguf", model, target, site, **named)
        assert chosen == variant
        assert difference(f"{name} {chosen} {quant}", computed, expected[quant]) < TOLERANCE["random"]
    chosen, computed = processor.logits("bitnet", ternary, target, site, **named)
    assert chosen == kernels
    assert difference(f"{name} {chosen} ternary", computed, expected["ternary"]) < TOLERANCE["ternary"]


@pytest.mark.model
@pytest.mark.slow(20)
def test_this_processor_computes_a_real_model_as_plain_code_does(
    libraries: dict[str, str], plain: dict[str, str], smollm2: str, tmp_path: Path
) -> None:
    variant, scalar = HERE.logits("gguf", smollm2, tmp_path / "scalar.npy", Path(), **plain)
    chosen, computed = HERE.logits("gguf", smollm2, tmp_path / "logits.npy", Path(), **libraries)

    assert (variant, chosen == "x64") == ("x64", False)
    assert difference(f"{chosen} SmolLM2", computed, scalar) < TOLERANCE["SmolLM2"]
