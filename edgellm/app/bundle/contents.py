"""The files of a bundle: models and adapters as the store has them, wheels, profiles, and papers about all of these."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import msgspec

from edgellm.app import adapters as app_adapters
from edgellm.bundle import manifest as manifests
from edgellm.bundle import papers, wheels
from edgellm.bundle.interpreter import ARCHIVES
from edgellm.bundle.layout import unpacked_at
from edgellm.bundle.manifest import Target, TargetModel
from edgellm.bundle.papers import PackedPart
from edgellm.bundle.signature import sign
from edgellm.bundle.wheels import UNPACKED, Platform, Wheel
from edgellm.bundle.writer import Content
from edgellm.contract.manager import plugins
from edgellm.contract.source import Progress, scheme_of
from edgellm.errors import UsageError
from edgellm.files import package_data, safe_name
from edgellm.hardware import profiles
from edgellm.history import calibrations
from edgellm.selection.context import SelectionContext
from edgellm.store import adapters as stored_adapters
from edgellm.store import manifest as records
from edgellm.store.adapters import StoredAdapter
from edgellm.store.library import MADE, Library
from edgellm.text import grammar_library
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Candidate

if TYPE_CHECKING:
    from minisign import SecretKey

OWN_LICENCE = "Apache-2.0"
_RUN = (manifests.WHEELS, f"{ARCHIVES}/")  # what the script runs of a bundle


def model(card: ModelCard, file: ModelFile, progress: Progress) -> tuple[TargetModel, PackedPart]:
    """A model's files as the store will have them, fetched where they are not here.

    Raises:
        SourceError, ArtifactError: it cannot be fetched, or is not sound. UsageError: it can be in no bundle.
    """
    library = Library()
    artifact = library.fetch(card, file, progress)
    stored = library.entry(file, card.id)
    assert stored is not None, "it was fetched"
    folder = f"models/{stored.folder.parent.name}/{stored.folder.name}"
    contents, kept = [], []
    for row in stored.files:
        # What lies elsewhere (`file:`, the hub's cache) is named there as its publisher names it.
        name = os.path.basename(row.path) if os.path.isabs(row.path) else PurePath(row.path).as_posix()
        contents.append(Content(f"{folder}/{name}", row.bytes, row.sha256, stored.folder / row.path))
        kept.append(replace(row, path=name, mtime_ns=unpacked_at(row.sha256) * 10**9))
    # Where it lies on this disk means nothing elsewhere.
    is_from_here = scheme_of(stored.source) == "file"
    source = f"{MADE}elsewhere-{kept[0].sha256[:16]}" if is_from_here else stored.source
    record = replace(stored, model_id=card.id, source=source, fetched_at="", files=tuple(kept))
    contents.append(Content.of(f"{folder}/{records.RECORD}", records.record_of(record)))
    part = PackedPart("model", card.id, artifact.quant, card.license or "unknown", tuple(contents))
    return TargetModel(id=card.id, quant=artifact.quant, folder=folder), part


def adapter(name: str, base: TargetModel, licence: str) -> PackedPart:
    """A stored adapter of that model.

    Raises:
        UnknownAdapter, UnsupportedArtifact, UsageError: it was asked for as a file.
    """
    if not any(stored.name == name for stored in stored_adapters.AdapterStore().installed()):
        app_adapters.asked([name])  # refuses a name that means nothing
        hint = f"store it: edgellm adapters import {name} --base {base.id}:{base.quant}"
        raise UsageError(f"{name!r} is no adapter of the store", hint=hint, param="adapter")
    stored: StoredAdapter = stored_adapters.AdapterStore().find(base.id, name)
    record = stored.adapter()
    mtime_ns = unpacked_at(record.sha256) * 10**9
    record = msgspec.structs.replace(record, base_path="", source="", mtime_ns=mtime_ns)
    folder = f"adapters/{stored.folder.parent.name}/{stored.folder.name}"
    text = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
    files = (
        Content(f"{folder}/{stored.path.name}", record.bytes, record.sha256, stored.path),
        Content.of(f"{folder}/{stored_adapters.RECORD}", text),
    )
    return PackedPart("model", stored.label, record.method or "lora", licence, files)


def profile(context: SelectionContext) -> Content:
    measured = {name: calibrations.stated(rates) for name, rates in context.measured.items()}
    return Content.of(f"profiles/{context.machine.id}.toml", profiles.dump(context.machine, measured).encode())


def measured(context: SelectionContext) -> list[Content]:
    """Calibrations of the machine, as its cache will have them."""
    rows = (calibrations.entry(context.machine, *row) for row in context.measured.items())
    return [Content.of(f"{calibrations.FOLDER}/{name}", data) for name, data in rows]


def requirements(choice: Candidate, glibc: str, *extras: str) -> tuple[str, ...]:
    """What pip is asked for, to run a choice: the core with these extras and, on a glibc that is new enough, what keeps
    answers to a grammar; and the plugin of the backend."""
    from packaging.utils import canonicalize_name

    wanted = (*extras, *(("grammar",) if grammar_library.runs_with(glibc) else ()))
    core = f"edgellm[{','.join(wanted)}]" if wanted else "edgellm"
    package = canonicalize_name(_distribution(choice.backend))
    return (core,) if package == "edgellm" else (core, package)


def _distribution(backend: str) -> str:
    """The name of the package that brings a backend."""
    module = type(plugins().backend(backend)).__module__.partition(".")[0]
    brought_by = {row.module.partition(".")[0]: row.distribution for row in plugins().rows() if not row.error}
    return brought_by[module].partition(" ")[0] if module in brought_by else "edgellm"


def wheels_for(platform: Platform, roots: Sequence[str], folders: Sequence[Path]) -> list[Wheel]:
    """
    Raises:
        UsageError: some are missing.
    """
    return wheels.needed(roots, folders, platform)


def wheel_parts(chosen: Iterable[Wheel]) -> list[PackedPart]:
    """Each wheel once, with the texts of its licences as a part of its own.

    Raises:
        UsageError: one states no licence.
    """
    parts = []
    by_path = {wheel.path: wheel for wheel in chosen}
    for wheel in by_path.values():
        content = Content.of_file(f"wheels/{wheel.path.name}", wheel.path)
        parts.append(PackedPart("library", wheel.name, str(wheel.version), papers.licence_of(wheel), (content,)))
    texts: dict[str, tuple[Wheel, Content]] = {}
    for wheel, content in papers.texts_of(by_path.values()):
        texts.setdefault(content.path.lower(), (wheel, content))
    for wheel, content in texts.values():
        parts.append(PackedPart("file", content.path, "", papers.licence_of(wheel), (content,)))
    return parts


def install_script(
    targets: Sequence[Target], chosen: Sequence[Sequence[Wheel]], parts: Iterable[PackedPart], n_bytes: int
) -> Content | None:
    """What installs the bundle where there is no EdgeLLM; None where it brings none. It has the hashes of what it runs,
    which are among the files of `parts`. `n_bytes`: of models."""
    lines = []
    for target, of_target in zip(targets, chosen, strict=True):
        wheel_bytes = sum(wheel.path.stat().st_size for wheel in of_target)
        if wheel_bytes:
            # Twice: to begin with, and in the slot.
            room = n_bytes + 2 * (1 + UNPACKED) * wheel_bytes
            brought = ("-", "-")
            if target.interpreter is not None:
                room += 2 * target.interpreter.bytes
                brought = (target.interpreter.archive, target.interpreter.program)
            library, version = ("musl", target.musl) if target.musl else ("glibc", target.glibc)
            needs = (f"{library}-{version}", target.needed_bytes // 1024, room // 1024)
            words = (safe_name(target.name), target.arch, target.python, *needs, *brought)
            lines.append(" ".join(map(str, words)))
    if not lines:
        return None
    files = sorted((one for part in parts for one in part.files if one.path.startswith(_RUN)), key=lambda f: f.path)
    rows = [f"{file.sha256} {file.n_bytes} {file.path}" for file in files]
    text = package_data("edgellm.bundle", "install.sh").decode()
    text = text.replace("@TARGETS@", "\n".join(lines)).replace("@FILES@", "\n".join(rows))
    return Content.of(manifests.INSTALL, text.encode(), executable=True)


def signature_of(script: Content, key: SecretKey, name: str, release: int) -> Content:
    """So that the script is checked where no EdgeLLM is, before it runs."""
    assert isinstance(script.data, bytes)
    signed = sign(script.data, key, f"install of edgellm bundle {name} release {release}")
    return Content.of(manifests.INSTALL_SIGNATURE, signed)


def own(contents: Iterable[Content]) -> list[PackedPart]:
    """What EdgeLLM wrote."""
    return [PackedPart("file", content.path, "", OWN_LICENCE, (content,)) for content in contents]
