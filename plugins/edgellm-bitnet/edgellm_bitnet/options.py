"""What a plan may ask of this backend beyond the settings that every backend has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgellm.contract.backend import check_choices
from edgellm_bitnet.matrix import Q4, Q6, Q8

# Variables of this backend's own.
LIBRARY, ISA = "EDGELLM_BITNET_LIBRARY", "EDGELLM_BITNET_ISA"
REQUANTIZED = {"q8": (Q8, 0), "q6": (Q6, 256), "q4": (Q4, 32)}

KNOWN = {
    "head": "q8, q6 or q4: requantize an F16, BF16 or F32 output matrix at load",
    "activations": "token (as the models were trained) or block: a scale per 256 columns, as llama.cpp has for TQ",
    "cache": "f32: keys and values in 32 bits instead of the type that --kv names, twice f16's memory",
    "isa": "kernels to use, of those that `edgellm doctor` lists",
    "i2s": "x86 or arm: the order of codes in an I2_S file that does not tell",
    "packed": "keep (default) or drop: whether the packed form is written to the cache folder",
}
VALUES = {  # the first is what happens unasked
    "head": ("", "q8", "q6", "q4"),
    "activations": ("token", "block"),
    "cache": ("", "f32"),
    "i2s": ("", "x86", "arm"),
    "packed": ("keep", "drop"),
}


@dataclass(frozen=True, slots=True)
class Options:
    head: str = ""
    act_block: int = 0
    isa: str | None = None
    keep_packed: bool = True
    i2s_layout: str = ""
    cache: str = ""

    def head_kind(self) -> tuple[int, int] | None:
        """(kind, group) of the requantized head; None where it stays as it is."""
        return REQUANTIZED.get(self.head)

    @classmethod
    def parse(cls, pairs: Iterable[tuple[str, str]]) -> Options:
        """From (name, value) pairs.

        Raises:
            UsageError: an unknown name or value.
        """
        chosen = dict(pairs)
        check_choices("bitnet", chosen, KNOWN, VALUES)
        return cls(
            head=chosen.get("head", ""),
            act_block=256 if chosen.get("activations") == "block" else 0,
            isa=chosen.get("isa"),
            keep_packed=chosen.get("packed") != "drop",
            i2s_layout=chosen.get("i2s", ""),
            cache=chosen.get("cache", ""),
        )
