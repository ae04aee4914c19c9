"""The first installation, as it is documented: nothing of a bundle runs before it was compared with what is signed."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from minisign import KeyPair
from support import bundles

from edgellm.app.bundle import contents as packed
from edgellm.app.bundle import fitting
from edgellm.bundle import layout
from edgellm.bundle.manifest import INSTALL, INSTALL_SIGNATURE, NAME, SIGNATURE, PackedPython, Target
from edgellm.bundle.papers import PackedPart
from edgellm.bundle.signature import sign
from edgellm.bundle.wheels import Wheel
from edgellm.bundle.writer import Content

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the script is for Linux"),
    pytest.mark.skipif(shutil.which("minisign") is None, reason="needs minisign"),
]

RECIPE = Path(__file__).parents[2] / "docs" / "how-to" / "machines-without-a-network.md"
HEADING = "## On a machine that has no EdgeLLM yet"
WHEEL, ARCHIVE, PROGRAM = "wheels/edgellm-1.0-py3-none-any.whl", "python/python.tar", "python/bin/python3"
Members = dict[str, bytes]


def recipe(folder: Path) -> str:
    """What the page says, without the lines that need a system's folders."""
    block = RECIPE.read_text("utf-8").partition(HEADING)[2].split("```")[1]
    lines = [line for line in block.splitlines() if "/etc/" not in line]
    return "\n".join(lines).replace("/opt/edgellm", str(folder / "root"))


def runnable(version: str, says: str) -> bytes:
    """A wheel of "edgellm" that pip installs; run, it leaves a file with this name."""
    info, file = f"edgellm-{version}.dist-info", io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("edgellm/__init__.py", "")
        archive.writestr("edgellm/__main__.py", f"open({says!r}, 'w')\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.4\nName: edgellm\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file.getvalue()


def interpreter(says: str) -> bytes:
    """A tar with a Python that is the machine's own, and leaves a file with this name."""
    member = tarfile.TarInfo(PROGRAM)
    program = f'#!/bin/sh\ntouch "{says}"\nexec {sys.executable} "$@"\n'.encode()
    member.size, member.mode = len(program), 0o755
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(member, io.BytesIO(program))
    return file.getvalue()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A signed bundle for this machine, as `create` puts it together, and the key that checks it."""
    wheel = tmp_path / "edgellm-1.0-py3-none-any.whl"
    wheel.write_bytes(runnable("1.0", "edgellm ran"))
    archive = Content.of(ARCHIVE, interpreter("python ran"))
    library, version = fitting.c_library()
    target = bundles.target(
        arch=platform.machine(), os="linux", python="3.1", requires=("edgellm[bundle]",),
        interpreter=PackedPython(archive=archive.path, program=PROGRAM, bytes=1000),
        wheels=(WHEEL,), **{library: ".".join(version.split(".")[:2])},
    )  # fmt: skip
    files = [*bundles.contents(), archive, Content.of_file(WHEEL, wheel)]
    files += scripts(target, wheel, files)
    bundles.make(tmp_path / "pi.edgellm", files, targets=(target,))
    (tmp_path / "box.key.pub").write_bytes(bytes(bundles.PUBLIC) + b"\n")
    return tmp_path / "pi.edgellm"


def scripts(target: Target, wheel: Path, files: list[Content]) -> list[Content]:
    part = PackedPart("file", "x", "", "MIT", tuple(files))
    script = packed.install_script([target], [[Wheel(wheel, "edgellm", None, {}, 0)]], [part], 1)
    assert script is not None
    return [script, packed.signature_of(script, bundles.KEY, "box", 1)]


def ran(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith(" ran")}


def follow(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", recipe(folder)], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def rewrite(path: Path, change: Callable[[Members], None], *more: tarfile.TarInfo) -> None:
    """The tar as somebody else may write it."""
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    change(members)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for one in more:
            archive.addfile(one)
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def evil_script(members: Members) -> None:
    members[INSTALL] = b"touch 'evil ran'\n".ljust(len(members[INSTALL]), b"#")


def another_key(members: Members) -> None:
    evil_script(members)
    members[INSTALL_SIGNATURE] = sign(members[INSTALL], KeyPair.generate().secret_key, "install of edgellm bundle")


def another_signed_text(members: Members) -> None:
    """No program, and a shell runs nothing of it."""
    members[INSTALL], members[INSTALL_SIGNATURE] = members[NAME], members[SIGNATURE]


def no_signature(members: Members) -> None:
    del members[INSTALL_SIGNATURE]


def no_script(members: Members) -> None:
    del members[INSTALL]


def another_wheel(members: Members) -> None:
    members[WHEEL] = runnable("1.0", "evil ran")


def shorter_wheel(members: Members) -> None:
    members[WHEEL] = b""


def no_wheel(members: Members) -> None:
    del members[WHEEL]


def another_python(members: Members) -> None:
    members[ARCHIVE] = interpreter("evil ran")


CHANGES = [
    evil_script, another_key, another_signed_text, no_signature, no_script, another_wheel, shorter_wheel, no_wheel,
    another_python,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_runs_of_a_bundle_that_somebody_changed(change, made, tmp_path):
    rewrite(made, change)
    done = follow(tmp_path)

    assert (done.returncode != 0, ran(tmp_path)) == (True, set()), done.stderr
    assert not list((tmp_path / "root").rglob("*") if (tmp_path / "root").exists() else [])


@pytest.mark.parametrize("change", [another_wheel, another_python])
def test_a_script_that_nobody_checked_compares_what_it_runs(change, made, tmp_path):
    """In one command, where the medium is trusted with the script."""
    rewrite(made, change)
    command = 'tar -xOf "$1" install | sh -s -- "$1" --root "$2" --key box.key.pub'
    done = subprocess.run(
        ["sh", "-c", command, "sh", made, tmp_path / "root"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, ran(tmp_path)) == (4, set()), done.stderr


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_a_files_place_is_not_followed(kind, made, tmp_path):
    (tmp_path / "outside").write_bytes(b"own")
    link = tarfile.TarInfo(WHEEL)
    link.type, link.linkname = kind, str(tmp_path / "outside")
    rewrite(made, another_wheel, link)
    done = follow(tmp_path)

    assert (done.returncode, ran(tmp_path)) == (4, set()), done.stderr
    assert (tmp_path / "outside").read_bytes() == b"own"


@pytest.mark.slow(20)
def test_what_was_signed_runs_and_no_wheel_beside_it(made, tmp_path):
    """pip would take the newer one."""
    newer = {"wheels/edgellm-99.0-py3-none-any.whl": runnable("99.0", "evil ran")}
    rewrite(made, lambda members: members.update(newer))
    done = follow(tmp_path)

    assert (done.returncode, ran(tmp_path)) == (0, {"python ran", "edgellm ran"}), done.stderr
    made.rename(tmp_path / "pi:1.edgellm")  # which tar takes for a file of the machine pi
    subprocess.run(["sh", "install", "pi:1.edgellm", "--root", "root"], cwd=tmp_path, check=True, capture_output=True)


def test_the_script_has_the_hashes_of_what_it_runs(made):
    with tarfile.open(made) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    rows = members[INSTALL].decode().partition("<<'FILES'\n")[2].partition("\nFILES")[0].splitlines()

    run = [name for name in members if name.startswith(("wheels/", "python/"))]
    assert rows == [f"{hashlib.sha256(members[name]).hexdigest()} {len(members[name])} {name}" for name in sorted(run)]


VENVLESS = """#!/bin/sh
case "$*" in *version_info*) echo 9.9 ;; *) exit 1 ;; esac
"""


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_the_script_says_how_it_is_called(word):
    script = Path(layout.__file__).with_name("install.sh")
    done = subprocess.run(["sh", script, word], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("usage: sh install FILE --key KEY|--unsigned")


@pytest.mark.parametrize(("has_it", "told"), [(True, "install python9.9-venv"), (False, "--python ")])
def test_the_python_of_the_bundle_is_looked_for_by_its_name(has_it, told, tmp_path):
    """Beside `python3`, which is another one."""
    wheel = tmp_path / "edgellm-1.0-py3-none-any.whl"
    wheel.write_bytes(runnable("1.0", "edgellm ran"))
    library, version = fitting.c_library()
    libraries = {library: ".".join(version.split(".")[:2])}
    target = bundles.target(arch=platform.machine(), os="linux", python="9.9", wheels=(WHEEL,), **libraries)
    script, _ = scripts(target, wheel, [Content.of_file(WHEEL, wheel)])
    (tmp_path / "install").write_bytes(script.data)
    if has_it:
        (tmp_path / "python9.9").write_text(VENVLESS)
        (tmp_path / "python9.9").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", "install", "install", "--root", "root", "--unsigned"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert (done.returncode, told in done.stderr) == (4, True), done.stderr
    assert not (tmp_path / "root").exists()
