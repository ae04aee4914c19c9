"""How the next token is drawn: what a request says of it, and the values that the sampler uses.

What a request leaves open comes from the defaults of the model that runs (`edgellm.types.sampling_defaults`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypedDict

import msgspec

from edgellm.types.checks import MAX_COUNT, check_names, check_range, check_types

MAX_BIASES = 1024
Biases = tuple[tuple[int, float], ...] | Mapping[int, float] | Mapping[str, float]  # of tokens, by their ids

_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("temperature", lambda value: 0.0 <= value <= 100.0, "0 to 100"),
    ("top_k", lambda value: 0 <= value < MAX_COUNT, "0 (off) or more"),
    ("top_p", lambda value: 0.0 < value <= 1.0, "above 0, at most 1"),
    ("min_p", lambda value: 0.0 <= value <= 1.0, "0 to 1"),
    ("typical_p", lambda value: 0.0 < value <= 1.0, "above 0, at most 1"),
    # A smaller one makes logits infinite.
    ("repetition_penalty", lambda value: 0.01 <= value <= 10.0, "0.01 to 10"),
    ("frequency_penalty", lambda value: -2.0 <= value <= 2.0, "-2 to 2"),
    ("presence_penalty", lambda value: -2.0 <= value <= 2.0, "-2 to 2"),
    ("penalty_last_n", lambda value: -1 <= value < MAX_COUNT, "-1 (all), 0 (none) or a number of tokens"),
    ("seed", lambda value: 0 <= value < 2**63, "0 to 2**63 - 1"),
)
PARAMETERS = tuple(name for name, _, _ in _RANGES if name != "seed")  # that a model has defaults for
ALLOWED = {name: allowed for name, _, allowed in _RANGES}  # in words


def _is_id(token: object) -> bool:
    return isinstance(token, str) and token.isascii() and token.isdigit()


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """How the next token is drawn. None = as the model's defaults say (`plan.sampling`).

    Order: logit_bias, penalties, temperature, then top_k, typical_p, top_p, min_p on the probabilities.
    """

    temperature: float | None = None  # 0 = greedy
    top_k: int | None = None  # 0 = off
    top_p: float | None = None  # 1 = off
    min_p: float | None = None  # 0 = off
    typical_p: float | None = None  # 1 = off
    repetition_penalty: float | None = None  # 1 = off
    frequency_penalty: float | None = None  # 0 = off
    presence_penalty: float | None = None  # 0 = off
    penalty_last_n: int | None = None  # tokens that penalties look back over; -1 = all
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None  # None = fresh entropy

    def __post_init__(self) -> None:
        check_types(self)
        for name, is_allowed, allowed in _RANGES:
            value = getattr(self, name)
            check_range(value is None or is_allowed(value), f"{name}={value}", allowed)
        check_range(len(self.logit_bias) <= MAX_BIASES, "logit_bias", f"at most {MAX_BIASES} tokens")
        for token, bias in self.logit_bias:
            check_range(
                0 <= token < MAX_COUNT and -100.0 <= bias <= 100.0,
                f"logit_bias {{{token}: {bias}}}",
                "token ids >= 0, biases -100 to 100",
            )

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Parameters by name; `logit_bias` also as `{id: bias}`. Raises UsageError for an unknown one."""
        check_names(options, cls.__struct_fields__)
        if isinstance(biases := options.get("logit_bias"), Mapping):
            # In JSON, from which such a dictionary may come, every key is a text.
            pairs = ((int(token) if _is_id(token) else token, bias) for token, bias in biases.items())
            options["logit_bias"] = tuple(pairs)
        return cls(**options)

    @property
    def said(self) -> dict[str, float]:
        """The parameters that have a value, without seed and logit_bias."""
        values = {name: getattr(self, name) for name in PARAMETERS}
        return {name: value for name, value in values.items() if value is not None}

    def over(self, below: Sampling) -> Sampling:
        """These values, and for what they leave open those of `below`."""
        fields = self.__struct_fields__
        left_open = {name: getattr(below, name) for name in fields if getattr(self, name) in (None, ())}
        return msgspec.structs.replace(self, **left_open)

    def without(self, names: Iterable[str]) -> Sampling:
        """Nothing is said of these parameters; the rest as it is."""
        return msgspec.structs.replace(self, **dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class SamplerValues:
    """Every parameter with a value. The defaults are neutral: they leave the model's own distribution as it is."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    @classmethod
    def of(cls, sampling: Sampling) -> SamplerValues:
        """What a worker draws by; what was left open until here is neutral."""
        said: dict[str, Any] = sampling.said
        return cls(**said, logit_bias=sampling.logit_bias, seed=sampling.seed)


class SamplingKeywords(TypedDict, total=False):
    """`Sampling` as keyword arguments."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    penalty_last_n: int | None
    logit_bias: Biases
    seed: int | None
