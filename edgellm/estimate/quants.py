"""Every quantization name: what it means, how many bits it takes, and what it is good for.

A name is a mix: `Q[bits]_[algorithm]_[size]`. `K` mixes keep sensitive tensors at more bits, `_S` squeezes nearly all,
`_M` protects the critical ones, `_L` protects more. `IQ` look weights up in a codebook, `TQ` and `I2_S` hold ternary
weights, `UD-` are hand-made mixes. Nominal bits are those of an 8B llama (effective, tables included); what a given
model really takes comes from `estimate/weights.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from edgellm.contract.answers import plugin_of
from edgellm.contract.field_types import mistyped
from edgellm.errors import UsageError
from edgellm.estimate import recipe
from edgellm.estimate.isa import IsaClass, describe
from edgellm.estimate.tensor_types import TYPES

Class = Literal["k-quant", "codebook", "ternary", "legacy", "float", "low-bit native", "dynamic", "onnx"]

LOW_BITS = 4  # bits a weight; below, prefer a smaller model (golden rule 2; arXiv 2505.15030: crossover near 3.5)


@dataclass(frozen=True, slots=True)
class Quant:
    """One quantization name."""

    name: str
    kind: Class
    bits: float  # effective bits per weight of an 8B llama, tables included
    base: str  # tensor type of most weights
    meaning: str
    best_for: str
    # (row of the quality table, factor on its loss); "" = no loss, and of a plugin's: as the nearest of its base.
    like: tuple[str, float] = ("", 1.0)
    mainline: bool = True  # stock llama.cpp opens it; False = needs a backend that names it

    @property
    def predictable(self) -> bool:
        """Whether `estimate/weights.py` can tell its size; otherwise only a published size counts."""
        return self.name in recipe.BASE_TYPE

    @property
    def recipe(self) -> str:
        """The mix whose rules say what its tensors are: its own, or the nearest, which a published size corrects."""
        return self.name if self.predictable else self.like[0] or _nearest(self).name

    def on(self, cls: IsaClass) -> str:
        """What processors of this class do with most of its weights: a prior, not a measurement."""
        return describe(TYPES[self.base], cls)


def _k(name: str, bits: float, base: str, meaning: str, best: str, *, like: tuple[str, float]) -> Quant:
    return Quant(name, "k-quant", bits, base, meaning, best, like)


def _iq(name: str, bits: float, base: str, best: str, *, like: tuple[str, float]) -> Quant:
    meaning = f"about {bits:.1f} bits: blocks of weights are entries of a codebook; made with an importance matrix"
    return Quant(name, "codebook", bits, base, meaning, best, like)


def _legacy(name: str, bits: float, meaning: str, best: str, *, like: tuple[str, float]) -> Quant:
    return Quant(name, "legacy", bits, name, meaning, best, like)


def _float(name: str, bits: float, meaning: str) -> Quant:
    return Quant(name, "float", bits, name, meaning, "converting and measuring; too big to run on small machines")


def _dynamic(digit: int, bits: float, base: str, like: str) -> Quant:
    meaning = f"Unsloth's hand-made mix around {digit} bits; its size follows no rule and is read from the file"
    return Quant(f"UD-Q{digit}_K_XL", "dynamic", bits, base, meaning, f"as {like}", (like, 1.0))


_LAST = "only where nothing else fits; prefer a smaller model at 4 bits"
_ROWS = "models whose rows are not a multiple of 256"
# A model that was not trained ternary or 1-bit and is squeezed into it is destroyed.
_RUINED = ("IQ2_XXS", 4.5)

# Nominal bits: llama.cpp's quantize README for Llama-3.1-8B.
_ALL = (
    _float("F32", 32.0, "single precision, as trained or wider"),
    _float("F16", 16.0, "half precision, no quantization"),
    _float("BF16", 16.0, "bfloat16, no quantization; slow on processors without it"),
    _legacy("Q8_0", 8.5, "8-bit blocks of 32 with one scale", "memory to spare: virtually no loss", like=("Q8_0", 1.0)),
    _k("Q6_K", 6.56, "Q6_K", "6 bits throughout",
       "small models with memory to spare: a loss that is hard to measure", like=("Q6_K", 1.0)),
    _k("Q5_K_M", 5.7, "Q5_K", "5 bits, value projections and some down projections at 6",
       "small models (under about 10B), where precision matters", like=("Q5_K_M", 1.0)),
    _k("Q5_K_S", 5.57, "Q5_K", "5 bits nearly throughout", "when Q5_K_M is slightly too big", like=("Q5_K_M", 1.3)),
    _legacy("Q5_1", 6.0, "5-bit blocks of 32 with scale and offset", _ROWS, like=("Q5_K_M", 1.2)),
    _legacy("Q5_0", 5.6, "5-bit blocks of 32 with one scale", _ROWS, like=("Q5_K_M", 1.4)),
    _k("Q4_K_M", 4.89, "Q4_K", "4 bits, value projections and some down projections at 6",
       "the default balance of size, speed and quality", like=("Q4_K_M", 1.0)),
    _k("Q4_K_S", 4.67, "Q4_K", "4 bits nearly throughout", "old or slow hardware, speed first", like=("Q4_K_S", 1.0)),
    _legacy("Q4_1", 5.1, "4-bit blocks of 32 with scale and offset", _ROWS, like=("Q4_0", 0.75)),
    _legacy("Q4_0", 4.66, "4-bit blocks of 32 with one scale", "processors without newer kernels; prompts on ARM",
            like=("Q4_0", 1.0)),
    _iq("IQ4_NL", 4.68, "IQ4_NL", _ROWS, like=("IQ4_XS", 0.97)),
    _iq("IQ4_XS", 4.46, "IQ4_XS", "the last megabytes of tight memory at 4 bits", like=("IQ4_XS", 1.0)),
    Quant("MXFP4", "low-bit native", 4.25, "MXFP4", "4-bit floats in blocks of 32 with one exponent",
          "models trained in it (gpt-oss): no loss to account for", ("Q4_K_M", 1.5)),
    _k("Q3_K_L", 4.31, "Q3_K", "3 bits, sensitive tensors at 5", _LAST, like=("Q3_K_M", 0.8)),
    _k("Q3_K_M", 4.0, "Q3_K", "3 bits, sensitive tensors at 4 and 5", _LAST, like=("Q3_K_M", 1.0)),
    _k("Q3_K_S", 3.64, "Q3_K", "3 bits nearly throughout", "nothing: IQ3_XXS is better and smaller",
       like=("Q3_K_M", 2.2)),
    _iq("IQ3_M", 3.76, "IQ3_S", _LAST, like=("IQ3_M", 1.0)),
    _iq("IQ3_S", 3.66, "IQ3_S", _LAST, like=("IQ3_M", 1.2)),
    _iq("IQ3_XS", 3.5, "IQ3_S", _LAST, like=("IQ3_M", 1.5)),
    _iq("IQ3_XXS", 3.25, "IQ3_XXS", _LAST, like=("IQ3_XXS", 1.0)),
    _k("Q2_K", 3.16, "Q2_K", "2 bits, many tensors at 3 and 4", "nothing: IQ2_M is better and smaller",
       like=("Q2_K", 1.0)),
    _k("Q2_K_S", 2.97, "Q2_K", "2 bits nearly throughout", _LAST, like=("Q2_K", 1.3)),
    _iq("IQ2_M", 2.93, "IQ2_S", _LAST, like=("IQ2_M", 1.0)),
    _iq("IQ2_S", 2.74, "IQ2_XS", _LAST, like=("IQ2_M", 1.4)),
    _iq("IQ2_XS", 2.59, "IQ2_XS", _LAST, like=("IQ2_M", 1.8)),
    _iq("IQ2_XXS", 2.38, "IQ2_XXS", _LAST, like=("IQ2_XXS", 1.0)),
    _iq("IQ1_M", 2.15, "IQ1_M", _LAST, like=("IQ2_XXS", 3.0)),
    _iq("IQ1_S", 2.0, "IQ1_S", _LAST, like=("IQ2_XXS", 4.5)),
    Quant("TQ2_0", "ternary", 2.5, "TQ2_0", "ternary weights in 2 bits each",
          "models trained ternary: no loss, fast decode", _RUINED),
    Quant("TQ1_0", "ternary", 2.2, "TQ1_0", "ternary weights, five in a byte",
          "models trained ternary where memory is shortest; slower than TQ2_0", _RUINED),
    Quant("I2_S", "ternary", 2.5, "I2_S", "bitnet.cpp's ternary weights in 2 bits, one scale per tensor",
          "BitNet models on a backend with ternary kernels: no loss, fastest", _RUINED, mainline=False),
    Quant("Q2_0", "low-bit native", 2.25, "Q2_0", "2-bit blocks of 64, one scale (PrismML's Q2_0 is another format)",
          "models trained in it (Ternary Bonsai): no loss", _RUINED),
    Quant("Q1_0", "low-bit native", 1.13, "Q1_0", "1-bit blocks of 128 with one scale",
          "models trained in it (Bonsai): no loss", _RUINED),
    Quant("INT8", "onnx", 9.0, "INT8", "8-bit blocks of 32 with a float scale, in ONNX files",
          "ONNX where memory is to spare: virtually no loss", ("Q8_0", 1.0), mainline=False),
    Quant("INT4", "onnx", 5.0, "INT4", "4-bit blocks of 32 with a float scale, in ONNX files",
          "hardware that onnxruntime reaches and llama.cpp does not", ("Q4_0", 1.0), mainline=False),
    _dynamic(6, 6.9, "Q6_K", "Q6_K"),
    _dynamic(5, 5.8, "Q5_K", "Q5_K_M"),
    _dynamic(4, 4.9, "Q4_K", "Q4_K_M"),
    _dynamic(3, 3.9, "Q3_K", "Q3_K_M"),
    _dynamic(2, 3.1, "Q2_K", "IQ2_M"),
)  # fmt: skip
QUANTS: dict[str, Quant] = {quant.name: quant for quant in _ALL}


# Short names of llama.cpp's own tools.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

LOSS_ROWS = frozenset(quant.like[0] for quant in _ALL if quant.like[0])  # of the quality table
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_BITS = 64
_MOST_LOSS = 1000  # times a row of the quality table


def register(quant: Quant) -> None:
    """Add a plugin's quantization. One without `like` loses as much as the nearest of its base.

    Raises:
        TypeError: it is none. ValueError: it cannot be, or the name is taken by another one; a plugin cannot change
        what a built-in name means.
    """
    if not isinstance(quant, Quant):
        raise TypeError(f"{quant!r} is not a Quant")
    if problem := mistyped(quant) or _impossible(quant):
        raise ValueError(f"quantization {quant.name!r}: {problem}")
    if not quant.like[0]:
        quant = replace(quant, like=_nearest(quant).like)
    same = next((known for known in QUANTS.values() if known.name.lower() == quant.name.lower()), quant)
    if same != quant or quant.name.upper() in ALIASES:
        taker = plugin_of(same.name, "register_quants", unknown="one of EdgeLLM's own")
        raise ValueError(f"quantization name {quant.name!r} is already taken by {taker}")
    QUANTS[quant.name] = quant


def _impossible(quant: Quant) -> str:
    """What in it cannot be; "" = nothing."""
    row, factor = quant.like
    sound = {
        "letters, digits, -, _ and . are expected in a name": _NAME.fullmatch(quant.name),
        f"bits is {quant.bits!r}, more than 0 and up to {_MOST_BITS} are expected": 0 < quant.bits <= _MOST_BITS,
        f"base is {quant.base!r}, a type of tensors is expected: {', '.join(TYPES)}": quant.base in TYPES,
        f"like names {row!r}, one of {', '.join(sorted(LOSS_ROWS))} is expected": row in ("", *LOSS_ROWS),
        f"the factor in like is {factor!r}, 0 to {_MOST_LOSS} is expected": 0 <= factor <= _MOST_LOSS,
        "meaning and best_for are one line of text each": (quant.meaning + quant.best_for).isprintable(),
    }
    return next((problem for problem, is_so in sound.items() if not is_so), "")


def _nearest(quant: Quant) -> Quant:
    """The built-in one of the same base, or of any where there is none, whose bits are nearest."""
    mixes = [known for known in _ALL if known.predictable]
    alike = [known for known in mixes if known.base == quant.base] or mixes
    return min(alike, key=lambda known: abs(known.bits - quant.bits))


def find(name: str) -> Quant:
    """The quantization of that name, in any case.

    Raises:
        UsageError: no such name; the hint lists the closest.
    """
    wanted = ALIASES.get(name.upper(), name)
    quant = QUANTS.get(wanted) or next((q for q in QUANTS.values() if q.name.lower() == wanted.lower()), None)
    if quant is None:
        import difflib

        close = difflib.get_close_matches(name.upper(), QUANTS, n=3, cutoff=0.4)
        hint = f"did you mean: {', '.join(close)}" if close else "list them with `edgellm quants`"
        raise UsageError(f"no quantization named {name!r}", hint=hint)
    return quant
