"""A delta makes the new bundle of the old one, byte for byte, or nothing."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from minisign import KeyPair
from support import bundles
from support.refusals import check_refusal, refuses

from edgellm.bundle import delta, reader
from edgellm.bundle.delta import MAGIC, NEW, BundleFile, DeltaHead, SlotFiles
from edgellm.bundle.slots import SlotRecord, Slots
from edgellm.bundle.unpack import unpack
from edgellm.bundle.writer import Content
from edgellm.cli.main import cli
from edgellm.errors import BadArtifact, ExpiredBundle, UnsupportedArtifact, UntrustedBundle, UsageError
from edgellm.store.library import silent

MODEL = random.Random(5).randbytes(3_000_000)


def make(path: Path, model: bytes, **changes: Any) -> Path:
    content = Content.of(f"{bundles.FOLDER}/toy.gguf", model)
    bundles.make(path, [*bundles.contents()[:2], content], **changes)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return make(tmp_path / "old", MODEL)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """As if a word in the model's metadata had grown."""
    return make(tmp_path / "new", MODEL[:1000] + b"word" * 16 + MODEL[1000:], release=2)


def made(old: Path, new: Path) -> bytes:
    file = io.BytesIO()
    delta.make(old, new, file, silent)
    return file.getvalue()


def patched(old: Path, content: bytes) -> bytes:
    file, target = io.BytesIO(content), io.BytesIO()
    head = delta.read_head(file)
    with reader.opened(old) as bundle:
        delta.put_together(BundleFile(bundle), file, head, target, silent)
    return target.getvalue()


def headed(content: bytes, **changes: Any) -> bytes:
    file = io.BytesIO(content)
    head = json.loads(msgspec.json.encode(delta.read_head(file))) | changes
    text = json.dumps(head).encode()
    return MAGIC + len(text).to_bytes(8, "big") + text + file.read()


def test_it_makes_the_new_bundle_of_the_old_one(old, new):
    content = made(old, new)

    assert patched(old, content) == new.read_bytes()
    assert len(content) < 0.05 * len(MODEL)


def test_one_that_no_machine_would_read_is_not_made(old, new, monkeypatch):
    monkeypatch.setattr(delta, "MAX_STEPS", 1)

    with refuses(UsageError, param="new"):
        made(old, new)


def test_the_same_bundle_is_next_to_nothing(old):
    assert len(made(old, old)) < 500


def test_what_has_nothing_in_common_is_carried_whole(old, tmp_path):
    other = make(tmp_path / "other", random.Random(6).randbytes(3_000_000))

    assert patched(old, made(old, other)) == other.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="links of a POSIX system")
def test_a_slot_is_enough(old, new, tmp_path):
    """The bundle that was installed is not kept; its bytes follow from the slot's files."""
    two = Slots(tmp_path / "root")
    two.clear(slot := two.spare())
    with reader.opened(old) as bundle:
        unpack(bundle, slot.files, silent)
    two.activate(two.finish(slot, SlotRecord(name="box", release=1, sha256=bundle.sha256, target="box")))
    files, content = SlotFiles(slot), old.read_bytes()

    assert files.read_at(0, len(content) + 1) == content
    for at in (0, 511, 4095, 4096, 1_000_000, len(content) - 1024, len(content)):
        assert files.read_at(at, 5000) == content[at : at + 5000]
    (tmp_path / "delta").write_bytes(made(old, new))
    arguments = [
        "bundle",
        "patch",
        tmp_path / "delta",
        "-o",
        tmp_path / "out",
        "--root",
        tmp_path / "root",
        "--json",
        "--unsigned",
    ]
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exception is None, result.output
    assert (tmp_path / "out").read_bytes() == new.read_bytes()


def test_both_are_commands(old, new, tmp_path):
    path, key = tmp_path / "delta", bundles.PUBLIC.to_base64().decode()
    for arguments in (
        ["diff", old, new, "-o", path, "--json"],
        ["patch", path, "--old", old, "-o", tmp_path / "out", "--key", key, "--root", tmp_path / "root"],
    ):
        result = CliRunner().invoke(cli, ["bundle", *map(str, arguments)])
        assert result.exception is None, result.output
    assert (tmp_path / "out").read_bytes() == new.read_bytes()
    command = f"edgellm bundle install {tmp_path / 'out'} --key {key} --root {tmp_path / 'root'}"
    assert f"Install it: {command}" in " ".join(result.output.split())


def test_another_bundle_than_it_was_made_for_is_refused(old, new):
    with refuses(UsageError, param="delta", varies=r"[0-9a-f]{16}"):
        patched(new, made(old, new))


def test_nothing_is_written_where_it_fails(old, new, tmp_path):
    content = made(old, new)
    (tmp_path / "delta").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    arguments = ["bundle", "patch", tmp_path / "delta", "--old", old, "-o", tmp_path / "out", "--unsigned"]
    result = CliRunner().invoke(cli, list(map(str, arguments)))

    check_refusal(result.exception, BadArtifact)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "new", "old"]


def judged(old: Path, content: bytes, key: Any = None) -> int:
    """Bytes that were asked of the old bundle."""
    asked: list[int] = []

    class Counting(BundleFile):
        def read_at(self, offset: int, n_bytes: int) -> bytes:
            asked.append(n_bytes)
            return super().read_at(offset, n_bytes)

    file = io.BytesIO(content)
    head = delta.read_head(file)
    at = file.tell()
    with reader.opened(old) as bundle:
        delta.judge(Counting(bundle), file, head, Path("a.delta"), key)
    assert file.tell() == at
    return sum(asked)


def test_what_it_would_make_is_judged_by_its_beginning(old, new, tmp_path, monkeypatch):
    other = make(tmp_path / "other", MODEL, expires="2020-01-01", release=3)
    unsigned = make(tmp_path / "unsigned", MODEL, signed=False)
    monkeypatch.setattr(delta, "MAX_BEGIN_BYTES", 64 * 1024)

    assert judged(old, made(old, new), bundles.PUBLIC) < len(MODEL)
    with refuses(ExpiredBundle):
        judged(old, made(old, other))
    with refuses(UntrustedBundle):
        judged(old, made(old, unsigned), bundles.PUBLIC)
    with refuses(UntrustedBundle):
        judged(old, made(old, new), KeyPair.generate().public_key)
    with refuses(UsageError, param="delta", varies=r"[0-9a-f]{16}"):
        judged(new, made(old, new))


@pytest.mark.parametrize("changes", [{"new": "0" * 64}, {"steps": "longer"}])
def test_a_signed_beginning_speaks_for_no_other_bundle(old, new, changes):
    """As of the manifest of a small bundle, with the same old bytes behind it again and again."""
    content = made(old, new)
    if changes.get("steps"):
        head = delta.read_head(io.BytesIO(content))
        more = [[0, 1_000_000]] * 500
        changes = {"steps": [*head.steps, *more], "new_bytes": head.new_bytes + 500_000_000}

    with refuses(BadArtifact):
        judged(old, headed(content, **changes), bundles.PUBLIC)


@pytest.mark.parametrize("way", [[], ["--key", "PUBLIC"]])
def test_nothing_is_written_of_one_that_is_not_trusted(old, tmp_path, way, monkeypatch):
    new = make(tmp_path / "new", MODEL, signed=False, release=2)
    (tmp_path / "delta").write_bytes(made(old, new))
    monkeypatch.setattr(delta, "put_together", lambda *_: pytest.fail("it is put together"))
    key = [bundles.PUBLIC.to_base64().decode() if word == "PUBLIC" else word for word in way]
    arguments = ["bundle", "patch", tmp_path / "delta", "--old", old, "-o", tmp_path / "out", *key]
    result = CliRunner().invoke(cli, list(map(str, arguments)))

    check_refusal(result.exception, UntrustedBundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta", "new", "old"]


def test_which_of_two_bundles_is_not_sound_is_told(old, tmp_path):
    (tmp_path / "damaged").write_bytes(b"damaged")
    for pair in ((old, tmp_path / "damaged"), (tmp_path / "damaged", old)):
        with refuses(BadArtifact) as error:
            delta.make(*pair, io.BytesIO(), silent)
        assert error.value.message.startswith(f"{tmp_path}/damaged: ")


def test_a_file_that_is_there_is_told_before_anything_is_compared(old, new, tmp_path, monkeypatch):
    (tmp_path / "out").touch()
    monkeypatch.setattr(delta, "make", lambda *_: pytest.fail("they are compared"))
    result = CliRunner().invoke(cli, ["bundle", "diff", str(old), str(new), "-o", str(tmp_path / "out")])

    check_refusal(result.exception, UsageError, param="output")


def test_any_flipped_byte_is_noticed(old, new):
    content, rng = made(old, new), random.Random(2)
    head_end = content.index(b"}") + 1
    for at in [*range(0, head_end, 3), *(rng.randrange(len(content)) for _ in range(40))]:
        flipped = content[:at] + bytes([content[at] ^ (1 << rng.randrange(7))]) + content[at + 1 :]
        with contextlib.suppress(BadArtifact, UnsupportedArtifact, UsageError):
            # Names of fields with a default and the new manifest's hash, by which nothing is read.
            assert patched(old, flipped) == new.read_bytes()


HOSTILE: dict[str, dict[str, Any]] = {
    "behind-the-end": {"steps": [[2**40, 1]], "new_bytes": 1},
    "too-much": {"steps": [[0, 2**40]], "new_bytes": 2**40},
    "does-not-add-up": {"new_bytes": 5},
    "negative": {"steps": [[-2, 5]], "new_bytes": 5},
    "nothing": {"steps": [[NEW, 0]], "new_bytes": 0},
    "more-than-there-is": {"steps": [[NEW, 2**40]], "new_bytes": 2**40},
    "no-hash": {"sha256": "x"},
    "steps-without-end": {"steps": [[0, 1]] * (delta.MAX_STEPS + 1), "new_bytes": delta.MAX_STEPS + 1},
    "long": {"more": " " * delta.MAX_HEAD_BYTES},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_head_is_refused(name, old, new):
    with refuses(BadArtifact):
        patched(old, headed(made(old, new), **HOSTILE[name]))


@pytest.mark.parametrize(
    "content", [b"", b"hello", MAGIC, MAGIC + b"\xff" * 8, MAGIC + (3).to_bytes(8, "big") + b"[[["], ids=range(5)
)
def test_what_is_no_delta_is_refused(content, old):
    with refuses(BadArtifact):
        patched(old, content)


def test_a_delta_of_a_newer_version_says_so(old):
    with refuses(UnsupportedArtifact):
        patched(old, b"edgellm-delta 2\n" + (2).to_bytes(8, "big") + b"{}")


def test_steps_are_as_few_as_they_can_be(old, new):
    head: DeltaHead = delta.read_head(io.BytesIO(made(old, new)))

    assert all(
        not (a == b == NEW or (NEW not in (a, b) and a + n == b)) for (a, n), (b, _) in itertools.pairwise(head.steps)
    )
