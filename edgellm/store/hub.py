"""The model hub, through huggingface_hub: its cache is shared, its endpoint, token and offline settings hold.

    hf://OWNER/REPO/PATH/FILE.gguf      one file; naming one part of a split file brings all of them
    hf://OWNER/REPO:QUANT               the file (or parts) of that quantization
    hf://OWNER/REPO@REVISION...         of a branch, tag or commit instead of main

Files stay in the hub's cache and are used there: downloaded once for every tool on the machine, resumed after a kill.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from edgellm import settings
from edgellm.errors import DiskFull, EdgeLLMError, IntegrityError, SourceError, SourceUnreachable, UnknownModel
from edgellm.store.sources import Fetched, Progress
from edgellm.units import show_size

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_URI = re.compile(
    r"hf://(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*?)(?:@(?P<revision>[\w.-]+))?(?::(?P<quant>[\w-]+)|/(?P<file>[^:#?\\]+))"
)
_PART = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)")
_CACHED_S = 60.0
_NOT_MODELS = re.compile(r"(^|[-._/])(mmproj|imatrix|mtp|draft)([-._]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubUri:
    """What a `hf://` URI names: one of `file` and `quant` is set."""

    repo: str
    revision: str | None
    file: str
    quant: str


class Hub:
    """Scheme `hf`."""

    scheme = "hf"

    def __init__(self) -> None:
        self._answer: tuple[float, str] = (-_CACHED_S, "")

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        """A HEAD request to the endpoint with the client that downloads use; at most 3 s, kept for a minute.

        In a thread of its own: a name lookup on a dead network has no timeout that can be set.
        """
        if settings.offline():
            return "EDGELLM_OFFLINE is set"
        asked_at, answer = self._answer
        if time.monotonic() - asked_at < _CACHED_S:
            return answer
        from huggingface_hub import constants, get_session  # noqa: F401 - loaded before the clock starts: slow processors

        limit_s = min(timeout_s, 3.0)
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(_head(limit_s)), daemon=True)
        asking.start()
        asking.join(limit_s)
        answer = answers[0] if answers else f"the model hub did not answer within {limit_s:.0f} s"
        self._answer = (time.monotonic(), answer)
        return answer

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        """The space is taken in the hub's cache."""
        from huggingface_hub import constants

        cache = Path(constants.HF_HUB_CACHE)
        return [(next(path for path in (cache, *cache.parents) if path.exists()), n_bytes)]

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[Fetched]:
        """Paths in the hub's cache, in order. Without network, what the cache holds already."""
        from huggingface_hub import constants, hf_hub_download

        where = parse(uri)
        offline = settings.offline() or constants.HF_HUB_OFFLINE
        with _hub_errors(uri):
            if offline:
                names = parts_of(where.file) if where.file else _cached_names(where)
                return [
                    Fetched(Path(hf_hub_download(where.repo, name, revision=where.revision, local_files_only=True)))
                    for name in names
                ]
            names = parts_of(where.file) if where.file else choose(_list(where), where)
            found = [_metadata(where, name) for name in names]
            total = sum(metadata.size or 0 for metadata in found)
            if n_bytes is not None and total and total != n_bytes:
                raise IntegrityError(f"{uri} has {total} bytes on the hub, {n_bytes} were promised")
            self._check_space(total, folder)
            meter = _meter(progress, total or n_bytes, where.repo)
            return [
                Fetched(
                    Path(hf_hub_download(where.repo, name, revision=where.revision, tqdm_class=meter)),
                    _sha256_of(metadata),
                )
                for name, metadata in zip(names, found, strict=True)
            ]

    def discard(self, paths: Sequence[Path]) -> None:
        """Remove wrong files from the hub's cache: the link that names one, and the blob it points to."""
        for path in paths:
            blob = path.resolve()
            path.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)

    def _check_space(self, total: int, folder: Path) -> None:
        import shutil

        for where, needed in self.needs(folder, total):
            free = shutil.disk_usage(where).free
            if needed > free:
                raise DiskFull(
                    f"the download needs {show_size(needed)} in {where}, {show_size(free)} are free",
                    hint="free space, or set HF_HOME to a folder on another disk",
                )


def parse(uri: str) -> HubUri:
    """
    Raises:
        SourceError: not a `hf://` URI of a file or a quantization.
    """
    match = _URI.fullmatch(uri)
    if match is None or ".." in (match["file"] or "").split("/"):
        raise SourceError(f"{uri!r} is no hub source", hint="write hf://OWNER/REPO/FILE.gguf or hf://OWNER/REPO:QUANT")
    return HubUri(match["repo"], match["revision"], match["file"] or "", match["quant"] or "")


def parts_of(name: str) -> list[str]:
    """`x-00002-of-00003.gguf` -> all three names; any other name -> itself."""
    match = _PART.search(name)
    if match is None:
        return [name]
    count = int(match[2])
    if not 1 <= int(match[1]) <= count <= 1024:
        raise SourceError(f"{name!r} cannot be a part of a split file")
    return [f"{name[: match.start()]}-{no:05d}-of-{count:05d}.gguf" for no in range(1, count + 1)]


def choose(names: Sequence[str], where: HubUri) -> list[str]:
    """The repository's files of one quantization: all parts, in order.

    Where several models match (a plain one and a hand-made mix), the one with the shortest name.

    Raises:
        UnknownModel: no file of that quantization; says which there are.
    """
    models = [name for name in names if name.lower().endswith(".gguf") and not _NOT_MODELS.search(name)]
    wanted = re.compile(rf"(^|[-._/]){re.escape(where.quant)}(?=[-.]|$)", re.IGNORECASE)
    matching = [name for name in models if wanted.search(_PART.sub("", name)[: -len(".gguf")])]
    if not matching:
        have = ", ".join(sorted(PurePosixPath(name).name for name in models)[:12]) or "no GGUF file at all"
        raise UnknownModel(f"{where.repo} has no file of quantization {where.quant}", hint=f"it has: {have}")
    parts = parts_of(min(matching, key=lambda name: (len(_PART.sub("", name)), name)))
    missing = [part for part in parts if part not in names]
    if missing:
        raise SourceError(f"{where.repo} lacks {len(missing)} of {len(parts)} parts: {', '.join(missing[:3])}")
    return parts


def _head(timeout_s: float) -> str:
    """ "" or the reason, from one request to the endpoint."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        status = get_session().head(constants.ENDPOINT, timeout=timeout_s).status_code
    except Exception as error:  # whatever the client's transport raises, the hub was not reached
        return f"the model hub cannot be reached: {str(error) or type(error).__name__}"
    return f"the model hub answers with status {status}" if status >= 500 else ""


def _list(where: HubUri) -> list[str]:
    from huggingface_hub import HfApi

    return list(HfApi().list_repo_files(where.repo, revision=where.revision))


def _cached_names(where: HubUri) -> list[str]:
    """Files of the quantization that the hub's cache holds."""
    from huggingface_hub import scan_cache_dir

    names = [
        str(file.file_path.relative_to(revision.snapshot_path).as_posix())
        for repo in scan_cache_dir().repos
        if repo.repo_id == where.repo
        for revision in repo.revisions
        for file in revision.files
    ]
    if not names:
        raise SourceUnreachable(f"{where.repo} is not in the hub's cache, and the network is not to be used")
    return choose(names, where)


def _metadata(where: HubUri, name: str) -> HfFileMetadata:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(where.repo, name, revision=where.revision))


def _sha256_of(metadata: HfFileMetadata) -> str:
    """The hub's ETag of a large file is its sha256; of a small one a git hash, which says nothing here."""
    etag = metadata.etag or ""
    return etag.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", etag) else ""


def _meter(progress: Progress, total: int | None, what: str) -> Any:
    """A tqdm class that reports to `progress`, summed over the files of one model."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    done = 0

    class Meter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            nonlocal done
            done += int(kwargs.get("initial") or 0)
            super().__init__(*args, **kwargs | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal done
            done += int(n or 0)
            progress(done, total, what)
            return None

    return Meter


@contextlib.contextmanager
def _hub_errors(uri: str) -> Iterator[None]:
    """Errors of huggingface_hub and its HTTP client as ours."""
    from huggingface_hub import errors

    try:
        yield
    except EdgeLLMError:
        raise
    except errors.GatedRepoError as error:
        hint = "accept its licence on the hub's page, then `hf auth login`"
        raise SourceError(f"{uri} needs its licence to be accepted", hint=hint) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise UnknownModel(f"{uri} does not exist on the hub", hint="a private one needs `hf auth login`") from error
    except errors.HfHubHTTPError as error:
        raise SourceUnreachable(f"{uri}: the hub answers {error}", hint="try again later") from error
    except errors.LocalEntryNotFoundError as error:
        raise SourceUnreachable(f"{uri} is not in the hub's cache and the hub cannot be reached") from error
    except Exception as error:
        if "Consistency check failed" in str(error):
            raise IntegrityError(f"{uri} arrived incomplete: {error}", hint="fetch it again") from error
        if isinstance(error, OSError) and error.errno == 28:
            raise DiskFull(f"the disk was full while {uri} was fetched", hint="set HF_HOME to another disk") from error
        reason = f"{type(error).__name__}: {error}"
        raise SourceUnreachable(
            f"{uri} could not be fetched from the hub: {reason}", hint="check the network"
        ) from error
