"""What a tuner learned (`contract.tuner`, a safetensors file of float32), as factors that files can say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgellm.adaptation import folds
from edgellm.adaptation.lora import Floats, Lora, LoraFactors, sound
from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.reader import GgufModel
from edgellm.formats.safetensors.reader import read_safetensors
from edgellm.types.tuning import TuneSettings

_PARTS = ("lora_a", "lora_b", "start_a", "start_b", "vera_d", "vera_b", "dora_m")
_SHARED = ("vera_a", "vera_b")
_HINT = "the file is damaged, or of another tuning: tune again"


@dataclass(frozen=True, slots=True)
class _Learned:
    """A trainer's file: by tensor of the model, its parts."""

    where: str
    parts: Mapping[str, Mapping[str, Floats]]
    shared: Mapping[str, Floats]

    def part(self, name: str, part: str, shape: tuple[int, ...]) -> Floats:
        """
        Raises:
            BadArtifact: it is missing, or of another shape.
        """
        values = self.parts[name].get(part)
        if values is None or values.shape != shape:
            has = "missing" if values is None else list(values.shape)
            what = f"{name}.{part}".rstrip(".")
            raise BadArtifact(f"{self.where}: {what} is {has}, {list(shape)} is needed", hint=_HINT)
        return values


def learned(path: Path, settings: TuneSettings, model: GgufModel) -> Lora:
    """`path`: what the trainer of `model` had learned with these settings.

    Raises:
        BadArtifact: malformed, parts missing or of other shapes, values that are no numbers.
        UnsupportedArtifact: a tensor that the model does not have.
    """
    dims = {tensor.name: tensor.dims for tensor in model.tensors}
    content = _read(path, dims, model.paths[0])
    architecture, names = model.header.architecture, [name for name in dims if name in content.parts]
    if settings.method == "full":
        whole = {name: content.part(name, "", dims[name][::-1]) for name in names}
        return sound(Lora(architecture, 0.0, {}, replaced=whole, shares_table=True), str(path))
    factors, lengths = {}, {}
    for name in names:
        n_in, n_out = dims[name][:2]
        factors[name] = _factors(content, name, n_in, n_out, settings)
        if settings.method == "dora":
            lengths[name] = content.part(name, "dora_m", (n_out,))
    alpha = settings.alpha
    if settings.method == "rslora":
        alpha = folds.rslora_alpha(alpha, settings.rank)
    elif settings.method == "vera":
        alpha = float(settings.rank)
    # The scale is alpha / rank, and Delta-LoRA's pairs have twice the rank.
    ranks = {pair.rank for pair in factors.values()}
    return sound(Lora(architecture, alpha * max(ranks, default=1) / settings.rank, factors, lengths=lengths), str(path))


def _read(path: Path, dims: Mapping[str, tuple[int, ...]], base: str) -> _Learned:
    content = read_safetensors(path)
    parts: dict[str, dict[str, Floats]] = defaultdict(dict)
    shared: dict[str, Floats] = {}
    for name, tensor in content.tensors.items():
        if tensor.dtype != "F32":
            raise BadArtifact(f"{path}: {name[:200]} is {tensor.dtype}, F32 is needed", hint=_HINT)
        values = np.frombuffer(content.raw(name), "<f4").reshape(tensor.shape)
        of, _, part = name.rpartition(".")
        if name in _SHARED:
            shared[name] = values
        elif name in dims:
            parts[name][""] = values
        elif part in _PARTS and len(dims.get(of, ())) == 2:
            parts[of][part] = values
        else:
            message = f"{path} has {name[:200]}, which is no part of {base}"
            raise UnsupportedArtifact(message, hint="name the model that was tuned")
    return _Learned(str(path), parts, shared)


def _factors(content: _Learned, name: str, n_in: int, n_out: int, settings: TuneSettings) -> LoraFactors:
    rank = settings.rank
    if settings.method == "vera":
        a, b = (content.shared.get(part, np.zeros((0, 0), np.float32)) for part in _SHARED)
        if a.shape[:1] != (rank,) or b.shape[1:] != (rank,) or a.shape[1] < n_in or len(b) < n_out:
            message = (
                f"{content.where}: vera_a {a.shape} and vera_b {b.shape} are too small for {name} of {n_out}x{n_in}"
            )
            raise BadArtifact(message, hint=_HINT)
        return folds.vera(a, b, content.part(name, "vera_d", (rank,)), content.part(name, "vera_b", (n_out,)), n_in)
    pair = LoraFactors(content.part(name, "lora_a", (rank, n_in)), content.part(name, "lora_b", (n_out, rank)))
    if "start_a" not in content.parts[name]:
        return pair
    start = LoraFactors(content.part(name, "start_a", (rank, n_in)), content.part(name, "start_b", (n_out, rank)))
    return folds.delta(pair, start, settings.delta_scale)
