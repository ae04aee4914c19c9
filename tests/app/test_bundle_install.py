"""A bundle is installed beside what is served, or refused before anything is written."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from support import bundles, pythons
from support.read_only import run_mounted
from support.refusals import check_refusal, refuses

from edgellm import settings
from edgellm.app.bundle import fitting, install
from edgellm.app.bundle.install import InstallOptions
from edgellm.bundle.manifest import PackedPython
from edgellm.bundle.slots import BundleSlot, Slots
from edgellm.bundle.tar_tree import unpack_tree
from edgellm.cli.main import cli
from edgellm.errors import (
    BadArtifact,
    DiskFull,
    ExpiredBundle,
    NothingFits,
    OlderBundle,
    UnsupportedArtifact,
    UntrustedBundle,
    UsageError,
)
from edgellm.files import SPARE_BYTES
from edgellm.hardware.probe import probe
from edgellm.history import calibrations
from edgellm.types.calibration import Calibration

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links of a POSIX system")

HERE = {"arch": platform.machine(), "os": platform.system().lower()}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.edgellm"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def make(path: Path, *, more: dict[str, Any] | None = None, **changes: Any) -> Path:
    bundles.make(path, targets=(bundles.target(**HERE | (more or {})),), **changes)
    return path


def put(path: Path, root: Path, **options: Any) -> install.Installed:
    return install.install(path, InstallOptions(root, **{"key": bundles.PUBLIC} | options))


def flip(root: Path, name: str) -> None:
    """Serve a slot whose model is no model, unasked."""
    with install.changing(root) as two:
        two.activate(two.slot(name))


def invoke(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["bundle", *map(str, arguments)])
    assert (result.exception is None) == (code == 0), result.output
    return result


def test_it_is_installed_and_served_once_it_is_activated(path, root):
    done = put(make(path), root)
    assert done.is_new
    assert Slots(root).current() is None
    flip(root, done.slot.name)

    current = root / "current"
    home = current / "home" / "data" / "models"
    assert (home / bundles.FOLDER.partition("/")[2] / "toy.gguf").exists()
    script = (current / "run").read_text()
    assert f"exec {sys.executable} -P -m edgellm serve toy:F32" in script
    assert f"ExecStart={current}/run" in (current / "edgellm.service").read_text()
    assert os.access(current / "run", os.X_OK)


def test_what_will_be_served_is_shown(path, root):
    make(path)
    served = "serves: edgellm serve toy:F32 --offline"

    assert served in invoke("verify", path).stdout
    assert served in invoke("install", path, "--root", root, "--unsigned").stdout
    assert json.loads(invoke("install", path, "--root", root, "--unsigned", "--json").stdout)["serve"] == [
        "toy:F32", "--offline",
    ]  # fmt: skip


def test_the_same_again_changes_nothing(path, root):
    first = put(make(path), root)
    again = put(path, root)

    assert (first.slot.name, again.slot.name, again.is_new) == ("A", "A", False)


def damage(slot: BundleSlot) -> None:
    (slot.files / bundles.FOLDER / "toy.gguf").write_bytes(b"worn")


def test_a_damaged_slot_is_installed_anew(path, root):
    damage(put(make(path), root).slot)
    done = json.loads(invoke("install", path, "--root", root, "--unsigned", "--json").stdout)

    assert (done["slot"], done["new"], [row["slot"] for row in done["damaged"]]) == ("A", True, ["A"])
    assert not put(path, root).is_new


def test_wheels_with_a_file_in_common_are_whole(path, root):
    """pip lets the last one win, and looks at no hash of a wheel's own list."""
    wheels = [bundles.Content.of(f"wheels/{name}-1.0-py3-none-any.whl", wheel(name)) for name in ("one", "two")]
    target = {"python": PYTHON, "glibc": "2.17", "requires": ("one", "two")}
    make(path, files=[*bundles.contents(), *wheels], more=target | {"wheels": tuple(one.path for one in wheels)})
    done = put(path, root)

    assert not put(path, root).is_new
    next(done.slot.folder.glob("venv/lib/python*/site-packages/common.py")).write_text("name = 'three'\n")
    assert [one.name for one in put(path, root).damaged] == ["A"]


def wheel(name: str) -> bytes:
    info, file = f"{name}-1.0.dist-info", io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("common.py", f"name = {name!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"common.py,shake_128=AAAA,4\ngone.py,sha256=AAAA,1\n{info}/RECORD,,\n")
    return file.getvalue()


def test_the_other_slot_gets_it_where_the_damaged_one_is_served(path, root):
    done = put(make(path), root)
    flip(root, "A")
    damage(done.slot)
    again = put(path, root)

    assert (again.slot.name, again.is_new, [one.name for one in again.damaged]) == ("B", True, ["A"])
    assert Slots(root).current().name == "A"
    assert (done.slot.files / bundles.FOLDER / "toy.gguf").read_bytes() == b"worn"
    assert (put(path, root).slot.name, put(path, root).is_new) == ("B", False)


def test_no_damaged_slot_is_served(path, root):
    """Neither the other one, unasked, nor the one that is current."""
    for release in (1, 2):
        flip(root, put(make(path, release=release), root).slot.name)
    for slot in Slots(root).all():
        damage(slot)

    told = json.loads(invoke("rollback", "--root", root, "--json", code=4).stdout)
    assert told["error"]["code"] == "bad_artifact"
    for name in "AB":
        check_refusal(invoke("activate", name, "--root", root, "--skip", "start", code=4).exception, BadArtifact)
    assert Slots(root).current().name == "B"


def test_measurements_of_such_a_machine_are_kept_unless_it_has_its_own(path, root):
    rates = Calibration({("Q4_K", 2): 5.0}, {("Q4_K", 2): 60.0}, "b1", layer_s={2: 2e-5})
    own = replace(rates, decode={("Q4_K", 2): 6.0}, build="b2")
    machine = probe(measure=False)
    entries = [calibrations.entry(machine, "gguf", one) for one in (rates, replace(rates, build="b2"))]
    files = [bundles.Content.of(f"calibration/{name}", data) for name, data in entries]
    make(path, files=[*bundles.contents(), *files])
    with settings.override(home=root):
        calibrations.save(machine, "gguf", own)
    done = put(path, root)

    with settings.override(home=done.slot.folder / "home"):
        assert calibrations.load(machine, "gguf", "b1") == rates
        assert calibrations.load(machine, "gguf", "b2") == own


MEASURED = bundles.Content.of("calibration/gguf-0123456789abcdef.json", b"{}")
TAKEN = {
    "a link": lambda place, victim: place.symlink_to(victim),
    "a link to nothing": lambda place, victim: place.symlink_to(victim / "new"),
    "a file": lambda place, victim: place.write_text(""),
}


@pytest.mark.parametrize("what", TAKEN)
def test_nothing_is_measured_through_what_a_service_put_there(what, path, root, tmp_path):
    (victim := tmp_path / "victim").mkdir()
    (root / "cache").mkdir(parents=True)
    TAKEN[what](root / "cache" / "calibration", victim)
    told = invoke("install", make(path, files=[*bundles.contents(), MEASURED]), "--root", root, "--unsigned").stdout

    assert "is not kept here" in " ".join(told.split())
    assert Slots(root).slot("A").record is not None
    assert os.listdir(victim) == []


def test_a_link_with_the_name_of_a_measurement_stays(path, root, tmp_path):
    (root / "cache" / "calibration").mkdir(parents=True)
    (root / "cache" / MEASURED.path).symlink_to(tmp_path / "victim")
    done = put(make(path, files=[*bundles.contents(), MEASURED]), root)

    assert (done.is_new, done.unkept, (tmp_path / "victim").exists()) == (True, "", False)
    assert os.listdir(root / "cache" / "calibration") == [Path(MEASURED.path).name]


def test_an_update_and_a_way_back(path, root):
    for release in (1, 2):
        done = put(make(path, release=release), root)
        flip(root, done.slot.name)
    assert Slots(root).current().record.release == 2

    assert install.roll_back(root).record.release == 1
    assert Slots(root).current().record.release == 1


def test_an_older_release_is_installed_on_purpose_only(path, root):
    flip(root, put(make(path, release=3), root).slot.name)
    make(path, release=2)

    with refuses(OlderBundle, release=2, installed=3):
        put(path, root)
    assert put(path, root, allow_older=True).is_new


def test_no_other_name_brings_an_older_release_back(path, root):
    flip(root, put(make(path, release=3), root).slot.name)
    flip(root, put(make(path, release=1, name="other"), root).slot.name)

    with refuses(OlderBundle, release=2, installed=3):
        put(make(path, release=2), root)
    assert put(path, root, allow_older=True).is_new


def test_what_is_served_is_installed_again_whatever_was_served_before(path, root):
    """An update service may ask for it again after it went back."""
    for release in (1, 2):
        flip(root, put(make(path, release=release), root).slot.name)
    install.roll_back(root)

    assert not put(make(path, release=1), root).is_new


def test_what_was_served_and_cannot_be_read_is_named(path, root):
    flip(root, put(make(path), root).slot.name)
    (root / "releases.json").write_text("{")

    with refuses(UsageError, param="root", varies=r"read: [^\n]*"):
        put(make(path, release=2), root)
    assert Slots(root).all()[1].record is None
    flip(root, "A")


@pytest.mark.parametrize("signed", [True, False])
def test_nobody_is_trusted_unasked(signed, path, root):
    make(path, signed=signed)

    with refuses(UntrustedBundle):
        put(path, root, key=None)
    with refuses(UntrustedBundle):
        put(make(path, signed=False), root)
    assert not root.exists()
    assert put(path, root, key=None, unsigned=True).is_new


WHEEL = bundles.Content.of("wheels/core-1.0-py3-none-any.whl", b"PK")
REFUSED = {
    "processor": ({"arch": "riscv64"}, UnsupportedArtifact),
    "system": ({"os": "plan9"}, UnsupportedArtifact),
    "memory": ({"needed_bytes": 2**49}, NothingFits),
    "python": ({"python": "3.1", "glibc": "2.17", "wheels": (WHEEL.path,)}, UnsupportedArtifact),
    "glibc": ({"python": PYTHON, "glibc": "2.999", "wheels": (WHEEL.path,)}, UnsupportedArtifact),
    "musl": ({"python": PYTHON, "musl": "1.0", "wheels": (WHEEL.path,)}, UnsupportedArtifact),
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_for_another_machine_is_refused_before_anything_is_written(what, path, root):
    changes, kind = REFUSED[what]

    varies = r"this is \S+ \S+|this is \d\.\d+|(?<=--python )\d\.\d+|has [\d.]+ GiB|this is glibc [\d.]+"
    with refuses(kind, varies=varies):
        put(make(path, more=changes, files=[*bundles.contents(), WHEEL]), root)
    assert not root.exists()


@pytest.mark.parametrize("by_python", ["", "libc"])  # as Python has it there until 3.14, of Alpine's and of others
@pytest.mark.parametrize(("told", "library"), [("1.2.5", ("musl", "1.2.5")), ("", ("", ""))])
def test_musl_is_known_by_its_loader(told, library, by_python, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: (by_python, ""))
    assert fitting.c_library(tmp_path) == (by_python, "")
    loader = tmp_path / f"ld-musl-{platform.machine()}.so.1"
    loader.write_text(
        f"#!/bin/sh\nprintf 'musl libc (x86_64)\\nVersion {told}\\nDynamic Program Loader\\n' >&2\nexit 1\n"
    )
    loader.chmod(0o755)

    assert fitting.c_library(tmp_path) == library


def test_one_that_expired_is_refused(path, root):
    with refuses(ExpiredBundle, expires="2020-01-01"):
        put(make(path, expires="2020-01-01"), root)
    assert not root.exists()


def test_too_little_room_is_noticed_before_anything_is_written(path, root, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)

    with refuses(DiskFull, varies=r"[\d.]+ [kM]B"):
        put(make(path), root)
    assert not root.exists()


def test_files_and_folders_take_room_beside_their_bytes(path, root, monkeypatch):
    """8 folders and a file of one byte, a hundred times."""
    deep = [bundles.Content.of(f"d{no}/b/c/d/e/f/g/h/x", b"x") for no in range(100)]
    bundles.make(path, [*bundles.contents(10), *deep], targets=(bundles.target(**HERE),))
    usage = type("Usage", (), {"free": SPARE_BYTES + 3_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)

    with refuses(DiskFull, varies=r"[\d.]+ [kM]B"):
        put(path, root)
    assert not root.exists()


def test_one_of_two_that_fit_is_named(path, root):
    bundles.make(path, targets=tuple(bundles.target(**HERE, name=name) for name in ("one", "two")))

    with refuses(UsageError, param="target"):
        put(path, root)
    with refuses(UsageError, param="target"):
        put(path, root, target="three")
    assert put(path, root, target="two").target.name == "two"


def test_a_damaged_one_leaves_what_is_served(path, root):
    flip(root, put(make(path), root).slot.name)
    make(path, release=2)
    content = path.read_bytes()
    path.write_bytes(content[:-2000] + b"\1" + content[-1999:])

    with refuses(BadArtifact):
        put(path, root)
    assert [slot.record and slot.record.release for slot in Slots(root).all()] == [1, None]
    assert Slots(root).current().name == "A"


@pytest.mark.parametrize("slot", ["A", "B"])
def test_no_slot_needs_an_edgellm_that_the_next_update_empties(slot, path, root, monkeypatch):
    """A bundle without wheels is served by the EdgeLLM that installs it: never by one of a slot."""
    flip(root, put(make(path), root).slot.name)
    (root / "B").mkdir()
    prefix = root / "current" / "venv" if slot == "A" else root / "B" / "venv"
    monkeypatch.setattr(sys, "prefix", str(prefix))

    with refuses(UsageError, param="root"):
        put(make(path, release=2), root)
    assert Slots(root).current().record.release == 1
    assert (root / "B").is_dir()


def test_wheels_that_cannot_be_installed_leave_no_whole_slot(path, root):
    broken = bundles.Content.of("wheels/core-1.0-py3-none-any.whl", b"PK")
    target = {"python": PYTHON, "glibc": "2.17", "wheels": (broken.path,), "requires": ("core",)}
    bundles.make(path, [*bundles.contents(), broken], targets=(bundles.target(**HERE | target),))

    with refuses(UnsupportedArtifact, varies=r"installed: .*"):
        put(path, root)
    assert Slots(root).all()[0].record is None


def test_the_slot_has_the_python_that_the_bundle_brings(path, root, tmp_path):
    """A program in its place that leads to the one that runs here: what is made of the tar is looked at."""
    program = f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode()
    archive = pythons.tar(tmp_path / "python.tar.gz", {"python/bin/python3": program}, {})
    packed = bundles.Content.of("python/python.tar.gz", archive.read_bytes())
    broken = bundles.Content.of("wheels/core-1.0-py3-none-any.whl", b"PK")
    brought = PackedPython(archive=packed.path, program="python/bin/python3", bytes=len(program))
    target = {"python": "3.1", "glibc": "2.17", "wheels": (broken.path,), "requires": ("core",), "interpreter": brought}
    bundles.make(path, [*bundles.contents(), packed, broken], targets=(bundles.target(**HERE | target),))

    with refuses(UnsupportedArtifact, varies=r"installed: .*"):  # pip of that environment
        put(path, root)
    assert (root / "A" / "python" / brought.program).read_bytes() == program
    assert (root / "A" / "venv" / "bin" / "python").exists()


def zeros_in_a_header(path):
    """100 kB that are unpacked to 100 MB, which tarfile would hold."""
    member = tarfile.TarInfo("x")
    member.pax_headers = {"comment": "x" * 100_000_000}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    return path


PYTHONS = {
    "leads out": lambda path: pythons.tar(path, {"x": b""}, {"out": "../../../x"}),
    "larger than told": lambda path: pythons.tar(path, {"python/bin/python3": bytes(1000), "b": bytes(1)}, {}),
    "a header": zeros_in_a_header,
    "no tar": lambda path: path.write_bytes(gzip.compress(b"x" * 5000)),
    "cut": lambda path: path.write_bytes(pythons.tar(path, {"x": os.urandom(900)}, {}).read_bytes()[:-400]),
    "broken": lambda path: path.write_bytes(gzip.compress(bytes(99), mtime=0)[:10] + b"\xff" * 90),
}


@pytest.mark.parametrize("what", PYTHONS)
def test_a_python_that_leads_out_of_the_slot_or_is_not_what_is_told_is_refused(what, path, root, tmp_path):
    archive = tmp_path / "python.tar.gz"
    PYTHONS[what](archive)
    packed = bundles.Content.of("python/python.tar.gz", archive.read_bytes())
    core = bundles.Content.of("wheels/core-1.0-py3-none-any.whl", b"PK")
    brought = PackedPython(archive=packed.path, program="python/bin/python3", bytes=1000)
    target = {"glibc": "2.17", "wheels": (core.path,), "interpreter": brought}
    bundles.make(path, [*bundles.contents(), packed, core], targets=(bundles.target(**HERE | target),))

    with refuses(UnsupportedArtifact):
        put(path, root)
    assert Slots(root).all()[0].record is None
    assert sum(file.stat().st_size for file in (root / "A" / "python").rglob("*") if file.is_file()) <= 1000


def test_nothing_of_a_python_is_written_through_a_link(tmp_path):
    """Whether a link leads out, Pythons before 3.11.13 do not always see."""
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, leads_to in (("folder/link", "."), ("folder/link/file", "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE, leads_to) if leads_to else (tarfile.REGTYPE, "")
            archive.addfile(member)
    with pytest.raises(tarfile.TarError):
        unpack_tree(tmp_path / "x.tar", tmp_path / "out", 1000)


def test_each_step_is_a_command_with_json(path, root, tmp_path):
    make(path)
    (tmp_path / "key.pub").write_bytes(bytes(bundles.PUBLIC) + b"\n")
    done = json.loads(invoke("install", path, "--root", root, "--key", tmp_path / "key.pub", "--json").stdout)
    assert (done["slot"], done["new"], done["activated"]) == ("A", True, False)
    given = ("activate", "A", "--root", root, "--skip", "start", "--json")
    assert json.loads(invoke(*given).stdout)["release"] == 1
    shown = json.loads(invoke("slots", "--root", root, "--json").stdout)
    assert (shown["current"], [row.get("release") for row in shown["slots"]]) == ("A", [1, None])
    check_refusal(invoke("rollback", "--root", root, code=4).exception, UnsupportedArtifact)
    assert "served" in invoke("slots", "--root", root).stdout


def test_nothing_to_activate(root):
    with refuses(UsageError, param="root"):
        install.roll_back(root)


def test_slots_of_no_folder_are_not_shown(root):
    check_refusal(invoke("slots", "--root", root, code=2).exception, UsageError, param="root")


def test_a_click_error_is_none_of_ours(root):
    with pytest.raises(click.UsageError):
        cli.main(["bundle", "activate", "C"], standalone_mode=False)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts")
@pytest.mark.slow(10)
@pytest.mark.parametrize("option", ["noexec", "ro"])
def test_a_file_system_that_will_not_do_is_named_before_anything_is_written(option, path, tmp_path):
    (place := tmp_path / "place").mkdir()
    command = [sys.executable, "-P", "-m", "edgellm", "bundle", "install", str(make(path)), "--unsigned", "--json"]
    done = run_mounted(place, option, *command, "--root", str(place / "x"))

    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, "usage_error"), done.stderr
    assert {"noexec": "noexec", "ro": os.strerror(errno.EROFS)}[option] in error["message"]
    assert not list(place.iterdir())


def test_what_fails_is_told_as_json_too(path, root):
    done = invoke("install", make(path), "--root", root, "--json", code=1)

    assert json.loads(done.stdout)["error"]["code"] == "untrusted_bundle"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("box nocpu 3.11 glibc-2.17 1 1 - -", 4),
        (f"box {platform.machine()} 3.1 glibc-2.17 1 1 - -", 4),
        (f"box {platform.machine()} @PYTHON@ glibc-2.999 1 1 - -", 4),
        (f"box {platform.machine()} @PYTHON@ musl-1.0 1 1 - -", 4),
        (f"box {platform.machine()} @PYTHON@ glibc-2.17 999999999999 1 - -", 3),
        (f"box {platform.machine()} @PYTHON@ glibc-2.17 1 999999999999 - -", 5),
        ("", 2),
    ],
)
def test_the_script_checks_before_it_writes(line, code, tmp_path):
    script = script_for(line, tmp_path / "install")
    (tmp_path / "x.edgellm").touch()
    given = [str(tmp_path / "x.edgellm"), "--root", str(tmp_path / "root")] if line else []
    done = subprocess.run(["sh", str(script), *given], capture_output=True, text=True, check=False)

    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("install: ")
    assert not (tmp_path / "root").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="mounts")
@pytest.mark.parametrize("option", ["noexec", "ro"])
def test_the_script_names_a_file_system_that_will_not_do(option, tmp_path):
    script = script_for(f"box {platform.machine()} @PYTHON@ glibc-2.17 1 1 - -", tmp_path / "install")
    (place := tmp_path / "place").mkdir()
    (tmp_path / "x.edgellm").touch()
    done = run_mounted(place, option, "sh", str(script), str(tmp_path / "x.edgellm"), "--root", str(place / "x"))

    assert done.returncode == 2, done.stderr
    assert ("noexec" in done.stderr) == (option == "noexec")
    assert not list(place.rglob("*.py"))


def script_for(line: str, target: Path) -> Path:
    """The script for a machine that the line describes, with the Python that it would find."""
    text = (Path(install.__file__).parents[2] / "bundle" / "install.sh").read_text()
    asked = ["python3", "-c", 'import sys; print("%d.%d" % sys.version_info[:2])']
    python = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    target.write_text(text.replace("@TARGETS@", line.replace("@PYTHON@", python)))
    return target
