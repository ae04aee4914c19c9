"""What models were tuned to, on this disk: adapters, each pinned to the bytes of the file that it was made for, and
models with what was learned in their matrices.

data_dir()/adapters/
  smollm2-135m-instruct/
    mail/
      adapter.gguf    the factors; of a merged model model.gguf, the whole of it
      adapter.json    what it is: base, method, hashes, figures of the gate where it was measured
    .mail.7d0c31aa.incomplete/    being written; renamed to the above when it is whole and was read
  .locks/             one lock file per entry, held between processes
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import msgspec

from edgellm import settings
from edgellm.errors import UnknownAdapter, UnsupportedArtifact, UsageError, loading, option, speaks_in_flags
from edgellm.files import locked, safe_name, sync, write_atomic
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf.reader import read_model
from edgellm.store.content_hash import file_hash, hash_of
from edgellm.store.record import PathText, read_record, size_problem
from edgellm.store.writable import changing_store
from edgellm.types.adapter import check_adapter_name
from edgellm.types.store_problem import OtherHash, RecordUnreadable, StoreProblem

FILE, MERGED, RECORD = "adapter.gguf", "model.gguf", "adapter.json"
SCHEMA = 1
_MAX_BYTES = 1024**2
_BRINGS_ONE = ("name a .gguf file of one, or make one with edgellm.tune", "`edgellm adapters import` brings one")


class AdapterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside the file. Fields of later versions are passed over."""

    name: str
    base_id: str
    base_quant: str
    base_sha256: str  # `content_hash` of the file that it was made for
    base_path: PathText  # where that lay
    architecture: str
    rank: int
    alpha: float
    tensor_bytes: int
    bytes: int
    mtime_ns: int  # of the file, when it was hashed
    sha256: str
    method: str = ""  # as "lora"; "" = it is not known
    source: str = ""  # where it came from, for people
    made_at: str = ""  # ISO 8601, UTC
    figures: dict[str, float] = msgspec.field(default_factory=dict)  # of the gate; empty = it was not measured
    against: str = ""  # the model, not tuned, whose scores are among the figures; "" = none was asked
    merged_quant: str = ""  # of a merged model, which needs no base; "" = it is an adapter
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    folder: Path
    base_id: str  # of a record that cannot be read: the folder's name
    name: str
    record: AdapterRecord | None  # None = it cannot be read
    problem: StoreProblem | None = None

    @property
    def is_merged(self) -> bool:
        """Whether it is a model, and no adapter."""
        return self.record is not None and bool(self.record.merged_quant)

    @property
    def path(self) -> Path:
        return self.folder / (MERGED if self.is_merged else FILE)

    @property
    def label(self) -> str:
        """What faces call it."""
        return f"{self.base_id}:{self.name}"

    def sound(self) -> AdapterRecord:
        """
        Raises:
            UnsupportedArtifact: it is damaged.
        """
        if self.record is None or self.problem is not None:
            removal = f"remove it: edgellm adapters rm {self.label}" if speaks_in_flags() else f"delete {self.folder}"
            says = ", as `edgellm adapters list` says" if speaks_in_flags() else ""
            raise UnsupportedArtifact(
                f"the adapter {self.label} is damaged{says}", hint=f"bring it again, or {removal}"
            )
        return self.record

    def adapter(self) -> AdapterRecord:
        """
        Raises:
            UnsupportedArtifact: it is damaged, or a merged model.
        """
        record = self.sound()
        if self.is_merged:
            message = f"{self.label} is a model with what it learned in its matrices, and no adapter"
            raise UnsupportedArtifact(message, hint=f"run it: {loading(self.label)}; its file is {self.path}")
        return record

    def require_base(self, sha256: str, where: str) -> None:
        """
        Raises:
            UnsupportedArtifact: the model in `where` has another `content_hash` than it was made for; no adapter.
        """
        record = self.adapter()
        if record.base_sha256 != sha256:
            made_for = f"{record.base_id} {record.base_quant} with sha256 {record.base_sha256[:16]}"
            message = f"the adapter {self.label} was made for {made_for}, {where} has {sha256[:16]}"
            hint = f"run {record.base_id}:{record.base_quant}, or export it and import it for the other file"
            raise UnsupportedArtifact(message, hint=hint)


@dataclass(frozen=True, slots=True)
class AdapterOrigin:
    """What a new adapter was made for, and how."""

    name: str
    base_id: str
    base_quant: str
    base_sha256: str
    base_path: str
    method: str = ""
    source: str = ""
    merged_quant: str = ""
    against: str = ""
    figures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class AdapterStore:
    """The store under `root` (default `data_dir()/adapters`). Safe to use from several threads and processes."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = settings.current().data_dir / "adapters" if root is None else root

    def installed(self) -> list[StoredAdapter]:
        """Everything stored, by base and name; damaged entries too, with their `problem`."""
        folders = sorted(path for path in self.root.glob("*/*") if path.is_dir() and not _is_hidden(path, self.root))
        return [_read(folder) for folder in folders]

    def checked(self, *, again: bool = True) -> list[StoredAdapter]:
        """The same, with files hashed whose time has changed; where not `again`, once until they change once more."""
        return [_checked(stored, again=again) for stored in self.installed()]

    def find(self, base_id: str, name: str) -> StoredAdapter:
        """
        Raises:
            UnknownAdapter: there is none of that name.
        """
        there = self.installed()
        for stored in there:
            if (stored.base_id.lower(), stored.name) == (base_id.lower(), name):
                return _checked(stored)
        known = [stored.label for stored in there]
        hint = f"there are: {', '.join(known)}" if known else _BRINGS_ONE[speaks_in_flags()]
        raise UnknownAdapter(f"{base_id} has no adapter {name[:80]!r} here", hint=hint, adapter=name)

    def add(self, origin: AdapterOrigin, write: Callable[[Path], None], *, force: bool = False) -> StoredAdapter:
        """Store what `write` writes to the path that it is given: a GGUF adapter, or the model with `merged_quant`. It
        is there whole, or not at all.

        `force`: in the place of one of that name.

        Raises:
            UsageError: there is one of that name, or no such name. StoreUnwritable, DiskFull: it cannot be written.
            BadArtifact, UnsupportedArtifact: what was written is no adapter.
        """
        check_adapter_name(origin.name)
        folder = self.root / safe_name(origin.base_id) / origin.name
        partial = folder.with_name(f".{origin.name}.{uuid.uuid4().hex[:8]}.incomplete")
        with changing_store(folder, "no adapter can be stored"), self._locked(folder):
            if folder.exists() and not force:
                message = f"{origin.base_id} has an adapter {origin.name} already"
                raise UsageError(
                    message, hint=f"choose another name, or replace it with {option('force', True)}", param="name"
                )
            # We hold the lock, so the process that left these is gone.
            for left in _left_by_others(folder, "incomplete"):
                shutil.rmtree(left, ignore_errors=True)
            try:
                partial.mkdir(parents=True)
                file = partial / (MERGED if origin.merged_quant else FILE)
                write(file)
                sync(file)
                record = _record(origin, file)
                write_atomic(partial / RECORD, msgspec.json.format(msgspec.json.encode(record)) + b"\n", sync=True)
                _put_away(folder)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                _delete_put_away(self.root)
        return StoredAdapter(folder, origin.base_id, origin.name, record)

    def remove(self, stored: StoredAdapter) -> int:
        """Delete one; return the bytes freed.

        Raises:
            StoreUnwritable: it cannot be deleted.
        """
        failed = f"{stored.label} cannot be deleted"
        with changing_store(stored.folder, failed, is_new=False), self._locked(stored.folder):
            n_bytes = sum(path.stat().st_size for path in stored.folder.iterdir() if path.is_file())
            _put_away(stored.folder)
            _delete_put_away(self.root)
        with contextlib.suppress(OSError):
            stored.folder.parent.rmdir()  # the base's folder, where this was its last
        return n_bytes

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        def busy() -> None:
            message = f"the adapter {folder.parent.name}:{folder.name} is being written by another process"
            raise UsageError(message, hint="try again later")

        with locked(self.root / ".locks" / f"{folder.parent.name}.{folder.name}.lock", busy):
            yield


def _record(origin: AdapterOrigin, file: Path) -> AdapterRecord:
    if origin.merged_quant:
        model = read_model(file)
        architecture, rank, alpha = model.header.architecture, 0, 0.0
        tensor_bytes, sha256 = model.tensor_bytes, file_hash(str(file))
    else:
        content = gguf_adapter.read(file)
        architecture, rank, alpha = content.architecture, content.rank, content.alpha
        tensor_bytes, sha256 = content.tensor_bytes, content.sha256
    status = file.stat()
    return AdapterRecord(
        name=origin.name, base_id=origin.base_id, base_quant=origin.base_quant, base_sha256=origin.base_sha256,
        base_path=origin.base_path, architecture=architecture, rank=rank, alpha=alpha, tensor_bytes=tensor_bytes,
        bytes=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256, method=origin.method, source=origin.source,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"), figures=dict(origin.figures),
        merged_quant=origin.merged_quant, against=origin.against,
    )  # fmt: skip


def _left_by_others(folder: Path, kind: str) -> list[Path]:
    """What was to become this entry. The name of another may begin with its name and a dot."""
    hidden = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.{kind}")
    return [path for path in folder.parent.glob(f".*.{kind}") if hidden.fullmatch(path.name)]


def _put_away(folder: Path) -> None:
    """Nobody sees a half of it, and what takes its place has its name at once."""
    if folder.exists():
        os.replace(folder, folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.removed"))


def _delete_put_away(root: Path) -> None:
    """Also what a process left that was killed meanwhile: nobody uses any of it."""
    for removed in root.glob("*/.*.removed"):
        shutil.rmtree(removed, ignore_errors=True)


def _is_hidden(folder: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in folder.relative_to(root).parts)


def _read(folder: Path) -> StoredAdapter:
    """The entry as its record is; what is gone or of another size is a problem."""
    try:
        record = read_record(folder / RECORD, AdapterRecord, schema=SCHEMA, max_bytes=_MAX_BYTES)
    except FileNotFoundError as error:
        record = RecordUnreadable(str(folder / RECORD), error.strerror or str(error))
    if not isinstance(record, AdapterRecord):
        return StoredAdapter(folder, folder.parent.name, folder.name, None, record)
    # The folder's name is what the entry is found and removed by.
    stored = StoredAdapter(folder, record.base_id, folder.name, record)
    return replace(stored, problem=size_problem(stored.path, record.bytes))


def _checked(stored: StoredAdapter, *, again: bool = True) -> StoredAdapter:
    """The same, hashed again where the file's time is another one."""
    record = stored.record
    if record is None or stored.problem is not None or stored.path.stat().st_mtime_ns == record.mtime_ns:
        return stored
    sha256 = hash_of([str(stored.path)], again=again)
    problem = None if sha256 == record.sha256 else OtherHash(str(stored.path), sha256, record.sha256)
    return replace(stored, problem=problem)
