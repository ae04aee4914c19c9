"""A Python environment in an image, laid out of wheels without running anything of them: the target may be another
processor's. PyPA's `installer` does it, in the extra `edgellm[make-bundle]`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edgellm.bundle.papers import PackedPart, licence_of
from edgellm.bundle.wheels import Wheel
from edgellm.bundle.writer import Content
from edgellm.errors import UsageError
from edgellm.image.tar_layer import Link

PREFIX = "opt/edgellm"
PYTHON = f"/{PREFIX}/bin/python3"
_CONFIG = """home = /usr/bin
include-system-site-packages = false
version = {python}
"""


def laid_out(wheels: Iterable[Wheel], python: str, staging: Path) -> list[PackedPart]:
    """The files of each wheel, installed below `PREFIX`; they lie in `staging` until they are packed.

    Raises:
        UsageError: a wheel cannot be installed, or states no licence. OSError.
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
    from installer.sources import WheelFile

    packages = f"/{PREFIX}/lib/python{python}/site-packages"
    schemes = {
        "purelib": packages, "platlib": packages, "scripts": f"/{PREFIX}/bin", "data": f"/{PREFIX}",
        "headers": f"/{PREFIX}/include/python{python}/{wheel.name}",
    }  # fmt: skip
    destination = SchemeDictionaryDestination(schemes, PYTHON, "posix", destdir=str(folder))
    try:
        with WheelFile.open(wheel.path) as source:
            install(source, destination, {"INSTALLER": b"edgellm\n"})
    except (InstallerError, ValueError, KeyError, FileExistsError) as error:
        message = f"{wheel.path} cannot be installed: {error}"
        raise UsageError(message, hint="fetch or build it again", param="wheels") from None


def _content(path: Path, folder: Path) -> Content:
    content = Content.of_file(path.relative_to(folder).as_posix(), path)
    is_program = os.access(path, os.X_OK)
    return Content(content.path, content.n_bytes, content.sha256, path, executable=is_program)


def settings_file(python: str) -> Content:
    """What makes the folder an environment of its own."""
    return Content.of(f"{PREFIX}/pyvenv.cfg", _CONFIG.format(python=python).encode())


def interpreter() -> list[Link]:
    return [Link(f"{PREFIX}/bin/python3", "/usr/bin/python3"), Link(f"{PREFIX}/bin/python", "python3")]
