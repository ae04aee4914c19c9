"""Who is nearer to the exact result: the ternary engine, or transformers in float32? The third party is float64.

`tests/bitnet/reference.py` computes a model in numpy's float64. Activations are rounded to 8 bits by everybody, so two
float32 computations that differ in the last bit round a value near a half differently now and then, by a whole step: a
flip. Three comparisons take that apart:

- whole models against float64;
- float64 that is given the integers transformers rounded to: what is left is the error of the floats alone;
- one layer at a time, each given transformers' own input to it: positions without a flip, and how far those are off.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from edgellm_bitnet.engine import BitnetEngine
from edgellm_bitnet.options import Options
from edgellm_bitnet.weights import Raw, Weights

from edgellm.contract.engine import SlotInput
from edgellm.types.plan import Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from bitnet.reference import Reference, rms_norm

Array = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]
NO_FLIP = 1e-5  # relative distance of a row: floats alone make 1e-7, one flip 1e-3
SHARED = {"attn_k": "attn_q", "attn_v": "attn_q", "ffn_up": "ffn_gate"}  # products of one input


@dataclass(frozen=True, slots=True)
class Flips:
    """Integers that float64 rounds otherwise than transformers did, from the same state up to float32."""

    count: int
    values: int
    farthest: float  # from a half, in steps


class Given(Reference):
    """Float64 whose products take the integers of another computation; it counts where its own differ."""

    def __init__(self, weights: Weights, integers: Mapping[str, npt.NDArray[np.int8]]) -> None:
        super().__init__(weights, kv_type="exact")
        self.integers, self.count, self.values, self.farthest = integers, 0, 0, 0.0

    def product(self, layer: int, name: str, x: Exact) -> Any:
        q = self.integers[f"q.{layer}.{SHARED.get(name, name)}"].astype(np.float64)
        scale = 127.0 / np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-5)
        if name not in SHARED:
            flipped = np.clip(np.rint(x * scale), -128, 127) != q
            self.count += int(flipped.sum())
            self.values += q.size
            if flipped.any():
                off = np.abs(np.abs(x * scale - q)[flipped] - 0.5)
                self.farthest = max(self.farthest, float(off.max()))
        integers, weight_scale = self.products[layer, name]
        return (q @ integers.T) * weight_scale / scale


def whole(weights: Weights, tokens: npt.NDArray[np.int64]) -> Exact:
    """Logits in float64."""
    found: Exact = Reference(weights, kv_type="exact").logits(tokens)
    return found


def forced(weights: Weights, tokens: npt.NDArray[np.int64], traced: Mapping[str, Any]) -> tuple[Exact, Flips]:
    """Logits in float64 with transformers' integers, and how many of them float64 would have rounded otherwise."""
    given = Given(weights, traced)
    logits: Exact = given.logits(tokens)
    return logits, Flips(given.count, given.values, given.farthest)


class OneLayer:
    """A model of one of `weights`' layers (see `weights.Weights`): token t is row t of `states`, and logits are what
    comes out of the layer, normed."""

    def __init__(self, weights: Weights, layer: int, states: Array) -> None:
        hidden = weights.architecture.hidden
        self.where, self._weights, self._layer = f"{weights.where}, layer {layer}", weights, layer
        self.architecture = replace(weights.architecture, layers=1, vocab=hidden)
        self._states = np.zeros((hidden, hidden), np.float32)
        self._states[: len(states)] = states
        self._unit = np.eye(hidden, dtype=np.float32)

    def matrix(self, role: str) -> Raw | None:
        square = {"token_embd.weight": self._states, "output.weight": self._unit}.get(role)
        if square is not None:
            return Raw(role, "F32", square.reshape(-1).view(np.uint8), len(square), len(square))
        return self._weights.matrix(self._role(role))

    def vector(self, role: str, size: int) -> Array | None:
        return (
            np.ones(size, np.float32) if role == "output_norm.weight" else self._weights.vector(self._role(role), size)
        )

    def fingerprint(self) -> list[object]:
        return [*self._weights.fingerprint(), self._layer]

    def release(self) -> None:
        self._weights.release()

    def _role(self, role: str) -> str:
        return role.replace("blk.0.", f"blk.{self._layer}.")


@dataclass(frozen=True, slots=True)
class Distance:
    """Of the rows of one layer's output, from float64's."""

    cosine: float
    clean: int  # rows without a flip
    rows: int
    median: float  # relative distance of those


def layer_by_layer(weights: Weights, traced: Mapping[str, Any]) -> list[tuple[Distance, Distance, float]]:
    """(engine to float64, transformers to float64, cosine of engine to transformers) of each layer."""
    found = []
    for layer in range(weights.architecture.layers):
        states = traced[f"state.{layer}"]
        one, order = OneLayer(weights, layer, states), list(range(len(states)))
        exact = Reference(one, kv_type="exact").logits(order)
        unit = np.ones(states.shape[1])
        theirs = rms_norm(traced[f"state.{layer + 1}"].astype(np.float64), unit, weights.architecture.eps)
        ours = run(one, len(states))
        found.append((distance(ours, exact), distance(theirs, exact), cosine(ours, theirs)))
    return found


def run(one: OneLayer, rows: int) -> Exact:
    """The engine, one token after the other, its cache in 32 bits."""
    settings, options = Settings(n_ctx=256, n_threads=2, n_threads_batch=2), Options(keep_packed=False, cache="f32")
    engine = BitnetEngine(one, None, settings, options)  # type: ignore[arg-type]
    found = [engine.step([SlotInput(0, at, (at,), 1)])[0].astype(np.float64) for at in range(rows)]
    engine.close()
    return np.concatenate(found)


def distance(found: Exact, exact: Exact) -> Distance:
    off = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    clean = off < NO_FLIP
    median = float(np.median(off[clean])) if clean.any() else 0.0
    return Distance(cosine(found, exact), int(clean.sum()), len(off), median)


def cosine(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))
