"""Model files on this disk: what is here, bringing what is not, and removing it.

    data_dir()/models/
      smollm2-135m-instruct/
        Q4_1-b179c9523d0e6a0f/                    quantization, start of the sha256 (of the source where it is unknown)
          SmolLM2-135M-Instruct.Q4_1.gguf         the published name; split files keep theirs
          stored.json                             source, hashes, date, shape
        .Q4_1-b179c9523d0e6a0f.7d0c31aa.incomplete/   being fetched; renamed to the above when all is checked
        .Q4_1-b179c9523d0e6a0f.incomplete/            the same, of a source that resumes
        .Q4_1-b179c9523d0e6a0f.removed/               being deleted; what is left of one goes with the next change
      .locks/                                     one lock file per entry, held between processes

A folder without the dot is whole: its files were fetched, hashed, and their headers read, before the rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from edgellm import settings
from edgellm.contract.source import FetchedFile, Progress, Source
from edgellm.errors import (
    ArtifactError,
    DiskFull,
    IntegrityError,
    SourceUnreachable,
    UnknownModel,
    UnsupportedArtifact,
    UsageError,
)
from edgellm.files import locked, require_room, safe_name
from edgellm.store import manifest
from edgellm.store.address import redacted
from edgellm.store.begun import BegunDownload, begun_downloads, lock_of
from edgellm.store.manifest import StoredModel
from edgellm.store.sources import asking
from edgellm.store.sources.registry import source_for
from edgellm.store.writable import changing_store
from edgellm.types.model import Artifact, ModelCard, ModelFile
from edgellm.types.store_problem import RecordOfNewer
from edgellm.units import show_size

MADE = "made:"  # begins the source of what was made here, and cannot be fetched
TWICE = "made:twice-"  # the same, of what was quantized already: worse than the quantization's name says
_NOT_STORED = "no model can be stored"
_OTHER = "the file was replaced at its source, or damaged on the way: fetch it again"


def silent(done_bytes: int, total_bytes: int | None, what: str) -> None:
    """A progress callback that says nothing."""


class Library:
    """The store under `root` (default `data_dir()/models`). Safe to use from several threads and processes."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = settings.current().data_dir / "models" if root is None else root

    def installed(self) -> list[StoredModel]:
        """Everything stored, by model and quantization; damaged entries too, with their `problem`."""
        records = sorted(self.root.glob(f"*/*/{manifest.RECORD}"))
        entries = [manifest.read(record.parent) for record in records if not record.parent.name.startswith(".")]
        return [manifest.check_sizes(stored) for stored in entries if stored is not None]

    def checked(self, *, again: bool = True) -> list[StoredModel]:
        """The same, with files hashed whose time has changed: that takes seconds where they are gigabytes. Where not
        `again`, what was found of them counts until they change once more."""
        return [manifest.check(stored, again=again) for stored in self.installed()]

    def local_keys(self) -> frozenset[str]:
        """Sources and sha256 of what is stored and sound: the files that need no network."""
        sound = [stored for stored in self.installed() if not stored.problem]
        return frozenset(key for stored in sound for key in (stored.source, stored.sha256) if key)

    def has(self, file: ModelFile) -> bool:
        """Whether `file` is stored, under any model's name, by its hash or its source."""
        keys = self.local_keys()
        return file.source in keys or (file.sha256 is not None and file.sha256 in keys)

    def locate(self, file: ModelFile, model_id: str) -> Artifact | None:
        """The stored artifact of `file`, under any model's name; None where it is absent or damaged. Changed files are
        hashed again."""
        stored = self.entry(file, model_id)
        return None if stored is None else replace(stored.artifact(), model_id=model_id)

    def entry(self, file: ModelFile, model_id: str) -> StoredModel | None:
        """The same, with its record."""
        stored = manifest.read(self._folder(file, model_id)) or self._same_file(file, model_id)
        if stored is None:
            return None
        checked = manifest.check(stored)
        return None if checked.problem else checked

    def _same_file(self, file: ModelFile, model_id: str) -> StoredModel | None:
        """The entry of the same file under another name: its hash, or which model it is, was not known when it was
        fetched, or is not now."""
        same = [
            stored
            for stored in self.installed()
            if not stored.problem and (stored.sha256 == file.sha256 if file.sha256 else stored.source == file.source)
        ]
        return min(same, key=lambda stored: stored.model_id != model_id, default=None)

    def fetch(self, card: ModelCard, file: ModelFile, progress: Progress = silent) -> Artifact:
        """The artifact of `file`, fetched where it is not stored yet. Of several processes, one downloads.

        Raises:
            SourceError and its kinds: unreachable, wrong hash or size, disk full.
            BadArtifact, UnsupportedArtifact: it arrived as promised but is not a sound GGUF file; or a newer version of
            EdgeLLM stored it.
        """
        artifact = self.locate(file, card.id)
        if artifact is not None:
            return artifact
        if file.source.startswith(MADE):
            raise SourceUnreachable(
                f"{card.id} {file.quant} was made here, and is damaged or gone",
                hint=f"make it again: edgellm quantize {card.id} --to {file.quant}",
            )
        source = source_for(file.source)
        folder = self._folder(file, card.id)
        _require_readable(folder)
        self._delete_put_away()  # before room is looked for
        with changing_store(folder, _NOT_STORED), self._locked(folder, progress):
            artifact = self.locate(file, card.id)  # another process may have fetched it meanwhile
            return artifact or self._fetch(source, card, file, folder, progress)

    def keep(self, card: ModelCard, file: ModelFile, path: Path, *, elsewhere: bool = False) -> Artifact:
        """Store a file that was made here; `path` is moved, and lies below `root`. What `file` was before is replaced.

        `elsewhere`: the file stays where it is, outside the store, and is recorded.

        Raises:
            BadArtifact, UnsupportedArtifact: it is not a sound GGUF file.
        """
        folder = self._folder(file, card.id)
        partial = folder.with_name(f".{folder.name}.incomplete")
        with changing_store(folder, _NOT_STORED), self._locked(folder, silent):
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir(parents=True)
                place = path if elsewhere else partial / path.name
                if not elsewhere:
                    os.replace(path, place)
                stored = _checked_entry(card, file, partial, [FetchedFile(place)])
                manifest.write(stored)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return replace(stored, folder=folder).artifact()

    def files(self, *, twice: bool = False) -> dict[str, tuple[ModelFile, ...]]:
        """What is stored and sound, as files of its models: id -> files. `twice`: what was quantized twice, too."""
        by_model: dict[str, tuple[ModelFile, ...]] = {}
        for stored in self.installed():
            if not stored.problem and (twice or not stored.source.startswith(TWICE)):
                sha256 = None if stored.source.startswith(MADE) else stored.sha256 or None
                file = ModelFile(
                    stored.source, stored.quant, stored.format, stored.bytes, sha256, trust="stored",
                    made_from=_made_from(stored.source),
                )  # fmt: skip
                by_model[stored.model_id] = (*by_model.get(stored.model_id, ()), file)
        return by_model

    def at(self, path: str | Path) -> list[StoredModel]:
        """The entries of the file at `path`, however it is reached."""
        real = os.path.realpath(path)
        return [s for s in self.installed() if any(os.path.realpath(s.folder / f.path) == real for f in s.files)]

    def requantized_paths(self) -> frozenset[str]:
        """Real paths of what was quantized twice."""
        twice = [stored for stored in self.installed() if stored.source.startswith(TWICE)]
        return frozenset(os.path.realpath(s.folder / file.path) for s in twice for file in s.files)

    def forget(self, path: Path) -> None:
        """Remove the records of a file that lies outside the store: another one takes its place."""
        for stored in self.at(path):
            if all(os.path.isabs(file.path) for file in stored.files):
                self.remove_entry(stored)

    def remove(self, model_id: str, quant: str = "") -> int:
        """Delete the stored files of a model (in one quantization); return the bytes freed.

        Files that lie elsewhere (`file:`, the hub's cache) are forgotten, not deleted.

        Raises:
            UnknownModel: nothing of that name is stored. UsageError: it is being fetched right now.
        """
        chosen = [s for s in self.installed() if s.model_id == model_id and quant in ("", s.quant)]
        if not chosen:
            names = sorted({f"{stored.model_id} {stored.quant}" for stored in self.installed()})
            name = f"{model_id} {quant}".strip()
            raise UnknownModel(f"{name} is not stored here", hint=f"stored: {', '.join(names) or 'nothing'}")
        return sum(map(self.remove_entry, chosen))

    def remove_entry(self, stored: StoredModel) -> int:
        """Delete one entry; return the bytes freed. A model may have two in one quantization: of two published files.

        Raises:
            UsageError: it is being fetched right now. StoreUnwritable: it may not be deleted.
        """
        failed = f"{stored.model_id} {stored.quant} cannot be deleted"
        with changing_store(stored.folder, failed, is_new=False), self._locked(stored.folder, None):
            is_link = stored.folder.is_symlink()
            if is_link:  # by somebody who keeps the files elsewhere, where they stay
                stored.folder.unlink()
            else:
                doomed = stored.folder.with_name(f".{stored.folder.name}.removed")
                shutil.rmtree(doomed, ignore_errors=True)
                try:
                    os.replace(stored.folder, doomed)
                except FileNotFoundError:  # another process was faster
                    return 0
                shutil.rmtree(doomed)
        self._delete_put_away()
        with contextlib.suppress(OSError):
            stored.folder.parent.rmdir()  # the model's folder, where this was its last entry
        return 0 if is_link else sum(file.bytes for file in stored.files if not os.path.isabs(file.path))

    def begun(self) -> list[BegunDownload]:
        """Downloads that did not end, or run right now."""
        return begun_downloads(self.root)

    def remove_begun(self, download: BegunDownload) -> int:
        """Delete what a download has left; return the bytes freed.

        Raises:
            UsageError: it is being fetched right now. StoreUnwritable: it may not be deleted.
        """
        failed = f"what was fetched of {download.model_id} {download.quant}".strip() + " cannot be deleted"
        with changing_store(download.entry, failed, is_new=False), self._locked(download.entry, None):
            for folder in download.folders:
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            download.entry.parent.rmdir()
        return download.bytes

    def _delete_put_away(self) -> None:
        """What a process left that was killed while it deleted: nobody uses any of it."""
        for removed in self.root.glob("*/.*.removed"):
            folder = removed.with_name(removed.name.removeprefix(".").removesuffix(".removed"))
            with contextlib.suppress(UsageError, OSError), self._locked(folder, None):  # unless one is at it
                shutil.rmtree(removed, ignore_errors=True)

    def _fetch(self, source: Source, card: ModelCard, file: ModelFile, folder: Path, progress: Progress) -> Artifact:
        """Fetch into the folder with the dot, check everything, rename."""
        for left in folder.parent.glob(f".{folder.name}.*.incomplete"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        resumes = getattr(source, "resumes", False)
        # A name of its own: a pip that outlived its killed parent may still be writing into the old one.
        partial = folder.with_name(f".{folder.name}{'' if resumes else '.' + uuid.uuid4().hex[:8]}.incomplete")
        fetched: Sequence[FetchedFile] = []
        try:
            partial.mkdir(parents=True, exist_ok=resumes)
            _check_space(source, partial, file)
            named = _by_name(progress, f"{card.id} {file.quant}".strip())
            fetched = asking.fetch(source, file.source, partial, n_bytes=file.bytes, progress=named)
            progress(file.bytes or 0, file.bytes, f"checking {card.id} {file.quant}")
            stored = _checked_entry(card, file, partial, fetched)
            _remove_others(partial, stored)
            manifest.write(stored)
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():  # damaged, or it would have been found
                shutil.rmtree(folder)
            os.replace(partial, folder)
        except BaseException as error:
            # What a source left to go on with stays, unless it is wrong.
            if not resumes or isinstance(error, (IntegrityError, ArtifactError, DiskFull)):
                shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, IntegrityError):
                asking.discard(source, [f.path for f in fetched if f.path.parent != partial])
            raise
        return replace(stored, folder=folder).artifact()

    def _folder(self, file: ModelFile, model_id: str) -> Path:
        digest = file.sha256 or hashlib.sha256(file.source.encode()).hexdigest()
        return self.root / safe_name(model_id) / safe_name(f"{file.quant or 'file'}-{digest[:16]}")

    @contextlib.contextmanager
    def _locked(self, folder: Path, progress: Progress | None) -> Iterator[None]:
        """Hold the entry's lock. Without `progress` it must be free."""

        def busy() -> None:
            if progress is None:
                message = f"{folder.parent.name} is being fetched by another process"
                raise UsageError(message, hint="try again later")
            progress(0, None, "waiting for another process that fetches it")

        with locked(lock_of(self.root, folder), busy):
            yield


def _require_readable(folder: Path) -> None:
    """What a newer version stored is neither used nor replaced."""
    stored = manifest.read(folder)
    if stored is not None and isinstance(problem := stored.problem, RecordOfNewer):
        raise UnsupportedArtifact(
            f"{stored.model_id} {stored.quant} is stored already, by a newer version of EdgeLLM: {problem.path} has "
            f"schema {problem.schema}, this version reads {problem.read_schema}",
            hint=f"update edgellm, or delete it and fetch it again: edgellm rm {stored.model_id}:{stored.quant}",
        )


def _made_from(source: str) -> str:
    """The quantization that was quantized again; "" where that was none. `source` is as the planner writes it."""
    return source.removeprefix(TWICE).partition("#")[0].rpartition("-")[0] if source.startswith(TWICE) else ""


def _by_name(progress: Progress, name: str) -> Progress:
    """Progress of a download under the model's name; its source knows a package or a repository."""

    def report(done_bytes: int, total_bytes: int | None, what: str) -> None:
        progress(done_bytes, total_bytes, name if done_bytes or total_bytes else what)

    return report


def _checked_entry(card: ModelCard, file: ModelFile, folder: Path, fetched: Sequence[FetchedFile]) -> StoredModel:
    """Size, hash and header of what arrived.

    Raises:
        IntegrityError, BadArtifact, UnsupportedArtifact.
    """
    n_bytes = sum(arrived.path.stat().st_size for arrived in fetched)
    if file.bytes is not None and n_bytes != file.bytes:
        raise IntegrityError(f"{file.source} brought {n_bytes} bytes, {file.bytes} were promised", hint=_OTHER)
    promised = file.sha256 or ""
    files = tuple(
        manifest.describe_file(
            f.path,
            inside=folder,
            expected_sha256=promised if len(fetched) == 1 else f.sha256,
            written_sha256=f.written_sha256,
        )
        for f in fetched
    )
    for arrived, stored in zip(fetched, files, strict=True):
        if arrived.sha256 and arrived.sha256 != stored.sha256:
            message = f"{arrived.path.name} has sha256 {stored.sha256}, its source says {arrived.sha256}"
            raise IntegrityError(message, hint=_OTHER)
    shape, ctx_train, quant = card.shape, card.ctx_train, file.quant
    if file.format == "gguf":
        from edgellm.formats.gguf import reader, vocabulary

        try:
            model = reader.read_model(fetched[0].path)
            vocabulary.check(model.header)
        except ArtifactError as error:  # where it lies now it is deleted
            error.message = f"{redacted(file.source)} cannot be used: {error.message}"
            raise
        shape = reader.shape(model.header, model.tensors)
        ctx_train = reader.context_length(model.header) or ctx_train
        quant = quant or reader.quant_name(model.header, model.tensors)
    return StoredModel(
        folder, card.id, quant, file.format, file.source, card.license,
        datetime.now(UTC).isoformat(timespec="seconds"), ctx_train, shape, files,
    )  # fmt: skip


def _remove_others(folder: Path, stored: StoredModel) -> None:
    """Beginnings of files that the source has replaced since."""
    kept = {Path(file.path).parts[0] for file in stored.files}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def _check_space(source: Source, folder: Path, file: ModelFile) -> None:
    """Refuse before the first byte, with the numbers, what would fill the disk."""
    if file.bytes is None:
        return
    for where, taken in asking.needs(source, folder, file.bytes):
        begun = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        hint = "free space, or set EDGELLM_HOME to a folder on another disk"
        unpacked = " and the package that it is unpacked from" if taken > file.bytes else ""
        what = f"fetching {file.quant}, {show_size(file.bytes)}{unpacked},"
        require_room(where, max(0, taken - begun), what, hint=hint)
