"""Quantizations that could be made on this machine from a higher one that can be had (`edgellm quantize`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgellm.estimate import weights
from edgellm.selection.option import Option
from edgellm.types.model import ModelFile
from edgellm.types.model_reason import CouldBeMade

# What little is lost in, so that making another one of it adds no loss that counts.
SOURCES = ("F32", "BF16", "F16", "Q8_0")
# Made well without an importance matrix.
TARGETS = ("Q6_K", "Q5_K_M", "Q4_K_M")
SCHEME = "quantize:"


def local_options(options: Sequence[Option]) -> list[Option]:
    """An option for each of TARGETS that a model lacks among `options` and has a source for, by model and target."""
    have: dict[tuple[str, str], set[str]] = {}
    source: dict[tuple[str, str], Option] = {}
    for o in options:
        key = (o.model, o.backend)
        have.setdefault(key, set()).add(o.quant)
        if o.quant in SOURCES and o.file.format == "gguf" and not o.card.native_quant:
            best = source.get(key)
            if best is None or SOURCES.index(o.quant) < SOURCES.index(best.quant):
                source[key] = o
    return [_made(o, target) for key, o in source.items() for target in TARGETS if target not in have[key]]


def _made(source: Option, target: str) -> Option:
    card = source.card
    file = ModelFile(f"{SCHEME}{source.file.source}", target, trust="made here")
    return replace(source, file=file, weights=weights.weights(source.shape, card.params, card.params_active, target))


def proposal(chosen: Option, instead: Option | None) -> CouldBeMade:
    """Where a file that could be made would be chosen. `instead` is taken without it."""
    source = chosen.file.source.removeprefix(SCHEME)
    path = source.removeprefix("file:") if source.startswith("file:") else ""
    if instead is None:
        return CouldBeMade(chosen.model, chosen.quant, chosen.score, path=path)
    return CouldBeMade(chosen.model, chosen.quant, chosen.score, instead.model, instead.quant, instead.score, path)
