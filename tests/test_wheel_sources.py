"""What wheels are made of, before anything is compiled: fixes of the sources, words on faults and on differences."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.utils import parse_wheel_filename
from support.made_wheels import script

FIX = """\
--- a/src/llama.cpp
+++ b/src/llama.cpp
@@ -1,3 +1,3 @@
 one
-two
+2
 three
"""
RELEASED = "llama_cpp_python-0.3.36+edgellm-py3-none-manylinux_2_28_x86_64.whl"


@pytest.fixture
def fix(tmp_path: Path) -> Path:
    patch = tmp_path / "fix.patch"
    patch.write_text(FIX, "utf-8")
    return patch


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Of llama.cpp, one file; below a repository, as a checkout's folder build/ is."""
    (tmp_path / ".git").mkdir()
    file = tmp_path / "build" / "llama.cpp" / "src" / "llama.cpp"
    file.parent.mkdir(parents=True)
    file.write_text("one\ntwo\nthree\n", "utf-8")
    return file


def test_a_fix_is_in_the_sources(fix: Path, source: Path) -> None:
    script("sources").apply(fix, source.parents[1])

    assert source.read_text("utf-8") == "one\n2\nthree\n"


def test_a_fix_that_does_not_fit_is_refused_and_changes_nothing(fix: Path, source: Path) -> None:
    sources = script("sources")
    fix.write_text(FIX + FIX.replace("one", "zero"), "utf-8")

    with pytest.raises(sources.Refused):
        sources.apply(fix, source.parents[1])
    assert source.read_text("utf-8") == "one\ntwo\nthree\n"


def test_other_fixes_take_the_place_of_those_that_are_there(fix: Path, source: Path) -> None:
    sources = script("sources")
    more = fix.with_name("more.patch")
    more.write_text(FIX.replace("-two\n+2", "-2\n+zwei"), "utf-8")
    for patches, second in (([fix, more], "zwei"), ([fix], "2"), ([], "two"), ([fix], "2")):
        sources.fix(source.parents[1], patches)
        assert source.read_text("utf-8") == f"one\n{second}\nthree\n"

    as_it_was = source.stat().st_mtime_ns
    sources.fix(source.parents[1], [fix])
    assert source.stat().st_mtime_ns == as_it_was  # nothing is compiled again
    with pytest.raises(sources.Refused):
        sources.fix(source.parents[1], [fix, fix])
    sources.fix(source.parents[1], [])
    assert source.read_text("utf-8") == "one\ntwo\nthree\n"


def test_sources_whose_change_was_cut_off_are_refused(fix: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = script("sources")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources, "apply", cut)
        with pytest.raises(KeyboardInterrupt):
            sources.fix(source.parents[1], [fix])

    for patches in ([], [fix]):
        with pytest.raises(sources.Refused):
            sources.fix(source.parents[1], patches)


def test_a_wheel_with_one_more_fix_is_the_newer_one(fix: Path, tmp_path: Path) -> None:
    sources, native = script("sources"), SimpleNamespace()
    builds = [sources.Sources(native, tmp_path, [fix] * n_fixes).build for n_fixes in range(12)]
    names = [RELEASED.replace("edgellm-", f"edgellm-{build}-" if build else "edgellm-") for build in builds]

    parsed = [parse_wheel_filename(name) for name in names]
    assert len({version for _, version, _, _ in parsed}) == 1
    assert [build for _, _, build, _ in parsed] == sorted({build for _, _, build, _ in parsed})


def test_files_that_differ_are_named(tmp_path: Path) -> None:
    def wheel(name: str, **files: str) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, text in files.items():
                archive.writestr(zipfile.ZipInfo(member), text)
        return tmp_path / name

    first = wheel("first", same="1", other="2", gone="3")
    differences = script("again").differences
    assert differences(first, wheel("second", same="1", other="2", gone="3")) == []
    assert differences(first, wheel("third", same="1", other="x")) == ["gone", "other"]
    assert differences(first, wheel("fourth", other="2", same="1", gone="3")) == [""]


def test_lists_of_faults_are_told_with_who_read_them() -> None:
    advisories = script("advisories")
    text = '[[list]]\nname = "A"\naddress = "a"\nlooked = 2026-11-28\n[[list]]\nname = "B"\naddress = "b"\n'

    assert [row.looked for row in advisories.advisories(text)] == [datetime.date(2026, 11, 28), None]
    for row in advisories.advisories(advisories.FILE.read_text("utf-8")):
        assert str(row) in advisories.told()
