"""What a plan would fetch, and what could be fetched instead: told before the first byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from msgspec import structs

from edgellm.errors import EdgeLLMError, SourceError
from edgellm.files import SPARE_BYTES, nearest_existing
from edgellm.selection.context import SelectionContext
from edgellm.selection.decide import decide
from edgellm.selection.fit_json import file_size
from edgellm.store.library import Library
from edgellm.store.sources import asking
from edgellm.store.sources.registry import source_for
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Candidate
from edgellm.types.reason import NoRoom
from edgellm.types.request import SelectionRequest

SMALLER = 3  # how many are offered instead
TRIES = 5  # to find one that has room


@dataclass(frozen=True, slots=True)
class _Lack:
    """Of room on a disk."""

    fact: NoRoom
    most_bytes: int  # that a file from the same source may have


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

    @property
    def no_room(self) -> NoRoom | None:
        """Where it needs more room than is free: why, and what else there is; None = it has room, or that is not known.

        As the download itself will find, but for what an earlier one has left of it.
        """
        if (lack := self._lack()) is None:
            return None
        limit = lack.most_bytes
        for _ in range(TRIES):
            limit = limit // 10**6 * 10**6
            try:
                choice = decide(self.context, replace(self.request, max_download_bytes=limit)).choice
            except EdgeLLMError:
                break
            if choice is None:
                break
            card, file = self.context.chosen(choice)
            other = PlannedDownload(card, file, choice, self.context, self.request)
            if other.is_here or other._lack() is None:
                return structs.replace(lack.fact, limit_bytes=limit, instead=choice.model, instead_quant=choice.quant)
            limit = other.bytes - 1  # its source needs more room for the same bytes, or keeps them on another disk
        return lack.fact

    def _lack(self) -> _Lack | None:
        try:
            source = source_for(self.file.source)
            if (cache := getattr(source, "cache", None)) is not None:
                places, setting = [(cache, self.bytes)], "HF_HOME"
            else:
                places, setting = asking.needs(source, Library().root, self.bytes), "EDGELLM_HOME"
        except SourceError:  # of a plugin's, which the download will tell
            return None
        for where, taken in places:
            place = nearest_existing(where)
            free, needed = shutil.disk_usage(place).free, taken + SPARE_BYTES
            if needed > free:
                name = self.choice.model, self.choice.quant
                fact = NoRoom(*name, needed, SPARE_BYTES, free, str(place), setting)
                return _Lack(fact, max(0, free - SPARE_BYTES) * self.bytes // taken)
        return None

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
