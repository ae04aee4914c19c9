"""What is to be asked where a bundle is installed is asked here first: of the very files that are packed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgellm import settings
from edgellm.app.bundle import trial as trials
from edgellm.app.bundle.trial import Trial, TrialFailed
from edgellm.bundle import golden
from edgellm.bundle.golden import Golden
from edgellm.bundle.papers import PackedPart
from edgellm.bundle.writer import Content
from edgellm.contract.source import Progress
from edgellm.files import safe_name
from edgellm.hardware.probe import probe
from edgellm.types.plan import Candidate
from edgellm.units import show_memory

_CTX = 1024
_DEADLINE_S = 600.0


class Recorder:
    """Asks the models of a bundle, each once. `unrecorded`: which targets have no answers, and why."""

    def __init__(self, adapters: Sequence[str]) -> None:
        self._adapters = adapters
        self._contents: dict[tuple[str, ...], Content | str] = {}
        self.unrecorded: dict[str, str] = {}

    def of(self, name: str, choice: Candidate, parts: Sequence[PackedPart], progress: Progress) -> Content | None:
        """The file for target `name`; None where nothing answers here. `parts`: the model and its adapters."""
        same = (choice.backend, choice.kv_type, *(part.files[0].sha256 for part in parts))
        if same not in self._contents:
            progress(0, None, f"asking {choice.model}")
            try:
                answers = _recorded(choice, parts, self._adapters)
                self._contents[same] = Content.of(f"{golden.FOLDER}/{safe_name(name)}.json", golden.encode(answers))
            except _NotRecorded as error:
                self._contents[same] = str(error)
        content = self._contents[same]
        if isinstance(content, Content):
            return content
        self.unrecorded[name] = content
        return None


class _NotRecorded(Exception):
    """The model cannot be asked here. Its text says why."""


def _recorded(choice: Candidate, parts: Sequence[PackedPart], adapters: Sequence[str]) -> Golden:
    """What the model of `choice` answers on this machine, without its GPUs.

    Raises:
        _NotRecorded
    """
    available = probe().memory.available_bytes
    if available is not None and choice.counted_bytes > available:
        needed = show_memory(choice.counted_bytes)
        raise _NotRecorded(f"it may take {needed} of memory, and {show_memory(available)} are free here")
    flags = [
        f"{choice.model}:{choice.quant}", "--backend", choice.backend, "--ctx", str(min(choice.ctx, _CTX)),
        "--slots", "1", "--kv", choice.kv_type, "--gpu-layers", "0", "--offline",
    ]  # fmt: skip
    flags += [argument for name in adapters for argument in ("--adapter", name)]
    with tempfile.TemporaryDirectory(prefix="edgellm-golden-") as folder:
        _lay_out(Path(folder) / "data", parts)
        # What was measured of this machine need not be measured again.
        os.symlink(settings.current().cache_dir.absolute(), Path(folder) / "cache")
        trial = Trial([*trials.serve_command(), *flags], trials.home_of(Path(folder)))
        problem = ""
        with trial:
            try:
                trial.wait(_DEADLINE_S)
                return trials.recorded(trial)
            except TrialFailed as error:
                problem = str(error)
        raise _NotRecorded(f"{problem}: {trial.last_words}" if trial.last_words else problem)


def _lay_out(data: Path, parts: Sequence[PackedPart]) -> None:
    """The store that a slot would have."""
    for part in parts:
        for content in part.files:
            path = data / content.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content.data, bytes):
                path.write_bytes(content.data)
            else:
                os.symlink(content.data.absolute(), path)
