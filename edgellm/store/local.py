"""Model files that other tools or the user put on this disk: found, described, used where they lie, never copied.

    --models-dir, EDGELLM_MODELS_DIR      folders of the user's, with their subfolders
    Ollama's stores                       OLLAMA_MODELS, else ~/.ollama/models and the Linux service's
    the hub's cache                       HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub

Headers are read once and their summaries kept, so that a scan costs little more than listing the folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm import settings
from edgellm.errors import ArtifactError, EdgeLLMError, UsageError
from edgellm.store.names import can_be, parts_of
from edgellm.store.sources import hf_cache, ollama_store
from edgellm.types.model import ModelCard

MOST_FILES = 2000  # in one folder of the user's, with its subfolders
MOST_ENTRIES = 50_000  # looked at there
_SKIPPED = re.compile(r"(^|[-._/])(mmproj|imatrix)([-._]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One model file on this disk. `card` is None where `problem` says what is wrong with it."""

    path: Path
    origin: str  # "folder", "ollama", "hub"
    card: ModelCard | None
    problem: str = ""


def models() -> list[LocalModel]:
    """Every model file in the places above, by path; a file that is reached twice is there once.

    Raises:
        UsageError: a folder that was named does not exist, or holds more than can be looked through.
    """
    by_path: dict[str, LocalModel] = {}
    for path, origin, model_id, sha256 in (*_in_folders(settings.current().models_dirs), *_of_ollama(), *_of_hub()):
        real = os.path.realpath(path)
        if real not in by_path:
            by_path[real] = _described(path, origin, model_id, sha256)
    return sorted((item for item in by_path.values() if item.card or item.problem), key=lambda item: str(item.path))


def cards(*, but: Callable[[], Collection[str]] = tuple) -> list[ModelCard]:
    """The rows of what was found and is sound, without the files at the real paths `but`, asked where any was found.

    Raises:
        UsageError: as `models`.
    """
    found = [(item.path, item.card) for item in models() if item.card is not None]
    left_out = but() if found else ()
    return [card for path, card in found if not (left_out and os.path.realpath(path) in left_out)]


def _described(path: Path, origin: str, model_id: str, sha256: str) -> LocalModel:
    # What can also ask hubs and registries takes 50 ms to import: only where a file lies here.
    from edgellm.store.card import local_card

    try:
        return LocalModel(path, origin, local_card(path, model_id=model_id, sha256=sha256))
    except ArtifactError as error:
        # An adapter or a projector is no damage.
        is_damaged = error.code == "bad_artifact"
        return LocalModel(path, origin, None, error.message if is_damaged else "")
    except EdgeLLMError as error:
        return LocalModel(path, origin, None, error.message)


def check_folders(folders: Iterable[Path]) -> None:
    """
    Raises:
        UsageError: one of them does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"{folder} is not a folder", hint="see --models-dir and EDGELLM_MODELS_DIR", param="models-dir"
            )


def _in_folders(folders: Sequence[Path]) -> Iterator[tuple[Path, str, str, str]]:
    check_folders(folders)
    for folder in folders:
        yield from ((path, "folder", "", "") for path in _ggufs(folder))


def _ggufs(folder: Path) -> list[Path]:
    """Model files below `folder`: of a split one the first part. Links to folders are not followed."""
    paths: list[Path] = []
    n_entries = 0
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        n_entries += len(folders) + len(names)
        paths += [Path(where, name) for name in sorted(names) if _is_first(name)]
        if n_entries > MOST_ENTRIES or len(paths) > MOST_FILES:
            raise UsageError(
                f"{folder} holds more than {MOST_ENTRIES:,} files or {MOST_FILES:,} models",
                hint="name the folder that the models lie in",
                param="models-dir",
            )
    return paths


def _is_first(name: str) -> bool:
    if not name.lower().endswith(".gguf") or name.startswith(".") or _SKIPPED.search(name):
        return False
    return can_be(name) and parts_of(name)[0] == name


def _of_ollama() -> Iterator[tuple[Path, str, str, str]]:
    for shown, files in ollama_store.local_models():
        if len(files) == 1 and files[0].path is not None:
            name = shown.removesuffix(":latest").replace(":", "-").rpartition("/")[2]
            yield files[0].path, "ollama", name, files[0].sha256


def _of_hub() -> Iterator[tuple[Path, str, str, str]]:
    for repo, path in hf_cache.files(hf_cache.default_root(), ".gguf"):
        if _is_first(path.name):
            yield path, "hub", re.sub(r"[-_.]gguf$", "", repo, flags=re.IGNORECASE), hf_cache.sha256_of(path)
