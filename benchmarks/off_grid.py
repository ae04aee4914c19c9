"""Quantizations of the real models whose weights lie on no grid, for what is measured of quality (`regret.py`).

    python benchmarks/off_grid.py smollm2-135m Q4_K_M [MORE...]      prints the paths, makes what is not there

The published files of these models are quantized themselves. An F16 file made of one has its 16 or 32 levels a block:
a type whose levels happen to fit them loses nothing, one with more bits that do not fit loses more (made of Q4_1, Q5_1
is worse than Q5_0). So every weight is moved at random within the step of its block, as far as rounding may have moved
it before, and the quantizations are made of that. It is another model than the published one, about as far from it as
the published one is from its original, of the same shape, and its weights lie between levels as trained ones do.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapes

from edgellm import settings
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.reader import read_key_bytes, read_model
from edgellm.formats.gguf.writer import Encoded, GgufWriter, TensorInfo, Value

BLOCK = 32  # weights that share a step, in every type that is moved
COARSE_BITS = 5.6  # finer types are left as they are: their steps are small
SEED = 20261125


def off_grid_path(model: str, quant: str) -> Path:
    """The file, made first where it is not there yet.

    Raises:
        KeyError: unknown model or quantization. RuntimeError: the quantizer failed, with what it said.
    """
    folder = settings.current().cache_dir / "off-grid"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model}-{quant}.gguf"
    with shapes.locked(folder / f".{path.name}.lock"):
        if path.exists():
            return path
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as made:
            done = Path(made) / "done.gguf"
            if quant == "F16":
                stored, _ = shapes.stored(shapes.REAL[model])
                half = Path(made) / "half.gguf"
                shapes.quantize(stored, half, "F16")
                _move(stored, half, done)
            else:
                shapes.quantize(off_grid_path(model, "F16"), done, quant)
            os.replace(done, path)
    return path


def _move(stored: Path, half: Path, path: Path) -> None:
    """Write `half` with weights moved within the steps that `stored` has."""
    rng = np.random.default_rng(SEED)
    model, coarse = read_model(half), {t.name for t in read_model(stored).tensors if _is_coarse(t.type.name)}
    metadata: dict[str, Value] = {key: Encoded(data) for key, data in read_key_bytes(model.header).items()}
    source = np.memmap(half, np.uint8, "r")
    with GgufWriter(path, metadata, [TensorInfo(t.name, t.dims, t.type) for t in model.tensors]) as writer:
        for tensor in model.tensors:
            data = source[tensor.offset : tensor.offset + tensor.n_bytes]
            if tensor.name in coarse:
                data = moved(data.view(np.float16), rng).view(np.uint8)
            writer.write(tensor.name, data.tobytes())


def _is_coarse(kind: str) -> bool:
    layout = BY_NAME[kind]
    return layout.block_bytes * 8 / layout.block_elems < COARSE_BITS


def moved(weights: npt.NDArray[np.float16], rng: np.random.Generator) -> npt.NDArray[np.float16]:
    """Weights moved by up to half the step of their block, which is the least distance between two of its levels."""
    found = np.empty_like(weights)
    size = BLOCK << 15
    for start in range(0, len(weights), size):
        blocks = weights[start : start + size].astype(np.float32).reshape(-1, BLOCK)
        gaps = np.diff(np.sort(blocks, axis=1), axis=1)
        # Of equal levels rounding to half precision leaves no gap; a block of one level has no step.
        step = np.where(gaps > 0, gaps, math.inf).min(axis=1, keepdims=True)
        step[~np.isfinite(step)] = 0
        drawn = rng.uniform(-0.5, 0.5, blocks.shape).astype(np.float32)
        found[start : start + size] = (blocks + step * drawn).astype(np.float16).reshape(-1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=shapes.REAL)
    parser.add_argument("quants", nargs="+", metavar="QUANT")
    arguments = parser.parse_args()
    for quant in arguments.quants:
        print(off_grid_path(arguments.model, quant), flush=True)


if __name__ == "__main__":
    main()
