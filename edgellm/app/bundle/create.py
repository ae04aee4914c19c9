"""From a profile or a fleet to a bundle: decide for each machine, fetch what was chosen, and write one file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgellm.app import adapters as app_adapters
from edgellm.app import fleet_file
from edgellm.app.bundle import contents as packed
from edgellm.app.bundle.asked import PYTHON, BundleOptions, machines
from edgellm.app.bundle.record import Recorder
from edgellm.app.launch import as_named
from edgellm.app.resolve import resolve
from edgellm.bundle import interpreter, licences, papers, serving, signature, writer
from edgellm.bundle import manifest as manifests
from edgellm.bundle.interpreter import Interpreter
from edgellm.bundle.manifest import Manifest, PackedPython, Target
from edgellm.bundle.papers import PackedPart
from edgellm.bundle.wheels import Platform, Wheel
from edgellm.bundle.writer import Content
from edgellm.contract.source import Progress
from edgellm.errors import NothingFits, SourceError, UsageError
from edgellm.files import atomic_writer, require_free, require_room, safe_name, writing
from edgellm.selection import decision_json
from edgellm.selection.context import SelectionContext
from edgellm.selection.decide import decide
from edgellm.selection.fleet import Site
from edgellm.store.library import silent
from edgellm.types.plan import Candidate, Decision
from edgellm.types.request import SelectionRequest
from edgellm.version import __version__

if TYPE_CHECKING:
    from minisign import SecretKey

_TOO_LONG = 100


@dataclass(frozen=True, slots=True)
class Created:
    """A bundle that was written. `unrecorded`: of which targets nothing could be asked here, and why."""

    path: Path
    manifest: Manifest
    unrecorded: dict[str, str]


@dataclass(frozen=True, slots=True)
class PlannedBox:
    """What was decided for one box."""

    site: Site
    context: SelectionContext
    decision: Decision
    choice: Candidate

    @property
    def arch(self) -> str:
        return self.site.machine.cpu.arch


def create(
    machines_of: str,
    output: Path | None,
    options: BundleOptions,
    *,
    key: SecretKey | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Created:
    """Write the bundle for the machines that `machines_of` names to `output`; None = a name made of its own.

    Raises:
        UsageError, UnknownProfile, UnknownModel, NothingFits. SourceError: what was chosen cannot be fetched; with its
        name and what to do. ArtifactError, DiskFull.
    """
    require_libraries()
    if options.expires:
        manifests.check_expiry_date(options.expires)
    fleet = machines(machines_of, options)
    boxes = [planned(site, options) for site in fleet_file.sites(fleet, options.models_file)]
    pythons = _pythons(boxes, options)
    wheels = [wheels_of(box, options, pythons.get(box.arch)) for box in boxes]  # before gigabytes are fetched
    if options.licences:
        brought = [(f"Python {python.python}", python.licence) for python in pythons.values()]
        licences.require((*stated_licences(boxes, wheels), *brought), options.licences)
    models = [model_of(box, progress) for box in boxes]
    beside = [[packed.adapter(name, model, part.licence) for name in options.adapters] for model, part in models]
    recorder = Recorder(options.adapters)
    targets: list[Target] = []
    own: dict[str, Content] = {}
    for box, chosen, (model, part), adapters in zip(boxes, wheels, models, beside, strict=True):
        plan = Content.of(f"plans/{safe_name(box.site.name)}.json", decision_json.text(box.decision).encode())
        profile = packed.profile(box.context)
        target = _target(box, options, chosen, model, (plan.path, profile.path), python=pythons.get(box.arch))
        own |= {content.path: content for content in (plan, profile, *packed.measured(box.context))}
        if options.golden and (answers := recorder.of(box.site.name, box.choice, (part, *adapters), progress)):
            own[answers.path] = answers
            target = msgspec.structs.replace(target, golden=answers.path)
        targets.append(target)
    parts = {part.files[0].path: part for part in (*(part for _, part in models), *itertools.chain(*beside))}
    n_bytes = sum(content.n_bytes for part in parts.values() for content in part.files)
    brought_parts = [part for python in pythons.values() for part in python.parts()]
    brought_parts += packed.wheel_parts(w for chosen in wheels for w in chosen)
    name = options.name or safe_name(fleet.name)
    if script := packed.install_script(targets, wheels, brought_parts, n_bytes):
        own[script.path] = script
        if key is not None:
            signed = packed.signature_of(script, key, name, options.release)
            own[signed.path] = signed
    every = [*parts.values(), *brought_parts, *packed.own(own.values())]
    about = Manifest(
        name=name, release=options.release, edgellm=__version__, targets=tuple(targets), files=(),
        expires=options.expires,
    )  # fmt: skip
    path = output or Path(f"{name}-{options.release}.edgellm")
    manifest = _write(path, about, every, key, force=force, progress=progress)
    return Created(path, manifest, recorder.unrecorded)


def stated_licences(boxes: Sequence[PlannedBox], wheels: Sequence[Sequence[Wheel]]) -> Iterator[tuple[str, str]]:
    """Models and wheels, each once, with their licences."""
    yield from {box.choice.model: box.context.chosen(box.choice)[0].license for box in boxes}.items()
    for wheel in {wheel.path: wheel for chosen in wheels for wheel in chosen}.values():
        yield f"{wheel.name} {wheel.version}", papers.licence_of(wheel)


def _write(
    output: Path,
    about: Manifest,
    parts: Sequence[PackedPart],
    key: SecretKey | None,
    *,
    force: bool,
    progress: Progress,
) -> Manifest:
    everything = [papers.sbom(about.name, about.release, parts), *(file for part in parts for file in part.files)]
    n_bytes = sum(content.n_bytes for content in everything)
    require_free(output, force=force)
    with writing(output, param="output"):
        require_room(output.absolute().parent, n_bytes, "the bundle", hint="name a file on another disk")
        with atomic_writer(output, sync=True, replace=force) as file:
            return writer.write(file, about, everything, key, progress)


def planned(site: Site, options: BundleOptions) -> PlannedBox:
    """
    Raises:
        NothingFits: names the box.
    """
    context, request = site.context, site.request
    if options.adapters:
        beside = app_adapters.asked(options.adapters)
        n_bytes = sum(one.file.bytes for one in beside)
        request = replace(request, adapters=app_adapters.needs(beside), adapter_bytes=n_bytes)
    if options.model:
        context, request = _named(options.model, context, request)
    try:
        decision = decide(context, request)
    except NothingFits as error:
        raise NothingFits(f"{site.name}: {error.message}", hint=error.hint) from error
    assert decision.choice is not None, "of a machine that is not here, every source counts as answering"
    return PlannedBox(replace(site, request=request), context, decision, decision.choice)


def _named(
    model: str, context: SelectionContext, request: SelectionRequest
) -> tuple[SelectionContext, SelectionRequest]:
    """The context in which the model that the user named is chosen, as `edgellm serve MODEL` has it."""
    card, request = as_named(resolve(model, context).card, request, named=model, to_chat=False)
    return context.narrowed([card]), request


def _pythons(boxes: Sequence[PlannedBox], options: BundleOptions) -> dict[str, Interpreter]:
    """By processor, the Pythons that go along.

    Raises:
        UsageError: one cannot be used, or a box has none.
    """
    if options.interpreters and not options.wheels:
        hint = "name folders with wheels of EdgeLLM with --wheels"
        raise UsageError("a Python goes along with wheels only", hint=hint, param="with_python")
    if options.musl and options.glibc:
        hint = "leave one of them out"
        raise UsageError("--musl is for machines without glibc, and --glibc for those with it", hint=hint, param="musl")
    pythons = {python.arch: python for python in map(interpreter.read, options.interpreters)}
    for box in boxes if pythons else ():
        if box.arch not in pythons:
            message = f"{box.site.name} is {box.arch}, and the Pythons given are for {', '.join(sorted(pythons))}"
            raise UsageError(message, hint="give one for it, too: --with-python again", param="with_python")
    return pythons


def wheels_of(box: PlannedBox, options: BundleOptions, python: Interpreter | None) -> list[Wheel]:
    if not options.wheels:
        return []
    machine = box.site.machine
    if machine.os != "linux":
        message = f"{box.site.name} runs {machine.os}, and wheels are put into bundles for Linux only"
        raise UsageError(message, hint="leave --wheels out, and install EdgeLLM there with pip", param="wheels")
    platform = Platform(machine.cpu.arch, _version(python, options), options.oldest_glibc, options.musl)
    return packed.wheels_for(platform, packed.requirements(box.choice, platform.glibc, "bundle"), options.wheels)


def _version(python: Interpreter | None, options: BundleOptions) -> str:
    """Of the machine's Python: the one that goes along, else what is said of the machine.

    Raises:
        UsageError: what is said does not fit what goes along.
    """
    if python is None:
        return options.python or PYTHON
    if options.python not in ("", python.python):
        message = f"--python says {options.python}, and {python.archive.path} is Python {python.python}"
        raise UsageError(message, hint="leave --python out", param="python")
    if bool(python.glibc) == bool(options.musl):
        its, hint = ("glibc", "leave --musl out") if python.glibc else ("musl", "say --musl 1.2")
        message = f"{python.archive.path} is for {its}, and the machines are said to have another C library"
        raise UsageError(message, hint=f"{hint} where they have {its}, or give another Python", param="musl")
    if int(python.glibc.partition(".")[2] or 0) > int(options.oldest_glibc.partition(".")[2] or 0):
        message = f"{python.archive.path} needs glibc {python.glibc}, and the machines may have {options.oldest_glibc}"
        raise UsageError(message, hint=f"say --glibc {python.glibc} where all have it", param="glibc")
    return python.python


def model_of(box: PlannedBox, progress: Progress) -> tuple[manifests.TargetModel, PackedPart]:
    card, file = box.context.chosen(box.choice)
    try:
        return packed.model(card, file, progress)
    except SourceError as error:
        hint = "make the bundle where its source answers, or name a file that is here: --model ID:QUANTIZATION"
        message = f"{card.id} {file.quant}, chosen for {box.site.name}, cannot be had: {error.message}"
        raise type(error)(message, hint=hint) from error


def _target(
    box: PlannedBox,
    options: BundleOptions,
    wheels: Sequence[Wheel],
    model: manifests.TargetModel,
    papers_of_box: tuple[str, str],
    *,
    python: Interpreter | None,
) -> Target:
    plan, profile = papers_of_box
    machine, choice = box.site.machine, box.choice
    return Target(
        name=box.site.name[:_TOO_LONG],
        profile=profile,
        plan=plan,
        arch=machine.cpu.arch,
        os=machine.os,
        needed_bytes=choice.counted_bytes,
        model=model,
        serve=serving.arguments(choice, options.adapters, thinking=box.site.request.thinking),
        python=_version(python, options) if wheels else "",
        interpreter=None
        if python is None
        else PackedPython(archive=python.archive.path, program=python.program, bytes=python.unpacked_bytes),
        glibc=options.oldest_glibc if wheels else "",
        musl=options.musl if wheels else "",
        wheels=tuple(sorted(f"wheels/{wheel.path.name}" for wheel in wheels)),
        requires=packed.requirements(choice, options.oldest_glibc, "bundle") if wheels else (),
    )


def require_libraries() -> None:
    """
    Raises:
        UsageError: what makes bundles is not installed.
    """
    try:
        import cyclonedx  # noqa: F401
        import packaging  # noqa: F401
    except ImportError as error:
        message = f"bundles are made with {error.name}, which is not installed"
        raise UsageError(message, hint='pip install "edgellm[make-bundle]"') from None
    signature.require_library("make-bundle")
