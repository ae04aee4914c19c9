"""How long a file may be for what is in it: a hole takes nothing of its author's disk, and all of whoever maps, hashes,
copies or counts it by its length.

Behind each piece of a file padding is allowed, up to the largest alignment in use: GGUF files have 32 or 64 bytes and
may ask for 65,536 (`gguf.header`), and onnx aligns what it writes beside a graph to 65,536, which Windows can map.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgellm.errors import BadArtifact
from edgellm.units import show_size

PADDING_BYTES = 65_536  # behind each piece, and at the end


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """Bytes that lie in one of these (start, end) at least; they may overlap."""
    n_bytes = reached = 0
    for start, end in sorted(spans):
        n_bytes += max(0, end - max(start, reached))
        reached = max(reached, end)
    return n_bytes


def check_slack(where: str, file_bytes: int, used_bytes: int, n_pieces: int, *, unused_bytes: int = 0) -> None:
    """That the file is no longer than its content and padding. `unused_bytes`: that may belong to nothing besides.

    Raises:
        BadArtifact: it has more, at its end or between its pieces.
    """
    if file_bytes - used_bytes > unused_bytes + PADDING_BYTES * (n_pieces + 1):
        raise BadArtifact(
            f"{where} has {file_bytes} bytes ({show_size(file_bytes)}), and {used_bytes} with its {n_pieces} tensors; "
            "the others belong to nothing",
            hint="the file is damaged or not what it claims to be; fetch it again",
        )
