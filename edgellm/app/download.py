"""What a plan would fetch, and what could be fetched instead: told before the first byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edgellm.errors import EdgeLLMError
from edgellm.selection.context import SelectionContext
from edgellm.selection.decide import decide
from edgellm.selection.fit_json import file_size
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Candidate
from edgellm.types.request import SelectionRequest

SMALLER = 3  # how many are offered instead


@dataclass(frozen=True, slots=True)
class PlannedDownload:
    """One file that is not on this disk, and what it was chosen for."""

    card: ModelCard
    file: ModelFile
    choice: Candidate
    context: SelectionContext = field(repr=False)
    request: SelectionRequest

    @property
    def bytes(self) -> int:
        return file_size(self.card, self.choice)[0]

    @property
    def is_here(self) -> bool:
        """Whether nothing need be fetched after all."""
        return not self._bytes_of(self.choice)

    def smaller(self) -> list[tuple[Candidate, int]]:
        """The best for two thirds of the download, for two thirds of that, and so on; with the bytes each fetches."""
        choices: list[tuple[Candidate, int]] = []
        limit = self.bytes
        while len(choices) < SMALLER and limit > 0:
            try:
                decision = decide(self.context, replace(self.request, max_download_bytes=limit * 2 // 3))
            except EdgeLLMError:
                break
            if decision.choice is None:
                break
            limit = self._bytes_of(decision.choice)
            choices.append((decision.choice, limit))
        return choices

    def _bytes_of(self, choice: Candidate) -> int:
        stored = self.context.stored
        card, file = self.context.chosen(choice)
        is_here = file.source.startswith("file:") or file.source in stored or file.sha256 in stored
        return 0 if is_here else file_size(card, choice)[0]


# Asked before a file is fetched. None = fetch it; a candidate = take that instead. It may raise, to fetch nothing.
Approve = Callable[[PlannedDownload], Candidate | None]


def approved(download: PlannedDownload) -> None:
    """Fetches whatever was chosen."""
