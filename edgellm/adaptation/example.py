"""One document to learn from: its tokens, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """The first token is never supervised: nothing is before it."""

    tokens: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    line: int = 0  # of the file that it comes from, from 1 on

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_supervised(self) -> int:
        return int(np.count_nonzero(self.supervised))

    def cut(self, length: int) -> Self:
        """The first so many tokens."""
        return type(self)(self.tokens[:length], self.supervised[:length], self.line)
