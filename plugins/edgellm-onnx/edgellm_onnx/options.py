"""What a plan may ask of this backend beyond the settings that every backend has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgellm.errors import UsageError
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
        found = dict(pairs)
        for name, value in found.items():
            if name not in KNOWN:
                raise UsageError(f"the onnx backend has no option {name!r}", hint=f"it has {', '.join(KNOWN)}")
            if value not in VALUES[name]:
                raise UsageError(f"{name}={value} means nothing", hint=f"{name}: {KNOWN[name]}")
        return cls(**found)
