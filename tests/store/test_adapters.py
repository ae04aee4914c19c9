"""Where adapters lie: whole or absent, of one base each, and damaged ones told."""

import json
import multiprocessing
import os
from dataclasses import replace

import pytest
from attacks.gguf.hostile_adapters import LYING, SOUND
from msgspec import structs
from support.refusals import refuses
from support.waiting import PATIENCE_S

from edgellm import explain
from edgellm.errors import (
    BadArtifact,
    StoreUnwritable,
    UnknownAdapter,
    UnsupportedArtifact,
    UsageError,
    speak_in_flags,
)
from edgellm.store import adapters as adapter_store
from edgellm.store.adapters import FILE, RECORD, AdapterOrigin, AdapterStore
from edgellm.testing.limit import within
from edgellm.types import store_problem as problems

BASE = "smollm2-135m-instruct"
SHA = "ab" * 32
NEEDS_PIPES = pytest.mark.skipif(os.name != "posix", reason="pipes have no names here")


def origin(name="mail", base=BASE, **more):
    return AdapterOrigin(name, base, "Q4_1", SHA, "/models/base.gguf", **more)


def put(path):
    path.write_bytes(SOUND.build())


def test_what_is_added_is_listed_and_found():
    store = AdapterStore()
    store.add(origin(method="lora", source="x.gguf", figures={"before": 0.2, "after": 0.9}), put)
    store.add(origin("news"), put)
    store.add(origin("mail", base="qwen3-0.6b"), put)

    assert [stored.label for stored in store.installed()] == ["qwen3-0.6b:mail", f"{BASE}:mail", f"{BASE}:news"]
    stored = store.find(BASE.upper(), "mail")
    record = stored.sound()
    assert stored.path == AdapterStore().root / BASE / "mail" / FILE
    assert (record.architecture, record.rank, record.alpha) == ("llama", 4, 8.0)
    assert (record.base_quant, record.base_sha256, record.base_path) == ("Q4_1", SHA, "/models/base.gguf")
    assert (record.method, record.figures) == ("lora", {"before": 0.2, "after": 0.9})
    assert record.bytes == stored.path.stat().st_size
    assert record.made_at.endswith("+00:00")
    stored.require_base(SHA, "base.gguf")


@pytest.mark.parametrize("in_flags", [False, True])
def test_hints_are_for_who_asked(in_flags):
    """In Python no command is named."""
    store, before = AdapterStore(), speak_in_flags(in_flags)
    try:
        with pytest.raises(UnknownAdapter) as unknown:
            store.find(BASE, "mail")
        stored = store.add(origin(), put)
        with pytest.raises(UsageError) as taken:
            store.add(origin(), put)
        stored.path.unlink()
        with pytest.raises(UnsupportedArtifact) as damaged:
            store.find(BASE, "mail").sound()
        merged = replace(stored, record=structs.replace(stored.record, merged_quant="Q8_0"))
        with pytest.raises(UnsupportedArtifact) as no_adapter:
            merged.adapter()
    finally:
        speak_in_flags(before)
    told = [str(error.value) for error in (unknown, taken, damaged, no_adapter)]
    assert ["edgellm adapters" in text or "--force" in text or "edgellm run" in text for text in told] == [in_flags] * 4


def test_another_base_is_refused_by_its_hash():
    stored = AdapterStore().add(origin(), put)

    with refuses(UnsupportedArtifact):
        stored.require_base("cd" * 32, "other.gguf")


def test_a_name_that_is_there_is_replaced_only_when_asked():
    store = AdapterStore()
    store.add(origin(), put)

    with refuses(UsageError, param="name"):
        store.add(origin(), put)
    store.add(origin(method="vera"), put, force=True)
    assert [stored.sound().method for stored in store.installed()] == ["vera"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "latest", ".hidden", "x" * 65, "ü"])
def test_names_that_no_adapter_has_are_refused(name):
    with refuses(UsageError, param="adapters"):
        AdapterStore().add(origin(name), put)


@pytest.mark.parametrize("base", ["../../etc", "hf://owner/repo", "./model.gguf", "." * 3])
def test_no_base_leads_out_of_the_store(base):
    stored = AdapterStore().add(origin(base=base), put)

    assert stored.path.resolve().is_relative_to(AdapterStore().root)
    assert AdapterStore().find(base, "mail").base_id == base


@pytest.mark.parametrize("fault", ["raises", "lies"])
def test_what_is_no_adapter_leaves_nothing_behind(fault):
    def write(path):
        path.write_bytes(LYING["rank-0"].build())
        if fault == "raises":
            raise BadArtifact("the export failed")

    with refuses(BadArtifact, varies=r"mail\.\w{8}"):
        AdapterStore().add(origin(), write)

    assert AdapterStore().installed() == []
    assert list((AdapterStore().root / BASE).iterdir()) == []


def test_one_that_is_replaced_stays_until_the_new_one_is_whole():
    store = AdapterStore()
    store.add(origin(method="lora"), put)

    def write(path):
        assert store.find(BASE, "mail").sound().method == "lora"
        raise BadArtifact("the export failed")

    with refuses(BadArtifact):
        store.add(origin(method="vera"), write, force=True)
    assert store.find(BASE, "mail").sound().method == "lora"


def damage(stored, how):
    if how == "gone":
        stored.path.unlink()
    elif how == "pipe":
        stored.path.unlink()
        os.mkfifo(stored.path)
    elif how == "cut":
        stored.path.write_bytes(stored.path.read_bytes()[:-1])
    elif how == "changed":
        data = bytearray(stored.path.read_bytes())
        data[-1] ^= 1
        stored.path.write_bytes(data)
        os.utime(stored.path, ns=(1, 1))
    elif how == "record-gone":
        (stored.folder / RECORD).unlink()
    elif how == "record-cut":
        (stored.folder / RECORD).write_text("{")
    elif how == "nul":
        content = json.loads((stored.folder / RECORD).read_text())
        (stored.folder / RECORD).write_text(json.dumps(content | {"base_path": "m.gguf\0"}))
    elif how == "record-of-another-type":
        (stored.folder / RECORD).write_text('{"schema": 1, "name": 3}')
    else:
        content = json.loads((stored.folder / RECORD).read_text())
        (stored.folder / RECORD).write_text(json.dumps(content | {"schema": 2}))


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("gone", problems.FileUnreadable),
        pytest.param("pipe", problems.FileUnreadable, marks=NEEDS_PIPES),
        ("cut", problems.OtherSize),
        ("changed", problems.OtherHash),
        ("record-gone", problems.RecordUnreadable),
        ("record-cut", problems.RecordUnreadable),
        ("nul", problems.RecordUnreadable),
        ("record-of-another-type", problems.RecordUnreadable),
        ("newer", problems.RecordOfNewer),
    ],
)
def test_a_damaged_one_is_told_not_used_and_can_be_removed(how, kind):
    store = AdapterStore()
    store.add(origin("good"), put)
    damage(store.add(origin(), put), how)

    stored = within(PATIENCE_S, "find", lambda: store.find(BASE, "mail"))

    assert type(stored.problem) is kind
    assert explain.stored(stored.problem)
    with refuses(UnsupportedArtifact):
        stored.sound()
    assert store.remove(stored) >= 0
    assert [other.name for other in store.installed()] == ["good"]


def test_a_file_whose_time_alone_changed_is_sound():
    stored = AdapterStore().add(origin(), put)
    os.utime(stored.path, ns=(1, 1))

    assert AdapterStore().find(BASE, "mail").sound().rank == 4


def test_one_that_is_not_there_is_told_with_those_that_are():
    with refuses(UnknownAdapter, adapter="mail"):
        AdapterStore().find(BASE, "mail")
    AdapterStore().add(origin(), put)
    with refuses(UnknownAdapter, adapter="spam"):
        AdapterStore().find(BASE, "spam")


def test_what_a_killed_process_left_is_not_listed_and_goes():
    left = AdapterStore().root / BASE / ".mail.0123abcd.incomplete"
    left.mkdir(parents=True)
    put(left / FILE)
    assert AdapterStore().installed() == []

    AdapterStore().add(origin(), put)
    assert not left.exists()


def _hold(ready, done):
    def write(path):
        put(path)
        ready.set()
        done.wait(60)

    AdapterStore().add(origin(), write)


def test_two_processes_do_not_write_one_at_a_time():
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(ready, done))
    process.start()
    try:
        assert ready.wait(60)
        with refuses(UsageError):
            AdapterStore().add(origin(), put)
    finally:
        done.set()
        process.join()
    assert AdapterStore().find(BASE, "mail").sound().rank == 4


def test_a_folder_that_cannot_be_written_is_told():
    AdapterStore().root.parent.mkdir(parents=True, exist_ok=True)
    AdapterStore().root.write_text("")

    with refuses(StoreUnwritable):
        AdapterStore().add(origin(), put)


def test_the_largest_record_is_read_within_bounds(monkeypatch):
    stored = AdapterStore().add(origin(), put)
    monkeypatch.setattr(adapter_store, "_MAX_BYTES", 10)

    assert type(AdapterStore().find(BASE, "mail").problem) is problems.RecordUnreadable
    assert stored.problem is None


def test_one_that_is_replaced_is_deleted_when_the_new_one_has_its_name(monkeypatch):
    """A process that is killed while it deletes loses nothing."""
    store = AdapterStore()
    store.add(origin(), put)

    def killed(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter_store.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        store.add(origin(method="vera"), put, force=True)
    assert store.find(BASE, "mail").sound().method == "vera"


def test_what_was_not_deleted_to_the_end_goes_with_the_next_change():
    store = AdapterStore()
    store.add(origin(), put)
    left = store.root / "qwen3-0.6b" / ".news.7d0c31aa.removed"
    left.mkdir(parents=True)

    store.remove(store.find(BASE, "mail"))
    assert not left.exists()


def test_one_that_is_written_does_not_disturb_another_whose_name_goes_on_behind_a_dot():
    store = AdapterStore()

    def put_slowly(path):
        store.add(origin("mail"), put)
        put(path)

    store.add(origin("mail.v2"), put_slowly)
    assert [stored.label for stored in store.installed()] == [f"{BASE}:mail", f"{BASE}:mail.v2"]
