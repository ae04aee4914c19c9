"""A Python environment in an image, laid out of wheels without running anything of them: the target may be another
processor's. PyPA's `installer` does it, in the extra `edgellm[make-bundle]`.
"""

from __future__ import annotations

import configparser
import csv
import errno
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from edgellm.bundle.papers import PackedPart, licence_of
from edgellm.bundle.wheels import UNSOUND, Wheel, is_inside, unsound
from edgellm.bundle.writer import Content
from edgellm.image.tar_layer import Link

if TYPE_CHECKING:
    from installer.records import RecordEntry
    from installer.utils import Scheme

PREFIX = "opt/edgellm"
PYTHON = f"/{PREFIX}/bin/python3"
# None = the library found a file there already. Other errors are the disk's.
_OF_THE_WHEEL = (None, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)
_CONFIG = """home = /usr/bin
include-system-site-packages = false
version = {python}
"""


def laid_out(wheels: Iterable[Wheel], python: str, staging: Path) -> list[PackedPart]:
    """The files of each wheel, installed below `PREFIX`; they lie in `staging` until they are packed.

    Raises:
        UsageError: a wheel is not sound, or states no licence. OSError.
    """
    parts = []
    for no, wheel in enumerate(wheels):
        folder = staging / str(no)
        _install(wheel, python, folder)
        files = tuple(_content(path, folder) for path in sorted(folder.rglob("*")) if path.is_file())
        parts.append(PackedPart("library", wheel.name, str(wheel.version), licence_of(wheel), files))
    return parts


def _install(wheel: Wheel, python: str, folder: Path) -> None:
    from installer import install
    from installer.destinations import SchemeDictionaryDestination
    from installer.exceptions import InstallerError
    from installer.records import InvalidRecordEntry
    from installer.sources import WheelFile

    class Inside(SchemeDictionaryDestination):
        """Asks of each path, those of programs in entry_points.txt too, what the library does since 1.0: nothing holds
        an environment to the version that the extra asks for, and systems ship older ones."""

        def write_to_fs(self, scheme: Scheme, path: str, stream: BinaryIO, is_executable: bool) -> RecordEntry:
            if not is_inside(PurePosixPath(path)):
                raise ValueError(f"{path!r} leads out of it")
            return super().write_to_fs(scheme, path, stream, is_executable)

    packages = f"/{PREFIX}/lib/python{python}/site-packages"
    schemes = {
        "purelib": packages, "platlib": packages, "scripts": f"/{PREFIX}/bin", "data": f"/{PREFIX}",
        "headers": f"/{PREFIX}/include/python{python}/{wheel.name}",
    }  # fmt: skip
    try:
        with WheelFile.open(wheel.path) as source:
            install(source, Inside(schemes, PYTHON, "posix", destdir=str(folder)), {"INSTALLER": b"edgellm\n"})
    except OSError as error:
        if error.errno not in _OF_THE_WHEEL:
            raise
        raise unsound(wheel.path, error) from None
    except (*UNSOUND, AssertionError, csv.Error, configparser.Error, InstallerError, InvalidRecordEntry) as error:
        raise unsound(wheel.path, error) from None


def _content(path: Path, folder: Path) -> Content:
    content = Content.of_file(path.relative_to(folder).as_posix(), path)
    is_program = os.access(path, os.X_OK)
    return Content(content.path, content.n_bytes, content.sha256, path, executable=is_program)


def settings_file(python: str) -> Content:
    """What makes the folder an environment of its own."""
    return Content.of(f"{PREFIX}/pyvenv.cfg", _CONFIG.format(python=python).encode())


def interpreter() -> list[Link]:
    return [Link(f"{PREFIX}/bin/python3", "/usr/bin/python3"), Link(f"{PREFIX}/bin/python", "python3")]
