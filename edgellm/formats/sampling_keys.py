"""What a model's file says of sampling: `general.sampling.*` of a GGUF file, generation_config.json of a folder.

Nothing in it is trusted. A value that is no number or out of range is not used, and neither is a key that asks for
something that is not implemented here; both are kept by name, so that they can be told.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm.errors import UsageError
from edgellm.formats.json_file import read_object
from edgellm.types.sampling import ALLOWED, Sampling
from edgellm.types.sampling_defaults import FileSampling, UnusedKey

PREFIX = "general.sampling."
GENERATION_CONFIG = "generation_config.json"
_MOST_BYTES = 1024**2  # of a generation_config.json; real ones have a few hundred
_SHOWN = 40  # characters of a value
_MOST_STRANGE = 8  # keys of no known name that are told; a hostile file may hold thousands
_GGUF = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "penalty_last_n": "penalty_last_n", "penalty_repeat": "repetition_penalty",
}  # fmt: skip
_COUNTS = ("top_k", "penalty_last_n")
_FOLDER = {name: name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")}
# What llama.cpp and transformers have beside, with the values that ask for nothing. Keys that only refine another one
# (`mirostat_tau`) ask for nothing alone.
_GGUF_OTHERS: dict[str, tuple[Any, ...]] = {"sequence": ("",), "xtc_probability": (0,), "mirostat": (0,)}
_GGUF_REFINING = {"xtc_threshold", "mirostat_tau", "mirostat_eta"}
_FOLDER_OTHERS: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1,), "epsilon_cutoff": (0,),
    "eta_cutoff": (0,), "penalty_alpha": (0,), "top_h": (), "guidance_scale": (1,), "sequence_bias": (),
    "bad_words_ids": ([],), "suppress_tokens": ([],), "xtc_probability": (0,), "mirostat": (0,),
}  # fmt: skip


def of_gguf(metadata: Mapping[str, Any]) -> FileSampling:
    """Of the keys of a checked header."""
    own = {key.removeprefix(PREFIX): value for key, value in metadata.items() if key.startswith(PREFIX)}
    known_keys = {*_GGUF, *_GGUF_OTHERS, *_GGUF_REFINING}
    strange = (key for key in own if key not in known_keys and key.isprintable() and len(key) <= _SHOWN)
    others = _GGUF_OTHERS | dict.fromkeys(itertools.islice(strange, _MOST_STRANGE), ())
    return _read(own, _GGUF, others, PREFIX)


def of_folder(folder: Path) -> FileSampling:
    """Of a Hugging Face folder. `do_sample: false` is greedy, whatever else the file says.

    Raises:
        BadArtifact: generation_config.json is no JSON object, or no file of its size.
    """
    own = read_object(folder / GENERATION_CONFIG, most=_MOST_BYTES)
    if own.get("do_sample") is False:
        own["temperature"] = 0
    others = _FOLDER_OTHERS
    if own.get("do_sample") not in (None, True, False):
        others = others | {"do_sample": ()}
    return _read(own, _FOLDER, others, "")


def as_gguf(values: Sampling) -> dict[str, float]:
    """Keys that say the same in a GGUF file, as far as it has them; for a file that is made of a folder."""
    said = values.said
    return {
        PREFIX + key: said[parameter] if parameter in _COUNTS else float(said[parameter])
        for key, parameter in _GGUF.items()
        if parameter in said
    }


def as_folder(values: Sampling) -> dict[str, float | bool]:
    """What generation_config.json says the same with, as far as it can; for a folder that is made of a file."""
    said = {parameter: value for parameter, value in values.said.items() if parameter in _FOLDER}
    return {"do_sample": said.get("temperature") != 0, **said} if said else {}


def _read(
    own: Mapping[str, Any], applied: Mapping[str, str], others: Mapping[str, tuple[Any, ...]], prefix: str
) -> FileSampling:
    """`applied`: key -> parameter; `others`: key -> values that ask for nothing. Null is the same as absent."""
    values: dict[str, Any] = {}
    unused: list[UnusedKey] = []
    for key, parameter in applied.items():
        if own.get(key) is None:
            continue
        value = _number(own[key], parameter)
        if value is None:
            unused.append(UnusedKey(prefix + key, _shown(own[key]), ALLOWED[parameter]))
        else:
            values[parameter] = value
    for key, nothing in others.items():
        if own.get(key) is not None and own[key] not in nothing:
            unused.append(UnusedKey(prefix + key, _shown(own[key])))
    return FileSampling(Sampling(**values), tuple(unused))


def _number(value: Any, parameter: str) -> int | float | None:
    """The value as the parameter takes it; None where it does not."""
    if parameter == "top_k" and value == -1:
        value = 0  # off, in llama.cpp and vLLM
    if isinstance(value, float):
        # 0.95 in a float32 is 0.949999988: what was written is meant.
        value = float(f"{value:.7g}")
        value = int(value) if parameter in _COUNTS and value.is_integer() else value
    try:
        Sampling(**{parameter: value})
    except UsageError:
        return None
    number: int | float = value
    return number


def _shown(value: Any) -> str:
    if not isinstance(value, int | float | str | list | tuple | dict):
        return f"of type {type(value).__name__}"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = f"of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
