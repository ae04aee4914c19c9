"""What an adapter is pinned to: bytes, not names or times."""

import hashlib
import os
import sys

import pytest
from support.refusals import refuses
from support.waiting import wait_until

from edgellm.errors import BadArtifact
from edgellm.store import content_hash as module
from edgellm.store.content_hash import content_hash
from edgellm.types.model import Artifact


def files(folder, *contents):
    paths = [folder / f"{i}.gguf" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return Artifact("gguf", tuple(map(str, paths)), "m")


def test_of_one_file_and_of_several(tmp_path):
    one = [hashlib.sha256(content).hexdigest() for content in (b"a", b"b")]

    assert content_hash(files(tmp_path, b"a")) == one[0]
    assert content_hash(files(tmp_path, b"a", b"b")) == hashlib.sha256("\n".join(one).encode()).hexdigest()
    assert content_hash(Artifact("gguf", ("gone.gguf",), "m", sha256="cd")) == "cd"


def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    hashed = []
    original = module.file_hash
    monkeypatch.setattr(module, "file_hash", lambda path: hashed.append(path) or original(path))
    artifact = files(tmp_path, b"a")

    first, second = content_hash(artifact), content_hash(artifact)
    (tmp_path / "0.gguf").write_bytes(b"b")
    os.utime(tmp_path / "0.gguf", ns=(1, 1))

    assert first == second
    assert content_hash(artifact) == hashlib.sha256(b"b").hexdigest()
    assert len(hashed) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there it is the time at which a file was made")
@pytest.mark.parametrize("replaced", [False, True])
def test_another_content_with_the_old_size_and_time_is_hashed(replaced, tmp_path):
    artifact = files(tmp_path, b"a")
    path, before = tmp_path / "0.gguf", (tmp_path / "0.gguf").stat()
    content_hash(artifact)

    def change() -> bool:
        """The clock of a file system ticks some hundred times a second."""
        target = tmp_path / "new" if replaced else path
        target.write_bytes(b"b")
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
        target.replace(path)
        return path.stat().st_ctime_ns != before.st_ctime_ns

    wait_until(change)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert content_hash(artifact) == hashlib.sha256(b"b").hexdigest()


def test_a_file_that_is_not_there_is_told(tmp_path):
    with refuses(BadArtifact):
        content_hash(Artifact("gguf", (str(tmp_path / "x.gguf"),), "m"))
