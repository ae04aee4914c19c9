"""The tuner: what it can do and what that takes. torch is imported in the worker alone."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import TYPE_CHECKING

from edgellm.contract.backend import Advice, loading_library
from edgellm.errors import ArtifactError
from edgellm.formats.gguf.decoder import read_decoder
from edgellm.formats.gguf.reader import GgufModel, read_model
from edgellm.types.tuning import METHODS, Method, TuneFootprint, TuneSettings, TuneSize

if TYPE_CHECKING:
    from edgellm.contract.tuner import Trainer
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact

# That blocks.py unpacks.
TYPES = frozenset(
    {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
)


class TorchTuner:
    """Tunes GGUF decoders of the families that the core describes, on the processor."""

    name = "torch"
    methods: frozenset[Method] = frozenset(METHODS)

    def missing(self) -> Advice | None:
        """As the contract says."""
        if importlib.util.find_spec("torch") is not None:
            return None
        return Advice("torch is not installed", "pip install 'edgellm-tune[torch]', or make setup-tune")

    def supports(self, base: Artifact) -> list[str]:
        """As the contract says."""
        if base.format != "gguf":
            return [f"it tunes GGUF files, this is {base.format}"]
        try:
            model = self._model(base)
            read_decoder(model)
        except ArtifactError as error:
            return [error.message]
        if model.header.big_endian:
            return ["the file is big-endian"]
        unknown = sorted({tensor.type.name for tensor in model.tensors} - TYPES)
        return [f"it does not unpack {', '.join(unknown)}"] if unknown else []

    def footprint(self, base: Artifact, settings: TuneSettings, size: TuneSize) -> TuneFootprint:
        """As the contract says."""
        from edgellm_tune.footprint import footprint

        return footprint(self._model(base), settings, size)

    def rate(self, base: Artifact, settings: TuneSettings, machine: Machine) -> float:
        """As the contract says."""
        from edgellm_tune.footprint import rate

        return rate(self._model(base), settings, machine)

    def open(self, base: Artifact, settings: TuneSettings) -> Trainer:
        """As the contract says."""
        model = self._model(base)
        with loading_library("torch"):
            from edgellm_tune.trainer import TorchTrainer
        return TorchTrainer(model, settings)

    def _model(self, base: Artifact) -> GgufModel:
        """A plan asks some thirty times about one file, whose header spells each token of its vocabulary."""
        try:
            about = [os.stat(path) for path in base.paths]
        except OSError:
            return read_model(base.path)  # which says what is missing
        return _read(base.path, tuple((one.st_size, one.st_mtime_ns) for one in about))


@functools.lru_cache(maxsize=1)
def _read(path: str, _stamps: tuple[tuple[int, int], ...]) -> GgufModel:
    return read_model(path)
