"""What a plan may ask of this backend beyond the settings that every backend has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgellm.contract.backend import check_choices
from edgellm_onnx.providers import PROVIDERS

KNOWN = {
    "provider": f"auto (default), {', '.join(PROVIDERS)}: what computes the graph; auto says why",
    "spin": "step (default): threads wait awake within a step only; always; never",
    "prepack": "on (default) or off: whether weights are copied into the order that kernels want",
    "optimize": "all (default), extended, basic or off: how far onnxruntime rewrites the graph",
}
VALUES = {  # the first is what happens unasked
    "provider": ("auto", *PROVIDERS),
    "spin": ("step", "always", "never"),
    "prepack": ("on", "off"),
    "optimize": ("all", "extended", "basic", "off"),
}


@dataclass(frozen=True, slots=True)
class Options:
    provider: str = "auto"
    spin: str = "step"
    prepack: str = "on"
    optimize: str = "all"

    @classmethod
    def parse(cls, pairs: Iterable[tuple[str, str]]) -> Options:
        """From (name, value) pairs.

        Raises:
            UsageError: an unknown name or value.
        """
        chosen = dict(pairs)
        check_choices("onnx", chosen, KNOWN, VALUES)
        return cls(**chosen)
