"""Wheels that anybody may have made, laid out in a folder: what cannot be is refused, and nothing lies outside."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from installer.destinations import SchemeDictionaryDestination
from support import images
from support.refusals import refuses

from edgellm.bundle import wheels
from edgellm.bundle.wheels import Platform
from edgellm.errors import UsageError
from edgellm.image import environment

INFO = "x-1.0.dist-info"


def lay_out(folder: Path, files: dict[str, bytes] | None = None, record: str = "") -> None:
    images.wheel(folder / "wheels", "x", files=files, record=record)
    found = wheels.needed(["x"], [folder / "wheels"], Platform("x86_64", "3.13", "2.41"))
    environment.laid_out(found, "3.13", folder / "out")


HOSTILE = {
    "a-program-elsewhere": ({f"{INFO}/entry_points.txt": b"[console_scripts]\n../../../../y = x:main\n"}, ""),
    "an-absolute-program": ({f"{INFO}/entry_points.txt": b"[console_scripts]\n/y = x:main\n"}, ""),
    "programs-in-no-form": ({f"{INFO}/entry_points.txt": b"garbage[[[\n=\n"}, ""),
    "a-program-of-nothing": ({f"{INFO}/entry_points.txt": b"[console_scripts]\ny = not::valid\n"}, ""),
    "six-fields": ({}, "a,b,c,d,e,f\n"),
    "an-open-quote": ({}, '"open\n'),
    "an-unknown-scheme": ({"x-1.0.data/nonsense/x": b""}, ""),
    "no-text": ({f"{INFO}/WHEEL": b"\xff\xfe"}, ""),
    "two-at-one-place": ({"x-1.0.data/purelib/x/__init__.py": b""}, ""),
    "a-file-and-a-folder": ({"x/a": b"", "x-1.0.data/purelib/x/a/b": b""}, ""),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_laid_out_is_a_wheel_that_is_not_sound(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def joined(self: SchemeDictionaryDestination, scheme: str, path: str) -> Path:
        return Path(f"{self.destdir}{os.path.join(self.scheme_dict[scheme], path)}")

    monkeypatch.setattr(SchemeDictionaryDestination, "_path_with_destdir", joined)  # as before installer 1.0
    files, record = HOSTILE[case]

    with refuses(UsageError, param="wheels", varies="sound wheel: .*"):
        lay_out(tmp_path, files, record)
    assert {path.name for path in tmp_path.iterdir()} <= {"wheels", "out"}
    assert not list(tmp_path.rglob("y"))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), MemoryError()], ids=["disk", "memory"])
def test_what_this_machine_lacks_is_not_the_wheels(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(SchemeDictionaryDestination, "write_to_fs", fails)
    with pytest.raises(type(error)) as caught:
        lay_out(tmp_path)
    assert caught.value is error
