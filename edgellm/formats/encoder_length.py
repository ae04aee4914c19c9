"""How many tokens of a text an encoder reads, by the files beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm.formats.json_file import read_object

MAX_LENGTH = 2**20  # tokens; tokenizers without a limit say 1e30
# These count positions from the one after their padding's.
_PADDED = ("roberta", "xlm-roberta", "camembert", "mpnet")
_NAMED = (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length"))


def encoder_length(path: Path, config: Mapping[str, Any]) -> tuple[int, str]:
    """The smallest that a file names, and which: positions of an embedding table, or what the model was trained with.

    `path`: the folder; `config`: what its config.json says. (0, "") = no file says it.

    Raises:
        BadArtifact: a file is malformed.
    """
    positions = _count(config.get("max_position_embeddings"))
    if config.get("model_type") in _PADDED:
        positions = max(0, positions - _count(config.get("pad_token_id"), usual=1) - 1)
    named = {"config.json": positions}
    named |= {name: _count(read_object(path / name).get(key)) for name, key in _NAMED}
    limits = {name: value for name, value in named.items() if 0 < value <= MAX_LENGTH}
    where = min(limits, key=lambda name: limits[name], default="")
    return limits.get(where, 0), where


def _count(value: object, *, usual: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else usual
