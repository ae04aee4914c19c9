"""From a profile to an image for containers: decide, then lay a root, the model, EdgeLLM and papers in a layer each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgellm.app import fleet_file
from edgellm.app.bundle import contents as packed
from edgellm.app.bundle.asked import BundleOptions, machines
from edgellm.app.bundle.create import PlannedBox, model_of, planned, require_libraries, stated_licences
from edgellm.bundle import licences, papers, serving
from edgellm.bundle.papers import PackedPart
from edgellm.bundle.wheels import Platform
from edgellm.bundle.writer import Content
from edgellm.contract.source import Progress
from edgellm.errors import UsageError
from edgellm.files import require_room, writing
from edgellm.formats.oci.layout import MANIFEST_TYPE, Descriptor, ImageManifest, ImagePlatform
from edgellm.image import base as bases
from edgellm.image import config, debian, environment, tar_layer
from edgellm.image.base import Base
from edgellm.image.environment import PREFIX
from edgellm.image.tar_layer import Link, OwnedFolder
from edgellm.image.writer import LayoutWriter, writing_layout
from edgellm.selection import decision_json
from edgellm.selection.fleet import Site
from edgellm.store.library import silent
from edgellm.types.plan import Candidate
from edgellm.version import __version__

_PAPERS = f"{PREFIX}/share"
_EPOCH = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What an image is asked for beside what a bundle is."""

    tag: str
    root: Path | None = None  # folder with a root; None = `debian`
    debian: str = ""  # suite that mmdebstrap makes a root of, as "trixie"
    mirror: str = ""  # "" = as mmdebstrap chooses
    root_licence: str = ""  # of what of the root states none
    force: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """What was written. `layers`: each with what it is, the lowest first."""

    row: Descriptor
    layers: tuple[tuple[Descriptor, str], ...]
    choice: Candidate
    serve: tuple[str, ...]


def write_image(
    machine: str, output: Path, options: BundleOptions, image: ImageOptions, progress: Progress = silent
) -> Image:
    """Write the image for the machine that `machine` names into the layout in `output`.

    Raises:
        UsageError, UnknownProfile, UnknownModel, NothingFits. SourceError: the model, or Debian's packages, cannot be
        fetched. ArtifactError, DiskFull.
    """
    _require_libraries()
    epoch, site = _epoch(), _site(machine, options)
    if (image.root is None) == (not image.debian):
        hint = "give --root FOLDER with a root that has python3, or --debian trixie"
        raise UsageError("an image needs one root to stand on", hint=hint, param="root")
    if not options.wheels:
        hint = "name the folder that `make wheels` wrote, with --wheels"
        raise UsageError("an image needs wheels of EdgeLLM", hint=hint, param="wheels")
    box = planned(site, options)
    platform = config.platform(box.site.machine.cpu.arch)
    with writing(output, param="output"), writing_layout(output, image.tag, force=image.force) as writer:
        progress(0, None, "packing the root")
        lowest = _base_layer(writer, box, image, epoch)
        base = bases.survey(writer.path(lowest))
        _require_same(box, base)
        # What checks signatures of bundles has nothing to check in a container.
        roots = packed.requirements(box.choice, base.glibc)
        wheels = packed.wheels_for(Platform(base.arch, base.python, base.glibc), roots, options.wheels)
        if options.licences:
            licences.require(stated_licences([box], [wheels]), options.licences)
        target, model = model_of(box, progress)
        beside = [packed.adapter(name, target, model.licence) for name in options.adapters]
        models = [_in_home(part) for part in (model, *beside)]
        n_bytes = _bytes(models) + 2 * sum(wheel.unpacked_bytes for wheel in wheels)
        require_room(output, n_bytes, "the image", hint="name a folder on another disk")
        with writer.staging() as staging:
            progress(0, None, "laying out EdgeLLM")
            libraries = environment.laid_out(wheels, base.python, staging)
            own = packed.own([environment.settings_file(base.python), *_plan_of(box)])
            system = debian.parts(base.files, base.texts, image.root_licence)
            sbom = papers.sbom(options.name or box.site.machine.id, __version__, [*system, *models, *libraries, *own])
            sbom = replace(sbom, path=f"{_PAPERS}/{sbom.path}")
            progress(0, None, "packing the layers")
            layers = (
                (lowest, f"{f'Debian {image.debian}' if image.debian else 'the root'}, Python {base.python}"),
                (_layer(writer, models), f"{target.id} {target.quant}"),
                (_layer(writer, libraries, own[:1], with_python=True), f"EdgeLLM {__version__}"),
                (_layer(writer, own[1:], [PackedPart("file", sbom.path, "", "", (sbom,))]), "plan, profile and SBOM"),
            )
        serve = serving.arguments(box.choice, options.adapters, thinking=box.site.request.thinking)
        row = _finish(writer, layers, platform, box, serve=serve, tag=image.tag, at=config.created(epoch))
    return Image(row, layers, box.choice, serve)


def _base_layer(writer: LayoutWriter, box: PlannedBox, image: ImageOptions, epoch: int | None) -> Descriptor:
    with writer.blob() as blob:
        if image.root is not None:
            bases.from_folder(blob, image.root, epoch)
        else:
            bases.by_mmdebstrap(blob, image.debian, box.site.machine.cpu.arch, image.mirror)
    return blob.descriptor(tar_layer.TYPE)


def _layer(writer: LayoutWriter, *groups: Sequence[PackedPart], with_python: bool = False) -> Descriptor:
    contents = [content for parts in groups for part in parts for content in part.files]
    more: list[Link | OwnedFolder] = []
    if with_python:
        more = [*environment.interpreter(), *(OwnedFolder(path, config.USER) for path in config.WRITTEN)]
    with writer.blob() as blob:
        tar_layer.write(blob, contents, more)
    return blob.descriptor(tar_layer.TYPE)


def _finish(
    writer: LayoutWriter,
    layers: Sequence[tuple[Descriptor, str]],
    platform: ImagePlatform,
    box: PlannedBox,
    *,
    serve: Sequence[str],
    tag: str,
    at: str,
) -> Descriptor:
    labels = {
        "org.opencontainers.image.title": f"EdgeLLM with {box.choice.model} {box.choice.quant}",
        "org.opencontainers.image.version": __version__,
        "edgellm.profile": box.site.machine.id,
        "edgellm.needed-bytes": str(box.choice.counted_bytes),
    }
    document = config.config(platform, layers, serve=serve, labels=labels, at=at)
    manifest = ImageManifest(
        schema_version=2, media_type=MANIFEST_TYPE, config=writer.put(document, config.TYPE),
        layers=tuple(layer for layer, _ in layers), annotations={**labels, "org.opencontainers.image.created": at},
    )  # fmt: skip
    return writer.finish(manifest, tag, platform=platform)


def _site(machine: str, options: BundleOptions) -> Site:
    """
    Raises:
        UsageError, UnknownProfile: no machine of that name, several, or one that images are not for.
    """
    fleet = machines(machine, options)
    if len(fleet.boxes) != 1:
        hint = "make one image for each, or a bundle for all: edgellm bundle create"
        raise UsageError(f"{machine} has {len(fleet.boxes)} boxes, and an image is for one", hint=hint, param="for")
    (site,) = fleet_file.sites(fleet, options.models_file)
    if site.machine.os != "linux":
        hint = "name the profile of a machine with Linux"
        raise UsageError(f"{site.name} runs {site.machine.os}, and images are for Linux", hint=hint, param="for")
    return site


def _require_same(box: PlannedBox, base: Base) -> None:
    arch = box.site.machine.cpu.arch
    if base.arch != arch:
        hint = "give a root for that processor"
        raise UsageError(f"the root is for {base.arch}, {box.site.name} is {arch}", hint=hint, param="root")


def _plan_of(box: PlannedBox) -> tuple[Content, Content]:
    plan = Content.of(f"{_PAPERS}/plan.json", decision_json.text(box.decision).encode())
    return plan, replace(packed.profile(box.context), path=f"{_PAPERS}/profile.toml")


def _in_home(part: PackedPart) -> PackedPart:
    """Files of the store, where the image has it."""
    files = tuple(replace(content, path=f"{config.HOME}/data/{content.path}") for content in part.files)
    return replace(part, files=files)


def _bytes(parts: Sequence[PackedPart]) -> int:
    return sum(content.n_bytes for part in parts for content in part.files)


def _epoch() -> int | None:
    """
    Raises:
        UsageError: the variable is no number.
    """
    text = os.environ.get(_EPOCH, "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 12):
        raise UsageError(f"{_EPOCH}={text!r} is no time", hint="seconds since 1970, as `date +%s` prints", param=_EPOCH)
    return int(text) if text else None


def _require_libraries() -> None:
    """
    Raises:
        UsageError: what makes images is not installed.
    """
    require_libraries()
    try:
        import installer  # noqa: F401
    except ImportError as error:
        message = f"images are made with {error.name}, which is not installed"
        raise UsageError(message, hint='pip install "edgellm[make-bundle]"') from None
