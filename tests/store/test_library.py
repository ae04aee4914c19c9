"""What is stored is whole, or absent: whatever happens meanwhile."""

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest
from support import gguf_writer
from support.read_only import run_read_only
from support.refusals import refuses
from support.store_server import card_of, names_below, sha256, start_fetch
from support.waiting import PATIENCE_S, wait_until

from edgellm.contract.source import FetchedFile
from edgellm.errors import (
    BadArtifact,
    DiskFull,
    IntegrityError,
    SourceError,
    SourceUnreachable,
    StoreUnwritable,
    UnknownModel,
    UnsupportedArtifact,
    UsageError,
)
from edgellm.files import safe_name
from edgellm.store import manifest
from edgellm.store.library import MADE, TWICE, Library
from edgellm.store.sources import pypi
from edgellm.store.sources.pypi import _largest_bytes
from edgellm.store.sources.registry import sources
from edgellm.types.model import ModelFile


@pytest.fixture
def library(own_home):
    return Library()


class Memory:
    """A source that brings what it was given, or raises it."""

    scheme = "memory"

    def __init__(self, *files, promised=""):
        self.files = files
        self.promised = promised
        self.fetched = 0
        self.discarded = []

    def reachable(self, timeout_s, uri=""):
        return ""

    def needs(self, folder, n_bytes):
        return [(folder, n_bytes)]

    def fetch(self, uri, folder, *, n_bytes, progress):
        self.fetched += 1
        brought = []
        for name, content in self.files:
            if isinstance(content, BaseException):
                (folder / name).write_bytes(b"half")
                raise content
            (folder / name).write_bytes(content)
            brought.append(FetchedFile(folder / name, self.promised))
        return brought

    def discard(self, paths):
        self.discarded += paths


def stored_by(monkeypatch, source, **changed):
    """(card, file) of a model that `source` brings."""
    monkeypatch.setitem(sources(), "memory", source)
    contents = [content for _, content in source.files if isinstance(content, bytes)]
    promised = {"sha256": sha256(contents[0]), "bytes": len(contents[0])} if len(contents) == 1 else {}
    file = ModelFile(**{"source": "memory:x", "quant": "Q8_0", **promised, **changed})
    return card_of(file), file


@pytest.fixture
def quick(monkeypatch, model_bytes):
    """(card, file) of the model, from a source that takes no time."""
    return stored_by(monkeypatch, Memory(("tiny.gguf", model_bytes)))


def test_fetch_stores_checks_and_describes(library, published, model_bytes):
    card, file = published

    artifact = library.fetch(card, file)

    folder = library.root / "tiny" / f"Q8_0-{file.sha256[:16]}"
    assert artifact.paths == (str(folder / "tiny.gguf"),)
    assert (artifact.quant, artifact.bytes, artifact.sha256) == ("Q8_0", len(model_bytes), file.sha256)
    assert (artifact.shape.n_layer, artifact.ctx_train) == (2, 256)
    assert names_below(library.root) == [f"tiny/{folder.name}/stored.json", f"tiny/{folder.name}/tiny.gguf"]
    record = json.loads((folder / "stored.json").read_text())
    assert (record["source"], record["license"], record["schema"]) == (file.source, "mit", 1)


def test_what_is_stored_is_not_fetched_or_hashed_again(library, published, index, monkeypatch):
    card, file = published
    first = library.fetch(card, file)
    n_requests = index.asked.total()
    monkeypatch.setattr(manifest, "describe_file", None)
    monkeypatch.setenv("EDGELLM_OFFLINE", "1")

    assert library.fetch(card, file) == first == Library().locate(file, card.id)
    assert index.asked.total() == n_requests


def test_keys_of_what_is_stored(library, quick):
    card, file = quick
    assert not library.has(file)
    assert library.local_keys() == frozenset()

    library.fetch(card, file)

    assert library.has(file)
    assert library.has(dataclasses.replace(file, source="hf://a/b/c.gguf"))
    assert library.has(dataclasses.replace(file, sha256=None))
    assert not library.has(ModelFile("hf://a/b/d.gguf", "Q8_0"))
    assert library.local_keys() == {file.source, file.sha256}
    assert [(s.model_id, s.quant, s.problem) for s in library.installed()] == [("tiny", "Q8_0", None)]


@pytest.mark.parametrize("changed", [{}, {"sha256": None}, {"source": "memory:y"}])
def test_a_file_is_one_whatever_its_model_is_called(library, quick, changed):
    card, file = quick
    path = library.fetch(card, file).path

    again = library.fetch(dataclasses.replace(card, id="other"), dataclasses.replace(file, **changed))

    assert (again.path, again.model_id) == (path, "other")
    assert len(library.installed()) == 1


def test_a_file_whose_time_changed_is_hashed_again_and_kept(library, quick):
    card, file = quick
    path = library.fetch(card, file).path
    os.utime(path, ns=(1, 1))

    assert library.locate(file, card.id).path == path
    assert json.loads((library.installed()[0].folder / "stored.json").read_text())["files"][0]["mtime_ns"] == 1


def test_a_changed_file_is_not_used_and_fetched_again(library, quick, model_bytes):
    card, file = quick
    path = library.fetch(card, file).path
    with open(path, "r+b") as damaged:
        damaged.seek(-10, os.SEEK_END)
        damaged.write(b"damage")
    os.utime(path, ns=(1, 1))

    assert library.locate(file, card.id) is None
    assert library.fetch(card, file).path == path
    assert Path(path).read_bytes() == model_bytes


def test_a_shortened_or_lost_file_is_a_problem_and_no_key(library, quick):
    card, file = quick
    path = library.fetch(card, file).path
    os.truncate(path, 100)
    assert library.installed()[0].problem
    assert library.local_keys() == frozenset()

    os.remove(path)
    assert library.installed()[0].problem
    assert library.locate(file, card.id) is None


SIZE_IN_WORDS = json.dumps(
    {"schema": 1, "model_id": "tiny", "quant": "Q8_0", "format": "gguf", "source": "", "license": "", "fetched_at": "",
     "ctx_train": 1, "shape": None, "files": [{"path": "x", "bytes": "many", "mtime_ns": 1, "sha256": ""}]}
)  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        "", "{", "[]", '{"schema": 1}', '{"schema": 1, "files": []}', SIZE_IN_WORDS, "[" * 100_000,
        "\udcff",
    ],
    ids=range(8),
)  # fmt: skip
def test_a_broken_record_is_a_problem_and_repaired_by_fetching(library, quick, record):
    card, file = quick
    library.fetch(card, file)
    (library.installed()[0].folder / "stored.json").write_text(record, errors="surrogateescape")

    assert library.installed()[0].problem
    assert library.locate(file, card.id) is None
    library.fetch(card, file)
    assert not library.installed()[0].problem


def test_what_a_newer_version_stored_has_a_size_and_is_not_fetched_again(library, quick, model_bytes):
    card, file = quick
    library.fetch(card, file)
    record = library.installed()[0].folder / "stored.json"
    record.write_text('{"schema": 2}')

    with refuses(UnsupportedArtifact, varies=r"/\S+"):
        library.fetch(card, file)
    assert record.read_text() == '{"schema": 2}'
    assert library.installed()[0].bytes == len(model_bytes)
    assert library.remove(card.id) == len(model_bytes)


def test_a_file_of_which_the_catalog_promises_nothing(library, monkeypatch):
    source = Memory(("x.gguf", gguf_writer.model().build()))
    card, file = stored_by(monkeypatch, source, sha256=None, bytes=None)

    assert library.fetch(card, file).sha256 == sha256(source.files[0][1])


@pytest.mark.parametrize("changed", [{"sha256": "0" * 64}, {"bytes": 5}], ids=["sha256", "bytes"])
def test_the_catalog_is_believed(library, monkeypatch, changed):
    source = Memory(("x.gguf", gguf_writer.model().build()))
    card, file = stored_by(monkeypatch, source, **changed)
    with refuses(IntegrityError):
        library.fetch(card, file)
    assert names_below(library.root) == []


def test_another_hash_than_the_source_promised_is_refused(library, monkeypatch):
    source = Memory(("x.gguf", gguf_writer.model().build()), promised="1" * 64)
    card, file = stored_by(monkeypatch, source)
    with refuses(IntegrityError):
        library.fetch(card, file)
    assert names_below(library.root) == []


@pytest.mark.parametrize("content", [b"<html>", gguf_writer.model().build()[:-1], gguf_writer.Gguf(version=1).build()])
def test_the_right_hash_of_a_bad_file_is_refused(library, monkeypatch, content):
    card, file = stored_by(monkeypatch, Memory(("x.gguf", content)))
    with pytest.raises(BadArtifact):
        library.fetch(card, file)
    assert names_below(library.root) == []


def test_a_full_disk_is_told_before_the_first_byte(library, monkeypatch):
    source = Memory(("x.gguf", gguf_writer.model().build()))
    card, file = stored_by(monkeypatch, source, bytes=3_000_000_000)
    usage = shutil.disk_usage(library.root.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000_000))
    with refuses(DiskFull, varies=r"(?<=/\.).*(?=\.incomplete)"):
        library.fetch(card, file)
    assert source.fetched == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (PermissionError(errno.EACCES, "Permission denied"), SourceError),
        (SourceUnreachable("gone"), SourceUnreachable),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_nothing_is_left_after_an_error_in_the_middle(library, monkeypatch, error, kind):
    card, file = stored_by(monkeypatch, Memory(("x.gguf", error)))
    with pytest.raises(kind):
        library.fetch(card, file)
    assert names_below(library.root) == []


def test_a_store_that_cannot_be_written_is_told(library, quick):
    library.root.parent.mkdir(exist_ok=True)
    library.root.write_text("in the way")
    with refuses(StoreUnwritable):
        library.fetch(*quick)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
def test_what_may_not_be_deleted_is_told_as_that(library, quick, monkeypatch, code):
    card, file = quick
    library.fetch(card, file)

    def fails(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("edgellm.store.library.locked", fails)
    with refuses(StoreUnwritable):
        library.remove("tiny")
    assert library.has(file)


FETCHES = """
import sys
from pathlib import Path
from edgellm.catalog.lookup import catalog
from edgellm.errors import EdgeLLMError
from edgellm.store.library import Library
card = catalog()["smollm2-135m-instruct"]
try:
    Library(Path(sys.argv[1])).fetch(card, card.files[0])
except EdgeLLMError as error:
    print(error.code, error.exit_code)
"""


def test_in_a_store_that_is_read_only_no_model_can_be_fetched(tmp_path):
    ended = run_read_only(tmp_path, sys.executable, "-c", FETCHES, str(tmp_path / "models"))
    assert ended.stdout.split() == ["store_unwritable", "5"], ended.stderr


def test_a_file_larger_than_the_shell_allows_is_told(library, quick):
    """`ulimit -f`: Python is not killed by the signal, so that it can say what is wrong."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))
    try:
        with refuses(UsageError, varies=r"(?<=/\.).*(?=\.incomplete)"):
            library.fetch(*quick)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names_below(library.root) == []


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EFBIG, UsageError)]
)
def test_what_pip_cannot_write_is_the_store_s_error(library, published, monkeypatch, code, kind):
    said = f"ERROR: Could not install packages due to an OSError: [Errno {code}] {os.strerror(code)}: 'x.whl'"
    monkeypatch.setattr(pypi, "command", lambda *_, **__: [sys.executable, "-c", f"raise SystemExit({said!r})"])
    with refuses(kind, varies=r"/\S+"):
        library.fetch(*published)
    assert names_below(library.root) == []


SAYS_IN_ITS_LANGUAGE = """
import os
raise SystemExit("ERROR: " + ("No space left on device" if os.environ["LC_ALL"] == "C" else "Kein Speicherplatz"))
"""


@pytest.mark.parametrize(
    "says", [SAYS_IN_ITS_LANGUAGE, "raise SystemExit('ERROR: [Errno 28] Kein Speicherplatz')"], ids=["asked", "number"]
)
def test_a_full_disk_is_understood_whatever_the_language(library, published, monkeypatch, says):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setattr(pypi, "command", lambda *_, **__: [sys.executable, "-c", says])
    with refuses(DiskFull, varies=r"/\S+"):
        library.fetch(*published)


def test_a_split_model_is_stored_whole(library, monkeypatch):
    parts = []
    for no in range(2):
        keys = [("split.no", gguf_writer.UINT16, no), ("split.count", gguf_writer.UINT16, 2)]
        tensors = [gguf_writer.Tensor(f"t{no}", (64,), gguf_writer.F32, 256)]
        made = gguf_writer.Gguf([*(gguf_writer.model_keys() if no == 0 else []), *keys], tensors)
        parts.append((f"m-{no + 1:05d}-of-00002.gguf", made.build()))
    card, file = stored_by(monkeypatch, Memory(*parts))

    artifact = library.fetch(card, file)

    assert [os.path.basename(path) for path in artifact.paths] == [name for name, _ in parts]
    assert (artifact.bytes, artifact.sha256) == (sum(len(data) for _, data in parts), "")
    assert library.locate(file, card.id) == artifact


def test_remove(library, quick, model_bytes):
    card, file = quick
    library.fetch(card, file)

    assert library.remove("tiny", "Q8_0") == len(model_bytes)
    assert names_below(library.root) == []
    assert not (library.root / "tiny").exists()
    with refuses(UnknownModel):
        library.remove("tiny", "Q8_0")


@pytest.mark.parametrize("change", ["remove", "fetch"])
def test_what_was_not_deleted_to_the_end_goes_with_the_next_change(library, quick, change):
    card, file = quick
    library.fetch(card, file)
    (stored,) = library.installed()
    other = library.root / "other"
    for name in ("Q4_1-0123456789abcdef", "Q8_0-0123456789abcdef"):
        (other / f".{name}.removed").mkdir(parents=True)
        (other / f".{name}.removed" / "other.gguf").write_bytes(b"x")

    with library._locked(other / "Q8_0-0123456789abcdef", None):  # by a process that deletes it
        library.remove_entry(stored)
        if change == "fetch":
            (other / ".Q4_1-0123456789abcdef.removed").mkdir()
            library.fetch(card, file)

    assert [path.name for path in other.iterdir()] == [".Q8_0-0123456789abcdef.removed"]
    assert (other / ".Q8_0-0123456789abcdef.removed" / "other.gguf").exists()


def test_what_another_process_removed_meanwhile_frees_nothing(library, quick, model_bytes):
    card, file = quick
    library.fetch(card, file)
    (stored,) = library.installed()

    assert [library.remove_entry(stored) for _ in range(2)] == [len(model_bytes), 0]


def test_of_an_entry_that_is_a_link_the_link_is_removed(library, quick, model_bytes, tmp_path):
    card, file = quick
    library.fetch(card, file)
    (stored,) = library.installed()
    elsewhere = shutil.move(stored.folder, tmp_path / "elsewhere")
    stored.folder.symlink_to(elsewhere)

    assert library.remove("tiny", "Q8_0") == 0
    assert not (library.root / "tiny").exists()
    assert [path.stat().st_size for path in elsewhere.glob("*.gguf")] == [len(model_bytes)]


def test_a_damaged_entry_that_is_a_link_is_replaced(library, quick, tmp_path):
    card, file = quick
    library.fetch(card, file)
    (stored,) = library.installed()
    elsewhere = shutil.move(stored.folder, tmp_path / "elsewhere")
    stored.folder.symlink_to(elsewhere)
    (elsewhere / "stored.json").write_text("{")

    library.fetch(card, file)

    assert not stored.folder.is_symlink()
    assert (elsewhere / "stored.json").read_text() == "{"


def test_of_two_entries_of_one_quantization_each_can_be_removed(library, quick, model_bytes):
    card, file = quick
    library.fetch(card, file)
    (first,) = library.installed()
    shutil.copytree(first.folder, first.folder.with_name("Q8_0-of-another-digest"))

    assert library.remove_entry(first) == len(model_bytes)
    (second,) = library.installed()
    assert (second.model_id, second.quant) == (first.model_id, first.quant)
    assert library.remove("tiny", "Q8_0") == len(model_bytes)
    assert library.installed() == []


def test_a_local_file_is_used_where_it_lies_and_never_deleted(library, tmp_path):
    path = gguf_writer.model().write(tmp_path / "my model.gguf")
    file = ModelFile(f"file:{path}", "Q8_0", sha256=sha256(path.read_bytes()))
    card = card_of(file)

    assert library.fetch(card, file).path == str(path)
    assert library.has(file)
    assert library.remove("tiny") == 0
    assert path.exists()


def test_a_local_file_with_another_hash_is_refused_and_kept(library, tmp_path):
    path = gguf_writer.model().write(tmp_path / "x.gguf")
    file = ModelFile(f"file:{path}", "Q8_0", sha256="0" * 64)
    with pytest.raises(IntegrityError):
        library.fetch(card_of(file), file)
    assert path.exists()


def test_an_unknown_scheme_is_refused(library):
    file = ModelFile("gopher://x", "Q8_0")
    with refuses(SourceError):
        library.fetch(card_of(file), file)


def test_two_processes_download_once(library, published, index):
    index.mode = 0.6
    _, file = published
    running = [start_fetch(file) for _ in range(3)]
    outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in running]

    assert [output.splitlines()[-1].split()[0] for output in outputs] == ["artifact"] * 3
    assert sum("waiting for another process" in output for output in outputs) == 2
    assert index.asked["/files/tiny_model-1.0-py3-none-any.whl"] == 1


def test_threads_download_once(library, monkeypatch):
    source = Memory(("x.gguf", gguf_writer.model().build()))
    card, file = stored_by(monkeypatch, source)
    artifacts = []
    threads = [threading.Thread(target=lambda: artifacts.append(Library().fetch(card, file))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(artifacts) == 8
    assert source.fetched == 1


def test_while_it_is_fetched_it_cannot_be_removed(library, quick):
    card, file = quick
    library.fetch(card, file)
    from filelock import FileLock

    with (
        FileLock(library.root / ".locks" / f"tiny.{library.installed()[0].folder.name}.lock"),
        refuses(UsageError),
    ):
        library.remove("tiny")


def downloading(library):
    """Whether bytes of a wheel have arrived."""
    return _largest_bytes(library.root) > 10_000


def test_sigkill_in_mid_download_leaves_nothing_under_the_final_name(library, published, index, model_bytes):
    card, file = published
    for delay in (0.0, 0.5):
        index.mode = 20.0
        process = start_fetch(file)
        wait_until(lambda: downloading(library))
        threading.Event().wait(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)

        assert library.installed() == []
        assert library.locate(file, card.id) is None

    index.mode = "well"
    path = library.fetch(card, file).path
    assert Path(path).read_bytes() == model_bytes
    assert [name for name in names_below(library.root) if ".incomplete" in name] == []


@pytest.mark.slow(3)
def test_ctrl_c_stops_pip_and_cleans_up(library, published, index):
    import psutil

    index.mode = 60.0
    process = start_fetch(published[1])
    wait_until(lambda: downloading(library))
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)

    assert children
    wait_until(lambda: not any(child.is_running() for child in children))
    assert names_below(library.root) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/b", "a-b"),
        ("../../etc", "etc"),
        ("", "unnamed"),
        (".hidden", "hidden"),
        ("C:\\x", "C--x"),
        ("x" * 300, "x" * 120),
    ],
)
def test_names_stay_inside_the_store(text, name):
    assert safe_name(text) == name


def test_a_hostile_model_id_stays_inside_the_store(library, monkeypatch):
    card, file = stored_by(monkeypatch, Memory(("x.gguf", gguf_writer.model().build())), quant="../../Q8")
    path = library.fetch(dataclasses.replace(card, id="../../outside"), file).path

    assert os.path.realpath(path).startswith(os.path.realpath(library.root) + os.sep)


def made_here(library, tmp_path, content, kind=MADE):
    """A file that was kept as Q5_K_M of the model "m"."""
    card = dataclasses.replace(card_of(ModelFile("memory:x", "Q8_0")), id="m")
    path = library.root / "m" / ".making" / "m.Q5_K_M.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    file = ModelFile(f"{kind}F16-0123#Q5_K_M", "Q5_K_M")
    return card, file, library.keep(card, file, path)


def test_what_is_made_here_is_a_file_of_its_model(library, tmp_path):
    card, file, artifact = made_here(library, tmp_path, gguf_writer.model().build())

    assert Path(artifact.path).parent.parent == library.root / "m"
    assert library.locate(file, "m") == artifact
    assert [(kept.source, kept.quant) for kept in library.files()["m"]] == [(file.source, "Q5_K_M")]
    assert library.fetch(card, library.files()["m"][0]) == artifact
    assert [name for name in names_below(library.root) if "incomplete" in name] == []


def test_what_was_quantized_twice_is_told_of_only_where_it_is_asked_for(library, tmp_path):
    made_here(library, tmp_path, gguf_writer.model().build(), TWICE)

    assert library.files() == {}
    assert list(library.files(twice=True)) == ["m"]


def test_what_was_made_here_and_is_damaged_cannot_be_fetched(library, tmp_path):
    card, file, artifact = made_here(library, tmp_path, gguf_writer.model().build())
    Path(artifact.path).write_bytes(b"GGUF")

    assert library.files() == {}
    with refuses(SourceUnreachable):
        library.fetch(card, file)


def test_what_is_no_model_is_not_kept(library, tmp_path):
    with pytest.raises(BadArtifact):
        made_here(library, tmp_path, b"GGUF")
    assert library.installed() == []
