"""Two processes never write into the same partial file, and what a dead one left is gone on with."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.store_server import sha256

from edgellm.contract.source import RemoteFile
from edgellm.store import partial
from edgellm.store.download import download
from edgellm.store.partial import begun_bytes, claim, part_of, release

FILE = RemoteFile("m.gguf", "https://example.com/m.gguf", 100, "a" * 64)

CLAIM = """
import sys
from pathlib import Path
from edgellm.store.partial import claim
from edgellm.contract.source import RemoteFile
claim(RemoteFile("m.gguf", "https://example.com/m.gguf", 100, "a" * 64), Path(sys.argv[1])).write_bytes(b"x" * 40)
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that works on the same file, and has 40 bytes of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path / "m.gguf")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"claimed\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_what_a_living_process_writes_is_left_alone(tmp_path, other):
    target = tmp_path / "m.gguf"
    (theirs,) = tmp_path.iterdir()

    own = claim(FILE, target)

    assert begun_bytes(FILE, target) == 0
    assert own != theirs
    assert theirs.exists()
    assert not own.exists()


def test_what_a_killed_process_left_is_gone_on_with(tmp_path, other):
    target = tmp_path / "m.gguf"
    other.kill()
    other.wait()

    assert begun_bytes(FILE, target) == 40
    own = claim(FILE, target)

    assert list(tmp_path.iterdir()) == [own]
    assert own.stat().st_size == 40


def test_what_another_host_wrote_is_left_alone_for_an_hour(tmp_path, other, monkeypatch):
    target = tmp_path / "m.gguf"
    (theirs,) = tmp_path.iterdir()
    monkeypatch.setattr(partial, "_host", lambda: "0" * 8)
    assert begun_bytes(FILE, target) == 0
    changed = theirs.stat().st_mtime - 2 * 3600
    os.utime(theirs, (changed, changed))
    assert begun_bytes(FILE, target) == 40


def test_of_several_at_once_one_goes_on(tmp_path):
    target = tmp_path / "m.gguf"
    part_of(FILE, target).write_bytes(b"x" * 40)
    at_once = threading.Barrier(8)

    def claim_at_once(_):
        at_once.wait()
        return claim(FILE, target)

    with ThreadPoolExecutor(8) as pool:
        own = list(pool.map(claim_at_once, range(8)))

    assert len(set(own)) == 8
    assert [path.exists() for path in own].count(True) == 1


def test_the_longest_beginning_is_kept_and_those_of_other_files_go(tmp_path):
    target = tmp_path / "m.gguf"
    for name, n_bytes in (("a", 10), ("b", 90)):
        part_of(RemoteFile("m.gguf", bytes=100, sha256=name * 64), target).write_bytes(b"x" * n_bytes)
    (tmp_path / "m.gguf.other").write_bytes(b"not a partial file")

    own = claim(FILE, target)

    assert own.stat().st_size == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([own.name, "m.gguf.other"])
    release(own, FILE, target)
    assert begun_bytes(FILE, target) == 10


def test_downloads_without_a_lock_bring_the_file_both(models, model_bytes, tmp_path):
    """As on file systems where flock does nothing."""
    models.files["o/r/m.gguf"] = model_bytes
    models.pace_s = 0.02
    file = RemoteFile("m.gguf", f"{models.url}/files/o/r/m.gguf", len(model_bytes), sha256(model_bytes))
    with ThreadPoolExecutor(3) as pool:
        hashes = list(pool.map(lambda _: download(file, tmp_path / "m.gguf", lambda n_bytes: None), range(3)))

    assert hashes == [sha256(model_bytes)] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_bytes() == model_bytes
