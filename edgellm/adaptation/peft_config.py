"""`adapter_config.json` of a peft folder: what of it an adapter can say, and what is refused by its name.

Followed: peft 0.21 (`LoraConfig`, `VeraConfig`, `get_pattern_key`). What only tells how to train is passed over.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.files import read_regular

CONFIG = "adapter_config.json"
MAX_BYTES = 1024**2
# Keys that change what is computed. Of a value that says no, nothing is refused.
_CHANGING = (
    "use_qalora", "lora_bias", "fan_in_fan_out", "layer_replication", "target_parameters", "trainable_token_indices",
    "use_bdlora", "arrow_config", "kasa_config",
)  # fmt: skip
# These took something out of the base's matrices, which a base that is fetched still has.
_CHANGED_BASE = re.compile(r"pissa|olora|corda|loftq|lora_ga")
# Of the patterns that peft takes as regular expressions, those that take no time: names, and few repeated parts.
_CLASS = r"\[-?\w+(?:-\w+)*-?\]"
_PATTERN = re.compile(rf"\^?(?:[\w.-]|\\[.d]|{_CLASS}|(?<=\\d)\+|(?<=\])\+|(?<=\.)[*+]){{1,300}}\$?")
_MOST_REPEATED = 2
_MOST_ALPHA = 1e30  # that times a rank is a number of 32 bits
_MOST_PATTERNS, _LONGEST = 4096, 300
# Times that a pattern is tried, of which one with two repeated parts counts 16 (measured: 23 us instead of 0.4).
_MOST_MATCHES = 2**20  # 882 modules of 126 layers with a pattern each need 777,924


class PeftConfig(msgspec.Struct, frozen=True):
    """What is read of it."""

    peft_type: str
    r: Annotated[int, msgspec.Meta(ge=1, le=2**20)] = 8
    lora_alpha: float = 8.0
    use_rslora: bool = False
    use_dora: bool = False
    alpha_pattern: dict[str, float] | None = None
    base_model_name_or_path: str | None = None
    alora_invocation_tokens: list[Annotated[int, msgspec.Meta(ge=0, lt=2**31)]] | None = None
    bias: str = "none"
    init_lora_weights: bool | str | None = True

    def scale(self, module: str, rank: int) -> float:
        """Of one module, as "model.layers.0.self_attn.q_proj", with the rank that its factors have."""
        patterns = self.alpha_pattern or {}
        alpha = next((patterns[key] for key in patterns if _matches(key, module)), self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def check_matches(self, folder: Path, n_modules: int) -> None:
        """Before the scales of so many modules are asked for.

        Raises:
            UnsupportedArtifact: to find them would take long.
        """
        n_matches = n_modules * sum(1 if _n_repeated(key) < 2 else 16 for key in self.alpha_pattern or {})
        if n_matches > _MOST_MATCHES:
            what = f"{n_matches} matches of alpha_pattern, at most {_MOST_MATCHES} are tried"
            hint = "write patterns without repeated parts, or fewer of them"
            raise UnsupportedArtifact(f"{folder / CONFIG} asks for {what}", hint=hint)


def read_config(folder: Path) -> PeftConfig:
    """
    Raises:
        BadArtifact: missing, no JSON, or values of other types. UnsupportedArtifact: a method or an option that an
            adapter's file cannot say.
    """
    place = folder / CONFIG
    try:
        raw = read_regular(place, MAX_BYTES)
        options = msgspec.json.decode(raw, type=dict[str, Any])
        config = msgspec.json.decode(raw, type=PeftConfig)
    except OSError as error:
        message = f"{place} cannot be read: {error.strerror}"
        raise BadArtifact(message, hint="name a folder that peft's save_pretrained wrote") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadArtifact(f"{place}: {error}", hint="export the adapter again") from None
    if config.peft_type not in ("LORA", "VERA"):
        raise _unsupported(place, f"method {config.peft_type[:40]}", "LORA and VERA are read")
    for key in _CHANGING:
        if options.get(key):
            raise _unsupported(place, key, "train without it, or merge it with peft")
    if config.bias != "none":
        raise _unsupported(place, f"bias {config.bias[:40]!r}", 'train with bias="none", or merge it with peft')
    if isinstance(config.init_lora_weights, str) and _CHANGED_BASE.match(config.init_lora_weights):
        why = "save it with path_initial_model_for_weight_conversion, so that it fits the base as it is published"
        raise _unsupported(place, f"init_lora_weights {config.init_lora_weights[:40]!r}, which changed the base", why)
    _check_patterns(place, config)
    return config


def _check_patterns(place: Path, config: PeftConfig) -> None:
    patterns = config.alpha_pattern or {}
    numbers = (config.lora_alpha, *patterns.values())
    if not all(abs(number) <= _MOST_ALPHA for number in numbers) or len(patterns) > _MOST_PATTERNS:
        most = f"at most {_MOST_PATTERNS} numbers up to {_MOST_ALPHA:g}"
        message = f"{place}: lora_alpha and alpha_pattern must be {most}"
        raise BadArtifact(message, hint="export the adapter again")
    for key in patterns:
        if len(key) > _LONGEST or not _PATTERN.fullmatch(key) or _n_repeated(key) > _MOST_REPEATED:
            raise _unsupported(place, f"alpha_pattern {key[:80]!r}", "write the names of modules in full")
        try:
            _compiled(key)
        except re.error as error:  # a range that runs backwards
            message = f"{place}: alpha_pattern {key[:80]!r} is no regular expression: {error}"
            raise BadArtifact(message, hint="export the adapter again") from None


def _n_repeated(key: str) -> int:
    return len(re.findall(r"[*+]", key))


def _matches(key: str, module: str) -> bool:
    """As peft does. `_PATTERN`, and the modules whose names are known, keep out what would take long."""
    return _compiled(key).match(module) is not None


@functools.lru_cache(_MOST_PATTERNS)
def _compiled(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def _unsupported(place: Path, what: str, hint: str) -> UnsupportedArtifact:
    return UnsupportedArtifact(f"{place} asks for {what}, which no adapter's file can say", hint=hint)
