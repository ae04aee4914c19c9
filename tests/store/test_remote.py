"""The header of a file that is not here: how little is read for it, and what it is not believed."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from support import gguf_writer as w
from support.refusals import refuses
from support.store_server import sha256

from edgellm.contract.source import RemoteFile
from edgellm.errors import BadArtifact, IntegrityError, SourceError, SourceUnreachable, UnsupportedArtifact
from edgellm.formats.gguf import summary
from edgellm.formats.gguf.header import parse_gguf
from edgellm.store import remote
from edgellm.store.remote import FIRST_BYTES, FileHead, header_of

MIB = 1024**2
VOCABULARY = b"".join(struct.pack("<Q", 7) + b"%07d" % i for i in range(262_144))  # 3.9 MB


@pytest.fixture(scope="module")
def big():
    """A model of 48 MB whose header has 4 MB."""
    made = w.model()
    made.keys.append(("a.tokens", w.ARRAY, struct.pack("<IQ", w.STRING, 262_144) + VOCABULARY))
    n = 40 * MIB // 34 * 32 // 64
    made.tensors.append(w.Tensor("blk.0.ffn_up.weight", (64, n), w.Q8_0, 64 * n // 32 * 34))
    return made.build()


def at(models, data, **changed):
    models.files["o/r/x.gguf"] = data
    return RemoteFile("x.gguf", f"{models.url}/files/o/r/x.gguf", **changed)


def test_the_header_is_read_in_windows_that_grow(models, big):
    header, file = header_of(at(models, big))

    here = parse_gguf(big, file_bytes=len(big), where="here")
    assert header.tensors == here.tensors
    assert (file.bytes, file.etag) == (len(big), f'"{sha256(big)}"')
    assert models.ranges() == [f"bytes=0-{FIRST_BYTES - 1}", f"bytes={FIRST_BYTES}-{4 * FIRST_BYTES - 1}"]
    assert models.body_bytes() == 4 * MIB  # 4.3 times less than it could have been, 12 less than the file


def test_a_small_header_takes_one_request_and_no_more_than_the_file(models, model_bytes):
    header_of(at(models, model_bytes))

    assert models.body_bytes() == len(model_bytes)
    assert len(models.seen) == 1


def test_a_server_that_ignores_range_is_read_as_far_as_the_header_goes(models, big):
    models.mode = "no-range"

    header, file = header_of(at(models, big))

    assert (len(header.tensors), file.bytes) == (3, len(big))
    assert len(models.seen) == 1
    assert models.body_bytes() < len(big) // 2  # what the sockets between hold is sent, too


def test_a_summary_is_read_once_while_the_etag_stays(models, big):
    file = at(models, big, sha256=sha256(big), bytes=len(big))
    first, _ = remote.summary_of([file])
    n_requests = len(models.seen)

    assert remote.summary_of([file])[0] == first
    assert len(models.seen) == n_requests

    remote.summary_of([replace(file, sha256="0" * 64)])
    assert len(models.seen) > n_requests


def test_without_hash_and_etag_nothing_is_kept(models, model_bytes, monkeypatch):
    monkeypatch.setattr(summary, "keep", None)

    remote.summary_of([at(models, model_bytes)])


@pytest.mark.parametrize(
    ("mode", "changed", "error"),
    [
        pytest.param("well", {"bytes": 100}, IntegrityError, id="another size"),
        pytest.param("shorter", {}, BadArtifact, id="a short file"),
        pytest.param("html", {}, BadArtifact, id="a page"),
        pytest.param("cut", {"bytes": 280640}, SourceUnreachable, id="a cut connection"),
        pytest.param("gzip", {}, SourceError, id="packed"),
        pytest.param("416", {}, BadArtifact, id="empty"),
    ],
)
def test_what_is_not_believed(models, model_bytes, mode, changed, error):
    models.mode = mode

    with refuses(error):
        header_of(at(models, model_bytes, **changed))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_versions_and_byte_orders(models, order, version):
    header, _ = header_of(at(models, replace(w.model(), order=order, version=version).build()))

    assert (header.version, header.big_endian, len(header.tensors)) == (version, order == ">", 2)


@pytest.mark.parametrize("version", [1, 4])
def test_other_versions_are_refused(models, version):
    with refuses(BadArtifact):
        header_of(at(models, replace(w.model(), version=version).build()))


def test_a_type_that_nobody_knows_is_refused(models):
    with refuses(UnsupportedArtifact):
        header_of(at(models, w.Gguf(tensors=[w.Tensor("x", (32,), 999, 32)]).build()))


def test_a_header_that_claims_more_than_any_has_is_refused_before_it_is_fetched(models, monkeypatch):
    monkeypatch.setattr(remote, "MAX_HEADER_BYTES", 2 * MIB)
    made = w.Gguf([("rates", w.ARRAY, struct.pack("<IQ", w.FLOAT32, 10**6))], [w.Tensor("x", (32,), w.F32, 128)])
    data = made.build() + bytes(5 * MIB)

    with refuses(BadArtifact):
        header_of(at(models, data))
    assert models.body_bytes() <= 2 * MIB


def test_a_file_that_changes_meanwhile_is_noticed(models, big):
    with FileHead(at(models, big)) as head:
        head.read(100)
        models.files["o/r/x.gguf"] = big[:-1] + b"x"
        with refuses(IntegrityError):
            head.read(200)
