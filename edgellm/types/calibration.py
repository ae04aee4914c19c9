"""How fast a machine computes with a backend's kernels: what a `Calibrator` measures, and speeds are predicted from."""

from __future__ import annotations

from dataclasses import dataclass, field

CALIBRATED_ROW = 2048  # weights in a row of the matrices that `Calibration.decode` is measured with
CALIBRATED_HEAD = 128  # numbers in a head of the caches that `Calibration.attention` is measured with


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rates measured by running the real kernels on this machine, of all threads together. Only what was measured.

    Keys are (tensor type or cache type, threads), e.g. ("Q4_K", 2) and ("q8_0", 2); tables without types have threads.
    """

    # 1e9 weights per second, one token at a time, in rows of CALIBRATED_ROW weights
    decode: dict[tuple[str, int], float] = field(default_factory=dict)
    prefill: dict[tuple[str, int], float] = field(default_factory=dict)  # the same for 512 tokens: weights x tokens
    build: str = ""  # of the kernels, as `Calibrator.build` says it
    # 1e9 products per second: each query head meets a key and a value of head_dim numbers for each cached token.
    # One token, in heads of CALIBRATED_HEAD, several of which read the same keys and values, which lie together.
    attention: dict[tuple[str, int], float] = field(default_factory=dict)
    # The same in heads of other sizes: (cache type, numbers in a head, threads).
    attention_by_head: dict[tuple[str, int, int], float] = field(default_factory=dict)
    # Seconds per key and its value, beside the products, in a cache that interleaves this many heads between one token
    # and the next: (cache type, numbers in a head, key/value heads, threads). Once for all query heads that read them.
    attention_apart_s: dict[tuple[str, int, int, int], float] = field(default_factory=dict)
    attention_prefill: dict[tuple[str, int], float] = field(default_factory=dict)  # 512 tokens
    row_s: dict[tuple[str, int], float] = field(default_factory=dict)  # seconds that a row takes beside its weights
    layer_s: dict[int, float] = field(default_factory=dict)  # seconds per layer and token beside both, one token
    element_s: dict[int, float] = field(default_factory=dict)  # and seconds per activation (estimate/speed.py)
    element_prefill_s: dict[int, float] = field(default_factory=dict)  # seconds per activation, 512 tokens
    # How far below its best a rate was at other times: a share, median over rates; 0 = each was measured once.
    scatter: float = 0.0
    date: str = ""  # ISO 8601 day
