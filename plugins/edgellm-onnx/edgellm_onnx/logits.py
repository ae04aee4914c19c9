"""Where logits land: rows that are handed out, and room for those that a graph computes unasked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellm.contract.engine import SPARE_LOGITS, Logits
from edgellm_onnx import footprint
from edgellm_onnx.binding import TYPES
from edgellm_onnx.memory import zeros


class LogitRows:
    """`kept` rows are float32 and valid until the next step; a run that gives other rows writes into `room`."""

    def __init__(self, vocab: int, kind: str, n_slots: int, n_batch: int, gives_all: bool) -> None:
        self.vocab, self.number = vocab, TYPES[kind][0]
        self.max_rows = n_slots + SPARE_LOGITS
        dtype = TYPES[kind][1]
        piece = max(1, min(n_batch, footprint.ROOM_BYTES // (vocab * np.dtype(dtype).itemsize)))
        self.piece = piece if gives_all else n_batch  # most tokens of one run
        # Rows of slots that only lie between others are kept too.
        self._kept = zeros((self.max_rows + n_slots, vocab), np.float32)
        self._is_direct = dtype is np.float32
        self._room: npt.NDArray[np.generic] = zeros(
            (max(piece if gives_all else 1, n_slots, self.max_rows), vocab), dtype
        )
        self._views: dict[tuple[int, int], Logits] = {}

    def target(self, at: int, n_rows: int, n_logits: int) -> int:
        """Address for a run that returns `n_rows` rows, of which the last `n_logits` are to be found at row `at`."""
        if self._is_direct and n_rows == n_logits:
            return int(self._kept.ctypes.data) + at * self.vocab * 4
        return int(self._room.ctypes.data)

    def keep(self, at: int, n_rows: int, n_logits: int) -> None:
        """After the run: copy the wanted rows to where they are handed out, unless they are there."""
        if n_logits and not (self._is_direct and n_rows == n_logits):
            self._kept[at : at + n_logits] = self._room[n_rows - n_logits : n_rows]

    def view(self, at: int, rows: int) -> Logits:
        view = self._views.get((at, rows))
        if view is None:
            view = self._views[at, rows] = self._kept[at : at + rows]
            view.flags.writeable = False
        return view
