"""A bundle is a tar that every tar reads, the same bytes whenever it is made, and read back as it was written."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from support import bundles
from support.refusals import refuses

from edgellm.bundle import layout, reader, writer
from edgellm.bundle import manifest as manifests
from edgellm.bundle.manifest import DIGEST, NAME, PIECE, SIGNATURE
from edgellm.bundle.writer import Content
from edgellm.errors import ExpiredBundle, UntrustedBundle, UsageError
from edgellm.store.library import silent


def read_back(path: Path) -> dict[str, bytes]:
    with reader.opened(path) as bundle:
        return {entry.path: b"".join(pieces) for entry, pieces in bundle.files()}


def test_what_was_written_is_read_back(tmp_path):
    files = bundles.contents(3 * PIECE + 5)
    manifest = bundles.make(tmp_path / "x.edgellm", files)

    assert read_back(tmp_path / "x.edgellm") == {content.path: content.data for content in files}
    assert [len(entry.pieces) for entry in manifest.files] == [0, 4, 0, 0, 0]


def test_every_tar_reads_it(tmp_path):
    bundles.make(tmp_path / "x.edgellm")

    with tarfile.open(tmp_path / "x.edgellm") as archive:
        members = archive.getmembers()
        assert [member.name for member in members[:3]] == [NAME, DIGEST, SIGNATURE]
        assert {member.name: member.mode for member in members}["run"] == 0o755
        assert all(member.offset_data % layout.ALIGNED == 0 for member in members)
        archive.extractall(tmp_path / "out", filter="data")
    for content in bundles.contents():
        assert (tmp_path / "out" / content.path).read_bytes() == content.data


@pytest.mark.skipif(shutil.which("sha256sum") is None or shutil.which("tar") is None, reason="needs coreutils and tar")
def test_tar_and_coreutils_check_it_alone(tmp_path):
    bundles.make(tmp_path / "x.edgellm")
    (tmp_path / "out").mkdir()

    subprocess.run(["tar", "-xf", tmp_path / "x.edgellm", "-C", tmp_path / "out"], check=True)
    subprocess.run(["sha256sum", "-c", DIGEST], cwd=tmp_path / "out", check=True, stdout=subprocess.DEVNULL)


def test_it_is_the_same_bytes_each_time(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    bundles.make(first)
    bundles.make(second, list(reversed(bundles.contents())))

    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("path", ["a" * 100, "models/" + "m" * 98, f"{'d' * 80}/{'e' * 70}/{'n' * 80}"])
@pytest.mark.parametrize("n_bytes", [0, 8**11 - 1, 8**11, 2**45])
def test_headers_are_those_of_tar(path, n_bytes):
    """Long paths, and sizes that octal digits cannot hold."""
    member = tarfile.TarInfo.frombuf(layout.opening(3584, path, n_bytes), "ascii", "strict")

    assert (member.name, member.size, member.mtime, member.mode) == (path, n_bytes, layout.MTIME, 0o644)


def test_a_path_that_no_header_holds_is_refused_before_anything_is_written(tmp_path):
    files = [*bundles.contents(), Content.of("x" * 101, b"")]

    with refuses(UsageError):
        bundles.make(tmp_path / "x.edgellm", files)
    assert (tmp_path / "x.edgellm").read_bytes() == b""


def test_a_file_that_changes_meanwhile_is_in_no_bundle(tmp_path):
    (tmp_path / "model").write_bytes(b"old")
    content = Content.of_file("model", tmp_path / "model")
    (tmp_path / "model").write_bytes(b"new")

    with refuses(UsageError), open(tmp_path / "x.edgellm", "wb") as file:
        writer.write(file, bundles.about(), [*bundles.contents(), content], None, silent)


def test_one_that_is_not_signed_is_whole_and_not_trusted(tmp_path):
    bundles.make(tmp_path / "x.edgellm", signed=False)

    with reader.opened(tmp_path / "x.edgellm") as bundle:
        reader.verify(bundle)
    with refuses(UntrustedBundle), reader.opened(tmp_path / "x.edgellm", bundles.PUBLIC):
        pass


def test_it_may_be_used_until_it_expires(tmp_path):
    bundles.make(tmp_path / "x.edgellm", expires="2027-01-31")

    with reader.opened(tmp_path / "x.edgellm") as bundle:
        bundle.require_date("2027-01-30")
        with refuses(ExpiredBundle, expires="2027-01-31"):
            bundle.require_date("2027-01-31")


def test_the_manifest_is_as_long_as_it_was_without_hashes():
    entry = Content.of("a", bytes(3 * PIECE)).entry
    whole = bundles.about(files=(entry,))

    assert len(manifests.encode(whole)) == len(manifests.encode(whole).replace(b"0" * 64, b"f" * 64))


def test_what_follows_is_not_read_as_a_part_of_it():
    with refuses(manifests.BadArtifact):
        reader.expect(io.BytesIO(hashlib.sha256(b"").digest()), b"x" * 32)
