"""A decoder that writes into the cache it reads (GroupQueryAttention): slots are rows of one buffer a layer.

    [slots, heads, n_ctx, dim]     slot s from byte s * heads * n_ctx * dim on

A run takes any slots that lie side by side, each with its own length: the mask of a row has as many ones as it has
tokens. Everything but the mask is bound once for each such span.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgellm.types.plan import Settings
from edgellm_onnx.binding import TYPES, Binding
from edgellm_onnx.logits import LogitRows
from edgellm_onnx.memory import Block
from edgellm_onnx.signature import CACHE_TYPES, UNUSED, Signature

# Cells by which a mask of several rows grows: its ones count, not its width, and a new width lays it out anew.
MASK_STEP = 256


class InPlaceKvDecoder:
    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        signature: Signature,
        rows: LogitRows,
        settings: Settings,
        memory: str = "",
    ) -> None:
        """`memory`: of the cache, as onnxruntime names it; "" = RAM."""
        self._session, self._signature, self._rows, self._memory = session, signature, rows, memory
        n_slots, n_ctx, n_tokens = settings.n_slots, settings.n_ctx, max(settings.n_batch, settings.n_slots)
        self._n_ctx = n_ctx
        self.batches = signature.batches and n_slots > 1
        dtype = TYPES[signature.cache_type][1]
        self._caches = [Block((n_slots, entry.heads, n_ctx, entry.dim), dtype, memory) for entry in signature.entries]
        self._ids: npt.NDArray[np.generic] = np.zeros(n_tokens, TYPES[signature.ids_type][1])
        self._positions: npt.NDArray[np.generic] = np.zeros(n_tokens, TYPES[signature.positions_type or UNUSED][1])
        mask_type = TYPES[signature.mask_type or UNUSED][1]
        self._ones: npt.NDArray[np.generic] = np.ones(n_ctx, mask_type)
        self._mask: npt.NDArray[np.generic] = np.zeros(n_slots * n_ctx if self.batches else 0, mask_type)
        self._masked: tuple[int, list[int]] = (0, [])  # width and lengths of what is in _mask
        self._count = np.zeros(1, np.int64)
        self._spans: dict[tuple[int, int], _Span] = {}

    def append(self, slot: int, n_past: int, tokens: Sequence[int], n_logits: int, at: int) -> None:
        """Run one slot's tokens; its last `n_logits` rows of logits are then at row `at`."""
        end = len(tokens)
        for start in range(0, end, self._rows.piece):
            piece = tokens[start : start + self._rows.piece]
            # Rows that are wanted may begin in an earlier piece than the last.
            first_row = end - n_logits
            rows = max(0, start + len(piece) - max(start, first_row))
            self._ids[: len(piece)] = piece
            if self._signature.positions:
                self._positions[: len(piece)] = range(n_past + start, n_past + start + len(piece))
            cells = n_past + start + len(piece)
            self._run(slot, 1, len(piece), cells, self._ones, rows, at + max(0, start - first_row))

    def append_each(self, first: int, lengths: Sequence[int], tokens: Sequence[int], at: int) -> None:
        """Run one token for each slot from `first` on, whose caches hold `lengths` tokens; row i is at `at + i`."""
        n = len(tokens)
        self._ids[:n] = tokens
        if self._signature.positions:
            self._positions[:n] = lengths
        width = min(self._n_ctx, -(-(max(lengths) + 1) // MASK_STEP) * MASK_STEP)
        self._lay_out(width, lengths)
        self._run(first, n, 1, width, self._mask, 1, at)

    def truncate(self, slot: int, held: int, n_tokens: int) -> None:
        """Cells beyond the mask's ones are not read."""

    def fork(self, source: int, held: int, target: int, n_tokens: int) -> None:
        for cache in self._caches:
            with cache.opened() as numbers:
                numbers[target, :, :n_tokens] = numbers[source, :, :n_tokens]

    def _run(  # noqa: PLR0917
        self, first: int, n: int, n_tokens: int, cells: int, mask: npt.NDArray[np.generic], n_logits: int, at: int
    ) -> None:
        span = self._spans.get((first, n))
        if span is None:
            span = self._spans[first, n] = self._new_span(first, n)
        n_rows = n_tokens
        if self._signature.num_logits:
            n_rows = max(1, n_logits)
            self._count[0] = n_rows
        rows, handed_out = n * n_rows, n * n_logits
        span.run(n_tokens, cells, int(mask.ctypes.data), n_rows, self._rows.target(at, rows, handed_out))
        self._rows.keep(at, rows, handed_out)

    def _lay_out(self, width: int, lengths: Sequence[int]) -> None:
        """One more than `lengths` ones in each row of a mask of `width` cells; usually that is a cell a row."""
        n = len(lengths)
        mask = self._mask[: n * width].reshape(n, width)
        held_width, held = self._masked
        if held_width != width or len(held) != n:
            mask[:] = 0
            held = [0] * n
        ones = [length + 1 for length in lengths]
        for row, (old, new) in enumerate(zip(held, ones, strict=True)):
            if new > old:
                mask[row, old:new] = 1
            elif new < old:
                mask[row, new:old] = 0
        self._masked = (width, ones)

    def _new_span(self, first: int, n: int) -> _Span:
        signature = self._signature
        binding = Binding(self._session, self._memory)
        number, size = TYPES[signature.cache_type][0], CACHE_TYPES[signature.cache_type]
        for entry, cache in zip(signature.entries, self._caches, strict=True):
            shape = (n, entry.heads, self._n_ctx, entry.dim)
            address = cache.address + first * entry.heads * self._n_ctx * entry.dim * size
            binding.input(entry.past, number, shape, address, cache=True)
            binding.output(entry.present, number, shape, address, cache=True)
        if signature.num_logits:
            shape_of_count = (1,) * signature.num_logits_rank
            binding.input(signature.num_logits, TYPES["int64"][0], shape_of_count, int(self._count.ctypes.data))
        addresses = int(self._ids.ctypes.data), int(self._positions.ctypes.data)
        return _Span(binding, signature, self._rows, n, addresses)


class _Span:
    """Slots side by side as the rows of a run. Binds again only what differs from the run before."""

    def __init__(
        self, binding: Binding, signature: Signature, rows: LogitRows, n: int, addresses: tuple[int, int]
    ) -> None:
        self._binding, self._signature, self._rows, self._n = binding, signature, rows, n
        self._ids, self._positions = addresses
        self._n_tokens = 0
        self._masked: tuple[int, int] = (0, 0)
        self._target: tuple[int, int] = (0, 0)

    def run(self, n_tokens: int, cells: int, mask: int, n_rows: int, target: int) -> None:
        binding, signature, n = self._binding, self._signature, self._n
        if n_tokens != self._n_tokens:
            binding.input(signature.ids, TYPES[signature.ids_type][0], (n, n_tokens), self._ids)
            if signature.positions:
                number = TYPES[signature.positions_type][0]
                binding.input(signature.positions, number, (n, n_tokens), self._positions)
            self._n_tokens = n_tokens
        if signature.mask and (cells, mask) != self._masked:
            binding.input(signature.mask, TYPES[signature.mask_type][0], (n, cells), mask)
            self._masked = (cells, mask)
        if (n_rows, target) != self._target:
            binding.output(signature.logits, self._rows.number, (n, n_rows, self._rows.vocab), target)
            self._target = (n_rows, target)
        binding.run()
