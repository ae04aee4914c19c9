"""A decoder that gives a longer cache than it takes: past_key_values in, present out, both bound to memory of ours.

    set of a slot      [heads, tokens, dim] for each layer's keys and values, one after another, tightly packed
    one set to spare   the step writes there, and the slot's old set is the next spare one

So n + 1 sets serve n slots. Slots run one after another: their lengths differ, and such a graph has one for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgellm.types.plan import Settings
from edgellm_onnx.binding import TYPES, Binding
from edgellm_onnx.logits import LogitRows
from edgellm_onnx.memory import Block, aligned
from edgellm_onnx.signature import CACHE_TYPES, UNUSED, CacheEntry, Signature


class BoundGraph(NamedTuple):
    """What a session takes and gives, and what is bound to that."""

    binding: Binding
    signature: Signature


class ConcatKvDecoder:
    batches = False

    def __init__(self, graphs: Sequence[BoundGraph], rows: LogitRows, settings: Settings, memory: str = "") -> None:
        """`graphs`: of the step that starts a slot, and of every later one, which may be the same.

        `memory`: of the cache, as onnxruntime names it; "" = RAM.
        """
        (self._first, self._later), self._rows = graphs, rows
        self._signature = signature = self._later.signature
        self._ids: npt.NDArray[np.generic] = np.zeros(settings.n_batch, TYPES[signature.ids_type][1])
        self._positions: npt.NDArray[np.generic] = np.zeros(
            settings.n_batch, TYPES[signature.positions_type or UNUSED][1]
        )
        self._ones: npt.NDArray[np.generic] = np.ones(settings.n_ctx, TYPES[signature.mask_type or UNUSED][1])
        self._flags = np.array([False, True])
        self._count = np.zeros(1, np.int64)
        *self._offsets, size = _offsets(signature, settings.n_ctx)
        self._sets = [Block((size,), np.uint8, memory) for _ in range(settings.n_slots + 1)]
        self._of_slot = list(range(settings.n_slots))
        self._spare = settings.n_slots

    def append(self, slot: int, n_past: int, tokens: Sequence[int], n_logits: int, at: int) -> None:
        """Run one slot's tokens; its last `n_logits` rows of logits are then at row `at`."""
        end, start = len(tokens), 0
        first_row = end - n_logits
        while start < end:
            graph = self._first if n_past + start == 0 else self._later
            most = 1 if graph.signature.single else self._rows.piece
            piece = tokens[start : start + most]
            rows = max(0, start + len(piece) - max(start, first_row))
            self._run(graph, slot, n_past + start, piece, rows, at + max(0, start - first_row))
            start += len(piece)

    def truncate(self, slot: int, held: int, n_tokens: int) -> None:
        """Heads lie `held` tokens apart: what stays is packed anew."""
        if 0 < n_tokens < held:
            self._copy(self._of_slot[slot], held, self._spare, n_tokens)
            self._of_slot[slot], self._spare = self._spare, self._of_slot[slot]

    def fork(self, source: int, held: int, target: int, n_tokens: int) -> None:
        self._copy(self._of_slot[source], held, self._of_slot[target], n_tokens)

    def _run(  # noqa: PLR0917
        self, graph: BoundGraph, slot: int, n_past: int, piece: Sequence[int], n_logits: int, at: int
    ) -> None:
        n, cells = len(piece), n_past + len(piece)
        binding, signature = graph
        self._ids[:n] = piece
        binding.input(signature.ids, TYPES[signature.ids_type][0], (1, n), int(self._ids.ctypes.data))
        if signature.mask:
            number = TYPES[signature.mask_type][0]
            binding.input(signature.mask, number, (1, cells), int(self._ones.ctypes.data))
        if signature.positions:
            self._positions[:n] = range(n_past, cells)
            number = TYPES[signature.positions_type][0]
            binding.input(signature.positions, number, (1, n), int(self._positions.ctypes.data))
        if signature.branch:
            address = int(self._flags.ctypes.data) + (n_past > 0)
            binding.input(signature.branch, TYPES["bool"][0], (1,), address)
        n_rows = n
        if signature.num_logits:
            n_rows = self._count[0] = max(1, n_logits)
            shape = (1,) * signature.num_logits_rank
            binding.input(signature.num_logits, TYPES["int64"][0], shape, int(self._count.ctypes.data))
        self._bind_cache(graph, slot, n_past, cells)
        target = self._rows.target(at, n_rows, n_logits)
        binding.output(signature.logits, self._rows.number, (1, n_rows, self._rows.vocab), target)
        binding.run()
        self._of_slot[slot], self._spare = self._spare, self._of_slot[slot]
        self._rows.keep(at, n_rows, n_logits)

    def _bind_cache(self, graph: BoundGraph, slot: int, n_past: int, cells: int) -> None:
        old, new = self._sets[self._of_slot[slot]].address, self._sets[self._spare].address
        binding, number = graph.binding, TYPES[graph.signature.cache_type][0]
        for entry, offset in zip(graph.signature.entries, self._offsets, strict=True):
            if entry.past:
                binding.input(entry.past, number, (1, entry.heads, n_past, entry.dim), old + offset, cache=True)
            binding.output(entry.present, number, (1, entry.heads, cells, entry.dim), new + offset, cache=True)

    def _copy(self, source: int, held: int, target: int, n_tokens: int) -> None:
        with self._sets[source].opened(change=False) as old, self._sets[target].opened() as new:
            for entry, offset in zip(self._signature.entries, self._offsets, strict=True):
                self._part(new, entry, offset, n_tokens)[:] = self._part(old, entry, offset, held)[:, :n_tokens]

    def _part(
        self, numbers: npt.NDArray[np.uint8], entry: CacheEntry, offset: int, tokens: int
    ) -> npt.NDArray[np.uint8]:
        size = entry.heads * tokens * entry.dim * CACHE_TYPES[self._signature.cache_type]
        return numbers[offset : offset + size].reshape(entry.heads, tokens, -1)


def _offsets(signature: Signature, n_ctx: int) -> list[int]:
    """Where each entry starts in a set, and the size of a set."""
    offsets, at = [], 0
    for entry in signature.entries:
        offsets.append(at)
        at += aligned(entry.heads * n_ctx * entry.dim * CACHE_TYPES[signature.cache_type])
    return [*offsets, at]
