"""A download goes on where it stopped, says no secret, asks no stranger, and keeps to its rate."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from support import gguf_writer
from support.refusals import refuses
from support.store_server import HubServer, ModelServer, card_of, names_below, sha256

from edgellm.contract.source import RemoteFile
from edgellm.errors import DiskFull, IntegrityError, SourceError, SourceUnreachable, UnsupportedArtifact, UsageError
from edgellm.store import download as download_module
from edgellm.store import http
from edgellm.store.address import check_address
from edgellm.store.card import card_of as described
from edgellm.store.download import CHUNK_BYTES, Throttle, download
from edgellm.store.library import Library
from edgellm.store.partial import part_of
from edgellm.store.sources import registry
from edgellm.types.model import ModelFile


def silent(n_bytes):
    pass


def fetch(uri, data, **changed):
    file = ModelFile(**{"source": uri, "quant": "Q8_0", "bytes": len(data), "sha256": sha256(data), **changed})
    return Library().fetch(card_of(file), file)


def begun(own_home):
    """The one file that was not finished."""
    (path,) = [path for path in own_home.rglob("*.incomplete") if path.is_file()]
    return path


def test_it_goes_on_where_it_stopped(source, models, model_bytes, own_home, impatient):
    models.mode = "hang-midway"
    with pytest.raises(SourceUnreachable):
        fetch(source, model_bytes)
    have = begun(own_home).stat().st_size
    assert have == len(model_bytes) // 2 + 1
    before = len(models.seen)
    models.mode = "well"
    impatient()

    artifact = fetch(source, model_bytes)

    assert Path(artifact.path).read_bytes() == model_bytes
    ranges = [r for r in models.ranges(before) if r != "bytes=0-63"]
    assert ranges == [f"bytes={have}-"]
    assert models.body_bytes(before) <= len(model_bytes) - have + 64
    assert not list(own_home.rglob("*.incomplete"))


def test_what_was_begun_of_another_file_is_not_gone_on_with(models, model_bytes, own_home, impatient):
    other = model_bytes[:-9] + b"different"
    models.files["o/r/m.gguf"] = model_bytes
    uri = f"{models.url}/files/o/r/m.gguf"
    models.mode = "hang-midway"
    with pytest.raises(SourceUnreachable):
        fetch(uri, model_bytes, sha256=None)
    models.files["o/r/m.gguf"] = other
    models.mode = "well"
    impatient()

    artifact = fetch(uri, other, sha256=None)

    assert Path(artifact.path).read_bytes() == other
    assert sorted(os.listdir(Path(artifact.path).parent)) == ["m.gguf", "stored.json"]


def test_a_beginning_that_was_damaged_on_the_disk_is_fetched_anew(models, model_bytes, tmp_path):
    models.files["o/r/m.gguf"] = model_bytes
    file = RemoteFile("m.gguf", f"{models.url}/files/o/r/m.gguf", len(model_bytes), sha256(model_bytes))
    part = part_of(file, tmp_path / "m.gguf")
    part.write_bytes(b"rubbish" * 1000)

    digest = download(file, tmp_path / "m.gguf", silent)

    assert digest == sha256(model_bytes)
    assert (tmp_path / "m.gguf").read_bytes() == model_bytes
    assert models.ranges() == ["bytes=7000-", None]


@pytest.mark.parametrize("extra", [0, 1])
def test_a_beginning_that_is_whole_or_too_long(models, model_bytes, tmp_path, extra):
    models.files["o/r/m.gguf"] = model_bytes
    file = RemoteFile("m.gguf", f"{models.url}/files/o/r/m.gguf", len(model_bytes), sha256(model_bytes))
    part_of(file, tmp_path / "m.gguf").write_bytes(model_bytes + b"x" * extra)

    download(file, tmp_path / "m.gguf", silent)

    assert (tmp_path / "m.gguf").read_bytes() == model_bytes
    assert len(models.seen) == extra


def test_without_hash_and_etag_it_begins_anew(models, model_bytes, tmp_path):
    models.files["o/r/m.gguf"] = model_bytes
    file = RemoteFile("m.gguf", f"{models.url}/files/o/r/m.gguf", len(model_bytes))
    part_of(file, tmp_path / "m.gguf").write_bytes(model_bytes[:1000])

    download(file, tmp_path / "m.gguf", silent)

    assert models.ranges() == [None]


def test_a_full_disk_leaves_nothing(models, model_bytes, tmp_path, monkeypatch):
    models.files["o/r/m.gguf"] = model_bytes
    file = RemoteFile("m.gguf", f"{models.url}/files/o/r/m.gguf", len(model_bytes), sha256(model_bytes))

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with refuses(DiskFull):
        download(file, tmp_path / "m.gguf", silent)
    assert list(tmp_path.iterdir()) == []


def test_space_is_asked_for_before_the_first_byte(source, models, model_bytes, own_home, monkeypatch):
    import shutil

    usage = shutil.disk_usage("/")._replace(free=65 * 1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    models.files["o/r/m-Q8_0.gguf"] = model_bytes = model_bytes + bytes(2 * 1024**2)
    models.models["library/tiny/1b"] = ["o/r/m-Q8_0.gguf"]

    with refuses(DiskFull, varies=r"(?<=/\.).*(?=\.incomplete)"):
        fetch(source, model_bytes)

    assert models.body_bytes() <= 64


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(download_module, "time", clock)
    return clock


def test_a_rate_is_kept(models, model_bytes, tmp_path, clock):
    models.files["o/r/m.gguf"] = model_bytes
    file = RemoteFile("m.gguf", f"{models.url}/files/o/r/m.gguf", len(model_bytes), sha256(model_bytes))
    start = clock.now

    download(file, tmp_path / "m.gguf", silent, Throttle(len(model_bytes) * 2))

    # A tenth of a second's bytes may go ahead.
    assert 0.4 <= clock.now - start < 0.51


def test_the_rate_is_the_environments(source, models, model_bytes, monkeypatch, clock):
    monkeypatch.setenv("EDGELLM_MAX_RATE", f"{len(model_bytes) * 3}B/s")
    start = clock.now

    fetch(source, model_bytes)

    assert clock.now - start > 0.2


def test_a_rate_that_is_none_is_refused(source, models, model_bytes, monkeypatch):
    monkeypatch.setenv("EDGELLM_MAX_RATE", "slow")
    with refuses(UsageError):
        fetch(source, model_bytes)


def test_progress_grows_to_the_whole(source, models, model_bytes):
    told = []
    file = ModelFile(source, "Q8_0", bytes=len(model_bytes), sha256=sha256(model_bytes))

    Library().fetch(card_of(file), file, lambda done, total, what: told.append((done, total, what)))

    amounts = [done for done, _, what in told if what != "checking"]
    assert amounts == sorted(amounts)
    assert amounts[-1] == len(model_bytes)
    assert {total for _, total, _ in told} == {len(model_bytes)}


SECRET = "hf_" + "s3cret" * 5


@pytest.fixture
def private(models, model_bytes, monkeypatch, caplog):
    """A hub that wants a token and sends whoever has it to another host."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    models.files["o/r/m-Q8_0.gguf"] = model_bytes
    models.token, models.redirect = SECRET, True
    return models


def test_a_token_goes_to_the_hub_and_to_no_other_host(private, model_bytes):
    described("hf://o/r/m-Q8_0.gguf")
    artifact = fetch("hf://o/r/m-Q8_0.gguf", model_bytes)

    assert Path(artifact.path).read_bytes() == model_bytes
    at_hub = [seen for seen in private.seen if seen.host.startswith("127.0.0.1")]
    elsewhere = [seen for seen in private.seen if seen.host.startswith("localhost")]
    assert elsewhere
    assert all("/cdn/" in seen.path for seen in elsewhere)
    assert not any("authorization" in seen.headers for seen in elsewhere)
    assert all(seen.headers.get("authorization") == f"Bearer {SECRET}" for seen in at_hub if "resolve" in seen.path)


def test_no_secret_is_said_or_stored(private, model_bytes, own_home, caplog, impatient):
    """A token, and the signature in the address that the hub sends on to."""
    private.mode = "hang-midway"
    with pytest.raises(SourceUnreachable) as caught:
        fetch("hf://o/r/m-Q8_0.gguf", model_bytes)
    private.mode = "well"
    fetch("hf://o/r/m-Q8_0.gguf", model_bytes)
    file = RemoteFile("x", "http://x?X-Signature=s3cret", headers={"Authorization": SECRET})

    said = [str(caught.value), str(caught.value.__cause__), repr(file), caplog.text]
    stored = [path.read_bytes().decode(errors="replace") for path in own_home.rglob("*.json")]
    assert stored
    assert not [text for text in (*said[:3], *stored) if "s3cret" in text]
    assert SECRET not in caplog.text  # huggingface_hub's client logs the address that it is sent on to, for debugging


def test_without_the_token_access_is_refused_with_a_hint(private, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with refuses(SourceError):
        described("hf://o/r/m-Q8_0.gguf")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x.gguf",
        "http://192.168.1.5/x.gguf",
        "http://localhost.example.com/x.gguf",
        "https://user:s3cret@example.com/x.gguf",
        "https://s3cret@example.com/x.gguf",
        "ftp://example.com/x.gguf",
        "https:///x.gguf",
        "https://example.com:99999/x.gguf",
        "https://example.com/x y.gguf",
        "https://example.com/x\r\nHost: y",
        "https://[::1/x.gguf",
    ],
)
def test_addresses_that_are_not_asked(url, monkeypatch):
    with refuses(SourceError, varies="(?<=not an address: ).*") as caught:
        http.get(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.hint


def test_http_is_asked_where_it_is_allowed(monkeypatch):
    monkeypatch.setenv("EDGELLM_ALLOW_HTTP", "1")
    check_address("http://192.168.1.5/x.gguf")


class Redirects(HubServer):
    """Sends everyone to `target`."""

    target = ""

    def answer(self, request, *, body):
        self.asked[request.path] += 1
        return request.send(302, b"", {"Location": self.target})


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("http://example.com/x.gguf", id="not encrypted"),
        pytest.param("file:///etc/passwd", id="a file"),
        pytest.param("https://u:s3cret@example.com/", id="a password"),
        pytest.param("/again", id="itself"),
        pytest.param("", id="nowhere"),
    ],
)
def test_redirects_that_are_not_followed(target, own_home):
    server = Redirects()
    server.target = target
    try:
        with refuses(SourceError):
            http.get(f"{server.url}/x.gguf")
    finally:
        server.close()


def test_a_hash_in_the_address_is_checked(models, model_bytes):
    models.files["o/r/m.gguf"] = model_bytes
    uri = f"{models.url}/files/o/r/m.gguf#sha256="
    assert described(uri + sha256(model_bytes)).files[0].sha256 == sha256(model_bytes)

    with refuses(IntegrityError):
        fetch(uri + "0" * 64, model_bytes, sha256=None)
    for fragment in ("00", "0" * 63 + "g"):
        with refuses(SourceError):
            described(uri + fragment)


@pytest.mark.parametrize("path", ["..%2f..%2fevil.gguf", "%2e%2e/evil.gguf", "a%00b.gguf", "C:%5Cevil.gguf", ".gguf"])
def test_a_name_of_a_file_stays_in_its_folder(models, model_bytes, own_home, path):
    class Any(dict):
        def __contains__(self, name):
            return True

        def __getitem__(self, name):
            return model_bytes

        def items(self):
            return []

    models.files = Any()

    artifact = fetch(f"{models.url}/files/o/{path}", model_bytes)

    root = own_home / "data" / "models"
    assert Path(artifact.path).resolve().is_relative_to(root)
    assert [name for name in names_below(own_home / "data") if not name.startswith("models/tiny/Q8_0-")] == []


@pytest.mark.parametrize("name", ["../x-Q8_0.gguf", "/etc/x-Q8_0.gguf", "a/../../x-Q8_0.gguf"])
def test_names_of_a_hub_that_lead_out_of_a_folder_are_not_taken(models, model_bytes, own_home, name):
    models.files[f"o/r/{name}"] = model_bytes

    with pytest.raises((SourceError, UsageError)):
        fetch("hf://o/r:Q8_0", model_bytes)
    assert [n for n in names_below(own_home) if n.endswith(".gguf")] == []


@pytest.mark.parametrize(
    "uri",
    [
        "ollama:", "ollama:a b", "ollama:../x", "ollama://example.com/a/b/c/d:1", "ollama:a:b:c", "ollama:x/..",
        "ollama:-x", "ollama:x:../../y",
    ],
)  # fmt: skip
def test_names_that_the_registry_cannot_have(uri):
    with refuses(SourceError):
        described(uri)


LAYER = {"mediaType": "application/vnd.ollama.image.model"}


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        pytest.param(None, SourceError, id="no layers"),
        pytest.param(["x"], SourceError, id="a text for a layer"),
        pytest.param([], UnsupportedArtifact, id="an empty list"),
        pytest.param([{"mediaType": "application/vnd.ollama.image.adapter"}], UnsupportedArtifact, id="an adapter"),
        pytest.param([LAYER | {"digest": "sha256:../../x", "size": 1}], SourceError, id="a digest that climbs"),
        pytest.param([LAYER | {"digest": "sha256:" + "0" * 64, "size": -1}], SourceError, id="a negative size"),
        pytest.param([LAYER], SourceError, id="no digest"),
    ],
)
def test_manifests_that_are_not_believed(models, monkeypatch, layers, error):
    import json

    body = json.dumps({"layers": layers}).encode()
    monkeypatch.setattr(ModelServer, "_manifest", lambda self, request, name, _: request.send(200, body))
    with refuses(error):
        described(f"ollama://{models.url.removeprefix('http://')}/library/x")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{" * 100_000, b'{"layers": "' + b"x" * 2 * 1024**2])
def test_a_manifest_that_is_none(models, monkeypatch, body):
    monkeypatch.setattr(ModelServer, "_manifest", lambda self, request, name, _: request.send(200, body))
    with refuses(SourceError):
        described(f"ollama://{models.url.removeprefix('http://')}/library/x")


def parts(server, folder="o/r"):
    """Publish a model of two parts."""
    names = []
    for no in range(2):
        keys = [("split.no", gguf_writer.UINT16, no), ("split.count", gguf_writer.UINT16, 2)]
        tensors = [gguf_writer.Tensor(f"t{no}", (64,), gguf_writer.F32, 256)]
        made = gguf_writer.Gguf([*(gguf_writer.model_keys() if no == 0 else []), *keys], tensors)
        names.append(f"{folder}/m-Q8_0-{no + 1:05d}-of-00002.gguf")
        server.files[names[-1]] = made.build()
    server.models["library/tiny/1b"] = names
    return names


@pytest.mark.parametrize("scheme", ["hf", "https", "ollama"])
def test_split_files_come_whole_from_every_source(models, own_home, scheme):
    names = parts(models)
    uri = {
        "hf": "hf://o/r:Q8_0",
        "https": f"{models.url}/files/o/r/m-Q8_0-00002-of-00002.gguf",
        "ollama": f"ollama://{models.url.removeprefix('http://')}/tiny:1b",
    }[scheme]
    total = sum(len(models.files[name]) for name in names)

    card = described(uri)
    artifact = Library().fetch(card, card.files[0])

    assert (card.files[0].bytes, card.files[0].tensor_bytes, card.params) == (total, 512, 128)
    assert [Path(path).name[-20:] for path in artifact.paths] == ["-00001-of-00002.gguf", "-00002-of-00002.gguf"]
    assert [Path(path).read_bytes() for path in artifact.paths] == [models.files[name] for name in names]


@pytest.mark.parametrize("scheme", ["hf", "https"])
def test_a_split_file_that_lacks_a_part_is_not_fetched(models, own_home, scheme):
    names = parts(models)
    del models.files[names[1]]
    uri = {"hf": "hf://o/r:Q8_0", "https": f"{models.url}/files/{names[0]}"}[scheme]

    with pytest.raises((SourceError, UsageError)):
        described(uri)
    file = ModelFile(uri, "Q8_0")
    with pytest.raises((SourceError, UsageError)):
        Library().fetch(card_of(file), file)
    assert [name for name in names_below(own_home) if name.endswith((".gguf", "stored.json"))] == []


def test_a_process_that_comes_second_does_not_ask_again(source, models, model_bytes):
    from concurrent.futures import ThreadPoolExecutor

    models.pace_s = 0.05
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: fetch(source, model_bytes).path, range(3)))

    assert len(set(paths)) == 1
    assert models.body_bytes() <= len(model_bytes) + 64


def test_offline_asks_nobody(source, models, model_bytes, monkeypatch):
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    with pytest.raises(SourceUnreachable) as caught:
        fetch(source, model_bytes)
    assert not models.seen
    assert "EDGELLM_OFFLINE is set" in registry.source_for(source).reachable(1.0, source)
    assert caught.value


def test_reachable(source, models, monkeypatch):
    at = registry.source_for(source)
    monkeypatch.setattr(at, "_answers", {}, raising=False)  # of the hub
    assert at.reachable(1.0, source) == ""
    models.mode = "500"
    if not source.startswith("hf"):
        assert "500" in at.reachable(1.0, source)


def test_a_chunk_is_what_a_kill_can_lose():
    assert Throttle(None).chunk_bytes == CHUNK_BYTES == 256 * 1024
    assert Throttle(1_000_000).chunk_bytes == 100_000
    assert Throttle(1).chunk_bytes == 1024
