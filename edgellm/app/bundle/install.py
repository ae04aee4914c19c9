"""Installing a bundle on this machine: beside what is served, checked before the first byte is written."""

from __future__ import annotations

import os
import shlex
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import settings
from edgellm.app.bundle import measured
from edgellm.app.bundle.fitting import fitting_target
from edgellm.bundle import reader, slot_check, slots
from edgellm.bundle.manifest import Manifest, Target
from edgellm.bundle.reader import Bundle
from edgellm.bundle.slots import BundleSlot, SlotRecord, Slots
from edgellm.bundle.tar_tree import unpack_tree
from edgellm.bundle.unpack import unpack
from edgellm.bundle.wheels import UNPACKED
from edgellm.contract import pip
from edgellm.contract.source import Progress
from edgellm.errors import OlderBundle, UnsupportedArtifact, UntrustedBundle, UsageError
from edgellm.files import require_room, writing
from edgellm.hardware.probe import probe
from edgellm.store.library import silent

if TYPE_CHECKING:
    from minisign import PublicKey

_SCRIPT = """#!/bin/sh
# Serves this slot; flags of `edgellm serve` may follow.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P)
EDGELLM_HOME="$here/home"
export EDGELLM_HOME
exec {edgellm} serve {arguments} "$@"
"""
_UNIT = """# cp this to /etc/systemd/system/edgellm.service; it stays right when another slot is served.
[Unit]
Description=EdgeLLM from a bundle
After=network.target

[Service]
ExecStart={root}/{current}/{run}
# EDGELLM_API_KEY=..., EDGELLM_HOST=..., EDGELLM_PORT=...
EnvironmentFile=-/etc/edgellm.env
KillMode=mixed
Restart=on-failure
RestartSec=5
# Of a damaged slot: another start would change nothing.
RestartPreventExitStatus=4
NoNewPrivileges=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class InstallOptions:
    root: Path
    key: PublicKey | None = None  # that it must be signed by; None = only with `unsigned`
    unsigned: bool = False  # nobody's signature is asked for
    target: str = ""  # "" = the only one that fits this machine
    allow_older: bool = False


@dataclass(frozen=True, slots=True)
class DamagedSlot:
    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Installed:
    slot: BundleSlot
    manifest: Manifest
    target: Target
    is_new: bool  # False = a slot held it already
    damaged: tuple[DamagedSlot, ...] = ()  # that held it already, and are why it is new
    unkept: str = ""  # why not all calibrations of the bundle are kept here


def usual_root() -> Path:
    return settings.current().data_dir / "bundles"


def install(path: Path, options: InstallOptions, progress: Progress = silent) -> Installed:
    """Install a bundle into the slot that is not served. What is served stays as it is.

    Raises:
        UntrustedBundle, ExpiredBundle, OlderBundle. BadArtifact: it is damaged. UnsupportedArtifact: it is not for this
        machine, or its wheels cannot be installed. NothingFits: it has too little memory. DiskFull. UsageError.
    """
    require_asked(path, options.key, unsigned=options.unsigned)
    two, root = Slots(options.root), options.root
    with reader.opened(path, options.key) as bundle:
        bundle.require_date()
        target = fitting_target(bundle.manifest, options.target, probe())
        _require_executables(root, bundle.manifest)
        python_bytes = target.interpreter.bytes if target.interpreter else 0
        needed = bundle.manifest.room + UNPACKED * _wheel_bytes(bundle.manifest, target) + python_bytes
        with writing(root, param="root"):
            require_room(root, needed, "the bundle", hint="free space, or choose another folder with --root")
            root.mkdir(parents=True, exist_ok=True)
            with two.held():
                _require_newer(bundle, two, allow_older=options.allow_older)
                whole, damaged = _holding(two, bundle, target, progress)
                if whole is not None:
                    reader.verify(bundle)
                    return Installed(whole, bundle.manifest, target, is_new=False)
                return replace(_install(bundle, target, two, progress), damaged=damaged)


def _holding(
    two: Slots, bundle: Bundle, target: Target, progress: Progress
) -> tuple[BundleSlot | None, tuple[DamagedSlot, ...]]:
    """A whole slot with this bundle for this target, and those that had it and were damaged since."""
    damaged = []
    for slot in two.all():
        if slot.record is None or (slot.record.sha256, slot.record.target) != (bundle.sha256, target.name):
            continue
        problem = slot_check.damage(slot, progress)
        if not problem:
            return slot, ()
        damaged.append(DamagedSlot(slot.name, problem))
    return None, tuple(damaged)


def require_asked(path: Path, key: PublicKey | None, *, unsigned: bool) -> None:
    """
    Raises:
        UntrustedBundle: neither a key was given, nor was it said that none is asked for.
    """
    if key is None and not unsigned:
        hint = "give the public key with --key, or --unsigned if you trust whoever brought it"
        raise UntrustedBundle(f"{path} would be installed without asking who made it", hint=hint)


def _install(bundle: Bundle, target: Target, two: Slots, progress: Progress) -> Installed:
    slot = two.spare()
    _require_elsewhere(slot, target, two)
    two.clear(slot)
    unpack(bundle, slot.files, progress, beside=two.current())
    edgellm = f"{shlex.quote(sys.executable)} -P -m edgellm"
    if target.wheels:
        progress(0, None, "installing EdgeLLM from its wheels")
        _make_venv(slot, target)
        edgellm = f'"$here/{slots.VENV}/bin/python" -P -m edgellm'
    _make_home(slot, two.root)
    unkept = measured.keep(slot.files, two.root / slots.CACHE)
    _write(slot.folder / slots.RUN, _SCRIPT.format(edgellm=edgellm, arguments=shlex.join(target.serve)), 0o755)
    unit = _UNIT.format(root=two.root.absolute(), current=slots.CURRENT, run=slots.RUN)
    _write(slot.folder / slots.UNIT, unit, 0o644)
    manifest = bundle.manifest
    record = SlotRecord(name=manifest.name, release=manifest.release, sha256=bundle.sha256, target=target.name)
    return Installed(two.finish(slot, record), manifest, target, is_new=True, unkept=unkept)


def roll_back(root: Path, progress: Progress = silent) -> BundleSlot:
    """Serve the slot that is not served, which has served before, is read first, and not asked.

    Raises:
        UnsupportedArtifact: it is not whole, has not served, or was refused since. BadArtifact: it is damaged.
        UsageError: the slots are being changed, or cannot be written.
    """
    with changing(root) as two:
        slot = two.spare()
        _require_served(two, slot)
        slot_check.require_whole(slot, progress)
        two.activate(slot)
    return slot


def _require_served(two: Slots, slot: BundleSlot) -> None:
    """
    Raises:
        UnsupportedArtifact: nobody would go back by it.
    """
    if slot.record is None:
        return  # told as what is not whole
    hint = f"edgellm bundle activate {slot.name} --root {two.root} asks it, and serves it where it answers well"
    if two.current() is None:
        message = f"nothing is served in {two.root} yet, so that there is nothing to go back to"
        raise UnsupportedArtifact(message, hint=hint)
    if not two.has_served(slot):
        message = f"slot {slot.folder} has not served, or was refused since, so that nothing is known to go back to"
        raise UnsupportedArtifact(message, hint=f"what is served goes on; {hint}")


def served(root: Path) -> BundleSlot:
    """The slot that is served.

    Raises:
        UsageError: there is none.
    """
    slot = Slots(root).current()
    if slot is None or slot.record is None:
        raise UsageError(f"nothing is served in {root}", hint="name the old bundle with --old", param="root")
    return slot


def require_root(root: Path) -> None:
    """
    Raises:
        UsageError: there are no slots.
    """
    if not root.is_dir():
        hint = f"install a bundle first: {slots.installing(root)}"
        raise UsageError(f"nothing is installed in {root}", hint=hint, param="root")


@contextmanager
def changing(root: Path) -> Iterator[Slots]:
    """
    Raises:
        UsageError: there are no slots, or they are being changed.
    """
    require_root(root)
    two = Slots(root)
    with writing(root, param="root"), two.held():
        yield two


def _require_newer(bundle: Bundle, two: Slots, *, allow_older: bool) -> None:
    current, manifest = two.current(), bundle.manifest
    served = current.record if current is not None else None
    if allow_older or (served is not None and served.sha256 == bundle.sha256):
        return
    installed = two.highest(manifest.name)
    if manifest.release < installed:
        message = f"{manifest.name} release {manifest.release} is older than release {installed}, which was served here"
        hint = "install a newer one, or go back on purpose with --allow-older"
        raise OlderBundle(message, hint=hint, release=manifest.release, installed=installed)


def _wheel_bytes(manifest: Manifest, target: Target) -> int:
    wheels = frozenset(target.wheels)
    return sum(entry.bytes for entry in manifest.files if entry.path in wheels)


def _require_executables(root: Path, manifest: Manifest) -> None:
    """
    Raises:
        UsageError: programs on that file system are not run.
    """
    place = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    if os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0):
        message = f"{place} is mounted noexec, so no program of {manifest.name} would run there"
        raise UsageError(message, hint="choose a folder on another file system with --root", param="root")


def _require_elsewhere(spare: BundleSlot, target: Target, two: Slots) -> None:
    """
    Raises:
        UsageError: the EdgeLLM that runs is in the slot that will be emptied, by this installation or the next one.
    """
    prefix = Path(sys.prefix).resolve()
    if prefix.is_relative_to(spare.folder.resolve()):
        message = f"this EdgeLLM lies in slot {spare.name} of {two.root}, which would be emptied"
        hint = f"run {two.root / slots.CURRENT / slots.VENV}/bin/edgellm, or activate slot {spare.name} first"
        raise UsageError(message, hint=hint, param="root")
    if not target.wheels and prefix.is_relative_to(two.root.resolve()):
        message = "the bundle brings no EdgeLLM, and this one lies in a slot, which the next update empties"
        hint = "make the bundle with --wheels, or install it with an EdgeLLM of its own"
        raise UsageError(message, hint=hint, param="root")


def _make_venv(slot: BundleSlot, target: Target) -> None:
    venv = slot.folder / slots.VENV
    python = venv / "bin" / "python"
    # -P: what lies in the current folder, somebody else's perhaps, is not run.
    make = [_python_of(slot, target), "-P", "-m", "venv", str(venv)]
    _run(make, "a virtual environment could not be made", "install python3-venv")
    install = ["install", "--no-index", "--no-cache-dir", "--quiet", "--only-binary=:all:"]
    install += ["--find-links", str(slot.files / "wheels"), "--", *target.requires]
    hint = "make the bundle with a complete folder of wheels"
    _run(pip.command(install, python=str(python)), "the wheels of the bundle could not be installed", hint)


def _python_of(slot: BundleSlot, target: Target) -> str:
    """The program that the slot's environment is made with: the bundle's own Python, where it brings one.

    Raises:
        UnsupportedArtifact: that cannot be unpacked, or is larger than the manifest says.
    """
    if target.interpreter is None:
        return sys.executable
    folder = slot.folder / slots.PYTHON
    try:
        unpack_tree(slot.files / target.interpreter.archive, folder, target.interpreter.bytes)
    except tarfile.TarError as error:
        hint = "make the bundle again, with another Python"
        raise UnsupportedArtifact(f"the bundle's Python cannot be unpacked: {error}", hint=hint) from None
    return str(folder / target.interpreter.program)


def _run(command: Sequence[str], problem: str, hint: str) -> None:
    """
    Raises:
        UnsupportedArtifact: the command fails.
    """
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    end = pip.run(command, variables | {"PIP_CONFIG_FILE": os.devnull})
    if end.returncode:
        raise UnsupportedArtifact(f"{problem}: {end.last_words or 'it says nothing'}", hint=hint)


def _make_home(slot: BundleSlot, root: Path) -> None:
    """EDGELLM_HOME of the slot: its models and adapters, and the measurements of both slots."""
    data = slot.folder / slots.HOME / "data"
    data.mkdir(parents=True)
    (root / slots.CACHE).mkdir(exist_ok=True)
    for name in ("models", "adapters"):
        (slot.files / name).mkdir(exist_ok=True)
        os.symlink(f"../../{slots.FILES}/{name}", data / name)
    os.symlink(f"../../{slots.CACHE}", slot.folder / slots.HOME / "cache")


def _write(path: Path, text: str, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
