"""Which package a file is from: by one walk through files and lists, however many packages a root names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from support.refusals import refuses

from edgellm.bundle.writer import Content
from edgellm.errors import UsageError
from edgellm.image import debian

INFO = "var/lib/dpkg/info"


def status(*names: str, arch: str = "amd64") -> str:
    row = "Package: {}\nStatus: install ok installed\nVersion: 1\nArchitecture: {}\n\n"
    return "".join(row.format(name, arch) for name in names)


def contents(*paths: str) -> dict[str, Content]:
    return {path: Content.of(path, b"") for path in paths}


class Counted(dict[str, Content]):
    """Counts the walks through it."""

    n_walks = 0

    def __iter__(self) -> Iterator[str]:
        self.n_walks += 1
        return super().__iter__()


class Asked(dict[str, str]):
    """Counts how often each text is asked for."""

    def __init__(self, texts: dict[str, str]) -> None:
        super().__init__(texts)
        self.n_asked: Counter[str] = Counter()

    def get(self, key: str, default: str = "") -> str:  # type: ignore[override]
        self.n_asked[key] += 1
        return super().get(key, default)


@pytest.mark.parametrize("names", [[f"p{i}" for i in range(500)], ["p0"] * 500], ids=["many", "one many times"])
def test_files_and_lists_are_walked_through_once_however_many_packages_there_are(names: list[str]) -> None:
    files = Counted(contents("usr/bin/tool", f"{INFO}/p0.list", "usr/other"))
    texts = Asked({debian.STATUS: status(*names), f"{INFO}/p0.list": "/usr\n/bin/tool\n"})

    parts = debian.parts(files, texts, "MIT")

    assert {part.name: [content.path for content in part.files] for part in parts} == {
        "p0": ["usr/bin/tool", f"{INFO}/p0.list"], "as installed": ["usr/other"],
    }  # fmt: skip
    assert files.n_walks <= 2
    assert max(texts.n_asked.values()) <= 2


def test_a_package_whose_name_begins_as_another_s_has_its_own_files() -> None:
    files = contents(f"{INFO}/python3.11.list", f"{INFO}/python3:amd64.md5sums")
    parts = debian.parts(files, {debian.STATUS: status("python3.11", "python3")}, "MIT")

    assert {part.name: [content.path for content in part.files] for part in parts} == {
        "python3": [f"{INFO}/python3:amd64.md5sums"], "python3.11": [f"{INFO}/python3.11.list"],
    }  # fmt: skip


def test_more_packages_than_debian_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "MOST_PACKAGES", 3)
    with refuses(UsageError, param="root"):
        debian.parts({}, {debian.STATUS: status(*"abcd")}, "MIT")
