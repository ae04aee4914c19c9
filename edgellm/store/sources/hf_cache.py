"""The layout of huggingface_hub's cache: described in its documentation, without functions for it in its API.

    <cache>/
      models--OWNER--REPO/
        blobs/ETAG                           the bytes; the ETag of a large file is its sha256
        snapshots/COMMIT/PATH                a link to the blob
      .locks/models--OWNER--REPO/ETAG.lock   held while the blob is written

tests/store/test_hf_cache.py checks all of it against the huggingface_hub that is installed. Nothing is imported from it
here (0.3 s).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from edgellm.errors import SourceError
from edgellm.files import expanded, write_atomic

_SHA256 = re.compile(r"[0-9a-f]{64}")


def default_root() -> Path:
    """Where huggingface_hub keeps its files: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return expanded(os.path.expandvars(named or os.path.join(home, "hub")))


def blob_of(root: Path, repo: str, etag: str) -> Path:
    """Where the bytes of a file lie."""
    return root / _folder(repo) / "blobs" / etag


def lock_of(root: Path, repo: str, etag: str) -> Path:
    """The lock file that is held while a blob is written."""
    return root / ".locks" / _folder(repo) / f"{etag}.lock"


def link(root: Path, repo: str, etag: str, *, commit: str, name: str, revision: str) -> Path:
    """Make a blob that is there the file `name` of a commit, and the commit what `revision` names; return its path.

    huggingface_hub would ask the hub once more what to link, and believe another answer than the one that was checked.

    Raises:
        SourceError: the name leads out of the commit's folder.
        OSError: the cache cannot be written.
    """
    if not all(part.strip(".") for part in name.split("/")):
        raise SourceError(f"{repo} has a file {name!r}, which is no path within a folder")
    blob, path = blob_of(root, repo, etag), root / _folder(repo) / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if blob.exists():  # not so where the disk has no links, and another process was faster
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        try:
            new.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:
            blob.rename(new)
        new.replace(path)
    if revision != commit:
        ref = root / _folder(repo) / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(ref, commit.encode())
    return path


def remove(root: Path, path: Path) -> None:
    """Remove the file of a snapshot, and the blob that it links to. Links that lead elsewhere are removed alone."""
    target = path.parent / os.readlink(path) if path.is_symlink() else path
    path.unlink(missing_ok=True)
    repo = root / path.relative_to(root).parts[0]
    if Path(os.path.normpath(target)).parent == repo / "blobs":
        Path(os.path.normpath(target)).unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The sha256 of a file in a snapshot, by the name of its blob; "" of a small file, whose blob has another name."""
    name = os.path.basename(os.path.realpath(path))
    return name if _SHA256.fullmatch(name) else ""


def files(root: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """(name of the repository without its owner, path) of every file in a snapshot that ends in `suffix`."""
    for folder in sorted(root.glob("models--*")):
        for path in sorted(folder.glob(f"snapshots/*/**/*{suffix}")):
            if path.exists():
                yield folder.name.rpartition("--")[2], path


def _folder(repo: str) -> str:
    return f"models--{repo.replace('/', '--')}"
