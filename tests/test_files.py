"""A file is whole under its name or absent, whoever else writes at the same time."""

from __future__ import annotations

import ast
import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgellm import settings
from edgellm.app.tune import jobs, kept_settings
from edgellm.bundle.slots import RECORD, RELEASES, SlotRecord, Slots
from edgellm.cli import doctor
from edgellm.cli.report import Report
from edgellm.contract import probe
from edgellm.errors import UsageError
from edgellm.files import (
    DamagedRecord,
    atomic_writer,
    decode_json_record,
    expanded,
    files_below,
    is_locked,
    locked,
    read_named,
    read_regular,
    rename_new,
    write_atomic,
)
from edgellm.formats.gguf import summary
from edgellm.hardware import bandwidth
from edgellm.history import calibrations, run_log
from edgellm.store import content_hash, manifest
from edgellm.store.sources import ollama_store
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.store_problem import RecordUnreadable

MACHINE = Machine("m", "m", Cpu("x86_64", "EPYC", 2, 2, ("avx2",)), Memory(1 << 34))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_that_go_while_they_are_counted_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As those of a checkpoint that the next one replaces: `edgellm list` looks meanwhile."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "stays").write_bytes(b"123")
    (tmp_path / "goes").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "goes")
    walk = os.walk

    def walk_beside_others(folder: Path) -> Iterator[Any]:
        for found in walk(folder):
            (tmp_path / "goes").unlink(missing_ok=True)
            yield found

    monkeypatch.setattr(os, "walk", walk_beside_others)

    assert files_below(tmp_path) == {tmp_path / "a" / "stays": 3}
    assert files_below(tmp_path / "none") == {}


def test_a_lock_is_looked_at_and_stays_as_it_is(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"

    assert not is_locked(lock)
    assert not lock.exists()
    with locked(lock, lambda: pytest.fail("nobody has it")):
        assert is_locked(lock)
    assert not is_locked(lock)
    with locked(lock, lambda: pytest.fail("the look has kept it")):
        pass


def test_a_home_takes_the_place_of_its_sign_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))

    assert expanded("~/models/a.gguf") == tmp_path / "models" / "a.gguf"
    assert expanded("models/~b.gguf") == Path("models/~b.gguf")
    assert expanded("~nobody-there/a.gguf") == Path("~nobody-there/a.gguf")


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.json"
    for data in (b"first, the longer one", b"second"):
        write_atomic(path, data, sync=sync)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["a.json"]


def test_it_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    finally:
        os.umask(umask)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with atomic_writer(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert path.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "no folder" / "a", b"new")
    assert names(tmp_path) == ["a"]


def test_a_file_that_came_up_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def write_while_another_does() -> None:
        with atomic_writer(path, replace=False) as file:
            file.write(b"ours")
            path.write_bytes(b"another's")

    with pytest.raises(FileExistsError):
        write_while_another_does()
    assert path.read_bytes() == b"another's"
    assert names(tmp_path) == ["a"]


def test_without_links_a_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "part").write_bytes(b"ours")
    rename_new(tmp_path / "part", tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = [bytes([no]) * 50_000 for no in range(8)]
    threads = [threading.Thread(target=write_atomic, args=(path, data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["a"]


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def put_folder(path: Path) -> None:
    path.mkdir()


def put_long(path: Path) -> None:
    path.write_bytes(bytes(9))


needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")


@needs_pipes
@pytest.mark.timeout(10)
@pytest.mark.parametrize("put", [put_pipe, put_endless, put_socket, put_folder, put_long])
def test_what_is_no_file_of_ours_is_refused_and_never_waited_for(
    put: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    put(Path("a.json"))
    with pytest.raises(OSError) as refused:
        read_regular("a.json", 8)
    assert refused.value.strerror


@needs_pipes
@pytest.mark.timeout(10)
@pytest.mark.parametrize(("put", "why"), [
    (put_pipe, "nothing came through this pipe for 0.05 seconds"),
    (put_endless, "it is a device"),
    (put_socket, "it is a socket"),
    (put_folder, "it is a folder"),
])  # fmt: skip
def test_what_somebody_named_is_read_or_told_what_it_is(
    put: Callable[[Path], None], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("named"))
    with pytest.raises(OSError) as refused:
        read_named("named", 8, patience_s=0.05)
    assert refused.value.strerror == why


@needs_pipes
@pytest.mark.timeout(10)
def test_of_a_pipe_as_much_is_read_as_is_asked_for_whenever_it_comes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "named")

    def write() -> None:
        with open(tmp_path / "named", "wb", buffering=0) as pipe, contextlib.suppress(BrokenPipeError):
            for _ in range(4):
                pipe.write(b"abc" * 30_000)

    for most in (100_000, 360_001):
        writer = threading.Thread(target=write)
        writer.start()
        content = read_named(tmp_path / "named", most)
        writer.join()
        assert content == (b"abc" * 120_000)[:most]


def test_a_file_of_just_the_length_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(bytes(8))
    assert read_regular(tmp_path / "a.json", 8) == bytes(8)


def history_problem(_: Path) -> str:
    return run_log.read(MACHINE).problem


def calibration_note(_: Path) -> str:
    notes: list[str] = []
    assert calibrations.load(MACHINE, "gguf", "b1", notes) is None
    return "".join(notes)


def bandwidth_note(_: Path) -> str:
    notes: list[str] = []
    assert bandwidth.remembered(MACHINE, notes) is None
    return "".join(notes)


def record_problem(path: Path) -> str:
    stored = manifest.read(path.parent)
    assert stored is not None
    assert isinstance(stored.problem, RecordUnreadable)
    return stored.problem.error


KEPT: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any], bool]] = {
    "history": (lambda _: run_log.path_of(MACHINE), history_problem, True),
    "calibration": (lambda _: calibrations._path(MACHINE, "gguf", "b1"), calibration_note, True),
    "bandwidth": (lambda _: bandwidth._cache_file(MACHINE, 8), bandwidth_note, True),
    "record": (lambda home: home / "m" / "q" / manifest.RECORD, record_problem, True),
    "header": (lambda _: summary._place("a.gguf"), lambda _: summary.cached("a.gguf", "1-1"), False),
    "probe": (lambda home: home / "probe.json", lambda path: probe.read_kept(path, int), False),
    "ollama": (
        lambda home: home / "manifest",
        lambda path: ollama_store._read_local(path.parent, path, ollama_store.Name("h.org", "n", "m", "t")),
        False,
    ),
}


@needs_pipes
@pytest.mark.timeout(10)
@pytest.mark.parametrize("put", [put_pipe, put_endless, put_folder])
@pytest.mark.parametrize(("place", "read", "tells"), KEPT.values(), ids=KEPT)
def test_a_pipe_in_the_place_of_what_we_keep_is_told_or_passed_over(
    place: Callable[[Path], Path],
    read: Callable[[Path], Any],
    tells: bool,
    put: Callable[[Path], None],
    own_home: Path,
) -> None:
    path = place(own_home)
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path)
    assert bool(read(path)) is tells


def releases_problem(path: Path) -> str:
    with pytest.raises(UsageError) as refused:
        Slots(path.parent).releases()
    return refused.value.message


def setup_note(path: Path) -> str:
    report = Report()
    assert doctor.examine_setup(report, path) == set()
    return "".join(finding.text for finding in report.findings)


def hashed(home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    (home / "model.gguf").write_bytes(b"model")
    content_hash.hash_of([str(home / "model.gguf")])
    (kept,) = (home / "cache" / "hashes").iterdir()
    return kept


RECORDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any], bool]] = {
    **{name: row for name, row in KEPT.items() if name not in ("history", "ollama")},  # of lines; another's
    "slot": (lambda home: home / "A" / RECORD, lambda path: Slots(path.parent.parent).slot("A").record, False),
    "releases": (lambda home: home / RELEASES, releases_problem, True),
    "settings": (lambda home: home / kept_settings.SETTINGS, lambda path: kept_settings.read(path.parent), False),
    "job": (lambda home: home / jobs.RECORD, lambda path: jobs._read(path.parent).record, False),
    "probe of a library": (KEPT["probe"][0], lambda path: probe.read_kept(path, SlotRecord), False),
    "hash": (hashed, lambda _: content_hash.hash_of([str(settings.current().home / "model.gguf")]), True),
    "setup": (lambda home: home / doctor.SETUP_RECORD, setup_note, True),
}
DAMAGED = {
    "nested": b'{"x":' + b"[" * 10_000, "flipped": b'{"method": "\xec+"}', "a name": b'{"methmd": "lora"}',
    "cut": b'{"x": "', "other": b'["x"]', "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize(("place", "read", "tells"), RECORDS.values(), ids=RECORDS)
def test_a_record_that_was_damaged_in_any_way_is_told_or_passed_over(
    place: Callable[[Path], Path], read: Callable[[Path], Any], tells: bool, content: bytes, own_home: Path
) -> None:
    path = place(own_home)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert bool(read(path)) is tells


def test_an_error_of_a_type_s_own_check_is_damage_too() -> None:
    class Checked(msgspec.Struct):
        def __post_init__(self) -> None:
            raise UsageError("it is none")

    with pytest.raises(DamagedRecord):
        decode_json_record(b"{}", Checked)


ROOT = Path(__file__).parents[1]
DECODERS = ("json.load", "json.loads", "msgspec.json.decode", "_decoder.decode")
OF_TEXT = {"ValueError", "MsgspecError", "DecodeError", "UnicodeDecodeError", "JSONDecodeError"}
NEVER_NESTED = {  # one string between quotes, or the answer of a process of our own
    "edgellm/server/input_text.py", "edgellm/text/lark_pattern.py", "edgellm/text/readers/json_calls.py",
    "edgellm/runtime/perplexity.py", "plugins/edgellm-gguf/edgellm_gguf/library.py",
    "plugins/edgellm-onnx/edgellm_onnx/library.py",
}  # fmt: skip


def decoded(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """Calls that decode JSON, but for those in functions and `try` of their own."""
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) in DECODERS:
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Try):
            yield from decoded(ast.iter_child_nodes(node))


def caught(node: ast.AST) -> set[str]:
    """Names of the exceptions that end in a `try`, or in a block that suppresses them."""
    types: list[ast.AST] = []
    if isinstance(node, ast.Try):
        types = [handler.type for handler in node.handlers if handler.type is not None]
    elif isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        types = [one for call in calls if ast.unparse(call.func).endswith("suppress") for one in call.args]
    return {ast.unparse(part).rpartition(".")[2] for one in types for part in getattr(one, "elts", [one])}


def test_who_expects_what_is_no_json_expects_it_nested_without_an_end() -> None:
    """A record is read by `read_json_record`. Whoever reads other JSON catches the third kind of damage, too."""
    narrow, n_checked = [], 0
    for file in sorted(file for top in ("edgellm", "plugins") for file in (ROOT / top).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if {"build", "_vendor"} & set(file.parts) or name == "edgellm/files.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            calls = list(decoded(node.body)) if isinstance(node, ast.Try | ast.With) else []
            expected = caught(node)
            n_checked += bool(calls and expected)
            if calls and expected & OF_TEXT and not expected & {"RecursionError", "Exception"}:
                narrow += [f"{name}:{node.lineno}"] if name not in NEVER_NESTED else []
            if any("read_regular" in ast.unparse(call) for call in calls):
                narrow.append(f"{name}:{node.lineno} reads a record of its own")
    assert narrow == []
    assert n_checked > 20


@needs_pipes
@pytest.mark.timeout(10)
@pytest.mark.parametrize("put", [put_pipe, put_folder])
def test_nothing_is_recorded_into_a_pipe(put: Callable[[Path], None], own_home: Path) -> None:
    path = run_log.path_of(MACHINE)
    path.parent.mkdir(parents=True)
    put(path)
    row = run_log.Quality(
        id="check", time="2026-01-01T00:00:00+00:00", backend="gguf", model="m", quant="Q8_0", sha256="",
        text_sha256="", tokens=100, perplexity=9.0,
    )  # fmt: skip
    with pytest.raises(OSError):
        run_log.record(MACHINE, row)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_a_lock_is_nobody_elses(tmp_path: Path) -> None:
    """Whoever can open a file for reading can lock it. One that is there already becomes private, too."""
    path = tmp_path / "x.lock"
    path.touch(mode=0o644)
    with locked(path, lambda: None):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
