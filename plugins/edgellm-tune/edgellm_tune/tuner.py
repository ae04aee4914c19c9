"""The tuner: what it can do and what that takes. torch is imported in the worker alone."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.contract.backend import Advice, loading_library
from edgellm.errors import ArtifactError
from edgellm.formats.gguf.decoder import read_decoder
from edgellm.formats.gguf.reader import GgufModel, read_model
from edgellm.types.tuning import METHODS, Method, TuneFootprint, TuneSettings, TuneSize

if TYPE_CHECKING:
    from edgellm.contract.tuner import Trainer
    from edgellm.types.gpu import Gpu
    from edgellm.types.machine import Machine
    from edgellm.types.model import Artifact

# That blocks.py unpacks.
TYPES = frozenset(
    {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
)

# What torch/version.py has of a build with code for that kind of device. Metal's is in all builds for Macs.
_CODE = {"cuda": ("cuda", "hip", "rocm"), "nvidia": ("cuda",), "amd": ("hip", "rocm"), "xpu": ("xpu",)}


class TorchTuner:
    """Tunes GGUF decoders of the families that the core describes, on the processor or a GPU."""

    name = "torch"
    methods: frozenset[Method] = frozenset(METHODS)

    def missing(self) -> Advice | None:
        """As the contract says."""
        if importlib.util.find_spec("torch") is not None:
            return None
        return Advice("torch is not installed", "pip install 'edgellm-tune[torch]', or make setup-tune")

    def lacks(self, kind: str) -> Advice | None:
        """As the contract says: by what the build writes of itself, which is read and not imported."""
        if (missing := self.missing()) is not None:
            return Advice(missing.text, "make setup-tune ARGS=--gpu")
        build = _torch_build()
        if (kind == "mps" and sys.platform == "darwin") or any(build.get(code) for code in _CODE.get(kind, ())):
            return None
        other = f"{sys.executable} -m pip uninstall torch, then make setup-tune ARGS=--gpu"
        return Advice(
            f"torch {build.get('__version__')} is a build without code for {kind}",
            f"{other}, or install the build that pytorch.org names for this GPU",
        )

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

    def rate_on(self, base: Artifact, settings: TuneSettings, gpu: Gpu | None) -> float:
        """As the contract says."""
        from edgellm_tune.footprint import rate_on

        return rate_on(self._model(base), settings, gpu)

    def open(self, base: Artifact, settings: TuneSettings) -> Trainer:
        """As the contract says."""
        model = self._model(base)
        with loading_library("torch"):
            from edgellm_tune.device import computing_on, ready
            from edgellm_tune.trainer import TorchTrainer
        device = ready(settings.device)
        with computing_on(device):
            return TorchTrainer(model, settings, device=device)

    def _model(self, base: Artifact) -> GgufModel:
        """A plan asks some thirty times about one file, whose header spells each token of its vocabulary."""
        try:
            about = [os.stat(path) for path in base.paths]
        except OSError:
            return read_model(base.path)  # which says what is missing
        return _read(base.path, tuple((one.st_size, one.st_mtime_ns) for one in about))


@functools.lru_cache(maxsize=1)
def _torch_build() -> dict[str, object]:
    """The constants of torch/version.py; empty where it has none."""
    spec = importlib.util.find_spec("torch")
    place = Path(spec.origin).parent / "version.py" if spec is not None and spec.origin else None
    try:
        tree = ast.parse(place.read_text("utf-8")) if place else None
    except (OSError, ValueError, SyntaxError):
        return {}
    constants: dict[str, object] = {}
    for line in tree.body if tree else ():
        names = (
            line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        )
        if isinstance(value := getattr(line, "value", None), ast.Constant):
            constants |= {name.id: value.value for name in names if isinstance(name, ast.Name)}
    return constants


@functools.lru_cache(maxsize=1)
def _read(path: str, _stamps: tuple[tuple[int, int], ...]) -> GgufModel:
    return read_model(path)
