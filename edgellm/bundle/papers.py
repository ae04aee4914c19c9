"""Papers of a bundle: an SBOM in CycloneDX's form, in which every file has a licence and a hash, and texts of licences.

The library is in the extra `edgellm[make-bundle]`. Nothing of it depends on when or where it is made.
"""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from edgellm.bundle.wheels import Wheel, unpacked
from edgellm.bundle.writer import Content
from edgellm.errors import UsageError
from edgellm.files import safe_name

if TYPE_CHECKING:
    from cyclonedx.model import HashType
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

SBOM = "sbom.cdx.json"
FOLDER = "licences"
MAX_TEXT_BYTES = 1024**2
MAX_TEXTS_BYTES = 32 * 1024**2  # of one wheel, or of a Python, which are held together
_TEXTS = ("LICEN", "COPYING", "NOTICE", "AUTHORS")
_SHORT = 100  # characters; what is longer is the text of a licence and no name of one
_CLASSIFIER = "License :: OSI Approved :: "


@dataclass(frozen=True, slots=True)
class PackedPart:
    """A piece of software or a model, with the files in the bundle that are it."""

    kind: Literal["library", "model", "file", "debian", "system"]
    name: str
    version: str
    licence: str  # as it was stated: an SPDX expression or a name
    files: tuple[Content, ...]
    purl: str = ""  # "" = of a library, as the package index has it


def licence_of(wheel: Wheel) -> str:
    """
    Raises:
        UsageError: it states none.
    """
    metadata = wheel.metadata
    if expression := metadata.get("license_expression"):
        return expression
    classifiers = [c.removeprefix(_CLASSIFIER) for c in metadata.get("classifiers", ()) if c.startswith(_CLASSIFIER)]
    stated = metadata.get("license", "").strip()
    if stated and len(stated) <= _SHORT and "\n" not in stated:
        return stated
    if classifiers:
        return "; ".join(classifiers)
    if stated:
        return stated.splitlines()[0].strip()[:_SHORT]
    message = f"{wheel.path} does not say under which licence it is"
    raise UsageError(message, hint="use a release that does", param="wheels")


def texts_of(wheels: Iterable[Wheel]) -> list[tuple[Wheel, Content]]:
    """The texts of licences that wheels bring, each once."""
    return [(wheel, content) for wheel in wheels for content in _texts(wheel)]


def _texts(wheel: Wheel) -> list[Content]:
    folder = f"{FOLDER}/{safe_name(f'{wheel.name}-{wheel.version}')}"
    contents: dict[str, Content] = {}
    n_bytes = 0
    with unpacked(wheel.path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            path = PurePosixPath(member.filename)
            if not _is_text(path) or not 0 < member.file_size <= MAX_TEXT_BYTES:
                continue
            n_bytes += member.file_size
            if n_bytes > MAX_TEXTS_BYTES:
                raise zipfile.BadZipFile(f"its texts of licences have more than {MAX_TEXTS_BYTES:,} bytes")
            name = safe_name("-".join(path.parts[1:]).removeprefix("licenses-"))
            contents.setdefault(name.lower(), Content.of(f"{folder}/{name}", archive.read(member)))
    return list(contents.values())


def _is_text(path: PurePosixPath) -> bool:
    if len(path.parts) < 2 or not path.parts[0].endswith(".dist-info"):
        return False
    return path.parts[1] == "licenses" or path.name.upper().startswith(_TEXTS)


def sbom(name: str, release: int | str, parts: Sequence[PackedPart]) -> Content:
    """The SBOM of the bundle with these parts."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    digests = "".join(sorted(content.sha256 for part in parts for content in part.files))
    bom = Bom(
        components=map(_component, parts),
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {release} {digests}"),
    )
    bom.metadata.component = Component(
        type=ComponentType.APPLICATION, name=name, version=str(release), bom_ref="bundle"
    )
    bom.register_dependency(bom.metadata.component, bom.components)
    text = _undated(JsonV1Dot6(bom).output_as_string(indent=1))
    return Content.of(SBOM, text.encode() + b"\n")


def _undated(text: str) -> str:
    """Without the time: the same bundle is the same bytes whenever it is made."""
    import json

    document = json.loads(text)
    document["metadata"].pop("timestamp", None)
    return json.dumps(document, indent=1, sort_keys=True)


def _component(part: PackedPart) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    types = {
        "library": ComponentType.LIBRARY,
        "model": ComponentType.MACHINE_LEARNING_MODEL,
        "file": ComponentType.FILE,
        "debian": ComponentType.LIBRARY,
        "system": ComponentType.OPERATING_SYSTEM,
    }
    licence = LicenseFactory().make_from_string(part.licence)
    files = sorted(part.files, key=lambda content: content.path)
    is_one = len(files) == 1
    return Component(
        type=types[part.kind],
        name=part.name,
        version=part.version or None,
        bom_ref=f"{part.kind}:{part.name}:{part.version}:{files[0].path}",
        purl=_purl(part),
        licenses=[licence],
        hashes=[_hash(files[0])] if is_one else (),
        properties=[Property(name="edgellm:path", value=files[0].path)] if is_one else (),
        components=()
        if is_one
        else [
            Component(
                type=ComponentType.FILE,
                name=content.path,
                bom_ref=f"file:{content.path}",
                licenses=[LicenseFactory().make_from_string(part.licence)],
                hashes=[_hash(content)],
                properties=[Property(name="edgellm:path", value=content.path)],
            )
            for content in files
        ],
    )


def _purl(part: PackedPart) -> PackageURL | None:
    from packageurl import PackageURL

    if part.purl:
        return PackageURL.from_string(part.purl)
    return PackageURL("pypi", None, part.name, part.version) if part.kind == "library" else None


def _hash(content: Content) -> HashType:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=content.sha256)
