"""The model hub, through huggingface_hub: its cache is shared, its endpoint, token and offline settings hold.

    hf://OWNER/REPO/PATH/FILE.gguf      one file; one part of a split file stands for all
    hf://OWNER/REPO:QUANT               the file (or parts) of that quantization
    hf://OWNER/REPO/onnx/FILE.onnx      an ONNX graph, with its data, tokenizer and configuration
    hf://OWNER/REPO@REVISION...         of a branch, tag or commit instead of main

huggingface_hub has the token, the endpoint and the errors; `store.http` asks, and the bytes come through
`store.download`: its own client waits for headers without end, and its own downloads start over after a kill, have no
rate limit, and believe any ETag to be the name of a file. A blob that is whole gets
its name in the hub's cache, under the hub's own lock, and a link as `hf_cache` describes: downloaded once for every
tool on the machine.
"""

from __future__ import annotations

import contextlib
import errno
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from edgellm import settings
from edgellm.contract.source import FetchedFile, Progress, RemoteFile
from edgellm.errors import (
    DiskFull,
    EdgeLLMError,
    IntegrityError,
    SourceError,
    SourceUnreachable,
    UnknownModel,
    UsageError,
)
from edgellm.files import FULL, SPARE_BYTES, nearest_existing
from edgellm.store import http
from edgellm.store.address import redacted
from edgellm.store.download import download, total_of
from edgellm.store.names import parts_of
from edgellm.store.partial import begun_bytes
from edgellm.store.sources import hf_cache, hub_request
from edgellm.store.sources.hub_files import ONNX, HubUri, choose_files, firsts, parse_hub_uri
from edgellm.store.sources.hub_listing import ListedFile, Listing
from edgellm.units import show_size

T = TypeVar("T")
_CACHED_S = 60.0
_HINT = "accept its licence on the hub's page, then `hf auth login`"


class Hub:
    """Scheme `hf`."""

    scheme = "hf"

    @property
    def cache(self) -> Path:
        """Where its files lie, instead of in the store."""
        return hf_cache.default_root()

    def __init__(self) -> None:
        self._answers: dict[str, tuple[float, str]] = {}  # by endpoint: when it was asked, and why it did not answer

    def reachable(self, timeout_s: float, uri: str = "") -> str:
        """A HEAD request to the endpoint; at most 3 s, kept for a minute.

        In a thread of its own: a name lookup on a dead network has no timeout that can be set.

        Raises:
            SourceError: `uri` is no address of the hub, whatever answers.
        """
        if uri:
            parse_hub_uri(uri)
        if settings.current().offline:
            return "EDGELLM_OFFLINE is set"
        import httpx2  # noqa: F401 - loaded before the clock starts: slow processors
        from huggingface_hub import constants

        endpoint = constants.ENDPOINT
        asked_at, answer = self._answers.get(endpoint, (-math.inf, ""))
        if time.monotonic() - asked_at < _CACHED_S:
            return answer
        limit_s = min(timeout_s, 3.0)
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(_head(limit_s)), daemon=True)
        asking.start()
        asking.join(limit_s)
        answer = answers[0] if answers else f"the model hub did not answer within {limit_s:.0f} s"
        self._answers[endpoint] = (time.monotonic(), answer)
        return answer

    def needs(self, folder: Path, n_bytes: int) -> list[tuple[Path, int]]:
        """Nothing in `folder`. What the hub's cache needs is checked when it is known what it has already."""
        return []

    def names_several(self, uri: str) -> bool:
        """Whether it names neither file nor quantization."""
        where = parse_hub_uri(uri)
        return not (where.file or where.quant)

    def variants(self, uri: str) -> list[list[RemoteFile]]:
        """Every model of the repository that `uri` names without a file or quantization: its parts, from one listing.

        Raises:
            As `resolve`.
        """
        where = parse_hub_uri(uri)
        with _hub_errors(uri):
            if _is_offline():
                names = _cached_names(where)
                return [[_cached(where, part) for part in parts_of(name)] for name in firsts(names)]
            listed = {file.path: file for file in _tree(where)}
            return [[_listed(where, listed[part]) for part in parts_of(name)] for name in firsts(list(listed))]

    def resolve(self, uri: str) -> list[RemoteFile]:
        """The file or its parts: in the hub's cache where they are, else at its endpoint. Without network, the first.

        Raises:
            UnknownModel, SourceError and its kinds.
        """
        return [file for file, _ in self._resolved(parse_hub_uri(uri), uri)]

    def _resolved(self, where: HubUri, uri: str) -> list[tuple[RemoteFile, str]]:
        """Files, each with its commit; "" of those that are taken from the cache without asking."""
        with _hub_errors(uri):
            offline = _is_offline()
            if where.file and not where.file.endswith(ONNX):
                names = parts_of(where.file)
            else:
                names = choose_files(_cached_names(where) if offline else [file.path for file in _tree(where)], where)
            return [(_cached(where, name), "") if offline else _described(where, name) for name in names]

    def fetch(self, uri: str, folder: Path, *, n_bytes: int | None, progress: Progress) -> list[FetchedFile]:
        """Paths in the hub's cache, in order. Without network, what the cache holds already."""
        where = parse_hub_uri(uri)
        resolved = self._resolved(where, uri)
        files = [file for file, _ in resolved]
        total = total_of(files, n_bytes)
        with _hub_errors(uri):
            _check_space(where, files)
            fetched, done = [], 0
            for file, commit in resolved:

                def report(here: int, before: int = done) -> None:
                    progress(before + here, total, where.repo)

                fetched.append(_brought(where, file, commit, report))
                done += file.bytes or 0
            return fetched

    def discard(self, paths: Sequence[Path]) -> None:
        """Remove wrong files from the hub's cache: the link that names one, and the blob it points to."""
        for path in paths:
            hf_cache.remove(_root(), path)


def _head(timeout_s: float) -> str:
    """ "" or the reason, from one request to the endpoint."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        with http.request("HEAD", constants.ENDPOINT, {}, timeout_s=timeout_s) as response:
            status = response.status
    except SourceError as error:
        hub = f"the model hub ({redacted(constants.ENDPOINT)})"
        return f"{hub} cannot be reached{http.through(constants.ENDPOINT)}: {http.reason_of(error)}"
    return f"the model hub answers with status {status}" if status >= 500 else ""


def _is_offline() -> bool:
    from huggingface_hub import constants

    return settings.current().offline or bool(constants.HF_HUB_OFFLINE)


def _tree(where: HubUri) -> list[ListedFile]:
    """The repository's files, those left out whose names could lead out of a folder."""
    return _patiently(Listing(where.repo, where.revision or "", _headers()).files)


def _patiently(ask: Callable[[], T]) -> T:
    """The answer; a hub that is busy is asked again a few times."""
    from huggingface_hub.errors import HfHubHTTPError

    for no in range(http.TRIES - 1):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in http.BUSY:
                raise
        time.sleep(http.BACKOFF_S * 2**no)
    return ask()


def _listed(where: HubUri, file: ListedFile) -> RemoteFile:
    """A file as the listing describes it."""
    return replace(_at(where, file.path), bytes=file.size, sha256=file.sha256)


def _at(where: HubUri, name: str) -> RemoteFile:
    """The address of a file, and the token for the endpoint."""
    from huggingface_hub import constants

    revision = quote(where.revision or "main", safe="")
    url = f"{constants.ENDPOINT}/{where.repo}/resolve/{revision}/{quote(name)}"
    return RemoteFile(name, url, headers=_headers(), hint=_HINT)


def _headers() -> dict[str, str]:
    """The token for the endpoint, where there is one."""
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _described(where: HubUri, name: str) -> tuple[RemoteFile, str]:
    """A file with its size and hash as the hub states them now, its path if the cache has it, and its commit."""
    from huggingface_hub import try_to_load_from_cache

    file = _at(where, name)
    told = _patiently(lambda: hub_request.describe(file.url, file.headers))
    etag, commit = told.etag, told.commit  # both become names of files
    if not (re.fullmatch(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}", etag) and re.fullmatch(r"[0-9a-f]{40}", commit)):
        raise SourceError(
            f"{redacted(file.url)} is not described as the hub describes files", hint="is HF_ENDPOINT right?"
        )
    path = try_to_load_from_cache(where.repo, name, revision=commit)
    # The ETag of a large file is its sha256; of a small one a git hash, which says nothing of the bytes.
    sha256 = etag.lower() if len(etag) == 64 else ""
    cached = Path(path) if isinstance(path, str) else None
    if cached is not None and told.bytes is not None and cached.stat().st_size != told.bytes:
        cached = None
    return replace(file, bytes=told.bytes, sha256=sha256, etag=etag, path=cached), commit


def _cached(where: HubUri, name: str) -> RemoteFile:
    """A file of the hub's cache. The name of its blob is its sha256."""
    from huggingface_hub import try_to_load_from_cache

    # Not `hf_hub_download(local_files_only=True)`: that asks the endpoint which agents there are.
    cached = try_to_load_from_cache(where.repo, name, revision=where.revision)
    if not isinstance(cached, str):
        raise SourceUnreachable(f"{where.repo}/{name} is not in the hub's cache, and the network is not to be used")
    path = Path(cached)
    return RemoteFile(name, _at(where, name).url, path.stat().st_size, hf_cache.sha256_of(path), path=path)


def _root() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _brought(where: HubUri, file: RemoteFile, commit: str, report: Callable[[int], None]) -> FetchedFile:
    """A file, downloaded where the hub's cache has it not; waits where another process, of any tool, is at it."""
    from filelock import FileLock

    if file.path is not None:
        return FetchedFile(file.path, file.sha256)
    blob = hf_cache.blob_of(_root(), where.repo, file.etag)
    lock = hf_cache.lock_of(_root(), where.repo, file.etag)
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        written_sha256 = "" if blob.exists() else download(file, blob, report)
        revision = where.revision or "main"
        path = hf_cache.link(_root(), where.repo, file.etag, commit=commit, name=file.name, revision=revision)
    return FetchedFile(path, file.sha256, written_sha256)


def _check_space(where: HubUri, files: Sequence[RemoteFile]) -> None:
    root, missing = _root(), 0
    for file in files:
        if file.path is None and not (blob := hf_cache.blob_of(root, where.repo, file.etag)).exists():
            missing += (file.bytes or 0) - begun_bytes(file, blob)
    place = nearest_existing(root)
    free = shutil.disk_usage(place).free
    if missing and missing + SPARE_BYTES > free:
        raise DiskFull(
            f"the download needs {show_size(missing)} in {place}, {show_size(free)} are free",
            hint="free space, or set HF_HOME to a folder on another disk",
        )


def _cached_names(where: HubUri) -> list[str]:
    """Files of the repository that the hub's cache holds."""
    from huggingface_hub import errors, scan_cache_dir

    names: list[str] = []
    with contextlib.suppress(errors.CacheNotFound):  # nothing was ever fetched
        names = [
            str(file.file_path.relative_to(revision.snapshot_path).as_posix())
            for repo in scan_cache_dir().repos
            if repo.repo_id == where.repo
            for revision in repo.revisions
            for file in revision.files
        ]
    if not names:
        raise SourceUnreachable(f"{where.repo} is not in the hub's cache, and the network is not to be used")
    return names


@contextlib.contextmanager
def _hub_errors(uri: str) -> Iterator[None]:
    """Errors of huggingface_hub and its HTTP client as ours."""
    from huggingface_hub import errors

    try:
        yield
    except EdgeLLMError:
        raise
    except errors.GatedRepoError as error:
        raise SourceError(f"{uri} needs its licence to be accepted", hint=_HINT) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise UnknownModel(f"{uri} does not exist on the hub", hint="a private one needs `hf auth login`") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise SourceError(f"{uri}: the hub refuses access (status {status})", hint=_HINT) from error
        raise SourceUnreachable(f"{uri}: the hub answers with status {status}", hint="try again later") from error
    except Exception as error:
        if "Consistency check failed" in str(error):
            raise IntegrityError(f"{uri} arrived incomplete: {error}", hint="fetch it again") from error
        if isinstance(error, OSError) and error.errno in FULL:
            raise DiskFull(f"the disk was full while {uri} was fetched", hint="set HF_HOME to another disk") from error
        if isinstance(error, OSError) and (error.errno == errno.EFBIG or error.filename):
            raise UsageError(
                f"the hub's cache cannot be written: {error}",
                hint="check its permissions and `ulimit -f`, or set HF_HOME to a folder on another disk",
            ) from error
        reason = f"{type(error).__name__}: {error}"
        raise SourceUnreachable(
            f"{uri} could not be fetched from the hub: {reason}", hint="check the network"
        ) from error
