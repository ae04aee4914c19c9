"""LoRA adapters beside the products of a ternary model (native/adapter.c). Imported in a worker only."""

from __future__ import annotations

import ctypes
import re
from ctypes import POINTER, c_float
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import BackendUnavailable, BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.adapter import Adapter, FactorPair, check, read
from edgellm.formats.gguf.header import GgufTensor
from edgellm.formats.mapped import map_file
from edgellm.types.adapter import AdapterSet
from edgellm_bitnet import native
from edgellm_bitnet.architecture import Architecture
from edgellm_bitnet.codecs import floats, q8_0
from edgellm_bitnet.matrix import PANEL, padded
from edgellm_bitnet.packing import ROTATED, split_pairs
from edgellm_bitnet.weights import GgufWeights, Weights

_PRODUCT = re.compile(r"blk\.(\d+)\.(attn_q|attn_k|attn_v|attn_output|ffn_gate|ffn_up|ffn_down)\.weight")
Floats = npt.NDArray[np.float32]


class Sides:
    """The adapters that are loaded, and the set that the engine computes with."""

    def __init__(self, library: ctypes.CDLL, engine: int | None, weights: Weights) -> None:
        self._lib, self._engine, self._weights = library, engine, weights
        self._loaded: dict[str, _Factors] = {}
        self._used: AdapterSet = ()

    def load(self, name: str, path: str) -> None:
        """Keep one in memory, as floats.

        Raises:
            BadArtifact, UnsupportedArtifact: it is no adapter of this model, or adapts what is not computed so here.
        """
        adapter, weights = read(path, hashed=False), self._weights
        if not isinstance(weights, GgufWeights) or weights.architecture.pooling:
            raise UnsupportedArtifact(
                f"{weights.where} takes no adapters: it is no GGUF file, or turns texts into vectors",
                hint="adapters are for models in GGUF that write text",
            )
        check(adapter, weights.model)
        if adapter.invocation_tokens:
            raise UnsupportedArtifact(
                f"{path} acts from certain tokens on only (aLoRA)",
                hint="such adapters are not served yet: tune without invocation tokens",
            )
        if other := next((pair.name for pair in adapter.pairs if not _PRODUCT.fullmatch(pair.name)), ""):
            raise UnsupportedArtifact(
                f"{path} changes {other}, which the ternary engine computes without adapters",
                hint="tune the seven matrices of the layers, or run the model on the gguf backend",
            )
        self._loaded[name] = _Factors(adapter, path, weights.architecture)

    def drop(self, name: str) -> None:
        """Free one."""
        if any(name == used for used, _ in self._used):
            self.use(())
        del self._loaded[name]

    def use(self, adapters: AdapterSet) -> None:
        """Compute with these from now on.

        Raises:
            BackendUnavailable: no memory.
        """
        if adapters == self._used:
            return
        n = len(adapters)
        sides = (POINTER(native.Side) * n)(*(self._loaded[name].sides for name, _ in adapters))
        scales = (c_float * n)(*(scale for _, scale in adapters))
        self._used = ()
        if self._lib.bn_use(self._engine, n, sides, scales):
            raise BackendUnavailable("no memory for the products of adapters", hint="use fewer at a time")
        self._used = adapters


class _Factors:
    """One adapter in the engine's order, its scale in B."""

    def __init__(self, adapter: Adapter, path: str, arch: Architecture) -> None:
        self._arch, self._path = arch, path
        self._arrays: list[Floats] = []  # that the structures point to
        inputs = {name: at for at, name in enumerate(native.INPUTS)}
        self._sides = (native.Side * (arch.layers * len(inputs)))()
        with map_file(path, ".gguf") as data:
            for pair in adapter.pairs:
                match = _PRODUCT.fullmatch(pair.name)
                assert match
                layer, product = int(match[1]), match[2]
                at = layer * len(inputs) + inputs[product.removeprefix("attn_").removeprefix("ffn_")]
                self._sides[at] = self._side(data, pair, product, adapter.scale(pair))
        self.sides = ctypes.cast(self._sides, POINTER(native.Side))

    def _side(self, data: Any, pair: FactorPair, product: str, scale: float) -> native.Side:
        a, b = _values(data, pair.a), _values(data, pair.b)
        if product in ROTATED and not self._arch.family.rope_neox:
            b = b[split_pairs(len(b), self._arch)]  # as the rows of the matrix are packed
        by_columns = np.zeros((pair.rank, padded(len(b), PANEL)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            by_columns[:, : len(b)] = b.T * np.float32(scale)
        if not (np.isfinite(a).all() and np.isfinite(by_columns).all()):
            raise BadArtifact(
                f"{self._path}: the factors of {pair.name} with their scale of {scale:g} are no finite numbers",
                hint="the adapter is damaged; make it again",
            )
        self._arrays += [a, by_columns]
        return native.Side(a.ctypes.data, by_columns.ctypes.data, pair.rank)


def _values(data: Any, tensor: GgufTensor) -> Floats:
    """float32 (rows, columns), contiguous."""
    raw = np.frombuffer(data, np.uint8, tensor.n_bytes, tensor.offset)
    columns, rows = tensor.dims
    kind = tensor.type.name
    values = q8_0.decode(raw) if kind == "Q8_0" else floats.decode(raw, rows * columns, kind)
    return np.array(values.reshape(rows, columns), np.float32)  # a copy: the file is closed
