"""Importance matrices of llama.cpp (`llama-imatrix`), as GGUF: how much each input of a tensor matters.

For a tensor NAME there are `NAME.in_sum2`, sums of squared inputs, (inputs, matrices), and `NAME.counts`, how many
tokens each sum is of, (1, matrices). A mixture of experts has a matrix for each expert. The format before 2025 has no
magic and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import BadArtifact
from edgellm.formats.gguf.reader import GgufHeader, GgufTensor, read_header

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one tensor's inputs."""

    sums: GgufTensor
    counts: GgufTensor

    @property
    def n_values(self) -> int:
        """Inputs times matrices."""
        return self.sums.n_bytes // 4


@dataclass(frozen=True, slots=True)
class Imatrix:
    """A checked importance matrix; its values stay in the file."""

    header: GgufHeader
    entries: dict[str, Entry]  # by name of the model's tensor


def read_imatrix(path: str | Path) -> Imatrix:
    """The importance matrix in `path`.

    Raises:
        BadArtifact: no GGUF file, no importance matrix, or sums and counts that do not belong together.
    """
    try:
        header = read_header(path)
    except BadArtifact as error:
        hint = (
            "make one with llama-imatrix; a file of the old format: llama-imatrix --in-file OLD --output-file NEW.gguf"
        )
        raise BadArtifact(error.message, hint=hint) from None
    kind = header.metadata.get("general.type")
    if kind != "imatrix":
        raise BadArtifact(
            f"{path} is a GGUF file of type {str(kind)[:40]!r}, no importance matrix",
            hint="make one with llama-imatrix",
        )
    by_name = {tensor.name: tensor for tensor in header.tensors}
    entries = {}
    for name, sums in by_name.items():
        if name.endswith(_SUMS):
            stem = name.removesuffix(_SUMS)
            if not stem:
                raise BadArtifact(f"{path}: {name} names no tensor of a model", hint="make it anew")
            entries[stem] = _entry(str(path), stem, sums, by_name.get(stem + _COUNTS))
    if not entries:
        raise BadArtifact(f"{path} holds no entry", hint="make one with llama-imatrix")
    return Imatrix(header, entries)


def _entry(path: str, name: str, sums: GgufTensor, counts: GgufTensor | None) -> Entry:
    if counts is None or sums.type.name != "F32" or counts.type.name != "F32":
        raise BadArtifact(f"{path}: {name} has no counts, or another type than F32", hint="make it anew")
    if (sums.n_bytes // 4) % (counts.n_bytes // 4):
        raise BadArtifact(f"{path}: {name} has sums {sums.dims} and counts {counts.dims}", hint="make it anew")
    return Entry(sums, counts)
