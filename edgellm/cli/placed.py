"""Where a choice runs, for commands that show plans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm.units import counted, show_memory

if TYPE_CHECKING:
    from edgellm.types.plan import Candidate


def on_gpus(c: Candidate) -> list[str]:
    """A line where a choice runs, if not on the processor alone; no line otherwise."""
    if not c.parts:
        return []
    layers = "all layers" if c.gpu_layers < 0 else counted(c.gpu_layers, "layer")
    away = f", the experts of {c.experts_away} in RAM" if c.experts_away else ""
    held = ", ".join(
        part.description if part.unified else f"{part.description} ({show_memory(part.n_bytes)} of its memory)"
        for part in c.parts
    )
    return [f"{layers} on {held}{away}"]
